/* orient.h -- turning a board's pixels the way they look at the sky, into their place in an image.
 *
 * Boards sit in a module each turned by a quarter: quabo 0 is upper left (turned 90 degrees
 * clockwise), 1 upper right (180), 2 lower right (270), 3 lower left (not turned).  A packet's
 * pixel (i, j) is number 16*i+j; for quabo 0..3 it goes to row, column of the turned board
 *     (j, 15-i)   (15-i, 15-j)   (15-j, i)   (i, j).
 */
#ifndef PANOSETI_ORIENT_H
#define PANOSETI_ORIENT_H

#include <stddef.h>
#include <stdint.h>

enum {
	BOARD_SIDE = 16,  /* pixels of a board's row and column */
	MODULE_SIDE = 32, /* same of a module */
};

/* Byte offset of a board's quadrant in a 32x32 module image of 1- or 2-byte pixels. */
size_t orient_quadrant(unsigned quabo, unsigned pixel_bytes);

/* Writes the 256 pixels at `pixels` (wire order) turned to `image`, whose rows are `row_bytes`
 * apart: 32 for img8, 64 for img16 and ph1024 (add orient_quadrant), 32 for a board alone in
 * 16 bits.  Source and target may have any alignment but must not overlap. */
void orient_board(uint8_t *image, size_t row_bytes, const uint8_t *pixels, unsigned quabo,
		  unsigned pixel_bytes);

/* The same, pixel by pixel: the definition, and what machines without SSE2 use. */
void orient_board_scalar(uint8_t *image, size_t row_bytes, const uint8_t *pixels, unsigned quabo,
			 unsigned pixel_bytes);

/* Zero pixels in place of a board that is absent. */
void orient_clear(uint8_t *image, size_t row_bytes, unsigned pixel_bytes);

#endif
