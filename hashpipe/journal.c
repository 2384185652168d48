/* journal.c -- see journal.h */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_NS (1000000000 / JOURNAL_PER_SECOND)

static int64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

void journal_init(struct journal *journal)
{
	memset(journal, 0, sizeof(*journal));
	pthread_mutex_init(&journal->lock, NULL);
	journal->fd = STDERR_FILENO;
	journal->tokens_ns = (int64_t)JOURNAL_BURST * LINE_NS;
	journal->refilled_ns = clock_ns(CLOCK_MONOTONIC);
}

int journal_open(struct journal *journal, const char *path)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);

	if (fd < 0)
		return -errno;
	journal->fd = fd;
	return 0;
}

/* Token bucket: whether one more line may be taken now. */
static bool may_take(struct journal *journal)
{
	int64_t now_ns = clock_ns(CLOCK_MONOTONIC);

	journal->tokens_ns += now_ns - journal->refilled_ns;
	journal->refilled_ns = now_ns;
	if (journal->tokens_ns > (int64_t)JOURNAL_BURST * LINE_NS)
		journal->tokens_ns = (int64_t)JOURNAL_BURST * LINE_NS;
	if (journal->tokens_ns < LINE_NS || journal->n_lines == JOURNAL_LINES)
		return false;
	journal->tokens_ns -= LINE_NS;
	return true;
}

void journal_note(struct journal *journal, enum journal_level level, const char *format, ...)
{
	struct journal_line line = { .time_ns = clock_ns(CLOCK_REALTIME), .level = level };
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line.text, sizeof(line.text), format, arguments);
	va_end(arguments);
	pthread_mutex_lock(&journal->lock);
	if (level == JOURNAL_ERROR)
		journal->error[journal->n_errors++ % JOURNAL_ERRORS] = line;
	if (may_take(journal))
		journal->line[journal->n_lines++] = line;
	else
		journal->suppressed++;
	pthread_mutex_unlock(&journal->lock);
}

/* "2025-08-02T05:31:36.123Z WARNING text\n"; its length. */
static size_t format_line(const struct journal_line *line, char *out, size_t size)
{
	static const char *const names[] = { "INFO", "WARNING", "ERROR" };
	time_t seconds = (time_t)(line->time_ns / 1000000000);
	struct tm utc;
	size_t n;

	gmtime_r(&seconds, &utc);
	n = strftime(out, size, "%Y-%m-%dT%H:%M:%S", &utc);
	n += (size_t)snprintf(out + n, size - n, ".%03dZ %s %s\n",
			      (int)(line->time_ns % 1000000000 / 1000000), names[line->level],
			      line->text);
	return n < size ? n : size - 1;
}

void journal_flush(struct journal *journal)
{
	struct journal_line lines[JOURNAL_LINES + 1];
	unsigned n;

	pthread_mutex_lock(&journal->lock);
	n = journal->n_lines;
	memcpy(lines, journal->line, n * sizeof(*lines));
	journal->n_lines = 0;
	if (journal->suppressed) {
		lines[n].time_ns = clock_ns(CLOCK_REALTIME);
		lines[n].level = JOURNAL_WARNING;
		snprintf(lines[n++].text, JOURNAL_LINE, "%u more messages not shown",
			 journal->suppressed);
		journal->suppressed = 0;
	}
	pthread_mutex_unlock(&journal->lock);
	for (unsigned k = 0; k < n; k++) {
		char text[JOURNAL_LINE + 64];
		size_t length = format_line(&lines[k], text, sizeof(text));

		if (write(journal->fd, text, length) < 0) {
			/* A full disk: the status file, which has a reserve, tells the same. */
		}
	}
}

unsigned journal_errors(struct journal *journal, struct journal_line errors[JOURNAL_ERRORS])
{
	unsigned n, first;

	pthread_mutex_lock(&journal->lock);
	n = journal->n_errors < JOURNAL_ERRORS ? journal->n_errors : JOURNAL_ERRORS;
	first = journal->n_errors - n;
	for (unsigned k = 0; k < n; k++)
		errors[k] = journal->error[(first + k) % JOURNAL_ERRORS];
	pthread_mutex_unlock(&journal->lock);
	return n;
}

void journal_close(struct journal *journal)
{
	journal_flush(journal);
	if (journal->fd != STDERR_FILENO)
		close(journal->fd);
	journal->fd = STDERR_FILENO;
}
