/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Slots in flight: slots that take part in a transfer from or to the backing file
 *
 * A *flight* says that a slot takes part in a transfer: a page for the slot, which
 * was empty, is being read; or the page that is in the slot is being read again; or
 * it is being written. Operations that meet a flight behave as
 * Documentation/userspace-api/exmap.rst specifies.
 *
 * Flights are found by slot, in a hash table of the pool, and are part of the memory of
 * the transfer. A slot is identified by exmap_slot_page(), which tells the regions of a
 * pool apart. So a flight needs no memory of its own, and pages and page
 * tables carry no state of the driver.
 */
#ifndef _EXMAP_FLIGHT_H
#define _EXMAP_FLIGHT_H

#include <linux/atomic.h>
#include <linux/hash.h>
#include <linux/list.h>
#include <linux/spinlock.h>
#include <linux/types.h>

#define EXMAP_FLIGHT_HASH_BITS	8

/**
 * enum exmap_flight_kind - what a transfer does with a slot
 * @EXMAP_FLIGHT_READ: reads a page for the slot, which was empty
 * @EXMAP_FLIGHT_REREAD: reads into the page of the slot
 * @EXMAP_FLIGHT_WRITE: writes the page that was in the slot when the flight began
 */
enum exmap_flight_kind {
	EXMAP_FLIGHT_READ,
	EXMAP_FLIGHT_REREAD,
	EXMAP_FLIGHT_WRITE,
};

/**
 * enum exmap_stall - whether writes wait for a task that carries them out
 * @EXMAP_STALL_NONE: They do not.
 * @EXMAP_STALLED: They do. Whoever waits for one of the slots can be that task.
 * @EXMAP_STALL_HELPED: A task that waits for one of the slots carries them out.
 *
 * io_uring has a limited number of workers. If one of them waits for a slot, it may be
 * the one that the write of this slot would need.
 */
enum exmap_stall {
	EXMAP_STALL_NONE,
	EXMAP_STALLED,
	EXMAP_STALL_HELPED,
};

/**
 * struct exmap_flight - a slot in flight
 * @node: Entry of exmap_flight_bucket::flights, protected by the lock of the bucket.
 * @slot: The slot, as exmap_slot_page() returns it, here and below.
 * @kind: What the transfer does.
 * @stall: An enum exmap_stall of all transfers that are in flight together. Not used
 *	for %EXMAP_FLIGHT_READ, for which no other flight waits.
 */
struct exmap_flight {
	struct hlist_node node;
	unsigned long slot;
	enum exmap_flight_kind kind;
	atomic_t *stall;
};

/**
 * struct exmap_flight_bucket - the flights of all slots with the same hash
 * @lock: Protects the other fields. Innermost; taken with a page table lock held, and in
 *	interrupts.
 * @flights: The flights.
 * @nr_waiting: Number of tasks that wait for a flight to end.
 */
struct exmap_flight_bucket {
	spinlock_t lock;	/* see above */
	struct hlist_head flights;
	unsigned int nr_waiting;
};

/**
 * struct exmap_flights - all slots in flight of a pool
 * @buckets: the hash table
 */
struct exmap_flights {
	struct exmap_flight_bucket buckets[1 << EXMAP_FLIGHT_HASH_BITS];
};

struct exmap_flights *exmap_flights_alloc(void);
void exmap_flights_free(struct exmap_flights *flights);
bool exmap_flight_begin(struct exmap_flights *flights, struct exmap_flight *flight,
			unsigned long slot, enum exmap_flight_kind kind);
void exmap_flight_end(struct exmap_flights *flights, struct exmap_flight *flight);
void exmap_flight_wake(struct exmap_flights *flights, unsigned long slot);
int exmap_flight_wait(struct exmap_flights *flights, unsigned long slot,
		      enum exmap_flight_kind kind, atomic_t **stall);
bool exmap_flight_is_reading(struct exmap_flights *flights, unsigned long slot);
bool exmap_flight_is_busy(struct exmap_flights *flights, unsigned long slot);

/**
 * exmap_flight_bucket() - Return the bucket of a slot.
 * @flights: the slots in flight
 * @slot: the slot
 *
 * Return: the bucket.
 */
static inline struct exmap_flight_bucket *
exmap_flight_bucket(struct exmap_flights *flights, unsigned long slot)
{
	return &flights->buckets[hash_long(slot, EXMAP_FLIGHT_HASH_BITS)];
}

/**
 * exmap_flight_may_be_busy() - Test cheaply whether a slot can be in flight.
 * @flights: the slots in flight, or NULL
 * @slot: the slot
 *
 * Return: false if the slot is not in flight. A flight that begins at the same time
 * may be missed.
 */
static inline bool exmap_flight_may_be_busy(struct exmap_flights *flights,
					    unsigned long slot)
{
	return flights && !hlist_empty(&exmap_flight_bucket(flights, slot)->flights);
}

#endif /* _EXMAP_FLIGHT_H */
