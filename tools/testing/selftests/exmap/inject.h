/* SPDX-License-Identifier: GPL-2.0 */
/* Let allocations of a thread fail, with the kernel's fault injection */
#ifndef EXMAP_TEST_INJECT_H
#define EXMAP_TEST_INJECT_H

#include "common.h"

/* Write to a file below /sys/kernel/debug. Returns 0 or -errno. */
static inline int inject_set(const char *name, const char *value)
{
	char path[96];
	ssize_t ret;
	int fd;

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = write(fd, value, strlen(value)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

/* fail-nth and make-it-fail of this thread, in /proc */
static __thread int inject_nth_fd = -1, inject_pages_fd = -1;

/* Must be called once by each thread that injects failures */
static inline bool inject_open(void)
{
	inject_nth_fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	inject_pages_fd = open("/proc/thread-self/make-it-fail", O_RDWR | O_CLOEXEC);
	return inject_nth_fd >= 0 && inject_pages_fd >= 0;
}

/*
 * Prepare fault injection, before any inject_open(). Returns false if the kernel has
 * none, or the caller may not use it.
 */
static inline bool inject_begin(void)
{
	return !inject_set("failslab/ignore-gfp-wait", "N") &&
	       !inject_set("failslab/verbose", "0") &&
	       !inject_set("fail_page_alloc/ignore-gfp-wait", "N") &&
	       !inject_set("fail_page_alloc/ignore-gfp-highmem", "N") &&
	       !inject_set("fail_page_alloc/min-order", "0") &&
	       !inject_set("fail_page_alloc/task-filter", "Y") &&
	       !inject_set("fail_page_alloc/interval", "1") &&
	       !inject_set("fail_page_alloc/verbose", "0");
}

static inline void inject_close(void)
{
	close(inject_nth_fd);
	close(inject_pages_fd);
}

static inline void inject_put(int fd, int value)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", value);

	if (pwrite(fd, text, len, 0) != len)
		abort();
}

/* Let the @nth allocation from now on fail, or none if @nth is 0 */
static inline void inject_nth(int nth)
{
	inject_put(inject_nth_fd, nth);
}

/* Whether the allocation chosen by inject_nth() has failed */
static inline bool inject_nth_failed(void)
{
	char text[16] = "";

	if (pread(inject_nth_fd, text, sizeof(text) - 1, 0) <= 0)
		abort();
	return !atoi(text);
}

/* Set whether page allocations of this thread fail as fail_page_alloc/ says */
static inline void inject_pages(bool on)
{
	inject_put(inject_pages_fd, on);
}

#endif
