// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long vma_batch_map_each() and vma_batch_unmap_each() take without the TLB flush, in
 * a VMA whose page tables fit in the caches of the CPU and in one whose page tables do
 * not. An emulated CPU has no caches, but user-mode Linux runs this on the real one.
 */
#include <kunit/test.h>
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/sizes.h>
#include <linux/sort.h>
#include <linux/vma_batch.h>

#define MAX_BATCH	512
#define ROUNDS		2001

struct bench_param {
	const char *name;
	unsigned long size;		/* of the VMA, in bytes; a power of two */
	unsigned int nr_pages;		/* mapped at any time; a power of two */
	unsigned int batch;
};

static const struct bench_param bench_params[] = {
	{ "warm, 512 addresses", SZ_128M, 4096, 512 },
	{ "warm, 64 addresses", SZ_128M, 4096, 64 },
	{ "cold, 512 addresses", 512UL * SZ_1G, 1 << 19, 512 },
	{ "cold, 64 addresses", 512UL * SZ_1G, 1 << 19, 64 },
};

KUNIT_ARRAY_PARAM_DESC(bench, bench_params, name);

struct bench {
	const struct bench_param *param;
	struct vm_area_struct *vma;
	struct page **pages;
	unsigned long *addrs;		/* where pages are mapped, oldest first; a ring */
	unsigned int oldest;
	unsigned long slot;		/* the last one that was chosen */
	struct page *batch_pages[MAX_BATCH];
	unsigned long batch_addrs[MAX_BATCH];
	u64 map_ticks[ROUNDS];
	u64 unmap_ticks[ROUNDS];
};

static u64 ticks(void)
{
#ifdef __x86_64__
	u32 low, high;

	/* User-mode Linux has no function for this */
	asm volatile("rdtsc" : "=a" (low), "=d" (high));
	return low | (u64)high << 32;
#else
	return ktime_get_ns();
#endif
}

static int bench_mmap_prepare(struct vm_area_desc *desc)
{
	vma_desc_set_flags(desc, VMA_MIXEDMAP_BIT, VMA_DONTEXPAND_BIT, VMA_DONTCOPY_BIT);
	return 0;
}

static const struct file_operations bench_fops = {
	.mmap_prepare	= bench_mmap_prepare,
};

/*
 * Choose a slot: any slot is chosen once before one is chosen again, in an order that
 * looks random as far as page tables and cache lines are concerned.
 */
static unsigned long next_address(struct bench *b)
{
	b->slot = b->slot * 6364136223846793005UL + 1442695040888963407UL;
	b->slot &= (b->param->size >> PAGE_SHIFT) - 1;
	return b->vma->vm_start + b->slot * PAGE_SIZE;
}

/* The flush would take longer than all the rest in user-mode Linux */
static void end_without_flush(struct vma_batch *vb)
{
	vb->flush_start = ULONG_MAX;
	vb->flush_end = 0;
	vma_batch_end(vb);
}

static u64 map_batch(struct kunit *test, struct bench *b, unsigned int nr)
{
	struct vma_batch vb;
	unsigned int done;
	u64 start, end;

	vma_batch_begin(&vb, b->vma, b->batch_pages, nr, MAX_BATCH);
	start = ticks();
	done = vma_batch_map_each(&vb, b->batch_addrs, nr);
	end = ticks();
	end_without_flush(&vb);
	KUNIT_EXPECT_EQ(test, nr, done);
	KUNIT_EXPECT_EQ(test, 0, vb.nr);
	return end - start;
}

static u64 unmap_batch(struct kunit *test, struct bench *b, unsigned int nr)
{
	struct vma_batch vb;
	unsigned int done, i, references = 0;
	u64 start, end;

	vma_batch_begin(&vb, b->vma, b->batch_pages, 0, MAX_BATCH);
	start = ticks();
	done = vma_batch_unmap_each(&vb, b->batch_addrs, nr);
	/* Who gets pages back has to look at their reference counts */
	for (i = 0; i < vb.nr; i++)
		references += page_count(vb.pages[i]);
	end = ticks();
	end_without_flush(&vb);
	KUNIT_EXPECT_EQ(test, nr, done);
	KUNIT_EXPECT_EQ(test, nr, vb.nr);
	KUNIT_EXPECT_EQ(test, nr, references);
	return end - start;
}

/* Map a page in each page table once, so that no table is allocated later */
static void make_tables(struct kunit *test, struct bench *b)
{
	unsigned long addr;

	b->batch_pages[0] = b->pages[0];
	for (addr = b->vma->vm_start; addr != b->vma->vm_end; addr += PMD_SIZE) {
		b->batch_addrs[0] = addr;
		map_batch(test, b, 1);
		unmap_batch(test, b, 1);
	}
}

static void fill(struct kunit *test, struct bench *b)
{
	unsigned int i, k;

	for (i = 0; i < b->param->nr_pages; i += b->param->batch) {
		for (k = 0; k < b->param->batch; k++) {
			b->batch_pages[k] = b->pages[i + k];
			b->batch_addrs[k] = next_address(b);
			b->addrs[i + k] = b->batch_addrs[k];
		}
		map_batch(test, b, b->param->batch);
	}
}

/* Unmap the pages that were mapped first */
static u64 unmap_oldest(struct kunit *test, struct bench *b)
{
	memcpy(b->batch_addrs, b->addrs + b->oldest,
	       b->param->batch * sizeof(b->batch_addrs[0]));
	return unmap_batch(test, b, b->param->batch);
}

static void exchange(struct kunit *test, struct bench *b, unsigned int round)
{
	const unsigned int batch = b->param->batch;
	unsigned int i;

	b->unmap_ticks[round] = unmap_oldest(test, b);
	for (i = 0; i < batch; i++) {
		b->batch_addrs[i] = next_address(b);
		b->addrs[b->oldest + i] = b->batch_addrs[i];
	}
	b->map_ticks[round] = map_batch(test, b, batch);
	b->oldest = (b->oldest + batch) % b->param->nr_pages;
}

static int compare(const void *a, const void *b)
{
	const u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return (x > y) - (x < y);
}

static u64 median(u64 *samples)
{
	sort(samples, ROUNDS, sizeof(*samples), compare, NULL);
	return samples[ROUNDS / 2];
}

static void free_pages_action(void *data)
{
	struct bench *b = data;
	unsigned int i;

	for (i = 0; b->pages && i < b->param->nr_pages && b->pages[i]; i++)
		__free_page(b->pages[i]);
	kvfree(b->pages);
	kvfree(b->addrs);
}

static void prepare(struct kunit *test, struct bench *b)
{
	const struct bench_param *param = b->param;
	unsigned long addr;
	struct file *file;
	unsigned int i;

	b->pages = kvcalloc(param->nr_pages, sizeof(*b->pages), GFP_KERNEL);
	b->addrs = kvcalloc(param->nr_pages, sizeof(*b->addrs), GFP_KERNEL);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, free_pages_action, b));
	KUNIT_ASSERT_NOT_NULL(test, b->pages);
	KUNIT_ASSERT_NOT_NULL(test, b->addrs);
	for (i = 0; i < param->nr_pages; i++) {
		b->pages[i] = alloc_page(GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);
		if (!b->pages[i])
			kunit_skip(test, "needs more memory");
	}
	file = anon_inode_getfile("[vma_batch]", &bench_fops, NULL, O_RDWR);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	addr = kunit_vm_mmap(test, file, 0, param->size, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_NORESERVE, 0);
	fput(file);
	KUNIT_ASSERT_NE(test, 0, addr);
	mmap_read_lock(current->mm);
	b->vma = vma_lookup(current->mm, addr);
	vma_batch_charge(current->mm, b->pages, param->nr_pages);
}

static void bench_test(struct kunit *test)
{
	struct bench *b = kunit_kzalloc(test, sizeof(*b), GFP_KERNEL);
	unsigned int i;

	KUNIT_ASSERT_NOT_NULL(test, b);
	b->param = test->param_value;
	prepare(test, b);
	make_tables(test, b);
	fill(test, b);
	for (i = 0; i < ROUNDS; i++)
		exchange(test, b, i);
	for (i = 0; i < b->param->nr_pages; i += b->param->batch) {
		unmap_oldest(test, b);
		b->oldest = (b->oldest + b->param->batch) % b->param->nr_pages;
	}
	vma_batch_uncharge(current->mm, b->pages, b->param->nr_pages);
	mmap_read_unlock(current->mm);
	kunit_info(test, "%s: map %llu, unmap %llu ticks a page", b->param->name,
		   median(b->map_ticks) / b->param->batch,
		   median(b->unmap_ticks) / b->param->batch);
}

static struct kunit_case vma_batch_cases[] = {
	KUNIT_CASE_PARAM_ATTR(bench_test, bench_gen_params, { .speed = KUNIT_SPEED_SLOW }),
	{}
};

static struct kunit_suite vma_batch_suite = {
	.name = "vma_batch_bench",
	.test_cases = vma_batch_cases,
};

kunit_test_suite(vma_batch_suite);

MODULE_DESCRIPTION("Benchmark of vma_batch");
MODULE_LICENSE("GPL");
