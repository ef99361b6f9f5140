// SPDX-License-Identifier: GPL-2.0-only
/*
 * Calls: pages into the region and out of it, many vectors at a time
 *
 * A call has the region and one interface locked from begin to end, and puts
 * pages of that interface's bundles into the region, or collects in a bundle
 * what it takes out. What it took out it may use again itself, once flushed.
 */
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/smp.h>

#include "exmap.h"

/* Give the cursor the stack that goes with what the call is about to do */
static void exmap_call_load(struct exmap_call *call)
{
	struct exmap_bundle *bundle = call->freeing ? call->into : call->iface->local;

	call->vb.pages = bundle ? bundle->pages : NULL;
	/* Where there is no bundle, there are no pages, and is no room for any */
	call->vb.nr = bundle ? bundle->nr : call->freeing ? EXMAP_BUNDLE_PAGES : 0;
}

/* Tell the bundle what has become of its pages */
static void exmap_call_store(struct exmap_call *call)
{
	struct exmap_bundle *bundle = call->freeing ? call->into : call->iface->local;

	if (bundle)
		bundle->nr = call->vb.nr;
}

/*
 * End the batch, and let the pool have what was freed so far. The stack is to be
 * loaded again afterwards.
 */
static void exmap_call_settle(struct exmap_call *call)
{
	vma_batch_end(&call->vb);
	exmap_call_store(call);
	if (call->into) {
		exmap_pool_recycle(&call->exmap->pool, call->iface);
		call->into = NULL;
	}
}

static __always_inline void exmap_call_begin_locked(struct exmap_call *call,
						    struct exmap *exmap,
						    struct exmap_interface *iface,
						    struct vm_area_struct *vma)
{
	call->exmap = exmap;
	call->iface = iface;
	call->vma = vma;
	call->into = NULL;
	call->fresh = NULL;
	call->freed = 0;
	call->freeing = false;
	call->nomem = false;
	mutex_lock(&iface->lock);
	vma_batch_begin(&call->vb, vma, NULL, 0, EXMAP_BUNDLE_PAGES);
	call->vb.deferred = exmap->pool.deferred;
	call->vb.flushed = exmap_pool_flushed(&exmap->pool);
	exmap_call_load(call);
}

/**
 * exmap_call_begin() - Begin to change what is mapped.
 * @call: the call, uninitialised memory
 * @exmap: the exmap, of the current process and set up
 * @iface: the interface whose pages are used
 *
 * Context: Process context, may sleep. No locks are held; until
 * exmap_call_end(), the region and the interface are locked and, between two of
 * the functions below, possibly a page table: no sleeping, no touching of user
 * memory.
 *
 * Return: 0, -ENXIO if there is no region, -EINTR if a fatal signal came.
 */
int exmap_call_begin(struct exmap_call *call, struct exmap *exmap,
		     struct exmap_interface *iface)
{
	struct vm_area_struct *vma = exmap_region_lock(exmap, &call->mmap_locked);

	if (IS_ERR(vma))
		return PTR_ERR(vma);
	exmap_call_begin_locked(call, exmap, iface, vma);
	return 0;
}

static __always_inline void exmap_call_end_locked(struct exmap_call *call)
{
	struct exmap_pool *pool = &call->exmap->pool;
	u64 epoch = 0;

	exmap_call_settle(call);
	if (unlikely(call->fresh)) {
		clear_highpage(call->fresh);
		exmap_pool_add(pool, call->iface, &call->fresh, 1);
	}
	if (pool->deferred && call->freed &&
	    atomic_long_add_return(call->freed, &pool->unflushed) >=
	    exmap_pool_quarantine(pool))
		epoch = READ_ONCE(pool->epoch);
	mutex_unlock(&call->iface->lock);
	/* The one who frees pays, so that who misses a page need not wait */
	if (epoch)
		exmap_region_flush(call->exmap, call->vma, epoch);
}

/**
 * exmap_call_end() - End what exmap_call_begin() began.
 * @call: the call
 *
 * Unless flushes are deferred, no CPU can reach the pages that were freed when
 * this returns.
 *
 * Context: Process context, may sleep.
 */
void exmap_call_end(struct exmap_call *call)
{
	exmap_call_end_locked(call);
	exmap_region_unlock(call->exmap, call->vma, call->mmap_locked);
}

/**
 * exmap_call_fault() - Put a page into a slot that was touched.
 * @exmap: the exmap, of the current process and set up
 * @vma: the region, locked
 * @slot: the slot
 *
 * The page is one of the interface that belongs to the CPU, for want of a better.
 *
 * Context: Process context, may sleep. No lock of an interface is held.
 * Return: 0 if the slot has a page, or the error of exmap_call_resume().
 */
int exmap_call_fault(struct exmap *exmap, struct vm_area_struct *vma,
		     unsigned long slot)
{
	const unsigned int n = raw_smp_processor_id() % exmap->pool.nr_interfaces;
	unsigned long done, changed;
	struct exmap_call call;
	int err;

	exmap_call_begin_locked(&call, exmap, &exmap->pool.interfaces[n], vma);
	err = exmap_call_alloc(&call, slot, 1, &done, &changed);
	exmap_call_end_locked(&call);
	return err;
}

/**
 * exmap_call_set_freeing() - Prepare to take pages out, or to put some in.
 * @call: the call, which is set for the opposite; it begins with putting in
 * @freeing: what is to come
 *
 * If there is no memory for a bundle to collect pages in, exmap_call_free() tries
 * once more as soon as there is a page to collect.
 *
 * Context: Process context, may sleep.
 */
void exmap_call_set_freeing(struct exmap_call *call, bool freeing)
{
	struct exmap_pool *pool = &call->exmap->pool;

	exmap_call_store(call);
	if (freeing && !call->into) {
		/* May sleep, and the cursor may hold a lock */
		vma_batch_end(&call->vb);
		call->into = exmap_pool_collect(pool, call->iface);
		if (call->into)
			call->vb.stamp = call->into->epoch;
	}
	/* It is worth asking for pages again */
	if (freeing)
		call->nomem = false;
	call->freeing = freeing;
	exmap_call_load(call);
}

/* Have all flushed that waits for it. Drops the interface's lock. */
static int exmap_call_flush(struct exmap_call *call, u64 epoch)
{
	if (fatal_signal_pending(current))
		return -EINTR;
	mutex_unlock(&call->iface->lock);
	exmap_region_flush(call->exmap, call->vma, epoch);
	mutex_lock(&call->iface->lock);
	return 0;
}

/**
 * exmap_call_resume() - Remove what has stopped vma_batch_map().
 * @call: the call, set for putting pages in; its cursor says what it was
 * @want: how many more pages the caller could use, at least 1
 *
 * Context: Process context, may sleep; drops the interface's lock at times.
 *
 * Return: 0 if it makes sense to go on; -ENOMEM if there are no more pages, or
 * there was no memory for a page table; -EINTR if a fatal signal is pending.
 */
int exmap_call_resume(struct exmap_call *call, unsigned long want)
{
	struct exmap_pool *pool = &call->exmap->pool;
	const bool freed = call->into && call->into->nr;
	/* Before the look at what waits for a flush: so that it is not younger */
	const u64 epoch = READ_ONCE(pool->epoch);
	int err = 0;

	exmap_call_settle(call);
	switch (call->vb.stop) {
	case VMA_BATCH_NOMEM:
		err = -ENOMEM;
		break;
	case VMA_BATCH_POISONED:
		exmap_pool_drop_poisoned(pool, call->iface);
		break;
	case VMA_BATCH_UNFLUSHED:
		err = exmap_call_flush(call, epoch);
		break;
	case VMA_BATCH_EMPTY:
		/* What this very call has freed may be all it takes */
		if (freed && call->iface->local && call->iface->local->nr)
			break;
		/* Having had none, do not search for every vector again */
		err = call->nomem ? -ENOMEM : exmap_pool_refill(pool, call->iface, want);
		if (err == -EAGAIN)
			err = exmap_call_flush(call, epoch);
		call->nomem |= err == -ENOMEM;
		break;
	default:
		/* Nothing else stops vma_batch_map() */
		break;
	}
	exmap_call_load(call);
	return err;
}

/* Spare a flush: the page that a slot has lost may still be in our own hands */
static bool exmap_call_rescue(struct exmap_call *call, unsigned long addr)
{
	struct exmap_bundle *bundle;
	struct page **page;

	if (call->vb.stop != VMA_BATCH_UNFLUSHED)
		return false;
	page = exmap_pool_find_waiting(&call->exmap->pool, call->iface,
				       (addr - call->exmap->start) >> PAGE_SHIFT, &bundle);
	if (!page || !vma_batch_map_back(&call->vb, addr, *page))
		return false;
	*page = bundle->pages[--bundle->nr];
	return true;
}

/**
 * exmap_call_alloc_more() - Put pages into a range for which some are missing.
 * @call: the call, set for putting pages in
 * @slot: first slot of the range
 * @nr: number of slots, all inside the region
 * @done: slots of the range that vma_batch_map() has done before it stopped;
 *	counted up
 * @changed: counts the slots that got a page
 *
 * Context: Process context, may sleep; drops the interface's lock at times.
 * Return: 0 if all slots have a page, or the error of exmap_call_resume().
 */
int exmap_call_alloc_more(struct exmap_call *call, unsigned long slot,
			  unsigned long nr, unsigned long *done,
			  unsigned long *changed)
{
	const unsigned long start = call->exmap->start + (slot << PAGE_SHIFT);

	do {
		unsigned int before;
		int err;

		if (exmap_call_rescue(call, start + (*done << PAGE_SHIFT))) {
			++*done;
			++*changed;
		} else {
			err = exmap_call_resume(call, nr - *done);
			if (err)
				return err;
		}
		before = call->vb.nr;
		*done += vma_batch_map(&call->vb, start + (*done << PAGE_SHIFT),
				       nr - *done);
		*changed += before - call->vb.nr;
	} while (*done < nr);
	return 0;
}

/**
 * exmap_call_free_more() - Go on taking pages out, where it has stopped.
 * @call: the call, set for taking pages out
 * @slot: first slot of the range
 * @nr: number of slots, all inside the region
 * @changed: counts the slots that had a page
 *
 * Context: Process context, may sleep.
 * Return: 0 if all slots are empty now; -EBUSY if all are but those that a READ
 * is about to fill; or -ENOMEM.
 */
int exmap_call_free_more(struct exmap_call *call, unsigned long slot,
			 unsigned long nr, unsigned long *changed)
{
	unsigned long addr = call->exmap->start + (slot << PAGE_SHIFT);
	int ret = 0;

	for (;;) {
		unsigned int before;
		unsigned long done;

		if (call->vb.stop == VMA_BATCH_BUSY) {
			ret = -EBUSY;
			addr += PAGE_SIZE;
			if (!--nr)
				return ret;
		} else {
			exmap_call_settle(call);
			exmap_call_set_freeing(call, true);
			if (!call->into)
				return -ENOMEM;
		}
		before = call->vb.nr;
		done = vma_batch_unmap(&call->vb, addr, nr);
		*changed += call->vb.nr - before;
		call->freed += call->vb.nr - before;
		addr += done << PAGE_SHIFT;
		nr -= done;
		if (!nr)
			return ret;
	}
}

/**
 * exmap_call_reserve_more() - Take a free page for a slot, if there are none at hand.
 * @call: the call, set for putting pages in
 * @slot: the slot, inside the region
 * @page: as exmap_call_reserve()
 *
 * Context: Process context, may sleep; drops the interface's lock at times.
 * Return: 0, or the error of exmap_call_resume().
 */
int exmap_call_reserve_more(struct exmap_call *call, unsigned long slot,
			    struct page **page)
{
	const unsigned long addr = call->exmap->start + (slot << PAGE_SHIFT);
	struct vma_batch *vb = &call->vb;

	*page = NULL;
	for (;;) {
		const bool fresh = !vb->nr && call->fresh;
		unsigned int before;
		bool done;
		int err;

		if (fresh) {
			/* The bundle is empty, but may not know it yet */
			exmap_call_store(call);
			vb->pages = &call->fresh;
			vb->nr = 1;
		}
		before = vb->nr;
		done = vma_batch_reserve(vb, addr);
		if (vb->nr < before)
			*page = vb->pages[vb->nr];
		if (fresh) {
			if (*page)
				call->fresh = NULL;
			exmap_call_load(call);
		}
		if (done)
			return 0;

		if (vb->stop == VMA_BATCH_EMPTY) {
			/* Better than to zero a page that is filled anyway */
			exmap_call_settle(call);
			call->fresh = exmap_pool_new(&call->exmap->pool, call->iface);
			exmap_call_load(call);
			if (call->fresh || vb->nr)
				continue;
		}
		err = exmap_call_resume(call, 1);
		if (err)
			return err;
	}
}

/**
 * exmap_call_hold() - Hold the page of a slot.
 * @call: the call
 * @slot: the slot, inside the region
 * @dirty: only if it is dirty, and make it clean (vma_batch_clean())
 * @page: set to the page, with one reference, or NULL
 *
 * Context: Process context, may sleep.
 * Return: whether the slot has a page.
 */
bool exmap_call_hold(struct exmap_call *call, unsigned long slot, bool dirty,
		     struct page **page)
{
	const unsigned long addr = call->exmap->start + (slot << PAGE_SHIFT);
	struct vma_batch *vb = &call->vb;
	bool ret;

	*page = NULL;
	exmap_call_store(call);
	vb->pages = page;
	vb->nr = 0;
	vb->max = 1;
	ret = dirty ? vma_batch_clean(vb, addr) : vma_batch_get(vb, addr, 1);
	vb->max = EXMAP_BUNDLE_PAGES;
	exmap_call_load(call);
	return ret;
}
