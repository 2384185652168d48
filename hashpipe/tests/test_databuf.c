/* Rings of blocks: states, waiting, and two threads that hand blocks to each other. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "engine.h"

enum { BLOCKS = 4, ROUNDS = 20000 };

struct block {
	uint64_t number;
	uint8_t bytes[1000];
};

struct ring {
	hashpipe_databuf_t base;
	struct block block[];
};

static struct ring *make(int id)
{
	return (struct ring *)hashpipe_databuf_create(0, id, offsetof(struct ring, block),
						      sizeof(struct block), BLOCKS);
}

static double seconds_since(const struct timespec *begin)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - begin->tv_sec) + 1e-9 * (double)(now.tv_nsec - begin->tv_nsec);
}

static void test_states(void)
{
	struct ring *ring = make(1);
	hashpipe_databuf_t *base = &ring->base;

	if (!CHECK(ring != NULL))
		return;
	CHECK_TEXT(base->data_type, "unknown");
	CHECK_EQUAL(base->n_block, BLOCKS);
	CHECK_EQUAL((uintptr_t)base % 4096, 0);
	CHECK(hashpipe_databuf_data(base, 2) == (char *)&ring->block[2]);
	CHECK_EQUAL(ring->block[3].bytes[999], 0);
	CHECK_EQUAL(hashpipe_databuf_total_status(base), 0);
	hashpipe_databuf_set_filled(base, 2);
	hashpipe_databuf_set_filled(base, 2); /* whatever it was before */
	hashpipe_databuf_set_filled(base, 0);
	CHECK_EQUAL(hashpipe_databuf_total_status(base), 2);
	CHECK_EQUAL(hashpipe_databuf_total_mask(base), 5);
	CHECK_EQUAL(hashpipe_databuf_block_status(base, 2), 1);
	CHECK_EQUAL(hashpipe_databuf_wait_filled(base, 2), HASHPIPE_OK);
	CHECK_EQUAL(hashpipe_databuf_wait_filled(base, 2), HASHPIPE_OK); /* and stays filled */
	CHECK_EQUAL(hashpipe_databuf_wait_free(base, 1), HASHPIPE_OK);
	CHECK_EQUAL(hashpipe_databuf_busywait_filled(base, 2), HASHPIPE_OK);
	CHECK_EQUAL(hashpipe_databuf_busywait_free(base, 1), HASHPIPE_OK);
	/* The same ring again, all blocks free. */
	CHECK(hashpipe_databuf_attach(0, 1) == base);
	CHECK(hashpipe_databuf_attach(0, 2) == NULL);
	CHECK(make(1) == ring);
	CHECK_EQUAL(hashpipe_databuf_total_status(base), 0);
	CHECK_EQUAL(hashpipe_databuf_detach(base), 0);
	CHECK_EQUAL(hashpipe_databuf_detach(NULL), 0);
	/* Other sizes, or impossible ones, are refused. */
	CHECK(hashpipe_databuf_create(0, 1, offsetof(struct ring, block), sizeof(struct block),
				      BLOCKS + 1) == NULL);
	CHECK(hashpipe_databuf_create(0, 9, 8, 100, 4) == NULL);
	CHECK(hashpipe_databuf_create(0, 9, 1000, 0, 4) == NULL);
	CHECK(hashpipe_databuf_create(0, 9, 1000, SIZE_MAX / 2, 4) == NULL);
	errno = 0;
	CHECK(hashpipe_databuf_create(0, 9, 1000, (size_t)1 << 50, 64) == NULL);
	CHECK(errno != 0);
}

static void on_alarm(int number)
{
	(void)number;
}

static void test_waiting(void)
{
	struct ring *ring = make(1);
	struct timespec begin, quick = { 0, 20000000 };
	struct itimerval timer = { .it_value = { 0, 50000 } };
	struct sigaction action;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	CHECK_EQUAL(hashpipe_databuf_wait_filled_timeout(&ring->base, 0, &quick), HASHPIPE_TIMEOUT);
	CHECK(seconds_since(&begin) >= 0.019);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	CHECK_EQUAL(hashpipe_databuf_wait_filled(&ring->base, 0), HASHPIPE_TIMEOUT);
	CHECK(seconds_since(&begin) >= 0.249);
	memset(&action, 0, sizeof(action));
	action.sa_handler = on_alarm;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	CHECK_EQUAL(hashpipe_databuf_wait_filled(&ring->base, 0), HASHPIPE_ERR_SYS);
	CHECK_EQUAL(errno, EINTR);
}

static void *produce(void *argument)
{
	struct ring *ring = argument;

	for (unsigned k = 0; k < ROUNDS; k++) {
		struct block *block = &ring->block[k % BLOCKS];

		while (hashpipe_databuf_wait_free(&ring->base, (int)(k % BLOCKS)) != HASHPIPE_OK)
			;
		block->number = k;
		memset(block->bytes, (int)(k & 0xff), sizeof(block->bytes));
		hashpipe_databuf_set_filled(&ring->base, (int)(k % BLOCKS));
	}
	return NULL;
}

static void test_hand_over(void)
{
	struct ring *ring = make(2);
	pthread_t thread;
	unsigned wrong = 0;

	pthread_create(&thread, NULL, produce, ring);
	for (unsigned k = 0; k < ROUNDS; k++) {
		struct block *block = &ring->block[k % BLOCKS];

		while (hashpipe_databuf_wait_filled(&ring->base, (int)(k % BLOCKS)) != HASHPIPE_OK)
			;
		wrong += block->number != k || block->bytes[999] != (k & 0xff);
		hashpipe_databuf_set_free(&ring->base, (int)(k % BLOCKS));
	}
	pthread_join(thread, NULL);
	CHECK_EQUAL(wrong, 0);
}

int main(void)
{
	test_states();
	test_waiting();
	test_hand_over();
	engine_free_databufs();
	return check_result();
}
