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

static void put_totals(FILE *out, const struct pipeline *pipeline)
{
	struct totals totals;

	account_totals(&pipeline->account, &totals);
	fprintf(out, ",\n\"totals\":{\"received\":%llu", (unsigned long long)totals.received);
	put_count(out, "recorded", totals.recorded);
	put_count(out, "rejected", totals.rejected);
	put_count(out, "duplicate", totals.duplicate);
	put_count(out, "late", totals.late);
	put_count(out, "unwritten", totals.unwritten);
	put_count(out, "in_flight", totals.in_flight);
	put_count(out, "lost", totals.lost);
	put_count(out, "kernel_drops", totals.kernel_drops);
	put_count(out, "bytes", totals.bytes);
	fputc('}', out);
}

static void put_rejected(FILE *out, struct pipeline *pipeline)
{
	struct rejected entries[REJECTED_ENTRIES + PACKET_VERDICTS];
	unsigned n = account_rejected(&pipeline->account, entries);

	fputs(",\n\"rejected\":[", out);
	for (unsigned k = 0; k < n; k++) {
		struct in_addr address = { htonl(entries[k].source) };
		char text[INET_ADDRSTRLEN] = "other";

		if (!entries[k].other)
			inet_ntop(AF_INET, &address, text, sizeof(text));
		fprintf(out, "%s\n{\"kind\":\"%s\",\"source\":\"%s\",\"boardloc\":%d", k ? "," : "",
			packet_verdict_name(entries[k].kind), text, entries[k].boardloc);
		put_count(out, "count", entries[k].count);
		fputc('}', out);
	}
	fputc(']', out);
}

static void put_stream(FILE *out, const struct pipeline *pipeline, unsigned index, uint64_t now_ns)
{
	const struct account *account = &pipeline->account;
	unsigned board = index / STREAM_COUNT;
	uint64_t last_ns = counted(&account->net[index].last_recv_ns);

	fprintf(out, "\n{\"module\":%u,\"quabo\":%u,\"mode\":%u",
		pipeline->modules.id[board / MODULE_QUABOS], board % MODULE_QUABOS,
		stream_acq_mode(index % STREAM_COUNT));
	put_count(out, "received", counted(&account->net[index].received));
	put_count(out, "recorded", counted(&account->output[index].recorded));
	put_count(out, "lost", counted(&account->compute[index].lost));
	put_count(out, "duplicate", counted(&account->compute[index].duplicate));
	put_count(out, "late", counted(&account->compute[index].late));
	put_count(out, "unwritten", counted(&account->output[index].unwritten));
	put_count(out, "reordered", counted(&account->compute[index].reordered));
	put_count(out, "resets", counted(&account->compute[index].resets));
	fprintf(out,
		",\"last_packet_unix\":%.6f,\"last_packet_age_s\":%.6f,\"longest_gap_s\":%.6f}",
		seconds(last_ns), now_ns > last_ns ? seconds(now_ns - last_ns) : 0.0,
		seconds(counted(&account->net[index].gap_ns)));
}

static void put_quabos(FILE *out, const struct pipeline *pipeline)
{
	uint64_t now_ns = (uint64_t)unix_ns();
	const char *comma = "";

	fputs(",\n\"quabos\":[", out);
	for (unsigned k = 0; k < pipeline->account.streams; k++) {
		if (!counted(&pipeline->account.net[k].received))
			continue;
		fputs(comma, out);
		put_stream(out, pipeline, k, now_ns);
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

static void put_status(FILE *out, struct pipeline *pipeline)
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
	put_totals(out, pipeline);
	put_rejected(out, pipeline);
	put_quabos(out, pipeline);
	put_products(out, pipeline);
	put_errors(out, pipeline);
	fputc('}', out);
}

int status_report_file(struct pipeline *pipeline)
{
	char path[2 * OPTION_SIZE + 32], *text = NULL;
	size_t length = 0;
	FILE *out = open_memstream(&text, &length);
	int err;

	if (!out)
		return -errno;
	put_status(out, pipeline);
	options_status_path(&pipeline->options, path, sizeof(path));
	err = fclose(out) ? -errno : status_file_replace(path, text, length);
	free(text);
	return err;
}

void status_report_end(struct pipeline *pipeline, int err)
{
	char path[2 * OPTION_SIZE + 32];

	options_status_path(&pipeline->options, path, sizeof(path));
	status_file_end(path);
	if (!err)
		return;
	fprintf(stderr, "hashpipe: cannot write %s: %s; the account is this:\n", path,
		strerror(-err));
	put_status(stderr, pipeline);
	fputc('\n', stderr);
}

/* Losses as the deployed keys have them: of the board of the last packet, by mode; -1 where the
 * board has not sent in that mode. */
static void put_losses(struct pipeline *pipeline, char *buffer)
{
	const struct account *account = &pipeline->account;
	unsigned first = (unsigned)counted(&account->last_board) * STREAM_COUNT;
	struct totals totals;

	account_totals(account, &totals);
	hputi8(buffer, "NPACKETS", (long long)totals.received);
	hputi8(buffer, "NETDROPS", (long long)totals.kernel_drops);
	hputi8(buffer, "TPKTLST", (long long)totals.lost);
	for (unsigned k = 0; k < STREAM_COUNT; k++) {
		char key[16];
		bool sent = counted(&account->net[first + k].received);

		snprintf(key, sizeof(key), "M%uPKTLST", stream_acq_mode(k));
		hputi8(buffer, key,
		       sent ? (long long)counted(&account->compute[first + k].lost) : -1);
	}
}

void status_report_keys(struct pipeline *pipeline, hashpipe_status_t *status)
{
	const struct account *account = &pipeline->account;
	char *buffer = status->buf;

	if (!leftovers_lock_status(status, STATUS_LOCK_MS))
		return; /* somebody died with the lock, perhaps: that is not to hold us up */
	for (int k = 0; k < PIPELINE_THREADS; k++) {
		int activity = atomic_load(&pipeline->activity[k]);

		if (activity != ACTIVITY_NONE && activity != ACTIVITY_ENDED)
			hputs(buffer, thread_keys[k], activity_names[activity]);
	}
	hputs(buffer, "BINDHOST", pipeline->options.bindhost);
	hputi4(buffer, "BINDPORT", (int)pipeline->options.bindport);
	put_losses(pipeline, buffer);
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
}
