/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Code shared by the benchmarks: a clock that is checked for its resolution, markers
 * for a tracer, and small helpers that exit on failure
 */
#ifndef EXMAP_BENCH_H
#define EXMAP_BENCH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <linux/types.h>

#include "kselftest.h"

#define DEVICE		"/dev/exmap"
#define PG		4096UL

static inline void __noreturn __printf(1, 2) die(const char *format, ...)
{
	va_list args;

	fprintf(stderr, "bench: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	exit(1);
}

static inline __u64 next_random(__u64 *state)
{
	__u64 x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	*state = x;
	return x;
}

static inline void *allocate(size_t count, size_t size)
{
	void *p = calloc(count ? count : 1, size);

	if (!p)
		die("no memory");
	return p;
}

static inline unsigned long parse_number(const char *text, unsigned long min,
					 unsigned long max)
{
	char *end;
	unsigned long n = strtoul(text, &end, 0);

	if (end == text || *end || n < min || n > max)
		die("%s: not a number from %lu to %lu", text, min, max);
	return n;
}

static inline void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("cannot use CPU %d: %s", cpu, strerror(errno));
}

/*
 * Markers that tell scripts/plugin/exmap-trace.c where the timed part begins and ends.
 * Each is a no-op instruction whose operand is a number that occurs nowhere else.
 */
static inline void trace_start(void)
{
#if defined(__x86_64__)
	asm volatile(".byte 0x0f, 0x1f, 0x80; .long 0x45584d31" ::: "memory");
#endif
}

static inline void trace_stop(void)
{
#if defined(__x86_64__)
	asm volatile(".byte 0x0f, 0x1f, 0x80; .long 0x45584d30" ::: "memory");
#endif
}

/* Make the tracer write what it has counted for this case, and start from zero */
static inline void trace_write(void)
{
#if defined(__x86_64__)
	asm volatile(".byte 0x0f, 0x1f, 0x80; .long 0x45584d33" ::: "memory");
#endif
}

static inline __u64 now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/*
 * Wait until the clock has a fine resolution: in the first seconds after boot, it ticks
 * only a few hundred times per second. Do not sleep, because a clock that counts
 * instructions jumps when the CPU is idle.
 */
static inline void wait_for_fine_clock(void)
{
	const __u64 start = now();
	unsigned int i, fine;
	__u64 step, before;

	do {
		for (i = fine = 0; i < 1000; i++) {
			before = now();
			step = now() - before;
			fine += step > 0 && step < 1000;
		}
		if (fine > 900)
			return;
	} while (now() - start < 30000000000ULL);
	die("the clock is too coarse, even half a minute after the start");
}

#endif
