/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _EXMAP_QUERY_H
#define _EXMAP_QUERY_H

#include <linux/types.h>

struct exmap;
struct exmap_query;

long exmap_query(struct exmap *exmap, const struct exmap_query __user *arg);

#endif /* _EXMAP_QUERY_H */
