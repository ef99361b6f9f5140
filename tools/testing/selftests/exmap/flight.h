/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A slot that is in flight, and another operation on it, in all ways to request the two.
 * The disk is slow, so that a test knows for certain what was in flight: a transfer
 * cannot end before the disk answers, and an operation that returns earlier has not
 * waited for it.
 */
#ifndef EXMAP_TEST_FLIGHT_H
#define EXMAP_TEST_FLIGHT_H

#include "common.h"
#include "backing.h"
#include "freeze.h"
#include "nullb.h"
#include "query.h"
#include "uring.h"
#include "way.h"

#define SLOT		5
#define FILE_PAGES	64
#define BUFFER		8
#define PAGES		64
#define OWN		9000	/* page number in content that is not from the file */
#define TRIES		10
#define NSEC		120000000	/* time that the disk takes for a request */

/* Timeout of a test in seconds, in case an operation waits for itself */
#define STUCK		60

#define BUSY		EXMAP_SLOT_BUSY
#define RESIDENT	EXMAP_SLOT_RESIDENT
#define DIRTY		EXMAP_SLOT_DIRTY

/* The transfer that is in flight */
enum state {
	READING,		/* a READ into an empty slot */
	REPLACING,		/* a READ into the page of a resident slot */
	WRITING,		/* a WRITE of the page of a resident slot */
	FREED,			/* a WRITE whose page was freed since */
	STATES,
};

/* An operation on the slot */
struct operation {
	const struct way *way;
	int opcode;
	int flags;		/* enum exmap_vec_flags, where a way has them */
	int rwf;		/* RWF_*, where a way has them */
};

/* How a test begins: the first operation, and what it finds */
struct departure {
	enum state state;
	const struct way *way;
	int flags;		/* enum exmap_vec_flags */
	__u64 setup;		/* flags of SETUP2 */
};

struct flight {
	struct nullb disk;
	struct exmap ex;
	int fd;
	long nsec;		/* time that the disk takes for a request */
	enum state state;
	struct operation first;
	struct ring ring;
	struct command command;
	struct worker worker;
	bool in_flight;
	int tid;		/* of the worker */
	bool over;		/* the worker has completed the first operation */
	int pages;		/* result of the first operation: pages or -errno */
	long version;		/* page number in the content that the WRITE has */
	bool change;		/* change the page once the WRITE has begun */

	/* The other operation */
	struct ring other_ring;
	struct command other_command;
	__s64 earliest;		/* the first operation cannot end before this time */
	__s64 called, submitted, returned;
};

static inline __s64 now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Open a ring unless it is open. Returns false if there is no io_uring. */
static inline bool flight_open_ring(struct ring *ring)
{
	return ring->fd >= 0 || !ring_open(ring, 8);
}

/* Create a slow disk and an exmap on it. Returns NULL, or why that is not possible. */
static inline const char *flight_open(struct __test_metadata *_metadata, struct flight *f,
				      long nsec, const struct departure *first)
{
	struct exmap_setup2 setup = { .flags = first->setup };
	int iface;

	f->state = first->state;
	f->first = (struct operation){
		.way = first->way, .flags = first->flags,
		.opcode = first->state >= WRITING ? EXMAP_OP_WRITE : EXMAP_OP_READ,
	};
	f->ring.fd = -1;
	f->other_ring.fd = -1;
	f->nsec = nsec;
	catch_faults();
	if (nullb_create(&f->disk, "flight", nsec, NULL))
		return "no null_blk through configfs";
	f->fd = open(f->disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, f->fd);
	/* Tests of WRITE need no data on the disk: they overwrite its zeroes */
	if (f->state <= REPLACING)
		ASSERT_EQ(0, fill_file(f->fd, FILE_PAGES));
	setup.fd = f->fd;
	exmap_create2(_metadata, &f->ex, setup, 2, BUFFER, PAGES);
	/* The quick paths need free pages at the interface */
	for (iface = 0; iface < 2; iface++) {
		ASSERT_EQ(1, ex_alloc(&f->ex, iface, PAGES - 1, 1));
		ASSERT_EQ(1, ex_free(&f->ex, iface, PAGES - 1, 1));
	}
	if (first->way->prepare && !flight_open_ring(&f->ring))
		return "no io_uring";
	return NULL;
}

static inline struct request request_of(const struct operation *op)
{
	return (struct request){
		.opcode = op->opcode, .page = SLOT, .len = 1, .flags = op->flags, .rwf = op->rwf,
	};
}

/* Carry out an operation with a system call. Returns the number of pages, or -errno. */
static inline int call(struct flight *f, int iface, const struct operation *op)
{
	const struct request what = request_of(op);

	return pages_or_error(op->way->call(&f->ex, iface, &what));
}

static inline struct outcome call_query(struct exmap *ex, int iface, const struct request *what)
{
	return of_vector(0, 0, ex_query_slot(ex->fd, 0, what->page, 0));
}

/* EXMAP_IOCTL_QUERY, whose result counts as a number of pages */
static const struct way by_query = { .call = call_query };

static inline int query(struct flight *f)
{
	return ex_query_slot(f->ex.fd, 0, SLOT, 0);
}

/* Submit an operation to a ring. Returns whether that succeeded. */
static inline bool submit(struct flight *f, int iface, const struct operation *op,
			  struct ring *ring, struct command *c)
{
	const struct request what = request_of(op);

	op->way->prepare(ring_sqe(ring), &f->ex, iface, &what, c);
	return ring_submit(ring) == 1;
}

/* Wait for an operation that was submitted. Returns the number of pages, or -errno. */
static inline int complete(const struct operation *op, struct ring *ring, struct command *c)
{
	return pages_or_error(op->way->outcome(ring_wait(ring), c));
}

static inline void *fly(void *arg)
{
	struct worker *w = arg;
	struct flight *f = w->arg;

	__atomic_store_n(&f->tid, gettid(), __ATOMIC_SEQ_CST);
	f->pages = call(f, 0, &f->first);
	__atomic_store_n(&f->over, true, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Begin the first operation, and wait until its request has reached the disk */
static inline void depart(struct __test_metadata *_metadata, struct flight *f)
{
	struct exmap *ex = &f->ex;

	if (f->state != READING)
		ASSERT_EQ(1, ex_alloc(ex, 1, SLOT, 1));
	if (f->state == REPLACING)
		memset(page_at(ex, SLOT), 0xee, PG);
	if (f->state >= WRITING) {
		f->version += 100;
		make_page((__u64 *)page_at(ex, SLOT), f->version);
	}
	f->earliest = now() + f->nsec;
	f->in_flight = true;
	if (f->first.way->call) {
		f->over = false;
		start_workers(_metadata, &f->worker, 1, fly, ex, f);
		while (!nullb_inflight(&f->disk) && !__atomic_load_n(&f->over, __ATOMIC_SEQ_CST))
			usleep(1000);
	} else {
		ASSERT_TRUE(submit(f, 0, &f->first, &f->ring, &f->command));
		/* A worker thread of io_uring may have to make the request */
		while (!nullb_inflight(&f->disk) && !ring_has_cqe(&f->ring))
			usleep(1000);
	}
	/*
	 * The disk counts the request before it copies the page. Afterwards, the worker, if
	 * there is one, sleeps.
	 */
	while (f->change && f->first.way->call &&
	       !__atomic_load_n(&f->over, __ATOMIC_SEQ_CST) &&
	       !thread_is_blocked(__atomic_load_n(&f->tid, __ATOMIC_SEQ_CST)))
		usleep(1000);
	if (f->change)
		make_page((__u64 *)page_at(ex, SLOT), f->version + 1);
	if (f->state == FREED)
		ASSERT_EQ(1, ex_free(ex, 1, SLOT, 1));
}

/* Wait until the first operation is over */
static inline void land(struct __test_metadata *_metadata, struct flight *f)
{
	if (!f->in_flight)
		return;
	f->in_flight = false;
	if (f->first.way->call)
		join_workers(_metadata, &f->worker, 1);
	else
		f->pages = complete(&f->first, &f->ring, &f->command);
}

static inline void flight_close(struct __test_metadata *_metadata, struct flight *f)
{
	struct exmap *ex = &f->ex;

	land(_metadata, f);
	/* Whatever the test did, no page may be missing from the pool */
	EXPECT_LE(0, ex_drain(ex, 0, 0, PAGES));
	EXPECT_EQ(BUFFER, fill_in_time(ex, 1, 0, BUFFER));
	ring_close(&f->ring);
	ring_close(&f->other_ring);
	exmap_destroy(ex);
	close(f->fd);
	nullb_destroy(&f->disk);
}

/* A thread that finds the maximum number of requests that the disk has at once */
struct watch {
	pthread_t thread;
	struct nullb *disk;
	bool stop;
	int most;
};

static inline void *watch(void *arg)
{
	struct watch *watch = arg;
	int most;

	while (!__atomic_load_n(&watch->stop, __ATOMIC_SEQ_CST)) {
		most = nullb_inflight(watch->disk);
		if (most > watch->most)
			watch->most = most;
		usleep(1000);
	}
	return NULL;
}

/* What an operation does while a transfer of its slot is in flight */
enum pace {
	RETURNS,		/* returns before the transfer is complete */
	WAITS,			/* waits until the transfer is complete */
	PROCEEDS,		/* makes a transfer of its own at the same time */
	EITHER,			/* any of these is correct */
};

/*
 * Begin the first operation, then carry out another operation on the same slot, and check
 * that the latter behaves as @pace says. Returns the number of pages of the latter, or
 * -errno. The first operation may still be in flight on return.
 */
static inline int meet(struct __test_metadata *_metadata, struct flight *f,
		       const struct operation *op, enum pace pace)
{
	struct watch w = { .disk = &f->disk };
	bool sure = false;
	int tries, ret;
	__s64 over;

	if (op->way->prepare)
		ASSERT_TRUE(flight_open_ring(&f->other_ring));
	/* Try again if a slow machine made the call so late that it proves nothing */
	for (tries = 0; ; ) {
		depart(_metadata, f);
		if (pace == PROCEEDS)
			ASSERT_EQ(0, pthread_create(&w.thread, NULL, watch, &w));
		f->called = now();
		f->submitted = f->called;
		if (op->way->prepare) {
			ASSERT_TRUE(submit(f, 1, op, &f->other_ring, &f->other_command));
			f->submitted = now();
			ret = complete(op, &f->other_ring, &f->other_command);
		} else {
			ret = call(f, 1, op);
		}
		f->returned = now();
		if (pace == PROCEEDS) {
			__atomic_store_n(&w.stop, true, __ATOMIC_SEQ_CST);
			ASSERT_EQ(0, pthread_join(w.thread, NULL));
			w.stop = false;
		}
		sure = pace == RETURNS ? f->returned < f->earliest :
		       pace == PROCEEDS ? w.most == 2 : f->submitted < f->earliest;
		if (sure || ++tries == TRIES)
			break;
		land(_metadata, f);
		ex_free(&f->ex, 1, SLOT, 1);
	}
	EXPECT_TRUE(sure)
		TH_LOG("%s", pace == RETURNS ? "it waits" :
			     pace == PROCEEDS ? "it makes no request of its own" :
			     op->way->prepare ? "its submission waits" :
			     "it is never called in time");
	/* An operation that waits and then makes a transfer takes the disk's time twice */
	over = f->earliest + (ret > 0 ? f->nsec : 0);
	if (pace == WAITS)
		EXPECT_LE(over, f->returned)
			TH_LOG("it returns %lld ms early", (over - f->returned) / 1000000LL);
	return ret;
}

/* Check whether the slot, or the disk at its offset, has the content of page @NUMBER */
#define HAS(NUMBER)	\
	(present(page_at(&f->ex, SLOT)) && page_is(page_at(&f->ex, SLOT), NUMBER))
#define DISK_HAS(NUMBER)	file_has(f->fd, SLOT, NUMBER)

FIXTURE(flight) {
	struct flight f;
};

FIXTURE_VARIANT(flight) {
	struct departure first;
};

FIXTURE_SETUP(flight)
{
	const char *missing = flight_open(_metadata, &self->f, NSEC, &variant->first);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(flight)
{
	flight_close(_metadata, &self->f);
}

TEST_F_TIMEOUT(flight, query, STUCK)
{
	static const int expected[STATES] = { BUSY, RESIDENT | BUSY, RESIDENT | BUSY, BUSY };
	const struct operation op = { .way = &by_query };
	struct flight *f = &self->f;
	int bits = meet(_metadata, f, &op, RETURNS);

	if (f->state == REPLACING || f->state == WRITING)
		bits &= RESIDENT | BUSY;
	EXPECT_EQ(expected[f->state], bits);
	land(_metadata, f);
	EXPECT_EQ(1, f->pages);
	EXPECT_EQ(f->state == FREED ? 0 : RESIDENT, query(f) & (RESIDENT | BUSY));
}

TEST_F_TIMEOUT(flight, read, STUCK)
{
	static const enum pace pace[STATES] = { PROCEEDS, RETURNS, RETURNS, WAITS };
	const struct operation op = { .way = &by_vectors, .opcode = EXMAP_OP_READ };
	struct flight *f = &self->f;
	int pages = meet(_metadata, f, &op, pace[f->state]);

	land(_metadata, f);
	if (f->state == READING && !f->first.way->by_bytes) {
		/* The READ that completes first maps its page; the other drops its own */
		EXPECT_LE(0, pages);
		EXPECT_LE(0, f->pages);
		EXPECT_EQ(1, pages + f->pages);
	} else {
		EXPECT_EQ(1, f->pages);
		/* The result of a read call does not depend on which READ maps its page */
		if (f->state != READING || pages != 1)
			EXPECT_EQ(f->state == FREED, pages);
	}
	EXPECT_TRUE(HAS(f->state <= REPLACING ? SLOT : f->version));
}

/* A READ in place, requested in the way @how */
static inline void replace(struct __test_metadata *_metadata, struct flight *f,
			   const struct way *how)
{
	static const enum pace pace[STATES] = { PROCEEDS, PROCEEDS, WAITS, WAITS };
	const struct operation op = {
		.way = how,
		.opcode = EXMAP_OP_READ,
		.flags = EXMAP_VEC_REPLACE,
	};
	static alignas(4096) char content[PG];
	int pages;

	/* Change the page, or it would look the same if it were not read at all */
	f->change = f->state == WRITING;
	pages = meet(_metadata, f, &op, pace[f->state]);
	land(_metadata, f);
	EXPECT_EQ((ssize_t)PG, pread(f->fd, content, PG, SLOT * PG));
	EXPECT_EQ(0, memcmp(page_at(&f->ex, SLOT), content, PG));
	if (f->state != WRITING)
		EXPECT_TRUE(HAS(f->state == FREED ? f->version : SLOT));
	/* It is not certain which of two READs into an empty slot maps its page */
	if (f->state == READING) {
		EXPECT_TRUE(pages == 0 || pages == 1);
		EXPECT_TRUE(f->pages == 0 || f->pages == 1);
		EXPECT_LE(1, pages + f->pages);
	} else {
		EXPECT_EQ(1, pages);
		EXPECT_EQ(1, f->pages);
	}
}

TEST_F_TIMEOUT(flight, read_replace, STUCK)
{
	replace(_metadata, &self->f, &by_vectors);
}

TEST_F_TIMEOUT(flight, uring_read_replace, STUCK)
{
	if (!flight_open_ring(&self->f.other_ring))
		SKIP(return, "no io_uring");
	replace(_metadata, &self->f, &by_command);
}

TEST_F_TIMEOUT(flight, alloc, STUCK)
{
	const struct operation op = { .way = &by_vectors, .opcode = EXMAP_OP_ALLOC };
	struct flight *f = &self->f;
	const bool empty = f->state == READING || f->state == FREED;

	EXPECT_EQ(empty, meet(_metadata, f, &op, RETURNS));
	/* The slot now has the page of the ALLOC, which the transfer must not change */
	if (empty)
		make_page((__u64 *)page_at(&f->ex, SLOT), OWN);
	land(_metadata, f);
	/* A READ that drops its page changes no slot, but a read call reports it as read */
	EXPECT_EQ(f->state != READING || f->first.way->by_bytes, f->pages);
	EXPECT_TRUE(HAS(empty ? OWN : f->state == WRITING ? f->version : SLOT));
	if (empty)
		EXPECT_EQ(RESIDENT | DIRTY, query(f) & (RESIDENT | DIRTY | BUSY));
	if (f->state >= WRITING)
		EXPECT_TRUE(DISK_HAS(f->version));
}

TEST_F_TIMEOUT(flight, free, STUCK)
{
	static const int expected[STATES] = { -EBUSY, -EBUSY, 1, 0 };
	const struct operation op = { .way = &by_vectors, .opcode = EXMAP_OP_FREE };
	struct flight *f = &self->f;
	struct exmap *ex = &f->ex;
	int mapped = 0, bits;
	bool parked;

	EXPECT_EQ(expected[f->state], meet(_metadata, f, &op, RETURNS));
	if (f->state >= WRITING) {
		bits = query(f);
		mapped = ex_fill(ex, 1, SLOT + 1);
		/* The page must not be reused while the disk may still read from it */
		parked = now() < f->earliest;
		if (parked)
			EXPECT_EQ(BUSY, bits);
		if (parked)
			EXPECT_EQ(BUFFER - 1, mapped);
		if (mapped > 0)
			memset(page_at(ex, SLOT + 1), 0xee, mapped * PG);
		EXPECT_FALSE(present(page_at(ex, SLOT)));
	}
	land(_metadata, f);
	EXPECT_EQ(1, f->pages);
	if (f->state >= WRITING) {
		EXPECT_EQ(0, query(f));
		EXPECT_EQ(BUFFER - mapped, fill_in_time(ex, 1, 40, BUFFER - mapped));
		EXPECT_TRUE(DISK_HAS(f->version));
	} else {
		EXPECT_TRUE(HAS(SLOT));
		EXPECT_EQ(1, ex_free(ex, 1, SLOT, 1));
	}
}

/* A WRITE, requested in the way @how */
static inline void rewrite(struct __test_metadata *_metadata, struct flight *f,
			   const struct way *how, int flags)
{
	static const enum pace pace[STATES] = { RETURNS, WAITS, WAITS, WAITS };
	const struct operation op = { .way = how, .opcode = EXMAP_OP_WRITE, .flags = flags };
	int pages;

	/* The WRITE in flight has the old content; the other must write the new one */
	f->change = f->state == WRITING;
	pages = meet(_metadata, f, &op, pace[f->state]);
	land(_metadata, f);
	EXPECT_EQ(1, f->pages);
	/* With EXMAP_VEC_DIRTY, a page that was just read may count as unchanged */
	if (f->state != REPLACING || !(flags & EXMAP_VEC_DIRTY) || pages)
		EXPECT_EQ(f->state == READING || f->state == FREED ? -EFAULT : 1, pages);
	EXPECT_TRUE(DISK_HAS(f->state <= REPLACING ? SLOT : f->version + f->change));
	if (f->state == WRITING && flags & EXMAP_VEC_DIRTY)
		EXPECT_EQ(RESIDENT, query(f) & (RESIDENT | DIRTY | BUSY));
	if (f->state == WRITING)
		EXPECT_TRUE(HAS(f->version + 1));
}

TEST_F_TIMEOUT(flight, write, STUCK)
{
	rewrite(_metadata, &self->f, &by_vectors, 0);
}

TEST_F_TIMEOUT(flight, write_dirty, STUCK)
{
	rewrite(_metadata, &self->f, &by_vectors, EXMAP_VEC_DIRTY);
}

TEST_F_TIMEOUT(flight, uring_write_dirty, STUCK)
{
	if (!flight_open_ring(&self->f.other_ring))
		SKIP(return, "no io_uring");
	rewrite(_metadata, &self->f, &by_command, EXMAP_VEC_DIRTY);
}

/* When a WRITE with EXMAP_VEC_DIRTY has returned, all earlier changes are on the disk */
TEST_F_TIMEOUT(flight, checkpoint, STUCK)
{
	static const enum pace pace[STATES] = { RETURNS, WAITS, WAITS, WAITS };
	const struct operation op = {
		.way = &by_vectors,
		.opcode = EXMAP_OP_WRITE,
		.flags = EXMAP_VEC_DIRTY | EXMAP_VEC_DSYNC,
	};
	struct flight *f = &self->f;
	int pages = meet(_metadata, f, &op, pace[f->state]);

	if (f->state == READING || f->state == FREED)
		EXPECT_EQ(-EFAULT, pages);
	if (f->state == REPLACING)
		EXPECT_TRUE(pages == 0 || pages == 1);
	/* A WRITE without EXMAP_VEC_DIRTY does not make a page clean */
	if (f->state == WRITING)
		EXPECT_EQ(!(f->first.flags & EXMAP_VEC_DIRTY), pages);
	if (f->state == WRITING)
		EXPECT_EQ(RESIDENT, query(f) & (RESIDENT | DIRTY | BUSY));
	land(_metadata, f);
	EXPECT_EQ(1, f->pages);
	EXPECT_TRUE(DISK_HAS(f->state <= REPLACING ? SLOT : f->version));
}

/* A slot is freed while its page is written, gets another page, and is written again */
FIXTURE(again) {
	struct flight f;
};

FIXTURE_VARIANT(again) {
	const struct way *way;
	int flags;
};

FIXTURE_SETUP(again)
{
	const struct departure first = { .state = FREED, .way = &by_vectors };
	const char *missing = flight_open(_metadata, &self->f, NSEC, &first);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(again)
{
	flight_close(_metadata, &self->f);
}

TEST_F_TIMEOUT(again, newest_content_is_last, STUCK)
{
	const struct operation alloc = { .way = &by_vectors, .opcode = EXMAP_OP_ALLOC };
	const struct operation op = {
		.way = variant->way, .opcode = EXMAP_OP_WRITE, .flags = variant->flags,
	};
	struct flight *f = &self->f;
	__s64 called;

	EXPECT_EQ(1, meet(_metadata, f, &alloc, RETURNS));
	make_page((__u64 *)page_at(&f->ex, SLOT), OWN);
	called = now();
	EXPECT_EQ(1, call(f, 1, &op));
	/* The WRITE waits for the first one, and then takes the disk's time once more */
	if (called < f->earliest)
		EXPECT_LE(f->earliest + f->nsec, now());
	land(_metadata, f);
	EXPECT_EQ(1, f->pages);
	EXPECT_TRUE(DISK_HAS(OWN));
	EXPECT_TRUE(HAS(OWN));
}

/*
 * A process that waits for a transfer can be killed. It shares its memory with the
 * process that has begun the transfer.
 */
FIXTURE(killed) {
	struct flight f;
	bool started;
};

FIXTURE_VARIANT(killed) {
	enum state state;
	struct operation op;
};

FIXTURE_SETUP(killed)
{
	const struct departure first = {
		.state = variant->state, .way = &by_vectors,
		.flags = variant->state >= WRITING ? 0 : EXMAP_VEC_REPLACE,
	};
	const char *missing = flight_open(_metadata, &self->f, 1500000000, &first);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(killed)
{
	flight_close(_metadata, &self->f);
}

struct victim {
	struct flight *f;
	struct operation op;
	bool started;
};

static inline int suffer(void *arg)
{
	struct victim *v = arg;

	__atomic_store_n(&v->started, true, __ATOMIC_SEQ_CST);
	call(v->f, 1, &v->op);
	/* exit() would run the parent's exit handlers, as the memory is shared */
	_exit(0);
}

TEST_F_TIMEOUT(killed, while_waiting, STUCK)
{
	const size_t size = 1 << 18;
	struct flight *f = &self->f;
	struct victim v = { .f = f, .op = variant->op };
	int status, tries;
	__s64 ended = 0;
	char *stack;
	bool waited;
	pid_t pid;

	stack = mmap(NULL, size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	ASSERT_NE(MAP_FAILED, stack);
	for (tries = 0; ; ) {
		v.started = false;
		depart(_metadata, f);
		pid = clone(suffer, stack + size, CLONE_VM | CLONE_FILES | SIGCHLD, &v);
		ASSERT_LT(0, pid);
		while (!__atomic_load_n(&v.started, __ATOMIC_SEQ_CST))
			usleep(1000);
		usleep(100000);
		waited = waitpid(pid, &status, WNOHANG) == 0;
		if (waited) {
			kill(pid, SIGKILL);
			ASSERT_EQ(pid, waitpid(pid, &status, 0));
		}
		ended = now();
		/* Try again if the machine was too slow, up to three times */
		if (!waited || ended < f->earliest || ++tries == 3)
			break;
		land(_metadata, f);
		ex_free(&f->ex, 1, SLOT, 1);
	}
	EXPECT_TRUE(waited)
		TH_LOG("it does not wait");
	EXPECT_TRUE(!waited || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
		TH_LOG("it was not killed: status %x", status);
	EXPECT_LT(ended, f->earliest)
		TH_LOG("it ends with the transfer only");
	land(_metadata, f);
	EXPECT_EQ(1, f->pages);
	munmap(stack, size);
	EXPECT_TRUE(DISK_HAS(f->state >= WRITING ? f->version : SLOT));
	if (f->state == REPLACING)
		EXPECT_TRUE(HAS(SLOT));
	/* The process that was killed leaves nothing behind that affects the slot */
	EXPECT_EQ(f->state != FREED, ex_free(&f->ex, 1, SLOT, 1));
	EXPECT_EQ(0, query(f));
}

/*
 * A frozen file system blocks a WRITE, so that the disk keeps the old content for as long
 * as the test needs. A READ of the slot must not bring the old content back.
 */
FIXTURE(frozen) {
	struct exmap ex;
	struct freeze freeze;
	struct ring ring;
	struct command c;
	int fd;
	int tid;
	int pages;
};

FIXTURE_VARIANT(frozen) {
	bool direct;
	const struct way *write, *read;
};

FIXTURE_SETUP(frozen)
{
	const char *dir = getenv("EXMAP_TEST_DIR");
	int backing;

	catch_faults();
	self->freeze = (struct freeze){ .fd = -1 };
	self->ring.fd = -1;
	if (!dir)
		SKIP(return, "no EXMAP_TEST_DIR");
	self->fd = open_file();
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, fill_file(self->fd, FILE_PAGES));
	backing = reopen(self->fd, O_RDWR | (variant->direct ? O_DIRECT : 0));
	if (backing < 0)
		SKIP(return, "no O_DIRECT here");
	exmap_create(_metadata, &self->ex, backing, 2, BUFFER, PAGES);
	close(backing);
	if (variant->write->prepare && ring_open(&self->ring, 8))
		SKIP(return, "no io_uring");
}

FIXTURE_TEARDOWN(frozen)
{
	struct exmap *ex = &self->ex;

	freeze_end(&self->freeze);
	ring_close(&self->ring);
	EXPECT_LE(0, ex_drain(ex, 0, 0, PAGES));
	EXPECT_EQ(BUFFER, fill_in_time(ex, 1, 0, BUFFER));
	exmap_destroy(ex);
	close(self->fd);
}

struct frozen_call {
	const struct operation *op;
	int iface, tid, pages;
	bool over;
};

static inline void *call_frozen(void *arg)
{
	struct worker *w = arg;
	struct frozen_call *call = w->arg;
	const struct request what = request_of(call->op);

	__atomic_store_n(&call->tid, gettid(), __ATOMIC_SEQ_CST);
	call->pages = pages_or_error(call->op->way->call(w->ex, call->iface, &what));
	__atomic_store_n(&call->over, true, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Wait for a second at most until the slot is in flight. Returns whether it is. */
static inline bool slot_is_busy(struct exmap *ex)
{
	int i, slot = 0;

	for (i = 0; i < 1000 && !(slot & BUSY); i++) {
		usleep(1000);
		slot = ex_query_slot(ex->fd, 0, SLOT, 0);
		if (slot < 0)
			return false;
	}
	return slot & BUSY;
}

TEST_F_TIMEOUT(frozen, old_content_is_not_read, STUCK)
{
	const struct operation writing = { .way = variant->write, .opcode = EXMAP_OP_WRITE };
	const struct operation reading = { .way = variant->read, .opcode = EXMAP_OP_READ };
	const struct request what = request_of(&writing);
	struct frozen_call write = { .op = &writing };
	struct frozen_call read = { .op = &reading, .iface = 1 };
	struct exmap *ex = &self->ex;
	struct worker w[2];
	const char *missing;

	ASSERT_EQ(1, ex_one(ex, 0, EXMAP_OP_READ, SLOT, 1));
	renew(ex, SLOT);
	missing = freeze_begin(&self->freeze);
	if (missing)
		SKIP(return, "%s", missing);
	if (variant->write->prepare) {
		variant->write->prepare(ring_sqe(&self->ring), ex, 0, &what, &self->c);
		EXPECT_EQ(1, ring_submit(&self->ring));
	} else {
		start_workers(_metadata, &w[0], 1, call_frozen, ex, &write);
		EXPECT_TRUE(thread_blocks(&write.tid));
	}
	/* A worker thread of io_uring may have to begin the WRITE */
	EXPECT_TRUE(slot_is_busy(ex));
	EXPECT_EQ(1, ex_free(ex, 1, SLOT, 1));
	EXPECT_TRUE(freeze_lasts(&self->freeze))
		TH_LOG("the WRITE or the FREE waited for the file system");
	start_workers(_metadata, &w[1], 1, call_frozen, ex, &read);
	usleep(200000);
	EXPECT_FALSE(__atomic_load_n(&read.over, __ATOMIC_SEQ_CST))
		TH_LOG("the READ does not wait for the WRITE");
	EXPECT_TRUE(freeze_lasts(&self->freeze));
	freeze_end(&self->freeze);
	if (variant->write->prepare)
		write.pages = complete(&writing, &self->ring, &self->c);
	else
		join_workers(_metadata, &w[0], 1);
	EXPECT_EQ(1, write.pages);
	join_workers(_metadata, &w[1], 1);
	EXPECT_EQ(1, read.pages);
	EXPECT_TRUE(page_is(page_at(ex, SLOT), NEW(SLOT)))
		TH_LOG("the slot has %s", page_is(page_at(ex, SLOT), SLOT) ? "the old content" :
		       "something else");
	EXPECT_TRUE(file_has(self->fd, SLOT, NEW(SLOT)));
}

/*
 * Several threads make calls for the same slots, in random order. No two calls may wait
 * for each other.
 */
#define CROSS_SLOTS	6
#define CROSS_THREADS	4

FIXTURE(crossing) {
	struct nullb disk;
	struct exmap ex;
	int fd;
};

FIXTURE_VARIANT(crossing) {
	__u64 setup;		/* flags of SETUP2 */
	/* Makes a call of another kind now and then, or is NULL */
	void (*other)(struct worker *w);
};

FIXTURE_SETUP(crossing)
{
	struct exmap_setup2 setup = { .flags = variant->setup };

	catch_faults();
	if (nullb_create(&self->disk, "crossing", 2000000, NULL))
		SKIP(return, "no null_blk through configfs: %s", strerror(errno));
	self->fd = open(self->disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, fill_file(self->fd, FILE_PAGES));
	setup.fd = self->fd;
	exmap_create2(_metadata, &self->ex, setup, CROSS_THREADS, 256, 512);
}

FIXTURE_TEARDOWN(crossing)
{
	struct exmap *ex = &self->ex;

	EXPECT_LE(0, ex_drain(ex, 0, 0, ex->pages));
	EXPECT_EQ(256, fill_in_time(ex, 1, 0, 256));
	exmap_destroy(ex);
	close(self->fd);
	nullb_destroy(&self->disk);
}

/* Carry out the vectors of @c. Returns the number of vectors that failed, or -errno. */
static inline int run_command(struct exmap *ex, struct ring *ring, struct command *c)
{
	if (ring->fd < 0)
		return ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, &c->params);
	prep_command(ring_sqe(ring), ex->fd, c);
	return ring_run(ring);
}

static inline void *cross(void *arg)
{
	static const struct {
		int opcode, flags;
	} ops[] = {
		{ EXMAP_OP_READ, 0 }, { EXMAP_OP_READ, EXMAP_VEC_REPLACE },
		{ EXMAP_OP_WRITE, 0 }, { EXMAP_OP_WRITE, EXMAP_VEC_DIRTY },
		{ EXMAP_OP_FREE, 0 }, { EXMAP_OP_ALLOC, EXMAP_VEC_ZERO },
	};
	struct worker *w = arg;
	void (*other)(struct worker *w) = w->arg;
	struct ring ring = { .fd = -1 };
	struct command c;
	int i, j, op, ret;

	/* One of the threads uses io_uring, if it is available */
	if (w->index == 1)
		ring_open(&ring, 8);
	for (i = 0; i < scaled(150) && !w->what; i++) {
		if (other && !random_below(&w->random, 4)) {
			other(w);
			continue;
		}
		command_init(&c, w->index);
		for (j = 0; j < 16; j++) {
			op = random_below(&w->random, ARRAY_SIZE(ops));
			command_add(&c, ops[op].opcode, random_below(&w->random, CROSS_SLOTS), 1,
				    ops[op].flags);
		}
		ret = run_command(w->ex, &ring, &c);
		BROKE(w, ret < 0, ret);
		for (j = 0; j < 16; j++) {
			ret = c.results[j].res;
			BROKE(w, ret && ret != -EFAULT && ret != -EBUSY, ret);
		}
	}
	ring_close(&ring);
	return NULL;
}

TEST_F_TIMEOUT(crossing, all_end, SLOW)
{
	static alignas(4096) char content[PG];
	struct worker w[CROSS_THREADS];
	int i;

	run_workers(_metadata, w, CROSS_THREADS, cross, &self->ex, variant->other);
	/* No WRITE may have written a page that a READ had filled only in part */
	for (i = 0; i < CROSS_SLOTS; i++) {
		ASSERT_EQ((ssize_t)PG, pread(self->fd, content, PG, i * PG));
		EXPECT_TRUE(page_is(content, i) || all_zero(content, PG))
			TH_LOG("slot %d", i);
	}
}

#endif
