// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reclaim: how free pages go back to the system
 */
#include <linux/list_lru.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/swap.h>

#include "interface.h"
#include "pool.h"
#include "quarantine.h"
#include "reclaim.h"
#include "trace.h"

/* Interfaces of a pool that the shrinker looks at in one go */
#define EXMAP_SHRINK_LOOK	256

/* Rounds in which a resize sees pages move, but finds none to give back */
#define EXMAP_RESIZE_ROUNDS	8

/**
 * struct exmap_reclaim - a pool in the list that the shrinker goes through
 * @lru: entry of exmap_pools
 * @pool: the pool
 *
 * It is an object of its own because list_lru finds the memory cgroup of an entry
 * through the object that contains it. That must be the cgroup that the pages of
 * the pool are charged to, which can change when the process moves.
 */
struct exmap_reclaim {
	struct list_head lru;
	struct exmap_pool *pool;
};

static struct kmem_cache *exmap_reclaim_cache;
static struct shrinker *exmap_shrinker;

/* All pools that have ever had a page, by memory cgroup */
static struct list_lru exmap_pools;

/* Give back full bundles, and at least @max pages if there are so many */
static unsigned long exmap_trim_full(struct exmap_pool *pool, unsigned long max)
{
	unsigned long freed = 0;

	for (unsigned int i = 0; i < nr_node_ids; i++) {
		struct exmap_bundle *full;

		while (freed < max && (full = exmap_pool_pop_full(pool, &pool->nodes[i]))) {
			exmap_pool_release(pool, full->pages, full->nr);
			exmap_pool_arrive(pool);
			freed += full->nr;
			exmap_bundle_free(full);
		}
	}
	return freed;
}

/* Give back up to @max free pages of an interface, whose lock is held */
static unsigned long exmap_trim_interface(struct exmap_pool *pool,
					  struct exmap_interface *iface,
					  unsigned long max)
{
	struct page *pages[EXMAP_STEAL_PAGES];
	unsigned long freed = 0;
	unsigned int nr;

	exmap_quarantine_reap(pool, iface, true);
	do {
		const unsigned int some = min(max - freed, ARRAY_SIZE(pages));

		nr = exmap_bundle_take(iface->backup, pages, some);
		nr += exmap_bundle_take(iface->local, pages + nr, some - nr);
		if (!nr)
			break;
		exmap_pool_release(pool, pages, nr);
		freed += nr;
	} while (freed < max);

	/* An idle interface does not need more than one bundle */
	if (freed < max) {
		exmap_bundle_free(iface->backup);
		exmap_bundle_free(iface->spare);
		iface->backup = NULL;
		iface->spare = NULL;
	}
	return freed;
}

/* Give back up to @max unseen pages */
static unsigned long exmap_trim_unseen(struct exmap_pool *pool, bool parked,
				       unsigned long max)
{
	struct page *pages[EXMAP_STEAL_PAGES];
	unsigned long freed = 0;
	unsigned int nr;

	do {
		nr = exmap_pool_sweep(pool, parked, ULONG_MAX, pages,
				      min(max - freed, ARRAY_SIZE(pages)));
		if (!nr)
			break;
		exmap_pool_release(pool, pages, nr);
		exmap_pool_arrive(pool);
		freed += nr;
	} while (freed < max);
	return freed;
}

/* Give back up to @max pages from all places */
static unsigned long exmap_trim_all(struct exmap_pool *pool, unsigned long max)
{
	unsigned long freed = exmap_trim_full(pool, max);
	struct exmap_interface *iface;
	unsigned int pos = 0;

	while (freed < max &&
	       (iface = exmap_pool_next_stocked(pool, &pos, pool->nr_interfaces))) {
		mutex_lock(&iface->lock);
		freed += exmap_trim_interface(pool, iface, max - freed);
		mutex_unlock(&iface->lock);
		cond_resched();
	}
	if (freed < max)
		freed += exmap_trim_unseen(pool, true, max - freed);
	if (freed < max)
		freed += exmap_trim_unseen(pool, false, max - freed);
	return freed;
}

/**
 * exmap_pool_resize() - Change the number of pages that the pool may own.
 * @pool: the pool
 * @limit: the new number, at least 1
 *
 * Free pages above the limit go back to the system. Pages that wait for a flush do
 * not.
 *
 * Context: Process context, may sleep. No other lock of the pool or of an interface
 * is held. The caller prevents a concurrent resize and a concurrent
 * exmap_pool_close().
 *
 * Return: 0; -EBUSY if too many pages are mapped, parked, in quarantine or in the
 * hands of calls, or if other threads kept moving the free ones; -EINTR if a fatal
 * signal is pending. On failure, the limit is as before.
 */
int exmap_pool_resize(struct exmap_pool *pool, unsigned long limit)
{
	const unsigned long before = pool->limit;
	unsigned int rounds = 0;
	int err = 0;

	exmap_pool_set_limit(pool, limit);
	/* Either exmap_pool_grow() sees the new limit, or its pages are seen here */
	smp_mb();
	atomic_inc(&pool->searching);
	/* Pairs with exmap_pool_moved() */
	smp_mb__after_atomic();
	for (;;) {
		const long moves = atomic_long_read_acquire(&pool->moves);
		const long excess = atomic_long_read(&pool->nr_pages) - limit;

		if (excess <= 0)
			break;
		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}
		if (exmap_trim_all(pool, excess))
			continue;
		if (atomic_read_acquire(&pool->transit)) {
			cond_resched();
			continue;
		}
		/* Pages that moved meanwhile may have been missed */
		if (atomic_long_read(&pool->moves) == moves ||
		    ++rounds == EXMAP_RESIZE_ROUNDS) {
			err = -EBUSY;
			break;
		}
	}
	atomic_dec(&pool->searching);
	if (err) {
		exmap_pool_set_limit(pool, before);
		exmap_pool_moved(pool);
	}
	return err;
}

/**
 * exmap_reclaim_update() - Let reclaim find a pool through the right memory cgroup.
 * @pool: the pool
 * @page: a page that the pool has just got from the system
 *
 * Context: Process context, may sleep. The pool is not closed meanwhile.
 */
void exmap_reclaim_update(struct exmap_pool *pool, struct page *page)
{
	struct exmap_reclaim *entry, *old;
	struct mem_cgroup *memcg;

	rcu_read_lock();
	memcg = folio_memcg(page_folio(page));
	rcu_read_unlock();
	if (likely(READ_ONCE(pool->memcg) == memcg && READ_ONCE(pool->reclaim)))
		return;

	/* If there is no memory, the next growth tries again */
	entry = kmem_cache_alloc_lru(exmap_reclaim_cache, &exmap_pools,
				     GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN);
	if (!entry)
		return;
	INIT_LIST_HEAD(&entry->lru);
	entry->pool = pool;
	list_lru_add_obj(&exmap_pools, &entry->lru);

	spin_lock(&pool->lock);
	old = pool->reclaim;
	WRITE_ONCE(pool->reclaim, entry);
	WRITE_ONCE(pool->memcg, memcg);
	spin_unlock(&pool->lock);
	if (old) {
		list_lru_del_obj(&exmap_pools, &old->lru);
		kmem_cache_free(exmap_reclaim_cache, old);
	}
}

/**
 * exmap_reclaim_remove() - Hide a pool from reclaim.
 * @pool: the pool, in which no page is allocated any more
 *
 * Context: Process context.
 */
void exmap_reclaim_remove(struct exmap_pool *pool)
{
	if (!pool->reclaim)
		return;
	/* The shrinker uses a pool only under the lock that this takes */
	list_lru_del_obj(&exmap_pools, &pool->reclaim->lru);
	kmem_cache_free(exmap_reclaim_cache, pool->reclaim);
	pool->reclaim = NULL;
}

/*
 * Go through the interfaces that are not in use at the moment, and give back up to
 * @max of their free pages or, if it is 0, count them. A call that allocates memory
 * holds the lock of its interface, so locks are only tried.
 */
static unsigned long exmap_shrink_interfaces(struct exmap_pool *pool, unsigned long max)
{
	const unsigned int first = READ_ONCE(pool->shrink_next);
	unsigned int pos = first, end = pool->nr_interfaces, todo = EXMAP_SHRINK_LOOK;
	unsigned long nr = 0;

	while (todo && (!max || nr < max)) {
		struct exmap_interface *iface = exmap_pool_next_stocked(pool, &pos, end);

		if (!iface && end != first) {
			/* Go on with those before the first one */
			pos = 0;
			end = first;
			continue;
		}
		if (!iface)
			break;
		todo--;
		if (!mutex_trylock(&iface->lock))
			continue;
		if (max) {
			nr += exmap_trim_interface(pool, iface, max - nr);
			WRITE_ONCE(pool->shrink_next, iface - pool->interfaces);
		} else {
			exmap_quarantine_reap(pool, iface, true);
			nr += exmap_bundle_nr(iface->local) + exmap_bundle_nr(iface->backup);
		}
		mutex_unlock(&iface->lock);
	}
	return nr;
}

static enum lru_status exmap_shrink_count_pool(struct list_head *item,
					       struct list_lru_one *list, void *arg)
{
	struct exmap_pool *pool = container_of(item, struct exmap_reclaim, lru)->pool;
	unsigned long *nr = arg;

	/* First the interfaces, since this moves pages to the full bundles */
	*nr += exmap_shrink_interfaces(pool, 0);
	for (unsigned int i = 0; i < nr_node_ids; i++)
		*nr += READ_ONCE(pool->nodes[i].nr_full) * EXMAP_BUNDLE_PAGES;
	return LRU_SKIP;
}

static unsigned long exmap_shrink_count(struct shrinker *shrinker,
					struct shrink_control *sc)
{
	unsigned long todo = ULONG_MAX, nr = 0;

	list_lru_walk_one(&exmap_pools, sc->nid, sc->memcg, exmap_shrink_count_pool, &nr,
			  &todo);
	return nr;
}

struct exmap_shrink_scan {
	unsigned long wanted;
	unsigned long freed;
};

static enum lru_status exmap_shrink_scan_pool(struct list_head *item,
					      struct list_lru_one *list, void *arg)
{
	struct exmap_pool *pool = container_of(item, struct exmap_reclaim, lru)->pool;
	struct exmap_shrink_scan *scan = arg;
	const unsigned long before = scan->freed;

	if (scan->freed >= scan->wanted)
		return LRU_SKIP;
	scan->freed += exmap_trim_full(pool, scan->wanted - scan->freed);
	if (scan->freed < scan->wanted)
		scan->freed += exmap_shrink_interfaces(pool, scan->wanted - scan->freed);
	/* What has left quarantine may have filled some */
	if (scan->freed < scan->wanted)
		scan->freed += exmap_trim_full(pool, scan->wanted - scan->freed);
	trace_exmap_shrink(pool, scan->wanted - before, scan->freed - before);
	/* The next scan begins with another pool */
	return LRU_ROTATE;
}

static unsigned long exmap_shrink_scan(struct shrinker *shrinker,
				       struct shrink_control *sc)
{
	struct exmap_shrink_scan scan = { .wanted = sc->nr_to_scan };
	unsigned long todo = list_lru_count_one(&exmap_pools, sc->nid, sc->memcg);

	list_lru_walk_one(&exmap_pools, sc->nid, sc->memcg, exmap_shrink_scan_pool, &scan,
			  &todo);
	/* Otherwise, a cgroup whose reclaim frees nothing else would give up */
	mm_account_reclaimed_pages(scan.freed);
	return scan.freed ?: SHRINK_STOP;
}

/**
 * exmap_reclaim_init() - Register the shrinker.
 *
 * Return: 0, or -ENOMEM.
 */
int __init exmap_reclaim_init(void)
{
	exmap_reclaim_cache = KMEM_CACHE(exmap_reclaim, SLAB_ACCOUNT);
	if (!exmap_reclaim_cache)
		return -ENOMEM;
	exmap_shrinker = shrinker_alloc(SHRINKER_MEMCG_AWARE | SHRINKER_NUMA_AWARE, "exmap");
	if (!exmap_shrinker)
		goto out_cache;
	if (list_lru_init_memcg(&exmap_pools, exmap_shrinker))
		goto out_shrinker;
	exmap_shrinker->count_objects = exmap_shrink_count;
	exmap_shrinker->scan_objects = exmap_shrink_scan;
	shrinker_register(exmap_shrinker);
	return 0;

out_shrinker:
	shrinker_free(exmap_shrinker);
out_cache:
	kmem_cache_destroy(exmap_reclaim_cache);
	return -ENOMEM;
}

/**
 * exmap_reclaim_exit() - Undo exmap_reclaim_init().
 */
void exmap_reclaim_exit(void)
{
	shrinker_free(exmap_shrinker);
	list_lru_destroy(&exmap_pools);
	kmem_cache_destroy(exmap_reclaim_cache);
}
