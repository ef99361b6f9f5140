// SPDX-License-Identifier: GPL-2.0-only
/*
 * The region: the VMA, and the right to change what is mapped in it
 */
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mmap_lock.h>
#include <linux/vma_batch.h>

#include "attach.h"
#include "quarantine.h"
#include "region.h"

/* Tests whether a region is made of whole slots, each aligned to its size */
static bool exmap_region_fits(const struct exmap *exmap, unsigned long start,
			      unsigned long end)
{
	return IS_ALIGNED(start | end, exmap_slot_size(exmap));
}

/*
 * vm_private_data is the exmap only in the VMA that is the region: not in a second
 * one, which is refused here, nor in the copy that mremap() makes before it calls
 * ->mremap().
 */
static int exmap_region_mapped(unsigned long start, unsigned long end,
			       pgoff_t pgoff, const struct file *file,
			       void **private_data)
{
	struct exmap *exmap = file->private_data;
	int err = -EBUSY;

	mutex_lock(&exmap->lock);
	if (exmap->state == EXMAP_UNMAPPED && !exmap_region_fits(exmap, start, end)) {
		err = -EINVAL;
	} else if (exmap->state == EXMAP_UNMAPPED) {
		exmap->start = start;
		exmap->nr_slots = (end - start) >> exmap_slot_shift(exmap);
		/* Pairs with exmap_region_lock() and exmap_of_mapped() */
		smp_store_release(&exmap->state, EXMAP_MAPPED);
		*private_data = exmap;
		err = 0;
	}
	mutex_unlock(&exmap->lock);
	return err;
}

static void exmap_region_open(struct vm_area_struct *vma)
{
	vma->vm_private_data = NULL;
}

static void exmap_region_close(struct vm_area_struct *vma)
{
	struct exmap *exmap = vma->vm_private_data;

	if (!exmap)
		return;

	mutex_lock(&exmap->lock);
	/* The VMA is locked for writing: no call that has locked it is at work in it */
	if (exmap->ready)
		down_write(&exmap->pool->group->regions_lock);
	WRITE_ONCE(exmap->vma, NULL);
	WRITE_ONCE(exmap->state, EXMAP_GONE);
	if (exmap->ready) {
		up_write(&exmap->pool->group->regions_lock);
		/*
		 * munmap() flushes what it has cleared itself, and nothing else. The
		 * generation ends, too: another region may get the same addresses.
		 */
		if (exmap->pool->group->deferred)
			exmap_region_flush(exmap->pool->group,
					   READ_ONCE(exmap->pool->group->generation));
		exmap_attach_unmapped(exmap);
	}
	mutex_unlock(&exmap->lock);
}

static int exmap_region_may_split(struct vm_area_struct *vma, unsigned long addr)
{
	return -EINVAL;
}

static int exmap_region_mremap(struct vm_area_struct *vma)
{
	return -EINVAL;
}

/*
 * A fault is raised without the page table lock. vma_batch_hold() may have cleared
 * the PTE of a page for a moment to make it clean. Only a look with the lock held
 * shows that there is no page.
 */
static bool exmap_region_has_page(struct vm_area_struct *vma, unsigned long addr)
{
	struct vma_batch vb;
	u8 slot;

	vma_batch_begin(&vb, vma, NULL, 0, 0);
	vma_batch_query(&vb, addr, 1, &slot, false);
	vma_batch_end(&vb);
	return slot & VMA_BATCH_SLOT_PAGE;
}

static vm_fault_t exmap_region_fault(struct vm_fault *vmf)
{
	const unsigned long addr = vmf->address & PAGE_MASK;
	struct vm_area_struct *vma = vmf->vma;
	struct exmap *exmap = vma->vm_private_data;

	if (!exmap)
		return VM_FAULT_SIGSEGV;
	if (exmap_region_has_page(vma, addr))
		return VM_FAULT_NOPAGE;
	/*
	 * A process that looks into this one, with ptrace() for example, does not
	 * make the pool grow. The load pairs with exmap_do_setup().
	 */
	if (exmap->mm != current->mm || !smp_load_acquire(&exmap->ready) ||
	    !exmap->fault)
		return VM_FAULT_SIGSEGV;
	if (exmap->fault(exmap, vma, addr))
		return VM_FAULT_SIGSEGV;
	return VM_FAULT_NOPAGE;
}

/* Maps nothing, but with this function ->fault() is called without the mmap_lock */
static vm_fault_t exmap_region_map_pages(struct vm_fault *vmf, pgoff_t start,
					 pgoff_t end)
{
	return 0;
}

const struct vm_operations_struct exmap_region_ops = {
	.mapped		= exmap_region_mapped,
	.open		= exmap_region_open,
	.close		= exmap_region_close,
	.may_split	= exmap_region_may_split,
	.mremap		= exmap_region_mremap,
	.fault		= exmap_region_fault,
	.map_pages	= exmap_region_map_pages,
};

/**
 * exmap_region_mmap_prepare() - Set up a VMA that is to become the region.
 * @exmap: the exmap, of the current process
 * @desc: the VMA to be; known to be shared
 *
 * Context: mmap_lock is held for writing.
 * Return: 0; -EBUSY if there is or was a region; -EINVAL if it is not made of slots.
 */
int exmap_region_mmap_prepare(struct exmap *exmap, struct vm_area_desc *desc)
{
	/* Fail early where possible; exmap_region_mapped() decides */
	if (READ_ONCE(exmap->state) != EXMAP_UNMAPPED)
		return -EBUSY;
	if (!exmap_region_fits(exmap, desc->start, desc->end))
		return -EINVAL;

	vma_desc_set_flags(desc, VMA_MIXEDMAP_BIT, VMA_DONTEXPAND_BIT,
			   VMA_DONTCOPY_BIT, VMA_DONTDUMP_BIT);
	desc->vm_ops = &exmap_region_ops;
	return 0;
}

/**
 * exmap_region_get_unmapped_area() - Find a place for a region.
 * @exmap: the exmap, set up
 * @file: its file
 * @addr: as with mmap(), here and below
 * @len: length in bytes
 * @pgoff: offset
 * @flags: flags
 *
 * Context: mmap_lock is held for writing.
 * Return: an address that is aligned to the size of slots, or an error.
 */
unsigned long exmap_region_get_unmapped_area(const struct exmap *exmap, struct file *file,
					     unsigned long addr, unsigned long len,
					     unsigned long pgoff, unsigned long flags)
{
	const unsigned long size = exmap_slot_size(exmap), more = len + size - PAGE_SIZE;
	unsigned long at = -ENOMEM;

	/* What the program wishes may do as it is */
	if (addr || size == PAGE_SIZE)
		at = mm_get_unmapped_area(file, addr, len, pgoff, flags);
	if (IS_ALIGNED(at, size) || flags & MAP_FIXED)
		return at;
	if (more < len)
		return -ENOMEM;
	at = mm_get_unmapped_area(file, 0, more, pgoff, flags);
	return IS_ERR_VALUE(at) ? at : ALIGN(at, size);
}

/**
 * exmap_region_lock() - Find the region and keep it from changing.
 * @exmap: the exmap, of the current process
 * @mmap_locked: set to tell exmap_region_unlock() which lock was taken
 *
 * Context: Process context, may sleep. Takes the VMA lock for reading, or the
 * mmap_lock where a writer waits or where there are no VMA locks.
 *
 * Return: the region; ERR_PTR(-ENXIO) if there is none (yet, or any more),
 * ERR_PTR(-EINTR) if a fatal signal arrived while waiting.
 */
struct vm_area_struct *exmap_region_lock(struct exmap *exmap, bool *mmap_locked)
{
	struct vm_area_struct *vma;

	/* Pairs with exmap_region_mapped(): @start and @nr_slots are valid */
	if (smp_load_acquire(&exmap->state) != EXMAP_MAPPED)
		return ERR_PTR(-ENXIO);

	/* Another VMA may have taken the place meanwhile: look at what was locked */
	vma = lock_vma_cached(exmap->mm, &exmap->vma);
	if (likely(vma && exmap_region_is(exmap, vma))) {
		*mmap_locked = false;
		return vma;
	}
	if (vma)
		vma_end_read(vma);

	vma = lock_vma_under_rcu(exmap->mm, exmap->start);
	if (vma) {
		if (exmap_region_is(exmap, vma)) {
			WRITE_ONCE(exmap->vma, vma);
			*mmap_locked = false;
			return vma;
		}
		vma_end_read(vma);
	}

	if (mmap_read_lock_killable(exmap->mm))
		return ERR_PTR(-EINTR);
	vma = vma_lookup(exmap->mm, exmap->start);
	if (vma && exmap_region_is(exmap, vma)) {
		*mmap_locked = true;
		return vma;
	}
	mmap_read_unlock(exmap->mm);
	return ERR_PTR(-ENXIO);
}

/**
 * exmap_region_unlock() - Let the region change again.
 * @exmap: the exmap
 * @vma: what exmap_region_lock() returned
 * @mmap_locked: what it set
 */
void exmap_region_unlock(struct exmap *exmap, struct vm_area_struct *vma,
			 bool mmap_locked)
{
	if (mmap_locked)
		mmap_read_unlock(exmap->mm);
	else
		vma_end_read(vma);
}

/**
 * exmap_region_find() - Look for the region, where all regions of the pool are locked.
 * @exmap: the exmap, set up
 *
 * Context: As exmap_region_vma().
 * Return: as exmap_region_vma().
 */
struct vm_area_struct *exmap_region_find(struct exmap *exmap)
{
	struct vm_area_struct *vma;

	/* Pairs with exmap_region_mapped(): @start and @nr_slots are valid */
	if (smp_load_acquire(&exmap->state) != EXMAP_MAPPED)
		return NULL;
	vma = vma_lookup(exmap->mm, exmap->start);
	if (!vma || !exmap_region_is(exmap, vma))
		return NULL;
	WRITE_ONCE(exmap->vma, vma);
	return vma;
}

/**
 * exmap_region_flush() - Do the TLB flush that freed pages of a group wait for.
 * @group: the group, with deferred flushes
 * @generation: the generation that the caller needs to be flushed
 *
 * Context: Process context, may sleep. A region of the group is locked; no lock of an
 * interface is held.
 */
void exmap_region_flush(struct exmap_group *group, u64 generation)
{
	if (!exmap_quarantine_flush_begin(group, generation))
		return;
	vma_batch_flush(group->mm);
	exmap_quarantine_flush_end(group);
}
