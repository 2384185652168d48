/* Which datagrams are accepted, why others are not, and what is read from them. */
#include <stdlib.h>
#include <string.h>

#include "check.h"

static struct module_table modules;

static enum packet_verdict verdict(const uint8_t *payload, size_t length, uint32_t source)
{
	struct packet_info info;

	return packet_check(payload, length, source, &modules, &info);
}

static void test_fields(void)
{
	static const struct {
		uint8_t acq_mode, stream;
	} modes[] = { { 1, STREAM_PH },
		      { 2, STREAM_IMAGE16 },
		      { 3, STREAM_IMAGE16PH },
		      { 6, STREAM_IMAGE8 },
		      { 7, STREAM_IMAGE8PH } };

	for (unsigned k = 0; k < sizeof(modes) / sizeof(*modes); k++) {
		uint8_t payload[PACKET_MAX_BYTES];
		size_t length =
			check_packet(payload, modes[k].acq_mode, 1018, 65535, 0x3fe, 999999996, 7);
		struct packet_info info = { .recv_ns = 5, .clock_ns = 6 };

		check_case("acq_mode %u", modes[k].acq_mode);
		payload[7] |= 0xfc; /* only 10 bits of the seconds are valid */
		payload[9] = 0xff;
		/* The prefix of the address does not matter, its low 10 bits do. */
		CHECK_EQUAL(packet_check(payload, length, 0xc0a803fa, &modules, &info), PACKET_OK);
		CHECK_EQUAL(packet_check(payload, length, 0x7f0503fa, &modules, &info), PACKET_OK);
		CHECK_EQUAL(info.recv_ns, 5);
		CHECK_EQUAL(info.clock_ns, 6);
		CHECK_EQUAL(info.number, 65535);
		CHECK_EQUAL(info.tai, 0x3fe);
		CHECK_EQUAL(packet_nsec(&info), 999999996);
		CHECK_EQUAL(info.time_ns, 1022999999996ll);
		CHECK_EQUAL(info.module, 1);
		CHECK_EQUAL(info.quabo, 2);
		CHECK_EQUAL(info.stream, modes[k].stream);
		CHECK_EQUAL(stream_acq_mode(info.stream), modes[k].acq_mode);
		CHECK_EQUAL(stream_pixel_bytes(info.stream), modes[k].acq_mode >= 6 ? 1 : 2);
	}
	check_case("%s", "");
}

static void test_refused(void)
{
	uint8_t payload[2048];
	const uint32_t source = 0xc0a803f8;

	memset(payload, 0, sizeof(payload));
	check_packet(payload, 2, 1016, 0, 0, 0, 0);
	for (size_t length = 0; length < sizeof(payload); length++)
		CHECK_EQUAL(verdict(payload, length, source),
			    length == 528 ? PACKET_OK : PACKET_BAD_LENGTH);
	for (unsigned acq_mode = 0; acq_mode < 256; acq_mode++) {
		bool wide = acq_mode >= 1 && acq_mode <= 3, narrow = acq_mode / 2 == 3;

		check_case("acq_mode %u", acq_mode);
		payload[0] = (uint8_t)acq_mode;
		CHECK_EQUAL(verdict(payload, 528, source), wide	    ? PACKET_OK
							   : narrow ? PACKET_BAD_LENGTH
								    : PACKET_BAD_ACQ_MODE);
		CHECK_EQUAL(verdict(payload, 272, source), narrow ? PACKET_OK
							   : wide ? PACKET_BAD_LENGTH
								  : PACKET_BAD_ACQ_MODE);
	}
	check_case("%s", "");
	check_packet(payload, 2, 8, 0, 0, 0, 0);
	CHECK_EQUAL(verdict(payload, 528, 0x0a000008), PACKET_UNKNOWN_MODULE);
	check_packet(payload, 2, 1016 + 1024, 0, 0, 0, 0); /* BOARDLOC has 10 bits */
	CHECK_EQUAL(verdict(payload, 528, source), PACKET_UNKNOWN_MODULE);
	check_packet(payload, 2, 65535, 0, 0, 0, 0);
	CHECK_EQUAL(verdict(payload, 528, source), PACKET_UNKNOWN_MODULE);
	for (unsigned low = 0; low < 1024; low++) {
		check_packet(payload, 2, 1017, 0, 0, 0, 0);
		CHECK_EQUAL(verdict(payload, 528, 0x0a000000u | low),
			    low == 1017 ? PACKET_OK : PACKET_SOURCE_MISMATCH);
	}
	CHECK_EQUAL(packet_boardloc(payload, 5), -1);
	CHECK_EQUAL(packet_boardloc(payload, 6), 1017);
}

static void test_times(void)
{
	CHECK_EQUAL(tai_time_ns(1023, 1000000004), 4); /* late pulse per second, and the wrap */
	CHECK_EQUAL(tai_time_ns(5, 1000000004), tai_time_ns(6, 4));
	CHECK_EQUAL(tai_time_ns(1023, 0xffffffffu), tai_time_ns(3, 294967295));
	CHECK_EQUAL(tai_difference_ns(tai_time_ns(0, 10), tai_time_ns(1023, 999999990)), 20);
	CHECK_EQUAL(tai_difference_ns(tai_time_ns(1023, 999999990), tai_time_ns(0, 10)), -20);
	CHECK_EQUAL(tai_difference_ns(tai_time_ns(100, 0), tai_time_ns(90, 0)), 10000000000ll);
}

/* Any bytes: never accepted unless they could be a packet of a configured board. */
static void test_random_bytes(void)
{
	uint64_t state = 1;
	uint8_t payload[600];

	for (unsigned round = 0; round < 200000; round++) {
		uint64_t chance = check_random(&state);
		size_t length = chance % 3 == 0	  ? 528
				: chance % 3 == 1 ? 272
						  : (chance >> 8) % sizeof(payload);
		uint32_t source = (uint32_t)(chance >> 32);
		struct packet_info info;

		for (unsigned k = 0; k < PACKET_HEADER_BYTES; k += 8) {
			uint64_t bytes = check_random(&state);

			memcpy(payload + k, &bytes, 8);
		}
		payload[0] &= 7;
		payload[5] &= 3;
		if (packet_check(payload, length, source, &modules, &info) != PACKET_OK)
			continue;
		CHECK_EQUAL(source & 0x3ff, packet_boardloc(payload, length));
		CHECK_EQUAL(modules.id[info.module], packet_boardloc(payload, length) >> 2);
		CHECK_EQUAL(length, 16 + 256 * stream_pixel_bytes(info.stream));
		CHECK(info.time_ns < TAI_PERIOD_NS);
		CHECK_EQUAL(packet_nsec(&info), payload[10] | payload[11] << 8 | payload[12] << 16 |
							(uint32_t)payload[13] << 24);
	}
}

int main(void)
{
	check_modules(&modules, (const int[]){ 1, 254, -1 });
	test_fields();
	test_refused();
	test_times();
	test_random_bytes();
	return check_result();
}
