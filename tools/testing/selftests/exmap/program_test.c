// SPDX-License-Identifier: GPL-2.0
/*
 * Habits of existing programs: calls meant for a different exmap, loops that wait for a
 * page, and mappings that go away in any order.
 */
#include "common.h"
#include "backing.h"
#include "paged.h"
#include "status.h"

#define BUFFER		64
#define PAGES		512

FIXTURE(program) {
	struct paged p;
	int backing;
};

FIXTURE_SETUP(program)
{
	catch_faults();
	self->backing = memfd_create("backing", MFD_CLOEXEC);
	ASSERT_LE(0, self->backing);
	ASSERT_EQ(0, fill_file(self->backing, PAGES));
	paged_create(_metadata, &self->p, self->backing, 8, BUFFER, PAGES);
}

FIXTURE_TEARDOWN(program)
{
	EXPECT_LE(0, ex_drain(&self->p.ex, 0, 0, PAGES));
	EXPECT_EQ(self->p.ex.buffer, ex_fill(&self->p.ex, 1, 0));
	paged_destroy(&self->p);
	close(self->backing);
}

/*
 * LeanStore is written for a different exmap, /dev/exmap0, which has snapshots. Its ACTION
 * has the opcodes SHADOW 3, RM_SD 4 and WRITE 5, and a page number in place of the flags.
 * SHADOW of page 0 looks like WRITE and is carried out as WRITE. Calls with opcode 4 and
 * above, or with another page number, are refused and change nothing.
 */

struct leanstore_params {
	__u16 interface;
	__u16 iov_len;
	__u16 opcode;
	__u64 page_id;
};

static int leanstore_action(struct exmap *ex, int opcode, __u64 page_id, int iov_len)
{
	struct leanstore_params params = {
		.iov_len = iov_len, .opcode = opcode, .page_id = page_id,
	};

	return ex_ioctl(ex->fd, EXMAP_IOCTL_ACTION, &params);
}

TEST_F(program, opcodes_of_leanstore)
{
	struct paged *p = &self->p;
	struct exmap *ex = &p->ex;
	__u64 before;
	int opcode;

	EXPECT_EQ(-1, open("/dev/exmap0", O_RDWR));
	EXPECT_EQ(ENOENT, errno);

	/* READ, ALLOC and FREE mean the same in both as long as the page number is 0 */
	set_vec(p, 0, 0, 7, 2);
	EXPECT_EQ(0, leanstore_action(ex, EXMAP_OP_ALLOC, 0, 1));
	EXPECT_EQ(2, p->iface[0]->iov[0].pages);
	renew(ex, 7);
	renew(ex, 8);
	set_vec(p, 0, 0, 8, 1);
	EXPECT_EQ(0, leanstore_action(ex, EXMAP_OP_FREE, 0, 1));
	EXPECT_EQ(1, p->iface[0]->iov[0].pages);
	set_vec(p, 0, 0, 20, 3);
	EXPECT_EQ(0, leanstore_action(ex, EXMAP_OP_READ, 0, 1));
	EXPECT_EQ(3, p->iface[0]->iov[0].pages);
	EXPECT_TRUE(page_is(page_at(ex, 22), 22));

	set_vec(p, 0, 0, 7, 1);
	before = p->iface[0]->iov[0].value;
	for (opcode = 0; opcode < 20; opcode++) {
		EXPECT_EQ(-EINVAL, leanstore_action(ex, opcode, 7, 1));
		if (opcode > EXMAP_OP_WRITE)
			EXPECT_EQ(-EINVAL, leanstore_action(ex, opcode, 0, 1));
	}
	EXPECT_EQ(-EINVAL, leanstore_action(ex, 0xffff, 0, 1));
	EXPECT_EQ(before, p->iface[0]->iov[0].value);
	EXPECT_EQ(4, count_present(ex, 0, PAGES));
	EXPECT_TRUE(page_is(page_at(ex, 7), NEW(7)));
	EXPECT_TRUE(file_has(self->backing, 7, 7));

	/* SHADOW of page 0 */
	EXPECT_EQ(0, leanstore_action(ex, 3, 0, 1));
	EXPECT_EQ(1, p->iface[0]->iov[0].pages);
	EXPECT_TRUE(file_has(self->backing, 7, NEW(7)));
	EXPECT_TRUE(page_is(page_at(ex, 7), NEW(7)));
}

/*
 * Programs evict a page when a call fails with ENOMEM, and then repeat the call as it is.
 * With a pool of one page, each thread has to evict the page of another thread.
 */

#define RETRIES	1000000

struct loop {
	struct paged *p;
	bool action;		/* ALLOC with ACTION, else READ with pread() */
	long retries;
};

static void *wait_for_page(void *arg)
{
	struct worker *w = arg;
	struct loop *loop = w->arg;
	struct paged *p = loop->p;
	struct exmap *ex = w->ex;
	const int page = 10 + w->index;
	long tries, ret;
	__u64 value;
	int i, other;

	pthread_barrier_wait(&start_line);
	for (i = 0; i < scaled(50); i++) {
		set_vec(p, w->index, 0, page, 1);
		for (tries = 0; tries < RETRIES; tries++) {
			if (loop->action) {
				ret = ex_action(ex->fd, w->index, EXMAP_OP_ALLOC, 1);
				if (!ret)
					break;
				if (BROKE(w, ret != -ENOMEM, ret) ||
				    BROKE(w, (int)p->iface[w->index]->iov[0].page != page, i))
					return NULL;
			} else {
				ret = ex_pread(ex->fd, w->index, EXMAP_OP_READ, page_at(ex, page),
					       PG);
				if (ret == (ssize_t)PG)
					break;
				if (BROKE(w, ret != -ENOMEM, ret))
					return NULL;
			}
			/* Evict through another interface to keep the vector intact */
			other = 10 + random_below(&w->random, 4);
			ret = paged_free(p, w->index + 4, other, 1);
			if (BROKE(w, ret < 0 && ret != -EBUSY, ret))
				return NULL;
			sched_yield();
		}
		__atomic_add_fetch(&loop->retries, tries, __ATOMIC_SEQ_CST);
		if (BROKE(w, tries == RETRIES, i))
			return NULL;
		/* The page may have been evicted again, but it is never incomplete */
		if (!loop->action && !try_read(page_at(ex, page), &value) &&
		    BROKE(w, value != word_of(page, 0), value))
			return NULL;
	}
	return NULL;
}

TEST_F_TIMEOUT(program, pool_of_one, SLOW)
{
	struct loop loop = { .p = &self->p };
	struct worker w[4];
	int action;

	paged_destroy(&self->p);
	paged_create(_metadata, &self->p, self->backing, 8, 1, PAGES);
	for (action = 0; action < 2; action++) {
		loop.action = action;
		run_workers(_metadata, w, 4, wait_for_page, &self->p.ex, &loop);
	}
	EXPECT_LT(0, loop.retries);
}

/* A single thread walks over the region and evicts each page for the next one */
TEST_F(program, pool_of_one_for_all_pages)
{
	struct paged *p = &self->p;
	struct exmap *ex = &p->ex;
	int i;

	paged_destroy(p);
	paged_create(_metadata, p, self->backing, 1, 1, PAGES);
	for (i = 0; i < 100; i++) {
		if (i) {
			EXPECT_EQ(-ENOMEM, ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(ex, i), PG));
			EXPECT_EQ(-ENOMEM, paged_alloc(p, 0, i, 1));
			EXPECT_TRUE(page_is(page_at(ex, i - 1), i - 1));
			EXPECT_EQ(1, paged_free(p, 0, i - 1, 1));
		}
		EXPECT_EQ((ssize_t)PG, ex_pread(ex->fd, 0, EXMAP_OP_READ, page_at(ex, i), PG));
		EXPECT_TRUE(page_is(page_at(ex, i), i));
	}
	EXPECT_EQ(1, ex_owned(ex->fd));
	EXPECT_EQ(1, paged_free(p, 0, 99, 1));
	paged_destroy(p);
	paged_create(_metadata, p, self->backing, 2, BUFFER, PAGES);
}

/* The mappings and open files of an exmap go away in every possible order */

enum part { REGION, FIRST_IFACE, SECOND_IFACE, ITS_FILE, CLONE, PARTS };

static void take_away(struct paged *p, int clone, enum part part)
{
	switch (part) {
	case REGION:
		munmap(p->ex.region, p->ex.pages * PG);
		break;
	case FIRST_IFACE:
	case SECOND_IFACE:
		munmap(p->iface[part - FIRST_IFACE], PG);
		break;
	case ITS_FILE:
		close(p->ex.fd);
		break;
	default:
		close(clone);
	}
}

TEST_F_TIMEOUT(program, every_order_of_unmapping_and_closing, SLOW)
{
	int order, parts, rest, i, n, clone, done = 0;
	struct paged p;
	long before = 0;
	enum part part;

	become_nobody(_metadata, BUFFER);
	for (order = 0; order < 2 * 3 * 4 * 5; order++) {
		paged_create(_metadata, &p, self->backing, 2, BUFFER, PAGES);
		clone = exmap_open(_metadata);
		ASSERT_EQ(0, ex_clone(clone, p.ex.fd));
		ASSERT_EQ(20, paged_one(&p, 0, EXMAP_OP_READ, 0, 20));
		ASSERT_EQ(20, paged_alloc(&p, 1, 100, 20));
		ASSERT_EQ(10, paged_free(&p, 1, 15, 10) + paged_free(&p, 0, 110, 5));
		/* Each digit of @order selects one of the remaining parts */
		parts = (1 << PARTS) - 1;
		rest = order;
		for (n = PARTS; n; n--) {
			i = rest % n;
			rest /= n;
			for (part = 0; !(parts & 1 << part) || i--; part++)
				;
			parts &= ~(1 << part);
			take_away(&p, clone, part);
			done++;
			if (parts & 1 << REGION)
				EXPECT_TRUE(page_is(page_at(&p.ex, 7), 7));
		}
		/* The program text that the loop needs is resident by now */
		if (order == 1)
			before = status_kib("RssFile:");
	}
	EXPECT_EQ(PARTS * 2 * 3 * 4 * 5, done);
	EXPECT_GE(before + 256, status_kib("RssFile:"));
}

TEST_HARNESS_MAIN
