// SPDX-License-Identifier: GPL-2.0
/*
 * Regions that share a pool: EXMAP_SETUP_ATTACH, and calls whose vectors name several
 * regions.
 */
#include "common.h"
#include "backing.h"
#include "query.h"
#include "uring.h"

#define BUFFER		64
#define SLOTS		4096
#define FILE_PAGES	64
#define REGIONS		3

/* Pages of the files of different regions differ by this */
#define FILE_STEP	10000

static int attach(int fd, int pool, struct exmap_setup2 setup)
{
	setup.size = sizeof(setup);
	setup.flags |= EXMAP_SETUP_ATTACH;
	setup.pool = pool;
	return ex_ioctl(fd, EXMAP_IOCTL_SETUP2, &setup);
}

/* Add a region to the pool of @first. Returns its number, or -errno. */
static int add_region(struct __test_metadata *_metadata, struct exmap *ex,
		      struct exmap *first, int backing, int slots)
{
	int number;

	*ex = (struct exmap) { .fd = exmap_open(_metadata), .pages = slots };
	number = attach(ex->fd, first->fd, (struct exmap_setup2){ .fd = backing });
	if (number < 0)
		return number;
	ex->region = ex_map_region(ex->fd, slots);
	ASSERT_NE(MAP_FAILED, ex->region);
	return number;
}

static struct exmap_vec in_region(unsigned int region, int opcode, __u64 page, int len,
				  int flags)
{
	struct exmap_vec vec = ex_vec(opcode, page, len, flags);

	vec.region = region;
	return vec;
}

/* As ex_vec_one(), in another region than that of @ex */
static int one_in(struct exmap *ex, unsigned int region, int opcode, __u64 page, int len)
{
	struct exmap_vec vec = in_region(region, opcode, page, len, 0);
	struct exmap_result result = { .res = -1, .pages = -1 };
	int ret = ex_vectors(ex, 0, &vec, &result, 1);

	return ret < 0 ? ret : ret ? result.res : (int)result.pages;
}

static int file_of(struct __test_metadata *_metadata, int region)
{
	static alignas(4096) __u64 words[WORDS];
	int fd = memfd_create("backing", MFD_CLOEXEC), i;

	ASSERT_LE(0, fd);
	for (i = 0; i < FILE_PAGES; i++) {
		make_page(words, i + region * FILE_STEP);
		ASSERT_EQ(PG, pwrite(fd, words, PG, i * PG));
	}
	return fd;
}

FIXTURE(attach) {
	struct exmap ex[REGIONS];
	int file[REGIONS];
	struct ring ring;
};

FIXTURE_VARIANT(attach) {
	__u64 flags;
	bool uring;
};

FIXTURE_VARIANT_ADD(attach, strict) {
};

FIXTURE_VARIANT_ADD(attach, deferred) {
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(attach, uring) {
	.uring = true,
};

FIXTURE_SETUP(attach)
{
	struct exmap_setup2 setup = { .flags = variant->flags };
	int i;

	catch_faults();
	self->ring.fd = -1;
	if (variant->uring && ring_open(&self->ring, 8))
		SKIP(return, "no io_uring");
	for (i = 0; i < REGIONS; i++)
		self->file[i] = file_of(_metadata, i);
	setup.fd = self->file[0];
	exmap_create2(_metadata, &self->ex[0], setup, 2, BUFFER, SLOTS);
	for (i = 1; i < REGIONS; i++)
		ASSERT_EQ(i, add_region(_metadata, &self->ex[i], &self->ex[0],
					self->file[i], SLOTS * (i + 1)));
}

FIXTURE_TEARDOWN(attach)
{
	int i;

	ring_close(&self->ring);
	for (i = 0; i < REGIONS; i++) {
		exmap_destroy(&self->ex[i]);
		close(self->file[i]);
	}
}

/* Carry out vectors by ioctl or, unless @ring is NULL, through io_uring */
static int vectors_in(struct exmap *ex, struct ring *ring, const struct exmap_vec *vecs,
		      struct exmap_result *results, unsigned int nr)
{
	struct command c;

	if (!ring)
		return ex_vectors(ex, 0, vecs, results, nr);
	command_init(&c, 0);
	c.params.vecs = (unsigned long)vecs;
	c.params.results = (unsigned long)results;
	c.params.nr = nr;
	prep_command(ring_sqe(ring), ex->fd, &c);
	return ring_run(ring);
}

#define vectors(VECS, RESULTS, NR)						\
	vectors_in(&self->ex[0], variant->uring ? &self->ring : NULL, VECS, RESULTS, NR)

TEST_F(attach, one_budget)
{
	struct exmap *ex = self->ex;

	EXPECT_EQ(40, one_in(&ex[0], 0, EXMAP_OP_ALLOC, 0, 40));
	EXPECT_EQ(24, one_in(&ex[0], 1, EXMAP_OP_ALLOC, 100, 24));
	EXPECT_EQ(-ENOMEM, one_in(&ex[0], 2, EXMAP_OP_ALLOC, 0, 1));
	EXPECT_EQ(-ENOMEM, one_in(&ex[0], 0, EXMAP_OP_ALLOC, 40, 1));
	/* A page of one region can be one of another, whichever file the call is made on */
	EXPECT_EQ(1, one_in(&ex[1], 0, EXMAP_OP_FREE, 39, 1));
	EXPECT_EQ(1, one_in(&ex[2], 2, EXMAP_OP_ALLOC, 12000, 1));
	EXPECT_EQ(-ENOMEM, one_in(&ex[1], 1, EXMAP_OP_ALLOC, 0, 1));
	EXPECT_EQ(BUFFER, read_fdinfo(getpid(), ex[2].fd, "exmap-limit"));
	EXPECT_EQ(BUFFER, ex_owned(ex[2].fd));
	EXPECT_EQ(2, read_fdinfo(getpid(), ex[2].fd, "exmap-interfaces"));
	EXPECT_EQ(39, count_present(&ex[0], 0, 60));
	EXPECT_EQ(24, count_present(&ex[1], 90, 60));
	EXPECT_TRUE(present(page_at(&ex[2], 12000)));

	EXPECT_EQ(0, ex_resize(ex[2].fd, BUFFER + 5));
	EXPECT_EQ(5, one_in(&ex[0], 1, EXMAP_OP_ALLOC, 0, 5));
	EXPECT_EQ(-ENOMEM, one_in(&ex[0], 1, EXMAP_OP_ALLOC, 5, 1));
}

TEST_F(attach, one_call_for_all_regions)
{
	struct exmap *ex = self->ex;
	struct exmap_vec vecs[] = {
		in_region(0, EXMAP_OP_FREE, 0, 1, 0),
		in_region(1, EXMAP_OP_FREE, 0, 1, 0),
		in_region(2, EXMAP_OP_READ, 5, 1, 0),
		in_region(0, EXMAP_OP_READ, 5, 2, 0),
		in_region(1, EXMAP_OP_ALLOC, 7, 1, EXMAP_VEC_ZERO),
		in_region(2, EXMAP_OP_ALLOC, 12000, 1, 0),
		in_region(0, EXMAP_OP_WRITE, 1, 1, 0),
		in_region(2, EXMAP_OP_WRITE, 1, 1, 0),
		in_region(0, EXMAP_OP_ALLOC, SLOTS, 1, 0),		/* outside */
		in_region(1, EXMAP_OP_ALLOC, 2 * SLOTS - 1, 1, 0),	/* inside */
		in_region(1, EXMAP_OP_READ, FILE_PAGES, 1, 0),		/* end of file */
		in_region(REGIONS, EXMAP_OP_ALLOC, 0, 1, 0),
		in_region(65535, EXMAP_OP_FREE, 0, 1, 0),
		in_region(1, EXMAP_OP_READ, 9, 1, EXMAP_VEC_DIRTY),
	};
	static const struct exmap_result want[] = {
		{ 0, 1 }, { 0, 1 }, { 0, 1 }, { 0, 2 }, { 0, 1 }, { 0, 1 }, { 0, 1 }, { 0, 1 },
		{ -ERANGE }, { 0, 1 }, { -ENODATA }, { -ENXIO }, { -ENXIO }, { -EINVAL },
	};
	struct exmap_result r[14];
	int i;

	for (i = 0; i < 3; i++) {
		ASSERT_EQ(2, one_in(&ex[0], i, EXMAP_OP_ALLOC, 0, 2));
		make_page((__u64 *)page_at(&ex[i], 1), NEW(i));
	}
	EXPECT_EQ(5, vectors(vecs, r, 14));
	for (i = 0; i < 14; i++) {
		EXPECT_EQ(want[i].res, r[i].res)
			TH_LOG("vector %d", i);
		EXPECT_EQ(want[i].pages, r[i].pages)
			TH_LOG("vector %d", i);
	}
	EXPECT_FALSE(present(page_at(&ex[0], 0)));
	EXPECT_FALSE(present(page_at(&ex[1], 0)));
	EXPECT_TRUE(present(page_at(&ex[2], 0)));
	EXPECT_TRUE(page_is(page_at(&ex[2], 5), 5 + 2 * FILE_STEP));
	EXPECT_TRUE(page_is(page_at(&ex[0], 5), 5));
	EXPECT_TRUE(page_is(page_at(&ex[0], 6), 6));
	EXPECT_TRUE(all_zero(page_at(&ex[1], 7), PG));
	EXPECT_TRUE(present(page_at(&ex[1], 2 * SLOTS - 1)));
	EXPECT_TRUE(file_has(self->file[0], 1, NEW(0)));
	EXPECT_TRUE(file_has(self->file[1], 1, 1 + FILE_STEP));
	EXPECT_TRUE(file_has(self->file[2], 1, NEW(2)));
}

/* The same slots of all regions change places in large calls */
TEST_F(attach, pages_go_round)
{
	struct exmap_vec vecs[2 * BUFFER];
	struct exmap_result r[2 * BUFFER];
	int at[BUFFER], in[BUFFER], i, round, next;
	__u64 random = 77;

	for (i = 0; i < BUFFER; i++) {
		in[i] = random_below(&random, REGIONS);
		/* Far apart, so that page tables come and go */
		at[i] = i + 64 * random_below(&random, SLOTS / 64);
		vecs[i] = in_region(in[i], EXMAP_OP_ALLOC, at[i], 1, 0);
	}
	ASSERT_EQ(0, ex_vectors(&self->ex[0], 0, vecs, r, BUFFER));
	for (round = 0; round < scaled(30); round++) {
		for (i = 0; i < BUFFER; i++)
			stamp_page(page_at(&self->ex[in[i]], at[i]), at[i] * 8 + in[i]);
		for (i = 0; i < BUFFER; i++)
			ASSERT_TRUE(stamp_intact(page_at(&self->ex[in[i]], at[i]),
						 at[i] * 8 + in[i]));
		for (i = 0; i < BUFFER; i++) {
			vecs[i] = in_region(in[i], EXMAP_OP_FREE, at[i], 1, 0);
			next = (in[i] + 1 + random_below(&random, REGIONS - 1)) % REGIONS;
			vecs[BUFFER + i] = in_region(next, EXMAP_OP_ALLOC, at[i], 1, 0);
			in[i] = next;
		}
		ASSERT_EQ(0, vectors(vecs, r, 2 * BUFFER));
		for (i = 0; i < 2 * BUFFER; i++)
			ASSERT_EQ(1, r[i].pages);
		for (i = 0; i < BUFFER; i++) {
			ASSERT_FALSE(present(page_at(&self->ex[(in[i] + 1) % REGIONS], at[i])));
			ASSERT_FALSE(present(page_at(&self->ex[(in[i] + 2) % REGIONS], at[i])));
			ASSERT_TRUE(present(page_at(&self->ex[in[i]], at[i])));
		}
	}
}

/*
 * With deferred flushes, a slot may get the page back that it has lost, but not the page
 * that the slot with the same number of another region has lost.
 */
TEST_F(attach, what_a_slot_has_lost)
{
	struct exmap_vec vecs[2 * REGIONS];
	struct exmap_result r[2 * REGIONS];
	struct exmap *ex = self->ex;
	int i;

	for (i = 0; i < REGIONS; i++) {
		ASSERT_EQ(1, one_in(&ex[0], i, EXMAP_OP_ALLOC, 9, 1));
		make_page((__u64 *)page_at(&ex[i], 9), i);
		vecs[i] = in_region(i, EXMAP_OP_FREE, 9, 1, 0);
		vecs[REGIONS + i] = in_region(REGIONS - 1 - i, EXMAP_OP_ALLOC, 9, 1, 0);
	}
	ASSERT_EQ(0, vectors(vecs, r, 2 * REGIONS));
	/* Without a flush, it can only be the page that the slot had */
	if (variant->flags & EXMAP_SETUP_DEFERRED)
		for (i = 0; i < REGIONS; i++)
			EXPECT_TRUE(page_is(page_at(&ex[i], 9), i))
				TH_LOG("region %d", i);
}

TEST_F(attach, a_protected_region)
{
	struct exmap_vec vecs[] = {
		in_region(0, EXMAP_OP_ALLOC, 1, 1, 0), in_region(1, EXMAP_OP_ALLOC, 1, 1, 0),
		in_region(2, EXMAP_OP_ALLOC, 1, 1, 0), in_region(1, EXMAP_OP_ALLOC, 3, 1, 0),
		in_region(0, EXMAP_OP_ALLOC, 3, 1, 0),
	};
	struct exmap_result r[5];
	struct exmap *ex = self->ex;

	ASSERT_EQ(0, mprotect(ex[1].region, ex[1].pages * PG, PROT_READ));
	ASSERT_EQ(0, vectors(vecs, r, 5));
	EXPECT_EQ(0, try_write_byte(page_at(&ex[0], 1), 1));
	EXPECT_EQ(0, try_write_byte(page_at(&ex[0], 3), 1));
	EXPECT_EQ(0, try_write_byte(page_at(&ex[2], 1), 1));
	EXPECT_EQ(SIGSEGV, try_write_byte(page_at(&ex[1], 1), 1));
	EXPECT_EQ(SIGSEGV, try_write_byte(page_at(&ex[1], 3), 1));
	EXPECT_EQ(0, try_read_byte(page_at(&ex[1], 1)));
	EXPECT_EQ(0, try_read_byte(page_at(&ex[1], 3)));
}

TEST_F(attach, query)
{
	struct exmap *ex = self->ex;
	struct exmap_vec vecs[] = {
		in_region(2, 0, 10, 3, 0), in_region(0, 0, 10, 3, 0), in_region(1, 0, 10, 3, 0),
	};
	__u8 slots[9];
	int i;

	ASSERT_EQ(1, one_in(&ex[0], 2, EXMAP_OP_ALLOC, 10, 1));
	ASSERT_EQ(1, one_in(&ex[0], 0, EXMAP_OP_READ, 11, 1));
	ASSERT_EQ(1, one_in(&ex[0], 1, EXMAP_OP_ALLOC, 12, 1));
	ASSERT_EQ(0, ex_query(ex[1].fd, vecs, 3, slots, 0));
	for (i = 0; i < 9; i++)
		EXPECT_EQ(i % 4 ? 0 : i == 4 ? EXMAP_SLOT_RESIDENT :
			  EXMAP_SLOT_RESIDENT | EXMAP_SLOT_DIRTY,
			  slots[i] & (EXMAP_SLOT_RESIDENT | EXMAP_SLOT_DIRTY));

	vecs[2].region = REGIONS;
	EXPECT_EQ(-ENXIO, ex_query(ex[1].fd, vecs, 3, slots, 0));
	vecs[2] = in_region(1, 0, 2 * SLOTS - 1, 2, 0);
	EXPECT_EQ(-ERANGE, ex_query(ex[1].fd, vecs, 3, slots, 0));
	vecs[2] = in_region(1, 0, 2 * SLOTS - 2, 2, 0);
	EXPECT_EQ(0, ex_query(ex[1].fd, vecs, 3, slots, 0));
}

TEST_F(attach, an_unmapped_region)
{
	struct exmap *ex = self->ex;
	struct exmap_vec vecs[] = {
		in_region(1, EXMAP_OP_ALLOC, 1, 1, 0), in_region(0, EXMAP_OP_ALLOC, 1, 1, 0),
		in_region(1, EXMAP_OP_FREE, 0, 4, 0), in_region(2, EXMAP_OP_READ, 1, 1, 0),
		in_region(1, EXMAP_OP_READ, 1, 1, 0),
	};
	struct exmap_result r[5];
	int i;

	/* All of the pool is in a region that goes away: its pages are found */
	ASSERT_EQ(BUFFER, one_in(&ex[0], 1, EXMAP_OP_ALLOC, 0, BUFFER));
	ASSERT_EQ(0, munmap(ex[1].region, ex[1].pages * PG));
	EXPECT_EQ(BUFFER, ex_owned(ex[1].fd));
	ASSERT_EQ(3, vectors(vecs, r, 5));
	for (i = 0; i < 5; i++)
		EXPECT_EQ(i == 1 || i == 3 ? 0 : -ENXIO, r[i].res);
	EXPECT_EQ(BUFFER - 2, one_in(&ex[0], 0, EXMAP_OP_ALLOC, 2, BUFFER - 2));
	EXPECT_EQ(-ENOMEM, one_in(&ex[0], 0, EXMAP_OP_ALLOC, 0, 1));
	/* Such a file cannot be used for calls, but for another pool no more either */
	EXPECT_EQ(-ENXIO, one_in(&ex[1], 0, EXMAP_OP_ALLOC, 0, 1));
	EXPECT_EQ(-EBUSY, attach(ex[1].fd, ex[0].fd, (struct exmap_setup2){ .fd = -1 }));
	EXPECT_EQ(-EBUSY, ex_try_mmap(ex[1].fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));

	/* Its number is given to another one when its file is closed */
	close(ex[1].fd);
	EXPECT_EQ(-ENXIO, one_in(&ex[0], 1, EXMAP_OP_ALLOC, 0, 1));
	ASSERT_EQ(1, add_region(_metadata, &ex[1], &ex[2], self->file[1], 2 * SLOTS));
	EXPECT_EQ(-ENOMEM, one_in(&ex[0], 1, EXMAP_OP_ALLOC, 0, 1));
	EXPECT_EQ(2, one_in(&ex[0], 0, EXMAP_OP_FREE, 10, 2));
	EXPECT_EQ(2, one_in(&ex[0], 1, EXMAP_OP_ALLOC, 0, 2));
}

TEST_F(attach, the_first_region_goes_first)
{
	struct exmap *ex = self->ex;

	ASSERT_EQ(10, one_in(&ex[0], 0, EXMAP_OP_ALLOC, 0, 10));
	ASSERT_EQ(10, one_in(&ex[0], 2, EXMAP_OP_ALLOC, 0, 10));
	exmap_destroy(&ex[0]);
	EXPECT_EQ(BUFFER - 10, one_in(&ex[2], 2, EXMAP_OP_ALLOC, 10, BUFFER - 10));
	EXPECT_EQ(-ENOMEM, one_in(&ex[2], 1, EXMAP_OP_ALLOC, 0, 1));
	EXPECT_EQ(-ENXIO, one_in(&ex[2], 0, EXMAP_OP_ALLOC, 0, 1));
	EXPECT_EQ(1, one_in(&ex[2], 2, EXMAP_OP_FREE, 10, 1));
	EXPECT_EQ(1, one_in(&ex[1], 1, EXMAP_OP_READ, 3, 1));
	EXPECT_TRUE(page_is(page_at(&ex[1], 3), 3 + FILE_STEP));

	/* The pool ends with the last region, also if files are open */
	munmap(ex[1].region, ex[1].pages * PG);
	EXPECT_LT(0, ex_owned(ex[1].fd));
	munmap(ex[2].region, ex[2].pages * PG);
	EXPECT_EQ(0, ex_owned(ex[1].fd));
	EXPECT_EQ(-ENXIO, ex_resize(ex[1].fd, 5));
	ex[0].fd = exmap_open(_metadata);
	EXPECT_EQ(-ENXIO, attach(ex[0].fd, ex[1].fd, (struct exmap_setup2){ .fd = -1 }));
	/* It may have another one, though */
	EXPECT_EQ(0, ex_setup2(ex[0].fd, -1, 1, 5));
	ex[0].ifaces = 0;
}

TEST_F(attach, a_region_that_is_not_mapped_yet)
{
	struct exmap *ex = self->ex;
	int fd = exmap_open(_metadata);
	void *region;

	ASSERT_EQ(REGIONS, attach(fd, ex[1].fd, (struct exmap_setup2){ .fd = -1 }));
	EXPECT_EQ(-ENXIO, one_in(&ex[0], REGIONS, EXMAP_OP_ALLOC, 0, 1));
	region = ex_map_region(fd, 10);
	ASSERT_NE(MAP_FAILED, region);
	EXPECT_EQ(10, one_in(&ex[0], REGIONS, EXMAP_OP_ALLOC, 0, 10));
	EXPECT_EQ(-ENODEV, one_in(&ex[0], REGIONS, EXMAP_OP_READ, 0, 1));
	munmap(region, 10 * PG);
	close(fd);

	/* The mapping may also come first */
	fd = exmap_open(_metadata);
	region = ex_map_region(fd, 10);
	ASSERT_NE(MAP_FAILED, region);
	ASSERT_EQ(REGIONS, attach(fd, ex[1].fd, (struct exmap_setup2){ .fd = -1 }));
	EXPECT_EQ(10, one_in(&ex[0], REGIONS, EXMAP_OP_ALLOC, 0, 10));
	munmap(region, 10 * PG);
	close(fd);
	EXPECT_EQ(BUFFER, one_in(&ex[0], 0, EXMAP_OP_ALLOC, 0, BUFFER));
}

TEST_F(attach, errors)
{
	const struct exmap_setup2 none = { .fd = -1 };
	struct exmap *ex = self->ex;
	int fd = exmap_open(_metadata), other = exmap_open(_metadata);
	struct exmap_setup2 setup = none;
	pid_t pid;

	EXPECT_EQ(-EBADF, attach(fd, 12345, none));
	EXPECT_EQ(-EINVAL, attach(fd, self->file[0], none));
	EXPECT_EQ(-ENXIO, attach(fd, other, none));
	EXPECT_EQ(-ENXIO, attach(fd, fd, none));
	EXPECT_EQ(-EBUSY, attach(ex[1].fd, ex[0].fd, none));
	EXPECT_EQ(-EBADF, attach(fd, ex[0].fd, (struct exmap_setup2){ .fd = 12345 }));
	EXPECT_EQ(-EINVAL, attach(fd, ex[0].fd, (struct exmap_setup2){ .fd = -1, .offset = 1 }));
	setup.buffer_size = 1;
	EXPECT_EQ(-EINVAL, attach(fd, ex[0].fd, setup));
	setup = none;
	setup.max_interfaces = 1;
	EXPECT_EQ(-EINVAL, attach(fd, ex[0].fd, setup));
	setup = none;
	setup.quarantine = 1;
	EXPECT_EQ(-EINVAL, attach(fd, ex[0].fd, setup));
	setup = none;
	setup.flags = EXMAP_SETUP_DEFERRED;
	EXPECT_EQ(-EINVAL, attach(fd, ex[0].fd, setup));
	if (variant->flags & EXMAP_SETUP_DEFERRED) {
		setup.flags = EXMAP_SETUP_PAGEFAULT_ALLOC;
		EXPECT_EQ(-EINVAL, attach(fd, ex[0].fd, setup));
	}
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(attach(open(DEVICE, O_RDWR), ex[0].fd, none) == -EPERM ? 0 : 1);
	EXPECT_EQ(0, wait_child(pid));
	/* Nothing of this has left anything behind */
	EXPECT_EQ(REGIONS, attach(fd, ex[0].fd, none));
	close(fd);
	close(other);
}

/* A fault handler of a region of its own */
TEST_F(attach, pagefault_alloc)
{
	struct exmap_setup2 setup = { .fd = -1, .flags = EXMAP_SETUP_PAGEFAULT_ALLOC };
	struct exmap *ex = self->ex;
	int fd = exmap_open(_metadata);
	char *region;

	if (variant->flags & EXMAP_SETUP_DEFERRED)
		SKIP(return, "not with deferred flushes");
	ASSERT_EQ(REGIONS, attach(fd, ex[0].fd, setup));
	region = ex_map_region(fd, BUFFER + 1);
	ASSERT_NE(MAP_FAILED, region);
	EXPECT_EQ(0, try_write_byte(region + 3 * PG, 1));
	EXPECT_EQ(SIGSEGV, try_write_byte(page_at(&ex[1], 3), 1));
	EXPECT_LT(0, ex_owned(ex[1].fd));
	EXPECT_EQ(1, one_in(&ex[1], REGIONS, EXMAP_OP_FREE, 0, 10));
	munmap(region, (BUFFER + 1) * PG);
	close(fd);
}

/* Vectors and results of a program that is newer than the kernel */
TEST_F(attach, larger_elements)
{
	/* The largest that the kernel accepts */
	struct {
		struct exmap_vec vec;
		__u64 more[30];
	} vecs[20] = {};
	struct {
		struct exmap_result result;
		__u64 more[31];
	} r[20];
	struct exmap_vectors params = {
		.size = sizeof(params), .nr = 20,
		.vecs = (unsigned long)vecs, .results = (unsigned long)r,
		.vec_size = sizeof(vecs[0]), .result_size = sizeof(r[0]),
	};
	struct exmap *ex = self->ex;
	int i;

	ASSERT_EQ(256, params.vec_size);
	ASSERT_EQ(256, params.result_size);
	memset(r, 0xee, sizeof(r));
	for (i = 0; i < 20; i++)
		vecs[i].vec = in_region(i % REGIONS, EXMAP_OP_ALLOC, i, 1, 0);
	vecs[19].more[29] = 1;
	EXPECT_EQ(-E2BIG, ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, &params));
	vecs[19].more[29] = 0;
	EXPECT_EQ(0, ex_owned(ex->fd));
	EXPECT_EQ(0xee, *(__u8 *)&r[0]);
	EXPECT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, &params));
	for (i = 0; i < 20; i++) {
		EXPECT_EQ(1, r[i].result.pages);
		EXPECT_TRUE(all_zero(r[i].more, sizeof(r[i].more)));
		EXPECT_TRUE(present(page_at(&ex[i % REGIONS], i)));
	}
	/* A pair, for which there is a path of its own */
	params.nr = 2;
	vecs[0].vec = in_region(0, EXMAP_OP_FREE, 0, 1, 0);
	vecs[1].vec = in_region(0, EXMAP_OP_ALLOC, 1000, 1, 0);
	EXPECT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, &params));
	/* While the flush is deferred, the TLB may still have the page */
	EXPECT_EQ(0, ex_flush(ex->fd));
	EXPECT_FALSE(present(page_at(ex, 0)));
	EXPECT_TRUE(present(page_at(ex, 1000)));
}

/* Pools with many regions: each is used, and all of them in one call */
TEST_F_TIMEOUT(attach, hundreds, SLOW)
{
	enum { MANY = 300 };
	struct exmap_vec vecs[BUFFER];
	struct exmap_result r[BUFFER];
	static struct exmap ex[MANY];
	struct rlimit limit = { 2 * MANY, 2 * MANY };
	int i, round;

	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
	for (i = REGIONS; i < MANY; i++)
		ASSERT_EQ(i, add_region(_metadata, &ex[i], &self->ex[i % REGIONS],
					self->file[i % REGIONS], FILE_PAGES));
	for (round = 0; round < 10; round++) {
		for (i = 0; i < BUFFER; i++)
			vecs[i] = in_region(REGIONS + (i * 37 + round * 11) % (MANY - REGIONS),
					    EXMAP_OP_READ, i, 1, 0);
		ASSERT_EQ(0, vectors(vecs, r, BUFFER));
		for (i = 0; i < BUFFER; i++) {
			const int n = vecs[i].region;

			ASSERT_TRUE(page_is(page_at(&ex[n], i), i + n % REGIONS * FILE_STEP));
			vecs[i].opcode = EXMAP_OP_FREE;
		}
		ASSERT_EQ(0, vectors(vecs, r, BUFFER));
	}
	for (i = MANY - 1; i >= REGIONS; i--)
		exmap_destroy(&ex[i]);
	EXPECT_EQ(BUFFER, one_in(&self->ex[0], 1, EXMAP_OP_ALLOC, 0, BUFFER));
}

/*
 * A slot of a region that comes to the addresses of another one must not get the page
 * back that a slot of the other one has lost, without a flush.
 */
TEST_F(attach, a_region_at_the_addresses_of_another)
{
	struct exmap_setup2 setup = { .fd = -1 };
	struct exmap *ex = self->ex;
	struct exmap_vec vec = in_region(1, EXMAP_OP_ALLOC, 9, 1, 0);
	struct exmap_result r;
	long flushes;
	void *region = ex[1].region;

	/* Interface 0 has the page that region 1 has lost */
	ASSERT_EQ(1, one_in(&ex[0], 1, EXMAP_OP_ALLOC, 9, 1));
	make_page((__u64 *)page_at(&ex[1], 9), 1234);
	ASSERT_EQ(1, one_in(&ex[0], 1, EXMAP_OP_FREE, 9, 1));
	ASSERT_EQ(0, munmap(region, ex[1].pages * PG));
	close(ex[1].fd);
	ex[1].fd = exmap_open(_metadata);
	ASSERT_EQ(1, attach(ex[1].fd, ex[0].fd, setup));
	ASSERT_EQ(region, mmap(region, ex[1].pages * PG, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_FIXED_NOREPLACE, ex[1].fd, EXMAP_OFF_EXMAP));
	/* Interface 1 maps another one there, and takes it out again */
	ASSERT_EQ(0, ex_vectors(&ex[0], 1, &vec, &r, 1));
	make_page((__u64 *)page_at(&ex[1], 9), 5678);
	vec.opcode = EXMAP_OP_FREE;
	ASSERT_EQ(0, ex_vectors(&ex[0], 1, &vec, &r, 1));
	flushes = read_fdinfo(getpid(), ex[0].fd, "exmap-flushes");
	ASSERT_EQ(1, one_in(&ex[0], 1, EXMAP_OP_ALLOC, 9, 1));
	if (read_fdinfo(getpid(), ex[0].fd, "exmap-flushes") == flushes &&
	    variant->flags & EXMAP_SETUP_DEFERRED)
		EXPECT_FALSE(page_is(page_at(&ex[1], 9), 1234));
}

/* What is held elsewhere when its region goes away is found when it is let go */
TEST_F(attach, a_page_that_is_held_when_its_region_goes)
{
	enum { MANY = 3000 };
	struct exmap *ex = self->ex;
	struct iovec iov;
	int pipes[2];

	ASSERT_EQ(0, ex_resize(ex[0].fd, MANY));
	ASSERT_EQ(1, one_in(&ex[0], 1, EXMAP_OP_ALLOC, 77, 1));
	ASSERT_EQ(1000, one_in(&ex[0], 2, EXMAP_OP_ALLOC, 0, 1000));
	iov = (struct iovec){ page_at(&ex[1], 77), PG };
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(PG, vmsplice(pipes[1], &iov, 1, 0));
	ASSERT_EQ(0, munmap(ex[1].region, ex[1].pages * PG));
	ASSERT_EQ(MANY - 1001, one_in(&ex[0], 0, EXMAP_OP_ALLOC, 0, MANY - 1001));
	EXPECT_EQ(-ENOMEM, one_in(&ex[0], 0, EXMAP_OP_ALLOC, 4000, 1));
	close(pipes[0]);
	close(pipes[1]);
	EXPECT_EQ(1, one_in(&ex[0], 0, EXMAP_OP_ALLOC, 4000, 1));
}

/* A file that survives its process does not keep the pages of the pool */
TEST_F(attach, a_process_that_ends)
{
	const struct exmap_setup2 setup = { .fd = -1 };
	int ready[2];
	char byte;
	pid_t pid;

	ASSERT_EQ(0, pipe(ready));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct exmap ex = { .fd = open(DEVICE, O_RDWR), .pages = 100 };
		int fd = open(DEVICE, O_RDWR);
		long left = -1, i;

		if (ex_setup2(ex.fd, -1, 1, 100) || attach(fd, ex.fd, setup) != 1)
			_exit(2);
		ex.region = ex_map_region(ex.fd, 100);
		if (ex_vec_one(&ex, 0, EXMAP_OP_ALLOC, 0, 100, 0) != 100)
			_exit(3);
		if (fork())
			_exit(read_fdinfo(getpid(), fd, "exmap-pages") == 100 ? 0 : 4);
		/* The grandchild has the file of the second region, which was never mapped */
		close(ex.fd);
		for (i = 0; i < 500 && left; i++) {
			left = read_fdinfo(getpid(), fd, "exmap-pages");
			usleep(10000);
		}
		byte = left;
		_exit(write(ready[1], &byte, 1) != 1);
	}
	EXPECT_EQ(0, wait_child(pid));
	close(ready[1]);
	ASSERT_EQ(1, read(ready[0], &byte, 1));
	EXPECT_EQ(0, byte);
	close(ready[0]);
}

/*
 * Touches of slots that wait for a flush fail when the region is gone, also where another
 * region keeps the pool.
 */
TEST_F(attach, pages_that_wait_when_a_region_goes)
{
	struct exmap *ex = &self->ex[1];
	int i;

	ASSERT_EQ(32, one_in(&self->ex[0], 1, EXMAP_OP_ALLOC, 0, 32));
	for (i = 0; i < 32; i++)
		ASSERT_EQ(0, try_write_byte(page_at(ex, i), i));
	ASSERT_EQ(32, one_in(&self->ex[0], 1, EXMAP_OP_FREE, 0, 32));
	ASSERT_EQ(0, munmap(ex->region, ex->pages * PG));
	for (i = 0; i < 32; i++)
		EXPECT_EQ(SIGSEGV, try_read_byte(page_at(ex, i)));
	EXPECT_EQ(BUFFER, one_in(&self->ex[0], 0, EXMAP_OP_ALLOC, 0, BUFFER));
}

/* RLIMIT_MEMLOCK counts the pool, once, until its last region goes */
TEST(memlock)
{
	struct exmap first, second;
	int other;

	become_nobody(_metadata, 100);
	exmap_create(_metadata, &first, -1, 1, 100, SLOTS);
	ASSERT_EQ(1, add_region(_metadata, &second, &first, -1, SLOTS));
	other = exmap_open(_metadata);
	EXPECT_EQ(-ENOMEM, ex_setup2(other, -1, 1, 1));
	exmap_destroy(&first);
	EXPECT_EQ(-ENOMEM, ex_setup2(other, -1, 1, 1));
	EXPECT_EQ(-ENOMEM, ex_resize(second.fd, 101));
	EXPECT_EQ(100, one_in(&second, 1, EXMAP_OP_ALLOC, 0, 100));
	munmap(second.region, SLOTS * PG);
	EXPECT_EQ(0, ex_setup2(other, -1, 1, 100));
	close(second.fd);
	close(other);
}

FIXTURE(limit) {
	int fd[65536];
};

FIXTURE_SETUP(limit)
{
}

FIXTURE_TEARDOWN(limit)
{
}

TEST_F_TIMEOUT(limit, regions_of_a_pool, SLOW)
{
	const struct rlimit files = { 70000, 70000 };
	int *fd = self->fd, i, ret, extra;

	if (setrlimit(RLIMIT_NOFILE, &files))
		SKIP(return, "so many files cannot be opened");
	fd[0] = exmap_open(_metadata);
	ASSERT_EQ(0, ex_setup2(fd[0], -1, 1, 10));
	for (i = 1; i < 65536; i++) {
		fd[i] = exmap_open(_metadata);
		ret = attach(fd[i], fd[0], (struct exmap_setup2){ .fd = -1 });
		ASSERT_EQ(i, ret);
	}
	extra = exmap_open(_metadata);
	EXPECT_EQ(-ENOMEM, attach(extra, fd[0], (struct exmap_setup2){ .fd = -1 }));
	close(fd[40000]);
	EXPECT_EQ(40000, attach(extra, fd[65535], (struct exmap_setup2){ .fd = -1 }));
	for (i = 0; i < 65536; i++)
		close(fd[i]);
	close(extra);
}

/*
 * A call of several rounds names a region whose number is given to other regions, with
 * fewer slots or without a file, while it is under way.
 */
struct renumbering {
	struct exmap *ex;
	int file;
	bool stop;
};

static void *renumber(void *arg)
{
	struct worker *w = arg;
	struct renumbering *r = w->arg;
	int i, fd, slots;
	void *region;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < scaled(300); i++) {
		slots = i & 1 ? 1500 : 1 + i % 600;
		fd = open(DEVICE, O_RDWR | O_CLOEXEC);
		attach(fd, r->ex[0].fd, (struct exmap_setup2){ .fd = i % 3 ? r->file : -1 });
		region = ex_map_region(fd, slots);
		usleep(i % 5 * 300);
		if (region != MAP_FAILED)
			munmap(region, slots * PG);
		close(fd);
	}
	__atomic_store_n(&r->stop, true, __ATOMIC_RELAXED);
	return NULL;
}

static void *read_all(void *arg)
{
	struct worker *w = arg;
	struct renumbering *r = w->arg;
	struct exmap_vec vecs[2];
	struct exmap_result results[2];
	int ret;

	if (!w->index)
		return renumber(w);
	pthread_barrier_wait(&start_line);
	while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED) && !w->what) {
		vecs[0] = in_region(REGIONS, EXMAP_OP_READ, 0, 1400, EXMAP_VEC_ZERO);
		vecs[1] = in_region(REGIONS, EXMAP_OP_FREE, 0, 1, 0);
		ret = ex_vectors(&r->ex[0], 0, vecs, results, 2);
		BROKE(w, ret < 0, ret);
		BROKE(w, results[0].res && results[0].res != -ENXIO && results[0].res != -ERANGE &&
		      results[0].res != -ENODEV && results[0].res != -ENOMEM, results[0].res);
	}
	return NULL;
}

TEST_F_TIMEOUT(attach, a_number_that_changes_its_meaning, SLOW)
{
	struct renumbering arg = { .ex = self->ex, .file = self->file[1] };
	struct worker w[2];

	ASSERT_EQ(0, ex_resize(self->ex[0].fd, 3000));
	run_workers(_metadata, w, 2, read_all, &self->ex[0], &arg);
	EXPECT_EQ(3000, one_in(&self->ex[0], 2, EXMAP_OP_ALLOC, 1000, 3000));
}

/* Two threads work on all regions; a third maps and unmaps the last one */
struct churn {
	struct exmap *ex;
	int file;
	bool stop;
};

static void *churn_regions(void *arg)
{
	struct worker *w = arg;
	struct churn *churn = w->arg;
	int i, fd, ret;
	void *region;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < scaled(400) && !w->what; i++) {
		fd = open(DEVICE, O_RDWR | O_CLOEXEC);
		region = i & 1 ? ex_map_region(fd, SLOTS) : NULL;
		/* Its number is that of the one before, unless that is still in use by a READ */
		ret = attach(fd, churn->ex[0].fd, (struct exmap_setup2){ .fd = churn->file });
		BROKE(w, ret < REGIONS, ret);
		if (!region)
			region = ex_map_region(fd, SLOTS);
		BROKE(w, region == MAP_FAILED, i);
		usleep(i % 7 * 100);
		if (i & 2) {
			munmap(region, SLOTS * PG);
			close(fd);
		} else {
			close(fd);
			munmap(region, SLOTS * PG);
		}
	}
	__atomic_store_n(&churn->stop, true, __ATOMIC_RELAXED);
	return NULL;
}

/* Returns whether something is wrong. A region that comes and goes may be empty. */
static bool churn_call(struct worker *w, struct churn *churn, const struct exmap_vec *vecs)
{
	struct exmap_result r[20];
	int i, ret = ex_vectors(&churn->ex[0], w->index - 1, vecs, r, 20);

	if (BROKE(w, ret < 0, ret))
		return true;
	for (i = 0; i < 20; i++) {
		if (vecs[i].region == REGIONS)
			BROKE(w, r[i].res && r[i].res != -ENXIO, r[i].res);
		else
			BROKE(w, r[i].res || r[i].pages != 1, r[i].res);
	}
	return w->what;
}

static void use_regions(struct worker *w, struct churn *churn)
{
	struct exmap_vec vecs[20];
	int i, region;

	while (!__atomic_load_n(&churn->stop, __ATOMIC_RELAXED)) {
		for (i = 0; i < 20; i++) {
			region = random_below(&w->random, REGIONS + 1);
			/* The threads do not touch the same slots */
			vecs[i] = in_region(region, random_below(&w->random, 4) ?
					    EXMAP_OP_ALLOC : EXMAP_OP_READ,
					    20 * w->index + i, 1, 0);
		}
		if (churn_call(w, churn, vecs))
			break;
		for (i = 0; i < 20; i++)
			vecs[i].opcode = EXMAP_OP_FREE;
		if (churn_call(w, churn, vecs))
			break;
	}
}

static void *churn(void *arg)
{
	struct worker *w = arg;

	if (!w->index)
		return churn_regions(w);
	pthread_barrier_wait(&start_line);
	use_regions(w, w->arg);
	return NULL;
}

TEST_F_TIMEOUT(attach, beside_a_region_that_comes_and_goes, SLOW)
{
	struct churn arg = { .ex = self->ex, .file = self->file[1] };
	struct worker w[3];

	run_workers(_metadata, w, 3, churn, &self->ex[0], &arg);
	EXPECT_EQ(BUFFER, one_in(&self->ex[0], 0, EXMAP_OP_ALLOC, 1000, BUFFER));
}

TEST_HARNESS_MAIN
