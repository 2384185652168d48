/* blocks.c -- see blocks.h */
#include "blocks.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#include "leftovers.h"
#include "pipeline.h"

static void refuse_in_use(struct pipeline *pipeline, const char *option, unsigned blocks)
{
	pipeline_refuse(pipeline,
			"cannot make the ring of %s=%u blocks: somebody uses that of instance %d; "
			"see `pgrep -ax hashpipe`, and when no other pipeline runs, "
			"`hashpipe_clean_shmem -d -I %d` removes it",
			option, blocks, pipeline->instance, pipeline->instance);
}

static void refuse(struct pipeline *pipeline, const char *option, unsigned blocks, size_t bytes,
		   int err)
{
	struct rlimit locked = { RLIM_INFINITY, RLIM_INFINITY };

	getrlimit(RLIMIT_MEMLOCK, &locked);
	if (locked.rlim_cur != RLIM_INFINITY && locked.rlim_cur < bytes)
		pipeline_refuse(pipeline,
				"cannot make the ring of %s=%u blocks: %zu MB are to be locked in "
				"memory, the limit is %llu kB; raise it (`ulimit -l`), or give "
				"fewer blocks",
				option, blocks, bytes / 1000000,
				(unsigned long long)locked.rlim_cur / 1024);
	else
		pipeline_refuse(pipeline, "cannot make the ring of %s=%u blocks (%zu MB): %s",
				option, blocks, bytes / 1000000, err ? strerror(err) : "refused");
}

/* Both threads of a ring ask for it; the second gets what the first made. */
static hashpipe_databuf_t *create(int instance_id, int databuf_id, const char *option,
				  size_t header_bytes, size_t block_bytes, bool is_packets)
{
	struct pipeline *pipeline = pipeline_get(instance_id);
	hashpipe_databuf_t *ring;
	unsigned blocks;
	int err;

	if (!pipeline || pipeline->options_bad)
		return NULL;
	blocks = is_packets ? pipeline->options.packet_blocks : pipeline->options.frame_blocks;
	if (leftovers_ring_in_use(instance_id, databuf_id)) {
		refuse_in_use(pipeline, option, blocks);
		return NULL;
	}
	errno = 0;
	ring = hashpipe_databuf_create(instance_id, databuf_id, header_bytes, block_bytes,
				       (int)blocks);
	if (ring)
		return ring;
	err = errno;
	if (leftovers_remove_ring(instance_id, databuf_id, header_bytes, block_bytes,
				  (int)blocks)) {
		journal_note(&pipeline->journal, JOURNAL_INFO,
			     "removed a ring of another size that a dead pipeline had left");
		errno = 0;
		ring = hashpipe_databuf_create(instance_id, databuf_id, header_bytes, block_bytes,
					       (int)blocks);
		err = errno;
	}
	if (!ring)
		refuse(pipeline, option, blocks, header_bytes + blocks * block_bytes, err);
	return ring;
}

hashpipe_databuf_t *blocks_create_packet_ring(int instance_id, int databuf_id)
{
	return create(instance_id, databuf_id, "NETBLKS", offsetof(struct packet_databuf, block),
		      sizeof(struct packet_block), true);
}

hashpipe_databuf_t *blocks_create_frame_ring(int instance_id, int databuf_id)
{
	return create(instance_id, databuf_id, "OUTBLKS", offsetof(struct frame_databuf, block),
		      sizeof(struct frame_block), false);
}

int blocks_next(hashpipe_databuf_t *ring, int block)
{
	for (int k = 0; k < ring->n_block; k++)
		if (k != block && !hashpipe_databuf_block_status(ring, k))
			return k;
	return (block + 1) % ring->n_block;
}
