// SPDX-License-Identifier: GPL-2.0
/*
 * Deferred flushes: when freed pages become available again, what an access sees until
 * then, and that no slot gets another page while its old one is still in a TLB.
 */
#include "common.h"

#include <stdatomic.h>

#define NO_LIMIT	0x10000000000ULL	/* a quarantine that never fills up */

static void create(struct __test_metadata *_metadata, struct exmap *ex, int ifaces,
		   int buffer, int pages, __u64 quarantine)
{
	struct exmap_setup2 setup = {
		.flags = EXMAP_SETUP_DEFERRED, .quarantine = quarantine, .fd = -1,
	};

	exmap_create2(_metadata, ex, setup, ifaces, buffer, pages);
}

/* The arguments of SETUP2 */

TEST(setup2_arguments)
{
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .max_interfaces = 1, .buffer_size = 4, .fd = -1,
	}, bad;
	struct {
		struct exmap_setup2 setup;
		__u64 more;
	} longer = { .setup = setup };
	int fd = exmap_open(_metadata);

#define REFUSED(FIELD, VALUE, ERRNO) do {					\
		bad = setup;							\
		bad.FIELD = VALUE;						\
		EXPECT_EQ(-(ERRNO), ex_ioctl(fd, EXMAP_IOCTL_SETUP2, &bad));	\
	} while (0)

	REFUSED(size, 0, EINVAL);
	REFUSED(size, EXMAP_SETUP2_SIZE_VER0 - 1, EINVAL);
	REFUSED(size, PG + 1, E2BIG);
	REFUSED(size, 0xffffffff, E2BIG);
	REFUSED(flags, 8, EINVAL);
	REFUSED(flags, 1ULL << 63, EINVAL);
	REFUSED(pool, 1, EINVAL);		/* needs EXMAP_SETUP_ATTACH */
	REFUSED(quarantine, 1, EINVAL);		/* needs EXMAP_SETUP_DEFERRED */
	REFUSED(max_interfaces, 0, EINVAL);
	REFUSED(max_interfaces, 65537, EINVAL);
	REFUSED(max_interfaces, 0xffffffff, EINVAL);
	REFUSED(buffer_size, 0, EINVAL);
	REFUSED(buffer_size, ~0ULL, ENOMEM);
	REFUSED(fd, 12345, EBADF);
	REFUSED(fd, fd, EINVAL);
	EXPECT_EQ(-EFAULT, ex_ioctl(fd, EXMAP_IOCTL_SETUP2, (void *)8));
	EXPECT_EQ(-ENXIO, ex_flush(fd));

	/* A larger struct of a newer program is accepted if the unknown part is zero */
	longer.setup.size = sizeof(longer);
	longer.more = 1;
	EXPECT_EQ(-E2BIG, ex_ioctl(fd, EXMAP_IOCTL_SETUP2, &longer));
	longer.more = 0;
	EXPECT_EQ(0, ex_ioctl(fd, EXMAP_IOCTL_SETUP2, &longer));
	EXPECT_EQ(-EBUSY, ex_ioctl(fd, EXMAP_IOCTL_SETUP2, &setup));
	EXPECT_EQ(-EBUSY, ex_setup2(fd, -1, 1, 1));
	EXPECT_EQ(-ENXIO, ex_flush(fd));
	ASSERT_NE(MAP_FAILED, ex_map_region(fd, 4));
	EXPECT_EQ(0, ex_flush(fd));
	close(fd);
}

FIXTURE(deferred) {
	struct exmap ex;
};

FIXTURE_SETUP(deferred)
{
	catch_faults();
}

FIXTURE_TEARDOWN(deferred)
{
	struct exmap *ex = &self->ex;

	/* After any test, all pages must be available, each exactly once */
	EXPECT_LE(0, ex_drain(ex, 0, 0, ex->pages));
	EXPECT_EQ(0, ex_flush(ex->fd));
	EXPECT_EQ(0, count_present(ex, 0, ex->pages));
	EXPECT_EQ(ex->buffer, ex_fill(ex, ex->ifaces - 1, 0));
	EXPECT_EQ(ex->buffer, ex_drain(ex, 0, 0, ex->pages));
	exmap_destroy(ex);
}

/* After a flush, freed slots are empty for the program and for system calls */
TEST_F(deferred, freed_slots_are_empty)
{
	struct exmap *ex = &self->ex;

	create(_metadata, ex, 2, 64, 256, NO_LIMIT);
	ASSERT_EQ(20, ex_alloc(ex, 0, 100, 20));
	memset(page_at(ex, 100), 1, 20 * PG);
	ASSERT_EQ(10, ex_free(ex, 0, 105, 10));
	EXPECT_EQ(0, ex_free(ex, 0, 105, 10));
	ASSERT_EQ(0, ex_flush(ex->fd));
	EXPECT_EQ(10, count_present(ex, 100, 20));
	EXPECT_EQ(0, count_present(ex, 105, 10));
	EXPECT_EQ(SIGSEGV, try_read_byte(page_at(ex, 105) + 77));
	EXPECT_EQ(page_at(ex, 105) + 77, fault_address);
	EXPECT_EQ(SIGSEGV, try_write_byte(page_at(ex, 114) + 4095, 1));
	EXPECT_EQ(page_at(ex, 114) + 4095, fault_address);
	EXPECT_EQ(0, try_read_byte(page_at(ex, 104)));
	EXPECT_EQ(0, try_read_byte(page_at(ex, 115)));
}

/* Freed slots are filled again at once through the other interface, which must flush */
TEST_F(deferred, same_slots_again)
{
	struct exmap *ex = &self->ex;
	int i;

	create(_metadata, ex, 2, 64, 256, NO_LIMIT);
	for (i = 0; i < 50; i++) {
		ASSERT_EQ(20, ex_alloc(ex, i % 2, 10, 20));
		EXPECT_EQ(20, count_present(ex, 10, 20));
		stamp_page(page_at(ex, 29), i);
		EXPECT_TRUE(stamp_intact(page_at(ex, 29), i));
		ASSERT_EQ(20, ex_free(ex, i % 2, 10, 20));
	}
}

/*
 * If the interface that freed a page fills the slot again, the slot gets the same page
 * back, however many other pages are in quarantine. Another interface must flush first.
 */
TEST_F(deferred, own_pages_come_back)
{
	struct exmap *ex = &self->ex;
	int round, i;

	create(_metadata, ex, 2, 1000, 2048, NO_LIMIT);
	ASSERT_EQ(700, ex_alloc(ex, 0, 0, 700));
	for (i = 0; i < 700; i++)
		stamp_page(page_at(ex, i), i);
	for (round = 0; round < 5; round++) {
		/* Free more than a bundle holds, and not in the order of the refill */
		ASSERT_EQ(350, ex_free(ex, 0, 350, 350));
		ASSERT_EQ(350, ex_free(ex, 0, 0, 350));
		ASSERT_EQ(100, ex_alloc(ex, 0, 600, 100));
		ASSERT_EQ(50, ex_free(ex, 0, 650, 50));
		ASSERT_EQ(650, ex_alloc(ex, 0, 0, 700));
		for (i = 0; i < 700; i++)
			EXPECT_TRUE(stamp_intact(page_at(ex, i), i));
	}

	ASSERT_EQ(10, ex_free(ex, 0, 0, 10));
	ASSERT_EQ(10, ex_alloc(ex, 1, 0, 10));
	EXPECT_EQ(10, count_present(ex, 0, 10));
	for (i = 10; i < 700; i++)
		EXPECT_TRUE(stamp_intact(page_at(ex, i), i));
}

/* If an interface runs short of pages, it flushes the quarantine of all interfaces */
TEST_F(deferred, shortage_flushes)
{
	struct exmap *ex = &self->ex;

	create(_metadata, ex, 3, 1200, 4096, NO_LIMIT);
	EXPECT_EQ(1200, ex_fill(ex, 0, 0));
	EXPECT_EQ(700, ex_drain(ex, 0, 0, 700));
	EXPECT_EQ(100, ex_drain(ex, 1, 700, 100));
	EXPECT_EQ(800, ex_fill(ex, 2, 2000));
	EXPECT_EQ(-ENOMEM, ex_alloc(ex, 0, 0, 1));
}

/* Until the flush, a stale translation may show nothing but the old content */
static void *hold_translation(void *arg)
{
	struct worker *w = arg;
	struct exmap *ex = w->ex;
	__u64 value;
	int i;

	pin_to_cpu(w->index);
	if (!w->index) {
		pthread_barrier_wait(&start_line);
		pthread_barrier_wait(&start_line);
		/* Fill other slots: they must not get the pages in quarantine */
		BROKE(w, ex_free(ex, 0, 0, 32) != 32, 0);
		BROKE(w, ex_alloc(ex, 0, 64, 32) != 32, 0);
		for (i = 64; i < 96; i++)
			stamp_page(page_at(ex, i), 1000 + i);
		pthread_barrier_wait(&start_line);
		pthread_barrier_wait(&start_line);
		BROKE(w, ex_flush(ex->fd), 0);
		pthread_barrier_wait(&start_line);
		return NULL;
	}
	pthread_barrier_wait(&start_line);
	for (i = 0; i < 32; i++)
		BROKE(w, try_read(page_at(ex, i), &value) || value != i + 1u, i);
	pthread_barrier_wait(&start_line);
	pthread_barrier_wait(&start_line);
	for (i = 0; i < 32; i++)
		BROKE(w, !try_read(page_at(ex, i), &value) && value != i + 1u, value);
	pthread_barrier_wait(&start_line);
	pthread_barrier_wait(&start_line);
	for (i = 0; i < 32; i++)
		BROKE(w, try_read(page_at(ex, i), &value) != SIGSEGV, i);
	return NULL;
}

TEST_F(deferred, old_content_until_the_flush)
{
	struct exmap *ex = &self->ex;
	struct worker w[3];
	int i;

	create(_metadata, ex, 1, 64, 256, NO_LIMIT);
	ASSERT_EQ(32, ex_alloc(ex, 0, 0, 32));
	for (i = 0; i < 32; i++)
		stamp_page(page_at(ex, i), i + 1);
	run_workers(_metadata, w, 3, hold_translation, ex, NULL);
}

/* madvise() and mprotect() of the region while pages are in quarantine */
TEST_F(deferred, madvise_leaves_the_quarantine)
{
	struct exmap *ex = &self->ex;

	create(_metadata, ex, 1, 64, 256, NO_LIMIT);
	ASSERT_EQ(64, ex_alloc(ex, 0, 0, 64));
	ASSERT_EQ(32, ex_free(ex, 0, 0, 32));
	ASSERT_EQ(0, madvise(ex->region, 256 * PG, MADV_DONTNEED));
	EXPECT_EQ(0, count_present(ex, 32, 32));
	ASSERT_EQ(0, mprotect(ex->region, 256 * PG, PROT_READ));
	ASSERT_EQ(0, mprotect(ex->region, 256 * PG, PROT_READ | PROT_WRITE));
	ASSERT_EQ(64, ex_alloc(ex, 0, 0, 64));
	memset(ex->region, 1, 64 * PG);
}

TEST_F(deferred, munmap_and_exit_with_pages_waiting)
{
	struct exmap other;
	int i;

	create(_metadata, &self->ex, 1, 64, 256, NO_LIMIT);
	for (i = 0; i < 20; i++) {
		create(_metadata, &other, 1, 600, 2000, NO_LIMIT);
		ASSERT_EQ(600, ex_alloc(&other, 0, 0, 600));
		memset(other.region, 1, 600 * PG);
		ASSERT_EQ(590, ex_free(&other, 0, 5, 590));
		exmap_destroy(&other);
	}
	for (i = 0; i < 5; i++) {
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		if (!pid) {
			create(_metadata, &other, 1, 600, 2000, NO_LIMIT);
			if (ex_alloc(&other, 0, 0, 600) != 600 || ex_free(&other, 0, 5, 590) != 590)
				_exit(1);
			_exit(0);
		}
		EXPECT_EQ(0, wait_child(pid));
	}
}

/* READ into slots whose old page is in quarantine */
TEST(reads_into_quarantined_slots)
{
	struct exmap_setup2 setup = {
		.flags = EXMAP_SETUP_DEFERRED, .quarantine = NO_LIMIT,
	};
	__u64 page[WORDS];
	struct exmap ex;
	int i, round;

	catch_faults();
	setup.fd = memfd_create("backing", MFD_CLOEXEC);
	ASSERT_LE(0, setup.fd);
	for (i = 0; i < 64; i++) {
		stamp_page(page, i);
		ASSERT_EQ((ssize_t)PG, pwrite(setup.fd, page, PG, i * PG));
	}
	exmap_create2(_metadata, &ex, setup, 1, 16, 64);
	for (round = 0; round < 20; round++) {
		/* Read as many pages as the pool has, some into slots freed before */
		int first = (round * 8) % 48;

		ASSERT_EQ(16, ex_one(&ex, 0, EXMAP_OP_READ, first, 16));
		for (i = first; i < first + 16; i++)
			EXPECT_TRUE(stamp_intact(page_at(&ex, i), i));
		ASSERT_EQ(16, ex_free(&ex, 0, first, 16));
	}
	exmap_destroy(&ex);
	close(setup.fd);
}

/*
 * The hunt for stale translations. Every slot has a word, which is 0 while the slot is
 * empty or being filled, and otherwise the stamp of its content. Owners evict and fill
 * their slots; readers on all CPUs read any slot. If a slot has the same stamp before
 * and after a read, the read must have returned what belongs to that stamp. If the
 * stamp has changed, the read may have returned anything or raised SIGSEGV.
 */
#define HUNTERS		8
#define SLOTS		24	/* per owner */
#define RESIDENT	20	/* maximum per owner */

struct hunt {
	atomic_ullong word[HUNTERS * SLOTS];
	atomic_int owners;
	atomic_long checked, segv, changed;
};

static void *own_slots(struct worker *w, struct hunt *hunt)
{
	struct exmap *ex = w->ex;
	int first = w->index * SLOTS, round, i, n, ret, count = 0;
	struct exmap_result results[SLOTS];
	struct exmap_vec vecs[SLOTS];
	bool mapped[SLOTS] = {};
	__u64 version = 0;

	/* Until stamps have changed under readers: that takes long if few calls flush */
	for (round = 0; round < scaled(400) ||
	     (atomic_load(&hunt->changed) < scaled(40) && round < 1000000); round++) {
		/* ALLOC has to flush if the slot was freed through the other interface */
		int iface = w->index + (random_below(&w->random, 2) ? HUNTERS : 0);
		int list[SLOTS];

		/* Evict some slots, after clearing their words as if to lock them */
		for (i = n = 0; i < SLOTS; i++) {
			if (!mapped[i] || (count <= RESIDENT / 2 && random_below(&w->random, 4)))
				continue;
			if (n && random_below(&w->random, 2))
				continue;
			atomic_store(&hunt->word[first + i], 0);
			vecs[n++] = ex_vec(EXMAP_OP_FREE, first + i, 1, 0);
			mapped[i] = false;
			count--;
		}
		ret = ex_vectors(ex, iface, vecs, results, n);
		if (BROKE(w, ret, ret))
			break;
		/* Fill some slots, often the same ones */
		for (i = n = 0; i < SLOTS && count < RESIDENT; i++) {
			if (mapped[i] || random_below(&w->random, 3))
				continue;
			list[n] = i;
			vecs[n++] = ex_vec(EXMAP_OP_ALLOC, first + i, 1, 0);
			mapped[i] = true;
			count++;
		}
		ret = ex_vectors(ex, w->index, vecs, results, n);
		if (BROKE(w, ret, ret))
			break;
		for (i = 0; i < n; i++) {
			__u64 stamp = (__u64)(first + list[i] + 1) << 40 | ++version;

			stamp_page(page_at(ex, first + list[i]), stamp);
			atomic_store(&hunt->word[first + list[i]], stamp);
		}
	}
	/* Readers look at slots until all owners are done: clear the words first */
	atomic_fetch_sub(&hunt->owners, 1);
	for (i = 0; i < SLOTS; i++)
		atomic_store(&hunt->word[first + i], 0);
	ex_free(ex, w->index, first, SLOTS);
	return NULL;
}

static void *hunt_stale(void *arg)
{
	struct worker *w = arg;
	struct exmap *ex = w->ex;
	struct hunt *hunt = w->arg;
	long checked = 0, segv = 0;

	pin_to_cpu(w->index % sysconf(_SC_NPROCESSORS_ONLN));
	pthread_barrier_wait(&start_line);
	if (w->index < HUNTERS)
		return own_slots(w, hunt);
	while (atomic_load(&hunt->owners)) {
		int slot = random_below(&w->random, HUNTERS * SLOTS);
		__u64 before = atomic_load(&hunt->word[slot]), value = 0;
		int sig;

		if (!before)
			continue;
		sig = try_read(page_at(ex, slot) + PG / 2, &value);
		if (atomic_load(&hunt->word[slot]) != before) {
			atomic_fetch_add(&hunt->changed, 1);
			segv += !!sig;
			continue;
		}
		/* Let owners run if there are fewer CPUs than threads */
		if (!(++checked % 64))
			sched_yield();
		if (BROKE(w, sig, slot) || BROKE(w, value != ~before, value))
			break;
	}
	atomic_fetch_add(&hunt->checked, checked);
	atomic_fetch_add(&hunt->segv, segv);
	return NULL;
}

static void do_hunt(struct __test_metadata *_metadata, struct exmap *ex)
{
	struct worker w[2 * HUNTERS];
	struct hunt *hunt;

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs a second CPU, to hold stale translations");
	hunt = calloc(1, sizeof(*hunt));
	ASSERT_NE(NULL, hunt);
	atomic_store(&hunt->owners, HUNTERS);
	run_workers(_metadata, w, 2 * HUNTERS, hunt_stale, ex, hunt);
	TH_LOG("%ld reads checked, %ld overtaken, %ld of these with SIGSEGV",
	       hunt->checked, hunt->changed, hunt->segv);
	EXPECT_LT(1000, hunt->checked);
	EXPECT_LT(0, hunt->changed);
	free(hunt);
}

TEST_F_TIMEOUT(deferred, hunt_by_shortage, SLOW)
{
	create(_metadata, &self->ex, 2 * HUNTERS, HUNTERS * RESIDENT + 10,
	       HUNTERS * SLOTS + 300, NO_LIMIT);
	do_hunt(_metadata, &self->ex);
}

TEST_F_TIMEOUT(deferred, hunt_by_high_water, SLOW)
{
	create(_metadata, &self->ex, 2 * HUNTERS, 2000, 4000, 40);
	do_hunt(_metadata, &self->ex);
}

/* Another thread flushes all the time */
static atomic_bool flushing;

static void *keep_flushing(void *arg)
{
	struct worker *w = arg;

	while (atomic_load(&flushing))
		if (BROKE(w, ex_flush(w->ex->fd), 0))
			break;
	return NULL;
}

TEST_F_TIMEOUT(deferred, hunt_with_flushes, SLOW)
{
	struct worker w = { .ex = &self->ex };

	create(_metadata, &self->ex, 2 * HUNTERS, HUNTERS * RESIDENT + 100,
	       HUNTERS * SLOTS + 400, NO_LIMIT);
	atomic_store(&flushing, true);
	ASSERT_EQ(0, pthread_create(&w.thread, NULL, keep_flushing, &w));
	do_hunt(_metadata, &self->ex);
	atomic_store(&flushing, false);
	ASSERT_EQ(0, pthread_join(w.thread, NULL));
	EXPECT_EQ(NULL, w.what);
}

TEST_HARNESS_MAIN
