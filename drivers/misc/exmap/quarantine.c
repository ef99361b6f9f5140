// SPDX-License-Identifier: GPL-2.0-only
/*
 * The quarantine: freed pages that wait for a deferred TLB flush
 */
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>

#include "quarantine.h"
#include "trace.h"

/* Pages in quarantine among which the page that a slot has lost is searched */
#define EXMAP_QUARANTINE_LOOK	1024

/**
 * exmap_quarantine_init() - Let freed pages go through quarantine.
 * @group: the group, which is not in use yet
 * @pages: number of base pages in quarantine at which a FREE flushes, or 0 for a
 *	sixteenth of the limit of the group
 */
void exmap_quarantine_init(struct exmap_group *group, unsigned long pages)
{
	group->deferred = true;
	group->quarantine = pages;
}

static bool exmap_quarantine_is_flushed(const struct exmap_group *group, u64 generation)
{
	/* Pairs with exmap_quarantine_flush_end() */
	return generation <= smp_load_acquire(&group->flushed);
}

/**
 * exmap_quarantine_reap() - Free the pages that have left quarantine.
 * @pool: the pool
 * @iface: the interface, whose lock is held
 * @all: free all of them. Otherwise, pages for which the local bundle has no room
 *	stay until the next flush: a thread that allocates as much as it frees
 *	needs them soon.
 *
 * Context: As exmap_pool_release().
 * Return: true if some pages are left, which wait for a flush or a reap.
 */
bool exmap_quarantine_reap(struct exmap_pool *pool, struct exmap_interface *iface,
			   bool all)
{
	/* Pairs with exmap_quarantine_flush_end() */
	const u64 flushed = smp_load_acquire(&pool->group->flushed);
	struct exmap_bundle *bundle, *next;
	bool reaped = false;

	list_for_each_entry_safe(bundle, next, &iface->quarantine, list) {
		if (bundle->generation > flushed)
			break;
		if (!all && bundle->generation == flushed && iface->local &&
		    bundle->nr > EXMAP_BUNDLE_PAGES - iface->local->nr)
			break;
		list_del(&bundle->list);
		exmap_pool_keep_spare(iface, exmap_pool_sort(pool, iface, bundle));
		reaped = true;
	}
	if (reaped)
		exmap_pool_moved(pool);
	return !list_empty(&iface->quarantine);
}

/**
 * exmap_quarantine_collect() - Get a bundle for the pages of a FREE.
 * @pool: a pool with deferred flushes
 * @iface: the interface, whose lock is held until the pages are in the bundle
 *
 * Context: Process context. Does not wait for memory.
 * Return: the youngest bundle in quarantine, with the current generation and room
 * for at least one page; or NULL if there was no memory.
 */
struct exmap_bundle *exmap_quarantine_collect(struct exmap_pool *pool,
					      struct exmap_interface *iface)
{
	struct exmap_bundle *bundle = NULL;

	exmap_quarantine_reap(pool, iface, false);
	if (!list_empty(&iface->quarantine))
		bundle = list_last_entry(&iface->quarantine, struct exmap_bundle, list);
	if (!bundle || bundle->nr == EXMAP_BUNDLE_PAGES ||
	    exmap_quarantine_is_flushed(pool->group, bundle->generation)) {
		bundle = iface->spare ?: exmap_bundle_alloc(GFP_NOWAIT);
		if (!bundle)
			return NULL;
		iface->spare = NULL;
		list_add_tail(&bundle->list, &iface->quarantine);
		exmap_pool_stocked(pool, iface);
	}
	/*
	 * Make the bundle visible before reading the generation. Pairs with
	 * exmap_quarantine_flush_begin().
	 */
	smp_mb();
	bundle->generation = READ_ONCE(pool->group->generation);
	return bundle;
}

/**
 * exmap_quarantine_find() - Look for the page that a slot has lost.
 * @pool: a pool with deferred flushes
 * @iface: the interface in whose quarantine to look; its lock is held
 * @index: the number of the page of the address space that the slot is
 * @bundle: set to the bundle that has the page
 *
 * Looks at a limited number of pages, the youngest first, because it must cost less
 * than a flush.
 *
 * Return: where in the bundle the page is, or NULL.
 */
struct page **exmap_quarantine_find(struct exmap_pool *pool,
				    struct exmap_interface *iface, pgoff_t index,
				    struct exmap_bundle **bundle)
{
	unsigned int budget = EXMAP_QUARANTINE_LOOK;
	struct exmap_bundle *b;

	list_for_each_entry_reverse(b, &iface->quarantine, list) {
		/* Older pages may be from an earlier use of the slot */
		if (exmap_quarantine_is_flushed(pool->group, b->generation))
			break;
		for (unsigned int i = b->nr; i--; ) {
			if (page_folio(b->pages[i])->index == index) {
				*bundle = b;
				return &b->pages[i];
			}
			if (!--budget)
				return NULL;
		}
	}
	return NULL;
}

/* Wait for the calls that may be writing an old generation to page tables */
static void exmap_quarantine_wait(struct exmap_pool *pool)
{
	for (unsigned int i = 0; i < pool->nr_interfaces; i++) {
		struct exmap_interface *iface = &pool->interfaces[i];

		if (list_empty(&iface->quarantine))
			continue;
		mutex_lock(&iface->lock);
		mutex_unlock(&iface->lock);
	}
}

/**
 * exmap_quarantine_flush_begin() - Begin a flush that ends the quarantine.
 * @group: a group with deferred flushes
 * @generation: the generation that the caller needs to be flushed
 *
 * The caller flushes the TLB between this and exmap_quarantine_flush_end().
 *
 * Context: Process context, may sleep. No lock of an interface is held.
 * Return: false if @generation has been flushed meanwhile. Then,
 * exmap_quarantine_flush_end() must not be called.
 */
bool exmap_quarantine_flush_begin(struct exmap_group *group, u64 generation)
{
	struct exmap_pool *pool;

	mutex_lock(&group->flush_lock);
	if (exmap_quarantine_is_flushed(group, generation)) {
		mutex_unlock(&group->flush_lock);
		return false;
	}
	trace_exmap_flush(group, group->generation, atomic_long_read(&group->unflushed));
	WRITE_ONCE(group->generation, group->generation + 1);
	atomic_long_set(&group->unflushed, 0);
	/*
	 * A call that holds the lock of an interface may be writing the old number
	 * to page tables. Calls that take the lock later see the new one, and so
	 * does a call that begins to fill a quarantine that looks empty here: pairs
	 * with exmap_quarantine_collect().
	 */
	smp_mb();
	for_each_exmap_pool(pool, group)
		exmap_quarantine_wait(pool);
	return true;
}

/**
 * exmap_quarantine_flush_end() - End the quarantine of what was freed before.
 * @group: the group
 *
 * Interfaces notice it when they need pages.
 *
 * Context: After exmap_quarantine_flush_begin().
 */
void exmap_quarantine_flush_end(struct exmap_group *group)
{
	struct exmap_pool *pool;

	/* Pairs with exmap_quarantine_is_flushed() */
	smp_store_release(&group->flushed, group->generation - 1);
	mutex_unlock(&group->flush_lock);
	for_each_exmap_pool(pool, group)
		exmap_pool_moved(pool);
}
