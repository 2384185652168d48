/* account.h -- what became of every packet.
 *
 * At all times, for every stream, received = recorded + duplicate + late + unwritten + in flight;
 * the totals are the sums, to which `rejected` adds on both sides; nothing is in flight after the
 * end.  Every counter has one thread that writes it (named below); any thread may read.  A packet
 * is counted as received before another thread can see it, so a reader that takes `received` last
 * never finds more packets disposed of than received.
 */
#ifndef PANOSETI_ACCOUNT_H
#define PANOSETI_ACCOUNT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "module_config.h"
#include "packet.h"
#include "product.h"

typedef _Atomic uint64_t counter;

/* Only the thread that owns the counter may add to it, so no locked instruction is needed.  Who
 * sees the sum also sees what was counted before. */
static inline void count(counter *c, uint64_t n)
{
	atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
			      memory_order_release);
}

static inline uint64_t counted(const counter *c)
{
	return atomic_load_explicit(c, memory_order_relaxed);
}

static inline void set_counter(counter *c, uint64_t value)
{
	atomic_store_explicit(c, value, memory_order_relaxed);
}

/* Streams are numbered (module index * 4 + quabo) * STREAM_COUNT + stream. */
enum { STREAMS_MAX = MODULE_IDS * MODULE_QUABOS * STREAM_COUNT };

static inline unsigned stream_index(unsigned module, unsigned quabo, unsigned stream)
{
	return (module * MODULE_QUABOS + quabo) * STREAM_COUNT + stream;
}

/* Written by the net thread. */
struct net_stream_account {
	counter received;	/* packets accepted */
	counter last_recv_ns;	/* Unix time of the last one */
	counter last_clock_ns;	/* ... on the clock that is never set, 0: none came */
	counter first_clock_ns; /* when the first one came, on that clock */
	counter gap_ns;		/* longest time between two of them, on that clock */
};

/* Written by the compute thread. */
struct compute_stream_account {
	counter duplicate, late;
	counter lost; /* missing packet numbers: an int64_t in disguise, never negative */
	counter reordered, resets;
};

/* Written by the output thread. */
struct output_stream_account {
	counter recorded, unwritten;
};

struct product_account {
	counter frames, partial, bytes, files, seqno, write_errors, frames_unwritten;
};

enum { REJECTED_ENTRIES = 64 };

/* One kind of bad packet from one source; the last entry of a kind collects other sources. */
struct rejected {
	uint8_t kind;	  /* enum packet_verdict */
	bool other;	  /* sources that found no entry of their own */
	int32_t boardloc; /* of the first such packet, -1 if it was too short */
	uint32_t source;  /* IPv4 address, host byte order */
	uint64_t count;
};

struct account {
	/* net thread */
	_Alignas(64) counter received; /* datagrams on the port, good or bad */
	counter bytes;		       /* of their payloads */
	counter rejected;
	counter kernel_drops; /* datagrams the kernel threw away before we saw them */
	counter net_blocks;
	struct net_stream_account *net;
	/* compute thread */
	_Alignas(64) counter compute_blocks;
	counter frames_complete[PRODUCT_COUNT], frames_partial[PRODUCT_COUNT];
	counter last_board; /* module index * 4 + quabo of the last packet of the last block */
	struct compute_stream_account *compute;
	/* output thread */
	_Alignas(64) counter output_blocks;
	struct output_stream_account *output;
	struct product_account *product; /* by frame_file() */
	/* bad packets: few, so a mutex will do */
	_Alignas(64) pthread_mutex_t rejected_lock;
	struct rejected rejected_entry[REJECTED_ENTRIES];
	unsigned n_rejected;
	uint64_t rejected_other[PACKET_VERDICTS];
	unsigned streams, files;
};

/* What became of the packets of a stream, or of all. */
struct balance {
	uint64_t received, recorded, duplicate, late, unwritten, in_flight;
	uint64_t lost;
};

/* All accounts at one time: every balance is whole, and `totals` are the sums. */
struct snapshot {
	struct balance totals; /* received: with the rejected */
	uint64_t rejected, kernel_drops, bytes;
	unsigned n_rejected;
	struct rejected rejected_entry[REJECTED_ENTRIES + PACKET_VERDICTS];
	struct balance stream[];
};

/* Room for `modules` modules; 0 or -ENOMEM.  Release with account_free. */
int account_init(struct account *account, unsigned modules);
void account_free(struct account *account);

/* Counts a refused datagram.  Returns true if its kind and source are seen for the first time
 * (and remembered), which is worth a line in the log. */
bool account_reject(struct account *account, enum packet_verdict kind, uint32_t source,
		    int boardloc);

/* Copies the table of rejected packets, the collected rest last; returns the number of entries,
 * at most REJECTED_ENTRIES + PACKET_VERDICTS. */
unsigned account_rejected(struct account *account,
			  struct rejected entries[REJECTED_ENTRIES + PACKET_VERDICTS]);

/* Looks at all accounts while the pipeline runs.  The caller frees it; NULL without memory. */
struct snapshot *account_snapshot(struct account *account);

#endif
