/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Nodes: free pages that belong to no interface, by the NUMA node that they are on
 *
 * On a machine with several nodes, the bundles of an interface have pages of one node only,
 * which is one that the memory policy of the thread that used it last is content with. Pages
 * that are freed and lie on another node wait here for a thread that prefers that one. An
 * interface gets pages of another node where the pool has none of the right one.
 */
#ifndef _EXMAP_NODE_H
#define _EXMAP_NODE_H

#include <linux/atomic.h>
#include <linux/cache.h>
#include <linux/jump_label.h>
#include <linux/list.h>
#include <linux/mempolicy.h>
#include <linux/mm_types.h>
#include <linux/spinlock.h>
#include <linux/types.h>

struct exmap_bundle;

/**
 * struct exmap_node - free pages of a NUMA node that belong to no interface
 * @lock: Protects the other fields.
 * @bundles: Full bundles.
 * @rest: A bundle that is not full, or NULL.
 * @nr: Number of pages in @bundles and @rest. May be read without @lock, as a hint.
 * @nr_stocked: Number of interfaces that may have free pages of the node.
 * @full_until: Until this time, in jiffies, threads look for pages of the node only in
 *	@bundles and @rest, because a moment ago neither the system nor other interfaces had
 *	any. A hint.
 */
struct exmap_node {
	spinlock_t lock;	/* see above */
	struct list_head bundles;
	struct exmap_bundle *rest;
	unsigned long nr;
	atomic_t nr_stocked;
	unsigned long full_until;
} ____cacheline_aligned_in_smp;

DECLARE_STATIC_KEY_FALSE(exmap_numa);

struct exmap_node *exmap_nodes_new(void);
void exmap_nodes_look(void);
void exmap_node_push(struct exmap_node *node, struct exmap_bundle *full);
struct exmap_bundle *exmap_node_pop(struct exmap_node *node, atomic_t *transit);
unsigned int exmap_node_add(struct exmap_node *node, struct page **pages, unsigned int nr);
unsigned int exmap_node_take(struct exmap_node *node, struct page **pages,
			     unsigned int max, atomic_t *transit);
void exmap_node_splice(struct exmap_node *node, struct list_head *bundles);

/**
 * exmap_nodes_many() - Test whether it makes a difference which node a page is on.
 *
 * Return: true if the machine has had several nodes when exmap_nodes_look() looked.
 */
static __always_inline bool exmap_nodes_many(void)
{
	return static_branch_unlikely(&exmap_numa);
}

#endif /* _EXMAP_NODE_H */
