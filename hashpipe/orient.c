/* orient.c -- see orient.h */
#include "orient.h"

#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

size_t orient_quadrant(unsigned quabo, unsigned pixel_bytes)
{
	static const uint8_t row[4] = { 0, 0, 16, 16 }, column[4] = { 0, 16, 16, 0 };

	return (row[quabo & 3] * (size_t)MODULE_SIDE + column[quabo & 3]) * pixel_bytes;
}

void orient_clear(uint8_t *image, size_t row_bytes, unsigned pixel_bytes)
{
	for (unsigned row = 0; row < BOARD_SIDE; row++)
		memset(image + row * row_bytes, 0, BOARD_SIDE * (size_t)pixel_bytes);
}

void orient_board_scalar(uint8_t *image, size_t row_bytes, const uint8_t *pixels, unsigned quabo,
			 unsigned pixel_bytes)
{
	for (unsigned i = 0; i < BOARD_SIDE; i++) {
		for (unsigned j = 0; j < BOARD_SIDE; j++, pixels += pixel_bytes) {
			unsigned row, column;

			switch (quabo & 3) {
			case 0:
				row = j, column = 15 - i;
				break;
			case 1:
				row = 15 - i, column = 15 - j;
				break;
			case 2:
				row = 15 - j, column = i;
				break;
			default:
				row = i, column = j;
			}
			memcpy(image + row * row_bytes + column * pixel_bytes, pixels, pixel_bytes);
		}
	}
}

#ifdef __SSE2__

/* Of a loop: so that its arrays become registers. */
#define ALL_IN_REGISTERS _Pragma("GCC unroll 16")

/* A quarter turn is a transposition with the rows of the source (90 degrees) or of the result
 * (270 degrees) taken from the other end. */

static inline __m128i load(const uint8_t *from)
{
	return _mm_loadu_si128((const __m128i *)from);
}

static inline void store(uint8_t *to, __m128i value)
{
	_mm_storeu_si128((__m128i *)to, value);
}

/* Transposes 8x8 words; row k of the source is at src + k*src_step, of the result dst + k*dst_step.
 */
static inline void transpose_8x8_words(uint8_t *dst, ptrdiff_t dst_step, const uint8_t *src,
				       ptrdiff_t src_step)
{
	__m128i a[8], b[8];

	ALL_IN_REGISTERS
	for (int k = 0; k < 8; k++)
		a[k] = load(src + k * src_step);
	ALL_IN_REGISTERS
	for (int k = 0; k < 4; k++) { /* three rounds of interleaving row k with row k+4 */
		b[2 * k] = _mm_unpacklo_epi16(a[k], a[k + 4]);
		b[2 * k + 1] = _mm_unpackhi_epi16(a[k], a[k + 4]);
	}
	ALL_IN_REGISTERS
	for (int k = 0; k < 4; k++) {
		a[2 * k] = _mm_unpacklo_epi16(b[k], b[k + 4]);
		a[2 * k + 1] = _mm_unpackhi_epi16(b[k], b[k + 4]);
	}
	ALL_IN_REGISTERS
	for (int k = 0; k < 4; k++) {
		store(dst + 2 * k * dst_step, _mm_unpacklo_epi16(a[k], a[k + 4]));
		store(dst + (2 * k + 1) * dst_step, _mm_unpackhi_epi16(a[k], a[k + 4]));
	}
}

static void quarter_turn_16(uint8_t *image, size_t row_bytes, const uint8_t *pixels, int clockwise)
{
	ptrdiff_t src_step = clockwise ? -32 : 32;
	ptrdiff_t dst_step = clockwise ? (ptrdiff_t)row_bytes : -(ptrdiff_t)row_bytes;
	const uint8_t *src = clockwise ? pixels + 15 * 32 : pixels;
	uint8_t *dst = clockwise ? image : image + 15 * row_bytes;

	for (int r = 0; r < 2; r++)
		for (int c = 0; c < 2; c++)
			transpose_8x8_words(dst + r * 8 * dst_step + c * 16, dst_step,
					    src + c * 8 * src_step + r * 16, src_step);
}

static void quarter_turn_8(uint8_t *image, size_t row_bytes, const uint8_t *pixels, int clockwise)
{
	ptrdiff_t src_step = clockwise ? -16 : 16;
	ptrdiff_t dst_step = clockwise ? (ptrdiff_t)row_bytes : -(ptrdiff_t)row_bytes;
	const uint8_t *src = clockwise ? pixels + 15 * 16 : pixels;
	uint8_t *dst = clockwise ? image : image + 15 * row_bytes;
	__m128i a[16], b[16];

	ALL_IN_REGISTERS
	for (int k = 0; k < 16; k++)
		a[k] = load(src + k * src_step);
	ALL_IN_REGISTERS
	for (int round = 0; round < 4; round++) { /* 16 rows need four rounds */
		ALL_IN_REGISTERS
		for (int k = 0; k < 8; k++) {
			b[2 * k] = _mm_unpacklo_epi8(a[k], a[k + 8]);
			b[2 * k + 1] = _mm_unpackhi_epi8(a[k], a[k + 8]);
		}
		memcpy(a, b, sizeof(a));
	}
	ALL_IN_REGISTERS
	for (int k = 0; k < 16; k++)
		store(dst + k * dst_step, a[k]);
}

static void no_turn(uint8_t *image, size_t row_bytes, const uint8_t *pixels, unsigned pixel_bytes)
{
	for (int i = 0; i < BOARD_SIDE; i++) {
		uint8_t *row = image + (size_t)i * row_bytes;

		if (pixel_bytes == 2) {
			store(row, load(pixels + i * 32));
			store(row + 16, load(pixels + i * 32 + 16));
		} else {
			store(row, load(pixels + i * 16));
		}
	}
}

static inline __m128i reverse_words(__m128i v)
{
	v = _mm_shufflelo_epi16(v, _MM_SHUFFLE(0, 1, 2, 3));
	v = _mm_shufflehi_epi16(v, _MM_SHUFFLE(0, 1, 2, 3));
	return _mm_shuffle_epi32(v, _MM_SHUFFLE(1, 0, 3, 2));
}

static inline __m128i reverse_bytes(__m128i v)
{
	return reverse_words(_mm_or_si128(_mm_slli_epi16(v, 8), _mm_srli_epi16(v, 8)));
}

static void half_turn(uint8_t *image, size_t row_bytes, const uint8_t *pixels, unsigned pixel_bytes)
{
	for (int i = 0; i < BOARD_SIDE; i++) {
		uint8_t *row = image + (size_t)(15 - i) * row_bytes;

		if (pixel_bytes == 2) {
			store(row + 16, reverse_words(load(pixels + i * 32)));
			store(row, reverse_words(load(pixels + i * 32 + 16)));
		} else {
			store(row, reverse_bytes(load(pixels + i * 16)));
		}
	}
}

void orient_board(uint8_t *image, size_t row_bytes, const uint8_t *pixels, unsigned quabo,
		  unsigned pixel_bytes)
{
	switch (quabo & 3) {
	case 1:
		half_turn(image, row_bytes, pixels, pixel_bytes);
		return;
	case 3:
		no_turn(image, row_bytes, pixels, pixel_bytes);
		return;
	default:
		if (pixel_bytes == 2)
			quarter_turn_16(image, row_bytes, pixels, (quabo & 3) == 0);
		else
			quarter_turn_8(image, row_bytes, pixels, (quabo & 3) == 0);
	}
}

#else

void orient_board(uint8_t *image, size_t row_bytes, const uint8_t *pixels, unsigned quabo,
		  unsigned pixel_bytes)
{
	orient_board_scalar(image, row_bytes, pixels, quabo, pixel_bytes);
}

#endif
