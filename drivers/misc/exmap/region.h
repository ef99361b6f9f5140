/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The region: the VMA, and the right to change what is mapped in it
 */
#ifndef _EXMAP_REGION_H
#define _EXMAP_REGION_H

#include <linux/mm_types.h>
#include <linux/types.h>

#include "exmap.h"

struct vm_area_desc;

extern const struct vm_operations_struct exmap_region_ops;

int exmap_region_mmap_prepare(struct exmap *exmap, struct vm_area_desc *desc);
struct vm_area_struct *exmap_region_lock(struct exmap *exmap, bool *mmap_locked);
void exmap_region_unlock(struct exmap *exmap, struct vm_area_struct *vma,
			 bool mmap_locked);
void exmap_region_flush(struct exmap *exmap, struct vm_area_struct *vma, u64 generation);
int exmap_region_flush_all(struct exmap *exmap);

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

#endif /* _EXMAP_REGION_H */
