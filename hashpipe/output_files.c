/* output_files.c -- see output_files.h */
#include "output_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { NONE = 0xffff };

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static unsigned module_id(const struct output_files *files, unsigned file)
{
	return files->modules->id[file / PRODUCT_COUNT];
}

static const struct product_facts *facts(unsigned file)
{
	return &product_facts[file % PRODUCT_COUNT];
}

static int run_directory(const struct output_files *files, unsigned file, char *path, size_t size)
{
	return snprintf(path, size, "module_%u/%s", module_id(files, file), files->run);
}

/* The number after those of the files that are there: a pipeline that is started again within a run
 * goes on with the sequence of the one before.  0 in a new run; or -errno. */
static int64_t next_number(const struct output_files *files, unsigned file)
{
	char path[256], product[16];
	int64_t next = 0;
	struct dirent *entry;
	DIR *dir;

	run_directory(files, file, path, sizeof(path));
	dir = opendir(path);
	if (!dir)
		return -errno;
	while ((entry = readdir(dir))) {
		unsigned module, seqno;
		int end = 0;

		/* Neither the start nor the name of a product has a dot in it. */
		if (sscanf(entry->d_name,
			   "start_%*[^.].dp_%15[a-z0-9].bpp_%*u.module_%u.seqno_%u.pff%n", product,
			   &module, &seqno, &end) != 3 ||
		    !end || entry->d_name[end] || module != module_id(files, file))
			continue;
		for (unsigned k = 0; k < PRODUCT_COUNT; k++)
			if (!strcmp(product, product_facts[k].name) &&
			    product_facts[k].counter == facts(file)->counter && seqno >= next)
				next = (int64_t)seqno + 1;
	}
	closedir(dir);
	return next;
}

/* Creates the file of number `seqno` and opens it; its descriptor or -errno. */
static int create_file(const struct output_files *files, unsigned file, uint32_t seqno, char *name,
		       size_t name_size)
{
	char path[256], start[32];
	time_t now = time(NULL);
	struct tm utc;
	int fd;

	gmtime_r(&now, &utc);
	strftime(start, sizeof(start), "%Y-%m-%dT%H:%M:%SZ", &utc);
	snprintf(name, name_size, "start_%s.dp_%s.bpp_%u.module_%u.seqno_%u.pff", start,
		 facts(file)->name, facts(file)->pixel_bytes, module_id(files, file), seqno);
	snprintf(path, sizeof(path), "module_%u/%s/%s", module_id(files, file), files->run, name);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	return fd < 0 ? -errno : fd;
}

/* 0 or -errno; `path` says what could not be made. */
static int make_directories(const struct output_files *files, unsigned file, char *path,
			    size_t size)
{
	struct stat status;

	snprintf(path, size, "module_%u", module_id(files, file));
	if (mkdir(path, 0755) && errno != EEXIST)
		return -errno;
	if (stat(path, &status)) /* a link that leads nowhere, for example */
		return -errno;
	if (!S_ISDIR(status.st_mode))
		return -ENOTDIR;
	run_directory(files, file, path, size);
	if (mkdir(path, 0755) && errno != EEXIST)
		return -errno;
	return 0;
}

/* The last number used, which products of a module share. */
static uint32_t *last_number(const struct output_files *files, unsigned file)
{
	return &files->counter[file / PRODUCT_COUNT][facts(file)->counter];
}

/* Directories of a module, and the numbers its first files get; `file` is its first product's.
 * 0 or -errno; `path` says what could not be made. */
static int begin_module(struct output_files *files, unsigned file, char *path, size_t size)
{
	int err = make_directories(files, file, path, size);

	for (unsigned k = file; !err && k < file + PRODUCT_COUNT; k++) {
		int64_t number = next_number(files, k);

		if (number < 0)
			err = (int)number;
		else
			*last_number(files, k) = (uint32_t)number;
	}
	return err;
}

int output_files_open(struct output_files *files, const struct module_table *modules,
		      const char *run, uint64_t max_bytes, unsigned max_frames,
		      struct account *account, struct journal *journal, char *fault,
		      size_t fault_size)
{
	unsigned n_files = modules->count * PRODUCT_COUNT;
	char path[256];
	int err = -ENOMEM;

	memset(files, 0, sizeof(*files));
	files->modules = modules;
	files->run = run;
	files->max_bytes = max_bytes;
	files->max_frames = max_frames;
	files->account = account;
	files->journal = journal;
	files->counter = calloc(modules->count, sizeof(*files->counter));
	files->file = calloc(n_files, sizeof(*files->file));
	files->next = calloc(max_frames, sizeof(*files->next));
	snprintf(path, sizeof(path), "files of %u modules", modules->count);
	if (!files->counter || !files->file || !files->next)
		goto failed;
	for (unsigned k = 0; k < n_files; k++)
		files->file[k].fd = -1;
	for (unsigned k = 0; k < n_files; k++) {
		struct output_file *file = &files->file[k];
		int fd;

		if (k % PRODUCT_COUNT == 0) {
			err = begin_module(files, k, path, sizeof(path));
			if (err)
				goto failed;
		}
		file->seqno = *last_number(files, k);
		fd = create_file(files, k, file->seqno, file->name, sizeof(file->name));
		if (fd < 0) {
			snprintf(path, sizeof(path), "%s in module_%u", file->name,
				 module_id(files, k));
			err = fd;
			goto failed;
		}
		close(fd); /* most stay empty: opened again when the first frame comes */
		file->begun = true;
		count(&account->product[k].files, 1);
		set_counter(&account->product[k].seqno, file->seqno);
	}
	return 0;

failed:
	snprintf(fault, fault_size, "cannot create %s: %s", path, strerror(-err));
	output_files_close(files);
	return err;
}

static void close_file(struct output_files *files, unsigned k)
{
	struct output_file *file = &files->file[k];

	if (file->fd >= 0 && close(file->fd)) {
		/* Some file systems tell only now that earlier writes failed. */
		count(&files->account->product[k].write_errors, 1);
		journal_note(files->journal, JOURNAL_ERROR, "closing %s of module %u: %s",
			     file->name, module_id(files, k), strerror(errno));
	}
	file->fd = -1;
}

/* Opens the file that takes the next frame: the one made at the start, or a new one.
 * 0 or -errno. */
static int open_file(struct output_files *files, unsigned k)
{
	struct output_file *file = &files->file[k];
	uint32_t *last = last_number(files, k);
	char path[256];
	int fd;

	if (file->begun) {
		snprintf(path, sizeof(path), "module_%u/%s/%s", module_id(files, k), files->run,
			 file->name);
		fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
		if (fd < 0)
			fd = -errno;
	} else {
		int err = make_directories(files, k, path, sizeof(path));

		if (err)
			return err;
		fd = create_file(files, k, *last + 1, file->name, sizeof(file->name));
	}
	if (fd < 0) {
		file->begun = false;
		return fd;
	}
	if (!file->begun) {
		file->seqno = ++*last;
		count(&files->account->product[k].files, 1);
		set_counter(&files->account->product[k].seqno, file->seqno);
	}
	file->begun = true;
	file->bytes = 0;
	file->fd = fd;
	return 0;
}

/* Writes the frames in iov[0..n) to the open file.  Returns how many whole frames are in the file
 * in the end, and in *error why it is less than n. */
static unsigned write_frames(struct output_files *files, unsigned k, unsigned n, int *error)
{
	struct output_file *file = &files->file[k];
	size_t frame_bytes = facts(k)->frame_bytes, total = n * frame_bytes, done = 0;
	struct iovec *iov = files->iov;
	struct stat status;
	unsigned whole;

	*error = 0;
	if (fstat(file->fd, &status))
		*error = errno;
	else if (!status.st_nlink)
		*error = ENOENT; /* removed under our hands: nobody would ever see the data */
	while (done < total && !*error) {
		ssize_t written;
		size_t skip = done % frame_bytes;
		struct iovec *from = iov + done / frame_bytes;

		from->iov_base = (uint8_t *)from->iov_base + skip;
		from->iov_len -= skip;
		written = writev(file->fd, from, (int)(iov + n - from));
		from->iov_base = (uint8_t *)from->iov_base - skip;
		from->iov_len += skip;
		if (written > 0)
			done += (size_t)written;
		else if (written == 0)
			*error = ENOSPC;
		else if (errno != EINTR)
			*error = errno;
	}
	whole = (unsigned)(done / frame_bytes);
	if (done % frame_bytes && ftruncate(file->fd, (off_t)(file->bytes + whole * frame_bytes)))
		journal_note(files->journal, JOURNAL_ERROR,
			     "%s of module %u: cannot cut off an incomplete frame: %s", file->name,
			     module_id(files, k), strerror(errno));
	file->bytes += whole * frame_bytes;
	return whole;
}

/* After a failed write or open: gives the file up and says so. */
static void give_up(struct output_files *files, unsigned k, int error)
{
	struct output_file *file = &files->file[k];
	struct product_account *account = &files->account->product[k];

	count(&account->write_errors, 1);
	if (!file->failed)
		journal_note(files->journal, JOURNAL_ERROR,
			     "module %u %s: cannot write %s: %s; frames are lost until it works "
			     "again, tried every second",
			     module_id(files, k), facts(k)->name, file->name, strerror(error));
	file->failed = true;
	file->retry_ns = now_ns() + OUTPUT_RETRY_NS;
	if (file->fd >= 0 && !file->bytes && file->seqno) {
		/* A new file that could not take one frame: not worth a number of its own. */
		char path[256];

		snprintf(path, sizeof(path), "module_%u/%s/%s", module_id(files, k), files->run,
			 file->name);
		if (!unlink(path) && *last_number(files, k) == file->seqno) {
			(*last_number(files, k))--;
			count(&account->files, (uint64_t)-1);
		}
	}
	close_file(files, k);
	file->begun = false;
}

/* Counts what became of a frame and of its packets. */
static void settle(struct output_files *files, const struct frame_info *frame, bool written)
{
	struct account *account = files->account;
	struct product_account *product = &account->product[frame_file(frame)];
	const struct product_facts *of = &product_facts[frame->product];

	for (unsigned q = 0; q < MODULE_QUABOS; q++) {
		struct output_stream_account *stream =
			&account->output[stream_index(frame->module, q, frame->stream[q])];

		if (frame->boards >> q & 1)
			count(written ? &stream->recorded : &stream->unwritten, 1);
	}
	if (!written) {
		count(&product->frames_unwritten, 1);
		return;
	}
	count(&product->frames, 1);
	count(&product->bytes, of->frame_bytes);
	if (of->whole_mask && frame->boards != of->whole_mask)
		count(&product->partial, 1);
}

/* How many of `n` frames go to the open file before the next one begins. */
static unsigned frames_before_rotation(const struct output_files *files, unsigned k, unsigned n)
{
	uint64_t room;

	if (!files->max_bytes)
		return n;
	/* The frame that takes the file above the limit is its last. */
	room = (files->max_bytes - files->file[k].bytes) / facts(k)->frame_bytes + 1;
	return room < n ? (unsigned)room : n;
}

/* The file that takes the next frame is opened if none is and if it is time to (try again). */
static void need_file(struct output_files *files, unsigned k)
{
	struct output_file *file = &files->file[k];
	int err;

	if (file->fd >= 0 || (file->failed && now_ns() < file->retry_ns))
		return;
	err = open_file(files, k);
	if (err)
		give_up(files, k, -err);
}

/* After a write: what it means for the file. */
static void conclude(struct output_files *files, unsigned k, int error)
{
	struct output_file *file = &files->file[k];

	if (error) {
		give_up(files, k, error);
		return;
	}
	if (file->failed)
		journal_note(files->journal, JOURNAL_INFO,
			     "module %u %s: writing works again, in %s", module_id(files, k),
			     facts(k)->name, file->name);
	file->failed = false;
	if (files->max_bytes && file->bytes > files->max_bytes) {
		close_file(files, k);
		file->begun = false;
	}
}

/* Takes some of the frames that wait for a file off their chain: one write. */
static void write_some(struct output_files *files, unsigned k, const struct frame_info *frames,
		       const uint8_t *store)
{
	struct output_file *file = &files->file[k];
	unsigned n = file->n < OUTPUT_IOV ? file->n : OUTPUT_IOV, written = 0;
	uint16_t frame = file->first_frame;
	int error = 0;

	need_file(files, k);
	if (file->fd >= 0) {
		n = frames_before_rotation(files, k, n);
		for (unsigned taken = 0; taken < n; taken++, frame = files->next[frame])
			files->iov[taken] = (struct iovec){
				.iov_base = (void *)(uintptr_t)(store + frames[frame].offset),
				.iov_len = facts(k)->frame_bytes
			};
		written = write_frames(files, k, n, &error);
		conclude(files, k, error);
	}
	for (unsigned taken = 0; taken < n; taken++) {
		settle(files, &frames[file->first_frame], taken < written);
		file->first_frame = files->next[file->first_frame];
	}
	file->n = (uint16_t)(file->n - n);
}

void output_files_write(struct output_files *files, const struct frame_info *frames, unsigned n,
			const uint8_t *store)
{
	uint16_t touched = NONE;

	/* Chain the frames of each file, from the last one on, so that chains are in order. */
	for (unsigned k = n; k-- > 0;) {
		unsigned number = frame_file(&frames[k]);
		struct output_file *file = &files->file[number];

		if (!file->n) {
			file->next_touched = touched;
			touched = (uint16_t)number;
		}
		files->next[k] = file->n++ ? file->first_frame : (uint16_t)NONE;
		file->first_frame = (uint16_t)k;
	}
	for (; touched != NONE; touched = files->file[touched].next_touched)
		while (files->file[touched].n)
			write_some(files, touched, frames, store);
}

void output_files_close(struct output_files *files)
{
	unsigned n_files = files->modules->count * PRODUCT_COUNT;

	for (unsigned k = 0; files->file && k < n_files; k++)
		close_file(files, k);
	free(files->counter);
	free(files->file);
	free(files->next);
	files->counter = NULL;
	files->file = NULL;
	files->next = NULL;
}
