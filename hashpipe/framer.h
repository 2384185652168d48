/* framer.h -- from packets to frames: the work of the compute thread, without its ring buffers.
 *
 * Knows packet numbers and assemblies of every module.  Frames are written, ready for their
 * files, where the owner of the framer makes room for them.
 */
#ifndef PANOSETI_FRAMER_H
#define PANOSETI_FRAMER_H

#include <stdbool.h>
#include <stdint.h>

#include "account.h"
#include "module_config.h"
#include "packet.h"
#include "product.h"

/* Makes room for one frame (its `offset` is the callee's to set) and returns where its
 * product_facts[].frame_bytes bytes go; they are filled in before the next call. */
typedef uint8_t *framer_reserve(void *context, const struct frame_info *frame);

struct framer;

/* New framer, NULL without memory.  `group_ph`: join pulse-height packets of a module's boards to
 * ph1024 frames instead of writing each as ph256.  `account` outlives the framer. */
struct framer *framer_new(const struct module_table *modules, bool group_ph,
			  struct account *account, framer_reserve *reserve, void *context);
void framer_free(struct framer *framer);

/* Takes one accepted packet: its header values and its 256 pixels as they came. */
void framer_packet(struct framer *framer, const struct packet_info *packet, const uint8_t *pixels);

/* Writes the frames that have waited long enough; see assembly_expire(). */
void framer_expire(struct framer *framer, uint64_t clock_ns);

/* Writes all frames still in the making. */
void framer_flush(struct framer *framer);

/* Whether any frame is in the making. */
bool framer_is_waiting(const struct framer *framer);

#endif
