/* check.h -- what the unit tests share: checks that go on after a failure, packets, vectors. */
#ifndef PANOSETI_CHECK_H
#define PANOSETI_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "framer.h"
#include "module_config.h"
#include "packet.h"

enum { CHECK_SKIPPED = 77 };

/* Counts a failure and says where, with what was found. */
#define CHECK(condition) check_that((condition), #condition, __FILE__, __LINE__)
#define CHECK_EQUAL(found, wanted)                                                                 \
	check_equal((long long)(found), (long long)(wanted), #found, __FILE__, __LINE__)
#define CHECK_TEXT(found, wanted) check_text((found), (wanted), #found, __FILE__, __LINE__)
#define CHECK_BYTES(found, wanted, n)                                                              \
	check_bytes((found), (wanted), (n), #found, __FILE__, __LINE__)

bool check_that(bool holds, const char *what, const char *file, int line);
bool check_equal(long long found, long long wanted, const char *what, const char *file, int line);
bool check_text(const char *found, const char *wanted, const char *what, const char *file,
		int line);
bool check_bytes(const void *found, const void *wanted, size_t n, const char *what,
		 const char *file, int line);

/* What follows belongs to this case; named with its failures. */
void check_case(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* What main returns: 0, or 1 if any check failed. */
int check_result(void);

/* Makes a scratch directory the working directory; removed, with all in it, at exit. */
void check_scratch(void);

/* splitmix64: the same numbers on every machine. */
uint64_t check_random(uint64_t *state);

/* A table of modules from ids that end with -1. */
void check_modules(struct module_table *table, const int *ids);

/* Writes a science packet whose pixels all are `fill`; its length.  All else as named. */
size_t check_packet(uint8_t *payload, uint8_t acq_mode, uint16_t boardloc, uint16_t number,
		    uint16_t tai, uint32_t nsec, uint16_t fill);

/* Frames as a framer gives them out. */
struct check_frames {
	unsigned n, size;
	struct check_frame {
		struct frame_info info;
		uint8_t bytes[FRAME_MAX_BYTES];
	} * frame;
};

/* A framer_reserve; context is a struct check_frames, all zero before. */
uint8_t *check_reserve(void *context, const struct frame_info *frame);
void check_frames_free(struct check_frames *frames);

/* Gives a packet to a framer as the pipeline would, if it is good; what the check said. */
enum packet_verdict check_feed(struct framer *framer, const struct module_table *modules,
			       const uint8_t *payload, size_t length, uint64_t recv_ns);

/* The lines of a file of vectors (build/vectors, made by vectors.py), each cut into words. */
struct check_vectors {
	char *text, *next;
	unsigned n;
	char *word[2048];
};
void check_vectors_open(struct check_vectors *vectors, const char *name);
bool check_vectors_line(struct check_vectors *vectors);
long long check_number(const struct check_vectors *vectors, unsigned word);
/* Bytes of a word in hex; how many. */
size_t check_hex(const struct check_vectors *vectors, unsigned word, uint8_t *bytes, size_t size);
void check_vectors_close(struct check_vectors *vectors);

#endif
