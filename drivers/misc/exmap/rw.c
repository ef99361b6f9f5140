// SPDX-License-Identifier: GPL-2.0-only
/*
 * Read and write calls on the file: the buffers are slots of the region, which are
 * filled from the backing file or written to it
 */
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/uio.h>

#include "cursor.h"
#include "exmap.h"
#include "interface.h"
#include "job.h"
#include "place.h"
#include "pool.h"
#include "quarantine.h"
#include "region.h"
#include "rw.h"
#include "trace.h"

/* Vectors that are made of a call at once */
#define EXMAP_RW_MANY	EXMAP_IO_PAGES

/* The opcode in the file position of a call */
static unsigned int exmap_pos_opcode(u64 pos)
{
	return (pos >> 8) & 0xff;
}

/* The number of the interface in the file position of a call */
static u64 exmap_pos_interface(u64 pos)
{
	return (pos & 0xff) | (pos >> 16 << 8);
}

/*
 * Make vectors of the next segments, and advance the iterator by them. A segment that
 * is not made of whole slots is an error only if it is the first.
 */
static int exmap_rw_vecs(struct exmap_job *job, struct iov_iter *iter, u8 opcode,
			 unsigned int max)
{
	const u8 flags = opcode == EXMAP_OP_READ ? EXMAP_VEC_REPLACE : 0;
	const size_t count = iov_iter_count(iter);
	const unsigned long start = job->exmap->start;
	const struct iovec *iov = iter_iov(iter);
	void __user *addr = iter_iov_addr(iter);
	size_t segment = iter_iov_len(iter);
	size_t rest = count;
	unsigned int nr = 0;
	int err = 0;

	while (nr < max && rest) {
		const unsigned long at = (unsigned long)untagged_addr(addr);
		size_t len = min(segment, rest);

		if (!PAGE_ALIGNED(at | len)) {
			err = nr ? 0 : -EINVAL;
			break;
		}
		len = min(len, (size_t)U16_MAX << PAGE_SHIFT);
		job->vecs[nr] = (struct exmap_vec) {
			.page	= (at - start) >> PAGE_SHIFT,
			.region	= job->exmap->number,
			.len	= len >> PAGE_SHIFT,
			.opcode	= opcode,
			.flags	= flags,
		};
		nr += len != 0;
		rest -= len;
		segment -= len;
		addr += len;
		if (!segment && rest) {
			iov++;
			addr = iov->iov_base;
			segment = iov->iov_len;
		}
	}
	job->nr = nr;
	iov_iter_advance(iter, count - rest);
	return err;
}

/* Returns the number of bytes done without a gap, and the error that ended them */
static size_t exmap_rw_done(const struct exmap_job *job, int *err)
{
	size_t pages = 0;

	for (unsigned int i = 0; i < job->nr && !*err; i++) {
		pages += job->vecs[i].len;
		*err = job->results[i].res;
	}
	return pages << PAGE_SHIFT;
}

/* Carry out all segments, as many at a time as there is room for vectors */
static ssize_t exmap_rw_run(struct exmap_job *job, struct iov_iter *iter, u8 opcode,
			    unsigned int max, struct exmap_io_few *few)
{
	size_t bytes = 0;
	int err = 0;

	while (iov_iter_count(iter) && !err) {
		job->next = 0;
		job->next_slot = 0;
		job->failed = 0;
		err = exmap_rw_vecs(job, iter, opcode, max);
		if (!err && !job->io)
			exmap_job_prepare(job, few);
		if (!err)
			err = exmap_job_run(job);
		if (err)
			break;
		bytes += exmap_rw_done(job, &err);
	}
	exmap_io_free(job->io);
	/* A signal ended a wait before anything was done: the call can be made again */
	if (!bytes && err == -EINTR)
		err = -ERESTARTNOINTR;
	return bytes ?: err;
}

/*
 * Take a free page for an empty slot, and begin to read. Returns NULL, and nothing has
 * happened, if that is not simple.
 */
static struct page *exmap_rw_take_page(struct exmap *exmap, struct exmap_interface *iface,
				       unsigned long slot, struct exmap_flight *flight)
{
	struct vm_area_struct *vma = exmap_region_trylock(exmap);
	struct vma_batch vb __uninitialized;
	struct page *page = NULL;
	struct exmap_bundle *local;
	u8 state;

	if (unlikely(!vma))
		return NULL;
	mutex_lock(&iface->lock);
	local = iface->local;
	if (likely(exmap_bundle_nr(local))) {
		vma_batch_begin(&vb, vma, NULL, 0, 0);
		vma_batch_query(&vb, exmap_slot_addr(exmap, slot), 1, &state, false);
		vma_batch_end(&vb);
		page = local->pages[local->nr - 1];
		if (unlikely(state || PageHWPoison(page) ||
			     !exmap_flight_begin(exmap->flights, flight,
						 exmap_slot_page(exmap, slot),
						 EXMAP_FLIGHT_READ)))
			page = NULL;
		else
			local->nr--;
	}
	mutex_unlock(&iface->lock);
	vma_end_read(vma);
	return page;
}

/*
 * Map a page that was read, wherever that is not simple. Sets *page to NULL, unless the
 * slot got another page meanwhile, which it keeps.
 */
static noinline int exmap_rw_map_page_slowly(struct exmap *exmap, unsigned long slot,
					     struct page **page)
{
	struct exmap_cursor cursor;
	struct vma_batch *vb = &cursor.vb;
	u64 generation;
	int err;

	err = exmap_cursor_lock(&cursor, exmap, false);
	if (err)
		return err;
	exmap_cursor_begin(&cursor, exmap, cursor.vma);
	vb->pages = page;
	vb->nr = 1;
	vb->clean = true;
	for (;;) {
		generation = READ_ONCE(exmap->pool->group->generation);
		if (vma_batch_map(vb, exmap_slot_addr(exmap, slot), 1)) {
			vb->stop = VMA_BATCH_EMPTY;
			break;
		}
		if (vb->stop != VMA_BATCH_UNFLUSHED)
			break;
		/* The slot has lost another page a moment ago */
		vma_batch_end(vb);
		exmap_region_flush(exmap->pool->group, generation);
	}
	vma_batch_end(vb);
	exmap_cursor_count(&cursor);
	exmap_cursor_unlock(&cursor);
	if (!vb->nr)
		*page = NULL;
	return vb->stop == VMA_BATCH_EMPTY ? 0 : exmap_cursor_error(&cursor);
}

/* Map a page that was read. Returns as exmap_rw_map_page_slowly(). */
static int exmap_rw_map_page(struct exmap *exmap, unsigned long slot, struct page **page)
{
	struct vm_area_struct *vma = exmap_region_trylock(exmap);
	bool mapped;

	if (likely(vma)) {
		mapped = vma_batch_map_page(vma, exmap_slot_addr(exmap, slot), *page, true);
		vma_end_read(vma);
		if (likely(mapped)) {
			*page = NULL;
			return 0;
		}
	}
	return exmap_rw_map_page_slowly(exmap, slot, page);
}

/*
 * Read a page for an empty slot, as when a thread misses a page, with half of the
 * instructions of a job. Returns what the call returns, or 0 if it must be made as a job,
 * because it is not the simplest case or because the file was not read.
 */
static ssize_t exmap_rw_read_page(struct exmap *exmap, struct exmap_interface *iface,
				  unsigned long slot)
{
	struct exmap_flight flight __uninitialized;
	struct page *page;
	ssize_t ret = 0;

	page = exmap_rw_take_page(exmap, iface, slot, &flight);
	if (unlikely(!page))
		return 0;
	/* The flag belongs to the previous content of the page */
	if (unlikely(PageDirty(page)))
		folio_clear_dirty(page_folio(page));
	if (likely(exmap_io_read_page(exmap, slot, page)))
		ret = exmap_rw_map_page(exmap, slot, &page) ?: PAGE_SIZE;
	if (ret > 0)
		trace_exmap_read(exmap->pool, exmap_slot_addr(exmap, slot), 1, ret, ret);
	exmap_flight_end(exmap->flights, &flight);
	if (unlikely(page))
		exmap_pool_put(exmap->pool, iface, &page, 1);
	return ret;
}

/* Most calls are of one page, and need no memory */
static ssize_t exmap_rw_one(struct exmap_job *job, struct iov_iter *iter, u8 opcode)
{
	struct exmap_result result __uninitialized;
	struct exmap_io_few few __uninitialized;
	struct exmap_vec vec __uninitialized;

	job->vecs = &vec;
	job->results = &result;
	return exmap_rw_run(job, iter, opcode, 1, &few);
}

static ssize_t exmap_rw_many(struct exmap_job *job, struct iov_iter *iter, u8 opcode)
{
	struct exmap_io_few few __uninitialized;
	ssize_t ret;
	void *many;

	many = kvmalloc_array(EXMAP_RW_MANY, sizeof(*job->vecs) + sizeof(*job->results),
			      EXMAP_GFP);
	/* See exmap_job_prepare() */
	if (!many)
		return exmap_rw_one(job, iter, opcode);
	job->vecs = many;
	job->results = (void *)(job->vecs + EXMAP_RW_MANY);
	ret = exmap_rw_run(job, iter, opcode, EXMAP_RW_MANY, &few);
	kvfree(many);
	return ret;
}

/* Tests whether a call would have to wait for the backing file, in any case */
static bool exmap_rw_waits(const struct exmap *exmap, int opcode)
{
	const struct file *backing = exmap->backing;

	return exmap_opcode_is_io(opcode) && backing &&
	       (!(backing->f_mode & FMODE_NOWAIT) || backing->f_iocb_flags & IOCB_DIRECT);
}

static ssize_t exmap_rw(struct kiocb *iocb, struct iov_iter *iter, int opcode)
{
	struct exmap *exmap = exmap_of_mapped(iocb->ki_filp);
	struct exmap_job job = {};
	unsigned long at;
	ssize_t ret;

	if (IS_ERR(exmap))
		return PTR_ERR(exmap);
	job.exmap = exmap;
	job.iface = exmap_interface_shared(exmap, exmap_pos_interface(iocb->ki_pos));
	if (opcode < 0 || !user_backed_iter(iter) || !job.iface)
		return -EINVAL;
	/* Slots have their place in the file. O_APPEND of /dev/exmap means nothing. */
	if (iocb->ki_flags & IOCB_APPEND && !(iocb->ki_filp->f_iocb_flags & IOCB_APPEND))
		return -EOPNOTSUPP;
	job.prefix = true;
	job.nowait = iocb->ki_flags & IOCB_NOWAIT;
	job.sync = iocb->ki_flags & (IOCB_DSYNC | IOCB_SYNC);
	if (job.nowait && exmap_rw_waits(exmap, opcode))
		return -EAGAIN;
	if (iov_iter_count(iter) != PAGE_SIZE || iter->nr_segs != 1)
		return exmap_rw_many(&job, iter, opcode);
	at = (unsigned long)untagged_addr(iter_iov_addr(iter)) - exmap->start;
	if (opcode == EXMAP_OP_READ && exmap->backing && !job.nowait &&
	    PAGE_ALIGNED(at) && at >> PAGE_SHIFT < exmap->nr_slots) {
		ret = exmap_rw_read_page(exmap, job.iface, at >> PAGE_SHIFT);
		if (likely(ret > 0))
			iov_iter_advance(iter, ret);
		if (likely(ret))
			return ret;
	}
	return exmap_rw_one(&job, iter, opcode);
}

/**
 * exmap_read_iter() - Fill slots of the region from the backing file, or allocate.
 * @iocb: the call; its position says which interface and opcode
 * @to: where in the region; every segment is made of whole slots
 *
 * Context: Process context, may sleep, unless @iocb has IOCB_NOWAIT.
 *
 * Return: bytes of the slots that are done, a prefix of @to. If there are none:
 * -ENXIO if the exmap is not set up or has no region, -EPERM if it belongs to another
 * address space, -EINVAL for an opcode, interface or alignment that does not exist,
 * -EOPNOTSUPP for RWF_APPEND, -ERANGE for addresses outside the region, -ENODEV if
 * there is no backing file, -ENODATA at its end, -ENOMEM without free pages, -EAGAIN
 * if IOCB_NOWAIT is set and it would have to wait, or the error of the file.
 */
ssize_t exmap_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	const unsigned int opcode = exmap_pos_opcode(iocb->ki_pos);
	const bool known = opcode == EXMAP_OP_READ || opcode == EXMAP_OP_ALLOC;

	return exmap_rw(iocb, to, known ? opcode : -1);
}

/**
 * exmap_write_iter() - Write pages of the region to the backing file.
 * @iocb: the call; its position says which interface, and EXMAP_OP_WRITE or 0
 * @from: where in the region; every segment is made of whole slots
 *
 * Context: As exmap_read_iter().
 *
 * Return: bytes of the slots that are done, a prefix of @from. If there are none, the
 * errors of exmap_read_iter(), -EFAULT for a slot without a page, -EBADF if the backing
 * file is not open for writing.
 */
ssize_t exmap_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	const unsigned int opcode = exmap_pos_opcode(iocb->ki_pos);
	const bool known = !opcode || opcode == EXMAP_OP_WRITE;

	return exmap_rw(iocb, from, known ? EXMAP_OP_WRITE : -1);
}
