/* pipeline.c -- see pipeline.h */
#include "pipeline.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "leftovers.h"
#include "status_report.h"

enum {
	INSTANCES = 64,	   /* as many as HASHPIPE knows */
	GIVE_UP_MS = 8000, /* HASHPIPE's launcher begins threads 3 s after one another */
	STATUS_LOCK_MS = 3000,
};

uint64_t monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int64_t unix_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

void pipeline_refuse(struct pipeline *pipeline, const char *format, ...)
{
	char text[JOURNAL_LINE];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	fprintf(stderr, "hashpipe: %s\n", text);
	journal_note(&pipeline->journal, JOURNAL_ERROR, "%s", text);
	if (pipeline->journal.fd != STDERR_FILENO)
		journal_flush(&pipeline->journal);
	pipeline_set_state(pipeline, PIPELINE_FAILED);
	if (pipeline->run_exists) {
		status_report_file(pipeline);
		status_report_end(pipeline, 0); /* the line above tells it all */
	}
}

/* Options come as cards of the status buffer. */
static bool look_up(void *context, const char *key, char *value)
{
	hashpipe_status_t *status = context;

	return hgets(status->buf, key, OPTION_SIZE - 1, value);
}

static int read_options(struct pipeline *pipeline)
{
	/* Status values outlive the process: what is not deleted would hold for the next run. */
	static const char *const once[] = { "RUNDIR",  "LOGFILE", "CAPTURE", "NETBLKS",
					    "OUTBLKS", "RCVMB",	  "BUSYPOLL" };
	hashpipe_status_t status;
	char fault[JOURNAL_LINE];
	int err;

	memset(&status, 0, sizeof(status));
	if (hashpipe_status_attach(pipeline->instance, &status)) {
		pipeline_refuse(pipeline, "cannot attach the status buffer of instance %d",
				pipeline->instance);
		return -EIO;
	}
	if (!leftovers_lock_status(&status, STATUS_LOCK_MS)) {
		pipeline_refuse(pipeline, "the status buffer of instance %d stays locked",
				pipeline->instance);
		hashpipe_status_detach(&status);
		return -EBUSY;
	}
	err = options_read(&pipeline->options, look_up, &status, fault, sizeof(fault));
	for (unsigned k = 0; k < sizeof(once) / sizeof(*once); k++)
		hdel(status.buf, once[k]);
	hashpipe_status_unlock(&status);
	hashpipe_status_detach(&status);
	if (err)
		pipeline_refuse(pipeline, "%s", fault);
	return err;
}

struct pipeline *pipeline_get(int instance)
{
	static struct pipeline *pipelines[INSTANCES];
	struct pipeline **place = &pipelines[instance & (INSTANCES - 1)];
	pthread_condattr_t monotonic;

	if (*place)
		return *place;
	*place = calloc(1, sizeof(**place));
	if (!*place)
		return NULL;
	(*place)->instance = instance;
	(*place)->start_ns = unix_ns();
	journal_init(&(*place)->journal);
	pthread_mutex_init(&(*place)->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&(*place)->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	(*place)->options_bad = read_options(*place) != 0;
	return *place;
}

/* A run directory has one pipeline: the lock is the kernel's, and gone with the process however it
 * ends. */
static int lock_run(struct pipeline *pipeline)
{
	const char *run = pipeline->options.run;
	int fd = open(run, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0) {
		pipeline_refuse(pipeline,
				"RUNDIR=%s: %s; make it before the start, in the working directory",
				run, errno == ENOENT ? "no such directory" : strerror(errno));
		return -errno;
	}
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		pipeline_refuse(
			pipeline,
			"RUNDIR=%s: another hashpipe records into it; see `pgrep -ax hashpipe`",
			run);
		close(fd);
		return -EBUSY;
	}
	pipeline->run_fd = fd;
	pipeline->run_exists = true;
	return 0;
}

int pipeline_prepare(struct pipeline *pipeline)
{
	const struct options *options = &pipeline->options;
	char path[2 * OPTION_SIZE + 32], fault[JOURNAL_LINE];
	int err;

	if (pipeline->prepared)
		return pipeline_state(pipeline) == PIPELINE_FAILED ? -EINVAL : 0;
	if (pipeline->options_bad)
		return -EINVAL;
	err = lock_run(pipeline);
	if (err)
		return err;
	if (options_log_path(options, path, sizeof(path))) {
		err = journal_open(&pipeline->journal, path);
		if (err) {
			pipeline_refuse(pipeline, "LOGFILE: cannot open %s: %s", path,
					strerror(-err));
			return err;
		}
	}
	err = module_config_read(options->config, &pipeline->modules, fault, sizeof(fault));
	if (!err) {
		err = account_init(&pipeline->account, pipeline->modules.count);
		snprintf(fault, sizeof(fault), "no memory for %u modules", pipeline->modules.count);
	}
	if (err) {
		pipeline_refuse(pipeline, "CONFIG: %s", fault);
		return err;
	}
	pipeline->prepared = true;
	journal_note(&pipeline->journal, JOURNAL_INFO, "run %s of observatory %s, %u modules",
		     options->run, *options->obs ? options->obs : "(not named)",
		     pipeline->modules.count);
	return 0;
}

void pipeline_set_state(struct pipeline *pipeline, enum pipeline_state state)
{
	atomic_store(&pipeline->state, (int)state);
}

enum pipeline_state pipeline_state(const struct pipeline *pipeline)
{
	return (enum pipeline_state)atomic_load(&pipeline->state);
}

/* With the lock held: waits until `until_ns` or a change. */
static void wait_changed(struct pipeline *pipeline, uint64_t until_ns)
{
	struct timespec until = { (time_t)(until_ns / 1000000000u),
				  (long)(until_ns % 1000000000u) };

	pthread_cond_timedwait(&pipeline->changed, &pipeline->lock, &until);
}

/* The thread that starts this one may be bound to a CPU, which is not ours: the first thread of the
 * process is not. */
static void unbind(void)
{
	cpu_set_t cpus;

	if (!sched_getaffinity(getpid(), sizeof(cpus), &cpus))
		sched_setaffinity(0, sizeof(cpus), &cpus);
}

static void *report(void *argument)
{
	struct pipeline *pipeline = argument;
	hashpipe_status_t status;
	bool attached, ends;

	unbind();
	memset(&status, 0, sizeof(status));
	attached = !hashpipe_status_attach(pipeline->instance, &status);
	do {
		uint64_t next_ns = monotonic_ns() + 1000000000u;

		pthread_mutex_lock(&pipeline->lock);
		ends = pipeline->reporter_ends;
		pipeline->report_now = false;
		pthread_mutex_unlock(&pipeline->lock);
		journal_flush(&pipeline->journal);
		pipeline->report_err = status_report_file(pipeline);
		if (attached)
			status_report_keys(pipeline, &status);
		pthread_mutex_lock(&pipeline->lock);
		while (!ends && !pipeline->reporter_ends && !pipeline->report_now &&
		       monotonic_ns() < next_ns)
			wait_changed(pipeline, next_ns);
		pthread_mutex_unlock(&pipeline->lock);
	} while (!ends);
	if (attached)
		hashpipe_status_detach(&status);
	return NULL;
}

/* With the lock held.  Signals are for other threads. */
static void start_reporter(struct pipeline *pipeline)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pipeline->reporter_runs = !pthread_create(&pipeline->reporter, NULL, report, pipeline);
	if (pipeline->reporter_runs) /* else it would be called as the thread that starts it */
		pthread_setname_np(pipeline->reporter, "status");
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* The last word on the balance; false if it is not whole. */
static bool tell_balance(struct pipeline *pipeline, const struct snapshot *snapshot, bool failed)
{
	const struct balance *totals = &snapshot->totals;
	uint64_t received = counted(&pipeline->account.received);
	uint64_t missing = received - (totals->received - totals->in_flight);

	if (missing)
		journal_note(&pipeline->journal, JOURNAL_ERROR,
			     "%lld of %llu packets are not accounted for", (long long)missing,
			     (unsigned long long)received);
	journal_note(&pipeline->journal, JOURNAL_INFO,
		     "%s: %llu packets received, %llu recorded, %llu rejected, %llu duplicate, "
		     "%llu late, %llu unwritten; %llu lost, %llu dropped by the kernel",
		     failed || missing ? "failed" : "ended", (unsigned long long)received,
		     (unsigned long long)totals->recorded, (unsigned long long)snapshot->rejected,
		     (unsigned long long)totals->duplicate, (unsigned long long)totals->late,
		     (unsigned long long)totals->unwritten, (unsigned long long)totals->lost,
		     (unsigned long long)snapshot->kernel_drops);
	return !missing;
}

/* The books are closed: the balance must be whole, and the last status tells so. */
static void close_books(struct pipeline *pipeline)
{
	struct snapshot *snapshot = account_snapshot(&pipeline->account);
	bool failed = atomic_load(&pipeline->failed);

	failed = !snapshot || !tell_balance(pipeline, snapshot, failed) || failed;
	free(snapshot);
	pipeline_set_state(pipeline, failed ? PIPELINE_FAILED : PIPELINE_ENDED);
	for (int k = 0; k < PIPELINE_THREADS; k++)
		pipeline_activity(pipeline, k, ACTIVITY_ENDED);
	pthread_mutex_lock(&pipeline->lock);
	pipeline->reporter_ends = true;
	pthread_cond_broadcast(&pipeline->changed);
	pthread_mutex_unlock(&pipeline->lock);
	if (pipeline->reporter_runs)
		pthread_join(pipeline->reporter, NULL);
	else
		pipeline->report_err = status_report_file(pipeline);
	status_report_end(pipeline, pipeline->report_err);
	journal_close(&pipeline->journal);
}

/* With the lock held: something the status should show has changed. */
static void announce(struct pipeline *pipeline)
{
	bool all = atomic_load(&pipeline->socket_open);

	for (int k = 0; k < PIPELINE_THREADS; k++)
		all = all && pipeline->entered[k];
	if (all && pipeline_state(pipeline) == PIPELINE_STARTING)
		pipeline_set_state(pipeline, PIPELINE_RUNNING);
	pipeline->report_now = true;
	pthread_cond_broadcast(&pipeline->changed);
}

void pipeline_opened(struct pipeline *pipeline)
{
	pthread_mutex_lock(&pipeline->lock);
	atomic_store(&pipeline->socket_open, true);
	announce(pipeline);
	pthread_mutex_unlock(&pipeline->lock);
}

void pipeline_enter(struct pipeline *pipeline, enum pipeline_thread thread)
{
	/* Threads end by themselves, when everything is written; being cancelled would lose it. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	pipeline_activity(pipeline, thread, ACTIVITY_RUNNING);
	pthread_mutex_lock(&pipeline->lock);
	pipeline->entered[thread] = true;
	if (!pipeline->reporter_runs && !pipeline->closes)
		start_reporter(pipeline);
	announce(pipeline);
	pthread_mutex_unlock(&pipeline->lock);
}

/* With the lock held: waits for a thread to be done, but not for one that will never begin. */
static void wait_done(struct pipeline *pipeline, enum pipeline_thread thread)
{
	uint64_t give_up_ns = monotonic_ns() + GIVE_UP_MS * 1000000ull;

	while (!pipeline->done[thread] &&
	       (pipeline->entered[thread] || run_threads() || monotonic_ns() < give_up_ns))
		wait_changed(pipeline, monotonic_ns() + 100000000u);
}

void *pipeline_leave(struct pipeline *pipeline, enum pipeline_thread thread)
{
	bool closes;

	pipeline_activity(pipeline, thread, ACTIVITY_ENDED);
	pthread_mutex_lock(&pipeline->lock);
	pipeline->done[thread] = true;
	pthread_cond_broadcast(&pipeline->changed);
	for (int k = 0; k < PIPELINE_THREADS; k++)
		wait_done(pipeline, (enum pipeline_thread)k);
	/* The net thread closes; the first of the others if it did not begin in time. */
	closes = (thread == NET_THREAD || !pipeline->entered[NET_THREAD]) && !pipeline->closes;
	pipeline->closes = pipeline->closes || closes;
	pthread_mutex_unlock(&pipeline->lock);
	if (closes)
		close_books(pipeline);
	pthread_mutex_lock(&pipeline->lock);
	pipeline->closed = pipeline->closed || closes;
	pthread_cond_broadcast(&pipeline->changed);
	while (!pipeline->closed)
		wait_changed(pipeline, monotonic_ns() + 100000000u);
	pthread_mutex_unlock(&pipeline->lock);
	return atomic_load(&pipeline->failed) ? THREAD_ERROR : THREAD_OK;
}

void pipeline_fail(struct pipeline *pipeline, const char *format, ...)
{
	char text[JOURNAL_LINE];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	journal_note(&pipeline->journal, JOURNAL_ERROR, "%s", text);
	if (pipeline->journal.fd != STDERR_FILENO)
		fprintf(stderr, "hashpipe: %s\n", text);
	atomic_store(&pipeline->failed, true);
	atomic_store(&pipeline->stop, true);
}

bool pipeline_alive(struct pipeline *pipeline, enum pipeline_thread thread)
{
	bool alive;

	pthread_mutex_lock(&pipeline->lock);
	alive = !pipeline->done[thread] && (pipeline->entered[thread] || run_threads());
	pthread_mutex_unlock(&pipeline->lock);
	return alive;
}

int pipeline_wait_free(struct pipeline *pipeline, hashpipe_databuf_t *ring, int block,
		       enum pipeline_thread next)
{
	int result;

	errno = 0;
	result = hashpipe_databuf_wait_free(ring, block);
	if (result == HASHPIPE_OK)
		return 1;
	if (result != HASHPIPE_TIMEOUT && errno != EINTR) {
		pipeline_fail(pipeline, "waiting for a free block: %s", strerror(errno));
		return -1;
	}
	return pipeline_alive(pipeline, next) ? 0 : -1;
}

int pipeline_wait_filled(struct pipeline *pipeline, hashpipe_databuf_t *ring, int block,
			 enum pipeline_thread before, int timeout_ms)
{
	struct timespec timeout = { timeout_ms / 1000, timeout_ms % 1000 * 1000000l };
	/* Asked first: what a thread sends, it sends before it is done. */
	bool more = pipeline_alive(pipeline, before);
	int result;

	errno = 0;
	result = hashpipe_databuf_wait_filled_timeout(ring, block, &timeout);
	if (result == HASHPIPE_OK)
		return 1;
	if (result != HASHPIPE_TIMEOUT && errno != EINTR) {
		pipeline_fail(pipeline, "waiting for a filled block: %s", strerror(errno));
		return -1;
	}
	return more ? 0 : -1;
}
