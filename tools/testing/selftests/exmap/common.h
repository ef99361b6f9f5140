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
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/exmap.h>

#include "kselftest_harness.h"

#define DEVICE		"/dev/exmap"
#define PG		4096UL
#define WORDS		(PG / sizeof(__u64))

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

/* Set up an exmap without options. Returns 0, the number of its region, or -errno. */
static inline int ex_setup2(int fd, int backing, int ifaces, __u64 buffer_size)
{
	struct exmap_setup2 setup = {
		.size = sizeof(setup),
		.max_interfaces = ifaces,
		.buffer_size = buffer_size,
		.fd = backing,
	};

	return ex_ioctl(fd, EXMAP_IOCTL_SETUP2, &setup);
}

static inline int ex_resize(int fd, __u64 pages)
{
	/* The number itself is the argument */
	return ex_ioctl(fd, EXMAP_IOCTL_RESIZE, (void *)pages);
}

static inline int ex_flush(int fd)
{
	return ex_ioctl(fd, EXMAP_IOCTL_FLUSH, NULL);
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

/* Return the number of pages that the pool has from the system, or -1 */
static inline long ex_owned(int fd)
{
	return read_fdinfo(getpid(), fd, "exmap-pages");
}

/* Map the region. Returns MAP_FAILED with errno set on failure, like mmap(). */
static inline void *ex_map_region(int fd, size_t pages)
{
	return mmap(NULL, pages * PG, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    EXMAP_OFF_EXMAP);
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

/* An exmap that is ready for use */
struct exmap {
	int fd;
	int ifaces;
	int pages;		/* size of the region in pages */
	int buffer;		/* size of the pool in pages */
	char *region;
};

static inline int exmap_open(struct __test_metadata *_metadata)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	ASSERT_LE(0, fd)
		TH_LOG("cannot open " DEVICE ": %s", strerror(errno));
	return fd;
}

/* Create an exmap with options. Fills in the size, interfaces and buffer of @setup. */
static inline void exmap_create2(struct __test_metadata *_metadata, struct exmap *ex,
				 struct exmap_setup2 setup, int ifaces, int buffer,
				 int pages)
{
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
}

static inline void exmap_create(struct __test_metadata *_metadata, struct exmap *ex,
				int backing, int ifaces, int buffer, int pages)
{
	exmap_create2(_metadata, ex, (struct exmap_setup2){ .fd = backing }, ifaces, buffer,
		      pages);
}

static inline void exmap_destroy(struct exmap *ex)
{
	munmap(ex->region, ex->pages * PG);
	close(ex->fd);
}

static inline char *page_at(struct exmap *ex, long page)
{
	return ex->region + page * PG;
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
 * Carry out one vector. Returns the number of pages that changed, or the -errno of the
 * call or the vector.
 */
static inline int ex_vec_one(struct exmap *ex, int iface, int opcode, __u64 page,
			     int len, int flags)
{
	struct exmap_vec vec = ex_vec(opcode, page, len, flags);
	struct exmap_result result = { .res = -1, .pages = -1 };
	int ret = ex_vectors(ex, iface, &vec, &result, 1);

	return ret < 0 ? ret : ret ? result.res : (int)result.pages;
}

static inline int ex_one(struct exmap *ex, int iface, int opcode, __u64 page, int len)
{
	return ex_vec_one(ex, iface, opcode, page, len, 0);
}

static inline int ex_alloc(struct exmap *ex, int iface, __u64 page, int len)
{
	return ex_one(ex, iface, EXMAP_OP_ALLOC, page, len);
}

static inline int ex_free(struct exmap *ex, int iface, __u64 page, int len)
{
	return ex_one(ex, iface, EXMAP_OP_FREE, page, len);
}

/*
 * ALLOC up to @want pages. Returns the number of pages that were mapped, or -errno
 * for an error other than -ENOMEM.
 */
static inline int fill_now(struct exmap *ex, int iface, int first, int want)
{
	struct exmap_vec vec = ex_vec(EXMAP_OP_ALLOC, first, want, 0);
	struct exmap_result result = {};
	int ret = ex_vectors(ex, iface, &vec, &result, 1);

	if (ret > 0)
		ret = result.res;
	return ret && ret != -ENOMEM ? ret : (int)result.pages;
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

/* Slots that one vector can have at most, as its length is a __u16 */
#define LONGEST_VEC	65535

static inline int vec_len(int slots)
{
	return slots < LONGEST_VEC ? slots : LONGEST_VEC;
}

/*
 * ALLOC from @first on until the pool is empty. Returns the number of pages that
 * were mapped, or -1 if anything else ended it. The slots from @first to the end of
 * the region must be empty, and more than the pool can fill.
 */
static inline int ex_fill(struct exmap *ex, int iface, int first)
{
	int page = first, len, ret;

	do {
		len = vec_len(ex->pages - page);
		if (len < 1)
			return -1;
		ret = fill_now(ex, iface, page, len);
		if (ret > 0)
			page += ret;
	} while (ret == len);
	/* The last call may have found some pages, but now there must be none */
	return ret >= 0 && ex_alloc(ex, iface, page, 1) == -ENOMEM ? page - first : -1;
}

/* FREE a range of any length. Returns the number of unmapped pages, or -errno. */
static inline int ex_drain(struct exmap *ex, int iface, int first, int pages)
{
	int total = 0, len, ret;

	while (pages > 0) {
		len = vec_len(pages);
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

static inline bool all_zero(const void *addr, size_t bytes)
{
	const char *byte = addr;

	return !bytes || (!byte[0] && !memcmp(byte, byte + 1, bytes - 1));
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

/* Give up all privileges but the device, and set RLIMIT_MEMLOCK to @pages pages */
static inline void become_nobody(struct __test_metadata *_metadata, long pages)
{
	struct rlimit limit = { pages * PG, pages * PG };

	/* Whether ordinary users may open it is a decision of the administrator */
	ASSERT_EQ(0, chmod(DEVICE, 0666));
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
