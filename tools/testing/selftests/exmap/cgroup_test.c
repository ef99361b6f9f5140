// SPDX-License-Identifier: GPL-2.0
/*
 * An exmap in a memory cgroup. At the limit, calls fail with ENOMEM, and no process is
 * killed as long as the pool has free pages. Freeing memory does not need memory. The
 * pages that are charged and counted are those that the pool owns.
 *
 * Each test runs in a child process that is alone in its cgroup. Only this child can be
 * hit by the OOM killer, and the parent reports that as a failure of the test.
 */
#include "common.h"
#include "backing.h"
#include "cgroup.h"
#include "status.h"

#define MIB		256L		/* pages in a MiB */
#define TABLE		512L		/* slots that a page table covers */
#define TIB		(1024 * 1024 * MIB)	/* slots of a region of 2^40 bytes */

/* Progress of the child, shared with the parent, which reports it if the child fails */
struct note {
	const char *what;
	long value;
};

/* A child in a cgroup, with an exmap */
struct member {
	struct cgroup cg;
	struct exmap ex;
	struct note *note;
	__u64 flags;		/* setup flags of the exmap */
	int limit;		/* memory.max, open for writing */
	long rss_file, rss;	/* RssFile and VmRSS before there is an exmap, in KiB */
	long rss_idle;		/* RssFile when the pool does not own any page, in KiB */
};

FIXTURE(cgroup) {
	struct member me;
};

FIXTURE_VARIANT(cgroup) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(cgroup, strict) {
};

FIXTURE_VARIANT_ADD(cgroup, deferred) {
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_SETUP(cgroup)
{
	const char *missing = cgroup_create(&self->me.cg);

	if (missing)
		SKIP(return, "%s", missing);
	self->me.flags = variant->flags;
	self->me.note = mmap(NULL, PG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			     -1, 0);
	ASSERT_NE(MAP_FAILED, self->me.note);
	self->me.note->what = "start";
}

/* Runs in the parent, even if a failed ASSERT_*() has ended the child */
FIXTURE_TEARDOWN_PARENT(cgroup)
{
	EXPECT_EQ(0, cgroup_destroy(&self->me.cg));
}

/* Uses atomic stores, so that the compiler does not sink them out of a loop */
static void note(struct member *me, const char *what, long value)
{
	__atomic_store_n(&me->note->what, what, __ATOMIC_RELAXED);
	__atomic_store_n(&me->note->value, value, __ATOMIC_RELAXED);
}

static void touch_stack(void)
{
	char stack[256 << 10];

	memset(stack, 0, sizeof(stack));
	__asm__ volatile("" : : "r"(stack) : "memory");
}

/*
 * Fork a child that joins the cgroup and has an exmap. All memory that the code of the
 * child uses is resident when this function returns: a page fault at the limit would
 * kill the child for a reason that has nothing to do with the driver.
 */
static pid_t enter(struct __test_metadata *_metadata, struct member *me, int backing,
		   int ifaces, int buffer, int pages)
{
	struct exmap_setup2 setup = { .flags = me->flags, .fd = backing };
	char path[160];
	pid_t pid;

	fflush(stdout);
	pid = fork();
	ASSERT_LE(0, pid);
	if (pid)
		return pid;
	ASSERT_EQ(0, cgroup_join(me->cg.path));
	snprintf(path, sizeof(path), "%s/memory.max", me->cg.path);
	me->limit = open(path, O_WRONLY | O_CLOEXEC);
	ASSERT_LE(0, me->limit);
	touch_stack();
	ASSERT_EQ(0, mlockall(MCL_CURRENT));
	status_kib("VmRSS:");
	me->rss_file = status_kib("RssFile:");
	me->rss = status_kib("VmRSS:");
	exmap_create2(_metadata, &me->ex, setup, ifaces, buffer, pages);
	me->rss_idle = status_kib("RssFile:");
	return 0;
}

/* Return the number of pool pages that count as resident file pages of the process */
static long counted(struct member *me)
{
	return (status_kib("RssFile:") - me->rss_idle) / 4;
}

static int set_limit(struct member *me, const char *limit)
{
	return pwrite(me->limit, limit, strlen(limit), 0) < 0 ? -errno : 0;
}

/*
 * End the child's part of a test: destroy the exmap and check that nothing remains
 * counted. Returns the exit status for the child.
 */
static int leave(struct __test_metadata *_metadata, struct member *me)
{
	EXPECT_EQ(0, set_limit(me, "max"));
	note(me, "destroy", 0);
	exmap_destroy(&me->ex);
	EXPECT_EQ(me->rss_file, status_kib("RssFile:"));
	EXPECT_GE(me->rss + 256, status_kib("VmRSS:"));
	return _metadata->exit_code;
}

/* Wait until a counter of a cgroup is at most @most: the kernel updates it in batches */
static long settle(const char *dir, const char *name, const char *key, long most)
{
	long value = -1;
	int i;

	for (i = 0; i < 200; i++) {
		value = key ? cgroup_read_key(dir, name, key) : cgroup_read(dir, name);
		if (value <= most)
			break;
		usleep(50000);
	}
	return value;
}

/* End the parent's part of a test: wait for the child and check its cgroup */
static void finish_with(struct __test_metadata *_metadata, struct member *me, pid_t pid,
			int status, int kills)
{
	const char *dir = me->cg.path;

	EXPECT_EQ(status, wait_child(pid))
		TH_LOG("at \"%s\" %ld", me->note->what, me->note->value);
	EXPECT_EQ(kills, cgroup_read_key(dir, "memory.events", "oom_kill"));
	EXPECT_EQ(0, settle(dir, "memory.stat", "file_mapped", 0));
	/* Each CPU may hold a stock of pages that are charged in advance */
	EXPECT_GE(8 << 20, settle(dir, "memory.current", NULL, 8 << 20));
}

static void finish(struct __test_metadata *_metadata, struct member *me, pid_t pid)
{
	finish_with(_metadata, me, pid, 0, 0);
}

/* ALLOC or READ from slot @first on, vector by vector, until memory runs out */
static long fill_to_limit(struct member *me, int opcode, long first, int len, long most,
			  int *error)
{
	struct exmap_result result;
	struct exmap_vec vec;
	long mapped = 0;
	int ret;

	do {
		note(me, "fill", mapped);
		vec = ex_vec(opcode, first + mapped, len, 0);
		result = (struct exmap_result){};
		ret = ex_vectors(&me->ex, 0, &vec, &result, 1);
		mapped += result.pages;
	} while (!ret && result.pages && mapped < most);
	*error = ret == 1 ? result.res : ret;
	return mapped;
}

static void stamp_pages(struct exmap *ex, long first, long pages)
{
	long i;

	for (i = first; i < first + pages; i++)
		stamp_page(page_at(ex, i), i);
}

static long count_intact(struct exmap *ex, long first, long pages)
{
	long i, intact = 0;

	for (i = first; i < first + pages; i++)
		intact += stamp_intact(page_at(ex, i), i);
	return intact;
}

/* Map and touch anonymous memory. Returns NULL if that takes longer than a minute. */
static char *touch_memory(struct member *me, size_t bytes)
{
	const time_t start = time(NULL);
	char *memory;
	size_t i;

	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	for (i = 0; i < bytes; i += PG) {
		note(me, "touch", i / PG);
		*(size_t *)(memory + i) = i;
		if (i % (64 * PG) == 0 && time(NULL) > start + 60) {
			munmap(memory, bytes);
			return NULL;
		}
	}
	return memory;
}

static bool memory_intact(const char *memory, size_t bytes)
{
	size_t i;

	for (i = 0; i < bytes; i += PG)
		if (*(const size_t *)(memory + i) != i)
			return false;
	return true;
}

/*
 * For tests that move the only page of a pool across the region: decide whether to
 * repeat a call that returned ENOMEM. If the kernel can reclaim empty page tables
 * (@go_back), ENOMEM is temporary, because such tables may still wait to be freed.
 * Otherwise it is permanent.
 */
static bool again(struct member *me, bool go_back, int *tries)
{
	note(me, "again", *tries);
	if (!go_back || ++*tries > 1000)
		return false;
	usleep(10000);
	return true;
}

TEST_F_TIMEOUT(cgroup, walk_one_by_one, SLOW)
{
	/* A region of 2^36 bytes, whose page tables take twice the limit */
	const int steps = 32768;
	const bool go_back = page_tables_go_back();
	struct member *me = &self->me;
	struct exmap *ex = &me->ex;
	int step, tries = 0, ret = 0;
	pid_t pid;

	pid = enter(_metadata, me, -1, 1, 1, steps * TABLE);
	if (!pid) {
		EXPECT_EQ(0, set_limit(me, "64M"));
		for (step = 0; step < steps; step++) {
			note(me, "walk", step);
			ret = ex_alloc(ex, 0, step * TABLE, 1);
			while (ret == -ENOMEM && again(me, go_back, &tries))
				ret = ex_alloc(ex, 0, step * TABLE, 1);
			if (ret != 1)
				break;
			ret = ex_free(ex, 0, step * TABLE, 1);
			if (ret != 1)
				break;
		}
		EXPECT_EQ(0, set_limit(me, "max"));
		EXPECT_EQ(go_back || step == steps ? 1 : -ENOMEM, ret);
		EXPECT_LE(go_back ? steps : 8192, step);
		/* The pool still has its one page */
		EXPECT_EQ(1, ex_alloc(ex, 0, 5, 1));
		EXPECT_EQ(-ENOMEM, ex_alloc(ex, 0, 6, 1));
		_exit(leave(_metadata, me));
	}
	finish(_metadata, me, pid);
}

#define CHUNK	1024

TEST_F_TIMEOUT(cgroup, walk_in_large_calls, SLOW)
{
	struct member *me = &self->me;
	static struct exmap_result results[2 * CHUNK];
	static struct exmap_vec vecs[2 * CHUNK];
	const bool go_back = page_tables_go_back();
	/* On slow machines, use only a quarter of the region */
	const long pages = scaled(100) < 40 ? TIB / 4 : TIB;
	struct exmap *ex = &me->ex;
	int i, nr, ret = 0, bad = 0, tries = 0;
	long page;
	pid_t pid;

	pid = enter(_metadata, me, -1, 1, 1, pages);
	if (!pid) {
		EXPECT_EQ(0, set_limit(me, "64M"));
		for (page = 0; page < pages && !bad; page += nr * TABLE) {
			note(me, "walk", page);
			for (i = 0; i < CHUNK && page + i * TABLE < pages; i++) {
				vecs[2 * i] = ex_vec(EXMAP_OP_ALLOC, page + i * TABLE, 1, 0);
				vecs[2 * i + 1] = ex_vec(EXMAP_OP_FREE, page + i * TABLE, 1, 0);
			}
			ret = ex_vectors(ex, 0, vecs, results, 2 * i);
			for (nr = 0; nr < i && ret >= 0; nr++) {
				bad = results[2 * nr].res ?: results[2 * nr + 1].res;
				if (bad)
					break;
			}
			if (ret < 0)
				bad = ret;
			if (bad == -ENOMEM && again(me, go_back, &tries))
				bad = 0;
		}
		EXPECT_EQ(0, set_limit(me, "max"));
		EXPECT_EQ(go_back || page == pages ? 0 : -ENOMEM, bad);
		EXPECT_LE(go_back ? pages : 8192 * TABLE, page);
		EXPECT_EQ(1, ex_alloc(ex, 0, 5, 1));
		EXPECT_EQ(-ENOMEM, ex_alloc(ex, 0, 6, 1));
		_exit(leave(_metadata, me));
	}
	finish(_metadata, me, pid);
}

/* With a limit of 128 MiB: 96 MiB of free pages, and 64 MiB wanted as anonymous memory */
#define KEPT	(8 * MIB)
#define SPARE	(96 * MIB)
#define WANTED	(64UL << 20)

static void make_free_pages(struct __test_metadata *_metadata, struct member *me)
{
	struct exmap *ex = &me->ex;
	int i;

	note(me, "free pages", 0);
	ASSERT_EQ(KEPT + SPARE, ex_fill(ex, 0, 0));
	stamp_pages(ex, 0, KEPT);
	/* Leave some of the free pages with each interface */
	for (i = 0; i < ex->ifaces; i++)
		ASSERT_EQ(100, ex_free(ex, i, KEPT + 100 * i, 100));
	ASSERT_EQ(SPARE - 100 * i, ex_drain(ex, 1, KEPT + 100 * i, SPARE - 100 * i));
	EXPECT_EQ(KEPT + SPARE, ex_owned(ex->fd));
}

TEST_F_TIMEOUT(cgroup, free_pages_give_way, SLOW)
{
	struct member *me = &self->me;
	struct exmap *ex = &me->ex;
	char *memory;
	pid_t pid;

	pid = enter(_metadata, me, -1, 8, KEPT + SPARE, KEPT + SPARE + MIB);
	if (!pid) {
		EXPECT_EQ(0, set_limit(me, "128M"));
		make_free_pages(_metadata, me);
		memory = touch_memory(me, WANTED);
		ASSERT_NE(NULL, memory);
		/* The pool has at most the rest of the 128 MiB */
		EXPECT_GT(64 * MIB, ex_owned(ex->fd));
		EXPECT_EQ(KEPT, count_intact(ex, 0, KEPT));
		EXPECT_TRUE(memory_intact(memory, WANTED));
		EXPECT_EQ(ex_owned(ex->fd), counted(me));

		/* The pool grows again once the memory is unmapped */
		munmap(memory, WANTED);
		note(me, "refill", 0);
		EXPECT_EQ(SPARE, ex_fill(ex, 2, KEPT));
		EXPECT_EQ(KEPT, count_intact(ex, 0, KEPT));
		_exit(leave(_metadata, me));
	}
	finish(_metadata, me, pid);
}

/* Free pages also give way to a process that has no exmap */
TEST_F_TIMEOUT(cgroup, free_pages_give_way_to_a_neighbour, SLOW)
{
	struct member *me = &self->me;
	struct exmap *ex = &me->ex;
	char *memory;
	pid_t pid, neighbour;

	pid = enter(_metadata, me, -1, 8, KEPT + SPARE, KEPT + SPARE + MIB);
	if (!pid) {
		EXPECT_EQ(0, set_limit(me, "128M"));
		make_free_pages(_metadata, me);
		neighbour = fork();
		if (!neighbour) {
			memory = touch_memory(me, WANTED);
			_exit(memory && memory_intact(memory, WANTED) ? 0 : 1);
		}
		EXPECT_EQ(0, wait_child(neighbour));
		EXPECT_GT(64 * MIB, ex_owned(ex->fd));
		EXPECT_EQ(KEPT, count_intact(ex, 0, KEPT));
		EXPECT_EQ(SPARE, ex_fill(ex, 2, KEPT));
		_exit(leave(_metadata, me));
	}
	finish(_metadata, me, pid);
}

/* FREE at the limit, when no memory is left */

/* Free from the last page to the first, with one vector per page */
static long free_scattered(struct exmap *ex, int iface, long pages)
{
	static struct exmap_result results[64];
	static struct exmap_vec vecs[64];
	long total = 0, page;
	int i, ret;

	for (page = pages; page > 0; page -= 64) {
		for (i = 0; i < 64; i++)
			vecs[i] = ex_vec(EXMAP_OP_FREE, page > i ? page - i - 1 : 0, 1, 0);
		ret = ex_vectors(ex, iface, vecs, results, 64);
		if (ret)
			return ret;
		for (i = 0; i < 64; i++)
			total += results[i].pages;
	}
	return total;
}

static long free_all(struct exmap *ex, int iface, bool scattered, long pages)
{
	return scattered ? free_scattered(ex, iface, pages) : ex_drain(ex, iface, 0, pages);
}

static void free_at_limit(struct __test_metadata *_metadata, struct member *me, int iface,
			  bool scattered)
{
	struct exmap *ex = &me->ex;
	long mapped, freed, mapped_again, freed_again;
	int error, error_again;
	pid_t pid;

	pid = enter(_metadata, me, -1, 3, 128 * MIB, 256 * MIB);
	if (!pid) {
		EXPECT_EQ(0, set_limit(me, "64M"));
		mapped = fill_to_limit(me, EXMAP_OP_ALLOC, 0, 512, 128 * MIB, &error);
		note(me, "free", mapped);
		freed = free_all(ex, iface, scattered, mapped);
		/* Twice: the first FREE may have left memory for the second */
		mapped_again = fill_to_limit(me, EXMAP_OP_ALLOC, 0, 512, 128 * MIB,
					     &error_again);
		note(me, "free again", mapped_again);
		freed_again = free_all(ex, iface, scattered, mapped_again);
		EXPECT_EQ(0, set_limit(me, "max"));

		EXPECT_EQ(-ENOMEM, error);
		EXPECT_LT(48 * MIB, mapped);
		EXPECT_GT(64 * MIB, mapped);
		/* Stop here on failure: the next steps would wait for these pages */
		ASSERT_EQ(mapped, freed);
		EXPECT_EQ(-ENOMEM, error_again);
		EXPECT_LT(48 * MIB, mapped_again);
		ASSERT_EQ(mapped_again, freed_again);
		EXPECT_EQ(128 * MIB, ex_fill(ex, 0, 0));
		_exit(leave(_metadata, me));
	}
	finish(_metadata, me, pid);
}

TEST_F_TIMEOUT(cgroup, free_at_limit, SLOW)
{
	free_at_limit(_metadata, &self->me, 0, false);
}

TEST_F_TIMEOUT(cgroup, free_at_limit_by_another_interface, SLOW)
{
	free_at_limit(_metadata, &self->me, 2, false);
}

TEST_F_TIMEOUT(cgroup, free_at_limit_scattered, SLOW)
{
	free_at_limit(_metadata, &self->me, 2, true);
}

/*
 * The driver is not told about MADV_DONTNEED, but a later ALLOC must find the pages that
 * it unmapped. With @step 1, all slots share a page table, so that ALLOC needs only pages.
 * With @step TABLE, each slot needs its own page table, so that some of the pages must go
 * back to the system to make room for page tables.
 */
static void dontneed_at_limit(struct __test_metadata *_metadata, struct member *me,
			      int step, int wanted)
{
	struct exmap *ex = &me->ex;
	int error, tries, ret = 0;
	long mapped, found, first;
	pid_t pid;

	pid = enter(_metadata, me, -1, 1, 128 * MIB, 256 * MIB);
	if (!pid) {
		/* The first slot of a page table behind the filled part of the region */
		first = 128 * MIB / PG + TABLE - (unsigned long)ex->region / PG % TABLE;
		EXPECT_EQ(0, set_limit(me, "64M"));
		mapped = fill_to_limit(me, EXMAP_OP_ALLOC, 0, 512, 128 * MIB, &error);
		note(me, "dontneed", mapped);
		madvise(ex->region, mapped * PG, MADV_DONTNEED);
		for (found = 0, tries = 0; found < wanted && tries < 2000; tries++) {
			note(me, "find", found);
			ret = ex_alloc(ex, 0, first + found * step, 1);
			found += ret == 1;
			/* Page tables that madvise() freed stay charged for a moment */
			if (!found)
				usleep(1000);
		}
		EXPECT_EQ(0, set_limit(me, "max"));
		EXPECT_LT(48 * MIB, mapped);
		EXPECT_EQ(-ENOMEM, error);
		EXPECT_EQ(wanted, found)
			TH_LOG("last answer %d", ret);
		_exit(leave(_metadata, me));
	}
	finish(_metadata, me, pid);
}

TEST_F_TIMEOUT(cgroup, dontneed_at_limit, SLOW)
{
	dontneed_at_limit(_metadata, &self->me, 1, TABLE);
}

TEST_F_TIMEOUT(cgroup, dontneed_at_limit_for_tables, SLOW)
{
	dontneed_at_limit(_metadata, &self->me, TABLE, 63);
}

/* SETUP fails with ENOMEM if the interfaces need more memory than is left */
TEST_F_TIMEOUT(cgroup, setup_at_limit, SLOW)
{
	struct member *me = &self->me;
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .max_interfaces = 65536, .buffer_size = 1, .fd = -1,
		.flags = me->flags,
	};
	char limit[32];
	pid_t pid;
	int fd;

	pid = enter(_metadata, me, -1, 1, 1, 1);
	if (!pid) {
		fd = open(DEVICE, O_RDWR | O_CLOEXEC);
		ASSERT_LE(0, fd);
		note(me, "set up", 0);
		snprintf(limit, sizeof(limit), "%ld",
			 cgroup_read(me->cg.path, "memory.current") + 2 * MIB * (long)PG);
		EXPECT_EQ(0, set_limit(me, limit));
		EXPECT_EQ(-1, ioctl(fd, EXMAP_IOCTL_SETUP2, &setup));
		EXPECT_EQ(ENOMEM, errno);
		EXPECT_EQ(0, set_limit(me, "max"));
		EXPECT_EQ(0, ioctl(fd, EXMAP_IOCTL_SETUP2, &setup));
		close(fd);
		_exit(leave(_metadata, me));
	}
	finish(_metadata, me, pid);
}

/* Map pages, each of which needs its own page table, until memory runs out */
static void sparse_pages(struct __test_metadata *_metadata, struct member *me, int opcode)
{
	const long most = 16384;
	struct exmap *ex = &me->ex;
	long i, mapped = 0, late = 0, again = 0, intact = 0, freed = 0;
	int backing, ret;
	pid_t pid;

	backing = memfd_create("backing", MFD_CLOEXEC);
	ASSERT_LE(0, backing);
	ASSERT_EQ(0, ftruncate(backing, most * TABLE * PG));
	pid = enter(_metadata, me, backing, 1, most, most * TABLE);
	if (!pid) {
		EXPECT_EQ(0, set_limit(me, "64M"));
		do {
			note(me, "sparse", mapped);
			ret = ex_one(ex, 0, opcode, mapped * TABLE, 1);
			mapped += ret == 1;
		} while (ret == 1 && mapped < most);
		/* At the limit, more calls are refused; each tries another slot */
		for (i = mapped; i < mapped + 100 && i < most; i++) {
			note(me, "refused", i);
			late += ex_one(ex, 0, opcode, i * TABLE, 1) == 1;
		}
		for (i = 0; i < mapped; i++)
			stamp_page(page_at(ex, i * TABLE), i);
		for (i = 0; i < mapped; i++)
			intact += stamp_intact(page_at(ex, i * TABLE), i);
		for (i = 0; i < most; i++) {
			note(me, "free", i);
			freed += ex_free(ex, 0, i * TABLE, 1) == 1;
		}
		note(me, "alloc", 0);
		for (i = 0; i < 100; i++)
			again += ex_one(ex, 0, opcode, i * TABLE, 1) == 1;
		EXPECT_EQ(0, set_limit(me, "max"));

		EXPECT_EQ(-ENOMEM, ret);
		/* Each slot takes two pages, one of them for its page table */
		EXPECT_LT(6000, mapped);
		EXPECT_GT(8192, mapped);
		EXPECT_EQ(mapped, intact);
		EXPECT_EQ(mapped + late, freed);
		EXPECT_EQ(100, again);
		_exit(leave(_metadata, me));
	}
	finish(_metadata, me, pid);
	close(backing);
}

TEST_F_TIMEOUT(cgroup, sparse_alloc, SLOW)
{
	sparse_pages(_metadata, &self->me, EXMAP_OP_ALLOC);
}

TEST_F_TIMEOUT(cgroup, sparse_read, SLOW)
{
	sparse_pages(_metadata, &self->me, EXMAP_OP_READ);
}

/* READ at the limit, with the page cache charged to the parent's cgroup */
static void read_at_limit(struct __test_metadata *_metadata, struct member *me, enum backing kind)
{
	const int pages = 32 * MIB;
	int backing, fd, error, ret, again, freed, reread;
	struct exmap *ex = &me->ex;
	long end, mapped, i, right;
	pid_t pid;

	backing = make_backing(_metadata, kind, pages, &fd, &end);
	if (backing < 0)
		SKIP(return, "no such file");
	pid = enter(_metadata, me, backing, 2, pages, pages);
	if (!pid) {
		EXPECT_EQ(0, set_limit(me, "24M"));
		mapped = fill_to_limit(me, EXMAP_OP_READ, 0, 64, pages - 64, &error);
		note(me, "read more", mapped);
		ret = ex_one(ex, 1, EXMAP_OP_READ, pages - 32, 32);
		/* Free the pages that were read, if any: they must not be counted below */
		ex_free(ex, 1, pages - 32, 32);
		note(me, "free", 0);
		/* Free more pages than are read again: the calls need some memory, too */
		freed = ex_free(ex, 0, 0, 80);
		note(me, "read again", 0);
		again = ex_one(ex, 1, EXMAP_OP_READ, 0, 20);
		reread = ex_vec_one(ex, 0, EXMAP_OP_READ, 20, 20, EXMAP_VEC_REPLACE);
		EXPECT_EQ(20, again);
		EXPECT_EQ(20, reread);
		for (i = 0, right = 0; i < mapped; i++)
			right += present(page_at(ex, i)) && page_is(page_at(ex, i), i);
		EXPECT_EQ(0, set_limit(me, "max"));

		EXPECT_EQ(-ENOMEM, error);
		EXPECT_LT(14 * MIB, mapped);
		EXPECT_GT(24 * MIB, mapped);
		EXPECT_TRUE(ret == -ENOMEM || ret == 32)
			TH_LOG("READ: %d", ret);
		EXPECT_EQ(80, freed);
		EXPECT_EQ(mapped - 40, right);
		EXPECT_EQ(mapped - 40, ex_drain(ex, 0, 0, pages));
		_exit(leave(_metadata, me));
	}
	finish(_metadata, me, pid);
	close(backing);
	close(fd);
}

TEST_F_TIMEOUT(cgroup, read_memfd_at_limit, SLOW)
{
	read_at_limit(_metadata, &self->me, MEMFD);
}

TEST_F_TIMEOUT(cgroup, read_file_at_limit, SLOW)
{
	read_at_limit(_metadata, &self->me, FILE_BUFFERED);
}

TEST_F_TIMEOUT(cgroup, read_direct_at_limit, SLOW)
{
	read_at_limit(_metadata, &self->me, FILE_DIRECT);
}

TEST_F_TIMEOUT(cgroup, read_block_device_at_limit, SLOW)
{
	read_at_limit(_metadata, &self->me, BLOCK_DIRECT);
}

/*
 * Threads that keep exchanging pages: each call frees slots in one half of the thread's
 * range and fills the corresponding slots in the other half
 */

#define THREADS	3
#define SWAPPED	64
#define RANGE	(8 * SWAPPED)	/* slots per thread, at most half of them resident */

struct swappers {
	struct worker w[THREADS];
	bool stop;
	long swaps;
};

static void *swap_pages(void *arg)
{
	static __thread struct exmap_result results[2 * SWAPPED];
	static __thread struct exmap_vec vecs[2 * SWAPPED];
	struct worker *w = arg;
	struct swappers *swappers = w->arg;
	const long first = w->index * RANGE;
	bool full[RANGE] = {};
	struct exmap *ex = w->ex;
	long round = 0, slot;
	int i, ret;

	pthread_barrier_wait(&start_line);
	while (!__atomic_load_n(&swappers->stop, __ATOMIC_RELAXED)) {
		for (i = 0; i < SWAPPED; i++) {
			slot = (round * SWAPPED + i) % RANGE;
			vecs[i] = ex_vec(EXMAP_OP_FREE, first + slot, 1, 0);
			if (full[slot] && BROKE(w, !stamp_intact(page_at(ex, first + slot),
								 first + slot), slot))
				return NULL;
			full[slot] = false;
			slot = (slot + RANGE / 2) % RANGE;
			vecs[SWAPPED + i] = ex_vec(EXMAP_OP_ALLOC, first + slot, 1, 0);
		}
		ret = ex_vectors(ex, w->index, vecs, results, 2 * SWAPPED);
		/* The only acceptable error is ENOMEM from an ALLOC */
		if (BROKE(w, ret < 0, ret))
			return NULL;
		for (i = 0; i < SWAPPED; i++) {
			if (BROKE(w, results[i].res, results[i].res))
				return NULL;
			ret = results[SWAPPED + i].res;
			if (BROKE(w, ret && ret != -ENOMEM, ret))
				return NULL;
			slot = (round * SWAPPED + i + RANGE / 2) % RANGE;
			if (ret)
				continue;
			stamp_page(page_at(ex, first + slot), first + slot);
			full[slot] = true;
		}
		round++;
		__atomic_add_fetch(&swappers->swaps, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void start_swapping(struct __test_metadata *_metadata, struct member *me,
			   struct swappers *swappers)
{
	swappers->stop = false;
	swappers->swaps = 0;
	start_workers(_metadata, swappers->w, THREADS, swap_pages, &me->ex, swappers);
}

static void stop_swapping(struct __test_metadata *_metadata, struct swappers *swappers)
{
	__atomic_store_n(&swappers->stop, true, __ATOMIC_RELAXED);
	join_workers(_metadata, swappers->w, THREADS);
}

/* Repeatedly lower the limit so far that the pool must give up its free pages */
TEST_F_TIMEOUT(cgroup, limit_lowered_under_load, SLOW)
{
	struct member *me = &self->me;
	static const char * const limits[] = { "64M", "40M", "24M" };
	const long first = THREADS * RANGE, spare = 48 * MIB;
	static struct swappers swappers;
	struct exmap *ex = &me->ex;
	int round, i, rounds = scaled(4);
	long owned;
	pid_t pid;

	pid = enter(_metadata, me, -1, THREADS + 1, first + spare,
		    first + spare + MIB);
	if (!pid) {
		EXPECT_EQ(0, set_limit(me, "96M"));
		start_swapping(_metadata, me, &swappers);
		for (round = 0; round < rounds; round++) {
			note(me, "refill", round);
			for (i = 0; i < spare; i += MIB)
				EXPECT_EQ(MIB, ex_alloc(ex, THREADS, first + i, MIB));
			EXPECT_EQ(spare, ex_drain(ex, THREADS, first, spare));
			owned = ex_owned(ex->fd);
			EXPECT_LE(spare, owned);
			for (i = 0; i < (int)ARRAY_SIZE(limits); i++) {
				note(me, limits[i], round);
				EXPECT_EQ(0, set_limit(me, limits[i]));
				usleep(20000);
			}
			owned = ex_owned(ex->fd);
			EXPECT_GT(24 * MIB, owned);
			EXPECT_EQ(0, set_limit(me, "96M"));
		}
		stop_swapping(_metadata, &swappers);
		EXPECT_LT(10, swappers.swaps);
		_exit(leave(_metadata, me));
	}
	finish(_metadata, me, pid);
}

/* A thread that keeps charging memory and taking the mmap lock */
static void *map_and_unmap(void *arg)
{
	struct worker *w = arg;
	bool *stop = w->arg;
	char *memory;

	while (!__atomic_load_n(stop, __ATOMIC_RELAXED)) {
		memory = mmap(NULL, 4 * PG, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (BROKE(w, memory == MAP_FAILED, errno))
			break;
		memset(memory, 1, 4 * PG);
		munmap(memory, 4 * PG);
	}
	return NULL;
}

/*
 * Above memory.high, the kernel puts a thread that charges memory to sleep, possibly in
 * the middle of a call. All threads must make progress nevertheless. The excess is kept
 * small, because the sleep grows with its square.
 */
TEST_F_TIMEOUT(cgroup, high_is_no_deadlock, 120)
{
	struct member *me = &self->me;
	const long first = THREADS * RANGE, pages = 32 * MIB;
	static struct swappers swappers;
	struct exmap *ex = &me->ex;
	static bool stop;
	struct worker mapper = { .arg = &stop };
	char text[32];
	long i, end = pages;
	pid_t pid;

	pid = enter(_metadata, me, -1, THREADS + 1, first + pages,
		    first + pages + MIB);
	if (!pid) {
		start_swapping(_metadata, me, &swappers);
		while (__atomic_load_n(&swappers.swaps, __ATOMIC_RELAXED) < 100)
			usleep(1000);
		ASSERT_EQ(0, pthread_create(&mapper.thread, NULL, map_and_unmap, &mapper));
		snprintf(text, sizeof(text), "%ld",
			 cgroup_read(me->cg.path, "memory.current") + 16 * MIB * (long)PG);
		EXPECT_EQ(0, cgroup_write(me->cg.path, "memory.high", text));
		for (i = 0; i < end; i += 64) {
			note(me, "alloc", i);
			EXPECT_EQ(64, ex_alloc(ex, THREADS, first + i, 64));
			stamp_pages(ex, first + i, 64);
			/* Go on for 1 MiB above the limit */
			if (end == pages &&
			    cgroup_read_key(me->cg.path, "memory.events", "high"))
				end = i + 64 + MIB;
		}
		EXPECT_GT(pages, end);
		note(me, "stop", 0);
		__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
		ASSERT_EQ(0, pthread_join(mapper.thread, NULL));
		EXPECT_EQ(NULL, mapper.what);
		stop_swapping(_metadata, &swappers);
		EXPECT_EQ(0, cgroup_write(me->cg.path, "memory.high", "max"));
		EXPECT_EQ(i, count_intact(ex, first, i));
		EXPECT_EQ(i, ex_drain(ex, 0, first, i));
		_exit(leave(_metadata, me));
	}
	finish(_metadata, me, pid);
}

/* Above memory.high, free pages are reclaimed first, instead of throttling the process */
TEST_F_TIMEOUT(cgroup, high_takes_free_pages, SLOW)
{
	struct member *me = &self->me;
	const size_t bytes = 16 << 20;
	struct exmap *ex = &me->ex;
	char *memory;
	pid_t pid;

	pid = enter(_metadata, me, -1, 2, 28 * MIB, 32 * MIB);
	if (!pid) {
		ASSERT_EQ(28 * MIB, ex_fill(ex, 0, 0));
		stamp_pages(ex, 0, 4 * MIB);
		ASSERT_EQ(24 * MIB, ex_drain(ex, 0, 4 * MIB, 24 * MIB));
		EXPECT_EQ(0, cgroup_write(me->cg.path, "memory.high", "32M"));
		memory = touch_memory(me, bytes);
		EXPECT_EQ(0, cgroup_write(me->cg.path, "memory.high", "max"));
		ASSERT_NE(NULL, memory);
		EXPECT_GT(20 * MIB, ex_owned(ex->fd));
		EXPECT_EQ(4 * MIB, count_intact(ex, 0, 4 * MIB));
		EXPECT_TRUE(memory_intact(memory, bytes));
		munmap(memory, bytes);
		_exit(leave(_metadata, me));
	}
	finish(_metadata, me, pid);
}

/* Writing to memory.reclaim takes free pages although memory is not short */
TEST_F_TIMEOUT(cgroup, proactive_reclaim, SLOW)
{
	struct member *me = &self->me;
	struct exmap *ex = &me->ex;
	long owned;
	pid_t pid;
	int ret;

	pid = enter(_metadata, me, -1, 4, 20 * MIB, 32 * MIB);
	if (!pid) {
		ASSERT_EQ(20 * MIB, ex_fill(ex, 0, 0));
		stamp_pages(ex, 0, 4 * MIB);
		ASSERT_EQ(16 * MIB, ex_drain(ex, 1, 4 * MIB, 16 * MIB));
		EXPECT_EQ(20 * MIB, ex_owned(ex->fd));

		/* EAGAIN: the kernel did not count the pages as reclaimed */
		ret = cgroup_write(me->cg.path, "memory.reclaim", "8M");
		EXPECT_TRUE(!ret || ret == -EAGAIN);
		owned = ex_owned(ex->fd);
		EXPECT_GE(13 * MIB, owned);
		EXPECT_LE(4 * MIB, owned);
		EXPECT_EQ(owned, counted(me));

		/* Ask for more than the pool has free */
		ret = cgroup_write(me->cg.path, "memory.reclaim", "64M");
		EXPECT_TRUE(!ret || ret == -EAGAIN);
		owned = ex_owned(ex->fd);
		EXPECT_GE(6 * MIB, owned);
		EXPECT_LE(4 * MIB, owned);
		EXPECT_EQ(4 * MIB, count_intact(ex, 0, 4 * MIB));
		EXPECT_EQ(16 * MIB, ex_fill(ex, 2, 4 * MIB));
		_exit(leave(_metadata, me));
	}
	finish(_metadata, me, pid);
}

/*
 * A process that moves to another cgroup after SETUP. A page is charged to the cgroup of
 * the process at the time when the pool takes the page from the system, and it is
 * reclaimed when that cgroup is short of memory.
 */
TEST_F_TIMEOUT(cgroup, moved_after_setup, SLOW)
{
	struct member *me = &self->me;
	struct exmap *ex = &me->ex;
	/* Fits into the limit even if 8 MiB in quarantine cannot be reclaimed yet */
	const size_t bytes = 16 << 20;
	long mapped, freed;
	int error, limit;
	char other[160], path[192];
	char *memory;
	pid_t pid;

	snprintf(other, sizeof(other), "%s-2", me->cg.path);
	snprintf(path, sizeof(path), "%s/memory.max", other);
	ASSERT_EQ(0, mkdir(other, 0755));
	pid = enter(_metadata, me, -1, 2, 128 * MIB, 256 * MIB);
	if (!pid) {
		/* Charge 12 MiB to the first cgroup, of which 4 MiB stay resident */
		ASSERT_EQ(4 * MIB, ex_alloc(ex, 0, 0, 4 * MIB));
		stamp_pages(ex, 0, 4 * MIB);
		ASSERT_EQ(8 * MIB, ex_alloc(ex, 0, 4 * MIB, 8 * MIB));
		ASSERT_EQ(8 * MIB, ex_free(ex, 0, 4 * MIB, 8 * MIB));
		EXPECT_EQ(0, cgroup_join(other));
		limit = open(path, O_WRONLY | O_CLOEXEC);
		ASSERT_LE(0, limit);
		EXPECT_EQ(3, pwrite(limit, "32M", 3, 0));

		mapped = fill_to_limit(me, EXMAP_OP_ALLOC, 4 * MIB, 64, 128 * MIB, &error);
		note(me, "free", mapped);
		freed = ex_drain(ex, 1, 4 * MIB, mapped);
		memory = touch_memory(me, bytes);
		EXPECT_EQ(3, pwrite(limit, "max", 3, 0));

		EXPECT_EQ(-ENOMEM, error);
		/* 8 free MiB of the first cgroup, and up to 32 MiB of the second */
		EXPECT_LT((8 + 24) * MIB, mapped);
		EXPECT_GT((8 + 33) * MIB, mapped);
		EXPECT_EQ(mapped, freed);
		ASSERT_NE(NULL, memory);
		EXPECT_TRUE(memory_intact(memory, bytes));
		munmap(memory, bytes);

		/* Reclaim leaves the first cgroup little more than its resident pages */
		cgroup_write(me->cg.path, "memory.reclaim", "16M");
		EXPECT_GT(9L << 20, cgroup_read(me->cg.path, "memory.current"));
		EXPECT_EQ(4 * MIB, count_intact(ex, 0, 4 * MIB));
		_exit(leave(_metadata, me));
	}
	finish(_metadata, me, pid);
	EXPECT_EQ(0, settle(other, "memory.stat", "file_mapped", 0));
	EXPECT_EQ(0, cgroup_read_key(other, "memory.events", "oom_kill"));
	EXPECT_EQ(0, rmdir(other));
}

/*
 * A page counts as a resident file page of the process, and as mapped in the cgroup, as
 * long as the pool owns it, whether or not it is in a slot. Parked pages are an exception.
 */
TEST_F_TIMEOUT(cgroup, counts_are_those_of_the_pool, SLOW)
{
	struct member *me = &self->me;
	struct exmap *ex = &me->ex;
	struct iovec iov;
	int i, fds[2];
	long owned;
	pid_t pid;

	pid = enter(_metadata, me, -1, 4, 5000, 8000);
	if (!pid) {
		EXPECT_EQ(0, counted(me));
		EXPECT_EQ(1000, ex_alloc(ex, 0, 0, 1000));
		EXPECT_LE(1000, ex_owned(ex->fd));
		EXPECT_EQ(ex_owned(ex->fd), counted(me));
		EXPECT_EQ(500, ex_free(ex, 1, 0, 500));
		EXPECT_EQ(ex_owned(ex->fd), counted(me));
		EXPECT_EQ(4500, ex_fill(ex, 2, 1000));
		EXPECT_EQ(5000, counted(me));
		for (i = 0; i < 4; i++)
			EXPECT_EQ(1000, ex_free(ex, i, 1000 * (i + 1), 1000));
		EXPECT_EQ(5000, ex_owned(ex->fd));
		EXPECT_EQ(5000, counted(me));

		/*
		 * The cgroup counts the same pages, and some of the program itself, once
		 * it has added up its per-CPU counters.
		 */
		for (i = 0; i < 100; i++) {
			owned = cgroup_read_key(me->cg.path, "memory.stat", "file_mapped");
			if (owned >= 5000 * (long)PG && owned <= 5100 * (long)PG)
				break;
			usleep(50000);
		}
		EXPECT_LE(5000 * (long)PG, owned);
		EXPECT_GE(5100 * (long)PG, owned);

		/* RESIZE gives pages back to the system */
		EXPECT_EQ(0, ex_resize(ex->fd, 3000));
		EXPECT_EQ(3000, ex_owned(ex->fd));
		EXPECT_EQ(3000, counted(me));
		EXPECT_EQ(0, ex_resize(ex->fd, 5000));

		/* MADV_DONTNEED takes pages unknown to the driver; ALLOC finds them */
		EXPECT_EQ(1000, ex_drain(ex, 0, 0, 8000));
		EXPECT_EQ(5000, ex_fill(ex, 0, 0));
		EXPECT_EQ(5000, counted(me));
		EXPECT_EQ(0, madvise(ex->region, 2000 * PG, MADV_DONTNEED));
		EXPECT_EQ(3000, counted(me));
		for (i = 0; i < 1000 && count_present(ex, 0, 2000) < 2000; i++)
			ex_alloc(ex, 1, 0, 2000);
		EXPECT_EQ(5000, ex_owned(ex->fd));
		EXPECT_EQ(5000, counted(me));
		EXPECT_EQ(5000, count_present(ex, 0, 8000));

		/* A pipe holds references to pages: they are parked when they are freed */
		ASSERT_EQ(0, pipe(fds));
		iov = (struct iovec){ page_at(ex, 100), 4 * PG };
		EXPECT_EQ((ssize_t)(4 * PG), vmsplice(fds[1], &iov, 1, 0));
		EXPECT_EQ(5000, ex_drain(ex, 3, 0, 8000));
		EXPECT_EQ(5000, ex_owned(ex->fd));
		EXPECT_EQ(4996, ex_fill(ex, 2, 0));
		/* A parked page has lost its mapping reference, and need not be counted */
		EXPECT_LE(4996, counted(me));
		EXPECT_GE(5000, counted(me));
		/* The pipe still holds pages, which must not be counted at the end */
		_exit(leave(_metadata, me));
	}
	finish(_metadata, me, pid);
}

/* A process that the OOM killer rightly kills leaves no memory charged */
TEST_F_TIMEOUT(cgroup, killed_at_limit, SLOW)
{
	struct member *me = &self->me;
	pid_t pid;
	int error;

	pid = enter(_metadata, me, -1, 2, 128 * MIB, 256 * MIB);
	if (!pid) {
		set_limit(me, "64M");
		if (fill_to_limit(me, EXMAP_OP_ALLOC, 0, 64, 48 * MIB, &error) < 48 * MIB)
			_exit(1);
		/* Resident pages cannot be reclaimed, so this ends in an OOM kill */
		ex_free(&me->ex, 0, 0, 4 * MIB);
		touch_memory(me, 64 << 20);
		_exit(2);
	}
	finish_with(_metadata, me, pid, 128 + SIGKILL, 1);
}

TEST_HARNESS_MAIN
