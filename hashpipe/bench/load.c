/* load.c -- see load.h */
#include "load.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static const struct load_kind kinds[] = {
	{ "img16", 2, 2, 4, 32 },
	{ "img8", 6, 1, 4, 32 },
	{ "ph256", 1, 2, 1, 16 },
	{ "ph1024", 1, 2, 4, 32 },
};

enum { POOL = 8192 };

volatile bool load_ended;

const struct load_kind *load_kind(const char *name)
{
	for (size_t k = 0; k < sizeof(kinds) / sizeof(*kinds); k++)
		if (!strcmp(kinds[k].name, name))
			return &kinds[k];
	return NULL;
}

/* Pixels are a stretch of a pool of random bytes, so that nothing is computed while sending. */
static const uint8_t *pool(void)
{
	static uint8_t bytes[POOL + 2 * LOAD_PIXELS];
	static bool made;

	if (!made) {
		uint64_t state = 20260102;

		for (size_t k = 0; k < sizeof(bytes); k++) {
			state = state * 6364136223846793005ull + 1442695040888963407ull;
			bytes[k] = (uint8_t)(state >> 56);
		}
		made = true;
	}
	return bytes;
}

const uint8_t *load_pixels(unsigned boardloc, uint64_t k)
{
	return pool() + (boardloc * 977u + (unsigned)k * 61u) % POOL;
}

uint64_t load_number(const char *text, const char *what)
{
	char *end;
	unsigned long long number;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-') {
		fprintf(stderr, "%s: %s is not a whole number\n", what, text);
		exit(2);
	}
	return number;
}

uint64_t load_clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

double load_cpu_s(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void on_signal(int number)
{
	(void)number;
	load_ended = true;
}

void load_catch_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal }; /* no SA_RESTART */

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}
