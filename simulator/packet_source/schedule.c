/* schedule.c -- see schedule.h */
#include "schedule.h"

static int before(const struct entry *a, const struct entry *b)
{
	if (a->due_ns != b->due_ns)
		return a->due_ns < b->due_ns;
	if (a->board != b->board)
		return a->board < b->board;
	return a->kind < b->kind;
}

static void swap(struct entry *a, struct entry *b)
{
	struct entry c = *a;

	*a = *b;
	*b = c;
}

static void sift_up(struct schedule *schedule, unsigned at)
{
	struct entry *e = schedule->entry;

	for (; at && before(&e[at], &e[(at - 1) / 2]); at = (at - 1) / 2)
		swap(&e[at], &e[(at - 1) / 2]);
}

static void sift_down(struct schedule *schedule, unsigned at)
{
	struct entry *e = schedule->entry;

	for (;;) {
		unsigned least = at;

		for (unsigned child = 2 * at + 1; child <= 2 * at + 2; child++)
			if (child < schedule->count && before(&e[child], &e[least]))
				least = child;
		if (least == at)
			return;
		swap(&e[at], &e[least]);
		at = least;
	}
}

void schedule_put(struct schedule *schedule, unsigned board, enum stream_kind kind, int64_t due_ns)
{
	schedule->entry[schedule->count] = (struct entry){ due_ns, (uint16_t)board, (uint8_t)kind };
	sift_up(schedule, schedule->count++);
}

void schedule_remove(struct schedule *schedule, unsigned board, enum stream_kind kind)
{
	for (unsigned i = 0; i < schedule->count; i++) {
		if (schedule->entry[i].board != board || schedule->entry[i].kind != kind)
			continue;
		schedule->entry[i] = schedule->entry[--schedule->count];
		if (i < schedule->count) {
			sift_down(schedule, i);
			sift_up(schedule, i);
		}
		return;
	}
}

int64_t schedule_next_ns(const struct schedule *schedule)
{
	return schedule->count ? schedule->entry[0].due_ns : INT64_MAX;
}

struct entry schedule_pop(struct schedule *schedule)
{
	struct entry first = schedule->entry[0];

	schedule->entry[0] = schedule->entry[--schedule->count];
	sift_down(schedule, 0);
	return first;
}
