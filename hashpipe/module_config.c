/* module_config.c -- see module_config.h */
#include "module_config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* For messages: the offending words, with everything unprintable shown as '?'. */
static void printable(const char *text, size_t length, char *out, size_t out_size)
{
	size_t n = length < out_size - 1 ? length : out_size - 1;

	for (size_t i = 0; i < n; i++)
		out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
	out[n] = '\0';
}

static int is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/* The id on one line without line end: 0..255, -1 if the line is blank, -2 if it is no id. */
static int line_id(const char *line, size_t length)
{
	const char *hash = memchr(line, '#', length);
	int id = 0;

	if (hash)
		length = (size_t)(hash - line);
	while (length && is_blank(*line))
		line++, length--;
	while (length && is_blank(line[length - 1]))
		length--;
	if (!length)
		return -1;
	for (size_t i = 0; i < length; i++) {
		if (line[i] < '0' || line[i] > '9')
			return -2;
		id = id * 10 + (line[i] - '0');
		if (id >= MODULE_IDS)
			return -2;
	}
	return id;
}

int module_config_parse(const char *text, size_t length, struct module_table *table, char *fault,
			size_t fault_size)
{
	unsigned line_number = 0;

	memset(table, 0, sizeof(*table));
	memset(table->index, -1, sizeof(table->index));
	while (length) {
		const char *end = memchr(text, '\n', length);
		size_t line_length = end ? (size_t)(end - text) : length;
		int id = line_id(text, line_length);

		line_number++;
		if (id == -2) {
			char shown[41];

			printable(text, line_length, shown, sizeof(shown));
			snprintf(fault, fault_size, "line %u: \"%s\" is not a module id (0 to %d)",
				 line_number, shown, MODULE_IDS - 1);
			return -EINVAL;
		}
		if (id >= 0 && table->index[id] < 0) {
			table->index[id] = (int16_t)table->count;
			table->id[table->count++] = (uint8_t)id;
		}
		if (!end)
			break;
		length -= line_length + 1;
		text = end + 1;
	}
	if (!table->count) {
		snprintf(fault, fault_size, "names no module; write one module id per line");
		return -EINVAL;
	}
	return 0;
}

/* Whole file into `text`; number of bytes or -errno (-EFBIG: more than `size`). */
static ssize_t read_whole(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n, total = 0;

	if (fd < 0)
		return -errno;
	while ((n = read(fd, text + total, size - (size_t)total)) > 0) {
		total += n;
		if ((size_t)total == size) {
			total = -EFBIG;
			break;
		}
	}
	if (n < 0)
		total = -errno;
	close(fd);
	return total;
}

int module_config_read(const char *path, struct module_table *table, char *fault, size_t fault_size)
{
	char text[MODULE_CONFIG_MAX_BYTES];
	char reason[128];
	ssize_t length = read_whole(path, text, sizeof(text));
	int err;

	if (length < 0) {
		snprintf(fault, fault_size, "%s: %s", path, strerror((int)-length));
		return (int)length;
	}
	err = module_config_parse(text, (size_t)length, table, reason, sizeof(reason));
	if (err)
		snprintf(fault, fault_size, "%s: %s", path, reason);
	return err;
}
