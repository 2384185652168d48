/* engine.h -- what the files of the engine share, and the launcher's view of it. */
#ifndef PANOSETI_ENGINE_H
#define PANOSETI_ENGINE_H

#include <sched.h>

#include "hashpipe.h"

enum { ENGINE_INSTANCES = 64 };

/* Instance numbers above 63 are masked, as in HASHPIPE. */
static inline int engine_instance(int instance_id)
{
	return instance_id & (ENGINE_INSTANCES - 1);
}

/* Makes the next thread of the pipeline: its buffers, and its init function.  `number` counts the
 * threads from 0; with none in `cpus` it runs on any.  0, or -1 after a line on stderr. */
int engine_init_thread(hashpipe_thread_desc_t *desc, int number, int instance_id,
		       const cpu_set_t *cpus);

/* Runs all threads made so far until one returns or SIGINT or SIGTERM comes.  The others are then
 * expected to end by themselves, and are cancelled ENGINE_GRACE_MS later.  Returns 0, or -1 if a
 * thread could not be started or returned THREAD_ERROR. */
int engine_run(void);

enum { ENGINE_GRACE_MS = 1000 };

/* Release of everything; no thread may run any more. */
void engine_free_databufs(void);
void engine_free_statuses(void);

#endif
