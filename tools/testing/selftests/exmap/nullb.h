/* SPDX-License-Identifier: GPL-2.0 */
/* Disks in memory that are slow or have bad sectors: null_blk through configfs */
#ifndef EXMAP_TEST_NULLB_H
#define EXMAP_TEST_NULLB_H

#include "common.h"

struct nullb {
	char name[40];
	char path[64];
};

/* Write an attribute; most must precede "power". Returns 0 or -errno. */
static inline int nullb_set(const struct nullb *disk, const char *attribute, const char *value)
{
	char path[160];
	ssize_t len = strlen(value), ret;
	int fd;

	snprintf(path, sizeof(path), "/sys/kernel/config/nullb/%s/%s", disk->name, attribute);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = write(fd, value, len) == len ? 0 : -errno;
	close(fd);
	return ret;
}

static inline void nullb_destroy(struct nullb *disk)
{
	char path[160];

	nullb_set(disk, "power", "0");
	snprintf(path, sizeof(path), "/sys/kernel/config/nullb/%s", disk->name);
	rmdir(path);
}

/*
 * Create a disk of 16 MiB whose requests take @nsec nanoseconds. @more is NULL, or
 * an array of further attributes and their values that ends with NULL. Returns 0, or
 * -1 with errno set.
 */
static inline int nullb_create(struct nullb *disk, const char *name, long nsec,
			       const char * const *more)
{
	char path[160], delay[24];
	int i;

	snprintf(disk->name, sizeof(disk->name), "%s_%d", name, getpid());
	snprintf(disk->path, sizeof(disk->path), "/dev/%s", disk->name);
	snprintf(path, sizeof(path), "/sys/kernel/config/nullb/%s", disk->name);
	snprintf(delay, sizeof(delay), "%ld", nsec);
	if (mkdir(path, 0700))
		return -1;
	errno = EINVAL;
	if (nullb_set(disk, "size", "16") || nullb_set(disk, "memory_backed", "1") ||
	    nullb_set(disk, "irqmode", nsec ? "2" : "0") ||
	    (nsec && nullb_set(disk, "completion_nsec", delay)))
		goto out;
	for (i = 0; more && more[i]; i += 2)
		if (nullb_set(disk, more[i], more[i + 1]))
			goto out;
	if (nullb_set(disk, "power", "1"))
		goto out;
	for (i = 0; i < 500; i++) {
		if (!access(disk->path, F_OK))
			return 0;
		usleep(10000);
	}
out:
	nullb_destroy(disk);
	return -1;
}

/* Mark the last sector of a page bad, or good again; the sectors before it stay good */
static inline int nullb_set_bad(const struct nullb *disk, int page, bool bad)
{
	char range[64];

	snprintf(range, sizeof(range), "%c%d-%d", bad ? '+' : '-', page * 8 + 7, page * 8 + 7);
	return nullb_set(disk, "badblocks", range);
}

/*
 * Leave @percent percent of the requests unanswered from now on, and let the kernel
 * wait @ms milliseconds for an answer. Returns 0, or -errno if null_blk cannot do
 * that.
 */
static inline int nullb_time_out(const struct nullb *disk, const char *percent, const char *ms)
{
	char path[160];
	int fd, err;

	snprintf(path, sizeof(path), "/sys/block/%s/queue/io_timeout", disk->name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = write(fd, ms, strlen(ms)) < 0 ? -errno : 0;
	close(fd);
	/* -1: inject any number of timeouts */
	return err ?: nullb_set(disk, "timeout_inject/times", "-1") ?:
		nullb_set(disk, "timeout_inject/verbose", "0") ?:
		nullb_set(disk, "timeout_inject/probability", percent);
}

/* Return the number of requests that the disk has received but not answered */
static inline int nullb_inflight(const struct nullb *disk)
{
	int reads = 0, writes = 0;
	char path[160];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/block/%s/inflight", disk->name);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%d %d", &reads, &writes) != 2)
		reads = -writes;
	fclose(file);
	return reads + writes;
}

/* Return the number of 512-byte sectors read from the disk so far, or -1 */
static inline long nullb_sectors_read(const struct nullb *disk)
{
	char path[160];
	long sectors;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/block/%s/stat", disk->name);
	file = fopen(path, "re");
	if (!file)
		return -1;
	if (fscanf(file, "%*d %*d %ld", &sectors) != 1)
		sectors = -1;
	fclose(file);
	return sectors;
}

#endif
