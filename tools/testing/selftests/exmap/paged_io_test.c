// SPDX-License-Identifier: GPL-2.0
/*
 * READ and WRITE through the vectors of an interface, and as preadv() and pwritev() on the
 * exmap, with all errors and on every kind of backing file
 */
#include "common.h"
#include "io.h"
#include "nullb.h"
#include "paged.h"

/* Vectors of an interface (EXMAP_IOCTL_ACTION) */

/* Map the interfaces of an exmap */
static struct paged *map_ifaces(struct __test_metadata *_metadata, const struct exmap *ex)
{
	static struct paged p;

	p.ex = *ex;
	paged_map_ifaces(_metadata, &p);
	return &p;
}

TEST_F(io, action_read)
{
	struct paged *p = map_ifaces(_metadata, &self->ex);
	struct exmap_iov *iov = p->iface[1]->iov;
	struct exmap *ex = &p->ex;
	int i, j;

	soil(_metadata, ex);
	/* READ must neither overwrite nor count resident pages */
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(1, paged_alloc(p, 0, i * 30 + 1, 1));
		stamp_page(page_at(ex, i * 30 + 1), i);
	}
	for (i = 0; i < 100; i++)
		set_vec(p, 1, i, i * 6, 1 + i % 4);
	ASSERT_EQ(0, ex_action(ex->fd, 1, EXMAP_OP_READ, 100));
	for (i = 0; i < 100; i++) {
		EXPECT_EQ(0, iov[i].res);
		EXPECT_EQ(1 + i % 4 - (i % 5 == 0 && i % 4), iov[i].pages);
		for (j = i * 6; j < i * 6 + 1 + i % 4; j++) {
			void *page = page_at(ex, j);

			EXPECT_TRUE(j % 30 == 1 ? stamp_intact(page, j / 30) : page_is(page, j));
		}
		EXPECT_FALSE(j % 30 != 1 && present(page_at(ex, j)));
	}
	/* A second READ finds all slots resident */
	EXPECT_EQ(0, paged_one(p, 1, EXMAP_OP_READ, 0, 3 - 1 - 1));
	EXPECT_EQ(0, paged_one(p, 2, EXMAP_OP_READ, 42, 4));
	paged_unmap_ifaces(p);
}

TEST_F(io, action_write)
{
	struct paged *p = map_ifaces(_metadata, &self->ex);
	struct exmap_iov *iov = p->iface[2]->iov;
	struct exmap *ex = &p->ex;
	int i;

	ASSERT_EQ(200, paged_one(p, 0, EXMAP_OP_READ, 200, 200));
	for (i = 200; i < 400; i++)
		renew(ex, i);
	for (i = 0; i < 50; i++)
		set_vec(p, 2, i, 200 + i * 4, i % 4);
	ASSERT_EQ(0, ex_action(ex->fd, 2, EXMAP_OP_WRITE, 50));
	for (i = 0; i < 200; i++) {
		EXPECT_EQ(i / 4 % 4, iov[i / 4].pages);
		EXPECT_EQ(0, iov[i / 4].res);
		/* WRITE leaves the page mapped and unchanged */
		EXPECT_TRUE(page_is(page_at(ex, 200 + i), NEW(200 + i)));
		EXPECT_TRUE(file_has(self->fd, 200 + i,
				     i % 4 < i / 4 % 4 ? NEW(200 + i) : 200 + i));
	}
	/* A READ after FREE returns what was written */
	ASSERT_EQ(200, paged_free(p, 0, 200, 200));
	ASSERT_EQ(200, paged_one(p, 0, EXMAP_OP_READ, 200, 200));
	for (i = 0; i < 200; i++)
		EXPECT_TRUE(page_is(page_at(ex, 200 + i),
				    i % 4 < i / 4 % 4 ? NEW(200 + i) : 200 + i));
	paged_unmap_ifaces(p);
}

TEST_F(io, action_errors)
{
	struct paged *p = map_ifaces(_metadata, &self->ex);
	struct exmap_iov *iov = p->iface[0]->iov;
	struct exmap *ex = &p->ex;
	static const __u64 pages[] = { 1ULL << 51, ~0ULL >> 12, 3, 0 };
	int i;

	ASSERT_EQ(3, paged_alloc(p, 1, 10, 3));
	for (i = 10; i < 13; i++)
		renew(ex, i);
	set_vec(p, 0, 0, 9, 2);		/* the first slot is empty */
	set_vec(p, 0, 1, 10, 5);		/* the fourth slot is empty */
	set_vec(p, 0, 2, ex->pages, 1);
	set_vec(p, 0, 3, ex->pages - 1, 2);
	set_vec(p, 0, 4, ex->pages, 0);
	set_vec(p, 0, 5, ex->pages + 5, 0);
	set_vec(p, 0, 6, 12, 1);
	ASSERT_EQ(4, ex_action(ex->fd, 0, EXMAP_OP_WRITE, 7));
	EXPECT_EQ(-EFAULT, iov[0].res);
	EXPECT_EQ(0, iov[0].pages);
	EXPECT_EQ(-EFAULT, iov[1].res);
	EXPECT_EQ(3, iov[1].pages);
	EXPECT_EQ(-ERANGE, iov[2].res);
	EXPECT_EQ(-ERANGE, iov[3].res);
	EXPECT_EQ(0, iov[4].res);
	EXPECT_EQ(0, iov[5].res);
	EXPECT_EQ(0, iov[6].res);
	EXPECT_EQ(1, iov[6].pages);
	EXPECT_EQ(3, count_present(ex, 0, 30));
	for (i = 9; i < 14; i++)
		EXPECT_TRUE(file_has(self->fd, i, i > 9 && i < 13 ? NEW(i) : i));

	for (i = 0; i < 3; i++)
		set_vec(p, 0, i, pages[i], 1 + (i == 0) * 4094);
	set_vec(p, 0, 3, self->end - 1, 4);
	ASSERT_EQ(3, ex_action(ex->fd, 0, EXMAP_OP_READ, 4));
	EXPECT_EQ(-ERANGE, iov[0].res);
	EXPECT_EQ(-ERANGE, iov[1].res);
	EXPECT_EQ(1, iov[2].pages);
	EXPECT_EQ(-ENODATA, iov[3].res);
	EXPECT_EQ(1, iov[3].pages);
	EXPECT_FALSE(present(page_at(ex, self->end)));
	EXPECT_EQ(-EINVAL, ex_action(ex->fd, 0, EXMAP_OP_READ, 513));
	EXPECT_EQ(-EINVAL, ex_action(ex->fd, 4, EXMAP_OP_WRITE, 1));
	EXPECT_EQ(0, ex_action(ex->fd, 0, EXMAP_OP_WRITE, 0));
	EXPECT_EQ(0, ex_action(ex->fd, 0, EXMAP_OP_READ, 0));
	paged_unmap_ifaces(p);
}

TEST_F(io, action_read_from_an_empty_pool)
{
	struct paged *p = map_ifaces(_metadata, &self->ex);
	struct exmap_iov *iov = p->iface[1]->iov;
	struct exmap *ex = &p->ex;

	ASSERT_EQ(BUFFER - 2, paged_alloc(p, 0, 0, BUFFER - 2));
	stamp_page(page_at(ex, 5), 5);
	set_vec(p, 1, 0, 5, 1);
	set_vec(p, 1, 1, 700, 5);
	set_vec(p, 1, 2, 6, 1);
	set_vec(p, 1, 3, 800, 1);
	ASSERT_EQ(2, ex_action(ex->fd, 1, EXMAP_OP_READ, 4));
	EXPECT_EQ(0, iov[0].res);
	EXPECT_EQ(-ENOMEM, iov[1].res);
	EXPECT_EQ(2, iov[1].pages);
	EXPECT_EQ(0, iov[2].res);
	EXPECT_EQ(-ENOMEM, iov[3].res);
	EXPECT_TRUE(stamp_intact(page_at(ex, 5), 5));
	EXPECT_TRUE(page_is(page_at(ex, 701), 701));
	EXPECT_EQ(2, count_present(ex, 600, 300));

	/* A call that fails without having changed anything leaves its vectors alone */
	set_vec(p, 1, 0, 5, 1);
	set_vec(p, 1, 1, 700, 5);
	EXPECT_EQ(-ENOMEM, ex_action(ex->fd, 1, EXMAP_OP_READ, 2));
	EXPECT_EQ(5, (long)iov[0].page);
	EXPECT_EQ(1, (int)iov[0].len);
	EXPECT_EQ(700, (long)iov[1].page);
	EXPECT_EQ(5, (int)iov[1].len);
	paged_unmap_ifaces(p);
}

/* preadv() and pwritev() */

TEST_F(io, pwritev)
{
	struct exmap *ex = &self->ex;
	struct iovec iov[5] = {
		{ page_at(ex, 20), 3 * PG }, { page_at(ex, 5), PG }, { page_at(ex, 40), 0 },
		{ page_at(ex, 50), 2 * PG }, { page_at(ex, 90), PG },
	};
	int i;

	ASSERT_EQ(100, ex_alloc(ex, 0, 0, 100));
	for (i = 0; i < 100; i++)
		renew(ex, i);
	ASSERT_EQ((ssize_t)PG, ex_pwrite(ex->fd, 0, EXMAP_OP_WRITE, page_at(ex, 0), PG));
	ASSERT_EQ((ssize_t)PG, ex_pwrite(ex->fd, 3, 0, page_at(ex, 1), PG));
	ASSERT_EQ((ssize_t)(7 * PG), ex_pwritev2(ex->fd, 1, EXMAP_OP_WRITE, iov, 5, 0));
	for (i = 0; i < 100; i++)
		EXPECT_TRUE(file_has(self->fd, i, i < 2 || (i >= 20 && i < 23) || i == 5 ||
				     i == 50 || i == 51 || i == 90 ? NEW(i) : i));
	make_page((__u64 *)page_at(ex, 20), 9);
	ASSERT_EQ((ssize_t)(7 * PG), ex_pwritev2(ex->fd, 1, EXMAP_OP_WRITE, iov, 5, RWF_DSYNC));
	ASSERT_EQ((ssize_t)(7 * PG), ex_pwritev2(ex->fd, 1, EXMAP_OP_WRITE, iov, 5, RWF_SYNC));
	EXPECT_TRUE(file_has(self->fd, 20, 9));
	/* write() acts like pwrite() at position 0 and does not advance the position */
	make_page((__u64 *)page_at(ex, 30), 19);
	make_page((__u64 *)page_at(ex, 31), 20);
	ASSERT_EQ((ssize_t)PG, write(ex->fd, page_at(ex, 30), PG));
	ASSERT_EQ((ssize_t)PG, write(ex->fd, page_at(ex, 31), PG));
	EXPECT_TRUE(file_has(self->fd, 30, 19));
	EXPECT_TRUE(file_has(self->fd, 31, 20));

	/* The call ends at an empty slot, and fails only if that is the first one */
	ASSERT_EQ(1, ex_free(ex, 0, 21, 1));
	ASSERT_EQ(1, ex_free(ex, 0, 51, 1));
	EXPECT_EQ((ssize_t)PG, ex_pwritev2(ex->fd, 1, EXMAP_OP_WRITE, iov, 5, 0));
	EXPECT_EQ((ssize_t)(2 * PG), ex_pwritev2(ex->fd, 1, EXMAP_OP_WRITE, iov + 1, 4, 0));
	iov[0].iov_base = page_at(ex, 21);
	EXPECT_EQ(-EFAULT, ex_pwritev2(ex->fd, 1, EXMAP_OP_WRITE, iov, 5, 0));
	EXPECT_EQ(-EFAULT, ex_pwrite(ex->fd, 1, EXMAP_OP_WRITE, page_at(ex, 21), PG));
	EXPECT_EQ(-EFAULT, ex_pwrite(ex->fd, 1, EXMAP_OP_WRITE, page_at(ex, 200), PG));

	EXPECT_EQ(-EINVAL, ex_pwrite(ex->fd, 1, EXMAP_OP_ALLOC, page_at(ex, 0), PG));
	EXPECT_EQ(-EINVAL, ex_pwrite(ex->fd, 1, EXMAP_OP_FREE, page_at(ex, 0), PG));
	EXPECT_EQ(-EINVAL, ex_pwrite(ex->fd, 1, 4, page_at(ex, 0), PG));
	EXPECT_EQ(-EINVAL, ex_pwrite(ex->fd, 4, EXMAP_OP_WRITE, page_at(ex, 0), PG));
	EXPECT_EQ(-EINVAL, ex_pwrite(ex->fd, 0, EXMAP_OP_WRITE, page_at(ex, 0) + 8, PG));
	EXPECT_EQ(-EINVAL, ex_pwrite(ex->fd, 0, EXMAP_OP_WRITE, page_at(ex, 0), 512));
	EXPECT_EQ(-ERANGE, ex_pwrite(ex->fd, 0, EXMAP_OP_WRITE, iov, 0) ?: -ERANGE);
	EXPECT_EQ(-ERANGE, ex_pwrite(ex->fd, 0, EXMAP_OP_WRITE, page_at(ex, ex->pages - 1),
				     2 * PG));
	/* A descriptor that is open for reading only must not allow a WRITE */
	EXPECT_EQ(-EINVAL, ex_pread(ex->fd, 0, EXMAP_OP_WRITE, page_at(ex, 0), PG));
}

TEST_F(io, long_pwrite_and_pread)
{
	struct exmap *ex = &self->ex;
	int i;

	ASSERT_EQ(BUFFER, ex_alloc(ex, 0, 0, BUFFER));
	for (i = 0; i < BUFFER; i++)
		renew(ex, i);
	ASSERT_EQ((ssize_t)(BUFFER * PG),
		  ex_pwrite(ex->fd, 0, EXMAP_OP_WRITE, ex->region, BUFFER * PG));
	for (i = 0; i < BUFFER; i++)
		EXPECT_TRUE(file_has(self->fd, i, NEW(i)));
	/* The last slot of a long write is empty */
	EXPECT_EQ((ssize_t)(BUFFER * PG),
		  ex_pwrite(ex->fd, 0, EXMAP_OP_WRITE, ex->region, (BUFFER + 1) * PG));
	/* The pool has no page for the last slot of a long read */
	EXPECT_EQ(1, ex_free(ex, 0, 580, 1));
	memset(ex->region, 0xee, 580 * PG);
	EXPECT_EQ((ssize_t)(BUFFER * PG),
		  ex_pread(ex->fd, 0, EXMAP_OP_READ, ex->region, (BUFFER + 1) * PG));
	for (i = 0; i < BUFFER; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), NEW(i)));
}

TEST_F(io, without_waiting)
{
	struct exmap *ex = &self->ex;
	struct iovec iov[2] = { { page_at(ex, 300), 2 * PG }, { page_at(ex, 700), 2 * PG } };
	ssize_t ret;
	int i;

	fdatasync(self->fd);
	posix_fadvise(self->backing, 0, 0, POSIX_FADV_DONTNEED);
	for (i = 0; i < 20; i++) {
		ret = ex_preadv2(ex->fd, 0, EXMAP_OP_READ, iov, 2, RWF_NOWAIT);
		if (ret == -EAGAIN) {
			/* A READ that would have to wait maps nothing */
			EXPECT_EQ(0, count_present(ex, 0, 1000));
			usleep(1000);
			continue;
		}
		ASSERT_TRUE(ret > 0 && ret <= (ssize_t)(4 * PG) && ret % PG == 0);
		break;
	}
	ASSERT_EQ((ssize_t)(4 * PG), ex_preadv2(ex->fd, 0, EXMAP_OP_READ, iov, 2, 0));
	for (i = 0; i < 2; i++) {
		EXPECT_TRUE(page_is(page_at(ex, 300 + i), 300 + i));
		EXPECT_TRUE(page_is(page_at(ex, 700 + i), 700 + i));
		renew(ex, 300 + i);
		renew(ex, 700 + i);
	}
	/* A file that cannot write without waiting makes the call fail with EAGAIN */
	ret = ex_pwritev2(ex->fd, 0, EXMAP_OP_WRITE, iov, 2, RWF_NOWAIT);
	EXPECT_TRUE(ret == -EAGAIN || (ret > 0 && ret <= (ssize_t)(4 * PG) && ret % PG == 0))
		TH_LOG("pwritev2: %zd", ret);
	for (i = 0; ret > 0 && i < ret / (ssize_t)PG; i++)
		EXPECT_TRUE(file_has(self->fd, i < 2 ? 300 + i : 698 + i,
				     NEW(i < 2 ? 300 + i : 698 + i)));
}

/* Tests that do not depend on the kind of backing file */

TEST(no_backing_file)
{
	struct exmap_iov *iov;
	struct paged p;
	int opcode;

	catch_faults();
	paged_create(_metadata, &p, -1, 1, 8, 16);
	iov = p.iface[0]->iov;
	ASSERT_EQ(1, paged_alloc(&p, 0, 3, 1));
	for (opcode = EXMAP_OP_READ; opcode <= EXMAP_OP_WRITE; opcode += EXMAP_OP_WRITE) {
		set_vec(&p, 0, 0, 3, 1);
		set_vec(&p, 0, 1, 2, 2);
		set_vec(&p, 0, 2, 16, 1);
		set_vec(&p, 0, 3, 1, 0);
		EXPECT_EQ(3, ex_action(p.ex.fd, 0, opcode, 4));
		EXPECT_EQ(-ENODEV, iov[0].res);
		EXPECT_EQ(-ENODEV, iov[1].res);
		EXPECT_EQ(-ERANGE, iov[2].res);
		EXPECT_EQ(0, iov[3].res);
	}
	EXPECT_EQ(-ENODEV, ex_pwrite(p.ex.fd, 0, EXMAP_OP_WRITE, page_at(&p.ex, 3), PG));
	EXPECT_EQ(-ENODEV, ex_pread(p.ex.fd, 0, EXMAP_OP_READ, page_at(&p.ex, 3), PG));
	EXPECT_EQ(1, count_present(&p.ex, 0, 16));
	paged_destroy(&p);
}

/* Create an exmap on a file of 64 pages that was opened with @flags */
static int create_on_file(struct __test_metadata *_metadata, struct paged *p, int flags)
{
	int fd = open_file(), backing;

	catch_faults();
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fill_file(fd, 64));
	backing = reopen(fd, flags);
	ASSERT_LE(0, backing);
	paged_create(_metadata, p, backing, 1, 16, 64);
	close(backing);
	return fd;
}

TEST(backing_file_for_reading_only)
{
	struct paged p;
	int fd = create_on_file(_metadata, &p, O_RDONLY), i;

	ASSERT_EQ(8, paged_one(&p, 0, EXMAP_OP_READ, 0, 8));
	for (i = 0; i < 8; i++)
		renew(&p.ex, i);
	EXPECT_EQ(-EBADF, paged_one(&p, 0, EXMAP_OP_WRITE, 3, 1));
	EXPECT_EQ(-EBADF, paged_one(&p, 0, EXMAP_OP_WRITE, 0, 8));
	EXPECT_EQ(-EBADF, ex_pwrite(p.ex.fd, 0, EXMAP_OP_WRITE, p.ex.region, PG));
	EXPECT_EQ(-EBADF, ex_pwrite(p.ex.fd, 0, EXMAP_OP_WRITE, p.ex.region, 8 * PG));
	for (i = 0; i < 8; i++) {
		EXPECT_TRUE(file_has(fd, i, i));
		EXPECT_TRUE(page_is(page_at(&p.ex, i), NEW(i)));
	}
	paged_destroy(&p);
	close(fd);
}

/* O_APPEND has no effect: a page is written to its own place in the file */
TEST(backing_file_for_appending)
{
	struct paged p;
	int fd = create_on_file(_metadata, &p, O_RDWR | O_APPEND);
	struct stat stat;

	ASSERT_EQ(8, paged_one(&p, 0, EXMAP_OP_READ, 0, 8));
	renew(&p.ex, 3);
	renew(&p.ex, 5);
	EXPECT_EQ(1, paged_one(&p, 0, EXMAP_OP_WRITE, 3, 1));
	EXPECT_EQ((ssize_t)PG, ex_pwrite(p.ex.fd, 0, EXMAP_OP_WRITE, page_at(&p.ex, 5), PG));
	EXPECT_TRUE(file_has(fd, 3, NEW(3)));
	EXPECT_TRUE(file_has(fd, 5, NEW(5)));
	ASSERT_EQ(0, fstat(fd, &stat));
	EXPECT_EQ(64 * PG, (unsigned long)stat.st_size);
	paged_destroy(&p);
	close(fd);
}

/* A file with the append-only attribute cannot be written to */
TEST(append_only_file)
{
	struct paged p;
	int fd = create_on_file(_metadata, &p, O_RDWR | O_APPEND), flags;

	if (ioctl(fd, FS_IOC_GETFLAGS, &flags))
		SKIP(return, "no file attributes on this file system");
	flags |= FS_APPEND_FL;
	if (ioctl(fd, FS_IOC_SETFLAGS, &flags))
		SKIP(return, "the file cannot be made append-only");
	ASSERT_EQ(8, paged_one(&p, 0, EXMAP_OP_READ, 0, 8));
	renew(&p.ex, 3);
	EXPECT_EQ(-EPERM, paged_one(&p, 0, EXMAP_OP_WRITE, 3, 1));
	EXPECT_EQ(-EPERM, ex_pwrite(p.ex.fd, 0, EXMAP_OP_WRITE, page_at(&p.ex, 3), PG));
	EXPECT_TRUE(file_has(fd, 3, 3));
	paged_destroy(&p);
	flags &= ~FS_APPEND_FL;
	ASSERT_EQ(0, ioctl(fd, FS_IOC_SETFLAGS, &flags));
	close(fd);
}

/* The region begins in the middle of the file */
TEST(offset)
{
	struct exmap_setup2 setup = { .offset = 20 * PG };
	struct paged p;
	int i;

	catch_faults();
	setup.fd = open_file();
	ASSERT_LE(0, setup.fd);
	ASSERT_EQ(0, fill_file(setup.fd, 64));
	paged_create2(_metadata, &p, setup, 1, 16, 64);
	EXPECT_EQ(5, paged_one(&p, 0, EXMAP_OP_READ, 3, 5));
	EXPECT_EQ((ssize_t)(5 * PG),
		  ex_pread(p.ex.fd, 0, EXMAP_OP_READ, page_at(&p.ex, 8), 5 * PG));
	for (i = 3; i < 13; i++)
		EXPECT_TRUE(page_is(page_at(&p.ex, i), i + 20));
	EXPECT_EQ((ssize_t)PG, ex_pread(p.ex.fd, 0, EXMAP_OP_READ, page_at(&p.ex, 43), 2 * PG));
	EXPECT_TRUE(page_is(page_at(&p.ex, 43), 63));
	renew(&p.ex, 5);
	renew(&p.ex, 6);
	EXPECT_EQ(1, paged_one(&p, 0, EXMAP_OP_WRITE, 5, 1));
	EXPECT_EQ((ssize_t)PG, ex_pwrite(p.ex.fd, 0, EXMAP_OP_WRITE, page_at(&p.ex, 6), PG));
	EXPECT_TRUE(file_has(setup.fd, 25, NEW(5)));
	EXPECT_TRUE(file_has(setup.fd, 26, NEW(6)));
	EXPECT_TRUE(file_has(setup.fd, 5, 5));
	paged_destroy(&p);
	close(setup.fd);
}

/* FREE by ACTION, of slots that a slow disk is reading into */

#define SLOW_PAGES	64

static void *read_slowly(void *arg)
{
	struct worker *w = arg;
	bool *over = w->arg;

	w->value = ex_one(w->ex, 0, EXMAP_OP_READ, 10, 4);
	__atomic_store_n(over, true, __ATOMIC_SEQ_CST);
	return NULL;
}

TEST(free_under_read)
{
	struct nullb disk;
	struct worker w;
	struct paged p;
	int fd, round, i, freed, busy = 0;
	bool over;

	catch_faults();
	if (nullb_create(&disk, "paged_io", 150000000, NULL))
		SKIP(return, "no null_blk through configfs: %s", strerror(errno));
	fd = open(disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fill_file(fd, SLOW_PAGES));
	paged_create(_metadata, &p, fd, 2, SLOW_PAGES, 256);
	for (round = 0; round < 20 && !busy; round++) {
		ASSERT_EQ(2, ex_alloc(&p.ex, 1, 8, 2));
		ASSERT_EQ(1, ex_alloc(&p.ex, 1, 14, 1));
		over = false;
		start_workers(_metadata, &w, 1, read_slowly, &p.ex, &over);
		while (!nullb_inflight(&disk) && !__atomic_load_n(&over, __ATOMIC_SEQ_CST))
			usleep(1000);
		set_vec(&p, 1, 0, 8, 7);
		set_vec(&p, 1, 1, 12, 1);
		set_vec(&p, 1, 2, 30, 1);
		freed = ex_action(p.ex.fd, 1, EXMAP_OP_FREE, 3);
		if (!__atomic_load_n(&over, __ATOMIC_SEQ_CST)) {
			busy++;
			EXPECT_EQ(2, freed);
			EXPECT_EQ(-EBUSY, p.iface[1]->iov[0].res);
			EXPECT_EQ(3, p.iface[1]->iov[0].pages);
			EXPECT_EQ(-EBUSY, p.iface[1]->iov[1].res);
			EXPECT_EQ(0, p.iface[1]->iov[1].pages);
			EXPECT_EQ(0, p.iface[1]->iov[2].res);
		}
		join_workers(_metadata, &w, 1);
		for (i = 10; busy && i < 14; i++)
			EXPECT_TRUE(page_is(page_at(&p.ex, i), i));
		EXPECT_EQ(busy ? 4 : w.value, w.value);
		EXPECT_LE(0, paged_free(&p, 1, 8, 20));
	}
	EXPECT_LT(0, busy);
	EXPECT_EQ(SLOW_PAGES, fill_in_time(&p.ex, 0, 0, SLOW_PAGES));
	paged_destroy(&p);
	close(fd);
	nullb_destroy(&disk);
}

/* Bad sectors */

#define BAD_PAGES	64
#define BAD_BUFFER	48

FIXTURE(bad) {
	struct nullb disk;
	struct exmap ex;
	int fd;
	int backing;
};

FIXTURE_VARIANT(bad) {
	bool buffered;
	__u64 flags;		/* of struct exmap_setup2 */
};

FIXTURE_VARIANT_ADD(bad, direct) {};
FIXTURE_VARIANT_ADD(bad, direct_deferred) { .flags = EXMAP_SETUP_DEFERRED };
FIXTURE_VARIANT_ADD(bad, buffered) { .buffered = true };

FIXTURE_SETUP(bad)
{
	/* Let the disk transfer the sectors before a bad one */
	static const char * const attributes[] = { "badblocks_partial_io", "1", NULL };
	struct exmap_setup2 setup = { .flags = variant->flags };

	catch_faults();
	if (nullb_create(&self->disk, "bad", 0, attributes) &&
	    nullb_create(&self->disk, "bad", 0, NULL))
		SKIP(return, "no null_blk through configfs: %s", strerror(errno));
	self->fd = open(self->disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, fill_file(self->fd, BAD_PAGES));
	self->backing = open(self->disk.path,
			     O_RDWR | O_CLOEXEC | (variant->buffered ? 0 : O_DIRECT));
	ASSERT_LE(0, self->backing);
	/* No readahead: a bad page could fail together with good ones */
	if (variant->buffered)
		posix_fadvise(self->backing, 0, 0, POSIX_FADV_RANDOM);
	setup.fd = self->backing;
	exmap_create2(_metadata, &self->ex, setup, 2, BAD_BUFFER, BAD_PAGES);
	if (nullb_set_bad(&self->disk, 10, true) || nullb_set_bad(&self->disk, 20, true) ||
	    nullb_set_bad(&self->disk, 21, true))
		SKIP(return, "no bad sectors here");
}

FIXTURE_TEARDOWN(bad)
{
	struct exmap *ex = &self->ex;

	EXPECT_LE(0, ex_drain(ex, 0, 0, BAD_PAGES));
	EXPECT_EQ(BAD_BUFFER, ex_fill(ex, 1, 0));
	exmap_destroy(ex);
	close(self->backing);
	close(self->fd);
	nullb_destroy(&self->disk);
}

/* The call ends before the first bad page, and fails only if it begins with one */
TEST_F(bad, pread_prefix)
{
	struct exmap *ex = &self->ex;
	struct iovec iov[3] = {
		{ page_at(ex, 30), PG }, { page_at(ex, 10), PG }, { page_at(ex, 31), PG },
	};
	int i;

	EXPECT_EQ((ssize_t)(3 * PG), ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(ex, 7), 8 * PG));
	for (i = 7; i < 10; i++)
		EXPECT_TRUE(present(page_at(ex, i)) && page_is(page_at(ex, i), i));
	EXPECT_FALSE(present(page_at(ex, 10)));
	EXPECT_EQ((ssize_t)PG, ex_preadv(ex->fd, 0, EXMAP_OP_READ, iov, 3));
	EXPECT_TRUE(page_is(page_at(ex, 30), 30));
	EXPECT_EQ(-EIO, ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(ex, 10), PG));
	EXPECT_EQ(-EIO, ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(ex, 20), 3 * PG));
	EXPECT_EQ(-EIO, ex_preadv(ex->fd, 0, EXMAP_OP_READ, iov + 1, 2));
	EXPECT_FALSE(present(page_at(ex, 10)));
	EXPECT_FALSE(present(page_at(ex, 20)));
}

TEST_F(bad, pwrite_prefix)
{
	struct exmap *ex = &self->ex;
	int i;

	if (variant->buffered)
		SKIP(return, "buffered writes report errors later");
	ASSERT_EQ(8, ex_alloc(ex, 0, 7, 8));
	for (i = 7; i < 15; i++)
		renew(ex, i);
	EXPECT_EQ((ssize_t)(3 * PG), ex_pwrite(ex->fd, 0, EXMAP_OP_WRITE, page_at(ex, 7), 8 * PG));
	EXPECT_EQ(-EIO, ex_pwrite(ex->fd, 0, EXMAP_OP_WRITE, page_at(ex, 10), PG));
	EXPECT_EQ(-EIO, ex_pwrite(ex->fd, 0, EXMAP_OP_WRITE, page_at(ex, 10), 2 * PG));
	for (i = 7; i < 10; i++)
		EXPECT_TRUE(file_has(self->fd, i, NEW(i)));
	EXPECT_EQ(8, count_present(ex, 0, BAD_PAGES));
}

/* A page that a failed READ has partly filled is cleared before it is used again */
TEST_F(bad, nothing_leaks_from_failed_reads)
{
	struct exmap *ex = &self->ex;
	int i;

	soil_memory();
	for (i = 0; i < BAD_PAGES; i++)
		ASSERT_EQ(0, nullb_set_bad(&self->disk, i, true));
	for (i = 0; i < BAD_PAGES; i++)
		EXPECT_EQ(-EIO, ex_pread(ex->fd, i % 2, EXMAP_OP_READ, page_at(ex, i), PG));
	EXPECT_EQ(-EIO, ex_pread(ex->fd, 1, EXMAP_OP_READ, ex->region, BAD_BUFFER * PG));
	EXPECT_EQ(0, count_present(ex, 0, BAD_PAGES));
	ASSERT_EQ(BAD_BUFFER, ex_fill(ex, 0, 0));
	for (i = 0; i < BAD_BUFFER; i++)
		EXPECT_TRUE(all_zero(page_at(ex, i), PG))
			TH_LOG("page %d: %llx", i, *(__u64 *)page_at(ex, i));
}

/* The disk disappears, or does not answer */
TEST_F_TIMEOUT(bad, no_disk, SLOW)
{
	const int err = variant->buffered ? -EIO : -ETIMEDOUT;
	struct exmap *ex = &self->ex;

	ASSERT_EQ((ssize_t)(2 * PG), ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(ex, 30), 2 * PG));
	if (!nullb_time_out(&self->disk, "100", "200")) {
		EXPECT_EQ(err, ex_pread(ex->fd, 1, EXMAP_OP_READ, page_at(ex, 2), 2 * PG));
		EXPECT_EQ(0, count_present(ex, 0, 10));
		ASSERT_EQ(0, nullb_time_out(&self->disk, "0", "30000"));
		EXPECT_EQ((ssize_t)PG, ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(ex, 2), PG));
	}
	ASSERT_EQ(0, nullb_set(&self->disk, "power", "0"));
	EXPECT_TRUE(ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(ex, 40), PG) < 0 ||
		    variant->buffered);
	EXPECT_TRUE(page_is(page_at(ex, 31), 31));
}

/* Reads at the end of a file or with RWF_NOWAIT must not expose stale memory */
TEST(nothing_leaks_from_short_reads)
{
	static const int lengths[] = { 0, 1, 100, 512, 2048, 4095 };
	struct iovec iov;
	struct exmap ex;
	int i, j, direct, fd, backing;

	catch_faults();
	for (direct = 0; direct < 2; direct++) {
		fd = open_file();
		ASSERT_LE(0, fd);
		ASSERT_EQ(0, fill_file(fd, 64));
		backing = reopen(fd, O_RDWR | (direct ? O_DIRECT : 0));
		if (backing < 0)
			continue;
		soil_memory();
		exmap_create(_metadata, &ex, backing, 2, 40, 64);
		iov = (struct iovec){ page_at(&ex, 20), 5 * PG };
		for (i = 0; i < (int)ARRAY_SIZE(lengths); i++) {
			ASSERT_EQ(0, ftruncate(fd, 20 * PG + lengths[i]));
			EXPECT_EQ(-ENODATA,
				  ex_pread(ex.fd, 0, EXMAP_OP_READ, page_at(&ex, 20), PG));
			fsync(fd);
			posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
			EXPECT_GT(0, ex_preadv2(ex.fd, 1, EXMAP_OP_READ, &iov, 1, RWF_NOWAIT));
		}
		EXPECT_EQ(0, count_present(&ex, 0, 64));
		ASSERT_EQ(40, ex_fill(&ex, 0, 0));
		for (j = 0; j < 40; j++)
			EXPECT_TRUE(all_zero(page_at(&ex, j), PG));
		exmap_destroy(&ex);
		close(backing);
		close(fd);
	}
}

TEST_HARNESS_MAIN
