/* fuzz_config.c -- any bytes as a module.config. */
#include <errno.h>
#include <string.h>

#include "fuzz.h"
#include "module_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct module_table table;
	char fault[160];
	int err;

	memset(fault, 'x', sizeof(fault));
	err = module_config_parse((const char *)data, size, &table, fault, sizeof(fault));
	REQUIRE(err == 0 || err == -EINVAL);
	if (err) {
		REQUIRE(memchr(fault, '\0', sizeof(fault)) && *fault && !strchr(fault, '\n'));
		return 0;
	}
	REQUIRE(table.count >= 1 && table.count <= MODULE_IDS);
	for (unsigned k = 0; k < table.count; k++)
		REQUIRE(module_table_find(&table, table.id[k]) == (int)k);
	return 0;
}
