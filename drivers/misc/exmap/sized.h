/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _EXMAP_SIZED_H
#define _EXMAP_SIZED_H

#include <linux/mm.h>
#include <linux/uaccess.h>
#include <linux/unroll.h>

/**
 * exmap_copy_sized() - Copy a struct that begins with its size, a __u32.
 * @to: where it goes; what the program does not know of it is zero
 * @size: size of the struct as the kernel knows it
 * @min: size of its first version
 * @from: the struct of the program
 *
 * Context: Process context, may sleep.
 * Return: 0; -EFAULT if it cannot be read; -EINVAL if its size is less than @min;
 * -E2BIG if the program uses a part of it that the kernel does not know, or if its
 * size is more than a page.
 */
static __always_inline int exmap_copy_sized(void *to, size_t size, size_t min,
					    const void __user *from)
{
	u32 user_size;
	size_t i = 0;

	if (get_user(user_size, (const u32 __user *)from))
		return -EFAULT;
	/* For a call of one page, copy_from_user() would be a large part of the work */
	if (likely(user_size == size)) {
		BUILD_BUG_ON(size % sizeof(u64));
		scoped_user_read_access_size(from, size, fault) {
			unrolled_full
			do {
				unsafe_get_user(*(u64 *)(to + i),
						(const u64 __user *)(from + i), fault);
				i += sizeof(u64);
			} while (i < size);
		}
		return 0;
	}
	if (user_size < min)
		return -EINVAL;
	if (user_size > PAGE_SIZE)
		return -E2BIG;
	return copy_struct_from_user(to, size, from, user_size);
fault:
	return -EFAULT;
}

#endif /* _EXMAP_SIZED_H */
