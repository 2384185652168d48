/* leftovers.c -- see leftovers.h */
#include "leftovers.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <time.h>

enum {
	STATUS_PROJECT = 0x40, /* of ftok(), with the instance */
	INSTANCES = 64,
	HELD_MS = 1000, /* nobody who lives holds the lock that long */
	PATH_BYTES = 512,
};

/* How often this process itself is attached to a segment. */
static unsigned long own_attachments(int shmid)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[PATH_BYTES];
	unsigned long n = 0;

	while (maps && fgets(line, sizeof(line), maps)) {
		unsigned long inode;
		char name[16];

		if (sscanf(line, "%*s %*s %*s %*s %lu %15s", &inode, name) == 2 &&
		    !strncmp(name, "/SYSV", 5) && inode == (unsigned long)shmid)
			n++;
	}
	if (maps)
		fclose(maps);
	return n;
}

static bool is_used_by_others(int shmid)
{
	struct shmid_ds segment;

	return shmctl(shmid, IPC_STAT, &segment) || segment.shm_nattch > own_attachments(shmid);
}

bool leftovers_ring_in_use(int instance_id, int databuf_id)
{
	hashpipe_databuf_t *ring = hashpipe_databuf_attach(instance_id, databuf_id);
	bool in_use;

	if (!ring)
		return false;
	in_use = ring->shmid >= 0 && is_used_by_others(ring->shmid);
	hashpipe_databuf_detach(ring);
	return in_use;
}

bool leftovers_remove_ring(int instance_id, int databuf_id, size_t header_bytes, size_t block_bytes,
			   int blocks)
{
	hashpipe_databuf_t *ring = hashpipe_databuf_attach(instance_id, databuf_id);
	bool removed = false;
	int shmid, semid;

	if (!ring)
		return false;
	shmid = ring->shmid;
	semid = ring->semid;
	if (shmid >= 0 &&
	    (ring->header_size != header_bytes || ring->block_size != block_bytes ||
	     ring->n_block != blocks) &&
	    !is_used_by_others(shmid) && !shmctl(shmid, IPC_RMID, NULL)) {
		semctl(semid, 0, IPC_RMID);
		removed = true;
	}
	hashpipe_databuf_detach(ring);
	return removed;
}

static bool wait_for(sem_t *lock, int timeout_ms)
{
	struct timespec until;
	int result;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += timeout_ms % 1000 * 1000000l;
	until.tv_sec += timeout_ms / 1000 + until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	do
		result = sem_timedwait(lock, &until);
	while (result && errno == EINTR);
	return !result;
}

bool leftovers_lock_status(hashpipe_status_t *status, int timeout_ms)
{
	return wait_for(status->lock, timeout_ms);
}

/* The launcher itself locks the status buffer as soon as it puts an option there, and would wait
 * for ever for a process that died with the lock.  The plugin is loaded before that. */

/* Of the launcher's command line. */
static int find_instance(void)
{
	char words[4096];
	FILE *file = fopen("/proc/self/cmdline", "re");
	size_t n = file ? fread(words, 1, sizeof(words) - 2, file) : 0;
	int instance = 0;

	words[n] = words[n + 1] = '\0';
	for (const char *at = words; at < words + n; at += strlen(at) + 1) {
		const char *next = at + strlen(at) + 1;

		if (!strcmp(at, "-I") || !strcmp(at, "--instance"))
			instance = (int)strtol(next, NULL, 0);
		else if (!strncmp(at, "-I", 2))
			instance = (int)strtol(at + 2, NULL, 0);
		else if (!strncmp(at, "--instance=", 11))
			instance = (int)strtol(at + 11, NULL, 0);
	}
	if (file)
		fclose(file);
	return instance & (INSTANCES - 1);
}

static const char *key_file(void)
{
	const char *file = getenv("HASHPIPE_KEYFILE");

	if (!file)
		file = getenv("HOME");
	return file ? file : "/tmp";
}

static void lock_name(int instance, char *name, size_t size)
{
	const char *given = getenv("HASHPIPE_STATUS_SEMNAME");

	if (given) {
		snprintf(name, size, "%s", given);
		return;
	}
	snprintf(name, size, "%s_hashpipe_status_%d", key_file(), instance);
	for (char *at = name + 1; *name && *at; at++)
		if (*at == '/')
			*at = '_';
}

static int status_segment(int instance)
{
	const char *given = getenv("HASHPIPE_STATUS_KEY");
	key_t key =
		given ? (key_t)strtol(given, NULL, 0) : ftok(key_file(), STATUS_PROJECT | instance);

	return key == (key_t)-1 ? -1 : shmget(key, 0, 0);
}

int engine_run(void) __attribute__((weak)); /* our own launcher's */

static __attribute__((constructor)) void free_status_lock(void)
{
	int instance = find_instance(), segment;
	char name[PATH_BYTES];
	sem_t *lock;

	if (engine_run)
		return;
	lock_name(instance, name, sizeof(name));
	lock = sem_open(name, 0);
	if (lock == SEM_FAILED)
		return;
	if (wait_for(lock, HELD_MS)) {
		sem_post(lock);
		sem_close(lock);
		return;
	}
	segment = status_segment(instance);
	if (segment >= 0 && is_used_by_others(segment)) {
		fprintf(stderr,
			"hashpipe: instance %d: somebody attached to the status buffer keeps it "
			"locked; end it (`grep -l SYSV /proc/*/maps`), or "
			"`hashpipe_clean_shmem -d -I %d` removes the buffer\n",
			instance, instance);
		exit(1);
	}
	fprintf(stderr,
		"hashpipe: instance %d: a process that is gone had left the status buffer locked\n",
		instance);
	sem_post(lock);
	sem_close(lock);
}
