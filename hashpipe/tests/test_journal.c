/* The log: one line per message, at a bounded rate whoever writes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "journal.h"

static struct journal journal;

static unsigned read_lines(const char *path, char lines[][512], unsigned most)
{
	FILE *file = fopen(path, "r");
	unsigned n = 0;

	while (file && n < most && fgets(lines[n], 512, file))
		n++;
	if (file)
		fclose(file);
	return n;
}

static void test_lines(void)
{
	char lines[8][512];

	journal_init(&journal);
	CHECK_EQUAL(journal_open(&journal, "log"), 0);
	journal_note(&journal, JOURNAL_INFO, "run %s", "x");
	journal_note(&journal, JOURNAL_ERROR, "%0300d", 7);
	CHECK_EQUAL(read_lines("log", lines, 8), 0); /* the packet path does not write */
	journal_close(&journal);
	CHECK_EQUAL(read_lines("log", lines, 8), 2);
	CHECK(lines[0][4] == '-' && lines[0][10] == 'T');
	CHECK_TEXT(lines[0] + 23, "Z INFO run x\n");
	CHECK_EQUAL(strlen(lines[1]), 23 + strlen("Z ERROR ") + JOURNAL_LINE);
	/* It appends. */
	journal_init(&journal);
	CHECK_EQUAL(journal_open(&journal, "log"), 0);
	journal_note(&journal, JOURNAL_WARNING, "again");
	journal_close(&journal);
	CHECK_EQUAL(read_lines("log", lines, 8), 3);
	CHECK(journal_open(&journal, "absent/log") < 0);
	CHECK_EQUAL(journal.fd, STDERR_FILENO);
}

static void *flood(void *argument)
{
	for (unsigned k = 0; k < 20000; k++)
		journal_note(&journal, k % 100 ? JOURNAL_WARNING : JOURNAL_ERROR, "message %u", k);
	return argument;
}

/* However many threads cry, the file gets a burst, then a few lines a second. */
static void test_rate(void)
{
	static char lines[4096][512];
	struct journal_line errors[JOURNAL_ERRORS];
	struct timespec begin, end;
	pthread_t thread[3];
	unsigned n, most, shown = 0, told = 0;

	journal_init(&journal);
	CHECK_EQUAL(journal_open(&journal, "flood"), 0);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (unsigned k = 0; k < 3; k++)
		pthread_create(&thread[k], NULL, flood, NULL);
	for (unsigned k = 0; k < 100; k++)
		journal_flush(&journal);
	for (unsigned k = 0; k < 3; k++)
		pthread_join(thread[k], NULL);
	clock_gettime(CLOCK_MONOTONIC, &end);
	CHECK_EQUAL(journal_errors(&journal, errors), JOURNAL_ERRORS);
	CHECK_TEXT(errors[JOURNAL_ERRORS - 1].text, "message 19900");
	journal_close(&journal);
	n = read_lines("flood", lines, 4096);
	for (unsigned k = 0; k < n; k++) {
		unsigned more;

		if (sscanf(lines[k] + 24, " WARNING %u more messages not shown", &more) == 1)
			told += more;
		else
			shown++;
	}
	most = JOURNAL_BURST + JOURNAL_PER_SECOND * (unsigned)(end.tv_sec - begin.tv_sec + 2);
	CHECK(shown >= JOURNAL_BURST && shown <= most);
	CHECK_EQUAL(shown + told, 60000);
}

/* A quiet journal regains its burst, but no more than that. */
static void test_refill(void)
{
	journal_init(&journal);
	CHECK_EQUAL(journal_open(&journal, "refill"), 0);
	journal.refilled_ns -= 3600ll * 1000000000;
	for (unsigned k = 0; k < 200; k++)
		journal_note(&journal, JOURNAL_INFO, "x");
	CHECK(journal.n_lines >= JOURNAL_BURST && journal.n_lines <= JOURNAL_BURST + 8);
	journal_close(&journal);
}

int main(void)
{
	check_scratch();
	test_lines();
	test_rate();
	test_refill();
	return check_result();
}
