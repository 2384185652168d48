/* pff_header.h -- the JSON text in front of the pixels of a frame, of fixed width.
 *
 * Written without printf: the text never changes but for its numbers, which are right-justified
 * in blanks.  A frame is this text, two newlines, one '*', and the pixels.
 */
#ifndef PANOSETI_PFF_HEADER_H
#define PANOSETI_PFF_HEADER_H

#include <stdint.h>

enum {
	PFF_BOARD_TEXT_BYTES = 121,  /* ph256: one board */
	PFF_MODULE_TEXT_BYTES = 489, /* img8, img16, ph1024: four boards */
	PFF_SEPARATOR_BYTES = 3,     /* two newlines and the star */
	PFF_BOARD_HEADER_BYTES = PFF_BOARD_TEXT_BYTES + PFF_SEPARATOR_BYTES,
	PFF_MODULE_HEADER_BYTES = PFF_MODULE_TEXT_BYTES + PFF_SEPARATOR_BYTES,
	PFF_MAX_NSEC = 999999999, /* larger values are written as this one */
};

/* The numbers of one board in a frame; all zero for a board that is absent. */
struct pff_board {
	uint16_t number; /* pkt_num */
	uint16_t tai;	 /* pkt_tai, 0..1023 */
	uint32_t nsec;	 /* pkt_nsec, as sent */
	uint32_t tv_sec; /* computer's clock when the packet was taken from the network */
	uint32_t tv_usec;
};

/* Writes text and separator of a ph256 frame: PFF_BOARD_HEADER_BYTES at `out`. */
void pff_board_header(char *out, unsigned quabo, const struct pff_board *board);

/* Writes text and separator of a module frame: PFF_MODULE_HEADER_BYTES at `out`. */
void pff_module_header(char *out, const struct pff_board board[4]);

#endif
