// SPDX-License-Identifier: GPL-2.0
/*
 * The pool changes its size at the request of the program, and gives free pages to a
 * system that is short of memory. No page may be lost, the pool must not exceed its
 * size, and every ALLOC within that size must succeed.
 */
#include "common.h"

#define BUFFER	5000
#define PAGES	20000
#define IFACES	6

static long limit_of(struct exmap *ex)
{
	return read_fdinfo(getpid(), ex->fd, "exmap-limit");
}

/* Leave free pages with every interface, and in bundles that belong to none */
static void scatter(struct __test_metadata *_metadata, struct exmap *ex, int first, int pages)
{
	int i;

	ASSERT_EQ(pages, ex_fill(ex, 0, first));
	for (i = 0; i < IFACES; i++)
		ASSERT_EQ(37, ex_drain(ex, i, first + 37 * i, 37));
	ASSERT_EQ(pages - 37 * IFACES, ex_drain(ex, 1, first + 37 * IFACES, ex->pages - first -
		  37 * IFACES));
}

FIXTURE(resize) {
	struct exmap ex;
};

FIXTURE_VARIANT(resize) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(resize, strict) {
};

FIXTURE_VARIANT_ADD(resize, deferred) {
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_SETUP(resize)
{
	catch_faults();
	exmap_create2(_metadata, &self->ex,
		      (struct exmap_setup2){ .fd = -1, .flags = variant->flags },
		      IFACES, BUFFER, PAGES);
}

FIXTURE_TEARDOWN(resize)
{
	struct exmap *ex = &self->ex;

	/* After any test, the original size and all pages must be available again */
	EXPECT_LE(0, ex_drain(ex, 0, 0, PAGES));
	EXPECT_EQ(0, ex_resize(ex->fd, BUFFER));
	EXPECT_EQ(BUFFER, ex_fill(ex, IFACES - 1, 0));
	EXPECT_EQ(BUFFER, ex_owned(ex->fd));
	exmap_destroy(ex);
}

TEST_F(resize, grow)
{
	struct exmap *ex = &self->ex;

	ASSERT_EQ(BUFFER, ex_fill(ex, 0, 0));
	EXPECT_EQ(0, ex_resize(ex->fd, BUFFER + 1));
	EXPECT_EQ(1, ex_fill(ex, 1, BUFFER));
	EXPECT_EQ(0, ex_resize(ex->fd, 2 * BUFFER));
	EXPECT_EQ(2 * BUFFER, limit_of(ex));
	EXPECT_EQ(BUFFER - 1, ex_fill(ex, 2, BUFFER + 1));
	EXPECT_EQ(2 * BUFFER, ex_owned(ex->fd));
}

TEST_F(resize, shrink)
{
	static const int sizes[] = { BUFFER, BUFFER - 1, 3000, 513, 512, 511, 37, 1 };
	struct exmap *ex = &self->ex;
	int i;

	for (i = 0; i < (int)ARRAY_SIZE(sizes); i++) {
		ASSERT_EQ(0, ex_resize(ex->fd, BUFFER));
		scatter(_metadata, ex, 0, BUFFER);
		EXPECT_EQ(BUFFER, ex_owned(ex->fd));
		EXPECT_EQ(0, ex_resize(ex->fd, sizes[i]));
		EXPECT_EQ(sizes[i], limit_of(ex));
		EXPECT_GE(sizes[i], ex_owned(ex->fd));
		EXPECT_EQ(sizes[i], ex_fill(ex, i % IFACES, 0));
		EXPECT_EQ(sizes[i], ex_owned(ex->fd));
		EXPECT_EQ(sizes[i], ex_drain(ex, 0, 0, PAGES));
	}
}

/* A size below the number of mapped pages is refused and changes nothing */
TEST_F(resize, shrink_below_what_is_mapped)
{
	struct exmap *ex = &self->ex;
	int i;

	ASSERT_EQ(1000, ex_alloc(ex, 3, 0, 1000));
	for (i = 0; i < 1000; i++)
		stamp_page(page_at(ex, i), i);
	scatter(_metadata, ex, 1000, BUFFER - 1000);
	EXPECT_EQ(-EBUSY, ex_resize(ex->fd, 999));
	EXPECT_EQ(-EBUSY, ex_resize(ex->fd, 1));
	EXPECT_EQ(BUFFER, limit_of(ex));
	EXPECT_EQ(BUFFER - 1000, ex_fill(ex, 4, 1000));
	EXPECT_EQ(-EBUSY, ex_resize(ex->fd, BUFFER - 1));
	EXPECT_EQ(BUFFER - 1000, ex_drain(ex, 5, 1000, PAGES - 1000));
	EXPECT_EQ(0, ex_resize(ex->fd, 1000));
	EXPECT_EQ(1000, ex_owned(ex->fd));
	EXPECT_EQ(-ENOMEM, ex_alloc(ex, 0, 1000, 1));
	for (i = 0; i < 1000; i++)
		EXPECT_TRUE(stamp_intact(page_at(ex, i), i));
}

/* Pages that the pool takes from the system after a shrink are zeroed */
TEST_F(resize, shrink_and_regrow_is_clean)
{
	struct exmap *ex = &self->ex;
	int i;

	for (i = 0; i < 3; i++) {
		ASSERT_EQ(BUFFER, ex_fill(ex, 0, 0));
		memset(ex->region, 0x55, BUFFER * PG);
		ASSERT_EQ(BUFFER, ex_drain(ex, 0, 0, PAGES));
		ASSERT_EQ(0, ex_resize(ex->fd, 1));
		EXPECT_GE(1, ex_owned(ex->fd));
		ASSERT_EQ(1, ex_fill(ex, 0, 0));
		memset(ex->region, 0, PG);
		ASSERT_EQ(0, ex_resize(ex->fd, BUFFER));
		ASSERT_EQ(BUFFER - 1, ex_fill(ex, 1, 1));
		EXPECT_TRUE(all_zero(ex->region, BUFFER * PG));
		ASSERT_EQ(BUFFER, ex_drain(ex, 0, 0, PAGES));
	}
}

/* A parked page counts against the size until its holder releases it */
TEST_F(resize, parked_pages_count)
{
	struct exmap *ex = &self->ex;
	struct iovec iov = { .iov_base = ex->region, .iov_len = 8 * PG };
	char buf[PG];
	int fds[2], i;

	ASSERT_EQ(0, pipe(fds));
	ASSERT_EQ(8, ex_alloc(ex, 0, 0, 8));
	ASSERT_EQ(8 * PG, vmsplice(fds[1], &iov, 1, 0));
	ASSERT_EQ(8, ex_free(ex, 0, 0, 8));
	EXPECT_EQ(-EBUSY, ex_resize(ex->fd, 7));
	EXPECT_EQ(0, ex_resize(ex->fd, 8));
	EXPECT_EQ(-ENOMEM, ex_alloc(ex, 0, 0, 1));
	for (i = 0; i < 8; i++)
		EXPECT_EQ(PG, read(fds[0], buf, PG));
	close(fds[0]);
	close(fds[1]);
	EXPECT_EQ(0, ex_resize(ex->fd, 1));
	EXPECT_EQ(1, ex_fill(ex, 0, 0));
}

TEST_F(resize, pages_taken_away_by_madvise)
{
	struct exmap *ex = &self->ex;

	ASSERT_EQ(BUFFER, ex_fill(ex, 0, 0));
	ASSERT_EQ(0, madvise(ex->region, 4000 * PG, MADV_DONTNEED));
	EXPECT_EQ(-EBUSY, ex_resize(ex->fd, 999));
	EXPECT_EQ(0, ex_resize(ex->fd, 1000));
	EXPECT_EQ(1000, ex_owned(ex->fd));
	EXPECT_EQ(-ENOMEM, ex_alloc(ex, 0, 0, 1));
}

TEST_F(resize, errors)
{
	struct exmap *ex = &self->ex;
	int fd = exmap_open(_metadata);
	pid_t pid;

	EXPECT_EQ(-EINVAL, ex_resize(ex->fd, 0));
	EXPECT_EQ(-ENOMEM, ex_resize(ex->fd, ~0ULL));
	EXPECT_EQ(-ENOMEM, ex_resize(ex->fd, 1ULL << 52));
	EXPECT_EQ(BUFFER, limit_of(ex));
	EXPECT_EQ(-ENXIO, ex_resize(fd, 10));
	pid = fork();
	if (!pid)
		_exit(ex_resize(ex->fd, 10) == -EPERM ? 0 : 1);
	EXPECT_EQ(0, wait_child(pid));
	EXPECT_EQ(BUFFER, limit_of(ex));
	/* RESIZE works before there is a region, but not after it was unmapped */
	ASSERT_EQ(0, ex_setup2(fd, -1, 1, 10));
	EXPECT_EQ(0, ex_resize(fd, 20));
	EXPECT_EQ(0, ex_resize(fd, 5));
	EXPECT_EQ(0, ex_try_mmap(fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
	EXPECT_EQ(-ENXIO, ex_resize(fd, 10));
	close(fd);
}

/* Threads that never use more pages than the smallest pool size of the test */
#define THREADS		4
#define HELD		200

struct stress {
	bool stop;
};

static void *use_pages(void *arg)
{
	struct worker *w = arg;
	struct exmap *ex = w->ex;
	struct stress *stress = w->arg;
	const int first = w->index * 1000;
	int i, nr, ret;

	pthread_barrier_wait(&start_line);
	while (!__atomic_load_n(&stress->stop, __ATOMIC_RELAXED)) {
		nr = 1 + random_below(&w->random, HELD);
		ret = ex_alloc(ex, w->index, first, nr);
		if (BROKE(w, ret != nr, ret))
			return NULL;
		for (i = 0; i < nr; i++)
			stamp_page(page_at(ex, first + i), first + i);
		sched_yield();
		for (i = 0; i < nr; i++)
			if (BROKE(w, !stamp_intact(page_at(ex, first + i), first + i), i))
				return NULL;
		ret = ex_free(ex, w->index, first, nr);
		if (BROKE(w, ret != nr, ret))
			return NULL;
	}
	return NULL;
}

TEST_F_TIMEOUT(resize, under_load, SLOW)
{
	const int rounds = scaled(400);
	struct exmap *ex = &self->ex;
	struct stress stress = {};
	struct worker w[THREADS];
	int i, ret, done = 0;

	start_workers(_metadata, w, THREADS, use_pages, ex, &stress);
	for (i = 0; i < rounds; i++) {
		ret = ex_resize(ex->fd, i & 1 ? THREADS * HELD + i % 7 : BUFFER);
		EXPECT_TRUE(!ret || ret == -EBUSY);
		done += !ret;
		usleep(1000);
	}
	stress.stop = true;
	join_workers(_metadata, w, THREADS);
	/* RESIZE may have failed at times, because free pages kept moving */
	EXPECT_LT(rounds / 2, done);
	TH_LOG("%d of %d done", done, rounds);
}

/* Memory pressure */

static bool drop_slab(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
	bool ok = fd >= 0 && write(fd, "2", 1) == 1;

	if (fd >= 0)
		close(fd);
	return ok;
}

TEST_F(resize, free_pages_go_under_pressure)
{
	struct exmap *ex = &self->ex;
	int i;

	ASSERT_EQ(1000, ex_alloc(ex, 0, 0, 1000));
	for (i = 0; i < 1000; i++)
		stamp_page(page_at(ex, i), i);
	scatter(_metadata, ex, 1000, BUFFER - 1000);
	ASSERT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_FLUSH, NULL));
	EXPECT_EQ(BUFFER, ex_owned(ex->fd));
	if (!drop_slab())
		SKIP(return, "not root");
	/* drop_caches stops when a round frees little: some free pages may remain */
	EXPECT_LE(1000, ex_owned(ex->fd));
	EXPECT_GT(1100, ex_owned(ex->fd));
	for (i = 0; i < 1000; i++)
		EXPECT_TRUE(stamp_intact(page_at(ex, i), i));
	EXPECT_EQ(BUFFER, limit_of(ex));
	EXPECT_EQ(BUFFER - 1000, ex_fill(ex, 2, 1000));
}

TEST_F_TIMEOUT(resize, pressure_under_load, SLOW)
{
	struct exmap *ex = &self->ex;
	struct stress stress = {};
	struct worker w[THREADS];
	int i, rounds = scaled(200);

	if (!drop_slab())
		SKIP(return, "not root");
	/* The pool is just large enough: it must be able to replace what it loses */
	ASSERT_EQ(0, ex_resize(ex->fd, THREADS * HELD));
	start_workers(_metadata, w, THREADS, use_pages, ex, &stress);
	for (i = 0; i < rounds; i++) {
		drop_slab();
		usleep(1000);
	}
	stress.stop = true;
	join_workers(_metadata, w, THREADS);
}

/* RLIMIT_MEMLOCK */

FIXTURE(memlock) {
	int fd;
};

FIXTURE_SETUP(memlock)
{
	if (geteuid())
		SKIP(return, "not root");
	self->fd = exmap_open(_metadata);
}

FIXTURE_TEARDOWN(memlock)
{
	close(self->fd);
}

#define LIMIT	256

TEST_F(memlock, growth_is_charged)
{
	int other = exmap_open(_metadata);

	become_nobody(_metadata, LIMIT);
	ASSERT_EQ(0, ex_setup2(self->fd, -1, 1, 100));
	EXPECT_EQ(-ENOMEM, ex_resize(self->fd, LIMIT + 1));
	EXPECT_EQ(0, ex_resize(self->fd, LIMIT));
	EXPECT_EQ(-ENOMEM, ex_setup2(other, -1, 1, 1));
	/* Another exmap can use exactly what the smaller pool has given back */
	EXPECT_EQ(0, ex_resize(self->fd, 56));
	EXPECT_EQ(-ENOMEM, ex_setup2(other, -1, 1, LIMIT - 55));
	EXPECT_EQ(0, ex_setup2(other, -1, 1, LIMIT - 56));
	EXPECT_EQ(-ENOMEM, ex_resize(self->fd, 57));
	EXPECT_EQ(-ENOMEM, ex_resize(other, LIMIT - 55));
	close(other);
	EXPECT_EQ(0, ex_resize(self->fd, LIMIT));
}

TEST_F(memlock, given_back_in_full)
{
	int i, fd;

	become_nobody(_metadata, LIMIT);
	for (i = 0; i < 100; i++) {
		fd = exmap_open(_metadata);
		ASSERT_EQ(0, ex_setup2(fd, -1, 1, 1 + i));
		ASSERT_EQ(0, ex_resize(fd, LIMIT));
		ASSERT_EQ(0, ex_resize(fd, LIMIT - i));
		close(fd);
	}
}

/* Pages set up with CAP_IPC_LOCK are not charged, but growth without it is */
TEST_F(memlock, privileges_given_up)
{
	int other = exmap_open(_metadata);

	ASSERT_EQ(0, ex_setup2(self->fd, -1, 1, 1000));
	become_nobody(_metadata, LIMIT);
	EXPECT_EQ(-ENOMEM, ex_resize(self->fd, 1000 + LIMIT + 1));
	EXPECT_EQ(0, ex_resize(self->fd, 1000 + LIMIT));
	EXPECT_EQ(-ENOMEM, ex_setup2(other, -1, 1, 1));
	EXPECT_EQ(0, ex_resize(self->fd, 10));
	EXPECT_EQ(-ENOMEM, ex_setup2(other, -1, 1, LIMIT - 9));
	EXPECT_EQ(0, ex_setup2(other, -1, 1, LIMIT - 10));
	close(other);
}

TEST_HARNESS_MAIN
