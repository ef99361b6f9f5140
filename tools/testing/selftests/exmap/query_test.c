// SPDX-License-Identifier: GPL-2.0
/*
 * The state of slots as reported by EXMAP_IOCTL_QUERY, and by mincore() and
 * PAGEMAP_SCAN, which know nothing of exmap.
 */
#include "common.h"
#include "backing.h"
#include "nullb.h"
#include "query.h"

#define BUFFER	2000
#define PAGES	200000
#define FILE_PAGES 640

static int query_one(struct exmap *ex, long page, unsigned int flags)
{
	return ex_query_slot(ex->fd, 0, page, flags);
}

FIXTURE(query) {
	struct exmap ex;
	int fd;
};

FIXTURE_VARIANT(query) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(query, strict) {
};

FIXTURE_VARIANT_ADD(query, deferred) {
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_SETUP(query)
{
	long end;
	int backing = make_backing(_metadata, MEMFD, FILE_PAGES, &self->fd, &end);

	ASSERT_LE(0, backing);
	exmap_create2(_metadata, &self->ex,
		      (struct exmap_setup2){ .fd = backing, .flags = variant->flags },
		      2, BUFFER, PAGES);
	close(backing);
}

FIXTURE_TEARDOWN(query)
{
	exmap_destroy(&self->ex);
	close(self->fd);
}

TEST_F(query, life_of_a_page)
{
	struct exmap *ex = &self->ex;

	EXPECT_EQ(0, query_one(ex, 5, 0));
	ASSERT_EQ(1, ex_alloc(ex, 0, 5, 1));
	EXPECT_EQ(EXMAP_SLOT_RESIDENT | EXMAP_SLOT_DIRTY | EXMAP_SLOT_USED,
		  query_one(ex, 5, EXMAP_QUERY_AGE));
	/* The page was never touched, so no TLB entry can hide its first use */
	EXPECT_EQ(EXMAP_SLOT_RESIDENT | EXMAP_SLOT_DIRTY, query_one(ex, 5, 0));
	EXPECT_EQ(0, *page_at(ex, 5));
	/* User-mode Linux notices only uses that cause a page fault */
	EXPECT_EQ(EXMAP_SLOT_RESIDENT | EXMAP_SLOT_DIRTY |
		  (is_user_mode_linux() ? 0 : EXMAP_SLOT_USED), query_one(ex, 5, 0));
	ASSERT_EQ(1, ex_free(ex, 0, 5, 1));
	EXPECT_EQ(0, query_one(ex, 5, EXMAP_QUERY_AGE));
}

TEST_F(query, dirty)
{
	struct exmap *ex = &self->ex;

	ASSERT_EQ(1, ex_one(ex, 0, EXMAP_OP_READ, 7, 1));
	EXPECT_EQ(EXMAP_SLOT_RESIDENT, query_one(ex, 7, 0) & ~EXMAP_SLOT_USED);
	EXPECT_TRUE(page_is(page_at(ex, 7), 7));
	EXPECT_EQ(EXMAP_SLOT_RESIDENT | EXMAP_SLOT_USED, query_one(ex, 7, 0));
	renew(ex, 7);
	EXPECT_EQ(EXMAP_SLOT_RESIDENT | EXMAP_SLOT_USED | EXMAP_SLOT_DIRTY, query_one(ex, 7, 0));
	/* A query leaves the page dirty, WRITE with EXMAP_VEC_DIRTY cleans it */
	ASSERT_EQ(1, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 7, 1, EXMAP_VEC_DIRTY));
	EXPECT_EQ(EXMAP_SLOT_RESIDENT, query_one(ex, 7, 0) & ~EXMAP_SLOT_USED);
	EXPECT_TRUE(file_has(self->fd, 7, NEW(7)));
	/* A system call that writes to a page makes it dirty */
	ASSERT_EQ(PG, pread(self->fd, page_at(ex, 7), PG, 9 * PG));
	if (is_user_mode_linux())
		SKIP(return, "User-mode Linux: copy_to_user() does not dirty pages");
	EXPECT_TRUE(query_one(ex, 7, 0) & EXMAP_SLOT_DIRTY);
}

/* Each slot of each vector gets its own byte, for vectors of any length and order */
TEST_F(query, many_vectors)
{
	static const struct exmap_vec vecs[] = {
		{ .page = 0, .len = 600 },
		{ .page = 100, .len = 0 },
		{ .page = 199999, .len = 1 },
		{ .page = 1000, .len = 65535 },
		{ .page = 500, .len = 40 },
		{ .page = PAGES, .len = 0 },
		{ .page = 510, .len = 1 },
	};
	const int total = 600 + 1 + 65535 + 40 + 1;
	struct exmap *ex = &self->ex;
	__u8 *slots = malloc(total + 1), *slot = slots;
	int i, j, wrong = 0;

	ASSERT_NE(NULL, slots);
	for (i = 0; i < BUFFER / 2; i++)
		ASSERT_EQ(1, ex_alloc(ex, 0, i * 67, 1));
	ASSERT_EQ(1, ex_alloc(ex, 0, PAGES - 1, 1));
	memset(slots, 0xee, total + 1);
	ASSERT_EQ(0, ex_query(ex->fd, vecs, ARRAY_SIZE(vecs), slots, 0));
	for (i = 0; i < (int)ARRAY_SIZE(vecs); i++) {
		for (j = 0; j < vecs[i].len; j++, slot++) {
			const long page = vecs[i].page + j;
			const bool there = page == PAGES - 1 ||
				(page % 67 == 0 && page / 67 < BUFFER / 2);

			wrong += *slot != (there ? EXMAP_SLOT_RESIDENT | EXMAP_SLOT_DIRTY |
					   EXMAP_SLOT_USED : 0);
		}
	}
	EXPECT_EQ(0, wrong);
	EXPECT_EQ(0xee, *slot);
	free(slots);
}

TEST_F(query, errors)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[2] = { { .page = 0, .len = 1 }, { .page = 1, .len = 1 } };
	struct exmap_query query = {
		.size = sizeof(query), .nr = 1, .vec_size = sizeof(struct exmap_vec),
		.vecs = (unsigned long)vecs,
	};
	struct {
		struct exmap_query query;
		__u64 more;
	} longer;
	__u8 slots[8] = { 0xee, 0xee };
	pid_t pid;

	ASSERT_EQ(2, ex_alloc(ex, 0, 0, 2));
	/* An error in the last vector is found before anything is done */
	vecs[1].page = PAGES;
	EXPECT_EQ(-ERANGE, ex_query(ex->fd, vecs, 2, slots, EXMAP_QUERY_AGE));
	vecs[1].page = PAGES - 1;
	vecs[1].len = 2;
	EXPECT_EQ(-ERANGE, ex_query(ex->fd, vecs, 2, slots, EXMAP_QUERY_AGE));
	vecs[1].page = ~0ULL;
	EXPECT_EQ(-ERANGE, ex_query(ex->fd, vecs, 2, slots, EXMAP_QUERY_AGE));
	vecs[1] = (struct exmap_vec){ .len = 1, .opcode = EXMAP_OP_FREE };
	EXPECT_EQ(-EINVAL, ex_query(ex->fd, vecs, 2, slots, EXMAP_QUERY_AGE));
	vecs[1] = (struct exmap_vec){ .len = 1, .flags = 1 };
	EXPECT_EQ(-EINVAL, ex_query(ex->fd, vecs, 2, slots, EXMAP_QUERY_AGE));
	vecs[1] = (struct exmap_vec){ .len = 1, .node = 256 };
	EXPECT_EQ(-EINVAL, ex_query(ex->fd, vecs, 2, slots, EXMAP_QUERY_AGE));
	vecs[1] = (struct exmap_vec){ .len = 1, .node = 1 };
	EXPECT_EQ(-EINVAL, ex_query(ex->fd, vecs, 2, slots, EXMAP_QUERY_AGE));
	EXPECT_EQ(-EINVAL, ex_query(ex->fd, vecs, 1, slots, 2));
	EXPECT_EQ(-EINVAL, ex_query(ex->fd, vecs, EXMAP_VECTORS_MAX + 1, slots, 0));
	EXPECT_EQ(-EFAULT, ex_query(ex->fd, NULL, 1, slots, EXMAP_QUERY_AGE));
	EXPECT_EQ(0xee, slots[0]);
	EXPECT_EQ(0xee, slots[1]);
	EXPECT_TRUE(query_one(ex, 0, 0) & EXMAP_SLOT_USED);

	EXPECT_EQ(-EFAULT, ex_query(ex->fd, vecs, 1, NULL, 0));
	EXPECT_EQ(-EFAULT, ex_query(ex->fd, vecs, 1, (__u8 *)page_at(ex, 77), 0));
	EXPECT_EQ(0, ex_query(ex->fd, NULL, 0, NULL, 0));
	EXPECT_EQ(-EFAULT, ex_ioctl(ex->fd, EXMAP_IOCTL_QUERY, NULL));
	query.vec_size = EXMAP_VEC_SIZE_VER0 - 8;
	EXPECT_EQ(-EINVAL, ex_ioctl(ex->fd, EXMAP_IOCTL_QUERY, &query));
	query.vec_size = EXMAP_VEC_SIZE_VER0 + 1;
	EXPECT_EQ(-EINVAL, ex_ioctl(ex->fd, EXMAP_IOCTL_QUERY, &query));
	query.vec_size = 264;
	EXPECT_EQ(-E2BIG, ex_ioctl(ex->fd, EXMAP_IOCTL_QUERY, &query));
	query.vec_size = PG;
	EXPECT_EQ(-E2BIG, ex_ioctl(ex->fd, EXMAP_IOCTL_QUERY, &query));
	query.vec_size = sizeof(struct exmap_vec);
	query.size = EXMAP_QUERY_SIZE_VER0 - 1;
	EXPECT_EQ(-EINVAL, ex_ioctl(ex->fd, EXMAP_IOCTL_QUERY, &query));
	query.size = PG + 1;
	EXPECT_EQ(-E2BIG, ex_ioctl(ex->fd, EXMAP_IOCTL_QUERY, &query));

	/* A larger struct of a newer program is accepted if the unknown part is zero */
	query.size = sizeof(longer);
	query.slots = (unsigned long)slots;
	longer.query = query;
	longer.more = 1;
	EXPECT_EQ(-E2BIG, ex_ioctl(ex->fd, EXMAP_IOCTL_QUERY, &longer));
	EXPECT_EQ(0xee, slots[0]);
	longer.more = 0;
	EXPECT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_QUERY, &longer));
	EXPECT_TRUE(slots[0] & EXMAP_SLOT_RESIDENT);

	pid = fork();
	if (!pid)
		_exit(query_one(ex, 0, 0) == -EPERM ? 0 : 1);
	EXPECT_EQ(0, wait_child(pid));
	ASSERT_EQ(0, munmap(ex->region, PAGES * PG));
	EXPECT_EQ(-ENXIO, query_one(ex, 0, 0));
}

TEST_F(query, no_region)
{
	struct exmap ex = { .fd = exmap_open(_metadata) };

	EXPECT_EQ(-ENXIO, query_one(&ex, 0, 0));
	ASSERT_EQ(0, ex_setup2(ex.fd, -1, 1, 1));
	EXPECT_EQ(-ENXIO, query_one(&ex, 0, 0));
	close(ex.fd);
}

/* A slot that a READ is about to fill is busy */

static void *read_slowly(void *arg)
{
	struct exmap *ex = arg;

	return (void *)(long)ex_one(ex, 1, EXMAP_OP_READ, 3, 2);
}

TEST(busy)
{
	struct exmap ex;
	struct nullb disk;
	pthread_t thread;
	void *result;
	int fd;

	if (nullb_create(&disk, "query", 500000000, NULL))
		SKIP(return, "no null_blk");
	fd = open(disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, fd);
	exmap_create(_metadata, &ex, fd, 2, 10, 10);
	close(fd);
	ASSERT_EQ(1, ex_alloc(&ex, 0, 5, 1));
	ASSERT_EQ(0, pthread_create(&thread, NULL, read_slowly, &ex));
	while (!nullb_inflight(&disk))
		usleep(1000);
	EXPECT_EQ(EXMAP_SLOT_BUSY, query_one(&ex, 3, 0));
	EXPECT_EQ(EXMAP_SLOT_BUSY, query_one(&ex, 4, EXMAP_QUERY_AGE));
	EXPECT_TRUE(query_one(&ex, 5, 0) & EXMAP_SLOT_RESIDENT);
	ASSERT_EQ(0, pthread_join(thread, &result));
	EXPECT_EQ(2, (long)result);
	EXPECT_EQ(EXMAP_SLOT_RESIDENT, query_one(&ex, 3, 0) & ~EXMAP_SLOT_USED);
	exmap_destroy(&ex);
	nullb_destroy(&disk);
}

/* mincore() and PAGEMAP_SCAN report the same slots as resident */

#ifndef PAGEMAP_SCAN
#define PAGEMAP_SCAN	_IOWR('f', 16, struct pm_scan_arg)
#endif

static int scan_present(struct exmap *ex, long first, long pages, struct page_region *regions,
			int max)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (unsigned long)page_at(ex, first),
		.end = (unsigned long)page_at(ex, first + pages),
		.vec = (unsigned long)regions,
		.vec_len = max,
		.category_mask = PAGE_IS_PRESENT,
		.return_mask = PAGE_IS_PRESENT | PAGE_IS_FILE,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int ret = ex_ioctl(fd, PAGEMAP_SCAN, &arg);

	close(fd);
	return ret;
}

TEST_F(query, mincore_and_pagemap_scan)
{
	struct exmap *ex = &self->ex;
	struct page_region regions[64];
	struct exmap_vec all = { .page = 0, .len = 2000 };
	unsigned char core[2000];
	__u8 slots[2000];
	int i, j, nr, wrong = 0, scanned = 0;

	ASSERT_EQ(700, ex_alloc(ex, 0, 300, 700));
	for (i = 0; i < 30; i++)
		ASSERT_EQ(1, ex_free(ex, 0, 310 + i * 20, 1));
	ASSERT_EQ(0, madvise(page_at(ex, 700), 5 * PG, MADV_DONTNEED));
	ASSERT_EQ(0, ex_query(ex->fd, &all, 1, slots, 0));
	ASSERT_EQ(0, mincore(ex->region, 2000 * PG, core));
	for (i = 0; i < 2000; i++)
		wrong += (core[i] & 1) != (slots[i] & EXMAP_SLOT_RESIDENT);
	EXPECT_EQ(0, wrong);

	nr = scan_present(ex, 0, 2000, regions, ARRAY_SIZE(regions));
	if (nr == -ENOTTY)
		SKIP(return, "no PAGEMAP_SCAN");
	ASSERT_LT(0, nr);
	for (i = 0; i < nr; i++) {
		EXPECT_EQ(PAGE_IS_PRESENT | PAGE_IS_FILE, regions[i].categories);
		for (j = (regions[i].start - (unsigned long)ex->region) / PG;
		     j < (long)(regions[i].end - (unsigned long)ex->region) / (long)PG; j++) {
			wrong += !(slots[j] & EXMAP_SLOT_RESIDENT);
			scanned++;
		}
	}
	EXPECT_EQ(0, wrong);
	for (i = 0; i < 2000; i++)
		scanned -= slots[i] & EXMAP_SLOT_RESIDENT;
	EXPECT_EQ(0, scanned);
}

/* A clock hand ages all pages while other threads use and evict theirs */

static void *use_and_evict(void *arg)
{
	struct worker *w = arg;
	struct exmap *ex = w->ex;
	int i, ret;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < scaled(3000); i++) {
		const long page = w->index * 1000 + random_below(&w->random, 100);

		ret = ex_alloc(ex, w->index, page, 1);
		if (BROKE(w, ret < 0, ret))
			return NULL;
		stamp_page(page_at(ex, page), page);
		ret = query_one(ex, page, 0);
		if (BROKE(w, !(ret & EXMAP_SLOT_RESIDENT) || !(ret & EXMAP_SLOT_DIRTY), ret))
			return NULL;
		if (BROKE(w, !stamp_intact(page_at(ex, page), page), page))
			return NULL;
		if (i % 3)
			continue;
		ret = ex_free(ex, w->index, page, 1);
		if (BROKE(w, ret != 1, ret))
			return NULL;
		ret = query_one(ex, page, EXMAP_QUERY_AGE);
		if (BROKE(w, ret, ret))
			return NULL;
	}
	__atomic_add_fetch((int *)w->arg, 1, __ATOMIC_RELAXED);
	return NULL;
}

TEST_F_TIMEOUT(query, clock_hand, SLOW)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec all = { .page = 0, .len = 2000 };
	struct worker w[2];
	__u8 slots[2000];
	int i, done = 0;

	start_workers(_metadata, w, 2, use_and_evict, ex, &done);
	do {
		ASSERT_EQ(0, ex_query(ex->fd, &all, 1, slots, EXMAP_QUERY_AGE));
		for (i = 0; i < 2000; i++)
			if (slots[i] & ~(EXMAP_SLOT_RESIDENT | EXMAP_SLOT_DIRTY | EXMAP_SLOT_USED))
				break;
		EXPECT_EQ(2000, i);
		for (i = 0; i < 2 && !w[i].what; i++)
			;
	} while (__atomic_load_n(&done, __ATOMIC_RELAXED) < 2 && i == 2);
	join_workers(_metadata, w, 2);
}

TEST_HARNESS_MAIN
