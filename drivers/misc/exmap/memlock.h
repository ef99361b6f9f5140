/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _EXMAP_MEMLOCK_H
#define _EXMAP_MEMLOCK_H

struct exmap;

int exmap_memlock_charge(struct exmap *exmap, unsigned long nr_pages);
void exmap_memlock_uncharge(struct exmap *exmap, unsigned long keep);

#endif /* _EXMAP_MEMLOCK_H */
