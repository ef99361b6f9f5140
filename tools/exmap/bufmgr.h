/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A buffer manager whose pages have fixed addresses
 *
 * Page n of the page file is always at the address bm_page(n). There is no hash table
 * that maps page numbers to frames; the page tables of the CPU do that work. The buffer
 * manager decides which pages are in memory, and exmap (or, for comparison, madvise)
 * carries that out.
 *
 * Readers take no locks. A reader notes the version of a page, reads the page, and checks
 * the version again. If the page was changed or evicted meanwhile, the version differs,
 * and the reader starts over. The page may even be unmapped during the read; the
 * resulting SIGSEGV also makes the reader start over. The code of a reader is
 *
 *	bm_optimistic_begin();		(restarts return to this point)
 *	version = bm_read_begin(pid);
 *	... copy the data, but do not rely on it yet ...
 *	bm_read_check(pid, version);	(the copy is valid from here on)
 *	bm_optimistic_end();
 *
 * A reader must not hold a lock or any other resource while a restart can happen.
 */
#ifndef BUFMGR_H
#define BUFMGR_H

#include <setjmp.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdnoreturn.h>

#include "call.h"

#define PAGE_SIZE_MIN	4096
#define PAGE_SIZE_MAX	32768	/* offsets in a page have 16 bits */

struct bm_stats {
	u64 in, in_calls;		/* pages read from the page file */
	u64 out, out_calls;		/* pages written to it */
	u64 evicted, evict_calls;	/* pages removed from memory */
	u64 joined;			/* calls that evicted pages and brought in others */
	u64 restarts;			/* reads whose version check failed */
	u64 segv;			/* reads that hit a page that was not in memory */
	u64 enomem;			/* calls repeated because memory was short */
	u64 in_flight;			/* maximum number of calls in flight in a thread */
};

/* State of a thread; no other thread accesses it while the thread runs */
struct bm_thread {
	alignas(64) sigjmp_buf restart;
	atomic_bool optimistic;		/* restart is valid, a SIGSEGV is expected */
	unsigned int interface;
	struct bm_stats stats;
};

struct bm {
	/* Parameters, set by the caller before bm_init() */
	const char *file;		/* path of the page file, which is overwritten */
	size_t page_size;		/* bytes, a power of two */
	u64 file_pages;			/* expected length of the page file */
	u64 virt_pages;			/* length of the region */
	u64 buffer_pages;		/* maximum number of pages in memory */
	unsigned int nr_threads;
	bool madvise;			/* use anonymous memory instead of exmap */
	bool uring;			/* use exmap through io_uring, and read ahead */

	/* Set by bm_init() and constant afterwards */
	char *region;
	atomic_ullong *state;		/* one word per page, see enum page_state */
	unsigned char *dirty;		/* one byte per page, protected by its lock */
	struct bm_thread *threads;
	unsigned int batch;		/* pages that a thread may lock at once */
	int file_fd, exmap_fd;
	bool direct;			/* the page file was opened with O_DIRECT */

	/* Written by all threads, hence each in its own cache line */
	alignas(64) atomic_ullong next;	/* first page number that was never used */
	alignas(64) atomic_ullong used;	/* pages that are, or are about to be, in memory */
	alignas(64) atomic_ullong hand;	/* position of the clock hand */
};

extern struct bm bm;
extern __thread struct bm_thread *self;

void bm_init(void);
/* Must be called first in each thread, with a unique id below nr_threads */
void bm_thread_start(unsigned int id);
void bm_thread_stop(void);
/* Add up and reset the statistics of all threads. No thread may be running. */
struct bm_stats bm_collect_stats(void);

static inline void *bm_page(u64 pid)
{
	return bm.region + pid * bm.page_size;
}

/*
 * Optimistic reads. sigsetjmp() does not save the signal mask, because the SIGSEGV
 * handler leaves it unchanged.
 */
#define bm_optimistic_begin()					\
	do {							\
		(void)sigsetjmp(self->restart, 0);		\
		atomic_store(&self->optimistic, true);		\
	} while (0)
void bm_optimistic_end(void);
u64 bm_read_begin(u64 pid);
void bm_read_check(u64 pid, u64 version);
noreturn void bm_restart(void);
/*
 * Read ahead for a thread that reads the pages from pid to end one after the other. It
 * is called before each page is read, and brings in the pages that follow. next is the
 * first page that has not been requested yet: initially pid, later the value that the
 * previous call returned.
 */
u64 bm_read_ahead(u64 pid, u64 next, u64 end);

/* Writers */
bool bm_upgrade(u64 pid, u64 version);	/* lock a page if it still has this version */
void bm_unlock(u64 pid);		/* mark a page dirty, and unlock it */
u64 bm_extent(u64 count);		/* reserve adjacent unused page numbers */
void bm_create(u64 first, unsigned int count);	/* allocate new pages, locked */
void bm_flush(void);			/* write dirty pages; no other thread may run */

#endif
