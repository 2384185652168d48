/* check.c -- see check.h */
#include "check.h"

#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static unsigned failures;
static char case_name[128] = "";
static char scratch[] = "/tmp/panoseti-test-XXXXXX";
static char vectors_folder[4096];

void check_case(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(case_name, sizeof(case_name), format, arguments);
	va_end(arguments);
}

static void fail(const char *file, int line)
{
	failures++;
	fprintf(stderr, "%s:%d: %s%s", file, line, case_name, *case_name ? ": " : "");
}

bool check_that(bool holds, const char *what, const char *file, int line)
{
	if (!holds) {
		fail(file, line);
		fprintf(stderr, "not so: %s\n", what);
	}
	return holds;
}

bool check_equal(long long found, long long wanted, const char *what, const char *file, int line)
{
	if (found != wanted) {
		fail(file, line);
		fprintf(stderr, "%s is %lld, not %lld\n", what, found, wanted);
	}
	return found == wanted;
}

bool check_text(const char *found, const char *wanted, const char *what, const char *file, int line)
{
	bool same = !strcmp(found, wanted);

	if (!same) {
		fail(file, line);
		fprintf(stderr, "%s is \"%s\", not \"%s\"\n", what, found, wanted);
	}
	return same;
}

bool check_bytes(const void *found, const void *wanted, size_t n, const char *what,
		 const char *file, int line)
{
	const uint8_t *a = found, *b = wanted;
	size_t k = 0;

	while (k < n && a[k] == b[k])
		k++;
	if (k < n) {
		fail(file, line);
		fprintf(stderr, "%s differs at byte %zu of %zu: %#x, not %#x\n", what, k, n, a[k],
			b[k]);
	}
	return k == n;
}

int check_result(void)
{
	if (failures)
		fprintf(stderr, "%u checks failed\n", failures);
	return failures ? 1 : 0;
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *ftw)
{
	(void)status;
	(void)kind;
	(void)ftw;
	return remove(path);
}

static void remove_scratch(void)
{
	if (!chdir("/"))
		nftw(scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Where the vectors are, seen from anywhere. */
static void find_vectors(void)
{
	if (!*vectors_folder && !realpath("build/vectors", vectors_folder))
		*vectors_folder = '\0';
}

void check_scratch(void)
{
	find_vectors();
	if (!mkdtemp(scratch) || chdir(scratch)) {
		perror(scratch);
		exit(1);
	}
	atexit(remove_scratch);
}

uint64_t check_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

void check_modules(struct module_table *table, const int *ids)
{
	memset(table, 0, sizeof(*table));
	memset(table->index, -1, sizeof(table->index));
	for (; *ids >= 0; ids++) {
		table->index[*ids] = (int16_t)table->count;
		table->id[table->count++] = (uint8_t)*ids;
	}
}

static void put(uint8_t *at, uint32_t value, unsigned bytes)
{
	for (unsigned k = 0; k < bytes; k++)
		at[k] = (uint8_t)(value >> 8 * k);
}

size_t check_packet(uint8_t *payload, uint8_t acq_mode, uint16_t boardloc, uint16_t number,
		    uint16_t tai, uint32_t nsec, uint16_t fill)
{
	unsigned pixel_bytes = acq_mode >= 6 ? 1 : 2;

	memset(payload, 0, PACKET_HEADER_BYTES);
	payload[0] = acq_mode;
	put(payload + 2, number, 2);
	put(payload + 4, boardloc, 2);
	put(payload + 6, tai, 4);
	put(payload + 10, nsec, 4);
	for (unsigned k = 0; k < PACKET_PIXELS; k++)
		put(payload + PACKET_HEADER_BYTES + k * pixel_bytes, fill, pixel_bytes);
	return PACKET_HEADER_BYTES + PACKET_PIXELS * pixel_bytes;
}

uint8_t *check_reserve(void *context, const struct frame_info *frame)
{
	struct check_frames *frames = context;

	if (frames->n == frames->size) {
		frames->size = frames->size ? 2 * frames->size : 64;
		frames->frame = realloc(frames->frame, frames->size * sizeof(*frames->frame));
		if (!frames->frame)
			abort();
	}
	frames->frame[frames->n].info = *frame;
	return frames->frame[frames->n++].bytes;
}

void check_frames_free(struct check_frames *frames)
{
	free(frames->frame);
	memset(frames, 0, sizeof(*frames));
}

enum packet_verdict check_feed(struct framer *framer, const struct module_table *modules,
			       const uint8_t *payload, size_t length, uint64_t recv_ns)
{
	uint32_t source = 0x0a000000u | (uint32_t)(packet_boardloc(payload, length) & 0x3ff);
	struct packet_info info;
	enum packet_verdict verdict = packet_check(payload, length, source, modules, &info);

	if (verdict == PACKET_OK) {
		info.recv_ns = info.clock_ns = recv_ns;
		framer_packet(framer, &info, payload + PACKET_HEADER_BYTES);
	}
	return verdict;
}

void check_vectors_open(struct check_vectors *vectors, const char *name)
{
	char path[8192];
	FILE *file;
	long size;

	find_vectors();
	snprintf(path, sizeof(path), "%s/%s.txt", vectors_folder, name);
	file = fopen(path, "r");
	if (!file || fseek(file, 0, SEEK_END) || (size = ftell(file)) < 0 ||
	    fseek(file, 0, SEEK_SET) || !(vectors->text = calloc(1, (size_t)size + 1)) ||
	    fread(vectors->text, 1, (size_t)size, file) != (size_t)size) {
		fprintf(stderr, "cannot read %s; run this in hashpipe/, by make test\n", path);
		exit(1);
	}
	fclose(file);
	vectors->next = vectors->text;
}

bool check_vectors_line(struct check_vectors *vectors)
{
	char *line = strsep(&vectors->next, "\n"), *word;

	vectors->n = 0;
	if (!line || !*line)
		return false;
	while ((word = strsep(&line, " ")))
		if (vectors->n < sizeof(vectors->word) / sizeof(*vectors->word))
			vectors->word[vectors->n++] = word;
	return true;
}

long long check_number(const struct check_vectors *vectors, unsigned word)
{
	char *end = NULL;
	long long number = word < vectors->n ? strtoll(vectors->word[word], &end, 10) : 0;

	if (!end || *end) {
		fprintf(stderr, "vectors: word %u of a line \"%s\" is no number\n", word,
			vectors->n ? vectors->word[0] : "");
		exit(1);
	}
	return number;
}

size_t check_hex(const struct check_vectors *vectors, unsigned word, uint8_t *bytes, size_t size)
{
	const char *text = vectors->word[word];
	size_t n = 0;

	for (; text[0] && text[1] && n < size; text += 2) {
		const char digits[3] = { text[0], text[1], '\0' };

		bytes[n++] = (uint8_t)strtoul(digits, NULL, 16);
	}
	return n;
}

void check_vectors_close(struct check_vectors *vectors)
{
	free(vectors->text);
	vectors->text = vectors->next = NULL;
}
