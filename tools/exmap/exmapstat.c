// SPDX-License-Identifier: GPL-2.0-only
/*
 * exmapstat: what the exmaps of running processes have
 *
 * Everything comes from /proc/PID/fdinfo, so that neither the program nor the kernel has
 * to be prepared. Root sees all processes, others see their own.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DEVICE		"/dev/exmap"
#define PAGE_KIB	4
#define MAX_POOLS	4096

/* Numbers of a pool, in the order of @keys */
enum number {
	POOL, LIMIT, PAGES, FREE, PARKED, QUARANTINED, FLUSHES, TABLES, REGIONS, INTERFACES,
	NR_NUMBERS
};

static const char * const keys[NR_NUMBERS] = {
	[POOL] = "pool", [LIMIT] = "limit", [PAGES] = "pages", [FREE] = "free",
	[PARKED] = "parked", [QUARANTINED] = "quarantined", [FLUSHES] = "flushes",
	[TABLES] = "tables", [REGIONS] = "regions", [INTERFACES] = "interfaces",
};

struct pool {
	int pid;
	char command[32];
	long number[NR_NUMBERS];
	double flushes;		/* a second, since the last look */
};

static struct pool pools[MAX_POOLS], before[MAX_POOLS];
static int nr_pools, nr_before;

static struct {
	int pid;
	bool json, top;
	double interval;
	long count;
} opt = { .interval = 1, .count = -1 };

static void read_command(struct pool *pool)
{
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/comm", pool->pid);
	file = fopen(path, "r");
	if (!file || !fgets(pool->command, sizeof(pool->command), file))
		strcpy(pool->command, "?");
	if (file)
		fclose(file);
	pool->command[strcspn(pool->command, "\n")] = '\0';
}

/* Read the numbers of the pool of a file. Returns whether there is one. */
static bool read_pool(struct pool *pool, int pid, const char *fd)
{
	static const char prefix[] = "exmap-";
	char path[64], line[128];
	bool found = false;
	FILE *file;
	int i;

	*pool = (struct pool) { .pid = pid };
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.16s", pid, fd);
	file = fopen(path, "r");
	while (file && fgets(line, sizeof(line), file)) {
		char *colon = strchr(line, ':');

		if (!colon || strncmp(line, prefix, sizeof(prefix) - 1))
			continue;
		*colon = '\0';
		for (i = 0; i < NR_NUMBERS; i++)
			if (!strcmp(line + sizeof(prefix) - 1, keys[i]))
				pool->number[i] = atol(colon + 1);
		found = true;
	}
	if (file)
		fclose(file);
	return found;
}

/* A process has a file for each region of a pool, and perhaps more */
static bool is_known(const struct pool *pool)
{
	int i;

	for (i = 0; i < nr_pools; i++)
		if (pools[i].pid == pool->pid && pools[i].number[POOL] == pool->number[POOL])
			return true;
	return false;
}

static void look_at_process(int pid)
{
	char path[PATH_MAX], target[64];
	struct dirent *entry;
	ssize_t len;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && nr_pools < MAX_POOLS && (entry = readdir(dir))) {
		struct pool *pool = &pools[nr_pools];

		len = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
		if (len < 0)
			continue;
		target[len] = '\0';
		if (strcmp(target, DEVICE) || !read_pool(pool, pid, entry->d_name) ||
		    is_known(pool))
			continue;
		read_command(pool);
		nr_pools++;
	}
	if (dir)
		closedir(dir);
}

static int compare(const void *a, const void *b)
{
	const struct pool *x = a, *y = b;
	const int key = opt.top ? PAGES : POOL;

	if (x->number[key] != y->number[key])
		return (x->number[key] > y->number[key]) == opt.top ? -1 : 1;
	return x->pid - y->pid;
}

static void look(double seconds)
{
	struct dirent *entry;
	DIR *dir;
	int i, k;

	memcpy(before, pools, nr_pools * sizeof(*pools));
	nr_before = nr_pools;
	nr_pools = 0;
	if (opt.pid) {
		look_at_process(opt.pid);
	} else {
		dir = opendir("/proc");
		while (dir && (entry = readdir(dir)))
			if (isdigit((unsigned char)entry->d_name[0]))
				look_at_process(atoi(entry->d_name));
		if (dir)
			closedir(dir);
	}
	for (i = 0; i < nr_pools; i++)
		for (k = 0; k < nr_before; k++)
			if (before[k].pid == pools[i].pid &&
			    before[k].number[POOL] == pools[i].number[POOL] && seconds > 0)
				pools[i].flushes = (pools[i].number[FLUSHES] -
						    before[k].number[FLUSHES]) / seconds;
	qsort(pools, nr_pools, sizeof(*pools), compare);
}

/* Pages in slots, or in the hands of calls */
static long resident(const struct pool *pool)
{
	const long *n = pool->number;
	const long pages = n[PAGES] - n[FREE] - n[PARKED] - n[QUARANTINED];

	/* The numbers are not read at the same moment */
	return pages > 0 ? pages : 0;
}

static void print_json(const struct pool *pool)
{
	const char *c;
	int i;

	printf("{\"time\":%ld,\"pid\":%d,\"command\":\"", (long)time(NULL), pool->pid);
	for (c = pool->command; *c; c++)
		if (*c == '"' || *c == '\\')
			printf("\\%c", *c);
		else if ((unsigned char)*c < ' ')
			printf("\\u%04x", *c);
		else
			putchar(*c);
	putchar('"');
	for (i = 0; i < NR_NUMBERS; i++)
		printf(",\"%s\":%ld", keys[i], pool->number[i]);
	printf(",\"resident\":%ld}\n", resident(pool));
}

static void print_mib(long pages)
{
	printf(" %9.1f", pages * PAGE_KIB / 1024.0);
}

static void print_line(const struct pool *pool)
{
	const long *n = pool->number;

	printf("%7d %-15.15s %4ld %5ld", pool->pid, pool->command, n[POOL], n[REGIONS]);
	print_mib(n[LIMIT]);
	print_mib(n[PAGES]);
	print_mib(resident(pool));
	print_mib(n[FREE]);
	print_mib(n[QUARANTINED]);
	print_mib(n[PARKED]);
	print_mib(n[TABLES]);
	printf(" %7.1f\n", pool->flushes);
}

static void print(void)
{
	static int lines;
	int i;

	if (opt.top) {
		printf("\033[H\033[J");
		lines = 0;
	}
	for (i = 0; i < nr_pools; i++) {
		if (opt.json) {
			print_json(&pools[i]);
			continue;
		}
		if (!(lines++ % 20))
			printf("%7s %-15s %4s %5s %9s %9s %9s %9s %9s %9s %9s %7s\n", "PID",
			       "COMMAND", "POOL", "REGS", "LIMIT", "PAGES", "RESIDENT", "FREE",
			       "QUAR", "PARKED", "TABLES", "FLUSH/s");
		print_line(&pools[i]);
	}
	if (!nr_pools && opt.top)
		printf("no process has an exmap\n");
	fflush(stdout);
}

static void print_help(void)
{
	printf("usage: exmapstat [option...] [seconds [count]]\n"
	       "Show what the exmaps of running processes have: a line for each pool, every second,\n"
	       "or as often as is said. Sizes are in MiB.\n\n"
	       "  -p, --pid PID    only this process\n"
	       "  -j, --json       a JSON object a line, with sizes in pages of 4 KiB\n"
	       "  -t, --top        on a screen that is redrawn, the largest pool first\n"
	       "  -h, --help       this text\n\n"
	       "LIMIT: buffer_size. PAGES: what the pool has from the system. RESIDENT: pages in\n"
	       "slots, or in the hands of calls. FREE: what ALLOC can use at once. QUAR: pages that\n"
	       "wait for a TLB shootdown. PARKED: pages that were freed and are still held, by direct\n"
	       "I/O for example. TABLES: PTE tables. FLUSH/s: shootdowns that were deferred.\n");
}

static void usage(const char *what, const char *arg)
{
	fprintf(stderr, "exmapstat: %s: %s; see exmapstat --help\n", arg, what);
	exit(2);
}

static double parse_seconds(const char *text)
{
	char *end;
	const double value = strtod(text, &end);

	if (*end || end == text || !(value >= 0.01 && value <= 1e6))
		usage("not a number of seconds", text);
	return value;
}

static long parse_number(const char *text)
{
	char *end;
	const long value = strtol(text, &end, 10);

	if (*end || end == text || value < 1 || value > INT_MAX)
		usage("not a number", text);
	return value;
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "pid", required_argument, NULL, 'p' },
		{ "json", no_argument, NULL, 'j' },
		{ "top", no_argument, NULL, 't' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	int c;

	while ((c = getopt_long(argc, argv, "p:jth", options, NULL)) != -1) {
		switch (c) {
		case 'p':
			opt.pid = parse_number(optarg);
			break;
		case 'j':
			opt.json = true;
			break;
		case 't':
			opt.top = true;
			break;
		case 'h':
			print_help();
			exit(0);
		default:
			exit(2);
		}
	}
	if (opt.json && opt.top)
		usage("not with --json", "--top");
	if (optind < argc)
		opt.interval = parse_seconds(argv[optind++]);
	if (optind < argc)
		opt.count = parse_number(argv[optind++]);
	if (optind < argc)
		usage("too many arguments", argv[optind]);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	struct timespec interval;
	double last = 0;

	parse(argc, argv);
	interval.tv_sec = opt.interval;
	interval.tv_nsec = (opt.interval - interval.tv_sec) * 1e9;
	if (access(DEVICE, F_OK))
		fprintf(stderr, "exmapstat: there is no %s: %s\n", DEVICE, strerror(errno));
	while (opt.count) {
		const double time = now();

		look(last ? time - last : 0);
		last = time;
		print();
		if (opt.count > 0 && !--opt.count)
			break;
		nanosleep(&interval, NULL);
	}
	return 0;
}
