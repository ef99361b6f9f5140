// SPDX-License-Identifier: GPL-2.0-only
/*
 * The device node /dev/exmap
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/uaccess.h>

#include "action.h"
#include "cursor.h"
#include "exmap.h"
#include "fdinfo.h"
#include "interface.h"
#include "query.h"
#include "reclaim.h"
#include "region.h"
#include "rw.h"
#include "setup.h"
#include "uring.h"
#include "vectors.h"

static int exmap_ioctl_clone(struct file *file, int fd)
{
	CLASS(fd, source)(fd);

	if (fd_empty(source))
		return -EBADF;
	if (fd_file(source)->f_op != file->f_op)
		return -EINVAL;
	return exmap_clone(file, fd_file(source));
}

static int exmap_ioctl_stats(struct exmap *exmap, struct exmap_ioctl_stats __user *arg)
{
	struct exmap_ioctl_stats stats;

	memset(&stats, 0, sizeof(stats));
	stats.buffer_size = READ_ONCE(exmap->pool->group->limit);
	stats.alloc_count = atomic_long_read(&exmap->pool->group->nr_pages);
	stats.max_interfaces = exmap->pool->nr_interfaces;
	return copy_to_user(arg, &stats, sizeof(stats)) ? -EFAULT : 0;
}

static noinline long exmap_ioctl_other(struct file *file, unsigned int cmd,
				       unsigned long parm)
{
	void __user *arg = (void __user *)parm;
	struct exmap *exmap;

	/* Commands that do not need the exmap to be set up */
	switch (cmd) {
	case EXMAP_IOCTL_SETUP:
		return exmap_setup(file, arg);
	case EXMAP_IOCTL_SETUP2:
		return exmap_setup2(file, arg);
	case EXMAP_IOCTL_CLONE:
		return exmap_ioctl_clone(file, parm);
	case EXMAP_IOCTL_RESIZE:
		return exmap_resize(file, parm);
	case EXMAP_IOCTL_STATS:
	case EXMAP_IOCTL_FLUSH:
	case EXMAP_IOCTL_QUERY:
		break;
	default:
		return -ENOTTY;
	}

	exmap = exmap_of_ready(file);
	if (IS_ERR(exmap))
		return PTR_ERR(exmap);
	switch (cmd) {
	case EXMAP_IOCTL_STATS:
		return exmap_ioctl_stats(exmap, arg);
	case EXMAP_IOCTL_FLUSH:
		return exmap_cursor_flush(exmap);
	default:
		return exmap_query(exmap, arg);
	}
}

static long exmap_ioctl(struct file *file, unsigned int cmd, unsigned long parm)
{
	struct exmap *exmap;

	/* The calls that are made for each page */
	if (likely(cmd == EXMAP_IOCTL_ACTION || cmd == EXMAP_IOCTL_VECTORS)) {
		exmap = exmap_of_ready(file);
		if (IS_ERR(exmap))
			return PTR_ERR(exmap);
		return cmd == EXMAP_IOCTL_ACTION ? exmap_action(exmap, (void __user *)parm) :
						   exmap_vectors(exmap, (void __user *)parm);
	}
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

static unsigned long exmap_get_unmapped_area(struct file *file, unsigned long addr,
					     unsigned long len, unsigned long pgoff,
					     unsigned long flags)
{
	struct exmap *exmap = exmap_of_ready(file);

	if (IS_ERR(exmap) || pgoff != EXMAP_OFF_EXMAP)
		return mm_get_unmapped_area(file, addr, len, pgoff, flags);
	return exmap_region_get_unmapped_area(exmap, file, addr, len, pgoff, flags);
}

static int exmap_file_open(struct inode *inode, struct file *file)
{
	/* The misc device has left its own pointer. An exmap comes with the first use. */
	file->private_data = NULL;
	file->f_mode |= FMODE_NOWAIT;
	return 0;
}

static int exmap_file_release(struct inode *inode, struct file *file)
{
	struct exmap *exmap = file->private_data;

	if (exmap)
		exmap_put_file(exmap);
	return 0;
}

static const struct file_operations exmap_fops = {
	.owner		= THIS_MODULE,
	.open		= exmap_file_open,
	.release	= exmap_file_release,
	.unlocked_ioctl	= exmap_ioctl,
	.mmap_prepare	= exmap_mmap_prepare,
	.get_unmapped_area = exmap_get_unmapped_area,
	.read_iter	= exmap_read_iter,
	.write_iter	= exmap_write_iter,
	.uring_cmd	= exmap_uring_cmd,
	.show_fdinfo	= exmap_show_fdinfo,
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

	err = exmap_bundles_init();
	if (err)
		return err;
	err = exmap_reclaim_init();
	if (err)
		goto out_bundles;
	err = misc_register(&exmap_misc);
	if (!err)
		return 0;
	exmap_reclaim_exit();
out_bundles:
	exmap_bundles_exit();
	return err;
}

static void __exit exmap_exit(void)
{
	misc_deregister(&exmap_misc);
	exmap_reclaim_exit();
	exmap_bundles_exit();
}

module_init(exmap_init);
module_exit(exmap_exit);

MODULE_DESCRIPTION("Explicit page placement for database buffer managers");
MODULE_LICENSE("GPL");
