/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * exmap: explicit page placement for database buffer managers
 *
 * An exmap is a region, a pool and some interfaces:
 *
 * The *region* is one VMA. Its page-sized slots are empty unless the program
 * asks for a page; region.c knows the VMA, who may use it, and how to lock it.
 *
 * The *pool* owns up to buffer_size pages of memory. A page is mapped in a slot,
 * or free in a bundle, or in the hands of a call; or it is *parked*, that is
 * out of its slot but still held by somebody else, such as direct I/O.
 *
 * An *interface* is what a thread talks to: a page of vectors that it shares
 * with the program, and a share of the pool's free pages, so that threads with
 * interfaces of their own do not meet.
 *
 * With *deferred* flushes, a FREE does not wait for the TLB shootdown: its pages
 * wait in *quarantine*, at the interface, and the slots that they came from are
 * not used again, until one shootdown frees the pages of all interfaces. It is
 * numbers that tell: FREE stamps pages and slots with exmap_pool::epoch, a
 * flush raises that, lets every FREE that may have seen the old number end, does
 * the shootdown, and moves exmap_pool::flushed up.
 *
 * Page references: the pool holds one on every page it owns. A second one
 * travels with the page: it is the page table entry's while the page is mapped
 * and belongs to whoever has the page otherwise, a bundle or a call. So a page
 * whose count is 2 is held by nobody else, and a page whose count has fallen to
 * 1 was unmapped behind our back (MADV_DONTNEED) or was parked and is no more.
 *
 * Locks, in this order (Documentation/driver-api/exmap.rst says more): mmap_lock
 * or VMA lock, exmap::lock, that of the list of pools, exmap_pool::flush_lock,
 * exmap_interface::lock (never two of them), exmap_pool::lock or
 * exmap_node::lock. The VMA lock is held while pages go into the region or come
 * out of it, which keeps exmap_pool_close() away; transfers from and to the
 * backing file hold none of them.
 */
#ifndef _EXMAP_H
#define _EXMAP_H

#include <linux/atomic.h>
#include <linux/bio.h>
#include <linux/bvec.h>
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mm_types.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/uio.h>
#include <linux/vma_batch.h>
#include <linux/workqueue.h>
#include <uapi/linux/exmap.h>

struct io_uring_cmd;
struct mm_struct;
struct user_struct;
struct vm_area_desc;
struct vm_area_struct;

#define EXMAP_MAX_INTERFACES	65536

/* Free pages that one bundle holds; also what a FREE collects for one flush */
#define EXMAP_BUNDLE_PAGES	512

/**
 * struct exmap_bundle - a stack of free pages
 * @list: entry of exmap_node::full or exmap_interface::quarantine
 * @nr: number of pages
 * @epoch: in quarantine: the newest epoch that one of the pages was freed in
 * @pages: the pages, room for EXMAP_BUNDLE_PAGES
 */
struct exmap_bundle {
	struct list_head list;
	unsigned int nr;
	u64 epoch;
	struct page *pages[EXMAP_BUNDLE_PAGES];
};

/**
 * struct exmap_interface - what a thread talks to
 * @lock: protects all fields, but not what is in @vectors
 * @local: free pages for the next allocation, or NULL before the first use
 * @backup: more of them, or empty, or NULL: who allocates and frees about a
 *	bundle in turns stays between these two
 * @spare: an empty bundle, or NULL: where the next FREE collects pages
 * @quarantine: bundles of pages that wait for a flush, the oldest first
 * @vectors: the page of vectors that is shared with the program, or NULL
 *	before it is first needed; set once
 *
 * The bundles are the pool's, the vectors interface.c's.
 */
struct exmap_interface {
	struct mutex lock;	/* all fields */
	struct exmap_bundle *local;
	struct exmap_bundle *backup;
	struct exmap_bundle *spare;
	struct list_head quarantine;
	struct exmap_iov *vectors;
} ____cacheline_aligned_in_smp;

/**
 * struct exmap_node - free pages of nobody in particular, by NUMA node
 * @lock: protects the following
 * @full: full bundles that were put there by a CPU of the node
 * @nr_full: how many
 */
struct exmap_node {
	spinlock_t lock;	/* full, nr_full */
	struct list_head full;
	unsigned int nr_full;
} ____cacheline_aligned_in_smp;

/**
 * struct exmap_pool - the pages of one exmap
 * @limit: pages that the pool may own; only exmap_pool_resize() changes it
 * @interfaces: array of the interfaces, with their free pages
 * @nodes: bundles that no interface has, an array by node
 * @nr_interfaces: length of @interfaces
 * @deferred: pages that were freed go through quarantine; does not change
 * @quarantine: pages in quarantine at which a FREE flushes, or 0 for a part of
 *	@limit
 * @epoch: with @deferred: the number that frees are stamped with
 * @flushed: all frees up to this epoch are flushed; it is @epoch - 1, or
 *	@epoch - 2 during a flush
 * @flush_lock: held for a flush; changes @epoch and @flushed
 * @unflushed: pages that were freed since the last flush began
 * @nr_pages: pages that the pool owns now
 * @lock: protects the following
 * @owned: all pages of the pool but the parked ones, through page->lru
 * @parked: pages that were taken out while somebody held them, through
 *	page->lru
 * @nr_parked: length of @parked
 * @closed: the pool owns no pages any more and never will again
 * @searching: searches through all of the pool that are under way
 * @moves: counts, while there are any, the times that free pages appeared or
 *	changed their place, so that a search can tell that it may have missed some
 * @transit: calls that have pages on the way from somewhere into a bundle
 * @all: entry of the list of all pools, for the shrinker
 * @shrink_next: the interface where that goes on
 */
struct exmap_pool {
	unsigned long limit;

	/* Set once */
	struct exmap_interface *interfaces;
	struct exmap_node *nodes;
	unsigned int nr_interfaces;
	bool deferred;
	unsigned long quarantine;

	/* Read by every call, written by flushes */
	u64 epoch ____cacheline_aligned_in_smp;
	u64 flushed;
	struct mutex flush_lock;	/* epoch, flushed */

	atomic_long_t unflushed ____cacheline_aligned_in_smp;

	atomic_long_t nr_pages ____cacheline_aligned_in_smp;
	spinlock_t lock;	/* all that follows */
	struct list_head owned;
	struct list_head parked;
	unsigned long nr_parked;
	bool closed;

	atomic_t searching ____cacheline_aligned_in_smp;
	atomic_long_t moves;
	atomic_t transit;

	struct list_head all;
	unsigned int shrink_next;
};

/**
 * enum exmap_state - what has happened to the region
 * @EXMAP_UNMAPPED: no mmap yet
 * @EXMAP_MAPPED: the region is there
 * @EXMAP_GONE: the region was unmapped; there will not be another
 */
enum exmap_state {
	EXMAP_UNMAPPED,
	EXMAP_MAPPED,
	EXMAP_GONE,
};

/**
 * struct exmap - a region, a pool, and the interfaces
 * @ref: one for each open file, clones included
 * @mm: the address space of the program; grabbed, and only compared with
 *	current->mm unless that is known to be the same
 * @lock: protects @state and the one-time setup
 * @state: the region's; changes under @lock
 * @start: address of the region, valid when @state was seen as EXMAP_MAPPED
 * @nr_slots: length of the region in pages, as @start
 * @vma: the region, where somebody has had to search for it and it is not closed
 *	yet, or NULL; written with it locked, see lock_vma_cached()
 * @ready: set with release semantics when setup has filled in the following
 * @fault_alloc: a slot gets a page when it is touched
 * @pool: the pages
 * @backing: the file that pages are read from and written to, or NULL
 * @offset: byte of @backing that belongs to the first byte of the region
 * @user: whose RLIMIT_MEMLOCK the pool counts against, or NULL
 * @locked: pages that count
 */
struct exmap {
	struct kref ref;
	struct mm_struct *mm;
	struct mutex lock;	/* state and setup */
	enum exmap_state state;
	unsigned long start;
	unsigned long nr_slots;
	struct vm_area_struct *vma;
	bool ready;
	bool fault_alloc;
	struct exmap_pool pool;
	struct file *backing;
	loff_t offset;
	struct user_struct *user;
	unsigned long locked;
};

/**
 * struct exmap_call - a call at work in the region, through one interface
 * @exmap: the exmap
 * @iface: the interface, locked
 * @vma: the region, locked
 * @vb: the cursor. Its stack is iface->local, or, while @freeing, the bundle
 *	that takes the pages
 * @into: that bundle, or NULL before the first FREE
 * @fresh: a page that was never filled, or NULL
 * @freed: pages that went into @into
 * @mmap_locked: which lock exmap_region_lock() took
 * @freeing: which stack @vb has
 * @nomem: the pool has been asked in vain, and is not asked again
 */
struct exmap_call {
	struct exmap *exmap;
	struct exmap_interface *iface;
	struct vm_area_struct *vma;
	struct vma_batch vb;
	struct exmap_bundle *into;
	struct page *fresh;
	unsigned long freed;
	bool mmap_locked;
	bool freeing;
	bool nomem;
};

/* Pages that one job has in flight, at most */
#define EXMAP_IO_PAGES		512

/* Pages in one request; more would need more than one bio */
#define EXMAP_RUN_PAGES		BIO_MAX_VECS

/**
 * struct exmap_io_page - what a page in flight is there for
 * @vec: the vector of the job that wants it
 * @mapped: it is the page of its slot already; otherwise it was taken for it
 * @zero: past the end of the file, there are zeroes; the same in all of a transfer
 * @err: why it was not transferred, though exmap_run::done says that it is done
 */
struct exmap_io_page {
	u32 vec;
	s16 err;
	bool mapped;
	bool zero;
};

/**
 * struct exmap_run - a transfer: pages that are neighbours in region and file
 * @iocb: the request to the backing file
 * @io: what it is part of
 * @first: index of its first page in @io
 * @nr: number of pages
 * @slot: slot of the first page
 * @write: to the file, rather than from it
 * @flags: IOCB_DSYNC, IOCB_SYNC or 0
 * @single: a request for all of it has failed: now one for each page
 * @todo: a request is to be made
 * @done: bytes that were transferred, or have failed (exmap_io_page::err)
 * @res: result of the request that was made last; then, if not all is done, why
 *	not: -ENODATA, or something else if it would have had to wait
 */
struct exmap_run {
	struct kiocb iocb;
	struct exmap_io *io;
	unsigned int first;
	unsigned int nr;
	unsigned long slot;
	bool write;
	int flags;
	bool single;
	bool todo;
	size_t done;
	long res;
};

/**
 * struct exmap_io - transfers that are in flight together
 * @exmap: the exmap
 * @pending: requests in flight, and one while more are being made
 * @nr_pages: pages in @bvecs and @pages
 * @max_pages: room for that
 * @nr_runs: length of @runs
 * @max_runs: room for that
 * @reserved: there are pages whose slots are reserved for them
 * @bvecs: one for each page
 * @pages: the same
 * @runs: the transfers
 * @notify: called when @pending has come down to 0, in any context
 * @owner: for @notify
 * @cred: whose rights a worker has that goes on, or NULL
 * @allocated: it is memory of its own
 * @work: for a worker that goes on
 * @waited: completed when @pending has come down to 0 if there is no @notify
 */
struct exmap_io {
	struct exmap *exmap;
	atomic_t pending;
	unsigned int nr_pages;
	unsigned int max_pages;
	unsigned int nr_runs;
	unsigned int max_runs;
	bool reserved;
	struct bio_vec *bvecs;
	struct exmap_io_page *pages;
	struct exmap_run *runs;
	void (*notify)(struct exmap_io *io);
	void *owner;
	const struct cred *cred;
	bool allocated;
	struct work_struct work;
	struct completion waited;
};

/* What a call has with it, so that it need not ask the system for small transfers */
#define EXMAP_IO_FEW		16

/**
 * struct exmap_io_few - room for a few transfers
 * @io: the transfers
 * @runs: its, and so are
 * @bvecs: these
 * @pages: and these
 */
struct exmap_io_few {
	struct exmap_io io;
	struct exmap_run runs[EXMAP_IO_FEW];
	struct bio_vec bvecs[EXMAP_IO_FEW];
	struct exmap_io_page pages[EXMAP_IO_FEW];
};

/**
 * struct exmap_job - vectors to be carried out, some of them by transfers
 * @exmap: the exmap
 * @iface: the interface whose pages are used
 * @vecs: the vectors. In one that has failed, @len is cut to what precedes the
 *	first slot that could not be done.
 * @results: an array like it
 * @nr: length of both
 * @next: the first vector that is not begun, or not completely
 * @next_slot: what is begun of that
 * @failed: vectors that have failed
 * @first_failed: the first of them
 * @prefix: stop at the first failure; there are no results of what follows
 * @nowait: do not wait for the backing file, which can tell: fail with -EAGAIN,
 *	or, if @io has a notify, leave it to a worker
 * @sync: IOCB_DSYNC and IOCB_SYNC of what is written
 * @io: the transfers, if there may be any
 */
struct exmap_job {
	struct exmap *exmap;
	struct exmap_interface *iface;
	struct exmap_vec *vecs;
	struct exmap_result *results;
	unsigned int nr;
	unsigned int next;
	unsigned int next_slot;
	unsigned int failed;
	unsigned int first_failed;
	bool prefix;
	bool nowait;
	int sync;
	struct exmap_io *io;
};

/* main.c: files and their exmap */
extern const struct file_operations exmap_fops;
struct exmap *exmap_of(struct file *file);
struct exmap *exmap_of_ready(struct file *file);
struct exmap *exmap_of_or_new(struct file *file);
void exmap_unaccount(struct exmap *exmap, unsigned long keep);
int exmap_copy_sized(void *to, size_t size, size_t min, const void __user *from);

/* region.c: the VMA, and who may change what is mapped in it */
extern const struct vm_operations_struct exmap_region_ops;
int exmap_region_mmap_prepare(struct exmap *exmap, struct vm_area_desc *desc);
struct vm_area_struct *exmap_region_lock(struct exmap *exmap, bool *mmap_locked);
void exmap_region_unlock(struct exmap *exmap, struct vm_area_struct *vma,
			 bool mmap_locked);
void exmap_region_flush(struct exmap *exmap, struct vm_area_struct *vma, u64 epoch);
int exmap_flush(struct exmap *exmap);

/**
 * exmap_region_is() - Is this VMA the region?
 * @exmap: the exmap
 * @vma: a VMA of the process, locked
 *
 * Return: true if it is.
 */
static inline bool exmap_region_is(const struct exmap *exmap,
				   const struct vm_area_struct *vma)
{
	return vma->vm_ops == &exmap_region_ops && vma->vm_private_data == exmap;
}

/**
 * exmap_slots_ok() - Is a range of slots inside the region?
 * @exmap: the exmap, whose region is or was mapped
 * @slot: first slot
 * @nr: number of slots; the sum may overflow
 *
 * Return: true if all of the range is inside.
 */
static inline bool exmap_slots_ok(const struct exmap *exmap, u64 slot, u64 nr)
{
	return slot <= exmap->nr_slots && nr <= exmap->nr_slots - slot;
}

/* pool.c: where free pages wait */
int exmap_pool_module_init(void);
void exmap_pool_module_exit(void);
int exmap_pool_init(struct exmap_pool *pool, unsigned long limit,
		    unsigned int nr_interfaces);
void exmap_pool_defer(struct exmap_pool *pool, unsigned long quarantine);
int exmap_pool_resize(struct exmap_pool *pool, unsigned long limit);
void exmap_pool_close(struct exmap_pool *pool);
void exmap_pool_destroy(struct exmap_pool *pool);
int exmap_pool_refill(struct exmap_pool *pool, struct exmap_interface *iface,
		      unsigned long want);
struct exmap_bundle *exmap_pool_collect(struct exmap_pool *pool,
					struct exmap_interface *iface);
struct page **exmap_pool_find_waiting(struct exmap_pool *pool,
				      struct exmap_interface *iface, pgoff_t index,
				      struct exmap_bundle **bundle);
void exmap_pool_recycle(struct exmap_pool *pool, struct exmap_interface *iface);
void exmap_pool_free(struct exmap_pool *pool, struct exmap_interface *iface,
		     struct page *page);
bool exmap_pool_flush_begin(struct exmap_pool *pool, u64 epoch);
void exmap_pool_flush_end(struct exmap_pool *pool);
struct page *exmap_pool_new(struct exmap_pool *pool, struct exmap_interface *iface);
void exmap_pool_add(struct exmap_pool *pool, struct exmap_interface *iface,
		    struct page **pages, unsigned int nr);
bool exmap_pool_drop_poisoned(struct exmap_pool *pool, struct exmap_interface *iface);
void exmap_pool_put(struct exmap_pool *pool, struct exmap_interface *iface,
		    struct page **pages, unsigned int nr);

/**
 * exmap_pool_quarantine() - How many pages may wait for a flush?
 * @pool: a deferred pool
 *
 * Return: the number of pages in quarantine at which a FREE shall flush.
 */
static inline long exmap_pool_quarantine(const struct exmap_pool *pool)
{
	return pool->quarantine ?: max(READ_ONCE(pool->limit) / 16, 1);
}

/**
 * exmap_pool_flushed() - What a cursor is to know of flushes.
 * @pool: the pool
 *
 * Return: for vma_batch::flushed.
 */
static inline const u64 *exmap_pool_flushed(const struct exmap_pool *pool)
{
	return pool->deferred ? &pool->flushed : NULL;
}

/* call.c: pages into the region and out of it, for one call */
int exmap_call_begin(struct exmap_call *call, struct exmap *exmap,
		     struct exmap_interface *iface);
void exmap_call_end(struct exmap_call *call);
int exmap_call_fault(struct exmap *exmap, struct vm_area_struct *vma,
		     unsigned long slot);
void exmap_call_set_freeing(struct exmap_call *call, bool freeing);
int exmap_call_resume(struct exmap_call *call, unsigned long want);
int exmap_call_alloc_more(struct exmap_call *call, unsigned long slot,
			  unsigned long nr, unsigned long *done,
			  unsigned long *changed);
int exmap_call_free_more(struct exmap_call *call, unsigned long slot,
			 unsigned long nr, unsigned long *changed);
int exmap_call_reserve_more(struct exmap_call *call, unsigned long slot,
			    struct page **page);
bool exmap_call_hold(struct exmap_call *call, unsigned long slot, bool dirty,
		     struct page **page);

/**
 * exmap_call_alloc() - Put pages under the empty slots of a range.
 * @call: the call, set for putting pages in
 * @slot: first slot of the range
 * @nr: number of slots, all inside the region
 * @done: set to the number of slots, from @slot on, that have a page now
 * @changed: set to the number of those that had none before
 *
 * Context: As exmap_call_alloc_more().
 * Return: as exmap_call_alloc_more().
 */
static inline int exmap_call_alloc(struct exmap_call *call, unsigned long slot,
				   unsigned long nr, unsigned long *done,
				   unsigned long *changed)
{
	const unsigned int before = call->vb.nr;

	*done = vma_batch_map(&call->vb, call->exmap->start + (slot << PAGE_SHIFT), nr);
	*changed = before - call->vb.nr;
	if (likely(*done == nr))
		return 0;
	return exmap_call_alloc_more(call, slot, nr, done, changed);
}

/**
 * exmap_call_free() - Take the pages out of a range.
 * @call: the call, set for taking pages out
 * @slot: first slot of the range
 * @nr: number of slots, all inside the region
 * @changed: set to the number of slots that had a page
 *
 * Context: As exmap_call_free_more().
 * Return: as exmap_call_free_more().
 */
static inline int exmap_call_free(struct exmap_call *call, unsigned long slot,
				  unsigned long nr, unsigned long *changed)
{
	const unsigned int before = call->vb.nr;
	unsigned long done;

	done = vma_batch_unmap(&call->vb, call->exmap->start + (slot << PAGE_SHIFT), nr);
	*changed = call->vb.nr - before;
	call->freed += *changed;
	if (likely(done == nr))
		return 0;
	return exmap_call_free_more(call, slot + done, nr - done, changed);
}

/**
 * exmap_call_reserve() - Take a free page for a slot, unless that has one.
 * @call: the call, set for putting pages in
 * @slot: the slot, inside the region
 * @page: set to the page, with one reference; it may have any content, and the
 *	slot is reserved (vma_batch_reserve()). NULL if the slot has a page.
 *
 * Context: As exmap_call_reserve_more().
 * Return: as exmap_call_reserve_more().
 */
static inline int exmap_call_reserve(struct exmap_call *call, unsigned long slot,
				     struct page **page)
{
	const unsigned long addr = call->exmap->start + (slot << PAGE_SHIFT);
	struct vma_batch *vb = &call->vb;
	const unsigned int before = vb->nr;

	if (unlikely(!before || !vma_batch_reserve(vb, addr)))
		return exmap_call_reserve_more(call, slot, page);
	*page = vb->nr < before ? vb->pages[vb->nr] : NULL;
	return 0;
}

/* interface.c: the shared vectors, and the calls on them */
int exmap_interface_mmap_prepare(struct exmap *exmap, struct vm_area_desc *desc);
void exmap_interface_destroy(struct exmap_interface *iface);
long exmap_action(struct exmap *exmap, const struct exmap_action_params *params);

/* io.c: transfers between pages and the backing file */
int exmap_io_module_init(void);
void exmap_io_module_exit(void);
void exmap_io_init(struct exmap_io *io, struct exmap *exmap, struct exmap_run *runs,
		   unsigned int max_runs, struct bio_vec *bvecs,
		   struct exmap_io_page *pages, unsigned int max_pages);
struct exmap_io *exmap_io_alloc(struct exmap *exmap, unsigned int max_pages,
				unsigned int max_runs);
void exmap_io_free(struct exmap_io *io);
void exmap_io_set_notify(struct exmap_io *io, void (*notify)(struct exmap_io *io),
			 void *owner);
bool exmap_io_submit(struct exmap_io *io, int flags);
bool exmap_io_settle(struct exmap_io *io);
void exmap_io_wait(struct exmap_io *io, bool nowait);
void exmap_io_queue(struct exmap_io *io);
void exmap_io_work_on(struct work_struct *work);

/**
 * exmap_io_room() - For how many more pages is there room for sure?
 * @io: the transfers
 *
 * Return: so often may exmap_io_add() be called.
 */
static inline unsigned int exmap_io_room(const struct exmap_io *io)
{
	return min(io->max_pages - io->nr_pages, io->max_runs - io->nr_runs);
}

/**
 * exmap_io_full() - Is there no room for another page?
 * @io: the transfers
 *
 * Return: true if exmap_io_add() must not be called.
 */
static inline bool exmap_io_full(const struct exmap_io *io)
{
	return !exmap_io_room(io);
}

/**
 * exmap_io_may_wait() - Is a worker needed for whatever is transferred?
 * @exmap: the exmap
 *
 * Return: true if its backing file cannot say that it would have to wait.
 */
static inline bool exmap_io_may_wait(const struct exmap *exmap)
{
	return exmap->backing && !(exmap->backing->f_mode & FMODE_NOWAIT);
}

/**
 * exmap_io_add() - Add a page to what is to be transferred.
 * @io: the transfers, none in flight, and exmap_io_full() not true
 * @slot: the slot whose content it is
 * @page: the page; @io has the caller's reference from now on
 * @info: what to remember with it
 * @write: to the file, rather than from it
 * @flags: IOCB_DSYNC, IOCB_SYNC or 0
 *
 * Context: Any.
 */
static inline void exmap_io_add(struct exmap_io *io, unsigned long slot,
				struct page *page, struct exmap_io_page info,
				bool write, int flags)
{
	struct exmap_run *run = io->runs + io->nr_runs, *last = run - 1;
	const unsigned int i = io->nr_pages++;

	bvec_set_page(&io->bvecs[i], page, PAGE_SIZE, 0);
	io->pages[i] = info;
	io->reserved |= !info.mapped;
	if (io->nr_runs && slot == last->slot + last->nr && write == last->write &&
	    flags == last->flags && info.zero == io->pages[last->first].zero &&
	    last->nr < EXMAP_RUN_PAGES) {
		last->nr++;
		return;
	}
	io->nr_runs++;
	run->io = io;
	run->first = i;
	run->nr = 1;
	run->slot = slot;
	run->write = write;
	run->flags = flags;
	run->single = false;
	run->todo = true;
	run->res = 0;
	run->done = 0;
}

/* job.c: arrays of vectors, in any mixture */
int exmap_job_prepare(struct exmap_job *job, struct exmap_io_few *few);
int exmap_job_run(struct exmap_job *job, bool arrived);

/* Does it need the backing file? */
static inline bool exmap_opcode_is_io(unsigned int opcode)
{
	return opcode == EXMAP_OP_READ || opcode == EXMAP_OP_WRITE;
}

/* vectors.c: calls with an opcode in each vector */
long exmap_vectors(struct exmap *exmap, const struct exmap_vectors __user *arg);
int exmap_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags);

/* query.c: what is in slots */
long exmap_query(struct exmap *exmap, const struct exmap_query __user *arg);

/* rw.c: read and write calls */
ssize_t exmap_read_iter(struct kiocb *iocb, struct iov_iter *to);
ssize_t exmap_write_iter(struct kiocb *iocb, struct iov_iter *from);

#endif /* _EXMAP_H */
