// SPDX-License-Identifier: GPL-2.0
/*
 * Machines with several memory nodes: the node that pages come from, calls that move pages
 * or set a policy, and full nodes.
 */
#include "common.h"
#include "backing.h"
#include "nodes.h"

#define BUFFER		256
#define PAGES		4096

static long bind_range(void *addr, unsigned long bytes, int mode, unsigned long nodes,
		       unsigned int flags)
{
	return syscall(SYS_mbind, addr, bytes, mode, &nodes, MAX_NODES, flags) ? -errno : 0;
}

/* Number of pages on @node, among slots that must all be resident */
static int count_on(struct exmap *ex, int first, int pages, int node)
{
	int i, count = 0;

	for (i = first; i < first + pages; i++)
		count += node_of(page_at(ex, i)) == node;
	return count;
}

/* Free memory of a node in pages, or -1 */
static long free_on(int node)
{
	char path[64], line[128];
	long kib = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/meminfo", node);
	file = fopen(path, "re");
	if (!file)
		return -1;
	while (kib < 0 && fgets(line, sizeof(line), file))
		if (sscanf(line, "Node %*d MemFree: %ld kB", &kib) != 1)
			kib = -1;
	fclose(file);
	return kib < 0 ? -1 : kib / 4;
}

FIXTURE(numa) {
	struct exmap ex;
	int backing;
	int node[2], cpu[2];	/* two nodes with memory, and a CPU of each */
};

FIXTURE_SETUP(numa)
{
	int i, nr = 0;

	catch_faults();
	for (i = 0; i < MAX_NODES && nr < 2; i++) {
		if (!node_has_memory(i) || cpu_of_node(i) < 0)
			continue;
		self->node[nr] = i;
		self->cpu[nr++] = cpu_of_node(i);
	}
	if (nr < 2)
		SKIP(return, "only one node has memory and CPUs");
	self->backing = memfd_create("backing", MFD_CLOEXEC);
	ASSERT_LE(0, self->backing);
	ASSERT_EQ(0, fill_file(self->backing, BUFFER));
	exmap_create(_metadata, &self->ex, self->backing, 3, BUFFER, PAGES);
}

FIXTURE_TEARDOWN(numa)
{
	struct exmap *ex = &self->ex;

	set_policy(MPOL_DEFAULT, 0);
	EXPECT_EQ(0, mprotect(ex->region, PAGES * PG, PROT_READ | PROT_WRITE));
	EXPECT_LE(0, ex_drain(ex, 0, 0, PAGES));
	/* ALLOC can get all pages, whichever nodes they and the thread are on */
	EXPECT_EQ(BUFFER, ex_fill(ex, 1, 0));
	exmap_destroy(ex);
	close(self->backing);
}

/* New pages come from the node on which the thread runs */
TEST_F(numa, pages_of_the_own_node)
{
	struct exmap *ex = &self->ex;

	pin_to_cpu(self->cpu[1]);
	EXPECT_EQ(100, ex_alloc(ex, 0, 0, 100));
	EXPECT_EQ(100, count_on(ex, 0, 100, self->node[1]));
	pin_to_cpu(self->cpu[0]);
	EXPECT_EQ(20, ex_one(ex, 1, EXMAP_OP_READ, 100, 20));
	EXPECT_EQ(20, count_on(ex, 100, 20, self->node[0]));
}

/* A policy of the thread decides where new pages come from */
TEST_F(numa, policy_of_the_thread)
{
	const unsigned long both = 1UL << self->node[0] | 1UL << self->node[1];
	struct exmap *ex = &self->ex;
	int i, on;

	pin_to_cpu(self->cpu[0]);
	ASSERT_EQ(0, set_policy(MPOL_BIND, 1UL << self->node[1]));
	EXPECT_EQ(60, ex_alloc(ex, 0, 0, 60));
	EXPECT_EQ(60, count_on(ex, 0, 60, self->node[1]));
	EXPECT_EQ(20, ex_one(ex, 0, EXMAP_OP_READ, 60, 20));
	EXPECT_EQ(20, count_on(ex, 60, 20, self->node[1]));
	for (i = 60; i < 80; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), i));

	ASSERT_EQ(0, set_policy(MPOL_INTERLEAVE, both));
	EXPECT_EQ(100, ex_alloc(ex, 1, 100, 100));
	on = count_on(ex, 100, 100, self->node[0]);
	EXPECT_LE(40, on);
	EXPECT_GE(60, on);
}

/* ALLOC finds free pages that were freed on a different node */
TEST_F(numa, pages_freed_on_another_node)
{
	struct exmap *ex = &self->ex;
	int round;

	for (round = 0; round < 6; round++) {
		pin_to_cpu(self->cpu[round % 2]);
		ASSERT_EQ(BUFFER, ex_fill(ex, round % 2, 0));
		pin_to_cpu(self->cpu[round / 2 % 2]);
		ASSERT_EQ(BUFFER, ex_drain(ex, round / 2 % 2, 0, BUFFER));
	}
	EXPECT_EQ(BUFFER, ex_owned(ex->fd));
}

/* A thread gets the free pages of the nodes that its policy names, as long as there are any */
TEST_F(numa, recycled_pages)
{
	struct exmap *ex = &self->ex;
	int order, i, first;

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, set_policy(MPOL_BIND, 1UL << self->node[i]));
		ASSERT_EQ(BUFFER / 2, ex_alloc(ex, 0, i * BUFFER / 2, BUFFER / 2));
	}
	for (order = 0; order < 4; order++) {
		/* All free pages are with one interface, and another one wants them */
		ASSERT_EQ(BUFFER, ex_drain(ex, order % 2, 0, BUFFER));
		for (i = 0; i < 2; i++) {
			char key[32];

			snprintf(key, sizeof(key), "exmap-free-node%d", self->node[i]);
			EXPECT_EQ(BUFFER / 2, read_fdinfo(getpid(), ex->fd, key));
		}
		for (i = 0; i < 2; i++) {
			const int nr = i ^ (order / 2);

			first = nr * BUFFER / 2;
			ASSERT_EQ(0, set_policy(MPOL_BIND, 1UL << self->node[nr]));
			EXPECT_EQ(1, ex_vec_one(ex, 1, EXMAP_OP_ALLOC, first, 1, 0));
			EXPECT_EQ(1, ex_alloc(ex, i, first + 1, 1));
			EXPECT_EQ(BUFFER / 2 - 2,
				  ex_alloc(ex, i, first + 2, BUFFER / 2 - 2));
			EXPECT_EQ(BUFFER / 2, count_on(ex, first, BUFFER / 2, self->node[nr]));
		}
		EXPECT_EQ(-ENOMEM, ex_alloc(ex, 0, BUFFER, 1));
	}
}

/* Of other interfaces, those are asked that have pages of the right node */
TEST_F(numa, pages_of_other_interfaces)
{
	struct exmap *ex = &self->ex;
	int i;

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, set_policy(MPOL_BIND, 1UL << self->node[i]));
		ASSERT_EQ(BUFFER / 2, ex_alloc(ex, 2 * i, i * BUFFER / 2, BUFFER / 2));
		ASSERT_EQ(BUFFER / 2, ex_free(ex, 2 * i, i * BUFFER / 2, BUFFER / 2));
	}
	/* A search begins with the next interface, which has pages of the other node */
	ASSERT_EQ(0, set_policy(MPOL_BIND, 1UL << self->node[0]));
	EXPECT_EQ(BUFFER / 2, ex_alloc(ex, 1, 0, BUFFER / 2));
	EXPECT_EQ(BUFFER / 2, count_on(ex, 0, BUFFER / 2, self->node[0]));
}

/* The thread does not get what it wants, but it gets what there is */
TEST_F(numa, only_pages_of_another_node)
{
	struct exmap *ex = &self->ex;
	int i;

	ASSERT_EQ(0, set_policy(MPOL_BIND, 1UL << self->node[0]));
	ASSERT_EQ(BUFFER, ex_fill(ex, 0, 0));
	ASSERT_EQ(BUFFER / 2, ex_drain(ex, 0, 0, BUFFER / 2));
	ASSERT_EQ(0, set_policy(MPOL_BIND, 1UL << self->node[1]));
	EXPECT_EQ(BUFFER / 2, ex_fill(ex, 1, BUFFER));
	EXPECT_EQ(BUFFER / 2, count_on(ex, BUFFER, BUFFER / 2, self->node[0]));
	/* Evict one page and get it again, many times */
	for (i = 0; i < 1000; i++) {
		struct exmap_vec vecs[] = {
			ex_vec(EXMAP_OP_FREE, BUFFER + i, 1, 0),
			ex_vec(EXMAP_OP_ALLOC, BUFFER + BUFFER / 2 + i, 1, 0),
		};
		struct exmap_result results[2];

		ASSERT_EQ(0, ex_vectors(ex, i % 2, vecs, results, 2));
		ASSERT_EQ(1, results[1].pages);
	}
}

/* QUERY tells the nodes of pages */
TEST_F(numa, query)
{
	struct exmap_vec vec = { .page = 0, .len = 100 };
	struct exmap *ex = &self->ex;
	__u8 slots[100];
	__u16 nodes[101];
	struct exmap_query query = {
		.size = sizeof(query), .vec_size = sizeof(vec), .nr = 1,
		.vecs = (unsigned long)&vec, .slots = (unsigned long)slots,
		.nodes = (unsigned long)nodes,
	};
	int i;

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, set_policy(MPOL_BIND, 1UL << self->node[i]));
		ASSERT_EQ(30, ex_alloc(ex, 0, 50 * i, 30));
	}
	memset(nodes, 0xaa, sizeof(nodes));
	ASSERT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_QUERY, &query));
	for (i = 0; i < 100; i++) {
		EXPECT_EQ(i % 50 < 30 ? self->node[i / 50] : EXMAP_NO_NODE, nodes[i]);
		EXPECT_EQ(i % 50 < 30, slots[i] & EXMAP_SLOT_RESIDENT);
	}
	EXPECT_EQ(0xaaaa, nodes[100]);
	query.nodes = (unsigned long)ex->region + 40 * PG;
	EXPECT_EQ(-EFAULT, ex_ioctl(ex->fd, EXMAP_IOCTL_QUERY, &query));
}

/* move_pages() reports the nodes of pages, but cannot move them */
TEST_F(numa, move_pages)
{
	struct exmap *ex = &self->ex;
	void *pages[4] = { page_at(ex, 0), page_at(ex, 1), page_at(ex, 50) };
	int nodes[4] = { self->node[1], self->node[1], self->node[1], self->node[1] };
	unsigned long from = 1UL << self->node[0], to = 1UL << self->node[1];
	int status[4], round, i;
	char *hole;

	if (syscall(SYS_move_pages, 0, 0, NULL, NULL, NULL, 0))
		SKIP(return, "no CONFIG_NUMA_MIGRATION: %s", strerror(errno));
	/* Find an address at which nothing is mapped */
	hole = mmap(NULL, PG, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, hole);
	ASSERT_EQ(0, munmap(hole, PG));
	pages[3] = hole;

	pin_to_cpu(self->cpu[0]);
	ASSERT_EQ(2, ex_alloc(ex, 0, 0, 2));
	stamp_page(page_at(ex, 0), 1);
	stamp_page(page_at(ex, 1), 2);
	ASSERT_EQ(0, syscall(SYS_move_pages, 0, 4, pages, NULL, status, 0));
	EXPECT_EQ(self->node[0], status[0]);
	EXPECT_EQ(self->node[0], status[1]);
	EXPECT_EQ(-ENOENT, status[2]);
	EXPECT_EQ(-EFAULT, status[3]);

	for (round = 0; round < 2; round++) {
		memset(status, 0, sizeof(status));
		EXPECT_LE(0, syscall(SYS_move_pages, 0, 3, pages, nodes, status,
				     round ? MPOL_MF_MOVE_ALL : MPOL_MF_MOVE));
		for (i = 0; i < 3; i++)
			EXPECT_GT(0, status[i]);
		EXPECT_LE(0, syscall(SYS_migrate_pages, 0, MAX_NODES, &from, &to));
		EXPECT_EQ(2, count_on(ex, 0, 2, self->node[0]));
		EXPECT_TRUE(stamp_intact(page_at(ex, 0), 1));
		EXPECT_TRUE(stamp_intact(page_at(ex, 1), 2));
		EXPECT_FALSE(present(page_at(ex, 50)));
		/* The pool still owns the page */
		EXPECT_EQ(1, ex_free(ex, 1, 1, 1));
		EXPECT_EQ(1, ex_alloc(ex, 0, 1, 1));
		stamp_page(page_at(ex, 1), 2);
	}
}

/* mbind() cannot split the region, and does not move pages */
TEST_F(numa, mbind)
{
	const unsigned long nodes = 1UL << self->node[1];
	struct exmap *ex = &self->ex;

	pin_to_cpu(self->cpu[0]);
	ASSERT_EQ(10, ex_alloc(ex, 0, 0, 10));
	stamp_page(page_at(ex, 9), 9);
	EXPECT_EQ(-EINVAL, bind_range(ex->region, 10 * PG, MPOL_BIND, nodes, 0));
	EXPECT_EQ(-EINVAL, bind_range(page_at(ex, 5), 10 * PG, MPOL_BIND, nodes, MPOL_MF_MOVE));
	EXPECT_EQ(-EINVAL, bind_range(page_at(ex, 100), (PAGES - 100) * PG, MPOL_PREFERRED,
				      nodes, 0));
	EXPECT_EQ(10, count_on(ex, 0, 10, self->node[0]));

	/* The whole region can have a policy, but pages on the wrong node stay there */
	EXPECT_EQ(0, bind_range(ex->region, PAGES * PG, MPOL_BIND, nodes, 0));
	EXPECT_EQ(-EIO, bind_range(ex->region, PAGES * PG, MPOL_BIND, nodes, MPOL_MF_STRICT));
	EXPECT_EQ(-EIO, bind_range(ex->region, PAGES * PG, MPOL_BIND, nodes,
				   MPOL_MF_STRICT | MPOL_MF_MOVE));
	EXPECT_EQ(0, bind_range(ex->region, PAGES * PG, MPOL_BIND, nodes, MPOL_MF_MOVE_ALL));
	EXPECT_EQ(10, count_on(ex, 0, 10, self->node[0]));
	EXPECT_TRUE(stamp_intact(page_at(ex, 9), 9));
	EXPECT_EQ(10, ex_free(ex, 0, 0, 10));
	EXPECT_EQ(10, ex_alloc(ex, 0, 20, 10));
	EXPECT_EQ(0, bind_range(ex->region, PAGES * PG, MPOL_DEFAULT, 0, 0));
}

/*
 * Fill an exmap with @extra more pages than @node has free. With @bind, the policy of the
 * thread allows no other node, not even for page tables, and each page is put where it
 * needs a page table of its own. Runs in a child; returns its exit status.
 */
static int fill_node(struct __test_metadata *_metadata, int node, int cpu, bool bind, long extra)
{
	long buffer = free_on(node) + extra, got = 0, elsewhere = 0, i;
	const int stride = bind ? 512 : 1;
	static struct exmap_result results[512];
	static struct exmap_vec vecs[512];
	struct exmap ex;
	int ret;

	pin_to_cpu(cpu);
	/* Page faults of the program itself would get no memory from a full node */
	if (mlockall(MCL_CURRENT))
		return 9;
	exmap_create(_metadata, &ex, -1, 1, buffer, (buffer + 512) * stride);
	if (bind && set_policy(MPOL_BIND, 1UL << node))
		return 10;
	do {
		for (i = 0; i < 512; i++)
			vecs[i] = ex_vec(EXMAP_OP_ALLOC, (got + i) * stride, 1, 0);
		ret = ex_vectors(&ex, 0, vecs, results, 512);
		for (i = 0; ret >= 0 && i < 512 && results[i].pages; i++)
			got++;
	} while (!ret);
	if (bind && set_policy(MPOL_DEFAULT, 0))
		return 11;
	if (ret != -ENOMEM && (ret < 0 || results[i].res != -ENOMEM))
		return 12;
	for (i = 0; i < got; i += 64)
		elsewhere += node_of(page_at(&ex, i * stride)) != node;
	if (bind)
		return elsewhere ? 13 : got < buffer / 4 ? 14 : got == buffer ? 15 : 0;
	if (got != buffer)
		return 16;
	/* Reclaim may have freed some memory on the node, but not enough for the pool */
	if (elsewhere < extra / 64 / 2)
		return 17;
	/* The pages can be given back to the system, and none of them is lost */
	if (ex_drain(&ex, 0, 0, got) != got || ex_resize(ex.fd, 64) || ex_fill(&ex, 0, 0) != 64)
		return 18;
	exmap_destroy(&ex);
	return 0;
}

/* A node with more free pages takes too long to fill */
#define LARGE_NODE	0x40000

TEST_F_TIMEOUT(numa, full_node_spills, SLOW)
{
	const long extra = 8192;
	pid_t pid;

	if (free_on(self->node[0]) > LARGE_NODE)
		SKIP(return, "too much memory to fill a node");
	if (free_on(self->node[1]) < 4 * extra)
		SKIP(return, "too little memory on the other node");
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(fill_node(_metadata, self->node[0], self->cpu[0], false, extra));
	EXPECT_EQ(0, wait_child(pid));
}

/* If the policy allows only a full node, ALLOC fails with ENOMEM and nothing is killed */
TEST_F_TIMEOUT(numa, full_node_of_a_policy, SLOW)
{
	const long extra = 8192;
	pid_t pid;

	if (free_on(self->node[0]) > LARGE_NODE)
		SKIP(return, "too much memory to fill a node");
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(fill_node(_metadata, self->node[0], self->cpu[0], true, extra));
	EXPECT_EQ(0, wait_child(pid));
}

TEST_HARNESS_MAIN
