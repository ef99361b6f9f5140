// SPDX-License-Identifier: GPL-2.0
/*
 * Unusual ways to use a disk: polling for completions, NVMe passthrough, blocks larger
 * than a page, and checksums of data that may change while it is written.
 */
#include "common.h"
#include "backing.h"
#include "nullb.h"
#include "uring.h"

#include <linux/dm-ioctl.h>
#include <linux/nvme_ioctl.h>
#include <stddef.h>
#include <sys/sysmacros.h>

#define FILE_PAGES	64
#define BUFFER		16
#define PAGES		256

/* Rings that are polled for completions (IORING_SETUP_IOPOLL) */

FIXTURE(polled) {
	struct nullb disk;
	struct exmap ex;
	struct ring ring;
	int fd;
};

FIXTURE_VARIANT(polled) {
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(polled, ring) {};

FIXTURE_VARIANT_ADD(polled, defer_taskrun) {
	.flags = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
};

FIXTURE_SETUP(polled)
{
	int ret;

	catch_faults();
	ret = ring_open_flags(&self->ring, 16, IORING_SETUP_IOPOLL | variant->flags);
	if (ret)
		SKIP(return, "no such ring here: %s", strerror(-ret));
	if (nullb_create(&self->disk, "disk_test", 20000000, NULL))
		SKIP(return, "no null_blk through configfs: %s", strerror(errno));
	self->fd = open(self->disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, fill_file(self->fd, FILE_PAGES));
	exmap_create(_metadata, &self->ex, self->fd, 2, BUFFER, PAGES);
}

FIXTURE_TEARDOWN(polled)
{
	struct exmap *ex = &self->ex;

	ring_close(&self->ring);
	EXPECT_LE(0, ex_drain(ex, 0, 0, PAGES));
	EXPECT_EQ(BUFFER, fill_in_time(ex, 1, 0, BUFFER));
	exmap_destroy(ex);
	close(self->fd);
	nullb_destroy(&self->disk);
}

/* Calls of vectors complete without being polled for, so a polled ring accepts them */
TEST_F(polled, commands_complete_once)
{
	struct exmap *ex = &self->ex;
	struct command c;
	int i;

	/* A call without transfers, which is complete when it has been submitted */
	command_init(&c, 0);
	command_add(&c, EXMAP_OP_ALLOC, 0, 4, 0);
	prep_command(ring_sqe(&self->ring), ex->fd, &c);
	EXPECT_EQ(0, ring_run(&self->ring));
	EXPECT_EQ(4, (int)c.results[0].pages);
	EXPECT_TRUE(ring_stays_empty(&self->ring));

	/* A call with transfers in both directions */
	for (i = 0; i < 4; i++)
		renew(ex, i);
	command_init(&c, 0);
	command_add(&c, EXMAP_OP_WRITE, 0, 4, 0);
	command_add(&c, EXMAP_OP_READ, 10, 6, 0);
	prep_command(ring_sqe(&self->ring), ex->fd, &c);
	EXPECT_EQ(0, ring_run(&self->ring));
	EXPECT_EQ(4, (int)c.results[0].pages);
	EXPECT_EQ(6, (int)c.results[1].pages);
	EXPECT_TRUE(ring_stays_empty(&self->ring));
	for (i = 0; i < 4; i++)
		EXPECT_TRUE(file_has(self->fd, i, NEW(i)));
	for (i = 10; i < 16; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), i));

	/* A call with a vector that fails, and a call that is refused */
	command_init(&c, 1);
	command_add(&c, EXMAP_OP_WRITE, 3, 2, 0);
	prep_command(ring_sqe(&self->ring), ex->fd, &c);
	EXPECT_EQ(1, ring_run(&self->ring));
	EXPECT_EQ(-EFAULT, c.results[0].res);
	EXPECT_TRUE(ring_stays_empty(&self->ring));
	c.params.interface = 2;
	prep_command(ring_sqe(&self->ring), ex->fd, &c);
	EXPECT_EQ(-EINVAL, ring_run(&self->ring));
	EXPECT_TRUE(ring_stays_empty(&self->ring));
}

/* The process exits, closes the ring or is killed while calls of vectors are in flight */
TEST_F(polled, ends_with_commands_in_flight)
{
	static const int expected[] = { 0, 0, 128 + SIGKILL };
	struct command c[4];
	struct exmap ex;
	int how, i;
	pid_t pid;

	for (how = 0; how < (int)ARRAY_SIZE(expected); how++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			struct ring ring = { .fd = -1 };

			exmap_create(_metadata, &ex, self->fd, 1, BUFFER, PAGES);
			if (ring_open_flags(&ring, 16, IORING_SETUP_IOPOLL | variant->flags))
				_exit(100);
			for (i = 0; i < 4; i++) {
				command_init(&c[i], 0);
				command_add(&c[i], EXMAP_OP_READ, 4 * i, 4, 0);
				prep_command(ring_sqe(&ring), ex.fd, &c[i]);
			}
			if (ring_submit(&ring) != 4)
				_exit(101);
			if (how == 1)
				ring_close(&ring);
			if (how == 2)
				kill(getpid(), SIGKILL);
			_exit(0);
		}
		EXPECT_EQ(expected[how], wait_child_for(pid, 60));
	}
}

/* A polled request of the disk, from or to a page of the region */
static void prep_disk(struct ring *ring, int fd, bool write, void *page, long block)
{
	prep_rw(ring_sqe(ring), write ? IORING_OP_WRITE : IORING_OP_READ, fd, block * PG, page,
		PG);
}

/*
 * A polled request stays in flight until the ring is polled. A FREE during a polled write
 * parks the page: it is not reused for another slot, so that its content is unchanged
 * when the disk reads it.
 */
TEST_F(polled, freed_under_polled_writes)
{
	struct exmap *ex = &self->ex;
	char path[96], poll[8];
	struct command c;
	int i;

	snprintf(path, sizeof(path), "/sys/block/%s/queue/io_poll", self->disk.name);
	read_line(path, poll, sizeof(poll));
	if (strcmp(poll, "1"))
		SKIP(return, "the disk has no queue to poll");
	ASSERT_EQ(8, ex_alloc(ex, 0, 0, 8));
	for (i = 0; i < 8; i++) {
		renew(ex, i);
		prep_disk(&self->ring, self->fd, true, page_at(ex, i), i);
	}
	ASSERT_EQ(8, ring_submit(&self->ring));
	EXPECT_EQ(8, ex_free(ex, 1, 0, 8));
	EXPECT_EQ(BUFFER - 8, ex_fill(ex, 0, 100));
	memset(page_at(ex, 100), 0xee, (BUFFER - 8) * PG);
	EXPECT_FALSE(ring_has_cqe(&self->ring));

	for (i = 0; i < 8; i++)
		EXPECT_EQ((int)PG, ring_wait(&self->ring));
	EXPECT_TRUE(ring_stays_empty(&self->ring));
	for (i = 0; i < 8; i++)
		EXPECT_TRUE(file_has(self->fd, i, NEW(i)));
	EXPECT_EQ(8, fill_in_time(ex, 1, 0, 8));
	EXPECT_EQ(-ENOMEM, ex_alloc(ex, 0, 50, 1));

	/* A polled write and a call of vectors in the same ring both complete */
	prep_disk(&self->ring, self->fd, true, page_at(ex, 3), 3);
	command_init(&c, 0);
	command_add(&c, EXMAP_OP_FREE, 0, 8, 0);
	command_add(&c, EXMAP_OP_READ, 20, 5, 0);
	prep_command(ring_sqe(&self->ring), ex->fd, &c);
	ASSERT_EQ(2, ring_submit(&self->ring));
	EXPECT_EQ((int)PG, ring_wait(&self->ring) + ring_wait(&self->ring));
	EXPECT_TRUE(ring_stays_empty(&self->ring));
	EXPECT_EQ(8, (int)c.results[0].pages);
	EXPECT_EQ(5, (int)c.results[1].pages);
	for (i = 20; i < 25; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), i));
}

/* If a page is freed during a polled read, the data that arrives appears in no slot */
TEST_F(polled, freed_under_polled_reads)
{
	struct exmap *ex = &self->ex;
	int i, mapped;

	ASSERT_EQ(8, ex_alloc(ex, 0, 0, 8));
	for (i = 0; i < 8; i++)
		prep_disk(&self->ring, self->fd, false, page_at(ex, i), i);
	ASSERT_EQ(8, ring_submit(&self->ring));
	EXPECT_EQ(8, ex_free(ex, 1, 0, 8));
	/* Fill the freed slots; their pages must not be those that reads still write to */
	mapped = fill_now(ex, 0, 0, BUFFER);
	for (i = 0; i < mapped; i++)
		stamp_page(page_at(ex, i), i);
	for (i = 0; i < 8; i++)
		EXPECT_EQ((int)PG, ring_wait(&self->ring));
	EXPECT_TRUE(ring_stays_empty(&self->ring));
	EXPECT_LE(BUFFER - 8, mapped);
	for (i = 0; i < mapped; i++)
		EXPECT_TRUE(stamp_intact(page_at(ex, i), i));

	/* A polled read fills a page that stays resident, and fails for an empty slot */
	prep_disk(&self->ring, self->fd, false, page_at(ex, 2), 40);
	EXPECT_EQ((int)PG, ring_run(&self->ring));
	EXPECT_TRUE(page_is(page_at(ex, 2), 40));
	prep_disk(&self->ring, self->fd, false, page_at(ex, 200), 40);
	EXPECT_EQ(-EFAULT, ring_run(&self->ring));
	EXPECT_FALSE(present(page_at(ex, 200)));
}

/*
 * NVMe passthrough: the program sends its own commands to the disk, with pages of the
 * region as buffers. The tests overwrite the disk that EXMAP_TEST_NVME names.
 */

FIXTURE(passthrough) {
	struct exmap ex;
	int fd;
	int nsid;
	int block_size;
};

FIXTURE_SETUP(passthrough)
{
	const char *path = getenv("EXMAP_TEST_NVME");

	catch_faults();
	if (!path)
		SKIP(return, "EXMAP_TEST_NVME does not name a disk");
	self->fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (self->fd < 0)
		SKIP(return, "%s: %s", path, strerror(errno));
	self->nsid = ioctl(self->fd, NVME_IOCTL_ID);
	if (self->nsid < 1)
		SKIP(return, "%s is no NVMe disk", path);
	ASSERT_EQ(0, ioctl(self->fd, BLKSSZGET, &self->block_size));
	ASSERT_EQ(0, fill_file(self->fd, FILE_PAGES));
	exmap_create(_metadata, &self->ex, self->fd, 2, BUFFER, PAGES);
}

FIXTURE_TEARDOWN(passthrough)
{
	struct exmap *ex = &self->ex;

	EXPECT_LE(0, ex_drain(ex, 0, 0, PAGES));
	EXPECT_EQ(BUFFER, fill_in_time(ex, 1, 0, BUFFER));
	exmap_destroy(ex);
	close(self->fd);
}

#define NVME_WRITE	1
#define NVME_READ	2

/* Send a command to the disk. Returns its status, or -errno. */
static int pass_through(int fd, int nsid, int block_size, int opcode, void *addr, int pages,
			long page)
{
	const __u64 block = page * PG / block_size;
	struct nvme_passthru_cmd cmd = {
		.opcode = opcode,
		.nsid = nsid,
		.addr = (unsigned long)addr,
		.data_len = pages * PG,
		.cdw10 = block,
		.cdw11 = block >> 32,
		.cdw12 = pages * PG / block_size - 1,
	};

	return ex_ioctl(fd, NVME_IOCTL_IO_CMD, &cmd);
}

#define PASS_THROUGH(opcode, addr, pages, page)	\
	pass_through(self->fd, self->nsid, self->block_size, opcode, addr, pages, page)

TEST_F(passthrough, resident_slots)
{
	struct exmap *ex = &self->ex;
	int i;

	ASSERT_EQ(8, ex_alloc(ex, 0, 30, 8));
	EXPECT_EQ(0, PASS_THROUGH(NVME_READ, page_at(ex, 30), 8, 10));
	for (i = 0; i < 8; i++)
		EXPECT_TRUE(page_is(page_at(ex, 30 + i), 10 + i));
	for (i = 0; i < 8; i++)
		renew(ex, 30 + i);
	EXPECT_EQ(0, PASS_THROUGH(NVME_WRITE, page_at(ex, 30), 8, 30));
	EXPECT_EQ(8, ex_free(ex, 0, 30, 8));
	EXPECT_EQ(8, ex_one(ex, 1, EXMAP_OP_READ, 30, 8));
	for (i = 0; i < 8; i++)
		EXPECT_TRUE(page_is(page_at(ex, 30 + i), NEW(30 + i)));
}

TEST_F(passthrough, empty_slots)
{
	struct exmap *ex = &self->ex;

	EXPECT_EQ(-EFAULT, PASS_THROUGH(NVME_READ, page_at(ex, 30), 1, 0));
	EXPECT_EQ(-EFAULT, PASS_THROUGH(NVME_WRITE, page_at(ex, 30), 1, 0));
	EXPECT_EQ(0, count_present(ex, 0, PAGES));
	ASSERT_EQ(3, ex_alloc(ex, 0, 30, 3));
	make_page((__u64 *)page_at(ex, 32), 77);
	EXPECT_EQ(-EFAULT, PASS_THROUGH(NVME_WRITE, page_at(ex, 32), 2, 0));
	EXPECT_EQ(-EFAULT, PASS_THROUGH(NVME_READ, page_at(ex, 32), 2, 0));
	EXPECT_TRUE(page_is(page_at(ex, 32), 77));
	EXPECT_TRUE(file_has(self->fd, 0, 0));
	EXPECT_EQ(3, count_present(ex, 0, PAGES));
}

struct reader {
	int fd, nsid, block_size;
	int stop;
};

/* A thread that keeps reading into slots 0 to 3, whether they are resident or not */
static void *keep_reading(void *arg)
{
	struct worker *w = arg;
	struct reader *r = w->arg;
	int ret;

	while (!__atomic_load_n(&r->stop, __ATOMIC_SEQ_CST)) {
		ret = pass_through(r->fd, r->nsid, r->block_size, NVME_READ, w->ex->region, 4, 20);
		if (BROKE(w, ret && ret != -EFAULT, ret))
			break;
	}
	return NULL;
}

TEST_F_TIMEOUT(passthrough, freed_under_reads, SLOW)
{
	struct reader reader = {
		.fd = self->fd, .nsid = self->nsid, .block_size = self->block_size,
	};
	struct exmap *ex = &self->ex;
	struct worker w[2];
	int round, i, mapped;

	start_workers(_metadata, w, 2, keep_reading, ex, &reader);
	for (round = 0; round < scaled(100); round++) {
		mapped = fill_now(ex, 0, 0, 4);
		usleep(random_below(&w[0].random, 500));
		EXPECT_EQ(mapped, ex_free(ex, 0, 0, 4));
		mapped = fill_now(ex, 1, 100, BUFFER);
		for (i = 0; i < mapped; i++)
			stamp_page(page_at(ex, 100 + i), round);
		usleep(500);
		for (i = 0; i < mapped; i++)
			EXPECT_TRUE(stamp_intact(page_at(ex, 100 + i), round));
		EXPECT_EQ(mapped, ex_drain(ex, 0, 100, BUFFER));
	}
	__atomic_store_n(&reader.stop, 1, __ATOMIC_SEQ_CST);
	join_workers(_metadata, w, 2);
}

/* A disk with blocks of 16 KiB: only direct transfers must consist of whole blocks */

#define LARGE_BLOCK	(16 << 10)
#define BLOCK		((int)(LARGE_BLOCK / PG))

FIXTURE(large_blocks) {
	struct exmap ex;
	int fd;			/* opened for buffered I/O */
	int backing;
};

FIXTURE_VARIANT(large_blocks) {
	bool direct;
};

FIXTURE_VARIANT_ADD(large_blocks, direct) { .direct = true };
FIXTURE_VARIANT_ADD(large_blocks, buffered) {};

FIXTURE_SETUP(large_blocks)
{
	int loop, size = 0;

	catch_faults();
	loop = open_loop_of(FILE_PAGES, LARGE_BLOCK);
	/* BLKBSZSET: the page cache still uses the block size from when it was opened */
	if (loop < 0 || ioctl(loop, BLKSSZGET, &size) || size != LARGE_BLOCK ||
	    ioctl(loop, BLKBSZSET, &size))
		SKIP(return, "no loop device with such blocks");
	self->backing = reopen(loop, O_RDWR | (variant->direct ? O_DIRECT : 0));
	self->fd = reopen(loop, O_RDWR);
	ASSERT_LE(0, self->backing);
	ASSERT_LE(0, self->fd);
	close(loop);
	ASSERT_EQ(0, fill_file(self->fd, FILE_PAGES));
	exmap_create(_metadata, &self->ex, self->backing, 2, BUFFER, PAGES);
}

FIXTURE_TEARDOWN(large_blocks)
{
	struct exmap *ex = &self->ex;

	EXPECT_LE(0, ex_drain(ex, 0, 0, PAGES));
	EXPECT_EQ(BUFFER, ex_fill(ex, 1, 0));
	exmap_destroy(ex);
	close(self->backing);
	close(self->fd);
}

TEST_F(large_blocks, whole)
{
	struct exmap *ex = &self->ex;
	const int first = 2 * BLOCK, pages = 2 * BLOCK;
	struct exmap_vec vecs[2] = {
		ex_vec(EXMAP_OP_READ, 6 * BLOCK, BLOCK, 0),
		ex_vec(EXMAP_OP_READ, 9 * BLOCK, BLOCK, 0),
	};
	struct exmap_result results[2];
	int i;

	EXPECT_EQ(pages, ex_one(ex, 0, EXMAP_OP_READ, first, pages));
	for (i = first; i < first + pages; i++) {
		EXPECT_TRUE(page_is(page_at(ex, i), i));
		renew(ex, i);
	}
	EXPECT_EQ(pages, ex_vec_one(ex, 0, EXMAP_OP_WRITE, first, pages,
				    EXMAP_VEC_DIRTY | EXMAP_VEC_DSYNC));
	for (i = first; i < first + pages; i++)
		EXPECT_TRUE(file_has(self->fd, i, NEW(i)));
	memset(page_at(ex, first), 0xee, pages * PG);
	EXPECT_EQ(BLOCK, ex_vec_one(ex, 0, EXMAP_OP_READ, first, BLOCK, EXMAP_VEC_REPLACE));
	EXPECT_TRUE(page_is(page_at(ex, first), NEW(first)));
	EXPECT_EQ(pages, ex_free(ex, 0, first, pages));
	EXPECT_EQ(0, ex_vectors(ex, 0, vecs, results, 2));
	EXPECT_EQ(BLOCK, (int)results[0].pages);
	EXPECT_EQ(BLOCK, (int)results[1].pages);
	EXPECT_TRUE(page_is(page_at(ex, 10 * BLOCK - 1), 10 * BLOCK - 1));
	EXPECT_EQ(BLOCK, ex_one(ex, 1, EXMAP_OP_WRITE, 6 * BLOCK, BLOCK));
}

/* A direct transfer of a part of a block is refused by the disk and changes nothing */
TEST_F(large_blocks, parts)
{
	const int expected = variant->direct ? -EINVAL : 1;
	struct exmap *ex = &self->ex;
	int i;

	for (i = 0; i < BLOCK; i++) {
		EXPECT_EQ(expected, ex_one(ex, 0, EXMAP_OP_READ, 5 * BLOCK + i, 1));
		EXPECT_EQ(!variant->direct, present(page_at(ex, 5 * BLOCK + i)));
	}
	EXPECT_LE(0, ex_drain(ex, 0, 5 * BLOCK, BLOCK));
	ASSERT_EQ(BLOCK, ex_alloc(ex, 0, 8, BLOCK));
	for (i = 8; i < 8 + BLOCK; i++)
		renew(ex, i);
	EXPECT_EQ(expected, ex_one(ex, 0, EXMAP_OP_WRITE, 9, 1));
	EXPECT_EQ(expected, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 10, 1, EXMAP_VEC_DIRTY));
	EXPECT_TRUE(file_has(self->fd, 9, variant->direct ? 9 : NEW(9)));
	EXPECT_TRUE(file_has(self->fd, 10, variant->direct ? 10 : NEW(10)));
	/* A page that could not be written is still dirty */
	EXPECT_EQ(variant->direct ? BLOCK : BLOCK - 1,
		  ex_vec_one(ex, 0, EXMAP_OP_WRITE, 8, BLOCK, EXMAP_VEC_DIRTY));
	for (i = 8; i < 8 + BLOCK; i++)
		EXPECT_TRUE(file_has(self->fd, i, NEW(i)));
}

/*
 * Pages that change while they are written, as they do in a buffer manager that does not
 * lock pages for a checkpoint. If the disk or the file system stores checksums, these must
 * match the data that was stored, or reading it would fail with EIO.
 */

enum unstable_kind { UNSTABLE_FILE, UNSTABLE_XFS, UNSTABLE_BTRFS, UNSTABLE_INTEGRITY };

FIXTURE(unstable) {
	struct exmap ex;
	struct nullb disk;
	char mapped[32];	/* name of the device-mapper device on the disk */
	int fd;			/* opened for direct I/O */
	int backing;
};

FIXTURE_VARIANT(unstable) {
	enum unstable_kind kind;
	bool direct;
	bool no_checksums;
};

FIXTURE_VARIANT_ADD(unstable, direct) { .direct = true };
FIXTURE_VARIANT_ADD(unstable, buffered) {};
FIXTURE_VARIANT_ADD(unstable, xfs_direct) { .kind = UNSTABLE_XFS, .direct = true };
FIXTURE_VARIANT_ADD(unstable, btrfs_direct) { .kind = UNSTABLE_BTRFS, .direct = true };
FIXTURE_VARIANT_ADD(unstable, btrfs_buffered) { .kind = UNSTABLE_BTRFS };

FIXTURE_VARIANT_ADD(unstable, btrfs_direct_without_checksums) {
	.kind = UNSTABLE_BTRFS,
	.direct = true,
	.no_checksums = true,
};

FIXTURE_VARIANT_ADD(unstable, integrity_direct) {
	.kind = UNSTABLE_INTEGRITY,
	.direct = true,
};

FIXTURE_VARIANT_ADD(unstable, integrity_buffered) { .kind = UNSTABLE_INTEGRITY };

/* A request to the device mapper, with a table of one line */
struct mapper_request {
	struct dm_ioctl head;
	struct dm_target_spec target;
	char parameters[128];
};

static int mapper_ioctl(unsigned long cmd, struct mapper_request *request, const char *name)
{
	const int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return -errno;
	request->head.version[0] = DM_VERSION_MAJOR;
	request->head.data_size = sizeof(*request);
	request->head.data_start = offsetof(struct mapper_request, target);
	snprintf(request->head.name, sizeof(request->head.name), "%s", name);
	ret = ex_ioctl(fd, cmd, request);
	close(fd);
	return ret;
}

static void mapper_destroy(const char *name)
{
	struct mapper_request request = {};

	mapper_ioctl(DM_DEV_REMOVE, &request, name);
}

/*
 * Create a dm-integrity device on half of a disk of zeroes, which makes dm-integrity
 * format it. Data goes through a journal, and the checksum is that of the copy in the
 * journal. Returns a descriptor that is open for direct I/O, or -1.
 */
static int integrity_create(const char *name, const struct nullb *disk)
{
	struct mapper_request request = {};
	char path[32];
	int fd = -1, i;

	if (mapper_ioctl(DM_DEV_CREATE, &request, name))
		return -1;
	snprintf(path, sizeof(path), "/dev/dm-%d", minor(request.head.dev));
	memset(&request, 0, sizeof(request));
	request.head.target_count = 1;
	request.target.length = (8 << 20) / 512;
	request.target.next = sizeof(request.target) + sizeof(request.parameters);
	snprintf(request.target.target_type, sizeof(request.target.target_type), "integrity");
	snprintf(request.parameters, sizeof(request.parameters),
		 "%s 0 - J 2 internal_hash:crc32c block_size:4096", disk->path);
	if (mapper_ioctl(DM_TABLE_LOAD, &request, name))
		goto out;
	memset(&request, 0, sizeof(request));
	/* DM_DEV_SUSPEND without DM_SUSPEND_FLAG resumes the device */
	if (mapper_ioctl(DM_DEV_SUSPEND, &request, name))
		goto out;
	for (i = 0; i < 500 && fd < 0; i++) {
		fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
		if (fd < 0)
			usleep(10000);
	}
out:
	if (fd < 0)
		mapper_destroy(name);
	return fd;
}

static int open_unstable(enum unstable_kind kind, bool no_checksums)
{
	int fd, flags, direct;

	fd = kind == UNSTABLE_XFS ? open_xfs_file() :
	     kind == UNSTABLE_BTRFS ? open_file_on("EXMAP_TEST_BTRFS", BTRFS_SUPER_MAGIC) :
	     open_file();
	if (fd < 0)
		return -1;
	if (no_checksums && !ioctl(fd, FS_IOC_GETFLAGS, &flags)) {
		flags |= FS_NOCOW_FL;
		if (ioctl(fd, FS_IOC_SETFLAGS, &flags)) {
			close(fd);
			return -1;
		}
	}
	direct = ftruncate(fd, FILE_PAGES * PG) ? -1 : reopen(fd, O_RDWR | O_DIRECT);
	close(fd);
	return direct;
}

FIXTURE_SETUP(unstable)
{
	catch_faults();
	if (variant->kind == UNSTABLE_INTEGRITY) {
		if (nullb_create(&self->disk, "disk_test", 0, NULL))
			SKIP(return, "no null_blk through configfs: %s", strerror(errno));
		snprintf(self->mapped, sizeof(self->mapped), "exmap_test_%d", getpid());
		self->fd = integrity_create(self->mapped, &self->disk);
		if (self->fd < 0) {
			nullb_destroy(&self->disk);
			SKIP(return, "no dm-integrity: %s", strerror(errno));
		}
	} else {
		self->fd = open_unstable(variant->kind, variant->no_checksums);
		if (self->fd < 0)
			SKIP(return, "no such file here");
	}
	ASSERT_EQ(0, fill_file(self->fd, FILE_PAGES));
	self->backing = reopen(self->fd, O_RDWR | (variant->direct ? O_DIRECT : 0));
	ASSERT_LE(0, self->backing);
	exmap_create(_metadata, &self->ex, self->backing, 2, FILE_PAGES, PAGES);
}

FIXTURE_TEARDOWN(unstable)
{
	struct exmap *ex = &self->ex;

	EXPECT_LE(0, ex_drain(ex, 0, 0, PAGES));
	EXPECT_EQ(FILE_PAGES, ex_fill(ex, 1, 0));
	exmap_destroy(ex);
	close(self->backing);
	close(self->fd);
	if (variant->kind == UNSTABLE_INTEGRITY) {
		mapper_destroy(self->mapped);
		nullb_destroy(&self->disk);
	}
}

/* A thread that keeps changing random words of all pages */
static void *change_pages(void *arg)
{
	struct worker *w = arg;
	int *stop = w->arg;
	__u64 *word;

	while (!__atomic_load_n(stop, __ATOMIC_SEQ_CST)) {
		word = (__u64 *)page_at(w->ex, random_below(&w->random, FILE_PAGES));
		__atomic_store_n(word + random_below(&w->random, WORDS),
				 random_u64(&w->random), __ATOMIC_RELAXED);
	}
	return NULL;
}

TEST_F_TIMEOUT(unstable, changed_under_write, SLOW)
{
	static alignas(4096) char file[FILE_PAGES * PG];
	struct exmap *ex = &self->ex;
	struct worker w[2];
	int round, i, stop = 0;

	ASSERT_EQ(FILE_PAGES, ex_one(ex, 0, EXMAP_OP_READ, 0, FILE_PAGES));
	start_workers(_metadata, w, 2, change_pages, ex, &stop);
	for (round = 0; round < scaled(50); round++) {
		/* Without EXMAP_VEC_DIRTY, the call writes all pages */
		EXPECT_EQ(FILE_PAGES, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 0, FILE_PAGES,
						 round % 2 ? EXMAP_VEC_DSYNC : 0));
		if (round % 4 == 3)
			EXPECT_EQ((ssize_t)(FILE_PAGES * PG), pread(self->fd, file,
								    FILE_PAGES * PG, 0));
	}
	__atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
	join_workers(_metadata, w, 2);

	/* Read back the content of the last WRITE during which pages changed */
	EXPECT_EQ(FILE_PAGES, ex_drain(ex, 0, 0, FILE_PAGES));
	EXPECT_EQ(FILE_PAGES, ex_one(ex, 1, EXMAP_OP_READ, 0, FILE_PAGES));
	for (i = 0; i < FILE_PAGES; i++)
		renew(ex, i);
	EXPECT_EQ(FILE_PAGES, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 0, FILE_PAGES, EXMAP_VEC_DIRTY));
	EXPECT_EQ(FILE_PAGES, ex_drain(ex, 0, 0, FILE_PAGES));
	EXPECT_EQ(FILE_PAGES, ex_one(ex, 1, EXMAP_OP_READ, 0, FILE_PAGES));
	for (i = 0; i < FILE_PAGES; i++)
		EXPECT_TRUE(page_is(page_at(ex, i), NEW(i)));
}

TEST_HARNESS_MAIN
