/* leftovers.h -- what a dead process left of HASHPIPE's shared memory and is in our way.
 *
 * Under an installed HASHPIPE, rings, status buffer and its lock outlive the process.  Only those
 * of our own instance are looked at, and only what nobody is attached to any more is cleared. Under
 * our own launcher there is never anything: its memory is gone with the process.
 */
#ifndef PANOSETI_LEFTOVERS_H
#define PANOSETI_LEFTOVERS_H

#include <stdbool.h>
#include <stddef.h>

#include "hashpipe.h"

enum leftover {
	LEFTOVER_NONE,	  /* no ring of other sizes is there */
	LEFTOVER_REMOVED, /* one was, and nobody used it: try again */
	LEFTOVER_IN_USE,  /* one is, and somebody uses it, or it is not ours to remove */
};

/* Looks at the ring that is in the way of one of these sizes. */
enum leftover leftovers_remove_ring(int instance_id, int databuf_id, size_t header_bytes,
				    size_t block_bytes, int blocks);

/* Locks the status buffer.  False: somebody has held the lock all the time. */
bool leftovers_lock_status(hashpipe_status_t *status, int timeout_ms);

#endif
