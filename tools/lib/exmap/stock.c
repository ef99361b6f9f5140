// SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause)
/*
 * The backend for any Linux kernel: private anonymous memory
 *
 * What exmap does in the kernel is done here: a byte of state for each slot, a count of
 * the pages in use, madvise() to give pages back, preadv2() and pwritev2() to transfer
 * them. From Linux 6.13 on, an empty slot has a guard marker, so that touching it raises
 * SIGSEGV, and process_madvise() serves a whole list of slots.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL	102
#define MADV_GUARD_REMOVE	103
#endif

/* Ranges that one system call serves */
#define BATCH	512

/* Slots that one transfer covers */
#define RUN	512

/*
 * Bytes of slots whose guard markers are made together. Before, they are protected from any
 * access, which needs no page tables: a large region that is hardly used costs nothing.
 */
#define CHUNK	(64UL << 20)

enum state {
	EMPTY,
	RESIDENT,
	FILLING,	/* empty, and a READ is bringing in a page */
	HELD,		/* another operation works on it, which does not take long */
};

/**
 * struct exm_stock_region - the slots of a region
 * @state: an enum state for each slot
 * @resident: number of slots that are not empty
 * @lock: held while a chunk is made accessible
 * @chunks: for each CHUNK bytes, whether they are accessible
 * @offset: byte of the file that is the first one of the region
 */
struct exm_stock_region {
	atomic_uchar *state;
	atomic_ullong resident;
	pthread_mutex_t lock;
	atomic_uchar *chunks;
	uint64_t offset;
};

/**
 * struct batch - slots that are held until one system call has changed them all
 * @region: their region
 * @advice: what the call does
 * @nr: number of ranges
 * @range: the ranges
 */
struct batch {
	struct exm_region *region;
	int advice;
	unsigned int nr;
	struct iovec range[BATCH];
};

static bool have_guards(void)
{
	void *page = mmap(NULL, EXM_PAGE_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool have;

	if (page == MAP_FAILED)
		return false;
	have = !madvise(page, EXM_PAGE_SIZE, MADV_GUARD_INSTALL);
	munmap(page, EXM_PAGE_SIZE);
	return have;
}

static int stock_pool_create(struct exm_pool *pool, const struct exm_pool_options *options)
{
	if (sysconf(_SC_PAGESIZE) != EXM_PAGE_SIZE)
		return exm_fail(EOPNOTSUPP, "the pages of this machine are not of %d bytes",
				EXM_PAGE_SIZE);
	pool->pid = getpid();
	pool->guards = !(options->flags & (EXM_POOL_NO_FAULTS | EXM_POOL_TOUCH)) && have_guards();
	pool->features = pool->guards ? EXM_FEATURE_FAULTS : 0;
#ifdef SYS_pidfd_open
	/* Without it, each range takes a system call of its own */
	pool->fd = syscall(SYS_pidfd_open, pool->pid, 0);
#endif
	return 0;
}

static void stock_pool_destroy(struct exm_pool *pool)
{
	if (pool->fd >= 0)
		close(pool->fd);
}

static int stock_pool_resize(struct exm_pool *pool, uint64_t memory)
{
	const uint64_t before = atomic_exchange(&pool->memory, memory);

	if (pool->used <= memory)
		return 0;
	pool->memory = before;
	return exm_fail(EBUSY, "more than %llu KiB of the pool are in use",
			(unsigned long long)memory >> 10);
}

static int64_t stock_pool_used(struct exm_pool *pool)
{
	return pool->used;
}

static void *reserve(uint64_t length, int prot)
{
	void *start = mmap(NULL, length, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			   -1, 0);

	return start == MAP_FAILED ? NULL : start;
}

/* As reserve(), at a multiple of a power of two */
static char *reserve_aligned(uint64_t length, uint64_t align, int prot)
{
	char *space = reserve(length + align - EXM_PAGE_SIZE, prot), *start;

	if (!space)
		return NULL;
	start = space + (-(uintptr_t)space & (align - 1));
	if (start != space)
		munmap(space, start - space);
	if (align - EXM_PAGE_SIZE != (uint64_t)(start - space))
		munmap(start + length, align - EXM_PAGE_SIZE - (start - space));
	return start;
}

static int stock_region_create(struct exm_region *region,
			       const struct exm_region_options *options)
{
	const uint64_t length = options->length;
	struct exm_stock_region *stock = calloc(1, sizeof(*stock));
	struct exm_pool *pool = region->pool;
	int fd = -1;

	if (!stock)
		return exm_fail(ENOMEM, "no memory for a region");
	if (options->fd >= 0) {
		fd = fcntl(options->fd, F_DUPFD_CLOEXEC, 0);
		if (fd < 0) {
			const int err = errno;

			free(stock);
			return exm_fail(err, "the file of a region: %s", strerror(err));
		}
	}
	while (region->number < EXM_MAX_REGIONS && pool->regions[region->number])
		region->number++;
	region->fd = fd;
	region->stock = stock;
	region->start = reserve_aligned(length, region->slot_size,
					pool->guards ? PROT_NONE : PROT_READ | PROT_WRITE);
	stock->state = reserve(region->slots, PROT_READ | PROT_WRITE);
	stock->chunks = calloc(length / CHUNK + 1, 1);
	stock->offset = options->offset;
	pthread_mutex_init(&stock->lock, NULL);
	if (region->number < EXM_MAX_REGIONS && region->start && stock->state &&
	    stock->chunks) {
		madvise(region->start, length, MADV_DONTFORK);
		/* A huge page would come with pages that nobody has asked for */
		madvise(region->start, length, MADV_NOHUGEPAGE);
		return 0;
	}
	if (region->start)
		munmap(region->start, length);
	if (stock->state)
		munmap((void *)stock->state, region->slots);
	free((void *)stock->chunks);
	free(stock);
	if (fd >= 0)
		close(fd);
	return exm_fail(ENOMEM, "no address space for a region of %llu MiB (`ulimit -v`?)",
			(unsigned long long)length >> 20);
}

static void stock_region_destroy(struct exm_region *region)
{
	struct exm_stock_region *stock = region->stock;

	munmap(region->start, region->slots * region->slot_size);
	region->pool->used -= stock->resident * region->slot_size;
	munmap((void *)stock->state, region->slots);
	free((void *)stock->chunks);
	pthread_mutex_destroy(&stock->lock);
	free(stock);
	if (region->fd >= 0)
		close(region->fd);
}

static int stock_region_flush(struct exm_region *region)
{
	/* Nothing waits */
	(void)region;
	return 0;
}

static int stock_region_query(struct exm_region *region, uint64_t first, uint64_t nr,
			      uint8_t *slots)
{
	static const uint8_t answer[] = {
		[EMPTY] = 0,
		/* What nobody knows may be so */
		[RESIDENT] = EXM_SLOT_RESIDENT | EXM_SLOT_DIRTY | EXM_SLOT_USED,
		[FILLING] = EXM_SLOT_BUSY,
		[HELD] = EXM_SLOT_RESIDENT | EXM_SLOT_DIRTY | EXM_SLOT_USED | EXM_SLOT_BUSY,
	};

	for (uint64_t i = 0; i < nr; i++)
		slots[i] = answer[region->stock->state[first + i]];
	return 0;
}

static char *slot_addr(const struct exm_region *region, uint64_t slot)
{
	return region->start + slot * region->slot_size;
}

/* Count a page, unless there is no room for it */
static bool budget_take(struct exm_region *region)
{
	struct exm_pool *pool = region->pool;
	unsigned long long used = pool->used;

	do {
		if (used + region->slot_size > pool->memory)
			return false;
	} while (!atomic_compare_exchange_weak(&pool->used, &used,
					       used + region->slot_size));
	region->stock->resident++;
	return true;
}

static void budget_give(struct exm_region *region, uint64_t pages)
{
	region->stock->resident -= pages;
	region->pool->used -= pages * region->slot_size;
}

/* Make a chunk accessible. Its slots, none of which has a page, get guard markers. */
static int chunk_open(struct exm_region *region, uint64_t slot)
{
	struct exm_stock_region *stock = region->stock;
	const uint64_t chunk = slot * region->slot_size / CHUNK;
	const uint64_t rest = region->slots * region->slot_size - chunk * CHUNK;
	const size_t length = rest < CHUNK ? rest : CHUNK;
	char *first = region->start + chunk * CHUNK;
	int err = 0;

	if (!region->pool->guards || stock->chunks[chunk])
		return 0;
	pthread_mutex_lock(&stock->lock);
	if (!stock->chunks[chunk]) {
		if (madvise(first, length, MADV_GUARD_INSTALL) ||
		    mprotect(first, length, PROT_READ | PROT_WRITE))
			err = -errno;
		else
			stock->chunks[chunk] = 1;
	}
	pthread_mutex_unlock(&stock->lock);
	return err;
}

/* Count the page of an empty slot, and let the slot be accessible */
static int slot_claim(struct exm_region *region, uint64_t slot)
{
	int err;

	if (!budget_take(region))
		return -ENOMEM;
	err = chunk_open(region, slot);
	if (err)
		budget_give(region, 1);
	return err;
}

/* Carry out the advice for all ranges of a batch */
static int batch_advise(struct batch *batch)
{
	const int fd = batch->region->pool->fd;
	unsigned int i = 0;

#ifdef SYS_process_madvise
	/* On the own process, kernels before 6.13 refuse most advice */
	if (fd >= 0 && batch->nr > 1) {
		ssize_t done = syscall(SYS_process_madvise, fd, batch->range, batch->nr,
				       batch->advice, 0);

		for (; i < batch->nr && done >= (ssize_t)batch->range[i].iov_len; i++)
			done -= batch->range[i].iov_len;
	}
#else
	(void)fd;
#endif
	for (; i < batch->nr; i++)
		if (madvise(batch->range[i].iov_base, batch->range[i].iov_len, batch->advice))
			return -errno;
	return 0;
}

/* Carry out a batch, and let its slots go. Returns an error of madvise(). */
static int batch_end(struct batch *batch)
{
	const bool in = batch->advice == MADV_GUARD_REMOVE;
	struct exm_region *region = batch->region;
	uint64_t pages = 0;
	bool resident;
	int err;

	if (!batch->nr)
		return 0;
	/* Without guards, a page comes when it is touched */
	err = in && !region->pool->guards ? 0 : batch_advise(batch);
	/* If it has failed, the slots are as they were */
	resident = err ? !in : in;
	for (unsigned int i = 0; i < batch->nr; i++) {
		const uint64_t slot = ((char *)batch->range[i].iov_base - region->start) /
				      region->slot_size;
		const uint64_t nr = batch->range[i].iov_len / region->slot_size;

		for (uint64_t n = 0; n < nr; n++)
			region->stock->state[slot + n] = resident ? RESIDENT : EMPTY;
		pages += nr;
	}
	if (!resident)
		budget_give(region, pages);
	batch->nr = 0;
	return err;
}

static int batch_add(struct batch *batch, uint64_t slot)
{
	const size_t size = batch->region->slot_size;
	char *addr = slot_addr(batch->region, slot);
	struct iovec *last = batch->range + batch->nr;
	int err = 0;

	if (batch->nr && (char *)last[-1].iov_base + last[-1].iov_len == addr) {
		last[-1].iov_len += size;
		return 0;
	}
	if (batch->nr == BATCH)
		err = batch_end(batch);
	batch->range[batch->nr++] = (struct iovec) { addr, size };
	return err;
}

/* Begin to work on a slot, if it is in the state that is expected */
static bool slot_begin(struct exm_region *region, uint64_t slot, unsigned char from,
		       unsigned char to)
{
	return atomic_compare_exchange_strong(&region->stock->state[slot], &from, to);
}

/* Prepare a batch for a region. One of another region or kind is carried out. */
static int batch_begin(struct batch *batch, struct exm_region *region, int advice)
{
	int err = 0;

	if (batch->region != region || batch->advice != advice)
		err = batch_end(batch);
	batch->region = region;
	batch->advice = advice;
	return err;
}

static int free_advice(const struct exm_region *region)
{
	return region->pool->guards ? MADV_GUARD_INSTALL : MADV_DONTNEED;
}

/* FREE. A slot that another operation holds is soon let go, unless this call holds it. */
static int do_free(struct batch *batch, struct exm_region *region,
		   const struct exm_vec *vec, struct exm_result *result)
{
	int err = batch_begin(batch, region, free_advice(region));

	for (unsigned int i = 0; i < vec->len && !err; ) {
		const uint64_t slot = vec->page + i;
		const uint8_t state = region->stock->state[slot];

		if (state == RESIDENT && slot_begin(region, slot, RESIDENT, HELD)) {
			err = batch_add(batch, slot);
			result->pages++;
		} else if (state == FILLING) {
			result->res = -EBUSY;
		} else if (state != EMPTY) {
			err = batch_end(batch);
			sched_yield();
			continue;
		}
		i++;
	}
	return err;
}

/*
 * ALLOC. Marks the slots that got a page in @fresh, unless it is NULL. A page comes from the
 * kernel, so that EXM_ZERO needs nothing more.
 */
static int do_alloc(struct batch *batch, struct exm_region *region,
		    const struct exm_vec *vec, struct exm_result *result, bool *fresh)
{
	int err = batch_begin(batch, region, MADV_GUARD_REMOVE);

	for (unsigned int i = 0; i < vec->len && !err; ) {
		const uint64_t slot = vec->page + i;
		const uint8_t state = region->stock->state[slot];

		if (state == EMPTY && slot_begin(region, slot, EMPTY, HELD)) {
			result->res = slot_claim(region, slot);
			if (result->res) {
				region->stock->state[slot] = EMPTY;
				break;
			}
			err = batch_add(batch, slot);
			result->pages++;
			if (fresh)
				fresh[i] = true;
		} else if (state != RESIDENT) {
			err = batch_end(batch);
			sched_yield();
			continue;
		}
		i++;
	}
	return err;
}

/* ALLOC for a vector that wants all of its pages, or none */
static int do_alloc_all_or_nothing(struct batch *batch, struct exm_region *region,
				   const struct exm_vec *vec, struct exm_result *result)
{
	bool fresh[EXM_ALL_OR_NOTHING_MAX] = {};
	int err = do_alloc(batch, region, vec, result, fresh);

	for (unsigned int i = 0; result->res && i < vec->len && !err; i++) {
		const struct exm_vec one = { .page = vec->page + i, .len = 1 };
		struct exm_result freed = {};

		if (!fresh[i])
			continue;
		err = do_free(batch, region, &one, &freed);
		result->pages--;
	}
	return err;
}

/* Make a transfer. Returns the number of bytes, and the error that ended it. */
static size_t transfer(const struct exm_region *region, const struct exm_vec *vec,
		       uint64_t slot, unsigned int nr, int *err)
{
	const int flags = vec->flags & EXM_DSYNC ? RWF_DSYNC : 0;
	const off_t pos = region->stock->offset + slot * region->slot_size;
	const size_t size = nr * region->slot_size;
	char *addr = slot_addr(region, slot);
	size_t done = 0;
	ssize_t ret;

	while (done < size) {
		struct iovec iov = { addr + done, size - done };

		ret = vec->opcode == EXM_READ ?
		      preadv2(region->fd, &iov, 1, pos + done, 0) :
		      pwritev2(region->fd, &iov, 1, pos + done, flags);
		if (ret > 0) {
			done += ret;
			continue;
		}
		if (ret < 0 && errno == EINTR)
			continue;
		if (ret < 0) {
			*err = -errno;
		} else if (vec->opcode == EXM_WRITE) {
			*err = -EIO;
		} else if (vec->flags & EXM_ZERO) {
			memset(addr + done, 0, size - done);
			done = size;
		} else {
			*err = -ENODATA;
		}
		break;
	}
	return done;
}

/* Let pages be touched that are about to be read, or undo that */
static int run_advise(struct exm_region *region, uint64_t slot, unsigned int nr, bool in)
{
	const int advice = in ? MADV_GUARD_REMOVE : free_advice(region);

	if (!nr || (in && !region->pool->guards))
		return 0;
	return madvise(slot_addr(region, slot), nr * region->slot_size, advice) ?
	       -errno : 0;
}

/* End a READ for empty slots, of which the first @done have been read */
static void run_land(struct exm_region *region, uint64_t slot, unsigned int nr,
		     unsigned int done)
{
	run_advise(region, slot + done, nr - done, false);
	budget_give(region, nr - done);
	for (unsigned int i = 0; i < nr; i++)
		region->stock->state[slot + i] = i < done ? RESIDENT : EMPTY;
}

/*
 * Begin to transfer the next slots, as many as are in the state @from. Returns their
 * number, or the error because of which there are none.
 */
static int run_begin(struct exm_region *region, const struct exm_vec *vec, unsigned int i,
		     uint8_t from)
{
	const uint8_t to = from == EMPTY ? FILLING : HELD;
	int nr = 0, err = 0;

	while (nr < RUN && i + nr < vec->len) {
		const uint64_t slot = vec->page + i + nr;

		if (!slot_begin(region, slot, from, to))
			break;
		if (from == EMPTY)
			err = slot_claim(region, slot);
		if (err) {
			region->stock->state[slot] = EMPTY;
			break;
		}
		nr++;
	}
	return nr ?: err;
}

/* READ and WRITE */
static int do_transfer(struct batch *batch, struct exm_region *region,
		       const struct exm_vec *vec, struct exm_result *result)
{
	/* Slots that wait for a batch of this call would never be let go */
	int err = batch_end(batch);

	for (unsigned int i = 0; i < vec->len && !err && !result->res; ) {
		const uint64_t slot = vec->page + i;
		const uint8_t state = region->stock->state[slot];
		unsigned int done;
		int nr;

		if (vec->opcode == EXM_READ && state == RESIDENT &&
		    !(vec->flags & EXM_REPLACE)) {
			i++;
			continue;
		}
		if (vec->opcode == EXM_WRITE && state == EMPTY) {
			result->res = -EFAULT;
			break;
		}
		nr = state == EMPTY || state == RESIDENT ?
		     run_begin(region, vec, i, state) : 0;
		if (nr < 0)
			result->res = nr;
		if (nr <= 0) {
			sched_yield();
			continue;
		}
		if (state == EMPTY)
			result->res = run_advise(region, slot, nr, true);
		done = result->res ? 0 : transfer(region, vec, slot, nr, &result->res) /
					 region->slot_size;
		if (state == EMPTY) {
			run_land(region, slot, nr, done);
		} else {
			for (int n = 0; n < nr; n++)
				region->stock->state[slot + n] = RESIDENT;
		}
		result->pages += done;
		i += done;
	}
	return err;
}

/*
 * Move the pages of @nr slots, which are held. Pages that have never been touched do not
 * exist, and are not moved. Returns the number of slots that had pages to move, or an error.
 */
static int move_run(struct exm_region *region, const uint64_t *slots, unsigned int nr,
		    unsigned int node, int *err)
{
	const unsigned int per_slot = region->slot_size / EXM_PAGE_SIZE;
	int before[BATCH], after[BATCH], nodes[BATCH], moved = 0;
	void *pages[BATCH];

	for (unsigned int i = 0; i < nr * per_slot; i++) {
		pages[i] = slot_addr(region, slots[i / per_slot]) + i % per_slot * EXM_PAGE_SIZE;
		nodes[i] = node;
	}
	if (syscall(SYS_move_pages, 0, nr * per_slot, pages, NULL, before, 0) ||
	    syscall(SYS_move_pages, 0, nr * per_slot, pages, nodes, after, MPOL_MF_MOVE) < 0)
		return -errno;
	for (unsigned int i = 0; i < nr; i++) {
		bool there = true, came = false;

		for (unsigned int n = i * per_slot; n < (i + 1) * per_slot; n++) {
			if (before[n] == -ENOENT)
				continue;
			came |= before[n] != (int)node;
			if (after[n] == (int)node)
				continue;
			there = false;
			*err = after[n] == -ENOMEM ? -ENOMEM : -EBUSY;
		}
		moved += there && came;
	}
	return moved;
}

/* MOVE */
static int do_move(struct batch *batch, struct exm_region *region,
		   const struct exm_vec *vec, struct exm_result *result)
{
	const unsigned int most = BATCH * EXM_PAGE_SIZE / region->slot_size;
	uint64_t slots[BATCH];
	int err = batch_end(batch);

	for (unsigned int i = 0; i < vec->len && !err; ) {
		unsigned int nr = 0;
		int moved;

		for (; i < vec->len && nr < most; i++)
			if (slot_begin(region, vec->page + i, RESIDENT, HELD))
				slots[nr++] = vec->page + i;
		moved = nr ? move_run(region, slots, nr, vec->node, &result->res) : 0;
		if (moved < 0)
			result->res = moved;
		else
			result->pages += moved;
		for (unsigned int n = 0; n < nr; n++)
			region->stock->state[slots[n]] = RESIDENT;
	}
	return err;
}

/* Find the region of a vector, and check the vector */
static int check(struct exm_pool *pool, const struct exm_vec *vec,
		 struct exm_region **region)
{
	static const uint8_t flags[] = {
		[EXM_READ]  = EXM_ZERO | EXM_REPLACE,
		[EXM_ALLOC] = EXM_ZERO | EXM_ALL_OR_NOTHING,
		[EXM_FREE]  = 0,
		[EXM_WRITE] = EXM_DIRTY | EXM_DSYNC,
		[EXM_MOVE]  = 0,
	};

	if (vec->opcode > EXM_MOVE || (vec->node && vec->opcode != EXM_MOVE) ||
	    vec->flags & ~flags[vec->opcode] ||
	    (vec->flags & EXM_ALL_OR_NOTHING && vec->len > EXM_ALL_OR_NOTHING_MAX))
		return -EINVAL;
	*region = pool->regions[vec->region];
	if (!*region)
		return -ENXIO;
	if (!vec->len)
		return 0;
	if (vec->page > (*region)->slots || vec->len > (*region)->slots - vec->page)
		return -ERANGE;
	if ((vec->opcode == EXM_READ || vec->opcode == EXM_WRITE) && (*region)->fd < 0)
		return -ENODEV;
	return 0;
}

static int stock_call(struct exm_thread *thread, const struct exm_vec *vecs,
		      struct exm_result *results, unsigned int nr)
{
	struct batch batch;
	int failed = 0, err = 0;

	/* The pidfd of a child is still that of its parent, whose pages would be lost */
	if (getpid() != thread->pool->pid)
		return exm_fail(EPERM, "the pool belongs to another process");
	batch.region = NULL;
	batch.nr = 0;
	for (unsigned int i = 0; i < nr && !err; i++) {
		struct exm_region *region;

		results[i] = (struct exm_result) {
			.res = check(thread->pool, &vecs[i], &region),
		};
		if (results[i].res)
			;
		else if (vecs[i].opcode == EXM_FREE)
			err = do_free(&batch, region, &vecs[i], &results[i]);
		else if (vecs[i].flags & EXM_ALL_OR_NOTHING)
			err = do_alloc_all_or_nothing(&batch, region, &vecs[i], &results[i]);
		else if (vecs[i].opcode == EXM_ALLOC)
			err = do_alloc(&batch, region, &vecs[i], &results[i], NULL);
		else if (vecs[i].opcode == EXM_MOVE)
			err = do_move(&batch, region, &vecs[i], &results[i]);
		else
			err = do_transfer(&batch, region, &vecs[i], &results[i]);
		failed += results[i].res != 0;
	}
	err = err ?: batch_end(&batch);
	return err ? exm_fail(-err, "madvise: %s", strerror(-err)) : failed;
}

const struct exm_ops exm_stock_ops = {
	.pool_create	= stock_pool_create,
	.pool_destroy	= stock_pool_destroy,
	.pool_resize	= stock_pool_resize,
	.pool_used	= stock_pool_used,
	.region_create	= stock_region_create,
	.region_destroy	= stock_region_destroy,
	.region_flush	= stock_region_flush,
	.region_query	= stock_region_query,
	.call		= stock_call,
};
