/* Real datagrams over loopback, by UDP socket and by packet socket: what is taken, what is told. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "capture.h"
#include "check.h"

enum { SLOTS = 4096 };

static struct module_table modules;
static struct account account;
static struct journal journal;
static struct options options;
static struct capture capture;
static struct packet_info infos[SLOTS];
static uint8_t payloads[SLOTS][PACKET_MAX_BYTES];
static struct capture_target target;
static char fault[CAPTURE_FAULT];
static unsigned port;

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int sender_on(const char *address)
{
	struct sockaddr_in source = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	inet_pton(AF_INET, address, &source.sin_addr);
	CHECK_EQUAL(bind(fd, (struct sockaddr *)&source, sizeof(source)), 0);
	return fd;
}

/* Where packets go to. */
static const char *destination = "127.0.0.1";

static void send_from(int fd, const void *bytes, size_t length)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)options.bindport) };

	inet_pton(AF_INET, destination, &to.sin_addr);
	CHECK_EQUAL(sendto(fd, bytes, length, 0, (struct sockaddr *)&to, sizeof(to)), length);
}

static unsigned receive_mb = 4;

static bool open_capture(enum capture_choice choice, const char *host)
{
	memset(&options, 0, sizeof(options));
	snprintf(options.bindhost, sizeof(options.bindhost), "%s", host);
	options.bindport = port;
	options.capture = choice;
	options.receive_mb = receive_mb;
	check_modules(&modules, (const int[]){ 1, 254, -1 });
	account_init(&account, modules.count);
	journal_init(&journal);
	target = (struct capture_target){ .info = infos, .payload = payloads, .size = SLOTS };
	*fault = '\0';
	if (!capture_open(&capture, &options, &modules, &account, &journal, fault, sizeof(fault)))
		return true;
	fprintf(stderr, "%s\n", fault);
	return false;
}

static void close_capture(void)
{
	capture_close(&capture);
	account_free(&account);
	journal.n_lines = 0;
}

/* Until `n` datagrams are taken, or two seconds have passed. */
static int take(int n)
{
	uint64_t until_ns = clock_ns(CLOCK_MONOTONIC) + 2000000000u;
	int taken = 0;

	while (taken < n && clock_ns(CLOCK_MONOTONIC) < until_ns) {
		int more = capture_receive(&capture, &target, 100);

		if (!CHECK(more >= 0))
			break;
		taken += more;
	}
	return taken;
}

static void test_good_and_bad(enum capture_choice choice, const char *host)
{
	uint8_t payload[9000];
	int board = sender_on("127.1.3.250"), other = sender_on("127.1.3.249");
	uint64_t before_ns, begin_ns;
	unsigned told = 0;

	check_case("capture by %s", choice == CAPTURE_UDP ? "UDP socket" : "packet socket");
	if (!CHECK(open_capture(choice, host))) {
		fprintf(stderr, "%s\n", fault);
		goto closed;
	}
	memset(payload, 0, sizeof(payload));
	send_from(board, payload, check_packet(payload, 2, 1018, 99, 5, 5, 9)); /* not yet open */
	CHECK_EQUAL(capture_receive(&capture, &target, 20), 0);
	/* When nothing is left to be taken, it is over that the clock was set. */
	capture.offset_ns += 3600000000000u;
	CHECK_EQUAL(capture_receive(&capture, &target, 20), 0);
	CHECK_EQUAL(capture.offset_ns, capture.offset_now_ns);
	CHECK_EQUAL(capture_start(&capture, fault, sizeof(fault)), 0);
	before_ns = clock_ns(CLOCK_REALTIME);
	begin_ns = clock_ns(CLOCK_MONOTONIC);
	/* Not all at once: where the kernel is behind, loopback holds no more than a thousand. */
	for (unsigned begin = 0; begin < 1000; begin += 100) {
		for (unsigned k = begin; k < begin + 100; k++)
			send_from(board, payload,
				  check_packet(payload, k & 1 ? 7 : 2, 1018, (uint16_t)k, 5,
					       1000 * k, (uint16_t)(k & 0xff)));
		CHECK_EQUAL(take(100), 100);
	}
	CHECK_EQUAL(target.n, 1000);
	for (unsigned k = 0; k < target.n; k++) {
		const uint8_t *pixels = payloads[k] + PACKET_HEADER_BYTES;

		CHECK_EQUAL(infos[k].number, k);
		CHECK_EQUAL(infos[k].quabo, 2);
		CHECK_EQUAL(pixels[0], k & 0xff);
		CHECK_EQUAL(pixels[k & 1 ? 255 : 510], k & 0xff);
		CHECK(infos[k].recv_ns >= before_ns &&
		      infos[k].recv_ns <= clock_ns(CLOCK_REALTIME));
		CHECK(!k || infos[k].recv_ns >= infos[k - 1].recv_ns);
		/* The clocks are read one after the other, on a computer that may be busy. */
		CHECK(infos[k].clock_ns >= begin_ns - 500000000 &&
		      infos[k].clock_ns <= clock_ns(CLOCK_MONOTONIC) + 500000000);
	}
	CHECK_EQUAL(counted(&account.received), 1000);

	/* Nothing of this is kept, all of it is counted. */
	target.n = 0;
	send_from(board, payload, 0);
	send_from(board, payload, 1);
	send_from(board, payload, 527);
	send_from(board, payload, 529);
	send_from(board, payload, 9000);
	check_packet(payload, 5, 1018, 0, 0, 0, 0);
	send_from(board, payload, 528);
	check_packet(payload, 2, 8, 0, 0, 0, 0);
	send_from(board, payload, 528);
	check_packet(payload, 2, 1018, 0, 0, 0, 0);
	send_from(other, payload, 528);
	check_packet(payload, 2, 1017, 77, 0, 0, 0);
	send_from(other, payload, 528); /* this one is good */
	CHECK_EQUAL(take(9), 9);
	CHECK_EQUAL(target.n, 1);
	CHECK_EQUAL(infos[0].number, 77);
	CHECK_EQUAL(counted(&account.received), 1009);
	CHECK_EQUAL(counted(&account.rejected), 8);
	CHECK_EQUAL(account.n_rejected, 4);
	for (unsigned k = 0; k < journal.n_lines; k++)
		told += !strncmp(journal.line[k].text, "bad packet from 127.1.3.", 24);
	CHECK_EQUAL(told, 4);
	CHECK_EQUAL(account.rejected_entry[0].count, 5);
	CHECK_EQUAL(account.rejected_entry[0].source, 0x7f0103fa);
	CHECK_EQUAL(account.rejected_entry[3].kind, PACKET_SOURCE_MISMATCH);
	CHECK_EQUAL(account.rejected_entry[3].boardloc, 1018);
	CHECK_EQUAL(counted(&account.kernel_drops), 0);
	CHECK_EQUAL(capture_held(&capture), 0);
	close_capture();
closed:
	close(board);
	close(other);
	check_case("%s", "");
}

enum { ETHERNET = 14, IP = 20, UDP = 8, FRAME = ETHERNET + IP + 4 + UDP + PACKET_MAX_BYTES + 64 };

struct raw_frame {
	uint8_t bytes[FRAME];
	size_t length;
};

static void put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

/* An image of board 1018 as it is on the wire; `extra`: bytes of IP options. */
static struct raw_frame raw_frame(uint16_t number, unsigned extra)
{
	struct raw_frame frame = { .length = ETHERNET + IP + extra + UDP + PACKET_BYTES_16 };
	uint8_t *ip = frame.bytes + ETHERNET, *udp = ip + IP + extra;

	put16(frame.bytes + 12, ETH_P_IP);
	ip[0] = (uint8_t)(0x40 | (IP + extra) / 4);
	put16(ip + 2, IP + extra + UDP + PACKET_BYTES_16);
	ip[8] = 64;
	ip[9] = IPPROTO_UDP;
	put16(ip + 12, 0x7f01);
	put16(ip + 14, 0x03fa);
	ip[16] = 127;
	ip[19] = 1;
	memset(ip + IP, 1, extra); /* no operation */
	put16(udp, 60001);
	put16(udp + 2, port);
	put16(udp + 4, UDP + PACKET_BYTES_16);
	check_packet(udp + UDP, 2, 1018, number, 5, 0, 7);
	return frame;
}

static void send_raw(int fd, const struct raw_frame *frame)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET,
				       .sll_ifindex = (int)if_nametoindex("lo"),
				       .sll_halen = 6 };

	CHECK_EQUAL(sendto(fd, frame->bytes, frame->length, 0, (struct sockaddr *)&address,
			   sizeof(address)),
		    frame->length);
}

/* Whatever is on the wire: a packet ring sees it before the kernel has looked at it. */
static void test_raw_frames(void)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	struct raw_frame frame;
	uint8_t *ip = frame.bytes + ETHERNET, *udp = ip + IP;

	check_case("raw frames");
	CHECK(open_capture(CAPTURE_PACKET, "lo"));
	CHECK_EQUAL(capture_start(&capture, fault, sizeof(fault)), 0);
	frame = raw_frame(1, 0);
	send_raw(fd, &frame);
	frame = raw_frame(2, 4);
	send_raw(fd, &frame);
	frame = raw_frame(3, 0);
	frame.length += 64; /* padding */
	send_raw(fd, &frame);
	CHECK_EQUAL(take(3), 3);
	CHECK_EQUAL(target.n, 3);
	for (unsigned k = 0; k < target.n; k++)
		CHECK_EQUAL(infos[k].number, k + 1);

	/* Seen, and refused. */
	frame = raw_frame(4, 0);
	ip[0] = 0x65; /* version 6 */
	send_raw(fd, &frame);
	frame = raw_frame(5, 0);
	put16(udp + 4, UDP - 1);
	send_raw(fd, &frame);
	frame = raw_frame(6, 0);
	put16(udp + 4, 9000);
	send_raw(fd, &frame);
	frame = raw_frame(7, 0);
	put16(ip + 2, IP + UDP + 100); /* less than UDP says */
	send_raw(fd, &frame);
	frame = raw_frame(8, 0);
	put16(ip + 2, IP); /* less than its headers */
	send_raw(fd, &frame);
	frame = raw_frame(9, 0);
	frame.length = ETHERNET + IP + UDP + 100; /* cut off */
	send_raw(fd, &frame);
	/* No IP header at all: what stands there is a science packet and a UDP header at once. */
	frame = raw_frame(10, 0);
	ip[0] = 0x40;
	put16(ip + 2, port);
	put16(ip + 4, UDP + PACKET_BYTES_16);
	check_packet(ip + 8, 2, 1018, 10, 5, 0, 7);
	ip[9] = IPPROTO_UDP;
	put16(ip + 14, 0x03fa);
	send_raw(fd, &frame);
	CHECK_EQUAL(take(7), 7);
	CHECK_EQUAL(target.n, 3);
	CHECK_EQUAL(counted(&account.received), 10);
	CHECK_EQUAL(counted(&account.rejected), 7);

	/* Not for us: fragments, other protocols, other ports; the last one is good. */
	frame = raw_frame(11, 0);
	put16(ip + 6, 0x2000);
	send_raw(fd, &frame);
	put16(ip + 6, 0x0001);
	send_raw(fd, &frame);
	frame = raw_frame(12, 0);
	ip[9] = IPPROTO_TCP;
	send_raw(fd, &frame);
	frame = raw_frame(13, 0);
	put16(udp + 2, port + 1u);
	send_raw(fd, &frame);
	frame = raw_frame(14, 0);
	send_raw(fd, &frame);
	CHECK_EQUAL(take(1), 1);
	CHECK_EQUAL(target.n, 4);
	CHECK_EQUAL(infos[3].number, 14);
	CHECK_EQUAL(counted(&account.received), 11);
	close_capture();
	close(fd);
	check_case("%s", "");
}

/* More than the buffer holds: the kernel's drops are all counted. */
static void test_drops(enum capture_choice choice, const char *host)
{
	enum { SENT = 30000 };
	uint8_t payload[PACKET_MAX_BYTES];
	int board = sender_on("127.1.3.248");
	unsigned received;
	uint64_t held;

	check_case("drops by %s", choice == CAPTURE_UDP ? "UDP socket" : "packet socket");
	if (!CHECK(open_capture(choice, host)))
		goto closed;
	CHECK_EQUAL(capture_start(&capture, fault, sizeof(fault)), 0);
	for (unsigned k = 0; k < SENT; k++)
		send_from(board, payload, check_packet(payload, 2, 1016, (uint16_t)k, 5, k, 0));
	/* What a receive does not find at once is known: so nobody has to guess how long to wait.
	 */
	do {
		held = capture_held(&capture);
		received = (unsigned)counted(&account.received);
		target.n = 0;
		capture_receive(&capture, &target, held ? 1000 : 0);
	} while (held || counted(&account.received) != received);
	capture_count_drops(&capture);
	capture_count_drops(&capture); /* counts what is new only */
	CHECK(counted(&account.kernel_drops) > 0);
	CHECK_EQUAL(received + counted(&account.kernel_drops), SENT);
	close_capture();
closed:
	close(board);
	check_case("%s", "");
}

/* Bad packets take no room, and yet a call that finds more and more of them returns: its caller has
 * a signal to look for, and good packets to hand on. */
static void test_flood_of_bad(enum capture_choice choice, const char *host)
{
	enum { BAD = 600, MOST = 4 * 64 };
	uint8_t payload[PACKET_MAX_BYTES];
	int board = sender_on("127.1.3.248"), taken = 0, more;

	check_case("flood by %s", choice == CAPTURE_UDP ? "UDP socket" : "packet socket");
	if (!CHECK(open_capture(choice, host)))
		goto closed;
	CHECK_EQUAL(capture_start(&capture, fault, sizeof(fault)), 0);
	target.size = 64;
	for (unsigned k = 0; k < BAD; k++)
		send_from(board, payload, 1);
	send_from(board, payload, check_packet(payload, 2, 1016, 7, 5, 0, 0));
	do {
		more = capture_receive(&capture, &target, 1000);
		CHECK(more > 0 && more <= MOST);
		taken += more;
	} while (more > 0 && taken <= BAD);
	CHECK_EQUAL(taken, BAD + 1);
	CHECK_EQUAL(counted(&account.rejected), BAD);
	CHECK_EQUAL(target.n, 1);
	CHECK_EQUAL(infos[0].number, 7);
	close_capture();
closed:
	close(board);
	check_case("%s", "");
}

/* The kernel knows of a packet in the ring before we can see it. */
static void test_held(void)
{
	uint8_t payload[PACKET_MAX_BYTES];
	int board = sender_on("127.1.3.248");

	check_case("held by the packet ring");
	if (!CHECK(open_capture(CAPTURE_PACKET, "lo")))
		goto closed;
	CHECK_EQUAL(capture_start(&capture, fault, sizeof(fault)), 0);
	CHECK_EQUAL(capture_held(&capture), 0);
	for (unsigned k = 0; k < 7; k++)
		send_from(board, payload, check_packet(payload, 2, 1016, (uint16_t)k, 5, k, 0));
	CHECK_EQUAL(capture_held(&capture), 7);
	CHECK_EQUAL(take(7), 7);
	CHECK_EQUAL(capture_held(&capture), 0);
	close_capture();
closed:
	close(board);
	check_case("%s", "");
}

static void shell(const char *command)
{
	if (!CHECK_EQUAL(system(command), 0))
		fprintf(stderr, "%s\n", command);
}

/* The interface goes down and comes back: told once, without spinning, and packets come again. */
static void test_interface_down_and_up(void)
{
	uint8_t payload[PACKET_MAX_BYTES];
	uint64_t begin_ns;
	int board;

	check_case("interface down and up");
	if (!CHECK(open_capture(CAPTURE_PACKET, "lo")))
		return;
	CHECK_EQUAL(capture_start(&capture, fault, sizeof(fault)), 0);
	shell("ip link set lo down");
	begin_ns = clock_ns(CLOCK_MONOTONIC);
	CHECK_EQUAL(capture_receive(&capture, &target, 5000), -ENETDOWN);
	CHECK(clock_ns(CLOCK_MONOTONIC) - begin_ns < 2000000000u);
	begin_ns = clock_ns(CLOCK_MONOTONIC);
	for (unsigned k = 0; k < 3; k++)
		CHECK_EQUAL(capture_receive(&capture, &target, 50), 0);
	CHECK(clock_ns(CLOCK_MONOTONIC) - begin_ns >= 140000000u);
	shell("ip link set lo up");
	CHECK_EQUAL(capture_receive(&capture, &target, 0), 0);
	board = sender_on("127.1.3.248");
	for (unsigned k = 0; k < 7; k++)
		send_from(board, payload, check_packet(payload, 2, 1016, (uint16_t)k, 5, k, 0));
	CHECK_EQUAL(take(7), 7);
	/* Without waiting, as when polling busily, it is told too. */
	shell("ip link set lo down");
	CHECK_EQUAL(capture_receive(&capture, &target, 0), -ENETDOWN);
	CHECK_EQUAL(capture_receive(&capture, &target, 0), 0);
	shell("ip link set lo up");
	close(board);
	close_capture();
	check_case("%s", "");
}

static void test_interface_deleted(void)
{
	check_case("interface deleted");
	shell("ip link add doomed type veth peer name other && ip link set doomed up");
	if (CHECK(open_capture(CAPTURE_PACKET, "doomed"))) {
		int err;

		CHECK_EQUAL(capture_start(&capture, fault, sizeof(fault)), 0);
		CHECK_EQUAL(capture_receive(&capture, &target, 10), 0);
		shell("ip link del doomed");
		err = capture_receive(&capture, &target, 5000);
		CHECK(err == -ENETDOWN || err == -ENODEV);
		CHECK_EQUAL(capture_receive(&capture, &target, 50), -ENODEV);
		close_capture();
	}
	check_case("%s", "");
}

/* Of the same port, each address has its own packets; of an interface, all that come by it. */
static void test_only_what_is_for_us(enum capture_choice choice, const char *host, bool ours,
				     bool others)
{
	uint8_t payload[PACKET_MAX_BYTES];
	int board = sender_on("127.1.3.248");

	check_case("packets for %s", host);
	if (!CHECK(open_capture(choice, host)))
		goto closed;
	CHECK_EQUAL(capture_start(&capture, fault, sizeof(fault)), 0);
	destination = "127.0.0.8";
	send_from(board, payload, check_packet(payload, 2, 1016, 8, 5, 8, 0));
	destination = "127.0.0.9";
	send_from(board, payload, check_packet(payload, 2, 1016, 9, 5, 9, 0));
	destination = "127.0.0.1";
	CHECK_EQUAL(take(ours + others), ours + others);
	CHECK_EQUAL(capture_receive(&capture, &target, 30), 0);
	for (unsigned k = 0; k < target.n; k++)
		CHECK_EQUAL(infos[k].number, others ? 8 + k : 9);
	close_capture();
closed:
	close(board);
	check_case("%s", "");
}

/* What a board gets for its packets: 0, or ECONNREFUSED if the kernel sends "port unreachable". */
static int answer(const char *to)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	uint8_t payload[PACKET_MAX_BYTES];
	int board = sender_on("127.1.3.248"), err = 0;
	socklen_t size = sizeof(err);

	inet_pton(AF_INET, to, &address.sin_addr);
	CHECK_EQUAL(connect(board, (struct sockaddr *)&address, sizeof(address)), 0);
	send(board, payload, check_packet(payload, 2, 1016, 0, 5, 0, 0), 0);
	/* Over loopback the answer is there when the call returns. */
	CHECK_EQUAL(getsockopt(board, SOL_SOCKET, SO_ERROR, &err, &size), 0);
	close(board);
	return err;
}

static void test_no_answer(void)
{
	static const char *const hosts[] = { "lo", "127.0.0.9" };

	CHECK_EQUAL(answer("127.0.0.9"), ECONNREFUSED);
	for (unsigned k = 0; k < 2; k++) {
		check_case("no answer to boards, %s", hosts[k]);
		if (!CHECK(open_capture(CAPTURE_PACKET, hosts[k])))
			continue;
		CHECK_EQUAL(answer("127.0.0.9"), 0);
		CHECK_EQUAL(capture_start(&capture, fault, sizeof(fault)), 0);
		CHECK_EQUAL(answer("127.0.0.9"), 0);
		CHECK_EQUAL(answer("127.0.0.8"), k == 0 ? 0 : ECONNREFUSED);
		CHECK_EQUAL(take(k == 0 ? 2 : 1), k == 0 ? 2 : 1);
		close_capture();
	}
	CHECK_EQUAL(answer("127.0.0.9"), ECONNREFUSED);
	check_case("%s", "");
}

/* For this process, for good. */
static void drop_capability(int capability)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	CHECK_EQUAL(syscall(SYS_capget, &header, data), 0);
	data[0].effective &= ~(1u << capability);
	data[0].permitted &= ~(1u << capability);
	data[0].inheritable &= ~(1u << capability);
	CHECK_EQUAL(syscall(SYS_capset, &header, data), 0);
}

static void chosen(const char *host, const char *wanted)
{
	check_case("auto, %s", host);
	if (CHECK(open_capture(CAPTURE_AUTO, host))) {
		CHECK_TEXT(capture.kind->name, wanted);
		close_capture();
	}
	check_case("%s", "");
}

static void all_chosen(const char *where_it_pays)
{
	chosen("lo", where_it_pays);
	chosen("v0", where_it_pays);
	chosen("10.77.0.1", where_it_pays);
	chosen("0.0.0.0", "udp");
	chosen("127.0.0.1", "udp");
	chosen("127.9.8.7", "udp");
}

static unsigned warnings(const char *named)
{
	unsigned n = 0;

	for (unsigned k = 0; k < journal.n_lines; k++)
		n += journal.line[k].level == JOURNAL_WARNING &&
		     strstr(journal.line[k].text, named) != NULL;
	return n;
}

/* The buffer that is asked for is permitted, or it is said how it can be. */
static void small_buffer(unsigned told)
{
	char sysctl[64];

	receive_mb = 2000;
	snprintf(sysctl, sizeof(sysctl), "sysctl -w net.core.rmem_max=%u", receive_mb << 20);
	check_case("receive buffer");
	if (CHECK(open_capture(CAPTURE_UDP, "127.0.0.1"))) {
		CHECK_EQUAL(warnings(sysctl), told);
		CHECK_EQUAL(journal.n_lines, told);
		close_capture();
	}
	receive_mb = 4;
	check_case("%s", "");
}

static void test_without(int capability)
{
	int status = -1;
	pid_t child;

	fflush(NULL);
	child = fork();
	if (!child) {
		drop_capability(capability);
		if (capability == CAP_NET_RAW)
			all_chosen("udp");
		else
			small_buffer(1);
		_exit(check_result());
	}
	check_case("without capability %d", capability);
	CHECK_EQUAL(waitpid(child, &status, 0), child);
	CHECK_EQUAL(status, 0);
	check_case("%s", "");
}

static void test_capabilities(void)
{
	shell("ip link add v0 type veth peer name v1 && ip link set v0 up && "
	      "ip address add 10.77.0.1/24 dev v0");
	all_chosen("packet");
	test_without(CAP_NET_RAW);
	small_buffer(0);
	test_without(CAP_NET_ADMIN);
	test_only_what_is_for_us(CAPTURE_UDP, "v0", false, false);
	/* An address here, whatever way packets for it come. */
	destination = "10.77.0.1";
	test_good_and_bad(CAPTURE_PACKET, "10.77.0.1");
	destination = "127.0.0.1";
	shell("ip link del v0");
}

static void test_wake(void)
{
	uint64_t one = 1, begin_ns = clock_ns(CLOCK_MONOTONIC);

	CHECK(open_capture(CAPTURE_UDP, "127.0.0.1"));
	CHECK_EQUAL(capture_start(&capture, fault, sizeof(fault)), 0);
	capture.wake_fd = eventfd(0, EFD_NONBLOCK);
	CHECK_EQUAL(write(capture.wake_fd, &one, sizeof(one)), sizeof(one));
	CHECK_EQUAL(capture_receive(&capture, &target, 5000), 0);
	CHECK(clock_ns(CLOCK_MONOTONIC) - begin_ns < 2000000000u);
	close(capture.wake_fd);
	close_capture();
}

static void refused(enum capture_choice choice, const char *host, const char *named)
{
	CHECK(!open_capture(choice, host));
	check_case("%s", host);
	if (!CHECK(strstr(fault, named) != NULL))
		fprintf(stderr, "\"%s\"\n", fault);
	close_capture();
	check_case("%s", "");
}

static void test_refusals(void)
{
	struct capture first;

	refused(CAPTURE_UDP, "no-such-if", "neither an interface of this computer nor an IPv4");
	refused(CAPTURE_UDP, "192.0.2.1", "no interface here has this address");
	refused(CAPTURE_PACKET, "no-such-if", "neither an interface of this computer nor an addr");
	refused(CAPTURE_PACKET, "0.0.0.0", "neither an interface of this computer nor an address");
	refused(CAPTURE_PACKET, "192.0.2.1", "no interface here has this address");
	CHECK(open_capture(CAPTURE_UDP, "127.0.0.1"));
	first = capture;
	account_free(&account);
	refused(CAPTURE_UDP, "127.0.0.1", "ss -ulpn");
	refused(CAPTURE_PACKET, "127.0.0.1", "ss -ulpn");
	first.kind->close(&first);
}

/* A port that is free, below those that the kernel gives to the boards' sockets here. */
static unsigned free_port(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	unsigned free = 0;

	for (unsigned k = 0; !free && k < 10000; k++) {
		unsigned candidate = 20000 + ((unsigned)getpid() + k) % 10000;
		int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

		address.sin_port = htons((uint16_t)candidate);
		if (!bind(fd, (struct sockaddr *)&address, sizeof(address)))
			free = candidate;
		close(fd);
	}
	return free;
}

/* A network of our own, so that ports and interface are ours. */
static bool own_network(void)
{
	struct ifreq request = { .ifr_name = "lo" };
	int fd;

	if (unshare(CLONE_NEWNET))
		return false;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(fd, SIOCSIFFLAGS, &request)) {
		close(fd);
		return false;
	}
	close(fd);
	return true;
}

int main(void)
{
	bool is_root = own_network();

	port = free_port();
	test_good_and_bad(CAPTURE_UDP, "127.0.0.1");
	test_drops(CAPTURE_UDP, "127.0.0.1");
	test_flood_of_bad(CAPTURE_UDP, "127.0.0.1");
	test_wake();
	test_refusals();
	if (is_root) {
		test_good_and_bad(CAPTURE_PACKET, "lo");
		test_drops(CAPTURE_PACKET, "lo");
		test_flood_of_bad(CAPTURE_PACKET, "lo");
		test_raw_frames();
		test_held();
		test_interface_down_and_up();
		test_interface_deleted();
		test_good_and_bad(CAPTURE_UDP, "lo");
		test_good_and_bad(CAPTURE_PACKET, "127.0.0.1");
		test_only_what_is_for_us(CAPTURE_UDP, "127.0.0.9", true, false);
		test_only_what_is_for_us(CAPTURE_PACKET, "127.0.0.9", true, false);
		test_only_what_is_for_us(CAPTURE_UDP, "lo", true, true);
		test_only_what_is_for_us(CAPTURE_PACKET, "lo", true, true);
		test_no_answer();
		test_capabilities();
	} else {
		fprintf(stderr, "test_capture: no right to use packet sockets: not tried\n");
	}
	return check_result();
}
