// SPDX-License-Identifier: GPL-2.0-only
/*
 * io_uring: arrays of vectors that are carried out without blocking the submitter
 *
 * The submitter begins the transfers of the first round. If those can all be in
 * flight at once, the task that owns the ring maps the pages when they arrive.
 * Whatever would have to wait is done by an io_uring worker, which is a thread of the
 * process.
 */
#include <linux/io_uring/cmd.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "attach.h"
#include "exmap.h"
#include "job.h"
#include "uring.h"
#include "vectors.h"

/**
 * struct exmap_uring_call - a call until it is complete
 * @pending: entry of the calls that a worker is going to end
 * @job: the job
 * @cmd: the command
 * @arrives_late: the transfers are complete, but exmap_job_arrived() was not called
 * @answer: where the results go
 * @answer_size: size of each of them there
 * @few: room for a few transfers
 * @vecs: the vectors, followed by the results
 */
struct exmap_uring_call {
	struct exmap_pending pending;
	struct exmap_job job;
	struct io_uring_cmd *cmd;
	bool arrives_late;
	void __user *answer;
	u32 answer_size;
	struct exmap_io_few few;
	struct exmap_vec vecs[];
};

static struct exmap_uring_call **exmap_uring_pdu(struct io_uring_cmd *cmd)
{
	return io_uring_cmd_to_pdu(cmd, struct exmap_uring_call *);
}

static void exmap_uring_free(struct exmap_pending *pending)
{
	struct exmap_uring_call *call =
		container_of(pending, struct exmap_uring_call, pending);

	exmap_job_cancel(&call->job);
	exmap_io_free(call->job.io);
	kvfree(call);
}

/* End a call. Returns its result. */
static long exmap_uring_end(struct exmap_uring_call *call, long ret)
{
	if (!ret)
		ret = exmap_vectors_answer(&call->job, call->answer, call->answer_size);
	exmap_uring_free(&call->pending);
	return ret;
}

/* Leave a call to a worker */
static void exmap_uring_hand_over(struct exmap_uring_call *call)
{
	struct exmap *exmap = call->job.exmap;

	spin_lock(&exmap->pending_lock);
	list_add(&call->pending.list, &exmap->pending);
	spin_unlock(&exmap->pending_lock);
}

static void exmap_uring_take_over(struct exmap_uring_call *call)
{
	struct exmap *exmap = call->job.exmap;

	spin_lock(&exmap->pending_lock);
	list_del(&call->pending.list);
	spin_unlock(&exmap->pending_lock);
}

/* The transfers are complete. This is the task that began the call, if it is there. */
static void exmap_uring_task_work(struct io_tw_req tw_req, io_tw_token_t tw)
{
	struct io_uring_cmd *cmd = io_uring_cmd_from_tw(tw_req);
	struct exmap_uring_call *call = *exmap_uring_pdu(cmd);
	long ret;

	if (tw.cancel) {
		exmap_job_cancel(&call->job);
		ret = -ECANCELED;
	} else if (!exmap_io_unstall(call->job.io, false)) {
		/* Another task is at work on them, and this one cannot wait for it */
		call->arrives_late = true;
		ret = -EAGAIN;
	} else {
		ret = exmap_job_arrived(&call->job);
	}
	if (ret == -EAGAIN) {
		/* A worker issues the command again, and finds the call in it */
		exmap_uring_hand_over(call);
		cmd->flags |= IORING_URING_CMD_REISSUE;
		io_uring_cmd_issue_blocking(cmd);
		return;
	}
	ret = exmap_uring_end(call, ret);
	io_uring_cmd_done(cmd, ret, IO_URING_CMD_TASK_WORK_ISSUE_FLAGS);
}

/* May be called in an interrupt */
static void exmap_uring_notify(struct exmap_io *io)
{
	struct exmap_uring_call *call = io->owner;

	io_uring_cmd_complete_in_task(call->cmd, exmap_uring_task_work);
}

/* Tests whether a task that must not wait can begin a transfer */
static bool exmap_uring_file_waits(const struct exmap *exmap, u8 opcode)
{
	const struct file *backing = exmap ? exmap->backing : NULL;

	if (!backing || !exmap_opcode_is_io(opcode))
		return false;
	/* Such a file does not say that it would have to wait */
	if (!(backing->f_mode & FMODE_NOWAIT))
		return true;
	/* Without O_DIRECT, hardly any write is possible without waiting */
	return opcode == EXMAP_OP_WRITE && !(backing->f_iocb_flags & IOCB_DIRECT);
}

/* Tests whether a worker must carry out a call as a whole */
static bool exmap_uring_waits(const struct exmap_uring_call *call)
{
	struct exmap *exmap = call->job.exmap;
	struct exmap_group *group = exmap->pool->group;
	bool waits = false;

	if (call->job.many)
		down_read(&group->regions_lock);
	for (unsigned int i = 0; i < call->job.nr && !waits; i++) {
		const struct exmap_vec *vec = &call->vecs[i];

		if (call->job.many)
			exmap = exmap_attached(group, vec->region);
		waits = exmap_uring_file_waits(exmap, vec->opcode);
	}
	if (call->job.many)
		up_read(&group->regions_lock);
	return waits;
}

/* Begin or end a call, depending on whether this task can wait */
static long exmap_uring_run(struct exmap_uring_call *call, unsigned int issue_flags)
{
	struct exmap_io *io = call->job.io;
	long ret;

	if (!(issue_flags & IO_URING_F_NONBLOCK)) {
		if (io) {
			exmap_io_unstall(io, true);
			if (call->arrives_late && exmap_job_arrived(&call->job))
				exmap_io_unstall(io, true);
			io->notify = NULL;
		}
		ret = exmap_job_run(&call->job);
	} else if (io && exmap_uring_waits(call)) {
		ret = -EAGAIN;
	} else {
		if (io) {
			io->notify = exmap_uring_notify;
			io->owner = call;
		}
		ret = exmap_job_start(&call->job);
	}
	if (ret == -EIOCBQUEUED)
		return ret;
	if (ret != -EAGAIN)
		return exmap_uring_end(call, ret);
	exmap_uring_hand_over(call);
	return ret;
}

/* Copy and check the arguments of a command that is issued for the first time */
static int exmap_uring_prepare(struct io_uring_cmd *cmd, struct exmap *exmap)
{
	const struct io_uring_sqe *sqe = cmd->sqe;
	const struct exmap_uring_cmd *sqe_cmd = io_uring_sqe_cmd(sqe, struct exmap_uring_cmd);
	const struct exmap_vectors __user *arg = READ_ONCE(sqe_cmd->iov.iov_base);
	const size_t size = READ_ONCE(sqe_cmd->iov.iov_len);
	struct exmap_uring_call *call;
	struct exmap_vectors params;
	int err;

	/* Fields and flags that mean nothing yet */
	if (cmd->flags & IORING_URING_CMD_MASK || READ_ONCE(sqe->addr) ||
	    READ_ONCE(sqe->len) || READ_ONCE(sqe->buf_index))
		return -EINVAL;
	err = exmap_vectors_params(exmap, &params, arg);
	if (err)
		return err;
	if (size != params.size)
		return -EINVAL;

	call = kvmalloc(struct_size(call, vecs, params.nr) +
			params.nr * sizeof(struct exmap_result), EXMAP_GFP);
	if (!call)
		return -ENOMEM;
	call->job = (struct exmap_job) {
		.vecs		= call->vecs,
		.results	= (void *)(call->vecs + params.nr),
	};
	call->pending.free = exmap_uring_free;
	call->cmd = cmd;
	call->arrives_late = false;
	call->answer = u64_to_user_ptr(params.results);
	call->answer_size = params.result_size;
	err = exmap_vectors_job(exmap, &params, &call->job, &call->few);
	if (err) {
		kvfree(call);
		return err;
	}
	*exmap_uring_pdu(cmd) = call;
	return 0;
}

/**
 * exmap_uring_cmd() - Carry out an array of vectors without blocking the submitter.
 * @cmd: the command: cmd_op is EXMAP_IOCTL_VECTORS; sqe->cmd is a struct
 *	exmap_uring_cmd, whose iov is the struct exmap_vectors
 * @issue_flags: io_uring's
 *
 * What needs no transfer is done before this returns.
 *
 * Context: Process context, may sleep.
 *
 * Return: as exmap_vectors(), and the errors of exmap_of_ready(); -EOPNOTSUPP for
 * another command; -EINVAL for fields of the submission that must be zero.
 * -EIOCBQUEUED if transfers are in flight: the result comes later. -EAGAIN if an
 * io_uring worker has to issue the command again.
 */
int exmap_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct exmap_uring_call *call;
	struct exmap *exmap;
	int err;

	/* Issued again: the call is there, and may be half done */
	if (cmd->flags & IORING_URING_CMD_REISSUE) {
		call = *exmap_uring_pdu(cmd);
		exmap_uring_take_over(call);
		return exmap_uring_run(call, issue_flags);
	}

	if (cmd->cmd_op != EXMAP_IOCTL_VECTORS || issue_flags & IO_URING_F_COMPAT)
		return -EOPNOTSUPP;
	exmap = exmap_of_ready(cmd->file);
	if (IS_ERR(exmap))
		return PTR_ERR(exmap);
	err = exmap_uring_prepare(cmd, exmap);
	return err ?: exmap_uring_run(*exmap_uring_pdu(cmd), issue_flags);
}
