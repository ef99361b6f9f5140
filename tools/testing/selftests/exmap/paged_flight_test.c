// SPDX-License-Identifier: GPL-2.0
/*
 * Operations on a slot that is in flight, in all combinations in which one of the two is
 * a read or write call on the exmap, by a system call or through io_uring
 */
#include "flight.h"
#include "paged_way.h"

/* The transfer in flight is a read or write call */

FIXTURE_VARIANT_ADD(flight, reading_pread) { .first = { READING, &by_file_call } };
FIXTURE_VARIANT_ADD(flight, replacing_pread) { .first = { REPLACING, &by_file_call } };
FIXTURE_VARIANT_ADD(flight, writing_pwrite) { .first = { WRITING, &by_file_call } };
FIXTURE_VARIANT_ADD(flight, writing_uring_pwrite) { .first = { WRITING, &by_ring_call } };

FIXTURE_VARIANT_ADD(again, pwrite) { .way = &by_file_call };

FIXTURE_VARIANT_ADD(killed, pread_under_write) {
	.state = WRITING,
	.op = { &by_file_call, EXMAP_OP_READ },
};

FIXTURE_VARIANT_ADD(killed, pwrite_under_write) {
	.state = WRITING,
	.op = { &by_file_call, EXMAP_OP_WRITE },
};

FIXTURE_VARIANT_ADD(frozen, pwrite_direct) {
	.direct = true,
	.write = &by_file_call,
	.read = &by_vectors,
};

FIXTURE_VARIANT_ADD(frozen, pread_direct) {
	.direct = true,
	.write = &by_vectors,
	.read = &by_file_call,
};

/* The other operation is a read or write call, and the transfer is of any kind */

FIXTURE(meeting) {
	struct flight f;
};

FIXTURE_VARIANT(meeting) {
	struct departure first;
};

FIXTURE_VARIANT_ADD(meeting, reading) { .first = { READING, &by_vectors } };
FIXTURE_VARIANT_ADD(meeting, reading_pread) { .first = { READING, &by_file_call } };
FIXTURE_VARIANT_ADD(meeting, reading_uring) { .first = { READING, &by_command } };
FIXTURE_VARIANT_ADD(meeting, replacing) {
	.first = { REPLACING, &by_vectors, EXMAP_VEC_REPLACE },
};

FIXTURE_VARIANT_ADD(meeting, replacing_pread) { .first = { REPLACING, &by_file_call } };
FIXTURE_VARIANT_ADD(meeting, replacing_uring) {
	.first = { REPLACING, &by_command, EXMAP_VEC_REPLACE },
};

FIXTURE_VARIANT_ADD(meeting, writing) { .first = { WRITING, &by_vectors } };
FIXTURE_VARIANT_ADD(meeting, writing_dirty) {
	.first = { WRITING, &by_vectors, EXMAP_VEC_DIRTY },
};

FIXTURE_VARIANT_ADD(meeting, writing_pwrite) { .first = { WRITING, &by_file_call } };
FIXTURE_VARIANT_ADD(meeting, writing_uring) {
	.first = { WRITING, &by_command, EXMAP_VEC_DIRTY },
};

FIXTURE_VARIANT_ADD(meeting, writing_uring_pwrite) { .first = { WRITING, &by_ring_call } };
FIXTURE_VARIANT_ADD(meeting, writing_deferred) {
	.first = { WRITING, &by_vectors, .setup = EXMAP_SETUP_DEFERRED },
};

FIXTURE_VARIANT_ADD(meeting, freed) { .first = { FREED, &by_vectors } };
FIXTURE_VARIANT_ADD(meeting, freed_uring) { .first = { FREED, &by_command } };
FIXTURE_VARIANT_ADD(meeting, freed_deferred) {
	.first = { FREED, &by_vectors, .setup = EXMAP_SETUP_DEFERRED },
};

FIXTURE_SETUP(meeting)
{
	const char *missing = flight_open(_metadata, &self->f, NSEC, &variant->first);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(meeting)
{
	flight_close(_metadata, &self->f);
}

TEST_F_TIMEOUT(meeting, pread, STUCK)
{
	replace(_metadata, &self->f, &by_file_call);
}

TEST_F_TIMEOUT(meeting, uring_pread, STUCK)
{
	if (!flight_open_ring(&self->f.other_ring))
		SKIP(return, "no io_uring");
	replace(_metadata, &self->f, &by_ring_call);
}

TEST_F_TIMEOUT(meeting, pwrite, STUCK)
{
	rewrite(_metadata, &self->f, &by_file_call, 0);
}

TEST_F_TIMEOUT(meeting, uring_pwrite, STUCK)
{
	if (!flight_open_ring(&self->f.other_ring))
		SKIP(return, "no io_uring");
	rewrite(_metadata, &self->f, &by_ring_call, 0);
}

TEST_F_TIMEOUT(meeting, preadv2_nowait, STUCK)
{
	const struct operation op = {
		.way = &by_file_call, .opcode = EXMAP_OP_READ, .rwf = RWF_NOWAIT,
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

TEST_F_TIMEOUT(meeting, pwritev2_nowait, STUCK)
{
	const struct operation op = {
		.way = &by_file_call, .opcode = EXMAP_OP_WRITE, .rwf = RWF_NOWAIT,
	};
	struct flight *f = &self->f;

	f->change = f->state == WRITING;
	EXPECT_EQ(-EAGAIN, meet(_metadata, f, &op, RETURNS));
	land(_metadata, f);
	EXPECT_EQ(1, f->pages);
	EXPECT_TRUE(DISK_HAS(f->state <= REPLACING ? SLOT : f->version));
}

/* A call that contains the same slot more than once must not wait for itself */

FIXTURE(twice) {
	struct nullb disk;
	struct exmap ex;
	int fd;
};

FIXTURE_VARIANT(twice) {
	__u64 setup;		/* flags of SETUP2 */
};

FIXTURE_VARIANT_ADD(twice, strict) {};
FIXTURE_VARIANT_ADD(twice, deferred) { .setup = EXMAP_SETUP_DEFERRED };

FIXTURE_SETUP(twice)
{
	struct exmap_setup2 setup = { .flags = variant->setup };

	catch_faults();
	if (nullb_create(&self->disk, "twice", 20000000, NULL))
		SKIP(return, "no null_blk through configfs: %s", strerror(errno));
	self->fd = open(self->disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, fill_file(self->fd, FILE_PAGES));
	setup.fd = self->fd;
	exmap_create2(_metadata, &self->ex, setup, 2, BUFFER, PAGES);
}

FIXTURE_TEARDOWN(twice)
{
	struct exmap *ex = &self->ex;

	EXPECT_LE(0, ex_drain(ex, 0, 0, PAGES));
	EXPECT_EQ(BUFFER, fill_in_time(ex, 1, 0, BUFFER));
	exmap_destroy(ex);
	close(self->fd);
	nullb_destroy(&self->disk);
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

/* Threads that make calls of all kinds for the same slots */

static void read_or_write(struct worker *w)
{
	struct iovec iov[4];
	int i, ret;

	for (i = 0; i < 4; i++)
		iov[i] = (struct iovec){
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

FIXTURE_VARIANT_ADD(crossing, strict) { .other = read_or_write };
FIXTURE_VARIANT_ADD(crossing, deferred) {
	.setup = EXMAP_SETUP_DEFERRED,
	.other = read_or_write,
};

TEST_HARNESS_MAIN
