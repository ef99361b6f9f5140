/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _LINUX_VMA_BATCH_H
#define _LINUX_VMA_BATCH_H

#include <linux/mm_types.h>
#include <linux/numa.h>
#include <linux/pgtable.h>
#include <linux/spinlock_types.h>

/**
 * enum vma_batch_stop - why a function did not get to the end of its range
 * @VMA_BATCH_EMPTY: the stack is empty
 * @VMA_BATCH_POISONED: the page on top of the stack has PageHWPoison()
 * @VMA_BATCH_NOMEM: there was no memory for a page table
 * @VMA_BATCH_UNFLUSHED: the slot lost its page with a stamp that is not flushed
 * @VMA_BATCH_FULL: there is no room on the stack
 * @VMA_BATCH_BUSY: the slot is reserved, or its page has folio_test_owner_2()
 */
enum vma_batch_stop {
	VMA_BATCH_EMPTY,
	VMA_BATCH_POISONED,
	VMA_BATCH_NOMEM,
	VMA_BATCH_UNFLUSHED,
	VMA_BATCH_FULL,
	VMA_BATCH_BUSY,
};

/**
 * enum vma_batch_slot - bits of what vma_batch_query() says of a slot
 * @VMA_BATCH_SLOT_PAGE: it has a page
 * @VMA_BATCH_SLOT_DIRTY: which may have been written to since it was mapped clean
 *	or cleaned
 * @VMA_BATCH_SLOT_YOUNG: which may have been used since it was mapped or aged
 * @VMA_BATCH_SLOT_BUSY: it is reserved, or its page has folio_test_owner_2()
 */
enum vma_batch_slot {
	VMA_BATCH_SLOT_PAGE	= 1,
	VMA_BATCH_SLOT_DIRTY	= 2,
	VMA_BATCH_SLOT_YOUNG	= 4,
	VMA_BATCH_SLOT_BUSY	= 8,
};

/**
 * struct vma_batch - a cursor that maps, unmaps or holds pages all over a VMA
 * @vma: the VMA; its lock, or mmap_lock, is held from vma_batch_begin() to the
 *	last vma_batch_end()
 * @pages: a stack of pages. vma_batch_map() takes pages from its top,
 *	vma_batch_unmap() puts the pages that it took out of the VMA on top,
 *	vma_batch_get() those that it found there.
 * @nr: pages on the stack
 * @max: pages that @pages has room for; vma_batch_map() does not look at it
 * @deferred: vma_batch_unmap() does not flush, but leaves @stamp in the slots
 * @stamp: see @deferred
 * @flushed: where vma_batch_map() reads the newest stamp that is flushed; may be
 *	NULL where nothing is ever deferred
 * @stop: why the last function that fell short of its range did so
 *
 * Every page on the stack carries one page reference, which goes over to the
 * page table entry with vma_batch_map() and comes back from it with
 * vma_batch_unmap(). The caller holds another reference on every page that it
 * maps, until the next vma_batch_end() at least.
 *
 * @pages, @nr and @max may be changed between two calls, but for pages that
 * vma_batch_unmap() put there and vma_batch_end() has not flushed yet. So may
 * @deferred, @stamp and @flushed; vma_batch_begin() leaves them zero. The other
 * fields are private.
 *
 * The page table lock is kept from one call to the next, so that neighbouring
 * ranges do not pay for it again: between vma_batch_begin() and
 * vma_batch_end() the caller must not sleep, fault, or use another vma_batch.
 *
 * Deferred flushes: one flush may serve many batches, if the pages that these
 * took out are not used again before it. The slots must not be either, since a
 * CPU might go on to see the old page where others see the new one. Hence the
 * stamp in every slot: a number that the caller counts up when a flush begins
 * (vma_batch_flush()), once all who unmap with the number before have ended
 * their batch. At most the two numbers that follow @flushed may be in use and
 * not flushed. Until a slot is mapped again, touching it raises SIGSEGV, like
 * an empty one. The page that it lost may come back to it at any time, with
 * vma_batch_map_back(): until it is used otherwise, its index and its private
 * field are what tells that it is the one.
 */
struct vma_batch {
	struct vm_area_struct *vma;
	struct page **pages;
	unsigned int nr;
	unsigned int max;
	bool deferred;
	u32 stamp;
	const u64 *flushed;
	enum vma_batch_stop stop;

	/* private: */
	pte_t proto;		/* the entry of the page with number 0, once needed */
	unsigned long table_addr;	/* address where the locked page table begins */
	pte_t *table;		/* its first entry */
	spinlock_t *ptl;
	pud_t *puds;		/* first entry of the PUD table seen last */
	unsigned long puds_addr;	/* the address that @puds begins with */
	pmd_t *pmds;		/* the same of PMDs */
	unsigned long pmds_addr;
	unsigned long flush_start;	/* what has been unmapped and not flushed */
	unsigned long flush_end;
	unsigned int work;	/* done since others got a chance */
	int rss;		/* pages mapped less pages unmapped, not counted yet, */
	int mapped;		/* and the same of pages that nobody else maps, */
	int mapped_nid;		/* on this node */
	unsigned long mapped_memcg;	/* and of this cgroup, */
	struct page *mapped_page;	/* like this one */
};

/* No page table begins there */
#define VMA_BATCH_NOWHERE	1UL

/**
 * vma_batch_begin - start to map or unmap pages in a VMA
 * @vb: the cursor, uninitialised memory
 * @vma: a VM_MIXEDMAP VMA of the caller's, in which nothing but this is used to
 *	map and to unmap
 * @pages: array of page pointers
 * @nr: pages in @pages
 * @max: entries that @pages has
 *
 * Context: Process context. The VMA lock of @vma, or the mmap_lock of its mm,
 * is held for reading or writing until vma_batch_end().
 */
static inline void vma_batch_begin(struct vma_batch *vb, struct vm_area_struct *vma,
				   struct page **pages, unsigned int nr,
				   unsigned int max)
{
	vb->vma = vma;
	vb->pages = pages;
	vb->nr = nr;
	vb->max = max;
	vb->deferred = false;
	vb->stamp = 0;
	vb->flushed = NULL;
	vb->proto = __pte(0);
	vb->table_addr = VMA_BATCH_NOWHERE;
	vb->puds_addr = VMA_BATCH_NOWHERE;
	vb->pmds_addr = VMA_BATCH_NOWHERE;
	vb->flush_start = ULONG_MAX;
	vb->flush_end = 0;
	vb->work = 0;
	vb->rss = 0;
	vb->mapped = 0;
	vb->mapped_nid = NUMA_NO_NODE;
	vb->mapped_memcg = 0;
}

unsigned long vma_batch_map(struct vma_batch *vb, unsigned long addr,
			    unsigned long nr_slots);
unsigned int vma_batch_map_each(struct vma_batch *vb, unsigned long *addrs,
				unsigned int nr_addrs);
unsigned long vma_batch_unmap(struct vma_batch *vb, unsigned long addr,
			      unsigned long nr_slots);
unsigned int vma_batch_unmap_each(struct vma_batch *vb, unsigned long *addrs,
				  unsigned int nr_addrs);
bool vma_batch_map_back(struct vma_batch *vb, unsigned long addr, struct page *page);
unsigned long vma_batch_get(struct vma_batch *vb, unsigned long addr,
			    unsigned long nr_slots);
unsigned long vma_batch_reserve(struct vma_batch *vb, unsigned long addr);
void vma_batch_unreserve(struct vma_batch *vb, unsigned long addr);
void vma_batch_map_clean(struct vma_batch *vb);
bool vma_batch_clean(struct vma_batch *vb, unsigned long addr);
void vma_batch_query(struct vma_batch *vb, unsigned long addr,
		     unsigned long nr_slots, u8 *slots, bool age);
void vma_batch_end(struct vma_batch *vb);
bool vma_batch_map_page(struct vm_area_struct *vma, unsigned long addr,
			struct page *page);
struct page *vma_batch_unmap_page(struct vm_area_struct *vma, unsigned long addr);
void vma_batch_flush(struct vm_area_struct *vma);

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
