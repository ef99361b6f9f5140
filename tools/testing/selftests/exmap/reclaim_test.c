// SPDX-License-Identifier: GPL-2.0
/*
 * Limits on the memory of a pool: its size, RLIMIT_MEMLOCK, and the memory cgroup. Free
 * pages go back to the system before anything is killed for want of memory.
 */
#include "common.h"
#include "cgroup.h"

#define MIB	256		/* pages in a MiB */
#define REGION	(1024 * MIB)

FIXTURE(reclaim) {
	struct cgroup cg;	/* with a limit of 128 MiB */
};

FIXTURE_SETUP(reclaim)
{
	const char *missing = cgroup_create(&self->cg);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, cgroup_write(self->cg.path, "memory.max", "134217728"));
}

FIXTURE_TEARDOWN_PARENT(reclaim)
{
	EXPECT_EQ(0, cgroup_destroy(&self->cg));
}

/*
 * Fork a child that is alone in the cgroup, with an exmap. Returns 0 in the child, whose
 * own memory is resident: at the limit, a page fault would kill it.
 */
static pid_t enter(struct __test_metadata *_metadata, struct cgroup *cg, struct exmap *ex,
		   int buffer, int pages)
{
	char stack[64 << 10];
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (pid)
		return pid;
	ASSERT_EQ(0, cgroup_join(cg->path));
	memset(stack, 0, sizeof(stack));
	__asm__ volatile("" : : "r"(stack) : "memory");
	ASSERT_EQ(0, mlockall(MCL_CURRENT));
	exmap_create(_metadata, ex, -1, 2, buffer, pages);
	return 0;
}

/* The child has passed, and was not killed */
static void finish(struct __test_metadata *_metadata, struct cgroup *cg, pid_t pid)
{
	EXPECT_EQ(0, wait_child(pid));
	EXPECT_EQ(0, cgroup_read_key(cg->path, "memory.events", "oom_kill"));
}

static void touch(char *memory, long pages)
{
	for (long i = 0; i < pages; i++)
		memory[i * PG] = 1;
}

/* The process gets 96 MiB while the pool has as much in free pages */
TEST_F_TIMEOUT(reclaim, free_pages_give_way, SLOW)
{
	struct exmap ex;
	pid_t pid = enter(_metadata, &self->cg, &ex, 96 * MIB, REGION);
	char *memory;

	if (pid) {
		finish(_metadata, &self->cg, pid);
		return;
	}
	ASSERT_EQ(96 * MIB, ex_alloc(&ex, 0, 0, 96 * MIB));
	ASSERT_EQ(48 * MIB, ex_free(&ex, 0, 0, 48 * MIB));
	ASSERT_EQ(48 * MIB, ex_free(&ex, 1, 48 * MIB, 48 * MIB));
	EXPECT_EQ(96 * MIB, ex_owned(ex.fd));
	memory = mmap(NULL, 96 * MIB * PG, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, memory);
	touch(memory, 96 * MIB);
	EXPECT_GT(32 * MIB, ex_owned(ex.fd));
	munmap(memory, 96 * MIB * PG);
	exmap_destroy(&ex);
	_exit(_metadata->exit_code);
}

/* At the limit, ALLOC fails, and FREE does not */
TEST_F_TIMEOUT(reclaim, free_at_limit, SLOW)
{
	struct exmap ex;
	pid_t pid = enter(_metadata, &self->cg, &ex, REGION, REGION);
	int mapped = 0, ret;

	if (pid) {
		finish(_metadata, &self->cg, pid);
		return;
	}
	do {
		ret = fill_now(&ex, 0, mapped, MIB);
		mapped += ret > 0 ? ret : 0;
	} while (ret == MIB);
	EXPECT_EQ(-ENOMEM, ex_alloc(&ex, 0, mapped, 1));
	EXPECT_LT(64 * MIB, mapped);
	EXPECT_GT(128 * MIB, mapped);
	EXPECT_EQ(mapped, ex_drain(&ex, 1, 0, mapped));
	EXPECT_EQ(MIB, ex_alloc(&ex, 0, 0, MIB));
	exmap_destroy(&ex);
	_exit(_metadata->exit_code);
}

/* The only page of a pool walks through a region whose page tables exceed the limit */
TEST_F_TIMEOUT(reclaim, page_tables_at_limit, SLOW)
{
	const int table = 512, tables = 2 * 128 * MIB;
	struct exmap ex;
	pid_t pid = enter(_metadata, &self->cg, &ex, 1, table * tables);
	int ret = 0;

	if (pid) {
		finish(_metadata, &self->cg, pid);
		return;
	}
	for (long i = 0; i < tables && !ret; i++) {
		ret = ex_alloc(&ex, 0, i * table, 1);
		if (ret == 1)
			ret = ex_free(&ex, 0, i * table, 1) - 1;
	}
	/* Where empty tables are given back, there is no end */
	EXPECT_TRUE(!ret || ret == -ENOMEM);
	exmap_destroy(&ex);
	_exit(_metadata->exit_code);
}

/* RLIMIT_MEMLOCK counts for an ordinary user, in all processes, until the region is gone */
TEST(memlock)
{
	int first = exmap_open(_metadata), second = exmap_open(_metadata);
	void *region;

	become_nobody(_metadata, 100);
	EXPECT_EQ(-ENOMEM, ex_setup2(first, -1, 1, 101));
	ASSERT_EQ(0, ex_setup2(first, -1, 1, 60));
	region = ex_map_region(first, 1024);
	ASSERT_NE(MAP_FAILED, region);
	EXPECT_EQ(-ENOMEM, ex_setup2(second, -1, 1, 41));
	EXPECT_EQ(-ENOMEM, ex_resize(first, 101));
	EXPECT_EQ(0, ex_resize(first, 50));
	EXPECT_EQ(0, ex_setup2(second, -1, 1, 50));
	EXPECT_EQ(-ENOMEM, ex_resize(first, 51));
	munmap(region, 1024 * PG);
	EXPECT_EQ(-ENXIO, ex_resize(first, 10));
	EXPECT_EQ(0, ex_resize(second, 100));
	close(first);
	close(second);
}

/* A smaller pool gives free pages back, and never those that are in use */
TEST(resize)
{
	struct exmap ex;

	exmap_create(_metadata, &ex, -1, 2, 1000, REGION);
	EXPECT_EQ(-EINVAL, ex_resize(ex.fd, 0));
	ASSERT_EQ(1000, ex_alloc(&ex, 0, 0, 1000));
	EXPECT_EQ(-EBUSY, ex_resize(ex.fd, 999));
	ASSERT_EQ(400, ex_free(&ex, 1, 0, 400));
	EXPECT_EQ(-EBUSY, ex_resize(ex.fd, 599));
	EXPECT_EQ(0, ex_resize(ex.fd, 600));
	EXPECT_EQ(600, ex_owned(ex.fd));
	EXPECT_EQ(-ENOMEM, ex_alloc(&ex, 0, 0, 1));
	EXPECT_EQ(0, ex_resize(ex.fd, 601));
	EXPECT_EQ(1, ex_alloc(&ex, 0, 0, 1));
	EXPECT_EQ(600, count_present(&ex, 400, 600));
	exmap_destroy(&ex);
}

TEST_HARNESS_MAIN
