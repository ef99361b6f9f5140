// SPDX-License-Identifier: GPL-2.0
/* Tests of SETUP, mmap() and CLONE, in every order and size that must work. */
#include "common.h"

FIXTURE(setup) {
	int fd;
};

FIXTURE_SETUP(setup)
{
	self->fd = exmap_open(_metadata);
}

FIXTURE_TEARDOWN(setup)
{
	close(self->fd);
}

/* ALLOC, use and FREE the last slot of a region; slots beyond it must be refused */
static void check_last_page(struct __test_metadata *_metadata, int fd, char *region, long pages)
{
	struct exmap_user_interface *iface = ex_map_iface(fd, 0);

	ASSERT_NE(MAP_FAILED, iface);
	iface->iov[0] = (struct exmap_iov){ .page = pages - 1, .len = 1 };
	iface->iov[1] = (struct exmap_iov){ .page = pages, .len = 1 };
	iface->iov[2] = (struct exmap_iov){ .page = pages - 1, .len = 2 };
	EXPECT_EQ(2, ex_action(fd, 0, EXMAP_OP_ALLOC, 3));
	EXPECT_EQ(0, iface->iov[0].res);
	EXPECT_EQ(1, iface->iov[0].pages);
	EXPECT_EQ(-ERANGE, iface->iov[1].res);
	EXPECT_EQ(0, iface->iov[1].pages);
	EXPECT_EQ(-ERANGE, iface->iov[2].res);
	EXPECT_EQ(0, iface->iov[2].pages);
	ASSERT_TRUE(present(region + (pages - 1) * PG));
	stamp_page(region + (pages - 1) * PG, pages);
	EXPECT_TRUE(stamp_intact(region + (pages - 1) * PG, pages));
	iface->iov[0] = (struct exmap_iov){ .page = pages - 1, .len = 1 };
	EXPECT_EQ(0, ex_action(fd, 0, EXMAP_OP_FREE, 1));
	EXPECT_EQ(1, iface->iov[0].pages);
	EXPECT_FALSE(present(region + (pages - 1) * PG));
	munmap(iface, PG);
}

TEST_F(setup, setup_then_mmap)
{
	char *region;

	ASSERT_EQ(0, ex_setup(self->fd, -1, 1, 1));
	region = ex_map_region(self->fd, 100);
	ASSERT_NE(MAP_FAILED, region);
	check_last_page(_metadata, self->fd, region, 100);
}

TEST_F(setup, mmap_then_setup)
{
	char *region = ex_map_region(self->fd, 100);

	ASSERT_NE(MAP_FAILED, region);
	EXPECT_FALSE(present(region));
	ASSERT_EQ(0, ex_setup(self->fd, -1, 1, 1));
	check_last_page(_metadata, self->fd, region, 100);
}

TEST_F(setup, too_late)
{
	char *region = ex_map_region(self->fd, 100);

	ASSERT_NE(MAP_FAILED, region);
	ASSERT_EQ(0, munmap(region, 100 * PG));
	EXPECT_EQ(-ENXIO, ex_setup(self->fd, -1, 1, 1));
	EXPECT_EQ(-EBUSY, ex_try_mmap(self->fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
}

TEST_F(setup, interface_between_setup_and_mmap)
{
	struct exmap_user_interface *iface;
	char *region;

	ASSERT_EQ(0, ex_setup(self->fd, -1, 2, 1));
	iface = ex_map_iface(self->fd, 1);
	ASSERT_NE(MAP_FAILED, iface);
	iface->iov[0] = (struct exmap_iov){ .page = 0, .len = 1 };
	/* No region yet */
	EXPECT_EQ(-ENXIO, ex_action(self->fd, 1, EXMAP_OP_ALLOC, 1));
	EXPECT_EQ(-ENXIO, ex_action(self->fd, 1, EXMAP_OP_ALLOC, 0));
	EXPECT_EQ(-ENXIO, ex_pread(self->fd, 1, EXMAP_OP_ALLOC, iface, PG));
	EXPECT_EQ(1ULL << 52, iface->iov[0].value);
	region = ex_map_region(self->fd, 3);
	ASSERT_NE(MAP_FAILED, region);
	EXPECT_EQ(0, ex_action(self->fd, 1, EXMAP_OP_ALLOC, 1));
	EXPECT_EQ(1, iface->iov[0].pages);
	region[0] = 1;
}

TEST_F(setup, region_lengths)
{
	static const long lengths[] = {
		1, 2, 3, 511, 512, 513, 1023, 1025, 4095, 4096, 4097,
		(1L << 28) + 5,		/* slightly more than 1 TiB */
	};
	unsigned int i;
	char *region;
	int fd;

	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		fd = exmap_open(_metadata);
		ASSERT_EQ(0, ex_setup(fd, -1, 1, 4));
		region = ex_map_region(fd, lengths[i]);
		ASSERT_NE(MAP_FAILED, region);
		check_last_page(_metadata, fd, region, lengths[i]);
		EXPECT_EQ(0, munmap(region, lengths[i] * PG));
		close(fd);
	}
}

TEST_F(setup, region_length_in_bytes)
{
	char *region;

	ASSERT_EQ(0, ex_setup(self->fd, -1, 1, 4));
	region = mmap(NULL, 2 * PG + 1, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd,
		      EXMAP_OFF_EXMAP);
	ASSERT_NE(MAP_FAILED, region);
	check_last_page(_metadata, self->fd, region, 3);
}

TEST_F(setup, region_where_asked)
{
	char *hole, *region;

	hole = mmap(NULL, 16 * PG, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, hole);
	ASSERT_EQ(0, ex_setup(self->fd, -1, 1, 4));
	region = mmap(hole + 4 * PG, 8 * PG, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_FIXED | MAP_POPULATE, self->fd, EXMAP_OFF_EXMAP);
	ASSERT_EQ(hole + 4 * PG, region);
	/* MAP_POPULATE must not fill any slot */
	EXPECT_FALSE(present(region));
	check_last_page(_metadata, self->fd, region, 8);
}

TEST_F(setup, many_interfaces)
{
	struct exmap_user_interface *iface;
	char *region;

	ASSERT_EQ(0, ex_setup(self->fd, -1, 65536, 2));
	region = ex_map_region(self->fd, 4);
	ASSERT_NE(MAP_FAILED, region);
	iface = ex_map_iface(self->fd, 65535);
	ASSERT_NE(MAP_FAILED, iface);
	iface->iov[0] = (struct exmap_iov){ .page = 1, .len = 1 };
	EXPECT_EQ(0, ex_action(self->fd, 65535, EXMAP_OP_ALLOC, 1));
	EXPECT_EQ(1, iface->iov[0].pages);
	region[PG] = 1;
	/* A page that was freed through one interface is available to all interfaces */
	iface->iov[0] = (struct exmap_iov){ .page = 1, .len = 1 };
	EXPECT_EQ(0, ex_action(self->fd, 65535, EXMAP_OP_FREE, 1));
	EXPECT_EQ((ssize_t)PG, ex_pread(self->fd, 40000, EXMAP_OP_ALLOC, region, PG));
	EXPECT_EQ((ssize_t)PG, ex_pread(self->fd, 256, EXMAP_OP_ALLOC, region + PG, PG));
	EXPECT_EQ(-ENOMEM, ex_pread(self->fd, 0, EXMAP_OP_ALLOC, region + 2 * PG, PG));
	EXPECT_EQ(-ENXIO, ex_try_mmap(self->fd, PG, MAP_SHARED, EXMAP_OFF_INTERFACE(65536)));
}

TEST_F(setup, interface_bound)
{
	int fd, n;

	for (n = 1; n < 600; n = n * 3 + 1) {
		fd = exmap_open(_metadata);
		ASSERT_EQ(0, ex_setup(fd, -1, n, 1));
		ASSERT_NE(MAP_FAILED, ex_map_region(fd, 1));
		EXPECT_EQ(0, ex_try_mmap(fd, PG, MAP_SHARED, EXMAP_OFF_INTERFACE(n - 1)));
		EXPECT_EQ(-ENXIO, ex_try_mmap(fd, PG, MAP_SHARED, EXMAP_OFF_INTERFACE(n)));
		EXPECT_EQ(0, ex_action(fd, n - 1, EXMAP_OP_ALLOC, 0));
		EXPECT_EQ(-EINVAL, ex_action(fd, n, EXMAP_OP_ALLOC, 0));
		close(fd);
	}
}

TEST_F(setup, interface_mapped_twice)
{
	struct exmap_user_interface *one, *two, *other;

	ASSERT_EQ(0, ex_setup(self->fd, -1, 2, 4));
	ASSERT_NE(MAP_FAILED, ex_map_region(self->fd, 4));
	one = ex_map_iface(self->fd, 0);
	two = ex_map_iface(self->fd, 0);
	other = ex_map_iface(self->fd, 1);
	ASSERT_NE(MAP_FAILED, one);
	ASSERT_NE(MAP_FAILED, two);
	ASSERT_NE(MAP_FAILED, other);
	one->iov[0] = (struct exmap_iov){ .page = 2, .len = 1 };
	EXPECT_EQ(1ULL << 52 | 2, two->iov[0].value);
	EXPECT_EQ(0, (long)other->iov[0].value);
	EXPECT_EQ(0, ex_action(self->fd, 0, EXMAP_OP_ALLOC, 1));
	EXPECT_EQ(1, two->iov[0].pages);
	ASSERT_EQ(0, munmap(one, PG));
	two->iov[0] = (struct exmap_iov){ .page = 2, .len = 1 };
	EXPECT_EQ(0, ex_action(self->fd, 0, EXMAP_OP_FREE, 1));
	EXPECT_EQ(1, two->iov[0].pages);
	/* The interface page outlives its mappings */
	two->iov[511].value = 42;
	ASSERT_EQ(0, munmap(two, PG));
	one = ex_map_iface(self->fd, 0);
	ASSERT_NE(MAP_FAILED, one);
	EXPECT_EQ(42, (long)one->iov[511].value);
}

TEST_F(setup, interface_never_mapped)
{
	char *region;

	/* The vectors of an interface that was never mapped are zero: calls do nothing */
	ASSERT_EQ(0, ex_setup(self->fd, -1, 3, 4));
	region = ex_map_region(self->fd, 4);
	ASSERT_NE(MAP_FAILED, region);
	EXPECT_EQ(0, ex_action(self->fd, 2, EXMAP_OP_ALLOC, 512));
	EXPECT_EQ(0, ex_action(self->fd, 2, EXMAP_OP_FREE, 512));
	EXPECT_FALSE(present(region));
}

TEST_F(setup, interface_starts_as_zeroes)
{
	static const char zero[4096];
	struct exmap_user_interface *iface;

	ASSERT_EQ(0, ex_setup(self->fd, -1, 1, 1));
	iface = ex_map_iface(self->fd, 0);
	ASSERT_NE(MAP_FAILED, iface);
	EXPECT_EQ(0, memcmp(zero, iface, PG));
}

TEST_F(setup, second_region)
{
	char *region;

	ASSERT_EQ(0, ex_setup(self->fd, -1, 1, 4));
	region = ex_map_region(self->fd, 16);
	ASSERT_NE(MAP_FAILED, region);
	EXPECT_EQ((ssize_t)PG, ex_pread(self->fd, 0, EXMAP_OP_ALLOC, region, PG));
	stamp_page(region, 1);
	EXPECT_EQ(-EBUSY, ex_try_mmap(self->fd, 16 * PG, MAP_SHARED, EXMAP_OFF_EXMAP));
	EXPECT_TRUE(stamp_intact(region, 1));
	check_last_page(_metadata, self->fd, region, 16);

	/* An exmap cannot get a second region, even after munmap() of the first */
	ASSERT_EQ(0, munmap(region, 16 * PG));
	EXPECT_EQ(-EBUSY, ex_try_mmap(self->fd, 16 * PG, MAP_SHARED, EXMAP_OFF_EXMAP));
	EXPECT_EQ(-ENXIO, ex_action(self->fd, 0, EXMAP_OP_ALLOC, 0));
}

TEST_F(setup, second_region_over_the_first)
{
	char *region, *again;

	ASSERT_EQ(0, ex_setup(self->fd, -1, 1, 4));
	region = ex_map_region(self->fd, 16);
	ASSERT_NE(MAP_FAILED, region);
	EXPECT_EQ((ssize_t)PG, ex_pread(self->fd, 0, EXMAP_OP_ALLOC, region, PG));
	again = mmap(region, 16 * PG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		     self->fd, EXMAP_OFF_EXMAP);
	EXPECT_EQ(MAP_FAILED, again);
	EXPECT_EQ(EBUSY, errno);
	/* ALLOC must fail exactly if the failed mmap() has unmapped the region */
	if (present(region))
		check_last_page(_metadata, self->fd, region, 16);
	else
		EXPECT_EQ(-ENXIO, ex_action(self->fd, 0, EXMAP_OP_ALLOC, 0));
}

struct race {
	int fd;
	char *winner;
	int won, lost;
};

static void *race_for_region(void *arg)
{
	struct worker *w = arg;
	struct race *race = w->arg;
	char *region;

	pthread_barrier_wait(&start_line);
	region = ex_map_region(race->fd, 8 + w->index);
	if (region == MAP_FAILED) {
		BROKE(w, errno != EBUSY, errno);
		__atomic_add_fetch(&race->lost, 1, __ATOMIC_SEQ_CST);
	} else {
		__atomic_add_fetch(&race->won, 1, __ATOMIC_SEQ_CST);
		__atomic_store_n(&race->winner, region, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

TEST_F_TIMEOUT(setup, race_of_mmaps, SLOW)
{
	struct worker w[8];
	int round;

	for (round = 0; round < scaled(30); round++) {
		struct race race = { .fd = exmap_open(_metadata) };

		ASSERT_EQ(0, ex_setup(race.fd, -1, 1, 4));
		run_workers(_metadata, w, 8, race_for_region, NULL, &race);
		ASSERT_EQ(1, race.won);
		EXPECT_EQ(7, race.lost);
		EXPECT_EQ((ssize_t)(4 * PG),
			  ex_pread(race.fd, 0, EXMAP_OP_ALLOC, race.winner, 4 * PG));
		memset(race.winner, 1, 4 * PG);
		close(race.fd);
	}
}

static void *race_for_setup(void *arg)
{
	struct worker *w = arg;
	struct race *race = w->arg;
	int ret;

	pthread_barrier_wait(&start_line);
	ret = ex_setup(race->fd, -1, 1 + w->index, 4);
	BROKE(w, ret && ret != -EBUSY, ret);
	__atomic_add_fetch(ret ? &race->lost : &race->won, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

TEST_F_TIMEOUT(setup, race_of_setups, SLOW)
{
	struct worker w[8];
	int round;

	for (round = 0; round < scaled(30); round++) {
		struct race race = { .fd = exmap_open(_metadata) };

		run_workers(_metadata, w, 8, race_for_setup, NULL, &race);
		EXPECT_EQ(1, race.won);
		EXPECT_EQ(7, race.lost);
		close(race.fd);
	}
}

TEST_F(setup, stats_count_pages)
{
	struct exmap_ioctl_stats stats;
	char *region;

	ASSERT_EQ(0, ex_setup(self->fd, -1, 3, 2000));
	ASSERT_EQ(0, ex_stats(self->fd, &stats));
	EXPECT_EQ(0, (long)stats.flags);
	EXPECT_EQ(2000, (long)stats.buffer_size);
	EXPECT_EQ(0, (long)stats.alloc_count);
	EXPECT_EQ(3, (long)stats.max_interfaces);

	region = ex_map_region(self->fd, 4000);
	ASSERT_NE(MAP_FAILED, region);
	EXPECT_EQ((ssize_t)(100 * PG),
		  ex_pread(self->fd, 0, EXMAP_OP_ALLOC, region, 100 * PG));
	ASSERT_EQ(0, ex_stats(self->fd, &stats));
	EXPECT_LE(100, (long)stats.alloc_count);
	EXPECT_GE(2000, (long)stats.alloc_count);

	EXPECT_EQ((ssize_t)(2000 * PG),
		  ex_pread(self->fd, 1, EXMAP_OP_ALLOC, region, 2000 * PG));
	ASSERT_EQ(0, ex_stats(self->fd, &stats));
	EXPECT_EQ(2000, (long)stats.alloc_count);

	/* The pool owns no pages after munmap() of the region */
	ASSERT_EQ(0, munmap(region, 4000 * PG));
	ASSERT_EQ(0, ex_stats(self->fd, &stats));
	EXPECT_EQ(0, (long)stats.alloc_count);
	EXPECT_EQ(2000, (long)stats.buffer_size);
}

TEST_F(setup, files_are_independent)
{
	struct exmap one, two;

	exmap_create(_metadata, &one, -1, 1, 4, 16);
	exmap_create(_metadata, &two, -1, 1, 4, 16);
	EXPECT_EQ(4, ex_fill(&one, 0, 0));
	EXPECT_EQ(4, ex_fill(&two, 0, 0));
	stamp_page(page_at(&one, 0), 1);
	stamp_page(page_at(&two, 0), 2);
	EXPECT_EQ(1, ex_free(&two, 0, 0, 1));
	EXPECT_EQ(-ENOMEM, ex_alloc(&one, 0, 8, 1));
	EXPECT_TRUE(stamp_intact(page_at(&one, 0), 1));
	/* An address in the region of one exmap is out of range for another exmap */
	EXPECT_EQ(-ERANGE, ex_pread(one.fd, 0, EXMAP_OP_ALLOC, page_at(&two, 0), PG));
	exmap_destroy(&two);
	EXPECT_TRUE(stamp_intact(page_at(&one, 0), 1));
	exmap_destroy(&one);
}

TEST_F(setup, clone_of_ready)
{
	struct exmap_ioctl_stats stats;
	struct exmap_user_interface *iface;
	struct exmap ex;

	exmap_create(_metadata, &ex, -1, 2, 4, 16);
	ASSERT_EQ(0, ex_clone(self->fd, ex.fd));
	ASSERT_EQ(0, ex_stats(self->fd, &stats));
	EXPECT_EQ(4, (long)stats.buffer_size);
	EXPECT_EQ(2, (long)stats.max_interfaces);

	/* Both files have the same pool, region and interfaces */
	EXPECT_EQ(2, ex_alloc(&ex, 0, 0, 2));
	EXPECT_EQ((ssize_t)(2 * PG),
		  ex_pread(self->fd, 1, EXMAP_OP_ALLOC, page_at(&ex, 2), 2 * PG));
	memset(page_at(&ex, 0), 1, 4 * PG);
	EXPECT_EQ(-ENOMEM, ex_alloc(&ex, 0, 4, 1));
	iface = ex_map_iface(self->fd, 1);
	ASSERT_NE(MAP_FAILED, iface);
	iface->iov[3].value = 77;
	EXPECT_EQ(77, (long)ex.iface[1]->iov[3].value);

	/* The clone keeps working after the first file was closed */
	close(ex.fd);
	ex.fd = self->fd;
	EXPECT_EQ(4, ex_free(&ex, 0, 0, 16));
	EXPECT_EQ(4, ex_fill(&ex, 1, 8));
	ASSERT_EQ(0, munmap(ex.region, 16 * PG));
	EXPECT_EQ(-ENXIO, ex_alloc(&ex, 0, 0, 1));
	EXPECT_EQ(-EBUSY, ex_try_mmap(self->fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
}

TEST_F(setup, clone_of_mapped)
{
	char *region;
	int fd = exmap_open(_metadata);

	/* Map the region through the first file and set up through its clone */
	region = ex_map_region(self->fd, 16);
	ASSERT_NE(MAP_FAILED, region);
	ASSERT_EQ(0, ex_clone(fd, self->fd));
	EXPECT_EQ(-ENXIO, ex_action(fd, 0, EXMAP_OP_ALLOC, 0));
	EXPECT_EQ(-EBUSY, ex_try_mmap(fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
	ASSERT_EQ(0, ex_setup(fd, -1, 1, 4));
	EXPECT_EQ(-EBUSY, ex_setup(self->fd, -1, 1, 4));
	EXPECT_EQ((ssize_t)PG, ex_pread(self->fd, 0, EXMAP_OP_ALLOC, region, PG));
	region[0] = 1;
	close(fd);
	check_last_page(_metadata, self->fd, region, 16);
}

TEST_F(setup, clone_of_set_up)
{
	char *region;
	int fd = exmap_open(_metadata), third = exmap_open(_metadata);

	/* Set up through the first file, map through a clone, use a clone of the clone */
	ASSERT_EQ(0, ex_setup(self->fd, -1, 1, 4));
	ASSERT_EQ(0, ex_clone(fd, self->fd));
	region = ex_map_region(fd, 16);
	ASSERT_NE(MAP_FAILED, region);
	EXPECT_EQ(-EBUSY, ex_try_mmap(self->fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
	ASSERT_EQ(0, ex_clone(third, fd));
	close(fd);
	check_last_page(_metadata, self->fd, region, 16);
	close(self->fd);
	check_last_page(_metadata, third, region, 16);
	close(third);
	self->fd = -1;
}

TEST_HARNESS_MAIN
