// SPDX-License-Identifier: GPL-2.0-only
/*
 * Interfaces: a page of vectors shared with the program, and the calls on it
 */
#include <linux/bitmap.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "exmap.h"

static_assert(sizeof(struct exmap_iov) == 8);
static_assert(sizeof(struct exmap_user_interface) == PAGE_SIZE);

/* Vectors of one page that are carried out together */
#define EXMAP_SINGLES	64U

/* The page of vectors, made when first needed; under the interface's lock */
static struct exmap_iov *exmap_interface_vectors(struct exmap_interface *iface)
{
	if (unlikely(!iface->vectors))
		iface->vectors = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	return iface->vectors;
}

static vm_fault_t exmap_interface_fault(struct vm_fault *vmf)
{
	struct exmap_interface *iface = vmf->vma->vm_private_data;
	struct exmap_iov *vecs;

	mutex_lock(&iface->lock);
	vecs = exmap_interface_vectors(iface);
	mutex_unlock(&iface->lock);
	if (!vecs)
		return VM_FAULT_OOM;
	vmf->page = virt_to_page(vecs);
	get_page(vmf->page);
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
	free_page((unsigned long)iface->vectors);
}

static void exmap_put_result(struct exmap_iov *vec, int res, unsigned long pages)
{
	struct exmap_iov result = { .value = 0 };

	result.res = res;
	result.pages = pages;
	WRITE_ONCE(vec->value, result.value);
}

/* The results of the first vectors, which have changed nothing */
static noinline void exmap_put_held_back(struct exmap_iov *vecs, unsigned int nr,
					 const unsigned long *out_of_range)
{
	while (nr--)
		exmap_put_result(&vecs[nr], test_bit(nr, out_of_range) ? -ERANGE : 0, 0);
}

/* Carry out a vector of any kind */
static noinline int exmap_do_vector(struct exmap_call *call, unsigned long slot,
				    unsigned long len, bool alloc,
				    unsigned long *changed)
{
	unsigned long done;

	*changed = 0;
	if (!exmap_slots_ok(call->exmap, slot, len))
		return len ? -ERANGE : 0;
	if (fatal_signal_pending(current))
		return -EINTR;
	if (alloc)
		return exmap_call_alloc(call, slot, len, &done, changed);
	return exmap_call_free(call, slot, len, changed);
}

/*
 * Carry out vectors of one page each, which most are. Replaces their addresses by
 * their results, which are the number of pages or an error, and sets *any if
 * something was changed. Returns how many failed, or the error that came before.
 */
static __always_inline long exmap_do_singles(struct exmap_call *call,
					     unsigned long *addrs, unsigned int nr,
					     bool alloc, bool *any)
{
	unsigned int i = 0;
	long failed = 0;

	for (;;) {
		const unsigned int before = call->vb.nr;
		unsigned long slot, changed;
		int err;

		if (alloc) {
			i += vma_batch_map_each(&call->vb, addrs + i, nr - i);
		} else {
			i += vma_batch_unmap_each(&call->vb, addrs + i, nr - i);
			call->freed += call->vb.nr - before;
		}
		*any |= call->vb.nr != before;
		if (likely(i == nr))
			return failed;

		/* One for which a page is missing, or room, or that is busy */
		slot = (addrs[i] - call->exmap->start) >> PAGE_SHIFT;
		err = exmap_do_vector(call, slot, 1, alloc, &changed);
		*any |= changed || err == -EBUSY;
		if (err && !*any)
			return err;
		failed += err != 0;
		addrs[i++] = err ?: changed;
	}
}

/*
 * Carry out vectors, and replace each by its result. Results are held back until
 * something has been changed, because a call that fails before that must leave
 * the vectors as they are; up to there they can only be 0 or -ERANGE.
 *
 * Returns how many vectors failed, or the error that came before any change.
 */
static __always_inline long exmap_do_vectors(struct exmap_call *call,
					     struct exmap_iov *vecs,
					     unsigned int nr_vecs, bool alloc)
{
	DECLARE_BITMAP(out_of_range, EXMAP_USER_INTERFACE_PAGES) = {};
	unsigned long addrs[EXMAP_SINGLES] __uninitialized;
	const struct exmap *exmap = call->exmap;
	bool any = false;
	long failed = 0;

	for (unsigned int i = 0; i < nr_vecs; ) {
		const unsigned int some = min(nr_vecs - i, EXMAP_SINGLES);
		const bool before = any;
		unsigned long changed;
		struct exmap_iov vec;
		unsigned int nr;
		long ret;

		for (nr = 0; nr < some; nr++) {
			/* The program may write to it meanwhile: look once */
			vec.value = READ_ONCE(vecs[i + nr].value);
			if (unlikely(vec.len != 1 || vec.page >= exmap->nr_slots))
				break;
			addrs[nr] = exmap->start + ((unsigned long)vec.page << PAGE_SHIFT);
		}
		if (likely(nr)) {
			ret = exmap_do_singles(call, addrs, nr, alloc, &any);
			if (unlikely(ret < 0))
				return ret;
			failed += ret;
		}
		if (unlikely(!before) && any)
			exmap_put_held_back(vecs, i, out_of_range);
		for (unsigned int j = 0; any && j < nr; j++) {
			if (unlikely((long)addrs[j] < 0))
				exmap_put_result(&vecs[i + j], addrs[j], 0);
			else
				exmap_put_result(&vecs[i + j], 0, addrs[j]);
		}
		i += nr;
		if (likely(nr == some))
			continue;

		ret = exmap_do_vector(call, vec.page, vec.len, alloc, &changed);
		failed += ret != 0;
		if (!any && !changed && ret != -EBUSY) {
			if (ret && ret != -ERANGE)
				return ret;
			__assign_bit(i++, out_of_range, ret);
			continue;
		}
		if (!any)
			exmap_put_held_back(vecs, i, out_of_range);
		any = true;
		exmap_put_result(&vecs[i++], ret, changed);
	}
	if (!any)
		exmap_put_held_back(vecs, nr_vecs, out_of_range);
	return failed;
}

static __always_inline bool exmap_do_single_locked(struct exmap *exmap,
						   struct exmap_interface *iface,
						   struct vm_area_struct *vma, bool alloc)
{
	struct exmap_bundle *local = iface->local;
	struct exmap_iov *vecs = iface->vectors, vec;
	unsigned long addr;
	struct page *page;

	if (unlikely(!vecs || !local))
		return false;
	/* The program may write to it meanwhile: look once */
	vec.value = READ_ONCE(vecs->value);
	if (unlikely(vec.len != 1 || vec.page >= exmap->nr_slots))
		return false;
	addr = exmap->start + ((unsigned long)vec.page << PAGE_SHIFT);

	if (alloc) {
		if (unlikely(!local->nr))
			return false;
		page = local->pages[local->nr - 1];
		if (unlikely(!vma_batch_map_page(vma, addr, page)))
			return false;
		local->nr--;
	} else {
		if (unlikely(local->nr == EXMAP_BUNDLE_PAGES))
			return false;
		page = vma_batch_unmap_page(vma, addr);
		if (unlikely(!page))
			return false;
		exmap_pool_free(&exmap->pool, iface, page);
	}
	exmap_put_result(vecs, 0, 1);
	return true;
}

/*
 * One vector of one page, as when a thread misses a page, without all that is
 * for many. Returns false, and nothing has happened, if it is not as simple as
 * that.
 */
static __always_inline bool exmap_do_single(struct exmap *exmap,
					    struct exmap_interface *iface, bool alloc)
{
	struct vm_area_struct *vma = lock_vma_cached(exmap->mm, &exmap->vma);
	bool done = false;

	if (unlikely(!vma))
		return false;
	/* Another VMA may be there by now: look at what was locked */
	if (likely(exmap_region_is(exmap, vma))) {
		mutex_lock(&iface->lock);
		done = exmap_do_single_locked(exmap, iface, vma, alloc);
		mutex_unlock(&iface->lock);
	}
	vma_end_read(vma);
	return done;
}

static noinline long exmap_do_action(struct exmap *exmap, struct exmap_interface *iface,
				     unsigned int nr_vecs, bool alloc)
{
	struct exmap_call call __uninitialized;
	struct exmap_iov *vecs;
	long ret;

	ret = exmap_call_begin(&call, exmap, iface);
	if (ret)
		return ret;
	if (!nr_vecs)
		goto out;
	vecs = exmap_interface_vectors(iface);
	if (unlikely(!vecs)) {
		ret = -ENOMEM;
	} else if (alloc) {
		ret = exmap_do_vectors(&call, vecs, nr_vecs, true);
	} else {
		exmap_call_set_freeing(&call, true);
		ret = exmap_do_vectors(&call, vecs, nr_vecs, false);
	}
out:
	exmap_call_end(&call);
	return ret;
}

/*
 * READ or WRITE: a job, with the vectors copied, so that the program may do with
 * them what it likes meanwhile. Returns what exmap_action() returns.
 */
static noinline long exmap_do_io(struct exmap *exmap, struct exmap_interface *iface,
				 unsigned int nr, u8 opcode)
{
	struct exmap_job job = { .exmap = exmap, .iface = iface, .nr = nr };
	unsigned int i, changed = 0;
	struct exmap_iov *vecs;
	int err = 0;
	long ret;

	mutex_lock(&iface->lock);
	vecs = exmap_interface_vectors(iface);
	mutex_unlock(&iface->lock);
	if (!vecs)
		return -ENOMEM;
	job.vecs = kvmalloc_array(nr, sizeof(*job.vecs) + sizeof(*job.results),
				  GFP_KERNEL_ACCOUNT);
	if (!job.vecs)
		return -ENOMEM;
	job.results = (void *)(job.vecs + nr);
	for (i = 0; i < nr; i++) {
		const struct exmap_iov vec = { .value = READ_ONCE(vecs[i].value) };

		job.vecs[i] = (struct exmap_vec) {
			.page = vec.page, .len = vec.len, .opcode = opcode,
		};
	}
	ret = exmap_job_prepare(&job, NULL);
	if (!ret)
		ret = exmap_job_run(&job, false);
	/* As exmap_do_vectors(): failed before any change, it has not happened */
	for (i = 0; !ret && i < nr; i++) {
		changed |= job.results[i].pages;
		if (!err && job.results[i].res != -ERANGE)
			err = job.results[i].res;
	}
	if (!ret && !changed && (err == -ENOMEM || err == -EINTR))
		ret = err;
	if (!ret) {
		for (i = 0; i < nr; i++)
			exmap_put_result(&vecs[i], job.results[i].res,
					 job.results[i].pages);
		ret = job.failed;
	}
	exmap_io_free(job.io);
	kvfree(job.vecs);
	return ret;
}

/**
 * exmap_action() - Carry out the vectors of an interface.
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
	const bool alloc = params->opcode == EXMAP_OP_ALLOC;
	const bool known = params->interface < exmap->pool.nr_interfaces && !params->flags;
	struct exmap_interface *iface = &exmap->pool.interfaces[params->interface];

	/* It finds nothing to do where there is no region */
	if (likely(known && params->iov_len == 1) && !exmap->pool.deferred &&
	    (alloc || params->opcode == EXMAP_OP_FREE) &&
	    likely(exmap_do_single(exmap, iface, alloc)))
		return 0;

	/*
	 * No region is what it fails with first, whatever else is wrong. Pairs with
	 * exmap_region_mapped().
	 */
	if (unlikely(smp_load_acquire(&exmap->state) != EXMAP_MAPPED))
		return -ENXIO;
	if (!known || params->iov_len > EXMAP_USER_INTERFACE_PAGES ||
	    params->opcode > EXMAP_OP_WRITE)
		return -EINVAL;
	if (exmap_opcode_is_io(params->opcode) && params->iov_len)
		return exmap_do_io(exmap, iface, params->iov_len, params->opcode);
	return exmap_do_action(exmap, iface, params->iov_len, alloc);
}
