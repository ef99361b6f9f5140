// SPDX-License-Identifier: GPL-2.0-only
/*
 * The pool: ownership of pages, and the bundles that free pages wait in
 */
#include <linux/bitmap.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/vma_batch.h>

#include "group.h"
#include "interface.h"
#include "pool.h"
#include "reclaim.h"

/*
 * Pages that a search looks at to find unseen ones. A full pool is the normal state of a
 * buffer manager, so the cost of a search that finds nothing must not depend on the number
 * of pages.
 */
#define EXMAP_POOL_SWEEP	64

/**
 * exmap_pool_new() - Make an empty pool and its interfaces.
 * @group: the group, which has the limit and the number of interfaces
 * @order: order of the pages
 *
 * Context: Process context, may sleep.
 * Return: the pool, or NULL without memory.
 */
struct exmap_pool *exmap_pool_new(struct exmap_group *group, unsigned int order)
{
	const unsigned int nr = group->nr_interfaces;
	struct exmap_pool *pool = kzalloc_obj(*pool, EXMAP_GFP);

	if (!pool)
		return NULL;
	pool->group = group;
	pool->order = order;
	pool->refs = 1 + (1 << order);
	pool->interfaces = kvcalloc(nr, sizeof(*pool->interfaces), EXMAP_GFP);
	pool->nodes = exmap_nodes_new();
	pool->stocked = kcalloc(BITS_TO_LONGS(nr), sizeof(*pool->stocked), EXMAP_GFP);
	if (!pool->interfaces || !pool->nodes || !pool->stocked) {
		exmap_pool_free(pool);
		return NULL;
	}
	pool->nr_interfaces = nr;
	for (unsigned int i = 0; i < nr; i++) {
		mutex_init(&pool->interfaces[i].lock);
		INIT_LIST_HEAD(&pool->interfaces[i].quarantine);
	}
	spin_lock_init(&pool->lock);
	INIT_LIST_HEAD(&pool->owned);
	INIT_LIST_HEAD(&pool->parked);
	return pool;
}

/* Drop the mapping references of pages that are not mapped */
static void exmap_pool_put_mapping(struct exmap_pool *pool, struct page **pages,
				   unsigned int nr)
{
	vma_batch_uncharge(pool->group->mm, pages, nr);
	for (unsigned int i = 0; i < nr; i++)
		folio_put_refs(page_folio(pages[i]), 1 << pool->order);
}

/*
 * Drop the reference of the pool to a page. The page allocator keeps single poisoned pages
 * out of circulation, but not those that are part of a folio, which is therefore kept.
 */
static void exmap_pool_put_own(struct exmap_pool *pool, struct page *page)
{
	if (likely(!pool->order || !exmap_page_is_poisoned(pool, page)))
		put_page(page);
}

static void exmap_pool_close_bundle(struct exmap_pool *pool, struct exmap_bundle *bundle)
{
	if (!bundle)
		return;
	exmap_pool_put_mapping(pool, bundle->pages, bundle->nr);
	exmap_bundle_free(bundle);
}

/**
 * exmap_pool_close() - Give up all pages.
 * @pool: the pool
 *
 * Pages that are held elsewhere, by a call or by direct I/O, are freed when they
 * are let go. The pool stays empty afterwards.
 *
 * Context: Process context, may sleep. No page of the pool is mapped, no call is
 * mapping or unmapping any, no resize is in progress, and no CPU can reach any
 * page, those in quarantine included.
 */
void exmap_pool_close(struct exmap_pool *pool)
{
	struct exmap_bundle *bundle, *next_bundle;
	struct page *page, *next;
	LIST_HEAD(bundles);
	LIST_HEAD(pages);

	/* Reclaim does not find the pool any more */
	exmap_reclaim_remove(pool);

	spin_lock(&pool->lock);
	pool->closed = true;
	list_splice_init(&pool->owned, &pages);
	list_splice_init(&pool->parked, &pages);
	pool->nr_parked = 0;
	exmap_group_unreserve(pool->group, atomic_long_xchg(&pool->nr_pages, 0), pool->order);
	spin_unlock(&pool->lock);

	for (unsigned int i = 0; i < pool->nr_interfaces; i++) {
		struct exmap_interface *iface = &pool->interfaces[i];

		/* Whoever takes the lock after this sees @closed */
		mutex_lock(&iface->lock);
		exmap_pool_close_bundle(pool, iface->local);
		exmap_pool_close_bundle(pool, iface->backup);
		exmap_pool_close_bundle(pool, iface->spare);
		iface->local = NULL;
		iface->backup = NULL;
		iface->spare = NULL;
		list_splice_init(&iface->quarantine, &bundles);
		mutex_unlock(&iface->lock);
		cond_resched();
	}
	/* No call adds to these any more */
	for (unsigned int i = 0; i < nr_node_ids; i++)
		exmap_node_splice(&pool->nodes[i], &bundles);
	list_for_each_entry_safe(bundle, next_bundle, &bundles, list) {
		exmap_pool_close_bundle(pool, bundle);
		cond_resched();
	}
	list_for_each_entry_safe(page, next, &pages, lru) {
		list_del(&page->lru);
		exmap_pool_put_own(pool, page);
		cond_resched();
	}
}

/**
 * exmap_pool_free() - Free a pool.
 * @pool: the pool, closed or never used, perhaps not set up completely
 *
 * Context: Process context. The pool and its interfaces are not used any more.
 */
void exmap_pool_free(struct exmap_pool *pool)
{
	for (unsigned int i = 0; i < pool->nr_interfaces; i++)
		free_page((unsigned long)pool->interfaces[i].vectors);
	kvfree(pool->interfaces);
	kfree(pool->nodes);
	kfree(pool->stocked);
	kfree(pool);
}

/**
 * exmap_pool_depart() - Begin to carry free pages from one place to another.
 * @pool: the pool
 *
 * A search may have looked at the new place already. It waits for
 * exmap_pool_arrive().
 */
void exmap_pool_depart(struct exmap_pool *pool)
{
	atomic_inc(&pool->group->transit);
}

/**
 * exmap_pool_arrive() - End what exmap_pool_depart() began.
 * @pool: the pool
 */
void exmap_pool_arrive(struct exmap_pool *pool)
{
	exmap_pool_moved(pool);
	/* A search that sees no transit sees the move: pairs with exmap_pool_search() */
	atomic_dec_return_release(&pool->group->transit);
}

/**
 * exmap_pool_release() - Give pages back to the system.
 * @pool: the pool, which may have been closed
 * @pages: pages that the caller took out of bundles or has unmapped, with their
 *	mapping references
 * @nr: number of pages
 *
 * Context: Any context in which spin locks may be taken, not an interrupt.
 */
void exmap_pool_release(struct exmap_pool *pool, struct page **pages, unsigned int nr)
{
	bool ours;

	spin_lock(&pool->lock);
	ours = !pool->closed;
	for (unsigned int i = 0; ours && i < nr; i++)
		list_del(&pages[i]->lru);
	if (ours)
		atomic_long_sub(nr, &pool->nr_pages);
	spin_unlock(&pool->lock);

	exmap_pool_put_mapping(pool, pages, nr);
	for (unsigned int i = 0; ours && i < nr; i++)
		exmap_pool_put_own(pool, pages[i]);
	if (ours)
		exmap_group_unreserve(pool->group, nr, pool->order);
	exmap_pool_moved(pool);
}

/**
 * exmap_pool_reject() - Dispose of a page that must not be reused.
 * @pool: the pool
 * @page: an unmapped page for which exmap_page_is_free() is false, with its mapping
 *	reference
 *
 * A poisoned page leaves the pool. A page that is held elsewhere is parked; without
 * its mapping reference, exmap_pool_sweep() finds it when it is let go.
 *
 * Context: As exmap_pool_release().
 */
void exmap_pool_reject(struct exmap_pool *pool, struct page *page)
{
	if (exmap_page_is_poisoned(pool, page)) {
		exmap_pool_release(pool, &page, 1);
		return;
	}
	spin_lock(&pool->lock);
	if (!pool->closed) {
		list_move_tail(&page->lru, &pool->parked);
		pool->nr_parked++;
	}
	spin_unlock(&pool->lock);
	exmap_pool_put_mapping(pool, &page, 1);
}

/**
 * exmap_pool_sweep() - Find unseen pages.
 * @pool: the pool
 * @parked: look at the parked pages, instead of the owned ones
 * @budget: number of pages to look at; the next sweep goes on where this one ends
 * @pages: where the pages go that were found, with new mapping references
 * @max: capacity of @pages
 *
 * A page that was dropped, but is still held elsewhere, is parked.
 *
 * Freezing the reference count makes sure that only one sweep gets a page, and
 * that no lockless get_user_pages() is about to take a reference. If any pages are
 * found, they are in transit, and the caller calls exmap_pool_arrive().
 *
 * Context: Process context, may sleep.
 * Return: the number of pages found.
 */
unsigned int exmap_pool_sweep(struct exmap_pool *pool, bool parked, unsigned long budget,
			      struct page **pages, unsigned int max)
{
	struct list_head *list = parked ? &pool->parked : &pool->owned;
	struct page *page, *next;
	unsigned int nr = 0, charged = 0;
	unsigned long left;

	spin_lock(&pool->lock);
	left = parked ? pool->nr_parked :
	       atomic_long_read(&pool->nr_pages) - pool->nr_parked;
	left = min(left, budget);
	while (left && nr < max && !fatal_signal_pending(current)) {
		unsigned int chunk = min(left, 256);

		left -= chunk;
		list_for_each_entry_safe(page, next, list, lru) {
			if (!chunk-- || nr == max)
				break;
			if (page_count(page) != 1 || !page_ref_freeze(page, 1)) {
				/* Without its mapping reference, it waits to be let go */
				if (!parked && !folio_mapped(page_folio(page))) {
					list_move_tail(&page->lru, &pool->parked);
					pool->nr_parked++;
				}
				continue;
			}
			page_ref_unfreeze(page, pool->refs);
			if (parked) {
				list_move_tail(&page->lru, &pool->owned);
				pool->nr_parked--;
			}
			if (!nr)
				exmap_pool_depart(pool);
			pages[nr++] = page;
		}
		/* The next chunk, or sweep, begins where this one stopped */
		if (!list_entry_is_head(page, list, lru))
			list_rotate_to_front(&page->lru, list);
		/* Before another sweep looks at the same pages */
		if (nr != charged)
			vma_batch_charge(pool->group->mm, pages + charged, nr - charged);
		charged = nr;
		cond_resched_lock(&pool->lock);
	}
	spin_unlock(&pool->lock);
	return nr;
}

/**
 * exmap_pool_sweep_some() - Find unseen pages, with a bounded effort where possible.
 * @pool: the pool
 * @parked: look at the parked pages, instead of the owned ones
 * @pages: as with exmap_pool_sweep()
 * @max: as with exmap_pool_sweep()
 *
 * The pages of a region that was unmapped since are found wherever they are, once.
 *
 * Context: As exmap_pool_sweep().
 * Return: the number of pages found, as exmap_pool_sweep().
 */
unsigned int exmap_pool_sweep_some(struct exmap_pool *pool, bool parked,
				   struct page **pages, unsigned int max)
{
	const unsigned long drops = READ_ONCE(pool->drops);
	const bool all = !parked && drops != READ_ONCE(pool->swept);
	unsigned int nr;

	if (parked && !READ_ONCE(pool->nr_parked))
		return 0;
	nr = exmap_pool_sweep(pool, parked, all ? ULONG_MAX : EXMAP_POOL_SWEEP, pages, max);
	if (all && nr < max && !fatal_signal_pending(current))
		WRITE_ONCE(pool->swept, drops);
	return nr;
}

/**
 * exmap_pool_new_page() - Get a page from the system that the pool does not own yet.
 * @pool: the pool
 * @gfp: how
 * @nid: a node, or NUMA_NO_NODE to have the memory policy choose one
 *
 * Context: Process context, may sleep.
 * Return: the page, with both references, or NULL.
 */
struct page *exmap_pool_new_page(const struct exmap_pool *pool, gfp_t gfp, int nid)
{
	struct folio *folio;
	struct page *page;

	folio = nid == NUMA_NO_NODE ? folio_alloc(gfp, pool->order) :
				      __folio_alloc_node(gfp, pool->order, nid);
	if (!folio)
		return NULL;
	folio_ref_add(folio, pool->refs - 1);
	page = folio_page(folio, 0);
	vma_batch_charge(pool->group->mm, &page, 1);
	return page;
}

/**
 * exmap_pool_discard() - Give back a page that the pool does not own, or not any more.
 * @pool: the pool
 * @page: the page, with both references
 *
 * Context: As exmap_pool_release().
 */
void exmap_pool_discard(struct exmap_pool *pool, struct page *page)
{
	exmap_pool_put_mapping(pool, &page, 1);
	exmap_pool_put_own(pool, page);
}

/**
 * exmap_pool_exchange() - Own a page in place of another one.
 * @pool: the pool, which is not closed
 * @old: a free page, which goes back to the system
 * @new: a page from exmap_pool_new_page()
 *
 * Context: As exmap_pool_release().
 */
void exmap_pool_exchange(struct exmap_pool *pool, struct page *old, struct page *new)
{
	spin_lock(&pool->lock);
	list_replace(&old->lru, &new->lru);
	spin_unlock(&pool->lock);
	exmap_pool_discard(pool, old);
}

/**
 * exmap_pool_grow() - Get pages from the system.
 * @pool: the pool
 * @pages: where the pages go, zeroed and with both references
 * @nr: number of pages wanted
 * @refused: set if the page allocator or the memory cgroup refused, as opposed to
 *	the limit of the group
 *
 * Context: Process context, may sleep.
 * Return: the number of pages.
 */
unsigned int exmap_pool_grow(struct exmap_pool *pool, struct page **pages,
			     unsigned int nr, bool *refused)
{
	struct exmap_group *group = pool->group;
	unsigned int got = 0;
	LIST_HEAD(list);
	bool closed, over;

	if (atomic_long_read(&group->nr_pages) >= READ_ONCE(group->limit))
		return 0;
	exmap_pool_depart(pool);
	/* Count the pages first, so that the group is never seen above its limit */
	nr = exmap_group_reserve(group, nr, pool->order, &over);
	if (!nr)
		goto out;

	while (got < nr && !over && !fatal_signal_pending(current)) {
		struct page *page = exmap_pool_new_page(pool, EXMAP_GFP | __GFP_ZERO,
							NUMA_NO_NODE);

		if (!page)
			break;
		list_add(&page->lru, &list);
		pages[got++] = page;
	}

	spin_lock(&pool->lock);
	closed = pool->closed;
	if (!closed) {
		list_splice_tail(&list, &pool->owned);
		atomic_long_add(got, &pool->nr_pages);
	}
	spin_unlock(&pool->lock);

	exmap_group_unreserve(group, closed ? nr : nr - got, pool->order);
	if (closed) {
		exmap_pool_put_mapping(pool, pages, got);
		while (got)
			put_page(pages[--got]);
	}
	if (got)
		exmap_reclaim_update(pool, pages[0]);
	*refused = !got && !over;
out:
	exmap_pool_arrive(pool);
	return got;
}

/**
 * exmap_pool_pop() - Take a bundle of free pages that belongs to no interface.
 * @pool: the pool
 * @nid: the node that the pages are on
 *
 * Its pages are in transit: the caller calls exmap_pool_arrive().
 *
 * Context: As exmap_pool_release().
 * Return: the bundle, or NULL.
 */
struct exmap_bundle *exmap_pool_pop(struct exmap_pool *pool, int nid)
{
	return exmap_node_pop(&pool->nodes[nid], &pool->group->transit);
}

/**
 * exmap_pool_take() - Take free pages that belong to no interface.
 * @pool: the pool
 * @nid: the node that the pages are on
 * @pages: where the pages go
 * @max: how many to take at most
 *
 * If there are any, they are in transit: the caller calls exmap_pool_arrive().
 *
 * Context: As exmap_pool_release().
 * Return: the number of pages taken.
 */
unsigned int exmap_pool_take(struct exmap_pool *pool, int nid, struct page **pages,
			     unsigned int max)
{
	return exmap_node_take(&pool->nodes[nid], pages, max, &pool->group->transit);
}

/* Leave free pages of one node to all interfaces */
static void exmap_pool_leave(struct exmap_pool *pool, struct page **pages, unsigned int nr)
{
	if (!nr)
		return;
	nr = exmap_node_add(&pool->nodes[page_to_nid(pages[0])], pages, nr);
	if (nr)
		exmap_pool_release(pool, pages, nr);
}

/*
 * Add the pages of a bundle to the local ones of an interface, whose lock is held.
 * Returns a bundle that is empty now, or NULL.
 */
static struct exmap_bundle *exmap_pool_merge(struct exmap_pool *pool,
					     struct exmap_interface *iface,
					     struct exmap_bundle *bundle)
{
	struct exmap_bundle *local = iface->local;
	unsigned int room;

	if (!local || !local->nr) {
		iface->local = bundle;
		return local;
	}
	room = min(EXMAP_BUNDLE_PAGES - local->nr, bundle->nr);
	bundle->nr -= room;
	memcpy(local->pages + local->nr, bundle->pages + bundle->nr,
	       room * sizeof(*local->pages));
	local->nr += room;
	if (!bundle->nr)
		return bundle;

	iface->local = bundle;
	bundle = iface->backup;
	if (bundle && bundle->nr) {
		exmap_node_push(&pool->nodes[page_to_nid(local->pages[0])], local);
		return NULL;
	}
	iface->backup = local;
	return bundle;
}

/**
 * exmap_pool_keep_spare() - Keep an empty bundle for the next FREE.
 * @iface: the interface, whose lock is held
 * @bundle: the bundle, which is freed if the interface has a spare one; or NULL
 */
void exmap_pool_keep_spare(struct exmap_interface *iface, struct exmap_bundle *bundle)
{
	if (iface->spare)
		exmap_bundle_free(bundle);
	else
		iface->spare = bundle;
}

/**
 * exmap_pool_stocked() - Let searches know that an interface may have free pages.
 * @pool: the pool
 * @iface: the interface, whose lock is held
 */
void exmap_pool_stocked(struct exmap_pool *pool, struct exmap_interface *iface)
{
	if (likely(iface->is_stocked))
		return;
	iface->is_stocked = true;
	set_bit(iface - pool->interfaces, pool->stocked);
	atomic_inc(&pool->nr_stocked);
	atomic_inc(&pool->nodes[iface->nid].nr_stocked);
}

/**
 * exmap_pool_unstocked() - Let searches skip an interface.
 * @pool: the pool
 * @iface: the interface, which has no pages, and whose lock is held
 */
void exmap_pool_unstocked(struct exmap_pool *pool, struct exmap_interface *iface)
{
	if (!iface->is_stocked)
		return;
	iface->is_stocked = false;
	clear_bit(iface - pool->interfaces, pool->stocked);
	atomic_dec(&pool->nr_stocked);
	atomic_dec(&pool->nodes[iface->nid].nr_stocked);
}

/**
 * exmap_pool_next_stocked() - Find the next interface that may have free pages.
 * @pool: the pool, which is not closed while the interface is used
 * @pos: number of the interface to begin with; set to the one behind that found
 * @end: number of the interface before which to end
 *
 * Return: the interface, or NULL if there is none.
 */
struct exmap_interface *exmap_pool_next_stocked(struct exmap_pool *pool,
						unsigned int *pos, unsigned int end)
{
	unsigned int i;

	/* In a full pool, there is none in most cases */
	if (!atomic_read(&pool->nr_stocked))
		return NULL;
	i = find_next_bit(pool->stocked, end, *pos);
	if (i >= end)
		return NULL;
	*pos = i + 1;
	return &pool->interfaces[i];
}

/**
 * exmap_pool_add() - Give free pages to an interface.
 * @pool: the pool, which may have been closed
 * @iface: the interface, whose lock is held
 * @pages: the pages, with their mapping references
 * @nr: number of pages
 *
 * Pages for which there is no place go back to the system.
 *
 * Context: Process context. Does not allocate memory with reclaim.
 */
void exmap_pool_add(struct exmap_pool *pool, struct exmap_interface *iface,
		    struct page **pages, unsigned int nr)
{
	struct exmap_bundle *fresh;

	while (nr) {
		struct page *page = pages[--nr];

		if (unlikely(!exmap_page_is_free(pool, page))) {
			exmap_pool_reject(pool, page);
			continue;
		}
		if (READ_ONCE(pool->closed)) {
			exmap_pool_release(pool, &page, 1);
			continue;
		}
		/* An interface without a local bundle has never been used */
		if (!iface->local || !exmap_interface_is_near(iface, page)) {
			exmap_pool_leave(pool, &page, 1);
			continue;
		}
		if (iface->local->nr == EXMAP_BUNDLE_PAGES) {
			fresh = iface->spare ?: exmap_bundle_alloc(GFP_NOWAIT);
			iface->spare = NULL;
			if (!fresh) {
				exmap_pool_release(pool, &page, 1);
				continue;
			}
			fresh->pages[fresh->nr++] = page;
			exmap_pool_keep_spare(iface, exmap_pool_merge(pool, iface, fresh));
			continue;
		}
		iface->local->pages[iface->local->nr++] = page;
	}
	if (iface->local)
		exmap_pool_stocked(pool, iface);
	exmap_pool_moved(pool);
}

/**
 * exmap_pool_keep() - Give a free page to an interface, whichever node it is on.
 * @pool: the pool
 * @iface: the interface, whose lock is held, and which has been used before
 * @page: the page, with its mapping reference
 *
 * An interface without pages goes over to the node of the page. So a thread that evicts a
 * page and takes it for another slot needs no other source.
 *
 * Context: As exmap_pool_add().
 */
void exmap_pool_keep(struct exmap_pool *pool, struct exmap_interface *iface,
		     struct page *page)
{
	if (!exmap_bundle_nr(iface->local) && !exmap_bundle_nr(iface->backup))
		exmap_interface_set_nid(pool->nodes, iface, page_to_nid(page));
	exmap_pool_add(pool, iface, &page, 1);
}

/**
 * exmap_pool_part() - Part with the pages of a bundle that are on other nodes.
 * @pool: the pool
 * @iface: the interface that gets the others, whose lock is held
 * @bundle: pages that no CPU can reach any more
 *
 * Context: As exmap_pool_release(). Does not allocate memory with reclaim.
 */
void exmap_pool_part(struct exmap_pool *pool, struct exmap_interface *iface,
		     struct exmap_bundle *bundle)
{
	struct page *away[EXMAP_STEAL_PAGES];
	unsigned int nr = 0, nr_away = 0;

	for (unsigned int i = 0; i < bundle->nr; i++) {
		struct page *page = bundle->pages[i];

		if (exmap_interface_is_near(iface, page)) {
			bundle->pages[nr++] = page;
			continue;
		}
		if (unlikely(!exmap_page_is_free(pool, page))) {
			exmap_pool_reject(pool, page);
			continue;
		}
		if (nr_away == ARRAY_SIZE(away) ||
		    (nr_away && page_to_nid(away[0]) != page_to_nid(page))) {
			exmap_pool_leave(pool, away, nr_away);
			nr_away = 0;
		}
		away[nr_away++] = page;
	}
	exmap_pool_leave(pool, away, nr_away);
	bundle->nr = nr;
}

/**
 * exmap_pool_better_node() - Tell from which node a thread should rather get pages.
 * @pool: the pool
 * @nid: a node
 *
 * Context: Process context.
 * Return: a node for the current thread, from which there may be pages; NUMA_NO_NODE if
 * there is none, or none that its memory policy prefers to @nid.
 */
int exmap_pool_better_node(const struct exmap_pool *pool, int nid)
{
	const struct exmap_node *node;
	bool bound;
	int better;

	better = mempolicy_choose_node(nid, &bound);
	node = &pool->nodes[better];
	if (better == nid)
		return NUMA_NO_NODE;
	if (READ_ONCE(node->nr))
		return better;
	if (time_before(jiffies, READ_ONCE(node->full_until)))
		return NUMA_NO_NODE;
	/* To take pages from other interfaces costs too much for a mere preference */
	if (bound && atomic_read(&node->nr_stocked))
		return better;
	if (atomic_long_read(&pool->group->nr_pages) >= READ_ONCE(pool->group->limit))
		return NUMA_NO_NODE;
	return better;
}

/**
 * exmap_pool_turn() - Have an interface use pages of another node.
 * @pool: the pool
 * @iface: the interface, whose lock is held
 * @nid: the node
 *
 * Context: As exmap_pool_part().
 */
void exmap_pool_turn(struct exmap_pool *pool, struct exmap_interface *iface, int nid)
{
	struct exmap_bundle *bundles[] = { iface->backup, iface->local };

	for (unsigned int i = 0; i < ARRAY_SIZE(bundles); i++) {
		if (!exmap_bundle_nr(bundles[i]))
			continue;
		exmap_pool_leave(pool, bundles[i]->pages, bundles[i]->nr);
		bundles[i]->nr = 0;
	}
	exmap_interface_set_nid(pool->nodes, iface, nid);
	exmap_pool_moved(pool);
}

/**
 * exmap_pool_sort() - Sort unmapped pages into free ones and others.
 * @pool: the pool
 * @iface: the interface that gets the free ones, whose lock is held
 * @bundle: pages that no CPU can reach any more
 *
 * Context: As exmap_pool_release().
 * Return: a bundle that is empty now, or NULL.
 */
struct exmap_bundle *exmap_pool_sort(struct exmap_pool *pool,
				     struct exmap_interface *iface,
				     struct exmap_bundle *bundle)
{
	struct exmap_bundle *to = iface->local;
	struct page **end, **p;
	unsigned int nr;

	if (exmap_nodes_many())
		exmap_pool_part(pool, iface, bundle);
	end = bundle->pages + bundle->nr;
	/* There is room in most cases */
	if (unlikely(!to || bundle->nr > EXMAP_BUNDLE_PAGES - to->nr))
		to = bundle;
	bundle->nr = 0;
	nr = to->nr;
	for (p = bundle->pages; p != end; p++) {
		struct page *page = *p;

		if (likely(exmap_page_is_free(pool, page)))
			to->pages[nr++] = page;
		else
			exmap_pool_reject(pool, page);
	}
	to->nr = nr;
	exmap_pool_stocked(pool, iface);
	return to == bundle ? exmap_pool_merge(pool, iface, bundle) : bundle;
}

/**
 * exmap_pool_put() - Give back pages that were taken and not mapped.
 * @pool: the pool, which may have been closed since
 * @iface: the interface that gets them
 * @pages: the pages, with their mapping references
 * @nr: number of pages, possibly 0
 *
 * Context: Process context, may sleep. No lock of the pool or of an interface is
 * held.
 */
void exmap_pool_put(struct exmap_pool *pool, struct exmap_interface *iface,
		    struct page **pages, unsigned int nr)
{
	if (!nr)
		return;
	mutex_lock(&iface->lock);
	exmap_pool_add(pool, iface, pages, nr);
	mutex_unlock(&iface->lock);
}

/**
 * exmap_pool_drop_poisoned() - Remove a poisoned page from a local bundle.
 * @pool: the pool
 * @iface: the interface, whose lock is held
 *
 * Return: true if the last page of the bundle was poisoned.
 */
bool exmap_pool_drop_poisoned(struct exmap_pool *pool, struct exmap_interface *iface)
{
	struct exmap_bundle *local = iface->local;

	if (!local || !local->nr || !exmap_page_is_poisoned(pool, local->pages[local->nr - 1]))
		return false;
	exmap_pool_release(pool, &local->pages[--local->nr], 1);
	return true;
}
