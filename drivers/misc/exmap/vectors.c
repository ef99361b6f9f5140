// SPDX-License-Identifier: GPL-2.0-only
/*
 * EXMAP_IOCTL_VECTORS: an array of vectors, each with an opcode of its own
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "interface.h"
#include "place.h"
#include "region.h"
#include "vectors.h"

static_assert(sizeof(struct exmap_vec) == EXMAP_VEC_SIZE_VER0);
static_assert(sizeof(struct exmap_result) == EXMAP_RESULT_SIZE_VER0);
static_assert(sizeof(struct exmap_vectors) == EXMAP_VECTORS_SIZE_VER0);

/* Vectors for which a call has room without memory of its own */
#define EXMAP_VECTORS_ON_STACK	16U

/**
 * exmap_vectors_job() - Prepare the job of a call.
 * @exmap: the exmap
 * @params: the argument, checked
 * @job: the job, of zeroes except for the addresses of vectors and results
 * @few: as for exmap_job_prepare()
 *
 * Context: Process context, may sleep.
 * Return: 0; the errors of exmap_copy_sized_array(); -EFAULT if the results cannot be
 * written.
 */
int exmap_vectors_job(struct exmap *exmap, const struct exmap_vectors *params,
		      struct exmap_job *job, struct exmap_io_few *few)
{
	void __user *answer = u64_to_user_ptr(params->results);
	int err;

	job->exmap = exmap;
	job->iface = exmap_interface_get(exmap, params->interface);
	job->nr = params->nr;
	/* There must be no page fault while the region is locked */
	err = exmap_copy_sized_array(job->vecs, sizeof(*job->vecs),
				     u64_to_user_ptr(params->vecs), params->vec_size, job->nr);
	if (err)
		return err;
	if (fault_in_writeable(answer, job->nr * params->result_size))
		return -EFAULT;
	exmap_job_prepare(job, few);
	return 0;
}

/**
 * exmap_vectors_answer() - Copy the results of a job to the program.
 * @job: the job, which is complete
 * @answer: the program's array
 * @size: size of its elements
 *
 * Return: the number of vectors that have failed, or -EFAULT.
 */
long exmap_vectors_answer(const struct exmap_job *job, void __user *answer, u32 size)
{
	return exmap_answer_sized_array(answer, size, job->results, sizeof(*job->results),
					job->nr) ?: job->failed;
}

/*
 * Carry out a FREE or an ALLOC of one page. Returns how many vectors are done, which is 0
 * if it is not the simplest case, or -EFAULT.
 */
static __always_inline int exmap_vectors_one(struct exmap *exmap,
					     const struct exmap_vectors *params)
{
	struct exmap_interface *iface = exmap_interface_get(exmap, params->interface);
	const struct exmap_vec __user *vec = u64_to_user_ptr(params->vecs);
	u64 __user *results = u64_to_user_ptr(params->results);
	struct vm_area_struct *vma;
	bool freeing, done;
	u64 slot, word;

	scoped_user_read_access(vec, fault) {
		unsafe_get_user(slot, &vec->page, fault);
		unsafe_get_user(word, (const u64 __user *)&vec->region, fault);
	}
	freeing = exmap_vec_word_is(word, exmap, EXMAP_OP_FREE);
	if (slot >= exmap->nr_slots ||
	    !(freeing || exmap_vec_word_is(word, exmap, EXMAP_OP_ALLOC)) ||
	    !exmap_place_is_near(exmap, iface))
		return 0;
	/* There must be no page fault while the region is locked */
	if (put_user(0, results))
		return -EFAULT;
	vma = exmap_region_trylock(exmap);
	if (unlikely(!vma))
		return 0;
	mutex_lock(&iface->lock);
	done = freeing ? exmap_place_free_one(exmap, iface, vma, slot) :
			 exmap_place_alloc_one(exmap, iface, vma, slot);
	mutex_unlock(&iface->lock);
	vma_end_read(vma);
	if (unlikely(!done))
		return 0;
	if (!put_user(exmap_result_plain(), results))
		return 1;
fault:
	return -EFAULT;
}

/*
 * Carry out a FREE of one page and an ALLOC of another one, as when a thread misses a
 * page. Returns how many of the two vectors are done, or -EFAULT. What is not done is
 * not the simplest case.
 */
static __always_inline int exmap_vectors_swap(struct exmap *exmap,
					      const struct exmap_vectors *params)
{
	struct exmap_interface *iface = exmap_interface_get(exmap, params->interface);
	const struct exmap_vec __user *vecs = u64_to_user_ptr(params->vecs);
	u64 __user *results = u64_to_user_ptr(params->results);
	const u64 result = exmap_result_plain();
	u64 out, in, free, alloc;
	struct vm_area_struct *vma;
	bool freed, placed;

	scoped_user_read_access_size(vecs, 2 * sizeof(*vecs), fault) {
		unsafe_get_user(out, &vecs[0].page, fault);
		unsafe_get_user(free, (const u64 __user *)&vecs[0].region, fault);
		unsafe_get_user(in, &vecs[1].page, fault);
		unsafe_get_user(alloc, (const u64 __user *)&vecs[1].region, fault);
	}
	if (!exmap_vec_word_is(free, exmap, EXMAP_OP_FREE) || out >= exmap->nr_slots ||
	    !exmap_vec_word_is(alloc, exmap, EXMAP_OP_ALLOC) || in >= exmap->nr_slots ||
	    !exmap_place_is_near(exmap, iface))
		return 0;
	/* There must be no page fault while the region is locked */
	scoped_user_write_access_size(results, 2 * sizeof(*results), fault) {
		unsafe_put_user(0, &results[0], fault);
		unsafe_put_user(0, &results[1], fault);
	}
	vma = exmap_region_trylock(exmap);
	if (unlikely(!vma))
		return 0;
	mutex_lock(&iface->lock);
	freed = exmap_place_free_one(exmap, iface, vma, out);
	placed = freed && exmap_place_alloc_one(exmap, iface, vma, in);
	mutex_unlock(&iface->lock);
	vma_end_read(vma);
	if (unlikely(!freed))
		return 0;
	scoped_user_write_access_size(results, 2 * sizeof(*results), fault) {
		unsafe_put_user(result, &results[0], fault);
		if (likely(placed))
			unsafe_put_user(result, &results[1], fault);
	}
	return 1 + placed;
fault:
	return -EFAULT;
}

/* Carry out some of the vectors of a call. Returns the number of those that failed. */
static long exmap_vectors_some(struct exmap *exmap, struct exmap_vectors *params,
			       struct exmap_vec *vecs, struct exmap_result *results)
{
	struct exmap_job job = { .vecs = vecs, .results = results };
	struct exmap_io_few few __uninitialized;
	long ret;

	ret = exmap_vectors_job(exmap, params, &job, &few);
	if (!ret)
		ret = exmap_job_run(&job);
	if (!ret)
		ret = exmap_vectors_answer(&job, u64_to_user_ptr(params->results),
					   params->result_size);
	exmap_io_free(job.io);
	return ret;
}

/*
 * Carry out the vectors from @done on, a few at a time. This needs no memory, because a
 * program that is short of memory must be able to FREE. Returns as exmap_vectors(). An
 * error that ends a call after some of its vectors are done is the result of the others.
 */
static noinline long exmap_vectors_by_parts(struct exmap *exmap,
					    const struct exmap_vectors *params, u32 done,
					    struct exmap_vec *vecs,
					    struct exmap_result *results)
{
	struct exmap_vectors part = *params;
	long failed = 0;

	part.vecs += done * part.vec_size;
	part.results += done * part.result_size;

	/* Nothing is done if a later part cannot be */
	if (fault_in_readable(u64_to_user_ptr(params->vecs), params->nr * part.vec_size) ||
	    fault_in_writeable(u64_to_user_ptr(params->results),
			       params->nr * part.result_size))
		return -EFAULT;

	for (; done < params->nr; done += part.nr) {
		long ret;

		part.nr = min(params->nr - done, EXMAP_VECTORS_ON_STACK);
		ret = exmap_vectors_some(exmap, &part, vecs, results);
		if (ret < 0 && (!done || ret == -EFAULT))
			return ret;
		if (ret < 0) {
			for (u32 i = 0; i < part.nr; i++)
				results[i] = (struct exmap_result) { .res = ret };
			if (exmap_answer_sized_array(u64_to_user_ptr(part.results),
						     part.result_size, results,
						     sizeof(*results), part.nr))
				return -EFAULT;
			ret = part.nr;
		}
		failed += ret;
		part.vecs += part.nr * part.vec_size;
		part.results += part.nr * part.result_size;
	}
	return failed;
}

/* Carry out the vectors from @done on, of any kind. Returns as exmap_vectors(). */
static noinline long exmap_vectors_rest(struct exmap *exmap, struct exmap_vectors *params,
					u32 done)
{
	/* Filled in before they are read, and larger than all else a page needs */
	struct exmap_vec few_vecs[EXMAP_VECTORS_ON_STACK] __uninitialized;
	struct exmap_result few_results[EXMAP_VECTORS_ON_STACK] __uninitialized;
	struct exmap_vec *many;
	long ret;

	if (done)
		return exmap_vectors_by_parts(exmap, params, done, few_vecs, few_results);
	if (params->nr <= EXMAP_VECTORS_ON_STACK)
		return exmap_vectors_some(exmap, params, few_vecs, few_results);
	many = kvmalloc_array(params->nr, sizeof(*few_vecs) + sizeof(*few_results),
			      EXMAP_GFP);
	if (!many)
		return exmap_vectors_by_parts(exmap, params, 0, few_vecs, few_results);
	ret = exmap_vectors_some(exmap, params, many, (void *)(many + params->nr));
	kvfree(many);
	return ret;
}

/**
 * exmap_vectors() - Carry out an array of vectors.
 * @exmap: the exmap, of the current process and set up
 * @arg: what the program asks for
 *
 * Context: Process context, may sleep. No locks are held.
 *
 * Return: the number of vectors that have failed, with the result of each in the
 * program's array. Or an error, with nothing done: the errors of
 * exmap_vectors_params() and exmap_vectors_job(), -EINTR if a fatal signal arrived.
 * If the memory of the results is taken away meanwhile, -EFAULT is returned although
 * everything was done.
 */
long exmap_vectors(struct exmap *exmap, const struct exmap_vectors __user *arg)
{
	struct exmap_vectors params __uninitialized;
	int err, done = 0;

	err = exmap_vectors_params(exmap, &params, arg);
	if (err)
		return err;
	if (params.nr == 2 && exmap->quick && exmap_vectors_known(&params)) {
		done = exmap_vectors_swap(exmap, &params);
		if (likely(done == 2))
			return 0;
		if (done < 0)
			return done;
	}
	/* One condition for both kinds of calls would make the one above 12 instructions longer */
	if (params.nr == 1 && exmap->quick && exmap_vectors_known(&params)) {
		done = exmap_vectors_one(exmap, &params);
		if (likely(done == 1))
			return 0;
		if (done < 0)
			return done;
	}
	return exmap_vectors_rest(exmap, &params, done);
}
