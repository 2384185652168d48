/* capture_packet.c -- science packets from a packet socket (AF_PACKET, TPACKET_V3).
 *
 * The kernel filters by port and copies packets into blocks of a ring that we see in memory; a
 * block is ours when full or after GATHER_MS at most.  Packets are taken at the network layer
 * (SOCK_DGRAM), so every kind of interface will do.  A UDP socket that lets nothing in holds the
 * port, so that the kernel does not answer the boards with "port unreachable".
 *
 * Where BINDHOST is an address, the socket is of all interfaces and the kernel filters by address
 * too: as with a UDP socket, it does not matter which way a packet comes.  (What a program on this
 * computer sends to the address of eth1 comes by lo.)
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "capture.h"

enum {
	BLOCK_BYTES = 1 << 21, /* holds what comes in GATHER_MS at 150 000 packets/s */
	BLOCKS_AT_LEAST = 4,
	IP_HEADER_MIN = 20,
	UDP_HEADER = 8,
	FRAME_BYTES = 2048, /* only a granule of the set-up: TPACKET_V3 packs packets tightly */
	SNAP_BYTES = 0xffff,
};

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

struct ring {
	uint8_t *memory;
	size_t bytes;
	unsigned block_bytes;
	unsigned n_blocks, block;  /* block: the one we read next */
	struct tpacket3_hdr *next; /* next packet in it, NULL: block not begun */
	unsigned left;		   /* packets left in it */
	uint64_t placed, taken;	   /* packets that the kernel has put into the ring; that we took */
	bool is_down;		   /* the interface was, when last heard of */
	uint32_t address;	   /* packets to this one alone, host byte order; 0: to any */
	int port_fd;
};

static struct tpacket_block_desc *current(const struct ring *ring)
{
	return (struct tpacket_block_desc *)(ring->memory +
					     (size_t)ring->block * ring->block_bytes);
}

static bool is_ours(const struct ring *ring)
{
	return __atomic_load_n(&current(ring)->hdr.bh1.block_status, __ATOMIC_ACQUIRE) &
	       TP_STATUS_USER;
}

static void give_back(struct ring *ring)
{
	__atomic_store_n(&current(ring)->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	ring->block = (ring->block + 1) % ring->n_blocks;
	ring->next = NULL;
}

/* IPv4, not a fragment, UDP to our port, meant for this computer, and for our address if we have
 * one. */
static int filter_port(int fd, uint16_t port, uint32_t address)
{
	const uint32_t mask = address ? UINT32_MAX : 0;
	const struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_PKTTYPE)),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, PACKET_OTHERHOST, 11, 0),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 9),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 9),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 16),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, address, 0, 6),
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 6),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x3fff, 4, 0),
		BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0),
		BPF_STMT(BPF_LD | BPF_H | BPF_IND, 2),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, port, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SNAP_BYTES),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};

	return capture_filter(fd, filter, sizeof(filter) / sizeof(*filter));
}

static int hold_port(struct capture *capture, uint32_t host, char *fault, size_t fault_size)
{
	const char *interface = capture->options->bindhost;
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_port = htons((uint16_t)capture->options->bindport),
				       .sin_addr.s_addr = htonl(host) };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), least = 1, err;

	if (fd < 0)
		goto failed;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &least, sizeof(least));
	if (capture_filter_all(fd) ||
	    (!host && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, interface,
				 (socklen_t)strlen(interface) + 1)) ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)))
		goto failed;
	return fd;

failed:
	err = errno;
	snprintf(fault, fault_size, "cannot bind UDP port %u of %s: %s%s",
		 capture->options->bindport, interface, strerror(err),
		 err == EADDRINUSE	? "; see `ss -ulpn` for who has it"
		 : err == EADDRNOTAVAIL ? "; no interface here has this address"
					: "");
	if (fd >= 0)
		close(fd);
	return -err;
}

/* As many blocks of the usual size as `bytes` allow, or a few smaller ones. */
static void size_ring(struct ring *ring, unsigned bytes)
{
	ring->block_bytes = bytes / BLOCKS_AT_LEAST;
	if (ring->block_bytes > BLOCK_BYTES)
		ring->block_bytes = BLOCK_BYTES;
	ring->n_blocks = bytes / ring->block_bytes;
}

static int set_up_ring(struct capture *capture, struct ring *ring)
{
	int version = TPACKET_V3, on = 1;
	struct tpacket_req3 request = {
		.tp_block_size = ring->block_bytes,
		.tp_frame_size = FRAME_BYTES,
		.tp_block_nr = ring->n_blocks,
		.tp_frame_nr = ring->n_blocks * (ring->block_bytes / FRAME_BYTES),
		.tp_retire_blk_tov = GATHER_MS,
	};

	if (setsockopt(capture->fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) ||
	    setsockopt(capture->fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)))
		return -errno;
	/* Older kernels do not know it; the filter keeps outgoing copies away there. */
	setsockopt(capture->fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on));
	ring->bytes = (size_t)ring->n_blocks * ring->block_bytes;
	ring->memory = mmap(NULL, ring->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, capture->fd, 0);
	return ring->memory == MAP_FAILED ? -errno : 0;
}

static int packet_open(struct capture *capture, char *fault, size_t fault_size)
{
	const char *interface = capture->options->bindhost;
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP) };
	struct in_addr host = { 0 };
	struct ring *ring;
	int err;

	inet_pton(AF_INET, interface, &host);
	address.sll_ifindex = host.s_addr ? 0 : (int)if_nametoindex(interface);
	if (!host.s_addr && !address.sll_ifindex) {
		snprintf(fault, fault_size,
			 "BINDHOST=%s is neither an interface of this computer nor an address, as "
			 "packet capture needs; see `ip address`, or give CAPTURE=udp",
			 interface);
		return -ENODEV;
	}
	ring = calloc(1, sizeof(*ring));
	if (!ring) {
		snprintf(fault, fault_size, "no memory for the packet capture");
		return -ENOMEM;
	}
	size_ring(ring, capture->options->receive_mb << 20);
	ring->address = ntohl(host.s_addr);
	ring->port_fd = hold_port(capture, ring->address, fault, fault_size);
	if (ring->port_fd < 0) {
		err = ring->port_fd;
		goto no_port;
	}
	capture->fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (capture->fd < 0) {
		err = -errno;
		snprintf(fault, fault_size,
			 "cannot open a packet socket: %s; it needs CAP_NET_RAW, or give "
			 "CAPTURE=udp",
			 strerror(errno));
		goto no_socket;
	}
	err = capture_filter_all(capture->fd);
	if (!err)
		err = set_up_ring(capture, ring);
	if (!err && bind(capture->fd, (struct sockaddr *)&address, sizeof(address)))
		err = -errno;
	if (err) {
		snprintf(fault, fault_size, "cannot set up packet capture on %s: %s", interface,
			 strerror(-err));
		goto no_ring;
	}
	capture->own = ring;
	/* The timer of the kernel may be late by a tick or two. */
	capture->lag_ns = (GATHER_MS + 20) * 1000000u;
	return 0;

no_ring:
	if (ring->memory && ring->memory != MAP_FAILED)
		munmap(ring->memory, ring->bytes);
	close(capture->fd);
	capture->fd = -1;
no_socket:
	close(ring->port_fd);
no_port:
	free(ring);
	return err;
}

static void packet_count_drops(struct capture *capture)
{
	struct ring *ring = capture->own;
	struct tpacket_stats_v3 stats;
	socklen_t size = sizeof(stats);

	/* Reading sets the kernel's counters back to zero.  tp_packets includes the drops. */
	if (getsockopt(capture->fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size))
		return;
	count(&capture->account->kernel_drops, stats.tp_drops);
	ring->placed += stats.tp_packets - stats.tp_drops;
}

static uint64_t packet_held(struct capture *capture)
{
	struct ring *ring = capture->own;

	packet_count_drops(capture);
	return ring->placed - ring->taken;
}

static int packet_start(struct capture *capture, char *fault, size_t fault_size)
{
	const struct ring *ring = capture->own;
	struct tpacket_stats_v3 stats;
	socklen_t size = sizeof(stats);
	int err;

	getsockopt(capture->fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size);
	err = filter_port(capture->fd, (uint16_t)capture->options->bindport, ring->address);
	if (err)
		snprintf(fault, fault_size, "cannot open the packet socket for packets: %s",
			 strerror(-err));
	return err;
}

static uint16_t get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

/* One packet of the ring, from its IP header on. */
static void take(struct capture *capture, struct capture_target *target,
		 const struct tpacket3_hdr *header)
{
	const uint8_t *ip = (const uint8_t *)header + header->tp_net, *udp;
	uint64_t recv_ns = header->tp_sec * 1000000000ull + header->tp_nsec;
	struct packet_info *info = &target->info[target->n];
	size_t there = header->tp_snaplen, headers, length = 0;
	uint32_t source;

	if (there < IP_HEADER_MIN)
		return; /* cannot be: the filter has seen a port behind it */
	if (get16(ip + 2) < there)
		there = get16(ip + 2); /* the rest is padding */
	headers = (size_t)(ip[0] & 0xf) * 4 + UDP_HEADER;
	udp = ip + headers - UDP_HEADER;
	source = (uint32_t)get16(ip + 12) << 16 | get16(ip + 14);
	/* What is no IPv4, or carries less than it states, gets a length that no science packet
	 * has: the kernel shows it to us before it looks at it. */
	if (ip[0] >> 4 == 4 && headers >= IP_HEADER_MIN + UDP_HEADER && headers <= there)
		length = get16(udp + 4);
	length = length < UDP_HEADER || length - UDP_HEADER > there - headers ? 0
									      : length - UDP_HEADER;
	if (capture_judge(capture, udp + UDP_HEADER, length, source, recv_ns, info))
		memcpy(target->payload[target->n++], udp + UDP_HEADER, length);
}

/* Whether the interface is gone for good: the kernel has taken it off the socket. */
static bool is_gone(const struct capture *capture)
{
	struct sockaddr_ll address = { 0 };
	socklen_t size = sizeof(address);

	return !getsockname(capture->fd, (struct sockaddr *)&address, &size) &&
	       address.sll_ifindex < 0;
}

/* Waits for a block of the ring or the caller's wake-up; -errno if the interface has gone down.
 * Packets come again by themselves when it is up again. */
static int wait_for_block(struct capture *capture, int timeout_ms)
{
	struct ring *ring = capture->own;
	struct pollfd sources[2] = { { .fd = capture->fd, .events = POLLIN },
				     { .fd = capture->wake_fd, .events = POLLIN } };
	int err = 0;
	socklen_t size = sizeof(err);

	if (poll(sources, 2, timeout_ms) > 0 && sources[0].revents & POLLERR) {
		/* To read the error clears it: else every later poll would return at once. */
		if (getsockopt(capture->fd, SOL_SOCKET, SO_ERROR, &err, &size))
			err = errno;
		ring->is_down = err != 0;
	}
	if (ring->is_down && is_gone(capture))
		err = ENODEV;
	return -err;
}

static int packet_receive(struct capture *capture, struct capture_target *target, int timeout_ms)
{
	struct ring *ring = capture->own;
	/* Bad ones take no room: they must not keep the caller from what else it has to do. */
	const unsigned most = 4 * target->size;
	unsigned n = 0;

	if (!is_ours(ring)) {
		int err = wait_for_block(capture, timeout_ms);

		if (err)
			return err;
	}
	capture_read_clocks(capture);
	while (n < most && target->n < target->size && is_ours(ring)) {
		if (!ring->next) {
			struct tpacket_block_desc *block = current(ring);

			ring->left = block->hdr.bh1.num_pkts;
			ring->next = (struct tpacket3_hdr *)((uint8_t *)block +
							     block->hdr.bh1.offset_to_first_pkt);
		}
		for (; ring->left && n < most && target->n < target->size; ring->left--, n++) {
			take(capture, target, ring->next);
			ring->next = (struct tpacket3_hdr *)((uint8_t *)ring->next +
							     ring->next->tp_next_offset);
		}
		if (!ring->left)
			give_back(ring);
	}
	ring->taken += n;
	if (n)
		ring->is_down = false;
	return (int)n;
}

static void packet_close(struct capture *capture)
{
	struct ring *ring = capture->own;

	munmap(ring->memory, ring->bytes);
	close(capture->fd);
	close(ring->port_fd);
	free(ring);
	capture->own = NULL;
	capture->fd = -1;
}

const struct capture_kind capture_packet = {
	.name = "packet",
	.open = packet_open,
	.start = packet_start,
	.receive = packet_receive,
	.count_drops = packet_count_drops,
	.held = packet_held,
	.close = packet_close,
};
