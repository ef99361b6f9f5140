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
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/types.h>

#include "bundle.h"
#include "node.h"

struct exmap;
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
 * @nid: The NUMA node that the pages in @local and @backup are on.
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
	int nid;
} ____cacheline_aligned_in_smp;

int exmap_interface_mmap_prepare(struct exmap *exmap, struct vm_area_desc *desc);
struct exmap_iov *exmap_interface_vectors(struct exmap_interface *iface);

/**
 * exmap_interface_is_near() - Test whether an interface keeps a free page.
 * @iface: the interface
 * @page: the page
 *
 * Return: false if the page is on another node than those that the interface has.
 */
static __always_inline bool exmap_interface_is_near(const struct exmap_interface *iface,
						    const struct page *page)
{
	return !exmap_nodes_many() || page_to_nid(page) == iface->nid;
}

/**
 * exmap_interface_set_nid() - Note which node the pages of an interface are on.
 * @nodes: the nodes of its pool
 * @iface: the interface, whose lock is held
 * @nid: the node
 */
static inline void exmap_interface_set_nid(struct exmap_node *nodes,
					   struct exmap_interface *iface, int nid)
{
	if (iface->nid == nid)
		return;
	if (iface->is_stocked) {
		atomic_dec(&nodes[iface->nid].nr_stocked);
		atomic_inc(&nodes[nid].nr_stocked);
	}
	/* A search for pages of a node reads it without the lock */
	WRITE_ONCE(iface->nid, nid);
}

#endif /* _EXMAP_INTERFACE_H */
