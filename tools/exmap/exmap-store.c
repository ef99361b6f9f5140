// SPDX-License-Identifier: GPL-2.0-only
/*
 * exmap-store: store the files of a directory in a B+tree on exmap
 *
 * Every regular file below a directory is inserted into a store, with its path as the key
 * and its content as the value. The buffer of the store is a fraction of the data. All
 * files are then read back in random order, and their checksums are compared with those
 * of the originals.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "btree.h"
#include "bufmgr.h"

struct file {
	char *path;		/* relative to the directory */
	u64 size;		/* size when scanned, later the size when loaded */
	u64 checksum;		/* checksum of the original */
};

struct phase {
	const char *name;
	/* Process the i-th file. buf is a buffer of the thread that is reused and grown. */
	void (*each)(size_t i, char **buf, size_t *cap);
	double seconds;
	struct bm_stats stats;
};

struct worker {
	pthread_t thread;
	unsigned int id;
	struct phase *phase;
};

static struct file *files;
static size_t nr_files, max_files, prefix_len;
static size_t *order;		/* order in which files are read back */
static u64 total_bytes, extent_pages, entry_bytes;
static const char *directory;
static int directory_fd;
static bool quiet;

static atomic_size_t next_file, files_done, verified;
static atomic_ullong bytes_done;
static sem_t thread_done;

static void *grow(void *p, size_t bytes)
{
	p = realloc(p, bytes);
	if (!p)
		err(1, "%zu bytes of memory", bytes);
	return p;
}

/*
 * A fast checksum without cryptographic strength: FNV-1a over words, with the upper half
 * folded into the lower one
 */
static u64 checksum(const char *data, size_t len)
{
	u64 sum = 0xcbf29ce484222325ULL ^ len, word;
	size_t n;

	for (; len; data += n, len -= n) {
		word = 0;
		n = len < sizeof(word) ? len : sizeof(word);
		memcpy(&word, data, n);
		sum = (sum ^ word) * 0x100000001b3ULL;
		sum ^= sum >> 32;
	}
	return sum;
}

static int scan_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	size_t len;

	(void)ftw;
	if (type == FTW_DNR || type == FTW_NS)
		errx(1, "cannot read %s", path);
	if (type != FTW_F || !S_ISREG(st->st_mode))
		return 0;
	if (nr_files == max_files) {
		max_files = 2 * max_files + 1024;
		files = grow(files, max_files * sizeof(*files));
	}
	for (path += prefix_len; *path == '/';)
		path++;
	len = strlen(path);
	if (len > BTREE_KEY_MAX)
		errx(1, "path longer than %d bytes: %s", BTREE_KEY_MAX, path);
	files[nr_files].size = st->st_size;
	files[nr_files].path = memcpy(grow(NULL, len + 1), path, len + 1);
	nr_files++;

	total_bytes += st->st_size;
	entry_bytes += len + BTREE_ENTRY_OVERHEAD;
	if (st->st_size > BTREE_INLINE_MAX)
		extent_pages += (st->st_size + bm.page_size - 1) / bm.page_size;
	else
		entry_bytes += st->st_size;
	return 0;
}

static void scan(void)
{
	directory_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* nftw() removes trailing slashes from the paths that it passes on */
	for (prefix_len = strlen(directory); prefix_len && directory[prefix_len - 1] == '/';)
		prefix_len--;
	if (directory_fd < 0 || nftw(directory, scan_entry, 32, FTW_PHYS))
		err(1, "cannot read the directory %s", directory);
	if (!total_bytes)
		errx(1, "nothing to store: no file with content below %s", directory);
}

/* Choose the order of reads: a random permutation that depends only on the seed */
static void shuffle(u64 seed)
{
	size_t i, j, swap;
	u64 z;

	order = grow(NULL, nr_files * sizeof(*order));
	for (i = 0; i < nr_files; i++)
		order[i] = i;
	for (i = nr_files - 1; i > 0; i--) {
		/* splitmix64 */
		seed += 0x9e3779b97f4a7c15ULL;
		z = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9ULL;
		z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
		j = (z ^ (z >> 31)) % (i + 1);
		swap = order[i];
		order[i] = order[j];
		order[j] = swap;
	}
}

static void load_file(size_t i, char **buf, size_t *cap)
{
	struct file *file = &files[i];
	size_t len = 0;
	ssize_t got;
	int fd;

	fd = openat(directory_fd, file->path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		err(1, "cannot open %s/%s", directory, file->path);
	do {
		/* Try to read beyond the expected size, since the file may have grown */
		if (*cap < len + file->size + 1) {
			*cap = len + file->size + 65536;
			*buf = grow(*buf, *cap);
		}
		got = read(fd, *buf + len, *cap - len);
		if (got < 0)
			err(1, "reading %s/%s", directory, file->path);
		len += got;
	} while (got);
	close(fd);

	file->size = len;
	file->checksum = checksum(*buf, len);
	if (btree_insert(file->path, strlen(file->path), *buf, len))
		errx(1, "%s is there already", file->path);
	atomic_fetch_add(&bytes_done, len);
}

static void read_file(size_t i, char **buf, size_t *cap)
{
	struct file *file = &files[order[i]];
	ssize_t len;

	if (*cap < file->size) {
		*cap = file->size + 65536;
		*buf = grow(*buf, *cap);
	}
	len = btree_lookup(file->path, strlen(file->path), *buf, *cap);
	if (len < 0)
		warnx("%s: not found", file->path);
	else if ((u64)len != file->size)
		warnx("%s: %zd bytes, %llu in the original", file->path, len, file->size);
	else if (checksum(*buf, len) != file->checksum)
		warnx("%s: differs from the original", file->path);
	else
		atomic_fetch_add(&verified, 1);
	atomic_fetch_add(&bytes_done, len < 0 ? 0 : len);
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	size_t i, cap = 0;
	char *buf = NULL;

	bm_thread_start(worker->id);
	while ((i = atomic_fetch_add(&next_file, 1)) < nr_files) {
		worker->phase->each(i, &buf, &cap);
		atomic_fetch_add(&files_done, 1);
	}
	free(buf);
	bm_thread_stop();
	sem_post(&thread_done);
	return NULL;
}

static void progress(const struct phase *phase)
{
	if (!quiet)
		printf("%s: %zu of %zu files, %.1f MiB, %llu pages in the store, %llu in memory\n",
		       phase->name, files_done, nr_files, bytes_done / 1048576.0, bm.next,
		       bm.used);
}

static void run(struct phase *phase)
{
	struct worker *workers = grow(NULL, bm.nr_threads * sizeof(*workers));
	struct timespec start, ts;
	unsigned int i;

	clock_gettime(CLOCK_MONOTONIC, &start);
	next_file = 0;
	files_done = 0;
	bytes_done = 0;
	for (i = 0; i < bm.nr_threads; i++) {
		workers[i].id = i;
		workers[i].phase = phase;
		errno = pthread_create(&workers[i].thread, NULL, work, &workers[i]);
		if (errno)
			err(1, "cannot start thread %u", i);
	}
	for (i = 0; i < bm.nr_threads;) {
		clock_gettime(CLOCK_REALTIME, &ts);
		ts.tv_sec += 2;
		if (sem_timedwait(&thread_done, &ts))
			progress(phase);
		else
			i++;
	}
	for (i = 0; i < bm.nr_threads; i++)
		pthread_join(workers[i].thread, NULL);
	free(workers);
	if (phase->each == load_file)
		bm_flush();	/* loading includes writing everything to the page file */
	clock_gettime(CLOCK_MONOTONIC, &ts);
	phase->seconds = ts.tv_sec - start.tv_sec + (ts.tv_nsec - start.tv_nsec) / 1e9;
	phase->stats = bm_collect_stats();
	progress(phase);
}

static void count_row(const char *what, u64 load, u64 read)
{
	printf("%-22s %12llu %12llu\n", what, load, read);
}

static void batch_row(const char *what, u64 load, u64 load_calls, u64 read, u64 read_calls)
{
	printf("%-22s %12.1f %12.1f\n", what, load_calls ? (double)load / load_calls : 0,
	       read_calls ? (double)read / read_calls : 0);
}

static void report(const struct phase *load, const struct phase *read)
{
	const struct bm_stats *a = &load->stats, *b = &read->stats;

	printf("\n%-22s %s, %s\n", "buffer on",
	       bm.madvise ? "mmap + madvise" : bm.uring ? "exmap through io_uring" : "exmap",
	       bm.direct ? "direct I/O" : "buffered I/O");
	printf("%-22s %u\n", "threads", bm.nr_threads);
	printf("%-22s %zu\n", "files", nr_files);
	printf("%-22s %llu\n", "bytes", total_bytes);
	printf("%-22s %llu\n", "pages in the store", bm.next);
	printf("%-22s %llu\n", "pages of buffer", bm.buffer_pages);
	printf("\n%-22s %12s %12s\n", "", load->name, read->name);
	printf("%-22s %12.1f %12.1f\n", "seconds", load->seconds, read->seconds);
	count_row("pages in", a->in, b->in);
	batch_row("  in a call", a->in, a->in_calls, b->in, b->in_calls);
	count_row("pages out", a->out, b->out);
	batch_row("  in a call", a->out, a->out_calls, b->out, b->out_calls);
	count_row("pages evicted", a->evicted, b->evicted);
	batch_row("  in a batch", a->evicted, a->evict_calls, b->evicted, b->evict_calls);
	count_row("  batches that fill", a->joined, b->joined);
	if (bm.uring)
		count_row("in flight in a thread", a->in_flight, b->in_flight);
	count_row("restarts by version", a->restarts, b->restarts);
	count_row("restarts by SIGSEGV", a->segv, b->segv);
	count_row("repeats for ENOMEM", a->enomem, b->enomem);
	printf("\nverified %zu of %zu\n", verified, nr_files);
}

static const char help[] =
	"usage: exmap-store --load DIR --file PAGEFILE [options]\n\n"
	"Stores every file below DIR in a B+tree in PAGEFILE (overwritten), reads\n"
	"all of them back in random order and verifies them. The exit status is 0\n"
	"if all files came back as they were.\n\n"
	"  --fraction N   the buffer is 1/N of the data (8)\n"
	"  --page-size N  size of a page in KiB: 4, 8, 16 or 32 (4)\n"
	"  --threads N    threads that load and read (4)\n"
	"  --virt-mb N    size of the region in MiB (what the data needs)\n"
	"  --seed N       seed of the random order (1)\n"
	"  --uring        make calls through io_uring, and read large files ahead with\n"
	"                 several calls in flight (only if built with liburing)\n"
	"  --madvise      use anonymous memory and madvise() instead of exmap\n"
	"  --quiet        print only the final table, no progress\n"
	"  --help         print this text\n";

static u64 parse(const char *name, u64 min, u64 max)
{
	char *end;
	u64 value;

	errno = 0;
	value = strtoull(optarg, &end, 10);
	if (errno || end == optarg || *end || *optarg == '-' || value < min || value > max)
		errx(1, "--%s takes a number from %llu to %llu, not '%s'", name, min, max, optarg);
	return value;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "load", required_argument, NULL, 'l' },
		{ "file", required_argument, NULL, 'f' },
		{ "fraction", required_argument, NULL, 'r' },
		{ "page-size", required_argument, NULL, 'p' },
		{ "threads", required_argument, NULL, 't' },
		{ "virt-mb", required_argument, NULL, 'v' },
		{ "seed", required_argument, NULL, 's' },
		{ "uring", no_argument, NULL, 'u' },
		{ "madvise", no_argument, NULL, 'm' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	struct phase load = { .name = "load", .each = load_file };
	struct phase read = { .name = "read", .each = read_file };
	u64 fraction = 8, seed = 1, virt_bytes = 0;
	size_t i;
	int opt;

	setvbuf(stdout, NULL, _IOLBF, 0);
	bm.nr_threads = 4;
	bm.page_size = PAGE_SIZE_MIN;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'l':
			directory = optarg;
			break;
		case 'f':
			bm.file = optarg;
			break;
		case 'r':
			fraction = parse("fraction", 1, 1 << 20);
			break;
		case 'p':
			bm.page_size = parse("page-size", 4, PAGE_SIZE_MAX >> 10) << 10;
			if (bm.page_size & (bm.page_size - 1))
				errx(1, "--page-size takes 4, 8, 16 or 32");
			break;
		case 't':
			bm.nr_threads = parse("threads", 1, 1024);
			break;
		case 'v':
			/* At most half of a 47-bit address space */
			virt_bytes = parse("virt-mb", 1, 1 << 26) << 20;
			break;
		case 's':
			seed = parse("seed", 0, ~0ULL);
			break;
		case 'u':
			if (!call_has_uring)
				errx(1, "built without liburing: --uring is not available");
			bm.uring = true;
			break;
		case 'm':
			bm.madvise = true;
			break;
		case 'q':
			quiet = true;
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			fputs(help, stderr);
			return 1;
		}
	}
	if (optind < argc || !directory || !bm.file || (bm.uring && bm.madvise)) {
		fputs(help, stderr);
		return 1;
	}

	scan();
	shuffle(seed);
	/* Nodes are at least half full, and files may have grown a little since the scan */
	bm.file_pages = extent_pages + 2 * entry_bytes / bm.page_size + 16;
	bm.virt_pages = virt_bytes / bm.page_size;
	if (!bm.virt_pages)
		bm.virt_pages = bm.file_pages * 5 / 4 + 1024;
	bm.buffer_pages = total_bytes / bm.page_size / fraction;
	/* Threads lock batches of pages, while most of the buffer must remain evictable */
	if (bm.buffer_pages < 32 * bm.nr_threads) {
		bm.buffer_pages = 32 * bm.nr_threads;
		printf("note: 1/%llu of the data is less than 32 pages a thread, which is taken\n",
		       fraction);
	}
	if (!quiet)
		printf("scan: %zu files, %.1f MiB, buffer %.1f MiB, region %.1f MiB\n", nr_files,
		       total_bytes / 1048576.0, bm.buffer_pages * bm.page_size / 1048576.0,
		       bm.virt_pages * bm.page_size / 1048576.0);

	bm_init();
	sem_init(&thread_done, 0, 0);
	bm_thread_start(0);
	btree_create();
	run(&load);
	for (total_bytes = 0, i = 0; i < nr_files; i++)
		total_bytes += files[i].size;
	run(&read);
	report(&load, &read);
	return verified == nr_files ? 0 : 1;
}
