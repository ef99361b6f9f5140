// SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause)
/*
 * Readers without locks, for languages that cannot call sigsetjmp(): a copy that ends where a
 * slot is empty
 */
#include <errno.h>
#include <string.h>

#include "libexmap.h"

int exm_sys_copy(void *to, const void *from, size_t size);

/* Returns 0, or -EFAULT if a slot is empty. Then, a part may have been copied. */
int exm_sys_copy(void *to, const void *from, size_t size)
{
	struct exm_reader reader;

	if (exm_reader_begin(&reader)) {
		exm_reader_end(&reader);
		return -EFAULT;
	}
	memcpy(to, from, size);
	exm_reader_end(&reader);
	return 0;
}
