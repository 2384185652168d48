/* pixels.h -- the pixel values of a packet, a known function of tables and packet number.
 *
 * The same arithmetic stands in simulator/sky.py, where it is explained; a test compares both.
 * Everything on the wire is little-endian; so are the machines this runs on. */
#ifndef PIXELS_H
#define PIXELS_H

#include <stdint.h>

enum { PIXELS = 256 };
enum stream_kind { IMAGE, PH, STREAM_KINDS };

/* Fill the noise table.  Call once, before anything else of this file. */
void pixels_init(void);

/* 64 well-mixed bits of a number (finaliser of splitmix64). */
uint64_t pixels_mix(uint64_t value);

/* Where in the noise table the terms of one packet begin. */
unsigned pixels_start(unsigned boardloc, enum stream_kind kind, unsigned number);

/* One byte of the noise table, 0 <= index < 65536 + PIXELS. */
uint8_t pixels_noise(unsigned index);

/* mask[p] = the noise bits that go on top of levels[p]: none where it is 0 or saturated. */
void pixels_image_mask(const uint16_t levels[PIXELS], uint16_t saturation, uint16_t mask[PIXELS]);

/* The pixels of an image packet, 2 or 1 bytes each (levels then fit in a byte). */
void pixels_image16(const uint16_t levels[PIXELS], const uint16_t mask[PIXELS], unsigned start,
		    uint8_t out[2 * PIXELS]);
void pixels_image8(const uint16_t levels[PIXELS], const uint16_t mask[PIXELS], unsigned start,
		   uint8_t out[PIXELS]);

/* The pixels of a PH packet: 16 bits, signed. */
void pixels_ph(const int16_t pattern[PIXELS], const int16_t offset[PIXELS], unsigned start,
	       uint8_t out[2 * PIXELS]);

#endif
