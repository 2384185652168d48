/* capture.h -- taking science packets from the network.
 *
 * One interface, two ways: a UDP socket (any user), or a packet socket with a memory-mapped ring
 * (needs CAP_NET_RAW; cheaper).  capture_open() prepares everything but lets nothing in: it runs
 * while privileges are still there.  From capture_start() on packets come.
 *
 * Functions that can fail return 0 or -errno and put a message for the operator into `fault`.
 */
#ifndef PANOSETI_CAPTURE_H
#define PANOSETI_CAPTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "account.h"
#include "journal.h"
#include "module_config.h"
#include "options.h"
#include "packet.h"

enum {
	CAPTURE_FAULT = 256,
	/* How long packets gather, from the first on, before they are passed on together: to wake
	 * threads and to write little at a time to many files costs more than the packets do. */
	GATHER_MS = 20,
};

/* Where accepted packets go: slots [n, size) of two arrays. */
struct capture_target {
	struct packet_info *info;
	uint8_t (*payload)[PACKET_MAX_BYTES];
	unsigned n, size;
};

struct capture {
	const struct capture_kind *kind;
	const struct module_table *modules;
	struct account *account;
	struct journal *journal;
	const struct options *options;
	int fd;
	int wake_fd;		  /* eventfd of the caller: readable means do not sleep; -1: none */
	uint64_t newest_recv_ns;  /* Unix time stamp of the packet taken last */
	uint64_t newest_clock_ns; /* ... on CLOCK_MONOTONIC */
	uint64_t offset_ns;	  /* by how much that was ahead of Unix time when it came */
	uint64_t clock_ns;	  /* CLOCK_MONOTONIC when packets were last asked for, */
	uint64_t offset_now_ns;	  /* ... and by how much it was ahead of Unix time */
	uint64_t lag_ns;    /* how long a packet may be in the kernel without being handed out */
	uint64_t gather_ns; /* for the caller to let packets gather; 0: the kernel has done so */
	void *own;	    /* of the kind */
};

/* One way of capturing; use the functions below. */
struct capture_kind {
	const char *name;
	int (*open)(struct capture *capture, char *fault, size_t fault_size);
	int (*start)(struct capture *capture, char *fault, size_t fault_size);
	int (*receive)(struct capture *capture, struct capture_target *target, int timeout_ms);
	void (*count_drops)(struct capture *capture);
	uint64_t (*held)(struct capture *capture);
	void (*close)(struct capture *capture);
};

extern const struct capture_kind capture_udp, capture_packet;

/* Chooses the kind by options->capture and what is permitted, and opens it. */
int capture_open(struct capture *capture, const struct options *options,
		 const struct module_table *modules, struct account *account,
		 struct journal *journal, char *fault, size_t fault_size);

/* Lets packets in. */
int capture_start(struct capture *capture, char *fault, size_t fault_size);

/* Takes what has come, waiting at most `timeout_ms` for something to come.  Accepted packets are
 * appended to `target`, bad ones counted and dropped; both count as received.  However many come, a
 * call ends: it takes no more than four times what the target has room for.  Returns the number
 * of datagrams taken, 0 if there were none, or -errno (-EINTR and -EAGAIN never).  An error is told
 * once, and receiving goes on when its cause is over; -ENODEV means it never will. */
int capture_receive(struct capture *capture, struct capture_target *target, int timeout_ms);

/* Adds the kernel's drops since the last call to the account. */
void capture_count_drops(struct capture *capture);

/* How many datagrams the kernel has received for us and not handed out yet, though it will within
 * lag_ns: more than 0 means that a receive which finds nothing has not seen all. */
uint64_t capture_held(struct capture *capture);

/* Closes; a capture that was never opened (all zero) is left alone. */
void capture_close(struct capture *capture);

/* For the kinds: reads the clocks, between waiting for packets and taking them. */
void capture_read_clocks(struct capture *capture);

/* The same with what they say. */
void capture_set_clocks(struct capture *capture, uint64_t unix_ns, uint64_t monotonic_ns);

/* For the kinds: checks a datagram, counts it, notes a new kind of bad packet in the journal.
 * Returns true if it is accepted; *info is then complete. */
bool capture_judge(struct capture *capture, const uint8_t *payload, size_t length, uint32_t source,
		   uint64_t recv_ns, struct packet_info *info);

/* For the kinds: lets nothing through, or what `filter` of `length` instructions says. */
struct sock_filter;
int capture_filter(int fd, const struct sock_filter *filter, unsigned short length);
int capture_filter_all(int fd);

/* For the kinds: the largest receive buffer up to `bytes` that is permitted. */
void capture_receive_buffer(struct capture *capture, int fd, unsigned bytes);

#endif
