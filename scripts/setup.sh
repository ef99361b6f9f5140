#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Install what the other scripts need, and the packages that are named, from Debian's
# own. Not as root: say what is missing and stop. With everything there, it costs
# milliseconds.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

packages=(
	# kernel build
	bc bison ccache cpio flex gcc kmod libc6-dev libelf-dev make
	perl python3 xz-utils
	# the example buffer manager
	liburing-dev
	# series and static checks
	b4 g++ git groff-base patch quilt rsync shellcheck sparse
	# virtual machine
	busybox-static e2fsprogs qemu-system-x86 xfsprogs
	"$@"
)

[ "$(uname -m)" = x86_64 ] || die "this needs an x86-64 machine: the kernel is built and run for x86-64"
[ -x /usr/bin/apt-get ] ||
	die "no dpkg and apt-get here: the scripts are made for Debian 12 and 13"

# shellcheck disable=SC2016 # the ${} are dpkg-query's
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null |
	sed -n 's/ installed$//p') || true
missing=()
for p in "${packages[@]}"; do
	grep -qxF "$p" <<<"$installed" || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0

line="apt-get install --no-install-recommends ${missing[*]}"
if [ "$(id -u)" != 0 ]; then
	say "These Debian packages are needed and not installed:"
	say "    ${missing[*]}"
	die "not root, so nothing was installed. Have root run:  $line"
fi

mkdir -p "$CACHE"
log=$CACHE/setup.log
say "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get -q update && $line -q -y; } >"$log" 2>&1 </dev/null; then
	tail -n 20 "$log" >&2
	die "could not install packages (log: $log). Tried: apt-get update; $line"
fi
