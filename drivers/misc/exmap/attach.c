// SPDX-License-Identifier: GPL-2.0-only
/*
 * Attaching: the regions that share a pool
 */
#include <linux/mm.h>
#include <linux/slab.h>

#include "attach.h"
#include "exmap.h"
#include "flight.h"
#include "interface.h"
#include "memlock.h"
#include "pool.h"

static atomic_t exmap_attach_last_id = ATOMIC_INIT(0);

/**
 * exmap_attach_pool_new() - Make a pool, to which no exmap is attached.
 * @mm: the address space of the program
 * @limit: number of pages that the pool may own
 * @nr_interfaces: number of interfaces, at least 1
 *
 * Context: Process context, may sleep.
 * Return: the pool, with a reference; NULL without memory.
 */
struct exmap_pool *exmap_attach_pool_new(struct mm_struct *mm, unsigned long limit,
					 unsigned int nr_interfaces)
{
	struct exmap_pool *pool = kzalloc_obj(*pool, EXMAP_GFP);

	if (!pool)
		return NULL;
	pool->id = atomic_inc_return(&exmap_attach_last_id);
	pool->flights = exmap_flights_alloc();
	if (pool->flights && !exmap_pool_init(pool, mm, limit, nr_interfaces))
		return pool;
	exmap_flights_free(pool->flights);
	kfree(pool);
	return NULL;
}

static void exmap_attach_pool_free(struct kref *ref)
{
	struct exmap_pool *pool = container_of(ref, struct exmap_pool, ref);

	/* Only a pool that never had a region is not closed yet */
	if (!pool->closed)
		exmap_pool_close(pool);
	for (unsigned int i = 0; i < pool->nr_interfaces; i++)
		exmap_interface_destroy(&pool->interfaces[i]);
	exmap_pool_destroy(pool);
	exmap_memlock_uncharge(pool, 0);
	exmap_flights_free(pool->flights);
	kvfree(pool->regions);
	kfree(pool);
}

/**
 * exmap_attach_pool_get() - Take a reference to a pool.
 * @pool: the pool, to which the caller has another reference
 */
void exmap_attach_pool_get(struct exmap_pool *pool)
{
	kref_get(&pool->ref);
}

/**
 * exmap_attach_pool_put() - Drop a reference to a pool.
 * @pool: the pool
 *
 * Context: Process context, may sleep.
 */
void exmap_attach_pool_put(struct exmap_pool *pool)
{
	kref_put(&pool->ref, exmap_attach_pool_free);
}

/* Make the table of regions larger. The lock of the table is held for writing. */
static int exmap_attach_grow(struct exmap_pool *pool)
{
	const unsigned int nr = pool->nr_regions ? 2 * pool->nr_regions : 1;
	struct exmap **regions;

	if (nr > EXMAP_MAX_REGIONS)
		return -ENOMEM;
	regions = kvcalloc(nr, sizeof(*regions), EXMAP_GFP);
	if (!regions)
		return -ENOMEM;
	if (pool->nr_regions)
		memcpy(regions, pool->regions, pool->nr_regions * sizeof(*regions));
	kvfree(pool->regions);
	pool->regions = regions;
	pool->nr_regions = nr;
	return 0;
}

/* Give an exmap the lowest number that is free */
static int exmap_attach_number(struct exmap *exmap, struct exmap_pool *pool)
{
	unsigned int n;
	int err = 0;

	down_write(&pool->regions_lock);
	for (n = pool->first_free; n < pool->nr_regions && pool->regions[n]; n++)
		;
	if (n == pool->nr_regions)
		err = exmap_attach_grow(pool);
	if (!err) {
		pool->regions[n] = exmap;
		pool->first_free = n + 1;
		exmap->number = n;
		exmap->plain = exmap_vec_word(&(struct exmap_vec){ .region = n, .len = 1 });
	}
	up_write(&pool->regions_lock);
	return err;
}

/**
 * exmap_attach() - Let an exmap use a pool.
 * @exmap: the exmap, complete except for @exmap->number, which is set here
 * @pool: the pool, which is @exmap->pool, with a reference that the exmap keeps
 *
 * Context: Process context, may sleep. @exmap->lock is held.
 * Return: 0; -ENXIO if the pool is closed; -ENOMEM, also for too many regions.
 */
int exmap_attach(struct exmap *exmap, struct exmap_pool *pool)
{
	int err;

	mutex_lock(&pool->attach_lock);
	err = READ_ONCE(pool->closed) ? -ENXIO : exmap_attach_number(exmap, pool);
	if (!err)
		pool->nr_live++;
	mutex_unlock(&pool->attach_lock);
	return err;
}

/**
 * exmap_attach_unmapped() - Take notice of a region that is gone for ever.
 * @exmap: the exmap, attached. No call is at work in its region, and no CPU can reach a
 *	page through it.
 *
 * Closes the pool if there is no other region, or if the address space is being torn down,
 * in which case no region has a page any more. Otherwise, the pages that the region had are
 * found when they are needed.
 *
 * Context: Process context, may sleep. @exmap->lock is held, or there is no other user
 * of @exmap.
 */
void exmap_attach_unmapped(struct exmap *exmap)
{
	struct exmap_pool *pool = exmap->pool;

	mutex_lock(&pool->attach_lock);
	atomic_long_sub(atomic_long_xchg(&exmap->nr_tables, 0), &pool->nr_tables);
	pool->nr_live--;
	if (!pool->closed && (!pool->nr_live || !atomic_read(&pool->mm->mm_users))) {
		exmap_pool_close(pool);
		exmap_memlock_uncharge(pool, 0);
	} else {
		WRITE_ONCE(pool->drops, pool->drops + 1);
	}
	mutex_unlock(&pool->attach_lock);
}

/**
 * exmap_detach() - Undo exmap_attach(), and drop the reference to the pool.
 * @exmap: the exmap, which has no other user
 *
 * Context: Process context, may sleep.
 */
void exmap_detach(struct exmap *exmap)
{
	struct exmap_pool *pool = exmap->pool;

	/* A region that was never mapped did not tell */
	if (exmap->state != EXMAP_GONE)
		exmap_attach_unmapped(exmap);
	down_write(&pool->regions_lock);
	pool->regions[exmap->number] = NULL;
	pool->first_free = min_t(unsigned int, pool->first_free, exmap->number);
	up_write(&pool->regions_lock);
	exmap_attach_pool_put(pool);
}
