// SPDX-License-Identifier: GPL-2.0
/*
 * The guarantee of the pool: ALLOC succeeds while fewer than buffer_size pages are in
 * use, wherever the free pages are, and fails beyond that. The pool is charged to the
 * memory cgroup and to RLIMIT_MEMLOCK.
 */
#include "common.h"
#include "backing.h"
#include "cgroup.h"

FIXTURE(pool) {
	struct exmap ex;
};

FIXTURE_VARIANT(pool) {
	int buffer;
	int ifaces;
};

FIXTURE_VARIANT_ADD(pool, one_page) {
	.buffer = 1,
	.ifaces = 3,
};

FIXTURE_VARIANT_ADD(pool, one_interface) {
	.buffer = 700,
	.ifaces = 1,
};

FIXTURE_VARIANT_ADD(pool, fewer_pages_than_interfaces) {
	.buffer = 33,
	.ifaces = 64,
};

FIXTURE_VARIANT_ADD(pool, bundle_less_one) {
	.buffer = 511,
	.ifaces = 2,
};

FIXTURE_VARIANT_ADD(pool, bundle) {
	.buffer = 512,
	.ifaces = 4,
};

FIXTURE_VARIANT_ADD(pool, bundle_and_one) {
	.buffer = 513,
	.ifaces = 4,
};

FIXTURE_VARIANT_ADD(pool, many_bundles) {
	.buffer = 4999,
	.ifaces = 7,
};

FIXTURE_SETUP(pool)
{
	exmap_create(_metadata, &self->ex, -1, variant->ifaces, variant->buffer,
		     3 * variant->buffer + 1024);
}

FIXTURE_TEARDOWN(pool)
{
	struct exmap *ex = &self->ex;

	/* After any test, all pages of the pool must be available */
	EXPECT_LE(0, ex_drain(ex, 0, 0, ex->pages));
	EXPECT_EQ(ex->buffer, ex_fill(ex, ex->ifaces - 1, 0));
	exmap_destroy(ex);
}

TEST_F_TIMEOUT(pool, exhaust_and_refill, SLOW)
{
	static const int counts[] = { 1, 2, 63, 511, 512, 513, 1300, 1 << 20 };
	struct exmap *ex = &self->ex;
	int i, j, count, iface = 0;

	EXPECT_EQ(ex->buffer, ex_fill(ex, 0, 0));
	for (j = 0; j < ex->ifaces; j++)
		EXPECT_EQ(-ENOMEM, ex_alloc(ex, j, ex->buffer, 1));

	/* Another interface gets exactly the pages that one interface has freed */
	for (i = 0; i < (int)ARRAY_SIZE(counts); i++) {
		count = counts[i] < ex->buffer ? counts[i] : ex->buffer;
		for (j = 0; j < 3; j++) {
			EXPECT_EQ(count, ex_drain(ex, iface, 0, count));
			iface = (iface + 1) % ex->ifaces;
			EXPECT_EQ(count, ex_fill(ex, iface, ex->buffer));
			EXPECT_EQ(count, ex_drain(ex, iface, ex->buffer, count));
			iface = (iface + 1) % ex->ifaces;
			EXPECT_EQ(ex->buffer - count, ex_drain(ex, iface, 0, ex->pages));
			EXPECT_EQ(ex->buffer, ex_fill(ex, iface, 0));
		}
	}
}

TEST_F_TIMEOUT(pool, page_by_page, SLOW)
{
	struct exmap *ex = &self->ex;
	int i, ret = 0;

	/* Single scattered pages, through each interface in turn */
	for (i = 0; i < ex->buffer; i++) {
		ret = ex_alloc(ex, i % ex->ifaces, i * 3, 1);
		if (ret != 1)
			break;
	}
	EXPECT_EQ(ex->buffer, i)
		TH_LOG("answer %d", ret);
	EXPECT_EQ(-ENOMEM, ex_alloc(ex, 0, 1, 1));
	for (i = 0; i < ex->buffer; i++)
		stamp_page(page_at(ex, i * 3), i);
	for (i = 0; i < ex->buffer; i++)
		if (!stamp_intact(page_at(ex, i * 3), i))
			break;
	EXPECT_EQ(ex->buffer, i);
	/* With all pages in use, each FREE allows one ALLOC through another interface */
	for (i = 0; i < ex->buffer; i++) {
		if (ex_free(ex, i % ex->ifaces, i * 3, 1) != 1)
			break;
		if (ex_alloc(ex, (i + 1) % ex->ifaces, i * 3 + 1, 1) != 1)
			break;
		if (ex_alloc(ex, (i + 2) % ex->ifaces, i * 3 + 2, 1) != -ENOMEM)
			break;
	}
	EXPECT_EQ(ex->buffer, i);
}

TEST_F_TIMEOUT(pool, freed_by_one_used_by_all, SLOW)
{
	struct exmap *ex = &self->ex;
	int i, j, share, total;

	EXPECT_EQ(ex->buffer, ex_fill(ex, 0, 0));
	for (j = 0; j < ex->ifaces; j++) {
		EXPECT_EQ(ex->buffer, ex_drain(ex, j, 0, ex->pages));
		total = 0;
		for (i = 0; i < ex->ifaces; i++) {
			share = ex->buffer / ex->ifaces + (i < ex->buffer % ex->ifaces);
			if (!share)
				continue;
			EXPECT_EQ(share, ex_alloc(ex, i, total, share));
			total += share;
		}
		EXPECT_EQ(ex->buffer, total);
		EXPECT_EQ(-ENOMEM, ex_alloc(ex, j, total, 1));
	}
}

/* A call that fails for want of a page can be repeated when there is one */
TEST_F(pool, failed_call_can_be_repeated)
{
	struct exmap *ex = &self->ex;
	int i, last = ex->ifaces - 1, count = ex->buffer < 3 ? ex->buffer : 3;
	struct exmap_result r[3];
	struct exmap_vec vecs[3];

	EXPECT_EQ(ex->buffer, ex_fill(ex, 0, 0));
	for (i = 0; i < count; i++)
		vecs[i] = ex_vec(EXMAP_OP_ALLOC, ex->buffer + 7 * i, 1, 0);
	EXPECT_EQ(count, ex_vectors(ex, last, vecs, r, count));
	for (i = 0; i < count; i++) {
		EXPECT_EQ(-ENOMEM, r[i].res);
		EXPECT_EQ(0, r[i].pages);
	}
	EXPECT_EQ(count, ex_free(ex, 0, 0, count));
	EXPECT_EQ(0, ex_vectors(ex, last, vecs, r, count));
	for (i = 0; i < count; i++) {
		EXPECT_EQ(0, r[i].res);
		EXPECT_EQ(1, r[i].pages);
		EXPECT_TRUE(present(page_at(ex, ex->buffer + 7 * i)));
	}
}

TEST_F(pool, resident_slots_need_no_page)
{
	struct exmap *ex = &self->ex;
	const struct exmap_vec vecs[] = {
		ex_vec(EXMAP_OP_ALLOC, 0, 1, 0), ex_vec(EXMAP_OP_ALLOC, ex->buffer, 1, 0),
	};
	struct exmap_result r[2];

	EXPECT_EQ(ex->buffer, ex_fill(ex, 0, 0));
	EXPECT_EQ(1, ex_vectors(ex, 0, vecs, r, 2));
	EXPECT_EQ(0, r[0].res);
	EXPECT_EQ(0, r[0].pages);
	EXPECT_EQ(-ENOMEM, r[1].res);
	EXPECT_EQ(0, ex_alloc(ex, 0, 0, 1));
}

TEST_F(pool, part_of_a_call)
{
	struct exmap *ex = &self->ex;
	const struct exmap_vec vecs[] = {
		ex_vec(EXMAP_OP_ALLOC, ex->buffer, 5, 0),
		ex_vec(EXMAP_OP_ALLOC, ex->buffer + 10, 10, 0),
		ex_vec(EXMAP_OP_ALLOC, ex->buffer + 30, 2, 0),
	};
	struct exmap_result r[3];

	if (ex->buffer < 20)
		SKIP(return, "needs a larger pool");
	EXPECT_EQ(ex->buffer, ex_fill(ex, 0, 0));
	EXPECT_EQ(12, ex_free(ex, 0, 0, 12));
	EXPECT_EQ(2, ex_vectors(ex, 0, vecs, r, 3));
	EXPECT_EQ(0, r[0].res);
	EXPECT_EQ(5, r[0].pages);
	EXPECT_EQ(-ENOMEM, r[1].res);
	EXPECT_EQ(7, r[1].pages);
	EXPECT_EQ(-ENOMEM, r[2].res);
	EXPECT_EQ(0, r[2].pages);
	EXPECT_EQ(5, count_present(ex, ex->buffer, 10));
	EXPECT_EQ(7, count_present(ex, ex->buffer + 10, 10));
	EXPECT_EQ(0, count_present(ex, ex->buffer + 30, 2));

	/* Five freed pages are just enough for the rest of the vectors that failed */
	EXPECT_EQ(5, ex_free(ex, 0, ex->buffer, 5));
	EXPECT_EQ(3, ex_alloc(ex, 0, ex->buffer + 10, 10));
	EXPECT_EQ(2, ex_alloc(ex, 0, ex->buffer + 30, 2));
	EXPECT_EQ(-ENOMEM, ex_alloc(ex, 0, ex->buffer, 5));
}

TEST_F_TIMEOUT(pool, fresh_pages_are_zero, SLOW)
{
	size_t size = (2 * self->ex.buffer + 1024) * PG;
	struct exmap *ex = &self->ex;
	const __u64 *word;
	char *dirt;
	int i, j;

	/* Leave pages with stale content to the page allocator */
	dirt = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, dirt);
	memset(dirt, 0xaa, size);
	ASSERT_EQ(0, munmap(dirt, size));

	EXPECT_EQ(ex->buffer, ex_fill(ex, 0, 0));
	for (i = 0; i < ex->buffer; i++) {
		word = (const __u64 *)page_at(ex, i);
		for (j = 0; j < (int)WORDS; j++)
			if (word[j])
				break;
		if (j < (int)WORDS)
			break;
	}
	EXPECT_EQ(ex->buffer, i);
}

TEST_F_TIMEOUT(pool, random_rounds, SLOW)
{
	struct exmap *ex = &self->ex;
	int half = ex->pages / 2, mapped = 0, round, ret, len, page;
	__u64 random = 12345;

	for (round = 0; round < scaled(200); round++) {
		page = random_below(&random, half);
		len = random_below(&random, 4095 < half ? 4095 : half);
		if (random_below(&random, 2)) {
			ret = ex_alloc(ex, round % ex->ifaces, page, len);
			/* A vector that fails has used all free pages */
			if (ret == -ENOMEM)
				mapped = ex->buffer;
			else if (ret >= 0)
				mapped += ret;
		} else {
			ret = ex_free(ex, round % ex->ifaces, page, len);
			if (ret >= 0)
				mapped -= ret;
		}
		EXPECT_TRUE(ret >= 0 || ret == -ENOMEM)
			TH_LOG("round %d: %d", round, ret);
		ASSERT_GE(ex->buffer, mapped);
	}
	EXPECT_EQ(mapped, ex_drain(ex, 0, 0, ex->pages));
}

/* Pages are charged to the memory cgroup of the calling process */

FIXTURE(cgroup) {
	struct cgroup cg;
};

FIXTURE_VARIANT(cgroup) {
	int opcode;
};

FIXTURE_VARIANT_ADD(cgroup, alloc) { .opcode = EXMAP_OP_ALLOC };
FIXTURE_VARIANT_ADD(cgroup, read) { .opcode = EXMAP_OP_READ };

FIXTURE_SETUP(cgroup)
{
	const char *missing = cgroup_create(&self->cg);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(cgroup)
{
	EXPECT_EQ(0, cgroup_destroy(&self->cg));
}

TEST_F_TIMEOUT(cgroup, pages_are_charged, SLOW)
{
	struct exmap ex;
	long before, after;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (cgroup_join(self->cg.path))
			_exit(100);
		exmap_create(_metadata, &ex, -1, 1, 2000, 4000);
		before = cgroup_read(self->cg.path, "memory.current");
		EXPECT_EQ(2000, ex_fill(&ex, 0, 0));
		after = cgroup_read(self->cg.path, "memory.current");
		/* Some pages may be covered by what each CPU has charged in advance */
		EXPECT_LE(1700 * (long)PG, after - before);
		exmap_destroy(&ex);
		_exit(_metadata->exit_code);
	}
	EXPECT_EQ(0, wait_child(pid));
}

TEST_F_TIMEOUT(cgroup, limit_is_an_error, SLOW)
{
	int limit, backing, fd, mapped = 0, freed, again, ret, i;
	struct exmap_result result = {};
	char path[256], text[32];
	struct exmap_vec vec;
	struct exmap ex;
	pid_t pid;
	long end;

	/* The pages of the file are in the page cache already, charged to the parent */
	backing = make_backing(_metadata, MEMFD, 4096, &fd, &end);
	ASSERT_LE(0, backing);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (cgroup_join(self->cg.path))
			_exit(100);
		exmap_create(_metadata, &ex, backing, 1, 4000, 4096);
		/* Create the page tables first: only pages are to reach the limit */
		for (i = 0; i < 4096; i += 512)
			EXPECT_EQ(1, ex_alloc(&ex, 0, i, 1));
		EXPECT_EQ(8, ex_drain(&ex, 0, 0, 4096));
		snprintf(path, sizeof(path), "%s/memory.max", self->cg.path);
		limit = open(path, O_WRONLY);
		EXPECT_LE(0, limit);
		snprintf(text, sizeof(text), "%ld",
			 cgroup_read(self->cg.path, "memory.current") + (4L << 20));
		EXPECT_LT(0, pwrite(limit, text, strlen(text), 0));

		/* Calls must fail with ENOMEM, and the process must not be killed */
		do {
			vec = ex_vec(variant->opcode, mapped, 64, 0);
			ret = ex_vectors(&ex, 0, &vec, &result, 1);
			if (ret >= 0)
				mapped += result.pages;
		} while (!ret && mapped < 3900);
		freed = ex_free(&ex, 0, 0, 10);
		again = ex_one(&ex, 0, variant->opcode, 0, 10);

		/* Lift the limit first: reporting a failure takes memory */
		EXPECT_EQ(3, pwrite(limit, "max", 3, 0));
		EXPECT_TRUE(ret == -ENOMEM || (ret == 1 && result.res == -ENOMEM));
		EXPECT_LE(512, mapped);
		EXPECT_GE(2000, mapped);
		EXPECT_EQ(10, freed);
		EXPECT_EQ(10, again);
		EXPECT_EQ(4000 - mapped, ex_fill(&ex, 0, mapped));
		exmap_destroy(&ex);
		_exit(_metadata->exit_code);
	}
	EXPECT_EQ(0, wait_child(pid));
	close(backing);
	close(fd);
}

/* A cgroup that is still charged for pages is removed after its process has moved on */
TEST_F_TIMEOUT(cgroup, goes_away, SLOW)
{
	char empty[160], path[256];
	struct exmap ex;
	int backing, fd, i;
	pid_t pid;
	long end;

	snprintf(empty, sizeof(empty), "%s-2", self->cg.path);
	snprintf(path, sizeof(path), "%s/cgroup.procs", self->cg.root);
	backing = make_backing(_metadata, MEMFD, 1024, &fd, &end);
	ASSERT_LE(0, backing);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		EXPECT_EQ(0, mkdir(empty, 0755));
		EXPECT_EQ(0, cgroup_join(empty));
		exmap_create(_metadata, &ex, backing, 2, 1000, 2000);
		for (i = 0; i < 1000; i += 500)
			EXPECT_EQ(500, ex_one(&ex, 0, variant->opcode, i, 500));
		for (i = 0; i < 1000; i++)
			stamp_page(page_at(&ex, i), i);
		EXPECT_EQ(500, ex_free(&ex, 0, 500, 500));
		EXPECT_EQ(0, cgroup_join(self->cg.path));
		EXPECT_EQ(0, rmdir(empty));
		/* Mapped, free and new pages must all be usable */
		for (i = 0; i < 500; i++)
			EXPECT_TRUE(stamp_intact(page_at(&ex, i), i));
		EXPECT_EQ(0, ex_resize(ex.fd, 1500));
		EXPECT_EQ(500, ex_one(&ex, 1, variant->opcode, 500, 500));
		EXPECT_EQ(1000, ex_drain(&ex, 1, 0, 2000));
		EXPECT_EQ(1500, ex_fill(&ex, 0, 0));
		exmap_destroy(&ex);
		_exit(_metadata->exit_code);
	}
	EXPECT_EQ(0, wait_child(pid));
	close(backing);
	close(fd);
}

/* RLIMIT_MEMLOCK: a user is charged for the sizes of all pools, and uncharged in full */

FIXTURE(memlock) {
	int fd;
};

#define LIMIT	256

FIXTURE_SETUP(memlock)
{
	if (geteuid())
		SKIP(return, "not root");
	self->fd = -1;
}

FIXTURE_TEARDOWN(memlock)
{
}

TEST_F(memlock, root_has_no_limit)
{
	struct rlimit limit = { 0, 0 };
	struct exmap ex;

	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &limit));
	exmap_create(_metadata, &ex, -1, 1, 1000, 2000);
	EXPECT_EQ(1000, ex_fill(&ex, 0, 0));
	exmap_destroy(&ex);
}

TEST_F(memlock, limit_is_exact)
{
	struct exmap ex;
	int fd;

	become_nobody(_metadata, LIMIT);
	fd = exmap_open(_metadata);
	EXPECT_EQ(-ENOMEM, ex_setup2(fd, -1, 1, LIMIT + 1));
	EXPECT_EQ(-ENOMEM, ex_setup2(fd, -1, 1, ~0ULL));
	EXPECT_EQ(-ENOMEM, ex_setup2(fd, -1, 1, 1ULL << 52));
	/* A setup that fails charges nothing */
	EXPECT_EQ(0, ex_setup2(fd, -1, 1, LIMIT));
	EXPECT_EQ(0, close(fd));

	exmap_create(_metadata, &ex, -1, 2, LIMIT, 2 * LIMIT);
	EXPECT_EQ(LIMIT, ex_fill(&ex, 1, 0));
	exmap_destroy(&ex);
}

TEST_F(memlock, sum_of_all)
{
	int one, two, three;

	become_nobody(_metadata, LIMIT);
	one = exmap_open(_metadata);
	two = exmap_open(_metadata);
	three = exmap_open(_metadata);
	EXPECT_EQ(0, ex_setup2(one, -1, 1, LIMIT - 10));
	EXPECT_EQ(-ENOMEM, ex_setup2(two, -1, 1, 11));
	EXPECT_EQ(0, ex_setup2(two, -1, 1, 10));
	EXPECT_EQ(-ENOMEM, ex_setup2(three, -1, 1, 1));
	EXPECT_EQ(0, close(two));
	EXPECT_EQ(0, ex_setup2(three, -1, 1, 10));
	close(one);
	close(three);
}

TEST_F(memlock, other_errors_count_nothing)
{
	int fd, i;

	become_nobody(_metadata, LIMIT);
	fd = exmap_open(_metadata);
	for (i = 0; i < 10; i++) {
		EXPECT_EQ(-EINVAL, ex_setup2(fd, -1, 0, LIMIT));
		EXPECT_EQ(-EINVAL, ex_setup2(fd, fd, 1, LIMIT));
		EXPECT_EQ(-EBADF, ex_setup2(fd, -2, 1, LIMIT));
	}
	ASSERT_EQ(0, ex_setup2(fd, -1, 1, LIMIT));
	/* A second setup that fails does not undo the charge of the first */
	for (i = 0; i < 10; i++)
		EXPECT_EQ(-EBUSY, ex_setup2(fd, -1, 1, LIMIT));
	EXPECT_EQ(0, close(fd));
	fd = exmap_open(_metadata);
	EXPECT_EQ(-ENOMEM, ex_setup2(fd, -1, 1, LIMIT + 1));
	EXPECT_EQ(0, ex_setup2(fd, -1, 1, LIMIT));
	close(fd);
}

TEST_F_TIMEOUT(memlock, given_back_each_time, SLOW)
{
	struct exmap ex;
	int round;

	become_nobody(_metadata, LIMIT);
	for (round = 0; round < 1000; round++) {
		/* Use the whole limit, so that a single lost page is noticed */
		ex.fd = exmap_open(_metadata);
		ASSERT_EQ(0, ex_setup2(ex.fd, -1, 1, LIMIT))
			TH_LOG("round %d", round);
		switch (round % 3) {
		case 0:	/* closed without a region */
			close(ex.fd);
			break;
		case 1:	/* unmapped, then closed */
			ex.region = ex_map_region(ex.fd, LIMIT);
			ASSERT_NE(MAP_FAILED, ex.region);
			ASSERT_EQ(1, ex_alloc(&ex, 0, 0, 1));
			munmap(ex.region, LIMIT * PG);
			close(ex.fd);
			break;
		case 2:	/* closed, then unmapped */
			ex.region = ex_map_region(ex.fd, LIMIT);
			ASSERT_NE(MAP_FAILED, ex.region);
			ASSERT_EQ(1, ex_alloc(&ex, 0, 0, 1));
			close(ex.fd);
			munmap(ex.region, LIMIT * PG);
			break;
		}
	}
}

TEST_F(memlock, held_while_mapped)
{
	struct exmap ex;
	int fd;

	become_nobody(_metadata, LIMIT);
	exmap_create(_metadata, &ex, -1, 1, LIMIT, 2 * LIMIT);
	EXPECT_EQ(LIMIT, ex_fill(&ex, 0, 0));
	fd = exmap_open(_metadata);
	EXPECT_EQ(-ENOMEM, ex_setup2(fd, -1, 1, 1));
	/* FREE returns pages to the pool, but does not reduce the charge */
	EXPECT_EQ(LIMIT, ex_free(&ex, 0, 0, 2 * LIMIT));
	EXPECT_EQ(-ENOMEM, ex_setup2(fd, -1, 1, 1));
	close(ex.fd);
	EXPECT_EQ(-ENOMEM, ex_setup2(fd, -1, 1, 1));
	munmap(ex.region, 2 * LIMIT * PG);
	EXPECT_EQ(0, ex_setup2(fd, -1, 1, LIMIT));
	close(fd);
}

TEST_F_TIMEOUT(memlock, given_back_at_exit, SLOW)
{
	struct exmap ex;
	int round;
	pid_t pid;

	become_nobody(_metadata, LIMIT);
	for (round = 0; round < 50; round++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			exmap_create(_metadata, &ex, -1, 1, LIMIT, 2 * LIMIT);
			EXPECT_EQ(LIMIT, ex_fill(&ex, 0, 0));
			if (round % 2)
				raise(SIGKILL);
			_exit(_metadata->exit_code);
		}
		ASSERT_EQ(round % 2 ? 128 + SIGKILL : 0, wait_child(pid));
	}
}

TEST_HARNESS_MAIN
