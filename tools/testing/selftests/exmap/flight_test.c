// SPDX-License-Identifier: GPL-2.0
/*
 * Operations on a slot that is in flight, in all combinations of a transfer and another
 * operation. The disk is slow, so that a test knows for certain what was in flight: a
 * transfer cannot end before the disk answers, and an operation that returns earlier has
 * not waited for it.
 */
#include "common.h"

#include "freeze.h"
#include "nullb.h"
#include "uring.h"

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

/* How an operation is requested */
enum way {
	VECTORS,		/* EXMAP_IOCTL_VECTORS */
	FILE_CALL,		/* pread(), pwrite() */
	COMMAND,		/* IORING_OP_URING_CMD */
	RING_FILE_CALL,		/* IORING_OP_READ, IORING_OP_WRITE */
};

/* An operation on the slot */
struct operation {
	enum way way;
	int opcode;
	int flags;		/* enum exmap_vec_flags */
	int rwf;		/* RWF_*, with FILE_CALL */
};

#define OP_QUERY	100

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

static __s64 now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static bool is_write(int opcode)
{
	return opcode == EXMAP_OP_WRITE;
}

/* Create a slow disk and an exmap on it. Returns NULL, or why that is not possible. */
static const char *flight_open(struct __test_metadata *_metadata, struct flight *f,
			       long nsec, __u64 setup_flags)
{
	struct exmap_setup2 setup = { .flags = setup_flags };
	int iface;

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
	return NULL;
}

/* Open a ring unless it is open. Returns false if there is no io_uring. */
static bool flight_open_ring(struct ring *ring)
{
	return ring->fd >= 0 || !ring_open(ring, 8);
}

/* Convert the return value of a read or write call to a number of pages or -errno */
static int in_pages(ssize_t ret)
{
	return ret < 0 ? ret : ret / (int)PG;
}

/* Carry out an operation with a system call. Returns the number of pages, or -errno. */
static int call(struct flight *f, int iface, const struct operation *op)
{
	struct exmap *ex = &f->ex;
	struct iovec iov = { page_at(ex, SLOT), PG };
	struct exmap_vec vec = { .page = SLOT, .len = 1 };
	__u8 slot;
	int ret;

	if (op->opcode == OP_QUERY) {
		ret = ex_query(ex->fd, &vec, 1, &slot, 0);
		return ret ?: slot;
	}
	if (op->way == VECTORS)
		return ex_vec_one(ex, iface, op->opcode, SLOT, 1, op->flags);
	if (is_write(op->opcode))
		return in_pages(ex_pwritev2(ex->fd, iface, op->opcode, &iov, 1, op->rwf));
	return in_pages(ex_preadv2(ex->fd, iface, op->opcode, &iov, 1, op->rwf));
}

static int query(struct flight *f)
{
	const struct operation op = { .opcode = OP_QUERY };

	return call(f, 0, &op);
}

/* Submit an operation to a ring. Returns whether that succeeded. */
static bool submit(struct flight *f, int iface, const struct operation *op, struct ring *ring,
		   struct command *c)
{
	if (op->way == COMMAND) {
		command_init(c, iface);
		command_add(c, op->opcode, SLOT, 1, op->flags);
		prep_command(ring_sqe(ring), f->ex.fd, c);
	} else {
		prep_rw(ring_sqe(ring), is_write(op->opcode) ? IORING_OP_WRITE : IORING_OP_READ,
			f->ex.fd, iface, op->opcode, page_at(&f->ex, SLOT), PG);
	}
	return ring_submit(ring) == 1;
}

/* Wait for an operation that was submitted. Returns the number of pages, or -errno. */
static int complete(const struct operation *op, struct ring *ring, struct command *c)
{
	int ret = ring_wait(ring);

	if (op->way == RING_FILE_CALL)
		return in_pages(ret);
	return ret < 0 ? ret : ret ? c->results[0].res : (int)c->results[0].pages;
}

static void *fly(void *arg)
{
	struct worker *w = arg;
	struct flight *f = w->arg;

	__atomic_store_n(&f->tid, gettid(), __ATOMIC_SEQ_CST);
	f->pages = call(f, 0, &f->first);
	__atomic_store_n(&f->over, true, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Begin the first operation, and wait until its request has reached the disk */
static void depart(struct __test_metadata *_metadata, struct flight *f)
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
	if (f->first.way <= FILE_CALL) {
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
	while (f->change && f->first.way <= FILE_CALL &&
	       !__atomic_load_n(&f->over, __ATOMIC_SEQ_CST) &&
	       !thread_is_blocked(__atomic_load_n(&f->tid, __ATOMIC_SEQ_CST)))
		usleep(1000);
	if (f->change)
		make_page((__u64 *)page_at(ex, SLOT), f->version + 1);
	if (f->state == FREED)
		ASSERT_EQ(1, ex_free(ex, 1, SLOT, 1));
}

/* Wait until the first operation is over */
static void land(struct __test_metadata *_metadata, struct flight *f)
{
	if (!f->in_flight)
		return;
	f->in_flight = false;
	if (f->first.way <= FILE_CALL)
		join_workers(_metadata, &f->worker, 1);
	else
		f->pages = complete(&f->first, &f->ring, &f->command);
}

static void flight_close(struct __test_metadata *_metadata, struct flight *f)
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

static void *watch(void *arg)
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
static int meet(struct __test_metadata *_metadata, struct flight *f, const struct operation *op,
		enum pace pace)
{
	struct watch w = { .disk = &f->disk };
	bool sure = false;
	int tries, ret;
	__s64 over;

	if (op->way >= COMMAND)
		ASSERT_TRUE(flight_open_ring(&f->other_ring));
	/* Try again if a slow machine made the call so late that it proves nothing */
	for (tries = 0; ; ) {
		depart(_metadata, f);
		if (pace == PROCEEDS)
			ASSERT_EQ(0, pthread_create(&w.thread, NULL, watch, &w));
		f->called = now();
		f->submitted = f->called;
		if (op->way >= COMMAND) {
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
			     op->way >= COMMAND ? "its submission waits" :
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
	enum state state;
	enum way way;
	int flags;		/* enum exmap_vec_flags */
	__u64 setup;		/* flags of SETUP2 */
};

FIXTURE_VARIANT_ADD(flight, reading) { .state = READING };
FIXTURE_VARIANT_ADD(flight, reading_pread) { .state = READING, .way = FILE_CALL };
FIXTURE_VARIANT_ADD(flight, reading_uring) { .state = READING, .way = COMMAND };
FIXTURE_VARIANT_ADD(flight, replacing) { .state = REPLACING, .flags = EXMAP_VEC_REPLACE };
FIXTURE_VARIANT_ADD(flight, replacing_pread) { .state = REPLACING, .way = FILE_CALL };
FIXTURE_VARIANT_ADD(flight, replacing_uring) {
	.state = REPLACING,
	.way = COMMAND,
	.flags = EXMAP_VEC_REPLACE,
};

FIXTURE_VARIANT_ADD(flight, writing) { .state = WRITING };
FIXTURE_VARIANT_ADD(flight, writing_dirty) { .state = WRITING, .flags = EXMAP_VEC_DIRTY };
FIXTURE_VARIANT_ADD(flight, writing_pwrite) { .state = WRITING, .way = FILE_CALL };
FIXTURE_VARIANT_ADD(flight, writing_uring) {
	.state = WRITING,
	.way = COMMAND,
	.flags = EXMAP_VEC_DIRTY,
};

FIXTURE_VARIANT_ADD(flight, writing_uring_pwrite) { .state = WRITING, .way = RING_FILE_CALL };
FIXTURE_VARIANT_ADD(flight, writing_deferred) {
	.state = WRITING,
	.setup = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(flight, freed) { .state = FREED };
FIXTURE_VARIANT_ADD(flight, freed_uring) { .state = FREED, .way = COMMAND };
FIXTURE_VARIANT_ADD(flight, freed_deferred) {
	.state = FREED,
	.setup = EXMAP_SETUP_DEFERRED,
};

FIXTURE_SETUP(flight)
{
	struct flight *f = &self->f;
	const char *missing;

	f->state = variant->state;
	f->first.way = variant->way;
	f->first.opcode = variant->state >= WRITING ? EXMAP_OP_WRITE : EXMAP_OP_READ;
	f->first.flags = variant->flags;
	missing = flight_open(_metadata, f, NSEC, variant->setup);
	if (missing)
		SKIP(return, "%s", missing);
	if (variant->way >= COMMAND && !flight_open_ring(&f->ring))
		SKIP(return, "no io_uring");
}

FIXTURE_TEARDOWN(flight)
{
	flight_close(_metadata, &self->f);
}

TEST_F_TIMEOUT(flight, query, STUCK)
{
	static const int expected[STATES] = { BUSY, RESIDENT | BUSY, RESIDENT | BUSY, BUSY };
	const struct operation op = { .opcode = OP_QUERY };
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
	const struct operation op = { .opcode = EXMAP_OP_READ };
	struct flight *f = &self->f;
	int pages = meet(_metadata, f, &op, pace[f->state]);

	land(_metadata, f);
	if (f->state == READING && f->first.way != FILE_CALL) {
		/* The READ that completes first maps its page; the other drops its own */
		EXPECT_LE(0, pages);
		EXPECT_LE(0, f->pages);
		EXPECT_EQ(1, pages + f->pages);
	} else {
		EXPECT_EQ(1, f->pages);
		/* The result of pread() does not depend on which READ maps its page */
		if (f->state != READING || pages != 1)
			EXPECT_EQ(f->state == FREED, pages);
	}
	EXPECT_TRUE(HAS(f->state <= REPLACING ? SLOT : f->version));
}

/* A READ in place, requested in the way @how */
static void replace(struct __test_metadata *_metadata, struct flight *f, enum way how)
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
	replace(_metadata, &self->f, VECTORS);
}

TEST_F_TIMEOUT(flight, pread, STUCK)
{
	replace(_metadata, &self->f, FILE_CALL);
}

TEST_F_TIMEOUT(flight, uring_read_replace, STUCK)
{
	if (!flight_open_ring(&self->f.other_ring))
		SKIP(return, "no io_uring");
	replace(_metadata, &self->f, COMMAND);
}

TEST_F_TIMEOUT(flight, uring_pread, STUCK)
{
	if (!flight_open_ring(&self->f.other_ring))
		SKIP(return, "no io_uring");
	replace(_metadata, &self->f, RING_FILE_CALL);
}

TEST_F_TIMEOUT(flight, alloc, STUCK)
{
	const struct operation op = { .opcode = EXMAP_OP_ALLOC };
	struct flight *f = &self->f;
	const bool empty = f->state == READING || f->state == FREED;

	EXPECT_EQ(empty, meet(_metadata, f, &op, RETURNS));
	/* The slot now has the page of the ALLOC, which the transfer must not change */
	if (empty)
		make_page((__u64 *)page_at(&f->ex, SLOT), OWN);
	land(_metadata, f);
	/* A READ that drops its page changes no slot, but pread() reports it as read */
	EXPECT_EQ(f->state != READING || f->first.way == FILE_CALL, f->pages);
	EXPECT_TRUE(HAS(empty ? OWN : f->state == WRITING ? f->version : SLOT));
	if (empty)
		EXPECT_EQ(RESIDENT | DIRTY, query(f) & (RESIDENT | DIRTY | BUSY));
	if (f->state >= WRITING)
		EXPECT_TRUE(DISK_HAS(f->version));
}

TEST_F_TIMEOUT(flight, free, STUCK)
{
	static const int expected[STATES] = { -EBUSY, -EBUSY, 1, 0 };
	const struct operation op = { .opcode = EXMAP_OP_FREE };
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
static void rewrite(struct __test_metadata *_metadata, struct flight *f, enum way how, int flags)
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
	rewrite(_metadata, &self->f, VECTORS, 0);
}

TEST_F_TIMEOUT(flight, write_dirty, STUCK)
{
	rewrite(_metadata, &self->f, VECTORS, EXMAP_VEC_DIRTY);
}

TEST_F_TIMEOUT(flight, pwrite, STUCK)
{
	rewrite(_metadata, &self->f, FILE_CALL, 0);
}

TEST_F_TIMEOUT(flight, uring_write_dirty, STUCK)
{
	if (!flight_open_ring(&self->f.other_ring))
		SKIP(return, "no io_uring");
	rewrite(_metadata, &self->f, COMMAND, EXMAP_VEC_DIRTY);
}

TEST_F_TIMEOUT(flight, uring_pwrite, STUCK)
{
	if (!flight_open_ring(&self->f.other_ring))
		SKIP(return, "no io_uring");
	rewrite(_metadata, &self->f, RING_FILE_CALL, 0);
}

/* When a WRITE with EXMAP_VEC_DIRTY has returned, all earlier changes are on the disk */
TEST_F_TIMEOUT(flight, checkpoint, STUCK)
{
	static const enum pace pace[STATES] = { RETURNS, WAITS, WAITS, WAITS };
	const struct operation op = {
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

TEST_F_TIMEOUT(flight, preadv2_nowait, STUCK)
{
	const struct operation op = {
		.way = FILE_CALL, .opcode = EXMAP_OP_READ, .rwf = RWF_NOWAIT,
	};
	struct flight *f = &self->f;
	int ret = meet(_metadata, f, &op, f->state <= REPLACING ? EITHER : RETURNS);

	/* While a READ is in flight, it makes its own request if that does not block */
	if (f->state > REPLACING || ret != 1)
		EXPECT_EQ(-EAGAIN, ret);
	land(_metadata, f);
	/* If both READs succeeded, the page of the first one may have been dropped */
	if (f->state != READING || ret != 1 || f->pages)
		EXPECT_EQ(1, f->pages);
	EXPECT_EQ(f->state != FREED, present(page_at(&f->ex, SLOT)));
	if (f->state != FREED)
		EXPECT_TRUE(HAS(f->state == WRITING ? f->version : SLOT));
}

TEST_F_TIMEOUT(flight, pwritev2_nowait, STUCK)
{
	static const int expected[STATES] = { -EAGAIN, -EAGAIN, -EAGAIN, -EAGAIN };
	const struct operation op = {
		.way = FILE_CALL, .opcode = EXMAP_OP_WRITE, .rwf = RWF_NOWAIT,
	};
	struct flight *f = &self->f;

	f->change = f->state == WRITING;
	EXPECT_EQ(expected[f->state], meet(_metadata, f, &op, RETURNS));
	land(_metadata, f);
	EXPECT_EQ(1, f->pages);
	EXPECT_TRUE(DISK_HAS(f->state <= REPLACING ? SLOT : f->version));
}

/* A slot is freed while its page is written, gets another page, and is written again */
FIXTURE(again) {
	struct flight f;
};

FIXTURE_VARIANT(again) {
	enum way way;
	int flags;
};

FIXTURE_VARIANT_ADD(again, write) {};
FIXTURE_VARIANT_ADD(again, write_dirty) { .flags = EXMAP_VEC_DIRTY };
FIXTURE_VARIANT_ADD(again, pwrite) { .way = FILE_CALL };

FIXTURE_SETUP(again)
{
	struct flight *f = &self->f;
	const char *missing;

	f->state = FREED;
	f->first.opcode = EXMAP_OP_WRITE;
	missing = flight_open(_metadata, f, NSEC, 0);
	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(again)
{
	flight_close(_metadata, &self->f);
}

TEST_F_TIMEOUT(again, newest_content_is_last, STUCK)
{
	const struct operation alloc = { .opcode = EXMAP_OP_ALLOC };
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

FIXTURE_VARIANT_ADD(killed, write_under_read) {
	.state = REPLACING,
	.op = { .opcode = EXMAP_OP_WRITE },
};

FIXTURE_VARIANT_ADD(killed, read_under_write) {
	.state = WRITING,
	.op = { .opcode = EXMAP_OP_READ, .flags = EXMAP_VEC_REPLACE },
};

FIXTURE_VARIANT_ADD(killed, pread_under_write) {
	.state = WRITING,
	.op = { .way = FILE_CALL, .opcode = EXMAP_OP_READ },
};

FIXTURE_VARIANT_ADD(killed, write_under_write) {
	.state = WRITING,
	.op = { .opcode = EXMAP_OP_WRITE, .flags = EXMAP_VEC_DIRTY },
};

FIXTURE_VARIANT_ADD(killed, pwrite_under_write) {
	.state = WRITING,
	.op = { .way = FILE_CALL, .opcode = EXMAP_OP_WRITE },
};

FIXTURE_VARIANT_ADD(killed, read_when_freed) {
	.state = FREED,
	.op = { .opcode = EXMAP_OP_READ },
};

FIXTURE_SETUP(killed)
{
	struct flight *f = &self->f;
	const char *missing;

	f->state = variant->state;
	f->first.opcode = variant->state >= WRITING ? EXMAP_OP_WRITE : EXMAP_OP_READ;
	f->first.flags = variant->state >= WRITING ? 0 : EXMAP_VEC_REPLACE;
	missing = flight_open(_metadata, f, 1500000000, 0);
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

static int suffer(void *arg)
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
	enum way way;		/* how the WRITE is requested */
	enum way read;		/* how the READ is requested */
};

FIXTURE_VARIANT_ADD(frozen, buffered) {};
FIXTURE_VARIANT_ADD(frozen, direct) { .direct = true };
FIXTURE_VARIANT_ADD(frozen, pwrite_direct) { .direct = true, .way = FILE_CALL };
FIXTURE_VARIANT_ADD(frozen, pread_direct) { .direct = true, .read = FILE_CALL };
FIXTURE_VARIANT_ADD(frozen, uring_direct) { .direct = true, .way = COMMAND };
FIXTURE_VARIANT_ADD(frozen, uring_buffered) { .way = COMMAND };

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
	if (variant->way == COMMAND && ring_open(&self->ring, 8))
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
	int opcode, iface;
	enum way way;
	int tid;
	int pages;
	bool over;
};

static void *call_frozen(void *arg)
{
	struct worker *w = arg;
	struct frozen_call *call = w->arg;
	char *addr = page_at(w->ex, SLOT);

	__atomic_store_n(&call->tid, gettid(), __ATOMIC_SEQ_CST);
	if (call->way == VECTORS)
		call->pages = ex_vec_one(w->ex, call->iface, call->opcode, SLOT, 1, 0);
	else if (is_write(call->opcode))
		call->pages = in_pages(ex_pwrite(w->ex->fd, call->iface, call->opcode, addr, PG));
	else
		call->pages = in_pages(ex_pread(w->ex->fd, call->iface, call->opcode, addr, PG));
	__atomic_store_n(&call->over, true, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Wait until the slot is in flight, or for a second */
static void wait_for_busy(struct exmap *ex)
{
	struct exmap_vec vec = { .page = SLOT, .len = 1 };
	__u8 slot = 0;
	int i;

	for (i = 0; i < 1000 && !(slot & BUSY); i++) {
		usleep(1000);
		ex_query(ex->fd, &vec, 1, &slot, 0);
	}
}

/* Wait for a second at most until the slot is in flight. Returns whether it is. */
static bool slot_is_busy(struct exmap *ex)
{
	const struct exmap_vec vec = { .page = SLOT, .len = 1 };
	__u8 slot = 0;

	for (int i = 0; i < 1000 && !(slot & BUSY); i++) {
		usleep(1000);
		if (ex_query(ex->fd, &vec, 1, &slot, 0))
			return false;
	}
	return slot & BUSY;
}

TEST_F_TIMEOUT(frozen, old_content_is_not_read, STUCK)
{
	struct frozen_call write = { .opcode = EXMAP_OP_WRITE, .way = variant->way };
	struct frozen_call read = {
		.opcode = EXMAP_OP_READ, .iface = 1, .way = variant->read,
	};
	const struct operation op = { .way = COMMAND, .opcode = EXMAP_OP_WRITE };
	struct exmap *ex = &self->ex;
	struct worker w[2];
	const char *missing;

	ASSERT_EQ(1, ex_one(ex, 0, EXMAP_OP_READ, SLOT, 1));
	renew(ex, SLOT);
	missing = freeze_begin(&self->freeze);
	if (missing)
		SKIP(return, "%s", missing);
	if (op.way == variant->way) {
		command_init(&self->c, 0);
		command_add(&self->c, EXMAP_OP_WRITE, SLOT, 1, 0);
		prep_command(ring_sqe(&self->ring), ex->fd, &self->c);
		EXPECT_EQ(1, ring_submit(&self->ring));
		/* A write to a buffered file begins when a worker thread runs it */
		EXPECT_TRUE(slot_is_busy(ex));
	} else {
		start_workers(_metadata, &w[0], 1, call_frozen, ex, &write);
		EXPECT_TRUE(thread_blocks(&write.tid));
	}
	/* A worker thread of io_uring may have to begin the WRITE */
	wait_for_busy(ex);
	EXPECT_EQ(1, ex_free(ex, 1, SLOT, 1));
	EXPECT_TRUE(freeze_lasts(&self->freeze))
		TH_LOG("the WRITE or the FREE waited for the file system");
	start_workers(_metadata, &w[1], 1, call_frozen, ex, &read);
	usleep(200000);
	EXPECT_FALSE(__atomic_load_n(&read.over, __ATOMIC_SEQ_CST))
		TH_LOG("the READ does not wait for the WRITE");
	EXPECT_TRUE(freeze_lasts(&self->freeze));
	freeze_end(&self->freeze);
	if (op.way == variant->way)
		write.pages = complete(&op, &self->ring, &self->c);
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

/* A call that contains the same slot more than once must not wait for itself */
#define TWICE_BUFFER	1400
#define MANY		600	/* pages, more than are transferred at once */

FIXTURE(twice) {
	struct nullb disk;
	struct exmap ex;
	struct ring ring;
	struct command c;
	int fd;
};

FIXTURE_VARIANT(twice) {
	bool uring;
	__u64 setup;		/* flags of SETUP2 */
};

FIXTURE_VARIANT_ADD(twice, call) {};
FIXTURE_VARIANT_ADD(twice, call_deferred) { .setup = EXMAP_SETUP_DEFERRED };
FIXTURE_VARIANT_ADD(twice, uring) { .uring = true };

FIXTURE_SETUP(twice)
{
	struct exmap_setup2 setup = { .flags = variant->setup };

	catch_faults();
	self->ring.fd = -1;
	if (nullb_create(&self->disk, "twice", 20000000, NULL))
		SKIP(return, "no null_blk through configfs: %s", strerror(errno));
	self->fd = open(self->disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, fill_file(self->fd, FILE_PAGES));
	setup.fd = self->fd;
	exmap_create2(_metadata, &self->ex, setup, 2, TWICE_BUFFER, 2 * TWICE_BUFFER);
	if (variant->uring && ring_open(&self->ring, 8))
		SKIP(return, "no io_uring");
	command_init(&self->c, 0);
}

FIXTURE_TEARDOWN(twice)
{
	struct exmap *ex = &self->ex;

	ring_close(&self->ring);
	EXPECT_LE(0, ex_drain(ex, 0, 0, ex->pages));
	EXPECT_EQ(TWICE_BUFFER, fill_in_time(ex, 1, 0, TWICE_BUFFER));
	exmap_destroy(ex);
	close(self->fd);
	nullb_destroy(&self->disk);
}

/* Carry out the vectors of @c. Returns the number of vectors that failed, or -errno. */
static int run_command(struct exmap *ex, struct ring *ring, struct command *c)
{
	if (ring->fd < 0)
		return ex_ioctl(ex->fd, EXMAP_IOCTL_VECTORS, &c->params);
	prep_command(ring_sqe(ring), ex->fd, c);
	return ring_run(ring);
}

/* Check that every vector of self->c has succeeded, with @N pages */
#define EXPECT_PAGES(N) do {							\
		unsigned int _i;						\
										\
		for (_i = 0; _i < self->c.params.nr; _i++) {			\
			EXPECT_EQ(0, self->c.results[_i].res)			\
				TH_LOG("vector %u", _i);			\
			EXPECT_EQ((__u32)(N), self->c.results[_i].pages)	\
				TH_LOG("vector %u", _i);			\
		}								\
	} while (0)

TEST_F_TIMEOUT(twice, write_free_read, STUCK)
{
	struct exmap *ex = &self->ex;

	ASSERT_EQ(1, ex_alloc(ex, 0, SLOT, 1));
	renew(ex, SLOT);
	command_add(&self->c, EXMAP_OP_WRITE, SLOT, 1, 0);
	command_add(&self->c, EXMAP_OP_FREE, SLOT, 1, 0);
	command_add(&self->c, EXMAP_OP_READ, SLOT, 1, 0);
	EXPECT_EQ(0, run_command(ex, &self->ring, &self->c));
	EXPECT_PAGES(1);
	EXPECT_TRUE(page_is(page_at(ex, SLOT), NEW(SLOT)));
	EXPECT_TRUE(file_has(self->fd, SLOT, NEW(SLOT)));
}

TEST_F_TIMEOUT(twice, write_write, STUCK)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vec = { .page = SLOT, .len = 1 };
	__u8 slot;

	ASSERT_EQ(1, ex_alloc(ex, 0, SLOT, 1));
	renew(ex, SLOT);
	command_add(&self->c, EXMAP_OP_WRITE, SLOT, 1, 0);
	command_add(&self->c, EXMAP_OP_WRITE, SLOT, 1, 0);
	EXPECT_EQ(0, run_command(ex, &self->ring, &self->c));
	EXPECT_PAGES(1);
	EXPECT_TRUE(file_has(self->fd, SLOT, NEW(SLOT)));

	make_page((__u64 *)page_at(ex, SLOT), OWN);
	command_init(&self->c, 0);
	command_add(&self->c, EXMAP_OP_WRITE, SLOT, 1, EXMAP_VEC_DIRTY);
	command_add(&self->c, EXMAP_OP_WRITE, SLOT, 1, EXMAP_VEC_DIRTY | EXMAP_VEC_DSYNC);
	EXPECT_EQ(0, run_command(ex, &self->ring, &self->c));
	EXPECT_EQ(1, (int)self->c.results[0].pages);
	EXPECT_EQ(0, (int)self->c.results[1].pages);
	EXPECT_TRUE(file_has(self->fd, SLOT, OWN));
	ASSERT_EQ(0, ex_query(ex->fd, &vec, 1, &slot, 0));
	EXPECT_EQ(RESIDENT, slot & (RESIDENT | DIRTY | BUSY));
}

TEST_F_TIMEOUT(twice, write_replace, STUCK)
{
	struct exmap *ex = &self->ex;

	ASSERT_EQ(1, ex_alloc(ex, 0, SLOT, 1));
	renew(ex, SLOT);
	command_add(&self->c, EXMAP_OP_WRITE, SLOT, 1, 0);
	command_add(&self->c, EXMAP_OP_READ, SLOT, 1, EXMAP_VEC_REPLACE);
	EXPECT_EQ(0, run_command(ex, &self->ring, &self->c));
	EXPECT_PAGES(1);
	EXPECT_TRUE(page_is(page_at(ex, SLOT), NEW(SLOT)));
	EXPECT_TRUE(file_has(self->fd, SLOT, NEW(SLOT)));
}

TEST_F_TIMEOUT(twice, replace_write, STUCK)
{
	struct exmap *ex = &self->ex;

	ASSERT_EQ(1, ex_alloc(ex, 0, SLOT, 1));
	memset(page_at(ex, SLOT), 0xee, PG);
	command_add(&self->c, EXMAP_OP_READ, SLOT, 1, EXMAP_VEC_REPLACE);
	command_add(&self->c, EXMAP_OP_WRITE, SLOT, 1, 0);
	EXPECT_EQ(0, run_command(ex, &self->ring, &self->c));
	EXPECT_PAGES(1);
	EXPECT_TRUE(page_is(page_at(ex, SLOT), SLOT));
	EXPECT_TRUE(file_has(self->fd, SLOT, SLOT));
}

TEST_F_TIMEOUT(twice, write_free_alloc_write, STUCK)
{
	static alignas(4096) char content[PG];
	struct exmap *ex = &self->ex;

	ASSERT_EQ(1, ex_alloc(ex, 0, SLOT, 1));
	renew(ex, SLOT);
	command_add(&self->c, EXMAP_OP_WRITE, SLOT, 1, 0);
	/* With deferred flushes, ALLOC through the same interface returns the old page */
	command_add(&self->c, EXMAP_OP_FREE, SLOT, 1, 0);
	command_add(&self->c, EXMAP_OP_ALLOC, SLOT, 1, EXMAP_VEC_ZERO);
	command_add(&self->c, EXMAP_OP_WRITE, SLOT, 1, 0);
	EXPECT_EQ(0, run_command(ex, &self->ring, &self->c));
	EXPECT_PAGES(1);
	EXPECT_TRUE(all_zero(page_at(ex, SLOT), PG));
	EXPECT_EQ((ssize_t)PG, pread(self->fd, content, PG, SLOT * PG));
	EXPECT_TRUE(all_zero(content, PG));
}

TEST_F_TIMEOUT(twice, many_slots, STUCK)
{
	struct exmap *ex = &self->ex;
	int i;

	ASSERT_EQ(MANY, ex_alloc(ex, 0, 0, MANY));
	for (i = 0; i < MANY; i++)
		renew(ex, i);
	command_add(&self->c, EXMAP_OP_WRITE, 0, MANY, EXMAP_VEC_DIRTY);
	command_add(&self->c, EXMAP_OP_FREE, 0, MANY, 0);
	command_add(&self->c, EXMAP_OP_READ, 0, MANY, 0);
	command_add(&self->c, EXMAP_OP_READ, 0, MANY, EXMAP_VEC_REPLACE);
	command_add(&self->c, EXMAP_OP_WRITE, 0, MANY, 0);
	EXPECT_EQ(0, run_command(ex, &self->ring, &self->c));
	for (i = 0; i < 3; i++)
		EXPECT_EQ(MANY, (int)self->c.results[i].pages);
	for (i = 0; i < MANY; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), NEW(i)))
			TH_LOG("slot %d", i);
	EXPECT_TRUE(file_has(self->fd, 0, NEW(0)));
	EXPECT_TRUE(file_has(self->fd, MANY - 1, NEW(MANY - 1)));
}

TEST_F_TIMEOUT(twice, preadv_and_pwritev, STUCK)
{
	struct exmap *ex = &self->ex;
	struct iovec iov[3] = {
		{ page_at(ex, SLOT), PG }, { page_at(ex, SLOT), PG },
		{ page_at(ex, SLOT - 1), 2 * PG },
	};

	EXPECT_EQ((ssize_t)(4 * PG), ex_preadv(ex->fd, 0, EXMAP_OP_READ, iov, 3));
	EXPECT_TRUE(page_is(page_at(ex, SLOT), SLOT));
	/* Read again: the pages are resident, so that they are filled in place */
	memset(page_at(ex, SLOT), 0xee, PG);
	EXPECT_EQ((ssize_t)(4 * PG), ex_preadv(ex->fd, 0, EXMAP_OP_READ, iov, 3));
	EXPECT_TRUE(page_is(page_at(ex, SLOT), SLOT));
	renew(ex, SLOT);
	EXPECT_EQ((ssize_t)(4 * PG), ex_pwritev2(ex->fd, 0, EXMAP_OP_WRITE, iov, 3, 0));
	EXPECT_TRUE(file_has(self->fd, SLOT, NEW(SLOT)));
	EXPECT_TRUE(file_has(self->fd, SLOT - 1, SLOT - 1));
}

/*
 * Several threads make calls for the same slots, in random order and in all ways. No two
 * calls may wait for each other.
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
};

FIXTURE_VARIANT_ADD(crossing, strict) {};
FIXTURE_VARIANT_ADD(crossing, deferred) { .setup = EXMAP_SETUP_DEFERRED };

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

static void *cross(void *arg)
{
	static const struct {
		int opcode, flags;
	} ops[] = {
		{ EXMAP_OP_READ, 0 }, { EXMAP_OP_READ, EXMAP_VEC_REPLACE },
		{ EXMAP_OP_WRITE, 0 }, { EXMAP_OP_WRITE, EXMAP_VEC_DIRTY },
		{ EXMAP_OP_FREE, 0 }, { EXMAP_OP_ALLOC, EXMAP_VEC_ZERO },
	};
	struct worker *w = arg;
	struct ring ring = { .fd = -1 };
	struct iovec iov[4];
	struct command c;
	int i, j, op, ret;

	/* One of the threads uses io_uring, if it is available */
	if (w->index == 1)
		ring_open(&ring, 8);
	for (i = 0; i < scaled(150) && !w->what; i++) {
		if (random_below(&w->random, 4)) {
			command_init(&c, w->index);
			for (j = 0; j < 16; j++) {
				op = random_below(&w->random, ARRAY_SIZE(ops));
				command_add(&c, ops[op].opcode,
					    random_below(&w->random, CROSS_SLOTS), 1,
					    ops[op].flags);
			}
			ret = run_command(w->ex, &ring, &c);
			BROKE(w, ret < 0, ret);
			for (j = 0; j < 16; j++) {
				ret = c.results[j].res;
				BROKE(w, ret && ret != -EFAULT && ret != -EBUSY, ret);
			}
			continue;
		}
		for (j = 0; j < 4; j++)
			iov[j] = (struct iovec){
				page_at(w->ex, random_below(&w->random, CROSS_SLOTS)), PG,
			};
		if (random_below(&w->random, 2)) {
			ret = ex_preadv(w->ex->fd, w->index, EXMAP_OP_READ, iov, 4);
			BROKE(w, ret < 0, ret);
		} else {
			ret = ex_pwritev2(w->ex->fd, w->index, EXMAP_OP_WRITE, iov, 4, 0);
			BROKE(w, ret < 0 && ret != -EFAULT, ret);
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

	run_workers(_metadata, w, CROSS_THREADS, cross, &self->ex, NULL);
	/* No WRITE may have written a page that a READ had filled only in part */
	for (i = 0; i < CROSS_SLOTS; i++) {
		ASSERT_EQ((ssize_t)PG, pread(self->fd, content, PG, i * PG));
		EXPECT_TRUE(page_is(content, i) || all_zero(content, PG))
			TH_LOG("slot %d", i);
	}
}

TEST_HARNESS_MAIN
