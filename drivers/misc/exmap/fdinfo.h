/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _EXMAP_FDINFO_H
#define _EXMAP_FDINFO_H

struct file;
struct seq_file;

void exmap_show_fdinfo(struct seq_file *m, struct file *file);

#endif /* _EXMAP_FDINFO_H */
