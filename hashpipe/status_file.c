/* status_file.c -- see status_file.h */
#include "status_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	PATH_BYTES = 512,
	SPACE_BYTES = 4096,  /* files are a whole number of these */
	GROWTH_BYTES = 6144, /* a text may be so much longer than the one before */
};

static int write_all(int fd, const char *text, size_t length, off_t at)
{
	while (length) {
		ssize_t written = pwrite(fd, text, length, at);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return written ? -errno : -ENOSPC;
		text += written;
		length -= (size_t)written;
		at += written;
	}
	return 0;
}

static size_t padded(size_t length)
{
	return (length + GROWTH_BYTES + SPACE_BYTES - 1) / SPACE_BYTES * SPACE_BYTES;
}

/* The text, filled up with blanks and a newline at the end; NULL without memory. */
static char *pad(const char *text, size_t length, size_t size)
{
	char *whole = malloc(size);

	if (!whole)
		return NULL;
	memcpy(whole, text, length);
	memset(whole + length, ' ', size - length - 1);
	whole[size - 1] = '\n';
	return whole;
}

static int write_padded(int fd, const char *text, size_t length, size_t size)
{
	char *whole = pad(text, length, size);
	int err = whole ? write_all(fd, whole, size, 0) : -ENOMEM;

	free(whole);
	return err;
}

static int write_new(const char *path, const char *text, size_t length)
{
	char fresh[PATH_BYTES];
	int fd, err;

	snprintf(fresh, sizeof(fresh), "%s.new", path);
	fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	err = write_padded(fd, text, length, padded(length));
	if (close(fd) && !err)
		err = -errno;
	if (!err && rename(fresh, path))
		err = -errno;
	if (err)
		unlink(fresh);
	return err;
}

/* Opens the reserve and, as far as there is space, makes it large enough for a text.  Descriptor
 * and *size, or -errno. */
static int open_reserve(const char *reserve, size_t length, size_t *size)
{
	int fd = open(reserve, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	struct stat status;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &status)) {
		int err = -errno;

		close(fd);
		return err;
	}
	*size = (size_t)status.st_size;
	if (*size < padded(length)) {
		char *blanks = pad("", 0, padded(length) - *size);

		if (blanks && !write_all(fd, blanks, padded(length) - *size, status.st_size))
			*size = padded(length);
		free(blanks);
	}
	return fd;
}

/* The text goes to the reserve, which changes places with the file. */
static int use_reserve(const char *path, const char *reserve, const char *text, size_t length)
{
	size_t size;
	int fd = open_reserve(reserve, length, &size), err;

	if (fd < 0)
		return fd;
	err = length < size ? write_padded(fd, text, length, size) : -ENOSPC;
	if (close(fd) && !err)
		err = -errno;
	if (err)
		return err;
	if (!renameat2(AT_FDCWD, reserve, AT_FDCWD, path, RENAME_EXCHANGE))
		return 0;
	/* There is no file to change places with, or the file system cannot do it. */
	return rename(reserve, path) ? -errno : 0;
}

int status_file_replace(const char *path, const char *text, size_t length)
{
	char reserve[PATH_BYTES];
	int err = write_new(path, text, length), fd;
	size_t size;

	snprintf(reserve, sizeof(reserve), "%s.tmp", path);
	if (err == -ENOSPC || err == -EDQUOT)
		return use_reserve(path, reserve, text, length);
	if (!err) {
		fd = open_reserve(reserve, length, &size);
		if (fd >= 0)
			close(fd);
	}
	return err;
}

void status_file_end(const char *path)
{
	char reserve[PATH_BYTES];

	snprintf(reserve, sizeof(reserve), "%s.tmp", path);
	unlink(reserve);
}
