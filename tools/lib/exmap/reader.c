// SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause)
/* Readers that take no lock: SIGSEGV makes them start over */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* Regions that all pools of a process can have at a time */
#define MAX_RANGES	(2 * EXM_MAX_REGIONS)

/* A signal handler can neither allocate memory for the TLS of a library nor wait */
static __thread struct exm_reader *reading __attribute__((tls_model("initial-exec")));

static struct {
	atomic_uintptr_t start;
	atomic_uintptr_t end;		/* 0 where there is none */
} ranges[MAX_RANGES];
static atomic_uint nr_ranges;
static pthread_mutex_t ranges_lock = PTHREAD_MUTEX_INITIALIZER;

static struct sigaction previous;
static pthread_once_t installed = PTHREAD_ONCE_INIT;
static int install_error;

void exm_reader_watch(const void *start, uint64_t length)
{
	unsigned int i;

	pthread_mutex_lock(&ranges_lock);
	for (i = 0; i < nr_ranges && ranges[i].end; i++)
		;
	if (i < MAX_RANGES) {
		ranges[i].start = (uintptr_t)start;
		ranges[i].end = (uintptr_t)start + length;
		if (i == nr_ranges)
			nr_ranges = i + 1;
	}
	pthread_mutex_unlock(&ranges_lock);
}

void exm_reader_unwatch(const void *start)
{
	pthread_mutex_lock(&ranges_lock);
	for (unsigned int i = 0; i < nr_ranges; i++)
		if (ranges[i].start == (uintptr_t)start && ranges[i].end)
			ranges[i].end = 0;
	pthread_mutex_unlock(&ranges_lock);
}

static bool is_watched(uintptr_t addr)
{
	for (unsigned int i = 0; i < nr_ranges; i++)
		if (addr < ranges[i].end && addr >= ranges[i].start)
			return true;
	return false;
}

static void handler(int sig, siginfo_t *info, void *context)
{
	struct exm_reader *reader = reading;

	/* It goes on to be the reader that this thread is in */
	if (reader && info->si_code > 0 && is_watched((uintptr_t)info->si_addr))
		siglongjmp(reader->restart, 1);
	/* Not a reader's: what would have happened without this library */
	if (previous.sa_flags & SA_SIGINFO) {
		previous.sa_sigaction(sig, info, context);
	} else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
		previous.sa_handler(sig);
	} else {
		/* The access is made again, and ends the process */
		signal(sig, SIG_DFL);
		if (info->si_code <= 0)
			raise(sig);
	}
}

static void install(void)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_sigaction = handler;
	/* A reader leaves the handler by a jump, and may fault again at once */
	action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
	sigemptyset(&action.sa_mask);
	install_error = sigaction(SIGSEGV, &action, &previous) ? errno : 0;
}

/*
 * Install the SIGSEGV handler, once in a process, before the first reader. Faults that are
 * not those of a reader go to the handler that was there before.
 */
int exm_reader_install(void)
{
	pthread_once(&installed, install);
	if (install_error)
		return exm_fail(install_error, "sigaction: %s", strerror(install_error));
	return 0;
}

/*
 * Begin to read; readers may be nested. Returns where exm_reader_begin() stores, before
 * anything can fault, how to start over.
 */
sigjmp_buf *exm_reader_arm(struct exm_reader *reader)
{
	reader->outer = reading;
	/* The compiler must not move accesses of the reader before this */
	atomic_signal_fence(memory_order_seq_cst);
	reading = reader;
	atomic_signal_fence(memory_order_seq_cst);
	return &reader->restart;
}

/* End what exm_reader_begin() has begun */
void exm_reader_end(struct exm_reader *reader)
{
	atomic_signal_fence(memory_order_seq_cst);
	reading = reader->outer;
	atomic_signal_fence(memory_order_seq_cst);
}
