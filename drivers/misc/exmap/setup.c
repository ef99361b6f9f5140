// SPDX-License-Identifier: GPL-2.0-only
/*
 * The setup calls: limits, options, the backing file
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/uaccess.h>

#include "attach.h"
#include "cursor.h"
#include "exmap.h"
#include "group.h"
#include "interface.h"
#include "memlock.h"
#include "place.h"
#include "quarantine.h"
#include "reclaim.h"
#include "region.h"
#include "setup.h"
#include "sized.h"
#include "trace.h"

static_assert(sizeof(struct exmap_setup2) == EXMAP_SETUP2_SIZE_VER0);

/* Interfaces that are not charged to RLIMIT_MEMLOCK: few programs have more threads */
#define EXMAP_SETUP_INTERFACES	256

/* Pages that are charged for each of the others: its vectors and its bundles */
#define EXMAP_SETUP_INTERFACE_PAGES	4

/* No machine has more bytes than this allows */
static bool exmap_size_ok(u64 nr_pages)
{
	return nr_pages <= LONG_MAX >> PAGE_SHIFT;
}

static unsigned long exmap_setup_charge(unsigned long nr_pages, unsigned int interfaces)
{
	if (interfaces > EXMAP_SETUP_INTERFACES)
		nr_pages += (interfaces - EXMAP_SETUP_INTERFACES) *
			    EXMAP_SETUP_INTERFACE_PAGES;
	return nr_pages;
}

/* Returns the file to read from, or NULL if there shall be none */
static struct file *exmap_backing_file(int fd)
{
	struct file *file;
	umode_t mode;

	if (fd == -1)
		return NULL;
	file = fget(fd);
	if (!file)
		return ERR_PTR(-EBADF);
	mode = file_inode(file)->i_mode;
	if (!S_ISREG(mode) && !S_ISBLK(mode)) {
		fput(file);
		return ERR_PTR(-EINVAL);
	}
	if (!(file->f_mode & FMODE_READ)) {
		fput(file);
		return ERR_PTR(-EBADF);
	}
	return file;
}

/* Returns a new group, with a reference */
static struct exmap_group *exmap_setup_group(const struct exmap_setup2 *setup)
{
	struct exmap_group *group;
	int err;

	if (!exmap_size_ok(setup->buffer_size))
		return ERR_PTR(-ENOMEM);
	group = exmap_group_new(current->mm, setup->buffer_size, setup->max_interfaces);
	if (!group)
		return ERR_PTR(-ENOMEM);
	err = exmap_memlock_charge(group, exmap_setup_charge(setup->buffer_size,
							     setup->max_interfaces));
	if (err) {
		exmap_group_put(group);
		return ERR_PTR(err);
	}
	if (setup->flags & EXMAP_SETUP_DEFERRED)
		exmap_quarantine_init(group, setup->quarantine);
	return group;
}

/* Returns the group of another file, with a reference */
static struct exmap_group *exmap_setup_other_group(struct file *file, int fd)
{
	CLASS(fd, other)(fd);
	struct exmap *exmap;

	if (fd_empty(other))
		return ERR_PTR(-EBADF);
	if (fd_file(other)->f_op != file->f_op)
		return ERR_PTR(-EINVAL);
	exmap = exmap_of_ready(fd_file(other));
	if (IS_ERR(exmap))
		return ERR_CAST(exmap);
	exmap_group_get(exmap->pool->group);
	return exmap->pool->group;
}

/* Order of the pages of a slot */
static unsigned int exmap_setup_order(const struct exmap_setup2 *setup)
{
	return setup->slot_size ? ilog2(setup->slot_size) - PAGE_SHIFT : 0;
}

/* Returns the pool for the slots of a region that belongs to a group, or an error */
static struct exmap_pool *exmap_setup_pool(const struct exmap *exmap,
					   const struct exmap_setup2 *setup,
					   struct exmap_group *group)
{
	const unsigned int order = exmap_setup_order(setup);
	struct exmap_pool *pool;

	/* The address of a region depends on the size of its slots */
	if (exmap->state == EXMAP_MAPPED && order)
		return ERR_PTR(-EINVAL);
	pool = exmap_group_pool(group, order);
	return pool ?: ERR_PTR(-ENOMEM);
}

/*
 * Set up an exmap, whose lock is held. Makes a group if @group is NULL. Takes over the
 * references to @group and @backing unless it fails.
 */
static int exmap_setup_locked(struct exmap *exmap, const struct exmap_setup2 *setup,
			      struct exmap_group *group, struct file *backing)
{
	struct exmap_group *new = NULL;
	struct exmap_pool *pool;
	int err;

	if (exmap->ready)
		return -EBUSY;
	if (exmap->state == EXMAP_GONE)
		return -ENXIO;
	if (!group) {
		new = exmap_setup_group(setup);
		if (IS_ERR(new))
			return PTR_ERR(new);
		group = new;
	}
	pool = exmap_setup_pool(exmap, setup, group);
	err = PTR_ERR_OR_ZERO(pool);
	if (err)
		goto out;
	exmap->fault = setup->flags & EXMAP_SETUP_PAGEFAULT_ALLOC ? exmap_place_fault : NULL;
	exmap->flights = backing ? group->flights : NULL;
	exmap->backing = backing;
	exmap->offset = setup->offset;
	exmap->pool = pool;
	exmap->order = pool->order;
	exmap->quick = !group->deferred && !pool->order;
	exmap->nr_shared = pool->order ? 0 : pool->nr_interfaces;
	err = exmap_attach(exmap);
	if (err)
		goto out;
	/* Pairs with exmap_of_ready() and exmap_region_fault() */
	smp_store_release(&exmap->ready, true);
	trace_exmap_setup(exmap);
	return exmap->number;

out:
	/* The region, if there is one, has slots of one page */
	exmap->order = 0;
	if (new)
		exmap_group_put(new);
	return err;
}

static int exmap_setup_files(struct file *file, const struct exmap_setup2 *setup,
			     struct exmap_group *group, struct file *backing)
{
	struct exmap *exmap = exmap_of_or_new(file);
	int ret;

	if (IS_ERR(exmap))
		return PTR_ERR(exmap);
	mutex_lock(&exmap->lock);
	ret = exmap_setup_locked(exmap, setup, group, backing);
	mutex_unlock(&exmap->lock);
	return ret;
}

static int exmap_do_setup(struct file *file, const struct exmap_setup2 *setup)
{
	const bool attach = setup->flags & EXMAP_SETUP_ATTACH;
	struct exmap_group *group = NULL;
	struct file *backing;
	struct exmap *exmap;
	int ret;

	if (setup->offset > LLONG_MAX || !PAGE_ALIGNED(setup->offset))
		return -EINVAL;
	if (setup->slot_size && (!is_power_of_2(setup->slot_size) ||
				 setup->slot_size < PAGE_SIZE ||
				 setup->slot_size > PAGE_SIZE << EXMAP_MAX_ORDER))
		return -EINVAL;
	/* A pool that never has a page is of no use */
	if (!attach && setup->buffer_size >> exmap_setup_order(setup) == 0)
		return -EINVAL;
	if (!attach && (setup->max_interfaces < 1 ||
			setup->max_interfaces > EXMAP_MAX_INTERFACES))
		return -EINVAL;
	exmap_nodes_look();
	exmap = exmap_of_ready(file);
	if (exmap != ERR_PTR(-ENXIO))
		return IS_ERR(exmap) ? PTR_ERR(exmap) : -EBUSY;

	/* Looked up first, so that a wrong one does not leave an exmap behind */
	backing = exmap_backing_file(setup->fd);
	if (IS_ERR(backing))
		return PTR_ERR(backing);
	if (attach)
		group = exmap_setup_other_group(file, setup->pool);
	/* The markers in slots that wait for a flush keep faults away */
	if (IS_ERR(group))
		ret = PTR_ERR(group);
	else if (setup->flags & EXMAP_SETUP_PAGEFAULT_ALLOC &&
		 (attach ? group->deferred : setup->flags & EXMAP_SETUP_DEFERRED))
		ret = -EINVAL;
	else
		ret = exmap_setup_files(file, setup, group, backing);
	if (ret >= 0)
		return ret;
	if (!IS_ERR_OR_NULL(group))
		exmap_group_put(group);
	if (backing)
		fput(backing);
	return ret;
}

/**
 * exmap_setup() - EXMAP_IOCTL_SETUP: set up the exmap of a file, without options.
 * @file: an open /dev/exmap
 * @arg: what the program asks for
 *
 * Context: Process context, may sleep.
 * Return: 0; -EFAULT if @arg cannot be read; the errors of exmap_setup2().
 */
int exmap_setup(struct file *file, const struct exmap_ioctl_setup __user *arg)
{
	struct exmap_ioctl_setup setup;
	struct exmap_setup2 setup2 = {};

	if (copy_from_user(&setup, arg, sizeof(setup)))
		return -EFAULT;
	/* Some programs leave the flags uninitialised, so there can be none */
	setup2.fd = setup.fd;
	setup2.max_interfaces = setup.max_interfaces;
	setup2.buffer_size = setup.buffer_size;
	return exmap_do_setup(file, &setup2);
}

/**
 * exmap_setup2() - EXMAP_IOCTL_SETUP2: set up the exmap of a file.
 * @file: an open /dev/exmap
 * @arg: what the program asks for
 *
 * Context: Process context, may sleep.
 * Return: the number of the region in its group, or the errors of exmap_copy_sized(). -EINVAL
 * for sizes or flags that do not exist, for a slot size that comes too late for a region that
 * is mapped, or for a backing file that is neither a regular file nor a block device; -EBADF
 * if that is not open for reading; -ENOMEM if the pool is larger than RLIMIT_MEMLOCK allows, or
 * without memory; -EBUSY if the exmap is set up already; -ENXIO if its region was unmapped;
 * -EPERM if it belongs to another address space. With EXMAP_SETUP_ATTACH, the errors of
 * exmap_of_ready() and exmap_attach() as well, and -EBADF or -EINVAL for a file that is no
 * exmap.
 */
int exmap_setup2(struct file *file, const struct exmap_setup2 __user *arg)
{
	struct exmap_setup2 setup;
	int err;

	err = exmap_copy_sized(&setup, sizeof(setup), EXMAP_SETUP2_SIZE_VER0, arg);
	if (err)
		return err;
	if (setup.flags & ~(u64)(EXMAP_SETUP_DEFERRED | EXMAP_SETUP_PAGEFAULT_ALLOC |
				 EXMAP_SETUP_ATTACH) ||
	    (setup.quarantine && !(setup.flags & EXMAP_SETUP_DEFERRED)))
		return -EINVAL;
	/* What belongs to the pool cannot be chosen again */
	if (setup.flags & EXMAP_SETUP_ATTACH ?
	    setup.flags & EXMAP_SETUP_DEFERRED || setup.buffer_size || setup.max_interfaces :
	    setup.pool)
		return -EINVAL;
	return exmap_do_setup(file, &setup);
}

/**
 * exmap_resize() - EXMAP_IOCTL_RESIZE: change the size of the pool.
 * @file: an open /dev/exmap
 * @nr_pages: the new size in pages
 *
 * Context: Process context, may sleep.
 * Return: 0; -EINVAL for no pages; -ENOMEM if it is more than RLIMIT_MEMLOCK allows;
 * the errors of exmap_of_ready() and exmap_group_resize(); -ENXIO if all regions of the
 * pool were unmapped.
 */
int exmap_resize(struct file *file, unsigned long nr_pages)
{
	struct exmap *exmap = exmap_of_ready(file);
	struct exmap_group *group;
	unsigned long before;
	int err;

	if (IS_ERR(exmap))
		return PTR_ERR(exmap);
	if (!nr_pages)
		return -EINVAL;
	if (!exmap_size_ok(nr_pages))
		return -ENOMEM;
	/* Pages in quarantine must not be in the way; there may be no region yet */
	exmap_cursor_flush(exmap);

	group = exmap->pool->group;
	mutex_lock(&group->attach_lock);
	before = group->limit;
	if (group->closed)
		err = -ENXIO;
	else if (nr_pages > before)
		err = exmap_memlock_charge(group, nr_pages - before);
	else
		err = 0;
	if (!err)
		err = exmap_group_resize(group, nr_pages);
	if (!err)
		exmap_memlock_uncharge(group, exmap_setup_charge(nr_pages,
								 group->nr_interfaces));
	mutex_unlock(&group->attach_lock);
	return err;
}
