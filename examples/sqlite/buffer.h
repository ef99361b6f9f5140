/* SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause) */
/*
 * A buffer of a fixed size for the pages of many files
 *
 * Each file has a region, in which every page has its address. A page is *pinned* while
 * somebody has a pointer to it. Pages that are not pinned are evicted in batches, those first
 * that have not been used since the hand of the clock has passed them.
 */
#ifndef BUFFER_H
#define BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer_file;

struct buffer_stats {
	uint64_t misses, read, evicted;
	uint64_t room;		/* bytes */
	bool exmap;		/* as opposed to anonymous memory */
};

int buffer_init(uint64_t bytes, bool stock);
const char *buffer_message(void);
void buffer_stats(struct buffer_stats *stats);

struct buffer_file *buffer_open(const char *path, size_t page_size, uint64_t size);
void buffer_close(struct buffer_file *file);
void *buffer_pin(struct buffer_file *file, uint64_t offset, size_t size, uint64_t end);
void buffer_unpin(struct buffer_file *file, uint64_t offset);
void buffer_written(struct buffer_file *file, uint64_t offset, const void *data, size_t size);
void buffer_forget(struct buffer_file *file, uint64_t from);
uint64_t buffer_version(struct buffer_file *file);
void buffer_set_version(struct buffer_file *file, uint64_t version);

#endif
