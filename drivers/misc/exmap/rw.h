/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _EXMAP_RW_H
#define _EXMAP_RW_H

#include <linux/types.h>

struct iov_iter;
struct kiocb;

ssize_t exmap_read_iter(struct kiocb *iocb, struct iov_iter *to);
ssize_t exmap_write_iter(struct kiocb *iocb, struct iov_iter *from);

#endif /* _EXMAP_RW_H */
