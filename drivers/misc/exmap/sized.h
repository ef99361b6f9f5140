/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _EXMAP_SIZED_H
#define _EXMAP_SIZED_H

#include <linux/mm.h>
#include <linux/uaccess.h>
#include <linux/unroll.h>

/* Size of an array element that no version of the ABI exceeds, in bytes */
#define EXMAP_SIZED_ELEMENT_MAX	256

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

/**
 * exmap_copy_sized_array() - Copy an array of structs that the program may know otherwise.
 * @to: where it goes; what the program does not know of each element is zero
 * @size: size of an element as the kernel knows it
 * @from: the array of the program
 * @user_size: size of an element as the program knows it, as exmap_sized_ok() accepts it
 * @nr: number of elements
 *
 * Context: Process context, may sleep.
 * Return: 0; -EFAULT if it cannot be read; -E2BIG if the program uses a part of an element
 * that the kernel does not know.
 */
static inline int exmap_copy_sized_array(void *to, size_t size, const void __user *from,
					 size_t user_size, size_t nr)
{
	int err = 0;

	if (likely(user_size == size))
		return copy_from_user(to, from, nr * size) ? -EFAULT : 0;
	for (size_t i = 0; i < nr && !err; i++)
		err = copy_struct_from_user(to + i * size, size, from + i * user_size,
					    user_size);
	return err;
}

/**
 * exmap_answer_sized_array() - Copy an array of structs to a program that may know them
 *	otherwise.
 * @to: the array of the program; what the kernel does not know of an element is set to 0
 * @user_size: size of an element as the program knows it, as exmap_sized_ok() accepts it
 * @from: the array
 * @size: size of an element as the kernel knows it
 * @nr: number of elements
 *
 * Context: Process context, may sleep.
 * Return: 0, or -EFAULT.
 */
static inline int exmap_answer_sized_array(void __user *to, size_t user_size,
					   const void *from, size_t size, size_t nr)
{
	int err = 0;

	if (likely(user_size == size))
		return copy_to_user(to, from, nr * size) ? -EFAULT : 0;
	for (size_t i = 0; i < nr && !err; i++)
		err = copy_struct_to_user(to + i * user_size, user_size, from + i * size,
					  size, NULL);
	return err;
}

/**
 * exmap_sized_ok() - Test the size of an array element.
 * @user_size: what the program says
 * @min: size of the first version of the element
 *
 * Return: 0; -EINVAL if it is less than @min or not a multiple of 8; -E2BIG if it is more
 * than any kernel is going to have.
 */
static inline int exmap_sized_ok(u32 user_size, u32 min)
{
	if (user_size < min || !IS_ALIGNED(user_size, 8))
		return -EINVAL;
	return user_size > EXMAP_SIZED_ELEMENT_MAX ? -E2BIG : 0;
}

#endif /* _EXMAP_SIZED_H */
