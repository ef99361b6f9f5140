/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * EXMAP_IOCTL_VECTORS: an array of vectors, each with an opcode of its own, so that
 * one call can evict pages and bring in their successors
 *
 * Vectors and results are in memory of the program's choice, and no page is shared.
 * So a thread can have any number of arrays and, through io_uring, of calls in flight.
 */
#ifndef _EXMAP_VECTORS_H
#define _EXMAP_VECTORS_H

#include <linux/types.h>

#include "exmap.h"
#include "job.h"
#include "sized.h"

long exmap_vectors(struct exmap *exmap, const struct exmap_vectors __user *arg);
int exmap_vectors_job(struct exmap *exmap, const struct exmap_vectors *params,
		      struct exmap_job *job, struct exmap_io_few *few);
long exmap_vectors_answer(const struct exmap_job *job, void __user *answer, u32 size);

/**
 * exmap_vectors_known() - Test whether the program knows vectors and results as they are.
 * @params: the argument of a call
 *
 * Return: true if their sizes are those that the kernel knows.
 */
static __always_inline bool exmap_vectors_known(const struct exmap_vectors *params)
{
	return params->vec_size == sizeof(struct exmap_vec) &&
	       params->result_size == sizeof(struct exmap_result);
}

/**
 * exmap_vectors_params() - Copy and check the argument of a call.
 * @exmap: the exmap, of the current process and set up
 * @params: where the argument goes
 * @arg: the argument
 *
 * Return: 0, the errors of exmap_copy_sized() and exmap_sized_ok(), -ENXIO if there is no
 * region, -EINVAL for flags, an interface or a number of vectors that does not exist.
 */
static __always_inline int exmap_vectors_params(struct exmap *exmap,
						struct exmap_vectors *params,
						const struct exmap_vectors __user *arg)
{
	int err;

	err = exmap_copy_sized(params, sizeof(*params), EXMAP_VECTORS_SIZE_VER0, arg);
	if (err)
		return err;
	if (READ_ONCE(exmap->state) != EXMAP_MAPPED)
		return -ENXIO;
	if (params->flags || params->nr > EXMAP_VECTORS_MAX ||
	    params->interface >= exmap->pool->nr_interfaces)
		return -EINVAL;
	if (likely(exmap_vectors_known(params)))
		return 0;
	return exmap_sized_ok(params->vec_size, EXMAP_VEC_SIZE_VER0) ?:
	       exmap_sized_ok(params->result_size, EXMAP_RESULT_SIZE_VER0);
}

#endif /* _EXMAP_VECTORS_H */
