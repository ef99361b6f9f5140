// SPDX-License-Identifier: GPL-2.0-only
/*
 * Refill: where the free pages of an interface come from
 */
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>

#include "interface.h"
#include "pool.h"
#include "quarantine.h"
#include "reclaim.h"
#include "refill.h"
#include "trace.h"

/*
 * Rounds through all interfaces in which a search that sees free pages move, but
 * gets none, tries again. Other threads may move pages for ever.
 */
#define EXMAP_REFILL_ROUNDS	16

/* Times that a search sleeps because pages are in transit, up to a millisecond each */
#define EXMAP_REFILL_SLEEPS	50

/* Times that a refill has other pools give pages back before it gives up */
#define EXMAP_REFILL_OTHERS	4

/* Add pages that are in transit, if any */
static void exmap_refill_add(struct exmap_pool *pool, struct exmap_interface *iface,
			     struct page **pages, unsigned int nr)
{
	if (!nr)
		return;
	exmap_pool_add(pool, iface, pages, nr);
	exmap_pool_arrive(pool);
}

/* Replace the local bundle, which is empty, by one that belongs to no interface */
static bool exmap_refill_node(struct exmap_pool *pool, struct exmap_interface *iface,
			      int nid)
{
	struct exmap_bundle *bundle = exmap_pool_pop(pool, nid);

	if (!bundle)
		return false;
	exmap_pool_keep_spare(iface, iface->local);
	iface->local = bundle;
	exmap_interface_set_nid(pool->nodes, iface, nid);
	/* A search finds the pages here when they are not in transit any more */
	exmap_pool_stocked(pool, iface);
	exmap_pool_arrive(pool);
	return true;
}

/* As exmap_refill_node(), from any node */
static bool exmap_refill_nodes(struct exmap_pool *pool, struct exmap_interface *iface)
{
	const int near = iface->nid;

	for (unsigned int i = 0; i < nr_node_ids; i++)
		if (exmap_refill_node(pool, iface, (near + i) % nr_node_ids))
			return true;
	return false;
}

/*
 * As exmap_refill_node(), from any node that the memory policy of the thread is content with,
 * first from that which the interface prefers
 */
static bool exmap_refill_policy(struct exmap_pool *pool, struct exmap_interface *iface)
{
	bool bound;

	if (!exmap_nodes_many())
		return exmap_refill_nodes(pool, iface);
	if (exmap_refill_node(pool, iface, iface->nid))
		return true;
	for (int i = 0; i < nr_node_ids; i++)
		if (READ_ONCE(pool->nodes[i].nr) && mempolicy_choose_node(i, &bound) == i &&
		    exmap_refill_node(pool, iface, i))
			return true;
	return false;
}

/* Tests whether there may be pages of a region that was unmapped */
static bool exmap_refill_dropped(const struct exmap_pool *pool)
{
	return READ_ONCE(pool->drops) != READ_ONCE(pool->swept);
}

/* Fill the local bundle, which is empty, with unseen pages */
static bool exmap_refill_unseen(struct exmap_pool *pool, struct exmap_interface *iface,
				bool parked)
{
	struct page *pages[EXMAP_STEAL_PAGES];
	unsigned int nr = exmap_pool_sweep_some(pool, parked, pages, ARRAY_SIZE(pages));

	exmap_refill_add(pool, iface, pages, nr);
	/* Those that are on another node are to be had from there */
	return iface->local->nr || (nr && exmap_refill_nodes(pool, iface));
}

/*
 * No page of the node that an interface prefers is to be had: threads go on with pages of
 * another node for a while, @delay in jiffies, instead of looking again in each call.
 */
static void exmap_refill_back_off(struct exmap_pool *pool, struct exmap_interface *iface,
				  unsigned long delay)
{
	WRITE_ONCE(pool->nodes[iface->nid].full_until, jiffies + delay);
}

/* Fill the local bundle, which is empty, with new pages */
static bool exmap_refill_grow(struct exmap_pool *pool, struct exmap_interface *iface,
			      unsigned int want, bool *refused)
{
	struct exmap_bundle *local = iface->local;

	local->nr = exmap_pool_grow(pool, local->pages, want, refused);
	if (local->nr)
		exmap_pool_stocked(pool, iface);
	if (!exmap_nodes_many())
		return local->nr;
	if (local->nr) {
		exmap_pool_part(pool, iface, local);
		exmap_pool_moved(pool);
		if (local->nr)
			return true;
	} else if (!*refused) {
		return false;
	}
	exmap_refill_back_off(pool, iface, HZ);
	return exmap_refill_nodes(pool, iface);
}

/*
 * Fill the local bundle, which is empty, from sources that involve no other
 * interface. Sets *refused if the system refused more memory, which is then not
 * asked for again.
 */
static bool exmap_refill_quick(struct exmap_pool *pool, struct exmap_interface *iface,
			       unsigned int want, bool *refused)
{
	if (exmap_bundle_nr(iface->backup)) {
		swap(iface->local, iface->backup);
		return true;
	}
	exmap_quarantine_reap(pool, iface, false);
	return iface->local->nr || exmap_refill_policy(pool, iface) ||
	       exmap_refill_unseen(pool, iface, true) ||
	       (!*refused && exmap_refill_grow(pool, iface, want, refused)) ||
	       (exmap_refill_dropped(pool) && exmap_refill_unseen(pool, iface, false));
}

/*
 * Take half of what an interface has, because it needs pages itself, but no more
 * than @max. An interface without pages is not visited again until it has some.
 */
static unsigned int exmap_refill_rob(struct exmap_pool *pool,
				     struct exmap_interface *victim,
				     struct page **pages, unsigned int max, bool *waiting)
{
	const bool quarantined = exmap_quarantine_reap(pool, victim, true);
	struct exmap_bundle *bundle = victim->local;
	unsigned int nr;

	*waiting |= quarantined;
	if (!exmap_bundle_nr(bundle))
		bundle = victim->backup;
	nr = exmap_bundle_take(bundle, pages, min(max, DIV_ROUND_UP(exmap_bundle_nr(bundle), 2)));
	if (nr)
		exmap_pool_depart(pool);
	else if (!quarantined)
		exmap_pool_unstocked(pool, victim);
	return nr;
}

/*
 * Take pages from other interfaces, with none of their locks held: from those that have
 * pages of node @nid, or from all. The pages are in transit. Sets *waiting if there are
 * pages that wait for a flush.
 */
static unsigned int exmap_refill_steal(struct exmap_pool *pool,
				       struct exmap_interface *thief, int nid, bool wait,
				       struct page **pages, unsigned int max,
				       bool *waiting)
{
	const unsigned int self = thief - pool->interfaces;
	/* Begin behind the thief, so that not all thieves meet at one victim */
	unsigned int pos = self + 1, end = pool->nr_interfaces, nr = 0;

	while (!nr && !fatal_signal_pending(current)) {
		struct exmap_interface *victim = exmap_pool_next_stocked(pool, &pos, end);

		if (!victim && end != self) {
			pos = 0;
			end = self;
			continue;
		}
		if (!victim)
			break;
		if (nid != NUMA_NO_NODE && READ_ONCE(victim->nid) != nid)
			continue;
		if (wait)
			mutex_lock(&victim->lock);
		else if (!mutex_trylock(&victim->lock))
			continue;
		nr = exmap_refill_rob(pool, victim, pages, max, waiting);
		mutex_unlock(&victim->lock);
		if (nr)
			trace_exmap_steal(pool, thief, victim, nr);
	}
	return nr;
}

/*
 * Fill the local bundle, which is empty, where only other interfaces may have pages of the
 * right node. Interfaces that are busy are not asked: if the others have none, pages of
 * another node have to do. Drops the lock of the interface.
 */
static bool exmap_refill_near(struct exmap_pool *pool, struct exmap_interface *iface)
{
	struct page *pages[EXMAP_STEAL_PAGES];
	const int nid = iface->nid;
	bool waiting = false;
	unsigned int nr;

	if (!exmap_nodes_many())
		return false;
	mutex_unlock(&iface->lock);
	nr = exmap_refill_steal(pool, iface, nid, false, pages, ARRAY_SIZE(pages), &waiting);
	mutex_lock(&iface->lock);
	exmap_refill_add(pool, iface, pages, nr);
	if (!iface->local)
		return false;
	/* Another thread may have used the interface meanwhile */
	if (!iface->local->nr && exmap_bundle_nr(iface->backup))
		swap(iface->local, iface->backup);
	if (iface->local->nr)
		return true;
	exmap_refill_back_off(pool, iface, HZ / 10);
	return exmap_refill_nodes(pool, iface);
}

/*
 * Fill the local bundle from all sources. Drops the lock of the interface at times.
 * If there is nothing, *waiting says whether there are pages that wait for a flush.
 */
static bool exmap_refill_search(struct exmap_pool *pool, struct exmap_interface *iface,
				unsigned int want, bool *refused, bool *waiting)
{
	struct exmap_group *group = pool->group;
	struct page *pages[EXMAP_STEAL_PAGES];
	unsigned int nr, rounds = 0, sleeps = 0;
	bool found = false, again;
	long moves;

	/* The interface has no page, so other searches need not look at it */
	if (list_empty(&iface->quarantine))
		exmap_pool_unstocked(pool, iface);
	atomic_inc(&group->searching);
	/* Pairs with exmap_pool_moved() */
	smp_mb__after_atomic();
	do {
		moves = atomic_long_read_acquire(&group->moves);
		*waiting = false;

		mutex_unlock(&iface->lock);
		/* Try the interfaces that are not busy before waiting for one */
		nr = exmap_refill_steal(pool, iface, NUMA_NO_NODE, false, pages,
					ARRAY_SIZE(pages), waiting);
		if (!nr)
			nr = exmap_refill_steal(pool, iface, NUMA_NO_NODE, true, pages,
						ARRAY_SIZE(pages), waiting);
		mutex_lock(&iface->lock);
		exmap_refill_add(pool, iface, pages, nr);

		/* The pool was closed meanwhile, or the process is being killed */
		if (!iface->local || fatal_signal_pending(current))
			break;
		*waiting |= exmap_quarantine_reap(pool, iface, true);
		found = iface->local->nr || exmap_refill_quick(pool, iface, want, refused) ||
			exmap_refill_nodes(pool, iface);
		/*
		 * All places were looked at between two readings of @moves. If they
		 * are equal, and nothing is in transit, no page was missed.
		 */
		if (!found && !*waiting && atomic_read_acquire(&group->transit)) {
			usleep_range(100, 1000);
			again = ++sleeps < EXMAP_REFILL_SLEEPS;
		} else {
			again = atomic_long_read(&group->moves) != moves &&
				++rounds < EXMAP_REFILL_ROUNDS;
		}
	} while (!found && !*waiting && again);
	atomic_dec(&group->searching);
	return found;
}

/*
 * Make other pools of the group give free pages back to the system, and fill the local
 * bundle with new ones instead. Drops the lock of the interface.
 */
static bool exmap_refill_others(struct exmap_pool *pool, struct exmap_interface *iface,
				unsigned int want, bool *refused, bool *waiting)
{
	unsigned int rounds = 0;
	bool freed;

	/* Pages that wait for a flush are to be had without that */
	if (*waiting || READ_ONCE(pool->group->nr_pools) == 1)
		return false;
	do {
		mutex_unlock(&iface->lock);
		freed = exmap_reclaim_others(pool, want, *refused, waiting);
		mutex_lock(&iface->lock);
		/* The pool was closed meanwhile */
		if (!iface->local)
			return false;
		if (!iface->local->nr && (freed || !*refused))
			exmap_refill_grow(pool, iface, want, refused);
		/* Another thread may have taken what was given back */
	} while (!iface->local->nr && freed && ++rounds < EXMAP_REFILL_OTHERS);
	return iface->local->nr;
}

/* How many pages to get at once: not too many bytes, if pages are large */
static unsigned int exmap_refill_want(const struct exmap_pool *pool, unsigned long want)
{
	const unsigned int most = max(EXMAP_BUNDLE_PAGES >> pool->order, 1);

	return clamp(want, min(16, most), most);
}

/* Carry out exmap_pool_refill() */
static int exmap_refill_any(struct exmap_pool *pool, struct exmap_interface *iface,
			    unsigned long want)
{
	bool refused = false, waiting = false, bound;

	want = exmap_refill_want(pool, want);
	if (!READ_ONCE(pool->closed)) {
		if (!iface->local)
			iface->local = exmap_bundle_alloc(EXMAP_GFP);
		if (!iface->local)
			return -ENOMEM;
		/* With each refill, an interleaving policy goes on to the next node */
		if (exmap_nodes_many() && !exmap_bundle_nr(iface->backup))
			exmap_interface_set_nid(pool->nodes, iface,
						mempolicy_choose_node(NUMA_NO_NODE, &bound));
		if (exmap_refill_quick(pool, iface, want, &refused) ||
		    exmap_refill_near(pool, iface) ||
		    (iface->local && exmap_refill_search(pool, iface, want, &refused, &waiting)) ||
		    (iface->local && exmap_refill_unseen(pool, iface, false)) ||
		    exmap_refill_others(pool, iface, want, &refused, &waiting)) {
			exmap_pool_stocked(pool, iface);
			return 0;
		}
	}
	if (READ_ONCE(pool->closed))
		return -ENXIO;
	if (fatal_signal_pending(current))
		return -EINTR;
	return waiting ? -EAGAIN : -ENOMEM;
}

/**
 * exmap_pool_refill() - Get free pages into an empty local bundle.
 * @pool: the pool
 * @iface: the interface, whose local bundle is empty or NULL
 * @want: number of pages that the caller could use, at least 1; a hint
 *
 * Context: Process context, may sleep. @iface->lock is held, and is dropped and
 * taken again where pages must come from other interfaces. No other lock of the
 * pool or of an interface is held.
 *
 * Return: 0 if @iface->local has at least one page. -EAGAIN if there is none, but
 * some are in quarantine: the caller flushes and tries again. -ENOMEM if all pages
 * of the pool are mapped, parked or in the hands of calls; if other threads kept
 * moving the free ones; or if the page allocator or the memory cgroup refuses a
 * page or a bundle. -ENXIO if the pool is closed, -EINTR if a fatal signal is
 * pending.
 */
int exmap_pool_refill(struct exmap_pool *pool, struct exmap_interface *iface,
		      unsigned long want)
{
	const int err = exmap_refill_any(pool, iface, want);

	trace_exmap_refill(pool, iface, exmap_bundle_nr(iface->local), err);
	return err;
}

/**
 * exmap_pool_release_unseen() - Give some unseen pages back to the system.
 * @pool: the pool
 *
 * Context: Process context. The lock of an interface may be held.
 * Return: the number of pages, 0 if a bounded search found none.
 */
unsigned int exmap_pool_release_unseen(struct exmap_pool *pool)
{
	struct page *pages[EXMAP_STEAL_PAGES];
	unsigned int nr;

	nr = exmap_pool_sweep_some(pool, false, pages, ARRAY_SIZE(pages));
	if (nr) {
		exmap_pool_release(pool, pages, nr);
		exmap_pool_arrive(pool);
	}
	return nr;
}
