/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Cursors: how a call gets at the slots of one region, or of many
 *
 * A call that works on one region locks its VMA. A call whose vectors name other regions
 * of the pool as well takes the mmap_lock, under which it goes from one to another
 * without a lock for each of them.
 */
#ifndef _EXMAP_CURSOR_H
#define _EXMAP_CURSOR_H

#include <linux/types.h>
#include <linux/vma_batch.h>

#include "exmap.h"
#include "quarantine.h"
#include "region.h"
#include "trace.h"

/**
 * struct exmap_cursor - the slots of one region at a time
 * @exmap: the exmap whose region is selected
 * @pool: its pool
 * @vma: the region
 * @many: other regions of the pool can be selected
 * @mmap_locked: which lock exmap_region_lock() took
 * @vb: the batch
 */
struct exmap_cursor {
	struct exmap *exmap;
	struct exmap_pool *pool;
	struct vm_area_struct *vma;
	bool many;
	bool mmap_locked;
	struct vma_batch vb;
};

int exmap_cursor_lock(struct exmap_cursor *cursor, struct exmap *exmap, bool many);
void exmap_cursor_unlock(struct exmap_cursor *cursor);
int exmap_cursor_move(struct exmap_cursor *cursor, struct exmap *exmap);
int exmap_cursor_flush(struct exmap *exmap);

/**
 * exmap_cursor_begin() - Begin a batch.
 * @cursor: the cursor, locked by exmap_cursor_lock() or, where the region is locked by
 *	another means, not initialised
 * @exmap: the exmap
 * @vma: its region, locked
 *
 * Context: As vma_batch_begin().
 */
static __always_inline void exmap_cursor_begin(struct exmap_cursor *cursor,
					       struct exmap *exmap,
					       struct vm_area_struct *vma)
{
	cursor->exmap = exmap;
	cursor->pool = exmap->pool;
	cursor->vma = vma;
	vma_batch_begin(&cursor->vb, vma, NULL, 0, 0);
	cursor->vb.order = exmap->order;
	cursor->vb.flushed = exmap_quarantine_flushed(exmap->pool->group);
}

/**
 * exmap_cursor_count() - Count the PTE tables that came or went.
 * @cursor: the cursor
 *
 * Before another region is selected, and when the batch has ended.
 */
static __always_inline void exmap_cursor_count(struct exmap_cursor *cursor)
{
	if (likely(!cursor->vb.nr_tables))
		return;
	atomic_long_add(cursor->vb.nr_tables, &cursor->exmap->nr_tables);
	atomic_long_add(cursor->vb.nr_tables, &cursor->pool->group->nr_tables);
	trace_exmap_tables(cursor->exmap, cursor->vb.nr_tables);
	cursor->vb.nr_tables = 0;
}

/**
 * exmap_cursor_error() - Tell why a page that was read cannot be mapped.
 * @cursor: the cursor, which has stopped for another reason than %VMA_BATCH_UNFLUSHED
 *
 * Return: -ENOMEM without memory for a page table, -EBUSY if the slot has a page that is being
 * moved, -EIO if the page is poisoned.
 */
static inline int exmap_cursor_error(const struct exmap_cursor *cursor)
{
	switch (cursor->vb.stop) {
	case VMA_BATCH_NOMEM:
		return -ENOMEM;
	case VMA_BATCH_TAKEN:
		return -EBUSY;
	default:
		return -EIO;
	}
}

/**
 * exmap_cursor_select() - Select a region.
 * @cursor: the cursor, with @cursor->many unless it is the same region
 * @exmap: the exmap
 *
 * Context: Process context, may sleep.
 * Return: 0, or -ENXIO if the region is not mapped.
 */
static __always_inline int exmap_cursor_select(struct exmap_cursor *cursor,
					       struct exmap *exmap)
{
	return likely(cursor->exmap == exmap) ? 0 : exmap_cursor_move(cursor, exmap);
}

#endif /* _EXMAP_CURSOR_H */
