/* fuzz_packets.c -- any datagrams, in any order and at any times, through check and framer.
 *
 * Input: a byte of settings, then steps.  A step's first byte says what it is (two highest bits):
 * a datagram of any bytes, a packet like a board's, time that passes, or a jump of the board's
 * time and packet numbers.  Whatever comes, the books must balance and frames be well-formed.
 */
#include <string.h>

#include "check.h"
#include "framer.h"
#include "fuzz.h"

enum { MODULES = 2, DATAGRAM_MAX = 600 };

struct input {
	const uint8_t *at, *end;
};

struct frames {
	struct frame_info info;
	uint64_t recorded; /* packets in frames */
	uint8_t bytes[FRAME_MAX_BYTES];
	bool any;
};

struct run {
	struct module_table modules;
	struct account account;
	struct framer *framer;
	struct frames frames;
	uint64_t accepted, refused, clock_ns;
	uint64_t time_ns; /* of the boards */
	uint16_t number[MODULES * MODULE_QUABOS];
};

static unsigned take(struct input *input, unsigned n)
{
	unsigned value = 0;

	for (; n && input->at < input->end; n--)
		value = value << 8 | *input->at++;
	return value;
}

static void check_frame(const struct frames *frames)
{
	const struct frame_info *info = &frames->info;
	size_t header =
		info->product == PRODUCT_PH256 ? PFF_BOARD_HEADER_BYTES : PFF_MODULE_HEADER_BYTES;

	REQUIRE(!memcmp(frames->bytes, "{", 1));
	REQUIRE(!memcmp(frames->bytes + header - 4, "}\n\n*", 4));
	for (size_t k = 0; k < header; k++) /* text without surprises: nothing ran over */
		REQUIRE(frames->bytes[k] == '\n' ||
			(frames->bytes[k] >= ' ' && frames->bytes[k] < 0x7f));
}

static uint8_t *reserve(void *context, const struct frame_info *frame)
{
	struct frames *frames = context;

	if (frames->any)
		check_frame(frames);
	REQUIRE(frame->module < MODULES && frame->product < PRODUCT_COUNT);
	REQUIRE(frame->boards && frame->boards <= 0xf);
	frames->any = true;
	frames->info = *frame;
	frames->recorded += (unsigned)__builtin_popcount(frame->boards);
	memset(frames->bytes, 0, sizeof(frames->bytes));
	return frames->bytes;
}

static void receive(struct run *run, const uint8_t *payload, size_t length, uint32_t source)
{
	size_t there = length < PACKET_MAX_BYTES ? length : PACKET_MAX_BYTES;
	uint8_t *exact = malloc(there ? there : 1);
	struct packet_info info;

	memcpy(exact, payload, there);
	if (packet_check(exact, length, source, &run->modules, &info) == PACKET_OK) {
		REQUIRE(info.module < run->modules.count && info.quabo < MODULE_QUABOS);
		REQUIRE(info.time_ns < TAI_PERIOD_NS);
		REQUIRE(tai_time_ns(info.tai, packet_nsec(&info)) == info.time_ns);
		info.clock_ns = run->clock_ns;
		info.recv_ns = 1700000000000000000u + run->clock_ns;
		framer_packet(run->framer, &info, exact + PACKET_HEADER_BYTES);
		run->accepted++;
	} else {
		run->refused++;
	}
	free(exact);
}

static void any_datagram(struct run *run, struct input *input)
{
	uint8_t payload[DATAGRAM_MAX] = { 0 };
	size_t length = take(input, 2) % DATAGRAM_MAX;
	uint32_t source = take(input, 4);
	size_t there = (size_t)(input->end - input->at);

	memcpy(payload, input->at, there < length ? there : length);
	input->at += there < length ? there : length;
	receive(run, payload, length, source);
}

/* Nearly always good: number and time close to what the board sent before. */
static void like_a_board(struct run *run, struct input *input, unsigned step)
{
	static const uint8_t modes[8] = { 1, 2, 3, 6, 7, 1, 2, 0 };
	uint8_t payload[PACKET_MAX_BYTES];
	unsigned board = take(input, 1) % (MODULES * MODULE_QUABOS);
	int8_t number_step = (int8_t)take(input, 1), time_step = (int8_t)take(input, 1);
	uint16_t boardloc =
		(uint16_t)(run->modules.id[board / MODULE_QUABOS] * 4 + board % MODULE_QUABOS);
	uint64_t time_ns;
	size_t length;

	run->number[board] = (uint16_t)(run->number[board] + number_step);
	run->time_ns =
		(run->time_ns + TAI_PERIOD_NS + (uint64_t)(int64_t)time_step * 5) % TAI_PERIOD_NS;
	time_ns = run->time_ns;
	length = check_packet(payload, modes[step & 7], boardloc, run->number[board],
			      (uint16_t)(time_ns / 1000000000u), (uint32_t)(time_ns % 1000000000u),
			      (uint16_t)step);
	receive(run, payload, length, 0x0a000000u | boardloc);
}

static void obey(struct run *run, struct input *input)
{
	unsigned step = take(input, 1);

	switch (step >> 6) {
	case 0:
		any_datagram(run, input);
		break;
	case 1:
		like_a_board(run, input, step);
		break;
	case 2:
		run->clock_ns += take(input, 1) * 2000000ull;
		framer_expire(run->framer, run->clock_ns);
		break;
	default:
		run->time_ns = (run->time_ns + take(input, 3) * 65536ull) % TAI_PERIOD_NS;
		run->number[step % (MODULES * MODULE_QUABOS)] = (uint16_t)take(input, 2);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int ids[] = { 254, 0, -1 };
	static struct run run;
	struct input input = { data, data + size };
	uint64_t left = 0;

	memset(&run, 0, sizeof(run));
	check_modules(&run.modules, ids);
	REQUIRE(!account_init(&run.account, run.modules.count));
	run.clock_ns = 1000000000;
	run.framer =
		framer_new(&run.modules, take(&input, 1) & 1, &run.account, reserve, &run.frames);
	REQUIRE(run.framer);
	while (input.at < input.end)
		obey(&run, &input);
	framer_flush(run.framer);
	REQUIRE(!framer_is_waiting(run.framer));
	if (run.frames.any)
		check_frame(&run.frames);
	for (unsigned k = 0; k < run.account.streams; k++) {
		left += counted(&run.account.compute[k].duplicate) +
			counted(&run.account.compute[k].late);
		REQUIRE((int64_t)counted(&run.account.compute[k].lost) >= 0);
	}
	REQUIRE(run.accepted == run.frames.recorded + left);
	framer_free(run.framer);
	account_free(&run.account);
	return 0;
}
