// SPDX-License-Identifier: GPL-2.0-only
/*
 * Interfaces: a page of vectors shared with the program, and the calls on it
 */
#include <linux/bitmap.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/vma_batch.h>

#include "exmap.h"

static_assert(sizeof(struct exmap_iov) == 8);
static_assert(sizeof(struct exmap_user_interface) == PAGE_SIZE);

/* The page of vectors, made when first needed; under the interface's lock */
static struct page *exmap_interface_page(struct exmap_interface *iface)
{
	if (!iface->vectors)
		iface->vectors = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	return iface->vectors;
}

static vm_fault_t exmap_interface_fault(struct vm_fault *vmf)
{
	struct exmap_interface *iface = vmf->vma->vm_private_data;
	struct page *page;

	mutex_lock(&iface->lock);
	page = exmap_interface_page(iface);
	mutex_unlock(&iface->lock);
	if (!page)
		return VM_FAULT_OOM;
	get_page(page);
	vmf->page = page;
	return 0;
}

static int exmap_interface_mremap(struct vm_area_struct *vma)
{
	return -EINVAL;
}

static const struct vm_operations_struct exmap_interface_ops = {
	.fault	= exmap_interface_fault,
	.mremap	= exmap_interface_mremap,
};

/**
 * exmap_interface_mmap_prepare() - Set up the VMA of an interface's vectors.
 * @exmap: the exmap, of the current process and set up
 * @desc: the VMA to be; known to be shared, and to lie at the offset of an
 *	interface
 *
 * The VMA holds its file, and so the exmap with its interfaces.
 *
 * Context: mmap_lock is held for writing.
 * Return: 0; -ENXIO if there is no such interface; -EINVAL if the length is not
 * one page.
 */
int exmap_interface_mmap_prepare(struct exmap *exmap, struct vm_area_desc *desc)
{
	unsigned long n = desc->pgoff - (EXMAP_OFF_INTERFACE_BASE >> PAGE_SHIFT);

	if (n >= exmap->pool.nr_interfaces)
		return -ENXIO;
	if (vma_desc_pages(desc) != 1)
		return -EINVAL;

	vma_desc_set_flags(desc, VMA_DONTEXPAND_BIT, VMA_DONTCOPY_BIT,
			   VMA_DONTDUMP_BIT);
	desc->vm_ops = &exmap_interface_ops;
	desc->private_data = &exmap->pool.interfaces[n];
	return 0;
}

/**
 * exmap_interface_destroy() - Free the page of vectors.
 * @iface: the interface, which nobody uses any more
 */
void exmap_interface_destroy(struct exmap_interface *iface)
{
	if (iface->vectors)
		put_page(iface->vectors);
}

/* Let the cursor map from the local bundle, wherever that is now */
static void exmap_alloc_from_local(struct vma_batch *vb,
				   struct exmap_interface *iface)
{
	vb->pages = iface->local ? iface->local->pages : NULL;
	vb->nr = iface->local ? iface->local->nr : 0;
}

/* End the batch, and tell the local bundle which of its pages are gone */
static void exmap_alloc_end(struct vma_batch *vb, struct exmap_interface *iface)
{
	vma_batch_end(vb);
	if (iface->local)
		iface->local->nr = vb->nr;
}

/*
 * ALLOC for one vector. @refill: whether to ask the pool for more pages. Adds to
 * *done the slots that have a page now, to *changed those that had none before.
 */
static int exmap_alloc_range(struct exmap *exmap, struct vma_batch *vb,
			     struct exmap_interface *iface, unsigned long slot,
			     unsigned long nr, bool refill, unsigned long *done,
			     unsigned long *changed)
{
	const unsigned long start = exmap->start + (slot << PAGE_SHIFT);
	int err;

	for (;;) {
		const unsigned int before = vb->nr;

		*done += vma_batch_map(vb, start + (*done << PAGE_SHIFT), nr - *done);
		*changed += before - vb->nr;
		if (*done == nr)
			return 0;

		exmap_alloc_end(vb, iface);
		if (exmap_pool_drop_poisoned(&exmap->pool, iface))
			err = 0;
		else if (vb->nr)
			err = -ENOMEM;	/* for a page table */
		else
			err = refill ? exmap_pool_refill(&exmap->pool, iface, nr - *done) :
				       -ENOMEM;
		exmap_alloc_from_local(vb, iface);
		if (err)
			return err;
	}
}

/**
 * exmap_alloc_slots() - Put pages under the empty slots of one range.
 * @exmap: the exmap
 * @vma: the region, locked
 * @iface: the interface, whose lock the caller does not hold
 * @slot: first slot
 * @nr: number of slots, all inside the region
 * @done: is set to the number of slots, from @slot on, that have a page now
 *
 * Context: Process context, may sleep. The region is locked.
 * Return: 0, -ENOMEM if there were not enough pages or no memory for a page
 * table, -EINTR if a fatal signal is pending.
 */
int exmap_alloc_slots(struct exmap *exmap, struct vm_area_struct *vma,
		      struct exmap_interface *iface, unsigned long slot,
		      unsigned long nr, unsigned long *done)
{
	unsigned long changed = 0;
	struct vma_batch vb;
	int err;

	*done = 0;
	mutex_lock(&iface->lock);
	vma_batch_begin(&vb, vma, NULL, 0, 0);
	exmap_alloc_from_local(&vb, iface);
	err = exmap_alloc_range(exmap, &vb, iface, slot, nr, true, done, &changed);
	exmap_alloc_end(&vb, iface);
	mutex_unlock(&iface->lock);
	return err;
}

/* Flush, and let the pool have what was collected */
static void exmap_free_end(struct exmap *exmap, struct vma_batch *vb,
			   struct exmap_interface *iface)
{
	vma_batch_end(vb);
	iface->spare->nr = vb->nr;
	exmap_pool_recycle(&exmap->pool, iface);
	vb->pages = iface->spare->pages;
	vb->nr = 0;
}

/* FREE for one vector */
static void exmap_free_range(struct exmap *exmap, struct vma_batch *vb,
			     struct exmap_interface *iface, unsigned long slot,
			     unsigned long nr, unsigned long *changed)
{
	unsigned long addr = exmap->start + (slot << PAGE_SHIFT);

	for (;;) {
		const unsigned int before = vb->nr;
		unsigned long done = vma_batch_unmap(vb, addr, nr);

		*changed += vb->nr - before;
		addr += done << PAGE_SHIFT;
		nr -= done;
		if (!nr)
			return;
		exmap_free_end(exmap, vb, iface);
	}
}

static void exmap_put_result(struct exmap_iov *vec, int res, unsigned long pages)
{
	struct exmap_iov result = { .value = 0 };

	result.res = res;
	result.pages = pages;
	WRITE_ONCE(vec->value, result.value);
}

/*
 * Carry out vectors, and replace each by its result. Results are held back until
 * something has been changed, because a call that fails before that must leave
 * the vectors as they are; up to there they can only be 0 or -ERANGE.
 *
 * Returns how many vectors failed, or the error that came before any change.
 */
static long exmap_do_vectors(struct exmap *exmap, struct vm_area_struct *vma,
			     struct exmap_interface *iface, struct exmap_iov *vecs,
			     unsigned int nr_vecs, bool alloc)
{
	DECLARE_BITMAP(out_of_range, EXMAP_USER_INTERFACE_PAGES) = {};
	unsigned int held_back = 0;
	struct vma_batch vb;
	bool nomem = false;
	long failed = 0;
	unsigned int i;
	int err = 0;

	if (!alloc && exmap_pool_prepare_free(iface))
		return -ENOMEM;

	vma_batch_begin(&vb, vma, NULL, 0, EXMAP_BUNDLE_PAGES);
	if (alloc)
		exmap_alloc_from_local(&vb, iface);
	else
		vb.pages = iface->spare->pages;

	for (i = 0; i < nr_vecs; i++) {
		/* The program may write to it meanwhile: look once */
		struct exmap_iov vec = { .value = READ_ONCE(vecs[i].value) };
		const unsigned long slot = vec.page, len = vec.len;
		unsigned long done = 0, changed = 0;

		err = 0;
		if (!len)
			;
		else if (!exmap_slots_ok(exmap, slot, len))
			err = -ERANGE;
		else if (fatal_signal_pending(current))
			err = -EINTR;
		else if (alloc)
			/* Once the pool had none, more vectors need not ask again */
			err = exmap_alloc_range(exmap, &vb, iface, slot, len,
						!nomem, &done, &changed);
		else
			exmap_free_range(exmap, &vb, iface, slot, len, &changed);

		failed += err != 0;
		if (held_back == i && !changed) {
			if (err && err != -ERANGE)
				break;
			if (err)
				__set_bit(i, out_of_range);
			held_back++;
			continue;
		}
		nomem |= err == -ENOMEM;
		exmap_put_result(&vecs[i], err, changed);
	}

	if (alloc)
		exmap_alloc_end(&vb, iface);
	else
		exmap_free_end(exmap, &vb, iface);
	if (i < nr_vecs)
		return err;
	while (held_back--)
		exmap_put_result(&vecs[held_back],
				 test_bit(held_back, out_of_range) ? -ERANGE : 0, 0);
	return failed;
}

/**
 * exmap_action() - ALLOC or FREE the vectors of an interface.
 * @exmap: the exmap, of the current process and set up
 * @params: what the program asks for
 *
 * Context: Process context, may sleep. No locks are held.
 *
 * Return: the number of vectors that failed, with the result of each in the
 * shared page. Or an error, with nothing done and the shared page untouched:
 * -EINVAL for an interface, opcode, flag or number of vectors that does not
 * exist, -ENXIO if there is no region, -ENOMEM if memory ran out, -EINTR if a
 * fatal signal came.
 */
long exmap_action(struct exmap *exmap, const struct exmap_action_params *params)
{
	struct exmap_interface *iface;
	struct vm_area_struct *vma;
	struct page *page;
	bool mmap_locked;
	long ret;

	vma = exmap_region_lock(exmap, &mmap_locked);
	if (IS_ERR(vma))
		return PTR_ERR(vma);

	ret = -EINVAL;
	if (params->interface >= exmap->pool.nr_interfaces ||
	    params->iov_len > EXMAP_USER_INTERFACE_PAGES || params->flags ||
	    (params->opcode != EXMAP_OP_ALLOC && params->opcode != EXMAP_OP_FREE))
		goto out;
	ret = 0;
	if (!params->iov_len)
		goto out;

	iface = &exmap->pool.interfaces[params->interface];
	mutex_lock(&iface->lock);
	page = exmap_interface_page(iface);
	ret = page ? exmap_do_vectors(exmap, vma, iface, page_address(page),
				      params->iov_len,
				      params->opcode == EXMAP_OP_ALLOC) : -ENOMEM;
	mutex_unlock(&iface->lock);
out:
	exmap_region_unlock(exmap, vma, mmap_locked);
	return ret;
}
