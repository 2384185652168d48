/* fuzz_options.c -- any text as options: through the launcher's status buffer into the checks.
 *
 * Input: lines KEY=VALUE.
 */
#include <errno.h>
#include <string.h>

#include "engine.h"
#include "fuzz.h"
#include "options.h"

static bool look_up(void *context, const char *key, char *value)
{
	return hgets(context, key, OPTION_SIZE - 1, value);
}

/* A line may hold anything but the end of line. */
static void put(char *buf, const char *line, size_t length)
{
	const char *equals = memchr(line, '=', length);
	size_t key_length = equals ? (size_t)(equals - line) : length;
	char key[16] = "", value[256] = "";

	memcpy(key, line, key_length < sizeof(key) - 1 ? key_length : sizeof(key) - 1);
	if (equals) {
		length -= key_length + 1;
		memcpy(value, equals + 1, length < sizeof(value) - 1 ? length : sizeof(value) - 1);
	}
	hputs(buf, key, value);
}

static void check_paths(const struct options *options)
{
	char path[2 * OPTION_SIZE + 32];

	options_log_path(options, path, sizeof(path));
	options_status_path(options, path, sizeof(path));
	REQUIRE(!strncmp(path, options->run, strlen(options->run)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static hashpipe_status_t status;
	const char *at = (const char *)data, *end = at + size;
	struct options options;
	char fault[256];
	int err;

	if (!status.buf)
		REQUIRE(!hashpipe_status_attach(0, &status));
	hashpipe_status_clear(&status);
	while (at < end) {
		const char *newline = memchr(at, '\n', (size_t)(end - at));
		size_t length = (size_t)((newline ? newline : end) - at);

		put(status.buf, at, length);
		at += length + 1;
	}
	memset(fault, 'x', sizeof(fault));
	err = options_read(&options, look_up, status.buf, fault, sizeof(fault));
	REQUIRE(err == 0 || err == -EINVAL);
	if (err) {
		REQUIRE(memchr(fault, '\0', sizeof(fault)) && *fault);
		return 0;
	}
	REQUIRE(*options.run && !strchr(options.run, '/') && *options.run != '.');
	REQUIRE(options.bindport >= 1 && options.bindport <= 65535);
	REQUIRE(strlen(options.bindhost) <= OPTION_MAX && strlen(options.logfile) <= OPTION_MAX);
	check_paths(&options);
	return 0;
}
