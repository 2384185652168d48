/* packet.c -- see packet.h */
#include "packet.h"

static const uint8_t acq_modes[STREAM_COUNT] = {
	[STREAM_PH] = 1,     [STREAM_IMAGE16] = 2,  [STREAM_IMAGE16PH] = 3,
	[STREAM_IMAGE8] = 6, [STREAM_IMAGE8PH] = 7,
};

static const int8_t streams[8] = {
	-1, STREAM_PH, STREAM_IMAGE16, STREAM_IMAGE16PH, -1, -1, STREAM_IMAGE8, STREAM_IMAGE8PH,
};

static const char *const verdict_names[PACKET_VERDICTS] = {
	[PACKET_OK] = "ok",
	[PACKET_BAD_LENGTH] = "length",
	[PACKET_BAD_ACQ_MODE] = "acq_mode",
	[PACKET_UNKNOWN_MODULE] = "unknown_module",
	[PACKET_SOURCE_MISMATCH] = "source_mismatch",
};

/* Fields sit at even offsets but the payload may start anywhere, and the host may be big-endian. */
static uint16_t get16(const uint8_t *at)
{
	return (uint16_t)(at[0] | at[1] << 8);
}

static uint32_t get32(const uint8_t *at)
{
	return get16(at) | (uint32_t)get16(at + 2) << 16;
}

uint8_t stream_acq_mode(enum stream stream)
{
	return acq_modes[stream];
}

int stream_of_acq_mode(uint8_t acq_mode)
{
	return acq_mode < sizeof(streams) ? streams[acq_mode] : -1;
}

int packet_boardloc(const uint8_t *payload, size_t length)
{
	return length >= 6 ? get16(payload + 4) : -1;
}

enum packet_verdict packet_check(const uint8_t *payload, size_t length, uint32_t source,
				 const struct module_table *modules, struct packet_info *info)
{
	uint16_t boardloc;
	int stream, module;

	if (length != PACKET_BYTES_8 && length != PACKET_BYTES_16)
		return PACKET_BAD_LENGTH;
	stream = stream_of_acq_mode(payload[0]);
	if (stream < 0)
		return PACKET_BAD_ACQ_MODE;
	if (length != PACKET_HEADER_BYTES + PACKET_PIXELS * stream_pixel_bytes((uint8_t)stream))
		return PACKET_BAD_LENGTH;
	boardloc = get16(payload + 4);
	module = module_table_find(modules, boardloc >> 2);
	if (module < 0)
		return PACKET_UNKNOWN_MODULE;
	if ((source & 0x3ff) != boardloc)
		return PACKET_SOURCE_MISMATCH;

	info->number = get16(payload + 2);
	info->tai = (uint16_t)(get32(payload + 6) & 0x3ff); /* the other bits are not valid */
	info->time_ns = tai_time_ns(info->tai, get32(payload + 10));
	info->module = (uint16_t)module;
	info->quabo = boardloc & 3;
	info->stream = (uint8_t)stream;
	return PACKET_OK;
}

const char *packet_verdict_name(enum packet_verdict verdict)
{
	return verdict_names[verdict];
}
