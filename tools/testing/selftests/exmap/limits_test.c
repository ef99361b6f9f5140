// SPDX-License-Identifier: GPL-2.0
/*
 * A transfer is made on behalf of the caller, however it is requested: the limits, the
 * credentials and the signals of the calling process apply. Submissions do not block,
 * and accesses to the backing file raise the usual events.
 */
#include "limits.h"

FIXTURE_VARIANT_ADD(file, vectors_buffered) { .by.way = &by_vectors };
FIXTURE_VARIANT_ADD(file, vectors_direct) { .by.way = &by_vectors, .direct = true };
FIXTURE_VARIANT_ADD(file, command_buffered) { .by.way = &by_command };
FIXTURE_VARIANT_ADD(file, command_direct) { .by.way = &by_command, .direct = true };
FIXTURE_VARIANT_ADD(file, command_async_direct) {
	.by = { .way = &by_command, .sqe_flags = IOSQE_ASYNC },
	.direct = true,
};

FIXTURE_VARIANT_ADD(frozen, command_buffered) { .way = &by_command };
FIXTURE_VARIANT_ADD(frozen, command_direct) { .way = &by_command, .direct = true };

FIXTURE_VARIANT_ADD(caller, vectors) { .by.way = &by_vectors };
FIXTURE_VARIANT_ADD(caller, command) { .by.way = &by_command };
FIXTURE_VARIANT_ADD(caller, command_async) {
	.by = { .way = &by_command, .sqe_flags = IOSQE_ASYNC },
};

FIXTURE_VARIANT_ADD(killed, read) { .way = &by_vectors };
FIXTURE_VARIANT_ADD(killed, read_in_place) { .way = &by_vectors, .resident = true };

TEST_HARNESS_MAIN
