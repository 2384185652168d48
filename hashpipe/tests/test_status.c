/* The keys of HASHPIPE's status buffer: each has the number it is named after. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "hashpipe.h"
#include "pipeline.h"
#include "status_report.h"

static struct pipeline pipeline;

/* Different numbers everywhere, on the boards of two modules. */
static void fill(void)
{
	static const unsigned streams[] = { STREAM_PH, STREAM_IMAGE16, STREAM_IMAGE16PH,
					    STREAM_IMAGE8 };
	struct account *account = &pipeline.account;
	unsigned board = 1 * MODULE_QUABOS + 2;

	strcpy(pipeline.options.bindhost, "10.0.1.2");
	pipeline.options.bindport = 60001;
	account_init(account, 2);
	atomic_store(&pipeline.activity[NET_THREAD], ACTIVITY_RECEIVING);
	atomic_store(&pipeline.activity[COMPUTE_THREAD], ACTIVITY_BLOCKED);
	atomic_store(&pipeline.activity[OUTPUT_THREAD], ACTIVITY_PROCESSING);
	count(&account->received, 5004);
	account_reject(account, PACKET_BAD_LENGTH, 1, -1);
	count(&account->net[0].received, 1000);
	set_counter(&account->compute[0].lost, 100000);
	for (unsigned k = 0; k < 4; k++) {
		unsigned index = stream_index(1, 2, streams[k]);

		count(&account->net[index].received, 1000);
		set_counter(&account->compute[index].lost, 10 + k);
	}
	set_counter(&account->last_board, board);
	count(&account->kernel_drops, 20);
	set_counter(&pipeline.net_block, 21);
	count(&account->net_blocks, 22);
	set_counter(&pipeline.compute_block_in, 23);
	set_counter(&pipeline.compute_block_out, 24);
	count(&account->compute_blocks, 25);
	count(&account->frames_partial[PRODUCT_PH1024], 26);
	count(&account->frames_partial[PRODUCT_IMG16], 27);
	count(&account->frames_partial[PRODUCT_IMG8], 100);
	count(&account->frames_partial[PRODUCT_PH256], 1000);
	set_counter(&pipeline.output_block, 28);
	count(&account->output_blocks, 29);
}

static void check_text_card(const hashpipe_status_t *status, const char *key, const char *wanted)
{
	char found[80] = "";

	check_case("%s", key);
	hgets(status->buf, key, sizeof(found) - 1, found);
	CHECK_TEXT(found, wanted);
}

static void test_keys(void)
{
	static const struct {
		const char *key;
		long long value;
	} cards[] = {
		{ "BINDPORT", 60001 }, { "NPACKETS", 5001 }, { "NETRECV", 5004 },
		{ "NETDROPS", 20 },    { "NETBKOUT", 21 },   { "NETMCNT", 22 },
		{ "COMBLKIN", 23 },    { "COMBKOUT", 24 },   { "COMMCNT", 25 },
		{ "TPKTLST", 100046 }, { "M1PKTLST", 10 },   { "M2PKTLST", 11 },
		{ "M3PKTLST", 12 },    { "M6PKTLST", 13 },   { "M7PKTLST", -1 },
		{ "PTRLPH10", 26 },    { "PTRLMODI", 127 },  { "OUTBLKIN", 28 },
		{ "OUTMCNT", 29 },
	};
	hashpipe_status_t status;

	fill();
	memset(&status, 0, sizeof(status));
	CHECK_EQUAL(hashpipe_status_attach(0, &status), HASHPIPE_OK);
	status_report_keys(&pipeline, &status);
	for (unsigned k = 0; k < sizeof(cards) / sizeof(*cards); k++) {
		int8 found = -77;

		check_case("%s", cards[k].key);
		CHECK_EQUAL(hgeti8(status.buf, cards[k].key, &found), 1);
		CHECK_EQUAL(found, cards[k].value);
	}
	check_text_card(&status, "BINDHOST", "10.0.1.2");
	check_text_card(&status, "NETSTAT", "receiving");
	check_text_card(&status, "COMPUTES", "blocked");
	check_text_card(&status, "OUTSTAT", "processing");
	check_case("%s", "");
	/* What a thread does after its end, or before its begin, is the launcher's to tell. */
	hputs(status.buf, "NETSTAT", "exit");
	atomic_store(&pipeline.activity[NET_THREAD], ACTIVITY_ENDED);
	status_report_keys(&pipeline, &status);
	check_text_card(&status, "NETSTAT", "exit");
	/* Somebody died with the lock: nothing is waited for long, nothing is written. */
	check_case("%s", "locked");
	hashpipe_status_lock(&status);
	hputi8(status.buf, "NETRECV", 1);
	status_report_keys(&pipeline, &status);
	CHECK_EQUAL(hashpipe_status_unlock(&status), HASHPIPE_OK);
	{
		int8 found = 0;

		CHECK_EQUAL(hgeti8(status.buf, "NETRECV", &found), 1);
		CHECK_EQUAL(found, 1);
	}
	account_free(&pipeline.account);
}

int main(void)
{
	test_keys();
	return check_result();
}
