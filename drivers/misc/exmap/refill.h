/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Refill: where the free pages of an interface come from
 *
 * An interface that runs out of pages takes, in this order: its backup bundle, its
 * pages that have left quarantine, a bundle that belongs to no interface, parked pages
 * that were let go, new pages while the pool is below its limit, pages of regions that
 * were unmapped, pages of other interfaces, pages that MADV_DONTNEED has dropped, and new
 * pages in place of free ones of another size. Where the machine has several NUMA nodes,
 * these are pages that suit the memory policy of the thread, and pages of other nodes only
 * where there are none.
 */
#ifndef _EXMAP_REFILL_H
#define _EXMAP_REFILL_H

struct exmap_interface;
struct exmap_pool;

int exmap_pool_refill(struct exmap_pool *pool, struct exmap_interface *iface,
		      unsigned long want);
unsigned int exmap_pool_release_unseen(struct exmap_pool *pool);

#endif /* _EXMAP_REFILL_H */
