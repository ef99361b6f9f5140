// SPDX-License-Identifier: GPL-2.0
/* Tests of open(), SETUP2 and mmap(), in every order and size that must work, and errors. */
#include "common.h"
#include "backing.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

TEST(device_node)
{
	struct stat st;

	ASSERT_EQ(0, stat(DEVICE, &st));
	EXPECT_TRUE(S_ISCHR(st.st_mode));
	EXPECT_EQ(10, (int)major(st.st_rdev));
	if (!access("/run/udev/control", F_OK))
		SKIP(return, "udev may have narrowed the mode");
	EXPECT_EQ(0666, (int)(st.st_mode & 07777));
}

FIXTURE(setup) {
	int fd;
};

FIXTURE_SETUP(setup)
{
	self->fd = exmap_open(_metadata);
}

FIXTURE_TEARDOWN(setup)
{
	close(self->fd);
}

/* ALLOC, use and FREE the last slot of a region; slots beyond it must be refused */
static void check_last_page(struct __test_metadata *_metadata, int fd, char *region, long pages)
{
	const struct exmap_vec vecs[] = {
		ex_vec(EXMAP_OP_ALLOC, pages - 1, 1, 0),
		ex_vec(EXMAP_OP_ALLOC, pages, 1, 0),
		ex_vec(EXMAP_OP_ALLOC, pages - 1, 2, 0),
	};
	struct exmap ex = { .fd = fd };
	struct exmap_result r[3];

	EXPECT_EQ(2, ex_vectors(&ex, 0, vecs, r, 3));
	EXPECT_EQ(0, r[0].res);
	EXPECT_EQ(1, r[0].pages);
	EXPECT_EQ(-ERANGE, r[1].res);
	EXPECT_EQ(0, r[1].pages);
	EXPECT_EQ(-ERANGE, r[2].res);
	EXPECT_EQ(0, r[2].pages);
	ASSERT_TRUE(present(region + (pages - 1) * PG));
	stamp_page(region + (pages - 1) * PG, pages);
	EXPECT_TRUE(stamp_intact(region + (pages - 1) * PG, pages));
	EXPECT_EQ(1, ex_free(&ex, 0, pages - 1, 1));
	EXPECT_FALSE(present(region + (pages - 1) * PG));
}

TEST_F(setup, setup_then_mmap)
{
	char *region;

	ASSERT_EQ(0, ex_setup2(self->fd, -1, 1, 1));
	region = ex_map_region(self->fd, 100);
	ASSERT_NE(MAP_FAILED, region);
	check_last_page(_metadata, self->fd, region, 100);
}

TEST_F(setup, mmap_then_setup)
{
	char *region = ex_map_region(self->fd, 100);

	ASSERT_NE(MAP_FAILED, region);
	EXPECT_FALSE(present(region));
	ASSERT_EQ(0, ex_setup2(self->fd, -1, 1, 1));
	check_last_page(_metadata, self->fd, region, 100);
}

TEST_F(setup, too_late)
{
	char *region = ex_map_region(self->fd, 100);

	ASSERT_NE(MAP_FAILED, region);
	ASSERT_EQ(0, munmap(region, 100 * PG));
	EXPECT_EQ(-ENXIO, ex_setup2(self->fd, -1, 1, 1));
	EXPECT_EQ(-EBUSY, ex_try_mmap(self->fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
}

TEST_F(setup, region_lengths)
{
	static const long lengths[] = {
		1, 2, 3, 511, 512, 513, 1023, 1025, 4095, 4096, 4097,
		(1L << 28) + 5,		/* slightly more than 1 TiB */
	};
	unsigned int i;
	char *region;
	int fd;

	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		fd = exmap_open(_metadata);
		ASSERT_EQ(0, ex_setup2(fd, -1, 1, 4));
		region = ex_map_region(fd, lengths[i]);
		ASSERT_NE(MAP_FAILED, region);
		check_last_page(_metadata, fd, region, lengths[i]);
		EXPECT_EQ(0, munmap(region, lengths[i] * PG));
		close(fd);
	}
}

TEST_F(setup, region_length_in_bytes)
{
	char *region;

	ASSERT_EQ(0, ex_setup2(self->fd, -1, 1, 4));
	region = mmap(NULL, 2 * PG + 1, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd,
		      EXMAP_OFF_EXMAP);
	ASSERT_NE(MAP_FAILED, region);
	check_last_page(_metadata, self->fd, region, 3);
}

TEST_F(setup, region_where_asked)
{
	char *hole, *region;

	hole = mmap(NULL, 16 * PG, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, hole);
	ASSERT_EQ(0, ex_setup2(self->fd, -1, 1, 4));
	region = mmap(hole + 4 * PG, 8 * PG, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_FIXED | MAP_POPULATE, self->fd, EXMAP_OFF_EXMAP);
	ASSERT_EQ(hole + 4 * PG, region);
	/* MAP_POPULATE must not fill any slot */
	EXPECT_FALSE(present(region));
	check_last_page(_metadata, self->fd, region, 8);
}

TEST_F(setup, private_region)
{
	EXPECT_EQ(-EINVAL, ex_try_mmap(self->fd, 16 * PG, MAP_PRIVATE, EXMAP_OFF_EXMAP));
	/* The failed mmap() must not have claimed the region */
	EXPECT_NE(MAP_FAILED, ex_map_region(self->fd, 16));
}

TEST_F(setup, bad_offset)
{
	static const unsigned long offsets[] = {
		0x1000, 0x2000, 0x40000000, 0x7ffffffffffff000, 0x8000000000000000,
		0xd000000000000000, 0xfffffffffff00000,
	};
	unsigned int i, set_up;

	for (set_up = 0; set_up < 2; set_up++) {
		for (i = 0; i < ARRAY_SIZE(offsets); i++)
			EXPECT_EQ(-EINVAL, ex_try_mmap(self->fd, PG, MAP_SHARED, offsets[i]))
				TH_LOG("offset %#lx", offsets[i]);
		EXPECT_EQ(set_up ? -EBUSY : 0, ex_setup2(self->fd, -1, 1, 1));
	}
	EXPECT_NE(MAP_FAILED, ex_map_region(self->fd, 16));
}

TEST_F(setup, file_for_reading_only)
{
	int fd = open(DEVICE, O_RDONLY | O_CLOEXEC);

	ASSERT_LE(0, fd);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PG, PROT_READ, MAP_SHARED, fd, EXMAP_OFF_EXMAP));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(0, ex_setup2(fd, -1, 1, 1));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PG, PROT_READ, MAP_SHARED, fd, EXMAP_OFF_EXMAP));
	EXPECT_EQ(EINVAL, errno);
	close(fd);
}

#ifdef __x86_64__
/* Make a system call through the 32-bit entry, like a 32-bit program */
static long syscall32(long nr, long a, long b, long c)
{
	long ret;

	asm volatile("int $0x80" : "=a"(ret) : "a"(nr), "b"(a), "c"(b), "d"(c)
		     : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}

TEST_F(setup, program_of_32_bits)
{
	struct exmap_setup2 *setup;

	/* Without the 32-bit entry, int $0x80 would kill the process */
	if (access("/proc/sys/abi/vsyscall32", F_OK))
		SKIP(return, "the kernel has no IA32_EMULATION");
	ASSERT_EQ(getpid(), syscall32(20 /* getpid */, 0, 0, 0));

	setup = mmap(NULL, PG, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	ASSERT_NE(MAP_FAILED, setup);
	*setup = (struct exmap_setup2){
		.size = sizeof(*setup), .fd = -1, .max_interfaces = 1, .buffer_size = 1,
	};
	EXPECT_EQ(-ENOTTY, syscall32(54 /* ioctl */, self->fd, EXMAP_IOCTL_SETUP2, (long)setup));
	EXPECT_EQ(-ENOTTY, syscall32(54, self->fd, EXMAP_IOCTL_VECTORS, (long)setup));
	EXPECT_EQ(-ENOTTY, syscall32(54, self->fd, EXMAP_IOCTL_QUERY, (long)setup));
	EXPECT_EQ(-ENOTTY, syscall32(54, self->fd, EXMAP_IOCTL_FLUSH, 0));
	EXPECT_EQ(-ENOTTY, syscall32(54, self->fd, EXMAP_IOCTL_RESIZE, 1));
	EXPECT_EQ(0, ex_ioctl(self->fd, EXMAP_IOCTL_SETUP2, setup));
}
#endif

TEST_F(setup, many_interfaces)
{
	struct exmap ex = { .fd = self->fd };
	char *region;

	ASSERT_EQ(0, ex_setup2(self->fd, -1, 65536, 2));
	region = ex_map_region(self->fd, 4);
	ASSERT_NE(MAP_FAILED, region);
	EXPECT_EQ(1, ex_alloc(&ex, 65535, 1, 1));
	region[PG] = 1;
	/* A page that was freed through one interface is available to all interfaces */
	EXPECT_EQ(1, ex_free(&ex, 65535, 1, 1));
	EXPECT_EQ(1, ex_alloc(&ex, 40000, 0, 1));
	EXPECT_EQ(1, ex_alloc(&ex, 256, 1, 1));
	EXPECT_EQ(-ENOMEM, ex_alloc(&ex, 0, 2, 1));
	EXPECT_EQ(-EINVAL, ex_alloc(&ex, 65536, 2, 1));
}

TEST_F(setup, interface_bound)
{
	struct exmap ex;
	int n;

	for (n = 1; n < 600; n = n * 3 + 1) {
		exmap_create(_metadata, &ex, -1, n, 1, 1);
		EXPECT_EQ(n, read_fdinfo(getpid(), ex.fd, "exmap-interfaces"));
		EXPECT_EQ(0, ex_vectors(&ex, n - 1, NULL, NULL, 0));
		EXPECT_EQ(-EINVAL, ex_vectors(&ex, n, NULL, NULL, 0));
		EXPECT_EQ(1, ex_alloc(&ex, n - 1, 0, 1));
		exmap_destroy(&ex);
	}
}

/* Backing files that are refused leave the file as it was */

TEST_F(setup, bad_backing_fd)
{
	int fd, memfd;

	EXPECT_EQ(-EBADF, ex_setup2(self->fd, -2, 1, 1));
	EXPECT_EQ(-EBADF, ex_setup2(self->fd, AT_FDCWD, 1, 1));
	EXPECT_EQ(-EBADF, ex_setup2(self->fd, 1 << 30, 1, 1));

	memfd = memfd_create("backing", MFD_CLOEXEC);
	ASSERT_LE(0, memfd);
	fd = reopen(memfd, O_WRONLY);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EBADF, ex_setup2(self->fd, fd, 1, 1));
	close(fd);
	EXPECT_EQ(-EBADF, ex_setup2(self->fd, fd, 1, 1));
	fd = reopen(memfd, O_PATH);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EBADF, ex_setup2(self->fd, fd, 1, 1));
	close(fd);
	EXPECT_EQ(0, ex_setup2(self->fd, memfd, 1, 1));
	close(memfd);
}

TEST_F(setup, backing_is_no_file)
{
	int fd, pair[2], other;

	fd = open("/dev/null", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EINVAL, ex_setup2(self->fd, fd, 1, 1));
	close(fd);

	fd = open("/", O_RDONLY | O_DIRECTORY);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EINVAL, ex_setup2(self->fd, fd, 1, 1));
	close(fd);

	ASSERT_EQ(0, pipe(pair));
	EXPECT_EQ(-EINVAL, ex_setup2(self->fd, pair[0], 1, 1));
	close(pair[0]);
	close(pair[1]);

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	EXPECT_EQ(-EINVAL, ex_setup2(self->fd, pair[0], 1, 1));
	close(pair[0]);
	close(pair[1]);

	fd = epoll_create1(0);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EINVAL, ex_setup2(self->fd, fd, 1, 1));
	close(fd);

	/* An exmap cannot be a backing file: the file itself, a fresh one, one in use */
	EXPECT_EQ(-EINVAL, ex_setup2(self->fd, self->fd, 1, 1));
	other = exmap_open(_metadata);
	EXPECT_EQ(-EINVAL, ex_setup2(self->fd, other, 1, 1));
	ASSERT_EQ(0, ex_setup2(other, -1, 1, 1));
	EXPECT_EQ(-EINVAL, ex_setup2(self->fd, other, 1, 1));
	close(other);
	EXPECT_EQ(0, ex_setup2(self->fd, -1, 1, 1));
}

TEST_F(setup, second_region)
{
	struct exmap ex = { .fd = self->fd };
	char *region;

	ASSERT_EQ(0, ex_setup2(self->fd, -1, 1, 4));
	region = ex_map_region(self->fd, 16);
	ASSERT_NE(MAP_FAILED, region);
	EXPECT_EQ(1, ex_alloc(&ex, 0, 0, 1));
	stamp_page(region, 1);
	EXPECT_EQ(-EBUSY, ex_try_mmap(self->fd, 16 * PG, MAP_SHARED, EXMAP_OFF_EXMAP));
	EXPECT_TRUE(stamp_intact(region, 1));
	check_last_page(_metadata, self->fd, region, 16);

	/* An exmap cannot get a second region, even after munmap() of the first */
	ASSERT_EQ(0, munmap(region, 16 * PG));
	EXPECT_EQ(-EBUSY, ex_try_mmap(self->fd, 16 * PG, MAP_SHARED, EXMAP_OFF_EXMAP));
	EXPECT_EQ(-ENXIO, ex_alloc(&ex, 0, 0, 1));
}

TEST_F(setup, second_region_over_the_first)
{
	struct exmap ex = { .fd = self->fd };
	char *region, *again;

	ASSERT_EQ(0, ex_setup2(self->fd, -1, 1, 4));
	region = ex_map_region(self->fd, 16);
	ASSERT_NE(MAP_FAILED, region);
	EXPECT_EQ(1, ex_alloc(&ex, 0, 0, 1));
	again = mmap(region, 16 * PG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		     self->fd, EXMAP_OFF_EXMAP);
	EXPECT_EQ(MAP_FAILED, again);
	EXPECT_EQ(EBUSY, errno);
	/* ALLOC must fail exactly if the failed mmap() has unmapped the region */
	if (present(region))
		check_last_page(_metadata, self->fd, region, 16);
	else
		EXPECT_EQ(-ENXIO, ex_alloc(&ex, 0, 0, 1));
}

struct race {
	int fd;
	char *winner;
	int won, lost;
};

static void *race_for_region(void *arg)
{
	struct worker *w = arg;
	struct race *race = w->arg;
	char *region;

	pthread_barrier_wait(&start_line);
	region = ex_map_region(race->fd, 8 + w->index);
	if (region == MAP_FAILED) {
		BROKE(w, errno != EBUSY, errno);
		__atomic_add_fetch(&race->lost, 1, __ATOMIC_SEQ_CST);
	} else {
		__atomic_add_fetch(&race->won, 1, __ATOMIC_SEQ_CST);
		__atomic_store_n(&race->winner, region, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

TEST_F_TIMEOUT(setup, race_of_mmaps, SLOW)
{
	struct worker w[8];
	int round;

	for (round = 0; round < scaled(30); round++) {
		struct race race = { .fd = exmap_open(_metadata) };
		struct exmap ex = { .fd = race.fd };

		ASSERT_EQ(0, ex_setup2(race.fd, -1, 1, 4));
		run_workers(_metadata, w, 8, race_for_region, NULL, &race);
		ASSERT_EQ(1, race.won);
		EXPECT_EQ(7, race.lost);
		EXPECT_EQ(4, ex_alloc(&ex, 0, 0, 4));
		memset(race.winner, 1, 4 * PG);
		close(race.fd);
	}
}

static void *race_for_setup(void *arg)
{
	struct worker *w = arg;
	struct race *race = w->arg;
	int ret;

	pthread_barrier_wait(&start_line);
	ret = ex_setup2(race->fd, -1, 1 + w->index, 4);
	BROKE(w, ret && ret != -EBUSY, ret);
	__atomic_add_fetch(ret ? &race->lost : &race->won, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

TEST_F_TIMEOUT(setup, race_of_setups, SLOW)
{
	struct worker w[8];
	int round;

	for (round = 0; round < scaled(30); round++) {
		struct race race = { .fd = exmap_open(_metadata) };

		run_workers(_metadata, w, 8, race_for_setup, NULL, &race);
		EXPECT_EQ(1, race.won);
		EXPECT_EQ(7, race.lost);
		close(race.fd);
	}
}

TEST_F(setup, files_are_independent)
{
	struct exmap one, two;

	exmap_create(_metadata, &one, -1, 1, 4, 16);
	exmap_create(_metadata, &two, -1, 1, 4, 16);
	EXPECT_EQ(4, ex_fill(&one, 0, 0));
	EXPECT_EQ(4, ex_fill(&two, 0, 0));
	stamp_page(page_at(&one, 0), 1);
	stamp_page(page_at(&two, 0), 2);
	EXPECT_EQ(1, ex_free(&two, 0, 0, 1));
	EXPECT_EQ(-ENOMEM, ex_alloc(&one, 0, 8, 1));
	EXPECT_TRUE(stamp_intact(page_at(&one, 0), 1));
	exmap_destroy(&two);
	EXPECT_TRUE(stamp_intact(page_at(&one, 0), 1));
	exmap_destroy(&one);
}

TEST_HARNESS_MAIN
