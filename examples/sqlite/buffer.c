// SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause)
/*
 * A buffer of a fixed size for the pages of many files: a clock on libexmap
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "buffer.h"
#include "libexmap.h"

/* Pages that are evicted together, and with them one TLB shootdown */
#define VICTIMS		64

/* Bytes that are read ahead if a file is read from page to page */
#define AHEAD		(128UL << 10)

/* Bytes of addresses that a file may grow by before its pages are not buffered any more */
#define GROWTH		(16ULL << 30)

/*
 * State of a slot: one of the first four, SLOT_USED and SLOT_STALE, and how often it is
 * pinned.
 */
#define SLOT_EMPTY	0U
#define SLOT_READING	1U	/* a thread brings the page in */
#define SLOT_HERE	2U
#define SLOT_LEAVING	3U	/* a thread has chosen it as a victim */
#define SLOT_STATE	3U
#define SLOT_USED	4U	/* since the hand has passed */
#define SLOT_STALE	8U	/* the file has changed: evict it when it is not pinned */
#define SLOT_PIN	16U

struct buffer_file {
	struct buffer_file *next;
	dev_t dev;
	ino_t inode;
	unsigned int users;
	int fd;
	struct exm_region *region;
	unsigned int number;
	char *start;
	size_t slot_size;
	unsigned int shift;	/* the same, as a power of two */
	size_t page_size;	/* what is pinned at once */
	uint64_t slots;
	_Atomic uint32_t *state;
	_Atomic uint64_t expected;	/* slot that is next if the file is read in its order */
	_Atomic uint64_t version;	/* for the program */
	uint64_t forgotten;		/* calls of buffer_forget(), protected by the lock */
	unsigned int leaving;		/* victims that are being evicted, the same */
};

/* A page that the clock knows of */
struct entry {
	struct buffer_file *file;	/* NULL: no page */
	uint64_t slot;
};

static struct exm_pool *pool;
static uint64_t pool_bytes;

/* Protects the files, the clock and its hand, and the number of free bytes */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct buffer_file *files;
static struct entry *clock_ring;
static unsigned int clock_size, clock_used, clock_hand;
static uint64_t free_bytes;

static _Atomic uint64_t misses, read_pages, evicted;

/* Each thread makes its calls through a handle of its own */
static pthread_key_t thread_key;
static __thread struct exm_thread *this_thread;

static void end_thread(void *thread)
{
	exm_thread_destroy(thread);
}

static struct exm_thread *get_thread(void)
{
	if (!this_thread && !exm_thread_create(&this_thread, pool))
		pthread_setspecific(thread_key, this_thread);
	return this_thread;
}

/* Set up the buffer once. Returns 0, or a negative error number. */
int buffer_init(uint64_t bytes, bool stock)
{
	const struct exm_pool_options options = {
		.memory = bytes,
		.backend = stock ? EXM_BACKEND_STOCK : EXM_BACKEND_AUTO,
		.flags = EXM_POOL_TOUCH,
	};
	int err = 0;

	pthread_mutex_lock(&lock);
	if (!pool) {
		clock_size = bytes / EXM_PAGE_SIZE;
		clock_ring = calloc(clock_size, sizeof(*clock_ring));
		err = clock_ring ? exm_pool_create(&pool, &options) : -ENOMEM;
		if (!err)
			err = -pthread_key_create(&thread_key, end_thread);
		pool_bytes = bytes;
		free_bytes = bytes;
	}
	pthread_mutex_unlock(&lock);
	return err;
}

/* Explain why buffer_init() has failed in this thread */
const char *buffer_message(void)
{
	return exm_message();
}

void buffer_stats(struct buffer_stats *stats)
{
	*stats = (struct buffer_stats) {
		.misses = misses, .read = read_pages, .evicted = evicted,
		.room = pool_bytes,
		.exmap = pool && exm_pool_backend(pool) == EXM_BACKEND_EXMAP,
	};
}

/*
 * Return the buffer of a file, which may have other users. @page_size is what is going to be
 * pinned at once, @size the length of the file. Returns NULL if it cannot be buffered.
 *
 * To close any descriptor of a file drops all locks that the process has on it. So the one
 * that is opened here is closed with the last user, and never if something fails.
 */
struct buffer_file *buffer_open(const char *path, size_t page_size, uint64_t size)
{
	const size_t slot_size = page_size < EXM_PAGE_SIZE ? EXM_PAGE_SIZE : page_size;
	struct exm_region_options options = { .slot_size = slot_size };
	struct buffer_file *file = NULL;
	struct stat st;

	if (page_size & (page_size - 1) || slot_size > EXM_MAX_SLOT_SIZE || stat(path, &st))
		return NULL;
	options.length = (size + GROWTH) / slot_size * slot_size;
	pthread_mutex_lock(&lock);
	for (file = files; file; file = file->next)
		if (file->dev == st.st_dev && file->inode == st.st_ino)
			break;
	if (file) {
		/* With pages of another size, after a VACUUM, it is buffered at the next open */
		if (file->page_size == page_size)
			file->users++;
		else
			file = NULL;
		goto out;
	}
	file = calloc(1, sizeof(*file));
	if (!file)
		goto out;
	file->dev = st.st_dev;
	file->inode = st.st_ino;
	file->users = 1;
	file->slot_size = slot_size;
	file->shift = __builtin_ctzl(slot_size);
	file->page_size = page_size;
	file->slots = options.length / slot_size;
	file->fd = open(path, O_RDONLY | O_CLOEXEC);
	options.fd = file->fd;
	/* Only what is used takes memory */
	file->state = mmap(NULL, file->slots * sizeof(*file->state), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (file->fd < 0 || file->state == MAP_FAILED ||
	    exm_region_create(&file->region, pool, &options)) {
		if (file->state != MAP_FAILED)
			munmap(file->state, file->slots * sizeof(*file->state));
		free(file);
		file = NULL;
		goto out;
	}
	file->number = exm_region_number(file->region);
	file->start = exm_region_start(file->region);
	file->next = files;
	files = file;
out:
	pthread_mutex_unlock(&lock);
	return file;
}

/* Say that one of the users of a file needs it no more */
void buffer_close(struct buffer_file *file)
{
	struct buffer_file **at;
	unsigned int kept = 0;

	pthread_mutex_lock(&lock);
	if (--file->users) {
		pthread_mutex_unlock(&lock);
		return;
	}
	for (at = &files; *at != file; at = &(*at)->next)
		;
	*at = file->next;
	for (unsigned int i = 0; i < clock_used; i++) {
		if (clock_ring[i].file == file)
			free_bytes += file->slot_size;
		else
			clock_ring[kept++] = clock_ring[i];
	}
	clock_used = kept;
	/* Another thread may be evicting pages of this file to read those of another one */
	while (file->leaving) {
		pthread_mutex_unlock(&lock);
		sched_yield();
		pthread_mutex_lock(&lock);
	}
	exm_region_destroy(file->region);
	munmap(file->state, file->slots * sizeof(*file->state));
	pthread_mutex_unlock(&lock);
	close(file->fd);
	free(file);
}

/* Whether the hand takes a page. One that was used since it came by last gets another round. */
static bool choose(const struct entry *entry)
{
	_Atomic uint32_t *state = &entry->file->state[entry->slot];
	uint32_t is = SLOT_HERE;

	if (atomic_compare_exchange_strong(state, &is, SLOT_LEAVING))
		return true;
	if (is == (SLOT_HERE | SLOT_STALE))
		return atomic_compare_exchange_strong(state, &is, SLOT_LEAVING);
	if (is == (SLOT_HERE | SLOT_USED))
		atomic_fetch_and(state, ~SLOT_USED);
	return false;
}

/*
 * Choose victims, a batch of them, and write vectors that evict them. The lock is held.
 * Returns their number; *bytes is what they take.
 */
static unsigned int choose_victims(uint64_t want, struct exm_vec *vecs, struct entry *victims,
				   uint64_t *bytes)
{
	/* Twice round, because the first time may only find that pages were used */
	unsigned int steps = 2 * clock_used, nr = 0;

	*bytes = 0;
	while (*bytes < want && nr < VICTIMS && steps--) {
		struct entry *entry;

		if (clock_hand >= clock_used)
			clock_hand = 0;
		entry = &clock_ring[clock_hand];
		if (!choose(entry)) {
			clock_hand++;
			continue;
		}
		victims[nr] = *entry;
		vecs[nr++] = (struct exm_vec) {
			.opcode = EXM_FREE, .page = entry->slot, .len = 1,
			.region = entry->file->number,
		};
		*bytes += entry->file->slot_size;
		entry->file->leaving++;
		/* The last one takes its place, which the hand looks at next */
		*entry = clock_ring[--clock_used];
	}
	return nr;
}

/* Claim empty slots from @slot on, up to @max, to read them. Returns their number. */
static unsigned int claim(struct buffer_file *file, uint64_t slot, unsigned int max)
{
	unsigned int nr;

	for (nr = 0; nr < max && slot + nr < file->slots; nr++) {
		uint32_t empty = SLOT_EMPTY;

		if (!atomic_compare_exchange_strong(&file->state[slot + nr], &empty,
						    SLOT_READING))
			break;
	}
	return nr;
}

/* How many slots to read where one is missing: more if the file is read in its order */
static unsigned int read_ahead(struct buffer_file *file, uint64_t slot, uint64_t end)
{
	const uint64_t last = (end + file->slot_size - 1) / file->slot_size;
	uint64_t nr = AHEAD / file->slot_size;

	/* A small buffer has other uses for its pages */
	if (nr > pool_bytes / 8 / file->slot_size)
		nr = pool_bytes / 8 / file->slot_size;
	if (atomic_load(&file->expected) != slot || nr < 1)
		nr = 1;
	return slot + nr > last ? last - slot : nr;
}

/*
 * Bring in a page, and perhaps those behind it. The first one has been claimed. Returns
 * whether it is here and, then, pinned.
 */
static bool bring_in(struct buffer_file *file, uint64_t slot, uint64_t end)
{
	struct exm_thread *thread = get_thread();
	struct entry victims[VICTIMS];
	struct exm_vec vecs[VICTIMS + 1];
	struct exm_result results[VICTIMS + 1];
	unsigned int nr, nr_victims = 0, done = 0;
	uint64_t need, gain = 0, forgotten;
	int ret = -1;

	nr = 1 + claim(file, slot + 1, read_ahead(file, slot, end) - 1);
	atomic_store(&file->expected, slot + nr);

	pthread_mutex_lock(&lock);
	need = nr * file->slot_size;
	if (free_bytes < need) {
		const uint64_t batch = VICTIMS * file->slot_size;

		/* The next misses find room, too */
		nr_victims = choose_victims(need > batch || batch > pool_bytes / 8 ? need : batch,
					    vecs, victims, &gain);
	}
	while (nr && free_bytes + gain < need) {
		atomic_store(&file->state[slot + --nr], SLOT_EMPTY);
		need -= file->slot_size;
	}
	/* What is left of the memory of the victims is free when they are gone */
	if (need > gain)
		free_bytes -= need - gain;
	forgotten = file->forgotten;
	pthread_mutex_unlock(&lock);

	vecs[nr_victims] = (struct exm_vec) {
		.opcode = EXM_READ, .page = slot, .len = nr, .region = file->number,
		.flags = EXM_ZERO | EXM_REPLACE,
	};
	if (thread)
		ret = exm_call(thread, vecs, results, nr_victims + 1);
	if (ret >= 0)
		done = results[nr_victims].pages;

	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; i < nr_victims; i++) {
		/*
		 * A call that fails as a whole has done nothing. Meanwhile, buffer_forget() has
		 * not found these pages in the ring.
		 */
		atomic_store(&victims[i].file->state[victims[i].slot],
			     ret < 0 ? SLOT_HERE | SLOT_STALE : SLOT_EMPTY);
		if (ret < 0)
			clock_ring[clock_used++] = victims[i];
		victims[i].file->leaving--;
	}
	for (unsigned int i = 0; i < done; i++)
		clock_ring[clock_used++] = (struct entry) { file, slot + i };
	if (ret < 0)
		free_bytes += need > gain ? need - gain : 0;
	else
		free_bytes += (nr - done) * file->slot_size + (gain > need ? gain - need : 0);
	for (unsigned int i = 0; i < nr; i++) {
		uint32_t state = i < done ? SLOT_HERE : SLOT_EMPTY;

		if (done && !i)
			state += SLOT_PIN;
		if (i < done && forgotten != file->forgotten)
			state |= SLOT_STALE;
		atomic_store(&file->state[slot + i], state);
	}
	pthread_mutex_unlock(&lock);
	atomic_fetch_add(&evicted, ret < 0 ? 0 : nr_victims);
	atomic_fetch_add(&read_pages, done);
	return done;
}

/* Read a page again that is here, and has been claimed. Returns as bring_in(). */
static bool read_again(struct buffer_file *file, uint64_t slot)
{
	struct exm_thread *thread = get_thread();
	const struct exm_vec vec = {
		.opcode = EXM_READ, .page = slot, .len = 1, .region = file->number,
		.flags = EXM_ZERO | EXM_REPLACE,
	};
	struct exm_result result;
	uint64_t forgotten;
	bool done;

	pthread_mutex_lock(&lock);
	forgotten = file->forgotten;
	pthread_mutex_unlock(&lock);
	done = thread && !exm_call(thread, &vec, &result, 1);
	pthread_mutex_lock(&lock);
	if (!done || forgotten != file->forgotten)
		atomic_store(&file->state[slot], SLOT_HERE | SLOT_STALE);
	else
		atomic_store(&file->state[slot], SLOT_HERE | SLOT_PIN);
	done &= forgotten == file->forgotten;
	pthread_mutex_unlock(&lock);
	return done;
}

/* Pin a slot in any state. Returns whether it was possible. */
static bool pin(struct buffer_file *file, uint64_t slot, uint64_t end)
{
	_Atomic uint32_t *state = &file->state[slot];
	uint32_t is = atomic_load_explicit(state, memory_order_relaxed);

	for (;;) {
		switch (is & SLOT_STATE) {
		case SLOT_HERE:
			/* A page that is pinned cannot be read again */
			if (is & SLOT_STALE && is >= SLOT_PIN)
				return false;
			if (is & SLOT_STALE) {
				if (!atomic_compare_exchange_weak(state, &is, SLOT_READING))
					continue;
				return read_again(file, slot);
			}
			if (!atomic_compare_exchange_weak(state, &is,
							  (is | SLOT_USED) + SLOT_PIN))
				continue;
			return true;
		case SLOT_EMPTY:
			if (!atomic_compare_exchange_weak(state, &is, SLOT_READING))
				continue;
			atomic_fetch_add_explicit(&misses, 1, memory_order_relaxed);
			return bring_in(file, slot, end);
		default:
			sched_yield();
			is = atomic_load(state);
		}
	}
}

/*
 * Return a pointer to a page of a file that is @end bytes long, which stays valid until
 * buffer_unpin(). Returns NULL if there is no room, or it cannot be read.
 */
void *buffer_pin(struct buffer_file *file, uint64_t offset, size_t size, uint64_t end)
{
	const uint64_t slot = offset >> file->shift;
	_Atomic uint32_t *state = &file->state[slot];
	uint32_t is;

	if (slot >= file->slots || size != file->page_size)
		return NULL;
	is = atomic_load_explicit(state, memory_order_relaxed);
	if ((is & (SLOT_STATE | SLOT_STALE)) != SLOT_HERE ||
	    !atomic_compare_exchange_strong(state, &is, (is | SLOT_USED) + SLOT_PIN)) {
		if (!pin(file, slot, end))
			return NULL;
	}
	return file->start + offset;
}

void buffer_unpin(struct buffer_file *file, uint64_t offset)
{
	atomic_fetch_sub(&file->state[offset >> file->shift], SLOT_PIN);
}

/* Pin a page if it is here, and wait if it is on its way */
static bool pin_if_here(_Atomic uint32_t *state)
{
	uint32_t is = atomic_load(state);

	for (;;) {
		if ((is & SLOT_STATE) == SLOT_EMPTY)
			return false;
		if ((is & SLOT_STATE) != SLOT_HERE) {
			sched_yield();
			is = atomic_load(state);
		} else if (atomic_compare_exchange_weak(state, &is, is + SLOT_PIN)) {
			return true;
		}
	}
}

/* The program has written to the file: change the pages that are here */
void buffer_written(struct buffer_file *file, uint64_t offset, const void *data, size_t size)
{
	const char *from = data;

	while (size && offset / file->slot_size < file->slots) {
		const uint64_t slot = offset / file->slot_size;
		size_t part = file->slot_size - offset % file->slot_size;

		if (part > size)
			part = size;
		if (pin_if_here(&file->state[slot])) {
			memcpy(file->start + offset, from, part);
			atomic_fetch_sub(&file->state[slot], SLOT_PIN);
		}
		from += part;
		offset += part;
		size -= part;
	}
}

/*
 * The file has changed behind our back, or was cut: pages from the byte @from on must be read
 * again. Those that are pinned stay as they are until they are not.
 */
void buffer_forget(struct buffer_file *file, uint64_t from)
{
	const uint64_t first = from / file->slot_size;

	pthread_mutex_lock(&lock);
	/* For pages that are on their way */
	file->forgotten++;
	for (unsigned int i = 0; i < clock_used; i++) {
		const struct entry *entry = &clock_ring[i];
		_Atomic uint32_t *state = &entry->file->state[entry->slot];
		uint32_t is = atomic_load(state);

		if (entry->file != file || entry->slot < first)
			continue;
		while (!atomic_compare_exchange_weak(state, &is, is | SLOT_STALE))
			;	/* a page that is being read again is marked by its reader */
	}
	pthread_mutex_unlock(&lock);
}

/* A number that identifies the state of the file that the buffer has; at first 0 */
uint64_t buffer_version(struct buffer_file *file)
{
	return atomic_load(&file->version);
}

void buffer_set_version(struct buffer_file *file, uint64_t version)
{
	atomic_store(&file->version, version);
}
