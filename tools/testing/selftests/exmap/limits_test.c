// SPDX-License-Identifier: GPL-2.0
/*
 * A transfer is made on behalf of the caller, however it is requested: the limits, the
 * credentials and the signals of the calling process apply. Submissions do not block,
 * and accesses to the backing file raise the usual events.
 */
#include "common.h"

#include <linux/aio_abi.h>
#include <sys/inotify.h>

#include "cgroup.h"
#include "freeze.h"
#include "nullb.h"
#include "uring.h"

#define FILE_PAGES	64
#define BUFFER		16

/* Timeout in seconds, in case a submission blocks or a process cannot be killed */
#define STUCK		60

#ifndef RWF_ATOMIC
#define RWF_ATOMIC	0x40
#endif
#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE	0x80
#endif

/* How a transfer is requested */
enum way {
	VECTORS,		/* EXMAP_IOCTL_VECTORS */
	ACTION,			/* EXMAP_IOCTL_ACTION */
	FILE_CALL,		/* pread(), pwrite() */
	AIO,			/* io_submit() */
	COMMAND,		/* IORING_OP_URING_CMD */
	RING_FILE_CALL,		/* IORING_OP_READ, IORING_OP_WRITE */
};

struct means {
	enum way way;
	unsigned int sqe_flags;	/* IOSQE_* */
	int personality;	/* credentials of the request, 0: those of the caller */
};

struct outcome {
	int err;		/* 0 or -errno */
	int pages;
};

static struct outcome of_bytes(ssize_t ret)
{
	return (struct outcome){
		.err = ret < 0 ? ret : 0,
		.pages = ret < 0 ? 0 : ret / (ssize_t)PG,
	};
}

static struct outcome of_vector(int ret, int res, int pages)
{
	return (struct outcome){
		.err = ret < 0 ? ret : res,
		.pages = ret < 0 ? 0 : pages,
	};
}

/* Make a request with io_submit(), and wait for its result */
static ssize_t aio(int fd, int iface, int opcode, void *addr, size_t len, int rwf)
{
	aio_context_t context = 0;
	struct iocb iocb = {
		.aio_lio_opcode = opcode == EXMAP_OP_WRITE ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
		.aio_fildes = fd,
		.aio_buf = (unsigned long)addr,
		.aio_nbytes = len,
		.aio_offset = ex_pos(iface, opcode),
		.aio_rw_flags = rwf,
	};
	struct iocb *list = &iocb;
	struct io_event event;
	ssize_t ret;

	if (syscall(SYS_io_setup, 1, &context))
		return -errno;
	if (syscall(SYS_io_submit, context, 1L, &list) == 1)
		ret = syscall(SYS_io_getevents, context, 1L, 1L, &event, NULL) == 1 ?
			(ssize_t)event.res : -errno;
	else
		ret = -errno;
	syscall(SYS_io_destroy, context);
	return ret;
}

/* Queue a transfer of @len pages, beginning with @page */
static struct io_uring_sqe *queue(struct exmap *ex, struct ring *ring, struct command *c,
				  struct means by, int opcode, long page, int len)
{
	struct io_uring_sqe *sqe = ring_sqe(ring);

	if (by.way == COMMAND) {
		command_init(c, 0);
		command_add(c, opcode, page, len, 0);
		prep_command(sqe, ex->fd, c);
	} else {
		prep_rw(sqe, opcode == EXMAP_OP_WRITE ? IORING_OP_WRITE : IORING_OP_READ,
			ex->fd, 0, opcode, page_at(ex, page), len * PG);
	}
	sqe->flags = by.sqe_flags;
	sqe->personality = by.personality;
	return sqe;
}

static struct outcome ring_outcome(struct command *c, struct means by, int ret)
{
	if (by.way == RING_FILE_CALL)
		return of_bytes(ret);
	return of_vector(ret, c->results[0].res, c->results[0].pages);
}

/* READ or WRITE @len pages, beginning with @page, and wait for completion */
static struct outcome transfer(struct exmap *ex, struct ring *ring, struct means by,
			       int opcode, long page, int len)
{
	struct exmap_vec vec = ex_vec(opcode, page, len, 0);
	struct exmap_iov *iov = &ex->iface[0]->iov[0];
	struct exmap_result result = {};
	struct command c;
	int ret;

	switch (by.way) {
	case VECTORS:
		ret = ex_vectors(ex, 0, &vec, &result, 1);
		return of_vector(ret, result.res, result.pages);
	case ACTION:
		set_vec(ex, 0, 0, page, len);
		ret = ex_action(ex->fd, 0, opcode, 1);
		return of_vector(ret, iov->res, iov->pages);
	case FILE_CALL:
		if (opcode == EXMAP_OP_WRITE)
			return of_bytes(ex_pwrite(ex->fd, 0, opcode, page_at(ex, page), len * PG));
		return of_bytes(ex_pread(ex->fd, 0, opcode, page_at(ex, page), len * PG));
	case AIO:
		return of_bytes(aio(ex->fd, 0, opcode, page_at(ex, page), len * PG, 0));
	default:
		queue(ex, ring, &c, by, opcode, page, len);
		return ring_outcome(&c, by, ring_run(ring));
	}
}

/* Check whether the kernel supports @way, and open the ring if @way needs one */
static bool way_is_there(enum way way, struct ring *ring)
{
	aio_context_t context = 0;

	ring->fd = -1;
	if (way >= COMMAND)
		return !ring_open(ring, 8);
	if (way != AIO)
		return true;
	if (syscall(SYS_io_setup, 1, &context))
		return false;
	syscall(SYS_io_destroy, context);
	return true;
}

static bool by_bytes(enum way way)
{
	return way == FILE_CALL || way == AIO || way == RING_FILE_CALL;
}

/*
 * Create an exmap on a file that has @pages pages, and a ring if @way needs one. Returns
 * NULL, or a text that says what is missing.
 */
static const char *create(struct __test_metadata *_metadata, struct exmap *ex, struct ring *ring,
			  int *fd, int pages, enum way way, bool direct)
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

static void destroy(struct __test_metadata *_metadata, struct exmap *ex, struct ring *ring, int fd)
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

FIXTURE_VARIANT_ADD(file, vectors_buffered) { .by.way = VECTORS };
FIXTURE_VARIANT_ADD(file, vectors_direct) { .by.way = VECTORS, .direct = true };
FIXTURE_VARIANT_ADD(file, action_direct) { .by.way = ACTION, .direct = true };
FIXTURE_VARIANT_ADD(file, call_buffered) { .by.way = FILE_CALL };
FIXTURE_VARIANT_ADD(file, call_direct) { .by.way = FILE_CALL, .direct = true };
FIXTURE_VARIANT_ADD(file, aio_buffered) { .by.way = AIO };
FIXTURE_VARIANT_ADD(file, aio_direct) { .by.way = AIO, .direct = true };
FIXTURE_VARIANT_ADD(file, command_buffered) { .by.way = COMMAND };
FIXTURE_VARIANT_ADD(file, command_direct) { .by.way = COMMAND, .direct = true };
FIXTURE_VARIANT_ADD(file, command_async_direct) {
	.by = { .way = COMMAND, .sqe_flags = IOSQE_ASYNC },
	.direct = true,
};

FIXTURE_VARIANT_ADD(file, ring_buffered) { .by.way = RING_FILE_CALL };
FIXTURE_VARIANT_ADD(file, ring_direct) { .by.way = RING_FILE_CALL, .direct = true };
FIXTURE_VARIANT_ADD(file, ring_async_buffered) {
	.by = { .way = RING_FILE_CALL, .sqe_flags = IOSQE_ASYNC },
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

static void limit_file_size(struct __test_metadata *_metadata, rlim_t size)
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
	EXPECT_EQ(by_bytes(variant->by.way) ? 0 : -EFBIG, both.err);
	EXPECT_EQ(0, second.pages);
	EXPECT_EQ(-EFBIG, second.err);
	/* The failed WRITE has no effect once the limit is raised again */
	second = transfer(ex, &self->ring, variant->by, EXMAP_OP_WRITE, 1, 1);
	EXPECT_EQ(1, second.pages);
	EXPECT_EQ(0, second.err);
	EXPECT_TRUE(file_has(self->fd, 1, NEW(1)));
}

/* Wait until inotify reports @event. Returns false if it does not do so in time. */
static bool told(int fd, unsigned int event)
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

/* RWF_* flags that exmap cannot honour are refused */

FIXTURE(flags) {
	struct exmap ex;
	struct ring ring;
	int fd;
};

FIXTURE_VARIANT(flags) {
	enum way way;
	bool direct;
};

FIXTURE_VARIANT_ADD(flags, call_buffered) { .way = FILE_CALL };
FIXTURE_VARIANT_ADD(flags, call_direct) { .way = FILE_CALL, .direct = true };
FIXTURE_VARIANT_ADD(flags, aio_buffered) { .way = AIO };
FIXTURE_VARIANT_ADD(flags, aio_direct) { .way = AIO, .direct = true };
FIXTURE_VARIANT_ADD(flags, ring_buffered) { .way = RING_FILE_CALL };
FIXTURE_VARIANT_ADD(flags, ring_direct) { .way = RING_FILE_CALL, .direct = true };

FIXTURE_SETUP(flags)
{
	const char *missing = create(_metadata, &self->ex, &self->ring, &self->fd, FILE_PAGES,
				     variant->way, variant->direct);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(flags)
{
	destroy(_metadata, &self->ex, &self->ring, self->fd);
}

TEST_F(flags, refused)
{
	static const struct {
		bool write;
		int flags;
	} refused[] = {
		{ true, RWF_APPEND }, { true, RWF_APPEND | RWF_DSYNC },
		{ true, RWF_ATOMIC }, { true, RWF_DONTCACHE },
		{ false, RWF_ATOMIC }, { false, RWF_DONTCACHE },
	};
	const struct means by = { .way = variant->way };
	struct exmap *ex = &self->ex;
	struct iovec iov = { page_at(ex, 3), PG };
	struct stat stat;
	int i, ret, opcode;

	for (i = 0; i < (int)ARRAY_SIZE(refused); i++) {
		ASSERT_EQ(0, fill_file(self->fd, FILE_PAGES));
		opcode = refused[i].write ? EXMAP_OP_WRITE : EXMAP_OP_READ;
		ASSERT_LE(0, ex_alloc(ex, 0, 3, 1));
		renew(ex, 3);
		if (by.way == RING_FILE_CALL) {
			queue(ex, &self->ring, NULL, by, opcode, 3, 1)->rw_flags =
				refused[i].flags;
			ret = ring_run(&self->ring);
		} else if (by.way == AIO) {
			ret = aio(ex->fd, 0, opcode, page_at(ex, 3), PG, refused[i].flags);
		} else if (refused[i].write) {
			ret = ex_pwritev2(ex->fd, 0, opcode, &iov, 1, refused[i].flags);
		} else {
			ret = ex_preadv2(ex->fd, 0, opcode, &iov, 1, refused[i].flags);
		}
		EXPECT_EQ(-EOPNOTSUPP, ret)
			TH_LOG("number %d", i);
		EXPECT_TRUE(page_is(page_at(ex, 3), NEW(3)));
		EXPECT_TRUE(file_has(self->fd, 3, 3));
		ASSERT_EQ(0, fstat(self->fd, &stat));
		EXPECT_EQ((long)(FILE_PAGES * PG), (long)stat.st_size);
	}
}

/* Transfers while the file system is frozen */

FIXTURE(frozen) {
	struct exmap ex;
	struct freeze freeze;
	struct ring ring;
	int fd;
};

FIXTURE_VARIANT(frozen) {
	enum way way;
	bool direct;
};

FIXTURE_VARIANT_ADD(frozen, nowait_buffered) { .way = FILE_CALL };
FIXTURE_VARIANT_ADD(frozen, nowait_direct) { .way = FILE_CALL, .direct = true };
FIXTURE_VARIANT_ADD(frozen, command_buffered) { .way = COMMAND };
FIXTURE_VARIANT_ADD(frozen, command_direct) { .way = COMMAND, .direct = true };
FIXTURE_VARIANT_ADD(frozen, ring_buffered) { .way = RING_FILE_CALL };
FIXTURE_VARIANT_ADD(frozen, ring_direct) { .way = RING_FILE_CALL, .direct = true };

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
	const struct means by = { .way = variant->way };
	struct exmap *ex = &self->ex;
	struct command write, read;
	struct outcome outcome;
	const char *missing;
	struct iovec iov;

	ASSERT_EQ(1, ex_one(ex, 0, EXMAP_OP_READ, 5, 1));
	renew(ex, 5);
	missing = freeze_begin(&self->freeze);
	if (missing)
		SKIP(return, "%s", missing);
	if (variant->way == FILE_CALL) {
		iov = (struct iovec){ page_at(ex, 5), PG };
		EXPECT_EQ(-EAGAIN, ex_pwritev2(ex->fd, 0, EXMAP_OP_WRITE, &iov, 1, RWF_NOWAIT));
		EXPECT_TRUE(freeze_lasts(&self->freeze))
			TH_LOG("it blocks until the file system is thawed");
		freeze_end(&self->freeze);
		outcome = transfer(ex, NULL, by, EXMAP_OP_WRITE, 5, 1);
	} else {
		queue(ex, &self->ring, &write, by, EXMAP_OP_WRITE, 5, 1);
		EXPECT_EQ(1, ring_submit(&self->ring));
		EXPECT_TRUE(freeze_lasts(&self->freeze))
			TH_LOG("the submission blocks until the file system is thawed");
		/* The WRITE does not hold up a READ in the same ring */
		queue(ex, &self->ring, &read, by, EXMAP_OP_READ, 9, 1);
		outcome = ring_outcome(&read, by, ring_run(&self->ring));
		EXPECT_TRUE(freeze_lasts(&self->freeze));
		EXPECT_EQ(1, outcome.pages);
		EXPECT_TRUE(present(page_at(ex, 9)) && page_is(page_at(ex, 9), 9));
		usleep(100000);
		EXPECT_FALSE(ring_has_cqe(&self->ring))
			TH_LOG("the WRITE is over while the file system is frozen");
		freeze_end(&self->freeze);
		outcome = ring_outcome(&write, by, ring_wait(&self->ring));
	}
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

FIXTURE_VARIANT_ADD(caller, vectors) { .by.way = VECTORS };
FIXTURE_VARIANT_ADD(caller, action) { .by.way = ACTION };
FIXTURE_VARIANT_ADD(caller, call) { .by.way = FILE_CALL };
FIXTURE_VARIANT_ADD(caller, aio) { .by.way = AIO };
FIXTURE_VARIANT_ADD(caller, command) { .by.way = COMMAND };
FIXTURE_VARIANT_ADD(caller, command_async) {
	.by = { .way = COMMAND, .sqe_flags = IOSQE_ASYNC },
};

FIXTURE_VARIANT_ADD(caller, ring) { .by.way = RING_FILE_CALL };
FIXTURE_VARIANT_ADD(caller, ring_async) {
	.by = { .way = RING_FILE_CALL, .sqe_flags = IOSQE_ASYNC },
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
static void put_text(struct exmap *ex, const char *text)
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
	if (by.way >= COMMAND)
		by.personality = syscall(SYS_io_uring_register, self->ring.fd,
					 IORING_REGISTER_PERSONALITY, NULL, 0);
	ASSERT_EQ(0, seteuid(0));
	read_line(SYSCTL, after, sizeof(after));
	EXPECT_EQ(-EPERM, outcome.err);
	EXPECT_STREQ(before, after);
	if (by.way >= COMMAND) {
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
static void own_cgroup(char *path, size_t size)
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
	enum way way;
	bool resident;		/* the READ is in place, and allocates no pages */
};

FIXTURE_VARIANT_ADD(killed, read) { .way = VECTORS };
FIXTURE_VARIANT_ADD(killed, read_in_place) { .way = VECTORS, .resident = true };
FIXTURE_VARIANT_ADD(killed, pread_in_place) { .way = FILE_CALL, .resident = true };

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
	const long round = 512 * PG / 512;
	struct exmap ex;
	long sectors;
	int status;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		exmap_create(_metadata, &ex, self->fd, 1, LARGE, LARGE);
		if (variant->resident && ex_vec_one(&ex, 0, EXMAP_OP_ALLOC, 0, LARGE, 0) != LARGE)
			_exit(1);
		if (variant->way == VECTORS)
			ex_vec_one(&ex, 0, EXMAP_OP_READ, 0, LARGE, EXMAP_VEC_REPLACE);
		else
			ex_pread(ex.fd, 0, EXMAP_OP_READ, ex.region, LARGE * PG);
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

TEST_HARNESS_MAIN
