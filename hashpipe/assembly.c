/* assembly.c -- see assembly.h */
#include "assembly.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "orient.h"

/* Lists hold slot numbers; slot 0 is the end of both lists, not a frame. */
enum {
	END = 0,
	PAGE_BYTES = 4096,
	ALL_BOARDS = 0xf,
};

/* What is remembered of a frame that has left. */
struct departed {
	uint64_t earliest_ns;
	uint64_t left_ns; /* receive clock */
	uint8_t boards;
	uint8_t pixel_bytes; /* 0: unused entry */
};

struct assembly_ring {
	int64_t window_ns;
	struct sequence (*sequences)[STREAM_COUNT];
	assembly_emit *emit;
	void *context;
	unsigned size, count;
	unsigned present[MODULE_QUABOS]; /* of the frames in the making, those with this board */
	/* Where each board's last packet went, or what came next when that frame left: its next one
	 * is not far from there, however far it is from the newest frame. */
	uint16_t joined[MODULE_QUABOS];
	unsigned n_free;
	uint16_t free[ASSEMBLY_IMAGES]; /* last in, first out: the warm ones are used again */
	struct departed departed[ASSEMBLY_HISTORY];
	unsigned n_departed;
	bool any_departed;
	uint64_t newest_departed_ns;
	uint8_t boards_departed;	     /* bit q set: departed_ns[q] is valid */
	uint64_t departed_ns[MODULE_QUABOS]; /* time of the last packet of a board that left */
	struct assembly slot[];		     /* one more than size */
};

static bool is_near(int64_t difference_ns)
{
	return difference_ns <= ASSEMBLY_NEAR_NS && difference_ns >= -ASSEMBLY_NEAR_NS;
}

struct assembly_ring *assembly_ring_new(unsigned frames, int64_t window_ns,
					struct sequence (*sequences)[STREAM_COUNT],
					assembly_emit *emit, void *context)
{
	size_t bytes = sizeof(struct assembly_ring) + (frames + 1) * sizeof(struct assembly);
	struct assembly_ring *ring;
	struct assembly *end;

	if (frames > ASSEMBLY_IMAGES)
		return NULL;
	bytes = (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
	ring = aligned_alloc(PAGE_BYTES, bytes);
	if (!ring)
		return NULL;
	/* Slots that are never used cost no memory: they are not cleared, and huge pages would
	 * reach far into them. */
	madvise(ring, bytes, MADV_NOHUGEPAGE);
	memset(ring, 0, offsetof(struct assembly_ring, slot));
	ring->size = frames;
	ring->window_ns = window_ns;
	ring->sequences = sequences;
	ring->emit = emit;
	ring->context = context;
	for (unsigned k = frames; k > 0; k--)
		ring->free[ring->n_free++] = (uint16_t)k;
	end = &ring->slot[END];
	end->earlier = end->later = end->older = end->younger = END;
	return ring;
}

void assembly_ring_free(struct assembly_ring *ring)
{
	free(ring);
}

unsigned assembly_waiting(const struct assembly_ring *ring)
{
	return ring->count;
}

/* Opens a frame whose later neighbour in time is slot `later`; its slot. */
static uint16_t begin(struct assembly_ring *ring, uint16_t later)
{
	uint16_t k = ring->free[--ring->n_free];
	struct assembly *frame = &ring->slot[k], *end = &ring->slot[END];

	frame->later = later;
	frame->earlier = ring->slot[later].earlier;
	ring->slot[frame->earlier].later = k;
	ring->slot[later].earlier = k;
	frame->younger = END;
	frame->older = end->older;
	ring->slot[frame->older].younger = k;
	end->older = k;
	frame->boards = 0;
	frame->unpreceded = 0;
	memset(frame->board, 0, sizeof(frame->board));
	memset(frame->stream, 0, sizeof(frame->stream));
	ring->count++;
	return k;
}

static void remember(struct assembly_ring *ring, const struct assembly *frame, uint64_t clock_ns)
{
	struct departed *entry = &ring->departed[ring->n_departed++ % ASSEMBLY_HISTORY];
	int64_t ahead = tai_difference_ns(frame->earliest_ns, ring->newest_departed_ns);

	entry->earliest_ns = frame->earliest_ns;
	entry->left_ns = clock_ns;
	entry->boards = frame->boards;
	entry->pixel_bytes = frame->pixel_bytes;
	if (!ring->any_departed || ahead > 0 || !is_near(ahead))
		ring->newest_departed_ns = frame->earliest_ns;
	ring->any_departed = true;
	for (unsigned q = 0; q < MODULE_QUABOS; q++)
		if (frame->boards >> q & 1)
			ring->departed_ns[q] = frame->time_ns[q];
	ring->boards_departed |= frame->boards;
}

static void leave(struct assembly_ring *ring, uint16_t k, uint64_t clock_ns)
{
	struct assembly *frame = &ring->slot[k];

	for (unsigned q = 0; q < MODULE_QUABOS; q++) {
		if (ring->joined[q] == k)
			ring->joined[q] = frame->later;
		if (frame->boards >> q & 1)
			ring->present[q]--;
		else
			orient_clear(frame->pixels + orient_quadrant(q, frame->pixel_bytes),
				     MODULE_SIDE * (size_t)frame->pixel_bytes, frame->pixel_bytes);
	}
	ring->slot[frame->earlier].later = frame->later;
	ring->slot[frame->later].earlier = frame->earlier;
	ring->slot[frame->older].younger = frame->younger;
	ring->slot[frame->younger].older = frame->older;
	ring->free[ring->n_free++] = k;
	ring->count--;
	remember(ring, frame, clock_ns);
	ring->emit(ring->context, frame);
}

/* Boards on whose account a frame has to wait: missing, or with a hole just before its packet. */
static unsigned waited_for(const struct assembly_ring *ring, const struct assembly *frame)
{
	unsigned waiting = ~frame->boards & ALL_BOARDS;

	for (unsigned q = 0; q < MODULE_QUABOS; q++) {
		const struct sequence *sequence = &ring->sequences[q][frame->stream[q]];

		if (!((frame->boards & ~frame->unpreceded) >> q & 1))
			continue;
		if (!sequence_has(sequence, (uint16_t)(frame->board[q].number - 1)))
			waiting |= 1u << q;
	}
	return waiting;
}

static bool is_old(const struct assembly *frame, uint64_t clock_ns)
{
	return (int64_t)(clock_ns - frame->begun_ns) >= (int64_t)ASSEMBLY_TIMEOUT_NS;
}

/* Whether so many packets of a board have overtaken one that is missing from the first frame that
 * it will not come any more.  They are in the frames that wait behind.  (All that a board sends
 * would not do: one whose packets reach us later than the others' has first to catch up.) */
static bool has_passed(const struct assembly_ring *ring, unsigned q)
{
	return ring->present[q] >= ASSEMBLY_PASSED;
}

/* Whether the first frame need not wait any longer. */
static bool may_leave(const struct assembly_ring *ring, const struct assembly *frame,
		      uint64_t clock_ns)
{
	unsigned waiting;

	if (is_old(frame, clock_ns))
		return true;
	/* The usual reason to stay, seen without looking at any packet number. */
	for (unsigned q = 0; q < MODULE_QUABOS; q++)
		if (~frame->boards >> q & 1 && !has_passed(ring, q))
			return false;
	waiting = waited_for(ring, frame);
	for (unsigned q = 0; q < MODULE_QUABOS; q++)
		if (waiting >> q & 1 && !has_passed(ring, q))
			return false;
	return true;
}

void assembly_expire(struct assembly_ring *ring, uint64_t clock_ns)
{
	uint16_t first;

	while ((first = ring->slot[END].later) != END &&
	       may_leave(ring, &ring->slot[first], clock_ns))
		leave(ring, first, clock_ns);
}

void assembly_flush(struct assembly_ring *ring)
{
	while (ring->slot[END].later != END)
		leave(ring, ring->slot[END].later, 0);
}

/* The latest frame from which to look for the one of this packet: none behind it can take it. */
static uint16_t look_from(const struct assembly_ring *ring, const struct packet_info *packet)
{
	for (uint16_t k = ring->joined[packet->quabo]; k != END; k = ring->slot[k].later) {
		int64_t after_first = tai_difference_ns(packet->time_ns, ring->slot[k].earliest_ns);

		if (!is_near(after_first))
			break;
		if (after_first < -2 * ring->window_ns)
			return k; /* the others are later still, to within a window */
	}
	return ring->slot[END].earlier;
}

/* The earliest frame that can take the packet, END if none; *later becomes the slot before which
 * a new frame of that time belongs. */
static uint16_t find(const struct assembly_ring *ring, const struct packet_info *packet,
		     uint16_t *later)
{
	unsigned pixel_bytes = stream_pixel_bytes(packet->stream);
	uint16_t found = END;

	*later = END;
	for (uint16_t k = look_from(ring, packet); k != END; k = ring->slot[k].earlier) {
		const struct assembly *frame = &ring->slot[k];
		int64_t after_first = tai_difference_ns(packet->time_ns, frame->earliest_ns);
		int64_t before_last = tai_difference_ns(frame->latest_ns, packet->time_ns);

		if (!is_near(after_first))
			continue;
		if (after_first < 0)
			*later = k;
		if (after_first > 2 * ring->window_ns)
			break; /* the others are earlier still, to within a window */
		if (((after_first >= 0 && after_first <= ring->window_ns) ||
		     (before_last >= 0 && before_last <= ring->window_ns)) &&
		    !(frame->boards >> packet->quabo & 1) && frame->pixel_bytes == pixel_bytes)
			found = k;
	}
	return found;
}

/* Whether a packet that no waiting frame can take comes after its frame has left: one that fits a
 * frame that left without its board, or, by its number and time, older than what has left of its
 * own board.  Where no seconds are sent (TAI stands still) an equal time may be seconds old:
 * hence the check on when the frame left. */
static bool is_late(const struct assembly_ring *ring, const struct packet_info *packet,
		    enum sequence_verdict order, uint64_t clock_ns)
{
	unsigned q = packet->quabo;
	int64_t behind;

	if (order == SEQUENCE_REORDERED && ring->boards_departed >> q & 1) {
		behind = tai_difference_ns(ring->departed_ns[q], packet->time_ns);
		if (behind > 0 && is_near(behind))
			return true;
	}
	if (!ring->any_departed)
		return false;
	behind = tai_difference_ns(ring->newest_departed_ns, packet->time_ns);
	if (is_near(behind) && behind < -ring->window_ns)
		return false; /* newer than all that left: the usual case */
	for (unsigned k = 0; k < ASSEMBLY_HISTORY; k++) {
		const struct departed *entry = &ring->departed[k];

		behind = tai_difference_ns(entry->earliest_ns, packet->time_ns);
		if (behind <= ring->window_ns && behind >= -ring->window_ns &&
		    entry->pixel_bytes == stream_pixel_bytes(packet->stream) &&
		    clock_ns - entry->left_ns < ASSEMBLY_NEAR_NS && !(entry->boards >> q & 1))
			return true;
	}
	return false;
}

static void put(struct assembly *frame, const struct packet_info *packet, const uint8_t *pixels,
		bool first)
{
	unsigned q = packet->quabo;
	struct pff_board *board = &frame->board[q];

	frame->boards |= (uint8_t)(1u << q);
	if (first)
		frame->unpreceded |= (uint8_t)(1u << q);
	frame->time_ns[q] = packet->time_ns;
	frame->stream[q] = packet->stream;
	board->number = packet->number;
	board->tai = packet->tai;
	board->nsec = packet_nsec(packet);
	board->tv_sec = (uint32_t)(packet->recv_ns / 1000000000u);
	board->tv_usec = (uint32_t)(packet->recv_ns % 1000000000u / 1000u);
	orient_board(frame->pixels + orient_quadrant(q, frame->pixel_bytes),
		     MODULE_SIDE * (size_t)frame->pixel_bytes, pixels, q, frame->pixel_bytes);
}

enum assembly_verdict assembly_add(struct assembly_ring *ring, const struct packet_info *packet,
				   const uint8_t *pixels, enum sequence_verdict order)
{
	uint64_t clock_ns = packet->clock_ns;
	struct assembly *frame;
	uint16_t later, k;

	while (ring->count && is_old(&ring->slot[ring->slot[END].later], clock_ns))
		leave(ring, ring->slot[END].later, clock_ns);
	k = find(ring, packet, &later);
	if (k == END) {
		if (is_late(ring, packet, order, clock_ns))
			return ASSEMBLY_LATE;
		if (ring->count == ring->size) {
			leave(ring, ring->slot[END].younger, clock_ns); /* the one begun first */
			find(ring, packet, &later); /* its slot may have been `later` */
		}
		k = begin(ring, later);
		frame = &ring->slot[k];
		frame->earliest_ns = frame->latest_ns = packet->time_ns;
		frame->begun_ns = clock_ns;
		frame->pixel_bytes = (uint8_t)stream_pixel_bytes(packet->stream);
	} else {
		frame = &ring->slot[k];
		if (tai_difference_ns(packet->time_ns, frame->earliest_ns) < 0)
			frame->earliest_ns = packet->time_ns;
		if (tai_difference_ns(packet->time_ns, frame->latest_ns) > 0)
			frame->latest_ns = packet->time_ns;
	}
	put(frame, packet, pixels, order == SEQUENCE_FIRST);
	ring->present[packet->quabo]++;
	ring->joined[packet->quabo] = k;
	assembly_expire(ring, clock_ns);
	return ASSEMBLY_TAKEN;
}
