// SPDX-License-Identifier: GPL-2.0
/*
 * The region as a buffer for I/O on other files. Its pages can be pinned like any
 * other memory. A page that is freed while it is pinned must not be reused.
 */
#include "common.h"
#include "backing.h"

#include <linux/aio_abi.h>
#include <sys/syscall.h>

FIXTURE(pin) {
	struct exmap ex;
	int pipe[2];
};

FIXTURE_SETUP(pin)
{
	catch_faults();
	ASSERT_EQ(0, pipe2(self->pipe, O_CLOEXEC | O_NONBLOCK));
	exmap_create(_metadata, &self->ex, -1, 2, 16, 256);
}

FIXTURE_TEARDOWN(pin)
{
	/* No page is pinned any more: all pages of the pool can be allocated */
	EXPECT_LE(0, ex_drain(&self->ex, 0, 0, 256));
	EXPECT_EQ(16, ex_fill(&self->ex, 1, 0));
	exmap_destroy(&self->ex);
	close(self->pipe[0]);
	close(self->pipe[1]);
}

/* Put a page into a pipe; the pipe refers to the page and does not copy it */
static ssize_t splice_page(int pipe, void *page)
{
	struct iovec iov = { page, PG };
	ssize_t ret = vmsplice(pipe, &iov, 1, 0);

	return ret < 0 ? -errno : ret;
}

static bool pipe_has(int pipe, __u64 stamp)
{
	__u64 words[WORDS];

	return read(pipe, words, PG) == (ssize_t)PG && stamp_intact(words, stamp);
}

static void scribble(struct exmap *ex, int first, int pages)
{
	memset(page_at(ex, first), 0xee, pages * PG);
}

TEST_F(pin, freed_while_pinned)
{
	struct exmap *ex = &self->ex;

	ASSERT_EQ(16, ex_fill(ex, 0, 0));
	stamp_page(page_at(ex, 0), 100);
	ASSERT_EQ((ssize_t)PG, splice_page(self->pipe[1], page_at(ex, 0)));
	EXPECT_EQ(1, ex_free(ex, 0, 0, 1));
	EXPECT_EQ(SIGSEGV, try_read_byte(page_at(ex, 0)));

	/* A page that is pinned counts as used: no interface can allocate it */
	EXPECT_EQ(-ENOMEM, ex_alloc(ex, 0, 20, 1));
	EXPECT_EQ(-ENOMEM, ex_alloc(ex, 1, 20, 1));
	EXPECT_EQ(15, ex_free(ex, 1, 1, 15));
	EXPECT_EQ(15, ex_fill(ex, 0, 20));
	scribble(ex, 20, 15);
	EXPECT_TRUE(pipe_has(self->pipe[0], 100));

	/* The page is available again after the pipe has released it */
	EXPECT_EQ(1, ex_alloc(ex, 1, 40, 1));
	scribble(ex, 40, 1);
	EXPECT_EQ(-ENOMEM, ex_alloc(ex, 0, 41, 1));
}

TEST_F(pin, same_address_again)
{
	struct exmap *ex = &self->ex;

	ASSERT_EQ(1, ex_alloc(ex, 0, 0, 1));
	stamp_page(page_at(ex, 0), 100);
	ASSERT_EQ((ssize_t)PG, splice_page(self->pipe[1], page_at(ex, 0)));
	EXPECT_EQ(1, ex_free(ex, 0, 0, 1));
	EXPECT_EQ(1, ex_alloc(ex, 0, 0, 1));
	scribble(ex, 0, 1);
	EXPECT_TRUE(pipe_has(self->pipe[0], 100));
}

TEST_F(pin, still_mapped)
{
	struct exmap *ex = &self->ex;

	/* The pipe and the slot have the same page, so that the pipe sees later changes */
	ASSERT_EQ(1, ex_alloc(ex, 0, 0, 1));
	stamp_page(page_at(ex, 0), 100);
	ASSERT_EQ((ssize_t)PG, splice_page(self->pipe[1], page_at(ex, 0)));
	stamp_page(page_at(ex, 0), 101);
	EXPECT_TRUE(pipe_has(self->pipe[0], 101));
}

TEST_F(pin, many_pins)
{
	struct exmap *ex = &self->ex;
	int round, i;

	for (round = 0; round < 20; round++) {
		ASSERT_EQ(16, ex_fill(ex, round % 2, 0));
		for (i = 0; i < 12; i++) {
			stamp_page(page_at(ex, i), i);
			ASSERT_EQ((ssize_t)PG, splice_page(self->pipe[1], page_at(ex, i)));
		}
		/* Take the pages out with MADV_DONTNEED in some rounds, else with FREE */
		if (round % 3 == 0)
			ASSERT_EQ(0, madvise(ex->region, 16 * PG, MADV_DONTNEED));
		EXPECT_EQ(round % 3 ? 16 : 0, ex_free(ex, 0, 0, 16));
		EXPECT_EQ(4, ex_fill(ex, 1, 0));
		scribble(ex, 0, 4);
		for (i = 0; i < 12; i++) {
			EXPECT_TRUE(pipe_has(self->pipe[0], i));
			EXPECT_EQ(1, ex_alloc(ex, i % 2, 20 + i, 1));
			scribble(ex, 20 + i, 1);
			EXPECT_EQ(-ENOMEM, ex_alloc(ex, i % 2, 100, 1));
		}
		EXPECT_EQ(16, ex_drain(ex, 0, 0, 256));
	}
}

TEST_F(pin, held_past_the_end_of_all)
{
	struct exmap *ex = &self->ex, other;
	int i;

	ASSERT_EQ(16, ex_fill(ex, 0, 0));
	for (i = 0; i < 8; i++) {
		stamp_page(page_at(ex, i), i);
		ASSERT_EQ((ssize_t)PG, splice_page(self->pipe[1], page_at(ex, i)));
	}
	EXPECT_EQ(2, ex_free(ex, 0, 0, 2));
	exmap_destroy(ex);

	/* Make the system reuse free memory, which must not include pinned pages */
	for (i = 0; i < 4; i++) {
		exmap_create(_metadata, &other, -1, 1, 2000, 4000);
		EXPECT_EQ(2000, ex_fill(&other, 0, 0));
		scribble(&other, 0, 2000);
		exmap_destroy(&other);
	}
	for (i = 0; i < 8; i++)
		EXPECT_TRUE(pipe_has(self->pipe[0], i));

	/* The teardown needs an exmap */
	exmap_create(_metadata, ex, -1, 2, 16, 256);
}

TEST_F(pin, held_past_exit)
{
	struct exmap ex;
	pid_t pid;
	int i;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		exmap_create(_metadata, &ex, -1, 1, 16, 32);
		EXPECT_EQ(16, ex_fill(&ex, 0, 0));
		for (i = 0; i < 8; i++) {
			stamp_page(page_at(&ex, i), i);
			EXPECT_EQ((ssize_t)PG, splice_page(self->pipe[1], page_at(&ex, i)));
		}
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(0, wait_child(pid));
	for (i = 0; i < 8; i++)
		EXPECT_TRUE(pipe_has(self->pipe[0], i));
}

TEST_F(pin, missing_page)
{
	struct exmap *ex = &self->ex;

	EXPECT_EQ(-EFAULT, splice_page(self->pipe[1], page_at(ex, 0)));
	ASSERT_EQ(1, ex_alloc(ex, 0, 0, 1));
	EXPECT_EQ(1, ex_free(ex, 0, 0, 1));
	EXPECT_EQ(-EFAULT, splice_page(self->pipe[1], page_at(ex, 0)));
	EXPECT_EQ(0, count_present(ex, 0, 256));
}

/* Direct I/O on another file, with the region as the buffer */

FIXTURE(direct) {
	struct exmap ex;
	int fd;
};

#define FILE_PAGES 64

FIXTURE_SETUP(direct)
{
	int fd = open_file(), i;
	__u64 *buf;

	catch_faults();
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, posix_memalign((void **)&buf, PG, PG));
	for (i = 0; i < FILE_PAGES; i++) {
		memset(buf, 0, PG);
		stamp_page(buf, 5000 + i);
		ASSERT_EQ((ssize_t)PG, pwrite(fd, buf, PG, i * PG));
	}
	free(buf);
	ASSERT_EQ(0, fsync(fd));
	self->fd = reopen(fd, O_RDWR | O_DIRECT);
	if (self->fd < 0 && errno == EINVAL)
		SKIP(return, "no O_DIRECT here");
	ASSERT_LE(0, self->fd);
	close(fd);
	exmap_create(_metadata, &self->ex, -1, 2, FILE_PAGES, 1024);
}

FIXTURE_TEARDOWN(direct)
{
	EXPECT_LE(0, ex_drain(&self->ex, 0, 0, 1024));
	EXPECT_EQ(FILE_PAGES, fill_in_time(&self->ex, 1, 0, FILE_PAGES));
	EXPECT_EQ(-ENOMEM, ex_alloc(&self->ex, 0, 500, 1));
	exmap_destroy(&self->ex);
	close(self->fd);
}

TEST_F(direct, read_into_region)
{
	struct exmap *ex = &self->ex;
	int i;

	ASSERT_EQ(FILE_PAGES, fill_in_time(ex, 0, 0, FILE_PAGES));
	ASSERT_EQ((ssize_t)(FILE_PAGES * PG), pread(self->fd, ex->region, FILE_PAGES * PG, 0));
	for (i = 0; i < FILE_PAGES; i++)
		EXPECT_TRUE(stamp_intact(page_at(ex, i), 5000 + i));
	EXPECT_EQ(FILE_PAGES, ex_free(ex, 0, 0, FILE_PAGES));
	EXPECT_EQ(-1, pread(self->fd, ex->region, PG, 0));
	EXPECT_EQ(EFAULT, errno);
}

TEST_F(direct, write_from_region)
{
	struct exmap *ex = &self->ex;
	int i;

	ASSERT_EQ(FILE_PAGES, fill_in_time(ex, 0, 0, FILE_PAGES));
	for (i = 0; i < FILE_PAGES; i++)
		stamp_page(page_at(ex, i), 7000 + i);
	ASSERT_EQ((ssize_t)(FILE_PAGES * PG), pwrite(self->fd, ex->region, FILE_PAGES * PG, 0));
	/* Evict the pages at once, like a buffer manager after a write */
	EXPECT_EQ(FILE_PAGES, ex_free(ex, 0, 0, FILE_PAGES));
	EXPECT_EQ(FILE_PAGES, fill_in_time(ex, 1, 100, FILE_PAGES));
	ASSERT_EQ((ssize_t)(FILE_PAGES * PG),
		  pread(self->fd, page_at(ex, 100), FILE_PAGES * PG, 0));
	for (i = 0; i < FILE_PAGES; i++)
		EXPECT_TRUE(stamp_intact(page_at(ex, 100 + i), 7000 + i));
}

TEST_F_TIMEOUT(direct, freed_with_reads_in_flight, SLOW)
{
	struct io_event events[FILE_PAGES];
	struct iocb iocbs[FILE_PAGES], *list[FILE_PAGES];
	struct exmap *ex = &self->ex;
	int round, i, submitted, got, mapped;
	aio_context_t context = 0;

	if (syscall(SYS_io_setup, FILE_PAGES, &context))
		SKIP(return, "no AIO");
	for (round = 0; round < scaled(30); round++) {
		ASSERT_EQ(FILE_PAGES, fill_in_time(ex, 0, 0, FILE_PAGES));
		for (i = 0; i < FILE_PAGES; i++) {
			list[i] = &iocbs[i];
			memset(&iocbs[i], 0, sizeof(iocbs[i]));
			iocbs[i].aio_fildes = self->fd;
			iocbs[i].aio_lio_opcode = IOCB_CMD_PREAD;
			iocbs[i].aio_buf = (unsigned long)page_at(ex, i);
			iocbs[i].aio_nbytes = PG;
			iocbs[i].aio_offset = i * PG;
		}
		submitted = syscall(SYS_io_submit, context, FILE_PAGES, list);
		ASSERT_LT(0, submitted);
		EXPECT_EQ(FILE_PAGES, ex_free(ex, 0, 0, FILE_PAGES));

		/* ALLOC only gets pages without I/O in flight: their data must survive */
		mapped = fill_now(ex, 1, 500, FILE_PAGES);
		EXPECT_LE(0, mapped);
		for (i = 0; i < mapped; i++)
			stamp_page(page_at(ex, 500 + i), 9000 + i);
		for (got = 0; got < submitted; got += i) {
			i = syscall(SYS_io_getevents, context, 1, FILE_PAGES, events, NULL);
			ASSERT_LT(0, i);
		}
		for (i = 0; i < mapped; i++)
			EXPECT_TRUE(stamp_intact(page_at(ex, 500 + i), 9000 + i));
		/* All pages are available again when the I/O is complete */
		EXPECT_EQ(FILE_PAGES - mapped,
			  fill_in_time(ex, 0, 700, FILE_PAGES - mapped));
		EXPECT_EQ(FILE_PAGES, ex_drain(ex, 0, 0, 1024));
	}
	EXPECT_EQ(0, syscall(SYS_io_destroy, context));
}

struct race {
	int fd;
	int stop;
};

static void *read_into_slot(void *arg)
{
	struct worker *w = arg;
	struct race *race = w->arg;
	ssize_t ret;

	while (!__atomic_load_n(&race->stop, __ATOMIC_SEQ_CST)) {
		ret = pread(race->fd, page_at(w->ex, 0), PG, 0);
		if (BROKE(w, ret != (ssize_t)PG && (ret >= 0 || errno != EFAULT), ret))
			break;
	}
	return NULL;
}

TEST_F_TIMEOUT(direct, freed_under_a_reader, SLOW)
{
	struct worker w[2];
	struct race race = { .fd = self->fd };
	struct exmap *ex = &self->ex;
	int round, i, mapped;

	/*
	 * Slot 0 is filled and emptied while two threads read a file into it. When
	 * its page is reused in another slot, no late read may write to it.
	 */
	start_workers(_metadata, w, 2, read_into_slot, ex, &race);
	for (round = 0; round < scaled(80); round++) {
		EXPECT_EQ(1, ex_alloc(ex, 0, 0, 1));
		if (round % 4)
			usleep(random_below(&w[0].random, 300));
		EXPECT_EQ(1, ex_free(ex, 0, 0, 1));
		mapped = fill_now(ex, 1, 100, FILE_PAGES);
		for (i = 0; i < mapped; i++)
			stamp_page(page_at(ex, 100 + i), round);
		usleep(100);
		for (i = 0; i < mapped; i++)
			EXPECT_TRUE(stamp_intact(page_at(ex, 100 + i), round));
		EXPECT_LE(FILE_PAGES / 2, mapped);
		EXPECT_EQ(mapped, ex_drain(ex, 0, 100, 200));
	}
	__atomic_store_n(&race.stop, 1, __ATOMIC_SEQ_CST);
	join_workers(_metadata, w, 2);
}

TEST_HARNESS_MAIN
