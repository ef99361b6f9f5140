// SPDX-License-Identifier: GPL-2.0-only
/*
 * Groups: what the pools of different slot sizes have in common
 */
#include <linux/mm.h>
#include <linux/slab.h>

#include "flight.h"
#include "group.h"
#include "memlock.h"
#include "pool.h"

static atomic_t exmap_group_last_id = ATOMIC_INIT(0);

/**
 * exmap_group_new() - Make a group without pools, to which no exmap is attached.
 * @mm: the address space of the program
 * @limit: number of base pages that the pools may own
 * @nr_interfaces: number of interfaces of each pool, at least 1
 *
 * Context: Process context, may sleep.
 * Return: the group, with a reference; NULL without memory.
 */
struct exmap_group *exmap_group_new(struct mm_struct *mm, unsigned long limit,
				    unsigned int nr_interfaces)
{
	struct exmap_group *group = kzalloc_obj(*group, EXMAP_GFP);

	if (!group)
		return NULL;
	group->flights = exmap_flights_alloc();
	if (!group->flights) {
		kfree(group);
		return NULL;
	}
	kref_init(&group->ref);
	mutex_init(&group->attach_lock);
	mutex_init(&group->flush_lock);
	init_rwsem(&group->regions_lock);
	group->id = atomic_inc_return(&exmap_group_last_id);
	group->mm = mm;
	group->nr_interfaces = nr_interfaces;
	group->generation = 1;
	exmap_group_set_limit(group, limit);
	return group;
}

static void exmap_group_free(struct kref *ref)
{
	struct exmap_group *group = container_of(ref, struct exmap_group, ref);
	struct exmap_pool *pool;

	/* Only a group that never had a region is not closed yet */
	if (!group->closed)
		exmap_group_close(group);
	for_each_exmap_pool(pool, group)
		exmap_pool_free(pool);
	exmap_memlock_uncharge(group, 0);
	exmap_flights_free(group->flights);
	kvfree(group->regions);
	kfree(group);
}

/**
 * exmap_group_get() - Take a reference to a group.
 * @group: the group, to which the caller has another reference
 */
void exmap_group_get(struct exmap_group *group)
{
	kref_get(&group->ref);
}

/**
 * exmap_group_put() - Drop a reference to a group.
 * @group: the group
 *
 * Context: Process context, may sleep.
 */
void exmap_group_put(struct exmap_group *group)
{
	kref_put(&group->ref, exmap_group_free);
}

/**
 * exmap_group_pool() - Return the pool of a slot size, making it if necessary.
 * @group: the group
 * @order: order of the pages, at most EXMAP_MAX_ORDER
 *
 * Context: Process context, may sleep. No lock of the group is held.
 * Return: the pool, which stays until the group is freed; NULL without memory.
 */
struct exmap_pool *exmap_group_pool(struct exmap_group *group, unsigned int order)
{
	struct exmap_pool *pool;

	mutex_lock(&group->attach_lock);
	pool = group->pools[order];
	if (!pool) {
		pool = exmap_pool_new(group, order);
		if (pool && group->closed)
			exmap_pool_close(pool);
		WRITE_ONCE(group->nr_pools, group->nr_pools + !!pool);
		/* Pairs with exmap_group_next() */
		smp_store_release(&group->pools[order], pool);
	}
	mutex_unlock(&group->attach_lock);
	return pool;
}

/**
 * exmap_group_close() - Give up all pages.
 * @group: the group
 *
 * Context: As exmap_pool_close(), for all pools; @group->attach_lock is held, or there is
 * no other user of @group.
 */
void exmap_group_close(struct exmap_group *group)
{
	struct exmap_pool *pool;

	group->closed = true;
	for_each_exmap_pool(pool, group)
		exmap_pool_close(pool);
}
