#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Run the fuzzer of the selftests in the machine: fuzz.sh [its options]
#
#   FUZZ_SECONDS=600	how long, unless --steps or --seconds is among the options
#
# The seed is random and printed, unless it is given; DEBUG and the like are
# vm.sh's. Exit status: 0, or 1 if an answer or a page was wrong, or vm.sh's.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

seconds=${FUZZ_SECONDS:-600}
[[ $seconds =~ ^[0-9]+$ ]] || die "FUZZ_SECONDS=$seconds: not a number"
options=(--seed 0)
case " $* " in
*" --steps"*|*" --seconds"*|*" --world"*) ;;
*)	options+=(--seconds "$seconds") ;;
esac
# What was given comes later, and counts
options+=("$@")
for ((i = 0; i < ${#options[@]}; i++)); do
	case ${options[i]} in
	--seconds=*)	seconds=${options[i]#*=} ;;
	--seconds)	seconds=${options[i + 1]:-} ;;
	--steps*)	seconds=3000 ;;
	esac
done
# Beside that: to boot, for worlds to end, and to look for leaked memory
TIMEOUT=${TIMEOUT:-$((seconds + 600))} \
	"$TOP/scripts/vm.sh" "/selftests/exmap/fuzz ${options[*]@Q}"
