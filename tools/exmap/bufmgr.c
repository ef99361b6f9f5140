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
 * Each page has a word: version << 8 | state. The version is incremented whenever a lock
 * is released, which includes the eviction and the return of the page. A word of zero
 * describes a page that is not in memory, so that a new array needs no initialisation,
 * however large the region is.
 */
enum page_state {
	EVICTED,	/* not in memory */
	UNLOCKED,
	MARKED,		/* unlocked, and not used since the clock hand passed */
	SHARED,		/* being written to the file: may be read, but not locked */
	LOCKED,		/* locked by a writer, or on the way into or out of memory */
};

#define STATE_BITS	8
#define STATE(word)	((word) & ((1 << STATE_BITS) - 1))
#define VERSION(word)	((word) >> STATE_BITS)

#define SWEEP		64	/* pages by which the clock hand moves at a time */

struct bm bm;
__thread struct bm_thread *self;

/* Change the state of a page if its word is still @word. Returns whether it was. */
static bool change_state(u64 pid, unsigned long long word, enum page_state to)
{
	u64 new = VERSION(word) << STATE_BITS | to;

	if (!atomic_compare_exchange_strong(&bm.state[pid], &word, new))
		return false;
	/* Readers must see the lock before any change that is made under the lock */
	atomic_thread_fence(memory_order_seq_cst);
	return true;
}

/* Unlock a page. Its new version tells readers that they must start over. */
static void release(u64 pid, enum page_state to)
{
	u64 word = atomic_load_explicit(&bm.state[pid], memory_order_relaxed);

	word = (VERSION(word) + 1) << STATE_BITS | to;
	atomic_store_explicit(&bm.state[pid], word, memory_order_release);
}

/*
 * Move the clock hand by SWEEP pages. A page that the hand marked on its previous turn,
 * and that was not used since, becomes a victim. The hand skips pages that are not in
 * memory; if a store were a thousand times as large as its buffer, it should keep a
 * table of the resident pages instead.
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
 * The read-ahead calls of this thread that are in flight, oldest first. Their pages are
 * LOCKED, and only this thread can unlock them. Another thread may be waiting for these
 * pages. To avoid a deadlock, a thread that would have to wait for another thread
 * therefore finishes one of its own calls instead, as long as it has any. The calls are
 * not on the stack, so that they survive a restart.
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
	/* Dequeue the call first, because finish() may finish further calls of the queue */
	ahead.first = (ahead.first + 1) % CALLS_MAX;
	ahead.nr--;
	finish(call);
	return true;
}

/* Wait a moment for other threads, or finish a call that they may be waiting for */
static void pause_for(unsigned int usec)
{
	if (!finish_oldest())
		usleep(usec);
}

/* Write pages with one call. The caller must have made them SHARED. */
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
 * Choose a batch of pages to evict. When this function returns, they are LOCKED, and the
 * dirty ones were written. It never waits for a page lock, so that a thread may call it
 * while it holds page locks.
 */
static unsigned int choose_victims(u64 *victim)
{
	u64 dirty[BATCH_MAX], scanned;
	unsigned int i, n = 0, nr_dirty = 0;

	for (scanned = 0; n < bm.batch && scanned <= 2 * bm.next; scanned += SWEEP)
		n = sweep(victim, n);
	/* Sort, since the hand may have wrapped: adjacent pages shall share a vector */
	qsort(victim, n, sizeof(*victim), compare_pid);
	for (i = 0; i < n; i++)
		if (bm.dirty[victim[i]])
			dirty[nr_dirty++] = victim[i];
	write_pages(dirty, nr_dirty);

	/* The pages could be read while they were written; lock out readers from here on */
	for (i = 0; i < n; i++)
		change_state(victim[i], atomic_load(&bm.state[victim[i]]), LOCKED);
	return n;
}

/* Evict the victims: one call, with one TLB shootdown for all pages */
static void free_pages(const u64 *victim, unsigned int n)
{
	struct call call;

	call_init(&call);
	call_add(&call, EXMAP_OP_FREE, victim, n);
	call_start(&call);
	finish(&call);
}

/*
 * Make room by evicting the victims or, if there are none, by waiting. Other threads may
 * have all pages locked at the moment. Also, evicted pages can only be reused when direct
 * I/O has dropped its references to them, which may happen a moment later.
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
 * Reserve room for @n pages before they are brought in. The limit leaves some slack, which
 * avoids most ENOMEM failures.
 *
 * Return: 0 if there was room. Otherwise the number of victims, which is at least @n. The
 * caller must evict them in the call that brings in the new pages, which saves a call.
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

/* Start a call that brings in pages and, if there is no room, evicts others */
static void start_filling(struct call *call, enum exmap_opcode opcode, const u64 *pid,
			  unsigned int n)
{
	u64 victim[BATCH_MAX];
	unsigned int nr_victims = reserve(n, victim);

	call_init(call);
	/* The order matters: later vectors use the memory that earlier vectors free */
	call_add(call, EXMAP_OP_FREE, victim, nr_victims);
	call_add(call, opcode, pid, n);
	call_start(call);
}

/* Update the states of the pages of a vector that is complete */
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
			bm.dirty[pid] = 0;	/* stays SHARED */
			break;
		case EXMAP_OP_ALLOC:
			break;			/* stays LOCKED by the caller */
		}
	}
}

/* Wait for a call, and repeat it until all of its pages are done */
static void finish(struct call *call)
{
	const u64 in = call->count[EXMAP_OP_READ], out = call->count[EXMAP_OP_WRITE];
	const u64 coming = in + call->count[EXMAP_OP_ALLOC], going = call->count[EXMAP_OP_FREE];
	struct bm_stats *stats = &self->stats;
	unsigned int i, n, tries = 0;
	u64 victim[BATCH_MAX];

	while (!call_wait(call)) {
		stats->enomem++;
		/* Evicting does not help a call that brings in no pages: let it wait */
		n = coming ? choose_victims(victim) : 0;
		make_room(victim, n, &tries);
		call_start(call);
	}
	for (i = 0; i < call->nr; i++)
		pass_on(&call->vec[i]);
	/* If there were victims, the new pages took their places and were not reserved */
	if (going)
		atomic_fetch_sub(&bm.used, going - coming);

	stats->in += in;
	stats->out += out;
	stats->evicted += going;
	stats->evict_calls += going > 0;
	if (bm.madvise)
		return;		/* transfer() has counted the calls */
	stats->in_calls += in > 0;
	stats->out_calls += out > 0;
	stats->joined += coming && going;
}

/*
 * Bring in the pages of a range that are not in memory, with one call. In uring mode, the
 * call is only queued when this function returns: call_submit() or a wait submits it.
 */
static void bring_in(u64 first, u64 count)
{
	u64 pid, missing[BATCH_MAX];
	unsigned int n = 0;

	if (ahead.nr == CALLS_MAX)
		finish_oldest();
	for (pid = first; pid < first + count && n < bm.batch; pid++) {
		u64 word = atomic_load_explicit(&bm.state[pid], memory_order_relaxed);

		/* Lock the page, so that no other thread brings it in as well */
		if (STATE(word) == EVICTED && change_state(pid, word, LOCKED))
			missing[n++] = pid;
	}
	if (!n)
		return;
	start_filling(&ahead.call[(ahead.first + ahead.nr) % CALLS_MAX], EXMAP_OP_READ,
		      missing, n);
	ahead.nr++;
	if (!bm.uring)
		finish_oldest();	/* the ioctl is complete already */
}

/*
 * In uring mode, several calls that together have a batch of pages are in flight, so that
 * the first pages can be copied while the next are still being read. Otherwise, one call
 * brings in a whole batch.
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
	pause_for(50);		/* sleep, because the page may be waiting for I/O */
	siglongjmp(self->restart, 1);
}

void bm_optimistic_end(void)
{
	atomic_store(&self->optimistic, false);
}

/*
 * Installed with SA_NODEFER, because siglongjmp() leaves the handler without a return.
 * SIGSEGV would otherwise stay blocked, and the second one would kill the process.
 */
static void on_segv(int sig, siginfo_t *info, void *context)
{
	char *addr = info->si_addr;

	(void)context;
	/* si_code > 0: the signal was raised by an access, not sent by kill() */
	if (info->si_code > 0 && self && atomic_load(&self->optimistic) &&
	    addr >= bm.region && addr < bm.region + bm.virt_pages * bm.page_size) {
		self->stats.segv++;
		siglongjmp(self->restart, 1);
	}
	/* A bug elsewhere: restore the default action, and let the access fault again */
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
			/* The page is in use: clear the mark, so that it is not evicted */
			if (change_state(pid, word, UNLOCKED))
				return VERSION(word);
			break;
		case EVICTED:
			bring_in(pid, 1);
			break;
		case LOCKED:
			/*
			 * Locked by this thread for read-ahead, or by another thread, which
			 * may in turn be waiting for pages that this thread has locked.
			 */
			if (!finish_oldest() && ++spins > 100)
				usleep(50);
		}
	}
}

void bm_read_check(u64 pid, u64 version)
{
	u64 word;

	/* All reads of the page must be complete before its version is checked */
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

	/* The last page of the region stays empty: check_recovery() needs it */
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
	/* ALLOC does not clear pages: they may hold data of pages that were evicted */
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

/* Setup */

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
	struct exmap_setup2 setup = {
		.size = sizeof(setup),
		.fd = bm.file_fd,
		.max_interfaces = bm.nr_threads,
		.buffer_size = bm.buffer_pages * (bm.page_size / PAGE_SIZE_MIN),
		.slot_size = bm.page_size,
	};

	bm.exmap_fd = open("/dev/exmap", O_RDWR | O_CLOEXEC);
	if (bm.exmap_fd < 0)
		err(1, "cannot open /dev/exmap%s", errno != ENOENT ? "" :
		    " (is the exmap driver loaded? --madvise works without it)");
	if (ioctl(bm.exmap_fd, EXMAP_IOCTL_SETUP2, &setup) < 0)
		err(1, "exmap setup with %llu pages%s", bm.buffer_pages, errno != ENOMEM ? "" :
		    " (more than ulimit -l allows?)");
	bm.region = map(bm.virt_pages * bm.page_size, MAP_SHARED, bm.exmap_fd, EXMAP_OFF_EXMAP);
}

void bm_init(void)
{
	struct sigaction action = {
		.sa_sigaction = on_segv,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};
	int flags = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC;
	unsigned int i;

	/* The batches of all threads together must not exceed a quarter of the buffer */
	bm.batch = bm.buffer_pages / (4 * bm.nr_threads);
	if (bm.batch > BATCH_MAX)
		bm.batch = BATCH_MAX;
	if (!bm.batch)
		errx(1, "a buffer of %llu pages is too small for %u threads", bm.buffer_pages,
		     bm.nr_threads);

	/* O_DIRECT: the buffer is the cache, so the page cache would be a second copy */
	bm.file_fd = open(bm.file, flags | O_DIRECT, 0666);
	bm.direct = bm.file_fd >= 0;
	if (bm.file_fd < 0 && errno == EINVAL)
		bm.file_fd = open(bm.file, flags, 0666);
	if (bm.file_fd < 0)
		err(1, "cannot create the page file %s", bm.file);
	/* Allocate all blocks now, so that writing threads do not wait for each other */
	if (fallocate(bm.file_fd, 0, 0, bm.file_pages * bm.page_size) && errno != EOPNOTSUPP)
		err(1, "%llu MiB for the page file %s", (bm.file_pages * bm.page_size) >> 20,
		    bm.file);

	bm.state = map_anonymous(bm.virt_pages * sizeof(*bm.state));
	bm.dirty = map_anonymous(bm.virt_pages);
	bm.threads = map_anonymous(bm.nr_threads * sizeof(*bm.threads));
	for (i = 0; i < bm.nr_threads; i++)
		bm.threads[i].interface = i;
	if (bm.madvise) {
		bm.region = map_anonymous(bm.virt_pages * bm.page_size);
		/* No huge pages: they cannot be evicted in parts. Failure does no harm. */
		madvise(bm.region, bm.virt_pages * bm.page_size, MADV_NOHUGEPAGE);
	} else {
		open_exmap();
	}
	if (sigaction(SIGSEGV, &action, NULL))
		err(1, "sigaction");
}

/* Check what optimistic reads rely on: an access to a missing page causes a restart */
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
		return;		/* a missing page reads as zeroes, without a SIGSEGV */
	call_thread_start();
	check_recovery();
	check_recovery();	/* twice, to check that SIGSEGV is not left blocked */
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
