/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _EXMAP_SETUP_H
#define _EXMAP_SETUP_H

#include <linux/types.h>

struct exmap_ioctl_setup;
struct exmap_setup2;
struct file;

int exmap_setup(struct file *file, const struct exmap_ioctl_setup __user *arg);
int exmap_setup2(struct file *file, const struct exmap_setup2 __user *arg);
int exmap_resize(struct file *file, unsigned long nr_pages);

#endif /* _EXMAP_SETUP_H */
