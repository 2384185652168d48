/* pipeline.h -- what the three threads of one pipeline share, and how they begin and end together.
 *
 * A pipeline exists from the first look at its options to the end of the process.  The launcher
 * runs three threads; a fourth of our own, outside the path of the packets, writes the log, the
 * status file and the keys of HASHPIPE's status buffer once a second.
 *
 * End: the net thread takes all that was received, marks its last block and waits for the output
 * thread to have written everything; only then do the threads return.  (The launcher cancels all
 * threads as soon as one of them returns, so none may return early.)
 */
#ifndef PANOSETI_PIPELINE_H
#define PANOSETI_PIPELINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "account.h"
#include "capture.h"
#include "hashpipe.h"
#include "journal.h"
#include "module_config.h"
#include "options.h"

enum pipeline_thread {
	NET_THREAD,
	COMPUTE_THREAD,
	OUTPUT_THREAD,
	PIPELINE_THREADS,
};

/* What a thread is doing, for its key in the status buffer. */
enum activity {
	ACTIVITY_NONE, /* not begun: the launcher's "init" stays */
	ACTIVITY_RUNNING,
	ACTIVITY_WAITING,
	ACTIVITY_RECEIVING,
	ACTIVITY_BLOCKED, /* the next thread has no free block for us */
	ACTIVITY_PROCESSING,
	ACTIVITY_ENDED,
};

enum pipeline_state {
	PIPELINE_STARTING,
	PIPELINE_RUNNING,
	PIPELINE_DRAINING,
	PIPELINE_ENDED,
	PIPELINE_FAILED,
};

struct pipeline {
	int instance;
	struct options options;
	bool prepared;
	bool options_bad;
	bool run_exists; /* the run directory, and it is ours: a status file can be written */
	int run_fd;	 /* holds the lock on it until the process ends */
	struct module_table modules;
	struct account account;
	struct journal journal;
	struct capture capture;	  /* of the net thread alone */
	const char *capture_name; /* set by its init */
	int64_t start_ns;	  /* Unix time */
	_Atomic int state;	  /* enum pipeline_state */
	_Atomic int activity[PIPELINE_THREADS];
	_Atomic bool socket_open;
	_Atomic bool stop;   /* a thread asks for the end */
	_Atomic bool failed; /* ... because it cannot go on */
	/* CLOCK_MONOTONIC time up to which everything received is in blocks handed over; kept up
	 * to date by the net thread while nothing comes. */
	_Atomic uint64_t idle_clock_ns;
	/* the status of HASHPIPE: block numbers */
	counter net_block, compute_block_in, compute_block_out, output_block;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock: */
	bool entered[PIPELINE_THREADS]; /* run function begun */
	bool done[PIPELINE_THREADS];	/* ... and has nothing more to do or to send */
	bool closes, closed;		/* a thread closes the books; threads may return */
	bool reporter_runs, reporter_ends, report_now;
	pthread_t reporter;
	int report_err; /* of its last status file; the reporter's own until it has ended */
};

/* The pipeline of an instance, made and its options read at the first call; NULL without memory.
 * Bad options are told to the operator here and by pipeline_prepare's result. */
struct pipeline *pipeline_get(int instance);

/* Once per pipeline, from the init function of any thread: checks the run directory, reads
 * module.config, opens the log.  0 or -errno; the operator has been told why. */
int pipeline_prepare(struct pipeline *pipeline);

/* Tells the operator, on stderr and in the log, why the pipeline cannot start. */
__attribute__((format(printf, 2, 3))) void pipeline_refuse(struct pipeline *pipeline,
							   const char *format, ...);

/* First and last call of a thread's run function, the latter when it has nothing more to do or to
 * send.  pipeline_leave() returns when all threads may return; its value is the run function's. */
void pipeline_enter(struct pipeline *pipeline, enum pipeline_thread thread);
void *pipeline_leave(struct pipeline *pipeline, enum pipeline_thread thread);

/* The log says `what`; all threads are to end; the final state is "failed". */
__attribute__((format(printf, 2, 3))) void pipeline_fail(struct pipeline *pipeline,
							 const char *format, ...);

/* Whether a thread works, or may still begin: waiting for it makes sense. */
bool pipeline_alive(struct pipeline *pipeline, enum pipeline_thread thread);

/* The net thread lets packets in from now on. */
void pipeline_opened(struct pipeline *pipeline);

void pipeline_set_state(struct pipeline *pipeline, enum pipeline_state state);
enum pipeline_state pipeline_state(const struct pipeline *pipeline);

static inline void pipeline_activity(struct pipeline *pipeline, enum pipeline_thread thread,
				     enum activity activity)
{
	if (atomic_load_explicit(&pipeline->activity[thread], memory_order_relaxed) !=
	    (int)activity)
		atomic_store_explicit(&pipeline->activity[thread], (int)activity,
				      memory_order_relaxed);
}

/* Waits a quarter of a second until a block of the ring to thread `next` is free.  1 it is,
 * 0 not yet, -1 it never will be: the pipeline has failed. */
int pipeline_wait_free(struct pipeline *pipeline, hashpipe_databuf_t *ring, int block,
		       enum pipeline_thread next);

/* Waits up to `timeout_ms` until a block of the ring from thread `before` is filled.  1 it is,
 * 0 not yet, -1 it never will be. */
int pipeline_wait_filled(struct pipeline *pipeline, hashpipe_databuf_t *ring, int block,
			 enum pipeline_thread before, int timeout_ms);

/* CLOCK_MONOTONIC and Unix time, ns. */
uint64_t monotonic_ns(void);
int64_t unix_ns(void);

#endif
