// SPDX-License-Identifier: GPL-2.0-only
/* Calls, and the three ways to carry them out */
#include <err.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef HAVE_LIBURING
#include <liburing.h>
#endif

#include "bufmgr.h"
#include "call.h"

void call_init(struct call *call)
{
	call->nr = 0;
	call->todo = 0;
	memset(call->count, 0, sizeof(call->count));
}

void call_add(struct call *call, enum exmap_opcode opcode, const u64 *pid, unsigned int n)
{
	unsigned int i, run;

	for (i = 0; i < n; i += run) {
		for (run = 1; i + run < n && pid[i + run] == pid[i] + run;)
			run++;
		call->vec[call->nr++] = (struct exmap_vec) {
			.page = pid[i],
			.len = run,
			.opcode = opcode,
		};
	}
	call->count[opcode] += n;
	call->todo += n;
}

/* Read or write a run of pages without exmap; repeat the system call if it stops short */
static void transfer(const struct exmap_vec *vec)
{
	size_t len = (size_t)vec->len * bm.page_size, done;
	bool read = vec->opcode == EXMAP_OP_READ;
	off_t pos = vec->page * bm.page_size;
	char *page = bm_page(vec->page);
	ssize_t n;

	for (done = 0; done < len; done += n) {
		if (read)
			n = pread(bm.file_fd, page + done, len - done, pos + done);
		else
			n = pwrite(bm.file_fd, page + done, len - done, pos + done);
		if (n < 0)
			err(1, "%s the page file %s", read ? "reading" : "writing", bm.file);
		if (!n)
			errx(1, "the page file %s ends too early", bm.file);
		if (read)
			self->stats.in_calls++;
		else
			self->stats.out_calls++;
	}
}

static void carry_out_by_hand(struct call *call)
{
	const struct exmap_vec *vec;

	for (vec = call->vec; vec < call->vec + call->nr; vec++) {
		if (vec->opcode == EXMAP_OP_READ || vec->opcode == EXMAP_OP_WRITE)
			transfer(vec);
		else if (vec->opcode == EXMAP_OP_FREE &&
			 madvise(bm_page(vec->page), vec->len * bm.page_size, MADV_DONTNEED))
			err(1, "madvise");
		/* ALLOC needs no call: the first access allocates the page */
	}
}

#ifdef HAVE_LIBURING

/* Each thread has its own ring: it needs no lock, and gets only its own completions */
static __thread struct io_uring ring;
static __thread unsigned int in_flight;

static void ring_start(void)
{
	struct io_uring_params params = {
		/* Run completion work only when the thread asks for completions */
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
	};
	int ret;

	ret = io_uring_queue_init_params(2 * CALLS_MAX, &ring, &params);
	if (!ret)
		ret = io_uring_register_files(&ring, &bm.exmap_fd, 1);
	if (ret) {
		errno = -ret;
		err(1, "cannot set up io_uring");
	}
}

static void ring_stop(void)
{
	io_uring_queue_exit(&ring);
}

static void ring_queue(struct call *call)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
	struct exmap_uring_cmd *cmd;

	if (!sqe)
		errx(1, "more than %u calls in flight", 2 * CALLS_MAX);
	/* With IOSQE_FIXED_FILE, 0 is the index of the registered file */
	io_uring_prep_rw(IORING_OP_URING_CMD, sqe, 0, NULL, 0, 0);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, call);
	sqe->cmd_op = EXMAP_IOCTL_VECTORS;
	cmd = (struct exmap_uring_cmd *)sqe->cmd;
	cmd->iov.iov_base = &call->params;
	cmd->iov.iov_len = sizeof(call->params);

	call->running = true;
	if (++in_flight > self->stats.in_flight)
		self->stats.in_flight = in_flight;
}

static void ring_submit(void)
{
	int ret = io_uring_submit(&ring);

	if (ret < 0) {
		errno = -ret;
		err(1, "io_uring_submit");
	}
}

static void ring_reap(void)
{
	unsigned int head, n = 0;
	struct io_uring_cqe *cqe;
	struct call *call;

	io_uring_for_each_cqe(&ring, head, cqe) {
		call = io_uring_cqe_get_data(cqe);
		call->ret = cqe->res;
		call->running = false;
		n++;
	}
	io_uring_cq_advance(&ring, n);
	in_flight -= n;
}

/* Wait for a call. Completions of other calls are recorded in these calls. */
static void ring_wait(struct call *call)
{
	int ret;

	for (ring_reap(); call->running; ring_reap()) {
		ret = io_uring_submit_and_wait(&ring, 1);
		if (ret < 0 && ret != -EINTR) {
			errno = -ret;
			err(1, "io_uring_submit_and_wait");
		}
	}
}

const bool call_has_uring = true;

#else

const bool call_has_uring;

static void ring_start(void) { }
static void ring_stop(void) { }
static void ring_queue(struct call *call) { (void)call; }
static void ring_submit(void) { }
static void ring_wait(struct call *call) { (void)call; }

#endif

void call_thread_start(void)
{
	if (bm.uring)
		ring_start();
}

void call_thread_stop(void)
{
	if (bm.uring)
		ring_stop();
}

/* In uring mode, the call must not be moved or changed until call_wait() returns */
void call_start(struct call *call)
{
	if (bm.madvise) {
		carry_out_by_hand(call);
		return;
	}
	call->params = (struct exmap_vectors) {
		.size = sizeof(call->params),
		.vec_size = sizeof(struct exmap_vec),
		.result_size = sizeof(struct exmap_result),
		.interface = self->interface,
		.nr = call->nr,
		.vecs = (unsigned long)call->vec,
		.results = (unsigned long)call->result,
	};
	if (bm.uring) {
		ring_queue(call);
		return;
	}
	call->ret = ioctl(bm.exmap_fd, EXMAP_IOCTL_VECTORS, &call->params);
	if (call->ret < 0)
		call->ret = -errno;
}

void call_submit(void)
{
	if (bm.uring)
		ring_submit();
}

/*
 * Check the results of all vectors. Returns false if memory was short, which is not an
 * error: when the call is repeated, it skips the pages that are done.
 */
static bool check_results(struct call *call)
{
	static const char * const name[] = { "READ", "ALLOC", "FREE", "WRITE" };
	const struct exmap_vec *vec = call->vec;
	const struct exmap_result *result;
	unsigned int i;

	if (call->ret == -ENOMEM)
		return false;	/* no vector was processed */
	if (call->ret < 0) {
		errno = -call->ret;
		err(1, "exmap call of %u vectors", call->nr);
	}
	for (i = 0; i < call->nr; i++, vec++) {
		result = &call->result[i];
		call->todo -= result->pages;
		if (!result->res || (result->res == -ENOMEM && vec->opcode != EXMAP_OP_WRITE))
			continue;
		errno = -result->res;
		err(1, "exmap %s of %u pages from %llu on in %s", name[vec->opcode], vec->len,
		    vec->page, bm.file);
	}
	if (!call->ret && call->todo)
		errx(1, "exmap: %lld pages were not there to be moved", call->todo);
	return !call->ret;
}

bool call_wait(struct call *call)
{
	if (bm.madvise)
		return true;
	if (bm.uring)
		ring_wait(call);
	return check_results(call);
}
