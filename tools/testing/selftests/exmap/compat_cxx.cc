// SPDX-License-Identifier: GPL-2.0
/*
 * A program in the style of existing ones. It must build as C++20, and uses every name of
 * the first version of the interface. compat_c.c is the same in C.
 */
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <type_traits>
#include <unistd.h>

#include <linux/exmap.h>

static constexpr size_t pages = 64;

static_assert(sizeof(exmap_iov) == 8);
static_assert(sizeof(exmap_user_interface) == 4096);
static_assert(sizeof(exmap_ioctl_setup) == 24);
static_assert(sizeof(exmap_action_params) == 16);
static_assert(sizeof(exmap_ioctl_stats) == 32);
static_assert(std::is_same_v<decltype(EXMAP_USER_INTERFACE_PAGES), int>);
static_assert(std::is_same_v<decltype(exmap_iov::res), __s32>);
static_assert(std::is_same_v<decltype(exmap_iov::pages), __s16>);
static_assert(std::is_same_v<decltype(exmap_iov::value), __u64>);
static_assert(std::is_same_v<decltype(exmap_ioctl_setup::fd), __s32>);
static_assert(std::is_same_v<decltype(exmap_ioctl_setup::max_interfaces), __s32>);
static_assert(std::is_same_v<decltype(exmap_ioctl_setup::buffer_size), __u64>);
static_assert(std::is_same_v<decltype(exmap_ioctl_setup::flags), __u64>);
static_assert(std::is_same_v<decltype(exmap_action_params::interface), __u16>);
static_assert(std::is_same_v<decltype(exmap_action_params::iov_len), __u16>);
static_assert(std::is_same_v<decltype(exmap_action_params::opcode), __u16>);
static_assert(std::is_same_v<decltype(exmap_action_params::flags), __u64>);
static_assert(std::is_same_v<decltype(exmap_ioctl_stats::max_interfaces), __u32>);
static_assert(std::is_enum_v<exmap_opcode> && std::is_enum_v<exmap_flags>);
static_assert(EXMAP_OFF_INTERFACE(0) == EXMAP_OFF_INTERFACE_BASE);
static_assert(EXMAP_OFF_INTERFACE(65535) < EXMAP_OFF_INTERFACE_MAX);
static_assert(EXMAP_PAGE_MAX_PAGES == 1 << EXMAP_PAGE_LEN_BITS);

static int failed(const char *what)
{
	perror(what);
	printf("not ok 1 %s\n", what);
	return 1;
}

static int run(int fd)
{
	exmap_ioctl_setup setup = {
		.fd = -1, .max_interfaces = 4, .buffer_size = pages, .flags = 0,
	};

	if (ioctl(fd, EXMAP_IOCTL_SETUP, &setup) < 0)
		return failed("ioctl: exmap_setup");
	auto exmap = static_cast<char *>(mmap(nullptr, pages * 4096, PROT_READ | PROT_WRITE,
					      MAP_SHARED, fd, EXMAP_OFF_EXMAP));
	if (exmap == MAP_FAILED)
		return failed("mmap: exmap");
	auto interface = static_cast<exmap_user_interface *>(
		mmap(nullptr, sizeof(exmap_user_interface), PROT_READ | PROT_WRITE,
		     MAP_SHARED, fd, EXMAP_OFF_INTERFACE(1)));
	if (interface == MAP_FAILED)
		return failed("mmap: interface");

	/* Programs pass this constant to templates that need an int */
	int count = std::min(EXMAP_USER_INTERFACE_PAGES, 2);

	interface->iov[0].page = 3;
	interface->iov[0].len = 2;
	exmap_iov vec = { .value = 0 };
	vec.page = 9;
	vec.len = 1;
	interface->iov[1] = vec;

	exmap_action_params params = {
		.interface = 1, .iov_len = (uint16_t)count, .opcode = EXMAP_OP_ALLOC, .flags = 0,
	};
	if (ioctl(fd, EXMAP_IOCTL_ACTION, &params) != 0)
		return failed("ioctl: exmap_action");
	if (interface->iov[0].res != 0 || interface->iov[0].pages != 2 ||
	    interface->iov[1].res != 0 || interface->iov[1].pages != 1)
		return failed("vectors");
	memset(exmap + 3 * 4096, 1, 2 * 4096);

	exmap_uring_cmd cmd = { .iov = { .iov_base = exmap + 11 * 4096, .iov_len = 4096 } };
	if (preadv(fd, &cmd.iov, 1, 1 | EXMAP_OP_ALLOC << 8) != 4096)
		return failed("preadv");
	if (pread(fd, exmap, 4096, 1 | EXMAP_OP_READ << 8) != -1)
		return failed("pread without a file");

	exmap_ioctl_stats stats = {
		.flags = 0, .buffer_size = 0, .alloc_count = 0, .max_interfaces = 0,
	};
	if (ioctl(fd, EXMAP_IOCTL_STATS, &stats) < 0)
		return failed("ioctl: exmap_stats");
	if (stats.buffer_size != pages || stats.max_interfaces != 4 || stats.alloc_count < 4)
		return failed("stats");

	int clone = open("/dev/exmap", O_RDWR);
	if (clone < 0 || ioctl(clone, EXMAP_IOCTL_CLONE, fd) < 0)
		return failed("ioctl: exmap_clone");
	exmap_opcode opcode = EXMAP_OP_FREE;
	interface->iov[0] = { .value = 0 };
	interface->iov[0].len = pages;
	params = { .interface = 1, .iov_len = 1, .opcode = (uint16_t)opcode, .flags = 0 };
	if (ioctl(clone, EXMAP_IOCTL_ACTION, &params) != 0 || interface->iov[0].pages != 4)
		return failed("free");

	exmap_flags flags = EXMAP_ALLOC_PROBE;
	params.opcode = EXMAP_OP_WRITE;
	params.flags = flags | EXMAP_PAGEFAULT_ALLOC;
	if (ioctl(fd, EXMAP_IOCTL_ACTION, &params) != -1)
		return failed("write");
	return 0;
}

int main()
{
	printf("TAP version 13\n1..1\n");
	int fd = open("/dev/exmap", O_RDWR);
	if (fd < 0)
		return failed("open /dev/exmap");
	if (run(fd))
		return 1;
	printf("ok 1 a program in C++\n");
	return 0;
}
