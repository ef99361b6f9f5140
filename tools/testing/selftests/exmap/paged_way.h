/* SPDX-License-Identifier: GPL-2.0 */
/* More ways to request an operation: read and write calls on the exmap, of all kinds */
#ifndef EXMAP_TEST_PAGED_WAY_H
#define EXMAP_TEST_PAGED_WAY_H

#include "paged.h"
#include "way.h"

#include <linux/aio_abi.h>

static inline struct outcome of_bytes(ssize_t ret)
{
	return (struct outcome){
		.err = ret < 0 ? ret : 0,
		.pages = ret < 0 ? 0 : ret / (ssize_t)PG,
	};
}

static inline bool is_write(int opcode)
{
	return opcode == EXMAP_OP_WRITE;
}

static inline struct outcome call_file(struct exmap *ex, int iface, const struct request *what)
{
	struct iovec iov = { page_at(ex, what->page), what->len * PG };

	if (!what->rwf)
		return of_bytes(is_write(what->opcode) ?
				ex_pwrite(ex->fd, iface, what->opcode, iov.iov_base, iov.iov_len) :
				ex_pread(ex->fd, iface, what->opcode, iov.iov_base, iov.iov_len));
	return of_bytes(is_write(what->opcode) ?
			ex_pwritev2(ex->fd, iface, what->opcode, &iov, 1, what->rwf) :
			ex_preadv2(ex->fd, iface, what->opcode, &iov, 1, what->rwf));
}

static inline bool aio_exists(void)
{
	aio_context_t context = 0;

	if (syscall(SYS_io_setup, 1, &context))
		return false;
	syscall(SYS_io_destroy, context);
	return true;
}

/* Make a request with io_submit(), and wait for its result */
static inline struct outcome call_aio(struct exmap *ex, int iface, const struct request *what)
{
	aio_context_t context = 0;
	struct iocb iocb = {
		.aio_lio_opcode = is_write(what->opcode) ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
		.aio_fildes = ex->fd,
		.aio_buf = (unsigned long)page_at(ex, what->page),
		.aio_nbytes = what->len * PG,
		.aio_offset = ex_pos(iface, what->opcode),
		.aio_rw_flags = what->rwf,
	};
	struct iocb *list = &iocb;
	struct io_event event;
	ssize_t ret;

	if (syscall(SYS_io_setup, 1, &context))
		return of_bytes(-errno);
	if (syscall(SYS_io_submit, context, 1L, &list) == 1)
		ret = syscall(SYS_io_getevents, context, 1L, 1L, &event, NULL) == 1 ?
			(ssize_t)event.res : -errno;
	else
		ret = -errno;
	syscall(SYS_io_destroy, context);
	return of_bytes(ret);
}

/* With the first vector of the interface. Its page is mapped for this call only. */
static inline struct outcome call_action(struct exmap *ex, int iface, const struct request *what)
{
	struct exmap_user_interface *vectors = ex_map_iface(ex->fd, iface);
	struct exmap_iov *iov = &vectors->iov[0];
	struct outcome outcome;
	int ret;

	if (vectors == MAP_FAILED)
		return (struct outcome){ .err = -errno };
	*iov = (struct exmap_iov){ .page = what->page, .len = what->len };
	ret = ex_action(ex->fd, iface, what->opcode, 1);
	outcome = of_vector(ret, iov->res, iov->pages);
	munmap(vectors, PG);
	return outcome;
}

static inline void prepare_file(struct io_uring_sqe *sqe, struct exmap *ex, int iface,
				const struct request *what, struct command *c)
{
	prep_rw(sqe, is_write(what->opcode) ? IORING_OP_WRITE : IORING_OP_READ, ex->fd,
		ex_pos(iface, what->opcode), page_at(ex, what->page), what->len * PG);
	sqe->rw_flags = what->rwf;
	sqe->user_data = (unsigned long)c;
}

static inline struct outcome file_outcome(int res, const struct command *c)
{
	return of_bytes(res);
}

/* EXMAP_IOCTL_ACTION */
static const struct way by_action __maybe_unused = {
	.call = call_action,
};

/* pread(), pwrite() */
static const struct way by_file_call __maybe_unused = {
	.call = call_file,
	.by_bytes = true,
};

/* io_submit() */
static const struct way by_aio __maybe_unused = {
	.exists = aio_exists,
	.call = call_aio,
	.by_bytes = true,
};

/* IORING_OP_READ, IORING_OP_WRITE */
static const struct way by_ring_call __maybe_unused = {
	.prepare = prepare_file,
	.outcome = file_outcome,
	.by_bytes = true,
	.by_worker = true,
};

#endif
