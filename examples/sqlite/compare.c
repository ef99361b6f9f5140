// SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause)
/*
 * Compare SQLite on a buffer in an exmap region with SQLite as it is
 *
 * compare DATABASE QUERIES [seconds]: every query must have the same answer, by one
 * connection, by several threads at once, and beside a thread that changes a copy of the
 * database. The size of the buffer is that of EXMAP_SQLITE_MEMORY.
 *
 * compare --cost scan|points|transaction plain|mmap|exmap DATABASE: the time that a scan takes,
 * or a point query, each in a transaction of its own or all in one. The clock of a machine that
 * counts instructions is a measure of these.
 */
#include <err.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sqlite3.h>

#include "exmap-vfs.h"

#define THREADS		3
#define MAX_QUERIES	1000
#define ROWS		2000	/* of the table that changes */

static const char *queries[MAX_QUERIES];
static unsigned long long answers[MAX_QUERIES];
static int nr_queries;
static atomic_bool stop;
static atomic_int failures;
static int checks;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec * 1e-9;
}

/* Open a database with a VFS. Of exmap, the limit for mappings is set by the VFS. */
static sqlite3 *open_database(const char *path, const char *vfs)
{
	sqlite3 *db;

	if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, vfs))
		errx(1, "%s: %s", path, sqlite3_errmsg(db));
	sqlite3_busy_timeout(db, 60000);
	return db;
}

static void run(sqlite3 *db, const char *sql)
{
	char *message;

	if (sqlite3_exec(db, sql, NULL, NULL, &message))
		errx(1, "%s: %s", sql, message);
}

/* Returns a hash of all rows of an answer */
static unsigned long long ask(sqlite3 *db, const char *sql)
{
	unsigned long long hash = 1469598103934665603ULL;
	sqlite3_stmt *statement;
	int ret;

	if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL))
		errx(1, "%s: %s", sql, sqlite3_errmsg(db));
	while ((ret = sqlite3_step(statement)) == SQLITE_ROW) {
		for (int i = 0; i < sqlite3_column_count(statement); i++) {
			const unsigned char *text = sqlite3_column_text(statement, i);
			const int size = sqlite3_column_bytes(statement, i);

			for (int n = 0; n < size; n++)
				hash = (hash ^ text[n]) * 1099511628211ULL;
			hash = (hash ^ (text ? 0x100 : 0x101)) * 1099511628211ULL;
		}
	}
	if (ret != SQLITE_DONE)
		errx(1, "%s: %s", sql, sqlite3_errmsg(db));
	sqlite3_finalize(statement);
	return hash;
}

/* Returns the first column of the first row, to be freed with free() */
static char *value(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *statement;
	char *text = NULL;

	if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL))
		errx(1, "%s: %s", sql, sqlite3_errmsg(db));
	if (sqlite3_step(statement) == SQLITE_ROW)
		text = strdup((const char *)sqlite3_column_text(statement, 0) ?: "");
	if (sqlite3_finalize(statement) || !text)
		errx(1, "%s: no answer: %s", sql, sqlite3_errmsg(db));
	return text;
}

static void read_queries(const char *path)
{
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t size = 0;
	ssize_t len;

	if (!file)
		err(1, "%s", path);
	while (nr_queries < MAX_QUERIES && (len = getline(&line, &size, file)) > 0) {
		line[len - 1] = 0;
		queries[nr_queries++] = strdup(line);
	}
	free(line);
	fclose(file);
}

static void check(bool ok, const char *what, const char *more)
{
	printf("%sok %d %s: %s\n", ok ? "" : "not ", ++checks, what, more);
	fflush(stdout);
	if (!ok)
		failures++;
}

/* Ask all queries, beginning somewhere. Returns how many had another answer. */
static int ask_all(sqlite3 *db, int first)
{
	int wrong = 0;

	for (int i = 0; i < nr_queries; i++) {
		const int n = (first + i) % nr_queries;

		if (ask(db, queries[n]) != answers[n]) {
			warnx("another answer: %s", queries[n]);
			wrong++;
		}
	}
	return wrong;
}

struct reader {
	pthread_t thread;
	const char *path;
	int index;
	long rounds, wrong;
};

static void *read_all(void *arg)
{
	struct reader *reader = arg;
	sqlite3 *db = open_database(reader->path, "exmap");

	reader->wrong += ask_all(db, reader->index * 97);
	reader->rounds++;
	sqlite3_close(db);
	return NULL;
}

/* The sum of a table that changes is always the same */
static void *read_sums(void *arg)
{
	struct reader *reader = arg;
	sqlite3 *db = open_database(reader->path, reader->index == 1 ? "unix" : "exmap");

	while (!stop) {
		char *sum;

		/* A new connection meets a buffer that others have filled */
		if (reader->rounds % 20 == 19) {
			sqlite3_close(db);
			db = open_database(reader->path, reader->index == 1 ? "unix" : "exmap");
		}
		sum = value(db, "select sum(amount) from account");
		reader->wrong += atoi(sum) != ROWS * 100;
		reader->rounds++;
		free(sum);
	}
	sqlite3_close(db);
	return NULL;
}

static void start(struct reader *readers, void *(*function)(void *), const char *path)
{
	for (int i = 0; i < THREADS; i++) {
		readers[i] = (struct reader) { .path = path, .index = i };
		if (pthread_create(&readers[i].thread, NULL, function, &readers[i]))
			errx(1, "no thread");
	}
}

static void join(struct reader *readers, const char *what)
{
	char text[80];
	long rounds = 0, wrong = 0;

	for (int i = 0; i < THREADS; i++) {
		pthread_join(readers[i].thread, NULL);
		rounds += readers[i].rounds;
		wrong += readers[i].wrong;
	}
	snprintf(text, sizeof(text), "%ld rounds, %ld wrong", rounds, wrong);
	check(rounds && !wrong, what, text);
}

/* Move amounts from one account to another, with a VFS that changes from time to time */
static void change(const char *path, const char *mode, double seconds)
{
	struct reader readers[THREADS];
	const double end = now() + seconds;
	char what[80], sql[200];
	long transactions = 0;
	char *left;
	sqlite3 *db = open_database(path, "unix");

	snprintf(sql, sizeof(sql), "pragma journal_mode = %s", mode);
	free(value(db, sql));
	run(db, "drop table if exists account");
	run(db, "create table account(id integer primary key, amount integer, filler text)");
	snprintf(sql, sizeof(sql), "with recursive n(i) as (select 1 union all select i + 1 from n "
		 "where i < %d) insert into account select i, 100, hex(randomblob(100)) from n",
		 ROWS);
	run(db, sql);
	stop = false;
	start(readers, read_sums, path);
	for (unsigned int seed = 1; now() < end; transactions++) {
		if (transactions % 50 == 0) {
			sqlite3_close(db);
			db = open_database(path, transactions % 100 ? "unix" : "exmap");
			run(db, "pragma synchronous = off");
		}
		/* With this, its connection uses the buffer, too */
		free(value(db, "select sum(amount) from account"));
		run(db, "begin immediate");
		for (int i = 0; i < 20; i++) {
			const int amount = rand_r(&seed) % 50;

			snprintf(sql, sizeof(sql),
				 "update account set amount = amount + %d where id = %d", amount,
				 rand_r(&seed) % ROWS + 1);
			run(db, sql);
			snprintf(sql, sizeof(sql),
				 "update account set amount = amount - %d where id = %d", amount,
				 rand_r(&seed) % ROWS + 1);
			run(db, sql);
		}
		run(db, transactions % 7 ? "commit" : "rollback");
	}
	stop = true;
	snprintf(what, sizeof(what), "readers beside %ld transactions (%s)", transactions, mode);
	join(readers, what);
	left = value(db, "pragma integrity_check");
	check(!strcmp(left, "ok"), "integrity_check afterwards", left);
	free(left);
	sqlite3_close(db);
}

static void compare(const char *path, double seconds)
{
	struct reader readers[THREADS];
	sqlite3 *plain = open_database(path, "unix"), *db = open_database(path, "exmap");
	double before, times[2];
	char text[80], *stats, *integrity;
	int wrong;

	before = now();
	for (int i = 0; i < nr_queries; i++)
		answers[i] = ask(plain, queries[i]);
	times[0] = now() - before;
	before = now();
	wrong = ask_all(db, 0);
	times[1] = now() - before;
	snprintf(text, sizeof(text), "%d of %d wrong, %.2f s (plain: %.2f s)", wrong, nr_queries,
		 times[1], times[0]);
	check(!wrong, "queries", text);
	integrity = value(db, "pragma integrity_check");
	check(!strcmp(integrity, "ok"), "integrity_check", integrity);
	free(integrity);
	start(readers, read_all, path);
	join(readers, "threads that read at once");
	stats = value(db, "pragma exmap");
	printf("# %s\n", stats);
	free(stats);
	sqlite3_close(db);
	sqlite3_close(plain);
	change(path, "delete", seconds);
	change(path, "wal", seconds);
	db = open_database(path, "unix");
	free(value(db, "pragma journal_mode = delete"));
	sqlite3_close(db);
}

static void cost(const char *what, const char *how, const char *path)
{
	const bool scan = !strcmp(what, "scan");
	sqlite3 *db = open_database(path, strcmp(how, "exmap") ? "unix" : "exmap");
	char *last = value(db, "select max(id) from file");
	const long files = atol(last);
	const int rounds = scan ? 4 : 20000;
	sqlite3_stmt *statement;
	unsigned int seed = 1;
	double before;

	free(last);
	if (!strcmp(how, "mmap"))
		free(value(db, "pragma mmap_size = 1073741824"));
	if (sqlite3_prepare_v2(db, scan ? "select count(*), sum(bytes), max(path) from file" :
			       "select path, bytes from file where id = ?", -1, &statement, NULL))
		errx(1, "%s", sqlite3_errmsg(db));
	if (!strcmp(what, "transaction"))
		run(db, "begin");
	/* The first half brings in what the buffer has room for */
	before = now();
	for (int i = -rounds; i < rounds; i++) {
		if (!i)
			before = now();
		if (!scan)
			sqlite3_bind_int64(statement, 1, 1 + rand_r(&seed) % files);
		while (sqlite3_step(statement) == SQLITE_ROW)
			;
		sqlite3_reset(statement);
	}
	printf("%s,%s,%.0f\n", what, how, (now() - before) * 1e9 / rounds);
	sqlite3_finalize(statement);
	sqlite3_close(db);
}

int main(int argc, char **argv)
{
	if (exmap_vfs_register(0))
		errx(1, "the VFS cannot be registered");
	if (argc == 5 && !strcmp(argv[1], "--cost")) {
		cost(argv[2], argv[3], argv[4]);
		return 0;
	}
	if (argc < 3 || argc > 4)
		errx(1, "usage: compare DATABASE QUERIES [seconds]");
	read_queries(argv[2]);
	if (!nr_queries)
		errx(1, "%s: no queries", argv[2]);
	printf("1..7\n");
	compare(argv[1], argc == 4 ? atof(argv[3]) : 2);
	return failures || checks != 7;
}
