/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Placing pages: from an interface into the region, and back
 *
 * From exmap_place_begin() to exmap_place_end(), a call has one region, or all of the
 * pool, and one interface locked. It maps pages of the local bundle of the interface,
 * and collects the pages that it unmaps in another bundle. After a flush, it can map
 * those again.
 */
#ifndef _EXMAP_PLACE_H
#define _EXMAP_PLACE_H

#include <linux/types.h>
#include <linux/vma_batch.h>

#include "cursor.h"
#include "exmap.h"
#include "flight.h"
#include "interface.h"
#include "trace.h"

/* Unmapped pages for which a call has room if there is no memory for a bundle */
#define EXMAP_PLACE_FEW	32

/**
 * struct exmap_place - the state of a call that places pages
 * @at: the cursor. The array of its batch is iface->local, or, if @freeing, @into or
 *	@few.
 * @iface: the interface, whose lock is held
 * @into: the bundle that takes unmapped pages, or NULL
 * @few: takes unmapped pages where there is no memory for a bundle
 * @nr_few: number of pages in @few
 * @freed: number of base pages unmapped with deferred flushes
 * @freeing: whether the batch unmaps pages, rather than mapping them
 * @deferred: whether unmapped pages go through quarantine
 * @nomem: the pool had no page, and is not asked again
 */
struct exmap_place {
	struct exmap_cursor at;
	struct exmap_interface *iface;
	struct exmap_bundle *into;
	struct page *few[EXMAP_PLACE_FEW];
	unsigned int nr_few;
	unsigned long freed;
	bool freeing;
	bool deferred;
	bool nomem;
};

int exmap_place_begin(struct exmap_place *place, struct exmap *exmap,
		      struct exmap_interface *iface, bool many);
void exmap_place_end(struct exmap_place *place);
void exmap_place_load(struct exmap_place *place);
void exmap_place_store(struct exmap_place *place);
int exmap_place_change_region(struct exmap_place *place, struct exmap *exmap);
int exmap_place_fault(struct exmap *exmap, struct vm_area_struct *vma, unsigned long addr);
void exmap_place_set_freeing(struct exmap_place *place, bool freeing);
int exmap_place_resume(struct exmap_place *place, unsigned long want);
int exmap_place_map_more(struct exmap_place *place, unsigned long slot,
			 unsigned long nr, unsigned long *done,
			 unsigned long *changed);
void exmap_place_unmap(struct exmap_place *place, unsigned long slot,
		       unsigned long nr, unsigned long *changed);
int exmap_place_free(struct exmap_place *place, unsigned long slot,
		     unsigned long nr, unsigned long *changed);
int exmap_place_page(struct exmap_place *place, struct page **page, unsigned long want);
void exmap_place_trace(const struct exmap_place *place, const unsigned long *addrs,
		       unsigned int nr);

/**
 * exmap_place_alloc() - Map pages in the empty slots of a range.
 * @place: the call, set for mapping pages
 * @slot: first slot of the range
 * @nr: number of slots, all inside the region
 * @done: set to the number of slots, from @slot on, that have a page now
 * @changed: set to the number of those that had none before
 *
 * Context: As exmap_place_map_more().
 * Return: as exmap_place_map_more().
 */
static inline int exmap_place_alloc(struct exmap_place *place, unsigned long slot,
				    unsigned long nr, unsigned long *done,
				    unsigned long *changed)
{
	const unsigned long addr = exmap_slot_addr(place->at.exmap, slot);
	const unsigned int before = place->at.vb.nr;

	*done = vma_batch_map(&place->at.vb, addr, nr);
	*changed = before - place->at.vb.nr;
	trace_exmap_alloc(place->at.pool, addr, *done, *changed);
	if (likely(*done == nr))
		return 0;
	return exmap_place_map_more(place, slot, nr, done, changed);
}

/**
 * exmap_place_each() - Map or unmap the pages of single slots.
 * @place: the call, set for mapping or unmapping pages
 * @addrs: the addresses of the slots. Each that is done, but did not change, is
 *	replaced by VMA_BATCH_NOWHERE.
 * @nr: number of addresses
 * @changed: set to the number of slots that changed
 *
 * Context: Process context, may sleep.
 * Return: the number of addresses that are done, from the first on.
 */
static __always_inline unsigned int exmap_place_each(struct exmap_place *place,
						     unsigned long *addrs, unsigned int nr,
						     unsigned int *changed)
{
	struct vma_batch *vb = &place->at.vb;
	const unsigned int before = vb->nr;
	unsigned int done;

	if (!place->freeing) {
		done = vma_batch_map_each(vb, addrs, nr);
		*changed = before - vb->nr;
		if (trace_exmap_alloc_enabled())
			exmap_place_trace(place, addrs, done);
		return done;
	}
	done = vma_batch_unmap_each(vb, addrs, nr);
	*changed = vb->nr - before;
	if (vb->deferred)
		place->freed += (unsigned long)*changed << vb->order;
	if (trace_exmap_free_enabled())
		exmap_place_trace(place, addrs, done);
	return done;
}

/**
 * exmap_place_select() - Select the region that is worked on.
 * @place: the call
 * @exmap: the exmap; another one than before only if the call was begun for many
 *
 * Context: Process context, may sleep. @exmap stays attached.
 * Return: 0, or -ENXIO if the region is not mapped; then, the same region as before is
 * selected.
 */
static __always_inline int exmap_place_select(struct exmap_place *place, struct exmap *exmap)
{
	return likely(place->at.exmap == exmap) ? 0 : exmap_place_change_region(place, exmap);
}

/**
 * exmap_place_is_near() - Test whether an interface has the right pages for a thread.
 * @exmap: the exmap
 * @iface: the interface; its lock need not be held, since this is a hint
 *
 * Return: false if pages of another node are to be had, for which the call must be made
 * through struct exmap_place.
 */
static __always_inline bool exmap_place_is_near(const struct exmap *exmap,
						const struct exmap_interface *iface)
{
	return !exmap_nodes_many() ||
	       exmap_pool_better_node(exmap->pool, READ_ONCE(iface->nid)) == NUMA_NO_NODE;
}

/**
 * exmap_place_alloc_one() - Map a page in one empty slot, in the simplest case.
 * @exmap: the exmap, of the current process and set up, with slots of one page
 * @iface: the interface, whose lock is held
 * @vma: the region, locked
 * @slot: the slot, inside the region
 *
 * Return: true if the slot got a page. If not, nothing has happened, and the call
 * must be made through struct exmap_place.
 */
static inline bool exmap_place_alloc_one(struct exmap *exmap,
					 struct exmap_interface *iface,
					 struct vm_area_struct *vma, unsigned long slot)
{
	const unsigned long addr = exmap->start + (slot << PAGE_SHIFT);
	struct exmap_bundle *local = iface->local;

	if (unlikely(!exmap_bundle_nr(local)) ||
	    unlikely(!vma_batch_map_page(vma, addr, local->pages[local->nr - 1], false)))
		return false;
	local->nr--;
	trace_exmap_alloc(exmap->pool, addr, 1, 1);
	return true;
}

/**
 * exmap_place_free_one() - Take the page out of one slot, in the simplest case.
 * @exmap: the exmap, of the current process and set up, without deferred flushes
 * @iface: the interface, whose lock is held
 * @vma: the region, locked
 * @slot: the slot, inside the region
 *
 * Return: true if the slot had a page. If not, nothing has happened, and the call
 * must be made through struct exmap_place.
 */
static inline bool exmap_place_free_one(struct exmap *exmap,
					struct exmap_interface *iface,
					struct vm_area_struct *vma, unsigned long slot)
{
	const unsigned long addr = exmap->start + (slot << PAGE_SHIFT);
	struct exmap_bundle *local = iface->local;
	struct page *page;

	if (unlikely(!local || local->nr == EXMAP_BUNDLE_PAGES ||
		     exmap_tables_exceeded(exmap->pool->group) ||
		     exmap_flight_may_be_busy(exmap->flights, addr >> PAGE_SHIFT)))
		return false;
	page = vma_batch_unmap_page(vma, addr);
	if (unlikely(!page))
		return false;
	trace_exmap_free(exmap->pool, addr, 1, 1);
	if (unlikely(!exmap_page_is_free(exmap->pool, page)) || exmap_nodes_many()) {
		exmap_pool_keep(exmap->pool, iface, page);
		return true;
	}
	local->pages[local->nr++] = page;
	if (unlikely(!iface->is_stocked))
		exmap_pool_stocked(exmap->pool, iface);
	exmap_pool_moved(exmap->pool);
	return true;
}

#endif /* _EXMAP_PLACE_H */
