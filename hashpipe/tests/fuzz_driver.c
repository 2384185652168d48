/* fuzz_driver.c -- replays a target's corpus and mutations of it, without libFuzzer.
 *
 *   fuzz_<target> [MUTATIONS [SEED]]
 *
 * The input in hand when the target ends the process is left in build/<target>.crash.
 */
#include <dirent.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "fuzz.h"

#ifdef __SANITIZE_THREAD__
enum { MUTATIONS = 100 }; /* slow there, and there is only one thread */
#else
enum { MUTATIONS = 1500 };
#endif

enum {
	INPUTS_MAX = 1000,
	INPUT_BYTES = 4096,
	STEPS_MAX = 8,
};

struct input {
	size_t size;
	uint8_t bytes[INPUT_BYTES];
};

static struct input *inputs[INPUTS_MAX], hand;
static unsigned n_inputs;
static char crash_path[256];
static uint64_t state;

static size_t below(size_t limit)
{
	return limit ? (size_t)(check_random(&state) % limit) : 0;
}

static void read_input(const char *folder, const char *name)
{
	struct input *input = calloc(1, sizeof(*input));
	char path[512];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "rb");
	if (!file || !input || n_inputs == INPUTS_MAX) {
		perror(path);
		exit(1);
	}
	input->size = fread(input->bytes, 1, sizeof(input->bytes), file);
	fclose(file);
	inputs[n_inputs++] = input;
}

static int visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void read_corpus(const char *target)
{
	struct dirent **entries;
	char folder[256];
	int n;

	snprintf(folder, sizeof(folder), "tests/corpus/%s", target);
	n = scandir(folder, &entries, visible, alphasort); /* the same order on every machine */
	if (n <= 0) {
		fprintf(stderr, "%s: no corpus\n", folder);
		exit(1);
	}
	for (int k = 0; k < n; k++) {
		read_input(folder, entries[k]->d_name);
		free(entries[k]);
	}
	free(entries);
}

static void replace(size_t at, size_t gone, const uint8_t *bytes, size_t n)
{
	if (hand.size - gone + n > INPUT_BYTES)
		return;
	memmove(hand.bytes + at + n, hand.bytes + at + gone, hand.size - at - gone);
	if (n)
		memcpy(hand.bytes + at, bytes, n);
	hand.size += n - gone;
}

static void mutate(void)
{
	static const uint8_t telling[] = { 0, 1, 0x7f, 0x80, 0xff, '=', '\n', '#', '\'', '-' };
	const struct input *other = inputs[below(n_inputs)];
	size_t at = below(hand.size + 1), n = 1 + below(16), from = below(other->size + 1);
	uint8_t byte;

	switch (below(6)) {
	case 0: /* a bit */
		if (at < hand.size)
			hand.bytes[at] ^= (uint8_t)(1u << below(8));
		break;
	case 1: /* a byte */
		byte = below(2) ? telling[below(sizeof(telling))] : (uint8_t)below(256);
		if (at < hand.size)
			hand.bytes[at] = byte;
		break;
	case 2: /* something less */
		replace(at, n < hand.size - at ? n : hand.size - at, NULL, 0);
		break;
	case 3: /* something more */
		byte = telling[below(sizeof(telling))];
		replace(at, 0, &byte, 1);
		break;
	case 4: /* a piece of its own, again */
		replace(at, 0, other->bytes + from,
			n < other->size - from ? n : other->size - from);
		break;
	default: /* the rest from another */
		replace(at, hand.size - at, other->bytes + from, other->size - from);
	}
}

static void on_crash(int number)
{
	FILE *file = fopen(crash_path, "wb");

	if (file) {
		fwrite(hand.bytes, 1, hand.size, file);
		fclose(file);
	}
	signal(number, SIG_DFL);
	raise(number);
}

/* From memory of exactly its size, so that reading past the end is seen. */
static void run(void)
{
	uint8_t *exact = malloc(hand.size ? hand.size : 1);

	memcpy(exact, hand.bytes, hand.size);
	LLVMFuzzerTestOneInput(exact, hand.size);
	free(exact);
}

int main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/'), *target = slash ? slash + 1 : argv[0];
	unsigned long mutations = argc > 1 ? strtoul(argv[1], NULL, 10) : MUTATIONS;

	state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
	snprintf(crash_path, sizeof(crash_path), "build/%s.crash", target);
	signal(SIGABRT, on_crash);
	signal(SIGSEGV, on_crash);
	read_corpus(target);
	for (unsigned k = 0; k < n_inputs; k++) {
		hand = *inputs[k];
		run();
	}
	for (unsigned long k = 0; k < mutations; k++) {
		hand = *inputs[below(n_inputs)];
		for (size_t steps = 1 + below(STEPS_MAX); steps; steps--)
			mutate();
		run();
	}
	for (unsigned k = 0; k < n_inputs; k++)
		free(inputs[k]);
	return 0;
}
