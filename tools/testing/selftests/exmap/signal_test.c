// SPDX-License-Identifier: GPL-2.0
/*
 * Signals that accesses to the region raise, and how programs handle them: the code of
 * SIGSEGV, handlers of every kind, pages that must not fault while they are cleaned or
 * replaced, signals that end a long call, and core dumps.
 */
#include "common.h"
#include "backing.h"
#include "nullb.h"

#include <ucontext.h>

#define BUFFER		256
#define PAGES		2048

FIXTURE(signals) {
	struct exmap ex;
	int backing;
};

FIXTURE_VARIANT(signals) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(signals, strict) {};
FIXTURE_VARIANT_ADD(signals, deferred) { .flags = EXMAP_SETUP_DEFERRED };

FIXTURE_SETUP(signals)
{
	struct exmap_setup2 setup = { .flags = variant->flags };

	self->backing = memfd_create("backing", MFD_CLOEXEC);
	ASSERT_LE(0, self->backing);
	ASSERT_EQ(0, fill_file(self->backing, BUFFER));
	setup.fd = self->backing;
	exmap_create2(_metadata, &self->ex, setup, 2, BUFFER, PAGES);
}

FIXTURE_TEARDOWN(signals)
{
	EXPECT_LE(0, ex_drain(&self->ex, 0, 0, PAGES));
	EXPECT_EQ(BUFFER, ex_fill(&self->ex, 1, 0));
	exmap_destroy(&self->ex);
	close(self->backing);
}

/* si_code of SIGSEGV */

static __thread int fault_code;

static void note_code(int sig, siginfo_t *info, void *context)
{
	fault_code = info->si_code;
	fault_handler(sig, info, context);
}

/* Returns the code of the SIGSEGV that an access raises, or 0 if there is none */
static int code_of(char *addr, bool write)
{
	int sig;

	fault_code = 0;
	fault_address = NULL;
	sig = write ? try_write_byte(addr, 1) : try_read_byte(addr);
	if (sig && (sig != SIGSEGV || fault_address != addr))
		return -1;
	return fault_code;
}

TEST_F(signals, codes)
{
	/* User-mode Linux reports SEGV_ACCERR for every address in a mapping */
	const int empty = is_user_mode_linux() ? SEGV_ACCERR : SEGV_MAPERR;
	struct sigaction action = {
		.sa_sigaction = note_code,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};
	struct exmap *ex = &self->ex;
	const size_t size = PAGES * PG;

	sigaction(SIGSEGV, &action, NULL);
	ASSERT_EQ(3, ex_alloc(ex, 0, 10, 3));
	ASSERT_EQ(1, ex_free(ex, 0, 11, 1));
	ASSERT_EQ(0, ex_ioctl(ex->fd, EXMAP_IOCTL_FLUSH, NULL));

	EXPECT_EQ(0, code_of(page_at(ex, 10) + 5, false));
	EXPECT_EQ(0, code_of(page_at(ex, 10) + 5, true));
	/* Slots that never had a page; slot 1500 has no page table either */
	EXPECT_EQ(empty, code_of(page_at(ex, 1500) + 5, false));
	EXPECT_EQ(empty, code_of(page_at(ex, 1500) + 5, true));
	EXPECT_EQ(empty, code_of(page_at(ex, 20) + 4095, false));
	/* A slot whose page was freed */
	EXPECT_EQ(empty, code_of(page_at(ex, 11), false));
	EXPECT_EQ(empty, code_of(page_at(ex, 11), true));

	ASSERT_EQ(0, mprotect(ex->region, size, PROT_READ));
	EXPECT_EQ(0, code_of(page_at(ex, 10), false));
	EXPECT_EQ(SEGV_ACCERR, code_of(page_at(ex, 10) + 77, true));
	EXPECT_EQ(SEGV_ACCERR, code_of(page_at(ex, 11) + 77, true));
	EXPECT_EQ(empty, code_of(page_at(ex, 11) + 77, false));
	ASSERT_EQ(0, mprotect(ex->region, size, PROT_NONE));
	EXPECT_EQ(SEGV_ACCERR, code_of(page_at(ex, 10), false));
	EXPECT_EQ(SEGV_ACCERR, code_of(page_at(ex, 10), true));
	EXPECT_EQ(SEGV_ACCERR, code_of(page_at(ex, 11), false));
	ASSERT_EQ(0, mprotect(ex->region, size, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, code_of(page_at(ex, 10), true));
	EXPECT_EQ(empty, code_of(page_at(ex, 11), true));

	ASSERT_EQ(0, munmap(ex->region, size));
	EXPECT_EQ(SEGV_MAPERR, code_of(page_at(ex, 10), false));
	EXPECT_EQ(SEGV_MAPERR, code_of(page_at(ex, 11), true));

	/* The teardown needs an exmap */
	exmap_create(_metadata, ex, -1, 2, BUFFER, PAGES);
}

/* Handlers of SIGSEGV. Each runs in a process of its own, as one of them is fatal. */

#define FAULTS	100

static struct exmap *handler_ex;

static void handle(void (*handler)(int sig, siginfo_t *info, void *context), int flags)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };

	sigaction(SIGSEGV, &action, NULL);
}

static void jump_out(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	(void)context;
	siglongjmp(fault_jump, 1);
}

/* Write a byte; returns true if the write faults and the handler jumps out of it */
static bool faults(char *addr, bool restore_mask)
{
	if (sigsetjmp(fault_jump, restore_mask))
		return true;
	__atomic_store_n(addr, 1, __ATOMIC_SEQ_CST);
	return false;
}

/* Write to empty slots, from slot 30 on; returns 0 if each write faults */
static int fault_often(struct exmap *ex, bool restore_mask)
{
	int i;

	for (i = 30; i < 30 + FAULTS; i++)
		if (!faults(page_at(ex, i), restore_mask))
			return 2;
	return 0;
}

/*
 * A handler without SA_NODEFER that throws or jumps leaves SIGSEGV blocked. The next
 * fault of the thread cannot be delivered and kills the process.
 */
static int blocked_while_handled(struct exmap *ex)
{
	handle(jump_out, 0);
	if (!faults(page_at(ex, 30), false))
		return 2;
	return faults(page_at(ex, 31), false) ? 1 : 2;
}

/* A handler without SA_NODEFER may jump if the jump restores the signal mask */
static int mask_restored(struct exmap *ex)
{
	handle(jump_out, 0);
	return fault_often(ex, true);
}

/* With SA_NODEFER, as buffer managers use it, the jump need not restore the mask */
static int not_blocked(struct exmap *ex)
{
	handle(jump_out, SA_NODEFER);
	return fault_often(ex, false);
}

/* A handler that reads the missing page and evicts the page before it */
static void bring_in(int sig, siginfo_t *info, void *context)
{
	const long page = ((char *)info->si_addr - handler_ex->region) / PG;

	(void)sig;
	(void)context;
	if (page > 30 && ex_free(handler_ex, 0, page - 1, 1) != 1)
		_exit(3);
	if (ex_one(handler_ex, 0, EXMAP_OP_READ, page, 1) != 1)
		_exit(4);
}

/* The access is repeated when the handler has brought in the page and returns */
static int made_again(struct exmap *ex)
{
	int i;

	handle(bring_in, 0);
	for (i = 30; i < BUFFER; i++)
		if (!page_is(page_at(ex, i), i))
			return 1;
	return 0;
}

#if defined(__x86_64__)
#define UC_PC(uc)	((uc)->uc_mcontext.gregs[REG_RIP])
#define UC_SP(uc)	((uc)->uc_mcontext.gregs[REG_RSP])
#define SP_AT_ENTRY	8	/* bytes below a multiple of 16: the return address */
#elif defined(__aarch64__)
#define UC_PC(uc)	((uc)->uc_mcontext.pc)
#define UC_SP(uc)	((uc)->uc_mcontext.sp)
#define SP_AT_ENTRY	0
#endif

#ifdef UC_PC
static void leave_fault(void)
{
	siglongjmp(fault_jump, 1);
}

static void redirect(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	if (info->si_code != SEGV_MAPERR && info->si_code != SEGV_ACCERR)
		_exit(3);
	UC_PC(uc) = (unsigned long)leave_fault;
	/* Stay clear of the red zone of the interrupted function */
	UC_SP(uc) = ((UC_SP(uc) - 256) & ~15UL) - SP_AT_ENTRY;
}

/*
 * Language runtimes that turn SIGSEGV into a panic (Go's SetPanicOnFault()) handle it on
 * an alternate stack with all signals blocked. Their handler changes the program counter
 * of the thread and returns, which restores the signal mask.
 */
static int redirected(struct exmap *ex)
{
	struct sigaction action = {
		.sa_sigaction = redirect,
		.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART,
	};
	stack_t stack = { .ss_size = 64 << 10 };

	stack.ss_sp = malloc(stack.ss_size);
	sigfillset(&action.sa_mask);
	if (!stack.ss_sp || sigaltstack(&stack, NULL) || sigaction(SIGSEGV, &action, NULL))
		return 1;
	return fault_often(ex, false);
}
#endif

static int run_handler(struct __test_metadata *_metadata, int backing,
		       int (*test)(struct exmap *ex))
{
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid) {
		struct rlimit none = {};
		struct exmap ex;

		setrlimit(RLIMIT_CORE, &none);
		exmap_create(_metadata, &ex, backing, 1, BUFFER, PAGES);
		handler_ex = &ex;
		_exit(test(&ex));
	}
	return wait_child(pid);
}

TEST_F(signals, handlers)
{
	EXPECT_EQ(128 + SIGSEGV, run_handler(_metadata, self->backing, blocked_while_handled));
	EXPECT_EQ(0, run_handler(_metadata, self->backing, mask_restored));
	EXPECT_EQ(0, run_handler(_metadata, self->backing, not_blocked));
	EXPECT_EQ(0, run_handler(_metadata, self->backing, made_again));
#ifdef UC_PC
	EXPECT_EQ(0, run_handler(_metadata, self->backing, redirected));
#endif
}

/*
 * Threads write to resident pages while the main thread cleans them with WRITE and
 * EXMAP_VEC_DIRTY. No page is freed, so no access may fault and no data may be lost.
 */

#define WRITERS	3

struct cleaning {
	int stop;
	int faults;
	__u8 last[WRITERS][BUFFER];
};

static void *write_bytes(void *arg)
{
	struct worker *w = arg;
	struct cleaning *c = w->arg;
	__u8 value;
	int i, sig;

	pin_to_cpu((1 + w->index) % sysconf(_SC_NPROCESSORS_ONLN));
	pthread_barrier_wait(&start_line);
	for (value = 1; !__atomic_load_n(&c->stop, __ATOMIC_SEQ_CST); value++) {
		for (i = 0; i < BUFFER; i++) {
			sig = try_write_byte(page_at(w->ex, i) + w->index, value);
			if (BROKE(w, sig, i)) {
				__atomic_add_fetch(&c->faults, 1, __ATOMIC_SEQ_CST);
				return NULL;
			}
			c->last[w->index][i] = value;
		}
	}
	return NULL;
}

TEST_F_TIMEOUT(signals, cleaned_pages_do_not_fault, SLOW)
{
	struct exmap *ex = &self->ex;
	struct worker w[WRITERS];
	struct cleaning c = {};
	const long wanted = BUFFER * scaled(150);
	long written = 0;
	int i, ret = 0;

	catch_faults();
	ASSERT_EQ(BUFFER, ex_alloc(ex, 0, 0, BUFFER));
	memset(ex->region, 0, BUFFER * PG);
	pin_to_cpu(0);
	start_workers(_metadata, w, WRITERS, write_bytes, ex, &c);
	/* Count the pages that threads have dirtied since the previous call */
	while (written < wanted && !__atomic_load_n(&c.faults, __ATOMIC_SEQ_CST)) {
		ret = ex_vec_one(ex, 0, EXMAP_OP_WRITE, 0, BUFFER, EXMAP_VEC_DIRTY);
		if (ret < 0)
			break;
		written += ret;
		if (!ret)
			sched_yield();
	}
	EXPECT_LE(0, ret);
	__atomic_store_n(&c.stop, 1, __ATOMIC_SEQ_CST);
	join_workers(_metadata, w, WRITERS);

	EXPECT_LE(0, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 0, BUFFER, EXMAP_VEC_DIRTY));
	EXPECT_EQ(0, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 0, BUFFER, EXMAP_VEC_DIRTY));
	ASSERT_EQ(BUFFER, ex_free(ex, 0, 0, BUFFER));
	ASSERT_EQ(BUFFER, ex_one(ex, 1, EXMAP_OP_READ, 0, BUFFER));
	for (i = 0; i < WRITERS * BUFFER; i++)
		EXPECT_EQ(c.last[i % WRITERS][i / WRITERS],
			  (__u8)page_at(ex, i / WRITERS)[i % WRITERS]);
}

/*
 * One EXMAP_IOCTL_VECTORS call frees the page of a slot and puts another page there.
 * Once the call has returned, no thread may see the old page.
 */

#define READERS		3
#define SWAPPED		4	/* slots */

struct swapping {
	__u64 round;		/* in the stamps of all slots, or 0 during a call */
	int stop;
	long seen;
};

static __u64 swap_stamp(__u64 round, int slot)
{
	return round << 8 | slot;
}

static void *read_swapped(void *arg)
{
	struct worker *w = arg;
	struct swapping *s = w->arg;
	__u64 before, value;
	int slot, sig;

	pin_to_cpu((1 + w->index) % sysconf(_SC_NPROCESSORS_ONLN));
	pthread_barrier_wait(&start_line);
	while (!__atomic_load_n(&s->stop, __ATOMIC_SEQ_CST)) {
		for (slot = 0; slot < SWAPPED; slot++) {
			before = __atomic_load_n(&s->round, __ATOMIC_SEQ_CST);
			sig = try_read(page_at(w->ex, slot), &value);
			/* The pages may have been replaced meanwhile: ignore the result */
			if (__atomic_load_n(&s->round, __ATOMIC_SEQ_CST) != before || !before)
				continue;
			if (BROKE(w, sig, before) ||
			    BROKE(w, value != swap_stamp(before, slot), value))
				return NULL;
			__atomic_add_fetch(&s->seen, 1, __ATOMIC_SEQ_CST);
		}
	}
	return NULL;
}

TEST_F_TIMEOUT(signals, replaced_page_is_not_seen, SLOW)
{
	struct exmap_vec vecs[2 * SWAPPED];
	struct exmap_result results[2 * SWAPPED];
	struct exmap *ex = &self->ex;
	struct worker w[READERS];
	struct swapping s = {};
	int i, round, ret = 0, other = 0;
	long seen;

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "no other CPU that could have an old translation");
	catch_faults();
	/* Fill the free pages of the pool with a stamp that no round uses */
	ASSERT_EQ(BUFFER, ex_fill(ex, 0, 0));
	for (i = 0; i < BUFFER; i++)
		stamp_page(page_at(ex, i), ~0ULL);
	ASSERT_EQ(BUFFER - SWAPPED, ex_free(ex, 0, SWAPPED, BUFFER - SWAPPED));
	for (i = 0; i < SWAPPED; i++) {
		vecs[2 * i] = ex_vec(EXMAP_OP_FREE, i, 1, 0);
		vecs[2 * i + 1] = ex_vec(EXMAP_OP_ALLOC, i, 1, 0);
	}
	pin_to_cpu(0);
	start_workers(_metadata, w, READERS, read_swapped, ex, &s);
	for (round = 1; round <= scaled(100); round++) {
		/* Readers ignore what they read while the round is 0 */
		__atomic_store_n(&s.round, 0, __ATOMIC_SEQ_CST);
		ret = ex_vectors(ex, 0, vecs, results, 2 * SWAPPED);
		for (i = 0; i < 2 * SWAPPED && !ret; i++)
			ret = results[i].pages != 1;
		if (ret)
			break;
		for (i = 0; i < SWAPPED; i++) {
			other += *(__u64 *)page_at(ex, i) != swap_stamp(round - 1, i);
			stamp_page(page_at(ex, i), swap_stamp(round, i));
		}
		seen = __atomic_load_n(&s.seen, __ATOMIC_SEQ_CST);
		__atomic_store_n(&s.round, round, __ATOMIC_SEQ_CST);
		/* Give the readers time to read all slots */
		for (i = 0; i < 10000; i++) {
			if (__atomic_load_n(&s.seen, __ATOMIC_SEQ_CST) >= seen + READERS * SWAPPED)
				break;
			sched_yield();
		}
	}
	EXPECT_EQ(0, ret);
	__atomic_store_n(&s.stop, 1, __ATOMIC_SEQ_CST);
	join_workers(_metadata, w, READERS);
	EXPECT_LT(0, s.seen);
	TH_LOG("%ld reads, %d of %d pages differ from the one before", s.seen, other,
	       SWAPPED * (round - 1));
}

/* A long call must end soon after SIGKILL */

#define LONGEST		65535	/* slots of a vector */

struct long_call {
	struct exmap ex;
	unsigned int nr;
	struct exmap_vec vecs[EXMAP_VECTORS_MAX];
	struct exmap_result results[EXMAP_VECTORS_MAX];
};

FIXTURE(long_call) {
	struct long_call *call;
};

FIXTURE_VARIANT(long_call) {
	__u64 flags;
	bool tables;	/* the slots have page tables */
};

FIXTURE_VARIANT_ADD(long_call, without_tables) {};
FIXTURE_VARIANT_ADD(long_call, with_tables) { .tables = true };

FIXTURE_VARIANT_ADD(long_call, deferred) {
	.flags = EXMAP_SETUP_DEFERRED,
	.tables = true,
};

/*
 * Create an exmap, and prepare a FREE that finds no page: in about 2^28 slots without
 * page tables, or many times in the same 2^16 slots, which have page tables.
 */
static void long_call_prepare(struct __test_metadata *_metadata, struct long_call *call,
			      __u64 flags, bool tables)
{
	struct exmap_setup2 setup = { .flags = flags, .fd = -1 };
	int i;

	call->nr = tables ? EXMAP_VECTORS_MAX / 8 : EXMAP_VECTORS_MAX;
	exmap_create2(_metadata, &call->ex, setup, 1, 512, EXMAP_VECTORS_MAX * LONGEST);
	for (i = 0; i < (int)call->nr; i++)
		call->vecs[i] = ex_vec(EXMAP_OP_FREE, tables ? 0 : (__u64)i * LONGEST, LONGEST, 0);
	/* Create page tables: they may be kept when their last page is freed */
	for (i = 0; tables && i < LONGEST; i += 512)
		ASSERT_EQ(1, ex_alloc(&call->ex, 0, i, 1));
	if (tables)
		ASSERT_EQ((LONGEST + 511) / 512, ex_drain(&call->ex, 0, 0, LONGEST));
}

FIXTURE_SETUP(long_call)
{
	self->call = calloc(1, sizeof(*self->call));
	ASSERT_NE(NULL, self->call);
}

FIXTURE_TEARDOWN(long_call)
{
	free(self->call);
}

/* Return how many seconds a process lives on that is killed in the middle of the call */
static double seconds_to_kill(struct __test_metadata *_metadata, struct long_call *call,
			      __u64 flags, bool tables)
{
	double start, end;
	int ready[2];
	char byte = 0;
	pid_t pid;

	ASSERT_EQ(0, pipe(ready));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		long_call_prepare(_metadata, call, flags, tables);
		if (write(ready[1], &byte, 1) == 1)
			ex_vectors(&call->ex, 0, call->vecs, call->results, call->nr);
		_exit(0);
	}
	ASSERT_EQ(1, read(ready[0], &byte, 1));
	usleep(100000);
	start = seconds_now();
	kill(pid, SIGKILL);
	EXPECT_EQ(128 + SIGKILL, wait_child(pid));
	end = seconds_now() - start;
	close(ready[0]);
	close(ready[1]);
	return end;
}

TEST_F_TIMEOUT(long_call, free_of_empty_slots, SLOW)
{
	struct long_call *call = self->call;
	double start, whole, end = 0;
	unsigned int i;

	long_call_prepare(_metadata, call, variant->flags, variant->tables);
	start = seconds_now();
	EXPECT_EQ(0, ex_vectors(&call->ex, 0, call->vecs, call->results, call->nr));
	whole = seconds_now() - start;
	for (i = 0; i < call->nr; i++)
		EXPECT_TRUE(!call->results[i].res && !call->results[i].pages);
	exmap_destroy(&call->ex);
	TH_LOG("%.3f s", whole);
	EXPECT_GT(variant->tables ? 60 : 5, whole);

	/* A short call does not have to notice SIGKILL */
	if (whole < 0.4)
		return;
	/* Try again in case the machine was stalled */
	for (i = 0; i < 5; i++) {
		end = seconds_to_kill(_metadata, call, variant->flags, variant->tables);
		if (end < (whole - 0.1) / 2)
			break;
	}
	EXPECT_GT((whole - 0.1) / 2, end)
		TH_LOG("killed after %.3f s", end);
}

/*
 * A process with a region of 8 TiB, some resident pages and a READ in flight dumps core.
 * The kernel must neither dump the region nor search it for pages.
 */

static void *read_slowly(void *arg)
{
	struct exmap *ex = arg;

	for (;;) {
		ex_one(ex, 1, EXMAP_OP_READ, 100, 8);
		ex_free(ex, 1, 100, 8);
	}
	return NULL;
}

/* Dump core in a child process; does not return */
static void dump_core(struct __test_metadata *_metadata, struct nullb *disk)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	struct exmap ex = { .buffer = 64 };
	pthread_t thread;
	int i;

	setrlimit(RLIMIT_CORE, &unlimited);
	if (write_text("/proc/self/coredump_filter", "0x7f"))
		_exit(100);
	ex.fd = exmap_open(_metadata);
	ASSERT_EQ(0, ex_setup2(ex.fd, open(disk->path, O_RDONLY | O_DIRECT), 2, 64));
	ex.region = ex_map_region(ex.fd, 1UL << 31);
	ASSERT_NE(MAP_FAILED, ex.region);
	ASSERT_EQ(32, ex_alloc(&ex, 0, 1 << 30, 32));
	memset(page_at(&ex, 1 << 30), 0x5a, 32 * PG);
	ASSERT_EQ(0, pthread_create(&thread, NULL, read_slowly, &ex));
	for (i = 0; i < 1000 && !nullb_inflight(disk); i++)
		usleep(1000);
	signal(SIGABRT, SIG_DFL);
	abort();
}

FIXTURE(core) {
	struct nullb disk;
	char pattern[128];
	char path[128];
};

#define CORE_PATTERN	"/proc/sys/kernel/core_pattern"

FIXTURE_SETUP(core)
{
	if (access("/proc/self/coredump_filter", W_OK))
		SKIP(return, "no CONFIG_ELF_CORE");
	if (nullb_create(&self->disk, "signal_test", 300000000, NULL))
		SKIP(return, "no null_blk through configfs: %s", strerror(errno));
	read_line(CORE_PATTERN, self->pattern, sizeof(self->pattern) - 1);
	strcat(self->pattern, "\n");
	snprintf(self->path, sizeof(self->path), "%.90s/exmap-core-%d",
		 getenv("EXMAP_TEST_DIR") ?: "/tmp", getpid());
	ASSERT_EQ(0, write_text(CORE_PATTERN, self->path));
}

FIXTURE_TEARDOWN(core)
{
	EXPECT_EQ(0, write_text(CORE_PATTERN, self->pattern));
	nullb_destroy(&self->disk);
}

TEST_F_TIMEOUT(core, dump_with_a_read_in_flight, SLOW)
{
	const double start = seconds_now();
	char path[160];
	struct stat info;
	int status = 0;
	double took;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		dump_core(_metadata, &self->disk);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	took = seconds_now() - start;
	ASSERT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(SIGABRT, WTERMSIG(status));
	EXPECT_TRUE(WCOREDUMP(status));
	/* The kernel may append the PID to the name (kernel.core_uses_pid) */
	snprintf(path, sizeof(path), "%s.%d", self->path, pid);
	if (!access(self->path, F_OK))
		snprintf(path, sizeof(path), "%s", self->path);
	ASSERT_EQ(0, stat(path, &info));
	unlink(path);
	TH_LOG("%.1f s, %ld KiB", took, (long)info.st_size >> 10);
	EXPECT_LT(PG, (unsigned long)info.st_size);
	EXPECT_GT(20L << 20, (long)info.st_size);
	/* A search of the whole region would take hours */
	EXPECT_GT(30, took);
}

TEST_HARNESS_MAIN
