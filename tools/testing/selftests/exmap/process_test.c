// SPDX-License-Identifier: GPL-2.0
/*
 * An exmap belongs to one mm. Calls from another mm are refused, no matter whether the
 * file got there by fork(), exec() or through a socket. A process may exit, exec or be
 * killed while its threads are inside calls.
 */
#include "common.h"
#include "query.h"

#include <sys/socket.h>

FIXTURE(process) {
	struct exmap ex;
};

FIXTURE_SETUP(process)
{
	catch_faults();
	exmap_create(_metadata, &self->ex, -1, 2, 64, 256);
	ASSERT_EQ(8, ex_alloc(&self->ex, 0, 0, 8));
	stamp_page(page_at(&self->ex, 3), 3);
}

FIXTURE_TEARDOWN(process)
{
	struct exmap *ex = &self->ex;

	/* The calls from other processes must not have had any effect */
	EXPECT_TRUE(stamp_intact(page_at(ex, 3), 3));
	EXPECT_EQ(8, count_present(ex, 0, 256));
	EXPECT_EQ(56, ex_fill(ex, 1, 8));
	exmap_destroy(ex);
}

/* Attach to the pool of another file. Returns the number of the region, or -errno. */
static int attach(int fd, int pool)
{
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .flags = EXMAP_SETUP_ATTACH, .pool = pool, .fd = -1,
	};

	return ex_ioctl(fd, EXMAP_IOCTL_SETUP2, &setup);
}

/*
 * Try every call on the exmap of another mm. Returns the number of calls that were not
 * refused with EPERM.
 */
static int count_not_refused(int fd)
{
	struct exmap ex = { .fd = fd };
	int fresh, opcode, wrong = 0;

	wrong += ex_vectors(&ex, 0, NULL, NULL, 0) != -EPERM;
	for (opcode = EXMAP_OP_READ; opcode <= EXMAP_OP_MOVE; opcode++) {
		wrong += ex_one(&ex, 0, opcode, 3, 1) != -EPERM;
		wrong += ex_one(&ex, 1, opcode, 3, 1) != -EPERM;
	}
	wrong += ex_query_slot(fd, 0, 3, 0) != -EPERM;
	wrong += ex_flush(fd) != -EPERM;
	wrong += ex_resize(fd, 100) != -EPERM;
	wrong += ex_setup2(fd, -1, 1, 1) != -EPERM;
	wrong += attach(fd, fd) != -EPERM;
	wrong += ex_try_mmap(fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP) != -EPERM;
	fresh = open(DEVICE, O_RDWR | O_CLOEXEC);
	wrong += fresh < 0;
	wrong += attach(fresh, fd) != -EPERM;
	/* The file that could not be attached can still get an exmap of its own */
	wrong += ex_setup2(fresh, -1, 1, 1) != 0;
	close(fresh);
	return wrong;
}

TEST_F(process, forked_child)
{
	struct exmap *ex = &self->ex;
	unsigned char vec;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		EXPECT_EQ(0, count_not_refused(ex->fd));
		/* The region is not mapped in the child */
		EXPECT_EQ(-1, mincore(ex->region, PG, &vec));
		EXPECT_EQ(ENOMEM, errno);
		EXPECT_EQ(SIGSEGV, try_read_byte(page_at(ex, 3)));
		EXPECT_EQ(0, close(ex->fd));
		_exit(_metadata->exit_code);
	}
	EXPECT_EQ(0, wait_child(pid));
}

TEST_F(process, child_outlives_parent)
{
	int pair[2], back[2], wrong = -1;
	struct exmap ex;
	pid_t pid;
	char byte;

	/* The grandchild keeps the file open after the mm of the exmap has gone */
	ASSERT_EQ(0, pipe(pair));
	ASSERT_EQ(0, pipe(back));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		exmap_create(_metadata, &ex, -1, 1, 64, 256);
		EXPECT_EQ(64, ex_fill(&ex, 0, 0));
		if (!fork()) {
			close(pair[1]);
			/* End of file means that the process in the middle has exited */
			if (read(pair[0], &byte, 1))
				_exit(1);
			/* Its mm may be destroyed a moment later */
			usleep(100000);
			wrong = count_not_refused(ex.fd);
			_exit(write(back[1], &wrong, sizeof(wrong)) != sizeof(wrong));
		}
		_exit(_metadata->exit_code);
	}
	close(pair[1]);
	close(back[1]);
	EXPECT_EQ(0, wait_child(pid));
	ASSERT_EQ((ssize_t)sizeof(wrong), read(back[0], &wrong, sizeof(wrong)));
	EXPECT_EQ(0, wrong);
}

TEST_F(process, set_up_in_the_child)
{
	int fd = exmap_open(_metadata), ready[2], done[2];
	struct exmap ex = { .fd = fd };
	char *region, byte = 0;
	pid_t pid;

	/* The process that makes the first call owns the exmap, whoever opened the file */
	ASSERT_EQ(0, pipe(ready));
	ASSERT_EQ(0, pipe(done));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		EXPECT_EQ(0, ex_setup2(fd, -1, 1, 4));
		region = ex_map_region(fd, 8);
		EXPECT_NE(MAP_FAILED, region);
		EXPECT_EQ(2, ex_alloc(&ex, 0, 1, 2));
		EXPECT_EQ(1, write(ready[1], &byte, 1));
		EXPECT_EQ(1, read(done[0], &byte, 1));
		EXPECT_EQ(0, try_write_byte(region + PG, 1));
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(1, read(ready[0], &byte, 1));
	EXPECT_EQ(0, count_not_refused(fd));
	ASSERT_EQ(1, write(done[1], &byte, 1));
	EXPECT_EQ(0, wait_child(pid));
	/* Other processes are still refused after the owner has exited */
	EXPECT_EQ(-EPERM, ex_alloc(&ex, 0, 1, 1));
	EXPECT_EQ(-EPERM, ex_try_mmap(fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
	close(fd);
}

TEST_F(process, mapped_then_set_up_elsewhere)
{
	int fd = exmap_open(_metadata);
	char *region;
	pid_t pid;

	region = ex_map_region(fd, 8);
	ASSERT_NE(MAP_FAILED, region);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		EXPECT_EQ(-EPERM, ex_setup2(fd, -1, 1, 4));
		EXPECT_EQ(-EPERM, ex_try_mmap(fd, PG, MAP_SHARED, EXMAP_OFF_EXMAP));
		_exit(_metadata->exit_code);
	}
	EXPECT_EQ(0, wait_child(pid));
	EXPECT_EQ(0, ex_setup2(fd, -1, 1, 4));
	close(fd);
}

static int send_fd(int socket, int fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	char byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	return sendmsg(socket, &msg, 0) == 1 ? 0 : -errno;
}

static int receive_fd(int socket)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;
	int fd;

	if (recvmsg(socket, &msg, 0) != 1)
		return -errno;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg || cmsg->cmsg_type != SCM_RIGHTS)
		return -ENOMSG;
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
	return fd;
}

TEST_F(process, passed_over_a_socket)
{
	struct exmap later, same;
	int pair[2], fd;
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		/* The parent creates this exmap after fork() and sends the file */
		fd = receive_fd(pair[1]);
		EXPECT_LE(0, fd);
		EXPECT_EQ(0, count_not_refused(fd));
		_exit(_metadata->exit_code);
	}
	exmap_create(_metadata, &later, -1, 2, 8, 16);
	ASSERT_EQ(0, send_fd(pair[0], later.fd));
	EXPECT_EQ(0, wait_child(pid));
	EXPECT_EQ(8, ex_fill(&later, 0, 0));
	exmap_destroy(&later);

	/* A descriptor that a process sends to itself is a duplicate */
	ASSERT_EQ(0, send_fd(pair[0], self->ex.fd));
	fd = receive_fd(pair[1]);
	ASSERT_LE(0, fd);
	same = (struct exmap){ .fd = fd };
	EXPECT_EQ(0, ex_alloc(&same, 0, 3, 1));
	close(fd);
}

TEST_F(process, exec)
{
	char number[16];
	struct exmap ex;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		/* execl() destroys the mm of the exmap; only the file survives */
		exmap_create(_metadata, &ex, -1, 1, 64, 256);
		EXPECT_EQ(64, ex_fill(&ex, 0, 0));
		fcntl(ex.fd, F_SETFD, 0);
		snprintf(number, sizeof(number), "%d", ex.fd);
		execl("/proc/self/exe", "process_test", "--after-exec", number, NULL);
		_exit(100);
	}
	EXPECT_EQ(0, wait_child(pid));
}

static int same_mm(void *arg)
{
	return ex_free(arg, 1, 7, 1) == 1 ? 0 : 1;
}

TEST_F(process, process_of_the_same_mm)
{
	struct exmap *ex = &self->ex;
	char *stack;
	pid_t pid;

	/* The child is not a thread, but it may use the exmap as it shares the mm */
	stack = mmap(NULL, 16 * PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, stack);
	pid = clone(same_mm, stack + 16 * PG, CLONE_VM | SIGCHLD, ex);
	ASSERT_LE(0, pid);
	EXPECT_EQ(0, wait_child(pid));
	EXPECT_FALSE(present(page_at(ex, 7)));
	ASSERT_EQ(1, ex_alloc(ex, 1, 7, 1));
}

/* Processes that exit, exec or are killed while their threads are inside calls */

struct hammer {
	int pipe;
	int backing;
	int started;
};

static void *hammer(void *arg)
{
	struct worker *w = arg;
	struct hammer *h = w->arg;
	struct exmap *ex = w->ex;
	char byte = 0;
	int page;

	/* The process and its parent wait until all threads are at work */
	if (write(h->pipe, &byte, 1) != 1)
		_exit(100);
	__atomic_add_fetch(&h->started, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		page = random_below(&w->random, ex->pages - 32);
		switch (random_below(&w->random, 4)) {
		case 0:
		case 1:
			ex_alloc(ex, w->index, page, 32);
			break;
		case 2:
			ex_free(ex, w->index, page, 32);
			break;
		case 3:
			ex_one(ex, w->index, EXMAP_OP_READ, page, 8);
			break;
		}
	}
	return NULL;
}

#define HAMMERS	6

static void hammer_until_killed(struct __test_metadata *_metadata, int ready, int how)
{
	struct hammer h = { .pipe = ready };
	struct worker w[HAMMERS];
	struct exmap ex;

	h.backing = memfd_create("backing", MFD_CLOEXEC);
	if (ftruncate(h.backing, 512 * PG))
		_exit(100);
	exmap_create(_metadata, &ex, h.backing, HAMMERS, 300, 512);
	start_workers(_metadata, w, HAMMERS, hammer, &ex, &h);
	while (__atomic_load_n(&h.started, __ATOMIC_SEQ_CST) < HAMMERS)
		sched_yield();
	usleep(1000 * (how % 10));
	switch (how % 4) {
	case 0:
		_exit(0);
	case 1:
		execl("/proc/self/exe", "process_test", "--true", NULL);
		_exit(100);
	case 2:
		munmap(ex.region, ex.pages * PG);
		close(ex.fd);
		_exit(0);
	default:
		for (;;)
			pause();
	}
}

TEST_F_TIMEOUT(process, ends_in_the_middle_of_calls, SLOW)
{
	int round, i, ready[2];
	char byte;
	pid_t pid;

	for (round = 0; round < scaled(30); round++) {
		ASSERT_EQ(0, pipe(ready));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			close(ready[0]);
			hammer_until_killed(_metadata, ready[1], round);
		}
		close(ready[1]);
		for (i = 0; i < HAMMERS; i++)
			ASSERT_EQ(1, read(ready[0], &byte, 1));
		if (round % 4 == 3) {
			usleep(1000 * (round % 7));
			kill(pid, SIGKILL);
			EXPECT_EQ(128 + SIGKILL, wait_child(pid));
		} else {
			EXPECT_EQ(0, wait_child(pid));
		}
		close(ready[0]);
	}
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "--after-exec"))
		return count_not_refused(atoi(argv[2]));
	if (argc == 2 && !strcmp(argv[1], "--true"))
		return 0;
	return test_harness_run(argc, argv);
}
