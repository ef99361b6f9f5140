/* SPDX-License-Identifier: GPL-2.0 */
/* A memory cgroup for a test, and the files in it */
#ifndef EXMAP_TEST_CGROUP_H
#define EXMAP_TEST_CGROUP_H

#include "common.h"

#include <sys/mount.h>

struct cgroup {
	char root[64];		/* mount point of cgroup2 */
	char path[128];
	bool mounted;		/* cgroup_create() has mounted it */
};

/* Write to a file of a cgroup. Returns 0 or -errno. */
static inline int cgroup_write(const char *dir, const char *name, const char *text)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return write_text(path, text);
}

/* Return the number in a file of a cgroup, or -1 */
static inline long cgroup_read(const char *dir, const char *name)
{
	char path[256], text[64];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	read_line(path, text, sizeof(text));
	return text[0] ? atol(text) : -1;
}

/* Return the number after @key in a file with lines "key number", or -1 */
static inline long cgroup_read_key(const char *dir, const char *name, const char *key)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return read_key(path, key, ' ');
}

/* Move the calling process to a cgroup. Returns 0 or -errno. */
static inline int cgroup_join(const char *dir)
{
	return cgroup_write(dir, "cgroup.procs", "0");
}

static inline void cgroup_umount(struct cgroup *cg)
{
	if (cg->mounted && !umount(cg->root))
		rmdir(cg->root);
}

/* Create an empty child of the root cgroup. Returns NULL, or why that failed. */
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
	/* A failure of this shows as a lack of memory.current */
	cgroup_write(cg->root, "cgroup.subtree_control", "+memory");
	snprintf(cg->path, sizeof(cg->path), "%s/exmap-test-%d", cg->root, getpid());
	snprintf(path, sizeof(path), "%s/memory.current", cg->path);
	if (mkdir(cg->path, 0755) || access(path, F_OK)) {
		rmdir(cg->path);
		cgroup_umount(cg);
		return "no memory cgroup";
	}
	/* Swap would hide a shortage. The OOM killer must kill one process, not all. */
	cgroup_write(cg->path, "memory.swap.max", "0");
	cgroup_write(cg->path, "memory.oom.group", "0");
	return NULL;
}

/* Undo cgroup_create(). Returns 0, or -errno if a process is still in the cgroup. */
static inline int cgroup_destroy(struct cgroup *cg)
{
	int ret = rmdir(cg->path) ? -errno : 0;

	cgroup_umount(cg);
	return ret;
}

#endif
