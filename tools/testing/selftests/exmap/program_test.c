// SPDX-License-Identifier: GPL-2.0
/*
 * Habits and environments of existing programs: calls meant for a different exmap, loops
 * that wait for a page, resource limits, mappings that go away in any order, and threads
 * that inspect or change the address space at the same time.
 */
#include "common.h"
#include "status.h"

#include <linux/futex.h>
#include <sys/syscall.h>

#define BUFFER		64
#define PAGES		512

FIXTURE(program) {
	struct exmap ex;
	int backing;
};

FIXTURE_SETUP(program)
{
	catch_faults();
	self->backing = memfd_create("backing", MFD_CLOEXEC);
	ASSERT_LE(0, self->backing);
	ASSERT_EQ(0, fill_file(self->backing, PAGES));
	exmap_create(_metadata, &self->ex, self->backing, 8, BUFFER, PAGES);
}

FIXTURE_TEARDOWN(program)
{
	EXPECT_LE(0, ex_drain(&self->ex, 0, 0, PAGES));
	EXPECT_EQ(self->ex.buffer, ex_fill(&self->ex, 1, 0));
	exmap_destroy(&self->ex);
	close(self->backing);
}

/*
 * LeanStore is written for a different exmap, /dev/exmap0, which has snapshots. Its ACTION
 * has the opcodes SHADOW 3, RM_SD 4 and WRITE 5, and a page number in place of the flags.
 * SHADOW of page 0 looks like WRITE and is carried out as WRITE. Calls with opcode 4 and
 * above, or with another page number, are refused and change nothing.
 */

struct leanstore_params {
	__u16 interface;
	__u16 iov_len;
	__u16 opcode;
	__u64 page_id;
};

static int leanstore_action(struct exmap *ex, int opcode, __u64 page_id, int iov_len)
{
	struct leanstore_params params = {
		.iov_len = iov_len, .opcode = opcode, .page_id = page_id,
	};

	return ex_ioctl(ex->fd, EXMAP_IOCTL_ACTION, &params);
}

TEST_F(program, opcodes_of_leanstore)
{
	struct exmap *ex = &self->ex;
	__u64 before;
	int opcode;

	EXPECT_EQ(-1, open("/dev/exmap0", O_RDWR));
	EXPECT_EQ(ENOENT, errno);

	/* READ, ALLOC and FREE mean the same in both as long as the page number is 0 */
	set_vec(ex, 0, 0, 7, 2);
	EXPECT_EQ(0, leanstore_action(ex, EXMAP_OP_ALLOC, 0, 1));
	EXPECT_EQ(2, ex->iface[0]->iov[0].pages);
	renew(ex, 7);
	renew(ex, 8);
	set_vec(ex, 0, 0, 8, 1);
	EXPECT_EQ(0, leanstore_action(ex, EXMAP_OP_FREE, 0, 1));
	EXPECT_EQ(1, ex->iface[0]->iov[0].pages);
	set_vec(ex, 0, 0, 20, 3);
	EXPECT_EQ(0, leanstore_action(ex, EXMAP_OP_READ, 0, 1));
	EXPECT_EQ(3, ex->iface[0]->iov[0].pages);
	EXPECT_TRUE(page_is(page_at(ex, 22), 22));

	set_vec(ex, 0, 0, 7, 1);
	before = ex->iface[0]->iov[0].value;
	for (opcode = 0; opcode < 20; opcode++) {
		EXPECT_EQ(-EINVAL, leanstore_action(ex, opcode, 7, 1));
		if (opcode > EXMAP_OP_WRITE)
			EXPECT_EQ(-EINVAL, leanstore_action(ex, opcode, 0, 1));
	}
	EXPECT_EQ(-EINVAL, leanstore_action(ex, 0xffff, 0, 1));
	EXPECT_EQ(before, ex->iface[0]->iov[0].value);
	EXPECT_EQ(4, count_present(ex, 0, PAGES));
	EXPECT_TRUE(page_is(page_at(ex, 7), NEW(7)));
	EXPECT_TRUE(file_has(self->backing, 7, 7));

	/* SHADOW of page 0 */
	EXPECT_EQ(0, leanstore_action(ex, 3, 0, 1));
	EXPECT_EQ(1, ex->iface[0]->iov[0].pages);
	EXPECT_TRUE(file_has(self->backing, 7, NEW(7)));
	EXPECT_TRUE(page_is(page_at(ex, 7), NEW(7)));
}

/*
 * Programs evict a page when a call fails with ENOMEM, and then repeat the call as it is.
 * With a pool of one page, each thread has to evict the page of another thread.
 */

#define RETRIES	1000000

struct loop {
	bool action;		/* ALLOC with ACTION, else READ with pread() */
	long retries;
};

static void *wait_for_page(void *arg)
{
	struct worker *w = arg;
	struct loop *loop = w->arg;
	struct exmap *ex = w->ex;
	const int page = 10 + w->index;
	long tries, ret;
	__u64 value;
	int i, other;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < scaled(50); i++) {
		set_vec(ex, w->index, 0, page, 1);
		for (tries = 0; tries < RETRIES; tries++) {
			if (loop->action) {
				ret = ex_action(ex->fd, w->index, EXMAP_OP_ALLOC, 1);
				if (!ret)
					break;
				if (BROKE(w, ret != -ENOMEM, ret) ||
				    BROKE(w, (int)ex->iface[w->index]->iov[0].page != page, i))
					return NULL;
			} else {
				ret = ex_pread(ex->fd, w->index, EXMAP_OP_READ, page_at(ex, page),
					       PG);
				if (ret == (ssize_t)PG)
					break;
				if (BROKE(w, ret != -ENOMEM, ret))
					return NULL;
			}
			/* Evict through another interface to keep the vector intact */
			other = 10 + random_below(&w->random, 4);
			ret = ex_free(ex, w->index + 4, other, 1);
			if (BROKE(w, ret < 0 && ret != -EBUSY, ret))
				return NULL;
			sched_yield();
		}
		__atomic_add_fetch(&loop->retries, tries, __ATOMIC_SEQ_CST);
		if (BROKE(w, tries == RETRIES, i))
			return NULL;
		/* The page may have been evicted again, but it is never incomplete */
		if (!loop->action && !try_read(page_at(ex, page), &value) &&
		    BROKE(w, value != word_of(page, 0), value))
			return NULL;
	}
	return NULL;
}

TEST_F_TIMEOUT(program, pool_of_one, SLOW)
{
	struct loop loop = {};
	struct worker w[4];
	int action;

	exmap_destroy(&self->ex);
	exmap_create(_metadata, &self->ex, self->backing, 8, 1, PAGES);
	for (action = 0; action < 2; action++) {
		loop.action = action;
		run_workers(_metadata, w, 4, wait_for_page, &self->ex, &loop);
	}
	EXPECT_LT(0, loop.retries);
}

/* A single thread walks over the region and evicts each page for the next one */
TEST_F(program, pool_of_one_for_all_pages)
{
	struct exmap *ex = &self->ex;
	int i;

	exmap_destroy(ex);
	exmap_create(_metadata, ex, self->backing, 1, 1, PAGES);
	for (i = 0; i < 100; i++) {
		if (i) {
			EXPECT_EQ(-ENOMEM, ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(ex, i), PG));
			EXPECT_EQ(-ENOMEM, ex_alloc(ex, 0, i, 1));
			EXPECT_TRUE(page_is(page_at(ex, i - 1), i - 1));
			EXPECT_EQ(1, ex_free(ex, 0, i - 1, 1));
		}
		EXPECT_EQ((ssize_t)PG, ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(ex, i), PG));
		EXPECT_TRUE(page_is(page_at(ex, i), i));
	}
	EXPECT_EQ(1, ex_owned(ex->fd));
	EXPECT_EQ(1, ex_free(ex, 0, 99, 1));
	exmap_destroy(ex);
	exmap_create(_metadata, ex, self->backing, 2, BUFFER, PAGES);
}

/*
 * Private futexes work in the region. Process-shared futexes do not, because their key is
 * an offset in a file, and the pages of the region do not belong to a file.
 */
TEST_F(program, futexes)
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
	struct exmap ex = { .fd = exmap_open(_metadata), .ifaces = 1, .pages = 4096 };
	struct rlimit limit;

	catch_faults();
	ASSERT_EQ(0, getrlimit(RLIMIT_AS, &limit));
	limit.rlim_cur = (status_kib("VmSize:") << 10) + (64 << 20);
	ASSERT_EQ(0, setrlimit(RLIMIT_AS, &limit));
	ASSERT_EQ(0, ex_setup(ex.fd, -1, 1, BUFFER));
	ASSERT_EQ(MAP_FAILED, ex_map_region(ex.fd, 32768));
	EXPECT_EQ(ENOMEM, errno);
	ex.region = ex_map_region(ex.fd, ex.pages);
	ASSERT_NE(MAP_FAILED, ex.region);
	ex.iface[0] = ex_map_iface(ex.fd, 0);
	ASSERT_NE(MAP_FAILED, ex.iface[0]);
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
	EXPECT_EQ(-ENOMEM, ex_setup(i, -1, 1, BUFFER + 1));
	EXPECT_EQ(0, ex_setup(i, -1, 1, BUFFER));
	close(i);
}

/* The mappings and open files of an exmap go away in every possible order */

enum part { REGION, FIRST_IFACE, SECOND_IFACE, ITS_FILE, CLONE, PARTS };

static void take_away(struct exmap *ex, int clone, enum part part)
{
	switch (part) {
	case REGION:
		munmap(ex->region, ex->pages * PG);
		break;
	case FIRST_IFACE:
	case SECOND_IFACE:
		munmap(ex->iface[part - FIRST_IFACE], PG);
		break;
	case ITS_FILE:
		close(ex->fd);
		break;
	default:
		close(clone);
	}
}

TEST_F_TIMEOUT(program, every_order_of_unmapping_and_closing, SLOW)
{
	int order, parts, rest, i, n, clone, done = 0;
	struct exmap ex;
	long before = 0;
	enum part part;

	become_nobody(_metadata, BUFFER);
	for (order = 0; order < 2 * 3 * 4 * 5; order++) {
		exmap_create(_metadata, &ex, self->backing, 2, BUFFER, PAGES);
		clone = exmap_open(_metadata);
		ASSERT_EQ(0, ex_clone(clone, ex.fd));
		ASSERT_EQ(20, ex_one(&ex, 0, EXMAP_OP_READ, 0, 20));
		ASSERT_EQ(20, ex_alloc(&ex, 1, 100, 20));
		ASSERT_EQ(10, ex_free(&ex, 1, 15, 10) + ex_free(&ex, 0, 110, 5));
		/* Each digit of @order selects one of the remaining parts */
		parts = (1 << PARTS) - 1;
		rest = order;
		for (n = PARTS; n; n--) {
			i = rest % n;
			rest /= n;
			for (part = 0; !(parts & 1 << part) || i--; part++)
				;
			parts &= ~(1 << part);
			take_away(&ex, clone, part);
			done++;
			if (parts & 1 << REGION)
				EXPECT_TRUE(page_is(page_at(&ex, 7), 7));
		}
		/* The program text that the loop needs is resident by now */
		if (order == 1)
			before = status_kib("RssFile:");
	}
	EXPECT_EQ(PARTS * 2 * 3 * 4 * 5, done);
	EXPECT_GE(before + 256, status_kib("RssFile:"));
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

TEST_F_TIMEOUT(program, process_madvise, SLOW)
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

TEST_F_TIMEOUT(program, beside_readers_and_writers_of_the_address_space, SLOW)
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
