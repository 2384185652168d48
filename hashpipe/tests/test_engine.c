/* Running threads as a pipeline.  Each scenario has a process of its own: the run flag of a
 * process is cleared once. */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "engine.h"

enum { BLOCKS = 8, SENT = 1000 };

struct ring {
	hashpipe_databuf_t base;
	uint32_t value[BLOCKS];
};

static atomic_uint taken;
static atomic_bool cleaned;
static int signal_to_send; /* by the producer, the last thread to start: so all of them run */

static hashpipe_databuf_t *create(int instance, int id)
{
	return hashpipe_databuf_create(instance, id, offsetof(struct ring, value), 4, BLOCKS);
}

static hashpipe_databuf_t *create_nothing(int instance, int id)
{
	(void)instance;
	(void)id;
	return NULL;
}

static int init_remembering(hashpipe_thread_args_t *args)
{
	char value[80] = "";

	CHECK(args->user_data == NULL);
	CHECK(args->obuf != NULL && args->st.buf != NULL);
	hashpipe_status_lock_safe(&args->st);
	CHECK_EQUAL(hgets(args->st.buf, "PRODSTAT", sizeof(value), value), 1);
	hashpipe_status_unlock_safe(&args->st);
	CHECK_TEXT(value, "init");
	args->user_data = "kept";
	return 0;
}

static void *produce(hashpipe_thread_args_t *args)
{
	struct ring *ring = (struct ring *)args->obuf;

	CHECK_TEXT((const char *)args->user_data, "kept");
	if (signal_to_send)
		kill(getpid(), signal_to_send);
	for (unsigned k = 0; k < SENT && run_threads(); k++) {
		while (hashpipe_databuf_wait_free(args->obuf, (int)(k % BLOCKS)) != HASHPIPE_OK)
			if (!run_threads())
				return THREAD_OK;
		ring->value[k % BLOCKS] = k;
		hashpipe_databuf_set_filled(args->obuf, (int)(k % BLOCKS));
	}
	while (run_threads())
		usleep(1000);
	return THREAD_OK;
}

static void *consume(hashpipe_thread_args_t *args)
{
	struct ring *ring = (struct ring *)args->ibuf;

	for (unsigned k = 0; k < SENT; k++) {
		while (hashpipe_databuf_wait_filled(args->ibuf, (int)(k % BLOCKS)) != HASHPIPE_OK)
			if (!run_threads())
				return THREAD_ERROR;
		CHECK_EQUAL(ring->value[k % BLOCKS], k);
		atomic_fetch_add(&taken, 1);
		hashpipe_databuf_set_free(args->ibuf, (int)(k % BLOCKS));
	}
	return THREAD_OK; /* which ends the others too */
}

static void note_clean(void *argument)
{
	(void)argument;
	atomic_store(&cleaned, true);
}

/* Takes no notice of the run flag: has to be cancelled.  (Not in its sleep, which the thread
 * sanitizer does not understand.) */
static void *sleep_for_ever(hashpipe_thread_args_t *args)
{
	(void)args;
	pthread_cleanup_push(note_clean, NULL);
	for (;;) {
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
		usleep(10000);
		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
		pthread_testcancel();
	}
	pthread_cleanup_pop(0);
	return THREAD_OK;
}

static void *fail(hashpipe_thread_args_t *args)
{
	(void)args;
	return THREAD_ERROR;
}

static int init_failing(hashpipe_thread_args_t *args)
{
	(void)args;
	return -1;
}

static hashpipe_thread_desc_t descs[] = {
	{ "producer", "PRODSTAT", init_remembering, produce, { NULL }, { create } },
	{ "consumer", "CONSTAT", NULL, consume, { create }, { NULL } },
	{ "sleeper", NULL, NULL, sleep_for_ever, { NULL }, { NULL } },
	{ "failer", NULL, NULL, fail, { NULL }, { NULL } },
	{ "no_init", NULL, init_failing, fail, { NULL }, { NULL } },
	{ "no_ring", NULL, NULL, fail, { create_nothing }, { NULL } },
};

static int init(const char *name, int number, unsigned cpu_mask)
{
	hashpipe_thread_desc_t *desc = find_hashpipe_thread((char *)name);
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	if (cpu_mask)
		CPU_SET(0, &cpus);
	return CHECK(desc != NULL) ? engine_init_thread(desc, number, 3, &cpus) : -1;
}

static void check_status(const char *key, const char *wanted)
{
	hashpipe_status_t status;
	char value[80] = "";

	hashpipe_status_attach(3, &status);
	hgets(status.buf, key, sizeof(value), value);
	CHECK_TEXT(value, wanted);
	hashpipe_status_detach(&status);
}

static void one_hands_to_the_other(void)
{
	CHECK_EQUAL(init("producer", 0, 0), 0);
	CHECK_EQUAL(init("consumer", 1, 1), 0); /* on CPU 0 */
	check_status("CONSTAT", "init");
	CHECK_EQUAL(engine_run(), 0);
	CHECK_EQUAL(taken, SENT);
	CHECK(!run_threads());
	check_status("PRODSTAT", "exit");
	check_status("CONSTAT", "exit");
}

static void ended_by(int number)
{
	struct timespec begin, end;

	CHECK_EQUAL(init("producer", 0, 0), 0);
	CHECK_EQUAL(init("sleeper", 1, 0), 0);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	signal_to_send = number;
	CHECK_EQUAL(engine_run(), 0);
	clock_gettime(CLOCK_MONOTONIC, &end);
	CHECK(cleaned);
	CHECK(end.tv_sec - begin.tv_sec <= 5);
}

static void sigint(void)
{
	ended_by(SIGINT);
}

static void sigterm(void)
{
	ended_by(SIGTERM);
}

static void error_of_a_thread(void)
{
	CHECK_EQUAL(init("sleeper", 0, 0), 0);
	CHECK_EQUAL(init("failer", 1, 0), 0);
	CHECK_EQUAL(engine_run(), -1);
}

static void failing_set_up(void)
{
	CHECK(freopen("/dev/null", "w", stderr) != NULL); /* three complaints */
	CHECK_EQUAL(init("no_init", 0, 0), -1);
	CHECK_EQUAL(init("no_ring", 0, 0), -1);
	CHECK_EQUAL(init("producer", 64, 0), -1);
}

static void table_of_threads(void)
{
	char text[4096] = "";
	unsigned n = 0;
	FILE *out = fmemopen(text, sizeof(text), "w");

	CHECK(find_hashpipe_thread("Producer") == NULL);
	CHECK(find_hashpipe_thread("net_thread") != NULL); /* the pipeline's own are there too */
	list_hashpipe_threads(out);
	fclose(out);
	CHECK(strstr(text, "producer\n") && strstr(text, "output_thread\n"));
	CHECK(get_cpu_affinity() != 0);
	while (!register_hashpipe_thread(&descs[0]))
		n++;
	CHECK_EQUAL(n, 1024 - 6 - 3);
}

static void run(const char *name, void (*scenario)(void))
{
	int status = -1;
	pid_t child = fork();

	if (!child) {
		check_case("%s", name);
		scenario();
		engine_free_databufs();
		engine_free_statuses();
		fflush(stdout);
		_exit(check_result());
	}
	check_case("%s", name);
	CHECK_EQUAL(waitpid(child, &status, 0), child);
	CHECK_EQUAL(status, 0);
}

int main(void)
{
	for (unsigned k = 0; k < sizeof(descs) / sizeof(*descs); k++)
		CHECK_EQUAL(register_hashpipe_thread(&descs[k]), 0);
	if (!freopen("/dev/null", "w", stdout))
		return 1;
	run("one hands to the other", one_hands_to_the_other);
	run("SIGINT", sigint);
	run("SIGTERM", sigterm);
	run("error of a thread", error_of_a_thread);
	run("failing set-up", failing_set_up);
	run("table of threads", table_of_threads);
	return check_result();
}
