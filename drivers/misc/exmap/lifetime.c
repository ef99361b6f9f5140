// SPDX-License-Identifier: GPL-2.0-only
/*
 * Lifetime: from the first use of an open file to the last
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "attach.h"
#include "exmap.h"

static void exmap_free(struct kref *ref)
{
	struct exmap *exmap = container_of(ref, struct exmap, ref);
	/* The VMA of a region holds its file: if there was a region, it is gone */
	if (exmap->ready) {
		exmap_detach(exmap);
		if (exmap->backing)
			fput(exmap->backing);
	}
	mmdrop(exmap->mm);
	kfree(exmap);
}

/**
 * exmap_of_mapped() - Return the exmap of a file if it is set up and has a region.
 * @file: an open /dev/exmap
 *
 * Return: as exmap_of_ready(), and ERR_PTR(-ENXIO) if the region is not mapped.
 */
struct exmap *exmap_of_mapped(struct file *file)
{
	struct exmap *exmap = exmap_of_ready(file);

	/* Pairs with exmap_region_mapped() */
	if (!IS_ERR(exmap) && smp_load_acquire(&exmap->state) != EXMAP_MAPPED)
		return ERR_PTR(-ENXIO);
	return exmap;
}

/**
 * exmap_of_or_new() - Return the exmap of a file, a new one if it has none.
 * @file: an open /dev/exmap
 *
 * Context: Process context of a user process, may sleep.
 * Return: the exmap; ERR_PTR(-EPERM) if it belongs to another address space;
 * ERR_PTR(-ENOMEM).
 */
struct exmap *exmap_of_or_new(struct file *file)
{
	struct exmap *exmap = exmap_of(file);

	if (exmap != ERR_PTR(-ENXIO))
		return exmap;

	exmap = kzalloc_obj(*exmap, EXMAP_GFP);
	if (!exmap)
		return ERR_PTR(-ENOMEM);
	kref_init(&exmap->ref);
	atomic_set(&exmap->files, 1);
	mutex_init(&exmap->lock);
	spin_lock_init(&exmap->pending_lock);
	INIT_LIST_HEAD(&exmap->pending);
	mmgrab(current->mm);
	exmap->mm = current->mm;
	if (cmpxchg(&file->private_data, NULL, exmap))
		kref_put(&exmap->ref, exmap_free);
	return exmap_of(file);
}

/**
 * exmap_clone() - Let a file have the exmap of another file.
 * @file: an open /dev/exmap
 * @source: another one
 *
 * Return: 0; -EINVAL if @source has no exmap, or one with which nothing has
 * succeeded yet; -EPERM if it belongs to another address space; -EBUSY if @file has
 * one already.
 */
int exmap_clone(struct file *file, struct file *source)
{
	struct exmap *exmap = exmap_of(source);

	if (IS_ERR(exmap))
		return exmap == ERR_PTR(-ENXIO) ? -EINVAL : PTR_ERR(exmap);
	if (!READ_ONCE(exmap->ready) && READ_ONCE(exmap->state) == EXMAP_UNMAPPED)
		return -EINVAL;

	kref_get(&exmap->ref);
	atomic_inc(&exmap->files);
	if (cmpxchg(&file->private_data, NULL, exmap)) {
		exmap_put_file(exmap);
		return -EBUSY;
	}
	return 0;
}

/**
 * exmap_put() - Drop a reference to an exmap.
 * @exmap: the exmap
 *
 * Context: Process context, may sleep. No locks are held.
 */
void exmap_put(struct exmap *exmap)
{
	kref_put(&exmap->ref, exmap_free);
}

/**
 * exmap_put_file() - Drop the reference of an open file to its exmap.
 * @exmap: the exmap
 *
 * Calls that no worker is going to end may have references to other exmaps. They are
 * freed here rather than with the exmap, because two exmaps may refer to each other in
 * this way.
 *
 * Context: Process context, may sleep. No locks are held.
 */
void exmap_put_file(struct exmap *exmap)
{
	struct exmap_pending *pending, *next;

	if (atomic_dec_and_test(&exmap->files)) {
		/* Their requests are gone, because these hold a file */
		list_for_each_entry_safe(pending, next, &exmap->pending, list) {
			list_del(&pending->list);
			pending->free(pending);
		}
	}
	exmap_put(exmap);
}
