/* assembly.h -- joining the packets of a module's four boards into frames.
 *
 * One ring per module for images and one for grouped pulse height, each with room for so many
 * frames in the making.  Two packets belong together when their times (full time, seconds included)
 * fit into the window; a frame then spans at most the window.  A packet that fits several frames
 * goes to the earliest.
 *
 * Frames leave in the order of their times.  A frame waits while a board is missing from it, or
 * while the packet before one of its own has not been seen (an earlier frame may be on its way).
 * The waiting ends when of every board waited for ASSEMBLY_PASSED later packets are there, when the
 * frame is ASSEMBLY_TIMEOUT_NS old, or when the ring is full: then the frame that was begun first
 * leaves, incomplete or not.
 */
#ifndef PANOSETI_ASSEMBLY_H
#define PANOSETI_ASSEMBLY_H

#include <stdbool.h>
#include <stdint.h>

#include "packet.h"
#include "pff_header.h"
#include "sequence.h"

enum {
	/* Room for the frames in the making.  Images: the packets of one board may be 41 ms behind
	 * the others' at 20 us.  Pulse heights: as in the deployed pipeline; they are not as many.
	 */
	ASSEMBLY_IMAGES = 2048,
	ASSEMBLY_PULSES = 256,
	ASSEMBLY_PASSED = 66, /* packets: one that 64 of its own board have overtaken is in time */
	ASSEMBLY_HISTORY = 64,
};

#define ASSEMBLY_IMAGE_WINDOW_NS 100
#define ASSEMBLY_PH_WINDOW_NS 25
#define ASSEMBLY_TIMEOUT_NS 250000000ull
/* Times further apart than this are not compared as earlier and later: a clock was set. */
#define ASSEMBLY_NEAR_NS 500000000ll

/* A frame in the making. */
struct assembly {
	uint64_t earliest_ns, latest_ns; /* board times of its packets */
	uint64_t time_ns[MODULE_QUABOS];
	uint64_t begun_ns;	 /* receive clock at its first packet */
	uint16_t earlier, later; /* neighbours in time */
	uint16_t older, younger; /* neighbours in order of begin */
	uint8_t boards;		 /* bit q set: board q is in it */
	uint8_t unpreceded;	 /* bit q set: q's packet is the first of its stream */
	uint8_t pixel_bytes;
	uint8_t stream[MODULE_QUABOS];
	struct pff_board board[MODULE_QUABOS];
	_Alignas(64) uint8_t pixels[2 * 4 * PACKET_PIXELS];
};

/* Takes a frame that leaves, complete or not; pixels of absent boards are zero.  The frame is
 * valid during the call only. */
typedef void assembly_emit(void *context, const struct assembly *frame);

struct assembly_ring;

enum assembly_verdict {
	ASSEMBLY_TAKEN,
	ASSEMBLY_LATE, /* its frame has left already: not recorded */
};

/* New ring for `frames` in the making, NULL without memory.  `sequences` are the module's, as noted
 * before each assembly_add; the caller keeps them and frees the ring with assembly_ring_free. */
struct assembly_ring *assembly_ring_new(unsigned frames, int64_t window_ns,
					struct sequence (*sequences)[STREAM_COUNT],
					assembly_emit *emit, void *context);
void assembly_ring_free(struct assembly_ring *ring);

/* Adds a packet.  `order` is what sequence_note() said of it, not SEQUENCE_DUPLICATE. */
enum assembly_verdict assembly_add(struct assembly_ring *ring, const struct packet_info *packet,
				   const uint8_t *pixels, enum sequence_verdict order);

/* Lets go what has waited long enough at `clock_ns`, given that everything received before that
 * time has been added. */
void assembly_expire(struct assembly_ring *ring, uint64_t clock_ns);

/* Lets all frames go, in order of time. */
void assembly_flush(struct assembly_ring *ring);

/* Frames in the making. */
unsigned assembly_waiting(const struct assembly_ring *ring);

#endif
