/* status_file.h -- a small text file that is replaced as a whole, also on a full disk.
 *
 * A new text goes to a new file (`<path>.new`), which is renamed.  Where no space is left for that,
 * it goes to the reserve (`<path>.tmp`): a file whose space was taken while there was some, and
 * which then changes places with the one that readers see.  To have room in either, texts are
 * filled up with blanks.  Readers find a whole text in any case: what they have opened is not
 * written to before the next but one replacement.
 */
#ifndef PANOSETI_STATUS_FILE_H
#define PANOSETI_STATUS_FILE_H

#include <stddef.h>

/* Replaces the text, which ends without a newline.  0 or -errno. */
int status_file_replace(const char *path, const char *text, size_t length);

/* The text will not be replaced any more: gives the reserve back. */
void status_file_end(const char *path);

#endif
