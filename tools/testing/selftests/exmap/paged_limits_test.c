// SPDX-License-Identifier: GPL-2.0
/*
 * Transfers by ACTION, and by read and write calls of all kinds, are made on behalf of
 * the caller as well. What such a call cannot do as it is asked to is refused.
 */
#include "limits.h"
#include "paged_way.h"

#ifndef RWF_ATOMIC
#define RWF_ATOMIC	0x40
#endif
#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE	0x80
#endif

FIXTURE_VARIANT_ADD(file, action_direct) { .by.way = &by_action, .direct = true };
FIXTURE_VARIANT_ADD(file, call_buffered) { .by.way = &by_file_call };
FIXTURE_VARIANT_ADD(file, call_direct) { .by.way = &by_file_call, .direct = true };
FIXTURE_VARIANT_ADD(file, aio_buffered) { .by.way = &by_aio };
FIXTURE_VARIANT_ADD(file, aio_direct) { .by.way = &by_aio, .direct = true };
FIXTURE_VARIANT_ADD(file, ring_buffered) { .by.way = &by_ring_call };
FIXTURE_VARIANT_ADD(file, ring_direct) { .by.way = &by_ring_call, .direct = true };
FIXTURE_VARIANT_ADD(file, ring_async_buffered) {
	.by = { .way = &by_ring_call, .sqe_flags = IOSQE_ASYNC },
};

FIXTURE_VARIANT_ADD(frozen, ring_buffered) { .way = &by_ring_call };
FIXTURE_VARIANT_ADD(frozen, ring_direct) { .way = &by_ring_call, .direct = true };

FIXTURE_VARIANT_ADD(caller, action) { .by.way = &by_action };
FIXTURE_VARIANT_ADD(caller, call) { .by.way = &by_file_call };
FIXTURE_VARIANT_ADD(caller, aio) { .by.way = &by_aio };
FIXTURE_VARIANT_ADD(caller, ring) { .by.way = &by_ring_call };
FIXTURE_VARIANT_ADD(caller, ring_async) {
	.by = { .way = &by_ring_call, .sqe_flags = IOSQE_ASYNC },
};

FIXTURE_VARIANT_ADD(killed, pread_in_place) { .way = &by_file_call, .resident = true };

/* RWF_NOWAIT while the file system is frozen */

FIXTURE(nowait) {
	struct exmap ex;
	struct freeze freeze;
	struct ring ring;
	int fd;
};

FIXTURE_VARIANT(nowait) {
	bool direct;
};

FIXTURE_VARIANT_ADD(nowait, buffered) {};
FIXTURE_VARIANT_ADD(nowait, direct) { .direct = true };

FIXTURE_SETUP(nowait)
{
	const char *missing = create(_metadata, &self->ex, &self->ring, &self->fd, FILE_PAGES,
				     &by_file_call, variant->direct);

	self->freeze = (struct freeze){ .fd = -1 };
	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(nowait)
{
	freeze_end(&self->freeze);
	destroy(_metadata, &self->ex, &self->ring, self->fd);
}

TEST_F_TIMEOUT(nowait, write_does_not_block, STUCK)
{
	const struct request nowait = {
		.opcode = EXMAP_OP_WRITE, .page = 5, .len = 1, .rwf = RWF_NOWAIT,
	};
	const struct means by = { .way = &by_file_call };
	struct exmap *ex = &self->ex;
	struct outcome outcome;
	const char *missing;

	ASSERT_EQ(1, ex_one(ex, 0, EXMAP_OP_READ, 5, 1));
	renew(ex, 5);
	missing = freeze_begin(&self->freeze);
	if (missing)
		SKIP(return, "%s", missing);
	EXPECT_EQ(-EAGAIN, run(ex, NULL, by, &nowait).err);
	EXPECT_TRUE(freeze_lasts(&self->freeze))
		TH_LOG("it blocks until the file system is thawed");
	freeze_end(&self->freeze);
	outcome = transfer(ex, NULL, by, EXMAP_OP_WRITE, 5, 1);
	EXPECT_EQ(0, outcome.err);
	EXPECT_EQ(1, outcome.pages);
	EXPECT_TRUE(file_has(self->fd, 5, NEW(5)));
}

/* RWF_* flags that exmap cannot honour are refused */

FIXTURE(flags) {
	struct exmap ex;
	struct ring ring;
	int fd;
};

FIXTURE_VARIANT(flags) {
	const struct way *way;
	bool direct;
};

FIXTURE_VARIANT_ADD(flags, call_buffered) { .way = &by_file_call };
FIXTURE_VARIANT_ADD(flags, call_direct) { .way = &by_file_call, .direct = true };
FIXTURE_VARIANT_ADD(flags, aio_buffered) { .way = &by_aio };
FIXTURE_VARIANT_ADD(flags, aio_direct) { .way = &by_aio, .direct = true };
FIXTURE_VARIANT_ADD(flags, ring_buffered) { .way = &by_ring_call };
FIXTURE_VARIANT_ADD(flags, ring_direct) { .way = &by_ring_call, .direct = true };

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
	static const struct request refused[] = {
		{ EXMAP_OP_WRITE, 3, 1, .rwf = RWF_APPEND },
		{ EXMAP_OP_WRITE, 3, 1, .rwf = RWF_APPEND | RWF_DSYNC },
		{ EXMAP_OP_WRITE, 3, 1, .rwf = RWF_ATOMIC },
		{ EXMAP_OP_WRITE, 3, 1, .rwf = RWF_DONTCACHE },
		{ EXMAP_OP_READ, 3, 1, .rwf = RWF_ATOMIC },
		{ EXMAP_OP_READ, 3, 1, .rwf = RWF_DONTCACHE },
	};
	const struct means by = { .way = variant->way };
	struct exmap *ex = &self->ex;
	struct stat stat;
	int i;

	for (i = 0; i < (int)ARRAY_SIZE(refused); i++) {
		ASSERT_EQ(0, fill_file(self->fd, FILE_PAGES));
		ASSERT_LE(0, ex_alloc(ex, 0, 3, 1));
		renew(ex, 3);
		EXPECT_EQ(-EOPNOTSUPP, run(ex, &self->ring, by, &refused[i]).err)
			TH_LOG("number %d", i);
		EXPECT_TRUE(page_is(page_at(ex, 3), NEW(3)));
		EXPECT_TRUE(file_has(self->fd, 3, 3));
		ASSERT_EQ(0, fstat(self->fd, &stat));
		EXPECT_EQ((long)(FILE_PAGES * PG), (long)stat.st_size);
	}
}

TEST_HARNESS_MAIN
