// SPDX-License-Identifier: GPL-2.0-only
/*
 * A TCG plugin of QEMU that says what a system call costs on any machine: the
 * instructions it executes, or the cache lines for which CPUs compete, each per
 * address of the code. scripts/symbols.sh makes functions of the addresses.
 *
 *   gcc -O2 -fPIC -shared -o exmap-trace.so exmap-trace.c
 *   qemu-system-x86_64 ... -plugin exmap-trace.so,mode=insn,out=FILE
 *   qemu-system-x86_64 ... -plugin exmap-trace.so,mode=lines,out=FILE
 *   qemu-system-x86_64 ... -plugin exmap-trace.so,mode=insn,at=PC:PC:...,out=FILE
 *
 * With at=, up to 16 hexadecimal addresses, only those are counted, at no cost.
 *
 * It counts only inside a window, which a program in the machine opens and
 * closes. Any program can: the markers are long NOPs with a displacement that
 * no compiler emits.
 *
 *	#define EXMAP_TRACE(what) \
 *		asm volatile(".byte 0x0f,0x1f,0x80; .long " #what ::: "memory")
 *	#define EXMAP_TRACE_STOP()	EXMAP_TRACE(0x45584d30)
 *	#define EXMAP_TRACE_START()	EXMAP_TRACE(0x45584d31)
 *	#define EXMAP_TRACE_RESET()	EXMAP_TRACE(0x45584d32)
 *	#define EXMAP_TRACE_WRITE()	EXMAP_TRACE(0x45584d33)
 *
 * Whichever CPU executes one, it counts for all. Several windows add up, RESET
 * forgets what was counted so far, WRITE, with the window closed, does so after
 * it has written it to the file, so that one file can have many cases.
 *
 * Output, then and when QEMU ends; each time a first line "# mode ...", then
 * others that begin with #; numbers are decimal, addresses hexadecimal:
 *
 *   mode=insn	<pc> <executions> <-, rep or lock>
 *	An iteration of a string instruction (rep) is an execution, as it is for
 *	QEMU's -icount. An instruction is locked if it has the prefix, or exchanges
 *	a register with memory; a kernel that runs on one CPU removes its prefixes,
 *	unless it is booted with noreplace-smp. An instruction that faults and is restarted counts twice.
 *   mode=lines	<pc> <loads> <stores> <moves> <lines> <an address of data>
 *	Only accesses to lines of 64 bytes that two or more CPUs wrote within the
 *	window. In which order does not matter: an emulator lets each CPU run for
 *	so long that a plain lock never seems to move. <moves> is how often the
 *	line may at most have come from another CPU: not more often than others
 *	wrote it. <lines> are the different ones that this instruction accessed.
 *	With thread=single an atomic instruction is a load and a store, with
 *	thread=multi one store.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * What is used of QEMU's interface for plugins, as Debian has no package of the
 * header. Version 1 is QEMU 7.2's; QEMU 10 wants -DPLUGIN_API=3.
 */
#ifndef PLUGIN_API
#define PLUGIN_API 1
#endif

struct plugin_info {
	const char *target;
	struct { int min, cur; } version;
	bool system;
	struct { int smp_vcpus, max_vcpus; } vcpus;
};
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_hwaddr;
enum plugin_regs { NO_REGS = 0 };
enum plugin_rw { READ_WRITE = 3 };
typedef void (*exec_fn)(unsigned int vcpu, void *data);
typedef void (*mem_fn)(unsigned int vcpu, uint32_t info, uint64_t vaddr, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id,
		void (*fn)(uint64_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_atexit_cb(uint64_t id, void (*fn)(uint64_t id, void *data), void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, exec_fn fn,
					    enum plugin_regs regs, void *data);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, mem_fn fn,
				      enum plugin_regs regs, enum plugin_rw rw, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t n);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
#if PLUGIN_API >= 3
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *to, size_t size);
#else
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
#endif
bool qemu_plugin_mem_is_store(uint32_t info);
unsigned int qemu_plugin_mem_size_shift(uint32_t info);
struct qemu_plugin_hwaddr *qemu_plugin_get_hwaddr(uint32_t info, uint64_t vaddr);
bool qemu_plugin_hwaddr_is_io(const struct qemu_plugin_hwaddr *hw);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct qemu_plugin_hwaddr *hw);

int qemu_plugin_version = PLUGIN_API;
int qemu_plugin_install(uint64_t id, const struct plugin_info *info, int argc, char **argv);

#define MAX_VCPUS	64
#define MARKER		0x45584d30	/* + 0: stop, 1: start, 2: reset, 3: write */
#define MAX_AT		16
#define LINE_SHIFT	6

/* In mode=insn, line is 0 and stores are executions of a string instruction */
struct entry {
	uint64_t pc;		/* 0: unused */
	uint64_t line;
	uint64_t vaddr;
	uint64_t loads, stores, moves;
	unsigned int vcpu;
};

/*
 * Each vCPU counts in a table of its own, so that no lock is needed even if
 * QEMU has a thread for each. Open addressing, never more than half full.
 */
struct table {
	struct entry *entries;
	size_t used, size;	/* size is a power of two */
	unsigned int generation;
} __attribute__((aligned(128)));

static struct table tables[MAX_VCPUS];
static bool open_window;
static unsigned int generation = 1;
static bool lines_mode;
static uint64_t only[MAX_AT];
static unsigned int nr_only;
static FILE *out;

static void write_out(void);

static void *allocate(size_t n)
{
	struct entry *entries = calloc(n, sizeof(*entries));

	if (!entries) {
		fprintf(stderr, "exmap-trace: out of memory\n");
		abort();
	}
	return entries;
}

static struct entry *slot(const struct table *t, uint64_t pc, uint64_t line)
{
	uint64_t hash = (pc + line * 0x9e3779b97f4a7c15) * 0xff51afd7ed558ccd;
	size_t i = (hash >> 32) & (t->size - 1);

	while (t->entries[i].pc &&
	       (t->entries[i].pc != pc || t->entries[i].line != line))
		i = (i + 1) & (t->size - 1);
	return &t->entries[i];
}

static void grow(struct table *t)
{
	struct table old = *t;
	size_t i;

	t->size *= 2;
	t->entries = allocate(t->size);
	for (i = 0; i < old.size; i++)
		if (old.entries[i].pc)
			*slot(t, old.entries[i].pc, old.entries[i].line) = old.entries[i];
	free(old.entries);
}

static struct entry *lookup(unsigned int vcpu, uint64_t pc, uint64_t line)
{
	struct table *t = &tables[vcpu];
	struct entry *e;

	/* First use, or a reset: only the vCPU itself touches its table */
	if (t->generation != __atomic_load_n(&generation, __ATOMIC_RELAXED)) {
		t->generation = __atomic_load_n(&generation, __ATOMIC_RELAXED);
		free(t->entries);
		t->used = 0;
		t->size = 4096;
		t->entries = allocate(t->size);
	}
	e = slot(t, pc, line);
	if (!e->pc) {
		if (++t->used > t->size / 2) {
			grow(t);
			e = slot(t, pc, line);
		}
		e->pc = pc;
		e->line = line;
		e->vcpu = vcpu;
	}
	return e;
}

static bool closed(void)
{
	return !__atomic_load_n(&open_window, __ATOMIC_RELAXED);
}

static void marker(unsigned int vcpu, void *data)
{
	uintptr_t what = (uintptr_t)data;

	if (what < 2) {
		__atomic_store_n(&open_window, what == 1, __ATOMIC_RELAXED);
		return;
	}
	if (what == 3)
		write_out();
	__atomic_add_fetch(&generation, 1, __ATOMIC_RELAXED);
}

static void executed(unsigned int vcpu, void *pc)
{
	if (!closed())
		lookup(vcpu, (uintptr_t)pc, 0)->loads++;
}

static void executed_string(unsigned int vcpu, void *pc)
{
	if (!closed())
		lookup(vcpu, (uintptr_t)pc, 0)->stores++;
}

static void executed_locked(unsigned int vcpu, void *pc)
{
	struct entry *e;

	if (closed())
		return;
	e = lookup(vcpu, (uintptr_t)pc, 0);
	e->loads++;
	e->moves = 1;
}

static void accessed(unsigned int vcpu, uint32_t info, uint64_t vaddr, void *pc)
{
	struct qemu_plugin_hwaddr *hw;
	uint64_t paddr, last, line;
	struct entry *e;

	if (closed())
		return;
	hw = qemu_plugin_get_hwaddr(info, vaddr);
	if (!hw || qemu_plugin_hwaddr_is_io(hw))
		return;
	paddr = qemu_plugin_hwaddr_phys_addr(hw);
	/* Can end in the next line. In the next page is rare, and not looked up. */
	last = paddr + (1 << qemu_plugin_mem_size_shift(info)) - 1;
	if (last >> 12 != paddr >> 12)
		last = paddr;
	for (line = paddr >> LINE_SHIFT; line <= last >> LINE_SHIFT; line++) {
		e = lookup(vcpu, (uintptr_t)pc, line);
		e->vaddr = vaddr;
		if (qemu_plugin_mem_is_store(info))
			e->stores++;
		else
			e->loads++;
	}
}

static bool is_wanted(uint64_t pc)
{
	unsigned int i;

	for (i = 0; i < nr_only; i++)
		if (only[i] == pc)
			return true;
	return !nr_only;
}

/* A prefix F2 or F3, perhaps REX, then movs, cmps, stos, lods or scas */
static bool is_string(const uint8_t *code, size_t size)
{
	if ((size != 2 && (size != 3 || (code[1] & 0xf0) != 0x40)) || (code[0] & 0xfe) != 0xf2)
		return false;
	return code[size - 1] >= 0xa4 && code[size - 1] <= 0xaf && (code[size - 1] & 0xfe) != 0xa8;
}

/* The prefix LOCK, or xchg of a register and memory; other prefixes may come first */
static bool is_locked(const uint8_t *code, size_t size)
{
	size_t i = 0;

	while (i < size && (code[i] == 0x66 || (code[i] & 0xfe) == 0x64))
		i++;
	if (i < size && code[i] == 0xf0)
		return true;
	if (i < size && (code[i] & 0xf0) == 0x40)
		i++;
	return i + 1 < size && (code[i] & 0xfe) == 0x86 && (code[i + 1] & 0xc0) != 0xc0;
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	static const uint8_t nop[3] = { 0x0f, 0x1f, 0x80 };
	size_t i, n = qemu_plugin_tb_n_insns(tb);

	for (i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		void *pc = (void *)(uintptr_t)qemu_plugin_insn_vaddr(insn);
		size_t size = qemu_plugin_insn_size(insn);
		uint8_t code[16] = { 0 };
		uint32_t magic;

		if (size > sizeof(code))
			size = sizeof(code);
#if PLUGIN_API >= 3
		qemu_plugin_insn_data(insn, code, size);
#else
		memcpy(code, qemu_plugin_insn_data(insn), size);
#endif
		memcpy(&magic, code + sizeof(nop), sizeof(magic));
		magic -= MARKER;
		if (size == 7 && !memcmp(code, nop, sizeof(nop)) && magic <= 3)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, marker, NO_REGS,
							       (void *)(uintptr_t)magic);
		else if (lines_mode)
			qemu_plugin_register_vcpu_mem_cb(insn, accessed, NO_REGS, READ_WRITE, pc);
		else if (is_wanted((uintptr_t)pc))
			qemu_plugin_register_vcpu_insn_exec_cb(insn,
				is_string(code, size) ? executed_string :
				is_locked(code, size) ? executed_locked : executed, NO_REGS, pc);
	}
}

static int by_line(const void *a, const void *b)
{
	const struct entry *l = a, *r = b;

	return l->line < r->line ? -1 : l->line > r->line;
}

static int by_pc(const void *a, const void *b)
{
	const struct entry *l = a, *r = b;

	return l->pc < r->pc ? -1 : l->pc > r->pc ? 1 : by_line(a, b);
}

/* Keep what accesses lines that several vCPUs wrote */
static size_t keep_shared(struct entry *all, size_t n)
{
	size_t i, j, end, kept = 0, lines = 0, shared = 0, read = 0;
	uint64_t accesses = 0;

	qsort(all, n, sizeof(*all), by_line);
	for (i = 0; i < n; i = end) {
		uint64_t stores = 0, by[MAX_VCPUS] = { 0 }, writers = 0, users = 0;

		for (end = i; end < n && all[end].line == all[i].line; end++) {
			stores += all[end].stores;
			by[all[end].vcpu] += all[end].stores;
			users |= 1UL << all[end].vcpu;
			if (all[end].stores)
				writers |= 1UL << all[end].vcpu;
			accesses += all[end].loads + all[end].stores;
		}
		lines++;
		read += writers && !(writers & (writers - 1)) && users != writers;
		if (!(writers & (writers - 1)))
			continue;
		shared++;
		for (j = i; j < end; j++) {
			struct entry e = all[j];

			e.moves = stores - by[e.vcpu];
			if (e.moves > e.loads + e.stores)
				e.moves = e.loads + e.stores;
			all[kept++] = e;
		}
	}
	fprintf(out, "# accesses %lu\n# lines %zu\n# of one writer and other readers %zu\n"
		"# of several writers %zu\n", accesses, lines, read, shared);
	return kept;
}

static void write_out(void)
{
	struct entry *all = allocate(0);
	size_t i, j, n = 0;

	for (i = 0; i < MAX_VCPUS; i++) {
		const struct table *t = &tables[i];

		if (t->generation != generation)
			continue;
		all = realloc(all, (n + t->used) * sizeof(*all));
		if (!all)
			abort();
		for (j = 0; j < t->size; j++)
			if (t->entries[j].pc)
				all[n++] = t->entries[j];
	}

	fprintf(out, "# mode %s\n%s", lines_mode ? "lines" : "insn",
		open_window ? "# the window was never closed\n" : "");
	if (lines_mode)
		n = keep_shared(all, n);
	qsort(all, n, sizeof(*all), by_pc);
	for (i = 0; i < n; i = j) {
		uint64_t loads = 0, stores = 0, moves = 0, lines = 0;

		for (j = i; j < n && all[j].pc == all[i].pc; j++) {
			loads += all[j].loads;
			stores += all[j].stores;
			moves += all[j].moves;
			lines += j == i || all[j].line != all[j - 1].line;
		}
		if (lines_mode)
			fprintf(out, "%016lx %lu %lu %lu %lu %016lx\n", all[i].pc, loads, stores,
				moves, lines, all[i].vaddr);
		else
			fprintf(out, "%016lx %lu %s\n", all[i].pc, loads + stores,
				stores ? "rep" : moves ? "lock" : "-");
	}
	free(all);
}

static void finish(uint64_t id, void *data)
{
	unsigned int i;

	/* If all was written, and nothing was counted since, there is no more */
	for (i = 0; i < MAX_VCPUS; i++)
		if (tables[i].generation == generation)
			break;
	if (i < MAX_VCPUS || generation == 1)
		write_out();
	if (fclose(out))
		perror("exmap-trace: writing the output");
}

/* Addresses with colons between them */
static bool parse_at(const char *list)
{
	char *end;

	do {
		if (nr_only == MAX_AT)
			return false;
		only[nr_only] = strtoull(list, &end, 16);
		if (end == list || (*end && *end != ':') || !only[nr_only++])
			return false;
		list = end + 1;
	} while (*end);
	return true;
}

int qemu_plugin_install(uint64_t id, const struct plugin_info *info, int argc, char **argv)
{
	const char *mode = "", *file = NULL;
	int i;

	for (i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "mode=", 5))
			mode = argv[i] + 5;
		else if (!strncmp(argv[i], "out=", 4))
			file = argv[i] + 4;
		else if (strncmp(argv[i], "at=", 3) || !parse_at(argv[i] + 3))
			mode = "";
	}
	lines_mode = !strcmp(mode, "lines");
	if (!file || (!lines_mode && strcmp(mode, "insn")) || (lines_mode && nr_only)) {
		fprintf(stderr, "exmap-trace: mode=insn or mode=lines, and out=FILE\n");
		return 1;
	}
	if (!info->system || info->vcpus.max_vcpus > MAX_VCPUS) {
		fprintf(stderr, "exmap-trace: a machine of at most %d CPUs\n", MAX_VCPUS);
		return 1;
	}
	out = fopen(file, "w");
	if (!out) {
		perror(file);
		return 1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, finish, NULL);
	return 0;
}
