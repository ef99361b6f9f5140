// SPDX-License-Identifier: GPL-2.0-only
/*
 * Interfaces: a page of vectors shared with the program, and the calls on it
 */
#include <linux/bitmap.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

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
static long exmap_do_vectors(struct exmap_call *call, struct exmap_iov *vecs,
			     unsigned int nr_vecs, bool alloc)
{
	DECLARE_BITMAP(out_of_range, EXMAP_USER_INTERFACE_PAGES) __uninitialized;
	unsigned int held_back = 0;
	long failed = 0;
	unsigned int i;
	int err;

	for (i = 0; i < nr_vecs; i++) {
		/* The program may write to it meanwhile: look once */
		struct exmap_iov vec = { .value = READ_ONCE(vecs[i].value) };
		const unsigned long slot = vec.page, len = vec.len;
		unsigned long done, changed = 0;

		err = 0;
		if (unlikely(!exmap_slots_ok(call->exmap, slot, len)))
			err = len ? -ERANGE : 0;
		else if (unlikely(fatal_signal_pending(current)))
			err = -EINTR;
		else if (alloc)
			err = exmap_call_alloc(call, slot, len, &done, &changed);
		else
			err = exmap_call_free(call, slot, len, &changed);

		failed += err != 0;
		if (unlikely(held_back == i && !changed && err != -EBUSY)) {
			if (err && err != -ERANGE)
				return err;
			__assign_bit(i, out_of_range, err);
			held_back++;
			continue;
		}
		exmap_put_result(&vecs[i], err, changed);
	}

	while (held_back--)
		exmap_put_result(&vecs[held_back],
				 test_bit(held_back, out_of_range) ? -ERANGE : 0, 0);
	return failed;
}

/*
 * READ or WRITE: a job, with the vectors copied, so that the program may do with
 * them what it likes meanwhile. Returns what exmap_action() returns.
 */
static long exmap_do_io(struct exmap *exmap, struct exmap_interface *iface,
			struct exmap_iov *vecs, unsigned int nr, u8 opcode)
{
	struct exmap_job job = { .exmap = exmap, .iface = iface, .nr = nr };
	unsigned int i, changed = 0;
	long ret;

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
	ret = exmap_job_prepare(&job);
	if (!ret)
		ret = exmap_job_run(&job, false);
	/* As exmap_do_vectors(): failed before any change, it has not happened */
	for (i = 0; !ret && !changed && i < nr; i++) {
		changed = job.results[i].pages;
		if (!changed && job.results[i].res && job.results[i].res != -ERANGE)
			break;
	}
	if (!ret && !changed && i < nr && (job.results[i].res == -ENOMEM ||
					   job.results[i].res == -EINTR))
		ret = job.results[i].res;
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
	struct exmap_call call __uninitialized;
	struct exmap_interface *iface;
	struct page *page;
	long ret;

	/* No region is what it fails with first, whatever else is wrong */
	if (READ_ONCE(exmap->state) != EXMAP_MAPPED)
		return -ENXIO;
	if (params->interface >= exmap->pool.nr_interfaces ||
	    params->iov_len > EXMAP_USER_INTERFACE_PAGES || params->flags ||
	    params->opcode > EXMAP_OP_WRITE)
		return -EINVAL;

	iface = &exmap->pool.interfaces[params->interface];
	if (unlikely(exmap_opcode_is_io(params->opcode) && params->iov_len)) {
		mutex_lock(&iface->lock);
		page = exmap_interface_page(iface);
		mutex_unlock(&iface->lock);
		return page ? exmap_do_io(exmap, iface, page_address(page),
					  params->iov_len, params->opcode) : -ENOMEM;
	}
	ret = exmap_call_begin(&call, exmap, iface);
	if (ret)
		return ret;
	if (params->iov_len) {
		page = exmap_interface_page(call.iface);
		if (!page)
			ret = -ENOMEM;
		else if (params->opcode == EXMAP_OP_FREE)
			ret = exmap_call_set_freeing(&call, true);
		if (!ret)
			ret = exmap_do_vectors(&call, page_address(page), params->iov_len,
					       params->opcode == EXMAP_OP_ALLOC);
	}
	exmap_call_end(&call);
	return ret;
}
