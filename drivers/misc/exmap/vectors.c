// SPDX-License-Identifier: GPL-2.0-only
/*
 * Calls with an opcode in each vector, so that one call can evict pages and
 * bring in their successors. Vectors and results are in memory of the program's
 * choice: no page is shared, and a thread can have as many arrays as it likes.
 */
#include <linux/bitmap.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "exmap.h"

static_assert(sizeof(struct exmap_vec) == 16);
static_assert(sizeof(struct exmap_result) == 8);
static_assert(sizeof(struct exmap_vectors) == EXMAP_VECTORS_SIZE_VER0);

/* Up to so many vectors need no memory from the system */
#define EXMAP_VECTORS_ON_STACK	16

/*
 * ALLOC slot by slot, for those who need to know something of each page. The
 * slots that got one are marked in @fresh, if that is there.
 */
static int exmap_alloc_each(struct exmap_call *call, const struct exmap_vec *vec,
			    unsigned long *fresh, unsigned long *changed)
{
	const unsigned long start = call->exmap->start + (vec->page << PAGE_SHIFT);
	struct vma_batch *vb = &call->vb;
	struct page *zeroed = NULL;

	for (unsigned int i = 0; i < vec->len; ) {
		const unsigned int before = vb->nr;
		struct page *next = before ? vb->pages[before - 1] : NULL;

		/* It stays what is next when the slot has a page */
		if (vec->flags & EXMAP_VEC_ZERO && next && next != zeroed) {
			clear_highpage(next);
			zeroed = next;
		}
		if (!vma_batch_map(vb, start + i * PAGE_SIZE, 1)) {
			int err = exmap_call_resume(call, vec->len - i);

			if (err)
				return err;
			/* Others may have had it meanwhile */
			zeroed = NULL;
			continue;
		}
		if (vb->nr != before) {
			zeroed = NULL;
			++*changed;
			if (fresh)
				__set_bit(i, fresh);
		}
		i++;
	}
	return 0;
}

/* ALLOC for a vector that wants all of its pages, or none */
static int exmap_alloc_all_or_nothing(struct exmap_call *call,
				      const struct exmap_vec *vec,
				      unsigned long *changed)
{
	DECLARE_BITMAP(fresh, EXMAP_VEC_ALL_OR_NOTHING_MAX);
	unsigned long freed;
	unsigned int i;
	int err;

	bitmap_zero(fresh, vec->len);
	err = exmap_alloc_each(call, vec, fresh, changed);
	if (!err)
		return 0;
	if (*changed && !exmap_call_set_freeing(call, true)) {
		for_each_set_bit(i, fresh, vec->len) {
			if (exmap_call_free(call, vec->page + i, 1, &freed))
				break;
			*changed -= freed;
		}
		exmap_call_set_freeing(call, false);
	}
	return err;
}

static int exmap_do_vec(struct exmap_call *call, const struct exmap_vec *vec,
			unsigned long *changed)
{
	const bool freeing = vec->opcode == EXMAP_OP_FREE;
	unsigned long done;
	int err;

	*changed = 0;
	if (vec->order || vec->node)
		return -EINVAL;
	switch (vec->opcode) {
	case EXMAP_OP_ALLOC:
		if (vec->flags & ~(EXMAP_VEC_ZERO | EXMAP_VEC_ALL_OR_NOTHING))
			return -EINVAL;
		if (vec->flags & EXMAP_VEC_ALL_OR_NOTHING &&
		    vec->len > EXMAP_VEC_ALL_OR_NOTHING_MAX)
			return -EINVAL;
		break;
	case EXMAP_OP_FREE:
		if (vec->flags)
			return -EINVAL;
		break;
	default:
		return -EINVAL;
	}
	if (!vec->len)
		return 0;
	if (!exmap_slots_ok(call->exmap, vec->page, vec->len))
		return -ERANGE;
	if (fatal_signal_pending(current))
		return -EINTR;

	if (call->freeing != freeing) {
		err = exmap_call_set_freeing(call, freeing);
		if (err)
			return err;
	}
	if (freeing)
		return exmap_call_free(call, vec->page, vec->len, changed);
	if (vec->flags & EXMAP_VEC_ALL_OR_NOTHING)
		return exmap_alloc_all_or_nothing(call, vec, changed);
	if (vec->flags)
		return exmap_alloc_each(call, vec, NULL, changed);
	return exmap_call_alloc(call, vec->page, vec->len, &done, changed);
}

/* All vectors of a call, now in kernel memory. Returns how many failed. */
static long exmap_do_jobs(struct exmap *exmap, struct exmap_interface *iface,
			  const struct exmap_vec *vecs, struct exmap_result *results,
			  unsigned int nr)
{
	struct exmap_call call __uninitialized;
	long failed = 0;
	int err;

	err = exmap_call_begin(&call, exmap, iface);
	if (err)
		return err;
	for (unsigned int i = 0; i < nr; i++) {
		unsigned long changed;

		results[i].res = exmap_do_vec(&call, &vecs[i], &changed);
		results[i].pages = changed;
		failed += results[i].res != 0;
	}
	exmap_call_end(&call);
	return failed;
}

/**
 * exmap_vectors() - Carry out an array of vectors.
 * @exmap: the exmap, of the current process and set up
 * @arg: what the program asks for
 *
 * Context: Process context, may sleep. No locks are held.
 *
 * Return: the number of vectors that failed, with the result of each in the
 * program's array. Or an error, with nothing done: -EFAULT if memory of the
 * program cannot be read, or the results not be written (if others change that
 * meanwhile, all was done), -EINVAL for sizes, flags or an interface that do not
 * exist, -ENXIO if there is no region, -ENOMEM, -EINTR if a fatal signal came.
 */
long exmap_vectors(struct exmap *exmap, const struct exmap_vectors __user *arg)
{
	/* Filled in before they are read, and larger than all the work for a page */
	struct exmap_vec few_vecs[EXMAP_VECTORS_ON_STACK] __uninitialized;
	struct exmap_result few_results[EXMAP_VECTORS_ON_STACK] __uninitialized;
	struct exmap_vec *vecs = few_vecs;
	struct exmap_result *results = few_results;
	void *many = NULL;
	struct exmap_vectors params;
	void __user *answer;
	long ret;

	ret = exmap_copy_sized(&params, sizeof(params), EXMAP_VECTORS_SIZE_VER0, arg);
	if (ret)
		return ret;
	if (READ_ONCE(exmap->state) != EXMAP_MAPPED)
		return -ENXIO;
	if (params.flags || params.nr > EXMAP_VECTORS_MAX ||
	    params.interface >= exmap->pool.nr_interfaces)
		return -EINVAL;

	if (params.nr > EXMAP_VECTORS_ON_STACK) {
		many = kvmalloc_array(params.nr, sizeof(*vecs) + sizeof(*results),
				      GFP_KERNEL_ACCOUNT);
		if (!many)
			return -ENOMEM;
		vecs = many;
		results = (void *)(vecs + params.nr);
	}
	answer = u64_to_user_ptr(params.results);
	/* Faults are for before and after: there may be none with the region locked */
	ret = -EFAULT;
	if (copy_from_user(vecs, u64_to_user_ptr(params.vecs), params.nr * sizeof(*vecs)) ||
	    fault_in_writeable(answer, params.nr * sizeof(*results)))
		goto out;
	ret = exmap_do_jobs(exmap, &exmap->pool.interfaces[params.interface],
			    vecs, results, params.nr);
	if (ret >= 0 && copy_to_user(answer, results, params.nr * sizeof(*results)))
		ret = -EFAULT;
out:
	kvfree(many);
	return ret;
}
