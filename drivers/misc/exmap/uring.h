/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _EXMAP_URING_H
#define _EXMAP_URING_H

struct io_uring_cmd;

int exmap_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags);

#endif /* _EXMAP_URING_H */
