/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Attaching: the regions that share a pool
 *
 * An exmap makes a pool, or attaches itself to the pool of another one of the same
 * process. Its number in the pool is how vectors name its region. The pool is closed
 * when none of its regions is mapped or can still be mapped.
 */
#ifndef _EXMAP_ATTACH_H
#define _EXMAP_ATTACH_H

#include <linux/nospec.h>
#include <linux/types.h>

#include "group.h"

/* Regions that one pool may have: exmap_vec::region says which one is meant */
#define EXMAP_MAX_REGIONS	65536U

struct exmap;

int exmap_attach(struct exmap *exmap);
void exmap_attach_unmapped(struct exmap *exmap);
void exmap_detach(struct exmap *exmap);

/**
 * exmap_attached() - Return the exmap that has a number.
 * @group: the group
 * @number: what the program says
 *
 * Context: @group->regions_lock is held; the exmap may be gone when it is released.
 * Return: the exmap, or NULL if there is none.
 */
static inline struct exmap *exmap_attached(const struct exmap_group *group, u32 number)
{
	const unsigned int nr = group->nr_regions;

	return number < nr ? group->regions[array_index_nospec(number, nr)] : NULL;
}

#endif /* _EXMAP_ATTACH_H */
