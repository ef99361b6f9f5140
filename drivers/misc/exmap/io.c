// SPDX-License-Identifier: GPL-2.0-only
/*
 * Transfers between pages and the backing file, many of them in flight
 *
 * Each has a request of its own to the file, in the kernel's terms a kiocb with
 * the pages as a bvec, so that nothing is pinned or copied. Where the file can
 * (O_DIRECT), all requests are at work at once; where it cannot, a first round
 * that does not wait lets it begin to read, before one is waited for.
 */
#include <linux/blkdev.h>
#include <linux/bvec.h>
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/ioprio.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uio.h>

#include "exmap.h"

static struct workqueue_struct *exmap_io_wq;

/**
 * exmap_io_module_init() - Set up what all transfers share.
 * Return: 0, or -ENOMEM.
 */
int __init exmap_io_module_init(void)
{
	exmap_io_wq = alloc_workqueue("exmap", WQ_UNBOUND, 0);
	return exmap_io_wq ? 0 : -ENOMEM;
}

/**
 * exmap_io_module_exit() - Undo exmap_io_module_init().
 */
void exmap_io_module_exit(void)
{
	destroy_workqueue(exmap_io_wq);
}

/**
 * exmap_io_init() - Make use of room for transfers.
 * @io: uninitialised memory
 * @exmap: the exmap
 * @runs: room for the transfers
 * @max_runs: how many
 * @bvecs: room for the pages
 * @pages: the same
 * @max_pages: how many
 */
void exmap_io_init(struct exmap_io *io, struct exmap *exmap, struct exmap_run *runs,
		   unsigned int max_runs, struct bio_vec *bvecs,
		   struct exmap_io_page *pages, unsigned int max_pages)
{
	io->exmap = exmap;
	io->runs = runs;
	io->max_runs = max_runs;
	io->bvecs = bvecs;
	io->pages = pages;
	io->max_pages = max_pages;
	io->notify = NULL;
	io->cred = NULL;
	io->allocated = false;
}

/**
 * exmap_io_alloc() - Room for transfers.
 * @exmap: the exmap
 * @max_pages: pages, at least 1
 * @max_runs: transfers; if pages have few neighbours, this is what runs out first
 *
 * Context: Process context, may sleep.
 * Return: to be freed with exmap_io_free(); NULL if there is no memory.
 */
struct exmap_io *exmap_io_alloc(struct exmap *exmap, unsigned int max_pages,
				unsigned int max_runs)
{
	struct exmap_io_page *pages;
	struct bio_vec *bvecs;
	struct exmap_run *runs;
	struct exmap_io *io;

	io = kvmalloc(sizeof(*io) + max_runs * sizeof(*runs) +
		      max_pages * (sizeof(*bvecs) + sizeof(*pages)),
		      GFP_KERNEL_ACCOUNT);
	if (!io)
		return NULL;
	runs = (void *)(io + 1);
	bvecs = (void *)(runs + max_runs);
	pages = (void *)(bvecs + max_pages);
	exmap_io_init(io, exmap, runs, max_runs, bvecs, pages, max_pages);
	io->allocated = true;
	return io;
}

/**
 * exmap_io_free() - Undo exmap_io_alloc() or exmap_io_init().
 * @io: the transfers, none in flight; NULL is fine
 */
void exmap_io_free(struct exmap_io *io)
{
	if (!io)
		return;
	put_cred(io->cred);
	if (io->allocated)
		kvfree(io);
}

/**
 * exmap_io_set_notify() - Do not wait for transfers, be called.
 * @io: the transfers
 * @notify: called when none is in flight any more, in any context
 * @owner: for @notify
 *
 * Context: Process context, of the task on whose behalf it is done.
 */
void exmap_io_set_notify(struct exmap_io *io, void (*notify)(struct exmap_io *io),
			 void *owner)
{
	io->notify = notify;
	io->owner = owner;
	/* A worker that writes must not be mistaken for somebody with its rights */
	io->cred = get_current_cred();
}

static void exmap_io_notify(struct exmap_io *io)
{
	if (io->notify)
		io->notify(io);
	else
		complete(&io->waited);
}

/* What the file answers, where that means something else to us or to programs */
static long exmap_run_result(long res)
{
	switch (res) {
	case -ENODATA:
		/* A bad sector: it must not be taken for the end of the file */
		return -EIO;
	case -ERESTARTSYS:
	case -ERESTARTNOINTR:
	case -ERESTARTNOHAND:
	case -ERESTART_RESTARTBLOCK:
		/* Others have been transferred, and cannot be once more */
		return -EINTR;
	default:
		return res;
	}
}

static void exmap_run_complete(struct kiocb *iocb, long res)
{
	struct exmap_run *run = container_of(iocb, struct exmap_run, iocb);

	if (run->write)
		kiocb_end_write(iocb);
	run->res = exmap_run_result(res);
	if (atomic_dec_and_test(&run->io->pending))
		exmap_io_notify(run->io);
}

/* Request what is left of a transfer; @proto is what all requests have in common */
static void exmap_run_start(struct exmap_run *run, const struct kiocb *proto)
{
	struct exmap_io *io = run->io;
	struct kiocb *iocb = &run->iocb;
	struct iov_iter iter;
	ssize_t ret;

	iov_iter_bvec(&iter, run->write ? ITER_SOURCE : ITER_DEST,
		      io->bvecs + run->first, run->nr, run->nr * PAGE_SIZE);
	if (unlikely(run->done))
		iov_iter_advance(&iter, run->done);
	if (run->single)
		iov_iter_truncate(&iter, PAGE_SIZE - offset_in_page(run->done));
	run->todo = false;
	*iocb = *proto;
	iocb->ki_pos += (run->slot << PAGE_SHIFT) + run->done;
	iocb->ki_flags |= run->flags;
	if (run->write && IS_APPEND(file_inode(iocb->ki_filp))) {
		ret = -EPERM;
	} else if (run->write) {
		iocb->ki_flags |= IOCB_WRITE;
		ret = vfs_iocb_iter_write(iocb->ki_filp, iocb, &iter);
	} else {
		ret = vfs_iocb_iter_read(iocb->ki_filp, iocb, &iter);
	}
	if (ret == -EIOCBQUEUED)
		return;
	run->res = exmap_run_result(ret);
	/* The caller of exmap_io_submit() is not through: it will not be zero */
	atomic_dec(&io->pending);
}

/**
 * exmap_io_submit() - Request all that is still to be transferred.
 * @io: the transfers, none in flight, of an exmap with a backing file
 * @flags: IOCB_NOWAIT: where the file, which can tell, would have to wait, leave it
 *	for later; or 0
 *
 * Context: Process context, may sleep.
 * Return: true if no request is in flight. If it is false, io->notify will be
 * called as soon as that is so (or already has been), or io->waited completed.
 */
bool exmap_io_submit(struct exmap_io *io, int flags)
{
	struct file *file = io->exmap->backing;
	/* It can be left to the file to wait for it */
	const bool alone = io->nr_runs == 1 && !io->notify && !flags;
	/*
	 * A plug holds requests back until it is finished, or the task sleeps; then
	 * they go out through a worker. So there is none where the file waits.
	 */
	const bool plugged = io->nr_runs > 1 &&
			     (file->f_iocb_flags & IOCB_DIRECT || flags & IOCB_NOWAIT);
	const struct kiocb proto = {
		.ki_filp	= file,
		.ki_pos		= io->exmap->offset,
		.ki_complete	= alone ? NULL : exmap_run_complete,
		/* Every page has its place */
		.ki_flags	= (file->f_iocb_flags & ~IOCB_APPEND) | flags,
		.ki_ioprio	= get_current_ioprio(),
	};
	struct blk_plug plug;

	if (!io->notify)
		init_completion(&io->waited);
	atomic_set(&io->pending, io->nr_runs + 1);
	if (plugged)
		blk_start_plug(&plug);
	for (unsigned int i = 0; i < io->nr_runs; i++) {
		if (io->runs[i].todo)
			exmap_run_start(&io->runs[i], &proto);
		else
			atomic_dec(&io->pending);
	}
	if (plugged)
		blk_finish_plug(&plug);
	return atomic_dec_and_test(&io->pending);
}

/*
 * A request has failed. It may be one sector of it: find out which page that is
 * in, and go on with the pages of other vectors.
 */
static void exmap_run_failed(struct exmap_run *run, int err)
{
	struct exmap_io_page *pages = run->io->pages + run->first;
	unsigned int i = run->done >> PAGE_SHIFT;
	const u32 vec = pages[i].vec;

	if (!run->single && i + 1 < run->nr) {
		run->single = true;
		return;
	}
	while (i < run->nr && pages[i].vec == vec)
		pages[i++].err = err;
	run->done = (size_t)i << PAGE_SHIFT;
}

/**
 * exmap_io_settle() - See what has come of the requests.
 * @io: the transfers, none in flight
 *
 * In a transfer that is over, @done says how much was transferred or has failed,
 * and if that is not all, @res is -ENODATA at the end of the file.
 *
 * Return: true if there are requests to make again, which must wait this time.
 */
bool exmap_io_settle(struct exmap_io *io)
{
	struct exmap_run *run = io->runs, *end = run + io->nr_runs;
	bool again = false;

	for (; run < end; run++) {
		const size_t size = run->nr * PAGE_SIZE;

		if (likely(run->res == size)) {
			run->done = size;
			continue;
		}
		if (run->done == size || run->res == -ENODATA)
			continue;
		if (!run->res && !run->write) {
			run->res = -ENODATA;
			continue;
		}
		if (run->res > 0) {
			run->done += run->res;
			/*
			 * Direct I/O that ends inside a sector has come to the end of the
			 * file. Another thread may have moved that since, but not to where
			 * direct I/O could begin.
			 */
			if (!run->write && run->iocb.ki_flags & IOCB_DIRECT &&
			    !IS_ALIGNED(run->done, SECTOR_SIZE)) {
				run->res = -ENODATA;
				continue;
			}
		} else if (run->iocb.ki_flags & IOCB_NOWAIT &&
			   (run->res == -EAGAIN || run->res == -EOPNOTSUPP)) {
			/* The latter is what files say that never write without waiting */
			run->res = -EAGAIN;
		} else {
			exmap_run_failed(run, run->res ?: -EIO);
		}
		run->todo = run->done < size;
		again |= run->todo;
	}
	return again;
}

/**
 * exmap_io_wait() - Carry out transfers and wait for them.
 * @io: the transfers, of an exmap with a backing file; without io->notify
 * @nowait: leave those that must be waited for, with -EAGAIN
 *
 * Context: Process context, may sleep.
 */
void exmap_io_wait(struct exmap_io *io, bool nowait)
{
	const struct file *file = io->exmap->backing;
	const bool direct = file->f_iocb_flags & IOCB_DIRECT;
	/* Reads of cached files begin with the first round, and wait in the second */
	bool first = nowait || (!direct && io->nr_runs > 1 && !io->runs[0].write &&
				file->f_mode & FMODE_NOWAIT);

	do {
		if (!exmap_io_submit(io, first ? IOCB_NOWAIT : 0))
			wait_for_completion_io(&io->waited);
		first = false;
	} while (exmap_io_settle(io) && !nowait);
}

/**
 * exmap_io_work_on() - Let a worker go on.
 * @work: what it shall do
 *
 * Context: Any.
 */
void exmap_io_work_on(struct work_struct *work)
{
	queue_work(exmap_io_wq, work);
}

static void exmap_io_work(struct work_struct *work)
{
	struct exmap_io *io = container_of(work, struct exmap_io, work);
	const struct cred *cred = get_cred(io->cred);
	const struct cred *own = override_creds(cred);
	const bool arrived = exmap_io_submit(io, 0);

	revert_creds(own);
	put_cred(cred);
	if (arrived)
		io->notify(io);
}

/**
 * exmap_io_queue() - Have a worker carry out transfers that must wait.
 * @io: the transfers, none in flight, of an exmap with a backing file; with
 *	io->notify, which may be called before this returns
 *
 * Context: Process context.
 */
void exmap_io_queue(struct exmap_io *io)
{
	INIT_WORK(&io->work, exmap_io_work);
	exmap_io_work_on(&io->work);
}
