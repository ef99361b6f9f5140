/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers shared by the exmap tests: system calls that return -errno instead of
 * setting errno, accesses that survive a SIGSEGV, and teams of threads.
 */
#ifndef EXMAP_TEST_COMMON_H
#define EXMAP_TEST_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/exmap.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/magic.h>

#include "kselftest_harness.h"

#define DEVICE		"/dev/exmap"
#define PG		4096UL
#define WORDS		(PG / sizeof(__u64))
#define MAX_IFACES	128

/* Timeout of heavy tests, in seconds: enough for an emulated CPU with a debug kernel */
#define SLOW		600

/* Scale the number of rounds of a stress test by EXMAP_TEST_SCALE percent */
static inline int scaled(int rounds)
{
	const char *env = getenv("EXMAP_TEST_SCALE");
	int percent = env ? atoi(env) : 100;

	rounds = rounds * percent / 100;
	return rounds > 0 ? rounds : 1;
}

static inline __u64 random_u64(__u64 *state)
{
	__u64 x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	*state = x;
	return x;
}

static inline int random_below(__u64 *state, int limit)
{
	return (random_u64(state) >> 16) % limit;
}

/* System calls that return -errno */

static inline int ex_ioctl(int fd, unsigned long cmd, const void *arg)
{
	int ret = ioctl(fd, cmd, arg);

	return ret < 0 ? -errno : ret;
}

static inline int ex_setup(int fd, int backing, int ifaces, __u64 buffer_size)
{
	struct exmap_ioctl_setup setup = {
		.fd = backing,
		.max_interfaces = ifaces,
		.buffer_size = buffer_size,
		.flags = 0x5aa5f00f12345678,	/* must be ignored */
	};

	return ex_ioctl(fd, EXMAP_IOCTL_SETUP, &setup);
}

static inline int ex_action(int fd, int iface, int opcode, int iov_len)
{
	struct exmap_action_params params = {
		.interface = iface,
		.iov_len = iov_len,
		.opcode = opcode,
	};

	return ex_ioctl(fd, EXMAP_IOCTL_ACTION, &params);
}

static inline int ex_clone(int fd, int source)
{
	/* The descriptor itself is the argument */
	return ex_ioctl(fd, EXMAP_IOCTL_CLONE, (void *)(long)source);
}

static inline int ex_stats(int fd, struct exmap_ioctl_stats *stats)
{
	memset(stats, 0xff, sizeof(*stats));
	return ex_ioctl(fd, EXMAP_IOCTL_STATS, stats);
}

static inline int ex_resize(int fd, __u64 pages)
{
	/* The number itself is the argument */
	return ex_ioctl(fd, EXMAP_IOCTL_RESIZE, (void *)pages);
}

static inline int ex_query(int fd, const struct exmap_vec *vecs, unsigned int nr,
			   __u8 *slots, unsigned int flags)
{
	struct exmap_query query = {
		.size = sizeof(query),
		.vec_size = sizeof(struct exmap_vec),
		.flags = flags,
		.nr = nr,
		.vecs = (unsigned long)vecs,
		.slots = (unsigned long)slots,
	};

	return ex_ioctl(fd, EXMAP_IOCTL_QUERY, &query);
}

/* Return the number of pages that the pool has from the system, or -1 */
static inline long ex_owned(int fd)
{
	struct exmap_ioctl_stats stats;

	return ex_stats(fd, &stats) ? -1 : (long)stats.alloc_count;
}

/* Map the region. Returns MAP_FAILED with errno set on failure, like mmap(). */
static inline void *ex_map_region(int fd, size_t pages)
{
	return mmap(NULL, pages * PG, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    EXMAP_OFF_EXMAP);
}

static inline void *ex_map_iface(int fd, unsigned long n)
{
	return mmap(NULL, PG, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    EXMAP_OFF_INTERFACE(n));
}

/*
 * Try an mmap() that is expected to fail. Returns its -errno, or unmaps the memory
 * and returns 0 if it has succeeded.
 */
static inline int ex_try_mmap(int fd, size_t length, int flags, off_t offset)
{
	void *addr = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, fd, offset);

	if (addr == MAP_FAILED)
		return -errno;
	munmap(addr, length);
	return 0;
}

static inline off_t ex_pos(unsigned int iface, unsigned int opcode)
{
	return (iface & 0xff) | opcode << 8 | (off_t)(iface >> 8) << 16;
}

static inline ssize_t ex_pread(int fd, int iface, int opcode, void *buf, size_t len)
{
	ssize_t ret = pread(fd, buf, len, ex_pos(iface, opcode));

	return ret < 0 ? -errno : ret;
}

static inline ssize_t ex_preadv(int fd, int iface, int opcode,
				const struct iovec *iov, int count)
{
	ssize_t ret = preadv(fd, iov, count, ex_pos(iface, opcode));

	return ret < 0 ? -errno : ret;
}

static inline ssize_t ex_preadv2(int fd, int iface, int opcode, const struct iovec *iov,
				 int count, int flags)
{
	ssize_t ret = preadv2(fd, iov, count, ex_pos(iface, opcode), flags);

	return ret < 0 ? -errno : ret;
}

static inline ssize_t ex_pwrite(int fd, int iface, int opcode, const void *buf, size_t len)
{
	ssize_t ret = pwrite(fd, buf, len, ex_pos(iface, opcode));

	return ret < 0 ? -errno : ret;
}

static inline ssize_t ex_pwritev2(int fd, int iface, int opcode, const struct iovec *iov,
				  int count, int flags)
{
	ssize_t ret = pwritev2(fd, iov, count, ex_pos(iface, opcode), flags);

	return ret < 0 ? -errno : ret;
}

/* An exmap that is ready for use */
struct exmap {
	int fd;
	int ifaces;
	int pages;		/* size of the region in pages */
	int buffer;		/* size of the pool in pages */
	char *region;
	struct exmap_user_interface *iface[MAX_IFACES];
};

static inline int exmap_open(struct __test_metadata *_metadata)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	ASSERT_LE(0, fd)
		TH_LOG("cannot open " DEVICE ": %s", strerror(errno));
	return fd;
}

static inline void exmap_create(struct __test_metadata *_metadata, struct exmap *ex,
				int backing, int ifaces, int buffer, int pages)
{
	int i;

	ASSERT_GE(MAX_IFACES, ifaces);
	ex->fd = exmap_open(_metadata);
	ex->ifaces = ifaces;
	ex->buffer = buffer;
	ex->pages = pages;
	ASSERT_EQ(0, ex_setup(ex->fd, backing, ifaces, buffer));
	ex->region = ex_map_region(ex->fd, pages);
	ASSERT_NE(MAP_FAILED, ex->region);
	for (i = 0; i < ifaces; i++) {
		ex->iface[i] = ex_map_iface(ex->fd, i);
		ASSERT_NE(MAP_FAILED, ex->iface[i]);
	}
}

/* Create an exmap with SETUP2. Fills in the size, interfaces and buffer of @setup. */
static inline void exmap_create2(struct __test_metadata *_metadata, struct exmap *ex,
				 struct exmap_setup2 setup, int ifaces, int buffer,
				 int pages)
{
	int i;

	ASSERT_GE(MAX_IFACES, ifaces);
	setup.size = sizeof(setup);
	setup.max_interfaces = ifaces;
	setup.buffer_size = buffer;
	ex->fd = exmap_open(_metadata);
	ex->ifaces = ifaces;
	ex->buffer = buffer;
	ex->pages = pages;
	ASSERT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_SETUP2, &setup));
	ex->region = ex_map_region(ex->fd, pages);
	ASSERT_NE(MAP_FAILED, ex->region);
	for (i = 0; i < ifaces; i++) {
		ex->iface[i] = ex_map_iface(ex->fd, i);
		ASSERT_NE(MAP_FAILED, ex->iface[i]);
	}
}

static inline void exmap_destroy(struct exmap *ex)
{
	int i;

	for (i = 0; i < ex->ifaces; i++)
		munmap(ex->iface[i], PG);
	munmap(ex->region, ex->pages * PG);
	close(ex->fd);
}

static inline char *page_at(struct exmap *ex, long page)
{
	return ex->region + page * PG;
}

static inline void set_vec(struct exmap *ex, int iface, int slot, __u64 page, int len)
{
	struct exmap_iov iov = { .page = page, .len = len };

	ex->iface[iface]->iov[slot].value = iov.value;
}

/*
 * Carry out one vector with EXMAP_IOCTL_ACTION. Returns the number of pages that
 * changed, or the -errno of the call or the vector.
 */
static inline int ex_one(struct exmap *ex, int iface, int opcode, __u64 page, int len)
{
	int ret;

	set_vec(ex, iface, 0, page, len);
	ret = ex_action(ex->fd, iface, opcode, 1);
	if (ret < 0)
		return ret;
	if (ret)
		return ex->iface[iface]->iov[0].res;
	return ex->iface[iface]->iov[0].pages;
}

static inline int ex_alloc(struct exmap *ex, int iface, __u64 page, int len)
{
	return ex_one(ex, iface, EXMAP_OP_ALLOC, page, len);
}

static inline int ex_free(struct exmap *ex, int iface, __u64 page, int len)
{
	return ex_one(ex, iface, EXMAP_OP_FREE, page, len);
}

static inline int ex_vectors(struct exmap *ex, int iface, const struct exmap_vec *vecs,
			     struct exmap_result *results, unsigned int nr)
{
	struct exmap_vectors params = {
		.size = sizeof(params),
		.vec_size = sizeof(struct exmap_vec),
		.result_size = sizeof(struct exmap_result),
		.interface = iface,
		.nr = nr,
		.vecs = (unsigned long)vecs,
		.results = (unsigned long)results,
	};

	return ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, &params);
}

static inline struct exmap_vec ex_vec(int opcode, __u64 page, int len, int flags)
{
	return (struct exmap_vec) {
		.page = page, .len = len, .opcode = opcode, .flags = flags,
	};
}

/*
 * Carry out one vector with EXMAP_IOCTL_VECTORS. Returns the number of pages that
 * changed, or the -errno of the call or the vector.
 */
static inline int ex_vec_one(struct exmap *ex, int iface, int opcode, __u64 page,
			     int len, int flags)
{
	struct exmap_vec vec = ex_vec(opcode, page, len, flags);
	struct exmap_result result = { .res = -1, .pages = -1 };
	int ret = ex_vectors(ex, iface, &vec, &result, 1);

	return ret < 0 ? ret : ret ? result.res : (int)result.pages;
}

/*
 * ALLOC from @first on until the pool is empty. Returns the number of pages that
 * were mapped, or -1 if anything else ended it. The slots from @first to the end of
 * the region must be empty, and more than the pool can fill.
 */
static inline int ex_fill(struct exmap *ex, int iface, int first)
{
	struct exmap_iov *iov = &ex->iface[iface]->iov[0];
	int page = first, ret, len;

	do {
		len = ex->pages - page;
		if (len < 1)
			return -1;
		set_vec(ex, iface, 0, page, len < 4095 ? len : 4095);
		ret = ex_action(ex->fd, iface, EXMAP_OP_ALLOC, 1);
		if (ret >= 0)
			page += iov->pages;
	} while (!ret);
	/* The last call may have found some pages, but now there must be none */
	if (ret == 1 && iov->res == -ENOMEM)
		ret = ex_alloc(ex, iface, page, 1);
	return ret == -ENOMEM ? page - first : -1;
}

/*
 * ALLOC up to @want pages. Returns the number of pages that were mapped, or -errno
 * for an error other than -ENOMEM.
 */
static inline int fill_now(struct exmap *ex, int iface, int first, int want)
{
	int ret;

	set_vec(ex, iface, 0, first, want);
	ret = ex_action(ex->fd, iface, EXMAP_OP_ALLOC, 1);
	if (ret < 0)
		return ret == -ENOMEM ? 0 : ret;
	return ex->iface[iface]->iov[0].pages;
}

/*
 * ALLOC up to @want pages, and wait for pages if necessary: direct I/O completes a
 * moment before it releases its pages, and may leave that to a worker. Returns the
 * number of pages that were mapped, or -errno for an error other than -ENOMEM.
 */
static inline int fill_in_time(struct exmap *ex, int iface, int first, int want)
{
	int total = 0, ret, i;

	for (i = 0; i < 5000 && total < want; i++) {
		ret = fill_now(ex, iface, first + total, want - total);
		if (ret < 0)
			return ret;
		total += ret;
		if (total < want)
			usleep(1000);
	}
	return total;
}

/* FREE a range of any length. Returns the number of unmapped pages, or -errno. */
static inline int ex_drain(struct exmap *ex, int iface, int first, int pages)
{
	int total = 0, len, ret;

	while (pages > 0) {
		len = pages < 4095 ? pages : 4095;
		ret = ex_free(ex, iface, first, len);
		if (ret < 0)
			return ret;
		total += ret;
		first += len;
		pages -= len;
	}
	return total;
}

/* Page contents that identify the page */

static inline void stamp_page(void *page, __u64 stamp)
{
	__u64 *word = page;

	word[0] = stamp;
	word[WORDS / 2] = ~stamp;
	word[WORDS - 1] = stamp;
}

static inline bool stamp_intact(const void *page, __u64 stamp)
{
	const __u64 *word = page;

	return word[0] == stamp && word[WORDS / 2] == ~stamp && word[WORDS - 1] == stamp;
}

/* Backing files for an exmap, in which every word identifies its page */

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

static inline bool all_zero(const void *addr, size_t bytes)
{
	const char *byte = addr;

	return !bytes || (!byte[0] && !memcmp(byte, byte + 1, bytes - 1));
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

/* Accesses that may fault */

static __thread sigjmp_buf fault_jump;
static __thread bool fault_expected;
static __thread void *fault_address;
static __thread int fault_signal;

static inline void fault_handler(int sig, siginfo_t *info, void *context)
{
	(void)context;
	if (!fault_expected) {
		fprintf(stderr, "# signal %d (code %d) at %p was not expected\n", sig,
			info->si_code, info->si_addr);
		/* The access is repeated, and the signal kills the process */
		signal(sig, SIG_DFL);
		return;
	}
	fault_expected = false;
	fault_address = info->si_addr;
	fault_signal = sig;
	siglongjmp(fault_jump, 1);
}

static inline void catch_faults(void)
{
	struct sigaction action = {
		.sa_sigaction = fault_handler,
		/* As in a buffer manager, the signal is not blocked after the jump */
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
}

/* Read a word. Returns 0, or the signal that the access raised. */
static inline int try_read(const void *addr, __u64 *value)
{
	if (sigsetjmp(fault_jump, 0))
		return fault_signal;
	fault_expected = true;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	*value = __atomic_load_n((const __u64 *)addr, __ATOMIC_SEQ_CST);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	fault_expected = false;
	return 0;
}

static inline int try_read_byte(const void *addr)
{
	if (sigsetjmp(fault_jump, 0))
		return fault_signal;
	fault_expected = true;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	(void)__atomic_load_n((const char *)addr, __ATOMIC_SEQ_CST);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	fault_expected = false;
	return 0;
}

static inline int try_write_byte(void *addr, char value)
{
	if (sigsetjmp(fault_jump, 0))
		return fault_signal;
	fault_expected = true;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	__atomic_store_n((char *)addr, value, __ATOMIC_SEQ_CST);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	fault_expected = false;
	return 0;
}

/* Whether there is a page at @addr. The kernel looks, so no signal is raised. */
static inline bool present(const void *addr)
{
	static int scratch = -1;

	if (scratch < 0)
		scratch = memfd_create("present", MFD_CLOEXEC);
	return pwrite(scratch, addr, 1, 0) == 1;
}

static inline int count_present(struct exmap *ex, int first, int pages)
{
	int i, count = 0;

	for (i = 0; i < pages; i++)
		count += present(page_at(ex, first + i));
	return count;
}

/*
 * Threads. Only the main thread may use EXPECT_*(): a worker records its first
 * failure and returns, and the main thread reports it.
 */
struct worker {
	pthread_t thread;
	int index;
	__u64 random;
	struct exmap *ex;
	void *arg;
	const char *what;
	int line;
	long value;
};

static pthread_barrier_t start_line;

static inline bool broke(struct worker *w, bool bad, const char *what, int line, long value)
{
	if (bad && !w->what) {
		w->what = what;
		w->line = line;
		w->value = value;
	}
	return bad;
}

/* Returns @bad. If true, records it, with @value, as the failure of the worker. */
#define BROKE(w, bad, value) broke(w, bad, #bad, __LINE__, value)

static inline void start_workers(struct __test_metadata *_metadata, struct worker *w,
				 int count, void *(*run)(void *), struct exmap *ex,
				 void *arg)
{
	int i;

	ASSERT_EQ(0, pthread_barrier_init(&start_line, NULL, count));
	for (i = 0; i < count; i++) {
		memset(&w[i], 0, sizeof(w[i]));
		w[i].index = i;
		w[i].random = 0x9e3779b97f4a7c15 * (i + 1);
		w[i].ex = ex;
		w[i].arg = arg;
		ASSERT_EQ(0, pthread_create(&w[i].thread, NULL, run, &w[i]));
	}
}

static inline void join_workers(struct __test_metadata *_metadata, struct worker *w, int count)
{
	int i;

	for (i = 0; i < count; i++) {
		ASSERT_EQ(0, pthread_join(w[i].thread, NULL));
		EXPECT_EQ(NULL, w[i].what)
			TH_LOG("thread %d, line %d: %s (%ld)", i, w[i].line,
			       w[i].what, w[i].value);
	}
}

static inline void run_workers(struct __test_metadata *_metadata, struct worker *w,
			       int count, void *(*run)(void *), struct exmap *ex, void *arg)
{
	start_workers(_metadata, w, count, run, ex, arg);
	join_workers(_metadata, w, count);
}

/* Return the number behind "@key@delimiter" in a file in /proc or the like, or -1 */
static inline long read_key(const char *path, const char *key, char delimiter)
{
	const size_t len = strlen(key);
	char line[128];
	long value = -1;
	FILE *file;

	file = fopen(path, "re");
	if (!file)
		return -1;
	while (value < 0 && fgets(line, sizeof(line), file))
		if (!strncmp(line, key, len) && line[len] == delimiter)
			value = atol(line + len + 1);
	fclose(file);
	return value;
}

/* Return a number from /proc/PID/fdinfo, or -1 */
static inline long read_fdinfo(int pid, int fd, const char *key)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
	return read_key(path, key, ':');
}

/* Write to a file in /proc, /sys or the like. Returns 0 or -errno. */
static inline int write_text(const char *path, const char *text)
{
	const int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t ret;

	if (fd < 0)
		return -errno;
	ret = write(fd, text, strlen(text));
	ret = ret < 0 ? -errno : 0;
	close(fd);
	return ret;
}

/* Read the first line of a file in /proc, /sys or the like. It is "" on failure. */
static inline void read_line(const char *path, char *text, size_t size)
{
	const int fd = open(path, O_RDONLY | O_CLOEXEC);
	const ssize_t len = fd < 0 ? -1 : read(fd, text, size - 1);

	close(fd);
	text[len < 0 ? 0 : len] = 0;
	text[strcspn(text, "\n")] = 0;
}

static inline bool is_user_mode_linux(void)
{
	char text[256] = "";
	int fd = open("/proc/cpuinfo", O_RDONLY | O_CLOEXEC);
	bool is = fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 &&
		  strstr(text, "User Mode Linux");

	close(fd);
	return is;
}

static inline void pin_to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

#define NOBODY	65534

/* Give up all privileges, and set RLIMIT_MEMLOCK to @pages pages */
static inline void become_nobody(struct __test_metadata *_metadata, long pages)
{
	struct rlimit limit = { pages * PG, pages * PG };

	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &limit));
	ASSERT_EQ(0, setresgid(NOBODY, NOBODY, NOBODY));
	ASSERT_EQ(0, setresuid(NOBODY, NOBODY, NOBODY));
}

/* Return the exit status of a child, or 128 + the signal that killed it */
static inline int wait_child(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		return -1;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/*
 * Return the exit status of a child, or 128 + the signal that killed it. If the
 * child still runs after @seconds, kill it and return -1.
 */
static inline int wait_child_for(pid_t pid, int seconds)
{
	int status, i;

	for (i = 0; i < seconds * 1000; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		usleep(1000);
	}
	kill(pid, SIGKILL);
	return -1;
}

static inline double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

#endif
