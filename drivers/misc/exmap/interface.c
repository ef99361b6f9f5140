// SPDX-License-Identifier: GPL-2.0-only
/*
 * Interfaces: the page of vectors that is shared with the program
 */
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/slab.h>

#include "exmap.h"
#include "interface.h"

static_assert(sizeof(struct exmap_iov) == 8);
static_assert(sizeof(struct exmap_user_interface) == PAGE_SIZE);

/**
 * exmap_interface_vectors() - Return the vectors, allocating them if necessary.
 * @iface: the interface, whose lock is held
 *
 * Return: the page of vectors, or NULL if there is no memory.
 */
struct exmap_iov *exmap_interface_vectors(struct exmap_interface *iface)
{
	if (unlikely(!iface->vectors))
		iface->vectors = (void *)get_zeroed_page(EXMAP_GFP);
	return iface->vectors;
}

static vm_fault_t exmap_interface_fault(struct vm_fault *vmf)
{
	struct exmap_interface *iface = vmf->vma->vm_private_data;
	struct exmap_iov *vecs;

	mutex_lock(&iface->lock);
	vecs = exmap_interface_vectors(iface);
	mutex_unlock(&iface->lock);
	if (!vecs)
		return VM_FAULT_OOM;
	vmf->page = virt_to_page(vecs);
	get_page(vmf->page);
	return 0;
}

static int exmap_interface_mremap(struct vm_area_struct *vma)
{
	return -EINVAL;
}

static const struct vm_operations_struct exmap_interface_ops = {
	.fault	= exmap_interface_fault,
	.mremap	= exmap_interface_mremap,
};

/**
 * exmap_interface_mmap_prepare() - Set up the VMA of the vectors of an interface.
 * @exmap: the exmap, of the current process and set up
 * @desc: the VMA to be; known to be shared, and to be at the offset of an interface
 *
 * The VMA holds its file, and thus the exmap with its interfaces.
 *
 * Context: mmap_lock is held for writing.
 * Return: 0; -ENXIO as exmap_interface_shared() returns NULL; -EINVAL if the length is not one
 * page.
 */
int exmap_interface_mmap_prepare(struct exmap *exmap, struct vm_area_desc *desc)
{
	struct exmap_interface *iface;

	iface = exmap_interface_shared(exmap, desc->pgoff -
				       (EXMAP_OFF_INTERFACE_BASE >> PAGE_SHIFT));
	if (!iface)
		return -ENXIO;
	if (vma_desc_pages(desc) != 1)
		return -EINVAL;

	vma_desc_set_flags(desc, VMA_DONTEXPAND_BIT, VMA_DONTCOPY_BIT,
			   VMA_DONTDUMP_BIT);
	desc->vm_ops = &exmap_interface_ops;
	desc->private_data = iface;
	return 0;
}
