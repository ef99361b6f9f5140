#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Build user-mode Linux with the series and run a shell command in it: no machine,
# no emulation, milliseconds to start. Timing and TLB shootdowns mean nothing there.
#
#   uml.sh '<command>'	its output on stdout, its exit status
#
#   MEM=1024 (MiB)  APPEND= more kernel arguments  TIMEOUT=900 seconds, 0: never
#
# Exit status 124: hung. 125: the kernel reported a bug. 123: it did not start or did
# not end as it should. Else the command's.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# = 1 ] || die "usage: uml.sh '<command>'"
OUT=$BUILD/uml
ROOT=$OUT/root
[ -d "$BUILD/lean/programs/install" ] || die "no programs built: make build"
mkdir -p "$OUT"
exec 9>"$OUT/.lock"
flock -n 9 || { say "uml: another run is building or running, waiting"; flock 9; }

kmake() {
	env -u DEBUG -u LOG -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -C "$TREE" O="$OUT" ARCH=um \
		CC="ccache gcc" HOSTCC="ccache gcc" LOCALVERSION= -j"$JOBS" "$@" >>"$OUT/build.log" 2>&1 ||
		{ tail -n 15 "$OUT/build.log" >&2; die "build failed (log: $OUT/build.log)"; }
}
: >"$OUT/build.log"
if ! cmp -s "$TOP/configs/uml.config" "$OUT/.config.wanted"; then
	kmake KCONFIG_ALLCONFIG="$TOP/configs/uml.config" allnoconfig
	cp "$TOP/configs/uml.config" "$OUT/.config.wanted"
fi
kmake linux

# Its root is a directory of ours; what is written goes into memory
rm -rf "$ROOT"
mkdir -p "$ROOT"/{dev,etc,mnt/disk,proc,root,sys,tmp}
cp -al "$BUILD/lean/initramfs"/{bin,sbin,selftests,tools} "$ROOT/"
cp "$BUILD"/lean/initramfs/etc/* "$ROOT/etc/"
printf '%s\n' "$1" >"$ROOT/cmd"
cat >"$ROOT/init" <<-'END'
	#!/bin/sh
	export PATH=/bin:/tools HOME=/root EXMAP_TEST_DIR=/mnt/disk
	mount -t devtmpfs dev /dev
	mkdir -p /dev/pts /dev/shm
	mount -t devpts pts /dev/pts
	mount -t tmpfs shm /dev/shm
	mount -t proc proc /proc
	mount -t sysfs sys /sys
	mount -t tmpfs tmp /tmp
	mount -t ext4 /dev/ubda /mnt/disk
	mount -t debugfs debug /sys/kernel/debug
	mount -t configfs config /sys/kernel/config
	mount -t cgroup2 cgroup /sys/fs/cgroup
	ln -s /proc/self/fd /dev/fd
	cd /root
	setsid sh /cmd >/output 2>&1 </dev/null
	echo "exit $?" >/status
	sync
	poweroff -f
END
chmod +x "$ROOT/init"
rm -f "$OUT/disk"
truncate -s 1G "$OUT/disk"
PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -F "$OUT/disk" || die "mkfs.ext4 failed"
: >"$ROOT/output"
: >"$ROOT/status"

timeout --foreground -k 5 "${TIMEOUT:-900}" "$OUT/linux" "mem=${MEM:-1024}M" rootfstype=hostfs \
	rootflags="$ROOT" rw init=/init con0=fd:0,fd:1 con=null ssl=null \
	"ubd0=$OUT/disk" null_blk.nr_devices=1 null_blk.gb=1 null_blk.memory_backed=1 ${APPEND:-} \
	</dev/null >"$OUT/console" 2>&1 &
tail -n +1 -s 0.1 -f --pid=$! "$ROOT/output"
code=0
wait $! || code=$?

result=$(sed -n 's/^exit //p' "$ROOT/status")
if grep -qE "$COMPLAINTS|not ok " "$OUT/console"; then
	tail -n 60 "$OUT/console" >&2
	say "uml: the kernel reported a bug (log: $OUT/console)"
	exit 125
elif [ -n "$result" ]; then
	exit "$result"
elif [ $code = 124 ] || [ $code = 137 ]; then
	say "uml: no end after ${TIMEOUT:-900} seconds, stopped"
	exit 124
fi
tail -n 30 "$OUT/console" >&2
say "uml: it ended without an exit status (its own: $code)"
exit 123
