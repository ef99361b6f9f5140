// SPDX-License-Identifier: GPL-2.0-only
/*
 * EXMAP_IOCTL_QUERY: which slots have a page, and which pages are dirty or were used
 */
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vma_batch.h>

#include "exmap.h"
#include "flight.h"
#include "query.h"
#include "region.h"
#include "sized.h"

static_assert(sizeof(struct exmap_query) == EXMAP_QUERY_SIZE_VER0);
static_assert((int)EXMAP_SLOT_RESIDENT == (int)VMA_BATCH_SLOT_PAGE);
static_assert((int)EXMAP_SLOT_DIRTY == (int)VMA_BATCH_SLOT_DIRTY);
static_assert((int)EXMAP_SLOT_USED == (int)VMA_BATCH_SLOT_YOUNG);

/* Slots between two copies to the program */
#define EXMAP_QUERY_CHUNK	PAGE_SIZE

static int exmap_query_check(const struct exmap *exmap, const struct exmap_vec *vecs,
			     unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++) {
		if (vecs[i].opcode || vecs[i].flags || vecs[i].order || vecs[i].node)
			return -EINVAL;
		if (!exmap_slots_ok(exmap, vecs[i].page, vecs[i].len))
			return -ERANGE;
	}
	return 0;
}

/*
 * Query the next slots, up to EXMAP_QUERY_CHUNK. Returns their number, or an error.
 * The vectors are reduced to what is left of them.
 */
static int exmap_query_some(struct exmap *exmap, struct exmap_vec *vecs,
			    unsigned int nr, unsigned int *next, u8 *slots, bool age)
{
	struct vm_area_struct *vma;
	unsigned int filled = 0;
	struct vma_batch vb;
	bool mmap_locked;

	vma = exmap_region_lock(exmap, &mmap_locked);
	if (IS_ERR(vma))
		return PTR_ERR(vma);
	vma_batch_begin(&vb, vma, NULL, 0, 0);
	while (*next < nr && filled < EXMAP_QUERY_CHUNK) {
		struct exmap_vec *vec = &vecs[*next];
		const unsigned int some = min(vec->len, EXMAP_QUERY_CHUNK - filled);

		vma_batch_query(&vb, exmap_slot_addr(exmap, vec->page), some,
				slots + filled, age);
		for (unsigned int i = 0; exmap->flights && i < some; i++)
			if (exmap_flight_is_busy(exmap->flights, vec->page + i))
				slots[filled + i] |= EXMAP_SLOT_BUSY;
		filled += some;
		vec->page += some;
		vec->len -= some;
		if (!vec->len)
			++*next;
	}
	vma_batch_end(&vb);
	exmap_region_unlock(exmap, vma, mmap_locked);
	return filled;
}

/**
 * exmap_query() - Tell what slots hold.
 * @exmap: the exmap, of the current process, set up and mapped
 * @arg: what the program asks for
 *
 * Context: Process context, may sleep. No locks are held.
 *
 * Return: 0; the errors of exmap_copy_sized(); -EFAULT if the vectors cannot be read
 * or the answer not be written; -EINVAL for flags or vectors that do not exist;
 * -ERANGE for slots outside the region; -ENXIO if there is no region; -ENOMEM;
 * -EINTR if a fatal signal arrived.
 */
long exmap_query(struct exmap *exmap, const struct exmap_query __user *arg)
{
	struct exmap_query query;
	unsigned int next = 0;
	struct exmap_vec *vecs;
	u8 __user *answer;
	int ret;
	u8 *slots;

	ret = exmap_copy_sized(&query, sizeof(query), EXMAP_QUERY_SIZE_VER0, arg);
	if (ret)
		return ret;
	/* Pairs with exmap_region_mapped() */
	if (smp_load_acquire(&exmap->state) != EXMAP_MAPPED)
		return -ENXIO;
	if (query.flags & ~EXMAP_QUERY_AGE || query.reserved || query.nr > EXMAP_VECTORS_MAX)
		return -EINVAL;
	answer = u64_to_user_ptr(query.slots);

	slots = kvmalloc(EXMAP_QUERY_CHUNK + query.nr * sizeof(*vecs), EXMAP_GFP);
	if (!slots)
		return -ENOMEM;
	vecs = (void *)(slots + EXMAP_QUERY_CHUNK);
	ret = -EFAULT;
	if (!copy_from_user(vecs, u64_to_user_ptr(query.vecs), query.nr * sizeof(*vecs)))
		ret = exmap_query_check(exmap, vecs, query.nr);
	while (!ret && next < query.nr) {
		ret = exmap_query_some(exmap, vecs, query.nr, &next, slots,
				       query.flags & EXMAP_QUERY_AGE);
		if (ret < 0)
			break;
		if (copy_to_user(answer, slots, ret)) {
			ret = -EFAULT;
			break;
		}
		answer += ret;
		ret = fatal_signal_pending(current) ? -EINTR : 0;
		cond_resched();
	}
	kvfree(slots);
	return ret;
}
