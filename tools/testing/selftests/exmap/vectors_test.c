// SPDX-License-Identifier: GPL-2.0
/* Tests of EXMAP_IOCTL_VECTORS with ALLOC and FREE: every flag and error. */
#include "common.h"

#define ALLOC(PAGE, LEN, FLAGS)	\
	{ .page = PAGE, .len = LEN, .opcode = EXMAP_OP_ALLOC, .flags = FLAGS }
#define FREE(PAGE, LEN)		\
	{ .page = PAGE, .len = LEN, .opcode = EXMAP_OP_FREE }

static __u64 setups[] = { 0, EXMAP_SETUP_DEFERRED };

FIXTURE(vectors) {
	struct exmap ex;
};

FIXTURE_VARIANT(vectors) {
	int deferred;
};

FIXTURE_VARIANT_ADD(vectors, strict) { .deferred = 0 };
FIXTURE_VARIANT_ADD(vectors, deferred) { .deferred = 1 };

FIXTURE_SETUP(vectors)
{
	struct exmap_setup2 setup = { .flags = setups[variant->deferred], .fd = -1 };

	catch_faults();
	exmap_create2(_metadata, &self->ex, setup, 2, 512, 4096);
}

FIXTURE_TEARDOWN(vectors)
{
	struct exmap *ex = &self->ex;

	EXPECT_LE(0, ex_drain(ex, 0, 0, ex->pages));
	EXPECT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_FLUSH, NULL));
	EXPECT_EQ(0, count_present(ex, 0, ex->pages));
	EXPECT_EQ(ex->buffer, ex_fill(ex, 1, 0));
	EXPECT_EQ(ex->buffer, ex_drain(ex, 0, 0, ex->pages));
	exmap_destroy(ex);
}

TEST_F(vectors, in_order)
{
	struct exmap_vec vecs[] = {
		ALLOC(10, 4, 0), FREE(11, 2), ALLOC(11, 1, 0), FREE(100, 50), ALLOC(10, 0, 0),
		ALLOC(0, 20, 0), FREE(19, 1),
	};
	struct exmap_result r[ARRAY_SIZE(vecs)];
	static const __u32 pages[] = { 4, 2, 1, 0, 0, 17, 1 };
	unsigned int i;

	memset(r, 0xaa, sizeof(r));
	ASSERT_EQ(0, ex_vectors(&self->ex, 0, vecs, r, ARRAY_SIZE(vecs)));
	for (i = 0; i < ARRAY_SIZE(vecs); i++) {
		EXPECT_EQ(0, r[i].res);
		EXPECT_EQ(pages[i], r[i].pages);
	}
	EXPECT_EQ(19, count_present(&self->ex, 0, 19));
	memset(self->ex.region, 1, 19 * PG);
}

/* In a full pool, an ALLOC gets the page that an earlier vector of the call has freed */
TEST_F(vectors, evict_and_replace)
{
	struct exmap_vec vecs[128];
	struct exmap_result r[128];
	int i, round;

	ASSERT_EQ(512, ex_fill(&self->ex, 0, 0));
	for (i = 0; i < 512; i++)
		stamp_page(page_at(&self->ex, i), i);
	for (round = 0; round < 20; round++) {
		int from = round % 2 ? 2048 : 0, to = 2048 - from;

		for (i = 0; i < 64; i++) {
			/* Alternate FREE and ALLOC, or put all FREEs first */
			int v = round % 4 < 2 ? 2 * i : i, a = round % 4 < 2 ? v + 1 : i + 64;

			vecs[v] = (struct exmap_vec)FREE(from + i * 7, 1);
			vecs[a] = (struct exmap_vec)ALLOC(to + i * 7, 1, 0);
		}
		ASSERT_EQ(0, ex_vectors(&self->ex, 1, vecs, r, 128));
		for (i = 0; i < 128; i++)
			EXPECT_EQ(1, r[i].pages);
		for (i = 0; i < 64; i++)
			stamp_page(page_at(&self->ex, to + i * 7), to + i * 7);
		for (i = 1; i < 512; i++)
			if (i % 7 || i / 7 >= 64)
				EXPECT_TRUE(stamp_intact(page_at(&self->ex, i), i));
	}
}

/* A call of one vector has a fast path, too, for those that are not special */
TEST_F(vectors, one_vector)
{
	static const struct {
		struct exmap_vec vec;
		int pages;	/* expected: pages or error */
	} cases[] = {
		{ ALLOC(5, 1, 0),	1 },
		{ ALLOC(5, 1, 0),	0 },
		{ FREE(5, 1),		1 },
		{ FREE(5, 1),		0 },
		{ ALLOC(4095, 1, 0),	1 },
		{ FREE(4095, 1),	1 },
		{ ALLOC(4096, 1, 0),	-ERANGE },
		{ FREE(4096, 1),	-ERANGE },
		{ ALLOC(1UL << 63, 1, 0), -ERANGE },
		{ ALLOC(7, 2, 0),	2 },
		{ ALLOC(7, 0, 0),	0 },
		{ FREE(6, 3),		2 },
		{ ALLOC(9, 1, EXMAP_VEC_ZERO), 1 },
		{ { .page = 9, .len = 1, .opcode = EXMAP_OP_FREE, .flags = EXMAP_VEC_ZERO },
		  -EINVAL },
		{ { .page = 9, .len = 1, .opcode = EXMAP_OP_FREE, .node = 1 }, -EINVAL },
		{ { .page = 9, .len = 1, .opcode = EXMAP_OP_FREE, .region = 1 }, -ENXIO },
		{ { .page = 9, .len = 1, .opcode = 9 }, -EINVAL },
		{ FREE(9, 1),		1 },
	};
	struct exmap_vec vec = ALLOC(5, 1, 0);
	struct exmap_result r;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		const int pages = cases[i].pages;

		vec = cases[i].vec;
		memset(&r, 0xaa, sizeof(r));
		EXPECT_EQ(pages < 0, ex_vectors(&self->ex, 0, &vec, &r, 1));
		EXPECT_EQ(pages < 0 ? pages : 0, r.res) {
			TH_LOG("case %u", i);
		}
		EXPECT_EQ(pages < 0 ? 0 : pages, r.pages) {
			TH_LOG("case %u", i);
		}
	}
	/* A wrong address changes nothing */
	vec = (struct exmap_vec)ALLOC(5, 1, 0);
	EXPECT_EQ(-EFAULT, ex_vectors(&self->ex, 0, &vec, (void *)1, 1));
	EXPECT_EQ(-EFAULT, ex_vectors(&self->ex, 0, (void *)1, &r, 1));
	EXPECT_EQ(0, count_present(&self->ex, 0, 4096));
}

/*
 * A call that evicts one page to allocate another has a fast path. Test it, and each
 * kind of call that it must leave to the general path.
 */
TEST_F_TIMEOUT(vectors, swap_one_page, SLOW)
{
	static const struct {
		struct exmap_vec out, in;
		int pages[2];	/* expected: pages or error of each vector */
		int page;	/* slot that is resident afterwards, or -1 */
	} cases[] = {
		{ FREE(0, 1),	  ALLOC(1, 1, 0),	 { 1, 1 }, 1 },
		{ FREE(1, 1),	  ALLOC(1, 1, 0),	 { 1, 1 }, 1 },
		/* FREE finds an empty slot, so that the pool has no free page */
		{ FREE(0, 1),	  ALLOC(1, 1, 0),	 { 0, 0 }, 1 },
		{ FREE(0, 1),	  ALLOC(2, 1, 0),	 { 0, -ENOMEM }, 1 },
		{ FREE(1, 1),	  ALLOC(4096, 1, 0),	 { 1, -ERANGE }, -1 },
		{ FREE(4096, 1),  ALLOC(3, 1, 0),	 { -ERANGE, 1 }, 3 },
		{ FREE(3, 1),	  ALLOC(3, 0, 0),	 { 1, 0 }, -1 },
		{ ALLOC(5, 1, 0), FREE(5, 1),		 { 1, 1 }, -1 },
		{ FREE(~0ULL, 1), ALLOC(~0ULL << 52, 1, 0), { -ERANGE, -ERANGE }, -1 },
		{ ALLOC(6, 1, 0), ALLOC(6, 1, 0),	 { 1, 0 }, 6 },
		{ FREE(6, 2),	  ALLOC(7, 1, EXMAP_VEC_ZERO), { 1, 1 }, 7 },
		/* There is no page table yet */
		{ FREE(7, 1),	  ALLOC(3000, 1, 0),	 { 1, 1 }, 3000 },
		{ FREE(3000, 1),  ALLOC(7, 1, 0),	 { 1, 1 }, 7 },
	};
	struct exmap *ex = &self->ex;
	struct exmap_vectors call = {
		.size = sizeof(call),
		.vec_size = sizeof(struct exmap_vec),
		.result_size = sizeof(struct exmap_result),
		.nr = 2, .results = (unsigned long)page_at(ex, 9),
	};
	struct exmap_vec vecs[2];
	struct exmap_result r[2];
	unsigned int i, k;

	/* Shrink the pool to one page, which is in slot 0 */
	ASSERT_EQ(1, ex_alloc(ex, 0, 0, 1));
	ASSERT_EQ(0, ioctl(ex->fd, EXMAP_IOCTL_RESIZE, 1));
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		vecs[0] = cases[i].out;
		vecs[1] = cases[i].in;
		memset(r, 0xaa, sizeof(r));
		EXPECT_EQ((cases[i].pages[0] < 0) + (cases[i].pages[1] < 0),
			  ex_vectors(ex, 0, vecs, r, 2))
			TH_LOG("case %u", i);
		for (k = 0; k < 2; k++) {
			EXPECT_EQ(cases[i].pages[k], r[k].res ?: (int)r[k].pages)
				TH_LOG("case %u, vector %u", i, k);
			EXPECT_EQ(0, r[k].res < 0 ? r[k].pages : 0);
		}
		EXPECT_EQ(cases[i].page >= 0, count_present(ex, 0, 4096));
		if (cases[i].page >= 0)
			EXPECT_TRUE(present(page_at(ex, cases[i].page)));
	}
	/* With the results in an empty slot, the call fails and changes nothing */
	vecs[0] = (struct exmap_vec)FREE(7, 1);
	vecs[1] = (struct exmap_vec)ALLOC(8, 1, 0);
	call.vecs = (unsigned long)vecs;
	EXPECT_EQ(-EFAULT, ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, &call));
	EXPECT_TRUE(present(page_at(ex, 7)));
	/* Results for the page that is freed are lost: EFAULT, but the work is done */
	call.results = (unsigned long)page_at(ex, 7);
	EXPECT_EQ(-EFAULT, ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, &call));
	EXPECT_TRUE(present(page_at(ex, 8)));
	EXPECT_EQ(1, count_present(ex, 0, 4096));
	EXPECT_EQ(1, ex_free(ex, 0, 8, 1));
	EXPECT_EQ(0, ioctl(ex->fd, EXMAP_IOCTL_RESIZE, 512));
}

/*
 * While a slot gets another page, a CPU may still have the old one in its TLB. It must not
 * see the old one any more once another CPU can see the new one, even in the middle of the
 * call. get_user_pages(), which process_vm_readv() uses, looks at the page tables, not at
 * the TLB.
 */

#define OLD_CONTENT	1111
#define NEW_CONTENT	2222

struct swapped_slot {
	char *page;
	int stop;
	int new_is_seen;	/* by process_vm_readv() */
	long late;		/* reads of the old page after that */
};

static void *read_by_the_tlb(void *arg)
{
	struct swapped_slot *s = arg;
	__u64 value;
	int seen;

	while (!__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE)) {
		seen = __atomic_load_n(&s->new_is_seen, __ATOMIC_ACQUIRE);
		if (!try_read(s->page, &value) && seen && value == OLD_CONTENT)
			s->late++;
	}
	return NULL;
}

static void *read_by_the_page_tables(void *arg)
{
	struct swapped_slot *s = arg;
	__u64 value;
	struct iovec to = { &value, sizeof(value) }, from = { s->page, sizeof(value) };

	while (!__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE))
		if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) == sizeof(value) &&
		    value == NEW_CONTENT)
			__atomic_store_n(&s->new_is_seen, 1, __ATOMIC_RELEASE);
	return NULL;
}

TEST_F_TIMEOUT(vectors, no_slot_has_two_pages, SLOW)
{
	const int nr = 4096;
	struct exmap_vec *vecs = calloc(nr, sizeof(*vecs));
	struct exmap_result *r = calloc(nr, sizeof(*r));
	struct exmap *ex = &self->ex;
	struct swapped_slot s = { .page = page_at(ex, 0) };
	pthread_t readers[2];
	int round, i;

	ASSERT_TRUE(vecs && r);
	ASSERT_EQ(0, ioctl(ex->fd, EXMAP_IOCTL_RESIZE, 3));
	/* A page for the slot, one to take its place, and one so that the call goes on */
	ASSERT_EQ(1, ex_alloc(ex, 0, 2, 1));
	vecs[0] = (struct exmap_vec)FREE(0, 1);
	vecs[1] = (struct exmap_vec)ALLOC(0, 1, 0);
	for (i = 2; i < nr; i++)
		vecs[i] = (struct exmap_vec)ALLOC(2, 1, 0);
	for (round = 0; round < scaled(200); round++) {
		ASSERT_EQ(1, ex_alloc(ex, 0, 1, 1));
		ASSERT_EQ(1, ex_alloc(ex, 0, 0, 1));
		*(__u64 *)s.page = OLD_CONTENT;
		*(__u64 *)page_at(ex, 1) = NEW_CONTENT;
		s.stop = 0;
		s.new_is_seen = 0;
		ASSERT_EQ(0, pthread_create(&readers[0], NULL, read_by_the_tlb, &s));
		ASSERT_EQ(0, pthread_create(&readers[1], NULL, read_by_the_page_tables, &s));
		ASSERT_EQ(1, ex_free(ex, 0, 1, 1));
		ASSERT_EQ(0, ex_vectors(ex, 0, vecs, r, nr));
		EXPECT_EQ(1, r[0].pages);
		EXPECT_EQ(1, r[1].pages);
		__atomic_store_n(&s.stop, 1, __ATOMIC_RELEASE);
		pthread_join(readers[0], NULL);
		pthread_join(readers[1], NULL);
		ASSERT_EQ(1, ex_free(ex, 0, 0, 1));
	}
	EXPECT_EQ(0, s.late);
	EXPECT_EQ(0, ioctl(ex->fd, EXMAP_IOCTL_RESIZE, 512));
	free(vecs);
	free(r);
}

TEST_F(vectors, zeroed)
{
	struct exmap_vec vecs[] = { ALLOC(0, 300, EXMAP_VEC_ZERO), ALLOC(300, 1, EXMAP_VEC_ZERO) };
	struct exmap_vec out = FREE(0, 4096);
	struct exmap_result r[2];
	static const char zeroes[PG];
	int i, round;

	for (round = 0; round < 4; round++) {
		/* A page that is already resident keeps its content */
		ASSERT_EQ(1, ex_alloc(&self->ex, 0, 77, 1));
		stamp_page(page_at(&self->ex, 77), 77);
		ASSERT_EQ(0, ex_vectors(&self->ex, round % 2, vecs, r, 2));
		EXPECT_EQ(299, r[0].pages);
		EXPECT_EQ(1, r[1].pages);
		EXPECT_TRUE(stamp_intact(page_at(&self->ex, 77), 77));
		for (i = 0; i < 301; i++)
			EXPECT_EQ(i == 77, !!memcmp(page_at(&self->ex, i), zeroes, PG));
		memset(self->ex.region, 0xff, 301 * PG);
		ASSERT_EQ(0, ex_vectors(&self->ex, 0, &out, r, 1));
		EXPECT_EQ(301, r[0].pages);
	}
}

TEST_F(vectors, all_or_nothing)
{
	struct exmap_vec vecs[] = {
		ALLOC(0, 400, EXMAP_VEC_ALL_OR_NOTHING),
		/* Too few pages are left; the 3 slots that are resident keep their pages */
		ALLOC(398, 200, EXMAP_VEC_ALL_OR_NOTHING | EXMAP_VEC_ZERO),
		ALLOC(1000, 111, EXMAP_VEC_ALL_OR_NOTHING),
		ALLOC(2000, 5, 0),
		ALLOC(3000, 513, EXMAP_VEC_ALL_OR_NOTHING),
	};
	struct exmap_result r[ARRAY_SIZE(vecs)];

	ASSERT_EQ(1, ex_alloc(&self->ex, 0, 500, 1));
	ASSERT_EQ(3, ex_vectors(&self->ex, 0, vecs, r, ARRAY_SIZE(vecs)));
	EXPECT_EQ(0, r[0].res);
	EXPECT_EQ(400, r[0].pages);
	EXPECT_EQ(-ENOMEM, r[1].res);
	EXPECT_EQ(0, r[1].pages);
	EXPECT_EQ(0, r[2].res);
	EXPECT_EQ(111, r[2].pages);
	EXPECT_EQ(-ENOMEM, r[3].res);
	EXPECT_EQ(0, r[3].pages);
	EXPECT_EQ(-EINVAL, r[4].res);
	EXPECT_EQ(0, ex_ioctl(self->ex.fd, EXMAP_IOCTL_FLUSH, NULL));
	EXPECT_EQ(400, count_present(&self->ex, 0, 400));
	EXPECT_EQ(1, count_present(&self->ex, 400, 600));
	EXPECT_TRUE(present(page_at(&self->ex, 500)));
	EXPECT_EQ(111, count_present(&self->ex, 1000, 3096));
}

TEST_F(vectors, bad_vectors)
{
	struct exmap_vec good = ALLOC(5, 1, 0), vecs[12];
	static const __s32 res[12] = {
		-EINVAL, -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EINVAL,
		-ERANGE, -ERANGE, -ERANGE, -ERANGE, 0, 0,
	};
	struct exmap_result r[12];
	int i;

	for (i = 0; i < 12; i++)
		vecs[i] = good;
	vecs[0].opcode = EXMAP_OP_MOVE + 1;
	vecs[1].opcode = 255;
	vecs[2].flags = 1 << 7;
	vecs[3].node = 256;
	vecs[4].node = 1;
	vecs[5] = (struct exmap_vec)FREE(5, 1);
	vecs[5].flags = EXMAP_VEC_ZERO;
	vecs[6].page = 4096;
	vecs[7].page = 4095;
	vecs[7].len = 2;
	vecs[8].page = ~0ULL;
	vecs[9].page = 1ULL << 52;
	vecs[10].page = 4095;
	ASSERT_EQ(10, ex_vectors(&self->ex, 0, vecs, r, 12));
	for (i = 0; i < 12; i++) {
		EXPECT_EQ(res[i], r[i].res);
		EXPECT_EQ(i >= 10, r[i].pages);
	}
}

TEST_F(vectors, bad_calls)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vec = ALLOC(5, 1, 0);
	struct exmap_result result = { .res = 12345 };
	struct exmap_vectors good = {
		.size = sizeof(good),
		.vec_size = sizeof(struct exmap_vec),
		.result_size = sizeof(struct exmap_result), .nr = 1,
		.vecs = (unsigned long)&vec, .results = (unsigned long)&result,
	}, bad;
	/* The largest struct that the kernel accepts */
	static union {
		struct exmap_vectors params;
		char bytes[PG];
	} longer;

#define REFUSED(FIELD, VALUE, ERRNO) do {					\
		bad = good;							\
		bad.FIELD = VALUE;						\
		EXPECT_EQ(-(ERRNO), ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, &bad));	\
	} while (0)

	REFUSED(size, 0, EINVAL);
	REFUSED(size, EXMAP_VECTORS_SIZE_VER0 - 8, EINVAL);
	REFUSED(size, PG + 1, E2BIG);
	REFUSED(size, 1 << 20, E2BIG);
	REFUSED(flags, 1, EINVAL);
	REFUSED(interface, 2, EINVAL);
	REFUSED(interface, 0xffffffff, EINVAL);
	REFUSED(nr, EXMAP_VECTORS_MAX + 1, EINVAL);
	REFUSED(nr, 0xffffffff, EINVAL);
	REFUSED(vec_size, EXMAP_VEC_SIZE_VER0 - 8, EINVAL);
	REFUSED(vec_size, EXMAP_VEC_SIZE_VER0 + 4, EINVAL);
	REFUSED(vec_size, 264, E2BIG);
	REFUSED(vec_size, PG, E2BIG);
	REFUSED(result_size, EXMAP_RESULT_SIZE_VER0 - 8, EINVAL);
	REFUSED(result_size, EXMAP_RESULT_SIZE_VER0 + 4, EINVAL);
	REFUSED(result_size, 264, E2BIG);
	REFUSED(result_size, PG, E2BIG);
	REFUSED(vecs, 8, EFAULT);
	REFUSED(vecs, ~0UL - 7, EFAULT);
	REFUSED(results, 8, EFAULT);
	REFUSED(results, (unsigned long)"constant", EFAULT);
	/* An empty slot is not valid memory either */
	REFUSED(vecs, (unsigned long)page_at(ex, 9), EFAULT);
	REFUSED(results, (unsigned long)page_at(ex, 9), EFAULT);
	EXPECT_EQ(-EFAULT, ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, (void *)8));
	/* A program that is newer than the kernel and uses a field of its own */
	longer.params = good;
	longer.params.size = sizeof(good) + 8;
	longer.bytes[sizeof(good) + 7] = 1;
	EXPECT_EQ(-E2BIG, ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, &longer));
	longer.params.size = PG;
	EXPECT_EQ(-E2BIG, ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, &longer));
	EXPECT_EQ(12345, result.res);
	EXPECT_EQ(0, count_present(ex, 0, 20));

	/* Bytes beyond size do not matter, nor do zeroes in fields that are unknown */
	longer.params.size = sizeof(good);
	EXPECT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, &longer));
	EXPECT_EQ(1, ex_free(ex, 0, 5, 1));
	longer.bytes[sizeof(good) + 7] = 0;
	longer.params.size = PG;
	EXPECT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, &longer));
	EXPECT_EQ(1, ex_free(ex, 0, 5, 1));

	bad = good;
	bad.nr = 0;
	bad.vecs = 8;
	bad.results = 8;
	EXPECT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, &bad));
	EXPECT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, &good));
	EXPECT_EQ(0, result.res);
	EXPECT_TRUE(present(page_at(ex, 5)));
}

/* Vectors and results may be in the region */
TEST_F(vectors, arrays_in_own_memory)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec *vecs = (struct exmap_vec *)page_at(ex, 1);
	struct exmap_result *results = (struct exmap_result *)page_at(ex, 0);
	int i;

	ASSERT_EQ(2, ex_alloc(ex, 1, 0, 2));
	for (i = 0; i < 256; i++)
		vecs[i] = (struct exmap_vec)ALLOC(2 + 2 * i, 1, 0);
	ASSERT_EQ(0, ex_vectors(ex, 0, vecs, results, 256));
	for (i = 0; i < 256; i++)
		EXPECT_EQ(1, results[i].pages);

	/* The call frees the page that the results go to */
	vecs[0] = (struct exmap_vec)FREE(0, 1);
	i = ex_vectors(ex, 0, vecs, results, 1);
	/* While the flush is deferred, the TLB may still have the page */
	EXPECT_TRUE(i == -EFAULT || (variant->deferred && !i));
	EXPECT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_FLUSH, NULL));
	EXPECT_FALSE(present(page_at(ex, 0)));
}

TEST_F(vectors, longest_array)
{
	struct exmap_vec *vecs = calloc(EXMAP_VECTORS_MAX, sizeof(*vecs));
	struct exmap_result *r = calloc(EXMAP_VECTORS_MAX, sizeof(*r));
	int i, failed = 0;

	ASSERT_NE(NULL, vecs);
	ASSERT_NE(NULL, r);
	for (i = 0; i < EXMAP_VECTORS_MAX; i++)
		vecs[i] = (struct exmap_vec)ALLOC(i, 1, 0);
	EXPECT_EQ(EXMAP_VECTORS_MAX - 512,
		  ex_vectors(&self->ex, 0, vecs, r, EXMAP_VECTORS_MAX));
	for (i = 0; i < EXMAP_VECTORS_MAX; i++)
		failed += r[i].res == -ENOMEM;
	EXPECT_EQ(EXMAP_VECTORS_MAX - 512, failed);
	for (i = 0; i < EXMAP_VECTORS_MAX; i++)
		vecs[i].opcode = EXMAP_OP_FREE;
	EXPECT_EQ(0, ex_vectors(&self->ex, 1, vecs, r, EXMAP_VECTORS_MAX));
	free(vecs);
	free(r);
}

TEST_F(vectors, gone_or_not_ours)
{
	struct exmap_vec vec = ALLOC(5, 1, 0);
	struct exmap_result result;
	struct exmap other = { .fd = exmap_open(_metadata) };
	pid_t pid;

	EXPECT_EQ(-ENXIO, ex_vectors(&other, 0, &vec, &result, 1));
	ASSERT_EQ(0, ex_setup2(other.fd, -1, 1, 1));
	EXPECT_EQ(-ENXIO, ex_vectors(&other, 0, &vec, &result, 1));
	close(other.fd);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(ex_vectors(&self->ex, 0, &vec, &result, 1) != -EPERM ||
		      ex_ioctl(self->ex.fd, EXMAP_IOCTL_FLUSH, NULL) != -EPERM);
	EXPECT_EQ(0, wait_child(pid));
}

TEST_HARNESS_MAIN
