// SPDX-License-Identifier: GPL-2.0
/*
 * What people see of an exmap from outside: /proc/PID/fdinfo, and tracepoints.
 */
#include <stdarg.h>
#include <sys/mount.h>

#include "common.h"
#include "backing.h"

#define BUFFER		2000
#define SLOTS		20000
#define FILE_PAGES	64
#define TRACING		"/sys/kernel/tracing/"

static long info(struct exmap *ex, const char *key)
{
	return read_fdinfo(getpid(), ex->fd, key);
}

TEST(fdinfo_of_a_pool)
{
	struct exmap ex;

	exmap_create(_metadata, &ex, -1, 3, BUFFER, SLOTS);
	EXPECT_LT(0, info(&ex, "exmap-pool"));
	EXPECT_EQ(0, info(&ex, "exmap-region"));
	EXPECT_EQ(SLOTS, info(&ex, "exmap-slots"));
	EXPECT_EQ(BUFFER, info(&ex, "exmap-limit"));
	EXPECT_EQ(0, info(&ex, "exmap-pages"));
	EXPECT_EQ(0, info(&ex, "exmap-free"));
	EXPECT_EQ(0, info(&ex, "exmap-flushes"));
	EXPECT_EQ(0, info(&ex, "exmap-tables"));
	EXPECT_EQ(1, info(&ex, "exmap-regions"));
	EXPECT_EQ(3, info(&ex, "exmap-interfaces"));

	ASSERT_EQ(1500, ex_alloc(&ex, 1, 10, 1500));
	ASSERT_EQ(1300, ex_free(&ex, 2, 10, 1300));
	EXPECT_LE(1500, info(&ex, "exmap-pages"));
	EXPECT_EQ(info(&ex, "exmap-pages") - 200, info(&ex, "exmap-free"));
	EXPECT_EQ(info(&ex, "exmap-pages"), info(&ex, "exmap-pages-4096"));
	EXPECT_EQ(info(&ex, "exmap-free"), info(&ex, "exmap-free-4096"));
	/* Three or four, except for those at the ends that serve other mappings as well */
	EXPECT_LT(0, info(&ex, "exmap-tables"));
	EXPECT_EQ(0, info(&ex, "exmap-parked"));
	EXPECT_EQ(0, info(&ex, "exmap-quarantined"));

	munmap(ex.region, SLOTS * PG);
	EXPECT_EQ(0, info(&ex, "exmap-slots"));
	EXPECT_EQ(0, info(&ex, "exmap-pages"));
	EXPECT_EQ(0, info(&ex, "exmap-free"));
	EXPECT_EQ(0, info(&ex, "exmap-regions"));
	exmap_destroy(&ex);
}

TEST(fdinfo_of_quarantine_and_parked_pages)
{
	struct exmap ex;
	struct iovec iov;
	int pipes[2];

	exmap_create2(_metadata, &ex, (struct exmap_setup2){
		.fd = -1, .flags = EXMAP_SETUP_DEFERRED, .quarantine = BUFFER,
	}, 2, BUFFER, SLOTS);
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(30, ex_alloc(&ex, 0, 0, 30));
	iov = (struct iovec){ page_at(&ex, 5), PG };
	ASSERT_EQ(PG, vmsplice(pipes[1], &iov, 1, 0));
	ASSERT_EQ(30, ex_free(&ex, 0, 0, 30));
	EXPECT_EQ(30, info(&ex, "exmap-quarantined"));
	ASSERT_EQ(0, ex_ioctl(ex.fd, EXMAP_IOCTL_FLUSH, NULL));
	EXPECT_EQ(1, info(&ex, "exmap-flushes"));
	/* The pages are sorted when someone needs them */
	ASSERT_EQ(1, ex_alloc(&ex, 0, 5000, 1));
	ASSERT_EQ(1, ex_free(&ex, 0, 5000, 1));
	EXPECT_EQ(1, info(&ex, "exmap-parked"));
	EXPECT_EQ(1, info(&ex, "exmap-quarantined"));
	EXPECT_EQ(info(&ex, "exmap-pages"), info(&ex, "exmap-free") + 2);
	close(pipes[0]);
	close(pipes[1]);
	exmap_destroy(&ex);
}

TEST(fdinfo_before_the_setup_and_from_another_process)
{
	int fd = exmap_open(_metadata);
	struct exmap ex;
	pid_t pid;

	EXPECT_EQ(-1, read_fdinfo(getpid(), fd, "exmap-pool"));
	EXPECT_NE(MAP_FAILED, ex_map_region(fd, 10));
	EXPECT_EQ(-1, read_fdinfo(getpid(), fd, "exmap-pool"));
	close(fd);
	exmap_create(_metadata, &ex, -1, 1, BUFFER, SLOTS);
	ASSERT_EQ(100, ex_alloc(&ex, 0, 0, 100));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(read_fdinfo(getppid(), ex.fd, "exmap-limit") == BUFFER &&
		      read_fdinfo(getpid(), ex.fd, "exmap-pages") >= 100 ? 0 : 1);
	EXPECT_EQ(0, wait_child(pid));
	exmap_destroy(&ex);
}

FIXTURE(trace) {
	struct exmap ex;
	int file;
	long pool;
};

FIXTURE_SETUP(trace)
{
	long end;

	self->file = -1;
	if (access(TRACING "events", F_OK))
		mount("trace", TRACING, "tracefs", 0, NULL);
	if (access(TRACING "events/exmap", F_OK))
		SKIP(return, "no tracepoints, or not root");
	ASSERT_EQ(0, write_text(TRACING "trace", " "));
	ASSERT_EQ(0, write_text(TRACING "events/exmap/enable", "1"));
	ASSERT_LE(0, make_backing(_metadata, MEMFD, FILE_PAGES, &self->file, &end));
	exmap_create(_metadata, &self->ex, self->file, 2, BUFFER, SLOTS);
	self->pool = info(&self->ex, "exmap-pool");
	ASSERT_LT(0, self->pool);
}

FIXTURE_TEARDOWN(trace)
{
	if (self->file < 0)
		return;
	write_text(TRACING "events/exmap/enable", "0");
	exmap_destroy(&self->ex);
	close(self->file);
}

/* Count the events of the pool with this name and these fields */
static int __printf(3, 4) traced(long pool, const char *event, const char *format, ...)
{
	char fields[256], text[512], line[1024];
	int count = 0;
	va_list args;
	FILE *file;

	va_start(args, format);
	vsnprintf(fields, sizeof(fields), format, args);
	va_end(args);
	snprintf(text, sizeof(text), " %s: pool=%ld %s", event, pool, fields);
	file = fopen(TRACING "trace", "r");
	while (file && fgets(line, sizeof(line), file))
		count += !!strstr(line, text);
	if (file)
		fclose(file);
	return count;
}

#define TRACED(EVENT, ...) traced(self->pool, EVENT, __VA_ARGS__)

TEST_F(trace, pages)
{
	struct exmap *ex = &self->ex;
	struct exmap_vec vecs[2];
	struct exmap_result r[2];

	EXPECT_EQ(1, TRACED("exmap_setup",
			    "region=0 pages=%d interfaces=2 slot_size=4096 deferred=0 backing=1",
			    BUFFER));
	/* The first ALLOC finds no page, the other one has a path of its own */
	ASSERT_EQ(1, ex_alloc(ex, 0, 5, 1));
	EXPECT_EQ(1, TRACED("exmap_refill", "interface=0 pages=16 err=0"));
	EXPECT_EQ(1, TRACED("exmap_alloc", "addr=%p slots=1 pages=1", page_at(ex, 5)));
	ASSERT_EQ(1, ex_free(ex, 0, 5, 1));
	EXPECT_EQ(1, TRACED("exmap_free", "addr=%p slots=1 pages=1", page_at(ex, 5)));
	ASSERT_EQ(1, ex_alloc(ex, 0, 5, 1));
	EXPECT_EQ(2, TRACED("exmap_alloc", "addr=%p slots=1 pages=1", page_at(ex, 5)));

	/* Ranges, with a slot that has a page */
	ASSERT_EQ(9, ex_alloc(ex, 0, 0, 10));
	EXPECT_EQ(1, TRACED("exmap_alloc", "addr=%p slots=10 pages=9", page_at(ex, 0)));
	ASSERT_EQ(10, ex_free(ex, 0, 0, 100));
	EXPECT_EQ(1, TRACED("exmap_free", "addr=%p slots=100 pages=10", page_at(ex, 0)));

	/* Single pages in an array: only those that changed */
	vecs[0] = ex_vec(EXMAP_OP_ALLOC, 300, 1, 0);
	vecs[1] = ex_vec(EXMAP_OP_ALLOC, 300, 1, 0);
	ASSERT_EQ(0, ex_vectors(ex, 0, vecs, r, 2));
	EXPECT_EQ(1, TRACED("exmap_alloc", "addr=%p ", page_at(ex, 300)));
	vecs[1] = ex_vec(EXMAP_OP_ALLOC, 301, 2, EXMAP_VEC_ZERO);
	ASSERT_EQ(0, ex_vectors(ex, 0, vecs, r, 2));
	EXPECT_EQ(1, TRACED("exmap_alloc", "addr=%p slots=1 pages=1", page_at(ex, 302)));

	/* A full pool, and pages of another interface */
	ASSERT_EQ(BUFFER - 3, ex_fill(ex, 1, 1000));
	EXPECT_LE(1, TRACED("exmap_refill", "interface=1 pages=0 err=-12"));
	EXPECT_LE(1, TRACED("exmap_steal", "interface=1 victim=0 "));
	/* The first table may also be that of other memory of the program */
	EXPECT_LE(1, TRACED("exmap_tables", "region=0 change="));
}

TEST_F(trace, transfers)
{
	struct exmap *ex = &self->ex;

	ASSERT_EQ(2, ex_one(ex, 0, EXMAP_OP_READ, 7, 2));
	EXPECT_EQ(1, TRACED("exmap_read", "addr=%p slots=2 bytes=8192 res=8192", page_at(ex, 7)));
	ASSERT_EQ(1, ex_vec_one(ex, 0, EXMAP_OP_READ, 9, 1, EXMAP_VEC_REPLACE));
	EXPECT_EQ(1, TRACED("exmap_read", "addr=%p slots=1 bytes=4096 res=4096", page_at(ex, 9)));
	ASSERT_EQ(1, ex_one(ex, 0, EXMAP_OP_WRITE, 9, 1));
	EXPECT_EQ(1, TRACED("exmap_write", "addr=%p slots=1 bytes=4096 res=4096", page_at(ex, 9)));
	/* The end of the file */
	ASSERT_EQ(-ENODATA, ex_vec_one(ex, 0, EXMAP_OP_READ, FILE_PAGES - 1, 2, 0));
	EXPECT_EQ(1, TRACED("exmap_read", "addr=%p slots=2 bytes=4096 res=-61",
			    page_at(ex, FILE_PAGES - 1)));
}

TEST_F(trace, flush)
{
	struct exmap ex;
	long pool;

	exmap_create2(_metadata, &ex, (struct exmap_setup2){
		.fd = -1, .flags = EXMAP_SETUP_DEFERRED,
	}, 2, BUFFER, SLOTS);
	pool = info(&ex, "exmap-pool");
	EXPECT_NE(self->pool, pool);
	ASSERT_EQ(10, ex_alloc(&ex, 0, 5000, 10));
	ASSERT_EQ(10, ex_free(&ex, 0, 5000, 10));
	EXPECT_EQ(0, traced(pool, "exmap_flush", "generation="));
	ASSERT_EQ(0, ex_ioctl(ex.fd, EXMAP_IOCTL_FLUSH, NULL));
	EXPECT_EQ(1, traced(pool, "exmap_flush", "generation=1 pages=10"));
	/* A slot that gets the page back that it has lost */
	ASSERT_EQ(1, ex_alloc(&ex, 0, 7000, 1));
	ASSERT_EQ(1, ex_free(&ex, 0, 7000, 1));
	ASSERT_EQ(1, ex_alloc(&ex, 0, 7000, 1));
	EXPECT_EQ(2, traced(pool, "exmap_alloc", "addr=%p slots=1 pages=1", page_at(&ex, 7000)));
	EXPECT_EQ(1, traced(pool, "exmap_flush", "generation="));
	exmap_destroy(&ex);
}

TEST_F(trace, shrink)
{
	struct exmap *ex = &self->ex;

	ASSERT_EQ(1000, ex_alloc(ex, 0, 0, 1000));
	ASSERT_EQ(1000, ex_free(ex, 0, 0, 1000));
	if (write_text("/proc/sys/vm/drop_caches", "2"))
		SKIP(return, "drop_caches cannot be written");
	EXPECT_LE(1, TRACED("exmap_shrink", "wanted="));
	EXPECT_GT(1000, info(ex, "exmap-pages"));
}

TEST_HARNESS_MAIN
