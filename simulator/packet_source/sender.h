/* sender.h -- datagrams out: one socket, many source addresses, many datagrams per system call.
 *
 * Functions return 0 or -errno. */
#ifndef SENDER_H
#define SENDER_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

enum { SENDER_SLOTS = 128, SENDER_DATAGRAM = 1024 };

struct sender; /* opaque */

/* Where a datagram's fate is counted when the kernel has answered. */
struct sender_tally {
	uint64_t sent, send_errors, bytes;
};

/* Open the socket; every datagram leaves from `port`.  The caller frees with sender_close(). */
int sender_open(struct sender **out, uint16_t port);
void sender_close(struct sender *sender);

/* A buffer of SENDER_DATAGRAM bytes to build the next datagram in; valid until sender_commit().
 * Flushes when all slots are taken. */
uint8_t *sender_reserve(struct sender *sender);

/* Queue the reserved datagram.  `tally` is written at the flush and must live until then;
 * `copies` (may be NULL) is one more counter that rises by 1 when it was sent. */
void sender_commit(struct sender *sender, size_t length, struct in_addr source,
		   const struct sockaddr_in *destination, struct sender_tally *tally,
		   uint64_t *copies);

/* Hand everything queued to the kernel. */
void sender_flush(struct sender *sender);

#endif
