/* module_config.h -- the list of modules a node records (module.config).
 *
 * One decimal module id (0..255) per line; '#' starts a comment; blank lines are allowed.
 */
#ifndef PANOSETI_MODULE_CONFIG_H
#define PANOSETI_MODULE_CONFIG_H

#include <stddef.h>
#include <stdint.h>

enum {
	MODULE_IDS = 256,		 /* module id = BOARDLOC >> 2, BOARDLOC has 10 bits */
	MODULE_CONFIG_MAX_BYTES = 65536, /* a larger file is not a module.config */
};

struct module_table {
	unsigned count;
	uint8_t id[MODULE_IDS];	   /* id of the n-th module, in the order of the file */
	int16_t index[MODULE_IDS]; /* n of a module id, -1 if not recorded here */
};

/* Index of a module id in the table, -1 if the module is not recorded here (or no id at all). */
static inline int module_table_find(const struct module_table *table, unsigned id)
{
	return id < MODULE_IDS ? table->index[id] : -1;
}

/* Reads `length` bytes of text.  Returns 0, or -EINVAL with a message naming line and value in
 * `fault`.  An id given twice counts once; a file that names no module is a fault. */
int module_config_parse(const char *text, size_t length, struct module_table *table, char *fault,
			size_t fault_size);

/* Reads a file.  Returns 0 or -errno, with a message naming the path in `fault`. */
int module_config_read(const char *path, struct module_table *table, char *fault,
		       size_t fault_size);

#endif
