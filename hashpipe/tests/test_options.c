/* Options as they come from the status buffer. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blocks.h"
#include "check.h"
#include "engine.h"
#include "options.h"

static char *buf;
static struct options options;
static char fault[256];

static bool look_up(void *context, const char *key, char *value)
{
	(void)context;
	return hgets(buf, key, OPTION_SIZE - 1, value);
}

static int read_options(void)
{
	*fault = '\0';
	return options_read(&options, look_up, NULL, fault, sizeof(fault));
}

static void clear(void)
{
	hashpipe_status_t status;

	hashpipe_status_attach(0, &status);
	hashpipe_status_clear(&status);
	buf = status.buf;
	hputs(buf, "RUNDIR", "obs_x.start_2024-07-25T04:34:06Z.runtype_sci.pffd");
}

static void test_defaults(void)
{
	char path[256];

	clear();
	CHECK_EQUAL(read_options(), 0);
	CHECK_TEXT(options.bindhost, "0.0.0.0");
	CHECK_EQUAL(options.bindport, 60001);
	CHECK_TEXT(options.config, "./module.config");
	CHECK_EQUAL(options.max_file_bytes, 0);
	CHECK_EQUAL(options.group_ph, 0);
	CHECK_EQUAL(options.capture, CAPTURE_AUTO);
	CHECK_EQUAL(options.packet_blocks, PACKET_BLOCKS_DEFAULT);
	CHECK_EQUAL(options.frame_blocks, FRAME_BLOCKS_DEFAULT);
	CHECK(!options.busy_poll);
	CHECK(!options_log_path(&options, path, sizeof(path)));
	options_status_path(&options, path, sizeof(path));
	CHECK_TEXT(path, "obs_x.start_2024-07-25T04:34:06Z.runtype_sci.pffd/hp_status.json");
}

static void test_given(void)
{
	char path[256];

	clear();
	hputs(buf, "RUNDIR", "r");
	hputs(buf, "BINDHOST", "eth1");
	hputi4(buf, "BINDPORT", 61000);
	hputs(buf, "CONFIG", "/etc/module.config");
	hputi4(buf, "MAXFILESIZE", 500); /* cut to MAXFILES on both sides */
	hputi4(buf, "GROUPPHFRAMES", 1);
	hputs(buf, "OBS", "Lick");
	hputs(buf, "LOGFILE", "hp_log_10.0.0.1");
	hputs(buf, "CAPTURE", "packet");
	hputi4(buf, "NETBLKS", 10);
	hputi4(buf, "OUTBLKS", 20);
	hputi4(buf, "RCVMB", 64);
	hputi4(buf, "BUSYPOLL", 1);
	CHECK_EQUAL(read_options(), 0);
	CHECK_TEXT(options.bindhost, "eth1");
	CHECK_EQUAL(options.bindport, 61000);
	CHECK_EQUAL(options.max_file_bytes, 500000000);
	CHECK_EQUAL(options.group_ph, 1);
	CHECK_TEXT(options.obs, "Lick");
	CHECK_EQUAL(options.capture, CAPTURE_PACKET);
	CHECK_EQUAL(options.packet_blocks, 10);
	CHECK_EQUAL(options.frame_blocks, 20);
	CHECK_EQUAL(options.receive_mb, 64);
	CHECK(options.busy_poll);
	CHECK(options_log_path(&options, path, sizeof(path)));
	CHECK_TEXT(path, "r/hp_log_10.0.0.1");
	options_status_path(&options, path, sizeof(path));
	CHECK_TEXT(path, "r/hp_status_10.0.0.1.json");
	hputs(buf, "LOGFILE", "/var/log/hp_log_a");
	CHECK_EQUAL(read_options(), 0);
	CHECK(options_log_path(&options, path, sizeof(path)));
	CHECK_TEXT(path, "/var/log/hp_log_a");
	options_status_path(&options, path, sizeof(path));
	CHECK_TEXT(path, "r/hp_status_a.json");
	hputr8(buf, "MAXFILESIZE", 0.5);
	CHECK_EQUAL(read_options(), 0);
	CHECK_EQUAL(options.max_file_bytes, 500000);
}

static void refused(const char *key, const char *value, const char *named)
{
	clear();
	hputs(buf, key, value);
	check_case("%s=%s", key, value);
	CHECK_EQUAL(read_options(), -EINVAL);
	CHECK(strstr(fault, named) != NULL);
	CHECK(strstr(fault, "\n") == NULL);
	check_case("%s", "");
}

static void test_refused(void)
{
	char text[OPTION_SIZE];

	refused("BINDPORT", "0", "BINDPORT=0");
	refused("BINDPORT", "65536", "65536");
	refused("BINDPORT", "-1", "-1");
	refused("BINDPORT", "60001x", "60001x");
	refused("BINDPORT", "99999999999999999999999", "BINDPORT");
	refused("MAXFILESIZE", "-1", "MAXFILESIZE=-1");
	refused("MAXFILESIZE", "nan", "nan");
	refused("MAXFILESIZE", "1e30", "1e30");
	refused("MAXFILESIZE", "much", "much");
	refused("GROUPPHFRAMES", "2", "GROUPPHFRAMES=2");
	refused("CAPTURE", "magic", "CAPTURE=magic");
	refused("NETBLKS", "1", "NETBLKS=1");
	refused("RCVMB", "3000", "RCVMB");
	refused("BUSYPOLL", "2", "BUSYPOLL=2");
	refused("RUNDIR", "", "RUNDIR=");
	refused("RUNDIR", "a/b", "RUNDIR=a/b");
	refused("RUNDIR", "..", "RUNDIR=..");
	memset(text, 'x', 67);
	text[67] = '\0';
	refused("RUNDIR", text, "longer than 66"); /* it may have been cut */
	text[66] = '\0';
	clear();
	hputs(buf, "RUNDIR", text);
	CHECK_EQUAL(read_options(), 0);
}

int main(void)
{
	test_defaults();
	test_given();
	test_refused();
	engine_free_statuses();
	return check_result();
}
