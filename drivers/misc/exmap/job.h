/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Jobs: arrays of vectors, each with an opcode of its own
 *
 * A job goes through its vectors in their order, in *rounds*: FREE and ALLOC are done
 * at once; the transfers that READ and WRITE need are collected, and started
 * together. When the transfers are complete, the pages that were read are mapped,
 * and the next round begins.
 */
#ifndef _EXMAP_JOB_H
#define _EXMAP_JOB_H

#include <linux/build_bug.h>
#include <linux/string.h>
#include <linux/types.h>

#include "exmap.h"
#include "flight.h"
#include "io.h"

/**
 * struct exmap_job - an array of vectors that is carried out
 * @exmap: The exmap on whose file the call is made.
 * @iface: The interface whose pages are used.
 * @vecs: The vectors. In one that has failed, the length is reduced to what precedes
 *	the first slot that could not be done.
 * @results: Array of the results.
 * @nr: Length of @vecs and @results.
 * @next: The first vector that has not been begun, or not completely.
 * @next_slot: Number of its slots that have been begun.
 * @failed: Number of vectors that have failed.
 * @first_failed: The first of them.
 * @many: Some vectors name other regions of the pool.
 * @prefix: Stop at the first failure. There are no results for the vectors behind it.
 * @nowait: Fail with -EAGAIN where the call would have to wait for the backing file.
 * @flying: The transfers of the current round were started, and were not evaluated.
 * @reading: Some of them read pages for empty slots.
 * @waiting: The round has ended before a slot that is in another flight.
 * @wait_kind: The kind of the flight that has to wait.
 * @wait_slot: The slot, as exmap_slot_page() returns it.
 * @redo: The next of the pages in @io that may have to be read again, as
 *	exmap_job_arrived() has left them.
 * @redo_end: The end of these, or 0.
 * @sync: IOCB_DSYNC and IOCB_SYNC for what is written.
 * @io: The transfers, or NULL if there can be none.
 */
struct exmap_job {
	struct exmap *exmap;
	struct exmap_interface *iface;
	struct exmap_vec *vecs;
	struct exmap_result *results;
	unsigned int nr;
	unsigned int next;
	unsigned int next_slot;
	unsigned int failed;
	unsigned int first_failed;
	bool many;
	bool prefix;
	bool nowait;
	bool flying;
	bool reading;
	bool waiting;
	enum exmap_flight_kind wait_kind;
	unsigned long wait_slot;
	unsigned int redo;
	unsigned int redo_end;
	int sync;
	struct exmap_io *io;
};

void exmap_job_prepare(struct exmap_job *job, struct exmap_io_few *few);
int exmap_job_run(struct exmap_job *job);
int exmap_job_start(struct exmap_job *job);
int exmap_job_arrived(struct exmap_job *job);
void exmap_job_cancel(struct exmap_job *job);

/**
 * exmap_result_plain() - Return the result of a vector that has changed one slot.
 *
 * Return: struct exmap_result as one number.
 */
static __always_inline u64 exmap_result_plain(void)
{
	const struct exmap_result result = { .pages = 1 };
	u64 word;

	static_assert(sizeof(word) == sizeof(result));
	memcpy(&word, &result, sizeof(word));
	return word;
}

/**
 * exmap_opcode_is_io() - Test whether an opcode needs the backing file.
 * @opcode: the opcode
 *
 * Return: true if it does.
 */
static inline bool exmap_opcode_is_io(unsigned int opcode)
{
	return opcode == EXMAP_OP_READ || opcode == EXMAP_OP_WRITE;
}

#endif /* _EXMAP_JOB_H */
