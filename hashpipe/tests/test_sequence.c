/* Packet numbers: gaps, wrap, duplicates, reordering, resets. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "sequence.h"

static struct sequence sequence;

/* The computer's clock is right to within a tenth of a second, and began at another time. */
static enum sequence_verdict note(unsigned number, uint64_t time_ns)
{
	static const uint64_t off_ns[] = { 0, 30000000, 100000000, 70000000 };

	return sequence_note(&sequence, (uint16_t)number, time_ns % TAI_PERIOD_NS,
			     time_ns + 77000000000u + off_ns[number % 4]);
}

static void clear(void)
{
	memset(&sequence, 0, sizeof(sequence));
}

/* Golden counts.  The deployed counter takes a double for -1 and a pair out of order for 65536;
 * here neither is a loss. */
static void test_golden(void)
{
	static struct sequence boards[2][8];
	struct check_vectors vectors;
	long long time_ns = 0;
	bool quirk = false;
	unsigned cases = 0;

	check_vectors_open(&vectors, "loss");
	while (check_vectors_line(&vectors)) {
		if (!strcmp(vectors.word[0], "case")) {
			check_case("golden %s", vectors.word[1]);
			quirk = !strcmp(vectors.word[1], "duplicate") ||
				!strcmp(vectors.word[1], "reordered");
			memset(boards, 0, sizeof(boards));
			cases++;
		} else if (!strcmp(vectors.word[0], "packet")) {
			long long number = check_number(&vectors, 3);

			/* As boards do it: time rises with the number, doubles are equal. */
			time_ns = quirk ? number * 1000 : time_ns + 1000;
			sequence_note(
				&boards[check_number(&vectors, 1) & 1][check_number(&vectors, 2)],
				(uint16_t)number, (uint64_t)time_ns, (uint64_t)time_ns);
		} else {
			long long lost = 0;

			for (unsigned k = 0; k < 16; k++)
				lost += boards[k / 8][k % 8].lost;
			CHECK_EQUAL(lost, quirk ? 0 : check_number(&vectors, 1));
		}
	}
	check_vectors_close(&vectors);
	CHECK_EQUAL(cases, 5);
	check_case("%s", "");
}

static void test_gap_and_late_arrival(void)
{
	clear();
	CHECK_EQUAL(note(10, 1000), SEQUENCE_FIRST);
	CHECK_EQUAL(note(11, 1100), SEQUENCE_NEXT);
	CHECK_EQUAL(note(15, 1500), SEQUENCE_NEXT);
	CHECK_EQUAL(sequence.lost, 3);
	CHECK(!sequence_has(&sequence, 13));
	CHECK_EQUAL(note(13, 1300), SEQUENCE_REORDERED); /* takes its own number off the loss */
	CHECK_EQUAL(sequence.lost, 2);
	CHECK(sequence_has(&sequence, 13));
	CHECK_EQUAL(note(13, 1300), SEQUENCE_DUPLICATE);
	CHECK_EQUAL(note(15, 1500), SEQUENCE_DUPLICATE);
	CHECK_EQUAL(note(10, 1000), SEQUENCE_DUPLICATE);
	CHECK_EQUAL(sequence.lost, 2);
	CHECK_EQUAL(sequence.reordered, 1);
	CHECK_EQUAL(sequence.resets, 0);
	/* One that was sent before the first we saw: never counted as lost. */
	CHECK_EQUAL(note(9, 900), SEQUENCE_REORDERED);
	CHECK_EQUAL(sequence.lost, 2);
}

static void test_wrap(void)
{
	clear();
	note(65530, 1000);
	for (unsigned k = 1; k < 200000; k++)
		CHECK_EQUAL(note((65530 + k) & 0xffff, 1000 + k * 1000), SEQUENCE_NEXT);
	CHECK_EQUAL(sequence.lost, 0);
	CHECK_EQUAL(sequence.resets, 0);
	clear();
	note(65534, 1000);
	note(2, 5000); /* 65535, 0, 1 are missing */
	CHECK_EQUAL(sequence.lost, 3);
	CHECK_EQUAL(note(0, 3000), SEQUENCE_REORDERED);
	CHECK_EQUAL(sequence.lost, 2);
}

static void test_reset(void)
{
	clear();
	for (unsigned k = 0; k < 5000; k++)
		note(k, k * 1000);
	CHECK_EQUAL(note(0, 6000000), SEQUENCE_FIRST); /* older number, newer time */
	CHECK_EQUAL(sequence.resets, 1);
	CHECK_EQUAL(note(1, 6001000), SEQUENCE_NEXT);
	CHECK_EQUAL(sequence.lost, 0);
	CHECK_EQUAL(note(1, 6001000), SEQUENCE_DUPLICATE);
	/* Soon after a reset the same numbers come again at other times: no doubles. */
	CHECK_EQUAL(note(0, 7000000), SEQUENCE_FIRST);
	CHECK_EQUAL(note(1, 7001000), SEQUENCE_NEXT);
	CHECK_EQUAL(sequence.resets, 2);
	CHECK_EQUAL(sequence.reordered, 0);
	CHECK(!sequence_has(&sequence, 4999));
	/* What was seen before a reset says nothing of what comes after it. */
	CHECK_EQUAL(note(3, 7003000), SEQUENCE_NEXT);
	CHECK_EQUAL(note(2, 7002000), SEQUENCE_REORDERED);
	CHECK_EQUAL(sequence.resets, 2);
	/* A reset that looks like a big jump forward. */
	clear();
	note(60000, 1000);
	CHECK_EQUAL(note(3, 2000), SEQUENCE_FIRST);
	CHECK_EQUAL(sequence.resets, 1);
	CHECK_EQUAL(sequence.lost, 0);
}

static void test_long_silence(void)
{
	clear();
	note(100, 1000);
	CHECK_EQUAL(note(30100, 30001000), SEQUENCE_NEXT);
	CHECK_EQUAL(sequence.lost, 29999);
}

/* A stream of images from its packet `from` on, `n` of them, its numbers begun `shift` later. */
static void stream(unsigned from, unsigned n, uint64_t pace_ns, bool seconds_are_sent,
		   unsigned shift)
{
	for (unsigned k = from; k < from + n; k++) {
		uint64_t time_ns = 1019000000000u + k * pace_ns + k * 7 % 5; /* not quite even */
		uint64_t clock_ns = time_ns + 60000000 * (k % 2); /* nor is the computer at once */
		uint64_t sent_ns = time_ns % (seconds_are_sent ? TAI_PERIOD_NS : 1000000000u);

		sequence_note(&sequence, (uint16_t)(k - shift), sent_ns, clock_ns);
	}
}

/* Any number of images lost in a row is counted to the packet, at any pace, whether boards send
 * seconds or not and however long it lasts; a reset at any time is none. */
static void test_long_loss(void)
{
	static const unsigned missing[] = { 1,	   1000,  1500,	  30000,  32767,
					    32768, 40000, 65530,  65535,  65536,
					    65540, 70000, 131072, 200000, 500000 };
	static const uint64_t pace_ns[] = { 20000, 1000000, 10000000 };

	for (unsigned k = 0; k < sizeof(missing) / sizeof(*missing) * 6; k++) {
		unsigned n = missing[k / 6];
		uint64_t pace = pace_ns[k % 6 / 2];

		check_case("%u missing, %llu ns apart, seconds %u", n, (unsigned long long)pace,
			   k % 2);
		clear();
		stream(0, 2000, pace, k % 2, 0);
		stream(2000 + n, 2000, pace, k % 2, 0);
		CHECK_EQUAL(sequence.lost, n);
		CHECK_EQUAL(sequence.resets, 0);
		CHECK_EQUAL(sequence.reordered, 0);
		/* Reset meanwhile: of all those sent before it nobody knows. */
		stream(4000 + n + 777, 2000, pace, k % 2, 4000 + n + 777 - 3);
		CHECK_EQUAL(sequence.lost, n);
		CHECK_EQUAL(sequence.resets, 1);
		/* Nor is anything lost when a board pauses: its numbers go on. */
		sequence_note(&sequence, 2003, 3, sequence.newest_clock_ns + 100000 * pace);
		CHECK_EQUAL(sequence.lost, n);
	}
	check_case("%s", "");
}

/* However long nothing came, the numbers of a board that was reset meanwhile fit by chance alone,
 * once or twice in a hundred.  And of what is lost for up to an hour, no packet is forgotten. */
static void test_long_silence_of_images(void)
{
	static const unsigned silence_s[] = { 10, 200, 2700, 5000 };
	static const uint64_t pace_ns[] = { 20000, 100000, 1000000 };
	enum { TIMES = 1000 };

	for (unsigned k = 0; k < sizeof(silence_s) / sizeof(*silence_s) * 6; k++) {
		uint64_t pace = pace_ns[k / 2 % 3];
		unsigned n = (unsigned)(silence_s[k / 6] * 1000000000ull / pace), mistaken = 0;

		check_case("%u s of silence, %llu ns apart, seconds %u", silence_s[k / 6],
			   (unsigned long long)pace, k % 2);
		clear();
		stream(0, 2000, pace, k % 2, 0);
		stream(2000 + n, 100, pace, k % 2, 0);
		if (silence_s[k / 6] < 3600) {
			CHECK_EQUAL(sequence.lost, n);
			CHECK_EQUAL(sequence.resets, 0);
		}
		for (unsigned j = 0; j < TIMES; j++) {
			unsigned from = 2000 + n + j * 389; /* so that all numbers have a turn */

			clear();
			stream(0, 200, pace, k % 2, 0);
			stream(from, 1, pace, k % 2, from);
			mistaken += !sequence.resets;
		}
		CHECK(mistaken <= TIMES / 40);
	}
	check_case("%s", "");
}

/* Images as they come `speed` percent as fast as they are sent, late ones among them. */
static void replay(unsigned from, unsigned n, uint64_t start_ns, uint64_t pace_ns, unsigned speed,
		   unsigned shift)
{
	for (unsigned k = from; k < from + n; k++) {
		unsigned sent = k > from + 10 && k % 100 < 2 ? k ^ 1 : k;
		uint64_t time_ns = start_ns + sent * pace_ns;

		sequence_note(&sequence, (uint16_t)(sent - shift), time_ns % TAI_PERIOD_NS,
			      5000000000u + k * pace_ns / speed * 100);
	}
}

/* The board's seconds tell how much is lost, however fast or slow the stream is received, and
 * whether or not they begin anew meanwhile. */
static void test_long_loss_at_any_speed(void)
{
	static const unsigned missing[] = { 1100,  8541,  30000, 32767, 32768,
					    40000, 65535, 65540, 70000, 200000 };
	static const unsigned speeds[] = { 1, 20, 90, 103, 370, 2000, 100000 };
	static const uint64_t start_ns[] = { 5000000000u, 1023900000000u };
	enum { PACE_NS = 10000, N = 4000 };

	for (unsigned k = 0; k < sizeof(missing) / sizeof(*missing) * 14; k++) {
		unsigned n = missing[k / 14], speed = speeds[k % 7];
		uint64_t start = start_ns[k / 7 % 2];

		check_case("%u missing, begun at %llu ns, at %u %%", n, (unsigned long long)start,
			   speed);
		clear();
		replay(0, N, start, PACE_NS, speed, 0);
		CHECK_EQUAL(sequence.reordered, N / 100 - 1);
		replay(N + n, N, start, PACE_NS, speed, 0);
		CHECK_EQUAL(sequence.lost, n);
		CHECK_EQUAL(sequence.resets, 0);
		replay(2 * N + n + 777, N, start, PACE_NS, speed, 2 * N + n + 777 - 3);
		CHECK_EQUAL(sequence.lost, n);
		CHECK_EQUAL(sequence.resets, 1);
	}
	check_case("%s", "");
}

/* A board that was reset has no seconds until White Rabbit has set its clock: that is not earlier.
 */
static void test_reset_to_no_seconds(void)
{
	clear();
	stream(0, 2000, 1000000, true, 0);
	sequence_note(&sequence, 0, 300000000, sequence.newest_clock_ns + 6000000000u);
	CHECK_EQUAL(sequence.resets, 1);
	CHECK_EQUAL(sequence.reordered, 0);
	CHECK_EQUAL(sequence.lost, 0);
}

/* Pulses come at random: what their numbers tell is all there is. */
static void test_long_loss_of_pulses(void)
{
	clear();
	sequence.is_random = true;
	stream(0, 2000, 1000000, true, 0);
	stream(2000 + 30000, 10, 1000000, true, 0);
	CHECK_EQUAL(sequence.lost, 30000);
	stream(2000 + 30010 + 40000, 10, 1000000, true, 0);
	CHECK_EQUAL(sequence.lost, 30000);
	CHECK_EQUAL(sequence.resets, 1);
}

/* Whatever a stream goes through, loss is what never came, doubles are what came twice. */
static void test_random_streams(void)
{
	enum { SENT = 3000, DEPTH = 64 };
	static unsigned order[2 * SENT], key[2 * SENT];

	for (uint64_t seed = 1; seed <= 60; seed++) {
		uint64_t state = seed;
		unsigned n = 0, doubles = 0, dropped = 0, first = ~0u, last = 0, seen = 0;
		unsigned start = (unsigned)(check_random(&state) & 0xffff);

		check_case("seed %llu", (unsigned long long)seed);
		clear();
		for (unsigned k = 0; k < SENT; k++) {
			unsigned chance = (unsigned)(check_random(&state) % 1000);

			if (chance < 20 && k) {
				dropped++;
				continue;
			}
			for (unsigned copy = 0; copy < (chance < 50 ? 2u : 1u); copy++, n++) {
				bool moved = check_random(&state) % 100 < 3;

				order[n] = k;
				key[n] = k +
					 (moved ? 1 + (unsigned)(check_random(&state) % DEPTH) : 0);
				doubles += copy;
			}
			first = first < k ? first : k;
			last = k;
		}
		for (unsigned k = 1; k < n; k++) /* insertion sort by key, stable */
			for (unsigned j = k; j && key[j - 1] > key[j]; j--) {
				unsigned a = key[j], b = order[j];

				key[j] = key[j - 1], order[j] = order[j - 1];
				key[j - 1] = a, order[j - 1] = b;
			}
		for (unsigned k = 0; k < n; k++)
			seen += note((start + order[k]) & 0xffff, 1000000 + order[k] * 100ull) ==
				SEQUENCE_DUPLICATE;
		CHECK_EQUAL(seen, doubles);
		CHECK_EQUAL(sequence.resets, 0);
		/* Numbers before the first that came, or after the last, are nobody's loss. */
		CHECK(sequence.lost <= dropped);
		CHECK(sequence.lost >= (long long)dropped - (long long)(SENT - 1 - last) -
					       (order[0] ? order[0] : 0));
	}
	check_case("%s", "");
}

int main(void)
{
	test_golden();
	test_gap_and_late_arrival();
	test_wrap();
	test_reset();
	test_long_silence();
	test_long_loss();
	test_long_silence_of_images();
	test_long_loss_at_any_speed();
	test_reset_to_no_seconds();
	test_long_loss_of_pulses();
	test_random_streams();
	return check_result();
}
