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
#include <linux/leafops.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>
#include <linux/rmap.h>
#include <linux/sched.h>
#include <linux/vma_batch.h>
#include <linux/vmstat.h>
#include <asm/tlbflush.h>

#include "internal.h"

/* Entries visited before others get a chance at the CPU and the page table lock */
#define VMA_BATCH_MAX_WORK	4096

/* How many of them a page table counts for, besides those that are visited */
#define VMA_BATCH_TABLE_WORK	64

/* RCU is locked as long as a page table is */
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
 * The PMD entry of @addr, NULL if there is no PMD table. It is looked up from
 * the top only where the tables found last do not serve: while the VMA is
 * locked, none but those of PTEs can go away.
 */
static __always_inline pmd_t *vma_batch_pmd(struct vma_batch *vb, unsigned long addr)
{
	if (unlikely((addr & PUD_MASK) != vb->pmds_addr)) {
		pud_t *pudp, pud;

		if (unlikely((addr & P4D_MASK) != vb->puds_addr)) {
			pgd_t *pgd = pgd_offset(vb->vma->vm_mm, addr);
			p4d_t *p4d;

			if (pgd_none(pgdp_get(pgd)))
				return NULL;
			p4d = p4d_offset(pgd, addr);
			if (p4d_none(p4dp_get(p4d)))
				return NULL;
			vb->puds = pud_offset(p4d, addr) - pud_index(addr);
			vb->puds_addr = addr & P4D_MASK;
		}
		pudp = vb->puds + pud_index(addr);
		pud = pudp_get(pudp);
		if (unlikely(pud_none(pud) || pud_leaf(pud)))
			return NULL;
		vb->pmds = pmd_offset_lockless(pudp, pud, addr) - pmd_index(addr);
		vb->pmds_addr = addr & PUD_MASK;
	}
	return vb->pmds + pmd_index(addr);
}

/*
 * Look up the entry of @addr and lock its page table, with what the cursor knows.
 * This is what pte_offset_map_lock() does, for each of many scattered pages,
 * without the calls that make up most of it; from one page table to the next, RCU
 * stays locked. There is no CONFIG_HIGHPTE with 64BIT. Returns false, and nothing
 * is locked, if there is no page table, or not for sure.
 */
static __always_inline bool vma_batch_lock_fast(struct vma_batch *vb,
						unsigned long addr, pte_t **ptep)
{
	pmd_t *pmdp, pmd;

	if (unlikely(vb->table_addr == VMA_BATCH_NOWHERE))
		rcu_read_lock();
	else
		spin_unlock(vb->ptl);
	pmdp = vma_batch_pmd(vb, addr);
	if (unlikely(!pmdp))
		goto out_rcu;
	pmd = pmdp_get_lockless(pmdp);
	if (unlikely(pmd_trans_huge(pmd) || !pmd_present(pmd)))
		goto out_rcu;
	vb->ptl = pte_lockptr(vb->vma->vm_mm, &pmd);
	spin_lock(vb->ptl);
	if (unlikely(!pmd_same(pmd, pmdp_get_lockless(pmdp))))
		goto out_lock;
	vb->table = (pte_t *)pmd_page_vaddr(pmd);
	vb->table_addr = addr & PMD_MASK;
	*ptep = vb->table + pte_index(addr);
	return true;

out_lock:
	spin_unlock(vb->ptl);
out_rcu:
	rcu_read_unlock();
	vb->table_addr = VMA_BATCH_NOWHERE;
	return false;
}

/*
 * The same from scratch. Returns NULL if there is no page table and, where @alloc
 * asks for one, no memory for it or no page that could be mapped with it.
 */
static noinline pte_t *vma_batch_lock_slow(struct vma_batch *vb, unsigned long addr,
					   bool alloc)
{
	struct mm_struct *mm = vb->vma->vm_mm;
	pmd_t *pmd;
	pte_t *pte;

	if (alloc && vb->nr) {
		/* A new table may be reclaimed at once, as it is empty */
		while (!(pte = get_locked_pte(mm, addr, &vb->ptl))) {
			pmd = mm_find_pmd(mm, addr);
			if (!pmd || pte_alloc(mm, pmd))
				return NULL;
		}
	} else {
		pmd = mm_find_pmd(mm, addr);
		pte = pmd ? pte_offset_map_lock(mm, pmd, addr, &vb->ptl) : NULL;
		if (!pte)
			return NULL;
	}
	vb->table = pte - pte_index(addr);
	vb->table_addr = addr & PMD_MASK;
	return pte;
}

/* One or the other, or nothing at all if the page table is locked already */
static __always_inline bool vma_batch_lock(struct vma_batch *vb, unsigned long addr,
					   unsigned long nr_slots, bool alloc,
					   pte_t **ptep)
{
	const bool same = vb->table_addr == (addr & PMD_MASK);

	vb->work += same ? nr_slots : nr_slots + VMA_BATCH_TABLE_WORK;
	if (unlikely(vb->work > VMA_BATCH_MAX_WORK)) {
		vma_batch_unlock(vb);
	} else if (same) {
		*ptep = vb->table + pte_index(addr);
		return true;
	}
	if (likely(vma_batch_lock_fast(vb, addr, ptep)))
		return true;
	*ptep = vma_batch_lock_slow(vb, addr, alloc);
	return *ptep;
}

static __always_inline void vma_batch_check(struct vma_batch *vb, unsigned long addr,
					    unsigned long nr_slots)
{
	if (IS_ENABLED(CONFIG_DEBUG_VM))
		vma_assert_stabilised(vb->vma);
	VM_WARN_ON_ONCE(!(vb->vma->vm_flags & VM_MIXEDMAP));
	VM_WARN_ON_ONCE(!PAGE_ALIGNED(addr));
	VM_WARN_ON_ONCE(nr_slots &&
			!range_in_vma(vb->vma, addr, addr + nr_slots * PAGE_SIZE));
}

/* Bring NR_FILE_MAPPED up to date */
static __always_inline void vma_batch_count_mapped(struct vma_batch *vb)
{
	if (!vb->mapped)
		return;
	/* Without a cgroup, this is all that the other would do */
	if (!vb->mapped_memcg)
		mod_node_page_state(NODE_DATA(vb->mapped_nid), NR_FILE_MAPPED, vb->mapped);
	else
		lruvec_stat_mod_folio(page_folio(vb->mapped_page), NR_FILE_MAPPED,
				      vb->mapped);
	vb->rss += vb->mapped;
	vb->mapped = 0;
}

static unsigned long vma_batch_memcg(struct page *page)
{
#ifdef CONFIG_MEMCG
	return page->memcg_data;
#else
	return 0;
#endif
}

/*
 * The page gained its first mapping, or lost its last: what the rmap functions
 * count in NR_FILE_MAPPED at once, at many times the cost of everything else
 * that is done for a page, is added up here. Somebody holds the page until
 * vma_batch_end().
 */
static __always_inline void vma_batch_mapped(struct vma_batch *vb,
					     struct page *page, int diff)
{
	if (unlikely(vb->mapped_memcg != vma_batch_memcg(page) ||
		     vb->mapped_nid != page_to_nid(page))) {
		vma_batch_count_mapped(vb);
		vb->mapped_memcg = vma_batch_memcg(page);
		vb->mapped_nid = page_to_nid(page);
		vb->mapped_page = page;
	}
	vb->mapped += diff;
}

/*
 * A slot that lost its page and waits for a flush: a guard marker, for what
 * everybody else makes of it, with a stamp in the bits that markers do not use.
 */
#define VMA_BATCH_STAMP_ONE	(PTE_MARKER_MASK + 1)

static pte_t vma_batch_marker(u32 stamp)
{
	return make_pte_marker(PTE_MARKER_GUARD | stamp * VMA_BATCH_STAMP_ONE);
}

/* Beyond the stamp: somebody is about to map a page, see vma_batch_reserve() */
#define VMA_BATCH_RESERVED	(VMA_BATCH_STAMP_ONE << 32)

static bool vma_batch_is_reserved(pte_t pte)
{
	return pte_is_marker(pte) && swp_offset(softleaf_from_pte(pte)) & VMA_BATCH_RESERVED;
}

/* Out of line: of those who map pages, most never come here */
static noinline bool vma_batch_stamp_unflushed(struct vma_batch *vb, pte_t pte)
{
	const u32 stamp = swp_offset(softleaf_from_pte(pte)) / VMA_BATCH_STAMP_ONE;
	u32 flushed;

	/* Not older than the stamp */
	smp_rmb();
	/* Pairs with the release by who has flushed: map after that */
	flushed = smp_load_acquire(vb->flushed);
	/* Numbers wrap around: one that looks new may be old, never the reverse */
	return stamp - flushed - 1 < 2;
}

static __always_inline bool vma_batch_unflushed(struct vma_batch *vb, pte_t pte)
{
	return vb->flushed && vma_batch_stamp_unflushed(vb, pte);
}

/* The entry of a page, but for the page: for vm_page_prot as it is now */
static __always_inline pte_t vma_batch_prototype(struct vm_area_struct *vma)
{
	/*
	 * Where hardware does not set these bits, save the faults. Dirty also where
	 * nobody may write at present: to whoever cleans pages, the content is new.
	 */
	pte_t pte = pte_mkyoung(pfn_pte(0, vma->vm_page_prot));

	return pte_mksoft_dirty(pte_mkdirty(pte));
}

/**
 * vma_batch_map_clean - have vma_batch_map() map pages as not written to
 * @vb: the cursor, just begun
 *
 * For pages with content from where vma_batch_clean() helps to write it to.
 */
void vma_batch_map_clean(struct vma_batch *vb)
{
	vb->proto = pte_mkclean(vma_batch_prototype(vb->vma));
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_map_clean, "exmap");

/* The last of @nr pages, if it can be mapped. If not, @vb->stop says why. */
static __always_inline bool vma_batch_have_page(struct vma_batch *vb, unsigned int nr,
						struct page **page)
{
	if (unlikely(!nr)) {
		vb->stop = VMA_BATCH_EMPTY;
		return false;
	}
	*page = vb->pages[nr - 1];
	if (unlikely(PageHWPoison(*page))) {
		vb->stop = VMA_BATCH_POISONED;
		return false;
	}
	return true;
}

/* The same for a slot that has no page */
static __always_inline bool vma_batch_may_map(struct vma_batch *vb, pte_t old,
					      unsigned int nr, struct page **page)
{
	if (likely(pte_none(old)) || !vma_batch_unflushed(vb, old))
		return vma_batch_have_page(vb, nr, page);
	vb->stop = VMA_BATCH_UNFLUSHED;
	return false;
}

static __always_inline void vma_batch_map_one(struct vma_batch *vb, unsigned long addr,
					      pte_t *ptep, struct page *page)
{
	struct vm_area_struct *vma = vb->vma;

	VM_WARN_ON_ONCE_PAGE(PageAnon(page) || PageCompound(page) ||
			     folio_test_swapbacked(page_folio(page)), page);
	flush_dcache_page(page);
	/* As folio_add_file_rmap_pte(), see vma_batch_mapped() */
	if (likely(atomic_inc_and_test(&page->_mapcount)))
		vma_batch_mapped(vb, page, 1);
	else
		vb->rss++;
	if (unlikely(!pte_val(vb->proto)))
		vb->proto = vma_batch_prototype(vma);
	set_pte_at(vma->vm_mm, addr, ptep, pte_advance_pfn(vb->proto, page_to_pfn(page)));
	update_mmu_cache(vma, addr, ptep);
}

static __always_inline void vma_batch_publish(void)
{
	/*
	 * Who sees the entry of a page must see what the caller has put into it,
	 * as __folio_mark_uptodate() makes sure elsewhere.
	 */
	smp_wmb();
}

static noinline unsigned long vma_batch_map_range(struct vma_batch *vb,
						  unsigned long addr,
						  const unsigned long end)
{
	unsigned int nr = vb->nr;
	unsigned long next;

	for (; addr != end; addr = next) {
		pte_t *ptep;

		next = pmd_addr_end(addr, end);
		/* Without a page to map, it does not leave a page table behind */
		vb->nr = nr;
		if (!vma_batch_lock(vb, addr, (next - addr) >> PAGE_SHIFT, true, &ptep)) {
			vb->stop = nr ? VMA_BATCH_NOMEM : VMA_BATCH_EMPTY;
			break;
		}

		/* Not longer than this: an entry must not be read after its change */
		lazy_mmu_mode_enable();
		for (; addr != next; addr += PAGE_SIZE, ptep++) {
			const pte_t old = ptep_get(ptep);
			struct page *page;

			if (pte_present(old))
				continue;
			if (!vma_batch_may_map(vb, old, nr, &page))
				break;
			nr--;
			vma_batch_map_one(vb, addr, ptep, page);
		}
		lazy_mmu_mode_disable();
		if (addr != next)
			break;
	}
	vb->nr = nr;
	return addr;
}

/*
 * The same for a single page, which is the most common by far: whether the slot
 * is done, and, in *mapped, whether it got a page
 */
static __always_inline bool vma_batch_map_slot(struct vma_batch *vb, unsigned long addr,
					       bool *mapped)
{
	struct page *page;
	pte_t *ptep, old;

	if (unlikely(!vma_batch_lock(vb, addr, 1, true, &ptep))) {
		vb->stop = vb->nr ? VMA_BATCH_NOMEM : VMA_BATCH_EMPTY;
		return false;
	}
	old = ptep_get(ptep);
	if (unlikely(pte_present(old))) {
		*mapped = false;
		return true;
	}
	if (unlikely(!vma_batch_may_map(vb, old, vb->nr, &page)))
		return false;
	vb->nr--;
	vma_batch_map_one(vb, addr, ptep, page);
	*mapped = true;
	return true;
}

/**
 * vma_batch_map - put pages under the empty slots of a range
 * @vb: the cursor
 * @addr: first address of the range, page aligned
 * @nr_slots: length of the range in pages
 *
 * Takes a page from the top of the stack for every slot of the range that has
 * no page, in ascending order of addresses, and skips the slots that have one.
 * The pages must be ordinary single pages (order 0, neither anonymous nor
 * swap-backed) whose content nobody minds user space to see; one reference of
 * each goes over to the page table. A poisoned page is not mapped.
 *
 * Context: See vma_batch_begin(). May allocate page tables, and so sleep,
 * before it takes a page table lock; holds that lock on return.
 *
 * Return: The number of slots that are done, mapped or skipped, from @addr on.
 * If it is less than @nr_slots, @vb->stop says why.
 */
unsigned long vma_batch_map(struct vma_batch *vb, unsigned long addr,
			    unsigned long nr_slots)
{
	bool mapped;

	vma_batch_check(vb, addr, nr_slots);
	vma_batch_publish();
	if (likely(nr_slots == 1))
		return vma_batch_map_slot(vb, addr, &mapped);
	return (vma_batch_map_range(vb, addr, addr + nr_slots * PAGE_SIZE) - addr) >>
		PAGE_SHIFT;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_map, "exmap");

/**
 * vma_batch_map_each - vma_batch_map() for single slots at many addresses
 * @vb: the cursor
 * @addrs: the addresses, page aligned; those that are done are replaced by 1
 *	where the slot got a page, by 0 where it had one
 * @nr_addrs: length of @addrs
 *
 * Context: As vma_batch_map().
 *
 * Return: The number of addresses that are done, from the first on. If it is
 * less than @nr_addrs, @vb->stop says why.
 */
unsigned int vma_batch_map_each(struct vma_batch *vb, unsigned long *addrs,
				unsigned int nr_addrs)
{
	unsigned int i;
	bool mapped;

	vma_batch_publish();
	for (i = 0; i < nr_addrs; i++) {
		vma_batch_check(vb, addrs[i], 1);
		if (unlikely(!vma_batch_map_slot(vb, addrs[i], &mapped)))
			break;
		addrs[i] = mapped;
	}
	return i;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_map_each, "exmap");

/**
 * vma_batch_reserve - announce a page for a slot
 * @vb: the cursor
 * @addr: address of the slot
 *
 * If the slot has no page, takes one from the top of the stack, for the caller to
 * fill and then to map there with vma_batch_map(). Until then, or until
 * vma_batch_unreserve(), vma_batch_unmap() stops at the slot. It is an
 * announcement, not a lock: others may reserve the slot as well, or map a page.
 * There is a page table now.
 *
 * Context: As vma_batch_map().
 *
 * Return: 1 if it is done; the slot has a page already if none was taken. If it
 * is 0, @vb->stop says why, as with vma_batch_map().
 */
unsigned long vma_batch_reserve(struct vma_batch *vb, unsigned long addr)
{
	struct page *page;
	pte_marker marker = PTE_MARKER_GUARD;
	pte_t *ptep, old;

	vma_batch_check(vb, addr, 1);
	if (!vma_batch_lock(vb, addr, 1, true, &ptep)) {
		vb->stop = vb->nr ? VMA_BATCH_NOMEM : VMA_BATCH_EMPTY;
		return 0;
	}
	old = ptep_get(ptep);
	if (pte_present(old))
		return 1;
	if (!vma_batch_have_page(vb, vb->nr, &page))
		return 0;
	vb->nr--;
	/* A stamp stays as it is: it may be flushed by the time it matters */
	if (unlikely(!pte_none(old)))
		marker = swp_offset(softleaf_from_pte(old));
	else if (vb->flushed)
		marker |= (u32)READ_ONCE(*vb->flushed) * VMA_BATCH_STAMP_ONE;
	set_pte_at(vb->vma->vm_mm, addr, ptep,
		   make_pte_marker(marker | VMA_BATCH_RESERVED));
	return 1;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_reserve, "exmap");

/**
 * vma_batch_unreserve - there will be no page
 * @vb: the cursor
 * @addr: address of a slot that vma_batch_reserve() has reserved
 *
 * Context: See vma_batch_begin(). Holds the page table lock on return.
 */
void vma_batch_unreserve(struct vma_batch *vb, unsigned long addr)
{
	pte_t *ptep, old;

	vma_batch_check(vb, addr, 1);
	if (!vma_batch_lock(vb, addr, 1, false, &ptep))
		return;
	old = ptep_get(ptep);
	if (pte_present(old) || !vma_batch_is_reserved(old))
		return;
	if (vma_batch_unflushed(vb, old))
		set_pte_at(vb->vma->vm_mm, addr, ptep,
			   make_pte_marker(swp_offset(softleaf_from_pte(old)) &
					   ~VMA_BATCH_RESERVED));
	else
		pte_clear(vb->vma->vm_mm, addr, ptep);
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_unreserve, "exmap");

/*
 * May the page of this slot be taken out, if it has one? Else @vb->stop says why.
 * *page is that page, or NULL.
 */
static __always_inline bool vma_batch_may_unmap(struct vma_batch *vb, pte_t pte,
						unsigned int nr, struct page **page)
{
	if (unlikely(!pte_present(pte))) {
		*page = NULL;
		if (likely(!vma_batch_is_reserved(pte)))
			return true;
		vb->stop = VMA_BATCH_BUSY;
		return false;
	}
	*page = pte_page(pte);
	if (unlikely(test_bit(PG_owner_2, &(*page)->flags.f)))
		vb->stop = VMA_BATCH_BUSY;
	else if (unlikely(nr == vb->max))
		vb->stop = VMA_BATCH_FULL;
	else
		return true;
	return false;
}

/* Take the page out of its entry */
static __always_inline void vma_batch_unmap_one(struct vma_batch *vb,
						unsigned long addr, pte_t *ptep,
						struct page *page, bool deferred)
{
	struct vm_area_struct *vma = vb->vma;
	/* Hardware may set bits until now: only the swap is final */
	const pte_t pte = ptep_get_and_clear(vma->vm_mm, addr, ptep);

	if (deferred) {
		set_pte_at(vma->vm_mm, addr, ptep, vma_batch_marker(vb->stamp));
		/* For vma_batch_map_back() */
		page_folio(page)->index = linear_page_index(vma, addr);
		set_page_private(page, vb->stamp);
	}
	/* All it does is to check */
	if (IS_ENABLED(CONFIG_DEBUG_VM))
		arch_check_zapped_pte(vma, pte);
	/* What vma_batch_map() mapped, and nothing else */
	VM_WARN_ON_ONCE(pte_special(pte));
	/* As folio_remove_rmap_pte(), see vma_batch_mapped() */
	if (likely(atomic_add_negative(-1, &page->_mapcount)))
		vma_batch_mapped(vb, page, -1);
	else
		vb->rss--;
}

/* What vma_batch_end() shall flush */
static __always_inline void vma_batch_to_flush(struct vma_batch *vb,
					       unsigned long start, unsigned long end)
{
	vb->flush_start = min(vb->flush_start, start);
	vb->flush_end = max(vb->flush_end, end);
}

static noinline unsigned long vma_batch_unmap_range(struct vma_batch *vb,
						    unsigned long addr,
						    const unsigned long end)
{
	const bool deferred = vb->deferred;
	unsigned long first = 0, last = 0;
	unsigned int nr = vb->nr;
	unsigned long next;

	for (; addr != end; addr = next) {
		pte_t *ptep;

		next = pmd_addr_end(addr, end);
		if (!vma_batch_lock(vb, addr, (next - addr) >> PAGE_SHIFT, false, &ptep))
			continue;

		lazy_mmu_mode_enable();
		for (; addr != next; addr += PAGE_SIZE, ptep++) {
			struct page *page;

			if (!vma_batch_may_unmap(vb, ptep_get(ptep), nr, &page))
				break;
			if (!page)
				continue;
			vma_batch_unmap_one(vb, addr, ptep, page, deferred);
			vb->pages[nr++] = page;
			if (!first)
				first = addr;
			last = addr;
		}
		lazy_mmu_mode_disable();
		if (addr != next)
			break;
	}
	if (nr != vb->nr && !deferred)
		vma_batch_to_flush(vb, first, last + PAGE_SIZE);
	vb->nr = nr;
	return addr;
}

static noinline unsigned long vma_batch_unmap_notify(struct vma_batch *vb,
						     unsigned long start,
						     unsigned long end)
{
	struct mmu_notifier_range range;
	unsigned long addr;

	if (start == end)
		return end;
	vma_batch_unlock(vb);
	mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR, 0, vb->vma->vm_mm, start, end);
	mmu_notifier_invalidate_range_start(&range);
	addr = vma_batch_unmap_range(vb, start, end);
	vma_batch_unlock(vb);
	mmu_notifier_invalidate_range_end(&range);
	return addr;
}

/* As vma_batch_map_slot() */
static __always_inline bool vma_batch_unmap_slot(struct vma_batch *vb, unsigned long addr,
						 bool deferred, bool *unmapped)
{
	const unsigned int nr = vb->nr;
	struct page *page;
	pte_t *ptep;

	*unmapped = false;
	if (unlikely(!vma_batch_lock(vb, addr, 1, false, &ptep)))
		return true;
	if (unlikely(!vma_batch_may_unmap(vb, ptep_get(ptep), nr, &page)))
		return false;
	if (unlikely(!page))
		return true;
	vma_batch_unmap_one(vb, addr, ptep, page, deferred);
	vb->pages[nr] = page;
	vb->nr = nr + 1;
	if (!deferred)
		vma_batch_to_flush(vb, addr, addr + PAGE_SIZE);
	*unmapped = true;
	return true;
}

/**
 * vma_batch_unmap - take the pages out of a range
 * @vb: the cursor
 * @addr: first address of the range, page aligned
 * @nr_slots: length of the range in pages
 *
 * Clears every present entry of the range and puts its page on the stack, with
 * the reference that the entry held. Until vma_batch_end() has returned, or,
 * with @vb->deferred, until a vma_batch_flush() that covers @vb->stamp has, CPUs
 * may still reach the pages through their old addresses. Secondary MMUs, which
 * hold no page references, have let go of them when this returns.
 *
 * Context: See vma_batch_begin(). May sleep in mmu notifiers before it takes a
 * page table lock; holds that lock on return.
 *
 * Return: The number of slots that are done, from @addr on. If it is less than
 * @nr_slots, @vb->stop says why: the stack is full, or the next slot is reserved
 * or has a page of which the caller has set folio_set_owner_2(), because it is
 * being filled.
 */
unsigned long vma_batch_unmap(struct vma_batch *vb, unsigned long addr,
			      unsigned long nr_slots)
{
	const unsigned long end = addr + nr_slots * PAGE_SIZE;
	bool unmapped;

	vma_batch_check(vb, addr, nr_slots);
	flush_cache_range(vb->vma, addr, end);
	/* Registration locks every VMA for writing: this cannot change here */
	if (unlikely(mm_has_notifiers(vb->vma->vm_mm)))
		return (vma_batch_unmap_notify(vb, addr, end) - addr) >> PAGE_SHIFT;
	if (likely(nr_slots == 1))
		return vma_batch_unmap_slot(vb, addr, vb->deferred, &unmapped);
	return (vma_batch_unmap_range(vb, addr, end) - addr) >> PAGE_SHIFT;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_unmap, "exmap");

/**
 * vma_batch_unmap_each - vma_batch_unmap() for single slots at many addresses
 * @vb: the cursor
 * @addrs: the addresses, page aligned; those that are done are replaced by 1
 *	where there was a page, by 0 where there was none
 * @nr_addrs: length of @addrs
 *
 * Context: As vma_batch_unmap().
 *
 * Return: The number of addresses that are done, from the first on. If it is
 * less than @nr_addrs, @vb->stop says why.
 */
unsigned int vma_batch_unmap_each(struct vma_batch *vb, unsigned long *addrs,
				  unsigned int nr_addrs)
{
	const bool notify = mm_has_notifiers(vb->vma->vm_mm);
	const bool deferred = vb->deferred;
	unsigned int i;
	bool unmapped;

	for (i = 0; i < nr_addrs; i++) {
		const unsigned int before = vb->nr;

		vma_batch_check(vb, addrs[i], 1);
		flush_cache_range(vb->vma, addrs[i], addrs[i] + PAGE_SIZE);
		if (unlikely(notify)) {
			if (!vma_batch_unmap(vb, addrs[i], 1))
				break;
			unmapped = vb->nr != before;
		} else if (unlikely(!vma_batch_unmap_slot(vb, addrs[i], deferred,
							  &unmapped))) {
			break;
		}
		addrs[i] = unmapped;
	}
	return i;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_unmap_each, "exmap");

/**
 * vma_batch_map_back - give a slot the page back that it lost
 * @vb: the cursor, with the same VMA
 * @addr: the address of the slot
 * @page: a page that was unmapped with @vb->deferred, and not used since
 *
 * There is no need for a flush: a CPU that still sees the old entry sees the
 * right page.
 *
 * Context: As vma_batch_map(), but does not allocate, nor sleep.
 *
 * Return: true if it was from this slot that the page was unmapped, and the slot
 * has been left alone since. It has the page again, with its reference.
 */
bool vma_batch_map_back(struct vma_batch *vb, unsigned long addr, struct page *page)
{
	pte_t *ptep;

	vma_batch_check(vb, addr, 1);
	if (PageHWPoison(page) ||
	    page_folio(page)->index != linear_page_index(vb->vma, addr) ||
	    !vma_batch_lock(vb, addr, 1, false, &ptep) ||
	    !pte_same(ptep_get(ptep), vma_batch_marker(page_private(page))))
		return false;
	vma_batch_map_one(vb, addr, ptep, page);
	return true;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_map_back, "exmap");

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
		struct page *page;
		pte_t *ptep, pte;

		if (!vma_batch_lock(vb, addr, 1, false, &ptep))
			break;
		pte = ptep_get(ptep);
		if (!pte_present(pte))
			break;
		page = pte_page(pte);
		folio_get(page_folio(page));
		vb->pages[vb->nr++] = page;
	}
	return vb->nr - before;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_get, "exmap");

/**
 * vma_batch_clean - hold the page of a slot if it is dirty, and make it clean
 * @vb: the cursor; at least one entry of its stack is free
 * @addr: address of the slot
 *
 * The page goes on the stack, with a new reference, if user space may have
 * written to it since it was mapped clean or cleaned last, or if somebody else
 * has set its dirty flag, which is cleared. What is written to it after the next
 * vma_batch_end() makes it dirty again.
 *
 * Context: As vma_batch_unmap().
 * Return: Whether the slot has a page.
 */
bool vma_batch_clean(struct vma_batch *vb, unsigned long addr)
{
	const bool notify = mm_has_notifiers(vb->vma->vm_mm);
	struct mmu_notifier_range range;
	pte_t *ptep, pte = __pte(0);

	vma_batch_check(vb, addr, 1);
	VM_WARN_ON_ONCE(vb->nr == vb->max);
	if (notify) {
		vma_batch_unlock(vb);
		mmu_notifier_range_init(&range, MMU_NOTIFY_PROTECTION_PAGE, 0,
					vb->vma->vm_mm, addr, addr + PAGE_SIZE);
		mmu_notifier_invalidate_range_start(&range);
	}
	if (vma_batch_lock(vb, addr, 1, false, &ptep))
		pte = ptep_get(ptep);
	if (pte_present(pte)) {
		struct page *page = pte_page(pte);
		bool dirty = TestClearPageDirty(page);

		if (pte_dirty(pte)) {
			pte = ptep_modify_prot_start(vb->vma, addr, ptep);
			ptep_modify_prot_commit(vb->vma, addr, ptep, pte,
						pte_mkclean(pte));
			/* A CPU that knows it as dirty does not say so again */
			vma_batch_to_flush(vb, addr, addr + PAGE_SIZE);
			dirty = true;
		}
		if (dirty) {
			get_page(page);
			vb->pages[vb->nr++] = page;
		}
	}
	if (notify) {
		vma_batch_unlock(vb);
		mmu_notifier_invalidate_range_end(&range);
	}
	return pte_present(pte);
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_clean, "exmap");

/* enum vma_batch_slot of a slot */
static u8 vma_batch_query_slot(struct vma_batch *vb, unsigned long addr, pte_t *ptep,
			       bool age)
{
	struct vm_area_struct *vma = vb->vma;
	const pte_t pte = ptep_get(ptep);
	u8 slot = VMA_BATCH_SLOT_PAGE;
	struct page *page;

	if (!pte_present(pte))
		return vma_batch_is_reserved(pte) ? VMA_BATCH_SLOT_BUSY : 0;
	page = pte_page(pte);
	if (pte_dirty(pte) || PageDirty(page))
		slot |= VMA_BATCH_SLOT_DIRTY;
	if (test_bit(PG_owner_2, &page->flags.f))
		slot |= VMA_BATCH_SLOT_BUSY;
	if (age ? test_and_clear_young_ptes_notify(vma, addr, ptep, 1) :
		  pte_young(pte) || mmu_notifier_test_young(vma->vm_mm, addr))
		slot |= VMA_BATCH_SLOT_YOUNG;
	return slot;
}

/**
 * vma_batch_query - tell what is in the slots of a range
 * @vb: the cursor
 * @addr: first address of the range, page aligned
 * @nr_slots: length of the range in pages
 * @slots: set, for each slot, to bits of enum vma_batch_slot
 * @age: the pages count as not used from now on. There is no flush: a CPU that
 *	has the entry in its TLB may use the page for some time without saying so.
 *
 * Context: See vma_batch_begin(). Holds the page table lock on return.
 */
void vma_batch_query(struct vma_batch *vb, unsigned long addr,
		     unsigned long nr_slots, u8 *slots, bool age)
{
	const unsigned long end = addr + nr_slots * PAGE_SIZE;
	unsigned long next;

	vma_batch_check(vb, addr, nr_slots);
	for (; addr != end; addr = next) {
		pte_t *ptep;

		next = pmd_addr_end(addr, end);
		if (!vma_batch_lock(vb, addr, (next - addr) >> PAGE_SHIFT, false, &ptep)) {
			memset(slots, 0, (next - addr) >> PAGE_SHIFT);
			slots += (next - addr) >> PAGE_SHIFT;
			continue;
		}
		for (; addr != next; addr += PAGE_SIZE, ptep++)
			*slots++ = vma_batch_query_slot(vb, addr, ptep, age);
	}
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_query, "exmap");

static __always_inline void vma_batch_finish(struct vma_batch *vb)
{
	struct mm_struct *mm = vb->vma->vm_mm;

	vma_batch_unlock(vb);
	vma_batch_count_mapped(vb);
	/* The page that stands for the others may go away from here on */
	vb->mapped_nid = NUMA_NO_NODE;
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

/**
 * vma_batch_end - finish what was mapped and unmapped so far
 * @vb: the cursor
 *
 * Drops the page table lock, updates the counters of the mm, and flushes the
 * TLB where pages were unmapped without @vb->deferred: when it returns, no CPU
 * reaches those pages through the VMA any more. A page among them may be used
 * for something else once nobody else holds it: a racing lockless
 * get_user_pages() that saw the old entry has either raised the reference count
 * by now, or will find the entry changed and give up. An exact match of
 * page_count() with the references that the caller knows of is proof; anything
 * higher is not.
 *
 * The cursor may be used further afterwards, as after vma_batch_begin().
 *
 * Context: See vma_batch_begin(). The caller may sleep again afterwards.
 */
void vma_batch_end(struct vma_batch *vb)
{
	vma_batch_finish(vb);
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_end, "exmap");

/**
 * vma_batch_map_page - put a page under one empty slot
 * @vma: the VMA
 * @addr: the address
 * @page: the page
 *
 * vma_batch_begin(), vma_batch_map() and vma_batch_end() for the simplest case:
 * with the cursor in registers, they take little more than half as long.
 *
 * Context: See vma_batch_begin(). Does not sleep.
 *
 * Return: true if the slot got the page. If not, nothing has happened, and
 * vma_batch_map() may still be able to do it.
 */
bool vma_batch_map_page(struct vm_area_struct *vma, unsigned long addr,
			struct page *page)
{
	struct vma_batch vb __uninitialized;
	pte_t *ptep;

	vma_batch_begin(&vb, vma, NULL, 0, 0);
	vma_batch_check(&vb, addr, 1);
	vma_batch_publish();
	if (unlikely(!vma_batch_lock_fast(&vb, addr, &ptep)))
		return false;
	if (unlikely(!pte_none(ptep_get(ptep)) || PageHWPoison(page))) {
		vma_batch_unlock(&vb);
		return false;
	}
	vma_batch_map_one(&vb, addr, ptep, page);
	vma_batch_finish(&vb);
	return true;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_map_page, "exmap");

/**
 * vma_batch_unmap_page - take the page out of one slot
 * @vma: the VMA
 * @addr: the address
 *
 * As vma_batch_map_page(), for vma_batch_unmap() without deferred flushes.
 *
 * Context: See vma_batch_begin(). Does not sleep.
 *
 * Return: the page, of which vma_batch_end() tells more. If it is NULL, nothing
 * has happened, and vma_batch_unmap() may still find a page.
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
	if (unlikely(!vma_batch_may_unmap(&vb, ptep_get(ptep), 0, &page) || !page)) {
		vma_batch_unlock(&vb);
		return NULL;
	}
	vma_batch_unmap_one(&vb, addr, ptep, page, false);
	vma_batch_to_flush(&vb, addr, addr + PAGE_SIZE);
	vma_batch_finish(&vb);
	return page;
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_unmap_page, "exmap");

/**
 * vma_batch_flush - flush what was unmapped with deferred flushes
 * @vma: the VMA
 *
 * When it returns, what vma_batch_end() says of pages holds for those that were
 * unmapped with @vb->deferred in batches that had ended before.
 *
 * Context: Process context, may sleep. The VMA lock of @vma, or the mmap_lock
 * of its mm, is held, or @vma is being closed.
 */
void vma_batch_flush(struct vm_area_struct *vma)
{
	flush_tlb_range(vma, vma->vm_start, vma->vm_end);
	/* See vma_batch_end() */
	smp_mb();
}
EXPORT_SYMBOL_FOR_MODULES(vma_batch_flush, "exmap");
