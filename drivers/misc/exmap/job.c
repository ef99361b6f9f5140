// SPDX-License-Identifier: GPL-2.0-only
/*
 * Jobs: arrays of vectors, each with an opcode of its own
 *
 * A job goes through its vectors in their order: what FREE and ALLOC ask for is
 * done at once, the transfers that READ and WRITE need are collected, and started
 * together when there are no more vectors, or enough is collected. When the
 * transfers are over, the pages that were read are mapped, and the next vectors
 * have their turn.
 */
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>

#include "exmap.h"

/* All slots of a vector from the given one on have failed */
static void exmap_job_fail(struct exmap_job *job, unsigned int i, unsigned int slot,
			   int err)
{
	job->vecs[i].len = min(job->vecs[i].len, slot);
	if (!job->results[i].res) {
		job->results[i].res = err;
		if (!job->failed || i < job->first_failed)
			job->first_failed = i;
		job->failed++;
	}
}

/* Is this slot of a vector behind a failure, and shall therefore be as it was? */
static bool exmap_job_is_behind(const struct exmap_job *job, unsigned int i,
				unsigned long slot)
{
	return unlikely(job->failed) && job->prefix &&
	       (i > job->first_failed || slot - job->vecs[i].page >= job->vecs[i].len);
}

/*
 * ALLOC slot by slot, for those who need to know something of each page. The
 * slots that got one are marked in @fresh, if that is there.
 */
static noinline int exmap_alloc_each(struct exmap_call *call,
				     const struct exmap_vec *vec,
				     unsigned long *fresh, unsigned long *changed)
{
	const unsigned long start = call->exmap->start + (vec->page << PAGE_SHIFT);
	struct vma_batch *vb = &call->vb;
	struct page *zeroed = NULL;

	for (unsigned int i = 0; i < vec->len; ) {
		const unsigned int before = vb->nr;
		struct page *next = before ? vb->pages[before - 1] : NULL;

		/* It stays what is next when the slot has a page */
		if (vec->flags & EXMAP_VEC_ZERO && next && next != zeroed) {
			clear_highpage(next);
			zeroed = next;
		}
		if (!vma_batch_map(vb, start + i * PAGE_SIZE, 1)) {
			int err = exmap_call_resume(call, vec->len - i);

			if (err)
				return err;
			/* Others may have had it meanwhile */
			zeroed = NULL;
			continue;
		}
		if (vb->nr != before) {
			zeroed = NULL;
			++*changed;
			if (fresh)
				__set_bit(i, fresh);
		}
		i++;
	}
	return 0;
}

/* ALLOC for a vector that wants all of its pages, or none */
static noinline int exmap_alloc_all_or_nothing(struct exmap_call *call,
					       const struct exmap_vec *vec,
					       unsigned long *changed)
{
	DECLARE_BITMAP(fresh, EXMAP_VEC_ALL_OR_NOTHING_MAX);
	unsigned long freed;
	unsigned int i;
	int err;

	bitmap_zero(fresh, vec->len);
	err = exmap_alloc_each(call, vec, fresh, changed);
	if (!err)
		return 0;
	if (*changed) {
		exmap_call_set_freeing(call, true);
		for_each_set_bit(i, fresh, vec->len) {
			if (exmap_call_free(call, vec->page + i, 1, &freed))
				break;
			*changed -= freed;
		}
		exmap_call_set_freeing(call, false);
	}
	return err;
}

/* Collect the pages of a READ. Returns false if that has to go on another time. */
static bool exmap_job_read(struct exmap_job *job, struct exmap_call *call,
			   const struct exmap_vec *vec)
{
	const bool replace = vec->flags & EXMAP_VEC_REPLACE;

	while (job->next_slot < vec->len) {
		const unsigned long slot = vec->page + job->next_slot;
		struct exmap_io_page info = {
			.vec = job->next, .zero = vec->flags & EXMAP_VEC_ZERO,
		};
		struct page *page;
		int err;

		if (exmap_io_full(job->io))
			return false;
		err = exmap_call_reserve(call, slot, &page);
		if (!page && !err && replace) {
			if (!exmap_call_hold(call, slot, false, &page))
				continue;
			if (call->vma->vm_flags & VM_WRITE) {
				/* FREE shall leave it alone meanwhile */
				folio_set_owner_2(page_folio(page));
				info.mapped = true;
			} else {
				/* As a read into any memory that is write protected */
				put_page(page);
				err = -EFAULT;
			}
		} else if (page && PageDirty(page)) {
			/* From a former life; it will be what the file has */
			ClearPageDirty(page);
		}
		if (err) {
			exmap_job_fail(job, job->next, job->next_slot, err);
			break;
		}
		if (page)
			exmap_io_add(job->io, slot, page, info, false, 0);
		job->next_slot++;
	}
	return true;
}

/* The same for a WRITE */
static bool exmap_job_write(struct exmap_job *job, struct exmap_call *call,
			    const struct exmap_vec *vec)
{
	const struct exmap_io_page info = { .vec = job->next, .mapped = true };
	const int flags = job->sync | (vec->flags & EXMAP_VEC_DSYNC ? IOCB_DSYNC : 0);
	struct page *page;

	for (; job->next_slot < vec->len; job->next_slot++) {
		const unsigned long slot = vec->page + job->next_slot;

		if (exmap_io_full(job->io))
			return false;
		if (!exmap_call_hold(call, slot, vec->flags & EXMAP_VEC_DIRTY, &page)) {
			exmap_job_fail(job, job->next, job->next_slot, -EFAULT);
			break;
		}
		if (page)
			exmap_io_add(job->io, slot, page, info, true, flags);
	}
	return true;
}

static int exmap_vec_check(const struct exmap_job *job, const struct exmap_vec *vec)
{
	static const u16 flags[] = {
		[EXMAP_OP_READ]	 = EXMAP_VEC_ZERO | EXMAP_VEC_REPLACE,
		[EXMAP_OP_ALLOC] = EXMAP_VEC_ZERO | EXMAP_VEC_ALL_OR_NOTHING,
		[EXMAP_OP_FREE]	 = 0,
		[EXMAP_OP_WRITE] = EXMAP_VEC_DIRTY | EXMAP_VEC_DSYNC,
	};

	if (vec->opcode >= ARRAY_SIZE(flags) || vec->order || vec->node)
		return -EINVAL;
	if (vec->flags & ~flags[vec->opcode] ||
	    (vec->flags & EXMAP_VEC_ALL_OR_NOTHING &&
	     vec->len > EXMAP_VEC_ALL_OR_NOTHING_MAX))
		return -EINVAL;
	if (!vec->len)
		return 0;
	if (!exmap_slots_ok(job->exmap, vec->page, vec->len))
		return -ERANGE;
	if (exmap_opcode_is_io(vec->opcode) && !job->exmap->backing)
		return -ENODEV;
	return fatal_signal_pending(current) ? -EINTR : 0;
}

/* Begin the next vector. Returns false if that has to go on another time. */
static bool exmap_job_vec(struct exmap_job *job, struct exmap_call *call)
{
	const unsigned int i = job->next;
	const struct exmap_vec *vec = &job->vecs[i];
	const bool freeing = vec->opcode == EXMAP_OP_FREE;
	unsigned long done = 0, changed = 0;
	int err;

	if (!job->next_slot) {
		job->results[i] = (struct exmap_result) {};
		err = exmap_vec_check(job, vec);
		if (err) {
			exmap_job_fail(job, i, 0, err);
			return true;
		}
	}
	/* Also where transfers of what was begun of it have failed */
	if (job->next_slot >= vec->len)
		return true;

	if (vec->opcode == EXMAP_OP_WRITE)
		return exmap_job_write(job, call, vec);
	if (call->freeing != freeing)
		exmap_call_set_freeing(call, freeing);
	if (vec->opcode == EXMAP_OP_READ)
		return exmap_job_read(job, call, vec);

	if (freeing)
		err = exmap_call_free(call, vec->page, vec->len, &changed);
	else if (vec->flags & EXMAP_VEC_ALL_OR_NOTHING)
		err = exmap_alloc_all_or_nothing(call, vec, &changed);
	else if (vec->flags)
		err = exmap_alloc_each(call, vec, NULL, &changed);
	else
		err = exmap_call_alloc(call, vec->page, vec->len, &done, &changed);
	job->results[i].pages = changed;
	if (err)
		exmap_job_fail(job, i, done, err);
	return true;
}

/* The region has gone half way through */
static int exmap_job_give_up(struct exmap_job *job, int err)
{
	for (; job->next < job->nr; job->next++) {
		if (!job->next_slot)
			job->results[job->next] = (struct exmap_result) {};
		exmap_job_fail(job, job->next, job->next_slot, err);
		job->next_slot = 0;
	}
	return 0;
}

static bool exmap_job_ends(const struct exmap_job *job)
{
	return job->next == job->nr || (job->failed && job->prefix);
}

/*
 * READs of one slot each come in large numbers. If the last vector was one, and has
 * got a page, go on with those that differ in the slot only, as long as there are
 * pages at hand.
 */
static void exmap_job_read_alike(struct exmap_job *job, struct exmap_call *call)
{
	const struct exmap_vec *const last = &job->vecs[job->next - 1], *vec = last;
	const struct exmap *exmap = job->exmap;
	struct vma_batch *vb = &call->vb;
	struct exmap_io *io = job->io;
	struct exmap_io_page info;
	unsigned int i, end;

	if (!io || !io->nr_pages)
		return;
	info = io->pages[io->nr_pages - 1];
	if (info.vec != job->next - 1 || info.mapped || last->len != 1)
		return;
	end = job->next + min(job->nr - job->next, exmap_io_room(io));
	for (i = job->next; i < end; i++) {
		const unsigned int before = vb->nr;
		struct page *page;

		vec++;
		if (memcmp(&vec->len, &last->len, sizeof(*vec) - offsetof(struct exmap_vec, len)) ||
		    vec->page >= exmap->nr_slots || !before ||
		    !vma_batch_reserve(vb, exmap->start + (vec->page << PAGE_SHIFT)) ||
		    vb->nr == before)
			break;
		page = vb->pages[vb->nr];
		if (PageDirty(page))
			ClearPageDirty(page);
		job->results[i] = (struct exmap_result) {};
		info.vec = i;
		exmap_io_add(io, vec->page, page, info, false, 0);
	}
	job->next = i;
}

/* Do what can be done at once, and collect transfers, of as many vectors as fit */
static int exmap_job_collect(struct exmap_job *job)
{
	struct exmap_call call __uninitialized;
	int err;

	if (job->io) {
		job->io->nr_pages = 0;
		job->io->nr_runs = 0;
		job->io->reserved = false;
	}
	err = exmap_call_begin(&call, job->exmap, job->iface);
	if (err && !job->next && !job->next_slot)
		return err;
	if (err)
		return exmap_job_give_up(job, err);
	while (!exmap_job_ends(job) && exmap_job_vec(job, &call)) {
		job->next++;
		job->next_slot = 0;
		exmap_job_read_alike(job, &call);
	}
	exmap_call_end(&call);
	return 0;
}

/* The file has ended: fill up what was asked to be filled up */
static void exmap_run_zero(struct exmap_io *io, struct exmap_run *run)
{
	if (!io->pages[run->first].zero)
		return;
	while (run->done < run->nr * PAGE_SIZE) {
		const unsigned int i = run->first + (run->done >> PAGE_SHIFT);
		const unsigned int offset = offset_in_page(run->done);

		memzero_page(io->bvecs[i].bv_page, offset, PAGE_SIZE - offset);
		run->done += PAGE_SIZE - offset;
	}
}

/* Was page number @i of a transfer transferred? */
static bool exmap_run_page_ok(const struct exmap_run *run, unsigned int i)
{
	return i < run->done >> PAGE_SHIFT && !run->io->pages[run->first + i].err;
}

/*
 * Map what was read, and tell the vectors. A slot that was filled meanwhile keeps
 * what it has. Pages that are not needed any more stay in io->bvecs: returns how
 * many.
 */
static unsigned int exmap_run_place(struct exmap_job *job, struct exmap_run *run,
				    struct vm_area_struct *vma, struct vma_batch *vb)
{
	struct exmap *exmap = job->exmap;
	struct exmap_io *io = job->io;
	unsigned int left = run->nr;

	for (unsigned int i = 0; i < run->nr; ) {
		const struct exmap_io_page *info = &io->pages[run->first + i];
		struct page **page = &io->bvecs[run->first + i].bv_page;
		const unsigned long slot = run->slot + i;
		const unsigned long addr = exmap->start + (slot << PAGE_SHIFT);
		const u64 epoch = READ_ONCE(exmap->pool.epoch);
		const bool ok = exmap_run_page_ok(run, i) &&
				!exmap_job_is_behind(job, info->vec, slot);
		int err = 0;

		if (likely(ok && !info->mapped && !IS_ERR(vma))) {
			vb->pages = page;
			vb->nr = 1;
			if (likely(vma_batch_map(vb, addr, 1))) {
				if (likely(!vb->nr)) {
					job->results[info->vec].pages++;
					*page = NULL;
					left--;
				}
			} else if (vb->stop == VMA_BATCH_UNFLUSHED) {
				/* The slot lost another page a moment ago */
				vma_batch_end(vb);
				exmap_region_flush(exmap, vma, epoch);
				continue;
			} else {
				err = -ENOMEM;
				vma_batch_unreserve(vb, addr);
			}
		} else if (!ok) {
			err = info->err;
			/* What is neither an error nor the end had to wait */
			if (!err)
				err = run->res == -ENODATA ? -ENODATA : -EAGAIN;
			if (!info->mapped && !IS_ERR(vma))
				vma_batch_unreserve(vb, addr);
		} else if (info->mapped) {
			job->results[info->vec].pages++;
		} else {
			err = PTR_ERR(vma);
		}
		if (unlikely(err))
			exmap_job_fail(job, info->vec,
				       slot - job->vecs[info->vec].page, err);
		i++;
	}
	return left;
}

/*
 * The same for one page, all of which was read, which most are. False if there is
 * more to it than to map the page.
 */
static bool exmap_run_place_one(struct exmap_job *job, struct exmap_run *run,
				struct vma_batch *vb)
{
	const struct exmap_io_page *info = &job->io->pages[run->first];
	struct page **page = &job->io->bvecs[run->first].bv_page;

	if (run->nr != 1 || run->res != PAGE_SIZE || info->mapped || job->failed)
		return false;
	vb->pages = page;
	vb->nr = 1;
	if (!vma_batch_map(vb, job->exmap->start + (run->slot << PAGE_SHIFT), 1) || vb->nr)
		return false;
	job->results[info->vec].pages++;
	*page = NULL;
	return true;
}

/* Let go of the pages of a transfer that are not mapped now because of it */
static void exmap_run_release(struct exmap_job *job, struct exmap_run *run)
{
	struct exmap_pool *pool = &job->exmap->pool;
	struct exmap_io *io = job->io;

	for (unsigned int i = 0; i < run->nr; i++) {
		const struct exmap_io_page *info = &io->pages[run->first + i];
		struct page *page = io->bvecs[run->first + i].bv_page;
		const bool complete = exmap_run_page_ok(run, i);

		if (!page)
			continue;
		if (!info->mapped) {
			/* There may be anything in it, and it may be mapped next */
			if (!complete)
				clear_highpage(page);
			exmap_pool_put(pool, job->iface, &page, 1);
			continue;
		}
		if (run->write && !complete &&
		    job->vecs[info->vec].flags & EXMAP_VEC_DIRTY)
			SetPageDirty(page);
		if (!run->write)
			folio_clear_owner_2(page_folio(page));
		put_page(page);
	}
}

/* The transfers are over */
static void exmap_job_place(struct exmap_job *job)
{
	struct exmap *exmap = job->exmap;
	/* The task that has started a transfer may be gone when it is over */
	const bool foreign = current->mm != exmap->mm;
	struct vm_area_struct *vma = ERR_PTR(-ENXIO);
	struct exmap_io *io = job->io;
	struct exmap_run *run, *const end = io->runs + io->nr_runs;
	unsigned int left = 0;
	struct vma_batch vb;
	bool mmap_locked;

	/* Pages that are mapped stay so, whatever has become of the region */
	if (io->reserved && (!foreign || mmget_not_zero(exmap->mm))) {
		vma = exmap_region_lock(exmap, &mmap_locked);
		if (foreign && IS_ERR(vma))
			mmput_async(exmap->mm);
	}
	if (!IS_ERR(vma)) {
		vma_batch_begin(&vb, vma, NULL, 0, 0);
		vb.flushed = exmap_pool_flushed(&exmap->pool);
		vma_batch_map_clean(&vb);
	}
	for (run = io->runs; run < end; run++) {
		if (!IS_ERR(vma) && exmap_run_place_one(job, run, &vb))
			continue;
		if (run->res == -ENODATA)
			exmap_run_zero(io, run);
		left += exmap_run_place(job, run, vma, &vb);
	}
	if (!IS_ERR(vma)) {
		vma_batch_end(&vb);
		exmap_region_unlock(exmap, vma, mmap_locked);
		if (foreign)
			mmput_async(exmap->mm);
	}
	for (run = io->runs; left && run < end; run++)
		exmap_run_release(job, run);
}

/**
 * exmap_job_prepare() - Make room for transfers, if there may be any.
 * @job: the job, not begun
 * @few: room for a few, to be used if they are no more; or NULL
 *
 * Context: Process context, may sleep.
 * Return: 0, or -ENOMEM.
 */
int exmap_job_prepare(struct exmap_job *job, struct exmap_io_few *few)
{
	unsigned int vecs = 0;
	u64 pages = 0;

	for (unsigned int i = 0; i < job->nr; i++) {
		if (!exmap_opcode_is_io(job->vecs[i].opcode))
			continue;
		vecs++;
		pages += job->vecs[i].len;
	}
	if (!pages || !job->exmap->backing)
		return 0;
	if (few && pages <= EXMAP_IO_FEW) {
		exmap_io_init(&few->io, job->exmap, few->runs, EXMAP_IO_FEW,
			      few->bvecs, few->pages, EXMAP_IO_FEW);
		job->io = &few->io;
		return 0;
	}
	pages = min(pages, EXMAP_IO_PAGES);
	/* The slots of a vector need not all be without a page */
	vecs = min(pages, vecs + pages / 8 + 8);
	job->io = exmap_io_alloc(job->exmap, pages, vecs);
	return job->io ? 0 : -ENOMEM;
}

/**
 * exmap_job_run() - Carry out the vectors of a job.
 * @job: the job
 * @arrived: transfers were in flight, and are over
 *
 * Unless job->io->notify is set, it is complete when this returns. Otherwise it
 * may be that it shall be called again, with @arrived, when that was called.
 *
 * Context: Process context, may sleep.
 *
 * Return: 0 if the job is complete, with the results of all vectors and the
 * number of those that failed in the job; -EIOCBQUEUED if there are transfers in
 * flight: then it may be called again, by somebody else, before it has returned.
 * Or, with nothing done, the error of exmap_region_lock().
 */
int exmap_job_run(struct exmap_job *job, bool arrived)
{
	struct exmap_io *io = job->io;

	for (;;) {
		int err;

		if (arrived) {
			if (io->notify && exmap_io_settle(io)) {
				exmap_io_queue(io);
				return -EIOCBQUEUED;
			}
			exmap_job_place(job);
			if (exmap_job_ends(job))
				return 0;
		}
		err = exmap_job_collect(job);
		if (err)
			return err;
		if (!io || !io->nr_runs)
			return 0;

		if (!io->notify)
			exmap_io_wait(io, job->nowait);
		else if (!exmap_io_submit(io, job->nowait ? IOCB_NOWAIT : 0))
			return -EIOCBQUEUED;
		arrived = true;
	}
}
