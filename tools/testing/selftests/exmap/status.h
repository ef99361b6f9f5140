/* SPDX-License-Identifier: GPL-2.0 */
/* Memory of the process, as /proc/self/status counts it */
#ifndef EXMAP_TEST_STATUS_H
#define EXMAP_TEST_STATUS_H

#include "common.h"

/*
 * A line of /proc/self/status, for example "RssFile:", in KiB, or -1. All calls of
 * a process but the first work where the memory cgroup has no memory left.
 */
static inline long status_kib(const char *name)
{
	static int fd = -1;
	static pid_t pid;
	char text[4096], *line;
	ssize_t len;

	/* A file that was opened before fork() tells of the parent */
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
 * Whether the kernel can free a page table of a live region (CONFIG_PT_RECLAIM):
 * MADV_DONTNEED of anonymous memory does it then.
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
