// SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause)
/*
 * A VFS of SQLite that reads database files through a buffer in an exmap region
 *
 * SQLite asks its VFS for pointers to pages (xFetch) where it would map the file, and copies
 * nothing. This one gives it pages of a buffer of a fixed size, which the whole process
 * shares. Journals, locks and everything else are left to the VFS below.
 *
 * As a loadable extension, it becomes the default VFS, and connections that are opened after
 * that use it: .load ./exmap-vfs, then .open FILE. A program that is linked with it calls
 * exmap_vfs_register(). "PRAGMA exmap" tells how often the buffer was used.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sqlite3ext.h>
SQLITE_EXTENSION_INIT1

#include "buffer.h"
#include "exmap-vfs.h"

/* Where the change counter of a database file is: it says whether its pages are still valid */
#define COUNTER_AT	24

struct vfs_file {
	sqlite3_file base;
	const char *path;
	struct buffer_file *buffer;
	bool unbuffered;	/* it cannot have a buffer */
	bool wal;
	sqlite3_int64 size;	/* of the file, as far as this connection has seen */
	sqlite3_int64 limit;	/* PRAGMA mmap_size */
	sqlite3_file real[];	/* that of the VFS below */
};

static sqlite3_vfs exmap_vfs;
static sqlite3_vfs *below;

static struct vfs_file *vfs_file(sqlite3_file *file)
{
	return (struct vfs_file *)file;
}

static sqlite3_file *real(sqlite3_file *file)
{
	return vfs_file(file)->real;
}

/* The change counter of a database, as a number that is not 0 */
static uint64_t version(const char *counter)
{
	uint32_t number;

	memcpy(&number, counter, sizeof(number));
	return number + 1ULL;
}

static void see_size(struct vfs_file *file)
{
	if (file->real->pMethods->xFileSize(file->real, &file->size))
		file->size = 0;
}

static int vfs_close(sqlite3_file *f)
{
	const int ret = real(f)->pMethods->xClose(real(f));

	/* Not before, see buffer_open() */
	if (vfs_file(f)->buffer)
		buffer_close(vfs_file(f)->buffer);
	vfs_file(f)->buffer = NULL;
	return ret;
}

static int vfs_read(sqlite3_file *f, void *data, int size, sqlite3_int64 at)
{
	return real(f)->pMethods->xRead(real(f), data, size, at);
}

static int vfs_write(sqlite3_file *f, const void *data, int size, sqlite3_int64 at)
{
	struct vfs_file *file = vfs_file(f);
	const int ret = real(f)->pMethods->xWrite(real(f), data, size, at);

	if (ret && file->buffer) {
		buffer_forget(file->buffer, at);
	} else if (file->buffer) {
		buffer_written(file->buffer, at, data, size);
		/* What was written is in the buffer, so the change is ours */
		if (at <= COUNTER_AT && at + size >= COUNTER_AT + 4)
			buffer_set_version(file->buffer,
					   version((const char *)data + COUNTER_AT - at));
	}
	if (!ret && at + size > file->size)
		file->size = at + size;
	return ret;
}

static int vfs_truncate(sqlite3_file *f, sqlite3_int64 size)
{
	const int ret = real(f)->pMethods->xTruncate(real(f), size);

	if (vfs_file(f)->buffer)
		buffer_forget(vfs_file(f)->buffer, size);
	see_size(vfs_file(f));
	return ret;
}

static int vfs_sync(sqlite3_file *f, int flags)
{
	return real(f)->pMethods->xSync(real(f), flags);
}

static int vfs_file_size(sqlite3_file *f, sqlite3_int64 *size)
{
	const int ret = real(f)->pMethods->xFileSize(real(f), size);

	if (!ret)
		vfs_file(f)->size = *size;
	return ret;
}

static int vfs_lock(sqlite3_file *f, int level)
{
	return real(f)->pMethods->xLock(real(f), level);
}

static int vfs_unlock(sqlite3_file *f, int level)
{
	return real(f)->pMethods->xUnlock(real(f), level);
}

static int vfs_check_reserved_lock(sqlite3_file *f, int *reserved)
{
	return real(f)->pMethods->xCheckReservedLock(real(f), reserved);
}

static int answer_pragma(char **words)
{
	struct buffer_stats stats;

	if (sqlite3_stricmp(words[1], "exmap"))
		return SQLITE_NOTFOUND;
	buffer_stats(&stats);
	words[0] = sqlite3_mprintf("%s: %llu KiB, %llu misses, %llu pages read, %llu evicted",
				   stats.exmap ? "exmap" : "anonymous memory", stats.room >> 10,
				   stats.misses, stats.read, stats.evicted);
	return words[0] ? SQLITE_OK : SQLITE_NOMEM;
}

static int vfs_file_control(sqlite3_file *f, int op, void *arg)
{
	struct vfs_file *file = vfs_file(f);
	int ret;

	/* The VFS below must not map the file as well */
	if (op == SQLITE_FCNTL_MMAP_SIZE) {
		const sqlite3_int64 limit = *(sqlite3_int64 *)arg;

		*(sqlite3_int64 *)arg = file->limit;
		if (limit >= 0)
			file->limit = limit;
		return SQLITE_OK;
	}
	if (op == SQLITE_FCNTL_PRAGMA) {
		ret = answer_pragma(arg);
		if (ret != SQLITE_NOTFOUND)
			return ret;
	}
	ret = real(f)->pMethods->xFileControl(real(f), op, arg);
	if (op == SQLITE_FCNTL_VFSNAME && !ret)
		*(char **)arg = sqlite3_mprintf("exmap/%z", *(char **)arg);
	return ret;
}

static int vfs_sector_size(sqlite3_file *f)
{
	return real(f)->pMethods->xSectorSize(real(f));
}

static int vfs_characteristics(sqlite3_file *f)
{
	return real(f)->pMethods->xDeviceCharacteristics(real(f));
}

static int vfs_shm_map(sqlite3_file *f, int region, int size, int extend, void volatile **at)
{
	vfs_file(f)->wal = true;
	return real(f)->pMethods->xShmMap(real(f), region, size, extend, at);
}

static int vfs_shm_lock(sqlite3_file *f, int offset, int nr, int flags)
{
	return real(f)->pMethods->xShmLock(real(f), offset, nr, flags);
}

static void vfs_shm_barrier(sqlite3_file *f)
{
	real(f)->pMethods->xShmBarrier(real(f));
}

static int vfs_shm_unmap(sqlite3_file *f, int delete)
{
	vfs_file(f)->wal = false;
	return real(f)->pMethods->xShmUnmap(real(f), delete);
}

/*
 * Have the buffer read the file again, unless no other process has changed it. In WAL mode,
 * the change counter does not tell.
 */
static void check_buffer(struct vfs_file *file)
{
	char counter[4];
	uint64_t now = 0;

	if (!file->real->pMethods->xRead(file->real, counter, sizeof(counter), COUNTER_AT))
		now = version(counter);
	if (now && now == buffer_version(file->buffer) && !file->wal)
		return;
	buffer_forget(file->buffer, 0);
	buffer_set_version(file->buffer, now);
}

/* Return a pointer to a page, or NULL to have SQLite read it by itself */
static int vfs_fetch(sqlite3_file *f, sqlite3_int64 at, int size, void **page)
{
	struct vfs_file *file = vfs_file(f);

	*page = NULL;
	if (file->limit <= 0 || file->unbuffered)
		return SQLITE_OK;
	if (!file->buffer) {
		see_size(file);
		file->buffer = buffer_open(file->path, size, file->size);
		file->unbuffered = !file->buffer;
		if (!file->buffer)
			return SQLITE_OK;
		/* Other connections may have filled it */
		check_buffer(file);
	}
	/* Another connection may have made it longer */
	if (at + size > file->size)
		see_size(file);
	if (at + size <= file->size)
		*page = buffer_pin(file->buffer, at, size, file->size);
	return SQLITE_OK;
}

static int vfs_unfetch(sqlite3_file *f, sqlite3_int64 at, void *page)
{
	struct vfs_file *file = vfs_file(f);

	if (page) {
		buffer_unpin(file->buffer, at);
		return SQLITE_OK;
	}
	/* SQLite has found that another connection has changed the file */
	see_size(file);
	if (file->buffer)
		check_buffer(file);
	return SQLITE_OK;
}

static const sqlite3_io_methods methods = {
	.iVersion		= 3,
	.xClose			= vfs_close,
	.xRead			= vfs_read,
	.xWrite			= vfs_write,
	.xTruncate		= vfs_truncate,
	.xSync			= vfs_sync,
	.xFileSize		= vfs_file_size,
	.xLock			= vfs_lock,
	.xUnlock		= vfs_unlock,
	.xCheckReservedLock	= vfs_check_reserved_lock,
	.xFileControl		= vfs_file_control,
	.xSectorSize		= vfs_sector_size,
	.xDeviceCharacteristics	= vfs_characteristics,
	.xShmMap		= vfs_shm_map,
	.xShmLock		= vfs_shm_lock,
	.xShmBarrier		= vfs_shm_barrier,
	.xShmUnmap		= vfs_shm_unmap,
	.xFetch			= vfs_fetch,
	.xUnfetch		= vfs_unfetch,
};

static int vfs_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *f, int flags,
		    int *out_flags)
{
	struct vfs_file *file = vfs_file(f);
	int ret;

	(void)vfs;
	/* Others than databases are none of our business */
	if (!(flags & SQLITE_OPEN_MAIN_DB) || !path)
		return below->xOpen(below, path, f, flags, out_flags);
	memset(file, 0, sizeof(*file));
	ret = below->xOpen(below, path, file->real, flags, out_flags);
	if (!file->real->pMethods)
		return ret;
	file->base.pMethods = &methods;
	file->path = path;
	/* VFSs without shared memory or a WAL have older methods */
	file->unbuffered = file->real->pMethods->iVersion < 2;
	return ret;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *path, int sync)
{
	(void)vfs;
	return below->xDelete(below, path, sync);
}

static int vfs_access(sqlite3_vfs *vfs, const char *path, int flags, int *result)
{
	(void)vfs;
	return below->xAccess(below, path, flags, result);
}

static int vfs_full_pathname(sqlite3_vfs *vfs, const char *path, int size, char *full)
{
	(void)vfs;
	return below->xFullPathname(below, path, size, full);
}

/* Connections ask for pointers to pages only with a limit for mappings that is not 0 */
static int set_limit(sqlite3 *db, char **error, const struct sqlite3_api_routines *api)
{
	sqlite3_vfs *vfs = NULL;

	(void)error;
	(void)api;
	if (sqlite3_file_control(db, "main", SQLITE_FCNTL_VFS_POINTER, &vfs) || vfs != &exmap_vfs)
		return SQLITE_OK;
	return sqlite3_exec(db, "PRAGMA mmap_size = 1073741824", NULL, NULL, NULL);
}

/* "64M" and the like. Returns 0 if it is no size. */
static uint64_t parse_size(const char *text)
{
	static const char units[] = "KMGT";
	char *end;
	uint64_t size = strtoull(text, &end, 10);
	const char *unit = *end ? strchr(units, *end) : NULL;

	if (unit)
		size <<= 10 * (unit - units + 1);
	return size / 4096 * 4096;
}

/**
 * exmap_vfs_register() - Make this the default VFS.
 * @bytes: size of the buffer of the process; 0: EXMAP_SQLITE_MEMORY in the environment, or
 *	64 MiB
 *
 * With EXMAP_SQLITE_STOCK in the environment, exmap is not used even if the kernel has it.
 *
 * Return: an SQLite error code.
 */
int exmap_vfs_register(uint64_t bytes)
{
	const char *memory = getenv("EXMAP_SQLITE_MEMORY");
	int ret;

	if (below)
		return SQLITE_OK;
	if (!bytes)
		bytes = memory ? parse_size(memory) : 64ULL << 20;
	if (!bytes)
		return SQLITE_MISUSE;
	if (buffer_init(bytes, getenv("EXMAP_SQLITE_STOCK")))
		return SQLITE_NOMEM;
	below = sqlite3_vfs_find(NULL);
	if (!below)
		return SQLITE_ERROR;
	exmap_vfs = *below;
	exmap_vfs.pNext = NULL;
	exmap_vfs.zName = "exmap";
	exmap_vfs.szOsFile = sizeof(struct vfs_file) + below->szOsFile;
	exmap_vfs.xOpen = vfs_open;
	exmap_vfs.xDelete = vfs_delete;
	exmap_vfs.xAccess = vfs_access;
	exmap_vfs.xFullPathname = vfs_full_pathname;
	ret = sqlite3_vfs_register(&exmap_vfs, 1);
	return ret ? ret : sqlite3_auto_extension((void (*)(void))set_limit);
}

#ifndef SQLITE_CORE
/* What sqlite3_load_extension() looks for in a file of this name */
__attribute__((visibility("default")))
int sqlite3_exmapvfs_init(sqlite3 *db, char **error, const sqlite3_api_routines *api);

int sqlite3_exmapvfs_init(sqlite3 *db, char **error, const sqlite3_api_routines *api)
{
	int ret;

	(void)db;
	SQLITE_EXTENSION_INIT2(api);
	ret = exmap_vfs_register(0);
	if (!ret)
		return SQLITE_OK_LOAD_PERMANENTLY;
	*error = sqlite3_mprintf("exmap-vfs: %s", ret == SQLITE_NOMEM ? buffer_message() :
				 sqlite3_errstr(ret));
	return ret;
}
#endif
