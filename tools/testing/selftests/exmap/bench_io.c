// SPDX-License-Identifier: GPL-2.0-only
/*
 * Benchmark: the cost of reading and writing pages of a file, with exmap and with the
 * alternatives that Linux offers. This is not a test; it is run by "make bench".
 *
 * Two methods run by turns in the same process, so that other load on the machine
 * slows down both of them. The ratio of their times is computed for each pair of
 * turns, and the median of these ratios is reported. The order within a pair
 * alternates.
 *
 * Pages are accessed in the order of a random permutation of all pages of the file, so
 * that no page is repeated before all others were accessed. The timed part is the work
 * that a program cannot avoid: fill in the request, submit it, check the result.
 *
 * In a virtual machine whose clock counts instructions (QEMU with -icount shift=0 and
 * one CPU), and with a file whose I/O completes at once, a nanosecond is one
 * instruction.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifdef HAVE_LIBURING
#include <liburing.h>
#endif
#include <linux/aio_abi.h>
#include <linux/exmap.h>
#include <linux/fs.h>

#include "bench.h"

#define MAX_BATCH	512
#define MAX_PAIRS	1001

/* Maximum number of pages in one vector of an interface */
#define LONGEST		(EXMAP_PAGE_MAX_PAGES - 1)

struct side;

/**
 * struct method - a way to read or write pages
 * @name: argument of --what and --peer
 * @flags: properties and requirements, see below
 * @begin: set up, called after the setup that @flags asks for; may be NULL
 * @round: the timed part: process one batch, or many with STREAM
 * @finish: called after each round, not timed; may be NULL
 */
struct method {
	const char *name;
	unsigned int flags;
	void (*begin)(struct side *s);
	void (*round)(struct side *s);
	void (*finish)(struct side *s);
};

#define DEV		1	/* needs an exmap */
#define BUFFERS	2	/* needs plain memory for a batch */
#define STREAM		4	/* a round is many batches, with --depth pages in flight */
#define WRITES		8	/* writes to the file */
#define FILLED		16	/* needs resident pages, the first of the permutation */

/* A batch of vectors and its results */
struct request {
	struct exmap_vectors call;
	struct exmap_vec vecs[2 * MAX_BATCH];
	struct exmap_result results[2 * MAX_BATCH];
};

/* A method and its state: one of the two sides of the comparison */
struct side {
	const struct method *method;
	unsigned int nr;		/* pages per batch */
	unsigned long next;		/* position in the permutation */
	int fd;				/* file descriptor of the exmap */
	int pidfd;
	char *memory;			/* the region, or the buffers */
	struct exmap_iov *iov;
	struct iovec range[MAX_BATCH];
	struct request *requests;
	aio_context_t aio;
	struct iocb iocbs[MAX_BATCH];
	struct iocb *iocb_list[MAX_BATCH];
	struct io_event events[MAX_BATCH];
#ifdef HAVE_LIBURING
	struct io_uring ring;
#endif
	unsigned int idle[MAX_BATCH];	/* indices of requests that are not in flight */
	unsigned int nr_idle;
	double ns_page[MAX_PAIRS];
};

static struct {
	const struct method *what;
	const struct method *peer;
	const char *file;
	const char *label;
	unsigned int batch;
	unsigned int depth;
	unsigned int chunk;
	unsigned int pairs;
	unsigned long slot;		/* bytes; what is called a page here is of this size */
	unsigned long pages;
	unsigned long pool;
	bool buffered, deferred;
	bool csv;
	bool header;
} opt = {
	.label = "-",
	.batch = 512,
	.depth = 128,
	.chunk = 32,
	.pairs = 21,
	.slot = PG,
	.pages = 8192,
	.pool = 8192,
	.header = true,
};

static int file = -1;
static unsigned long file_pages;
static __u32 *order;		/* the permutation */
static unsigned long resident;	/* pages kept in memory, with FILLED and uring-anon */

/* Return the page that is @ahead entries after the current position of @s */
static __always_inline __u64 page_of(const struct side *s, unsigned long ahead)
{
	unsigned long i = s->next + ahead;

	return order[i < file_pages ? i : i - file_pages];
}

static __always_inline void advance(struct side *s, unsigned long pages)
{
	s->next += pages;
	if (s->next >= file_pages)
		s->next -= file_pages;
}

/* Exit unless @ret, which counts bytes, pages or requests, is @expected */
static __always_inline void expect(const struct side *s, long ret, long expected)
{
	if (ret == expected)
		return;
	if (ret < 0)
		die("%s: %s", s->method->name, strerror(errno));
	die("%s: %ld, not %ld", s->method->name, ret, expected);
}

/* ------------------------------------------------------------ exmap: calls */

static __always_inline void ranges(struct side *s)
{
	unsigned int i;

	for (i = 0; i < s->nr; i++)
		s->range[i] = (struct iovec) {
			.iov_base = s->memory + page_of(s, i) * opt.slot, .iov_len = opt.slot,
		};
}

static void exmap_read(struct side *s)
{
	if (s->nr == 1) {
		expect(s, pread(s->fd, s->memory + page_of(s, 0) * opt.slot, opt.slot, 0),
		       opt.slot);
		return;
	}
	ranges(s);
	expect(s, preadv(s->fd, s->range, s->nr, 0), s->nr * opt.slot);
}

static void exmap_write(struct side *s)
{
	if (s->nr == 1) {
		expect(s, pwrite(s->fd, s->memory + page_of(s, 0) * opt.slot, opt.slot, 0),
		       opt.slot);
		return;
	}
	ranges(s);
	expect(s, pwritev(s->fd, s->range, s->nr, 0), s->nr * opt.slot);
}

static __always_inline void action(struct side *s, __u16 opcode)
{
	const struct exmap_iov one = { .len = 1 };
	struct exmap_action_params params = { .iov_len = s->nr, .opcode = opcode };
	unsigned long changed = 0;
	unsigned int i;

	for (i = 0; i < s->nr; i++)
		s->iov[i].value = one.value | page_of(s, i);
	expect(s, ioctl(s->fd, EXMAP_IOCTL_ACTION, &params), 0);
	for (i = 0; i < s->nr; i++)
		changed += s->iov[i].pages;
	expect(s, changed, s->nr);
}

static void action_read(struct side *s)
{
	action(s, EXMAP_OP_READ);
}

static void action_write(struct side *s)
{
	action(s, EXMAP_OP_WRITE);
}

/* Evict the batch that was just read, and go on to the next one */
static void action_free(struct side *s)
{
	action(s, EXMAP_OP_FREE);
	advance(s, s->nr);
}

/* Go on to the next batch of resident pages, which are only the first of the permutation */
static void go_on(struct side *s)
{
	s->next += s->nr;
	if (s->next + s->nr > resident)
		s->next = 0;
}

/* Do the same to each page of the batch, in a call that any size of slots has */
static __always_inline void vectors(struct side *s, __u8 opcode)
{
	struct request *r = s->requests;
	unsigned long changed = 0;
	unsigned int i;

	for (i = 0; i < s->nr; i++)
		r->vecs[i] = (struct exmap_vec) {
			.page = page_of(s, i), .len = 1, .opcode = opcode,
		};
	r->call.nr = s->nr;
	expect(s, ioctl(s->fd, EXMAP_IOCTL_VECTORS, &r->call), 0);
	for (i = 0; i < s->nr; i++)
		changed += r->results[i].pages;
	expect(s, changed, s->nr);
}

static void vectors_read(struct side *s)
{
	vectors(s, EXMAP_OP_READ);
}

static void vectors_free(struct side *s)
{
	vectors(s, EXMAP_OP_FREE);
	advance(s, s->nr);
}

/* Fill in vectors that free the @nr oldest pages and read the next @nr pages */
static __always_inline void exchange_vecs(struct side *s, struct request *r, unsigned int nr)
{
	struct exmap_vec *vec = r->vecs;
	unsigned int i;

	for (i = 0; i < nr; i++)
		*vec++ = (struct exmap_vec) {
			.page = page_of(s, i), .len = 1, .opcode = EXMAP_OP_FREE,
		};
	for (i = 0; i < nr; i++)
		*vec++ = (struct exmap_vec) {
			.page = page_of(s, resident + i), .len = 1, .opcode = EXMAP_OP_READ,
		};
	r->call.nr = 2 * nr;
	advance(s, nr);
}

static __always_inline void exchange_result(struct side *s, const struct request *r,
					    int res, unsigned int nr)
{
	unsigned long changed = 0;
	unsigned int i;

	if (res < 0)
		errno = -res;
	expect(s, res, 0);
	for (i = 0; i < 2 * nr; i++)
		changed += r->results[i].pages;
	expect(s, changed, 2 * nr);
}

static void exchange(struct side *s)
{
	struct request *r = s->requests;
	int ret;

	exchange_vecs(s, r, s->nr);
	ret = ioctl(s->fd, EXMAP_IOCTL_VECTORS, &r->call);
	exchange_result(s, r, ret < 0 ? -errno : ret, s->nr);
}

/* ------------------------------------------------- read and write, and AIO */

static void pread_each(struct side *s)
{
	unsigned int i;

	for (i = 0; i < s->nr; i++)
		expect(s, pread(file, s->memory + i * opt.slot, opt.slot,
				page_of(s, i) * opt.slot), opt.slot);
	advance(s, s->nr);
}

static void pwrite_each(struct side *s)
{
	unsigned int i;

	for (i = 0; i < s->nr; i++)
		expect(s, pwrite(file, s->memory + i * opt.slot, opt.slot,
				 page_of(s, i) * opt.slot), opt.slot);
	advance(s, s->nr);
}

static void aio_begin(struct side *s)
{
	unsigned int i;

	if (syscall(SYS_io_setup, MAX_BATCH, &s->aio))
		die("io_setup: %s", strerror(errno));
	for (i = 0; i < MAX_BATCH; i++)
		s->iocb_list[i] = &s->iocbs[i];
}

static __always_inline void aio(struct side *s, __u16 opcode)
{
	unsigned int i, done = 0;
	long ret;

	for (i = 0; i < s->nr; i++)
		s->iocbs[i] = (struct iocb) {
			.aio_lio_opcode = opcode,
			.aio_fildes = file,
			.aio_buf = (unsigned long)s->memory + i * opt.slot,
			.aio_nbytes = opt.slot,
			.aio_offset = page_of(s, i) * opt.slot,
		};
	expect(s, syscall(SYS_io_submit, s->aio, (long)s->nr, s->iocb_list), s->nr);
	while (done < s->nr) {
		ret = syscall(SYS_io_getevents, s->aio, (long)s->nr - done,
			      (long)s->nr - done, s->events + done, NULL);
		if (ret < 0)
			die("io_getevents: %s", strerror(errno));
		done += ret;
	}
	for (i = 0; i < s->nr; i++)
		expect(s, s->events[i].res, opt.slot);
	advance(s, s->nr);
}

static void aio_read(struct side *s)
{
	aio(s, IOCB_CMD_PREAD);
}

static void aio_write(struct side *s)
{
	aio(s, IOCB_CMD_PWRITE);
}

/* ---------------------------------------------------------------- io_uring */

#ifdef HAVE_LIBURING

static void uring_begin(struct side *s)
{
	const unsigned int flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
	const int files[] = { s->method->flags & DEV ? s->fd : file };
	int ret = io_uring_queue_init(opt.depth, &s->ring, flags);

	if (!ret)
		ret = io_uring_register_files(&s->ring, files, 1);
	if (!ret)
		ret = io_uring_register_ring_fd(&s->ring) == 1 ? 0 : -EINVAL;
	if (ret)
		die("io_uring: %s", strerror(-ret));
}

static void uring_fixed_begin(struct side *s)
{
	unsigned int i;
	int ret;

	uring_begin(s);
	for (i = 0; i < opt.depth; i++)
		s->range[i] = (struct iovec) {
			.iov_base = s->memory + i * opt.slot, .iov_len = opt.slot,
		};
	ret = io_uring_register_buffers(&s->ring, s->range, opt.depth);
	if (ret)
		die("io_uring_register_buffers: %s", strerror(-ret));
}

static __always_inline struct io_uring_sqe *uring_sqe(struct side *s, unsigned int request)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);

	if (!sqe)
		die("%s: the queue is full", s->method->name);
	io_uring_sqe_set_data64(sqe, request);
	return sqe;
}

/* Queue @nr requests */
typedef void (*start_fn)(struct side *s, unsigned int nr);
/* Check the result of a request */
typedef void (*end_fn)(struct side *s, unsigned int request, int res);

static __always_inline void stream(struct side *s, unsigned int per_request,
				   start_fn start, end_fn end)
{
	const unsigned int chunk = opt.chunk > per_request ? opt.chunk / per_request : 1;
	unsigned long to_start = opt.pages / per_request, to_end = to_start;
	struct io_uring_cqe *cqe;
	unsigned int i, nr, head, wait;
	int ret;

	s->nr_idle = opt.depth / per_request;
	for (i = 0; i < s->nr_idle; i++)
		s->idle[i] = i;
	while (to_end) {
		nr = s->nr_idle < to_start ? s->nr_idle : to_start;
		if (nr)
			start(s, nr);
		to_start -= nr;
		wait = to_end - to_start < chunk ? to_end - to_start : chunk;
		ret = io_uring_submit_and_wait(&s->ring, wait);
		if (ret < 0)
			die("io_uring_enter: %s", strerror(-ret));
		nr = 0;
		io_uring_for_each_cqe(&s->ring, head, cqe) {
			end(s, cqe->user_data, cqe->res);
			s->idle[s->nr_idle++] = cqe->user_data;
			nr++;
		}
		io_uring_cq_advance(&s->ring, nr);
		to_end -= nr;
	}
}

static __always_inline void uring_exmap_start(struct side *s, unsigned int nr)
{
	while (nr--) {
		const unsigned int i = s->idle[--s->nr_idle];
		struct request *r = &s->requests[i];
		struct io_uring_sqe *sqe = uring_sqe(s, i);
		struct exmap_uring_cmd cmd = {
			.iov = { .iov_base = &r->call, .iov_len = sizeof(r->call) },
		};

		exchange_vecs(s, r, s->nr);
		io_uring_prep_rw(IORING_OP_URING_CMD, sqe, 0, NULL, 0, 0);
		io_uring_sqe_set_data64(sqe, i);
		sqe->flags = IOSQE_FIXED_FILE;
		sqe->cmd_op = EXMAP_IOCTL_VECTORS;
		memcpy(sqe->cmd, &cmd, sizeof(cmd));
	}
}

static __always_inline void uring_exmap_end(struct side *s, unsigned int i, int res)
{
	exchange_result(s, &s->requests[i], res, s->nr);
}

static void uring_exmap(struct side *s)
{
	stream(s, s->nr, uring_exmap_start, uring_exmap_end);
}

static __always_inline void uring_page_end(struct side *s, unsigned int i, int res)
{
	(void)i;
	if (res < 0)
		errno = -res;
	expect(s, res, opt.slot);
}

static __always_inline void uring_fixed_start(struct side *s, unsigned int nr)
{
	while (nr--) {
		const unsigned int i = s->idle[--s->nr_idle];
		struct io_uring_sqe *sqe = uring_sqe(s, i);

		io_uring_prep_read_fixed(sqe, 0, s->memory + i * opt.slot, opt.slot,
					 page_of(s, 0) * opt.slot, i);
		io_uring_sqe_set_data64(sqe, i);
		sqe->flags |= IOSQE_FIXED_FILE;
		advance(s, 1);
	}
}

static void uring_fixed(struct side *s)
{
	stream(s, 1, uring_fixed_start, uring_page_end);
}

/* Evict the @nr oldest pages with one call, and queue reads of the next @nr pages */
static __always_inline void uring_anon_start(struct side *s, unsigned int nr)
{
	ssize_t ret;
	unsigned int i;

	for (i = 0; i < nr; i++)
		s->range[i] = (struct iovec) {
			.iov_base = s->memory + page_of(s, i) * opt.slot, .iov_len = opt.slot,
		};
	ret = syscall(SYS_process_madvise, s->pidfd, s->range, nr, MADV_DONTNEED, 0);
	expect(s, ret, nr * opt.slot);
	for (i = 0; i < nr; i++) {
		const unsigned int request = s->idle[--s->nr_idle];
		struct io_uring_sqe *sqe = uring_sqe(s, request);
		const __u64 offset = page_of(s, resident + i) * opt.slot;

		io_uring_prep_read(sqe, 0, s->memory + offset, opt.slot, offset);
		io_uring_sqe_set_data64(sqe, request);
		sqe->flags |= IOSQE_FIXED_FILE;
	}
	advance(s, nr);
}

static void uring_anon(struct side *s)
{
	stream(s, 1, uring_anon_start, uring_page_end);
}

static void uring_anon_begin(struct side *s)
{
	unsigned long i;

	s->memory = mmap(NULL, file_pages * opt.slot, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (s->memory == MAP_FAILED)
		die("cannot map %lu pages: %s", file_pages, strerror(errno));
	/* EINVAL: the kernel has no transparent huge pages */
	if (madvise(s->memory, file_pages * opt.slot, MADV_NOHUGEPAGE) && errno != EINVAL)
		die("MADV_NOHUGEPAGE: %s", strerror(errno));
	s->pidfd = syscall(SYS_pidfd_open, getpid(), 0);
	if (s->pidfd < 0)
		die("pidfd_open: %s", strerror(errno));
	for (i = 0; i < resident; i++)
		s->memory[page_of(s, i) * opt.slot] = 1;
	uring_begin(s);
}

#endif /* HAVE_LIBURING */

static const struct method methods[] = {
	{ "exmap-read", DEV, NULL, exmap_read, action_free },
	{ "exmap-action-read", DEV, NULL, action_read, action_free },
	{ "exmap-vectors-read", DEV, NULL, vectors_read, vectors_free },
	{ "exmap-exchange", DEV | FILLED, NULL, exchange, NULL },
	{ "exmap-write", DEV | FILLED | WRITES, NULL, exmap_write, go_on },
	{ "exmap-action-write", DEV | FILLED | WRITES, NULL, action_write, go_on },
	{ "pread", BUFFERS, NULL, pread_each, NULL },
	{ "pwrite", BUFFERS | WRITES, NULL, pwrite_each, NULL },
	{ "aio-read", BUFFERS, aio_begin, aio_read, NULL },
	{ "aio-write", BUFFERS | WRITES, aio_begin, aio_write, NULL },
#ifdef HAVE_LIBURING
	{ "uring-exmap", DEV | FILLED | STREAM, uring_begin, uring_exmap, NULL },
	{ "uring-fixed", BUFFERS | STREAM, uring_fixed_begin, uring_fixed, NULL },
	{ "uring-anon", STREAM, uring_anon_begin, uring_anon, NULL },
#endif
};

/* ------------------------------------------------------------- the result */

static int compare(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* Return the @q-quantile of @values. Sorts the array. */
static double quantile(double *values, unsigned int nr, double q)
{
	const double where = q * (nr - 1);
	const unsigned int i = where;

	qsort(values, nr, sizeof(*values), compare);
	if (i + 1 >= nr)
		return values[nr - 1];
	return values[i] + (where - i) * (values[i + 1] - values[i]);
}

#define COLUMNS	11

static void print_row(const char *const *cell)
{
	static const int width[COLUMNS] = {
		-18, -18, 5, 5, -16, 5, 9, 9, 7, 7, 7,
	};
	unsigned int i;

	for (i = 0; i < COLUMNS; i++)
		if (opt.csv)
			printf("%s%s", i ? "," : "", cell[i]);
		else
			printf("%s%*s", i ? " " : "", width[i], cell[i]);
	printf("\n");
}

static void report(struct side *what, struct side *peer)
{
	static const char *const header[COLUMNS] = {
		"what", "peer", "batch", "depth", "file", "pairs", "ns_page", "peer_ns",
		"q1", "ratio", "q3",
	};
	static double ratios[MAX_PAIRS];
	char text[COLUMNS][64];
	const char *cell[COLUMNS];
	unsigned int i;

	if (opt.header)
		print_row(header);
	for (i = 0; i < COLUMNS; i++) {
		sprintf(text[i], "-");
		cell[i] = text[i];
	}
	for (i = 0; peer && i < opt.pairs; i++)
		ratios[i] = what->ns_page[i] / peer->ns_page[i];

	cell[0] = opt.what->name;
	sprintf(text[2], "%u", opt.batch);
	if (opt.what->flags & STREAM)
		sprintf(text[3], "%u", opt.depth);
	cell[4] = opt.label;
	sprintf(text[5], "%u", opt.pairs);
	sprintf(text[6], "%.1f", quantile(what->ns_page, opt.pairs, 0.5));
	if (peer) {
		cell[1] = opt.peer->name;
		sprintf(text[7], "%.1f", quantile(peer->ns_page, opt.pairs, 0.5));
		sprintf(text[8], "%.3f", quantile(ratios, opt.pairs, 0.25));
		sprintf(text[9], "%.3f", quantile(ratios, opt.pairs, 0.5));
		sprintf(text[10], "%.3f", quantile(ratios, opt.pairs, 0.75));
	}
	print_row(cell);
}

/* ---------------------------------------------------------- setup and main */

static void open_file(void)
{
	const int flags = O_RDWR | O_CLOEXEC | (opt.buffered ? 0 : O_DIRECT);
	struct stat st;
	__u64 size;

	file = open(opt.file, flags);
	if (file < 0 || fstat(file, &st))
		die("cannot open %s: %s", opt.file, strerror(errno));
	size = st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(file, BLKGETSIZE64, &size))
		die("BLKGETSIZE64: %s", strerror(errno));
	file_pages = size / opt.slot;
	if (file_pages < 2 * opt.pool || file_pages >= 1UL << 32)
		die("%s does not suit a pool of %lu pages", opt.file, opt.pool);
	/* Like a buffer manager, keep a small part of the pool free */
	resident = opt.pool * 95 / 100;
}

static void choose(void)
{
	__u64 random = 0x9e3779b97f4a7c15ULL;
	unsigned long i, other;
	__u32 page;

	order = allocate(file_pages, sizeof(*order));
	for (i = 0; i < file_pages; i++)
		order[i] = i;
	for (i = file_pages - 1; i; i--) {
		other = (next_random(&random) >> 8) % (i + 1);
		page = order[i];
		order[i] = order[other];
		order[other] = page;
	}
}

/* Apply @opcode to @nr pages, or to a part of them. Returns their number. */
static unsigned long place_range(struct side *s, __u8 opcode, __u64 page, unsigned long nr)
{
	struct request *r = s->requests;

	r->vecs[0] = (struct exmap_vec) {
		.page = page, .len = nr < LONGEST ? nr : LONGEST, .opcode = opcode,
	};
	r->call.nr = 1;
	expect(s, ioctl(s->fd, EXMAP_IOCTL_VECTORS, &r->call), 0);
	expect(s, r->results[0].pages, r->vecs[0].len);
	return r->vecs[0].len;
}

static void exmap_begin(struct side *s)
{
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .fd = file, .max_interfaces = 1,
		.buffer_size = opt.pool * (opt.slot / PG), .slot_size = opt.slot,
		.flags = opt.deferred ? EXMAP_SETUP_DEFERRED : 0,
	};
	unsigned long i;
	void *iface;

	s->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (s->fd < 0)
		die("cannot open " DEVICE ": %s", strerror(errno));
	if (ioctl(s->fd, EXMAP_IOCTL_SETUP2, &setup))
		die("cannot set up an exmap of %lu pages: %s", opt.pool, strerror(errno));
	s->memory = mmap(NULL, file_pages * opt.slot, PROT_READ | PROT_WRITE, MAP_SHARED,
			 s->fd, EXMAP_OFF_EXMAP);
	if (s->memory == MAP_FAILED)
		die("cannot map %lu pages: %s", file_pages, strerror(errno));
	if (opt.slot == PG) {
		iface = mmap(NULL, PG, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd,
			     EXMAP_OFF_INTERFACE(0));
		if (iface == MAP_FAILED)
			die("cannot map the interface: %s", strerror(errno));
		s->iov = ((struct exmap_user_interface *)iface)->iov;
	}

	/* Make the pool take all its pages from the system, and create all page tables */
	for (i = 0; i < opt.pool; )
		i += place_range(s, EXMAP_OP_ALLOC, i, opt.pool - i);
	for (i = 0; i < opt.pool; )
		i += place_range(s, EXMAP_OP_FREE, i, opt.pool - i);
	for (i = 0; i < file_pages; i += MAX_BATCH) {
		place_range(s, EXMAP_OP_ALLOC, i, 1);
		place_range(s, EXMAP_OP_FREE, i, 1);
	}
}

static void exmap_fill(struct side *s)
{
	unsigned long i;

	for (i = 0; i < resident; i++) {
		place_range(s, EXMAP_OP_ALLOC, page_of(s, i), 1);
		if (s->method->flags & WRITES)
			memset(s->memory + page_of(s, i) * opt.slot, i, opt.slot);
	}
}

static void requests_begin(struct side *s)
{
	unsigned int i, nr = s->method->flags & STREAM ? opt.depth / s->nr : 1;

	s->requests = allocate(nr, sizeof(*s->requests));
	for (i = 0; i < nr; i++) {
		struct request *r = &s->requests[i];

		r->call = (struct exmap_vectors) {
			.size = sizeof(r->call),
			.vec_size = sizeof(struct exmap_vec),
			.result_size = sizeof(struct exmap_result), .vecs = (unsigned long)r->vecs,
			.results = (unsigned long)r->results,
		};
	}
}

static struct side *side_begin(const struct method *method)
{
	struct side *s = allocate(1, sizeof(*s));

	s->method = method;
	s->nr = opt.batch;
	if (method->flags & DEV) {
		requests_begin(s);
		exmap_begin(s);
	}
	if (method->flags & FILLED)
		exmap_fill(s);
	if (method->flags & BUFFERS) {
		s->memory = mmap(NULL, MAX_BATCH * opt.slot, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (s->memory == MAP_FAILED)
			die("no memory");
		memset(s->memory, 1, MAX_BATCH * opt.slot);
	}
	if (method->begin)
		method->begin(s);
	return s;
}

/* Process about opt.pages pages. Returns the time per page in nanoseconds. */
static double turn(struct side *s)
{
	const struct method *m = s->method;
	const unsigned long per_round = m->flags & STREAM ?
		opt.pages / s->nr * s->nr : s->nr;
	unsigned long rounds = opt.pages / per_round, r;
	__u64 start, ns = 0;

	if (!rounds)
		rounds = 1;
	for (r = 0; r < rounds; r++) {
		start = now();
		trace_start();
		m->round(s);
		trace_stop();
		ns += now() - start;
		if (m->finish)
			m->finish(s);
	}
	return (double)ns / rounds / per_round;
}

static void print_help(void)
{
	unsigned int i;

	printf("usage: bench_io --file FILE --what NAME [option...]\n"
	       "Measure one case: the time to read or write a page, and its ratio to the time\n"
	       "that another method takes.\n\n"
	       "  --what NAME   method to measure, one of the names below\n"
	       "  --peer NAME   method to compare it with\n"
	       "  --file FILE   file or block device to use; may be overwritten\n"
	       "  --label TEXT  name of the file in the table\n"
	       "  --buffered    use the page cache instead of O_DIRECT\n"
	       "  --deferred    use exmap with deferred TLB flushes\n"
	       "  --batch N     pages per call, 1 to %d (512)\n"
	       "  --depth N     uring-...: pages in flight (128)\n"
	       "  --chunk N     uring-...: pages to wait for at a time (32)\n"
	       "  --pairs N     turns of each method (21)\n"
	       "  --pages N     pages per turn (8192)\n"
	       "  --pool PAGES  size of the pool (8192); methods that evict fill 95 %% of it\n"
	       "  --slot-size K size of what is called a page here, in KiB (4), with exmap-vectors-read,\n"
	       "                pread, pwrite and aio-...\n"
	       "  --csv         print comma-separated values\n"
	       "  --no-header   do not print the names of the columns\n\n"
	       "names:", MAX_BATCH);
	for (i = 0; i < ARRAY_SIZE(methods); i++)
		printf(" %s", methods[i].name);
	printf("\n\n"
	       "ns_page, peer_ns: time per page, median of the turns. ratio: ratio of the times\n"
	       "in a pair of turns, median of the pairs; q1, q3: its quartiles.\n");
}

static const struct method *find_method(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(methods); i++)
		if (!strcmp(name, methods[i].name))
			return &methods[i];
	die("%s: no such name, see --help", name);
}

static void parse(int argc, char **argv)
{
	enum { WHAT, PEER, FILE_NAME, LABEL, BUFFERED, DEFERRED, BATCH, DEPTH, CHUNK, PAIRS,
	       PAGES, POOL, SLOT_SIZE, CSV, NO_HEADER, HELP };
	static const struct option options[] = {
		{ "what", required_argument, NULL, WHAT },
		{ "peer", required_argument, NULL, PEER },
		{ "file", required_argument, NULL, FILE_NAME },
		{ "label", required_argument, NULL, LABEL },
		{ "buffered", no_argument, NULL, BUFFERED },
		{ "deferred", no_argument, NULL, DEFERRED },
		{ "batch", required_argument, NULL, BATCH },
		{ "depth", required_argument, NULL, DEPTH },
		{ "chunk", required_argument, NULL, CHUNK },
		{ "pairs", required_argument, NULL, PAIRS },
		{ "pages", required_argument, NULL, PAGES },
		{ "pool", required_argument, NULL, POOL },
		{ "slot-size", required_argument, NULL, SLOT_SIZE },
		{ "csv", no_argument, NULL, CSV },
		{ "no-header", no_argument, NULL, NO_HEADER },
		{ "help", no_argument, NULL, HELP },
		{ }
	};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case WHAT:
			opt.what = find_method(optarg);
			break;
		case PEER:
			opt.peer = find_method(optarg);
			break;
		case FILE_NAME:
			opt.file = optarg;
			break;
		case LABEL:
			opt.label = optarg;
			break;
		case BUFFERED:
			opt.buffered = true;
			break;
		case DEFERRED:
			opt.deferred = true;
			break;
		case BATCH:
			opt.batch = parse_number(optarg, 1, MAX_BATCH);
			break;
		case DEPTH:
			opt.depth = parse_number(optarg, 1, MAX_BATCH);
			break;
		case CHUNK:
			opt.chunk = parse_number(optarg, 1, MAX_BATCH);
			break;
		case PAIRS:
			opt.pairs = parse_number(optarg, 1, MAX_PAIRS);
			break;
		case PAGES:
			opt.pages = parse_number(optarg, 1, 1UL << 32);
			break;
		case POOL:
			opt.pool = parse_number(optarg, 2, 1UL << 32);
			break;
		case SLOT_SIZE:
			opt.slot = parse_number(optarg, 4, 2048) << 10;
			break;
		case CSV:
			opt.csv = true;
			break;
		case NO_HEADER:
			opt.header = false;
			break;
		case HELP:
			print_help();
			exit(0);
		default:
			exit(2);
		}
	}
	if (!opt.what || !opt.file || optind != argc)
		die("--what or --file is missing, or there is something else, see --help");
	if (opt.pool < 2 * opt.batch)
		die("--pool must be twice as large as --batch");
	if (opt.what->flags & STREAM && opt.depth < opt.batch)
		die("--batch cannot be more than --depth");
}

int main(int argc, char **argv)
{
	struct side *what, *peer = NULL;
	unsigned int i;

	parse(argc, argv);
	pin(0);
	open_file();
	choose();
	what = side_begin(opt.what);
	if (opt.peer)
		peer = side_begin(opt.peer);
	wait_for_fine_clock();

	turn(what);
	if (peer)
		turn(peer);
	for (i = 0; i < opt.pairs; i++) {
		if (peer && i % 2)
			peer->ns_page[i] = turn(peer);
		what->ns_page[i] = turn(what);
		if (peer && i % 2 == 0)
			peer->ns_page[i] = turn(peer);
	}
	report(what, peer);
	return 0;
}
