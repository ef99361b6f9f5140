// SPDX-License-Identifier: GPL-2.0-only
/*
 * Placing pages: from an interface into the region, and back
 */
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/smp.h>

#include "place.h"
#include "pool.h"
#include "quarantine.h"
#include "refill.h"
#include "region.h"

/**
 * exmap_place_load() - Give the cursor the array for what the call is about to do.
 * @place: the call, after exmap_place_store()
 *
 * Context: Any.
 */
void exmap_place_load(struct exmap_place *place)
{
	struct exmap_bundle *bundle = place->freeing ? place->into : place->iface->local;
	struct vma_batch *vb = &place->at.vb;

	vb->deferred = place->deferred && bundle;
	if (likely(bundle)) {
		vb->pages = bundle->pages;
		vb->nr = bundle->nr;
		vb->max = EXMAP_BUNDLE_PAGES;
	} else {
		/* There are no pages to map, but some room for those unmapped */
		vb->pages = place->few;
		vb->nr = place->freeing ? place->nr_few : 0;
		vb->max = EXMAP_PLACE_FEW;
	}
}

/**
 * exmap_place_store() - Tell the bundle what has become of its pages.
 * @place: the call
 *
 * After this, the array of the cursor is not used until exmap_place_load().
 *
 * Context: Any.
 */
void exmap_place_store(struct exmap_place *place)
{
	struct exmap_bundle *bundle = place->freeing ? place->into : place->iface->local;

	if (likely(bundle))
		bundle->nr = place->at.vb.nr;
	else if (place->freeing)
		place->nr_few = place->at.vb.nr;
}

/*
 * End the batch, and give the pool what was unmapped so far. The array of the
 * cursor must be loaded again afterwards.
 */
static void exmap_place_settle(struct exmap_place *place)
{
	struct exmap_pool *pool = place->at.pool;
	struct exmap_interface *iface = place->iface;

	vma_batch_end(&place->at.vb);
	exmap_place_store(place);
	if (place->into) {
		if (!place->deferred)
			exmap_pool_keep_spare(iface, exmap_pool_sort(pool, iface,
								     place->into));
		place->into = NULL;
		exmap_pool_moved(pool);
	}
	if (unlikely(place->nr_few)) {
		exmap_pool_add(pool, iface, place->few, place->nr_few);
		place->nr_few = 0;
	}
}

/* Have the interface use pages that are near for the thread that uses it now */
static noinline void exmap_place_turn(struct exmap_place *place)
{
	const int nid = exmap_pool_better_node(place->at.pool, place->iface->nid);

	if (nid != NUMA_NO_NODE)
		exmap_pool_turn(place->at.pool, place->iface, nid);
}

static __always_inline void exmap_place_begin_locked(struct exmap_place *place,
						     struct exmap *exmap,
						     struct exmap_interface *iface,
						     struct vm_area_struct *vma)
{
	struct exmap_group *group = exmap->pool->group;
	const bool exceeded = exmap_tables_exceeded(group);

	place->iface = iface;
	place->into = NULL;
	place->nr_few = 0;
	place->freed = 0;
	place->freeing = false;
	/* A table with slots that wait for a flush cannot be freed: flush at once */
	place->deferred = group->deferred && !exceeded;
	place->nomem = false;
	mutex_lock(&iface->lock);
	exmap_cursor_begin(&place->at, exmap, vma);
	place->at.vb.free_tables = exceeded;
	if (exmap_nodes_many())
		exmap_place_turn(place);
	exmap_place_load(place);
}

/**
 * exmap_place_begin() - Begin to place pages.
 * @place: the call, uninitialised memory
 * @exmap: the exmap, of the current process and set up
 * @iface: the interface whose pages are used
 * @many: other regions of the pool can be selected, too
 *
 * Context: Process context, may sleep. No locks are held. Until exmap_place_end(),
 * the region, or all regions of the pool, and the interface are locked and, between two
 * of the functions below, possibly a page table: the caller must not sleep or touch user
 * memory.
 *
 * Return: 0, -ENXIO if there is no region, -EINTR if a fatal signal arrived.
 */
int exmap_place_begin(struct exmap_place *place, struct exmap *exmap,
		      struct exmap_interface *iface, bool many)
{
	const int err = exmap_cursor_lock(&place->at, exmap, many);

	if (unlikely(err))
		return err;
	exmap_place_begin_locked(place, exmap, iface, place->at.vma);
	return 0;
}

static __always_inline void exmap_place_end_locked(struct exmap_place *place)
{
	struct exmap_group *group = place->at.pool->group;
	u64 generation = 0;

	exmap_place_settle(place);
	exmap_cursor_count(&place->at);
	if (place->deferred && place->freed &&
	    atomic_long_add_return(place->freed, &group->unflushed) >=
	    exmap_quarantine_limit(group))
		generation = READ_ONCE(group->generation);
	mutex_unlock(&place->iface->lock);
	/* The thread that frees does the flush, so that one that misses a page need not */
	if (generation)
		exmap_region_flush(group, generation);
}

/**
 * exmap_place_end() - End what exmap_place_begin() began.
 * @place: the call
 *
 * Unless flushes are deferred, no CPU can reach the unmapped pages on return.
 *
 * Context: Process context, may sleep.
 */
void exmap_place_end(struct exmap_place *place)
{
	exmap_place_end_locked(place);
	exmap_cursor_unlock(&place->at);
}

/**
 * exmap_place_change_region() - Select another region.
 * @place: the call, begun for many
 * @exmap: the exmap, of the same group
 *
 * Where the slots of that region have another size, what was unmapped so far is flushed, and
 * the call goes on with the interface of the other pool that has the same number.
 *
 * Context: As exmap_place_select().
 * Return: as exmap_place_select().
 */
int exmap_place_change_region(struct exmap_place *place, struct exmap *exmap)
{
	struct exmap_pool *pool = place->at.pool;
	int err;

	if (likely(exmap->pool == pool))
		return exmap_cursor_move(&place->at, exmap);
	exmap_place_settle(place);
	mutex_unlock(&place->iface->lock);
	err = exmap_cursor_move(&place->at, exmap);
	place->iface = &place->at.pool->interfaces[place->iface - pool->interfaces];
	mutex_lock(&place->iface->lock);
	place->freeing = false;
	place->nomem = false;
	if (exmap_nodes_many())
		exmap_place_turn(place);
	exmap_place_load(place);
	return err;
}

/*
 * Tests whether a slot of more than one page has some of them, but not the one that was
 * touched. ALLOC leaves such a slot alone.
 */
static bool exmap_place_has_hole(struct exmap_place *place, unsigned long slot,
				 unsigned long addr)
{
	struct vma_batch *vb = &place->at.vb;
	u8 whole, page;

	vma_batch_query(vb, exmap_slot_addr(place->at.exmap, slot), 1, &whole, false);
	vb->order = 0;
	vma_batch_query(vb, addr & PAGE_MASK, 1, &page, false);
	vb->order = place->at.exmap->order;
	return whole && !page;
}

/**
 * exmap_place_fault() - Map a page in a slot that was touched.
 * @exmap: the exmap, of the current process and set up
 * @vma: the region, locked
 * @addr: the address that was touched
 *
 * A touch does not tell the interface, so the number of the CPU selects one.
 *
 * Context: Process context, may sleep. No lock of an interface is held.
 * Return: 0 if there may be a page now; -EBUSY if one is being read for the slot; -EFAULT if
 * the slot has lost only a part of its memory; the error of exmap_place_resume().
 */
int exmap_place_fault(struct exmap *exmap, struct vm_area_struct *vma, unsigned long addr)
{
	const unsigned long slot = (addr - exmap->start) >> exmap_slot_shift(exmap);
	const unsigned int n = raw_smp_processor_id() % exmap->pool->nr_interfaces;
	unsigned long done, changed;
	struct exmap_place place;
	int err;

	/* A page that is being read for the slot would be dropped */
	if (exmap_flight_is_reading(exmap->flights, exmap_slot_page(exmap, slot)))
		return -EBUSY;
	exmap_place_begin_locked(&place, exmap, &exmap->pool->interfaces[n], vma);
	err = exmap_place_alloc(&place, slot, 1, &done, &changed);
	if (!err && !changed && exmap->order && exmap_place_has_hole(&place, slot, addr))
		err = -EFAULT;
	exmap_place_end_locked(&place);
	return err;
}

/**
 * exmap_place_set_freeing() - Prepare to unmap pages, or to map them.
 * @place: the call, which begins with mapping
 * @freeing: whether pages are going to be unmapped
 *
 * Context: Process context, may sleep.
 */
void exmap_place_set_freeing(struct exmap_place *place, bool freeing)
{
	struct exmap_pool *pool = place->at.pool;
	struct exmap_interface *iface = place->iface;

	exmap_place_store(place);
	if (freeing && !place->into) {
		/* The cursor may hold a lock, under which nothing is allocated */
		vma_batch_end(&place->at.vb);
		if (place->deferred) {
			place->into = exmap_quarantine_collect(pool, iface);
		} else {
			/* FREE must not wait for memory: without any, @few is enough */
			place->into = iface->spare ?: exmap_bundle_alloc(GFP_NOWAIT);
			iface->spare = NULL;
		}
		if (place->into)
			place->at.vb.generation = place->into->generation;
	}
	/* There may be pages again afterwards */
	if (freeing)
		place->nomem = false;
	place->freeing = freeing;
	exmap_place_load(place);
}

/* Have everything flushed that waits for it. Drops the lock of the interface. */
static int exmap_place_flush(struct exmap_place *place, u64 generation)
{
	if (fatal_signal_pending(current))
		return -EINTR;
	mutex_unlock(&place->iface->lock);
	exmap_region_flush(place->at.pool->group, generation);
	mutex_lock(&place->iface->lock);
	return 0;
}

/*
 * Give free pages back to the system, so that there is room for a page table: those of
 * the interface, which the shrinker cannot have because its lock is held, or pages that
 * MADV_DONTNEED has dropped, which the shrinker does not know. Returns 0 if there were
 * some.
 */
static int exmap_place_make_room(struct exmap_place *place)
{
	struct exmap_pool *pool = place->at.pool;
	struct exmap_interface *iface = place->iface;
	struct page *pages[EXMAP_STEAL_PAGES];
	unsigned int nr = exmap_bundle_nr(iface->local);

	/* One is going to be mapped */
	nr = exmap_bundle_take(iface->local, pages, min(nr - !!nr, ARRAY_SIZE(pages)));
	if (!nr)
		nr = exmap_bundle_take(iface->backup, pages, ARRAY_SIZE(pages));
	if (nr)
		exmap_pool_release(pool, pages, nr);
	else
		nr = exmap_pool_release_unseen(pool);
	return nr ? 0 : -ENOMEM;
}

/**
 * exmap_place_resume() - Remove what has stopped vma_batch_map().
 * @place: the call, set for mapping pages; its cursor says what it was
 * @want: number of further pages that the caller could use, at least 1
 *
 * Context: Process context, may sleep; drops the lock of the interface at times.
 *
 * Return: 0 if it makes sense to go on; -ENOMEM if there are no more pages, or if
 * there was no memory for a page table; -EBUSY if the page of the slot is being moved to
 * another node; -EINTR if a fatal signal is pending.
 */
int exmap_place_resume(struct exmap_place *place, unsigned long want)
{
	struct exmap_pool *pool = place->at.pool;
	const bool freed = exmap_bundle_nr(place->into) || place->nr_few;
	/* Read before looking for pages in quarantine, so that it covers them */
	const u64 generation = READ_ONCE(pool->group->generation);
	int err = 0;

	exmap_place_settle(place);
	switch (place->at.vb.stop) {
	case VMA_BATCH_NOMEM:
		err = exmap_place_make_room(place);
		break;
	case VMA_BATCH_POISONED:
		exmap_pool_drop_poisoned(pool, place->iface);
		break;
	case VMA_BATCH_UNFLUSHED:
		err = exmap_place_flush(place, generation);
		break;
	case VMA_BATCH_TAKEN:
		err = -EBUSY;
		break;
	case VMA_BATCH_EMPTY:
		/* What this call has unmapped may be enough */
		if (freed && exmap_bundle_nr(place->iface->local))
			break;
		/* If the pool had no page, do not search again for each vector */
		err = place->nomem ? -ENOMEM : exmap_pool_refill(pool, place->iface, want);
		if (err == -EAGAIN)
			err = exmap_place_flush(place, generation);
		place->nomem |= err == -ENOMEM;
		break;
	default:
		/* vma_batch_map() does not stop for another reason */
		break;
	}
	exmap_place_load(place);
	return err;
}

/*
 * Give a slot the page back that it has lost, if that is still in quarantine at this
 * interface. This saves a flush.
 */
static bool exmap_place_rescue(struct exmap_place *place, unsigned long addr)
{
	struct exmap_bundle *bundle;
	struct page **page;

	if (place->at.vb.stop != VMA_BATCH_UNFLUSHED)
		return false;
	page = exmap_quarantine_find(place->at.pool, place->iface,
				     addr >> PAGE_SHIFT, &bundle);
	if (!page || !vma_batch_map_back(&place->at.vb, addr, *page))
		return false;
	*page = bundle->pages[--bundle->nr];
	return true;
}

/**
 * exmap_place_map_more() - Go on mapping pages where vma_batch_map() has stopped.
 * @place: the call, set for mapping pages
 * @slot: first slot of the range
 * @nr: number of slots, all inside the region
 * @done: number of slots of the range that are done; counted up
 * @changed: number of slots that got a page; counted up
 *
 * Context: Process context, may sleep; drops the lock of the interface at times.
 * Return: 0 if all slots have a page, or the error of exmap_place_resume().
 */
int exmap_place_map_more(struct exmap_place *place, unsigned long slot,
			 unsigned long nr, unsigned long *done,
			 unsigned long *changed)
{
	const unsigned long start = exmap_slot_addr(place->at.exmap, slot);
	const unsigned int shift = exmap_slot_shift(place->at.exmap);

	do {
		unsigned long some;
		unsigned int before;
		int err;

		if (exmap_place_rescue(place, start + (*done << shift))) {
			trace_exmap_alloc(place->at.pool, start + (*done << shift), 1, 1);
			++*done;
			++*changed;
		} else {
			err = exmap_place_resume(place, nr - *done);
			if (err)
				return err;
		}
		before = place->at.vb.nr;
		some = vma_batch_map(&place->at.vb, start + (*done << shift), nr - *done);
		trace_exmap_alloc(place->at.pool, start + (*done << shift), some,
				  before - place->at.vb.nr);
		*done += some;
		*changed += before - place->at.vb.nr;
	} while (*done < nr);
	return 0;
}

/**
 * exmap_place_unmap() - Take the pages out of a range, whether in flight or not.
 * @place: the call, set for unmapping pages
 * @slot: first slot of the range
 * @nr: number of slots, all inside the region
 * @changed: counts the slots that had a page
 *
 * Context: Process context, may sleep.
 */
void exmap_place_unmap(struct exmap_place *place, unsigned long slot,
		       unsigned long nr, unsigned long *changed)
{
	while (nr) {
		const unsigned int before = place->at.vb.nr;
		unsigned long done;

		done = vma_batch_unmap(&place->at.vb, exmap_slot_addr(place->at.exmap, slot), nr);
		trace_exmap_free(place->at.pool, exmap_slot_addr(place->at.exmap, slot), done,
				 place->at.vb.nr - before);
		*changed += place->at.vb.nr - before;
		if (place->at.vb.deferred)
			place->freed += (unsigned long)(place->at.vb.nr - before) <<
					place->at.vb.order;
		slot += done;
		nr -= done;
		if (likely(!nr))
			break;
		/* The array is full: end the batch, and begin with another one */
		exmap_place_settle(place);
		place->freeing = false;
		exmap_place_load(place);
		exmap_place_set_freeing(place, true);
	}
}

/**
 * exmap_place_free() - Take the pages out of a range, except where a READ is.
 * @place: the call, set for unmapping pages
 * @slot: first slot of the range
 * @nr: number of slots, all inside the region
 * @changed: set to the number of slots that had a page
 *
 * Context: Process context, may sleep.
 * Return: 0, or -EBUSY if slots were left alone because a READ is in flight.
 */
int exmap_place_free(struct exmap_place *place, unsigned long slot,
		     unsigned long nr, unsigned long *changed)
{
	struct exmap_flights *flights = place->at.exmap->flights;
	const unsigned long end = slot + nr;
	unsigned long first = slot;
	int ret = 0;

	*changed = 0;
	for (; flights && slot != end; slot++) {
		if (likely(!exmap_flight_is_reading(flights,
						    exmap_slot_page(place->at.exmap, slot))))
			continue;
		exmap_place_unmap(place, first, slot - first, changed);
		first = slot + 1;
		ret = -EBUSY;
	}
	exmap_place_unmap(place, first, end - first, changed);
	return ret;
}

/**
 * exmap_place_trace() - Report what exmap_place_each() has mapped or unmapped.
 * @place: the call
 * @addrs: the addresses that are done, as exmap_place_each() leaves them
 * @nr: their number
 *
 * Context: Any.
 */
void exmap_place_trace(const struct exmap_place *place, const unsigned long *addrs,
		       unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++) {
		if (addrs[i] == VMA_BATCH_NOWHERE)
			continue;
		if (place->freeing)
			trace_exmap_free(place->at.pool, addrs[i], 1, 1);
		else
			trace_exmap_alloc(place->at.pool, addrs[i], 1, 1);
	}
}

/**
 * exmap_place_page() - Take a free page that is going to be filled.
 * @place: the call, set for mapping pages
 * @page: set to the page, with its mapping reference. Its content is that of an
 *	earlier use, or zeroes.
 * @want: number of pages that the caller is going to take, at least 1; a hint
 *
 * Context: Process context, may sleep; drops the lock of the interface at times.
 * Return: 0, or the error of exmap_place_resume().
 */
int exmap_place_page(struct exmap_place *place, struct page **page, unsigned long want)
{
	struct vma_batch *vb = &place->at.vb;
	int err;

	while (unlikely(!vb->nr ||
			exmap_page_is_poisoned(place->at.pool, vb->pages[vb->nr - 1]))) {
		vb->stop = vb->nr ? VMA_BATCH_POISONED : VMA_BATCH_EMPTY;
		err = exmap_place_resume(place, want);
		if (err)
			return err;
	}
	*page = vb->pages[--vb->nr];
	return 0;
}
