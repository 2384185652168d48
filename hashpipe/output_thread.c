/* output_thread.c -- third thread: from blocks of frames to the files of the run. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"
#include "hashpipe.h"
#include "output_files.h"
#include "pipeline.h"

enum { IDLE_MS = 250 };

static int output_init(hashpipe_thread_args_t *args)
{
	struct pipeline *pipeline = pipeline_get(args->instance_id);
	struct output_files *files;
	char fault[JOURNAL_LINE];

	if (!pipeline || pipeline_prepare(pipeline))
		return -1;
	files = calloc(1, sizeof(*files));
	if (!files ||
	    output_files_open(files, &pipeline->modules, pipeline->options.run,
			      pipeline->options.max_file_bytes, FRAME_BLOCK_FRAMES,
			      &pipeline->account, &pipeline->journal, fault, sizeof(fault))) {
		pipeline_refuse(pipeline, "%s", files ? fault : "no memory for the files");
		free(files);
		return -1;
	}
	args->user_data = files;
	return 0;
}

static void *output_run(hashpipe_thread_args_t *args)
{
	struct pipeline *pipeline = pipeline_get(args->instance_id);
	struct frame_databuf *ring = (struct frame_databuf *)args->ibuf;
	struct output_files *files = args->user_data;
	bool end = false;
	int index = 0, next;

	pipeline_enter(pipeline, OUTPUT_THREAD);
	while (!end) {
		struct frame_block *block = &ring->block[index];
		int filled =
			pipeline_wait_filled(pipeline, &ring->base, index, COMPUTE_THREAD, IDLE_MS);

		if (filled < 0)
			break;
		if (filled == 0) {
			pipeline_activity(pipeline, OUTPUT_THREAD, ACTIVITY_WAITING);
			continue;
		}
		pipeline_activity(pipeline, OUTPUT_THREAD, ACTIVITY_PROCESSING);
		atomic_load_explicit(&block->header.handed_over, memory_order_acquire);
		output_files_write(files, block->info, block->header.n, block->store);
		end = block->header.end;
		next = block->header.next;
		atomic_store_explicit(&block->header.handed_over, 0, memory_order_release);
		hashpipe_databuf_set_free(&ring->base, index);
		set_counter(&pipeline->output_block, (uint64_t)index);
		count(&pipeline->account.output_blocks, 1);
		index = next;
	}
	output_files_close(files);
	free(files);
	args->user_data = NULL;
	return pipeline_leave(pipeline, OUTPUT_THREAD);
}

static hashpipe_thread_desc_t output_thread = {
	.name = "output_thread",
	.skey = "OUTSTAT",
	.init = output_init,
	.run = output_run,
	.ibuf_desc = { blocks_create_frame_ring },
	.obuf_desc = { NULL },
};

static __attribute__((constructor)) void register_output_thread(void)
{
	register_hashpipe_thread(&output_thread);
}
