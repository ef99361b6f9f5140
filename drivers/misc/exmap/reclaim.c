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

#include "group.h"
#include "interface.h"
#include "pool.h"
#include "quarantine.h"
#include "reclaim.h"
#include "trace.h"

/* Interfaces of a pool that the shrinker looks at in one go */
#define EXMAP_SHRINK_LOOK	256

/* Rounds in which pages are seen to move, but none is found to give back */
#define EXMAP_TRIM_ROUNDS	8

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

/* Give back up to @max free pages that belong to no interface */
static unsigned long exmap_trim_nodes(struct exmap_pool *pool, unsigned long max)
{
	struct page *pages[EXMAP_STEAL_PAGES];
	unsigned long freed = 0;
	unsigned int nr;

	for (unsigned int i = 0; i < nr_node_ids && freed < max; i++) {
		while ((nr = exmap_pool_take(pool, i, pages,
					     min(max - freed, ARRAY_SIZE(pages))))) {
			exmap_pool_release(pool, pages, nr);
			exmap_pool_arrive(pool);
			freed += nr;
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

/* Give back up to @max unseen pages, with a bounded effort or not */
static unsigned long exmap_trim_unseen(struct exmap_pool *pool, bool parked, bool bounded,
				       unsigned long max)
{
	struct page *pages[EXMAP_STEAL_PAGES];
	unsigned long freed = 0;
	unsigned int nr;

	do {
		const unsigned int some = min(max - freed, ARRAY_SIZE(pages));

		nr = bounded ? exmap_pool_sweep_some(pool, parked, pages, some) :
			       exmap_pool_sweep(pool, parked, ULONG_MAX, pages, some);
		if (!nr)
			break;
		exmap_pool_release(pool, pages, nr);
		exmap_pool_arrive(pool);
		freed += nr;
	} while (freed < max);
	return freed;
}

/* Give back up to @max pages from all places. Counts those that wait for a flush. */
static unsigned long exmap_trim_all(struct exmap_pool *pool, unsigned long max, bool bounded,
				    unsigned long *quarantined)
{
	unsigned long freed = exmap_trim_nodes(pool, max);
	struct exmap_interface *iface;
	unsigned int pos = 0;

	while (freed < max &&
	       (iface = exmap_pool_next_stocked(pool, &pos, pool->nr_interfaces))) {
		mutex_lock(&iface->lock);
		freed += exmap_trim_interface(pool, iface, max - freed);
		*quarantined += exmap_quarantine_nr(iface) << pool->order;
		/* The next search need not look here, until there are pages again */
		if (!exmap_bundle_nr(iface->local) && !exmap_bundle_nr(iface->backup) &&
		    list_empty(&iface->quarantine))
			exmap_pool_unstocked(pool, iface);
		mutex_unlock(&iface->lock);
		cond_resched();
	}
	if (freed < max)
		freed += exmap_trim_unseen(pool, true, bounded, max - freed);
	if (freed < max)
		freed += exmap_trim_unseen(pool, false, bounded, max - freed);
	return freed;
}

/* Returns how many pages of a pool are at least so many base pages */
static unsigned long exmap_trim_pages(const struct exmap_pool *pool, unsigned long base_pages)
{
	return DIV_ROUND_UP(base_pages, 1UL << pool->order);
}

/**
 * struct exmap_trim - what has come of an attempt to give pages back, in base pages
 * @freed: pages that were given back
 * @quarantined: pages that wait for a flush, among those that were looked at
 */
struct exmap_trim {
	unsigned long freed;
	unsigned long quarantined;
};

/*
 * Give free pages back until the group has no more than @target base pages. Those of @keep
 * are left alone, unless that is NULL; if it is not, the number of rounds is limited, because
 * others may take what was given back. Returns 0, -EBUSY or -EINTR.
 */
static int exmap_trim_group(struct exmap_group *group, const struct exmap_pool *keep,
			    long target, struct exmap_trim *trim)
{
	unsigned int rounds = 0;
	int err = 0;

	trim->freed = 0;
	atomic_inc(&group->searching);
	/* Pairs with exmap_pool_moved() */
	smp_mb__after_atomic();
	for (;;) {
		const long moves = atomic_long_read_acquire(&group->moves);
		const long excess = atomic_long_read(&group->nr_pages) - target;
		struct exmap_pool *pool;
		long freed = 0;

		if (excess <= 0)
			break;
		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}
		trim->quarantined = 0;
		for_each_exmap_pool(pool, group)
			if (pool != keep && freed < excess)
				freed += exmap_trim_all(pool,
							exmap_trim_pages(pool, excess - freed),
							keep, &trim->quarantined) << pool->order;
		trim->freed += freed;
		if (keep && ++rounds == EXMAP_TRIM_ROUNDS) {
			err = -EBUSY;
			break;
		}
		if (freed)
			continue;
		if (atomic_read_acquire(&group->transit)) {
			cond_resched();
			continue;
		}
		/* Pages that moved meanwhile may have been missed */
		if (atomic_long_read(&group->moves) == moves || ++rounds >= EXMAP_TRIM_ROUNDS) {
			err = -EBUSY;
			break;
		}
	}
	atomic_dec(&group->searching);
	return err;
}

/**
 * exmap_reclaim_others() - Make room for pages of one size where those of others are free.
 * @pool: the pool that is short of pages
 * @want: number of its pages for which to make room
 * @refused: the page allocator or the memory cgroup has refused some, so that it is not, or
 *	not only, the limit of the group that is in the way
 * @waiting: set if other pools have enough pages that wait for a flush for one page
 *
 * Free pages of the other pools go back to the system.
 *
 * Context: Process context, may sleep. No lock of a pool or of an interface is held.
 * Return: true if some were given back.
 */
bool exmap_reclaim_others(struct exmap_pool *pool, unsigned int want, bool refused,
			  bool *waiting)
{
	struct exmap_group *group = pool->group;
	const unsigned long limit = READ_ONCE(group->limit), one = 1UL << pool->order;
	const unsigned long owned = atomic_long_read(&group->nr_pages);
	const unsigned long most = refused ? min(limit, owned) : limit;
	struct exmap_trim trim = {};
	unsigned long room;

	if (limit < one)
		return false;
	exmap_trim_group(group, pool, most - min((unsigned long)want << pool->order, most),
			 &trim);
	/* A flush is of use if there is enough for one page then */
	room = limit - min_t(unsigned long, limit, atomic_long_read(&group->nr_pages));
	*waiting |= trim.quarantined &&
		    trim.quarantined + (refused ? trim.freed : room) >= one;
	return trim.freed;
}

/**
 * exmap_group_resize() - Change the number of pages that the pools may own.
 * @group: the group
 * @limit: the new number of base pages, at least 1
 *
 * Free pages above the limit go back to the system. Pages that wait for a flush do
 * not.
 *
 * Context: Process context, may sleep. @group->attach_lock is held, and no other lock of
 * the group.
 *
 * Return: 0; -EBUSY if too many pages are mapped, parked, in quarantine or in the
 * hands of calls, or if other threads kept moving the free ones; -EINTR if a fatal
 * signal is pending. On failure, the limit is as before.
 */
int exmap_group_resize(struct exmap_group *group, unsigned long limit)
{
	const unsigned long before = group->limit;
	struct exmap_trim trim;
	struct exmap_pool *pool;
	int err;

	exmap_group_set_limit(group, limit);
	/* Either exmap_group_reserve() sees the new limit, or its pages are seen here */
	smp_mb();
	err = exmap_trim_group(group, NULL, limit, &trim);
	if (!err)
		return 0;
	exmap_group_set_limit(group, before);
	for_each_exmap_pool(pool, group)
		exmap_pool_moved(pool);
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
	unsigned long *sum = arg, nr;

	/* First the interfaces, since this moves pages to the nodes */
	nr = exmap_shrink_interfaces(pool, 0);
	for (unsigned int i = 0; i < nr_node_ids; i++)
		nr += READ_ONCE(pool->nodes[i].nr);
	*sum += nr << pool->order;
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

/* In base pages */
struct exmap_shrink_scan {
	unsigned long wanted;
	unsigned long freed;
};

static enum lru_status exmap_shrink_scan_pool(struct list_head *item,
					      struct list_lru_one *list, void *arg)
{
	struct exmap_pool *pool = container_of(item, struct exmap_reclaim, lru)->pool;
	struct exmap_shrink_scan *scan = arg;
	unsigned long wanted, freed;

	if (scan->freed >= scan->wanted)
		return LRU_SKIP;
	wanted = exmap_trim_pages(pool, scan->wanted - scan->freed);
	freed = exmap_trim_nodes(pool, wanted);
	if (freed < wanted)
		freed += exmap_shrink_interfaces(pool, wanted - freed);
	/* What has left quarantine may have filled some */
	if (freed < wanted)
		freed += exmap_trim_nodes(pool, wanted - freed);
	scan->freed += freed << pool->order;
	trace_exmap_shrink(pool, wanted, freed);
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
