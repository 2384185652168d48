/* library.c -- what an installed HASHPIPE does that our engine does not: rings and status buffer in
 * System V shared memory that outlives the process, locked in memory, under keys made from a file.
 *
 * Written from HASHPIPE's documented behaviour, as far as the plugin meets it, so that the plugin
 * can be tried where no HASHPIPE is installed.  Built together with engine/cards.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/sem.h>
#include <sys/shm.h>

#include "installed.h"

volatile sig_atomic_t installed_running = 1;
static hashpipe_thread_desc_t registered[16];
static int n_registered;

int run_threads(void)
{
	return installed_running;
}

int register_hashpipe_thread(hashpipe_thread_desc_t *desc)
{
	registered[n_registered++] = *desc;
	return 0;
}

hashpipe_thread_desc_t *find_hashpipe_thread(char *name)
{
	for (int k = 0; k < n_registered; k++)
		if (!strcmp(registered[k].name, name))
			return &registered[k];
	return NULL;
}

void list_hashpipe_threads(FILE *out)
{
	for (int k = 0; k < n_registered; k++)
		fprintf(out, "  %s\n", registered[k].name);
}

static const char *key_file(void)
{
	const char *file = getenv("HASHPIPE_KEYFILE");

	if (!file)
		file = getenv("HOME");
	return file ? file : "/tmp";
}

/* ---- rings: the value of a semaphore says whether its block is filled ---- */

static key_t databuf_key(int instance_id, int databuf_id)
{
	return ftok(key_file(), 0x80 | instance_id) + databuf_id - 1;
}

static hashpipe_databuf_t *map(int shmid)
{
	void *memory = shmat(shmid, NULL, 0);

	return memory == (void *)-1 ? NULL : memory;
}

hashpipe_databuf_t *hashpipe_databuf_create(int instance_id, int databuf_id, size_t header_size,
					    size_t block_size, int n_block)
{
	size_t bytes = header_size + block_size * (size_t)n_block;
	key_t key = databuf_key(instance_id, databuf_id);
	int shmid = shmget(key, bytes, IPC_CREAT | IPC_EXCL | 0666);
	hashpipe_databuf_t *databuf;

	if (shmid >= 0) {
		databuf = map(shmid);
		strcpy(databuf->data_type, "unknown");
		databuf->header_size = header_size;
		databuf->block_size = block_size;
		databuf->n_block = n_block;
		databuf->shmid = shmid;
		databuf->semid = semget(key, n_block, IPC_CREAT | 0666);
	} else {
		shmid = shmget(key, 0, 0);
		databuf = shmid < 0 ? NULL : map(shmid);
		if (!databuf)
			return NULL;
		if (databuf->header_size != header_size || databuf->block_size != block_size ||
		    databuf->n_block != n_block)
			return NULL; /* it stays attached */
	}
	if (mlock(databuf, bytes))
		return NULL;
	hashpipe_databuf_clear(databuf);
	return databuf;
}

hashpipe_databuf_t *hashpipe_databuf_attach(int instance_id, int databuf_id)
{
	int shmid = shmget(databuf_key(instance_id, databuf_id), 0, 0);

	return shmid < 0 ? NULL : map(shmid);
}

int hashpipe_databuf_detach(hashpipe_databuf_t *databuf)
{
	return databuf && shmdt(databuf) ? HASHPIPE_ERR_SYS : HASHPIPE_OK;
}

void hashpipe_databuf_clear(hashpipe_databuf_t *databuf)
{
	for (int k = 0; k < databuf->n_block; k++)
		hashpipe_databuf_set_free(databuf, k);
}

int hashpipe_databuf_block_status(hashpipe_databuf_t *databuf, int block_id)
{
	return semctl(databuf->semid, block_id, GETVAL);
}

static int set(const hashpipe_databuf_t *databuf, int block_id, int value)
{
	return semctl(databuf->semid, block_id, SETVAL, value) ? HASHPIPE_ERR_SYS : HASHPIPE_OK;
}

int hashpipe_databuf_set_free(hashpipe_databuf_t *databuf, int block_id)
{
	return set(databuf, block_id, 0);
}

int hashpipe_databuf_set_filled(hashpipe_databuf_t *databuf, int block_id)
{
	return set(databuf, block_id, 1);
}

static int wait_for(const hashpipe_databuf_t *databuf, int block_id, bool filled,
		    const struct timespec *timeout)
{
	struct sembuf is_free = { (unsigned short)block_id, 0, 0 };
	struct sembuf is_filled[] = { { (unsigned short)block_id, -1, 0 },
				      { (unsigned short)block_id, 1, 0 } };

	if (!semtimedop(databuf->semid, filled ? is_filled : &is_free, filled ? 2 : 1, timeout))
		return HASHPIPE_OK;
	return errno == EAGAIN ? HASHPIPE_TIMEOUT : HASHPIPE_ERR_SYS;
}

static const struct timespec standard_wait = { 0, 250000000 };

int hashpipe_databuf_wait_free(hashpipe_databuf_t *databuf, int block_id)
{
	return wait_for(databuf, block_id, false, &standard_wait);
}

int hashpipe_databuf_wait_filled_timeout(hashpipe_databuf_t *databuf, int block_id,
					 struct timespec *timeout)
{
	return wait_for(databuf, block_id, true, timeout);
}

/* ---- the status buffer, and its lock, which a process may die with ---- */

static sem_t *open_lock(int instance_id)
{
	char name[512];

	snprintf(name, sizeof(name), "%s_hashpipe_status_%d", key_file(), instance_id);
	for (char *at = name + 1; *at; at++)
		if (*at == '/')
			*at = '_';
	return sem_open(name, O_CREAT, 0666, 1);
}

int hashpipe_status_attach(int instance_id, hashpipe_status_t *status)
{
	key_t key = ftok(key_file(), 0x40 | instance_id);
	int shmid = shmget(key, HASHPIPE_STATUS_TOTAL_SIZE, IPC_CREAT | 0666);

	status->instance_id = instance_id;
	status->shmid = shmid;
	status->buf = (char *)map(shmid);
	status->lock = open_lock(instance_id);
	if (!status->buf || status->lock == SEM_FAILED)
		return HASHPIPE_ERR_SYS;
	hashpipe_status_lock(status);
	if (!memchr(status->buf, 'E', HASHPIPE_STATUS_TOTAL_SIZE)) {
		memset(status->buf, ' ', HASHPIPE_STATUS_TOTAL_SIZE);
		memcpy(status->buf, "END", 3);
		hputi4(status->buf, "INSTANCE", instance_id);
	}
	hashpipe_status_unlock(status);
	return HASHPIPE_OK;
}

int hashpipe_status_detach(hashpipe_status_t *status)
{
	int result = shmdt(status->buf);

	status->buf = NULL;
	return result ? HASHPIPE_ERR_SYS : HASHPIPE_OK;
}

int hashpipe_status_lock(hashpipe_status_t *status)
{
	return sem_wait(status->lock) ? HASHPIPE_ERR_SYS : HASHPIPE_OK;
}

int hashpipe_status_unlock(hashpipe_status_t *status)
{
	return sem_post(status->lock) ? HASHPIPE_ERR_SYS : HASHPIPE_OK;
}
