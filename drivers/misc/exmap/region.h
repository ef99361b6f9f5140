/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The region: the VMA, and the right to change what is mapped in it
 */
#ifndef _EXMAP_REGION_H
#define _EXMAP_REGION_H

#include <linux/mm_types.h>
#include <linux/mmap_lock.h>
#include <linux/types.h>
#include <linux/vma_batch.h>

#include "exmap.h"

struct vm_area_desc;

extern const struct vm_operations_struct exmap_region_ops;

int exmap_region_mmap_prepare(struct exmap *exmap, struct vm_area_desc *desc);
struct vm_area_struct *exmap_region_lock(struct exmap *exmap, bool *mmap_locked);
void exmap_region_unlock(struct exmap *exmap, struct vm_area_struct *vma,
			 bool mmap_locked);
void exmap_region_flush(struct exmap_group *group, u64 generation);
unsigned long exmap_region_get_unmapped_area(const struct exmap *exmap, struct file *file,
					     unsigned long addr, unsigned long len,
					     unsigned long pgoff, unsigned long flags);
struct vm_area_struct *exmap_region_find(struct exmap *exmap);

/**
 * exmap_region_is() - Test whether a VMA is the region of an exmap.
 * @exmap: the exmap
 * @vma: a VMA of the process, locked
 *
 * Return: true if it is.
 */
static inline bool exmap_region_is(const struct exmap *exmap,
				   const struct vm_area_struct *vma)
{
	return vma->vm_ops == &exmap_region_ops && vma->vm_private_data == exmap;
}

/**
 * exmap_region_vma() - Return the region, where all regions of the group are locked.
 * @exmap: the exmap, set up
 *
 * Context: The mmap_lock and exmap_group::regions_lock are held for reading.
 * Return: the region, or NULL if it is not mapped.
 */
static __always_inline struct vm_area_struct *exmap_region_vma(struct exmap *exmap)
{
	struct vm_area_struct *vma = READ_ONCE(exmap->vma);

	/*
	 * munmap() detaches a VMA with the mmap_lock held for writing, but holds it only
	 * for reading when it frees the page tables and closes the VMA.
	 */
	if (IS_ENABLED(CONFIG_PER_VMA_LOCK) && likely(vma && vma_is_attached(vma)))
		return vma;
	return exmap_region_find(exmap);
}

/**
 * exmap_region_trylock() - Lock the region, in the simplest case.
 * @exmap: the exmap, of the current process
 *
 * Return: the region, which is unlocked with vma_end_read(); or NULL if
 * exmap_region_lock() must be tried.
 */
static inline struct vm_area_struct *exmap_region_trylock(struct exmap *exmap)
{
	struct vm_area_struct *vma = lock_vma_cached(exmap->mm, &exmap->vma);

	/* Another VMA may have taken the place meanwhile: look at what was locked */
	if (unlikely(vma && !exmap_region_is(exmap, vma))) {
		vma_end_read(vma);
		return NULL;
	}
	return vma;
}

#endif /* _EXMAP_REGION_H */
