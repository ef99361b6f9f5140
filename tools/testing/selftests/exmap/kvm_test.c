// SPDX-License-Identifier: GPL-2.0
/*
 * The region as memory of a virtual machine. KVM maps the pages without a reference to
 * them, and relies on mmu notifiers to learn that a page is freed or cleaned.
 */
#include "common.h"
#include "backing.h"

#include <linux/kvm.h>

#define PAGES	16	/* size of a segment: 64 KiB */
#define BUFFER	8

#ifdef __x86_64__

#define CODE	0
#define WINDOW	0x10000	/* guest physical address of the region */
#define PORT	0x10

/* Loops that load AX from DS:BX, or store it there, and then write AX to PORT */
static const unsigned char guest_code[2][6] = {
	{ 0x8b, 0x07, 0xe7, PORT, 0xeb, 0xfa },
	{ 0x89, 0x07, 0xe7, PORT, 0xeb, 0xfa },
};

enum guest_call { GUEST_READ, GUEST_WRITE };

struct vm {
	int kvm, fd, vcpu;
	char *code;
	struct kvm_run *run;
	size_t run_size;
};

FIXTURE(kvm) {
	struct exmap ex;
	struct vm vm;
	int file;
};

FIXTURE_VARIANT(kvm) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(kvm, strict) {
};

FIXTURE_VARIANT_ADD(kvm, deferred) {
	.flags = EXMAP_SETUP_DEFERRED,
};

static int add_memory(int vm, unsigned int slot, __u64 guest, size_t size, void *addr)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = guest,
		.memory_size = size,
		.userspace_addr = (unsigned long)addr,
	};

	return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

FIXTURE_SETUP(kvm)
{
	struct kvm_sregs sregs;
	int backing;
	long end;

	self->vm.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (self->vm.kvm < 0)
		SKIP(return, "no /dev/kvm");
	backing = make_backing(_metadata, MEMFD, 64, &self->file, &end);
	ASSERT_LE(0, backing);
	exmap_create2(_metadata, &self->ex,
		      (struct exmap_setup2){ .fd = backing, .flags = variant->flags },
		      2, BUFFER, PAGES);
	close(backing);

	self->vm.fd = ioctl(self->vm.kvm, KVM_CREATE_VM, 0);
	ASSERT_LE(0, self->vm.fd);
	self->vm.code = mmap(NULL, PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->vm.code);
	memcpy(self->vm.code, guest_code, sizeof(guest_code));
	ASSERT_EQ(0, add_memory(self->vm.fd, 0, CODE, PG, self->vm.code));
	ASSERT_EQ(0, add_memory(self->vm.fd, 1, WINDOW, PAGES * PG, self->ex.region));

	self->vm.vcpu = ioctl(self->vm.fd, KVM_CREATE_VCPU, 0);
	ASSERT_LE(0, self->vm.vcpu);
	self->vm.run_size = ioctl(self->vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	self->vm.run = mmap(NULL, self->vm.run_size, PROT_READ | PROT_WRITE, MAP_SHARED,
			    self->vm.vcpu, 0);
	ASSERT_NE(MAP_FAILED, self->vm.run);
	ASSERT_EQ(0, ioctl(self->vm.vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	sregs.ds.base = WINDOW;
	sregs.ds.selector = WINDOW >> 4;
	ASSERT_EQ(0, ioctl(self->vm.vcpu, KVM_SET_SREGS, &sregs));
}

FIXTURE_TEARDOWN(kvm)
{
	munmap(self->vm.run, self->vm.run_size);
	close(self->vm.vcpu);
	close(self->vm.fd);
	close(self->vm.kvm);
	munmap(self->vm.code, PG);
	exmap_destroy(&self->ex);
	close(self->file);
}

/*
 * Let the guest read the 16 bits in which word_of() has the number of page @page, or
 * write @value to them. Returns the value that the guest has read or written, or -errno.
 */
static int guest(struct vm *vm, enum guest_call call, int page, int value)
{
	struct kvm_regs regs = {
		.rip = CODE + call * sizeof(guest_code[0]),
		.rbx = page * PG + 2,
		.rax = value,
		.rflags = 2,
	};

	if (ioctl(vm->vcpu, KVM_SET_REGS, &regs))
		return -errno;
	if (ioctl(vm->vcpu, KVM_RUN, 0))
		return -errno;
	if (vm->run->exit_reason != KVM_EXIT_IO || vm->run->io.port != PORT ||
	    vm->run->io.size != 2)
		return -EPROTO;
	return *(__u16 *)((char *)vm->run + vm->run->io.data_offset);
}

/*
 * Each FREE takes a different path in the driver: a call with one page, a call with many
 * vectors of one page, and a call with one vector of many pages.
 */
TEST_F(kvm, page_goes_away)
{
	struct exmap_result results[4];
	struct exmap_vec vecs[4];
	struct exmap *ex = &self->ex;
	int way, i;

	for (way = 0; way < 3; way++) {
		ASSERT_EQ(4, ex_one(ex, 0, EXMAP_OP_READ, 0, 4));
		for (i = 0; i < 4; i++) {
			EXPECT_EQ(i, guest(&self->vm, GUEST_READ, i, 0));
			vecs[i] = ex_vec(EXMAP_OP_FREE, i, 1, 0);
		}
		if (way == 0) {
			for (i = 0; i < 4; i++)
				EXPECT_EQ(1, ex_free(ex, 0, i, 1));
		} else if (way == 1) {
			EXPECT_EQ(0, ex_vectors(ex, 0, vecs, results, 4));
		} else {
			EXPECT_EQ(4, ex_free(ex, 0, 0, 4));
		}
		/* Put the freed pages into other slots */
		ASSERT_EQ(BUFFER, ex_one(ex, 0, EXMAP_OP_READ, 8, BUFFER));
		for (i = 0; i < 4; i++) {
			EXPECT_EQ(-EFAULT, guest(&self->vm, GUEST_READ, i, 0))
				TH_LOG("freed in way %d, but the guest can read it", way);
			EXPECT_EQ(8 + i, guest(&self->vm, GUEST_READ, 8 + i, 0));
		}
		EXPECT_EQ(BUFFER, ex_free(ex, 0, 8, BUFFER));
	}
}

/*
 * A page that the guest has written to is dirty. A page that it has only read may count as
 * dirty as well: KVM may map it writable at once, and cannot always tell the difference.
 */
TEST_F(kvm, what_the_guest_writes_is_dirty)
{
	struct exmap *ex = &self->ex;
	int round;

	ASSERT_EQ(1, ex_one(ex, 0, EXMAP_OP_READ, 3, 1));
	for (round = 0; round < 3; round++) {
		EXPECT_EQ(7 + round, guest(&self->vm, GUEST_WRITE, 3, 7 + round));
		EXPECT_EQ(1, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 3, 1, EXMAP_VEC_DIRTY))
			TH_LOG("round %d: not seen as dirty", round);
		EXPECT_EQ(0, ex_vec_one(ex, 0, EXMAP_OP_WRITE, 3, 1, EXMAP_VEC_DIRTY));
	}
}

struct evictor {
	bool stop;
	long rounds;
};

static void *evict(void *arg)
{
	struct worker *w = arg;
	struct evictor *e = w->arg;
	int ret, page;

	while (!__atomic_load_n(&e->stop, __ATOMIC_RELAXED)) {
		page = random_below(&w->random, PAGES);
		ret = ex_one(w->ex, 1, EXMAP_OP_READ, page, 1);
		if (BROKE(w, ret < 0 && ret != -ENOMEM, ret))
			break;
		ret = ex_free(w->ex, 1, random_below(&w->random, PAGES), 1);
		if (BROKE(w, ret < 0, ret))
			break;
		e->rounds++;
	}
	return NULL;
}

TEST_F_TIMEOUT(kvm, guest_beside_eviction, SLOW)
{
	struct evictor e = {};
	int i, ret, seen = 0, missed = 0;
	__u64 random = 4711;
	struct worker w;

	start_workers(_metadata, &w, 1, evict, &self->ex, &e);
	for (i = scaled(20000); i > 0; i--) {
		const int page = random_below(&random, PAGES);

		ret = guest(&self->vm, GUEST_READ, page, 0);
		seen += ret == page;
		missed += ret == -EFAULT;
		if (ret != page && ret != -EFAULT)
			break;
	}
	__atomic_store_n(&e.stop, true, __ATOMIC_RELAXED);
	EXPECT_EQ(0, i)
		TH_LOG("the guest got %d", ret);
	EXPECT_LT(0, seen);
	EXPECT_LT(0, missed);
	EXPECT_LT(0, e.rounds);
	join_workers(_metadata, &w, 1);
}

#else

TEST(kvm)
{
	SKIP(return, "there is guest code for x86-64 only");
}

#endif

TEST_HARNESS_MAIN
