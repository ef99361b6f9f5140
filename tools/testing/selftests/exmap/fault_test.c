// SPDX-License-Identifier: GPL-2.0
/*
 * Every access to an empty slot must raise SIGSEGV with the address of the access,
 * even on a CPU that had the page in its TLB when it was freed.
 */
#include "common.h"

FIXTURE(fault) {
	struct exmap ex;
};

FIXTURE_SETUP(fault)
{
	catch_faults();
	exmap_create(_metadata, &self->ex, -1, 2, 512, 2048);
}

FIXTURE_TEARDOWN(fault)
{
	exmap_destroy(&self->ex);
}

static void check_missing(struct __test_metadata *_metadata, char *page)
{
	static const int offsets[] = { 0, 1, 123, 2048, 4088, 4095 };
	unsigned int i;
	__u64 value;

	for (i = 0; i < ARRAY_SIZE(offsets); i++) {
		fault_address = NULL;
		EXPECT_EQ(SIGSEGV, try_read_byte(page + offsets[i]));
		EXPECT_EQ(page + offsets[i], fault_address);
		fault_address = NULL;
		EXPECT_EQ(SIGSEGV, try_write_byte(page + offsets[i], 1));
		EXPECT_EQ(page + offsets[i], fault_address);
	}
	EXPECT_EQ(SIGSEGV, try_read(page + 8, &value));
	EXPECT_EQ(page + 8, fault_address);
	EXPECT_FALSE(present(page));
}

TEST_F(fault, never_allocated)
{
	check_missing(_metadata, page_at(&self->ex, 0));
	check_missing(_metadata, page_at(&self->ex, 1000));
	check_missing(_metadata, page_at(&self->ex, 2047));
}

TEST_F(fault, freed)
{
	ASSERT_EQ(3, ex_alloc(&self->ex, 0, 100, 3));
	memset(page_at(&self->ex, 100), 1, 3 * PG);
	check_missing(_metadata, page_at(&self->ex, 99));
	check_missing(_metadata, page_at(&self->ex, 103));
	ASSERT_EQ(1, ex_free(&self->ex, 0, 101, 1));
	check_missing(_metadata, page_at(&self->ex, 101));
	EXPECT_EQ(0, try_read_byte(page_at(&self->ex, 100)));
	EXPECT_EQ(0, try_write_byte(page_at(&self->ex, 102), 2));
	ASSERT_EQ(0, madvise(page_at(&self->ex, 100), PG, MADV_DONTNEED));
	check_missing(_metadata, page_at(&self->ex, 100));
	ASSERT_EQ(1, ex_alloc(&self->ex, 1, 101, 1));
	EXPECT_EQ(0, try_write_byte(page_at(&self->ex, 101), 2));
}

TEST_F(fault, after_munmap)
{
	ASSERT_EQ(3, ex_alloc(&self->ex, 0, 100, 3));
	memset(page_at(&self->ex, 100), 1, 3 * PG);
	ASSERT_EQ(0, munmap(self->ex.region, 2048 * PG));
	check_missing(_metadata, page_at(&self->ex, 100));
}

TEST_F(fault, system_calls_get_efault)
{
	char *page = page_at(&self->ex, 10);
	int fd, pair[2];

	fd = open("/dev/zero", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-1, read(fd, page, 8));
	EXPECT_EQ(EFAULT, errno);
	ASSERT_EQ(0, pipe(pair));
	EXPECT_EQ(-1, write(pair[1], page, 8));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, ioctl(self->ex.fd, EXMAP_IOCTL_VECTORS, page));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_FALSE(present(page));

	ASSERT_EQ(1, ex_alloc(&self->ex, 0, 10, 1));
	stamp_page(page, 3);
	EXPECT_EQ(8, write(pair[1], page, 8));
	EXPECT_EQ(8, read(fd, page, 8));
	EXPECT_EQ(0, page[0]);
	EXPECT_EQ(8, read(pair[0], page, 8));
	EXPECT_TRUE(stamp_intact(page, 3));
	close(pair[0]);
	close(pair[1]);
	close(fd);
}

static void *fault_repeatedly(void *arg)
{
	struct worker *w = arg;
	char *page = page_at(w->ex, 64 + w->index);
	int i;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < 100; i++) {
		if (BROKE(w, try_read_byte(page + i) != SIGSEGV, i))
			break;
		if (BROKE(w, fault_address != page + i, (long)fault_address))
			break;
	}
	return NULL;
}

TEST_F_TIMEOUT(fault, survived_many_times_by_each_thread, SLOW)
{
	struct worker w[16];

	run_workers(_metadata, w, 16, fault_repeatedly, &self->ex, NULL);
}

TEST_F(fault, kills_without_a_handler)
{
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid) {
		struct exmap ex;

		exmap_create(_metadata, &ex, -1, 1, 4, 16);
		signal(SIGSEGV, SIG_DFL);
		signal(SIGBUS, SIG_DFL);
		page_at(&ex, 1)[0] = 1;
		_exit(0);
	}
	EXPECT_EQ(128 + SIGSEGV, wait_child(pid));
}

/*
 * Threads on other CPUs read the pages, so that their TLBs hold them, while
 * the pages are freed. A read that starts after FREE has returned must fault.
 */

#define MAX_READERS	7
#define SAMPLES		32

struct stale {
	struct exmap *ex;
	int pages[SAMPLES];	/* slots that the readers access */
	int count;
	bool asleep;		/* readers sleep during the FREE instead of reading */
	int wakeup[2];
	int rounds;

	int mapped;		/* last round whose pages are mapped */
	int freed;		/* last round whose pages have been freed */

	int loaded;		/* readers that have read all pages of the round */
	int checked;		/* readers that have seen all pages fault */
	int failed;		/* flag: all threads must stop */
};

static int load(int *number)
{
	return __atomic_load_n(number, __ATOMIC_SEQ_CST);
}

static void store(int *number, int value)
{
	__atomic_store_n(number, value, __ATOMIC_SEQ_CST);
}

static void add_one(int *number)
{
	__atomic_add_fetch(number, 1, __ATOMIC_SEQ_CST);
}

static __u64 stamp_of(int page)
{
	return page + 0x1234567890;
}

static bool reader_round(struct worker *w, struct stale *s, int round)
{
	int i = 0, page;
	__u64 value;
	char byte;

	while (load(&s->mapped) != round) {
		if (load(&s->failed))
			return false;
		sched_yield();
	}
	for (i = 0; i < s->count; i++) {
		page = s->pages[i];
		if (BROKE(w, try_read(page_at(s->ex, page), &value), page) ||
		    BROKE(w, value != stamp_of(page), value))
			return false;
	}
	add_one(&s->loaded);

	if (s->asleep && BROKE(w, read(s->wakeup[0], &byte, 1) != 1, errno))
		return false;
	while (load(&s->freed) != round) {
		page = s->pages[i++ % s->count];
		/* The page may be gone by now, but no other page may appear here */
		if (!try_read(page_at(s->ex, page), &value) &&
		    BROKE(w, value != stamp_of(page), value))
			return false;
		if (load(&s->failed))
			return false;
	}
	for (i = 0; i < s->count; i++) {
		page = s->pages[i];
		if (BROKE(w, try_read(page_at(s->ex, page), &value) != SIGSEGV, round))
			return false;
	}
	add_one(&s->checked);
	return true;
}

static void *reader(void *arg)
{
	struct worker *w = arg;
	struct stale *s = w->arg;
	int round;

	pin_to_cpu(1 + w->index);
	for (round = 1; round <= s->rounds; round++) {
		if (!reader_round(w, s, round)) {
			store(&s->failed, 1);
			break;
		}
	}
	return NULL;
}

FIXTURE(stale) {
	struct exmap ex;
};

FIXTURE_VARIANT(stale) {
	int vectors;	/* per FREE call */
	int len;	/* pages per vector */
	int gap;	/* slots between two vectors */
	bool asleep;
	int rounds;
};

FIXTURE_VARIANT_ADD(stale, one_page) {
	.vectors = 1,
	.len = 1,
	.rounds = 80,
};

FIXTURE_VARIANT_ADD(stale, scattered_pages) {
	.vectors = 64,
	.len = 1,
	.gap = 600,	/* so that each page has its own page table */
	.rounds = 25,
};

FIXTURE_VARIANT_ADD(stale, long_vectors) {
	.vectors = 3,
	.len = 300,
	.gap = 5,
	.rounds = 15,
};

FIXTURE_VARIANT_ADD(stale, sleeping_readers) {
	.vectors = 8,
	.len = 2,
	.gap = 3,
	.asleep = true,
	.rounds = 25,
};

FIXTURE_SETUP(stale)
{
	catch_faults();
	exmap_create(_metadata, &self->ex, -1, 2, variant->vectors * variant->len, 64 * 1024);
}

FIXTURE_TEARDOWN(stale)
{
	exmap_destroy(&self->ex);
}

TEST_F_TIMEOUT(stale, freed_under_readers, SLOW)
{
	int readers, total = variant->vectors * variant->len, stride, round, i, elsewhere;
	struct worker w[MAX_READERS];
	struct exmap *ex = &self->ex;
	struct stale s = {
		.ex = ex,
		.asleep = variant->asleep,
		.rounds = scaled(variant->rounds),
	};
	struct exmap_result results[64];
	struct exmap_vec vecs[64];
	cpu_set_t set;
	int pages = 0;

	ASSERT_GE((int)ARRAY_SIZE(vecs), variant->vectors);
	ASSERT_EQ(0, sched_getaffinity(0, sizeof(set), &set));
	readers = CPU_COUNT(&set) - 1;
	if (readers < 1)
		SKIP(return, "needs two CPUs");
	if (readers > MAX_READERS)
		readers = MAX_READERS;
	stride = variant->len + variant->gap;
	elsewhere = variant->vectors * stride;

	/* Sample the first and last page of the vectors, SAMPLES pages at most */
	for (i = 0; s.count < SAMPLES && i < variant->vectors; i++) {
		s.pages[s.count++] = i * stride;
		if (variant->len > 1 && s.count < SAMPLES)
			s.pages[s.count++] = i * stride + variant->len - 1;
	}
	ASSERT_EQ(0, pipe(s.wakeup));
	pin_to_cpu(0);
	start_workers(_metadata, w, readers, reader, ex, &s);

	for (round = 1; round <= s.rounds && !load(&s.failed); round++) {
		for (i = 0; i < variant->vectors; i++)
			vecs[i] = ex_vec(EXMAP_OP_ALLOC, i * stride, variant->len, 0);
		EXPECT_EQ(0, ex_vectors(ex, 0, vecs, results, variant->vectors));
		for (i = 0; i < s.count; i++)
			stamp_page(page_at(ex, s.pages[i]), stamp_of(s.pages[i]));
		store(&s.loaded, 0);
		store(&s.checked, 0);
		store(&s.mapped, round);
		while (load(&s.loaded) != readers && !load(&s.failed))
			sched_yield();
		/* Let the CPUs of the sleeping readers go idle */
		if (variant->asleep)
			usleep(2000);

		for (i = 0; i < variant->vectors; i++)
			vecs[i].opcode = EXMAP_OP_FREE;
		EXPECT_EQ(0, ex_vectors(ex, 0, vecs, results, variant->vectors));
		store(&s.freed, round);
		for (i = 0, pages = 0; i < variant->vectors; i++)
			pages += results[i].pages;
		EXPECT_EQ(total, pages);
		for (i = 0; variant->asleep && i < readers; i++)
			EXPECT_EQ(1, write(s.wakeup[1], "", 1));
		for (i = 0; i < s.count; i++)
			EXPECT_EQ(SIGSEGV, try_read_byte(page_at(ex, s.pages[i])));

		/* Put the same pages into other slots and overwrite them */
		EXPECT_EQ(total, ex_fill(ex, 1, elsewhere));
		for (i = 0; i < total; i++)
			stamp_page(page_at(ex, elsewhere + i), ~0ULL);
		while (load(&s.checked) != readers && !load(&s.failed))
			sched_yield();
		EXPECT_EQ(total, ex_drain(ex, 0, elsewhere, total));
	}
	store(&s.failed, 1);
	/* Wake readers that are still asleep because a round was cut short */
	close(s.wakeup[1]);
	join_workers(_metadata, w, readers);
	EXPECT_EQ(s.rounds + 1, round);
}

TEST_HARNESS_MAIN
