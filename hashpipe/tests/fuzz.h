/* fuzz.h -- targets that take any bytes, and the driver that feeds them.
 *
 * A target may be given anything, and ends the process when something is wrong that no sanitizer
 * would see.  `make test` links each with fuzz_driver.c, which replays tests/corpus/<target> and
 * some thousand mutations of it, the same ones every time; `make fuzz` links them with clang's
 * libFuzzer instead.
 */
#ifndef PANOSETI_FUZZ_H
#define PANOSETI_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                                         \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__,           \
				#condition);                                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

#endif
