/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Bundles: arrays of pages that are passed on as a whole
 */
#ifndef _EXMAP_BUNDLE_H
#define _EXMAP_BUNDLE_H

#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/minmax.h>
#include <linux/mm_types.h>
#include <linux/types.h>

/*
 * All memory of an exmap is charged to the memory cgroup of the program, whose limit must
 * make a call fail, instead of having a process killed. Pages are never movable: a page
 * that migrates while it is pinned for long is of no use here.
 */
#define EXMAP_GFP	(GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

/* Pages that a bundle holds, and so pages that one TLB flush of a FREE covers */
#define EXMAP_BUNDLE_PAGES	512

/**
 * struct exmap_bundle - an array of pages
 * @list: Entry of exmap_node::bundles or of exmap_interface::quarantine.
 * @nr: Number of pages.
 * @generation: In quarantine: the newest generation in which a page was freed.
 * @pages: The pages, each with a mapping reference.
 */
struct exmap_bundle {
	struct list_head list;
	unsigned int nr;
	u64 generation;
	struct page *pages[EXMAP_BUNDLE_PAGES];
};

int exmap_bundles_init(void);
void exmap_bundles_exit(void);
struct exmap_bundle *exmap_bundle_alloc(gfp_t gfp);
void exmap_bundle_free(struct exmap_bundle *bundle);

/**
 * exmap_bundle_nr() - Return the number of pages in a bundle.
 * @bundle: the bundle, or NULL
 *
 * Return: the number of pages.
 */
static inline unsigned int exmap_bundle_nr(const struct exmap_bundle *bundle)
{
	return bundle ? bundle->nr : 0;
}

/**
 * exmap_bundle_take() - Take pages out of a bundle.
 * @bundle: the bundle, or NULL
 * @pages: where the pages go
 * @max: how many to take at most
 *
 * Return: the number of pages taken.
 */
static inline unsigned int exmap_bundle_take(struct exmap_bundle *bundle,
					     struct page **pages, unsigned int max)
{
	const unsigned int nr = min(exmap_bundle_nr(bundle), max);

	for (unsigned int i = 0; i < nr; i++)
		pages[i] = bundle->pages[--bundle->nr];
	return nr;
}

#endif /* _EXMAP_BUNDLE_H */
