/* sequence.c -- see sequence.h */
#include "sequence.h"

#include <string.h>

#include "packet.h"

enum {
	ROUND = 65536, /* numbers until they begin again */
	HALF_ROUND = ROUND / 2,
	PACE_UNIT = 4096, /* of struct sequence's pace: so many to a nanosecond */
	PACE_MEAN = 64,	  /* it is the mean of so many */
	/* Time and number agree when they differ by no more steps than FIT_STEPS and one in
	 * FIT_PART, but at most FIT_MOST: a reset is then taken for a loss once in some thousands,
	 * and once or twice in a hundred after a long silence. */
	FIT_STEPS = 8,
	FIT_PART = 65536,
	FIT_MOST = 256,
};

#define SECOND_NS 1000000000ll
#define LATE_NS (10 * SECOND_NS)	 /* more than a packet is ever behind others */
#define LONGEST_NS (1000000 * SECOND_NS) /* more than a run */

/* Board times stay below 2^40 ns (1024 s = 1.02e12 ns; 2^40 = 1.1e12). */
static uint64_t mark(uint16_t number, uint64_t time_ns)
{
	return 1ull << 63 | (uint64_t)number << 40 | time_ns;
}

static uint64_t *slot(struct sequence *sequence, uint16_t number)
{
	return &sequence->seen[number % SEQUENCE_WINDOW];
}

bool sequence_has(const struct sequence *sequence, uint16_t number)
{
	uint64_t seen = sequence->seen[number % SEQUENCE_WINDOW];

	return seen >> 63 && (uint16_t)(seen >> 40) == number;
}

static enum sequence_verdict begin(struct sequence *sequence, uint16_t number, uint64_t time_ns,
				   uint64_t clock_ns)
{
	memset(sequence->seen, 0, sizeof(sequence->seen));
	*slot(sequence, number) = mark(number, time_ns);
	sequence->newest = number;
	sequence->newest_time_ns = time_ns;
	sequence->newest_clock_ns = clock_ns;
	sequence->span = 0;
	return SEQUENCE_FIRST;
}

static enum sequence_verdict reset(struct sequence *sequence, uint16_t number, uint64_t time_ns,
				   uint64_t clock_ns)
{
	sequence->resets++;
	return begin(sequence, number, time_ns, clock_ns);
}

/* Whether both packets carry TAI seconds.  Without White Rabbit they are 0; a nanosecond field may
 * exceed a second a little. */
static bool carry_seconds(uint64_t a_ns, uint64_t b_ns)
{
	return a_ns >= 2 * SECOND_NS && b_ns >= 2 * SECOND_NS;
}

/* Time from the newest packet to this one, negative if it is older.  The board's clock tells it but
 * for multiples of `period_ns`, ours how many of these: we receive it sooner or later than it was
 * sent, so the longer the period, the less that matters. */
static int64_t since_newest_ns(const struct sequence *sequence, uint64_t time_ns, uint64_t clock_ns,
			       int64_t period_ns)
{
	int64_t by_clock_ns = (int64_t)(clock_ns - sequence->newest_clock_ns);
	int64_t beyond_ns;

	if (by_clock_ns > LONGEST_NS || by_clock_ns < -LONGEST_NS)
		return by_clock_ns;
	beyond_ns =
		(tai_difference_ns(time_ns, sequence->newest_time_ns) - by_clock_ns) % period_ns;
	if (beyond_ns > period_ns / 2)
		beyond_ns -= period_ns;
	else if (beyond_ns < -period_ns / 2)
		beyond_ns += period_ns;
	return by_clock_ns + beyond_ns;
}

/* Two neighbours are `apart_ns` apart.  Their mean, so that a long time is divided by it exactly;
 * begun anew when the board has been told another pace. */
static void learn_pace(struct sequence *sequence, int64_t apart_ns)
{
	uint64_t apart = (uint64_t)apart_ns * PACE_UNIT, difference;

	if (apart_ns <= 0 || apart_ns > SECOND_NS || sequence->is_random)
		return; /* the clock was set, or no seconds are sent and a new one has begun */
	difference = apart > sequence->pace ? apart - sequence->pace : sequence->pace - apart;
	if (difference > sequence->pace / 8)
		sequence->pace = apart;
	else
		sequence->pace += apart / PACE_MEAN - sequence->pace / PACE_MEAN;
}

/* `steps` numbers newer than the newest; those in between are lost, so far. */
static enum sequence_verdict advance(struct sequence *sequence, uint16_t number, uint64_t steps,
				     uint64_t time_ns, uint64_t clock_ns)
{
	if (steps == 1)
		learn_pace(sequence, tai_difference_ns(time_ns, sequence->newest_time_ns));
	else if (steps > HALF_ROUND) /* the numbers have come round: what was seen is of old */
		memset(sequence->seen, 0, sizeof(sequence->seen));
	*slot(sequence, number) = mark(number, time_ns);
	sequence->newest = number;
	sequence->newest_time_ns = time_ns;
	sequence->newest_clock_ns = clock_ns;
	sequence->span =
		sequence->span + steps < HALF_ROUND ? sequence->span + (uint32_t)steps : HALF_ROUND;
	sequence->lost += (int64_t)(steps - 1);
	return SEQUENCE_NEXT;
}

/* So long after the newest packet that its number alone does not tell how many were sent. */
static bool is_long_after(const struct sequence *sequence, uint64_t time_ns, uint64_t clock_ns)
{
	int64_t by_clock_ns = (int64_t)(clock_ns - sequence->newest_clock_ns);
	int64_t by_board_ns = tai_difference_ns(time_ns, sequence->newest_time_ns);
	int64_t elapsed_ns = by_clock_ns > by_board_ns ? by_clock_ns : by_board_ns;

	return sequence->pace && elapsed_ns > 0 &&
	       (uint64_t)elapsed_ns > sequence->pace / PACE_UNIT * (HALF_ROUND / 2);
}

/* How many numbers were sent in this time, the last of them `ahead` of the newest modulo a round; 0
 * if time and number do not agree. */
static uint64_t steps_in(const struct sequence *sequence, uint16_t ahead, int64_t elapsed_ns)
{
	uint64_t expected, steps = ahead, error, most = FIT_STEPS;

	if (elapsed_ns <= 0 || elapsed_ns > LONGEST_NS)
		return 0;
	expected = ((uint64_t)elapsed_ns * PACE_UNIT + sequence->pace / 2) / sequence->pace;
	if (expected > ahead)
		steps += (expected - ahead + HALF_ROUND) / ROUND * ROUND;
	error = steps > expected ? steps - expected : expected - steps;
	most += expected / FIT_PART < FIT_MOST ? expected / FIT_PART : FIT_MOST;
	return error <= most ? steps : 0;
}

/* The same for a packet.  Where seconds are carried, the board's time says it, however fast the
 * stream is received: a replay, a backlog.  Where they are not, or begin anew, our clock counts
 * them; if that does not agree, they may be carried all the same. */
static uint64_t steps_by_time(const struct sequence *sequence, uint16_t ahead, uint64_t time_ns,
			      uint64_t clock_ns)
{
	uint64_t steps = 0;

	if (!carry_seconds(time_ns, sequence->newest_time_ns))
		steps = steps_in(sequence, ahead,
				 since_newest_ns(sequence, time_ns, clock_ns, SECOND_NS));
	if (!steps)
		steps = steps_in(
			sequence, ahead,
			since_newest_ns(sequence, time_ns, clock_ns, (int64_t)TAI_PERIOD_NS));
	return steps;
}

/* Whether a packet whose number is older was sent later.  Our clock counts the seconds, since the
 * board's may have been set by a reset, unless they show that the packet is a little older. */
static bool is_newer(const struct sequence *sequence, uint64_t time_ns, uint64_t clock_ns)
{
	int64_t by_board_ns = tai_difference_ns(time_ns, sequence->newest_time_ns);

	if (carry_seconds(time_ns, sequence->newest_time_ns) && by_board_ns <= 0 &&
	    by_board_ns > -LATE_NS)
		return false;
	return since_newest_ns(sequence, time_ns, clock_ns, SECOND_NS) > 0;
}

/* An older number than the newest, `back` numbers ago. */
static enum sequence_verdict note_older(struct sequence *sequence, uint16_t number, uint16_t back,
					uint64_t time_ns, uint64_t clock_ns)
{
	if (back < SEQUENCE_WINDOW && sequence_has(sequence, number)) /* again, at another time */
		return reset(sequence, number, time_ns, clock_ns);
	if (is_newer(sequence, time_ns, clock_ns))
		return reset(sequence, number, time_ns, clock_ns);
	if (back < SEQUENCE_WINDOW)
		*slot(sequence, number) = mark(number, time_ns);
	if (back <= sequence->span && sequence->lost > 0) /* it had been counted as lost */
		sequence->lost--;
	sequence->reordered++;
	return SEQUENCE_REORDERED;
}

enum sequence_verdict sequence_note(struct sequence *sequence, uint16_t number, uint64_t time_ns,
				    uint64_t clock_ns)
{
	uint16_t ahead = (uint16_t)(number - sequence->newest);
	bool is_older = ahead == 0 || ahead >= HALF_ROUND;
	bool is_jump = ahead > SEQUENCE_JUMP && ahead <= ROUND - SEQUENCE_WINDOW;

	if (!sequence->started) {
		sequence->started = true;
		return begin(sequence, number, time_ns, clock_ns);
	}
	if (is_older && *slot(sequence, number) == mark(number, time_ns))
		return SEQUENCE_DUPLICATE;
	if (sequence->pace && (is_jump || is_long_after(sequence, time_ns, clock_ns))) {
		uint64_t steps = steps_by_time(sequence, ahead, time_ns, clock_ns);

		if (steps)
			return advance(sequence, number, steps, time_ns, clock_ns);
		if (is_jump && !is_older)
			return reset(sequence, number, time_ns, clock_ns);
	}
	if (is_older)
		return note_older(sequence, number, (uint16_t)-ahead, time_ns, clock_ns);
	if (number < SEQUENCE_RESET_BELOW && ahead > SEQUENCE_JUMP)
		return reset(sequence, number, time_ns, clock_ns);
	return advance(sequence, number, ahead, time_ns, clock_ns);
}
