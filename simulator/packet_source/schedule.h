/* schedule.h -- which stream is due next: a binary heap over all active streams.
 *
 * A stream stands in it at most once; equal times come in the order of the boards. */
#ifndef SCHEDULE_H
#define SCHEDULE_H

#include "streams.h"

struct entry {
	int64_t due_ns;
	uint16_t board;
	uint8_t kind;
};

struct schedule {
	unsigned count;
	struct entry entry[BOARDS_MAX * STREAM_KINDS];
};

/* Put a stream in, at its next_ns. */
void schedule_put(struct schedule *schedule, unsigned board, enum stream_kind kind, int64_t due_ns);

/* Take a stream out, if it is in. */
void schedule_remove(struct schedule *schedule, unsigned board, enum stream_kind kind);

/* When the first one is due; INT64_MAX when nothing is active. */
int64_t schedule_next_ns(const struct schedule *schedule);

/* Take the first one out.  The schedule is not empty. */
struct entry schedule_pop(struct schedule *schedule);

#endif
