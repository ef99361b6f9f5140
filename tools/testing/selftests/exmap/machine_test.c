// SPDX-License-Identifier: GPL-2.0
/*
 * The machine changes under threads at work: memory goes offline, CPUs are
 * unplugged, the system is suspended. Calls wait or go on; no page is lost or altered.
 */
#include "common.h"

#include <dirent.h>

#define THREADS		4
#define RANGE		64
#define PAGES		(THREADS * RANGE)
#define CPU		"/sys/devices/system/cpu"
#define MEMORY		"/sys/devices/system/memory"

struct work {
	int stop;
	long rounds[THREADS];
};

FIXTURE(machine) {
	struct exmap ex;
	struct worker w[THREADS];
	struct work work;
	int fd, backing;
};

FIXTURE_VARIANT(machine) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(machine, strict) {
};

FIXTURE_VARIANT_ADD(machine, deferred) {
	.flags = EXMAP_SETUP_DEFERRED,
};

/* Pages come from the file, get another content, go back to the file, and are freed */
static void *write_and_read(void *arg)
{
	struct worker *w = arg;
	struct work *work = w->arg;
	struct exmap *ex = w->ex;
	const int first = w->index * RANGE;
	long round;
	int i, ret;

	pthread_barrier_wait(&start_line);
	for (round = 0; !__atomic_load_n(&work->stop, __ATOMIC_SEQ_CST); round++) {
		ret = ex_one(ex, w->index, EXMAP_OP_READ, first, RANGE);
		if (BROKE(w, ret != RANGE, ret))
			break;
		for (i = first; i < first + RANGE; i++) {
			const long shift = PAGES * round;

			if (BROKE(w, !page_is(page_at(ex, i), i + shift), i))
				return NULL;
			make_page((__u64 *)page_at(ex, i), i + shift + PAGES);
		}
		ret = ex_one(ex, w->index, EXMAP_OP_WRITE, first, RANGE);
		if (BROKE(w, ret != RANGE, ret))
			break;
		ret = ex_free(ex, w->index, first, RANGE);
		if (BROKE(w, ret != RANGE, ret))
			break;
		__atomic_store_n(&work->rounds[w->index], round + 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

FIXTURE_SETUP(machine)
{
	struct exmap_setup2 setup = { .flags = variant->flags };
	long end;

	if (geteuid())
		SKIP(return, "not root");
	self->backing = make_backing(_metadata, FILE_DIRECT, PAGES, &self->fd, &end);
	if (self->backing < 0)
		self->backing = make_backing(_metadata, FILE_BUFFERED, PAGES, &self->fd, &end);
	ASSERT_LE(0, self->backing);
	setup.fd = self->backing;
	exmap_create2(_metadata, &self->ex, setup, THREADS, PAGES, 2 * PAGES);
	start_workers(_metadata, self->w, THREADS, write_and_read, &self->ex, &self->work);
}

FIXTURE_TEARDOWN(machine)
{
	__atomic_store_n(&self->work.stop, 1, __ATOMIC_SEQ_CST);
	join_workers(_metadata, self->w, THREADS);
	EXPECT_EQ(PAGES, ex_fill(&self->ex, 0, 0));
	exmap_destroy(&self->ex);
	close(self->fd);
	close(self->backing);
}

/* All threads get on with their work; false if they do not in a minute */
static bool progress(struct work *work)
{
	long before[THREADS];
	int i, tries;

	for (i = 0; i < THREADS; i++)
		before[i] = __atomic_load_n(&work->rounds[i], __ATOMIC_SEQ_CST);
	for (i = 0, tries = 0; i < THREADS && tries < 6000; tries++) {
		if (__atomic_load_n(&work->rounds[i], __ATOMIC_SEQ_CST) != before[i])
			i++;
		else
			usleep(10000);
	}
	return i == THREADS;
}

/*
 * Blocks of memory are asked to leave. Those that hold pages of ours refuse: these
 * do not move, so they never are in memory that is meant to be removable.
 */
TEST_F_TIMEOUT(machine, memory_goes_offline, SLOW)
{
	int tried = 0, offline = 0;
	char path[320];
	struct dirent *entry;
	DIR *dir;

	dir = opendir(MEMORY);
	if (!dir)
		SKIP(return, "no memory that can go offline");
	while ((entry = readdir(dir))) {
		if (strncmp(entry->d_name, "memory", 6))
			continue;
		snprintf(path, sizeof(path), MEMORY "/%s/state", entry->d_name);
		/* Not all of it: the rest of the machine needs some */
		if (++tried % 3)
			continue;
		if (write_text(path, "offline"))
			continue;
		offline++;
		EXPECT_TRUE(progress(&self->work));
		EXPECT_EQ(0, write_text(path, "online"));
	}
	closedir(dir);
	EXPECT_TRUE(progress(&self->work));
	if (!offline)
		SKIP(return, "none of it went offline");
}

TEST_F_TIMEOUT(machine, cpus_go_offline, SLOW)
{
	int round, cpu, gone = 0;
	char path[64];

	for (round = 0; round < scaled(5); round++) {
		for (cpu = 1; cpu < THREADS; cpu++) {
			snprintf(path, sizeof(path), CPU "/cpu%d/online", cpu);
			if (!write_text(path, "0"))
				gone++;
			EXPECT_TRUE(progress(&self->work));
		}
		for (cpu = 1; cpu < THREADS; cpu++) {
			snprintf(path, sizeof(path), CPU "/cpu%d/online", cpu);
			write_text(path, "1");
		}
		EXPECT_TRUE(progress(&self->work));
	}
	if (!gone)
		SKIP(return, "no CPU that can go offline");
}

/* As far as all tasks frozen, and back again after a second */
TEST_F_TIMEOUT(machine, suspend, SLOW)
{
	int round;

	if (write_text("/sys/power/pm_test", "freezer"))
		SKIP(return, "no CONFIG_PM_DEBUG");
	write_text("/sys/module/suspend/parameters/pm_test_delay", "1");
	for (round = 0; round < scaled(5); round++) {
		EXPECT_EQ(0, write_text("/sys/power/state", "freeze"));
		EXPECT_TRUE(progress(&self->work));
	}
	EXPECT_EQ(0, write_text("/sys/power/pm_test", "none"));
}

TEST_HARNESS_MAIN
