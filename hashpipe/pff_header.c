/* pff_header.c -- see pff_header.h */
#include "pff_header.h"

#include <assert.h>
#include <string.h>

#define BOARD_NUMBERS                                                                              \
	"\"pkt_num\":           , \"pkt_tai\":     , \"pkt_nsec\":          , "                    \
	"\"tv_sec\":           , \"tv_usec\":       }"
#define MODULE_LINE(q) "   \"quabo_" q "\": { " BOARD_NUMBERS

static const char board_template[] = "{ \"quabo_num\":  , " BOARD_NUMBERS "\n\n*";
static const char module_template[] = "{\n" MODULE_LINE("0") ", \n" MODULE_LINE(
	"1") ", \n" MODULE_LINE("2") ", \n" MODULE_LINE("3") "\n}\n\n*";

static_assert(sizeof(board_template) - 1 == PFF_BOARD_HEADER_BYTES, "ph256 header text");
static_assert(sizeof(module_template) - 1 == PFF_MODULE_HEADER_BYTES, "module header text");

/* Offsets of numbers and of the first byte after each; the same for ph256 and for quabo_0. */
enum {
	QUABO_NUM_AT = 15,
	NUMBER_END = 39,
	TAI_END = 56,
	NSEC_END = 79,
	TV_SEC_AT = 91,
	TV_SEC_END = 101,
	TV_USEC_END = 120,
	NEXT_QUABO = 122, /* from a number of one board to the same of the next */
};

static const char two_digits[] = "00010203040506070809101112131415161718192021222324"
				 "25262728293031323334353637383940414243444546474849"
				 "50515253545556575859606162636465666768697071727374"
				 "75767778798081828384858687888990919293949596979899";

/* Decimal digits of `value` so that the last one stands just before `end`. */
static inline void put_number(char *end, uint32_t value)
{
	while (value >= 100) {
		end -= 2;
		memcpy(end, two_digits + 2 * (value % 100), 2);
		value /= 100;
	}
	if (value >= 10)
		memcpy(end - 2, two_digits + 2 * value, 2);
	else
		end[-1] = (char)('0' + value);
}

static inline void put_board(char *text, const struct pff_board *board)
{
	put_number(text + NUMBER_END, board->number);
	put_number(text + TAI_END, board->tai);
	put_number(text + NSEC_END, board->nsec < PFF_MAX_NSEC ? board->nsec : PFF_MAX_NSEC);
	put_number(text + TV_USEC_END, board->tv_usec);
}

void pff_board_header(char *out, unsigned quabo, const struct pff_board *board)
{
	memcpy(out, board_template, PFF_BOARD_HEADER_BYTES);
	out[QUABO_NUM_AT] = (char)('0' + (quabo & 3));
	put_board(out, board);
	put_number(out + TV_SEC_END, board->tv_sec);
}

void pff_module_header(char *out, const struct pff_board board[4])
{
	memcpy(out, module_template, PFF_MODULE_HEADER_BYTES);
	for (unsigned quabo = 0; quabo < 4; quabo++) {
		char *text = out + quabo * NEXT_QUABO;

		put_board(text, &board[quabo]);
		/* Nearly always the second of the board before. */
		if (quabo && board[quabo].tv_sec == board[quabo - 1].tv_sec)
			memcpy(text + TV_SEC_AT, text + TV_SEC_AT - NEXT_QUABO,
			       TV_SEC_END - TV_SEC_AT);
		else
			put_number(text + TV_SEC_END, board[quabo].tv_sec);
	}
}
