/* Turning of pixels: the definition, and the vector code against it, at every alignment. */
#include <string.h>

#include "check.h"
#include "orient.h"

enum { IMAGE_BYTES = 2 * MODULE_SIDE * MODULE_SIDE, GUARD = 64 };

/* Where packet pixel (i, j) of each board is seen in the module image. */
static void test_definition(void)
{
	for (unsigned quabo = 0; quabo < 4; quabo++) {
		uint16_t pixels[256], image[MODULE_SIDE][MODULE_SIDE];

		for (unsigned k = 0; k < 256; k++)
			pixels[k] = (uint16_t)(1000 * quabo + k + 1);
		memset(image, 0, sizeof(image));
		orient_board_scalar((uint8_t *)image + orient_quadrant(quabo, 2), 2 * MODULE_SIDE,
				    (uint8_t *)pixels, quabo, 2);
		for (unsigned i = 0; i < 16; i++) {
			for (unsigned j = 0; j < 16; j++) {
				const unsigned row[4] = { j, 15 - i, 31 - j, 16 + i };
				const unsigned column[4] = { 15 - i, 31 - j, 16 + i, j };

				CHECK_EQUAL(image[row[quabo]][column[quabo]], pixels[16 * i + j]);
			}
		}
	}
}

static void compare(unsigned quabo, unsigned pixel_bytes, size_t row_bytes, unsigned from,
		    unsigned to, uint64_t *state)
{
	uint8_t pixels[512 + GUARD], fast[IMAGE_BYTES + 2 * GUARD], slow[IMAGE_BYTES + 2 * GUARD];

	check_case("quabo %u, %u bytes, rows of %zu, from %u to %u", quabo, pixel_bytes, row_bytes,
		   from, to);
	for (unsigned k = 0; k < sizeof(pixels); k++)
		pixels[k] = (uint8_t)check_random(state);
	memset(fast, 0xee, sizeof(fast));
	memset(slow, 0xee, sizeof(slow));
	orient_board(fast + GUARD + to, row_bytes, pixels + from, quabo, pixel_bytes);
	orient_board_scalar(slow + GUARD + to, row_bytes, pixels + from, quabo, pixel_bytes);
	CHECK_BYTES(fast, slow, sizeof(fast)); /* nothing beside the 256 pixels is touched */
}

static void test_twins(void)
{
	uint64_t state = 3;

	for (unsigned quabo = 0; quabo < 4; quabo++) {
		for (unsigned shift = 0; shift < 64; shift++) {
			compare(quabo, 2, 64, shift % 17, shift % 31, &state);
			compare(quabo, 1, 32, shift % 17, shift % 31, &state);
			compare(quabo, 2, 32, shift % 17, shift, &state); /* a board alone */
		}
	}
	check_case("%s", "");
}

static void test_clear(void)
{
	uint8_t image[IMAGE_BYTES];

	for (unsigned quabo = 0; quabo < 4; quabo++) {
		unsigned left = 0;

		memset(image, 1, sizeof(image));
		orient_clear(image + orient_quadrant(quabo, 2), 64, 2);
		for (unsigned k = 0; k < sizeof(image); k++)
			left += image[k];
		CHECK_EQUAL(left, 3 * 512);
	}
}

int main(void)
{
	test_definition();
	test_twins();
	test_clear();
	return check_result();
}
