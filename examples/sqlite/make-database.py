#!/usr/bin/python3
# SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause)
"""Make a database of a kernel source tree, and queries for it.

make-database.py TREE DATABASE QUERIES [--text MIB] [--page-size BYTES] [--vmlinux FILE]

Tables: every file, with its text as far as --text goes; every Kconfig symbol; the entries
and patterns of MAINTAINERS; the symbols of vmlinux. The same tree gives the same database.
"""
import argparse
import hashlib
import os
import random
import re
import sqlite3
import subprocess
import sys

SCHEMA = """
create table file(id integer primary key, path text unique, bytes integer, lines integer);
create table content(file integer primary key references file, text text);
create table kconfig(id integer primary key, name text, file integer references file,
                     type text, prompt text);
create table maintained(id integer primary key, title text, status text);
create table pattern(entry integer references maintained, kind text, glob text);
create table symbol(address integer, kind text, name text);
"""

INDEXES = """
create index file_bytes on file(bytes);
create index kconfig_name on kconfig(name);
create index kconfig_file on kconfig(file);
create index pattern_entry on pattern(entry);
create index pattern_glob on pattern(glob);
create index symbol_name on symbol(name);
create index symbol_address on symbol(address);
"""


def paths(tree):
    for folder, folders, names in os.walk(tree):
        folders[:] = sorted(f for f in folders if f != ".git")
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield os.path.relpath(path, tree)


def read(tree, path):
    with open(os.path.join(tree, path), "rb") as file:
        return file.read().decode("utf-8", "replace")


def add_files(db, tree, budget):
    """Returns the numbers of the files by path. The texts are those of a fixed sample."""
    numbers = {}
    rows = []
    for path in paths(tree):
        numbers[path] = len(numbers) + 1
        rows.append([numbers[path], path, os.path.getsize(os.path.join(tree, path)), None])
    chosen = set()
    for row in sorted(rows, key=lambda r: hashlib.sha1(r[1].encode()).digest()):
        if budget <= 0:
            break
        budget -= row[2]
        chosen.add(row[0])
    for row in rows:
        if row[0] in chosen:
            text = read(tree, row[1])
            row[3] = text.count("\n")
            db.execute("insert into content values(?, ?)", (row[0], text))
    db.executemany("insert into file values(?, ?, ?, ?)", rows)
    return numbers


def add_kconfig(db, tree, numbers):
    for path in numbers:
        if not os.path.basename(path).startswith("Kconfig"):
            continue
        name = None
        for line in read(tree, path).splitlines():
            found = re.match(r"(?:menu)?config\s+(\w+)", line)
            if found:
                name = found.group(1)
                continue
            found = re.match(r"\s+(bool|tristate|int|hex|string)(?:\s+\"(.*)\")?", line)
            if name and found:
                db.execute("insert into kconfig(name, file, type, prompt) values(?, ?, ?, ?)",
                           (name, numbers[path], found.group(1), found.group(2)))
                name = None


def add_maintainers(db, tree):
    entry = before = None
    for line in read(tree, "MAINTAINERS").splitlines():
        found = re.match(r"([A-Z]):\s+(.*)", line)
        if not found:
            if line.strip():
                before = line.strip()
            entry = None
            continue
        if entry is None:
            entry = db.execute("insert into maintained(title) values(?)", (before,)).lastrowid
        if found.group(1) == "S":
            db.execute("update maintained set status = ? where id = ?", (found.group(2), entry))
        else:
            db.execute("insert into pattern values(?, ?, ?)",
                       (entry, found.group(1), found.group(2)))


def add_symbols(db, vmlinux):
    if not vmlinux:
        return
    names = subprocess.run(["nm", vmlinux], capture_output=True, text=True, check=True).stdout
    for line in names.splitlines():
        words = line.split()
        if len(words) == 3:
            # Addresses of the kernel do not fit into an integer of SQLite
            db.execute("insert into symbol values(?, ?, ?)",
                       (int(words[0], 16) & (1 << 62) - 1, words[1], words[2]))


def queries(db, count):
    dice = random.Random(1)
    files = db.execute("select max(id) from file").fetchone()[0]
    contents = [row[0] for row in db.execute("select file from content")]
    configs = [row[0] for row in db.execute("select distinct name from kconfig order by 1")]
    symbols = [row[0] for row in db.execute("select name from symbol order by 1")] or ["none"]

    def pick(some):
        return dice.choice(some).replace("'", "''")

    kinds = [
        lambda: f"select path, bytes from file where id = {dice.randint(1, files)}",
        lambda: f"select length(text), substr(text, 1, 100) from content "
                f"where file = {dice.choice(contents)}",
        lambda: f"select k.name, k.type, k.prompt, f.path from kconfig k join file f "
                f"on f.id = k.file where k.name = '{pick(configs)}'",
        lambda: f"select count(*), min(address) from symbol where name >= '{pick(symbols)}' "
                f"and name < '{pick(symbols)}'",
        lambda: f"select name from symbol where name >= '{pick(symbols)}' order by name limit 50",
        lambda: f"select m.title, p.kind, p.glob from maintained m join pattern p "
                f"on p.entry = m.id where m.id = {dice.randint(1, 2000)}",
        lambda: f"select path, bytes from file where bytes > {dice.randint(0, 200000)} "
                f"order by bytes, path limit 40",
    ]
    scans = [
        "select count(*), sum(bytes), sum(lines) from file",
        "select count(*), sum(length(text)) from content",
        "select status, count(*) from maintained group by status order by status",
        "select type, count(*) from kconfig group by type order by type",
        "select kind, count(*), min(name), max(name) from symbol group by kind order by kind",
        "select count(*) from content where text like '%vma_batch%'",
        "select f.path, count(*) from kconfig k join file f on f.id = k.file "
        "group by f.path order by 2 desc, 1 limit 20",
    ]
    return scans + [dice.choice(kinds)() for _ in range(count)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tree")
    parser.add_argument("database")
    parser.add_argument("queries")
    parser.add_argument("--text", type=int, default=128, help="MiB of text (128)")
    parser.add_argument("--page-size", type=int, default=4096, help="of the database (4096)")
    parser.add_argument("--vmlinux", help="whose symbols are stored")
    args = parser.parse_args()

    if not os.path.exists(os.path.join(args.tree, "MAINTAINERS")):
        sys.exit(f"{args.tree} is no kernel source tree")
    if os.path.exists(args.database):
        os.unlink(args.database)
    db = sqlite3.connect(args.database)
    db.execute(f"pragma page_size = {args.page_size}")
    db.execute("pragma journal_mode = off")
    db.execute("pragma synchronous = off")
    db.executescript(SCHEMA)
    numbers = add_files(db, args.tree, args.text << 20)
    add_kconfig(db, args.tree, numbers)
    add_maintainers(db, args.tree)
    add_symbols(db, args.vmlinux)
    db.executescript(INDEXES)
    db.execute("pragma journal_mode = delete")
    db.commit()
    with open(args.queries, "w", encoding="utf-8") as file:
        for query in queries(db, 300):
            print(query, file=file)
    db.close()


main()
