// SPDX-License-Identifier: GPL-2.0
/* Calls without memory: EXMAP_IOCTL_VECTORS and the other calls of the same kind */
#include "nomem.h"
#include "query.h"

static int run_alloc_one(struct exmap *ex)
{
	return ex_alloc(ex, 1, 77, 1);
}

/* Free the slots of prepare_free_many(), and fill others with some of the pages */
static int run_free_many(struct exmap *ex)
{
	struct exmap_result r[SLOTS + 2];
	struct exmap_vec v[SLOTS + 2];
	int i, ret;

	for (i = 0; i < SLOTS - 1; i++)
		v[i] = ex_vec(EXMAP_OP_FREE, i * MANY, MANY, 0);
	v[i++] = ex_vec(EXMAP_OP_FREE, (SLOTS - 1) * MANY, 1, 0);
	v[i++] = ex_vec(EXMAP_OP_ALLOC, 5000, MANY, 0);
	v[i++] = ex_vec(EXMAP_OP_FREE, (SLOTS - 1) * MANY, MANY, 0);
	ret = ex_vectors(ex, 1, v, r, i);
	for (i = 0; ret > 0 && i < SLOTS + 2; i++)
		if (r[i].res)
			return r[i].res;
	return ret;
}

/*
 * Mix FREE, ALLOC and READ, with more vectors than fit on the kernel's stack. FREE
 * needs no memory and must always succeed.
 */
static int run_vectors(struct exmap *ex)
{
	struct exmap_result r[2 * SLOTS];
	struct exmap_vec v[2 * SLOTS];
	int i, ret, err = 0;

	for (i = 0; i < 2 * SLOTS; i += 5) {
		v[i] = ex_vec(EXMAP_OP_FREE, SPREAD(i / 2), 1 + i / 2 % 3, 0);
		v[i + 1] = ex_vec(EXMAP_OP_ALLOC, SPREAD(i) + 2000, 5, EXMAP_VEC_ZERO);
		v[i + 2] = ex_vec(EXMAP_OP_ALLOC, SPREAD(i) + 3000, 5,
				  EXMAP_VEC_ALL_OR_NOTHING);
		v[i + 3] = ex_vec(EXMAP_OP_READ, i * 5 + 5, 3, EXMAP_VEC_REPLACE);
		v[i + 4] = ex_vec(EXMAP_OP_READ, i * 5 + 2, 1, 0);
	}
	ret = ex_vectors(ex, 1, v, r, i);
	if (ret < 0)
		return ret;
	for (i = 0; i < 2 * SLOTS; i++) {
		if (v[i].opcode == EXMAP_OP_FREE &&
		    (r[i].res || r[i].pages != v[i].len))
			return -EPROTO;
		err = err ?: r[i].res;
	}
	return err;
}

static int run_resize(struct exmap *ex)
{
	return ex_resize(ex->fd, BUFFER + 10) ?: ex_resize(ex->fd, BUFFER);
}

static int run_query(struct exmap *ex)
{
	const struct exmap_vec v[2] = { { .page = 0, .len = 5000 }, { .page = 77, .len = 1 } };
	static __u8 slots[5001];

	return ex_query(ex->fd, v, 2, slots, 0);
}

static int run_flush(struct exmap *ex)
{
	return ex_flush(ex->fd);
}

/* A page fault that finds no memory is either retried or raises SIGSEGV */
static int run_touch(struct exmap *ex)
{
	__u64 value;

	return try_read(page_at(ex, SPREAD(9)), &value) ? -ENOMEM : 0;
}

/* The whole life of another exmap, from open() to close() */
static int run_life(struct exmap *unused)
{
	struct exmap ex = {};
	int ret;

	(void)unused;
	ex.fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (ex.fd < 0)
		return -errno;
	ret = ex_setup2(ex.fd, -1, 3, 10);
	if (!ret) {
		ex.region = ex_map_region(ex.fd, 1000);
		ret = ex.region == MAP_FAILED ? -errno : 0;
	}
	if (!ret) {
		ret = ex_alloc(&ex, 0, 5, 5);
		munmap(ex.region, 1000 * PG);
	}
	close(ex.fd);
	return ret;
}

static int run_fork(struct exmap *ex)
{
	pid_t pid;

	(void)ex;
	pid = fork();
	if (!pid)
		_exit(0);
	return pid < 0 ? -errno : wait_child(pid);
}

FIXTURE_VARIANT_ADD(nomem, alloc) {
	.prepare = prepare_alloc,
	.run = run_vecs,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, alloc_one) {
	.prepare = nothing,
	.run = run_alloc_one,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, alloc_deferred) {
	.prepare = prepare_alloc,
	.run = run_vecs,
	.expected = nomem_or_ok,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(nomem, free) {
	.prepare = prepare_free,
	.run = run_vecs,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, free_deferred) {
	.prepare = prepare_free,
	.run = run_vecs,
	.expected = nomem_or_ok,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(nomem, free_many) {
	.prepare = prepare_free_many,
	.run = run_vecs,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, free_many_and_alloc) {
	.prepare = prepare_free_many,
	.run = run_free_many,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, free_many_deferred) {
	.prepare = prepare_free_many,
	.run = run_vecs,
	.expected = nomem_or_ok,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(nomem, read) {
	.prepare = prepare_read,
	.run = run_vecs,
	.expected = any_io_error,
};

FIXTURE_VARIANT_ADD(nomem, read_direct) {
	.prepare = prepare_read,
	.run = run_vecs,
	.expected = any_io_error,
	.backing = FILE_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, read_block) {
	.prepare = prepare_read,
	.run = run_vecs,
	.expected = any_io_error,
	.backing = BLOCK_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, write) {
	.prepare = prepare_write,
	.run = run_vecs,
	.expected = any_io_error,
};

FIXTURE_VARIANT_ADD(nomem, write_block) {
	.prepare = prepare_write,
	.run = run_vecs,
	.expected = any_io_error,
	.backing = BLOCK_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, vectors) {
	.prepare = alloc_spread,
	.run = run_vectors,
	.expected = any_io_error,
	.backing = BLOCK_DIRECT,
};

FIXTURE_VARIANT_ADD(nomem, vectors_deferred) {
	.prepare = alloc_spread,
	.run = run_vectors,
	.expected = any_io_error,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(nomem, resize) {
	.prepare = alloc_spread,
	.run = run_resize,
	.expected = only_ok,
};

FIXTURE_VARIANT_ADD(nomem, query) {
	.prepare = alloc_spread,
	.run = run_query,
	.expected = nomem_or_ok,
};

FIXTURE_VARIANT_ADD(nomem, flush) {
	.prepare = prepare_free,
	.run = run_flush,
	.expected = only_ok,
	.flags = EXMAP_SETUP_DEFERRED,
};

FIXTURE_VARIANT_ADD(nomem, touch) {
	.prepare = nothing,
	.run = run_touch,
	.expected = nomem_or_ok,
	.flags = EXMAP_SETUP_PAGEFAULT_ALLOC,
	.touches = true,
};

FIXTURE_VARIANT_ADD(nomem, life) {
	.prepare = nothing,
	.run = run_life,
	.expected = fork_error,
	.touches = true,
};

FIXTURE_VARIANT_ADD(nomem, fork) {
	.prepare = alloc_spread,
	.run = run_fork,
	.expected = fork_error,
	.touches = true,
};

TEST_HARNESS_MAIN
