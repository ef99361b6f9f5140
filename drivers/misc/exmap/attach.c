// SPDX-License-Identifier: GPL-2.0-only
/*
 * Attaching: the regions that belong to a group
 */
#include <linux/mm.h>
#include <linux/slab.h>

#include "attach.h"
#include "exmap.h"
#include "group.h"
#include "memlock.h"

/* Make the table of regions larger. The lock of the table is held for writing. */
static int exmap_attach_grow(struct exmap_group *group)
{
	const unsigned int nr = group->nr_regions ? 2 * group->nr_regions : 1;
	struct exmap **regions;

	if (nr > EXMAP_MAX_REGIONS)
		return -ENOMEM;
	regions = kvcalloc(nr, sizeof(*regions), EXMAP_GFP);
	if (!regions)
		return -ENOMEM;
	if (group->nr_regions)
		memcpy(regions, group->regions, group->nr_regions * sizeof(*regions));
	kvfree(group->regions);
	group->regions = regions;
	group->nr_regions = nr;
	return 0;
}

/* Give an exmap the lowest number that is free */
static int exmap_attach_number(struct exmap *exmap, struct exmap_group *group)
{
	unsigned int n;
	int err = 0;

	down_write(&group->regions_lock);
	for (n = group->first_free; n < group->nr_regions && group->regions[n]; n++)
		;
	if (n == group->nr_regions)
		err = exmap_attach_grow(group);
	if (!err) {
		group->regions[n] = exmap;
		group->first_free = n + 1;
		exmap->number = n;
		exmap->plain = exmap_vec_word(&(struct exmap_vec){ .region = n, .len = 1 });
	}
	up_write(&group->regions_lock);
	return err;
}

/**
 * exmap_attach() - Let an exmap belong to the group of its pool.
 * @exmap: the exmap, complete except for @exmap->number, which is set here. It keeps a
 *	reference to the group, which the caller passes.
 *
 * Context: Process context, may sleep. @exmap->lock is held.
 * Return: 0; -ENXIO if the group is closed; -ENOMEM, also for too many regions.
 */
int exmap_attach(struct exmap *exmap)
{
	struct exmap_group *group = exmap->pool->group;
	int err;

	mutex_lock(&group->attach_lock);
	err = group->closed ? -ENXIO : exmap_attach_number(exmap, group);
	if (!err)
		group->nr_live++;
	mutex_unlock(&group->attach_lock);
	return err;
}

/**
 * exmap_attach_unmapped() - Take notice of a region that is gone for ever.
 * @exmap: the exmap, attached. No call is at work in its region, and no CPU can reach a
 *	page through it.
 *
 * Closes the pools if there is no other region, or if the address space is being torn down,
 * in which case no region has a page any more. Otherwise, the pages that the region had are
 * found when they are needed.
 *
 * Context: Process context, may sleep. @exmap->lock is held, or there is no other user
 * of @exmap.
 */
void exmap_attach_unmapped(struct exmap *exmap)
{
	struct exmap_group *group = exmap->pool->group;

	mutex_lock(&group->attach_lock);
	atomic_long_sub(atomic_long_xchg(&exmap->nr_tables, 0), &group->nr_tables);
	group->nr_live--;
	if (!group->closed && (!group->nr_live || !atomic_read(&group->mm->mm_users))) {
		exmap_group_close(group);
		exmap_memlock_uncharge(group, 0);
	} else {
		WRITE_ONCE(exmap->pool->drops, exmap->pool->drops + 1);
	}
	mutex_unlock(&group->attach_lock);
}

/**
 * exmap_detach() - Undo exmap_attach(), and drop the reference to the group.
 * @exmap: the exmap, which has no other user
 *
 * Context: Process context, may sleep.
 */
void exmap_detach(struct exmap *exmap)
{
	struct exmap_group *group = exmap->pool->group;

	/* A region that was never mapped did not tell */
	if (exmap->state != EXMAP_GONE)
		exmap_attach_unmapped(exmap);
	down_write(&group->regions_lock);
	group->regions[exmap->number] = NULL;
	group->first_free = min_t(unsigned int, group->first_free, exmap->number);
	up_write(&group->regions_lock);
	exmap_group_put(group);
}
