#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Which branches of the driver a command reaches: coverage.sh ['<command>']
#
# Runs the command in the machine, on a kernel whose driver was built for gcov
# (default: the fuzzer, FUZZ_SECONDS=600), and prints lines and branches reached, by
# file. What was not, by line, is in $CACHE/coverage/*.gcov. The variables of vm.sh count.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

WORK=$CACHE/coverage
DRIVER=drivers/misc/exmap
default="/selftests/exmap/fuzz --seed 0 --seconds ${FUZZ_SECONDS:-600}"

rm -rf "$WORK"
mkdir -p "$WORK"
cp "$BUILD/coverage/$DRIVER"/*.gcno "$WORK/"

code=0
DEBUG=coverage TIMEOUT=${TIMEOUT:-3600} SHARE=$WORK "$TOP/scripts/vm.sh" "
	${1:-$default}
	code=\$?
	cd /sys/kernel/debug/gcov && find . -name '*.gcda' | grep /exmap/ | while read -r f; do
		cat \"\$f\" >/mnt/share/\${f##*/}
	done
	exit \$code" || code=$?

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
