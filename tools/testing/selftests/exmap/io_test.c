// SPDX-License-Identifier: GPL-2.0
/*
 * READ and WRITE through EXMAP_IOCTL_VECTORS, with all flags and errors and on every
 * kind of backing file.
 */
#include "common.h"
#include "io.h"
#include "nullb.h"

#define CLEAN_AREA	100	/* pages before those of manage_buffer() */

TEST_F(io, read)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[100];
	struct exmap_result r[100];
	int i, j;

	soil(_metadata, ex);
	/* READ must neither overwrite nor count resident pages */
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(1, ex_alloc(ex, 0, i * 30 + 1, 1));
		stamp_page(page_at(ex, i * 30 + 1), i);
	}
	for (i = 0; i < 100; i++)
		vecs[i] = ex_vec(EXMAP_OP_READ, i * 6, 1 + i % 4, 0);
	ASSERT_EQ(0, ex_vectors(ex, 1, vecs, r, 100));
	for (i = 0; i < 100; i++) {
		EXPECT_EQ(0, r[i].res);
		EXPECT_EQ(1 + i % 4 - (i % 5 == 0 && i % 4), (int)r[i].pages);
		for (j = i * 6; j < i * 6 + 1 + i % 4; j++) {
			void *page = page_at(ex, j);

			EXPECT_TRUE(j % 30 == 1 ? stamp_intact(page, j / 30) : page_is(page, j));
		}
		EXPECT_FALSE(j % 30 != 1 && present(page_at(ex, j)));
	}
	/* A second READ finds all slots resident */
	EXPECT_EQ(0, ex_one(ex, 1, EXMAP_OP_READ, 0, 2));
	EXPECT_EQ(0, ex_one(ex, 2, EXMAP_OP_READ, 42, 4));
}

TEST_F(io, write)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[50];
	struct exmap_result r[50];
	int i;

	ASSERT_EQ(200, ex_one(ex, 0, EXMAP_OP_READ, 200, 200));
	for (i = 200; i < 400; i++)
		renew(ex, i);
	for (i = 0; i < 50; i++)
		vecs[i] = ex_vec(EXMAP_OP_WRITE, 200 + i * 4, i % 4, 0);
	ASSERT_EQ(0, ex_vectors(ex, 2, vecs, r, 50));
	for (i = 0; i < 200; i++) {
		EXPECT_EQ(i / 4 % 4, (int)r[i / 4].pages);
		EXPECT_EQ(0, r[i / 4].res);
		/* WRITE leaves the page mapped and unchanged */
		EXPECT_TRUE(page_is(page_at(ex, 200 + i), NEW(200 + i)));
		EXPECT_TRUE(file_has(self->fd, 200 + i,
				     i % 4 < i / 4 % 4 ? NEW(200 + i) : 200 + i));
	}
	/* A READ after FREE returns what was written */
	ASSERT_EQ(200, ex_free(ex, 0, 200, 200));
	ASSERT_EQ(200, ex_one(ex, 0, EXMAP_OP_READ, 200, 200));
	for (i = 0; i < 200; i++)
		EXPECT_TRUE(page_is(page_at(ex, 200 + i),
				    i % 4 < i / 4 % 4 ? NEW(200 + i) : 200 + i));
}

TEST_F(io, errors)
{
	struct exmap *ex = &self->ex;
	const struct exmap_vec vecs[] = {
		ex_vec(EXMAP_OP_WRITE, 9, 2, 0),	/* the first slot is empty */
		ex_vec(EXMAP_OP_WRITE, 10, 5, 0),	/* the fourth slot is empty */
		ex_vec(EXMAP_OP_WRITE, ex->pages, 1, 0),
		ex_vec(EXMAP_OP_WRITE, ex->pages - 1, 2, 0),
		ex_vec(EXMAP_OP_WRITE, ex->pages, 0, 0),
		ex_vec(EXMAP_OP_WRITE, ex->pages + 5, 0, 0),
		ex_vec(EXMAP_OP_WRITE, 12, 1, 0),
		ex_vec(EXMAP_OP_READ, 1ULL << 51, 4095, 0),
		ex_vec(EXMAP_OP_READ, ~0ULL, 1, 0),
		ex_vec(EXMAP_OP_READ, 3, 1, 0),
		ex_vec(EXMAP_OP_READ, self->end - 1, 4, 0),
	};
	static const struct exmap_result expected[] = {
		{ -EFAULT, 0 }, { -EFAULT, 3 }, { -ERANGE, 0 }, { -ERANGE, 0 }, { 0, 0 },
		{ 0, 0 }, { 0, 1 }, { -ERANGE, 0 }, { -ERANGE, 0 }, { 0, 1 }, { -ENODATA, 1 },
	};
	struct exmap_result r[ARRAY_SIZE(vecs)];
	int i;

	ASSERT_EQ(3, ex_alloc(ex, 1, 10, 3));
	for (i = 10; i < 13; i++)
		renew(ex, i);
	ASSERT_EQ(7, ex_vectors(ex, 0, vecs, r, ARRAY_SIZE(vecs)));
	for (i = 0; i < (int)ARRAY_SIZE(vecs); i++) {
		EXPECT_EQ(expected[i].res, r[i].res)
			TH_LOG("vector %d", i);
		EXPECT_EQ(expected[i].pages, r[i].pages)
			TH_LOG("vector %d", i);
	}
	EXPECT_EQ(4, count_present(ex, 0, 30));
	for (i = 9; i < 14; i++)
		EXPECT_TRUE(file_has(self->fd, i, i > 9 && i < 13 ? NEW(i) : i));
	EXPECT_FALSE(present(page_at(ex, self->end)));
}

TEST_F(io, read_from_an_empty_pool)
{
	struct exmap *ex = &self->ex;
	const struct exmap_vec vecs[] = {
		ex_vec(EXMAP_OP_READ, 5, 1, 0), ex_vec(EXMAP_OP_READ, 700, 5, 0),
		ex_vec(EXMAP_OP_READ, 6, 1, 0), ex_vec(EXMAP_OP_READ, 800, 1, 0),
	};
	struct exmap_result r[4];

	ASSERT_EQ(BUFFER - 2, ex_alloc(ex, 0, 0, BUFFER - 2));
	stamp_page(page_at(ex, 5), 5);
	ASSERT_EQ(2, ex_vectors(ex, 1, vecs, r, 4));
	EXPECT_EQ(0, r[0].res);
	EXPECT_EQ(-ENOMEM, r[1].res);
	EXPECT_EQ(2, r[1].pages);
	EXPECT_EQ(0, r[2].res);
	EXPECT_EQ(-ENOMEM, r[3].res);
	EXPECT_TRUE(stamp_intact(page_at(ex, 5), 5));
	EXPECT_TRUE(page_is(page_at(ex, 701), 701));
	EXPECT_EQ(2, count_present(ex, 600, 300));
	EXPECT_EQ(2, ex_vectors(ex, 1, vecs, r, 4));
	EXPECT_EQ(0, r[1].pages);
}

/* More pages than one round of transfers takes, with gaps and resident pages */

TEST_F(io, read_in_many_rounds)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[2];
	struct exmap_result r[2];
	int i;

	soil(_metadata, ex);
	for (i = 0; i < 100; i += 2) {
		ASSERT_EQ(1, ex_alloc(ex, 0, i, 1));
		stamp_page(page_at(ex, i), i);
	}
	/*
	 * The vectors overlap in 30 slots. Each of these takes two pages of the pool
	 * until the call is over.
	 */
	vecs[0] = ex_vec(EXMAP_OP_READ, 0, 530, 0);
	vecs[1] = ex_vec(EXMAP_OP_READ, 500, 40, 0);
	ASSERT_EQ(0, ex_vectors(ex, 1, vecs, r, 2));
	EXPECT_EQ(490, (int)(r[0].pages + r[1].pages));
	EXPECT_LE(480, (int)r[0].pages + 30);
	vecs[0] = ex_vec(EXMAP_OP_READ, 530, 100, 0);
	vecs[1] = ex_vec(EXMAP_OP_READ, 700, 100, 0);
	ASSERT_EQ(2, ex_vectors(ex, 1, vecs, r, 2));
	EXPECT_EQ(-ENOMEM, r[0].res);
	EXPECT_EQ(60, (int)r[0].pages);
	EXPECT_EQ(-ENOMEM, r[1].res);
	EXPECT_EQ(0, (int)r[1].pages);
	for (i = 0; i < 600; i++) {
		void *page = page_at(ex, i);

		EXPECT_TRUE(i < 100 && i % 2 == 0 ? stamp_intact(page, i) : page_is(page, i));
	}
	EXPECT_EQ(0, count_present(ex, 600, 100));
}

TEST_F(io, write_in_many_rounds)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[2];
	struct exmap_result r[2];
	int i;

	ASSERT_EQ(BUFFER, ex_vec_one(ex, 0, EXMAP_OP_READ, 0, BUFFER, 0));
	for (i = 0; i < 200; i += 2)
		renew(ex, i);
	vecs[0] = ex_vec(EXMAP_OP_WRITE, 0, BUFFER, EXMAP_VEC_DIRTY);
	vecs[1] = ex_vec(EXMAP_OP_WRITE, 300, BUFFER, 0);
	ASSERT_EQ(1, ex_vectors(ex, 1, vecs, r, 2));
	EXPECT_EQ(0, r[0].res);
	EXPECT_EQ(100, r[0].pages);
	EXPECT_EQ(-EFAULT, r[1].res);
	EXPECT_EQ(300, r[1].pages);
	for (i = 0; i < BUFFER; i++)
		EXPECT_TRUE(file_has(self->fd, i, i < 200 && i % 2 == 0 ? NEW(i) : i));
}

TEST_F(io, many_scattered_vectors)
{
	struct exmap_vec vecs[590];
	struct exmap_result r[590];
	struct exmap *ex = &self->ex;
	int i, round;

	for (round = 0; round < 2; round++) {
		for (i = 0; i < 590; i++) {
			/* Distinct pages in scattered order */
			int page = i * 7 % 1021;

			vecs[i] = ex_vec(EXMAP_OP_READ, page, 1, 0);
		}
		ASSERT_EQ(0, ex_vectors(ex, round, vecs, r, 590));
		for (i = 0; i < 590; i++) {
			int page = vecs[i].page;

			EXPECT_EQ(1, r[i].pages);
			EXPECT_TRUE(page_is(page_at(ex, page), round ? NEW(page) : page));
			if (!round)
				renew(ex, page);
			vecs[i].opcode = round ? EXMAP_OP_FREE : EXMAP_OP_WRITE;
		}
		ASSERT_EQ(0, ex_vectors(ex, round, vecs, r, 590));
		for (i = 0; i < 590; i++) {
			EXPECT_EQ(1, r[i].pages);
			vecs[i].opcode = EXMAP_OP_FREE;
		}
		ASSERT_EQ(0, ex_vectors(ex, round, vecs, r, 590));
	}
}

/* Flags */

TEST_F(io, read_replaces)
{
	struct exmap *ex = &self->ex;
	int i;

	for (i = 100; i < 150; i += 3) {
		ASSERT_EQ(1, ex_alloc(ex, 0, i, 1));
		memset(page_at(ex, i), 0xee, PG);
	}
	EXPECT_EQ(50, ex_vec_one(ex, 1, EXMAP_OP_READ, 100, 50, EXMAP_VEC_REPLACE));
	for (i = 100; i < 150; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), i));
	/* Empty the pool: reading in place must not need a page from it */
	EXPECT_EQ(BUFFER - 50, ex_alloc(ex, 0, 150, BUFFER - 50));
	memset(page_at(ex, 101), 0xee, PG);
	EXPECT_EQ(50, ex_vec_one(ex, 1, EXMAP_OP_READ, 100, 50, EXMAP_VEC_REPLACE));
	EXPECT_TRUE(page_is(page_at(ex, 101), 101));
	/* Once the READ is complete, FREE no longer fails with EBUSY */
	EXPECT_EQ(50, ex_free(ex, 2, 100, 50));
}

TEST_F(io, read_past_the_end)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[4];
	struct exmap_result r[4];
	int end = self->end;

	soil(_metadata, ex);
	EXPECT_EQ(-ENODATA, ex_vec_one(ex, 0, EXMAP_OP_READ, end, 1, 0));
	EXPECT_EQ(-ENODATA, ex_vec_one(ex, 0, EXMAP_OP_READ, end, 64, 0));
	EXPECT_EQ(0, count_present(ex, end, 64));
	EXPECT_EQ(30, ex_vec_one(ex, 0, EXMAP_OP_READ, end - 10, 30, EXMAP_VEC_ZERO));
	EXPECT_TRUE(all_zero(page_at(ex, end), 20 * PG));
	EXPECT_EQ(30, ex_drain(ex, 0, end - 10, 30));

	/* Pages read in place past the end are cleared only with EXMAP_VEC_ZERO */
	ASSERT_EQ(2, ex_alloc(ex, 0, end, 2));
	memset(page_at(ex, end), 0xee, 2 * PG);
	EXPECT_EQ(-ENODATA, ex_vec_one(ex, 0, EXMAP_OP_READ, end, 2, EXMAP_VEC_REPLACE));
	EXPECT_FALSE(all_zero(page_at(ex, end), 2 * PG));
	EXPECT_EQ(2, ex_vec_one(ex, 0, EXMAP_OP_READ, end, 2,
				EXMAP_VEC_REPLACE | EXMAP_VEC_ZERO));
	EXPECT_TRUE(all_zero(page_at(ex, end), 2 * PG));

	/* Adjacent vectors, only some of them with EXMAP_VEC_ZERO */
	EXPECT_EQ(2, ex_drain(ex, 0, end, 2));
	vecs[0] = ex_vec(EXMAP_OP_READ, end - 1, 1, EXMAP_VEC_ZERO);
	vecs[1] = ex_vec(EXMAP_OP_READ, end, 1, 0);
	vecs[2] = ex_vec(EXMAP_OP_READ, end + 1, 2, EXMAP_VEC_ZERO);
	vecs[3] = ex_vec(EXMAP_OP_READ, end + 3, 1, 0);
	EXPECT_EQ(2, ex_vectors(ex, 0, vecs, r, 4));
	EXPECT_EQ(0, r[0].res);
	EXPECT_EQ(-ENODATA, r[1].res);
	EXPECT_EQ(0, r[2].res);
	EXPECT_EQ(2, r[2].pages);
	EXPECT_EQ(-ENODATA, r[3].res);
	EXPECT_FALSE(present(page_at(ex, end)));
	EXPECT_EQ(2, count_present(ex, end, 10));
}

TEST_F(io, length_that_is_no_multiple)
{
	static const int lengths[] = { 1, 511, 512, 100, 4095 };
	static __u64 words[WORDS];
	struct exmap *ex = &self->ex;
	char *page = page_at(ex, 100);
	int i;

	if (backing_is_block(variant->backing))
		SKIP(return, "a block device has whole pages");
	soil(_metadata, ex);
	for (i = 0; i < (int)ARRAY_SIZE(lengths); i++) {
		ASSERT_EQ(0, ftruncate(self->fd, 100 * PG));
		make_page(words, 100);
		ASSERT_EQ(lengths[i], pwrite(self->fd, words, lengths[i], 100 * PG));
		ASSERT_EQ(0, fsync(self->fd));
		EXPECT_EQ(-ENODATA, ex_vec_one(ex, 0, EXMAP_OP_READ, 100, 1, 0));
		EXPECT_EQ(0, ex_flush(ex->fd));
		EXPECT_FALSE(present(page));
		EXPECT_EQ(2, ex_vec_one(ex, 0, EXMAP_OP_READ, 100, 2, EXMAP_VEC_ZERO));
		EXPECT_EQ(0, memcmp(page, words, lengths[i]));
		EXPECT_TRUE(all_zero(page + lengths[i], 2 * PG - lengths[i]));
		EXPECT_EQ(2, ex_free(ex, 0, 100, 2));
		EXPECT_EQ(1, ex_one(ex, 0, EXMAP_OP_READ, 99, 1));
		EXPECT_EQ(-ENODATA, ex_vec_one(ex, 0, EXMAP_OP_READ, 99, 2, EXMAP_VEC_REPLACE));
		EXPECT_EQ(1, ex_free(ex, 0, 99, 2));
	}
}

TEST_F(io, files_grow_by_writes)
{
	struct exmap *ex = &self->ex;
	struct stat stat;
	int i;

	if (backing_is_block(variant->backing))
		SKIP(return, "a block device does not grow");
	ASSERT_EQ(0, ftruncate(self->fd, 100 * PG + 512));
	ASSERT_EQ(60, ex_alloc(ex, 0, 90, 60));
	for (i = 90; i < 150; i++)
		renew(ex, i);
	/* WRITE stores whole pages, also at the end of the file and beyond it */
	EXPECT_EQ(5, ex_one(ex, 0, EXMAP_OP_WRITE, 100, 5));
	ASSERT_EQ(0, fstat(self->fd, &stat));
	EXPECT_EQ(105 * PG, (unsigned long)stat.st_size);
	EXPECT_EQ(1, ex_one(ex, 0, EXMAP_OP_WRITE, 120, 1));
	ASSERT_EQ(0, fstat(self->fd, &stat));
	EXPECT_EQ(121 * PG, (unsigned long)stat.st_size);
	for (i = 100; i < 105; i++)
		EXPECT_TRUE(file_has(self->fd, i, NEW(i)));
	EXPECT_TRUE(file_has(self->fd, 120, NEW(120)));
	ASSERT_EQ(60, ex_free(ex, 0, 90, 60));
	EXPECT_EQ(21, ex_one(ex, 0, EXMAP_OP_READ, 100, 21));
	EXPECT_TRUE(all_zero(page_at(ex, 105), 15 * PG));
	EXPECT_TRUE(page_is(page_at(ex, 120), NEW(120)));
}

TEST_F(io, flags_that_are_not_for_it)
{
	static const struct {
		int opcode, flags;
	} good[] = {
		{ EXMAP_OP_READ, EXMAP_VEC_ZERO }, { EXMAP_OP_READ, EXMAP_VEC_REPLACE },
		{ EXMAP_OP_WRITE, EXMAP_VEC_DIRTY }, { EXMAP_OP_WRITE, EXMAP_VEC_DSYNC },
	};
	struct exmap *ex = &self->ex;
	int opcode, flag, i, expected;

	ASSERT_EQ(1, ex_one(ex, 0, EXMAP_OP_READ, 5, 1));
	for (opcode = EXMAP_OP_READ; opcode <= EXMAP_OP_WRITE; opcode += EXMAP_OP_WRITE)
		for (flag = 1; flag < 1 << 8; flag <<= 1) {
			renew(ex, 5);
			expected = -EINVAL;
			for (i = 0; i < 4; i++)
				if (good[i].opcode == opcode && good[i].flags == flag)
					expected = opcode == EXMAP_OP_WRITE ||
						   flag == EXMAP_VEC_REPLACE;
			EXPECT_EQ(expected, ex_vec_one(ex, 0, opcode, 5, 1, flag));
			/* A bad flag is refused even in a vector of length 0 */
			if (expected < 0)
				EXPECT_EQ(expected, ex_vec_one(ex, 0, opcode, 5, 0, flag));
		}
	EXPECT_EQ(1, ex_vec_one(ex, 0, EXMAP_OP_READ, 5, 1, EXMAP_VEC_ZERO | EXMAP_VEC_REPLACE));
	EXPECT_EQ(1, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 5, 1, EXMAP_VEC_DSYNC));
}

TEST_F(io, dirty)
{
	const int flags[] = { EXMAP_VEC_DIRTY, EXMAP_VEC_DIRTY | EXMAP_VEC_DSYNC };
	struct exmap *ex = &self->ex;
	int i;

	/* A page is clean after READ and dirty after ALLOC */
	ASSERT_EQ(20, ex_one(ex, 0, EXMAP_OP_READ, 0, 20));
	EXPECT_EQ(0, ex_vec_one(ex, 1, EXMAP_OP_WRITE, 0, 20, EXMAP_VEC_DIRTY));
	ASSERT_EQ(1, ex_alloc(ex, 0, 20, 1));
	renew(ex, 20);
	EXPECT_EQ(1, ex_vec_one(ex, 1, EXMAP_OP_WRITE, 0, 21, EXMAP_VEC_DIRTY));
	EXPECT_EQ(0, ex_vec_one(ex, 1, EXMAP_OP_WRITE, 0, 21, EXMAP_VEC_DIRTY));
	EXPECT_EQ(-EFAULT, ex_vec_one(ex, 1, EXMAP_OP_WRITE, 0, 22, EXMAP_VEC_DIRTY));
	for (i = 0; i < 50; i++) {
		int page = i * 7 % 21;

		make_page((__u64 *)page_at(ex, page), 2000 + i);
		EXPECT_EQ(1, ex_vec_one(ex, i % 4, EXMAP_OP_WRITE, 0, 21, flags[i % 2]));
		EXPECT_TRUE(file_has(self->fd, page, 2000 + i));
	}
	/* A system call that reads from a page does not make it dirty */
	EXPECT_EQ(21, count_present(ex, 0, 21));
	EXPECT_EQ(0, ex_vec_one(ex, 1, EXMAP_OP_WRITE, 0, 21, EXMAP_VEC_DIRTY));

	/* Without EXMAP_VEC_DIRTY, all pages are written and dirty pages stay dirty */
	renew(ex, 3);
	EXPECT_EQ(21, ex_one(ex, 0, EXMAP_OP_WRITE, 0, 21));
	EXPECT_EQ(1, ex_vec_one(ex, 1, EXMAP_OP_WRITE, 0, 21, EXMAP_VEC_DIRTY));

	/* A page is dirty after a system call or a device has written to it */
	ASSERT_EQ((ssize_t)PG, pread(self->fd, page_at(ex, 7), PG, 300 * PG));
	if (is_user_mode_linux())
		SKIP(return, "User-mode Linux: copy_to_user() does not dirty pages");
	EXPECT_EQ(1, ex_vec_one(ex, 1, EXMAP_OP_WRITE, 0, 21, EXMAP_VEC_DIRTY));
	EXPECT_TRUE(file_has(self->fd, 7, 300));
	EXPECT_EQ(0, ex_vec_one(ex, 1, EXMAP_OP_WRITE, 0, 21, EXMAP_VEC_DIRTY));
	EXPECT_EQ(21, ex_drain(ex, 0, 0, 21));
	ASSERT_EQ(21, ex_one(ex, 0, EXMAP_OP_READ, 0, 21));
	EXPECT_EQ(0, ex_vec_one(ex, 1, EXMAP_OP_WRITE, 0, 21, EXMAP_VEC_DIRTY));
}

/* While other CPUs keep dirtying pages, no last value of theirs may be missed */
#define DIRTIERS	3

static void *keep_dirtying(void *arg)
{
	struct worker *w = arg;
	__u64 *word = (__u64 *)page_at(w->ex, w->index - 1) + 5;
	__u64 i;

	if (!w->index) {
		int *stop = w->arg;

		for (i = 0; i < (__u64)scaled(32); i++)
			if (BROKE(w, ex_vec_one(w->ex, 0, EXMAP_OP_WRITE, 0, DIRTIERS,
						EXMAP_VEC_DIRTY) < 0, i))
				break;
		__atomic_store_n(stop, 1, __ATOMIC_SEQ_CST);
		return NULL;
	}
	for (i = 1; !__atomic_load_n((int *)w->arg, __ATOMIC_SEQ_CST); i++)
		__atomic_store_n(word, i, __ATOMIC_RELAXED);
	w->value = i - 1;
	return NULL;
}

TEST_F_TIMEOUT(io, dirty_by_others_meanwhile, SLOW)
{
	static alignas(4096) __u64 words[WORDS];
	struct worker w[DIRTIERS + 1];
	struct exmap *ex = &self->ex;
	int stop = 0, i;

	ASSERT_EQ(DIRTIERS, ex_one(ex, 0, EXMAP_OP_READ, 0, DIRTIERS));
	run_workers(_metadata, w, DIRTIERS + 1, keep_dirtying, ex, &stop);
	EXPECT_LE(0, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 0, DIRTIERS, EXMAP_VEC_DIRTY));
	for (i = 0; i < DIRTIERS; i++) {
		ASSERT_EQ((ssize_t)PG, pread(self->fd, words, PG, i * PG));
		if (w[i + 1].value)
			EXPECT_EQ(w[i + 1].value, (long)words[5]);
	}
}

/* Several operations in one call */

TEST_F(io, free_then_read_in_one_call)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[128];
	struct exmap_result r[128];
	int i, round;

	ASSERT_EQ(BUFFER, ex_fill(ex, 0, 0));
	for (i = 0; i < BUFFER; i++)
		stamp_page(page_at(ex, i), i);
	for (round = 0; round < 10; round++) {
		int from = round % 2 ? 640 : 0, to = 640 - from;

		for (i = 0; i < 64; i++) {
			/* Alternate FREE and READ, or put all FREEs first */
			int f = round % 4 < 2 ? 2 * i : i, n = round % 4 < 2 ? f + 1 : i + 64;

			vecs[f] = ex_vec(EXMAP_OP_FREE, from + i * 5, 1, 0);
			vecs[n] = ex_vec(EXMAP_OP_READ, to + i * 5, 1, 0);
		}
		ASSERT_EQ(0, ex_vectors(ex, 1 + round % 3, vecs, r, 128));
		for (i = 0; i < 128; i++)
			EXPECT_EQ(1, r[i].pages);
		for (i = 0; i < 64; i++)
			EXPECT_TRUE(page_is(page_at(ex, to + i * 5), to + i * 5));
		for (i = 1; i < BUFFER; i++)
			if (i % 5 || i / 5 >= 64)
				EXPECT_TRUE(stamp_intact(page_at(ex, i), i));
	}
}

TEST_F(io, all_opcodes_in_one_call)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[8];
	struct exmap_result r[8];

	ASSERT_EQ(BUFFER, ex_alloc(ex, 0, 0, BUFFER));
	renew(ex, 0);
	renew(ex, 1);
	renew(ex, 2);
	/* One call may write a page and free it */
	vecs[0] = ex_vec(EXMAP_OP_WRITE, 0, 2, 0);
	vecs[1] = ex_vec(EXMAP_OP_FREE, 0, 2, 0);
	/*
	 * A page freed under WRITE returns to the pool when the WRITE is complete, so
	 * the READs and the ALLOC need five other pages.
	 */
	vecs[2] = ex_vec(EXMAP_OP_FREE, 10, 5, 0);
	vecs[3] = ex_vec(EXMAP_OP_READ, 700, 3, 0);
	vecs[4] = ex_vec(EXMAP_OP_ALLOC, 800, 1, 0);
	vecs[5] = ex_vec(EXMAP_OP_FREE, 701, 1, 0);
	vecs[6] = ex_vec(EXMAP_OP_WRITE, 2, 1, EXMAP_VEC_DSYNC);
	vecs[7] = ex_vec(EXMAP_OP_READ, 10, 1, 0);
	ASSERT_EQ(1, ex_vectors(ex, 0, vecs, r, 8));
	EXPECT_EQ(2, r[0].pages);
	EXPECT_EQ(2, r[1].pages);
	EXPECT_EQ(5, r[2].pages);
	EXPECT_EQ(3, r[3].pages);
	EXPECT_EQ(1, r[4].pages);
	/* The READ of slot 701 is still in flight when the FREE finds it */
	EXPECT_EQ(-EBUSY, r[5].res);
	EXPECT_EQ(0, r[5].pages);
	EXPECT_EQ(1, r[6].pages);
	EXPECT_EQ(1, r[7].pages);
	EXPECT_TRUE(file_has(self->fd, 0, NEW(0)));
	EXPECT_TRUE(file_has(self->fd, 1, NEW(1)));
	EXPECT_TRUE(file_has(self->fd, 2, NEW(2)));
	EXPECT_TRUE(page_is(page_at(ex, 701), 701));
	EXPECT_TRUE(page_is(page_at(ex, 10), 10));
	EXPECT_EQ(1, ex_free(ex, 0, 701, 1));
}

TEST_F(io, same_slot_twice_in_one_call)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[4];
	struct exmap_result r[4];
	int i, total;

	soil(_metadata, ex);
	for (i = 0; i < 4; i++)
		vecs[i] = ex_vec(EXMAP_OP_READ, 10 + i / 2, 3, 0);
	ASSERT_EQ(0, ex_vectors(ex, 0, vecs, r, 4));
	for (total = i = 0; i < 4; i++)
		total += r[i].pages;
	EXPECT_EQ(4, total);
	for (i = 10; i < 14; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), i));
	/* Overlapping vectors read the same slots in place */
	memset(page_at(ex, 10), 0xee, 4 * PG);
	for (i = 0; i < 4; i++)
		vecs[i].flags = EXMAP_VEC_REPLACE;
	ASSERT_EQ(0, ex_vectors(ex, 0, vecs, r, 4));
	for (i = 10; i < 14; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), i));
	for (i = 0; i < 4; i++)
		EXPECT_EQ(3, r[i].pages);
	EXPECT_EQ(4, ex_free(ex, 1, 10, 4));

	/* ALLOC fills the slot while the READ is in flight, and the READ is dropped */
	vecs[0] = ex_vec(EXMAP_OP_READ, 20, 1, 0);
	vecs[1] = ex_vec(EXMAP_OP_ALLOC, 20, 1, EXMAP_VEC_ZERO);
	ASSERT_EQ(0, ex_vectors(ex, 0, vecs, r, 2));
	EXPECT_EQ(0, r[0].pages);
	EXPECT_EQ(1, r[1].pages);
	EXPECT_TRUE(all_zero(page_at(ex, 20), PG));
	/* Two vectors write the same page */
	vecs[0] = ex_vec(EXMAP_OP_WRITE, 20, 1, 0);
	vecs[1] = ex_vec(EXMAP_OP_WRITE, 20, 1, 0);
	renew(ex, 20);
	ASSERT_EQ(0, ex_vectors(ex, 0, vecs, r, 2));
	EXPECT_TRUE(file_has(self->fd, 20, NEW(20)));
}

TEST_F(io, a_page_is_there_once)
{
	struct exmap *ex = &self->ex;
	int i, round;

	/* Read exactly as many pages as the pool has, spread over all interfaces */
	for (round = 0; round < 8; round++) {
		for (i = 0; i < 4; i++)
			ASSERT_EQ(150, ex_one(ex, (i + round) % 4, EXMAP_OP_READ, i * 150, 150));
		EXPECT_EQ(-ENOMEM, ex_alloc(ex, round % 4, 1000, 1));
		for (i = 0; i < 600; i++)
			EXPECT_TRUE(page_is(page_at(ex, i), i));
		/* No two slots share a page */
		for (i = 0; i < 600; i++)
			stamp_page(page_at(ex, i), i);
		for (i = 0; i < 600; i++)
			EXPECT_TRUE(stamp_intact(page_at(ex, i), i));
		for (i = 0; i < 4; i++)
			ASSERT_EQ(150, ex_free(ex, (i * 3) % 4, i * 150, 150));
	}
}

/* Threads that use the same pool, or the same slots */

static void *read_the_same(void *arg)
{
	struct worker *w = arg;
	struct exmap *ex = w->ex;
	struct exmap_result r[2];
	int i, ret, *total = w->arg;

	for (i = 0; i < scaled(24); i++) {
		struct exmap_vec vecs[2] = {
			ex_vec(EXMAP_OP_READ, 100, 20, 0),
			ex_vec(EXMAP_OP_READ, 110 - i % 3, 20, 0),
		};

		pthread_barrier_wait(&start_line);
		ret = ex_vectors(ex, w->index, vecs, r, 2);
		BROKE(w, ret, ret);
		__atomic_add_fetch(total, r[0].pages + r[1].pages, __ATOMIC_SEQ_CST);
		for (ret = 0; ret < 20; ret++)
			BROKE(w, !page_is(page_at(ex, 100 + ret), 100 + ret), ret);
		if (pthread_barrier_wait(&start_line) == PTHREAD_BARRIER_SERIAL_THREAD) {
			ret = ex_free(ex, w->index, 100, 50);
			BROKE(w, ret != 30 - i % 3, ret);
			/* Each page counts for exactly one vector of one thread */
			BROKE(w, *total != ret, *total);
			*total = 0;
		}
		pthread_barrier_wait(&start_line);
	}
	return NULL;
}

TEST_F_TIMEOUT(io, threads_read_the_same_slots, SLOW)
{
	struct worker w[4];
	int total = 0;

	run_workers(_metadata, w, 4, read_the_same, &self->ex, &total);
}

/*
 * A buffer manager with several threads, each with its own pages, and few spare pages
 * in the pool. Every page that is read must hold the version that was written last.
 */
#define OWN_PAGES	60

static void *manage_buffer(void *arg)
{
	struct worker *w = arg;
	struct exmap *ex = w->ex;
	__u64 version[OWN_PAGES] = {};
	bool resident[OWN_PAGES] = {};
	int first = CLEAN_AREA + w->index * OWN_PAGES, i, round, n, ret;
	struct exmap_vec vecs[24];
	struct exmap_result r[24];

	for (round = 0; round < scaled(24); round++) {
		/* Change some pages, write them and evict half of them, in one call */
		for (i = n = 0; i < OWN_PAGES && n < 22; i++) {
			if (!resident[i] || random_below(&w->random, 3))
				continue;
			version[i]++;
			stamp_page(page_at(ex, first + i), (__u64)(first + i) << 32 | version[i]);
			vecs[n++] = ex_vec(EXMAP_OP_WRITE, first + i, 1,
					   random_below(&w->random, 2) ? EXMAP_VEC_DIRTY : 0);
			if (random_below(&w->random, 2)) {
				vecs[n++] = ex_vec(EXMAP_OP_FREE, first + i, 1, 0);
				resident[i] = false;
			}
		}
		ret = ex_vectors(ex, w->index, vecs, r, n);
		if (BROKE(w, ret, ret))
			break;
		for (i = 0; i < n; i++)
			BROKE(w, r[i].pages != 1, vecs[i].opcode);
		/* Overwrite free pages, so that stale content is noticed */
		if (ex_alloc(ex, w->index, 700 + w->index * 16, 8) > 0) {
			for (i = 0; i < 8; i++)
				if (present(page_at(ex, 700 + w->index * 16 + i)))
					memset(page_at(ex, 700 + w->index * 16 + i), 0xee, PG);
			ex_free(ex, w->index, 700 + w->index * 16, 8);
		}
		for (i = n = 0; i < OWN_PAGES && n < 12; i++) {
			if (resident[i] || random_below(&w->random, 3))
				continue;
			vecs[n++] = ex_vec(EXMAP_OP_READ, first + i, 1, 0);
			resident[i] = true;
		}
		ret = ex_vectors(ex, w->index, vecs, r, n);
		if (BROKE(w, ret, ret))
			break;
		for (i = 0; i < n; i++) {
			long page = vecs[i].page;
			__u64 v = version[page - first];
			void *addr = page_at(ex, page);

			if (BROKE(w, v ? !stamp_intact(addr, (__u64)page << 32 | v) :
				  !page_is(addr, page), v))
				return NULL;
		}
	}
	return NULL;
}

TEST_F_TIMEOUT(io, buffer_manager, SLOW)
{
	struct worker w[4];
	struct exmap *ex = &self->ex;

	/* Leave some spare pages, because those freed under WRITE come back late */
	ASSERT_EQ(250, ex_alloc(ex, 0, FILE_PAGES - 250, 250));
	run_workers(_metadata, w, 4, manage_buffer, ex, NULL);
}

/* Tests that do not depend on the kind of backing file */

TEST(no_backing_file)
{
	struct exmap_result r[4];
	struct exmap ex;
	int opcode;

	catch_faults();
	exmap_create(_metadata, &ex, -1, 1, 8, 16);
	ASSERT_EQ(1, ex_alloc(&ex, 0, 3, 1));
	for (opcode = EXMAP_OP_READ; opcode <= EXMAP_OP_WRITE; opcode += EXMAP_OP_WRITE) {
		const struct exmap_vec vecs[] = {
			ex_vec(opcode, 3, 1, 0), ex_vec(opcode, 2, 2, 0),
			ex_vec(opcode, 16, 1, 0), ex_vec(opcode, 1, 0, 0),
		};

		EXPECT_EQ(3, ex_vectors(&ex, 0, vecs, r, 4));
		EXPECT_EQ(-ENODEV, r[0].res);
		EXPECT_EQ(-ENODEV, r[1].res);
		EXPECT_EQ(-ERANGE, r[2].res);
		EXPECT_EQ(0, r[3].res);
	}
	EXPECT_EQ(1, count_present(&ex, 0, 16));
	exmap_destroy(&ex);
}

TEST(backing_file_for_reading_only)
{
	int fd = open_file(), backing, i;
	struct exmap ex;

	catch_faults();
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fill_file(fd, 64));
	backing = reopen(fd, O_RDONLY);
	ASSERT_LE(0, backing);
	exmap_create(_metadata, &ex, backing, 1, 16, 64);
	ASSERT_EQ(8, ex_one(&ex, 0, EXMAP_OP_READ, 0, 8));
	for (i = 0; i < 8; i++)
		renew(&ex, i);
	EXPECT_EQ(-EBADF, ex_one(&ex, 0, EXMAP_OP_WRITE, 3, 1));
	EXPECT_EQ(-EBADF, ex_one(&ex, 0, EXMAP_OP_WRITE, 0, 8));
	/* A WRITE that fails leaves the pages dirty */
	EXPECT_EQ(-EBADF, ex_vec_one(&ex, 0, EXMAP_OP_WRITE, 0, 8, EXMAP_VEC_DIRTY));
	EXPECT_EQ(-EBADF, ex_vec_one(&ex, 0, EXMAP_OP_WRITE, 0, 8, EXMAP_VEC_DIRTY));
	for (i = 0; i < 8; i++) {
		EXPECT_TRUE(file_has(fd, i, i));
		EXPECT_TRUE(page_is(page_at(&ex, i), NEW(i)));
	}
	exmap_destroy(&ex);
	close(backing);
	close(fd);
}

TEST(setup2_offset)
{
	int fd = open_file(), exmap, i;
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .max_interfaces = 1, .buffer_size = 16, .fd = fd,
	};
	static const __u64 bad[] = {
		1, 512, 4095, 4097, 1ULL << 63, ~0ULL, ~0ULL << 12, (1ULL << 63) + 4096,
	};
	struct exmap ex;

	catch_faults();
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fill_file(fd, 64));
	exmap = exmap_open(_metadata);
	for (i = 0; i < (int)ARRAY_SIZE(bad); i++) {
		setup.offset = bad[i];
		EXPECT_EQ(-EINVAL, ex_ioctl(exmap, EXMAP_IOCTL_SETUP2, &setup));
	}
	close(exmap);

	setup.offset = 20 * PG;
	exmap_create2(_metadata, &ex, setup, 1, 16, 64);
	EXPECT_EQ(10, ex_one(&ex, 0, EXMAP_OP_READ, 3, 10));
	for (i = 3; i < 13; i++)
		EXPECT_TRUE(page_is(page_at(&ex, i), i + 20));
	EXPECT_EQ(-ENODATA, ex_one(&ex, 0, EXMAP_OP_READ, 44, 1));
	EXPECT_EQ(-ENODATA, ex_one(&ex, 0, EXMAP_OP_READ, 43, 2));
	EXPECT_TRUE(page_is(page_at(&ex, 43), 63));
	renew(&ex, 5);
	EXPECT_EQ(1, ex_one(&ex, 0, EXMAP_OP_WRITE, 5, 1));
	EXPECT_TRUE(file_has(fd, 25, NEW(5)));
	EXPECT_TRUE(file_has(fd, 5, 5));
	exmap_destroy(&ex);

	/* The region extends beyond the largest possible file offset */
	setup.offset = (1ULL << 63) - 2 * PG;
	exmap_create2(_metadata, &ex, setup, 1, 16, 64);
	for (i = 0; i < 5; i++) {
		EXPECT_GT(0, ex_one(&ex, 0, EXMAP_OP_READ, i, 1));
		ASSERT_EQ(1, ex_alloc(&ex, 0, i, 1));
		EXPECT_GT(0, ex_one(&ex, 0, EXMAP_OP_WRITE, i, 1));
	}
	exmap_destroy(&ex);
	close(fd);
}

/* O_APPEND has no effect: a page is written to its own place in the file */
TEST(backing_file_for_appending)
{
	int fd = open_file(), backing;
	struct stat stat;
	struct exmap ex;

	catch_faults();
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fill_file(fd, 64));
	backing = reopen(fd, O_RDWR | O_APPEND);
	ASSERT_LE(0, backing);
	exmap_create(_metadata, &ex, backing, 1, 16, 64);
	ASSERT_EQ(8, ex_one(&ex, 0, EXMAP_OP_READ, 0, 8));
	renew(&ex, 3);
	EXPECT_EQ(1, ex_one(&ex, 0, EXMAP_OP_WRITE, 3, 1));
	EXPECT_TRUE(file_has(fd, 3, NEW(3)));
	ASSERT_EQ(0, fstat(fd, &stat));
	EXPECT_EQ(64 * PG, (unsigned long)stat.st_size);
	exmap_destroy(&ex);
	close(backing);
	close(fd);
}

/* A file with the append-only attribute cannot be written to */
TEST(append_only_file)
{
	int fd = open_file(), backing, flags;
	struct exmap ex;

	catch_faults();
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fill_file(fd, 64));
	backing = reopen(fd, O_RDWR | O_APPEND);
	ASSERT_LE(0, backing);
	if (ioctl(fd, FS_IOC_GETFLAGS, &flags))
		SKIP(return, "no file attributes on this file system");
	flags |= FS_APPEND_FL;
	if (ioctl(fd, FS_IOC_SETFLAGS, &flags))
		SKIP(return, "the file cannot be made append-only");
	exmap_create(_metadata, &ex, backing, 1, 16, 64);
	ASSERT_EQ(8, ex_one(&ex, 0, EXMAP_OP_READ, 0, 8));
	renew(&ex, 3);
	EXPECT_EQ(-EPERM, ex_one(&ex, 0, EXMAP_OP_WRITE, 3, 1));
	EXPECT_TRUE(file_has(fd, 3, 3));
	exmap_destroy(&ex);
	flags &= ~FS_APPEND_FL;
	ASSERT_EQ(0, ioctl(fd, FS_IOC_SETFLAGS, &flags));
	close(backing);
	close(fd);
}

/* A memfd that is sealed against writes can only be read */
TEST(sealed_memfd)
{
	int fd = memfd_create("backing", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct exmap ex;

	catch_faults();
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fill_file(fd, 64));
	exmap_create(_metadata, &ex, fd, 1, 16, 64);
	ASSERT_EQ(0, fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW));
	ASSERT_EQ(8, ex_one(&ex, 0, EXMAP_OP_READ, 0, 8));
	renew(&ex, 3);
	EXPECT_EQ(-EPERM, ex_one(&ex, 0, EXMAP_OP_WRITE, 3, 1));
	EXPECT_TRUE(file_has(fd, 3, 3));
	exmap_destroy(&ex);
	close(fd);
}

/*
 * Transfers from and to a slow disk. To find out whether a call is under way, the tests
 * do not sleep, but ask the disk whether it has requests in flight.
 */
#define SLOW_PAGES	64

FIXTURE(slow) {
	struct nullb disk;
	struct exmap ex;
	int fd;
};

FIXTURE_VARIANT(slow) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(slow, strict) {};
FIXTURE_VARIANT_ADD(slow, deferred) { .flags = EXMAP_SETUP_DEFERRED };

FIXTURE_SETUP(slow)
{
	struct exmap_setup2 setup = { .flags = variant->flags };

	catch_faults();
	if (nullb_create(&self->disk, "io_test", 150000000, NULL))
		SKIP(return, "no null_blk through configfs: %s", strerror(errno));
	self->fd = open(self->disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, fill_file(self->fd, SLOW_PAGES));
	setup.fd = self->fd;
	exmap_create2(_metadata, &self->ex, setup, 2, SLOW_PAGES, 256);
}

FIXTURE_TEARDOWN(slow)
{
	struct exmap *ex = &self->ex;

	EXPECT_LE(0, ex_drain(ex, 0, 0, 256));
	EXPECT_EQ(SLOW_PAGES, ex_fill(ex, 1, 0));
	exmap_destroy(ex);
	close(self->fd);
	nullb_destroy(&self->disk);
}

struct slow_call {
	struct exmap_vec *vecs;
	struct exmap_result *results;
	int nr;
	bool over;
};

static void *call_slowly(void *arg)
{
	struct worker *w = arg;
	struct slow_call *call = w->arg;

	w->value = ex_vectors(w->ex, 0, call->vecs, call->results, call->nr);
	__atomic_store_n(&call->over, true, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Start @call in a thread, and wait until the disk has requests or @call is over */
static void begin_slowly(struct __test_metadata *_metadata, struct worker *w,
			 struct slow_call *call, struct exmap *ex, struct nullb *disk)
{
	start_workers(_metadata, w, 1, call_slowly, ex, call);
	while (!nullb_inflight(disk) && !__atomic_load_n(&call->over, __ATOMIC_SEQ_CST))
		usleep(1000);
}

static bool still_at_it(struct slow_call *call)
{
	return !__atomic_load_n(&call->over, __ATOMIC_SEQ_CST);
}

TEST_F_TIMEOUT(slow, free_under_read, SLOW)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[] = {
		ex_vec(EXMAP_OP_READ, 10, 4, 0),
		ex_vec(EXMAP_OP_READ, 20, 2, EXMAP_VEC_REPLACE),
	};
	const struct exmap_vec frees[] = {
		ex_vec(EXMAP_OP_FREE, 8, 7, 0), ex_vec(EXMAP_OP_FREE, 12, 1, 0),
		ex_vec(EXMAP_OP_FREE, 20, 1, 0), ex_vec(EXMAP_OP_FREE, 21, 1, 0),
		ex_vec(EXMAP_OP_FREE, 30, 1, 0),
	};
	struct exmap_result r[2], f[5];
	struct slow_call call = { .vecs = vecs, .results = r, .nr = 2 };
	struct worker w;
	int round, i, freed, busy = 0, res, present_now;

	for (round = 0; round < 20 && !busy; round++) {
		/* Slots 8, 9, 14 and 20 are resident; slot 20 is read in place */
		ASSERT_EQ(2, ex_alloc(ex, 1, 8, 2));
		ASSERT_EQ(1, ex_alloc(ex, 1, 14, 1));
		ASSERT_EQ(1, ex_alloc(ex, 1, 20, 1));
		call.over = false;
		begin_slowly(_metadata, &w, &call, ex, &self->disk);
		freed = ex_vectors(ex, 1, frees, f, 5);
		present_now = count_present(ex, 10, 4);
		if (still_at_it(&call)) {
			busy++;
			EXPECT_EQ(4, freed);
			EXPECT_EQ(-EBUSY, f[0].res);
			EXPECT_EQ(3, f[0].pages);
			for (i = 1; i < 4; i++) {
				EXPECT_EQ(-EBUSY, f[i].res);
				EXPECT_EQ(0, f[i].pages);
			}
			EXPECT_EQ(0, f[4].res);
			/* A slot stays empty until its READ is complete */
			EXPECT_EQ(0, present_now);
		}
		join_workers(_metadata, &w, 1);
		EXPECT_EQ(NULL, w.what);
		if (busy) {
			EXPECT_EQ(0, w.value);
			EXPECT_EQ(4, r[0].pages);
			EXPECT_EQ(2, r[1].pages);
			for (i = 10; i < 14; i++)
				EXPECT_TRUE(page_is(page_at(ex, i), i));
			EXPECT_TRUE(page_is(page_at(ex, 20), 20));
			EXPECT_TRUE(page_is(page_at(ex, 21), 21));
		}
		/* Now that the READs are complete, the pages can be freed */
		res = ex_free(ex, 1, 10, 4);
		EXPECT_TRUE(res == 4 || !busy);
		EXPECT_LE(0, ex_free(ex, 1, 8, 20));
	}
	EXPECT_LT(0, busy);
}

TEST_F_TIMEOUT(slow, free_under_write, SLOW)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[] = { ex_vec(EXMAP_OP_WRITE, 10, 4, 0) };
	struct exmap_result r[1];
	struct slow_call call = { .vecs = vecs, .results = r, .nr = 1 };
	struct worker w;
	int round, i, mapped, met = 0;

	for (round = 0; round < 20 && !met; round++) {
		ASSERT_EQ(SLOW_PAGES, ex_alloc(ex, 1, 0, SLOW_PAGES));
		for (i = 0; i < SLOW_PAGES; i++)
			renew(ex, i);
		call.over = false;
		begin_slowly(_metadata, &w, &call, ex, &self->disk);
		/* Pages under WRITE are unmapped at once, but cannot be reused yet */
		EXPECT_EQ(8, ex_free(ex, 1, 8, 8));
		if (variant->flags)
			EXPECT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_FLUSH, NULL));
		EXPECT_EQ(0, count_present(ex, 8, 8));
		mapped = ex_fill(ex, 1, 100);
		for (i = 0; i < mapped; i++)
			memset(page_at(ex, 100 + i), 0xee, PG);
		if (still_at_it(&call)) {
			EXPECT_EQ(4, mapped);
			met++;
		}
		join_workers(_metadata, &w, 1);
		EXPECT_EQ(0, w.value);
		EXPECT_EQ(4, r[0].pages);
		for (i = 10; i < 14; i++)
			EXPECT_TRUE(file_has(self->fd, i, NEW(i)));
		EXPECT_EQ(8 - mapped, ex_fill(ex, 0, 120));
		EXPECT_EQ(SLOW_PAGES, ex_drain(ex, 0, 0, 256));
	}
	EXPECT_LT(0, met);
}

/* All transfers of a call are in flight at the same time */
TEST_F_TIMEOUT(slow, in_flight_together, SLOW)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[24];
	struct exmap_result r[24];
	struct slow_call call = { .vecs = vecs, .results = r, .nr = 24 };
	struct worker w;
	int round, i, most = 0, now;

	for (i = 0; i < 24; i++)
		vecs[i] = ex_vec(EXMAP_OP_READ, i * 2, 1, 0);
	for (round = 0; round < 10 && most < 24; round++) {
		call.over = false;
		begin_slowly(_metadata, &w, &call, ex, &self->disk);
		while (still_at_it(&call)) {
			now = nullb_inflight(&self->disk);
			most = now > most ? now : most;
			usleep(1000);
		}
		join_workers(_metadata, &w, 1);
		EXPECT_EQ(0, w.value);
		EXPECT_EQ(24, ex_drain(ex, 0, 0, 64));
	}
	EXPECT_EQ(24, most);
}

/*
 * Some slots get another page while theirs are being read. Each of the others gets the page
 * that was read for it, although all are mapped together.
 */
TEST_F_TIMEOUT(slow, some_are_filled_meanwhile, SLOW)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[24];
	struct exmap_result r[24];
	struct slow_call call = { .vecs = vecs, .results = r, .nr = 24 };
	struct worker w;
	int round, i, met = 0;

	for (i = 0; i < 24; i++)
		vecs[i] = ex_vec(EXMAP_OP_READ, i * 2, 1, 0);
	for (round = 0; round < 20 && !met; round++) {
		call.over = false;
		begin_slowly(_metadata, &w, &call, ex, &self->disk);
		for (i = 0; i < 24; i += 3) {
			ASSERT_EQ(1, ex_alloc(ex, 1, i * 2, 1));
			renew(ex, i * 2);
		}
		met = still_at_it(&call);
		join_workers(_metadata, &w, 1);
		EXPECT_EQ(0, w.value);
		for (i = 0; met && i < 24; i++) {
			EXPECT_EQ(i % 3 != 0, r[i].pages);
			EXPECT_EQ(0, r[i].res);
			EXPECT_TRUE(page_is(page_at(ex, i * 2), i % 3 ? i * 2 : NEW(i * 2)))
				TH_LOG("slot %d", i * 2);
		}
		EXPECT_EQ(24, ex_drain(ex, 0, 0, 64));
	}
	EXPECT_EQ(1, met);
}

/* The region is unmapped while its pages are being read and written */
TEST_F_TIMEOUT(slow, munmap_meanwhile, SLOW)
{
	struct exmap_vec vecs[] = {
		ex_vec(EXMAP_OP_READ, 10, 4, 0), ex_vec(EXMAP_OP_WRITE, 20, 2, 0),
		ex_vec(EXMAP_OP_READ, 30, 2, EXMAP_VEC_REPLACE),
	};
	struct exmap_result r[3];
	struct slow_call call = { .vecs = vecs, .results = r, .nr = 3 };
	struct exmap_setup2 setup = { .flags = variant->flags, .fd = self->fd };
	struct exmap other;
	struct worker w;
	int i;

	exmap_create2(_metadata, &other, setup, 1, 16, 64);
	ASSERT_EQ(2, ex_alloc(&other, 0, 20, 2));
	ASSERT_EQ(2, ex_alloc(&other, 0, 30, 2));
	for (i = 20; i < 22; i++)
		renew(&other, i);
	begin_slowly(_metadata, &w, &call, &other, &self->disk);
	munmap(other.region, 64 * PG);
	join_workers(_metadata, &w, 1);
	if (w.value > 0) {
		EXPECT_TRUE(r[0].res == -ENXIO || r[0].pages == 4);
		EXPECT_TRUE(r[1].res == -ENXIO || r[1].pages == 2);
	} else {
		EXPECT_TRUE(!w.value || w.value == -ENXIO);
	}
	if (w.value >= 0 && !r[1].res)
		EXPECT_TRUE(file_has(self->fd, 21, NEW(21)));
	close(other.fd);
}

TEST_F_TIMEOUT(slow, killed_meanwhile, SLOW)
{
	struct exmap_setup2 setup = { .flags = variant->flags, .fd = self->fd };
	struct exmap other;
	int round;
	pid_t pid;

	for (round = 0; round < 3; round++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			exmap_create2(_metadata, &other, setup, 1, 16, 64);
			ex_alloc(&other, 0, 20, 2);
			if (round == 1)
				ex_one(&other, 0, EXMAP_OP_WRITE, 20, 2);
			else
				ex_one(&other, 0, EXMAP_OP_READ, 10, 8);
			pause();
		}
		while (!nullb_inflight(&self->disk))
			usleep(1000);
		kill(pid, SIGKILL);
		EXPECT_EQ(128 + SIGKILL, wait_child(pid));
	}
}

TEST_HARNESS_MAIN
