/* options.h -- what the pipeline is told on its command line (-o KEY=VALUE), checked. */
#ifndef PANOSETI_OPTIONS_H
#define PANOSETI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	/* A status value keeps 67 characters; one as long as that may have been cut. */
	OPTION_MAX = 66,
	OPTION_SIZE = 80,
	BINDPORT_DEFAULT = 60001,
	RECEIVE_MB_DEFAULT = 64,
};

enum capture_choice {
	CAPTURE_AUTO, /* packet socket, see capture.c, where it is permitted */
	CAPTURE_UDP,
	CAPTURE_PACKET,
};

struct options {
	char bindhost[OPTION_SIZE];  /* BINDHOST: interface, IPv4 address, or 0.0.0.0 (default) */
	char run[OPTION_SIZE];	     /* RUNDIR: name of the run, a directory here */
	char config[OPTION_SIZE];    /* CONFIG: path of module.config */
	char obs[OPTION_SIZE];	     /* OBS: name of the observatory, for the log */
	char logfile[OPTION_SIZE];   /* LOGFILE: path, "" = stderr; without '/' it lies in RUNDIR */
	unsigned bindport;	     /* BINDPORT */
	uint64_t max_file_bytes;     /* MAXFILESIZE in 10^6 bytes, 0 = no limit */
	bool group_ph;		     /* GROUPPHFRAMES: 0 or 1 */
	enum capture_choice capture; /* CAPTURE: auto, udp, packet */
	unsigned packet_blocks;	     /* NETBLKS: blocks between net and compute thread */
	unsigned frame_blocks;	     /* OUTBLKS: blocks between compute and output thread */
	unsigned receive_mb;	     /* RCVMB: size of the kernel's receive buffer, MB */
	bool busy_poll;		     /* BUSYPOLL: the net thread never sleeps, a CPU is its own */
};

/* Looks a key up: true and the value, ended by '\0', in value[OPTION_SIZE]; false if not given. */
typedef bool options_lookup(void *context, const char *key, char *value);

/* Reads and checks all options.  0, or -EINVAL with key, value and remedy in `fault`. */
int options_read(struct options *options, options_lookup *lookup, void *context, char *fault,
		 size_t fault_size);

/* Writes the path of the log to `path`; false if there is none (LOGFILE not given). */
bool options_log_path(const struct options *options, char *path, size_t size);

/* Writes the path of the status file: hp_status_<x>.json in RUNDIR when LOGFILE is hp_log_<x>,
 * else hp_status.json there. */
void options_status_path(const struct options *options, char *path, size_t size);

#endif
