/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Interfaces
 *
 * An *interface* is what a thread uses to talk to an exmap: a page of vectors that
 * is shared with the program, and a share of the free pages of the pool. Threads
 * with interfaces of their own do not contend for locks.
 */
#ifndef _EXMAP_INTERFACE_H
#define _EXMAP_INTERFACE_H

#include <linux/cache.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/types.h>

struct exmap;
struct exmap_bundle;
struct exmap_iov;
struct vm_area_desc;

/* Interfaces that one exmap may have */
#define EXMAP_MAX_INTERFACES	65536

/**
 * struct exmap_interface - what a thread uses to talk to an exmap
 * @lock: Protects all other fields. Held by a call from begin to end. The page that
 *	@vectors points to is not protected: the program writes to it at any time.
 * @local: Free pages for the next allocation. NULL before the first use.
 * @backup: More free pages, or an empty bundle, or NULL. A thread that allocates
 *	and frees about one bundle in turns needs nothing but @local and @backup.
 * @spare: An empty bundle for the pages of the next FREE, or NULL.
 * @quarantine: Bundles of pages that wait for a flush, the oldest first.
 * @vectors: The page that is shared with the program. NULL until it is needed.
 * @is_stocked: Whether the bit of the interface in exmap_pool::stocked is set.
 *
 * The bundles are managed by pool.c and quarantine.c, the vectors by interface.c.
 */
struct exmap_interface {
	struct mutex lock;	/* see above */
	struct exmap_bundle *local;
	struct exmap_bundle *backup;
	struct exmap_bundle *spare;
	struct list_head quarantine;
	struct exmap_iov *vectors;
	bool is_stocked;
} ____cacheline_aligned_in_smp;

int exmap_interface_mmap_prepare(struct exmap *exmap, struct vm_area_desc *desc);
struct exmap_iov *exmap_interface_vectors(struct exmap_interface *iface);

#endif /* _EXMAP_INTERFACE_H */
