/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _DUMMY_SYS_UIO_H
#define _DUMMY_SYS_UIO_H

#include <linux/uio.h>

#endif /* _DUMMY_SYS_UIO_H */
