/* SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause) */
/*
 * What the files of the library share
 *
 * A backend carries out what the public functions have checked. There are two: exmap.c,
 * which leaves the work to the kernel, and stock.c, which does it itself.
 */
#ifndef LIBEXMAP_INTERNAL_H
#define LIBEXMAP_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "libexmap.h"

/* Regions of a pool: struct exm_vec has 16 bits for the number */
#define EXM_MAX_REGIONS	65536

/* Interfaces that exmap allows */
#define EXM_MAX_THREADS	65536

/* Vectors that one call of the kernel takes */
#define EXM_MAX_VECS	4096U

/* Slots that EXM_ALL_OR_NOTHING may concern */
#define EXM_ALL_OR_NOTHING_MAX	512

struct exm_stock_region;

/**
 * struct exm_ops - a backend
 *
 * All functions return a negative error number, after exm_fail(), when they fail.
 *
 * @pool_create: sets up what the backend needs of a pool
 * @pool_destroy: undoes @pool_create; there are no regions
 * @pool_resize: changes the amount of memory, in bytes
 * @pool_used: returns the number of bytes in use
 * @region_create: sets @number, @start and what the backend needs of a region
 * @region_destroy: undoes @region_create
 * @region_flush: does what is still to be done about freed pages
 * @region_query: see exm_region_query(); the range is inside the region
 * @call: carries out up to EXM_MAX_VECS vectors, at least one; returns how many failed
 */
struct exm_ops {
	int (*pool_create)(struct exm_pool *pool, const struct exm_pool_options *options);
	void (*pool_destroy)(struct exm_pool *pool);
	int (*pool_resize)(struct exm_pool *pool, uint64_t memory);
	int64_t (*pool_used)(struct exm_pool *pool);
	int (*region_create)(struct exm_region *region,
			     const struct exm_region_options *options);
	void (*region_destroy)(struct exm_region *region);
	int (*region_flush)(struct exm_region *region);
	int (*region_query)(struct exm_region *region, uint64_t first, uint64_t nr,
			    uint8_t *slots);
	int (*call)(struct exm_thread *thread, const struct exm_vec *vecs,
		    struct exm_result *results, unsigned int nr);
};

/**
 * struct exm_pool - a pool
 * @ops: the backend
 * @backend: which one it is
 * @features: enum exm_feature, as bits
 * @memory: bytes that the pages may take
 * @threads: number of interfaces
 * @users: number of thread handles that share each interface
 * @lock: protects @users, @nr_regions, and changes of @regions
 * @nr_regions: number of regions
 * @regions: the regions by number; NULL where there is none
 * @fd: exmap: the file that stands for the pool. stock: a pidfd of the process, or -1
 * @pid: stock: the process that has made the pool
 * @used: stock: bytes that are in slots
 * @guards: stock: empty slots have guard markers
 * @touch: exmap: touching an empty slot gives it a page
 */
struct exm_pool {
	const struct exm_ops *ops;
	enum exm_backend backend;
	unsigned int features;
	atomic_ullong memory;
	unsigned int threads;
	unsigned int *users;
	pthread_mutex_t lock;
	unsigned int nr_regions;
	struct exm_region **regions;
	int fd;
	pid_t pid;
	atomic_ullong used;
	bool guards;
	bool touch;
};

/**
 * struct exm_region - a region
 * @pool: its pool
 * @number: its number in the pool
 * @start: its address
 * @slots: its length in slots
 * @slot_size: bytes of a slot
 * @fd: exmap: the file whose region it is. stock: the file to read and write, or -1
 * @stock: stock: the state of the slots
 */
struct exm_region {
	struct exm_pool *pool;
	unsigned int number;
	char *start;
	uint64_t slots;
	uint64_t slot_size;
	int fd;
	struct exm_stock_region *stock;
};

/**
 * struct exm_thread - a thread handle
 * @pool: the pool
 * @interface: exmap: the interface that calls use
 */
struct exm_thread {
	struct exm_pool *pool;
	unsigned int interface;
};

extern const struct exm_ops exm_exmap_ops;
extern const struct exm_ops exm_stock_ops;

/* Set what exm_message() returns, and return -@error */
int exm_fail(int error, const char *format, ...);

/* Let readers start over when they fault in a range, or no longer */
void exm_reader_watch(const void *start, uint64_t length);
void exm_reader_unwatch(const void *start);

#endif
