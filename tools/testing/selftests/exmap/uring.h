/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Requests for io_uring, and a small ring based on plain system calls, for tests
 * that have few requests in flight and must run without liburing.
 */
#ifndef EXMAP_TEST_URING_H
#define EXMAP_TEST_URING_H

#include "common.h"

#include <linux/io_uring.h>
#include <sys/syscall.h>

/* A VECTORS call, with all memory that must stay valid until it completes */
struct command {
	struct exmap_vectors params;
	struct exmap_vec vecs[16];
	struct exmap_result results[16];
};

static inline void command_init(struct command *c, int iface)
{
	memset(c, 0, sizeof(*c));
	memset(c->results, 0xaa, sizeof(c->results));
	c->params.size = sizeof(c->params);
	c->params.vec_size = sizeof(struct exmap_vec);
	c->params.result_size = sizeof(struct exmap_result);
	c->params.interface = iface;
	c->params.vecs = (unsigned long)c->vecs;
	c->params.results = (unsigned long)c->results;
}

static inline void command_add(struct command *c, int opcode, __u64 page, int len, int flags)
{
	c->vecs[c->params.nr++] = ex_vec(opcode, page, len, flags);
}

/* Prepare @sqe for the VECTORS call @c, and identify it by user_data */
static inline void prep_command(struct io_uring_sqe *sqe, int fd, struct command *c)
{
	struct exmap_uring_cmd cmd = { .iov = { &c->params, c->params.size } };

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = fd;
	sqe->cmd_op = EXMAP_IOCTL_VECTORS;
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	sqe->user_data = (unsigned long)c;
}

/*
 * Prepare @sqe for @op, which is IORING_OP_READ, _WRITE or a variant of these. @addr
 * and @len have the meaning that they have for @op.
 */
static inline void prep_rw(struct io_uring_sqe *sqe, int op, int fd, off_t offset,
			   const void *addr, unsigned int len)
{
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = op;
	sqe->fd = fd;
	sqe->off = offset;
	sqe->addr = (unsigned long)addr;
	sqe->len = len;
}

/* A ring for use by one thread; @fd is -1 while it is closed */
struct ring {
	int fd;
	char *queues;
	size_t queues_size;
	struct io_uring_sqe *sqes;
	unsigned int entries;
	unsigned int queued;		/* requests not submitted yet */
	unsigned int *sq_tail, *cq_head, *cq_tail;
	struct io_uring_cqe *cqes;
};

static inline void ring_close(struct ring *ring)
{
	if (ring->fd < 0)
		return;
	munmap(ring->sqes, ring->entries * sizeof(*ring->sqes));
	munmap(ring->queues, ring->queues_size);
	close(ring->fd);
	ring->fd = -1;
}

/*
 * Open a ring with room for @entries requests, a power of two. @flags are
 * IORING_SETUP_* flags. Returns 0 or -errno.
 */
static inline int ring_open_flags(struct ring *ring, unsigned int entries, unsigned int flags)
{
	struct io_uring_params params = { .flags = flags };
	unsigned int i, *array;
	size_t size;

	ring->fd = syscall(SYS_io_uring_setup, entries, &params);
	if (ring->fd < 0)
		return -errno;
	/* Since Linux 5.4, both queues are in one mapping */
	size = params.sq_off.array + entries * sizeof(*array);
	ring->queues_size = params.cq_off.cqes + params.cq_entries * sizeof(*ring->cqes);
	if (ring->queues_size < size)
		ring->queues_size = size;
	ring->queues = mmap(NULL, ring->queues_size, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQ_RING);
	ring->sqes = mmap(NULL, entries * sizeof(*ring->sqes), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQES);
	if (ring->queues == MAP_FAILED || ring->sqes == MAP_FAILED) {
		close(ring->fd);
		ring->fd = -1;
		return -ENOMEM;
	}
	ring->entries = entries;
	ring->queued = 0;
	ring->sq_tail = (unsigned int *)(ring->queues + params.sq_off.tail);
	ring->cq_head = (unsigned int *)(ring->queues + params.cq_off.head);
	ring->cq_tail = (unsigned int *)(ring->queues + params.cq_off.tail);
	ring->cqes = (struct io_uring_cqe *)(ring->queues + params.cq_off.cqes);
	array = (unsigned int *)(ring->queues + params.sq_off.array);
	for (i = 0; i < entries; i++)
		array[i] = i;
	return 0;
}

static inline int ring_open(struct ring *ring, unsigned int entries)
{
	return ring_open_flags(ring, entries, 0);
}

/* Return the next free SQE, for prep_command() or prep_rw() to fill in */
static inline struct io_uring_sqe *ring_sqe(struct ring *ring)
{
	return &ring->sqes[(*ring->sq_tail + ring->queued++) & (ring->entries - 1)];
}

/*
 * Submit all SQEs that ring_sqe() has returned. Returns the number of accepted ones,
 * or -errno.
 */
static inline int ring_submit(struct ring *ring)
{
	unsigned int queued = ring->queued;
	int ret;

	__atomic_store_n(ring->sq_tail, *ring->sq_tail + queued, __ATOMIC_RELEASE);
	ring->queued = 0;
	ret = syscall(SYS_io_uring_enter, ring->fd, queued, 0, 0, NULL, 0);
	return ret < 0 ? -errno : ret;
}

/* Whether there is a completion, without entering the kernel */
static inline bool ring_has_cqe(struct ring *ring)
{
	return *ring->cq_head != __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE);
}

/* Wait for the next completion and consume it. Returns its result, or -errno. */
static inline int ring_wait(struct ring *ring)
{
	unsigned int head = *ring->cq_head;
	int ret;

	while (!ring_has_cqe(ring)) {
		ret = syscall(SYS_io_uring_enter, ring->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
		if (ret < 0 && errno != EINTR)
			return -errno;
	}
	/* By default, the completion queue is twice as long as the submission queue */
	ret = ring->cqes[head & (2 * ring->entries - 1)].res;
	__atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
	return ret;
}

/* Poll the ring for a while: true if no further completion comes */
static inline bool ring_stays_empty(struct ring *ring)
{
	int i;

	for (i = 0; i < 50 && !ring_has_cqe(ring); i++) {
		syscall(SYS_io_uring_enter, ring->fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0);
		usleep(2000);
	}
	return !ring_has_cqe(ring);
}

/*
 * Submit all SQEs that ring_sqe() has returned, and wait for one completion. Returns
 * its result, or -errno.
 */
static inline int ring_run(struct ring *ring)
{
	int ret = ring_submit(ring);

	return ret < 0 ? ret : ring_wait(ring);
}

#endif
