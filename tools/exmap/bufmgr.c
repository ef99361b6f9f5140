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
 * What this thread reads ahead with: calls in flight, oldest first. Their pages
 * are LOCKED, and only this thread can end that. So whenever it is about to wait
 * for something that another thread may have, it finishes a call of its own
 * instead, as long as there is one: the other may be waiting for just these pages.
 * A restart loses nothing, since they are not on the stack.
 */
static __thread struct {
	struct call call[CALLS_MAX];
	unsigned int first, nr;
} ahead;

static void finish(struct call *call);

static bool finish_oldest(void)
{
	struct call *call = &ahead.call[ahead.first];

	if (!ahead.nr)
		return false;
	/* No longer one of them: finish() may have to wait for others of them */
	ahead.first = (ahead.first + 1) % CALLS_MAX;
	ahead.nr--;
	finish(call);
	return true;
}

/* For who waits for others */
static void pause_for(unsigned int usec)
{
	if (!finish_oldest())
		usleep(usec);
}

/* Write pages that the caller holds SHARED, with one call */
static void write_pages(const u64 *pid, unsigned int n)
{
	struct call call;

	if (!n)
		return;
	call_init(&call);
	call_add(&call, EXMAP_OP_WRITE, pid, n);
	call_start(&call);
	finish(&call);
}

/*
 * Choose a batch of pages to evict, which are written and LOCKED when this
 * returns. Never waits for a page lock, so that a thread may call this while it
 * holds some.
 */
static unsigned int choose_victims(u64 *victim)
{
	u64 dirty[BATCH_MAX], scanned;
	unsigned int i, n = 0, nr_dirty = 0;

	for (scanned = 0; n < bm.batch && scanned <= 2 * bm.next; scanned += SWEEP)
		n = sweep(victim, n);
	/* The hand may have passed the end: sort, so that neighbours meet */
	qsort(victim, n, sizeof(*victim), compare_pid);
	for (i = 0; i < n; i++)
		if (bm.dirty[victim[i]])
			dirty[nr_dirty++] = victim[i];
	write_pages(dirty, nr_dirty);

	/* Readers were welcome during the write, from here on they are not */
	for (i = 0; i < n; i++)
		change_state(victim[i], atomic_load(&bm.state[victim[i]]), LOCKED);
	return n;
}

/* Take the memory of victims away: one call, one TLB shootdown */
static void free_pages(const u64 *victim, unsigned int n)
{
	struct call call;

	call_init(&call);
	call_add(&call, EXMAP_OP_FREE, victim, n);
	call_start(&call);
	finish(&call);
}

/*
 * Make room: by these victims, or if there are none, by waiting. Other
 * threads may hold everything just now, or pages are on their way back: whoever
 * does direct I/O on one holds it for a moment longer.
 */
static void make_room(const u64 *victim, unsigned int n, unsigned int *tries)
{
	if (++*tries > 30000)
		errx(1, "out of memory: %llu of %llu buffer pages in use, none can be evicted",
		     atomic_load(&bm.used), bm.buffer_pages);
	if (n)
		free_pages(victim, n);
	else
		pause_for(*tries < 100 ? 50 : 1000);
}

/*
 * Count pages as used before they are; some slack spares most ENOMEM. Where there
 * is no room for them, victims are returned, at least as many, which are to be
 * taken out by the very call that brings the pages in: that spares a call.
 */
static unsigned int reserve(unsigned int n, u64 *victim)
{
	unsigned long long limit = bm.buffer_pages - bm.buffer_pages / 16, used = bm.used;
	unsigned int tries = 0, nr_victims;

	for (;;) {
		if (used + n <= limit) {
			if (atomic_compare_exchange_weak(&bm.used, &used, used + n))
				return 0;
			continue;
		}
		nr_victims = choose_victims(victim);
		if (nr_victims >= n)
			return nr_victims;
		make_room(victim, nr_victims, &tries);
		used = bm.used;
	}
}

/* Start a call that brings in pages, and takes out others if it must */
static void start_filling(struct call *call, enum exmap_opcode opcode, const u64 *pid,
			  unsigned int n)
{
	u64 victim[BATCH_MAX];
	unsigned int nr_victims = reserve(n, victim);

	call_init(call);
	/* In this order: what the first vectors free, the next ones use */
	call_add(call, EXMAP_OP_FREE, victim, nr_victims);
	call_add(call, opcode, pid, n);
	call_start(call);
}

/* The pages of a call are where they should be: let others have them */
static void pass_on(const struct exmap_vec *vec)
{
	u64 pid;

	for (pid = vec->page; pid < vec->page + vec->len; pid++) {
		switch (vec->opcode) {
		case EXMAP_OP_READ:
			release(pid, UNLOCKED);
			break;
		case EXMAP_OP_FREE:
			release(pid, EVICTED);
			break;
		case EXMAP_OP_WRITE:
			bm.dirty[pid] = 0;	/* and SHARED as before */
			break;
		case EXMAP_OP_ALLOC:
			break;			/* stays ours, and LOCKED */
		}
	}
}

/* Wait for a call, and repeat it until all is done */
static void finish(struct call *call)
{
	const u64 in = call->count[EXMAP_OP_READ], out = call->count[EXMAP_OP_WRITE];
	const u64 coming = in + call->count[EXMAP_OP_ALLOC], going = call->count[EXMAP_OP_FREE];
	struct bm_stats *stats = &self->stats;
	unsigned int i, n, tries = 0;
	u64 victim[BATCH_MAX];

	while (!call_wait(call)) {
		stats->enomem++;
		/* What brings nothing in lacks memory of another kind: wait for that */
		n = coming ? choose_victims(victim) : 0;
		make_room(victim, n, &tries);
		call_start(call);
	}
	for (i = 0; i < call->nr; i++)
		pass_on(&call->vec[i]);
	/* See reserve(): what comes has taken the places of victims, if there are any */
	if (going)
		atomic_fetch_sub(&bm.used, going - coming);

	stats->in += in;
	stats->out += out;
	stats->evicted += going;
	stats->evict_calls += going > 0;
	if (bm.madvise)
		return;		/* several calls, already counted */
	stats->in_calls += in > 0;
	stats->out_calls += out > 0;
	stats->joined += coming && going;
}

/*
 * Bring in those of the pages that are not in memory, with one call. It has only
 * begun when this returns in uring mode: call_submit() or a wait sends it.
 */
static void bring_in(u64 first, u64 count)
{
	u64 pid, missing[BATCH_MAX];
	unsigned int n = 0;

	if (ahead.nr == CALLS_MAX)
		finish_oldest();
	for (pid = first; pid < first + count && n < bm.batch; pid++) {
		u64 word = atomic_load_explicit(&bm.state[pid], memory_order_relaxed);

		/* The lock makes the page ours to bring in, others wait for it */
		if (STATE(word) == EVICTED && change_state(pid, word, LOCKED))
			missing[n++] = pid;
	}
	if (!n)
		return;
	start_filling(&ahead.call[(ahead.first + ahead.nr) % CALLS_MAX], EXMAP_OP_READ,
		      missing, n);
	ahead.nr++;
	if (!bm.uring)
		finish_oldest();	/* it has waited already */
}

/*
 * In uring mode, a batch of pages is kept in flight in several calls: the first are
 * copied while others are still on their way. Else each batch comes in one call.
 */
u64 bm_read_ahead(u64 pid, u64 next, u64 end)
{
	u64 window = bm.uring ? (bm.batch + CALLS_MAX - 1) / CALLS_MAX : bm.batch;
	u64 limit = bm.uring ? pid + bm.batch : pid + 1, n;
	bool begun = false;

	if (limit > end)
		limit = end;
	for (; next < limit; next += n) {
		n = end - next < window ? end - next : window;
		bring_in(next, n);
		begun = true;
	}
	if (begun)
		call_submit();
	return next;
}

/* Optimistic reads */

void bm_restart(void)
{
	self->stats.restarts++;
	pause_for(50);		/* not a spin: it may be input or output in the way */
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
			bring_in(pid, 1);
			break;
		case LOCKED:
			/* By us, or by somebody who may in turn wait for us */
			if (!finish_oldest() && ++spins > 100)
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
	u64 pid[BATCH_MAX];
	struct call call;
	unsigned int i;

	for (i = 0; i < count; i++) {
		pid[i] = first + i;
		change_state(pid[i], atomic_load(&bm.state[pid[i]]), LOCKED);
	}
	/* What is in the memory is left over from pages that were evicted */
	start_filling(&call, EXMAP_OP_ALLOC, pid, count);
	finish(&call);
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

	bm.exmap_fd = open("/dev/exmap", O_RDWR | O_CLOEXEC);
	if (bm.exmap_fd < 0)
		err(1, "cannot open /dev/exmap%s", errno != ENOENT ? "" :
		    " (is the exmap driver loaded? --madvise works without it)");
	if (ioctl(bm.exmap_fd, EXMAP_IOCTL_SETUP, &setup))
		err(1, "exmap setup with %llu pages%s", bm.buffer_pages, errno != ENOMEM ? "" :
		    " (more than ulimit -l allows?)");
	bm.region = map(bm.virt_pages * PAGE_SIZE, MAP_SHARED, bm.exmap_fd, EXMAP_OFF_EXMAP);
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
	call_thread_start();
	check_recovery();
	check_recovery();	/* the second one is what SA_NODEFER is for */
	self->stats.segv -= 2;
}

void bm_thread_stop(void)
{
	while (finish_oldest())
		;
	call_thread_stop();
}

struct bm_stats bm_collect_stats(void)
{
	struct bm_stats sum = { 0 };
	u64 *to = (u64 *)&sum, *from, most = 0;
	unsigned int i, j;

	for (i = 0; i < bm.nr_threads; i++) {
		if (most < bm.threads[i].stats.in_flight)
			most = bm.threads[i].stats.in_flight;
		from = (u64 *)&bm.threads[i].stats;
		for (j = 0; j < sizeof(sum) / sizeof(*to); j++)
			to[j] += from[j];
		memset(from, 0, sizeof(sum));
	}
	sum.in_flight = most;
	return sum;
}
