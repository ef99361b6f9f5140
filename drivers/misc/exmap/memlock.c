// SPDX-License-Identifier: GPL-2.0-only
/*
 * RLIMIT_MEMLOCK: what a group is charged for
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/user.h>

#include "group.h"
#include "memlock.h"

/**
 * exmap_memlock_charge() - Charge pages to RLIMIT_MEMLOCK.
 * @group: the group
 * @nr_pages: number of pages
 *
 * As with io_uring, the pages count for the user, in all processes. The user that
 * did the setup stays charged. The mm's own counter cannot be used, because it is
 * protected by the mmap_lock, which is held when a region is closed.
 *
 * Context: @group->attach_lock is held.
 * Return: 0, also where the caller has CAP_IPC_LOCK and nothing is charged; or
 * -ENOMEM.
 */
int exmap_memlock_charge(struct exmap_group *group, unsigned long nr_pages)
{
	struct user_struct *user = group->user ?: current_user();
	unsigned long limit = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;
	unsigned long locked;

	if (capable(CAP_IPC_LOCK))
		return 0;
	locked = atomic_long_read(&user->locked_vm);
	do {
		if (locked > limit || nr_pages > limit - locked)
			return -ENOMEM;
	} while (!atomic_long_try_cmpxchg(&user->locked_vm, &locked, locked + nr_pages));
	if (!group->user)
		group->user = get_uid(user);
	group->locked += nr_pages;
	return 0;
}

/**
 * exmap_memlock_uncharge() - Undo what was charged to RLIMIT_MEMLOCK.
 * @group: the group
 * @keep: number of pages that stay charged, if so many are
 *
 * Context: @group->attach_lock is held, or there is no other user of @group.
 */
void exmap_memlock_uncharge(struct exmap_group *group, unsigned long keep)
{
	if (group->locked <= keep)
		return;
	atomic_long_sub(group->locked - keep, &group->user->locked_vm);
	group->locked = keep;
	if (!keep) {
		free_uid(group->user);
		group->user = NULL;
	}
}
