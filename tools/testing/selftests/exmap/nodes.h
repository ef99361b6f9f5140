/* SPDX-License-Identifier: GPL-2.0 */
/* NUMA nodes: policies, and where pages are */
#ifndef EXMAP_TEST_NODES_H
#define EXMAP_TEST_NODES_H

#include "common.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>

#define MAX_NODES	64

static inline long set_policy(int mode, unsigned long nodes)
{
	return syscall(SYS_set_mempolicy, mode, nodes ? &nodes : NULL, nodes ? MAX_NODES : 0) ?
		-errno : 0;
}

/* The node of a resident page, or -errno */
static inline int node_of(void *addr)
{
	int node = -1;

	if (syscall(SYS_get_mempolicy, &node, NULL, 0, addr, MPOL_F_NODE | MPOL_F_ADDR))
		return -errno;
	return node;
}

static inline bool is_in_list(const char *path, int number)
{
	char text[256], *at = text;
	long first, last;

	read_line(path, text, sizeof(text));
	while (*at >= '0' && *at <= '9') {
		first = strtol(at, &at, 10);
		last = first;
		if (*at == '-')
			last = strtol(at + 1, &at, 10);
		if (number >= first && number <= last)
			return true;
		at += *at == ',';
	}
	return false;
}

static inline int cpu_of_node(int node)
{
	char path[64];
	int cpu;

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/cpulist", node);
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (is_in_list(path, cpu))
			return cpu;
	return -1;
}

static inline bool node_has_memory(int node)
{
	return is_in_list("/sys/devices/system/node/has_memory", node);
}

#endif /* EXMAP_TEST_NODES_H */
