// SPDX-License-Identifier: GPL-2.0
/* The exmap with io_uring: many calls in flight, and events that end them early */
#include "common.h"
#include "uring_lib.h"

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

	ASSERT_EQ(0, io_uring_register_files(&self->ring, &ex->fd, 1));
	command_add(&self->c, EXMAP_OP_READ, 20, 5, 0);
	queue_command(&self->ring, 0, &self->c)->flags |= variant->sqe | IOSQE_FIXED_FILE;
	EXPECT_EQ(0, wait_one(&self->ring));
	EXPECT_EQ(5, (int)self->c.results[0].pages);
	EXPECT_TRUE(page_is(page_at(ex, 24), 24));
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
	int i;

	/* READ into resident pages, for more slots than are transferred at once */
	ASSERT_EQ(300, ex_alloc(ex, 0, 0, 300));
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
		_exit(ret);
	}
	EXPECT_EQ(0, wait_child(pid));
	EXPECT_EQ(0, count_present(ex, 0, 100));
}

TEST_F_TIMEOUT(uring, many_in_flight, SLOW)
{
	many_in_flight(_metadata, &self->ex, self->fd, &self->ring, variant->sqe, NULL);
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

/* Events while the requests of a slow disk are in flight; more of this is in uring_lib.h */

FIXTURE_VARIANT_ADD(slow, vectors) { .way = &by_command };
FIXTURE_VARIANT_ADD(slow, defer_taskrun) { .way = &by_command, .ring = SETUP_DEFER };

/* The results are unmapped while the call is in flight */
TEST_F_TIMEOUT(slow, results_unmapped, SLOW)
{
	struct command *c = mmap(NULL, PG, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct exmap *ex = &self->ex;
	int res;

	ASSERT_NE(MAP_FAILED, c);
	queue_slow(&self->ring, ex, variant->way, c, EXMAP_OP_READ, 10, 3);
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	munmap(c, PG);
	res = wait_one(&self->ring);
	EXPECT_TRUE(res == -EFAULT || res == 0);
	/* The call is carried out nevertheless */
	EXPECT_TRUE(page_is(page_at(ex, 12), 12));
	io_uring_queue_exit(&self->ring);
}

TEST_HARNESS_MAIN
