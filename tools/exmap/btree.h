/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A B+tree of byte strings on top of the buffer manager
 *
 * A small value is stored in the leaf with its key, a larger one in an extent of adjacent
 * pages. Any number of threads may insert and look up concurrently.
 */
#ifndef BTREE_H
#define BTREE_H

#include <sys/types.h>

/* A page must hold at least three entries, so that a split always makes room */
#define BTREE_KEY_MAX		512
#define BTREE_INLINE_MAX	768	/* larger values are stored in an extent */
#define BTREE_ENTRY_OVERHEAD	24	/* bytes per entry, without key and value */

void btree_create(void);
/* Returns 0, -EEXIST, or -ENAMETOOLONG if the key is longer than BTREE_KEY_MAX */
int btree_insert(const void *key, size_t key_len, const void *data, size_t len);
/* Copies at most size bytes. Returns the full length of the value, or -ENOENT. */
ssize_t btree_lookup(const void *key, size_t key_len, void *buf, size_t size);

#endif
