/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reclaim: how free pages go back to the system
 *
 * Pages go back under memory pressure, through a shrinker that knows the memory
 * cgroup that each pool is charged to, when the limit is lowered, and to make room for
 * pages of another size.
 */
#ifndef _EXMAP_RECLAIM_H
#define _EXMAP_RECLAIM_H

#include <linux/types.h>

struct exmap_group;
struct exmap_pool;
struct page;

int exmap_reclaim_init(void);
void exmap_reclaim_exit(void);
void exmap_reclaim_update(struct exmap_pool *pool, struct page *page);
void exmap_reclaim_remove(struct exmap_pool *pool);
bool exmap_reclaim_others(struct exmap_pool *pool, unsigned int want, bool refused,
			  bool *waiting);
int exmap_group_resize(struct exmap_group *group, unsigned long limit);

#endif /* _EXMAP_RECLAIM_H */
