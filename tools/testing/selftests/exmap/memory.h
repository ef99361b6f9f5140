/* SPDX-License-Identifier: GPL-2.0 */
/* The memory that the system has in use, to find leaks */
#ifndef EXMAP_TEST_MEMORY_H
#define EXMAP_TEST_MEMORY_H

#include "common.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>

/* Memory in use, in KiB */
struct memory {
	long unaccounted;	/* raw pages, vmalloc, kernel stacks */
	long vmalloc;
	long slab;
	long percpu;
	long pagetables;
};

static inline long memory_field(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at ? atol(at + strlen(name)) : 0;
}

static inline long read_text(const char *path, char *text, size_t size)
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
static inline long free_on_cpus(void)
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

static inline int sample_memory(struct memory *m)
{
	static char text[1 << 14];
	long on_cpus;

	/* Reading stat_refresh folds the per-CPU parts into the counters */
	read_text("/proc/sys/vm/stat_refresh", text, sizeof(text));
	on_cpus = free_on_cpus();
	if (on_cpus < 0 || read_text("/proc/meminfo", text, sizeof(text)) < 0)
		return -1;
	m->vmalloc = memory_field(text, "VmallocUsed:");
	m->slab = memory_field(text, "\nSlab:");
	m->percpu = memory_field(text, "\nPercpu:");
	m->pagetables = memory_field(text, "\nPageTables:");
	m->unaccounted = memory_field(text, "MemTotal:") - memory_field(text, "\nMemFree:") -
		on_cpus - memory_field(text, "\nBuffers:") - memory_field(text, "\nCached:") -
		memory_field(text, "\nAnonPages:") - m->slab - m->percpu - m->pagetables;
	return 0;
}

static inline int compare_samples(const void *a, const void *b)
{
	const struct memory *one = a, *two = b;

	return (one->unaccounted > two->unaccounted) - (one->unaccounted < two->unaccounted);
}

/*
 * Take the median of several samples. A single sample may count free pages twice, or
 * not at all, when they move from or to a per-CPU list meanwhile.
 */
static inline int measure_memory(struct memory *m)
{
	struct memory samples[7];
	int i;

	/* Wait for memory that is freed by RCU or by a worker */
	for (i = 0; i < 2; i++) {
		syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
		usleep(100000);
	}
	for (i = 0; i < (int)ARRAY_SIZE(samples); i++) {
		if (sample_memory(&samples[i]))
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
static inline bool kernel_has_kasan(void)
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

static inline void compare_memory(struct __test_metadata *_metadata, struct memory *before)
{
	bool kasan = kernel_has_kasan();
	/* KiB: half a page for each of a hundred processes; KASAN's shadow varies more */
	long pages = kasan ? 3000 : 200;
	struct memory after;
	int i;

	/* The figures fluctuate, but a leak shows in every measurement */
	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, measure_memory(&after));
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

#endif
