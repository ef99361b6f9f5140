// SPDX-License-Identifier: GPL-2.0
/* Read and write calls on the exmap through io_uring, on every kind of file and ring */
#include "common.h"
#include "uring_lib.h"
#include "paged_way.h"

static struct io_uring_sqe *queue_rw(struct io_uring *ring, int op, int fd, int iface,
				     int opcode, void *addr, unsigned int len)
{
	struct io_uring_sqe *sqe = next_sqe(ring);

	prep_rw(sqe, op, fd, ex_pos(iface, opcode), addr, len);
	return sqe;
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

TEST_F(uring, registered_file)
{
	struct exmap *ex = &self->ex;
	struct io_uring_sqe *sqe;

	ASSERT_EQ(0, io_uring_register_files(&self->ring, &ex->fd, 1));
	sqe = queue_rw(&self->ring, IORING_OP_READ, 0, 0, EXMAP_OP_READ, page_at(ex, 30), 2 * PG);
	sqe->flags |= variant->sqe | IOSQE_FIXED_FILE;
	EXPECT_EQ((int)(2 * PG), wait_one(&self->ring));
	EXPECT_TRUE(page_is(page_at(ex, 31), 31));
}

TEST_F(uring, more_than_one_round)
{
	struct exmap *ex = &self->ex;
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
}

TEST_F(uring, not_ours)
{
	struct exmap *ex = &self->ex;
	struct io_uring ring;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (io_uring_queue_init(4, &ring, 0))
			_exit(1);
		queue_rw(&ring, IORING_OP_READ, ex->fd, 0, EXMAP_OP_READ, page_at(ex, 5),
			 PG)->flags |= variant->sqe;
		_exit(wait_one(&ring) != -EPERM);
	}
	EXPECT_EQ(0, wait_child(pid));
	EXPECT_EQ(0, count_present(ex, 0, 100));
}

TEST_F_TIMEOUT(uring, many_in_flight, SLOW)
{
	many_in_flight(_metadata, &self->ex, self->fd, &self->ring, variant->sqe, &by_ring_call);
}

FIXTURE_VARIANT_ADD(slow, calls) { .way = &by_ring_call };

/* An exmap cannot be polled, so reads and writes are refused in a polled ring */

FIXTURE(polled) {
	struct exmap ex;
	struct ring ring;
	int fd;
};

FIXTURE_VARIANT(polled) {
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(polled, ring) {};
FIXTURE_VARIANT_ADD(polled, defer_taskrun) { .flags = SETUP_DEFER };

FIXTURE_SETUP(polled)
{
	int ret;

	catch_faults();
	ret = ring_open_flags(&self->ring, 16, IORING_SETUP_IOPOLL | variant->flags);
	if (ret)
		SKIP(return, "no such ring here: %s", strerror(-ret));
	self->fd = open_file();
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, fill_file(self->fd, 64));
	exmap_create(_metadata, &self->ex, self->fd, 2, 16, 64);
}

FIXTURE_TEARDOWN(polled)
{
	ring_close(&self->ring);
	exmap_destroy(&self->ex);
	close(self->fd);
}

TEST_F(polled, refused)
{
	struct exmap *ex = &self->ex;
	struct iovec iov = { page_at(ex, 8), PG };
	const struct {
		int op, opcode;
		void *addr;
		unsigned int len;
	} tests[] = {
		{ IORING_OP_READ, EXMAP_OP_READ, page_at(ex, 5), PG },
		{ IORING_OP_READ, EXMAP_OP_ALLOC, page_at(ex, 5), PG },
		{ IORING_OP_READV, EXMAP_OP_READ, &iov, 1 },
		{ IORING_OP_WRITE, EXMAP_OP_WRITE, page_at(ex, 0), PG },
		{ IORING_OP_WRITEV, EXMAP_OP_WRITE, &iov, 1 },
	};
	unsigned int i;

	ASSERT_EQ(1, ex_alloc(ex, 0, 0, 1));
	renew(ex, 0);
	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		prep_rw(ring_sqe(&self->ring), tests[i].op, ex->fd, ex_pos(0, tests[i].opcode),
			tests[i].addr, tests[i].len);
		EXPECT_EQ(-EOPNOTSUPP, ring_run(&self->ring))
			TH_LOG("number %u", i);
	}
	EXPECT_TRUE(ring_stays_empty(&self->ring));
	EXPECT_EQ(1, count_present(ex, 0, 64));
	EXPECT_TRUE(file_has(self->fd, 0, 0));
}

TEST_HARNESS_MAIN
