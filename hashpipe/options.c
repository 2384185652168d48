/* options.c -- see options.h */
#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"

#define LOG_PREFIX "hp_log_"

struct reader {
	options_lookup *lookup;
	void *context;
	char *fault;
	size_t fault_size;
};

/* The value of `key`, or `standard` if it is not given.  0 or -EINVAL. */
static int read_text(const struct reader *reader, const char *key, const char *standard,
		     char *value)
{
	memset(value, 0, OPTION_SIZE);
	if (!reader->lookup(reader->context, key, value))
		strncpy(value, standard, OPTION_SIZE - 1);
	if (strlen(value) > OPTION_MAX) {
		snprintf(reader->fault, reader->fault_size,
			 "%s=%s... is longer than %d characters and may have been cut; "
			 "use a shorter one",
			 key, value, OPTION_MAX);
		return -EINVAL;
	}
	return 0;
}

static int read_number(const struct reader *reader, const char *key, unsigned standard,
		       unsigned least, unsigned most, unsigned *number)
{
	char value[OPTION_SIZE], *end;
	unsigned long n;
	int err = read_text(reader, key, "", value);

	*number = standard;
	if (err || !*value)
		return err;
	n = strtoul(value, &end, 0);
	if (*value == '-' || *end || end == value || n < least || n > most) {
		snprintf(reader->fault, reader->fault_size, "%s=%s: give a whole number %u to %u",
			 key, value, least, most);
		return -EINVAL;
	}
	*number = (unsigned)n;
	return 0;
}

static int read_max_file_size(const struct reader *reader, uint64_t *bytes)
{
	char value[OPTION_SIZE], *end;
	double megabytes;
	int err = read_text(reader, "MAXFILESIZE", "0", value);

	if (err)
		return err;
	megabytes = strtod(value, &end);
	if (*end || end == value || !(megabytes >= 0 && megabytes <= 1e9)) {
		snprintf(reader->fault, reader->fault_size,
			 "MAXFILESIZE=%s: give a size in MB, or 0 for no limit", value);
		return -EINVAL;
	}
	*bytes = (uint64_t)(megabytes * 1e6);
	return 0;
}

static int read_run(const struct reader *reader, char *run)
{
	int err = read_text(reader, "RUNDIR", "", run);

	if (err)
		return err;
	if (!*run || strchr(run, '/') || run[0] == '.') {
		snprintf(
			reader->fault, reader->fault_size,
			"RUNDIR=%s: give the name of the run, a directory in the working directory",
			run);
		return -EINVAL;
	}
	return 0;
}

static int read_capture(const struct reader *reader, enum capture_choice *capture)
{
	static const char *const names[] = { "auto", "udp", "packet" };
	char value[OPTION_SIZE];
	int err = read_text(reader, "CAPTURE", "auto", value);

	if (err)
		return err;
	for (unsigned k = 0; k < sizeof(names) / sizeof(*names); k++) {
		if (!strcmp(value, names[k])) {
			*capture = (enum capture_choice)k;
			return 0;
		}
	}
	snprintf(reader->fault, reader->fault_size, "CAPTURE=%s: give auto, udp or packet", value);
	return -EINVAL;
}

int options_read(struct options *options, options_lookup *lookup, void *context, char *fault,
		 size_t fault_size)
{
	const struct reader reader = { lookup, context, fault, fault_size };
	unsigned group = 0, busy = 0;

	memset(options, 0, sizeof(*options));
	if (read_number(&reader, "NETBLKS", PACKET_BLOCKS_DEFAULT, BLOCKS_MIN, BLOCKS_MAX,
			&options->packet_blocks) ||
	    read_number(&reader, "OUTBLKS", FRAME_BLOCKS_DEFAULT, BLOCKS_MIN, BLOCKS_MAX,
			&options->frame_blocks) ||
	    read_number(&reader, "RCVMB", RECEIVE_MB_DEFAULT, 1, 2000, &options->receive_mb) ||
	    read_text(&reader, "BINDHOST", "0.0.0.0", options->bindhost) ||
	    read_number(&reader, "BINDPORT", BINDPORT_DEFAULT, 1, 65535, &options->bindport) ||
	    read_run(&reader, options->run) ||
	    read_text(&reader, "CONFIG", "./module.config", options->config) ||
	    read_max_file_size(&reader, &options->max_file_bytes) ||
	    read_number(&reader, "GROUPPHFRAMES", 0, 0, 1, &group) ||
	    read_number(&reader, "BUSYPOLL", 0, 0, 1, &busy) ||
	    read_text(&reader, "OBS", "", options->obs) ||
	    read_text(&reader, "LOGFILE", "", options->logfile) ||
	    read_capture(&reader, &options->capture))
		return -EINVAL;
	options->group_ph = group;
	options->busy_poll = busy;
	return 0;
}

bool options_log_path(const struct options *options, char *path, size_t size)
{
	if (strchr(options->logfile, '/'))
		snprintf(path, size, "%s", options->logfile);
	else
		snprintf(path, size, "%s/%s", options->run, options->logfile);
	return *options->logfile;
}

void options_status_path(const struct options *options, char *path, size_t size)
{
	const char *slash = strrchr(options->logfile, '/');
	const char *base = slash ? slash + 1 : options->logfile;

	if (!strncmp(base, LOG_PREFIX, strlen(LOG_PREFIX)))
		snprintf(path, size, "%s/hp_status_%s.json", options->run,
			 base + strlen(LOG_PREFIX));
	else
		snprintf(path, size, "%s/hp_status.json", options->run);
}
