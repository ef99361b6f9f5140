/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _EXMAP_MEMLOCK_H
#define _EXMAP_MEMLOCK_H

struct exmap_group;

int exmap_memlock_charge(struct exmap_group *group, unsigned long nr_pages);
void exmap_memlock_uncharge(struct exmap_group *group, unsigned long keep);

#endif /* _EXMAP_MEMLOCK_H */
