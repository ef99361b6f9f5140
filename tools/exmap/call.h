/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Calls that take many pages out of memory, write them, or bring them in
 *
 * A call is made of vectors with an opcode in each. Three can carry it out: exmap
 * with an ioctl (EXMAP_IOCTL_VECTORS), exmap through io_uring, and, to compare,
 * madvise(), pread() and pwrite(), page run by page run. A call looks like
 *
 *	call_init(&call);
 *	call_add(&call, EXMAP_OP_FREE, victims, nr_victims);
 *	call_add(&call, EXMAP_OP_READ, missing, nr_missing);
 *	call_start(&call);
 *	call_submit();		(io_uring: let the kernel know, do not wait)
 *	done = call_wait(&call);
 *
 * and can be started again as it stands if it was not done for want of memory.
 */
#ifndef CALL_H
#define CALL_H

#include <stdbool.h>
#include <linux/exmap.h>

#define BATCH_MAX	64	/* pages evicted, or brought in, in one call */
#define CALLS_MAX	4	/* that a thread reads ahead with at the same time */

typedef __u64 u64;
typedef __u16 u16;

struct call {
	struct exmap_vectors params;
	struct exmap_vec vec[2 * BATCH_MAX];
	struct exmap_result result[2 * BATCH_MAX];
	unsigned int nr;	/* vectors */
	unsigned int count[4];	/* pages of each opcode */
	u64 todo;		/* pages that no result has reported done yet */
	long ret;		/* failed vectors, or a negative error number */
	bool running;		/* io_uring: ret and results are not there yet */
};

extern const bool call_has_uring;

void call_thread_start(void);
void call_thread_stop(void);

void call_init(struct call *call);
/* Page numbers in ascending order: neighbours share a vector */
void call_add(struct call *call, enum exmap_opcode opcode, const u64 *pid, unsigned int n);

void call_start(struct call *call);
void call_submit(void);			/* all that this thread has started */
bool call_wait(struct call *call);	/* false: not enough memory for all of it */

#endif
