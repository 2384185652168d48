/* threads.c -- registered threads, and running them as a pipeline. */
#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

enum {
	REGISTERED_MAX = 1024,
	PIPELINE_MAX = 64,
	MASK_BITS = 32, /* of a cpu_mask */
	THREAD_NAME = 16,
};

static hashpipe_thread_desc_t *registered[REGISTERED_MAX];
static unsigned n_registered;

struct stage {
	hashpipe_thread_args_t args;
	cpu_set_t cpus; /* to run on; none: on any */
	pthread_t thread;
	bool started, failed;
};

static struct stage stages[PIPELINE_MAX];
static int n_stages;

static atomic_int running = 1;
static sem_t event; /* the run flag was cleared, or a thread has ended */

int run_threads(void)
{
	return atomic_load_explicit(&running, memory_order_relaxed);
}

int register_hashpipe_thread(hashpipe_thread_desc_t *desc)
{
	hashpipe_thread_desc_t *copy = n_registered < REGISTERED_MAX ? malloc(sizeof(*copy)) : NULL;

	if (!copy)
		return 1;
	*copy = *desc;
	registered[n_registered++] = copy;
	return 0;
}

hashpipe_thread_desc_t *find_hashpipe_thread(char *name)
{
	for (unsigned k = 0; k < n_registered; k++)
		if (!strcmp(registered[k]->name, name))
			return registered[k];
	return NULL;
}

void list_hashpipe_threads(FILE *out)
{
	for (unsigned k = 0; k < n_registered; k++)
		fprintf(out, "  %s\n", registered[k]->name);
}

/* Those of the CPUs that a cpu_mask can name. */
static unsigned int mask_of(const cpu_set_t *cpus)
{
	unsigned int mask = 0;

	for (unsigned cpu = 0; cpu < MASK_BITS; cpu++)
		if (CPU_ISSET(cpu, cpus))
			mask |= 1u << cpu;
	return mask;
}

unsigned int get_cpu_affinity(void)
{
	cpu_set_t cpus;

	return sched_getaffinity(0, sizeof(cpus), &cpus) ? 0 : mask_of(&cpus);
}

static void set_status(const hashpipe_thread_args_t *args, const char *what)
{
	hashpipe_status_t status;

	if (!args->thread_desc->skey || hashpipe_status_attach(args->instance_id, &status))
		return;
	hashpipe_status_lock(&status);
	hputs(status.buf, args->thread_desc->skey, what);
	hashpipe_status_unlock(&status);
	hashpipe_status_detach(&status);
}

static int attach_buffers(hashpipe_thread_args_t *args)
{
	const hashpipe_thread_desc_t *desc = args->thread_desc;

	if (hashpipe_status_attach(args->instance_id, &args->st))
		return -1;
	if (desc->ibuf_desc.create)
		args->ibuf = hashpipe_databuf_attach(args->instance_id, args->input_buffer);
	if (desc->obuf_desc.create)
		args->obuf = hashpipe_databuf_attach(args->instance_id, args->output_buffer);
	return (desc->ibuf_desc.create && !args->ibuf) || (desc->obuf_desc.create && !args->obuf)
		       ? -1
		       : 0;
}

static void detach_buffers(hashpipe_thread_args_t *args)
{
	if (args->ibuf)
		hashpipe_databuf_detach(args->ibuf);
	if (args->obuf)
		hashpipe_databuf_detach(args->obuf);
	args->ibuf = args->obuf = NULL;
	if (args->st.buf)
		hashpipe_status_detach(&args->st);
}

static int make_buffer(const databuf_desc_t *desc, int instance_id, int databuf_id)
{
	return desc->create && !desc->create(instance_id, databuf_id) ? -1 : 0;
}

int engine_init_thread(hashpipe_thread_desc_t *desc, int number, int instance_id,
		       const cpu_set_t *cpus)
{
	struct stage *stage = &stages[number];
	hashpipe_thread_args_t *args = &stage->args;
	const char *what;

	if (number >= PIPELINE_MAX) {
		fprintf(stderr, "hashpipe: more than %d threads\n", PIPELINE_MAX);
		return -1;
	}
	memset(stage, 0, sizeof(*stage));
	args->thread_desc = desc;
	args->instance_id = engine_instance(instance_id);
	args->input_buffer = number;
	args->output_buffer = number + 1;
	args->cpu_mask = mask_of(cpus);
	stage->cpus = *cpus;
	pthread_mutex_init(&args->finished_m, NULL);
	pthread_cond_init(&args->finished_c, NULL);
	set_status(args, "init");
	what = "cannot make its input buffer";
	if (make_buffer(&desc->ibuf_desc, args->instance_id, args->input_buffer))
		goto failed;
	what = "cannot make its output buffer";
	if (make_buffer(&desc->obuf_desc, args->instance_id, args->output_buffer))
		goto failed;
	what = "cannot attach its buffers";
	if (attach_buffers(args))
		goto failed;
	what = "its initialisation failed";
	if (desc->init && desc->init(args))
		goto failed;
	detach_buffers(args);
	n_stages = number + 1;
	return 0;

failed:
	fprintf(stderr, "hashpipe: %s: %s\n", desc->name, what);
	return -1;
}

static void pin(const struct stage *stage)
{
	int err;

	if (!CPU_COUNT(&stage->cpus))
		return;
	err = pthread_setaffinity_np(pthread_self(), sizeof(stage->cpus), &stage->cpus);
	if (err)
		fprintf(stderr, "hashpipe: %s: cannot run on the CPU of -c or -m: %s\n",
			stage->args.thread_desc->name, strerror(err));
}

static void stop_all(void)
{
	atomic_store(&running, 0);
	sem_post(&event);
}

/* A thread has returned or was cancelled. */
static void finish(void *argument)
{
	struct stage *stage = argument;

	set_status(&stage->args, "exit");
	detach_buffers(&stage->args);
	pthread_mutex_lock(&stage->args.finished_m);
	stage->args.finished = 1;
	pthread_cond_broadcast(&stage->args.finished_c);
	pthread_mutex_unlock(&stage->args.finished_m);
	stop_all();
}

static void *run_stage(void *argument)
{
	struct stage *stage = argument;
	hashpipe_thread_args_t *args = &stage->args;

	pthread_cleanup_push(finish, stage);
	pin(stage);
	if (attach_buffers(args))
		stage->failed = true;
	else
		stage->failed = args->thread_desc->run(args) == THREAD_ERROR;
	pthread_cleanup_pop(1);
	return NULL;
}

static void on_signal(int number)
{
	int before = errno;

	(void)number;
	stop_all();
	errno = before;
}

static bool is_finished(struct stage *stage)
{
	bool finished;

	pthread_mutex_lock(&stage->args.finished_m);
	finished = stage->args.finished;
	pthread_mutex_unlock(&stage->args.finished_m);
	return finished;
}

/* Until all threads have ended by themselves, or for ENGINE_GRACE_MS. */
static void wait_for_end(void)
{
	struct timespec until;
	int k = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += ENGINE_GRACE_MS / 1000;
	while (k < n_stages) {
		if (!stages[k].started || is_finished(&stages[k]))
			k++;
		else if (sem_timedwait(&event, &until) && errno != EINTR)
			return;
	}
}

/* Threads start from the last on, so that every block finds its taker. */
static int start(void)
{
	for (int k = n_stages - 1; k >= 0; k--) {
		char name[THREAD_NAME];
		int err = pthread_create(&stages[k].thread, NULL, run_stage, &stages[k]);

		if (err) {
			fprintf(stderr, "hashpipe: cannot start %s: %s\n",
				stages[k].args.thread_desc->name, strerror(err));
			stop_all();
			return -1;
		}
		stages[k].started = true;
		snprintf(name, sizeof(name), "%s", stages[k].args.thread_desc->name);
		pthread_setname_np(stages[k].thread, name);
	}
	return 0;
}

int engine_run(void)
{
	struct sigaction action;
	int result;

	sem_init(&event, 0, 0);
	memset(&action, 0, sizeof(action));
	action.sa_handler = on_signal;
	action.sa_flags = SA_RESTART;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	result = start();
	while (run_threads())
		sem_wait(&event);
	wait_for_end();
	for (int k = 0; k < n_stages; k++) {
		if (!stages[k].started)
			continue;
		if (!is_finished(&stages[k]))
			pthread_cancel(stages[k].thread);
		pthread_join(stages[k].thread, NULL);
		if (stages[k].failed)
			result = -1;
	}
	return result;
}
