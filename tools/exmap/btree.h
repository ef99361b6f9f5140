/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A B+tree of byte strings on top of the buffer manager
 *
 * Small values stand in the leaf beside their key, larger ones in an extent of
 * adjacent pages of their own. Any number of threads may insert and look up.
 */
#ifndef BTREE_H
#define BTREE_H

#include <sys/types.h>

/* A page holds three entries at least, so that a split always helps */
#define BTREE_KEY_MAX		512
#define BTREE_INLINE_MAX	768	/* larger values get an extent */
#define BTREE_ENTRY_OVERHEAD	24	/* bytes in a page beside key and value */

void btree_create(void);
/* 0, or -EEXIST, or -ENAMETOOLONG for a key longer than BTREE_KEY_MAX */
int btree_insert(const void *key, size_t key_len, const void *data, size_t len);
/* Copies size bytes at most; the length of the value, or -ENOENT */
ssize_t btree_lookup(const void *key, size_t key_len, void *buf, size_t size);

#endif
