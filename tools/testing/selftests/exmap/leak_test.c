// SPDX-License-Identifier: GPL-2.0
/* The system must not use more memory after many rounds of use than before. */
#include "common.h"
#include "memory.h"

#define BUFFER	64
#define PAGES	256

FIXTURE(leak) {
	struct memory before;
	int backing;
};

FIXTURE_SETUP(leak)
{
	self->backing = memfd_create("backing", MFD_CLOEXEC);
	ASSERT_LE(0, self->backing);
	ASSERT_EQ(0, ftruncate(self->backing, (PAGES - 1) * PG));
}

FIXTURE_TEARDOWN(leak)
{
	close(self->backing);
}

static void use(struct __test_metadata *_metadata, int backing, int round)
{
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .flags = EXMAP_SETUP_ATTACH, .fd = backing,
	};
	struct exmap ex;
	int fd;

	switch (round % 8) {
	case 0:		/* open only */
		ex.fd = exmap_open(_metadata);
		close(ex.fd);
		return;
	case 1:		/* SETUP only */
		ex.fd = exmap_open(_metadata);
		ASSERT_EQ(0, ex_setup2(ex.fd, backing, 4, BUFFER));
		close(ex.fd);
		return;
	case 2:		/* mmap() only */
		ex.fd = exmap_open(_metadata);
		ex.region = ex_map_region(ex.fd, PAGES);
		ASSERT_NE(MAP_FAILED, ex.region);
		close(ex.fd);
		munmap(ex.region, PAGES * PG);
		return;
	}

	exmap_create(_metadata, &ex, backing, 4, BUFFER, PAGES);
	ASSERT_EQ(BUFFER, ex_fill(&ex, round % 4, 0));
	memset(ex.region, round, BUFFER * PG);
	ASSERT_EQ(16, ex_free(&ex, (round + 1) % 4, 3, 16));
	ASSERT_EQ(4, ex_one(&ex, 1, EXMAP_OP_READ, 100, 4));
	ASSERT_EQ(0, madvise(page_at(&ex, 40), 8 * PG, MADV_DONTNEED));
	/* Calls that fail must not leak either */
	ASSERT_EQ(-ENODATA, ex_one(&ex, 2, EXMAP_OP_READ, PAGES - 1, 1));
	ASSERT_EQ(-ERANGE, ex_one(&ex, 2, EXMAP_OP_READ, PAGES, 1));
	ASSERT_EQ(-EBUSY, ex_setup2(ex.fd, backing, 4, BUFFER));
	ASSERT_EQ(-EBUSY, ex_try_mmap(ex.fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
	ASSERT_EQ(-EINVAL, ex_alloc(&ex, 4, 0, 1));
	ASSERT_EQ(MAP_FAILED, mremap(ex.region, PAGES * PG, PG, 0));

	switch (round % 8) {
	case 3:		/* region goes first */
		munmap(ex.region, PAGES * PG);
		break;
	case 4:		/* file goes first */
		close(ex.fd);
		ex.fd = -1;
		break;
	case 5:		/* the pool gets a region that is never mapped */
		fd = exmap_open(_metadata);
		setup.pool = ex.fd;
		ASSERT_EQ(1, ex_ioctl(fd, EXMAP_IOCTL_SETUP2, &setup));
		close(fd);
		break;
	case 6:		/* region is replaced by another mapping */
		ASSERT_EQ(ex.region, mmap(ex.region, PAGES * PG, PROT_NONE,
					  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		break;
	case 7:		/* exmap is used through another descriptor */
		fd = dup(ex.fd);
		ASSERT_LE(0, fd);
		close(ex.fd);
		ex.fd = fd;
		ASSERT_LE(0, ex_free(&ex, 0, 0, PAGES));
		break;
	}
	exmap_destroy(&ex);
}

TEST_F_TIMEOUT(leak, thousand_rounds, SLOW)
{
	int round;

	/* Warm up: memory that is allocated once and kept is not a leak */
	for (round = 0; round < 100; round++)
		use(_metadata, self->backing, round);
	if (measure_memory(&self->before))
		SKIP(return, "cannot read /proc/zoneinfo and /proc/meminfo");
	for (round = 0; round < 1000; round++)
		use(_metadata, self->backing, round);
	compare_memory(_metadata, &self->before);
}

static int use_in_child(struct __test_metadata *_metadata, int backing, int round)
{
	struct exmap ex;
	pid_t pid;

	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		exmap_create(_metadata, &ex, backing, 4, BUFFER, PAGES);
		if (ex_fill(&ex, 0, 0) != BUFFER)
			_exit(1);
		memset(ex.region, round, BUFFER * PG);
		ex_free(&ex, 1, 10, 10);
		if (round % 2)
			raise(SIGKILL);
		_exit(0);
	}
	return wait_child(pid);
}

TEST_F_TIMEOUT(leak, hundred_exits, SLOW)
{
	int round;

	for (round = 0; round < 10; round++)
		use_in_child(_metadata, self->backing, round);
	if (measure_memory(&self->before))
		SKIP(return, "cannot read /proc/zoneinfo and /proc/meminfo");
	for (round = 0; round < 100; round++)
		EXPECT_EQ(round % 2 ? 128 + SIGKILL : 0,
			  use_in_child(_metadata, self->backing, round));
	compare_memory(_metadata, &self->before);
}

/* Check that a leak would be noticed: measure_memory() must see 3 MiB that are in use */
TEST_F_TIMEOUT(leak, measure_sees_pages, SLOW)
{
	struct memory before, after;
	struct exmap ex;

	if (measure_memory(&before))
		SKIP(return, "cannot read /proc/zoneinfo and /proc/meminfo");
	exmap_create(_metadata, &ex, -1, 1, 768, 1024);
	ASSERT_EQ(768, ex_fill(&ex, 0, 0));
	ASSERT_EQ(0, measure_memory(&after));
	EXPECT_LE(2000, after.unaccounted - before.unaccounted);
	exmap_destroy(&ex);
	compare_memory(_metadata, &before);
}

TEST_HARNESS_MAIN
