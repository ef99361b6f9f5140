// SPDX-License-Identifier: GPL-2.0-only
/*
 * EXMAP_IOCTL_ACTION: the vectors that an interface shares with the program
 */
#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "action.h"
#include "job.h"
#include "place.h"
#include "region.h"

/* Vectors of one page that are carried out together */
#define EXMAP_ACTION_SINGLES	64U

/**
 * struct exmap_action - the vectors of a call, and their results
 * @vecs: the shared vectors, each of which is overwritten by its result
 * @nr_held: number of results that are held back
 * @any: whether anything was changed
 * @failed: number of vectors that have failed
 * @out_of_range: the results held back that are -ERANGE; the others are 0
 *
 * A call that fails before it has changed anything must leave the vectors as they
 * are, so that it can be repeated. Until then, results are held back.
 */
struct exmap_action {
	struct exmap_iov *vecs;
	unsigned int nr_held;
	bool any;
	long failed;
	DECLARE_BITMAP(out_of_range, EXMAP_USER_INTERFACE_PAGES);
};

/*
 * Returns the slot of a vector of one page. For a vector of any other length, the result
 * is larger than any slot of a region, so that one comparison tests length and range.
 */
static __always_inline u64 exmap_iov_single(struct exmap_iov vec)
{
#ifdef __LITTLE_ENDIAN_BITFIELD
	return vec.value - (1ULL << (64 - EXMAP_PAGE_LEN_BITS));
#else
	return ror64(vec.value - 1, EXMAP_PAGE_LEN_BITS);
#endif
}

static void exmap_put_result(struct exmap_iov *vec, int res, unsigned long pages)
{
	struct exmap_iov result = { .value = 0 };

	result.res = res;
	result.pages = pages;
	WRITE_ONCE(vec->value, result.value);
}

/* Write the results that were held back */
static noinline void exmap_action_release(struct exmap_action *action)
{
	for (unsigned int i = 0; i < action->nr_held; i++)
		exmap_put_result(&action->vecs[i],
				 test_bit(i, action->out_of_range) ? -ERANGE : 0, 0);
	action->nr_held = 0;
}

/*
 * Report a vector. Returns 0, or @res if that is an error with which the whole call
 * fails, because nothing was changed before.
 */
static int exmap_action_put(struct exmap_action *action, unsigned int i, int res,
			    unsigned long changed)
{
	action->failed += res != 0;
	if (!action->any && !changed && res != -EBUSY) {
		if (res && res != -ERANGE)
			return res;
		__assign_bit(i, action->out_of_range, res);
		action->nr_held = i + 1;
		return 0;
	}
	if (!action->any)
		exmap_action_release(action);
	action->any = true;
	exmap_put_result(&action->vecs[i], res, changed);
	return 0;
}

/*
 * Report vectors of one page, from the first on, which have not failed. @nr_changed of
 * them have changed their slot, and only those still have its address in @addrs.
 */
static __always_inline void exmap_action_put_singles(struct exmap_action *action,
						     unsigned int first,
						     const unsigned long *addrs,
						     unsigned int nr,
						     unsigned int nr_changed)
{
	const struct exmap_iov changed = { .res = 0, .pages = 1 };
	struct exmap_iov *vecs = action->vecs + first;

	if (unlikely(!action->any)) {
		if (!nr_changed) {
			bitmap_clear(action->out_of_range, first, nr);
			action->nr_held = first + nr;
			return;
		}
		exmap_action_release(action);
		action->any = true;
	}
	if (likely(nr_changed == nr)) {
		memset64(&vecs->value, changed.value, nr);
		return;
	}
	for (unsigned int i = 0; i < nr; i++)
		exmap_put_result(&vecs[i], 0, addrs[i] != VMA_BATCH_NOWHERE);
}

/* Carry out a vector of any kind */
static noinline int exmap_action_vector(struct exmap_place *place, unsigned long slot,
					unsigned long len, bool alloc,
					unsigned long *changed)
{
	unsigned long done;

	*changed = 0;
	if (!exmap_slots_ok(place->at.exmap, slot, len))
		return len ? -ERANGE : 0;
	if (fatal_signal_pending(current))
		return -EINTR;
	if (alloc)
		return exmap_place_alloc(place, slot, len, &done, changed);
	return exmap_place_free(place, slot, len, changed);
}

/*
 * Carry out vectors. Most are of one page: their addresses are collected, and given
 * to the cursor together. Returns the number of vectors that have failed, or an error
 * if nothing was changed.
 */
static __always_inline long exmap_action_vectors(struct exmap_place *place,
						 struct exmap_iov *vecs,
						 unsigned int nr_vecs, bool alloc)
{
	struct exmap_action action = { .vecs = vecs };
	unsigned long addrs[EXMAP_ACTION_SINGLES] __uninitialized;
	const struct exmap *exmap = place->at.exmap;
	struct exmap_flights *flights = alloc ? NULL : exmap->flights;
	const unsigned long start = exmap->start;
	const unsigned long nr_slots = exmap->nr_slots;

	for (unsigned int i = 0; i < nr_vecs; ) {
		const unsigned int some = min(nr_vecs - i, EXMAP_ACTION_SINGLES);
		unsigned int nr, done = 0;
		unsigned long slot, changed;
		struct exmap_iov vec;
		int err;

		for (nr = 0; nr < some; nr++) {
			/* The program may write to the vector at any time: look once */
			vec.value = READ_ONCE(vecs[i + nr].value);
			slot = exmap_iov_single(vec);
			if (unlikely(slot >= nr_slots ||
				     exmap_flight_may_be_busy(flights,
							      (start >> PAGE_SHIFT) + slot)))
				break;
			addrs[nr] = start + (slot << PAGE_SHIFT);
		}
		while (done < nr) {
			const unsigned int first = done;
			unsigned int nr_changed;

			done += exmap_place_each(place, addrs + done, nr - done, &nr_changed);
			exmap_action_put_singles(&action, i + first, addrs + first,
						 done - first, nr_changed);
			if (likely(done == nr))
				break;
			/* A page or room in the array is missing: take the general path */
			err = exmap_action_vector(place, (addrs[done] - start) >> PAGE_SHIFT,
						  1, alloc, &changed);
			err = exmap_action_put(&action, i + done, err, changed);
			if (err)
				return err;
			done++;
		}
		i += nr;
		if (likely(nr == some))
			continue;
		err = exmap_action_vector(place, vec.page, vec.len, alloc, &changed);
		err = exmap_action_put(&action, i, err, changed);
		if (err)
			return err;
		i++;
	}
	if (!action.any)
		exmap_action_release(&action);
	return action.failed;
}

/*
 * Carry out a single vector of one page, as when a thread misses a page. Returns
 * false, and nothing has happened, if it is not the simplest case.
 */
static __always_inline bool exmap_action_single(struct exmap *exmap,
						struct exmap_interface *iface, bool alloc)
{
	struct vm_area_struct *vma;
	struct exmap_iov *vecs, vec;
	unsigned long slot;
	bool done = false;

	if (alloc && !exmap_place_is_near(exmap, iface))
		return false;
	vma = exmap_region_trylock(exmap);
	if (unlikely(!vma))
		return false;
	mutex_lock(&iface->lock);
	vecs = iface->vectors;
	if (likely(vecs)) {
		/* The program may write to the vector at any time: look once */
		vec.value = READ_ONCE(vecs->value);
		slot = exmap_iov_single(vec);
		if (likely(slot < exmap->nr_slots))
			done = alloc ? exmap_place_alloc_one(exmap, iface, vma, slot) :
				       exmap_place_free_one(exmap, iface, vma, slot);
		if (likely(done))
			exmap_put_result(vecs, 0, 1);
	}
	mutex_unlock(&iface->lock);
	vma_end_read(vma);
	return done;
}

static noinline long exmap_action_place(struct exmap *exmap,
					struct exmap_interface *iface,
					unsigned int nr_vecs, bool alloc)
{
	struct exmap_place place __uninitialized;
	struct exmap_iov *vecs;
	long ret;

	ret = exmap_place_begin(&place, exmap, iface, false);
	if (ret)
		return ret;
	if (!nr_vecs)
		goto out;
	vecs = exmap_interface_vectors(iface);
	if (unlikely(!vecs)) {
		ret = -ENOMEM;
	} else if (alloc) {
		ret = exmap_action_vectors(&place, vecs, nr_vecs, true);
	} else {
		exmap_place_set_freeing(&place, true);
		ret = exmap_action_vectors(&place, vecs, nr_vecs, false);
	}
out:
	exmap_place_end(&place);
	return ret;
}

/*
 * Carry out READs or WRITEs as a job, with the vectors copied, so that the program
 * may do with them what it likes meanwhile. Returns what exmap_action() returns.
 */
static noinline long exmap_action_io(struct exmap *exmap, struct exmap_interface *iface,
				     unsigned int nr, u8 opcode)
{
	struct exmap_job job = { .exmap = exmap, .iface = iface, .nr = nr };
	struct exmap_io_few few __uninitialized;
	unsigned int i, changed = 0;
	struct exmap_iov *vecs;
	int err = 0;
	long ret;

	mutex_lock(&iface->lock);
	vecs = exmap_interface_vectors(iface);
	mutex_unlock(&iface->lock);
	if (!vecs)
		return -ENOMEM;
	job.vecs = kvmalloc_array(nr, sizeof(*job.vecs) + sizeof(*job.results), EXMAP_GFP);
	if (!job.vecs)
		return -ENOMEM;
	job.results = (void *)(job.vecs + nr);
	for (i = 0; i < nr; i++) {
		const struct exmap_iov vec = { .value = READ_ONCE(vecs[i].value) };

		job.vecs[i] = (struct exmap_vec) {
			.page = vec.page, .region = exmap->number, .len = vec.len,
			.opcode = opcode,
		};
	}
	exmap_job_prepare(&job, &few);
	ret = exmap_job_run(&job);
	/* A call that fails before it has changed anything leaves the vectors alone */
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

/*
 * Number of vectors and opcode of a call as one number, from the first eight bytes of
 * its argument
 */
static __always_inline u32 exmap_action_what(u64 head)
{
	return head >> 16;
}

/* What exmap_action_what() returns for a call of one vector */
static __always_inline u32 exmap_action_single_what(u16 opcode)
{
	const struct exmap_action_params params = { .iov_len = 1, .opcode = opcode };
	u64 head;

	memcpy(&head, &params, sizeof(head));
	return exmap_action_what(head);
}

/**
 * exmap_action() - Carry out the vectors of an interface.
 * @exmap: the exmap, of the current process and set up
 * @arg: what the program asks for
 *
 * Context: Process context, may sleep. No locks are held.
 *
 * Return: the number of vectors that have failed, with the result of each in the
 * shared page. Or an error, with nothing done and the shared page untouched: -EFAULT if
 * @arg cannot be read, -EINVAL for an interface, opcode, flag or number of vectors that
 * does not exist, -ENXIO if there is no region, -ENOMEM if there was no memory, -EINTR
 * if a fatal signal arrived.
 */
long exmap_action(struct exmap *exmap, const struct exmap_action_params __user *arg)
{
	struct exmap_action_params params __uninitialized;
	struct exmap_interface *iface;
	u64 head, flags;
	u32 what;

	static_assert(offsetof(typeof(params), flags) == sizeof(head));
	/* For a call of one page, copy_from_user() would be a large part of the work */
	scoped_user_read_access(arg, fault) {
		unsafe_get_user(head, (const u64 __user *)arg, fault);
		unsafe_get_user(flags, &arg->flags, fault);
	}
	memcpy(&params, &head, sizeof(head));
	iface = exmap_interface_shared(exmap, params.interface);

	/* exmap_action_single() does nothing where there is no region */
	if (likely(iface && !flags && exmap->quick)) {
		what = exmap_action_what(head);
		if (what == exmap_action_single_what(EXMAP_OP_ALLOC) ?
		    likely(exmap_action_single(exmap, iface, true)) :
		    what == exmap_action_single_what(EXMAP_OP_FREE) &&
		    likely(exmap_action_single(exmap, iface, false)))
			return 0;
	}

	/*
	 * A missing region is what a call fails with first, whatever else is wrong.
	 * Pairs with exmap_region_mapped().
	 */
	if (unlikely(smp_load_acquire(&exmap->state) != EXMAP_MAPPED))
		return -ENXIO;
	if (!iface || flags || params.iov_len > EXMAP_USER_INTERFACE_PAGES ||
	    params.opcode > EXMAP_OP_WRITE)
		return -EINVAL;
	if (exmap_opcode_is_io(params.opcode) && params.iov_len)
		return exmap_action_io(exmap, iface, params.iov_len, params.opcode);
	return exmap_action_place(exmap, iface, params.iov_len,
				  params.opcode == EXMAP_OP_ALLOC);

fault:
	return -EFAULT;
}
