/* fuzz_frames.c -- any bytes as a packet of the ring, from where its IP header should be.
 *
 * The ring shows packets before the kernel has looked at them; the filter has only found a port
 * somewhere, and here not even that.
 */
#define capture_packet capture_packet_here /* the static functions of this file are wanted */
#include "capture_packet.c"
#undef capture_packet

#include "check.h"
#include "fuzz.h"

static struct packet_info info;
static uint8_t payload[1][PACKET_MAX_BYTES];

/* What was taken must be a whole IPv4 packet with a whole UDP datagram of one of our boards. */
static void check_taken(const uint8_t *ip, size_t size)
{
	size_t header = (size_t)(ip[0] & 0xf) * 4, total = get16(ip + 2);
	const uint8_t *udp = ip + header;
	size_t length = (size_t)get16(udp + 4) - UDP_HEADER;
	unsigned boardloc = udp[UDP_HEADER + 4] | udp[UDP_HEADER + 5] << 8;

	REQUIRE(ip[0] >> 4 == 4 && header >= IP_HEADER_MIN);
	REQUIRE(total <= size || header + UDP_HEADER + length <= size);
	REQUIRE(header + UDP_HEADER + length <= total);
	REQUIRE(length == PACKET_BYTES_8 || length == PACKET_BYTES_16);
	REQUIRE(!memcmp(payload[0], udp + UDP_HEADER, length));
	REQUIRE((get16(ip + 14) & 0x3ffu) == boardloc);
	REQUIRE(info.module < 2 && info.quabo == (boardloc & 3));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int ids[] = { 254, 1, -1 };
	static struct module_table modules;
	static struct account account;
	static struct journal journal;
	struct capture capture = { .modules = &modules, .account = &account, .journal = &journal };
	struct capture_target target = { .info = &info, .payload = payload, .size = 1 };
	struct tpacket3_hdr *header = malloc(sizeof(*header) + size);

	check_modules(&modules, ids);
	journal_init(&journal);
	REQUIRE(header && !account_init(&account, modules.count));
	memset(header, 0, sizeof(*header));
	header->tp_net = sizeof(*header);
	header->tp_snaplen = (uint32_t)size;
	memcpy(header + 1, data, size);
	take(&capture, &target, header);
	REQUIRE(target.n == counted(&account.received) - counted(&account.rejected));
	if (target.n)
		check_taken((const uint8_t *)(header + 1), size);
	account_free(&account);
	free(header);
	return 0;
}
