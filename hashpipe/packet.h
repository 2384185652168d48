/* packet.h -- science packets (UDP payloads) as the boards send them: check and take apart.
 *
 * Pure: bytes in, values out.  The layout and the rules of acceptance are those of the board's
 * interface (16 bytes of header, 256 pixels of one or two bytes, all little-endian).
 */
#ifndef PANOSETI_PACKET_H
#define PANOSETI_PACKET_H

#include <stddef.h>
#include <stdint.h>

#include "module_config.h"

enum {
	PACKET_HEADER_BYTES = 16,
	PACKET_PIXELS = 256,
	PACKET_BYTES_8 = PACKET_HEADER_BYTES + PACKET_PIXELS,
	PACKET_BYTES_16 = PACKET_HEADER_BYTES + 2 * PACKET_PIXELS,
	PACKET_MAX_BYTES = PACKET_BYTES_16,
	MODULE_QUABOS = 4,
};

/* The streams of a board: one per acquisition mode, each with its own packet numbers. */
enum stream {
	STREAM_PH,	  /* acq_mode 1 */
	STREAM_IMAGE16,	  /* acq_mode 2 */
	STREAM_IMAGE16PH, /* acq_mode 3: 16-bit image while pulse height runs too */
	STREAM_IMAGE8,	  /* acq_mode 6 */
	STREAM_IMAGE8PH,  /* acq_mode 7 */
	STREAM_COUNT,
};

/* Why a datagram is refused, in the order in which the checks are made. */
enum packet_verdict {
	PACKET_OK,
	PACKET_BAD_LENGTH,	/* neither 272 nor 528 bytes, or not what its acq_mode needs */
	PACKET_BAD_ACQ_MODE,	/* acq_mode other than 1, 2, 3, 6, 7 */
	PACKET_UNKNOWN_MODULE,	/* module is not in module.config */
	PACKET_SOURCE_MISMATCH, /* low 10 bits of the sender's address are not BOARDLOC */
	PACKET_VERDICTS,
};

/* What is known of an accepted packet; its pixels stay where the payload is. */
struct packet_info {
	uint64_t recv_ns;  /* Unix time at which the computer took it, ns */
	uint64_t clock_ns; /* ... on a clock that is never set */
	uint64_t time_ns;  /* board's time: TAI modulo 1024 s, ns (see tai_time_ns) */
	uint16_t number;   /* packet number, wraps at 65536 */
	uint16_t tai;	   /* low 10 bits of TAI seconds */
	uint16_t module;   /* index into the module table, not the id */
	uint8_t quabo;	   /* 0..3 */
	uint8_t stream;	   /* enum stream */
};

/* Board times count modulo 1024 s, because only 10 bits of the seconds are sent. */
#define TAI_PERIOD_NS (1024ull * 1000000000ull)

/* Time of a packet on the circle of 1024 s; nanoseconds above a second carry over. */
static inline uint64_t tai_time_ns(uint16_t tai, uint32_t nsec)
{
	uint64_t time_ns = (uint64_t)(tai & 0x3ff) * 1000000000ull + nsec;

	return time_ns < TAI_PERIOD_NS ? time_ns : time_ns - TAI_PERIOD_NS;
}

/* The nanosecond field of a packet as it was sent; may exceed 999999999 a little. */
static inline uint32_t packet_nsec(const struct packet_info *packet)
{
	uint64_t second_ns = (uint64_t)packet->tai * 1000000000ull;

	return (uint32_t)(packet->time_ns - second_ns +
			  (packet->time_ns < second_ns ? TAI_PERIOD_NS : 0));
}

/* Signed distance a - b on that circle, within +-512 s. */
static inline int64_t tai_difference_ns(uint64_t a, uint64_t b)
{
	int64_t difference = (int64_t)(a - b);

	if (difference > (int64_t)(TAI_PERIOD_NS / 2))
		difference -= (int64_t)TAI_PERIOD_NS;
	else if (difference < -(int64_t)(TAI_PERIOD_NS / 2))
		difference += (int64_t)TAI_PERIOD_NS;
	return difference;
}

/* acq_mode byte of a stream, as it stands in the packet. */
uint8_t stream_acq_mode(enum stream stream);

/* Stream of an acq_mode byte, -1 if no such packet is accepted. */
int stream_of_acq_mode(uint8_t acq_mode);

/* Bytes per pixel of a stream: 1 or 2. */
static inline unsigned stream_pixel_bytes(uint8_t stream)
{
	return stream >= STREAM_IMAGE8 ? 1 : 2;
}

/* BOARDLOC of a payload; -1 if it is too short to hold one. */
int packet_boardloc(const uint8_t *payload, size_t length);

/* Checks a datagram of `length` bytes (its true length, of which at least the first
 * min(length, PACKET_MAX_BYTES) are at `payload`) sent by IPv4 address `source` (host byte order).
 * PACKET_OK: all of *info is set except recv_ns and clock_ns, which are the caller's.  Otherwise
 * *info is left alone.  The first check that fails names the verdict. */
enum packet_verdict packet_check(const uint8_t *payload, size_t length, uint32_t source,
				 const struct module_table *modules, struct packet_info *info);

/* Name of a verdict as it stands in the status file. */
const char *packet_verdict_name(enum packet_verdict verdict);

#endif
