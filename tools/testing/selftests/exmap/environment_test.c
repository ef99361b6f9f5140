// SPDX-License-Identifier: GPL-2.0
/*
 * What else there is in a process with an exmap: futexes, limits of the address space and
 * of locked memory, and threads that inspect or change the address space at the same time.
 */
#include "common.h"
#include "status.h"

#include <linux/futex.h>
#include <sys/syscall.h>

#define BUFFER		64
#define PAGES		512

FIXTURE(environment) {
	struct exmap ex;
};

FIXTURE_SETUP(environment)
{
	catch_faults();
	exmap_create(_metadata, &self->ex, -1, 8, BUFFER, PAGES);
}

FIXTURE_TEARDOWN(environment)
{
	EXPECT_LE(0, ex_drain(&self->ex, 0, 0, PAGES));
	EXPECT_EQ(BUFFER, ex_fill(&self->ex, 1, 0));
	exmap_destroy(&self->ex);
}

/*
 * Private futexes work in the region. Process-shared futexes do not, because their key is
 * an offset in a file, and the pages of the region do not belong to a file.
 */
TEST_F(environment, futexes)
{
	struct exmap *ex = &self->ex;
	__u32 *word = (__u32 *)page_at(ex, 3);

	EXPECT_EQ(-1, syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0));
	EXPECT_EQ(EFAULT, errno);
	ASSERT_EQ(1, ex_alloc(ex, 0, 3, 1));
	*word = 5;
	EXPECT_EQ(-1, syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_EQ(0, syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
	EXPECT_EQ(-1, syscall(SYS_futex, word, FUTEX_WAIT, 1, NULL, NULL, 0));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0));
	EXPECT_EQ(EFAULT, errno);
}

/* Limits of the address space */

FIXTURE(overcommit) {
	char before[16];
};

#define OVERCOMMIT	"/proc/sys/vm/overcommit_memory"

FIXTURE_SETUP(overcommit)
{
	catch_faults();
	read_line(OVERCOMMIT, self->before, sizeof(self->before));
	if (write_text(OVERCOMMIT, "2"))
		SKIP(return, "not root");
}

FIXTURE_TEARDOWN(overcommit)
{
	EXPECT_EQ(0, write_text(OVERCOMMIT, self->before));
}

/* A region does not count as committed memory: it may be larger than all memory */
TEST_F(overcommit, strict)
{
	struct exmap ex;

	ASSERT_EQ(MAP_FAILED, mmap(NULL, 1UL << 40, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	exmap_create(_metadata, &ex, -1, 1, BUFFER, 1 << 28);
	EXPECT_EQ(BUFFER, ex_alloc(&ex, 0, (1 << 28) - BUFFER, BUFFER));
	memset(page_at(&ex, (1 << 28) - BUFFER), 1, BUFFER * PG);
	EXPECT_EQ(BUFFER, ex_free(&ex, 0, (1 << 28) - BUFFER, BUFFER));
	exmap_destroy(&ex);
}

/* A region counts against RLIMIT_AS (ulimit -v). An mmap() that fails can be repeated. */
TEST(address_space_limit)
{
	struct exmap ex = { .fd = exmap_open(_metadata), .pages = 4096 };
	struct rlimit limit;

	catch_faults();
	ASSERT_EQ(0, getrlimit(RLIMIT_AS, &limit));
	limit.rlim_cur = (status_kib("VmSize:") << 10) + (64 << 20);
	ASSERT_EQ(0, setrlimit(RLIMIT_AS, &limit));
	ASSERT_EQ(0, ex_setup2(ex.fd, -1, 1, BUFFER));
	ASSERT_EQ(MAP_FAILED, ex_map_region(ex.fd, 32768));
	EXPECT_EQ(ENOMEM, errno);
	ex.region = ex_map_region(ex.fd, ex.pages);
	ASSERT_NE(MAP_FAILED, ex.region);
	EXPECT_EQ(BUFFER, ex_fill(&ex, 0, 0));
	memset(ex.region, 1, BUFFER * PG);
	/* The limit does not keep the pool from filling the region */
	EXPECT_EQ(SIGSEGV, try_read_byte(page_at(&ex, BUFFER)));
	exmap_destroy(&ex);
}

/* Repeated setup at exactly RLIMIT_MEMLOCK while a pipe holds a page of the last exmap */
TEST(locked_memory_limit)
{
	struct exmap ex;
	__u64 words[WORDS];
	struct iovec iov;
	int pair[2], i;

	ASSERT_EQ(0, pipe(pair));
	become_nobody(_metadata, BUFFER);
	for (i = 0; i < 300; i++) {
		exmap_create(_metadata, &ex, -1, 1, BUFFER, PAGES);
		ASSERT_EQ(BUFFER, ex_fill(&ex, 0, 0));
		stamp_page(page_at(&ex, 5), i);
		/* The page of the previous round outlives its exmap */
		if (i) {
			ASSERT_EQ((ssize_t)PG, read(pair[0], words, PG));
			ASSERT_TRUE(stamp_intact(words, i - 1));
		}
		iov = (struct iovec){ page_at(&ex, 5), PG };
		ASSERT_EQ((ssize_t)PG, vmsplice(pair[1], &iov, 1, 0));
		exmap_destroy(&ex);
	}
	/* A pool with one more page is refused */
	i = exmap_open(_metadata);
	EXPECT_EQ(-ENOMEM, ex_setup2(i, -1, 1, BUFFER + 1));
	EXPECT_EQ(0, ex_setup2(i, -1, 1, BUFFER));
	close(i);
}

/*
 * Threads use their pages while process_madvise() drops pages without the driver being
 * told. The threads need all pages of the pool. A call checks only a limited number of
 * pages for dropped ones, and the kernel may still hold a dropped page. ALLOC may
 * therefore fail with ENOMEM for a short time.
 */
static int alloc_dropped(struct exmap *ex, int iface, int page, int n)
{
	int tries, ret;

	for (tries = 0; tries < 1000; tries++) {
		ret = ex_alloc(ex, iface, page, n);
		if (ret != -ENOMEM)
			break;
		usleep(1000);
	}
	return ret;
}

static void *use_own_pages(void *arg)
{
	struct worker *w = arg;
	struct exmap *ex = w->ex;
	const int first = 100 * w->index;
	int i, n, ret;
	__u64 value;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < scaled(300); i++) {
		ret = alloc_dropped(ex, w->index, first, BUFFER / 4);
		if (BROKE(w, ret < 0, ret))
			break;
		for (n = first; n < first + BUFFER / 4; n++) {
			ret = try_write_byte(page_at(ex, n) + 8 * w->index, i);
			if (!ret && !try_read(page_at(ex, n) + 8 * w->index, &value) &&
			    BROKE(w, (value & 0xff) != (i & 0xff), value))
				return NULL;
		}
		ret = ex_free(ex, w->index, first, BUFFER / 4);
		if (BROKE(w, ret < 0, ret))
			break;
	}
	return NULL;
}

struct dropping {
	int pidfd;
	int stop;
	long calls;
};

static void *drop_pages(void *arg)
{
	static const int advice[] = { MADV_DONTNEED, MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED };
	struct worker *w = arg;
	struct dropping *d = w->arg;
	struct iovec iov[8];
	int i;

	while (!__atomic_load_n(&d->stop, __ATOMIC_SEQ_CST)) {
		for (i = 0; i < 8; i++)
			iov[i] = (struct iovec){
				page_at(w->ex, random_below(&w->random, PAGES - 20)),
				PG * (1 + random_below(&w->random, 20)),
			};
		i = advice[random_below(&w->random, ARRAY_SIZE(advice))];
		/* The call fails for advice that the region does not support */
		if (syscall(SYS_process_madvise, d->pidfd, iov, 8, i, 0) > 0)
			d->calls++;
		sched_yield();
	}
	return NULL;
}

TEST_F_TIMEOUT(environment, process_madvise, SLOW)
{
	struct iovec iov = { self->ex.region, PG };
	struct dropping dropping = {};
	struct worker dropper = { .ex = &self->ex, .arg = &dropping, .random = 77 };
	struct worker w[4];

	dropping.pidfd = syscall(SYS_pidfd_open, getpid(), 0);
	ASSERT_EQ(1, ex_alloc(&self->ex, 0, 0, 1));
	if (syscall(SYS_process_madvise, dropping.pidfd, &iov, 1, MADV_DONTNEED, 0) != (long)PG)
		SKIP(return, "no process_madvise() of that kind: %s", strerror(errno));
	EXPECT_FALSE(present(self->ex.region));
	ASSERT_EQ(0, pthread_create(&dropper.thread, NULL, drop_pages, &dropper));
	run_workers(_metadata, w, 4, use_own_pages, &self->ex, NULL);
	__atomic_store_n(&dropping.stop, 1, __ATOMIC_SEQ_CST);
	ASSERT_EQ(0, pthread_join(dropper.thread, NULL));
	EXPECT_LT(0, dropping.calls);
	close(dropping.pidfd);
}

/*
 * A thread that reads smaps_rollup, like monitoring tools, and a thread that maps and
 * unmaps memory compete for the locks of the address space. ALLOC and FREE must not starve.
 */

#define CALLS	2000

struct disturbance {
	int stop;
	long looked, mapped;
};

static void *look_at_memory(void *arg)
{
	struct disturbance *d = arg;
	char text[4096];
	ssize_t len;
	int fd;

	while (!__atomic_load_n(&d->stop, __ATOMIC_SEQ_CST)) {
		fd = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
		len = fd < 0 ? -1 : read(fd, text, sizeof(text));
		close(fd);
		d->looked += len > 0;
		if (len <= 0)
			break;
	}
	return NULL;
}

static void *map_and_unmap(void *arg)
{
	struct disturbance *d = arg;
	char *memory;

	while (!__atomic_load_n(&d->stop, __ATOMIC_SEQ_CST)) {
		memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			      -1, 0);
		if (memory == MAP_FAILED)
			break;
		memory[0] = 1;
		munmap(memory, 1 << 20);
		d->mapped++;
	}
	return NULL;
}

static int compare_times(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

TEST_F_TIMEOUT(environment, beside_readers_and_writers_of_the_address_space, SLOW)
{
	const int calls = scaled(CALLS);
	struct disturbance d = {};
	struct exmap *ex = &self->ex;
	pthread_t looker, mapper;
	double *times, start;
	int i, wrong = 0;

	if (access("/proc/self/smaps_rollup", R_OK))
		SKIP(return, "no /proc/self/smaps_rollup");
	times = calloc(calls, sizeof(*times));
	ASSERT_NE(NULL, times);
	ASSERT_EQ(0, pthread_create(&looker, NULL, look_at_memory, &d));
	ASSERT_EQ(0, pthread_create(&mapper, NULL, map_and_unmap, &d));
	for (i = 0; i < calls; i++) {
		start = seconds_now();
		if (i % 2)
			wrong += ex_free(ex, 0, 10, BUFFER / 2) != BUFFER / 2;
		else
			wrong += ex_alloc(ex, 0, 10, BUFFER / 2) != BUFFER / 2;
		times[i] = seconds_now() - start;
	}
	__atomic_store_n(&d.stop, 1, __ATOMIC_SEQ_CST);
	ASSERT_EQ(0, pthread_join(looker, NULL));
	ASSERT_EQ(0, pthread_join(mapper, NULL));
	EXPECT_EQ(0, wrong);
	EXPECT_LT(0, d.looked);
	EXPECT_LT(0, d.mapped);
	qsort(times, calls, sizeof(*times), compare_times);
	TH_LOG("p50 %.0f us, p95 %.0f us, p99 %.0f us; %ld looks, %ld mappings",
	       times[calls / 2] * 1e6, times[calls * 95 / 100] * 1e6,
	       times[calls * 99 / 100] * 1e6, d.looked, d.mapped);
	/* An emulated CPU may stand still for a while, so the bound is generous */
	EXPECT_GT(0.2, times[calls * 95 / 100]);
	free(times);
}

TEST_HARNESS_MAIN
