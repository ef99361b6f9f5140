/* SPDX-License-Identifier: GPL-2.0 */
/* A memory cgroup for a test, and the files in it */
#ifndef EXMAP_TEST_CGROUP_H
#define EXMAP_TEST_CGROUP_H

#include "common.h"

#include <sys/mount.h>

struct cgroup {
	char root[64];		/* of the hierarchy */
	char path[128];
	bool mounted;		/* by cgroup_create() */
};

/* Write a file of a cgroup; 0 or -errno */
static inline int cgroup_write(const char *dir, const char *name, const char *text)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return write_text(path, text);
}

/* The number in a file of a cgroup, or -1 */
static inline long cgroup_read(const char *dir, const char *name)
{
	char path[256], text[64];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	read_line(path, text, sizeof(text));
	return text[0] ? atol(text) : -1;
}

/* The number behind a key in a file of lines "key number", or -1 */
static inline long cgroup_read_key(const char *dir, const char *name, const char *key)
{
	char path[256], line[128];
	size_t len = strlen(key);
	long value = -1;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "re");
	if (!file)
		return -1;
	while (value < 0 && fgets(line, sizeof(line), file))
		if (!strncmp(line, key, len) && line[len] == ' ')
			value = atol(line + len);
	fclose(file);
	return value;
}

/* The calling process joins a cgroup; 0 or -errno */
static inline int cgroup_join(const char *dir)
{
	return cgroup_write(dir, "cgroup.procs", "0");
}

static inline void cgroup_umount(struct cgroup *cg)
{
	if (cg->mounted && !umount(cg->root))
		rmdir(cg->root);
}

/* Make a child of the root that no process is in. NULL, or why there is none. */
static inline const char *cgroup_create(struct cgroup *cg)
{
	char path[160];

	*cg = (struct cgroup){ .root = "/sys/fs/cgroup" };
	if (access("/sys/fs/cgroup/cgroup.controllers", F_OK)) {
		snprintf(cg->root, sizeof(cg->root), "/tmp/exmap-cgroup-XXXXXX");
		if (!mkdtemp(cg->root))
			return "no directory for cgroup2";
		if (mount("cgroup2", cg->root, "cgroup2", 0, NULL)) {
			rmdir(cg->root);
			return "no cgroup2";
		}
		cg->mounted = true;
	}
	/* Fails harmlessly where the controller is on already */
	cgroup_write(cg->root, "cgroup.subtree_control", "+memory");
	snprintf(cg->path, sizeof(cg->path), "%s/exmap-test-%d", cg->root, getpid());
	snprintf(path, sizeof(path), "%s/memory.current", cg->path);
	if (mkdir(cg->path, 0755) || access(path, F_OK)) {
		rmdir(cg->path);
		cgroup_umount(cg);
		return "no memory cgroup";
	}
	/* Swap would hide a shortage; and a kill is to hit one process, not all */
	cgroup_write(cg->path, "memory.swap.max", "0");
	cgroup_write(cg->path, "memory.oom.group", "0");
	return NULL;
}

/* Undo cgroup_create(); 0 or -errno, if a process is still in there */
static inline int cgroup_destroy(struct cgroup *cg)
{
	int ret = rmdir(cg->path) ? -errno : 0;

	cgroup_umount(cg);
	return ret;
}

#endif
