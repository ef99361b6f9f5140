// SPDX-License-Identifier: GPL-2.0
/* Tests of EXMAP_SETUP_PAGEFAULT_ALLOC: a slot gets a page when it is touched. */
#include "common.h"
#include "backing.h"

#define BUFFER	600
#define PAGES	2000
#define IFACES	3

FIXTURE(fault_alloc) {
	struct exmap ex;
};

FIXTURE_SETUP(fault_alloc)
{
	catch_faults();
	exmap_create2(_metadata, &self->ex, (struct exmap_setup2) {
		.fd = -1, .flags = EXMAP_SETUP_PAGEFAULT_ALLOC,
	}, IFACES, BUFFER, PAGES);
}

FIXTURE_TEARDOWN(fault_alloc)
{
	struct exmap *ex = &self->ex;

	/* No page is lost, and ALLOC can get the pages that touches have used */
	EXPECT_LE(0, ex_drain(ex, 0, 0, PAGES));
	EXPECT_EQ(BUFFER, ex_fill(ex, 1, 0));
	exmap_destroy(ex);
}

TEST_F(fault_alloc, touched)
{
	struct exmap *ex = &self->ex;
	unsigned char core[3];
	__u64 value;

	EXPECT_EQ(0, ex_owned(ex->fd));
	EXPECT_EQ(0, try_write_byte(page_at(ex, 5), 'x'));
	EXPECT_EQ(0, try_read(page_at(ex, 1000), &value));
	EXPECT_EQ(0, value);
	EXPECT_EQ('x', *page_at(ex, 5));
	/* A touch fills the slot, but not its neighbours */
	ASSERT_EQ(0, mincore(page_at(ex, 999), 3 * PG, core));
	EXPECT_EQ(0, core[0] & 1);
	EXPECT_EQ(1, core[1] & 1);
	EXPECT_EQ(0, core[2] & 1);
	EXPECT_EQ(0, ex_alloc(ex, 0, 5, 1));
	EXPECT_EQ(1, ex_free(ex, 0, 5, 1));
	EXPECT_EQ(1, ex_free(ex, 1, 1000, 1));
	EXPECT_EQ(0, try_read_byte(page_at(ex, 5)));
	EXPECT_EQ(1, ex_free(ex, 0, 5, 1));
}

/* An access by the kernel on behalf of the program fills a slot as well */
TEST_F(fault_alloc, by_system_calls)
{
	struct exmap *ex = &self->ex;
	long end;
	int fd, backing = make_backing(_metadata, FILE_DIRECT, 64, &fd, &end);

	EXPECT_TRUE(present(page_at(ex, 3)));
	EXPECT_EQ(1, ex_free(ex, 0, 3, 1));
	ASSERT_EQ(4 * PG, pread(fd, page_at(ex, 10), 4 * PG, 8 * PG));
	EXPECT_TRUE(page_is(page_at(ex, 13), 11));
	if (backing >= 0) {
		ASSERT_EQ(4 * PG, pread(backing, page_at(ex, 20), 4 * PG, 16 * PG));
		EXPECT_TRUE(page_is(page_at(ex, 22), 18));
	}
	EXPECT_EQ(0, madvise(page_at(ex, 100), 50 * PG, MADV_POPULATE_WRITE));
	EXPECT_EQ(50, ex_free(ex, 0, 100, 100));
	close(fd);
	close(backing);
}

TEST_F(fault_alloc, exhausted)
{
	struct exmap *ex = &self->ex;
	__u64 value;
	int i;

	for (i = 0; i < BUFFER; i++)
		ASSERT_EQ(0, try_write_byte(page_at(ex, i * 3), i));
	EXPECT_EQ(BUFFER, ex_owned(ex->fd));
	for (i = 1; i < 100; i += 3) {
		EXPECT_EQ(SIGSEGV, try_read(page_at(ex, i), &value));
		EXPECT_EQ(page_at(ex, i), fault_address);
		EXPECT_FALSE(present(page_at(ex, i)));
	}
	EXPECT_EQ(-1, madvise(page_at(ex, 1), PG, MADV_POPULATE_READ));
	/* A touch finds a page that was freed through any interface */
	for (i = 0; i < BUFFER; i++) {
		ASSERT_EQ(1, ex_free(ex, i % IFACES, i * 3, 1));
		ASSERT_EQ(0, try_write_byte(page_at(ex, PAGES - 1 - i % 100), i));
		ASSERT_EQ(1, ex_free(ex, (i + 1) % IFACES, PAGES - 1 - i % 100, 1));
		ASSERT_EQ(0, try_write_byte(page_at(ex, i * 3), i));
	}
}

/* If the handler evicts a page and returns, the access is repeated and succeeds */

static struct exmap *evict_ex;
static int evicted;

static void evict(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	(void)context;
	if (ex_free(evict_ex, 2, __atomic_fetch_add(&evicted, 1, __ATOMIC_SEQ_CST), 1) != 1)
		_exit(2);
}

TEST_F(fault_alloc, handler_makes_room)
{
	struct sigaction action = { .sa_sigaction = evict, .sa_flags = SA_SIGINFO };
	struct exmap *ex = &self->ex;
	int i;

	evict_ex = ex;
	evicted = 0;
	sigaction(SIGSEGV, &action, NULL);
	for (i = 0; i < PAGES; i++)
		__atomic_store_n(page_at(ex, i), i, __ATOMIC_SEQ_CST);
	EXPECT_EQ(PAGES - BUFFER, __atomic_load_n(&evicted, __ATOMIC_SEQ_CST));
	EXPECT_EQ(BUFFER, ex_owned(ex->fd));
	catch_faults();
}

TEST_F(fault_alloc, needs_setup)
{
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .fd = -1, .max_interfaces = 1, .buffer_size = 4,
		.flags = EXMAP_SETUP_PAGEFAULT_ALLOC,
	};
	int fd = exmap_open(_metadata);
	char *region = ex_map_region(fd, 10);

	/* There is no pool before the setup, so a touch fails */
	EXPECT_EQ(SIGSEGV, try_read_byte(region));
	setup.flags |= EXMAP_SETUP_DEFERRED;
	EXPECT_EQ(-EINVAL, ex_ioctl(fd, EXMAP_IOCTL_SETUP2, &setup));
	setup.flags = EXMAP_SETUP_PAGEFAULT_ALLOC;
	setup.quarantine = 1;
	EXPECT_EQ(-EINVAL, ex_ioctl(fd, EXMAP_IOCTL_SETUP2, &setup));
	setup.quarantine = 0;
	EXPECT_EQ(0, ex_ioctl(fd, EXMAP_IOCTL_SETUP2, &setup));
	EXPECT_EQ(0, try_read_byte(region));
	EXPECT_EQ(0, mprotect(region, 10 * PG, PROT_READ));
	EXPECT_EQ(0, try_read_byte(region + PG));
	EXPECT_EQ(SIGSEGV, try_write_byte(region + PG, 1));
	EXPECT_EQ(SIGSEGV, try_write_byte(region + 2 * PG, 1));
	EXPECT_EQ(0, mprotect(region, 10 * PG, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, try_write_byte(region + PG, 1));
	EXPECT_EQ(0, munmap(region, 10 * PG));
	close(fd);
}

/* Another process can read resident pages, but its accesses do not fill slots */
TEST_F(fault_alloc, from_outside)
{
	struct exmap *ex = &self->ex;
	struct iovec remote = { .iov_len = 1 }, local = { .iov_len = 1 };
	pid_t parent = getpid(), pid;
	char byte = 0;
	int ret;

	*page_at(ex, 4) = 'y';
	local.iov_base = &byte;
	pid = fork();
	if (!pid) {
		remote.iov_base = page_at(ex, 4);
		if (process_vm_readv(parent, &local, 1, &remote, 1, 0) != 1)
			_exit(errno == EFAULT ? 1 : 4);
		if (byte != 'y')
			_exit(2);
		remote.iov_base = page_at(ex, 9);
		_exit(process_vm_readv(parent, &local, 1, &remote, 1, 0) == -1 &&
		      errno == EFAULT ? 0 : 3);
	}
	ret = wait_child(pid);
	if (ret == 4)
		SKIP(return, "process_vm_readv() is not allowed");
	EXPECT_EQ(0, ret);
	EXPECT_EQ(0, ex_free(ex, 0, 9, 1));
}

/*
 * Threads touch and free shared slots. The stamps in each thread's own slots show that
 * no page is ever in two slots.
 */
static void *touch_and_free(void *arg)
{
	struct worker *w = arg;
	struct exmap *ex = w->ex;
	int i, ret;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < scaled(4000); i++) {
		const long mine = 100 * (1 + w->index) + random_below(&w->random, 100);
		const long shared = random_below(&w->random, 100);

		stamp_page(page_at(ex, mine), mine);
		ret = try_write_byte(page_at(ex, shared), i);
		if (BROKE(w, ret, ret))
			return NULL;
		if (BROKE(w, !stamp_intact(page_at(ex, mine), mine), mine))
			return NULL;
		ret = ex_free(ex, w->index, i & 1 ? mine : shared, 1);
		if (BROKE(w, ret < 0 || (i & 1 && ret != 1), ret))
			return NULL;
	}
	return NULL;
}

TEST_F_TIMEOUT(fault_alloc, touched_by_many, SLOW)
{
	struct exmap *ex = &self->ex;
	unsigned char core[PAGES];
	struct worker w[IFACES];
	int i, resident = 0;

	run_workers(_metadata, w, IFACES, touch_and_free, ex, NULL);
	ASSERT_EQ(0, mincore(ex->region, PAGES * PG, core));
	for (i = 0; i < PAGES; i++)
		resident += core[i] & 1;
	EXPECT_EQ(resident, ex_drain(ex, 0, 0, PAGES));
}

TEST_HARNESS_MAIN
