/* The text in front of the pixels, against golden texts and printf. */
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "pff_header.h"

static struct pff_board board_of(const struct check_vectors *vectors, unsigned word)
{
	return (struct pff_board){
		.number = (uint16_t)check_number(vectors, word),
		.tai = (uint16_t)check_number(vectors, word + 1),
		.nsec = (uint32_t)check_number(vectors, word + 2),
		.tv_sec = (uint32_t)check_number(vectors, word + 3),
		.tv_usec = (uint32_t)check_number(vectors, word + 4),
	};
}

static void test_golden(void)
{
	struct check_vectors vectors;
	unsigned cases = 0;

	check_vectors_open(&vectors, "headers");
	while (check_vectors_line(&vectors)) {
		char found[PFF_MODULE_HEADER_BYTES];
		uint8_t wanted[PFF_MODULE_HEADER_BYTES];
		size_t length = check_hex(&vectors, vectors.n - 1, wanted, sizeof(wanted));

		check_case("golden header %u", cases++);
		if (!strcmp(vectors.word[0], "board")) {
			struct pff_board board = board_of(&vectors, 2);

			CHECK_EQUAL(length, PFF_BOARD_TEXT_BYTES);
			pff_board_header(found, (unsigned)check_number(&vectors, 1), &board);
		} else {
			struct pff_board board[4];

			for (unsigned q = 0; q < 4; q++)
				board[q] = board_of(&vectors, 1 + 5 * q);
			CHECK_EQUAL(length, PFF_MODULE_TEXT_BYTES);
			pff_module_header(found, board);
		}
		CHECK_BYTES(found, wanted, length);
		CHECK_BYTES(found + length, "\n\n*", 3);
	}
	check_vectors_close(&vectors);
	CHECK(cases >= 5);
	check_case("%s", "");
}

/* Numbers of all lengths; `round` 0: the largest of each field. */
static struct pff_board random_board(uint64_t *state, unsigned round)
{
	unsigned bits = (unsigned)(check_random(state) % 33);
	uint32_t mask = bits == 32 ? 0xffffffffu : (1u << bits) - 1;

	if (round == 0)
		return (struct pff_board){ 65535, 1023, 4294967295u, 4294967295u, 999999 };
	return (struct pff_board){
		.number = (uint16_t)(check_random(state) & mask),
		.tai = (uint16_t)(check_random(state) & mask & 1023),
		.nsec = (uint32_t)check_random(state) & mask,
		.tv_sec = (uint32_t)check_random(state) & mask,
		.tv_usec = (uint32_t)(check_random(state) & mask) % 1000000,
	};
}

static int print_board(char *out, size_t size, const struct pff_board *board)
{
	return snprintf(out, size,
			"\"pkt_num\": %10u, \"pkt_tai\": %4u, \"pkt_nsec\": %9u, "
			"\"tv_sec\": %10u, \"tv_usec\": %6u}",
			board->number, board->tai,
			board->nsec > 999999999 ? 999999999 : board->nsec, board->tv_sec,
			board->tv_usec);
}

static void test_numbers(void)
{
	uint64_t state = 2;

	for (unsigned round = 0; round < 20000; round++) {
		struct pff_board board = random_board(&state, round);
		unsigned quabo = (unsigned)(check_random(&state) & 3);
		char found[PFF_BOARD_HEADER_BYTES + 1] = "", numbers[256], wanted[300];

		pff_board_header(found, quabo, &board);
		print_board(numbers, sizeof(numbers), &board);
		snprintf(wanted, sizeof(wanted), "{ \"quabo_num\": %u, %s\n\n*", quabo, numbers);
		CHECK_TEXT(found, wanted);
	}
}

/* Boards of a module, absent ones among them, with the same second and with another. */
static void test_module_numbers(void)
{
	uint64_t state = 3;

	for (unsigned round = 0; round < 5000; round++) {
		struct pff_board board[4];
		char found[PFF_MODULE_HEADER_BYTES + 1] = "", wanted[600] = "{\n";
		size_t n = strlen(wanted);

		for (unsigned q = 0; q < 4; q++) {
			board[q] = random_board(&state, round);
			if (check_random(&state) % 4 == 0)
				board[q] = (struct pff_board){ 0 };
			else if (q && check_random(&state) % 2)
				board[q].tv_sec = board[q - 1].tv_sec;
			n += (size_t)sprintf(wanted + n, "   \"quabo_%u\": { ", q);
			n += (size_t)print_board(wanted + n, sizeof(wanted) - n, &board[q]);
			n += (size_t)sprintf(wanted + n, q < 3 ? ", \n" : "\n}\n\n*");
		}
		pff_module_header(found, board);
		CHECK_TEXT(found, wanted);
	}
}

int main(void)
{
	test_golden();
	test_numbers();
	test_module_numbers();
	return check_result();
}
