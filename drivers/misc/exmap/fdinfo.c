// SPDX-License-Identifier: GPL-2.0-only
/*
 * What /proc/PID/fdinfo shows of an exmap
 */
#include <linux/fs.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>

#include "exmap.h"
#include "fdinfo.h"
#include "interface.h"
#include "pool.h"

/**
 * struct exmap_pool_usage - where the free pages of a pool are
 * @free: in bundles
 * @quarantined: in quarantine
 */
struct exmap_pool_usage {
	unsigned long free;
	unsigned long quarantined;
};

/*
 * Interfaces that are at work are left out: whoever looks must neither wait for a call nor
 * hold one up.
 */
static struct exmap_pool_usage exmap_pool_usage(struct exmap_pool *pool)
{
	struct exmap_pool_usage usage = {};
	struct exmap_interface *iface;
	struct exmap_bundle *bundle;
	unsigned int pos = 0;

	for (unsigned int i = 0; i < nr_node_ids; i++)
		usage.free += READ_ONCE(pool->nodes[i].nr_full) * EXMAP_BUNDLE_PAGES;
	while ((iface = exmap_pool_next_stocked(pool, &pos, pool->nr_interfaces))) {
		if (!mutex_trylock(&iface->lock))
			continue;
		usage.free += exmap_bundle_nr(iface->local) + exmap_bundle_nr(iface->backup);
		list_for_each_entry(bundle, &iface->quarantine, list)
			usage.quarantined += bundle->nr;
		mutex_unlock(&iface->lock);
	}
	return usage;
}

/**
 * exmap_show_fdinfo() - Show the region of a file, and its pool.
 * @m: where to
 * @file: an open /dev/exmap, of any process
 *
 * Context: Process context, may sleep.
 */
void exmap_show_fdinfo(struct seq_file *m, struct file *file)
{
	/* Pairs with the cmpxchg() that set it */
	struct exmap *exmap = smp_load_acquire(&file->private_data);
	struct exmap_pool_usage usage;
	struct exmap_pool *pool;

	/* Pairs with exmap_setup_locked() */
	if (!exmap || !smp_load_acquire(&exmap->ready))
		return;
	pool = exmap->pool;
	usage = exmap_pool_usage(pool);
	seq_printf(m, "exmap-pool:\t%u\n", pool->id);
	seq_printf(m, "exmap-region:\t%u\n", exmap->number);
	/* Pairs with exmap_region_mapped() */
	seq_printf(m, "exmap-slots:\t%lu\n", smp_load_acquire(&exmap->state) == EXMAP_MAPPED ?
		   exmap->nr_slots : 0);
	seq_printf(m, "exmap-limit:\t%lu\n", READ_ONCE(pool->limit));
	seq_printf(m, "exmap-pages:\t%ld\n", atomic_long_read(&pool->nr_pages));
	seq_printf(m, "exmap-free:\t%lu\n", usage.free);
	seq_printf(m, "exmap-parked:\t%lu\n", READ_ONCE(pool->nr_parked));
	seq_printf(m, "exmap-quarantined:\t%lu\n", usage.quarantined);
	seq_printf(m, "exmap-flushes:\t%llu\n", READ_ONCE(pool->generation) - 1);
	seq_printf(m, "exmap-tables:\t%ld\n", atomic_long_read(&pool->nr_tables));
	seq_printf(m, "exmap-regions:\t%u\n", READ_ONCE(pool->nr_live));
	seq_printf(m, "exmap-interfaces:\t%u\n", pool->nr_interfaces);
}
