// SPDX-License-Identifier: GPL-2.0-only
/*
 * Nodes: free pages that belong to no interface, by the NUMA node that they are on
 */
#include <linux/jiffies.h>
#include <linux/nodemask.h>
#include <linux/slab.h>

#include "bundle.h"
#include "node.h"

DEFINE_STATIC_KEY_FALSE(exmap_numa);

/**
 * exmap_nodes_new() - Set up the nodes of a pool.
 *
 * Context: Process context, may sleep.
 * Return: an array with an element for each possible node, to be freed with kfree(); NULL
 * without memory.
 */
struct exmap_node *exmap_nodes_new(void)
{
	struct exmap_node *nodes = kcalloc(nr_node_ids, sizeof(*nodes), EXMAP_GFP);

	for (int i = 0; nodes && i < nr_node_ids; i++) {
		spin_lock_init(&nodes[i].lock);
		INIT_LIST_HEAD(&nodes[i].bundles);
		nodes[i].full_until = jiffies;
	}
	return nodes;
}

/**
 * exmap_nodes_look() - Look whether the machine has several nodes.
 *
 * Memory of another node may have come since the last time.
 *
 * Context: Process context, may sleep. No locks are held: what is done for CPUs that come or
 * go may need the mmap_lock.
 */
void exmap_nodes_look(void)
{
	if (num_online_nodes() > 1 && !exmap_nodes_many())
		static_branch_enable(&exmap_numa);
}

static void exmap_node_count(struct exmap_node *node, long nr)
{
	WRITE_ONCE(node->nr, node->nr + nr);
}

/**
 * exmap_node_push() - Leave a full bundle to all interfaces.
 * @node: the node that the pages are on
 * @full: the bundle
 *
 * Context: Any context in which spin locks may be taken, not an interrupt.
 */
void exmap_node_push(struct exmap_node *node, struct exmap_bundle *full)
{
	spin_lock(&node->lock);
	list_add(&full->list, &node->bundles);
	exmap_node_count(node, full->nr);
	spin_unlock(&node->lock);
}

/**
 * exmap_node_pop() - Take a bundle, a full one if there is one.
 * @node: the node
 * @transit: exmap_group::transit, which is incremented for the bundle
 *
 * Context: As exmap_node_push().
 * Return: the bundle, or NULL.
 */
struct exmap_bundle *exmap_node_pop(struct exmap_node *node, atomic_t *transit)
{
	struct exmap_bundle *bundle;

	if (!READ_ONCE(node->nr))
		return NULL;
	spin_lock(&node->lock);
	bundle = list_first_entry_or_null(&node->bundles, struct exmap_bundle, list);
	if (bundle)
		list_del(&bundle->list);
	else
		swap(bundle, node->rest);
	if (bundle) {
		atomic_inc(transit);
		exmap_node_count(node, -(long)bundle->nr);
	}
	spin_unlock(&node->lock);
	return bundle;
}

/**
 * exmap_node_add() - Leave pages to all interfaces.
 * @node: the node that the pages are on
 * @pages: the pages
 * @nr: their number
 *
 * Context: As exmap_node_push(). Does not allocate memory with reclaim.
 * Return: the number of pages, from the first on, for which there was no memory for a bundle.
 */
unsigned int exmap_node_add(struct exmap_node *node, struct page **pages, unsigned int nr)
{
	const unsigned int before = nr;

	spin_lock(&node->lock);
	while (nr) {
		struct exmap_bundle *rest = node->rest;

		if (!rest)
			rest = exmap_bundle_alloc(GFP_NOWAIT | __GFP_NOMEMALLOC);
		if (!rest)
			break;
		node->rest = rest;
		rest->pages[rest->nr++] = pages[--nr];
		if (rest->nr == EXMAP_BUNDLE_PAGES) {
			list_add(&rest->list, &node->bundles);
			node->rest = NULL;
		}
	}
	exmap_node_count(node, before - nr);
	spin_unlock(&node->lock);
	return nr;
}

/**
 * exmap_node_take() - Take pages.
 * @node: the node
 * @pages: where the pages go
 * @max: how many to take at most
 * @transit: exmap_group::transit, which is incremented if any are taken
 *
 * Context: As exmap_node_push().
 * Return: the number of pages taken.
 */
unsigned int exmap_node_take(struct exmap_node *node, struct page **pages,
			     unsigned int max, atomic_t *transit)
{
	struct exmap_bundle *empty = NULL;
	unsigned int nr;

	if (!READ_ONCE(node->nr))
		return 0;
	spin_lock(&node->lock);
	if (!node->rest) {
		node->rest = list_first_entry_or_null(&node->bundles, struct exmap_bundle,
						      list);
		if (node->rest)
			list_del(&node->rest->list);
	}
	nr = exmap_bundle_take(node->rest, pages, max);
	if (nr) {
		atomic_inc(transit);
		exmap_node_count(node, -(long)nr);
	}
	if (!exmap_bundle_nr(node->rest))
		swap(empty, node->rest);
	spin_unlock(&node->lock);
	exmap_bundle_free(empty);
	return nr;
}

/**
 * exmap_node_splice() - Take all bundles of a pool that is closed.
 * @node: the node
 * @bundles: the list to which they are added
 *
 * Context: Nothing else uses the node any more.
 */
void exmap_node_splice(struct exmap_node *node, struct list_head *bundles)
{
	list_splice_init(&node->bundles, bundles);
	if (node->rest)
		list_add(&node->rest->list, bundles);
	node->rest = NULL;
	WRITE_ONCE(node->nr, 0);
}
