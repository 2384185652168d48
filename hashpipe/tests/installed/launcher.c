/* launcher.c -- runs threads the way HASHPIPE's launcher does: one after another from the last on,
 * with a pause after each; a signal is noticed within a second, and all threads are then cancelled.
 *
 * Knows -p, -I, -o and -l, from left to right.  The environment's PAUSE_MS goes before that which
 * it was built with.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "installed.h"

#ifndef PAUSE_MS
#define PAUSE_MS 3000
#endif
#ifndef POLL_MS
#define POLL_MS 1000
#endif

enum { THREADS = 8 };

static hashpipe_thread_args_t all[THREADS];
static int n_threads;

static void on_signal(int number)
{
	(void)number;
	installed_running = 0;
}

static void put(int instance_id, const char *key, const char *value)
{
	hashpipe_status_t status;
	char *end;
	long long whole = strtoll(value, &end, 0);

	hashpipe_status_attach(instance_id, &status);
	hashpipe_status_lock(&status);
	if (*value && !*end)
		hputi8(status.buf, key, whole);
	else
		hputs(status.buf, key, value);
	hashpipe_status_unlock(&status);
	hashpipe_status_detach(&status);
}

static int init(char *name, int instance_id)
{
	hashpipe_thread_args_t *args = &all[n_threads];
	hashpipe_thread_desc_t *desc = find_hashpipe_thread(name);

	if (!desc || n_threads == THREADS)
		return -1;
	args->thread_desc = desc;
	args->instance_id = instance_id;
	args->input_buffer = n_threads;
	args->output_buffer = ++n_threads;
	put(instance_id, desc->skey, "init");
	hashpipe_status_attach(instance_id, &args->st);
	if ((desc->ibuf_desc.create &&
	     !(args->ibuf = desc->ibuf_desc.create(instance_id, args->input_buffer))) ||
	    (desc->obuf_desc.create &&
	     !(args->obuf = desc->obuf_desc.create(instance_id, args->output_buffer))) ||
	    (desc->init && desc->init(args)))
		return -1;
	if (args->ibuf)
		hashpipe_databuf_detach(args->ibuf);
	if (args->obuf)
		hashpipe_databuf_detach(args->obuf);
	hashpipe_status_detach(&args->st);
	return 0;
}

static void *run(void *argument)
{
	hashpipe_thread_args_t *args = argument;
	void *result;

	hashpipe_status_attach(args->instance_id, &args->st);
	if (args->thread_desc->ibuf_desc.create)
		args->ibuf = hashpipe_databuf_attach(args->instance_id, args->input_buffer);
	if (args->thread_desc->obuf_desc.create)
		args->obuf = hashpipe_databuf_attach(args->instance_id, args->output_buffer);
	result = args->thread_desc->run(args);
	installed_running = 0;
	return result;
}

static void run_all(void)
{
	const char *pause_ms = getenv("PAUSE_MS");
	pthread_t thread[THREADS];

	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	for (int k = n_threads - 1; k >= 0; k--) {
		pthread_create(&thread[k], NULL, run, &all[k]);
		usleep((useconds_t)(pause_ms ? atoi(pause_ms) : PAUSE_MS) * 1000);
	}
	while (installed_running)
		usleep(POLL_MS * 1000);
	for (int k = 0; k < n_threads; k++) {
		pthread_cancel(thread[k]);
		pthread_kill(thread[k], SIGINT);
	}
	for (int k = 0; k < n_threads; k++)
		pthread_join(thread[k], NULL);
}

int main(int argc, char **argv)
{
	struct rlimit locked;
	int instance_id = 0, option;

	prctl(PR_SET_NAME, "hashpipe");
	getrlimit(RLIMIT_MEMLOCK, &locked);
	locked.rlim_cur = locked.rlim_max;
	setrlimit(RLIMIT_MEMLOCK, &locked);
	while ((option = getopt(argc, argv, "-p:I:o:l")) != -1) {
		char *equals;

		switch (option) {
		case 'p':
			if (!dlopen(optarg, RTLD_NOW)) {
				fprintf(stderr, "%s\n", dlerror());
				return 1;
			}
			break;
		case 'I':
			instance_id = atoi(optarg);
			break;
		case 'o':
			equals = strchr(optarg, '=');
			*equals = '\0';
			put(instance_id, optarg, equals + 1);
			break;
		case 'l':
			list_hashpipe_threads(stdout);
			return 0;
		case 1:
			if (init(optarg, instance_id))
				return 1;
			break;
		default:
			return 1;
		}
	}
	run_all();
	return 0;
}
