// SPDX-License-Identifier: GPL-2.0-only
/*
 * Map and unmap pages all over a VMA, in batches
 *
 * vm_insert_pages() and zap_vma_range() work on one contiguous range per call:
 * each call walks the page tables, takes the page table lock, updates the
 * counters, and, to unmap, flushes the TLB and frees the pages. A driver that
 * places pages at many scattered addresses, and reuses them when it takes them
 * out, needs one walk for neighbouring addresses, one flush for all of them, and
 * pages that are handed over instead of freed.
 */
#include <linux/export.h>
#include <linux/hugetlb.h>
#include <linux/leafops.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pagemap.h>
#include <linux/pgalloc.h>
#include <linux/pgtable.h>
#include <linux/prefetch.h>
#include <linux/rmap.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/vma_batch.h>
#include <linux/vmstat.h>
#include <asm/tlb.h>
#include <asm/tlbflush.h>

#include "internal.h"

/* Work after which the page table lock is dropped and the CPU is offered */
#define VMA_BATCH_MAX_WORK	4096

/* Work that the switch to another PTE table counts for; an entry counts for one */
#define VMA_BATCH_TABLE_WORK	64

/* Addresses between two looks at the work done */
#define VMA_BATCH_CHUNK		64U

/* How far apart the ends of a chunk are if its page tables are likely not to be cached */
#define VMA_BATCH_FAR		(4UL * SZ_1G)

/*
 * A limit of the memory cgroup must make the call fail. Without this, the OOM
 * killer would be asked to make room for a page table.
 */
#define VMA_BATCH_GFP	(GFP_PGTABLE_USER | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

/*
 * The functions below are inlined into vma_batch_map_page() and vma_batch_unmap_page(),
 * which keep the cursor in registers. So they must not pass its address on.
 */

/* Drop the page table lock, and with it the RCU read lock, and offer the CPU */
static __always_inline void vma_batch_unlock(struct vma_batch *vb)
{
	if (vb->table_addr == VMA_BATCH_NOWHERE)
		return;
	pte_unmap_unlock(vb->table, vb->ptl);
	vb->table_addr = VMA_BATCH_NOWHERE;
	vb->work = 0;
	cond_resched();
}

/*
 * Find the PMD entry of @addr. Returns false, with the size of the hole in @vb->hole,
 * if there is no PMD table. The walk begins at the top only where the tables that were
 * used last do not cover @addr: while the VMA is locked, PTE tables are the only ones
 * that can go away. In a VMA like this, no PUD or PMD entry maps memory by itself; if the
 * compiler is told so, the functions that read such an entry become much shorter.
 */
static __always_inline bool vma_batch_pmd(struct vma_batch *vb, unsigned long addr,
					  pmd_t **pmdp)
{
	if (unlikely((addr & PUD_MASK) != vb->pmds_addr)) {
		pud_t *pudp, pud;

		if (unlikely((addr & P4D_MASK) != vb->puds_addr)) {
			pgd_t *pgd = pgd_offset(vb->vma->vm_mm, addr);
			p4d_t *p4d;

			vb->hole = PGDIR_SIZE;
			if (pgd_none(pgdp_get(pgd)))
				return false;
			p4d = p4d_offset(pgd, addr);
			vb->hole = P4D_SIZE;
			if (p4d_none(p4dp_get(p4d)))
				return false;
			vb->puds = pud_offset(p4d, addr) - pud_index(addr);
			vb->puds_addr = addr & P4D_MASK;
		}
		pudp = vb->puds + pud_index(addr);
		pud = pudp_get(pudp);
		if (unlikely(pud_none(pud) || pud_leaf(pud))) {
			vb->hole = PUD_SIZE;
			return false;
		}
		vb->pmds = pmd_offset_lockless(pudp, pud, addr) - pmd_index(addr);
		vb->pmds_addr = addr & PUD_MASK;
	}
	*pmdp = vb->pmds + pmd_index(addr);
	return true;
}

/*
 * Find the PTE of @addr and lock its table, from what the cursor knows. This is
 * what pte_offset_map_lock() does, without the function calls that make up most of
 * its cost for scattered pages; the RCU read lock is kept from one table to the
 * next. 64BIT implies that there is no CONFIG_HIGHPTE. Returns false, with nothing
 * locked, if there is no PTE table, with the size of the hole in @vb->hole, or if
 * it is not certain that there is one, with 0 in @vb->hole.
 */
static __always_inline bool vma_batch_lock_fast(struct vma_batch *vb,
						unsigned long addr, pte_t **ptep)
{
	pmd_t *pmdp, pmd;

	if (unlikely(vb->table_addr == VMA_BATCH_NOWHERE))
		rcu_read_lock();
	else
		spin_unlock(vb->ptl);
	if (unlikely(!vma_batch_pmd(vb, addr, &pmdp)))
		goto out_rcu;
	pmd = pmdp_get_lockless(pmdp);
	if (unlikely(pmd_trans_huge(pmd) || !pmd_present(pmd))) {
		vb->hole = pmd_none(pmd) ? PMD_SIZE : 0;
		goto out_rcu;
	}
	vb->ptl = pte_lockptr(vb->vma->vm_mm, &pmd);
	spin_lock(vb->ptl);
	if (unlikely(!pmd_same(pmd, pmdp_get_lockless(pmdp))))
		goto out_lock;
	vb->table = (pte_t *)pmd_page_vaddr(pmd);
	vb->table_addr = addr & PMD_MASK;
	*ptep = vb->table + pte_index(addr);
	return true;

out_lock:
	vb->hole = 0;
	spin_unlock(vb->ptl);
out_rcu:
	rcu_read_unlock();
	vb->table_addr = VMA_BATCH_NOWHERE;
	return false;
}

/*
 * Make sure that the memory cgroup has room for the upper page tables of one
 * address. The functions that allocate them cannot be told to fail instead of
 * invoking the OOM killer. What is freed here stays charged to this CPU's stock of
 * the cgroup, from which the next charge is taken.
 */
static bool vma_batch_room_for_tables(void)
{
	struct page *page[3];
	int nr;

	for (nr = 0; nr < ARRAY_SIZE(page); nr++) {
		page[nr] = alloc_page(VMA_BATCH_GFP);
		if (!page[nr])
			break;
	}
	for (int i = 0; i < nr; i++)
		__free_page(page[i]);
	return nr == ARRAY_SIZE(page);
}

/* Returns the PMD entry of @addr, allocating the tables above it, or NULL */
static pmd_t *vma_batch_alloc_pmd(struct mm_struct *mm, unsigned long addr)
{
	pmd_t *pmd = mm_find_pmd(mm, addr);
	p4d_t *p4d;
	pud_t *pud;

	if (pmd)
		return pmd;
	if (!vma_batch_room_for_tables())
		return NULL;
	p4d = p4d_alloc(mm, pgd_offset(mm, addr), addr);
	if (!p4d)
		return NULL;
	pud = pud_alloc(mm, p4d, addr);
	return pud ? pmd_alloc(mm, pud, addr) : NULL;
}

/* As pte_alloc(), but fails where the memory cgroup has no room. */
static bool vma_batch_alloc_table(struct vma_batch *vb, pmd_t *pmd)
{
	struct mm_struct *mm = vb->vma->vm_mm;
	pgtable_t new;

	if (!pmd_none(pmdp_get_lockless(pmd)))
		return true;
#ifdef __pte_alloc_one
	new = __pte_alloc_one(mm, VMA_BATCH_GFP);
#else
	/* This architecture's page tables are not allocated page by page */
	new = pte_alloc_one(mm);
#endif
	if (!new)
		return false;
	pmd_install(mm, pmd, &new);
	if (new)
		pte_free(mm, new);
	else
		vb->nr_tables++;
	return true;
}

/*
 * Find the PTE of @addr and lock its table, from the top. Returns NULL if there is
 * no PTE table and, with @alloc, no memory for one.
 */
static noinline pte_t *vma_batch_lock_slow(struct vma_batch *vb, unsigned long addr,
					   bool alloc)
{
	struct mm_struct *mm = vb->vma->vm_mm;
	pte_t *pte = NULL;
	pmd_t *pmd;

	pmd = alloc ? vma_batch_alloc_pmd(mm, addr) : mm_find_pmd(mm, addr);
	vb->hole = PMD_SIZE;
	if (!pmd)
		return NULL;
	while (!alloc || vma_batch_alloc_table(vb, pmd)) {
		pte = pte_offset_map_lock(mm, pmd, addr, &vb->ptl);
		/* A new table is empty, and so may be reclaimed at once: try again */
		if (pte || !alloc)
			break;
	}
	if (!pte)
		return NULL;
	vb->table = pte - pte_index(addr);
	vb->table_addr = addr & PMD_MASK;
	return pte;
}

/* Account for what is about to be done, and offer the CPU if that is too much */
static __always_inline void vma_batch_work(struct vma_batch *vb, unsigned int work)
{
	vb->work += work;
	if (likely(vb->work <= VMA_BATCH_MAX_WORK))
		return;
	vma_batch_unlock(vb);
	/* Also where no table was locked, because there are none */
	vb->work = 0;
	cond_resched();
}

/*
 * Find the PTE of @addr and lock its table, unless it is locked already. Returns
 * false, with the size of the hole in @vb->hole, if there is no PTE table and, with
 * @alloc, no memory for one.
 */
static __always_inline bool vma_batch_lock(struct vma_batch *vb, unsigned long addr,
					   bool alloc, pte_t **ptep)
{
	if (vb->table_addr == (addr & PMD_MASK)) {
		*ptep = vb->table + pte_index(addr);
		return true;
	}
	if (likely(vma_batch_lock_fast(vb, addr, ptep)))
		return true;
	if (!alloc && vb->hole)
		return false;
	*ptep = vma_batch_lock_slow(vb, addr, alloc);
	return *ptep;
}

/* As vma_batch_lock(), for the part of a range of slots that is in one table */
static __always_inline bool vma_batch_lock_part(struct vma_batch *vb, unsigned long addr,
						unsigned long next, bool alloc,
						pte_t **ptep)
{
	vma_batch_work(vb, VMA_BATCH_TABLE_WORK + ((next - addr) >> PAGE_SHIFT));
	return vma_batch_lock(vb, addr, alloc, ptep);
}

/* First address behind the hole that vma_batch_lock() found at @addr, or @end */
static unsigned long vma_batch_hole_end(const struct vma_batch *vb,
					unsigned long addr, unsigned long end)
{
	return min(end - 1, addr | (vb->hole - 1)) + 1;
}

static __always_inline void vma_batch_check_one(struct vma_batch *vb, unsigned long addr)
{
	if (IS_ENABLED(CONFIG_DEBUG_VM))
		vma_assert_stabilised(vb->vma);
	VM_WARN_ON_ONCE(!(vb->vma->vm_flags & VM_MIXEDMAP));
	VM_WARN_ON_ONCE(!IS_ALIGNED(addr, PAGE_SIZE << vb->order));
}

static __always_inline void vma_batch_check(struct vma_batch *vb, unsigned long addr,
					    unsigned long nr_slots)
{
	vma_batch_check_one(vb, addr);
	VM_WARN_ON_ONCE(nr_slots &&
			!range_in_vma(vb->vma, addr,
				      addr + (nr_slots << (PAGE_SHIFT + vb->order))));
}

/* What rmap needs to know of a VMA in which pages are going to be mapped, or were */
#define VMA_BATCH_RMAP_VMA(mm)	TLB_FLUSH_VMA(mm, 0)

/**
 * vma_batch_charge - turn page references into mapping references
 * @mm: the mm in which the pages are going to be mapped
 * @pages: ordinary pages, neither anonymous nor swap-backed, or the head pages of such
 *	folios; for each page of a folio, the caller passes one reference
 * @nr: length of @pages
 *
 * From now on, the pages count as mapped file pages of @mm (MM_FILEPAGES) and of
 * their memory cgroup (NR_FILE_MAPPED), whether they are mapped at the moment or not.
 *
 * Context: Any context in which spin locks may be held.
 */
void vma_batch_charge(struct mm_struct *mm, struct page **pages, unsigned int nr)
{
	struct vm_area_struct vma = VMA_BATCH_RMAP_VMA(mm);
	long sum = 0;

	for (unsigned int i = 0; i < nr; i++) {
		struct folio *folio = page_folio(pages[i]);
		const unsigned int nr_pages = folio_nr_pages(folio);

		VM_WARN_ON_ONCE_FOLIO(folio_test_anon(folio) ||
				      folio_test_swapbacked(folio), folio);
		folio_add_file_rmap_ptes(folio, pages[i], nr_pages, &vma);
		sum += nr_pages;
	}
	add_mm_counter(mm, MM_FILEPAGES, sum);
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_charge, "exmap");

/**
 * vma_batch_uncharge - turn mapping references back into page references
 * @mm: as with vma_batch_charge(); mm_users may have dropped to 0
 * @pages: pages or head pages of folios that are not mapped, of each of which the caller
 *	has the mapping reference
 * @nr: length of @pages
 *
 * Context: As vma_batch_charge().
 */
void vma_batch_uncharge(struct mm_struct *mm, struct page **pages, unsigned int nr)
{
	struct vm_area_struct vma = VMA_BATCH_RMAP_VMA(mm);
	long sum = 0;

	update_hiwater_rss(mm);
	for (unsigned int i = 0; i < nr; i++) {
		struct folio *folio = page_folio(pages[i]);
		const unsigned int nr_pages = folio_nr_pages(folio);

		folio_remove_rmap_ptes(folio, pages[i], nr_pages, &vma);
		sum += nr_pages;
	}
	add_mm_counter(mm, MM_FILEPAGES, -sum);
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_uncharge, "exmap");

/*
 * A slot that lost its page and waits for a flush holds a guard marker, which is
 * how the rest of the kernel sees it, with the generation in offset bits that
 * markers do not use.
 */
#define VMA_BATCH_GENERATION_ONE	(PTE_MARKER_MASK + 1)

/* In place of a generation: only vma_batch_put() may map a page here */
#define VMA_BATCH_RESERVED		BIT(32)

static pte_t vma_batch_marker(unsigned long generation)
{
	return make_pte_marker(PTE_MARKER_GUARD | generation * VMA_BATCH_GENERATION_ONE);
}

static unsigned long vma_batch_marker_generation(pte_t pte)
{
	return swp_offset(softleaf_from_pte(pte)) / VMA_BATCH_GENERATION_ONE;
}

/* Tests whether a marker keeps vma_batch_map() from using its slot */
static bool vma_batch_is_kept(struct vma_batch *vb, pte_t pte)
{
	const unsigned long generation = vma_batch_marker_generation(pte);
	u32 flushed;

	if (generation == VMA_BATCH_RESERVED)
		return true;
	if (!vb->flushed)
		return false;
	/* @flushed must not be older than the marker */
	smp_rmb();
	/* Pairs with the release store after the flush: map only after that */
	flushed = smp_load_acquire(vb->flushed);
	/* Generations wrap around: an old one may look new, but never the reverse */
	return (u32)generation - flushed - 1 < 2;
}

/*
 * Stop at a slot that holds a marker, if that says so. Kept out of line, because few of the
 * slots that are mapped hold one.
 */
static noinline bool vma_batch_stops(struct vma_batch *vb, pte_t pte)
{
	if (!vma_batch_is_kept(vb, pte))
		return false;
	vb->stop = vma_batch_marker_generation(pte) == VMA_BATCH_RESERVED ?
		   VMA_BATCH_TAKEN : VMA_BATCH_UNFLUSHED;
	return true;
}

/* Flush the TLB for what has been unmapped so far */
static __always_inline void vma_batch_flush_pending(struct vma_batch *vb)
{
	flush_tlb_range(vb->vma, vb->flush_start, vb->flush_end);
	vb->flush_start = ULONG_MAX;
	vb->flush_end = 0;
	/*
	 * Order the cleared PTEs before the caller's look at the reference counts.
	 * Pairs with gup_fast_pte_range(), which takes a reference before it looks
	 * at the PTE a second time.
	 */
	smp_mb();
}

static __always_inline void vma_batch_to_flush(struct vma_batch *vb,
					       unsigned long start, unsigned long end)
{
	vb->flush_start = min(vb->flush_start, start);
	vb->flush_end = max(vb->flush_end, end);
}

/* The PTE of a page, with vm_page_prot as it is now */
static __always_inline pte_t vma_batch_pte(struct vm_area_struct *vma, unsigned long pfn,
					   bool clean)
{
	/*
	 * Setting these bits saves a fault where the hardware does not. The dirty
	 * bit is set even if nobody may write at the moment: the content is new to
	 * whoever writes dirty pages to a file.
	 */
	pte_t pte = pte_mkyoung(pfn_pte(pfn, vma->vm_page_prot));

	pte = pte_mksoft_dirty(pte_mkdirty(pte));
	return clean ? pte_mkclean(pte) : pte;
}

/* The PTE of page frame 0: other page frames are added to it, which takes less time */
static __always_inline pte_t vma_batch_prototype(const struct vma_batch *vb)
{
	return vma_batch_pte(vb->vma, 0, vb->clean);
}

/*
 * Tests whether a part of a folio is poisoned. memory_failure() sets the flag of the page,
 * but none of the folio, because it does not handle folios of drivers.
 */
static __always_inline bool vma_batch_is_poisoned(const struct vma_batch *vb,
						  struct page *page)
{
#ifdef CONFIG_MEMORY_FAILURE
	if (likely(!atomic_long_read(&num_poisoned_pages)))
		return false;
	for (unsigned int i = 0; i < 1U << vb->order; i++)
		if (PageHWPoison(page + i))
			return true;
#endif
	return false;
}

/* Whether a page may be mapped in place of @old, which is not present */
static __always_inline bool vma_batch_may_map(struct vma_batch *vb, pte_t old,
					      struct page *page, bool large)
{
	if (unlikely(!pte_none(old) && vma_batch_stops(vb, old)))
		return false;
	if (unlikely(large ? vma_batch_is_poisoned(vb, page) : PageHWPoison(page))) {
		vb->stop = VMA_BATCH_POISONED;
		return false;
	}
	return true;
}

/* Bytes of address space of a slot */
static __always_inline unsigned long vma_batch_slot_size(const struct vma_batch *vb)
{
	return PAGE_SIZE << vb->order;
}

/*
 * Returns the folio of a slot of more than one page, or NULL. Some of the entries may be
 * empty, after a MADV_DONTNEED for a part of the slot.
 */
static noinline struct folio *vma_batch_folio(const struct vma_batch *vb, pte_t *ptep)
{
	for (unsigned int i = 0; i < 1U << vb->order; i++)
		if (pte_present(ptep_get(ptep + i)))
			return page_folio(pte_page(ptep_get(ptep + i)));
	return NULL;
}

/*
 * Tests whether the entries of a slot behind the first one have no page. Where empty entries
 * are zero, this takes one instruction for each of them.
 */
static __always_inline bool vma_batch_rest_is_empty(const struct vma_batch *vb, pte_t *ptep)
{
	const unsigned int nr = 1U << vb->order;
	unsigned long any = pte_val(ptep_get(ptep + 1));

	for (unsigned int i = 2; i < nr; i += 2)
		any |= pte_val(ptep_get(ptep + i)) | pte_val(ptep_get(ptep + i + 1));
	return likely(!any) || !vma_batch_folio(vb, ptep);
}

static __always_inline void vma_batch_set(struct vma_batch *vb, unsigned long addr,
					  pte_t *ptep, struct page *page, pte_t pte)
{
	/* See vma_batch_charge() */
	VM_WARN_ON_ONCE_PAGE(atomic_read(&page->_mapcount) < 0, page);
	flush_dcache_page(page);
	set_pte_at(vb->vma->vm_mm, addr, ptep, pte);
	update_mmu_cache(vb->vma, addr, ptep);
}

static __always_inline void vma_batch_map_one(struct vma_batch *vb, pte_t proto,
					      unsigned long addr, pte_t *ptep,
					      struct page *page)
{
	vma_batch_set(vb, addr, ptep, page, pte_advance_pfn(proto, page_to_pfn(page)));
}

static __always_inline void vma_batch_publish(void)
{
	/*
	 * Whoever sees the PTE of a page must see the content that the caller has
	 * put there, as __folio_mark_uptodate() ensures for other pages.
	 */
	smp_wmb();
}

static noinline unsigned long vma_batch_map_range(struct vma_batch *vb,
						  unsigned long addr,
						  const unsigned long end)
{
	const pte_t proto = vma_batch_prototype(vb);
	unsigned int nr = vb->nr;
	unsigned long next;

	for (; addr != end; addr = next) {
		pte_t *ptep;

		next = pmd_addr_end(addr, end);
		/* Do not leave an empty table behind where no page is left to map */
		if (!vma_batch_lock_part(vb, addr, next, nr, &ptep)) {
			vb->stop = nr ? VMA_BATCH_NOMEM : VMA_BATCH_EMPTY;
			break;
		}

		/* In lazy MMU mode, an entry must not be read after it was changed */
		lazy_mmu_mode_enable();
		for (; addr != next; addr += PAGE_SIZE, ptep++) {
			const pte_t old = ptep_get(ptep);

			if (pte_present(old))
				continue;
			if (unlikely(!nr)) {
				vb->stop = VMA_BATCH_EMPTY;
				break;
			}
			if (!vma_batch_may_map(vb, old, vb->pages[nr - 1], false))
				break;
			vma_batch_map_one(vb, proto, addr, ptep, vb->pages[--nr]);
		}
		lazy_mmu_mode_disable();
		if (addr != next)
			break;
	}
	vb->nr = nr;
	return addr;
}

/* Addresses that are done together: fewer if each has many entries */
static __always_inline unsigned int vma_batch_max_chunk(const struct vma_batch *vb)
{
	return min(VMA_BATCH_CHUNK, VMA_BATCH_MAX_WORK >> vb->order);
}

static noinline void vma_batch_prefetch_far(struct vma_batch *vb,
					    const unsigned long *addrs,
					    unsigned int nr_addrs)
{
	pmd_t *pmds[VMA_BATCH_CHUNK], pmd;

	for (unsigned int i = 0; i < nr_addrs; i++) {
		pmds[i] = mm_find_pmd(vb->vma->vm_mm, addrs[i]);
		prefetch(pmds[i]);
	}
	for (unsigned int i = 0; i < nr_addrs; i++) {
		if (!pmds[i])
			continue;
		pmd = pmdp_get_lockless(pmds[i]);
		if (!pmd_present(pmd))
			continue;
		prefetchw((pte_t *)pmd_page_vaddr(pmd) + pte_index(addrs[i]));
		prefetchw(pmd_page(pmd));
	}
}

/*
 * Fetch what the addresses of a chunk need into the cache, if they are so far apart
 * that it is unlikely to be there: the PMD entries, then the PTEs and the locks. Each of
 * them is a cache miss that the locked operations would not let overlap with others.
 */
static __always_inline void vma_batch_prefetch(struct vma_batch *vb,
					       const unsigned long *addrs,
					       unsigned int nr_addrs)
{
	if (unlikely(addrs[nr_addrs - 1] - addrs[0] + VMA_BATCH_FAR > 2 * VMA_BATCH_FAR))
		vma_batch_prefetch_far(vb, addrs, nr_addrs);
}

/* Map a folio in all entries of a slot */
static void vma_batch_set_large(struct vma_batch *vb, unsigned long addr, pte_t *ptep,
				struct page *page, pte_t pte)
{
	const unsigned int nr = 1U << vb->order;

	VM_WARN_ON_ONCE_PAGE(folio_order(page_folio(page)) != vb->order, page);
	VM_WARN_ON_ONCE_PAGE(folio_mapcount(page_folio(page)) < nr, page);
	flush_dcache_folio(page_folio(page));
	set_ptes(vb->vma->vm_mm, addr, ptep, pte, nr);
	update_mmu_cache_range(NULL, vb->vma, addr, ptep, nr);
}

/*
 * Carry out vma_batch_map_each() for up to VMA_BATCH_CHUNK addresses, for each of
 * which there is a page. The position in the array is kept in a register. There is an
 * instance for slots of one page, and another one for @large slots.
 */
static __always_inline unsigned int vma_batch_map_chunk(struct vma_batch *vb,
							unsigned long *addrs,
							unsigned int nr_addrs, bool large)
{
	const pte_t proto = vma_batch_prototype(vb);
	struct page **page = vb->pages + vb->nr, *next;
	unsigned int i;

	for (i = 0; i < nr_addrs; i++) {
		const unsigned long addr = addrs[i];
		pte_t *ptep, old;

		vma_batch_check_one(vb, addr);
		if (unlikely(!vma_batch_lock(vb, addr, !vb->no_tables, &ptep))) {
			vb->stop = VMA_BATCH_NOMEM;
			break;
		}
		old = ptep_get(ptep);
		if (unlikely(!pte_none(old) && pte_present(old)) ||
		    (large && unlikely(!vma_batch_rest_is_empty(vb, ptep)))) {
			addrs[i] = VMA_BATCH_NOWHERE;
			if (vb->paired)
				page--;
			continue;
		}
		next = page[-1];
		if (unlikely(!vma_batch_may_map(vb, old, next, large)))
			break;
		page--;
		if (large)
			vma_batch_set_large(vb, addr, ptep, next,
					    pte_advance_pfn(proto, page_to_pfn(next)));
		else
			vma_batch_map_one(vb, proto, addr, ptep, next);
	}
	vb->nr = page - vb->pages;
	return i;
}

static noinline unsigned int vma_batch_map_chunk_small(struct vma_batch *vb,
						       unsigned long *addrs,
						       unsigned int nr_addrs)
{
	return vma_batch_map_chunk(vb, addrs, nr_addrs, false);
}

static noinline unsigned int vma_batch_map_chunk_large(struct vma_batch *vb,
						       unsigned long *addrs,
						       unsigned int nr_addrs)
{
	return vma_batch_map_chunk(vb, addrs, nr_addrs, true);
}

static unsigned long vma_batch_map_range_large(struct vma_batch *vb, unsigned long addr,
					       const unsigned long end)
{
	for (; addr != end; addr += vma_batch_slot_size(vb)) {
		unsigned long one = addr;
		pte_t *ptep;

		vma_batch_work(vb, VMA_BATCH_TABLE_WORK + (1U << vb->order));
		if (likely(vb->nr)) {
			if (!vma_batch_map_chunk_large(vb, &one, 1))
				break;
		} else if (!vma_batch_lock(vb, addr, false, &ptep) ||
			   !vma_batch_folio(vb, ptep)) {
			vb->stop = VMA_BATCH_EMPTY;
			break;
		}
	}
	return addr;
}

/**
 * vma_batch_map - map pages in the empty slots of a range
 * @vb: the cursor
 * @addr: first address of the range, slot aligned
 * @nr_slots: length of the range in slots
 *
 * Maps the last page of the array in every slot of the range that has no page, in
 * ascending order of addresses, and skips the slots that have one. User space will
 * see the content of the pages. The mapping reference of each page goes over to
 * its PTE. A poisoned page is not mapped. If the range overlaps with what was
 * unmapped since the last vma_batch_end(), the TLB is flushed first, so that no
 * address goes from one page to another without a flush in between.
 *
 * Context: See vma_batch_begin(). May allocate page tables, and thus sleep, before
 * it takes a page table lock; holds that lock on return.
 *
 * Return: The number of slots that are done, mapped or skipped, from @addr on. If it
 * is less than @nr_slots, @vb->stop says why.
 */
unsigned long vma_batch_map(struct vma_batch *vb, unsigned long addr,
			    unsigned long nr_slots)
{
	const unsigned long end = addr + (nr_slots << (PAGE_SHIFT + vb->order));

	vma_batch_check(vb, addr, nr_slots);
	vma_batch_publish();
	if (unlikely(vb->flush_end > addr && vb->flush_start < end))
		vma_batch_flush_pending(vb);
	if (unlikely(vb->order))
		return (vma_batch_map_range_large(vb, addr, end) - addr) >>
		       (PAGE_SHIFT + vb->order);
	if (likely(nr_slots == 1 && vb->nr)) {
		vma_batch_work(vb, VMA_BATCH_TABLE_WORK);
		return vma_batch_map_chunk_small(vb, &addr, 1);
	}
	return (vma_batch_map_range(vb, addr, end) - addr) >> PAGE_SHIFT;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_map, "exmap");

/**
 * vma_batch_map_each - vma_batch_map() for single slots at many addresses
 * @vb: the cursor
 * @addrs: the addresses, slot aligned. Each that is done, but whose slot had a page
 *	before, is replaced by VMA_BATCH_NOWHERE.
 * @nr_addrs: length of @addrs
 *
 * If the mmap_lock is held, the addresses may lie in several VM_MIXEDMAP VMAs of the mm
 * that have the same vm_page_prot, and slots of the same size.
 *
 * Context: As vma_batch_map().
 *
 * Return: The number of addresses that are done, from the first on. If it is less
 * than @nr_addrs, @vb->stop says why; with VMA_BATCH_EMPTY, the slot of the next
 * address may have a page.
 */
unsigned int vma_batch_map_each(struct vma_batch *vb, unsigned long *addrs,
				unsigned int nr_addrs)
{
	unsigned int done = 0, chunk, some;

	vma_batch_publish();
	if (unlikely(vb->flush_end))
		vma_batch_flush_pending(vb);
	do {
		chunk = min3(nr_addrs - done, vb->nr, vma_batch_max_chunk(vb));
		if (unlikely(!chunk)) {
			vb->stop = VMA_BATCH_EMPTY;
			break;
		}
		vma_batch_work(vb, chunk * VMA_BATCH_TABLE_WORK);
		vma_batch_prefetch(vb, addrs + done, chunk);
		some = vb->order ? vma_batch_map_chunk_large(vb, addrs + done, chunk) :
				   vma_batch_map_chunk_small(vb, addrs + done, chunk);
		done += some;
	} while (some == chunk && done != nr_addrs);
	return done;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_map_each, "exmap");

/* Unmap the page of a slot, which has one, and return the page */
static __always_inline struct page *vma_batch_unmap_one(struct vma_batch *vb,
							unsigned long addr, pte_t *ptep,
							bool deferred)
{
	struct vm_area_struct *vma = vb->vma;
	/* The hardware may set bits at any time before this */
	const pte_t pte = ptep_get_and_clear(vma->vm_mm, addr, ptep);
	struct page *page = pte_page(pte);

	if (deferred) {
		set_pte_at(vma->vm_mm, addr, ptep, vma_batch_marker(vb->generation));
		/* For vma_batch_map_back() */
		page_folio(page)->index = addr >> PAGE_SHIFT;
		set_page_private(page, vb->generation);
	}
	/* Checks, and does nothing else */
	if (IS_ENABLED(CONFIG_DEBUG_VM))
		arch_check_zapped_pte(vma, pte);
	VM_WARN_ON_ONCE(pte_special(pte));
	return page;
}

/*
 * Free the tables that vma_batch_note_empty() has found. Other users may have put
 * pages there meanwhile, so each table is looked at again.
 */
static noinline void vma_batch_free_empty(struct vma_batch *vb)
{
	struct mm_struct *mm = vb->vma->vm_mm;
	struct mmu_gather gather, *const tlb = &gather;

	if (!vb->nr_empty)
		return;
	vma_batch_unlock(vb);
	tlb_gather_mmu(tlb, mm);
	while (vb->nr_empty) {
		const unsigned long addr = vb->empty[--vb->nr_empty];
		pmd_t *pmd = mm_find_pmd(mm, addr), pmdval;

		if (pmd && zap_pte_table_if_empty(mm, pmd, addr, &pmdval)) {
			pte_free_tlb(tlb, pmd_pgtable(pmdval), addr);
			mm_dec_nr_ptes(mm);
			vb->nr_tables--;
		}
	}
	tlb_finish_mmu(tlb);
}

/*
 * Remember the locked table if it is empty, and clear the markers in it that mean
 * nothing any more. The table may be freed, and the lock be dropped, at once.
 */
static noinline void vma_batch_note_empty(struct vma_batch *vb)
{
	const unsigned long addr = vb->table_addr;
	pte_t *ptep = vb->table;
	bool markers = false;

	/* Part of the table may belong to another VMA, which is not locked */
	if (!IS_ENABLED(CONFIG_PT_RECLAIM) || !range_in_vma(vb->vma, addr, addr + PMD_SIZE))
		return;
	for (unsigned int i = 0; i < PTRS_PER_PTE; i++) {
		const pte_t pte = ptep_get(ptep + i);

		if (likely(pte_none(pte)))
			continue;
		if (pte_present(pte) || vma_batch_is_kept(vb, pte))
			return;
		markers = true;
	}
	for (unsigned int i = 0; markers && i < PTRS_PER_PTE; i++)
		if (!pte_none(ptep_get(ptep + i)))
			pte_clear(vb->vma->vm_mm, addr + i * PAGE_SIZE, ptep + i);
	vb->empty[vb->nr_empty++] = addr;
	if (vb->nr_empty == VMA_BATCH_EMPTY_TABLES)
		vma_batch_free_empty(vb);
}

/*
 * Make the mapping reference of the folio of a slot complete, of which MADV_DONTNEED has
 * dropped a part, and clear the entries that are left. Returns the head page, or NULL if
 * there is no folio.
 */
static noinline struct page *vma_batch_unmap_rest(struct vma_batch *vb, unsigned long addr,
						  pte_t *ptep)
{
	struct vm_area_struct *vma = vb->vma;
	struct folio *folio = vma_batch_folio(vb, ptep);
	long missing = 0;

	if (!folio)
		return NULL;
	for (unsigned int i = 0; i < 1U << vb->order; i++) {
		if (pte_present(ptep_get(ptep + i))) {
			ptep_get_and_clear(vma->vm_mm, addr + i * PAGE_SIZE, ptep + i);
			continue;
		}
		folio_get(folio);
		folio_add_file_rmap_pte(folio, folio_page(folio, i), vma);
		missing++;
	}
	add_mm_counter(vma->vm_mm, MM_FILEPAGES, missing);
	return folio_page(folio, 0);
}

/*
 * Unmap the folio of a slot of more than one page, and return its head page, or NULL if
 * there is none. If it is @deferred, the first entry holds the generation for all.
 */
static __always_inline struct page *vma_batch_unmap_large(struct vma_batch *vb,
							  unsigned long addr, pte_t *ptep,
							  bool deferred)
{
	const unsigned int nr = 1U << vb->order;
	struct mm_struct *mm = vb->vma->vm_mm;
	const pte_t first = ptep_get(ptep);
	struct page *page = pte_page(first);

	/* Whatever MADV_DONTNEED takes away is missing in the mapcount */
	if (likely(pte_present(first) &&
		   folio_large_mapcount((struct folio *)page) == nr)) {
		clear_full_ptes(mm, addr, ptep, nr, 0);
	} else {
		page = vma_batch_unmap_rest(vb, addr, ptep);
		if (!page)
			return NULL;
	}
	if (deferred) {
		set_pte_at(mm, addr, ptep, vma_batch_marker(vb->generation));
		/* For vma_batch_map_back() */
		page_folio(page)->index = addr >> PAGE_SHIFT;
		set_page_private(page, vb->generation);
	}
	return page;
}

/* Carry out vma_batch_unmap_range() where slots have more than one page */
static noinline unsigned long vma_batch_unmap_range_large(struct vma_batch *vb,
							  unsigned long addr,
							  const unsigned long end)
{
	const unsigned long size = vma_batch_slot_size(vb);
	unsigned long next;

	for (; addr != end; addr = next) {
		struct page *page;
		pte_t *ptep;

		next = addr + size;
		if (!vma_batch_lock_part(vb, addr, next, false, &ptep)) {
			next = vma_batch_hole_end(vb, addr, end);
			continue;
		}
		if (unlikely(vb->nr == vb->max) && vma_batch_folio(vb, ptep)) {
			vb->stop = VMA_BATCH_FULL;
			break;
		}
		page = vma_batch_unmap_large(vb, addr, ptep, vb->deferred);
		if (!page)
			continue;
		vb->pages[vb->nr++] = page;
		if (!vb->deferred)
			vma_batch_to_flush(vb, addr, next);
		if (unlikely(vb->free_tables))
			vma_batch_note_empty(vb);
	}
	return addr;
}

static noinline unsigned long vma_batch_unmap_range(struct vma_batch *vb,
						    unsigned long addr,
						    const unsigned long end)
{
	const bool deferred = vb->deferred;
	unsigned long first = addr, last = addr;
	const unsigned int before = vb->nr;
	unsigned long next;

	if (unlikely(vb->order))
		return vma_batch_unmap_range_large(vb, addr, end);
	for (; addr != end; addr = next) {
		unsigned int nr = vb->nr;
		pte_t *ptep;

		next = pmd_addr_end(addr, end);
		if (!vma_batch_lock_part(vb, addr, next, false, &ptep)) {
			next = vma_batch_hole_end(vb, addr, end);
			continue;
		}

		lazy_mmu_mode_enable();
		for (; addr != next; addr += PAGE_SIZE, ptep++) {
			if (!pte_present(ptep_get(ptep)))
				continue;
			if (unlikely(nr == vb->max)) {
				vb->stop = VMA_BATCH_FULL;
				break;
			}
			if (nr == before)
				first = addr;
			vb->pages[nr++] = vma_batch_unmap_one(vb, addr, ptep, deferred);
			last = addr;
		}
		lazy_mmu_mode_disable();
		if (unlikely(vb->free_tables) && nr != vb->nr)
			vma_batch_note_empty(vb);
		vb->nr = nr;
		if (addr != next)
			break;
	}
	if (vb->nr != before && !deferred)
		vma_batch_to_flush(vb, first, last + PAGE_SIZE);
	return addr;
}

/*
 * Carry out vma_batch_unmap_each() for up to VMA_BATCH_CHUNK addresses, for each of
 * which there is room. What changes with each address is kept in registers. There is an
 * instance for each value of @deferred: a test for each address would make unmapping and
 * mapping a page 3 instructions longer, and 11 if flushes are deferred. Another one is for
 * @large slots.
 */
static __always_inline void vma_batch_unmap_chunk(struct vma_batch *vb,
						  unsigned long *addrs,
						  unsigned int nr_addrs, bool deferred,
						  bool large)
{
	unsigned long first = ULONG_MAX, last = 0;
	const unsigned long size = large ? vma_batch_slot_size(vb) : PAGE_SIZE;
	struct page **page = vb->pages + vb->nr;

	for (unsigned int i = 0; i < nr_addrs; i++) {
		const unsigned long addr = addrs[i];
		pte_t *ptep;

		vma_batch_check_one(vb, addr);
		flush_cache_range(vb->vma, addr, addr + size);
		if (unlikely(!vma_batch_lock(vb, addr, false, &ptep) ||
			     (!large && !pte_present(ptep_get(ptep))))) {
			addrs[i] = VMA_BATCH_NOWHERE;
			continue;
		}
		*page = large ? vma_batch_unmap_large(vb, addr, ptep, deferred) :
				vma_batch_unmap_one(vb, addr, ptep, deferred);
		if (large && unlikely(!*page)) {
			addrs[i] = VMA_BATCH_NOWHERE;
			continue;
		}
		page++;
		first = min(first, addr);
		last = max(last, addr);
		if (unlikely(vb->free_tables))
			vma_batch_note_empty(vb);
	}
	if (!deferred && page != vb->pages + vb->nr)
		vma_batch_to_flush(vb, first, last + size);
	vb->nr = page - vb->pages;
}

static noinline void vma_batch_unmap_chunk_deferred(struct vma_batch *vb,
						    unsigned long *addrs,
						    unsigned int nr_addrs)
{
	vma_batch_unmap_chunk(vb, addrs, nr_addrs, true, false);
}

static noinline void vma_batch_unmap_chunk_strict(struct vma_batch *vb,
						  unsigned long *addrs,
						  unsigned int nr_addrs)
{
	vma_batch_unmap_chunk(vb, addrs, nr_addrs, false, false);
}

static noinline void vma_batch_unmap_chunk_large(struct vma_batch *vb,
						 unsigned long *addrs,
						 unsigned int nr_addrs)
{
	vma_batch_unmap_chunk(vb, addrs, nr_addrs, vb->deferred, true);
}

/* Have secondary MMUs let go of a range, which may sleep */
static void vma_batch_notify_start(struct vma_batch *vb, struct mmu_notifier_range *range,
				   enum mmu_notifier_event event,
				   unsigned long start, unsigned long end)
{
	vma_batch_unlock(vb);
	mmu_notifier_range_init(range, event, 0, vb->vma->vm_mm, start, end);
	mmu_notifier_invalidate_range_start(range);
}

static void vma_batch_notify_end(struct vma_batch *vb, struct mmu_notifier_range *range)
{
	vma_batch_unlock(vb);
	mmu_notifier_invalidate_range_end(range);
}

static noinline unsigned long vma_batch_unmap_notify(struct vma_batch *vb,
						     unsigned long start,
						     unsigned long end)
{
	struct mmu_notifier_range range;
	unsigned long addr;

	if (start == end)
		return end;
	vma_batch_notify_start(vb, &range, MMU_NOTIFY_CLEAR, start, end);
	addr = vma_batch_unmap_range(vb, start, end);
	vma_batch_notify_end(vb, &range);
	return addr;
}

/**
 * vma_batch_unmap - take the pages out of a range
 * @vb: the cursor
 * @addr: first address of the range, slot aligned
 * @nr_slots: length of the range in slots
 *
 * Clears every present PTE of the range and appends its page, with the mapping
 * reference, to the array. Of a slot of which MADV_DONTNEED has taken a part, what is left
 * is cleared, and the mapping reference is made complete again. CPUs may still reach the
 * pages through their old addresses until vma_batch_end() has returned or, with
 * @vb->deferred, until a vma_batch_flush() that covers @vb->generation has. Secondary MMUs
 * with notifiers, such as KVM, hold no page references, and have let go of the pages on
 * return.
 *
 * Context: See vma_batch_begin(). May sleep in mmu notifiers before it takes a
 * page table lock; holds that lock on return.
 *
 * Return: The number of slots that are done, from @addr on. If it is less than
 * @nr_slots, the array is full.
 */
unsigned long vma_batch_unmap(struct vma_batch *vb, unsigned long addr,
			      unsigned long nr_slots)
{
	const unsigned int shift = PAGE_SHIFT + vb->order;
	const unsigned long end = addr + (nr_slots << shift);

	vma_batch_check(vb, addr, nr_slots);
	flush_cache_range(vb->vma, addr, end);
	/* Registration locks every VMA for writing: this cannot change here */
	if (unlikely(mm_has_notifiers(vb->vma->vm_mm)))
		return (vma_batch_unmap_notify(vb, addr, end) - addr) >> shift;
	return (vma_batch_unmap_range(vb, addr, end) - addr) >> shift;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_unmap, "exmap");

/**
 * vma_batch_unmap_each - vma_batch_unmap() for single slots at many addresses
 * @vb: the cursor
 * @addrs: the addresses, slot aligned. Each that is done, but whose slot had no
 *	page, is replaced by VMA_BATCH_NOWHERE.
 * @nr_addrs: length of @addrs
 *
 * If the mmap_lock is held, the addresses may lie in several VM_MIXEDMAP VMAs of the mm
 * with slots of the same size, but not with @vb->free_tables.
 *
 * Context: As vma_batch_unmap().
 *
 * Return: The number of addresses that are done, from the first on. If it is less
 * than @nr_addrs, the array is full.
 */
unsigned int vma_batch_unmap_each(struct vma_batch *vb, unsigned long *addrs,
				  unsigned int nr_addrs)
{
	const bool notify = mm_has_notifiers(vb->vma->vm_mm);
	unsigned int done, chunk;

	for (done = 0; done != nr_addrs; done += chunk) {
		const unsigned int before = vb->nr;

		chunk = min3(nr_addrs - done, vb->max - vb->nr, vma_batch_max_chunk(vb));
		if (unlikely(!chunk)) {
			vb->stop = VMA_BATCH_FULL;
			break;
		}
		if (unlikely(notify)) {
			const unsigned long end = addrs[done] + vma_batch_slot_size(vb);

			chunk = 1;
			flush_cache_range(vb->vma, addrs[done], end);
			vma_batch_unmap_notify(vb, addrs[done], end);
			if (vb->nr == before)
				addrs[done] = VMA_BATCH_NOWHERE;
			continue;
		}
		vma_batch_work(vb, chunk * VMA_BATCH_TABLE_WORK);
		vma_batch_prefetch(vb, addrs + done, chunk);
		if (unlikely(vb->order))
			vma_batch_unmap_chunk_large(vb, addrs + done, chunk);
		else if (vb->deferred)
			vma_batch_unmap_chunk_deferred(vb, addrs + done, chunk);
		else
			vma_batch_unmap_chunk_strict(vb, addrs + done, chunk);
	}
	return done;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_unmap_each, "exmap");

/* Map a page, or a folio, in a slot that holds a marker with a generation */
static bool vma_batch_replace(struct vma_batch *vb, unsigned long addr, struct page *page,
			      unsigned long generation)
{
	pte_t *ptep, pte;

	vma_batch_check(vb, addr, 1);
	if (!vma_batch_lock_part(vb, addr, addr + PAGE_SIZE, false, &ptep) ||
	    !pte_same(ptep_get(ptep), vma_batch_marker(generation)))
		return false;
	pte = vma_batch_pte(vb->vma, page_to_pfn(page), vb->clean);
	if (vb->order)
		vma_batch_set_large(vb, addr, ptep, page, pte);
	else
		vma_batch_set(vb, addr, ptep, page, pte);
	return true;
}

/**
 * vma_batch_map_back - map a page where it was before
 * @vb: the cursor, with the same VMA
 * @addr: the address of the slot
 * @page: a page that was unmapped with @vb->deferred and not used since
 *
 * No flush is needed: a CPU that still sees the old PTE sees the right page.
 *
 * Context: As vma_batch_map(), but does not allocate, and so does not sleep.
 *
 * Return: true if @page was unmapped from this slot and the slot has not been used
 * since. The slot has the page and its mapping reference again.
 */
bool vma_batch_map_back(struct vma_batch *vb, unsigned long addr, struct page *page)
{
	return !vma_batch_is_poisoned(vb, page) &&
	       page_folio(page)->index == addr >> PAGE_SHIFT &&
	       vma_batch_replace(vb, addr, page, page_private(page));
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_map_back, "exmap");

/**
 * vma_batch_take - take the page out of a slot that is going to get another one
 * @vb: the cursor
 * @addr: the address of the slot
 *
 * As vma_batch_unmap() with @vb->deferred for one slot, but the slot stays reserved until
 * vma_batch_put(): vma_batch_map() stops at it with %VMA_BATCH_TAKEN. If the page is dirty as
 * vma_batch_hold() sees it, its dirty flag is set. A slot of which MADV_DONTNEED has taken a
 * part is left alone.
 *
 * Context: As vma_batch_unmap().
 * Return: the page, with its mapping reference, which other CPUs may still reach until
 * vma_batch_flush() has returned; NULL if the slot has none, or not all of it.
 */
struct page *vma_batch_take(struct vma_batch *vb, unsigned long addr)
{
	const unsigned long end = addr + vma_batch_slot_size(vb);
	const unsigned int nr = 1U << vb->order;
	struct mm_struct *mm = vb->vma->vm_mm;
	const bool notify = mm_has_notifiers(mm);
	struct mmu_notifier_range range;
	struct page *page = NULL;
	pte_t *ptep, pte;

	vma_batch_check(vb, addr, 1);
	flush_cache_range(vb->vma, addr, end);
	if (unlikely(notify))
		vma_batch_notify_start(vb, &range, MMU_NOTIFY_CLEAR, addr, end);
	if (vma_batch_lock_part(vb, addr, end, false, &ptep)) {
		pte = ptep_get(ptep);
		if (pte_present(pte) &&
		    (!vb->order || folio_large_mapcount(pfn_folio(pte_pfn(pte))) == nr)) {
			pte = get_and_clear_full_ptes(mm, addr, ptep, nr, 0);
			page = pte_page(pte);
			if (pte_dirty(pte))
				folio_set_dirty(page_folio(page));
			set_pte_at(mm, addr, ptep, vma_batch_marker(VMA_BATCH_RESERVED));
		}
	}
	if (unlikely(notify))
		vma_batch_notify_end(vb, &range);
	return page;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_take, "exmap");

/**
 * vma_batch_put - map a page in a slot that vma_batch_take() has reserved
 * @vb: the cursor, with the same VMA
 * @addr: the address of the slot
 * @page: the page that was taken, or another one; after the flush
 *
 * The page may be poisoned, because it may have been when it was taken.
 *
 * Context: As vma_batch_map_back().
 * Return: true if the slot has the page and its mapping reference. False if the slot is not
 * reserved.
 */
bool vma_batch_put(struct vma_batch *vb, unsigned long addr, struct page *page)
{
	return vma_batch_replace(vb, addr, page, VMA_BATCH_RESERVED);
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_put, "exmap");

/* Clear the dirty state of a folio and of its PTEs. Returns whether it was dirty. */
static bool vma_batch_clean(struct vma_batch *vb, unsigned long addr, pte_t *ptep,
			    struct folio *folio)
{
	bool dirty = folio_test_clear_dirty(folio);

	for (const pte_t *end = ptep + (1UL << vb->order); ptep != end;
	     ptep++, addr += PAGE_SIZE) {
		pte_t pte = ptep_get(ptep);

		if (!pte_present(pte) || !pte_dirty(pte))
			continue;
		dirty = true;
		pte = ptep_modify_prot_start(vb->vma, addr, ptep);
		ptep_modify_prot_commit(vb->vma, addr, ptep, pte, pte_mkclean(pte));
		/* A CPU with a dirty TLB entry would not set the bit again */
		vma_batch_to_flush(vb, addr, addr + PAGE_SIZE);
	}
	return dirty;
}

/**
 * vma_batch_hold - take a reference to the page of a slot
 * @vb: the cursor
 * @addr: address of the slot
 * @dirty: take it only if the page is dirty, and make the page clean. It is dirty
 *	if user space may have written to it since it was mapped clean or was
 *	cleaned, or if its dirty flag is set. What is written to it after the next
 *	vma_batch_end() makes it dirty again.
 * @page: set to the page, or to the head page of the folio, with a new reference; or to
 *	NULL
 *
 * The page stays mapped. Unlike pin_user_pages_fast(), this does not call the fault
 * handler of the VMA for an empty slot, and can test the dirty state and clear it.
 *
 * Context: As vma_batch_unmap().
 * Return: Whether the slot has a page.
 */
bool vma_batch_hold(struct vma_batch *vb, unsigned long addr, bool dirty,
		    struct page **page)
{
	const bool notify = dirty && mm_has_notifiers(vb->vma->vm_mm);
	const unsigned long end = addr + vma_batch_slot_size(vb);
	struct mmu_notifier_range range;
	struct folio *folio = NULL;
	pte_t *ptep;

	vma_batch_check(vb, addr, 1);
	*page = NULL;
	if (notify)
		vma_batch_notify_start(vb, &range, MMU_NOTIFY_PROTECTION_PAGE, addr, end);
	if (vma_batch_lock_part(vb, addr, end, false, &ptep))
		folio = vma_batch_folio(vb, ptep);
	if (folio && (!dirty || vma_batch_clean(vb, addr, ptep, folio))) {
		folio_get(folio);
		*page = folio_page(folio, 0);
	}
	if (notify)
		vma_batch_notify_end(vb, &range);
	return folio;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_hold, "exmap");

/* Returns the bits of enum vma_batch_slot of one entry */
static u8 vma_batch_query_entry(struct vma_batch *vb, unsigned long addr, pte_t *ptep,
				bool age)
{
	struct vm_area_struct *vma = vb->vma;
	const pte_t pte = ptep_get(ptep);
	u8 slot = VMA_BATCH_SLOT_PAGE;

	if (!pte_present(pte))
		return 0;
	if (pte_dirty(pte) || folio_test_dirty(page_folio(pte_page(pte))))
		slot |= VMA_BATCH_SLOT_DIRTY;
	if (age ? test_and_clear_young_ptes_notify(vma, addr, ptep, 1) :
		  pte_young(pte) || mmu_notifier_test_young(vma->vm_mm, addr))
		slot |= VMA_BATCH_SLOT_YOUNG;
	return slot;
}

/* Returns the bits of all entries of a slot */
static noinline u8 vma_batch_query_slot(struct vma_batch *vb, unsigned long addr,
					pte_t *ptep, bool age)
{
	u8 slot = 0;

	for (unsigned int i = 0; i < 1U << vb->order; i++)
		slot |= vma_batch_query_entry(vb, addr + i * PAGE_SIZE, ptep + i, age);
	return slot;
}

static noinline void vma_batch_query_range(struct vma_batch *vb, unsigned long addr,
					   const unsigned long end, u8 *slots, bool age)
{
	const unsigned long size = vma_batch_slot_size(vb);
	unsigned long next;

	for (; addr != end; addr = next) {
		pte_t *ptep;

		next = pmd_addr_end(addr, end);
		if (!vma_batch_lock_part(vb, addr, next, false, &ptep)) {
			next = vma_batch_hole_end(vb, addr, end);
			memset(slots, 0, (next - addr) >> (PAGE_SHIFT + vb->order));
			slots += (next - addr) >> (PAGE_SHIFT + vb->order);
			continue;
		}
		for (; addr != next; addr += size, ptep += 1U << vb->order)
			*slots++ = vma_batch_query_slot(vb, addr, ptep, age);
	}
}

/**
 * vma_batch_query - report what the slots of a range hold
 * @vb: the cursor
 * @addr: first address of the range, slot aligned
 * @nr_slots: length of the range in slots
 * @slots: set, for each slot, to bits of enum vma_batch_slot
 * @age: mark the pages as not accessed. There is no flush: a CPU that has the PTE
 *	in its TLB may access the page for some time without marking it.
 *
 * Context: See vma_batch_begin(). Holds the page table lock on return.
 */
void vma_batch_query(struct vma_batch *vb, unsigned long addr,
		     unsigned long nr_slots, u8 *slots, bool age)
{
	const unsigned long size = vma_batch_slot_size(vb);
	pte_t *ptep;

	vma_batch_check(vb, addr, nr_slots);
	if (nr_slots != 1) {
		vma_batch_query_range(vb, addr, addr + nr_slots * size, slots, age);
		return;
	}
	*slots = 0;
	if (vma_batch_lock_part(vb, addr, addr + size, false, &ptep) &&
	    (vb->order || unlikely(!pte_none(ptep_get(ptep)))))
		*slots = vma_batch_query_slot(vb, addr, ptep, age);
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_query, "exmap");

/**
 * vma_batch_free_tables - free the empty PTE tables of the VMA
 * @vb: the cursor
 *
 * A table is empty if none of its slots has a page or waits for a flush. Upper
 * tables stay until the VMA is unmapped; they take up to 4 KiB for each GiB of the
 * VMA. Without CONFIG_PT_RECLAIM, PTE tables stay as well.
 *
 * Context: See vma_batch_begin(). May sleep.
 * Return: The number of PTE tables that are left.
 */
unsigned long vma_batch_free_tables(struct vma_batch *vb)
{
	const unsigned long end = vb->vma->vm_end;
	const long before = vb->nr_tables;
	unsigned long addr, next;
	long nr = 0;

	for (addr = vb->vma->vm_start; addr != end; addr = next) {
		pte_t *ptep;

		next = pmd_addr_end(addr, end);
		if (!vma_batch_lock_part(vb, addr, next, false, &ptep)) {
			next = vma_batch_hole_end(vb, addr, end);
			continue;
		}
		nr++;
		vma_batch_note_empty(vb);
	}
	vma_batch_free_empty(vb);
	return nr + vb->nr_tables - before;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_free_tables, "exmap");

static __always_inline void vma_batch_finish(struct vma_batch *vb)
{
	vma_batch_unlock(vb);
	if (vb->flush_end)
		vma_batch_flush_pending(vb);
}

/**
 * vma_batch_end - finish what was mapped and unmapped so far
 * @vb: the cursor
 *
 * Drops the page table lock and flushes the TLB where pages were unmapped without
 * @vb->deferred: on return, no CPU reaches those pages through the VMA any more. A
 * page may be reused once nobody else holds it. A racing lockless
 * get_user_pages() that saw the old PTE has either raised the reference count by
 * now or will find that the PTE has changed, and give up. Only a page_count() that
 * is equal to the number of references known to the caller proves that nobody else
 * holds the page.
 *
 * The cursor may be used further afterwards, as after vma_batch_begin().
 *
 * Context: See vma_batch_begin(). The caller may sleep again afterwards.
 */
void vma_batch_end(struct vma_batch *vb)
{
	vma_batch_finish(vb);
	if (unlikely(vb->nr_empty))
		vma_batch_free_empty(vb);
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_end, "exmap");

/**
 * vma_batch_map_page - map a page in one empty slot of one page
 * @vma: the VMA
 * @addr: the address
 * @page: the page
 * @clean: as in struct vma_batch
 *
 * Does what vma_batch_begin(), vma_batch_map() and vma_batch_end() do in the most
 * frequent case, with the cursor in registers and so little more than half of the
 * instructions.
 *
 * Context: See vma_batch_begin(). Does not sleep.
 *
 * Return: true if the slot got the page. If not, nothing has happened, and
 * vma_batch_map() may still succeed.
 */
bool vma_batch_map_page(struct vm_area_struct *vma, unsigned long addr,
			struct page *page, bool clean)
{
	/* Before the lock is taken, because less is kept across the call for it then */
	const pte_t pte = vma_batch_pte(vma, page_to_pfn(page), clean);
	struct vma_batch vb __uninitialized;
	pte_t *ptep;

	vma_batch_begin(&vb, vma, NULL, 0, 0);
	vma_batch_check(&vb, addr, 1);
	vma_batch_publish();
	if (unlikely(PageHWPoison(page) || !vma_batch_lock_fast(&vb, addr, &ptep)))
		return false;
	if (unlikely(!pte_none(ptep_get(ptep)))) {
		vma_batch_unlock(&vb);
		return false;
	}
	vma_batch_set(&vb, addr, ptep, page, pte);
	vma_batch_finish(&vb);
	return true;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_map_page, "exmap");

/**
 * vma_batch_unmap_page - take the page out of one slot of one page
 * @vma: the VMA
 * @addr: the address
 *
 * Corresponds to vma_batch_unmap() without deferred flushes as
 * vma_batch_map_page() does to vma_batch_map().
 *
 * Context: See vma_batch_begin(). Does not sleep.
 *
 * Return: The page, in the state that vma_batch_end() describes. If it is NULL,
 * nothing has happened, and vma_batch_unmap() may still find a page.
 */
struct page *vma_batch_unmap_page(struct vm_area_struct *vma, unsigned long addr)
{
	struct vma_batch vb __uninitialized;
	struct page *page;
	pte_t *ptep;

	/* See vma_batch_unmap() */
	if (unlikely(mm_has_notifiers(vma->vm_mm)))
		return NULL;
	vma_batch_begin(&vb, vma, NULL, 0, 1);
	vma_batch_check(&vb, addr, 1);
	flush_cache_range(vma, addr, addr + PAGE_SIZE);
	if (unlikely(!vma_batch_lock_fast(&vb, addr, &ptep)))
		return NULL;
	if (unlikely(!pte_present(ptep_get(ptep)))) {
		vma_batch_unlock(&vb);
		return NULL;
	}
	page = vma_batch_unmap_one(&vb, addr, ptep, false);
	vma_batch_to_flush(&vb, addr, addr + PAGE_SIZE);
	vma_batch_finish(&vb);
	return page;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_unmap_page, "exmap");

/**
 * vma_batch_flush - flush what was unmapped with deferred flushes
 * @mm: the mm
 *
 * On return, what vma_batch_end() says about pages holds for those that were
 * unmapped with @vb->deferred in batches that had ended before.
 *
 * Context: Process context, may sleep. The mmap_lock or the lock of a VMA is held, or a
 * VMA is being closed.
 */
void vma_batch_flush(struct mm_struct *mm)
{
	/*
	 * User-mode Linux goes through the VMAs in flush_tlb_mm(). When an mm is torn
	 * down, and its VMAs are closed one after the other, some of them are freed.
	 */
	struct vm_area_struct vma = TLB_FLUSH_VMA(mm, 0);

	flush_tlb_range(&vma, 0, mm->task_size);
	/* See vma_batch_flush_pending() */
	smp_mb();
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_flush, "exmap");
