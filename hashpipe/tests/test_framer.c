/* From packets to frames: golden frames and groupings, and everything that can go wrong with the
 * order of packets.  What counts is the set of frames after a flush, and their order in time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "account.h"
#include "assembly.h"
#include "check.h"

enum {
	MS = 1000000,
	START_TAI = 100,
};

static struct module_table modules;
static struct account account;
static struct framer *framer;
static struct check_frames frames;
static unsigned fed;
static uint64_t recv_ns;

static void begin(const int *ids, bool group_ph)
{
	check_modules(&modules, ids);
	account_init(&account, modules.count);
	framer = framer_new(&modules, group_ph, &account, check_reserve, &frames);
	if (!framer)
		abort();
	fed = 0;
	recv_ns = 1700000000ull * 1000000000u;
}

static void end(void)
{
	framer_free(framer);
	account_free(&account);
	check_frames_free(&frames);
}

static void feed(uint8_t mode, uint16_t boardloc, uint16_t number, uint16_t tai, uint32_t nsec,
		 uint16_t fill)
{
	uint8_t payload[PACKET_MAX_BYTES];
	size_t length = check_packet(payload, mode, boardloc, number, tai, nsec, fill);

	CHECK_EQUAL(check_feed(framer, &modules, payload, length, recv_ns), PACKET_OK);
	fed++;
}

/* A packet at a time on the board's clock, given in ns since START_TAI. */
static void feed_at(uint8_t mode, uint16_t boardloc, uint16_t number, uint64_t time_ns)
{
	feed(mode, boardloc, number, (uint16_t)((START_TAI + time_ns / 1000000000u) & 0x3ff),
	     (uint32_t)(time_ns % 1000000000u), (uint16_t)(number & 0xff));
}

static uint64_t sum_compute(size_t offset)
{
	uint64_t sum = 0;

	for (unsigned k = 0; k < account.streams; k++)
		sum += counted((const counter *)((const char *)&account.compute[k] + offset));
	return sum;
}

#define SUM(field) sum_compute(offsetof(struct compute_stream_account, field))

static unsigned packets_in_frames(void)
{
	unsigned n = 0;

	for (unsigned k = 0; k < frames.n; k++)
		n += (unsigned)__builtin_popcount(frames.frame[k].info.boards);
	return n;
}

/* Every packet is somewhere, once. */
static void check_balance(void)
{
	CHECK_EQUAL(packets_in_frames() + SUM(duplicate) + SUM(late), fed);
}

/* Packet number of a board in a frame's header; -1 if the board is absent. */
static long long number_in(const struct check_frame *frame, unsigned quabo)
{
	if (!(frame->info.boards >> quabo & 1))
		return -1;
	if (frame->info.product == PRODUCT_PH256)
		quabo = 0;
	return strtoll((const char *)frame->bytes + 29 + 122 * quabo, NULL, 10);
}

static unsigned header_bytes(unsigned product)
{
	return product == PRODUCT_PH256 ? PFF_BOARD_HEADER_BYTES : PFF_MODULE_HEADER_BYTES;
}

static unsigned pixel(const struct check_frame *frame, unsigned row, unsigned column)
{
	unsigned product = frame->info.product, side = product == PRODUCT_PH256 ? 16 : 32;
	unsigned bytes = product_facts[product].pixel_bytes;
	const uint8_t *at = frame->bytes + header_bytes(product) + (row * side + column) * bytes;

	return bytes == 1 ? at[0] : at[0] | (unsigned)at[1] << 8;
}

/* ---- golden ---- */

static enum product product_named(const char *name)
{
	for (unsigned k = 0; k < PRODUCT_COUNT; k++)
		if (!strcmp(product_facts[k].name, name))
			return (enum product)k;
	fprintf(stderr, "no product %s\n", name);
	exit(1);
}

/* The frame with this header text of this module, NULL if there is none. */
static const struct check_frame *find_frame(enum product product, unsigned module,
					    const uint8_t *text, size_t length)
{
	for (unsigned k = 0; k < frames.n; k++) {
		const struct check_frame *frame = &frames.frame[k];

		if (frame->info.product == product && modules.id[frame->info.module] == module &&
		    !memcmp(frame->bytes, text, length))
			return frame;
	}
	return NULL;
}

static void check_golden_bytes(const struct check_vectors *vectors, enum product product,
			       unsigned module)
{
	uint8_t text[PFF_MODULE_HEADER_BYTES], pixels[2 * MODULE_PIXELS];
	size_t length = check_hex(vectors, 1, text, sizeof(text));
	size_t n = check_hex(vectors, 2, pixels, sizeof(pixels));
	const struct check_frame *frame = find_frame(product, module, text, length);

	if (!CHECK(frame != NULL))
		return;
	CHECK_EQUAL(length + 3, header_bytes(product));
	CHECK_EQUAL(length + 3 + n, product_facts[product].frame_bytes);
	CHECK_BYTES(frame->bytes + length, "\n\n*", 3);
	CHECK_BYTES(frame->bytes + length + 3, pixels, n);
}

static void test_golden_frames(void)
{
	struct check_vectors vectors;
	enum product product = PRODUCT_COUNT;
	unsigned module = 0, cases = 0, wanted = 0;
	bool open = false, flushed = false;

	check_vectors_open(&vectors, "frames");
	for (;;) {
		bool more = check_vectors_line(&vectors);

		if (open && (!more || !strcmp(vectors.word[0], "case"))) {
			CHECK_EQUAL(frames.n, wanted);
			check_balance();
			end();
			open = false;
		}
		if (!more)
			break;
		if (!strcmp(vectors.word[0], "case")) {
			check_case("golden %s", vectors.word[1]);
			product = product_named(vectors.word[3]);
			module = (unsigned)check_number(&vectors, 4);
			begin((const int[]){ (int)module, -1 }, check_number(&vectors, 2));
			open = true;
			flushed = false;
			wanted = 0;
			cases++;
		} else if (!strcmp(vectors.word[0], "packet")) {
			uint8_t payload[PACKET_MAX_BYTES];
			size_t length = check_hex(&vectors, 1, payload, sizeof(payload));
			uint64_t at = (uint64_t)check_number(&vectors, 2) * 1000000000u +
				      (uint64_t)check_number(&vectors, 3) * 1000u;

			CHECK_EQUAL(check_feed(framer, &modules, payload, length, at), PACKET_OK);
			fed++;
		} else {
			if (!flushed)
				framer_flush(framer);
			flushed = true;
			wanted++;
			check_golden_bytes(&vectors, product, module);
		}
	}
	check_vectors_close(&vectors);
	CHECK(cases >= 4);
	check_case("%s", "");
}

/* Fill value seen at a board's place. */
static unsigned fill_of(const struct check_frame *frame, unsigned place)
{
	static const unsigned row[4] = { 0, 0, 16, 16 }, column[4] = { 0, 16, 16, 0 };

	return pixel(frame, row[place], column[place]);
}

static void check_golden_group(const struct check_vectors *vectors)
{
	uint8_t text[PFF_MODULE_HEADER_BYTES];
	size_t length = check_hex(vectors, 3, text, sizeof(text));
	const struct check_frame *frame = find_frame(
		product_named(vectors->word[1]), (unsigned)check_number(vectors, 2), text, length);

	if (!CHECK(frame != NULL))
		return;
	for (unsigned place = 0; place + 4 < vectors->n; place++)
		CHECK_EQUAL(fill_of(frame, place), check_number(vectors, 4 + place));
}

/* Frames of the golden groupings after the flush that the deployed pipeline lacks, and all packets
 * in them.  How many: what it wrote, and what it left in assembly. */
static void test_golden_groups(void)
{
	static const struct {
		const char *name;
		unsigned frames;
	} cases[] = { { "three_images_in_order", 3 },
		      { "spread_exactly_100ns", 3 },
		      { "interleaved_images", 3 },
		      { "board_missing_until_ring_full", 262 },
		      { "ph_grouped_25ns", 4 },
		      { "ph_ungrouped_keeps_every_packet", 3 },
		      { "two_modules_mixed_image_and_ph", 6 },
		      { "nsec_above_limit_is_clamped", 2 },
		      { "second_boundary_not_joined", 4 } };
	struct check_vectors vectors;
	unsigned n = 0;
	bool open = false, flushed = false;

	check_vectors_open(&vectors, "grouping");
	for (;;) {
		bool more = check_vectors_line(&vectors);

		if (open && (!more || strcmp(vectors.word[0], "packet")) && !flushed) {
			framer_flush(framer);
			flushed = true;
		}
		if (open && (!more || !strcmp(vectors.word[0], "case"))) {
			CHECK_EQUAL(frames.n, cases[n - 1].frames);
			CHECK_EQUAL(SUM(duplicate) + SUM(late), 0);
			check_balance();
			end();
			open = false;
		}
		if (!more)
			break;
		if (!strcmp(vectors.word[0], "case")) {
			check_case("golden %s", vectors.word[1]);
			if (!CHECK(n < sizeof(cases) / sizeof(*cases)))
				break;
			CHECK_TEXT(vectors.word[1], cases[n++].name);
			begin((const int[]){ 1, 254, -1 }, check_number(&vectors, 2));
			open = true;
			flushed = false;
		} else if (!strcmp(vectors.word[0], "packet")) {
			recv_ns = (uint64_t)check_number(&vectors, 7) * 1000000000u +
				  (uint64_t)check_number(&vectors, 8) * 1000u;
			feed((uint8_t)check_number(&vectors, 1),
			     (uint16_t)check_number(&vectors, 2),
			     (uint16_t)check_number(&vectors, 3),
			     (uint16_t)check_number(&vectors, 4),
			     (uint32_t)check_number(&vectors, 5),
			     (uint16_t)check_number(&vectors, 6));
		} else {
			check_golden_group(&vectors);
		}
	}
	check_vectors_close(&vectors);
	CHECK_EQUAL(n, sizeof(cases) / sizeof(*cases));
	check_case("%s", "");
}

/* ---- time ---- */

/* One module, four boards, frame k at time_ns[k]; whole frames in that order are wanted. */
static void check_whole_frames(const uint64_t *time_ns, unsigned n)
{
	begin((const int[]){ 5, -1 }, false);
	for (unsigned k = 0; k < n; k++) {
		recv_ns += MS;
		for (unsigned q = 0; q < 4; q++)
			feed_at(2, (uint16_t)(20 + q), (uint16_t)k, time_ns[k] + 20 * q);
	}
	framer_flush(framer);
	CHECK_EQUAL(frames.n, n);
	for (unsigned k = 0; k < frames.n; k++) {
		CHECK_EQUAL(frames.frame[k].info.boards, 0xf);
		for (unsigned q = 0; q < 4; q++)
			CHECK_EQUAL(number_in(&frames.frame[k], q), k);
	}
	check_balance();
	end();
}

static void test_seconds(void)
{
	static const uint64_t boundary[] = { 900 * MS, 999999960, 1000000960, 1100 * MS };
	static const uint64_t equal_ns[] = { 5 * MS, 1005 * MS, 2005 * MS, 3005ull * MS };
	static const uint64_t wrap[] = { 923ull * 1000 * MS + 999999970, 924ull * 1000 * MS + 5000,
					 924ull * 1000 * MS + 1 * MS };

	check_case("a frame across the second");
	check_whole_frames(boundary, 4);
	check_case("equal ns in different seconds");
	check_whole_frames(equal_ns, 4);
	check_case("TAI wraps from 1023 to 0");
	check_whole_frames(wrap, 3);
	check_case("%s", "");
}

/* A late pulse per second: one board counts on beyond 999999999, the others do not. */
static void test_late_pulse(void)
{
	begin((const int[]){ 5, -1 }, false);
	feed(2, 20, 0, 7, 1000000004, 1);
	feed(2, 21, 0, 8, 8, 2);
	feed(2, 22, 0, 8, 0, 3);
	feed(2, 23, 0, 7, 999999996, 4);
	framer_flush(framer);
	CHECK_EQUAL(frames.n, 1);
	CHECK_EQUAL(frames.frame[0].info.boards, 0xf);
	CHECK(strstr((char *)frames.frame[0].bytes, "\"pkt_tai\":    7, \"pkt_nsec\": 999999999") !=
	      NULL);
	end();
}

static void test_windows(void)
{
	for (int grouped_ph = 0; grouped_ph < 2; grouped_ph++) {
		unsigned window = grouped_ph ? 25 : 100;
		uint8_t mode = grouped_ph ? 1 : 2;

		check_case("window of %u ns", window);
		begin((const int[]){ 5, -1 }, true);
		feed_at(mode, 20, 0, 1000);
		feed_at(mode, 21, 0, 1000 + window);	 /* just in */
		feed_at(mode, 22, 0, 1000 + window + 1); /* just out: its own frame */
		feed_at(mode, 23, 0, 999);		 /* spread with 21 too large */
		framer_flush(framer);
		CHECK_EQUAL(frames.n, 3);
		check_balance();
		for (unsigned k = 0; k < frames.n; k++)
			CHECK_EQUAL(frames.frame[k].info.product,
				    grouped_ph ? PRODUCT_PH1024 : PRODUCT_IMG16);
		end();
	}
	check_case("%s", "");
}

/* ---- modules, modes ---- */

static void test_modes_apart(void)
{
	begin((const int[]){ 0, 5, 255, -1 }, false);
	for (unsigned k = 0; k < 40; k++) {
		recv_ns += MS;
		for (unsigned q = 0; q < 4; q++) {
			uint64_t time_ns = (k + 1ull) * MS + 8 * q;

			feed_at(2, (uint16_t)q, (uint16_t)k, time_ns);
			feed_at(7, (uint16_t)(1023 - q), (uint16_t)k, time_ns);
			feed_at(1, (uint16_t)(20 + q), (uint16_t)(900 + k), time_ns);
			feed_at(k < 20 ? 2 : 6, (uint16_t)(20 + q), (uint16_t)(k % 20), time_ns);
		}
	}
	framer_flush(framer);
	CHECK_EQUAL(SUM(lost) + SUM(late) + SUM(duplicate), 0);
	check_balance();
	CHECK_EQUAL(frames.n, 3 * 40 + 4 * 40);
	for (unsigned k = 0; k < frames.n; k++) {
		const struct check_frame *frame = &frames.frame[k];
		unsigned product = frame->info.product;

		if (product == PRODUCT_PH256) {
			CHECK_EQUAL(frame->info.module, 1);
			continue;
		}
		CHECK_EQUAL(frame->info.boards, 0xf);
		if (frame->info.module == 0)
			CHECK_EQUAL(product, PRODUCT_IMG16);
		if (frame->info.module == 2)
			CHECK_EQUAL(product, PRODUCT_IMG8);
	}
	CHECK_EQUAL(counted(&account.frames_complete[PRODUCT_IMG16]), 60);
	CHECK_EQUAL(counted(&account.frames_complete[PRODUCT_IMG8]), 60);
	CHECK_EQUAL(counted(&account.frames_complete[PRODUCT_PH256]), 160);
	end();
}

/* Equal times, one board in 8 bits: two frames, never one of mixed pixels. */
static void test_pixel_sizes_do_not_mix(void)
{
	begin((const int[]){ 5, -1 }, false);
	feed_at(2, 20, 0, 1000);
	feed_at(6, 21, 0, 1000);
	feed_at(2, 22, 0, 1000);
	framer_flush(framer);
	CHECK_EQUAL(frames.n, 2);
	CHECK_EQUAL(frames.frame[0].info.product + frames.frame[1].info.product,
		    PRODUCT_IMG16 + PRODUCT_IMG8);
	check_balance();
	end();
}

/* A board that is absent has zeros for numbers and pixels, also where another frame was before. */
static void test_absent_boards(void)
{
	begin((const int[]){ 5, -1 }, false);
	for (unsigned k = 0; k < 600; k++) {
		recv_ns += 300ull * MS;
		for (unsigned q = 0; q < 4; q++)
			if (k % 3 == 0 || q == k % 4)
				feed(2, (uint16_t)(20 + q), (uint16_t)k, 100, 1000 * k, 0xffff);
	}
	framer_flush(framer);
	CHECK_EQUAL(frames.n, 600);
	for (unsigned k = 0; k < frames.n; k++) {
		for (unsigned place = 0; place < 4; place++) {
			bool there = k % 3 == 0 || place == k % 4;
			const char *text = (const char *)frames.frame[k].bytes + 122 * place;

			CHECK_EQUAL(fill_of(&frames.frame[k], place), there ? 0xffff : 0);
			if (!there)
				CHECK(!memcmp(text + 91, "         0", 10));
		}
	}
	check_balance();
	end();
}

/* ---- waiting ---- */

/* A silent board does not hold frames back: they leave, partial, after a number of packets. */
static void test_silent_board(void)
{
	begin((const int[]){ 5, -1 }, false);
	for (unsigned k = 0; k < 200; k++) {
		recv_ns += MS / 100;
		for (unsigned q = 0; q < 3; q++)
			feed_at(2, (uint16_t)(20 + q), (uint16_t)k, (k + 1ull) * MS / 100);
	}
	CHECK_EQUAL(frames.n, 0); /* it might be on its way still */
	recv_ns += ASSEMBLY_TIMEOUT_NS;
	framer_expire(framer, recv_ns);
	CHECK_EQUAL(frames.n, 200);
	CHECK(!framer_is_waiting(framer));
	for (unsigned k = 0; k < 200; k++)
		CHECK_EQUAL(number_in(&frames.frame[k], 0), k);
	CHECK_EQUAL(counted(&account.frames_partial[PRODUCT_IMG16]), 200);
	check_balance();
	end();
}

/* A lost packet is noticed by those after it, long before the time-out. */
static void test_loss_is_noticed(void)
{
	unsigned left_after = 0;

	begin((const int[]){ 5, -1 }, false);
	for (unsigned k = 0; k < 100 && !left_after; k++) {
		recv_ns += MS;
		for (unsigned q = 0; q < 4; q++)
			if (k != 10 || q != 2)
				feed_at(2, (uint16_t)(20 + q), (uint16_t)k, (k + 1ull) * MS);
		if (frames.n > 10)
			left_after = k;
	}
	CHECK(left_after > 10 && left_after <= 11 + ASSEMBLY_PASSED);
	CHECK_EQUAL(frames.frame[10].info.boards, 0xb);
	CHECK_EQUAL(SUM(lost), 1);
	end();
}

/* One board's packets reach us `behind` frames after those of the others: all the time, or because
 * they are held up for once, until they come all together.  All frames are whole but one: number
 * `lost` lacks that board, which is noticed as soon as ever. */
static void test_board_behind(unsigned behind, bool always)
{
	enum { LOST = 10, AFTER = 200 };
	unsigned n = LOST + behind + AFTER, slow = behind % 4, next = 0, left_after = 0;

	check_case("a board %s %u frames behind", always ? "always" : "once", behind);
	begin((const int[]){ 5, -1 }, false);
	for (unsigned k = 0; k < n + behind; k++) {
		unsigned due = k + 1; /* of the slow board, so many have come */

		if (always)
			due = k < behind ? 0 : k - behind + 1;
		else if (k >= LOST && k < LOST + behind)
			due = LOST;

		recv_ns += 20000;
		for (unsigned q = 0; q < 4 && k < n; q++)
			if (q != slow)
				feed_at(6, (uint16_t)(20 + q), (uint16_t)k, 20000ull * k + q);
		for (; next < due && next < n; next++)
			if (next != LOST)
				feed_at(6, (uint16_t)(20 + slow), (uint16_t)next,
					20000ull * next + slow);
		if (!left_after && frames.n > LOST)
			left_after = k;
	}
	CHECK(left_after <= LOST + behind + ASSEMBLY_PASSED);
	framer_flush(framer);
	CHECK_EQUAL(SUM(late) + SUM(reordered), 0);
	CHECK_EQUAL(frames.n, n);
	for (unsigned k = 0; k < frames.n; k++) {
		CHECK_EQUAL(number_in(&frames.frame[k], (slow + 1) % 4), k);
		CHECK_EQUAL(number_in(&frames.frame[k], slow), k == LOST ? -1 : (long long)k);
	}
	check_balance();
	end();
	check_case("%s", "");
}

static void test_boards_behind(void)
{
	static const unsigned behind[] = {
		0, 1, 64, 65, 66, 67, 140, 255, 256, 1024, ASSEMBLY_IMAGES - 1
	};

	for (unsigned k = 0; k < sizeof(behind) / sizeof(*behind); k++) {
		test_board_behind(behind[k], true);
		test_board_behind(behind[k], false);
	}
}

static void test_duplicates_open_no_frame(void)
{
	begin((const int[]){ 5, -1 }, false);
	for (unsigned k = 0; k < 50; k++) {
		recv_ns += MS;
		for (unsigned q = 0; q < 4; q++)
			for (unsigned copy = 0; copy < 3; copy++)
				feed_at(2, (uint16_t)(20 + q), (uint16_t)k, (k + 1ull) * MS);
	}
	framer_flush(framer);
	/* Long after their frames have left. */
	for (unsigned k = 0; k < 50; k++)
		for (unsigned q = 0; q < 4; q++)
			feed_at(2, (uint16_t)(20 + q), (uint16_t)k, (k + 1ull) * MS);
	framer_flush(framer);
	CHECK_EQUAL(frames.n, 50);
	CHECK_EQUAL(SUM(duplicate), 600);
	CHECK_EQUAL(SUM(late), 0);
	check_balance();
	end();
}

/* A packet that comes after its frame has left is late: counted, not a frame of its own. */
static void test_late(void)
{
	begin((const int[]){ 5, -1 }, false);
	for (unsigned k = 0; k < 100; k++) {
		recv_ns += MS;
		for (unsigned q = 0; q < 4; q++)
			if (k != 10 || q != 2)
				feed_at(2, (uint16_t)(20 + q), (uint16_t)k, (k + 1ull) * MS);
	}
	feed_at(2, 22, 10, 11ull * MS);
	framer_flush(framer);
	CHECK_EQUAL(SUM(late), 1);
	CHECK_EQUAL(SUM(lost), 0);
	CHECK_EQUAL(frames.n, 100);
	check_balance();
	end();
}

/* Whatever comes, at most the frames wait for which there is room. */
static void test_bounded(void)
{
	uint64_t state = 5;
	unsigned looked_at = 0, left = 0; /* frames, and the packets in them */

	begin((const int[]){ 5, -1 }, true);
	for (unsigned k = 0; k < 20000; k++) {
		uint64_t chance = check_random(&state);

		feed(chance & 1 ? 2 : 1, (uint16_t)(20 + (chance >> 1 & 3)),
		     (uint16_t)(chance >> 8), (uint16_t)(chance >> 24 & 0x3ff),
		     (uint32_t)(chance >> 32), 1);
		for (; looked_at < frames.n; looked_at++)
			left += (unsigned)__builtin_popcount(frames.frame[looked_at].info.boards);
		CHECK(fed - left - SUM(duplicate) - SUM(late) <=
		      4 * (ASSEMBLY_IMAGES + ASSEMBLY_PULSES));
	}
	framer_flush(framer);
	check_balance();
	CHECK(!framer_is_waiting(framer));
	end();
}

/* Many packets in a row are missing: the pace of images tells how many, pulse heights have none. */
static void test_long_loss(void)
{
	begin((const int[]){ 7, -1 }, false);
	for (unsigned k = 0; k < 2000; k++) {
		unsigned number = k < 1000 ? k : k + 200000;

		recv_ns += k == 1000 ? 200001ull * MS : MS;
		feed_at(2, 28, (uint16_t)number, number * (uint64_t)MS);
		feed_at(1, 28, (uint16_t)number, number * (uint64_t)MS);
	}
	CHECK_EQUAL(counted(&account.compute[STREAM_IMAGE16].lost), 200000);
	CHECK_EQUAL(counted(&account.compute[STREAM_PH].lost), 200000 % 65536);
	CHECK_EQUAL(SUM(resets), 0);
	framer_flush(framer);
	check_balance();
	end();
}

/* The clock of the boards is set, or they are reset: recording goes on. */
static void test_reset_and_clock_step(void)
{
	begin((const int[]){ 5, -1 }, false);
	for (unsigned k = 0; k < 300; k++) {
		uint64_t step = k < 100 ? 0 : k < 200 ? 40000ull * MS : 3ull * MS;

		recv_ns += MS;
		for (unsigned q = 0; q < 4; q++)
			feed_at(2, (uint16_t)(20 + q), (uint16_t)(k < 100 ? k : k - 100),
				step + (k + 1ull) * MS);
	}
	framer_flush(framer);
	CHECK_EQUAL(frames.n, 300);
	for (unsigned k = 0; k < frames.n; k++)
		CHECK_EQUAL(frames.frame[k].info.boards, 0xf);
	check_balance();
	end();
}

/* White Rabbit is off: the seconds stay 0, the nanoseconds start again every second. */
static void test_no_seconds(void)
{
	begin((const int[]){ 5, -1 }, false);
	for (unsigned k = 0; k < 500; k++) {
		recv_ns += 10ull * MS;
		for (unsigned q = 0; q < 4; q++)
			feed(2, (uint16_t)(20 + q), (uint16_t)k, 0, 10u * MS * (k % 100) + 8 * q,
			     3);
	}
	framer_flush(framer);
	CHECK_EQUAL(frames.n, 500);
	CHECK_EQUAL(SUM(late) + SUM(duplicate) + SUM(lost), 0);
	check_balance();
	end();
}

/* The same, a board silent in the first second: a packet of the next second is not late for a
 * frame of the one before, although their times are equal. */
static void test_no_seconds_and_silence(void)
{
	begin((const int[]){ 5, -1 }, false);
	for (unsigned k = 0; k < 40; k++) {
		recv_ns += 100ull * MS;
		for (unsigned q = 3; q-- > 0;) /* the silent one comes first */
			if (q != 2 || k >= 10)
				feed(2, (uint16_t)(20 + q), (uint16_t)k, 0, 100u * MS * (k % 10),
				     3);
	}
	framer_flush(framer);
	CHECK_EQUAL(frames.n, 40);
	CHECK_EQUAL(SUM(late), 0);
	check_balance();
	end();
}

/* A whole frame that overtakes another waits for it: frames leave in the order of time. */
static void test_frames_overtake(void)
{
	static const unsigned order[] = { 0, 3, 2, 1, 4, 5 };

	begin((const int[]){ 5, -1 }, false);
	for (unsigned k = 0; k < 6; k++) {
		for (unsigned q = 0; q < 4; q++)
			feed_at(2, (uint16_t)(20 + q), (uint16_t)order[k], (order[k] + 1ull) * MS);
		/* The first frame of a stream has nothing to wait for. */
		CHECK_EQUAL(frames.n, k < 3 ? 1 : k + 1);
	}
	CHECK_EQUAL(SUM(late), 0);
	for (unsigned k = 0; k < frames.n; k++)
		CHECK_EQUAL(number_in(&frames.frame[k], 1), k);
	end();
}

/* The ring is full, and what has to leave is the neighbour in time of what comes. */
static void test_full_ring_and_its_neighbour(void)
{
	begin((const int[]){ 5, -1 }, false);
	feed_at(2, 20, 3000, 100ull * MS);
	for (unsigned k = 0; k < ASSEMBLY_IMAGES - 1; k++)
		feed_at(2, 20, (uint16_t)k, (k + 1ull) * MS / 25);
	CHECK_EQUAL(frames.n, 0);
	feed_at(2, 20, 2999, 99ull * MS);
	CHECK_EQUAL(frames.n, 1);
	CHECK_EQUAL(number_in(&frames.frame[0], 0), 3000);
	feed_at(2, 21, 2999, 99ull * MS);
	framer_flush(framer);
	CHECK_EQUAL(frames.n, ASSEMBLY_IMAGES + 1);
	for (unsigned k = 1; k < ASSEMBLY_IMAGES; k++)
		CHECK_EQUAL(number_in(&frames.frame[k], 0), k - 1);
	CHECK_EQUAL(number_in(&frames.frame[ASSEMBLY_IMAGES], 0), 2999);
	CHECK_EQUAL(frames.frame[ASSEMBLY_IMAGES].info.boards, 3);
	check_balance();
	end();
}

/* ---- everything at once ---- */

/* What is sent, and within how many ns the boards of a module are. */
struct acquisition {
	const char *name;
	uint8_t mode;
	bool group_ph;
	unsigned spread_ns;
};

static const struct acquisition acquisitions[] = {
	{ "img16", 2, false, 48 },
	{ "img8", 6, false, 48 },
	{ "ph1024", 1, true, 24 },
	{ "ph256", 1, false, 24 },
};

struct sent {
	unsigned key, copy;
	uint16_t boardloc, frame;
};

static int by_key(const void *a, const void *b)
{
	const struct sent *x = a, *y = b;

	return x->key != y->key ? (x->key < y->key ? -1 : 1) : (int)x->copy - (int)y->copy;
}

enum { FRAMES = 400, MODULES = 3 };

/* Frames of modules: in order of time, each of exactly the boards whose packets came. */
static void check_module_frames(uint8_t boards[MODULES][FRAMES])
{
	unsigned next[MODULES] = { 0 }, wanted = 0;

	for (unsigned k = 0; k < frames.n; k++) {
		unsigned module = frames.frame[k].info.module, frame;

		while (next[module] < FRAMES && !boards[module][next[module]])
			next[module]++;
		frame = next[module]++;
		if (!CHECK(frame < FRAMES) ||
		    !CHECK_EQUAL(frames.frame[k].info.boards, boards[module][frame]))
			break;
		for (unsigned q = 0; q < 4; q++)
			if (boards[module][frame] >> q & 1)
				CHECK_EQUAL(number_in(&frames.frame[k], q),
					    (uint16_t)(65000 + frame));
	}
	for (unsigned module = 0; module < MODULES; module++)
		for (unsigned frame = 0; frame < FRAMES; frame++)
			wanted += boards[module][frame] != 0;
	CHECK_EQUAL(frames.n, wanted);
}

/* Frames of single boards: each packet that came, once. */
static void check_board_frames(uint8_t boards[MODULES][FRAMES])
{
	for (unsigned k = 0; k < frames.n; k++) {
		const struct frame_info *info = &frames.frame[k].info;
		unsigned q = (unsigned)__builtin_ctz(info->boards);
		unsigned frame = (uint16_t)(number_in(&frames.frame[k], q) - 65000);

		CHECK_EQUAL(info->boards, 1u << q);
		if (CHECK(frame < FRAMES) && CHECK(boards[info->module][frame] >> q & 1))
			boards[info->module][frame] ^= (uint8_t)(1u << q);
	}
	for (unsigned module = 0; module < MODULES; module++)
		for (unsigned frame = 0; frame < FRAMES; frame++)
			CHECK_EQUAL(boards[module][frame], 0);
}

/* Streams of several modules, spoiled: the frames are exactly those that the packets which came
 * make, and every packet is accounted for. */
static void test_spoiled(const struct acquisition *acquisition, uint64_t seed)
{
	static struct sent sent[2 * FRAMES * MODULES * 4];
	static uint8_t boards[MODULES][FRAMES];
	enum product product = product_named(acquisition->name);
	unsigned loss, doubles, moved, n = 0, copies = 0;
	uint64_t state = seed, period_ns;

	check_case("%s, seed %u", acquisition->name, (unsigned)seed);
	begin((const int[]){ 0, 5, 255, -1 }, acquisition->group_ph);
	loss = (unsigned)(check_random(&state) % 60);
	doubles = (unsigned)(check_random(&state) % 40);
	moved = (unsigned)(check_random(&state) % 40);
	period_ns = check_random(&state) & 1 ? MS : 20000;
	memset(boards, 0, sizeof(boards));
	for (unsigned k = 0; k < FRAMES * MODULES * 4; k++) {
		unsigned frame = k / (MODULES * 4), board = k % (MODULES * 4);
		unsigned chance = (unsigned)(check_random(&state) % 1000);
		unsigned number = n;
		bool is_moved = check_random(&state) % 1000 < moved;

		if (chance < loss)
			continue;
		for (unsigned copy = 0; copy < (chance < loss + doubles ? 2u : 1u); copy++)
			sent[n++] = (struct sent){
				.key = 64 * k + (is_moved ? 64 * (unsigned)(check_random(&state) %
									    (64 * MODULES * 4))
							  : 0),
				.copy = copy,
				.boardloc = (uint16_t)(modules.id[board / 4] * 4 + board % 4),
				.frame = (uint16_t)frame
			};
		copies += n - number - 1;
		boards[board / 4][frame] |= (uint8_t)(1u << board % 4);
	}
	qsort(sent, n, sizeof(*sent), by_key);
	for (unsigned k = 0; k < n; k++) {
		recv_ns += period_ns / 12;
		feed_at(acquisition->mode, sent[k].boardloc, (uint16_t)(65000 + sent[k].frame),
			1023999ull * MS + sent[k].frame * period_ns +
				acquisition->spread_ns / 3 * (sent[k].boardloc & 3u));
		if (k % 1000 == 0)
			framer_expire(framer, recv_ns);
	}
	framer_flush(framer);
	check_balance();
	CHECK_EQUAL(SUM(duplicate), copies);
	CHECK_EQUAL(SUM(late), 0);
	for (unsigned k = 0; k < frames.n; k++)
		CHECK_EQUAL(frames.frame[k].info.product, product);
	if (product == PRODUCT_PH256)
		check_board_frames(boards);
	else
		check_module_frames(boards);
	end();
	check_case("%s", "");
}

/* Streams of which nothing is known: nothing lost, nothing twice, nothing wider than a window. */
static void test_wild(uint64_t seed)
{
	uint64_t state = seed;

	begin((const int[]){ 0, 5, -1 }, seed & 1);
	for (unsigned k = 0; k < 4000; k++) {
		static const uint8_t modes[] = { 1, 2, 3, 6, 7, 2, 2, 2 };
		uint64_t chance = check_random(&state);

		recv_ns += chance % 1000 == 0 ? 400ull * MS : chance >> 60 << 16;
		feed(modes[chance & 7], (uint16_t)((chance >> 3 & 1) * 20 + (chance >> 4 & 3)),
		     (uint16_t)(k / 8 + (chance >> 6 & 31)), (uint16_t)(chance >> 12 & 1),
		     (uint32_t)(k / 8 * 1000 + (chance >> 16 & 127)), 9);
	}
	framer_flush(framer);
	check_balance();
	for (unsigned k = 0; k < frames.n; k++) {
		const struct check_frame *frame = &frames.frame[k];
		long long least = -1, most = -1;

		for (unsigned q = 0; q < 4; q++) {
			const char *text = (const char *)frame->bytes + 122 * q;
			long long time_ns;

			if (frame->info.product == PRODUCT_PH256 || !(frame->info.boards >> q & 1))
				continue;
			time_ns = strtoll(text + 51, NULL, 10) * 1000000000ll +
				  strtoll(text + 70, NULL, 10);
			least = least < 0 || time_ns < least ? time_ns : least;
			most = time_ns > most ? time_ns : most;
		}
		CHECK(most - least <= (frame->info.product == PRODUCT_PH1024 ? 25 : 100));
	}
	end();
}

int main(void)
{
	const char *rounds = getenv("TEST_ROUNDS");
	unsigned n = rounds ? (unsigned)atoi(rounds) : 12;

	test_golden_frames();
	test_golden_groups();
	test_seconds();
	test_late_pulse();
	test_windows();
	test_modes_apart();
	test_pixel_sizes_do_not_mix();
	test_absent_boards();
	test_silent_board();
	test_loss_is_noticed();
	test_boards_behind();
	test_duplicates_open_no_frame();
	test_late();
	test_bounded();
	test_long_loss();
	test_reset_and_clock_step();
	test_no_seconds();
	test_no_seconds_and_silence();
	test_frames_overtake();
	test_full_ring_and_its_neighbour();
	for (unsigned seed = 1; seed <= n; seed++) {
		/* Pixels and window are all that differs: fewer seeds for all but the first. */
		for (unsigned k = 0; k < sizeof(acquisitions) / sizeof(*acquisitions); k++)
			if (k == 0 || seed % 4 == 1)
				test_spoiled(&acquisitions[k], seed);
		check_case("seed %u", seed);
		test_wild(seed);
	}
	return check_result();
}
