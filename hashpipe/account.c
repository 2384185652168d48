/* account.c -- see account.h */
#include "account.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int account_init(struct account *account, unsigned modules)
{
	memset(account, 0, sizeof(*account));
	pthread_mutex_init(&account->rejected_lock, NULL);
	account->streams = modules * MODULE_QUABOS * STREAM_COUNT;
	account->files = modules * PRODUCT_COUNT;
	account->net = calloc(account->streams, sizeof(*account->net));
	account->compute = calloc(account->streams, sizeof(*account->compute));
	account->output = calloc(account->streams, sizeof(*account->output));
	account->product = calloc(account->files, sizeof(*account->product));
	if (!account->net || !account->compute || !account->output || !account->product) {
		account_free(account);
		return -ENOMEM;
	}
	return 0;
}

void account_free(struct account *account)
{
	free(account->net);
	free(account->compute);
	free(account->output);
	free(account->product);
	pthread_mutex_destroy(&account->rejected_lock);
	memset(account, 0, sizeof(*account));
}

bool account_reject(struct account *account, enum packet_verdict kind, uint32_t source,
		    int boardloc)
{
	bool is_new = false;
	unsigned k;

	count(&account->rejected, 1);
	pthread_mutex_lock(&account->rejected_lock);
	for (k = 0; k < account->n_rejected; k++)
		if (account->rejected_entry[k].source == source &&
		    account->rejected_entry[k].kind == kind)
			break;
	if (k < account->n_rejected) {
		account->rejected_entry[k].count++;
	} else if (k < REJECTED_ENTRIES) {
		account->rejected_entry[k] = (struct rejected){
			.kind = (uint8_t)kind, .source = source, .boardloc = boardloc, .count = 1
		};
		account->n_rejected++;
		is_new = true;
	} else {
		account->rejected_other[kind]++;
	}
	pthread_mutex_unlock(&account->rejected_lock);
	return is_new;
}

unsigned account_rejected(struct account *account,
			  struct rejected entries[REJECTED_ENTRIES + PACKET_VERDICTS])
{
	unsigned n;

	pthread_mutex_lock(&account->rejected_lock);
	n = account->n_rejected;
	memcpy(entries, account->rejected_entry, n * sizeof(*entries));
	for (unsigned kind = 0; kind < PACKET_VERDICTS; kind++)
		if (account->rejected_other[kind])
			entries[n++] = (struct rejected){ .kind = (uint8_t)kind,
							  .other = true,
							  .boardloc = -1,
							  .count = account->rejected_other[kind] };
	pthread_mutex_unlock(&account->rejected_lock);
	return n;
}

static void add_balance(struct balance *sum, const struct balance *stream)
{
	sum->received += stream->received;
	sum->recorded += stream->recorded;
	sum->duplicate += stream->duplicate;
	sum->late += stream->late;
	sum->unwritten += stream->unwritten;
	sum->in_flight += stream->in_flight;
	sum->lost += stream->lost;
}

/* Against the way of the packets: those that the output thread has counted by now are counted by
 * the threads before it when their turn to be read comes. */
struct snapshot *account_snapshot(struct account *account)
{
	struct snapshot *snapshot =
		calloc(1, sizeof(*snapshot) + account->streams * sizeof(*snapshot->stream));

	if (!snapshot)
		return NULL;
	for (unsigned k = 0; k < account->streams; k++) {
		snapshot->stream[k].recorded = counted(&account->output[k].recorded);
		snapshot->stream[k].unwritten = counted(&account->output[k].unwritten);
	}
	atomic_thread_fence(memory_order_acquire);
	for (unsigned k = 0; k < account->streams; k++) {
		snapshot->stream[k].duplicate = counted(&account->compute[k].duplicate);
		snapshot->stream[k].late = counted(&account->compute[k].late);
		snapshot->stream[k].lost = counted(&account->compute[k].lost);
	}
	atomic_thread_fence(memory_order_acquire);
	for (unsigned k = 0; k < account->streams; k++) {
		struct balance *stream = &snapshot->stream[k];

		stream->received = counted(&account->net[k].received);
		stream->in_flight = stream->received - stream->recorded - stream->duplicate -
				    stream->late - stream->unwritten;
		add_balance(&snapshot->totals, stream);
	}
	snapshot->n_rejected = account_rejected(account, snapshot->rejected_entry);
	for (unsigned k = 0; k < snapshot->n_rejected; k++)
		snapshot->rejected += snapshot->rejected_entry[k].count;
	snapshot->totals.received += snapshot->rejected;
	snapshot->kernel_drops = counted(&account->kernel_drops);
	snapshot->bytes = counted(&account->bytes);
	return snapshot;
}
