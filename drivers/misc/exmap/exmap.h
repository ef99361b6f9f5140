/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * exmap: explicit page placement for database buffer managers
 *
 * An exmap is what an open file stands for: a *region* (region.h), which is one VMA
 * whose slots are empty unless the program asks for a page, and the file
 * that belongs to it. Its pages come from a *pool* (pool.h), which can be shared by
 * many regions of a process that have slots of the same size, and which has *interfaces*
 * (interface.h), through which the threads of the program use it. Pools of different slot
 * sizes form a *group* (group.h).
 *
 * Locks, in the order in which they are taken: mmap_lock or the VMA lock of a
 * region; exmap::lock; exmap_group::attach_lock; exmap_group::regions_lock;
 * exmap_group::flush_lock; exmap_interface::lock, never two of them at a time; the
 * page table lock; then the spin locks exmap_pool::lock, exmap_node::lock and those of
 * flight.c, which do not nest. The VMA lock, or the mmap_lock, is held while pages are
 * mapped or unmapped, which keeps exmap_pool_close() away. None of these locks is held
 * during transfers from and to the backing file.
 * Documentation/driver-api/exmap.rst says more.
 */
#ifndef _EXMAP_H
#define _EXMAP_H

#include <linux/build_bug.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/mm_types.h>
#include <linux/mutex.h>
#include <linux/nospec.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/types.h>
#include <uapi/linux/exmap.h>

#include "group.h"
#include "interface.h"
#include "pool.h"

struct exmap_flights;

/**
 * enum exmap_state - the state of the region
 * @EXMAP_UNMAPPED: It was not mapped yet.
 * @EXMAP_MAPPED: It is mapped.
 * @EXMAP_GONE: It was unmapped. There will not be another one.
 */
enum exmap_state {
	EXMAP_UNMAPPED,
	EXMAP_MAPPED,
	EXMAP_GONE,
};

/**
 * struct exmap - a region, its backing file, and its place in a pool
 * @ref: One reference for each open file, including clones, and for each transfer that a
 *	call on another file has in flight.
 * @mm: The address space of the program, with a reference to the struct only. It is
 *	compared with current->mm, and not used otherwise unless that is the same.
 * @files: Number of open files, including clones. Without any, no call can be made, and
 *	none is in progress except those in @pending.
 * @lock: Protects @state and the setup.
 * @state: The state of the region. May be read without @lock.
 * @start: Address of the region. Valid once @state was seen as EXMAP_MAPPED.
 * @nr_slots: Length of the region in slots. Valid like @start.
 * @vma: The region, as a hint for lock_vma_cached(), or NULL. Cleared with
 *	exmap_group::regions_lock held for writing.
 * @nr_tables: Number of PTE tables of the region, as far as it is known: those that
 *	MADV_DONTNEED has freed are counted until the tables are counted anew.
 * @ready: Set with release semantics when the setup is complete. The fields below
 *	do not change afterwards, except for the content of @pool.
 * @fault: Puts a page into a slot that is touched, or NULL to let SIGSEGV be raised.
 * @pool: The pages and interfaces. NULL until @ready is set.
 * @order: Order of the pages of @pool: a slot has 2^@order base pages.
 * @quick: Slots have one page, and flushes are not deferred, so that calls of one page can
 *	take the shortest way.
 * @nr_shared: Number of interfaces that have a page of vectors, which is 0 if slots are
 *	larger than that ABI knows.
 * @number: Number of the region in the group.
 * @plain: exmap_vec_word() of a vector of one page of this region, with opcode 0.
 * @backing: The file that pages are read from and written to, or NULL.
 * @offset: Byte of @backing that corresponds to the first byte of the region.
 * @flights: Slots of the group that take part in a transfer. NULL without @backing.
 * @pending_lock: Protects @pending.
 * @pending: Calls that an io_uring worker is going to end. If the ring is closed
 *	first, no worker does, and they are freed with the last file.
 */
struct exmap {
	struct kref ref;
	atomic_t files;
	struct mm_struct *mm;
	struct mutex lock;	/* see above */
	enum exmap_state state;
	unsigned long start;
	unsigned long nr_slots;
	struct vm_area_struct *vma;
	atomic_long_t nr_tables;
	bool ready;
	int (*fault)(struct exmap *exmap, struct vm_area_struct *vma, unsigned long addr);
	struct exmap_pool *pool;
	u8 order;
	bool quick;
	unsigned int nr_shared;
	u16 number;
	u64 plain;
	struct file *backing;
	loff_t offset;
	struct exmap_flights *flights;
	spinlock_t pending_lock;	/* pending */
	struct list_head pending;
};

/**
 * struct exmap_pending - a call that an io_uring worker is going to end
 * @list: entry of exmap::pending
 * @free: frees the call
 */
struct exmap_pending {
	struct list_head list;
	void (*free)(struct exmap_pending *pending);
};

struct exmap *exmap_of_mapped(struct file *file);
struct exmap *exmap_of_or_new(struct file *file);
int exmap_clone(struct file *file, struct file *source);
void exmap_put(struct exmap *exmap);
void exmap_put_file(struct exmap *exmap);

/**
 * exmap_of() - Return the exmap of a file.
 * @file: an open /dev/exmap; once it has an exmap, it keeps it
 *
 * Return: the exmap; ERR_PTR(-ENXIO) if there is none yet; ERR_PTR(-EPERM) if it
 * belongs to another address space.
 */
static inline struct exmap *exmap_of(struct file *file)
{
	/* Pairs with the cmpxchg() that set it */
	struct exmap *exmap = smp_load_acquire(&file->private_data);

	if (!exmap)
		return ERR_PTR(-ENXIO);
	if (exmap->mm != current->mm)
		return ERR_PTR(-EPERM);
	return exmap;
}

/**
 * exmap_of_ready() - Return the exmap of a file if it is set up.
 * @file: an open /dev/exmap
 *
 * Return: as exmap_of(), and ERR_PTR(-ENXIO) if it is not set up.
 */
static inline struct exmap *exmap_of_ready(struct file *file)
{
	struct exmap *exmap = exmap_of(file);

	/* Pairs with exmap_do_setup() */
	if (!IS_ERR(exmap) && !smp_load_acquire(&exmap->ready))
		return ERR_PTR(-ENXIO);
	return exmap;
}

/**
 * exmap_interface_get() - Return an interface by its number.
 * @exmap: the exmap, set up
 * @number: what the program says, known to be less than exmap_group::nr_interfaces
 *
 * Return: the interface.
 */
static inline struct exmap_interface *
exmap_interface_get(struct exmap *exmap, unsigned int number)
{
	struct exmap_pool *pool = exmap->pool;

	return &pool->interfaces[array_index_nospec(number, pool->nr_interfaces)];
}

/**
 * exmap_interface_shared() - Return an interface that has a page of vectors.
 * @exmap: the exmap, set up
 * @number: what the program says
 *
 * Return: the interface, or NULL if there is none with this number, or if the slots of the
 * region are larger than the page-by-page ABI knows.
 */
static inline struct exmap_interface *
exmap_interface_shared(struct exmap *exmap, u64 number)
{
	const unsigned int nr = exmap->nr_shared;

	if (number >= nr)
		return NULL;
	return &exmap->pool->interfaces[array_index_nospec((unsigned int)number, nr)];
}

/**
 * exmap_vec_word() - Return what a vector says besides the page as one number.
 * @vec: the vector
 *
 * Return: region, length, node, flags and opcode, as they are in memory.
 */
static __always_inline u64 exmap_vec_word(const struct exmap_vec *vec)
{
	u64 word;

	static_assert(sizeof(*vec) == sizeof(vec->page) + sizeof(word));
	memcpy(&word, &vec->region, sizeof(word));
	return word;
}

/**
 * exmap_vec_word_is() - Test whether a vector is of one slot and has no flags.
 * @word: exmap_vec_word() of the vector
 * @exmap: the exmap whose region the vector must name
 * @opcode: the opcode that it must have
 *
 * Return: true if it is so.
 */
static __always_inline bool exmap_vec_word_is(u64 word, const struct exmap *exmap, u8 opcode)
{
	const struct exmap_vec difference = { .opcode = opcode };

	return (word ^ exmap->plain) == exmap_vec_word(&difference);
}

/**
 * exmap_slots_ok() - Test whether a range of slots is inside the region.
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

/**
 * exmap_slot_shift() - Return the size of slots as a power of two.
 * @exmap: the exmap, set up
 *
 * Return: the shift, by which numbers of slots become bytes.
 */
static inline unsigned int exmap_slot_shift(const struct exmap *exmap)
{
	return PAGE_SHIFT + exmap->order;
}

/**
 * exmap_slot_size() - Return the size of slots.
 * @exmap: the exmap, set up
 *
 * Return: the size in bytes.
 */
static inline unsigned long exmap_slot_size(const struct exmap *exmap)
{
	return PAGE_SIZE << exmap->order;
}

/**
 * exmap_slot_addr() - Return the address of a slot.
 * @exmap: the exmap, whose region is or was mapped
 * @slot: the slot, inside the region
 *
 * Return: the address.
 */
static inline unsigned long exmap_slot_addr(const struct exmap *exmap, unsigned long slot)
{
	return exmap->start + (slot << exmap_slot_shift(exmap));
}

/**
 * exmap_slot_page() - Return the number of the page of the address space where a slot begins.
 * @exmap: the exmap, whose region is or was mapped
 * @slot: the slot, inside the region
 *
 * Return: the number, by which slots of all regions can be told apart.
 */
static inline unsigned long exmap_slot_page(const struct exmap *exmap, unsigned long slot)
{
	return (exmap->start >> PAGE_SHIFT) + (slot << exmap->order);
}

/**
 * exmap_tables_exceeded() - Test whether empty PTE tables must be freed.
 * @group: the group
 *
 * Up to the bound, empty tables stay for the next use of their slots, as far as
 * they are not freed by the calls that ask for it.
 *
 * Return: true if the regions of the group have more tables.
 */
static inline bool exmap_tables_exceeded(const struct exmap_group *group)
{
	return atomic_long_read(&group->nr_tables) > READ_ONCE(group->max_tables);
}

#endif /* _EXMAP_H */
