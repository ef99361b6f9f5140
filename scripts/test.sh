#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# All tests, or groups of them: test.sh [static] [compat] [library] [sqlite] [runner] [lean]
# [run] [debug]. Cheap ones first. Prints what failed with its output, and as the
# last line "N passed, N failed, N skipped". Logs: $CACHE/test. Nothing is
# remembered from one run to the next.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

mkdir -p "$CACHE"
exec 6>"$CACHE/.test.lock"	# two runs would write to the same logs
flock -n 6 || { say "test: another run is under way, waiting"; flock 6; }

LOGS=$CACHE/test
RESULTS=$LOGS/results	# one line a test: "pass|fail|skip <group>: <name>"; by lane
mkdir -p "$CACHE"
exec 8>"$CACHE/test.lock"
flock -n 8 || { say "test: another run is using $LOGS, waiting"; flock 8; }
rm -rf "$LOGS"
mkdir -p "$LOGS"
: >"$RESULTS"
unset DEBUG LEAKS SHARE APPEND QEMU_ARGS CPUS MEM NODES TIER LOG TIMEOUT

record() { printf '%s %s: %s\n' "$1" "$2" "$3" >>"$RESULTS"; }	# <verdict> <group> <name>

start=$SECONDS
summary() {	# <group>: one line
	local group=$1
	say "$(printf 'test: %-20s %4d passed, %d failed, %d skipped (%d s)' "$group" \
		"$(grep -c "^pass $group: " "$RESULTS")" "$(grep -c "^fail $group: " "$RESULTS")" \
		"$(grep -c "^skip $group: " "$RESULTS")" $((SECONDS - start)))"
	start=$SECONDS
}

# Results in TAP, nested or not, read from <log>: every line "ok" or "not ok"
# with the given indentation is a test. What came before a failed one, since the
# test before, is shown. A plan that was not kept is a failure.
tap() {	# <group> <log> [<indentation>]
	awk -v group="$1" -v results="$RESULTS" -v pre="^${3:-}" '
	function verdict(v, name) { print v, group ": " prefix name >>results }
	function finish(code) {
		if (plan != "" && seen != plan || plan == "" && seen == 0 && code != 4 && program != "") {
			verdict("fail", "ended after " seen " of " (plan == "" ? "?" : plan) " tests")
			printf "not ok - %s: %sended after %d of %s tests\n%s", group, prefix, seen, plan, output
		} else if (code != "" && code != 0 && code != 4 && !failed) {
			verdict("fail", "exit status " code)
			printf "not ok - %s: %sexit status %s\n%s", group, prefix, code, output
		} else if (code == 4 && seen == 0 && plan !~ /^[1-9]/)
			verdict("skip", "all of it")
		program = plan = output = ""; seen = failed = 0
	}
	{ line = $0 }
	/^# program / { program = $3; prefix = program ": "; plan = output = ""; seen = failed = 0; next }
	/^# exit / { finish($4); prefix = ""; next }
	line ~ pre "1\\.\\.[0-9]+" { plan = line; sub(/.*1\.\./, "", plan); plan += 0; if (plan == 0) plan = ""; next }
	line ~ pre "(not )?ok( |$)" {
		seen++
		name = line
		sub(pre "(not )?ok *[0-9]* *-? *", "", name)
		if (name ~ /# *(SKIP|skip)/) verdict("skip", name)
		else if (line ~ pre "ok") verdict("pass", name)
		else {
			failed = 1
			verdict("fail", name)
			printf "not ok - %s: %s%s\n%s", group, prefix, name, output
		}
		output = ""
		next
	}
	{ output = output "    " line "\n" }
	END { if (program != "") finish("none") }' "$2"
}

static() {
	local log=$LOGS/static code=0
	"$TOP/scripts/check.sh" >"$log" 2>&1 || code=$?
	tap static "$log" >/dev/null
	[ $code = 0 ] || grep -v '^ok ' "$log" || true	# details come after the result there
	# Failing without a "not ok" is a failure too
	if [ $code != 0 ] && ! grep -q '^fail static: ' "$RESULTS"; then
		record fail static "check.sh ended with $code"
	elif ! grep -q ' static: ' "$RESULTS"; then
		record fail static "check.sh ran no check"
	fi
	summary static
}

# The programs that people compiled against the older header still compile
compat() {
	local f std out
	for f in "$TREE"/tools/testing/selftests/exmap/compat*.c; do
		for std in gnu90 c11 gnu17; do
			compile "$(basename "$f") as $std" gcc -std=$std "$f"
		done
	done
	for f in "$TREE"/tools/testing/selftests/exmap/compat*.cc; do
		compile "$(basename "$f") as c++20" g++ -std=c++20 "$f"
	done
	summary compat
}
compile() {	# <name> <compiler...>
	attempt compat "$@" -Wall -Werror -I"$TREE/tools/testing/selftests" \
		-isystem "$BUILD/lean/usr/include" -fsyntax-only
}
attempt() {	# <group> <name> <command...>
	local group=$1 name=$2 out
	shift 2
	if out=$("$@" 2>&1); then
		record pass "$group" "$name"
	else
		record fail "$group" "$name"
		printf 'not ok - %s: %s\n%s\n' "$group" "$name" "$out"
	fi
}

# The library, on the kernel of this machine and as an ordinary user
library() {
	local dir=$LOGS/library code=0
	mkdir -p "$dir/out" "$dir/root"
	attempt library "builds without a warning" make -C "$TREE/tools/lib/exmap" OUTPUT="$dir/out/" \
		CC="ccache gcc -Werror" CXXFLAGS="-O2 -Werror -pedantic" all examples
	attempt library "exports what its map says" diff <(nm -D --defined-only "$dir/out/libexmap.so" |
		sed -n 's/.* T \(.*\)@@.*/\1/p' | sort) \
		<(sed -n 's/^\t\(exm_.*\);$/\1/p' "$TREE/tools/lib/exmap/libexmap.map" | sort)
	attempt library "exports what its header says" diff <(sed -n 's/^\t\(exm_.*\);$/\1/p' \
		"$TREE/tools/lib/exmap/libexmap.map" | sort) \
		<(sed -n 's/^[a-z].*[ *]\(exm_[a-z_]*\)(.*/\1/p' "$TREE/tools/lib/exmap/libexmap.h" | sort)
	attempt library "installs" make -C "$TREE/tools/lib/exmap" OUTPUT="$dir/out/" DESTDIR="$dir/root" \
		PREFIX=/usr install
	echo 'int main() { return exm_reader_install(); }' >"$dir/user.cc"
	attempt library "links with a C++ program" g++ -std=c++11 -pedantic -Wall -Wextra -Werror \
		-I "$dir/root/usr/include" -include libexmap.h "$dir/user.cc" \
		-L "$dir/root/usr/lib" -lexmap -o "$dir/user"
	attempt library "the C++ program runs" env LD_LIBRARY_PATH="$dir/root/usr/lib" "$dir/user"
	head -c 8M /dev/urandom >"$dir/file"
	attempt library "the example runs" "$dir/out/examples/random-reads" "$dir/file" 1
	attempt library "the example in C++20 runs" "$dir/out/examples/on-demand" "$dir/file" 20000

	# Debian's compiler, whatever else is on the PATH
	"$TOP/scripts/setup.sh" cargo
	attempt library "the Rust crate passes its tests" env PATH="/usr/bin:$PATH" \
		CARGO_TARGET_DIR="$dir/rust" cargo test --offline --quiet \
		--manifest-path "$TOP/bindings/rust/Cargo.toml"

	# The folder of the build may be closed to other users
	cp "$BUILD/lean/programs/selftests/lib_test" "$dir/"
	set -- "$dir/lib_test"
	if [ "$(id -u)" = 0 ]; then
		set -- setpriv --reuid=65534 --regid=65534 --clear-groups /proc/self/fd/3
	fi
	{
		echo "# program lib_test"
		# Without the variants for kernels with exmap
		"$@" -V exmap -V deferred 2>&1 3<"$dir/lib_test" || code=$?
		echo "# exit $code"
	} >"$dir/log"
	tap library "$dir/log"
	summary library
}

# SQLite, on the kernel of this machine and with exmap
sqlite() {
	local log=$LOGS/sqlite where code
	export SQLITE_TEXT=24 SQLITE_SECONDS=1
	for where in host machine; do
		code=0
		"$TOP/scripts/sqlite.sh" $where >"$log.$where" 2>"$log.$where.err" || code=$?
		tap "sqlite ($where)" "$log.$where"
		[ $code = 0 ] || {
			record fail "sqlite ($where)" "exit status $code"
			echo "not ok - sqlite ($where): exit status $code"
			tail -n 20 "$log.$where.err"
		}
		summary "sqlite ($where)"
	done
}

# KUnit, kselftests and the example through io_uring in one machine. What the
# example stores is what the machine has: large files, which are read ahead. With
# the sanitizers it is two machines, for two cores. In one of them, nothing looks
# for leaks, which takes a third of the time of io_test: most of what the programs
# there do, the fuzzer does in the other, beside the failing allocations. These two have
# two NUMA nodes, and the first one more that is nothing but memory. On the lean kernel,
# each program is in a memory cgroup of its own, in the others all are in the root group:
# so each meets both, and what the kernel counts for a group is looked at.
NO_LEAKS='io_test io_fault_test uring_test paged_io_test paged_uring_test paged_test action_test vectors_test read_test query_test region_test machine_test kvm_test numa_test move_test'
# With the sanitizers, these take a quarter of an hour to fill memory
LEAN_ONLY='cgroup_test reclaim_test tables_test'
guest() {	# lean|debug [leaks|no-leaks]
	local config=$1 part=${2:-} log=$LOGS/$1${2:+-$2} code=0
	local selftests="selftests ($1)" cgroup=
	# Shorter stress loops where everything takes many times as long, but for
	# the fuzzer, which TEST_FUZZ=seconds runs with random seeds
	local scale=40 fuzz=
	if [ "$config" = lean ]; then
		selftests="selftests ($config, cgroup)"
		cgroup=512M
	else
		export DEBUG=1
		scale=10
	fi
	[ "$part" != leaks ] || { export NODES=2; fuzz=${TEST_FUZZ:-}; }
	[ "$part" != no-leaks ] || export LEAKS=0 NODES=2 TIER=256 APPEND="kmemleak=off page_owner=off"
	TIMEOUT=1700 LOG=$log.console "$TOP/scripts/vm.sh" \
		"export EXMAP_TEST_SCALE=$scale FUZZ=$fuzz; part='$part' cgroup=$cgroup no_leaks='$NO_LEAKS' lean_only='$LEAN_ONLY'"'
		for f in /sys/kernel/debug/kunit/*/results; do
			[ "$part" = no-leaks ] || [ ! -e "$f" ] || { echo "# kunit"; cat "$f"; }
		done
		case $part in
		no-leaks) set -- $no_leaks ;;
		leaks)	set -- $(echo "$no_leaks $lean_only fuzz" | tr " " "\n" | grep -vxFf - /selftests/exmap/.tests) ;;
		esac
		run-selftests ${cgroup:+--cgroup $cgroup} "$@"
		code=$?
		if [ "$FUZZ" ]; then
			echo "# program fuzz-random"
			/selftests/exmap/fuzz --seed 0 --seconds "$FUZZ"
			echo "# exit fuzz-random $?"
		else
			printf "# program exmap-store\n1..3\n"
			exmapstat --json 0.1 >/tmp/stat &
			stat=$!
			timeout 300 exmap-store --uring --quiet --load /selftests --file /mnt/disk/store || printf "not "
			printf "ok 1 every file verified through io_uring\n"
			kill $stat
			grep -q "\"command\":\"exmap-store\".*\"resident\":[1-9]" /tmp/stat || printf "not "
			printf "ok 2 exmapstat sees its pages\n"
			timeout 300 exmap-store --page-size 16 --quiet --load /selftests --file /mnt/disk/store || printf "not "
			printf "ok 3 every file verified with pages of 16 KiB\n# exit exmap-store 0\n"
		fi
		exit $code' >"$log" 2>"$log.err" || code=$?
	unset DEBUG LEAKS NODES TIER APPEND
	sed -n '/^# kunit/,/^# program/p' "$log" | sed '/^# program/d' >"$log.kunit"
	sed -n '/^# program/,$p' "$log" >"$log.selftests"
	[ "$part" = no-leaks ] || tap "kunit ($config)" "$log.kunit" '    '
	tap "$selftests" "$log.selftests"
	for group in "kunit ($config)" "$selftests"; do
		[ "$part $group" = "no-leaks kunit ($config)" ] || grep -q "^[a-z]* $group: " "$RESULTS" || {
			record fail "$group" "no test ran"
			echo "not ok - $group: no test ran (log: $log)"
		}
	done
	# 1: some test failed, counted above
	if [ $code -gt 1 ]; then
		record fail "$selftests" "the machine: exit status $code"
		echo "not ok - $selftests: the machine: exit status $code"
		sed 's/^/    /' "$log.err"
	else
		record pass "$selftests" "the kernel reported no bug"
	fi
	[ "$part" = no-leaks ] || summary "kunit ($config)"
	summary "$selftests"
}

# The runner itself: what it must pass on, and what it must notice
expect() {	# <name> <status> <output or -> <command> [VAR=value...]
	local name=$1 status=$2 wanted=$3 cmd=$4 got=0 out=$LOGS/vm.$1
	shift 4
	out=${out// /_}
	env TIMEOUT=120 "$@" "$TOP/scripts/vm.sh" "$cmd" >"$out" 2>"$out.err" || got=$?
	if [ $got = "$status" ] && { [ "$wanted" = - ] || [ "$(sha1sum <"$out")" = "$(printf '%b' "$wanted" | sha1sum)" ]; }; then
		record pass vm "$name"
	else
		record fail vm "$name"
		printf 'not ok - vm: %s\n    exit status %s, expected %s; output:\n' "$name" "$got" "$status"
		head -c 2000 "$out" | cat -v
		tail -n 40 "$out.err"
	fi
}

runner() {
	local share=$LOGS/share
	mkdir -p "$share"
	echo outside >"$share/in"
	expect "exit status and output passed on" 7 'a\r\nb\0c\n' 'printf "a\r\nb\0c\n"; exit 7'
	expect "share is visible and writable" 0 'outside\n' 'cat /mnt/share/in; echo inside >/mnt/share/out' SHARE="$share"
	if [ "$(cat "$share/out" 2>/dev/null)" = inside ]; then
		record pass vm "share written from inside"
	else
		record fail vm "share written from inside"
		echo "not ok - vm: share written from inside"
	fi
	expect "long output arrives whole" 0 "$(printf '%02000000d' 0)" "printf '%02000000d' 0"
	expect "CPUS, MEM and APPEND reach the machine" 0 '3 1 1\n' \
		'echo $(grep -c ^processor /proc/cpuinfo) $(grep -c word /proc/cmdline) $(($(sed -n "s/^MemTotal: *\([0-9]*\).*/\1/p" /proc/meminfo) / 1024 / 600))' \
		CPUS=3 MEM=1024 APPEND=word
	expect "panic is a failed run" 125 - 'echo c >/proc/sysrq-trigger'
	expect "WARN is a failed run" 125 'still there\n' \
		'modprobe lkdtm && echo WARNING >/sys/kernel/debug/provoke-crash/DIRECT; echo still there'
	expect "hang is a failed run" 124 - 'sleep 1000' TIMEOUT=10
	summary vm
}

# Which kernel source kernel.sh takes from a suite. The suite is pretended: it has
# what the series changes as 7.3 and 7.4, and 7.5 has nothing to apply it to.
sources() {
	local dir=$LOGS/sources v files
	mkdir -p "$dir"/{bin,deb/DEBIAN,deb/usr/src}
	for v in 7.3 7.4 7.5; do
		files=Makefile
		[ $v = 7.5 ] || files+=" $(git -C "$TREE" diff-tree -r --diff-filter=M --name-only base refs/exmap/synced)"
		# shellcheck disable=SC2086 # names of kernel files
		git -C "$TREE" archive --prefix=linux/ base $files | xz -0 >"$dir/deb/usr/src/linux-source-$v.tar.xz"
		printf '%s\n' "Package: linux-source-$v" "Version: $v.1-1" "Architecture: all" \
			"Maintainer: nobody" "Description: pretended" >"$dir/deb/DEBIAN/control"
		dpkg-deb -b "$dir/deb" "$dir/linux-source-$v.deb" >"$dir/log" 2>&1
		rm "$dir"/deb/usr/src/*
	done
	cat >"$dir/bin/apt-get" <<-'END'
		#!/bin/sh
		case $* in
		*indextargets*)	echo 'Debian|Debian|main|file:/pretended/|' ;;
		*download*) v=${*##*linux-source-}; cp "$DEBS/linux-source-${v%=*}.deb" . ;;
		esac
	END
	cat >"$dir/bin/apt-cache" <<-'END'
		#!/bin/sh
		for v in $SUITE_HAS; do
			case $* in
			*pkgnames*) echo "linux-source-$v" ;;
			*"linux-source-$v") echo "Version: $v.1-1" ;;
			esac
		done
	END
	printf '%s\n' '#!/bin/sh' 'printf "\n- - - 9999999\n"' >"$dir/bin/df"
	chmod +x "$dir"/bin/*
	takes "7.4 7.3 7.5" 7.3
	takes "7.4 7.5" 7.4
	takes 7.5 none
	summary source
}
takes() {	# <suite> <which it takes>
	local dir=$LOGS/sources name="of $1 takes $2" got out
	out=$(env PATH="$dir/bin:$PATH" DEBS="$dir" SUITE_HAS="$1" KERNEL= EXMAP_CACHE="$dir/cache-$2" \
		"$TOP/scripts/kernel.sh" 2>&1) || out+=$'\n'"exit status $?"
	got=$(readlink "$dir/cache-$2/linux" || echo none)
	if { [ "$got" = none ] && [[ $2$out == none*7.5.1*KERNEL=*"exit status 1" ]]; } || [ "$got" = "src/linux-$2.1-1" ]; then
		record pass source "$name"
	else
		record fail source "$name"
		printf 'not ok - source: %s, not %s\n%s\n' "$name" "$got" "$out"
	fi
}

sanitizers() {
	expect "KASAN report is a failed run" 125 - \
		'modprobe lkdtm && echo SLAB_LINEAR_OVERFLOW >/sys/kernel/debug/provoke-crash/DIRECT' DEBUG=1 LEAKS=0
}

# The main job on exmap, and on what it is compared with
main_job() {	# <name> <more files than> [option of exmap-store]
	local name="every file verified on $1" log=$LOGS/run.$1 least=$2 code=0 n
	shift 2
	"$TOP/scripts/run.sh" --quiet "$@" >"$log" 2>&1 || code=$?
	n=$(sed -n 's/^.*verified[^0-9]*\([0-9]*\) of \([0-9]*\).*$/\1 \2/p' "$log" | tail -n 1)
	if [ $code = 0 ] && [ -n "$n" ] && [ "${n% *}" = "${n#* }" ] && [ "${n% *}" -gt $least ]; then
		record pass run "$name"
	else
		record fail run "$name"
		echo "not ok - run: $name (exit status $code)"
		tail -n 60 "$log" | sed 's/^/    /'
	fi
}

wanted=" ${*:-static compat library sqlite runner lean run debug} "
want() { [[ $wanted == *" $1 "* ]]; }

"$TOP/scripts/kernel.sh"
"$TOP/scripts/series.sh" tree
"$TOP/scripts/build.sh" lean

# In lanes, for two cores: a test waits for something much of the time, the more
# so where one is slow. Each has results of its own.
lanes=()
trap '[ ${#lanes[@]} = 0 ] || kill -- "${lanes[@]/#/-}" 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
lane() {	# <name> <command...>
	local name=$1
	shift
	set -m	# a process group of its own, which ends with us
	{
		RESULTS=$RESULTS.$name
		: >"$RESULTS"
		start=$SECONDS
		"$@"
	} >"$LOGS/lane.$name" </dev/null &
	lanes+=($!)
	set +m
}
debug() {	# leaks|no-leaks: the first to come builds, the other waits for that
	if ! "$TOP/scripts/build.sh" debug; then
		record fail debug "build of the debug kernel"
	elif [ "$1" = leaks ]; then
		guest debug leaks
	else
		sanitizers
		guest debug no-leaks
	fi
}
if want debug; then
	lane debug-leaks debug leaks
	lane debug-no-leaks debug no-leaks
fi
start=$SECONDS
! want static || static
! want compat || compat
! want library || library
! want sqlite || sqlite
! want runner || { sources; runner; }
! want lean || guest lean
if want run; then
	main_job exmap 10000
	# The same, but a part of it will do
	main_job madvise 500 --madvise --load /mnt/share/translations
	summary run
fi
for i in "${lanes[@]}"; do
	wait "$i" || record fail debug "the tests on the debug kernel ended early"
done
lanes=()
cat "$LOGS"/lane.* 2>/dev/null || true
cat "$RESULTS".* >>"$RESULTS" 2>/dev/null || true

failed=$(grep -c '^fail ' "$RESULTS" || true)
if [ "$failed" != 0 ]; then
	say "failed:"
	sed -n 's/^fail /  /p' "$RESULTS" >&2
fi
echo "$(grep -c '^pass ' "$RESULTS" || true) passed, $failed failed, $(grep -c '^skip ' "$RESULTS" || true) skipped"
[ "$failed" = 0 ]
