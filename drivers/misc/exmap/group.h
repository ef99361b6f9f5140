/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Groups: what the pools of different slot sizes have in common
 *
 * To a program, a pool is a number of bytes that the regions attached to it share,
 * whatever the size of their slots. Here, that is a *group*: pages of one size form a pool
 * (pool.h), and a group has a pool for each slot size that one of its regions has, with the
 * same number of interfaces each. The group has the limit of all its pools. Free pages of
 * one size become pages of another one by way of the system: where a pool finds no page, and
 * the limit is reached, free pages of the other pools are given back.
 */
#ifndef _EXMAP_GROUP_H
#define _EXMAP_GROUP_H

#include <linux/atomic.h>
#include <linux/cache.h>
#include <linux/kref.h>
#include <linux/minmax.h>
#include <linux/mm_types.h>
#include <linux/mmzone.h>
#include <linux/mutex.h>
#include <linux/pgtable.h>
#include <linux/rwsem.h>
#include <linux/types.h>

struct exmap;
struct exmap_flights;
struct exmap_pool;
struct user_struct;

/* The largest slot is what a PTE table maps, if the page allocator has such pages */
#define EXMAP_MAX_ORDER		MIN(PMD_ORDER, MAX_PAGE_ORDER)

/**
 * struct exmap_group - pools that share a limit, and the regions that use them
 * @ref: One reference for each exmap.
 * @id: Identifies the group for people who look at tracepoints and /proc/PID/fdinfo, where
 *	it is called a pool.
 * @mm: The address space in which the pages are mapped, and in whose RSS they count.
 * @limit: Number of base pages that the pools may own. Changed by exmap_group_resize() only.
 * @max_tables: Number of PTE tables that the regions may have if some are empty.
 * @nr_interfaces: Number of interfaces of each pool. Set once.
 * @deferred: Freed pages go through quarantine. Set once.
 * @quarantine: Number of base pages in quarantine at which a FREE flushes, or 0 for a
 *	fraction of @limit. Set once.
 * @pools: The pools, by order of their pages. Set once each, with @attach_lock held and
 *	release semantics; NULL if no region has had such slots.
 * @nr_pools: Number of pools.
 * @generation: Number that frees are marked with if @deferred. Written by flushes.
 * @flushed: All frees up to this generation are flushed. It is @generation - 1, or
 *	@generation - 2 during a flush.
 * @flush_lock: Held during a flush. Protects changes of @generation and @flushed.
 * @unflushed: Number of base pages freed since the last flush began.
 * @nr_pages: Number of base pages that the pools own, or are about to get.
 * @searching: Number of searches for free pages that are in progress.
 * @moves: Counts, while there are any, how often free pages appeared or changed
 *	their place, so that a search can tell that it may have missed some.
 * @transit: Number of calls that carry free pages from one place to another.
 * @attach_lock: Protects @nr_live, @closed, @user, @locked, and changes of @limit and
 *	@pools.
 * @nr_live: Number of regions that are or may still be mapped.
 * @closed: The pools own no pages and never will again.
 * @user: Whose RLIMIT_MEMLOCK the group is charged to, or NULL.
 * @locked: Number of base pages charged.
 * @regions_lock: Protects @regions, @nr_regions and @first_free. Held for reading by
 *	calls that work on several regions.
 * @regions: Array of the exmaps that use the pools, by number; NULL where there is none.
 * @nr_regions: Length of @regions.
 * @first_free: No number below it is free.
 * @nr_tables: Sum of exmap::nr_tables of all regions.
 * @flights: Slots of all regions that take part in a transfer.
 */
struct exmap_group {
	struct kref ref;
	unsigned int id;
	struct mm_struct *mm;
	unsigned long limit;
	long max_tables;
	unsigned int nr_interfaces;
	bool deferred;
	unsigned long quarantine;
	struct exmap_pool *pools[EXMAP_MAX_ORDER + 1];
	unsigned int nr_pools;

	/* Read by every call, written by flushes */
	u64 generation ____cacheline_aligned_in_smp;
	u64 flushed;
	struct mutex flush_lock;	/* generation, flushed */

	atomic_long_t unflushed ____cacheline_aligned_in_smp;

	atomic_long_t nr_pages ____cacheline_aligned_in_smp;

	atomic_t searching ____cacheline_aligned_in_smp;
	atomic_long_t moves;
	atomic_t transit;

	struct mutex attach_lock;	/* see above */
	unsigned int nr_live;
	bool closed;
	struct user_struct *user;
	unsigned long locked;

	struct rw_semaphore regions_lock ____cacheline_aligned_in_smp;
	struct exmap **regions;
	unsigned int nr_regions;
	unsigned int first_free;
	atomic_long_t nr_tables;
	struct exmap_flights *flights;
};

struct exmap_group *exmap_group_new(struct mm_struct *mm, unsigned long limit,
				    unsigned int nr_interfaces);
void exmap_group_get(struct exmap_group *group);
void exmap_group_put(struct exmap_group *group);
struct exmap_pool *exmap_group_pool(struct exmap_group *group, unsigned int order);
void exmap_group_close(struct exmap_group *group);

/**
 * exmap_group_set_limit() - Set how many pages the pools may own.
 * @group: the group
 * @limit: the number, in base pages
 */
static inline void exmap_group_set_limit(struct exmap_group *group, unsigned long limit)
{
	WRITE_ONCE(group->limit, limit);
	/* An eighth of the memory of the group, and 4 MiB */
	WRITE_ONCE(group->max_tables, limit / 8 + (4 << 20) / PAGE_SIZE);
}

/**
 * exmap_group_next() - Return the next pool of a group.
 * @group: the group
 * @order: the order to begin with; set to the one behind that found
 *
 * Return: the pool, or NULL if there is none.
 */
static inline struct exmap_pool *exmap_group_next(const struct exmap_group *group,
						  unsigned int *order)
{
	while (*order <= EXMAP_MAX_ORDER) {
		/* Pairs with exmap_group_pool() */
		struct exmap_pool *pool = smp_load_acquire(&group->pools[(*order)++]);

		if (pool)
			return pool;
	}
	return NULL;
}

/**
 * for_each_exmap_pool() - Visit all pools of a group.
 * @pool: set to each of them
 * @group: the group
 */
#define for_each_exmap_pool(pool, group) \
	for (unsigned int order__ = 0; (pool = exmap_group_next(group, &order__)); )

/**
 * exmap_group_reserve() - Reserve room for pages below the limit.
 * @group: the group
 * @nr: number of pages wanted
 * @order: their order
 * @over: set if a resize has lowered the limit meanwhile, so that no page must be
 *	allocated
 *
 * Return: the number of pages for which room is reserved, until exmap_group_unreserve().
 */
static inline unsigned int exmap_group_reserve(struct exmap_group *group, unsigned int nr,
					       unsigned int order, bool *over)
{
	long owned = atomic_long_read(&group->nr_pages);

	*over = false;
	do {
		const unsigned long limit = READ_ONCE(group->limit);

		if (owned >= limit)
			return 0;
		nr = min_t(unsigned long, nr, (limit - owned) >> order);
		if (!nr)
			return 0;
	} while (!atomic_long_try_cmpxchg(&group->nr_pages, &owned,
					  owned + ((long)nr << order)));
	/* Pairs with exmap_group_resize() */
	*over = owned + ((long)nr << order) > READ_ONCE(group->limit);
	return nr;
}

/**
 * exmap_group_unreserve() - Undo exmap_group_reserve(), or count pages that are gone.
 * @group: the group
 * @nr: number of pages
 * @order: their order
 */
static inline void exmap_group_unreserve(struct exmap_group *group, unsigned long nr,
					 unsigned int order)
{
	atomic_long_sub(nr << order, &group->nr_pages);
}

#endif /* _EXMAP_GROUP_H */
