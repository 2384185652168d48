/* compute_thread.c -- second thread: from packet blocks to blocks of frames ready for their files.
 */
#include <errno.h>
#include <string.h>

#include "blocks.h"
#include "framer.h"
#include "hashpipe.h"
#include "pipeline.h"

enum {
	IDLE_MS = 250,	 /* with no frame in the making */
	BEHIND_MS = 20,	 /* with some in hand that the output thread has no time for */
	WAITING_MS = 25, /* with some: they may have to leave incomplete */
};

struct compute {
	struct pipeline *pipeline;
	struct framer *framer;
	struct packet_databuf *in;
	struct frame_databuf *out;
	int in_index, out_index;
	int handed_over;		/* block before the one in hand; -1: none yet */
	struct frame_block *block;	/* in hand, NULL: none */
	uint8_t spill[FRAME_MAX_BYTES]; /* takes frames when the output thread is gone */
};

static int compute_init(hashpipe_thread_args_t *args)
{
	struct pipeline *pipeline = pipeline_get(args->instance_id);

	return pipeline && !pipeline_prepare(pipeline) ? 0 : -1;
}

/* Takes the next block of the output ring in hand.  False: it will never be free. */
static bool take_block(struct compute *compute)
{
	struct frame_block *block = &compute->out->block[compute->out_index];
	int is_free;

	pipeline_activity(compute->pipeline, COMPUTE_THREAD, ACTIVITY_BLOCKED);
	do
		is_free = pipeline_wait_free(compute->pipeline, &compute->out->base,
					     compute->out_index, OUTPUT_THREAD);
	while (is_free == 0);
	if (is_free < 0)
		return false;
	pipeline_activity(compute->pipeline, COMPUTE_THREAD, ACTIVITY_PROCESSING);
	atomic_load_explicit(&block->header.handed_over, memory_order_acquire);
	block->header.n = 0;
	block->header.bytes = 0;
	block->header.end = 0;
	compute->block = block;
	return true;
}

static void hand_over(struct compute *compute)
{
	int next = blocks_next(&compute->out->base, compute->out_index);

	compute->block->header.next = next;
	atomic_store_explicit(&compute->block->header.handed_over, 1, memory_order_release);
	hashpipe_databuf_set_filled(&compute->out->base, compute->out_index);
	set_counter(&compute->pipeline->compute_block_out, (uint64_t)compute->out_index);
	compute->handed_over = compute->out_index;
	compute->out_index = next;
	compute->block = NULL;
}

/* The output thread has not done yet with what it got last: the block in hand then takes on more,
 * for the reason that net_thread.c tells. */
static bool is_behind(const struct compute *compute)
{
	return compute->handed_over >= 0 &&
	       hashpipe_databuf_block_status(&compute->out->base, compute->handed_over) == 1;
}

/* Room for a frame in the block in hand, see framer_reserve. */
static uint8_t *reserve(void *context, const struct frame_info *frame)
{
	struct compute *compute = context;
	uint32_t bytes = (product_facts[frame->product].frame_bytes + CACHE_LINE - 1) / CACHE_LINE *
			 CACHE_LINE;
	struct frame_block_header *header;
	uint8_t *place;

	if (compute->block && (compute->block->header.n == FRAME_BLOCK_FRAMES ||
			       compute->block->header.bytes + bytes > FRAME_BLOCK_BYTES))
		hand_over(compute);
	if (!compute->block && !take_block(compute))
		return compute->spill; /* lost, and missing in the balance: the run has failed */
	header = &compute->block->header;
	compute->block->info[header->n] = *frame;
	compute->block->info[header->n++].offset = header->bytes;
	place = compute->block->store + header->bytes;
	header->bytes += bytes;
	return place;
}

/* Frames of one packet block.  Returns whether it was the last. */
static bool process(struct compute *compute, struct packet_block *block)
{
	bool end;
	int next;

	atomic_load_explicit(&block->header.handed_over, memory_order_acquire);
	for (unsigned k = 0; k < block->header.n; k++) {
		framer_packet(compute->framer, &block->info[k],
			      block->payload[k] + PACKET_HEADER_BYTES);
	}
	if (block->header.n) {
		const struct packet_info *last = &block->info[block->header.n - 1];

		set_counter(&compute->pipeline->account.last_board,
			    last->module * (uint64_t)MODULE_QUABOS + last->quabo);
		framer_expire(compute->framer, last->clock_ns);
	}
	end = block->header.end;
	next = block->header.next;
	atomic_store_explicit(&block->header.handed_over, 0, memory_order_release);
	hashpipe_databuf_set_free(&compute->in->base, compute->in_index);
	set_counter(&compute->pipeline->compute_block_in, (uint64_t)compute->in_index);
	count(&compute->pipeline->account.compute_blocks, 1);
	compute->in_index = next;
	return end;
}

static void process_until_end(struct compute *compute)
{
	struct pipeline *pipeline = compute->pipeline;

	for (;;) {
		/* Read before looking for a block: all that came up to then is in blocks. */
		uint64_t idle_clock_ns =
			atomic_load_explicit(&pipeline->idle_clock_ns, memory_order_acquire);
		int wait_ms = compute->block			   ? BEHIND_MS
			      : framer_is_waiting(compute->framer) ? WAITING_MS
								   : IDLE_MS;
		int filled = pipeline_wait_filled(pipeline, &compute->in->base, compute->in_index,
						  NET_THREAD, wait_ms);

		if (filled < 0)
			return;
		if (filled == 0) {
			pipeline_activity(pipeline, COMPUTE_THREAD, ACTIVITY_WAITING);
			framer_expire(compute->framer, idle_clock_ns);
		} else {
			pipeline_activity(pipeline, COMPUTE_THREAD, ACTIVITY_PROCESSING);
			if (process(compute, &compute->in->block[compute->in_index]))
				return;
		}
		/* Hand on what there is as soon as nothing more is waiting to be added. */
		if (compute->block && compute->block->header.n &&
		    !hashpipe_databuf_block_status(&compute->in->base, compute->in_index) &&
		    !is_behind(compute))
			hand_over(compute);
	}
}

static void *compute_run(hashpipe_thread_args_t *args)
{
	static struct compute computes[64];
	struct pipeline *pipeline = pipeline_get(args->instance_id);
	struct compute *compute = &computes[args->instance_id & 63];

	memset(compute, 0, sizeof(*compute));
	compute->pipeline = pipeline;
	compute->handed_over = -1;
	compute->in = (struct packet_databuf *)args->ibuf;
	compute->out = (struct frame_databuf *)args->obuf;
	pipeline_enter(pipeline, COMPUTE_THREAD);
	compute->framer = framer_new(&pipeline->modules, pipeline->options.group_ph,
				     &pipeline->account, reserve, compute);
	if (compute->framer) {
		process_until_end(compute);
		framer_flush(compute->framer);
	} else {
		pipeline_fail(pipeline, "no memory to assemble frames of %u modules",
			      pipeline->modules.count);
	}
	if (compute->block || take_block(compute)) {
		compute->block->header.end = 1;
		hand_over(compute);
	}
	framer_free(compute->framer);
	return pipeline_leave(pipeline, COMPUTE_THREAD);
}

static hashpipe_thread_desc_t compute_thread = {
	.name = "compute_thread",
	.skey = "COMPUTES",
	.init = compute_init,
	.run = compute_run,
	.ibuf_desc = { blocks_create_packet_ring },
	.obuf_desc = { blocks_create_frame_ring },
};

static __attribute__((constructor)) void register_compute_thread(void)
{
	register_hashpipe_thread(&compute_thread);
}
