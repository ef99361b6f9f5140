// SPDX-License-Identifier: GPL-2.0-only
/*
 * MOVE: pages that go to another NUMA node, while their slots keep address and content
 *
 * The pages are taken out of their slots, which stay reserved, with one TLB flush for all of
 * them. Then nobody can write to them, they are copied, and the copies are mapped. What the
 * pool owns does not grow: a page that is copied to a free page of the pool becomes free
 * itself; where the pool has none on the node, the system is asked for one and gets the old
 * page in exchange.
 */
#include <linux/gfp.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/vma_batch.h>

#include "interface.h"
#include "move.h"
#include "place.h"
#include "pool.h"
#include "reclaim.h"

/* Find the slots that have a page on another node. The others are done. */
static void exmap_move_select(struct exmap_place *place, struct exmap_moving *moves,
			      unsigned int nr, int nid)
{
	struct vma_batch *vb = &place->at.vb;

	for (unsigned int i = 0; i < nr; i++) {
		struct exmap_moving *m = &moves[i];

		if (!m->pending)
			continue;
		m->err = 0;
		m->fresh = false;
		m->to = NULL;
		m->pending = vma_batch_hold(vb, m->addr, false, &m->from);
		if (!m->pending)
			continue;
		/* It is mapped as long as the page table is locked */
		put_page(m->from);
		m->pending = page_to_nid(m->from) != nid;
	}
	vma_batch_end(vb);
}

/* Takes a page that is on the node out of the local bundle. Returns NULL if there is none. */
static struct page *exmap_move_local_page(struct exmap_interface *iface, int nid)
{
	struct page *page;

	if (iface->nid != nid)
		return NULL;
	if (!exmap_bundle_nr(iface->local) && exmap_bundle_nr(iface->backup))
		swap(iface->local, iface->backup);
	if (!exmap_bundle_take(iface->local, &page, 1))
		return NULL;
	if (likely(page_to_nid(page) == nid))
		return page;
	iface->local->pages[iface->local->nr++] = page;
	return NULL;
}

/* Returns a free page of the pool that is on the node, or NULL */
static struct page *exmap_move_free_page(struct exmap_place *place, int nid)
{
	struct exmap_pool *pool = place->at.pool;

	for (;;) {
		struct page *page = exmap_move_local_page(place->iface, nid);

		if (!page && exmap_pool_take(pool, nid, &page, 1))
			exmap_pool_arrive(pool);
		if (!page || likely(!exmap_page_is_poisoned(pool, page)))
			return page;
		exmap_pool_release(pool, &page, 1);
	}
}

/* Get pages to which the others are copied */
static void exmap_move_get(struct exmap_place *place, struct exmap_moving *moves,
			   unsigned int nr, int nid)
{
	struct exmap_pool *pool = place->at.pool;
	bool nomem = false;

	for (unsigned int i = 0; i < nr; i++) {
		struct exmap_moving *m = &moves[i];

		if (!m->pending)
			continue;
		m->to = exmap_move_free_page(place, nid);
		if (!m->to && !nomem) {
			m->to = exmap_pool_new_page(pool, EXMAP_GFP | __GFP_THISNODE, nid);
			m->fresh = m->to;
			/* Do not have each page look for memory that is not there */
			nomem = !m->to;
		}
		if (!m->to)
			m->err = -ENOMEM;
	}
}

/* Copy a page that was taken. Returns 0, or why it must stay. */
static int exmap_move_copy(struct exmap_pool *pool, struct exmap_moving *m)
{
	struct folio *from = page_folio(m->from), *to = page_folio(m->to);

	if (exmap_page_is_poisoned(pool, m->from))
		return -EHWPOISON;
	/* It is held elsewhere, where somebody may be writing to it */
	if (!exmap_page_is_free(pool, m->from))
		return -EBUSY;
	for (unsigned int i = 0; i < 1U << pool->order; i++)
		if (copy_mc_highpage(m->to + i, m->from + i))
			return -EHWPOISON;
	if (folio_test_dirty(from))
		folio_set_dirty(to);
	else
		folio_clear_dirty(to);
	return 0;
}

/* Give the pool the pages that are not in slots, and count what it owns now */
static void exmap_move_settle(struct exmap_place *place, struct exmap_moving *m)
{
	struct exmap_pool *pool = place->at.pool;

	if (!m->fresh) {
		exmap_pool_add(pool, place->iface, m->moved ? &m->from : &m->to, 1);
	} else if (m->moved) {
		exmap_pool_exchange(pool, m->from, m->to);
		exmap_reclaim_update(pool, m->to);
	} else {
		exmap_pool_discard(pool, m->to);
	}
}

/*
 * Move what is pending, as far as there is memory for it. Returns true if that has made
 * room for more.
 */
static bool exmap_move_some(struct exmap_place *place, struct exmap_moving *moves,
			    unsigned int nr, int nid)
{
	struct vma_batch *vb = &place->at.vb;
	struct exmap_pool *pool = place->at.pool;
	unsigned int taken = 0, moved = 0, left = 0;

	exmap_move_select(place, moves, nr, nid);
	exmap_move_get(place, moves, nr, nid);

	for (unsigned int i = 0; i < nr; i++) {
		struct exmap_moving *m = &moves[i];

		if (!m->pending || !m->to)
			continue;
		m->from = vma_batch_take(vb, m->addr);
		taken += !!m->from;
	}
	vma_batch_end(vb);
	if (taken)
		vma_batch_flush(pool->group->mm);

	for (unsigned int i = 0; i < nr; i++) {
		struct exmap_moving *m = &moves[i];

		if (!m->pending || !m->to)
			continue;
		if (m->from)
			m->err = exmap_move_copy(pool, m);
		m->moved = m->from && !m->err;
		moved += m->moved;
		cond_resched();
	}
	vb->clean = true;
	for (unsigned int i = 0; i < nr; i++) {
		struct exmap_moving *m = &moves[i];

		/* Nothing else can have changed a slot that is reserved in a locked region */
		if (m->pending && m->to && m->from)
			WARN_ON_ONCE(!vma_batch_put(vb, m->addr, m->moved ? m->to : m->from));
	}
	vma_batch_end(vb);
	vb->clean = false;

	for (unsigned int i = 0; i < nr; i++) {
		struct exmap_moving *m = &moves[i];

		if (m->pending && m->to) {
			exmap_move_settle(place, m);
			m->pending = false;
		}
		left += m->pending;
	}
	trace_exmap_move(pool, nid, taken, moved);
	return moved && left;
}

/**
 * exmap_move() - Move the pages of slots to another node.
 * @place: the call, not set for unmapping pages
 * @moves: the slots, by @addr and @vec; all of the region that is selected
 * @nr: their number, at most exmap_move_max()
 * @nid: the node
 *
 * Slots stay as they are if they have no page, or one that is on the node, or have lost a
 * part to MADV_DONTNEED. Until the page is there again, the slot looks as if it had none, but
 * vma_batch_map() cannot map another one. The reasons for which a page is not moved are
 * -ENOMEM if there is no memory on the node, or in the memory cgroup, -EBUSY if the page is
 * held elsewhere, for example by direct I/O, and -EHWPOISON if the memory of the page fails.
 *
 * Context: Process context, may sleep.
 */
void exmap_move(struct exmap_place *place, struct exmap_moving *moves, unsigned int nr,
		int nid)
{
	for (unsigned int i = 0; i < nr; i++) {
		moves[i].pending = true;
		moves[i].moved = false;
	}
	exmap_place_store(place);
	/* Until they are settled, a search for free pages must not take these for used ones */
	exmap_pool_depart(place->at.pool);
	/* In a memory cgroup at its limit, each page that was moved makes room for another */
	while (exmap_move_some(place, moves, nr, nid) && !fatal_signal_pending(current))
		;
	exmap_pool_arrive(place->at.pool);
	exmap_place_load(place);
}
