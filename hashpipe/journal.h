/* journal.h -- the pipeline's log: LOGFILE, one line per message, at a bounded rate.
 *
 * Threads in the packet path only leave the text in memory; another thread writes it out.  What
 * comes faster than the rate allows is counted and mentioned in one line.
 */
#ifndef PANOSETI_JOURNAL_H
#define PANOSETI_JOURNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum {
	JOURNAL_LINE = 256,
	JOURNAL_LINES = 64,	/* waiting to be written */
	JOURNAL_BURST = 40,	/* lines at once, */
	JOURNAL_PER_SECOND = 4, /* and on average */
	JOURNAL_ERRORS = 8,	/* last errors, for the status file */
};

enum journal_level {
	JOURNAL_INFO,
	JOURNAL_WARNING,
	JOURNAL_ERROR,
};

struct journal {
	pthread_mutex_t lock;
	int fd; /* of LOGFILE; stderr without one */
	struct journal_line {
		int64_t time_ns; /* Unix */
		enum journal_level level;
		char text[JOURNAL_LINE];
	} line[JOURNAL_LINES], error[JOURNAL_ERRORS];
	unsigned n_lines, n_errors; /* n_errors counts all; the ring keeps the last */
	unsigned suppressed;
	int64_t tokens_ns; /* time worth of lines that may still be taken */
	int64_t refilled_ns;
};

/* Starts with stderr as the place to write to. */
void journal_init(struct journal *journal);

/* Appends to the file at `path` from now on.  0 or -errno (stderr stays). */
int journal_open(struct journal *journal, const char *path);

/* Leaves a message to be written. */
__attribute__((format(printf, 3, 4))) void
journal_note(struct journal *journal, enum journal_level level, const char *format, ...);

/* Writes what has been left.  Not for threads in the packet path. */
void journal_flush(struct journal *journal);

/* Copies the last errors, oldest first; returns how many. */
unsigned journal_errors(struct journal *journal, struct journal_line errors[JOURNAL_ERRORS]);

/* Flushes and closes. */
void journal_close(struct journal *journal);

#endif
