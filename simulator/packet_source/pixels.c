/* pixels.c -- see pixels.h */
#include "pixels.h"

#include <string.h>

enum { NOISE_BYTES = 65536, IMAGE_NOISE = 15, PH_NOISE = 31, PH_NOISE_OFFSET = 16 };

static uint8_t noise[NOISE_BYTES + PIXELS];

uint64_t pixels_mix(uint64_t value)
{
	value += 0x9E3779B97F4A7C15u;
	value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
	value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
	return value ^ (value >> 31);
}

void pixels_init(void)
{
	for (uint64_t index = 0; index < NOISE_BYTES / 8; index++) {
		uint64_t word = pixels_mix(index);
		memcpy(noise + 8 * index, &word, 8);
	}
	memcpy(noise + NOISE_BYTES, noise, PIXELS);
}

unsigned pixels_start(unsigned boardloc, enum stream_kind kind, unsigned number)
{
	return (number * 40503u + (unsigned)pixels_mix(boardloc * 2u + kind)) & 0xFFFFu;
}

uint8_t pixels_noise(unsigned index)
{
	return noise[index];
}

void pixels_image_mask(const uint16_t levels[PIXELS], uint16_t saturation, uint16_t mask[PIXELS])
{
	for (int p = 0; p < PIXELS; p++)
		mask[p] = levels[p] > 0 && levels[p] < saturation ? IMAGE_NOISE : 0;
}

void pixels_image16(const uint16_t levels[PIXELS], const uint16_t mask[PIXELS], unsigned start,
		    uint8_t out[2 * PIXELS])
{
	const uint8_t *terms = noise + start;
	uint16_t values[PIXELS];

	for (int p = 0; p < PIXELS; p++)
		values[p] = levels[p] + (terms[p] & mask[p]);
	memcpy(out, values, sizeof values);
}

void pixels_image8(const uint16_t levels[PIXELS], const uint16_t mask[PIXELS], unsigned start,
		   uint8_t out[PIXELS])
{
	const uint8_t *terms = noise + start;

	for (int p = 0; p < PIXELS; p++)
		out[p] = (uint8_t)(levels[p] + (terms[p] & mask[p]));
}

void pixels_ph(const int16_t pattern[PIXELS], const int16_t offset[PIXELS], unsigned start,
	       uint8_t out[2 * PIXELS])
{
	const uint8_t *terms = noise + start;
	int amplitude = 16 + (noise[(start * 7 + 1) & 0xFFFF] & 15);
	int16_t values[PIXELS];

	for (int p = 0; p < PIXELS; p++) {
		int value = offset[p] + ((pattern[p] * amplitude) >> 4) + (terms[p] & PH_NOISE) -
			    PH_NOISE_OFFSET;
		values[p] = (int16_t)(value > 32767 ? 32767 : value < -32768 ? -32768 : value);
	}
	memcpy(out, values, sizeof values);
}
