// SPDX-License-Identifier: GPL-2.0
/* The system must not use more memory after many rounds of use than before. */
#include "common.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>

#define BUFFER	64
#define PAGES	256

/* Memory in use, in KiB */
struct memory {
	long unaccounted;	/* raw pages, vmalloc, kernel stacks */
	long vmalloc;
	long slab;
	long percpu;
	long pagetables;
};

static long field(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at ? atol(at + strlen(name)) : 0;
}

static long read_text(const char *path, char *text, size_t size)
{
	size_t total = 0;
	ssize_t ret = -1;
	int fd;

	fd = open(path, O_RDONLY);
	if (fd < 0)
		return -1;
	while (total < size - 1) {
		ret = read(fd, text + total, size - 1 - total);
		if (ret <= 0)
			break;
		total += ret;
	}
	close(fd);
	text[total] = 0;
	return ret < 0 ? -1 : (long)total;
}

/* Free memory on the per-CPU lists, which MemFree does not include, in KiB, or -1 */
static long free_on_cpus(void)
{
	static char text[1 << 18];
	const char *at = text;
	long pages = 0;

	if (read_text("/proc/zoneinfo", text, sizeof(text)) < 0)
		return -1;
	while ((at = strstr(at, " count:"))) {
		at += strlen(" count:");
		pages += atol(at);
	}
	return pages * (PG / 1024);
}

static int sample(struct memory *m)
{
	static char text[1 << 14];
	long on_cpus;

	/* Reading stat_refresh folds the per-CPU parts into the counters */
	read_text("/proc/sys/vm/stat_refresh", text, sizeof(text));
	on_cpus = free_on_cpus();
	if (on_cpus < 0 || read_text("/proc/meminfo", text, sizeof(text)) < 0)
		return -1;
	m->vmalloc = field(text, "VmallocUsed:");
	m->slab = field(text, "\nSlab:");
	m->percpu = field(text, "\nPercpu:");
	m->pagetables = field(text, "\nPageTables:");
	m->unaccounted = field(text, "MemTotal:") - field(text, "\nMemFree:") - on_cpus -
		field(text, "\nBuffers:") - field(text, "\nCached:") -
		field(text, "\nAnonPages:") - m->slab - m->percpu - m->pagetables;
	return 0;
}

static int compare_samples(const void *a, const void *b)
{
	const struct memory *one = a, *two = b;

	return (one->unaccounted > two->unaccounted) - (one->unaccounted < two->unaccounted);
}

/*
 * Take the median of several samples. A single sample may count free pages twice, or
 * not at all, when they move from or to a per-CPU list meanwhile.
 */
static int measure(struct memory *m)
{
	struct memory samples[7];
	int i;

	/* Wait for memory that is freed by RCU or by a worker */
	for (i = 0; i < 2; i++) {
		syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
		usleep(100000);
	}
	for (i = 0; i < (int)ARRAY_SIZE(samples); i++) {
		if (sample(&samples[i]))
			return -1;
		usleep(30000);
	}
	qsort(samples, ARRAY_SIZE(samples), sizeof(samples[0]), compare_samples);
	*m = samples[ARRAY_SIZE(samples) / 2];
	return 0;
}

/*
 * KASAN keeps freed objects in a quarantine, so the size of the slab says nothing. With
 * KASAN, leaks of objects are left to kmemleak.
 */
static bool kernel_has_kasan(void)
{
	char line[256];
	bool found = false;
	FILE *f;

	f = fopen("/proc/kallsyms", "r");
	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f))
		found = strstr(line, " kasan_quarantine_put") || strstr(line, " __asan_load8");
	fclose(f);
	return found;
}

static void compare(struct __test_metadata *_metadata, struct memory *before)
{
	bool kasan = kernel_has_kasan();
	/* KiB: half a page per exit in hundred_exits; KASAN's shadow memory varies more */
	long pages = kasan ? 3000 : 200;
	struct memory after;
	int i;

	/* The figures fluctuate, but a leak shows in every measurement */
	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, measure(&after));
		if (after.unaccounted - before->unaccounted <= pages &&
		    (kasan || after.slab - before->slab <= 300))
			break;
	}
	TH_LOG("KiB more: %ld unaccounted, %ld vmalloc, %ld slab, %ld percpu, %ld page tables",
	       after.unaccounted - before->unaccounted, after.vmalloc - before->vmalloc,
	       after.slab - before->slab, after.percpu - before->percpu,
	       after.pagetables - before->pagetables);
	EXPECT_GE(pages, after.unaccounted - before->unaccounted);
	EXPECT_GE(256, after.vmalloc - before->vmalloc);
	EXPECT_GE(256, after.percpu - before->percpu);
	EXPECT_GE(256, after.pagetables - before->pagetables);
	if (!kasan)
		EXPECT_GE(300, after.slab - before->slab);
}

FIXTURE(leak) {
	struct memory before;
	int backing;
};

FIXTURE_SETUP(leak)
{
	self->backing = memfd_create("backing", MFD_CLOEXEC);
	ASSERT_LE(0, self->backing);
	ASSERT_EQ(0, ftruncate(self->backing, (PAGES - 1) * PG));
}

FIXTURE_TEARDOWN(leak)
{
	close(self->backing);
}

static void use(struct __test_metadata *_metadata, int backing, int round)
{
	struct exmap ex;
	int i, fd;

	switch (round % 8) {
	case 0:		/* open only */
		ex.fd = exmap_open(_metadata);
		close(ex.fd);
		return;
	case 1:		/* SETUP only */
		ex.fd = exmap_open(_metadata);
		ASSERT_EQ(0, ex_setup(ex.fd, backing, 4, BUFFER));
		close(ex.fd);
		return;
	case 2:		/* mmap() only */
		ex.fd = exmap_open(_metadata);
		ex.region = ex_map_region(ex.fd, PAGES);
		ASSERT_NE(MAP_FAILED, ex.region);
		close(ex.fd);
		munmap(ex.region, PAGES * PG);
		return;
	}

	exmap_create(_metadata, &ex, backing, 4, BUFFER, PAGES);
	ASSERT_EQ(BUFFER, ex_fill(&ex, round % 4, 0));
	memset(ex.region, round, BUFFER * PG);
	ASSERT_EQ(16, ex_free(&ex, (round + 1) % 4, 3, 16));
	ASSERT_EQ((ssize_t)(4 * PG),
		  ex_pread(ex.fd, 1, EXMAP_OP_READ, page_at(&ex, 100), 4 * PG));
	ASSERT_EQ(0, madvise(page_at(&ex, 40), 8 * PG, MADV_DONTNEED));
	/* Calls that fail must not leak either */
	ASSERT_EQ(-ENODATA, ex_pread(ex.fd, 2, EXMAP_OP_READ, page_at(&ex, PAGES - 1), PG));
	ASSERT_EQ(-ERANGE, ex_pread(ex.fd, 2, EXMAP_OP_READ, page_at(&ex, PAGES), PG));
	ASSERT_EQ(-EBUSY, ex_setup(ex.fd, backing, 4, BUFFER));
	ASSERT_EQ(-EBUSY, ex_try_mmap(ex.fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
	ASSERT_EQ(-EINVAL, ex_action(ex.fd, 4, EXMAP_OP_ALLOC, 1));
	ASSERT_EQ(MAP_FAILED, mremap(ex.region, PAGES * PG, PG, 0));

	switch (round % 8) {
	case 3:		/* region goes first */
		munmap(ex.region, PAGES * PG);
		break;
	case 4:		/* file goes first */
		close(ex.fd);
		ex.fd = -1;
		break;
	case 5:		/* interfaces go first */
		for (i = 0; i < 4; i++)
			munmap(ex.iface[i], PG);
		break;
	case 6:		/* region is replaced by another mapping */
		ASSERT_EQ(ex.region, mmap(ex.region, PAGES * PG, PROT_NONE,
					  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		break;
	case 7:		/* exmap is used through a clone */
		fd = exmap_open(_metadata);
		ASSERT_EQ(0, ex_clone(fd, ex.fd));
		close(ex.fd);
		ex.fd = fd;
		ASSERT_LE(0, ex_free(&ex, 0, 0, PAGES));
		break;
	}
	exmap_destroy(&ex);
}

TEST_F_TIMEOUT(leak, thousand_rounds, SLOW)
{
	int round;

	/* Warm up: memory that is allocated once and kept is not a leak */
	for (round = 0; round < 100; round++)
		use(_metadata, self->backing, round);
	if (measure(&self->before))
		SKIP(return, "cannot read /proc/zoneinfo and /proc/meminfo");
	for (round = 0; round < 1000; round++)
		use(_metadata, self->backing, round);
	compare(_metadata, &self->before);
}

static int use_in_child(struct __test_metadata *_metadata, int backing, int round)
{
	struct exmap ex;
	pid_t pid;

	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		exmap_create(_metadata, &ex, backing, 4, BUFFER, PAGES);
		if (ex_fill(&ex, 0, 0) != BUFFER)
			_exit(1);
		memset(ex.region, round, BUFFER * PG);
		ex_free(&ex, 1, 10, 10);
		if (round % 2)
			raise(SIGKILL);
		_exit(0);
	}
	return wait_child(pid);
}

TEST_F_TIMEOUT(leak, hundred_exits, SLOW)
{
	int round;

	for (round = 0; round < 10; round++)
		use_in_child(_metadata, self->backing, round);
	if (measure(&self->before))
		SKIP(return, "cannot read /proc/zoneinfo and /proc/meminfo");
	for (round = 0; round < 100; round++)
		EXPECT_EQ(round % 2 ? 128 + SIGKILL : 0,
			  use_in_child(_metadata, self->backing, round));
	compare(_metadata, &self->before);
}

/* Check that a leak would be noticed: measure() must see 3 MiB that are in use */
TEST_F_TIMEOUT(leak, measure_sees_pages, SLOW)
{
	struct memory before, after;
	struct exmap ex;

	if (measure(&before))
		SKIP(return, "cannot read /proc/zoneinfo and /proc/meminfo");
	exmap_create(_metadata, &ex, -1, 1, 768, 1024);
	ASSERT_EQ(768, ex_fill(&ex, 0, 0));
	ASSERT_EQ(0, measure(&after));
	EXPECT_LE(2000, after.unaccounted - before.unaccounted);
	exmap_destroy(&ex);
	compare(_metadata, &before);
}

TEST_HARNESS_MAIN
