/* SPDX-License-Identifier: GPL-2.0 */
/* What calls cost that find no page, in a full pool: no more in a large one */
#ifndef EXMAP_TEST_COST_H
#define EXMAP_TEST_COST_H

#include "common.h"

static inline __s64 time_of(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* A kind of calls that try to fill a slot, and fail with -ENOMEM */
struct costly {
	const char *name;
	void (*begin)(struct exmap *ex);	/* called before the first one, or NULL */
	int (*fail)(struct exmap *ex, long slot);
	void (*end)(struct exmap *ex);		/* called after the last one, or NULL */
};

#define MAX_COSTLY	4

struct cost {
	__s64 least, median;	/* CPU time in nanoseconds */
};

static inline int compare_times(const void *a, const void *b)
{
	const __s64 x = *(const __s64 *)a, y = *(const __s64 *)b;

	return (x > y) - (x < y);
}

/* Measure many calls: their minimum and median hardly depend on other load */
static inline struct cost measure_cost(struct __test_metadata *_metadata, struct exmap *ex,
				       const struct costly *kind)
{
	const long slot = ex->pages - 1;
	static __s64 times[501];
	__s64 start;
	int i;

	if (kind->begin)
		kind->begin(ex);
	for (i = 0; i < (int)ARRAY_SIZE(times); i++) {
		start = time_of(CLOCK_THREAD_CPUTIME_ID);
		ASSERT_EQ(-ENOMEM, kind->fail(ex, slot));
		times[i] = time_of(CLOCK_THREAD_CPUTIME_ID) - start;
	}
	if (kind->end)
		kind->end(ex);
	qsort(times, ARRAY_SIZE(times), sizeof(times[0]), compare_times);
	return (struct cost){ times[0], times[ARRAY_SIZE(times) / 2] };
}

/* Size of a pool, and number of its interfaces */
struct pool_size {
	int buffer, ifaces;
};

/* Measure all kinds of calls, on a full pool of which all interfaces have been used */
static inline void measure_costs(struct __test_metadata *_metadata,
				 const struct costly *kinds, int nr, int backing,
				 __u64 flags, struct pool_size size, struct cost *costs)
{
	struct exmap_setup2 setup = { .flags = flags, .fd = backing };
	struct exmap ex;
	int i;

	exmap_create2(_metadata, &ex, setup, size.ifaces, size.buffer, size.buffer + 1024);
	for (i = 0; i < size.ifaces; i++) {
		ASSERT_EQ(1, ex_alloc(&ex, i, 0, 1));
		ASSERT_EQ(1, ex_free(&ex, i, 0, 1));
	}
	ASSERT_EQ(size.buffer, ex_fill(&ex, 0, 0));
	for (i = 0; i < nr; i++)
		costs[i] = measure_cost(_metadata, &ex, &kinds[i]);
	exmap_destroy(&ex);
}

#define COST_FACTOR	3
#define COST_TRIES	5

/*
 * Check that no kind of calls costs much more in the second pool than in the first one.
 * Other load on the host may slow down one of two measurements, but hardly the same one
 * in every try.
 */
static inline void compare_costs(struct __test_metadata *_metadata,
				 const struct costly *kinds, int nr, __u64 flags,
				 struct pool_size first, struct pool_size second)
{
	int backing = memfd_create("backing", MFD_CLOEXEC), try, i = 0;
	struct cost a[MAX_COSTLY], b[MAX_COSTLY];

	ASSERT_GE(MAX_COSTLY, nr);
	ASSERT_LE(0, backing);
	ASSERT_EQ(0, ftruncate(backing, 1L << 32));
	for (try = 0; try < COST_TRIES && i < nr; try++) {
		measure_costs(_metadata, kinds, nr, backing, flags, first, a);
		measure_costs(_metadata, kinds, nr, backing, flags, second, b);
		for (i = 0; i < nr; i++)
			if (COST_FACTOR * a[i].least < b[i].least ||
			    COST_FACTOR * a[i].median < b[i].median)
				break;
	}
	ASSERT_EQ(nr, i)
		TH_LOG("%s: median %lld ns, then %lld ns", kinds[i].name, a[i].median,
		       b[i].median);
	close(backing);
}

#endif
