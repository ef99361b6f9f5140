// SPDX-License-Identifier: GPL-2.0-only
/*
 * Transfers between pages and the backing file
 *
 * Where the file can (O_DIRECT), all requests are in flight at once. Where it
 * cannot, a first round that does not wait lets the file begin to read before the
 * task waits for one of them.
 */
#include <linux/blkdev.h>
#include <linux/bvec.h>
#include <linux/fs.h>
#include <linux/fsnotify.h>
#include <linux/highmem.h>
#include <linux/ioprio.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uio.h>
#include <linux/wait_bit.h>

#include "exmap.h"
#include "io.h"

static void exmap_io_init(struct exmap_io *io, struct exmap *exmap,
			  struct exmap_run *runs, unsigned int max_runs,
			  struct bio_vec *bvecs, struct exmap_io_page *pages,
			  unsigned int max_pages)
{
	io->exmap = exmap;
	io->runs = runs;
	io->max_runs = max_runs;
	io->nr_runs = 0;
	io->bvecs = bvecs;
	io->pages = pages;
	io->max_pages = max_pages;
	io->nr_pages = 0;
	atomic_set(&io->stall, EXMAP_STALL_NONE);
	io->notify = NULL;
	io->allocated = false;
}

/**
 * exmap_io_few_init() - Set up room for a few transfers.
 * @few: uninitialised memory
 * @exmap: the exmap
 *
 * Return: the transfers, to be freed with exmap_io_free().
 */
struct exmap_io *exmap_io_few_init(struct exmap_io_few *few, struct exmap *exmap)
{
	exmap_io_init(&few->io, exmap, few->runs, EXMAP_IO_FEW, few->bvecs, few->pages,
		      EXMAP_IO_FEW);
	return &few->io;
}

/**
 * exmap_io_alloc() - Allocate room for transfers.
 * @exmap: the exmap
 * @max_pages: number of pages, at least 1
 * @max_runs: number of runs; this is what runs out first if few pages are neighbours
 *
 * Context: Process context, may sleep.
 * Return: the transfers, to be freed with exmap_io_free(); NULL without memory.
 */
struct exmap_io *exmap_io_alloc(struct exmap *exmap, unsigned int max_pages,
				unsigned int max_runs)
{
	struct exmap_io_page *pages;
	struct bio_vec *bvecs;
	struct exmap_run *runs;
	struct exmap_io *io;

	io = kvmalloc(sizeof(*io) + max_runs * sizeof(*runs) +
		      max_pages * (sizeof(*bvecs) + sizeof(*pages)), EXMAP_GFP);
	if (!io)
		return NULL;
	runs = (void *)(io + 1);
	pages = (void *)(runs + max_runs);
	bvecs = (void *)(pages + max_pages);
	exmap_io_init(io, exmap, runs, max_runs, bvecs, pages, max_pages);
	io->allocated = true;
	return io;
}

/**
 * exmap_io_free() - Free what exmap_io_alloc() or exmap_io_few_init() returned.
 * @io: the transfers, of which none is in flight; or NULL
 */
void exmap_io_free(struct exmap_io *io)
{
	if (io && io->allocated)
		kvfree(io);
}

/* Bytes of a run */
static size_t exmap_run_size(const struct exmap_run *run)
{
	return (size_t)run->nr << run->shift;
}

/* Bytes that are still to be transferred of the slot where a run goes on */
static size_t exmap_run_slot_left(const struct exmap_run *run)
{
	const size_t size = 1UL << run->shift;

	return size - (run->done & (size - 1));
}

/* Tests whether a page can be part of the last run */
static bool exmap_run_continues(const struct exmap_io *io, const struct exmap_run *last,
				const struct exmap *exmap, unsigned long slot,
				const struct exmap_io_page *info, int flags)
{
	const struct exmap_io_page *first;

	if (!io->nr_runs || last->exmap != exmap ||
	    (last->nr + 1) << exmap->order > EXMAP_RUN_PAGES)
		return false;
	first = &io->pages[last->first];
	/*
	 * A write that nobody waits for is not made again in parts when it has failed,
	 * so its failure must concern a single vector.
	 */
	if (io->notify && last->write && first->vec != info->vec)
		return false;
	return slot == last->slot + last->nr &&
	       (info->flight.kind == EXMAP_FLIGHT_WRITE) == last->write &&
	       flags == last->flags && info->zero == first->zero;
}

/**
 * exmap_io_add() - Add a page to what is to be transferred.
 * @io: the transfers, of which none is in flight
 * @exmap: the exmap, of the same group; it has another reference
 * @page: the page, whose reference goes over to @io. The caller has begun the flight
 *	of exmap_io_next(), which says what is done with the page.
 * @vec: the vector of the job that asks for it
 * @n: which of the slots of the vector it is
 * @vec_flags: the flags of that vector, enum exmap_vec_flags
 * @flags: IOCB_DSYNC, IOCB_SYNC or 0
 *
 * Context: Any.
 */
void exmap_io_add(struct exmap_io *io, struct exmap *exmap, struct page *page,
		  unsigned int vec, unsigned int n, unsigned int vec_flags, int flags)
{
	struct exmap_run *run = io->runs + io->nr_runs, *last = run - 1;
	const unsigned int i = io->nr_pages++;
	struct exmap_io_page *info = &io->pages[i];
	const unsigned long slot = (info->flight.slot - exmap_slot_page(exmap, 0)) >>
				   exmap->order;

	bvec_set_page(&io->bvecs[i], page, exmap_slot_size(exmap), 0);
	info->vec = vec;
	info->n = n;
	info->err = 0;
	info->dirty = vec_flags & EXMAP_VEC_DIRTY;
	info->landed = false;
	info->redo = false;
	info->zero = vec_flags & EXMAP_VEC_ZERO;
	if (exmap_run_continues(io, last, exmap, slot, info, flags)) {
		last->nr++;
		return;
	}
	io->nr_runs++;
	run->io = io;
	run->exmap = exmap;
	if (unlikely(exmap != io->exmap))
		kref_get(&exmap->ref);
	run->first = i;
	run->nr = 1;
	run->slot = slot;
	run->shift = exmap_slot_shift(exmap);
	run->write = info->flight.kind == EXMAP_FLIGHT_WRITE;
	run->flags = flags;
	run->single = false;
	run->todo = true;
	run->queued = false;
	run->res = 0;
	run->done = 0;
}

/**
 * exmap_run_done() - Forget a run whose pages are taken care of.
 * @run: the run, not in flight
 *
 * Context: Process context, may sleep. No locks are held.
 */
void exmap_run_done(struct exmap_run *run)
{
	run->nr = 0;
	run->done = 0;
	run->res = 0;
	run->todo = false;
	if (unlikely(run->exmap != run->io->exmap)) {
		exmap_put(run->exmap);
		run->exmap = run->io->exmap;
	}
}

/**
 * exmap_io_land() - End the flight of a page, unless it has ended.
 * @io: the transfers
 * @info: the page
 * @page: the page itself
 * @ok: whether it was transferred
 *
 * Context: Any.
 */
void exmap_io_land(struct exmap_io *io, struct exmap_io_page *info, struct page *page,
		   bool ok)
{
	if (info->landed)
		return;
	/* Before the flight ends, so that the page is clean to nobody */
	if (unlikely(!ok) && info->dirty)
		folio_set_dirty(page_folio(page));
	exmap_flight_end(io->exmap->pool->group->flights, &info->flight);
	info->landed = true;
}

/*
 * Land the pages of a run for which other operations may wait. A task must not wait
 * for a flight that only its own task work would end.
 */
static void exmap_run_land(struct exmap_run *run)
{
	struct exmap_io *io = run->io;
	const size_t done = run->done + (run->res > 0 ? run->res : 0);

	/* It is going to be made again, by a task that can wait */
	if (run->write && run->res == -EAGAIN)
		return;
	for (unsigned int i = 0; i < run->nr; i++) {
		struct exmap_io_page *info = &io->pages[run->first + i];

		if (info->flight.kind != EXMAP_FLIGHT_READ)
			exmap_io_land(io, info, io->bvecs[run->first + i].bv_page,
				      done >= (size_t)(i + 1) << run->shift);
	}
}

/* Translate results of the file that have another meaning for programs or here */
static long exmap_run_result(long res)
{
	switch (res) {
	case -ENODATA:
		/* A bad sector must not be taken for the end of the file */
		return -EIO;
	case -ERESTARTSYS:
	case -ERESTARTNOINTR:
	case -ERESTARTNOHAND:
	case -ERESTART_RESTARTBLOCK:
		/* Other requests have been completed, and cannot be made once more */
		return -EINTR;
	default:
		return res;
	}
}

/* Tests whether a run has pages that are still to be written */
static bool exmap_run_is_unwritten(const struct exmap_run *run)
{
	return run->write && run->nr && !run->io->pages[run->first].landed;
}

/**
 * exmap_io_stall() - Let a task that waits for one of the slots carry out the writes.
 * @io: transfers with io->notify, of which none is in flight. If there are writes that
 *	could not be made without waiting, only exmap_io_help() touches them until
 *	exmap_io_unstall().
 *
 * Context: Any.
 */
void exmap_io_stall(struct exmap_io *io)
{
	bool stalled = false;

	for (unsigned int i = 0; i < io->nr_runs && !stalled; i++)
		stalled = exmap_run_is_unwritten(&io->runs[i]);
	if (likely(!stalled))
		return;
	/* A task that finds the transfers stalled sees the results of the requests */
	atomic_set_release(&io->stall, EXMAP_STALLED);
	for (unsigned int i = 0; i < io->nr_pages; i++)
		exmap_flight_wake(io->exmap->pool->group->flights, io->pages[i].flight.slot);
}

/**
 * exmap_io_unstall() - Undo exmap_io_stall().
 * @io: the transfers
 * @wait: wait while another task carries out the writes
 *
 * Context: Process context, may sleep if @wait.
 * Return: true; or, without @wait, false if another task carries out the writes.
 */
bool exmap_io_unstall(struct exmap_io *io, bool wait)
{
	if (atomic_cmpxchg(&io->stall, EXMAP_STALLED, EXMAP_STALL_NONE) == EXMAP_STALLED)
		return true;
	/* Pairs with exmap_io_help() */
	if (likely(atomic_read_acquire(&io->stall) == EXMAP_STALL_NONE))
		return true;
	if (!wait)
		return false;
	wait_var_event(&io->stall, atomic_read_acquire(&io->stall) == EXMAP_STALL_NONE);
	return true;
}

static void exmap_run_complete(struct kiocb *iocb, long res)
{
	struct exmap_run *run = container_of(iocb, struct exmap_run, iocb);
	struct exmap_io *io = run->io;

	if (run->write)
		kiocb_end_write(iocb);
	run->res = exmap_run_result(res);
	run->queued = true;
	if (io->notify)
		exmap_run_land(run);
	if (!atomic_dec_and_test(&io->pending))
		return;
	if (!io->notify) {
		complete(&io->waited);
		return;
	}
	exmap_io_stall(io);
	io->notify(io);
}

/*
 * As vfs_iocb_iter_write(), but does not wait for a frozen file system with
 * IOCB_NOWAIT.
 */
static ssize_t exmap_run_write(struct kiocb *iocb, struct iov_iter *iter)
{
	struct file *file = iocb->ki_filp;
	struct super_block *sb = file_inode(file)->i_sb;
	ssize_t ret;

	if (IS_APPEND(file_inode(file)))
		return -EPERM;
	if (!(iocb->ki_flags & IOCB_NOWAIT))
		return vfs_iocb_iter_write(file, iocb, iter);

	if (!(file->f_mode & FMODE_WRITE))
		return -EBADF;
	if (!file->f_op->write_iter || !(file->f_mode & FMODE_CAN_WRITE))
		return -EINVAL;
	ret = rw_verify_area(WRITE, file, &iocb->ki_pos, iov_iter_count(iter));
	if (ret < 0)
		return ret;
	if (!sb_start_write_trylock(sb))
		return -EAGAIN;
	/* The lock may be dropped by another task, as with kiocb_start_write() */
	__sb_writers_release(sb, SB_FREEZE_WRITE);
	ret = file->f_op->write_iter(iocb, iter);
	if (ret != -EIOCBQUEUED)
		kiocb_end_write(iocb);
	if (ret > 0)
		fsnotify_modify(file);
	return ret;
}

/* What all requests have in common, with IOCB flags for all of them */
static struct kiocb exmap_io_kiocb(const struct exmap *exmap, int flags)
{
	struct file *file = exmap->backing;

	return (struct kiocb) {
		.ki_filp	= file,
		.ki_pos		= exmap->offset,
		/* Each page has its place in the file, also if that is O_APPEND */
		.ki_flags	= (file->f_iocb_flags & ~IOCB_APPEND) | flags,
		.ki_ioprio	= get_current_ioprio(),
	};
}

/* Request what is left of a run. @proto is what all requests have in common. */
static void exmap_run_start(struct exmap_run *run, const struct kiocb *proto)
{
	struct exmap_io *io = run->io;
	struct kiocb *iocb = &run->iocb;
	struct iov_iter iter;
	ssize_t ret;

	iov_iter_bvec(&iter, run->write ? ITER_SOURCE : ITER_DEST,
		      io->bvecs + run->first, run->nr, exmap_run_size(run));
	if (unlikely(run->done))
		iov_iter_advance(&iter, run->done);
	if (run->single)
		iov_iter_truncate(&iter, exmap_run_slot_left(run));
	run->todo = false;
	run->queued = false;
	*iocb = *proto;
	iocb->ki_pos += (run->slot << run->shift) + run->done;
	iocb->ki_flags |= run->flags;
	if (run->write) {
		iocb->ki_flags |= IOCB_WRITE;
		ret = exmap_run_write(iocb, &iter);
	} else {
		ret = vfs_iocb_iter_read(iocb->ki_filp, iocb, &iter);
	}
	if (ret == -EIOCBQUEUED)
		return;
	run->res = exmap_run_result(ret);
	/* A short write stays in flight, because the rest of it is going to be written */
	if (io->notify && (!run->write || run->done + ret == exmap_run_size(run)))
		exmap_run_land(run);
	/* exmap_io_submit() has not dropped its own count yet */
	atomic_dec(&io->pending);
}

/**
 * exmap_io_read_page() - Read a single page and wait for it.
 * @exmap: the exmap, with a backing file
 * @slot: the slot whose place in the file is read
 * @page: the page
 *
 * Context: Process context, may sleep.
 * Return: true if all of the page was read. If not, it is filled with zeroes, and the
 * caller must make the request again through struct exmap_io to learn the error.
 */
bool exmap_io_read_page(const struct exmap *exmap, unsigned long slot, struct page *page)
{
	struct kiocb iocb = exmap_io_kiocb(exmap, 0);
	struct iov_iter iter;
	struct bio_vec bvec;

	bvec_set_page(&bvec, page, PAGE_SIZE, 0);
	iov_iter_bvec(&iter, ITER_DEST, &bvec, 1, PAGE_SIZE);
	iocb.ki_pos += slot << PAGE_SHIFT;
	if (likely(vfs_iocb_iter_read(iocb.ki_filp, &iocb, &iter) == PAGE_SIZE))
		return true;
	/* A request that failed may have left anything in the page */
	clear_highpage(page);
	return false;
}

/* Returns the file of the first request that is to be made, or NULL if there is none */
static const struct file *exmap_io_file(const struct exmap_io *io)
{
	for (unsigned int i = 0; i < io->nr_runs; i++)
		if (io->runs[i].todo)
			return io->runs[i].exmap->backing;
	return NULL;
}

/**
 * exmap_io_submit() - Request everything that is still to be transferred.
 * @io: the transfers, of which none is in flight
 * @flags: IOCB_NOWAIT to leave out requests for which the file would wait, or 0
 *
 * Context: Process context, may sleep.
 * Return: true if no request is in flight. If it is false, io->notify is going to be
 * called, or has been called already, or io->waited is completed.
 */
bool exmap_io_submit(struct exmap_io *io, int flags)
{
	const struct file *file = exmap_io_file(io);
	const struct exmap *exmap = NULL;
	/* For a single request, the file can do the waiting */
	const bool alone = io->nr_runs == 1 && !io->notify && !flags;
	/*
	 * A plug holds requests back until it is finished or the task sleeps, which
	 * is of no use where the file waits for each of them.
	 */
	const bool plugged = io->nr_runs > 1 && file &&
			     (file->f_iocb_flags & IOCB_DIRECT || flags & IOCB_NOWAIT);
	struct blk_plug plug;
	struct kiocb proto;

	if (!io->notify)
		init_completion(&io->waited);
	atomic_set(&io->pending, io->nr_runs + 1);
	if (plugged)
		blk_start_plug(&plug);
	for (unsigned int i = 0; i < io->nr_runs; i++) {
		struct exmap_run *run = &io->runs[i];

		if (!run->todo) {
			atomic_dec(&io->pending);
			continue;
		}
		if (run->exmap != exmap) {
			exmap = run->exmap;
			proto = exmap_io_kiocb(exmap, flags);
			proto.ki_complete = alone ? NULL : exmap_run_complete;
		}
		exmap_run_start(run, &proto);
	}
	if (plugged)
		blk_finish_plug(&plug);
	return atomic_dec_and_test(&io->pending);
}

/*
 * A request has failed, perhaps because of a single sector. Find out which page has
 * it, and go on with the pages of other vectors.
 */
static void exmap_run_failed(struct exmap_run *run, int err)
{
	struct exmap_io_page *pages = run->io->pages + run->first;
	unsigned int i = run->done >> run->shift;
	const u32 vec = pages[i].vec;

	if (!run->single && i + 1 < run->nr) {
		run->single = true;
		return;
	}
	while (i < run->nr && pages[i].vec == vec)
		pages[i++].err = err;
	run->done = (size_t)i << run->shift;
}

/*
 * Without its flight, a page must not be written any more: another one may have been
 * written to its slot since.
 */
static bool exmap_run_write_is_over(struct exmap_run *run)
{
	struct exmap_io_page *pages = run->io->pages + run->first;

	if (!run->write || !pages[0].landed)
		return false;
	if (run->res > 0)
		run->done += run->res;
	for (unsigned int i = run->done >> run->shift; i < run->nr; i++)
		pages[i].err = run->res < 0 ? run->res : -EIO;
	run->done = exmap_run_size(run);
	return true;
}

/* Fill the rest of a run that the file does not reach, if that was asked for */
static void exmap_run_end_of_file(struct exmap_run *run)
{
	struct exmap_io *io = run->io;

	run->res = -ENODATA;
	if (!io->pages[run->first].zero)
		return;
	while (run->done < exmap_run_size(run)) {
		struct page *page = io->bvecs[run->first + (run->done >> run->shift)].bv_page;
		const size_t left = exmap_run_slot_left(run);

		folio_zero_range(page_folio(page), (1UL << run->shift) - left, left);
		run->done += left;
	}
}

/**
 * exmap_io_settle() - Evaluate the results of the requests.
 * @io: the transfers, of which none is in flight
 *
 * Context: Process context, may sleep.
 * Return: true if some requests must be made again, and may have to wait then.
 */
bool exmap_io_settle(struct exmap_io *io)
{
	struct exmap_run *run = io->runs, *end = run + io->nr_runs;
	bool again = false;

	for (; run < end; run++) {
		const size_t size = exmap_run_size(run);

		if (unlikely(run->queued && run->res > 0)) {
			/* The file system does this for what it completes at once */
			if (run->write)
				fsnotify_modify(run->iocb.ki_filp);
			else
				fsnotify_access(run->iocb.ki_filp);
			run->queued = false;
		}
		if (likely(run->res == size)) {
			run->done = size;
			continue;
		}
		if (run->done == size || run->res == -ENODATA || exmap_run_write_is_over(run))
			continue;
		if (!run->res && !run->write) {
			exmap_run_end_of_file(run);
			continue;
		}
		if (run->res > 0) {
			run->done += run->res;
			/*
			 * A direct read that ends inside a sector has reached the end of
			 * the file. Another thread may have moved the end since, but not to
			 * a place where direct I/O could go on.
			 */
			if (!run->write && run->iocb.ki_flags & IOCB_DIRECT &&
			    !IS_ALIGNED(run->done, SECTOR_SIZE)) {
				exmap_run_end_of_file(run);
				continue;
			}
		} else if (run->iocb.ki_flags & IOCB_NOWAIT &&
			   (run->res == -EAGAIN || run->res == -EOPNOTSUPP)) {
			/* Files that never write without waiting return the latter */
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
 * @io: the transfers, without io->notify; none is in flight
 * @nowait: leave out, with -EAGAIN, those that would have to wait for the file
 *
 * Context: Process context, may sleep.
 */
void exmap_io_wait(struct exmap_io *io, bool nowait)
{
	const struct file *file = exmap_io_file(io);
	/* Reads of cached files begin in a first round, and wait in a second one */
	bool first = nowait || (file && !(file->f_iocb_flags & IOCB_DIRECT) &&
				io->nr_runs > 1 && !io->runs[0].write &&
				file->f_mode & FMODE_NOWAIT);

	do {
		if (!exmap_io_submit(io, first ? IOCB_NOWAIT : 0))
			wait_for_completion_io(&io->waited);
		first = false;
	} while (exmap_io_settle(io) && !nowait);
}

/* Write what is left of a run, and wait for it */
static void exmap_run_finish(struct exmap_run *run)
{
	const struct kiocb proto = exmap_io_kiocb(run->exmap, 0);
	const size_t size = exmap_run_size(run);

	/* exmap_io_settle() has counted the bytes of a run that is to be made again */
	if (!run->todo && run->res > 0)
		run->done += run->res;
	while (run->done < size) {
		atomic_inc(&run->io->pending);
		exmap_run_start(run, &proto);
		if (run->res > 0)
			run->done += run->res;
		else
			exmap_run_failed(run, run->res ?: -EIO);
		cond_resched();
	}
	for (unsigned int i = 0; i < run->nr; i++) {
		const unsigned int page = run->first + i;

		exmap_io_land(run->io, &run->io->pages[page], run->io->bvecs[page].bv_page,
			      exmap_io_page_ok(run, i));
	}
}

/**
 * exmap_io_help() - Carry out writes for which there may never be an io_uring worker.
 * @stall: exmap_io::stall, as exmap_flight_wait() returned it
 *
 * Context: Process context, may sleep. The transfers may be gone on return.
 */
void exmap_io_help(atomic_t *stall)
{
	struct exmap_io *io = container_of(stall, struct exmap_io, stall);

	for (unsigned int i = 0; i < io->nr_runs; i++)
		if (exmap_run_is_unwritten(&io->runs[i]))
			exmap_run_finish(&io->runs[i]);
	/* Pairs with exmap_io_unstall() */
	atomic_set_release(stall, EXMAP_STALL_NONE);
	/* Order this before the look for waiters */
	smp_mb();
	wake_up_var(stall);
}
