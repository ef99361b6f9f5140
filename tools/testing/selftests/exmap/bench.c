// SPDX-License-Identifier: GPL-2.0-only
/*
 * Benchmark: the cost of placing a page at an address and of evicting it again,
 * with exmap and with the alternatives that Linux offers. This is not a test; it
 * is run by "make bench".
 *
 * Each thread has its own CPU, open file and interface, and its own part of the
 * region. With n threads, that part is every n-th page, so that all threads share
 * all page tables; with --pattern apart, it is one contiguous range. All addresses
 * are chosen before the clock starts. The timed part is the work that a program
 * cannot avoid: fill in the vectors, make the call, check the results.
 *
 * In a virtual machine whose clock counts instructions (QEMU with -icount shift=0
 * and one CPU), a nanosecond is one instruction.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <linux/mempolicy.h>
#include <linux/exmap.h>
#include <linux/userfaultfd.h>

#include "bench.h"

#define MAX_BATCH	EXMAP_USER_INTERFACE_PAGES

/* Maximum number of pages in one vector of an interface */
#define LONGEST		(EXMAP_PAGE_MAX_PAGES - 1)

struct worker;

/* Place the pages of @nr vectors, or evict them. Returns the number of pages changed. */
typedef unsigned long (*batch_fn)(struct worker *w, const __u64 *slots, unsigned int nr);

/* Added in Linux 6.13, and missing from the headers of older C libraries */
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL	102
#define MADV_GUARD_REMOVE	103
#endif

/**
 * struct method - a way to place and evict pages
 * @name: argument of --what
 * @flags: properties and requirements, see below
 * @place: place the pages of a batch
 * @loop: the timed loop: @rounds rounds, beginning with round @first
 */
struct method {
	const char *name;
	unsigned int flags;
	batch_fn place;
	void (*loop)(struct worker *w, unsigned long first, unsigned long rounds);
};

#define DEV		1	/* needs an exmap */
#define DEFERRED	2	/* needs an exmap with deferred TLB flushes */
#define VECTORS		4	/* uses EXMAP_IOCTL_VECTORS */
#define ZERO		8	/* places zeroed pages */
#define NO_PAGES	16	/* measures calls that place no pages */
#define ONE_RANGE	32	/* works on one contiguous range only */
#define UFFD		64	/* needs userfaultfd */
#define MANY		128	/* can use more than one region */

/*
 * A thread of the benchmark. A slot is a page number within the region. Each round
 * places the next batch of slots from @in. Without --churn, the same batch is evicted
 * again. With --churn, the round evicts the next batch from @out instead, which are
 * slots that were placed in earlier rounds.
 */
struct worker {
	pthread_t thread;
	unsigned int index;
	int cpu;
	int fd;
	struct exmap_iov *iov;
	struct exmap_action_params alloc;
	struct exmap_action_params free;
	struct exmap_vectors call;
	struct exmap_vec vecs[2 * MAX_BATCH];
	struct exmap_result results[2 * MAX_BATCH];
	struct iovec range[MAX_BATCH];

	char *region;
	unsigned int nr;	/* vectors per batch */
	unsigned int len;	/* pages per vector */
	__u64 *in;
	__u64 *out;
	__u64 *resident;	/* slots to fill before the first round, with --churn */
	unsigned long nr_resident;
	unsigned long changed;
	__u64 random;
};

enum pattern {
	SCATTERED,
	ASCENDING,
	NEIGHBOURS,
	CONTIGUOUS,
	APART,
};

static const char * const patterns[] = {
	[SCATTERED] = "scattered",
	[ASCENDING] = "ascending",
	[NEIGHBOURS] = "neighbours",
	[CONTIGUOUS] = "contiguous",
	[APART] = "apart",
};

static struct {
	const struct method *method;
	unsigned int threads;
	unsigned int batch;
	enum pattern pattern;
	bool churn;
	bool zipf;
	bool touch;
	bool csv;
	bool header;
	unsigned long region;	/* pages */
	unsigned int regions;	/* that the range is divided into, a power of two */
	unsigned int shift;	/* binary logarithm of the pages of each of them */
	unsigned long slot;	/* bytes; what is called a page here is a slot of this size */
	unsigned long pool;	/* pages */
	unsigned long full;	/* percentage of the pool in use, with --churn */
	unsigned long quarantine;
	unsigned long warm;	/* rounds per thread before the clock starts */
	unsigned long rounds;	/* timed rounds per thread */
	unsigned long turn;	/* rounds between two pauses */
} opt = {
	.threads = 1,
	.batch = 64,
	.header = true,
	.region = (1UL << 30) / PG,
	.regions = 1,
	.slot = PG,
	.pool = 16384,
	.full = 95,
};

static struct worker *workers[CPU_SETSIZE];
static char *region;
static int device = -1, pidfd = -1, uffd = -1;

/* Report a nonzero return value of an exmap ioctl, and exit */
static void __noreturn call_failed(int ret)
{
	if (ret < 0)
		die("%s: %s", opt.method->name, strerror(errno));
	die("%s: %d vectors of a call failed", opt.method->name, ret);
}

/* ------------------------------------------------------------ the methods */

static __always_inline unsigned long action(struct worker *w, const __u64 *slots,
					    unsigned int nr,
					    struct exmap_action_params *params)
{
	const struct exmap_iov len = { .len = w->len };
	unsigned long changed = 0;
	unsigned int i;
	int ret;

	for (i = 0; i < nr; i++)
		w->iov[i].value = len.value | slots[i];
	params->iov_len = nr;
	ret = ioctl(w->fd, EXMAP_IOCTL_ACTION, params);
	if (ret)
		call_failed(ret);
	for (i = 0; i < nr; i++)
		changed += w->iov[i].pages;
	return changed;
}

static unsigned long action_alloc(struct worker *w, const __u64 *slots, unsigned int nr)
{
	return action(w, slots, nr, &w->alloc);
}

static unsigned long action_free(struct worker *w, const __u64 *slots, unsigned int nr)
{
	return action(w, slots, nr, &w->free);
}

static __always_inline struct exmap_vec vec_of(struct worker *w, __u64 slot, bool regions,
					       __u8 opcode, __u8 flags)
{
	return (struct exmap_vec) {
		.page = regions ? slot & ((1UL << opt.shift) - 1) : slot,
		.region = regions ? slot >> opt.shift : 0,
		.len = w->len, .opcode = opcode, .flags = flags,
	};
}

/* FREE @nr_out vectors and ALLOC @nr_in vectors in a single call */
static __always_inline unsigned long exchange(struct worker *w, const __u64 *out,
					      unsigned int nr_out, const __u64 *in,
					      unsigned int nr_in, bool regions, __u8 flags)
{
	struct exmap_vec *vec = w->vecs;
	unsigned long changed = 0;
	unsigned int i;
	int ret;

	for (i = 0; i < nr_out; i++)
		*vec++ = vec_of(w, out[i], regions, EXMAP_OP_FREE, 0);
	for (i = 0; i < nr_in; i++)
		*vec++ = vec_of(w, in[i], regions, EXMAP_OP_ALLOC, flags);
	w->call.nr = nr_out + nr_in;
	ret = ioctl(w->fd, EXMAP_IOCTL_VECTORS, &w->call);
	if (ret)
		call_failed(ret);
	for (i = 0; i < nr_out + nr_in; i++)
		changed += w->results[i].pages;
	return changed;
}

static unsigned long vectors_alloc(struct worker *w, const __u64 *slots, unsigned int nr)
{
	return exchange(w, NULL, 0, slots, nr, false, 0);
}

static unsigned long regions_alloc(struct worker *w, const __u64 *slots, unsigned int nr)
{
	return exchange(w, NULL, 0, slots, nr, true, 0);
}

static __always_inline char *address(struct worker *w, __u64 slot)
{
	return w->region + slot * opt.slot;
}

static __always_inline void touch_page(char *page)
{
	__atomic_store_n((__u64 *)page, 1, __ATOMIC_RELAXED);
}

static __always_inline void touch(struct worker *w, const __u64 *slots, unsigned int nr)
{
	unsigned int i, page;

	for (i = 0; i < nr; i++)
		for (page = 0; page < w->len; page++)
			touch_page(address(w, slots[i] + page));
}

static unsigned long fault(struct worker *w, const __u64 *slots, unsigned int nr)
{
	touch(w, slots, nr);
	return (unsigned long)nr * w->len;
}

static unsigned long each_madvise(struct worker *w, const __u64 *slots, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < nr; i++)
		if (madvise(address(w, slots[i]), w->len * PG, MADV_DONTNEED))
			die("MADV_DONTNEED: %s", strerror(errno));
	return (unsigned long)nr * w->len;
}

static __always_inline unsigned long advise(struct worker *w, const __u64 *slots,
					    unsigned int nr, int advice)
{
	ssize_t ret;
	unsigned int i;

	for (i = 0; i < nr; i++)
		w->range[i] = (struct iovec) {
			.iov_base = address(w, slots[i]), .iov_len = w->len * PG,
		};
	ret = syscall(SYS_process_madvise, pidfd, w->range, nr, advice, 0);
	if (ret < 0)
		die("process_madvise: %s", strerror(errno));
	return ret / PG;
}

static unsigned long one_process_madvise(struct worker *w, const __u64 *slots, unsigned int nr)
{
	return advise(w, slots, nr, MADV_DONTNEED);
}

/* A guard also frees the page, and an access raises SIGSEGV as it does with exmap */
static unsigned long install_guards(struct worker *w, const __u64 *slots, unsigned int nr)
{
	return advise(w, slots, nr, MADV_GUARD_INSTALL);
}

static unsigned long remove_guards(struct worker *w, const __u64 *slots, unsigned int nr)
{
	advise(w, slots, nr, MADV_GUARD_REMOVE);
	return fault(w, slots, nr);
}

static unsigned long populate(struct worker *w, const __u64 *slots, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < nr; i++)
		if (madvise(address(w, slots[i]), w->len * PG, MADV_POPULATE_WRITE))
			die("MADV_POPULATE_WRITE: %s", strerror(errno));
	return (unsigned long)nr * w->len;
}

/* UFFDIO_ZEROPAGE is not comparable: it maps the shared zero page instead of a new one */
static unsigned long uffd_copy(struct worker *w, const __u64 *slots, unsigned int nr)
{
	static char source[MAX_BATCH * PG];
	unsigned int i;

	for (i = 0; i < nr; i++) {
		struct uffdio_copy copy = {
			.dst = (unsigned long)address(w, slots[i]),
			.src = (unsigned long)source,
			.len = w->len * PG,
		};

		if (ioctl(uffd, UFFDIO_COPY, &copy))
			die("UFFDIO_COPY: %s", strerror(errno));
	}
	return (unsigned long)nr * w->len;
}

static unsigned long empty_ioctl(struct worker *w, const __u64 *slots, unsigned int nr)
{
	unsigned int i;

	(void)slots;
	for (i = 0; i < nr; i++)
		if (ioctl(w->fd, _IO('k', 0xff), 0) != -1)
			die("an ioctl that should not exist does");
	return nr;
}

static unsigned long nothing(struct worker *w, const __u64 *slots, unsigned int nr)
{
	(void)w;
	(void)slots;
	return nr;
}

/* -------------------------------------------------------- the timed loops */

static __always_inline void two_calls(struct worker *w, unsigned long first,
				      unsigned long rounds, batch_fn place, batch_fn evict)
{
	const unsigned int nr = w->nr;
	const __u64 *in = w->in + first * nr, *out = w->out + first * nr;
	unsigned long changed = 0;

	for (; rounds; rounds--, in += nr, out += nr) {
		if (opt.churn)
			changed += evict(w, out, nr);
		changed += place(w, in, nr);
		if (opt.touch)
			touch(w, in, nr);
		if (!opt.churn)
			changed += evict(w, in, nr);
	}
	w->changed += changed;
}

static __always_inline void one_call(struct worker *w, unsigned long first,
				     unsigned long rounds, bool regions, __u8 flags)
{
	const unsigned int nr = w->nr;
	const __u64 *in = w->in + first * nr, *out = w->out + first * nr;
	const __u64 *last = NULL;
	unsigned long changed = 0;

	for (; rounds; rounds--, in += nr, out += nr) {
		if (opt.churn)
			last = out;
		changed += exchange(w, last, last ? nr : 0, in, nr, regions, flags);
		if (opt.touch)
			touch(w, in, nr);
		last = in;
	}
	if (!opt.churn)
		changed += exchange(w, last, nr, NULL, 0, regions, 0);
	w->changed += changed;
}

static void action_loop(struct worker *w, unsigned long first, unsigned long rounds)
{
	two_calls(w, first, rounds, action_alloc, action_free);
}

static void vectors_loop(struct worker *w, unsigned long first, unsigned long rounds)
{
	one_call(w, first, rounds, false, 0);
}

static void regions_loop(struct worker *w, unsigned long first, unsigned long rounds)
{
	one_call(w, first, rounds, true, 0);
}

static void zero_loop(struct worker *w, unsigned long first, unsigned long rounds)
{
	one_call(w, first, rounds, false, EXMAP_VEC_ZERO);
}

static void madvise_loop(struct worker *w, unsigned long first, unsigned long rounds)
{
	two_calls(w, first, rounds, fault, each_madvise);
}

static void process_madvise_loop(struct worker *w, unsigned long first, unsigned long rounds)
{
	two_calls(w, first, rounds, fault, one_process_madvise);
}

static void guard_loop(struct worker *w, unsigned long first, unsigned long rounds)
{
	two_calls(w, first, rounds, remove_guards, install_guards);
}

static void populate_loop(struct worker *w, unsigned long first, unsigned long rounds)
{
	two_calls(w, first, rounds, populate, each_madvise);
}

static void uffd_loop(struct worker *w, unsigned long first, unsigned long rounds)
{
	two_calls(w, first, rounds, uffd_copy, one_process_madvise);
}

static void empty_loop(struct worker *w, unsigned long first, unsigned long rounds)
{
	two_calls(w, first, rounds, empty_ioctl, nothing);
}

/* Move the first batch to a node. Returns the number of pages. */
static unsigned long move_vectors(struct worker *w, unsigned int node)
{
	unsigned long changed = 0;
	unsigned int i;
	int ret;

	for (i = 0; i < w->nr; i++) {
		w->vecs[i] = vec_of(w, w->in[i], false, EXMAP_OP_MOVE, 0);
		w->vecs[i].node = node;
	}
	w->call.nr = w->nr;
	ret = ioctl(w->fd, EXMAP_IOCTL_VECTORS, &w->call);
	if (ret)
		call_failed(ret);
	for (i = 0; i < w->nr; i++)
		changed += w->results[i].pages;
	return changed;
}

static unsigned long move_anonymous(struct worker *w, unsigned int node)
{
	unsigned long changed = 0;
	void *pages[MAX_BATCH];
	int nodes[MAX_BATCH], status[MAX_BATCH];
	unsigned int i;

	for (i = 0; i < w->nr; i++) {
		pages[i] = address(w, w->in[i]);
		nodes[i] = node;
	}
	if (syscall(SYS_move_pages, 0, w->nr, pages, nodes, status, MPOL_MF_MOVE) < 0)
		die("move_pages: %s", strerror(errno));
	for (i = 0; i < w->nr; i++)
		changed += status[i] == (int)node;
	return changed;
}

/* The first batch goes to node 1 and comes back, again and again */
static __always_inline void move_loop(struct worker *w, unsigned long first,
				      unsigned long rounds, batch_fn place,
				      unsigned long (*move)(struct worker *w, unsigned int node))
{
	/* They stay where they are after the first rounds, which are not measured */
	if (!first)
		place(w, w->in, w->nr);
	for (; rounds; rounds--) {
		w->changed += move(w, 1);
		w->changed += move(w, 0);
	}
}

static void exmap_move_loop(struct worker *w, unsigned long first, unsigned long rounds)
{
	move_loop(w, first, rounds, vectors_alloc, move_vectors);
}

static void move_pages_loop(struct worker *w, unsigned long first, unsigned long rounds)
{
	move_loop(w, first, rounds, fault, move_anonymous);
}

static const struct method methods[] = {
	{ "exmap", DEV, action_alloc, action_loop },
	{ "exmap-deferred", DEV | DEFERRED, action_alloc, action_loop },
	{ "exmap-vectors", DEV | VECTORS, vectors_alloc, vectors_loop },
	{ "exmap-vectors-deferred", DEV | VECTORS | DEFERRED, vectors_alloc, vectors_loop },
	{ "exmap-regions", DEV | VECTORS | MANY, regions_alloc, regions_loop },
	{ "exmap-zero", DEV | VECTORS | ZERO, vectors_alloc, zero_loop },
	{ "fault+madvise", ZERO, fault, madvise_loop },
	{ "fault+process_madvise", ZERO, fault, process_madvise_loop },
	{ "fault+guard", ZERO, remove_guards, guard_loop },
	{ "populate+dontneed", ZERO | ONE_RANGE, populate, populate_loop },
	{ "uffd", ZERO | UFFD, uffd_copy, uffd_loop },
	{ "exmap-move", DEV | VECTORS, vectors_alloc, exmap_move_loop },
	{ "move_pages", ZERO, fault, move_pages_loop },
	{ "empty-ioctl", NO_PAGES, empty_ioctl, empty_loop },
};

/* ------------------------------------------------------------- the result */

struct counters {
	long tlb_interrupts;
	long remote_flushes;
	long full_flushes;
	long page_flushes;
};

/* Read a file without stdio, which could map and unmap memory between measurements */
static const char *read_file(const char *path)
{
	static char text[256 * 1024];
	size_t length = 0;
	ssize_t ret = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die("cannot open %s: %s", path, strerror(errno));
	while (length < sizeof(text) - 1) {
		ret = read(fd, text + length, sizeof(text) - 1 - length);
		if (ret <= 0)
			break;
		length += ret;
	}
	if (ret)
		die("cannot read %s, or not all of it", path);
	close(fd);
	text[length] = '\0';
	return text;
}

/* Add up the numbers on the line that begins with @key. Returns -1 if there is none. */
static long sum_of_line(const char *text, const char *key)
{
	const char *line = text;
	long sum = 0, value;
	char *end;

	for (;;) {
		line += strspn(line, " ");
		if (!strncmp(line, key, strlen(key)))
			break;
		line = strchr(line, '\n');
		if (!line)
			return -1;
		line++;
	}
	line += strlen(key);
	for (;;) {
		line += strspn(line, " ");
		value = strtol(line, &end, 10);
		if (*line == '\n' || end == line)
			return sum;
		sum += value;
		line = end;
	}
}

static void read_counters(struct counters *c)
{
	const char *text = read_file("/proc/interrupts");

	c->tlb_interrupts = sum_of_line(text, "TLB:");
	/* These lines exist only with CONFIG_DEBUG_TLBFLUSH */
	text = read_file("/proc/vmstat");
	c->remote_flushes = sum_of_line(text, "nr_tlb_remote_flush ");
	c->full_flushes = sum_of_line(text, "nr_tlb_local_flush_all ");
	c->page_flushes = sum_of_line(text, "nr_tlb_local_flush_one ");
}

#define COLUMNS	19

static void print_row(const char *const *cell)
{
	/* Column widths; a column of width 0 appears in the CSV output only */
	static const int width[COLUMNS] = {
		-22, 7, 5, 10, 8, 8, 7, 0, 0, 9, 0, 9, 8, 10, 11, 8, 7, 8, 0,
	};
	unsigned int i;

	for (i = 0; i < COLUMNS; i++)
		if (opt.csv)
			printf("%s%s", i ? "," : "", cell[i]);
		else if (width[i])
			printf("%s%*s", i ? " " : "", width[i], cell[i]);
	printf("\n");
}

/* Print the result. @c is NULL if the case could not be run. */
static void report(const struct counters *c, __u64 ns)
{
	static const char *const csv_header[COLUMNS] = {
		"what", "threads", "batch", "pattern", "churn", "region", "pool",
		"touch", "rounds", "pages", "ns", "ns_page", "tlb_irqs",
		"irqs_page", "irqs_page_cpu", "remote_flushes", "full_flushes",
		"page_flushes", "regions",
	};
	static const char *const header[COLUMNS] = {
		"what", "threads", "batch", "pattern", "churn", "region", "pool",
		"touch", "rounds", "pages", "ns", "ns/page", "TLB irqs",
		"irqs/page", "../oth.CPU", "remote", "full", "by page", "regions",
	};
	const unsigned long pages = opt.rounds * opt.batch * opt.threads;
	char text[COLUMNS][32];
	const char *cell[COLUMNS];
	unsigned int i;

	if (opt.header)
		print_row(opt.csv ? csv_header : header);

	for (i = 0; i < COLUMNS; i++) {
		sprintf(text[i], "-");
		cell[i] = text[i];
	}
	cell[0] = opt.method->name;
	sprintf(text[1], "%u", opt.threads);
	sprintf(text[2], "%u", opt.batch);
	cell[3] = patterns[opt.pattern];
	cell[4] = !opt.churn ? "no" : opt.zipf ? "zipf" : "uniform";
	sprintf(text[5], "%lu", opt.region);
	sprintf(text[6], "%lu", opt.pool);
	cell[7] = opt.touch ? "yes" : "no";
	sprintf(text[8], "%lu", opt.rounds);
	sprintf(text[18], "%u", opt.regions);
	if (c) {
		const struct { long count; int column; } counts[] = {
			{ c->tlb_interrupts, 12 }, { c->remote_flushes, 15 },
			{ c->full_flushes, 16 }, { c->page_flushes, 17 },
		};

		sprintf(text[9], "%lu", pages);
		sprintf(text[10], "%lu", (unsigned long)ns);
		sprintf(text[11], "%.1f", (double)ns / pages);
		for (i = 0; i < ARRAY_SIZE(counts); i++)
			if (counts[i].count >= 0)
				sprintf(text[counts[i].column], "%ld", counts[i].count);
		if (c->tlb_interrupts >= 0) {
			sprintf(text[13], "%.6f", (double)c->tlb_interrupts / pages);
			if (opt.threads > 1)
				sprintf(text[14], "%.6f", (double)c->tlb_interrupts /
					pages / (opt.threads - 1));
		}
	}
	print_row(cell);
	trace_write();
}

/* Leave the case out of the results: the table shows dashes, and the exit code is 0 */
static void __noreturn skip(const char *why)
{
	fprintf(stderr, "bench: %s is left out: %s\n", opt.method->name, why);
	report(NULL, 0);
	exit(0);
}

/* ---------------------------------------------------------- the addresses */

static bool test_and_set(__u64 *bitmap, unsigned long bit)
{
	const __u64 mask = 1ULL << (bit % 64);
	const bool set = bitmap[bit / 64] & mask;

	bitmap[bit / 64] |= mask;
	return set;
}

static void clear(__u64 *bitmap, unsigned long bit)
{
	bitmap[bit / 64] &= ~(1ULL << (bit % 64));
}

static double power5(double x)
{
	return x * x * x * x * x;
}

static double root5(double x)
{
	double low = 0, high = x + 1, middle;
	int i;

	for (i = 0; i < 100; i++) {
		middle = (low + high) / 2;
		if (power5(middle) < x)
			low = middle;
		else
			high = middle;
	}
	return low;
}

/*
 * Draw a number below @n, uniformly or, with --zipf, by Zipf's law with theta 0.8.
 *
 * Zipf's law is approximated by a density proportional to x^-0.8 on the interval
 * from 1/2 to n + 1/2, rounded to a rank from 1 to n. The distribution function is
 * then a fifth root, which is easy to invert. Ranks are finally scattered, so that
 * popular numbers are not neighbours.
 */
static unsigned long draw(struct worker *w, unsigned long n)
{
	static __thread unsigned long last_n;
	static __thread double low, high;
	unsigned long rank;
	double u;

	if (!opt.zipf)
		return (next_random(&w->random) >> 8) % n;
	if (last_n != n) {
		last_n = n;
		low = root5(0.5);
		high = root5(n + 0.5);
	}
	u = (next_random(&w->random) >> 11) / 9007199254740992.0;	/* 2^53 */
	rank = power5(low + u * (high - low)) + 0.5;
	rank = rank < 1 ? 0 : rank > n ? n - 1 : rank - 1;
	return rank * 2654435761UL % n;
}

/* Number of vectors of the region that belong to a thread */
static unsigned long share_of(struct worker *w)
{
	return opt.region / w->len / opt.threads;
}

/* Convert the index of a vector within the share of a thread to a slot */
static __u64 slot_of(struct worker *w, unsigned long index)
{
	if (opt.pattern == APART)
		return (w->index * share_of(w) + index) * w->len;
	return (index * opt.threads + w->index) * w->len;
}

static unsigned long index_of(struct worker *w, __u64 slot)
{
	if (opt.pattern == APART)
		return slot / w->len - w->index * share_of(w);
	return slot / w->len / opt.threads;
}

static int compare_slots(const void *a, const void *b)
{
	const __u64 *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/*
 * Choose the slots of all rounds. No vector occurs twice in a batch. With --churn,
 * keep track of the resident slots: a batch is placed in slots that are empty, and
 * evicts slots that are chosen at random from the resident ones.
 */
static void choose(struct worker *w)
{
	const unsigned long n = share_of(w);
	const unsigned long rounds = opt.warm + opt.rounds;
	__u64 *used = allocate(n / 64 + 1, sizeof(*used));
	unsigned long index, victim, round, r;
	__u64 *resident = NULL, slot;
	unsigned int i;

	w->random = 0x9e3779b97f4a7c15ULL * (w->index + 1);
	w->in = allocate(rounds * w->nr, sizeof(*w->in));
	w->out = w->in;
	if (opt.churn) {
		w->out = allocate(rounds * w->nr, sizeof(*w->out));
		w->resident = allocate(w->nr_resident, sizeof(*w->resident));
		resident = allocate(w->nr_resident, sizeof(*resident));
		for (r = 0; r < w->nr_resident; r++) {
			do {
				index = draw(w, n);
			} while (test_and_set(used, index));
			w->resident[r] = slot_of(w, index);
			resident[r] = w->resident[r];
		}
	}

	/* Without --churn, the warm-up uses the same slots as the timed rounds */
	for (round = 0; round < (opt.churn ? rounds : opt.rounds); round++) {
		__u64 *in = w->in + round * w->nr, *out = w->out + round * w->nr;

		index = draw(w, n - w->nr);
		for (i = 0; i < w->nr; i++) {
			while (opt.pattern != NEIGHBOURS && test_and_set(used, index))
				index = draw(w, n);
			in[i] = slot_of(w, index);
			index = opt.pattern == NEIGHBOURS ? index + 1 : draw(w, n);
		}
		if (opt.pattern == ASCENDING)
			qsort(in, w->nr, sizeof(*in), compare_slots);
		if (!opt.churn) {
			for (i = 0; i < w->nr; i++)
				clear(used, index_of(w, in[i]));
			continue;
		}
		/* Swap each victim to the end of the array, where a new slot replaces it */
		for (i = 0; i < w->nr; i++) {
			r = w->nr_resident - 1 - i;
			victim = (next_random(&w->random) >> 8) % (r + 1);
			slot = resident[victim];
			resident[victim] = resident[r];
			resident[r] = in[i];
			out[i] = slot;
			clear(used, index_of(w, slot));
		}
	}
	free(resident);
	free(used);
}

/* ---------------------------------------------------------- setup and main */

/*
 * Find an address for the region that is aligned to the range of a PMD table, so that
 * the region always needs the same number of page tables.
 */
static void *aligned_hint(void)
{
	const size_t align = PG * 512 * 512;
	const size_t size = opt.region * opt.slot + align;
	char *p = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		die("no address space for a region of %lu pages", opt.region);
	munmap(p, size);
	return p + (-(unsigned long)p & (align - 1));
}

/* Attach further regions to the pool, each at the addresses behind the one before */
static void attach_regions(void)
{
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .flags = EXMAP_SETUP_ATTACH, .fd = -1, .pool = device,
		.slot_size = opt.slot,
	};
	const struct rlimit files = { opt.regions + 1024, opt.regions + 1024 };
	const size_t size = opt.slot << opt.shift;
	unsigned int i;
	int fd;

	if (opt.regions > 1 && setrlimit(RLIMIT_NOFILE, &files))
		die("RLIMIT_NOFILE: %s", strerror(errno));
	for (i = 1; i < opt.regions; i++) {
		fd = open(DEVICE, O_RDWR | O_CLOEXEC);
		if (fd < 0 || ioctl(fd, EXMAP_IOCTL_SETUP2, &setup) != (int)i)
			die("cannot attach region %u: %s", i, strerror(errno));
		if (mmap(region + i * size, size, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED_NOREPLACE, fd, EXMAP_OFF_EXMAP) == MAP_FAILED)
			die("cannot map region %u: %s", i, strerror(errno));
	}
}

static void exmap_begin(void)
{
	const bool sized = opt.method->flags & DEFERRED || opt.slot != PG;
	struct exmap_ioctl_setup setup = {
		.fd = -1,
		.max_interfaces = opt.threads,
		.buffer_size = opt.pool,
	};
	struct exmap_setup2 setup2 = {
		.size = sizeof(setup2),
		.max_interfaces = opt.threads,
		.flags = opt.method->flags & DEFERRED ? EXMAP_SETUP_DEFERRED : 0,
		.buffer_size = opt.pool * (opt.slot / PG),
		.quarantine = opt.quarantine,
		.fd = -1,
		.slot_size = opt.slot,
	};

	if (sized ? ioctl(device, EXMAP_IOCTL_SETUP2, &setup2) :
		       ioctl(device, EXMAP_IOCTL_SETUP, &setup)) {
		if (sized && errno == ENOTTY)
			skip("this kernel has no EXMAP_IOCTL_SETUP2");
		die("cannot set up an exmap of %lu pages: %s", opt.pool, strerror(errno));
	}
	region = mmap(aligned_hint(), opt.slot << opt.shift,
		      PROT_READ | PROT_WRITE, MAP_SHARED, device, EXMAP_OFF_EXMAP);
	if (region == MAP_FAILED)
		die("cannot map a region of %lu pages: %s", opt.region, strerror(errno));
	attach_regions();
}

/* Give the thread its own open file and interface */
static void exmap_join(struct worker *w)
{
	void *iface;

	w->fd = device;
	if (w->index) {
		w->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
		if (w->fd < 0 || ioctl(w->fd, EXMAP_IOCTL_CLONE, device))
			die("cannot clone: %s", strerror(errno));
	}
	if (opt.slot == PG) {
		iface = mmap(NULL, PG, PROT_READ | PROT_WRITE, MAP_SHARED, w->fd,
			     EXMAP_OFF_INTERFACE(w->index));
		if (iface == MAP_FAILED)
			die("cannot map interface %u: %s", w->index, strerror(errno));
		w->iov = ((struct exmap_user_interface *)iface)->iov;
	}
	w->alloc = (struct exmap_action_params) {
		.interface = w->index, .opcode = EXMAP_OP_ALLOC,
	};
	w->free = (struct exmap_action_params) {
		.interface = w->index, .opcode = EXMAP_OP_FREE,
	};
	w->call = (struct exmap_vectors) {
		.size = sizeof(w->call),
		.vec_size = sizeof(struct exmap_vec),
		.result_size = sizeof(struct exmap_result), .interface = w->index,
		.vecs = (unsigned long)w->vecs, .results = (unsigned long)w->results,
	};
}

/* Make the pool take all its pages from the system before the clock starts */
static void exmap_fill_pool(struct worker *w)
{
	struct exmap_ioctl_stats stats;
	unsigned long len, changed;
	__u64 page;
	int alloc;

	for (alloc = 1; alloc >= 0; alloc--)
		for (page = 0; page < opt.pool; page += len) {
			len = opt.pool - page < LONGEST ? opt.pool - page : LONGEST;
			if (opt.regions > 1)
				len = 1;
			w->len = len;
			changed = opt.regions == 1 && opt.slot == PG ?
				  action(w, &page, 1, alloc ? &w->alloc : &w->free) :
				  exchange(w, &page, !alloc, &page, alloc, true, 0);
			if (changed != len)
				die("the pool does not give all its pages");
		}
	if (ioctl(device, EXMAP_IOCTL_STATS, &stats))
		die("no statistics: %s", strerror(errno));
	if (stats.alloc_count != opt.pool * (opt.slot / PG))
		die("the pool has %lu pages, not %lu", (unsigned long)stats.alloc_count,
		    opt.pool);
}

static void anonymous_begin(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range;

	region = mmap(aligned_hint(), opt.region * PG, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (region == MAP_FAILED)
		die("cannot map %lu pages: %s", opt.region, strerror(errno));
	/* EINVAL: the kernel has no transparent huge pages */
	if (madvise(region, opt.region * PG, MADV_NOHUGEPAGE) && errno != EINVAL)
		die("MADV_NOHUGEPAGE: %s", strerror(errno));
	pidfd = syscall(SYS_pidfd_open, getpid(), 0);
	if (pidfd < 0)
		die("pidfd_open: %s", strerror(errno));
	if (!(opt.method->flags & UFFD))
		return;

	uffd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (uffd < 0)
		skip("no userfaultfd");
	range = (struct uffdio_register) {
		.range = { .start = (unsigned long)region, .len = opt.region * PG },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	if (ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &range))
		die("userfaultfd: %s", strerror(errno));
}

static void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#endif
}

/*
 * A barrier for all threads. Waiting threads spin, because an idle CPU would not
 * receive TLB shootdowns.
 */
static void meet(void)
{
	static unsigned int arrived, meeting;
	const unsigned int this = __atomic_load_n(&meeting, __ATOMIC_ACQUIRE);

	if (__atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL) == opt.threads) {
		__atomic_store_n(&arrived, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&meeting, this + 1, __ATOMIC_RELEASE);
		return;
	}
	while (__atomic_load_n(&meeting, __ATOMIC_ACQUIRE) == this)
		relax();
}

/*
 * Run rounds, with a pause after every opt.turn of them. An emulator that runs its CPUs
 * by turns lets each of them run for a long time. A pause instruction ends the turn, so
 * that CPUs affect each other as they would if all of them ran at the same time.
 */
static void run_rounds(struct worker *w, unsigned long first, unsigned long rounds)
{
	unsigned long nr;

	for (; rounds; first += nr, rounds -= nr) {
		nr = opt.turn && opt.turn < rounds ? opt.turn : rounds;
		opt.method->loop(w, first, nr);
		if (opt.turn)
			relax();
	}
}

static void *work(void *arg)
{
	struct worker *w = arg;
	const unsigned long changes = 2 * opt.rounds * opt.batch;
	unsigned long done, nr;
	struct counters before, after;
	__u64 ns = 0;

	pin(w->cpu);
	if (opt.method->flags & DEV)
		exmap_join(w);
	if ((opt.method->flags & DEV) && !w->index)
		exmap_fill_pool(w);
	w->region = region;
	w->len = opt.pattern == CONTIGUOUS ? opt.batch : 1;
	w->nr = opt.batch / w->len;
	w->nr_resident = opt.churn ? opt.pool * opt.full / 100 / opt.threads : 0;
	choose(w);
	if (!w->index)
		wait_for_fine_clock();
	meet();

	for (done = 0; done < w->nr_resident; done += nr) {
		nr = w->nr_resident - done;
		if (nr > opt.batch)
			nr = opt.batch;
		if (opt.method->place(w, w->resident + done, nr) != nr)
			die("not all pages could be placed");
	}
	run_rounds(w, 0, opt.warm);
	w->changed = 0;

	meet();
	if (!w->index) {
		read_counters(&before);
		ns = now();
		trace_start();
	}
	meet();
	run_rounds(w, opt.churn ? opt.warm : 0, opt.rounds);
	meet();
	if (!w->index) {
		trace_stop();
		ns = now() - ns;
		read_counters(&after);
		if (before.tlb_interrupts >= 0)
			after.tlb_interrupts -= before.tlb_interrupts;
		if (before.remote_flushes >= 0) {
			after.remote_flushes -= before.remote_flushes;
			after.full_flushes -= before.full_flushes;
			after.page_flushes -= before.page_flushes;
		}
	}
	meet();
	if (w->changed != changes)
		die("%s: %lu pages changed where it should have been %lu",
		    opt.method->name, w->changed, changes);
	meet();
	if (!w->index)
		report(&after, ns);
	return NULL;
}

static void print_help(void)
{
	unsigned int i;

	printf("usage: bench --what NAME [option...]\n"
	       "Measure one case: the time to place a page and to evict it again.\n\n"
	       "  --what NAME      method to measure, one of the names below\n"
	       "  --threads N      number of threads, each on its own CPU (1)\n"
	       "  --batch N        pages per batch, 1 to %d (64)\n"
	       "  --pattern P      scattered: random pages, one vector each; ascending: the same,\n"
	       "                   sorted by address; neighbours: adjacent pages, one vector each;\n"
	       "                   contiguous: adjacent pages, one vector for all of them;\n"
	       "                   apart: scattered, each thread in a range of its own\n"
	       "  --churn          keep the pool full: each batch replaces random pages\n"
	       "  --zipf           with --churn: choose new pages by Zipf's law (theta 0.8)\n"
	       "  --pool PAGES     size of the pool (16384)\n"
	       "  --full PERCENT   with --churn: percentage of the pool in use (95)\n"
	       "  --quarantine N   with deferred flushes: flush at this number of freed pages\n"
	       "  --region PAGES   size of the region (262144: 1 GiB)\n"
	       "  --regions N      regions of the pool that this is divided into (1), a power of\n"
	       "                   two; for exmap-regions\n"
	       "  --slot-size KIB  size of what is called a page here (4), a power of two; for\n"
	       "                   exmap-vectors and exmap-regions\n"
	       "  --rounds N       batches per thread (65536 pages in all; --churn: 262144)\n"
	       "  --turn N         pause after every N batches (never): for an emulator that runs\n"
	       "                   its CPUs by turns, in which a pause ends the turn\n"
	       "  --touch          also write to each page after it was placed\n"
	       "  --csv            print comma-separated values\n"
	       "  --no-header      do not print the names of the columns\n\n"
	       "names:", MAX_BATCH);
	for (i = 0; i < ARRAY_SIZE(methods); i++)
		printf(" %s", methods[i].name);
	printf("\n\n"
	       "ns/page: a page that is placed and evicted counts once. TLB irqs: shootdown\n"
	       "interrupts received by all CPUs; ../oth.CPU: per page and other CPU.\n"
	       "With CONFIG_DEBUG_TLBFLUSH: remote: flushes that involved other CPUs; local\n"
	       "flushes, full: of the whole TLB, by page: of single pages.\n");
}

static enum pattern find_pattern(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(patterns); i++)
		if (!strcmp(patterns[i], name))
			return i;
	die("%s: no such pattern", name);
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
	enum { WHAT, THREADS, BATCH, PATTERN, CHURN, ZIPF, POOL, FULL, QUARANTINE,
	       REGION, REGIONS, SLOT_SIZE, ROUNDS, TURN, TOUCH, CSV, NO_HEADER, HELP };
	static const struct option options[] = {
		{ "what", required_argument, NULL, WHAT },
		{ "threads", required_argument, NULL, THREADS },
		{ "batch", required_argument, NULL, BATCH },
		{ "pattern", required_argument, NULL, PATTERN },
		{ "churn", no_argument, NULL, CHURN },
		{ "zipf", no_argument, NULL, ZIPF },
		{ "pool", required_argument, NULL, POOL },
		{ "full", required_argument, NULL, FULL },
		{ "quarantine", required_argument, NULL, QUARANTINE },
		{ "region", required_argument, NULL, REGION },
		{ "regions", required_argument, NULL, REGIONS },
		{ "slot-size", required_argument, NULL, SLOT_SIZE },
		{ "rounds", required_argument, NULL, ROUNDS },
		{ "turn", required_argument, NULL, TURN },
		{ "touch", no_argument, NULL, TOUCH },
		{ "csv", no_argument, NULL, CSV },
		{ "no-header", no_argument, NULL, NO_HEADER },
		{ "help", no_argument, NULL, HELP },
		{ }
	};
	unsigned long total;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case WHAT:
			opt.method = find_method(optarg);
			break;
		case THREADS:
			opt.threads = parse_number(optarg, 1, CPU_SETSIZE);
			break;
		case BATCH:
			opt.batch = parse_number(optarg, 1, MAX_BATCH);
			break;
		case PATTERN:
			opt.pattern = find_pattern(optarg);
			break;
		case CHURN:
			opt.churn = true;
			break;
		case ZIPF:
			opt.zipf = true;
			break;
		case POOL:
			opt.pool = parse_number(optarg, 1, 1UL << 40);
			break;
		case FULL:
			opt.full = parse_number(optarg, 1, 100);
			break;
		case QUARANTINE:
			opt.quarantine = parse_number(optarg, 0, 1UL << 40);
			break;
		case REGION:
			opt.region = parse_number(optarg, 1, 1UL << 34);
			break;
		case REGIONS:
			opt.regions = parse_number(optarg, 1, 1U << 16);
			break;
		case SLOT_SIZE:
			opt.slot = parse_number(optarg, 4, 2048) << 10;
			break;
		case ROUNDS:
			opt.rounds = parse_number(optarg, 1, 1UL << 32);
			break;
		case TURN:
			opt.turn = parse_number(optarg, 1, 1UL << 32);
			break;
		case TOUCH:
			opt.touch = true;
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
	if (!opt.method || optind != argc)
		die("--what NAME is missing, or there is something else, see --help");
	if (opt.churn && (opt.pattern == CONTIGUOUS || opt.pattern == NEIGHBOURS))
		die("--churn is for scattered pages");
	if (opt.zipf && !opt.churn)
		die("--zipf is for --churn");
	if (opt.region / opt.threads / opt.batch < 2 || opt.region < opt.pool)
		die("the region is too small");
	if (opt.regions > 1 && (opt.regions & (opt.regions - 1) || opt.region & (opt.region - 1) ||
				opt.region / opt.regions < 2 || opt.pattern == CONTIGUOUS ||
				!(opt.method->flags & MANY)))
		die("--regions is for exmap-regions; it and --region are powers of two");
	if (opt.slot != PG && !(opt.method->flags & VECTORS))
		die("--slot-size is for exmap-vectors and exmap-regions");
	while (opt.regions > 1 ? 1UL << opt.shift < opt.region / opt.regions :
				 1UL << opt.shift < opt.region)
		opt.shift++;
	/*
	 * With --churn, the number of resident pages of a thread. Its part of the region
	 * must have at least twice as many slots as these pages and a batch need.
	 */
	total = opt.churn ? opt.pool * opt.full / 100 / opt.threads : 0;
	if (opt.churn ? total < opt.batch || opt.region / opt.threads < 2 * (total + opt.batch) :
			opt.pool < 2UL * opt.threads * opt.batch)
		die("the pool does not suit the region and the batch");

	total = opt.churn ? 262144 : 65536;
	if (!opt.rounds)
		opt.rounds = total / opt.batch / opt.threads;
	if (!opt.rounds)
		opt.rounds = 1;
	/*
	 * The warm-up creates the page tables. With --churn it also replaces nearly all
	 * of the pages that were placed first.
	 */
	opt.warm = opt.churn ? 3 * opt.pool / opt.batch / opt.threads + 1 : opt.rounds;
}

/* Open the device, and skip the case if the kernel or the options do not suit it */
static void check_case(void)
{
	const unsigned int flags = opt.method->flags;
	struct exmap_vectors none = {
		.size = sizeof(none),
		.vec_size = sizeof(struct exmap_vec),
		.result_size = sizeof(struct exmap_result),
	};

	if ((flags & ONE_RANGE) && opt.pattern != CONTIGUOUS)
		skip("it is for contiguous pages");
	if ((flags & NO_PAGES) && (opt.churn || opt.touch || opt.pattern == CONTIGUOUS))
		skip("it places no pages");
	if (flags & (DEV | NO_PAGES)) {
		device = open(DEVICE, O_RDWR | O_CLOEXEC);
		if (device < 0)
			die("cannot open " DEVICE ": %s", strerror(errno));
	}
	if ((flags & VECTORS) && ioctl(device, EXMAP_IOCTL_VECTORS, &none) < 0 &&
	    errno == ENOTTY)
		skip("this kernel has no EXMAP_IOCTL_VECTORS");
}

static void make_workers(void)
{
	unsigned int i = 0;
	struct worker *w;
	cpu_set_t set;
	int cpu;

	if (sched_getaffinity(0, sizeof(set), &set))
		die("sched_getaffinity: %s", strerror(errno));
	if (CPU_COUNT(&set) < (int)opt.threads)
		die("%u threads, but %d CPUs", opt.threads, CPU_COUNT(&set));
	for (cpu = 0; cpu < CPU_SETSIZE && i < opt.threads; cpu++) {
		if (!CPU_ISSET(cpu, &set))
			continue;
		/* Each worker has pages of its own, so that threads share no cache line */
		w = mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (w == MAP_FAILED)
			die("no memory");
		w->index = i;
		w->cpu = cpu;
		w->fd = device;
		workers[i++] = w;
	}
}

int main(int argc, char **argv)
{
	unsigned int i;

	parse(argc, argv);
	check_case();
	if (opt.method->flags & DEV)
		exmap_begin();
	else if (!(opt.method->flags & NO_PAGES))
		anonymous_begin();

	make_workers();
	for (i = 1; i < opt.threads; i++)
		if (pthread_create(&workers[i]->thread, NULL, work, workers[i]))
			die("cannot start thread %u", i);
	work(workers[0]);
	for (i = 1; i < opt.threads; i++)
		pthread_join(workers[i]->thread, NULL);
	return 0;
}
