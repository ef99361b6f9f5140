// SPDX-License-Identifier: GPL-2.0-only
/* Buffer manager: page states, optimistic reads, eviction, page input and output */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "bufmgr.h"

/*
 * One word a page: version << 8 | state. The version goes up whenever a lock is
 * given back, so also when the page leaves memory and when it returns. Zero is a
 * page that is not in memory: a fresh array needs no initialisation, however
 * large the region is.
 */
enum page_state {
	EVICTED,	/* no memory at its address */
	UNLOCKED,
	MARKED,		/* unlocked, and the clock hand came by */
	SHARED,		/* being written out: readers may, writers not */
	LOCKED,		/* has one writer, or is on its way in or out */
};

#define STATE_BITS	8
#define STATE(word)	((word) & ((1 << STATE_BITS) - 1))
#define VERSION(word)	((word) >> STATE_BITS)

#define SWEEP		64	/* state words the clock hand moves at a time */

struct bm bm;
__thread struct bm_thread *self;

/* Change the state of a page, provided that its word is still this one */
static bool change_state(u64 pid, unsigned long long word, enum page_state to)
{
	u64 new = VERSION(word) << STATE_BITS | to;

	if (!atomic_compare_exchange_strong(&bm.state[pid], &word, new))
		return false;
	/* Readers must see the lock before anything that is written under it */
	atomic_thread_fence(memory_order_seq_cst);
	return true;
}

/* Give a lock back: whoever read the page before will notice */
static void release(u64 pid, enum page_state to)
{
	u64 word = atomic_load_explicit(&bm.state[pid], memory_order_relaxed);

	word = (VERSION(word) + 1) << STATE_BITS | to;
	atomic_store_explicit(&bm.state[pid], word, memory_order_release);
}

/* How many of these page numbers, in ascending order, are adjacent */
static unsigned int run_length(const u64 *pid, unsigned int n)
{
	unsigned int run = 1;

	while (run < n && pid[run] == pid[run - 1] + 1)
		run++;
	return run;
}

/* Memory for pages, and room for it */

static int exmap_action(enum exmap_opcode opcode, unsigned int vectors)
{
	struct exmap_action_params params = {
		.interface = self->interface,
		.iov_len = vectors,
		.opcode = opcode,
	};

	return ioctl(bm.exmap_fd, EXMAP_IOCTL_ACTION, &params);
}

/* Take the memory of locked pages away: one call, one TLB shootdown */
static void free_pages(const u64 *pid, unsigned int n)
{
	unsigned int i, run, vectors = 0, freed = 0;
	struct exmap_iov *vec;
	int failed;

	if (bm.madvise) {
		for (i = 0; i < n; i++)
			if (madvise(bm_page(pid[i]), PAGE_SIZE, MADV_DONTNEED))
				err(1, "madvise");
		return;
	}
	vec = self->vectors->iov;
	for (i = 0; i < n; i += run) {
		run = run_length(pid + i, n - i);
		vec[vectors].page = pid[i];
		vec[vectors++].len = run;
	}
	failed = exmap_action(EXMAP_OP_FREE, vectors);
	if (failed < 0)
		err(1, "exmap FREE");
	for (i = 0; i < vectors; i++)
		freed += vec[i].pages;
	if (failed || freed != n)
		errx(1, "exmap FREE: %u of %u pages, %d failed vectors", freed, n, failed);
}

/* Write pages out, neighbours in one call; the caller holds them SHARED */
static void write_pages(const u64 *pid, unsigned int n)
{
	size_t len, done;
	unsigned int i, run;
	ssize_t put;

	for (i = 0; i < n; i += run) {
		run = run_length(pid + i, n - i);
		len = (size_t)run * PAGE_SIZE;
		for (done = 0; done < len; done += put) {
			put = pwrite(bm.file_fd, (char *)bm_page(pid[i]) + done, len - done,
				     pid[i] * PAGE_SIZE + done);
			if (put < 0)
				err(1, "writing the page file %s", bm.file);
			self->stats.out_calls++;
		}
	}
	for (i = 0; i < n; i++)
		bm.dirty[pid[i]] = 0;
	self->stats.out += n;
}

/*
 * Move the clock hand a little: a page that it marked on its last turn and that
 * nobody used since becomes a victim. Words of pages not in memory are skipped;
 * a store a thousand times its buffer would rather keep a table of those that are.
 */
static unsigned int sweep(u64 *victim, unsigned int n)
{
	u64 end = atomic_load(&bm.next);
	u64 pid = atomic_fetch_add(&bm.hand, SWEEP) % end;

	if (end > pid + SWEEP)
		end = pid + SWEEP;
	for (; pid < end && n < bm.batch; pid++) {
		u64 word = atomic_load(&bm.state[pid]);

		if (STATE(word) == UNLOCKED)
			change_state(pid, word, MARKED);
		else if (STATE(word) == MARKED && change_state(pid, word, SHARED))
			victim[n++] = pid;
	}
	return n;
}

static int compare_pid(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

/*
 * Evict a batch. Never waits for a page lock, so that a thread may call this
 * while it holds some. Returns the number of pages freed.
 */
static unsigned int evict(void)
{
	u64 victim[BATCH_MAX], dirty[BATCH_MAX], scanned;
	unsigned int i, n = 0, nr_dirty = 0;

	for (scanned = 0; n < bm.batch && scanned <= 2 * bm.next; scanned += SWEEP)
		n = sweep(victim, n);
	if (!n)
		return 0;
	/* The hand may have passed the end: sort, so that neighbours meet */
	qsort(victim, n, sizeof(*victim), compare_pid);
	for (i = 0; i < n; i++)
		if (bm.dirty[victim[i]])
			dirty[nr_dirty++] = victim[i];
	write_pages(dirty, nr_dirty);

	/* Readers were welcome during the write, from here on they are not */
	for (i = 0; i < n; i++)
		change_state(victim[i], atomic_load(&bm.state[victim[i]]), LOCKED);
	free_pages(victim, n);
	for (i = 0; i < n; i++)
		release(victim[i], EVICTED);
	atomic_fetch_sub(&bm.used, n);
	self->stats.evicted += n;
	self->stats.evict_calls++;
	return n;
}

/*
 * Nothing can be had. Other threads may hold everything just now, or pages are
 * on their way back: direct I/O holds what it wrote for a moment longer.
 */
static void make_room(unsigned int *tries)
{
	if (++*tries > 30000)
		errx(1, "out of memory: %llu of %llu buffer pages in use, none can be evicted",
		     atomic_load(&bm.used), bm.buffer_pages);
	if (!evict())
		usleep(*tries < 100 ? 50 : 1000);
}

/* Count pages as used before they are; some slack spares most ENOMEM */
static void reserve(unsigned int n)
{
	unsigned long long limit = bm.buffer_pages - bm.buffer_pages / 16, used = bm.used;
	unsigned int tries = 0;

	for (;;) {
		if (used + n > limit) {
			make_room(&tries);
			used = bm.used;
		} else if (atomic_compare_exchange_weak(&bm.used, &used, used + n)) {
			return;
		}
	}
}

/* Memory for new pages. What is in it is left over from evicted ones. */
static void alloc_pages(u64 first, unsigned int n)
{
	unsigned int tries = 0, done = 0;
	struct exmap_iov *vec;
	int failed;

	reserve(n);
	if (bm.madvise)
		return;		/* the first touch does it */
	vec = self->vectors->iov;
	do {
		/* What an earlier round placed is skipped; evict() used the vectors */
		vec->page = first;
		vec->len = n;
		failed = exmap_action(EXMAP_OP_ALLOC, 1);
		if (failed > 0)
			errno = -vec->res;
		if (failed && errno != ENOMEM)
			err(1, "exmap ALLOC");
		if (failed >= 0)
			done += vec->pages;
		if (failed) {
			self->stats.enomem++;
			make_room(&tries);
		}
	} while (failed);
	if (done != n)
		errx(1, "exmap ALLOC: %u of %u pages", done, n);
}

/* Read what comes first of these vectors; its address says what that is */
static ssize_t read_some(const struct iovec *iov, int n)
{
	off_t pos = (self->interface & 0xff) | EXMAP_OP_READ << 8 |
		    (off_t)(self->interface >> 8) << 16;

	if (bm.madvise)
		return pread(bm.file_fd, iov->iov_base, iov->iov_len,
			     (char *)iov->iov_base - bm.region);
	if (n == 1)
		return pread(bm.exmap_fd, iov->iov_base, iov->iov_len, pos);
	return preadv(bm.exmap_fd, iov, n, pos);
}

/* Bring in pages that the caller has locked */
static void read_pages(const u64 *pid, unsigned int n)
{
	struct iovec iov[BATCH_MAX], *v = iov, *end = iov;
	unsigned int i, run, tries = 0;
	ssize_t got;

	reserve(n);
	for (i = 0; i < n; i += run) {
		run = run_length(pid + i, n - i);
		end->iov_base = bm_page(pid[i]);
		end++->iov_len = (size_t)run * PAGE_SIZE;
	}
	while (v < end) {
		got = read_some(v, end - v);
		if (got < 0 && errno == ENOMEM) {
			self->stats.enomem++;
			make_room(&tries);
			continue;
		}
		if (got < 0)
			err(1, "reading the page file %s", bm.file);
		if (!got)
			errx(1, "the page file %s ends too early", bm.file);
		self->stats.in_calls++;
		/* A call may stop short: go on behind what it did */
		for (; v < end && (size_t)got >= v->iov_len; v++)
			got -= v->iov_len;
		if (got) {
			v->iov_base = (char *)v->iov_base + got;
			v->iov_len -= got;
		}
	}
	self->stats.in += n;
}

/* Optimistic reads */

void bm_restart(void)
{
	self->stats.restarts++;
	usleep(50);		/* not a spin: it may be input or output in the way */
	siglongjmp(self->restart, 1);
}

void bm_optimistic_end(void)
{
	atomic_store(&self->optimistic, false);
}

/*
 * Installed with SA_NODEFER: the handler is left by siglongjmp(), and without
 * it SIGSEGV would stay blocked and the thread's second one would be fatal.
 */
static void on_segv(int sig, siginfo_t *info, void *context)
{
	char *addr = info->si_addr;

	(void)context;
	/* si_code > 0: a real access, not a signal that somebody sent */
	if (info->si_code > 0 && self && atomic_load(&self->optimistic) &&
	    addr >= bm.region && addr < bm.region + bm.virt_pages * PAGE_SIZE) {
		self->stats.segv++;
		siglongjmp(self->restart, 1);
	}
	/* A bug elsewhere: the access is repeated, and ends as it would have */
	signal(sig, SIG_DFL);
	if (info->si_code <= 0)
		raise(sig);
}

u64 bm_read_begin(u64 pid)
{
	unsigned int spins = 0;
	u64 word;

	if (pid >= bm.next)
		errx(1, "%s is corrupt: it refers to page %llu", bm.file, pid);
	for (;;) {
		word = atomic_load_explicit(&bm.state[pid], memory_order_acquire);
		switch (STATE(word)) {
		case UNLOCKED:
		case SHARED:
			return VERSION(word);
		case MARKED:
			/* Used again: the clock hand shall spare it */
			if (change_state(pid, word, UNLOCKED))
				return VERSION(word);
			break;
		case EVICTED:
			bm_prefetch(pid, 1);
			break;
		case LOCKED:
			if (++spins > 100)
				usleep(50);
		}
	}
}

void bm_read_check(u64 pid, u64 version)
{
	u64 word;

	/* All reads of the page come before this look at its version */
	atomic_thread_fence(memory_order_acquire);
	word = atomic_load_explicit(&bm.state[pid], memory_order_relaxed);
	if (VERSION(word) != version || STATE(word) == LOCKED || STATE(word) == EVICTED)
		bm_restart();
}

/* Read those of the pages that are not in memory, with one call */
void bm_prefetch(u64 first, u64 count)
{
	u64 pid, missing[BATCH_MAX];
	unsigned int i, n = 0;

	for (pid = first; pid < first + count && n < bm.batch; pid++) {
		u64 word = atomic_load_explicit(&bm.state[pid], memory_order_relaxed);

		/* The lock makes the page ours to bring in, others wait for it */
		if (STATE(word) == EVICTED && change_state(pid, word, LOCKED))
			missing[n++] = pid;
	}
	if (n)
		read_pages(missing, n);
	for (i = 0; i < n; i++)
		release(missing[i], UNLOCKED);
}

/* Writers */

bool bm_upgrade(u64 pid, u64 version)
{
	u64 word = atomic_load(&bm.state[pid]);

	return VERSION(word) == version && (STATE(word) == UNLOCKED || STATE(word) == MARKED) &&
	       change_state(pid, word, LOCKED);
}

void bm_unlock(u64 pid)
{
	bm.dirty[pid] = 1;
	release(pid, UNLOCKED);
}

u64 bm_extent(u64 count)
{
	u64 first = atomic_fetch_add(&bm.next, count);

	/* The last page of the region stays empty, see check_recovery() */
	if (first + count >= bm.virt_pages)
		errx(1, "the region of %llu pages is full, give it more with --virt-mb",
		     bm.virt_pages);
	return first;
}

void bm_create(u64 first, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++)
		change_state(first + i, atomic_load(&bm.state[first + i]), LOCKED);
	alloc_pages(first, count);
}

void bm_flush(void)
{
	u64 pid, end = bm.next, batch[BATCH_MAX];
	unsigned int i, n = 0;

	for (pid = 0; pid < end; pid++) {
		u64 word = atomic_load(&bm.state[pid]);

		if (STATE(word) != EVICTED && bm.dirty[pid] && change_state(pid, word, SHARED))
			batch[n++] = pid;
		if (n < BATCH_MAX && pid < end - 1)
			continue;
		write_pages(batch, n);
		for (i = 0; i < n; i++)
			release(batch[i], UNLOCKED);
		n = 0;
	}
	if (fdatasync(bm.file_fd))
		err(1, "writing the page file %s", bm.file);
}

/* Start */

static void *map(size_t len, int flags, int fd, u64 offset)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, offset);

	if (p == MAP_FAILED)
		err(1, "mmap of %zu KiB%s", len / 1024, fd < 0 ? "" : " of exmap");
	return p;
}

static void *map_anonymous(size_t len)
{
	return map(len, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static void open_exmap(void)
{
	struct exmap_ioctl_setup setup = {
		.fd = bm.file_fd,
		.max_interfaces = bm.nr_threads,
		.buffer_size = bm.buffer_pages,
	};
	unsigned int i;

	bm.exmap_fd = open("/dev/exmap", O_RDWR | O_CLOEXEC);
	if (bm.exmap_fd < 0)
		err(1, "cannot open /dev/exmap%s", errno != ENOENT ? "" :
		    " (is the exmap driver loaded? --madvise works without it)");
	if (ioctl(bm.exmap_fd, EXMAP_IOCTL_SETUP, &setup))
		err(1, "exmap setup with %llu pages%s", bm.buffer_pages, errno != ENOMEM ? "" :
		    " (more than ulimit -l allows?)");
	bm.region = map(bm.virt_pages * PAGE_SIZE, MAP_SHARED, bm.exmap_fd, EXMAP_OFF_EXMAP);
	for (i = 0; i < bm.nr_threads; i++)
		bm.threads[i].vectors = map(PAGE_SIZE, MAP_SHARED, bm.exmap_fd,
					    EXMAP_OFF_INTERFACE(i));
}

void bm_init(void)
{
	struct sigaction action = {
		.sa_sigaction = on_segv,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};
	int flags = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC;
	unsigned int i;

	/* All batches of all threads together leave most of the buffer alone */
	bm.batch = bm.buffer_pages / (4 * bm.nr_threads);
	if (bm.batch > BATCH_MAX)
		bm.batch = BATCH_MAX;
	if (!bm.batch)
		errx(1, "a buffer of %llu pages is too small for %u threads", bm.buffer_pages,
		     bm.nr_threads);

	/* The buffer is the cache: the kernel need not keep a second copy */
	bm.file_fd = open(bm.file, flags | O_DIRECT, 0666);
	bm.direct = bm.file_fd >= 0;
	if (bm.file_fd < 0 && errno == EINVAL)
		bm.file_fd = open(bm.file, flags, 0666);
	if (bm.file_fd < 0)
		err(1, "cannot create the page file %s", bm.file);
	/* Threads that write do not wait for each other to allocate blocks then */
	if (fallocate(bm.file_fd, 0, 0, bm.file_pages * PAGE_SIZE) && errno != EOPNOTSUPP)
		err(1, "%llu MiB for the page file %s", bm.file_pages / 256, bm.file);

	bm.state = map_anonymous(bm.virt_pages * sizeof(*bm.state));
	bm.dirty = map_anonymous(bm.virt_pages);
	bm.threads = map_anonymous(bm.nr_threads * sizeof(*bm.threads));
	for (i = 0; i < bm.nr_threads; i++)
		bm.threads[i].interface = i;
	if (bm.madvise) {
		bm.region = map_anonymous(bm.virt_pages * PAGE_SIZE);
		/* Huge pages could not go one by one (EINVAL: there are none) */
		madvise(bm.region, bm.virt_pages * PAGE_SIZE, MADV_NOHUGEPAGE);
	} else {
		open_exmap();
	}
	if (sigaction(SIGSEGV, &action, NULL))
		err(1, "sigaction");
}

/* What all reads rely on: touching a page that is not there brings us back */
static void check_recovery(void)
{
	char *missing = bm_page(bm.virt_pages - 1);

	if (sigsetjmp(self->restart, 0)) {
		bm_optimistic_end();
		return;
	}
	atomic_store(&self->optimistic, true);
	(void)__atomic_load_n(missing, __ATOMIC_SEQ_CST);
	errx(1, "a page that is not there could be read: no SIGSEGV");
}

void bm_thread_start(unsigned int id)
{
	self = &bm.threads[id];
	if (bm.madvise)
		return;		/* it reads as zeroes there, the version tells */
	check_recovery();
	check_recovery();	/* the second one is what SA_NODEFER is for */
	self->stats.segv -= 2;
}

struct bm_stats bm_collect_stats(void)
{
	struct bm_stats sum = { 0 };
	u64 *to = (u64 *)&sum, *from;
	unsigned int i, j;

	for (i = 0; i < bm.nr_threads; i++) {
		from = (u64 *)&bm.threads[i].stats;
		for (j = 0; j < sizeof(sum) / sizeof(*to); j++)
			to[j] += from[j];
		memset(from, 0, sizeof(sum));
	}
	return sum;
}
