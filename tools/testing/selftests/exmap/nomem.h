/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Each memory allocation of each call is made to fail once. The call must either
 * report the failure or do without the memory, and no page may be lost. Needs root
 * and fault injection (fail-nth, failslab and fail_page_alloc). Programs that include
 * this add the calls as variants.
 */
#ifndef EXMAP_TEST_NOMEM_H
#define EXMAP_TEST_NOMEM_H

#include "common.h"
#include "backing.h"
#include "inject.h"

#define BUFFER		600
#define PAGES		262144L
#define FILE_PAGES	192
#define SLOTS		15

/* Slots that lie in different page tables */
#define SPREAD(i)	((i) * 4001L % PAGES)

static inline long get(const char *name)
{
	char path[96], text[24] = "";
	int fd;

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		abort();
	close(fd);
	return atol(text);
}

#define TIMES	1000000

/* Make allocation @nth fail or, with @rest, all page allocations after @nth pages */
static inline void arm(int nth, bool rest)
{
	char text[16];

	if (!rest) {
		inject_nth(nth);
		return;
	}
	snprintf(text, sizeof(text), "%d", nth);
	if (inject_set("fail_page_alloc/space", text) ||
	    inject_set("fail_page_alloc/times", "1000000") ||
	    inject_set("fail_page_alloc/probability", "100"))
		abort();
	inject_pages(true);
}

/* Undo arm(). Returns whether an allocation was made to fail. */
static inline bool disarm(bool rest)
{
	bool failed;

	if (rest) {
		inject_pages(false);
		inject_set("fail_page_alloc/probability", "0");
		return get("fail_page_alloc/times") < TIMES;
	}
	failed = inject_nth_failed();
	inject_nth(0);
	return failed;
}

FIXTURE(nomem) {
};

FIXTURE_VARIANT(nomem) {
	/* Called before fault injection is armed */
	void (*prepare)(struct exmap *ex);
	/* Called with fault injection armed. Returns -errno, or 0 or more. */
	int (*run)(struct exmap *ex);
	/* Called at the end, or NULL */
	void (*finish)(struct exmap *ex);
	/* Whether run() may return @ret */
	bool (*expected)(int ret);
	enum backing backing;
	__u64 flags;
	/* Whether run() may take page faults */
	bool touches;
};

static inline bool only_ok(int ret)
{
	return ret >= 0;
}

static inline bool nomem_or_ok(int ret)
{
	return ret == -ENOMEM || ret >= 0;
}

/* fork() may also fail with EAGAIN */
static inline bool fork_error(int ret)
{
	return ret >= 0 || ret == -ENOMEM || ret == -EAGAIN;
}

/*
 * File systems report a lack of memory by various errors. The injection may also hit a
 * point of failure in null_blk that is no allocation, but leaves a request unanswered.
 */
static inline bool any_io_error(int ret)
{
	return ret >= 0 || ret == -ENOMEM || ret == -EIO || ret == -EAGAIN || ret == -ENOSPC ||
	       ret == -ETIMEDOUT;
}

static inline void nothing(struct exmap *ex)
{
	(void)ex;
}

/* SLOTS vectors, and their results */
static struct exmap_vec vecs[SLOTS];
static struct exmap_result results[SLOTS];

/* Each vector needs a page table of its own */
static inline void set_spread(int opcode)
{
	int i;

	for (i = 0; i < SLOTS; i++)
		vecs[i] = ex_vec(opcode, SPREAD(i), 1 + i % 3, 0);
}

/*
 * Pages per vector, so that SLOTS vectors free more pages than a bundle holds, and a
 * vector follows the one that fills the bundle.
 */
#define MANY		39

static inline void set_many(int opcode)
{
	int i;

	for (i = 0; i < SLOTS; i++)
		vecs[i] = ex_vec(opcode, i * MANY, MANY, 0);
}

/* Parts of the file */
static inline void set_parts(int opcode)
{
	int i;

	for (i = 0; i < SLOTS; i++)
		vecs[i] = ex_vec(opcode, i * 10, 1 + i % 3, 0);
}

/* Carry out the vectors. Returns the error of the call or of the first one that failed, or 0. */
static inline int run_vecs_through(struct exmap *ex, int iface)
{
	int i, ret = ex_vectors(ex, iface, vecs, results, SLOTS);

	for (i = 0; ret > 0 && i < SLOTS; i++)
		if (results[i].res)
			return results[i].res;
	return ret;
}

static inline int run_vecs(struct exmap *ex)
{
	return run_vecs_through(ex, 1);
}

/* As a preparation, through an interface that the call does not use */
static inline void prepare_vecs(struct exmap *ex)
{
	if (run_vecs_through(ex, 0))
		abort();
}

static inline void alloc_spread(struct exmap *ex)
{
	int i;

	set_spread(EXMAP_OP_ALLOC);
	prepare_vecs(ex);
	for (i = 0; i < SLOTS; i++)
		stamp_page(page_at(ex, SPREAD(i)), i);
}

static inline void prepare_alloc(struct exmap *ex)
{
	set_spread(EXMAP_OP_ALLOC);
}

static inline void prepare_free(struct exmap *ex)
{
	alloc_spread(ex);
	set_spread(EXMAP_OP_FREE);
}

static inline void prepare_free_many(struct exmap *ex)
{
	set_many(EXMAP_OP_ALLOC);
	prepare_vecs(ex);
	set_many(EXMAP_OP_FREE);
}

static inline void prepare_read(struct exmap *ex)
{
	set_parts(EXMAP_OP_READ);
}

static inline void prepare_write(struct exmap *ex)
{
	int i, page;

	for (i = 0; i < SLOTS; i++) {
		if (ex_alloc(ex, 0, i * 10, 3) != 3)
			abort();
		for (page = i * 10; page < i * 10 + 3; page++)
			make_page((__u64 *)page_at(ex, page), page);
	}
	set_parts(EXMAP_OP_WRITE);
}

FIXTURE_SETUP(nomem)
{
	catch_faults();
	if (!inject_begin() || !inject_open())
		SKIP(return, "no fault injection, or not root");
}

FIXTURE_TEARDOWN(nomem)
{
	inject_close();
}

/* Count pages that hold content of the file, but not that of their slot */
static inline int wrong_pages(struct exmap *ex)
{
	int i, wrong = 0;

	for (i = 0; i < 10 * SLOTS; i++)
		if (present(page_at(ex, i)) && *(__u64 *)page_at(ex, i) >> 60 &&
		    !page_is(page_at(ex, i), i))
			wrong++;
	return wrong;
}

static inline void each(struct __test_metadata *_metadata,
			const struct _fixture_variant_nomem *variant, bool rest)
{
	/* A scaled-down run tries every step-th allocation, from a varying start */
	const int step = scaled(100) < 100 ? 100 / scaled(100) : 1;
	int nth, ret, fd, backing, failures = 0, tried = 0;
	struct exmap ex;
	bool injected = true;
	long end;

	backing = make_backing(_metadata, variant->backing, FILE_PAGES, &fd, &end);
	if (backing < 0)
		SKIP(return, "no backing file of this kind");
	for (nth = !rest + getpid() % step; injected; nth += step, tried++) {
		exmap_create2(_metadata, &ex,
			      (struct exmap_setup2){ .fd = backing, .flags = variant->flags },
			      2, BUFFER, PAGES);
		variant->prepare(&ex);
		/* Page faults of the program itself would wait for memory forever */
		ASSERT_EQ(0, rest ? mlockall(MCL_CURRENT) : 0);

		arm(nth, rest);
		ret = variant->run(&ex);
		injected = disarm(rest);
		munlockall();

		ASSERT_TRUE(variant->expected(ret))
			TH_LOG("allocation %d failed: %d", nth, ret);
		failures += ret < 0;
		/* If no allocation was made to fail, the call must succeed */
		ASSERT_LE(injected ? ret : 0, ret);
		ASSERT_EQ(0, wrong_pages(&ex));
		/* Once there is memory again, all pages of the pool must be usable */
		ASSERT_LE(0, ex_drain(&ex, 0, 0, PAGES));
		ASSERT_EQ(BUFFER, ex_fill(&ex, 1, 0))
			TH_LOG("after the failure of allocation %d: %d", nth, ret);
		if (variant->finish)
			variant->finish(&ex);
		exmap_destroy(&ex);
		ASSERT_GT(20000, nth);
	}
	close(backing);
	close(fd);
	TH_LOG("%d allocations failed, the call failed %d times", tried - 1, failures);
}

TEST_F_TIMEOUT(nomem, each_allocation, SLOW)
{
	each(_metadata, variant, false);
}

TEST_F_TIMEOUT(nomem, all_from_one_on, SLOW)
{
	/* Page faults of the program would wait for memory forever */
	if (variant->touches)
		SKIP(return, "page faults would wait forever");
	each(_metadata, variant, true);
}

#endif
