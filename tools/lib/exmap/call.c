// SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause)
/* Calls: lists of vectors, and lists of pages */
#include <errno.h>

#include "internal.h"

/* Pages of a list that are turned into vectors at once */
#define LIST_PART	512U

static int call_in_parts(struct exm_thread *thread, const struct exm_vec *vecs,
			 struct exm_result *results, unsigned int nr)
{
	int failed = 0;

	while (nr) {
		const unsigned int part = nr < EXM_MAX_VECS ? nr : EXM_MAX_VECS;
		const int ret = thread->pool->ops->call(thread, vecs, results, part);

		if (ret < 0)
			return ret;
		failed += ret;
		vecs += part;
		results += part;
		nr -= part;
	}
	return failed;
}

/*
 * Carry out vectors, in their order, and set the result of each. Returns the number of
 * those that have failed; or a negative error number, in which case nothing was done, or,
 * for more than 4,096 vectors, only the first ones, whose results are set.
 */
int exm_call(struct exm_thread *thread, const struct exm_vec *vecs,
	     struct exm_result *results, unsigned int nr)
{
	/* Without the loop, a call of one page takes 19 instructions less */
	if (nr && nr <= EXM_MAX_VECS)
		return thread->pool->ops->call(thread, vecs, results, nr);
	return call_in_parts(thread, vecs, results, nr);
}

static int call_list(struct exm_thread *thread, struct exm_region *region,
		     const uint64_t *pages, unsigned int nr, int *results,
		     struct exm_vec template)
{
	struct exm_vec vecs[LIST_PART];
	struct exm_result answers[LIST_PART];
	int failed = 0;

	template.region = region->number;
	template.len = 1;
	while (nr) {
		const unsigned int part = nr < LIST_PART ? nr : LIST_PART;
		int ret;

		for (unsigned int i = 0; i < part; i++) {
			vecs[i] = template;
			vecs[i].page = pages[i];
		}
		ret = thread->pool->ops->call(thread, vecs, answers, part);
		if (ret < 0)
			return ret;
		for (unsigned int i = 0; results && i < part; i++)
			*results++ = answers[i].res;
		failed += ret;
		pages += part;
		nr -= part;
	}
	return failed;
}

/*
 * The functions below do one thing to a list of pages of one region. They set results, if
 * it is not NULL, to 0 or a negative error number for each page, and return as exm_call().
 */

/* Bring in pages with any content. Pages that are there stay. */
int exm_alloc(struct exm_thread *thread, struct exm_region *region,
	      const uint64_t *pages, unsigned int nr, int *results)
{
	return call_list(thread, region, pages, nr, results,
			 (struct exm_vec) { .opcode = EXM_ALLOC });
}

/* Evict pages, without writing them. Slots that are empty stay so. */
int exm_free(struct exm_thread *thread, struct exm_region *region,
	     const uint64_t *pages, unsigned int nr, int *results)
{
	return call_list(thread, region, pages, nr, results,
			 (struct exm_vec) { .opcode = EXM_FREE });
}

/* Bring in pages from the file of the region. Pages that are there stay. */
int exm_read(struct exm_thread *thread, struct exm_region *region,
	     const uint64_t *pages, unsigned int nr, int *results)
{
	return call_list(thread, region, pages, nr, results,
			 (struct exm_vec) { .opcode = EXM_READ });
}

/* Write pages to the file of the region. -EFAULT for slots that are empty. */
int exm_write(struct exm_thread *thread, struct exm_region *region,
	      const uint64_t *pages, unsigned int nr, int *results)
{
	return call_list(thread, region, pages, nr, results,
			 (struct exm_vec) { .opcode = EXM_WRITE });
}

/*
 * Bring pages to a NUMA node, without a change of content. -EBUSY for those that are held
 * elsewhere, -ENOMEM where the node has no memory, -ENODEV if there is no such node.
 */
int exm_move(struct exm_thread *thread, struct exm_region *region,
	     const uint64_t *pages, unsigned int nr, unsigned int node, int *results)
{
	if (node > UINT16_MAX)
		return exm_fail(ENODEV, "there is no node %u", node);
	return call_list(thread, region, pages, nr, results,
			 (struct exm_vec) { .opcode = EXM_MOVE, .node = node });
}
