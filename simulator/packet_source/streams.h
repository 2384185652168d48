/* streams.h -- the boards, their two streams (images, pulse height), and making packets.
 *
 * Times are Unix time in ns.  Nothing here prints; set-up may allocate, sending does not. */
#ifndef STREAMS_H
#define STREAMS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "pixels.h"
#include "sender.h"

enum { BOARDS_MAX = 1024, HELD_MAX = 80, TAI_MINUS_UTC_S = 37 };

/* Kinds of packets a receiver must refuse. */
enum malformed_kind { BAD_LENGTH, BAD_ACQ_MODE, UNKNOWN_MODULE, SOURCE_MISMATCH, MALFORMED_KINDS };
extern const char *const malformed_names[MALFORMED_KINDS];

/* Spoiling on purpose; the fate of a packet depends on seed, board, stream and count alone. */
struct spoil {
	double loss, duplicate, reorder, malformed; /* fractions, sum <= 1 */
	unsigned depth; /* later packets that overtake a reordered one */
	unsigned kinds; /* bit set of enum malformed_kind */
	uint64_t seed;
	int64_t skew_ns;      /* added to the image time stamps */
	uint32_t late_pps_ns; /* so long after a second the old one still counts on */
};

/* A packet kept back to be overtaken. */
struct held {
	uint64_t release; /* goes out when `produced` has reached this */
	uint64_t count;	  /* `produced` when it was made */
	uint16_t length;
	uint8_t bytes[SENDER_DATAGRAM];
};

struct stream {
	bool active, flood;
	enum stream_kind kind;
	struct sockaddr_in destination;
	uint8_t acq_mode;
	uint16_t pixel_bytes; /* 512 or 256 */
	uint16_t number;      /* of the next packet, cleared by reset */
	uint64_t frames_left; /* 0 = no limit */
	int64_t period_ns;    /* images: frame interval; PH: periodic events, 0 = none */
	double poisson_hz;    /* PH: random events, 0 = none */
	int64_t next_ns;      /* when the next packet is due */
	int64_t poisson_ns, periodic_ns;
	uint64_t random; /* state of the event times */
	bool external;	 /* PH: also read out when a sibling triggers */

	/* Accounts: produced = sent + dropped + send_errors + still held. */
	uint64_t produced, dropped, duplicated, reordered, out_of_order;
	uint64_t malformed[MALFORMED_KINDS], malformed_turn;
	uint64_t highest; /* count of the latest packet sent + 1 */
	int64_t first_ns, last_ns;
	struct sender_tally tally, extra; /* packets; spoiling copies and malformed ones */

	unsigned held_first, held_count;
	struct held *held; /* HELD_MAX of them, allocated when first wanted */
};

struct board {
	struct in_addr address;
	uint16_t boardloc;
	struct spoil spoil;
	uint16_t levels[PIXELS], mask[PIXELS];
	int16_t pattern[PIXELS], offset[PIXELS];
	struct stream streams[STREAM_KINDS];
};

struct observatory {
	struct sender *sender;
	unsigned boards;
	struct board board[BOARDS_MAX];
	int16_t by_boardloc[BOARDS_MAX]; /* low 10 bits of BOARDLOC -> index, or -1 */
	int64_t last_event_ns[BOARDS_MAX / 4];
};

/* Forget all boards.  `sender` is the caller's. */
void observatory_init(struct observatory *all, struct sender *sender);

/* Add a board, or find it.  NULL when there is no room. */
struct board *observatory_add(struct observatory *all, struct in_addr address, unsigned boardloc);
struct board *observatory_find(struct observatory *all, struct in_addr address);

/* Begin sending from `now` on: the first due time is set.  The stream's settings are filled in. */
void stream_start(struct board *board, struct stream *stream, int64_t now);

/* End it; packets kept back go out. */
void stream_stop(struct observatory *all, struct board *board, struct stream *stream);

/* Make and queue what is due at stream->next_ns, and set the next due time. */
void stream_fire(struct observatory *all, struct board *board, struct stream *stream);

/* One packet of a flood, stamped `stamp`. */
void stream_flood(struct observatory *all, struct board *board, struct stream *stream,
		  int64_t stamp);

#endif
