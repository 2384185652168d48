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

/* Whether another process is attached to this ring.  To be asked before it is created: to create a
 * ring that is there already frees its blocks, whoever uses them. */
bool leftovers_ring_in_use(int instance_id, int databuf_id);

/* Removes a ring of other sizes than these that nobody is attached to.  False: there is none. */
bool leftovers_remove_ring(int instance_id, int databuf_id, size_t header_bytes, size_t block_bytes,
			   int blocks);

/* Locks the status buffer.  False: somebody has held the lock all the time. */
bool leftovers_lock_status(hashpipe_status_t *status, int timeout_ms);

#endif
