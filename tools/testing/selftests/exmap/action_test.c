// SPDX-License-Identifier: GPL-2.0
/* Tests of ALLOC and FREE through ACTION: the effect and result of each vector. */
#include "common.h"

#define PAGES	(3 * 4095 + 7)

FIXTURE(action) {
	struct exmap ex;
	struct exmap_iov *iov;
};

FIXTURE_VARIANT(action) {
	bool mmap_first;
};

FIXTURE_VARIANT_ADD(action, setup_first) {
	.mmap_first = false,
};

FIXTURE_VARIANT_ADD(action, mmap_first) {
	.mmap_first = true,
};

FIXTURE_SETUP(action)
{
	struct exmap *ex = &self->ex;
	int i;

	if (!variant->mmap_first) {
		exmap_create(_metadata, ex, -1, 4, PAGES, PAGES);
	} else {
		ex->fd = exmap_open(_metadata);
		ex->ifaces = 4;
		ex->buffer = PAGES;
		ex->pages = PAGES;
		ex->region = ex_map_region(ex->fd, PAGES);
		ASSERT_NE(MAP_FAILED, ex->region);
		ASSERT_EQ(0, ex_setup(ex->fd, -1, 4, PAGES));
		for (i = 0; i < 4; i++) {
			ex->iface[i] = ex_map_iface(ex->fd, i);
			ASSERT_NE(MAP_FAILED, ex->iface[i]);
		}
	}
	self->iov = ex->iface[0]->iov;
}

FIXTURE_TEARDOWN(action)
{
	exmap_destroy(&self->ex);
}

static int alloc(struct exmap *ex, int vectors)
{
	return ex_action(ex->fd, 0, EXMAP_OP_ALLOC, vectors);
}

static int release(struct exmap *ex, int vectors)
{
	return ex_action(ex->fd, 0, EXMAP_OP_FREE, vectors);
}

TEST_F(action, one_page)
{
	char *page = page_at(&self->ex, 5);

	EXPECT_FALSE(present(page));
	set_vec(&self->ex, 0, 0, 5, 1);
	EXPECT_EQ(0, alloc(&self->ex, 1));
	EXPECT_EQ(0, self->iov[0].res);
	EXPECT_EQ(1, self->iov[0].pages);
	ASSERT_TRUE(present(page));
	EXPECT_FALSE(present(page - PG));
	EXPECT_FALSE(present(page + PG));
	stamp_page(page, 5);
	EXPECT_TRUE(stamp_intact(page, 5));

	set_vec(&self->ex, 0, 0, 5, 1);
	EXPECT_EQ(0, release(&self->ex, 1));
	EXPECT_EQ(0, self->iov[0].res);
	EXPECT_EQ(1, self->iov[0].pages);
	EXPECT_FALSE(present(page));
}

TEST_F(action, mapped_pages_are_skipped)
{
	int i;

	ASSERT_EQ(10, ex_alloc(&self->ex, 0, 10, 10));
	for (i = 10; i < 20; i++)
		stamp_page(page_at(&self->ex, i), i);
	EXPECT_EQ(0, ex_alloc(&self->ex, 0, 10, 10));
	EXPECT_EQ(0, ex_alloc(&self->ex, 1, 12, 3));
	EXPECT_EQ(10, ex_alloc(&self->ex, 1, 5, 20));
	EXPECT_EQ(20, count_present(&self->ex, 0, 40));
	for (i = 10; i < 20; i++)
		EXPECT_TRUE(stamp_intact(page_at(&self->ex, i), i));

	/* Empty every second slot and fill the gaps again */
	for (i = 5; i < 25; i += 2)
		EXPECT_EQ(1, ex_free(&self->ex, 0, i, 1));
	EXPECT_EQ(10, ex_alloc(&self->ex, 0, 5, 20));
	for (i = 10; i < 20; i += 2)
		EXPECT_TRUE(stamp_intact(page_at(&self->ex, i), i));
}

TEST_F(action, unmapped_pages_are_skipped)
{
	EXPECT_EQ(0, ex_free(&self->ex, 0, 0, 1));
	EXPECT_EQ(0, ex_free(&self->ex, 0, 0, 4095));
	ASSERT_EQ(20, ex_alloc(&self->ex, 0, 5, 20));
	EXPECT_EQ(1, ex_free(&self->ex, 0, 10, 1));
	EXPECT_EQ(0, ex_free(&self->ex, 0, 10, 1));
	EXPECT_EQ(19, ex_free(&self->ex, 2, 0, 4095));
	EXPECT_EQ(0, ex_free(&self->ex, 0, 0, 4095));
	EXPECT_EQ(0, count_present(&self->ex, 0, 40));
}

TEST_F_TIMEOUT(action, longest_vectors, SLOW)
{
	int i;

	for (i = 0; i < 3; i++)
		set_vec(&self->ex, 0, i, i * 4095, 4095);
	ASSERT_EQ(0, alloc(&self->ex, 3));
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(0, self->iov[i].res);
		EXPECT_EQ(4095, self->iov[i].pages);
	}
	for (i = 0; i < 3 * 4095; i++)
		stamp_page(page_at(&self->ex, i), i);
	for (i = 0; i < 3 * 4095; i++)
		if (!stamp_intact(page_at(&self->ex, i), i))
			break;
	EXPECT_EQ(3 * 4095, i);
	EXPECT_FALSE(present(page_at(&self->ex, 3 * 4095)));

	set_vec(&self->ex, 0, 0, 1000, 4095);
	set_vec(&self->ex, 0, 1, 2 * 4095 + 1, 4095);
	EXPECT_EQ(0, release(&self->ex, 2));
	EXPECT_EQ(4095, self->iov[0].pages);
	EXPECT_EQ(4094, self->iov[1].pages);
	EXPECT_EQ(3 * 4095 - 4095 - 4094, count_present(&self->ex, 0, PAGES));
	for (i = 0; i < 1000; i++)
		if (!stamp_intact(page_at(&self->ex, i), i))
			break;
	EXPECT_EQ(1000, i);
}

TEST_F(action, vectors_overlap_and_repeat)
{
	set_vec(&self->ex, 0, 0, 100, 10);
	set_vec(&self->ex, 0, 1, 105, 10);
	set_vec(&self->ex, 0, 2, 100, 10);
	set_vec(&self->ex, 0, 3, 90, 40);
	set_vec(&self->ex, 0, 4, 107, 1);
	EXPECT_EQ(0, alloc(&self->ex, 5));
	EXPECT_EQ(10, self->iov[0].pages);
	EXPECT_EQ(5, self->iov[1].pages);
	EXPECT_EQ(0, self->iov[2].pages);
	EXPECT_EQ(25, self->iov[3].pages);
	EXPECT_EQ(0, self->iov[4].pages);
	EXPECT_EQ(40, count_present(&self->ex, 0, 200));

	set_vec(&self->ex, 0, 0, 107, 1);
	set_vec(&self->ex, 0, 1, 100, 10);
	set_vec(&self->ex, 0, 2, 100, 10);
	set_vec(&self->ex, 0, 3, 95, 10);
	set_vec(&self->ex, 0, 4, 0, 300);
	EXPECT_EQ(0, release(&self->ex, 5));
	EXPECT_EQ(1, self->iov[0].pages);
	EXPECT_EQ(9, self->iov[1].pages);
	EXPECT_EQ(0, self->iov[2].pages);
	EXPECT_EQ(5, self->iov[3].pages);
	EXPECT_EQ(25, self->iov[4].pages);
	EXPECT_EQ(0, count_present(&self->ex, 0, 300));
	EXPECT_EQ(0, ex_drain(&self->ex, 0, 0, PAGES));
}

TEST_F(action, same_vector_512_times)
{
	int i, pages = 0;

	for (i = 0; i < 512; i++)
		set_vec(&self->ex, 0, i, 33, 3);
	EXPECT_EQ(0, alloc(&self->ex, 512));
	for (i = 0; i < 512; i++) {
		EXPECT_EQ(0, self->iov[i].res);
		pages += self->iov[i].pages;
	}
	EXPECT_EQ(3, pages);
	for (i = 0; i < 512; i++)
		set_vec(&self->ex, 0, i, 33, 3);
	EXPECT_EQ(0, release(&self->ex, 512));
	for (i = 0, pages = 0; i < 512; i++)
		pages += self->iov[i].pages;
	EXPECT_EQ(3, pages);
	EXPECT_EQ(0, count_present(&self->ex, 30, 10));
}

TEST_F(action, vectors_512)
{
	int i;

	/* Scattered vectors in descending order, with one or two pages each */
	for (i = 0; i < 512; i++)
		set_vec(&self->ex, 0, i, (511 - i) * 5, 1 + i % 2);
	EXPECT_EQ(0, alloc(&self->ex, 512));
	for (i = 0; i < 512; i++) {
		EXPECT_EQ(0, self->iov[i].res);
		EXPECT_EQ(1 + i % 2, self->iov[i].pages);
	}
	EXPECT_EQ(256 * 3, count_present(&self->ex, 0, 512 * 5));
	for (i = 0; i < 512; i++)
		set_vec(&self->ex, 0, i, (511 - i) * 5, 5);
	EXPECT_EQ(0, release(&self->ex, 512));
	for (i = 0; i < 512; i++) {
		EXPECT_EQ(0, self->iov[i].res);
		EXPECT_EQ(1 + i % 2, self->iov[i].pages);
	}
	EXPECT_EQ(0, count_present(&self->ex, 0, 512 * 5));
}

TEST_F(action, only_iov_len_vectors_are_done)
{
	int i;

	for (i = 0; i < 512; i++)
		set_vec(&self->ex, 0, i, i, 1);
	EXPECT_EQ(0, alloc(&self->ex, 7));
	EXPECT_EQ(7, count_present(&self->ex, 0, 512));
	for (i = 7; i < 512; i++)
		EXPECT_EQ(1ULL << 52 | i, self->iov[i].value);
}

TEST_F(action, len_0)
{
	int i;

	ASSERT_EQ(1, ex_alloc(&self->ex, 0, 9, 1));
	stamp_page(page_at(&self->ex, 9), 9);
	set_vec(&self->ex, 0, 0, 9, 0);
	set_vec(&self->ex, 0, 1, 10, 0);
	/* A vector with len 0 succeeds even if it points outside the region */
	set_vec(&self->ex, 0, 2, PAGES, 0);
	set_vec(&self->ex, 0, 3, PAGES + 1, 0);
	set_vec(&self->ex, 0, 4, (1ULL << 52) - 1, 0);
	EXPECT_EQ(0, release(&self->ex, 5));
	for (i = 0; i < 5; i++)
		EXPECT_EQ(0, (long)self->iov[i].value & 0xffffffffffff);
	set_vec(&self->ex, 0, 0, 9, 0);
	set_vec(&self->ex, 0, 1, 10, 0);
	set_vec(&self->ex, 0, 2, PAGES, 0);
	set_vec(&self->ex, 0, 3, PAGES + 1, 0);
	set_vec(&self->ex, 0, 4, (1ULL << 52) - 1, 0);
	EXPECT_EQ(0, alloc(&self->ex, 5));
	for (i = 0; i < 5; i++)
		EXPECT_EQ(0, (long)self->iov[i].value & 0xffffffffffff);
	EXPECT_EQ(1, count_present(&self->ex, 0, 20));
	EXPECT_TRUE(stamp_intact(page_at(&self->ex, 9), 9));
}

/* ALLOC and FREE must refuse a range that is not entirely inside the region */
static void check_range(struct __test_metadata *_metadata, struct exmap *ex,
			__u64 page, int len)
{
	struct exmap_iov *iov = ex->iface[0]->iov;
	int opcode;

	for (opcode = EXMAP_OP_ALLOC; opcode <= EXMAP_OP_FREE; opcode++) {
		set_vec(ex, 0, 0, page, len);
		EXPECT_EQ(1, ex_action(ex->fd, 0, opcode, 1));
		EXPECT_EQ(-ERANGE, iov[0].res)
			TH_LOG("opcode %d page %#llx len %d", opcode, page, len);
		EXPECT_EQ(0, iov[0].pages);
	}
}

TEST_F(action, outside_the_region)
{
	const __u64 limit = 1ULL << 52;
	__u64 base = (unsigned long)self->ex.region / PG;
	int bit, i;

	ASSERT_EQ(2, ex_alloc(&self->ex, 0, PAGES - 2, 2));
	ASSERT_EQ(1, ex_alloc(&self->ex, 0, 0, 1));
	stamp_page(page_at(&self->ex, 0), 1);
	stamp_page(page_at(&self->ex, PAGES - 1), 2);

	check_range(_metadata, &self->ex, PAGES, 1);
	check_range(_metadata, &self->ex, PAGES, 4095);
	check_range(_metadata, &self->ex, PAGES - 1, 2);
	check_range(_metadata, &self->ex, PAGES - 4094, 4095);
	check_range(_metadata, &self->ex, limit - 1, 1);
	check_range(_metadata, &self->ex, limit - 1, 2);
	check_range(_metadata, &self->ex, limit - 1, 4095);
	check_range(_metadata, &self->ex, limit - 4095, 4095);
	for (bit = 14; bit < 52; bit++) {
		check_range(_metadata, &self->ex, 1ULL << bit, 1);
		check_range(_metadata, &self->ex, (1ULL << bit) + 5, 4095);
	}
	/* Ranges that would wrap around to below the region, or across its start */
	check_range(_metadata, &self->ex, limit - base, 1);
	check_range(_metadata, &self->ex, limit - base + 1, 4095);
	for (i = 1; i < 4; i++)
		check_range(_metadata, &self->ex, limit - i, i + 1);
	check_range(_metadata, &self->ex, 1ULL << 51, 1);

	EXPECT_TRUE(stamp_intact(page_at(&self->ex, 0), 1));
	EXPECT_TRUE(stamp_intact(page_at(&self->ex, PAGES - 1), 2));
	EXPECT_EQ(3, ex_drain(&self->ex, 0, 0, PAGES));
	/* A range that ends with the last slot is inside the region */
	EXPECT_EQ(4095, ex_alloc(&self->ex, 0, PAGES - 4095, 4095));
}

TEST_F(action, failed_vectors_leave_the_others_alone)
{
	set_vec(&self->ex, 0, 0, 1, 2);
	set_vec(&self->ex, 0, 1, PAGES, 2);
	set_vec(&self->ex, 0, 2, 11, 4);
	set_vec(&self->ex, 0, 3, PAGES - 1, 2);
	set_vec(&self->ex, 0, 4, 21, 8);
	EXPECT_EQ(2, alloc(&self->ex, 5));
	EXPECT_EQ(0, self->iov[0].res);
	EXPECT_EQ(2, self->iov[0].pages);
	EXPECT_EQ(-ERANGE, self->iov[1].res);
	EXPECT_EQ(0, self->iov[1].pages);
	EXPECT_EQ(0, self->iov[2].res);
	EXPECT_EQ(4, self->iov[2].pages);
	EXPECT_EQ(-ERANGE, self->iov[3].res);
	EXPECT_EQ(0, self->iov[3].pages);
	EXPECT_EQ(0, self->iov[4].res);
	EXPECT_EQ(8, self->iov[4].pages);
	EXPECT_EQ(14, count_present(&self->ex, 0, 100));
	EXPECT_FALSE(present(page_at(&self->ex, PAGES - 1)));

	set_vec(&self->ex, 0, 0, PAGES, 1);
	set_vec(&self->ex, 0, 1, 0, 100);
	EXPECT_EQ(1, release(&self->ex, 2));
	EXPECT_EQ(-ERANGE, self->iov[0].res);
	EXPECT_EQ(0, self->iov[1].res);
	EXPECT_EQ(14, self->iov[1].pages);
}

TEST_F(action, all_512_vectors_fail)
{
	int i;

	for (i = 0; i < 512; i++)
		set_vec(&self->ex, 0, i, PAGES + i, 1);
	EXPECT_EQ(512, alloc(&self->ex, 512));
	for (i = 0; i < 512; i++)
		EXPECT_EQ(-ERANGE, self->iov[i].res);
}

TEST_F_TIMEOUT(action, data_survives_the_neighbours_free, SLOW)
{
	int round, i, n;

	ASSERT_EQ(2048, ex_alloc(&self->ex, 0, 0, 2048));
	for (i = 0; i < 2048; i++)
		stamp_page(page_at(&self->ex, i), i);
	for (round = 0; round < 4; round++) {
		/* Free every second page, with 512 vectors per call */
		for (i = 0; i < 2048; i += 1024) {
			for (n = 0; n < 512; n++)
				set_vec(&self->ex, 0, n, i + 2 * n + round % 2, 1);
			ASSERT_EQ(0, release(&self->ex, 512));
		}
		for (i = 0; i < 2048; i++) {
			bool freed = i % 2 == round % 2;

			EXPECT_NE(freed, present(page_at(&self->ex, i)));
			if (!freed)
				EXPECT_TRUE(stamp_intact(page_at(&self->ex, i), i));
		}
		/* Put the freed pages into other slots and overwrite them */
		ASSERT_EQ(1024, ex_alloc(&self->ex, 1, 4096, 1024));
		memset(page_at(&self->ex, 4096), 0xee, 1024 * PG);
		for (i = 0; i < 2048; i++)
			if (i % 2 != round % 2)
				EXPECT_TRUE(stamp_intact(page_at(&self->ex, i), i));
		ASSERT_EQ(1024, ex_free(&self->ex, 2, 4096, 1024));
		ASSERT_EQ(1024, ex_alloc(&self->ex, 3, 0, 2048));
		for (i = 0; i < 2048; i++)
			if (i % 2 == round % 2)
				stamp_page(page_at(&self->ex, i), i);
	}
}

TEST_F(action, after_munmap)
{
	struct exmap_user_interface before;
	struct exmap *ex = &self->ex;

	ASSERT_EQ(3, ex_alloc(ex, 0, 0, 3));
	ASSERT_EQ(0, munmap(ex->region, PAGES * PG));
	set_vec(ex, 0, 0, 0, 1);
	before = *ex->iface[0];
	EXPECT_EQ(-ENXIO, alloc(&self->ex, 0));
	EXPECT_EQ(-ENXIO, alloc(&self->ex, 1));
	EXPECT_EQ(-ENXIO, release(&self->ex, 1));
	EXPECT_EQ(-ENXIO, ex_pread(ex->fd, 0, EXMAP_OP_ALLOC, ex->region, PG));
	EXPECT_EQ(-ENXIO, ex_pread(ex->fd, 0, EXMAP_OP_READ, ex->region, PG));
	EXPECT_EQ(0, memcmp(&before, ex->iface[0], PG));

	/* Calls must still fail if a different mapping has taken the address */
	ASSERT_EQ(ex->region, mmap(ex->region, PG, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_EQ(-ENXIO, alloc(&self->ex, 1));
	EXPECT_EQ(-ENXIO, release(&self->ex, 1));
	EXPECT_EQ(-ENXIO, ex_pread(ex->fd, 0, EXMAP_OP_ALLOC, ex->region, PG));
	EXPECT_EQ(-EBUSY, ex_setup(ex->fd, -1, 1, 1));
}

TEST_HARNESS_MAIN
