/* sequence.c -- see sequence.h */
#include "sequence.h"

#include <string.h>

#include "packet.h"

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

static enum sequence_verdict begin(struct sequence *sequence, uint16_t number, uint64_t time_ns)
{
	memset(sequence->seen, 0, sizeof(sequence->seen));
	*slot(sequence, number) = mark(number, time_ns);
	sequence->newest = number;
	sequence->newest_time_ns = time_ns;
	sequence->span = 0;
	return SEQUENCE_FIRST;
}

static enum sequence_verdict reset(struct sequence *sequence, uint16_t number, uint64_t time_ns)
{
	sequence->resets++;
	return begin(sequence, number, time_ns);
}

/* An older number than the newest, `back` numbers ago. */
static enum sequence_verdict note_older(struct sequence *sequence, uint16_t number, uint16_t back,
					uint64_t time_ns)
{
	if (back < SEQUENCE_WINDOW) {
		if (*slot(sequence, number) == mark(number, time_ns))
			return SEQUENCE_DUPLICATE;
		if (sequence_has(sequence, number)) /* the number again, at another time */
			return reset(sequence, number, time_ns);
	}
	if (tai_difference_ns(time_ns, sequence->newest_time_ns) > 0)
		return reset(sequence, number, time_ns);
	if (back < SEQUENCE_WINDOW)
		*slot(sequence, number) = mark(number, time_ns);
	if (back <= sequence->span && sequence->lost > 0) /* it had been counted as lost */
		sequence->lost--;
	sequence->reordered++;
	return SEQUENCE_REORDERED;
}

enum sequence_verdict sequence_note(struct sequence *sequence, uint16_t number, uint64_t time_ns)
{
	uint16_t ahead = (uint16_t)(number - sequence->newest);

	if (!sequence->started) {
		sequence->started = true;
		return begin(sequence, number, time_ns);
	}
	if (ahead == 0 || ahead >= 0x8000)
		return note_older(sequence, number, (uint16_t)-ahead, time_ns);
	if (number < SEQUENCE_RESET_BELOW && ahead > SEQUENCE_RESET_JUMP)
		return reset(sequence, number, time_ns);

	*slot(sequence, number) = mark(number, time_ns);
	sequence->newest = number;
	sequence->newest_time_ns = time_ns;
	if (sequence->span < 0x8000)
		sequence->span += ahead;
	sequence->lost += ahead - 1;
	return SEQUENCE_NEXT;
}
