#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Which branches of the driver a command reaches: coverage.sh ['<command>']
#
# Builds the driver for gcov, runs the command in the machine with it (default: the
# fuzzer, FUZZ_SECONDS=600), and prints lines and branches reached, by file. What was
# not, by line, is in $CACHE/coverage/*.gcov. The variables of vm.sh count.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

OUT=$BUILD/lean
WORK=$CACHE/coverage
DRIVER=drivers/misc/exmap
default="/selftests/exmap/fuzz --seed 0 --seconds ${FUZZ_SECONDS:-600}"

"$TOP/scripts/build.sh" lean
rm -rf "$WORK"
mkdir -p "$WORK"
profile=()
for f in "$TREE/$DRIVER"/*.c; do
	profile+=("GCOV_PROFILE_$(basename "$f" .c).o=y")
done
env -u DEBUG -u LOG -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -C "$TREE" O="$OUT" CC="ccache gcc" HOSTCC="ccache gcc" \
	LOCALVERSION= -j"$JOBS" "${profile[@]}" $DRIVER/exmap.ko >"$WORK/build.log" 2>&1 ||
	{ tail -n 15 "$WORK/build.log" >&2; die "build failed (log: $WORK/build.log)"; }
cp "$OUT/$DRIVER"/*.gcno "$OUT/$DRIVER/exmap.ko" "$WORK/"
# The next build must not take this for its own
rm -f "$OUT/$DRIVER"/*.{o,gcno} "$OUT/.inputs"

code=0
TIMEOUT=${TIMEOUT:-3600} SHARE=$WORK "$TOP/scripts/vm.sh" "
	rmmod exmap && insmod /mnt/share/exmap.ko || exit 99
	${1:-$default}
	code=\$?
	cd /sys/kernel/debug/gcov && find . -name '*.gcda' | grep /exmap/ | while read -r f; do
		cat \"\$f\" >/mnt/share/\${f##*/}
	done
	exit \$code" || code=$?
[ $code != 99 ] || die "the machine could not load the driver"

cd "$WORK"
gcov -b -c -- *.gcda >gcov.log 2>&1 || die "gcov failed (log: $WORK/gcov.log)"
# "File", then "Lines executed:83.72% of 43", then the branches, by file
awk '
	/^File / { split($0, part, "\047"); file = part[2]; ours = file ~ /drivers\/misc\/exmap\/[a-z]*\.[ch]$/ && file !~ /_test/ }
	/^(Lines|Taken at least)/ && ours {
		split($0, part, /[:%]| of /)
		n = part[4]; hit = part[2] * n / 100
		if (/^Lines/) { lines = sprintf("%6.1f of %5d", part[2], n); all_lines += n; hit_lines += hit; next }
		sub(/.*\//, "", file)
		printf "%-14s lines %s  branches %6.1f of %5d\n", file, lines, part[2], n
		all += n; taken += hit; ours = 0
	}
	END {
		if (!all) exit 1
		printf "%-14s lines %6.1f of %5d  branches %6.1f of %5d (percent)\n", "all",
			100 * hit_lines / all_lines, all_lines, 100 * taken / all, all
	}' gcov.log || die "gcov said nothing of the driver (log: $WORK/gcov.log)"
exit $code
