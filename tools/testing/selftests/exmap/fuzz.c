// SPDX-License-Identifier: GPL-2.0-only
/*
 * A fuzzer that knows the right outcome of every call
 *
 * Several worlds run side by side. A world is a process with an exmap of its own,
 * whose threads make random calls with arguments near the edges of what is allowed.
 * All random choices derive from the seed and the number of the world.
 *
 * A region has three areas. In the first, every thread *owns* some slots, which no
 * other thread touches: the thread knows at any time which of them have a page, and
 * what that page and the backing file contain. The second area is shared, but pages
 * enter it only by READ, or zeroed: a page there contains zeroes or data of that
 * very slot. In the third area, a page may contain anything that this exmap has ever
 * held, and nothing else. To check this, a page contains either zeroes or a *stamp*,
 * repeated a few times, which names the exmap and the slot. In some worlds, the shared
 * areas are another region of the same pool, at the addresses behind the first one, and
 * calls work on both.
 *
 * In some worlds, allocations fail during some calls, if the kernel supports fault
 * injection and the fuzzer runs as root. Such a call may report the failure, but the
 * state it leaves behind must be right.
 *
 * Some worlds live in a memory cgroup of their own, whose limits change all the
 * time. In most rounds, the world has enough memory nevertheless. In *squeezed*
 * rounds, memory.max is about as large as the current usage, or smaller, so that
 * calls of the exmap are refused memory. Threads make no other calls that charge the
 * cgroup then, because the OOM killer may end the world for such a charge. For a
 * call of the exmap, it must not.
 *
 * At times, all threads rest, and every page of the pool must be accounted for. At
 * other times, the region is unmapped or the process ends while calls are under way.
 */
/* The test runner of kselftest_harness.h is not used here */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include "backing.h"
#include "cgroup.h"
#include "inject.h"
#include "nodes.h"
#include "paged.h"
#pragma GCC diagnostic pop

#include <getopt.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#ifdef HAVE_LIBURING
#include <liburing.h>
#endif

#define MAX_THREADS	32
#define MAX_PROCESSES	16
#define MAX_ENDED	64
#define MAX_KINDS	64
#define MAX_ERRNO	134
#define MAX_VECS	EXMAP_USER_INTERFACE_PAGES
#define MAX_SLOTS	16384
#define HELD		8		/* most pages of a thread in its pipe */
#define SCRATCH		8		/* pages of a thread's file for direct I/O */
#define RING_CALLS	6		/* most io_uring calls of a thread in flight */
#define RING_VECS	16
#define LIMIT		256		/* RLIMIT_MEMLOCK, in pages */
#define MINE		0x5a		/* first byte of pages of run_another() */
#define ENOUGH		100000		/* steps in which every call must succeed once */
#define STUCK		300		/* timeout for a step, in seconds */
#define STACK		(512UL << 10)	/* stack size of threads in a squeezed world */
#define TABLE		512L		/* slots that a page table covers */
#define SETTLE		4		/* seconds until memory.stat is read */
#define SETTLED		30		/* seconds until memory.stat must be right */

/* Anything that this exmap may have held; never equal to a stamp */
#define ANY		(~0ULL)

enum state { EMPTY, FULL, MAYBE };

/*
 * What a thread knows about a slot that it owns. If the slot is neither dirty nor
 * clean, a WRITE with EXMAP_VEC_DIRTY may write it or skip it.
 */
struct slot {
	__u64 content;		/* of its page, or of its last page if it is empty */
	__u64 file;		/* content of its page in the backing file */
	unsigned int life;	/* changes with every new page */
	unsigned int mark;	/* 2 * last call that uses it, + 1 if exclusively */
	enum state state;
	bool dirty;		/* EXMAP_VEC_DIRTY must write it */
	bool clean;		/* EXMAP_VEC_DIRTY must skip it */
	bool lingers;		/* its last page may still be reachable through a TLB */
	bool stuck;		/* a canceled write may keep it in flight */
};

/* A page in a pipe */
struct held {
	long index;		/* index in thread.slots of the slot it came from */
	unsigned int life;
	__u64 content;		/* content when it left the slot */
	bool left;
};

struct ring_call {
	struct exmap_vectors params;
	struct exmap_vec vecs[RING_VECS];
	struct exmap_result results[RING_VECS];
	int ret;
};

struct kind;

struct thread {
	pthread_t thread;
	int index;
	int fd;
	__u64 random;
	__u64 step;
	__u64 version;
	__u64 disturbed;	/* world.disturbance when the step began */
	const struct kind *kind;
	struct slot *slots;
	long first;		/* first slot that it owns */
	long own;
	unsigned int call;	/* number of the call, for slot.mark */
	bool only_anybody;	/* all vectors are for the third area */
	bool all_apart;		/* no slot appears twice in a call */
	bool one_region;	/* the call cannot reach the second region */
	bool many;		/* several calls of this thread run at once */
	enum { FED, ONE_FAILS, SOME_FAIL } allocations;
	bool starved;		/* an allocation of this step failed, or may have */
	/* The call under way; reports show it, too */
	int iface;
	int opcode;
	int nr;
	long ret;
	long arg[3];
	struct exmap_vec vecs[MAX_VECS];
	struct exmap_result results[MAX_VECS];
	struct iovec iov[MAX_VECS + 1];
	int vec;		/* index of the vector being checked, or -1 */
	long maybes;		/* filled slots among those in state MAYBE */
	bool counted;		/* check_vec() has counted the errors */
	bool vague;		/* maybes is not exact */
	int pipe[2];
	struct held held[HELD];
	int nr_held;
	int scratch;
	__u64 scratch_content[SCRATCH];
	__u64 *copy;		/* content of a page */
#ifdef HAVE_LIBURING
	struct io_uring ring;
	bool has_ring;
	struct ring_call ring_calls[RING_CALLS];
#endif
};

struct kind {
	const char *name;
	int weight;
	long (*run)(struct thread *t);	/* returns >= 0, or the -errno to count */
	int errnos[10];			/* errors that it may return */
	bool refused;			/* the kernel must refuse it */
	bool thrifty;			/* only the exmap allocates memory for it */
};

enum ending { CLEAN, EXIT, KILLED };

/* Configuration of a world */
struct config {
	int threads;
	int rounds;
	int steps;		/* per thread and round */
	int ifaces;
	long buffer, slots, own, reread;	/* in pages */
	long cut;		/* first slot of the second region, or 0 */
	long file_pages;	/* slots that the file covers, from the first on */
	long file_cut;		/* bytes missing from the last page of the file */
	__u64 offset;
	__u64 quarantine;
	int backing;		/* enum backing, or -1 */
	int write_error;	/* EBADF or EPERM if the file cannot be written, or 0 */
	bool deferred;
	bool faults;		/* EXMAP_SETUP_PAGEFAULT_ALLOC */
	bool resizes;		/* the pool may shrink while other threads use it */
	bool quota;		/* the pool has a page for every slot */
	bool zaps;		/* MADV_DONTNEED empties slots; the pool notices later */
	bool starves;		/* some allocations fail */
	bool cgroup;		/* the world lives in a memory cgroup of its own */
	bool squeezes;		/* some rounds are squeezed */
	long floor;		/* lowest memory.max in rounds that are not squeezed */
	enum ending ending;
	__u64 end_step;		/* EXIT or KILLED after so many steps of all threads */
};

/* The world that this process runs */
static struct config config;
static struct {
	int number;
	int place;		/* index in shm.live */
	__u64 tag;		/* in all stamps; differs for every exmap */
	int incarnation;
	int round;
	__u64 disturbance;	/* sequence count, odd while the region is disturbed */
	bool gone;		/* the region has been taken away */
	bool squeezed;		/* this round is squeezed */
	int ends;		/* thread that takes the region away this round, or -1 */
	__u64 ends_at;		/* step at which thread @ends does so */
	long stuck;		/* upper bound of the pages held by canceled writes */
	pthread_mutex_t disturb;
	pthread_barrier_t barrier;
	int fd;
	int fd2;		/* of the second region, or -1 */
	int file;		/* the backing file, for accesses by the fuzzer */
	int file_fd;		/* the backing file, for the exmap */
	char *region;
	struct exmap_user_interface *vectors[MAX_THREADS + 1];
	struct thread *workers[MAX_THREADS];
	long rss;
} world;

struct count {
	__u64 tried, succeeded, failed[MAX_ERRNO];
};

static struct shm {
	int stop;		/* start no more steps and worlds */
	int failed;		/* 1: text is being written, 2: text is complete */
	char text[16384];
	__u64 checks;		/* pages checked */
	__u64 worlds;
	__u64 endings[3];
	__u64 exmaps;
	__u64 starved;		/* calls with an allocation that failed, or may have */
	__u64 cgroups;		/* worlds in a memory cgroup */
	__u64 squeezed;		/* squeezed rounds */
	struct count counts[MAX_KINDS];
	__u64 races[MAX_KINDS][MAX_KINDS];
	struct {
		__u64 steps;
		int current[MAX_THREADS];	/* kind + 1 of the call under way, or 0 */
		int wants_squeeze, is_squeezed;	/* set by the world; by its parent */
	} live[MAX_PROCESSES];
} *shm;

static struct {
	__u64 steps, seed, kills;
	int seconds, threads, processes, world;
	bool cgroup;
	bool verbose;
	char *only;
	unsigned long nodes;	/* bitmap of those that have memory */
} options = { .seed = 1, .threads = 4, .processes = 2, .world = -1 };

static bool can_starve;	/* fault injection is available */

/*
 * Parent of the memory cgroups of all worlds, and of a further one without limits,
 * to which the files of squeezed worlds are charged
 */
static struct cgroup cg;
static bool has_cgroup;
static pid_t parent;

static const struct kind kinds[MAX_KINDS];
static int weights[MAX_KINDS], all_weights, thrifty_weights, nr_kinds;

static __u64 mix(__u64 x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

static __u64 next(__u64 *state)
{
	*state += 0x9e3779b97f4a7c15;
	return mix(*state);
}

/* A number from 0 to @limit - 1 */
static long below(__u64 *state, long limit)
{
	return limit > 1 ? next(state) % limit : 0;
}

/* Seed of all random choices in a world */
static __u64 seed_of(int number)
{
	return mix(mix(options.seed) + number);
}

static bool one_in(__u64 *state, int n)
{
	return !below(state, n);
}

static long min_of(long a, long b)
{
	return a < b ? a : b;
}

static bool is_gone(void)
{
	return __atomic_load_n(&world.gone, __ATOMIC_SEQ_CST);
}

/* Reports */

static int describe_vec(struct thread *t, int i, char *text, int size)
{
	const struct exmap_vec *v = &t->vecs[i];
	const struct exmap_result *r = &t->results[i];

	return snprintf(text, size,
			"#   [%d] page %lld len %d opcode %d flags %x region %d node %d: %d, %d pages\n",
			i, v->page, v->len, v->opcode, v->flags, v->region, v->node, r->res,
			r->pages);
}

static int describe(struct thread *t, char *text, int size)
{
	int at, i;

	at = snprintf(text, size,
		      "seed %llu world %d incarnation %d round %d thread %d step %llu: %s\n"
		      "# iface %d opcode %d args %lx %lx %lx returned %ld, disturbed %llu then %llu\n",
		      options.seed, world.number, world.incarnation, world.round, t->index,
		      t->step, t->kind ? t->kind->name : "?", t->iface, t->opcode,
		      t->arg[0], t->arg[1], t->arg[2], t->ret, t->disturbed, world.disturbance);
	for (i = 0; i < t->nr && at < size; i++)
		if (i < 24 || i == t->vec)
			at += describe_vec(t, i, text + at, size - at);
	return at;
}

static int describe_world(char *text, int size)
{
	return snprintf(text, size,
		"# world %d: %d threads, %ld slots (%ld owned by each from 0 on, then %ld), pool %ld%s%s%s, %d interfaces, backing %d%s offset %llx pages %ld-%ld, %s %llu, ending %d%s\n",
		world.number, config.threads, config.slots, config.own, config.reread,
		config.buffer, config.quota ? " (enough)" : "",
		config.starves ? " (starved)" : "",
		config.squeezes ? " (in a cgroup, squeezed at times)" :
		config.cgroup ? " (in a cgroup)" : "", config.ifaces, config.backing,
		config.write_error ? " not to be written" : "", config.offset, config.file_pages,
		config.file_cut, config.deferred ? "deferred" : config.faults ? "faults" : "strict",
		config.quarantine, config.ending, config.cut ? ", two regions" : "");
}

static void __printf(2, 3) bad(struct thread *t, const char *format, ...)
{
	int none = 0, at = 0, size = sizeof(shm->text);
	va_list args;

	/* Nothing is known about a region that is being taken away */
	if (is_gone())
		return;
	if (!__atomic_compare_exchange_n(&shm->failed, &none, 1, false, __ATOMIC_SEQ_CST,
					 __ATOMIC_SEQ_CST))
		_exit(1);
	if (t)
		at = describe(t, shm->text, size);
	else
		at = snprintf(shm->text, size, "seed %llu world %d round %d, all threads at rest\n",
			      options.seed, world.number, world.round);
	if (world.squeezed)
		at += snprintf(shm->text + at, size - at, "# squeezed\n");
	at += snprintf(shm->text + at, size - at, "# ");
	va_start(args, format);
	at += vsnprintf(shm->text + at, size - at, format, args);
	va_end(args);
	at += snprintf(shm->text + at, size - at, "\n");
	describe_world(shm->text + at, size - at);
	__atomic_store_n(&shm->failed, 2, __ATOMIC_SEQ_CST);
	__atomic_store_n(&shm->stop, 1, __ATOMIC_SEQ_CST);
	_exit(1);
}

#define EXPECT(T, CONDITION, ...) do {		\
		if (!(CONDITION))		\
			bad(T, __VA_ARGS__);	\
	} while (0)

/* Calls: record which are under way, and which succeed beside each other */

static int kind_nr(const struct kind *kind)
{
	return kind - kinds;
}

static void count_error(struct thread *t, long err)
{
	if (err < 0 && err > -MAX_ERRNO)
		__atomic_fetch_add(&shm->counts[kind_nr(t->kind)].failed[-err], 1,
				   __ATOMIC_RELAXED);
}

static void begin_call(struct thread *t)
{
	__atomic_store_n(&shm->live[world.place].current[t->index], kind_nr(t->kind) + 1,
			 __ATOMIC_RELAXED);
}

static long end_call(struct thread *t, long ret)
{
	int *current = shm->live[world.place].current, i, other;

	if (ret == -1)
		ret = -errno;
	t->ret = ret;
	for (i = 0; i < config.threads && ret >= 0; i++) {
		other = __atomic_load_n(&current[i], __ATOMIC_RELAXED);
		if (i != t->index && other)
			__atomic_fetch_add(&shm->races[kind_nr(t->kind)][other - 1], 1,
					   __ATOMIC_RELAXED);
	}
	__atomic_store_n(&current[t->index], 0, __ATOMIC_RELAXED);
	return ret;
}

/* Make a system call that sets errno. Returns its result, or -errno. */
#define CALL(T, EXPRESSION) ({				\
	struct thread *caller = (T);			\
							\
	begin_call(caller);				\
	end_call(caller, (long)(EXPRESSION));		\
})

/*
 * At times, let one of the next allocations of this thread fail, or half of its page
 * allocations. @pages must be false if the call may create threads, which would
 * inherit the latter.
 */
static void starve(struct thread *t, bool pages)
{
	const bool some = one_in(&t->random, 4) && pages;
	const int nth = 1 + below(&t->random, 1 << below(&t->random, 6));

	if (!one_in(&t->random, 4) || !config.starves)
		return;
	t->allocations = some ? SOME_FAIL : ONE_FAILS;
	if (some)
		inject_pages(true);
	else
		inject_nth(nth);
}

/* End what starve() began, and note whether an allocation has failed */
static void feed(struct thread *t)
{
	bool failed = false;

	switch (t->allocations) {
	case FED:
		return;
	case ONE_FAILS:
		failed = inject_nth_failed();
		inject_nth(0);
		break;
	case SOME_FAIL:
		failed = true;
		inject_pages(false);
		break;
	}
	t->allocations = FED;
	t->starved |= failed;
	if (failed)
		__atomic_fetch_add(&shm->starved, 1, __ATOMIC_RELAXED);
}

/* CALL() with allocations that may fail */
#define HUNGRY_CALL(T, EXPRESSION) ({			\
	struct thread *eater = (T);			\
	long answer;					\
							\
	starve(eater, true);				\
	answer = CALL(eater, EXPRESSION);		\
	feed(eater);					\
	answer;						\
})

/* Whether an allocation may have failed, by injection or for lack of memory */
static bool may_lack_memory(struct thread *t)
{
	return t->starved || world.squeezed;
}

/* Whether @ret may result from a failed allocation */
static bool lacks_memory(struct thread *t, long ret)
{
	return may_lack_memory(t) && ret == -ENOMEM;
}

/*
 * Whether @ret of a call that uses files may result from a failed allocation. File
 * systems choose the error themselves, and may report later that they could not
 * write to a disk. io_uring cancels a request if it finds no worker for it.
 */
static bool file_lacks_memory(struct thread *t, long ret)
{
	switch (-ret) {
	case ENOMEM:
		return may_lack_memory(t);
	case EAGAIN:
	case ENOSPC:
	case ECANCELED:
		return t->starved;
	case EIO:
		return config.starves;
	default:
		return false;
	}
}

/* Pages */

static char *at(long slot)
{
	return world.region + slot * PG;
}

static __u64 stamp_of(long slot, __u64 version)
{
	return world.tag << 44 | (__u64)slot << 24 | (version & 0xffffff);
}

/* Whether word @i has the stamp: the first of every sector, and the last of the page */
static bool is_stamp_word(int i)
{
	return !(i % 64) || i == WORDS - 1;
}

static void put_stamp(__u64 *words, __u64 stamp)
{
	int i;

	for (i = 0; i < (int)WORDS; i += 64)
		__atomic_store_n(&words[i], stamp, __ATOMIC_RELAXED);
	__atomic_store_n(&words[WORDS - 1], stamp, __ATOMIC_RELAXED);
}

static bool may_be_excused(struct thread *t)
{
	__u64 now = __atomic_load_n(&world.disturbance, __ATOMIC_SEQ_CST);

	return now != t->disturbed || now % 2;
}

/*
 * Wait until no thread disturbs the region. As long as is_still() is true for the
 * returned value, the region has not been disturbed since.
 */
static __u64 calm(void)
{
	__u64 now;

	while ((now = __atomic_load_n(&world.disturbance, __ATOMIC_SEQ_CST)) % 2 && !is_gone())
		sched_yield();
	return now;
}

static bool is_still(__u64 calm)
{
	return calm == __atomic_load_n(&world.disturbance, __ATOMIC_SEQ_CST);
}

/* Copy a page to t->copy. Returns 0, or the signal that the access raised. */
static int copy_page(struct thread *t, long slot)
{
	const __u64 *from = (const __u64 *)at(slot);
	int i;

	if (sigsetjmp(fault_jump, 0))
		return fault_signal;
	fault_expected = true;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	for (i = 0; i < (int)WORDS; i++)
		t->copy[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	fault_expected = false;
	return 0;
}

/* Stamp the page of a slot. Returns 0, or the signal that the access raised. */
static int stamp_slot(long slot, __u64 stamp)
{
	if (sigsetjmp(fault_jump, 0))
		return fault_signal;
	fault_expected = true;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	put_stamp((__u64 *)at(slot), stamp);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	fault_expected = false;
	return 0;
}

/*
 * Check the words of a page. Every stamp must be @want. If that is ANY, it may be
 * any stamp of this exmap or, if @home is not -1, any stamp of slot @home, or zero.
 */
static void check_words(struct thread *t, const __u64 *words, long slot, __u64 want,
			long home)
{
	int i;

	__atomic_fetch_add(&shm->checks, 1, __ATOMIC_RELAXED);
	for (i = 0; i < (int)WORDS; i++) {
		__u64 word = words[i];

		if (!is_stamp_word(i)) {
			if (word)
				bad(t, "slot %ld, word %d: %llx, foreign: nobody writes there",
				    slot, i, word);
		} else if (want != ANY) {
			if (word != want)
				bad(t, "slot %ld, word %d: %llx, expected %llx (tag %llx)",
				    slot, i, word, want, world.tag);
		} else if (word && word >> 44 != world.tag) {
			bad(t, "slot %ld, word %d: %llx, not of this exmap, whose tag is %llx",
			    slot, i, word, world.tag);
		} else if (word && home >= 0 && (long)(word >> 24 & 0xfffff) != home) {
			bad(t, "slot %ld, word %d: %llx, of another slot", slot, i, word);
		}
	}
}

/* Whether the page table has a page for the slot, regardless of any TLB */
static bool is_resident(long slot)
{
	unsigned char there = 0;

	mincore(at(slot), PG, &there);
	return there & 1;
}

static long count_resident(struct thread *t)
{
	static unsigned char there[MAX_SLOTS];
	long i, count = 0;

	/* The array is static: no other thread may be at work */
	EXPECT(t, !mincore(world.region, config.slots * PG, there), "mincore() failed");
	for (i = 0; i < config.slots; i++)
		count += there[i] & 1;
	return count;
}

/* The slots that a thread owns */

static struct slot *own_slot(struct thread *t, long slot)
{
	return slot >= t->first && slot < t->first + t->own ? &t->slots[slot - t->first] : NULL;
}

static long slot_nr(struct thread *t, struct slot *s)
{
	return t->first + (s - t->slots);
}

static void slot_filled(struct slot *s, __u64 content, bool clean)
{
	s->state = FULL;
	s->life++;
	s->content = content;
	s->clean = clean;
	s->dirty = !clean;
	s->lingers = false;
}

static void slot_emptied(struct thread *t, struct slot *s, bool lingers)
{
	int i;

	for (i = 0; i < t->nr_held; i++) {
		struct held *held = &t->held[i];

		if (!held->left && held->index == s - t->slots && held->life == s->life) {
			held->left = true;
			/* A page that lingers may still be written to */
			held->content = lingers ? ANY : s->content;
		}
	}
	s->state = EMPTY;
	s->lingers = lingers;
}

static void own_stamp(struct thread *t, struct slot *s)
{
	__u64 stamp = stamp_of(slot_nr(t, s), ++t->version), before;

	do {
		before = calm();
		if (is_gone())
			return;
		if (!stamp_slot(slot_nr(t, s), stamp))
			break;
		EXPECT(t, !is_still(before), "slot %ld has a page and cannot be written",
		       slot_nr(t, s));
	} while (true);
	s->content = stamp;
	s->dirty = true;
	s->clean = false;
}

/*
 * With page fault allocation, note that a touch may have brought a page, with any
 * content. The slot may have got one even if the touch failed because the region was
 * being disturbed.
 */
static void own_touched(struct thread *t, struct slot *s, bool there)
{
	if (config.faults && s->state != FULL && (there || is_resident(slot_nr(t, s))))
		slot_filled(s, ANY, false);
}

static bool may_lack_pages(struct thread *t);

/*
 * Whether a slot can be touched without the kernel allocating a page table before it
 * calls the driver. If that allocation fails, the OOM killer is invoked.
 */
static bool has_page_table(struct thread *t, long nr)
{
	long i, first = nr - nr % TABLE;

	for (i = first; i < first + TABLE; i++)
		if (own_slot(t, i) && own_slot(t, i)->state == FULL)
			return true;
	return false;
}

/* Compare a slot that the thread owns with what the thread knows about it */
static void own_check(struct thread *t, struct slot *s)
{
	const long nr = slot_nr(t, s);
	__u64 before;
	int sig;

	if (world.squeezed && !has_page_table(t, nr))
		return;
	do {
		before = calm();
		sig = copy_page(t, nr);
		if (is_gone())
			return;
		own_touched(t, s, !sig);
		EXPECT(t, !sig || s->state != FULL || (sig == SIGSEGV && !is_still(before)),
		       "slot %ld has a page (%llx), a touch raised signal %d",
		       nr, s->content, sig);
	} while (sig && s->state == FULL);
	if (s->state == FULL) {
		check_words(t, t->copy, nr, s->content, -1);
	} else if (sig) {
		EXPECT(t, !config.faults || !is_still(before) || may_lack_pages(t),
		       "slot %ld gets no page at a touch", nr);
		EXPECT(t, sig == SIGSEGV && (char *)fault_address >= at(nr) &&
		       (char *)fault_address < at(nr + 1),
		       "slot %ld is empty: signal %d at %p", nr, sig, fault_address);
	} else {
		EXPECT(t, s->lingers, "slot %ld is empty and can be touched: %llx", nr, t->copy[0]);
		check_words(t, t->copy, nr, s->content, -1);
	}
}

/* Check which slots of the thread have a page, in the page table rather than the TLB */
static int own_check_resident(struct thread *t)
{
	static __thread unsigned char there[MAX_SLOTS];
	const int ret = mincore(at(t->first), t->own * PG, there);
	long i;

	EXPECT(t, !ret, "mincore");
	for (i = 0; !ret && i < t->own; i++)
		EXPECT(t, (there[i] & 1) == (t->slots[i].state == FULL),
		       "slot %ld: mincore says %d", t->first + i, there[i]);
	return ret;
}

/* Check a page that ALLOC brought into a slot, and in most cases stamp it */
static void own_fresh(struct thread *t, struct slot *s)
{
	own_check(t, s);
	if (!one_in(&t->random, 8))
		own_stamp(t, s);
}

/* Check a slot of the shared areas, if it has a page */
static void shared_check(struct thread *t, long slot)
{
	bool home = slot < config.own * config.threads + config.reread && !config.faults;

	if (slot < config.own * config.threads)
		return;
	/*
	 * Only an own page in the same page table keeps the kernel from freeing the
	 * table
	 */
	if (world.squeezed && !has_page_table(t, slot))
		return;
	if (copy_page(t, slot) || is_gone())
		return;
	check_words(t, t->copy, slot, ANY, home ? slot : -1);
}

/* Vectors */

static bool transfers(int opcode)
{
	return opcode == EXMAP_OP_READ || opcode == EXMAP_OP_WRITE;
}

static long random_len(struct thread *t, long most)
{
	switch (below(&t->random, 16)) {
	case 0:
		return 0;
	case 1:
		return most;
	case 2:
	case 3:
		return below(&t->random, most + 1);
	case 4 ... 8:
		return min_of(1 + below(&t->random, 16), most);
	default:
		return min_of(1, most);
	}
}

/*
 * Return how many slots of a range that the thread owns the call may use. A slot
 * must not be used twice in a call if one of the uses is exclusive (@apart), as all
 * transfers are.
 */
static long reserve_own(struct thread *t, long slot, long len, bool apart)
{
	long i;

	for (i = 0; i < len; i++) {
		struct slot *s = own_slot(t, slot + i);

		/* Bit 0 of the mark says that the use is exclusive */
		if (s->mark / 2 == t->call && (apart || s->mark % 2))
			break;
		s->mark = t->call * 2 + apart;
	}
	return i;
}

/*
 * Choose a range of up to @most slots that suits the opcode of @v. Some ranges lie
 * outside the region, wholly or in part.
 */
static void random_range(struct thread *t, struct exmap_vec *v, long most)
{
	const long shared = config.own * config.threads, anybody = shared + config.reread;
	const bool zero = v->opcode != EXMAP_OP_ALLOC || v->flags & EXMAP_VEC_ZERO;
	long dice = t->only_anybody ? 99 : below(&t->random, 100);
	long first, pages;

	if (dice < 55 || (config.cut && t->one_region && dice >= 75)) {
		first = t->first + below(&t->random, t->own);
		pages = random_len(t, min_of(most, t->first + t->own - first));
		pages = reserve_own(t, first, pages, t->all_apart || transfers(v->opcode));
	} else if (dice < 75 && config.cut && t->one_region) {
		first = config.slots + below(&t->random, 3);
		pages = below(&t->random, 4);
	} else if (dice < 70 && config.reread && zero) {
		first = shared + below(&t->random, config.reread);
		pages = random_len(t, min_of(most, anybody - first));
	} else if (dice < 75) {
		static const __u64 outside[] = {
			0, 1, 4096, 1ULL << 32, (1ULL << 52) - 1,
		};

		first = config.slots - 2 + below(&t->random, 5);
		if (one_in(&t->random, 3))
			first = config.slots + outside[below(&t->random, 5)];
		first &= (1ULL << 52) - 1;
		pages = one_in(&t->random, 4) ? most : below(&t->random, 4);
	} else {
		first = anybody + below(&t->random, config.slots - anybody);
		pages = random_len(t, min_of(most, config.slots - first));
		/* Free large ranges at times, or the pool would stay empty */
		if (v->opcode == EXMAP_OP_FREE && one_in(&t->random, 2))
			pages = min_of(most, config.slots - first);
	}
	v->page = first;
	v->len = pages;
}

/* Whether a node has memory */
static bool node_exists(int node)
{
	return node < 64 && options.nodes >> node & 1;
}

/* Return the result of a vector that must not do anything, or 1 if it has work to do */
static int error_before(const struct exmap_vec *v)
{
	static const int flags[] = {
		[EXMAP_OP_READ] = EXMAP_VEC_ZERO | EXMAP_VEC_REPLACE,
		[EXMAP_OP_ALLOC] = EXMAP_VEC_ZERO | EXMAP_VEC_ALL_OR_NOTHING,
		[EXMAP_OP_FREE] = 0,
		[EXMAP_OP_WRITE] = EXMAP_VEC_DIRTY | EXMAP_VEC_DSYNC,
		[EXMAP_OP_MOVE] = 0,
	};

	if (v->opcode > EXMAP_OP_MOVE || (v->node && v->opcode != EXMAP_OP_MOVE) ||
	    v->flags & ~flags[v->opcode] ||
	    (v->flags & EXMAP_VEC_ALL_OR_NOTHING && v->len > EXMAP_VEC_ALL_OR_NOTHING_MAX))
		return -EINVAL;
	if (v->region)
		return -ENXIO;
	if (!v->len)
		return 0;
	if (v->page >= (__u64)config.slots || v->len > config.slots - v->page)
		return -ERANGE;
	if (transfers(v->opcode) && config.backing < 0)
		return -ENODEV;
	if (v->opcode == EXMAP_OP_MOVE && !node_exists(v->node))
		return -ENODEV;
	return 1;
}

/*
 * Vectors count the slots of both regions from the first one on. This makes of them what
 * the kernel understands: region and page. A region that does not exist remains.
 */
static void split_vecs(struct exmap_vec *vecs, int nr)
{
	int i;

	for (i = 0; config.cut && i < nr; i++)
		if (vecs[i].page >= (__u64)config.cut && !vecs[i].region) {
			vecs[i].region = 1;
			vecs[i].page -= config.cut;
		}
}

/* Undo split_vecs() */
static void join_vecs(struct exmap_vec *vecs, int nr)
{
	int i;

	for (i = 0; config.cut && i < nr; i++)
		if (vecs[i].region == 1) {
			vecs[i].region = 0;
			vecs[i].page += config.cut;
		}
}

/* Whether the call may have found no free page */
static bool may_lack_pages(struct thread *t)
{
	int i;

	if (may_lack_memory(t) || config.zaps ||
	    __atomic_load_n(&world.stuck, __ATOMIC_RELAXED))
		return true;
	if (config.quota)
		return false;
	if (config.threads > 1 || t->many || config.resizes)
		return true;
	/* With one thread, every used page is in the region or in the pipe */
	for (i = 0; i < t->nr; i++)
		if (t->vecs[i].opcode != EXMAP_OP_ALLOC ||
		    t->vecs[i].flags & EXMAP_VEC_ALL_OR_NOTHING)
			return true;
	return count_resident(t) + t->nr_held >= config.buffer;
}

static void own_alloc(struct thread *t, const struct exmap_vec *v, const struct exmap_result *r)
{
	const bool zero = v->flags & EXMAP_VEC_ZERO;
	long i, empty = 0, maybe = 0;

	for (i = 0; i < v->len; i++) {
		empty += own_slot(t, v->page + i)->state == EMPTY;
		maybe += own_slot(t, v->page + i)->state == MAYBE;
	}
	if (!r->res) {
		EXPECT(t, r->pages >= empty && r->pages <= empty + maybe,
		       "ALLOC of %lld: expected %ld pages, or %ld more", v->page, empty, maybe);
	} else {
		EXPECT(t, r->res == -ENOMEM && may_lack_pages(t) && r->pages <= empty + maybe &&
		       (empty || maybe), "ALLOC of %lld must not fail so (%ld empty, %ld resident)",
		       v->page, empty, config.threads == 1 ? count_resident(t) : -1);
		if (v->flags & EXMAP_VEC_ALL_OR_NOTHING) {
			EXPECT(t, !r->pages, "ALLOC of %lld: all or nothing", v->page);
			return;
		}
		t->maybes += r->pages;
	}
	t->vague |= maybe;
	for (i = 0; i < v->len; i++) {
		struct slot *s = own_slot(t, v->page + i);

		if (s->state == FULL)
			continue;
		slot_filled(s, zero && s->state == EMPTY ? 0 : ANY, false);
		if (r->res)
			s->state = MAYBE;
	}
}

static void own_free(struct thread *t, const struct exmap_vec *v, const struct exmap_result *r)
{
	long i, full = 0, maybe = 0;

	for (i = 0; i < v->len; i++) {
		struct slot *s = own_slot(t, v->page + i);

		full += s->state == FULL;
		maybe += s->state == MAYBE;
		if (s->state == EMPTY)
			continue;
		slot_emptied(t, s, config.deferred);
	}
	t->vague |= maybe;
	/* FREE needs no memory, so it must not fail */
	EXPECT(t, !r->res && r->pages >= full && r->pages <= full + maybe,
	       "FREE of %lld: expected %ld pages, or %ld more", v->page, full, maybe);
}

static void own_read(struct thread *t, const struct exmap_vec *v, const struct exmap_result *r)
{
	const bool replace = v->flags & EXMAP_VEC_REPLACE;
	long i, empty = 0;

	for (i = 0; i < v->len; i++)
		empty += own_slot(t, v->page + i)->state == EMPTY;
	if (!r->res)
		EXPECT(t, r->pages == (replace ? v->len : empty),
		       "READ of %lld: expected %ld pages", v->page, replace ? v->len : empty);
	else if (r->res == -EFAULT)
		EXPECT(t, replace && may_be_excused(t), "READ of %lld", v->page);
	else
		EXPECT(t, (r->res == -ENOMEM && may_lack_pages(t)) || file_lacks_memory(t, r->res),
		       "READ of %lld", v->page);
	/* If READ with REPLACE fails, it is not known which pages it has counted */
	t->vague |= r->res && replace;
	t->maybes += r->res ? r->pages : 0;
	for (i = 0; i < v->len; i++) {
		struct slot *s = own_slot(t, v->page + i);

		if (s->state == EMPTY) {
			slot_filled(s, s->file, true);
			if (r->res)
				s->state = MAYBE;
		} else if (replace) {
			s->content = r->res ? ANY : s->file;
			s->clean = false;
			s->dirty &= !!r->res;
		}
	}
}

static void own_write(struct thread *t, const struct exmap_vec *v, const struct exmap_result *r)
{
	long i, least = 0, most = 0;
	int want = 0;

	for (i = 0; i < v->len && !want; i++) {
		struct slot *s = own_slot(t, v->page + i);

		if (s->state != FULL) {
			want = -EFAULT;
			break;
		}
		least += v->flags & EXMAP_VEC_DIRTY ? s->dirty : 1;
		most += v->flags & EXMAP_VEC_DIRTY ? !s->clean : 1;
	}
	if (config.write_error) {
		EXPECT(t, !r->pages && (r->res == -config.write_error || r->res == want),
		       "WRITE of %lld to a file that must not be written", v->page);
		return;
	}
	if (r->res == want ? want && config.starves : file_lacks_memory(t, r->res)) {
		/*
		 * It is not known which pages were written before, nor if other
		 * writes failed
		 */
		for (i = 0; i < v->len; i++) {
			struct slot *s = own_slot(t, v->page + i);

			s->file = ANY;
			s->dirty = false;
			s->clean = false;
		}
		return;
	}
	EXPECT(t, r->res == want && r->pages >= least && r->pages <= most,
	       "WRITE of %lld: expected %d, %ld to %ld pages", v->page, want, least, most);
	while (i--) {
		struct slot *s = own_slot(t, v->page + i);

		s->file = s->content;
		if (v->flags & EXMAP_VEC_DIRTY) {
			s->dirty = false;
			s->clean = true;
		}
	}
}

/* Nothing changes, but a page that is held elsewhere stays, or all do without memory */
static void own_move(struct thread *t, const struct exmap_vec *v, const struct exmap_result *r)
{
	const bool several = options.nodes & (options.nodes - 1);
	__u32 most = 0;
	long i;

	for (i = 0; i < v->len; i++)
		most += own_slot(t, v->page + i)->state != EMPTY;
	EXPECT(t, several ? r->pages <= most && (!r->res || r->res == -EBUSY ||
						 r->res == -ENOMEM) :
	       !r->pages && (!r->res || file_lacks_memory(t, r->res)),
	       "MOVE of %lld: at most %u pages", v->page, most);
}

/* Whether @res is a possible result of a vector for slots of a shared area */
static bool shared_error_ok(struct thread *t, int opcode, int res, bool replace)
{
	if (transfers(opcode) && file_lacks_memory(t, res))
		return true;
	switch (-res) {
	case 0:
		return true;
	case ENOMEM:
		return opcode != EXMAP_OP_WRITE && opcode != EXMAP_OP_FREE && may_lack_pages(t);
	case EBUSY:
		return opcode == EXMAP_OP_FREE && config.backing >= 0;
	case ENODATA:
		return opcode == EXMAP_OP_READ;
	case EFAULT:
		return opcode == EXMAP_OP_WRITE || (replace && may_be_excused(t));
	case EBADF:
	case EPERM:
		return opcode == EXMAP_OP_WRITE && res == -config.write_error;
	case EINTR:
		/*
		 * Task work of the thread's own ring may interrupt its wait for a
		 * busy slot
		 */
		return transfers(opcode);
	case ENOSPC:
	case EIO:
		/*
		 * Beyond the end of the device. EIO: io_uring, if a write crosses
		 * the end.
		 */
		return opcode == EXMAP_OP_WRITE && backing_is_block(config.backing);
	default:
		return false;
	}
}

/*
 * In a world that does not end by itself, EINTR may mean that the thread is about to be
 * killed, and that the call was given up. The result of an io_uring worker can arrive a
 * moment before that: wait, but not for ever, as task work of the thread itself interrupts
 * a call as well.
 */
static void wait_for_end(long ret)
{
	if (ret == -EINTR && config.ending != CLEAN)
		sleep(5);
}

static void check_vec(struct thread *t, const struct exmap_vec *v, const struct exmap_result *r)
{
	const int want = error_before(v);

	wait_for_end(r->res);
	if (r->res)
		count_error(t, r->res);
	if (want <= 0) {
		EXPECT(t, r->res == want && !r->pages, "vector of %lld: expected %d",
		       v->page, want);
	} else if (!own_slot(t, v->page)) {
		EXPECT(t, r->pages <= v->len &&
		       shared_error_ok(t, v->opcode, r->res, v->flags & EXMAP_VEC_REPLACE) &&
		       (r->res || v->opcode != EXMAP_OP_WRITE || v->flags & EXMAP_VEC_DIRTY ||
			r->pages == v->len), "vector of %lld: not an answer", v->page);
	} else if (v->opcode == EXMAP_OP_ALLOC) {
		own_alloc(t, v, r);
	} else if (v->opcode == EXMAP_OP_FREE) {
		own_free(t, v, r);
	} else if (v->opcode == EXMAP_OP_READ) {
		own_read(t, v, r);
	} else if (v->opcode == EXMAP_OP_WRITE) {
		own_write(t, v, r);
	} else {
		own_move(t, v, r);
	}
}

/* Find out which slots in state MAYBE got a page, and check new pages */
static void settle(struct thread *t)
{
	long filled = 0, looked = 0, i, j;
	struct slot *other;

	if (is_gone())
		return;
	for (i = 0; i < t->nr; i++) {
		const struct exmap_vec *v = &t->vecs[i];

		if (error_before(v) <= 0)
			continue;
		if (!own_slot(t, v->page)) {
			shared_check(t, v->page + below(&t->random, v->len));
			continue;
		}
		for (j = 0; j < v->len; j++) {
			struct slot *s = own_slot(t, v->page + j);

			if (s->state != MAYBE)
				continue;
			s->state = is_resident(v->page + j) ? FULL : EMPTY;
			filled += s->state == FULL;
			/* An old page with unknown content may still be reachable */
			if (s->state == EMPTY) {
				s->lingers = config.deferred;
				s->content = ANY;
			}
		}
	}
	EXPECT(t, filled == t->maybes || t->vague, "%ld slots were filled, not %ld",
	       filled, t->maybes);
	for (i = 0; i < t->nr && looked < 32; i++) {
		const struct exmap_vec *v = &t->vecs[i];

		if (error_before(v) <= 0 || !own_slot(t, v->page))
			continue;
		for (j = 0; j < v->len && looked < 32; j++) {
			struct slot *s = own_slot(t, v->page + j);

			looked++;
			if (s->state == FULL && s->content == ANY)
				own_fresh(t, s);
			else
				own_check(t, s);
			/*
			 * The neighbor's lingering page must not have been reused
			 * here
			 */
			other = own_slot(t, (v->page + j) ^ 1);
			if (other && other->lingers && !t->many)
				own_check(t, other);
		}
	}
}

/*
 * io_uring has canceled a call because it had no worker for it. Any part of the call
 * may have been carried out. Its remaining writes stay in flight until another call
 * waits for them; count their pages as held until the end of the region.
 */
static void own_canceled(struct thread *t)
{
	long i, j;

	if (is_gone())
		return;
	for (i = 0; i < t->nr; i++) {
		const struct exmap_vec *v = &t->vecs[i];
		const bool writes = v->opcode == EXMAP_OP_WRITE;

		if (error_before(v) <= 0)
			continue;
		if (writes)
			__atomic_fetch_add(&world.stuck, v->len, __ATOMIC_RELAXED);
		for (j = 0; j < v->len && own_slot(t, v->page); j++) {
			struct slot *s = own_slot(t, v->page + j);

			if (writes) {
				s->file = ANY;
				s->stuck = true;
			} else {
				/* The slot may have its old page, a new one, or none */
				slot_emptied(t, s, true);
				s->lingers = config.deferred;
				s->content = ANY;
				if (is_resident(v->page + j))
					slot_filled(s, ANY, false);
			}
			s->clean = false;
			s->dirty = false;
		}
	}
}

/* Check the results of t->vecs. Returns the result to be counted. */
static long check_vecs(struct thread *t, long ret)
{
	long failed = 0, changed = 0, i, err = 0;

	t->counted = true;
	t->maybes = 0;
	t->vague = false;
	if (is_gone())
		return ret < 0 ? ret : 0;
	for (i = 0; i < t->nr; i++) {
		failed += t->results[i].res != 0;
		changed += t->results[i].pages;
		if (!err)
			err = t->results[i].res;
		t->vec = i;
		check_vec(t, &t->vecs[i], &t->results[i]);
	}
	t->vec = -1;
	EXPECT(t, ret == failed, "%ld vectors have failed", failed);
	settle(t);
	return changed ? 0 : err;
}

static int random_nr(struct thread *t, int most)
{
	switch (below(&t->random, 8)) {
	case 0:
		return one_in(&t->random, 8) ? below(&t->random, most + 1) : 2;
	case 1 ... 3:
		return min_of(1 + below(&t->random, 16), most);
	default:
		return 1;
	}
}

static void start_vecs(struct thread *t)
{
	t->call++;
	t->nr = 0;
	t->vec = -1;
	t->all_apart = false;
	t->many = false;
	t->counted = false;
	t->only_anybody = false;
	t->one_region = false;
	memset(t->arg, 0, sizeof(t->arg));
}

/* Choose an interface for a call with its vectors in user memory: any will do */
static int any_iface(struct thread *t)
{
	return one_in(&t->random, 4) ? below(&t->random, config.ifaces) : t->index;
}

/* EXMAP_IOCTL_ACTION */

static long run_action(struct thread *t, int opcode)
{
	struct exmap_action_params params = { .opcode = opcode };
	struct exmap_iov *iov, before[MAX_VECS];
	long ret;
	int i;

	start_vecs(t);
	t->one_region = true;
	/*
	 * On the common interface, threads overwrite and carry out each other's
	 * vectors
	 */
	t->only_anybody = config.threads > 1 && !config.cut && one_in(&t->random, 8);
	t->iface = t->only_anybody ? config.threads : t->index;
	t->opcode = opcode;
	t->nr = random_nr(t, MAX_VECS);
	iov = world.vectors[t->iface]->iov;
	for (i = 0; i < t->nr; i++) {
		struct exmap_iov vec;

		t->vecs[i] = (struct exmap_vec) { .opcode = opcode };
		random_range(t, &t->vecs[i], EXMAP_PAGE_MAX_PAGES - 1);
		vec.page = t->vecs[i].page;
		vec.len = t->vecs[i].len;
		before[i] = vec;
		__atomic_store_n(&iov[i].value, vec.value, __ATOMIC_RELAXED);
	}
	params.interface = t->iface;
	params.iov_len = t->nr;
	ret = HUNGRY_CALL(t, ioctl(t->fd, EXMAP_IOCTL_ACTION, &params));
	if (ret == -ENOMEM) {
		/*
		 * If the call fails as a whole, pages were short and no vector has
		 * changed
		 */
		EXPECT(t, may_lack_pages(t), "there are enough pages");
		EXPECT(t, opcode != EXMAP_OP_FREE, "FREE needs no memory");
		for (i = 0; i < t->nr && !t->only_anybody; i++)
			EXPECT(t, iov[i].value == before[i].value, "vector %d was changed", i);
	}
	if (ret < 0 || t->only_anybody) {
		EXPECT(t, ret == -ENOMEM || (ret >= 0 && ret <= t->nr), "not an answer");
		if (t->only_anybody)
			t->nr = 0;
		return ret;
	}
	for (i = 0; i < t->nr; i++) {
		t->results[i].res = iov[i].res;
		t->results[i].pages = iov[i].pages;
	}
	return check_vecs(t, ret);
}

static long run_action_alloc(struct thread *t)
{
	return run_action(t, EXMAP_OP_ALLOC);
}

static long run_action_free(struct thread *t)
{
	return run_action(t, EXMAP_OP_FREE);
}

static long run_action_read(struct thread *t)
{
	return run_action(t, EXMAP_OP_READ);
}

static long run_action_write(struct thread *t)
{
	return run_action(t, EXMAP_OP_WRITE);
}

/* EXMAP_IOCTL_VECTORS */

/*
 * MOVE, for slots of the thread itself: other threads would find the slots empty meanwhile,
 * and could not ALLOC or READ them
 */
static void random_move(struct thread *t, struct exmap_vec *v)
{
	const long first = t->first + below(&t->random, t->own);
	const long pages = random_len(t, t->first + t->own - first);

	v->opcode = EXMAP_OP_MOVE;
	do
		v->node = below(&t->random, 64);
	while (!node_exists(v->node) && !one_in(&t->random, 200));
	v->page = first;
	v->len = reserve_own(t, first, pages, true);
}

static void random_vec(struct thread *t, struct exmap_vec *v)
{
	static const int flags[][3] = {
		[EXMAP_OP_READ] = { 0, EXMAP_VEC_ZERO, EXMAP_VEC_REPLACE },
		[EXMAP_OP_ALLOC] = { 0, EXMAP_VEC_ZERO, EXMAP_VEC_ALL_OR_NOTHING },
		[EXMAP_OP_FREE] = { 0, 0, 0 },
		[EXMAP_OP_WRITE] = { 0, EXMAP_VEC_DIRTY, EXMAP_VEC_DSYNC },
	};

	*v = (struct exmap_vec) { .opcode = below(&t->random, 4) };
	if (one_in(&t->random, 12)) {
		random_move(t, v);
		return;
	}
	v->flags = flags[v->opcode][below(&t->random, 3)] |
		   flags[v->opcode][below(&t->random, 3)];
	random_range(t, v, one_in(&t->random, 16) ? 65535 : 512);
	/* Rarely, set a field to a value that does not exist */
	switch (below(&t->random, 200)) {
	case 0:
		v->opcode = 5 + below(&t->random, 251);
		break;
	case 1 ... 2:
		v->node = 1 + below(&t->random, 65535);
		break;
	case 3:
		v->flags = 1 << (5 + below(&t->random, 3));
		break;
	case 4:
		v->region = 1000 + below(&t->random, 64536);
		break;
	}
}

/* Arrays as a program has them for which the kernel is too old, and knows only a part */
static long later_vectors(struct thread *t, const struct exmap_vectors *params)
{
	static __thread struct { struct exmap_vec vec; __u64 more[2]; } vecs[MAX_VECS];
	static __thread struct { struct exmap_result result; __u64 more; } results[MAX_VECS];
	struct { struct exmap_vectors params; __u64 more; } later;
	long ret;
	int i;

	for (i = 0; i < t->nr; i++) {
		vecs[i].vec = t->vecs[i];
		results[i].result = t->results[i];
		results[i].more = -1;
	}
	later.params = *params;
	later.more = 0;
	later.params.size = sizeof(later);
	later.params.vec_size = sizeof(vecs[0]);
	later.params.vecs = (unsigned long)vecs;
	later.params.result_size = sizeof(results[0]);
	later.params.results = (unsigned long)results;
	ret = HUNGRY_CALL(t, ioctl(t->fd, EXMAP_IOCTL_VECTORS, &later));
	for (i = 0; i < t->nr; i++) {
		t->results[i] = results[i].result;
		EXPECT(t, results[i].more == (ret < 0 ? -1ULL : 0),
		       "the unknown part of result %d", i);
	}
	return ret;
}

static long run_vectors(struct thread *t)
{
	struct exmap_vectors params = {
		.size = sizeof(params),
		.vec_size = sizeof(struct exmap_vec),
		.result_size = sizeof(struct exmap_result),
	};
	long ret;
	int i;

	start_vecs(t);
	t->iface = any_iface(t);
	t->opcode = -1;
	t->nr = random_nr(t, MAX_VECS);
	for (i = 0; i < t->nr; i++)
		random_vec(t, &t->vecs[i]);
	memset(t->results, 0xaa, t->nr * sizeof(t->results[0]));
	params.interface = t->iface;
	params.nr = t->nr;
	params.vecs = (unsigned long)t->vecs;
	params.results = (unsigned long)t->results;
	split_vecs(t->vecs, t->nr);
	if (one_in(&t->random, 6))
		ret = later_vectors(t, &params);
	else
		ret = HUNGRY_CALL(t, ioctl(t->fd, EXMAP_IOCTL_VECTORS, &params));
	join_vecs(t->vecs, t->nr);
	if (ret < 0) {
		EXPECT(t, lacks_memory(t, ret), "all of the call");
		for (i = 0; i < t->nr; i++)
			EXPECT(t, t->results[i].pages == 0xaaaaaaaa, "result %d was changed", i);
		return ret;
	}
	return check_vecs(t, ret);
}

/* read() and its relatives */

/* Whether all slots of a range that the thread owns have a page, from index @from on */
static bool is_full(struct thread *t, const struct exmap_vec *v, long from)
{
	while (from < v->len && own_slot(t, v->page + from)->state == FULL)
		from++;
	return from == v->len;
}

/*
 * Check the result of a read or write call. All slots before position @ret must be
 * done, and there must be a reason to stop at the next one. What later slots contain
 * may be unknown.
 */
static void check_prefix(struct thread *t, long ret, int opcode, bool nowait)
{
	long done = ret > 0 ? ret / (long)PG : 0, nr = 0, i, j;
	int err = ret < 0 ? -ret : 0;

	EXPECT(t, ret < 0 || !(ret % PG), "a part of a page");
	for (i = 0; i < t->nr; i++) {
		const struct exmap_vec *v = &t->vecs[i];

		for (j = 0; j < v->len; j++, nr++) {
			const int before = error_before(v);
			struct slot *s = before > 0 ? own_slot(t, v->page) : NULL;

			if (s)
				s += j;
			if (nr == done && before < 0)
				EXPECT(t, !err || err == -before || (nowait && err == EAGAIN) ||
				       file_lacks_memory(t, -err),
				       "expected %d", before);
			if (nr == done && before > 0 && s) {
				const bool there = s->state == FULL;
				const bool all = is_full(t, v, j);
				bool ok = opcode != EXMAP_OP_WRITE && may_lack_pages(t) &&
					  (!err || err == ENOMEM);

				ok |= nowait && (!err || err == EAGAIN);
				/*
				 * A segment reports one error, and its slots have no
				 * order
				 */
				ok |= opcode == EXMAP_OP_WRITE && (!there || (err && !all)) &&
				      (!err || err == EFAULT);
				ok |= opcode == EXMAP_OP_WRITE && config.write_error &&
				      (!err || err == config.write_error);
				ok |= opcode == EXMAP_OP_READ && there && may_be_excused(t);
				ok |= err ? file_lacks_memory(t, -err) :
				      may_lack_memory(t) || (config.starves && transfers(opcode));
				EXPECT(t, ok, "%ld pages were done, slot %ld is in state %d",
				       done, slot_nr(t, s), s->state);
			} else if (nr == done && before > 0) {
				EXPECT(t, !err || (nowait && err == EAGAIN) ||
				       shared_error_ok(t, opcode, -err, true) ||
				       file_lacks_memory(t, -err), "not an answer");
			}
			if (!s)
				continue;
			if (nr < done && opcode == EXMAP_OP_WRITE) {
				EXPECT(t, s->state == FULL, "wrote the empty slot %ld",
				       slot_nr(t, s));
				s->file = s->content;
			} else if (nr < done && opcode == EXMAP_OP_ALLOC) {
				if (s->state == EMPTY)
					slot_filled(s, ANY, false);
			} else if (nr < done && s->state == EMPTY) {
				slot_filled(s, s->file, true);
			} else if (nr < done) {
				s->content = s->file;
				s->clean = false;
				s->dirty = false;
			} else if (opcode == EXMAP_OP_WRITE && s->state == FULL) {
				if (s->file != s->content)
					s->file = ANY;
			} else if (opcode == EXMAP_OP_READ && s->state == FULL) {
				s->content = ANY;
				s->dirty = false;
				s->clean = false;
			}
		}
	}
	EXPECT(t, done <= nr, "more than was asked for");
	EXPECT(t, ret >= 0 || nr || file_lacks_memory(t, ret), "nothing was asked for");
	t->maybes = 0;
	t->vague = false;
	settle(t);
}

/* Choose segments for a read or write call, many of them in slots of the thread */
static void random_segments(struct thread *t, int opcode, int most)
{
	int i;

	t->opcode = opcode;
	t->iface = any_iface(t);
	t->all_apart = true;
	t->one_region = true;
	t->nr = min_of(random_nr(t, most), most);
	for (i = 0; i < t->nr; i++) {
		t->vecs[i] = (struct exmap_vec) { .opcode = opcode };
		/* random_range() lets no uncleared pages into the second area */
		random_range(t, &t->vecs[i], 64);
		t->results[i] = (struct exmap_result) {};
		/* A page far beyond the region cannot be expressed as an address */
		if (t->vecs[i].page > (__u64)config.slots)
			t->vecs[i].page = config.slots;
		t->iov[i].iov_base = at(t->vecs[i].page);
		t->iov[i].iov_len = t->vecs[i].len * PG;
	}
}

static long run_rw(struct thread *t, int opcode, int flags)
{
	long ret;

	start_vecs(t);
	random_segments(t, opcode, flags ? 16 : 64);
	t->arg[0] = flags;
	if (opcode == EXMAP_OP_WRITE)
		ret = HUNGRY_CALL(t, pwritev2(t->fd, t->iov, t->nr, ex_pos(t->iface, opcode),
					      flags));
	else
		ret = HUNGRY_CALL(t, preadv2(t->fd, t->iov, t->nr, ex_pos(t->iface, opcode),
					     flags));
	if (!is_gone())
		check_prefix(t, ret, opcode, flags & RWF_NOWAIT);
	return ret;
}

static long run_preadv(struct thread *t)
{
	return run_rw(t, EXMAP_OP_READ, 0);
}

static long run_preadv_alloc(struct thread *t)
{
	return run_rw(t, EXMAP_OP_ALLOC, 0);
}

static long run_preadv_nowait(struct thread *t)
{
	return run_rw(t, EXMAP_OP_READ, RWF_NOWAIT);
}

static long run_pwritev(struct thread *t)
{
	return run_rw(t, EXMAP_OP_WRITE, 0);
}

static long run_pwritev_nowait(struct thread *t)
{
	return run_rw(t, EXMAP_OP_WRITE, RWF_NOWAIT);
}

static long run_pwritev_dsync(struct thread *t)
{
	return run_rw(t, EXMAP_OP_WRITE, one_in(&t->random, 2) ? RWF_DSYNC : RWF_SYNC);
}

/* One segment, through pread() or pwrite() */
static long run_pread_pwrite(struct thread *t)
{
	static const int opcodes[] = { EXMAP_OP_READ, EXMAP_OP_ALLOC, EXMAP_OP_WRITE };
	long ret;

	start_vecs(t);
	random_segments(t, opcodes[below(&t->random, 3)], 1);
	if (!t->nr)
		return 0;
	if (t->opcode == EXMAP_OP_WRITE)
		ret = HUNGRY_CALL(t, pwrite(t->fd, t->iov[0].iov_base, t->iov[0].iov_len,
					    ex_pos(t->iface,
						   one_in(&t->random, 2) ? t->opcode : 0)));
	else
		ret = HUNGRY_CALL(t, pread(t->fd, t->iov[0].iov_base, t->iov[0].iov_len,
					   ex_pos(t->iface, t->opcode)));
	if (!is_gone())
		check_prefix(t, ret, t->opcode, false);
	return ret;
}

/* Return a pointer that cannot be read from */
static void *bad_pointer(struct thread *t)
{
	static void * const pointers[] = {
		NULL, (void *)8, (void *)-4096L, (void *)0xffff888000000000, (void *)-1L,
		(void *)0x7ffffffff000, (void *)0x8000000000000000,
	};

	return pointers[below(&t->random, ARRAY_SIZE(pointers))];
}

/* io_uring: several calls at once, which may be carried out in any order */

#ifdef HAVE_LIBURING
static bool start_ring(struct thread *t)
{
	struct io_uring_params params = {};
	unsigned int workers[2] = { 1, 1 };

	if (t->has_ring)
		return true;
	if (t->index % 3 == 1)
		params.flags = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER;
	t->has_ring = !io_uring_queue_init_params(16, &t->ring, &params);
	/* With one worker, a call must not block what it waits for */
	if (t->has_ring && t->index % 4 == 2)
		io_uring_register_iowq_max_workers(&t->ring, workers);
	return t->has_ring;
}

/*
 * Submit @nr requests and wait for all of them. Each result is stored where the user
 * data of its request points.
 */
static long ring_wait(struct thread *t, int nr)
{
	struct io_uring_cqe *cqe;
	int ret, i;

	do {
		ret = io_uring_submit_and_wait(&t->ring, nr);
		if (ret < 0 && ret != -EINTR && t->allocations == FED)
			return ret;
		/* Submit the rest again, now without failing allocations */
		if (ret < nr)
			feed(t);
	} while (ret < 0 || io_uring_sq_ready(&t->ring));
	for (i = 0; i < nr; i++) {
		do {
			ret = io_uring_wait_cqe(&t->ring, &cqe);
		} while (ret == -EINTR);
		if (ret)
			return ret;
		wait_for_end(cqe->res);
		*(int *)io_uring_cqe_get_data(cqe) = cqe->res;
		io_uring_cqe_seen(&t->ring, cqe);
	}
	return 0;
}

static long run_uring_cmd(struct thread *t)
{
	int nr = 1 + below(&t->random, one_in(&t->random, 4) ? RING_CALLS : 3), i, j;
	long ret, first = 0;

	start_vecs(t);
	if (!start_ring(t))
		return -EOPNOTSUPP;
	t->all_apart = true;
	t->many = nr > 1;
	for (i = 0; i < nr; i++) {
		struct ring_call *call = &t->ring_calls[i];
		struct exmap_uring_cmd cmd = { .iov = { &call->params, sizeof(call->params) } };
		struct io_uring_sqe *sqe = io_uring_get_sqe(&t->ring);

		call->params = (struct exmap_vectors) {
			.size = sizeof(call->params),
			.vec_size = sizeof(struct exmap_vec),
			.result_size = sizeof(struct exmap_result),
			.interface = any_iface(t),
			.nr = random_nr(t, RING_VECS),
			.vecs = (unsigned long)call->vecs,
			.results = (unsigned long)call->results,
		};
		for (j = 0; j < (int)call->params.nr; j++)
			random_vec(t, &call->vecs[j]);
		split_vecs(call->vecs, call->params.nr);
		io_uring_prep_rw(IORING_OP_URING_CMD, sqe, t->fd, NULL, 0, 0);
		sqe->cmd_op = EXMAP_IOCTL_VECTORS;
		memcpy(sqe->cmd, &cmd, sizeof(cmd));
		if (one_in(&t->random, 8))
			sqe->flags |= IOSQE_ASYNC;
		io_uring_sqe_set_data(sqe, &call->ret);
	}
	starve(t, false);
	ret = CALL(t, ring_wait(t, nr));
	feed(t);
	EXPECT(t, !ret, "io_uring failed");
	for (i = 0; i < nr; i++) {
		struct ring_call *call = &t->ring_calls[i];

		t->nr = call->params.nr;
		t->iface = call->params.interface;
		t->ret = call->ret;
		t->arg[0] = i;
		memcpy(t->vecs, call->vecs, t->nr * sizeof(t->vecs[0]));
		join_vecs(t->vecs, t->nr);
		memcpy(t->results, call->results, t->nr * sizeof(t->results[0]));
		if (call->ret < 0) {
			EXPECT(t, file_lacks_memory(t, call->ret), "all of a call");
			first = call->ret;
			if (call->ret == -ECANCELED)
				own_canceled(t);
		} else {
			ret = check_vecs(t, call->ret);
			first = first ?: ret;
		}
	}
	return first;
}

/* Submit a command that the exmap must refuse */
static long run_bad_uring(struct thread *t)
{
	struct exmap_vectors params = {
		.size = sizeof(params),
		.vec_size = sizeof(struct exmap_vec),
		.result_size = sizeof(struct exmap_result),
	};
	struct exmap_uring_cmd cmd = { .iov = { &params, sizeof(params) } };
	struct io_uring_sqe *sqe;
	int want = -EINVAL, res = 0;
	long ret;

	start_vecs(t);
	if (!start_ring(t))
		return -EOPNOTSUPP;
	sqe = io_uring_get_sqe(&t->ring);
	io_uring_prep_rw(IORING_OP_URING_CMD, sqe, t->fd, NULL, 0, 0);
	sqe->cmd_op = EXMAP_IOCTL_VECTORS;
	t->arg[0] = below(&t->random, 8);
	switch (t->arg[0]) {
	case 0:
		sqe->cmd_op = below(&t->random, 1000);
		want = -EOPNOTSUPP;
		break;
	case 1:
		cmd.iov.iov_len += 1 + below(&t->random, 64);
		break;
	case 2:
		params.interface = config.ifaces;
		break;
	case 3:
		cmd.iov.iov_base = bad_pointer(t);
		want = -EFAULT;
		break;
	/* Fields that exmap commands do not use */
	case 4:
		sqe->addr = 1 + below(&t->random, 1L << 40);
		break;
	case 5:
		sqe->len = 1 + below(&t->random, 1L << 31);
		break;
	case 6:
		sqe->buf_index = 1 + below(&t->random, 65535);
		break;
	case 7:
		sqe->uring_cmd_flags = 1U << below(&t->random, 31);
		break;
	}
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	io_uring_sqe_set_data(sqe, &res);
	ret = CALL(t, ring_wait(t, 1));
	EXPECT(t, !ret, "io_uring failed");
	t->ret = res;
	EXPECT(t, res == want, "expected %d", want);
	return res;
}

static long run_uring_rw(struct thread *t)
{
	static const int opcodes[] = { EXMAP_OP_READ, EXMAP_OP_ALLOC, EXMAP_OP_WRITE };
	struct io_uring_sqe *sqe;
	const bool many = one_in(&t->random, 16);
	int res = 0, nr;
	long ret;

	start_vecs(t);
	if (!start_ring(t))
		return -EOPNOTSUPP;
	random_segments(t, opcodes[below(&t->random, 3)], 16);
	nr = t->nr;
	/* Use more segments than the driver handles without a worker */
	while (many && nr < MAX_VECS + 1)
		t->iov[nr++] = (struct iovec) { .iov_base = at(0) };
	sqe = io_uring_get_sqe(&t->ring);
	io_uring_prep_rw(t->opcode == EXMAP_OP_WRITE ? IORING_OP_WRITEV : IORING_OP_READV, sqe,
			 t->fd, t->iov, nr, ex_pos(t->iface, t->opcode));
	if (one_in(&t->random, 8))
		sqe->flags |= IOSQE_ASYNC;
	io_uring_sqe_set_data(sqe, &res);
	starve(t, false);
	ret = CALL(t, ring_wait(t, 1));
	feed(t);
	EXPECT(t, !ret, "io_uring failed");
	t->ret = res;
	EXPECT(t, res != -EAGAIN || file_lacks_memory(t, res) || is_gone(), "a worker can wait");
	/* A worker takes over only if nothing could be done without waiting */
	if (!is_gone())
		check_prefix(t, res, t->opcode, true);
	return res;
}
#endif

/* The other calls of the device */

static long run_flush(struct thread *t)
{
	long ret, i;

	start_vecs(t);
	ret = HUNGRY_CALL(t, ioctl(t->fd, EXMAP_IOCTL_FLUSH, NULL));
	EXPECT(t, !ret, "FLUSH");
	for (i = 0; !ret && i < t->own; i++)
		t->slots[i].lingers = false;
	return ret;
}

static long run_stats(struct thread *t)
{
	struct exmap_ioctl_stats stats;
	long ret;

	start_vecs(t);
	memset(&stats, 0xff, sizeof(stats));
	ret = HUNGRY_CALL(t, ioctl(t->fd, EXMAP_IOCTL_STATS, &stats));
	EXPECT(t, !ret && !stats.flags &&
	       (config.resizes ? stats.buffer_size && stats.buffer_size <= (__u64)config.buffer :
		stats.buffer_size == (__u64)config.buffer) &&
	       stats.max_interfaces == (unsigned int)config.ifaces &&
	       stats.alloc_count <= (__u64)config.buffer, "%lld of %lld pages, %d interfaces",
	       stats.alloc_count, stats.buffer_size, stats.max_interfaces);
	return ret;
}

/* What /proc shows of the pool */
static long run_fdinfo(struct thread *t)
{
	char path[32], text[4096];
	long nr;
	int fd;

	start_vecs(t);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", t->fd);
	fd = CALL(t, open(path, O_RDONLY));
	if (fd < 0)
		return fd;
	nr = HUNGRY_CALL(t, read(fd, text, sizeof(text) - 1));
	close(fd);
	if (nr < 0)
		return nr;
	text[nr] = 0;
	EXPECT(t, strstr(text, "exmap-interfaces:"), "it ends with %s", strrchr(text, ':'));
	return nr;
}

/* Calls that have nothing to do */
static long run_nothing(struct thread *t)
{
	struct exmap_action_params action = {
		.interface = t->index, .opcode = below(&t->random, 4),
	};
	struct exmap_vectors vectors = {
		.size = sizeof(vectors), .interface = t->index,
		.vec_size = sizeof(struct exmap_vec),
		.result_size = sizeof(struct exmap_result),
	};
	long ret;

	start_vecs(t);
	t->arg[0] = action.opcode;
	switch (below(&t->random, 3)) {
	case 0:
		ret = CALL(t, ioctl(t->fd, EXMAP_IOCTL_ACTION, &action));
		break;
	case 1:
		ret = CALL(t, ioctl(t->fd, EXMAP_IOCTL_VECTORS, &vectors));
		break;
	default:
		ret = CALL(t, preadv(t->fd, NULL, 0, ex_pos(t->index, EXMAP_OP_ALLOC)));
		break;
	}
	EXPECT(t, !ret || ret == -ENODEV, "nothing to do");
	return ret;
}

/* Clone the exmap and use the clone from now on, which makes clones of clones */
static long run_clone(struct thread *t)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	long ret;

	start_vecs(t);
	ret = CALL(t, ioctl(fd, EXMAP_IOCTL_CLONE, (long)t->fd));
	EXPECT(t, !ret, "CLONE");
	if (ret) {
		close(fd);
		return ret;
	}
	EXPECT(t, ioctl(fd, EXMAP_IOCTL_CLONE, (long)t->fd) == -1 && errno == EBUSY,
	       "CLONE once more");
	if (t->fd != world.fd)
		close(t->fd);
	t->fd = fd;
	return ret;
}

static long run_setup(struct thread *t)
{
	struct exmap_ioctl_setup setup = { .fd = -1, .max_interfaces = 1, .buffer_size = 1 };
	struct {
		struct exmap_setup2 setup2;
		__u64 more;
	} larger;
	struct exmap_setup2 setup2 = {
		.size = sizeof(setup2), .fd = -1, .max_interfaces = 1, .buffer_size = 1,
	};
	int wrong = below(&t->random, 12);
	int want = EINVAL;
	long ret;

	start_vecs(t);
	t->arg[0] = wrong;
	switch (wrong) {
	case 0:
		want = EBUSY;
		break;
	case 1:
		ret = CALL(t, ioctl(t->fd, EXMAP_IOCTL_SETUP, &setup));
		EXPECT(t, ret == -EBUSY, "SETUP a second time");
		return ret;
	case 2:
		ret = CALL(t, ioctl(t->fd, EXMAP_IOCTL_SETUP, 8L));
		EXPECT(t, ret == -EFAULT, "SETUP with a bad pointer");
		return ret;
	case 3:
		setup2.size = 47;
		break;
	case 4:
		setup2.flags = 1ULL << (8 + below(&t->random, 56));
		break;
	case 5:
		setup2.pool = 1;
		break;
	case 6:
		setup2.quarantine = 1;
		break;
	case 7:
		setup2.offset = 1 + below(&t->random, 4095);
		break;
	case 8:
		setup2.max_interfaces = 65537;
		break;
	case 9:
		setup2.buffer_size = 0;
		break;
	case 10:
		/* A field that only a future kernel knows */
		setup2.size = sizeof(larger);
		larger.setup2 = setup2;
		larger.more = 1;
		ret = CALL(t, ioctl(t->fd, EXMAP_IOCTL_SETUP2, &larger));
		EXPECT(t, ret == -E2BIG, "a larger SETUP2");
		return ret;
	case 11:
		setup2.size = 4097 + below(&t->random, 1L << 31);
		want = E2BIG;
		break;
	}
	ret = CALL(t, ioctl(t->fd, EXMAP_IOCTL_SETUP2, &setup2));
	EXPECT(t, ret == -want, "SETUP2: expected %d", -want);
	return ret;
}

static long run_mmap_again(struct thread *t)
{
	const unsigned long n = below(&t->random, config.ifaces + 2);
	void *addr;
	long ret;

	start_vecs(t);
	if (one_in(&t->random, 4)) {
		ret = CALL(t, mmap(NULL, PG, PROT_READ, MAP_SHARED, t->fd, EXMAP_OFF_EXMAP));
		EXPECT(t, ret == -EBUSY, "a second region");
		return ret;
	}
	t->arg[0] = n;
	if (one_in(&t->random, 8)) {
		ret = CALL(t, mmap(NULL, 2 * PG, PROT_READ, MAP_SHARED, t->fd,
				   EXMAP_OFF_INTERFACE(0)));
		EXPECT(t, ret == -EINVAL, "two pages of an interface");
		return ret;
	}
	ret = CALL(t, mmap(NULL, PG, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd,
			   EXMAP_OFF_INTERFACE(n)));
	EXPECT(t, n < (unsigned long)config.ifaces ? ret > 0 : ret == -ENXIO, "an interface");
	if (ret <= 0)
		return ret;
	addr = (void *)ret;
	/* Its content is not checked, because other threads write to it */
	EXPECT(t, !try_read_byte(addr), "the vectors of an interface cannot be read");
	munmap(addr, PG);
	return 0;
}

static long run_bad_action(struct thread *t)
{
	struct exmap_action_params params = {
		.interface = t->index, .iov_len = 1, .opcode = below(&t->random, 4),
	};
	const void *arg = &params;
	long ret;

	start_vecs(t);
	t->arg[0] = below(&t->random, 5);
	switch (t->arg[0]) {
	case 0:
		params.interface = one_in(&t->random, 2) ? 65535 : min_of(config.ifaces, 65535);
		break;
	case 1:
		params.iov_len = one_in(&t->random, 2) ? 513 : 65535;
		break;
	case 2:
		params.opcode = 4 + below(&t->random, 65532);
		break;
	case 3:
		params.flags = 1ULL << below(&t->random, 64);
		break;
	case 4:
		arg = bad_pointer(t);
		break;
	}
	ret = CALL(t, ioctl(t->fd, EXMAP_IOCTL_ACTION, arg));
	EXPECT(t, ret == (arg == &params ? -EINVAL : -EFAULT), "a wrong ACTION");
	return ret;
}

static long run_bad_vectors(struct thread *t)
{
	struct slot *s = &t->slots[below(&t->random, t->own)];
	struct exmap_vec vec[2] = {
		{ .opcode = EXMAP_OP_FREE, .page = slot_nr(t, s), .len = 1 },
		{ .opcode = EXMAP_OP_ALLOC, .page = t->first, .len = 1 },
	};
	struct exmap_result result[2];
	struct exmap_vectors params = {
		.size = sizeof(params),
		.vec_size = sizeof(struct exmap_vec),
		.result_size = sizeof(struct exmap_result), .interface = t->index, .nr = 1,
		.vecs = (unsigned long)vec, .results = (unsigned long)result,
	};
	const void *arg = &params;
	int want = -EINVAL;
	long ret;

	start_vecs(t);
	t->arg[0] = below(&t->random, 10);
	switch (t->arg[0]) {
	case 0:
		params.size = EXMAP_VECTORS_SIZE_VER0 - 1;
		if (one_in(&t->random, 2)) {
			params.size = 4097 + below(&t->random, 1L << 31);
			want = -E2BIG;
		}
		break;
	case 1:
		params.flags = 1U << below(&t->random, 32);
		if (one_in(&t->random, 2)) {
			params.flags = 0;
			params.vec_size = one_in(&t->random, 2) ? EXMAP_VEC_SIZE_VER0 - 8 :
					  EXMAP_VEC_SIZE_VER0 + 1 + below(&t->random, 7);
		}
		break;
	case 2:
		params.interface = config.ifaces + below(&t->random, 1L << 31);
		break;
	case 3:
		params.nr = one_in(&t->random, 2) ? 4097 : -1;
		break;
	case 4:
		params.nr = 1 + below(&t->random, 3);
		params.vecs = (unsigned long)bad_pointer(t);
		want = -EFAULT;
		break;
	case 5:
		params.nr = 1 + below(&t->random, 2);
		params.results = (unsigned long)bad_pointer(t);
		want = -EFAULT;
		break;
	case 6:		/* read-only memory */
		params.nr = 1 + below(&t->random, 2);
		params.results = (unsigned long)kinds;
		want = -EFAULT;
		break;
	case 7:
		arg = bad_pointer(t);
		want = -EFAULT;
		break;
	case 8:		/* FREE takes away the memory of its results */
		if (config.deferred || config.faults || s->state != FULL)
			return -EFAULT;
		params.results = (unsigned long)at(slot_nr(t, s));
		want = -EFAULT;
		break;
	case 9:		/* The second half of the element is one that the kernel does not know */
		params.vec_size = sizeof(vec);
		if (one_in(&t->random, 2))
			params.vec_size = 264;
		want = -E2BIG;
		break;
	}
	ret = CALL(t, ioctl(t->fd, EXMAP_IOCTL_VECTORS, arg));
	if (t->arg[0] == 8 && !is_gone()) {
		/* The kernel has checked that it can write the results, by writing */
		s->content = ANY;
		/*
		 * FREE is not carried out if the region was write-protected during
		 * the check
		 */
		EXPECT(t, !is_resident(slot_nr(t, s)) || may_be_excused(t), "FREE of results");
		if (!is_resident(slot_nr(t, s)))
			slot_emptied(t, s, false);
	}
	EXPECT(t, ret == want, "wrong VECTORS: expected %d", want);
	own_check(t, s);
	return ret;
}

static long run_bad_rw(struct thread *t)
{
	struct slot *s = &t->slots[below(&t->random, t->own)];
	char *addr = at(slot_nr(t, s));
	static const int refused[] = { RWF_APPEND, RWF_ATOMIC, RWF_DONTCACHE };
	int iface = t->index, opcode = below(&t->random, 2), want = -EINVAL;
	struct iovec iov;
	size_t len = PG;
	long ret;

	start_vecs(t);
	t->arg[0] = below(&t->random, 7);
	switch (t->arg[0]) {
	case 0:
		addr += 1 + below(&t->random, 4095);
		break;
	case 1:
		len -= 1 + below(&t->random, 4095);
		break;
	case 2:
		opcode = 4 + below(&t->random, 252);
		break;
	case 3:
		iface = config.ifaces + below(&t->random, 1000);
		break;
	case 4:
		addr = bad_pointer(t);
		/* Kernel addresses are refused before the driver is called */
		want = (unsigned long)addr % PG ? -EINVAL : -ERANGE;
		if ((unsigned long)addr > 0x7fffffffffff - PG)
			want = -EFAULT;
		break;
	case 5:
		opcode = EXMAP_OP_FREE;
		break;
	case 6:
		t->arg[2] = refused[below(&t->random, ARRAY_SIZE(refused))];
		iov = (struct iovec){ addr, len };
		ret = CALL(t, pwritev2(t->fd, &iov, 1, ex_pos(iface, EXMAP_OP_WRITE), t->arg[2]));
		EXPECT(t, ret == -EOPNOTSUPP, "a write with flags");
		return ret;
	}
	t->arg[1] = (long)addr;
	if (one_in(&t->random, 2) && t->arg[0] < 4) {
		opcode = opcode < 4 ? EXMAP_OP_WRITE : opcode;
		ret = CALL(t, pwrite(t->fd, addr, len, ex_pos(iface, opcode)));
	} else {
		ret = CALL(t, pread(t->fd, addr, len, ex_pos(iface, opcode)));
	}
	EXPECT(t, ret == want || (ret == -EFAULT && t->arg[0] == 4) || lacks_memory(t, ret) ||
	       (ret == -ENODEV && config.backing < 0), "expected %d", want);
	return ret;
}

static long run_bad_ioctl(struct thread *t)
{
	int want = ENOTTY;
	long ret;

	start_vecs(t);
	t->arg[0] = below(&t->random, 4);
	switch (t->arg[0]) {
	case 0:
		ret = CALL(t, ioctl(t->fd, _IO('k', 32 + below(&t->random, 200)), 0L));
		break;
	case 1:
		ret = CALL(t, ioctl(t->fd, EXMAP_IOCTL_STATS, bad_pointer(t)));
		want = EFAULT;
		break;
	case 2:
		ret = CALL(t, ioctl(t->fd, EXMAP_IOCTL_CLONE, -1L));
		want = EBADF;
		break;
	case 3:
		ret = CALL(t, ioctl(t->fd, EXMAP_IOCTL_CLONE, (long)t->scratch));
		want = EINVAL;
		break;
	}
	EXPECT(t, ret == -want, "expected %d", -want);
	return ret;
}

static long run_bad_query(struct thread *t)
{
	struct exmap_vec vec = { .page = t->first, .len = t->own };
	__u8 slots[MAX_SLOTS];
	struct exmap_query query = {
		.size = sizeof(query), .nr = 1, .vec_size = sizeof(struct exmap_vec),
		.vecs = (unsigned long)&vec,
		.slots = (unsigned long)slots,
	};
	const void *arg = &query;
	int want = EINVAL;
	long ret;

	start_vecs(t);
	t->arg[0] = below(&t->random, 12);
	switch (t->arg[0]) {
	case 0:
		query.size = sizeof(query) - 1 - below(&t->random, 8);
		if (one_in(&t->random, 2)) {
			query.size = 4097 + below(&t->random, 1L << 31);
			want = E2BIG;
		}
		break;
	case 1:
		query.flags = 2U << below(&t->random, 15);
		break;
	case 2:
		query.vec_size = EXMAP_VEC_SIZE_VER0 - 8;
		break;
	case 3:
		query.nr = EXMAP_VECTORS_MAX + 1;
		break;
	case 4:
		vec.opcode = 1 + below(&t->random, 255);
		break;
	case 5:
		vec.flags = 1U << below(&t->random, 8);
		break;
	case 6:
		vec.node = 256;
		break;
	case 7:
		vec.node = 1;
		break;
	case 8:
		vec.page = config.slots - below(&t->random, 2);
		vec.len = 2;
		want = ERANGE;
		break;
	case 9:
		query.vecs = (unsigned long)bad_pointer(t);
		want = EFAULT;
		break;
	case 10:
		query.slots = (unsigned long)bad_pointer(t);
		want = EFAULT;
		break;
	default:
		arg = bad_pointer(t);
		want = EFAULT;
		break;
	}
	ret = CALL(t, ioctl(t->fd, EXMAP_IOCTL_QUERY, arg));
	EXPECT(t, ret == -want || lacks_memory(t, ret), "expected %d", -want);
	return ret;
}

/* Drop the calling thread's right to exceed RLIMIT_MEMLOCK, or take it back */
static bool set_limited(bool limited)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data))
		return false;
	if (limited && !(data[0].permitted & 1U << CAP_IPC_LOCK))
		return false;
	if (limited)
		data[0].effective &= ~(1U << CAP_IPC_LOCK);
	else
		data[0].effective |= data[0].permitted & 1U << CAP_IPC_LOCK;
	return !syscall(SYS_capset, &header, data);
}

/* Make a call that needs a region or, unless the exmap is @set_up, a setup at least */
static long call_early(struct thread *t, int fd, void *addr, bool set_up)
{
	struct exmap_action_params action = { .opcode = EXMAP_OP_ALLOC, .iov_len = 1 };
	struct exmap_vectors vectors = {
		.size = sizeof(vectors),
		.vec_size = sizeof(struct exmap_vec),
		.result_size = sizeof(struct exmap_result),
	};
	struct exmap_query query = {
		.size = sizeof(query), .vec_size = sizeof(struct exmap_vec),
	};
	struct exmap_ioctl_stats stats;

	switch (below(&t->random, set_up ? 4 : 8)) {
	case 0:
		return CALL(t, ioctl(fd, EXMAP_IOCTL_ACTION, &action));
	case 1:
		return CALL(t, ioctl(fd, EXMAP_IOCTL_VECTORS, &vectors));
	case 2:
		return CALL(t, ioctl(fd, EXMAP_IOCTL_QUERY, &query));
	case 3:
		return CALL(t, pread(fd, addr, PG, ex_pos(0, EXMAP_OP_ALLOC)));
	case 4:
		return CALL(t, ioctl(fd, EXMAP_IOCTL_STATS, &stats));
	case 5:
		return CALL(t, ioctl(fd, EXMAP_IOCTL_RESIZE, 1L));
	case 6:
		return CALL(t, ioctl(fd, EXMAP_IOCTL_FLUSH, NULL));
	default:
		return CALL(t, mmap(NULL, PG, PROT_READ, MAP_SHARED, fd, EXMAP_OFF_INTERFACE(0)));
	}
}

/* Try a setup that must fail, and that must leave nothing behind */
static void set_up_wrongly(struct thread *t, int fd, struct exmap_setup2 setup)
{
	int want = EINVAL, other = -1;
	long ret;

	t->arg[1] = below(&t->random, 7);
	switch (t->arg[1]) {
	case 0:
		setup.fd = t->pipe[0];
		break;
	case 1:
		setup.fd = -2;
		want = EBADF;
		break;
	case 2:
		other = reopen(t->scratch, O_WRONLY);
		setup.fd = other;
		want = EBADF;
		break;
	case 3:
		setup.buffer_size = 1ULL << (52 + below(&t->random, 12));
		want = ENOMEM;
		break;
	case 4:
		setup.max_interfaces = 0;
		break;
	case 5:
		setup.offset = 1ULL << 63;
		break;
	case 6:
		setup.flags = EXMAP_SETUP_DEFERRED | EXMAP_SETUP_PAGEFAULT_ALLOC;
		break;
	}
	ret = HUNGRY_CALL(t, ioctl(fd, EXMAP_IOCTL_SETUP2, &setup));
	EXPECT(t, ret == -want || lacks_memory(t, ret), "SETUP2: expected %d", -want);
	if (other >= 0)
		close(other);
}

static char *map_another(struct thread *t, long slots, int fd)
{
	const long ret = HUNGRY_CALL(t, mmap(NULL, slots * PG, PROT_READ | PROT_WRITE,
					     MAP_SHARED, fd, EXMAP_OFF_EXMAP));

	EXPECT(t, ret > 0 || lacks_memory(t, ret), "mmap of a region");
	return ret > 0 ? (char *)ret : MAP_FAILED;
}

/*
 * Take another exmap through its life, with setup and mmap() in either order: calls
 * that come too early, the limit on locked memory, fresh pages without foreign
 * content, and calls that come too late.
 */
static long run_another(struct thread *t)
{
	const long slots = 64 + below(&t->random, 512);
	const bool small = one_in(&t->random, 2), first = one_in(&t->random, 2);
	const bool file = one_in(&t->random, 2);
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .fd = file ? t->scratch : -1,
		.max_interfaces = 1 + below(&t->random, 4),
		.buffer_size = 1 + below(&t->random, small ? 64 : 2 * LIMIT),
		.flags = one_in(&t->random, 2) ? 0 : 1 + below(&t->random, 2),
	};
	struct exmap_vec vec = { .len = 1, .opcode = EXMAP_OP_FREE };
	struct exmap_result result;
	struct exmap_vectors vectors = {
		.size = sizeof(vectors),
		.vec_size = sizeof(struct exmap_vec),
		.result_size = sizeof(struct exmap_result), .nr = 1, .vecs = (unsigned long)&vec,
		.results = (unsigned long)&result,
	};
	const bool limited = one_in(&t->random, 2) && set_limited(true);
	char *region = MAP_FAILED, *over;
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC), fd2 = open(DEVICE, O_RDWR | O_CLOEXEC);
	long ret = 0, i;

	start_vecs(t);
	t->arg[0] = setup.buffer_size;
	if (fd < 0 || fd2 < 0)
		goto out;
	EXPECT(t, call_early(t, fd, at(0), false) == -ENXIO, "a call before SETUP");
	EXPECT(t, ioctl(fd2, EXMAP_IOCTL_CLONE, (long)fd) == -1 && errno == EINVAL,
	       "CLONE of what is not set up");
	if (one_in(&t->random, 2))
		set_up_wrongly(t, fd, setup);
	EXPECT(t, mmap(NULL, PG, PROT_READ, MAP_PRIVATE, fd, EXMAP_OFF_EXMAP) == MAP_FAILED &&
	       errno == EINVAL, "a private region");
	EXPECT(t, mmap(NULL, PG, PROT_READ, MAP_SHARED, fd, EXMAP_OFF_EXMAP + PG) == MAP_FAILED &&
	       errno == EINVAL, "a region at an offset");

	/* Map the region before the setup, or later; or end it before the setup */
	if (first) {
		region = map_another(t, slots, fd);
		if (region == MAP_FAILED) {
			ret = -ENOMEM;
			goto out;
		}
		EXPECT(t, try_read_byte(region) == SIGSEGV, "a page before SETUP");
		if (one_in(&t->random, 8)) {
			munmap(region, slots * PG);
			region = MAP_FAILED;
			ret = CALL(t, ioctl(fd, EXMAP_IOCTL_SETUP2, &setup));
			EXPECT(t, ret == -ENXIO, "SETUP2 after the end of the region");
			ret = 0;
			goto out;
		}
	}
	ret = HUNGRY_CALL(t, ioctl(fd, EXMAP_IOCTL_SETUP2, &setup));
	EXPECT(t, !ret || (ret == -ENOMEM && limited) || lacks_memory(t, ret),
	       "SETUP2 of %lld pages", setup.buffer_size);
	EXPECT(t, ret || !limited || setup.buffer_size <= LIMIT, "SETUP2 beyond the limit");
	if (ret)
		goto out;
	ret = CALL(t, ioctl(fd, EXMAP_IOCTL_RESIZE, LIMIT + 1L));
	EXPECT(t, ret == (limited ? -ENOMEM : 0), "RESIZE beyond the limit");
	EXPECT(t, ioctl(fd, EXMAP_IOCTL_RESIZE, 1L << 60) == -1 && errno == ENOMEM,
	       "RESIZE to more than there is");
	EXPECT(t, ioctl(fd, EXMAP_IOCTL_RESIZE, 0L) == -1 && errno == EINVAL, "RESIZE to nothing");
	ret = CALL(t, ioctl(fd, EXMAP_IOCTL_RESIZE, (long)setup.buffer_size));
	EXPECT(t, !ret, "RESIZE back to %lld", setup.buffer_size);
	ret = CALL(t, ioctl(fd2, EXMAP_IOCTL_CLONE, (long)fd));
	EXPECT(t, !ret, "CLONE");
	if (!first) {
		EXPECT(t, call_early(t, fd, at(0), true) == -ENXIO, "a call before mmap()");
		region = map_another(t, slots, fd2);
		if (region == MAP_FAILED) {
			ret = -ENOMEM;
			goto out;
		}
	}

	/* Fresh pages must not have content of another exmap or process */
	for (i = below(&t->random, 16); i; i--) {
		const long slot = below(&t->random, slots);

		ret = HUNGRY_CALL(t, pread(one_in(&t->random, 2) ? fd : fd2, region + slot * PG,
					   PG, ex_pos(0, EXMAP_OP_ALLOC)));
		EXPECT(t, ret == (long)PG || ret == -ENOMEM, "ALLOC by pread()");
		if (ret > 0) {
			EXPECT(t, region[slot * PG] == MINE || all_zero(region + slot * PG, PG),
			       "something in a fresh page, first %d", region[slot * PG]);
			region[slot * PG] = MINE;
		}
	}
	for (i = below(&t->random, 32); i; i--) {
		vec.page = below(&t->random, slots);
		EXPECT(t, ioctl(fd, EXMAP_IOCTL_VECTORS, &vectors) >= 0, "FREE: %s",
		       strerror(errno));
	}
	ret = 0;
	over = MAP_FAILED;
	switch (below(&t->random, 3)) {
	case 0:
		munmap(region, slots * PG);
		break;
	case 1:
		/* Map another region in its place */
		close(fd);
		fd = open(DEVICE, O_RDWR | O_CLOEXEC);
		over = mmap(region, slots * PG, PROT_READ, MAP_SHARED | MAP_FIXED, fd,
			    EXMAP_OFF_EXMAP);
		EXPECT(t, over == region, "mmap: %s", strerror(errno));
		break;
	default:
		goto out;
	}
	EXPECT(t, call_early(t, fd2, region, true) == -ENXIO, "a call after the end of the region");
	region = over;
out:
	if (region != MAP_FAILED)
		munmap(region, slots * PG);
	close(fd);
	close(fd2);
	if (limited)
		EXPECT(t, set_limited(false), "a capability does not come back");
	return ret;
}

/* Calls of memory management that concern the region */

/* Run the shrinkers, which also take free pages out of the pools */
/*
 * Attach a region to the pool for a moment. If the kernel works right, the pages that it
 * has when it is unmapped are found by whoever needs them.
 */
/* Write to all pages of a slot of an attached region, and perhaps take one of them away */
static void use_attached(struct thread *t, char *slot, int pages, int i)
{
	const int lost = below(&t->random, 2 * pages);

	for (int n = 0; n < pages; n++) {
		char *page = slot + n * PG;

		EXPECT(t, !try_read_byte(page) || is_gone(),
		       "slot %d of an attached region has no page %d", i, n);
		if (!is_gone())
			put_stamp((__u64 *)page, stamp_of(config.slots + i, t->step));
	}
	if (pages == 1 || lost >= pages || is_gone())
		return;
	EXPECT(t, !madvise(slot + lost * PG, PG, MADV_DONTNEED) || is_gone(), "MADV_DONTNEED: %s",
	       strerror(errno));
	EXPECT(t, try_read_byte(slot + lost * PG) == SIGSEGV || is_gone(),
	       "slot %d of an attached region has page %d that was taken away", i, lost);
}

/* A region of the same pool that exists for a moment, perhaps with larger slots */
static long run_attach(struct thread *t)
{
	const int order = one_in(&t->random, 2) ? below(&t->random, 6) : 0, pages = 1 << order;
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .fd = world.file_fd, .pool = t->fd,
		.offset = config.offset, .flags = EXMAP_SETUP_ATTACH,
		.slot_size = PG << order,
	};
	struct exmap_vec vecs[3] = {
		{ .page = 5, .len = 8, .opcode = EXMAP_OP_ALLOC },
		{ .page = 5, .len = 4, .opcode = EXMAP_OP_FREE },
		{ .len = 2, .opcode = EXMAP_OP_READ },
	};
	struct exmap_result results[3];
	struct exmap_vectors params = {
		.size = sizeof(params),
		.vec_size = sizeof(struct exmap_vec),
		.result_size = sizeof(struct exmap_result), .interface = any_iface(t),
		.nr = 1 + below(&t->random, 3),
		.vecs = (unsigned long)vecs, .results = (unsigned long)results,
	};
	const long slots = 13 + below(&t->random, 2000);
	const bool other_file = one_in(&t->random, 2);
	int fd, i;
	char *region;
	long ret;

	start_vecs(t);
	/* There are pages for all slots of the world, but not for more */
	if (config.quota)
		return 0;
	fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	EXPECT(t, fd >= 0 || may_lack_memory(t), "open: %s", strerror(errno));
	if (fd < 0)
		return -errno;
	ret = HUNGRY_CALL(t, ioctl(fd, EXMAP_IOCTL_SETUP2, &setup));
	EXPECT(t, ret > 0 || lacks_memory(t, ret) || (!ret && is_gone()), "attach: %ld", ret);
	if (ret <= 0 || is_gone()) {
		close(fd);
		return ret;
	}
	for (i = 0; i < 3; i++)
		vecs[i].region = ret;
	region = mmap(NULL, slots * PG << order, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		      EXMAP_OFF_EXMAP);
	if (region != MAP_FAILED) {
		ret = HUNGRY_CALL(t, ioctl(other_file ? t->fd : fd, EXMAP_IOCTL_VECTORS, &params));
		EXPECT(t, ret >= 0 || lacks_memory(t, ret) || is_gone(), "VECTORS: %ld", ret);
		for (i = params.nr > 1 ? 4 : 0; ret >= 0 && i < 8 && !results[0].res; i++)
			use_attached(t, region + (5 + i) * PG * pages, pages, i);
		for (i = 0; ret >= 0 && i < (int)params.nr; i++)
			EXPECT(t, shared_error_ok(t, vecs[i].opcode, results[i].res, false) ||
			       (results[i].res == -ENODEV && config.backing < 0) ||
			       (results[i].res == -ENOMEM &&
				(order || (config.threads == 1 &&
					   count_resident(t) + t->nr_held + 10 > config.buffer))),
			       "vector %d: %d", i, results[i].res);
		if (ret >= 0 && !results[0].res && one_in(&t->random, 2)) {
			const unsigned int left = params.nr > 1 ? 4 : 8;

			params.nr = 1;
			vecs[0].opcode = EXMAP_OP_FREE;
			ret = HUNGRY_CALL(t, ioctl(fd, EXMAP_IOCTL_VECTORS, &params));
			EXPECT(t, ret < 0 || results[0].pages == left || is_gone(),
			       "FREE of an attached region: %d of %u", results[0].pages, left);
			EXPECT(t, ret >= 0 || lacks_memory(t, ret) || is_gone(), "FREE: %ld", ret);
		}
		if (one_in(&t->random, 2)) {
			close(fd);
			fd = -1;
		}
		munmap(region, slots * PG << order);
	}
	if (fd >= 0)
		close(fd);
	return 0;
}

static long run_shrink(struct thread *t)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
	long ret = -errno;

	start_vecs(t);
	if (fd < 0)
		return ret;
	ret = CALL(t, write(fd, "2\n", 2));
	close(fd);
	return ret;
}

static long run_madvise_dontneed(struct thread *t)
{
	const int advice = one_in(&t->random, 4) ? 24 /* DONTNEED_LOCKED */ : MADV_DONTNEED;
	struct exmap_vec v = { .opcode = EXMAP_OP_FREE };
	long ret, i;

	start_vecs(t);
	if (!config.zaps)
		return -EAGAIN;
	do {
		random_range(t, &v, 64);
	} while (!v.len || error_before(&v) < 0);
	t->arg[0] = v.page;
	t->arg[1] = v.len;
	ret = CALL(t, madvise(at(v.page), v.len * PG, advice));
	/* MADV_DONTNEED refuses locked memory */
	EXPECT(t, !ret || ret == -EINVAL, "madvise");
	for (i = 0; !ret && i < v.len && own_slot(t, v.page); i++) {
		struct slot *s = own_slot(t, v.page + i);

		if (s->state == FULL)
			slot_emptied(t, s, false);
	}
	return ret;
}

static long run_madvise(struct thread *t)
{
	static const int advices[] = {
		MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_FREE, MADV_REMOVE,
		MADV_DONTFORK, MADV_DOFORK, MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_HUGEPAGE,
		MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP, MADV_WIPEONFORK, MADV_KEEPONFORK,
		MADV_COLD, MADV_PAGEOUT, 25 /* COLLAPSE */, 102 /* GUARD_INSTALL */,
		103 /* GUARD_REMOVE */, -1, 1000,
	};
	const int advice = advices[below(&t->random, ARRAY_SIZE(advices))];
	const bool all = one_in(&t->random, 2);
	long first = t->first + below(&t->random, t->own);
	long ret;

	start_vecs(t);
	t->arg[0] = advice;
	t->arg[1] = all;
	ret = CALL(t, all ? madvise(world.region, config.slots * PG, advice) :
			    madvise(at(first), PG, advice));
	return ret;
}

/* Populate a slot: fails if it is empty, unless a touch allocates a page */
static long run_populate(struct thread *t)
{
	const int advice = one_in(&t->random, 2) ? 22 /* POPULATE_READ */ : 23 /* _WRITE */;
	struct slot *s = &t->slots[below(&t->random, t->own)];
	long ret;

	start_vecs(t);
	t->arg[0] = slot_nr(t, s);
	ret = CALL(t, madvise(at(slot_nr(t, s)), PG, advice));
	own_touched(t, s, !ret);
	EXPECT(t, s->state == FULL ? !ret || may_be_excused(t) : ret < 0,
	       "populate of a slot that is %s", s->state == FULL ? "resident" : "empty");
	if (!ret && advice == 23)
		s->clean = false;
	return ret;
}

static long run_mincore(struct thread *t)
{
	start_vecs(t);
	return CALL(t, own_check_resident(t));
}

/* Query all slots, in two vectors and an empty one, or only those of the thread */
static long run_query(struct thread *t)
{
	static __thread __u8 slots[MAX_SLOTS];
	const bool all = one_in(&t->random, 3);
	const long cut = config.cut ?: below(&t->random, config.slots);
	struct exmap_vec vecs[3] = {
		{ .page = all ? 0 : t->first, .len = all ? cut : t->own },
		{ .page = cut },
		{ .page = cut, .len = config.slots - cut },
	}, later[6] = {};
	struct exmap_query query = {
		.size = sizeof(query), .vec_size = sizeof(struct exmap_vec),
		.flags = below(&t->random, 2), .nr = all ? 3 : 1,
		.vecs = (unsigned long)vecs, .slots = (unsigned long)slots,
	};
	long ret, i;

	start_vecs(t);
	split_vecs(vecs, 3);
	if (one_in(&t->random, 4)) {
		/* As with later_vectors() */
		for (i = 0; i < query.nr; i++)
			later[2 * i] = vecs[i];
		query.vec_size = 2 * sizeof(vecs[0]);
		query.vecs = (unsigned long)later;
	}
	ret = HUNGRY_CALL(t, ioctl(t->fd, EXMAP_IOCTL_QUERY, &query));
	EXPECT(t, !ret || lacks_memory(t, ret) || is_gone(), "QUERY");
	for (i = 0; !ret && i < t->own; i++) {
		const struct slot *slot = &t->slots[i];
		const bool full = slot->state == FULL;
		const __u8 is = slots[all ? t->first + i : i];

		EXPECT(t, (slot->stuck || !(is & EXMAP_SLOT_BUSY)) &&
		       !!(is & EXMAP_SLOT_RESIDENT) == full &&
		       (full || !(is & ~EXMAP_SLOT_BUSY)) &&
		       (!full || !slot->dirty || is & EXMAP_SLOT_DIRTY) &&
		       (!full || !slot->clean || !(is & EXMAP_SLOT_DIRTY)),
		       "slot %ld: it is %#x", t->first + i, is);
	}
	/* Any thread may have transfers under way in the shared areas */
	for (i = config.own * config.threads; !ret && all && i < config.slots; i++)
		EXPECT(t, slots[i] & EXMAP_SLOT_RESIDENT ? slots[i] < 16 :
		       !slots[i] || (slots[i] == EXMAP_SLOT_BUSY && config.backing >= 0),
		       "slot %ld: it is %#x", i, slots[i]);
	return ret;
}

/*
 * Resize the pool and restore its size. With other threads, shrink it only if the
 * world allows for that.
 */
static long run_resize(struct thread *t)
{
	const long size = config.threads > 1 && !config.resizes ? config.buffer :
			  1 + below(&t->random, config.buffer);
	long ret, again;

	start_vecs(t);
	t->arg[0] = size;
	ret = HUNGRY_CALL(t, ioctl(t->fd, EXMAP_IOCTL_RESIZE, size));
	again = CALL(t, ioctl(t->fd, EXMAP_IOCTL_RESIZE, (long)config.buffer));
	EXPECT(t, (!ret || size < config.buffer) && !again, "%ld, and back again: %ld", ret, again);
	return ret;
}

/* Change the protection of the whole region for a moment, while other threads use it */
static long run_mprotect(struct thread *t)
{
	static const int prots[] = { PROT_READ, PROT_NONE, PROT_READ | PROT_WRITE, PROT_WRITE };
	long ret, again;
	int i;

	start_vecs(t);
	if (pthread_mutex_trylock(&world.disturb))
		return -EAGAIN;
	if (is_gone()) {
		pthread_mutex_unlock(&world.disturb);
		return -EAGAIN;
	}
	t->arg[0] = prots[below(&t->random, 4)];
	__atomic_fetch_add(&world.disturbance, 1, __ATOMIC_SEQ_CST);
	ret = CALL(t, mprotect(world.region, config.slots * PG, t->arg[0]));
	for (i = below(&t->random, 8); i; i--)
		sched_yield();
	again = CALL(t, mprotect(world.region, config.slots * PG, PROT_READ | PROT_WRITE));
	__atomic_fetch_add(&world.disturbance, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&world.disturb);
	EXPECT(t, !ret && !again, "mprotect of all of the region: %ld, %ld", ret, again);
	return ret;
}

/* Try to change a part of the region, or to resize or move it, which must fail */
static long run_parts(struct thread *t)
{
	const long slots = config.cut ?: config.slots;
	const long first = 1 + below(&t->random, slots - 2);
	const size_t size = (1 + below(&t->random, slots - first - 1)) * PG;
	char *addr = at(first);
	long ret;

	start_vecs(t);
	t->arg[0] = below(&t->random, 8);
	t->arg[1] = first;
	t->arg[2] = size;
	switch (t->arg[0]) {
	case 0:
		ret = CALL(t, munmap(addr, size));
		break;
	case 1:
		ret = CALL(t, mprotect(addr, size, PROT_READ));
		break;
	case 2:
		ret = CALL(t, mmap(addr, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
				   -1, 0));
		break;
	case 3:
		ret = CALL(t, mremap(addr, size, size + PG, MREMAP_MAYMOVE));
		break;
	case 4:
		ret = CALL(t, mremap(world.region, slots * PG, slots * PG,
				     MREMAP_MAYMOVE | MREMAP_FIXED, world.region + (1UL << 40)));
		break;
	case 5:
		ret = CALL(t, mremap(world.region, slots * PG, first * PG, 0));
		break;
	case 6:
		ret = CALL(t, mremap(world.vectors[t->index], PG, PG,
				     MREMAP_MAYMOVE | MREMAP_FIXED, world.region + (1UL << 40)));
		break;
	default:
		ret = CALL(t, mremap(world.region, slots * PG, (slots + 1) * PG,
				     MREMAP_MAYMOVE));
		EXPECT(t, ret == -EFAULT, "a larger region");
		return ret;
	}
	/* run_mprotect() may have given the region this protection already */
	if (t->arg[0] == 1 && !ret && may_be_excused(t))
		return -EINVAL;
	EXPECT(t, ret == -EINVAL || (t->arg[0] == 3 && ret == -EFAULT), "a part of the region");
	return ret;
}

static long run_mlock(struct thread *t)
{
	/* With page fault allocation, this would fill slots of other threads */
	const bool all = !config.faults && one_in(&t->random, 2);
	char *addr = all ? world.region : at(t->first);
	const size_t size = all ? config.slots * PG : PG;
	long ret;

	start_vecs(t);
	t->arg[0] = all;
	ret = CALL(t, mlock(addr, size));
	/* mlock() does not lock such a VMA, but touches its pages */
	if (!all && !is_gone())
		own_touched(t, t->slots, !ret);
	if (all)
		CALL(t, munlock(addr, size));
	return ret;
}

/* Access the process's memory like a debugger: by page table, regardless of the TLB */
static long run_process_vm(struct thread *t)
{
	struct slot *s = &t->slots[below(&t->random, t->own)];
	const long nr = slot_nr(t, s);
	const __u64 stamp = stamp_of(nr, ++t->version);
	const bool write = one_in(&t->random, 2);
	struct iovec here = { t->copy, PG }, there = { at(nr), PG };
	long ret;

	start_vecs(t);
	t->arg[0] = nr;
	t->arg[1] = write;
	memset(t->copy, 0, PG);
	if (write) {
		put_stamp(t->copy, stamp);
		ret = CALL(t, process_vm_writev(getpid(), &here, 1, &there, 1, 0));
	} else {
		ret = CALL(t, process_vm_readv(getpid(), &here, 1, &there, 1, 0));
	}
	if (is_gone())
		return ret;
	own_touched(t, s, ret == (long)PG);
	if (s->state != FULL) {
		EXPECT(t, ret == -EFAULT, "slot %ld is empty", nr);
	} else if (ret != (long)PG) {
		EXPECT(t, may_be_excused(t), "slot %ld has a page", nr);
		s->content = write ? ANY : s->content;
	} else if (write) {
		s->content = stamp;
		s->dirty = true;
		s->clean = false;
	} else {
		check_words(t, t->copy, nr, s->content, -1);
	}
	return ret;
}

/* Put a page into a pipe, where it must keep its content even if it is freed */
static long run_vmsplice(struct thread *t)
{
	struct slot *s = &t->slots[below(&t->random, t->own)];
	struct iovec iov = { at(slot_nr(t, s)), PG };
	long ret;

	start_vecs(t);
	t->arg[0] = slot_nr(t, s);
	if (t->nr_held == HELD)
		return -EAGAIN;
	ret = CALL(t, vmsplice(t->pipe[1], &iov, 1, SPLICE_F_NONBLOCK));
	if (is_gone()) {
		t->nr_held += ret > 0;
		return ret;
	}
	own_touched(t, s, ret == (long)PG);
	if (s->state != FULL) {
		EXPECT(t, ret == -EFAULT, "slot %ld is empty", slot_nr(t, s));
		return ret;
	}
	EXPECT(t, ret == (long)PG || may_be_excused(t), "slot %ld has a page", slot_nr(t, s));
	if (ret > 0)
		t->held[t->nr_held++] = (struct held) {
			.index = s - t->slots, .life = s->life, .content = s->content,
		};
	return ret;
}

static long run_drain(struct thread *t)
{
	struct held held;
	long ret;

	start_vecs(t);
	if (!t->nr_held)
		return -EAGAIN;
	held = t->held[0];
	ret = CALL(t, read(t->pipe[0], t->copy, PG));
	t->nr_held--;
	memmove(t->held, t->held + 1, t->nr_held * sizeof(held));
	EXPECT(t, ret == (long)PG, "a page from a pipe");
	t->arg[0] = held.index;
	t->arg[1] = held.left;
	if (!is_gone())
		check_words(t, t->copy, t->first + held.index,
			    held.left ? held.content : t->slots[held.index].content, -1);
	return ret;
}

/* Direct I/O between a slot and another file */
static long run_direct(struct thread *t)
{
	struct slot *s = &t->slots[below(&t->random, t->own)];
	const int at_page = below(&t->random, SCRATCH);
	const bool write = one_in(&t->random, 2);
	char *addr = at(slot_nr(t, s));
	long ret;

	start_vecs(t);
	t->arg[0] = slot_nr(t, s);
	t->arg[1] = write;
	t->arg[2] = at_page;
	if (write)
		ret = CALL(t, pwrite(t->scratch, addr, PG, at_page * PG));
	else
		ret = CALL(t, pread(t->scratch, addr, PG, at_page * PG));
	if (is_gone()) {
		t->scratch_content[at_page] = ANY;
		return ret;
	}
	own_touched(t, s, ret == (long)PG);
	if (s->state != FULL) {
		EXPECT(t, ret == -EFAULT, "slot %ld is empty", slot_nr(t, s));
	} else if (ret != (long)PG) {
		EXPECT(t, may_be_excused(t), "slot %ld has a page", slot_nr(t, s));
	} else if (write) {
		t->scratch_content[at_page] = s->content;
	} else {
		s->content = t->scratch_content[at_page];
		s->dirty = true;
		s->clean = false;
		own_check(t, s);
	}
	return ret;
}

/* Load from and store to slots */
static long run_touch(struct thread *t)
{
	const long shared = config.own * config.threads;
	int i, sig;

	start_vecs(t);
	starve(t, false);
	for (i = 0; i < 4; i++) {
		struct slot *s = &t->slots[below(&t->random, t->own)];
		const long slot = shared + below(&t->random, config.slots - shared);

		begin_call(t);
		if (s->state == FULL) {
			own_stamp(t, s);
		} else {
			/*
			 * This fails, brings a page, or writes to a page that
			 * lingers
			 */
			sig = stamp_slot(slot_nr(t, s), stamp_of(slot_nr(t, s), ++t->version));
			own_touched(t, s, !sig);
			EXPECT(t, sig || s->lingers || s->state == FULL,
			       "slot %ld is empty and can be written to", slot_nr(t, s));
			/* The page may have been stamped in part */
			s->content = ANY;
		}
		stamp_slot(slot, stamp_of(slot, ++t->version));
		end_call(t, 0);
		shared_check(t, slot);
	}
	feed(t);
	return 0;
}

/* A child process has no region, and must not use the exmap */
static long run_fork(struct thread *t)
{
	struct exmap_action_params params = { .opcode = EXMAP_OP_ALLOC, .iov_len = 1 };
	const struct iovec here = { t->copy, PG };
	const struct iovec there = { at(t->first + below(&t->random, t->own)), PG };
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .fd = -1, .max_interfaces = 1, .buffer_size = 1,
	};
	struct exmap_vectors vectors = {
		.size = sizeof(vectors),
		.vec_size = sizeof(struct exmap_vec),
		.result_size = sizeof(struct exmap_result),
	};
	struct exmap_query query = {
		.size = sizeof(query), .vec_size = sizeof(struct exmap_vec),
	};
	struct exmap_ioctl_stats stats;
	int status = 0;
	long pid;

	start_vecs(t);
	/*
	 * After fork(), memory is copied when it is written to. If an injected
	 * failure prevents that when the kernel writes to a thread's rseq area, it
	 * ends the process. If the cgroup has no memory left for the copy, the OOM
	 * killer is invoked.
	 */
	if (config.starves || config.squeezes)
		return -EAGAIN;
	begin_call(t);
	pid = fork();
	if (!pid) {
		params.interface = t->index;
		if (ioctl(t->fd, EXMAP_IOCTL_ACTION, &params) != -1 || errno != EPERM)
			_exit(1);
		if (ioctl(t->fd, EXMAP_IOCTL_STATS, &stats) != -1 || errno != EPERM)
			_exit(2);
		if (ioctl(t->fd, EXMAP_IOCTL_FLUSH, NULL) != -1 || errno != EPERM)
			_exit(3);
		if (pread(t->fd, at(0), PG, ex_pos(0, 1)) != -1 || errno != EPERM)
			_exit(4);
		if (ioctl(t->fd, EXMAP_IOCTL_VECTORS, &vectors) != -1 || errno != EPERM ||
		    ioctl(t->fd, EXMAP_IOCTL_QUERY, &query) != -1 || errno != EPERM ||
		    ioctl(t->fd, EXMAP_IOCTL_RESIZE, 1L) != -1 || errno != EPERM ||
		    ioctl(t->fd, EXMAP_IOCTL_SETUP2, &setup) != -1 || errno != EPERM)
			_exit(8);
		if (ioctl(open(DEVICE, O_RDWR), EXMAP_IOCTL_CLONE, (long)t->fd) != -1 ||
		    errno != EPERM)
			_exit(9);
		if (mmap(NULL, PG, PROT_READ, MAP_SHARED, t->fd, 0) != MAP_FAILED ||
		    errno != EPERM)
			_exit(5);
		if (try_read_byte(at(t->first)) != SIGSEGV)
			_exit(6);
		/*
		 * The child may read its parent's memory, but that must not allocate
		 * pages
		 */
		if (process_vm_readv(getppid(), &here, 1, &there, 1, 0) < 0 &&
		    errno != EFAULT && errno != ESRCH && errno != EPERM /* Yama */)
			_exit(7);
		_exit(0);
	}
	pid = end_call(t, pid);
	if (pid < 0)
		return pid;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	EXPECT(t, !status, "the child's status is %x", status);
	return 0;
}

/* End the region while calls of other threads are under way */
static long run_take_away(struct thread *t)
{
	const size_t size = config.slots * PG;
	int fd = -1, i;
	long ret;

	start_vecs(t);
	pthread_mutex_lock(&world.disturb);
	__atomic_store_n(&world.gone, true, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&world.disturbance, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&world.disturb);
	t->arg[0] = below(&t->random, 4);
	switch (t->arg[0]) {
	case 0:
		return CALL(t, munmap(world.region, size));
	case 1:
		ret = CALL(t, mmap(world.region, size, PROT_NONE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		break;
	case 2:
		/* This fails, but only after the region has been unmapped */
		CALL(t, mmap(world.region, size, PROT_READ, MAP_SHARED | MAP_FIXED, t->fd,
			     EXMAP_OFF_INTERFACE(1UL << 20)));
		return 0;
	default:
		/*
		 * Close the files first. dup3() keeps their descriptors in use, so
		 * that no open() of another thread gets them.
		 */
		fd = open(DEVICE, O_RDWR | O_CLOEXEC);
		for (i = 0; i < config.threads; i++)
			CALL(t, dup3(fd, world.workers[i]->fd, O_CLOEXEC));
		CALL(t, dup3(fd, world.fd, O_CLOEXEC));
		if (world.fd2 >= 0)
			CALL(t, dup3(fd, world.fd2, O_CLOEXEC));
		close(fd);
		ret = CALL(t, munmap(world.region, size));
		break;
	}
	return ret < 0 ? ret : 0;
}

static const struct kind kinds[MAX_KINDS] = {
	{ "ALLOC", 100, run_action_alloc, { ENOMEM, ERANGE }, .thrifty = true },
	{ "FREE", 100, run_action_free, { EBUSY, ERANGE }, .thrifty = true },
	{ "READ", 70, run_action_read, { ENOMEM, ERANGE, ENODEV, ENODATA }, .thrifty = true },
	{ "WRITE", 40, run_action_write, { EFAULT, ERANGE, ENODEV, ENOSPC }, .thrifty = true },
	{ "VECTORS", 150, run_vectors, { ENOMEM, ERANGE, EINVAL, EBUSY, EFAULT, ENODEV,
					  ENODATA, ENOSPC, ENXIO }, .thrifty = true },
	{ "pread/pwrite", 40, run_pread_pwrite, { ENOMEM, ERANGE, EFAULT, ENODEV, ENODATA,
						  ENOSPC }, .thrifty = true },
	{ "preadv", 40, run_preadv, { ENOMEM, ERANGE, EFAULT, ENODEV, ENODATA },
	  .thrifty = true },
	{ "preadv ALLOC", 40, run_preadv_alloc, { ENOMEM, ERANGE }, .thrifty = true },
	{ "preadv NOWAIT", 30, run_preadv_nowait, { ENOMEM, ERANGE, EFAULT, ENODEV, ENODATA,
						    EAGAIN }, .thrifty = true },
	{ "pwritev", 30, run_pwritev, { EFAULT, ERANGE, ENODEV, ENOSPC }, .thrifty = true },
	{ "pwritev NOWAIT", 15, run_pwritev_nowait, { EFAULT, ERANGE, ENODEV, ENOSPC,
						      EAGAIN }, .thrifty = true },
	{ "pwritev DSYNC", 10, run_pwritev_dsync, { EFAULT, ERANGE, ENODEV, ENOSPC },
	  .thrifty = true },
#ifdef HAVE_LIBURING
	{ "io_uring VECTORS", 80, run_uring_cmd, { ENOMEM, ERANGE, EINVAL, EBUSY, EFAULT, ENODEV,
						   ENODATA, ENOSPC, EIO, ENXIO } },
	{ "io_uring rw", 60, run_uring_rw, { ENOMEM, ERANGE, EFAULT, ENODEV, ENODATA, ENOSPC } },
	{ "wrong io_uring", 8, run_bad_uring, { EINVAL, EFAULT, EOPNOTSUPP }, true },
#endif
	{ "FLUSH", 15, run_flush, .thrifty = true },
	{ "STATS", 10, run_stats, .thrifty = true },
	{ "fdinfo", 6, run_fdinfo, { ENOMEM, ENFILE } },
	{ "QUERY", 15, run_query, .thrifty = true },
	{ "RESIZE", 8, run_resize, { EBUSY }, .thrifty = true },
	{ "nothing", 8, run_nothing, { ENODEV }, .thrifty = true },
	{ "CLONE", 8, run_clone },
	{ "another", 10, run_another, { ENOMEM } },
	{ "attach", 10, run_attach, { ENOMEM } },
	{ "SETUP again", 8, run_setup, { EBUSY, EINVAL, EFAULT, E2BIG }, true },
	{ "mmap again", 8, run_mmap_again, { EBUSY, ENXIO, EINVAL } },
	{ "wrong ACTION", 10, run_bad_action, { EINVAL, EFAULT }, true, true },
	{ "wrong VECTORS", 10, run_bad_vectors, { EINVAL, EFAULT, E2BIG }, true },
	{ "wrong pread", 10, run_bad_rw, { EINVAL, EFAULT, ERANGE, ENODEV, EOPNOTSUPP }, true,
	  true },
	{ "wrong QUERY", 8, run_bad_query, { EINVAL, ERANGE, EFAULT, E2BIG }, true, true },
	{ "wrong ioctl", 8, run_bad_ioctl, { ENOTTY, EFAULT, EBADF, EINVAL }, true },
	{ "MADV_DONTNEED", 25, run_madvise_dontneed, { EINVAL, EAGAIN }, .thrifty = true },
	{ "madvise", 20, run_madvise, { EINVAL, EBUSY, EOPNOTSUPP, ENOMEM, EFAULT, EBADF, EACCES,
					EAGAIN, ENODEV } },
	{ "populate", 10, run_populate, { EFAULT, ENOMEM, EINVAL } },
	{ "mincore", 10, run_mincore, { ENOMEM }, .thrifty = true },
	{ "mprotect", 6, run_mprotect, { EAGAIN, ENOMEM } },
	{ "parts", 12, run_parts, { EINVAL, EFAULT, ENOMEM }, true },
	{ "mlock", 4, run_mlock, { EINVAL, ENOMEM, EAGAIN, EFAULT } },
	{ "process_vm", 15, run_process_vm, { EFAULT } },
	{ "vmsplice", 20, run_vmsplice, { EAGAIN, EFAULT } },
	{ "drain", 15, run_drain, { EAGAIN } },
	{ "direct I/O", 15, run_direct, { EFAULT } },
	{ "touch", 60, run_touch },
	{ "shrink", 1, run_shrink, { EACCES, EROFS, ENOENT } },
	{ "fork", 2, run_fork, { EAGAIN, ENOMEM } },
	/* Never chosen at random, but made once in some rounds */
	{ "take away", 0, run_take_away },
};

/* A thread */

static void step(struct thread *t, const struct kind *kind)
{
	struct count *count = &shm->counts[kind_nr(kind)];
	bool known = false;
	long ret;
	int i;

	t->step++;
	t->kind = kind;
	t->starved = false;
	t->disturbed = __atomic_load_n(&world.disturbance, __ATOMIC_SEQ_CST);
	ret = kind->run(t);
	__atomic_store_n(&shm->live[world.place].current[t->index], 0, __ATOMIC_RELAXED);
	__atomic_fetch_add(&count->tried, 1, __ATOMIC_RELAXED);
	if (ret >= 0)
		__atomic_fetch_add(&count->succeeded, 1, __ATOMIC_RELAXED);
	else if (!t->counted)
		count_error(t, ret);
	for (i = 0; ret < 0 && i < (int)ARRAY_SIZE(kind->errnos); i++)
		known |= kind->errnos[i] == -ret;
	known |= file_lacks_memory(t, ret) || (ret && ret == -config.write_error);
	if (ret < 0 && !known && !(is_gone() && (kind->refused || ret == -ENXIO || ret == -EBADF)))
		bad(t, "%s is none of its errors", strerror(-ret));
	EXPECT(t, ret < 0 || !kind->refused || is_gone(), "it must be refused");
	if (options.verbose) {
		char text[4096];

		describe(t, text, sizeof(text));
		printf("# %s", text);
	}
	if (!is_gone())
		own_check_resident(t);
	for (i = 0; i < 2 && !is_gone(); i++)
		own_check(t, &t->slots[below(&t->random, t->own)]);
	if (!is_gone() && config.slots > config.own * config.threads)
		shared_check(t, config.own * config.threads +
			     below(&t->random, config.slots - config.own * config.threads));
	__atomic_fetch_add(&shm->live[world.place].steps, 1, __ATOMIC_RELAXED);
}

static const struct kind *random_kind(struct thread *t)
{
	long dice = below(&t->random, world.squeezed ? thrifty_weights : all_weights);
	int i;

	for (i = 0;; i++) {
		if (world.squeezed && !kinds[i].thrifty)
			continue;
		if (dice < weights[i])
			return &kinds[i];
		dice -= weights[i];
	}
}

/* Path of the memory cgroup of a world */
static void cgroup_of(int number, char *path, size_t size)
{
	snprintf(path, size, "%s/world-%d", cg.path, number);
}

/*
 * Enter the cgroup of this world. @for_files makes a squeezed world enter another
 * cgroup, so that the pages of its files are charged there and stay when memory is
 * short.
 */
static void enter_cgroup(bool for_files)
{
	char path[192];
	int err;

	if (!config.cgroup)
		return;
	if (for_files && config.squeezes)
		snprintf(path, sizeof(path), "%s/files", cg.path);
	else
		cgroup_of(world.number, path, sizeof(path));
	err = cgroup_join(path);
	EXPECT(NULL, !err, "entering %s: %s", path, strerror(-err));
}

/* Have the parent set the limits of the cgroup. All threads must be at rest. */
static void set_squeezed(bool squeezed)
{
	world.squeezed = squeezed;
	__atomic_store_n(&shm->live[world.place].wants_squeeze, squeezed, __ATOMIC_SEQ_CST);
	if (squeezed)
		__atomic_fetch_add(&shm->squeezed, 1, __ATOMIC_RELAXED);
	while (__atomic_load_n(&shm->live[world.place].is_squeezed, __ATOMIC_SEQ_CST) != squeezed &&
	       getppid() == parent)
		usleep(1000);
}

static bool is_over(void)
{
	return __atomic_load_n(&shm->stop, __ATOMIC_RELAXED);
}

static void *work(void *arg)
{
	struct thread *t = arg;
	int i, more;

	EXPECT(t, !config.starves || inject_open(), "/proc: %s", strerror(errno));
	for (;;) {
		pthread_barrier_wait(&world.barrier);
		if (world.round == config.rounds)
			return NULL;
		t->random = mix(seed_of(world.number) + world.round * MAX_THREADS + t->index);
		more = 20;
		for (i = 0; i < config.steps && !is_over() && more; i++) {
			const bool ends = t->index == world.ends && i == (int)world.ends_at;

			if (config.ending == EXIT &&
			    __atomic_load_n(&shm->live[world.place].steps, __ATOMIC_RELAXED) >=
			    config.end_step) {
				/* Calls of the other threads are under way */
				__atomic_fetch_add(&shm->endings[EXIT], 1, __ATOMIC_RELAXED);
				_exit(0);
			}
			step(t, ends ? &kinds[nr_kinds - 1] : random_kind(t));
			more -= is_gone();
		}
		while (t->nr_held && run_drain(t) > 0)
			;
		pthread_barrier_wait(&world.barrier);
	}
}

/* A world */

static void make_config(struct config *c, int number, __u64 most)
{
	static const int pools[] = { 64, 100, 256, 600, 1024, 2048 };
	static const int backings[] = {
		-1, MEMFD, FILE_BUFFERED, FILE_BUFFERED, FILE_DIRECT, FILE_DIRECT,
		XFS_DIRECT, BLOCK_BUFFERED, BLOCK_DIRECT, LOOP_DIRECT,
	};
	static const int more_ifaces[] = { 0, 1, 300, 5000 };
	__u64 random = mix(seed_of(number) + 12345), all;
	long anybody, shared;

	memset(c, 0, sizeof(*c));
	c->threads = one_in(&random, 6) ? 1 : options.threads;
	c->rounds = 2 + below(&random, 4);
	c->steps = 100 + below(&random, 300);
	c->ifaces = c->threads + 1 + more_ifaces[below(&random, 4)];
	c->buffer = pools[below(&random, ARRAY_SIZE(pools))];
	c->own = c->threads > 1 ? 8 + below(&random, 72) : 64 + below(&random, 1000);
	c->reread = 32 + below(&random, 100);
	anybody = 64 + below(&random, 3 * c->buffer);
	if (one_in(&random, 4))
		anybody = 4200;
	if (one_in(&random, 3))
		c->cut = c->own * c->threads;
	shared = c->own * c->threads + c->reread;
	c->slots = shared + anybody;
	c->quota = c->threads > 1 && one_in(&random, 4);
	if (c->quota)
		c->buffer = c->slots + c->threads * (2 * 512 + 2 * HELD);
	c->backing = backings[below(&random, ARRAY_SIZE(backings))];
	if (one_in(&random, 8))
		c->write_error = one_in(&random, 2) ? EBADF : EPERM;
	c->file_pages = shared + anybody / 2;
	if (c->backing < BLOCK_BUFFERED && one_in(&random, 3))
		c->file_cut = 8 * (1 + below(&random, WORDS - 1));
	if (one_in(&random, 2))
		c->offset = one_in(&random, 4) ? 1ULL << 40 : below(&random, 1000) * PG;
	c->deferred = one_in(&random, 2);
	if (c->deferred && one_in(&random, 2))
		c->quarantine = 1 + below(&random, c->buffer);
	c->faults = !c->deferred && one_in(&random, 3);
	c->resizes = !c->quota && one_in(&random, 3);
	c->zaps = (c->threads > 1 && !c->quota) || one_in(&random, 2);
	c->starves = one_in(&random, 3) && can_starve;
	c->cgroup = has_cgroup && (options.cgroup || one_in(&random, 3));
	c->squeezes = one_in(&random, 2) && c->cgroup && thrifty_weights;
	if (c->squeezes) {
		/* All pages of the file must exist before memory is short */
		c->file_pages = c->slots;
		c->file_cut = 0;
	}
	/* For files, page tables, the exmaps of run_another(), children and the rest */
	c->floor = (16L << 20) + (c->buffer + 2 * c->slots + c->threads * 4 * LIMIT) * PG;
	c->ending = below(&random, 3);
	all = (__u64)c->threads * c->rounds * c->steps;
	/* Plan no more steps than are left */
	if (all > most) {
		c->steps = most / (c->threads * c->rounds) ?: 1;
		all = (__u64)c->threads * c->rounds * c->steps;
	}
	if (options.kills) {
		c->ending = KILLED;
		all = min_of(all, 300);
	}
	c->end_step = 1 + below(&random, all);
}

/* Fill the backing file with the stamps of its slots, up to its end */
static int fill_with_stamps(int fd)
{
	static alignas(4096) __u64 words[64][WORDS];
	long i, j;

	memset(words, 0, sizeof(words));
	for (i = 0; i < config.file_pages; i += 64) {
		const long nr = min_of(64, config.file_pages - i);

		for (j = 0; j < nr; j++)
			put_stamp(words[j], stamp_of(i + j, 1));
		if (pwrite(fd, words, nr * PG, config.offset + i * PG) != (ssize_t)(nr * PG))
			return -errno;
		/*
		 * The write may have bypassed the page cache. Fill the cache, as the
		 * exmap may read from it.
		 */
		if (config.squeezes && pread(world.file_fd, words, nr * PG,
					     config.offset + i * PG) != (ssize_t)(nr * PG))
			return -errno;
	}
	if (config.squeezes && fsync(fd))
		return -errno;
	if (backing_is_block(config.backing))
		return 0;
	return ftruncate(fd, config.offset + config.file_pages * PG - config.file_cut) ? -errno : 0;
}

static void make_file(void)
{
	long pages = config.file_pages;
	int flags = config.write_error == EBADF ? O_RDONLY : O_RDWR;

	world.file = -1;
	world.file_fd = -1;
	if (config.backing < 0)
		return;
	if (backing_is_block(config.backing))
		config.offset = 0;
	if (config.backing == BLOCK_BUFFERED || config.backing == BLOCK_DIRECT) {
		/*
		 * All worlds share the disk, at different offsets. It has data for
		 * all slots.
		 */
		config.file_pages = config.slots;
		pages = config.slots;
		config.offset = (__u64)world.place << 26;
		pages += config.offset / PG;
	}
	world.file = open_backing(config.backing, &pages);
	if (backing_is_direct(config.backing))
		flags |= O_DIRECT;
	if (world.file >= 0)
		world.file_fd = reopen(world.file, flags);
	if (world.file_fd >= 0)
		return;
	/* There is no file of this kind: use a memfd */
	config.backing = MEMFD;
	config.offset = 0;
	pages = config.file_pages;
	world.file = open_backing(MEMFD, &pages);
	world.file_fd = reopen(world.file, flags & ~O_DIRECT);
	EXPECT(NULL, world.file_fd >= 0, "no backing file: %s", strerror(errno));
}

/* Set the append-only flag of the file. Returns false if that is not supported. */
static bool set_append_only(bool on)
{
	int flags;

	if (ioctl(world.file, FS_IOC_GETFLAGS, &flags))
		return false;
	flags = on ? flags | FS_APPEND_FL : flags & ~FS_APPEND_FL;
	return !ioctl(world.file, FS_IOC_SETFLAGS, &flags);
}

/* RssFile of the process, in pages */
static long file_rss(void)
{
	char text[4096], *line;
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	ssize_t len = read(fd, text, sizeof(text) - 1);

	close(fd);
	text[len > 0 ? len : 0] = 0;
	line = strstr(text, "RssFile:");
	return line ? atol(line + strlen("RssFile:")) / 4 : 0;
}

static void forget(struct thread *t)
{
	long i;

	for (i = 0; i < t->own; i++) {
		struct slot *s = &t->slots[i];

		s->state = EMPTY;
		s->lingers = false;
		s->stuck &= world.stuck > 0;
		s->life++;
		s->content = ANY;
	}
}

/* Attach the second region to the pool, if there is to be one */
static void make_second_region(__u64 random)
{
	struct exmap_setup2 setup = {
		.size = sizeof(setup), .fd = world.file_fd, .pool = world.fd,
		.offset = config.offset + config.cut * PG,
		.flags = EXMAP_SETUP_ATTACH | (config.faults ? EXMAP_SETUP_PAGEFAULT_ALLOC : 0),
	};
	char *where = at(config.cut);
	int i, ret;

	world.fd2 = -1;
	if (!config.cut)
		return;
	world.fd2 = open(DEVICE, O_RDWR | O_CLOEXEC);
	EXPECT(NULL, world.fd2 >= 0, "open: %s", strerror(errno));
	for (i = 0; i < 2; i++) {
		if (i == (int)(random >> 2 & 1)) {
			EXPECT(NULL, mmap(where, (config.slots - config.cut) * PG,
					  PROT_READ | PROT_WRITE,
					  MAP_SHARED | MAP_FIXED_NOREPLACE, world.fd2,
					  EXMAP_OFF_EXMAP) == where, "mmap: %s", strerror(errno));
		} else {
			ret = ioctl(world.fd2, EXMAP_IOCTL_SETUP2, &setup);
			EXPECT(NULL, ret == 1, "attach: %d, %s", ret, strerror(errno));
		}
	}
}

static void make_exmap(void)
{
	const __u64 random = mix(seed_of(world.number) + 777 + world.incarnation);
	struct exmap_setup2 setup2 = {
		.size = sizeof(setup2), .fd = world.file_fd, .max_interfaces = config.ifaces,
		.buffer_size = config.buffer, .offset = config.offset,
		.quarantine = config.quarantine,
		.flags = (config.deferred ? EXMAP_SETUP_DEFERRED : 0) |
			 (config.faults ? EXMAP_SETUP_PAGEFAULT_ALLOC : 0),
	};
	struct exmap_ioctl_setup setup = {
		.fd = world.file_fd, .max_interfaces = config.ifaces, .buffer_size = config.buffer,
	};
	/* An address where nothing else is mapped by chance when the region is gone */
	void *where = (void *)0x200000000000;
	int err = 0, i, j;

	world.incarnation++;
	__atomic_fetch_add(&shm->exmaps, 1, __ATOMIC_RELAXED);
	world.tag = (random >> 20 & 0xffffe) | 1;
	world.gone = false;
	world.disturbance = 0;
	world.stuck = 0;
	enter_cgroup(true);
	if (world.file >= 0) {
		set_append_only(false);
		err = fill_with_stamps(world.file);
	}
	EXPECT(NULL, !err, "writing the backing file: %s", strerror(-err));
	if (config.write_error == EPERM && !set_append_only(true))
		config.write_error = 0;
	enter_cgroup(false);
	world.fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	EXPECT(NULL, world.fd >= 0, "open: %s", strerror(errno));
	/* Setup and mmap in either order */
	for (i = 0; i < 2; i++) {
		if (i == (int)(random & 1)) {
			world.region = mmap(where, (config.cut ?: config.slots) * PG,
					    PROT_READ | PROT_WRITE,
					    MAP_SHARED | MAP_FIXED_NOREPLACE, world.fd,
					    EXMAP_OFF_EXMAP);
			EXPECT(NULL, world.region == where, "mmap: %s", strerror(errno));
		} else if (random & 2 && !setup2.flags && !config.offset) {
			err = ioctl(world.fd, EXMAP_IOCTL_SETUP, &setup);
			EXPECT(NULL, !err, "SETUP: %s", strerror(errno));
		} else {
			err = ioctl(world.fd, EXMAP_IOCTL_SETUP2, &setup2);
			EXPECT(NULL, !err, "SETUP2: %s", strerror(errno));
		}
	}
	make_second_region(random);
	for (i = 0; i <= config.threads; i++) {
		world.vectors[i] = mmap(NULL, PG, PROT_READ | PROT_WRITE, MAP_SHARED, world.fd,
					EXMAP_OFF_INTERFACE(i));
		EXPECT(NULL, world.vectors[i] != MAP_FAILED, "mmap: %s", strerror(errno));
		memset(world.vectors[i], 0, PG);
	}
	for (i = 0; i < config.threads; i++) {
		struct thread *t = world.workers[i];
		const bool has_file = world.file >= 0;

		t->fd = world.fd;
		forget(t);
		for (j = 0; j < t->own; j++)
			t->slots[j].file = has_file ? stamp_of(t->first + j, 1) : 0;
		memset(t->copy, 0, PG);
		for (j = 0; j < SCRATCH; j++) {
			t->scratch_content[j] = 0;
			err |= pwrite(t->scratch, t->copy, PG, j * PG) != (ssize_t)PG;
		}
		EXPECT(NULL, !err, "writing a file: %s", strerror(errno));
	}
	world.rss = file_rss();
}

/*
 * Check that RssFile counts the pages of the pool, free pages included, and none
 * after the end of the region. Reclaim by another process takes pages out of the
 * pool before it updates RssFile: try for a while.
 */
static void check_rss(bool has_region)
{
	struct exmap_ioctl_stats stats = {};
	long left = 0;
	int tries;

	for (tries = 0; tries < 1000; tries++) {
		if (has_region)
			EXPECT(NULL, !ioctl(world.fd, EXMAP_IOCTL_STATS, &stats), "STATS: %s",
			       strerror(errno));
		left = file_rss() - world.rss - (long)stats.alloc_count;
		if (left < 64)
			return;
		usleep(1000);
	}
	bad(NULL, "RssFile is %ld pages larger than the pool of %lld", left, stats.alloc_count);
}

static void destroy_exmap(void)
{
	int i;

	world.gone = true;
	for (i = 0; i <= config.threads; i++)
		munmap(world.vectors[i], PG);
	munmap(world.region, config.slots * PG);
	for (i = 0; i < config.threads; i++)
		if (world.workers[i]->fd != world.fd)
			close(world.workers[i]->fd);
	close(world.fd);
	if (world.fd2 >= 0)
		close(world.fd2);
	world.gone = false;
	check_rss(false);
}

/*
 * Carry out an opcode for all slots. Returns 0 or -errno, and the number of changed
 * pages in *pages.
 */
static int all_slots(int opcode, long *pages)
{
	struct exmap_action_params params = {
		.interface = config.threads, .iov_len = 1, .opcode = opcode,
	};
	struct exmap_iov *iov = world.vectors[config.threads]->iov;
	long slot, len, ret;

	*pages = 0;
	for (slot = 0; slot < config.slots; slot += len) {
		const bool second = config.cut && slot >= config.cut;
		const long end = config.cut && !second ? config.cut : config.slots;
		struct exmap_iov vec;

		len = min_of(end - slot, 4095);
		vec.page = slot - (second ? config.cut : 0);
		vec.len = len;
		iov->value = vec.value;
		ret = ioctl(second ? world.fd2 : world.fd, EXMAP_IOCTL_ACTION, &params);
		if (ret < 0)
			return -errno;
		*pages += iov->pages;
		if (ret)
			return iov->res;
	}
	return 0;
}

static void free_all(long expected)
{
	const int err = all_slots(EXMAP_OP_FREE, &expected);
	long left;

	EXPECT(NULL, !err, "FREE of all: %d", err);
	EXPECT(NULL, !ioctl(world.fd, EXMAP_IOCTL_FLUSH, NULL), "FLUSH: %s", strerror(errno));
	left = count_resident(NULL);
	EXPECT(NULL, !left, "%ld pages are still there after FREE of all", left);
	check_rss(true);
}

/* Check that every page of the pool is there. All threads must be at rest. */
static void account(void)
{
	const long most = min_of(config.buffer, config.slots);
	const long least = min_of(config.buffer - world.stuck, config.slots);
	struct thread *t = world.workers[0];
	struct exmap_ioctl_stats stats;
	long before = count_resident(NULL), pages = 0, more, i;
	int err = 0, tries;

	free_all(before);
	EXPECT(NULL, !ioctl(world.fd, EXMAP_IOCTL_STATS, &stats) &&
	       stats.alloc_count <= (__u64)config.buffer, "STATS: %lld of %ld pages",
	       stats.alloc_count, config.buffer);
	/*
	 * Try for a while: a kernel worker may still have to release pages that
	 * direct I/O has dirtied, and a call that finds no page looks for only a few
	 * of those that MADV_DONTNEED has taken out.
	 */
	for (tries = 0; tries < 2000 && pages < least; tries++) {
		if (tries)
			usleep(2000);
		err = all_slots(EXMAP_OP_ALLOC, &more);
		pages += more;
	}
	if (pages < config.slots && err == -ENOMEM)
		err = 0;
	EXPECT(NULL, pages >= least && pages <= most && !err && count_resident(NULL) == pages,
	       "ALLOC of all: %d, %ld pages, not %ld", err, pages, most);
	for (i = 0; i < 256 && pages > 0; i++) {
		const long slot = below(&t->random, pages);

		EXPECT(NULL, !copy_page(t, slot), "slot %ld has no page", slot);
		check_words(NULL, t->copy, slot, ANY, -1);
	}
	free_all(pages);
	for (i = 0; i < config.threads; i++)
		forget(world.workers[i]);
}

static void start_threads(void)
{
	int i;

	pthread_mutex_init(&world.disturb, NULL);
	pthread_barrier_init(&world.barrier, NULL, config.threads + 1);
	for (i = 0; i < config.threads; i++) {
		struct thread *t = calloc(1, sizeof(*t));
		int fd = open_file();

		EXPECT(NULL, t && fd >= 0, "no memory, or no file");
		t->copy = aligned_alloc(PG, PG);
		t->index = i;
		t->own = config.own;
		t->first = config.own * i;
		t->slots = calloc(t->own, sizeof(*t->slots));
		/* Use buffered I/O where there is no direct I/O */
		t->scratch = reopen(fd, O_RDWR | O_DIRECT);
		if (t->scratch < 0)
			t->scratch = reopen(fd, O_RDWR);
		close(fd);
		EXPECT(NULL, t->copy && t->slots && t->scratch >= 0 && !pipe2(t->pipe, O_CLOEXEC),
		       "no memory, or no file");
		world.workers[i] = t;
	}
}

static int run_world(int number, int place)
{
	const struct rlimit limit = { LIMIT * PG, LIMIT * PG };
	__u64 random = mix(seed_of(number) + 999);
	pthread_attr_t attr;
	int i;

	world.number = number;
	world.place = place;
	catch_faults();
	setrlimit(RLIMIT_MEMLOCK, &limit);
	enter_cgroup(true);
	start_threads();
	make_file();
	pthread_attr_init(&attr);
	if (config.squeezes)
		pthread_attr_setstacksize(&attr, STACK);
	for (i = 0; i < config.threads; i++)
		EXPECT(NULL, !pthread_create(&world.workers[i]->thread, &attr, work,
					     world.workers[i]), "no thread");
	/* In a squeezed round, the program's page faults would lack memory, too */
	EXPECT(NULL, !config.squeezes || !mlockall(MCL_CURRENT), "mlockall: %s", strerror(errno));
	make_exmap();
	for (world.round = 0; world.round < config.rounds; world.round++) {
		world.ends = one_in(&random, 3) ? below(&random, config.threads) : -1;
		world.ends_at = below(&random, config.steps);
		if (config.squeezes && one_in(&random, 2)) {
			/* Unmapping a region needs memory for the kernel's VMA tree */
			world.ends = -1;
			set_squeezed(true);
		}
		pthread_barrier_wait(&world.barrier);
		pthread_barrier_wait(&world.barrier);
		if (world.squeezed)
			set_squeezed(false);
		if (is_over())
			config.rounds = world.round + 1;
		if (is_gone()) {
			destroy_exmap();
			if (world.round < config.rounds - 1)
				make_exmap();
		} else if (one_in(&random, 2) || world.round == config.rounds - 1) {
			account();
			if (world.round == config.rounds - 1)
				destroy_exmap();
		}
	}
	pthread_barrier_wait(&world.barrier);
	for (i = 0; i < config.threads; i++)
		pthread_join(world.workers[i]->thread, NULL);
	__atomic_fetch_add(&shm->endings[CLEAN], 1, __ATOMIC_RELAXED);
	return 0;
}

/* The parent process, which runs all worlds */

static struct child {
	pid_t pid;
	int number;
	struct config config;
	bool killed;
	bool is_high;		/* memory.high is low, for a short time only */
	__u64 random;		/* for the limits of its cgroup */
	__u64 seen;		/* steps when it was last found to make progress */
	time_t since;
} children[MAX_PROCESSES];

/* Worlds that have ended, and whose cgroup is still to be checked and removed */
static struct child ended[MAX_ENDED];
static int nr_ended;

static __u64 steps_done;

static long cgroup_value(const struct child *c, const char *name, const char *key)
{
	char path[192];

	cgroup_of(c->number, path, sizeof(path));
	return key ? cgroup_read_key(path, name, key) : cgroup_read(path, name);
}

/*
 * Set a limit, or reclaim memory. O_NONBLOCK: the kernel does not reclaim or kill
 * because usage exceeds a new limit.
 */
static void set_limit(const struct child *c, const char *name, long bytes)
{
	char path[192], text[32];
	int fd;

	cgroup_of(c->number, path, sizeof(path));
	snprintf(path + strlen(path), sizeof(path) - strlen(path), "/%s", name);
	snprintf(text, sizeof(text), "%ld", bytes);
	fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	/* memory.reclaim fails with EAGAIN if it has reclaimed less than requested */
	if (fd < 0 || (write(fd, text, strlen(text)) < 0 && errno != EAGAIN))
		ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
	close(fd);
}

static void make_cgroup(struct child *c)
{
	char path[192];

	cgroup_of(c->number, path, sizeof(path));
	if (mkdir(path, 0755))
		ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
	set_limit(c, "memory.max", c->config.floor);
	c->random = seed_of(c->number) + 4711;
	shm->cgroups++;
}

/* Change the limits of a world at random, or set them for its next round */
static void move_limits(struct child *c, int place)
{
	const bool squeeze = __atomic_load_n(&shm->live[place].wants_squeeze, __ATOMIC_SEQ_CST);
	const bool is = shm->live[place].is_squeezed;
	const long floor = c->config.floor, now = cgroup_value(c, "memory.current", NULL);

	if (c->is_high || (squeeze && !is)) {
		/*
		 * A low memory.high must not last: the kernel puts threads that
		 * exceed it to sleep
		 */
		set_limit(c, "memory.high", 16 * floor);
		c->is_high = false;
	}
	if (squeeze) {
		if (is && one_in(&c->random, 4))
			set_limit(c, "memory.reclaim", below(&c->random, now));
		set_limit(c, "memory.max", now - now / 8 + below(&c->random, now / 4 + (1 << 20)));
	} else if (is) {
		set_limit(c, "memory.max", floor);
	} else if (one_in(&c->random, 8)) {
		switch (below(&c->random, 3)) {
		case 0:
			set_limit(c, "memory.max", floor + below(&c->random, floor));
			break;
		case 1:
			set_limit(c, "memory.reclaim", below(&c->random, now));
			break;
		case 2:
			c->is_high = true;
			set_limit(c, "memory.high", now - now / 32 + below(&c->random, now / 8));
			break;
		}
	}
	__atomic_store_n(&shm->live[place].is_squeezed, squeeze, __ATOMIC_SEQ_CST);
}

static void start_child(int place, int number, __u64 most)
{
	struct child *c = &children[place];

	memset(c, 0, sizeof(*c));
	memset(&shm->live[place], 0, sizeof(shm->live[place]));
	make_config(&c->config, number, most);
	c->number = number;
	c->since = time(NULL);
	fflush(stdout);
	shm->worlds++;
	if (c->config.cgroup)
		make_cgroup(c);
	config = c->config;
	c->pid = fork();
	if (!c->pid)
		_exit(run_world(number, place));
}

static void note(const struct child *c, int place, const char *what, int value)
{
	char *text = shm->text;
	int size = sizeof(shm->text), i, at;

	if (shm->failed)
		return;
	shm->failed = 2;
	shm->stop = 1;
	config = c->config;
	world.number = c->number;
	at = snprintf(text, size, "seed %llu world %d: %s (%d) after %llu steps\n# under way:",
		      options.seed, c->number, what, value,
		      place < 0 ? c->seen : shm->live[place].steps);
	for (i = 0; place >= 0 && i < c->config.threads; i++)
		if (shm->live[place].current[i])
			at += snprintf(text + at, size - at, " %s,",
				       kinds[shm->live[place].current[i] - 1].name);
	at += snprintf(text + at, size - at, "\n");
	describe_world(text + at, size - at);
}

/*
 * Check and remove the cgroup of a world that has ended. It must have no process,
 * and no mapped page once the kernel has summed up its per-CPU counters. Returns
 * false if the caller has to wait for that.
 */
static bool bury(const struct child *c)
{
	const time_t age = time(NULL) - c->since;
	char path[192];
	long mapped;

	if (age < SETTLE)
		return false;
	cgroup_of(c->number, path, sizeof(path));
	mapped = cgroup_value(c, "memory.stat", "file_mapped");
	if (!mapped && !rmdir(path))
		return true;
	if (age < SETTLED)
		return false;
	if (mapped)
		note(c, -1, "pages that nobody maps are file_mapped in its cgroup", mapped / PG);
	else
		note(c, -1, "its cgroup cannot be removed", errno);
	return true;
}

static void bury_ended(void)
{
	int i;

	for (i = 0; i < nr_ended; i++)
		if (bury(&ended[i]))
			ended[i--] = ended[--nr_ended];
}

/* Look after a world. Returns false if it has ended. */
static bool attend(struct child *c, int place)
{
	const __u64 steps = __atomic_load_n(&shm->live[place].steps, __ATOMIC_RELAXED);
	long kills;
	int status;

	if (waitpid(c->pid, &status, WNOHANG) == c->pid) {
		c->pid = 0;
		steps_done += shm->live[place].steps;
		if (c->config.cgroup) {
			kills = cgroup_value(c, "memory.events", "oom_kill");
			if (kills)
				note(c, place, "the OOM killer was there", kills);
			c->seen = steps;
			c->since = time(NULL);
			ended[nr_ended++] = *c;
		}
		if (WIFSIGNALED(status) && !(c->killed && WTERMSIG(status) == SIGKILL))
			note(c, place, "ended by a signal", WTERMSIG(status));
		else if (WIFEXITED(status) && WEXITSTATUS(status))
			note(c, place, "exit status", WEXITSTATUS(status));
		return false;
	}
	if (c->config.ending == KILLED && steps >= c->config.end_step && !c->killed) {
		c->killed = true;
		kill(c->pid, SIGKILL);
		shm->endings[KILLED]++;
	}
	if (steps != c->seen) {
		c->seen = steps;
		c->since = time(NULL);
	} else if (time(NULL) - c->since > STUCK) {
		note(c, place, "no step for seconds", STUCK);
		kill(c->pid, SIGKILL);
		c->since = time(NULL);
	}
	if (c->config.cgroup)
		move_limits(c, place);
	return true;
}

static void run_worlds(void)
{
	const time_t end = time(NULL) + options.seconds;
	int number = options.world >= 0 ? options.world : 0, place, alive;
	bool only = options.world >= 0, more;
	__u64 planned;

	do {
		alive = 0;
		planned = steps_done;
		for (place = 0; place < options.processes; place++) {
			struct child *c = &children[place];

			if (c->pid && attend(c, place)) {
				alive++;
				planned += (__u64)c->config.threads * c->config.rounds *
					   c->config.steps;
			}
		}
		do {
			bury_ended();
		} while (nr_ended > MAX_ENDED - MAX_PROCESSES && !usleep(100000));
		if (options.seconds && time(NULL) >= end)
			shm->stop = 1;
		more = !shm->stop && planned < options.steps && !(only && shm->worlds) &&
		       !(options.kills && shm->worlds >= options.kills);
		for (place = 0; more && place < options.processes; place++) {
			if (children[place].pid)
				continue;
			start_child(place, number++, options.steps - planned);
			alive++;
			break;
		}
		/* After a failure, end all other worlds, which may be waiting */
		for (place = 0; shm->failed == 2 && place < options.processes; place++)
			if (children[place].pid) {
				children[place].killed = true;
				kill(children[place].pid, SIGKILL);
			}
		usleep(2000);
	} while (alive || more);
	while (nr_ended) {
		usleep(100000);
		bury_ended();
	}
}

static int print_statistics(void)
{
	int i, j, e, never = 0, pairs = 0, all = 0;

	printf("# %llu steps in %llu worlds (%llu ended, %llu by exit, %llu killed)\n",
	       steps_done, shm->worlds, shm->endings[CLEAN], shm->endings[EXIT],
	       shm->endings[KILLED]);
	printf("# %llu exmaps, %llu pages looked at, %llu calls that lacked memory\n",
	       shm->exmaps, shm->checks, shm->starved);
	printf("# %llu worlds in a memory cgroup, %llu squeezed rounds\n", shm->cgroups,
	       shm->squeezed);
	for (i = 0; i < nr_kinds; i++) {
		const struct count *c = &shm->counts[i];
		int others = 0;

		for (j = 0; j < nr_kinds; j++)
			others += shm->races[i][j] > 0;
		pairs += others;
		all += nr_kinds;
		printf("# %-17s %7llu tried %7llu did something, beside %2d of %d;", kinds[i].name,
		       c->tried, c->succeeded, others, nr_kinds);
		for (e = 1; e < MAX_ERRNO; e++)
			if (c->failed[e])
				printf(" %s %llu", strerrorname_np(e) ?: "?", c->failed[e]);
		printf("\n");
		if (!c->succeeded && !kinds[i].refused && (weights[i] || i == nr_kinds - 1)) {
			printf("# %s never did anything\n", kinds[i].name);
			never++;
		}
	}
	printf("# %d of %d pairs of calls succeeded beside each other\n", pairs, all);
	if (!options.verbose)
		return never;
	for (i = 0; i < nr_kinds; i++)
		for (j = 0; j < nr_kinds; j++)
			printf("# %s beside %s: %llu\n", kinds[i].name, kinds[j].name,
			       shm->races[i][j]);
	return never;
}

static bool is_wanted(const char *name)
{
	const size_t len = strlen(name);
	const char *at = options.only;

	for (; at && *at; at += strcspn(at, ","), at += *at == ',')
		if (!strncmp(at, name, len) && (!at[len] || at[len] == ','))
			return true;
	return !options.only;
}

static const char usage[] =
	"usage: fuzz [--steps N] [--seconds T] [--seed S (0: random)] [--threads N]\n"
	"            [--processes N] [--world N (only that)] [--only call,call] [--verbose]\n"
	"            [--kill N (run N worlds and kill each of them soon)]\n"
	"            [--cgroup (all worlds in a memory cgroup, instead of a third)]\n"
	"calls:";

static void parse(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "steps", required_argument, NULL, 'n' },
		{ "seed", required_argument, NULL, 's' },
		{ "seconds", required_argument, NULL, 't' },
		{ "threads", required_argument, NULL, 'j' },
		{ "processes", required_argument, NULL, 'p' },
		{ "world", required_argument, NULL, 'w' },
		{ "only", required_argument, NULL, 'o' },
		{ "kill", required_argument, NULL, 'k' },
		{ "cgroup", no_argument, NULL, 'c' },
		{ "verbose", no_argument, NULL, 'v' },
		{},
	};
	int c, i;

	while ((c = getopt_long(argc, argv, "v", longs, NULL)) != -1) {
		switch (c) {
		case 'n':
			options.steps = strtoull(optarg, NULL, 0);
			break;
		case 's':
			options.seed = strtoull(optarg, NULL, 0);
			break;
		case 't':
			options.seconds = atoi(optarg);
			break;
		case 'j':
			options.threads = atoi(optarg);
			break;
		case 'p':
			options.processes = atoi(optarg);
			break;
		case 'w':
			options.world = atoi(optarg);
			break;
		case 'o':
			options.only = optarg;
			break;
		case 'k':
			options.kills = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			options.cgroup = true;
			break;
		case 'v':
			options.verbose = true;
			break;
		default:
			fputs(usage, stderr);
			for (i = 0; i < nr_kinds; i++)
				fprintf(stderr, " %s,", kinds[i].name);
			fprintf(stderr, "\n");
			exit(2);
		}
	}
	if (!options.steps)
		options.steps = options.seconds || options.kills ? ~0ULL : scaled(20000);
	if (options.threads < 1 || options.threads > MAX_THREADS || options.processes < 1 ||
	    options.processes > MAX_PROCESSES) {
		fprintf(stderr, "fuzz: 1 to %d threads, 1 to %d processes\n", MAX_THREADS,
			MAX_PROCESSES);
		exit(2);
	}
	while (!options.seed)
		options.seed = (getpid() ^ time(NULL) * 1000003) % 1000000000;
	for (i = 0; i < nr_kinds; i++) {
		weights[i] = is_wanted(kinds[i].name) ? kinds[i].weight : 0;
		all_weights += weights[i];
		thrifty_weights += kinds[i].thrifty ? weights[i] : 0;
	}
	if (!all_weights) {
		fprintf(stderr, "fuzz: no call is named '%s'\n", options.only);
		exit(2);
	}
}

/* Returns false, and prints why, if there will be no cgroups */
static bool start_cgroups(void)
{
	const char *missing = cgroup_create(&cg);
	char path[160];

	snprintf(path, sizeof(path), "%s/files", cg.path);
	if (!missing && cgroup_write(cg.path, "cgroup.subtree_control", "+memory"))
		missing = "no memory cgroups in a cgroup";
	if (!missing && mkdir(path, 0755))
		missing = "no further cgroup";
	/*
	 * Lock the program's pages, or some would be charged to a world and stay
	 * mapped after its end
	 */
	if (!missing && mlockall(MCL_CURRENT))
		missing = "memory cannot be locked";
	if (!missing)
		return true;
	printf("# no cgroups: %s\n", missing);
	return false;
}

static void end_cgroups(void)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/files", cg.path);
	if (rmdir(path) || cgroup_destroy(&cg))
		printf("# a cgroup cannot be removed: %s\n", strerror(errno));
}

int main(int argc, char **argv)
{
	int never, node;
	bool few;

	while (kinds[nr_kinds].name)
		nr_kinds++;
	parse(argc, argv);
	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	if (access(DEVICE, R_OK | W_OK))
		ksft_exit_skip("no " DEVICE "\n");
	ksft_set_plan(2);
	shm = mmap(NULL, sizeof(*shm), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shm == MAP_FAILED)
		ksft_exit_fail_msg("no memory\n");
	parent = getpid();
	for (node = 0; node < MAX_NODES; node++)
		options.nodes |= (unsigned long)node_has_memory(node) << node;
	/* A kernel without CONFIG_NUMA has no list of nodes */
	options.nodes |= !options.nodes;
	has_cgroup = start_cgroups();
	if (options.cgroup && !has_cgroup)
		ksft_exit_skip("no memory cgroups\n");
	can_starve = inject_begin() && !inject_set("fail_page_alloc/probability", "50") &&
		     !inject_set("fail_page_alloc/times", "-1") &&
		     !inject_set("fail_page_alloc/space", "0");
	printf("# seed %llu, %d processes of %d threads\n", options.seed, options.processes,
	       options.threads);
	run_worlds();
	if (can_starve)
		inject_set("fail_page_alloc/probability", "0");
	if (has_cgroup)
		end_cgroups();
	if (shm->failed)
		printf("# %s", shm->text);
	never = print_statistics();
	ksft_test_result(!shm->failed, "every answer and every page as it must be\n");
	/* Rare calls need many steps */
	few = steps_done < ENOUGH || options.only || options.world >= 0 || shm->failed;
	ksft_test_result(few || !never, "every call has done something%s\n",
			 few ? ", or there was not time enough" : "");
	ksft_finished();
}
