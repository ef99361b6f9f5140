// SPDX-License-Identifier: GPL-2.0
/*
 * What libexmap adds to the calls that it makes: pages are brought in and evicted by
 * EXMAP_IOCTL_VECTORS, by exm_call(), and by exm_alloc() and exm_free(). On a machine
 * whose clock counts instructions, the nanoseconds are instructions.
 */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/exmap.h>

#include "libexmap.h"

#define SLOTS		262144UL
#define POOL		4096
#define MAX_BATCH	512
#define PAGES		32768UL	/* brought in and evicted by each method */

struct bench {
	int fd;				/* of the region that is used without the library */
	struct exm_pool *pool;
	struct exm_region *region;
	struct exm_thread *thread;
	unsigned int batch;
	uint64_t pages[MAX_BATCH];
	struct exm_vec vecs[MAX_BATCH];
	struct exm_result results[MAX_BATCH];
};

static void must_work(const char *what, int ret)
{
	if (ret)
		errx(1, "%s: %d of a batch have failed (%s)", what, ret, exm_message());
}

static void make_vecs(struct bench *b, unsigned int region, enum exm_opcode opcode)
{
	for (unsigned int i = 0; i < b->batch; i++)
		b->vecs[i] = (struct exm_vec) {
			.page = b->pages[i], .len = 1, .region = region, .opcode = opcode,
		};
}

static void by_ioctl(struct bench *b, enum exm_opcode opcode)
{
	struct exmap_vectors params = {
		.size = sizeof(params), .nr = b->batch,
		.vecs = (unsigned long)b->vecs, .results = (unsigned long)b->results,
		.vec_size = sizeof(struct exmap_vec),
		.result_size = sizeof(struct exmap_result),
	};

	make_vecs(b, 0, opcode);
	must_work("ioctl", ioctl(b->fd, EXMAP_IOCTL_VECTORS, &params));
}

static void by_call(struct bench *b, enum exm_opcode opcode)
{
	make_vecs(b, exm_region_number(b->region), opcode);
	must_work("exm_call", exm_call(b->thread, b->vecs, b->results, b->batch));
}

static void by_list(struct bench *b, enum exm_opcode opcode)
{
	if (opcode == EXM_ALLOC)
		must_work("exm_alloc", exm_alloc(b->thread, b->region, b->pages, b->batch, NULL));
	else
		must_work("exm_free", exm_free(b->thread, b->region, b->pages, b->batch, NULL));
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

/* Returns nanoseconds for a page that is brought in and evicted */
static double measure(struct bench *b, void (*method)(struct bench *b, enum exm_opcode opcode))
{
	double start = 0;

	/* The first half makes page tables, and fills the pool and the caches */
	for (int half = 0; half < 2; half++) {
		uint64_t random = 1;

		start = now();
		for (unsigned long done = 0; done < PAGES; done += b->batch) {
			for (unsigned int i = 0; i < b->batch; i++) {
				random = random * 6364136223846793005ULL + 1442695040888963407ULL;
				b->pages[i] = random >> 46;
			}
			method(b, EXM_ALLOC);
			method(b, EXM_FREE);
		}
	}
	return (now() - start) / PAGES;
}

int main(void)
{
	const struct exm_pool_options options = {
		.memory = POOL * EXM_PAGE_SIZE, .threads = 1, .backend = EXM_BACKEND_EXMAP,
	};
	const struct exm_region_options region = { .length = SLOTS * EXM_PAGE_SIZE, .fd = -1 };
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .max_interfaces = 1, .buffer_size = POOL, .fd = -1,
	};
	static const unsigned int batches[] = { 1, 64, 512 };
	static struct bench b;

	b.fd = open("/dev/exmap", O_RDWR);
	if (b.fd < 0 || ioctl(b.fd, EXMAP_IOCTL_SETUP2, &setup) ||
	    mmap(NULL, SLOTS * EXM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, b.fd,
		 EXMAP_OFF_EXMAP) == MAP_FAILED)
		err(1, "/dev/exmap");
	if (exm_pool_create(&b.pool, &options) || exm_region_create(&b.region, b.pool, &region) ||
	    exm_thread_create(&b.thread, b.pool))
		errx(1, "%s", exm_message());
	printf("batch,ioctl,exm_call,lists\n");
	for (unsigned int i = 0; i < sizeof(batches) / sizeof(*batches); i++) {
		b.batch = batches[i];
		printf("%u,%.1f", b.batch, measure(&b, by_ioctl));
		printf(",%.1f", measure(&b, by_call));
		printf(",%.1f\n", measure(&b, by_list));
	}
	return 0;
}
