// SPDX-License-Identifier: GPL-2.0
/*
 * The page tables of a region are bounded. When many of them are empty, the driver frees
 * them without being asked; FLUSH and RESIZE free all empty tables. Pages in other tables
 * keep their slots and their content.
 */
#include "common.h"
#include "query.h"
#include "status.h"

#define TABLE		512L		/* slots that a page table covers */
#define SPAN		512L		/* page tables below a table of the next level */
#define STEPS		steps_of(512L * 1024)	/* page tables of 2^40 bytes */
#define FEWER_STEPS	steps_of(64L * 1024)	/* 256 MiB of tables, if none is freed */
#define MOST_KIB	(16 << 10)	/* maximum for all page tables of the process */
#define EMPTY_KIB	(8 << 10)	/* allowed for empty ones, plus 1/8 of the pool */
#define SLACK_KIB	256L

/* An exmap, and the size of the page tables of its process in KiB */
struct watch {
	struct exmap ex;
	long start;		/* size when the region was still empty */
	long peak;		/* largest size that was sampled */
};

FIXTURE(tables) {
	struct watch watch;
};

FIXTURE_VARIANT(tables) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(tables, strict) {
};

FIXTURE_VARIANT_ADD(tables, deferred) {
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_SETUP(tables)
{
	if (!page_tables_go_back())
		SKIP(return, "this kernel keeps the page tables of a live region");
	catch_faults();
}

FIXTURE_TEARDOWN(tables)
{
}

static void create(struct __test_metadata *_metadata, struct watch *watch, __u64 flags,
		   int backing, int ifaces, int buffer, long tables)
{
	struct exmap_setup2 setup = { .flags = flags, .fd = backing };

	exmap_create2(_metadata, &watch->ex, setup, ifaces, buffer, tables * TABLE);
	watch->start = status_kib("VmPTE:");
	watch->peak = watch->start;
	ASSERT_LT(0, watch->start);
}

/* Returns false if the test has failed and should stop before it takes more memory */
static bool sample(struct watch *watch)
{
	const long now = status_kib("VmPTE:");

	if (now > watch->peak)
		watch->peak = now;
	return now < 4 * MOST_KIB;
}

/* Return the size of the tables of the upper levels, which are never freed, in KiB */
static long upper_kib(long tables)
{
	return (tables / SPAN + 2) * 4;
}

/* Shorten a walk to a quarter on slow machines */
static long steps_of(long steps)
{
	return scaled(100) < 40 ? steps / 4 : steps;
}

/* Wait until page tables are at most @most KiB: they may be freed asynchronously */
static long settle(long most)
{
	int i;

	for (i = 0; i < 100 && status_kib("VmPTE:") > most; i++)
		usleep(10000);
	return status_kib("VmPTE:");
}

/* End of a test: FLUSH must leave only the tables of the upper levels */
static void finish(struct __test_metadata *_metadata, struct watch *watch, long tables)
{
	const long rest = watch->start + upper_kib(tables) + SLACK_KIB;

	EXPECT_EQ(0, ex_flush(watch->ex.fd));
	EXPECT_GE(rest, settle(rest));
	exmap_destroy(&watch->ex);
	EXPECT_GE(watch->start + SLACK_KIB, status_kib("VmPTE:"));
}

/*
 * Walks over a large region: one page visits a slot in every page table, with all ways
 * to give a slot a page; or a call fails in every page table.
 */

#define CHUNK	1024

/* ALLOC and FREE a slot in each of CHUNK tables. Returns how often both succeeded. */
static int visit_tables(struct exmap *ex, long first)
{
	static struct exmap_result results[2 * CHUNK];
	static struct exmap_vec vecs[2 * CHUNK];
	int i, ret, visits = 0;

	for (i = 0; i < CHUNK; i++) {
		vecs[2 * i] = ex_vec(EXMAP_OP_ALLOC, (first + i) * TABLE, 1, 0);
		vecs[2 * i + 1] = ex_vec(EXMAP_OP_FREE, (first + i) * TABLE, 1, 0);
	}
	ret = ex_vectors(ex, 0, vecs, results, 2 * CHUNK);
	if (ret < 0)
		return ret;
	for (i = 0; i < CHUNK; i++)
		visits += results[2 * i].pages == 1 && results[2 * i + 1].pages == 1;
	return visits;
}

/* READ a slot behind the end of the file in each table. Returns 0 or -errno. */
static int walk_by_failed_reads(struct watch *watch, long steps)
{
	static struct exmap_result results[CHUNK];
	static struct exmap_vec vecs[CHUNK];
	long step;
	int i, ret;

	for (step = 0; step < steps; step += CHUNK) {
		for (i = 0; i < CHUNK; i++)
			vecs[i] = ex_vec(EXMAP_OP_READ, (step + i) * TABLE + 1, 1, 0);
		ret = ex_vectors(&watch->ex, 0, vecs, results, CHUNK);
		if (ret != CHUNK)
			return ret < 0 ? ret : -EIO;
		for (i = 0; i < CHUNK; i++)
			if (results[i].res != -ENODATA)
				return results[i].res;
		if (!sample(watch))
			return -E2BIG;
	}
	return 0;
}

TEST_F_TIMEOUT(tables, walk_in_large_calls, SLOW)
{
	struct watch *watch = &self->watch;
	long step;

	create(_metadata, watch, variant->flags, -1, 1, 1, STEPS);
	for (step = 0; step < STEPS; step += CHUNK)
		if (visit_tables(&watch->ex, step) != CHUNK || !sample(watch))
			break;
	EXPECT_EQ(STEPS, step);
	EXPECT_GE(MOST_KIB, watch->peak);
	EXPECT_EQ(1, ex_fill(&watch->ex, 0, 0));
	finish(_metadata, watch, STEPS);
}

TEST_F_TIMEOUT(tables, walk_one_by_one, SLOW)
{
	struct watch *watch = &self->watch;
	struct exmap *ex = &watch->ex;
	long step;

	create(_metadata, watch, variant->flags, -1, 2, 1, FEWER_STEPS);
	for (step = 0; step < FEWER_STEPS; step++) {
		if (ex_alloc(ex, step & 1, step * TABLE + step % TABLE, 1) != 1)
			break;
		if (ex_free(ex, 0, step * TABLE + step % TABLE, 1) != 1)
			break;
		if (step % 1024 == 1023 && !sample(watch))
			break;
	}
	EXPECT_EQ(FEWER_STEPS, step);
	EXPECT_GE(MOST_KIB, watch->peak);
	finish(_metadata, watch, FEWER_STEPS);
}

TEST_F_TIMEOUT(tables, walk_by_reads, SLOW)
{
	struct watch *watch = &self->watch;
	struct exmap *ex = &watch->ex;
	const int backing = memfd_create("backing", MFD_CLOEXEC);
	long step;

	ASSERT_EQ(0, ftruncate(backing, FEWER_STEPS * TABLE * PG));
	create(_metadata, watch, variant->flags, backing, 1, 1, FEWER_STEPS);
	for (step = 0; step < FEWER_STEPS; step++) {
		if (ex_one(ex, 0, EXMAP_OP_READ, step * TABLE, 1) != 1)
			break;
		if (ex_free(ex, 0, step * TABLE, 1) != 1)
			break;
		if (step % 1024 == 1023 && !sample(watch))
			break;
	}
	EXPECT_EQ(FEWER_STEPS, step);
	EXPECT_GE(MOST_KIB, watch->peak);
	finish(_metadata, watch, FEWER_STEPS);
	close(backing);
}

/* Walk from the end to the start, and free a whole table at each step */
TEST_F_TIMEOUT(tables, walk_backwards, SLOW)
{
	struct watch *watch = &self->watch;
	struct exmap *ex = &watch->ex;
	long step;

	create(_metadata, watch, variant->flags, -1, 1, 1, FEWER_STEPS);
	for (step = FEWER_STEPS - 1; step >= 0; step--) {
		if (ex_alloc(ex, 0, step * TABLE + TABLE - 1, 1) != 1)
			break;
		if (ex_free(ex, 0, step * TABLE, TABLE) != 1)
			break;
		if (step % 1024 == 0 && !sample(watch))
			break;
	}
	EXPECT_EQ(-1, step);
	EXPECT_GE(MOST_KIB, watch->peak);
	finish(_metadata, watch, FEWER_STEPS);
}

TEST_F_TIMEOUT(tables, walk_of_a_touch, SLOW)
{
	struct watch *watch = &self->watch;
	struct exmap *ex = &watch->ex;
	long step;

	if (variant->flags)
		SKIP(return, "pages at a touch and deferred flushes exclude each other");
	create(_metadata, watch, EXMAP_SETUP_PAGEFAULT_ALLOC, -1, 1, 1, FEWER_STEPS);
	for (step = 0; step < FEWER_STEPS; step++) {
		if (try_write_byte(page_at(ex, step * TABLE), 1))
			break;
		if (ex_free(ex, 0, step * TABLE, 1) != 1)
			break;
		if (step % 1024 == 1023 && !sample(watch))
			break;
	}
	EXPECT_EQ(FEWER_STEPS, step);
	EXPECT_GE(MOST_KIB, watch->peak);
	finish(_metadata, watch, FEWER_STEPS);
}

/* READs fail because the slots are behind the end of the file */
TEST_F_TIMEOUT(tables, walk_of_reads_that_fail, SLOW)
{
	struct watch *watch = &self->watch;
	const int backing = memfd_create("backing", MFD_CLOEXEC);

	ASSERT_EQ(0, ftruncate(backing, 100));
	create(_metadata, watch, variant->flags, backing, 1, CHUNK, FEWER_STEPS);
	EXPECT_EQ(0, walk_by_failed_reads(watch, FEWER_STEPS));
	EXPECT_GE(MOST_KIB, watch->peak);
	EXPECT_EQ(CHUNK, ex_fill(&watch->ex, 0, 0));
	EXPECT_EQ(CHUNK, ex_drain(&watch->ex, 0, 0, 2 * CHUNK));
	finish(_metadata, watch, FEWER_STEPS);
	close(backing);
}

/* ALLOCs fail because the only page of the pool is resident */
TEST_F_TIMEOUT(tables, walk_of_allocs_that_fail, SLOW)
{
	struct watch *watch = &self->watch;
	struct exmap *ex = &watch->ex;
	long step;

	create(_metadata, watch, variant->flags, -1, 1, 1, FEWER_STEPS);
	ASSERT_EQ(1, ex_alloc(ex, 0, 1, 1));
	stamp_page(page_at(ex, 1), 1);
	for (step = 0; step < FEWER_STEPS; step++) {
		if (ex_alloc(ex, 0, step * TABLE, 1) != -ENOMEM)
			break;
		if (step % 1024 == 1023 && !sample(watch))
			break;
	}
	EXPECT_EQ(FEWER_STEPS, step);
	EXPECT_GE(MOST_KIB, watch->peak);
	EXPECT_TRUE(stamp_intact(page_at(ex, 1), 1));
	finish(_metadata, watch, FEWER_STEPS);
}

/* QUERY, FREE and accesses to empty slots do not allocate page tables */
TEST_F_TIMEOUT(tables, looking_is_free, SLOW)
{
	struct watch *watch = &self->watch;
	const long steps = FEWER_STEPS / 4;
	struct exmap *ex = &watch->ex;
	int present_slots = 0;
	long step;

	create(_metadata, watch, variant->flags, -1, 1, 16, steps);
	for (step = 0; step < steps; step++) {
		if (ex_query_slot(ex->fd, 0, step * TABLE, 0))
			break;
		if (ex_free(ex, 0, step * TABLE, 4))
			break;
		present_slots += !try_read_byte(page_at(ex, step * TABLE));
	}
	EXPECT_EQ(steps, step);
	EXPECT_EQ(0, present_slots);
	EXPECT_GE(watch->start + upper_kib(steps) + SLACK_KIB, status_kib("VmPTE:"));
	finish(_metadata, watch, steps);
}

/* Number of page tables with one page each */
#define MANY	8192

static long scatter(struct exmap *ex, long first, long count, long slot)
{
	static struct exmap_result results[CHUNK];
	static struct exmap_vec vecs[CHUNK];
	long table, mapped = 0;
	int i, nr;

	for (table = first; table < first + count; table += nr) {
		nr = first + count - table < CHUNK ? first + count - table : CHUNK;
		for (i = 0; i < nr; i++)
			vecs[i] = ex_vec(EXMAP_OP_ALLOC, (table + i) * TABLE + slot, 1, 0);
		if (ex_vectors(ex, 0, vecs, results, nr))
			return -1;
		for (i = 0; i < nr; i++) {
			mapped += results[i].pages;
			stamp_page(page_at(ex, (table + i) * TABLE + slot), table + i);
		}
	}
	return mapped;
}

/* FREE all tables, except every @spared-th one. Returns the number of pages freed. */
static long gather(struct exmap *ex, long count, long spared)
{
	static struct exmap_result results[CHUNK];
	static struct exmap_vec vecs[CHUNK];
	long table, freed = 0;
	int i, nr = 0;

	for (table = 0; table < count; table++) {
		if (!spared || table % spared)
			vecs[nr++] = ex_vec(EXMAP_OP_FREE, table * TABLE, TABLE, 0);
		if (nr && (nr == CHUNK || table == count - 1)) {
			if (ex_vectors(ex, 0, vecs, results, nr))
				return -1;
			for (i = 0; i < nr; i++)
				freed += results[i].pages;
			nr = 0;
		}
	}
	return freed;
}

static long count_intact(struct exmap *ex, long count, long every, long slot)
{
	long table, intact = 0;
	__u64 value;

	for (table = 0; table < count; table += every)
		if (!try_read(page_at(ex, table * TABLE + slot), &value))
			intact += stamp_intact(page_at(ex, table * TABLE + slot), table);
	return intact;
}

TEST_F_TIMEOUT(tables, sparse_pages_beyond_the_bound, SLOW)
{
	struct watch *watch = &self->watch;
	const long bound = EMPTY_KIB + MANY * 4 / 8 + upper_kib(MANY) + SLACK_KIB;
	struct exmap *ex = &watch->ex;
	int round;

	create(_metadata, watch, variant->flags, -1, 1, MANY, MANY);
	for (round = 0; round < 3; round++) {
		ASSERT_EQ(MANY, scatter(ex, 0, MANY, 7 * round));
		/* A table that has a page is not freed */
		EXPECT_LE(watch->start + MANY * 4, status_kib("VmPTE:"));
		EXPECT_EQ(MANY, count_intact(ex, MANY, 1, 7 * round));
		/* FREE alone makes the driver free tables, without a FLUSH or RESIZE */
		EXPECT_EQ(MANY, gather(ex, MANY, 0));
		EXPECT_GE(watch->start + bound, settle(watch->start + bound));
	}
	finish(_metadata, watch, MANY);
}

TEST_F_TIMEOUT(tables, neighbours_survive, SLOW)
{
	struct watch *watch = &self->watch;
	const long rest = MANY / 8, bound = EMPTY_KIB + (MANY + rest) * 4 / 8 + rest * 4 +
		upper_kib(MANY) + SLACK_KIB;
	struct exmap *ex = &watch->ex;
	int round;

	create(_metadata, watch, variant->flags, -1, 1, MANY + rest, MANY);
	for (round = 0; round < 3; round++) {
		/* Every eighth page, and so its table, stays */
		ASSERT_EQ(round ? MANY - rest : MANY, scatter(ex, 0, MANY, 5));
		EXPECT_EQ(MANY, count_intact(ex, MANY, 1, 5));
		EXPECT_EQ(MANY - rest, gather(ex, MANY, 8));
		EXPECT_EQ(rest, count_intact(ex, MANY, 8, 5));
		EXPECT_GE(watch->start + bound, settle(watch->start + bound));
		EXPECT_EQ(0, round & 1 ? ex_resize(ex->fd, MANY + rest - round) : ex_flush(ex->fd));
		EXPECT_GE(watch->start + rest * 4 + upper_kib(MANY) + SLACK_KIB,
			  settle(watch->start + rest * 4 + upper_kib(MANY) + SLACK_KIB));
		EXPECT_EQ(rest, count_intact(ex, MANY, 8, 5));
		EXPECT_EQ(SIGSEGV, try_read_byte(page_at(ex, TABLE + 5)));
		EXPECT_EQ(SIGSEGV, try_read_byte(page_at(ex, 6)));
	}
	EXPECT_EQ(rest, gather(ex, MANY, 0));
	finish(_metadata, watch, MANY);
}

/* Number of tables, too few for the driver to free them without a FLUSH or RESIZE */
#define FEW	1500

static void some_are_left(struct __test_metadata *_metadata, struct watch *watch, __u64 flags,
			  bool resize)
{
	const long rest = upper_kib(FEW) + SLACK_KIB;
	struct exmap *ex = &watch->ex;
	int round;

	create(_metadata, watch, flags, -1, 1, FEW, FEW);
	for (round = 1; round <= 4; round++) {
		ASSERT_EQ(FEW, scatter(ex, 0, FEW, TABLE - round));
		ASSERT_EQ(FEW, gather(ex, FEW, 0));
		EXPECT_EQ(0, resize ? ex_resize(ex->fd, FEW + round % 2) : ex_flush(ex->fd));
		EXPECT_GE(watch->start + rest, settle(watch->start + rest));
	}
	finish(_metadata, watch, FEW);
}

TEST_F_TIMEOUT(tables, flush_gives_back, SLOW)
{
	some_are_left(_metadata, &self->watch, variant->flags, false);
}

TEST_F_TIMEOUT(tables, resize_gives_back, SLOW)
{
	some_are_left(_metadata, &self->watch, variant->flags, true);
}

/* MADV_DONTNEED empties some tables, and frees others itself */
TEST_F_TIMEOUT(tables, dontneed_beside, SLOW)
{
	struct watch *watch = &self->watch;
	const size_t bytes = MANY * TABLE * PG;
	struct exmap *ex = &watch->ex;
	int round, tries;
	long found;

	create(_metadata, watch, variant->flags, -1, 1, MANY, MANY);
	for (round = 0; round < 3; round++) {
		ASSERT_EQ(MANY, scatter(ex, 0, MANY, 0));
		switch (round) {
		case 0:
			EXPECT_EQ(0, madvise(ex->region, bytes, MADV_DONTNEED));
			break;
		case 1:
			/* FREE empties every other table first */
			EXPECT_EQ(MANY / 2, gather(ex, MANY, 2));
			EXPECT_EQ(0, madvise(ex->region, bytes, MADV_DONTNEED));
			break;
		case 2:
			/* MADV_DONTNEED of single pages does not free any table */
			for (found = 0; found < MANY; found++)
				madvise(page_at(ex, found * TABLE), PG, MADV_DONTNEED);
			break;
		}
		EXPECT_EQ(0, count_intact(ex, MANY, 1, 0));
		EXPECT_EQ(0, gather(ex, MANY, 0));
		/* ALLOC finds all of these pages again, though not in one call */
		for (found = 0, tries = 0; found < MANY && tries < 2 * MANY; tries++)
			if (ex_alloc(ex, 0, found * TABLE + 1, 1) == 1) {
				stamp_page(page_at(ex, found * TABLE + 1), found);
				found++;
			}
		EXPECT_EQ(MANY, found);
		EXPECT_EQ(MANY, count_intact(ex, MANY, 1, 1));
		EXPECT_EQ(MANY, gather(ex, MANY, 0));
		EXPECT_EQ(0, ex_flush(ex->fd));
		EXPECT_GE(watch->start + upper_kib(MANY) + SLACK_KIB,
			  settle(watch->start + upper_kib(MANY) + SLACK_KIB));
	}
	finish(_metadata, watch, MANY);
}

/*
 * Several threads walk through the same tables at the same time. Each has its own slots
 * and checks the content of its pages. Meanwhile, the main thread makes the driver free
 * tables.
 */

#define WALKERS	4
#define BATCH	64	/* tables that a thread visits with one call */
#define HELD	256	/* pages that a thread keeps resident behind it */
#define SPARE	64	/* tables at the end of the region, used for MADV_DONTNEED */

struct walk {
	long steps;		/* page tables to visit */
	bool patient;		/* ENOMEM is not an error, the call is repeated */
	int done;
};

/*
 * Repeat a call until all of its vectors have succeeded. @pages receives the number of
 * pages of each vector, summed up over all tries.
 */
static bool do_all(struct worker *w, const struct exmap_vec *vecs, int *pages, int nr)
{
	const struct walk *walk = w->arg;
	struct exmap_result results[2 * BATCH];
	int i, ret, tries = 0;

	memset(pages, 0, nr * sizeof(*pages));
	do {
		ret = ex_vectors(w->ex, w->index, vecs, results, nr);
		if (BROKE(w, ret < 0, ret))
			return false;
		for (i = 0; i < nr; i++) {
			pages[i] += results[i].pages;
			if (BROKE(w, results[i].res && (results[i].res != -ENOMEM ||
							!walk->patient), results[i].res))
				return false;
		}
	} while (ret && ++tries < 10000);
	return !BROKE(w, ret, ret);
}

static void *walk_and_look(void *arg)
{
	struct exmap_vec vecs[2 * BATCH];
	int pages[2 * BATCH], i, nr;
	struct worker *w = arg;
	struct walk *walk = w->arg;
	struct exmap *ex = w->ex;
	long step, slot;

	pthread_barrier_wait(&start_line);
	for (step = 0; step < walk->steps + HELD; step += BATCH) {
		nr = 0;
		for (i = 0; i < BATCH && step >= HELD; i++) {
			slot = (step + i - HELD) * TABLE + 100 * w->index;
			if (BROKE(w, !stamp_intact(page_at(ex, slot), slot), slot))
				goto out;
			vecs[nr++] = ex_vec(EXMAP_OP_FREE, slot, 1, 0);
		}
		for (i = 0; i < BATCH && step < walk->steps; i++) {
			slot = (step + i) * TABLE + 100 * w->index;
			vecs[nr++] = ex_vec(i % 3 ? EXMAP_OP_ALLOC : EXMAP_OP_READ, slot, 1, 0);
		}
		if (!do_all(w, vecs, pages, nr))
			goto out;
		for (i = 0; i < nr; i++) {
			slot = vecs[i].page;
			if (BROKE(w, pages[i] != 1, slot))
				goto out;
			/* The file contains only zeroes */
			if (vecs[i].opcode == EXMAP_OP_READ &&
			    BROKE(w, !all_zero(page_at(ex, slot), PG), slot))
				goto out;
			if (vecs[i].opcode != EXMAP_OP_FREE)
				stamp_page(page_at(ex, slot), slot);
		}
	}
out:
	__atomic_add_fetch(&walk->done, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void walk_together(struct __test_metadata *_metadata, struct watch *watch, __u64 flags,
			  bool beside)
{
	const int backing = memfd_create("backing", MFD_CLOEXEC);
	struct walk walk = { .steps = scaled(256) * BATCH, .patient = beside };
	const size_t sacrifice = SPARE * TABLE * PG;
	const int buffer = WALKERS * (HELD + BATCH) + SPARE;
	struct exmap *ex = &watch->ex;
	struct worker w[WALKERS];
	__u64 round;
	long bound;
	char *end;
	int ret;

	ASSERT_EQ(0, ftruncate(backing, walk.steps * TABLE * PG));
	create(_metadata, watch, flags, backing, WALKERS + 1, buffer, walk.steps + SPARE);
	end = page_at(ex, walk.steps * TABLE);
	start_workers(_metadata, w, WALKERS, walk_and_look, ex, &walk);
	for (round = 0; __atomic_load_n(&walk.done, __ATOMIC_SEQ_CST) < WALKERS; round++) {
		sample(watch);
		if (!beside) {
			usleep(1000);
			continue;
		}
		switch (round % 4) {
		case 0:
			EXPECT_EQ(0, ex_flush(ex->fd));
			break;
		case 1:
			ret = ex_alloc(ex, WALKERS, walk.steps * TABLE, SPARE / 2);
			EXPECT_TRUE(ret >= 0 || ret == -ENOMEM);
			break;
		case 2:
			EXPECT_EQ(0, madvise(end, sacrifice, MADV_DONTNEED));
			break;
		case 3:
			ret = ex_resize(ex->fd, buffer + round % 8);
			EXPECT_TRUE(!ret || ret == -EBUSY);
			break;
		}
	}
	join_workers(_metadata, w, WALKERS);
	bound = EMPTY_KIB + buffer * 4 / 8 + buffer * 4 + upper_kib(ex->pages / TABLE) + SLACK_KIB;
	EXPECT_GE(watch->start + bound, watch->peak);
	EXPECT_EQ(0, madvise(end, sacrifice, MADV_DONTNEED));
	finish(_metadata, watch, ex->pages / TABLE);
	close(backing);
}

TEST_F_TIMEOUT(tables, walk_together, SLOW)
{
	walk_together(_metadata, &self->watch, variant->flags, false);
}

TEST_F_TIMEOUT(tables, walk_beside_reclaim, SLOW)
{
	walk_together(_metadata, &self->watch, variant->flags, true);
}

/*
 * The page table of a slot is freed and allocated again, while another thread keeps
 * reading the slot. With deferred flushes, FREE leaves the old translation in the TLB.
 * Nevertheless, the thread must never reach the old page once the slot has a new one.
 */

struct versions {
	__u64 now;		/* the slot has this version or a later one */
	bool stop;
};

static void *read_all_the_time(void *arg)
{
	struct worker *w = arg;
	struct versions *versions = w->arg;
	__u64 least, value;

	pthread_barrier_wait(&start_line);
	while (!__atomic_load_n(&versions->stop, __ATOMIC_RELAXED)) {
		least = __atomic_load_n(&versions->now, __ATOMIC_ACQUIRE);
		/* 0: ALLOC has filled the slot, but the version is not written yet */
		if (try_read(page_at(w->ex, 0), &value) || !value)
			continue;
		if (BROKE(w, value < least, least - value))
			break;
	}
	return NULL;
}

TEST_F_TIMEOUT(tables, no_stale_translation, SLOW)
{
	const long steps = 3 * CHUNK;
	struct watch *watch = &self->watch;
	struct versions versions = {};
	struct exmap *ex = &watch->ex;
	int round, rounds = scaled(50);
	struct worker reader;
	long step;

	create(_metadata, watch, variant->flags, -1, 1, 64, steps + 1);
	start_workers(_metadata, &reader, 1, read_all_the_time, ex, &versions);
	for (round = 1; round <= rounds; round++) {
		ASSERT_EQ(1, ex_vec_one(ex, 0, EXMAP_OP_ALLOC, 0, 1, EXMAP_VEC_ZERO));
		__atomic_store_n((__u64 *)page_at(ex, 0), round, __ATOMIC_RELEASE);
		__atomic_store_n(&versions.now, round, __ATOMIC_RELEASE);
		usleep(1000);
		ASSERT_EQ(1, ex_free(ex, 0, 0, 1));
		/* Leave more empty tables than the driver keeps */
		for (step = 1; step < steps; step += CHUNK)
			ASSERT_EQ(CHUNK, visit_tables(ex, step));
	}
	__atomic_store_n(&versions.stop, true, __ATOMIC_RELAXED);
	join_workers(_metadata, &reader, 1);
	finish(_metadata, watch, steps + 1);
}

TEST_HARNESS_MAIN
