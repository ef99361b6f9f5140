/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The pool: pages of one size, which are those of the slots of one region or of many
 *
 * A page here is what a slot holds: a base page, or a folio of 2^n base pages, which is
 * known by its first page. A page of the pool is in one of these states:
 *
 * - *mapped* in a slot of a region;
 * - *free*, in a bundle of an interface or with a NUMA node (node.h);
 * - in *quarantine*, where it waits for a deferred TLB flush (quarantine.h);
 * - in the hands of a call;
 * - *parked*: it was taken out of its slot while it was still held elsewhere, for
 *   example by direct I/O.
 *
 * References: the pool holds one page reference on every page that it owns. A
 * mapped or free page, and one in quarantine or in the hands of a call, has a
 * mapping reference as well (see struct vma_batch), which passes from the bundle to the
 * PTEs and back, and which counts once for each base page. So a page whose reference count
 * is exmap_pool::refs after it was unmapped and flushed is not held elsewhere. A parked
 * page has no mapping reference, and neither has a page that MADV_DONTNEED has dropped.
 * Such a page is *unseen* until exmap_pool_sweep() finds that its reference count is 1.
 */
#ifndef _EXMAP_POOL_H
#define _EXMAP_POOL_H

#include <linux/atomic.h>
#include <linux/cache.h>
#include <linux/list.h>
#include <linux/mm_types.h>
#include <linux/page_ref.h>
#include <linux/page-flags.h>
#include <linux/spinlock.h>
#include <linux/types.h>

#include "bundle.h"
#include "group.h"
#include "node.h"

struct exmap_interface;
struct exmap_reclaim;
struct mem_cgroup;

/* Pages that an interface takes from another one, or from a sweep, at once */
#define EXMAP_STEAL_PAGES	64

/**
 * struct exmap_pool - pages of one size
 * @group: What the pool shares with pools of other sizes. Set once.
 * @order: Order of the pages. Set once.
 * @refs: Reference count of a page with a mapping reference that nobody else holds. Set
 *	once.
 * @interfaces: Array of the interfaces. Set once.
 * @nodes: Free pages that belong to no interface, by NUMA node. Set once.
 * @nr_interfaces: Length of @interfaces. Set once.
 * @nr_pages: Number of pages that the pool owns.
 * @lock: Protects @owned, @parked, @nr_parked and @closed.
 * @owned: All pages of the pool except the parked ones, through page->lru.
 * @parked: The parked pages, through page->lru.
 * @nr_parked: Length of @parked.
 * @closed: The pool owns no page and never will again.
 * @stocked: Bitmap of the interfaces that may have free pages or pages in
 *	quarantine. An interface sets its bit when it gets pages; only a search
 *	(refill.c) clears it, when it finds none.
 * @nr_stocked: Number of bits set in @stocked.
 * @shrink_next: Number of the interface where the shrinker goes on. A hint.
 * @drops: Counts the regions that were unmapped, whose pages a sweep has to find.
 * @swept: @drops before the last sweep that left none of them.
 * @reclaim: Entry in the list that reclaim goes through (reclaim.c), or NULL.
 * @memcg: The memory cgroup of that entry. Compared, never dereferenced.
 */
struct exmap_pool {
	struct exmap_group *group;
	unsigned int order;
	int refs;
	struct exmap_interface *interfaces;
	struct exmap_node *nodes;
	unsigned int nr_interfaces;

	atomic_long_t nr_pages ____cacheline_aligned_in_smp;
	spinlock_t lock;	/* the four fields that follow */
	struct list_head owned;
	struct list_head parked;
	unsigned long nr_parked;
	bool closed;

	unsigned long *stocked;
	atomic_t nr_stocked;
	unsigned int shrink_next;
	unsigned long drops;
	unsigned long swept;

	struct exmap_reclaim *reclaim;
	struct mem_cgroup *memcg;
};

struct exmap_pool *exmap_pool_new(struct exmap_group *group, unsigned int order);
void exmap_pool_close(struct exmap_pool *pool);
void exmap_pool_free(struct exmap_pool *pool);
void exmap_pool_depart(struct exmap_pool *pool);
void exmap_pool_arrive(struct exmap_pool *pool);
void exmap_pool_release(struct exmap_pool *pool, struct page **pages, unsigned int nr);
void exmap_pool_reject(struct exmap_pool *pool, struct page *page);
unsigned int exmap_pool_sweep(struct exmap_pool *pool, bool parked, unsigned long budget,
			      struct page **pages, unsigned int max);
unsigned int exmap_pool_sweep_some(struct exmap_pool *pool, bool parked,
				   struct page **pages, unsigned int max);
struct page *exmap_pool_new_page(const struct exmap_pool *pool, gfp_t gfp, int nid);
void exmap_pool_discard(struct exmap_pool *pool, struct page *page);
void exmap_pool_exchange(struct exmap_pool *pool, struct page *old, struct page *new);
unsigned int exmap_pool_grow(struct exmap_pool *pool, struct page **pages,
			     unsigned int nr, bool *refused);
struct exmap_bundle *exmap_pool_pop(struct exmap_pool *pool, int nid);
unsigned int exmap_pool_take(struct exmap_pool *pool, int nid, struct page **pages,
			     unsigned int max);
void exmap_pool_keep_spare(struct exmap_interface *iface, struct exmap_bundle *bundle);
void exmap_pool_stocked(struct exmap_pool *pool, struct exmap_interface *iface);
void exmap_pool_unstocked(struct exmap_pool *pool, struct exmap_interface *iface);
struct exmap_interface *exmap_pool_next_stocked(struct exmap_pool *pool,
						unsigned int *pos, unsigned int end);
void exmap_pool_add(struct exmap_pool *pool, struct exmap_interface *iface,
		    struct page **pages, unsigned int nr);
void exmap_pool_keep(struct exmap_pool *pool, struct exmap_interface *iface,
		     struct page *page);
struct exmap_bundle *exmap_pool_sort(struct exmap_pool *pool,
				     struct exmap_interface *iface,
				     struct exmap_bundle *bundle);
void exmap_pool_put(struct exmap_pool *pool, struct exmap_interface *iface,
		    struct page **pages, unsigned int nr);
void exmap_pool_part(struct exmap_pool *pool, struct exmap_interface *iface,
		     struct exmap_bundle *bundle);
int exmap_pool_better_node(const struct exmap_pool *pool, int nid);
void exmap_pool_turn(struct exmap_pool *pool, struct exmap_interface *iface, int nid);
bool exmap_pool_drop_poisoned(struct exmap_pool *pool, struct exmap_interface *iface);

/**
 * exmap_pool_moved() - Tell searches that free pages have appeared or moved.
 * @pool: the pool
 *
 * A search in progress may have looked at their new place before, and must look
 * again. Searches are rare, so the counter that all of them read is written to only
 * while there is one.
 */
static inline void exmap_pool_moved(struct exmap_pool *pool)
{
	/*
	 * Either this CPU sees the search, or the search sees the pages. Pairs with
	 * the barriers in exmap_refill_search() and exmap_trim_group().
	 */
	smp_mb();
	if (atomic_read(&pool->group->searching))
		atomic_long_inc(&pool->group->moves);
}

/**
 * exmap_page_is_free() - Test whether an unmapped page may be reused.
 * @pool: its pool
 * @page: a page that was unmapped, and that no CPU can reach any more, with its
 *	mapping reference
 *
 * Return: true if it is not held elsewhere and is not poisoned. If a part of a folio is
 * poisoned that is not its first page, it is noticed when the folio is to be used again.
 */
static inline bool exmap_page_is_free(const struct exmap_pool *pool, struct page *page)
{
	return page_ref_count(page) == pool->refs && !PageHWPoison(page);
}

/**
 * exmap_page_is_poisoned() - Test whether any part of a page is poisoned.
 * @pool: its pool
 * @page: the page
 *
 * Return: true if it is.
 */
static inline bool exmap_page_is_poisoned(const struct exmap_pool *pool, struct page *page)
{
	/* Nothing sets a flag of the folio: it is not one that memory_failure() handles */
	for (unsigned int i = 0; i < 1U << pool->order; i++)
		if (PageHWPoison(page + i))
			return true;
	return false;
}

#endif /* _EXMAP_POOL_H */
