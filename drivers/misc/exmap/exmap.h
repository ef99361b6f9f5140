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
 * Page references: the pool holds one on every page it owns. A second one
 * travels with the page: it is the page table entry's while the page is mapped
 * and belongs to whoever has the page otherwise, a bundle or a call. So a page
 * whose count is 2 is held by nobody else, and a page whose count has fallen to
 * 1 was unmapped behind our back (MADV_DONTNEED) or was parked and is no more.
 *
 * Locks, in this order: mmap_lock or VMA lock, exmap::lock,
 * exmap_interface::lock (never two of them), exmap_pool::lock. The VMA lock is
 * held while pages go into the region or come out of it, which keeps
 * exmap_pool_close() away; reading a file holds none of them.
 */
#ifndef _EXMAP_H
#define _EXMAP_H

#include <linux/atomic.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/uio.h>
#include <uapi/linux/exmap.h>

struct file;
struct kiocb;
struct mm_struct;
struct user_struct;
struct vm_area_desc;
struct vm_area_struct;

#define EXMAP_MAX_INTERFACES	65536

/* Free pages that one bundle holds; also what a FREE collects for one flush */
#define EXMAP_BUNDLE_PAGES	512

/**
 * struct exmap_bundle - a stack of free pages
 * @list: entry of exmap_pool::full
 * @nr: number of pages
 * @pages: the pages, room for EXMAP_BUNDLE_PAGES
 */
struct exmap_bundle {
	struct list_head list;
	unsigned int nr;
	struct page *pages[EXMAP_BUNDLE_PAGES];
};

/**
 * struct exmap_interface - what a thread talks to
 * @lock: protects all fields, but not what is in @vectors
 * @local: free pages for the next allocation, or NULL before the first
 * @spare: an empty bundle: where the next FREE collects pages, or NULL
 * @vectors: the page of vectors that is shared with the program, or NULL
 *	before it is first needed; set once
 *
 * The bundles are the pool's, the vectors interface.c's.
 */
struct exmap_interface {
	struct mutex lock;	/* all fields */
	struct exmap_bundle *local;
	struct exmap_bundle *spare;
	struct page *vectors;
} ____cacheline_aligned_in_smp;

/**
 * struct exmap_pool - the pages of one exmap
 * @limit: pages that the pool may own
 * @nr_pages: pages that it owns now
 * @interfaces: array of the interfaces, with their free pages
 * @nr_interfaces: length of @interfaces
 * @lock: protects the following
 * @full: bundles that no interface has, all full
 * @owned: all pages of the pool but the parked ones, through page->lru
 * @parked: pages that were taken out while somebody held them, through
 *	page->lru
 * @nr_parked: length of @parked
 * @closed: the pool owns no pages any more and never will again
 * @searching: searches through all of the pool that are under way
 * @moves: counts, while there are any, the times that free pages appeared or
 *	changed their place, so that a search can tell that it may have missed some
 * @transit: calls that have pages on the way from somewhere into a bundle
 */
struct exmap_pool {
	unsigned long limit;
	atomic_long_t nr_pages;
	struct exmap_interface *interfaces;
	unsigned int nr_interfaces;

	spinlock_t lock;	/* all that follows */
	struct list_head full;
	struct list_head owned;
	struct list_head parked;
	unsigned long nr_parked;
	bool closed;

	atomic_t searching;
	atomic_long_t moves;
	atomic_t transit;
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
 * @ready: set with release semantics when setup has filled in the following
 * @pool: the pages
 * @backing: the file that reads come from, or NULL
 * @user: whose RLIMIT_MEMLOCK the pool counts against, or NULL
 */
struct exmap {
	struct kref ref;
	struct mm_struct *mm;
	struct mutex lock;	/* state and setup */
	enum exmap_state state;
	unsigned long start;
	unsigned long nr_slots;
	bool ready;
	struct exmap_pool pool;
	struct file *backing;
	struct user_struct *user;
};

/* main.c: files and their exmap */
extern const struct file_operations exmap_fops;
struct exmap *exmap_of(struct file *file);
struct exmap *exmap_of_ready(struct file *file);
struct exmap *exmap_of_or_new(struct file *file);
void exmap_unaccount(struct exmap *exmap);

/* region.c: the VMA, and what is mapped in it */
int exmap_region_mmap_prepare(struct exmap *exmap, struct vm_area_desc *desc);
struct vm_area_struct *exmap_region_lock(struct exmap *exmap, bool *mmap_locked);
void exmap_region_unlock(struct exmap *exmap, struct vm_area_struct *vma,
			 bool mmap_locked);

/**
 * exmap_slots_ok() - Is a range of slots inside the region?
 * @exmap: the exmap, whose region is or was mapped
 * @slot: first slot
 * @nr: number of slots; the sum may overflow
 *
 * Return: true if all of the range is inside.
 */
static inline bool exmap_slots_ok(struct exmap *exmap, u64 slot, u64 nr)
{
	return slot <= exmap->nr_slots && nr <= exmap->nr_slots - slot;
}

/* pool.c: where free pages wait */
int exmap_pool_module_init(void);
void exmap_pool_module_exit(void);
int exmap_pool_init(struct exmap_pool *pool, unsigned long limit,
		    unsigned int nr_interfaces);
void exmap_pool_close(struct exmap_pool *pool);
void exmap_pool_destroy(struct exmap_pool *pool);
int exmap_pool_refill(struct exmap_pool *pool, struct exmap_interface *iface,
		      unsigned long want);
int exmap_pool_prepare_free(struct exmap_interface *iface);
void exmap_pool_recycle(struct exmap_pool *pool, struct exmap_interface *iface);
int exmap_pool_get(struct exmap_pool *pool, struct exmap_interface *iface,
		   struct page **pages, unsigned int nr);
bool exmap_pool_drop_poisoned(struct exmap_pool *pool, struct exmap_interface *iface);
void exmap_pool_put(struct exmap_pool *pool, struct exmap_interface *iface,
		    struct page **pages, unsigned int nr);

/* interface.c: the shared vectors, and the calls on them */
int exmap_interface_mmap_prepare(struct exmap *exmap, struct vm_area_desc *desc);
void exmap_interface_destroy(struct exmap_interface *iface);
long exmap_action(struct exmap *exmap, const struct exmap_action_params *params);
int exmap_alloc_slots(struct exmap *exmap, struct vm_area_struct *vma,
		      struct exmap_interface *iface, unsigned long slot,
		      unsigned long nr, unsigned long *done);

/* io.c: reads from the backing file */
ssize_t exmap_read_iter(struct kiocb *iocb, struct iov_iter *to);

#endif /* _EXMAP_H */
