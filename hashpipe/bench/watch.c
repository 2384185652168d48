/* watch.c -- how long packets take from the network into their files.
 *
 *   watch FRAME_BYTES BOARDS FILE...
 *
 * Looks at the files' sizes every POLL_US and compares the receive time in the header of each
 * frame with the time at which the frame was there.  On SIGTERM prints the distribution as JSON.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

enum {
	POLL_US = 500,
	BIN_US = 10,
	BINS = 1000000, /* up to 10 s */
	HEADER = 489,
	NEXT_QUABO = 122,
	TV_SEC_AT = 91,
	TV_SEC_END = 101,
	TV_USEC_AT = 114,
	TV_USEC_END = 120,
};

static uint32_t bins[BINS];
static uint64_t n, worst_us;

static uint64_t digits(const char *text, size_t from, size_t end)
{
	uint64_t value = 0;

	for (; from < end; from++)
		if (text[from] >= '0' && text[from] <= '9')
			value = 10 * value + (uint64_t)(text[from] - '0');
	return value;
}

static void note(uint64_t latency_us)
{
	bins[latency_us / BIN_US < BINS ? latency_us / BIN_US : BINS - 1]++;
	n++;
	if (latency_us > worst_us)
		worst_us = latency_us;
}

/* Frames that came since the last look. */
static off_t look(int fd, off_t seen, off_t frame_bytes, unsigned boards)
{
	struct timespec now;
	struct stat status;
	char header[HEADER];

	if (fstat(fd, &status))
		return seen;
	clock_gettime(CLOCK_REALTIME, &now);
	for (; seen + frame_bytes <= status.st_size; seen += frame_bytes) {
		if (pread(fd, header, sizeof(header), seen) < (ssize_t)sizeof(header) && boards > 1)
			break;
		for (unsigned b = 0; b < boards; b++) {
			size_t at = (size_t)b * NEXT_QUABO;
			uint64_t sec = digits(header, at + TV_SEC_AT, at + TV_SEC_END);
			uint64_t usec = digits(header, at + TV_USEC_AT, at + TV_USEC_END);
			int64_t us = ((int64_t)now.tv_sec - (int64_t)sec) * 1000000 +
				     now.tv_nsec / 1000 - (int64_t)usec;

			if (sec)
				note(us > 0 ? (uint64_t)us : 0);
		}
	}
	return seen;
}

static double at_fraction(double fraction)
{
	uint64_t below = 0;

	for (unsigned k = 0; k < BINS; k++) {
		below += bins[k];
		if ((double)below >= fraction * (double)n)
			return (k + 1) * BIN_US * 1e-3;
	}
	return 0;
}

int main(int argc, char **argv)
{
	unsigned files = argc > 3 ? (unsigned)argc - 3 : 0, boards;
	off_t frame_bytes, *seen = calloc(files + 1, sizeof(*seen));
	int *fd = calloc(files + 1, sizeof(*fd));

	if (!files || !seen || !fd) {
		fputs("usage: watch FRAME_BYTES BOARDS FILE...\n", stderr);
		return 2;
	}
	frame_bytes = (off_t)load_number(argv[1], "FRAME_BYTES");
	boards = (unsigned)load_number(argv[2], "BOARDS");
	for (unsigned k = 0; k < files; k++) {
		fd[k] = open(argv[3 + k], O_RDONLY | O_CLOEXEC);
		if (fd[k] < 0) {
			perror(argv[3 + k]);
			return 1;
		}
	}
	prctl(PR_SET_TIMERSLACK, 1);
	load_catch_signals();
	while (!load_ended) {
		for (unsigned k = 0; k < files; k++)
			seen[k] = look(fd[k], seen[k], frame_bytes, boards);
		usleep(POLL_US);
	}
	printf("{\"packets\":%" PRIu64 ",\"median_ms\":%.2f,\"p99_ms\":%.2f,\"worst_ms\":%.2f}\n",
	       n, at_fraction(0.5), at_fraction(0.99), (double)worst_us * 1e-3);
	return 0;
}
