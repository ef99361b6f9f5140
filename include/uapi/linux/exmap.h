/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * exmap: a virtual range whose pages a database buffer manager places itself
 *
 * See Documentation/userspace-api/exmap.rst. The layout is the same for every
 * 64-bit program; 32-bit programs are refused with ENOTTY.
 */
#ifndef _UAPI_LINUX_EXMAP_H
#define _UAPI_LINUX_EXMAP_H

#include <linux/ioctl.h>
#include <linux/types.h>
#ifdef __KERNEL__
#include <linux/uio.h>
#else
#include <sys/uio.h>
#endif

/* mmap() offsets: the region, and the vector page of interface n */
#define EXMAP_OFF_EXMAP			0x0000
#define EXMAP_OFF_INTERFACE_BASE	0xe000000000000000UL
#define EXMAP_OFF_INTERFACE_MAX		0xf000000000000000UL
#define EXMAP_OFF_INTERFACE(n)	\
	(EXMAP_OFF_INTERFACE_BASE | ((unsigned long)(n) << 12))

/* Vectors in an interface page, and pages in one vector at most (plus one) */
#define EXMAP_USER_INTERFACE_PAGES	512
#define EXMAP_PAGE_LEN_BITS		12
#define EXMAP_PAGE_MAX_PAGES		(1 << EXMAP_PAGE_LEN_BITS)

enum exmap_opcode {
	EXMAP_OP_READ	= 0,
	EXMAP_OP_ALLOC	= 1,
	EXMAP_OP_FREE	= 2,
	EXMAP_OP_WRITE	= 3,
	EXMAP_OP_MOVE	= 4,	/* VECTORS only */
};

/* Known names of flags; a call that does not take one answers EINVAL */
enum exmap_flags {
	EXMAP_ALLOC_PROBE	= 1,
	EXMAP_PAGEFAULT_ALLOC	= 2,
};

/* A vector: what is asked (page, len), then what came of it (res, pages) */
struct exmap_iov {
	union {
		__u64 value;
		struct {
			__u64 page : 64 - EXMAP_PAGE_LEN_BITS;
			__u64 len  : EXMAP_PAGE_LEN_BITS;
		};
		struct {
			__s32 res;
			__s16 pages;
		};
	};
};

struct exmap_user_interface {
	union {
		struct exmap_iov iov[EXMAP_USER_INTERFACE_PAGES];
	};
};

/* In an io_uring_sqe's cmd: where the struct exmap_vectors is, and its size */
struct exmap_uring_cmd {
	struct iovec iov;
};

struct exmap_ioctl_setup {
	__s32 fd;
	__s32 max_interfaces;
	__u64 buffer_size;	/* pages */
	__u64 flags;		/* ignored */
};

struct exmap_action_params {
	__u16 interface;
	__u16 iov_len;
	__u16 opcode;
	__u16:16;		/* ignored */
	__u64 flags;
};

struct exmap_ioctl_stats {
	__u64 flags;
	__u64 buffer_size;	/* pages */
	__u64 alloc_count;	/* pages */
	__u32 max_interfaces;
	__u32:32;
};

enum exmap_setup_flags {
	EXMAP_SETUP_DEFERRED		= 1,	/* one TLB shootdown serves many FREEs */
	EXMAP_SETUP_PAGEFAULT_ALLOC	= EXMAP_PAGEFAULT_ALLOC,	/* as ALLOC */
	EXMAP_SETUP_ATTACH		= 4,	/* to the pool of another file */
};

struct exmap_setup2 {
	__u32 size;		/* of this struct, as the program knows it */
	__u32 max_interfaces;
	__u64 flags;		/* enum exmap_setup_flags */
	__u64 buffer_size;	/* pages of 4 KiB */
	__u64 quarantine;	/* pages that may wait for it, 0: a default */
	__s32 fd;		/* the backing file, or -1 */
	__s32 pool;		/* ATTACH: a file with the pool, else 0 */
	__u64 offset;		/* bytes: where in fd the region begins */
	__u64 slot_size;	/* bytes: a power of two up to 2 MiB, 0: a page */
};

#define EXMAP_SETUP2_SIZE_VER0		56

enum exmap_vec_flags {
	EXMAP_VEC_ZERO		 = 1,	/* ALLOC: pages of zeroes; READ: past the end */
	EXMAP_VEC_ALL_OR_NOTHING = 2,	/* ALLOC: on failure as it was */
	EXMAP_VEC_REPLACE	 = 4,	/* READ: pages that are there as well */
	EXMAP_VEC_DIRTY		 = 8,	/* WRITE: what has changed; it is clean then */
	EXMAP_VEC_DSYNC		 = 16,	/* WRITE: on stable storage when it is over */
};

/* A vector with an opcode of its own, and what came of it */
struct exmap_vec {
	__u64 page;		/* number of the slot */
	__u16 region;		/* as returned by SETUP2 */
	__u16 len;		/* slots */
	__u16 node;		/* MOVE: where to, else 0 */
	__u8 flags;		/* enum exmap_vec_flags */
	__u8 opcode;		/* enum exmap_opcode */
};

struct exmap_result {
	__s32 res;
	__u32 pages;
};

struct exmap_vectors {
	__u32 size;		/* of this struct, as the program knows it */
	__u32 flags;		/* 0 */
	__u32 interface;
	__u32 nr;		/* length of both arrays */
	__u64 vecs;		/* pointer to struct exmap_vec */
	__u64 results;		/* pointer to struct exmap_result */
	__u32 vec_size;		/* of struct exmap_vec, as the program knows it */
	__u32 result_size;	/* of struct exmap_result, the same */
};

enum exmap_query_flags {
	EXMAP_QUERY_AGE		= 1,	/* from now on, pages count as not used */
};

enum exmap_slot {
	EXMAP_SLOT_RESIDENT	= 1,
	EXMAP_SLOT_DIRTY	= 2,	/* EXMAP_VEC_DIRTY would write it */
	EXMAP_SLOT_USED		= 4,	/* since it was filled, or aged */
	EXMAP_SLOT_BUSY		= 8,	/* a READ or WRITE is in flight */
};

struct exmap_query {
	__u32 size;		/* of this struct, as the program knows it */
	__u32 flags;		/* enum exmap_query_flags */
	__u32 nr;		/* length of vecs */
	__u32 vec_size;		/* of struct exmap_vec, as the program knows it */
	__u64 vecs;		/* pointer to struct exmap_vec: page, region, len, zeroes */
	__u64 slots;		/* pointer to a byte, enum exmap_slot, for each slot */
	__u64 nodes;		/* pointer to a __u16, the node of each slot's page, or 0 */
};

#define EXMAP_QUERY_SIZE_VER0		40
#define EXMAP_NO_NODE			0xffff	/* QUERY: no page */

#define EXMAP_VECTORS_SIZE_VER0		40
#define EXMAP_VEC_SIZE_VER0		16
#define EXMAP_RESULT_SIZE_VER0		8
#define EXMAP_VECTORS_MAX		4096	/* vectors in a call */
#define EXMAP_VEC_ALL_OR_NOTHING_MAX	512	/* slots in such a vector */

#define EXMAP_IOCTL_SETUP	_IOC(_IOC_WRITE, 'k', 1, sizeof(struct exmap_ioctl_setup))
#define EXMAP_IOCTL_ACTION	_IOC(_IOC_WRITE, 'k', 2, sizeof(struct exmap_action_params))
#define EXMAP_IOCTL_CLONE	_IOC(_IOC_WRITE, 'k', 3, sizeof(int))
#define EXMAP_IOCTL_STATS	_IOC(_IOC_WRITE, 'k', 4, sizeof(struct exmap_ioctl_stats))
#define EXMAP_IOCTL_SETUP2	_IO('k', 5)
#define EXMAP_IOCTL_FLUSH	_IO('k', 6)
#define EXMAP_IOCTL_VECTORS	_IO('k', 7)
#define EXMAP_IOCTL_RESIZE	_IO('k', 8)	/* argument: the new buffer_size */
#define EXMAP_IOCTL_QUERY	_IO('k', 9)

#endif
