/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Calls that evict, write or bring in many pages at once
 *
 * A call consists of vectors, each with its own opcode. There are three ways to carry it
 * out: exmap with the ioctl EXMAP_IOCTL_VECTORS; exmap through io_uring; and, for
 * comparison, madvise(), pread() and pwrite() for each run of adjacent pages. The code
 * for a call is
 *
 *	call_init(&call);
 *	call_add(&call, EXMAP_OP_FREE, victims, nr_victims);
 *	call_add(&call, EXMAP_OP_READ, missing, nr_missing);
 *	call_start(&call);
 *	call_submit();		(with io_uring: submit the call without waiting for it)
 *	done = call_wait(&call);
 *
 * If memory was short, done is false. The same call can then be started again, unchanged.
 */
#ifndef CALL_H
#define CALL_H

#include <stdbool.h>
#include <linux/exmap.h>

#define BATCH_MAX	64	/* maximum number of pages per opcode in one call */
#define CALLS_MAX	4	/* maximum number of read-ahead calls of a thread */

typedef __u64 u64;
typedef __u16 u16;

struct call {
	struct exmap_vectors params;
	struct exmap_vec vec[2 * BATCH_MAX];
	struct exmap_result result[2 * BATCH_MAX];
	unsigned int nr;	/* number of vectors */
	unsigned int count[4];	/* pages per opcode */
	u64 todo;		/* pages that were not reported as done yet */
	long ret;		/* number of failed vectors, or a negative error number */
	bool running;		/* with io_uring: ret and result are not valid yet */
};

extern const bool call_has_uring;

void call_thread_start(void);
void call_thread_stop(void);

void call_init(struct call *call);
/* Page numbers must be ascending; adjacent pages share a vector */
void call_add(struct call *call, enum exmap_opcode opcode, const u64 *pid, unsigned int n);

void call_start(struct call *call);
void call_submit(void);			/* submit all calls that this thread has started */
bool call_wait(struct call *call);	/* returns false if memory was short */

#endif
