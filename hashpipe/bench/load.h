/* load.h -- the packets of the benchmark: what the sender sends and the checker expects.
 *
 * `modules` modules, ids from 1 on, all boards at the same times.  Everything in a packet follows
 * from the board and the frame's index k: time, packet number, pixels.  Times begin a second
 * before the 10-bit seconds wrap, so that every recording crosses the wrap.
 */
#ifndef PANOSETI_BENCH_LOAD_H
#define PANOSETI_BENCH_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	LOAD_QUABOS = 4,
	LOAD_PIXELS = 256,
	LOAD_HEADER = 16,
	LOAD_SKEW_NS = 4, /* between the boards of a module */
};

#define LOAD_TAI_PERIOD_NS (1024ull * 1000000000ull)
#define LOAD_BEGIN_NS (1023ull * 1000000000ull)

struct load_kind {
	const char *name; /* of the product */
	uint8_t acq_mode;
	unsigned pixel_bytes;
	unsigned boards; /* in a frame */
	unsigned side;
};

/* By the name of the product: img16, img8, ph256 or ph1024; NULL if there is none. */
const struct load_kind *load_kind(const char *name);

static inline unsigned load_boardloc(unsigned module, unsigned quabo)
{
	return (module + 1) * LOAD_QUABOS + quabo;
}

/* Time of frame k at a board, on the circle of 1024 s. */
static inline uint64_t load_time_ns(uint64_t k, unsigned quabo, uint64_t period_ns)
{
	return (LOAD_BEGIN_NS + k * period_ns + quabo * LOAD_SKEW_NS) % LOAD_TAI_PERIOD_NS;
}

/* The 256 pixels, of either size, of frame k of a board, as they go into the packet. */
const uint8_t *load_pixels(unsigned boardloc, uint64_t k);

/* A decimal argument of a program; ends it with a message if it is none. */
uint64_t load_number(const char *text, const char *what);

uint64_t load_clock_ns(void); /* CLOCK_MONOTONIC */
double load_cpu_s(void);      /* of this process, user and system */

/* From now on SIGINT and SIGTERM set load_ended and interrupt system calls. */
extern volatile bool load_ended;
void load_catch_signals(void);

#endif
