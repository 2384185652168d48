/* The books: kinds and sources of bad packets, bounded; sums. */
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

static void test_totals(void)
{
	struct totals totals;

	CHECK_EQUAL(account_init(&account, 3), 0);
	CHECK_EQUAL(account.streams, 3 * 4 * 5);
	count(&account.received, 100);
	count(&account.kernel_drops, 9);
	count(&account.output[0].recorded, 40);
	count(&account.output[stream_index(2, 3, STREAM_IMAGE8PH)].recorded, 20);
	count(&account.output[7].unwritten, 5);
	count(&account.compute[3].duplicate, 4);
	count(&account.compute[4].late, 3);
	set_counter(&account.compute[5].lost, 8);
	account_reject(&account, PACKET_BAD_LENGTH, 1, -1);
	account_totals(&account, &totals);
	CHECK_EQUAL(totals.received, 100);
	CHECK_EQUAL(totals.recorded, 60);
	CHECK_EQUAL(totals.unwritten, 5);
	CHECK_EQUAL(totals.duplicate, 4);
	CHECK_EQUAL(totals.late, 3);
	CHECK_EQUAL(totals.rejected, 1);
	CHECK_EQUAL(totals.lost, 8);
	CHECK_EQUAL(totals.kernel_drops, 9);
	CHECK_EQUAL(totals.in_flight, 100 - 60 - 5 - 4 - 3 - 1);
	account_free(&account);
}

static void *reject_many(void *argument)
{
	for (unsigned k = 0; k < 20000; k++)
		account_reject(&account, PACKET_BAD_LENGTH, k & 127, -1);
	return argument;
}

/* The status is read while packets are counted. */
static void test_concurrent(void)
{
	struct rejected entries[REJECTED_ENTRIES + PACKET_VERDICTS];
	struct totals totals;
	pthread_t thread;

	account_init(&account, 1);
	pthread_create(&thread, NULL, reject_many, NULL);
	for (unsigned k = 0; k < 200; k++) {
		account_rejected(&account, entries);
		account_totals(&account, &totals);
	}
	pthread_join(thread, NULL);
	account_totals(&account, &totals);
	CHECK_EQUAL(totals.rejected, 20000);
	account_free(&account);
}

int main(void)
{
	test_rejected();
	test_totals();
	test_concurrent();
	return check_result();
}
