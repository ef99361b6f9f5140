/* SPDX-License-Identifier: GPL-2.0 */
/* EXMAP_IOCTL_QUERY */
#ifndef EXMAP_TEST_QUERY_H
#define EXMAP_TEST_QUERY_H

#include "common.h"

static inline int ex_query(int fd, const struct exmap_vec *vecs, unsigned int nr,
			   __u8 *slots, unsigned int flags)
{
	struct exmap_query query = {
		.size = sizeof(query),
		.vec_size = sizeof(struct exmap_vec),
		.flags = flags,
		.nr = nr,
		.vecs = (unsigned long)vecs,
		.slots = (unsigned long)slots,
	};

	return ex_ioctl(fd, EXMAP_IOCTL_QUERY, &query);
}

/* Query a slot of a region of the pool. Returns its EXMAP_SLOT_* bits, or -errno. */
static inline int ex_query_slot(int fd, unsigned int region, __u64 page, unsigned int flags)
{
	struct exmap_vec vec = { .page = page, .len = 1, .region = region };
	__u8 slot = 0xff;
	int ret = ex_query(fd, &vec, 1, &slot, flags);

	return ret ?: slot;
}

#endif
