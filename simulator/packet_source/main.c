/* main.c -- the science packet source of the simulated observatory: one process, all boards.
 *
 * usage: packet_source [--port N] [--network A.B.C.D/LEN] [--tick_us N]
 *
 * Commands come as lines on stdin, accounts go out as JSON lines on stdout (commands.h).  Image
 * frame k of a stream is sent at k * period of Unix time, so all boards of a site keep step; a
 * late process catches up without leaving a frame out.  Ends at `quit`, at the end of stdin, or
 * with SIGINT or SIGTERM, after a last line of accounts for each board. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "commands.h"

enum {
	SCIENCE_SOURCE_PORT = 49153,
	LINE_BYTES = 1 << 16,
	BATCH = 2048,		 /* packets between two looks at the commands */
	FLOOD_STEP_NS = 1000,	 /* stamps of a flood: apart by more than a grouping window */
	DEFAULT_TICK_NS = 200000 /* packets due within this are sent together */
};

static volatile sig_atomic_t signalled;

static void on_signal(int number)
{
	signalled = number;
}

struct input {
	size_t used;
	bool at_end;
	char line[LINE_BYTES];
};

/* Obey all lines that are there; never waits. */
static void read_commands(struct program *program, struct input *input)
{
	ssize_t n = read(STDIN_FILENO, input->line + input->used, LINE_BYTES - input->used);
	char *start = input->line, *newline;

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		input->at_end = true;
	if (n <= 0)
		return;
	input->used += (size_t)n;
	while (!program->ended &&
	       (newline = memchr(start, '\n', input->used - (size_t)(start - input->line)))) {
		*newline = '\0';
		command_obey(program, start);
		start = newline + 1;
	}
	input->used -= (size_t)(start - input->line);
	memmove(input->line, start, input->used);
	if (input->used == LINE_BYTES) { /* no command is so long */
		fprintf(program->out, "{\"event\": \"error\", \"what\": \"line too long\"}\n");
		input->used = 0;
	}
	fflush(program->out);
}

/* A stream with a number of frames has sent them all. */
static void report_done(struct program *program, const struct board *board)
{
	sender_flush(program->all->sender);
	accounts_print(program, "done", board);
	fflush(program->out);
}

static void send_due(struct program *program, int64_t now)
{
	for (int sent = 0; sent < BATCH && schedule_next_ns(&program->schedule) <= now; sent++) {
		struct entry entry = schedule_pop(&program->schedule);
		struct board *board = &program->all->board[entry.board];
		struct stream *stream = &board->streams[entry.kind];

		if (now - entry.due_ns > program->max_lag_ns)
			program->max_lag_ns = now - entry.due_ns;
		stream_fire(program->all, board, stream);
		if (!stream->active)
			report_done(program, board);
		else
			schedule_put(&program->schedule, entry.board, entry.kind, stream->next_ns);
	}
}

static void send_flood(struct program *program)
{
	static int64_t stamp;
	int64_t now = program_now_ns(program);

	for (int sent = 0; sent < BATCH && program->flooding;) {
		stamp = now > stamp + FLOOD_STEP_NS ? now : stamp + FLOOD_STEP_NS;
		stamp -= stamp % 4;
		for (unsigned i = 0; i < program->all->boards; i++) {
			struct board *board = &program->all->board[i];
			struct stream *stream = &board->streams[IMAGE];

			if (!stream->active || !stream->flood)
				continue;
			stream_flood(program->all, board, stream, stamp);
			sent++;
			if (stream->active)
				continue;
			program->flooding--;
			report_done(program, board);
		}
	}
}

static void wait_for_work(struct program *program, int64_t last_wake, int64_t tick_ns)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	int64_t next = schedule_next_ns(&program->schedule), wait;
	struct timespec timeout;
	sigset_t none;

	if (next != INT64_MAX && next < last_wake + tick_ns)
		next = last_wake + tick_ns;
	wait = next == INT64_MAX ? INT64_MAX : next - program_now_ns(program);
	if (wait < 0 || program->flooding)
		wait = 0;
	sigemptyset(&none);
	timeout = (struct timespec){ wait / 1000000000, wait % 1000000000 };
	ppoll(&input, 1, next == INT64_MAX && !program->flooding ? NULL : &timeout, &none);
}

static void work(struct program *program, int64_t tick_ns)
{
	static struct input input;

	while (!program->ended && !signalled && !input.at_end) {
		int64_t now = program_now_ns(program);

		send_due(program, now);
		if (program->flooding)
			send_flood(program);
		sender_flush(program->all->sender);
		wait_for_work(program, now, tick_ns);
		read_commands(program, &input);
	}
}

static void finish(struct program *program)
{
	struct observatory *all = program->all;

	for (unsigned i = 0; i < all->boards; i++)
		for (int kind = 0; kind < STREAM_KINDS; kind++)
			stream_stop(all, &all->board[i], &all->board[i].streams[kind]);
	sender_flush(all->sender);
	for (unsigned i = 0; i < all->boards; i++) {
		accounts_print(program, "final", &all->board[i]);
		for (int kind = 0; kind < STREAM_KINDS; kind++)
			free(all->board[i].streams[kind].held);
	}
	fprintf(program->out, "{\"event\": \"end\"}\n");
	fflush(program->out);
}

static bool parse_network(struct program *program, const char *text)
{
	char address[INET_ADDRSTRLEN] = "";
	struct in_addr network;
	int length = -1, used = 0;

	if (sscanf(text, "%15[0-9.]/%d%n", address, &length, &used) != 2 || text[used] ||
	    length < 8 || length > 32 || inet_pton(AF_INET, address, &network) != 1)
		return false;
	program->netmask = 0xFFFFFFFFu << (32 - length);
	program->network = ntohl(network.s_addr) & program->netmask;
	return true;
}

static bool parse_options(struct program *program, char **argv, long *port, int64_t *tick_ns)
{
	for (argv++; argv[0]; argv += 2) {
		if (!argv[1])
			return false;
		if (!strcmp(argv[0], "--port"))
			*port = strtol(argv[1], NULL, 10);
		else if (!strcmp(argv[0], "--tick_us"))
			*tick_ns = 1000 * strtoll(argv[1], NULL, 10);
		else if (strcmp(argv[0], "--network") || !parse_network(program, argv[1]))
			return false;
	}
	return *port > 0 && *port < 65536 && *tick_ns >= 0;
}

/* Signals come only while waiting, so none is missed between a look and a wait. */
static void catch_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
}

int main(int argc, char **argv)
{
	static struct observatory all;
	static struct program program = { .all = &all };
	long port = SCIENCE_SOURCE_PORT;
	int64_t tick_ns = DEFAULT_TICK_NS;
	struct sender *sender;
	int error;

	(void)argc;
	program.out = stdout;
	if (!parse_options(&program, argv, &port, &tick_ns)) {
		fprintf(stderr, "usage: packet_source [--port N] [--network A.B.C.D/LEN] "
				"[--tick_us N]\n");
		return 2;
	}
	catch_signals();
	prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
	error = sender_open(&sender, (uint16_t)port);
	if (error) {
		fprintf(stderr, "packet_source: cannot bind UDP port %ld: %s\n", port,
			strerror(-error));
		return 1;
	}
	fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK);
	pixels_init();
	observatory_init(&all, sender);
	work(&program, tick_ns);
	finish(&program);
	sender_close(sender);
	return 0;
}
