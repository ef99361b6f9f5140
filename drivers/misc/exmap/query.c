// SPDX-License-Identifier: GPL-2.0-only
/*
 * EXMAP_IOCTL_QUERY: which slots have a page, and which pages are dirty or were used
 */
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vma_batch.h>

#include "attach.h"
#include "cursor.h"
#include "exmap.h"
#include "flight.h"
#include "query.h"
#include "sized.h"

static_assert(sizeof(struct exmap_query) == EXMAP_QUERY_SIZE_VER0);
static_assert((int)EXMAP_SLOT_RESIDENT == (int)VMA_BATCH_SLOT_PAGE);
static_assert((int)EXMAP_SLOT_DIRTY == (int)VMA_BATCH_SLOT_DIRTY);
static_assert((int)EXMAP_SLOT_USED == (int)VMA_BATCH_SLOT_YOUNG);

/* Slots between two copies to the program */
#define EXMAP_QUERY_CHUNK	PAGE_SIZE

/* Select the region of a vector, and check that its slots are there */
static int exmap_query_select(struct exmap_cursor *cursor, const struct exmap_vec *vec)
{
	struct exmap *exmap = cursor->exmap;
	int err;

	if (cursor->many)
		exmap = exmap_attached(cursor->pool->group, vec->region);
	if (!exmap)
		return -ENXIO;
	err = exmap_cursor_select(cursor, exmap);
	if (err)
		return err;
	return exmap_slots_ok(exmap, vec->page, vec->len) ? 0 : -ERANGE;
}

/* Tell the nodes of the pages of a range */
static void exmap_query_nodes(struct exmap_cursor *cursor, unsigned long slot,
			      unsigned int nr, u16 *nodes)
{
	struct page *page;

	for (unsigned int i = 0; i < nr; i++) {
		nodes[i] = EXMAP_NO_NODE;
		if (!vma_batch_hold(&cursor->vb, exmap_slot_addr(cursor->exmap, slot + i),
				    false, &page))
			continue;
		nodes[i] = page_to_nid(page);
		put_page(page);
	}
}

/*
 * Query the next slots, up to EXMAP_QUERY_CHUNK, or, without @slots, only check all
 * vectors. Returns the number of slots, or an error. The vectors are reduced to what is
 * left of them.
 */
static int exmap_query_some(struct exmap *exmap, bool many, struct exmap_vec *vecs,
			    unsigned int nr, unsigned int *next, u8 *slots, u16 *nodes,
			    bool age)
{
	struct exmap_cursor cursor;
	unsigned int filled = 0;
	int err;

	err = exmap_cursor_lock(&cursor, exmap, many);
	if (err)
		return err;
	exmap_cursor_begin(&cursor, exmap, cursor.vma);
	for (unsigned int i = 0; !slots && i < nr && !err; i++)
		err = exmap_query_select(&cursor, &vecs[i]);
	while (slots && *next < nr && filled < EXMAP_QUERY_CHUNK) {
		struct exmap_vec *vec = &vecs[*next];
		const unsigned int some = min(vec->len, EXMAP_QUERY_CHUNK - filled);

		err = exmap_query_select(&cursor, vec);
		if (err)
			break;
		vma_batch_query(&cursor.vb, exmap_slot_addr(cursor.exmap, vec->page), some,
				slots + filled, age);
		for (unsigned int i = 0; cursor.exmap->flights && i < some; i++)
			if (exmap_flight_is_busy(cursor.exmap->flights,
						 exmap_slot_page(cursor.exmap, vec->page + i)))
				slots[filled + i] |= EXMAP_SLOT_BUSY;
		if (nodes)
			exmap_query_nodes(&cursor, vec->page, some, nodes + filled);
		filled += some;
		vec->page += some;
		vec->len -= some;
		if (!vec->len)
			++*next;
	}
	vma_batch_end(&cursor.vb);
	exmap_cursor_unlock(&cursor);
	return err ?: filled;
}

/**
 * exmap_query() - Tell what slots hold.
 * @exmap: the exmap, of the current process, set up and mapped
 * @arg: what the program asks for
 *
 * Context: Process context, may sleep. No locks are held.
 *
 * Return: 0; the errors of exmap_copy_sized(), exmap_sized_ok() and
 * exmap_copy_sized_array(); -EFAULT if the answer cannot be written; -EINVAL for flags or
 * vectors that do not exist; -ERANGE for slots outside the region; -ENXIO if there is no
 * region; -ENOMEM; -EINTR if a fatal signal arrived.
 */
long exmap_query(struct exmap *exmap, const struct exmap_query __user *arg)
{
	struct exmap_query query;
	unsigned int next = 0;
	struct exmap_vec *vecs;
	bool many = false;
	u16 __user *node_answer;
	u8 __user *answer;
	u16 *nodes = NULL;
	int ret;
	u8 *slots;

	ret = exmap_copy_sized(&query, sizeof(query), EXMAP_QUERY_SIZE_VER0, arg);
	if (ret)
		return ret;
	/* Pairs with exmap_region_mapped() */
	if (smp_load_acquire(&exmap->state) != EXMAP_MAPPED)
		return -ENXIO;
	if (query.flags & ~EXMAP_QUERY_AGE || query.nr > EXMAP_VECTORS_MAX)
		return -EINVAL;
	ret = exmap_sized_ok(query.vec_size, EXMAP_VEC_SIZE_VER0);
	if (ret)
		return ret;
	answer = u64_to_user_ptr(query.slots);
	node_answer = u64_to_user_ptr(query.nodes);

	slots = kvmalloc(EXMAP_QUERY_CHUNK * (query.nodes ? 1 + sizeof(*nodes) : 1) +
			 query.nr * sizeof(*vecs), EXMAP_GFP);
	if (!slots)
		return -ENOMEM;
	vecs = (void *)(slots + EXMAP_QUERY_CHUNK);
	if (query.nodes)
		nodes = (void *)(vecs + query.nr);
	ret = exmap_copy_sized_array(vecs, sizeof(*vecs), u64_to_user_ptr(query.vecs),
				     query.vec_size, query.nr);
	for (unsigned int i = 0; i < query.nr && !ret; i++) {
		if (vecs[i].opcode || vecs[i].flags || vecs[i].node)
			ret = -EINVAL;
		many |= vecs[i].region != exmap->number;
	}
	if (!ret)
		ret = exmap_query_some(exmap, many, vecs, query.nr, &next, NULL, NULL,
				       false);
	while (!ret && next < query.nr) {
		ret = exmap_query_some(exmap, many, vecs, query.nr, &next, slots, nodes,
				       query.flags & EXMAP_QUERY_AGE);
		if (ret < 0)
			break;
		if (copy_to_user(answer, slots, ret) ||
		    (nodes && copy_to_user(node_answer, nodes, ret * sizeof(*nodes)))) {
			ret = -EFAULT;
			break;
		}
		answer += ret;
		node_answer += ret;
		ret = fatal_signal_pending(current) ? -EINTR : 0;
		cond_resched();
	}
	kvfree(slots);
	return ret;
}
