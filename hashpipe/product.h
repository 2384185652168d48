/* product.h -- the four data products and the files they go to. */
#ifndef PANOSETI_PRODUCT_H
#define PANOSETI_PRODUCT_H

#include <stddef.h>
#include <stdint.h>

#include "module_config.h"
#include "packet.h"
#include "pff_header.h"

enum product {
	PRODUCT_IMG16,
	PRODUCT_IMG8,
	PRODUCT_PH256,
	PRODUCT_PH1024,
	PRODUCT_COUNT,
};

enum {
	MODULE_PIXELS = 4 * PACKET_PIXELS,
	IMG16_FRAME_BYTES = PFF_MODULE_HEADER_BYTES + 2 * MODULE_PIXELS,
	IMG8_FRAME_BYTES = PFF_MODULE_HEADER_BYTES + MODULE_PIXELS,
	PH256_FRAME_BYTES = PFF_BOARD_HEADER_BYTES + 2 * PACKET_PIXELS,
	PH1024_FRAME_BYTES = IMG16_FRAME_BYTES,
	FRAME_MAX_BYTES = IMG16_FRAME_BYTES,
	FILES_MAX = MODULE_IDS * PRODUCT_COUNT,
};

struct product_facts {
	const char *name;     /* dp_ piece of the file name */
	unsigned pixel_bytes; /* bpp_ piece */
	unsigned frame_bytes;
	unsigned counter;   /* img8 and img16 share one file counter, ph256 and ph1024 another */
	uint8_t whole_mask; /* boards of a complete frame; 0: any single board */
};

extern const struct product_facts product_facts[PRODUCT_COUNT];

/* A frame on its way to its file. */
struct frame_info {
	uint32_t offset;	       /* of its bytes in the block's store */
	uint16_t module;	       /* index into the module table */
	uint8_t product;	       /* enum product */
	uint8_t boards;		       /* bit q set: board q is in it */
	uint8_t stream[MODULE_QUABOS]; /* stream of each board in it */
};

static inline unsigned frame_file(const struct frame_info *frame)
{
	return frame->module * (unsigned)PRODUCT_COUNT + frame->product;
}

#endif
