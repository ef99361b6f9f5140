// SPDX-License-Identifier: GPL-2.0-only
/*
 * Map and unmap single pages all over a VMA, in batches
 *
 * vm_insert_pages() and zap_vma_range() work on one contiguous range a call:
 * each call walks the page tables, takes the page table lock, updates the
 * counters, and, to unmap, flushes the TLB and frees the pages. A driver that
 * places pages at many scattered addresses, and wants them back when it takes
 * them out, needs the mirror image: one walk for neighbours, one counter
 * update and one flush for all, and pages that are handed over, not freed.
 */
#include <linux/export.h>
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pgtable.h>
#include <linux/rmap.h>
#include <linux/sched.h>
#include <linux/vma_batch.h>
#include <asm/tlbflush.h>

#include "internal.h"

/* Entries visited before others get a chance at the page table lock */
#define VMA_BATCH_MAX_WORK	4096

static void vma_batch_unlock(struct vma_batch *vb)
{
	if (!vb->table)
		return;
	pte_unmap_unlock(vb->table, vb->ptl);
	vb->table = NULL;
	vb->work = 0;
	cond_resched();
}

/*
 * Return the entry of @addr with its page table locked, NULL if there is no
 * page table, or if there is no memory for one where @alloc asks for it.
 */
static pte_t *vma_batch_lock(struct vma_batch *vb, unsigned long addr, bool alloc)
{
	struct mm_struct *mm = vb->vma->vm_mm;
	pmd_t *pmd;
	pte_t *pte;

	if (vb->table && vb->table_addr == (addr & PMD_MASK))
		return vb->table + pte_index(addr);

	vma_batch_unlock(vb);
	if (!alloc) {
		pmd = mm_find_pmd(mm, addr);
		pte = pmd ? pte_offset_map_lock(mm, pmd, addr, &vb->ptl) : NULL;
		if (!pte)
			return NULL;
	} else {
		/* A new table may be reclaimed at once, as it is empty */
		while (!(pte = get_locked_pte(mm, addr, &vb->ptl))) {
			pmd = mm_find_pmd(mm, addr);
			if (!pmd || pte_alloc(mm, pmd))
				return NULL;
		}
	}
	vb->table = pte - pte_index(addr);
	vb->table_addr = addr & PMD_MASK;
	return pte;
}

static void vma_batch_check(struct vma_batch *vb, unsigned long addr,
			    unsigned long nr_slots)
{
	struct vm_area_struct *vma = vb->vma;

	vma_assert_stabilised(vma);
	VM_WARN_ON_ONCE(!PAGE_ALIGNED(addr));
	VM_WARN_ON_ONCE(nr_slots &&
			!range_in_vma(vma, addr, addr + nr_slots * PAGE_SIZE));
	if (vb->work > VMA_BATCH_MAX_WORK)
		vma_batch_unlock(vb);
	vb->work += nr_slots;
}

/**
 * vma_batch_begin - start to map or unmap pages in a VMA
 * @vb: the cursor, uninitialised memory
 * @vma: a VM_MIXEDMAP VMA of the caller's
 * @pages: array of page pointers
 * @nr: pages in @pages
 * @max: entries that @pages has
 *
 * Context: Process context. The VMA lock of @vma, or the mmap_lock of its mm,
 * is held for reading or writing until vma_batch_end().
 */
void vma_batch_begin(struct vma_batch *vb, struct vm_area_struct *vma,
		     struct page **pages, unsigned int nr, unsigned int max)
{
	VM_WARN_ON_ONCE(!(vma->vm_flags & VM_MIXEDMAP));
	vb->vma = vma;
	vb->pages = pages;
	vb->nr = nr;
	vb->max = max;
	vb->table = NULL;
	vb->flush_start = ULONG_MAX;
	vb->flush_end = 0;
	vb->rss = 0;
	vb->work = 0;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_begin, "exmap");

/**
 * vma_batch_map - put pages under the empty slots of a range
 * @vb: the cursor
 * @addr: first address of the range, page aligned
 * @nr_slots: length of the range in pages
 *
 * Takes a page from the top of the stack for every slot of the range that has
 * no entry, in ascending order of addresses, and skips the slots that have one.
 * The pages must be ordinary single pages (order 0, neither anonymous nor
 * swap-backed) whose content nobody minds user space to see; one reference of
 * each goes over to the page table. A poisoned page is not mapped.
 *
 * Context: See vma_batch_begin(). May allocate page tables, and so sleep,
 * before it takes a page table lock; holds that lock on return.
 *
 * Return: The number of slots that are done, mapped or skipped, from @addr on.
 * It is less than @nr_slots in three cases: the stack is empty (@vb->nr is 0);
 * the page on top of it has PageHWPoison(); or, else, there was no memory for a
 * page table.
 */
unsigned long vma_batch_map(struct vma_batch *vb, unsigned long addr,
			    unsigned long nr_slots)
{
	const unsigned long start = addr, end = addr + nr_slots * PAGE_SIZE;
	struct vm_area_struct *vma = vb->vma;
	struct mm_struct *mm = vma->vm_mm;
	unsigned long next;

	vma_batch_check(vb, addr, nr_slots);

	for (; addr != end; addr = next) {
		pte_t *ptep;

		next = pmd_addr_end(addr, end);
		/* Without a page to map, do not leave a page table behind */
		ptep = vma_batch_lock(vb, addr, vb->nr);
		if (!ptep)
			break;

		/* Not longer than this: an entry must not be read after its change */
		lazy_mmu_mode_enable();
		for (; addr != next; addr += PAGE_SIZE, ptep++) {
			struct page *page;
			struct folio *folio;
			pte_t pte;

			if (!pte_none(ptep_get(ptep)))
				continue;
			if (!vb->nr)
				break;
			page = vb->pages[vb->nr - 1];
			if (unlikely(PageHWPoison(page)))
				break;

			vb->nr--;
			folio = page_folio(page);
			VM_WARN_ON_ONCE_FOLIO(folio_test_anon(folio) ||
					      folio_test_swapbacked(folio) ||
					      folio_test_large(folio), folio);
			flush_dcache_folio(folio);
			folio_add_file_rmap_pte(folio, page, vma);

			/* Where hardware does not set these bits, save the faults */
			pte = pte_mkyoung(mk_pte(page, vma->vm_page_prot));
			if (pte_write(pte))
				pte = pte_mkdirty(pte);
			pte = pte_mksoft_dirty(pte);
			set_pte_at(mm, addr, ptep, pte);
			update_mmu_cache(vma, addr, ptep);
			vb->rss++;
		}
		lazy_mmu_mode_disable();
		if (addr != next)
			break;
	}
	return (addr - start) >> PAGE_SHIFT;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_map, "exmap");

/**
 * vma_batch_unmap - take the pages out of a range
 * @vb: the cursor
 * @addr: first address of the range, page aligned
 * @nr_slots: length of the range in pages
 *
 * Clears every present entry of the range and puts its page on the stack, with
 * the reference that the entry held. Until vma_batch_end() has returned, CPUs
 * may still reach the pages through their old addresses.
 *
 * Context: See vma_batch_begin(). May sleep in mmu notifiers before it takes a
 * page table lock; holds that lock on return.
 *
 * Return: The number of slots that are done, from @addr on. It is less than
 * @nr_slots only if the stack is full.
 */
unsigned long vma_batch_unmap(struct vma_batch *vb, unsigned long addr,
			      unsigned long nr_slots)
{
	const unsigned long start = addr, end = addr + nr_slots * PAGE_SIZE;
	struct vm_area_struct *vma = vb->vma;
	struct mm_struct *mm = vma->vm_mm;
	struct mmu_notifier_range range;
	/* Registration locks every VMA for writing: this cannot change here */
	const bool notify = mm_has_notifiers(mm);
	unsigned long next;

	vma_batch_check(vb, addr, nr_slots);
	if (!nr_slots)
		return 0;
	if (notify) {
		vma_batch_unlock(vb);
		mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR, 0, mm, addr, end);
		mmu_notifier_invalidate_range_start(&range);
	}
	flush_cache_range(vma, addr, end);

	for (; addr != end; addr = next) {
		pte_t *ptep;

		next = pmd_addr_end(addr, end);
		ptep = vma_batch_lock(vb, addr, false);
		if (!ptep)
			continue;

		lazy_mmu_mode_enable();
		for (; addr != next; addr += PAGE_SIZE, ptep++) {
			struct page *page;
			pte_t pte = ptep_get(ptep);

			if (!pte_present(pte))
				continue;
			page = vm_normal_page(vma, addr, pte);
			if (!page)
				continue;
			if (vb->nr == vb->max)
				break;

			/* Hardware may set bits until now: only the swap is final */
			pte = ptep_get_and_clear(mm, addr, ptep);
			arch_check_zapped_pte(vma, pte);
			folio_remove_rmap_pte(page_folio(page), page, vma);
			vb->pages[vb->nr++] = page;
			vb->rss--;
			vb->flush_start = min(vb->flush_start, addr);
			vb->flush_end = max(vb->flush_end, addr + PAGE_SIZE);
		}
		lazy_mmu_mode_disable();
		if (addr != next)
			break;
	}
	if (notify) {
		vma_batch_unlock(vb);
		mmu_notifier_invalidate_range_end(&range);
	}
	return (addr - start) >> PAGE_SHIFT;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_unmap, "exmap");

/**
 * vma_batch_get - hold the pages of a range
 * @vb: the cursor; at least @nr_slots entries of its stack are free
 * @addr: first address of the range, page aligned
 * @nr_slots: length of the range in pages
 *
 * Puts the pages of the range on the stack, in ascending order of addresses,
 * each with a new reference, up to the first slot that has none. The pages stay
 * mapped.
 *
 * Context: See vma_batch_begin(). Holds the page table lock on return.
 *
 * Return: The number of pages.
 */
unsigned long vma_batch_get(struct vma_batch *vb, unsigned long addr,
			    unsigned long nr_slots)
{
	const unsigned int before = vb->nr;
	const unsigned long end = addr + nr_slots * PAGE_SIZE;

	vma_batch_check(vb, addr, nr_slots);
	VM_WARN_ON_ONCE(nr_slots > vb->max - vb->nr);

	for (; addr != end; addr += PAGE_SIZE) {
		pte_t *ptep = vma_batch_lock(vb, addr, false);
		struct page *page;
		pte_t pte;

		if (!ptep)
			break;
		pte = ptep_get(ptep);
		if (!pte_present(pte))
			break;
		page = vm_normal_page(vb->vma, addr, pte);
		if (!page)
			break;
		folio_get(page_folio(page));
		vb->pages[vb->nr++] = page;
	}
	return vb->nr - before;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_get, "exmap");

/**
 * vma_batch_end - finish what was mapped and unmapped so far
 * @vb: the cursor
 *
 * Drops the page table lock, updates the counters of the mm, and flushes the
 * TLB where pages were unmapped: when it returns, no CPU reaches those pages
 * through the VMA any more. A page among them may be used for something else
 * once nobody else holds it: a racing lockless get_user_pages() that saw the
 * old entry has either raised the reference count by now, or will find the
 * entry changed and give up. An exact match of page_count() with the
 * references that the caller knows of is proof; anything higher is not.
 *
 * The cursor may be used further afterwards, as after vma_batch_begin().
 *
 * Context: See vma_batch_begin(). The caller may sleep again afterwards.
 */
void vma_batch_end(struct vma_batch *vb)
{
	struct mm_struct *mm = vb->vma->vm_mm;

	vma_batch_unlock(vb);
	if (vb->rss) {
		if (vb->rss < 0)
			update_hiwater_rss(mm);
		add_mm_counter(mm, MM_FILEPAGES, vb->rss);
		vb->rss = 0;
	}
	if (vb->flush_end) {
		flush_tlb_range(vb->vma, vb->flush_start, vb->flush_end);
		vb->flush_start = ULONG_MAX;
		vb->flush_end = 0;
		/*
		 * Order the cleared entries before the caller's look at the
		 * reference counts. Pairs with the grab of a reference before
		 * the second look at the entry in gup_fast_pte_range().
		 */
		smp_mb();
	}
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_end, "exmap");
