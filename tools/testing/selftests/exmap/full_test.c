// SPDX-License-Identifier: GPL-2.0
/*
 * A pool that is full, which is the normal state of a buffer manager. The cost of a call
 * that finds no free page does not depend on the size of the pool, on the number of
 * interfaces, or on other threads that exchange pages at the same time. A call finds the
 * last free page wherever it is.
 */
#include "common.h"
#include "cost.h"

#define NO_LIMIT	0x10000000000ULL	/* quarantine that never fills up */

static void create(struct __test_metadata *_metadata, struct exmap *ex, __u64 flags,
		   int backing, int ifaces, int buffer, int pages)
{
	struct exmap_setup2 setup = {
		.flags = flags, .fd = backing,
		.quarantine = flags & EXMAP_SETUP_DEFERRED ? NO_LIMIT : 0,
	};

	exmap_create2(_metadata, ex, setup, ifaces, buffer, pages);
}

/* The cost of a call that fails */

static int fail_alloc(struct exmap *ex, long slot)
{
	return ex_alloc(ex, 0, slot, 1);
}

static int fail_read(struct exmap *ex, long slot)
{
	return ex_one(ex, 0, EXMAP_OP_READ, slot, 1);
}

static const struct costly kinds[] = {
	{ .name = "ALLOC", .fail = fail_alloc },
	{ .name = "READ", .fail = fail_read },
};

FIXTURE(cost) {
};

FIXTURE_VARIANT(cost) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(cost, strict) {
};

FIXTURE_VARIANT_ADD(cost, deferred) {
	.flags = EXMAP_SETUP_DEFERRED,
};

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

/* The cost of a failing call while another thread exchanges pages */

#define RESIDENT	65536
#define SWAPPED		16
#define LONGEST		1000000000LL	/* ns; an endless search would take several seconds */

struct swap {
	bool stop;
	long swaps;
};

/*
 * Exchange pages: each call frees SWAPPED slots and fills the SWAPPED slots next to them,
 * and the next call does the reverse
 */
static void *swap_pages(void *arg)
{
	struct exmap_result results[2 * SWAPPED];
	struct exmap_vec vecs[2 * SWAPPED];
	struct worker *w = arg;
	struct swap *swap = w->arg;
	struct exmap *ex = w->ex;
	const long first = RESIDENT - SWAPPED;
	int i, ret, turn = 0;

	pthread_barrier_wait(&start_line);
	while (!__atomic_load_n(&swap->stop, __ATOMIC_RELAXED)) {
		for (i = 0; i < SWAPPED; i++) {
			vecs[i] = ex_vec(EXMAP_OP_FREE, first + turn * SWAPPED + i, 1, 0);
			vecs[SWAPPED + i] = ex_vec(EXMAP_OP_ALLOC,
						   first + !turn * SWAPPED + i, 1, 0);
		}
		ret = ex_vectors(ex, 1, vecs, results, 2 * SWAPPED);
		if (BROKE(w, ret < 0, ret))
			break;
		/* ALLOC may fail, because the main thread may have taken a freed page */
		for (i = 0; i < SWAPPED; i++) {
			if (BROKE(w, results[i].res, results[i].res))
				return NULL;
			ret = results[SWAPPED + i].res;
			if (BROKE(w, ret && ret != -ENOMEM, ret))
				return NULL;
		}
		turn = !turn;
		__atomic_add_fetch(&swap->swaps, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* Return the longest time of many ALLOCs. Stops at the first one that takes too long. */
static __s64 longest_alloc(struct __test_metadata *_metadata, struct exmap *ex, int *successes)
{
	const long slot = RESIDENT + 1024;
	__s64 longest = 0, start, took;
	int i, ret;

	for (i = 0; i < 1000 && longest < LONGEST; i++) {
		start = time_of(CLOCK_MONOTONIC);
		ret = ex_alloc(ex, 0, slot, 1);
		took = time_of(CLOCK_MONOTONIC) - start;
		if (took > longest)
			longest = took;
		EXPECT_TRUE(ret == 1 || ret == -ENOMEM)
			TH_LOG("ALLOC: %d", ret);
		if (ret != 1)
			continue;
		++*successes;
		/* Return the page to the interface that it was taken from */
		EXPECT_EQ(1, ex_free(ex, 1, slot, 1));
	}
	return longest;
}

TEST_F_TIMEOUT(cost, while_pages_are_swapped, SLOW)
{
	__s64 longest = LONGEST;
	int try, successes = 0;
	struct swap swap = {};
	struct worker swapper;
	struct exmap ex;

	create(_metadata, &ex, variant->flags, -1, 3, RESIDENT, RESIDENT + 2048);
	ASSERT_EQ(RESIDENT, ex_fill(&ex, 1, 0));
	start_workers(_metadata, &swapper, 1, swap_pages, &ex, &swap);
	while (!__atomic_load_n(&swap.swaps, __ATOMIC_RELAXED))
		usleep(1000);
	/* Try again in case the machine was stalled: that does not happen each time */
	for (try = 0; try < 10 && longest >= LONGEST; try++)
		longest = longest_alloc(_metadata, &ex, &successes);
	EXPECT_GT(LONGEST, longest)
		TH_LOG("%d tries, %d ALLOCs successful, %ld swaps", try, successes, swap.swaps);
	__atomic_store_n(&swap.stop, true, __ATOMIC_RELAXED);
	join_workers(_metadata, &swapper, 1);
	EXPECT_LT(1, swap.swaps);
	exmap_destroy(&ex);
}

/* Finding the last free page */

#define BUFFER	2048
#define IFACES	16
#define PAGES	(3 * BUFFER)
#define OTHER	(2 * BUFFER)	/* the first of many empty slots */

FIXTURE(find) {
	struct exmap ex;
};

FIXTURE_VARIANT(find) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(find, strict) {
};

FIXTURE_VARIANT_ADD(find, deferred) {
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_SETUP(find)
{
	catch_faults();
	create(_metadata, &self->ex, variant->flags, -1, IFACES, BUFFER, PAGES);
	ASSERT_EQ(BUFFER, ex_fill(&self->ex, 0, 0));
	ASSERT_EQ(-ENOMEM, ex_alloc(&self->ex, 1, OTHER, 1));
}

FIXTURE_TEARDOWN(find)
{
	struct exmap *ex = &self->ex;

	EXPECT_EQ(BUFFER, ex_drain(ex, 0, 0, PAGES));
	EXPECT_EQ(BUFFER, ex_fill(ex, IFACES - 1, 0));
	exmap_destroy(ex);
}

/* The last free page is at another interface, with deferred flushes in quarantine there */
TEST_F_TIMEOUT(find, at_another_interface, SLOW)
{
	struct exmap *ex = &self->ex;
	int from, to, slot = 0;

	for (from = 0; from < IFACES; from++) {
		for (to = 0; to < IFACES; to++, slot++) {
			ASSERT_EQ(1, ex_free(ex, from, slot, 1));
			EXPECT_EQ(1, ex_alloc(ex, to, OTHER + slot, 1))
				TH_LOG("from %d to %d", from, to);
			EXPECT_EQ(-ENOMEM, ex_alloc(ex, from, OTHER + slot + 1, 1));
		}
	}
}

/* All interfaces but one have free pages; one call through that interface gets them all */
TEST_F(find, at_all_other_interfaces)
{
	static const int counts[] = { 1, 3, 60, 100 };
	struct exmap *ex = &self->ex;
	int i, k, to, total, first = 0, count;

	for (k = 0; k < (int)ARRAY_SIZE(counts); k++) {
		for (to = 0; to < IFACES; to += 5) {
			count = counts[k];
			for (i = 0, total = 0; i < IFACES; i++) {
				if (i == to)
					continue;
				ASSERT_EQ(count, ex_free(ex, i, first + total, count));
				total += count;
			}
			EXPECT_EQ(total, ex_alloc(ex, to, OTHER, total));
			EXPECT_EQ(-ENOMEM, ex_alloc(ex, 0, OTHER + total, 1));
			/* Move the pages back to the slots that were freed */
			ASSERT_EQ(total, ex_drain(ex, to, OTHER, total));
			EXPECT_EQ(total, ex_alloc(ex, (to + 1) % IFACES, first, total));
		}
	}
}

/* All pages are freed through one interface, and allocated through another */
TEST_F(find, all_of_them)
{
	struct exmap *ex = &self->ex;
	int i;

	for (i = 0; i < IFACES; i++) {
		ASSERT_EQ(BUFFER, ex_drain(ex, i, 0, BUFFER));
		EXPECT_EQ(BUFFER, ex_fill(ex, (i + 7) % IFACES, 0));
		if (variant->flags)
			ASSERT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_FLUSH, NULL));
	}
}

/* After RESIZE has made the pool larger, an ALLOC that was refused before succeeds */
TEST_F(find, after_resize)
{
	struct exmap *ex = &self->ex;
	int i;

	for (i = 0; i < IFACES; i++) {
		EXPECT_EQ(-ENOMEM, ex_alloc(ex, i, OTHER + i, 1));
		EXPECT_EQ(0, ex_resize(ex->fd, BUFFER + 1));
		EXPECT_EQ(1, ex_alloc(ex, i, OTHER + i, 1));
		EXPECT_EQ(-ENOMEM, ex_alloc(ex, i, OTHER + i + 1, 1));
		EXPECT_EQ(1, ex_free(ex, (i + 3) % IFACES, OTHER + i, 1));
		EXPECT_EQ(0, ex_resize(ex->fd, BUFFER));
		EXPECT_EQ(-ENOMEM, ex_alloc(ex, i, OTHER + i, 1));
	}
}

/* Pages that a READ took before it failed can be allocated through another interface */
TEST_F(find, after_failed_read)
{
	struct exmap other;
	int i, backing;

	backing = memfd_create("backing", MFD_CLOEXEC);
	ASSERT_LE(0, backing);
	create(_metadata, &other, variant->flags, backing, 4, 8, 64);
	for (i = 0; i < 4; i++) {
		EXPECT_EQ(-ENODATA, ex_one(&other, i, EXMAP_OP_READ, 8 * i, 8));
		EXPECT_EQ(8, ex_alloc(&other, (i + 1) % 4, 8 * i, 8));
		EXPECT_EQ(-ENOMEM, ex_alloc(&other, i, 60, 1));
		EXPECT_EQ(8, ex_drain(&other, (i + 2) % 4, 0, 64));
	}
	exmap_destroy(&other);
	close(backing);
}

/*
 * A page is freed while a pipe holds a reference to it. It is parked, and can be
 * allocated once the pipe has dropped its reference.
 */
TEST_F(find, parked)
{
	struct exmap *ex = &self->ex;
	struct iovec iov;
	char buf[PG];
	int i, fds[2];

	ASSERT_EQ(0, pipe2(fds, O_CLOEXEC));
	for (i = 0; i < IFACES; i++) {
		iov = (struct iovec){ page_at(ex, i), PG };
		ASSERT_EQ((ssize_t)PG, vmsplice(fds[1], &iov, 1, 0));
		ASSERT_EQ(1, ex_free(ex, i, i, 1));
		EXPECT_EQ(-ENOMEM, ex_alloc(ex, i, OTHER + i, 1));
		EXPECT_EQ(-ENOMEM, ex_alloc(ex, (i + 1) % IFACES, OTHER + i, 1));
		ASSERT_EQ((ssize_t)PG, read(fds[0], buf, PG));
		EXPECT_EQ(1, ex_alloc(ex, (i + 1) % IFACES, OTHER + i, 1));
	}
	close(fds[0]);
	close(fds[1]);
}

/* Repeat an ALLOC until it succeeds. Returns the number of tries, or 0 after @most. */
static int tries_to_alloc(struct exmap *ex, int iface, long slot, int most)
{
	int tries;

	for (tries = 1; tries <= most; tries++)
		if (ex_alloc(ex, iface, slot, 1) == 1)
			return tries;
	return 0;
}

#define PARKED	200

/* One of many parked pages becomes free, at various positions among them */
TEST_F(find, one_of_many_parked)
{
	static const int gaps[] = { 0, 1, 57, 100, 150, 198, 199 };
	struct exmap *ex = &self->ex;
	int i, k, tries, gap, fds[2], held[2];
	struct iovec iov;
	char buf[PG];

	for (k = 0; k < (int)ARRAY_SIZE(gaps); k++) {
		gap = gaps[k];
		ASSERT_EQ(0, pipe2(fds, O_CLOEXEC | O_NONBLOCK));
		ASSERT_EQ(0, pipe2(held, O_CLOEXEC | O_NONBLOCK));
		ASSERT_LE(PARKED * (int)PG, fcntl(held[1], F_SETPIPE_SZ, 256 * PG));
		for (i = 0; i < PARKED; i++) {
			iov = (struct iovec){ page_at(ex, i), PG };
			ASSERT_EQ((ssize_t)PG, vmsplice(i == gap ? fds[1] : held[1],
							&iov, 1, 0));
			ASSERT_EQ(1, ex_free(ex, i % IFACES, i, 1));
		}
		EXPECT_EQ(0, tries_to_alloc(ex, 3, OTHER, 10));
		ASSERT_EQ((ssize_t)PG, read(fds[0], buf, PG));
		tries = tries_to_alloc(ex, k, OTHER, PARKED);
		EXPECT_LT(0, tries);
		EXPECT_EQ(0, tries_to_alloc(ex, k, OTHER + 1, 10));
		/* After the pipes are closed, all pages can be allocated again */
		close(held[0]);
		close(held[1]);
		close(fds[0]);
		close(fds[1]);
		for (i = 0; i < PARKED - 1; i++)
			if (!tries_to_alloc(ex, i % IFACES, i, PARKED))
				break;
		EXPECT_EQ(PARKED - 1, i);
		EXPECT_EQ(1, ex_free(ex, 0, OTHER, 1));
		EXPECT_EQ(1, ex_alloc(ex, 1, PARKED - 1, 1));
	}
}

/*
 * The driver is not told about MADV_DONTNEED. Each ALLOC that lacks pages checks a few
 * pages for whether they were unmapped.
 */
TEST_F(find, after_dontneed)
{
	static const int victims[] = { 0, 1, 777, BUFFER - 1 };
	struct exmap *ex = &self->ex;
	int i, tries;

	for (i = 0; i < (int)ARRAY_SIZE(victims); i++) {
		ASSERT_EQ(0, madvise(page_at(ex, victims[i]), PG, MADV_DONTNEED));
		/* The search takes far fewer calls than there are pages */
		tries = tries_to_alloc(ex, i, OTHER + i, BUFFER / 4);
		EXPECT_LT(0, tries)
			TH_LOG("victim %d", victims[i]);
		EXPECT_EQ(0, tries_to_alloc(ex, i, OTHER + 100, 10));
	}
}

TEST_F(find, all_after_dontneed)
{
	struct exmap *ex = &self->ex;
	int i, ret, found = 0;

	ASSERT_EQ(0, madvise(ex->region, BUFFER * PG, MADV_DONTNEED));
	EXPECT_EQ(0, count_present(ex, 0, PAGES));
	for (i = 0; i < BUFFER && found < BUFFER; i++) {
		ret = fill_now(ex, i % IFACES, found, BUFFER - found);
		ASSERT_LE(0, ret);
		found += ret;
	}
	EXPECT_EQ(BUFFER, found);
	EXPECT_EQ(BUFFER, count_present(ex, 0, PAGES));
}

/*
 * Several threads together never use more pages than the pool has. No ALLOC fails, even
 * though each must find pages that were just freed through another interface.
 */

#define THREADS	4
#define EACH	16

static void *free_and_alloc(void *arg)
{
	struct worker *w = arg;
	struct exmap *ex = w->ex;
	const int first = w->index * 2 * EACH, rounds = scaled(200);
	int i, k, ret, turn = 0, nr;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < EACH; i++)
		stamp_page(page_at(ex, first + i), first + i);
	for (i = 0; i < rounds; i++, turn = !turn) {
		nr = EACH;
		for (k = 0; k < nr; k++)
			if (BROKE(w, !stamp_intact(page_at(ex, first + turn * EACH + k),
						   first + turn * EACH + k), k))
				return NULL;
		/* FREE through the thread's own interface, ALLOC through a shared one */
		ret = ex_free(ex, w->index, first + turn * EACH, nr);
		if (BROKE(w, ret != nr, ret))
			break;
		ret = ex_alloc(ex, THREADS + i % THREADS, first + !turn * EACH, nr);
		if (BROKE(w, ret != nr, ret))
			break;
		for (k = 0; k < nr; k++)
			stamp_page(page_at(ex, first + !turn * EACH + k),
				   first + !turn * EACH + k);
	}
	return NULL;
}

static void never_refused(struct __test_metadata *_metadata, __u64 flags, int more)
{
	struct worker w[THREADS];
	struct exmap ex;
	int i;

	create(_metadata, &ex, flags, -1, 2 * THREADS, THREADS * EACH + more, 4096);
	for (i = 0; i < THREADS; i++)
		ASSERT_EQ(EACH, ex_alloc(&ex, i, i * 2 * EACH, EACH));
	/* Fill the rest of the pool with pages that stay */
	ASSERT_EQ(more, ex_fill(&ex, 0, THREADS * 2 * EACH));
	run_workers(_metadata, w, THREADS, free_and_alloc, &ex, NULL);
	EXPECT_EQ(THREADS * EACH, count_present(&ex, 0, THREADS * 2 * EACH));
	exmap_destroy(&ex);
}

TEST_F_TIMEOUT(find, among_threads, SLOW)
{
	never_refused(_metadata, variant->flags, 0);
	never_refused(_metadata, variant->flags, 3000);
}

TEST_HARNESS_MAIN
