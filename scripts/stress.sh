#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# In the machine with the sanitizers: the memory stressors of stress-ng, one kind
# after the other, and beside them the fuzzer, and again and again those selftests
# that have threads and processes race for a region.
#
#   STRESS_SECONDS=3600	how long
#
# The variables of vm.sh count. Exit status: 0; 1 if a test failed, the fuzzer found
# something, or stress-ng did nothing; or vm.sh's.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

seconds=${STRESS_SECONDS:-3600}
[[ $seconds =~ ^[0-9]+$ ]] || die "STRESS_SECONDS=$seconds: not a number"
"$TOP/scripts/setup.sh" stress-ng

# It is not static: its libraries, where it looks for them, come with it
share=$(mktemp -d)
trap 'rm -rf "$share"' EXIT
stress=$(command -v stress-ng)
ldd "$stress" | grep -o '/[^ ]*' | cpio --quiet -pdL "$share"
cp "$stress" "$share/stress-ng"

# Each stressor has its share of the time; of nine tenths, for they take some to end.
export DEBUG=1 MEM=${MEM:-6144} SHARE=$share SHARE_RO=1
TIMEOUT=${TIMEOUT:-$((seconds + 1200))} "$TOP/scripts/vm.sh" "seconds=$seconds"'
	cp -r /mnt/share/* / && cp /stress-ng /bin/ || exit 1
	end=$(($(date +%s) + seconds))

	# Without swapping, which the kernel here cannot, what is about MTRRs, and one
	# that was found to have counted wrong, for a reason not known
	without=swap,physpage,dev-shm
	kinds=$(stress-ng --class "vm?" 2>&1 | sed -n "s/^class .* stressors: *//p" | tr " " "\n" |
		grep -cvxE "${without//,/|}")
	[ "$kinds" -gt 0 ] || { echo "stress: stress-ng names no stressors"; exit 1; }
	each=$((seconds * 9 / 10 / kinds))
	# For it, 0 is for ever
	[ $each -gt 0 ] || each=1
	echo "stress: $kinds kinds of stressors of stress-ng, $each s each"
	mkdir /tmp/stress
	stress-ng --class vm --exclude $without --sequential 2 --vm-bytes 128m \
		--timeout $each --temp-path /tmp/stress --oomable --metrics-brief >/tmp/stress.log 2>&1 &
	stress=$!

	# If memory runs out, it is stress-ng that shall go
	echo -1000 >/proc/self/oom_score_adj
	/selftests/exmap/fuzz --seed 0 --seconds "$seconds" >/tmp/fuzz.log 2>&1 &
	fuzz=$!
	bad=0 rounds=0
	# The others allow for no more than 30 s each, which is little here
	while [ $(date +%s) -lt $end ]; do
		for t in thread_test \
			"deferred_test -t hunt_by_shortage -t hunt_by_high_water -t hunt_with_flushes" \
			"process_test -t ends_in_the_middle_of_calls" \
			"pin_test -t freed_with_reads_in_flight -t freed_under_a_reader"; do
			EXMAP_TEST_SCALE=50 timeout 1200 /selftests/exmap/$t >/tmp/test.log 2>&1 ||
				{ bad=$((bad + 1)); cat /tmp/test.log; }
		done
		rounds=$((rounds + 1))
	done
	wait $fuzz || bad=$((bad + 1))
	wait $stress
	# Its exit status is bad at times with nothing said: not all have time for a turn
	! grep "^stress-ng: fail:" /tmp/stress.log || bad=$((bad + 1))
	grep -E "metrc.*( +[0-9.]+){4}|error|completed" /tmp/stress.log
	grep -q "metrc.* vm-rw " /tmp/stress.log || { tail -n 20 /tmp/stress.log; bad=$((bad + 1)); }
	cat /tmp/fuzz.log
	echo "stress: $rounds rounds of the selftests, $bad failures of any kind"
	[ $bad = 0 ]'
