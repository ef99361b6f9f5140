/* SPDX-License-Identifier: GPL-2.0 */
/* Freeze a file system: writes to it wait until it is thawed */
#ifndef EXMAP_TEST_FREEZE_H
#define EXMAP_TEST_FREEZE_H

#include "common.h"

#define FREEZE_SECONDS	4

struct freeze {
	int fd;			/* a directory of the file system */
	pid_t guard;		/* process that thaws the file system, or 0 */
	bool *over;		/* in shared memory; set by the guard before the thaw */
};

/*
 * Freeze the file system of EXMAP_TEST_DIR for at most FREEZE_SECONDS: a guard
 * process thaws it even if the test dies or blocks. Returns NULL, or the reason why
 * the file system cannot be frozen.
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
	/* Freezing the root file system would stop every program at its next write */
	if (!dir || stat(dir, &at) || stat("/", &root) || at.st_dev == root.st_dev)
		return "EXMAP_TEST_DIR is not on a file system of its own";
	freeze->fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (freeze->fd < 0)
		return "EXMAP_TEST_DIR cannot be opened";
	freeze->guard = fork();
	if (!freeze->guard) {
		/*
		 * After a timeout, the harness kills the process group of the test:
		 * leave it
		 */
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

/* Whether the file system has been frozen ever since freeze_begin() */
static inline bool freeze_lasts(struct freeze *freeze)
{
	return freeze->guard && !__atomic_load_n(freeze->over, __ATOMIC_SEQ_CST);
}

/* Thaw the file system, if it is frozen, and end the guard */
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

/* Whether thread @tid of this process is in uninterruptible sleep */
static inline bool thread_is_blocked(int tid)
{
	char path[64], text[256], *state;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	read_line(path, text, sizeof(text));
	state = strrchr(text, ')');
	return state && state[1] == ' ' && state[2] == 'D';
}

/*
 * Wait until thread *@tid of this process is in uninterruptible sleep. Returns false
 * if that takes too long.
 */
static inline bool thread_blocks(const int *tid)
{
	int i;

	for (i = 0; i < 2000; i++) {
		if (thread_is_blocked(__atomic_load_n(tid, __ATOMIC_SEQ_CST)))
			return true;
		usleep(1000);
	}
	return false;
}

#endif
