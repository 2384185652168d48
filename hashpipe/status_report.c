/* status_report.c -- see status_report.h */
#include "status_report.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "leftovers.h"
#include "status_file.h"

enum { STATUS_LOCK_MS = 100 };

static const char *const thread_names[PIPELINE_THREADS] = { "net_thread", "compute_thread",
							    "output_thread" };
static const char *const thread_keys[PIPELINE_THREADS] = { "NETSTAT", "COMPUTES", "OUTSTAT" };
static const char *const state_names[] = { "starting", "running", "draining", "ended", "failed" };
static const char *const activity_names[] = { "init",	 "running",    "waiting", "receiving",
					      "blocked", "processing", "exit" };

static void put_string(FILE *out, const char *text)
{
	fputc('"', out);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			fprintf(out, "\\%c", *text);
		else if ((unsigned char)*text < 0x20)
			fprintf(out, "\\u%04x", *text);
		else
			fputc(*text, out);
	}
	fputc('"', out);
}

static void put_count(FILE *out, const char *name, uint64_t value)
{
	fprintf(out, ",\"%s\":%llu", name, (unsigned long long)value);
}

static double seconds(uint64_t ns)
{
	return (double)ns * 1e-9;
}

static void put_threads(FILE *out, const struct pipeline *pipeline)
{
	fputs(",\n\"threads\":{", out);
	for (int k = 0; k < PIPELINE_THREADS; k++) {
		int activity = atomic_load(&pipeline->activity[k]);

		fprintf(out, "%s\"%s\":\"%s\"", k ? "," : "", thread_names[k],
			activity == ACTIVITY_NONE    ? "starting"
			: activity == ACTIVITY_ENDED ? "ended"
						     : "running");
	}
	fputc('}', out);
}

/* What became of packets, after a field that has been put. */
static void put_balance(FILE *out, const struct balance *balance)
{
	put_count(out, "received", balance->received);
	put_count(out, "recorded", balance->recorded);
	put_count(out, "duplicate", balance->duplicate);
	put_count(out, "late", balance->late);
	put_count(out, "unwritten", balance->unwritten);
	put_count(out, "in_flight", balance->in_flight);
	put_count(out, "lost", balance->lost);
}

static void put_totals(FILE *out, const struct snapshot *snapshot)
{
	fprintf(out, ",\n\"totals\":{\"rejected\":%llu", (unsigned long long)snapshot->rejected);
	put_balance(out, &snapshot->totals);
	put_count(out, "kernel_drops", snapshot->kernel_drops);
	put_count(out, "bytes", snapshot->bytes);
	fputc('}', out);
}

static void put_rejected(FILE *out, const struct snapshot *snapshot)
{
	fputs(",\n\"rejected\":[", out);
	for (unsigned k = 0; k < snapshot->n_rejected; k++) {
		const struct rejected *entry = &snapshot->rejected_entry[k];
		struct in_addr address = { htonl(entry->source) };
		char text[INET_ADDRSTRLEN] = "other";

		if (!entry->other)
			inet_ntop(AF_INET, &address, text, sizeof(text));
		fprintf(out, "%s\n{\"kind\":\"%s\",\"source\":\"%s\",\"boardloc\":%d", k ? "," : "",
			packet_verdict_name(entry->kind), text, entry->boardloc);
		put_count(out, "count", entry->count);
		fputc('}', out);
	}
	fputc(']', out);
}

static void put_stream(FILE *out, const struct pipeline *pipeline, unsigned index,
		       const struct balance *balance, uint64_t clock_ns)
{
	const struct account *account = &pipeline->account;
	unsigned board = index / STREAM_COUNT;
	uint64_t last_ns = counted(&account->net[index].last_clock_ns);
	uint64_t first_ns = counted(&account->net[index].first_clock_ns);

	fprintf(out, "\n{\"module\":%u,\"quabo\":%u,\"mode\":%u",
		pipeline->modules.id[board / MODULE_QUABOS], board % MODULE_QUABOS,
		stream_acq_mode(index % STREAM_COUNT));
	put_balance(out, balance);
	put_count(out, "reordered", counted(&account->compute[index].reordered));
	put_count(out, "resets", counted(&account->compute[index].resets));
	fprintf(out,
		",\"last_packet_unix\":%.6f,\"last_packet_age_s\":%.6f"
		",\"first_packet_age_s\":%.6f,\"longest_gap_s\":%.6f}",
		seconds(counted(&account->net[index].last_recv_ns)),
		clock_ns > last_ns ? seconds(clock_ns - last_ns) : 0.0,
		first_ns && clock_ns > first_ns ? seconds(clock_ns - first_ns) : 0.0,
		seconds(counted(&account->net[index].gap_ns)));
}

static void put_quabos(FILE *out, const struct pipeline *pipeline, const struct snapshot *snapshot)
{
	uint64_t clock_ns = monotonic_ns();
	const char *comma = "";

	fputs(",\n\"quabos\":[", out);
	for (unsigned k = 0; k < pipeline->account.streams; k++) {
		if (!snapshot->stream[k].received)
			continue;
		fputs(comma, out);
		put_stream(out, pipeline, k, &snapshot->stream[k], clock_ns);
		comma = ",";
	}
	fputc(']', out);
}

static void put_products(FILE *out, const struct pipeline *pipeline)
{
	fputs(",\n\"products\":[", out);
	for (unsigned k = 0; k < pipeline->account.files; k++) {
		const struct product_account *product = &pipeline->account.product[k];

		fprintf(out, "%s\n{\"module\":%u,\"product\":\"%s\"", k ? "," : "",
			pipeline->modules.id[k / PRODUCT_COUNT],
			product_facts[k % PRODUCT_COUNT].name);
		put_count(out, "frames", counted(&product->frames));
		put_count(out, "partial", counted(&product->partial));
		put_count(out, "bytes", counted(&product->bytes));
		put_count(out, "files", counted(&product->files));
		put_count(out, "seqno", counted(&product->seqno));
		put_count(out, "write_errors", counted(&product->write_errors));
		put_count(out, "frames_unwritten", counted(&product->frames_unwritten));
		fputc('}', out);
	}
	fputc(']', out);
}

static void put_errors(FILE *out, struct pipeline *pipeline)
{
	struct journal_line errors[JOURNAL_ERRORS];
	unsigned n = journal_errors(&pipeline->journal, errors);

	fputs(",\n\"errors\":[", out);
	for (unsigned k = 0; k < n; k++) {
		fputs(k ? ",\n" : "\n", out);
		put_string(out, errors[k].text);
	}
	fputc(']', out);
}

static void put_status(FILE *out, struct pipeline *pipeline, const struct snapshot *snapshot)
{
	const struct options *options = &pipeline->options;

	fprintf(out, "{\"version\":1,\"pid\":%d,\"start_time_unix\":%.6f,\"updated_unix\":%.6f",
		(int)getpid(), seconds((uint64_t)pipeline->start_ns), seconds((uint64_t)unix_ns()));
	fprintf(out, ",\"state\":\"%s\",\n\"run\":", state_names[pipeline_state(pipeline)]);
	put_string(out, options->run);
	fputs(",\"bindhost\":", out);
	put_string(out, options->bindhost);
	fprintf(out, ",\"bindport\":%u,\"capture\":\"%s\",\"socket_open\":%s", options->bindport,
		pipeline->capture_name ? pipeline->capture_name : "none",
		atomic_load(&pipeline->socket_open) ? "true" : "false");
	put_threads(out, pipeline);
	put_totals(out, snapshot);
	put_rejected(out, snapshot);
	put_quabos(out, pipeline, snapshot);
	put_products(out, pipeline);
	put_errors(out, pipeline);
	fputc('}', out);
}

int status_report_file(struct pipeline *pipeline)
{
	struct snapshot *snapshot = account_snapshot(&pipeline->account);
	char path[2 * OPTION_SIZE + 32], *text = NULL;
	size_t length = 0;
	FILE *out = snapshot ? open_memstream(&text, &length) : NULL;
	int err = -ENOMEM;

	if (out) {
		put_status(out, pipeline, snapshot);
		options_status_path(&pipeline->options, path, sizeof(path));
		err = fclose(out) ? -errno : status_file_replace(path, text, length);
	}
	free(text);
	free(snapshot);
	return err;
}

void status_report_end(struct pipeline *pipeline, int err)
{
	char path[2 * OPTION_SIZE + 32];
	struct snapshot *snapshot;

	options_status_path(&pipeline->options, path, sizeof(path));
	status_file_end(path);
	if (!err)
		return;
	fprintf(stderr, "hashpipe: cannot write %s: %s; the account is this:\n", path,
		strerror(-err));
	snapshot = account_snapshot(&pipeline->account);
	if (snapshot)
		put_status(stderr, pipeline, snapshot);
	free(snapshot);
	fputc('\n', stderr);
}

/* Losses as the deployed keys have them: of the board of the last packet, by mode; -1 where the
 * board has not sent in that mode. */
static void put_losses(struct pipeline *pipeline, const struct snapshot *snapshot, char *buffer)
{
	unsigned first = (unsigned)counted(&pipeline->account.last_board) * STREAM_COUNT;

	hputi8(buffer, "NPACKETS", (long long)snapshot->totals.received);
	hputi8(buffer, "NETDROPS", (long long)snapshot->kernel_drops);
	hputi8(buffer, "TPKTLST", (long long)snapshot->totals.lost);
	for (unsigned k = 0; k < STREAM_COUNT; k++) {
		const struct balance *stream = &snapshot->stream[first + k];
		char key[16];

		snprintf(key, sizeof(key), "M%uPKTLST", stream_acq_mode(k));
		hputi8(buffer, key, stream->received ? (long long)stream->lost : -1);
	}
}

void status_report_keys(struct pipeline *pipeline, hashpipe_status_t *status)
{
	const struct account *account = &pipeline->account;
	struct snapshot *snapshot = account_snapshot(&pipeline->account);
	char *buffer = status->buf;

	if (!snapshot || !leftovers_lock_status(status, STATUS_LOCK_MS)) {
		free(snapshot); /* somebody died with the lock: that is not to hold us up */
		return;
	}
	for (int k = 0; k < PIPELINE_THREADS; k++) {
		int activity = atomic_load(&pipeline->activity[k]);

		if (activity != ACTIVITY_NONE && activity != ACTIVITY_ENDED)
			hputs(buffer, thread_keys[k], activity_names[activity]);
	}
	hputs(buffer, "BINDHOST", pipeline->options.bindhost);
	hputi4(buffer, "BINDPORT", (int)pipeline->options.bindport);
	put_losses(pipeline, snapshot, buffer);
	hputi8(buffer, "NETRECV", (long long)counted(&account->received));
	hputi8(buffer, "NETBKOUT", (long long)counted(&pipeline->net_block));
	hputi8(buffer, "NETMCNT", (long long)counted(&account->net_blocks));
	hputi8(buffer, "COMBLKIN", (long long)counted(&pipeline->compute_block_in));
	hputi8(buffer, "COMBKOUT", (long long)counted(&pipeline->compute_block_out));
	hputi8(buffer, "COMMCNT", (long long)counted(&account->compute_blocks));
	hputi8(buffer, "PTRLPH10", (long long)counted(&account->frames_partial[PRODUCT_PH1024]));
	hputi8(buffer, "PTRLMODI",
	       (long long)(counted(&account->frames_partial[PRODUCT_IMG16]) +
			   counted(&account->frames_partial[PRODUCT_IMG8])));
	hputi8(buffer, "OUTBLKIN", (long long)counted(&pipeline->output_block));
	hputi8(buffer, "OUTMCNT", (long long)counted(&account->output_blocks));
	hashpipe_status_unlock(status);
	free(snapshot);
}
