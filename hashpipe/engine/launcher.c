/* launcher.c -- hashpipe: loads a plugin and runs its threads as a pipeline.
 *
 * Arguments are handled from left to right, and a thread's name initialises it at once, so options
 * stand before the threads they are for.
 */
#include <dlfcn.h>
#include <errno.h>
#include <getopt.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine.h"

static const char usage[] =
	"usage: hashpipe [options] thread [[options] thread]...\n"
	"\n"
	"Runs the threads of a plugin as a pipeline.  Options hold for what follows them.\n"
	"\n"
	"  -p, --plugin=FILE    load a plugin (.so is added; a path needs a '/', as in ./x)\n"
	"  -I, --instance=N     instance number, 0 to 63\n"
	"  -o, --option=KEY=V   put a value into the status buffer for the threads to read\n"
	"  -c, --cpu=N          the next thread runs on this CPU, 0 to 1023\n"
	"  -m, --mask=N         the next thread runs on these of CPUs 0 to 31 (bits)\n"
	"  -K, --shmkey=KEY     set HASHPIPE_KEYFILE\n"
	"  -l, --list           list the threads there are\n"
	"  -V, --version        print the version\n"
	"  -h, --help           print this\n"
	"\n"
	"example:\n"
	"  hashpipe -p ./hashpipe.so -I 0 -o BINDHOST=eth1 -o RUNDIR=obs_x.start_y.runtype_z.pffd "
	"\\\n"
	"      net_thread compute_thread output_thread\n";

static const struct option long_options[] = {
	{ "plugin", required_argument, NULL, 'p' }, { "instance", required_argument, NULL, 'I' },
	{ "option", required_argument, NULL, 'o' }, { "cpu", required_argument, NULL, 'c' },
	{ "mask", required_argument, NULL, 'm' },   { "shmkey", required_argument, NULL, 'K' },
	{ "list", no_argument, NULL, 'l' },	    { "version", no_argument, NULL, 'V' },
	{ "help", no_argument, NULL, 'h' },	    { NULL, 0, NULL, 0 },
};

struct launcher {
	int instance_id;
	cpu_set_t cpus; /* of the next thread */
	int threads;
};

static int load_plugin(const char *name)
{
	size_t length = strlen(name);
	bool whole = length > 3 && !strcmp(name + length - 3, ".so");
	char path[4096];

	snprintf(path, sizeof(path), "%s%s", name, whole ? "" : ".so");
	if (dlopen(path, RTLD_NOW))
		return 0;
	fprintf(stderr, "hashpipe: cannot load the plugin: %s\n", dlerror());
	return -1;
}

/* KEY=V: an integer if V is one, else a real number if it is one, else a string. */
static int put_option(int instance_id, const char *argument)
{
	const char *equals = strchr(argument, '='), *value = equals ? equals + 1 : "";
	char key[9] = "", *end;
	hashpipe_status_t status;
	long long whole;
	double real;
	int err;

	snprintf(key, sizeof(key), "%.*s", (int)(equals ? equals - argument : 8), argument);
	if (!*key || hashpipe_status_attach(instance_id, &status)) {
		fprintf(stderr, "hashpipe: cannot set option %s\n", argument);
		return -1;
	}
	hashpipe_status_lock(&status);
	errno = 0;
	whole = strtoll(value, &end, 0);
	if (*value && !*end && !errno) {
		err = hputi8(status.buf, key, whole);
	} else {
		real = strtod(value, &end);
		err = *value && !*end ? hputr8(status.buf, key, real)
				      : hputs(status.buf, key, value);
	}
	hashpipe_status_unlock(&status);
	hashpipe_status_detach(&status);
	if (err)
		fprintf(stderr, "hashpipe: no room in the status buffer for option %s\n", argument);
	return err;
}

static int parse_number(const char *text, long most, const char *option, long *number)
{
	char *end;

	errno = 0;
	*number = strtol(text, &end, 0);
	if (*text && !*end && !errno && *number >= 0 && *number <= most)
		return 0;
	fprintf(stderr, "hashpipe: -%s %s: give a number 0 to %ld\n", option, text, most);
	return -1;
}

static int init_thread(struct launcher *launcher, char *name)
{
	hashpipe_thread_desc_t *desc = find_hashpipe_thread(name);
	cpu_set_t cpus = launcher->cpus;

	if (!desc) {
		fprintf(stderr, "hashpipe: there is no thread %s; known are:\n", name);
		list_hashpipe_threads(stderr);
		return -1;
	}
	CPU_ZERO(&launcher->cpus);
	return engine_init_thread(desc, launcher->threads++, launcher->instance_id, &cpus);
}

/* 0 go on, 1 done, -1 failed. */
static int obey(struct launcher *launcher, int option, char *argument)
{
	long number = 0;

	switch (option) {
	case 1: /* not an option */
		return init_thread(launcher, argument);
	case 'p':
		return load_plugin(argument);
	case 'I':
		if (parse_number(argument, 0xffff, "I", &number))
			return -1;
		launcher->instance_id = engine_instance((int)number);
		return 0;
	case 'o':
		return put_option(launcher->instance_id, argument);
	case 'c':
		if (parse_number(argument, CPU_SETSIZE - 1, "c", &number))
			return -1;
		CPU_ZERO(&launcher->cpus);
		CPU_SET((size_t)number, &launcher->cpus);
		return 0;
	case 'm':
		if (parse_number(argument, 0xffffffffl, "m", &number))
			return -1;
		CPU_ZERO(&launcher->cpus);
		for (size_t cpu = 0; cpu < 32; cpu++)
			if (number >> cpu & 1)
				CPU_SET(cpu, &launcher->cpus);
		return 0;
	case 'K':
		return setenv("HASHPIPE_KEYFILE", argument, 1);
	case 'l':
		list_hashpipe_threads(stdout);
		return 1;
	case 'V':
		puts("hashpipe: engine of the PANOSETI pipeline, interface of HASHPIPE 1.8");
		return 1;
	case 'h':
		fputs(usage, stdout);
		return 1;
	default:
		fputs("hashpipe: see hashpipe --help\n", stderr);
		return -1;
	}
}

/* Packet sockets are open by now: no thread needs a capability that the file gave us. */
static void drop_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3];

	if (!getuid())
		return;
	memset(none, 0, sizeof(none));
	if (syscall(SYS_capset, &header, none))
		fprintf(stderr, "hashpipe: cannot give up capabilities: %s\n", strerror(errno));
}

int main(int argc, char **argv)
{
	struct launcher launcher = { 0 };
	int option, result = 0;

	/* Plugins run with what the caller may do: a set-user-id bit gives nothing. */
	if (setuid(getuid()) || setgid(getgid())) {
		fprintf(stderr, "hashpipe: cannot set the user id: %s\n", strerror(errno));
		return 1;
	}
	prctl(PR_SET_NAME, "hashpipe"); /* what pgrep -x finds, whatever the file is called */
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (!result &&
	       (option = getopt_long(argc, argv, "-p:I:o:c:m:K:lVh", long_options, NULL)) != -1)
		result = obey(&launcher, option, optarg);
	while (!result && optind < argc) /* after "--" */
		result = obey(&launcher, 1, argv[optind++]);
	if (!result && !launcher.threads) {
		fputs("hashpipe: no thread given; known are:\n", stderr);
		list_hashpipe_threads(stderr);
		result = -1;
	}
	if (!result) {
		drop_capabilities();
		result = engine_run();
	}
	engine_free_databufs();
	engine_free_statuses();
	return result < 0 ? 1 : 0;
}
