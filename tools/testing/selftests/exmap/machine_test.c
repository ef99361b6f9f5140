// SPDX-License-Identifier: GPL-2.0
/*
 * Memory goes offline or fails, CPUs are unplugged and the system is suspended while
 * threads use an exmap. Calls may wait, but no page may be lost or altered.
 */
#include "common.h"
#include "backing.h"
#include "nodes.h"

#include <dirent.h>

#define THREADS		4
#define RANGE		64
#define PAGES		(THREADS * RANGE)
#define CPU		"/sys/devices/system/cpu"
#define MEMORY		"/sys/devices/system/memory"

struct work {
	int stop;
	long rounds[THREADS];
};

FIXTURE(machine) {
	struct exmap ex;
	struct worker w[THREADS];
	struct work work;
	int fd, backing;
};

FIXTURE_VARIANT(machine) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(machine, strict) {
};

FIXTURE_VARIANT_ADD(machine, deferred) {
	.flags = EXMAP_SETUP_DEFERRED,
};

/* Read pages from the file, check and change them, write them back and free them */
static void *write_and_read(void *arg)
{
	struct worker *w = arg;
	struct work *work = w->arg;
	struct exmap *ex = w->ex;
	const int first = w->index * RANGE;
	long round;
	int i, ret;

	pthread_barrier_wait(&start_line);
	for (round = 0; !__atomic_load_n(&work->stop, __ATOMIC_SEQ_CST); round++) {
		ret = ex_one(ex, w->index, EXMAP_OP_READ, first, RANGE);
		if (BROKE(w, ret != RANGE, ret))
			break;
		for (i = first; i < first + RANGE; i++) {
			const long shift = PAGES * round;

			if (BROKE(w, !page_is(page_at(ex, i), i + shift), i))
				return NULL;
			make_page((__u64 *)page_at(ex, i), i + shift + PAGES);
		}
		ret = ex_one(ex, w->index, EXMAP_OP_WRITE, first, RANGE);
		if (BROKE(w, ret != RANGE, ret))
			break;
		ret = ex_free(ex, w->index, first, RANGE);
		if (BROKE(w, ret != RANGE, ret))
			break;
		__atomic_store_n(&work->rounds[w->index], round + 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

FIXTURE_SETUP(machine)
{
	struct exmap_setup2 setup = { .flags = variant->flags };
	long end;

	if (geteuid())
		SKIP(return, "not root");
	self->backing = make_backing(_metadata, FILE_DIRECT, PAGES, &self->fd, &end);
	if (self->backing < 0)
		self->backing = make_backing(_metadata, FILE_BUFFERED, PAGES, &self->fd, &end);
	ASSERT_LE(0, self->backing);
	setup.fd = self->backing;
	exmap_create2(_metadata, &self->ex, setup, THREADS, PAGES, 2 * PAGES);
	start_workers(_metadata, self->w, THREADS, write_and_read, &self->ex, &self->work);
}

FIXTURE_TEARDOWN(machine)
{
	__atomic_store_n(&self->work.stop, 1, __ATOMIC_SEQ_CST);
	join_workers(_metadata, self->w, THREADS);
	EXPECT_EQ(PAGES, ex_fill(&self->ex, 0, 0));
	exmap_destroy(&self->ex);
	close(self->fd);
	close(self->backing);
}

/* Wait until every thread has made progress; false if that takes more than a minute */
static bool progress(struct work *work)
{
	long before[THREADS];
	int i, tries;

	for (i = 0; i < THREADS; i++)
		before[i] = __atomic_load_n(&work->rounds[i], __ATOMIC_SEQ_CST);
	for (i = 0, tries = 0; i < THREADS && tries < 6000; tries++) {
		if (__atomic_load_n(&work->rounds[i], __ATOMIC_SEQ_CST) != before[i])
			i++;
		else
			usleep(10000);
	}
	return i == THREADS;
}

/*
 * Try to take blocks of memory offline. A block that contains pages of the pool refuses,
 * because these pages cannot be moved. They are never in ZONE_MOVABLE, so memory that
 * is meant to be removable stays removable.
 */
TEST_F_TIMEOUT(machine, memory_goes_offline, SLOW)
{
	int tried = 0, offline = 0;
	char path[320];
	struct dirent *entry;
	DIR *dir;

	dir = opendir(MEMORY);
	if (!dir)
		SKIP(return, "no memory that can go offline");
	while ((entry = readdir(dir))) {
		if (strncmp(entry->d_name, "memory", 6))
			continue;
		snprintf(path, sizeof(path), MEMORY "/%s/state", entry->d_name);
		if (++tried % 3)
			continue;
		if (write_text(path, "offline"))
			continue;
		offline++;
		EXPECT_TRUE(progress(&self->work));
		EXPECT_EQ(0, write_text(path, "online"));
	}
	closedir(dir);
	EXPECT_TRUE(progress(&self->work));
	if (!offline)
		SKIP(return, "none of it went offline");
}

TEST_F_TIMEOUT(machine, cpus_go_offline, SLOW)
{
	int round, cpu, gone = 0;
	char path[64];

	for (round = 0; round < scaled(5); round++) {
		for (cpu = 1; cpu < THREADS; cpu++) {
			snprintf(path, sizeof(path), CPU "/cpu%d/online", cpu);
			if (!write_text(path, "0"))
				gone++;
			EXPECT_TRUE(progress(&self->work));
		}
		for (cpu = 1; cpu < THREADS; cpu++) {
			snprintf(path, sizeof(path), CPU "/cpu%d/online", cpu);
			write_text(path, "1");
		}
		EXPECT_TRUE(progress(&self->work));
	}
	if (!gone)
		SKIP(return, "no CPU that can go offline");
}

/* Suspend until all tasks are frozen, and resume after a second */
TEST_F_TIMEOUT(machine, suspend, SLOW)
{
	int round;

	if (write_text("/sys/power/pm_test", "freezer"))
		SKIP(return, "no CONFIG_PM_DEBUG");
	write_text("/sys/module/suspend/parameters/pm_test_delay", "1");
	for (round = 0; round < scaled(5); round++) {
		EXPECT_EQ(0, write_text("/sys/power/state", "freeze"));
		EXPECT_TRUE(progress(&self->work));
	}
	EXPECT_EQ(0, write_text("/sys/power/pm_test", "none"));
}

/*
 * The hardware reports an error in a page, and memory_failure() marks the page as
 * poisoned. The pool must give up such a page, whether it is mapped or free, and must not
 * map it again. Each test costs the machine a few pages.
 */

#define POISONED	8

FIXTURE(poison) {
	struct exmap ex;
	int pagemap, hard_offline;
};

FIXTURE_VARIANT(poison) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(poison, strict) {
};

FIXTURE_VARIANT_ADD(poison, deferred) {
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_SETUP(poison)
{
	struct exmap_setup2 setup = { .flags = variant->flags, .fd = -1 };

	self->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	self->hard_offline = open(MEMORY "/hard_offline_page", O_WRONLY | O_CLOEXEC);
	if (geteuid() || self->pagemap < 0 || self->hard_offline < 0)
		SKIP(return, "not root, or no hard_offline_page");
	exmap_create2(_metadata, &self->ex, setup, 1, 2 * POISONED, PAGES);
}

FIXTURE_TEARDOWN(poison)
{
	exmap_destroy(&self->ex);
	close(self->pagemap);
	close(self->hard_offline);
}

/* Return the address of the page frame of a resident slot, or 0 */
static __u64 frame_of(int pagemap, void *addr)
{
	__u64 entry;

	if (pread(pagemap, &entry, sizeof(entry), (unsigned long)addr / PG * sizeof(entry)) !=
	    sizeof(entry) || !(entry & 1ULL << 63))
		return 0;
	return (entry & ((1ULL << 55) - 1)) * PG;
}

static bool poison(int hard_offline, __u64 frame)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "0x%llx", frame);

	/* The page is held by the pool, and so the attempt to isolate it fails */
	return frame && (pwrite(hard_offline, text, len, 0) == len || errno == EBUSY);
}

/* Count the slots from @first to @last that have one of @frames */
static int count_frames(int pagemap, struct exmap *ex, int first, int last, const __u64 *frames)
{
	int i, k, n = 0;

	for (i = first; i < last; i++)
		for (k = 0; k < POISONED; k++)
			n += frame_of(pagemap, page_at(ex, i)) == frames[k];
	return n;
}

TEST_F_TIMEOUT(poison, while_mapped, SLOW)
{
	struct exmap *ex = &self->ex;
	__u64 frames[POISONED];
	int i;

	ASSERT_EQ(POISONED, ex_alloc(ex, 0, 0, POISONED));
	for (i = 0; i < POISONED; i++) {
		frames[i] = frame_of(self->pagemap, page_at(ex, i));
		ASSERT_TRUE(poison(self->hard_offline, frames[i]))
			TH_LOG("%s", strerror(errno));
	}
	EXPECT_EQ(POISONED, ex_free(ex, 0, 0, POISONED));
	EXPECT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_FLUSH, NULL));
	/* The pool gets other pages in their place */
	EXPECT_EQ(2 * POISONED, ex_alloc(ex, 0, 0, 2 * POISONED));
	EXPECT_EQ(0, count_frames(self->pagemap, ex, 0, 2 * POISONED, frames));
	EXPECT_EQ(2 * POISONED, ex_free(ex, 0, 0, 2 * POISONED));
}

/* @way 1: one vector, 2: vectors of one page in one call, 3: a call each */
static void while_free(struct __test_metadata *_metadata, struct exmap *ex, int pagemap,
		       int hard_offline, int way)
{
	struct exmap_vec vecs[2 * POISONED];
	struct exmap_result r[2 * POISONED];
	__u64 frames[POISONED];
	int i;

	ASSERT_EQ(POISONED, ex_alloc(ex, 0, 0, POISONED));
	for (i = 0; i < POISONED; i++)
		frames[i] = frame_of(pagemap, page_at(ex, i));
	ASSERT_EQ(POISONED, ex_free(ex, 0, 0, POISONED));
	ASSERT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_FLUSH, NULL));
	for (i = 0; i < POISONED; i++)
		ASSERT_TRUE(poison(hard_offline, frames[i]))
			TH_LOG("%s", strerror(errno));
	if (way == 1)
		EXPECT_EQ(2 * POISONED, ex_alloc(ex, 0, 0, 2 * POISONED));
	for (i = 0; way == 2 && i < 2 * POISONED; i++)
		vecs[i] = ex_vec(EXMAP_OP_ALLOC, i, 1, 0);
	if (way == 2)
		EXPECT_EQ(0, ex_vectors(ex, 0, vecs, r, 2 * POISONED));
	for (i = 0; way == 3 && i < 2 * POISONED; i++)
		EXPECT_EQ(1, ex_alloc(ex, 0, i, 1));
	EXPECT_EQ(2 * POISONED, count_present(ex, 0, 2 * POISONED));
	EXPECT_EQ(0, count_frames(pagemap, ex, 0, 2 * POISONED, frames));
	EXPECT_EQ(2 * POISONED, ex_free(ex, 0, 0, 2 * POISONED));
}

/* MOVE leaves a page alone that cannot be read, and moves the others */
TEST_F_TIMEOUT(poison, while_moved, SLOW)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vec = { .opcode = EXMAP_OP_MOVE, .len = 3 };
	struct exmap_result result;
	int node = MAX_NODES, here;
	__u64 frame;

	ASSERT_EQ(3, ex_alloc(ex, 0, 0, 3));
	here = node_of(page_at(ex, 0));
	while (--node >= 0)
		if (node_has_memory(node) && node != here)
			break;
	if (node < 0)
		SKIP(return, "only one node has memory");
	frame = frame_of(self->pagemap, page_at(ex, 1));
	ASSERT_TRUE(poison(self->hard_offline, frame));
	vec.node = node;
	EXPECT_EQ(1, ex_vectors(ex, 0, &vec, &result, 1));
	EXPECT_EQ(-EHWPOISON, result.res);
	EXPECT_EQ(2, result.pages);
	EXPECT_EQ(frame, frame_of(self->pagemap, page_at(ex, 1)));
	EXPECT_EQ(node, node_of(page_at(ex, 2)));
	EXPECT_EQ(3, ex_free(ex, 0, 0, 3));
}

TEST_F_TIMEOUT(poison, while_free, SLOW)
{
	int way;

	for (way = 1; way <= 3; way++)
		while_free(_metadata, &self->ex, self->pagemap, self->hard_offline, way);
}

/*
 * A mapping that replaces another one, and is populated before the program runs again, shows
 * nothing of it. No exmap is needed for that, but on user-mode Linux a patch of this series.
 */
TEST(replaced_mappings)
{
	static const struct { size_t size; unsigned long at; } cases[] = {
		{ 2UL << 20, 16UL << 30 }, { 1UL << 30, 16UL << 30 }, { 512UL << 30, 2UL << 40 },
	};
	const int flags = MAP_FIXED_NOREPLACE | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	__u64 value;

	catch_faults();
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		const size_t size = cases[i].size;
		char *at = mmap((void *)cases[i].at, size, PROT_READ | PROT_WRITE, flags, -1, 0);
		const int fd = memfd_create("short", MFD_CLOEXEC);

		ASSERT_EQ((void *)cases[i].at, at);
		ASSERT_EQ(0, ftruncate(fd, PG));
		at[0] = 1;
		at[size / 2] = 1;
		ASSERT_EQ(at, mmap(at, size, PROT_READ, MAP_FIXED | MAP_SHARED | MAP_POPULATE,
				   fd, 0));
		EXPECT_EQ(0, try_read(at, &value));
		EXPECT_EQ(SIGBUS, try_read(at + size / 2, &value));
		EXPECT_EQ(0, munmap(at, size));
		close(fd);
	}
}

TEST_HARNESS_MAIN
