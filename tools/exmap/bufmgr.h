/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A buffer manager whose pages have fixed addresses
 *
 * Page n of the page file belongs at bm_page(n), always: there is no hash table
 * from page numbers to frames, the page tables of the CPU do that work. Which
 * pages are in memory is decided here and carried out by exmap (or, to compare,
 * by madvise).
 *
 * Readers take no lock. They note the version of a page, read, and look at the
 * version again: had the page been changed or evicted meanwhile, what they read
 * is worthless and they start over. The page may even vanish under the read: the
 * SIGSEGV that follows starts the reader over as well. So a reader looks like
 *
 *	bm_optimistic_begin();		(all restarts come back to here)
 *	version = bm_read_begin(pid);
 *	... copy what is wanted, trust nothing of it ...
 *	bm_read_check(pid, version);	(from here on it can be trusted)
 *	bm_optimistic_end();
 *
 * and holds no lock and no other resource while a restart can happen.
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

#define PAGE_SIZE	4096

struct bm_stats {
	u64 in, in_calls;		/* pages read from the page file */
	u64 out, out_calls;		/* pages written to it */
	u64 evicted, evict_calls;	/* pages taken out of memory */
	u64 joined;			/* calls that did so and brought others in */
	u64 restarts;			/* reads whose version check failed */
	u64 segv;			/* reads of a page that was not there */
	u64 enomem;			/* calls repeated for want of memory */
	u64 in_flight;			/* most calls that a thread had at a time */
};

/* What a thread owns: only that thread touches it while it runs */
struct bm_thread {
	alignas(64) sigjmp_buf restart;
	atomic_bool optimistic;		/* restart is valid, SIGSEGV expected */
	unsigned int interface;
	struct bm_stats stats;
};

struct bm {
	/* To be set before bm_init() */
	const char *file;		/* the page file, overwritten */
	u64 file_pages;			/* how long it will be, more or less */
	u64 virt_pages;			/* length of the region */
	u64 buffer_pages;		/* how many of them have memory at a time */
	unsigned int nr_threads;
	bool madvise;			/* anonymous memory instead of exmap */
	bool uring;			/* exmap through io_uring, reading ahead */

	/* Set by it, read only from then on */
	char *region;
	atomic_ullong *state;		/* a word for each page */
	unsigned char *dirty;		/* its lock protects it: see page_state */
	struct bm_thread *threads;
	unsigned int batch;		/* most pages a thread may lock at once */
	int file_fd, exmap_fd;
	bool direct;			/* page file opened with O_DIRECT */

	/* All threads write these: a cache line each */
	alignas(64) atomic_ullong next;	/* first page number never used */
	alignas(64) atomic_ullong used;	/* pages in memory, or about to be */
	alignas(64) atomic_ullong hand;	/* of the clock */
};

extern struct bm bm;
extern __thread struct bm_thread *self;

void bm_init(void);
/* Each thread says who it is before anything else; 0 <= id < nr_threads */
void bm_thread_start(unsigned int id);
void bm_thread_stop(void);
/* Add up the statistics of all threads and reset them (while none runs) */
struct bm_stats bm_collect_stats(void);

static inline void *bm_page(u64 pid)
{
	return bm.region + pid * PAGE_SIZE;
}

/* Optimistic reads. No signal mask is saved: on_segv() never changes it. */
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
 * For who reads the pages from pid up to end, one after the other: called before
 * each, this keeps what follows on its way. next is what it shall go on with, at
 * first the same as pid; the new one is returned.
 */
u64 bm_read_ahead(u64 pid, u64 next, u64 end);

/* Writers */
bool bm_upgrade(u64 pid, u64 version);	/* lock, if still at this version */
void bm_unlock(u64 pid);		/* page is dirty, its version goes up */
u64 bm_extent(u64 count);		/* adjacent page numbers never used yet */
void bm_create(u64 first, unsigned int count);	/* give them locked memory */
void bm_flush(void);			/* write all dirty pages, one thread */

#endif
