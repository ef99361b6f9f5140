/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * MOVE: pages that go to another NUMA node, while their slots keep address and content
 */
#ifndef _EXMAP_MOVE_H
#define _EXMAP_MOVE_H

#include <linux/minmax.h>
#include <linux/types.h>

struct exmap_place;
struct page;

/* Base pages that are moved together, with one TLB flush, unless one slot has more */
#define EXMAP_MOVE_PAGES	512

/**
 * struct exmap_moving - a slot whose page is moved
 * @addr: The address of the slot.
 * @vec: The vector that asks for it.
 * @err: Why the page was not moved, or 0.
 * @moved: The page was moved.
 * @pending: Private: there is something left to be done.
 * @fresh: Private: @to is not part of the pool yet.
 * @from: Private: the page that is in the slot.
 * @to: Private: the page that takes its place, or NULL.
 */
struct exmap_moving {
	unsigned long addr;
	unsigned int vec;
	int err;
	bool moved;
	bool pending;
	bool fresh;
	struct page *from;
	struct page *to;
};

/**
 * exmap_move_max() - Return how many slots are moved together.
 * @order: they have 2^@order pages
 *
 * Return: the number, at least 1.
 */
static inline unsigned int exmap_move_max(unsigned int order)
{
	return max(EXMAP_MOVE_PAGES >> order, 1);
}

void exmap_move(struct exmap_place *place, struct exmap_moving *moves, unsigned int nr,
		int nid);

#endif /* _EXMAP_MOVE_H */
