/* capture_udp.c -- science packets from a UDP socket, many per system call.
 *
 * To be woken for every packet costs more than the packet itself.  So after a call that took a
 * few, the next one waits a moment (NAP_NS at most, and no longer than a quarter of the receive
 * buffer takes to fill); after one that took all it could, or none, there is no such pause.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "capture.h"

enum {
	BATCH = 256,
	CONTROL_BYTES = CMSG_SPACE(sizeof(struct timespec)),
	NAP_NS = 1000000,
	FASTEST_PACKET_NS = 1000, /* nobody sends faster: bounds the first nap of a burst */
	/* What one packet takes of the receive buffer, kernel's overhead included. */
	PACKET_BUFFER_BYTES = 2304,
};

struct udp {
	struct mmsghdr message[BATCH];
	struct iovec iov[BATCH];
	struct sockaddr_in source[BATCH];
	_Alignas(8) uint8_t control[BATCH][CONTROL_BYTES];
	uint32_t drops;			 /* the kernel's counter when last looked at */
	bool pause;			 /* the last call took some, but not all it could */
	unsigned taken;			 /* by the last call */
	uint64_t called_ns, interval_ns; /* time of the last call, and since the one before */
	unsigned capacity;		 /* packets that the receive buffer holds, cautiously */
};

/* Drops of the socket since it was made, as in SO_RXQ_OVFL but without waiting for a packet. */
static uint32_t kernel_counter(int fd)
{
	uint32_t info[SK_MEMINFO_VARS] = { 0 };
	socklen_t size = sizeof(info);

	if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &size))
		return 0;
	return info[SK_MEMINFO_DROPS];
}

static void udp_count_drops(struct capture *capture)
{
	struct udp *udp = capture->own;
	uint32_t drops = kernel_counter(capture->fd);

	count(&capture->account->kernel_drops, (uint32_t)(drops - udp->drops));
	udp->drops = drops;
}

/* What the socket holds, recvmmsg takes at once. */
static uint64_t udp_held(struct capture *capture)
{
	(void)capture;
	return 0;
}

static int bind_to(struct capture *capture, char *fault, size_t fault_size)
{
	const char *host = capture->options->bindhost;
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_port = htons((uint16_t)capture->options->bindport) };

	if (inet_pton(AF_INET, host, &address.sin_addr) != 1) {
		if (!if_nametoindex(host)) {
			snprintf(fault, fault_size,
				 "BINDHOST=%s is neither an interface of this computer nor an IPv4 "
				 "address; see `ip address`",
				 host);
			return -ENODEV;
		}
		address.sin_addr.s_addr = htonl(INADDR_ANY);
		if (setsockopt(capture->fd, SOL_SOCKET, SO_BINDTODEVICE, host,
			       (socklen_t)strlen(host) + 1)) {
			snprintf(fault, fault_size,
				 "BINDHOST=%s: cannot bind to the interface (%s); give its address",
				 host, strerror(errno));
			return -errno;
		}
	}
	if (bind(capture->fd, (struct sockaddr *)&address, sizeof(address))) {
		int err = errno;

		snprintf(fault, fault_size, "cannot bind UDP port %u of %s: %s%s",
			 capture->options->bindport, host, strerror(err),
			 err == EADDRINUSE	? "; see `ss -ulpn` for who has it"
			 : err == EADDRNOTAVAIL ? "; no interface here has this address"
						: "");
		return -err;
	}
	return 0;
}

static void udp_close(struct capture *capture)
{
	close(capture->fd);
	capture->fd = -1;
	free(capture->own);
	capture->own = NULL;
}

static int udp_open(struct capture *capture, char *fault, size_t fault_size)
{
	struct udp *udp = calloc(1, sizeof(*udp));
	int on = 1, bytes = 0, err;
	socklen_t size = sizeof(bytes);

	if (!udp) {
		snprintf(fault, fault_size, "no memory for the UDP capture");
		return -ENOMEM;
	}
	capture->own = udp;
	capture->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (capture->fd < 0) {
		err = -errno;
		snprintf(fault, fault_size, "cannot open a UDP socket: %s", strerror(errno));
		goto no_socket;
	}
	capture_receive_buffer(capture, capture->fd, capture->options->receive_mb << 20);
	if (capture_filter_all(capture->fd) ||
	    setsockopt(capture->fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on))) {
		err = -errno;
		snprintf(fault, fault_size, "cannot set up the UDP socket: %s", strerror(errno));
		goto failed;
	}
	err = bind_to(capture, fault, fault_size);
	if (err)
		goto failed;
	getsockopt(capture->fd, SOL_SOCKET, SO_RCVBUF, &bytes, &size);
	udp->capacity = (unsigned)bytes / PACKET_BUFFER_BYTES;
	capture->gather_ns = GATHER_MS * 1000000u;
	return 0;

failed:
	close(capture->fd);
no_socket:
	free(udp);
	capture->own = NULL;
	capture->fd = -1;
	return err;
}

static int udp_start(struct capture *capture, char *fault, size_t fault_size)
{
	struct udp *udp = capture->own;
	int none = 0;

	if (setsockopt(capture->fd, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof(none))) {
		snprintf(fault, fault_size, "cannot open the UDP socket for packets: %s",
			 strerror(errno));
		return -errno;
	}
	/* What was kept out until now is a drop in the kernel's book, but not in ours. */
	udp->drops = kernel_counter(capture->fd);
	return 0;
}

/* Lets packets gather, see the top of this file. */
static void nap(struct capture *capture, int timeout_ms)
{
	struct udp *udp = capture->own;
	uint64_t quarter = udp->capacity / 4, nap_ns = NAP_NS;
	struct timespec pause = { 0, 0 };
	struct pollfd wake = { .fd = capture->wake_fd, .events = POLLIN };

	if (nap_ns > udp->interval_ns * quarter / (udp->taken + 1))
		nap_ns = udp->interval_ns * quarter / (udp->taken + 1);
	if (nap_ns > quarter * FASTEST_PACKET_NS)
		nap_ns = quarter * FASTEST_PACKET_NS;
	if (nap_ns > (uint64_t)timeout_ms * 1000000u)
		nap_ns = (uint64_t)timeout_ms * 1000000u;
	pause.tv_nsec = (long)nap_ns;
	if (nap_ns > 20000) /* shorter ones are not worth the call */
		ppoll(&wake, 1, &pause, NULL);
}

static int take(struct capture *capture, struct capture_target *target, unsigned room)
{
	struct udp *udp = capture->own;
	int n;

	capture_read_clocks(capture);
	udp->interval_ns = capture->clock_ns - udp->called_ns;
	udp->called_ns = capture->clock_ns;
	for (unsigned k = 0; k < room; k++) {
		udp->iov[k] = (struct iovec){ target->payload[target->n + k], PACKET_MAX_BYTES };
		udp->message[k].msg_hdr = (struct msghdr){
			.msg_name = &udp->source[k],
			.msg_namelen = sizeof(udp->source[k]),
			.msg_iov = &udp->iov[k],
			.msg_iovlen = 1,
			.msg_control = udp->control[k],
			.msg_controllen = CONTROL_BYTES,
		};
	}
	/* MSG_TRUNC: tell the true length of a datagram that does not fit. */
	n = recvmmsg(capture->fd, udp->message, room, MSG_DONTWAIT | MSG_TRUNC, NULL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	return n;
}

/* The kernel's receive time stamp; 0 if there is none. */
static uint64_t time_stamp(struct msghdr *header)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
		struct timespec stamp;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_TIMESTAMPNS)
			continue;
		memcpy(&stamp, CMSG_DATA(c), sizeof(stamp));
		return (uint64_t)stamp.tv_sec * 1000000000u + (uint64_t)stamp.tv_nsec;
	}
	return 0;
}

/* Keeps the good ones of `n` datagrams that lie in the target's free slots, without holes. */
static void keep(struct capture *capture, struct capture_target *target, unsigned n)
{
	struct udp *udp = capture->own;
	unsigned first = target->n;

	for (unsigned k = 0; k < n; k++) {
		uint8_t *payload = target->payload[first + k];
		uint64_t recv_ns = time_stamp(&udp->message[k].msg_hdr);

		if (!capture_judge(capture, payload, udp->message[k].msg_len,
				   ntohl(udp->source[k].sin_addr.s_addr),
				   recv_ns ? recv_ns : capture->clock_ns - capture->offset_now_ns,
				   &target->info[target->n]))
			continue;
		if (target->n != first + k)
			memcpy(target->payload[target->n], payload, PACKET_MAX_BYTES);
		target->n++;
	}
}

static int udp_receive(struct capture *capture, struct capture_target *target, int timeout_ms)
{
	struct udp *udp = capture->own;
	unsigned room = target->size - target->n < BATCH ? target->size - target->n : BATCH;
	int n;

	if (udp->pause)
		nap(capture, timeout_ms);
	n = take(capture, target, room);
	if (n == 0 && timeout_ms > 0) {
		struct pollfd sources[2] = { { .fd = capture->fd, .events = POLLIN },
					     { .fd = capture->wake_fd, .events = POLLIN } };

		if (poll(sources, 2, timeout_ms) > 0)
			n = take(capture, target, room);
	}
	udp->pause = n > 0 && (unsigned)n < room && timeout_ms > 0;
	if (n <= 0)
		return n;
	udp->taken = (unsigned)n;
	keep(capture, target, (unsigned)n);
	return n;
}

const struct capture_kind capture_udp = {
	.name = "udp",
	.open = udp_open,
	.start = udp_start,
	.receive = udp_receive,
	.count_drops = udp_count_drops,
	.held = udp_held,
	.close = udp_close,
};
