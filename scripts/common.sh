# SPDX-License-Identifier: GPL-2.0-only
# Sourced by every script here: where things are, and how to complain.
#
#   EXMAP_CACHE  downloads, trees and build output (default ~/.cache/exmap)
#   KERNEL       a kernel tree of one's own, read only, instead of Debian's
#   JOBS         parallel jobs (default: one a CPU)

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${EXMAP_CACHE:-$HOME/.cache/exmap}
JOBS=${JOBS:-$(nproc)}
KERNEL=${KERNEL:-}
export EXMAP_CACHE=$CACHE JOBS KERNEL

if [ -n "$KERNEL" ]; then
	PRISTINE=$(cd "$KERNEL" 2>/dev/null && pwd) ||
		{ echo "error: KERNEL=$KERNEL: no such directory" >&2; exit 1; }
	KERNEL=$PRISTINE
	# A tree of its own for every KERNEL, so that two never mix
	NAME=own-$(printf '%s' "$KERNEL" | sha1sum | cut -c1-8)
else
	# Made by scripts/kernel.sh: a link to the unpacked source in use
	PRISTINE=$CACHE/linux
	NAME=debian
fi
TREE=$CACHE/tree-$NAME		# pristine source + series, a git work tree
BUILD=$CACHE/build-$NAME	# build output: $BUILD/<config name>

# Depend mode: headers are hashed as found, not preprocessed a second time
export CCACHE_DIR=$CACHE/ccache CCACHE_DEPEND=1
# Nothing in the output depends on when and where it was built: ccache hits
export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970'
export KBUILD_BUILD_USER=exmap KBUILD_BUILD_HOST=exmap KBUILD_BUILD_VERSION=1

# A kernel that says any of this is a failed run, whatever the command says
COMPLAINTS='Kernel panic|BUG: |\] Oops|\] WARNING: |UBSAN: |INFO: (task|rcu_|lockdep)|rcu: INFO|detected stall|possible recursive locking|kmemleak: .*suspected|soft lockup|unable to handle|Modules linked in|init: FAILED|---\[ end trace'

# The configuration that DEBUG= asks for
wanted_config() {
	case ${DEBUG:-0} in
	1)	echo debug ;;
	kcsan|coverage|rt|kmsan)
		echo "$DEBUG" ;;
	*)	echo lean ;;
	esac
}

version_of() {	# <tree>: as its Makefile says
	sed -n 's/^VERSION = *//p; s/^PATCHLEVEL = */./p; s/^SUBLEVEL = */./p
		s/^EXTRAVERSION = *//p; /^NAME/q' "$1/Makefile" | tr -d '\n'
}

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
