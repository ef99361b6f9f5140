// SPDX-License-Identifier: GPL-2.0-only
/*
 * Calls with an opcode in each vector, so that one call can evict pages and
 * bring in their successors. Vectors and results are in memory of the program's
 * choice: no page is shared, and a thread can have as many arrays, and through
 * io_uring as many calls in flight, as it likes.
 */
#include <linux/io_uring/cmd.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "exmap.h"

static_assert(sizeof(struct exmap_vec) == 16);
static_assert(sizeof(struct exmap_result) == 8);
static_assert(sizeof(struct exmap_vectors) == EXMAP_VECTORS_SIZE_VER0);

/* Up to so many vectors need no memory from the system */
#define EXMAP_VECTORS_ON_STACK	16

static int exmap_vectors_params(struct exmap *exmap, struct exmap_vectors *params,
				const struct exmap_vectors __user *arg)
{
	int err;

	err = exmap_copy_sized(params, sizeof(*params), EXMAP_VECTORS_SIZE_VER0, arg);
	if (err)
		return err;
	if (READ_ONCE(exmap->state) != EXMAP_MAPPED)
		return -ENXIO;
	if (params->flags || params->nr > EXMAP_VECTORS_MAX ||
	    params->interface >= exmap->pool.nr_interfaces)
		return -EINVAL;
	return 0;
}

/* Fill in a job of all zeroes, but for where vectors and results go */
static int exmap_vectors_job(struct exmap *exmap, const struct exmap_vectors *params,
			     struct exmap_job *job, struct exmap_io_few *few)
{
	void __user *answer = u64_to_user_ptr(params->results);

	job->exmap = exmap;
	job->iface = &exmap->pool.interfaces[params->interface];
	job->nr = params->nr;
	/* Faults are for before and after: there may be none with the region locked */
	if (copy_from_user(job->vecs, u64_to_user_ptr(params->vecs),
			   job->nr * sizeof(*job->vecs)) ||
	    fault_in_writeable(answer, job->nr * sizeof(*job->results)))
		return -EFAULT;
	return exmap_job_prepare(job, few);
}

static long exmap_vectors_answer(const struct exmap_job *job, void __user *answer)
{
	if (copy_to_user(answer, job->results, job->nr * sizeof(*job->results)))
		return -EFAULT;
	return job->failed;
}

/**
 * exmap_vectors() - Carry out an array of vectors.
 * @exmap: the exmap, of the current process and set up
 * @arg: what the program asks for
 *
 * Context: Process context, may sleep. No locks are held.
 *
 * Return: the number of vectors that failed, with the result of each in the
 * program's array. Or an error, with nothing done: -EFAULT if memory of the
 * program cannot be read, or the results not be written (if others change that
 * meanwhile, all was done), -EINVAL for sizes, flags or an interface that do not
 * exist, -ENXIO if there is no region, -ENOMEM, -EINTR if a fatal signal came.
 */
long exmap_vectors(struct exmap *exmap, const struct exmap_vectors __user *arg)
{
	/* Filled in before they are read, and larger than all the work for a page */
	struct exmap_vec few_vecs[EXMAP_VECTORS_ON_STACK] __uninitialized;
	struct exmap_result few_results[EXMAP_VECTORS_ON_STACK] __uninitialized;
	struct exmap_vectors params;
	struct exmap_job job = {};
	void *many = NULL;
	long ret;

	ret = exmap_vectors_params(exmap, &params, arg);
	if (ret)
		return ret;
	job.vecs = few_vecs;
	job.results = few_results;
	if (params.nr > EXMAP_VECTORS_ON_STACK) {
		many = kvmalloc_array(params.nr, sizeof(*job.vecs) + sizeof(*job.results),
				      GFP_KERNEL_ACCOUNT);
		if (!many)
			return -ENOMEM;
		job.vecs = many;
		job.results = (void *)(job.vecs + params.nr);
	}
	ret = exmap_vectors_job(exmap, &params, &job, NULL);
	if (!ret)
		ret = exmap_job_run(&job, false);
	if (!ret)
		ret = exmap_vectors_answer(&job, u64_to_user_ptr(params.results));
	exmap_io_free(job.io);
	kvfree(many);
	return ret;
}

/* A call from io_uring, until it is complete */
struct exmap_uring_call {
	struct exmap_job job;
	struct io_uring_cmd *cmd;
	void __user *answer;
	struct exmap_io_few few;
	struct exmap_vec vecs[];
};

static void exmap_uring_free(struct exmap_uring_call *call)
{
	exmap_io_free(call->job.io);
	kvfree(call);
}

/* The transfers are over: back in the task that has begun the call */
static void exmap_uring_task_work(struct io_tw_req tw_req, io_tw_token_t tw)
{
	struct io_uring_cmd *cmd = io_uring_cmd_from_tw(tw_req);
	struct exmap_uring_call *call = *io_uring_cmd_to_pdu(cmd, struct exmap_uring_call *);
	long ret;

	/* The task is exiting, or has: nobody wants the vectors that are not begun */
	if (tw.cancel)
		call->job.nr = call->job.next;
	ret = exmap_job_run(&call->job, true);
	if (ret == -EIOCBQUEUED)
		return;
	if (!ret && tw.cancel)
		ret = -ECANCELED;
	if (!ret)
		ret = exmap_vectors_answer(&call->job, call->answer);
	exmap_uring_free(call);
	io_uring_cmd_done(cmd, ret, IO_URING_CMD_TASK_WORK_ISSUE_FLAGS);
}

/* This may be an interrupt */
static void exmap_uring_notify(struct exmap_io *io)
{
	struct exmap_uring_call *call = io->owner;

	io_uring_cmd_complete_in_task(call->cmd, exmap_uring_task_work);
}

/**
 * exmap_uring_cmd() - Carry out an array of vectors without waiting for it.
 * @cmd: the command: cmd_op is EXMAP_IOCTL_VECTORS; sqe->cmd is a struct
 *	exmap_uring_cmd, whose iov is the struct exmap_vectors
 * @issue_flags: io_uring's
 *
 * What needs no transfer is done before this returns.
 *
 * Context: Process context, may sleep.
 *
 * Return: as exmap_vectors(), and the errors of exmap_of_ready(); -EOPNOTSUPP for
 * another command. -EIOCBQUEUED if there are transfers: the same comes later.
 * -EAGAIN, with nothing done, if it can only be done by somebody who can wait.
 */
int exmap_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	const struct exmap_uring_cmd *sqe_cmd =
		io_uring_sqe_cmd(cmd->sqe, struct exmap_uring_cmd);
	const struct exmap_vectors __user *arg = READ_ONCE(sqe_cmd->iov.iov_base);
	const size_t size = READ_ONCE(sqe_cmd->iov.iov_len);
	struct exmap *exmap = exmap_of_ready(cmd->file);
	struct exmap_uring_call *call;
	struct exmap_vectors params;
	long ret;

	if (cmd->cmd_op != EXMAP_IOCTL_VECTORS || issue_flags & IO_URING_F_COMPAT)
		return -EOPNOTSUPP;
	if (IS_ERR(exmap))
		return PTR_ERR(exmap);
	ret = exmap_vectors_params(exmap, &params, arg);
	if (ret)
		return ret;
	if (size != params.size)
		return -EINVAL;

	call = kvmalloc(struct_size(call, vecs, params.nr) +
			params.nr * sizeof(struct exmap_result), GFP_KERNEL_ACCOUNT);
	if (!call)
		return -ENOMEM;
	call->job = (struct exmap_job) {
		.vecs		= call->vecs,
		.results	= (void *)(call->vecs + params.nr),
		.nowait		= issue_flags & IO_URING_F_NONBLOCK,
	};
	call->cmd = cmd;
	call->answer = u64_to_user_ptr(params.results);
	*io_uring_cmd_to_pdu(cmd, struct exmap_uring_call *) = call;

	ret = exmap_vectors_job(exmap, &params, &call->job, &call->few);
	/* io_uring has workers with all that makes up the task */
	if (!ret && call->job.io && call->job.nowait && exmap_io_may_wait(exmap))
		ret = -EAGAIN;
	if (!ret && call->job.io)
		exmap_io_set_notify(call->job.io, exmap_uring_notify, call);
	if (!ret)
		ret = exmap_job_run(&call->job, false);
	if (ret == -EIOCBQUEUED)
		return ret;
	if (!ret)
		ret = exmap_vectors_answer(&call->job, call->answer);
	exmap_uring_free(call);
	return ret;
}
