// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads from the backing file, page by page, into the region
 */
#include <linux/bvec.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/uaccess.h>
#include <linux/uio.h>

#include "exmap.h"

/* Pages that one read of the backing file asks for, at most */
#define EXMAP_IO_PAGES	32

/* What the file position of a read call says */
static unsigned int exmap_pos_opcode(u64 pos)
{
	return (pos >> 8) & 0xff;
}

static u64 exmap_pos_interface(u64 pos)
{
	return (pos & 0xff) | (pos >> 16 << 8);
}

/*
 * Read up to @nr whole pages of the backing file into @pages. Returns how many
 * are complete; if that is less than @nr, *err says why.
 */
static unsigned int exmap_read_file(struct exmap *exmap, unsigned long slot,
				    struct page **pages, unsigned int nr, int *err)
{
	struct bio_vec bvec[EXMAP_IO_PAGES];
	loff_t pos = (loff_t)slot << PAGE_SHIFT;
	size_t done = 0, size = nr * PAGE_SIZE;
	struct iov_iter iter;

	for (unsigned int i = 0; i < nr; i++)
		bvec_set_page(&bvec[i], pages[i], PAGE_SIZE, 0);
	iov_iter_bvec(&iter, ITER_DEST, bvec, nr, size);

	while (done < size) {
		ssize_t ret = vfs_iter_read(exmap->backing, &iter, &pos, 0);

		if (ret <= 0) {
			*err = ret ?: -ENODATA;
			break;
		}
		done += ret;
	}
	return done >> PAGE_SHIFT;
}

/*
 * Map pages that were read under their slots. A slot that was filled meanwhile
 * keeps what it has. Returns how many slots are done, *unused how many pages
 * were not needed; these are moved to the front of @pages.
 */
static unsigned int exmap_map_read(struct exmap *exmap, unsigned long slot,
				   struct page **pages, unsigned int nr,
				   unsigned int *unused, int *err)
{
	struct vm_area_struct *vma;
	struct vma_batch vb;
	unsigned int i = 0;
	bool mmap_locked;

	*unused = 0;
	vma = exmap_region_lock(exmap, &mmap_locked);
	if (IS_ERR(vma)) {
		*unused = nr;
		*err = PTR_ERR(vma);
		return 0;
	}
	vma_batch_begin(&vb, vma, NULL, 0, 0);
	vb.flushed = &exmap->pool.flushed;
	while (i < nr) {
		const u64 epoch = READ_ONCE(exmap->pool.epoch);

		vb.pages = pages + i;
		vb.nr = 1;
		if (vma_batch_map(&vb, exmap->start + ((slot + i) << PAGE_SHIFT), 1)) {
			if (vb.nr)
				pages[(*unused)++] = pages[i];
			i++;
			continue;
		}
		vma_batch_end(&vb);
		if (vb.stop != VMA_BATCH_UNFLUSHED) {
			*err = -ENOMEM;
			break;
		}
		/* The slot lost another page a moment ago */
		exmap_region_flush(exmap, vma, epoch);
	}
	vma_batch_end(&vb);
	exmap_region_unlock(exmap, vma, mmap_locked);

	for (unsigned int j = i; j < nr; j++)
		pages[(*unused)++] = pages[j];
	return i;
}

/*
 * Hold the pages of the slots from @slot on, up to the first without, and count
 * them in *resident; if the first has none, count the slots without instead.
 */
static unsigned int exmap_find_run(struct exmap *exmap, unsigned long slot,
				   struct page **pages, unsigned int nr,
				   unsigned int *resident, int *err)
{
	unsigned long addr = exmap->start + (slot << PAGE_SHIFT);
	struct vm_area_struct *vma;
	struct vma_batch vb;
	unsigned int run;
	bool mmap_locked;

	vma = exmap_region_lock(exmap, &mmap_locked);
	if (IS_ERR(vma)) {
		*err = PTR_ERR(vma);
		return 0;
	}
	vma_batch_begin(&vb, vma, pages, 0, nr);
	run = vma_batch_get(&vb, addr, nr);
	*resident = run;
	if (!run) {
		do {
			run++;
			addr += PAGE_SIZE;
		} while (run < nr && !vma_batch_get(&vb, addr, 1));
	} else if (!(vma->vm_flags & VM_WRITE)) {
		/* As a read into any memory that is write protected */
		*err = -EFAULT;
	}
	vma_batch_end(&vb);
	exmap_region_unlock(exmap, vma, mmap_locked);

	/* The page that ended a run of slots without, or all if they cannot be used */
	while (vb.nr && (!*resident || *err))
		put_page(pages[--vb.nr]);
	return *err ? 0 : run;
}

/*
 * READ of some slots. The pages that are resident are filled in place, others
 * are read first and mapped when they are complete, so that nobody sees half of
 * one. Returns how many slots are done; if not all, *err says why.
 */
static unsigned long exmap_read_slots(struct exmap *exmap,
				      struct exmap_interface *iface,
				      unsigned long slot, unsigned long nr, int *err)
{
	struct page *pages[EXMAP_IO_PAGES];
	unsigned long done = 0;

	while (done < nr && !*err) {
		unsigned int run, read, resident, unused;
		int got;

		run = exmap_find_run(exmap, slot + done, pages,
				     min(nr - done, EXMAP_IO_PAGES), &resident, err);
		if (*err)
			break;
		if (resident) {
			read = exmap_read_file(exmap, slot + done, pages, run, err);
			while (resident)
				put_page(pages[--resident]);
			done += read;
			continue;
		}

		do {
			got = exmap_pool_get(&exmap->pool, iface, pages, run);
		} while (got == -EAGAIN && !(got = exmap_flush(exmap)));
		if (got < 0) {
			*err = got;
			break;
		}
		read = exmap_read_file(exmap, slot + done, pages, got, err);
		done += exmap_map_read(exmap, slot + done, pages, read, &unused, err);
		memmove(pages + unused, pages + read, (got - read) * sizeof(*pages));
		exmap_pool_put(&exmap->pool, iface, pages, unused + got - read);
	}
	return done;
}

/* ALLOC of some slots, for a read call; returns as exmap_read_slots() */
static unsigned long exmap_alloc_for_read(struct exmap *exmap,
					  struct exmap_interface *iface,
					  unsigned long slot, unsigned long nr,
					  int *err)
{
	unsigned long done, changed;
	struct exmap_call call;

	*err = exmap_call_begin(&call, exmap, iface);
	if (*err)
		return 0;
	*err = exmap_call_alloc(&call, slot, nr, &done, &changed);
	exmap_call_end(&call);
	return done;
}

/**
 * exmap_read_iter() - Let pages of the region be read, or just be there.
 * @iocb: the call; its position says which interface and opcode
 * @to: where in the region; every segment is made of whole slots
 *
 * Context: Process context, may sleep.
 *
 * Return: bytes of the slots that are done, a prefix of @to. If there are none:
 * -ENXIO if the exmap is not set up or has no region, -EPERM if it belongs to
 * another process, -EINVAL for an opcode, interface or alignment that cannot
 * be, -ERANGE for addresses outside the region, -ENODEV if there is no backing
 * file, -ENODATA at its end, -ENOMEM without free pages, or the file's error.
 */
ssize_t exmap_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct exmap *exmap = exmap_of_ready(iocb->ki_filp);
	const unsigned int opcode = exmap_pos_opcode(iocb->ki_pos);
	const u64 interface = exmap_pos_interface(iocb->ki_pos);
	struct exmap_interface *iface;
	ssize_t bytes = 0;
	int err = 0;

	if (IS_ERR(exmap))
		return PTR_ERR(exmap);
	/* Pairs with exmap_region_mapped() */
	if (smp_load_acquire(&exmap->state) != EXMAP_MAPPED)
		return -ENXIO;
	if (!user_backed_iter(to) || interface >= exmap->pool.nr_interfaces ||
	    (opcode != EXMAP_OP_READ && opcode != EXMAP_OP_ALLOC))
		return -EINVAL;

	iface = &exmap->pool.interfaces[interface];
	while (iov_iter_count(to) && !err) {
		const unsigned long addr =
			untagged_addr((unsigned long)iter_iov_addr(to));
		const size_t len = min(iter_iov_len(to), iov_iter_count(to));
		const unsigned long slot = (addr - exmap->start) >> PAGE_SHIFT;
		const unsigned long nr = len >> PAGE_SHIFT;
		unsigned long done = 0;

		if (!PAGE_ALIGNED(addr) || !PAGE_ALIGNED(len))
			err = -EINVAL;
		else if (!exmap_slots_ok(exmap, slot, nr))
			err = -ERANGE;
		else if (opcode == EXMAP_OP_READ && !exmap->backing)
			err = -ENODEV;
		else if (opcode == EXMAP_OP_READ)
			done = exmap_read_slots(exmap, iface, slot, nr, &err);
		else
			done = exmap_alloc_for_read(exmap, iface, slot, nr, &err);

		bytes += done << PAGE_SHIFT;
		iov_iter_advance(to, done << PAGE_SHIFT);
	}
	return bytes ?: err;
}
