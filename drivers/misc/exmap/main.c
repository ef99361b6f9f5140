// SPDX-License-Identifier: GPL-2.0-only
/*
 * exmap: device node, ioctls, and the life of an exmap
 */
#include <linux/capability.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/sched/user.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "exmap.h"

static_assert(sizeof(struct exmap_setup2) == EXMAP_SETUP2_SIZE_VER0);

static void exmap_free(struct kref *ref)
{
	struct exmap *exmap = container_of(ref, struct exmap, ref);

	/* The region's VMA holds its file: if there was a region, it is gone */
	if (exmap->ready) {
		exmap_pool_close(&exmap->pool);
		for (unsigned int i = 0; i < exmap->pool.nr_interfaces; i++)
			exmap_interface_destroy(&exmap->pool.interfaces[i]);
		exmap_pool_destroy(&exmap->pool);
		exmap_unaccount(exmap, 0);
		if (exmap->backing)
			fput(exmap->backing);
	}
	mmdrop(exmap->mm);
	kfree(exmap);
}

/**
 * exmap_of() - The exmap behind a file.
 * @file: an open /dev/exmap; once it has an exmap, it keeps it
 *
 * Return: the exmap; ERR_PTR(-ENXIO) if there is none yet; ERR_PTR(-EPERM) if
 * it belongs to another process.
 */
struct exmap *exmap_of(struct file *file)
{
	/* Pairs with the cmpxchg() that set it */
	struct exmap *exmap = smp_load_acquire(&file->private_data);

	if (!exmap)
		return ERR_PTR(-ENXIO);
	if (exmap->mm != current->mm)
		return ERR_PTR(-EPERM);
	return exmap;
}

/**
 * exmap_of_ready() - The exmap behind a file, after its setup.
 * @file: an open /dev/exmap
 *
 * Return: as exmap_of(), and ERR_PTR(-ENXIO) if it is not set up.
 */
struct exmap *exmap_of_ready(struct file *file)
{
	struct exmap *exmap = exmap_of(file);

	/* Pairs with exmap_setup() */
	if (!IS_ERR(exmap) && !smp_load_acquire(&exmap->ready))
		return ERR_PTR(-ENXIO);
	return exmap;
}

/**
 * exmap_of_or_new() - The exmap behind a file, a new one if it has none.
 * @file: an open /dev/exmap
 *
 * Context: Process context of a user process, may sleep.
 * Return: the exmap; ERR_PTR(-EPERM) if it belongs to another process;
 * ERR_PTR(-ENOMEM).
 */
struct exmap *exmap_of_or_new(struct file *file)
{
	struct exmap *exmap = exmap_of(file);

	if (exmap != ERR_PTR(-ENXIO))
		return exmap;

	exmap = kzalloc_obj(*exmap, GFP_KERNEL_ACCOUNT);
	if (!exmap)
		return ERR_PTR(-ENOMEM);
	kref_init(&exmap->ref);
	mutex_init(&exmap->lock);
	mmgrab(current->mm);
	exmap->mm = current->mm;
	if (cmpxchg(&file->private_data, NULL, exmap))
		kref_put(&exmap->ref, exmap_free);
	return exmap_of(file);
}

/*
 * As io_uring does: pages count for the user, in all of his processes. It stays
 * the one who has done the setup.
 */
static int exmap_account(struct exmap *exmap, unsigned long nr_pages)
{
	struct user_struct *user = exmap->user ?: current_user();
	unsigned long limit = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;
	unsigned long locked;

	if (capable(CAP_IPC_LOCK))
		return 0;
	locked = atomic_long_read(&user->locked_vm);
	do {
		if (locked > limit || nr_pages > limit - locked)
			return -ENOMEM;
	} while (!atomic_long_try_cmpxchg(&user->locked_vm, &locked, locked + nr_pages));
	if (!exmap->user)
		exmap->user = get_uid(user);
	exmap->locked += nr_pages;
	return 0;
}

/**
 * exmap_unaccount() - Undo what was charged to RLIMIT_MEMLOCK.
 * @exmap: the exmap
 * @keep: pages that shall still be charged, if they are
 *
 * Context: exmap->lock is held, or there is no other user of @exmap.
 */
void exmap_unaccount(struct exmap *exmap, unsigned long keep)
{
	if (exmap->locked <= keep)
		return;
	atomic_long_sub(exmap->locked - keep, &exmap->user->locked_vm);
	exmap->locked = keep;
	if (!keep) {
		free_uid(exmap->user);
		exmap->user = NULL;
	}
}

/* No machine can have more bytes */
static bool exmap_size_ok(u64 nr_pages)
{
	return nr_pages <= LONG_MAX >> PAGE_SHIFT;
}

/* The file to read from, NULL for none */
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

static int exmap_do_setup(struct file *file, const struct exmap_setup2 *setup)
{
	struct file *backing;
	struct exmap *exmap;
	int err;

	if (setup->max_interfaces < 1 || setup->max_interfaces > EXMAP_MAX_INTERFACES ||
	    !setup->buffer_size || setup->offset > LLONG_MAX ||
	    !PAGE_ALIGNED(setup->offset))
		return -EINVAL;
	exmap = exmap_of_ready(file);
	if (exmap != ERR_PTR(-ENXIO))
		return IS_ERR(exmap) ? PTR_ERR(exmap) : -EBUSY;

	/* A file that is wrong does not leave an exmap behind */
	backing = exmap_backing_file(setup->fd);
	if (IS_ERR(backing))
		return PTR_ERR(backing);
	exmap = exmap_of_or_new(file);
	if (IS_ERR(exmap)) {
		err = PTR_ERR(exmap);
		goto out_backing;
	}

	mutex_lock(&exmap->lock);
	if (exmap->ready)
		err = -EBUSY;
	else if (exmap->state == EXMAP_GONE)
		err = -ENXIO;
	else if (!exmap_size_ok(setup->buffer_size))
		err = -ENOMEM;
	else
		err = exmap_account(exmap, setup->buffer_size);
	if (!err) {
		err = exmap_pool_init(&exmap->pool, setup->buffer_size,
				      setup->max_interfaces);
		if (err)
			exmap_unaccount(exmap, 0);
	}
	if (!err) {
		if (setup->flags & EXMAP_SETUP_DEFERRED)
			exmap_pool_defer(&exmap->pool, setup->quarantine);
		exmap->fault_alloc = setup->flags & EXMAP_SETUP_PAGEFAULT_ALLOC;
		exmap->backing = backing;
		exmap->offset = setup->offset;
		/* Pairs with exmap_of_ready() and exmap_region_fault() */
		smp_store_release(&exmap->ready, true);
	}
	mutex_unlock(&exmap->lock);
	if (!err)
		return 0;
out_backing:
	if (backing)
		fput(backing);
	return err;
}

/**
 * exmap_copy_sized() - Copy a struct that begins with its size, a __u32.
 * @to: where to; what the program does not know of it is zero
 * @size: bytes of the struct as the kernel knows it
 * @min: bytes of its first version
 * @from: the program's
 *
 * Context: Process context, may sleep.
 * Return: 0; -EFAULT if it cannot be read; -EINVAL if its size is less than @min
 * or more than a page, or if what the kernel does not know is not zero.
 */
int exmap_copy_sized(void *to, size_t size, size_t min, const void __user *from)
{
	u32 user_size;
	int err;

	if (get_user(user_size, (const u32 __user *)from))
		return -EFAULT;
	if (user_size < min || user_size > PAGE_SIZE)
		return -EINVAL;
	err = copy_struct_from_user(to, size, from, user_size);
	return err == -E2BIG ? -EINVAL : err;
}

static int exmap_setup(struct file *file, const struct exmap_ioctl_setup __user *arg)
{
	struct exmap_ioctl_setup setup;
	struct exmap_setup2 setup2 = {};

	if (copy_from_user(&setup, arg, sizeof(setup)))
		return -EFAULT;
	/* Programs leave the flags uninitialised: there can be none */
	setup2.fd = setup.fd;
	setup2.max_interfaces = setup.max_interfaces;
	setup2.buffer_size = setup.buffer_size;
	return exmap_do_setup(file, &setup2);
}

static int exmap_setup2(struct file *file, const struct exmap_setup2 __user *arg)
{
	struct exmap_setup2 setup;
	int err;

	err = exmap_copy_sized(&setup, sizeof(setup), EXMAP_SETUP2_SIZE_VER0, arg);
	if (err)
		return err;
	if (setup.flags & ~(u64)(EXMAP_SETUP_DEFERRED | EXMAP_SETUP_PAGEFAULT_ALLOC) ||
	    setup.reserved)
		return -EINVAL;
	/* With deferred flushes, the marks in freed slots keep faults away */
	if (setup.flags & EXMAP_SETUP_DEFERRED ?
	    setup.flags & EXMAP_SETUP_PAGEFAULT_ALLOC : setup.quarantine)
		return -EINVAL;
	return exmap_do_setup(file, &setup);
}

static __always_inline long exmap_ioctl_action(struct file *file,
					       const struct exmap_action_params __user *arg)
{
	union {
		u64 first;
		struct exmap_action_params params;
	} copy __uninitialized;
	struct exmap *exmap;

	static_assert(offsetof(typeof(copy.params), flags) == sizeof(copy.first));
	/* A call for one page is too short for copy_from_user() */
	scoped_user_read_access(arg, fault) {
		unsafe_get_user(copy.first, (const u64 __user *)arg, fault);
		unsafe_get_user(copy.params.flags, &arg->flags, fault);
	}
	exmap = exmap_of_ready(file);
	if (IS_ERR(exmap))
		return PTR_ERR(exmap);
	return exmap_action(exmap, &copy.params);
fault:
	return -EFAULT;
}

static long exmap_ioctl_vectors(struct file *file,
				const struct exmap_vectors __user *arg)
{
	struct exmap *exmap = exmap_of_ready(file);

	return IS_ERR(exmap) ? PTR_ERR(exmap) : exmap_vectors(exmap, arg);
}

static long exmap_ioctl_query(struct file *file, const struct exmap_query __user *arg)
{
	struct exmap *exmap = exmap_of_ready(file);

	return IS_ERR(exmap) ? PTR_ERR(exmap) : exmap_query(exmap, arg);
}

static int exmap_ioctl_flush(struct file *file)
{
	struct exmap *exmap = exmap_of_ready(file);

	return IS_ERR(exmap) ? PTR_ERR(exmap) : exmap_flush(exmap);
}

static int exmap_clone(struct file *file, int fd)
{
	struct exmap *other;

	CLASS(fd, source)(fd);
	if (fd_empty(source))
		return -EBADF;
	if (fd_file(source)->f_op != &exmap_fops)
		return -EINVAL;
	other = exmap_of(fd_file(source));
	if (IS_ERR(other))
		return other == ERR_PTR(-ENXIO) ? -EINVAL : PTR_ERR(other);
	/* It is there, but all that was tried with it failed */
	if (!READ_ONCE(other->ready) && READ_ONCE(other->state) == EXMAP_UNMAPPED)
		return -EINVAL;

	kref_get(&other->ref);
	if (cmpxchg(&file->private_data, NULL, other)) {
		kref_put(&other->ref, exmap_free);
		return -EBUSY;
	}
	return 0;
}

static int exmap_stats(struct file *file, struct exmap_ioctl_stats __user *arg)
{
	struct exmap_ioctl_stats stats;
	struct exmap *exmap = exmap_of_ready(file);

	if (IS_ERR(exmap))
		return PTR_ERR(exmap);
	memset(&stats, 0, sizeof(stats));
	stats.buffer_size = READ_ONCE(exmap->pool.limit);
	stats.alloc_count = atomic_long_read(&exmap->pool.nr_pages);
	stats.max_interfaces = exmap->pool.nr_interfaces;
	return copy_to_user(arg, &stats, sizeof(stats)) ? -EFAULT : 0;
}

static int exmap_resize(struct file *file, unsigned long nr_pages)
{
	struct exmap *exmap = exmap_of_ready(file);
	int err;

	if (IS_ERR(exmap))
		return PTR_ERR(exmap);
	if (!nr_pages)
		return -EINVAL;
	if (!exmap_size_ok(nr_pages))
		return -ENOMEM;
	/* Pages in quarantine shall not be in the way; there may be no region yet */
	if (exmap->pool.deferred)
		exmap_flush(exmap);

	mutex_lock(&exmap->lock);
	if (exmap->state == EXMAP_GONE)
		err = -ENXIO;
	else if (nr_pages > exmap->pool.limit)
		err = exmap_account(exmap, nr_pages - exmap->pool.limit);
	else
		err = 0;
	if (!err)
		err = exmap_pool_resize(&exmap->pool, nr_pages);
	if (!err)
		exmap_unaccount(exmap, nr_pages);
	mutex_unlock(&exmap->lock);
	return err;
}

static noinline long exmap_ioctl_other(struct file *file, unsigned int cmd,
				       unsigned long parm)
{
	void __user *arg = (void __user *)parm;

	switch (cmd) {
	case EXMAP_IOCTL_SETUP:
		return exmap_setup(file, arg);
	case EXMAP_IOCTL_CLONE:
		return exmap_clone(file, parm);
	case EXMAP_IOCTL_STATS:
		return exmap_stats(file, arg);
	case EXMAP_IOCTL_SETUP2:
		return exmap_setup2(file, arg);
	case EXMAP_IOCTL_FLUSH:
		return exmap_ioctl_flush(file);
	case EXMAP_IOCTL_VECTORS:
		return exmap_ioctl_vectors(file, arg);
	case EXMAP_IOCTL_RESIZE:
		return exmap_resize(file, parm);
	case EXMAP_IOCTL_QUERY:
		return exmap_ioctl_query(file, arg);
	default:
		return -ENOTTY;
	}
}

static long exmap_ioctl(struct file *file, unsigned int cmd, unsigned long parm)
{
	if (likely(cmd == EXMAP_IOCTL_ACTION))
		return exmap_ioctl_action(file, (void __user *)parm);
	return exmap_ioctl_other(file, cmd, parm);
}

static int exmap_mmap_prepare(struct vm_area_desc *desc)
{
	const unsigned long base = EXMAP_OFF_INTERFACE_BASE >> PAGE_SHIFT;
	struct exmap *exmap;

	if (!vma_desc_test(desc, VMA_SHARED_BIT))
		return -EINVAL;
	if (desc->pgoff >= base && desc->pgoff < EXMAP_OFF_INTERFACE_MAX >> PAGE_SHIFT) {
		exmap = exmap_of_ready(desc->file);
		if (IS_ERR(exmap))
			return PTR_ERR(exmap);
		return exmap_interface_mmap_prepare(exmap, desc);
	}
	if (desc->pgoff != EXMAP_OFF_EXMAP)
		return -EINVAL;
	exmap = exmap_of_or_new(desc->file);
	if (IS_ERR(exmap))
		return PTR_ERR(exmap);
	return exmap_region_mmap_prepare(exmap, desc);
}

static int exmap_open(struct inode *inode, struct file *file)
{
	/* The misc device leaves itself there; an exmap comes with its first use */
	file->private_data = NULL;
	file->f_mode |= FMODE_NOWAIT;
	return 0;
}

static int exmap_release(struct inode *inode, struct file *file)
{
	struct exmap *exmap = file->private_data;

	if (exmap)
		kref_put(&exmap->ref, exmap_free);
	return 0;
}

const struct file_operations exmap_fops = {
	.owner		= THIS_MODULE,
	.open		= exmap_open,
	.release	= exmap_release,
	.unlocked_ioctl	= exmap_ioctl,
	.mmap_prepare	= exmap_mmap_prepare,
	.read_iter	= exmap_read_iter,
	.write_iter	= exmap_write_iter,
	.uring_cmd	= exmap_uring_cmd,
};

static struct miscdevice exmap_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "exmap",
	.fops	= &exmap_fops,
	.mode	= 0666,
};

static int __init exmap_init(void)
{
	int err;

	err = exmap_pool_module_init();
	if (err)
		return err;
	err = exmap_io_module_init();
	if (err)
		goto out_pool;
	err = misc_register(&exmap_misc);
	if (!err)
		return 0;
	exmap_io_module_exit();
out_pool:
	exmap_pool_module_exit();
	return err;
}

static void __exit exmap_exit(void)
{
	misc_deregister(&exmap_misc);
	exmap_io_module_exit();
	exmap_pool_module_exit();
}

module_init(exmap_init);
module_exit(exmap_exit);

MODULE_DESCRIPTION("Explicit page placement for database buffer managers");
MODULE_LICENSE("GPL");
