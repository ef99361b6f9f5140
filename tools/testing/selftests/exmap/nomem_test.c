// SPDX-License-Identifier: GPL-2.0
/*
 * Each memory allocation of each call is made to fail once. The call must either
 * report the failure or do without the memory, and no page may be lost. Needs root
 * and fault injection (fail-nth, failslab and fail_page_alloc).
 */
#include "inject.h"

#define BUFFER		600
#define PAGES		262144L
#define FILE_PAGES	192
#define SLOTS		15

/* Slots that lie in different page tables */
#define SPREAD(i)	((i) * 4001L % PAGES)

static long get(const char *name)
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
static void arm(int nth, bool rest)
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
static bool disarm(bool rest)
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
	/* Whether run() may return @ret */
	bool (*expected)(int ret);
	enum backing backing;
	__u64 flags;
	/* Whether run() may take page faults */
	bool touches;
};

static bool nomem_or_ok(int ret)
{
	return ret == -ENOMEM || ret >= 0;
}

static void nothing(struct exmap *ex)
{
	(void)ex;
}

static void set_spread(struct exmap *ex, int iface)
{
	int i;

	for (i = 0; i < SLOTS; i++)
		set_vec(ex, iface, i, SPREAD(i), 1 + i % 3);
}

static void alloc_spread(struct exmap *ex)
{
	int i;

	set_spread(ex, 0);
	if (ex_action(ex->fd, 0, EXMAP_OP_ALLOC, SLOTS))
		abort();
	for (i = 0; i < SLOTS; i++)
		stamp_page(page_at(ex, SPREAD(i)), i);
	/* Touch the vectors of interface 1 while page faults still find memory */
	ex->iface[1]->iov[0].value = 0;
}

/* Returns the error of the call, that of its first failed vector, or 0 */
static int worst(struct exmap *ex, int iface, int ret)
{
	int i;

	for (i = 0; ret > 0 && i < SLOTS; i++)
		if (ex->iface[iface]->iov[i].res)
			return ex->iface[iface]->iov[i].res;
	return ret;
}

static int run_action(struct exmap *ex, int opcode)
{
	int ret = ex_action(ex->fd, 1, opcode, SLOTS);

	return worst(ex, 1, ret);
}

static void prepare_alloc(struct exmap *ex)
{
	set_spread(ex, 1);
}

static int run_alloc(struct exmap *ex)
{
	return run_action(ex, EXMAP_OP_ALLOC);
}

static int run_alloc_one(struct exmap *ex)
{
	return ex_alloc(ex, 1, 77, 1);
}

static void prepare_free(struct exmap *ex)
{
	alloc_spread(ex);
	set_spread(ex, 1);
}

static int run_free(struct exmap *ex)
{
	return run_action(ex, EXMAP_OP_FREE);
}

/*
 * Pages per vector, so that SLOTS vectors free more pages than a bundle holds, and a
 * vector follows the one that fills the bundle.
 */
#define MANY		39

static void prepare_free_many(struct exmap *ex)
{
	int i, iface;

	for (iface = 0; iface < 2; iface++)
		for (i = 0; i < SLOTS; i++)
			set_vec(ex, iface, i, i * MANY, MANY);
	if (ex_action(ex->fd, 0, EXMAP_OP_ALLOC, SLOTS))
		abort();
}

/* Free the slots of prepare_free_many(), and fill others with some of the pages */
static int run_free_many(struct exmap *ex)
{
	struct exmap_result results[SLOTS + 2];
	struct exmap_vec vecs[SLOTS + 2];
	int i, ret;

	for (i = 0; i < SLOTS - 1; i++)
		vecs[i] = ex_vec(EXMAP_OP_FREE, i * MANY, MANY, 0);
	vecs[i++] = ex_vec(EXMAP_OP_FREE, (SLOTS - 1) * MANY, 1, 0);
	vecs[i++] = ex_vec(EXMAP_OP_ALLOC, 5000, MANY, 0);
	vecs[i++] = ex_vec(EXMAP_OP_FREE, (SLOTS - 1) * MANY, MANY, 0);
	ret = ex_vectors(ex, 1, vecs, results, i);
	for (i = 0; ret > 0 && i < SLOTS + 2; i++)
		if (results[i].res)
			return results[i].res;
	return ret;
}

static int run_read(struct exmap *ex)
{
	int i;

	for (i = 0; i < SLOTS; i++)
		set_vec(ex, 1, i, i * 10, 1 + i % 3);
	return run_action(ex, EXMAP_OP_READ);
}

static void prepare_write(struct exmap *ex)
{
	int i;

	for (i = 0; i < SLOTS; i++)
		set_vec(ex, 0, i, i * 10, 3);
	if (ex_action(ex->fd, 0, EXMAP_OP_ALLOC, SLOTS))
		abort();
	for (i = 0; i < 10 * SLOTS; i++)
		if (i % 10 < 3)
			make_page((__u64 *)page_at(ex, i), i);
	for (i = 0; i < SLOTS; i++)
		set_vec(ex, 1, i, i * 10, 1 + i % 3);
}

static int run_write(struct exmap *ex)
{
	return run_action(ex, EXMAP_OP_WRITE);
}

static int run_preadv(struct exmap *ex)
{
	struct iovec iov[SLOTS];
	int i;

	for (i = 0; i < SLOTS; i++)
		iov[i] = (struct iovec){ page_at(ex, i * 10), PG };
	return ex_preadv(ex->fd, 1, EXMAP_OP_READ, iov, SLOTS);
}

static int run_pread(struct exmap *ex)
{
	return ex_pread(ex->fd, 1, EXMAP_OP_READ, page_at(ex, 4), PG);
}

static int run_pwritev(struct exmap *ex)
{
	struct iovec iov[SLOTS];
	int i;

	for (i = 0; i < SLOTS; i++)
		iov[i] = (struct iovec){ page_at(ex, i * 10), 3 * PG };
	return ex_pwritev2(ex->fd, 1, EXMAP_OP_WRITE, iov, SLOTS, RWF_DSYNC);
}

/*
 * Mix FREE, ALLOC and READ, with more vectors than fit on the kernel's stack. FREE
 * needs no memory and must always succeed.
 */
static int run_vectors(struct exmap *ex)
{
	struct exmap_result results[2 * SLOTS];
	struct exmap_vec vecs[2 * SLOTS];
	int i, ret, err = 0;

	for (i = 0; i < 2 * SLOTS; i += 5) {
		vecs[i] = ex_vec(EXMAP_OP_FREE, SPREAD(i / 2), 1 + i / 2 % 3, 0);
		vecs[i + 1] = ex_vec(EXMAP_OP_ALLOC, SPREAD(i) + 2000, 5, EXMAP_VEC_ZERO);
		vecs[i + 2] = ex_vec(EXMAP_OP_ALLOC, SPREAD(i) + 3000, 5,
				     EXMAP_VEC_ALL_OR_NOTHING);
		vecs[i + 3] = ex_vec(EXMAP_OP_READ, i * 5 + 5, 3, EXMAP_VEC_REPLACE);
		vecs[i + 4] = ex_vec(EXMAP_OP_READ, i * 5 + 2, 1, 0);
	}
	ret = ex_vectors(ex, 1, vecs, results, i);
	if (ret < 0)
		return ret;
	for (i = 0; i < 2 * SLOTS; i++) {
		if (vecs[i].opcode == EXMAP_OP_FREE &&
		    (results[i].res || results[i].pages != vecs[i].len))
			return -EPROTO;
		err = err ?: results[i].res;
	}
	return err;
}

static int run_resize(struct exmap *ex)
{
	return ex_resize(ex->fd, BUFFER + 10) ?: ex_resize(ex->fd, BUFFER);
}

static int run_query(struct exmap *ex)
{
	struct exmap_vec vecs[2] = { { .page = 0, .len = 5000 }, { .page = 77, .len = 1 } };
	static __u8 slots[5001];

	return ex_query(ex->fd, vecs, 2, slots, 0);
}

static int run_flush(struct exmap *ex)
{
	return ex_ioctl(ex->fd, EXMAP_IOCTL_FLUSH, NULL);
}

static int run_clone(struct exmap *ex)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = ex_clone(fd, ex->fd);
	close(fd);
	return ret;
}

/* A page fault that finds no memory is either retried or raises SIGSEGV */
static int run_touch(struct exmap *ex)
{
	__u64 value;

	return try_read(page_at(ex, SPREAD(9)), &value) ? -ENOMEM : 0;
}

static int run_touch_vectors(struct exmap *ex)
{
	return ex->iface[1]->iov[3].res;
}

/* The whole life of another exmap, from open() to close() */
static int run_life(struct exmap *unused)
{
	struct exmap ex = { .ifaces = 0 };
	int ret;

	(void)unused;
	ex.fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (ex.fd < 0)
		return -errno;
	ret = ex_setup(ex.fd, -1, 3, 10);
	if (!ret) {
		ex.region = ex_map_region(ex.fd, 1000);
		ret = ex.region == MAP_FAILED ? -errno : 0;
	}
	if (!ret) {
		ex.iface[0] = ex_map_iface(ex.fd, 0);
		ret = ex.iface[0] == MAP_FAILED ? -errno : 0;
		if (!ret) {
			ret = ex_alloc(&ex, 0, 5, 5);
			munmap(ex.iface[0], PG);
		}
		munmap(ex.region, 1000 * PG);
	}
	close(ex.fd);
	return ret;
}

static int run_fork(struct exmap *ex)
{
	pid_t pid;

	(void)ex;
	pid = fork();
	if (!pid)
		_exit(0);
	return pid < 0 ? -errno : wait_child(pid);
}

static bool only_ok(int ret)
{
	return ret >= 0;
}

/* fork() may also fail with EAGAIN */
static bool fork_error(int ret)
{
	return ret >= 0 || ret == -ENOMEM || ret == -EAGAIN;
}

/*
 * File systems report a lack of memory by various errors. The injection may also hit a
 * point of failure in null_blk that is no allocation, but leaves a request unanswered.
 */
static bool any_io_error(int ret)
{
	return ret >= 0 || ret == -ENOMEM || ret == -EIO || ret == -EAGAIN || ret == -ENOSPC ||
	       ret == -ETIMEDOUT;
}

FIXTURE_VARIANT_ADD(nomem, alloc) {
	.prepare = prepare_alloc,
	.run = run_alloc,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, alloc_one) {
	.prepare = nothing,
	.run = run_alloc_one,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, alloc_deferred) {
	.prepare = prepare_alloc,
	.run = run_alloc,
	.expected = nomem_or_ok,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(nomem, free) {
	.prepare = prepare_free,
	.run = run_free,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, free_deferred) {
	.prepare = prepare_free,
	.run = run_free,
	.expected = nomem_or_ok,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(nomem, free_many) {
	.prepare = prepare_free_many,
	.run = run_free,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, free_many_vectors) {
	.prepare = prepare_free_many,
	.run = run_free_many,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, free_many_deferred) {
	.prepare = prepare_free_many,
	.run = run_free_many,
	.expected = nomem_or_ok,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(nomem, read) {
	.prepare = nothing,
	.run = run_read,
	.expected = any_io_error,
};

FIXTURE_VARIANT_ADD(nomem, read_direct) {
	.prepare = nothing,
	.run = run_read,
	.expected = any_io_error,
	.backing = FILE_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, read_block) {
	.prepare = nothing,
	.run = run_read,
	.expected = any_io_error,
	.backing = BLOCK_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, write) {
	.prepare = prepare_write,
	.run = run_write,
	.expected = any_io_error,
};

FIXTURE_VARIANT_ADD(nomem, write_block) {
	.prepare = prepare_write,
	.run = run_write,
	.expected = any_io_error,
	.backing = BLOCK_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, preadv) {
	.prepare = nothing,
	.run = run_preadv,
	.expected = any_io_error,
};

FIXTURE_VARIANT_ADD(nomem, preadv_block) {
	.prepare = nothing,
	.run = run_preadv,
	.expected = any_io_error,
	.backing = BLOCK_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, pread_block) {
	.prepare = nothing,
	.run = run_pread,
	.expected = any_io_error,
	.backing = BLOCK_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, pwritev) {
	.prepare = prepare_write,
	.run = run_pwritev,
	.expected = any_io_error,
};

FIXTURE_VARIANT_ADD(nomem, pwritev_block) {
	.prepare = prepare_write,
	.run = run_pwritev,
	.expected = any_io_error,
	.backing = BLOCK_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, vectors) {
	.prepare = alloc_spread,
	.run = run_vectors,
	.expected = any_io_error,
	.backing = BLOCK_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, vectors_deferred) {
	.prepare = alloc_spread,
	.run = run_vectors,
	.expected = any_io_error,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(nomem, resize) {
	.prepare = alloc_spread,
	.run = run_resize,
	.expected = only_ok,
};

FIXTURE_VARIANT_ADD(nomem, query) {
	.prepare = alloc_spread,
	.run = run_query,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, flush) {
	.prepare = prepare_free,
	.run = run_flush,
	.expected = only_ok,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(nomem, clone) {
	.prepare = nothing,
	.run = run_clone,
	.expected = fork_error,
};

FIXTURE_VARIANT_ADD(nomem, touch) {
	.prepare = nothing,
	.run = run_touch,
	.expected = nomem_or_ok,
	.flags = EXMAP_SETUP_PAGEFAULT_ALLOC,
	.touches = true,
};

FIXTURE_VARIANT_ADD(nomem, touch_vectors) {
	.prepare = nothing,
	.run = run_touch_vectors,
	.expected = only_ok,
	.touches = true,
};

FIXTURE_VARIANT_ADD(nomem, life) {
	.prepare = nothing,
	.run = run_life,
	.expected = fork_error,
	.touches = true,
};

FIXTURE_VARIANT_ADD(nomem, fork) {
	.prepare = alloc_spread,
	.run = run_fork,
	.expected = fork_error,
	.touches = true,
};

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
static int wrong_pages(struct exmap *ex)
{
	int i, wrong = 0;

	for (i = 0; i < 10 * SLOTS; i++)
		if (present(page_at(ex, i)) && *(__u64 *)page_at(ex, i) >> 60 &&
		    !page_is(page_at(ex, i), i))
			wrong++;
	return wrong;
}

static void each(struct __test_metadata *_metadata,
		 const struct _fixture_variant_nomem *variant, bool rest)
{
	/* A scaled-down run tries every step-th allocation, from a varying start */
	const int step = scaled(100) < 100 ? 100 / scaled(100) : 1;
	int nth, ret, fd, backing, failures = 0, tried = 0;
	struct exmap ex;
	bool injected = true;
	long end, freed;

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
		for (freed = 0; freed < PAGES; freed += 4095)
			ASSERT_LE(0, ex_free(&ex, 0, freed,
					     PAGES - freed < 4095 ? PAGES - freed : 4095));
		ASSERT_EQ(BUFFER, ex_fill(&ex, 1, 0))
			TH_LOG("after the failure of allocation %d: %d", nth, ret);
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

TEST_HARNESS_MAIN
