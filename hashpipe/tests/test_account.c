/* The books: kinds and sources of bad packets, bounded; balances. */
#include <stdlib.h>
#include <string.h>

#include "account.h"
#include "check.h"

static struct account account;

static void test_rejected(void)
{
	struct rejected entries[REJECTED_ENTRIES + PACKET_VERDICTS];
	uint64_t sum = 0;
	unsigned n, news = 0, others = 0;

	CHECK_EQUAL(account_init(&account, 2), 0);
	CHECK(account_reject(&account, PACKET_BAD_LENGTH, 7, -1));
	CHECK(!account_reject(&account, PACKET_BAD_LENGTH, 7, -1));
	CHECK(account_reject(&account, PACKET_BAD_ACQ_MODE, 7, 1016));
	n = account_rejected(&account, entries);
	CHECK_EQUAL(n, 2);
	CHECK_EQUAL(entries[0].count, 2);
	CHECK_EQUAL(entries[0].kind, PACKET_BAD_LENGTH);
	CHECK_EQUAL(entries[1].boardloc, 1016);
	/* Anybody on the network: neither memory nor log lines grow with their number. */
	for (uint32_t source = 0; source < 100000; source++)
		news += account_reject(&account, PACKET_SOURCE_MISMATCH, source, 1);
	CHECK_EQUAL(news, REJECTED_ENTRIES - 2);
	n = account_rejected(&account, entries);
	CHECK_EQUAL(n, REJECTED_ENTRIES + 1);
	for (unsigned k = 0; k < n; k++) {
		sum += entries[k].count;
		others += entries[k].other;
	}
	CHECK_EQUAL(others, 1);
	CHECK_EQUAL(sum, 100003);
	CHECK_EQUAL(counted(&account.rejected), 100003);
	account_free(&account);
}

static void test_snapshot(void)
{
	struct snapshot *snapshot;
	unsigned last = stream_index(2, 3, STREAM_IMAGE8PH);

	CHECK_EQUAL(account_init(&account, 3), 0);
	CHECK_EQUAL(account.streams, 3 * 4 * 5);
	count(&account.net[0].received, 60);
	count(&account.net[last].received, 39);
	count(&account.kernel_drops, 9);
	count(&account.output[0].recorded, 40);
	count(&account.output[last].recorded, 20);
	count(&account.output[0].unwritten, 5);
	count(&account.compute[0].duplicate, 4);
	count(&account.compute[last].late, 3);
	set_counter(&account.compute[5].lost, 8);
	account_reject(&account, PACKET_BAD_LENGTH, 1, -1);
	snapshot = account_snapshot(&account);
	CHECK_EQUAL(snapshot->totals.received, 100);
	CHECK_EQUAL(snapshot->totals.recorded, 60);
	CHECK_EQUAL(snapshot->totals.unwritten, 5);
	CHECK_EQUAL(snapshot->totals.duplicate, 4);
	CHECK_EQUAL(snapshot->totals.late, 3);
	CHECK_EQUAL(snapshot->totals.lost, 8);
	CHECK_EQUAL(snapshot->totals.in_flight, 100 - 60 - 5 - 4 - 3 - 1);
	CHECK_EQUAL(snapshot->rejected, 1);
	CHECK_EQUAL(snapshot->n_rejected, 1);
	CHECK_EQUAL(snapshot->kernel_drops, 9);
	CHECK_EQUAL(snapshot->stream[0].in_flight, 60 - 40 - 5 - 4);
	CHECK_EQUAL(snapshot->stream[last].in_flight, 39 - 20 - 3);
	free(snapshot);
	account_free(&account);
}

enum { MANY = 300000 };

/* What the three threads do with packets of one board, one after the other. */
static void *pass_many(void *argument)
{
	(void)argument;
	for (unsigned k = 0; k < MANY; k++) {
		count(&account.net[k % 4].received, 1);
		count(k % 3 ? &account.output[k % 4].recorded : &account.compute[k % 4].late, 1);
	}
	return NULL;
}

static void *reject_many(void *argument)
{
	for (unsigned k = 0; k < 20000; k++)
		account_reject(&account, PACKET_BAD_LENGTH, k & 127, -1);
	return argument;
}

/* The status is read while packets are counted: the balance of every stream is whole. */
static void test_concurrent(void)
{
	struct snapshot *snapshot;
	pthread_t rejecter, passer;
	uint64_t most = 0, received = 0;

	account_init(&account, 1);
	pthread_create(&rejecter, NULL, reject_many, NULL);
	pthread_create(&passer, NULL, pass_many, NULL);
	while (received < MANY) {
		snapshot = account_snapshot(&account);
		for (unsigned k = 0; k < 4; k++)
			if (snapshot->stream[k].in_flight > most)
				most = snapshot->stream[k].in_flight;
		received = snapshot->totals.received - snapshot->rejected;
		free(snapshot);
	}
	CHECK(most <= MANY); /* else less were received than were disposed of */
	pthread_join(rejecter, NULL);
	pthread_join(passer, NULL);
	snapshot = account_snapshot(&account);
	CHECK_EQUAL(snapshot->rejected, 20000);
	CHECK_EQUAL(snapshot->totals.received, 20000 + MANY);
	CHECK_EQUAL(snapshot->totals.in_flight, 0);
	free(snapshot);
	account_free(&account);
}

int main(void)
{
	test_rejected();
	test_snapshot();
	test_concurrent();
	return check_result();
}
