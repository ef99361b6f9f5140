// SPDX-License-Identifier: GPL-2.0
/*
 * Check the binary interface against literal numbers, and the errno with which each
 * call refuses bad input. A call that is refused must not change anything.
 */
#include "common.h"
#include "paged.h"

#include <limits.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static long offset(unsigned long value)
{
	return value;
}

TEST(layout)
{
	struct exmap_iov iov = { .value = 0 };
	int size;

	size = sizeof(struct exmap_iov);
	EXPECT_EQ(8, size);
	size = sizeof(struct exmap_user_interface);
	EXPECT_EQ(4096, size);
	size = sizeof(struct exmap_ioctl_setup);
	EXPECT_EQ(24, size);
	size = sizeof(struct exmap_action_params);
	EXPECT_EQ(16, size);
	size = sizeof(struct exmap_ioctl_stats);
	EXPECT_EQ(32, size);

	EXPECT_EQ(0, offset(offsetof(struct exmap_iov, value)));
	EXPECT_EQ(0, offset(offsetof(struct exmap_iov, res)));
	EXPECT_EQ(4, offset(offsetof(struct exmap_iov, pages)));
	EXPECT_EQ(0, offset(offsetof(struct exmap_user_interface, iov)));
	EXPECT_EQ(0, offset(offsetof(struct exmap_ioctl_setup, fd)));
	EXPECT_EQ(4, offset(offsetof(struct exmap_ioctl_setup, max_interfaces)));
	EXPECT_EQ(8, offset(offsetof(struct exmap_ioctl_setup, buffer_size)));
	EXPECT_EQ(16, offset(offsetof(struct exmap_ioctl_setup, flags)));
	EXPECT_EQ(0, offset(offsetof(struct exmap_action_params, interface)));
	EXPECT_EQ(2, offset(offsetof(struct exmap_action_params, iov_len)));
	EXPECT_EQ(4, offset(offsetof(struct exmap_action_params, opcode)));
	EXPECT_EQ(8, offset(offsetof(struct exmap_action_params, flags)));
	EXPECT_EQ(0, offset(offsetof(struct exmap_ioctl_stats, flags)));
	EXPECT_EQ(8, offset(offsetof(struct exmap_ioctl_stats, buffer_size)));
	EXPECT_EQ(16, offset(offsetof(struct exmap_ioctl_stats, alloc_count)));
	EXPECT_EQ(24, offset(offsetof(struct exmap_ioctl_stats, max_interfaces)));

	iov.page = 0x123456789abcd;
	iov.len = 0xef0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	EXPECT_EQ(0xef0123456789abcd, iov.value);
#else
	EXPECT_EQ(0x123456789abcdef0, iov.value);
#endif
	iov.res = -34;
	iov.pages = 4095;
	EXPECT_EQ(-34, iov.res);
	EXPECT_EQ(4095, iov.pages);
}

TEST(numbers)
{
	EXPECT_EQ(offset(_IOC(_IOC_WRITE, 'k', 1, 24)), offset(EXMAP_IOCTL_SETUP));
	EXPECT_EQ(offset(_IOC(_IOC_WRITE, 'k', 2, 16)), offset(EXMAP_IOCTL_ACTION));
	EXPECT_EQ(offset(_IOC(_IOC_WRITE, 'k', 3, 4)), offset(EXMAP_IOCTL_CLONE));
	EXPECT_EQ(offset(_IOC(_IOC_WRITE, 'k', 4, 32)), offset(EXMAP_IOCTL_STATS));
	if (_IOC_WRITE == 1) {
		EXPECT_EQ(0x40186b01, offset(EXMAP_IOCTL_SETUP));
		EXPECT_EQ(0x40106b02, offset(EXMAP_IOCTL_ACTION));
		EXPECT_EQ(0x40046b03, offset(EXMAP_IOCTL_CLONE));
		EXPECT_EQ(0x40206b04, offset(EXMAP_IOCTL_STATS));
	}

	EXPECT_EQ(0, offset(EXMAP_OP_READ));
	EXPECT_EQ(1, offset(EXMAP_OP_ALLOC));
	EXPECT_EQ(2, offset(EXMAP_OP_FREE));
	EXPECT_EQ(3, offset(EXMAP_OP_WRITE));
	EXPECT_EQ(1, offset(EXMAP_ALLOC_PROBE));
	EXPECT_EQ(2, offset(EXMAP_PAGEFAULT_ALLOC));
	EXPECT_EQ(512, EXMAP_USER_INTERFACE_PAGES);
	EXPECT_TRUE(__builtin_types_compatible_p(__typeof__(EXMAP_USER_INTERFACE_PAGES), int));
	EXPECT_EQ(12, EXMAP_PAGE_LEN_BITS);
	EXPECT_EQ(4096, EXMAP_PAGE_MAX_PAGES);

	EXPECT_EQ(0, offset(EXMAP_OFF_EXMAP));
	EXPECT_EQ(offset(0xe000000000000000), offset(EXMAP_OFF_INTERFACE_BASE));
	EXPECT_EQ(offset(0xf000000000000000), offset(EXMAP_OFF_INTERFACE_MAX));
	EXPECT_EQ(offset(0xe000000000000000), offset(EXMAP_OFF_INTERFACE(0)));
	EXPECT_EQ(offset(0xe000000000007000), offset(EXMAP_OFF_INTERFACE(7)));
	EXPECT_EQ(offset(0xe00000000ffff000), offset(EXMAP_OFF_INTERFACE(65535)));
}

/* A file that was just opened, before SETUP */
FIXTURE(fresh) {
	int fd;
};

FIXTURE_SETUP(fresh)
{
	self->fd = exmap_open(_metadata);
}

FIXTURE_TEARDOWN(fresh)
{
	/* A valid SETUP must still succeed after the calls that were refused */
	EXPECT_EQ(0, ex_setup(self->fd, -1, 1, 1));
	EXPECT_EQ(0, close(self->fd));
}

TEST_F(fresh, setup_bad_pointer)
{
	void *none = mmap(NULL, PG, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, none);
	EXPECT_EQ(-EFAULT, ex_ioctl(self->fd, EXMAP_IOCTL_SETUP, NULL));
	EXPECT_EQ(-EFAULT, ex_ioctl(self->fd, EXMAP_IOCTL_SETUP, none));
	EXPECT_EQ(-EFAULT, ex_ioctl(self->fd, EXMAP_IOCTL_SETUP, (void *)-4096L));
}

TEST_F(fresh, setup_bad_backing_fd)
{
	char path[64];
	int fd, memfd;

	EXPECT_EQ(-EBADF, ex_setup(self->fd, -2, 1, 1));
	EXPECT_EQ(-EBADF, ex_setup(self->fd, -100, 1, 1));	/* AT_FDCWD */
	EXPECT_EQ(-EBADF, ex_setup(self->fd, INT_MIN, 1, 1));
	EXPECT_EQ(-EBADF, ex_setup(self->fd, INT_MAX, 1, 1));

	memfd = memfd_create("backing", MFD_CLOEXEC);
	ASSERT_LE(0, memfd);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", memfd);

	fd = open(path, O_WRONLY);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EBADF, ex_setup(self->fd, fd, 1, 1));
	close(fd);
	EXPECT_EQ(-EBADF, ex_setup(self->fd, fd, 1, 1));

	fd = open(path, O_PATH);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EBADF, ex_setup(self->fd, fd, 1, 1));
	close(fd);
	close(memfd);
}

TEST_F(fresh, setup_backing_is_no_file)
{
	int fd, pair[2], other;

	fd = open("/dev/null", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EINVAL, ex_setup(self->fd, fd, 1, 1));
	close(fd);

	fd = open("/", O_RDONLY | O_DIRECTORY);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EINVAL, ex_setup(self->fd, fd, 1, 1));
	close(fd);

	ASSERT_EQ(0, pipe(pair));
	EXPECT_EQ(-EINVAL, ex_setup(self->fd, pair[0], 1, 1));
	close(pair[0]);
	close(pair[1]);

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	EXPECT_EQ(-EINVAL, ex_setup(self->fd, pair[0], 1, 1));
	close(pair[0]);
	close(pair[1]);

	fd = epoll_create1(0);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EINVAL, ex_setup(self->fd, fd, 1, 1));
	close(fd);

	/* An exmap cannot be a backing file: the file itself, a fresh one, one in use */
	EXPECT_EQ(-EINVAL, ex_setup(self->fd, self->fd, 1, 1));
	other = exmap_open(_metadata);
	EXPECT_EQ(-EINVAL, ex_setup(self->fd, other, 1, 1));
	ASSERT_EQ(0, ex_setup(other, -1, 1, 1));
	EXPECT_EQ(-EINVAL, ex_setup(self->fd, other, 1, 1));
	close(other);
}

TEST_F(fresh, setup_bad_max_interfaces)
{
	EXPECT_EQ(-EINVAL, ex_setup(self->fd, -1, 0, 1));
	EXPECT_EQ(-EINVAL, ex_setup(self->fd, -1, -1, 1));
	EXPECT_EQ(-EINVAL, ex_setup(self->fd, -1, INT_MIN, 1));
	EXPECT_EQ(-EINVAL, ex_setup(self->fd, -1, 65537, 1));
	EXPECT_EQ(-EINVAL, ex_setup(self->fd, -1, INT_MAX, 1));
}

TEST_F(fresh, setup_bad_buffer_size)
{
	EXPECT_EQ(-EINVAL, ex_setup(self->fd, -1, 1, 0));
	EXPECT_EQ(-ENOMEM, ex_setup(self->fd, -1, 1, ~0ULL));
	EXPECT_EQ(-ENOMEM, ex_setup(self->fd, -1, 1, 1ULL << 63));
	EXPECT_EQ(-ENOMEM, ex_setup(self->fd, -1, 1, 1ULL << 51));
	/* Converted to bytes, these sizes wrap around to 0 and to 16 pages */
	EXPECT_EQ(-ENOMEM, ex_setup(self->fd, -1, 1, 1ULL << 52));
	EXPECT_EQ(-ENOMEM, ex_setup(self->fd, -1, 1, (1ULL << 52) + 16));
}

TEST_F(fresh, before_setup)
{
	struct exmap_ioctl_stats stats;

	EXPECT_EQ(-ENXIO, ex_action(self->fd, 0, EXMAP_OP_ALLOC, 0));
	EXPECT_EQ(-ENXIO, ex_stats(self->fd, &stats));
	EXPECT_EQ(-ENXIO, ex_try_mmap(self->fd, PG, MAP_SHARED, EXMAP_OFF_INTERFACE(0)));
	EXPECT_EQ(-ENXIO, ex_pread(self->fd, 0, EXMAP_OP_ALLOC, (void *)PG, PG));
	EXPECT_EQ(-ENXIO, ex_pread(self->fd, 0, EXMAP_OP_READ, (void *)PG, PG));
}

TEST_F(fresh, before_setup_with_region)
{
	struct exmap_ioctl_stats stats;
	void *region = ex_map_region(self->fd, 16);

	ASSERT_NE(MAP_FAILED, region);
	EXPECT_EQ(-ENXIO, ex_action(self->fd, 0, EXMAP_OP_ALLOC, 0));
	EXPECT_EQ(-ENXIO, ex_stats(self->fd, &stats));
	EXPECT_EQ(-ENXIO, ex_try_mmap(self->fd, PG, MAP_SHARED, EXMAP_OFF_INTERFACE(0)));
	EXPECT_EQ(-ENXIO, ex_pread(self->fd, 0, EXMAP_OP_ALLOC, region, PG));
	EXPECT_EQ(-ENXIO, ex_pread(self->fd, 0, EXMAP_OP_READ, region, PG));
}

TEST_F(fresh, file_for_reading_only)
{
	int fd = open(DEVICE, O_RDONLY);

	ASSERT_LE(0, fd);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PG, PROT_READ, MAP_SHARED, fd, EXMAP_OFF_EXMAP));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(0, ex_setup(fd, -1, 1, 1));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PG, PROT_READ, MAP_SHARED, fd, EXMAP_OFF_INTERFACE(0)));
	EXPECT_EQ(EINVAL, errno);
	close(fd);
}

TEST_F(fresh, unknown_ioctl)
{
	char buf[64] = { 0 };
	int nr;

	for (nr = 0; nr < 256; nr++) {
		if (nr >= 1 && nr <= 4)
			continue;
		EXPECT_EQ(-ENOTTY, ex_ioctl(self->fd, _IOC(_IOC_WRITE, 'k', nr, 0), buf));
	}
	EXPECT_EQ(-ENOTTY, ex_ioctl(self->fd, _IOC(_IOC_NONE, 'k', 1, 24), buf));
	EXPECT_EQ(-ENOTTY, ex_ioctl(self->fd, _IOC(_IOC_READ, 'k', 1, 24), buf));
	EXPECT_EQ(-ENOTTY, ex_ioctl(self->fd, _IOC(_IOC_WRITE, 'k', 1, 23), buf));
	EXPECT_EQ(-ENOTTY, ex_ioctl(self->fd, _IOC(_IOC_WRITE, 'k', 1, 32), buf));
	EXPECT_EQ(-ENOTTY, ex_ioctl(self->fd, _IOC(_IOC_WRITE, 'k', 2, 8), buf));
	EXPECT_EQ(-ENOTTY, ex_ioctl(self->fd, _IOC(_IOC_WRITE, 'j', 1, 24), buf));
	EXPECT_EQ(-ENOTTY, ex_ioctl(self->fd, 0, buf));
}

/* An exmap with one resident page, whose data must survive all refused calls */
FIXTURE(ready) {
	struct paged p;
	struct exmap_user_interface before;
};

FIXTURE_SETUP(ready)
{
	int i;

	paged_create(_metadata, &self->p, -1, 4, 16, 64);
	for (i = 0; i < 4; i++)
		memset(self->p.iface[i], 0xa5, PG);
	ASSERT_EQ(1, ex_alloc(&self->p.ex, 3, 7, 1));
	stamp_page(page_at(&self->p.ex, 7), 7);
	self->before = *self->p.iface[0];
}

FIXTURE_TEARDOWN(ready)
{
	int i;

	/* Calls that return an error must not change any interface page */
	for (i = 0; i < 4; i++)
		EXPECT_EQ(0, memcmp(&self->before, self->p.iface[i], PG));
	EXPECT_TRUE(stamp_intact(page_at(&self->p.ex, 7), 7));
	EXPECT_EQ(1, count_present(&self->p.ex, 0, 64));
	EXPECT_EQ(15, ex_fill(&self->p.ex, 0, 8));
	paged_destroy(&self->p);
}

TEST_F(ready, second_setup)
{
	struct exmap_ioctl_stats stats;

	EXPECT_EQ(-EBUSY, ex_setup(self->p.ex.fd, -1, 4, 16));
	EXPECT_EQ(-EBUSY, ex_setup(self->p.ex.fd, -1, 8, 32));
	EXPECT_EQ(0, ex_stats(self->p.ex.fd, &stats));
	EXPECT_EQ(16, (long)stats.buffer_size);
	EXPECT_EQ(4, (long)stats.max_interfaces);
}

TEST_F(ready, action_bad_pointer)
{
	EXPECT_EQ(-EFAULT, ex_ioctl(self->p.ex.fd, EXMAP_IOCTL_ACTION, NULL));
	EXPECT_EQ(-EFAULT, ex_ioctl(self->p.ex.fd, EXMAP_IOCTL_ACTION, (void *)-4096L));
	/*
	 * The argument is in an empty slot. ACTION must not hold a lock that the page
	 * fault needs while it copies the argument.
	 */
	EXPECT_EQ(-EFAULT, ex_ioctl(self->p.ex.fd, EXMAP_IOCTL_ACTION, page_at(&self->p.ex, 1)));
}

TEST_F(ready, action_bad_interface)
{
	int i;

	for (i = 4; i < 65536; i += i < 300 ? 1 : 509) {
		EXPECT_EQ(-EINVAL, ex_action(self->p.ex.fd, i, EXMAP_OP_ALLOC, 0));
		EXPECT_EQ(-EINVAL, ex_action(self->p.ex.fd, i, EXMAP_OP_ALLOC, 1));
		EXPECT_EQ(-EINVAL, ex_action(self->p.ex.fd, i, EXMAP_OP_FREE, 1));
	}
	EXPECT_EQ(-EINVAL, ex_action(self->p.ex.fd, 65535, EXMAP_OP_ALLOC, 1));
}

TEST_F(ready, action_bad_iov_len)
{
	int n;

	for (n = 513; n < 65536; n += n < 1100 ? 1 : 1021) {
		EXPECT_EQ(-EINVAL, ex_action(self->p.ex.fd, 0, EXMAP_OP_ALLOC, n));
		EXPECT_EQ(-EINVAL, ex_action(self->p.ex.fd, 0, EXMAP_OP_FREE, n));
	}
	EXPECT_EQ(-EINVAL, ex_action(self->p.ex.fd, 0, EXMAP_OP_ALLOC, 65535));
}

TEST_F_TIMEOUT(ready, action_every_opcode, SLOW)
{
	int opcode, wrong = 0;

	for (opcode = 0; opcode < 65536; opcode++) {
		if (opcode <= EXMAP_OP_WRITE)
			continue;
		wrong += ex_action(self->p.ex.fd, 0, opcode, 1) != -EINVAL;
		if (opcode < 256)
			wrong += ex_action(self->p.ex.fd, 0, opcode, 0) != -EINVAL;
	}
	EXPECT_EQ(0, wrong);
}

TEST_F(ready, action_bad_flags)
{
	struct exmap_action_params params = {
		.iov_len = 1,
		.opcode = EXMAP_OP_ALLOC,
	};
	int bit;

	for (bit = 0; bit < 64; bit++) {
		params.flags = 1ULL << bit;
		EXPECT_EQ(-EINVAL, ex_ioctl(self->p.ex.fd, EXMAP_IOCTL_ACTION, &params));
	}
	params.flags = ~0ULL;
	EXPECT_EQ(-EINVAL, ex_ioctl(self->p.ex.fd, EXMAP_IOCTL_ACTION, &params));
}

TEST_F(ready, action_padding_is_ignored)
{
	struct exmap_action_params params;

	memset(&params, 0xff, sizeof(params));
	params.interface = 0;
	params.iov_len = 0;
	params.opcode = EXMAP_OP_FREE;
	params.flags = 0;
	EXPECT_EQ(0, ex_ioctl(self->p.ex.fd, EXMAP_IOCTL_ACTION, &params));
}

TEST_F(ready, iov_len_0)
{
	/* A call without vectors succeeds, whatever the interface page contains */
	EXPECT_EQ(0, ex_action(self->p.ex.fd, 0, EXMAP_OP_ALLOC, 0));
	EXPECT_EQ(0, ex_action(self->p.ex.fd, 0, EXMAP_OP_FREE, 0));
}

TEST_F(ready, stats)
{
	struct exmap_ioctl_stats stats;

	EXPECT_EQ(-EFAULT, ex_ioctl(self->p.ex.fd, EXMAP_IOCTL_STATS, NULL));
	EXPECT_EQ(-EFAULT, ex_ioctl(self->p.ex.fd, EXMAP_IOCTL_STATS, (void *)-4096L));
	EXPECT_EQ(0, ex_stats(self->p.ex.fd, &stats));
	EXPECT_EQ(0, (long)stats.flags);
	EXPECT_EQ(16, (long)stats.buffer_size);
	EXPECT_EQ(4, (long)stats.max_interfaces);
	EXPECT_LE(1, (long)stats.alloc_count);
	EXPECT_GE(16, (long)stats.alloc_count);
}

TEST_F(ready, mmap_bad_interface)
{
	static const int numbers[] = { 4, 5, 511, 512, 65535, 65536, 65540, 1 << 20, 1 << 30 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(numbers); i++)
		EXPECT_EQ(-ENXIO, ex_try_mmap(self->p.ex.fd, PG, MAP_SHARED,
					      EXMAP_OFF_INTERFACE(numbers[i])));
	EXPECT_EQ(-EINVAL, ex_try_mmap(self->p.ex.fd, 2 * PG, MAP_SHARED, EXMAP_OFF_INTERFACE(0)));
	/* A mapping of two pages cannot cover interfaces 2 and 3 either */
	EXPECT_EQ(-EINVAL, ex_try_mmap(self->p.ex.fd, 2 * PG, MAP_SHARED, EXMAP_OFF_INTERFACE(2)));
	EXPECT_EQ(-EINVAL, ex_try_mmap(self->p.ex.fd, PG, MAP_PRIVATE, EXMAP_OFF_INTERFACE(0)));
}

/* Offsets on both sides of those of the interfaces */
TEST_F(ready, mmap_bad_offset)
{
	static const unsigned long offsets[] = {
		0xdffffffffffff000, 0xf000000000000000, 0xf000000000001000,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(offsets); i++)
		EXPECT_EQ(-EINVAL, ex_try_mmap(self->p.ex.fd, PG, MAP_SHARED, offsets[i]))
			TH_LOG("offset %#lx", offsets[i]);
}

TEST_F(ready, mmap_second_region)
{
	EXPECT_EQ(-EBUSY, ex_try_mmap(self->p.ex.fd, 64 * PG, MAP_SHARED, EXMAP_OFF_EXMAP));
	EXPECT_EQ(-EBUSY, ex_try_mmap(self->p.ex.fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
	EXPECT_EQ(-EINVAL, ex_try_mmap(self->p.ex.fd, 64 * PG, MAP_PRIVATE, EXMAP_OFF_EXMAP));
}

TEST_F(ready, read_bad_position)
{
	char *page = page_at(&self->p.ex, 1);
	int opcode, iface, bit;

	for (opcode = 2; opcode < 256; opcode++)
		EXPECT_EQ(-EINVAL, ex_pread(self->p.ex.fd, 0, opcode, page, PG));
	for (iface = 4; iface < 65536; iface += iface < 520 ? 1 : 1021)
		EXPECT_EQ(-EINVAL, ex_pread(self->p.ex.fd, iface, EXMAP_OP_ALLOC, page, PG));
	/* The bits above the 16-bit interface number must be zero */
	for (bit = 24; bit < 63; bit++) {
		errno = 0;
		EXPECT_EQ(-1, pread(self->p.ex.fd, page, PG,
				    1L << bit | ex_pos(0, EXMAP_OP_ALLOC)));
		EXPECT_EQ(EINVAL, errno);
	}
	EXPECT_EQ(-1, pread(self->p.ex.fd, page, PG, -1));
	EXPECT_EQ(EINVAL, errno);
}

TEST_F(ready, read_unaligned)
{
	char *page = page_at(&self->p.ex, 1);
	/* The lengths are multiples of the page size only in sum */
	struct iovec iov[2] = { { page, 2048 }, { page + 2048, 2048 } };
	int fd = self->p.ex.fd, shift;

	for (shift = 1; shift < 4096; shift *= 2) {
		EXPECT_EQ(-EINVAL, ex_pread(fd, 0, EXMAP_OP_ALLOC, page + shift, PG));
		EXPECT_EQ(-EINVAL, ex_pread(fd, 0, EXMAP_OP_ALLOC, page, shift));
		EXPECT_EQ(-EINVAL, ex_pread(fd, 0, EXMAP_OP_ALLOC, page, PG + shift));
	}
	EXPECT_EQ(-EINVAL, ex_preadv(fd, 0, EXMAP_OP_ALLOC, iov, 2));
}

TEST_F(ready, read_outside_region)
{
	char *anon, *end = page_at(&self->p.ex, 64);

	anon = mmap(NULL, 2 * PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, anon);
	anon[0] = 1;
	EXPECT_EQ(-ERANGE, ex_pread(self->p.ex.fd, 0, EXMAP_OP_ALLOC, anon, PG));
	EXPECT_EQ(-ERANGE, ex_pread(self->p.ex.fd, 0, EXMAP_OP_ALLOC, anon, 2 * PG));
	EXPECT_EQ(-ERANGE, ex_pread(self->p.ex.fd, 0, EXMAP_OP_ALLOC, (void *)PG, PG));
	EXPECT_EQ(-ERANGE, ex_pread(self->p.ex.fd, 0, EXMAP_OP_ALLOC, end, PG));
	EXPECT_EQ(-ERANGE, ex_pread(self->p.ex.fd, 0, EXMAP_OP_ALLOC, self->p.ex.region - PG, PG));
	EXPECT_EQ(-ERANGE, ex_pread(self->p.ex.fd, 0, EXMAP_OP_ALLOC,
				    self->p.ex.region - PG, 2 * PG));
	EXPECT_EQ(-ERANGE, ex_pread(self->p.ex.fd, 0, EXMAP_OP_ALLOC, end - PG, 2 * PG));
	EXPECT_EQ(-ERANGE, ex_pread(self->p.ex.fd, 0, EXMAP_OP_ALLOC, end - PG, 1L << 30));
	EXPECT_EQ(1, anon[0]);
}

TEST_F(ready, read_without_backing_file)
{
	EXPECT_EQ(-ENODEV, ex_pread(self->p.ex.fd, 0, EXMAP_OP_READ, page_at(&self->p.ex, 1), PG));
	EXPECT_EQ(-ENODEV, ex_pread(self->p.ex.fd, 0, EXMAP_OP_READ, page_at(&self->p.ex, 7), PG));
}

TEST_F(ready, write_without_backing_file)
{
	struct iovec iov = { page_at(&self->p.ex, 7), PG };
	int opcode;

	EXPECT_EQ(-1, write(self->p.ex.fd, iov.iov_base, PG));
	EXPECT_EQ(ENODEV, errno);
	EXPECT_EQ(-1, pwrite(self->p.ex.fd, iov.iov_base, PG, ex_pos(0, EXMAP_OP_WRITE)));
	EXPECT_EQ(ENODEV, errno);
	EXPECT_EQ(-1, pwritev(self->p.ex.fd, &iov, 1, ex_pos(0, EXMAP_OP_WRITE)));
	EXPECT_EQ(ENODEV, errno);
	for (opcode = 1; opcode < 256; opcode++) {
		if (opcode == EXMAP_OP_WRITE)
			continue;
		EXPECT_EQ(-1, pwrite(self->p.ex.fd, iov.iov_base, PG, ex_pos(0, opcode)));
		EXPECT_EQ(EINVAL, errno);
	}
}

TEST_F(ready, clone_bad_source)
{
	int fd = exmap_open(_metadata), fresh = exmap_open(_metadata), other;

	EXPECT_EQ(-EBADF, ex_clone(fd, -1));
	EXPECT_EQ(-EBADF, ex_clone(fd, INT_MAX));
	other = open("/dev/null", O_RDWR);
	ASSERT_LE(0, other);
	EXPECT_EQ(-EINVAL, ex_clone(fd, other));
	close(other);
	EXPECT_EQ(-EBADF, ex_clone(fd, other));
	EXPECT_EQ(-EINVAL, ex_clone(fd, fresh));
	EXPECT_EQ(-EINVAL, ex_clone(fd, fd));

	/* A file that has an exmap, from whichever call, cannot get another one */
	ASSERT_EQ(0, ex_clone(fd, self->p.ex.fd));
	EXPECT_EQ(-EBUSY, ex_clone(fd, self->p.ex.fd));
	EXPECT_EQ(-EBUSY, ex_setup(fd, -1, 1, 1));
	EXPECT_EQ(-EBUSY, ex_try_mmap(fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
	ASSERT_EQ(0, ex_setup(fresh, -1, 1, 1));
	EXPECT_EQ(-EBUSY, ex_clone(fresh, self->p.ex.fd));
	EXPECT_EQ(-EBUSY, ex_clone(self->p.ex.fd, fresh));
	close(fd);
	close(fresh);

	fd = exmap_open(_metadata);
	ASSERT_NE(MAP_FAILED, ex_map_region(fd, 8));
	EXPECT_EQ(-EBUSY, ex_clone(fd, self->p.ex.fd));
	close(fd);
}

TEST_HARNESS_MAIN
