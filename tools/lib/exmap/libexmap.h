/* SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause) */
/*
 * libexmap: a virtual range whose pages a buffer manager places itself
 *
 * A *pool* is an amount of memory. A *region* is a range of addresses, made of slots of one
 * size, EXM_PAGE_SIZE bytes if nothing else is asked for, and possibly the file that belongs
 * to it. A slot is empty, or has a page of the pool, of the size of the slot; only calls
 * change which. A *thread* handle is what calls are made through.
 *
 * Where the kernel has exmap, the library uses it. Elsewhere, it does the same with
 * anonymous memory, madvise() and preadv(); exm_pool_features() says what is missing then.
 *
 * Functions that return int return 0 or a positive number on success, and a negative error
 * number on failure. exm_message() explains the last failure of the calling thread. A pool
 * belongs to the process that has made it: a child has neither its regions nor its pages.
 */
#ifndef LIBEXMAP_H
#define LIBEXMAP_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EXM_PAGE_SIZE		4096
#define EXM_MAX_SLOT_SIZE	(2 << 20)

struct exm_pool;
struct exm_region;
struct exm_thread;

enum exm_backend {
	EXM_BACKEND_AUTO,	/* exmap if the kernel has it, otherwise stock */
	EXM_BACKEND_EXMAP,
	EXM_BACKEND_STOCK,	/* any Linux kernel */
};

enum exm_feature {
	EXM_FEATURE_FAULTS	= 1,	/* touching an empty slot raises SIGSEGV */
	EXM_FEATURE_DIRTY	= 2,	/* EXM_DIRTY writes only what has changed */
	EXM_FEATURE_WHOLE_READS	= 4,	/* no thread sees a page that is half read */
};

enum exm_pool_flags {
	EXM_POOL_DEFERRED	= 1,	/* one TLB shootdown serves many FREEs */
	EXM_POOL_NO_FAULTS	= 2,	/* do without EXM_FEATURE_FAULTS if it costs time */
	EXM_POOL_TOUCH		= 4,	/* touching an empty slot gives it some page */
};

struct exm_pool_options {
	uint64_t memory;	/* bytes that the pages may take */
	uint32_t threads;	/* threads that do not share locks; 0: as many as CPUs */
	uint32_t backend;	/* enum exm_backend */
	uint64_t flags;		/* enum exm_pool_flags */
	uint64_t reserved[4];	/* 0 */
};

struct exm_region_options {
	uint64_t length;	/* bytes */
	uint64_t offset;	/* byte of the file that is the first one of the region */
	int32_t fd;		/* the file, or -1 */
	uint32_t flags;		/* 0 */
	uint64_t slot_size;	/* bytes, a power of two up to EXM_MAX_SLOT_SIZE; 0: 4096 */
	uint64_t reserved[3];	/* 0 */
};

enum exm_opcode {
	EXM_READ,	/* bring in pages from the file */
	EXM_ALLOC,	/* bring in pages with any content */
	EXM_FREE,	/* evict pages, without writing them */
	EXM_WRITE,	/* write pages to the file */
	EXM_MOVE,	/* bring pages to another NUMA node */
};

enum exm_vec_flags {
	EXM_ZERO		= 1,	/* ALLOC: zeroes; READ: zeroes past the end */
	EXM_ALL_OR_NOTHING	= 2,	/* ALLOC: on failure as it was */
	EXM_REPLACE		= 4,	/* READ: pages that are there as well */
	EXM_DIRTY		= 8,	/* WRITE: only what has changed */
	EXM_DSYNC		= 16,	/* WRITE: to stable storage */
};

/* What is asked of some adjacent slots. The layout is that of struct exmap_vec. */
struct exm_vec {
	uint64_t page;		/* number of the first slot in the region */
	uint16_t region;	/* exm_region_number() */
	uint16_t len;		/* number of slots */
	uint16_t node;		/* MOVE: where to, else 0 */
	uint8_t flags;		/* enum exm_vec_flags */
	uint8_t opcode;		/* enum exm_opcode */
};

/* What came of it */
struct exm_result {
	int32_t res;		/* 0, or a negative error number */
	uint32_t pages;		/* slots that have changed, or were transferred */
};

enum exm_slot {
	EXM_SLOT_RESIDENT	= 1,	/* the slot has a page */
	EXM_SLOT_DIRTY		= 2,	/* EXM_DIRTY would write it */
	EXM_SLOT_USED		= 4,	/* it may have been accessed */
	EXM_SLOT_BUSY		= 8,	/* it is being read or written */
};

struct exm_stats {
	uint64_t memory;	/* bytes that the pages may take */
	uint64_t used;		/* bytes that they take, including free ones of exmap */
	uint64_t regions;
	uint64_t reserved[5];
};

/* Pools */
int exm_pool_create(struct exm_pool **pool, const struct exm_pool_options *options);
void exm_pool_destroy(struct exm_pool *pool);
enum exm_backend exm_pool_backend(const struct exm_pool *pool);
unsigned int exm_pool_features(const struct exm_pool *pool);
int exm_pool_resize(struct exm_pool *pool, uint64_t memory);
int exm_pool_stats(struct exm_pool *pool, struct exm_stats *stats);

/* Regions */
int exm_region_create(struct exm_region **region, struct exm_pool *pool,
		      const struct exm_region_options *options);
void exm_region_destroy(struct exm_region *region);
unsigned int exm_region_number(const struct exm_region *region);
void *exm_region_start(const struct exm_region *region);
uint64_t exm_region_slots(const struct exm_region *region);
uint64_t exm_region_slot_size(const struct exm_region *region);
int exm_region_flush(struct exm_region *region);
int exm_region_query(struct exm_region *region, uint64_t first, uint64_t nr,
		     uint8_t *slots);

/* Threads */
int exm_thread_create(struct exm_thread **thread, struct exm_pool *pool);
void exm_thread_destroy(struct exm_thread *thread);

/* Calls */
int exm_call(struct exm_thread *thread, const struct exm_vec *vecs,
	     struct exm_result *results, unsigned int nr);
int exm_alloc(struct exm_thread *thread, struct exm_region *region,
	      const uint64_t *pages, unsigned int nr, int *results);
int exm_free(struct exm_thread *thread, struct exm_region *region,
	     const uint64_t *pages, unsigned int nr, int *results);
int exm_read(struct exm_thread *thread, struct exm_region *region,
	     const uint64_t *pages, unsigned int nr, int *results);
int exm_write(struct exm_thread *thread, struct exm_region *region,
	      const uint64_t *pages, unsigned int nr, int *results);
int exm_move(struct exm_thread *thread, struct exm_region *region,
	     const uint64_t *pages, unsigned int nr, unsigned int node, int *results);

/* Readers that take no lock, and start over when they meet an empty slot */
struct exm_reader {
	sigjmp_buf restart;
	struct exm_reader *outer;
};

int exm_reader_install(void);
sigjmp_buf *exm_reader_arm(struct exm_reader *reader);
void exm_reader_end(struct exm_reader *reader);

/*
 * Returns 0 and, when the reader starts over, 1. Variables that the reader changes must be
 * volatile or be set again. The function that contains this must not return before
 * exm_reader_end().
 */
#define exm_reader_begin(reader)	sigsetjmp(*exm_reader_arm(reader), 0)

/* Errors */
const char *exm_message(void);

#ifdef __cplusplus
}
#endif

#endif
