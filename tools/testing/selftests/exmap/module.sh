#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Unloading the module: refused while it is in use, and again and again
# otherwise. Works in busybox's shell.
# shellcheck disable=SC2317	# check() calls the functions

ksft_skip=4
n=0
failed=0

skip_all() {
	echo "1..0 # SKIP $*"
	exit $ksft_skip
}

# check <name> <command...>
check() {
	n=$((n + 1))
	name=$1
	shift
	if "$@"; then
		echo "ok $n $name"
	else
		echo "not ok $n $name"
		failed=1
	fi
}

find_module() {
	if [ -n "$EXMAP_MODULE" ]; then
		echo "$EXMAP_MODULE"
	else
		find "/lib/modules/$(uname -r)" -name 'exmap.ko*' 2>/dev/null | head -n 1
	fi
}

loaded() { [ -d /sys/module/exmap ]; }
node() { [ -c /dev/exmap ]; }

refused() {	# rmmod fails, says why, and nothing is gone
	message=$(rmmod exmap 2>&1) && return 1
	case $message in
	*"in use"*|*"temporarily unavailable"*|*busy*) ;;
	*) echo "# $message"; return 1 ;;
	esac
	loaded && node
}

cycle() {
	rmmod exmap && ! loaded && ! node && insmod "$module" && loaded && node
}

cycles() {
	i=0
	while [ "$i" -lt 5 ]; do
		cycle || return 1
		# Used in between
		(: </dev/exmap) || return 1
		i=$((i + 1))
	done
}

echo "TAP version 13"
[ "$(id -u)" = 0 ] || skip_all "not root"
loaded && [ ! -e /sys/module/exmap/initstate ] && skip_all "exmap is built in"
module=$(find_module)
[ -n "$module" ] || skip_all "no exmap module; name it with EXMAP_MODULE"
loaded || insmod "$module" || skip_all "cannot load $module"
for user in /sys/module/exmap/holders/*; do
	[ -e "$user" ] && skip_all "module ${user##*/} needs exmap"
done

echo "1..5"
exec 3</dev/exmap
check "refused while a file is open" refused
sleep 1000 &
exec 3<&-
check "refused while a child has the file open" refused
kill $!
wait $! 2>/dev/null
check "gone and back when the child was killed" cycle
check "again and again" cycles
check "there at the end" node
exit $failed
