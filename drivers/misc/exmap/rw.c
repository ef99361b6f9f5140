// SPDX-License-Identifier: GPL-2.0-only
/*
 * Read and write calls on the file: of pages of the region, from and to the
 * backing file
 */
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/uio.h>

#include "exmap.h"

/* Vectors that are made of a call at once */
#define EXMAP_RW_MANY	EXMAP_IO_PAGES

/* What the file position of a call says */
static unsigned int exmap_pos_opcode(u64 pos)
{
	return (pos >> 8) & 0xff;
}

static u64 exmap_pos_interface(u64 pos)
{
	return (pos & 0xff) | (pos >> 16 << 8);
}

/*
 * Make a job of the next segments, and advance the iterator by them. What cannot
 * be right has to be the first.
 */
static int exmap_rw_vecs(struct exmap_job *job, struct iov_iter *iter, u8 opcode,
			 unsigned int max)
{
	const u16 flags = opcode == EXMAP_OP_READ ? EXMAP_VEC_REPLACE : 0;
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

/* Bytes that are done, without a gap, and the error that ended that */
static size_t exmap_rw_done(const struct exmap_job *job, int *err)
{
	size_t pages = 0;

	for (unsigned int i = 0; i < job->nr && !*err; i++) {
		pages += job->vecs[i].len;
		*err = job->results[i].res;
	}
	return pages << PAGE_SHIFT;
}

/* A call of somebody who does not wait for it */
struct exmap_rw_async {
	struct exmap_job job;
	struct kiocb *iocb;
	struct work_struct work;
	struct exmap_result results[EXMAP_RW_MANY];
	struct exmap_vec vecs[EXMAP_RW_MANY];
};

static void exmap_rw_free(struct exmap_rw_async *call)
{
	exmap_io_free(call->job.io);
	kvfree(call);
}

static ssize_t exmap_rw_finish(struct exmap_rw_async *call)
{
	int err = 0;
	size_t done = exmap_rw_done(&call->job, &err);

	exmap_rw_free(call);
	return done ?: err;
}

static void exmap_rw_work(struct work_struct *work)
{
	struct exmap_rw_async *call = container_of(work, struct exmap_rw_async, work);
	struct kiocb *iocb = call->iocb;

	/* There is room for all, so what remains is to place the pages */
	if (!exmap_job_run(&call->job, true))
		iocb->ki_complete(iocb, exmap_rw_finish(call));
}

/* This may be an interrupt */
static void exmap_rw_notify(struct exmap_io *io)
{
	struct exmap_rw_async *call = io->owner;

	exmap_io_work_on(&call->work);
}

/*
 * Begin a call, and let it be completed when it is over. Returns 0 if that cannot
 * be, because it is too large.
 */
static ssize_t exmap_rw_begin_async(const struct exmap_job *job, struct kiocb *iocb,
				    struct iov_iter *iter, u8 opcode)
{
	const unsigned int pages = iov_iter_count(iter) >> PAGE_SHIFT;
	struct exmap_rw_async *call;
	int err;

	if (iter->nr_segs > EXMAP_RW_MANY || iov_iter_count(iter) > EXMAP_IO_PAGES * PAGE_SIZE)
		return 0;
	call = kvmalloc_obj(*call, GFP_KERNEL_ACCOUNT);
	if (!call)
		return -ENOMEM;
	call->job = *job;
	call->job.vecs = call->vecs;
	call->job.results = call->results;
	call->iocb = iocb;
	INIT_WORK(&call->work, exmap_rw_work);
	err = exmap_rw_vecs(&call->job, iter, opcode, EXMAP_RW_MANY);
	if (!err && pages) {
		call->job.io = exmap_io_alloc(job->exmap, pages, pages);
		if (!call->job.io)
			err = -ENOMEM;
	}
	if (!err && pages)
		exmap_io_set_notify(call->job.io, exmap_rw_notify, call);
	if (!err)
		err = exmap_job_run(&call->job, false);
	if (!err)
		return exmap_rw_finish(call);
	if (err != -EIOCBQUEUED)
		exmap_rw_free(call);
	return err;
}

/* The same, and wait for it */
static ssize_t exmap_rw_wait(struct exmap_job *job, struct iov_iter *iter, u8 opcode)
{
	const bool one = iov_iter_count(iter) == PAGE_SIZE;
	struct exmap_result result __uninitialized;
	struct exmap_io_page page __uninitialized;
	struct exmap_vec vec __uninitialized;
	struct exmap_run run __uninitialized;
	struct exmap_io io __uninitialized;
	struct bio_vec bvec __uninitialized;
	void *many = NULL;
	size_t bytes = 0;
	int err = 0;

	if (one) {
		/* Without anything that is made for more */
		job->vecs = &vec;
		job->results = &result;
		exmap_io_init(&io, job->exmap, &run, 1, &bvec, &page, 1);
		job->io = &io;
	} else {
		many = kvmalloc_array(EXMAP_RW_MANY, sizeof(*job->vecs) +
				      sizeof(*job->results), GFP_KERNEL_ACCOUNT);
		if (!many)
			return -ENOMEM;
		job->vecs = many;
		job->results = (void *)(job->vecs + EXMAP_RW_MANY);
	}
	while (iov_iter_count(iter) && !err) {
		job->next = 0;
		job->next_slot = 0;
		job->failed = 0;
		err = exmap_rw_vecs(job, iter, opcode, one ? 1 : EXMAP_RW_MANY);
		if (!err && !job->io)
			err = exmap_job_prepare(job, NULL);
		if (!err)
			err = exmap_job_run(job, false);
		if (err)
			break;
		bytes += exmap_rw_done(job, &err);
	}
	exmap_io_free(job->io);
	kvfree(many);
	return bytes ?: err;
}

static ssize_t exmap_rw(struct kiocb *iocb, struct iov_iter *iter, int opcode)
{
	const u64 interface = exmap_pos_interface(iocb->ki_pos);
	struct exmap *exmap = exmap_of_ready(iocb->ki_filp);
	struct exmap_job job = {};
	ssize_t ret;

	if (IS_ERR(exmap))
		return PTR_ERR(exmap);
	/* Pairs with exmap_region_mapped() */
	if (smp_load_acquire(&exmap->state) != EXMAP_MAPPED)
		return -ENXIO;
	if (opcode < 0 || !user_backed_iter(iter) ||
	    interface >= exmap->pool.nr_interfaces)
		return -EINVAL;

	job.exmap = exmap;
	job.iface = &exmap->pool.interfaces[interface];
	job.prefix = true;
	job.nowait = iocb->ki_flags & IOCB_NOWAIT;
	job.sync = iocb->ki_flags & (IOCB_DSYNC | IOCB_SYNC);
	if (!exmap_opcode_is_io(opcode))
		return exmap_rw_wait(&job, iter, opcode);
	if (job.nowait && exmap_io_may_wait(exmap))
		return -EAGAIN;
	if (is_sync_kiocb(iocb))
		return exmap_rw_wait(&job, iter, opcode);
	ret = exmap_rw_begin_async(&job, iocb, iter, opcode);
	if (ret)
		return ret;
	return job.nowait ? -EAGAIN : exmap_rw_wait(&job, iter, opcode);
}

/**
 * exmap_read_iter() - Let pages of the region be read, or just be there.
 * @iocb: the call; its position says which interface and opcode
 * @to: where in the region; every segment is made of whole slots
 *
 * Context: Process context, may sleep.
 *
 * Return: bytes of the slots that are done, a prefix of @to. If there are none:
 * -ENXIO if the exmap is not set up or has no region, -EPERM if it belongs to
 * another process, -EINVAL for an opcode, interface or alignment that cannot
 * be, -ERANGE for addresses outside the region, -ENODEV if there is no backing
 * file, -ENODATA at its end, -ENOMEM without free pages, or the file's error.
 * -EIOCBQUEUED if @iocb is not synchronous and will be completed.
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
 * Context: Process context, may sleep.
 *
 * Return: bytes of the slots that are done, a prefix of @from. If there are none,
 * the errors of exmap_read_iter(), -EFAULT for a slot without a page, -EBADF if
 * the backing file is not open for writing.
 */
ssize_t exmap_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	const unsigned int opcode = exmap_pos_opcode(iocb->ki_pos);
	const bool known = !opcode || opcode == EXMAP_OP_WRITE;

	return exmap_rw(iocb, from, known ? EXMAP_OP_WRITE : -1);
}
