/* check.c -- checks a recording of the benchmark's packets, frame by frame and pixel by pixel.
 *
 *   check PRODUCT MODULE PERIOD_NS FILE...
 *
 * MODULE counts from 0 (its id is one more); files in the order of their numbers.  Prints counts
 * as JSON; what is wrong goes to stderr, the first few; exit code 1 if anything is.
 *
 * It shares no code with the pipeline: the format is written down here once more.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "load.h"

enum {
	BOARD_TEXT = 121,  /* header of a frame of one board, and */
	MODULE_TEXT = 489, /* of a module; then "\n\n*" */
	SEPARATOR = 3,
	NEXT_QUABO = 122,
	COMPLAINTS = 10,
	TEXT = 512,
};

struct checker {
	const struct load_kind *kind;
	unsigned module;
	uint64_t period_ns;
	uint64_t next[LOAD_QUABOS]; /* frame expected of each board */
	uint64_t frames, partial, packets, missing, wrong, last;
	size_t place[LOAD_QUABOS][LOAD_PIXELS]; /* in the image, of each pixel of each board */
	const char *file;
	uint64_t offset;
};

static void __attribute__((format(printf, 2, 3)))
wrong(struct checker *checker, const char *text, ...)
{
	va_list arguments;

	if (checker->wrong++ >= COMPLAINTS)
		return;
	fprintf(stderr, "%s at byte %" PRIu64 ": ", checker->file, checker->offset);
	va_start(arguments, text);
	vfprintf(stderr, text, arguments);
	va_end(arguments);
	fputc('\n', stderr);
}

/* Where pixel (i, j) of a quabo's packet is in the picture. */
static void make_places(struct checker *checker)
{
	unsigned side = checker->kind->side;

	for (unsigned q = 0; q < LOAD_QUABOS; q++) {
		for (unsigned i = 0; i < 16; i++) {
			for (unsigned j = 0; j < 16; j++) {
				unsigned row[] = { j, 15 - i, 31 - j, 16 + i };
				unsigned column[] = { 15 - i, 31 - j, 16 + i, j };

				checker->place[q][16 * i + j] =
					row[q] % side * side + column[q] % side;
			}
		}
	}
}

/* The header that belongs to what was read from this one; the reader's clock is taken over. */
static size_t expected_text(const struct checker *checker, const unsigned long *number, unsigned q,
			    char *text)
{
	if (checker->kind->boards == 1)
		return (size_t)snprintf(text, TEXT,
					"{ \"quabo_num\": %1u, \"pkt_num\": %10lu, "
					"\"pkt_tai\": %4lu, \"pkt_nsec\": %9lu, "
					"\"tv_sec\": %10lu, \"tv_usec\": %6lu}",
					q, number[0], number[1], number[2], number[3], number[4]);
	return (size_t)snprintf(text, TEXT,
				"%s   \"quabo_%u\": { \"pkt_num\": %10lu, \"pkt_tai\": %4lu, "
				"\"pkt_nsec\": %9lu, \"tv_sec\": %10lu, \"tv_usec\": %6lu}%s",
				q ? "" : "{\n", q, number[0], number[1], number[2], number[3],
				number[4], q < 3 ? ", \n" : "\n}");
}

static unsigned long digits(const char *text, size_t from, size_t end)
{
	unsigned long value = 0;

	for (; from < end; from++)
		if (text[from] >= '0' && text[from] <= '9')
			value = 10 * value + (unsigned long)(text[from] - '0');
	return value;
}

static void read_numbers(const char *text, size_t shift, unsigned long number[5])
{
	static const uint8_t from[] = { 29, 52, 70, 91, 114 }, end[] = { 39, 56, 79, 101, 120 };

	for (int k = 0; k < 5; k++)
		number[k] = digits(text, shift + from[k], shift + end[k]);
}

/* One board of a frame: its numbers are those of a packet that was sent, and newer than the last.
 * Returns the frame's index. */
static uint64_t check_board(struct checker *checker, const unsigned long number[5], unsigned q)
{
	uint64_t time_ns = number[1] * 1000000000ull + number[2];
	uint64_t since = (time_ns + LOAD_TAI_PERIOD_NS - LOAD_BEGIN_NS - q * LOAD_SKEW_NS) %
			 LOAD_TAI_PERIOD_NS;
	uint64_t k = since / checker->period_ns;

	if (since % checker->period_ns || (k & 0xffff) != number[0])
		wrong(checker, "quabo %u: number %lu does not go with time %lu.%09lu", q, number[0],
		      number[1], number[2]);
	else if (k < checker->next[q])
		wrong(checker, "quabo %u: frame %" PRIu64 " after %" PRIu64, q, k,
		      checker->next[q] - 1);
	else
		checker->missing += k - checker->next[q];
	checker->next[q] = k + 1;
	checker->packets++;
	if (k > checker->last)
		checker->last = k;
	return k;
}

static void place_pixels(const struct checker *checker, unsigned q, uint64_t k, uint8_t *image)
{
	unsigned bytes = checker->kind->pixel_bytes;
	const uint8_t *pixels = load_pixels(load_boardloc(checker->module, q), k);

	for (unsigned p = 0; p < LOAD_PIXELS; p++)
		memcpy(image + checker->place[q][p] * bytes, pixels + p * bytes, bytes);
}

static void check_frame(struct checker *checker, const char *frame, size_t text_bytes,
			size_t image_bytes)
{
	static uint8_t image[2 * 32 * 32];
	char text[2 * TEXT];
	unsigned long number[5];
	unsigned boards = 0;
	size_t length = 0;
	uint64_t first = 0;

	memset(image, 0, image_bytes);
	for (unsigned n = 0; n < checker->kind->boards; n++) {
		unsigned q = checker->kind->boards == 1 ? (unsigned)(frame[15] - '0') & 3 : n;
		uint64_t k;

		read_numbers(frame, (size_t)n * NEXT_QUABO, number);
		length += expected_text(checker, number, q, text + length);
		if (!number[3])
			continue; /* absent: zeros */
		k = check_board(checker, number, q);
		if (boards++ && k != first)
			wrong(checker, "boards of frames %" PRIu64 " and %" PRIu64 " together",
			      first, k);
		first = k;
		place_pixels(checker, q, k, image);
	}
	checker->frames++;
	checker->partial += boards < checker->kind->boards;
	if (length != text_bytes || memcmp(text, frame, text_bytes) ||
	    memcmp(frame + text_bytes, "\n\n*", SEPARATOR))
		wrong(checker, "the header is not as it should be");
	if (memcmp(frame + text_bytes + SEPARATOR, image, image_bytes))
		wrong(checker, "pixels differ from what was sent");
}

static void check_file(struct checker *checker, const char *path)
{
	size_t text_bytes = checker->kind->boards == 1 ? BOARD_TEXT : MODULE_TEXT;
	size_t image_bytes =
		(size_t)checker->kind->side * checker->kind->side * checker->kind->pixel_bytes;
	size_t frame_bytes = text_bytes + SEPARATOR + image_bytes;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat status;
	const char *bytes;

	checker->file = path;
	checker->offset = 0;
	if (fd < 0 || fstat(fd, &status)) {
		perror(path);
		exit(1);
	}
	if (status.st_size % (off_t)frame_bytes)
		wrong(checker, "%jd bytes are not a whole number of frames",
		      (intmax_t)status.st_size);
	if (status.st_size) {
		bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE,
			     fd, 0);
		if (bytes == MAP_FAILED) {
			perror(path);
			exit(1);
		}
		for (; checker->offset + frame_bytes <= (uint64_t)status.st_size;
		     checker->offset += frame_bytes)
			check_frame(checker, bytes + checker->offset, text_bytes, image_bytes);
		munmap((void *)(uintptr_t)bytes, (size_t)status.st_size);
	}
	close(fd);
}

int main(int argc, char **argv)
{
	static struct checker checker;

	if (argc < 5 || !(checker.kind = load_kind(argv[1]))) {
		fputs("usage: check PRODUCT MODULE PERIOD_NS FILE...\n", stderr);
		return 2;
	}
	checker.module = (unsigned)load_number(argv[2], "MODULE");
	checker.period_ns = load_number(argv[3], "PERIOD_NS");
	make_places(&checker);
	for (int k = 4; k < argc; k++)
		check_file(&checker, argv[k]);
	printf("{\"frames\":%" PRIu64 ",\"partial\":%" PRIu64 ",\"packets\":%" PRIu64
	       ",\"missing\":%" PRIu64 ",\"wrong\":%" PRIu64 ",\"last\":%" PRIu64 "}\n",
	       checker.frames, checker.partial, checker.packets, checker.missing, checker.wrong,
	       checker.last);
	return checker.wrong ? 1 : 0;
}
