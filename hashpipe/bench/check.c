/* check.c -- checks a recording of the benchmark's packets, frame by frame and pixel by pixel.
 *
 *   check PRODUCT MODULE PERIOD_NS FILE...
 *   check PRODUCT MODULE PERIOD_NS ONE_IN -
 *
 * MODULE counts from 0 (its id is one more); files in the order of their numbers.  Prints counts
 * as JSON; what is wrong goes to stderr, the first few; exit code 1 if anything is.
 *
 * The second form follows a recording: names of files come on stdin, one a line, as they are
 * closed, and the counts so far are printed after each.  One file in ONE_IN is checked as a whole;
 * of the others (not of ph256) only the size and the first and the last frame.
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

/* The five numbers of the first board of a header. */
static const uint8_t number_from[] = { 29, 52, 70, 91, 114 };
static const uint8_t number_end[] = { 39, 56, 79, 101, 120 };

struct checker {
	const struct load_kind *kind;
	unsigned module;
	uint64_t period_ns;
	uint64_t next[LOAD_QUABOS]; /* frame expected of each board */
	size_t text_bytes, image_bytes, frame_bytes;
	/* missing: packets; missing_frames: in files of which only the ends were looked at */
	uint64_t frames, skimmed, partial, packets, missing, missing_frames, wrong, last;
	size_t place[LOAD_QUABOS][LOAD_PIXELS]; /* in the image, of each pixel of each board */
	char template[LOAD_QUABOS * TEXT];	/* of a header */
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

/* A header whose numbers are all 0. */
static void make_template(struct checker *checker)
{
	char *at = checker->template;

	if (checker->kind->boards == 1) {
		snprintf(at, TEXT,
			 "{ \"quabo_num\": %1u, \"pkt_num\": %10u, \"pkt_tai\": %4u, "
			 "\"pkt_nsec\": %9u, \"tv_sec\": %10u, \"tv_usec\": %6u}",
			 0, 0, 0, 0, 0, 0);
		return;
	}
	for (unsigned q = 0; q < LOAD_QUABOS; q++)
		at += snprintf(at, TEXT,
			       "%s   \"quabo_%u\": { \"pkt_num\": %10u, \"pkt_tai\": %4u, "
			       "\"pkt_nsec\": %9u, \"tv_sec\": %10u, \"tv_usec\": %6u}%s",
			       q ? "" : "{\n", q, 0, 0, 0, 0, 0, q < 3 ? ", \n" : "\n}");
}

/* What was read from a header, put where it belongs: right-justified. */
static void put_numbers(char *text, size_t shift, const unsigned long number[5])
{
	for (int k = 0; k < 5; k++) {
		unsigned long left = number[k];

		for (size_t at = shift + number_end[k]; left && at > shift + number_from[k];) {
			text[--at] = (char)('0' + left % 10);
			left /= 10;
		}
	}
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
	for (int k = 0; k < 5; k++)
		number[k] = digits(text, shift + number_from[k], shift + number_end[k]);
}

/* One board of a frame: its numbers are those of a packet that was sent, and newer than the last.
 * Returns the frame's index. */
static uint64_t check_board(struct checker *checker, const unsigned long number[5], unsigned q)
{
	uint64_t time_ns = number[1] * 1000000000ull + number[2];
	uint64_t since = (time_ns + LOAD_TAI_PERIOD_NS - LOAD_BEGIN_NS - q * LOAD_SKEW_NS) %
			 LOAD_TAI_PERIOD_NS;
	uint64_t k = since / checker->period_ns, circle = LOAD_TAI_PERIOD_NS / checker->period_ns;

	/* Which time round the circle of 1024 s: the one next to the frame before. */
	if (LOAD_TAI_PERIOD_NS % checker->period_ns == 0 && checker->next[q] > k)
		k += (checker->next[q] - k + circle / 2) / circle * circle;
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

/* Returns the index of the frame. */
static uint64_t check_frame(struct checker *checker, const char *frame)
{
	static uint8_t image[2 * 32 * 32];
	char text[MODULE_TEXT];
	unsigned long number[5];
	unsigned boards = 0;
	uint64_t first = 0;

	memset(image, 0, checker->image_bytes);
	memcpy(text, checker->template, checker->text_bytes);
	for (unsigned n = 0; n < checker->kind->boards; n++) {
		unsigned q = n;
		uint64_t k;

		if (checker->kind->boards == 1) {
			q = (unsigned)(frame[15] - '0') & 3;
			text[15] = (char)('0' + q);
		}
		read_numbers(frame, (size_t)n * NEXT_QUABO, number);
		put_numbers(text, (size_t)n * NEXT_QUABO, number);
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
	if (memcmp(text, frame, checker->text_bytes) ||
	    memcmp(frame + checker->text_bytes, "\n\n*", SEPARATOR))
		wrong(checker, "the header is not as it should be");
	if (memcmp(frame + checker->text_bytes + SEPARATOR, image, checker->image_bytes))
		wrong(checker, "pixels differ from what was sent");
	return first;
}

/* Of a file of `size` bytes the first and the last frame; what lies between is taken to be there
 * when it has the room. */
static void skim(struct checker *checker, const char *bytes, size_t size)
{
	uint64_t n = size / checker->frame_bytes, missing, first, last;

	first = last = check_frame(checker, bytes);
	missing = checker->missing;
	if (n > 1) {
		checker->offset = (n - 1) * checker->frame_bytes;
		last = check_frame(checker, bytes + checker->offset);
		checker->frames += n - 2;
		checker->skimmed += n - 2;
	}
	checker->missing = missing;
	for (unsigned q = 0; q < LOAD_QUABOS; q++)
		checker->next[q] = last + 1;
	if (last - first + 1 < n)
		wrong(checker, "%" PRIu64 " frames from number %" PRIu64 " to %" PRIu64, n, first,
		      last);
	else
		checker->missing_frames += last - first + 1 - n;
}

static void check_file(struct checker *checker, const char *path, bool whole)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat status;
	size_t size;
	const char *bytes;

	checker->file = path;
	checker->offset = 0;
	if (fd < 0 || fstat(fd, &status)) {
		perror(path);
		exit(1);
	}
	size = (size_t)status.st_size;
	if (size % checker->frame_bytes)
		wrong(checker, "%zu bytes are not a whole number of frames", size);
	if (size) {
		bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (bytes == MAP_FAILED) {
			perror(path);
			exit(1);
		}
		madvise((void *)(uintptr_t)bytes, size, MADV_SEQUENTIAL);
		if (!whole && size >= checker->frame_bytes)
			skim(checker, bytes, size);
		for (; whole && checker->offset + checker->frame_bytes <= size;
		     checker->offset += checker->frame_bytes)
			check_frame(checker, bytes + checker->offset);
		munmap((void *)(uintptr_t)bytes, size);
	}
	close(fd);
}

static void print_counts(const struct checker *checker)
{
	printf("{\"frames\":%" PRIu64 ",\"skimmed\":%" PRIu64 ",\"partial\":%" PRIu64
	       ",\"packets\":%" PRIu64 ",\"missing\":%" PRIu64 ",\"missing_frames\":%" PRIu64
	       ",\"wrong\":%" PRIu64 ",\"last\":%" PRIu64 "}\n",
	       checker->frames, checker->skimmed, checker->partial, checker->packets,
	       checker->missing, checker->missing_frames, checker->wrong, checker->last);
	fflush(stdout);
}

/* Files as they are named on stdin. */
static void follow(struct checker *checker, uint64_t one_in)
{
	char path[4096];

	for (uint64_t n = 0; fgets(path, sizeof(path), stdin); n++) {
		path[strcspn(path, "\n")] = '\0';
		/* Boards that send by themselves have no order among them to skim by. */
		check_file(checker, path, n % one_in == 0 || checker->kind->boards == 1);
		print_counts(checker);
	}
}

int main(int argc, char **argv)
{
	static struct checker checker;
	const struct load_kind *kind;
	uint64_t one_in;

	if (argc < 5 || !(kind = load_kind(argv[1]))) {
		fputs("usage: check PRODUCT MODULE PERIOD_NS FILE...\n"
		      "       check PRODUCT MODULE PERIOD_NS ONE_IN -\n",
		      stderr);
		return 2;
	}
	checker.kind = kind;
	checker.module = (unsigned)load_number(argv[2], "MODULE");
	checker.period_ns = load_number(argv[3], "PERIOD_NS");
	checker.text_bytes = kind->boards == 1 ? BOARD_TEXT : MODULE_TEXT;
	checker.image_bytes = (size_t)kind->side * kind->side * kind->pixel_bytes;
	checker.frame_bytes = checker.text_bytes + SEPARATOR + checker.image_bytes;
	make_places(&checker);
	make_template(&checker);
	if (argc == 6 && !strcmp(argv[5], "-")) {
		one_in = load_number(argv[4], "ONE_IN");
		follow(&checker, one_in ? one_in : 1);
	} else {
		for (int k = 4; k < argc; k++)
			check_file(&checker, argv[k], true);
		print_counts(&checker);
	}
	return checker.wrong ? 1 : 0;
}
