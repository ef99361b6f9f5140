// SPDX-License-Identifier: GPL-2.0
/*
 * libexmap, with exmap and on a stock kernel. Needs neither root nor exmap, without which
 * the tests of that backend are skipped.
 */
#include "backing.h"
#include "nodes.h"
#include "libexmap.h"

#define SLOTS	256U
#define PAGES	64U

/* Of each of the threads that meet */
#define ROUNDS	500

static void touch(const char *addr)
{
	__atomic_load_n(addr, __ATOMIC_SEQ_CST);
}

/* Whether an access at addr raises SIGSEGV */
static bool faults(const char *addr)
{
	struct exm_reader reader;
	bool restarted = exm_reader_begin(&reader);

	if (!restarted)
		touch(addr);
	exm_reader_end(&reader);
	return restarted;
}

/* Fill a file with pages of a letter each. Returns the file, or -1. */
static int fill_with_letters(int fd, unsigned int pages)
{
	char page[PG];

	for (unsigned int i = 0; fd >= 0 && i < pages; i++) {
		memset(page, 'a' + i % 26, sizeof(page));
		if (pwrite(fd, page, PG, i * PG) != PG) {
			close(fd);
			return -1;
		}
	}
	return fd;
}

FIXTURE(lib) {
	struct exm_pool *pool;
	struct exm_region *region;
	struct exm_thread *thread;
	char *start;
	int fd;
};

FIXTURE_VARIANT(lib) {
	enum exm_backend backend;
	uint64_t flags;
	unsigned int features;
};

FIXTURE_VARIANT_ADD(lib, exmap) {
	.backend = EXM_BACKEND_EXMAP,
	.features = EXM_FEATURE_FAULTS | EXM_FEATURE_DIRTY | EXM_FEATURE_WHOLE_READS,
};

FIXTURE_VARIANT_ADD(lib, deferred) {
	.backend = EXM_BACKEND_EXMAP,
	.flags = EXM_POOL_DEFERRED,
	.features = EXM_FEATURE_FAULTS | EXM_FEATURE_DIRTY | EXM_FEATURE_WHOLE_READS,
};

FIXTURE_VARIANT_ADD(lib, stock) {
	.backend = EXM_BACKEND_STOCK,
	.features = EXM_FEATURE_FAULTS,
};

FIXTURE_VARIANT_ADD(lib, no_faults) {
	.backend = EXM_BACKEND_STOCK,
	.flags = EXM_POOL_NO_FAULTS,
};

FIXTURE_SETUP(lib)
{
	const struct exm_pool_options options = {
		.memory = PAGES * PG,
		.threads = 2,
		.backend = variant->backend,
		.flags = variant->flags,
	};
	struct exm_region_options region = { .length = SLOTS * PG };

	self->fd = -1;
	if (variant->backend == EXM_BACKEND_EXMAP && access("/dev/exmap", R_OK | W_OK))
		SKIP(return, "no /dev/exmap");
	ASSERT_EQ(0, exm_reader_install());
	ASSERT_EQ(0, exm_pool_create(&self->pool, &options)) {
		TH_LOG("%s", exm_message());
	}
	/* The file ends in the middle of the region */
	self->fd = fill_with_letters(open_file(), SLOTS / 2);
	ASSERT_LE(0, self->fd);
	region.fd = self->fd;
	ASSERT_EQ(0, exm_region_create(&self->region, self->pool, &region)) {
		TH_LOG("%s", exm_message());
	}
	self->start = exm_region_start(self->region);
	ASSERT_EQ(0, exm_thread_create(&self->thread, self->pool));
}

FIXTURE_TEARDOWN(lib)
{
	exm_thread_destroy(self->thread);
	exm_pool_destroy(self->pool);
	if (self->fd >= 0)
		close(self->fd);
}

/* How many of the first nr slots are resident */
static unsigned int resident(struct exm_region *region, unsigned int nr)
{
	uint8_t slots[SLOTS];
	unsigned int sum = 0;

	if (exm_region_query(region, 0, nr, slots))
		return ~0U;
	for (unsigned int i = 0; i < nr; i++)
		sum += slots[i] & EXM_SLOT_RESIDENT;
	return sum;
}

/* Regions of the same pool, with the page sizes of databases */
TEST_F(lib, slots_of_any_size)
{
	static const size_t sizes[] = { 8192, 16384, 65536 };
	const bool raises = exm_pool_features(self->pool) & EXM_FEATURE_FAULTS;

	for (unsigned int i = 0; i < 3; i++) {
		const size_t size = sizes[i], all = PAGES * PG / size;
		struct exm_region_options options = {
			.fd = self->fd, .length = 64 * size, .slot_size = size,
		};
		uint64_t pages[2] = { 1, 3 };
		struct exm_region *region;
		struct exm_result result;
		struct exm_vec vec = { .opcode = EXM_ALLOC, .page = 8, .len = all };
		int results[2];
		char *start, c;

		ASSERT_EQ(0, exm_region_create(&region, self->pool, &options)) {
			TH_LOG("%s", exm_message());
		}
		start = exm_region_start(region);
		vec.region = exm_region_number(region);
		EXPECT_EQ(0, (uintptr_t)start % size);
		EXPECT_EQ(64, exm_region_slots(region));
		EXPECT_EQ(size, exm_region_slot_size(region));

		ASSERT_EQ(0, exm_read(self->thread, region, pages, 2, results));
		for (size_t at = 0; at < size; at += PG) {
			EXPECT_EQ('a' + (int)((size + at) / PG % 26), start[size + at]);
			EXPECT_EQ('a' + (int)((3 * size + at) / PG % 26), start[3 * size + at]);
		}
		if (raises)
			EXPECT_TRUE(faults(start + 2 * size + size / 2));
		/* A page that nobody reads for the first region */
		memset(start + size, 'X', size);
		EXPECT_EQ(0, exm_write(self->thread, region, pages, 1, results));
		EXPECT_EQ(1, pread(self->fd, &c, 1, 2 * size - 1));
		EXPECT_EQ('X', c);

		/* Two slots of the budget are in use */
		EXPECT_EQ(1, exm_call(self->thread, &vec, &result, 1));
		EXPECT_EQ(-ENOMEM, result.res);
		EXPECT_EQ(all - 2, result.pages);
		memset(start + 8 * size, 'Y', (all - 2) * size);
		EXPECT_EQ(0, exm_free(self->thread, region, pages, 2, results));
		if (raises)
			EXPECT_TRUE(faults(start + 2 * size - 1));
		vec.opcode = EXM_FREE;
		EXPECT_EQ(0, exm_call(self->thread, &vec, &result, 1));
		EXPECT_EQ(all - 2, result.pages);

		/* What was free in that size can be had in another one */
		vec = (struct exm_vec) {
			.opcode = EXM_ALLOC, .len = PAGES,
			.region = exm_region_number(self->region),
		};
		EXPECT_EQ(0, exm_call(self->thread, &vec, &result, 1));
		EXPECT_EQ(PAGES, result.pages);
		vec.opcode = EXM_FREE;
		EXPECT_EQ(0, exm_call(self->thread, &vec, &result, 1));

		/* The next size writes to the same file */
		ASSERT_LE(0, fill_with_letters(self->fd, SLOTS / 2));
		exm_region_destroy(region);
	}
}

TEST_F(lib, slot_sizes_that_do_not_exist)
{
	static const uint64_t sizes[] = { 1, 2048, 12288, 4 << 20, 1ULL << 63 };
	struct exm_region_options options = { .fd = -1, .length = 4 << 20 };
	struct exm_region *region;

	for (unsigned int i = 0; i < 5; i++) {
		options.slot_size = sizes[i];
		EXPECT_EQ(-EINVAL, exm_region_create(&region, self->pool, &options));
		EXPECT_NE(NULL, strstr(exm_message(), "power of two"));
	}
	options.slot_size = 16384;
	options.length = 5 * 4096;
	EXPECT_EQ(-EINVAL, exm_region_create(&region, self->pool, &options));
}

TEST_F(lib, a_pool_says_what_it_can_do)
{
	unsigned int features = exm_pool_features(self->pool);

	EXPECT_EQ(variant->backend, exm_pool_backend(self->pool));
	/* Guard markers are of Linux 6.13 */
	if (variant->backend == EXM_BACKEND_STOCK && !features)
		features = variant->features;
	EXPECT_EQ(variant->features, features);
	EXPECT_EQ(SLOTS, exm_region_slots(self->region));
}

TEST_F(lib, pages_come_and_go)
{
	const uint64_t pages[] = { 3, 200, 4, 5 };
	int results[4];

	ASSERT_EQ(0, exm_alloc(self->thread, self->region, pages, 4, results));
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(0, results[i]);
		memset(self->start + pages[i] * PG, 'x', PG);
	}
	EXPECT_EQ(4, resident(self->region, SLOTS));
	/* What is there stays */
	ASSERT_EQ(0, exm_alloc(self->thread, self->region, pages, 4, NULL));
	EXPECT_EQ('x', self->start[200 * PG + 17]);

	ASSERT_EQ(0, exm_free(self->thread, self->region, pages, 2, results));
	EXPECT_EQ(2, resident(self->region, SLOTS));
	EXPECT_EQ('x', self->start[4 * PG]);
	/* Slots that are empty stay so */
	ASSERT_EQ(0, exm_free(self->thread, self->region, pages, 4, NULL));
	EXPECT_EQ(0, resident(self->region, SLOTS));
}

TEST_F(lib, an_empty_slot_faults)
{
	const uint64_t pages[] = { 7, 9 };

	if (!(exm_pool_features(self->pool) & EXM_FEATURE_FAULTS))
		SKIP(return, "not with this backend");
	EXPECT_TRUE(faults(self->start + 8 * PG));
	ASSERT_EQ(0, exm_alloc(self->thread, self->region, pages, 2, NULL));
	EXPECT_FALSE(faults(self->start + 7 * PG));
	EXPECT_TRUE(faults(self->start + 8 * PG));
	EXPECT_FALSE(faults(self->start + 9 * PG));
	ASSERT_EQ(0, exm_free(self->thread, self->region, pages, 2, NULL));
	/* If flushes are deferred, the old page can be seen until there is one */
	ASSERT_EQ(0, exm_region_flush(self->region));
	EXPECT_TRUE(faults(self->start + 7 * PG));
}

/* A pool whose empty slots may be touched; what they hold then is replaced by a READ */
TEST_F(lib, an_empty_slot_may_be_touched)
{
	struct exm_pool_options options = {
		.memory = PAGES * PG, .backend = variant->backend, .flags = EXM_POOL_TOUCH,
	};
	struct exm_region_options region_options = { .length = SLOTS * PG, .fd = self->fd };
	struct exm_vec read = { .len = 3, .opcode = EXM_READ, .flags = EXM_REPLACE };
	struct exm_region *region;
	struct exm_thread *thread;
	struct exm_result result;
	struct exm_pool *pool;
	const char *start;

	ASSERT_EQ(0, exm_pool_create(&pool, &options));
	EXPECT_EQ(0, exm_pool_features(pool) & EXM_FEATURE_FAULTS);
	ASSERT_EQ(0, exm_region_create(&region, pool, &region_options));
	ASSERT_EQ(0, exm_thread_create(&thread, pool));
	start = exm_region_start(region);
	read.region = exm_region_number(region);
	for (unsigned int i = 0; i < 10; i++)
		EXPECT_FALSE(faults(start + i * PG));
	ASSERT_EQ(0, exm_call(thread, &read, &result, 1));
	EXPECT_EQ(3, result.pages);
	EXPECT_EQ('c', start[2 * PG]);
	exm_thread_destroy(thread);
	exm_pool_destroy(pool);

	options.flags |= EXM_POOL_DEFERRED;
	EXPECT_EQ(-EINVAL, exm_pool_create(&pool, &options));
}

TEST_F(lib, the_memory_is_limited)
{
	uint64_t pages[PAGES + 1];
	int results[PAGES + 1];
	struct exm_stats stats;

	for (unsigned int i = 0; i <= PAGES; i++)
		pages[i] = 3 * i;
	ASSERT_EQ(1, exm_alloc(self->thread, self->region, pages, PAGES + 1, results));
	for (unsigned int i = 0; i < PAGES; i++)
		ASSERT_EQ(0, results[i]);
	EXPECT_EQ(-ENOMEM, results[PAGES]);
	ASSERT_EQ(0, exm_pool_stats(self->pool, &stats));
	EXPECT_EQ(PAGES * PG, stats.memory);
	EXPECT_EQ(PAGES * PG, stats.used);
	EXPECT_EQ(1, stats.regions);

	ASSERT_EQ(0, exm_free(self->thread, self->region, pages, 1, NULL));
	ASSERT_EQ(0, exm_alloc(self->thread, self->region, &pages[PAGES], 1, NULL));
	EXPECT_EQ(PAGES, resident(self->region, SLOTS));
}

TEST_F(lib, one_call_evicts_and_brings_in)
{
	const unsigned int number = exm_region_number(self->region);
	struct exm_vec vecs[3] = {
		{ .page = 0, .len = PAGES, .region = number, .opcode = EXM_ALLOC },
	};
	struct exm_result results[3];

	ASSERT_EQ(0, exm_call(self->thread, vecs, results, 1));
	EXPECT_EQ(PAGES, results[0].pages);

	/* The pool is full: only in this order is there room */
	vecs[0] = (struct exm_vec) { .page = 10, .len = 20, .region = number,
				     .opcode = EXM_FREE };
	vecs[1] = (struct exm_vec) { .page = 100, .len = 12, .region = number,
				     .opcode = EXM_ALLOC };
	vecs[2] = (struct exm_vec) { .page = 112, .len = 8, .region = number,
				     .opcode = EXM_READ };
	ASSERT_EQ(0, exm_call(self->thread, vecs, results, 3));
	EXPECT_EQ(20, results[0].pages);
	EXPECT_EQ(12, results[1].pages);
	EXPECT_EQ(8, results[2].pages);
	EXPECT_EQ('a' + 115 % 26, self->start[115 * PG + 1]);
	EXPECT_EQ(PAGES, resident(self->region, SLOTS));
}

TEST_F(lib, more_vectors_than_the_kernel_takes)
{
	const unsigned int nr = 10000;
	struct exm_vec *vecs = calloc(nr, sizeof(*vecs));
	struct exm_result *results = calloc(nr, sizeof(*results));

	for (unsigned int i = 0; i < nr; i++)
		vecs[i] = (struct exm_vec) {
			.page = i / 2 % SLOTS, .len = 1,
			.region = exm_region_number(self->region),
			.opcode = i % 2 ? EXM_FREE : EXM_ALLOC,
		};
	ASSERT_EQ(0, exm_call(self->thread, vecs, results, nr));
	for (unsigned int i = 0; i < nr; i++)
		ASSERT_EQ(1, results[i].pages);
	EXPECT_EQ(0, exm_call(self->thread, vecs, results, 0));
	free(vecs);
	free(results);
}

TEST_F(lib, pages_are_read_and_written)
{
	const uint64_t pages[] = { 1, 30, 31, 2 };
	char page[PG];

	ASSERT_EQ(0, exm_read(self->thread, self->region, pages, 4, NULL)) {
		TH_LOG("%s", exm_message());
	}
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ('a' + (int)pages[i] % 26, self->start[pages[i] * PG]);
		EXPECT_EQ('a' + (int)pages[i] % 26, self->start[pages[i] * PG + PG - 1]);
		memset(self->start + pages[i] * PG, 'A' + i, PG);
	}
	/* READ leaves alone what is there */
	ASSERT_EQ(0, exm_read(self->thread, self->region, pages, 4, NULL));
	EXPECT_EQ('B', self->start[30 * PG]);

	ASSERT_EQ(0, exm_write(self->thread, self->region, pages, 3, NULL));
	for (int i = 0; i < 4; i++) {
		ASSERT_EQ(PG, pread(self->fd, page, PG, pages[i] * PG));
		EXPECT_EQ(i < 3 ? 'A' + i : 'a' + 2, page[PG / 2]);
	}
}

TEST_F(lib, a_page_is_read_again_on_request)
{
	const struct exm_vec vec = {
		.page = 5, .len = 3, .region = exm_region_number(self->region),
		.opcode = EXM_READ, .flags = EXM_REPLACE,
	};
	const uint64_t page = 6;
	struct exm_result result;

	ASSERT_EQ(0, exm_alloc(self->thread, self->region, &page, 1, NULL));
	memset(self->start + 6 * PG, 'z', PG);
	ASSERT_EQ(0, exm_call(self->thread, &vec, &result, 1));
	EXPECT_EQ(3, result.pages);
	EXPECT_EQ('a' + 6, self->start[6 * PG]);
}

TEST_F(lib, the_end_of_the_file)
{
	struct exm_vec vec = {
		.page = SLOTS / 2 - 2, .len = 4, .opcode = EXM_READ,
		.region = exm_region_number(self->region),
	};
	struct exm_result result;
	struct exm_stats stats;

	ASSERT_EQ(1, exm_call(self->thread, &vec, &result, 1));
	EXPECT_EQ(-ENODATA, result.res);
	EXPECT_EQ(2, result.pages);
	EXPECT_EQ(2, resident(self->region, SLOTS));
	/* The slots that could not be read are as they were */
	ASSERT_EQ(0, exm_pool_stats(self->pool, &stats));
	if (variant->backend == EXM_BACKEND_STOCK)
		EXPECT_EQ(2 * PG, stats.used);
	if (exm_pool_features(self->pool) & EXM_FEATURE_FAULTS)
		EXPECT_TRUE(faults(self->start + (SLOTS / 2) * PG));

	vec.flags = EXM_ZERO;
	ASSERT_EQ(0, exm_call(self->thread, &vec, &result, 1));
	EXPECT_EQ(2, result.pages);
	EXPECT_EQ(0, self->start[(SLOTS / 2) * PG]);
	EXPECT_EQ(4, resident(self->region, SLOTS));
}

/* A direct read ends inside a sector, from where direct I/O cannot go on */
TEST_F(lib, the_end_of_a_file_that_is_read_directly)
{
	struct exm_region_options options = { .length = 4 * PG };
	struct exm_vec vec = { .len = 2, .opcode = EXM_READ, .flags = EXM_ZERO };
	struct exm_region *region;
	struct exm_result result;
	char name[64], *start;
	int fd = open_xfs_file();

	fd = fill_with_letters(fd < 0 ? open_file() : fd, 2);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, PG + 100));
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	options.fd = open(name, O_RDONLY | O_DIRECT);
	close(fd);
	if (options.fd < 0)
		SKIP(return, "no O_DIRECT");
	ASSERT_EQ(0, exm_region_create(&region, self->pool, &options));
	close(options.fd);
	start = exm_region_start(region);
	vec.region = exm_region_number(region);
	ASSERT_EQ(0, exm_call(self->thread, &vec, &result, 1)) {
		TH_LOG("%d", result.res);
	}
	EXPECT_EQ('b', start[PG + 99]);
	EXPECT_EQ(0, start[PG + 100]);
	vec.page = 1;
	vec.len = 1;
	vec.flags = EXM_REPLACE;
	ASSERT_EQ(1, exm_call(self->thread, &vec, &result, 1));
	EXPECT_EQ(-ENODATA, result.res);
}

TEST_F(lib, an_empty_slot_cannot_be_written)
{
	const uint64_t pages[] = { 8, 9 };
	int results[2];

	ASSERT_EQ(0, exm_alloc(self->thread, self->region, pages, 1, NULL));
	ASSERT_EQ(1, exm_write(self->thread, self->region, pages, 2, results));
	EXPECT_EQ(0, results[0]);
	EXPECT_EQ(-EFAULT, results[1]);
}

TEST_F(lib, all_or_nothing)
{
	struct exm_vec vec = {
		.page = 0, .len = PAGES + 1, .opcode = EXM_ALLOC,
		.flags = EXM_ALL_OR_NOTHING, .region = exm_region_number(self->region),
	};
	const uint64_t page = 5;
	struct exm_result result;

	ASSERT_EQ(0, exm_alloc(self->thread, self->region, &page, 1, NULL));
	ASSERT_EQ(1, exm_call(self->thread, &vec, &result, 1));
	EXPECT_EQ(-ENOMEM, result.res);
	EXPECT_EQ(0, result.pages);
	EXPECT_EQ(1, resident(self->region, SLOTS));
	vec.len = PAGES;
	ASSERT_EQ(0, exm_call(self->thread, &vec, &result, 1));
	EXPECT_EQ(PAGES - 1, result.pages);
}

TEST_F(lib, two_regions_share_the_memory)
{
	struct exm_region_options options = { .length = PAGES * PG, .fd = -1 };
	const unsigned int first = exm_region_number(self->region);
	struct exm_region *other;
	struct exm_result results[3];
	struct exm_vec vecs[3];

	ASSERT_EQ(0, exm_region_create(&other, self->pool, &options));
	ASSERT_NE(first, exm_region_number(other));
	vecs[0] = (struct exm_vec) { .len = PAGES, .region = first, .opcode = EXM_ALLOC };
	ASSERT_EQ(0, exm_call(self->thread, vecs, results, 1));

	vecs[0] = (struct exm_vec) { .page = 2, .len = 1, .region = first,
				     .opcode = EXM_FREE };
	vecs[1] = (struct exm_vec) { .page = 5, .len = 2, .opcode = EXM_ALLOC,
				     .region = exm_region_number(other) };
	vecs[2] = (struct exm_vec) { .page = 0, .len = 1, .opcode = EXM_READ,
				     .region = exm_region_number(other) };
	ASSERT_EQ(2, exm_call(self->thread, vecs, results, 3));
	EXPECT_EQ(1, results[0].pages);
	EXPECT_EQ(-ENOMEM, results[1].res);
	EXPECT_EQ(1, results[1].pages);
	EXPECT_EQ(-ENODEV, results[2].res);

	/* The pages of a region that goes away are free */
	exm_region_destroy(other);
	vecs[0] = (struct exm_vec) { .page = 200, .len = 1, .region = first,
				     .opcode = EXM_ALLOC };
	EXPECT_EQ(0, exm_call(self->thread, vecs, results, 1));
}

TEST_F(lib, vectors_are_checked)
{
	const unsigned int number = exm_region_number(self->region);
	const struct exm_vec good = { .page = 3, .len = 1, .region = number,
				      .opcode = EXM_ALLOC };
	struct { struct exm_vec vec; int res; } bad[] = {
		{ { .page = 3, .len = 1, .region = number, .opcode = EXM_MOVE + 1 }, -EINVAL },
		{ { .page = 3, .len = 1, .region = number, .opcode = EXM_FREE,
		    .flags = EXM_ZERO }, -EINVAL },
		{ { .page = 3, .len = 1, .region = number, .opcode = EXM_ALLOC,
		    .node = 1 }, -EINVAL },
		{ { .page = 3, .len = 1, .region = number, .opcode = EXM_MOVE,
		    .flags = EXM_ZERO }, -EINVAL },
		{ { .page = SLOTS - 1, .len = 2, .region = number, .opcode = EXM_MOVE },
		  -ERANGE },
		{ { .page = SLOTS, .len = 1, .region = number, .opcode = EXM_ALLOC },
		  -ERANGE },
		{ { .page = SLOTS - 1, .len = 2, .region = number, .opcode = EXM_FREE },
		  -ERANGE },
		{ { .page = ~0ULL, .len = 2, .region = number, .opcode = EXM_READ },
		  -ERANGE },
		{ { .page = 3, .len = 1, .region = number + 1, .opcode = EXM_ALLOC },
		  -ENXIO },
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		/* A bad vector does not keep the others from being done */
		const struct exm_vec vecs[] = { good, bad[i].vec };
		struct exm_result results[2];

		ASSERT_EQ(1, exm_call(self->thread, vecs, results, 2)) {
			TH_LOG("%u: %s", i, exm_message());
		}
		EXPECT_EQ(0, results[0].res);
		EXPECT_EQ(bad[i].res, results[1].res) {
			TH_LOG("%u", i);
		}
	}
	EXPECT_EQ(-ERANGE, exm_region_query(self->region, SLOTS, 1, (uint8_t *)bad));
}

/* Some kernels, and some containers, do not have it */
static bool has_move_pages(void)
{
	return !syscall(SYS_move_pages, 0, 0, NULL, NULL, NULL, 0);
}

/* Where there is but one node, they are on it */
TEST_F(lib, pages_are_moved)
{
	const uint64_t pages[] = { 5, 90, 6 };
	char *start = exm_region_start(self->region);
	int results[3], last = 0, ret;

	for (int node = 0; node < MAX_NODES; node++)
		if (node_has_memory(node))
			last = node;
	ASSERT_EQ(0, exm_alloc(self->thread, self->region, pages, 2, NULL));
	start[5 * 4096] = 'x';
	start[91 * 4096 - 1] = 'y';
	for (int round = 0; round < 4; round++) {
		ret = exm_move(self->thread, self->region, pages, 3, round % 2 ? 0 : last,
			       results);
		if (ret == 2 && !has_move_pages())
			SKIP(return, "no move_pages()");
		EXPECT_EQ(0, ret);
		EXPECT_EQ('x', start[5 * 4096]);
		EXPECT_EQ('y', start[91 * 4096 - 1]);
	}
	/* The stock kernel is only asked for what there is to move */
	EXPECT_EQ(variant->backend == EXM_BACKEND_STOCK ? 2 : 3,
		  exm_move(self->thread, self->region, pages, 3, 999, results));
	EXPECT_EQ(-ENODEV, results[0]);
	EXPECT_EQ(-ENODEV, exm_move(self->thread, self->region, pages, 3, 1 << 16, results));
}

TEST_F(lib, a_pool_is_resized)
{
	struct exm_vec vec = {
		.len = PAGES, .opcode = EXM_ALLOC,
		.region = exm_region_number(self->region),
	};
	struct exm_result result;

	ASSERT_EQ(0, exm_call(self->thread, &vec, &result, 1));
	EXPECT_EQ(-EBUSY, exm_pool_resize(self->pool, PAGES / 2 * PG));
	EXPECT_NE(NULL, strstr(exm_message(), "in use"));
	EXPECT_EQ(-EINVAL, exm_pool_resize(self->pool, PG + 1));
	ASSERT_EQ(0, exm_pool_resize(self->pool, 2 * PAGES * PG));
	vec.len = 2 * PAGES;
	ASSERT_EQ(0, exm_call(self->thread, &vec, &result, 1));
	EXPECT_EQ(PAGES, result.pages);
	vec.opcode = EXM_FREE;
	ASSERT_EQ(0, exm_call(self->thread, &vec, &result, 1));
	EXPECT_EQ(0, exm_pool_resize(self->pool, PG));
}

/* Page tables of the process, in KiB */
static long page_tables(void)
{
	FILE *status = fopen("/proc/self/status", "r");
	char line[256];
	long kib = -1;

	while (status && fgets(line, sizeof(line), status))
		if (sscanf(line, "VmPTE: %ld kB", &kib) == 1)
			break;
	if (status)
		fclose(status);
	return kib;
}

TEST_F(lib, a_large_region_costs_little)
{
	struct exm_region_options options = { .length = 1UL << 40, .fd = -1 };
	const uint64_t pages[] = { 0, 1UL << 20, (1UL << 28) - 1 };
	struct exm_region *region;
	const long before = page_tables();
	char *start;

	ASSERT_LE(0, before);
	ASSERT_EQ(0, exm_region_create(&region, self->pool, &options)) {
		TH_LOG("%s", exm_message());
	}
	start = exm_region_start(region);
	ASSERT_EQ(0, exm_alloc(self->thread, region, pages, 3, NULL));
	for (int i = 0; i < 3; i++)
		start[pages[i] * PG] = 'x';
	EXPECT_GT(2048, page_tables() - before);
	exm_region_destroy(region);
}

/* A process has nothing of the pools of its parent */
TEST_F(lib, a_child_has_no_region)
{
	/* Two ranges, which one process_madvise() evicts on a stock kernel */
	const uint64_t pages[] = { 0, 2 };
	int status;
	pid_t pid;

	ASSERT_EQ(0, exm_alloc(self->thread, self->region, pages, 2, NULL));
	self->start[0] = 'x';
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(exm_free(self->thread, self->region, pages, 2, NULL) != -EPERM);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		_exit(self->start[0] == 'x');
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	EXPECT_EQ('x', self->start[0]);
}

struct evictor {
	struct exm_pool *pool;
	struct exm_region *region;
	unsigned int seed;
	long wrong;
};

/*
 * Evict and read pages that all threads use. No thread writes to a page, so that what is
 * there must be that of the file.
 */
static void *work(void *arg)
{
	struct evictor *evictor = arg;
	struct exm_thread *thread;
	uint64_t pages[8];
	int results[8];

	if (exm_thread_create(&thread, evictor->pool)) {
		evictor->wrong++;
		return NULL;
	}
	for (int round = 0; round < ROUNDS; round++) {
		int ret;

		for (int i = 0; i < 8; i++)
			pages[i] = rand_r(&evictor->seed) % (SLOTS / 2);
		ret = round % 3 ?
		      exm_free(thread, evictor->region, pages, 8, results) :
		      exm_read(thread, evictor->region, pages, 8, results);
		evictor->wrong += ret < 0;
		for (int i = 0; i < 8; i++)
			evictor->wrong += results[i] && results[i] != -ENOMEM &&
					 results[i] != -EBUSY;
	}
	exm_thread_destroy(thread);
	return NULL;
}

TEST_F_TIMEOUT(lib, threads_meet_at_the_same_slots, 300)
{
	struct evictor evictors[4];
	struct exm_stats stats;
	pthread_t threads[4];
	uint8_t slots[SLOTS];

	for (int i = 0; i < 4; i++) {
		evictors[i] = (struct evictor) { self->pool, self->region, i + 1, 0 };
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, work, &evictors[i]));
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		EXPECT_EQ(0, evictors[i].wrong);
	}
	ASSERT_EQ(0, exm_region_query(self->region, 0, SLOTS, slots));
	for (unsigned int i = 0; i < SLOTS; i++) {
		EXPECT_EQ(0, slots[i] & EXM_SLOT_BUSY);
		if (slots[i] & EXM_SLOT_RESIDENT)
			EXPECT_EQ('a' + (int)i % 26, self->start[i * PG + 100]);
	}
	ASSERT_EQ(0, exm_pool_stats(self->pool, &stats));
	EXPECT_GE(PAGES * PG, stats.used);
	if (variant->backend == EXM_BACKEND_STOCK)
		EXPECT_EQ(resident(self->region, SLOTS) * PG, stats.used);
}

static sig_atomic_t others;
static sigjmp_buf back;

static void other_handler(int sig)
{
	others = sig;
	siglongjmp(back, 1);
}

/* In a process of its own, because a process installs the handler once */
TEST(readers_and_the_handler_that_was_there)
{
	const struct exm_pool_options options = {
		.memory = PG, .threads = 1, .backend = EXM_BACKEND_STOCK,
	};
	struct exm_region_options region_options = { .length = 4 * PG, .fd = -1 };
	struct sigaction action = { .sa_handler = other_handler, .sa_flags = SA_NODEFER };
	struct exm_reader outer, inner;
	struct exm_region *region;
	static int restarts;
	struct exm_pool *pool;
	char *start, *foreign;

	foreign = mmap(NULL, PG, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, foreign);
	sigaction(SIGSEGV, &action, NULL);
	ASSERT_EQ(0, exm_reader_install());
	ASSERT_EQ(0, exm_reader_install());
	ASSERT_EQ(0, exm_pool_create(&pool, &options));
	if (!(exm_pool_features(pool) & EXM_FEATURE_FAULTS))
		SKIP(return, "no guard markers");
	ASSERT_EQ(0, exm_region_create(&region, pool, &region_options));
	start = exm_region_start(region);

	/* The inner reader starts over; the outer one does not notice */
	ASSERT_EQ(0, exm_reader_begin(&outer));
	if (exm_reader_begin(&inner))
		restarts++;
	if (restarts < 3)
		touch(start);
	exm_reader_end(&inner);
	exm_reader_end(&outer);
	EXPECT_EQ(3, restarts);

	/* Without a reader, and at an address of nobody, it is the other handler's */
	if (!sigsetjmp(back, 1))
		touch(start);
	EXPECT_EQ(SIGSEGV, others);
	others = 0;
	ASSERT_EQ(0, exm_reader_begin(&outer));
	if (!sigsetjmp(back, 1))
		touch(foreign);
	exm_reader_end(&outer);
	EXPECT_EQ(SIGSEGV, others);
	exm_pool_destroy(pool);
}

TEST(options_are_checked)
{
	struct exm_pool_options options = { .memory = PAGES * PG };
	struct exm_region_options region = { .length = SLOTS * PG, .fd = -1 };
	struct exm_region *none;
	struct exm_pool *pool;
	int pipes[2];

	options.memory = PG + 1;
	EXPECT_EQ(-EINVAL, exm_pool_create(&pool, &options));
	EXPECT_NE(NULL, strstr(exm_message(), "4096"));
	options.memory = PAGES * PG;
	options.flags = 1UL << 40;
	EXPECT_EQ(-EINVAL, exm_pool_create(&pool, &options));
	options.flags = 0;
	options.reserved[3] = 1;
	EXPECT_EQ(-EINVAL, exm_pool_create(&pool, &options));
	options.reserved[3] = 0;
	options.threads = 65537;
	EXPECT_EQ(-EINVAL, exm_pool_create(&pool, &options));
	options.threads = 0;

	/* This kernel has exmap, or it does not: there is a pool in any case */
	ASSERT_EQ(0, exm_pool_create(&pool, &options)) {
		TH_LOG("%s", exm_message());
	}
	EXPECT_EQ(access("/dev/exmap", R_OK | W_OK) ? EXM_BACKEND_STOCK : EXM_BACKEND_EXMAP,
		  exm_pool_backend(pool));
	region.length++;
	EXPECT_EQ(-EINVAL, exm_region_create(&none, pool, &region));
	region.length--;
	region.flags = 1;
	EXPECT_EQ(-EINVAL, exm_region_create(&none, pool, &region));
	region.flags = 0;
	ASSERT_EQ(0, pipe(pipes));
	region.fd = pipes[0];
	EXPECT_EQ(-EINVAL, exm_region_create(&none, pool, &region));
	close(pipes[0]);
	close(pipes[1]);
	EXPECT_EQ(-EBADF, exm_region_create(&none, pool, &region));
	region.fd = open("/proc/self/exe", O_RDONLY);
	region.length = 1UL << 60;
	EXPECT_GT(0, exm_region_create(&none, pool, &region));
	EXPECT_NE(0, strlen(exm_message()));
	close(region.fd);
	exm_pool_destroy(pool);
	exm_pool_destroy(NULL);
}

/* What an ordinary user meets first */
TEST(the_limit_of_locked_memory_is_explained)
{
	const struct exm_pool_options options = { .memory = 1024 * PG };
	const struct rlimit limit = { 64 << 10, 64 << 10 };
	struct exm_pool *pool;
	int status;
	pid_t pid;

	if (access("/dev/exmap", R_OK | W_OK))
		SKIP(return, "no /dev/exmap");
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (setrlimit(RLIMIT_MEMLOCK, &limit) || (!geteuid() && setuid(65534)))
			_exit(2);
		if (exm_pool_create(&pool, &options) != -ENOMEM)
			_exit(3);
		_exit(!strstr(exm_message(), "ulimit -l"));
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
}

TEST_HARNESS_MAIN
