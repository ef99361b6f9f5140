/* SPDX-License-Identifier: GPL-2.0 */
/* Memory usage of the process, according to /proc/self/status */
#ifndef EXMAP_TEST_STATUS_H
#define EXMAP_TEST_STATUS_H

#include "common.h"

/*
 * Return the value of a line of /proc/self/status, such as "RssFile:", in KiB, or
 * -1. Only the first call in a process opens the file, so that later calls work when
 * the memory cgroup has no memory left.
 */
static inline long status_kib(const char *name)
{
	static int fd = -1;
	static pid_t pid;
	char text[4096], *line;
	ssize_t len;

	/* A file opened before fork() describes the parent */
	if (pid != getpid()) {
		close(fd);
		fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
		pid = getpid();
	}
	len = pread(fd, text, sizeof(text) - 1, 0);
	if (len < 0)
		return -1;
	text[len] = 0;
	line = strstr(text, name);
	return line ? atol(line + strlen(name)) : -1;
}

/*
 * Whether the kernel can free page tables of a live region (CONFIG_PT_RECLAIM). If
 * so, it frees them on MADV_DONTNEED of anonymous memory.
 */
static inline bool page_tables_go_back(void)
{
	const size_t size = 64UL << 20, step = 2UL << 20;
	char *memory;
	long before;
	size_t i;

	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return false;
	madvise(memory, size, MADV_NOHUGEPAGE);
	for (i = 0; i < size; i += step)
		memory[i] = 1;
	before = status_kib("VmPTE:");
	madvise(memory, size, MADV_DONTNEED);
	before -= status_kib("VmPTE:");
	munmap(memory, size);
	return before >= 64;
}

#endif
