// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the pool: which interface gets which page, and that none is lost
 */
#include <kunit/test.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vma_batch.h>

#include "group.h"
#include "interface.h"
#include "pool.h"
#include "quarantine.h"
#include "refill.h"

#define NR_INTERFACES	4
#define MAX_PAGES	(4 * EXMAP_BUNDLE_PAGES)

struct pool_fixture {
	struct mm_struct *mm;
	struct exmap_group *group;
	struct exmap_pool *pool;
	struct page *pages[MAX_PAGES];
};

static struct pool_fixture *make_pool_of(struct kunit *test, unsigned long limit,
					 unsigned int order)
{
	struct pool_fixture *f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, f);
	KUNIT_ASSERT_EQ(test, kunit_attach_mm(), 0);
	/* The test is cleaned up by another thread */
	f->mm = current->mm;
	f->group = exmap_group_new(f->mm, limit, NR_INTERFACES);
	KUNIT_ASSERT_NOT_NULL(test, f->group);
	test->priv = f;
	f->pool = exmap_group_pool(f->group, order);
	KUNIT_ASSERT_NOT_NULL(test, f->pool);
	return f;
}

static struct pool_fixture *make_pool(struct kunit *test, unsigned long limit)
{
	return make_pool_of(test, limit, 0);
}

static void pool_test_exit(struct kunit *test)
{
	struct pool_fixture *f = test->priv;

	if (!f)
		return;
	exmap_group_put(f->group);
	/* Every mapping reference was dropped */
	KUNIT_EXPECT_EQ(test, get_mm_counter_sum(f->mm, MM_FILEPAGES), 0);
}

static unsigned int get(struct pool_fixture *f, unsigned int iface,
			struct page **pages, unsigned int nr)
{
	struct exmap_interface *i = &f->pool->interfaces[iface];
	unsigned int got = 0;

	mutex_lock(&i->lock);
	while (got < nr) {
		if (i->local && i->local->nr)
			pages[got++] = i->local->pages[--i->local->nr];
		else if (exmap_pool_refill(f->pool, i, nr - got))
			break;
	}
	mutex_unlock(&i->lock);
	return got;
}

static void put(struct pool_fixture *f, unsigned int iface, struct page **pages,
		unsigned int nr)
{
	exmap_pool_put(f->pool, &f->pool->interfaces[iface], pages, nr);
}

/* What FREE does with pages after it has unmapped and, unless deferred, flushed */
static void recycle(struct kunit *test, struct pool_fixture *f, unsigned int iface,
		    struct page **pages, unsigned int nr)
{
	struct exmap_interface *i = &f->pool->interfaces[iface];
	struct exmap_bundle *bundle;

	mutex_lock(&i->lock);
	while (nr) {
		unsigned int n = 0;

		if (f->group->deferred) {
			bundle = exmap_quarantine_collect(f->pool, i);
		} else {
			bundle = i->spare ?: exmap_bundle_alloc(GFP_KERNEL);
			i->spare = NULL;
		}
		KUNIT_EXPECT_NOT_NULL(test, bundle);
		if (!bundle)
			break;
		n = min(nr, EXMAP_BUNDLE_PAGES - bundle->nr);
		KUNIT_EXPECT_NE(test, n, 0);
		if (!n)
			break;
		memcpy(bundle->pages + bundle->nr, pages, n * sizeof(*pages));
		bundle->nr += n;
		pages += n;
		nr -= n;
		if (!f->group->deferred)
			exmap_pool_keep_spare(i, exmap_pool_sort(f->pool, i, bundle));
	}
	KUNIT_EXPECT_TRUE(test, !i->spare || !i->spare->nr);
	mutex_unlock(&i->lock);
}

static unsigned int full_bundles(struct pool_fixture *f)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < nr_node_ids; i++)
		nr += list_count_nodes(&f->pool->nodes[i].bundles);
	return nr;
}

static bool flush(struct pool_fixture *f, u64 generation)
{
	if (!exmap_quarantine_flush_begin(f->group, generation))
		return false;
	exmap_quarantine_flush_end(f->group);
	return true;
}

static void pool_test_limit(struct kunit *test)
{
	struct pool_fixture *f = make_pool(test, 100);

	KUNIT_EXPECT_EQ(test, get(f, 0, f->pages, MAX_PAGES), 100);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&f->pool->nr_pages), 100);
	KUNIT_EXPECT_EQ(test, get(f, 1, f->pages + 100, 1), 0);
	for (int i = 0; i < 100; i++) {
		/* The pool's own, and the one that travels */
		KUNIT_EXPECT_EQ(test, page_count(f->pages[i]), 2);
		for (int j = 0; j < i; j++)
			KUNIT_EXPECT_PTR_NE(test, f->pages[i], f->pages[j]);
	}
	put(f, 0, f->pages, 100);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&f->pool->nr_pages), 100);
}

static void pool_test_fresh_pages_are_zero(struct kunit *test)
{
	struct pool_fixture *f = make_pool(test, 64);

	KUNIT_ASSERT_EQ(test, get(f, 0, f->pages, 64), 64);
	for (int i = 0; i < 64; i++)
		KUNIT_EXPECT_NULL(test, memchr_inv(page_address(f->pages[i]), 0, PAGE_SIZE));
	put(f, 0, f->pages, 64);
}

/* An interface can get all free pages, wherever they are */
static void pool_test_steal(struct kunit *test)
{
	struct pool_fixture *f = make_pool(test, 101);

	KUNIT_ASSERT_EQ(test, get(f, 0, f->pages, 101), 101);
	put(f, 0, f->pages, 1);
	put(f, 1, f->pages + 1, 49);
	put(f, 2, f->pages + 50, 51);
	KUNIT_EXPECT_EQ(test, get(f, 3, f->pages, MAX_PAGES), 101);
	put(f, 3, f->pages, 101);
	KUNIT_EXPECT_EQ(test, get(f, 1, f->pages, MAX_PAGES), 101);
	put(f, 1, f->pages, 101);
}

/* Of more than two bundles, the full ones are available to all interfaces */
static void pool_test_full_bundles(struct kunit *test)
{
	const unsigned int nr = 3 * EXMAP_BUNDLE_PAGES + 7;
	struct pool_fixture *f = make_pool(test, nr);

	KUNIT_ASSERT_EQ(test, get(f, 0, f->pages, nr), nr);
	put(f, 0, f->pages, nr);
	KUNIT_EXPECT_EQ(test, full_bundles(f), 2);
	KUNIT_EXPECT_EQ(test, f->pool->interfaces[0].local->nr, 7);
	KUNIT_ASSERT_NOT_NULL(test, f->pool->interfaces[0].backup);
	KUNIT_EXPECT_EQ(test, f->pool->interfaces[0].backup->nr, EXMAP_BUNDLE_PAGES);
	KUNIT_EXPECT_EQ(test, get(f, 2, f->pages, MAX_PAGES), nr);
	KUNIT_EXPECT_EQ(test, full_bundles(f), 0);
	put(f, 2, f->pages, nr);
}

/* To free and allocate one bundle in turns does not involve shared lists */
static void pool_test_backup(struct kunit *test)
{
	const unsigned int nr = 2 * EXMAP_BUNDLE_PAGES;
	struct pool_fixture *f = make_pool(test, nr);

	KUNIT_ASSERT_EQ(test, get(f, 0, f->pages, nr), nr);
	recycle(test, f, 0, f->pages, 300);
	for (int i = 0; i < 3; i++) {
		recycle(test, f, 0, f->pages + 300, EXMAP_BUNDLE_PAGES);
		KUNIT_EXPECT_EQ(test, full_bundles(f), 0);
		KUNIT_EXPECT_EQ(test, get(f, 0, f->pages + 300, EXMAP_BUNDLE_PAGES),
				EXMAP_BUNDLE_PAGES);
	}
	put(f, 0, f->pages + 300, nr - 300);
}

static int refill(struct pool_fixture *f, unsigned int iface)
{
	struct exmap_interface *i = &f->pool->interfaces[iface];
	int err;

	mutex_lock(&i->lock);
	err = i->local && i->local->nr ? 0 : exmap_pool_refill(f->pool, i, 1);
	mutex_unlock(&i->lock);
	return err;
}

/* One flush frees the pages of all interfaces */
static void pool_test_quarantine(struct kunit *test)
{
	const unsigned int nr = 2 * EXMAP_BUNDLE_PAGES;
	struct pool_fixture *f = make_pool(test, nr);
	u64 generation;

	exmap_quarantine_init(f->group, 0);
	KUNIT_EXPECT_EQ(test, exmap_quarantine_limit(f->group), nr / 16);
	KUNIT_ASSERT_EQ(test, get(f, 0, f->pages, nr), nr);
	KUNIT_EXPECT_EQ(test, refill(f, 3), -ENOMEM);

	recycle(test, f, 0, f->pages, 10);
	recycle(test, f, 1, f->pages + 10, nr - 10);
	KUNIT_EXPECT_EQ(test, refill(f, 0), -EAGAIN);
	KUNIT_EXPECT_EQ(test, refill(f, 1), -EAGAIN);
	KUNIT_EXPECT_EQ(test, refill(f, 3), -EAGAIN);
	/* Pages that are held are parked when they leave quarantine */
	get_page(f->pages[3]);
	get_page(f->pages[500]);

	generation = f->group->generation;
	KUNIT_EXPECT_TRUE(test, flush(f, generation));
	KUNIT_EXPECT_FALSE(test, flush(f, generation));
	KUNIT_EXPECT_EQ(test, f->group->generation, generation + 1);
	KUNIT_EXPECT_EQ(test, f->pool->nr_parked, 0);
	KUNIT_EXPECT_EQ(test, get(f, 3, f->pages + nr, MAX_PAGES - nr), nr - 2);
	KUNIT_EXPECT_EQ(test, f->pool->nr_parked, 2);
	put_page(f->pages[3]);
	put_page(f->pages[500]);
	KUNIT_EXPECT_EQ(test, get(f, 2, f->pages + 2 * nr - 2, 2), 2);
	put(f, 3, f->pages + nr, nr);
}

/* A flush covers what was freed before it began, and nothing else */
static void pool_test_generations(struct kunit *test)
{
	struct pool_fixture *f = make_pool(test, 4);
	u64 generation;

	exmap_quarantine_init(f->group, 100);
	KUNIT_ASSERT_EQ(test, get(f, 0, f->pages, 4), 4);
	recycle(test, f, 0, f->pages, 1);
	generation = f->group->generation;
	KUNIT_ASSERT_TRUE(test, exmap_quarantine_flush_begin(f->group, generation));
	recycle(test, f, 1, f->pages + 1, 3);
	KUNIT_EXPECT_EQ(test, refill(f, 0), -EAGAIN);
	exmap_quarantine_flush_end(f->group);

	KUNIT_EXPECT_EQ(test, get(f, 2, f->pages, 4), 1);
	KUNIT_EXPECT_EQ(test, refill(f, 1), -EAGAIN);
	KUNIT_EXPECT_TRUE(test, flush(f, f->group->generation));
	KUNIT_EXPECT_EQ(test, get(f, 1, f->pages + 1, 4), 3);
	put(f, 0, f->pages, 4);
}

static void pool_test_recycle(struct kunit *test)
{
	const unsigned int nr = 2 * EXMAP_BUNDLE_PAGES;
	struct pool_fixture *f = make_pool(test, nr);

	KUNIT_ASSERT_EQ(test, get(f, 0, f->pages, nr), nr);
	recycle(test, f, 0, f->pages, 300);
	recycle(test, f, 0, f->pages + 300, EXMAP_BUNDLE_PAGES);
	recycle(test, f, 1, f->pages + 300 + EXMAP_BUNDLE_PAGES,
		nr - 300 - EXMAP_BUNDLE_PAGES);
	KUNIT_EXPECT_EQ(test, get(f, 0, f->pages, MAX_PAGES), nr);
	for (int i = 0; i < nr; i++)
		KUNIT_EXPECT_EQ(test, page_count(f->pages[i]), 2);
	put(f, 0, f->pages, nr);
}

/* A page that is held is not handed out before it is let go */
static void pool_test_parked(struct kunit *test)
{
	struct pool_fixture *f = make_pool(test, 2);
	struct page *held;

	KUNIT_ASSERT_EQ(test, get(f, 0, f->pages, 2), 2);
	held = f->pages[0];
	get_page(held);
	recycle(test, f, 0, f->pages, 2);
	KUNIT_EXPECT_EQ(test, f->pool->nr_parked, 1);
	KUNIT_EXPECT_EQ(test, get(f, 1, f->pages, MAX_PAGES), 1);
	KUNIT_EXPECT_PTR_NE(test, f->pages[0], held);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&f->pool->nr_pages), 2);

	put_page(held);
	KUNIT_EXPECT_EQ(test, get(f, 2, f->pages + 1, MAX_PAGES - 1), 1);
	KUNIT_EXPECT_PTR_EQ(test, f->pages[1], held);
	KUNIT_EXPECT_EQ(test, page_count(held), 2);
	KUNIT_EXPECT_EQ(test, f->pool->nr_parked, 0);
	put(f, 0, f->pages, 2);
}

/* MADV_DONTNEED takes a page out of its slot and drops its mapping reference */
static void pool_test_lost(struct kunit *test)
{
	struct pool_fixture *f = make_pool(test, 3);
	struct page *lost[2];

	KUNIT_ASSERT_EQ(test, get(f, 0, f->pages, 3), 3);
	lost[0] = f->pages[0];
	lost[1] = f->pages[1];
	vma_batch_uncharge(f->group->mm, lost, 2);
	put_page(lost[0]);
	put_page(lost[1]);
	KUNIT_EXPECT_EQ(test, get(f, 1, f->pages, MAX_PAGES), 2);
	KUNIT_EXPECT_TRUE(test, f->pages[0] == lost[0] || f->pages[0] == lost[1]);
	KUNIT_EXPECT_EQ(test, page_count(lost[0]), 2);
	KUNIT_EXPECT_EQ(test, page_count(lost[1]), 2);
	put(f, 0, f->pages, 3);
}

static void pool_test_poisoned(struct kunit *test)
{
	struct pool_fixture *f;
	struct page *bad;

	if (!IS_ENABLED(CONFIG_MEMORY_FAILURE))
		kunit_skip(test, "needs CONFIG_MEMORY_FAILURE");
	f = make_pool(test, 2);
	KUNIT_ASSERT_EQ(test, get(f, 0, f->pages, 2), 2);
	bad = f->pages[0];
	get_page(bad);
	SetPageHWPoison(bad);
	recycle(test, f, 0, f->pages, 2);
	KUNIT_EXPECT_EQ(test, page_count(bad), 1);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&f->pool->nr_pages), 1);
	/* The limit allows another page in its place */
	KUNIT_EXPECT_EQ(test, get(f, 0, f->pages, MAX_PAGES), 2);
	KUNIT_EXPECT_PTR_NE(test, f->pages[0], bad);
	KUNIT_EXPECT_PTR_NE(test, f->pages[1], bad);
	put(f, 0, f->pages, 2);
	ClearPageHWPoison(bad);
	put_page(bad);
}

/* Folios: one reference of the pool, and one for each page */
static void pool_test_folios(struct kunit *test)
{
	struct pool_fixture *f = make_pool_of(test, 64, 2);
	struct page *held, *bad;

	/* Sixteen folios of four pages are what the limit allows */
	KUNIT_ASSERT_EQ(test, get(f, 0, f->pages, MAX_PAGES), 16);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&f->group->nr_pages), 64);
	KUNIT_EXPECT_EQ(test, get_mm_counter_sum(f->mm, MM_FILEPAGES), 64);
	for (int i = 0; i < 16; i++) {
		struct folio *folio = page_folio(f->pages[i]);

		KUNIT_EXPECT_EQ(test, folio_order(folio), 2);
		KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 5);
		KUNIT_EXPECT_EQ(test, folio_mapcount(folio), 4);
		KUNIT_EXPECT_PTR_EQ(test, folio_page(folio, 0), f->pages[i]);
		KUNIT_EXPECT_NULL(test, memchr_inv(folio_address(folio), 0, 4 * PAGE_SIZE));
	}
	/* Whoever holds a part of a folio holds it all */
	held = f->pages[0];
	get_page(held + 2);
	recycle(test, f, 0, f->pages, 16);
	KUNIT_EXPECT_EQ(test, f->pool->nr_parked, 1);
	KUNIT_EXPECT_EQ(test, get(f, 1, f->pages, MAX_PAGES), 15);
	put_page(held + 2);
	KUNIT_EXPECT_EQ(test, get(f, 2, f->pages + 15, 1), 1);
	KUNIT_EXPECT_PTR_EQ(test, f->pages[15], held);
	KUNIT_EXPECT_EQ(test, folio_ref_count(page_folio(held)), 5);

	/* A folio with a poisoned part leaves the pool when it is its turn to be used */
	bad = f->pages[15];
	if (IS_ENABLED(CONFIG_MEMORY_FAILURE)) {
		struct exmap_interface *i = &f->pool->interfaces[2];

		SetPageHWPoison(bad + 2);
		recycle(test, f, 2, f->pages + 15, 1);
		mutex_lock(&i->lock);
		KUNIT_EXPECT_TRUE(test, exmap_pool_drop_poisoned(f->pool, i));
		KUNIT_EXPECT_FALSE(test, exmap_pool_drop_poisoned(f->pool, i));
		mutex_unlock(&i->lock);
		/* The page allocator would hand it out to somebody else */
		KUNIT_EXPECT_EQ(test, folio_ref_count(page_folio(bad)), 1);
		KUNIT_EXPECT_EQ(test, atomic_long_read(&f->group->nr_pages), 60);
		ClearPageHWPoison(bad + 2);
		folio_put(page_folio(bad));
	} else {
		put(f, 0, f->pages + 15, 1);
	}
	put(f, 0, f->pages, 15);
}

/* Pools of other sizes give pages back when one of them is short */
static void pool_test_group(struct kunit *test)
{
	struct pool_fixture *f = make_pool(test, 64);
	struct exmap_pool *small = f->pool, *large = exmap_group_pool(f->group, 4);

	KUNIT_ASSERT_NOT_NULL(test, large);
	KUNIT_EXPECT_PTR_EQ(test, exmap_group_pool(f->group, 4), large);
	KUNIT_ASSERT_EQ(test, get(f, 0, f->pages, MAX_PAGES), 64);
	put(f, 0, f->pages, 20);
	put(f, 1, f->pages + 20, 20);
	f->pool = large;
	/* There is room for two of sixteen pages where forty are free */
	KUNIT_ASSERT_EQ(test, get(f, 3, f->pages, 20), 2);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&large->nr_pages), 2);
	KUNIT_EXPECT_LE(test, atomic_long_read(&f->group->nr_pages), 64);
	f->pool = small;
	KUNIT_ASSERT_EQ(test, get(f, 2, f->pages + 20, 20), 8);
	KUNIT_EXPECT_EQ(test, refill(f, 3), -ENOMEM);
	put(f, 2, f->pages + 20, 8);
	put(f, 2, f->pages + 40, 24);
	f->pool = large;
	put(f, 2, f->pages, 2);
	f->pool = small;
	KUNIT_ASSERT_EQ(test, get(f, 1, f->pages, MAX_PAGES), 64);
	put(f, 1, f->pages, 64);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&large->nr_pages), 0);
}

/* A call may still have pages when the region goes away */
static void pool_test_close(struct kunit *test)
{
	struct pool_fixture *f = make_pool(test, 4);
	struct page *pages[4];

	KUNIT_ASSERT_EQ(test, get(f, 0, pages, 4), 4);
	for (int i = 0; i < 4; i++)
		get_page(pages[i]);
	put(f, 1, pages, 1);		/* free */
	recycle(test, f, 2, pages + 1, 1);	/* parked */
	exmap_pool_close(f->pool);
	KUNIT_EXPECT_EQ(test, page_count(pages[0]), 1);
	KUNIT_EXPECT_EQ(test, page_count(pages[1]), 1);
	KUNIT_EXPECT_EQ(test, page_count(pages[2]), 2);

	put(f, 0, pages + 2, 2);	/* in the hands of a call */
	KUNIT_EXPECT_EQ(test, page_count(pages[2]), 1);
	KUNIT_EXPECT_EQ(test, page_count(pages[3]), 1);
	KUNIT_EXPECT_EQ(test, get(f, 0, f->pages, 1), 0);
	KUNIT_EXPECT_EQ(test, get(f, 3, f->pages, 1), 0);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&f->pool->nr_pages), 0);
	for (int i = 0; i < 4; i++)
		put_page(pages[i]);
}

#define HOG_PAGES	5
#define HOG_ROUNDS	3000

struct hog {
	struct pool_fixture *f;
	unsigned int iface;
	unsigned int failed;
	struct completion done;
};

/* Takes its share page by page, which must never fail, and gives it back */
static int hog_thread(void *data)
{
	struct hog *hog = data;
	struct page *pages[HOG_PAGES];

	for (int round = 0; round < HOG_ROUNDS; round++) {
		unsigned int nr = 0;

		while (nr < HOG_PAGES && get(hog->f, hog->iface, &pages[nr], 1))
			nr++;
		hog->failed += nr < HOG_PAGES;
		for (unsigned int i = 0; i < nr; i++)
			hog->failed += page_count(pages[i]) != 2;
		/* Give them to another interface, so that the next round must steal */
		put(hog->f, (hog->iface + round) % NR_INTERFACES, pages, nr);
		cond_resched();
	}
	kthread_complete_and_exit(&hog->done, 0);
}

static void pool_test_threads(struct kunit *test)
{
	struct pool_fixture *f = make_pool(test, NR_INTERFACES * HOG_PAGES);
	struct hog *hogs = kunit_kcalloc(test, NR_INTERFACES, sizeof(*hogs), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, hogs);
	for (int i = 0; i < NR_INTERFACES; i++) {
		hogs[i].f = f;
		hogs[i].iface = i;
		init_completion(&hogs[i].done);
		if (IS_ERR(kthread_run(hog_thread, &hogs[i], "exmap_hog"))) {
			hogs[i].failed++;
			complete(&hogs[i].done);
		}
	}
	for (int i = 0; i < NR_INTERFACES; i++) {
		wait_for_completion(&hogs[i].done);
		KUNIT_EXPECT_EQ(test, hogs[i].failed, 0);
	}
	KUNIT_EXPECT_EQ(test, get(f, 0, f->pages, MAX_PAGES), NR_INTERFACES * HOG_PAGES);
	put(f, 0, f->pages, NR_INTERFACES * HOG_PAGES);
}

static struct kunit_case pool_test_cases[] = {
	KUNIT_CASE(pool_test_limit),
	KUNIT_CASE(pool_test_fresh_pages_are_zero),
	KUNIT_CASE(pool_test_steal),
	KUNIT_CASE(pool_test_full_bundles),
	KUNIT_CASE(pool_test_backup),
	KUNIT_CASE(pool_test_quarantine),
	KUNIT_CASE(pool_test_generations),
	KUNIT_CASE(pool_test_recycle),
	KUNIT_CASE(pool_test_parked),
	KUNIT_CASE(pool_test_lost),
	KUNIT_CASE(pool_test_poisoned),
	KUNIT_CASE(pool_test_folios),
	KUNIT_CASE(pool_test_group),
	KUNIT_CASE(pool_test_close),
	KUNIT_CASE(pool_test_threads),
	{}
};

static struct kunit_suite pool_test_suite = {
	.name = "exmap_pool",
	.exit = pool_test_exit,
	.test_cases = pool_test_cases,
};

kunit_test_suite(pool_test_suite);
