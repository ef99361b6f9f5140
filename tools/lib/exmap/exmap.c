// SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause)
/* The backend for kernels with exmap */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <linux/exmap.h>

#include "internal.h"

/* What both headers define is the same, so that vectors need no translation */
#define SAME(ours, theirs)	static_assert((int)(ours) == (int)(theirs), #ours)

SAME(sizeof(struct exm_vec), sizeof(struct exmap_vec));
SAME(offsetof(struct exm_vec, region), offsetof(struct exmap_vec, region));
SAME(offsetof(struct exm_vec, len), offsetof(struct exmap_vec, len));
SAME(offsetof(struct exm_vec, node), offsetof(struct exmap_vec, node));
SAME(offsetof(struct exm_vec, flags), offsetof(struct exmap_vec, flags));
SAME(offsetof(struct exm_vec, opcode), offsetof(struct exmap_vec, opcode));
SAME(sizeof(struct exm_result), sizeof(struct exmap_result));
SAME(offsetof(struct exm_result, pages), offsetof(struct exmap_result, pages));
SAME(EXM_READ, EXMAP_OP_READ);
SAME(EXM_ALLOC, EXMAP_OP_ALLOC);
SAME(EXM_FREE, EXMAP_OP_FREE);
SAME(EXM_WRITE, EXMAP_OP_WRITE);
SAME(EXM_ZERO, EXMAP_VEC_ZERO);
SAME(EXM_ALL_OR_NOTHING, EXMAP_VEC_ALL_OR_NOTHING);
SAME(EXM_REPLACE, EXMAP_VEC_REPLACE);
SAME(EXM_DIRTY, EXMAP_VEC_DIRTY);
SAME(EXM_DSYNC, EXMAP_VEC_DSYNC);
SAME(EXM_SLOT_RESIDENT, EXMAP_SLOT_RESIDENT);
SAME(EXM_SLOT_DIRTY, EXMAP_SLOT_DIRTY);
SAME(EXM_SLOT_USED, EXMAP_SLOT_USED);
SAME(EXM_SLOT_BUSY, EXMAP_SLOT_BUSY);
SAME(EXM_MAX_VECS, EXMAP_VECTORS_MAX);
SAME(EXM_ALL_OR_NOTHING_MAX, EXMAP_VEC_ALL_OR_NOTHING_MAX);

#define DEVICE	"/dev/exmap"

/* Explain why a setup has failed, above all for those who meet RLIMIT_MEMLOCK first */
static int setup_failed(int error, uint64_t memory)
{
	struct rlimit limit;

	if (error == ENOMEM && memory && !getrlimit(RLIMIT_MEMLOCK, &limit) &&
	    limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < memory)
		return exm_fail(error,
				"RLIMIT_MEMLOCK allows %llu KiB for all pools of the user, and the pool is of %llu KiB: raise it with `ulimit -l`, LimitMEMLOCK= of systemd or limits.conf, or make the pool smaller",
				(unsigned long long)limit.rlim_cur >> 10,
				(unsigned long long)memory >> 10);
	if (error == ENOMEM && memory)
		return exm_fail(error,
				"no memory for a pool: its user may have other pools within RLIMIT_MEMLOCK (`ulimit -l`), or the memory cgroup is at its limit");
	return exm_fail(error, "setting up an exmap: %s", strerror(error));
}

static int device_open(void)
{
	const int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	if (errno == EACCES || errno == EPERM)
		return exm_fail(errno, DEVICE ": %s; see udev rules and DeviceAllow=",
				strerror(errno));
	return exm_fail(errno, DEVICE ": %s; CONFIG_EXMAP=m needs `modprobe exmap`",
			strerror(errno));
}

static int exmap_pool_create(struct exm_pool *pool, const struct exm_pool_options *options)
{
	struct exmap_setup2 setup = {
		.size = sizeof(setup),
		.max_interfaces = pool->threads,
		.flags = options->flags & EXM_POOL_DEFERRED ? EXMAP_SETUP_DEFERRED : 0,
		.buffer_size = options->memory / EXM_PAGE_SIZE,
		.fd = -1,
	};
	int err;

	pool->fd = device_open();
	if (pool->fd < 0)
		return pool->fd;
	if (ioctl(pool->fd, EXMAP_IOCTL_SETUP2, &setup) < 0) {
		err = errno;
		close(pool->fd);
		pool->fd = -1;
		return setup_failed(err, options->memory);
	}
	pool->touch = options->flags & EXM_POOL_TOUCH;
	pool->features = EXM_FEATURE_DIRTY | EXM_FEATURE_WHOLE_READS |
			 (pool->touch ? 0 : EXM_FEATURE_FAULTS);
	return 0;
}

static void exmap_pool_destroy(struct exm_pool *pool)
{
	close(pool->fd);
}

static int exmap_pool_resize(struct exm_pool *pool, uint64_t memory)
{
	if (ioctl(pool->fd, EXMAP_IOCTL_RESIZE, memory / EXM_PAGE_SIZE)) {
		if (errno == EBUSY)
			return exm_fail(EBUSY, "more than %llu KiB of the pool are in use",
					(unsigned long long)memory >> 10);
		return setup_failed(errno, memory);
	}
	pool->memory = memory;
	return 0;
}

static int64_t exmap_pool_used(struct exm_pool *pool)
{
	struct exmap_ioctl_stats stats;

	if (ioctl(pool->fd, EXMAP_IOCTL_STATS, &stats))
		return exm_fail(errno, "the statistics of a pool: %s", strerror(errno));
	return stats.alloc_count * EXM_PAGE_SIZE;
}

static int exmap_region_create(struct exm_region *region,
			       const struct exm_region_options *options)
{
	struct exmap_setup2 setup = {
		.size = sizeof(setup),
		.flags = EXMAP_SETUP_ATTACH |
			 (region->pool->touch ? EXMAP_SETUP_PAGEFAULT_ALLOC : 0),
		.fd = options->fd,
		.pool = region->pool->fd,
		.offset = options->offset,
		.slot_size = region->slot_size,
	};
	int number, err;
	void *start;

	region->fd = device_open();
	if (region->fd < 0)
		return region->fd;
	number = ioctl(region->fd, EXMAP_IOCTL_SETUP2, &setup);
	if (number < 0) {
		err = errno;
		close(region->fd);
		return setup_failed(err, 0);
	}
	start = mmap(NULL, options->length, PROT_READ | PROT_WRITE, MAP_SHARED, region->fd,
		     EXMAP_OFF_EXMAP);
	if (start == MAP_FAILED) {
		err = errno;
		close(region->fd);
		return exm_fail(err, "mapping a region of %llu MiB: %s",
				(unsigned long long)options->length >> 20, strerror(err));
	}
	region->number = number;
	region->start = start;
	return 0;
}

static void exmap_region_destroy(struct exm_region *region)
{
	munmap(region->start, region->slots * region->slot_size);
	close(region->fd);
}

static int exmap_region_flush(struct exm_region *region)
{
	if (ioctl(region->fd, EXMAP_IOCTL_FLUSH))
		return exm_fail(errno, "flushing a region: %s", strerror(errno));
	return 0;
}

static int exmap_region_query(struct exm_region *region, uint64_t first, uint64_t nr,
			      uint8_t *slots)
{
	struct exmap_vec vec = { .page = first, .region = region->number };
	struct exmap_query query = {
		.size = sizeof(query),
		.vec_size = sizeof(vec),
		.vecs = (uintptr_t)&vec,
		.nr = 1,
	};

	for (; nr; nr -= vec.len, slots += vec.len, vec.page += vec.len) {
		vec.len = nr < UINT16_MAX ? nr : UINT16_MAX;
		query.slots = (uintptr_t)slots;
		if (ioctl(region->fd, EXMAP_IOCTL_QUERY, &query))
			return exm_fail(errno, "querying a region: %s", strerror(errno));
	}
	return 0;
}

static int exmap_call(struct exm_thread *thread, const struct exm_vec *vecs,
		      struct exm_result *results, unsigned int nr)
{
	/* The kernel takes less time if all vectors are of the region on which it is called */
	const struct exm_region *region = thread->pool->regions[vecs->region];
	struct exmap_vectors params = {
		.size = sizeof(params),
		.interface = thread->interface,
		.nr = nr,
		.vecs = (uintptr_t)vecs,
		.results = (uintptr_t)results,
		.vec_size = sizeof(*vecs),
		.result_size = sizeof(*results),
	};
	int ret;

	if (!region)
		return exm_fail(ENXIO, "the pool has no region %u", vecs->region);
	ret = ioctl(region->fd, EXMAP_IOCTL_VECTORS, &params);
	return ret < 0 ? exm_fail(errno, "a call of %u vectors: %s", nr, strerror(errno)) : ret;
}

const struct exm_ops exm_exmap_ops = {
	.pool_create	= exmap_pool_create,
	.pool_destroy	= exmap_pool_destroy,
	.pool_resize	= exmap_pool_resize,
	.pool_used	= exmap_pool_used,
	.region_create	= exmap_region_create,
	.region_destroy	= exmap_region_destroy,
	.region_flush	= exmap_region_flush,
	.region_query	= exmap_region_query,
	.call		= exmap_call,
};
