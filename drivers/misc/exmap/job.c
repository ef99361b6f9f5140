// SPDX-License-Identifier: GPL-2.0-only
/*
 * Jobs: arrays of vectors, each with an opcode of its own
 */
#include <linux/cpuset.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>

#include "attach.h"
#include "cursor.h"
#include "job.h"
#include "move.h"
#include "place.h"
#include "quarantine.h"
#include "region.h"
#include "trace.h"

/* A page that was not read by exmap_job_start(), and that exmap_job_run() must read */
#define EXMAP_JOB_REDO		(-EIOCBQUEUED)

/* The round ends before a slot */
#define EXMAP_ROUND_ENDS	1

/* Vectors of one page that are carried out together */
#define EXMAP_JOB_SINGLES	64U

/* Pages that were read and are mapped together */
#define EXMAP_JOB_ARRIVALS	32U

/* Pages that are moved together where there is no memory to do more */
#define EXMAP_JOB_MOVES		8U

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

/* Tests whether a slot lies behind a failure, and must therefore stay as it was */
static bool exmap_job_is_behind(const struct exmap_job *job,
				const struct exmap_io_page *info)
{
	return unlikely(job->failed) && job->prefix &&
	       (info->vec > job->first_failed || info->n >= job->vecs[info->vec].len);
}

/* Select the region of a vector */
static __always_inline int exmap_job_select(const struct exmap_job *job,
					    struct exmap_place *place,
					    const struct exmap_vec *vec)
{
	struct exmap *exmap;

	if (likely(!job->many))
		return 0;
	exmap = exmap_attached(place->at.pool->group, vec->region);
	return exmap ? exmap_place_select(place, exmap) : -ENXIO;
}

/* Check a vector, and select its region */
static int exmap_job_check(const struct exmap_job *job, struct exmap_place *place,
			   const struct exmap_vec *vec)
{
	static const u8 flags[] = {
		[EXMAP_OP_READ]	 = EXMAP_VEC_ZERO | EXMAP_VEC_REPLACE,
		[EXMAP_OP_ALLOC] = EXMAP_VEC_ZERO | EXMAP_VEC_ALL_OR_NOTHING,
		[EXMAP_OP_FREE]	 = 0,
		[EXMAP_OP_WRITE] = EXMAP_VEC_DIRTY | EXMAP_VEC_DSYNC,
		[EXMAP_OP_MOVE]	 = 0,
	};
	int err;

	if (vec->opcode >= ARRAY_SIZE(flags) || (vec->node && vec->opcode != EXMAP_OP_MOVE))
		return -EINVAL;
	if (vec->flags & ~flags[array_index_nospec(vec->opcode, ARRAY_SIZE(flags))] ||
	    (vec->flags & EXMAP_VEC_ALL_OR_NOTHING &&
	     vec->len > EXMAP_VEC_ALL_OR_NOTHING_MAX))
		return -EINVAL;
	err = exmap_job_select(job, place, vec);
	if (err || !vec->len)
		return err;
	if (!exmap_slots_ok(place->at.exmap, vec->page, vec->len))
		return -ERANGE;
	if (exmap_opcode_is_io(vec->opcode) && !place->at.exmap->backing)
		return -ENODEV;
	if (vec->opcode == EXMAP_OP_MOVE) {
		if (vec->node >= nr_node_ids || !node_state(vec->node, N_MEMORY))
			return -ENODEV;
		if (!node_isset(vec->node, cpuset_current_mems_allowed))
			return -EACCES;
	}
	return fatal_signal_pending(current) ? -EINTR : 0;
}

/*
 * ALLOC slot by slot, for flags that concern each page. Slots that got a page are
 * marked in @fresh, unless that is NULL.
 */
static noinline int exmap_alloc_each(struct exmap_place *place,
				     const struct exmap_vec *vec,
				     unsigned long *fresh, unsigned long *changed)
{
	const unsigned long start = exmap_slot_addr(place->at.exmap, vec->page);
	const unsigned long size = exmap_slot_size(place->at.exmap);
	struct vma_batch *vb = &place->at.vb;
	struct page *zeroed = NULL;

	for (unsigned int i = 0; i < vec->len; ) {
		const unsigned int before = vb->nr;
		struct page *next = before ? vb->pages[before - 1] : NULL;

		/* It stays the next page if the slot turns out to have one */
		if (vec->flags & EXMAP_VEC_ZERO && next && next != zeroed) {
			/* Not for so long with a page table locked */
			if (vb->order)
				vma_batch_end(vb);
			folio_zero_range(page_folio(next), 0, size);
			zeroed = next;
		}
		if (!vma_batch_map(vb, start + i * size, 1)) {
			int err = exmap_place_resume(place, vec->len - i);

			if (err)
				return err;
			/* The page may have been used for another slot meanwhile */
			zeroed = NULL;
			continue;
		}
		if (vb->nr != before) {
			trace_exmap_alloc(place->at.pool, start + i * size, 1, 1);
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
static noinline int exmap_alloc_all_or_nothing(struct exmap_place *place,
					       const struct exmap_vec *vec,
					       unsigned long *changed)
{
	DECLARE_BITMAP(fresh, EXMAP_VEC_ALL_OR_NOTHING_MAX);
	unsigned long freed = 0;
	unsigned int i;
	int err;

	bitmap_zero(fresh, vec->len);
	err = exmap_alloc_each(place, vec, fresh, changed);
	if (!err || !*changed)
		return err;
	exmap_place_set_freeing(place, true);
	for_each_set_bit(i, fresh, vec->len)
		exmap_place_unmap(place, vec->page + i, 1, &freed);
	exmap_place_set_freeing(place, false);
	*changed -= min(freed, *changed);
	return err;
}

/*
 * The slot, as exmap_slot_page() returns it, is in another flight. Returns
 * EXMAP_ROUND_ENDS, or -EAGAIN.
 */
static int exmap_job_must_wait(struct exmap_job *job, unsigned long slot,
			       enum exmap_flight_kind kind)
{
	if (job->nowait && !job->io->notify)
		return -EAGAIN;
	job->waiting = true;
	job->wait_slot = slot;
	job->wait_kind = kind;
	return EXMAP_ROUND_ENDS;
}

/* Take a reference to the page of a slot that is going to be overwritten */
static int exmap_job_hold(struct exmap_place *place, unsigned long addr,
			  struct page **page)
{
	if (!vma_batch_hold(&place->at.vb, addr, false, page))
		return -ENOENT;
	if (place->at.vma->vm_flags & VM_WRITE)
		return 0;
	/* As a read into any other memory that is write protected */
	put_page(*page);
	return -EFAULT;
}

/*
 * Collect the page for slot @n of a READ, vector @i, if it is to be read. Returns 0,
 * EXMAP_ROUND_ENDS, or an error.
 */
static __always_inline int __exmap_job_read_slot(struct exmap_job *job,
						 struct exmap_place *place,
						 unsigned int i, unsigned int n)
{
	struct exmap_flights *flights = job->exmap->pool->group->flights;
	const struct exmap_vec *vec = &job->vecs[i];
	const unsigned long slot = exmap_slot_page(place->at.exmap, vec->page + n);
	const unsigned long addr = slot << PAGE_SHIFT;
	struct exmap_io_page *info = exmap_io_next(job->io);
	enum exmap_flight_kind kind;
	struct page *page;
	u8 state;
	int err;

	if (!info)
		return EXMAP_ROUND_ENDS;
	do {
		vma_batch_query(&place->at.vb, addr, 1, &state, false);
		if (state && !(vec->flags & EXMAP_VEC_REPLACE))
			return 0;
		kind = state ? EXMAP_FLIGHT_REREAD : EXMAP_FLIGHT_READ;
		if (unlikely(!exmap_flight_begin(flights, &info->flight, slot, kind)))
			return exmap_job_must_wait(job, slot, kind);
		err = state ? exmap_job_hold(place, addr, &page) :
			      exmap_place_page(place, &page, vec->len - n);
		if (unlikely(err))
			exmap_flight_end(flights, &info->flight);
		/* If the page was taken away meanwhile, look again */
	} while (unlikely(err == -ENOENT));
	if (unlikely(err))
		return err;
	if (!state) {
		job->reading = true;
		/* The flag belongs to the previous content of the page */
		if (unlikely(PageDirty(page)))
			folio_clear_dirty(page_folio(page));
	}
	exmap_io_add(job->io, place->at.exmap, page, i, n, vec->flags, 0);
	return 0;
}

static noinline int exmap_job_read_slot(struct exmap_job *job, struct exmap_place *place,
					unsigned int i, unsigned int n)
{
	return __exmap_job_read_slot(job, place, i, n);
}

/* Collect the pages of a READ. Returns false if the round ends before its last slot. */
static bool exmap_job_read(struct exmap_job *job, struct exmap_place *place,
			   const struct exmap_vec *vec)
{
	for (; job->next_slot < vec->len; job->next_slot++) {
		const int ret = exmap_job_read_slot(job, place, job->next, job->next_slot);

		if (ret == EXMAP_ROUND_ENDS)
			return false;
		if (unlikely(ret)) {
			exmap_job_fail(job, job->next, job->next_slot, ret);
			break;
		}
	}
	return true;
}

/*
 * Collect pages that could not be read at first. Their places in @io are used again, which
 * is possible because there are never more new pages than old ones. Returns false if the
 * round ends before the last of them.
 */
static bool exmap_job_redo(struct exmap_job *job, struct exmap_place *place)
{
	for (; job->redo < job->redo_end; job->redo++) {
		const struct exmap_io_page *info = &job->io->pages[job->redo];
		const unsigned int i = info->vec, n = info->n;
		int ret;

		/* The vector was reduced if another part of it has failed */
		if (!info->redo || n >= job->vecs[i].len)
			continue;
		ret = exmap_job_check(job, place, &job->vecs[i]) ?:
		      exmap_job_read_slot(job, place, i, n);
		if (ret == EXMAP_ROUND_ENDS)
			return false;
		if (unlikely(ret))
			exmap_job_fail(job, i, n, ret);
	}
	return true;
}

/* Collect the pages of a WRITE. Returns as exmap_job_read(). */
static bool exmap_job_write(struct exmap_job *job, struct exmap_place *place,
			    const struct exmap_vec *vec)
{
	const int flags = job->sync | (vec->flags & EXMAP_VEC_DSYNC ? IOCB_DSYNC : 0);
	struct exmap_flights *flights = job->exmap->pool->group->flights;
	const bool dirty = vec->flags & EXMAP_VEC_DIRTY;

	for (; job->next_slot < vec->len; job->next_slot++) {
		const unsigned long slot = exmap_slot_page(place->at.exmap,
							   vec->page + job->next_slot);
		struct exmap_io_page *info = exmap_io_next(job->io);
		struct page *page;
		bool resident;

		if (!info)
			return false;
		if (unlikely(!exmap_flight_begin(flights, &info->flight, slot,
						 EXMAP_FLIGHT_WRITE))) {
			const int ret = exmap_job_must_wait(job, slot, EXMAP_FLIGHT_WRITE);

			if (ret == EXMAP_ROUND_ENDS)
				return false;
			exmap_job_fail(job, job->next, job->next_slot, ret);
			break;
		}
		/*
		 * The flight begins before the page is marked clean, so that the page is
		 * clean to nobody before its content is in the file.
		 */
		resident = vma_batch_hold(&place->at.vb, slot << PAGE_SHIFT, dirty, &page);
		if (page) {
			exmap_io_add(job->io, place->at.exmap, page, job->next,
				     job->next_slot, vec->flags, flags);
			continue;
		}
		exmap_flight_end(flights, &info->flight);
		if (!resident) {
			exmap_job_fail(job, job->next, job->next_slot, -EFAULT);
			break;
		}
	}
	return true;
}

/* Begin the next vector. Returns false if the round ends before its last slot. */
static bool exmap_job_vec(struct exmap_job *job, struct exmap_place *place)
{
	const unsigned int i = job->next;
	struct exmap_vec *vec = &job->vecs[i];
	const bool freeing = vec->opcode == EXMAP_OP_FREE;
	unsigned long done = 0, changed = 0;
	int err;

	if (!job->next_slot)
		job->results[i] = (struct exmap_result) {};
	/* Since the last round, the number may have been given to another region */
	err = exmap_job_check(job, place, vec);
	if (err) {
		exmap_job_fail(job, i, job->next_slot, err);
		return true;
	}
	/* The vector was reduced if a transfer of an earlier round has failed */
	if (job->next_slot >= vec->len)
		return true;

	if (vec->opcode == EXMAP_OP_WRITE)
		return exmap_job_write(job, place, vec);
	if (place->freeing != freeing)
		exmap_place_set_freeing(place, freeing);
	if (vec->opcode == EXMAP_OP_READ)
		return exmap_job_read(job, place, vec);

	if (freeing)
		err = exmap_place_free(place, vec->page, vec->len, &changed);
	else if (vec->flags & EXMAP_VEC_ALL_OR_NOTHING)
		err = exmap_alloc_all_or_nothing(place, vec, &changed);
	else if (vec->flags)
		err = exmap_alloc_each(place, vec, NULL, &changed);
	else
		err = exmap_place_alloc(place, vec->page, vec->len, &done, &changed);
	job->results[i].pages = changed;
	if (err)
		exmap_job_fail(job, i, done, err);
	return true;
}

/*
 * Returns the exmap of a region whose pages can be mapped or unmapped together with those
 * of the region that is selected. The caller tests that it has the right number. Returns
 * NULL if the region must be selected itself.
 */
static __always_inline struct exmap *exmap_job_other(struct exmap_place *place, u16 region,
						     bool freeing)
{
	const struct exmap_pool *pool = place->at.pool;
	const struct exmap_group *group = pool->group;
	struct exmap *exmap = group->regions[array_index_nospec(region, group->nr_regions)];
	struct vm_area_struct *vma = exmap ? exmap_region_vma(exmap) : NULL;

	if (unlikely(!vma || exmap->pool != pool))
		return NULL;
	if (freeing ? place->at.vb.free_tables :
		      pgprot_val(vma->vm_page_prot) != pgprot_val(place->at.vma->vm_page_prot))
		return NULL;
	return exmap;
}

/*
 * Carry out the next vectors together, as far as they ALLOC or FREE one page each and
 * nothing is special about them. Returns whether there were some.
 */
static noinline bool exmap_job_singles(struct exmap_job *job, struct exmap_place *place)
{
	const struct exmap_vec *vecs = job->vecs + job->next;
	const unsigned int max = min(job->nr - job->next, EXMAP_JOB_SINGLES);
	const u8 opcode = vecs->opcode;
	const bool freeing = opcode == EXMAP_OP_FREE, many = job->many;
	struct exmap_flights *flights = freeing ? place->at.exmap->flights : NULL;
	struct exmap_result *results = job->results + job->next;
	const struct exmap *exmap = place->at.exmap;
	unsigned long start = exmap->start, nr_slots = exmap->nr_slots;
	const unsigned int shift = exmap_slot_shift(exmap);
	unsigned long addrs[EXMAP_JOB_SINGLES] __uninitialized;
	unsigned int nr, done, changed;

	for (nr = 0; nr < max; nr++) {
		const u64 slot = vecs[nr].page;

		if (many) {
			exmap = exmap_job_other(place, vecs[nr].region, freeing);
			if (unlikely(!exmap))
				break;
			start = exmap->start;
			nr_slots = exmap->nr_slots;
			flights = freeing ? exmap->flights : NULL;
		}
		if (unlikely(slot >= nr_slots ||
			     !exmap_vec_word_is(exmap_vec_word(&vecs[nr]), exmap, opcode) ||
			     exmap_flight_may_be_busy(flights,
						      (start + (slot << shift)) >> PAGE_SHIFT)))
			break;
		addrs[nr] = start + (slot << shift);
	}
	if (!nr || fatal_signal_pending(current))
		return false;
	if (place->freeing != freeing)
		exmap_place_set_freeing(place, freeing);
	place->at.vb.no_tables = many;
	done = exmap_place_each(place, addrs, nr, &changed);
	place->at.vb.no_tables = false;
	if (likely(changed == done))
		memset64((u64 *)results, exmap_result_plain(), done);
	for (unsigned int i = 0; unlikely(changed != done) && i < done; i++)
		results[i] = (struct exmap_result) { .pages = addrs[i] != VMA_BATCH_NOWHERE };
	job->next += done;
	return done;
}

/*
 * Collect the pages of the next vectors, as far as they READ one page each and nothing is
 * special about them. Returns whether there were some.
 */
static noinline bool exmap_job_reads(struct exmap_job *job, struct exmap_place *place)
{
	const struct exmap_vec *vec = job->vecs + job->next;
	const unsigned int first = job->next;
	unsigned long nr_slots;
	u64 like;

	if (vec->len != 1 || exmap_job_check(job, place, vec))
		return false;
	like = exmap_vec_word(vec);
	nr_slots = place->at.exmap->nr_slots;
	if (place->freeing)
		exmap_place_set_freeing(place, false);
	for (; job->next < job->nr; job->next++, vec++) {
		if (unlikely(vec->page >= nr_slots || exmap_vec_word(vec) != like))
			break;
		job->results[job->next] = (struct exmap_result) {};
		if (unlikely(__exmap_job_read_slot(job, place, job->next, 0))) {
			/* exmap_job_vec() tries again, possibly with another outcome */
			job->waiting = false;
			break;
		}
	}
	return job->next != first;
}

/*
 * Carry out the next vectors that MOVE pages of one region to the same node, as far as one
 * TLB flush serves them.
 */
static noinline bool exmap_job_moves(struct exmap_job *job, struct exmap_place *place)
{
	struct exmap_moving few[EXMAP_JOB_MOVES], *moves = few;
	const u16 node = job->vecs[job->next].node;
	unsigned int max = 0, nr = 0;
	u16 region = 0;

	for (unsigned int i = job->next; i < job->nr && max < EXMAP_MOVE_PAGES; i++)
		max += job->vecs[i].opcode == EXMAP_OP_MOVE ? job->vecs[i].len : 0;
	max = min(max, exmap_move_max(place->at.exmap->order));
	if (place->freeing)
		exmap_place_set_freeing(place, false);
	vma_batch_end(&place->at.vb);
	if (max > ARRAY_SIZE(few))
		moves = kvmalloc_objs(*moves, max, EXMAP_GFP) ?: few;
	if (moves == few)
		max = ARRAY_SIZE(few);

	for (; job->next < job->nr; job->next++, job->next_slot = 0) {
		struct exmap_vec *vec = &job->vecs[job->next];
		int err;

		if (vec->opcode != EXMAP_OP_MOVE || vec->node != node ||
		    (nr && vec->region != region))
			break;
		if (!job->next_slot)
			job->results[job->next] = (struct exmap_result) {};
		err = exmap_job_check(job, place, vec);
		if (err) {
			exmap_job_fail(job, job->next, job->next_slot, err);
			continue;
		}
		region = vec->region;
		max = min(max, exmap_move_max(place->at.exmap->order));
		for (; job->next_slot < vec->len && nr < max; job->next_slot++, nr++) {
			moves[nr].addr = exmap_slot_addr(place->at.exmap,
							 vec->page + job->next_slot);
			moves[nr].vec = job->next;
		}
		if (job->next_slot < vec->len)
			break;
	}
	if (nr)
		exmap_move(place, moves, nr, array_index_nospec(node, nr_node_ids));
	for (unsigned int i = 0; i < nr; i++) {
		const unsigned int vec = moves[i].vec;

		if (moves[i].err)
			exmap_job_fail(job, vec, job->vecs[vec].len, moves[i].err);
		else if (moves[i].moved)
			job->results[vec].pages++;
	}
	if (moves != few)
		kvfree(moves);
	return true;
}

/* Carry out the next vectors together, if they are of a frequent kind */
static __always_inline bool exmap_job_together(struct exmap_job *job,
					       struct exmap_place *place)
{
	const u8 opcode = job->vecs[job->next].opcode;

	if (opcode == EXMAP_OP_MOVE)
		return exmap_job_moves(job, place);
	if (job->next_slot)
		return false;
	if (opcode == EXMAP_OP_ALLOC || opcode == EXMAP_OP_FREE)
		return exmap_job_singles(job, place);
	return opcode == EXMAP_OP_READ && exmap_job_reads(job, place);
}

/* Fail a page that could not be read at first, and cannot be read now */
static void exmap_job_fail_redo(struct exmap_job *job, int err)
{
	const struct exmap_io_page *info = &job->io->pages[job->redo++];

	if (info->redo)
		exmap_job_fail(job, info->vec, info->n, err);
}

/* Fail everything that has not been done */
static void exmap_job_give_up(struct exmap_job *job, int err)
{
	while (job->redo < job->redo_end)
		exmap_job_fail_redo(job, err);
	for (; job->next < job->nr; job->next++, job->next_slot = 0) {
		if (!job->next_slot)
			job->results[job->next] = (struct exmap_result) {};
		exmap_job_fail(job, job->next, job->next_slot, err);
	}
}

/* Go on with the next vector */
static void exmap_job_advance(struct exmap_job *job)
{
	job->next++;
	job->next_slot = 0;
}

/* Fail the slot before which the round has ended, because it cannot be waited for */
static void exmap_job_fail_waiting(struct exmap_job *job, int err)
{
	if (job->redo < job->redo_end) {
		exmap_job_fail_redo(job, err);
		return;
	}
	exmap_job_fail(job, job->next, job->next_slot, err);
	exmap_job_advance(job);
}

static bool exmap_job_ends(const struct exmap_job *job)
{
	return (job->next == job->nr && job->redo == job->redo_end) ||
	       (job->failed && job->prefix);
}

/*
 * Begin a round: do what can be done at once, and collect transfers, for as many
 * vectors as fit. Returns an error only if nothing at all has been done.
 */
static int exmap_job_collect(struct exmap_job *job)
{
	struct exmap_place place __uninitialized;
	int err;

	if (job->io) {
		job->io->nr_pages = 0;
		job->io->nr_runs = 0;
	}
	job->reading = false;
	job->waiting = false;
	err = exmap_place_begin(&place, job->exmap, job->iface, job->many);
	if (err && !job->next && !job->next_slot && !job->redo_end)
		return err;
	if (err) {
		exmap_job_give_up(job, err);
		return 0;
	}
	if (exmap_job_redo(job, &place)) {
		while (!exmap_job_ends(job)) {
			if (exmap_job_together(job, &place))
				continue;
			if (!exmap_job_vec(job, &place))
				break;
			exmap_job_advance(job);
		}
	}
	exmap_place_end(&place);
	job->flying = job->io && job->io->nr_runs;
	return 0;
}

/* Returns why a page was not transferred */
static int exmap_job_error(const struct exmap_job *job, const struct exmap_run *run,
			   const struct exmap_io_page *info)
{
	if (info->err)
		return info->err;
	if (job->io->notify && run->todo)
		return EXMAP_JOB_REDO;
	return run->res == -ENODATA ? -ENODATA : -EAGAIN;
}

/*
 * End the flight of a page, and report it. A page that was read for a slot and not mapped
 * stays in io->bvecs: returns the number of such pages.
 */
static unsigned int exmap_job_finish(struct exmap_job *job, unsigned int i, int err)
{
	struct exmap_io_page *info = &job->io->pages[i];
	struct page **page = &job->io->bvecs[i].bv_page;

	exmap_io_land(job->io, info, *page, !err);
	if (info->flight.kind != EXMAP_FLIGHT_READ) {
		put_page(*page);
		*page = NULL;
	} else if (unlikely(err)) {
		/* A request that failed may have left anything in the page */
		folio_zero_range(page_folio(*page), 0, page_size(*page));
	}
	if (unlikely(err == EXMAP_JOB_REDO))
		info->redo = true;
	else if (unlikely(err))
		exmap_job_fail(job, info->vec, info->n, err);
	return *page ? 1 : 0;
}

/**
 * struct exmap_arrivals - pages that were read and are going to be mapped together
 * @nr: number of pages
 * @index: where they are in io->pages
 * @addrs: the addresses of their slots
 * @pages: the pages; vma_batch_map_each() takes the last one first
 */
struct exmap_arrivals {
	unsigned int nr;
	unsigned int index[EXMAP_JOB_ARRIVALS];
	unsigned long addrs[EXMAP_JOB_ARRIVALS];
	struct page *pages[EXMAP_JOB_ARRIVALS];
};

static void exmap_job_add_arrival(struct exmap_job *job, struct exmap_arrivals *arrivals,
				  unsigned int i)
{
	const unsigned int nr = arrivals->nr++;

	arrivals->index[nr] = i;
	arrivals->addrs[nr] = job->io->pages[i].flight.slot << PAGE_SHIFT;
	arrivals->pages[EXMAP_JOB_ARRIVALS - 1 - nr] = job->io->bvecs[i].bv_page;
}

/* Report a page that vma_batch_map_each() was asked to map at @addr */
static unsigned int exmap_job_mapped(struct exmap_job *job, unsigned int i,
				     unsigned long addr)
{
	/* A slot that got another page meanwhile keeps that one */
	if (likely(addr != VMA_BATCH_NOWHERE)) {
		job->results[job->io->pages[i].vec].pages++;
		job->io->bvecs[i].bv_page = NULL;
	}
	return exmap_job_finish(job, i, 0);
}

/*
 * Map pages that were read for the region that is selected. Returns the number of those
 * that were not mapped.
 */
static unsigned int exmap_job_map(struct exmap_job *job, struct exmap_arrivals *arrivals,
				  struct exmap_cursor *cursor)
{
	struct vma_batch *vb = &cursor->vb;
	const unsigned int nr = arrivals->nr;
	unsigned int i = 0, end, left = 0;

	vb->pages = arrivals->pages + EXMAP_JOB_ARRIVALS - nr;
	while (i < nr) {
		const u64 generation = READ_ONCE(cursor->pool->group->generation);

		vb->nr = nr - i;
		end = i + vma_batch_map_each(vb, arrivals->addrs + i, nr - i);
		for (; i < end; i++)
			left += exmap_job_mapped(job, arrivals->index[i], arrivals->addrs[i]);
		if (likely(i == nr))
			break;
		if (vb->stop == VMA_BATCH_UNFLUSHED) {
			/* The slot has lost another page a moment ago */
			vma_batch_end(vb);
			exmap_region_flush(cursor->pool->group, generation);
			continue;
		}
		left += exmap_job_finish(job, arrivals->index[i++], exmap_cursor_error(cursor));
		/* In a job that stops at its first failure, nothing behind it is mapped */
		for (; job->prefix && i < nr; i++)
			left += exmap_job_finish(job, arrivals->index[i], 0);
	}
	arrivals->nr = 0;
	return left;
}

/* Give the pool of a run the pages back that were read and not mapped */
static void exmap_job_put_run(struct exmap_job *job, const struct exmap_run *run)
{
	struct exmap_pool *pool = run->exmap->pool;
	const unsigned int n = job->iface - job->exmap->pool->interfaces;

	for (unsigned int i = run->first; i < run->first + run->nr; i++) {
		struct page **page = &job->io->bvecs[i].bv_page;

		if (!*page || job->io->pages[i].flight.kind != EXMAP_FLIGHT_READ)
			continue;
		exmap_pool_put(pool, &pool->interfaces[n], page, 1);
		*page = NULL;
	}
}

/*
 * Evaluate a run. No page can be mapped if @unmappable, an error, is set. Returns as
 * exmap_job_finish().
 */
static unsigned int exmap_job_place_run(struct exmap_job *job, struct exmap_run *run,
					struct exmap_arrivals *arrivals,
					struct exmap_cursor *cursor, int unmappable)
{
	const unsigned long addr = exmap_slot_addr(run->exmap, run->slot);
	unsigned int left = 0;

	if (run->write && run->nr)
		trace_exmap_write(run->exmap->pool, addr, run->nr, run->done, run->res);
	else if (run->nr)
		trace_exmap_read(run->exmap->pool, addr, run->nr, run->done, run->res);
	if (job->many && !unmappable) {
		left += exmap_job_map(job, arrivals, cursor);
		unmappable = exmap_cursor_select(cursor, run->exmap);
	}
	for (unsigned int i = run->first; i < run->first + run->nr; i++) {
		const struct exmap_io_page *info = &job->io->pages[i];
		int err = 0;

		if (unlikely(!exmap_io_page_ok(run, i - run->first))) {
			err = exmap_job_error(job, run, info);
		} else if (exmap_job_is_behind(job, info)) {
			;
		} else if (info->flight.kind != EXMAP_FLIGHT_READ) {
			job->results[info->vec].pages++;
		} else if (unmappable) {
			err = unmappable;
		} else {
			exmap_job_add_arrival(job, arrivals, i);
			if (arrivals->nr == EXMAP_JOB_ARRIVALS)
				left += exmap_job_map(job, arrivals, cursor);
			continue;
		}
		/* The first error of a vector counts */
		if (unlikely(err) && arrivals->nr)
			left += exmap_job_map(job, arrivals, cursor);
		left += exmap_job_finish(job, i, err);
	}
	return left;
}

/*
 * End a round: map what was read, and report what has become of the transfers. If the
 * job was begun by exmap_job_start(), writes that would have had to wait are left over.
 * Their pages may have been freed meanwhile, so they stay in flight.
 */
static void exmap_job_place(struct exmap_job *job)
{
	struct exmap_arrivals arrivals __uninitialized;
	struct exmap_cursor cursor __uninitialized;
	struct exmap *exmap = job->exmap;
	struct exmap_io *io = job->io;
	unsigned int left = 0;
	int err = -ENXIO;

	/* If the task that began the transfer is gone, its reads are of no use */
	if (job->reading && current->mm == exmap->mm)
		err = exmap_cursor_lock(&cursor, exmap, job->many);
	if (!err) {
		exmap_cursor_begin(&cursor, exmap, cursor.vma);
		cursor.vb.clean = true;
		cursor.vb.paired = true;
	}
	arrivals.nr = 0;
	job->flying = false;
	for (unsigned int i = 0; i < io->nr_runs; i++) {
		if (io->notify && io->runs[i].write && io->runs[i].todo) {
			job->flying = true;
			continue;
		}
		left += exmap_job_place_run(job, &io->runs[i], &arrivals, &cursor, err);
	}
	if (!err) {
		left += exmap_job_map(job, &arrivals, &cursor);
		vma_batch_end(&cursor.vb);
		exmap_cursor_count(&cursor);
		exmap_cursor_unlock(&cursor);
	}
	/* Without a lock, because a run may have the last reference to an exmap */
	for (unsigned int i = 0; i < io->nr_runs; i++) {
		if (io->notify && io->runs[i].write && io->runs[i].todo)
			continue;
		if (unlikely(left))
			exmap_job_put_run(job, &io->runs[i]);
		exmap_run_done(&io->runs[i]);
	}
}

/**
 * exmap_job_prepare() - Look which regions there are, and make room for transfers.
 * @job: the job, not begun
 * @few: room for a few transfers, used if it is enough, or all there is
 *
 * Context: Process context, may sleep.
 */
void exmap_job_prepare(struct exmap_job *job, struct exmap_io_few *few)
{
	const u32 region = job->exmap->number;
	unsigned int vecs = 0;
	u64 pages = 0;
	u32 others = 0;

	for (unsigned int i = 0; i < job->nr; i++) {
		others |= job->vecs[i].region ^ region;
		if (!exmap_opcode_is_io(job->vecs[i].opcode))
			continue;
		vecs++;
		pages += job->vecs[i].len;
	}
	job->many = others;
	if (!pages || !(job->many || job->exmap->backing))
		return;
	if (pages <= EXMAP_IO_FEW) {
		job->io = exmap_io_few_init(few, job->exmap);
		return;
	}
	pages = min(pages, EXMAP_IO_PAGES);
	/* Slots of a vector that have a page already separate runs, and so does their size */
	vecs = min(pages, vecs + pages / clamp(EXMAP_RUN_PAGES >> job->exmap->order, 1, 8) + 8);
	job->io = exmap_io_alloc(job->exmap, pages, vecs);
	/*
	 * With little room, there are more rounds: no reason for not doing a FREE. In a
	 * memory cgroup at its limit, the pages for a READ may be waiting for a flush.
	 */
	if (!job->io)
		job->io = exmap_io_few_init(few, job->exmap);
}

/* Wait for the flight before which the round has ended */
static int exmap_job_wait(const struct exmap_job *job)
{
	atomic_t *stall = NULL;
	int err = exmap_flight_wait(job->exmap->pool->group->flights, job->wait_slot,
				    job->wait_kind, &stall);

	if (stall)
		exmap_io_help(stall);
	return err;
}

/**
 * exmap_job_run() - Carry out a job.
 * @job: the job, prepared, without job->io->notify; it may have been begun with
 *	exmap_job_start()
 *
 * Context: Process context, may sleep.
 *
 * Return: 0 if the job is complete, with the results of all vectors and the number
 * of those that failed in @job. Or, with nothing done, the error of
 * exmap_region_lock().
 */
int exmap_job_run(struct exmap_job *job)
{
	int err;

	for (;;) {
		if (!job->flying) {
			err = exmap_job_collect(job);
			if (err)
				return err;
		}
		err = 0;
		if (job->flying) {
			exmap_io_wait(job->io, job->nowait);
			exmap_job_place(job);
		} else if (job->waiting && !exmap_job_ends(job)) {
			err = exmap_job_wait(job);
		}
		if (err)
			exmap_job_fail_waiting(job, err);
		if (!exmap_job_ends(job) && fatal_signal_pending(current))
			exmap_job_give_up(job, -EINTR);
		if (exmap_job_ends(job))
			return 0;
		cond_resched();
	}
}

/**
 * exmap_job_start() - Begin a job without waiting for its transfers.
 * @job: the job, prepared, with job->io->notify unless there are no transfers
 *
 * Context: Process context, may sleep, but does not wait for the backing file.
 *
 * Return: as exmap_job_run(). -EIOCBQUEUED if transfers are in flight: when
 * job->io->notify is called, which may be at once, it is the turn of
 * exmap_job_arrived(). -EAGAIN if the job must be ended with exmap_job_run() by a
 * task that can wait.
 */
int exmap_job_start(struct exmap_job *job)
{
	int err = exmap_job_collect(job);

	if (err)
		return err;
	if (!job->flying)
		return exmap_job_ends(job) ? 0 : -EAGAIN;
	if (!exmap_io_submit(job->io, IOCB_NOWAIT))
		return -EIOCBQUEUED;
	return exmap_job_arrived(job);
}

/**
 * exmap_job_arrived() - Go on with a job when its transfers are complete.
 * @job: the job, begun with exmap_job_start()
 *
 * Pages of a read that was short, has failed in a part that may belong to another vector,
 * or would have had to wait are left for exmap_job_run(), and so are those of writes that
 * would have had to wait.
 *
 * Context: Process context of the task that began the job, may sleep, but does not
 * wait for the backing file.
 * Return: 0 if the job is complete, or -EAGAIN as exmap_job_start().
 */
int exmap_job_arrived(struct exmap_job *job)
{
	const bool again = exmap_io_settle(job->io);

	exmap_job_place(job);
	if (again)
		job->redo_end = job->io->nr_pages;
	if (job->flying) {
		exmap_io_stall(job->io);
		return -EAGAIN;
	}
	return exmap_job_ends(job) ? 0 : -EAGAIN;
}

/**
 * exmap_job_cancel() - End a job whose transfers are complete, and do no more of it.
 * @job: the job, begun with exmap_job_start() or not at all
 *
 * Context: Process context, may sleep; the task that began the job may be gone.
 */
void exmap_job_cancel(struct exmap_job *job)
{
	if (!job->flying)
		return;
	exmap_io_unstall(job->io, true);
	job->io->notify = NULL;
	exmap_io_settle(job->io);
	exmap_job_place(job);
}
