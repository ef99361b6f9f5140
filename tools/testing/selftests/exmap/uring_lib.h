/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tests with liburing: requests, an exmap on every kind of file with every kind of ring,
 * and what happens while requests are in flight
 */
#ifndef EXMAP_TEST_URING_LIB_H
#define EXMAP_TEST_URING_LIB_H

#include "common.h"
#include "backing.h"
#include "nullb.h"
#include "uring.h"
#include "way.h"

#include <liburing.h>

#define FILE_PAGES	512
#define BUFFER		300
#define ENTRIES		64

/*
 * Return a free SQE. If the queue is full, submit it; an SQPOLL thread may have to
 * drain it.
 */
static inline struct io_uring_sqe *next_sqe(struct io_uring *ring)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(ring))) {
		io_uring_submit(ring);
		sched_yield();
	}
	return sqe;
}

static inline struct io_uring_sqe *queue_command(struct io_uring *ring, int fd, struct command *c)
{
	struct io_uring_sqe *sqe = next_sqe(ring);

	prep_command(sqe, fd, c);
	return sqe;
}

/* Submit the only request, wait for it, and return its result */
static inline int wait_one(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	int ret;

	do {
		ret = io_uring_submit_and_wait(ring, 1);
	} while (ret == -EINTR);
	if (ret < 0)
		return ret;
	do {
		ret = io_uring_wait_cqe(ring, &cqe);
	} while (ret == -EINTR);
	if (ret)
		return ret;
	ret = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return ret;
}

FIXTURE(uring) {
	struct exmap ex;
	struct io_uring ring;
	struct command c;
	int fd;
	int backing;
	long end;
};

FIXTURE_VARIANT(uring) {
	enum backing backing;
	unsigned int ring;		/* IORING_SETUP_* */
	unsigned int sqe;		/* IOSQE_* */
	__u64 flags;			/* EXMAP_SETUP_* */
};

#define SETUP_DEFER	(IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER)

FIXTURE_VARIANT_ADD(uring, memfd) { .backing = MEMFD };
FIXTURE_VARIANT_ADD(uring, buffered) { .backing = FILE_BUFFERED };
FIXTURE_VARIANT_ADD(uring, direct) { .backing = FILE_DIRECT };
FIXTURE_VARIANT_ADD(uring, xfs_direct) { .backing = XFS_DIRECT };
FIXTURE_VARIANT_ADD(uring, block_buffered) { .backing = BLOCK_BUFFERED };
FIXTURE_VARIANT_ADD(uring, block_direct) { .backing = BLOCK_DIRECT };
FIXTURE_VARIANT_ADD(uring, loop_direct) { .backing = LOOP_DIRECT };
FIXTURE_VARIANT_ADD(uring, async_buffered) {
	.backing = FILE_BUFFERED,
	.sqe = IOSQE_ASYNC,
};

FIXTURE_VARIANT_ADD(uring, async_direct) { .backing = FILE_DIRECT, .sqe = IOSQE_ASYNC };
FIXTURE_VARIANT_ADD(uring, sqpoll_direct) {
	.backing = FILE_DIRECT,
	.ring = IORING_SETUP_SQPOLL,
};

FIXTURE_VARIANT_ADD(uring, sqpoll_buffered) {
	.backing = FILE_BUFFERED,
	.ring = IORING_SETUP_SQPOLL,
};

FIXTURE_VARIANT_ADD(uring, defer_taskrun_direct) {
	.backing = FILE_DIRECT,
	.ring = SETUP_DEFER,
};

FIXTURE_VARIANT_ADD(uring, defer_taskrun_buffered) {
	.backing = FILE_BUFFERED,
	.ring = SETUP_DEFER,
};

FIXTURE_VARIANT_ADD(uring, deferred) {
	.backing = FILE_DIRECT,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_SETUP(uring)
{
	struct exmap_setup2 setup = { .flags = variant->flags };
	struct io_uring_params params = {
		.flags = variant->ring,
		.sq_thread_idle = 100,
	};
	int ret;

	catch_faults();
	self->backing = make_backing(_metadata, variant->backing, FILE_PAGES, &self->fd,
				     &self->end);
	if (self->backing < 0)
		SKIP(return, "no such file here");
	setup.fd = self->backing;
	exmap_create2(_metadata, &self->ex, setup, 4, BUFFER, self->end + 64);
	ret = io_uring_queue_init_params(ENTRIES, &self->ring, &params);
	if (ret == -EINVAL || ret == -EPERM)
		SKIP(return, "no such ring here");
	ASSERT_EQ(0, ret);
	command_init(&self->c, 1);
}

FIXTURE_TEARDOWN(uring)
{
	struct exmap *ex = &self->ex;

	io_uring_queue_exit(&self->ring);
	EXPECT_LE(0, ex_drain(ex, 0, 0, FILE_PAGES));
	EXPECT_LE(0, ex_drain(ex, 0, self->end - 64, 128));
	EXPECT_EQ(BUFFER, ex_fill(ex, 1, 0));
	exmap_destroy(ex);
	close(self->fd);
	close(self->backing);
}

/*
 * Many requests in flight. Every job owns a few slots and repeats these steps: read
 * the slots and check their content, change some of them, write and free them.
 * Whatever a page of the pool was used for before, and whatever is in flight, every
 * slot must have its own content.
 */
#define JOBS		40
#define JOB_PAGES	7
#define JOB_STEPS	3

struct job {
	struct command c;	/* first, as a completion names the command */
	const struct way *way;
	int step;
	int round;
	__u64 version[JOB_PAGES];
};

/* Make the request of a step; reads and writes half of the time with @plain, if there is one */
static inline void job_begin(struct exmap *ex, struct io_uring *ring, struct job *job, int index,
			     const struct way *plain, unsigned int flags, __u64 *random)
{
	static const int opcodes[] = { EXMAP_OP_READ, EXMAP_OP_WRITE, EXMAP_OP_FREE };
	const int first = index * JOB_PAGES;
	struct request what = {
		.opcode = opcodes[job->step], .page = first, .len = JOB_PAGES,
	};
	struct io_uring_sqe *sqe;
	int i, len;

	job->way = plain && job->step < 2 && random_below(random, 2) ? plain : &by_command;
	if (job->way == plain) {
		sqe = next_sqe(ring);
		plain->prepare(sqe, ex, index % 4, &what, &job->c);
	} else {
		command_init(&job->c, index % 4);
		for (i = 0; i < JOB_PAGES; i += len) {
			len = 1 + random_below(random, JOB_PAGES - i);
			command_add(&job->c, what.opcode, first + i, len,
				    job->step == 1 ? EXMAP_VEC_DIRTY : 0);
		}
		/* In half of the cases, write and free in a single call */
		if (job->step == 1 && random_below(random, 2)) {
			command_add(&job->c, EXMAP_OP_FREE, first, JOB_PAGES, 0);
			job->step = 2;
		}
		sqe = queue_command(ring, ex->fd, &job->c);
	}
	sqe->flags |= flags;
}

/* Check the result of a step, and advance the job. Returns NULL, or what is wrong. */
static inline const char *job_end(struct exmap *ex, struct job *job, int index, int res,
				  __u64 *random)
{
	int first = index * JOB_PAGES, i;
	__u64 stamp;

	if (res != (job->way->by_bytes ? (int)(JOB_PAGES * PG) : 0))
		return "result";
	for (i = 0; !job->step && i < JOB_PAGES; i++) {
		void *page = page_at(ex, first + i);

		stamp = (__u64)(first + i) << 32 | job->version[i];
		if (job->version[i] ? !stamp_intact(page, stamp) : !page_is(page, first + i))
			return "content";
		if (random_below(random, 2))
			stamp_page(page, (__u64)(first + i) << 32 | ++job->version[i]);
	}
	job->round += job->step == JOB_STEPS - 1;
	job->step = (job->step + 1) % JOB_STEPS;
	return NULL;
}

static inline void many_in_flight(struct __test_metadata *_metadata, struct exmap *ex, int fd,
				  struct io_uring *ring, unsigned int flags,
				  const struct way *plain)
{
	struct job *jobs = calloc(JOBS, sizeof(*jobs));
	int index, rounds = scaled(12), left = JOBS;
	struct io_uring_cqe *cqe;
	__u64 random = 4711;
	const char *what;

	ASSERT_NE(NULL, jobs);
	for (index = 0; index < JOBS; index++)
		job_begin(ex, ring, &jobs[index], index, plain, flags, &random);
	while (left) {
		ASSERT_LE(0, io_uring_submit_and_wait(ring, 1));
		while (!io_uring_peek_cqe(ring, &cqe)) {
			struct job *job = io_uring_cqe_get_data(cqe);
			int res = cqe->res;

			io_uring_cqe_seen(ring, cqe);
			index = job - jobs;
			what = job_end(ex, job, index, res, &random);
			ASSERT_EQ(NULL, what)
				TH_LOG("%s: job %d, round %d, step %d: %d", what, index,
				       job->round, job->step, res);
			if (job->round < rounds)
				job_begin(ex, ring, job, index, plain, flags, &random);
			else
				left--;
		}
	}
	/* The file must have the final content */
	for (index = 0; index < JOBS * JOB_PAGES; index++) {
		static alignas(4096) __u64 words[WORDS];
		__u64 version = jobs[index / JOB_PAGES].version[index % JOB_PAGES];

		ASSERT_EQ((ssize_t)PG, pread(fd, words, PG, index * PG));
		EXPECT_TRUE(version ? stamp_intact(words, (__u64)index << 32 | version) :
			    page_is(words, index));
	}
	free(jobs);
}

/*
 * A slow disk, and events while its requests are in flight. Programs that include this
 * add the ways in which requests are made as variants.
 */

#define SLOW_PAGES	64

FIXTURE(slow) {
	struct nullb disk;
	struct exmap ex;
	struct io_uring ring;
	struct command c;
	int fd;
	bool region_gone;
};

FIXTURE_VARIANT(slow) {
	const struct way *way;
	unsigned int ring;		/* IORING_SETUP_* */
};

FIXTURE_SETUP(slow)
{
	catch_faults();
	if (nullb_create(&self->disk, "uring_test", 80000000, NULL))
		SKIP(return, "no null_blk through configfs: %s", strerror(errno));
	self->fd = open(self->disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, fill_file(self->fd, SLOW_PAGES));
	exmap_create(_metadata, &self->ex, self->fd, 2, SLOW_PAGES, 256);
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &self->ring, variant->ring));
	command_init(&self->c, 0);
}

FIXTURE_TEARDOWN(slow)
{
	struct exmap *ex = &self->ex;
	int i;

	if (!self->region_gone) {
		/* Requests of a closed ring complete late */
		for (i = 0; i < 500 && nullb_inflight(&self->disk); i++)
			usleep(10000);
		for (i = 0; i < 500; i++) {
			/* Try again, for example after EBUSY */
			ex_drain(ex, 0, 0, 256);
			if (ex_fill(ex, 1, 0) == SLOW_PAGES)
				break;
			usleep(10000);
		}
		EXPECT_GT(500, i);
	}
	exmap_destroy(ex);
	close(self->fd);
	nullb_destroy(&self->disk);
}

/* Queue a READ or WRITE of @pages pages from @page on */
static inline void queue_slow(struct io_uring *ring, struct exmap *ex, const struct way *way,
			      struct command *c, int opcode, int page, int pages)
{
	const struct request what = { .opcode = opcode, .page = page, .len = pages };

	way->prepare(next_sqe(ring), ex, 0, &what, c);
}

/* Wait for the only request. Returns how many pages it has transferred, or -errno. */
static inline int wait_slow(struct io_uring *ring, const struct way *way,
			    const struct command *c)
{
	return pages_or_error(way->outcome(wait_one(ring), c));
}

/* Queue requests of a page each: READs of even slots, and WRITEs of slots 40 and up */
static inline void queue_mixed(struct io_uring *ring, struct exmap *ex, const struct way *way,
			       struct command *c, int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		queue_slow(ring, ex, way, &c[i], i % 2 ? EXMAP_OP_WRITE : EXMAP_OP_READ,
			   40 * (i % 2) + i, 1);
}

/*
 * Wait a moment until @wanted requests have reached the disk, and return how many
 * have. Unless workers of io_uring make them, they are there after the submission.
 */
static inline int wait_inflight(struct nullb *disk, const struct way *way, int wanted)
{
	int i, inflight, most = 0;

	for (i = 0; i < 40 && most < wanted; i++) {
		inflight = nullb_inflight(disk);
		most = inflight > most ? inflight : most;
		if (!way->by_worker)
			break;
		usleep(1000);
	}
	return most;
}

TEST_F_TIMEOUT(slow, submission_does_not_wait, SLOW)
{
	struct exmap *ex = &self->ex;
	struct io_uring_cqe *cqe;
	/* io_uring needs some time to create workers */
	const int wanted = variant->way->by_worker ? 5 : 30;
	struct outcome outcome;
	struct command c[30];
	int i, round, most = 0;

	for (round = 0; round < 10 && most < wanted; round++) {
		for (i = 0; i < 30; i++)
			queue_slow(&self->ring, ex, variant->way, &c[i], EXMAP_OP_READ, 2 * i, 1);
		ASSERT_EQ(30, io_uring_submit(&self->ring));
		i = wait_inflight(&self->disk, variant->way, 30);
		most = i > most ? i : most;
		for (i = 0; i < 30; i++) {
			ASSERT_EQ(0, io_uring_wait_cqe(&self->ring, &cqe));
			outcome = variant->way->outcome(cqe->res, io_uring_cqe_get_data(cqe));
			EXPECT_EQ(1, pages_or_error(outcome));
			io_uring_cqe_seen(&self->ring, cqe);
		}
		for (i = 0; i < 30; i++)
			EXPECT_TRUE(page_is(page_at(ex, 2 * i), 2 * i));
		EXPECT_EQ(30, ex_free(ex, 0, 0, 60));
	}
	EXPECT_LE(wanted, most);
	io_uring_queue_exit(&self->ring);
}

TEST_F_TIMEOUT(slow, free_under_read_and_write, SLOW)
{
	const struct exmap_vec vec = ex_vec(EXMAP_OP_FREE, 8, 4, 0);
	int round, met = 0, freed, mapped, pages, i;
	struct exmap *ex = &self->ex;
	struct exmap_result result;
	bool busy;

	for (round = 0; round < 20 && !met; round++) {
		queue_slow(&self->ring, ex, variant->way, &self->c, EXMAP_OP_READ, 10, 5);
		ASSERT_EQ(1, io_uring_submit(&self->ring));
		wait_inflight(&self->disk, variant->way, 1);
		freed = ex_vectors(ex, 1, &vec, &result, 1);
		busy = nullb_inflight(&self->disk);
		if (busy) {
			met++;
			EXPECT_EQ(1, freed);
			EXPECT_EQ(-EBUSY, result.res);
			EXPECT_EQ(0, result.pages);
		}
		EXPECT_EQ(5, wait_slow(&self->ring, variant->way, &self->c));
		for (i = 12; i < 15; i++)
			EXPECT_TRUE(page_is(page_at(ex, i), i));
		EXPECT_LE(3, ex_free(ex, 1, 10, 5));
	}
	EXPECT_LT(0, met);
	for (round = met = 0; round < 20 && !met; round++) {
		ASSERT_EQ(SLOW_PAGES, ex_alloc(ex, 0, 0, SLOW_PAGES));
		for (i = 10; i < 15; i++)
			make_page((__u64 *)page_at(ex, i), 100 * round + i);
		queue_slow(&self->ring, ex, variant->way, &self->c, EXMAP_OP_WRITE, 10, 5);
		ASSERT_EQ(1, io_uring_submit(&self->ring));
		wait_inflight(&self->disk, variant->way, 1);
		EXPECT_EQ(10, ex_free(ex, 1, 8, 10));
		mapped = ex_fill(ex, 1, 100);
		pages = count_present(ex, 8, 10);
		busy = nullb_inflight(&self->disk);
		for (i = 0; i < mapped; i++)
			memset(page_at(ex, 100 + i), 0xee, PG);
		EXPECT_EQ(0, pages);
		if (busy) {
			met++;
			EXPECT_EQ(5, mapped);
		}
		EXPECT_EQ(5, wait_slow(&self->ring, variant->way, &self->c));
		EXPECT_EQ(10 - mapped, ex_fill(ex, 1, 120));
		for (i = 10; i < 15; i++)
			EXPECT_TRUE(file_has(self->fd, i, 100 * round + i));
		EXPECT_EQ(SLOW_PAGES, ex_drain(ex, 0, 0, 256));
	}
	EXPECT_LT(0, met);
	io_uring_queue_exit(&self->ring);
}

TEST_F_TIMEOUT(slow, ring_closed, SLOW)
{
	struct exmap *ex = &self->ex;
	struct command c[8];

	ASSERT_EQ(8, ex_alloc(ex, 0, 40, 8));
	queue_mixed(&self->ring, ex, variant->way, c, 8);
	ASSERT_EQ(8, io_uring_submit(&self->ring));
	io_uring_queue_exit(&self->ring);
}

TEST_F_TIMEOUT(slow, region_unmapped, SLOW)
{
	struct exmap *ex = &self->ex;
	struct io_uring_cqe *cqe;
	struct outcome outcome;
	struct command c[4];
	int i;

	ASSERT_EQ(8, ex_alloc(ex, 0, 40, 8));
	for (i = 0; i < 8; i++)
		make_page((__u64 *)page_at(ex, 40 + i), NEW(40 + i));
	queue_mixed(&self->ring, ex, variant->way, c, 4);
	ASSERT_EQ(4, io_uring_submit(&self->ring));
	EXPECT_EQ(4, wait_inflight(&self->disk, variant->way, 4));
	ASSERT_EQ(0, munmap(ex->region, ex->pages * PG));
	self->region_gone = true;
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, io_uring_wait_cqe(&self->ring, &cqe));
		outcome = variant->way->outcome(cqe->res, io_uring_cqe_get_data(cqe));
		/* The disk may have answered before the region was unmapped */
		EXPECT_TRUE(outcome.err ? outcome.err == -ENXIO : outcome.pages == 1);
		EXPECT_TRUE(cqe->res >= 0 || variant->way->by_bytes);
		io_uring_cqe_seen(&self->ring, cqe);
	}
	/* Writes that were in flight have reached the disk */
	EXPECT_TRUE(file_has(self->fd, 41, NEW(41)));
	EXPECT_TRUE(file_has(self->fd, 43, NEW(43)));
	io_uring_queue_exit(&self->ring);
}

TEST_F_TIMEOUT(slow, file_closed, SLOW)
{
	struct exmap *ex = &self->ex;
	int spare = dup(ex->fd), fd = ex->fd;

	queue_slow(&self->ring, ex, variant->way, &self->c, EXMAP_OP_READ, 10, 3);
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	close(fd);
	EXPECT_EQ(3, wait_slow(&self->ring, variant->way, &self->c));
	EXPECT_TRUE(page_is(page_at(ex, 12), 12));
	ex->fd = spare;
	io_uring_queue_exit(&self->ring);
}

TEST_F_TIMEOUT(slow, all_closed_at_once, SLOW)
{
	struct exmap *ex = &self->ex;
	struct command c[4];

	ASSERT_EQ(8, ex_alloc(ex, 0, 40, 8));
	queue_mixed(&self->ring, ex, variant->way, c, 4);
	ASSERT_EQ(4, io_uring_submit(&self->ring));
	exmap_destroy(ex);
	self->region_gone = true;
	io_uring_queue_exit(&self->ring);
	/* The teardown needs an exmap */
	exmap_create(_metadata, ex, -1, 1, 1, 1);
}

TEST_F_TIMEOUT(slow, canceled, SLOW)
{
	struct exmap *ex = &self->ex;
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	int i, ret, ok = 0;

	queue_slow(&self->ring, ex, variant->way, &self->c, EXMAP_OP_READ, 10, 3);
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	sqe = next_sqe(&self->ring);
	io_uring_prep_rw(IORING_OP_ASYNC_CANCEL, sqe, -1, &self->c, 0, 0);
	io_uring_sqe_set_data(sqe, (void *)1);
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, io_uring_wait_cqe(&self->ring, &cqe));
		ret = pages_or_error(variant->way->outcome(cqe->res, &self->c));
		if (io_uring_cqe_get_data(cqe) == &self->c)
			ok += ret == 3 || ret == -ECANCELED;
		io_uring_cqe_seen(&self->ring, cqe);
	}
	EXPECT_EQ(1, ok);
	io_uring_queue_exit(&self->ring);
}

struct submitter {
	struct io_uring *ring;
	struct command *c;
	const struct way *way;
};

static void *submit_and_leave(void *arg)
{
	struct worker *w = arg;
	struct submitter *s = w->arg;

	queue_slow(s->ring, w->ex, s->way, s->c, EXMAP_OP_READ, 10, 3);
	BROKE(w, io_uring_submit(s->ring) != 1, 0);
	return NULL;
}

/* The submitting thread has exited by the time the disk answers */
TEST_F_TIMEOUT(slow, thread_gone, SLOW)
{
	struct exmap *ex = &self->ex;
	struct submitter s = { &self->ring, &self->c, variant->way };
	struct worker w;
	int res;

	if (variant->ring)
		SKIP(return, "a ring for one thread");
	run_workers(_metadata, &w, 1, submit_and_leave, ex, &s);
	res = wait_slow(&self->ring, variant->way, &self->c);
	EXPECT_TRUE(res == 3 || res == -ECANCELED);
	if (res >= 0)
		EXPECT_TRUE(page_is(page_at(ex, 12), 12));
	io_uring_queue_exit(&self->ring);
}

/* How processes end while their requests are in flight */
enum ending { KILLED, EXITED, EXEC, ENDINGS };

static inline void end_soon(struct __test_metadata *_metadata, int fd, unsigned int ring_flags,
			    const struct way *way, enum ending ending)
{
	struct io_uring ring;
	struct command c[8];
	struct exmap ex;

	exmap_create(_metadata, &ex, fd, 2, 32, 256);
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, ring_flags));
	ASSERT_EQ(8, ex_alloc(&ex, 0, 40, 8));
	queue_mixed(&ring, &ex, way, c, 8);
	ASSERT_EQ(8, io_uring_submit(&ring));
	if (ending == KILLED)
		kill(getpid(), SIGKILL);
	if (ending == EXEC)
		execl("/proc/self/exe", "-", "-l", NULL);
	_exit(0);
}

TEST_F_TIMEOUT(slow, process_gone, SLOW)
{
	static const int endings[] = { 128 + SIGKILL, 0, KSFT_SKIP };
	int ending, status, null;
	pid_t pid;

	io_uring_queue_exit(&self->ring);
	for (ending = 0; ending < ENDINGS; ending++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			null = open("/dev/null", O_WRONLY);
			dup2(null, 1);
			dup2(null, 2);
			end_soon(_metadata, self->fd, variant->ring, variant->way, ending);
		}
		status = wait_child(pid);
		EXPECT_EQ(endings[ending], status);
	}
}

#endif
