/* SPDX-License-Identifier: GPL-2.0 */
/* Ways to request an operation: EXMAP_IOCTL_VECTORS, and the same through io_uring */
#ifndef EXMAP_TEST_WAY_H
#define EXMAP_TEST_WAY_H

#include "common.h"
#include "uring.h"

/* What is requested */
struct request {
	int opcode;
	long page;
	int len;
	int flags;		/* enum exmap_vec_flags, where a way has them */
	int rwf;		/* RWF_*, where a way has them */
};

/* What comes of it */
struct outcome {
	int err;		/* 0 or -errno */
	int pages;
};

struct way {
	/* Whether the kernel has it; NULL if it always has */
	bool (*exists)(void);
	/* Carry out @what, and wait for its end. NULL if this is a way of io_uring. */
	struct outcome (*call)(struct exmap *ex, int iface, const struct request *what);
	/* Prepare a request of io_uring. @c must be valid until its completion. */
	void (*prepare)(struct io_uring_sqe *sqe, struct exmap *ex, int iface,
			const struct request *what, struct command *c);
	/* What the result of a request of io_uring means */
	struct outcome (*outcome)(int res, const struct command *c);
	/* A transfer that ends early is no error */
	bool by_bytes;
	/* io_uring leaves a request that would have to wait to a worker thread */
	bool by_worker;
};

static inline struct outcome of_vector(int ret, int res, int pages)
{
	return (struct outcome){
		.err = ret < 0 ? ret : res,
		.pages = ret < 0 ? 0 : pages,
	};
}

static inline struct outcome call_vectors(struct exmap *ex, int iface,
					  const struct request *what)
{
	struct exmap_vec vec = ex_vec(what->opcode, what->page, what->len, what->flags);
	struct exmap_result result = {};
	int ret = ex_vectors(ex, iface, &vec, &result, 1);

	return of_vector(ret, result.res, result.pages);
}

static inline void prepare_vectors(struct io_uring_sqe *sqe, struct exmap *ex, int iface,
				   const struct request *what, struct command *c)
{
	command_init(c, iface);
	command_add(c, what->opcode, what->page, what->len, what->flags);
	prep_command(sqe, ex->fd, c);
}

static inline struct outcome vectors_outcome(int res, const struct command *c)
{
	return of_vector(res, c->results[0].res, c->results[0].pages);
}

static const struct way by_vectors __maybe_unused = {
	.call = call_vectors,
};

static const struct way by_command __maybe_unused = {
	.prepare = prepare_vectors,
	.outcome = vectors_outcome,
};

/* Return the number of pages, or the error if there is one */
static inline int pages_or_error(struct outcome outcome)
{
	return outcome.err ?: outcome.pages;
}

#endif
