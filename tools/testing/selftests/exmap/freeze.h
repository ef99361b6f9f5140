/* SPDX-License-Identifier: GPL-2.0 */
/* A frozen file system: writes to it wait until it is thawed */
#ifndef EXMAP_TEST_FREEZE_H
#define EXMAP_TEST_FREEZE_H

#include "common.h"

#define FREEZE_SECONDS	4

struct freeze {
	int fd;			/* the directory */
	pid_t guard;		/* 0 if there is none */
	bool *over;		/* shared with the guard, who sets it before the thaw */
};

/*
 * Freeze the file system that the tests are given, for FREEZE_SECONDS at most: a
 * guard process thaws it even if the test dies or blocks. Returns NULL, or why the
 * file system cannot be frozen.
 */
static inline const char *freeze_begin(struct freeze *freeze)
{
	const char *dir = getenv("EXMAP_TEST_DIR");
	struct stat at, root;

	freeze->guard = 0;
	freeze->fd = -1;
	freeze->over = mmap(NULL, PG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (freeze->over == MAP_FAILED)
		return "no memory";
	/* All programs would stop at their next write if it were the root */
	if (!dir || stat(dir, &at) || stat("/", &root) || at.st_dev == root.st_dev)
		return "EXMAP_TEST_DIR is not on a file system of its own";
	freeze->fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (freeze->fd < 0)
		return "EXMAP_TEST_DIR cannot be opened";
	freeze->guard = fork();
	if (!freeze->guard) {
		/* The harness kills the process group of a test that takes too long */
		setsid();
		close(STDIN_FILENO);
		close(STDOUT_FILENO);
		close(STDERR_FILENO);
		sleep(FREEZE_SECONDS);
		__atomic_store_n(freeze->over, true, __ATOMIC_SEQ_CST);
		ioctl(freeze->fd, FITHAW, 0);
		_exit(0);
	}
	if (freeze->guard < 0) {
		freeze->guard = 0;
		return "no process to guard it";
	}
	if (!ioctl(freeze->fd, FIFREEZE, 0))
		return NULL;
	kill(freeze->guard, SIGKILL);
	waitpid(freeze->guard, NULL, 0);
	freeze->guard = 0;
	return "it cannot be frozen";
}

/* Whether the file system has been frozen all the time since freeze_begin() */
static inline bool freeze_lasts(struct freeze *freeze)
{
	return freeze->guard && !__atomic_load_n(freeze->over, __ATOMIC_SEQ_CST);
}

/* Thaw it, if freeze_begin() was called and the guard has not done it */
static inline void freeze_end(struct freeze *freeze)
{
	if (freeze->guard) {
		ioctl(freeze->fd, FITHAW, 0);
		kill(freeze->guard, SIGKILL);
		waitpid(freeze->guard, NULL, 0);
		freeze->guard = 0;
	}
	close(freeze->fd);
	freeze->fd = -1;
}

/* Wait until a thread of this process sleeps without being interruptible */
static inline bool thread_blocks(const int *tid)
{
	char path[64], text[256], *state;
	int i;

	for (i = 0; i < 2000; i++) {
		snprintf(path, sizeof(path), "/proc/self/task/%d/stat",
			 __atomic_load_n(tid, __ATOMIC_SEQ_CST));
		read_line(path, text, sizeof(text));
		state = strrchr(text, ')');
		if (state && state[1] == ' ' && state[2] == 'D')
			return true;
		usleep(1000);
	}
	return false;
}

#endif
