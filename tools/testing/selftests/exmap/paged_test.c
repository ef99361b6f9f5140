// SPDX-License-Identifier: GPL-2.0
/*
 * The exmap of a program that uses the calls of existing programs: SETUP, interface pages,
 * CLONE and STATS, in every order that must work, and together with what came later.
 */
#include "common.h"
#include "backing.h"
#include "memory.h"
#include "paged.h"

FIXTURE(setup) {
	int fd;
};

FIXTURE_SETUP(setup)
{
	catch_faults();
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

/* Either setup is the only one that a file gets */
TEST_F(setup, both)
{
	int fd = exmap_open(_metadata);

	ASSERT_EQ(0, ex_setup(self->fd, -1, 1, 4));
	EXPECT_EQ(-EBUSY, ex_setup2(self->fd, -1, 1, 4));
	ASSERT_EQ(0, ex_setup2(fd, -1, 1, 4));
	EXPECT_EQ(-EBUSY, ex_setup(fd, -1, 1, 4));
	close(fd);
}

static void *race_for_setup(void *arg)
{
	struct worker *w = arg;
	int *fd = w->arg, ret;

	pthread_barrier_wait(&start_line);
	ret = ex_setup(*fd, -1, 1 + w->index, 4);
	BROKE(w, ret && ret != -EBUSY, ret);
	w->value = !ret;
	return NULL;
}

TEST_F_TIMEOUT(setup, race_of_setups, SLOW)
{
	struct worker w[8];
	int round, fd, i, won;

	for (round = 0; round < scaled(30); round++) {
		fd = exmap_open(_metadata);
		run_workers(_metadata, w, 8, race_for_setup, NULL, &fd);
		for (i = won = 0; i < 8; i++)
			won += w[i].value;
		EXPECT_EQ(1, won);
		close(fd);
	}
}

TEST_F(setup, clone_of_ready)
{
	struct exmap_ioctl_stats stats;
	struct exmap_user_interface *iface;
	struct paged p;
	struct exmap *ex = &p.ex;

	paged_create(_metadata, &p, -1, 2, 4, 16);
	ASSERT_EQ(0, ex_clone(self->fd, ex->fd));
	ASSERT_EQ(0, ex_stats(self->fd, &stats));
	EXPECT_EQ(4, (long)stats.buffer_size);
	EXPECT_EQ(2, (long)stats.max_interfaces);

	/* Both files have the same pool, region and interfaces */
	EXPECT_EQ(2, paged_alloc(&p, 0, 0, 2));
	EXPECT_EQ((ssize_t)(2 * PG),
		  ex_pread(self->fd, 1, EXMAP_OP_ALLOC, page_at(ex, 2), 2 * PG));
	memset(page_at(ex, 0), 1, 4 * PG);
	EXPECT_EQ(-ENOMEM, paged_alloc(&p, 0, 4, 1));
	iface = ex_map_iface(self->fd, 1);
	ASSERT_NE(MAP_FAILED, iface);
	iface->iov[3].value = 77;
	EXPECT_EQ(77, (long)p.iface[1]->iov[3].value);

	/* The clone keeps working after the first file was closed */
	close(ex->fd);
	ex->fd = self->fd;
	EXPECT_EQ(4, paged_free(&p, 0, 0, 16));
	EXPECT_EQ(4, ex_fill(ex, 1, 8));
	ASSERT_EQ(0, munmap(ex->region, 16 * PG));
	EXPECT_EQ(-ENXIO, paged_alloc(&p, 0, 0, 1));
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

/* Interface pages */

#define PAGES	2100

FIXTURE(interface) {
	struct paged p;
};

FIXTURE_SETUP(interface)
{
	catch_faults();
	paged_create(_metadata, &self->p, -1, 2, 1000, PAGES);
}

FIXTURE_TEARDOWN(interface)
{
	paged_destroy(&self->p);
}

TEST_F(interface, mremap)
{
	struct paged *p = &self->p;
	char *other;

	other = mmap(NULL, 4 * PG, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, other);
	EXPECT_EQ(MAP_FAILED, mremap(p->iface[0], PG, PG, MREMAP_MAYMOVE | MREMAP_FIXED, other));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mremap(p->iface[0], PG, 2 * PG, MREMAP_MAYMOVE));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(1, paged_alloc(p, 0, 200, 1));
	EXPECT_EQ(1, paged_free(p, 0, 200, 1));
}

TEST_F(interface, outlives_region)
{
	struct exmap *ex = &self->p.ex;
	struct exmap_iov *iov = self->p.iface[1]->iov;

	ASSERT_EQ(100, paged_alloc(&self->p, 0, 0, 100));
	ASSERT_EQ(0, munmap(ex->region, PAGES * PG));
	iov[511].value = 42;
	EXPECT_EQ(-ENXIO, ex_action(ex->fd, 1, EXMAP_OP_FREE, 512));
	EXPECT_EQ(42, (int)iov[511].value);
	/* An interface can be mapped again; the region cannot */
	EXPECT_EQ(0, ex_try_mmap(ex->fd, PG, MAP_SHARED, EXMAP_OFF_INTERFACE(1)));
	EXPECT_EQ(-EBUSY, ex_try_mmap(ex->fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
}

/* Mappings keep their memory after the file was closed, and the region was unmapped */
TEST_F(interface, outlives_file)
{
	struct exmap_iov *iov = self->p.iface[0]->iov;
	struct exmap *ex = &self->p.ex;

	ASSERT_EQ(1, paged_alloc(&self->p, 0, 7, 1));
	stamp_page(page_at(ex, 7), 7);
	close(ex->fd);
	EXPECT_TRUE(stamp_intact(page_at(ex, 7), 7));
	iov[3].value = 4;
	EXPECT_EQ(SIGSEGV, try_write_byte(page_at(ex, 200), 1));
	ASSERT_EQ(0, munmap(ex->region, PAGES * PG));
	EXPECT_EQ(4, (int)iov[3].value);
}

/* The array of EXMAP_IOCTL_VECTORS may be in an interface page */
TEST_F(interface, has_other_vectors)
{
	struct exmap_vec *vecs = (struct exmap_vec *)self->p.iface[0];
	struct exmap_result *results = (struct exmap_result *)self->p.iface[1];
	int i;

	for (i = 0; i < 256; i++)
		vecs[i] = ex_vec(EXMAP_OP_ALLOC, 2 + 2 * i, 1, 0);
	ASSERT_EQ(0, ex_vectors(&self->p.ex, 0, vecs, results, 256));
	for (i = 0; i < 256; i++)
		EXPECT_EQ(1, results[i].pages);
	EXPECT_EQ(256, count_present(&self->p.ex, 0, 600));
}

/* RLIMIT_MEMLOCK: an interface that is mapped alone keeps the charge of the whole exmap */
TEST_F(interface, keeps_the_charge)
{
	struct paged p;
	int fd, round;

	if (geteuid())
		SKIP(return, "not root");
	become_nobody(_metadata, 256);
	for (round = 0; round < 300; round++) {
		paged_create(_metadata, &p, -1, 1, 256, 256);
		ASSERT_EQ(256, paged_alloc(&p, 0, 0, 256));
		fd = exmap_open(_metadata);
		EXPECT_EQ(-ENOMEM, ex_setup(fd, -1, 1, 1));
		close(p.ex.fd);
		if (round % 2) {
			munmap(p.iface[0], PG);
			EXPECT_EQ(-ENOMEM, ex_setup(fd, -1, 1, 1));
			munmap(p.ex.region, 256 * PG);
		} else {
			/* The pages went with the region, and so did the charge for them */
			munmap(p.ex.region, 256 * PG);
			EXPECT_EQ(0, ex_setup(fd, -1, 1, 256));
			munmap(p.iface[0], PG);
		}
		close(fd);
	}
	/* Never mapped the region, only an interface */
	for (round = 0; round < 100; round++) {
		fd = exmap_open(_metadata);
		ASSERT_EQ(0, ex_setup(fd, -1, 1, 256));
		p.iface[0] = ex_map_iface(fd, 0);
		ASSERT_NE(MAP_FAILED, p.iface[0]);
		close(fd);
		munmap(p.iface[0], PG);
	}
}

/* Pools that came later: with several regions, and with slots of other sizes */

TEST(region_of_a_pool)
{
	struct exmap_setup2 setup = { .size = sizeof(setup), .flags = EXMAP_SETUP_ATTACH };
	struct paged first, second = { .ex = { .ifaces = 1, .pages = 64 } };
	struct exmap *ex = &second.ex;

	catch_faults();
	paged_create(_metadata, &first, -1, 2, 64, 64);
	ex->fd = exmap_open(_metadata);
	setup.pool = first.ex.fd;
	setup.fd = memfd_create("backing", MFD_CLOEXEC);
	ASSERT_EQ(0, fill_file(setup.fd, 64));
	ASSERT_EQ(1, ex_ioctl(ex->fd, EXMAP_IOCTL_SETUP2, &setup));
	ex->region = ex_map_region(ex->fd, 64);
	ASSERT_NE(MAP_FAILED, ex->region);
	paged_map_ifaces(_metadata, &second);
	/* Interfaces belong to the pool: it is the same page everywhere */
	first.iface[0]->iov[7].value = 1234;
	EXPECT_EQ(1234, second.iface[0]->iov[7].value);

	/* The region is that of the file */
	EXPECT_EQ(3, paged_alloc(&second, 0, 20, 3));
	EXPECT_EQ(3, count_present(ex, 20, 3));
	EXPECT_EQ(0, count_present(&first.ex, 0, 64));
	EXPECT_EQ(2, paged_free(&second, 0, 21, 5));
	EXPECT_EQ((ssize_t)PG, ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(ex, 5), PG));
	EXPECT_TRUE(page_is(page_at(ex, 5), 5));
	EXPECT_EQ(-ERANGE, ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(&first.ex, 5), PG));
	paged_destroy(&second);
	paged_destroy(&first);
	close(setup.fd);
}

/* Calls that count in pages are not for larger slots */
TEST(larger_slots)
{
	static const size_t sizes[] = { 8 << 10, 64 << 10, 2 << 20 };
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .fd = -1, .max_interfaces = 1, .buffer_size = 1024,
	};
	char *region;
	size_t size;
	int fd, i;

	catch_faults();
	for (i = 0; i < (int)ARRAY_SIZE(sizes); i++) {
		size = sizes[i];
		setup.slot_size = size;
		fd = exmap_open(_metadata);
		ASSERT_EQ(0, ex_ioctl(fd, EXMAP_IOCTL_SETUP2, &setup));
		region = ex_map_region(fd, 4 * size / PG);
		ASSERT_NE(MAP_FAILED, region);
		EXPECT_EQ(-ENXIO, ex_try_mmap(fd, PG, MAP_SHARED, EXMAP_OFF_INTERFACE(0)));
		EXPECT_EQ(-EINVAL, ex_action(fd, 0, EXMAP_OP_ALLOC, 0));
		EXPECT_EQ(-EINVAL, ex_pread(fd, 0, EXMAP_OP_READ, region + size, size));
		EXPECT_EQ(-EINVAL, ex_pread(fd, 0, EXMAP_OP_ALLOC, region + size, PG));
		EXPECT_EQ(-EINVAL, ex_pwrite(fd, 0, EXMAP_OP_WRITE, region + size, size));
		EXPECT_EQ(SIGSEGV, try_read_byte(region + size));
		munmap(region, 4 * size);
		close(fd);
	}
}

/* Other processes */

/*
 * Try every call on the exmap of another mm, in which its region is at @region. Returns
 * the number of calls that were not refused with EPERM.
 */
static int count_not_refused(int fd, char *region)
{
	struct exmap_ioctl_stats stats;
	int fresh, wrong = 0;

	wrong += ex_action(fd, 0, EXMAP_OP_ALLOC, 0) != -EPERM;
	wrong += ex_action(fd, 0, EXMAP_OP_ALLOC, 1) != -EPERM;
	wrong += ex_action(fd, 0, EXMAP_OP_FREE, 1) != -EPERM;
	wrong += ex_action(fd, 1, EXMAP_OP_FREE, 512) != -EPERM;
	wrong += ex_pread(fd, 0, EXMAP_OP_ALLOC, region, PG) != -EPERM;
	wrong += ex_pread(fd, 0, EXMAP_OP_READ, region, PG) != -EPERM;
	wrong += ex_pwrite(fd, 0, EXMAP_OP_WRITE, region, PG) != -EPERM;
	wrong += ex_setup(fd, -1, 1, 1) != -EPERM;
	wrong += ex_stats(fd, &stats) != -EPERM;
	wrong += ex_try_mmap(fd, PG, MAP_SHARED, EXMAP_OFF_INTERFACE(0)) != -EPERM;
	fresh = open(DEVICE, O_RDWR | O_CLOEXEC);
	wrong += fresh < 0;
	wrong += ex_clone(fresh, fd) != -EPERM;
	/* The file whose clone was refused can still get an exmap of its own */
	wrong += ex_setup(fresh, -1, 1, 1) != 0;
	close(fresh);
	return wrong;
}

TEST_F(interface, of_another_process)
{
	struct paged *p = &self->p;
	unsigned char vec;
	pid_t pid;

	ASSERT_EQ(8, paged_alloc(p, 0, 0, 8));
	set_vec(p, 0, 0, 3, 1);
	set_vec(p, 1, 0, 3, 1);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		EXPECT_EQ(0, count_not_refused(p->ex.fd, p->ex.region));
		/* Interfaces are not mapped in the child */
		EXPECT_EQ(-1, mincore(p->iface[0], PG, &vec));
		EXPECT_EQ(ENOMEM, errno);
		EXPECT_EQ(SIGSEGV, try_read_byte(p->iface[0]));
		_exit(_metadata->exit_code);
	}
	EXPECT_EQ(0, wait_child(pid));
	EXPECT_EQ(1ULL << 52 | 3, p->iface[0]->iov[0].value);
	EXPECT_EQ(8, count_present(&p->ex, 0, 256));
}

TEST_F(setup, in_the_child)
{
	struct exmap_user_interface *iface;
	int ready[2], done[2];
	char *region, byte = 0;
	pid_t pid;

	/* The process that makes the first call owns the exmap, whoever opened the file */
	ASSERT_EQ(0, pipe(ready));
	ASSERT_EQ(0, pipe(done));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		EXPECT_EQ(0, ex_setup(self->fd, -1, 1, 4));
		region = ex_map_region(self->fd, 8);
		EXPECT_NE(MAP_FAILED, region);
		iface = ex_map_iface(self->fd, 0);
		EXPECT_NE(MAP_FAILED, iface);
		iface->iov[0] = (struct exmap_iov){ .page = 1, .len = 2 };
		EXPECT_EQ(0, ex_action(self->fd, 0, EXMAP_OP_ALLOC, 1));
		EXPECT_EQ(2, iface->iov[0].pages);
		EXPECT_EQ(1, write(ready[1], &byte, 1));
		EXPECT_EQ(1, read(done[0], &byte, 1));
		EXPECT_EQ(0, try_write_byte(region + PG, 1));
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(1, read(ready[0], &byte, 1));
	EXPECT_EQ(0, count_not_refused(self->fd, (char *)PG));
	ASSERT_EQ(1, write(done[1], &byte, 1));
	EXPECT_EQ(0, wait_child(pid));
	/* Other processes are still refused after the owner has exited */
	EXPECT_EQ(0, count_not_refused(self->fd, (char *)PG));
}

/* A process is killed while its threads are inside calls */

#define HAMMERS	6

static void *hammer(void *arg)
{
	struct worker *w = arg;
	struct paged *p = w->arg;
	int page;

	pthread_barrier_wait(&start_line);
	for (;;) {
		page = random_below(&w->random, p->ex.pages - 32);
		switch (random_below(&w->random, 4)) {
		case 0:
			paged_alloc(p, w->index, page, 32);
			break;
		case 1:
			paged_one(p, w->index, EXMAP_OP_READ, page, 8);
			break;
		case 2:
			paged_free(p, w->index, page, 32);
			break;
		case 3:
			ex_pread(p->ex.fd, w->index, EXMAP_OP_READ, page_at(&p->ex, page), 8 * PG);
			break;
		}
	}
	return NULL;
}

TEST_F_TIMEOUT(setup, killed_in_the_middle_of_calls, SLOW)
{
	struct worker w[HAMMERS];
	struct paged p;
	int round, fd;
	pid_t pid;

	for (round = 0; round < scaled(20); round++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			fd = memfd_create("backing", MFD_CLOEXEC);
			ASSERT_EQ(0, ftruncate(fd, 512 * PG));
			paged_create(_metadata, &p, fd, HAMMERS, 300, 512);
			start_workers(_metadata, w, HAMMERS, hammer, &p.ex, &p);
			usleep(5000 + 1000 * (round % 10));
			if (round % 2)
				_exit(128 + SIGKILL);
			kill(getpid(), SIGKILL);
		}
		EXPECT_EQ(128 + SIGKILL, wait_child(pid));
	}
}

/* Interface pages and clones go back to the system */

static void use(struct __test_metadata *_metadata, int round)
{
	struct exmap *ex;
	struct paged p;
	int i, fd;

	paged_create(_metadata, &p, -1, 4, 64, 256);
	ex = &p.ex;
	for (i = 0; i < 4; i++)
		ASSERT_EQ(16, paged_alloc(&p, i, 16 * i, 16));
	ASSERT_EQ(16, paged_free(&p, 1, 3, 16));
	switch (round % 4) {
	case 0:		/* interfaces go first */
		paged_unmap_ifaces(&p);
		break;
	case 1:		/* the file goes first */
		close(ex->fd);
		ex->fd = -1;
		break;
	case 2:		/* the region goes first */
		munmap(ex->region, 256 * PG);
		break;
	case 3:		/* the exmap is used through a clone */
		fd = exmap_open(_metadata);
		ASSERT_EQ(0, ex_clone(fd, ex->fd));
		close(ex->fd);
		ex->fd = fd;
		ASSERT_EQ(48, paged_free(&p, 0, 0, 256));
		break;
	}
	paged_destroy(&p);
}

TEST_F_TIMEOUT(setup, leaks_nothing, SLOW)
{
	struct memory before;
	int round;

	/* Warm up: memory that is allocated once and kept is not a leak */
	for (round = 0; round < 100; round++)
		use(_metadata, round);
	if (measure_memory(&before))
		SKIP(return, "cannot read /proc/zoneinfo and /proc/meminfo");
	for (round = 0; round < 1000; round++)
		use(_metadata, round);
	compare_memory(_metadata, &before);
}

TEST_HARNESS_MAIN
