/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _EXMAP_ACTION_H
#define _EXMAP_ACTION_H

struct exmap;
struct exmap_action_params;

long exmap_action(struct exmap *exmap, const struct exmap_action_params __user *arg);

#endif /* _EXMAP_ACTION_H */
