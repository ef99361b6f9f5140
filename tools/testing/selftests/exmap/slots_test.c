// SPDX-License-Identifier: GPL-2.0
/*
 * Slots of more than one page, and pools with slots of several sizes
 */
#include "common.h"
#include "backing.h"
#include "query.h"

#define KIB		1024UL
#define MIB		(1024 * KIB)
#define SLOTS		64
/* What the pool of most tests has room for */
#define BUFFER_SLOTS	8

/* Slots of @size bytes at @addr, and what they have to do with files */
struct area {
	int fd;
	int number;
	size_t size;
	char *addr;
};

static char *slot_at(const struct area *area, long slot)
{
	return area->addr + slot * area->size;
}

static int pages_of(const struct area *area)
{
	return area->size / PG;
}

static int area_setup(struct __test_metadata *_metadata, struct area *area, size_t size,
		      struct exmap_setup2 setup)
{
	setup.size = sizeof(setup);
	setup.slot_size = size;
	area->size = size;
	area->fd = exmap_open(_metadata);
	return ex_ioctl(area->fd, EXMAP_IOCTL_SETUP2, &setup);
}

static void area_map(struct __test_metadata *_metadata, struct area *area, long slots)
{
	area->addr = ex_map_region(area->fd, slots * pages_of(area));
	ASSERT_NE(MAP_FAILED, area->addr);
	ASSERT_EQ(0, (unsigned long)area->addr % area->size);
}

static void area_destroy(struct area *area, long slots)
{
	munmap(area->addr, slots * area->size);
	close(area->fd);
}

/* As ex_vec_one(), for a region of any number */
static int one(const struct area *area, int iface, int opcode, __u64 slot, int len, int flags)
{
	struct exmap_vec vec = ex_vec(opcode, slot, len, flags);
	struct exmap_result result = { .res = -1, .pages = -1 };
	struct exmap ex = { .fd = area->fd };
	int ret;

	vec.region = area->number;
	ret = ex_vectors(&ex, iface, &vec, &result, 1);
	return ret < 0 ? ret : ret ? result.res : (int)result.pages;
}

static int alloc(const struct area *area, __u64 slot, int len)
{
	return one(area, 0, EXMAP_OP_ALLOC, slot, len, 0);
}

static int release(const struct area *area, __u64 slot, int len)
{
	return one(area, 0, EXMAP_OP_FREE, slot, len, 0);
}

static int query_one(const struct area *area, __u64 slot, int flags)
{
	return ex_query_slot(area->fd, area->number, slot, flags);
}

static void stamp_slot(const struct area *area, long slot, __u64 stamp)
{
	for (int i = 0; i < pages_of(area); i++)
		stamp_page(slot_at(area, slot) + i * PG, stamp + i);
}

static bool slot_intact(const struct area *area, long slot, __u64 stamp)
{
	for (int i = 0; i < pages_of(area); i++)
		if (!stamp_intact(slot_at(area, slot) + i * PG, stamp + i))
			return false;
	return true;
}

/* Whether a touch of the first, the last and a middle page of a slot raises SIGSEGV */
static bool slot_empty(const struct area *area, long slot)
{
	const int last = pages_of(area) - 1, pages[] = { 0, last / 2, last };
	bool empty = true;

	for (int i = 0; i < 3; i++) {
		char *addr = slot_at(area, slot) + pages[i] * PG + 123;

		empty &= try_read_byte(addr) == SIGSEGV && fault_address == addr;
	}
	return empty;
}

/* A file of @slots slots, in which every word identifies its page, and a bit more */
static int file_of_slots(struct __test_metadata *_metadata, size_t size, long slots)
{
	int fd = open_file();

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fill_file(fd, (slots * size / PG + 63) / 64 * 64));
	ASSERT_EQ(0, ftruncate(fd, slots * size));
	return fd;
}

static bool slot_is_file(const struct area *area, long slot, long page)
{
	for (int i = 0; i < pages_of(area); i++)
		if (!page_is(slot_at(area, slot) + i * PG, page + i))
			return false;
	return true;
}

FIXTURE(slots) {
	struct area area;
	int file;
	long file_slots;
};

FIXTURE_VARIANT(slots) {
	size_t size;
	__u64 flags;
};

FIXTURE_VARIANT_ADD(slots, strict_4k) { .size = 4 * KIB };
FIXTURE_VARIANT_ADD(slots, strict_8k) { .size = 8 * KIB };
FIXTURE_VARIANT_ADD(slots, strict_16k) { .size = 16 * KIB };
FIXTURE_VARIANT_ADD(slots, strict_64k) { .size = 64 * KIB };
FIXTURE_VARIANT_ADD(slots, strict_2m) { .size = 2 * MIB };
FIXTURE_VARIANT_ADD(slots, deferred_16k) { .size = 16 * KIB, .flags = EXMAP_SETUP_DEFERRED };
FIXTURE_VARIANT_ADD(slots, deferred_64k) { .size = 64 * KIB, .flags = EXMAP_SETUP_DEFERRED };
FIXTURE_VARIANT_ADD(slots, deferred_2m) { .size = 2 * MIB, .flags = EXMAP_SETUP_DEFERRED };

FIXTURE_SETUP(slots)
{
	struct exmap_setup2 setup = {
		.flags = variant->flags,
		.max_interfaces = 2,
		.buffer_size = BUFFER_SLOTS * variant->size / PG,
	};

	catch_faults();
	self->file_slots = variant->size > MIB ? 4 : 16;
	self->file = file_of_slots(_metadata, variant->size, self->file_slots);
	setup.fd = self->file;
	self->area = (struct area){};
	ASSERT_EQ(0, area_setup(_metadata, &self->area, variant->size, setup));
	area_map(_metadata, &self->area, SLOTS);
}

FIXTURE_TEARDOWN(slots)
{
	struct area *area = &self->area;

	/* Whatever a test has done, the pool has all its memory afterwards */
	EXPECT_LE(0, release(area, 0, SLOTS));
	EXPECT_EQ(BUFFER_SLOTS, alloc(area, 0, BUFFER_SLOTS));
	EXPECT_EQ(BUFFER_SLOTS * pages_of(area), ex_owned(area->fd));
	area_destroy(area, SLOTS);
	close(self->file);
}

TEST_F(slots, alloc_and_free)
{
	struct area *area = &self->area;

	EXPECT_TRUE(slot_empty(area, 3));
	EXPECT_EQ(1, alloc(area, 3, 1));
	EXPECT_TRUE(all_zero(slot_at(area, 3), area->size));
	EXPECT_TRUE(slot_empty(area, 2));
	EXPECT_TRUE(slot_empty(area, 4));
	stamp_slot(area, 3, 1000);
	EXPECT_EQ(0, alloc(area, 3, 1));
	EXPECT_TRUE(slot_intact(area, 3, 1000));

	/* A vector of several slots skips those that have a page */
	EXPECT_EQ(3, alloc(area, 2, 4));
	EXPECT_TRUE(slot_intact(area, 3, 1000));
	EXPECT_EQ(1, release(area, 3, 1));
	EXPECT_TRUE(slot_empty(area, 3));
	EXPECT_EQ(0, release(area, 3, 1));
	EXPECT_EQ(3, release(area, 0, SLOTS));
	EXPECT_TRUE(slot_empty(area, 2));
	EXPECT_EQ(-ERANGE, alloc(area, SLOTS, 1));
	EXPECT_EQ(-ERANGE, alloc(area, SLOTS - 1, 2));
}

TEST_F(slots, budget)
{
	struct area *area = &self->area;

	EXPECT_EQ(BUFFER_SLOTS, alloc(area, 0, BUFFER_SLOTS));
	EXPECT_EQ(BUFFER_SLOTS * pages_of(area), ex_owned(area->fd));
	EXPECT_EQ(-ENOMEM, alloc(area, BUFFER_SLOTS, 1));
	/* Freed through one interface, allocated through another one */
	EXPECT_EQ(1, release(area, 5, 1));
	EXPECT_EQ(1, one(area, 1, EXMAP_OP_ALLOC, 20, 1, 0));
	EXPECT_EQ(-ENOMEM, one(area, 1, EXMAP_OP_ALLOC, 21, 1, 0));

	/* Free slots above a lower limit go back to the system */
	EXPECT_EQ(-EBUSY, ex_resize(area->fd, pages_of(area)));
	EXPECT_EQ(BUFFER_SLOTS, release(area, 0, SLOTS));
	EXPECT_EQ(0, ex_resize(area->fd, pages_of(area)));
	EXPECT_GE(pages_of(area), ex_owned(area->fd));
	EXPECT_EQ(1, alloc(area, 0, 1));
	EXPECT_EQ(-ENOMEM, alloc(area, 1, 1));
	EXPECT_EQ(0, ex_resize(area->fd, BUFFER_SLOTS * pages_of(area)));
}

/* As a page is recycled, whatever it was before, READ and ZERO overwrite all of it */
TEST_F(slots, zero)
{
	struct area *area = &self->area;

	ASSERT_EQ(BUFFER_SLOTS, alloc(area, 0, BUFFER_SLOTS));
	memset(area->addr, 0xee, BUFFER_SLOTS * area->size);
	ASSERT_EQ(BUFFER_SLOTS, release(area, 0, BUFFER_SLOTS));
	EXPECT_EQ(2, one(area, 0, EXMAP_OP_ALLOC, 10, 2, EXMAP_VEC_ZERO));
	EXPECT_TRUE(all_zero(slot_at(area, 10), 2 * area->size));
}

TEST_F(slots, all_or_nothing)
{
	struct area *area = &self->area;

	ASSERT_EQ(3, alloc(area, 0, 3));
	stamp_slot(area, 1, 7);
	EXPECT_EQ(-ENOMEM, one(area, 0, EXMAP_OP_ALLOC, 0, BUFFER_SLOTS + 1,
			       EXMAP_VEC_ALL_OR_NOTHING));
	EXPECT_TRUE(slot_empty(area, 3));
	EXPECT_TRUE(slot_intact(area, 1, 7));
	EXPECT_EQ(BUFFER_SLOTS - 3, one(area, 0, EXMAP_OP_ALLOC, 0, BUFFER_SLOTS,
					EXMAP_VEC_ALL_OR_NOTHING));
}

TEST_F(slots, read_and_write)
{
	struct area *area = &self->area;
	const int n = pages_of(area);

	EXPECT_EQ(3, one(area, 0, EXMAP_OP_READ, 1, 3, 0));
	for (int i = 1; i <= 3; i++)
		EXPECT_TRUE(slot_is_file(area, i, i * n));
	EXPECT_EQ(-EFAULT, one(area, 0, EXMAP_OP_WRITE, 0, 1, 0));

	/* Nothing is dirty before the last page of a slot is touched */
	EXPECT_EQ(0, one(area, 0, EXMAP_OP_WRITE, 1, 3, EXMAP_VEC_DIRTY));
	make_page((__u64 *)(slot_at(area, 2) + (n - 1) * PG), NEW(2));
	EXPECT_EQ(1, one(area, 0, EXMAP_OP_WRITE, 1, 3, EXMAP_VEC_DIRTY));
	EXPECT_EQ(0, one(area, 0, EXMAP_OP_WRITE, 1, 3, EXMAP_VEC_DIRTY));
	EXPECT_TRUE(file_has(self->file, 3 * n - 1, NEW(2)));
	if (n > 1)
		EXPECT_TRUE(file_has(self->file, 3 * n - 2, 3 * n - 2));
	EXPECT_TRUE(file_has(self->file, 3 * n, 3 * n));

	/* REPLACE fills the slot in place */
	memset(slot_at(area, 1), 0xee, area->size);
	EXPECT_EQ(0, one(area, 0, EXMAP_OP_READ, 1, 1, 0));
	EXPECT_EQ(1, one(area, 0, EXMAP_OP_READ, 1, 1, EXMAP_VEC_REPLACE));
	EXPECT_TRUE(slot_is_file(area, 1, n));
}

/* The file ends within a slot */
TEST_F(slots, end_of_file)
{
	struct area *area = &self->area;
	const long last = self->file_slots - 1;
	const size_t there = area->size / 2 + 100;

	ASSERT_EQ(BUFFER_SLOTS, alloc(area, 32, BUFFER_SLOTS));
	memset(slot_at(area, 32), 0xee, BUFFER_SLOTS * area->size);
	ASSERT_EQ(BUFFER_SLOTS, release(area, 32, BUFFER_SLOTS));
	ASSERT_EQ(0, ftruncate(self->file, last * area->size + there));

	EXPECT_EQ(-ENODATA, one(area, 0, EXMAP_OP_READ, last, 1, 0));
	EXPECT_TRUE(slot_empty(area, last));
	EXPECT_EQ(-ENODATA, one(area, 0, EXMAP_OP_READ, last - 1, 2, 0));
	EXPECT_TRUE(slot_is_file(area, last - 1, (last - 1) * pages_of(area)));
	EXPECT_EQ(2, one(area, 0, EXMAP_OP_READ, last, 2, EXMAP_VEC_ZERO));
	EXPECT_EQ(word_of(last * pages_of(area), 0), *(__u64 *)slot_at(area, last));
	EXPECT_TRUE(all_zero(slot_at(area, last) + there, area->size - there));
	EXPECT_TRUE(all_zero(slot_at(area, last + 1), area->size));
}

/* All states of a slot are those of any of its pages */
TEST_F(slots, query)
{
	struct area *area = &self->area;
	char *last;

	EXPECT_EQ(0, query_one(area, 1, 0));
	ASSERT_EQ(1, one(area, 0, EXMAP_OP_READ, 1, 1, 0));
	last = slot_at(area, 2) - PG;
	EXPECT_EQ(EXMAP_SLOT_RESIDENT | EXMAP_SLOT_USED, query_one(area, 1, EXMAP_QUERY_AGE));
	EXPECT_EQ(EXMAP_SLOT_RESIDENT, query_one(area, 1, 0));
	/* Another VMA is changed, so that the TLB forgets that the pages were used */
	munmap(mmap(NULL, PG, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0), PG);
	EXPECT_EQ(0, mprotect(area->addr, SLOTS * area->size, PROT_READ));
	EXPECT_EQ(0, mprotect(area->addr, SLOTS * area->size, PROT_READ | PROT_WRITE));
	last[5] = 1;
	EXPECT_EQ(EXMAP_SLOT_RESIDENT | EXMAP_SLOT_USED | EXMAP_SLOT_DIRTY,
		  query_one(area, 1, 0));
	EXPECT_EQ(0, query_one(area, 0, 0));
	EXPECT_EQ(0, query_one(area, 2, 0));
}

/* A slot that has lost a part can be freed, and its memory is not lost */
TEST_F(slots, lost_part)
{
	struct area *area = &self->area;
	const int n = pages_of(area), lost = n / 2;
	__u64 value;

	if (n == 1)
		SKIP(return, "a page has no parts");
	ASSERT_EQ(BUFFER_SLOTS, alloc(area, 0, BUFFER_SLOTS));
	for (int i = 0; i < BUFFER_SLOTS; i++)
		stamp_slot(area, i, i * 1000);
	/* A part in the middle, one at the beginning, one at the end, all but one page */
	ASSERT_EQ(0, madvise(slot_at(area, 0) + lost * PG, PG, MADV_DONTNEED));
	ASSERT_EQ(0, madvise(slot_at(area, 1), PG, MADV_DONTNEED));
	ASSERT_EQ(0, madvise(slot_at(area, 3) - PG, PG, MADV_DONTNEED));
	ASSERT_EQ(0, madvise(slot_at(area, 3) + PG, area->size - PG, MADV_DONTNEED));

	EXPECT_EQ(SIGSEGV, try_read(slot_at(area, 0) + lost * PG, &value));
	EXPECT_EQ(SIGSEGV, try_read(slot_at(area, 1), &value));
	EXPECT_EQ(0, try_read(slot_at(area, 2), &value));
	EXPECT_EQ(2000, value);
	EXPECT_EQ(0, try_read(slot_at(area, 3), &value));
	EXPECT_EQ(3000, value);
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(EXMAP_SLOT_RESIDENT, query_one(area, i, 0) & EXMAP_SLOT_RESIDENT);
		EXPECT_EQ(0, alloc(area, i, 1));
	}
	/* Nobody gets the rest */
	EXPECT_EQ(-ENOMEM, alloc(area, 20, 1));
	EXPECT_EQ(4, release(area, 0, 4));
	EXPECT_EQ(4, alloc(area, 20, 4));
	EXPECT_EQ(-ENOMEM, alloc(area, 30, 1));
	memset(slot_at(area, 20), 1, 4 * area->size);
	EXPECT_TRUE(slot_intact(area, 4, 4000));
}

/* Wherever the gap is, the slot has a page, and does not get another one */
TEST_F(slots, lost_part_and_free_pages)
{
	struct area *area = &self->area;
	const int n = pages_of(area), lost[] = { 0, n / 2, n - 1 };

	if (n == 1)
		SKIP(return, "a page has no parts");
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(1, alloc(area, 7, 1));
		stamp_slot(area, 7, 7000);
		ASSERT_EQ(0, madvise(slot_at(area, 7) + lost[i] * PG, PG, MADV_DONTNEED));
		EXPECT_EQ(0, alloc(area, 7, 1));
		EXPECT_EQ(0, one(area, 0, EXMAP_OP_READ, 7, 1, 0));
		EXPECT_EQ(2, alloc(area, 6, 3));
		for (int page = 0; page < n; page++) {
			char *addr = slot_at(area, 7) + page * PG;

			EXPECT_EQ(page == lost[i] ? SIGSEGV : 0, try_read_byte(addr));
			EXPECT_TRUE(page == lost[i] || stamp_intact(addr, 7000 + page));
		}
		EXPECT_EQ(3, release(area, 6, 3));
	}
}

/* The parts that are left of slots go with the region, or with the process */
TEST_F(slots, lost_part_and_exit)
{
	const int ways = 2;

	if (pages_of(&self->area) == 1)
		SKIP(return, "a page has no parts");
	for (int way = 0; way < ways; way++) {
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		if (!pid) {
			struct exmap_setup2 setup = {
				.fd = -1, .max_interfaces = 1, .flags = variant->flags,
				.buffer_size = 4 * variant->size / PG,
			};
			struct area area = {};

			if (area_setup(_metadata, &area, variant->size, setup))
				_exit(1);
			area_map(_metadata, &area, 8);
			if (alloc(&area, 0, 4) != 4 ||
			    madvise(slot_at(&area, 1), PG, MADV_DONTNEED) ||
			    madvise(slot_at(&area, 3) - PG, PG, MADV_DONTNEED) ||
			    release(&area, 2, 1) != 1)
				_exit(2);
			if (way)
				area_destroy(&area, 8);
			_exit(0);
		}
		EXPECT_EQ(0, wait_child(pid));
	}
}

/* All of a slot may be lost as well */
TEST_F(slots, lost_slot)
{
	struct area *area = &self->area;

	ASSERT_EQ(BUFFER_SLOTS, alloc(area, 0, BUFFER_SLOTS));
	stamp_slot(area, 1, 100);
	ASSERT_EQ(0, madvise(slot_at(area, 2), 2 * area->size, MADV_DONTNEED));
	EXPECT_TRUE(slot_empty(area, 2));
	EXPECT_EQ(0, query_one(area, 3, 0));
	EXPECT_EQ(2, alloc(area, 30, 2));
	EXPECT_EQ(-ENOMEM, alloc(area, 40, 1));
	memset(slot_at(area, 30), 1, 2 * area->size);
	EXPECT_TRUE(slot_intact(area, 1, 100));
}

/* Who holds a part of a slot holds all of it */
TEST_F(slots, pinned_part)
{
	struct area *area = &self->area;
	char *last = slot_at(area, 3) - PG;
	struct iovec iov = { last, PG };
	__u64 words[WORDS];
	int pipe[2];

	ASSERT_EQ(0, pipe2(pipe, O_CLOEXEC | O_NONBLOCK));
	ASSERT_EQ(BUFFER_SLOTS, alloc(area, 0, BUFFER_SLOTS));
	stamp_page(last, 100);
	ASSERT_EQ((ssize_t)PG, vmsplice(pipe[1], &iov, 1, 0));
	EXPECT_EQ(1, release(area, 2, 1));
	EXPECT_TRUE(slot_empty(area, 2));
	EXPECT_EQ(-ENOMEM, alloc(area, 20, 1));
	EXPECT_EQ(BUFFER_SLOTS - 1, release(area, 0, SLOTS));
	EXPECT_EQ(BUFFER_SLOTS - 1, alloc(area, 20, BUFFER_SLOTS - 1));
	memset(slot_at(area, 20), 0xee, (BUFFER_SLOTS - 1) * area->size);
	EXPECT_EQ((ssize_t)PG, read(pipe[0], words, PG));
	EXPECT_TRUE(stamp_intact(words, 100));
	EXPECT_EQ(1, alloc(area, 40, 1));
	memset(slot_at(area, 40), 0xee, area->size);
	close(pipe[0]);
	close(pipe[1]);
}

/* With deferred flushes, a slot gets its own page back at once */
TEST_F(slots, same_slots_again)
{
	struct area *area = &self->area;

	ASSERT_EQ(BUFFER_SLOTS, alloc(area, 0, BUFFER_SLOTS));
	for (int i = 0; i < BUFFER_SLOTS; i++)
		stamp_slot(area, i, i * 1000);
	for (int round = 0; round < 10; round++) {
		ASSERT_EQ(2, release(area, round % 4, 2));
		EXPECT_TRUE(slot_empty(area, round % 4));
		ASSERT_EQ(2, alloc(area, round % 4, 2));
		stamp_slot(area, round % 4, round % 4 * 1000);
		stamp_slot(area, round % 4 + 1, (round % 4 + 1) * 1000);
	}
	for (int i = 0; i < BUFFER_SLOTS; i++)
		EXPECT_TRUE(slot_intact(area, i, i * 1000));
}

/* Everything at random, and every page of every slot compared with what it must be */
TEST_F(slots, at_random)
{
	struct area *area = &self->area;
	__u64 stamps[SLOTS] = {}, random = 42, next = 1;
	int resident = 0;

	for (int step = 0; step < scaled(2000); step++) {
		const int slot = random_below(&random, SLOTS);
		const int what = random_below(&random, 100);

		if (what < 50) {
			const int want = !stamps[slot] && resident < BUFFER_SLOTS;
			const int ret = alloc(area, slot, 1);

			if (!stamps[slot] && resident == BUFFER_SLOTS) {
				ASSERT_EQ(-ENOMEM, ret);
				continue;
			}
			ASSERT_EQ(want, ret);
			if (!want)
				continue;
			stamps[slot] = next;
			next += 1000;
			stamp_slot(area, slot, stamps[slot]);
			resident++;
		} else if (what < 90) {
			ASSERT_EQ(!!stamps[slot], release(area, slot, 1));
			resident -= !!stamps[slot];
			stamps[slot] = 0;
		} else if (what < 93) {
			ASSERT_EQ(0, madvise(slot_at(area, slot), area->size, MADV_DONTNEED));
			resident -= !!stamps[slot];
			stamps[slot] = 0;
		} else if (what < 96 && pages_of(area) > 1) {
			const int page = random_below(&random, pages_of(area));

			ASSERT_EQ(0, madvise(slot_at(area, slot) + page * PG, PG,
					     MADV_DONTNEED));
			ASSERT_EQ(!!stamps[slot], release(area, slot, 1));
			resident -= !!stamps[slot];
			stamps[slot] = 0;
		} else {
			ASSERT_TRUE(stamps[slot] ? slot_intact(area, slot, stamps[slot]) :
						   slot_empty(area, slot));
		}
	}
	for (int i = 0; i < SLOTS; i++)
		if (stamps[i])
			EXPECT_TRUE(slot_intact(area, i, stamps[i]));
}

TEST(sizes)
{
	static const size_t wrong[] = {
		1, 2 * KIB, 4 * KIB + 1, 12 * KIB, 3 * MIB, 4 * MIB, 1UL << 63, ~0UL,
	};
	struct exmap_setup2 setup = { .fd = -1, .max_interfaces = 1, .buffer_size = 1024 };
	struct area area = {};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		EXPECT_EQ(-EINVAL, area_setup(_metadata, &area, wrong[i], setup));
		close(area.fd);
	}
	/* A pool with no room for a single slot */
	setup.buffer_size = 511;
	EXPECT_EQ(-EINVAL, area_setup(_metadata, &area, 2 * MIB, setup));
	close(area.fd);
	setup.buffer_size = 512;
	EXPECT_EQ(0, area_setup(_metadata, &area, 2 * MIB, setup));
	close(area.fd);
	EXPECT_EQ(0, area_setup(_metadata, &area, 0, setup));
	EXPECT_EQ(4096, read_fdinfo(getpid(), area.fd, "exmap-slot-size"));
	close(area.fd);
	EXPECT_EQ(0, area_setup(_metadata, &area, 32 * KIB, setup));
	EXPECT_EQ(32 * 1024, read_fdinfo(getpid(), area.fd, "exmap-slot-size"));
	close(area.fd);
}

TEST(alignment)
{
	struct exmap_setup2 setup = { .fd = -1, .max_interfaces = 1, .buffer_size = 1024 };
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	const int prot = PROT_READ | PROT_WRITE;
	struct area area = {};
	char *space, *start;

	ASSERT_EQ(0, area_setup(_metadata, &area, 2 * MIB, setup));
	/* Not made of whole slots */
	EXPECT_EQ(-EINVAL, ex_try_mmap(area.fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
	EXPECT_EQ(-EINVAL, ex_try_mmap(area.fd, 3 * MIB, MAP_SHARED, EXMAP_OFF_EXMAP));

	space = mmap(NULL, 16 * MIB, PROT_NONE, flags, -1, 0);
	ASSERT_NE(MAP_FAILED, space);
	start = (char *)(((unsigned long)space + 4 * MIB) & -(2 * MIB));
	ASSERT_EQ(0, munmap(space, 16 * MIB));
	EXPECT_EQ(MAP_FAILED, mmap(start + PG, 4 * MIB, prot, MAP_SHARED | MAP_FIXED, area.fd, 0));
	EXPECT_EQ(EINVAL, errno);
	/* A wish that is not aligned is no more than a wish */
	area.addr = mmap(start + PG, 4 * MIB, prot, MAP_SHARED, area.fd, 0);
	ASSERT_NE(MAP_FAILED, area.addr);
	EXPECT_EQ(0, (unsigned long)area.addr % (2 * MIB));
	EXPECT_EQ(2, alloc(&area, 0, 2));
	area_destroy(&area, 2);

	ASSERT_EQ(0, area_setup(_metadata, &area, 2 * MIB, setup));
	area.addr = mmap(start, 4 * MIB, prot, MAP_SHARED | MAP_FIXED, area.fd, 0);
	EXPECT_EQ(start, area.addr);
	EXPECT_EQ(2, alloc(&area, 0, 2));
	area_destroy(&area, 2);
}

/* The size of slots decides on the address, so it comes first */
TEST(setup_after_mmap)
{
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .fd = -1, .max_interfaces = 1, .buffer_size = 16,
		.slot_size = 16 * KIB,
	};
	struct area area = { .fd = exmap_open(_metadata), .size = 4 * KIB };

	area.addr = ex_map_region(area.fd, 16);
	ASSERT_NE(MAP_FAILED, area.addr);
	EXPECT_EQ(-EINVAL, ex_ioctl(area.fd, EXMAP_IOCTL_SETUP2, &setup));
	setup.slot_size = 4 * KIB;
	EXPECT_EQ(0, ex_ioctl(area.fd, EXMAP_IOCTL_SETUP2, &setup));
	EXPECT_EQ(16, alloc(&area, 0, 16));
	area_destroy(&area, 16);
}

/* A touch fills the whole slot, but does not repair one that has lost a part */
TEST(fault_alloc)
{
	struct exmap_setup2 setup = {
		.fd = -1, .max_interfaces = 1, .buffer_size = 64,
		.flags = EXMAP_SETUP_PAGEFAULT_ALLOC,
	};
	struct area area = {};

	catch_faults();
	ASSERT_EQ(0, area_setup(_metadata, &area, 32 * KIB, setup));
	area_map(_metadata, &area, SLOTS);
	EXPECT_EQ(0, try_write_byte(slot_at(&area, 5) + 3 * PG, 1));
	EXPECT_EQ(0, alloc(&area, 5, 1));
	EXPECT_EQ(0, query_one(&area, 4, 0));
	EXPECT_EQ(0, query_one(&area, 6, 0));
	stamp_slot(&area, 5, 10);
	ASSERT_EQ(0, madvise(slot_at(&area, 5) + 3 * PG, PG, MADV_DONTNEED));
	EXPECT_EQ(SIGSEGV, try_read_byte(slot_at(&area, 5) + 3 * PG));
	EXPECT_EQ(0, try_read_byte(slot_at(&area, 5) + 4 * PG));
	EXPECT_EQ(1, release(&area, 5, 1));
	EXPECT_EQ(0, try_read_byte(slot_at(&area, 5) + 3 * PG));
	EXPECT_EQ(0, alloc(&area, 5, 1));
	area_destroy(&area, SLOTS);
}

/* Regions of several slot sizes that share a pool of 4 MiB */

#define SIZES		3
#define POOL_PAGES	1024

FIXTURE(mixed) {
	struct area area[SIZES];
	int file[SIZES];
};

FIXTURE_VARIANT(mixed) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(mixed, strict) {};
FIXTURE_VARIANT_ADD(mixed, deferred) { .flags = EXMAP_SETUP_DEFERRED };

static const size_t mixed_sizes[SIZES] = { 4 * KIB, 16 * KIB, 2 * MIB };
static const int mixed_slots[SIZES] = { 4096, 1024, 16 };

FIXTURE_SETUP(mixed)
{
	catch_faults();
	for (int i = 0; i < SIZES; i++) {
		struct exmap_setup2 setup = { .flags = variant->flags };

		self->file[i] = file_of_slots(_metadata, mixed_sizes[i], 2);
		setup.fd = self->file[i];
		if (i) {
			setup.flags = EXMAP_SETUP_ATTACH;
			setup.pool = self->area[0].fd;
		} else {
			setup.max_interfaces = 2;
			setup.buffer_size = POOL_PAGES;
		}
		self->area[i].number = area_setup(_metadata, &self->area[i], mixed_sizes[i],
						  setup);
		ASSERT_EQ(i, self->area[i].number);
		area_map(_metadata, &self->area[i], mixed_slots[i]);
	}
}

FIXTURE_TEARDOWN(mixed)
{
	for (int i = 0; i < SIZES; i++)
		EXPECT_LE(0, release(&self->area[i], 0, mixed_slots[i]));
	EXPECT_EQ(2, alloc(&self->area[2], 0, 2));
	EXPECT_EQ(POOL_PAGES, ex_owned(self->area[0].fd));
	for (int i = 0; i < SIZES; i++) {
		area_destroy(&self->area[i], mixed_slots[i]);
		close(self->file[i]);
	}
}

/* What is free in one size can be had in any other */
TEST_F(mixed, budget_goes_round)
{
	struct area *small = &self->area[0], *medium = &self->area[1], *large = &self->area[2];

	for (int round = 0; round < 3; round++) {
		ASSERT_EQ(POOL_PAGES, alloc(small, 0, POOL_PAGES));
		memset(small->addr, 1, POOL_PAGES * PG);
		EXPECT_EQ(-ENOMEM, alloc(medium, 0, 1));
		EXPECT_EQ(-ENOMEM, alloc(large, 0, 1));
		ASSERT_EQ(POOL_PAGES - 3, release(small, 3, POOL_PAGES - 3));
		/* Three pages are in the way of the last slots */
		EXPECT_EQ(-ENOMEM, alloc(medium, 0, POOL_PAGES / 4));
		EXPECT_EQ(POOL_PAGES / 4 - 1, release(medium, 0, POOL_PAGES / 4));
		EXPECT_EQ(-ENOMEM, alloc(large, 0, 2));
		EXPECT_EQ(1, release(large, 0, 2));
		ASSERT_EQ(3, release(small, 0, 3));

		ASSERT_EQ(2, alloc(large, 0, 2));
		memset(large->addr, 2, 4 * MIB);
		EXPECT_EQ(-ENOMEM, alloc(small, 0, 1));
		ASSERT_EQ(1, one(large, 1, EXMAP_OP_FREE, 1, 1, 0));
		ASSERT_EQ(128, alloc(medium, 0, 128));
		EXPECT_EQ(-ENOMEM, alloc(small, 0, 1));
		EXPECT_EQ(1, release(large, 0, 1));
		ASSERT_EQ(512, alloc(small, 0, 512));
		EXPECT_EQ(POOL_PAGES, ex_owned(small->fd));
		ASSERT_EQ(512, release(small, 0, 512));
		ASSERT_EQ(128, release(medium, 0, 128));
	}
}

/* The memory of a region that is gone is found by the others, whatever their slots are */
TEST_F(mixed, region_that_goes)
{
	struct area extra = {};

	for (int size = 0; size < SIZES; size++) {
		struct exmap_setup2 setup = {
			.fd = -1, .flags = EXMAP_SETUP_ATTACH, .pool = self->area[0].fd,
		};
		const int slots = POOL_PAGES * PG / mixed_sizes[size];

		extra.number = area_setup(_metadata, &extra, mixed_sizes[size], setup);
		ASSERT_EQ(SIZES, extra.number);
		area_map(_metadata, &extra, slots);
		ASSERT_EQ(slots, alloc(&extra, 0, slots));
		EXPECT_EQ(-ENOMEM, alloc(&self->area[2], 0, 1));
		area_destroy(&extra, slots);
		for (int i = 0; i < SIZES; i++) {
			const int all = POOL_PAGES * PG / mixed_sizes[i];

			EXPECT_EQ(all, alloc(&self->area[i], 0, all));
			EXPECT_EQ(all, release(&self->area[i], 0, all));
		}
	}
}

/* One call that evicts from one file, and reads from others */
TEST_F(mixed, one_call)
{
	struct area *small = &self->area[0], *medium = &self->area[1], *large = &self->area[2];
	struct exmap_vec vecs[7];
	struct exmap_result results[7];
	__u64 words[WORDS];
	struct exmap ex = { .fd = small->fd };

	ASSERT_EQ(2, alloc(large, 2, 2));
	stamp_slot(large, 3, 5000);
	vecs[0] = ex_vec(EXMAP_OP_FREE, 2, 1, 0);
	vecs[0].region = 2;
	vecs[1] = ex_vec(EXMAP_OP_READ, 0, 2, 0);
	vecs[1].region = 1;
	vecs[2] = ex_vec(EXMAP_OP_READ, 0, 2, 0);
	vecs[2].region = 0;
	vecs[3] = ex_vec(EXMAP_OP_ALLOC, 20, 1, 0);
	vecs[3].region = 1;
	vecs[4] = ex_vec(EXMAP_OP_ALLOC, 20, 1, 0);
	vecs[4].region = 0;
	vecs[5] = ex_vec(EXMAP_OP_FREE, 20, 1, 0);
	vecs[5].region = 1;
	vecs[6] = ex_vec(EXMAP_OP_WRITE, 3, 1, 0);
	vecs[6].region = 2;
	ASSERT_EQ(0, ex_vectors(&ex, 1, vecs, results, 7));
	EXPECT_EQ(1, results[0].pages);
	EXPECT_EQ(2, results[1].pages);
	EXPECT_EQ(2, results[2].pages);
	for (int i = 3; i < 7; i++)
		EXPECT_EQ(1, results[i].pages);
	EXPECT_TRUE(slot_empty(large, 2));
	EXPECT_TRUE(slot_is_file(medium, 0, 0));
	EXPECT_TRUE(slot_is_file(medium, 1, 4));
	EXPECT_TRUE(slot_is_file(small, 1, 1));
	EXPECT_TRUE(slot_empty(medium, 20));
	EXPECT_EQ(0, try_read_byte(slot_at(small, 20)));
	EXPECT_TRUE(slot_intact(large, 3, 5000));
	ASSERT_EQ((ssize_t)PG, pread(self->file[2], words, PG, (4 * 512 - 1) * PG));
	EXPECT_TRUE(stamp_intact(words, 5000 + 511));
}

/* Slots of all sizes compete for one pool */
static void *compete(void *arg)
{
	struct worker *w = arg;
	struct area *areas = w->arg;

	pthread_barrier_wait(&start_line);
	for (int round = 0; round < scaled(400); round++) {
		const int size = random_below(&w->random, SIZES);
		const struct area *area = &areas[size];
		/* Each thread has slots of its own */
		const int slots = mixed_slots[size] / 4, first = w->index * slots;
		const int slot = first + random_below(&w->random, slots);
		const __u64 stamp = random_u64(&w->random) & 0xffffff;
		const int got = one(area, w->index % 2, EXMAP_OP_ALLOC, slot, 1, 0);

		if (BROKE(w, got != 1 && got != -ENOMEM, got))
			return NULL;
		if (got != 1)
			continue;
		stamp_slot(area, slot, stamp);
		if (BROKE(w, !slot_intact(area, slot, stamp), size))
			return NULL;
		if (BROKE(w, one(area, w->index % 2, EXMAP_OP_FREE, slot, 1, 0) != 1, size))
			return NULL;
	}
	return NULL;
}

TEST_F(mixed, threads)
{
	struct worker workers[4];

	run_workers(_metadata, workers, 4, compete, NULL, self->area);
}

TEST_HARNESS_MAIN
