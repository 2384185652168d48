/* blocks.h -- the two ring buffers between the three threads.
 *
 *   net thread --(packet blocks)--> compute thread --(frame blocks)--> output thread
 *
 * A block belongs to its producer while free and to its consumer while filled;
 * hashpipe_databuf_set_filled and _set_free hand it over.  Blocks are handed over when full or
 * when GATHER_MS have passed, so that at low rates data reach the disk soon.  The last block of a
 * run carries `end`.  The rings are created with header_size = offsetof(..., block).
 *
 * Blocks are not used in turn: each names the one that follows it, and the producer takes the
 * first that is free.  As long as the consumer keeps up, the same few blocks go to and fro, which
 * stay in the processor's cache; the rest of a ring is touched only when a backlog needs it.
 */
#ifndef PANOSETI_BLOCKS_H
#define PANOSETI_BLOCKS_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "hashpipe.h"
#include "packet.h"
#include "product.h"

enum {
	CACHE_LINE = 64,
	PACKET_BLOCK_PACKETS = 4096,
	/* Room for what a packet block becomes, in any product, when no board is missing. */
	FRAME_BLOCK_FRAMES = PACKET_BLOCK_PACKETS,
	FRAME_BLOCK_BYTES = PACKET_BLOCK_PACKETS * 640,
	PACKET_BLOCKS_DEFAULT = 16, /* 37 MB: 65000 packets */
	FRAME_BLOCKS_DEFAULT = 38,  /* 101 MB: 38000 module images, or 155000 packets */
	BLOCKS_MIN = 4,
	BLOCKS_MAX = 8192,
};

struct packet_block_header {
	_Atomic uint32_t handed_over; /* makes the hand-over visible to race detectors too */
	uint32_t n;		      /* packets */
	uint32_t end;		      /* 1: nothing comes after this block */
	int32_t next;		      /* block that is filled after this one */
};

struct packet_block {
	_Alignas(CACHE_LINE) struct packet_block_header header;
	_Alignas(CACHE_LINE) struct packet_info info[PACKET_BLOCK_PACKETS];
	_Alignas(CACHE_LINE) uint8_t payload[PACKET_BLOCK_PACKETS][PACKET_MAX_BYTES];
};

struct packet_databuf {
	hashpipe_databuf_t base;
	_Alignas(CACHE_LINE) struct packet_block block[];
};

struct frame_block_header {
	_Atomic uint32_t handed_over;
	uint32_t n;	/* frames */
	uint32_t bytes; /* used of the store */
	uint32_t end;	/* 1: nothing comes after this block */
	int32_t next;	/* block that is filled after this one */
};

struct frame_block {
	_Alignas(CACHE_LINE) struct frame_block_header header;
	_Alignas(CACHE_LINE) struct frame_info info[FRAME_BLOCK_FRAMES];
	_Alignas(CACHE_LINE) uint8_t store[FRAME_BLOCK_BYTES];
};

struct frame_databuf {
	hashpipe_databuf_t base;
	_Alignas(CACHE_LINE) struct frame_block block[];
};

/* Make the rings; for the buffer descriptions of the threads.  NULL: the operator has been told. */
hashpipe_databuf_t *blocks_create_packet_ring(int instance_id, int databuf_id);
hashpipe_databuf_t *blocks_create_frame_ring(int instance_id, int databuf_id);

/* The block to fill after `block`, for its producer just before it hands that over.  It may still
 * have to be waited for. */
int blocks_next(hashpipe_databuf_t *ring, int block);

static_assert(sizeof(struct packet_block) % CACHE_LINE == 0, "blocks must not share a cache line");
static_assert(sizeof(struct frame_block) % CACHE_LINE == 0, "blocks must not share a cache line");

#endif
