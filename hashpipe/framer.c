/* framer.c -- see framer.h */
#include "framer.h"

#include <stdlib.h>
#include <string.h>

#include "assembly.h"
#include "orient.h"
#include "sequence.h"

struct framer_module {
	struct framer *framer;
	unsigned index;
	struct assembly_ring *images, *pulses;
	struct sequence sequences[MODULE_QUABOS][STREAM_COUNT];
};

struct framer {
	bool group_ph;
	struct account *account;
	framer_reserve *reserve;
	void *context;
	unsigned n_modules;
	struct framer_module *module;
};

/* A frame of a whole module leaves its assembly. */
static void emit_module_frame(void *context, const struct assembly *assembly)
{
	struct framer_module *module = context;
	struct framer *framer = module->framer;
	struct frame_info frame = { .module = (uint16_t)module->index, .boards = assembly->boards };
	bool whole = assembly->boards == 0xf;
	uint8_t *out;

	memcpy(frame.stream, assembly->stream, sizeof(frame.stream));
	if (assembly->pixel_bytes == 1)
		frame.product = PRODUCT_IMG8;
	else if (frame.stream[__builtin_ctz(frame.boards)] == STREAM_PH)
		frame.product = PRODUCT_PH1024;
	else
		frame.product = PRODUCT_IMG16;
	out = framer->reserve(framer->context, &frame);
	pff_module_header((char *)out, assembly->board);
	memcpy(out + PFF_MODULE_HEADER_BYTES, assembly->pixels,
	       (size_t)MODULE_PIXELS * assembly->pixel_bytes);
	count(whole ? &framer->account->frames_complete[frame.product]
		    : &framer->account->frames_partial[frame.product],
	      1);
}

/* A pulse-height packet that is not grouped is a frame at once. */
static void emit_board_frame(struct framer *framer, const struct packet_info *packet,
			     const uint8_t *pixels)
{
	struct frame_info frame = { .module = packet->module,
				    .product = PRODUCT_PH256,
				    .boards = (uint8_t)(1u << packet->quabo) };
	struct pff_board board = {
		.number = packet->number,
		.tai = packet->tai,
		.nsec = packet_nsec(packet),
		.tv_sec = (uint32_t)(packet->recv_ns / 1000000000u),
		.tv_usec = (uint32_t)(packet->recv_ns % 1000000000u / 1000u),
	};
	uint8_t *out;

	frame.stream[packet->quabo] = packet->stream;
	out = framer->reserve(framer->context, &frame);
	pff_board_header((char *)out, packet->quabo, &board);
	orient_board(out + PFF_BOARD_HEADER_BYTES, BOARD_SIDE * 2, pixels, packet->quabo, 2);
	count(&framer->account->frames_complete[PRODUCT_PH256], 1);
}

struct framer *framer_new(const struct module_table *modules, bool group_ph,
			  struct account *account, framer_reserve *reserve, void *context)
{
	struct framer *framer = calloc(1, sizeof(*framer));

	if (!framer)
		return NULL;
	framer->group_ph = group_ph;
	framer->account = account;
	framer->reserve = reserve;
	framer->context = context;
	framer->module = calloc(modules->count, sizeof(*framer->module));
	if (!framer->module)
		goto no_memory;
	for (; framer->n_modules < modules->count; framer->n_modules++) {
		struct framer_module *module = &framer->module[framer->n_modules];

		module->framer = framer;
		module->index = framer->n_modules;
		for (unsigned q = 0; q < MODULE_QUABOS; q++)
			module->sequences[q][STREAM_PH].is_random = true;
		module->images = assembly_ring_new(ASSEMBLY_IMAGES, ASSEMBLY_IMAGE_WINDOW_NS,
						   module->sequences, emit_module_frame, module);
		module->pulses = assembly_ring_new(ASSEMBLY_PULSES, ASSEMBLY_PH_WINDOW_NS,
						   module->sequences, emit_module_frame, module);
		if (!module->images || !module->pulses) {
			assembly_ring_free(module->images);
			assembly_ring_free(module->pulses);
			goto no_memory;
		}
	}
	return framer;

no_memory:
	framer_free(framer);
	return NULL;
}

void framer_free(struct framer *framer)
{
	if (!framer)
		return;
	for (unsigned k = 0; k < framer->n_modules; k++) {
		assembly_ring_free(framer->module[k].images);
		assembly_ring_free(framer->module[k].pulses);
	}
	free(framer->module);
	free(framer);
}

void framer_packet(struct framer *framer, const struct packet_info *packet, const uint8_t *pixels)
{
	struct framer_module *module = &framer->module[packet->module];
	struct sequence *sequence = &module->sequences[packet->quabo][packet->stream];
	struct compute_stream_account *account =
		&framer->account
			 ->compute[stream_index(packet->module, packet->quabo, packet->stream)];
	int64_t lost_before = sequence->lost;
	enum sequence_verdict order =
		sequence_note(sequence, packet->number, packet->time_ns, packet->clock_ns);

	if (sequence->lost != lost_before)
		set_counter(&account->lost, (uint64_t)sequence->lost);
	if (order == SEQUENCE_DUPLICATE) {
		count(&account->duplicate, 1);
		return;
	}
	if (order != SEQUENCE_NEXT) {
		set_counter(&account->reordered, sequence->reordered);
		set_counter(&account->resets, sequence->resets);
	}
	if (packet->stream == STREAM_PH && !framer->group_ph) {
		emit_board_frame(framer, packet, pixels);
		return;
	}
	if (assembly_add(packet->stream == STREAM_PH ? module->pulses : module->images, packet,
			 pixels, order) == ASSEMBLY_LATE)
		count(&account->late, 1);
}

void framer_expire(struct framer *framer, uint64_t clock_ns)
{
	for (unsigned k = 0; k < framer->n_modules; k++) {
		assembly_expire(framer->module[k].images, clock_ns);
		assembly_expire(framer->module[k].pulses, clock_ns);
	}
}

void framer_flush(struct framer *framer)
{
	for (unsigned k = 0; k < framer->n_modules; k++) {
		assembly_flush(framer->module[k].images);
		assembly_flush(framer->module[k].pulses);
	}
}

bool framer_is_waiting(const struct framer *framer)
{
	for (unsigned k = 0; k < framer->n_modules; k++)
		if (assembly_waiting(framer->module[k].images) ||
		    assembly_waiting(framer->module[k].pulses))
			return true;
	return false;
}
