/* limits.c -- what the machine can do at best, to measure the pipeline against.
 *
 *   limits ring INTERFACE PORT     drain a packet socket's ring, doing nothing with the packets
 *   limits recv ADDRESS PORT       take datagrams of a UDP socket, many per call, blocking
 *   limits write FILE MEGABYTES    write to the page cache, a megabyte per call
 *   limits disk FILE MEGABYTES     the same until it is on the disk
 *
 * The first two end with SIGTERM.  Prints the amounts and the CPU time as JSON.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
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

#include "load.h"

enum {
	BLOCK_BYTES = 1 << 21, /* ring as the pipeline has it */
	BLOCKS = 16,
	GRANULE = 2048,
	RETIRE_MS = 20,
	BATCH = 256,
	DATAGRAM = 576,
	BUFFER_BYTES = 32 << 20,
	MEGABYTE = 1000000,
};

static void fail(const char *what)
{
	fprintf(stderr, "limits: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void print_packets(uint64_t packets)
{
	printf("{\"packets\":%" PRIu64 ",\"cpu_s\":%.6f}\n", packets, load_cpu_s());
}

static void ready(void)
{
	puts("ready");
	fflush(stdout);
}

static void drain_ring(const char *interface)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET,
				       .sll_protocol = htons(ETH_P_IP),
				       .sll_ifindex = (int)if_nametoindex(interface) };
	struct tpacket_req3 request = { .tp_block_size = BLOCK_BYTES,
					.tp_frame_size = GRANULE,
					.tp_block_nr = BLOCKS,
					.tp_frame_nr = BLOCKS * (BLOCK_BYTES / GRANULE),
					.tp_retire_blk_tov = RETIRE_MS };
	int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0), version = TPACKET_V3;
	struct pollfd source = { .fd = fd, .events = POLLIN };
	uint64_t packets = 0;
	uint8_t *ring;

	if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) ||
	    setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)) ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)))
		fail(interface);
	ring = mmap(NULL, (size_t)BLOCKS * BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ring == MAP_FAILED)
		fail("mapping the ring");
	ready();
	for (unsigned k = 0; !load_ended;) {
		struct tpacket_block_desc *block =
			(struct tpacket_block_desc *)(ring + (size_t)k * BLOCK_BYTES);

		if (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) &
		      TP_STATUS_USER)) {
			poll(&source, 1, -1);
			continue;
		}
		packets += block->hdr.bh1.num_pkts;
		__atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
		k = (k + 1) % BLOCKS;
	}
	print_packets(packets);
}

static void drain_socket(const char *host, uint16_t port)
{
	static uint8_t payload[BATCH][DATAGRAM];
	static struct mmsghdr message[BATCH];
	static struct iovec iov[BATCH];
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), bytes = BUFFER_BYTES;
	uint64_t packets = 0;

	if (fd < 0 || inet_pton(AF_INET, host, &address.sin_addr) != 1)
		fail(host);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)))
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)))
		fail(host);
	for (unsigned k = 0; k < BATCH; k++) {
		iov[k] = (struct iovec){ payload[k], DATAGRAM };
		message[k].msg_hdr = (struct msghdr){ .msg_iov = &iov[k], .msg_iovlen = 1 };
	}
	ready();
	while (!load_ended) {
		int n = recvmmsg(fd, message, BATCH, MSG_WAITFORONE, NULL);

		if (n > 0)
			packets += (uint64_t)n;
		else if (errno != EINTR)
			fail("receiving");
	}
	print_packets(packets);
}

static void write_file(const char *path, uint64_t megabytes, bool to_disk)
{
	static uint8_t buffer[MEGABYTE];
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	uint64_t begun_ns = load_clock_ns();

	if (fd < 0)
		fail(path);
	memset(buffer, 0x55, sizeof(buffer));
	for (uint64_t k = 0; k < megabytes; k++)
		if (write(fd, buffer, sizeof(buffer)) != sizeof(buffer))
			fail(path);
	if (to_disk && fdatasync(fd))
		fail(path);
	printf("{\"megabytes\":%" PRIu64 ",\"seconds\":%.6f,\"cpu_s\":%.6f}\n", megabytes,
	       (double)(load_clock_ns() - begun_ns) * 1e-9, load_cpu_s());
	close(fd);
	unlink(path);
}

int main(int argc, char **argv)
{
	load_catch_signals();
	if (argc == 4 && !strcmp(argv[1], "ring"))
		drain_ring(argv[2]);
	else if (argc == 4 && !strcmp(argv[1], "recv"))
		drain_socket(argv[2], (uint16_t)load_number(argv[3], "PORT"));
	else if (argc == 4 && (!strcmp(argv[1], "write") || !strcmp(argv[1], "disk")))
		write_file(argv[2], load_number(argv[3], "MEGABYTES"), argv[1][0] == 'd');
	else {
		fputs("usage: limits ring INTERFACE PORT | recv ADDRESS PORT | "
		      "write|disk FILE MEGABYTES\n",
		      stderr);
		return 2;
	}
	return 0;
}
