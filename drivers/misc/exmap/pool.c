// SPDX-License-Identifier: GPL-2.0-only
/*
 * The pool: where free pages wait
 *
 * A free page lies in the local or the backup bundle of an interface, or in one
 * of the full bundles that belong to nobody, or is in quarantine (see exmap.h)
 * at the interface that freed it. An interface takes from its own bundles, then
 * a full one, then from the system while the pool is below its limit, then from
 * the other interfaces, and only then has quarantine flushed, or looks for pages
 * that came free unseen.
 */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/page_ref.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/topology.h>

#include "exmap.h"

/* The most that an interface takes from another, or from a sweep, at once */
#define EXMAP_STEAL_PAGES	64

/*
 * A limit of the memory cgroup must make the call fail, not kill somebody.
 * Never movable: a page that migrates under a long-term pin is no use here.
 */
#define EXMAP_GFP (GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

/* Parked pages that a refill looks at before it asks for new ones */
#define EXMAP_SWEEP_SOME	128

/* Pages in quarantine among which a slot's own is searched */
#define EXMAP_RESCUE_LOOK	1024

/* Interfaces, of all pools, that the shrinker looks at in one go */
#define EXMAP_SHRINK_LOOK	1024

/* Rounds in which a resize finds no page to give back, but sees some move */
#define EXMAP_RESIZE_ROUNDS	8

/* Bundles are a little larger than a page: kmalloc() would waste half of it */
static struct kmem_cache *exmap_bundle_cache;

static struct shrinker *exmap_shrinker;

/* All pools, and their shrink_next. Reclaim only tries to get the lock. */
static DEFINE_MUTEX(exmap_pools_lock);
static LIST_HEAD(exmap_pools);

static struct exmap_bundle *exmap_bundle_alloc(void)
{
	struct exmap_bundle *bundle;

	bundle = kmem_cache_alloc(exmap_bundle_cache,
				  GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN);
	if (bundle) {
		bundle->nr = 0;
		bundle->epoch = 0;
	}
	return bundle;
}

/**
 * exmap_pool_init() - Set up an empty pool and its interfaces.
 * @pool: zeroed memory
 * @limit: pages that the pool may own
 * @nr_interfaces: number of interfaces, at least 1
 *
 * Context: Process context, may sleep.
 * Return: 0, or -ENOMEM.
 */
int exmap_pool_init(struct exmap_pool *pool, unsigned long limit,
		    unsigned int nr_interfaces)
{
	pool->interfaces = kvcalloc(nr_interfaces, sizeof(*pool->interfaces),
				    GFP_KERNEL_ACCOUNT);
	if (!pool->interfaces)
		return -ENOMEM;
	pool->nodes = kcalloc(nr_node_ids, sizeof(*pool->nodes), GFP_KERNEL_ACCOUNT);
	if (!pool->nodes) {
		kvfree(pool->interfaces);
		pool->interfaces = NULL;
		return -ENOMEM;
	}
	for (unsigned int i = 0; i < nr_interfaces; i++) {
		mutex_init(&pool->interfaces[i].lock);
		INIT_LIST_HEAD(&pool->interfaces[i].quarantine);
	}
	for (unsigned int i = 0; i < nr_node_ids; i++) {
		spin_lock_init(&pool->nodes[i].lock);
		INIT_LIST_HEAD(&pool->nodes[i].full);
	}
	pool->nr_interfaces = nr_interfaces;
	pool->limit = limit;
	pool->epoch = 1;
	mutex_init(&pool->flush_lock);
	spin_lock_init(&pool->lock);
	INIT_LIST_HEAD(&pool->owned);
	INIT_LIST_HEAD(&pool->parked);

	mutex_lock(&exmap_pools_lock);
	list_add_tail(&pool->all, &exmap_pools);
	mutex_unlock(&exmap_pools_lock);
	return 0;
}

/**
 * exmap_pool_defer() - Let freed pages go through quarantine.
 * @pool: the pool, not in use yet
 * @quarantine: pages in quarantine at which a FREE shall flush, or 0 for a
 *	sixteenth of the pool's limit
 */
void exmap_pool_defer(struct exmap_pool *pool, unsigned long quarantine)
{
	pool->deferred = true;
	pool->quarantine = quarantine;
}

/* Drop the reference that travels with each page, and the bundle */
static void exmap_bundle_free(struct exmap_bundle *bundle)
{
	if (!bundle)
		return;
	for (unsigned int i = 0; i < bundle->nr; i++)
		put_page(bundle->pages[i]);
	kmem_cache_free(exmap_bundle_cache, bundle);
}

/**
 * exmap_pool_close() - Give up all pages.
 * @pool: the pool
 *
 * Pages that somebody else holds, a call or direct I/O, are freed when they let
 * go of them. The pool stays empty afterwards.
 *
 * Context: Process context, may sleep. No page of the pool is mapped, no call is
 * mapping or unmapping any, nobody is resizing it, and no CPU can reach any,
 * those in quarantine included.
 */
void exmap_pool_close(struct exmap_pool *pool)
{
	struct exmap_bundle *bundle, *next_bundle;
	struct page *page, *next;
	LIST_HEAD(bundles);
	LIST_HEAD(pages);

	/* After this, the shrinker does not know it */
	mutex_lock(&exmap_pools_lock);
	list_del_init(&pool->all);
	mutex_unlock(&exmap_pools_lock);

	spin_lock(&pool->lock);
	pool->closed = true;
	list_splice_init(&pool->owned, &pages);
	list_splice_init(&pool->parked, &pages);
	pool->nr_parked = 0;
	atomic_long_set(&pool->nr_pages, 0);
	spin_unlock(&pool->lock);

	for (unsigned int i = 0; i < pool->nr_interfaces; i++) {
		struct exmap_interface *iface = &pool->interfaces[i];

		/* After this, whoever takes the lock sees @closed */
		mutex_lock(&iface->lock);
		exmap_bundle_free(iface->local);
		exmap_bundle_free(iface->backup);
		exmap_bundle_free(iface->spare);
		iface->local = NULL;
		iface->backup = NULL;
		iface->spare = NULL;
		list_splice_init(&iface->quarantine, &bundles);
		mutex_unlock(&iface->lock);
		cond_resched();
	}
	/* Nobody adds to these any more */
	for (unsigned int i = 0; i < nr_node_ids; i++)
		list_splice_init(&pool->nodes[i].full, &bundles);
	list_for_each_entry_safe(bundle, next_bundle, &bundles, list) {
		exmap_bundle_free(bundle);
		cond_resched();
	}
	list_for_each_entry_safe(page, next, &pages, lru) {
		list_del(&page->lru);
		put_page(page);
		cond_resched();
	}
}

/**
 * exmap_pool_destroy() - Free what is left of a closed pool.
 * @pool: the pool; pool->interfaces may be NULL
 *
 * Context: Process context. Nobody uses the pool or an interface any more.
 */
void exmap_pool_destroy(struct exmap_pool *pool)
{
	kvfree(pool->interfaces);
	pool->interfaces = NULL;
	kfree(pool->nodes);
	pool->nodes = NULL;
}

/*
 * Free pages have turned up, or room for them: a search that is under way may
 * have been there already and must start over. Searches are rare: the counter
 * that all of them read is written to only while there is one.
 */
static void exmap_pool_moved(struct exmap_pool *pool)
{
	/*
	 * Either we see the search, or it sees what we did before. Pairs with
	 * the barrier in exmap_pool_search().
	 */
	smp_mb();
	if (atomic_read(&pool->searching))
		atomic_long_inc(&pool->moves);
}

/*
 * Pages that are on their way into a bundle: from where a search may have looked
 * for them already, to where it may have looked before. It waits for them.
 */
static void exmap_pool_depart(struct exmap_pool *pool)
{
	atomic_inc(&pool->transit);
}

static void exmap_pool_arrive(struct exmap_pool *pool)
{
	exmap_pool_moved(pool);
	/* Who sees no transit sees the move: pairs with exmap_pool_search() */
	atomic_dec_return_release(&pool->transit);
}

/* Give pages whose two references are the caller's back to the system */
static void exmap_pool_release(struct exmap_pool *pool, struct page **pages,
			       unsigned int nr)
{
	bool ours;

	spin_lock(&pool->lock);
	ours = !pool->closed;
	for (unsigned int i = 0; ours && i < nr; i++)
		list_del(&pages[i]->lru);
	if (ours)
		atomic_long_sub(nr, &pool->nr_pages);
	spin_unlock(&pool->lock);

	for (unsigned int i = 0; i < nr; i++) {
		if (ours)
			put_page(pages[i]);
		put_page(pages[i]);
	}
	exmap_pool_moved(pool);
}

/*
 * Set a page aside that somebody still holds. Without its second reference it
 * is found by exmap_pool_sweep() as soon as the others are gone.
 */
static void exmap_pool_park(struct exmap_pool *pool, struct page *page)
{
	spin_lock(&pool->lock);
	if (!pool->closed) {
		list_move_tail(&page->lru, &pool->parked);
		pool->nr_parked++;
	}
	spin_unlock(&pool->lock);
	put_page(page);
}

/*
 * Look at up to @budget of the parked or the owned pages for some whose count
 * is 1: nobody has them, not even an interface. Freezing the count makes sure
 * that just one sweep gets a page, and that no lockless get_user_pages() is
 * about to. The pages are in transit until exmap_pool_add_found().
 */
static unsigned int exmap_pool_sweep(struct exmap_pool *pool, bool parked,
				     unsigned long budget,
				     struct page **pages, unsigned int max)
{
	struct list_head *list = parked ? &pool->parked : &pool->owned;
	struct page *page, *next;
	unsigned long left;
	unsigned int nr = 0;

	spin_lock(&pool->lock);
	left = parked ? pool->nr_parked :
	       atomic_long_read(&pool->nr_pages) - pool->nr_parked;
	left = min(left, budget);
	while (left && nr < max && !fatal_signal_pending(current)) {
		unsigned int chunk = min(left, 256);

		left -= chunk;
		list_for_each_entry_safe(page, next, list, lru) {
			if (!chunk-- || nr == max)
				break;
			if (page_count(page) != 1 || !page_ref_freeze(page, 1))
				continue;
			page_ref_unfreeze(page, 2);
			if (parked) {
				list_move(&page->lru, &pool->owned);
				pool->nr_parked--;
			}
			if (!nr)
				exmap_pool_depart(pool);
			pages[nr++] = page;
		}
		/* The next chunk, or sweep, goes on where this one stopped */
		if (!list_entry_is_head(page, list, lru))
			list_rotate_to_front(&page->lru, list);
		cond_resched_lock(&pool->lock);
	}
	spin_unlock(&pool->lock);
	return nr;
}

/*
 * Get up to @nr pages from the system, with both references. Returns how many
 * there were. *refused is set if it was not the limit, but the page allocator or
 * the memory cgroup, that said no.
 */
static unsigned int exmap_pool_grow(struct exmap_pool *pool, struct page **pages,
				    unsigned int nr, gfp_t gfp, bool *refused)
{
	long owned = atomic_long_read(&pool->nr_pages);
	unsigned int got = 0;
	LIST_HEAD(list);
	bool closed, over;

	if (owned >= READ_ONCE(pool->limit))
		return 0;
	/* Reserve first: nobody may see the pool above its limit */
	exmap_pool_depart(pool);
	do {
		const unsigned long limit = READ_ONCE(pool->limit);

		if (owned >= limit)
			goto out;
		nr = min_t(unsigned long, nr, limit - owned);
	} while (!atomic_long_try_cmpxchg(&pool->nr_pages, &owned, owned + nr));
	/* That may have been the old limit: pairs with exmap_pool_resize() */
	over = owned + nr > READ_ONCE(pool->limit);

	while (got < nr && !over && !fatal_signal_pending(current)) {
		struct page *page = alloc_page(gfp);

		if (!page)
			break;
		get_page(page);
		list_add(&page->lru, &list);
		pages[got++] = page;
	}

	spin_lock(&pool->lock);
	closed = pool->closed;
	if (!closed) {
		list_splice(&list, &pool->owned);
		atomic_long_sub(nr - got, &pool->nr_pages);
	}
	spin_unlock(&pool->lock);

	if (closed) {
		while (got) {
			put_page(pages[--got]);
			put_page(pages[got]);
		}
	}
	*refused = !got && !over;
out:
	exmap_pool_arrive(pool);
	return got;
}

/* Let everybody have a full bundle */
static void exmap_pool_push_full(struct exmap_pool *pool, struct exmap_bundle *full)
{
	struct exmap_node *node = &pool->nodes[numa_node_id()];

	spin_lock(&node->lock);
	list_add(&full->list, &node->full);
	WRITE_ONCE(node->nr_full, node->nr_full + 1);
	spin_unlock(&node->lock);
}

/* Take one of them, or NULL. Its pages are in transit. */
static struct exmap_bundle *exmap_pool_pop_full(struct exmap_pool *pool,
						struct exmap_node *node)
{
	struct exmap_bundle *full;

	if (!READ_ONCE(node->nr_full))
		return NULL;
	spin_lock(&node->lock);
	full = list_first_entry_or_null(&node->full, struct exmap_bundle, list);
	if (full) {
		exmap_pool_depart(pool);
		list_del(&full->list);
		WRITE_ONCE(node->nr_full, node->nr_full - 1);
	}
	spin_unlock(&node->lock);
	return full;
}

/*
 * Put the pages of a bundle to the local ones of an interface, under its lock.
 * Returns a bundle that is empty now, or NULL.
 */
static struct exmap_bundle *exmap_pool_merge(struct exmap_pool *pool,
					     struct exmap_interface *iface,
					     struct exmap_bundle *bundle)
{
	struct exmap_bundle *local = iface->local;
	unsigned int room;

	if (!local || !local->nr) {
		iface->local = bundle;
		return local;
	}
	room = min(EXMAP_BUNDLE_PAGES - local->nr, bundle->nr);
	bundle->nr -= room;
	memcpy(local->pages + local->nr, bundle->pages + bundle->nr,
	       room * sizeof(*local->pages));
	local->nr += room;
	if (!bundle->nr)
		return bundle;

	iface->local = bundle;
	bundle = iface->backup;
	if (bundle && bundle->nr) {
		exmap_pool_push_full(pool, local);
		return NULL;
	}
	iface->backup = local;
	return bundle;
}

/* Keep an empty bundle for the next FREE, or drop it; NULL is fine */
static void exmap_pool_keep_spare(struct exmap_interface *iface,
				  struct exmap_bundle *bundle)
{
	if (iface->spare)
		exmap_bundle_free(bundle);
	else
		iface->spare = bundle;
}

/**
 * exmap_pool_add() - Give back pages, with the interface locked.
 * @pool: the pool
 * @iface: the interface that gets them
 * @pages: the pages, as for exmap_pool_put()
 * @nr: how many
 *
 * Context: Process context, may sleep. @iface->lock is held.
 */
void exmap_pool_add(struct exmap_pool *pool, struct exmap_interface *iface,
		    struct page **pages, unsigned int nr)
{
	struct exmap_bundle *fresh;

	while (nr) {
		struct page *page = pages[--nr];

		/* Without a local bundle the pool is closed, or was never used here */
		if (READ_ONCE(pool->closed) || !iface->local ||
		    unlikely(PageHWPoison(page))) {
			exmap_pool_release(pool, &page, 1);
			continue;
		}
		if (iface->local->nr == EXMAP_BUNDLE_PAGES) {
			fresh = iface->spare ?: exmap_bundle_alloc();
			iface->spare = NULL;
			if (!fresh) {
				/* Nowhere to put it; the limit lets another come */
				exmap_pool_release(pool, &page, 1);
				continue;
			}
			fresh->pages[fresh->nr++] = page;
			exmap_pool_keep_spare(iface, exmap_pool_merge(pool, iface, fresh));
			continue;
		}
		iface->local->pages[iface->local->nr++] = page;
	}
	exmap_pool_moved(pool);
}

/* Add pages that a sweep or a theft has found, if any */
static void exmap_pool_add_found(struct exmap_pool *pool,
				 struct exmap_interface *iface,
				 struct page **pages, unsigned int nr)
{
	if (!nr)
		return;
	exmap_pool_add(pool, iface, pages, nr);
	exmap_pool_arrive(pool);
}

/* Swap the local bundle, which is empty, for a full one if there is one */
static bool exmap_pool_take_full(struct exmap_pool *pool,
				 struct exmap_interface *iface)
{
	const unsigned int here = numa_node_id();
	struct exmap_bundle *bundle = NULL;

	for (unsigned int i = 0; i < nr_node_ids && !bundle; i++)
		bundle = exmap_pool_pop_full(pool, &pool->nodes[(here + i) % nr_node_ids]);
	if (!bundle)
		return false;
	exmap_pool_keep_spare(iface, iface->local);
	iface->local = bundle;
	exmap_pool_arrive(pool);
	return true;
}

/* Is a page free that was unmapped, and that no CPU can reach any more? */
static bool exmap_page_is_free(struct page *page)
{
	return page_ref_count(page) == 2 && !PageHWPoison(page);
}

/* It is not: poisoned pages leave the pool, others are parked */
static noinline void exmap_pool_reject(struct exmap_pool *pool, struct page *page)
{
	if (PageHWPoison(page))
		exmap_pool_release(pool, &page, 1);
	else
		exmap_pool_park(pool, page);
}

/*
 * Give pages that were unmapped and that no CPU can reach any more to an
 * interface, under its lock, as far as they are free. Returns a bundle that is
 * empty now, or NULL.
 */
static struct exmap_bundle *exmap_pool_sort(struct exmap_pool *pool,
					    struct exmap_interface *iface,
					    struct exmap_bundle *bundle)
{
	struct exmap_bundle *to = iface->local;
	struct page **end = bundle->pages + bundle->nr, **p;
	unsigned int nr;

	/* There is room in most cases */
	if (unlikely(!to || bundle->nr > EXMAP_BUNDLE_PAGES - to->nr))
		to = bundle;
	bundle->nr = 0;
	nr = to->nr;
	for (p = bundle->pages; p != end; p++) {
		struct page *page = *p;

		if (likely(exmap_page_is_free(page)))
			to->pages[nr++] = page;
		else
			exmap_pool_reject(pool, page);
	}
	to->nr = nr;
	return to == bundle ? exmap_pool_merge(pool, iface, bundle) : bundle;
}

/* Are the frees of an epoch flushed? */
static bool exmap_pool_is_flushed(const struct exmap_pool *pool, u64 epoch)
{
	/* Pairs with exmap_pool_flush_end() */
	return epoch <= smp_load_acquire(&pool->flushed);
}

/*
 * Free the pages of an interface that have left quarantine, under its lock. What
 * is too much for its local bundle is soon needed here, if it allocates as much
 * as it frees: it goes to everybody only if @all, or if it is still there at the
 * next flush. Returns whether there are others, which wait for a flush or a reap.
 */
static bool exmap_pool_reap(struct exmap_pool *pool, struct exmap_interface *iface,
			    bool all)
{
	/* Pairs with exmap_pool_flush_end() */
	const u64 flushed = smp_load_acquire(&pool->flushed);
	struct exmap_bundle *bundle, *next;
	bool reaped = false;

	list_for_each_entry_safe(bundle, next, &iface->quarantine, list) {
		if (bundle->epoch > flushed)
			break;
		if (!all && bundle->epoch == flushed && iface->local &&
		    bundle->nr > EXMAP_BUNDLE_PAGES - iface->local->nr)
			break;
		list_del(&bundle->list);
		exmap_pool_keep_spare(iface, exmap_pool_sort(pool, iface, bundle));
		reaped = true;
	}
	if (reaped)
		exmap_pool_moved(pool);
	return !list_empty(&iface->quarantine);
}

/* Has the interface never had any pages? It is only a hint without its lock. */
static bool exmap_pool_is_unused(struct exmap_interface *iface)
{
	return !READ_ONCE(iface->local) && list_empty(&iface->quarantine);
}

static unsigned int exmap_bundle_nr(const struct exmap_bundle *bundle)
{
	return bundle ? bundle->nr : 0;
}

/* Take up to @max pages from a bundle, which may be NULL */
static unsigned int exmap_bundle_take(struct exmap_bundle *bundle,
				      struct page **pages, unsigned int max)
{
	const unsigned int nr = min(exmap_bundle_nr(bundle), max);

	for (unsigned int i = 0; i < nr; i++)
		pages[i] = bundle->pages[--bundle->nr];
	return nr;
}

/* Half of what an interface has, but no more than @max: it needs some itself */
static unsigned int exmap_pool_rob(struct exmap_interface *victim,
				   struct page **pages, unsigned int max)
{
	struct exmap_bundle *bundle = victim->local;

	if (!exmap_bundle_nr(bundle))
		bundle = victim->backup;
	return exmap_bundle_take(bundle, pages,
				 min(max, DIV_ROUND_UP(exmap_bundle_nr(bundle), 2)));
}

/*
 * Take pages from another interface, with none of their locks held. The pages
 * are in transit until exmap_pool_add_found(). *waiting is set if there are
 * interfaces with pages that wait for a flush.
 */
static unsigned int exmap_pool_steal(struct exmap_pool *pool,
				     struct exmap_interface *thief, bool wait,
				     struct page **pages, unsigned int max,
				     bool *waiting)
{
	const unsigned int self = thief - pool->interfaces;
	unsigned int nr = 0;

	/* Start behind oneself, so that not all thieves meet at one victim */
	for (unsigned int i = 1; i <= pool->nr_interfaces && !nr; i++) {
		struct exmap_interface *victim =
			&pool->interfaces[(self + i) % pool->nr_interfaces];

		if (exmap_pool_is_unused(victim))
			continue;
		if (wait)
			mutex_lock(&victim->lock);
		else if (!mutex_trylock(&victim->lock))
			continue;
		*waiting |= exmap_pool_reap(pool, victim, true);
		nr = exmap_pool_rob(victim, pages, max);
		if (nr)
			exmap_pool_depart(pool);
		mutex_unlock(&victim->lock);
	}
	return nr;
}

/*
 * Fill the local bundle, which is empty, from where that costs little. *refused
 * is false at first; no memory is asked for again once it was refused.
 */
static bool exmap_pool_refill_quick(struct exmap_pool *pool,
				    struct exmap_interface *iface,
				    unsigned int want, bool *refused)
{
	struct page *pages[EXMAP_STEAL_PAGES];
	unsigned int nr;

	if (iface->backup && iface->backup->nr) {
		swap(iface->local, iface->backup);
		return true;
	}
	exmap_pool_reap(pool, iface, false);
	if (iface->local->nr || exmap_pool_take_full(pool, iface))
		return true;
	if (READ_ONCE(pool->nr_parked)) {
		nr = exmap_pool_sweep(pool, true, EXMAP_SWEEP_SOME,
				      pages, ARRAY_SIZE(pages));
		exmap_pool_add_found(pool, iface, pages, nr);
		if (iface->local->nr)
			return true;
	}
	if (!*refused)
		iface->local->nr = exmap_pool_grow(pool, iface->local->pages, want,
						   EXMAP_GFP | __GFP_ZERO, refused);
	return iface->local->nr;
}

/*
 * Fill it from anywhere. Drops the interface's lock and takes it again. If there
 * is nothing, *waiting says whether there are pages that wait for a flush.
 */
static bool exmap_pool_search(struct exmap_pool *pool,
			      struct exmap_interface *iface,
			      unsigned int want, bool *refused, bool *waiting)
{
	struct page *pages[EXMAP_STEAL_PAGES];
	bool found = false, again;
	unsigned int nr;
	long moves;

	atomic_inc(&pool->searching);
	/* Pairs with exmap_pool_moved() */
	smp_mb__after_atomic();
	do {
		moves = atomic_long_read_acquire(&pool->moves);
		*waiting = false;

		mutex_unlock(&iface->lock);
		/* Those that are busy can wait while others are not */
		nr = exmap_pool_steal(pool, iface, false, pages, ARRAY_SIZE(pages), waiting);
		if (!nr)
			nr = exmap_pool_steal(pool, iface, true, pages, ARRAY_SIZE(pages),
					      waiting);
		/* A flush takes less time than to look at all pages there are */
		if (!nr && !*waiting)
			nr = exmap_pool_sweep(pool, true, ULONG_MAX,
					      pages, ARRAY_SIZE(pages));
		if (!nr && !*waiting)
			nr = exmap_pool_sweep(pool, false, ULONG_MAX,
					      pages, ARRAY_SIZE(pages));
		cond_resched();
		mutex_lock(&iface->lock);
		exmap_pool_add_found(pool, iface, pages, nr);

		/* All the looks between two readings of @moves: none was missed */
		again = !fatal_signal_pending(current) && iface->local;
		if (again)
			found = iface->local->nr ||
				exmap_pool_refill_quick(pool, iface, want, refused);
	} while (!found && again && !*waiting &&
		 (atomic_read_acquire(&pool->transit) ||
		  atomic_long_read(&pool->moves) != moves));
	atomic_dec(&pool->searching);
	return found;
}

/**
 * exmap_pool_refill() - Get free pages into an empty local bundle.
 * @pool: the pool
 * @iface: the interface; its local bundle is empty or NULL
 * @want: how many pages the caller could use, at least 1; a hint
 *
 * Context: Process context, may sleep. @iface->lock is held; it is dropped and
 * taken again where pages must come from other interfaces. No other lock of
 * the pool or of an interface is held.
 *
 * Return: 0 if there is at least one page in @iface->local. -EAGAIN if there is
 * none, but there are some in quarantine: the caller shall flush. -ENOMEM if all
 * pages of the pool are mapped, parked or in the hands of a call, or if the
 * page allocator or the memory cgroup refuses and no page was free elsewhere;
 * also if there was no memory for the bundle. -ENXIO if the pool is closed,
 * -EINTR if a fatal signal is pending.
 */
int exmap_pool_refill(struct exmap_pool *pool, struct exmap_interface *iface,
		      unsigned long want)
{
	bool refused = false, waiting = false;

	want = clamp(want, 16, EXMAP_BUNDLE_PAGES);
	if (!READ_ONCE(pool->closed)) {
		if (!iface->local)
			iface->local = exmap_bundle_alloc();
		if (!iface->local)
			return -ENOMEM;
		if (exmap_pool_refill_quick(pool, iface, want, &refused) ||
		    exmap_pool_search(pool, iface, want, &refused, &waiting))
			return 0;
	}
	if (READ_ONCE(pool->closed))
		return -ENXIO;
	if (fatal_signal_pending(current))
		return -EINTR;
	return waiting ? -EAGAIN : -ENOMEM;
}

/**
 * exmap_pool_drop_poisoned() - Remove a poisoned page from a local bundle.
 * @pool: the pool
 * @iface: the interface
 *
 * Context: Process context. @iface->lock is held.
 * Return: true if there was one on top of the bundle.
 */
bool exmap_pool_drop_poisoned(struct exmap_pool *pool, struct exmap_interface *iface)
{
	struct exmap_bundle *local = iface->local;

	if (!local || !local->nr || !PageHWPoison(local->pages[local->nr - 1]))
		return false;
	exmap_pool_release(pool, &local->pages[--local->nr], 1);
	return true;
}

/**
 * exmap_pool_collect() - A bundle for the pages of a FREE.
 * @pool: the pool
 * @iface: the interface
 *
 * Context: Process context, may sleep. @iface->lock is held.
 * Return: iface->spare, which is empty; or, if the pool is deferred, the youngest
 * bundle in quarantine, with the present epoch and room for at least one page.
 * The caller adds pages, and calls exmap_pool_recycle(). NULL if there was no
 * memory.
 */
struct exmap_bundle *exmap_pool_collect(struct exmap_pool *pool,
					struct exmap_interface *iface)
{
	struct exmap_bundle *bundle = NULL;

	if (pool->deferred) {
		exmap_pool_reap(pool, iface, false);
		if (!list_empty(&iface->quarantine))
			bundle = list_last_entry(&iface->quarantine,
						 struct exmap_bundle, list);
		if (bundle && bundle->nr < EXMAP_BUNDLE_PAGES &&
		    !exmap_pool_is_flushed(pool, bundle->epoch))
			goto out;
	}
	if (unlikely(!iface->spare))
		iface->spare = exmap_bundle_alloc();
	bundle = iface->spare;
	if (!pool->deferred)
		return bundle;
	if (bundle) {
		iface->spare = NULL;
		list_add_tail(&bundle->list, &iface->quarantine);
	}
out:
	/* Show the bundle before looking: pairs with exmap_pool_flush_begin() */
	smp_mb();
	if (bundle)
		bundle->epoch = READ_ONCE(pool->epoch);
	return bundle;
}

/**
 * exmap_pool_find_waiting() - Look for the page that a slot has lost.
 * @pool: a deferred pool
 * @iface: the interface in whose quarantine to look
 * @index: the number of the slot
 * @bundle: set to the bundle that has the page
 *
 * Looks only at the youngest pages, since that must be cheaper than a flush.
 *
 * Context: Process context. @iface->lock is held.
 * Return: where the page is in the bundle; NULL if it was not found.
 */
struct page **exmap_pool_find_waiting(struct exmap_pool *pool,
				      struct exmap_interface *iface, pgoff_t index,
				      struct exmap_bundle **bundle)
{
	unsigned int budget = EXMAP_RESCUE_LOOK;
	struct exmap_bundle *b;

	list_for_each_entry_reverse(b, &iface->quarantine, list) {
		/* Pages this old may be from another life of the slot */
		if (exmap_pool_is_flushed(pool, b->epoch))
			break;
		for (unsigned int i = b->nr; i--; ) {
			if (page_folio(b->pages[i])->index == index) {
				*bundle = b;
				return &b->pages[i];
			}
			if (!--budget)
				return NULL;
		}
	}
	return NULL;
}

/**
 * exmap_pool_recycle() - Take the pages that a FREE has collected.
 * @pool: the pool
 * @iface: the interface. If the pool is not deferred, iface->spare holds pages
 *	that were unmapped, with the references of their entries, and that no
 *	CPU can reach any more.
 *
 * Pages that somebody else holds are parked, poisoned ones leave the pool; the
 * others are free from now on, or, if the pool is deferred, wait for a flush.
 *
 * Context: Process context, may sleep. @iface->lock is held since the call to
 * exmap_pool_collect().
 */
void exmap_pool_recycle(struct exmap_pool *pool, struct exmap_interface *iface)
{
	if (!pool->deferred)
		iface->spare = exmap_pool_sort(pool, iface, iface->spare);
	exmap_pool_moved(pool);
}

/**
 * exmap_pool_free() - Take one page that was unmapped.
 * @pool: the pool, which is not deferred
 * @iface: the interface; its local bundle is there and not full
 * @page: the page, with the reference of its entry; no CPU can reach it any more
 *
 * Context: Process context. @iface->lock is held.
 */
void exmap_pool_free(struct exmap_pool *pool, struct exmap_interface *iface,
		     struct page *page)
{
	if (likely(exmap_page_is_free(page)))
		iface->local->pages[iface->local->nr++] = page;
	else
		exmap_pool_reject(pool, page);
	exmap_pool_moved(pool);
}

/**
 * exmap_pool_flush_begin() - Begin to end the quarantine.
 * @pool: a deferred pool
 * @epoch: the epoch that the caller wants to see flushed
 *
 * Between this and exmap_pool_flush_end() the caller does the TLB flush.
 *
 * Context: Process context, may sleep. No lock of an interface is held.
 * Return: false, and there must be no exmap_pool_flush_end(), if somebody else
 * has flushed @epoch already.
 */
bool exmap_pool_flush_begin(struct exmap_pool *pool, u64 epoch)
{
	mutex_lock(&pool->flush_lock);
	if (exmap_pool_is_flushed(pool, epoch)) {
		mutex_unlock(&pool->flush_lock);
		return false;
	}
	WRITE_ONCE(pool->epoch, pool->epoch + 1);
	atomic_long_set(&pool->unflushed, 0);
	/*
	 * Who has the lock of an interface may be putting the old number into
	 * page tables. Who takes it from now on sees the new one. So does who
	 * begins to fill a quarantine that looks empty: pairs with
	 * exmap_pool_collect().
	 */
	smp_mb();
	for (unsigned int i = 0; i < pool->nr_interfaces; i++) {
		struct exmap_interface *iface = &pool->interfaces[i];

		if (list_empty(&iface->quarantine))
			continue;
		mutex_lock(&iface->lock);
		mutex_unlock(&iface->lock);
	}
	return true;
}

/**
 * exmap_pool_flush_end() - End the quarantine of what was freed before.
 * @pool: the pool
 *
 * The interfaces get to know when they look for pages.
 *
 * Context: After exmap_pool_flush_begin().
 */
void exmap_pool_flush_end(struct exmap_pool *pool)
{
	/* Pairs with exmap_pool_is_flushed() */
	smp_store_release(&pool->flushed, pool->epoch - 1);
	mutex_unlock(&pool->flush_lock);
	exmap_pool_moved(pool);
}

/**
 * exmap_pool_new() - A new page for a caller who will fill it.
 * @pool: the pool
 * @iface: the interface; its local bundle is empty or NULL
 *
 * Context: Process context, may sleep. @iface->lock is held.
 *
 * Return: a page with the content that it had before, for nobody to see, and
 * with one reference for the caller. NULL if there are pages in the local bundle
 * now, or the pool is at its limit, or there is no memory: exmap_pool_refill()
 * knows more.
 */
struct page *exmap_pool_new(struct exmap_pool *pool, struct exmap_interface *iface)
{
	bool refused = true;	/* so that it is not filled with new ones */
	struct page *page;

	if (!iface->local)
		iface->local = exmap_bundle_alloc();
	if (!iface->local || READ_ONCE(pool->closed) ||
	    exmap_pool_refill_quick(pool, iface, 1, &refused))
		return NULL;
	return exmap_pool_grow(pool, &page, 1, EXMAP_GFP, &refused) ? page : NULL;
}

/**
 * exmap_pool_put() - Give back pages that were taken and not mapped.
 * @pool: the pool, which may have been closed since
 * @iface: the interface that gets them
 * @pages: the pages, with one reference each besides the pool's own
 * @nr: how many, 0 is fine
 *
 * Context: Process context, may sleep. No lock of the pool or of an interface
 * is held.
 */
void exmap_pool_put(struct exmap_pool *pool, struct exmap_interface *iface,
		    struct page **pages, unsigned int nr)
{
	if (!nr)
		return;
	mutex_lock(&iface->lock);
	exmap_pool_add(pool, iface, pages, nr);
	mutex_unlock(&iface->lock);
}

/* Give back full bundles, and at least @max pages if there are so many */
static unsigned long exmap_pool_trim_full(struct exmap_pool *pool, unsigned long max)
{
	unsigned long freed = 0;

	for (unsigned int i = 0; i < nr_node_ids; i++) {
		struct exmap_bundle *full;

		while (freed < max && (full = exmap_pool_pop_full(pool, &pool->nodes[i]))) {
			exmap_pool_release(pool, full->pages, full->nr);
			exmap_pool_arrive(pool);
			freed += full->nr;
			kmem_cache_free(exmap_bundle_cache, full);
			cond_resched();
		}
	}
	return freed;
}

/* Give back up to @max free pages of an interface, under its lock */
static unsigned long exmap_pool_trim(struct exmap_pool *pool,
				     struct exmap_interface *iface, unsigned long max)
{
	struct page *pages[EXMAP_STEAL_PAGES];
	unsigned long freed = 0;
	unsigned int nr;

	exmap_pool_reap(pool, iface, true);
	do {
		const unsigned int some = min(max - freed, ARRAY_SIZE(pages));

		nr = exmap_bundle_take(iface->backup, pages, some);
		nr += exmap_bundle_take(iface->local, pages + nr, some - nr);
		if (!nr)
			break;
		exmap_pool_release(pool, pages, nr);
		freed += nr;
	} while (freed < max);
	return freed;
}

/* Give back up to @max pages that came free unseen */
static unsigned long exmap_pool_trim_unseen(struct exmap_pool *pool, bool parked,
					    unsigned long max)
{
	struct page *pages[EXMAP_STEAL_PAGES];
	unsigned long freed = 0;
	unsigned int nr;

	do {
		nr = exmap_pool_sweep(pool, parked, ULONG_MAX, pages,
				      min(max - freed, ARRAY_SIZE(pages)));
		if (!nr)
			break;
		exmap_pool_release(pool, pages, nr);
		exmap_pool_arrive(pool);
		freed += nr;
	} while (freed < max);
	return freed;
}

/* Give back up to @max pages from anywhere */
static unsigned long exmap_pool_trim_all(struct exmap_pool *pool, unsigned long max)
{
	unsigned long freed = exmap_pool_trim_full(pool, max);

	for (unsigned int i = 0; i < pool->nr_interfaces && freed < max; i++) {
		struct exmap_interface *iface = &pool->interfaces[i];

		if (exmap_pool_is_unused(iface))
			continue;
		mutex_lock(&iface->lock);
		freed += exmap_pool_trim(pool, iface, max - freed);
		mutex_unlock(&iface->lock);
		cond_resched();
	}
	if (freed < max)
		freed += exmap_pool_trim_unseen(pool, true, max - freed);
	if (freed < max)
		freed += exmap_pool_trim_unseen(pool, false, max - freed);
	return freed;
}

/**
 * exmap_pool_resize() - Change how many pages the pool may own.
 * @pool: the pool
 * @limit: the new number, at least 1
 *
 * Pages beyond it are given back to the system, if they are free. What waits for
 * a flush is not.
 *
 * Context: Process context, may sleep. No other lock of the pool or of an
 * interface is held; the caller makes sure that this is not done twice at a
 * time, nor with exmap_pool_close().
 *
 * Return: 0; -EBUSY if too many pages are mapped, parked, in quarantine or in the
 * hands of calls, -EINTR if a fatal signal is pending: then the limit is as
 * before.
 */
int exmap_pool_resize(struct exmap_pool *pool, unsigned long limit)
{
	const unsigned long before = pool->limit;
	unsigned int rounds = 0;
	int err = 0;

	WRITE_ONCE(pool->limit, limit);
	/* Either growth sees it, or we see what has grown: pairs with exmap_pool_grow() */
	smp_mb();
	atomic_inc(&pool->searching);
	/* Pairs with exmap_pool_moved() */
	smp_mb__after_atomic();
	for (;;) {
		const long moves = atomic_long_read_acquire(&pool->moves);
		const long excess = atomic_long_read(&pool->nr_pages) - limit;

		if (excess <= 0)
			break;
		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}
		if (exmap_pool_trim_all(pool, excess))
			continue;
		/* Pages on the move may have been missed; but they may move all the time */
		if (atomic_read_acquire(&pool->transit)) {
			cond_resched();
			continue;
		}
		if (atomic_long_read(&pool->moves) == moves ||
		    ++rounds == EXMAP_RESIZE_ROUNDS) {
			err = -EBUSY;
			break;
		}
	}
	atomic_dec(&pool->searching);
	if (err) {
		WRITE_ONCE(pool->limit, before);
		exmap_pool_moved(pool);
	}
	return err;
}

/*
 * Look at interfaces that are not in use just now, and give back up to @max of
 * their free pages, or, if it is 0, only count them. Under exmap_pools_lock.
 */
static unsigned long exmap_pool_shrink(struct exmap_pool *pool, unsigned long max,
				       unsigned int *budget)
{
	const unsigned int first = pool->shrink_next;
	unsigned long nr = 0;

	for (unsigned int i = 0; i < pool->nr_interfaces && *budget; i++, --*budget) {
		struct exmap_interface *iface =
			&pool->interfaces[(first + i) % pool->nr_interfaces];

		if (exmap_pool_is_unused(iface) || !mutex_trylock(&iface->lock))
			continue;
		if (max) {
			nr += exmap_pool_trim(pool, iface, max - nr);
			pool->shrink_next = iface - pool->interfaces;
		} else {
			exmap_pool_reap(pool, iface, true);
			nr += exmap_bundle_nr(iface->local) +
			      exmap_bundle_nr(iface->backup);
		}
		mutex_unlock(&iface->lock);
		if (max && nr >= max)
			break;
	}
	return nr;
}

static unsigned long exmap_shrinker_count(struct shrinker *shrinker,
					  struct shrink_control *sc)
{
	unsigned int budget = EXMAP_SHRINK_LOOK;
	struct exmap_pool *pool;
	unsigned long nr = 0;

	/* Who holds the lock, or that of an interface, may be waiting for us */
	if (!mutex_trylock(&exmap_pools_lock))
		return 0;
	list_for_each_entry(pool, &exmap_pools, all) {
		for (unsigned int i = 0; i < nr_node_ids; i++)
			nr += READ_ONCE(pool->nodes[i].nr_full) * EXMAP_BUNDLE_PAGES;
		nr += exmap_pool_shrink(pool, 0, &budget);
		if (!budget)
			break;
	}
	mutex_unlock(&exmap_pools_lock);
	return nr;
}

static unsigned long exmap_shrinker_scan(struct shrinker *shrinker,
					 struct shrink_control *sc)
{
	unsigned int budget = EXMAP_SHRINK_LOOK;
	struct exmap_pool *pool, *next;
	unsigned long freed = 0;
	LIST_HEAD(done);

	if (!mutex_trylock(&exmap_pools_lock))
		return SHRINK_STOP;
	list_for_each_entry_safe(pool, next, &exmap_pools, all) {
		freed += exmap_pool_trim_full(pool, sc->nr_to_scan - freed);
		if (freed < sc->nr_to_scan)
			freed += exmap_pool_shrink(pool, sc->nr_to_scan - freed, &budget);
		if (freed >= sc->nr_to_scan || !budget)
			break;
		/* The next time, it is the last */
		list_move_tail(&pool->all, &done);
	}
	list_splice_tail(&done, &exmap_pools);
	mutex_unlock(&exmap_pools_lock);
	return freed ?: SHRINK_STOP;
}

/**
 * exmap_pool_module_init() - Set up what all pools share.
 * Return: 0, or -ENOMEM.
 */
int __init exmap_pool_module_init(void)
{
	/* Aligned: the bundles of two interfaces must not meet in a cache line */
	exmap_bundle_cache = KMEM_CACHE(exmap_bundle, SLAB_ACCOUNT | SLAB_HWCACHE_ALIGN);
	if (!exmap_bundle_cache)
		return -ENOMEM;
	exmap_shrinker = shrinker_alloc(0, "exmap");
	if (!exmap_shrinker) {
		kmem_cache_destroy(exmap_bundle_cache);
		return -ENOMEM;
	}
	exmap_shrinker->count_objects = exmap_shrinker_count;
	exmap_shrinker->scan_objects = exmap_shrinker_scan;
	shrinker_register(exmap_shrinker);
	return 0;
}

/**
 * exmap_pool_module_exit() - Undo exmap_pool_module_init().
 */
void exmap_pool_module_exit(void)
{
	shrinker_free(exmap_shrinker);
	kmem_cache_destroy(exmap_bundle_cache);
}
