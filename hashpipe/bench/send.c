/* send.c -- sends science packets of many boards at a given rate, or as fast as it can.
 *
 *   send PRODUCT MODULES PERIOD_NS RATE PACKETS COUNTER NETWORK HEAD PORT [INTERFACE MAC]
 *
 * RATE in packets per second, 0 = flat out; PACKETS 0 = until SIGTERM.  COUNTER is a file that
 * holds the number of packets sent so far, 8 bytes, for others to map.  NETWORK is the address
 * whose low 10 bits (zero) are replaced by a board's BOARDLOC, HEAD the receiver's.  With an
 * interface and the receiver's MAC, raw frames are sent there (as root); without, datagrams with
 * the boards' source addresses, which must then be this computer's (loopback).
 *
 * UDP checksums are zero (none): a network card would have verified them.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

enum {
	BATCH = 64,
	ETHERNET = 14,
	IP = 20,
	UDP = 8,
	FRAMING = ETHERNET + IP + UDP,
	HEADERS = FRAMING + LOAD_HEADER,
	BOARD_PORT = 60001,
};

#ifndef PACKET_QDISC_BYPASS
#define PACKET_QDISC_BYPASS 20
#endif

struct sender {
	const struct load_kind *kind;
	unsigned boards; /* all modules' */
	uint64_t period_ns;
	double rate; /* packets/s, 0: flat out */
	uint64_t packets;
	_Atomic uint64_t *sent;
	uint32_t network;
	struct sockaddr_in head;
	bool raw;
	int fd;
	uint8_t (*template)[HEADERS]; /* of each board: what stays the same */
	struct mmsghdr message[BATCH];
	struct iovec iov[BATCH][2];
	uint8_t header[BATCH][HEADERS];
	_Alignas(8) uint8_t control[BATCH][CMSG_SPACE(sizeof(struct in_pktinfo))];
};

static void fail(const char *what)
{
	fprintf(stderr, "send: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void put16(uint8_t *at, unsigned value) /* of the network */
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static void put_le(uint8_t *at, uint32_t value, unsigned bytes) /* of the boards */
{
	for (unsigned k = 0; k < bytes; k++)
		at[k] = (uint8_t)(value >> 8 * k);
}

static void make_template(struct sender *sender, unsigned board, const uint8_t *mac)
{
	unsigned payload = LOAD_HEADER + LOAD_PIXELS * sender->kind->pixel_bytes;
	unsigned boardloc = load_boardloc(board / LOAD_QUABOS, board % LOAD_QUABOS);
	uint8_t *at = sender->template[board], *ip = at + ETHERNET, *udp = ip + IP;
	uint32_t source = htonl(sender->network | boardloc), sum = 0;

	memset(at, 0, HEADERS);
	memcpy(at, mac, 6);
	at[6] = 2; /* locally administered */
	put16(at + 10, boardloc);
	put16(at + 12, ETH_P_IP);
	ip[0] = 0x45;
	put16(ip + 2, IP + UDP + payload);
	ip[8] = 64;
	ip[9] = IPPROTO_UDP;
	memcpy(ip + 12, &source, 4);
	memcpy(ip + 16, &sender->head.sin_addr, 4);
	for (unsigned k = 0; k < IP; k += 2)
		sum += (uint32_t)(ip[k] << 8 | ip[k + 1]);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	put16(ip + 10, ~sum & 0xffff);
	put16(udp, BOARD_PORT);
	memcpy(udp + 2, &sender->head.sin_port, 2);
	put16(udp + 4, UDP + payload);
	at[FRAMING] = sender->kind->acq_mode;
	at[FRAMING + 1] = sender->kind->acq_mode == 1; /* packet_ver */
	put_le(at + FRAMING + 4, boardloc, 2);
}

static void open_raw(struct sender *sender, const char *interface)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET,
				       .sll_ifindex = (int)if_nametoindex(interface) };
	int on = 1;

	sender->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (sender->fd < 0 || !address.sll_ifindex ||
	    bind(sender->fd, (struct sockaddr *)&address, sizeof(address)) ||
	    setsockopt(sender->fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)))
		fail(interface);
}

static void open_udp(struct sender *sender)
{
	sender->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sender->fd < 0)
		fail("socket");
}

/* Message n: packet of `board` in frame k. */
static void prepare(struct sender *sender, unsigned n, unsigned board, uint64_t k)
{
	unsigned quabo = board % LOAD_QUABOS, skip = sender->raw ? 0 : FRAMING;
	unsigned boardloc = load_boardloc(board / LOAD_QUABOS, quabo);
	uint64_t time_ns = load_time_ns(k, quabo, sender->period_ns);
	uint8_t *header = sender->header[n], *packet = header + FRAMING;
	struct msghdr *message = &sender->message[n].msg_hdr;

	memcpy(header, sender->template[board], HEADERS);
	put_le(packet + 2, (uint32_t)k & 0xffff, 2);
	put_le(packet + 6, (uint32_t)(time_ns / 1000000000u), 4);
	put_le(packet + 10, (uint32_t)(time_ns % 1000000000u), 4);
	sender->iov[n][0] = (struct iovec){ header + skip, HEADERS - skip };
	sender->iov[n][1] = (struct iovec){ (void *)(uintptr_t)load_pixels(boardloc, k),
					    LOAD_PIXELS * sender->kind->pixel_bytes };
	memset(message, 0, sizeof(*message));
	message->msg_iov = sender->iov[n];
	message->msg_iovlen = 2;
	if (!sender->raw) {
		struct in_pktinfo source = { .ipi_spec_dst.s_addr =
						     htonl(sender->network | boardloc) };
		struct cmsghdr *control = (struct cmsghdr *)sender->control[n];

		control->cmsg_level = IPPROTO_IP;
		control->cmsg_type = IP_PKTINFO;
		control->cmsg_len = CMSG_LEN(sizeof(source));
		memcpy(CMSG_DATA(control), &source, sizeof(source));
		message->msg_control = control;
		message->msg_controllen = sizeof(sender->control[n]);
		message->msg_name = &sender->head;
		message->msg_namelen = sizeof(sender->head);
	}
}

/* Sends packets `sent` to `sent + n`; how many it did, fewer when it is to end. */
static unsigned send_some(struct sender *sender, uint64_t sent, unsigned n)
{
	unsigned done = 0;

	for (unsigned k = 0; k < n; k++)
		prepare(sender, k, (unsigned)((sent + k) % sender->boards),
			(sent + k) / sender->boards);
	while (done < n && !load_ended) {
		int m = sendmmsg(sender->fd, sender->message + done, n - done, 0);

		if (m > 0)
			done += (unsigned)m;
		else if (errno != EINTR && errno != EAGAIN && errno != ENOBUFS)
			fail("sending");
	}
	return done;
}

/* How many packets are due now; sleeps until some are. */
static uint64_t due(const struct sender *sender, uint64_t begun_ns, uint64_t sent)
{
	if (sender->rate <= 0)
		return sent + BATCH;
	for (;;) {
		uint64_t now_ns = load_clock_ns(), next_ns;
		uint64_t frames = (uint64_t)((double)(now_ns - begun_ns) * 1e-9 * sender->rate /
					     sender->boards);
		struct timespec until;

		if ((frames + 1) * sender->boards > sent || load_ended)
			return (frames + 1) * sender->boards;
		next_ns = begun_ns +
			  (uint64_t)((double)(frames + 1) * sender->boards / sender->rate * 1e9);
		until = (struct timespec){ (time_t)(next_ns / 1000000000u),
					   (long)(next_ns % 1000000000u) };
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	}
}

static void run(struct sender *sender)
{
	uint64_t begun_ns = load_clock_ns(), sent = 0, wanted;

	while (!load_ended && (!sender->packets || sent < sender->packets)) {
		wanted = due(sender, begun_ns, sent);
		if (sender->packets && wanted > sender->packets)
			wanted = sender->packets;
		while (sent < wanted && !load_ended) {
			unsigned n = wanted - sent < BATCH ? (unsigned)(wanted - sent) : BATCH;

			sent += send_some(sender, sent, n);
			atomic_store_explicit(sender->sent, sent, memory_order_relaxed);
		}
	}
	printf("{\"sent\":%llu,\"seconds\":%.6f,\"cpu_s\":%.6f}\n", (unsigned long long)sent,
	       (double)(load_clock_ns() - begun_ns) * 1e-9, load_cpu_s());
}

static void map_counter(struct sender *sender, const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

	if (fd < 0 || ftruncate(fd, sizeof(uint64_t)))
		fail(path);
	sender->sent = mmap(NULL, sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (sender->sent == MAP_FAILED)
		fail(path);
	close(fd);
}

int main(int argc, char **argv)
{
	static struct sender sender;
	struct in_addr network;
	unsigned byte[6] = { 0 };
	uint8_t mac[6];

	if (argc != 10 && argc != 12) {
		fputs("usage: send PRODUCT MODULES PERIOD_NS RATE PACKETS COUNTER NETWORK HEAD "
		      "PORT [INTERFACE MAC]\n",
		      stderr);
		return 2;
	}
	sender.kind = load_kind(argv[1]);
	sender.boards = (unsigned)load_number(argv[2], "MODULES") * LOAD_QUABOS;
	sender.period_ns = load_number(argv[3], "PERIOD_NS");
	sender.rate = (double)load_number(argv[4], "RATE");
	sender.packets = load_number(argv[5], "PACKETS");
	sender.head.sin_family = AF_INET;
	sender.head.sin_port = htons((uint16_t)load_number(argv[9], "PORT"));
	sender.raw = argc == 12;
	if (!sender.kind || !sender.boards || inet_pton(AF_INET, argv[7], &network) != 1 ||
	    inet_pton(AF_INET, argv[8], &sender.head.sin_addr) != 1 ||
	    (sender.raw && sscanf(argv[11], "%x:%x:%x:%x:%x:%x", byte, byte + 1, byte + 2, byte + 3,
				  byte + 4, byte + 5) != 6)) {
		fputs("send: unknown product, no modules, or not an address\n", stderr);
		return 2;
	}
	sender.network = ntohl(network.s_addr);
	for (int k = 0; k < 6; k++)
		mac[k] = (uint8_t)byte[k];
	sender.template = calloc(sender.boards, sizeof(*sender.template));
	if (!sender.template)
		fail("memory");
	for (unsigned board = 0; board < sender.boards; board++)
		make_template(&sender, board, mac);
	map_counter(&sender, argv[6]);
	if (sender.raw)
		open_raw(&sender, argv[10]);
	else
		open_udp(&sender);
	prctl(PR_SET_TIMERSLACK, 1);
	load_catch_signals();
	run(&sender);
	return 0;
}
