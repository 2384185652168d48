/* net_thread.c -- first thread: from the network into packet blocks.
 *
 * SIGINT and SIGTERM end the pipeline in order: our handlers replace the launcher's, which would
 * stop all threads at once.  What the kernel had received when the signal came is still taken.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "blocks.h"
#include "hashpipe.h"
#include "pipeline.h"

enum {
	IDLE_MS = 250,
	DROPS_NS = 500000000, /* how often the kernel's drops are read */
	HELD_MS = 50,	      /* wait for what a capture holds back, */
	DRAIN_MS = 1000,      /* for so long without any of it coming */
	ERROR_LIMIT = 100,    /* receive errors in a row after which the network is given up */
};

/* Written by the signal handler, which runs on any thread: the time of the first signal, then that
 * there was one, so that whoever sees the latter finds the former. */
static atomic_llong signal_time_ns;
static atomic_int signal_caught;
static int wake_fd = -1;

struct net {
	struct pipeline *pipeline;
	struct packet_databuf *ring;
	int index;		    /* of the block in hand */
	int handed_over;	    /* the one before it; -1: none yet */
	struct packet_block *block; /* NULL: none in hand */
	struct capture_target target;
	uint64_t first_ns; /* when the first packet was put into the block in hand */
	uint64_t drops_ns; /* when the kernel's drops were last read */
	unsigned errors;   /* since packets came */
	int last_error;
};

static void on_signal(int number)
{
	int before = errno;
	uint64_t one = 1;
	long long none = 0;

	(void)number;
	atomic_compare_exchange_strong(&signal_time_ns, &none, unix_ns());
	atomic_store(&signal_caught, 1);
	if (write(wake_fd, &one, sizeof(one)) < 0) {
		/* The net thread looks at signal_caught at least every IDLE_MS anyway. */
	}
	errno = before;
}

static int net_init(hashpipe_thread_args_t *args)
{
	struct pipeline *pipeline = pipeline_get(args->instance_id);
	char fault[CAPTURE_FAULT];
	int err;

	if (!pipeline || pipeline_prepare(pipeline))
		return -1;
	if (wake_fd < 0)
		wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = capture_open(&pipeline->capture, &pipeline->options, &pipeline->modules,
			   &pipeline->account, &pipeline->journal, fault, sizeof(fault));
	if (err) {
		pipeline_refuse(pipeline, "%s", fault);
		return -1;
	}
	pipeline->capture.wake_fd = wake_fd;
	pipeline->capture_name = pipeline->capture.kind->name;
	return 0;
}

/* Takes the next block of the ring in hand.  False: the pipeline has failed. */
static bool take_block(struct net *net)
{
	struct packet_block *block = &net->ring->block[net->index];
	int is_free;

	pipeline_activity(net->pipeline, NET_THREAD, ACTIVITY_BLOCKED);
	while (!(is_free = pipeline_wait_free(net->pipeline, &net->ring->base, net->index,
					      COMPUTE_THREAD)))
		/* A disk stands still: the status is to tell what that costs. */
		capture_count_drops(&net->pipeline->capture);
	if (is_free < 0)
		return false;
	pipeline_activity(net->pipeline, NET_THREAD, ACTIVITY_RECEIVING);
	/* Pairs with the release by which the compute thread gave the block back. */
	atomic_load_explicit(&block->header.handed_over, memory_order_acquire);
	block->header.n = 0;
	block->header.end = 0;
	net->block = block;
	net->target = (struct capture_target){ .info = block->info,
					       .payload = block->payload,
					       .size = PACKET_BLOCK_PACKETS };
	return true;
}

static void hand_over(struct net *net, bool end)
{
	struct packet_block *block = net->block;
	int next = blocks_next(&net->ring->base, net->index);

	block->header.next = next;
	block->header.n = net->target.n;
	block->header.end = end;
	atomic_store_explicit(&block->header.handed_over, 1, memory_order_release);
	hashpipe_databuf_set_filled(&net->ring->base, net->index);
	set_counter(&net->pipeline->net_block, (uint64_t)net->index);
	count(&net->pipeline->account.net_blocks, 1);
	net->handed_over = net->index;
	net->index = next;
	net->block = NULL;
	net->target.n = 0;
}

/* The compute thread has not done yet with what it got last.  Then the block in hand takes on more,
 * until it is full: so a disk that stands still for seconds finds all the room of the ring, and not
 * as many blocks with a few packets each. */
static bool is_behind(const struct net *net)
{
	return net->handed_over >= 0 &&
	       hashpipe_databuf_block_status(&net->ring->base, net->handed_over) == 1;
}

/* With an empty block in hand, and nothing good received since `begun_ns`: tells the compute thread
 * up to when it has everything.  That is `begun_ns` if there was nothing at all (n = 0), else the
 * time of the last bad packet, as more may be waiting behind it. */
static void note_idle(struct net *net, int n, uint64_t begun_ns)
{
	const struct capture *capture = &net->pipeline->capture;
	uint64_t through_ns = begun_ns;

	if (n > 0 && capture->newest_clock_ns < begun_ns)
		through_ns = capture->newest_clock_ns;
	atomic_store_explicit(&net->pipeline->idle_clock_ns, through_ns - capture->lag_ns,
			      memory_order_release);
}

/* One round: receive, hand the block over when it is time.  Returns what capture_receive did, or
 * -EPIPE when no block will ever be free. */
static int receive_once(struct net *net, int timeout_ms)
{
	struct capture *capture = &net->pipeline->capture;
	unsigned before;
	uint64_t begun_ns;
	int n;

	if (!net->block && !take_block(net))
		return -EPIPE;
	before = net->target.n;
	begun_ns = monotonic_ns();
	if (before && timeout_ms > 0) {
		int64_t left_ns = (int64_t)(net->first_ns + capture->gather_ns - begun_ns);

		if (left_ns <= 0 && is_behind(net))
			left_ns = GATHER_MS * 1000000;
		timeout_ms = left_ns > 0 ? (int)(left_ns / 1000000) + 1 : 0;
	}
	n = capture_receive(capture, &net->target, timeout_ms);
	if (net->target.n && !before)
		net->first_ns = monotonic_ns();
	if (net->target.n == net->target.size ||
	    (net->target.n && monotonic_ns() - net->first_ns >= capture->gather_ns &&
	     !is_behind(net)))
		hand_over(net, false);
	else if (n >= 0 && !net->target.n)
		note_idle(net, n, begun_ns);
	return n;
}

/* An error of the network, such as an interface that went down: told, and tried again. */
static void note_error(struct net *net, int err)
{
	const char *host = net->pipeline->options.bindhost;

	if (err == ENODEV) {
		pipeline_fail(net->pipeline, "receiving on %s: the interface is gone", host);
		return;
	}
	if (err != net->last_error)
		journal_note(&net->pipeline->journal, JOURNAL_ERROR, "receiving on %s: %s", host,
			     strerror(err));
	net->last_error = err;
	if (++net->errors > ERROR_LIMIT)
		pipeline_fail(net->pipeline, "receiving on %s fails again and again: %s", host,
			      strerror(err));
	usleep(100000);
}

static void note_success(struct net *net)
{
	if (net->errors)
		journal_note(&net->pipeline->journal, JOURNAL_INFO,
			     "receiving on %s: packets come again",
			     net->pipeline->options.bindhost);
	net->errors = 0;
	net->last_error = 0;
}

static bool wants_end(const struct net *net)
{
	return atomic_load_explicit(&signal_caught, memory_order_relaxed) || !run_threads() ||
	       atomic_load_explicit(&net->pipeline->stop, memory_order_relaxed);
}

static void receive_until_stopped(struct net *net)
{
	while (!wants_end(net)) {
		uint64_t now_ns;
		int n = receive_once(net, net->pipeline->options.busy_poll ? 0 : IDLE_MS);

		if (n == -EPIPE)
			return;
		if (n < 0)
			note_error(net, -n);
		else if (n > 0)
			note_success(net);
		pipeline_activity(net->pipeline, NET_THREAD,
				  n > 0 ? ACTIVITY_RECEIVING : ACTIVITY_WAITING);
		now_ns = monotonic_ns();
		if (now_ns - net->drops_ns >= DROPS_NS) {
			capture_count_drops(&net->pipeline->capture);
			net->drops_ns = now_ns;
		}
	}
}

/* What was taken last came before `until_ns`, or so it seems.  A time stamp of the future is from
 * before the clock was set back, so it is older than all that comes now. */
static bool is_before(const struct capture *capture, uint64_t until_ns)
{
	return capture->newest_recv_ns <= until_ns || capture->newest_recv_ns > (uint64_t)unix_ns();
}

/* Takes what the kernel had received before `until_ns` (Unix time).  It is over when nothing is
 * left or what comes is newer.  Should the clock have been set back just now, the limit is what a
 * full receive buffer can hold. */
static void drain(struct net *net, uint64_t until_ns)
{
	struct capture *capture = &net->pipeline->capture;
	uint64_t limit = 2 * ((uint64_t)capture->options->receive_mb << 20) / PACKET_BYTES_8;
	uint64_t progress_ns = monotonic_ns(), taken = 0, held;
	int n;

	capture->wake_fd = -1; /* it would cut every wait short */
	do {
		held = capture_held(capture);
		n = receive_once(net, held ? HELD_MS : 0);
		if (n == -EPIPE)
			return;
		/* An interface that goes down now takes nothing away from what has been received.
		 */
		if (n < 0)
			usleep(1000);
		if (n > 0) {
			progress_ns = monotonic_ns();
			taken += (uint64_t)n;
		} else if (monotonic_ns() - progress_ns > DRAIN_MS * 1000000ull) {
			break;
		}
	} while ((n != 0 || held) && is_before(capture, until_ns) && taken < limit);
	if (n <= 0 && held)
		journal_note(&net->pipeline->journal, JOURNAL_WARNING,
			     "the kernel has received %llu packets that it does not hand out",
			     (unsigned long long)held);
}

static void end(struct net *net)
{
	if (!net->block && !take_block(net))
		return;
	hand_over(net, true);
}

static void *net_run(hashpipe_thread_args_t *args)
{
	struct pipeline *pipeline = pipeline_get(args->instance_id);
	struct net net = { .pipeline = pipeline,
			   .ring = (struct packet_databuf *)args->obuf,
			   .handed_over = -1 };
	struct sigaction action, before_int, before_term;
	char fault[CAPTURE_FAULT];
	void *result;

	memset(&action, 0, sizeof(action));
	action.sa_handler = on_signal;
	action.sa_flags = SA_RESTART;
	sigaction(SIGINT, &action, &before_int);
	sigaction(SIGTERM, &action, &before_term);
	pipeline_enter(pipeline, NET_THREAD);
	if (wants_end(&net)) {
		/* Told to end before it began: the others may have gone already. */
	} else if (capture_start(&pipeline->capture, fault, sizeof(fault))) {
		pipeline_fail(pipeline, "%s", fault);
	} else {
		pipeline_opened(pipeline);
		journal_note(&pipeline->journal, JOURNAL_INFO, "listening on %s port %u (%s)",
			     pipeline->options.bindhost, pipeline->options.bindport,
			     pipeline->capture_name);
		receive_until_stopped(&net);
		pipeline_set_state(pipeline, PIPELINE_DRAINING);
		drain(&net, atomic_load(&signal_caught) ? (uint64_t)atomic_load(&signal_time_ns)
							: (uint64_t)unix_ns());
		capture_count_drops(&pipeline->capture);
	}
	end(&net);
	atomic_store(&pipeline->socket_open, false);
	capture_close(&pipeline->capture);
	result = pipeline_leave(pipeline, NET_THREAD);
	sigaction(SIGINT, &before_int, NULL);
	sigaction(SIGTERM, &before_term, NULL);
	return result;
}

static hashpipe_thread_desc_t net_thread = {
	.name = "net_thread",
	.skey = "NETSTAT",
	.init = net_init,
	.run = net_run,
	.ibuf_desc = { NULL },
	.obuf_desc = { blocks_create_packet_ring },
};

static __attribute__((constructor)) void register_net_thread(void)
{
	register_hashpipe_thread(&net_thread);
}
