// SPDX-License-Identifier: GPL-2.0-only
/*
 * Cursors: how a call gets at the slots of one region, or of many
 */
#include <linux/mm.h>
#include <linux/mmap_lock.h>

#include "cursor.h"

/**
 * exmap_cursor_lock() - Keep the region, or all regions of the group, from changing.
 * @cursor: the cursor, uninitialised memory; @cursor->vma is set to the region
 * @exmap: the exmap, of the current process and set up
 * @many: all regions
 *
 * Context: Process context, may sleep. No locks are held.
 * Return: 0; -ENXIO if the region of @exmap is not mapped; -EINTR if a fatal signal
 * arrived while waiting.
 */
int exmap_cursor_lock(struct exmap_cursor *cursor, struct exmap *exmap, bool many)
{
	cursor->many = many;
	if (likely(!many)) {
		cursor->vma = exmap_region_lock(exmap, &cursor->mmap_locked);
		return PTR_ERR_OR_ZERO(cursor->vma);
	}
	if (mmap_read_lock_killable(exmap->mm))
		return -EINTR;
	down_read(&exmap->pool->group->regions_lock);
	cursor->exmap = exmap;
	cursor->vma = exmap_region_vma(exmap);
	if (cursor->vma)
		return 0;
	exmap_cursor_unlock(cursor);
	return -ENXIO;
}

/**
 * exmap_cursor_unlock() - Undo exmap_cursor_lock().
 * @cursor: the cursor, whose batch has ended
 */
void exmap_cursor_unlock(struct exmap_cursor *cursor)
{
	if (likely(!cursor->many)) {
		exmap_region_unlock(cursor->exmap, cursor->vma, cursor->mmap_locked);
		return;
	}
	up_read(&cursor->exmap->pool->group->regions_lock);
	mmap_read_unlock(cursor->exmap->mm);
}

/**
 * exmap_cursor_move() - Select another region.
 * @cursor: the cursor, with @cursor->many
 * @exmap: the exmap, of the same group
 *
 * Context: As exmap_cursor_select().
 * Return: as exmap_cursor_select(). On failure, the same region as before is selected.
 */
int exmap_cursor_move(struct exmap_cursor *cursor, struct exmap *exmap)
{
	struct vm_area_struct *vma = exmap_region_vma(exmap);

	if (unlikely(!vma))
		return -ENXIO;
	/* The tables that it has found empty count for the region before */
	if (unlikely(cursor->vb.free_tables))
		vma_batch_end(&cursor->vb);
	exmap_cursor_count(cursor);
	cursor->exmap = exmap;
	cursor->pool = exmap->pool;
	cursor->vma = vma;
	cursor->vb.vma = vma;
	cursor->vb.order = exmap->order;
	return 0;
}

/**
 * exmap_cursor_flush() - Flush what was freed, and free empty PTE tables.
 * @exmap: the exmap, of the current process and set up
 *
 * Context: Process context, may sleep. No locks are held.
 * Return: 0, or the error of exmap_cursor_lock().
 */
int exmap_cursor_flush(struct exmap *exmap)
{
	struct exmap_group *group = exmap->pool->group;
	struct exmap_cursor cursor;
	long before;
	int err;

	err = exmap_cursor_lock(&cursor, exmap, false);
	if (err)
		return err;
	if (group->deferred)
		exmap_region_flush(group, READ_ONCE(group->generation));

	exmap_cursor_begin(&cursor, exmap, cursor.vma);
	before = atomic_long_read(&exmap->nr_tables);
	if (before) {
		/* Replace the count by an exact one, unless it changed meanwhile */
		const long left = vma_batch_free_tables(&cursor.vb);

		cursor.vb.nr_tables = left - before;
		exmap_cursor_count(&cursor);
	}
	vma_batch_end(&cursor.vb);
	exmap_cursor_unlock(&cursor);
	return 0;
}
