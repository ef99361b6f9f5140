// SPDX-License-Identifier: GPL-2.0
/*
 * System calls that manage memory, on the region. Calls that are refused must not
 * change anything. After calls that succeed, the pool must still account for all of its
 * pages.
 */
#include "common.h"

#define BUFFER	1000
#define PAGES	2100

FIXTURE(region) {
	struct exmap ex;
	bool gone;	/* region was unmapped by the test */
};

FIXTURE_SETUP(region)
{
	int i;

	catch_faults();
	exmap_create(_metadata, &self->ex, -1, 2, BUFFER, PAGES);
	/* Put data at both ends and in the middle of the region */
	ASSERT_EQ(100, ex_alloc(&self->ex, 0, 0, 100));
	ASSERT_EQ(100, ex_alloc(&self->ex, 0, 1000, 100));
	ASSERT_EQ(100, ex_alloc(&self->ex, 0, PAGES - 100, 100));
	for (i = 0; i < PAGES; i += 1000)
		stamp_page(page_at(&self->ex, i), i);
	stamp_page(page_at(&self->ex, PAGES - 1), 17);
}

static bool intact(struct exmap *ex)
{
	int i;

	for (i = 0; i < PAGES; i += 1000)
		if (!present(page_at(ex, i)) || !stamp_intact(page_at(ex, i), i))
			return false;
	return present(page_at(ex, PAGES - 1)) && stamp_intact(page_at(ex, PAGES - 1), 17) &&
		count_present(ex, 0, PAGES) == 300;
}

FIXTURE_TEARDOWN(region)
{
	struct exmap *ex = &self->ex;

	if (!self->gone) {
		EXPECT_LE(0, ex_drain(ex, 0, 0, PAGES));
		EXPECT_EQ(BUFFER, fill_in_time(ex, 1, 0, BUFFER));
		memset(ex->region, 1, BUFFER * PG);
		EXPECT_EQ(BUFFER, ex_drain(ex, 0, 0, PAGES));
	}
	exmap_destroy(ex);
}

TEST_F(region, partial_munmap)
{
	struct exmap *ex = &self->ex;

	EXPECT_EQ(-1, munmap(ex->region, PG));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, munmap(page_at(ex, PAGES - 1), PG));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, munmap(page_at(ex, 1000), 100 * PG));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, munmap(page_at(ex, 1), (PAGES - 1) * PG));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_TRUE(intact(ex));
}

TEST_F(region, partial_mprotect)
{
	struct exmap *ex = &self->ex;

	EXPECT_EQ(-1, mprotect(ex->region, PG, PROT_READ));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, mprotect(page_at(ex, PAGES - 1), PG, PROT_NONE));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, mprotect(page_at(ex, 1000), PG, PROT_READ));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_TRUE(intact(ex));
	EXPECT_EQ(0, try_write_byte(page_at(ex, 1001), 1));
}

TEST_F(region, partial_map_fixed)
{
	static const int where[] = { 0, 1000, PAGES - 1 };
	struct exmap *ex = &self->ex;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(where); i++) {
		EXPECT_EQ(MAP_FAILED, mmap(page_at(ex, where[i]), PG, PROT_READ,
					   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		EXPECT_EQ(EINVAL, errno);
	}
	EXPECT_TRUE(intact(ex));
}

TEST_F(region, mremap)
{
	struct exmap *ex = &self->ex;
	size_t size = PAGES * PG;
	char *other;

	other = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, other);

	/* Move the whole region: the kernel moves the page tables, and moves them back */
	EXPECT_EQ(MAP_FAILED, mremap(ex->region, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
				     other));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_TRUE(intact(ex));
	EXPECT_EQ(MAP_FAILED, mremap(ex->region, size, size,
				     MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_TRUE(intact(ex));

	/* Move a part of the region */
	EXPECT_EQ(MAP_FAILED, mremap(ex->region, PG, PG, MREMAP_MAYMOVE | MREMAP_FIXED, other));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mremap(page_at(ex, 1000), PG, PG, MREMAP_MAYMOVE | MREMAP_FIXED,
				     other));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mremap(page_at(ex, PAGES - 1), PG, PG,
				     MREMAP_MAYMOVE | MREMAP_FIXED, other));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_TRUE(intact(ex));

	/* Shrinking the region is a partial munmap() */
	EXPECT_EQ(MAP_FAILED, mremap(ex->region, size, size - PG, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mremap(ex->region, size, PG, MREMAP_MAYMOVE));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_TRUE(intact(ex));

	/* VM_DONTEXPAND prevents growing, and duplicating with an old size of 0 */
	EXPECT_EQ(MAP_FAILED, mremap(ex->region, size, 2 * size, MREMAP_MAYMOVE));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(MAP_FAILED, mremap(ex->region, 0, size, MREMAP_MAYMOVE));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_TRUE(intact(ex));

	/* An mremap() to the same size and address succeeds */
	EXPECT_EQ(ex->region, mremap(ex->region, size, size, MREMAP_MAYMOVE));
	EXPECT_TRUE(intact(ex));
	EXPECT_EQ(1, ex_alloc(ex, 0, 200, 1));
	EXPECT_EQ(0, try_write_byte(page_at(ex, 200), 1));
	EXPECT_EQ(1, ex_free(ex, 0, 200, 1));
	EXPECT_EQ(SIGSEGV, try_write_byte(page_at(ex, 200), 1));
}

TEST_F(region, mprotect_whole)
{
	struct exmap *ex = &self->ex;
	size_t size = PAGES * PG;
	__u64 value;

	ASSERT_EQ(0, mprotect(ex->region, size, PROT_READ));
	EXPECT_TRUE(stamp_intact(page_at(ex, 1000), 1000));
	EXPECT_EQ(SIGSEGV, try_write_byte(page_at(ex, 1000) + 5, 1));
	EXPECT_EQ(page_at(ex, 1000) + 5, fault_address);

	/* ALLOC and FREE work while the region is read-only */
	EXPECT_EQ(1, ex_alloc(ex, 0, 200, 1));
	EXPECT_EQ(0, try_read(page_at(ex, 200), &value));
	EXPECT_EQ(SIGSEGV, try_write_byte(page_at(ex, 200), 1));
	EXPECT_EQ(1, ex_free(ex, 0, 1001, 1));
	EXPECT_EQ(SIGSEGV, try_read(page_at(ex, 1001), &value));

	ASSERT_EQ(0, mprotect(ex->region, size, PROT_NONE));
	EXPECT_EQ(SIGSEGV, try_read(page_at(ex, 1000), &value));
	EXPECT_EQ(1, ex_free(ex, 0, 200, 1));

	ASSERT_EQ(0, mprotect(ex->region, size, PROT_READ | PROT_WRITE));
	EXPECT_EQ(SIGSEGV, try_write_byte(page_at(ex, 200), 1));
	EXPECT_EQ(1, ex_alloc(ex, 0, 1001, 1));
	EXPECT_EQ(0, try_write_byte(page_at(ex, 1001), 1));
	EXPECT_TRUE(intact(ex));
}

TEST_F_TIMEOUT(region, dontneed, SLOW)
{
	struct exmap *ex = &self->ex;
	int round, i;

	EXPECT_EQ(700, ex_fill(ex, 0, 1100));
	for (round = 0; round < 6; round++) {
		/* The driver is not told about MADV_DONTNEED, and finds the pages later */
		ASSERT_EQ(0, madvise(ex->region, PAGES * PG, MADV_DONTNEED));
		EXPECT_EQ(0, count_present(ex, 0, PAGES));
		if (round % 3 == 1)
			EXPECT_EQ(0, ex_drain(ex, 0, 0, PAGES));
		/* Exactly the pages of the pool can be allocated again */
		i = round * 7;
		ASSERT_EQ(BUFFER, ex_fill(ex, round % 2, i));
		memset(page_at(ex, i), round, BUFFER * PG);
	}
}

TEST_F(region, dontneed_of_some)
{
	struct exmap *ex = &self->ex;
	int i;

	for (i = 1000; i < 1100; i++)
		stamp_page(page_at(ex, i), i);
	ASSERT_EQ(0, madvise(page_at(ex, 1020), 10 * PG, MADV_DONTNEED));
	EXPECT_EQ(290, count_present(ex, 0, PAGES));
	for (i = 1000; i < 1100; i++) {
		if (i >= 1020 && i < 1030)
			continue;
		EXPECT_TRUE(stamp_intact(page_at(ex, i), i));
	}
	/* There is room for 710 pages now, but the pool only knows about 700 */
	EXPECT_EQ(10, ex_alloc(ex, 1, 1015, 20));
	for (i = 1020; i < 1030; i++)
		stamp_page(page_at(ex, i), i);
	/* The pool finds pages that were dropped a few at a time */
	EXPECT_EQ(700, fill_in_time(ex, 0, 100, 700));
	EXPECT_EQ(-ENOMEM, ex_alloc(ex, 0, 900, 1));
	memset(page_at(ex, 100), 1, 700 * PG);
	for (i = 1000; i < 1100; i++)
		EXPECT_TRUE(stamp_intact(page_at(ex, i), i));
	ASSERT_EQ(0, madvise(page_at(ex, 1000), 50 * PG, MADV_DONTNEED));
	EXPECT_EQ(50, ex_free(ex, 0, 1000, 100));
}

TEST_F(region, other_advice_changes_nothing)
{
	static const int advice[] = {
		MADV_WILLNEED, MADV_FREE, MADV_REMOVE, MADV_COLD, MADV_PAGEOUT,
		MADV_SEQUENTIAL, MADV_RANDOM, MADV_NORMAL, MADV_MERGEABLE,
		MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTFORK,
	};
	struct exmap *ex = &self->ex;
	size_t size = PAGES * PG;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(advice); i++) {
		/* Whether the advice is refused depends on the kernel */
		madvise(ex->region, size, advice[i]);
		EXPECT_TRUE(intact(ex))
			TH_LOG("advice %d", advice[i]);
	}
	EXPECT_EQ(-1, madvise(ex->region, size, MADV_DOFORK));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, madvise(ex->region, size, MADV_DODUMP));
	EXPECT_EQ(EINVAL, errno);
	/* Neither locking nor populating fills empty slots */
	mlock(ex->region, size);
	EXPECT_TRUE(intact(ex));
	munlock(ex->region, size);
	EXPECT_EQ(-1, madvise(ex->region, size, 22 /* MADV_POPULATE_READ */));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, madvise(ex->region, size, 23 /* MADV_POPULATE_WRITE */));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_TRUE(intact(ex));
}

TEST_F(region, map_fixed_over_whole)
{
	struct exmap *ex = &self->ex;

	self->gone = true;
	ASSERT_EQ(ex->region, mmap(ex->region, PAGES * PG, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_EQ(0, ex->region[0]);
	ex->region[0] = 1;
	EXPECT_EQ(-ENXIO, ex_alloc(ex, 0, 0, 1));
	EXPECT_EQ(-ENXIO, ex_free(ex, 0, 0, 1));
	EXPECT_EQ(-ENXIO, ex_one(ex, 0, EXMAP_OP_FREE, 0, 1));
	EXPECT_EQ(1, ex->region[0]);
	EXPECT_EQ(0, ex_owned(ex->fd));
	EXPECT_EQ(-EBUSY, ex_try_mmap(ex->fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
}

TEST_F(region, map_fixed_over_more)
{
	struct exmap *ex = &self->ex;
	size_t size = (PAGES + 20) * PG;
	char *hole;

	/* Replace a region and the mappings on both sides of it at once */
	hole = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, hole);
	exmap_destroy(ex);
	ex->fd = exmap_open(_metadata);
	ASSERT_EQ(0, ex_setup2(ex->fd, -1, 2, BUFFER));
	ex->region = mmap(hole + 10 * PG, PAGES * PG, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_FIXED, ex->fd, EXMAP_OFF_EXMAP);
	ASSERT_EQ(hole + 10 * PG, ex->region);
	ASSERT_EQ(BUFFER, ex_fill(ex, 0, 0));
	self->gone = true;
	ASSERT_EQ(hole, mmap(hole, size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_EQ(-ENXIO, ex_alloc(ex, 0, 0, 1));
	EXPECT_EQ(0, hole[10 * PG]);
	munmap(hole, size);
}

TEST_F(region, one_exmap_over_another)
{
	struct exmap *ex = &self->ex;
	struct exmap other = { .fd = exmap_open(_metadata) };

	self->gone = true;
	ASSERT_EQ(0, ex_setup2(other.fd, -1, 1, 4));
	ASSERT_EQ(ex->region, mmap(ex->region, PAGES * PG, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_FIXED, other.fd, EXMAP_OFF_EXMAP));
	EXPECT_EQ(-ENXIO, ex_alloc(ex, 0, 0, 1));
	EXPECT_EQ(0, count_present(ex, 0, PAGES));
	EXPECT_EQ(4, ex_alloc(&other, 0, 0, 4));
	memset(ex->region, 1, 4 * PG);
	EXPECT_EQ(-ENXIO, ex_free(ex, 0, 0, 4));
	EXPECT_EQ(4, count_present(ex, 0, 10));
	close(other.fd);
}

TEST_F(region, close_before_munmap)
{
	struct exmap *ex = &self->ex;
	int fd = dup(ex->fd);

	/* A duplicate of the descriptor refers to the same file */
	ASSERT_LE(0, fd);
	close(ex->fd);
	ex->fd = fd;
	EXPECT_EQ(1, ex_alloc(ex, 0, 200, 1));
	EXPECT_EQ(1, ex_free(ex, 0, 200, 1));
	EXPECT_TRUE(intact(ex));

	/* The region keeps its memory after the last descriptor was closed */
	close(fd);
	EXPECT_TRUE(intact(ex));
	EXPECT_EQ(SIGSEGV, try_write_byte(page_at(ex, 200), 1));
	ASSERT_EQ(0, munmap(ex->region, PAGES * PG));
	self->gone = true;
}

static long status_kb(const char *file, const char *field)
{
	char line[256];
	size_t len = strlen(field);
	long value = 0;
	FILE *f;

	f = fopen(file, "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, field, len) && line[len] == ':')
			value = atol(line + len + 1);
	fclose(f);
	return value;
}

static long resident_pages(void)
{
	return (status_kb("/proc/self/status", "RssFile") +
		status_kb("/proc/self/status", "RssShmem")) / 4;
}

/* Number of resident pages of the VMA at @addr; exact, as smaps walks the page tables */
static long smaps_rss_pages(const void *addr)
{
	unsigned long start, end;
	char line[256];
	bool inside = false;
	long value = -1;
	FILE *f;

	f = fopen("/proc/self/smaps", "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start == (unsigned long)addr;
		else if (inside && !strncmp(line, "Rss:", 4))
			value = atol(line + 4) / 4;
	}
	fclose(f);
	return value;
}

/* Tolerance in pages: the program's own pages change, and RSS counters are batched */
#define SLACK	64

static void expect_rss(struct __test_metadata *_metadata, long pages, long start)
{
	const long now = resident_pages() - start;

	EXPECT_LE(pages - SLACK, now);
	EXPECT_GE(pages + SLACK, now);
}

/* RSS counts all pages of the pool, even free ones, but not those MADV_DONTNEED dropped */
TEST_F(region, resident_set_size)
{
	struct exmap *ex = &self->ex;
	long start, dropped;

	/* Fault in the code of the calls below before the first measurement */
	ex_alloc(ex, 1, 300, 1);
	ex_free(ex, 1, 300, 1);
	smaps_rss_pages(ex->region);
	start = resident_pages() - ex_owned(ex->fd);

	EXPECT_EQ(700, ex_alloc(ex, 1, 300, 700));
	expect_rss(_metadata, 1000, start);
	EXPECT_EQ(700, ex_free(ex, 0, 300, 700));
	expect_rss(_metadata, 1000, start);
	EXPECT_EQ(700, ex_alloc(ex, 1, 300, 700));
	dropped = count_present(ex, 0, 400);
	ASSERT_EQ(0, madvise(ex->region, 400 * PG, MADV_DONTNEED));
	expect_rss(_metadata, 1000 - dropped, start);
	EXPECT_EQ(dropped, fill_in_time(ex, 1, 0, dropped));
	expect_rss(_metadata, 1000, start);
	EXPECT_EQ(1000, ex_drain(ex, 1, 0, PAGES));
	ASSERT_EQ(0, ioctl(ex->fd, EXMAP_IOCTL_RESIZE, 10));
	expect_rss(_metadata, 10, start);
	ASSERT_EQ(0, ioctl(ex->fd, EXMAP_IOCTL_RESIZE, BUFFER));
	EXPECT_EQ(BUFFER, ex_fill(ex, 1, 0));
	expect_rss(_metadata, BUFFER, start);
	self->gone = true;
	ASSERT_EQ(0, munmap(ex->region, PAGES * PG));
	expect_rss(_metadata, 0, start);
}

TEST_F(region, smaps)
{
	struct exmap *ex = &self->ex;

	if (access("/proc/self/smaps", R_OK))
		SKIP(return, "no /proc/self/smaps");
	EXPECT_EQ(300, smaps_rss_pages(ex->region));
	EXPECT_EQ(700, ex_alloc(ex, 1, 300, 700));
	EXPECT_EQ(1000, smaps_rss_pages(ex->region));
	EXPECT_EQ(698, ex_free(ex, 1, 301, 698));
	EXPECT_EQ(302, smaps_rss_pages(ex->region));
	ASSERT_EQ(0, madvise(ex->region, PAGES * PG, MADV_DONTNEED));
	EXPECT_EQ(0, smaps_rss_pages(ex->region));
}

TEST_HARNESS_MAIN
