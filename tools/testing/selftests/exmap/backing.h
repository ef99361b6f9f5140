/* SPDX-License-Identifier: GPL-2.0 */
/* Backing files of every kind, in which each word says which page it belongs to */
#ifndef EXMAP_TEST_BACKING_H
#define EXMAP_TEST_BACKING_H

#include "common.h"

#include <stdalign.h>
#include <sys/statfs.h>

#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/magic.h>

enum backing {
	MEMFD, FILE_BUFFERED, FILE_DIRECT, XFS_BUFFERED, XFS_DIRECT,
	BLOCK_BUFFERED, BLOCK_DIRECT, LOOP_DIRECT,
};

static inline __u64 word_of(long page, int word)
{
	return ((__u64)page << 16) | word | 1ULL << 60;
}

static inline void make_page(__u64 *words, long page)
{
	int i;

	for (i = 0; i < (int)WORDS; i++)
		words[i] = word_of(page, i);
}

static inline bool page_is(const void *addr, long page)
{
	const __u64 *words = addr;
	int i;

	for (i = 0; i < (int)WORDS; i++)
		if (words[i] != word_of(page, i))
			return false;
	return true;
}

static inline int fill_file(int fd, int pages)
{
	int i, j;
	__u64 *buf;

	if (posix_memalign((void **)&buf, PG, 64 * PG))
		return -ENOMEM;
	for (i = 0; i < pages; i += 64) {
		for (j = 0; j < 64; j++)
			make_page(buf + j * WORDS, i + j);
		if (pwrite(fd, buf, 64 * PG, i * PG) != (ssize_t)(64 * PG))
			break;
	}
	free(buf);
	if (i < pages)
		return -EIO;
	return fsync(fd) ? -errno : 0;
}

static inline int open_file_in(const char *dir)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/exmap-test-XXXXXX", dir);
	fd = mkstemp(path);
	if (fd >= 0)
		unlink(path);
	return fd;
}

/* Open an unlinked file in EXMAP_TEST_DIR or, by default, in /tmp */
static inline int open_file(void)
{
	return open_file_in(getenv("EXMAP_TEST_DIR") ?: "/tmp");
}

/*
 * Open an unlinked file in the directory that the environment variable @variable
 * names. Returns -1 if the file system there is not of type @magic.
 */
static inline int open_file_on(const char *variable, unsigned long magic)
{
	const char *dir = getenv(variable);
	struct statfs info;

	if (!dir || statfs(dir, &info) || (unsigned long)info.f_type != magic)
		return -1;
	return open_file_in(dir);
}

static inline int open_xfs_file(void)
{
	return open_file_on("EXMAP_TEST_XFS", XFS_SUPER_MAGIC);
}

static inline int reopen(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_CLOEXEC);
}

/* Content that tests write to @page: that of a page which is not in the file */
#define NEW(page)	((page) + 5000L)

static inline void renew(struct exmap *ex, long page)
{
	make_page((__u64 *)page_at(ex, page), NEW(page));
}

/* Whether page @at of the file has the content of page @page */
static inline bool file_has(int fd, long at, long page)
{
	static alignas(4096) __u64 words[WORDS];

	return pread(fd, words, PG, at * PG) == (ssize_t)PG && page_is(words, page);
}

/* Leave stale content in free memory, so that a page that is not cleared shows */
static inline void soil_memory(void)
{
	size_t size = 16 << 20;
	char *addr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (addr == MAP_FAILED)
		return;
	memset(addr, 0xdd, size);
	munmap(addr, size);
}

static inline bool backing_is_block(enum backing backing)
{
	return backing >= BLOCK_BUFFERED;
}

static inline bool backing_is_direct(enum backing backing)
{
	return backing == FILE_DIRECT || backing == XFS_DIRECT || backing == BLOCK_DIRECT ||
	       backing == LOOP_DIRECT;
}

/*
 * Open a loop device, which lasts until it is closed. If @block_size is 0, its
 * blocks are as large as those of the disk below.
 */
static inline int open_loop_of(long pages, unsigned int block_size)
{
	struct loop_config config = {
		.block_size = block_size,
		.info.lo_flags = LO_FLAGS_AUTOCLEAR,
	};
	int file = open_file(), control, nr, fd = -1;
	char path[32];

	control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0 || file < 0 || ftruncate(file, pages * PG))
		goto out;
	nr = ioctl(control, LOOP_CTL_GET_FREE);
	if (nr < 0)
		goto out;
	snprintf(path, sizeof(path), "/dev/loop%d", nr);
	fd = open(path, O_RDWR | O_CLOEXEC | O_DIRECT);
	if (fd < 0)
		goto out;
	config.fd = file;
	if (ioctl(fd, LOOP_CONFIGURE, &config)) {
		close(fd);
		fd = -1;
	}
out:
	close(control);
	close(file);
	return fd;
}

static inline int open_loop(long pages)
{
	return open_loop_of(pages, 0);
}

/*
 * Open a file of a kind for reading and writing, or return -1 if the kind is not
 * available here. The file has *pages pages; *pages is set to the size of a
 * /dev/nullb0.
 */
static inline int open_backing(enum backing backing, long *pages)
{
	__u64 bytes;
	int fd;

	if (backing == LOOP_DIRECT)
		return open_loop(*pages);
	if (!backing_is_block(backing)) {
		fd = backing == MEMFD ? memfd_create("backing", MFD_CLOEXEC) :
		     backing >= XFS_BUFFERED ? open_xfs_file() : open_file();
		if (fd >= 0 && !ftruncate(fd, *pages * PG))
			return fd;
	} else {
		fd = open("/dev/nullb0", O_RDWR | O_CLOEXEC | O_DIRECT);
		if (fd < 0)
			return -1;
		if (!ioctl(fd, BLKGETSIZE64, &bytes) && bytes >= *pages * PG) {
			*pages = bytes / PG;
			return fd;
		}
	}
	if (fd >= 0)
		close(fd);
	return -1;
}

/*
 * Open a backing file with @pages pages of content. *fd is a descriptor for the
 * test, *end the length of the file in pages. Returns another descriptor, for the
 * exmap, or -1 if the kind is not available here.
 */
static inline int make_backing(struct __test_metadata *_metadata, enum backing kind,
			       int pages, int *fd, long *end)
{
	int backing;

	*end = pages;
	*fd = open_backing(kind, end);
	if (*fd < 0)
		return -1;
	backing = reopen(*fd, O_RDWR | (backing_is_direct(kind) ? O_DIRECT : 0));
	if (backing < 0 && errno == EINVAL)
		return -1;
	ASSERT_LE(0, backing);
	/* Bypass the page cache if the exmap will do so, too: that is much faster */
	ASSERT_EQ(0, fill_file(backing, pages));
	return backing;
}

#endif
