// SPDX-License-Identifier: GPL-2.0-only
/*
 * What /proc/PID/fdinfo shows of an exmap
 */
#include <linux/fs.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "exmap.h"
#include "fdinfo.h"
#include "group.h"
#include "interface.h"
#include "pool.h"
#include "quarantine.h"

/**
 * struct exmap_usage - where pages are that are not mapped, in base pages
 * @free: in bundles
 * @parked: parked
 * @quarantined: in quarantine
 * @nodes: @free, by NUMA node; NULL if there was no memory for it
 */
struct exmap_usage {
	unsigned long free;
	unsigned long parked;
	unsigned long quarantined;
	unsigned long *nodes;
};

static void exmap_usage_add_free(struct exmap_usage *usage, int nid, unsigned long nr)
{
	usage->free += nr;
	if (usage->nodes)
		usage->nodes[nid] += nr;
}

/*
 * Interfaces that are at work are left out: whoever looks must neither wait for a call nor
 * hold one up.
 */
static void exmap_usage_add(struct exmap_usage *usage, struct exmap_pool *pool)
{
	struct exmap_interface *iface;
	unsigned int pos = 0;

	for (int i = 0; i < nr_node_ids; i++)
		exmap_usage_add_free(usage, i, READ_ONCE(pool->nodes[i].nr) << pool->order);
	while ((iface = exmap_pool_next_stocked(pool, &pos, pool->nr_interfaces))) {
		unsigned long nr;

		if (!mutex_trylock(&iface->lock))
			continue;
		nr = exmap_bundle_nr(iface->local) + exmap_bundle_nr(iface->backup);
		exmap_usage_add_free(usage, iface->nid, nr << pool->order);
		usage->quarantined += (unsigned long)exmap_quarantine_nr(iface) << pool->order;
		mutex_unlock(&iface->lock);
	}
	usage->parked += READ_ONCE(pool->nr_parked) << pool->order;
}

/* Show the pages of one slot size, and count them in @usage */
static void exmap_show_pool(struct seq_file *m, struct exmap_usage *usage,
			    struct exmap_pool *pool)
{
	const unsigned long size = PAGE_SIZE << pool->order, before = usage->free;

	exmap_usage_add(usage, pool);
	seq_printf(m, "exmap-pages-%lu:\t%ld\n", size,
		   atomic_long_read(&pool->nr_pages) << pool->order);
	seq_printf(m, "exmap-free-%lu:\t%lu\n", size, usage->free - before);
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
	struct exmap_usage usage = {};
	struct exmap_group *group;
	struct exmap_pool *pool;

	/* Pairs with exmap_setup_locked() */
	if (!exmap || !smp_load_acquire(&exmap->ready))
		return;
	group = exmap->pool->group;
	seq_printf(m, "exmap-pool:\t%u\n", group->id);
	seq_printf(m, "exmap-region:\t%u\n", exmap->number);
	/* Pairs with exmap_region_mapped() */
	seq_printf(m, "exmap-slots:\t%lu\n", smp_load_acquire(&exmap->state) == EXMAP_MAPPED ?
		   exmap->nr_slots : 0);
	seq_printf(m, "exmap-slot-size:\t%lu\n", exmap_slot_size(exmap));
	seq_printf(m, "exmap-limit:\t%lu\n", READ_ONCE(group->limit));
	seq_printf(m, "exmap-pages:\t%ld\n", atomic_long_read(&group->nr_pages));
	usage.nodes = exmap_nodes_many() ? kcalloc(nr_node_ids, sizeof(*usage.nodes),
						   EXMAP_GFP) : NULL;
	for_each_exmap_pool(pool, group)
		exmap_show_pool(m, &usage, pool);
	for (int i = 0; i < nr_node_ids && usage.nodes; i++)
		if (node_state(i, N_MEMORY))
			seq_printf(m, "exmap-free-node%d:\t%lu\n", i, usage.nodes[i]);
	kfree(usage.nodes);
	seq_printf(m, "exmap-free:\t%lu\n", usage.free);
	seq_printf(m, "exmap-parked:\t%lu\n", usage.parked);
	seq_printf(m, "exmap-quarantined:\t%lu\n", usage.quarantined);
	seq_printf(m, "exmap-flushes:\t%llu\n", READ_ONCE(group->generation) - 1);
	seq_printf(m, "exmap-tables:\t%ld\n", atomic_long_read(&group->nr_tables));
	seq_printf(m, "exmap-regions:\t%u\n", READ_ONCE(group->nr_live));
	seq_printf(m, "exmap-interfaces:\t%u\n", group->nr_interfaces);
}
