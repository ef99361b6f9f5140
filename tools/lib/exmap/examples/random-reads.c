// SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause)
/*
 * Read the pages of a file at random through a buffer of an eighth of it: the smallest
 * buffer manager that there can be. random-reads FILE [SECONDS]
 */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "libexmap.h"

#define QUERY	64	/* pages that are needed at the same time */

static struct exm_pool *pool;
static struct exm_region *region;
static struct exm_thread *thread;
static uint64_t slots, room;
static uint64_t *queue;		/* the pages in memory; what comes in replaces the oldest */
static uint64_t oldest, used;
static uint64_t *needed;	/* for each page, the last query that needed it */
static uint8_t *here;		/* for each page, whether it is in memory */

static void check(int ret, const char *what)
{
	if (ret < 0)
		errx(1, "%s: %s", what, exm_message());
	if (ret > 0)
		errx(1, "%s: %d pages could not be read", what, ret);
}

/* Find a place in the queue, and evict the page that is there, unless it is needed now */
static uint64_t *evict(uint64_t query, struct exm_vec *vecs, unsigned int *nr)
{
	uint64_t *place;

	if (used < room)
		return &queue[used++];
	do {
		place = &queue[oldest++ % room];
	} while (needed[*place] == query);
	here[*place] = 0;
	vecs[(*nr)++] = (struct exm_vec) { .page = *place, .len = 1, .opcode = EXM_FREE };
	return place;
}

/* Bring in the pages of a query that are not in memory. Returns how many they were. */
static unsigned int bring_in(uint64_t query, const uint64_t *pages)
{
	struct exm_vec vecs[2 * QUERY], *reads;
	struct exm_result results[2 * QUERY];
	unsigned int nr = 0, misses = 0;
	uint64_t missing[QUERY];

	for (unsigned int i = 0; i < QUERY; i++)
		needed[pages[i]] = query;
	for (unsigned int i = 0; i < QUERY; i++) {
		if (here[pages[i]])
			continue;
		*evict(query, vecs, &nr) = pages[i];
		here[pages[i]] = 1;
		missing[misses++] = pages[i];
	}
	/* First what makes room, then what needs it, all in one call */
	reads = vecs + nr;
	for (unsigned int i = 0; i < misses; i++)
		reads[i] = (struct exm_vec) { .page = missing[i], .len = 1, .opcode = EXM_READ };
	nr += misses;
	for (unsigned int i = 0; i < nr; i++)
		vecs[i].region = exm_region_number(region);
	check(exm_call(thread, vecs, results, nr), "reading");
	return misses;
}

int main(int argc, char **argv)
{
	const time_t end = time(NULL) + (argc > 2 ? atoi(argv[2]) : 3);
	struct exm_pool_options options = { .threads = 1 };
	struct exm_region_options region_options = {};
	unsigned long long query, misses = 0, sum = 0;
	const unsigned char *start;
	uint64_t pages[QUERY];
	struct stat file;

	if (argc < 2)
		errx(1, "usage: %s FILE [SECONDS]", argv[0]);
	region_options.fd = open(argv[1], O_RDONLY);
	if (region_options.fd < 0 || fstat(region_options.fd, &file))
		err(1, "%s", argv[1]);
	slots = file.st_size / EXM_PAGE_SIZE;
	room = slots / 8;
	if (room < 2 * QUERY)
		errx(1, "%s is smaller than 4 MiB", argv[1]);

	options.memory = room * EXM_PAGE_SIZE;
	region_options.length = slots * EXM_PAGE_SIZE;
	check(exm_pool_create(&pool, &options), "pool");
	check(exm_region_create(&region, pool, &region_options), "region");
	check(exm_thread_create(&thread, pool), "thread");
	start = exm_region_start(region);
	queue = calloc(room, sizeof(*queue));
	needed = calloc(slots, sizeof(*needed));
	here = calloc(slots, 1);
	if (!queue || !needed || !here)
		errx(1, "no memory");

	for (query = 1; time(NULL) < end; query++) {
		for (unsigned int i = 0; i < QUERY; i++)
			pages[i] = ((uint64_t)rand() << 31 | rand()) % slots;
		misses += bring_in(query, pages);
		for (unsigned int i = 0; i < QUERY; i++)
			sum += start[pages[i] * EXM_PAGE_SIZE];
	}
	printf("%s: %llu accesses, %llu pages read, sum %llu\n",
	       exm_pool_backend(pool) == EXM_BACKEND_EXMAP ? "exmap" : "stock kernel",
	       (query - 1) * QUERY, misses, sum);
	exm_thread_destroy(thread);
	exm_pool_destroy(pool);
	return 0;
}
