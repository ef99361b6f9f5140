// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of ALLOC and FREE through EXMAP_IOCTL_ACTION: the effect and result of each vector,
 * calls that fail, and threads, limits and flushes, which are as with other calls.
 */
#include "common.h"
#include "backing.h"
#include "cgroup.h"
#include "cost.h"
#include "paged.h"
#include "status.h"

#define PAGES	(3 * 4095 + 7)

FIXTURE(action) {
	struct paged p;
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
	struct exmap *ex = &self->p.ex;

	if (!variant->mmap_first) {
		paged_create(_metadata, &self->p, -1, 4, PAGES, PAGES);
	} else {
		*ex = (struct exmap){
			.fd = exmap_open(_metadata), .ifaces = 4, .buffer = PAGES, .pages = PAGES,
		};
		ex->region = ex_map_region(ex->fd, PAGES);
		ASSERT_NE(MAP_FAILED, ex->region);
		ASSERT_EQ(0, ex_setup(ex->fd, -1, 4, PAGES));
		paged_map_ifaces(_metadata, &self->p);
	}
	self->iov = self->p.iface[0]->iov;
}

FIXTURE_TEARDOWN(action)
{
	paged_destroy(&self->p);
}

static int alloc(struct paged *p, int vectors)
{
	return ex_action(p->ex.fd, 0, EXMAP_OP_ALLOC, vectors);
}

static int release(struct paged *p, int vectors)
{
	return ex_action(p->ex.fd, 0, EXMAP_OP_FREE, vectors);
}

TEST_F(action, one_page)
{
	char *page = page_at(&self->p.ex, 5);

	EXPECT_FALSE(present(page));
	set_vec(&self->p, 0, 0, 5, 1);
	EXPECT_EQ(0, alloc(&self->p, 1));
	EXPECT_EQ(0, self->iov[0].res);
	EXPECT_EQ(1, self->iov[0].pages);
	ASSERT_TRUE(present(page));
	EXPECT_FALSE(present(page - PG));
	EXPECT_FALSE(present(page + PG));
	stamp_page(page, 5);
	EXPECT_TRUE(stamp_intact(page, 5));

	set_vec(&self->p, 0, 0, 5, 1);
	EXPECT_EQ(0, release(&self->p, 1));
	EXPECT_EQ(0, self->iov[0].res);
	EXPECT_EQ(1, self->iov[0].pages);
	EXPECT_FALSE(present(page));
}

TEST_F(action, mapped_pages_are_skipped)
{
	int i;

	ASSERT_EQ(10, paged_alloc(&self->p, 0, 10, 10));
	for (i = 10; i < 20; i++)
		stamp_page(page_at(&self->p.ex, i), i);
	EXPECT_EQ(0, paged_alloc(&self->p, 0, 10, 10));
	EXPECT_EQ(0, paged_alloc(&self->p, 1, 12, 3));
	EXPECT_EQ(10, paged_alloc(&self->p, 1, 5, 20));
	EXPECT_EQ(20, count_present(&self->p.ex, 0, 40));
	for (i = 10; i < 20; i++)
		EXPECT_TRUE(stamp_intact(page_at(&self->p.ex, i), i));

	/* Empty every second slot and fill the gaps again */
	for (i = 5; i < 25; i += 2)
		EXPECT_EQ(1, paged_free(&self->p, 0, i, 1));
	EXPECT_EQ(10, paged_alloc(&self->p, 0, 5, 20));
	for (i = 10; i < 20; i += 2)
		EXPECT_TRUE(stamp_intact(page_at(&self->p.ex, i), i));
}

TEST_F(action, unmapped_pages_are_skipped)
{
	EXPECT_EQ(0, paged_free(&self->p, 0, 0, 1));
	EXPECT_EQ(0, paged_free(&self->p, 0, 0, 4095));
	ASSERT_EQ(20, paged_alloc(&self->p, 0, 5, 20));
	EXPECT_EQ(1, paged_free(&self->p, 0, 10, 1));
	EXPECT_EQ(0, paged_free(&self->p, 0, 10, 1));
	EXPECT_EQ(19, paged_free(&self->p, 2, 0, 4095));
	EXPECT_EQ(0, paged_free(&self->p, 0, 0, 4095));
	EXPECT_EQ(0, count_present(&self->p.ex, 0, 40));
}

TEST_F_TIMEOUT(action, longest_vectors, SLOW)
{
	int i;

	for (i = 0; i < 3; i++)
		set_vec(&self->p, 0, i, i * 4095, 4095);
	ASSERT_EQ(0, alloc(&self->p, 3));
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(0, self->iov[i].res);
		EXPECT_EQ(4095, self->iov[i].pages);
	}
	for (i = 0; i < 3 * 4095; i++)
		stamp_page(page_at(&self->p.ex, i), i);
	for (i = 0; i < 3 * 4095; i++)
		if (!stamp_intact(page_at(&self->p.ex, i), i))
			break;
	EXPECT_EQ(3 * 4095, i);
	EXPECT_FALSE(present(page_at(&self->p.ex, 3 * 4095)));

	set_vec(&self->p, 0, 0, 1000, 4095);
	set_vec(&self->p, 0, 1, 2 * 4095 + 1, 4095);
	EXPECT_EQ(0, release(&self->p, 2));
	EXPECT_EQ(4095, self->iov[0].pages);
	EXPECT_EQ(4094, self->iov[1].pages);
	EXPECT_EQ(3 * 4095 - 4095 - 4094, count_present(&self->p.ex, 0, PAGES));
	for (i = 0; i < 1000; i++)
		if (!stamp_intact(page_at(&self->p.ex, i), i))
			break;
	EXPECT_EQ(1000, i);
}

TEST_F(action, vectors_overlap_and_repeat)
{
	set_vec(&self->p, 0, 0, 100, 10);
	set_vec(&self->p, 0, 1, 105, 10);
	set_vec(&self->p, 0, 2, 100, 10);
	set_vec(&self->p, 0, 3, 90, 40);
	set_vec(&self->p, 0, 4, 107, 1);
	EXPECT_EQ(0, alloc(&self->p, 5));
	EXPECT_EQ(10, self->iov[0].pages);
	EXPECT_EQ(5, self->iov[1].pages);
	EXPECT_EQ(0, self->iov[2].pages);
	EXPECT_EQ(25, self->iov[3].pages);
	EXPECT_EQ(0, self->iov[4].pages);
	EXPECT_EQ(40, count_present(&self->p.ex, 0, 200));

	set_vec(&self->p, 0, 0, 107, 1);
	set_vec(&self->p, 0, 1, 100, 10);
	set_vec(&self->p, 0, 2, 100, 10);
	set_vec(&self->p, 0, 3, 95, 10);
	set_vec(&self->p, 0, 4, 0, 300);
	EXPECT_EQ(0, release(&self->p, 5));
	EXPECT_EQ(1, self->iov[0].pages);
	EXPECT_EQ(9, self->iov[1].pages);
	EXPECT_EQ(0, self->iov[2].pages);
	EXPECT_EQ(5, self->iov[3].pages);
	EXPECT_EQ(25, self->iov[4].pages);
	EXPECT_EQ(0, count_present(&self->p.ex, 0, 300));
	EXPECT_EQ(0, paged_drain(&self->p, 0, 0, PAGES));
}

TEST_F(action, same_vector_512_times)
{
	int i, pages = 0;

	for (i = 0; i < 512; i++)
		set_vec(&self->p, 0, i, 33, 3);
	EXPECT_EQ(0, alloc(&self->p, 512));
	for (i = 0; i < 512; i++) {
		EXPECT_EQ(0, self->iov[i].res);
		pages += self->iov[i].pages;
	}
	EXPECT_EQ(3, pages);
	for (i = 0; i < 512; i++)
		set_vec(&self->p, 0, i, 33, 3);
	EXPECT_EQ(0, release(&self->p, 512));
	for (i = 0, pages = 0; i < 512; i++)
		pages += self->iov[i].pages;
	EXPECT_EQ(3, pages);
	EXPECT_EQ(0, count_present(&self->p.ex, 30, 10));
}

TEST_F(action, vectors_512)
{
	int i;

	/* Scattered vectors in descending order, with one or two pages each */
	for (i = 0; i < 512; i++)
		set_vec(&self->p, 0, i, (511 - i) * 5, 1 + i % 2);
	EXPECT_EQ(0, alloc(&self->p, 512));
	for (i = 0; i < 512; i++) {
		EXPECT_EQ(0, self->iov[i].res);
		EXPECT_EQ(1 + i % 2, self->iov[i].pages);
	}
	EXPECT_EQ(256 * 3, count_present(&self->p.ex, 0, 512 * 5));
	for (i = 0; i < 512; i++)
		set_vec(&self->p, 0, i, (511 - i) * 5, 5);
	EXPECT_EQ(0, release(&self->p, 512));
	for (i = 0; i < 512; i++) {
		EXPECT_EQ(0, self->iov[i].res);
		EXPECT_EQ(1 + i % 2, self->iov[i].pages);
	}
	EXPECT_EQ(0, count_present(&self->p.ex, 0, 512 * 5));
}

TEST_F(action, only_iov_len_vectors_are_done)
{
	int i;

	for (i = 0; i < 512; i++)
		set_vec(&self->p, 0, i, i, 1);
	EXPECT_EQ(0, alloc(&self->p, 7));
	EXPECT_EQ(7, count_present(&self->p.ex, 0, 512));
	for (i = 7; i < 512; i++)
		EXPECT_EQ(1ULL << 52 | i, self->iov[i].value);
}

TEST_F(action, len_0)
{
	int i;

	ASSERT_EQ(1, paged_alloc(&self->p, 0, 9, 1));
	stamp_page(page_at(&self->p.ex, 9), 9);
	set_vec(&self->p, 0, 0, 9, 0);
	set_vec(&self->p, 0, 1, 10, 0);
	/* A vector with len 0 succeeds even if it points outside the region */
	set_vec(&self->p, 0, 2, PAGES, 0);
	set_vec(&self->p, 0, 3, PAGES + 1, 0);
	set_vec(&self->p, 0, 4, (1ULL << 52) - 1, 0);
	EXPECT_EQ(0, release(&self->p, 5));
	for (i = 0; i < 5; i++)
		EXPECT_EQ(0, (long)self->iov[i].value & 0xffffffffffff);
	set_vec(&self->p, 0, 0, 9, 0);
	set_vec(&self->p, 0, 1, 10, 0);
	set_vec(&self->p, 0, 2, PAGES, 0);
	set_vec(&self->p, 0, 3, PAGES + 1, 0);
	set_vec(&self->p, 0, 4, (1ULL << 52) - 1, 0);
	EXPECT_EQ(0, alloc(&self->p, 5));
	for (i = 0; i < 5; i++)
		EXPECT_EQ(0, (long)self->iov[i].value & 0xffffffffffff);
	EXPECT_EQ(1, count_present(&self->p.ex, 0, 20));
	EXPECT_TRUE(stamp_intact(page_at(&self->p.ex, 9), 9));
}

/* ALLOC and FREE must refuse a range that is not entirely inside the region */
static void check_range(struct __test_metadata *_metadata, struct paged *p,
			__u64 page, int len)
{
	struct exmap_iov *iov = p->iface[0]->iov;
	int opcode;

	for (opcode = EXMAP_OP_ALLOC; opcode <= EXMAP_OP_FREE; opcode++) {
		set_vec(p, 0, 0, page, len);
		EXPECT_EQ(1, ex_action(p->ex.fd, 0, opcode, 1));
		EXPECT_EQ(-ERANGE, iov[0].res)
			TH_LOG("opcode %d page %#llx len %d", opcode, page, len);
		EXPECT_EQ(0, iov[0].pages);
	}
}

TEST_F(action, outside_the_region)
{
	const __u64 limit = 1ULL << 52;
	__u64 base = (unsigned long)self->p.ex.region / PG;
	int bit, i;

	ASSERT_EQ(2, paged_alloc(&self->p, 0, PAGES - 2, 2));
	ASSERT_EQ(1, paged_alloc(&self->p, 0, 0, 1));
	stamp_page(page_at(&self->p.ex, 0), 1);
	stamp_page(page_at(&self->p.ex, PAGES - 1), 2);

	check_range(_metadata, &self->p, PAGES, 1);
	check_range(_metadata, &self->p, PAGES, 4095);
	check_range(_metadata, &self->p, PAGES - 1, 2);
	check_range(_metadata, &self->p, PAGES - 4094, 4095);
	check_range(_metadata, &self->p, limit - 1, 1);
	check_range(_metadata, &self->p, limit - 1, 2);
	check_range(_metadata, &self->p, limit - 1, 4095);
	check_range(_metadata, &self->p, limit - 4095, 4095);
	for (bit = 14; bit < 52; bit++) {
		check_range(_metadata, &self->p, 1ULL << bit, 1);
		check_range(_metadata, &self->p, (1ULL << bit) + 5, 4095);
	}
	/* Ranges that would wrap around to below the region, or across its start */
	check_range(_metadata, &self->p, limit - base, 1);
	check_range(_metadata, &self->p, limit - base + 1, 4095);
	for (i = 1; i < 4; i++)
		check_range(_metadata, &self->p, limit - i, i + 1);
	check_range(_metadata, &self->p, 1ULL << 51, 1);

	EXPECT_TRUE(stamp_intact(page_at(&self->p.ex, 0), 1));
	EXPECT_TRUE(stamp_intact(page_at(&self->p.ex, PAGES - 1), 2));
	EXPECT_EQ(3, paged_drain(&self->p, 0, 0, PAGES));
	/* A range that ends with the last slot is inside the region */
	EXPECT_EQ(4095, paged_alloc(&self->p, 0, PAGES - 4095, 4095));
}

TEST_F(action, failed_vectors_leave_the_others_alone)
{
	set_vec(&self->p, 0, 0, 1, 2);
	set_vec(&self->p, 0, 1, PAGES, 2);
	set_vec(&self->p, 0, 2, 11, 4);
	set_vec(&self->p, 0, 3, PAGES - 1, 2);
	set_vec(&self->p, 0, 4, 21, 8);
	EXPECT_EQ(2, alloc(&self->p, 5));
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
	EXPECT_EQ(14, count_present(&self->p.ex, 0, 100));
	EXPECT_FALSE(present(page_at(&self->p.ex, PAGES - 1)));

	set_vec(&self->p, 0, 0, PAGES, 1);
	set_vec(&self->p, 0, 1, 0, 100);
	EXPECT_EQ(1, release(&self->p, 2));
	EXPECT_EQ(-ERANGE, self->iov[0].res);
	EXPECT_EQ(0, self->iov[1].res);
	EXPECT_EQ(14, self->iov[1].pages);
}

TEST_F(action, all_512_vectors_fail)
{
	int i;

	for (i = 0; i < 512; i++)
		set_vec(&self->p, 0, i, PAGES + i, 1);
	EXPECT_EQ(512, alloc(&self->p, 512));
	for (i = 0; i < 512; i++)
		EXPECT_EQ(-ERANGE, self->iov[i].res);
}

TEST_F_TIMEOUT(action, data_survives_the_neighbours_free, SLOW)
{
	int round, i, n;

	ASSERT_EQ(2048, paged_alloc(&self->p, 0, 0, 2048));
	for (i = 0; i < 2048; i++)
		stamp_page(page_at(&self->p.ex, i), i);
	for (round = 0; round < 4; round++) {
		/* Free every second page, with 512 vectors per call */
		for (i = 0; i < 2048; i += 1024) {
			for (n = 0; n < 512; n++)
				set_vec(&self->p, 0, n, i + 2 * n + round % 2, 1);
			ASSERT_EQ(0, release(&self->p, 512));
		}
		for (i = 0; i < 2048; i++) {
			bool freed = i % 2 == round % 2;

			EXPECT_NE(freed, present(page_at(&self->p.ex, i)));
			if (!freed)
				EXPECT_TRUE(stamp_intact(page_at(&self->p.ex, i), i));
		}
		/* Put the freed pages into other slots and overwrite them */
		ASSERT_EQ(1024, paged_alloc(&self->p, 1, 4096, 1024));
		memset(page_at(&self->p.ex, 4096), 0xee, 1024 * PG);
		for (i = 0; i < 2048; i++)
			if (i % 2 != round % 2)
				EXPECT_TRUE(stamp_intact(page_at(&self->p.ex, i), i));
		ASSERT_EQ(1024, paged_free(&self->p, 2, 4096, 1024));
		ASSERT_EQ(1024, paged_alloc(&self->p, 3, 0, 2048));
		for (i = 0; i < 2048; i++)
			if (i % 2 == round % 2)
				stamp_page(page_at(&self->p.ex, i), i);
	}
}

TEST_F(action, after_munmap)
{
	struct exmap_user_interface before;
	struct paged *p = &self->p;
	struct exmap *ex = &p->ex;

	ASSERT_EQ(3, paged_alloc(p, 0, 0, 3));
	ASSERT_EQ(0, munmap(ex->region, PAGES * PG));
	set_vec(p, 0, 0, 0, 1);
	before = *p->iface[0];
	EXPECT_EQ(-ENXIO, alloc(p, 0));
	EXPECT_EQ(-ENXIO, alloc(p, 1));
	EXPECT_EQ(-ENXIO, release(p, 1));
	EXPECT_EQ(-ENXIO, ex_pread(ex->fd, 0, EXMAP_OP_ALLOC, ex->region, PG));
	EXPECT_EQ(-ENXIO, ex_pread(ex->fd, 0, EXMAP_OP_READ, ex->region, PG));
	EXPECT_EQ(0, memcmp(&before, p->iface[0], PG));

	/* Calls must still fail if a different mapping has taken the address */
	ASSERT_EQ(ex->region, mmap(ex->region, PG, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_EQ(-ENXIO, alloc(p, 1));
	EXPECT_EQ(-ENXIO, release(p, 1));
	EXPECT_EQ(-ENXIO, ex_pread(ex->fd, 0, EXMAP_OP_ALLOC, ex->region, PG));
	EXPECT_EQ(-EBUSY, ex_setup(ex->fd, -1, 1, 1));
}

/*
 * A pool that is full. A call that fails before it has changed anything leaves its vectors
 * alone, so that it can be repeated as it is.
 */

#define FULL	40

FIXTURE(full) {
	struct paged p;
};

FIXTURE_VARIANT(full) {
	int ifaces;
};

FIXTURE_VARIANT_ADD(full, one_interface) { .ifaces = 1 };
FIXTURE_VARIANT_ADD(full, more_interfaces_than_pages) { .ifaces = 64 };

FIXTURE_SETUP(full)
{
	paged_create(_metadata, &self->p, -1, variant->ifaces, FULL, 10 * FULL);
	ASSERT_EQ(FULL, paged_alloc(&self->p, 0, 0, FULL));
}

FIXTURE_TEARDOWN(full)
{
	struct paged *p = &self->p;

	EXPECT_LE(0, paged_drain(p, 0, 0, p->ex.pages));
	EXPECT_EQ(FULL, paged_alloc(p, p->ex.ifaces - 1, 0, FULL));
	paged_destroy(p);
}

TEST_F(full, failed_call_can_be_repeated)
{
	struct paged *p = &self->p;
	const int last = p->ex.ifaces - 1, count = 3;
	struct exmap_user_interface before;
	int i;

	memset(p->iface[last], 0x5a, PG);
	for (i = 0; i < count; i++)
		set_vec(p, last, i, FULL + 7 * i, 1);
	before = *p->iface[last];
	EXPECT_EQ(-ENOMEM, ex_action(p->ex.fd, last, EXMAP_OP_ALLOC, count));
	EXPECT_EQ(0, memcmp(&before, p->iface[last], PG));
	EXPECT_EQ(-ENOMEM, ex_action(p->ex.fd, last, EXMAP_OP_ALLOC, count));
	EXPECT_EQ(0, memcmp(&before, p->iface[last], PG));

	/* Free through interface 0, and restore its vectors if it is the only one */
	EXPECT_EQ(count, paged_free(p, 0, 0, count));
	if (!last)
		*p->iface[0] = before;
	EXPECT_EQ(0, ex_action(p->ex.fd, last, EXMAP_OP_ALLOC, count));
	for (i = 0; i < count; i++) {
		EXPECT_EQ(0, p->iface[last]->iov[i].res);
		EXPECT_EQ(1, p->iface[last]->iov[i].pages);
		EXPECT_TRUE(present(page_at(&p->ex, FULL + 7 * i)));
	}
	EXPECT_EQ(0, memcmp(&before.iov[count], &p->iface[last]->iov[count],
			    sizeof(before.iov[0]) * (512 - count)));
}

TEST_F(full, nothing_done_is_no_answer)
{
	struct exmap_user_interface before;
	struct paged *p = &self->p;

	/* A vector for a resident slot changes nothing, so the whole call fails */
	set_vec(p, 0, 0, 0, 1);
	set_vec(p, 0, 1, FULL, 1);
	before = *p->iface[0];
	EXPECT_EQ(-ENOMEM, ex_action(p->ex.fd, 0, EXMAP_OP_ALLOC, 2));
	EXPECT_EQ(0, memcmp(&before, p->iface[0], PG));
	/* An ALLOC of resident slots needs no page and succeeds */
	EXPECT_EQ(0, ex_action(p->ex.fd, 0, EXMAP_OP_ALLOC, 1));
	EXPECT_EQ(0, p->iface[0]->iov[0].pages);
}

TEST_F(full, part_of_a_call)
{
	struct paged *p = &self->p;
	struct exmap_iov *iov = p->iface[0]->iov;

	EXPECT_EQ(12, paged_free(p, 0, 0, 12));
	set_vec(p, 0, 0, FULL, 5);
	set_vec(p, 0, 1, FULL + 10, 10);
	set_vec(p, 0, 2, FULL + 30, 2);
	EXPECT_EQ(2, ex_action(p->ex.fd, 0, EXMAP_OP_ALLOC, 3));
	EXPECT_EQ(0, iov[0].res);
	EXPECT_EQ(5, iov[0].pages);
	EXPECT_EQ(-ENOMEM, iov[1].res);
	EXPECT_EQ(7, iov[1].pages);
	EXPECT_EQ(-ENOMEM, iov[2].res);
	EXPECT_EQ(0, iov[2].pages);
	EXPECT_EQ(5, count_present(&p->ex, FULL, 10));
	EXPECT_EQ(7, count_present(&p->ex, FULL + 10, 10));
	EXPECT_EQ(0, count_present(&p->ex, FULL + 30, 2));
}

/* What a call costs that finds no page does not depend on the size of the pool */

static struct paged full_pool;

static void map_full_pool(struct exmap *ex)
{
	full_pool.ex = *ex;
	full_pool.iface[0] = ex_map_iface(ex->fd, 0);
}

static int fail_alloc(struct exmap *ex, long slot)
{
	return paged_alloc(&full_pool, 0, slot, 1);
}

static int fail_read(struct exmap *ex, long slot)
{
	return paged_one(&full_pool, 0, EXMAP_OP_READ, slot, 1);
}

static void unmap_full_pool(struct exmap *ex)
{
	munmap(full_pool.iface[0], PG);
}

static const struct costly kinds[] = {
	{ "ALLOC", map_full_pool, fail_alloc, unmap_full_pool },
	{ "READ", map_full_pool, fail_read, unmap_full_pool },
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

/* Threads */

#define THREADS	64
#define RANGE	32

FIXTURE(threads) {
	struct paged p;
	struct worker w[THREADS];
};

FIXTURE_SETUP(threads)
{
	catch_faults();
}

FIXTURE_TEARDOWN(threads)
{
	struct exmap *ex = &self->p.ex;

	EXPECT_LE(0, ex_drain(ex, 0, 0, ex->pages));
	EXPECT_EQ(ex->buffer, ex_fill(ex, ex->ifaces - 1, 0));
	paged_destroy(&self->p);
}

/*
 * All threads use one interface and overwrite each other's vectors. Which vectors the
 * kernel reads is unpredictable, but every return value must be a valid one.
 */
static void *scramble(void *arg)
{
	struct worker *w = arg;
	struct paged *p = w->arg;
	int i, n, ret, vectors;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < scaled(40); i++) {
		vectors = 1 + random_below(&w->random, 8);
		for (n = 0; n < vectors; n++)
			set_vec(p, 0, n, random_below(&w->random, p->ex.pages + 4),
				random_below(&w->random, 24));
		ret = ex_action(p->ex.fd, 0, random_below(&w->random, 2) ? EXMAP_OP_ALLOC :
				EXMAP_OP_FREE, vectors);
		if (BROKE(w, ret > vectors || (ret < 0 && ret != -ENOMEM), ret))
			break;
	}
	return NULL;
}

TEST_F_TIMEOUT(threads, one_interface, SLOW)
{
	paged_create(_metadata, &self->p, -1, 2, 400, 1500);
	run_workers(_metadata, self->w, THREADS, scramble, &self->p.ex, &self->p);
}

static __u64 stamp_for(struct worker *w, int page)
{
	return (__u64)(w->index + 1) << 32 | page;
}

/* Threads compete for the pages of a pool that is too small for all of them */
static void *fight_for_pages(void *arg)
{
	struct worker *w = arg;
	struct paged *p = w->arg;
	struct exmap_iov *iov = &p->iface[w->index]->iov[0];
	const int first = w->index * RANGE;
	int i, k, n, ret;
	__u64 before;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < scaled(60); i++) {
		set_vec(p, w->index, 0, first, 8);
		before = iov->value;
		ret = ex_action(p->ex.fd, w->index, EXMAP_OP_ALLOC, 1);
		if (ret == -ENOMEM) {
			if (BROKE(w, iov->value != before, iov->value))
				break;
			sched_yield();
			continue;
		}
		if (BROKE(w, ret && (ret != 1 || iov->res != -ENOMEM), ret))
			break;
		n = iov->pages;
		if (BROKE(w, ret ? n < 1 || n > 7 : n != 8, n))
			break;
		for (k = 0; k < 8; k++)
			if (present(page_at(w->ex, first + k)))
				stamp_page(page_at(w->ex, first + k), stamp_for(w, k));
		sched_yield();
		for (k = 0; k < 8; k++)
			if (present(page_at(w->ex, first + k)) &&
			    BROKE(w, !stamp_intact(page_at(w->ex, first + k),
						   stamp_for(w, k)), k))
				return NULL;
		ret = paged_free(p, w->index, first, 8);
		if (BROKE(w, ret != n, ret))
			break;
	}
	return NULL;
}

TEST_F_TIMEOUT(threads, pool_too_small, SLOW)
{
	paged_create(_metadata, &self->p, -1, 16, 50, 16 * RANGE);
	run_workers(_metadata, self->w, 16, fight_for_pages, &self->p.ex, &self->p);
}

static void *until_it_is_gone(void *arg)
{
	struct worker *w = arg;
	struct paged *p = w->arg;
	int ret;

	pthread_barrier_wait(&start_line);
	do {
		ret = paged_alloc(p, w->index, random_below(&w->random, p->ex.pages - 64), 64);
		if (ret >= 0 || ret == -ENOMEM)
			ret = paged_free(p, w->index, random_below(&w->random,
								   p->ex.pages - 64), 64);
	} while (ret >= 0);
	BROKE(w, ret != -ENXIO, ret);
	return NULL;
}

TEST_F_TIMEOUT(threads, against_munmap, SLOW)
{
	struct paged p;
	int round;

	for (round = 0; round < scaled(20); round++) {
		paged_create(_metadata, &p, -1, 4, 300, 1000);
		start_workers(_metadata, self->w, 4, until_it_is_gone, &p.ex, &p);
		usleep(1000 * (round % 5));
		EXPECT_EQ(0, munmap(p.ex.region, p.ex.pages * PG));
		join_workers(_metadata, self->w, 4);
		paged_unmap_ifaces(&p);
		close(p.ex.fd);
	}
	paged_create(_metadata, &self->p, -1, 1, 4, 64);
}

/*
 * A thread on another CPU reads a page, so that its TLB holds it, while the page is freed.
 * A read that starts after FREE has returned must fault.
 */

struct stale {
	long round;		/* the pages of this round are resident */
	long read;		/* and were read in this one */
	long freed;		/* and are freed */
	bool stop;
};

#define STALE_PAGES	8

static void *read_and_fault(void *arg)
{
	struct worker *w = arg;
	struct stale *s = w->arg;
	long round;
	__u64 value;
	int i;

	pin_to_cpu(1);
	for (round = 1; ; round++) {
		while (__atomic_load_n(&s->round, __ATOMIC_SEQ_CST) != round)
			if (__atomic_load_n(&s->stop, __ATOMIC_SEQ_CST))
				return NULL;
		for (i = 0; i < STALE_PAGES; i++)
			BROKE(w, try_read(page_at(w->ex, 600 * i), &value) ||
			      value != (__u64)round, i);
		__atomic_store_n(&s->read, round, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&s->freed, __ATOMIC_SEQ_CST) != round)
			;
		for (i = 0; i < STALE_PAGES; i++)
			BROKE(w, try_read(page_at(w->ex, 600 * i), &value) != SIGSEGV, i);
		__atomic_store_n(&s->read, -round, __ATOMIC_SEQ_CST);
	}
}

TEST_F_TIMEOUT(threads, freed_under_a_reader, SLOW)
{
	struct paged *p = &self->p;
	struct stale s = {};
	long round;
	int i;

	paged_create(_metadata, p, -1, 2, STALE_PAGES, STALE_PAGES * 600 + 64);
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs a second CPU");
	pin_to_cpu(0);
	start_workers(_metadata, self->w, 1, read_and_fault, &p->ex, &s);
	for (round = 1; round <= scaled(60) && !self->w[0].what; round++) {
		/* One page in a call, then many */
		const int calls = round % 2 ? STALE_PAGES : 1, each = STALE_PAGES / calls;

		for (i = 0; i < STALE_PAGES; i++) {
			EXPECT_EQ(1, paged_alloc(p, 0, 600 * i, 1));
			stamp_page(page_at(&p->ex, 600 * i), round);
		}
		__atomic_store_n(&s.round, round, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&s.read, __ATOMIC_SEQ_CST) != round)
			sched_yield();
		for (i = 0; i < STALE_PAGES; i++) {
			set_vec(p, 0, i % each, 600 * i, 1);
			if (i % each == each - 1)
				EXPECT_EQ(0, ex_action(p->ex.fd, 0, EXMAP_OP_FREE, each));
		}
		/* Put the same pages into other slots and overwrite them */
		EXPECT_EQ(STALE_PAGES, paged_alloc(p, 1, 600 * STALE_PAGES, STALE_PAGES));
		memset(page_at(&p->ex, 600 * STALE_PAGES), 0xee, STALE_PAGES * PG);
		__atomic_store_n(&s.freed, round, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&s.read, __ATOMIC_SEQ_CST) != -round)
			sched_yield();
		EXPECT_EQ(STALE_PAGES, paged_free(p, 1, 600 * STALE_PAGES, STALE_PAGES));
	}
	__atomic_store_n(&s.stop, true, __ATOMIC_SEQ_CST);
	join_workers(_metadata, self->w, 1);
}

/* With deferred flushes, freed pages come back after a flush, or to the slot they were in */
TEST(deferred)
{
	struct exmap_setup2 setup = {
		.flags = EXMAP_SETUP_DEFERRED, .quarantine = 1ULL << 40, .fd = -1,
	};
	struct paged p;
	int round, i;

	catch_faults();
	paged_create2(_metadata, &p, setup, 2, 1000, 2048);
	ASSERT_EQ(700, paged_alloc(&p, 0, 0, 700));
	for (i = 0; i < 700; i++)
		stamp_page(page_at(&p.ex, i), i);
	for (round = 0; round < 5; round++) {
		/* Free more than a bundle holds, and not in the order of the refill */
		ASSERT_EQ(350, paged_free(&p, 0, 350, 350));
		ASSERT_EQ(350, paged_free(&p, 0, 0, 350));
		ASSERT_EQ(100, paged_alloc(&p, 0, 600, 100));
		ASSERT_EQ(50, paged_free(&p, 0, 650, 50));
		ASSERT_EQ(650, paged_alloc(&p, 0, 0, 700));
		for (i = 0; i < 700; i++)
			EXPECT_TRUE(stamp_intact(page_at(&p.ex, i), i));
	}
	/* Another interface has to flush first, and so has a call that is short of pages */
	ASSERT_EQ(10, paged_free(&p, 0, 0, 10));
	ASSERT_EQ(10, paged_alloc(&p, 1, 0, 10));
	for (i = 10; i < 700; i++)
		EXPECT_TRUE(stamp_intact(page_at(&p.ex, i), i));
	ASSERT_EQ(300, paged_alloc(&p, 1, 1000, 300));
	ASSERT_EQ(700, paged_free(&p, 0, 0, 700));
	ASSERT_EQ(700, paged_alloc(&p, 1, 1300, 700));
	ASSERT_EQ(-ENOMEM, paged_alloc(&p, 0, 0, 1));
	ASSERT_EQ(1000, paged_free(&p, 0, 1000, 1000));
	EXPECT_EQ(0, ex_flush(p.ex.fd));
	EXPECT_EQ(0, count_present(&p.ex, 0, 2048));
	EXPECT_EQ(SIGSEGV, try_read_byte(page_at(&p.ex, 1500)));
	paged_destroy(&p);
}

/* One page visits a slot in every page table. The tables that it leaves are given back. */
TEST(walk)
{
	const long table = 512, steps = scaled(100) < 40 ? 16 << 10 : 64 << 10;
	long step, before, most = 0, now;
	struct paged p;

	if (!page_tables_go_back())
		SKIP(return, "this kernel keeps the page tables of a live region");
	paged_create(_metadata, &p, -1, 2, 1, steps * table);
	before = status_kib("VmPTE:");
	for (step = 0; step < steps; step++) {
		if (paged_alloc(&p, step & 1, step * table + step % table, 1) != 1)
			break;
		if (paged_free(&p, 0, step * table + step % table, 1) != 1)
			break;
		now = step % 1024 ? most : status_kib("VmPTE:");
		most = now > most ? now : most;
	}
	EXPECT_EQ(steps, step);
	EXPECT_GE(before + (16 << 10), most);
	paged_destroy(&p);
}

/* A memory cgroup at its limit */

enum filling { ALLOC, READ, PREAD };

FIXTURE(limit) {
	struct cgroup cg;
};

FIXTURE_VARIANT(limit) {
	enum filling how;
};

FIXTURE_VARIANT_ADD(limit, alloc) { .how = ALLOC };
FIXTURE_VARIANT_ADD(limit, read) { .how = READ };
FIXTURE_VARIANT_ADD(limit, pread) { .how = PREAD };

FIXTURE_SETUP(limit)
{
	const char *missing = cgroup_create(&self->cg);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(limit)
{
	EXPECT_EQ(0, cgroup_destroy(&self->cg));
}

/* Fill slots. Returns how many, or -errno if there were none. */
static int fill(struct paged *p, enum filling how, int first, int slots)
{
	ssize_t ret;

	if (how == PREAD) {
		ret = ex_pread(p->ex.fd, 0, EXMAP_OP_READ, page_at(&p->ex, first), slots * PG);
		return ret < 0 ? ret : ret / (ssize_t)PG;
	}
	set_vec(p, 0, 0, first, slots);
	ret = ex_action(p->ex.fd, 0, how == READ ? EXMAP_OP_READ : EXMAP_OP_ALLOC, 1);
	return ret < 0 ? ret : p->iface[0]->iov[0].pages;
}

/* Calls fail with ENOMEM, and the process is not killed. FREE does not need memory. */
TEST_F_TIMEOUT(limit, is_an_error, SLOW)
{
	int limit, backing, fd, mapped = 0, freed, again, ret, i;
	char path[256], text[32];
	struct paged p;
	pid_t pid;
	long end;

	/* The pages of the file are in the page cache already, charged to the parent */
	backing = make_backing(_metadata, MEMFD, 4096, &fd, &end);
	ASSERT_LE(0, backing);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (cgroup_join(self->cg.path))
			_exit(100);
		paged_create(_metadata, &p, backing, 1, 4000, 4096);
		/* Create the page tables first: only pages are to reach the limit */
		for (i = 0; i < 4096; i += 512)
			EXPECT_EQ(1, paged_alloc(&p, 0, i, 1));
		EXPECT_EQ(8, paged_drain(&p, 0, 0, 4096));
		snprintf(path, sizeof(path), "%s/memory.max", self->cg.path);
		limit = open(path, O_WRONLY);
		EXPECT_LE(0, limit);
		snprintf(text, sizeof(text), "%ld",
			 cgroup_read(self->cg.path, "memory.current") + (4L << 20));
		EXPECT_LT(0, pwrite(limit, text, strlen(text), 0));
		do {
			ret = fill(&p, variant->how, mapped, 64);
			if (ret > 0)
				mapped += ret;
		} while (ret == 64 && mapped < 3900);
		freed = paged_drain(&p, 0, 0, mapped);
		again = fill(&p, variant->how, 0, 10);

		/* Lift the limit first: reporting a failure takes memory */
		EXPECT_EQ(3, pwrite(limit, "max", 3, 0));
		EXPECT_TRUE(ret == -ENOMEM || (ret >= 0 && ret < 64));
		EXPECT_LE(512, mapped);
		EXPECT_GE(2000, mapped);
		EXPECT_EQ(mapped, freed);
		EXPECT_EQ(10, again);
		EXPECT_EQ(3990, ex_fill(&p.ex, 0, 10));
		paged_destroy(&p);
		_exit(_metadata->exit_code);
	}
	EXPECT_EQ(0, wait_child(pid));
	close(backing);
	close(fd);
}

TEST_HARNESS_MAIN
