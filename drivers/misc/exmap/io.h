/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Transfers between pages and the backing file
 *
 * Transfers that are in flight together form a struct exmap_io. Pages that are
 * neighbours in the region, and so in the file, form a *run*, which is one request to
 * the file: a kiocb with the pages as a bvec, so that nothing is pinned or copied.
 *
 * Requests are made by the task that asks for the transfer, by an io_uring worker of its
 * process, or by another task of its process that would have to wait for them, so that its
 * memory cgroup, resource limits, namespaces, I/O priority and credentials apply.
 */
#ifndef _EXMAP_IO_H
#define _EXMAP_IO_H

#include <linux/atomic.h>
#include <linux/blkdev.h>
#include <linux/bvec.h>
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/types.h>

#include "flight.h"

struct exmap;

/* Pages that one job has in flight at most */
#define EXMAP_IO_PAGES		512

/*
 * Base pages in one run, unless one slot has more. Most devices take no more segments in
 * one request, and split a larger one, which they cannot do without waiting.
 */
#define EXMAP_RUN_PAGES		BLK_MAX_SEGMENTS

/**
 * struct exmap_io_page - a page that is transferred
 * @flight: The slot in flight.
 * @vec: The vector of the job that asked for it.
 * @n: Which of the slots of the vector it is.
 * @err: Why it was not transferred, although exmap_run::done covers it.
 * @dirty: The page was dirty, and is again if it cannot be written.
 * @landed: The flight has ended.
 * @redo: It was not read, and the job has to read it again.
 * @zero: Where the file has ended, the page is filled with zeroes. The same for all
 *	pages of a run.
 */
struct exmap_io_page {
	struct exmap_flight flight;
	u32 vec;
	u16 n;
	s16 err;
	bool dirty;
	bool landed;
	bool redo;
	bool zero;
};

/**
 * struct exmap_run - one request: pages that are neighbours in region and file
 * @iocb: The request.
 * @io: The transfers that it is part of.
 * @exmap: The exmap, whose backing file it is for. A reference is held unless it is
 *	exmap_io::exmap.
 * @first: Index of its first page in @io.
 * @nr: Number of pages.
 * @slot: Slot of the first page.
 * @shift: Size of the pages, which are those of slots, as a power of two.
 * @write: Whether it writes to the file.
 * @flags: IOCB_DSYNC, IOCB_SYNC or 0.
 * @single: A request for all of it has failed. Now it is made page by page.
 * @todo: A request is to be made.
 * @queued: The last request was completed asynchronously.
 * @done: Number of bytes that were transferred or have failed.
 * @res: Result of the last request. If @done does not cover all pages, it says why:
 *	-ENODATA at the end of the file, -EAGAIN if the request would have waited.
 */
struct exmap_run {
	struct kiocb iocb;
	struct exmap_io *io;
	struct exmap *exmap;
	unsigned int first;
	unsigned int nr;
	unsigned long slot;
	u8 shift;
	bool write;
	int flags;
	bool single;
	bool todo;
	bool queued;
	size_t done;
	long res;
};

/**
 * struct exmap_io - transfers that are in flight together
 * @exmap: The exmap on whose file the call is made.
 * @pending: Number of requests in flight, and one while more are being made.
 * @nr_pages: Number of pages in @bvecs and @pages.
 * @max_pages: Capacity of @bvecs and @pages.
 * @nr_runs: Number of runs.
 * @max_runs: Capacity of @runs.
 * @bvecs: The pages, each with a reference.
 * @pages: More about the same pages.
 * @runs: The runs.
 * @stall: An enum exmap_stall. Other than EXMAP_STALL_NONE only with @notify.
 * @notify: Called when @pending drops to 0, in any context. NULL to complete
 *	@waited instead.
 * @owner: For @notify.
 * @allocated: It is memory of its own.
 * @waited: See @notify.
 */
struct exmap_io {
	struct exmap *exmap;
	atomic_t pending;
	unsigned int nr_pages;
	unsigned int max_pages;
	unsigned int nr_runs;
	unsigned int max_runs;
	struct bio_vec *bvecs;
	struct exmap_io_page *pages;
	struct exmap_run *runs;
	atomic_t stall;
	void (*notify)(struct exmap_io *io);
	void *owner;
	bool allocated;
	struct completion waited;
};

/* Pages for which a call has room without memory of its own */
#define EXMAP_IO_FEW	4

/**
 * struct exmap_io_few - room for a few transfers
 * @io: the transfers
 * @runs: for @io
 * @bvecs: for @io
 * @pages: for @io
 */
struct exmap_io_few {
	struct exmap_io io;
	struct exmap_run runs[EXMAP_IO_FEW];
	struct bio_vec bvecs[EXMAP_IO_FEW];
	struct exmap_io_page pages[EXMAP_IO_FEW];
};

struct exmap_io *exmap_io_few_init(struct exmap_io_few *few, struct exmap *exmap);
struct exmap_io *exmap_io_alloc(struct exmap *exmap, unsigned int max_pages,
				unsigned int max_runs);
void exmap_io_free(struct exmap_io *io);
void exmap_io_add(struct exmap_io *io, struct exmap *exmap, struct page *page,
		  unsigned int vec, unsigned int n, unsigned int vec_flags, int flags);
void exmap_run_done(struct exmap_run *run);
void exmap_io_land(struct exmap_io *io, struct exmap_io_page *info, struct page *page,
		   bool ok);
bool exmap_io_read_page(const struct exmap *exmap, unsigned long slot, struct page *page);
bool exmap_io_submit(struct exmap_io *io, int flags);
bool exmap_io_settle(struct exmap_io *io);
void exmap_io_wait(struct exmap_io *io, bool nowait);
void exmap_io_stall(struct exmap_io *io);
bool exmap_io_unstall(struct exmap_io *io, bool wait);
void exmap_io_help(atomic_t *stall);

/**
 * exmap_io_next() - Return the page that exmap_io_add() adds next.
 * @io: the transfers, of which none is in flight
 *
 * Return: the page, whose flight the caller begins; NULL if there is no room.
 */
static inline struct exmap_io_page *exmap_io_next(struct exmap_io *io)
{
	if (unlikely(io->nr_pages == io->max_pages || io->nr_runs == io->max_runs))
		return NULL;
	io->pages[io->nr_pages].flight.stall = &io->stall;
	return &io->pages[io->nr_pages];
}

/**
 * exmap_io_page_ok() - Test whether a page of a run was transferred.
 * @run: the run, not in flight
 * @i: index of the page in the run
 *
 * Return: true if all of the page was transferred.
 */
static inline bool exmap_io_page_ok(const struct exmap_run *run, unsigned int i)
{
	return i < run->done >> run->shift && !run->io->pages[run->first + i].err;
}

#endif /* _EXMAP_IO_H */
