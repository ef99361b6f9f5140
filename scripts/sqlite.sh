#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# SQLite on a buffer in an exmap region (examples/sqlite), compared with SQLite as it is,
# on a database made of the kernel source.
#
#   sqlite.sh build	the extension, the program that compares, and the database
#   sqlite.sh host	on the kernel of this machine, without exmap
#   sqlite.sh machine	in the machine, with exmap
#   sqlite.sh cost	in the machine: instructions of a scan and of point queries
#
#   SQLITE_TEXT=128	MiB of text in the database
#   SQLITE_SECONDS=2	how long readers and writers run beside each other
#
# Output: $CACHE/sqlite/{exmap-vfs.so,compare,database.*,queries.*}. Each comparison is TAP,
# with a buffer of 64 pages, of an eighth of the database, and of all of it.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

OUT=$CACHE/sqlite
SQLITE=$TOP/examples/sqlite
SECONDS_EACH=${SQLITE_SECONDS:-2}
TEXT=${SQLITE_TEXT:-128}
DATABASE=$OUT/database.$TEXT
QUERIES=$OUT/queries.$TEXT

build() {
	"$TOP/scripts/setup.sh" libsqlite3-dev
	mkdir -p "$OUT"
	# The linker warns of functions that a static program should not use, and this does not
	make -s -C "$SQLITE" O="$OUT" >"$OUT/build.log" 2>&1 || {
		cat "$OUT/build.log" >&2
		die "examples/sqlite cannot be built"
	}
	if [ "$DATABASE" -nt "$SQLITE/make-database.py" ]; then
		return
	fi
	say "sqlite: making a database of the kernel source"
	vmlinux=$BUILD/lean/vmlinux
	[ -e "$vmlinux" ] || vmlinux=
	/usr/bin/python3 "$SQLITE/make-database.py" "$PRISTINE/" "$OUT/large-pages" \
		"$OUT/queries.large-pages" --text 8 --page-size 16384
	/usr/bin/python3 "$SQLITE/make-database.py" "$PRISTINE/" "$DATABASE.new" "$QUERIES" \
		${vmlinux:+--vmlinux "$vmlinux"} --text "$TEXT"
	mv "$DATABASE.new" "$DATABASE"
}

# The sizes of the buffer in KiB
buffers() {
	local size
	size=$(stat -c %s "$DATABASE")
	echo "256 $((size / 8 / 1024)) $((2 * size / 1024))"
}

compare_one() {	# <name> <KiB> <database> <queries>
	local code=0
	echo "# program $1"
	cp "$3" "$OUT/copy"
	EXMAP_SQLITE_STOCK=1 EXMAP_SQLITE_MEMORY=${2}K \
		"$OUT/compare" "$OUT/copy" "$4" "$SECONDS_EACH" || code=1
	echo "# exit $code"
	return $code
}

compare() {
	local kib code=0
	for kib in $(buffers); do
		compare_one "buffer-of-$kib-KiB" "$kib" "$DATABASE" "$QUERIES" || code=1
	done
	compare_one pages-of-16-KiB 4096 "$OUT/large-pages" "$OUT/queries.large-pages" || code=1
	echo "# program extension"
	extension || code=1
	echo "# exit $code"
	rm -f "$OUT/copy"
	return $code
}

# The extension in a program that knows nothing of it
extension() {
	local query="select count(*), sum(bytes) from file" plain answer
	plain=$(/usr/bin/python3 - "$OUT/copy" "$query" <<-'END'
		import sqlite3, sys
		print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone())
	END
	)
	answer=$(EXMAP_SQLITE_MEMORY=4M /usr/bin/python3 - "$OUT/copy" "$query" "$OUT/exmap-vfs.so" <<-'END'
		import sqlite3, sys
		first = sqlite3.connect(":memory:")
		first.enable_load_extension(True)
		first.load_extension(sys.argv[3])
		db = sqlite3.connect(sys.argv[1])
		print(db.execute(sys.argv[2]).fetchone())
		print(db.execute("pragma exmap").fetchone()[0], file=sys.stderr)
	END
	) || return
	echo 1..1
	if [ -n "$plain" ] && [ "$plain" = "$answer" ]; then
		echo "ok 1 loaded: $answer"
	else
		echo "not ok 1 loaded: $answer, not $plain"
		return 1
	fi
}

machine() {
	local dir
	dir=$(mktemp -d "$OUT/share.XXXXXX")
	# shellcheck disable=SC2064 # what it is now
	trap "rm -rf '$dir'" EXIT
	ln "$DATABASE" "$dir/database"
	ln "$QUERIES" "$dir/queries"
	ln "$OUT/compare" "$dir/"
	SHARE=$dir SHARE_RO=1 TIMEOUT=${TIMEOUT:-1800} "$TOP/scripts/vm.sh" "buffers='$(buffers)' seconds=$SECONDS_EACH"'
		cp /mnt/share/* /mnt/disk/
		cd /mnt/disk || exit 1
		code=0
		for kib in $buffers; do
			echo "# program buffer-of-$kib-KiB"
			EXMAP_SQLITE_MEMORY=${kib}K ./compare database queries $seconds || code=1
			echo "# exit $code"
		done
		exit $code'
}

# The file system is on memory, so that nothing waits, and each instruction is a nanosecond
cost() {
	local dir size
	dir=$(mktemp -d "$OUT/share.XXXXXX")
	# shellcheck disable=SC2064 # what it is now
	trap "rm -rf '$dir'" EXIT
	mkdir "$dir/root"
	cp "$DATABASE" "$dir/root/database"
	size=$(stat -c %s "$DATABASE")
	truncate -s $((size / 1048576 + 32))M "$dir/image"
	PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -F -d "$dir/root" "$dir/image"
	rm -r "$dir/root"
	ln "$OUT/compare" "$dir/"
	SHARE=$dir SHARE_RO=1 CPUS=1 ACCEL=tcg,thread=single QEMU_ARGS="-icount shift=0,sleep=off" \
		MEM=2048 DISK=0 "$TOP/scripts/vm.sh" '
		dd if=/mnt/share/image of=/dev/nullb0 bs=1M 2>/dev/null
		mkdir /database && mount -t ext4 /dev/nullb0 /database || exit 1
		echo +memory >/sys/fs/cgroup/cgroup.subtree_control
		mkdir /sys/fs/cgroup/limit
		echo 16M >/sys/fs/cgroup/limit/memory.max
		echo $$ >/sys/fs/cgroup/limit/cgroup.procs
		for what in scan points transaction; do
			for how in plain mmap exmap; do
				EXMAP_SQLITE_MEMORY=8M /mnt/share/compare --cost $what $how /database/database
			done
		done' | awk -F , '
		{ cost[$1, $2] = $3 }
		END {
			print "SQLite in a memory cgroup of 16 MiB, instructions: a scan of a table with its paths,"
			print "a point query in a transaction of its own, and one of many in a transaction. The"
			print "buffer in the exmap region has 8 MiB."
			printf "\n%-12s %12s %12s %12s %10s\n", "", "plain", "mmap", "exmap", "exmap/mmap"
			n = split("scan points transaction", what, " ")
			for (i = 1; i <= n; i++)
				printf "%-12s %12.0f %12.0f %12.0f %10.3f\n", what[i], cost[what[i], "plain"],
					cost[what[i], "mmap"], cost[what[i], "exmap"],
					cost[what[i], "exmap"] / cost[what[i], "mmap"]
		}'
}

case ${1:-} in
build)	build ;;
host)	build; compare ;;
machine) build; machine ;;
cost)	build; cost ;;
*)	die "usage: sqlite.sh build|host|machine|cost" ;;
esac
