/* product.c -- see product.h */
#include "product.h"

const struct product_facts product_facts[PRODUCT_COUNT] = {
	[PRODUCT_IMG16] = { "img16", 2, IMG16_FRAME_BYTES, 0, 0xf },
	[PRODUCT_IMG8] = { "img8", 1, IMG8_FRAME_BYTES, 0, 0xf },
	[PRODUCT_PH256] = { "ph256", 2, PH256_FRAME_BYTES, 1, 0 },
	[PRODUCT_PH1024] = { "ph1024", 2, PH1024_FRAME_BYTES, 1, 0xf },
};
