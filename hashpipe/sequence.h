/* sequence.h -- packet numbers of one board and mode: what was lost, doubled, out of order.
 *
 * Numbers count modulo 65536 and start again after a reset of the board.  Loss is what is
 * missing in the end: a gap counts its numbers as lost, and a packet that turns up later takes
 * its own number off again.  The packet's time settles what numbers alone cannot: the same number
 * and time is a double, an older number with an older time is out of order, an older number with
 * a newer time means that the board was reset.
 *
 * A long loss takes the numbers round once or more, or so far that they seem to be older.  Images
 * come at a steady pace, which is learnt from neighbours: when the numbers jump, the time since
 * the newest packet says how many were sent.  If that agrees with the jump, all of them are lost;
 * if not, the board was reset.  Pulse heights have no pace.  There a jump forward is a loss, but a
 * reset if it lands near 0; a jump back to a newer time is a reset; and from 65536 lost packets in
 * a row on, only the remainder is seen.
 */
#ifndef PANOSETI_SEQUENCE_H
#define PANOSETI_SEQUENCE_H

#include <stdbool.h>
#include <stdint.h>

enum {
	SEQUENCE_WINDOW = 1024,	   /* numbers remembered, a power of two */
	SEQUENCE_JUMP = 1024,	   /* numbers further apart than this make a jump */
	SEQUENCE_RESET_BELOW = 64, /* without a pace, a jump forward to below this is a reset */
};

enum sequence_verdict {
	SEQUENCE_FIRST,	    /* first packet seen, or first after a reset */
	SEQUENCE_NEXT,	    /* newer than all before, with or without a gap */
	SEQUENCE_REORDERED, /* older than the newest, not seen before */
	SEQUENCE_DUPLICATE, /* seen before */
};

struct sequence {
	uint64_t seen[SEQUENCE_WINDOW]; /* 0 or 1 << 63 | number << 40 | time */
	uint64_t newest_time_ns;
	uint64_t newest_clock_ns;
	uint64_t pace;	/* 1/4096 ns from number to number, 0: not known */
	bool is_random; /* set by the caller: packets have no pace */
	uint32_t span;	/* numbers from the first to the newest, saturating */
	uint16_t newest;
	bool started;
	uint64_t resets;
	uint64_t reordered;
	int64_t lost;
};

/* Notes a packet; all-zero is the state before the first.  time_ns as of tai_time_ns(); clock_ns
 * is when it was received, on a clock that is never set: it counts what the board's time does not
 * tell, multiples of 1024 s or, where no seconds are sent, of one. */
enum sequence_verdict sequence_note(struct sequence *sequence, uint16_t number, uint64_t time_ns,
				    uint64_t clock_ns);

/* Whether the packet of this number was seen, among the last SEQUENCE_WINDOW numbers. */
bool sequence_has(const struct sequence *sequence, uint16_t number);

#endif
