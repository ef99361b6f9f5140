/* SPDX-License-Identifier: GPL-2.0 */
/* An exmap on a backing file, for tests that are made with every kind of file */
#ifndef EXMAP_TEST_IO_H
#define EXMAP_TEST_IO_H

#include "common.h"
#include "backing.h"

#define FILE_PAGES	1024
#define BUFFER		600

FIXTURE(io) {
	struct exmap ex;
	int fd;			/* of the file, to prepare and check it */
	int backing;
	long end;		/* first page that is not in the file */
};

FIXTURE_VARIANT(io) {
	enum backing backing;
	__u64 flags;		/* of struct exmap_setup2 */
};

FIXTURE_VARIANT_ADD(io, memfd) { .backing = MEMFD };
FIXTURE_VARIANT_ADD(io, buffered) { .backing = FILE_BUFFERED };
FIXTURE_VARIANT_ADD(io, direct) { .backing = FILE_DIRECT };
FIXTURE_VARIANT_ADD(io, xfs_buffered) { .backing = XFS_BUFFERED };
FIXTURE_VARIANT_ADD(io, xfs_direct) { .backing = XFS_DIRECT };
FIXTURE_VARIANT_ADD(io, block_buffered) { .backing = BLOCK_BUFFERED };
FIXTURE_VARIANT_ADD(io, block_direct) { .backing = BLOCK_DIRECT };
FIXTURE_VARIANT_ADD(io, loop_direct) { .backing = LOOP_DIRECT };

FIXTURE_VARIANT_ADD(io, deferred_memfd) {
	.backing = MEMFD,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(io, deferred_direct) {
	.backing = FILE_DIRECT,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_SETUP(io)
{
	struct exmap_setup2 setup = { .flags = variant->flags };

	catch_faults();
	self->backing = make_backing(_metadata, variant->backing, FILE_PAGES, &self->fd,
				     &self->end);
	if (self->backing < 0)
		SKIP(return, "no backing file of this kind");
	setup.fd = self->backing;
	exmap_create2(_metadata, &self->ex, setup, 4, BUFFER, self->end + 64);
}

FIXTURE_TEARDOWN(io)
{
	struct exmap *ex = &self->ex;

	/* No test may lose a page: the whole pool must be available again */
	EXPECT_LE(0, ex_drain(ex, 0, 0, FILE_PAGES));
	EXPECT_LE(0, ex_drain(ex, 0, self->end - 64, 128));
	EXPECT_EQ(BUFFER, ex_fill(ex, 1, 0));
	exmap_destroy(ex);
	close(self->fd);
	close(self->backing);
}

/* Leave stale content in every page of the pool */
static inline void soil(struct __test_metadata *_metadata, struct exmap *ex)
{
	ASSERT_EQ(BUFFER, ex_fill(ex, 0, 0));
	memset(ex->region, 0xee, BUFFER * PG);
	ASSERT_EQ(BUFFER, ex_drain(ex, 0, 0, BUFFER));
}

#endif
