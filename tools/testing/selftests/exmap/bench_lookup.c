// SPDX-License-Identifier: GPL-2.0
/*
 * Benchmark: the cost of finding a resident page, the most frequent operation of a buffer
 * manager. Three ways are compared: a fixed address for each page, as with an exmap; an
 * array with the address of each page, over a pool of huge pages; and a hash table, over
 * such a pool as well. No system call is measured. Anonymous memory therefore stands for
 * the region, and the benchmark needs no exmap device.
 *
 * Each lookup depends on the value that the previous lookup read, as in a walk down a
 * tree.
 */
#include "bench.h"

#include <getopt.h>
#include <stdbool.h>
#include <sys/mman.h>

static struct {
	unsigned long pages;	/* size of the database */
	unsigned long resident;
	unsigned long lookups;
	bool csv;
} opt = {
	.pages = 1UL << 20,
	.resident = 1UL << 16,
	.lookups = 1UL << 20,
};

/* Page numbers of the resident pages, in random order */
static __u64 *resident;

static char *map(unsigned long pages, int advice)
{
	char *p = mmap(NULL, pages * PG, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		die("no memory for %lu pages", pages);
	/* EINVAL: the kernel has no transparent huge pages */
	if (madvise(p, pages * PG, advice) && errno != EINVAL)
		die("madvise: %s", strerror(errno));
	return p;
}

/* ----------------------------------------------------------- fixed address */

static char *region;

static void fixed_prepare(void)
{
	unsigned long i;

	region = map(opt.pages, MADV_NOHUGEPAGE);
	for (i = 0; i < opt.resident; i++)
		region[resident[i] * PG] = 0;
}

static __always_inline char *fixed_find(__u64 page)
{
	return region + page * PG;
}

/* ------------------------------------------------------- array of addresses */

static char **frame_of;

static void array_prepare(void)
{
	char *frames = map(opt.resident, MADV_HUGEPAGE);
	unsigned long i;

	frame_of = allocate(opt.pages, sizeof(*frame_of));
	for (i = 0; i < opt.resident; i++) {
		frame_of[resident[i]] = frames + i * PG;
		frames[i * PG] = 0;
	}
}

static __always_inline char *array_find(__u64 page)
{
	return frame_of[page];
}

/* -------------------------------------------------------------- hash table */

/* A hash table with linear probing that is at most half full */
static struct bucket {
	__u64 page;	/* page number plus 1, or 0 in an empty bucket */
	char *frame;
} *buckets;

static unsigned int hash_shift;

static __always_inline unsigned long hash(__u64 page)
{
	return page * 0x9e3779b97f4a7c15ULL >> hash_shift;
}

static void hash_prepare(void)
{
	char *frames = map(opt.resident, MADV_HUGEPAGE);
	unsigned long i, b, size = 2;

	for (hash_shift = 63; size < 2 * opt.resident; hash_shift--)
		size *= 2;
	buckets = allocate(size, sizeof(*buckets));
	for (i = 0; i < opt.resident; i++) {
		for (b = hash(resident[i]); buckets[b].page; b = (b + 1) & (size - 1))
			;
		buckets[b].page = resident[i] + 1;
		buckets[b].frame = frames + i * PG;
		frames[i * PG] = 0;
	}
}

static __always_inline char *hash_find(__u64 page)
{
	const unsigned long mask = (1UL << (64 - hash_shift)) - 1;
	unsigned long b;

	for (b = hash(page); buckets[b].page != page + 1; b = (b + 1) & mask)
		if (!buckets[b].page)
			return NULL;
	return buckets[b].frame;
}

/* ------------------------------------------------------------- measurement */

/* Baseline: the loop without a lookup */
static __always_inline char *no_find(__u64 page)
{
	static __u64 zero;

	(void)page;
	return (char *)&zero;
}

static __always_inline __u64 lookups(char *(*find)(__u64 page))
{
	const unsigned long mask = opt.resident - 1;
	__u64 random = 0x9e3779b97f4a7c15ULL, value = 0;
	unsigned long n;
	char *frame;

	for (n = opt.lookups; n; n--) {
		frame = find(resident[(next_random(&random) + value) & mask]);
		if (!frame)
			die("a resident page was not found");
		value = __atomic_load_n((__u64 *)frame, __ATOMIC_RELAXED);
	}
	return value;
}

static __u64 no_lookups(void)
{
	return lookups(no_find);
}

static __u64 fixed_lookups(void)
{
	return lookups(fixed_find);
}

static __u64 array_lookups(void)
{
	return lookups(array_find);
}

static __u64 hash_lookups(void)
{
	return lookups(hash_find);
}

static void nothing(void)
{
}

static const struct {
	const char *name;
	void (*prepare)(void);
	__u64 (*lookups)(void);
} ways[] = {
	{ "nothing", nothing, no_lookups },
	{ "fixed address", fixed_prepare, fixed_lookups },
	{ "array", array_prepare, array_lookups },
	{ "hash table", hash_prepare, hash_lookups },
};

/* Choose the resident pages at random; they come first in the array */
static void choose(void)
{
	__u64 random = 88172645463325252ULL;
	unsigned long i, k;
	__u64 *all = allocate(opt.pages, sizeof(*all));

	for (i = 0; i < opt.pages; i++)
		all[i] = i;
	for (i = 0; i < opt.resident; i++) {
		__u64 page;

		k = i + next_random(&random) % (opt.pages - i);
		page = all[k];
		all[k] = all[i];
		all[i] = page;
	}
	resident = all;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "pages", required_argument, NULL, 'p' },
		{ "resident", required_argument, NULL, 'r' },
		{ "lookups", required_argument, NULL, 'l' },
		{ "csv", no_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{}
	};
	__u64 best, ns, base = 0;
	unsigned int i, round;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'p':
			opt.pages = parse_number(optarg, 2, 1UL << 36);
			break;
		case 'r':
			opt.resident = parse_number(optarg, 2, 1UL << 30);
			break;
		case 'l':
			opt.lookups = parse_number(optarg, 1, 1UL << 40);
			break;
		case 'c':
			opt.csv = true;
			break;
		default:
			printf("usage: bench_lookup [--pages N] [--resident N, a power of 2]\n"
			       "       [--lookups N] [--csv]\n");
			return option == 'h' ? 0 : 2;
		}
	}
	if (opt.resident > opt.pages || opt.resident & (opt.resident - 1))
		die("--resident must be a power of 2, and not more than --pages");
	choose();
	pin(sched_getcpu());
	if (opt.csv)
		printf("what,pages,resident,lookups,ns\n");
	else
		printf("%lu of %lu pages are resident, %lu lookups\n%-16s %10s %10s\n",
		       opt.resident, opt.pages, opt.lookups, "", "ns", "- nothing");
	for (i = 0; i < ARRAY_SIZE(ways); i++) {
		ways[i].prepare();
		best = ~0ULL;
		/* Take the best of several rounds; the first one warms up the caches */
		for (round = 0; round < 4; round++) {
			ns = now();
			trace_start();
			ways[i].lookups();
			trace_stop();
			ns = now() - ns;
			if (ns < best)
				best = ns;
		}
		trace_write();
		if (!i)
			base = best;
		if (opt.csv)
			printf("%s,%lu,%lu,%lu,%llu\n", ways[i].name, opt.pages, opt.resident,
			       opt.lookups, best);
		else
			printf("%-16s %10.2f %10.2f\n", ways[i].name, (double)best / opt.lookups,
			       (double)(long long)(best - base) / opt.lookups);
	}
	return 0;
}
