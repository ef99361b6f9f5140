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
#include <linux/sched.h>
#include <linux/vma_batch.h>

#include "interface.h"
#include "move.h"
#include "place.h"
#include "pool.h"

/* Find the slots that have a page on another node, and drop the others */
static void exmap_move_select(struct exmap_place *place, struct exmap_moving *moves,
			      unsigned int nr, int nid)
{
	struct vma_batch *vb = &place->at.vb;

	for (unsigned int i = 0; i < nr; i++) {
		struct exmap_moving *m = &moves[i];

		m->err = 0;
		m->fresh = false;
		m->from = NULL;
		m->to = NULL;
		if (!vma_batch_hold(vb, m->addr, false, &m->from))
			continue;
		/* It is mapped as long as the page table is locked */
		put_page(m->from);
		if (page_to_nid(m->from) == nid)
			m->from = NULL;
	}
	vma_batch_end(vb);
}

/* Returns a free page of the pool that is on the node, or NULL */
static struct page *exmap_move_free_page(struct exmap_place *place, int nid)
{
	struct exmap_interface *iface = place->iface;
	struct exmap_pool *pool = place->at.pool;
	struct page *page;

	for (;;) {
		if (iface->nid == nid && exmap_bundle_take(iface->local, &page, 1)) {
			;
		} else if (exmap_pool_take(pool, nid, &page, 1)) {
			/* A search that misses it will find the page that it replaces */
			exmap_pool_arrive(pool);
		} else {
			return NULL;
		}
		if (likely(!exmap_page_is_poisoned(pool, page)))
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

		if (!m->from)
			continue;
		m->to = exmap_move_free_page(place, nid);
		if (!m->to && !nomem) {
			m->to = exmap_pool_new_page(pool, EXMAP_GFP | __GFP_THISNODE, nid);
			m->fresh = m->to;
			/* The node is full: do not have each page look for memory there */
			nomem = !m->to;
		}
		if (!m->to) {
			m->err = -ENOMEM;
			m->from = NULL;
		}
	}
}

/* Copy a page that was taken. Returns 0, or why it must stay. */
static int exmap_move_copy(struct exmap_pool *pool, struct exmap_moving *m)
{
	struct folio *from = page_folio(m->from), *to = page_folio(m->to);

	if (exmap_page_is_poisoned(pool, m->from))
		return -EHWPOISON;
	/* Somebody else holds it, and may be writing to it */
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

/* Give the pool the page that is not in the slot, and count what it owns now */
static void exmap_move_settle(struct exmap_place *place, struct exmap_moving *m, bool put)
{
	struct exmap_pool *pool = place->at.pool;

	if (m->err && m->fresh)
		exmap_pool_discard(pool, m->to);
	else if (m->err)
		exmap_pool_add(pool, place->iface, &m->to, 1);
	else if (m->fresh)
		exmap_pool_exchange(pool, m->from, m->to);
	else
		exmap_pool_add(pool, place->iface, &m->from, 1);
	/* MADV_DONTNEED for the slot has met the move */
	if (unlikely(!put))
		exmap_pool_add(pool, place->iface, m->err ? &m->from : &m->to, 1);
}

/**
 * exmap_move() - Move the pages of slots to another node.
 * @place: the call, not set for unmapping pages
 * @moves: the slots, by @addr and @vec; all of the region that is selected
 * @nr: their number, at most EXMAP_MOVE_PAGES, or less where slots are large
 * @nid: the node
 *
 * Slots that have no page, or one that is on the node, stay as they are, with
 * exmap_moving::from set to NULL. Until the page is there again, the slot looks as if it
 * had none, but vma_batch_map() cannot map another one. The reasons for which a page is not
 * moved are -ENOMEM if there is no memory on the node, -EBUSY if the page is held elsewhere,
 * for example by direct I/O, and -EHWPOISON if the memory of the page fails.
 *
 * Context: Process context, may sleep.
 */
void exmap_move(struct exmap_place *place, struct exmap_moving *moves, unsigned int nr,
		int nid)
{
	struct vma_batch *vb = &place->at.vb;
	struct exmap_pool *pool = place->at.pool;
	unsigned int taken = 0, moved = 0;

	exmap_place_store(place);
	exmap_move_select(place, moves, nr, nid);
	exmap_move_get(place, moves, nr, nid);

	for (unsigned int i = 0; i < nr; i++) {
		struct exmap_moving *m = &moves[i];

		if (!m->from)
			continue;
		m->from = vma_batch_take(vb, m->addr);
		taken += !!m->from;
	}
	vma_batch_end(vb);
	if (taken)
		vma_batch_flush(pool->group->mm);

	for (unsigned int i = 0; i < nr; i++) {
		if (moves[i].from)
			moves[i].err = exmap_move_copy(pool, &moves[i]);
		moved += moves[i].from && !moves[i].err;
		cond_resched();
	}
	vb->clean = true;
	for (unsigned int i = 0; i < nr; i++) {
		struct exmap_moving *m = &moves[i];

		/* Pages that are not in the slot are settled below, without a lock */
		if (m->from && !vma_batch_put(vb, m->addr, m->err ? m->from : m->to))
			m->addr = VMA_BATCH_NOWHERE;
	}
	vma_batch_end(vb);
	vb->clean = false;

	for (unsigned int i = 0; i < nr; i++) {
		struct exmap_moving *m = &moves[i];

		if (m->from)
			exmap_move_settle(place, m, m->addr != VMA_BATCH_NOWHERE);
		else if (m->to && m->fresh)
			exmap_pool_discard(pool, m->to);
		else if (m->to)
			exmap_pool_add(pool, place->iface, &m->to, 1);
	}
	exmap_place_load(place);
	trace_exmap_move(pool, nid, taken, moved);
}
