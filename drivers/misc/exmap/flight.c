// SPDX-License-Identifier: GPL-2.0-only
/*
 * Slots in flight: slots that take part in a transfer from or to the backing file
 */
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/wait_bit.h>

#include "flight.h"
#include "pool.h"

/**
 * exmap_flights_alloc() - Set up the slots in flight of a pool.
 *
 * Return: the table, to be freed with exmap_flights_free(); NULL without memory.
 */
struct exmap_flights *exmap_flights_alloc(void)
{
	struct exmap_flights *flights = kvzalloc_obj(*flights, EXMAP_GFP);

	for (unsigned int i = 0; flights && i < ARRAY_SIZE(flights->buckets); i++)
		spin_lock_init(&flights->buckets[i].lock);
	return flights;
}

/**
 * exmap_flights_free() - Undo exmap_flights_alloc().
 * @flights: the table, without any flight; or NULL
 */
void exmap_flights_free(struct exmap_flights *flights)
{
	kvfree(flights);
}

/*
 * A page that is written must not change by a read, or its content on the device
 * is neither the old nor the new one. Two writes of a slot must not overlap, or the
 * older one may be the last to reach the device. A read must not overlap with a
 * write, or it may bring back the old content after the page was evicted.
 */
static bool exmap_flight_conflicts(enum exmap_flight_kind flying,
				   enum exmap_flight_kind kind)
{
	return flying == EXMAP_FLIGHT_WRITE ||
	       (kind == EXMAP_FLIGHT_WRITE && flying == EXMAP_FLIGHT_REREAD);
}

/* Tests whether a flight of @kind must wait. The lock of the bucket is held. */
static bool exmap_flight_must_wait(const struct exmap_flight_bucket *bucket,
				   unsigned long slot, enum exmap_flight_kind kind)
{
	const struct exmap_flight *flight;

	hlist_for_each_entry(flight, &bucket->flights, node)
		if (flight->slot == slot && exmap_flight_conflicts(flight->kind, kind))
			return true;
	return false;
}

/**
 * exmap_flight_begin() - Begin the flight of a slot, unless it must wait.
 * @flights: the slots in flight
 * @flight: the flight, which stays until exmap_flight_end(); @flight->stall is set,
 *	except for %EXMAP_FLIGHT_READ
 * @slot: the slot
 * @kind: what the transfer does
 *
 * Context: Any.
 * Return: false if the slot is in a flight that does not go together with this one.
 */
bool exmap_flight_begin(struct exmap_flights *flights, struct exmap_flight *flight,
			unsigned long slot, enum exmap_flight_kind kind)
{
	struct exmap_flight_bucket *bucket = exmap_flight_bucket(flights, slot);
	unsigned long irq;
	bool begun;

	flight->slot = slot;
	flight->kind = kind;
	spin_lock_irqsave(&bucket->lock, irq);
	begun = !exmap_flight_must_wait(bucket, slot, kind);
	if (likely(begun))
		hlist_add_head(&flight->node, &bucket->flights);
	spin_unlock_irqrestore(&bucket->lock, irq);
	return begun;
}

/**
 * exmap_flight_end() - End a flight.
 * @flights: the slots in flight
 * @flight: the flight
 *
 * Context: Any.
 */
void exmap_flight_end(struct exmap_flights *flights, struct exmap_flight *flight)
{
	struct exmap_flight_bucket *bucket = exmap_flight_bucket(flights, flight->slot);
	unsigned long irq;
	bool wake;

	spin_lock_irqsave(&bucket->lock, irq);
	__hlist_del(&flight->node);
	wake = bucket->nr_waiting;
	spin_unlock_irqrestore(&bucket->lock, irq);
	if (unlikely(wake)) {
		/* Order the removal before the look for waiters */
		smp_mb();
		wake_up_var(bucket);
	}
}

/**
 * exmap_flight_wake() - Wake the tasks that wait for a slot, to check it again.
 * @flights: the slots in flight
 * @slot: a slot in flight whose transfers have just been stalled
 *
 * Context: Any.
 */
void exmap_flight_wake(struct exmap_flights *flights, unsigned long slot)
{
	struct exmap_flight_bucket *bucket = exmap_flight_bucket(flights, slot);
	unsigned long irq;
	bool wake;

	/* A task that is counted after this checks the slot later, and finds it stalled */
	spin_lock_irqsave(&bucket->lock, irq);
	wake = bucket->nr_waiting;
	spin_unlock_irqrestore(&bucket->lock, irq);
	if (wake) {
		/* Order the stall before the look for waiters */
		smp_mb();
		wake_up_var(bucket);
	}
}

/*
 * Tests whether a task need not wait for a slot any more: its flight can begin, or it must
 * carry out the writes that it waits for.
 */
static bool exmap_flight_wait_is_over(struct exmap_flight_bucket *bucket,
				      unsigned long slot, enum exmap_flight_kind kind,
				      atomic_t **stall)
{
	struct exmap_flight *flight;
	bool may_begin = true;
	unsigned long irq;

	spin_lock_irqsave(&bucket->lock, irq);
	hlist_for_each_entry(flight, &bucket->flights, node) {
		if (flight->slot != slot || !exmap_flight_conflicts(flight->kind, kind))
			continue;
		may_begin = false;
		/* A stalled flight, and so the memory of its transfers, stays until it is helped */
		if (atomic_cmpxchg(flight->stall, EXMAP_STALLED, EXMAP_STALL_HELPED) ==
		    EXMAP_STALLED) {
			*stall = flight->stall;
			break;
		}
	}
	spin_unlock_irqrestore(&bucket->lock, irq);
	return may_begin || *stall;
}

/**
 * exmap_flight_wait() - Wait until a flight can begin.
 * @flights: the slots in flight
 * @slot: the slot
 * @kind: the kind of the flight that is going to begin
 * @stall: NULL; set to exmap_flight::stall of a flight that does not end unless the
 *	caller carries out the writes that it belongs to
 *
 * Context: Process context, may sleep. The caller has no flight itself, so that two
 * calls never wait for each other.
 *
 * Return: 0, and the caller tries again at once, after it has helped if it must;
 * -EINTR if a signal arrived.
 */
int exmap_flight_wait(struct exmap_flights *flights, unsigned long slot,
		      enum exmap_flight_kind kind, atomic_t **stall)
{
	struct exmap_flight_bucket *bucket = exmap_flight_bucket(flights, slot);
	unsigned long irq;
	int err;

	spin_lock_irqsave(&bucket->lock, irq);
	bucket->nr_waiting++;
	spin_unlock_irqrestore(&bucket->lock, irq);
	err = wait_var_event_interruptible(bucket, exmap_flight_wait_is_over(bucket, slot,
									     kind, stall));
	spin_lock_irqsave(&bucket->lock, irq);
	bucket->nr_waiting--;
	spin_unlock_irqrestore(&bucket->lock, irq);
	return err ? -EINTR : 0;
}

static bool exmap_flight_find(struct exmap_flights *flights, unsigned long slot,
			      bool reading)
{
	struct exmap_flight_bucket *bucket = exmap_flight_bucket(flights, slot);
	const struct exmap_flight *flight;
	bool found = false;
	unsigned long irq;

	spin_lock_irqsave(&bucket->lock, irq);
	hlist_for_each_entry(flight, &bucket->flights, node)
		if (flight->slot == slot &&
		    (!reading || flight->kind != EXMAP_FLIGHT_WRITE))
			found = true;
	spin_unlock_irqrestore(&bucket->lock, irq);
	return found;
}

/**
 * exmap_flight_is_reading() - Test whether a slot is being read.
 * @flights: the slots in flight, or NULL
 * @slot: the slot
 *
 * Context: As exmap_flight_begin().
 * Return: true if a page is being read for the slot, or the page in the slot again.
 */
bool exmap_flight_is_reading(struct exmap_flights *flights, unsigned long slot)
{
	return unlikely(exmap_flight_may_be_busy(flights, slot)) &&
	       exmap_flight_find(flights, slot, true);
}

/**
 * exmap_flight_is_busy() - Test whether a slot is in flight.
 * @flights: the slots in flight, or NULL
 * @slot: the slot
 *
 * Context: As exmap_flight_begin().
 * Return: true if it is.
 */
bool exmap_flight_is_busy(struct exmap_flights *flights, unsigned long slot)
{
	return unlikely(exmap_flight_may_be_busy(flights, slot)) &&
	       exmap_flight_find(flights, slot, false);
}
