/* SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause) */
#ifndef EXMAP_VFS_H
#define EXMAP_VFS_H

#include <stdint.h>

int exmap_vfs_register(uint64_t bytes);

#endif
