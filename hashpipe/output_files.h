/* output_files.h -- the PFF files of a run: names, rotation, writing, write errors.
 *
 * Files lie in module_<id>/<run>/ under the working directory.  A file is at every moment a whole
 * number of frames: what a failed write left is cut off, the file is closed, and recording goes
 * on in the next one as soon as a write succeeds again (tried once a second at most).  Other files
 * are not concerned.
 */
#ifndef PANOSETI_OUTPUT_FILES_H
#define PANOSETI_OUTPUT_FILES_H

#include <stdint.h>
#include <sys/uio.h>

#include "account.h"
#include "journal.h"
#include "module_config.h"
#include "product.h"

enum { OUTPUT_IOV = 512 }; /* frames in one write */

#define OUTPUT_RETRY_NS 1000000000ull

struct output_file {
	int fd;		   /* -1: none open */
	uint32_t seqno;	   /* of the open file or, when none is open, of the last one */
	uint64_t bytes;	   /* of the open file */
	bool failed;	   /* the last write failed; frames are lost until one succeeds */
	bool begun;	   /* file `seqno` exists on disk under `name` */
	uint64_t retry_ns; /* when to try again, CLOCK_MONOTONIC */
	char name[96];
	/* frames of the block in hand */
	uint16_t n, next_touched;
	uint16_t first_frame;
};

struct output_files {
	const struct module_table *modules;
	const char *run;
	uint64_t max_bytes; /* 0: no limit */
	struct account *account;
	struct journal *journal;
	uint32_t (*counter)[2];	  /* last file number used: [module][product_facts.counter] */
	struct output_file *file; /* by frame_file() */
	uint16_t *next;		  /* chain of the frames of one file within a block */
	unsigned max_frames;
	struct iovec iov[OUTPUT_IOV];
};

/* Creates the directories and the first four files of every module, empty, with seqno 0 or, where
 * an earlier pipeline of the run has left files, the number after theirs.  `run`, `modules`,
 * `account`, `journal` are the caller's and stay.  `max_frames`: most frames ever given to
 * output_files_write at once.  0, or -errno with a message in `fault`. */
int output_files_open(struct output_files *files, const struct module_table *modules,
		      const char *run, uint64_t max_bytes, unsigned max_frames,
		      struct account *account, struct journal *journal, char *fault,
		      size_t fault_size);

/* Writes `n` frames, whose bytes are at store + frame.offset, to their files, and counts what
 * became of their packets. */
void output_files_write(struct output_files *files, const struct frame_info *frames, unsigned n,
			const uint8_t *store);

/* Closes all files; release of everything. */
void output_files_close(struct output_files *files);

#endif
