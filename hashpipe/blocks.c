/* blocks.c -- see blocks.h */
#include "blocks.h"

#include <errno.h>

#include "pipeline.h"

/* Both threads of a ring ask for it; the second gets what the first made. */
static hashpipe_databuf_t *create(int instance_id, int databuf_id, const char *option,
				  size_t header_bytes, size_t block_bytes, bool is_packets)
{
	struct pipeline *pipeline = pipeline_get(instance_id);
	hashpipe_databuf_t *ring;
	unsigned blocks;

	if (!pipeline || pipeline->options_bad)
		return NULL;
	blocks = is_packets ? pipeline->options.packet_blocks : pipeline->options.frame_blocks;
	errno = 0;
	ring = hashpipe_databuf_create(instance_id, databuf_id, header_bytes, block_bytes,
				       (int)blocks);
	if (!ring)
		pipeline_refuse_ring(pipeline, option, blocks, block_bytes);
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
