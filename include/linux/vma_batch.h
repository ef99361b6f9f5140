/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _LINUX_VMA_BATCH_H
#define _LINUX_VMA_BATCH_H

#include <linux/mm_types.h>
#include <linux/pgtable.h>
#include <linux/spinlock_types.h>

/**
 * enum vma_batch_stop - why a function did not reach the end of its range
 * @VMA_BATCH_EMPTY: no page is left in the array
 * @VMA_BATCH_POISONED: the last page of the array, or a part of it, has PageHWPoison()
 * @VMA_BATCH_NOMEM: there was no memory for a page table, or none was to be allocated
 * @VMA_BATCH_UNFLUSHED: the slot lost its page with a generation that is not flushed
 * @VMA_BATCH_TAKEN: vma_batch_take() took the page of the slot, for vma_batch_put()
 * @VMA_BATCH_FULL: the array has no room left
 */
enum vma_batch_stop {
	VMA_BATCH_EMPTY,
	VMA_BATCH_POISONED,
	VMA_BATCH_NOMEM,
	VMA_BATCH_UNFLUSHED,
	VMA_BATCH_TAKEN,
	VMA_BATCH_FULL,
};

/**
 * enum vma_batch_slot - what vma_batch_query() reports about a slot, as bits
 * @VMA_BATCH_SLOT_PAGE: a page is mapped
 * @VMA_BATCH_SLOT_DIRTY: the page may have been written to since it was mapped
 *	clean or was cleaned
 * @VMA_BATCH_SLOT_YOUNG: the page may have been accessed since it was mapped or
 *	aged
 */
enum vma_batch_slot {
	VMA_BATCH_SLOT_PAGE	= 1,
	VMA_BATCH_SLOT_DIRTY	= 2,
	VMA_BATCH_SLOT_YOUNG	= 4,
};

/* PTE tables that a cursor remembers as empty before it frees them */
#define VMA_BATCH_EMPTY_TABLES	16

/**
 * struct vma_batch - a cursor that maps and unmaps pages all over a VMA
 * @vma: the VMA. Its lock, or the mmap_lock, is held from vma_batch_begin() to
 *	the last vma_batch_end().
 * @pages: array of pages. vma_batch_map() takes pages from its end,
 *	vma_batch_unmap() appends the pages that it takes out of the VMA.
 * @nr: number of pages in @pages
 * @max: capacity of @pages; vma_batch_map() does not use it
 * @order: slots have 2^@order pages and are aligned to their size. Then, the pages in
 *	@pages are the head pages of folios of this order. At most that of a PTE table.
 * @clean: map pages as not written to, because their content is that of the file
 *	that vma_batch_hold() helps to write them to
 * @paired: with vma_batch_map_each(), each page belongs to an address: if the slot has
 *	a page, the other one is left out, and stays where it is in @pages, instead of
 *	being mapped at the next address. vma_batch_map() is not used then.
 * @no_tables: stop with %VMA_BATCH_NOMEM where vma_batch_map_each() would have to allocate
 *	a page table
 * @free_tables: free PTE tables whose last page is unmapped; not with @deferred
 * @deferred: vma_batch_unmap() does not flush, but leaves @generation in the slots
 * @generation: see @deferred
 * @flushed: the newest generation that is flushed, or NULL where no flush is ever
 *	deferred
 * @stop: why the last function that fell short of its range did so
 * @nr_tables: PTE tables allocated less PTE tables freed since vma_batch_begin()
 *
 * Every page in @pages carries a *mapping reference*: a page reference, a mapcount
 * and the share of the page in the statistics, all of which a PTE holds as long as
 * the page is mapped. The mapping reference of a folio is all of this for each of its
 * pages. vma_batch_charge() takes such a reference,
 * vma_batch_uncharge() drops it; mapping and unmapping only pass it on, and so
 * update no counter. munmap() and MADV_DONTNEED drop it like that of any page.
 * The caller holds another page reference on every page that it maps.
 *
 * Between two calls, the caller may change @pages, @nr and @max, except for pages
 * that vma_batch_unmap() has put there and vma_batch_end() has not flushed yet. It
 * may change @no_tables, @free_tables, @deferred, @generation and @flushed as well, which
 * vma_batch_begin() clears. If the mmap_lock is held, it may change @vma to another
 * VM_MIXEDMAP VMA of the mm, and @order with it, except between vma_batch_unmap() and
 * vma_batch_end() with @free_tables.
 *
 * The page table lock is kept from one call to the next, so that neighbouring
 * ranges do not take it again. The caller must not sleep, fault, or use another
 * vma_batch between vma_batch_begin() and vma_batch_end().
 *
 * Deferred flushes: one TLB flush can serve many batches if neither the unmapped
 * pages nor the slots that they came from are used before it, because a CPU might
 * still see the old page where other CPUs see the new one. Each such slot holds
 * the generation in which it lost its page. The caller increments the generation
 * when a flush begins (vma_batch_flush()), after all batches that use the previous
 * one have ended. At most the two generations that follow *@flushed may be in use.
 * Touching such a slot raises SIGSEGV, like touching an empty one. The page that
 * the slot lost can come back to it at any time with vma_batch_map_back(); the
 * index and the private field of the page identify it until it is used otherwise.
 */
struct vma_batch {
	struct vm_area_struct *vma;
	struct page **pages;
	unsigned int nr;
	unsigned int max;
	u8 order;
	bool clean;
	bool paired;
	bool no_tables;
	bool free_tables;
	bool deferred;
	u32 generation;
	const u64 *flushed;
	enum vma_batch_stop stop;
	long nr_tables;

	/* private: */
	unsigned long table_addr;	/* first address of the locked PTE table */
	pte_t *table;		/* that table */
	spinlock_t *ptl;
	pud_t *puds;		/* the PUD table used last */
	unsigned long puds_addr;	/* its first address */
	pmd_t *pmds;		/* the PMD table used last */
	unsigned long pmds_addr;
	unsigned long hole;	/* size of the aligned range without a PTE table */
	unsigned long flush_start;	/* range unmapped and not flushed yet */
	unsigned long flush_end;
	unsigned int work;	/* entries visited since the last reschedule point */
	unsigned int nr_empty;
	unsigned long empty[VMA_BATCH_EMPTY_TABLES];	/* addresses of empty tables */
};

/* Not an address of a slot, nor of a page table */
#define VMA_BATCH_NOWHERE	1UL

/**
 * vma_batch_begin - start to map or unmap pages in a VMA
 * @vb: the cursor, uninitialised memory
 * @vma: a VM_MIXEDMAP VMA of the caller, in which pages are mapped and unmapped
 *	only through this interface
 * @pages: array of page pointers
 * @nr: number of pages in @pages
 * @max: capacity of @pages
 *
 * Context: Process context. The VMA lock of @vma, or the mmap_lock of its mm, is
 * held for reading or writing until vma_batch_end().
 */
static inline void vma_batch_begin(struct vma_batch *vb, struct vm_area_struct *vma,
				   struct page **pages, unsigned int nr,
				   unsigned int max)
{
	vb->vma = vma;
	vb->pages = pages;
	vb->nr = nr;
	vb->max = max;
	vb->order = 0;
	vb->clean = false;
	vb->paired = false;
	vb->no_tables = false;
	vb->free_tables = false;
	vb->deferred = false;
	vb->generation = 0;
	vb->flushed = NULL;
	vb->nr_tables = 0;
	vb->table_addr = VMA_BATCH_NOWHERE;
	vb->puds_addr = VMA_BATCH_NOWHERE;
	vb->pmds_addr = VMA_BATCH_NOWHERE;
	vb->flush_start = ULONG_MAX;
	vb->flush_end = 0;
	vb->work = 0;
	vb->nr_empty = 0;
}

void vma_batch_charge(struct mm_struct *mm, struct page **pages, unsigned int nr);
void vma_batch_uncharge(struct mm_struct *mm, struct page **pages, unsigned int nr);
unsigned long vma_batch_map(struct vma_batch *vb, unsigned long addr,
			    unsigned long nr_slots);
unsigned int vma_batch_map_each(struct vma_batch *vb, unsigned long *addrs,
				unsigned int nr_addrs);
unsigned long vma_batch_unmap(struct vma_batch *vb, unsigned long addr,
			      unsigned long nr_slots);
unsigned int vma_batch_unmap_each(struct vma_batch *vb, unsigned long *addrs,
				  unsigned int nr_addrs);
bool vma_batch_map_back(struct vma_batch *vb, unsigned long addr, struct page *page);
struct page *vma_batch_take(struct vma_batch *vb, unsigned long addr);
bool vma_batch_put(struct vma_batch *vb, unsigned long addr, struct page *page);
bool vma_batch_hold(struct vma_batch *vb, unsigned long addr, bool dirty,
		    struct page **page);
void vma_batch_query(struct vma_batch *vb, unsigned long addr,
		     unsigned long nr_slots, u8 *slots, bool age);
unsigned long vma_batch_free_tables(struct vma_batch *vb);
void vma_batch_end(struct vma_batch *vb);
bool vma_batch_map_page(struct vm_area_struct *vma, unsigned long addr,
			struct page *page, bool clean);
struct page *vma_batch_unmap_page(struct vm_area_struct *vma, unsigned long addr);
void vma_batch_flush(struct mm_struct *mm);

#ifdef CONFIG_PER_VMA_LOCK
struct vm_area_struct *lock_vma_cached(struct mm_struct *mm,
				       struct vm_area_struct **cache);
#else
static inline struct vm_area_struct *lock_vma_cached(struct mm_struct *mm,
						     struct vm_area_struct **cache)
{
	return NULL;
}
#endif

#endif /* _LINUX_VMA_BATCH_H */
