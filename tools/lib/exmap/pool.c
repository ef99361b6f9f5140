// SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause)
/* Pools, regions and thread handles: what does not depend on the backend */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

/* Whether all of an array of reserved fields is 0 */
static bool is_zero(const uint64_t *reserved, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		if (reserved[i])
			return false;
	return true;
}

/* Try one backend. If it fails, nothing is left behind. */
static int pool_try(struct exm_pool *pool, const struct exm_pool_options *options,
		    enum exm_backend backend)
{
	pool->ops = backend == EXM_BACKEND_EXMAP ? &exm_exmap_ops : &exm_stock_ops;
	pool->backend = backend;
	pool->features = 0;
	return pool->ops->pool_create(pool, options);
}

static int pool_check(const struct exm_pool_options *options)
{
	if (options->memory < EXM_PAGE_SIZE || options->memory % EXM_PAGE_SIZE)
		return exm_fail(EINVAL, "the memory of a pool is a multiple of %d bytes",
				EXM_PAGE_SIZE);
	if (options->threads > EXM_MAX_THREADS)
		return exm_fail(EINVAL, "a pool is for at most %d threads", EXM_MAX_THREADS);
	if (options->backend > EXM_BACKEND_STOCK || !is_zero(options->reserved, 4) ||
	    options->flags & ~(uint64_t)(EXM_POOL_DEFERRED | EXM_POOL_NO_FAULTS |
					 EXM_POOL_TOUCH))
		return exm_fail(EINVAL, "unknown backend, flag or field of a pool");
	if (options->flags & EXM_POOL_DEFERRED && options->flags & EXM_POOL_TOUCH)
		return exm_fail(EINVAL, "with deferred flushes, an empty slot cannot be touched");
	return 0;
}

static void pool_free(struct exm_pool *pool)
{
	pthread_mutex_destroy(&pool->lock);
	free(pool->regions);
	free(pool->users);
	free(pool);
}

/*
 * Make a pool. With EXM_BACKEND_AUTO, a kernel without exmap is no error, but an exmap
 * that refuses is: a program that was to be fast must not become slow without a word.
 */
int exm_pool_create(struct exm_pool **result, const struct exm_pool_options *options)
{
	enum exm_backend backend = options->backend;
	struct exm_pool *pool;
	int err;

	err = pool_check(options);
	if (err)
		return err;
	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return exm_fail(ENOMEM, "no memory for a pool");
	pthread_mutex_init(&pool->lock, NULL);
	pool->memory = options->memory;
	pool->threads = options->threads ? options->threads : sysconf(_SC_NPROCESSORS_ONLN);
	pool->fd = -1;
	/* Only what is used of the arrays takes memory */
	pool->regions = calloc(EXM_MAX_REGIONS, sizeof(*pool->regions));
	pool->users = calloc(pool->threads, sizeof(*pool->users));
	if (!pool->regions || !pool->users) {
		pool_free(pool);
		return exm_fail(ENOMEM, "no memory for the arrays of a pool");
	}

	if (backend != EXM_BACKEND_AUTO) {
		err = pool_try(pool, options, backend);
	} else {
		err = pool_try(pool, options, EXM_BACKEND_EXMAP);
		if (err == -ENOENT || err == -ENODEV || err == -ENXIO)
			err = pool_try(pool, options, EXM_BACKEND_STOCK);
	}
	if (err) {
		pool_free(pool);
		return err;
	}
	*result = pool;
	return 0;
}

/* Destroy a pool and all of its regions. There is no thread handle any more. */
void exm_pool_destroy(struct exm_pool *pool)
{
	if (!pool)
		return;
	for (unsigned int i = 0; i < EXM_MAX_REGIONS && pool->nr_regions; i++)
		exm_region_destroy(pool->regions[i]);
	pool->ops->pool_destroy(pool);
	pool_free(pool);
}

enum exm_backend exm_pool_backend(const struct exm_pool *pool)
{
	return pool->backend;
}

/* Return what the pool can do, enum exm_feature as bits */
unsigned int exm_pool_features(const struct exm_pool *pool)
{
	return pool->features;
}

/* Change how much memory the pages may take. -EBUSY if more than that is in slots. */
int exm_pool_resize(struct exm_pool *pool, uint64_t memory)
{
	int err;

	if (memory < EXM_PAGE_SIZE || memory % EXM_PAGE_SIZE)
		return exm_fail(EINVAL, "the memory of a pool is a multiple of %d bytes",
				EXM_PAGE_SIZE);
	pthread_mutex_lock(&pool->lock);
	err = pool->ops->pool_resize(pool, memory);
	pthread_mutex_unlock(&pool->lock);
	return err;
}

int exm_pool_stats(struct exm_pool *pool, struct exm_stats *stats)
{
	const int64_t used = pool->ops->pool_used(pool);

	if (used < 0)
		return used;
	memset(stats, 0, sizeof(*stats));
	stats->memory = pool->memory;
	stats->used = used;
	pthread_mutex_lock(&pool->lock);
	stats->regions = pool->nr_regions;
	pthread_mutex_unlock(&pool->lock);
	return 0;
}

/* Check the file of a region, so that both backends refuse the same ones */
static int file_check(int fd)
{
	struct stat stat;
	int flags;

	if (fd == -1)
		return 0;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || (flags & O_ACCMODE) == O_WRONLY)
		return exm_fail(EBADF, "the file of a region must be open for reading");
	if (fstat(fd, &stat) || !(S_ISREG(stat.st_mode) || S_ISBLK(stat.st_mode)))
		return exm_fail(EINVAL, "the file of a region is a regular file or a block device");
	return 0;
}

static int region_add(struct exm_region *region, const struct exm_region_options *options)
{
	struct exm_pool *pool = region->pool;
	int err;

	pthread_mutex_lock(&pool->lock);
	err = pool->ops->region_create(region, options);
	if (!err) {
		pool->regions[region->number] = region;
		pool->nr_regions++;
	}
	pthread_mutex_unlock(&pool->lock);
	return err;
}

/*
 * Make a region. If it has a file, the region holds it, and fd may be closed. File and
 * region correspond byte by byte, from options->offset on.
 */
int exm_region_create(struct exm_region **result, struct exm_pool *pool,
		      const struct exm_region_options *options)
{
	const uint64_t size = options->slot_size ? options->slot_size : EXM_PAGE_SIZE;
	struct exm_region *region;
	int err;

	if (size < EXM_PAGE_SIZE || size > EXM_MAX_SLOT_SIZE || size & (size - 1))
		return exm_fail(EINVAL, "slots are of a power of two from %d to %d bytes",
				EXM_PAGE_SIZE, EXM_MAX_SLOT_SIZE);
	if (!options->length || options->length % size || options->offset % EXM_PAGE_SIZE)
		return exm_fail(EINVAL,
				"the length of a region is a multiple of its slots, the offset of %d bytes",
				EXM_PAGE_SIZE);
	if (options->flags || options->fd < -1 || !is_zero(options->reserved, 3))
		return exm_fail(EINVAL, "unknown flag or field of a region");
	err = file_check(options->fd);
	if (err)
		return err;
	region = calloc(1, sizeof(*region));
	if (!region)
		return exm_fail(ENOMEM, "no memory for a region");
	region->pool = pool;
	region->slots = options->length / size;
	region->slot_size = size;
	err = region_add(region, options);
	if (err) {
		free(region);
		return err;
	}
	exm_reader_watch(region->start, options->length);
	*result = region;
	return 0;
}

/* Destroy a region. Its pages go back to the pool. No thread uses it any more. */
void exm_region_destroy(struct exm_region *region)
{
	struct exm_pool *pool;

	if (!region)
		return;
	pool = region->pool;
	exm_reader_unwatch(region->start);
	pthread_mutex_lock(&pool->lock);
	pool->regions[region->number] = NULL;
	pool->nr_regions--;
	pool->ops->region_destroy(region);
	pthread_mutex_unlock(&pool->lock);
	free(region);
}

unsigned int exm_region_number(const struct exm_region *region)
{
	return region->number;
}

void *exm_region_start(const struct exm_region *region)
{
	return region->start;
}

uint64_t exm_region_slots(const struct exm_region *region)
{
	return region->slots;
}

uint64_t exm_region_slot_size(const struct exm_region *region)
{
	return region->slot_size;
}

/* Do the TLB shootdown that freed pages wait for, and free page tables that are empty */
int exm_region_flush(struct exm_region *region)
{
	return region->pool->ops->region_flush(region);
}

/* Set a byte, enum exm_slot, for each of the slots from first on */
int exm_region_query(struct exm_region *region, uint64_t first, uint64_t nr, uint8_t *slots)
{
	if (first > region->slots || nr > region->slots - first)
		return exm_fail(ERANGE, "the region has %llu slots",
				(unsigned long long)region->slots);
	return region->pool->ops->region_query(region, first, nr, slots);
}

/*
 * Make a handle for the calling thread. It gets the interface that the fewest handles
 * share: one of its own, as long as there are no more handles than the pool has threads.
 */
int exm_thread_create(struct exm_thread **result, struct exm_pool *pool)
{
	struct exm_thread *thread = malloc(sizeof(*thread));
	unsigned int best = 0;

	if (!thread)
		return exm_fail(ENOMEM, "no memory for a thread handle");
	pthread_mutex_lock(&pool->lock);
	for (unsigned int i = 1; i < pool->threads && pool->users[best]; i++)
		if (pool->users[i] < pool->users[best])
			best = i;
	pool->users[best]++;
	pthread_mutex_unlock(&pool->lock);
	thread->pool = pool;
	thread->interface = best;
	*result = thread;
	return 0;
}

void exm_thread_destroy(struct exm_thread *thread)
{
	struct exm_pool *pool;

	if (!thread)
		return;
	pool = thread->pool;
	pthread_mutex_lock(&pool->lock);
	pool->users[thread->interface]--;
	pthread_mutex_unlock(&pool->lock);
	free(thread);
}
