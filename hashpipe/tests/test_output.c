/* The files of a run: names, rotation, whole frames whatever the disk does. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "account.h"
#include "check.h"
#include "journal.h"
#include "output_files.h"

enum { MODULE = 254, MOST = 1024 };

static struct module_table modules;
static struct account account;
static struct journal journal;
static struct output_files files;
static struct frame_info infos[MOST];
static uint8_t store[MOST * FRAME_MAX_BYTES];
static uint32_t next_number; /* written into every frame */
static char fault[256];

static void open_with(const int *ids, uint64_t max_bytes)
{
	check_modules(&modules, ids);
	account_init(&account, modules.count);
	journal_init(&journal);
	next_number = 0;
	CHECK_EQUAL(output_files_open(&files, &modules, "run", max_bytes, MOST, &account, &journal,
				      fault, sizeof(fault)),
		    0);
}

static void begin(uint64_t max_bytes)
{
	open_with((const int[]){ MODULE, -1 }, max_bytes);
}

static void end(void)
{
	output_files_close(&files);
	account_free(&account);
	journal.n_lines = 0; /* what it complained of is checked, not shown */
}

/* `n` frames in one call; the product alternates where several are given. */
static void write_frames(unsigned n, unsigned module, const enum product *products,
			 unsigned n_products)
{
	uint32_t offset = 0;

	for (unsigned k = 0; k < n; k++) {
		enum product product = products[k % n_products];
		unsigned bytes = product_facts[product].frame_bytes;

		infos[k] = (struct frame_info){ .offset = offset,
						.module = (uint16_t)module,
						.product = (uint8_t)product,
						.boards = product == PRODUCT_PH256 ? 2 : 0xf };
		for (unsigned q = 0; q < 4; q++)
			infos[k].stream[q] = STREAM_IMAGE16;
		memset(store + offset, 'x', bytes);
		memcpy(store + offset, &next_number, sizeof(next_number));
		next_number++;
		offset += bytes;
	}
	output_files_write(&files, infos, n, store);
}

static void write_img16(unsigned n)
{
	write_frames(n, 0, (const enum product[]){ PRODUCT_IMG16 }, 1);
}

static uint64_t recorded(void)
{
	uint64_t sum = 0;

	for (unsigned k = 0; k < account.streams; k++)
		sum += counted(&account.output[k].recorded);
	return sum;
}

static uint64_t unwritten(void)
{
	uint64_t sum = 0;

	for (unsigned k = 0; k < account.streams; k++)
		sum += counted(&account.output[k].unwritten);
	return sum;
}

struct found {
	unsigned n;
	long long bytes[64]; /* by seqno, -1: no such file */
	char name[64][256];
};

static struct found look(unsigned module, const char *product)
{
	struct found found;
	char folder[64], key[32];
	struct dirent *entry;
	DIR *dir;

	memset(&found, 0, sizeof(found));
	for (unsigned k = 0; k < 64; k++)
		found.bytes[k] = -1;
	snprintf(folder, sizeof(folder), "module_%u/run", module);
	snprintf(key, sizeof(key), ".dp_%s.", product);
	dir = opendir(folder);
	while (dir && (entry = readdir(dir))) {
		const char *seqno = strstr(entry->d_name, "seqno_");
		unsigned number = seqno ? (unsigned)atoi(seqno + 6) : 64;
		char path[512];
		struct stat status;

		if (!strstr(entry->d_name, key) || number >= 64)
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		stat(path, &status);
		found.n++;
		found.bytes[number] = status.st_size;
		snprintf(found.name[number], sizeof(found.name[number]), "%s", entry->d_name);
	}
	if (dir)
		closedir(dir);
	return found;
}

static void wipe(void)
{
	int code = system("rm -rf module_*");

	CHECK_EQUAL(code, 0);
}

/* Numbers of the frames in a file must go on from `from`; how many there are. */
static unsigned read_frames(const char *name, uint32_t from)
{
	char path[256], frame[IMG16_FRAME_BYTES];
	unsigned n = 0;
	FILE *file;

	snprintf(path, sizeof(path), "module_%u/run/%s", MODULE, name);
	file = fopen(path, "r");
	while (file && fread(frame, 1, sizeof(frame), file) == sizeof(frame)) {
		uint32_t number;

		memcpy(&number, frame, sizeof(number));
		CHECK_EQUAL(number, from + n);
		n++;
	}
	if (file)
		fclose(file);
	return n;
}

static void test_names(void)
{
	static const char *const tails[] = { "dp_img16.bpp_2.module_7.seqno_0.pff",
					     "dp_img8.bpp_1.module_7.seqno_0.pff",
					     "dp_ph256.bpp_2.module_7.seqno_0.pff",
					     "dp_ph1024.bpp_2.module_7.seqno_0.pff" };

	open_with((const int[]){ 7, 254, -1 }, 0);
	for (unsigned k = 0; k < PRODUCT_COUNT; k++) {
		struct found found = look(7, product_facts[k].name);
		unsigned year, month, day, hour, minute, second;

		CHECK_EQUAL(found.n, 1);
		CHECK_EQUAL(found.bytes[0], 0);
		CHECK_EQUAL(sscanf(found.name[0], "start_%4u-%2u-%2uT%2u:%2u:%2uZ.", &year, &month,
				   &day, &hour, &minute, &second),
			    6);
		CHECK_EQUAL(strlen(found.name[0]), 28 + strlen(tails[k]) - 1);
		CHECK_TEXT(found.name[0] + 27, tails[k]);
		CHECK_EQUAL(look(254, product_facts[k].name).n, 1);
	}
	end();
	wipe();
}

/* 1 MB: 394 img16 frames make 1000760 bytes, the first frame boundary above the limit. */
static void test_rotation(void)
{
	struct found found;

	begin(1000000);
	for (unsigned k = 0; k < 10; k++)
		write_img16(100 + k);
	found = look(MODULE, "img16");
	CHECK_EQUAL(found.n, 3);
	CHECK_EQUAL(found.bytes[0], 1000760);
	CHECK_EQUAL(found.bytes[1], 1000760);
	CHECK_EQUAL(found.bytes[2], (1045 - 2 * 394) * 2540);
	CHECK_EQUAL(counted(&account.product[PRODUCT_IMG16].frames), 1045);
	CHECK_EQUAL(counted(&account.product[PRODUCT_IMG16].bytes), 1045 * 2540);
	CHECK_EQUAL(counted(&account.product[PRODUCT_IMG16].files), 3);
	CHECK_EQUAL(counted(&account.product[PRODUCT_IMG16].seqno), 2);
	CHECK_EQUAL(recorded(), 4 * 1045);
	end();
	CHECK_EQUAL(read_frames(found.name[0], 0), 394);
	CHECK_EQUAL(read_frames(found.name[1], 394), 394);
	CHECK_EQUAL(read_frames(found.name[2], 788), 257);
	wipe();
	/* A file that ends exactly at the limit is not above it: one more frame. */
	begin(10 * IMG16_FRAME_BYTES);
	write_img16(23);
	found = look(MODULE, "img16");
	CHECK_EQUAL(found.bytes[0], 11 * 2540);
	CHECK_EQUAL(found.bytes[1], 11 * 2540);
	CHECK_EQUAL(found.bytes[2], 2540);
	end();
	wipe();
}

/* img8 and img16 share one counter, ph256 and ph1024 another. */
static void test_counters_are_shared(void)
{
	begin(3 * IMG16_FRAME_BYTES);
	write_frames(4, 0, (const enum product[]){ PRODUCT_IMG16 }, 1); /* full at the 4th */
	write_frames(6, 0, (const enum product[]){ PRODUCT_IMG8 }, 1);	/* seqno 0, full */
	write_frames(1, 0, (const enum product[]){ PRODUCT_IMG8 }, 1);	/* takes 1 */
	write_frames(1, 0, (const enum product[]){ PRODUCT_IMG16 }, 1); /* takes 2 */
	write_frames(13, 0, (const enum product[]){ PRODUCT_PH256 }, 1);
	write_frames(1, 0, (const enum product[]){ PRODUCT_PH256 }, 1);
	CHECK_EQUAL(look(MODULE, "img16").bytes[2], 2540);
	CHECK_EQUAL(look(MODULE, "img16").bytes[1], -1);
	CHECK_EQUAL(look(MODULE, "img8").bytes[1], 1516);
	CHECK_EQUAL(look(MODULE, "ph256").bytes[0], 12 * 636);
	CHECK_EQUAL(look(MODULE, "ph256").bytes[1], 2 * 636);
	CHECK_EQUAL(look(MODULE, "ph1024").bytes[0], 0);
	end();
	wipe();
}

/* A pipeline started again within a run goes on with the numbers, and touches no older file. */
static void test_second_pipeline(void)
{
	struct found before, after;

	begin(3 * IMG16_FRAME_BYTES);
	write_frames(9, 0, (const enum product[]){ PRODUCT_IMG16 }, 1);
	write_frames(1, 0, (const enum product[]){ PRODUCT_PH256 }, 1);
	end();
	CHECK_EQUAL(system("cd module_254/run && : >start_x.dp_img16.bpp_2.module_7.seqno_40.pff"
			   " && : >start_x.dp_img16.bpp_2.module_254.seqno_50.pff.part"
			   " && : >start_x.dp_other.bpp_2.module_254.seqno_60.pff"),
		    0);
	before = look(MODULE, "img16");
	CHECK_EQUAL(before.bytes[2], 2540);
	begin(3 * IMG16_FRAME_BYTES);
	CHECK_EQUAL(counted(&account.product[PRODUCT_IMG8].seqno), 3);
	CHECK_EQUAL(look(MODULE, "img8").bytes[3], 0);
	CHECK_EQUAL(look(MODULE, "ph1024").bytes[1], 0);
	write_frames(5, 0, (const enum product[]){ PRODUCT_IMG16 }, 1);
	write_frames(2, 0, (const enum product[]){ PRODUCT_PH256 }, 1);
	after = look(MODULE, "img16");
	for (unsigned seqno = 0; seqno < 3; seqno++) {
		CHECK_EQUAL(after.bytes[seqno], before.bytes[seqno]);
		CHECK_TEXT(after.name[seqno], before.name[seqno]);
	}
	CHECK_EQUAL(after.bytes[3], 4 * 2540);
	CHECK_EQUAL(after.bytes[4], 2540);
	CHECK_EQUAL(counted(&account.product[PRODUCT_IMG16].seqno), 4);
	CHECK_EQUAL(look(MODULE, "ph256").bytes[0], 636);
	CHECK_EQUAL(look(MODULE, "ph256").bytes[1], 2 * 636);
	end();
	wipe();
}

/* Frames of many files in one block keep their order in each. */
static void test_mixed_block(void)
{
	static const enum product products[] = { PRODUCT_IMG16, PRODUCT_IMG8, PRODUCT_PH256,
						 PRODUCT_PH1024 };

	begin(0);
	for (unsigned k = 0; k < 4; k++)
		write_frames(1024, 0, products, 4);
	CHECK_EQUAL(look(MODULE, "img16").bytes[0], 1024 * 2540);
	CHECK_EQUAL(look(MODULE, "img8").bytes[0], 1024 * 1516);
	CHECK_EQUAL(look(MODULE, "ph256").bytes[0], 1024 * 636);
	CHECK_EQUAL(look(MODULE, "ph1024").bytes[0], 1024 * 2540);
	CHECK_EQUAL(recorded(), 1024 * 13);
	end();
	wipe();
}

/* A write that stops in the middle of a frame: cut off, and a new file when it works again. */
static void test_limited_file_size(void)
{
	struct rlimit limit, before;
	struct found found;

	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &before);
	begin(0);
	write_img16(10);
	limit = before;
	limit.rlim_cur = 15 * 2540 + 1000;
	setrlimit(RLIMIT_FSIZE, &limit);
	write_img16(10); /* 5 of them fit */
	CHECK_EQUAL(look(MODULE, "img16").bytes[0], 15 * 2540);
	CHECK_EQUAL(recorded(), 4 * 15);
	CHECK_EQUAL(unwritten(), 4 * 5);
	CHECK_EQUAL(counted(&account.product[PRODUCT_IMG16].write_errors), 1);
	CHECK_EQUAL(counted(&account.product[PRODUCT_IMG16].frames_unwritten), 5);
	CHECK_EQUAL(journal.n_lines, 1);
	write_img16(10); /* not tried again yet */
	CHECK_EQUAL(unwritten(), 4 * 15);
	CHECK_EQUAL(look(MODULE, "img16").n, 1);
	write_frames(3, 0, (const enum product[]){ PRODUCT_PH256 }, 1); /* others go on */
	CHECK_EQUAL(look(MODULE, "ph256").bytes[0], 3 * 636);
	limit.rlim_cur = 100;
	setrlimit(RLIMIT_FSIZE, &limit);
	files.file[PRODUCT_IMG16].retry_ns = 0;
	write_img16(1); /* tried, and fails; the file it made for that is gone again */
	CHECK_EQUAL(look(MODULE, "img16").n, 1);
	CHECK_EQUAL(journal.n_lines, 1); /* told once */
	setrlimit(RLIMIT_FSIZE, &before);
	files.file[PRODUCT_IMG16].retry_ns = 0;
	write_img16(7);
	found = look(MODULE, "img16");
	CHECK_EQUAL(found.n, 2);
	CHECK_EQUAL(found.bytes[0], 15 * 2540);
	CHECK_EQUAL(found.bytes[1], 7 * 2540);
	CHECK_EQUAL(recorded() + unwritten(), 4 * 38 + 3);
	CHECK_EQUAL(journal.n_lines, 2); /* and that it works again */
	end();
	wipe();
}

static uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Retry comes by itself, about a second later. */
static void test_retry_by_itself(void)
{
	struct timespec nap = { 0, 20000000 };
	uint64_t begun_ns, took_ns;
	unsigned tries = 0;

	begin(0);
	CHECK_EQUAL(system("rm -rf module_254/run && touch module_254/run"), 0);
	begun_ns = clock_ns();
	write_img16(2);
	CHECK_EQUAL(unwritten(), 8);
	CHECK_EQUAL(system("rm module_254/run"), 0);
	while (!recorded() && tries++ < 1000) {
		nanosleep(&nap, NULL);
		write_img16(1);
	}
	took_ns = clock_ns() - begun_ns;
	CHECK(took_ns >= OUTPUT_RETRY_NS && tries < 1000);
	CHECK_EQUAL(look(MODULE, "img16").bytes[1], 2540);
	end();
	wipe();
}

/* The run directory is removed under our hands: noticed, and made again. */
static void test_directory_vanishes(void)
{
	begin(0);
	write_img16(5);
	CHECK_EQUAL(system("rm -rf module_254"), 0);
	write_img16(5); /* would go to a file that nobody sees */
	CHECK_EQUAL(unwritten(), 4 * 5);
	files.file[PRODUCT_IMG16].retry_ns = 0;
	write_img16(6);
	CHECK_EQUAL(look(MODULE, "img16").bytes[1], 6 * 2540);
	CHECK_EQUAL(recorded() + unwritten(), 4 * 16);
	end();
	wipe();
}

static void refused_with(int wanted, const char *named)
{
	check_modules(&modules, (const int[]){ MODULE, -1 });
	account_init(&account, modules.count);
	CHECK_EQUAL(output_files_open(&files, &modules, "run", 0, MOST, &account, &journal, fault,
				      sizeof(fault)),
		    wanted);
	CHECK(strstr(fault, named) != NULL);
	account_free(&account);
}

static void test_refusals(void)
{
	CHECK_EQUAL(symlink("nowhere", "module_254"), 0);
	refused_with(-ENOENT, "module_254");
	CHECK_EQUAL(unlink("module_254"), 0);
	CHECK_EQUAL(system("touch module_254"), 0);
	refused_with(-ENOTDIR, "module_254");
	wipe();
	/* A link to a folder on another disk is right. */
	CHECK_EQUAL(system("mkdir other && ln -s other module_254"), 0);
	begin(0);
	write_img16(1);
	end();
	CHECK_EQUAL(look(MODULE, "img16").bytes[0], 2540);
	CHECK_EQUAL(system("rm -rf other"), 0);
	wipe();
}

/* A full disk for one module of two, and space again; runs in a mount namespace of its own. */
static int full_disk(void)
{
	static const enum product products[] = { PRODUCT_IMG16, PRODUCT_IMG8 };
	struct found found;
	uint64_t frames;
	unsigned sum = 0;

	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mkdir("module_254", 0755) || mount("tmpfs", "module_254", "tmpfs", 0, "size=400k"))
		return CHECK_SKIPPED;
	CHECK_EQUAL(system("head -c 100000 /dev/zero > module_254/ballast"), 0);
	open_with((const int[]){ MODULE, 7, -1 }, 0);
	for (unsigned k = 0; k < 40; k++) {
		write_frames(20, 0, products, 2);
		write_frames(10, 1, products, 1);
	}
	CHECK(counted(&account.product[PRODUCT_IMG16].write_errors) >= 1);
	CHECK(unwritten() > 0);
	CHECK_EQUAL(look(7, "img16").bytes[0], 400 * 2540); /* the other module goes on */
	CHECK_EQUAL(recorded() + unwritten(), 4 * 1200);
	CHECK_EQUAL(system("rm module_254/ballast"), 0);
	files.file[PRODUCT_IMG16].retry_ns = files.file[PRODUCT_IMG8].retry_ns = 0;
	write_frames(8, 0, products, 2);
	CHECK_EQUAL(recorded() + unwritten(), 4 * 1208);
	frames = counted(&account.product[PRODUCT_IMG16].frames) +
		 counted(&account.product[PRODUCT_IMG8].frames);
	end();
	for (unsigned k = 0; k < 2; k++) {
		found = look(MODULE, product_facts[products[k]].name);
		CHECK(found.n >= 2);
		for (unsigned seqno = 0; seqno < 64; seqno++) {
			if (found.bytes[seqno] < 0)
				continue;
			CHECK_EQUAL(found.bytes[seqno] % product_facts[products[k]].frame_bytes, 0);
			sum += (unsigned)(found.bytes[seqno] /
					  product_facts[products[k]].frame_bytes);
		}
	}
	CHECK_EQUAL(sum, frames);
	umount2("module_254", MNT_DETACH);
	return check_result();
}

static void test_full_disk(void)
{
	int status = 0;
	pid_t child = fork();

	if (!child)
		_exit(full_disk());
	CHECK_EQUAL(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == CHECK_SKIPPED)
		fprintf(stderr, "test_output: no right to mount a tmpfs: full disk not tried\n");
	else
		CHECK_EQUAL(status, 0);
	wipe();
}

int main(void)
{
	check_scratch();
	test_names();
	test_rotation();
	test_counters_are_shared();
	test_second_pipeline();
	test_mixed_block();
	test_limited_file_size();
	test_retry_by_itself();
	test_directory_vanishes();
	test_refusals();
	test_full_disk();
	return check_result();
}
