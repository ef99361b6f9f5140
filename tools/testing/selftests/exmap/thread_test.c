// SPDX-License-Identifier: GPL-2.0
/*
 * Many threads at once: sharing an interface, with an interface each, and together with
 * calls that change or unmap the region. Afterwards, no page of the pool may be missing.
 */
#include "common.h"

#define THREADS	64

FIXTURE(threads) {
	struct exmap ex;
	struct worker w[THREADS];
};

FIXTURE_SETUP(threads)
{
	catch_faults();
}

FIXTURE_TEARDOWN(threads)
{
	struct exmap *ex = &self->ex;

	EXPECT_LE(0, ex_drain(ex, 0, 0, ex->pages));
	EXPECT_EQ(0, count_present(ex, 0, ex->pages));
	/* Pages that MADV_DONTNEED has dropped are found a few at a time */
	EXPECT_EQ(ex->buffer, fill_in_time(ex, ex->ifaces - 1, 0, ex->buffer));
	EXPECT_EQ(0, fill_now(ex, ex->ifaces - 1, ex->buffer, 1));
	memset(ex->region, 1, ex->buffer * PG);
	EXPECT_EQ(ex->buffer, ex_drain(ex, 0, 0, ex->pages));
	exmap_destroy(ex);
}

/* All threads use the same interface and the same slots, with random vectors */
static void *scramble(void *arg)
{
	struct worker *w = arg;
	struct exmap_result results[8];
	struct exmap_vec vecs[8];
	struct exmap *ex = w->ex;
	int i, n, ret, vectors;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < scaled(40); i++) {
		vectors = 1 + random_below(&w->random, 8);
		for (n = 0; n < vectors; n++)
			vecs[n] = ex_vec(random_below(&w->random, 2) ? EXMAP_OP_ALLOC :
					 EXMAP_OP_FREE, random_below(&w->random, ex->pages + 4),
					 random_below(&w->random, 24), 0);
		ret = ex_vectors(ex, 0, vecs, results, vectors);
		if (BROKE(w, ret < 0 || ret > vectors, ret))
			break;
		for (n = 0; n < vectors; n++)
			BROKE(w, results[n].res && results[n].res != -ERANGE &&
			      results[n].res != -ENOMEM, results[n].res);
	}
	return NULL;
}

TEST_F_TIMEOUT(threads, one_interface, SLOW)
{
	exmap_create(_metadata, &self->ex, -1, 2, 400, 1500);
	run_workers(_metadata, self->w, THREADS, scramble, &self->ex, NULL);
}

#define OWN_PAGES	16	/* slots of each thread */

/* All threads ALLOC through one interface. No two threads may get the same page. */
static void *alloc_through_one(void *arg)
{
	struct worker *w = arg;
	struct exmap *ex = w->ex;
	int i, n, ret, first = w->index * OWN_PAGES;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < scaled(10); i++) {
		for (n = 0; n < OWN_PAGES; n += 4) {
			ret = ex_alloc(ex, 0, first + n, 4);
			if (BROKE(w, ret != 4, ret))
				return NULL;
		}
		for (n = 0; n < OWN_PAGES; n++)
			stamp_page(page_at(ex, first + n), first + n);
		sched_yield();
		for (n = 0; n < OWN_PAGES; n++)
			if (BROKE(w, !stamp_intact(page_at(ex, first + n), first + n), n))
				return NULL;
		ret = ex_free(ex, 1 + w->index, first, OWN_PAGES);
		if (BROKE(w, ret != OWN_PAGES, ret))
			return NULL;
	}
	return NULL;
}

TEST_F_TIMEOUT(threads, one_interface_to_alloc, SLOW)
{
	/* The pool has just as many pages as the threads need: losing one would show */
	exmap_create(_metadata, &self->ex, -1, 1 + THREADS, THREADS * OWN_PAGES,
		     2 * THREADS * OWN_PAGES);
	run_workers(_metadata, self->w, THREADS, alloc_through_one, &self->ex, NULL);
}

/*
 * Each thread has its own interface and its own slots, but all share one pool. A thread
 * keeps a model of its slots and stamps each of its pages with its number.
 */
#define RANGE	32
#define QUOTA	24

struct model {
	bool mapped[RANGE];
	int count;
};

static __u64 stamp_for(struct worker *w, int page)
{
	return (__u64)(w->index + 1) << 32 | page;
}

/* Make one call with random vectors that keep the thread within its quota */
static bool model_step(struct worker *w, struct model *m)
{
	struct exmap_result results[8];
	struct exmap_vec vecs[8];
	int opcode = random_below(&w->random, 2) ? EXMAP_OP_ALLOC : EXMAP_OP_FREE;
	int first = w->index * RANGE, vectors, ret, n, i, expect[8], page[8], len[8];
	bool fresh[RANGE] = { false };
	__u64 value;

	vectors = 1 + random_below(&w->random, 8);
	for (n = 0; n < vectors; n++) {
		len[n] = 1 + random_below(&w->random, 4);
		page[n] = random_below(&w->random, RANGE - len[n] + 1);
		expect[n] = 0;
		for (i = page[n]; i < page[n] + len[n]; i++) {
			if (opcode == EXMAP_OP_ALLOC && !m->mapped[i]) {
				if (m->count == QUOTA)
					break;
				m->mapped[i] = true;
				m->count++;
				fresh[i] = true;
				expect[n]++;
			} else if (opcode == EXMAP_OP_FREE && m->mapped[i]) {
				if (BROKE(w, !stamp_intact(page_at(w->ex, first + i),
							   stamp_for(w, i)), i))
					return false;
				m->mapped[i] = false;
				m->count--;
				expect[n]++;
			}
		}
		/* Cut the vector where the quota is reached */
		len[n] = i - page[n];
		vecs[n] = ex_vec(opcode, first + page[n], len[n], 0);
	}
	ret = ex_vectors(w->ex, w->index, vecs, results, vectors);
	if (BROKE(w, ret, ret))
		return false;
	for (n = 0; n < vectors; n++)
		if (BROKE(w, results[n].res, results[n].res) ||
		    BROKE(w, (int)results[n].pages != expect[n], results[n].pages))
			return false;
	for (i = 0; i < RANGE; i++) {
		if (fresh[i])
			stamp_page(page_at(w->ex, first + i), stamp_for(w, i));
		else if (m->mapped[i] &&
			 BROKE(w, !stamp_intact(page_at(w->ex, first + i), stamp_for(w, i)), i))
			return false;
	}
	i = random_below(&w->random, RANGE);
	ret = try_read(page_at(w->ex, first + i), &value);
	return !BROKE(w, ret != (m->mapped[i] ? 0 : SIGSEGV), ret);
}

static void *model_thread(void *arg)
{
	struct worker *w = arg;
	struct model m = { .count = 0 };
	int i;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < scaled(50); i++)
		if (!model_step(w, &m))
			break;
	return NULL;
}

TEST_F_TIMEOUT(threads, own_interfaces, SLOW)
{
	/* The pool has no spare pages: threads must find what other threads freed */
	exmap_create(_metadata, &self->ex, -1, THREADS, THREADS * QUOTA, THREADS * RANGE);
	run_workers(_metadata, self->w, THREADS, model_thread, &self->ex, NULL);
}

/* Threads compete for the pages of a pool that is too small for all of them */
static void *fight_for_pages(void *arg)
{
	struct worker *w = arg;
	int i, n, ret, first = w->index * RANGE;
	struct exmap_result result;
	struct exmap_vec vec;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < scaled(60); i++) {
		vec = ex_vec(EXMAP_OP_ALLOC, first, 8, 0);
		ret = ex_vectors(w->ex, w->index, &vec, &result, 1);
		if (BROKE(w, ret && (ret != 1 || result.res != -ENOMEM), ret))
			break;
		n = result.pages;
		if (BROKE(w, ret ? n > 7 : n != 8, n))
			break;
		if (!n) {
			sched_yield();
			continue;
		}
		for (ret = 0; ret < 8; ret++)
			if (present(page_at(w->ex, first + ret)))
				stamp_page(page_at(w->ex, first + ret), stamp_for(w, ret));
		sched_yield();
		for (ret = 0; ret < 8; ret++)
			if (present(page_at(w->ex, first + ret)) &&
			    BROKE(w, !stamp_intact(page_at(w->ex, first + ret),
						   stamp_for(w, ret)), ret))
				return NULL;
		ret = ex_free(w->ex, w->index, first, 8);
		if (BROKE(w, ret != n, ret))
			break;
	}
	return NULL;
}

TEST_F_TIMEOUT(threads, pool_too_small, SLOW)
{
	exmap_create(_metadata, &self->ex, -1, 16, 50, 16 * RANGE);
	run_workers(_metadata, self->w, 16, fight_for_pages, &self->ex, NULL);
}

/* Threads ALLOC and FREE while the main thread makes calls on the whole region */

struct under_fire {
	int stop;
	bool may_end;		/* region may be unmapped: ENXIO is valid */
};

static void *keep_busy(void *arg)
{
	struct worker *w = arg;
	struct under_fire *fire = w->arg;
	int ret;

	pthread_barrier_wait(&start_line);
	while (!__atomic_load_n(&fire->stop, __ATOMIC_SEQ_CST)) {
		ret = ex_alloc(w->ex, w->index, random_below(&w->random, w->ex->pages - 64), 64);
		if (BROKE(w, ret < 0 && ret != -ENOMEM && (ret != -ENXIO || !fire->may_end), ret))
			break;
		ret = ex_free(w->ex, w->index, random_below(&w->random, w->ex->pages - 64), 64);
		if (BROKE(w, ret < 0 && (ret != -ENXIO || !fire->may_end), ret))
			break;
	}
	return NULL;
}

TEST_F_TIMEOUT(threads, against_madvise, SLOW)
{
	struct under_fire fire = { .stop = 0 };
	struct exmap *ex = &self->ex;
	int i;

	exmap_create(_metadata, ex, -1, 4, 300, 1000);
	start_workers(_metadata, self->w, 4, keep_busy, ex, &fire);
	for (i = 0; i < scaled(1000); i++)
		EXPECT_EQ(0, madvise(page_at(ex, i), (ex->pages - i) * PG, MADV_DONTNEED));
	__atomic_store_n(&fire.stop, 1, __ATOMIC_SEQ_CST);
	join_workers(_metadata, self->w, 4);
}

TEST_F_TIMEOUT(threads, against_refused_calls, SLOW)
{
	struct under_fire fire = { .stop = 0 };
	struct exmap *ex = &self->ex;
	char *other;
	int i;

	exmap_create(_metadata, ex, -1, 4, 300, 1000);
	other = mmap(NULL, 1000 * PG, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, other);
	start_workers(_metadata, self->w, 4, keep_busy, ex, &fire);
	for (i = 0; i < scaled(15); i++) {
		EXPECT_EQ(-1, munmap(page_at(ex, 500), PG));
		EXPECT_EQ(-1, mprotect(page_at(ex, 500), PG, PROT_NONE));
		EXPECT_EQ(MAP_FAILED, mremap(ex->region, 1000 * PG, 1000 * PG,
					     MREMAP_MAYMOVE | MREMAP_FIXED, other));
		EXPECT_EQ(0, mprotect(ex->region, 1000 * PG, i % 2 ? PROT_READ | PROT_WRITE :
				      PROT_READ));
		EXPECT_EQ(-EBUSY, ex_try_mmap(ex->fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
	}
	EXPECT_EQ(0, mprotect(ex->region, 1000 * PG, PROT_READ | PROT_WRITE));
	__atomic_store_n(&fire.stop, 1, __ATOMIC_SEQ_CST);
	join_workers(_metadata, self->w, 4);
}

TEST_F_TIMEOUT(threads, against_fork, SLOW)
{
	struct under_fire fire = { .stop = 0 };
	pid_t pid;
	int i;

	exmap_create(_metadata, &self->ex, -1, 4, 300, 1000);
	start_workers(_metadata, self->w, 4, keep_busy, &self->ex, &fire);
	for (i = 0; i < scaled(20); i++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid)
			_exit(ex_free(&self->ex, 0, 0, 1) == -EPERM ? 0 : 1);
		EXPECT_EQ(0, wait_child(pid));
	}
	__atomic_store_n(&fire.stop, 1, __ATOMIC_SEQ_CST);
	join_workers(_metadata, self->w, 4);
}

TEST_F_TIMEOUT(threads, against_munmap, SLOW)
{
	struct under_fire fire;
	struct exmap ex;
	int round;

	for (round = 0; round < scaled(20); round++) {
		fire = (struct under_fire){ .may_end = true };
		exmap_create(_metadata, &ex, -1, 4, 300, 1000);
		start_workers(_metadata, self->w, 4, keep_busy, &ex, &fire);
		usleep(1000 * (round % 5));
		if (round % 3 == 0)
			EXPECT_EQ(ex.region, mmap(ex.region, ex.pages * PG, PROT_NONE,
						  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
						  -1, 0));
		if (round % 3 != 0)
			EXPECT_EQ(0, munmap(ex.region, ex.pages * PG));
		EXPECT_EQ(-ENXIO, ex_alloc(&ex, 0, 0, 1));
		usleep(1000);
		__atomic_store_n(&fire.stop, 1, __ATOMIC_SEQ_CST);
		join_workers(_metadata, self->w, 4);
		exmap_destroy(&ex);
	}
	exmap_create(_metadata, &self->ex, -1, 1, 4, 64);
}

static void *read_stable_page(void *arg)
{
	struct worker *w = arg;
	struct under_fire *fire = w->arg;

	pthread_barrier_wait(&start_line);
	while (!__atomic_load_n(&fire->stop, __ATOMIC_SEQ_CST))
		if (BROKE(w, !stamp_intact(page_at(w->ex, 7), 7), 0))
			break;
	return NULL;
}

TEST_F_TIMEOUT(threads, readers_against_mremap, SLOW)
{
	struct under_fire fire = { .stop = 0 };
	struct exmap *ex = &self->ex;
	char *other;
	int i;

	exmap_create(_metadata, ex, -1, 1, 4, 64);
	ASSERT_EQ(1, ex_alloc(ex, 0, 7, 1));
	stamp_page(page_at(ex, 7), 7);
	other = mmap(NULL, 64 * PG, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, other);
	start_workers(_metadata, self->w, 3, read_stable_page, ex, &fire);
	for (i = 0; i < scaled(100); i++)
		EXPECT_EQ(MAP_FAILED, mremap(ex->region, 64 * PG, 64 * PG,
					     MREMAP_MAYMOVE | MREMAP_FIXED, other));
	__atomic_store_n(&fire.stop, 1, __ATOMIC_SEQ_CST);
	join_workers(_metadata, self->w, 3);
}

TEST_HARNESS_MAIN
