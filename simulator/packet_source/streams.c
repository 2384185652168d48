/* streams.c -- see streams.h */
#include "streams.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_BYTES = 16, PH_VERSION = 1, SECOND_NS = 1000000000 };
static const int64_t DEAD_TIME_NS = 50000; /* a module's PH events are at least so far apart */

const char *const malformed_names[MALFORMED_KINDS] = { "length", "acq_mode", "unknown_module",
						       "source_mismatch" };

void observatory_init(struct observatory *all, struct sender *sender)
{
	memset(all, 0, sizeof *all);
	all->sender = sender;
	memset(all->by_boardloc, -1, sizeof all->by_boardloc);
}

struct board *observatory_find(struct observatory *all, struct in_addr address)
{
	int index = all->by_boardloc[ntohl(address.s_addr) & (BOARDS_MAX - 1)];

	if (index < 0 || all->board[index].address.s_addr != address.s_addr)
		return NULL;
	return &all->board[index];
}

struct board *observatory_add(struct observatory *all, struct in_addr address, unsigned boardloc)
{
	struct board *board = observatory_find(all, address);

	if (board)
		return board;
	if (all->boards == BOARDS_MAX || all->by_boardloc[boardloc & (BOARDS_MAX - 1)] >= 0 ||
	    ((ntohl(address.s_addr) ^ boardloc) & (BOARDS_MAX - 1)))
		return NULL;
	all->by_boardloc[boardloc & (BOARDS_MAX - 1)] = (int16_t)all->boards;
	board = &all->board[all->boards++];
	board->address = address;
	board->boardloc = (uint16_t)boardloc;
	board->spoil = (struct spoil){ .depth = 1, .kinds = 1 << BAD_LENGTH | 1 << BAD_ACQ_MODE };
	for (int kind = 0; kind < STREAM_KINDS; kind++) {
		board->streams[kind].kind = kind;
		board->streams[kind].random = pixels_mix(boardloc * 2u + (unsigned)kind);
	}
	return board;
}

/* --- one packet --- */

static void put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)value;
	at[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, value & 0xFFFF);
	put16(at + 2, value >> 16);
}

/* Where within the grouping window the boards of a module stand: 4 ns steps over 60 ns for
 * images, single steps over 15 ns for PH.  sky.py: stamp_offset_ns(). */
static int64_t stamp_offset_ns(const struct board *board, enum stream_kind kind, unsigned start)
{
	unsigned term = pixels_noise(start) >> 4;

	return kind == IMAGE ? 16 * (board->boardloc & 3) + 4 * (term & 3) : term;
}

static size_t build(const struct board *board, const struct stream *stream, int64_t when,
		    uint8_t *out)
{
	unsigned start = pixels_start(board->boardloc, stream->kind, stream->number);
	int64_t stamp = when + stamp_offset_ns(board, stream->kind, start);
	int64_t second, ns;

	if (stream->kind == IMAGE)
		stamp += board->spoil.skew_ns;
	second = stamp / SECOND_NS;
	ns = stamp % SECOND_NS;
	if (ns < board->spoil.late_pps_ns) {
		second -= 1;
		ns += SECOND_NS;
	}
	out[0] = stream->acq_mode;
	out[1] = stream->kind == PH ? PH_VERSION : 0;
	put16(out + 2, stream->number);
	put16(out + 4, board->boardloc);
	/* Only the low 10 bits of the second are valid on the wire; the rest is not zero. */
	put32(out + 6, (uint32_t)((second + TAI_MINUS_UTC_S) & 0x3FF) | 0x5A400u);
	put32(out + 10, (uint32_t)ns);
	put16(out + 14, 0);
	if (stream->kind == PH)
		pixels_ph(board->pattern, board->offset, start, out + HEADER_BYTES);
	else if (stream->pixel_bytes == PIXELS)
		pixels_image8(board->levels, board->mask, start, out + HEADER_BYTES);
	else
		pixels_image16(board->levels, board->mask, start, out + HEADER_BYTES);
	return HEADER_BYTES + stream->pixel_bytes;
}

/* --- spoiling --- */

enum fate { GOOD, LOST, DUPLICATED, REORDERED, FOLLOWED_BY_MALFORMED };

/* simulator/faults.py: packet_fate(). */
static enum fate packet_fate(const struct board *board, const struct stream *stream)
{
	const struct spoil *spoil = &board->spoil;
	uint64_t base = pixels_mix(spoil->seed + board->boardloc * 2u + stream->kind);
	double u = (double)(pixels_mix(base + stream->produced) >> 32) / 4294967296.0;

	if (u < spoil->loss)
		return LOST;
	if (u < spoil->loss + spoil->duplicate)
		return DUPLICATED;
	if (u < spoil->loss + spoil->duplicate + spoil->reorder)
		return REORDERED;
	if (u < spoil->loss + spoil->duplicate + spoil->reorder + spoil->malformed)
		return FOLLOWED_BY_MALFORMED;
	return GOOD;
}

static void send_copy(struct observatory *all, struct board *board, struct stream *stream,
		      const uint8_t *bytes, size_t length, uint64_t *copies)
{
	uint8_t *out = sender_reserve(all->sender);

	memcpy(out, bytes, length);
	sender_commit(all->sender, length, board->address, &stream->destination, &stream->extra,
		      copies);
}

static size_t break_length(uint8_t *bytes, size_t length, uint64_t turn)
{
	const size_t wrong[] = { length - 7, length + 3, 16, 1, 800 - length, 0 };
	size_t chosen = wrong[turn % (sizeof wrong / sizeof *wrong)];

	if (chosen > length)
		memset(bytes + length, 0xEE, chosen - length);
	return chosen;
}

/* BOARDLOC of the same board in a module that nobody simulates, hence that nobody records. */
static uint16_t unknown_boardloc(const struct observatory *all, const struct board *board)
{
	for (unsigned flip = BOARDS_MAX - 4; flip; flip -= 4) {
		unsigned module = (board->boardloc ^ flip) & (BOARDS_MAX - 4), q = 0;

		while (q < 4 && all->by_boardloc[module + q] < 0)
			q++;
		if (q == 4)
			return (uint16_t)(module + (board->boardloc & 3));
	}
	return board->boardloc ^ (BOARDS_MAX - 4); /* all 256 modules are simulated */
}

static void send_malformed(struct observatory *all, struct board *board, struct stream *stream,
			   const uint8_t *bytes, size_t length)
{
	static const uint8_t wrong_modes[] = { 5, 0, 0xFF, 4, 8 };
	uint64_t turn = stream->malformed_turn++;
	uint8_t copy[SENDER_DATAGRAM];
	int kind = (int)(turn % MALFORMED_KINDS);

	if (!board->spoil.kinds)
		return;
	while (!(board->spoil.kinds >> kind & 1))
		kind = (kind + 1) % MALFORMED_KINDS;
	memcpy(copy, bytes, length);
	if (kind == BAD_LENGTH)
		length = break_length(copy, length, turn);
	else if (kind == BAD_ACQ_MODE)
		copy[0] = wrong_modes[turn % sizeof wrong_modes];
	else if (kind == UNKNOWN_MODULE)
		put16(copy + 4, unknown_boardloc(all, board));
	else
		put16(copy + 4, board->boardloc ^ 1u);
	send_copy(all, board, stream, copy, length, &stream->malformed[kind]);
}

static void hold(struct board *board, struct stream *stream, const uint8_t *bytes, size_t length)
{
	struct held *held = &stream->held[(stream->held_first + stream->held_count++) % HELD_MAX];

	held->count = stream->produced;
	held->release = stream->produced + board->spoil.depth;
	held->length = (uint16_t)length;
	memcpy(held->bytes, bytes, length);
	stream->reordered++;
}

static void release_held(struct observatory *all, struct board *board, struct stream *stream,
			 bool everything)
{
	while (stream->held_count) {
		struct held *held = &stream->held[stream->held_first];
		uint8_t *out;

		if (!everything && held->release > stream->produced)
			return;
		if (held->count < stream->highest)
			stream->out_of_order++;
		else
			stream->highest = held->count + 1;
		out = sender_reserve(all->sender);
		memcpy(out, held->bytes, held->length);
		sender_commit(all->sender, held->length, board->address, &stream->destination,
			      &stream->tally, NULL);
		stream->held_first = (stream->held_first + 1) % HELD_MAX;
		stream->held_count--;
	}
}

/* Make the next packet of a stream, stamped about `when`, and let its fate act. */
static void emit(struct observatory *all, struct board *board, struct stream *stream, int64_t when)
{
	uint8_t *out = sender_reserve(all->sender);
	size_t length = build(board, stream, when, out);
	enum fate fate = packet_fate(board, stream);
	uint8_t copy[SENDER_DATAGRAM];

	if (!stream->produced)
		stream->first_ns = when;
	stream->last_ns = when;
	if (fate == REORDERED && (!stream->held || stream->held_count == HELD_MAX))
		fate = GOOD;
	if (fate == DUPLICATED || fate == FOLLOWED_BY_MALFORMED)
		memcpy(copy, out, length);
	if (fate == LOST) {
		stream->dropped++;
	} else if (fate == REORDERED) {
		hold(board, stream, out, length);
	} else {
		stream->highest = stream->produced + 1;
		sender_commit(all->sender, length, board->address, &stream->destination,
			      &stream->tally, NULL);
	}
	if (fate == DUPLICATED)
		send_copy(all, board, stream, copy, length, &stream->duplicated);
	else if (fate == FOLLOWED_BY_MALFORMED)
		send_malformed(all, board, stream, copy, length);
	release_held(all, board, stream, false);
	stream->produced++;
	stream->number++;
	if (stream->frames_left && !--stream->frames_left)
		stream_stop(all, board, stream);
}

/* --- when --- */

static int64_t after_multiple(int64_t now, int64_t period)
{
	return (now / period + 1) * period;
}

static int64_t poisson_wait_ns(struct stream *stream)
{
	double u;

	stream->random = pixels_mix(stream->random);
	u = ((double)(stream->random >> 11) + 1.0) / 9007199254740993.0; /* 0 < u < 1 */
	return (int64_t)(-log(u) * 1e9 / stream->poisson_hz) + 1;
}

static void set_next_event(struct stream *stream)
{
	stream->next_ns = INT64_MAX;
	if (stream->poisson_hz > 0)
		stream->next_ns = stream->poisson_ns;
	if (stream->period_ns > 0 && stream->periodic_ns < stream->next_ns)
		stream->next_ns = stream->periodic_ns;
}

void stream_start(struct board *board, struct stream *stream, int64_t now)
{
	if (board->spoil.reorder > 0 && !stream->held)
		stream->held = calloc(HELD_MAX, sizeof *stream->held);
	stream->active = true;
	if (stream->kind == IMAGE) {
		stream->next_ns = after_multiple(now, stream->period_ns);
		return;
	}
	if (stream->poisson_hz > 0)
		stream->poisson_ns = now + poisson_wait_ns(stream);
	if (stream->period_ns > 0)
		stream->periodic_ns = after_multiple(now, stream->period_ns);
	set_next_event(stream);
}

void stream_stop(struct observatory *all, struct board *board, struct stream *stream)
{
	release_held(all, board, stream, true);
	stream->active = false;
	stream->next_ns = INT64_MAX;
	stream->frames_left = 0;
}

/* All boards of the module that listen to each other's triggers read out together. */
static void fire_event(struct observatory *all, struct board *board, int64_t when)
{
	int64_t *last = &all->last_event_ns[board->boardloc >> 2 & (BOARDS_MAX / 4 - 1)];

	if (when < *last + DEAD_TIME_NS)
		when = *last + DEAD_TIME_NS;
	*last = when;
	for (unsigned quabo = 0; quabo < 4; quabo++) {
		unsigned loc = ((board->boardloc & ~3u) | quabo) & (BOARDS_MAX - 1);
		struct board *other;

		if (all->by_boardloc[loc] < 0)
			continue;
		other = &all->board[all->by_boardloc[loc]];
		if (other == board || (other->streams[PH].active && other->streams[PH].external))
			emit(all, other, &other->streams[PH], when);
	}
}

void stream_fire(struct observatory *all, struct board *board, struct stream *stream)
{
	int64_t due = stream->next_ns;

	if (stream->kind == IMAGE) {
		stream->next_ns = due + stream->period_ns;
		emit(all, board, stream, due);
		return;
	}
	if (stream->poisson_hz > 0 && due == stream->poisson_ns)
		stream->poisson_ns += poisson_wait_ns(stream);
	else
		stream->periodic_ns += stream->period_ns;
	set_next_event(stream);
	fire_event(all, board, due);
}

void stream_flood(struct observatory *all, struct board *board, struct stream *stream,
		  int64_t stamp)
{
	emit(all, board, stream, stamp);
}
