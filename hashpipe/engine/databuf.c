/* databuf.c -- rings of blocks in memory of the process.
 *
 * Each block has a word, 0 free or 1 filled, on which threads sleep (futex).  The words lie in
 * front of the structure that the plugin sees, in the same mapping, so the whole ring is gone when
 * the process is, however it ends.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine.h"

enum {
	FREE,
	FILLED,
	WAIT_MS = 250,
	HUGE_BYTES = 2 << 20,
	GRANULE = 4096, /* what precedes the plugin's structure is a multiple of this */
};

struct control {
	struct control *next;
	int instance_id, databuf_id;
	size_t mapped_bytes; /* of the whole ring, this structure included */
	size_t bytes;	     /* of this structure and the words, see control_bytes() */
	_Atomic uint32_t word[];
};

static struct control *all;
static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;

static hashpipe_databuf_t *databuf_of(struct control *control)
{
	return (hashpipe_databuf_t *)((char *)control + control->bytes);
}

/* The structure knows how many words precede it. */
static size_t control_bytes(int n_block)
{
	size_t bytes = sizeof(struct control) + (size_t)n_block * sizeof(uint32_t);

	return (bytes + GRANULE - 1) / GRANULE * GRANULE;
}

static struct control *control_of(const hashpipe_databuf_t *databuf)
{
	return (struct control *)((char *)(uintptr_t)databuf - control_bytes(databuf->n_block));
}

static struct control *find(int instance_id, int databuf_id)
{
	struct control *control;

	for (control = all; control; control = control->next)
		if (control->instance_id == engine_instance(instance_id) &&
		    control->databuf_id == databuf_id)
			break;
	return control;
}

static struct control *make(size_t header_size, size_t block_size, int n_block)
{
	size_t control_size = control_bytes(n_block);
	size_t bytes = control_size + header_size + block_size * (size_t)n_block;
	struct control *control = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	hashpipe_databuf_t *databuf;

	if (control == MAP_FAILED)
		return NULL;
	if (bytes >= 2 * HUGE_BYTES)
		madvise(control, bytes, MADV_HUGEPAGE); /* a matter of speed only */
	control->mapped_bytes = bytes;
	control->bytes = control_size;
	databuf = databuf_of(control);
	strcpy(databuf->data_type, "unknown");
	databuf->header_size = header_size;
	databuf->block_size = block_size;
	databuf->n_block = n_block;
	databuf->shmid = databuf->semid = -1;
	return control;
}

hashpipe_databuf_t *hashpipe_databuf_create(int instance_id, int databuf_id, size_t header_size,
					    size_t block_size, int n_block)
{
	struct control *control;
	hashpipe_databuf_t *databuf = NULL;

	if (header_size < sizeof(hashpipe_databuf_t) || !block_size || n_block < 1 ||
	    block_size > SSIZE_MAX / 2 / (size_t)n_block) {
		errno = EINVAL;
		return NULL;
	}
	pthread_mutex_lock(&making);
	control = find(instance_id, databuf_id);
	if (!control) {
		control = make(header_size, block_size, n_block);
		if (control) {
			control->instance_id = engine_instance(instance_id);
			control->databuf_id = databuf_id;
			control->next = all;
			all = control;
		}
	}
	if (control)
		databuf = databuf_of(control);
	if (databuf && (databuf->header_size != header_size || databuf->block_size != block_size ||
			databuf->n_block != n_block)) {
		errno = EINVAL;
		databuf = NULL;
	}
	pthread_mutex_unlock(&making);
	if (databuf)
		hashpipe_databuf_clear(databuf);
	return databuf;
}

hashpipe_databuf_t *hashpipe_databuf_attach(int instance_id, int databuf_id)
{
	struct control *control;

	pthread_mutex_lock(&making);
	control = find(instance_id, databuf_id);
	pthread_mutex_unlock(&making);
	if (!control)
		errno = ENOENT;
	return control ? databuf_of(control) : NULL;
}

int hashpipe_databuf_detach(hashpipe_databuf_t *databuf)
{
	(void)databuf; /* stays until the end of the process */
	return HASHPIPE_OK;
}

void engine_free_databufs(void)
{
	while (all) {
		struct control *control = all;

		all = control->next;
		munmap(control, control->mapped_bytes);
	}
}

void hashpipe_databuf_clear(hashpipe_databuf_t *databuf)
{
	for (int k = 0; k < databuf->n_block; k++)
		hashpipe_databuf_set_free(databuf, k);
}

char *hashpipe_databuf_data(hashpipe_databuf_t *databuf, int block_id)
{
	return (char *)databuf + databuf->header_size + databuf->block_size * (size_t)block_id;
}

static _Atomic uint32_t *word_of(const hashpipe_databuf_t *databuf, int block_id)
{
	return &control_of(databuf)->word[block_id];
}

int hashpipe_databuf_block_status(hashpipe_databuf_t *databuf, int block_id)
{
	return (int)atomic_load_explicit(word_of(databuf, block_id), memory_order_acquire);
}

int hashpipe_databuf_total_status(hashpipe_databuf_t *databuf)
{
	int filled = 0;

	for (int k = 0; k < databuf->n_block; k++)
		filled += hashpipe_databuf_block_status(databuf, k);
	return filled;
}

uint64_t hashpipe_databuf_total_mask(hashpipe_databuf_t *databuf)
{
	uint64_t mask = 0;

	for (int k = 0; k < databuf->n_block && k < 64; k++)
		mask |= (uint64_t)hashpipe_databuf_block_status(databuf, k) << k;
	return mask;
}

static int set(hashpipe_databuf_t *databuf, int block_id, uint32_t state)
{
	_Atomic uint32_t *word = word_of(databuf, block_id);

	atomic_store_explicit(word, state, memory_order_release);
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
	return HASHPIPE_OK;
}

int hashpipe_databuf_set_free(hashpipe_databuf_t *databuf, int block_id)
{
	return set(databuf, block_id, FREE);
}

int hashpipe_databuf_set_filled(hashpipe_databuf_t *databuf, int block_id)
{
	return set(databuf, block_id, FILLED);
}

static int wait_for(hashpipe_databuf_t *databuf, int block_id, uint32_t state,
		    const struct timespec *timeout)
{
	_Atomic uint32_t *word = word_of(databuf, block_id);

	while (atomic_load_explicit(word, memory_order_acquire) != state) {
		if (!syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, !state, timeout, NULL, 0))
			continue; /* woken; the state may have changed back since */
		if (errno == ETIMEDOUT)
			return HASHPIPE_TIMEOUT;
		if (errno != EAGAIN)
			return HASHPIPE_ERR_SYS;
	}
	return HASHPIPE_OK;
}

static const struct timespec standard_wait = { 0, WAIT_MS * 1000000l };

int hashpipe_databuf_wait_free(hashpipe_databuf_t *databuf, int block_id)
{
	return wait_for(databuf, block_id, FREE, &standard_wait);
}

int hashpipe_databuf_wait_filled(hashpipe_databuf_t *databuf, int block_id)
{
	return wait_for(databuf, block_id, FILLED, &standard_wait);
}

int hashpipe_databuf_wait_free_timeout(hashpipe_databuf_t *databuf, int block_id,
				       struct timespec *timeout)
{
	return wait_for(databuf, block_id, FREE, timeout);
}

int hashpipe_databuf_wait_filled_timeout(hashpipe_databuf_t *databuf, int block_id,
					 struct timespec *timeout)
{
	return wait_for(databuf, block_id, FILLED, timeout);
}

static int spin_for(hashpipe_databuf_t *databuf, int block_id, uint32_t state)
{
	_Atomic uint32_t *word = word_of(databuf, block_id);

	while (atomic_load_explicit(word, memory_order_acquire) != state)
		pthread_testcancel();
	return HASHPIPE_OK;
}

int hashpipe_databuf_busywait_free(hashpipe_databuf_t *databuf, int block_id)
{
	return spin_for(databuf, block_id, FREE);
}

int hashpipe_databuf_busywait_filled(hashpipe_databuf_t *databuf, int block_id)
{
	return spin_for(databuf, block_id, FILLED);
}
