// SPDX-License-Identifier: GPL-2.0
/*
 * Operations on a slot that is in flight, in all combinations of a transfer and another
 * operation by EXMAP_IOCTL_VECTORS and its io_uring command
 */
#include "flight.h"

FIXTURE_VARIANT_ADD(flight, reading) { .first = { READING, &by_vectors } };
FIXTURE_VARIANT_ADD(flight, reading_uring) { .first = { READING, &by_command } };
FIXTURE_VARIANT_ADD(flight, replacing) {
	.first = { REPLACING, &by_vectors, EXMAP_VEC_REPLACE },
};

FIXTURE_VARIANT_ADD(flight, replacing_uring) {
	.first = { REPLACING, &by_command, EXMAP_VEC_REPLACE },
};

FIXTURE_VARIANT_ADD(flight, writing) { .first = { WRITING, &by_vectors } };
FIXTURE_VARIANT_ADD(flight, writing_dirty) {
	.first = { WRITING, &by_vectors, EXMAP_VEC_DIRTY },
};

FIXTURE_VARIANT_ADD(flight, writing_uring) {
	.first = { WRITING, &by_command, EXMAP_VEC_DIRTY },
};

FIXTURE_VARIANT_ADD(flight, writing_deferred) {
	.first = { WRITING, &by_vectors, .setup = EXMAP_SETUP_DEFERRED },
};

FIXTURE_VARIANT_ADD(flight, freed) { .first = { FREED, &by_vectors } };
FIXTURE_VARIANT_ADD(flight, freed_uring) { .first = { FREED, &by_command } };
FIXTURE_VARIANT_ADD(flight, freed_deferred) {
	.first = { FREED, &by_vectors, .setup = EXMAP_SETUP_DEFERRED },
};

FIXTURE_VARIANT_ADD(again, write) { .way = &by_vectors };
FIXTURE_VARIANT_ADD(again, write_dirty) { .way = &by_vectors, .flags = EXMAP_VEC_DIRTY };

FIXTURE_VARIANT_ADD(killed, write_under_read) {
	.state = REPLACING,
	.op = { &by_vectors, EXMAP_OP_WRITE },
};

FIXTURE_VARIANT_ADD(killed, read_under_write) {
	.state = WRITING,
	.op = { &by_vectors, EXMAP_OP_READ, EXMAP_VEC_REPLACE },
};

FIXTURE_VARIANT_ADD(killed, write_under_write) {
	.state = WRITING,
	.op = { &by_vectors, EXMAP_OP_WRITE, EXMAP_VEC_DIRTY },
};

FIXTURE_VARIANT_ADD(killed, read_when_freed) {
	.state = FREED,
	.op = { &by_vectors, EXMAP_OP_READ },
};

FIXTURE_VARIANT_ADD(frozen, buffered) { .write = &by_vectors, .read = &by_vectors };
FIXTURE_VARIANT_ADD(frozen, direct) {
	.direct = true,
	.write = &by_vectors,
	.read = &by_vectors,
};

FIXTURE_VARIANT_ADD(frozen, uring_direct) {
	.direct = true,
	.write = &by_command,
	.read = &by_vectors,
};

FIXTURE_VARIANT_ADD(frozen, uring_buffered) { .write = &by_command, .read = &by_vectors };

FIXTURE_VARIANT_ADD(crossing, strict) {};
FIXTURE_VARIANT_ADD(crossing, deferred) { .setup = EXMAP_SETUP_DEFERRED };

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

TEST_HARNESS_MAIN
