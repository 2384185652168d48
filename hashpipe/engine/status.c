/* status.c -- the status buffers, one per instance, in memory of the process. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

static struct {
	sem_t lock;
	char *buf;
} statuses[ENGINE_INSTANCES];
static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;

int hashpipe_status_exists(int instance_id)
{
	int exists;

	pthread_mutex_lock(&making);
	exists = statuses[engine_instance(instance_id)].buf != NULL;
	pthread_mutex_unlock(&making);
	return exists;
}

static void empty(char *buf, int instance_id)
{
	memset(buf, ' ', HASHPIPE_STATUS_TOTAL_SIZE);
	memcpy(buf, "END", 3);
	hputi4(buf, "INSTANCE", instance_id);
}

int hashpipe_status_attach(int instance_id, hashpipe_status_t *status)
{
	int instance = engine_instance(instance_id);
	char *buf;

	pthread_mutex_lock(&making);
	buf = statuses[instance].buf;
	if (!buf) {
		buf = malloc(HASHPIPE_STATUS_TOTAL_SIZE);
		if (buf && sem_init(&statuses[instance].lock, 0, 1)) {
			free(buf);
			buf = NULL;
		}
		if (buf)
			empty(buf, instance);
		statuses[instance].buf = buf;
	}
	pthread_mutex_unlock(&making);
	if (!buf)
		return HASHPIPE_ERR_SYS;
	status->instance_id = instance;
	status->shmid = -1;
	status->lock = &statuses[instance].lock;
	status->buf = buf;
	return HASHPIPE_OK;
}

int hashpipe_status_detach(hashpipe_status_t *status)
{
	status->buf = NULL;
	status->lock = NULL;
	return HASHPIPE_OK;
}

void engine_free_statuses(void)
{
	for (int k = 0; k < ENGINE_INSTANCES; k++) {
		if (!statuses[k].buf)
			continue;
		sem_destroy(&statuses[k].lock);
		free(statuses[k].buf);
		statuses[k].buf = NULL;
	}
}

int hashpipe_status_lock(hashpipe_status_t *status)
{
	while (sem_wait(status->lock))
		if (errno != EINTR)
			return HASHPIPE_ERR_SYS;
	return HASHPIPE_OK;
}

int hashpipe_status_lock_busywait(hashpipe_status_t *status)
{
	while (sem_trywait(status->lock))
		if (errno != EAGAIN && errno != EINTR)
			return HASHPIPE_ERR_SYS;
	return HASHPIPE_OK;
}

int hashpipe_status_unlock(hashpipe_status_t *status)
{
	return sem_post(status->lock) ? HASHPIPE_ERR_SYS : HASHPIPE_OK;
}

void hashpipe_status_unlock_cleanup(void *status)
{
	hashpipe_status_unlock(status);
}

void hashpipe_status_chkinit(hashpipe_status_t *status)
{
	int instance;

	hashpipe_status_lock(status);
	if (!hgeti4(status->buf, "INSTANCE", &instance))
		empty(status->buf, status->instance_id);
	hashpipe_status_unlock(status);
}

void hashpipe_status_clear(hashpipe_status_t *status)
{
	hashpipe_status_lock(status);
	empty(status->buf, status->instance_id);
	hashpipe_status_unlock(status);
}
