// SPDX-License-Identifier: GPL-2.0
/*
 * READ and WRITE under failures: bad sectors, truncated files, disks that disappear,
 * requests that time out, and signals. Failed vectors must report the right error, no
 * page may be lost, and no content may appear where it does not belong.
 */
#include "common.h"
#include "backing.h"
#include "nullb.h"

#define FILE_PAGES	64
#define BUFFER		48

FIXTURE(bad) {
	struct nullb disk;
	struct exmap ex;
	int fd;
	int backing;
};

FIXTURE_VARIANT(bad) {
	bool buffered;
	__u64 flags;		/* of struct exmap_setup2 */
};

FIXTURE_VARIANT_ADD(bad, direct) {};
FIXTURE_VARIANT_ADD(bad, direct_deferred) { .flags = EXMAP_SETUP_DEFERRED };
FIXTURE_VARIANT_ADD(bad, buffered) { .buffered = true };

FIXTURE_SETUP(bad)
{
	/* Let the disk transfer the sectors before a bad one */
	static const char * const attributes[] = { "badblocks_partial_io", "1", NULL };
	struct exmap_setup2 setup = { .flags = variant->flags };

	catch_faults();
	if (nullb_create(&self->disk, "bad", 0, attributes) &&
	    nullb_create(&self->disk, "bad", 0, NULL))
		SKIP(return, "no null_blk through configfs: %s", strerror(errno));
	self->fd = open(self->disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, fill_file(self->fd, FILE_PAGES));
	self->backing = open(self->disk.path,
			     O_RDWR | O_CLOEXEC | (variant->buffered ? 0 : O_DIRECT));
	ASSERT_LE(0, self->backing);
	/* No readahead: a bad page could fail together with good ones */
	if (variant->buffered)
		posix_fadvise(self->backing, 0, 0, POSIX_FADV_RANDOM);
	setup.fd = self->backing;
	exmap_create2(_metadata, &self->ex, setup, 2, BUFFER, FILE_PAGES);
	if (nullb_set_bad(&self->disk, 10, true) || nullb_set_bad(&self->disk, 20, true) ||
	    nullb_set_bad(&self->disk, 21, true))
		SKIP(return, "no bad sectors here");
}

FIXTURE_TEARDOWN(bad)
{
	struct exmap *ex = &self->ex;

	EXPECT_LE(0, ex_drain(ex, 0, 0, FILE_PAGES));
	EXPECT_EQ(BUFFER, ex_fill(ex, 1, 0));
	exmap_destroy(ex);
	close(self->backing);
	close(self->fd);
	nullb_destroy(&self->disk);
}

/* Adjacent pages go to the disk together, but an error affects only its own vector */
TEST_F(bad, read_vectors)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[9];
	struct exmap_result r[9];
	int i, failed;

	for (i = 0; i < 8; i++)
		vecs[i] = ex_vec(EXMAP_OP_READ, 7 + i, 1, 0);
	vecs[8] = ex_vec(EXMAP_OP_READ, 18, 6, 0);
	failed = ex_vectors(ex, 0, vecs, r, 9);
	for (i = 0; i < 8; i++) {
		int page = 7 + i;

		if (page == 10) {
			EXPECT_EQ(-EIO, r[i].res);
			EXPECT_EQ(0, (int)r[i].pages);
			EXPECT_FALSE(present(page_at(ex, page)));
			continue;
		}
		EXPECT_EQ(0, r[i].res)
			TH_LOG("page %d", page);
		EXPECT_EQ(1, (int)r[i].pages);
		EXPECT_TRUE(present(page_at(ex, page)) && page_is(page_at(ex, page), page));
	}
	EXPECT_EQ(2, failed);
	EXPECT_EQ(-EIO, r[8].res);
	EXPECT_LE(2, (int)r[8].pages);
	EXPECT_EQ((int)r[8].pages, count_present(ex, 18, 6));
	for (i = 18; i < 24; i++) {
		bool there = present(page_at(ex, i));

		EXPECT_TRUE(i < 20 ? there : i < 22 ? !there : true);
		EXPECT_TRUE(!there || page_is(page_at(ex, i), i));
	}
	/* A slot can be read once its sector has been repaired */
	EXPECT_EQ(0, nullb_set_bad(&self->disk, 10, false));
	EXPECT_EQ(1, ex_one(ex, 1, EXMAP_OP_READ, 10, 1));
	EXPECT_TRUE(page_is(page_at(ex, 10), 10));
}

/* EXMAP_VEC_ZERO must not mistake a read error for the end of the file */
TEST_F(bad, not_taken_for_the_end)
{
	struct exmap *ex = &self->ex;

	EXPECT_EQ(-EIO, ex_vec_one(ex, 0, EXMAP_OP_READ, 10, 1, EXMAP_VEC_ZERO));
	EXPECT_EQ(-EIO, ex_vec_one(ex, 0, EXMAP_OP_READ, 19, 4,
				   EXMAP_VEC_ZERO | EXMAP_VEC_REPLACE));
	EXPECT_FALSE(present(page_at(ex, 10)));
	EXPECT_FALSE(present(page_at(ex, 20)));
}

TEST_F(bad, in_place)
{
	struct exmap *ex = &self->ex;
	int i;

	ASSERT_EQ(8, ex_alloc(ex, 0, 7, 8));
	memset(page_at(ex, 7), 0xee, 8 * PG);
	EXPECT_EQ(-EIO, ex_vec_one(ex, 0, EXMAP_OP_READ, 7, 8, EXMAP_VEC_REPLACE));
	for (i = 7; i < 10; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), i));
	/* The pages stay mapped, with whatever content, and can be freed */
	EXPECT_EQ(8, count_present(ex, 0, FILE_PAGES));
	EXPECT_EQ(8, ex_free(ex, 1, 7, 8));
}

TEST_F(bad, write)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[8];
	struct exmap_result r[8];
	int i, round;

	if (variant->buffered)
		SKIP(return, "buffered writes report errors later");
	ASSERT_EQ(8, ex_alloc(ex, 0, 7, 8));
	for (i = 7; i < 15; i++)
		make_page((__u64 *)page_at(ex, i), NEW(i));
	/* A page that could not be written is dirty again after each attempt */
	for (round = 0; round < 3; round++) {
		for (i = 0; i < 8; i++)
			vecs[i] = ex_vec(EXMAP_OP_WRITE, 7 + i, 1, EXMAP_VEC_DIRTY);
		ASSERT_EQ(1, ex_vectors(ex, 0, vecs, r, 8));
		for (i = 0; i < 8; i++) {
			EXPECT_EQ(i == 3 ? -EIO : 0, r[i].res);
			EXPECT_EQ(i == 3 ? 0 : !round, (int)r[i].pages);
			if (i != 3)
				EXPECT_TRUE(file_has(self->fd, 7 + i, NEW(7 + i)));
		}
		EXPECT_EQ(8, count_present(ex, 7, 8));
	}
	EXPECT_EQ(0, nullb_set_bad(&self->disk, 10, false));
	EXPECT_EQ(1, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 7, 8, EXMAP_VEC_DIRTY));
	EXPECT_TRUE(file_has(self->fd, 10, NEW(10)));
	EXPECT_EQ(0, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 7, 8, EXMAP_VEC_DIRTY));
}

/* A page that was freed while dirty must be clean after the READ that reuses it */
TEST_F(bad, dirty_page_freed)
{
	struct exmap *ex = &self->ex;
	int i;

	if (variant->buffered)
		SKIP(return, "buffered writes report errors later");
	ASSERT_EQ(1, ex_alloc(ex, 0, 10, 1));
	make_page((__u64 *)page_at(ex, 10), NEW(10));
	EXPECT_EQ(-EIO, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 10, 1, EXMAP_VEC_DIRTY));
	EXPECT_EQ(1, ex_free(ex, 0, 10, 1));
	EXPECT_EQ(BUFFER / 2, ex_one(ex, 0, EXMAP_OP_READ, 30, BUFFER / 2));
	EXPECT_EQ(0, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 30, BUFFER / 2, EXMAP_VEC_DIRTY));
	for (i = 30; i < 30 + BUFFER / 2; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), i));
}

/* A page that a failed READ has partly filled is cleared before it is used again */
TEST_F(bad, nothing_leaks_from_failed_reads)
{
	struct exmap *ex = &self->ex;
	int i;

	soil_memory();
	for (i = 0; i < FILE_PAGES; i++)
		ASSERT_EQ(0, nullb_set_bad(&self->disk, i, true));
	for (i = 0; i < FILE_PAGES; i++)
		EXPECT_EQ(-EIO, ex_one(ex, i % 2, EXMAP_OP_READ, i, 1));
	EXPECT_EQ(-EIO, ex_one(ex, 0, EXMAP_OP_READ, 0, BUFFER));
	EXPECT_EQ(-EIO, ex_vec_one(ex, 1, EXMAP_OP_READ, 0, BUFFER, EXMAP_VEC_REPLACE));
	EXPECT_EQ(0, count_present(ex, 0, FILE_PAGES));
	ASSERT_EQ(BUFFER, ex_fill(ex, 0, 0));
	for (i = 0; i < BUFFER; i++)
		EXPECT_TRUE(all_zero(page_at(ex, i), PG))
			TH_LOG("page %d: %llx", i, *(__u64 *)page_at(ex, i));
}

TEST_F_TIMEOUT(bad, disk_disappears, SLOW)
{
	struct exmap *ex = &self->ex;
	int i, ret;

	ASSERT_EQ(8, ex_one(ex, 0, EXMAP_OP_READ, 30, 8));
	ASSERT_EQ(0, nullb_set(&self->disk, "power", "0"));
	for (i = 0; i < 30; i++) {
		ret = ex_one(ex, i % 2, EXMAP_OP_READ, i, 5);
		EXPECT_TRUE(ret < 0 || variant->buffered);
		ret = ex_vec_one(ex, i % 2, EXMAP_OP_WRITE, 30 + i % 8, 1, EXMAP_VEC_DSYNC);
		EXPECT_GT(0, ret);
	}
	for (i = 30; i < 38; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), i));
}

/* The disk does not answer requests, and the kernel lets them time out */
TEST_F_TIMEOUT(bad, requests_time_out, SLOW)
{
	const int err = variant->buffered ? -EIO : -ETIMEDOUT;
	struct exmap *ex = &self->ex;

	ASSERT_EQ(4, ex_one(ex, 0, EXMAP_OP_READ, 30, 4));
	renew(ex, 31);
	if (nullb_time_out(&self->disk, "100", "200"))
		SKIP(return, "no CONFIG_BLK_DEV_NULL_BLK_FAULT_INJECTION");
	EXPECT_EQ(err, ex_one(ex, 0, EXMAP_OP_READ, 1, 1));
	EXPECT_EQ(err, ex_one(ex, 1, EXMAP_OP_READ, 2, 2));
	EXPECT_EQ(0, count_present(ex, 0, 10));
	EXPECT_GT(0, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 31, 1, EXMAP_VEC_DSYNC));
	/* The page is still dirty, and is written when the disk answers again */
	ASSERT_EQ(0, nullb_time_out(&self->disk, "0", "30000"));
	if (!variant->buffered) {
		EXPECT_TRUE(file_has(self->fd, 31, 31));
		EXPECT_EQ(1, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 31, 1, EXMAP_VEC_DIRTY));
		EXPECT_TRUE(file_has(self->fd, 31, NEW(31)));
	}
	EXPECT_EQ(3, ex_one(ex, 0, EXMAP_OP_READ, 1, 3));
	EXPECT_TRUE(page_is(page_at(ex, 1), 1));
	EXPECT_TRUE(page_is(page_at(ex, 3), 3));
}

/* READs at the end of a file must not expose stale memory */

TEST(nothing_leaks_from_short_reads)
{
	static const int lengths[] = { 0, 1, 100, 512, 2048, 4095 };
	struct exmap ex;
	int i, j, direct, fd, backing;

	catch_faults();
	for (direct = 0; direct < 2; direct++) {
		fd = open_file();
		ASSERT_LE(0, fd);
		ASSERT_EQ(0, fill_file(fd, 64));
		backing = reopen(fd, O_RDWR | (direct ? O_DIRECT : 0));
		if (backing < 0)
			continue;
		soil_memory();
		exmap_create(_metadata, &ex, backing, 2, 40, 64);
		for (i = 0; i < (int)ARRAY_SIZE(lengths); i++) {
			ASSERT_EQ(0, ftruncate(fd, 20 * PG + lengths[i]));
			EXPECT_EQ(-ENODATA, ex_one(&ex, i % 2, EXMAP_OP_READ, 20, 30));
			EXPECT_EQ(-ENODATA, ex_vec_one(&ex, 0, EXMAP_OP_READ, 20, 1,
						       EXMAP_VEC_REPLACE));
		}
		EXPECT_EQ(0, count_present(&ex, 0, 64));
		ASSERT_EQ(40, ex_fill(&ex, 0, 0));
		for (j = 0; j < 40; j++)
			EXPECT_TRUE(all_zero(page_at(&ex, j), PG));
		exmap_destroy(&ex);
		close(backing);
		close(fd);
	}
}

/* Threads that read and write pages and check their content while failures happen */

struct load {
	int stop;
	bool may_fail;		/* calls may fail, and pages may hold zeroes */
	int calls;
	int signals;
};

#define LOADERS		4
#define SLOTS		10	/* per thread */

static bool word_fits(const void *addr, long page, bool may_fail)
{
	const __u64 *words = addr;
	int i;

	for (i = 0; i < (int)WORDS; i += 7)
		if (words[i] != word_of(page, i) && !(may_fail && !words[i]))
			return false;
	return true;
}

FIXTURE(trouble) {};

FIXTURE_SETUP(trouble)
{
	catch_faults();
}

FIXTURE_TEARDOWN(trouble)
{
}

static void *load(void *arg)
{
	struct worker *w = arg;
	struct load *load = w->arg;
	struct exmap *ex = w->ex;
	int first = w->index * SLOTS, i, ret;

	while (!__atomic_load_n(&load->stop, __ATOMIC_SEQ_CST)) {
		struct exmap_vec vecs[] = {
			ex_vec(EXMAP_OP_READ, first, 2, 0),
			ex_vec(EXMAP_OP_READ, first + 4, 3, 0),
			ex_vec(EXMAP_OP_READ, first + 7, 3, EXMAP_VEC_REPLACE),
		};
		struct exmap_result r[3];

		ret = ex_vectors(ex, w->index, vecs, r, 3);
		if (BROKE(w, load->may_fail ? ret < 0 : ret, ret))
			break;
		for (i = 0; i < 3; i++)
			BROKE(w, !r[i].res && r[i].pages != vecs[i].len, r[i].pages);
		if (random_below(&w->random, 2)) {
			ret = ex_one(ex, w->index, EXMAP_OP_READ, first + 2, 2);
			if (BROKE(w, ret != 2 && !(load->may_fail && ret < 0), ret))
				break;
		}
		for (i = first; i < first + SLOTS; i++)
			if (present(page_at(ex, i)) &&
			    BROKE(w, !word_fits(page_at(ex, i), i, load->may_fail), i))
				return NULL;
		/* Write pages back, but do not make a truncated file grow */
		if (!load->may_fail) {
			ret = ex_vec_one(ex, w->index, EXMAP_OP_WRITE, first + 4, 3, 0);
			if (BROKE(w, ret != 3, ret))
				break;
		}
		ret = ex_free(ex, w->index, first, SLOTS);
		if (BROKE(w, ret < 0, ret))
			break;
		__atomic_add_fetch(&load->calls, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void wait_for_calls(struct load *load, int more)
{
	int until = __atomic_load_n(&load->calls, __ATOMIC_SEQ_CST) + more, i;

	/* Give up after 30 seconds: all threads may have stopped */
	for (i = 0; i < 30000; i++) {
		if (__atomic_load_n(&load->calls, __ATOMIC_SEQ_CST) >= until)
			return;
		usleep(1000);
	}
}

static void check_pool(struct __test_metadata *_metadata, struct exmap *ex)
{
	EXPECT_LE(0, ex_drain(ex, 0, 0, ex->pages));
	EXPECT_EQ(ex->buffer, ex_fill(ex, 1, 0));
}

TEST_F_TIMEOUT(trouble, truncated_under_load, SLOW)
{
	struct load l = { .may_fail = true };
	struct worker w[LOADERS];
	int direct, fd, backing, i;
	struct exmap ex;

	for (direct = 0; direct < 3; direct++) {
		fd = direct < 2 ? open_file() : memfd_create("backing", MFD_CLOEXEC);
		ASSERT_LE(0, fd);
		ASSERT_EQ(0, fill_file(fd, 64));
		backing = reopen(fd, O_RDWR | (direct == 1 ? O_DIRECT : 0));
		if (backing < 0)
			continue;
		exmap_create(_metadata, &ex, backing, LOADERS, 44, 64);
		l.stop = 0;
		start_workers(_metadata, w, LOADERS, load, &ex, &l);
		for (i = 0; i < scaled(24); i++) {
			EXPECT_EQ(0, ftruncate(fd, (i * 7 % 50) * PG + i * 100));
			wait_for_calls(&l, 2);
			EXPECT_EQ(0, fill_file(fd, 64));
			wait_for_calls(&l, 2);
		}
		__atomic_store_n(&l.stop, 1, __ATOMIC_SEQ_CST);
		join_workers(_metadata, w, LOADERS);
		check_pool(_metadata, &ex);
		exmap_destroy(&ex);
		close(backing);
		close(fd);
	}
}

TEST_F_TIMEOUT(trouble, disk_disappears_under_load, SLOW)
{
	struct load l = { .may_fail = true };
	struct worker w[LOADERS];
	struct nullb disk;
	struct exmap ex;
	int fd, round;

	for (round = 0; round < 2; round++) {
		if (nullb_create(&disk, "gone", round ? 0 : 5000000, NULL))
			SKIP(return, "no null_blk through configfs: %s", strerror(errno));
		fd = open(disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
		ASSERT_LE(0, fd);
		ASSERT_EQ(0, fill_file(fd, 64));
		exmap_create(_metadata, &ex, fd, LOADERS, 44, 64);
		l.stop = 0;
		start_workers(_metadata, w, LOADERS, load, &ex, &l);
		wait_for_calls(&l, 5);
		EXPECT_EQ(0, nullb_set(&disk, "power", "0"));
		wait_for_calls(&l, 5);
		__atomic_store_n(&l.stop, 1, __ATOMIC_SEQ_CST);
		join_workers(_metadata, w, LOADERS);
		EXPECT_GT(0, ex_vec_one(&ex, 0, EXMAP_OP_READ, 0, 1, EXMAP_VEC_REPLACE));
		check_pool(_metadata, &ex);
		exmap_destroy(&ex);
		close(fd);
		nullb_destroy(&disk);
	}
}

TEST_F_TIMEOUT(trouble, time_outs_under_load, SLOW)
{
	struct load l = { .may_fail = true };
	struct worker w[LOADERS];
	struct nullb disk;
	struct exmap ex;
	int fd, i;

	if (nullb_create(&disk, "mute", 0, NULL))
		SKIP(return, "no null_blk through configfs: %s", strerror(errno));
	fd = open(disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fill_file(fd, 64));
	if (nullb_time_out(&disk, "20", "50")) {
		close(fd);
		nullb_destroy(&disk);
		SKIP(return, "no CONFIG_BLK_DEV_NULL_BLK_FAULT_INJECTION");
	}
	exmap_create(_metadata, &ex, fd, LOADERS, 44, 64);
	start_workers(_metadata, w, LOADERS, load, &ex, &l);
	wait_for_calls(&l, scaled(100));
	EXPECT_EQ(0, nullb_time_out(&disk, "0", "30000"));
	__atomic_store_n(&l.stop, 1, __ATOMIC_SEQ_CST);
	join_workers(_metadata, w, LOADERS);
	for (i = 0; i < 64; i += 32) {
		EXPECT_EQ(32, ex_one(&ex, 0, EXMAP_OP_READ, i, 32));
		EXPECT_TRUE(page_is(page_at(&ex, i + 31), i + 31));
		EXPECT_EQ(32, ex_free(&ex, 0, i, 32));
	}
	check_pool(_metadata, &ex);
	exmap_destroy(&ex);
	close(fd);
	nullb_destroy(&disk);
}

static int signals;

static void count_signal(int sig)
{
	__atomic_add_fetch(&signals, 1, __ATOMIC_SEQ_CST);
}

/* A signal does not interrupt transfers: no call fails with EINTR or returns early */
TEST_F_TIMEOUT(trouble, signals_under_load, SLOW)
{
	struct sigaction action = { .sa_handler = count_signal };
	struct worker w[LOADERS];
	struct load l = {};
	struct nullb disk;
	struct exmap ex;
	int fd, i, round;

	sigaction(SIGUSR1, &action, NULL);
	for (round = 0; round < 2; round++) {
		if (!round) {
			if (nullb_create(&disk, "signals", 2000000, NULL))
				continue;
			fd = open(disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
		} else {
			fd = open_file();
		}
		ASSERT_LE(0, fd);
		ASSERT_EQ(0, fill_file(fd, 64));
		exmap_create(_metadata, &ex, fd, LOADERS, 44, 64);
		l.stop = 0;
		start_workers(_metadata, w, LOADERS, load, &ex, &l);
		wait_for_calls(&l, 1);
		for (i = 0; i < scaled(300); i++) {
			pthread_kill(w[i % LOADERS].thread, SIGUSR1);
			if (round)
				posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
			usleep(500);
		}
		__atomic_store_n(&l.stop, 1, __ATOMIC_SEQ_CST);
		join_workers(_metadata, w, LOADERS);
		check_pool(_metadata, &ex);
		exmap_destroy(&ex);
		close(fd);
		if (!round)
			nullb_destroy(&disk);
	}
	EXPECT_LT(0, signals);
}

TEST_F_TIMEOUT(trouble, killed_under_load, SLOW)
{
	struct worker w[LOADERS];
	struct load l = {};
	struct nullb disk;
	struct exmap ex;
	int fd, i;
	pid_t pid;

	if (nullb_create(&disk, "killed", 3000000, NULL))
		SKIP(return, "no null_blk through configfs: %s", strerror(errno));
	fd = open(disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fill_file(fd, 64));
	for (i = 0; i < scaled(40); i++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			exmap_create(_metadata, &ex, fd, LOADERS, 44, 64);
			start_workers(_metadata, w, LOADERS, load, &ex, &l);
			pause();
		}
		while (!nullb_inflight(&disk))
			usleep(1000);
		usleep(i * 997 % 10000);
		kill(pid, SIGKILL);
		EXPECT_EQ(128 + SIGKILL, wait_child(pid));
	}
	/* The content of the disk is unchanged */
	for (i = 0; i < 64; i++)
		EXPECT_TRUE(file_has(fd, i, i));
	close(fd);
	nullb_destroy(&disk);
}

TEST_HARNESS_MAIN
