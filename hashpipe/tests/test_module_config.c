/* module.config: what is read, and what is refused with line and value. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static char fault[256];
static struct module_table table;

static int parse(const char *text)
{
	*fault = '\0';
	return module_config_parse(text, strlen(text), &table, fault, sizeof(fault));
}

static void test_good(void)
{
	CHECK_EQUAL(parse("254\n"), 0);
	CHECK_EQUAL(table.count, 1);
	CHECK_EQUAL(module_table_find(&table, 254), 0);
	CHECK_EQUAL(module_table_find(&table, 0), -1);
	CHECK_EQUAL(module_table_find(&table, 256), -1);
	CHECK_EQUAL(parse("# modules of this node\r\n\n  3 # the third\r\n0\n3\n\t255"), 0);
	CHECK_EQUAL(table.count, 3);
	CHECK_EQUAL(module_table_find(&table, 3), 0);
	CHECK_EQUAL(module_table_find(&table, 0), 1);
	CHECK_EQUAL(module_table_find(&table, 255), 2);
}

static void test_bad(void)
{
	CHECK_EQUAL(parse("1\n2x\n"), -EINVAL);
	CHECK_TEXT(fault, "line 2: \"2x\" is not a module id (0 to 255)");
	CHECK_EQUAL(parse("256"), -EINVAL);
	CHECK_EQUAL(parse("-1"), -EINVAL);
	CHECK_EQUAL(parse("1 2"), -EINVAL);
	CHECK_EQUAL(parse("99999999999999999999999999"), -EINVAL);
	CHECK_EQUAL(parse("\x01\xff"), -EINVAL);
	CHECK_TEXT(fault, "line 1: \"??\" is not a module id (0 to 255)");
	CHECK_EQUAL(parse(""), -EINVAL);
	CHECK(strstr(fault, "names no module") != NULL);
	CHECK_EQUAL(parse("# nothing\n\n"), -EINVAL);
}

static void test_files(void)
{
	FILE *file;

	check_scratch();
	CHECK_EQUAL(module_config_read("absent.config", &table, fault, sizeof(fault)), -ENOENT);
	CHECK(strstr(fault, "absent.config") != NULL);
	CHECK_EQUAL(module_config_read(".", &table, fault, sizeof(fault)), -EISDIR);
	file = fopen("module.config", "w");
	if (!CHECK(file != NULL))
		return;
	fputs("7\n8\n", file);
	fclose(file);
	CHECK_EQUAL(module_config_read("module.config", &table, fault, sizeof(fault)), 0);
	CHECK_EQUAL(table.count, 2);
	file = fopen("large.config", "w");
	for (unsigned k = 0; file && k < MODULE_CONFIG_MAX_BYTES; k++)
		fputs("1\n", file);
	if (file)
		fclose(file);
	CHECK_EQUAL(module_config_read("large.config", &table, fault, sizeof(fault)), -EFBIG);
}

/* Any text: a table that makes sense or a fault that names a line. */
static void test_random_text(void)
{
	static const char letters[] = "0123456789 \n\n#\tx-";
	uint64_t state = 4;
	char text[64];

	for (unsigned round = 0; round < 100000; round++) {
		size_t length = check_random(&state) % sizeof(text);
		int result;

		for (size_t k = 0; k < length; k++)
			text[k] = letters[check_random(&state) % (sizeof(letters) - 1)];
		result = module_config_parse(text, length, &table, fault, sizeof(fault));
		if (!result) {
			CHECK(table.count >= 1 && table.count <= 256);
			for (unsigned k = 0; k < table.count; k++)
				CHECK_EQUAL(table.index[table.id[k]], k);
		}
	}
}

int main(void)
{
	test_good();
	test_bad();
	test_random_text();
	test_files();
	return check_result();
}
