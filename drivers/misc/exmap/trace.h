/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints
 *
 * Pages and slots are reported by the addresses that the program knows, pools by the
 * number that /proc/PID/fdinfo shows as well.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM exmap

#if !defined(_EXMAP_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _EXMAP_TRACE_H

#include <linux/tracepoint.h>

#include "exmap.h"
#include "interface.h"
#include "pool.h"

TRACE_EVENT(exmap_setup,
	    TP_PROTO(const struct exmap *exmap),
	    TP_ARGS(exmap),
	    TP_STRUCT__entry(__field(unsigned int, pool)
			     __field(unsigned int, region)
			     __field(unsigned long, pages)
			     __field(unsigned int, interfaces)
			     __field(unsigned long, slot_size)
			     __field(bool, deferred)
			     __field(bool, backing)),
	    TP_fast_assign(__entry->pool = exmap->pool->group->id;
			   __entry->region = exmap->number;
			   __entry->pages = READ_ONCE(exmap->pool->group->limit);
			   __entry->interfaces = exmap->pool->nr_interfaces;
			   __entry->deferred = exmap->pool->group->deferred;
			   __entry->slot_size = exmap_slot_size(exmap);
			   __entry->backing = exmap->backing;),
	    TP_printk("pool=%u region=%u pages=%lu interfaces=%u slot_size=%lu deferred=%d backing=%d",
		      __entry->pool, __entry->region, __entry->pages, __entry->interfaces,
		      __entry->slot_size, __entry->deferred, __entry->backing)
);

/* Pages came into slots, or were taken out: @pages of the @slots from @addr on */
DECLARE_EVENT_CLASS(exmap_slots,
		    TP_PROTO(const struct exmap_pool *pool, unsigned long addr, unsigned long slots,
			     unsigned long pages),
		    TP_ARGS(pool, addr, slots, pages),
		    TP_STRUCT__entry(__field(unsigned int, pool)
				     __field(unsigned long, addr)
				     __field(unsigned long, slots)
				     __field(unsigned long, pages)),
		    TP_fast_assign(__entry->pool = pool->group->id;
				   __entry->addr = addr;
				   __entry->slots = slots;
				   __entry->pages = pages;),
		    TP_printk("pool=%u addr=0x%lx slots=%lu pages=%lu", __entry->pool,
			      __entry->addr, __entry->slots, __entry->pages)
);

DEFINE_EVENT(exmap_slots, exmap_alloc,
	     TP_PROTO(const struct exmap_pool *pool, unsigned long addr, unsigned long slots,
		      unsigned long pages),
	     TP_ARGS(pool, addr, slots, pages));

DEFINE_EVENT(exmap_slots, exmap_free,
	     TP_PROTO(const struct exmap_pool *pool, unsigned long addr, unsigned long slots,
		      unsigned long pages),
	     TP_ARGS(pool, addr, slots, pages));

/* A request to the backing file for @slots from @addr on is complete */
DECLARE_EVENT_CLASS(exmap_transfer,
		    TP_PROTO(const struct exmap_pool *pool, unsigned long addr, unsigned long slots,
			     size_t bytes, long res),
		    TP_ARGS(pool, addr, slots, bytes, res),
		    TP_STRUCT__entry(__field(unsigned int, pool)
				     __field(unsigned long, addr)
				     __field(unsigned long, slots)
				     __field(size_t, bytes)
				     __field(long, res)),
		    TP_fast_assign(__entry->pool = pool->group->id;
				   __entry->addr = addr;
				   __entry->slots = slots;
				   __entry->bytes = bytes;
				   __entry->res = res;),
		    TP_printk("pool=%u addr=0x%lx slots=%lu bytes=%zu res=%ld", __entry->pool,
			      __entry->addr, __entry->slots, __entry->bytes, __entry->res)
);

DEFINE_EVENT(exmap_transfer, exmap_read,
	     TP_PROTO(const struct exmap_pool *pool, unsigned long addr, unsigned long slots,
		      size_t bytes, long res),
	     TP_ARGS(pool, addr, slots, bytes, res));

DEFINE_EVENT(exmap_transfer, exmap_write,
	     TP_PROTO(const struct exmap_pool *pool, unsigned long addr, unsigned long slots,
		      size_t bytes, long res),
	     TP_ARGS(pool, addr, slots, bytes, res));

/* An interface had no free page, and has @pages now, or failed with @err */
TRACE_EVENT(exmap_refill,
	    TP_PROTO(const struct exmap_pool *pool, const struct exmap_interface *iface,
		     unsigned int pages, int err),
	    TP_ARGS(pool, iface, pages, err),
	    TP_STRUCT__entry(__field(unsigned int, pool)
			     __field(unsigned int, interface)
			     __field(unsigned int, pages)
			     __field(int, err)),
	    TP_fast_assign(__entry->pool = pool->group->id;
			   __entry->interface = iface - pool->interfaces;
			   __entry->pages = pages;
			   __entry->err = err;),
	    TP_printk("pool=%u interface=%u pages=%u err=%d", __entry->pool, __entry->interface,
		      __entry->pages, __entry->err)
);

/* An interface took free pages of another one */
TRACE_EVENT(exmap_steal,
	    TP_PROTO(const struct exmap_pool *pool, const struct exmap_interface *thief,
		     const struct exmap_interface *victim, unsigned int pages),
	    TP_ARGS(pool, thief, victim, pages),
	    TP_STRUCT__entry(__field(unsigned int, pool)
			     __field(unsigned int, interface)
			     __field(unsigned int, victim)
			     __field(unsigned int, pages)),
	    TP_fast_assign(__entry->pool = pool->group->id;
			   __entry->interface = thief - pool->interfaces;
			   __entry->victim = victim - pool->interfaces;
			   __entry->pages = pages;),
	    TP_printk("pool=%u interface=%u victim=%u pages=%u", __entry->pool,
		      __entry->interface, __entry->victim, __entry->pages)
);

/* @moved of @pages pages went to another node */
TRACE_EVENT(exmap_move,
	    TP_PROTO(const struct exmap_pool *pool, int node, unsigned int pages,
		     unsigned int moved),
	    TP_ARGS(pool, node, pages, moved),
	    TP_STRUCT__entry(__field(unsigned int, pool)
			     __field(int, node)
			     __field(unsigned int, pages)
			     __field(unsigned int, moved)),
	    TP_fast_assign(__entry->pool = pool->group->id;
			   __entry->node = node;
			   __entry->pages = pages;
			   __entry->moved = moved;),
	    TP_printk("pool=%u node=%d pages=%u moved=%u", __entry->pool, __entry->node,
		      __entry->pages, __entry->moved)
);

/* A deferred TLB flush ends the quarantine of what was freed up to @generation */
TRACE_EVENT(exmap_flush,
	    TP_PROTO(const struct exmap_group *group, u64 generation, long pages),
	    TP_ARGS(group, generation, pages),
	    TP_STRUCT__entry(__field(unsigned int, pool)
			     __field(u64, generation)
			     __field(long, pages)),
	    TP_fast_assign(__entry->pool = group->id;
			   __entry->generation = generation;
			   __entry->pages = pages;),
	    TP_printk("pool=%u generation=%llu pages=%ld", __entry->pool, __entry->generation,
		      __entry->pages)
);

/* Reclaim asked for @wanted pages of a pool, and got @freed */
TRACE_EVENT(exmap_shrink,
	    TP_PROTO(const struct exmap_pool *pool, unsigned long wanted, unsigned long freed),
	    TP_ARGS(pool, wanted, freed),
	    TP_STRUCT__entry(__field(unsigned int, pool)
			     __field(unsigned long, wanted)
			     __field(unsigned long, freed)),
	    TP_fast_assign(__entry->pool = pool->group->id;
			   __entry->wanted = wanted;
			   __entry->freed = freed;),
	    TP_printk("pool=%u wanted=%lu freed=%lu", __entry->pool, __entry->wanted,
		      __entry->freed)
);

/* The number of PTE tables of a region changed by @change, to @tables of its pool */
TRACE_EVENT(exmap_tables,
	    TP_PROTO(const struct exmap *exmap, long change),
	    TP_ARGS(exmap, change),
	    TP_STRUCT__entry(__field(unsigned int, pool)
			     __field(unsigned int, region)
			     __field(long, change)
			     __field(long, tables)),
	    TP_fast_assign(__entry->pool = exmap->pool->group->id;
			   __entry->region = exmap->number;
			   __entry->change = change;
			   __entry->tables = atomic_long_read(&exmap->pool->group->nr_tables);),
	    TP_printk("pool=%u region=%u change=%ld tables=%ld", __entry->pool, __entry->region,
		      __entry->change, __entry->tables)
);

#endif /* _EXMAP_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
