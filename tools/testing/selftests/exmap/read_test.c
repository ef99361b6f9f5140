// SPDX-License-Identifier: GPL-2.0
/*
 * The read proxy: pread() and preadv() on the exmap read pages of the backing file
 * into the slots that the buffer addresses select.
 */
#include "common.h"
#include "backing.h"
#include "cost.h"
#include "nullb.h"
#include "paged.h"
#include "status.h"

#define FILE_PAGES	1024

FIXTURE(file) {
	struct exmap ex;
	int fd;			/* for writing */
	int backing;
	long end;		/* first page that is not in the file */
};

FIXTURE_VARIANT(file) {
	enum backing backing;
};

FIXTURE_VARIANT_ADD(file, memfd) {
	.backing = MEMFD,
};

FIXTURE_VARIANT_ADD(file, buffered) {
	.backing = FILE_BUFFERED,
};

FIXTURE_VARIANT_ADD(file, direct) {
	.backing = FILE_DIRECT,
};

FIXTURE_VARIANT_ADD(file, block_buffered) {
	.backing = BLOCK_BUFFERED,
};

FIXTURE_VARIANT_ADD(file, block_direct) {
	.backing = BLOCK_DIRECT,
};

FIXTURE_SETUP(file)
{
	bool block = variant->backing >= BLOCK_BUFFERED;
	bool direct = variant->backing == FILE_DIRECT || variant->backing == BLOCK_DIRECT;
	__u64 *check, bytes;

	catch_faults();
	if (block) {
		self->fd = open("/dev/nullb0", O_RDWR | O_CLOEXEC | O_DIRECT);
		if (self->fd < 0)
			SKIP(return, "no /dev/nullb0");
		ASSERT_EQ(0, ioctl(self->fd, BLKGETSIZE64, &bytes));
		self->end = bytes / PG;
	} else {
		self->fd = variant->backing == MEMFD ? memfd_create("backing", MFD_CLOEXEC) :
			open_file();
		ASSERT_LE(0, self->fd);
		self->end = FILE_PAGES;
	}
	ASSERT_LE(FILE_PAGES, self->end);
	ASSERT_EQ(0, fill_file(self->fd, FILE_PAGES));
	if (block) {
		ASSERT_EQ(0, posix_memalign((void **)&check, PG, PG));
		ASSERT_EQ((ssize_t)PG, pread(self->fd, check, PG, 5 * PG));
		if (!page_is(check, 5))
			SKIP(return, "/dev/nullb0 does not keep what it is given");
	}
	self->backing = reopen(self->fd, O_RDONLY | (direct ? O_DIRECT : 0));
	if (self->backing < 0 && direct && errno == EINVAL)
		SKIP(return, "no O_DIRECT here");
	ASSERT_LE(0, self->backing);
	exmap_create(_metadata, &self->ex, self->backing, 4, 600, self->end + 64);
}

FIXTURE_TEARDOWN(file)
{
	struct exmap *ex = &self->ex;

	/* No test may lose a page: the whole pool must be available again */
	EXPECT_LE(0, ex_drain(ex, 0, 0, FILE_PAGES));
	EXPECT_LE(0, ex_drain(ex, 0, self->end - 64, 128));
	EXPECT_EQ(600, ex_fill(ex, 1, 0));
	exmap_destroy(ex);
	close(self->fd);
	close(self->backing);
}

static ssize_t read_pages(struct exmap *ex, int iface, long page, int count)
{
	return ex_pread(ex->fd, iface, EXMAP_OP_READ, page_at(ex, page), count * PG);
}

TEST_F(file, one_page)
{
	struct exmap *ex = &self->ex;
	int i;

	for (i = 0; i < FILE_PAGES; i += 73) {
		EXPECT_FALSE(present(page_at(ex, i)));
		ASSERT_EQ((ssize_t)PG, read_pages(ex, i % 4, i, 1));
		EXPECT_TRUE(page_is(page_at(ex, i), i));
		EXPECT_FALSE(present(page_at(ex, i + 1)));
	}
	ASSERT_EQ((ssize_t)PG, read_pages(ex, 0, FILE_PAGES - 1, 1));
	EXPECT_TRUE(page_is(page_at(ex, FILE_PAGES - 1), FILE_PAGES - 1));
	/* The slot holds a copy: changes to it do not reach the file */
	memset(page_at(ex, 0), 1, PG);
	EXPECT_EQ(1, ex_free(ex, 0, 0, 1));
	ASSERT_EQ((ssize_t)PG, read_pages(ex, 0, 0, 1));
	EXPECT_TRUE(page_is(page_at(ex, 0), 0));
}

TEST_F(file, many_pages)
{
	struct exmap *ex = &self->ex;
	int i;

	ASSERT_EQ((ssize_t)(600 * PG), read_pages(ex, 0, 100, 600));
	for (i = 100; i < 700; i++)
		if (!page_is(page_at(ex, i), i))
			break;
	EXPECT_EQ(700, i);
	EXPECT_EQ(600, count_present(ex, 0, FILE_PAGES));
}

TEST_F(file, resident_pages_are_filled_in_place)
{
	struct exmap *ex = &self->ex;
	int i;

	/* Every second slot is resident, with other content */
	for (i = 0; i < 16; i += 2) {
		ASSERT_EQ(1, ex_alloc(ex, 0, i, 1));
		memset(page_at(ex, i), 0xee, PG);
	}
	ASSERT_EQ((ssize_t)PG, read_pages(ex, 0, 4, 1));
	EXPECT_TRUE(page_is(page_at(ex, 4), 4));
	ASSERT_EQ((ssize_t)(16 * PG), read_pages(ex, 0, 0, 16));
	for (i = 0; i < 16; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), i));
	EXPECT_EQ(16, count_present(ex, 0, 32));

	/* Empty the pool: reading in place must not need a page from it */
	EXPECT_EQ(584, ex_alloc(ex, 0, 16, 584));
	memset(page_at(ex, 7), 0xee, PG);
	ASSERT_EQ((ssize_t)(16 * PG), read_pages(ex, 0, 0, 16));
	EXPECT_TRUE(page_is(page_at(ex, 7), 7));
	EXPECT_EQ(-ENOMEM, read_pages(ex, 0, 700, 1));
}

TEST_F(file, scattered_vectors)
{
	struct exmap *ex = &self->ex;
	struct iovec iov[500];
	int i;

	/*
	 * Vectors in descending order: some have two pages, some have a resident slot,
	 * and one has length 0.
	 */
	for (i = 0; i < 500; i++)
		iov[i] = (struct iovec){
			.iov_base = page_at(ex, (499 - i) * 2),
			.iov_len = (1 + (i % 10 == 3)) * PG,
		};
	iov[250].iov_len = 0;
	for (i = 0; i < 50; i++) {
		ASSERT_EQ(1, ex_alloc(ex, 1, i * 20, 1));
		memset(page_at(ex, i * 20), 0xee, PG);
	}
	ASSERT_EQ((ssize_t)(549 * PG), ex_preadv(ex->fd, 2, EXMAP_OP_READ, iov, 500));
	for (i = 0; i < 500; i++) {
		if (i == 250)
			continue;
		EXPECT_TRUE(page_is(iov[i].iov_base, (499 - i) * 2));
		if (i % 10 == 3)
			EXPECT_TRUE(page_is((char *)iov[i].iov_base + PG, (499 - i) * 2 + 1));
	}
}

TEST_F(file, same_page_twice)
{
	struct exmap *ex = &self->ex;
	struct iovec iov[] = {
		{ page_at(ex, 9), PG }, { page_at(ex, 9), PG }, { page_at(ex, 8), 3 * PG },
	};
	int i;

	ASSERT_EQ((ssize_t)(5 * PG), ex_preadv(ex->fd, 0, EXMAP_OP_READ, iov, 3));
	for (i = 8; i < 11; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), i));
	EXPECT_EQ(3, ex_free(ex, 0, 0, 100));
	EXPECT_EQ(600, ex_fill(ex, 1, 0));
}

TEST_F(file, past_the_end)
{
	struct exmap *ex = &self->ex;
	struct iovec iov[2];

	EXPECT_EQ(-ENODATA, read_pages(ex, 0, self->end, 1));
	EXPECT_EQ(-ENODATA, read_pages(ex, 0, self->end, 8));
	EXPECT_EQ(-ENODATA, read_pages(ex, 0, self->end + 63, 1));
	EXPECT_EQ(0, count_present(ex, self->end - 8, 72));

	/* Pages before the end of the file are read */
	EXPECT_EQ((ssize_t)(2 * PG), read_pages(ex, 0, self->end - 2, 5));
	EXPECT_TRUE(present(page_at(ex, self->end - 1)));
	EXPECT_FALSE(present(page_at(ex, self->end)));
	iov[0] = (struct iovec){ page_at(ex, 3), PG };
	iov[1] = (struct iovec){ page_at(ex, self->end + 1), PG };
	EXPECT_EQ((ssize_t)PG, ex_preadv(ex->fd, 0, EXMAP_OP_READ, iov, 2));
	EXPECT_TRUE(page_is(page_at(ex, 3), 3));
	EXPECT_FALSE(present(page_at(ex, self->end + 1)));
	iov[0] = (struct iovec){ page_at(ex, self->end + 1), PG };
	iov[1] = (struct iovec){ page_at(ex, 5), PG };
	EXPECT_EQ(-ENODATA, ex_preadv(ex->fd, 0, EXMAP_OP_READ, iov, 2));

	/* A READ past the end leaves a resident page alone */
	ASSERT_EQ(1, ex_alloc(ex, 0, self->end + 2, 1));
	stamp_page(page_at(ex, self->end + 2), 5);
	EXPECT_EQ(-ENODATA, read_pages(ex, 0, self->end + 2, 1));
	EXPECT_TRUE(stamp_intact(page_at(ex, self->end + 2), 5));
}

TEST_F(file, part_of_a_page_at_the_end)
{
	struct exmap *ex = &self->ex;

	if (variant->backing >= BLOCK_BUFFERED)
		SKIP(return, "a block device has whole pages");
	ASSERT_EQ(0, ftruncate(self->fd, 100 * PG + 512));
	EXPECT_EQ(-ENODATA, read_pages(ex, 0, 100, 1));
	EXPECT_FALSE(present(page_at(ex, 100)));
	EXPECT_EQ((ssize_t)PG, read_pages(ex, 0, 99, 2));
	EXPECT_TRUE(page_is(page_at(ex, 99), 99));
	EXPECT_FALSE(present(page_at(ex, 100)));
	EXPECT_EQ(-ENODATA, read_pages(ex, 0, 101, 1));

	/* The page can be read after the file has grown */
	ASSERT_EQ(0, ftruncate(self->fd, 101 * PG));
	ASSERT_EQ((ssize_t)PG, read_pages(ex, 0, 100, 1));
	EXPECT_EQ(word_of(100, 63), ((__u64 *)page_at(ex, 100))[63]);
	EXPECT_EQ(0, (long)((__u64 *)page_at(ex, 100))[64]);
	EXPECT_EQ(0, (long)((__u64 *)page_at(ex, 100))[511]);
}

TEST_F(file, hole)
{
	struct exmap *ex = &self->ex;
	int i, j;

	if (variant->backing >= BLOCK_BUFFERED)
		SKIP(return, "a block device has no holes");
	ASSERT_EQ(0, ftruncate(self->fd, 10 * PG));
	ASSERT_EQ(0, ftruncate(self->fd, FILE_PAGES * PG));
	/* Leave stale content in every page of the pool */
	EXPECT_EQ(600, ex_fill(ex, 0, 0));
	memset(ex->region, 0xee, 600 * PG);
	EXPECT_EQ(600, ex_drain(ex, 0, 0, 600));
	ASSERT_EQ((ssize_t)(20 * PG), read_pages(ex, 0, 5, 20));
	for (i = 5; i < 25; i++) {
		if (i < 10) {
			EXPECT_TRUE(page_is(page_at(ex, i), i));
			continue;
		}
		for (j = 0; j < (int)WORDS; j++)
			if (((__u64 *)page_at(ex, i))[j])
				break;
		EXPECT_EQ((int)WORDS, j);
	}
}

TEST_F(file, pool_runs_out)
{
	struct exmap *ex = &self->ex;
	int i;

	EXPECT_EQ(596, ex_alloc(ex, 0, 0, 596));
	EXPECT_EQ((ssize_t)(4 * PG), read_pages(ex, 1, 700, 6));
	for (i = 700; i < 704; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), i));
	EXPECT_FALSE(present(page_at(ex, 704)));
	EXPECT_EQ(-ENOMEM, read_pages(ex, 1, 704, 1));
	EXPECT_EQ(-ENOMEM, read_pages(ex, 1, 704, 2));
	EXPECT_EQ(2, ex_free(ex, 3, 594, 2));
	EXPECT_EQ((ssize_t)(2 * PG), read_pages(ex, 2, 704, 2));
	EXPECT_TRUE(page_is(page_at(ex, 705), 705));
	EXPECT_EQ(-ENOMEM, ex_alloc(ex, 2, 800, 1));
}

static void *read_same_page(void *arg)
{
	struct worker *w = arg;
	int *pages = w->arg;
	int i;

	for (i = 0; i < 20; i++) {
		pthread_barrier_wait(&start_line);
		BROKE(w, read_pages(w->ex, w->index % 4, 50 + i, 1) != (ssize_t)PG, i);
		BROKE(w, !page_is(page_at(w->ex, 50 + i), 50 + i), i);
		if (pthread_barrier_wait(&start_line) == PTHREAD_BARRIER_SERIAL_THREAD)
			*pages += count_present(w->ex, 50 + i, 1);
	}
	return NULL;
}

TEST_F_TIMEOUT(file, race_for_one_page, SLOW)
{
	struct worker w[16];
	int pages = 0;

	/* One page stays mapped, those of the other readers return to the pool */
	run_workers(_metadata, w, 16, read_same_page, &self->ex, &pages);
	EXPECT_EQ(20, pages);
	EXPECT_EQ(20, ex_free(&self->ex, 0, 0, 1000));
	EXPECT_EQ(600, ex_fill(&self->ex, 0, 0));
}

/*
 * Some threads fill and free slots while other threads look at them. A thread that
 * finds a page in a slot must find all of its content.
 */
#define SHARED_SLOTS	16

struct churn {
	int done;
};

static void *read_and_free(void *arg)
{
	struct worker *w = arg;
	struct churn *churn = w->arg;
	int i, page;
	ssize_t ret;

	for (i = 0; i < scaled(200); i++) {
		page = random_below(&w->random, SHARED_SLOTS);
		if (i % 2) {
			ret = ex_free(w->ex, w->index, page, 2);
			/* Another thread may be reading into one of the slots */
			if (BROKE(w, ret < 0 && ret != -EBUSY, ret))
				break;
		} else {
			ret = read_pages(w->ex, w->index, page, 2);
			if (BROKE(w, ret != (ssize_t)(2 * PG), ret))
				break;
		}
	}
	__atomic_add_fetch(&churn->done, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

#define READERS	4

static void *look(void *arg)
{
	struct worker *w = arg;
	struct churn *churn = w->arg;
	int page, word;
	__u64 value;

	if (w->index < READERS)
		return read_and_free(arg);
	while (__atomic_load_n(&churn->done, __ATOMIC_SEQ_CST) < READERS) {
		page = random_below(&w->random, SHARED_SLOTS);
		/* Look at the last word half of the time: it tends to be filled last */
		word = random_below(&w->random, 2) ? (int)WORDS - 1 :
			random_below(&w->random, WORDS);
		if (try_read(page_at(w->ex, page) + word * sizeof(value), &value))
			continue;
		if (BROKE(w, value != word_of(page, word), value))
			break;
	}
	return NULL;
}

TEST_F_TIMEOUT(file, never_half_a_page, SLOW)
{
	struct worker w[READERS + 3];
	struct exmap *ex = &self->ex;
	struct churn churn = { 0 };

	/* Leave stale content in the pool, which a page mapped too early would show */
	EXPECT_EQ(600, ex_fill(ex, 0, 0));
	memset(ex->region, 0xee, 600 * PG);
	EXPECT_EQ(600, ex_drain(ex, 0, 0, 600));
	run_workers(_metadata, w, READERS + 3, look, ex, &churn);
}

/* Tests that do not depend on the kind of backing file */

FIXTURE(proxy) {
	struct exmap ex;
	int backing;
};

FIXTURE_SETUP(proxy)
{
	catch_faults();
	self->backing = memfd_create("backing", MFD_CLOEXEC);
	ASSERT_LE(0, self->backing);
	ASSERT_EQ(0, fill_file(self->backing, 64));
	exmap_create(_metadata, &self->ex, self->backing, 100, 32, 128);
}

FIXTURE_TEARDOWN(proxy)
{
	EXPECT_LE(0, ex_drain(&self->ex, 0, 0, 128));
	EXPECT_EQ(32, ex_fill(&self->ex, 0, 0));
	exmap_destroy(&self->ex);
}

TEST_F(proxy, backing_file_closed)
{
	close(self->backing);
	ASSERT_EQ((ssize_t)(4 * PG), read_pages(&self->ex, 0, 7, 4));
	EXPECT_TRUE(page_is(page_at(&self->ex, 10), 10));
}

TEST_F(proxy, file_position)
{
	struct exmap *ex = &self->ex;
	struct iovec iov[2] = { { page_at(ex, 5), PG }, { page_at(ex, 8), 2 * PG } };
	int i;

	/* read() acts like pread() at position 0, which is READ through interface 0 */
	for (i = 0; i < 3; i++) {
		ASSERT_EQ((ssize_t)PG, read(ex->fd, page_at(ex, i), PG));
		EXPECT_TRUE(page_is(page_at(ex, i), i));
	}
	ASSERT_EQ((ssize_t)(3 * PG), readv(ex->fd, iov, 2));
	EXPECT_TRUE(page_is(page_at(ex, 5), 5));
	EXPECT_TRUE(page_is(page_at(ex, 9), 9));
	ASSERT_EQ((ssize_t)PG, read(ex->fd, page_at(ex, 12), PG));
	EXPECT_TRUE(page_is(page_at(ex, 12), 12));
}

TEST_F(proxy, interfaces_past_255)
{
	char *region;
	int fd;

	fd = exmap_open(_metadata);
	ASSERT_EQ(0, ex_setup(fd, self->backing, 700, 8));
	region = ex_map_region(fd, 64);
	ASSERT_NE(MAP_FAILED, region);
	EXPECT_EQ((ssize_t)PG, ex_pread(fd, 255, EXMAP_OP_READ, region, PG));
	EXPECT_EQ((ssize_t)PG, ex_pread(fd, 256, EXMAP_OP_READ, region + PG, PG));
	EXPECT_EQ((ssize_t)PG, ex_pread(fd, 699, EXMAP_OP_READ, region + 2 * PG, PG));
	EXPECT_EQ((ssize_t)PG, ex_pread(fd, 699, EXMAP_OP_ALLOC, region + 3 * PG, PG));
	EXPECT_EQ(-EINVAL, ex_pread(fd, 700, EXMAP_OP_READ, region + 4 * PG, PG));
	EXPECT_EQ(-EINVAL, ex_pread(fd, 65535, EXMAP_OP_READ, region + 4 * PG, PG));
	EXPECT_TRUE(page_is(region, 0));
	EXPECT_TRUE(page_is(region + PG, 1));
	EXPECT_TRUE(page_is(region + 2 * PG, 2));
	/* READ and ALLOC through interface 0x2bb, the last one (699) */
	EXPECT_EQ((ssize_t)PG, pread(fd, region + 5 * PG, PG, 0x200bb));
	EXPECT_EQ((ssize_t)PG, pread(fd, region + 6 * PG, PG, 0x201bb));
	EXPECT_TRUE(page_is(region + 5 * PG, 5));
	/* There is no interface 0x2bc */
	EXPECT_EQ(-1, pread(fd, region + 7 * PG, PG, 0x200bc));
	EXPECT_EQ(EINVAL, errno);
	close(fd);
}

TEST_F(proxy, alloc)
{
	struct exmap *ex = &self->ex;
	struct iovec iov[3] = {
		{ page_at(ex, 20), 2 * PG }, { page_at(ex, 3), PG }, { page_at(ex, 40), 5 * PG },
	};

	/* The result includes resident slots, whose pages keep their content */
	ASSERT_EQ(1, ex_alloc(ex, 0, 3, 1));
	stamp_page(page_at(ex, 3), 3);
	ASSERT_EQ((ssize_t)(8 * PG), ex_preadv(ex->fd, 1, EXMAP_OP_ALLOC, iov, 3));
	EXPECT_TRUE(stamp_intact(page_at(ex, 3), 3));
	EXPECT_EQ(8, count_present(ex, 0, 128));
	ASSERT_EQ((ssize_t)(8 * PG), ex_preadv(ex->fd, 1, EXMAP_OP_ALLOC, iov, 3));
	EXPECT_EQ(8, count_present(ex, 0, 128));

	/* The pool has 24 pages left */
	EXPECT_EQ((ssize_t)(24 * PG),
		  ex_pread(ex->fd, 2, EXMAP_OP_ALLOC, page_at(ex, 60), 30 * PG));
	EXPECT_EQ(24, count_present(ex, 60, 30));
	EXPECT_EQ(-ENOMEM, ex_pread(ex->fd, 2, EXMAP_OP_ALLOC, page_at(ex, 84), PG));
	EXPECT_EQ((ssize_t)(8 * PG), ex_preadv(ex->fd, 1, EXMAP_OP_ALLOC, iov, 3));
	EXPECT_EQ(1, ex_free(ex, 0, 3, 1));
	EXPECT_EQ((ssize_t)PG, ex_pread(ex->fd, 2, EXMAP_OP_ALLOC, page_at(ex, 84), PG));
}

TEST_F(proxy, bad_vector_behind_a_good_one)
{
	struct exmap *ex = &self->ex;
	char *stack = mmap(NULL, PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec iov[2] = { { page_at(ex, 5), PG }, { stack, PG } };
	ssize_t ret;

	/*
	 * The call is either refused as a whole or ends before the bad vector, and its
	 * result must say which.
	 */
	ret = ex_preadv(ex->fd, 0, EXMAP_OP_READ, iov, 2);
	if (ret == (ssize_t)PG) {
		EXPECT_TRUE(page_is(page_at(ex, 5), 5));
	} else {
		EXPECT_EQ(-ERANGE, ret);
		EXPECT_EQ(0, count_present(ex, 0, 128));
	}
	EXPECT_EQ(0, stack[0]);
}

TEST_F(proxy, refused_reads_map_nothing)
{
	struct exmap *ex = &self->ex;
	char *page = page_at(ex, 5);
	int shift;

	for (shift = 1; shift < 4096; shift *= 2) {
		EXPECT_EQ(-EINVAL, ex_pread(ex->fd, 0, EXMAP_OP_READ, page + shift, PG));
		EXPECT_EQ(-EINVAL, ex_pread(ex->fd, 0, EXMAP_OP_READ, page, shift));
		EXPECT_EQ(-EINVAL, ex_pread(ex->fd, 0, EXMAP_OP_READ, page, PG + shift));
	}
	EXPECT_EQ(-EINVAL, ex_pread(ex->fd, 100, EXMAP_OP_READ, page, PG));
	EXPECT_EQ(-EINVAL, ex_pread(ex->fd, 0, EXMAP_OP_FREE, page, PG));
	EXPECT_EQ(-ERANGE, ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(ex, 127), 2 * PG));
	EXPECT_EQ(-ENODATA, ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(ex, 64), PG));
	EXPECT_EQ(0, count_present(ex, 0, 128));
}

TEST_F(proxy, region_for_reading_only)
{
	struct exmap *ex = &self->ex;

	/* EFAULT, as for read() into any write-protected memory */
	ASSERT_EQ(1, ex_alloc(ex, 0, 5, 1));
	stamp_page(page_at(ex, 5), 5);
	ASSERT_EQ(0, mprotect(ex->region, 128 * PG, PROT_READ));
	EXPECT_EQ(-EFAULT, read_pages(ex, 0, 5, 1));
	EXPECT_TRUE(stamp_intact(page_at(ex, 5), 5));
	ASSERT_EQ(0, mprotect(ex->region, 128 * PG, PROT_READ | PROT_WRITE));
	EXPECT_EQ((ssize_t)PG, read_pages(ex, 0, 5, 1));
	EXPECT_TRUE(page_is(page_at(ex, 5), 5));
}

TEST_F(proxy, odd_files)
{
	static const char * const paths[] = {
		"/proc/self/mem", "/proc/self/maps", "/proc/version",
		"/sys/kernel/uevent_seqnum", "/proc/self/exe",
	};
	struct exmap *ex = &self->ex;
	char *region;
	int fd, i, exmap;
	ssize_t ret;

	/* Reading an odd file may fail, but must report that and map nothing */
	for (i = 0; i < (int)ARRAY_SIZE(paths); i++) {
		fd = open(paths[i], O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			continue;
		exmap = exmap_open(_metadata);
		if (!ex_setup(exmap, fd, 1, 8)) {
			region = ex_map_region(exmap, 64);
			ASSERT_NE(MAP_FAILED, region);
			ret = ex_pread(exmap, 0, EXMAP_OP_READ, region, PG);
			EXPECT_NE(0, ret);
			EXPECT_EQ(ret == (ssize_t)PG, present(region));
			munmap(region, 64 * PG);
		}
		close(exmap);
		close(fd);
	}
	EXPECT_EQ((ssize_t)PG, read_pages(ex, 0, 1, 1));
}

TEST_F(proxy, slots_of_another_exmap)
{
	struct exmap *ex = &self->ex, other;

	exmap_create(_metadata, &other, self->backing, 1, 4, 16);
	EXPECT_EQ(-ERANGE, ex_pread(ex->fd, 0, EXMAP_OP_ALLOC, page_at(&other, 0), PG));
	EXPECT_EQ(-ERANGE, ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(&other, 0), PG));
	EXPECT_EQ(-ERANGE, ex_pread(other.fd, 0, EXMAP_OP_READ, page_at(ex, 0), PG));
	EXPECT_EQ(0, count_present(&other, 0, 16));
	EXPECT_EQ(0, count_present(ex, 0, 128));
	exmap_destroy(&other);
}

/*
 * Threads of which each has slots of its own ALLOC through one interface. No two of them
 * may get the same page.
 */
#define ALLOCATORS	32
#define OWN_PAGES	16	/* slots of each thread */

static void *alloc_through_one(void *arg)
{
	struct worker *w = arg;
	struct exmap *ex = w->ex;
	int i, n, first = w->index * OWN_PAGES;
	ssize_t ret;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < scaled(10); i++) {
		for (n = 0; n < OWN_PAGES; n += 4) {
			ret = ex_pread(ex->fd, 0, EXMAP_OP_ALLOC, page_at(ex, first + n),
				       4 * PG);
			if (BROKE(w, ret != (ssize_t)(4 * PG), ret))
				return NULL;
		}
		for (n = 0; n < OWN_PAGES; n++)
			stamp_page(page_at(ex, first + n), first + n);
		sched_yield();
		for (n = 0; n < OWN_PAGES; n++)
			if (BROKE(w, !stamp_intact(page_at(ex, first + n), first + n), n))
				return NULL;
		ret = ex_free(ex, 1 + w->index, first, OWN_PAGES);
		if (BROKE(w, ret != OWN_PAGES, ret))
			return NULL;
	}
	return NULL;
}

TEST_F_TIMEOUT(proxy, threads_with_one_interface, SLOW)
{
	const int pages = ALLOCATORS * OWN_PAGES;
	struct worker w[ALLOCATORS];
	struct exmap ex;

	/* The pool has just as many pages as the threads need: losing one would show */
	exmap_create(_metadata, &ex, -1, 1 + ALLOCATORS, pages, 2 * pages);
	run_workers(_metadata, w, ALLOCATORS, alloc_through_one, &ex, NULL);
	EXPECT_EQ(pages, ex_fill(&ex, 0, 0));
	exmap_destroy(&ex);
}

/* READ into slots whose old page waits for a deferred flush */
TEST_F(proxy, quarantined_slots)
{
	struct exmap_setup2 setup = {
		.flags = EXMAP_SETUP_DEFERRED, .quarantine = 1ULL << 40, .fd = self->backing,
	};
	struct exmap ex;
	int i, round;

	exmap_create2(_metadata, &ex, setup, 1, 16, 64);
	for (round = 0; round < 20; round++) {
		/* Read as many pages as the pool has, some into slots freed before */
		int first = (round * 8) % 48;

		ASSERT_EQ((ssize_t)(16 * PG), read_pages(&ex, 0, first, 16));
		for (i = first; i < first + 16; i++)
			EXPECT_TRUE(page_is(page_at(&ex, i), i));
		ASSERT_EQ(16, ex_free(&ex, 0, first, 16));
	}
	exmap_destroy(&ex);
}

/* One page visits a slot in every page table. The tables that it leaves are given back. */
TEST_F_TIMEOUT(proxy, walk, SLOW)
{
	const long table = 512, steps = scaled(100) < 40 ? 16 << 10 : 64 << 10;
	const int backing = memfd_create("backing", MFD_CLOEXEC);
	long step, before, most = 0, now;
	struct exmap ex;

	if (!page_tables_go_back())
		SKIP(return, "this kernel keeps the page tables of a live region");
	ASSERT_EQ(0, ftruncate(backing, steps * table * PG));
	exmap_create(_metadata, &ex, backing, 1, 1, steps * table);
	before = status_kib("VmPTE:");
	for (step = 0; step < steps; step++) {
		if (ex_pread(ex.fd, 0, step & 1 ? EXMAP_OP_READ : EXMAP_OP_ALLOC,
			     page_at(&ex, step * table), PG) != (ssize_t)PG)
			break;
		if (ex_free(&ex, 0, step * table, 1) != 1)
			break;
		now = step % 1024 ? most : status_kib("VmPTE:");
		most = now > most ? now : most;
	}
	EXPECT_EQ(steps, step);
	EXPECT_GE(before + (16 << 10), most);
	exmap_destroy(&ex);
	close(backing);
}

/* What a call costs that finds no page does not depend on the size of the pool */

static int fail_alloc(struct exmap *ex, long slot)
{
	return ex_pread(ex->fd, 0, EXMAP_OP_ALLOC, page_at(ex, slot), PG);
}

static int fail_read(struct exmap *ex, long slot)
{
	return ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(ex, slot), PG);
}

static const struct costly kinds[] = {
	{ .name = "ALLOC", .fail = fail_alloc },
	{ .name = "READ", .fail = fail_read },
};

FIXTURE(cost) {
};

FIXTURE_VARIANT(cost) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(cost, strict) {};
FIXTURE_VARIANT_ADD(cost, deferred) { .flags = EXMAP_SETUP_DEFERRED };

FIXTURE_SETUP(cost)
{
}

FIXTURE_TEARDOWN(cost)
{
}

TEST_F_TIMEOUT(cost, size_of_the_pool, SLOW)
{
	compare_costs(_metadata, kinds, ARRAY_SIZE(kinds), variant->flags,
		      (struct pool_size){ 1024, 1 }, (struct pool_size){ 65536, 1 });
}

TEST_F_TIMEOUT(cost, number_of_interfaces, SLOW)
{
	compare_costs(_metadata, kinds, ARRAY_SIZE(kinds), variant->flags,
		      (struct pool_size){ 4096, 1 }, (struct pool_size){ 4096, 1000 });
}

/* A page is read from the disk once, whatever the slot has been used for before */

FIXTURE(once) {
	struct nullb disk;
	struct exmap ex;
	int fd;
};

FIXTURE_VARIANT(once) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(once, strict) {};
FIXTURE_VARIANT_ADD(once, deferred) { .flags = EXMAP_SETUP_DEFERRED };

FIXTURE_SETUP(once)
{
	struct exmap_setup2 setup = { .flags = variant->flags };

	if (nullb_create(&self->disk, "once", 0, NULL))
		SKIP(return, "no null_blk through configfs");
	self->fd = open(self->disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	setup.fd = self->fd;
	exmap_create2(_metadata, &self->ex, setup, 1, 8, 2048);
	/* Leave free pages at the interface */
	ASSERT_EQ(4, ex_alloc(&self->ex, 0, 0, 4));
	ASSERT_EQ(4, ex_free(&self->ex, 0, 0, 4));
	if (variant->flags)
		ASSERT_EQ(0, ex_ioctl(self->ex.fd, EXMAP_IOCTL_FLUSH, NULL));
	ASSERT_EQ(1, ex_alloc(&self->ex, 0, 1, 1));
	ASSERT_EQ(1, ex_free(&self->ex, 0, 1, 1));
}

FIXTURE_TEARDOWN(once)
{
	exmap_destroy(&self->ex);
	close(self->fd);
	nullb_destroy(&self->disk);
}

TEST_F(once, pread)
{
	/* Freed and flushed; freed; resident; never used; without a page table */
	static const long slots[] = { 0, 1, 0, 9, 1500 };
	struct exmap *ex = &self->ex;
	long sectors;
	int i;

	for (i = 0; i < (int)ARRAY_SIZE(slots); i++) {
		sectors = nullb_sectors_read(&self->disk);
		EXPECT_EQ((ssize_t)PG, ex_pread(ex->fd, 0, EXMAP_OP_READ,
						page_at(ex, slots[i]), PG));
		sectors = nullb_sectors_read(&self->disk) - sectors;
		EXPECT_EQ((long)PG / 512, sectors)
			TH_LOG("slot %ld", slots[i]);
	}
}

TEST_HARNESS_MAIN
