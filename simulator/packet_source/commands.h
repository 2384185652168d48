/* commands.h -- the lines the packet source obeys, and the JSON lines it answers with.
 *
 *   board ADDRESS boardloc=N
 *   levels ADDRESS HEX            image base values: 256 little-endian u16, packet order
 *   pattern ADDRESS HEX           PH flash: 256 little-endian s16
 *   offset ADDRESS HEX            PH level without light: 256 little-endian s16
 *   image ADDRESS dest=A:PORT acq=2|3|6|7 period_ns=N [frames=N] [flood=0|1]
 *   ph ADDRESS dest=A:PORT acq=N [poisson_hz=X] [period_ns=N] [external=0|1] [seed=N] [frames=N]
 *   stop ADDRESS image|ph|all     answers with the accounts of the board
 *   reset ADDRESS                 packet numbers back to 0
 *   spoil ADDRESS [loss=X] [duplicate=X] [reorder=X] [malformed=X] [depth=N] [kinds=BITS]
 *         [seed=N] [skew_ns=N] [late_pps_ns=N]     (what is not named: none)
 *   counters                      accounts of every board, then {"event": "counters_end"}
 *   sync N                        {"event": "sync", "id": N}: all before it has been obeyed
 *   quit
 *
 * A stream with frames=N ends by itself, with {"event": "done", ...accounts}; a PH stream that only
 * others trigger ends without a word.
 * A line that cannot be obeyed changes nothing and is answered {"event": "error", ...}. */
#ifndef COMMANDS_H
#define COMMANDS_H

#include <stdbool.h>
#include <stdio.h>

#include "schedule.h"
#include "streams.h"

struct program {
	struct observatory *all;
	struct schedule schedule;
	uint32_t network, netmask; /* besides 127/8 packets may go here; host byte order */
	int64_t clock_offset_ns;   /* Unix time - monotonic clock, fixed while anything is sent */
	int64_t max_lag_ns;	   /* latest a packet ever was */
	unsigned flooding;	   /* streams that send as fast as possible */
	bool ended;
	FILE *out;
};

/* Unix time, ns, from a clock that never steps while packets are sent. */
int64_t program_now_ns(const struct program *program);

/* Obey one line (without its newline; it is cut up). */
void command_obey(struct program *program, char *line);

/* Write the accounts of one board as a JSON line with this event name. */
void accounts_print(struct program *program, const char *event, const struct board *board);

#endif
