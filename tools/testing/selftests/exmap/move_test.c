// SPDX-License-Identifier: GPL-2.0
/*
 * MOVE: pages that go to another node, while their slots keep address and content
 */
#include "common.h"
#include "backing.h"
#include "cgroup.h"
#include "nodes.h"
#include "query.h"
#include "uring.h"

#define SLOTS		128
/*
 * What the pool has room for, in slots, at most. A pool gets 16 pages at once, unless they
 * are large.
 */
#define MAX_BUFFER	64

struct area {
	int fd;
	int file;
	char *region;
	size_t size;		/* of a slot */
	int pages;		/* in a slot */
	int buffer;		/* what the pool has room for, in slots */
	int node[2];		/* two nodes with memory */
};

FIXTURE(move) {
	struct area area;
};

FIXTURE_VARIANT(move) {
	size_t slot_size;
	__u64 flags;
	bool file;
};

FIXTURE_VARIANT_ADD(move, strict)	{ .slot_size = PG, .file = true };
FIXTURE_VARIANT_ADD(move, deferred)	{ .slot_size = PG, .file = true,
					  .flags = EXMAP_SETUP_DEFERRED };
FIXTURE_VARIANT_ADD(move, faults)	{ .slot_size = PG,
					  .flags = EXMAP_SETUP_PAGEFAULT_ALLOC };
FIXTURE_VARIANT_ADD(move, large)	{ .slot_size = 4 * PG, .file = true };
FIXTURE_VARIANT_ADD(move, largest)	{ .slot_size = 512 * PG, .file = true,
					  .flags = EXMAP_SETUP_DEFERRED };

static char *slot_at(const struct area *area, long slot)
{
	return area->region + slot * area->size;
}

static int vectors(const struct area *area, int iface, const struct exmap_vec *vecs,
		   struct exmap_result *results, int nr)
{
	struct exmap ex = { .fd = area->fd };

	return ex_vectors(&ex, iface, vecs, results, nr);
}

/* As ex_vec_one() */
static int one(const struct area *area, int opcode, long slot, int len)
{
	struct exmap ex = { .fd = area->fd };

	return ex_vec_one(&ex, 0, opcode, slot, len, 0);
}

static struct exmap_vec move_vec(long slot, int len, int node)
{
	return (struct exmap_vec) {
		.opcode = EXMAP_OP_MOVE, .page = slot, .len = len, .node = node,
	};
}

/* Returns the number of pages moved, which is also in *pages if that is not all, or -errno */
static int move_slots(const struct area *area, long slot, int len, int node, int *pages)
{
	struct exmap_vec vec = move_vec(slot, len, node);
	struct exmap_result result = { .res = -1, .pages = -1 };
	int ret = vectors(area, 1, &vec, &result, 1);

	if (pages)
		*pages = result.pages;
	return ret < 0 ? ret : ret ? result.res : (int)result.pages;
}

/* Fill slots with pages that are on a node, from the file if there is one */
static int fill_on(const struct area *area, int node, long slot, int len)
{
	long err = set_policy(MPOL_BIND, 1UL << node);
	int ret;

	if (err)
		return err;
	ret = one(area, area->file >= 0 ? EXMAP_OP_READ : EXMAP_OP_ALLOC, slot, len);
	set_policy(MPOL_DEFAULT, 0);
	for (int i = 0; area->file < 0 && i < len; i++)
		make_page((__u64 *)slot_at(area, slot + i), slot + i);
	return ret;
}

/* All pages of a slot must have the content of the file, or of fill_on() */
static bool is_whole(const struct area *area, long slot)
{
	for (int i = 0; i < area->pages; i++)
		if (!page_is(slot_at(area, slot) + i * PG, slot * area->pages + i))
			return false;
	return true;
}

static int count_on(const struct area *area, long slot, int len, int node)
{
	int nr = 0;

	for (long i = slot; i < slot + len; i++)
		nr += node_of(slot_at(area, i)) == node &&
		      node_of(slot_at(area, i) + (area->pages - 1) * PG) == node;
	return nr;
}

static int query(const struct area *area, long slot)
{
	return ex_query_slot(area->fd, 0, slot, 0);
}

FIXTURE_SETUP(move)
{
	struct area *area = &self->area;
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .flags = variant->flags, .max_interfaces = 4,
		.slot_size = variant->slot_size, .fd = -1,
	};
	int nr = 0, i;

	catch_faults();
	for (i = 0; i < MAX_NODES && nr < 2; i++)
		if (node_has_memory(i))
			area->node[nr++] = i;
	/* Rather a node that is nothing but memory */
	for (; i < MAX_NODES; i++)
		if (node_has_memory(i) && cpu_of_node(i) < 0)
			area->node[1] = i;
	if (nr < 2)
		SKIP(return, "only one node has memory");
	area->size = variant->slot_size;
	area->pages = area->size / PG;
	area->buffer = area->pages > MAX_BUFFER ? 8 : MAX_BUFFER;
	setup.buffer_size = area->buffer * area->pages;
	area->file = -1;
	if (variant->file) {
		area->file = memfd_create("backing", MFD_CLOEXEC);
		ASSERT_LE(0, area->file);
		ASSERT_EQ(0, fill_file(area->file, area->buffer * area->pages));
		setup.fd = area->file;
	}
	area->fd = exmap_open(_metadata);
	ASSERT_EQ(0, ex_ioctl(area->fd, EXMAP_IOCTL_SETUP2, &setup));
	area->region = ex_map_region(area->fd, SLOTS * area->pages);
	ASSERT_NE(MAP_FAILED, area->region);

	/* A node may have memory enough, but not in such pieces */
	for (i = 0; i < 2 && area->pages > MAX_BUFFER; i++) {
		nr = fill_on(area, area->node[i], 0, area->buffer);
		ASSERT_LE(0, one(area, EXMAP_OP_FREE, 0, area->buffer));
		/* Less than a slot: the pool gives back all it has */
		ASSERT_EQ(0, ex_resize(area->fd, 1));
		ASSERT_EQ(0, ex_resize(area->fd, setup.buffer_size));
		if (nr == -ENOMEM)
			SKIP(return, "node %d has too few large pages", area->node[i]);
		ASSERT_EQ(area->buffer, nr);
	}
}

FIXTURE_TEARDOWN(move)
{
	struct area *area = &self->area;
	int nr = 0, got;

	set_policy(MPOL_DEFAULT, 0);
	/* The pool has all of its pages */
	EXPECT_LE(0, one(area, EXMAP_OP_FREE, 0, SLOTS));
	do {
		got = one(area, EXMAP_OP_ALLOC, nr, 1);
		nr += got > 0;
	} while (got > 0);
	EXPECT_EQ(area->buffer, nr);
	EXPECT_EQ(-ENOMEM, got);
	EXPECT_EQ(area->buffer * area->pages, ex_owned(area->fd));
	munmap(area->region, SLOTS * area->size);
	close(area->fd);
	close(area->file);
}

/* Pages keep their content, and whether they were written to */
TEST_F(move, there_and_back)
{
	struct area *area = &self->area;
	const int nr = 8;

	ASSERT_EQ(nr, fill_on(area, area->node[0], 0, nr));
	ASSERT_EQ(nr, count_on(area, 0, nr, area->node[0]));
	EXPECT_EQ(0, move_slots(area, 0, nr, area->node[0], NULL));
	for (int round = 0; round < 4; round++) {
		const int node = area->node[!(round % 2)];

		if (area->file >= 0 && round == 2) {
			renew(&(struct exmap) { .region = area->region }, 3 * area->pages);
			EXPECT_EQ(EXMAP_SLOT_DIRTY, query(area, 3) & EXMAP_SLOT_DIRTY);
		}
		EXPECT_EQ(nr, move_slots(area, 0, nr, node, NULL));
		EXPECT_EQ(nr, count_on(area, 0, nr, node));
		for (int i = 0; i < nr; i++) {
			const bool written = area->file < 0 || (round >= 2 && i == 3);

			EXPECT_EQ(written ? EXMAP_SLOT_DIRTY : 0,
				  query(area, i) & (EXMAP_SLOT_DIRTY | EXMAP_SLOT_BUSY));
			if (i != 3 || area->file < 0 || round < 2)
				EXPECT_TRUE(is_whole(area, i));
		}
		EXPECT_EQ(0, move_slots(area, 0, nr, node, NULL));
	}
	if (area->file >= 0)
		EXPECT_TRUE(page_is(slot_at(area, 3), NEW(3 * area->pages)));
}

/* A full pool is enough: what it owns does not grow */
TEST_F(move, full_pool)
{
	struct area *area = &self->area;
	const long owned = area->buffer * area->pages;

	ASSERT_EQ(area->buffer, fill_on(area, area->node[0], 0, area->buffer));
	ASSERT_EQ(-ENOMEM, one(area, EXMAP_OP_ALLOC, area->buffer, 1));
	EXPECT_EQ(owned, ex_owned(area->fd));
	EXPECT_EQ(area->buffer, move_slots(area, 0, area->buffer, area->node[1], NULL));
	EXPECT_EQ(area->buffer, count_on(area, 0, area->buffer, area->node[1]));
	EXPECT_EQ(owned, ex_owned(area->fd));
	EXPECT_EQ(-ENOMEM, one(area, EXMAP_OP_ALLOC, area->buffer, 1));
}

/* Free pages of the node are taken before others, and the old pages become free ones */
TEST_F(move, free_pages_of_the_node)
{
	struct area *area = &self->area;
	const int half = area->buffer / 2;

	for (int round = 0; round < 4; round++) {
		ASSERT_EQ(half, fill_on(area, area->node[1], half, half));
		ASSERT_EQ(half, one(area, EXMAP_OP_FREE, half, half));
		ASSERT_EQ(half, fill_on(area, area->node[0], 0, half));
		ASSERT_EQ(half, count_on(area, 0, half, area->node[0]));
		EXPECT_EQ(half, move_slots(area, 0, half, area->node[1], NULL));
		EXPECT_EQ(half, count_on(area, 0, half, area->node[1]));
		EXPECT_EQ(area->buffer * area->pages, ex_owned(area->fd));
		EXPECT_EQ(half, fill_on(area, area->node[0], half, half));
		EXPECT_EQ(half, count_on(area, half, half, area->node[0]));
		EXPECT_EQ(area->buffer * area->pages, ex_owned(area->fd));
		EXPECT_EQ(area->buffer, one(area, EXMAP_OP_FREE, 0, area->buffer));
	}
}

/* Empty slots, and those that are on the node, are left alone */
TEST_F(move, what_there_is_to_move)
{
	struct area *area = &self->area;
	struct exmap_vec vecs[8];
	struct exmap_result results[8];

	ASSERT_EQ(2, fill_on(area, area->node[0], 1, 2));
	ASSERT_EQ(2, fill_on(area, area->node[1], 5, 2));
	EXPECT_EQ(2, move_slots(area, 0, SLOTS, area->node[1], NULL));
	EXPECT_EQ(2, count_on(area, 1, 2, area->node[1]));
	EXPECT_EQ(4, move_slots(area, 0, SLOTS, area->node[0], NULL));
	EXPECT_EQ(0, move_slots(area, 10, 0, area->node[1], NULL));

	/* Among other vectors, and to several nodes */
	vecs[0] = move_vec(1, 1, area->node[1]);
	vecs[1] = move_vec(2, 1, area->node[1]);
	vecs[2] = ex_vec(EXMAP_OP_FREE, 2, 1, 0);
	vecs[3] = ex_vec(EXMAP_OP_ALLOC, 20, 1, 0);
	vecs[4] = move_vec(20, 1, area->node[1]);
	vecs[5] = move_vec(20, 1, area->node[0]);
	vecs[6] = move_vec(5, 1, area->node[1]);
	vecs[7] = move_vec(40, 5, area->node[1]);
	ASSERT_EQ(0, set_policy(MPOL_BIND, 1UL << area->node[0]));
	ASSERT_EQ(0, vectors(area, 1, vecs, results, 8));
	for (int i = 0; i < 8; i++) {
		EXPECT_EQ(0, results[i].res);
		/* The free page for slot 20 may be on either node */
		if (i != 4 && i != 5)
			EXPECT_EQ(i != 7, results[i].pages);
	}
	EXPECT_TRUE(is_whole(area, 1));
	EXPECT_EQ(0, query(area, 2));
	EXPECT_TRUE(is_whole(area, 5));
	EXPECT_EQ(1, count_on(area, 1, 1, area->node[1]));
	EXPECT_EQ(1, count_on(area, 5, 1, area->node[1]));
	EXPECT_EQ(1, count_on(area, 20, 1, area->node[0]));
}

/* A slot that has lost a part stays as it is */
TEST_F(move, part_of_a_slot)
{
	struct area *area = &self->area;
	const size_t at = (area->pages / 2) * PG;

	if (area->pages == 1)
		SKIP(return, "a page has no parts");
	ASSERT_EQ(3, fill_on(area, area->node[0], 0, 3));
	ASSERT_EQ(0, madvise(slot_at(area, 1) + at, PG, MADV_DONTNEED));
	EXPECT_EQ(2, move_slots(area, 0, 3, area->node[1], NULL));
	EXPECT_FALSE(present(slot_at(area, 1) + at));
	EXPECT_TRUE(present(slot_at(area, 1)));
	EXPECT_EQ(area->node[0], node_of(slot_at(area, 1)));
	EXPECT_EQ(3, one(area, EXMAP_OP_FREE, 0, 3));
}

/* A page that is held elsewhere stays; the others are moved */
TEST_F(move, held_page)
{
	struct area *area = &self->area;
	int pipefd[2], pages;
	struct iovec iov;

	ASSERT_EQ(3, fill_on(area, area->node[0], 0, 3));
	iov.iov_base = slot_at(area, 1) + (area->pages - 1) * PG;
	iov.iov_len = PG;
	ASSERT_EQ(0, pipe(pipefd));
	ASSERT_EQ((ssize_t)PG, vmsplice(pipefd[1], &iov, 1, 0));
	EXPECT_EQ(-EBUSY, move_slots(area, 0, 3, area->node[1], &pages));
	EXPECT_EQ(2, pages);
	EXPECT_EQ(2, count_on(area, 0, 3, area->node[1]));
	EXPECT_EQ(1, count_on(area, 1, 1, area->node[0]));
	for (int i = 0; i < 3; i++)
		EXPECT_TRUE(is_whole(area, i));
	/* It is the same page: what is written to it arrives at the other end */
	*(char *)iov.iov_base = 'x';
	close(pipefd[1]);
	EXPECT_EQ(1, read(pipefd[0], &pages, 1));
	EXPECT_EQ('x', *(char *)&pages);
	close(pipefd[0]);
	EXPECT_EQ(1, move_slots(area, 0, 3, area->node[1], NULL));
	EXPECT_EQ('x', *(char *)iov.iov_base);
}

TEST_F(move, errors)
{
	struct area *area = &self->area;
	struct exmap_vec vec = move_vec(0, 1, area->node[1]);
	struct exmap_result result;
	int node = 0, pages;

	ASSERT_EQ(1, fill_on(area, area->node[0], 0, 1));
	while (node < 1000 && node_has_memory(node))
		node++;
	EXPECT_EQ(-ENODEV, move_slots(area, 0, 1, node, NULL));
	EXPECT_EQ(-ENODEV, move_slots(area, 0, 1, 0xffff, NULL));
	EXPECT_EQ(-ERANGE, move_slots(area, SLOTS - 1, 2, area->node[1], &pages));
	EXPECT_EQ(0, pages);
	EXPECT_EQ(-ERANGE, move_slots(area, 1L << 60, 1, area->node[1], NULL));
	for (int flag = 1; flag < 256; flag *= 2) {
		vec.flags = flag;
		EXPECT_EQ(1, vectors(area, 0, &vec, &result, 1));
		EXPECT_EQ(-EINVAL, result.res);
	}
	vec = ex_vec(EXMAP_OP_FREE, 0, 1, 0);
	vec.node = 1;
	EXPECT_EQ(1, vectors(area, 0, &vec, &result, 1));
	EXPECT_EQ(-EINVAL, result.res);
	EXPECT_EQ(1, count_on(area, 0, 1, area->node[0]));
	EXPECT_TRUE(is_whole(area, 0));
}

/* Through io_uring */
TEST_F(move, uring)
{
	struct area *area = &self->area;
	struct command command;
	struct ring ring;

	ASSERT_EQ(0, ring_open(&ring, 8));
	ASSERT_EQ(4, fill_on(area, area->node[0], 0, 4));
	command_init(&command, 2);
	command_add(&command, EXMAP_OP_MOVE, 0, 4, 0);
	command.vecs[0].node = area->node[1];
	command_add(&command, EXMAP_OP_FREE, 3, 1, 0);
	prep_command(ring_sqe(&ring), area->fd, &command);
	EXPECT_EQ(0, ring_run(&ring));
	EXPECT_EQ(4, command.results[0].pages);
	EXPECT_EQ(1, command.results[1].pages);
	EXPECT_EQ(3, count_on(area, 0, 3, area->node[1]));
	ring_close(&ring);
}

/*
 * In a memory cgroup that is full, every page that was moved makes room for another one. The
 * test process is alone in the cgroup.
 */
TEST_F(move, full_cgroup)
{
	struct area *area = &self->area;
	const int nr = area->buffer;
	struct cgroup cg;
	const char *missing;
	char limit[32];

	if (area->pages > MAX_BUFFER)
		SKIP(return, "a few pages would be all");
	missing = cgroup_create(&cg);
	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, cgroup_join(cg.path));
	ASSERT_EQ(nr, fill_on(area, area->node[0], 0, nr));
	snprintf(limit, sizeof(limit), "%ld", cgroup_read(cg.path, "memory.current") +
		 4 * (long)area->size + 16 * (long)PG);
	EXPECT_EQ(0, cgroup_write(cg.path, "memory.max", limit));
	EXPECT_EQ(nr, move_slots(area, 0, nr, area->node[1], NULL));
	EXPECT_EQ(nr, count_on(area, 0, nr, area->node[1]));
	EXPECT_EQ(0, cgroup_write(cg.path, "memory.max", "max"));
	EXPECT_EQ(0, cgroup_read_key(cg.path, "memory.events", "oom_kill"));
	EXPECT_EQ(0, cgroup_join(cg.root));
	EXPECT_EQ(0, cgroup_destroy(&cg));
}

/* A thread may only use the nodes of its cpuset */
TEST_F(move, cpuset)
{
	struct area *area = &self->area;
	struct cgroup cg;
	const char *missing = cgroup_create(&cg);
	char nodes[16];

	if (missing)
		SKIP(return, "%s", missing);
	snprintf(nodes, sizeof(nodes), "%d", area->node[0]);
	if (cgroup_write(cg.root, "cgroup.subtree_control", "+cpuset") ||
	    cgroup_write(cg.path, "cpuset.mems", nodes)) {
		cgroup_destroy(&cg);
		SKIP(return, "no cpusets");
	}
	ASSERT_EQ(2, fill_on(area, area->node[0], 0, 2));
	ASSERT_EQ(0, cgroup_join(cg.path));
	EXPECT_EQ(-EACCES, move_slots(area, 0, 2, area->node[1], NULL));
	EXPECT_EQ(2, count_on(area, 0, 2, area->node[0]));
	EXPECT_EQ(0, move_slots(area, 0, 2, area->node[0], NULL));
	ASSERT_EQ(0, cgroup_join(cg.root));
	EXPECT_EQ(2, move_slots(area, 0, 2, area->node[1], NULL));
	EXPECT_EQ(0, cgroup_destroy(&cg));
}

/* Beside a move, accesses fault or hit the right page, and no write is lost */
struct beside {
	struct area *area;
	int slots;
	int stop;
};

/* Count in a word of a slot. Returns whether there was a page. */
static bool count_up(__u64 *word)
{
	bool done = false;

	fault_expected = true;
	if (!sigsetjmp(fault_jump, 0)) {
		__atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
		done = true;
	}
	fault_expected = false;
	return done;
}

/* What a thread has counted in each slot */
static __thread __u64 slot_counts[MAX_BUFFER];

static void *count_in_slots(void *arg)
{
	struct worker *w = arg;
	struct beside *beside = w->arg;
	struct area *area = beside->area;
	const size_t at = (area->pages - 1) * PG + 64 * (w->index + 1);

	pthread_barrier_wait(&start_line);
	while (!__atomic_load_n(&beside->stop, __ATOMIC_RELAXED)) {
		const int slot = random_below(&w->random, beside->slots);
		__u64 *word = (void *)(slot_at(area, slot) + at);

		if (w->index && random_below(&w->random, 4) == 0) {
			const int ret = one(area, EXMAP_OP_ALLOC, slot, 1);

			/* -ENOMEM: the pool has no page that it could put into the slot */
			if (BROKE(w, ret && ret != -EBUSY && ret != -ENOMEM, ret))
				break;
		} else if (count_up(word)) {
			slot_counts[slot]++;
		}
	}
	for (int i = 0; i < beside->slots; i++) {
		__u64 value = 0;

		while (try_read(slot_at(area, i) + at, &value))
			sched_yield();
		if (BROKE(w, value != slot_counts[i], i))
			break;
	}
	return NULL;
}

static void *move_slots_about(void *arg)
{
	struct worker *w = arg;
	struct beside *beside = w->arg;
	struct area *area = beside->area;
	const int rounds = scaled(area->pages > 64 ? 40 : 400);

	pthread_barrier_wait(&start_line);
	for (int i = 0; i < rounds; i++) {
		const int first = random_below(&w->random, beside->slots);
		const int len = 1 + random_below(&w->random, beside->slots - first);
		const int ret = move_slots(area, first, len, area->node[i % 2], NULL);

		if (BROKE(w, ret < 0, ret))
			break;
	}
	__atomic_store_n(&beside->stop, 1, __ATOMIC_RELAXED);
	return NULL;
}

static void *workers_of_move(void *arg)
{
	struct worker *w = arg;

	return w->index == 2 ? move_slots_about(arg) : count_in_slots(arg);
}

TEST_F_TIMEOUT(move, beside_writes, SLOW)
{
	struct area *area = &self->area;
	struct beside beside = { .area = area, .slots = 8 };
	struct worker w[3];

	ASSERT_EQ(beside.slots, one(area, EXMAP_OP_ALLOC, 0, beside.slots));
	for (int i = 0; i < beside.slots; i++)
		memset(slot_at(area, i), 0, area->size);
	run_workers(_metadata, w, 3, workers_of_move, NULL, &beside);
}

/* MADV_DONTNEED drops pages as at other times */
static void *drop_slots(void *arg)
{
	struct worker *w = arg;
	struct beside *beside = w->arg;
	struct area *area = beside->area;

	if (w->index == 2)
		return move_slots_about(arg);
	pthread_barrier_wait(&start_line);
	while (!__atomic_load_n(&beside->stop, __ATOMIC_RELAXED)) {
		const int slot = random_below(&w->random, beside->slots);
		int ret;

		if (w->index) {
			ret = madvise(slot_at(area, slot), area->size, MADV_DONTNEED);
		} else {
			ret = one(area, EXMAP_OP_ALLOC, slot, 1);
			ret = ret > 0 || ret == -EBUSY || ret == -ENOMEM ? 0 : ret;
		}
		if (BROKE(w, ret, ret))
			break;
	}
	return NULL;
}

TEST_F_TIMEOUT(move, beside_madvise, SLOW)
{
	struct area *area = &self->area;
	struct beside beside = { .area = area, .slots = 8 };
	struct worker w[3];

	run_workers(_metadata, w, 3, drop_slots, NULL, &beside);
}

TEST_HARNESS_MAIN
