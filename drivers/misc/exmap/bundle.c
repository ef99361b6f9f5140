// SPDX-License-Identifier: GPL-2.0-only
/*
 * Bundles: arrays of pages that are passed on as a whole
 */
#include <linux/init.h>
#include <linux/slab.h>

#include "bundle.h"

/* A bundle is a little larger than a page, of which kmalloc() would waste half */
static struct kmem_cache *exmap_bundle_cache;

/**
 * exmap_bundles_init() - Set up the allocation of bundles.
 *
 * Return: 0, or -ENOMEM.
 */
int __init exmap_bundles_init(void)
{
	/* Aligned, so that bundles of two interfaces do not share a cache line */
	exmap_bundle_cache = KMEM_CACHE(exmap_bundle, SLAB_ACCOUNT | SLAB_HWCACHE_ALIGN);
	return exmap_bundle_cache ? 0 : -ENOMEM;
}

/**
 * exmap_bundles_exit() - Undo exmap_bundles_init().
 */
void exmap_bundles_exit(void)
{
	kmem_cache_destroy(exmap_bundle_cache);
}

/**
 * exmap_bundle_alloc() - Allocate an empty bundle.
 * @gfp: how; the bundle is charged to the memory cgroup in any case
 *
 * Return: the bundle, or NULL.
 */
struct exmap_bundle *exmap_bundle_alloc(gfp_t gfp)
{
	struct exmap_bundle *bundle = kmem_cache_alloc(exmap_bundle_cache, gfp);

	if (bundle) {
		bundle->nr = 0;
		bundle->generation = 0;
	}
	return bundle;
}

/**
 * exmap_bundle_free() - Free a bundle.
 * @bundle: an empty bundle, or NULL
 */
void exmap_bundle_free(struct exmap_bundle *bundle)
{
	if (bundle)
		kmem_cache_free(exmap_bundle_cache, bundle);
}
