/* capture.c -- see capture.h; what both kinds share */
#include "capture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Time stamps may be out of order by as much, and a packet come so long after the clocks were read.
 * A clock that is set by less than this is not noticed, nor does it matter. */
#define LEEWAY_NS 100000000u

int capture_filter(int fd, const struct sock_filter *filter, unsigned short length)
{
	struct sock_fprog program = { .len = length, .filter = (struct sock_filter *)filter };

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) ? -errno : 0;
}

int capture_filter_all(int fd)
{
	static const struct sock_filter nothing[] = { { BPF_RET | BPF_K, 0, 0, 0 } };

	return capture_filter(fd, nothing, 1);
}

void capture_receive_buffer(struct capture *capture, int fd, unsigned bytes)
{
	int wanted = (int)bytes, got = 0;
	socklen_t size = sizeof(got);

	if (!setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &wanted, sizeof(wanted)))
		return;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &wanted, sizeof(wanted));
	getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &got, &size);
	/* The kernel doubles the number to account for its own overhead. */
	if (got / 2 < wanted)
		journal_note(
			capture->journal, JOURNAL_WARNING,
			"the receive buffer is limited to %d kB, %d kB would be safer: as root, "
			"sysctl -w net.core.rmem_max=%d",
			got / 2 / 1000, wanted / 1000, wanted);
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The stamps of packets are of the computer's clock, which may be set.  Read together with one that
 * never is, once for many packets. */
void capture_read_clocks(struct capture *capture)
{
	uint64_t unix_ns = clock_ns(CLOCK_REALTIME);

	capture_set_clocks(capture, unix_ns, clock_ns(CLOCK_MONOTONIC));
}

void capture_set_clocks(struct capture *capture, uint64_t unix_ns, uint64_t monotonic_ns)
{
	capture->clock_ns = monotonic_ns;
	capture->offset_now_ns = monotonic_ns - unix_ns;
	/* Set, if by more than a little; then packets of before that may come first. */
	if (capture->offset_now_ns - capture->offset_ns + LEEWAY_NS <= 2 * LEEWAY_NS)
		capture->offset_ns = capture->offset_now_ns;
}

/* Whether a packet can have come then: hardly before the one taken before it, nor in future. */
static bool is_possible(const struct capture *capture, uint64_t clock_ns)
{
	return clock_ns + LEEWAY_NS >= capture->newest_clock_ns &&
	       clock_ns <= capture->clock_ns + LEEWAY_NS;
}

/* When the packet came that is taken now, on the clock that is never set.  The first that cannot
 * have come then was stamped after the other was set; perhaps a moment ago, since they were read.
 */
static uint64_t clock_of(struct capture *capture, uint64_t recv_ns)
{
	if (!is_possible(capture, recv_ns + capture->offset_ns))
		capture->offset_ns = capture->offset_now_ns;
	if (!is_possible(capture, recv_ns + capture->offset_ns))
		return capture->clock_ns;
	return recv_ns + capture->offset_ns;
}

/* A packet that seems to be older than the one before is not: the clock was set back, or packets
 * have changed places. */
static void note_time(struct net_stream_account *stream, uint64_t clock_ns)
{
	uint64_t last_ns = counted(&stream->last_clock_ns);

	if (last_ns && clock_ns <= last_ns)
		return;
	if (!last_ns)
		set_counter(&stream->first_clock_ns, clock_ns);
	else if (clock_ns - last_ns > counted(&stream->gap_ns))
		set_counter(&stream->gap_ns, clock_ns - last_ns);
	set_counter(&stream->last_clock_ns, clock_ns);
}

bool capture_judge(struct capture *capture, const uint8_t *payload, size_t length, uint32_t source,
		   uint64_t recv_ns, struct packet_info *info)
{
	struct account *account = capture->account;
	enum packet_verdict verdict = packet_check(payload, length, source, capture->modules, info);
	struct net_stream_account *stream;

	count(&account->received, 1);
	count(&account->bytes, length);
	capture->newest_recv_ns = recv_ns;
	capture->newest_clock_ns = clock_of(capture, recv_ns);
	if (verdict == PACKET_OK) {
		info->recv_ns = recv_ns;
		info->clock_ns = capture->newest_clock_ns;
		stream = &account->net[stream_index(info->module, info->quabo, info->stream)];
		note_time(stream, info->clock_ns);
		count(&stream->received, 1);
		set_counter(&stream->last_recv_ns, recv_ns);
		return true;
	}
	if (account_reject(account, verdict, source, packet_boardloc(payload, length))) {
		struct in_addr address = { htonl(source) };
		char text[INET_ADDRSTRLEN];

		inet_ntop(AF_INET, &address, text, sizeof(text));
		journal_note(
			capture->journal, JOURNAL_WARNING,
			"bad packet from %s (%s): %zu bytes, BOARDLOC %d; not recorded, further "
			"ones are counted",
			text, packet_verdict_name(verdict), length,
			packet_boardloc(payload, length));
	}
	return false;
}

/* Whether a packet socket makes sense without being asked for.  Of any address (0.0.0.0) it would
 * see everything on all interfaces.  On a loopback address pipelines may share a busy computer, and
 * a UDP socket keeps few packets for longer than a ring, which gives each 20 ms a whole block. */
static bool suits_packet_socket(const char *bindhost)
{
	struct in_addr address;

	if (inet_pton(AF_INET, bindhost, &address) != 1)
		return if_nametoindex(bindhost) != 0;
	return address.s_addr && ntohl(address.s_addr) >> 24 != IN_LOOPBACKNET;
}

/* A packet socket needs CAP_NET_RAW. */
static const struct capture_kind *choose(const struct options *options)
{
	int fd;

	if (options->capture == CAPTURE_UDP)
		return &capture_udp;
	if (options->capture == CAPTURE_PACKET)
		return &capture_packet;
	if (!suits_packet_socket(options->bindhost))
		return &capture_udp;
	fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return &capture_udp;
	close(fd);
	return &capture_packet;
}

int capture_open(struct capture *capture, const struct options *options,
		 const struct module_table *modules, struct account *account,
		 struct journal *journal, char *fault, size_t fault_size)
{
	int err;

	memset(capture, 0, sizeof(*capture));
	capture->options = options;
	capture->modules = modules;
	capture->account = account;
	capture->journal = journal;
	capture->fd = capture->wake_fd = -1;
	capture->kind = choose(options);
	err = capture->kind->open(capture, fault, fault_size);
	if (err)
		capture->kind = NULL;
	return err;
}

int capture_start(struct capture *capture, char *fault, size_t fault_size)
{
	return capture->kind->start(capture, fault, fault_size);
}

int capture_receive(struct capture *capture, struct capture_target *target, int timeout_ms)
{
	int n = capture->kind->receive(capture, target, timeout_ms);

	if (n == 0) /* nothing is left that was stamped before the clock was set */
		capture->offset_ns = capture->offset_now_ns;
	return n;
}

void capture_count_drops(struct capture *capture)
{
	capture->kind->count_drops(capture);
}

uint64_t capture_held(struct capture *capture)
{
	return capture->kind->held(capture);
}

void capture_close(struct capture *capture)
{
	if (capture->kind)
		capture->kind->close(capture);
	capture->kind = NULL;
}
