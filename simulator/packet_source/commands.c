/* commands.c -- see commands.h */
#define _GNU_SOURCE
#include "commands.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WORDS_MAX = 16, TABLE_BYTES = 2 * PIXELS, DEPTH_MAX = 64 };

/* The words of a line; `error` is set by the first one that is wrong. */
struct words {
	int count;
	char *word[WORDS_MAX];
	const char *error;
};

static int64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t program_now_ns(const struct program *program)
{
	return clock_ns(CLOCK_MONOTONIC) + program->clock_offset_ns;
}

/* --- reading a line --- */

static const char *value_of(const struct words *words, const char *name)
{
	size_t length = strlen(name);

	for (int i = 1; i < words->count; i++)
		if (!strncmp(words->word[i], name, length) && words->word[i][length] == '=')
			return words->word[i] + length + 1;
	return NULL;
}

static int64_t integer(struct words *words, const char *name, int64_t low, int64_t high,
		       int64_t missing)
{
	const char *text = value_of(words, name);
	char *end;
	long long value;

	if (!text)
		return missing;
	errno = 0;
	value = strtoll(text, &end, 10);
	if (errno || end == text || *end || value < low || value > high) {
		words->error = name;
		return missing;
	}
	return value;
}

static double number(struct words *words, const char *name, double high)
{
	const char *text = value_of(words, name);
	char *end;
	double value;

	if (!text)
		return 0;
	value = strtod(text, &end);
	if (end == text || *end || !(value >= 0 && value <= high)) {
		words->error = name;
		return 0;
	}
	return value;
}

static bool may_send_to(const struct program *program, struct in_addr address)
{
	uint32_t host = ntohl(address.s_addr);

	return host >> 24 == 127 ||
	       (program->netmask && (host & program->netmask) == program->network);
}

static struct sockaddr_in destination(const struct program *program, struct words *words)
{
	struct sockaddr_in result = { .sin_family = AF_INET };
	const char *text = value_of(words, "dest");
	const char *colon = text ? strchr(text, ':') : NULL;
	char address[INET_ADDRSTRLEN] = "";
	long port = colon ? strtol(colon + 1, NULL, 10) : 0;

	if (colon && (size_t)(colon - text) < sizeof address)
		memcpy(address, text, (size_t)(colon - text));
	if (inet_pton(AF_INET, address, &result.sin_addr) != 1 || port < 1 || port > 65535 ||
	    !may_send_to(program, result.sin_addr))
		words->error = "dest (an address that may be sent to, and a port)";
	result.sin_port = htons((uint16_t)port);
	return result;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_table(const char *text, void *table)
{
	uint8_t bytes[TABLE_BYTES];

	if (strlen(text) != 2 * TABLE_BYTES)
		return false;
	for (int i = 0; i < TABLE_BYTES; i++) {
		int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		bytes[i] = (uint8_t)(high << 4 | low);
	}
	memcpy(table, bytes, sizeof bytes);
	return true;
}

/* --- answering --- */

static void refuse(struct program *program, const char *verb, const char *what)
{
	fprintf(program->out, "{\"event\": \"error\", \"command\": \"%s\", \"what\": \"%s\"}\n",
		verb, what);
}

static void print_stream(FILE *out, const char *name, const struct stream *stream)
{
	fprintf(out,
		"\"%s\": {\"active\": %s, \"produced\": %" PRIu64 ", \"sent\": %" PRIu64
		", \"dropped\": %" PRIu64 ", \"held\": %u, \"duplicated\": %" PRIu64
		", \"reordered\": %" PRIu64 ", \"out_of_order\": %" PRIu64
		", \"send_errors\": %" PRIu64 ", \"bytes\": %" PRIu64
		", \"next_number\": %u, \"first_ns\": %" PRId64 ", \"last_ns\": %" PRId64
		", \"malformed\": {",
		name, stream->active ? "true" : "false", stream->produced, stream->tally.sent,
		stream->dropped, stream->held_count, stream->duplicated, stream->reordered,
		stream->out_of_order, stream->tally.send_errors + stream->extra.send_errors,
		stream->tally.bytes + stream->extra.bytes, stream->number, stream->first_ns,
		stream->last_ns);
	for (int kind = 0; kind < MALFORMED_KINDS; kind++)
		fprintf(out, "%s\"%s\": %" PRIu64, kind ? ", " : "", malformed_names[kind],
			stream->malformed[kind]);
	fputs("}}", out);
}

void accounts_print(struct program *program, const char *event, const struct board *board)
{
	char address[INET_ADDRSTRLEN];

	inet_ntop(AF_INET, &board->address, address, sizeof address);
	fprintf(program->out, "{\"event\": \"%s\", \"quabo\": \"%s\", \"boardloc\": %u, ", event,
		address, board->boardloc);
	print_stream(program->out, "image", &board->streams[IMAGE]);
	fputs(", ", program->out);
	print_stream(program->out, "ph", &board->streams[PH]);
	fputs("}\n", program->out);
}

/* --- obeying --- */

static unsigned index_of(const struct program *program, const struct board *board)
{
	return (unsigned)(board - program->all->board);
}

static void end_stream(struct program *program, struct board *board, enum stream_kind kind)
{
	struct stream *stream = &board->streams[kind];

	if (stream->active && stream->flood)
		program->flooding--;
	schedule_remove(&program->schedule, index_of(program, board), kind);
	stream_stop(program->all, board, stream);
}

static void begin_stream(struct program *program, struct board *board, struct stream *stream)
{
	/* Between runs the schedule may follow a clock that was set meanwhile. */
	if (!program->schedule.count && !program->flooding)
		program->clock_offset_ns = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC);
	stream_start(board, stream, program_now_ns(program));
	if (stream->flood)
		program->flooding++;
	else
		schedule_put(&program->schedule, index_of(program, board), stream->kind,
			     stream->next_ns);
}

static void obey_image(struct program *program, struct board *board, struct words *words)
{
	struct stream *stream = &board->streams[IMAGE];
	struct sockaddr_in to = destination(program, words);
	int64_t acq = integer(words, "acq", 2, 7, 0);
	int64_t period_ns = integer(words, "period_ns", 1000, INT64_C(1000000000000), 0);
	int64_t frames = integer(words, "frames", 0, INT64_MAX, 0);
	int64_t flood = integer(words, "flood", 0, 1, 0);

	if (!words->error && (!(acq & 2) || !period_ns))
		words->error = "acq and period_ns are needed";
	if (words->error)
		return;
	end_stream(program, board, IMAGE);
	stream->destination = to;
	stream->acq_mode = (uint8_t)acq;
	stream->pixel_bytes = acq & 4 ? PIXELS : 2 * PIXELS;
	stream->period_ns = period_ns;
	stream->frames_left = (uint64_t)frames;
	stream->flood = flood;
	pixels_image_mask(board->levels, acq & 4 ? 0xFF : 0xFFFF, board->mask);
	begin_stream(program, board, stream);
}

static void obey_ph(struct program *program, struct board *board, struct words *words)
{
	struct stream *stream = &board->streams[PH];
	struct sockaddr_in to = destination(program, words);
	int64_t acq = integer(words, "acq", 0, 255, 1);
	int64_t period_ns = integer(words, "period_ns", 0, INT64_C(1000000000000), 0);
	int64_t external = integer(words, "external", 0, 1, 0);
	int64_t seed = integer(words, "seed", 0, INT64_MAX, 0);
	int64_t frames = integer(words, "frames", 0, INT64_MAX, 0);
	double poisson_hz = number(words, "poisson_hz", 1e6);

	if (!words->error && period_ns && period_ns < 100000)
		words->error = "period_ns must be 0 or at least 100000";
	if (words->error)
		return;
	end_stream(program, board, PH);
	stream->destination = to;
	stream->acq_mode = (uint8_t)acq;
	stream->pixel_bytes = 2 * PIXELS;
	stream->period_ns = period_ns;
	stream->poisson_hz = poisson_hz;
	stream->external = external;
	stream->frames_left = (uint64_t)frames;
	if (seed)
		stream->random = pixels_mix((uint64_t)seed + board->boardloc);
	begin_stream(program, board, stream);
}

static void obey_spoil(struct board *board, struct words *words)
{
	struct spoil spoil = {
		.loss = number(words, "loss", 1),
		.duplicate = number(words, "duplicate", 1),
		.reorder = number(words, "reorder", 1),
		.malformed = number(words, "malformed", 1),
		.depth = (unsigned)integer(words, "depth", 1, DEPTH_MAX, 1),
		.kinds = (unsigned)integer(words, "kinds", 0, (1 << MALFORMED_KINDS) - 1, 3),
		.seed = (uint64_t)integer(words, "seed", 0, INT64_MAX, 0),
		.skew_ns = integer(words, "skew_ns", -INT64_C(4000000000), INT64_C(4000000000), 0),
		.late_pps_ns = (uint32_t)integer(words, "late_pps_ns", 0, 999999999, 0),
	};

	if (spoil.loss + spoil.duplicate + spoil.reorder + spoil.malformed > 1 + 1e-9)
		words->error = "the fractions sum to more than 1";
	for (int kind = 0; kind < STREAM_KINDS && spoil.reorder > 0; kind++) {
		struct stream *stream = &board->streams[kind];

		if (!stream->held)
			stream->held = calloc(HELD_MAX, sizeof *stream->held);
		if (!stream->held)
			words->error = "out of memory";
	}
	if (!words->error)
		board->spoil = spoil;
}

static void obey_stop(struct program *program, struct board *board, struct words *words)
{
	const char *what = words->count > 2 ? words->word[2] : "";
	bool all = !strcmp(what, "all");

	if (!all && strcmp(what, "image") && strcmp(what, "ph")) {
		words->error = "image, ph or all";
		return;
	}
	if (all || !strcmp(what, "image"))
		end_stream(program, board, IMAGE);
	if (all || !strcmp(what, "ph"))
		end_stream(program, board, PH);
	sender_flush(program->all->sender);
	accounts_print(program, "stopped", board);
}

static void obey_table(struct board *board, struct words *words)
{
	void *table = board->levels;
	struct stream *image = &board->streams[IMAGE];

	if (words->word[0][0] == 'p')
		table = board->pattern;
	else if (words->word[0][0] == 'o')
		table = board->offset;
	if (words->count != 3 || !read_table(words->word[2], table))
		words->error = "1024 lower-case hex digits";
	else if (table == board->levels)
		pixels_image_mask(board->levels, image->acq_mode & 4 ? 0xFF : 0xFFFF, board->mask);
}

static void obey_board(struct program *program, struct in_addr address, struct words *words)
{
	int64_t boardloc = integer(words, "boardloc", 0, 65535, -1);

	if (!may_send_to(program, address))
		words->error = "an address that packets may come from";
	else if (boardloc < 0 || !observatory_add(program->all, address, (unsigned)boardloc))
		words->error = "boardloc (low 10 bits as in the address, each once)";
}

/* The commands that name a board. */
static void obey_for_board(struct program *program, struct words *words)
{
	const char *verb = words->word[0];
	struct in_addr address;
	struct board *board;

	if (words->count < 2 || inet_pton(AF_INET, words->word[1], &address) != 1) {
		words->error = "a board address";
		return;
	}
	if (!strcmp(verb, "board")) {
		obey_board(program, address, words);
		return;
	}
	board = observatory_find(program->all, address);
	if (!board)
		words->error = "no such board";
	else if (!strcmp(verb, "image"))
		obey_image(program, board, words);
	else if (!strcmp(verb, "ph"))
		obey_ph(program, board, words);
	else if (!strcmp(verb, "stop"))
		obey_stop(program, board, words);
	else if (!strcmp(verb, "reset"))
		board->streams[IMAGE].number = board->streams[PH].number = 0;
	else if (!strcmp(verb, "spoil"))
		obey_spoil(board, words);
	else if (!strcmp(verb, "levels") || !strcmp(verb, "pattern") || !strcmp(verb, "offset"))
		obey_table(board, words);
	else
		words->error = "unknown command";
}

static void print_counters(struct program *program)
{
	sender_flush(program->all->sender);
	for (unsigned i = 0; i < program->all->boards; i++)
		accounts_print(program, "counters", &program->all->board[i]);
	fprintf(program->out, "{\"event\": \"counters_end\", \"max_lag_ns\": %" PRId64 "}\n",
		program->max_lag_ns);
}

void command_obey(struct program *program, char *line)
{
	struct words words = { 0 };
	char *rest = NULL;

	for (char *word = strtok_r(line, " \t\r", &rest); word && words.count < WORDS_MAX;
	     word = strtok_r(NULL, " \t\r", &rest))
		words.word[words.count++] = word;
	if (!words.count)
		return;
	if (!strcmp(words.word[0], "quit"))
		program->ended = true;
	else if (!strcmp(words.word[0], "counters"))
		print_counters(program);
	else if (!strcmp(words.word[0], "sync"))
		fprintf(program->out, "{\"event\": \"sync\", \"id\": %d}\n",
			words.count > 1 ? atoi(words.word[1]) : 0);
	else
		obey_for_board(program, &words);
	if (words.error)
		refuse(program, words.word[0], words.error);
}
