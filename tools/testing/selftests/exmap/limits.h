/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tests of transfers that do not depend on how they are requested. Programs that include
 * this add the ways to request them as variants.
 */
#ifndef EXMAP_TEST_LIMITS_H
#define EXMAP_TEST_LIMITS_H

#include "common.h"
#include "backing.h"
#include "cgroup.h"
#include "freeze.h"
#include "nullb.h"
#include "uring.h"
#include "way.h"

#include <sys/inotify.h>

#define FILE_PAGES	64
#define BUFFER		16

/* Timeout in seconds, in case a submission blocks or a process cannot be killed */
#define STUCK		60

/* How a transfer is requested */
struct means {
	const struct way *way;
	unsigned int sqe_flags;	/* IOSQE_* */
	int personality;	/* credentials of the request, 0: those of the caller */
};

/* Queue a request */
static inline void queue(struct exmap *ex, struct ring *ring, struct command *c,
			 struct means by, const struct request *what)
{
	struct io_uring_sqe *sqe = ring_sqe(ring);

	by.way->prepare(sqe, ex, 0, what, c);
	sqe->flags = by.sqe_flags;
	sqe->personality = by.personality;
}

/* Make a request, and wait for its end */
static inline struct outcome run(struct exmap *ex, struct ring *ring, struct means by,
				 const struct request *what)
{
	struct command c;

	if (by.way->call)
		return by.way->call(ex, 0, what);
	queue(ex, ring, &c, by, what);
	return by.way->outcome(ring_run(ring), &c);
}

/* READ or WRITE @len pages, beginning with @page */
static inline struct outcome transfer(struct exmap *ex, struct ring *ring, struct means by,
				      int opcode, long page, int len)
{
	const struct request what = { .opcode = opcode, .page = page, .len = len };

	return run(ex, ring, by, &what);
}

/* Check whether the kernel supports @way, and open the ring if @way needs one */
static inline bool way_is_there(const struct way *way, struct ring *ring)
{
	ring->fd = -1;
	if (way->exists && !way->exists())
		return false;
	return !way->prepare || !ring_open(ring, 8);
}

/*
 * Create an exmap on a file that has @pages pages, and a ring if @way needs one. Returns
 * NULL, or a text that says what is missing.
 */
static inline const char *create(struct __test_metadata *_metadata, struct exmap *ex,
				 struct ring *ring, int *fd, int pages, const struct way *way,
				 bool direct)
{
	int backing;

	catch_faults();
	if (!way_is_there(way, ring))
		return "no such calls here";
	*fd = open_file();
	ASSERT_LE(0, *fd);
	ASSERT_EQ(0, fill_file(*fd, pages));
	backing = reopen(*fd, O_RDWR | (direct ? O_DIRECT : 0));
	if (backing < 0)
		return "no O_DIRECT here";
	exmap_create(_metadata, ex, backing, 1, BUFFER, FILE_PAGES);
	close(backing);
	return NULL;
}

static inline void destroy(struct __test_metadata *_metadata, struct exmap *ex,
			   struct ring *ring, int fd)
{
	ring_close(ring);
	EXPECT_LE(0, ex_drain(ex, 0, 0, FILE_PAGES));
	EXPECT_EQ(BUFFER, fill_in_time(ex, 0, 0, BUFFER));
	exmap_destroy(ex);
	close(fd);
}

/* RLIMIT_FSIZE and events of the backing file */

FIXTURE(file) {
	struct exmap ex;
	struct ring ring;
	int fd;
};

FIXTURE_VARIANT(file) {
	struct means by;
	bool direct;
};

FIXTURE_SETUP(file)
{
	const char *missing = create(_metadata, &self->ex, &self->ring, &self->fd, 0,
				     variant->by.way, variant->direct);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(file)
{
	destroy(_metadata, &self->ex, &self->ring, self->fd);
}

static inline void limit_file_size(struct __test_metadata *_metadata, rlim_t size)
{
	struct rlimit limit;

	ASSERT_EQ(0, getrlimit(RLIMIT_FSIZE, &limit));
	limit.rlim_cur = size;
	ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &limit));
}

TEST_F_TIMEOUT(file, size_limit, STUCK)
{
	struct exmap *ex = &self->ex;
	struct outcome both, second;
	struct rlimit limit;
	struct stat stat;

	/* The default action of SIGXFSZ would end the test */
	signal(SIGXFSZ, SIG_IGN);
	ASSERT_EQ(0, getrlimit(RLIMIT_FSIZE, &limit));
	ASSERT_EQ(2, ex_alloc(ex, 0, 0, 2));
	renew(ex, 0);
	renew(ex, 1);
	/* Set the limit for the two writes only, since test output may also go to a file */
	limit_file_size(_metadata, PG);
	both = transfer(ex, &self->ring, variant->by, EXMAP_OP_WRITE, 0, 2);
	second = transfer(ex, &self->ring, variant->by, EXMAP_OP_WRITE, 1, 1);
	limit_file_size(_metadata, limit.rlim_cur);

	ASSERT_EQ(0, fstat(self->fd, &stat));
	EXPECT_EQ((long)PG, (long)stat.st_size);
	EXPECT_TRUE(file_has(self->fd, 0, NEW(0)));
	EXPECT_EQ(1, both.pages);
	EXPECT_EQ(variant->by.way->by_bytes ? 0 : -EFBIG, both.err);
	EXPECT_EQ(0, second.pages);
	EXPECT_EQ(-EFBIG, second.err);
	/* The failed WRITE has no effect once the limit is raised again */
	second = transfer(ex, &self->ring, variant->by, EXMAP_OP_WRITE, 1, 1);
	EXPECT_EQ(1, second.pages);
	EXPECT_EQ(0, second.err);
	EXPECT_TRUE(file_has(self->fd, 1, NEW(1)));
}

/* Wait until inotify reports @event. Returns false if it does not do so in time. */
static inline bool told(int fd, unsigned int event)
{
	struct inotify_event events[16];
	ssize_t len;
	int i, tries;

	for (tries = 0; tries < 1000; tries++) {
		len = read(fd, events, sizeof(events));
		for (i = 0; i < len / (ssize_t)sizeof(events[0]); i++)
			if (events[i].mask & event)
				return true;
		usleep(1000);
	}
	return false;
}

TEST_F_TIMEOUT(file, inotify, STUCK)
{
	int notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	struct exmap *ex = &self->ex;
	struct outcome outcome;
	char path[64];

	if (notify < 0)
		SKIP(return, "no inotify: %s", strerror(errno));
	ASSERT_EQ(0, fill_file(self->fd, FILE_PAGES));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->fd);
	ASSERT_LE(0, inotify_add_watch(notify, path, IN_ACCESS | IN_MODIFY));
	outcome = transfer(ex, &self->ring, variant->by, EXMAP_OP_READ, 3, 2);
	EXPECT_EQ(2, outcome.pages);
	EXPECT_TRUE(told(notify, IN_ACCESS));
	renew(ex, 3);
	outcome = transfer(ex, &self->ring, variant->by, EXMAP_OP_WRITE, 3, 2);
	EXPECT_EQ(2, outcome.pages);
	EXPECT_TRUE(told(notify, IN_MODIFY));
	close(notify);
}

/* Requests of io_uring while the file system is frozen */

FIXTURE(frozen) {
	struct exmap ex;
	struct freeze freeze;
	struct ring ring;
	int fd;
};

FIXTURE_VARIANT(frozen) {
	const struct way *way;
	bool direct;
};

FIXTURE_SETUP(frozen)
{
	const char *missing = create(_metadata, &self->ex, &self->ring, &self->fd, FILE_PAGES,
				     variant->way, variant->direct);

	self->freeze = (struct freeze){ .fd = -1 };
	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(frozen)
{
	freeze_end(&self->freeze);
	destroy(_metadata, &self->ex, &self->ring, self->fd);
}

TEST_F_TIMEOUT(frozen, write_does_not_block, STUCK)
{
	const struct request write = { .opcode = EXMAP_OP_WRITE, .page = 5, .len = 1 };
	const struct request read = { .opcode = EXMAP_OP_READ, .page = 9, .len = 1 };
	const struct means by = { .way = variant->way };
	struct exmap *ex = &self->ex;
	struct outcome outcome;
	struct command c[2];
	const char *missing;

	ASSERT_EQ(1, ex_one(ex, 0, EXMAP_OP_READ, 5, 1));
	renew(ex, 5);
	missing = freeze_begin(&self->freeze);
	if (missing)
		SKIP(return, "%s", missing);
	queue(ex, &self->ring, &c[0], by, &write);
	EXPECT_EQ(1, ring_submit(&self->ring));
	EXPECT_TRUE(freeze_lasts(&self->freeze))
		TH_LOG("the submission blocks until the file system is thawed");
	/* The WRITE does not hold up a READ in the same ring */
	queue(ex, &self->ring, &c[1], by, &read);
	outcome = by.way->outcome(ring_run(&self->ring), &c[1]);
	EXPECT_TRUE(freeze_lasts(&self->freeze));
	EXPECT_EQ(1, outcome.pages);
	EXPECT_TRUE(present(page_at(ex, 9)) && page_is(page_at(ex, 9), 9));
	usleep(100000);
	EXPECT_FALSE(ring_has_cqe(&self->ring))
		TH_LOG("the WRITE is over while the file system is frozen");
	freeze_end(&self->freeze);
	outcome = by.way->outcome(ring_wait(&self->ring), &c[0]);
	EXPECT_EQ(0, outcome.err);
	EXPECT_EQ(1, outcome.pages);
	EXPECT_TRUE(file_has(self->fd, 5, NEW(5)));
}

/* Writes to files whose behaviour depends on the process that writes */

FIXTURE(caller) {
	struct exmap ex;
	struct ring ring;
};

FIXTURE_VARIANT(caller) {
	struct means by;
};

FIXTURE_SETUP(caller)
{
	catch_faults();
	if (geteuid())
		SKIP(return, "needs to be root");
	if (!way_is_there(variant->by.way, &self->ring))
		SKIP(return, "no such calls here");
}

FIXTURE_TEARDOWN(caller)
{
	ring_close(&self->ring);
}

/* Fill slot 0 with a text that is padded with newlines */
static inline void put_text(struct exmap *ex, const char *text)
{
	memset(page_at(ex, 0), '\n', PG);
	memcpy(page_at(ex, 0), text, strlen(text));
}

#define SYSCTL	"/proc/sys/vm/stat_interval"

/* Only root may write to a sysctl, even through a file that root has opened */
TEST_F_TIMEOUT(caller, credentials, STUCK)
{
	struct means by = variant->by;
	char before[16], after[16], text[16];
	struct exmap *ex = &self->ex;
	struct outcome outcome;
	int fd;

	fd = open(SYSCTL, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		SKIP(return, "no " SYSCTL);
	read_line(SYSCTL, before, sizeof(before));
	exmap_create(_metadata, ex, fd, 1, 1, 1);
	close(fd);
	ASSERT_EQ(1, ex_alloc(ex, 0, 0, 1));
	snprintf(text, sizeof(text), "%d", atoi(before) + 7);
	put_text(ex, text);

	ASSERT_EQ(0, seteuid(NOBODY));
	outcome = transfer(ex, &self->ring, by, EXMAP_OP_WRITE, 0, 1);
	if (by.way->prepare)
		by.personality = syscall(SYS_io_uring_register, self->ring.fd,
					 IORING_REGISTER_PERSONALITY, NULL, 0);
	ASSERT_EQ(0, seteuid(0));
	read_line(SYSCTL, after, sizeof(after));
	EXPECT_EQ(-EPERM, outcome.err);
	EXPECT_STREQ(before, after);
	if (by.way->prepare) {
		/* The credentials of the request apply, not those of the thread */
		ASSERT_LT(0, by.personality);
		outcome = transfer(ex, &self->ring, by, EXMAP_OP_WRITE, 0, 1);
		read_line(SYSCTL, after, sizeof(after));
		EXPECT_EQ(-EPERM, outcome.err);
		EXPECT_STREQ(before, after);
		by.personality = 0;
	}
	/* Ignore the result: the sysctl may complain about the trailing newlines */
	transfer(ex, &self->ring, by, EXMAP_OP_WRITE, 0, 1);
	read_line(SYSCTL, after, sizeof(after));
	EXPECT_STREQ(text, after);
	EXPECT_EQ(0, write_text(SYSCTL, before));
	exmap_destroy(ex);
}

/* Get the cgroup of this process, as a path from the root of the hierarchy */
static inline void own_cgroup(char *path, size_t size)
{
	FILE *file = fopen("/proc/self/cgroup", "re");
	char line[160];

	path[0] = 0;
	while (file && fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = 0;
		if (!strncmp(line, "0::", 3))
			snprintf(path, size, "%s", line + 3);
	}
	if (file)
		fclose(file);
}

/* Writing 0 to cgroup.procs moves the process that writes */
TEST_F_TIMEOUT(caller, cgroup, STUCK)
{
	struct exmap *ex = &self->ex;
	char path[256], home[224], before[160], after[160];
	struct outcome outcome;
	const char *missing;
	struct cgroup cg;
	int fd;

	missing = cgroup_create(&cg);
	if (missing)
		SKIP(return, "%s", missing);
	own_cgroup(before, sizeof(before));
	snprintf(path, sizeof(path), "%s/cgroup.procs", cg.path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	exmap_create(_metadata, ex, fd, 1, 1, 1);
	close(fd);
	ASSERT_EQ(1, ex_alloc(ex, 0, 0, 1));
	put_text(ex, "0");
	outcome = transfer(ex, &self->ring, variant->by, EXMAP_OP_WRITE, 0, 1);
	EXPECT_EQ(0, outcome.err);
	EXPECT_EQ(1, outcome.pages);
	own_cgroup(after, sizeof(after));
	EXPECT_STREQ(cg.path + strlen(cg.root), after);
	exmap_destroy(ex);
	snprintf(home, sizeof(home), "%s%s", cg.root, before);
	EXPECT_EQ(0, cgroup_join(home));
	EXPECT_EQ(0, cgroup_destroy(&cg));
}

/* A call for so many pages that the disk needs seconds to read them */

#define LARGE		65535
#define ROUND_NSEC	"70000000"	/* time that the disk takes for 512 pages */

FIXTURE(killed) {
	struct nullb disk;
	int fd;
};

FIXTURE_VARIANT(killed) {
	const struct way *way;
	bool resident;		/* the READ is in place, and allocates no pages */
};

FIXTURE_SETUP(killed)
{
	/* A larger disk than usual; blocks that were never written take no memory */
	static const char * const attributes[] = {
		"size", "512", "completion_nsec", ROUND_NSEC, NULL,
	};

	if (nullb_create(&self->disk, "large", 1, attributes))
		SKIP(return, "no null_blk through configfs: %s", strerror(errno));
	self->fd = open(self->disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(killed)
{
	close(self->fd);
	nullb_destroy(&self->disk);
}

/*
 * A process can be killed in the middle of a large READ. The test does not measure time,
 * because a busy machine may end a process late. Instead, it counts what the disk reads
 * after the signal, which may be a few of the 128 rounds of the call.
 */
TEST_F_TIMEOUT(killed, in_a_large_read, STUCK)
{
	const struct request what = {
		.opcode = EXMAP_OP_READ, .len = LARGE, .flags = EXMAP_VEC_REPLACE,
	};
	const long round = 512 * PG / 512;
	struct exmap ex;
	long sectors;
	int status;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		exmap_create(_metadata, &ex, self->fd, 1, LARGE, LARGE);
		if (variant->resident && ex_alloc(&ex, 0, 0, LARGE) != LARGE)
			_exit(1);
		variant->way->call(&ex, 0, &what);
		_exit(0);
	}
	while (!nullb_inflight(&self->disk) && !waitpid(pid, &status, WNOHANG))
		usleep(1000);
	usleep(200000);
	ASSERT_EQ(0, waitpid(pid, &status, WNOHANG));
	sectors = nullb_sectors_read(&self->disk);
	ASSERT_LE(0, sectors);
	/* Some of it is still to be read */
	EXPECT_GT(128 * round, sectors);
	kill(pid, SIGKILL);
	EXPECT_EQ(128 + SIGKILL, wait_child(pid));
	sectors = nullb_sectors_read(&self->disk) - sectors;
	EXPECT_GT(16 * round, sectors)
		TH_LOG("%ld sectors were read after the signal", sectors);
}

#endif
