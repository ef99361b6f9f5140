// SPDX-License-Identifier: GPL-2.0
/*
 * A program in the style of existing ones. It must build as C90 and as C11, and uses
 * every name of the first version of the interface. compat_cxx.cc is the same in C++20.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/exmap.h>

#define PAGES 64

static int failed(const char *what)
{
	perror(what);
	printf("not ok 1 %s\n", what);
	return 1;
}

static int run(int fd)
{
	struct exmap_ioctl_setup setup = {
		.fd             = -1,
		.max_interfaces = 4,
		.buffer_size    = PAGES,
		.flags          = 0
	};
	struct exmap_action_params params = {
		.interface = 1,
		.iov_len   = 2,
		.opcode    = EXMAP_OP_ALLOC,
		.flags     = 0
	};
	struct exmap_user_interface *interface;
	struct exmap_uring_cmd cmd;
	struct exmap_ioctl_stats stats;
	struct exmap_iov vec;
	enum exmap_opcode opcode = EXMAP_OP_FREE;
	enum exmap_flags flag = EXMAP_ALLOC_PROBE;
	enum exmap_flags other_flag = EXMAP_PAGEFAULT_ALLOC;
	int clone;
	char *exmap;

	if (ioctl(fd, EXMAP_IOCTL_SETUP, &setup) < 0)
		return failed("ioctl: exmap_setup");
	exmap = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		     EXMAP_OFF_EXMAP);
	if (exmap == MAP_FAILED)
		return failed("mmap: exmap");
	interface = mmap(NULL, sizeof(*interface), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			 EXMAP_OFF_INTERFACE(1));
	if (interface == MAP_FAILED)
		return failed("mmap: interface");
	if (EXMAP_OFF_INTERFACE(0) != EXMAP_OFF_INTERFACE_BASE ||
	    EXMAP_OFF_INTERFACE(1) >= EXMAP_OFF_INTERFACE_MAX)
		return failed("offsets");

	interface->iov[0].page = 3;
	interface->iov[0].len  = 2;
	vec.value = 0;
	vec.page = 9;
	vec.len = 1;
	interface->iov[1] = vec;
	if (ioctl(fd, EXMAP_IOCTL_ACTION, &params) != 0)
		return failed("ioctl: exmap_action");
	if (interface->iov[0].res != 0 || interface->iov[0].pages != 2 ||
	    interface->iov[1].res != 0 || interface->iov[1].pages != 1)
		return failed("vectors");
	memset(exmap + 3 * 4096, 1, 2 * 4096);

	/* ALLOC one more page with a read call at offset interface | opcode << 8 */
	cmd.iov.iov_base = exmap + 11 * 4096;
	cmd.iov.iov_len = 4096;
	if (preadv(fd, &cmd.iov, 1, params.interface | EXMAP_OP_ALLOC << 8) != 4096)
		return failed("preadv");
	if (pread(fd, exmap, 4096, params.interface | EXMAP_OP_READ << 8) != -1)
		return failed("pread without a file");

	memset(&stats, 0, sizeof(stats));
	if (ioctl(fd, EXMAP_IOCTL_STATS, &stats) < 0)
		return failed("ioctl: exmap_stats");
	if (stats.buffer_size != PAGES || stats.max_interfaces != 4 ||
	    stats.alloc_count < 4 || stats.flags != 0)
		return failed("stats");

	clone = open("/dev/exmap", O_RDWR);
	if (clone < 0 || ioctl(clone, EXMAP_IOCTL_CLONE, fd) < 0)
		return failed("ioctl: exmap_clone");
	memset(&params, 0, sizeof(params));
	params.interface = 1;
	params.iov_len = 1;
	params.opcode = opcode;
	interface->iov[0].value = 0;
	interface->iov[0].len = PAGES;
	if (ioctl(clone, EXMAP_IOCTL_ACTION, &params) != 0 || interface->iov[0].pages != 4)
		return failed("free");

	/* ACTION takes no flags, but their names must exist */
	params.opcode = EXMAP_OP_WRITE;
	params.flags = flag | other_flag;
	if (ioctl(fd, EXMAP_IOCTL_ACTION, &params) != -1)
		return failed("write");

	if (sizeof(*interface) / sizeof(vec) != EXMAP_USER_INTERFACE_PAGES ||
	    sizeof(vec) * 8 != 52 + EXMAP_PAGE_LEN_BITS ||
	    1 << EXMAP_PAGE_LEN_BITS != EXMAP_PAGE_MAX_PAGES)
		return failed("sizes");
	return 0;
}

int main(void)
{
	int fd;

	printf("TAP version 13\n1..1\n");
	fd = open("/dev/exmap", O_RDWR);
	if (fd < 0)
		return failed("open /dev/exmap");
	if (run(fd))
		return 1;
	printf("ok 1 a program in C\n");
	return 0;
}
