/* When packets came, on a clock that is never set, though their time stamps are of one that is. */
#include <stdlib.h>
#include <string.h>

#include "account.h"
#include "capture.h"
#include "check.h"
#include "sequence.h"

#define SECOND_NS 1000000000ll
#define BEGIN_NS (1000 * SECOND_NS)	   /* CLOCK_MONOTONIC at the first packet, */
#define UNIX_NS (1700000000ll * SECOND_NS) /* ... and by how much Unix time is ahead of it */
#define BOARD_NS (500 * SECOND_NS)

enum {
	ROUND_NS = 20000000, /* what came in this time is taken together */
	ROUNDS = 12,
	SET_NS = ROUND_NS * 8 + ROUND_NS / 2, /* the clock is set in the middle of a round */
};

static struct module_table modules;
static struct account account;
static struct journal journal;
static struct sequence sequence;
static uint64_t furthest_ns; /* from when a packet came to when it seems to have come */

static uint64_t gap_ns(void)
{
	return counted(&account.net[stream_index(0, 0, STREAM_IMAGE16)].gap_ns);
}

/* Image `k`, which came at `came_ns`, with its stamp of Unix time. */
static void take_image(struct capture *capture, unsigned k, int64_t came_ns, int64_t stamp_ns,
		       int64_t pace_ns, bool seconds_are_sent)
{
	int64_t sent_ns = BOARD_NS + k * pace_ns, off_ns;
	uint8_t payload[PACKET_MAX_BYTES];
	struct packet_info info;
	size_t length = check_packet(payload, 2, 1016, (uint16_t)k,
				     seconds_are_sent ? (uint16_t)(sent_ns / SECOND_NS) : 0,
				     (uint32_t)(sent_ns % SECOND_NS), 0);

	CHECK(capture_judge(capture, payload, length, 1016, (uint64_t)stamp_ns, &info));
	CHECK_EQUAL(info.recv_ns, stamp_ns);
	sequence_note(&sequence, info.number, info.time_ns, info.clock_ns);
	off_ns = (int64_t)info.clock_ns - came_ns;
	off_ns = off_ns < 0 ? -off_ns : off_ns;
	if ((uint64_t)off_ns > furthest_ns)
		furthest_ns = (uint64_t)off_ns;
}

/* Images while the clock is set by `step_ns`.  They are taken `waited_ns` after they came; if it is
 * set after the clocks were read (`unseen`), that round does not know of it. */
static void take_images(int64_t pace_ns, int64_t step_ns, int64_t waited_ns, bool unseen,
			bool seconds_are_sent)
{
	struct capture capture = { .modules = &modules, .account = &account, .journal = &journal };
	unsigned k = 0;

	memset(&sequence, 0, sizeof(sequence));
	account_init(&account, modules.count);
	furthest_ns = 0;
	for (int64_t round = 1; round <= ROUNDS; round++) {
		int64_t read_ns = round * ROUND_NS + waited_ns;
		int64_t known_ns = read_ns - (unseen ? ROUND_NS : 0);

		capture_set_clocks(&capture,
				   (uint64_t)(BEGIN_NS + UNIX_NS + read_ns +
					      (known_ns > SET_NS ? step_ns : 0)),
				   (uint64_t)(BEGIN_NS + read_ns));
		for (; k * pace_ns < round * ROUND_NS; k++) {
			int64_t came_ns = BEGIN_NS + k * pace_ns;
			int64_t set_ns = k * pace_ns > SET_NS ? step_ns : 0;

			take_image(&capture, k, came_ns, came_ns + UNIX_NS + set_ns, pace_ns,
				   seconds_are_sent);
		}
	}
}

/* Whichever way the clock is set: nothing is lost, and nothing came much sooner or later. */
static void test_clock_is_set(void)
{
	static const int step_s[] = { 3600, 8000, 1800, 61, 4 };
	static const int64_t pace_ns[] = { 20000, 100000, 1000000 };
	static const int64_t waited_ns[] = { 0, 100000000 };

	for (unsigned k = 0; k < sizeof(step_s) / sizeof(*step_s) * 3 * 16; k++) {
		int64_t pace = pace_ns[k / 16 % 3], waited = waited_ns[k / 4 % 2];
		int64_t step = step_s[k / 48] * SECOND_NS * (k / 8 % 2 ? -1 : 1);
		bool unseen = k / 2 % 2, seconds_are_sent = k % 2;

		check_case("set by %lld s, %lld us apart, waited %lld ms, unseen %u, seconds %u",
			   (long long)(step / SECOND_NS), (long long)(pace / 1000),
			   (long long)(waited / 1000000), unseen, seconds_are_sent);
		take_images(pace, step, waited, unseen, seconds_are_sent);
		CHECK_EQUAL(sequence.lost, 0);
		CHECK_EQUAL(sequence.resets, 0);
		/* What came while it was set is dated when it was taken. */
		CHECK(furthest_ns <= (unseen ? (uint64_t)waited + ROUND_NS : 0));
		CHECK(gap_ns() <= (uint64_t)pace + (unseen ? (uint64_t)waited + ROUND_NS : 0));
		account_free(&account);
	}
	check_case("%s", "");
}

/* A clock that runs wrong, or is set by little, is followed. */
static void test_clock_is_set_by_little(void)
{
	for (int sign = -1; sign <= 1; sign += 2) {
		take_images(1000000, sign * 50000000ll, 0, false, true);
		CHECK(furthest_ns <= 50000000);
		CHECK_EQUAL(sequence.lost, 0);
		account_free(&account);
	}
}

int main(void)
{
	check_modules(&modules, (const int[]){ 254, -1 });
	journal_init(&journal);
	test_clock_is_set();
	test_clock_is_set_by_little();
	return check_result();
}
