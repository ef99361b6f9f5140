// SPDX-License-Identifier: GPL-2.0
/* The exmap with io_uring: many calls in flight, and events that end them early */
#include "common.h"

#include <liburing.h>

#include "nullb.h"
#include "uring.h"

#define FILE_PAGES	512
#define BUFFER		300
#define ENTRIES		64

/*
 * Return a free SQE. If the queue is full, submit it; an SQPOLL thread may have to
 * drain it.
 */
static struct io_uring_sqe *next_sqe(struct io_uring *ring)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(ring))) {
		io_uring_submit(ring);
		sched_yield();
	}
	return sqe;
}

static struct io_uring_sqe *queue_command(struct io_uring *ring, int fd, struct command *c)
{
	struct io_uring_sqe *sqe = next_sqe(ring);

	prep_command(sqe, fd, c);
	return sqe;
}

static struct io_uring_sqe *queue_rw(struct io_uring *ring, int op, int fd, int iface,
				     int opcode, void *addr, unsigned int len)
{
	struct io_uring_sqe *sqe = next_sqe(ring);

	prep_rw(sqe, op, fd, iface, opcode, addr, len);
	return sqe;
}

/* Submit the only request, wait for it, and return its result */
static int wait_one(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	int ret;

	do {
		ret = io_uring_submit_and_wait(ring, 1);
	} while (ret == -EINTR);
	if (ret < 0)
		return ret;
	do {
		ret = io_uring_wait_cqe(ring, &cqe);
	} while (ret == -EINTR);
	if (ret)
		return ret;
	ret = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return ret;
}

FIXTURE(uring) {
	struct exmap ex;
	struct io_uring ring;
	struct command c;
	int fd;
	int backing;
	long end;
};

FIXTURE_VARIANT(uring) {
	enum backing backing;
	unsigned int ring;		/* IORING_SETUP_* */
	unsigned int sqe;		/* IOSQE_* */
	__u64 flags;			/* EXMAP_SETUP_* */
};

#define SETUP_DEFER	(IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER)

FIXTURE_VARIANT_ADD(uring, memfd) { .backing = MEMFD };
FIXTURE_VARIANT_ADD(uring, buffered) { .backing = FILE_BUFFERED };
FIXTURE_VARIANT_ADD(uring, direct) { .backing = FILE_DIRECT };
FIXTURE_VARIANT_ADD(uring, xfs_direct) { .backing = XFS_DIRECT };
FIXTURE_VARIANT_ADD(uring, block_buffered) { .backing = BLOCK_BUFFERED };
FIXTURE_VARIANT_ADD(uring, block_direct) { .backing = BLOCK_DIRECT };
FIXTURE_VARIANT_ADD(uring, loop_direct) { .backing = LOOP_DIRECT };
FIXTURE_VARIANT_ADD(uring, async_buffered) {
	.backing = FILE_BUFFERED,
	.sqe = IOSQE_ASYNC,
};

FIXTURE_VARIANT_ADD(uring, async_direct) { .backing = FILE_DIRECT, .sqe = IOSQE_ASYNC };
FIXTURE_VARIANT_ADD(uring, sqpoll_direct) {
	.backing = FILE_DIRECT,
	.ring = IORING_SETUP_SQPOLL,
};

FIXTURE_VARIANT_ADD(uring, sqpoll_buffered) {
	.backing = FILE_BUFFERED,
	.ring = IORING_SETUP_SQPOLL,
};

FIXTURE_VARIANT_ADD(uring, defer_taskrun_direct) {
	.backing = FILE_DIRECT,
	.ring = SETUP_DEFER,
};

FIXTURE_VARIANT_ADD(uring, defer_taskrun_buffered) {
	.backing = FILE_BUFFERED,
	.ring = SETUP_DEFER,
};

FIXTURE_VARIANT_ADD(uring, deferred) {
	.backing = FILE_DIRECT,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_SETUP(uring)
{
	struct exmap_setup2 setup = { .flags = variant->flags };
	struct io_uring_params params = {
		.flags = variant->ring,
		.sq_thread_idle = 100,
	};
	int ret;

	catch_faults();
	self->backing = make_backing(_metadata, variant->backing, FILE_PAGES, &self->fd,
				     &self->end);
	if (self->backing < 0)
		SKIP(return, "no such file here");
	setup.fd = self->backing;
	exmap_create2(_metadata, &self->ex, setup, 4, BUFFER, self->end + 64);
	ret = io_uring_queue_init_params(ENTRIES, &self->ring, &params);
	if (ret == -EINVAL || ret == -EPERM)
		SKIP(return, "no such ring here");
	ASSERT_EQ(0, ret);
	command_init(&self->c, 1);
}

FIXTURE_TEARDOWN(uring)
{
	struct exmap *ex = &self->ex;

	io_uring_queue_exit(&self->ring);
	EXPECT_LE(0, ex_drain(ex, 0, 0, FILE_PAGES));
	EXPECT_LE(0, ex_drain(ex, 0, self->end - 64, 128));
	EXPECT_EQ(BUFFER, ex_fill(ex, 1, 0));
	exmap_destroy(ex);
	close(self->fd);
	close(self->backing);
}

TEST_F(uring, read_and_write)
{
	struct exmap *ex = &self->ex;
	struct iovec iov[3] = {
		{ page_at(ex, 50), 2 * PG }, { page_at(ex, 40), PG }, { page_at(ex, 70), 3 * PG },
	};
	struct io_uring_sqe *sqe;
	int i;

	sqe = queue_rw(&self->ring, IORING_OP_READ, ex->fd, 0, EXMAP_OP_READ, page_at(ex, 5), PG);
	sqe->flags |= variant->sqe;
	ASSERT_EQ((int)PG, wait_one(&self->ring));
	EXPECT_TRUE(page_is(page_at(ex, 5), 5));
	sqe = queue_rw(&self->ring, IORING_OP_READV, ex->fd, 2, EXMAP_OP_READ, iov, 3);
	sqe->flags |= variant->sqe;
	ASSERT_EQ((int)(6 * PG), wait_one(&self->ring));
	for (i = 0; i < 3; i++) {
		EXPECT_TRUE(page_is(page_at(ex, 70 + i), 70 + i));
		renew(ex, 70 + i);
	}
	EXPECT_TRUE(page_is(page_at(ex, 51), 51));
	renew(ex, 40);
	renew(ex, 5);
	EXPECT_EQ(7, count_present(ex, 0, FILE_PAGES));
	sqe = queue_rw(&self->ring, IORING_OP_WRITEV, ex->fd, 3, EXMAP_OP_WRITE, iov, 3);
	sqe->flags |= variant->sqe;
	ASSERT_EQ((int)(6 * PG), wait_one(&self->ring));
	sqe = queue_rw(&self->ring, IORING_OP_WRITE, ex->fd, 1, 0, page_at(ex, 5), PG);
	sqe->flags |= variant->sqe;
	ASSERT_EQ((int)PG, wait_one(&self->ring));
	for (i = 0; i < 3; i++)
		EXPECT_TRUE(file_has(self->fd, 70 + i, NEW(70 + i)));
	EXPECT_TRUE(file_has(self->fd, 40, NEW(40)));
	EXPECT_TRUE(file_has(self->fd, 5, NEW(5)));
	EXPECT_TRUE(file_has(self->fd, 50, 50));
	/* READ replaces the content of resident pages; read() can ALLOC, too */
	memset(page_at(ex, 70), 0xee, PG);
	sqe = queue_rw(&self->ring, IORING_OP_READ, ex->fd, 0, EXMAP_OP_READ,
		       page_at(ex, 69), 4 * PG);
	sqe->flags |= variant->sqe;
	ASSERT_EQ((int)(4 * PG), wait_one(&self->ring));
	EXPECT_TRUE(page_is(page_at(ex, 70), NEW(70)));
	EXPECT_TRUE(page_is(page_at(ex, 69), 69));
	sqe = queue_rw(&self->ring, IORING_OP_READ, ex->fd, 0, EXMAP_OP_ALLOC,
		       page_at(ex, 90), 4 * PG);
	sqe->flags |= variant->sqe;
	ASSERT_EQ((int)(4 * PG), wait_one(&self->ring));
	EXPECT_EQ(4, count_present(ex, 90, 10));
}

TEST_F(uring, prefixes_and_errors)
{
	struct exmap *ex = &self->ex;
	struct iovec iov[2] = { { page_at(ex, 5), PG }, { page_at(ex, ex->pages - 1), 2 * PG } };
	static const struct {
		int op, opcode, iface;
		long page, shift, len;
		int res;
	} tests[] = {
		{ IORING_OP_READ, EXMAP_OP_READ, 0, 5, 8, PG, -EINVAL },
		{ IORING_OP_READ, EXMAP_OP_READ, 0, 5, 0, 512, -EINVAL },
		{ IORING_OP_READ, EXMAP_OP_READ, 4, 5, 0, PG, -EINVAL },
		{ IORING_OP_READ, EXMAP_OP_FREE, 0, 5, 0, PG, -EINVAL },
		{ IORING_OP_WRITE, EXMAP_OP_ALLOC, 0, 5, 0, PG, -EINVAL },
		{ IORING_OP_WRITE, EXMAP_OP_WRITE, 0, 5, 0, PG, -EFAULT },
		{ IORING_OP_READ, EXMAP_OP_READ, 0, FILE_PAGES + (1 << 20), 0, PG, -ERANGE },
		{ IORING_OP_READ, EXMAP_OP_READ, 0, 5, 0, 0, 0 },
	};
	struct io_uring_sqe *sqe;
	int i;

	for (i = 0; i < (int)ARRAY_SIZE(tests); i++) {
		sqe = queue_rw(&self->ring, tests[i].op, ex->fd, tests[i].iface, tests[i].opcode,
			       page_at(ex, tests[i].page) + tests[i].shift, tests[i].len);
		sqe->flags |= variant->sqe;
		EXPECT_EQ(tests[i].res, wait_one(&self->ring))
			TH_LOG("number %d", i);
	}
	EXPECT_EQ(0, count_present(ex, 0, 20));
	sqe = queue_rw(&self->ring, IORING_OP_READ, ex->fd, 0, EXMAP_OP_READ,
		       page_at(ex, self->end - 1), 3 * PG);
	sqe->flags |= variant->sqe;
	EXPECT_EQ((int)PG, wait_one(&self->ring));
	EXPECT_FALSE(present(page_at(ex, self->end)));
	sqe = queue_rw(&self->ring, IORING_OP_READ, ex->fd, 0, EXMAP_OP_READ,
		       page_at(ex, self->end), PG);
	sqe->flags |= variant->sqe;
	EXPECT_EQ(-ENODATA, wait_one(&self->ring));
	sqe = queue_rw(&self->ring, IORING_OP_READV, ex->fd, 0, EXMAP_OP_READ, iov, 2);
	sqe->flags |= variant->sqe;
	EXPECT_EQ((int)PG, wait_one(&self->ring));
	EXPECT_TRUE(page_is(page_at(ex, 5), 5));

	/* A registered buffer stands for memory, not for slots: it is refused */
	ASSERT_EQ(1, ex_alloc(ex, 0, 10, 1));
	iov[0] = (struct iovec){ page_at(ex, 10), PG };
	ASSERT_EQ(0, io_uring_register_buffers(&self->ring, iov, 1));
	sqe = queue_rw(&self->ring, IORING_OP_READ_FIXED, ex->fd, 0, EXMAP_OP_READ,
		       page_at(ex, 10), PG);
	sqe->flags |= variant->sqe;
	EXPECT_EQ(-EINVAL, wait_one(&self->ring));
	sqe = queue_rw(&self->ring, IORING_OP_WRITE_FIXED, ex->fd, 0, EXMAP_OP_WRITE,
		       page_at(ex, 10), PG);
	sqe->flags |= variant->sqe;
	EXPECT_EQ(-EINVAL, wait_one(&self->ring));
	ASSERT_EQ(0, io_uring_unregister_buffers(&self->ring));
}

TEST_F(uring, vectors)
{
	struct exmap *ex = &self->ex;
	struct command *c = &self->c;
	int i;

	ASSERT_EQ(BUFFER, ex_alloc(ex, 0, 0, BUFFER));
	for (i = 0; i < 10; i++)
		renew(ex, i);
	command_add(c, EXMAP_OP_WRITE, 0, 4, EXMAP_VEC_DSYNC);
	command_add(c, EXMAP_OP_FREE, 20, 9, 0);
	command_add(c, EXMAP_OP_READ, 400, 3, 0);
	command_add(c, EXMAP_OP_ALLOC, 450, 1, EXMAP_VEC_ZERO);
	command_add(c, EXMAP_OP_READ, self->end - 1, 2, EXMAP_VEC_ZERO);
	command_add(c, EXMAP_OP_READ, self->end + 5, 1, 0);
	command_add(c, EXMAP_OP_WRITE, 9, 13, EXMAP_VEC_DIRTY);
	command_add(c, EXMAP_OP_READ, 5, 2, EXMAP_VEC_REPLACE);
	command_add(c, 77, 5, 2, EXMAP_VEC_REPLACE);
	command_add(c, EXMAP_OP_READ, 410, 0, 0);
	queue_command(&self->ring, ex->fd, c)->flags |= variant->sqe;
	ASSERT_EQ(3, wait_one(&self->ring));
	static const struct exmap_result expected[] = {
		{ 0, 4 }, { 0, 9 }, { 0, 3 }, { 0, 1 }, { 0, 2 }, { -ENODATA, 0 },
		{ -EFAULT, 11 }, { 0, 2 }, { -EINVAL, 0 }, { 0, 0 },
	};
	for (i = 0; i < (int)c->params.nr; i++) {
		EXPECT_EQ(expected[i].res, c->results[i].res)
			TH_LOG("vector %d", i);
		EXPECT_EQ(expected[i].pages, c->results[i].pages)
			TH_LOG("vector %d", i);
	}
	/* Results beyond the last vector are not written */
	EXPECT_EQ(0xaaaaaaaa, (__u32)c->results[i].res);
	for (i = 0; i < 4; i++)
		EXPECT_TRUE(file_has(self->fd, i, NEW(i)));
	EXPECT_TRUE(file_has(self->fd, 9, NEW(9)));
	for (i = 400; i < 403; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), i));
	EXPECT_TRUE(page_is(page_at(ex, 5), 5));
	EXPECT_EQ(2, count_present(ex, self->end - 1, 9));
}

TEST_F(uring, commands_that_are_refused)
{
	struct exmap *ex = &self->ex;
	struct command *c = &self->c;
	struct exmap_uring_cmd cmd = { .iov = { &c->params, sizeof(c->params) } };
	struct io_uring_sqe *sqe;
	unsigned int i;
	int expected;

	command_add(c, EXMAP_OP_READ, 5, 2, 0);
	for (i = 0; i < 7; i++) {
		sqe = queue_command(&self->ring, ex->fd, c);
		sqe->cmd_op = EXMAP_IOCTL_VECTORS + i * i - 4;
		sqe->flags |= variant->sqe;
		expected = sqe->cmd_op == EXMAP_IOCTL_VECTORS ? 0 : -EOPNOTSUPP;
		EXPECT_EQ(expected, wait_one(&self->ring));
	}

#define REFUSED(FIELD, VALUE, ERRNO) do {				\
		command_init(c, 1);					\
		command_add(c, EXMAP_OP_READ, 9, 2, 0);			\
		c->params.FIELD = VALUE;				\
		queue_command(&self->ring, ex->fd, c)->flags |= variant->sqe;	\
		EXPECT_EQ(-(ERRNO), wait_one(&self->ring));		\
	} while (0)

	REFUSED(size, 31, EINVAL);
	REFUSED(size, 0, EINVAL);
	REFUSED(size, PG + 1, E2BIG);
	REFUSED(flags, 1, EINVAL);
	REFUSED(interface, 4, EINVAL);
	REFUSED(nr, EXMAP_VECTORS_MAX + 1, EINVAL);
	REFUSED(vecs, 8, EFAULT);
	REFUSED(results, 8, EFAULT);
	REFUSED(results, (unsigned long)"constant", EFAULT);
	REFUSED(results, (unsigned long)page_at(ex, 100), EFAULT);
	command_init(c, 1);
	command_add(c, EXMAP_OP_READ, 9, 2, 0);
	for (i = 0; i < 3; i++) {
		sqe = queue_command(&self->ring, ex->fd, c);
		cmd.iov.iov_len = i * 16 + (i == 2) * 64;
		memcpy(sqe->cmd, &cmd, sizeof(cmd));
		sqe->flags |= variant->sqe;
		EXPECT_EQ(-EINVAL, wait_one(&self->ring));
	}
	cmd.iov = (struct iovec){ (void *)8, sizeof(c->params) };
	sqe = queue_command(&self->ring, ex->fd, c);
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	EXPECT_EQ(-EFAULT, wait_one(&self->ring));
	EXPECT_EQ(0, count_present(ex, 9, 20));

	/* SQE fields that exmap commands do not use must be 0 */
	for (i = 0; i < 5; i++) {
		sqe = queue_command(&self->ring, ex->fd, c);
		sqe->addr = i == 0;
		sqe->len = i == 1;
		sqe->buf_index = i == 2;
		sqe->rw_flags = i == 3 ? 1 : i == 4 ? 1 << 30 : 0;
		sqe->flags |= variant->sqe;
		EXPECT_EQ(-EINVAL, wait_one(&self->ring))
			TH_LOG("number %u", i);
	}
	EXPECT_EQ(0, count_present(ex, 9, 20));

	/* Fields that only a newer kernel knows are accepted if they are 0 */
	struct {
		struct exmap_vectors params;
		__u64 more;
	} longer = { .params = c->params };

	longer.params.size = sizeof(longer);
	longer.more = 1;
	cmd.iov = (struct iovec){ &longer, sizeof(longer) };
	sqe = queue_command(&self->ring, ex->fd, c);
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	EXPECT_EQ(-E2BIG, wait_one(&self->ring));
	EXPECT_EQ(0, count_present(ex, 9, 20));
	longer.more = 0;
	sqe = queue_command(&self->ring, ex->fd, c);
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	EXPECT_EQ(0, wait_one(&self->ring));
	EXPECT_EQ(2, count_present(ex, 9, 20));
	c->params.nr = 0;
	queue_command(&self->ring, ex->fd, c);
	EXPECT_EQ(0, wait_one(&self->ring));
}

TEST_F(uring, registered_file)
{
	struct exmap *ex = &self->ex;
	struct io_uring_sqe *sqe;

	ASSERT_EQ(0, io_uring_register_files(&self->ring, &ex->fd, 1));
	command_add(&self->c, EXMAP_OP_READ, 20, 5, 0);
	queue_command(&self->ring, 0, &self->c)->flags |= variant->sqe | IOSQE_FIXED_FILE;
	EXPECT_EQ(0, wait_one(&self->ring));
	EXPECT_EQ(5, (int)self->c.results[0].pages);
	EXPECT_TRUE(page_is(page_at(ex, 24), 24));
	sqe = queue_rw(&self->ring, IORING_OP_READ, 0, 0, EXMAP_OP_READ, page_at(ex, 30), 2 * PG);
	sqe->flags |= variant->sqe | IOSQE_FIXED_FILE;
	EXPECT_EQ((int)(2 * PG), wait_one(&self->ring));
	EXPECT_TRUE(page_is(page_at(ex, 31), 31));
}

/* Linked requests: each begins when its predecessor has completed */
TEST_F(uring, links)
{
	static const int opcodes[] = {
		EXMAP_OP_WRITE, EXMAP_OP_FREE, EXMAP_OP_READ, EXMAP_OP_FREE,
	};
	struct exmap *ex = &self->ex;
	struct command c[4];
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	int i, round;

	for (round = 0; round < 10; round++) {
		ASSERT_EQ(20, ex_alloc(ex, 0, 100, 20));
		for (i = 100; i < 120; i++)
			make_page((__u64 *)page_at(ex, i), round * 1000 + i);
		for (i = 0; i < 4; i++) {
			command_init(&c[i], i);
			command_add(&c[i], opcodes[i], 100, i % 2 ? 20 : 10, 0);
			sqe = queue_command(&self->ring, ex->fd, &c[i]);
			sqe->flags |= variant->sqe | (i < 3 ? IOSQE_IO_LINK : 0);
		}
		for (i = 0; i < 4; i++) {
			if (!i)
				ASSERT_LE(0, io_uring_submit_and_wait(&self->ring, 4));
			ASSERT_EQ(0, io_uring_wait_cqe(&self->ring, &cqe));
			EXPECT_EQ(0, cqe->res);
			EXPECT_EQ(&c[i], io_uring_cqe_get_data(cqe));
			io_uring_cqe_seen(&self->ring, cqe);
		}
		EXPECT_EQ(10, (int)c[0].results[0].pages);
		EXPECT_EQ(20, (int)c[1].results[0].pages);
		EXPECT_EQ(10, (int)c[2].results[0].pages);
		EXPECT_EQ(10, (int)c[3].results[0].pages);
		for (i = 100; i < 110; i++)
			EXPECT_TRUE(file_has(self->fd, i, round * 1000 + i));
		EXPECT_EQ(0, count_present(ex, 100, 20));
	}
}

TEST_F(uring, more_than_one_round)
{
	struct exmap *ex = &self->ex;
	struct command *c = &self->c;
	struct io_uring_sqe *sqe;
	struct iovec iov[600];
	int i;

	for (i = 0; i < 600; i++)
		iov[i] = (struct iovec){ page_at(ex, i * 3 % 299), PG };
	sqe = queue_rw(&self->ring, IORING_OP_READV, ex->fd, 0, EXMAP_OP_READ, iov, 290);
	sqe->flags |= variant->sqe;
	EXPECT_EQ((int)(290 * PG), wait_one(&self->ring));
	for (i = 0; i < 290; i++)
		EXPECT_TRUE(page_is(iov[i].iov_base, i * 3 % 299));
	sqe = queue_rw(&self->ring, IORING_OP_WRITEV, ex->fd, 0, EXMAP_OP_WRITE, iov, 600);
	sqe->flags |= variant->sqe;
	EXPECT_EQ((int)(290 * PG), wait_one(&self->ring));
	/* READ into resident pages, for more slots than are transferred at once */
	ASSERT_EQ(10, ex_alloc(ex, 0, 0, 300));
	memset(ex->region, 0xee, 300 * PG);
	for (i = 0; i < 9; i++)
		command_add(c, EXMAP_OP_READ, 100 * (i % 3), 100, EXMAP_VEC_REPLACE);
	queue_command(&self->ring, ex->fd, c)->flags |= variant->sqe;
	EXPECT_EQ(0, wait_one(&self->ring));
	for (i = 0; i < 9; i++) {
		EXPECT_EQ(0, c->results[i].res);
		EXPECT_EQ(100, (int)c->results[i].pages);
	}
	for (i = 0; i < 300; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), i));
}

TEST_F(uring, not_ours)
{
	struct exmap *ex = &self->ex;
	struct io_uring ring;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int ret = 0;

		if (io_uring_queue_init(4, &ring, 0))
			_exit(1);
		command_add(&self->c, EXMAP_OP_READ, 20, 5, 0);
		queue_command(&ring, ex->fd, &self->c)->flags |= variant->sqe;
		ret |= wait_one(&ring) != -EPERM;
		queue_rw(&ring, IORING_OP_READ, ex->fd, 0, EXMAP_OP_READ, page_at(ex, 5), PG);
		ret |= wait_one(&ring) != -EPERM;
		_exit(ret);
	}
	EXPECT_EQ(0, wait_child(pid));
	EXPECT_EQ(0, count_present(ex, 0, 100));
}

/*
 * Many requests in flight. Every job owns a few slots and repeats these steps: read
 * the slots and check their content, change some of them, write and free them.
 * Whatever a page of the pool was used for before, and whatever is in flight, every
 * slot must have its own content.
 */
#define JOBS		40
#define JOB_PAGES	7
#define JOB_STEPS	3

struct job {
	struct command c;
	struct iovec iov[JOB_PAGES];
	int step;
	int round;
	bool plain;
	__u64 version[JOB_PAGES];
};

static void job_begin(struct exmap *ex, struct io_uring *ring, struct job *job, int index,
		      unsigned int flags, __u64 *random)
{
	int first = index * JOB_PAGES, i, left = JOB_PAGES;
	struct io_uring_sqe *sqe;

	command_init(&job->c, index % 4);
	job->plain = job->step < 2 && random_below(random, 2);
	if (job->plain) {
		for (i = 0; i < JOB_PAGES; i++)
			job->iov[i] = (struct iovec){ page_at(ex, first + i), PG };
		sqe = queue_rw(ring, job->step ? IORING_OP_WRITEV : IORING_OP_READV, ex->fd,
			       index % 4, job->step ? EXMAP_OP_WRITE : EXMAP_OP_READ,
			       job->iov, JOB_PAGES);
		io_uring_sqe_set_data(sqe, job);
	} else {
		for (i = 0; left; i += job->c.vecs[job->c.params.nr - 1].len) {
			static const int opcodes[] = {
				EXMAP_OP_READ, EXMAP_OP_WRITE, EXMAP_OP_FREE,
			};
			int len = 1 + random_below(random, left);

			command_add(&job->c, opcodes[job->step], first + i, len,
				    job->step == 1 ? EXMAP_VEC_DIRTY : 0);
			left -= len;
		}
		/* In half of the cases, write and free in a single call */
		if (job->step == 1 && random_below(random, 2)) {
			command_add(&job->c, EXMAP_OP_FREE, first, JOB_PAGES, 0);
			job->step = 2;
		}
		sqe = queue_command(ring, ex->fd, &job->c);
	}
	sqe->flags |= flags;
}

/* Check the result of a step, and advance the job. Returns NULL, or what is wrong. */
static const char *job_end(struct exmap *ex, struct job *job, int index, int res, __u64 *random)
{
	int first = index * JOB_PAGES, i;
	__u64 stamp;

	if (res != (job->plain ? (int)(JOB_PAGES * PG) : 0))
		return "result";
	for (i = 0; !job->step && i < JOB_PAGES; i++) {
		void *page = page_at(ex, first + i);

		stamp = (__u64)(first + i) << 32 | job->version[i];
		if (job->version[i] ? !stamp_intact(page, stamp) : !page_is(page, first + i))
			return "content";
		if (random_below(random, 2))
			stamp_page(page, (__u64)(first + i) << 32 | ++job->version[i]);
	}
	job->round += job->step == JOB_STEPS - 1;
	job->step = (job->step + 1) % JOB_STEPS;
	return NULL;
}

TEST_F_TIMEOUT(uring, many_in_flight, SLOW)
{
	struct job *jobs = calloc(JOBS, sizeof(*jobs));
	int index, rounds = scaled(12), left = JOBS;
	struct exmap *ex = &self->ex;
	struct io_uring_cqe *cqe;
	__u64 random = 4711;
	const char *what;

	ASSERT_NE(NULL, jobs);
	for (index = 0; index < JOBS; index++)
		job_begin(ex, &self->ring, &jobs[index], index, variant->sqe, &random);
	while (left) {
		ASSERT_LE(0, io_uring_submit_and_wait(&self->ring, 1));
		while (!io_uring_peek_cqe(&self->ring, &cqe)) {
			struct job *job = io_uring_cqe_get_data(cqe);
			int res = cqe->res;

			io_uring_cqe_seen(&self->ring, cqe);
			index = job - jobs;
			what = job_end(ex, job, index, res, &random);
			ASSERT_EQ(NULL, what)
				TH_LOG("%s: job %d, round %d, step %d, %s: %d", what, index,
				       job->round, job->step, job->plain ? "plain" : "vectors",
				       res);
			if (job->round < rounds)
				job_begin(ex, &self->ring, job, index, variant->sqe, &random);
			else
				left--;
		}
	}
	/* The file must have the final content */
	for (index = 0; index < JOBS * JOB_PAGES; index++) {
		static alignas(4096) __u64 words[WORDS];
		__u64 version = jobs[index / JOB_PAGES].version[index % JOB_PAGES];

		ASSERT_EQ((ssize_t)PG, pread(self->fd, words, PG, index * PG));
		EXPECT_TRUE(version ? stamp_intact(words, (__u64)index << 32 | version) :
			    page_is(words, index));
	}
	free(jobs);
}

/* A file with holes: a write to a hole must wait until a block is allocated */

#define HOLE		100	/* page of the first hole that is written to */
#define HOLES		20

FIXTURE(holes) {
	struct exmap ex;
	struct io_uring ring;
	int fd, backing;
};

FIXTURE_VARIANT(holes) {
	unsigned int ring;
};

FIXTURE_VARIANT_ADD(holes, plain) {};
FIXTURE_VARIANT_ADD(holes, defer_taskrun) { .ring = SETUP_DEFER };

FIXTURE_SETUP(holes)
{
	struct exmap_setup2 setup = {};

	self->fd = open_file();
	ASSERT_LE(0, self->fd);
	self->backing = reopen(self->fd, O_RDWR | O_DIRECT);
	if (self->backing < 0)
		SKIP(return, "no direct I/O here");
	ASSERT_EQ(0, fill_file(self->fd, 64));
	ASSERT_EQ(0, ftruncate(self->fd, 1000 * PG));
	setup.fd = self->backing;
	exmap_create2(_metadata, &self->ex, setup, 1, BUFFER, 1000);
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &self->ring, variant->ring));
}

FIXTURE_TEARDOWN(holes)
{
	io_uring_queue_exit(&self->ring);
	exmap_destroy(&self->ex);
	close(self->backing);
	close(self->fd);
}

/*
 * Queue a call that writes to a page with a block, and then to a hole. The first
 * write is in flight when the call gets to the hole.
 */
static void queue_hole(struct io_uring *ring, struct exmap *ex, struct command *c, long page)
{
	renew(ex, 10);
	renew(ex, page);
	command_init(c, 0);
	command_add(c, EXMAP_OP_WRITE, 10, 1, 0);
	command_add(c, EXMAP_OP_WRITE, page, 1, 0);
	queue_command(ring, ex->fd, c);
}

/* The only worker must not wait for a write that needs a worker itself */
TEST_F(holes, one_worker)
{
	struct __kernel_timespec seconds = { .tv_sec = 10 };
	unsigned int workers[2] = { 1, 1 };
	struct exmap *ex = &self->ex;
	struct io_uring_cqe *cqe;
	struct command c[4];
	long page;
	int i;

	ASSERT_EQ(0, io_uring_register_iowq_max_workers(&self->ring, workers));
	ASSERT_EQ(1, ex_alloc(ex, 0, 10, 1));
	for (page = HOLE; page < HOLE + 2 * HOLES; page += 2) {
		ASSERT_EQ(1, ex_alloc(ex, 0, page, 1));
		queue_hole(&self->ring, ex, &c[0], page);
		for (i = 1; i < 4; i++) {
			command_init(&c[i], 0);
			command_add(&c[i], EXMAP_OP_WRITE, page, 1, 0);
			queue_command(&self->ring, ex->fd, &c[i]);
		}
		ASSERT_EQ(4, io_uring_submit(&self->ring));
		for (i = 0; i < 4; i++) {
			ASSERT_EQ(0, io_uring_wait_cqe_timeout(&self->ring, &cqe, &seconds));
			EXPECT_EQ(0, cqe->res);
			io_uring_cqe_seen(&self->ring, cqe);
		}
		EXPECT_TRUE(file_has(self->fd, page, NEW(page)));
	}
}

/* A task must not wait for a write that only its own task work can continue */
TEST_F(holes, own_task_work)
{
	struct exmap *ex = &self->ex;
	struct exmap_result result;
	struct exmap_vec vec;
	struct command c;
	long page;
	int ret;

	ASSERT_EQ(1, ex_alloc(ex, 0, 10, 1));
	for (page = HOLE; page < HOLE + 2 * HOLES; page += 2) {
		ASSERT_EQ(1, ex_alloc(ex, 0, page, 1));
		queue_hole(&self->ring, ex, &c, page);
		ASSERT_EQ(1, io_uring_submit(&self->ring));
		vec = ex_vec(EXMAP_OP_WRITE, page, 1, 0);
		ret = ex_vectors(ex, 0, &vec, &result, 1);
		/* Task work may interrupt the call like a signal */
		EXPECT_TRUE(!ret || (ret == 1 && result.res == -EINTR));
		EXPECT_EQ(0, wait_one(&self->ring));
		EXPECT_TRUE(file_has(self->fd, page, NEW(page)));
	}
}

/* A slow disk, and events while its requests are in flight */

#define SLOW_PAGES	64

FIXTURE(slow) {
	struct nullb disk;
	struct exmap ex;
	struct io_uring ring;
	struct command c;
	int fd;
	bool region_gone;
};

FIXTURE_VARIANT(slow) {
	unsigned int ring;
	bool plain;		/* IORING_OP_READ and _WRITE instead of VECTORS */
};

FIXTURE_VARIANT_ADD(slow, vectors) {};
FIXTURE_VARIANT_ADD(slow, plain) { .plain = true };
FIXTURE_VARIANT_ADD(slow, defer_taskrun) { .ring = SETUP_DEFER };

FIXTURE_SETUP(slow)
{
	struct exmap_setup2 setup = {};

	catch_faults();
	if (nullb_create(&self->disk, "uring_test", 80000000, NULL))
		SKIP(return, "no null_blk through configfs: %s", strerror(errno));
	self->fd = open(self->disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, fill_file(self->fd, SLOW_PAGES));
	setup.fd = self->fd;
	exmap_create2(_metadata, &self->ex, setup, 2, SLOW_PAGES, 256);
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &self->ring, variant->ring));
	command_init(&self->c, 0);
}

FIXTURE_TEARDOWN(slow)
{
	struct exmap *ex = &self->ex;
	int i;

	if (!self->region_gone) {
		/* Requests of a closed ring complete late */
		for (i = 0; i < 500 && nullb_inflight(&self->disk); i++)
			usleep(10000);
		for (i = 0; i < 500; i++) {
			/* Try again, for example after EBUSY */
			ex_drain(ex, 0, 0, 256);
			if (ex_fill(ex, 1, 0) == SLOW_PAGES)
				break;
			usleep(10000);
		}
		EXPECT_GT(500, i);
	}
	exmap_destroy(ex);
	close(self->fd);
	nullb_destroy(&self->disk);
}

/* Queue a read or write of @pages pages from @page on */
static void queue_slow(struct io_uring *ring, struct exmap *ex, bool plain, struct command *c,
		       bool write, int page, int pages)
{
	command_init(c, 0);
	if (plain) {
		queue_rw(ring, write ? IORING_OP_WRITE : IORING_OP_READ, ex->fd, 0,
			 write ? EXMAP_OP_WRITE : EXMAP_OP_READ, page_at(ex, page), pages * PG);
		return;
	}
	command_add(c, write ? EXMAP_OP_WRITE : EXMAP_OP_READ, page, pages, 0);
	queue_command(ring, ex->fd, c);
}

/*
 * Wait a moment until @wanted requests have reached the disk, and return how many
 * have. A VECTORS command issues its requests when it is submitted; for a read or
 * write call, io_uring workers issue them later.
 */
static int wait_inflight(struct nullb *disk, bool plain, int wanted)
{
	int i, inflight, most = 0;

	for (i = 0; i < 40 && most < wanted; i++) {
		inflight = nullb_inflight(disk);
		most = inflight > most ? inflight : most;
		if (!plain)
			break;
		usleep(1000);
	}
	return most;
}

TEST_F_TIMEOUT(slow, submission_does_not_wait, SLOW)
{
	struct exmap *ex = &self->ex;
	struct io_uring_cqe *cqe;
	struct command c[30];
	int i, round, most = 0;

	for (round = 0; round < 10 && most < (variant->plain ? 5 : 30); round++) {
		for (i = 0; i < 30; i++)
			queue_slow(&self->ring, ex, variant->plain, &c[i], false, 2 * i, 1);
		ASSERT_EQ(30, io_uring_submit(&self->ring));
		i = wait_inflight(&self->disk, variant->plain, 30);
		most = i > most ? i : most;
		for (i = 0; i < 30; i++) {
			ASSERT_EQ(0, io_uring_wait_cqe(&self->ring, &cqe));
			EXPECT_EQ(variant->plain ? (int)PG : 0, cqe->res);
			io_uring_cqe_seen(&self->ring, cqe);
		}
		for (i = 0; i < 30; i++)
			EXPECT_TRUE(page_is(page_at(ex, 2 * i), 2 * i));
		EXPECT_EQ(30, ex_free(ex, 0, 0, 60));
	}
	/* io_uring needs some time to create workers */
	EXPECT_LE(variant->plain ? 5 : 30, most);
	io_uring_queue_exit(&self->ring);
}

TEST_F_TIMEOUT(slow, free_under_read_and_write, SLOW)
{
	struct exmap *ex = &self->ex;
	int round, met = 0, freed, mapped, pages, i;
	bool busy;

	for (round = 0; round < 20 && !met; round++) {
		queue_slow(&self->ring, ex, variant->plain, &self->c, false, 10, 5);
		ASSERT_EQ(1, io_uring_submit(&self->ring));
		wait_inflight(&self->disk, variant->plain, 1);
		set_vec(ex, 1, 0, 8, 4);
		freed = ex_action(ex->fd, 1, EXMAP_OP_FREE, 1);
		busy = nullb_inflight(&self->disk);
		if (busy) {
			met++;
			EXPECT_EQ(1, freed);
			EXPECT_EQ(-EBUSY, ex->iface[1]->iov[0].res);
			EXPECT_EQ(0, ex->iface[1]->iov[0].pages);
		}
		EXPECT_EQ(variant->plain ? (int)(5 * PG) : 0, wait_one(&self->ring));
		for (i = 12; i < 15; i++)
			EXPECT_TRUE(page_is(page_at(ex, i), i));
		EXPECT_LE(3, ex_free(ex, 1, 10, 5));
	}
	EXPECT_LT(0, met);
	for (round = met = 0; round < 20 && !met; round++) {
		ASSERT_EQ(SLOW_PAGES, ex_alloc(ex, 0, 0, SLOW_PAGES));
		for (i = 10; i < 15; i++)
			make_page((__u64 *)page_at(ex, i), 100 * round + i);
		queue_slow(&self->ring, ex, variant->plain, &self->c, true, 10, 5);
		ASSERT_EQ(1, io_uring_submit(&self->ring));
		wait_inflight(&self->disk, variant->plain, 1);
		EXPECT_EQ(10, ex_free(ex, 1, 8, 10));
		mapped = ex_fill(ex, 1, 100);
		pages = count_present(ex, 8, 10);
		busy = nullb_inflight(&self->disk);
		for (i = 0; i < mapped; i++)
			memset(page_at(ex, 100 + i), 0xee, PG);
		EXPECT_EQ(0, pages);
		if (busy) {
			met++;
			EXPECT_EQ(5, mapped);
		}
		EXPECT_EQ(variant->plain ? (int)(5 * PG) : 0, wait_one(&self->ring));
		EXPECT_EQ(10 - mapped, ex_fill(ex, 1, 120));
		for (i = 10; i < 15; i++)
			EXPECT_TRUE(file_has(self->fd, i, 100 * round + i));
		EXPECT_EQ(SLOW_PAGES, ex_drain(ex, 0, 0, 256));
	}
	EXPECT_LT(0, met);
	io_uring_queue_exit(&self->ring);
}

TEST_F_TIMEOUT(slow, ring_closed, SLOW)
{
	struct exmap *ex = &self->ex;
	struct command c[8];
	int i;

	ASSERT_EQ(8, ex_alloc(ex, 0, 40, 8));
	for (i = 0; i < 8; i++)
		queue_slow(&self->ring, ex, variant->plain, &c[i], i % 2, 40 * (i % 2) + i, 1);
	ASSERT_EQ(8, io_uring_submit(&self->ring));
	io_uring_queue_exit(&self->ring);
}

TEST_F_TIMEOUT(slow, region_unmapped, SLOW)
{
	struct exmap *ex = &self->ex;
	struct io_uring_cqe *cqe;
	struct command c[4];
	int i;

	ASSERT_EQ(8, ex_alloc(ex, 0, 40, 8));
	for (i = 0; i < 8; i++)
		make_page((__u64 *)page_at(ex, 40 + i), NEW(40 + i));
	for (i = 0; i < 4; i++)
		queue_slow(&self->ring, ex, variant->plain, &c[i], i % 2, 40 * (i % 2) + i, 1);
	ASSERT_EQ(4, io_uring_submit(&self->ring));
	EXPECT_EQ(4, wait_inflight(&self->disk, variant->plain, 4));
	ASSERT_EQ(0, munmap(ex->region, ex->pages * PG));
	self->region_gone = true;
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, io_uring_wait_cqe(&self->ring, &cqe));
		/* The disk may have answered before the region was unmapped */
		if (cqe->res != 0 && cqe->res != (int)PG)
			EXPECT_EQ(variant->plain ? -ENXIO : 1, cqe->res);
		io_uring_cqe_seen(&self->ring, cqe);
	}
	if (!variant->plain && c[0].results[0].res)
		EXPECT_EQ(-ENXIO, c[0].results[0].res);
	/* Writes that were in flight have reached the disk */
	EXPECT_TRUE(file_has(self->fd, 41, NEW(41)));
	EXPECT_TRUE(file_has(self->fd, 43, NEW(43)));
	io_uring_queue_exit(&self->ring);
}

TEST_F_TIMEOUT(slow, file_closed, SLOW)
{
	struct exmap *ex = &self->ex;
	int spare = dup(ex->fd), fd = ex->fd;

	queue_slow(&self->ring, ex, variant->plain, &self->c, false, 10, 3);
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	close(fd);
	EXPECT_EQ(variant->plain ? (int)(3 * PG) : 0, wait_one(&self->ring));
	EXPECT_TRUE(page_is(page_at(ex, 12), 12));
	ex->fd = spare;
	io_uring_queue_exit(&self->ring);
}

TEST_F_TIMEOUT(slow, all_closed_at_once, SLOW)
{
	struct exmap *ex = &self->ex;
	struct command c[4];
	int i;

	ASSERT_EQ(8, ex_alloc(ex, 0, 40, 8));
	for (i = 0; i < 4; i++)
		queue_slow(&self->ring, ex, variant->plain, &c[i], i % 2, 40 * (i % 2) + i, 1);
	ASSERT_EQ(4, io_uring_submit(&self->ring));
	exmap_destroy(ex);
	self->region_gone = true;
	io_uring_queue_exit(&self->ring);
	/* The teardown needs an exmap */
	exmap_create(_metadata, ex, -1, 1, 1, 1);
}

/* The results are unmapped while the call is in flight */
TEST_F_TIMEOUT(slow, results_unmapped, SLOW)
{
	struct command *c = mmap(NULL, PG, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct exmap *ex = &self->ex;
	int res;

	if (variant->plain)
		SKIP(return, "it has none");
	ASSERT_NE(MAP_FAILED, c);
	queue_slow(&self->ring, ex, false, c, false, 10, 3);
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	munmap(c, PG);
	res = wait_one(&self->ring);
	EXPECT_TRUE(res == -EFAULT || res == 0);
	/* The call is carried out nevertheless */
	EXPECT_TRUE(page_is(page_at(ex, 12), 12));
	io_uring_queue_exit(&self->ring);
}

TEST_F_TIMEOUT(slow, canceled, SLOW)
{
	struct exmap *ex = &self->ex;
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	int i, ok = 0;

	queue_slow(&self->ring, ex, variant->plain, &self->c, false, 10, 3);
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	sqe = next_sqe(&self->ring);
	io_uring_prep_rw(IORING_OP_ASYNC_CANCEL, sqe, -1,
			 variant->plain ? NULL : &self->c, 0, 0);
	io_uring_sqe_set_data(sqe, (void *)1);
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, io_uring_wait_cqe(&self->ring, &cqe));
		if (io_uring_cqe_get_data(cqe) != (void *)1)
			ok += cqe->res == (variant->plain ? (int)(3 * PG) : 0) ||
			      cqe->res == -ECANCELED;
		io_uring_cqe_seen(&self->ring, cqe);
	}
	EXPECT_EQ(1, ok);
	io_uring_queue_exit(&self->ring);
}

struct submitter {
	struct io_uring *ring;
	struct command *c;
	bool plain;
};

static void *submit_and_leave(void *arg)
{
	struct worker *w = arg;
	struct submitter *s = w->arg;

	queue_slow(s->ring, w->ex, s->plain, s->c, false, 10, 3);
	BROKE(w, io_uring_submit(s->ring) != 1, 0);
	return NULL;
}

/* The submitting thread has exited by the time the disk answers */
TEST_F_TIMEOUT(slow, thread_gone, SLOW)
{
	struct exmap *ex = &self->ex;
	struct submitter s = { &self->ring, &self->c, variant->plain };
	struct worker w;
	int res;

	if (variant->ring)
		SKIP(return, "a ring for one thread");
	run_workers(_metadata, &w, 1, submit_and_leave, ex, &s);
	res = wait_one(&self->ring);
	EXPECT_TRUE(res == (variant->plain ? (int)(3 * PG) : 0) || res == -ECANCELED);
	if (res >= 0)
		EXPECT_TRUE(page_is(page_at(ex, 12), 12));
	io_uring_queue_exit(&self->ring);
}

/* How processes end while their requests are in flight */
enum ending { KILLED, EXITED, EXEC, ENDINGS };

static void end_soon(struct __test_metadata *_metadata, struct nullb *disk, int fd,
		     unsigned int ring_flags, bool plain, enum ending ending)
{
	struct exmap_setup2 setup = { .fd = fd };
	struct io_uring ring;
	struct command c[8];
	struct exmap ex;
	int i;

	exmap_create2(_metadata, &ex, setup, 2, 32, 256);
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, ring_flags));
	ASSERT_EQ(8, ex_alloc(&ex, 0, 40, 8));
	for (i = 0; i < 8; i++)
		queue_slow(&ring, &ex, plain, &c[i], i % 2, 40 * (i % 2) + i, 1);
	ASSERT_EQ(8, io_uring_submit(&ring));
	if (ending == KILLED)
		kill(getpid(), SIGKILL);
	if (ending == EXEC)
		execl("/proc/self/exe", "uring_test", "-l", NULL);
	_exit(0);
}

TEST_F_TIMEOUT(slow, process_gone, SLOW)
{
	static const int endings[] = { 128 + SIGKILL, 0, KSFT_SKIP };
	int ending, status, null;
	pid_t pid;

	io_uring_queue_exit(&self->ring);
	for (ending = 0; ending < ENDINGS; ending++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			null = open("/dev/null", O_WRONLY);
			dup2(null, 1);
			dup2(null, 2);
			end_soon(_metadata, &self->disk, self->fd, variant->ring,
				 variant->plain, ending);
		}
		status = wait_child(pid);
		EXPECT_EQ(endings[ending], status);
	}
}

TEST_HARNESS_MAIN
