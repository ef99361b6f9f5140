/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _LINUX_VMA_BATCH_H
#define _LINUX_VMA_BATCH_H

#include <linux/mm_types.h>
#include <linux/spinlock_types.h>

/**
 * struct vma_batch - a cursor that maps, unmaps or holds pages all over a VMA
 * @vma: the VMA; its lock, or mmap_lock, is held from vma_batch_begin() to the
 *	last vma_batch_end()
 * @pages: a stack of pages. vma_batch_map() takes pages from its top,
 *	vma_batch_unmap() puts the pages that it took out of the VMA on top,
 *	vma_batch_get() those that it found there.
 * @nr: pages on the stack
 * @max: pages that @pages has room for; vma_batch_map() does not look at it
 *
 * Every page on the stack carries one page reference, which goes over to the
 * page table entry with vma_batch_map() and comes back from it with
 * vma_batch_unmap().
 *
 * @pages, @nr and @max may be changed between two calls, but for pages that
 * vma_batch_unmap() put there and vma_batch_end() has not flushed yet. The other
 * fields are private.
 *
 * The page table lock is kept from one call to the next, so that neighbouring
 * ranges do not pay for it again: between vma_batch_begin() and
 * vma_batch_end() the caller must not sleep, fault, or use another vma_batch.
 */
struct vma_batch {
	struct vm_area_struct *vma;
	struct page **pages;
	unsigned int nr;
	unsigned int max;

	/* private: */
	pte_t *table;		/* first entry of the locked page table, or NULL */
	spinlock_t *ptl;
	unsigned long table_addr;	/* the address that @table begins with */
	unsigned long flush_start;	/* what has been unmapped and not flushed */
	unsigned long flush_end;
	long rss;		/* pages mapped less pages unmapped */
	unsigned int work;	/* entries visited since the lock was taken */
};

void vma_batch_begin(struct vma_batch *vb, struct vm_area_struct *vma,
		     struct page **pages, unsigned int nr, unsigned int max);
unsigned long vma_batch_map(struct vma_batch *vb, unsigned long addr,
			    unsigned long nr_slots);
unsigned long vma_batch_unmap(struct vma_batch *vb, unsigned long addr,
			      unsigned long nr_slots);
unsigned long vma_batch_get(struct vma_batch *vb, unsigned long addr,
			    unsigned long nr_slots);
void vma_batch_end(struct vma_batch *vb);

#endif /* _LINUX_VMA_BATCH_H */
