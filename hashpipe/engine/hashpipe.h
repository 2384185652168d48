/* hashpipe.h -- HASHPIPE's plugin interface, as our own small engine offers it.
 *
 * Names, types and return codes are those of HASHPIPE 1.8, so a plugin compiles unchanged against
 * the header of an installed HASHPIPE.  Differences that a plugin does not see: data buffers and
 * status buffer lie in ordinary memory of the process and vanish with it, and threads start at
 * once.  The packet socket functions are not offered.
 */
#ifndef PANOSETI_HASHPIPE_H
#define PANOSETI_HASHPIPE_H

#include <pthread.h>
#include <semaphore.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
	HASHPIPE_OK = 0,
	HASHPIPE_TIMEOUT = 1,
	HASHPIPE_ERR_GEN = -1,
	HASHPIPE_ERR_SYS = -2,
	HASHPIPE_ERR_PARAM = -3,
	HASHPIPE_ERR_KEY = -4,
	HASHPIPE_ERR_PACKET = -5,
};

/* Data buffers: rings of blocks between two threads.  A block is free or filled. */

typedef struct {
	char data_type[64];
	size_t header_size; /* bytes before block 0 */
	size_t block_size;
	int n_block;
	int shmid, semid; /* -1 here: nothing lies outside the process */
} hashpipe_databuf_t;

/* New ring, or the existing one of the same instance and id; NULL (errno set) if that has other
 * sizes.  All blocks become free. */
hashpipe_databuf_t *hashpipe_databuf_create(int instance_id, int databuf_id, size_t header_size,
					    size_t block_size, int n_block);
hashpipe_databuf_t *hashpipe_databuf_attach(int instance_id, int databuf_id);
int hashpipe_databuf_detach(hashpipe_databuf_t *databuf);
void hashpipe_databuf_clear(hashpipe_databuf_t *databuf);
char *hashpipe_databuf_data(hashpipe_databuf_t *databuf, int block_id);

int hashpipe_databuf_block_status(hashpipe_databuf_t *databuf, int block_id); /* 1 filled */
int hashpipe_databuf_total_status(hashpipe_databuf_t *databuf);
uint64_t hashpipe_databuf_total_mask(hashpipe_databuf_t *databuf);

/* 0; HASHPIPE_TIMEOUT after 250 ms or `timeout`; HASHPIPE_ERR_SYS, also for a signal (EINTR). */
int hashpipe_databuf_wait_free(hashpipe_databuf_t *databuf, int block_id);
int hashpipe_databuf_wait_filled(hashpipe_databuf_t *databuf, int block_id);
int hashpipe_databuf_wait_free_timeout(hashpipe_databuf_t *databuf, int block_id,
				       struct timespec *timeout);
int hashpipe_databuf_wait_filled_timeout(hashpipe_databuf_t *databuf, int block_id,
					 struct timespec *timeout);
int hashpipe_databuf_busywait_free(hashpipe_databuf_t *databuf, int block_id);
int hashpipe_databuf_busywait_filled(hashpipe_databuf_t *databuf, int block_id);
int hashpipe_databuf_set_free(hashpipe_databuf_t *databuf, int block_id);
int hashpipe_databuf_set_filled(hashpipe_databuf_t *databuf, int block_id);

/* Status buffer: cards of 80 characters. */

#define HASHPIPE_STATUS_TOTAL_SIZE (2880 * 64)
#define HASHPIPE_STATUS_RECORD_SIZE 80

typedef struct {
	int instance_id;
	int shmid; /* -1 here */
	sem_t *lock;
	char *buf;
} hashpipe_status_t;

int hashpipe_status_exists(int instance_id);
int hashpipe_status_attach(int instance_id, hashpipe_status_t *status);
int hashpipe_status_detach(hashpipe_status_t *status);
int hashpipe_status_lock(hashpipe_status_t *status);
int hashpipe_status_lock_busywait(hashpipe_status_t *status);
int hashpipe_status_unlock(hashpipe_status_t *status);
void hashpipe_status_chkinit(hashpipe_status_t *status);
void hashpipe_status_clear(hashpipe_status_t *status);

/* To be used as a pair, in one function and at the same depth: a thread that is cancelled in
 * between gives the lock back. */
void hashpipe_status_unlock_cleanup(void *status);
#define hashpipe_status_lock_safe(s)                                                               \
	pthread_cleanup_push(hashpipe_status_unlock_cleanup, (s));                                 \
	hashpipe_status_lock(s)
#define hashpipe_status_unlock_safe(s)                                                             \
	hashpipe_status_unlock(s);                                                                 \
	pthread_cleanup_pop(0)

/* Cards.  Keywords are cut to 8 characters.  These two types have 8 bytes, not 8 bits. */
typedef long long int8;
typedef unsigned long long uint8;

/* 0, or -1 when the buffer is full.  Strings are cut to 67 characters. */
int hputs(char *buf, const char *keyword, const char *value);
int hputi2(char *buf, const char *keyword, short value);
int hputi4(char *buf, const char *keyword, int value);
int hputi8(char *buf, const char *keyword, int8 value);
int hputu4(char *buf, const char *keyword, unsigned int value);
int hputu8(char *buf, const char *keyword, uint8 value);
int hputr4(char *buf, const char *keyword, float value);
int hputr8(char *buf, const char *keyword, double value);
int hputnr8(char *buf, const char *keyword, int ndec, double value);
int hputl(char *buf, const char *keyword, int value);

/* 1, or 0 and the destination untouched when there is no such card (or no number on it).  A string
 * of n or more characters is cut to n - 1 and gets no end mark. */
int hgets(const char *buf, const char *keyword, int n, char *value);
int hgeti2(const char *buf, const char *keyword, short *value);
int hgeti4(const char *buf, const char *keyword, int *value);
int hgeti8(const char *buf, const char *keyword, int8 *value);
int hgetu4(const char *buf, const char *keyword, unsigned int *value);
int hgetu8(const char *buf, const char *keyword, uint8 *value);
int hgetr4(const char *buf, const char *keyword, float *value);
int hgetr8(const char *buf, const char *keyword, double *value);
int hgetl(const char *buf, const char *keyword, int *value);

/* 1 deleted, 0 there was none. */
int hdel(char *buf, const char *keyword);

/* Threads. */

#define THREAD_OK ((void *)0)
#define THREAD_ERROR ((void *)-1)

struct hashpipe_thread_args;
typedef struct hashpipe_thread_args hashpipe_thread_args_t;

typedef hashpipe_databuf_t *(*databuf_create_func_t)(int instance_id, int databuf_id);

typedef struct {
	databuf_create_func_t create; /* NULL: the thread has no such buffer */
} databuf_desc_t;

struct hashpipe_thread_desc {
	const char *name;			   /* on the command line */
	const char *skey;			   /* status key, may be NULL */
	int (*init)(hashpipe_thread_args_t *args); /* may be NULL; 0 = go on */
	void *(*run)(hashpipe_thread_args_t *args);
	databuf_desc_t ibuf_desc, obuf_desc;
};
typedef struct hashpipe_thread_desc hashpipe_thread_desc_t;

struct hashpipe_thread_args {
	hashpipe_thread_desc_t *thread_desc;
	int instance_id;
	int input_buffer, output_buffer;
	unsigned int cpu_mask; /* 0: inherited */
	int finished;
	pthread_cond_t finished_c;
	pthread_mutex_t finished_m;
	hashpipe_status_t st;
	hashpipe_databuf_t *ibuf, *obuf;
	void *user_data; /* the plugin's; NULL before init */
};

/* 0, or 1 when the table is full or memory is out. */
int register_hashpipe_thread(hashpipe_thread_desc_t *desc);
hashpipe_thread_desc_t *find_hashpipe_thread(char *name);
void list_hashpipe_threads(FILE *out);
unsigned int get_cpu_affinity(void);

/* Nonzero while the pipeline is to run. */
int run_threads(void);

#ifdef __cplusplus
}
#endif

#endif
