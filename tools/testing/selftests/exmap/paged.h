/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The calls of existing programs: EXMAP_IOCTL_SETUP, _ACTION with vectors in a page that
 * is shared with the kernel, _CLONE and _STATS, and read and write calls on the exmap
 */
#ifndef EXMAP_TEST_PAGED_H
#define EXMAP_TEST_PAGED_H

#include "common.h"

#define MAX_IFACES	128

/* Slots that a vector in an interface page can have at most */
#define PAGED_LEN	(EXMAP_PAGE_MAX_PAGES - 1)

static inline int ex_setup(int fd, int backing, int ifaces, __u64 buffer_size)
{
	struct exmap_ioctl_setup setup = {
		.fd = backing,
		.max_interfaces = ifaces,
		.buffer_size = buffer_size,
		.flags = 0x5aa5f00f12345678,	/* must be ignored */
	};

	return ex_ioctl(fd, EXMAP_IOCTL_SETUP, &setup);
}

static inline int ex_action(int fd, int iface, int opcode, int iov_len)
{
	struct exmap_action_params params = {
		.interface = iface,
		.iov_len = iov_len,
		.opcode = opcode,
	};

	return ex_ioctl(fd, EXMAP_IOCTL_ACTION, &params);
}

static inline int ex_clone(int fd, int source)
{
	/* The descriptor itself is the argument */
	return ex_ioctl(fd, EXMAP_IOCTL_CLONE, (void *)(long)source);
}

static inline int ex_stats(int fd, struct exmap_ioctl_stats *stats)
{
	memset(stats, 0xff, sizeof(*stats));
	return ex_ioctl(fd, EXMAP_IOCTL_STATS, stats);
}

static inline void *ex_map_iface(int fd, unsigned long n)
{
	return mmap(NULL, PG, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    EXMAP_OFF_INTERFACE(n));
}

/* The file position that tells a read or write call what to do */
static inline off_t ex_pos(unsigned int iface, unsigned int opcode)
{
	return (iface & 0xff) | opcode << 8 | (off_t)(iface >> 8) << 16;
}

static inline ssize_t ex_pread(int fd, int iface, int opcode, void *buf, size_t len)
{
	ssize_t ret = pread(fd, buf, len, ex_pos(iface, opcode));

	return ret < 0 ? -errno : ret;
}

static inline ssize_t ex_preadv(int fd, int iface, int opcode,
				const struct iovec *iov, int count)
{
	ssize_t ret = preadv(fd, iov, count, ex_pos(iface, opcode));

	return ret < 0 ? -errno : ret;
}

static inline ssize_t ex_preadv2(int fd, int iface, int opcode, const struct iovec *iov,
				 int count, int flags)
{
	ssize_t ret = preadv2(fd, iov, count, ex_pos(iface, opcode), flags);

	return ret < 0 ? -errno : ret;
}

static inline ssize_t ex_pwrite(int fd, int iface, int opcode, const void *buf, size_t len)
{
	ssize_t ret = pwrite(fd, buf, len, ex_pos(iface, opcode));

	return ret < 0 ? -errno : ret;
}

static inline ssize_t ex_pwritev2(int fd, int iface, int opcode, const struct iovec *iov,
				  int count, int flags)
{
	ssize_t ret = pwritev2(fd, iov, count, ex_pos(iface, opcode), flags);

	return ret < 0 ? -errno : ret;
}

/* An exmap with its interfaces mapped */
struct paged {
	struct exmap ex;
	struct exmap_user_interface *iface[MAX_IFACES];
};

static inline void paged_map_ifaces(struct __test_metadata *_metadata, struct paged *p)
{
	int i;

	ASSERT_GE(MAX_IFACES, p->ex.ifaces);
	for (i = 0; i < p->ex.ifaces; i++) {
		p->iface[i] = ex_map_iface(p->ex.fd, i);
		ASSERT_NE(MAP_FAILED, p->iface[i]);
	}
}

static inline void paged_create(struct __test_metadata *_metadata, struct paged *p,
				int backing, int ifaces, int buffer, int pages)
{
	struct exmap *ex = &p->ex;

	*ex = (struct exmap){
		.fd = exmap_open(_metadata), .ifaces = ifaces, .buffer = buffer, .pages = pages,
	};
	ASSERT_EQ(0, ex_setup(ex->fd, backing, ifaces, buffer));
	ex->region = ex_map_region(ex->fd, pages);
	ASSERT_NE(MAP_FAILED, ex->region);
	paged_map_ifaces(_metadata, p);
}

/* As paged_create(), with options that only SETUP2 has */
static inline void paged_create2(struct __test_metadata *_metadata, struct paged *p,
				 struct exmap_setup2 setup, int ifaces, int buffer, int pages)
{
	exmap_create2(_metadata, &p->ex, setup, ifaces, buffer, pages);
	paged_map_ifaces(_metadata, p);
}

static inline void paged_unmap_ifaces(struct paged *p)
{
	int i;

	for (i = 0; i < p->ex.ifaces; i++)
		munmap(p->iface[i], PG);
}

static inline void paged_destroy(struct paged *p)
{
	paged_unmap_ifaces(p);
	exmap_destroy(&p->ex);
}

static inline void set_vec(struct paged *p, int iface, int slot, __u64 page, int len)
{
	struct exmap_iov iov = { .page = page, .len = len };

	p->iface[iface]->iov[slot].value = iov.value;
}

/*
 * Carry out one vector with ACTION. Returns the number of pages that changed, or the
 * -errno of the call or the vector.
 */
static inline int paged_one(struct paged *p, int iface, int opcode, __u64 page, int len)
{
	int ret;

	set_vec(p, iface, 0, page, len);
	ret = ex_action(p->ex.fd, iface, opcode, 1);
	if (ret < 0)
		return ret;
	return ret ? p->iface[iface]->iov[0].res : p->iface[iface]->iov[0].pages;
}

static inline int paged_alloc(struct paged *p, int iface, __u64 page, int len)
{
	return paged_one(p, iface, EXMAP_OP_ALLOC, page, len);
}

static inline int paged_free(struct paged *p, int iface, __u64 page, int len)
{
	return paged_one(p, iface, EXMAP_OP_FREE, page, len);
}

/* FREE a range of any length with ACTION. Returns the number of unmapped pages, or -errno. */
static inline int paged_drain(struct paged *p, int iface, int first, int pages)
{
	int total = 0, len, ret;

	for (; pages > 0; first += len, pages -= len) {
		len = pages < PAGED_LEN ? pages : PAGED_LEN;
		ret = paged_free(p, iface, first, len);
		if (ret < 0)
			return ret;
		total += ret;
	}
	return total;
}

#endif
