// SPDX-License-Identifier: GPL-2.0
/*
 * Calls without memory: EXMAP_IOCTL_SETUP, ACTION and CLONE, interface pages, and read
 * and write calls on the exmap
 */
#include "nomem.h"
#include "paged.h"

/* Interface 1 */
static struct exmap_user_interface *interface;

static void map_interface(struct exmap *ex)
{
	interface = ex_map_iface(ex->fd, 1);
	if (interface == MAP_FAILED)
		abort();
}

static void unmap_interface(struct exmap *ex)
{
	munmap(interface, PG);
}

/* Let ACTION do what run_vecs() would do */
static void to_interface(struct exmap *ex)
{
	int i;

	map_interface(ex);
	for (i = 0; i < SLOTS; i++)
		interface->iov[i] = (struct exmap_iov){
			.page = vecs[i].page, .len = vecs[i].len,
		};
}

static int run_action(struct exmap *ex)
{
	int i, ret = ex_action(ex->fd, 1, vecs[0].opcode, SLOTS);

	for (i = 0; ret > 0 && i < SLOTS; i++)
		if (interface->iov[i].res)
			return interface->iov[i].res;
	return ret;
}

static void action_alloc(struct exmap *ex)
{
	prepare_alloc(ex);
	to_interface(ex);
}

static void action_alloc_one(struct exmap *ex)
{
	map_interface(ex);
	interface->iov[0] = (struct exmap_iov){ .page = 77, .len = 1 };
}

static int run_action_one(struct exmap *ex)
{
	int ret = ex_action(ex->fd, 1, EXMAP_OP_ALLOC, 1);

	return ret > 0 ? interface->iov[0].res : ret;
}

static void action_free(struct exmap *ex)
{
	prepare_free(ex);
	to_interface(ex);
}

static void action_free_many(struct exmap *ex)
{
	prepare_free_many(ex);
	to_interface(ex);
}

static void action_read(struct exmap *ex)
{
	prepare_read(ex);
	to_interface(ex);
}

static void action_write(struct exmap *ex)
{
	prepare_write(ex);
	to_interface(ex);
}

static int run_preadv(struct exmap *ex)
{
	struct iovec iov[SLOTS];
	int i;

	for (i = 0; i < SLOTS; i++)
		iov[i] = (struct iovec){ page_at(ex, i * 10), PG };
	return ex_preadv(ex->fd, 1, EXMAP_OP_READ, iov, SLOTS);
}

static int run_pread(struct exmap *ex)
{
	return ex_pread(ex->fd, 1, EXMAP_OP_READ, page_at(ex, 4), PG);
}

static int run_pwritev(struct exmap *ex)
{
	struct iovec iov[SLOTS];
	int i;

	for (i = 0; i < SLOTS; i++)
		iov[i] = (struct iovec){ page_at(ex, i * 10), 3 * PG };
	return ex_pwritev2(ex->fd, 1, EXMAP_OP_WRITE, iov, SLOTS, RWF_DSYNC);
}

static int run_clone(struct exmap *ex)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = ex_clone(fd, ex->fd);
	close(fd);
	return ret;
}

static int run_touch_interface(struct exmap *ex)
{
	return interface->iov[3].res;
}

/* The whole life of another exmap, from open() to close() */
static int run_life(struct exmap *unused)
{
	struct paged p = {};
	struct exmap *ex = &p.ex;
	int ret;

	(void)unused;
	ex->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (ex->fd < 0)
		return -errno;
	ret = ex_setup(ex->fd, -1, 3, 10);
	if (!ret) {
		ex->region = ex_map_region(ex->fd, 1000);
		ret = ex->region == MAP_FAILED ? -errno : 0;
	}
	if (!ret) {
		p.iface[0] = ex_map_iface(ex->fd, 0);
		ret = p.iface[0] == MAP_FAILED ? -errno : 0;
		if (!ret) {
			ret = paged_alloc(&p, 0, 5, 5);
			munmap(p.iface[0], PG);
		}
		munmap(ex->region, 1000 * PG);
	}
	close(ex->fd);
	return ret;
}

FIXTURE_VARIANT_ADD(nomem, alloc) {
	.prepare = action_alloc,
	.run = run_action,
	.finish = unmap_interface,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, alloc_one) {
	.prepare = action_alloc_one,
	.run = run_action_one,
	.finish = unmap_interface,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, alloc_deferred) {
	.prepare = action_alloc,
	.run = run_action,
	.finish = unmap_interface,
	.expected = nomem_or_ok,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(nomem, free) {
	.prepare = action_free,
	.run = run_action,
	.finish = unmap_interface,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, free_deferred) {
	.prepare = action_free,
	.run = run_action,
	.finish = unmap_interface,
	.expected = nomem_or_ok,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(nomem, free_many) {
	.prepare = action_free_many,
	.run = run_action,
	.finish = unmap_interface,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, free_many_deferred) {
	.prepare = action_free_many,
	.run = run_action,
	.finish = unmap_interface,
	.expected = nomem_or_ok,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(nomem, read) {
	.prepare = action_read,
	.run = run_action,
	.finish = unmap_interface,
	.expected = any_io_error,
};

FIXTURE_VARIANT_ADD(nomem, read_direct) {
	.prepare = action_read,
	.run = run_action,
	.finish = unmap_interface,
	.expected = any_io_error,
	.backing = FILE_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, read_block) {
	.prepare = action_read,
	.run = run_action,
	.finish = unmap_interface,
	.expected = any_io_error,
	.backing = BLOCK_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, write) {
	.prepare = action_write,
	.run = run_action,
	.finish = unmap_interface,
	.expected = any_io_error,
};

FIXTURE_VARIANT_ADD(nomem, write_block) {
	.prepare = action_write,
	.run = run_action,
	.finish = unmap_interface,
	.expected = any_io_error,
	.backing = BLOCK_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, preadv) {
	.prepare = nothing,
	.run = run_preadv,
	.expected = any_io_error,
};

FIXTURE_VARIANT_ADD(nomem, preadv_block) {
	.prepare = nothing,
	.run = run_preadv,
	.expected = any_io_error,
	.backing = BLOCK_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, pread_block) {
	.prepare = nothing,
	.run = run_pread,
	.expected = any_io_error,
	.backing = BLOCK_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, pwritev) {
	.prepare = prepare_write,
	.run = run_pwritev,
	.expected = any_io_error,
};

FIXTURE_VARIANT_ADD(nomem, pwritev_block) {
	.prepare = prepare_write,
	.run = run_pwritev,
	.expected = any_io_error,
	.backing = BLOCK_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, clone) {
	.prepare = nothing,
	.run = run_clone,
	.expected = fork_error,
};

FIXTURE_VARIANT_ADD(nomem, touch_interface) {
	.prepare = map_interface,
	.run = run_touch_interface,
	.finish = unmap_interface,
	.expected = only_ok,
	.touches = true,
};

FIXTURE_VARIANT_ADD(nomem, life) {
	.prepare = nothing,
	.run = run_life,
	.expected = fork_error,
	.touches = true,
};

TEST_HARNESS_MAIN
