/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The quarantine: freed pages that wait for a deferred TLB flush
 *
 * In a group with deferred flushes, the pages of a FREE wait in bundles of the
 * interface through which they were freed. Their slots are not used again until
 * one flush covers the pages of all interfaces of all pools. Numbers order these events: a
 * FREE marks pages and slots with exmap_group::generation; a flush increments it, waits
 * for the calls that may have seen the old number, flushes the TLB, and advances
 * exmap_group::flushed.
 */
#ifndef _EXMAP_QUARANTINE_H
#define _EXMAP_QUARANTINE_H

#include <linux/minmax.h>
#include <linux/types.h>

#include "group.h"
#include "interface.h"
#include "pool.h"

void exmap_quarantine_init(struct exmap_group *group, unsigned long pages);
bool exmap_quarantine_reap(struct exmap_pool *pool, struct exmap_interface *iface,
			   bool all);
struct exmap_bundle *exmap_quarantine_collect(struct exmap_pool *pool,
					      struct exmap_interface *iface);
struct page **exmap_quarantine_find(struct exmap_pool *pool,
				    struct exmap_interface *iface, pgoff_t index,
				    struct exmap_bundle **bundle);
bool exmap_quarantine_flush_begin(struct exmap_group *group, u64 generation);
void exmap_quarantine_flush_end(struct exmap_group *group);

/**
 * exmap_quarantine_limit() - Return how many pages may wait for a flush.
 * @group: a group with deferred flushes
 *
 * Return: the number of base pages in quarantine at which a FREE flushes.
 */
static inline long exmap_quarantine_limit(const struct exmap_group *group)
{
	return group->quarantine ?: max(READ_ONCE(group->limit) / 16, 1);
}

/**
 * exmap_quarantine_nr() - Return how many pages of an interface wait for a flush.
 * @iface: the interface, whose lock is held
 *
 * Return: the number of pages.
 */
static inline unsigned long exmap_quarantine_nr(const struct exmap_interface *iface)
{
	struct exmap_bundle *bundle;
	unsigned long nr = 0;

	list_for_each_entry(bundle, &iface->quarantine, list)
		nr += bundle->nr;
	return nr;
}

/**
 * exmap_quarantine_flushed() - Return what a cursor needs to know about flushes.
 * @group: the group
 *
 * Return: the value for vma_batch::flushed.
 */
static inline const u64 *exmap_quarantine_flushed(const struct exmap_group *group)
{
	return group->deferred ? &group->flushed : NULL;
}

#endif /* _EXMAP_QUARANTINE_H */
