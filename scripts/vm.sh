#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Run a shell command in a virtual machine with the kernel that was built.
#
#   vm.sh '<command>'	its output (and nothing else) on stdout, its exit status
#   vm.sh --shell	an interactive shell
#
#   DEBUG=1	the sanitizer kernel instead of the lean one; DEBUG=kcsan: the one that
#		looks for data races; DEBUG=rt: PREEMPT_RT; DEBUG=kmsan: the one that looks
#		for uninitialized memory; DEBUG=coverage: the one that counts branches
#   SHARE=dir	visible in the machine as /mnt/share; SHARE_RO=1: read only
#   CPUS=4  MEM=2048 (MiB; 6144 with DEBUG=kmsan)
#   DISK=4096 (MiB, ext4 on /mnt/disk, empty each time, beside XFS on /mnt/xfs, which
#		has 320, and an NVMe disk of 64 with DEBUG=1; 0: none)
#   NODES=1	NUMA nodes, each with an equal part of CPUs and memory
#   TIER=	MiB of memory in one more node, which has no CPUs
#   APPEND=	more kernel arguments    QEMU_ARGS=	more arguments of QEMU
#   ACCEL=	force one: tcg, "tcg,thread=single", kvm
#   TIMEOUT=900	seconds after which the machine counts as hung (0: never)
#   LOG=file	keep the kernel's console output
#   LEAKS=0	with DEBUG=1: skip the search for leaked memory at the end
#
# Exit status 124: hung. 125: the kernel panicked or reported a bug. 123: the
# machine did not start or did not end as it should. Else the command's.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
PATH=$PATH:/usr/sbin:/sbin	# mkfs, for people who are not root

config=$(wanted_config)
OUT=$BUILD/$config
CPUS=${CPUS:-4}
# KMSAN takes two thirds of it
[ "$config" != kmsan ] || MEM=${MEM:-6144}
MEM=${MEM:-2048}
DISK=${DISK:-4096}
NODES=${NODES:-1}
TIER=${TIER:-0}
TIMEOUT=${TIMEOUT:-900}
ACCEL=${ACCEL:-}
APPEND=${APPEND:-}
SHARE=${SHARE:-}

for v in CPUS MEM DISK NODES TIER TIMEOUT; do
	[[ ${!v} =~ ^[0-9]+$ ]] || die "$v=${!v}: not a number"
done
if [ "$NODES" = 0 ] || [ $((CPUS % NODES + MEM % NODES)) != 0 ]; then
	die "NODES=$NODES: CPUS=$CPUS and MEM=$MEM cannot be divided by that"
fi
case ${1:-} in
--shell) shell=1; TIMEOUT=0; [ -t 0 ] || die "--shell needs a terminal" ;;
''|--*)	die "usage: vm.sh '<command>' | vm.sh --shell (make vm CMD='<command>')" ;;
*)	shell= ;;
esac
if [ ! -f "$OUT/vmlinux" ] || [ ! -f "$OUT/initramfs.cpio" ]; then
	die "no $config kernel built in $OUT: make build"
fi
if [ -n "$SHARE" ]; then
	[ -d "$SHARE" ] || die "SHARE=$SHARE: no such directory"
	SHARE=$(cd "$SHARE" && pwd)
fi
[ "${SHARE//,/}" = "$SHARE" ] || die "SHARE=$SHARE: QEMU cannot take a comma in it"

mkdir -p "$CACHE/vm"

# Some machines offer a /dev/kvm that hangs our kernel: only one that was seen
# to boot it counts. Remembered as long as the host runs.
choose_accel() {
	local key
	key=$CACHE/vm/accel-$(cat /proc/sys/kernel/random/boot_id)
	if [ ! -s "$key" ]; then
		rm -f "$CACHE"/vm/accel-*
		if [ -r /dev/kvm ] && [ -w /dev/kvm ] &&
		   [ "$(ACCEL=kvm TIMEOUT=15 CPUS=2 SHARE='' APPEND='' QEMU_ARGS='' DEBUG=0 LOG='' \
			PROBE=1 "$0" 'echo booted' 2>/dev/null)" = booted ]; then
			echo kvm >"$key"
		else
			[ ! -e /dev/kvm ] ||
				say "vm: /dev/kvm does not boot our kernel, using emulation"
			echo tcg >"$key"
		fi
	fi
	ACCEL=$(cat "$key")
}
[ -n "$ACCEL" ] || if [ -f "$BUILD/lean/vmlinux" ]; then choose_accel; else ACCEL=tcg; fi

case $ACCEL in
kvm*)	machine=(-accel "$ACCEL" -cpu host) ;;
tcg)	machine=(-accel "tcg,thread=multi,tb-size=512" -cpu "qemu64,+rdrand,+svm,+npt") ;;
*)	machine=(-accel "$ACCEL" -cpu "qemu64,+rdrand,+svm,+npt") ;;
esac

run=$(mktemp -d "$CACHE/vm/run.XXXXXX")
qemu=
trap '[ -z "$qemu" ] || kill $qemu 2>/dev/null || true; rm -rf "$run"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# What differs from run to run goes into a second archive behind the first
mkdir "$run/root"
{
	[ -z "$shell" ] || stty size | sed "s/\(.*\) \(.*\)/shell='rows \1 cols \2'; export TERM=${TERM:-dumb}/"
	[ -z "$SHARE" ] || case ${SHARE_RO:-0} in
	1)	echo share=ro,cache=loose ;;
	*)	echo share=rw,cache=mmap ;;
	esac
	[ $config != debug ] || [ "${LEAKS:-1}" = 0 ] || echo leaks=1
} >"$run/root/settings"
[ -n "$shell" ] || printf '%s\n' "$1" >"$run/root/cmd"
(cd "$run/root" && find . | cpio --quiet -o -H newc -R 0:0) >"$run/settings.cpio"
cat "$OUT/initramfs.cpio" "$run/settings.cpio" >"$run/initramfs"

truncate -s "${DISK}M" "$run/disk"
truncate -s 320M "$run/disk.xfs"
[ "$DISK" = 0 ] || mkfs.ext4 -q -F -E nodiscard "$run/disk" || die "mkfs.ext4 failed"
[ "$DISK" = 0 ] || mkfs.xfs -q -K "$run/disk.xfs" || die "mkfs.xfs failed"

log=$run/console
: >"$log"
: >"$run/status"

# q35: the other machine's ACPI tables have a loop over all interrupts, which
# takes half a minute with the sanitizers
args=(
	-M "q35,usb=off,hpet=off,sata=off" -nodefaults -no-user-config -display none -no-reboot
	"${machine[@]}" -smp "$CPUS,sockets=$NODES" -m "$((MEM + TIER))"
	-kernel "$OUT/vmlinux" -initrd "$run/initramfs"
	-append "console=ttyS0 earlyprintk=ttyS0 panic=-1 oops=panic tsc=reliable rcupdate.rcu_cpu_stall_timeout=60 null_blk.nr_devices=1 null_blk.gb=1 null_blk.memory_backed=1 page_owner=on $APPEND"
	-chardev "file,id=log,path=$log" -device "isa-serial,chardev=log"
	-device virtio-serial-pci
	-chardev "file,id=status,path=$run/status" -device "virtserialport,chardev=status,name=status"
)
for disk in disk disk.xfs; do
	[ "$DISK" = 0 ] || args+=(-drive "file=$run/$disk,format=raw,if=none,id=$disk,cache=unsafe"
		-device "virtio-blk-pci,drive=$disk")
done
if [ "$DISK" != 0 ] && grep -q '^CONFIG_BLK_DEV_NVME=y' "$OUT/.config"; then
	truncate -s 64M "$run/disk.nvme"
	args+=(-drive "file=$run/disk.nvme,format=raw,if=none,id=disk.nvme,cache=unsafe"
		-device "nvme,drive=disk.nvme,serial=exmap")
fi
for ((n = 0; n < NODES && NODES + TIER > 1; n++)); do
	args+=(-object "memory-backend-ram,id=mem$n,size=$((MEM / NODES))M"
		-numa "node,nodeid=$n,memdev=mem$n,cpus=$((CPUS / NODES * n))-$((CPUS / NODES * (n + 1) - 1))")
done
[ "$TIER" = 0 ] || args+=(-object "memory-backend-ram,id=tier,size=${TIER}M"
	-numa "node,nodeid=$NODES,memdev=tier")
[ -z "$SHARE" ] || {
	ro=
	[ "${SHARE_RO:-0}" != 1 ] || ro=,readonly=on
	args+=(-virtfs "local,path=$SHARE,mount_tag=share,security_model=none,multidevs=remap$ro")
}
if [ -n "$shell" ]; then
	args+=(-chardev "stdio,id=tty,signal=off" -device "virtconsole,chardev=tty")
else
	# QEMU takes an open descriptor through a set only
	args+=(-add-fd "fd=7,set=1" -chardev "file,id=output,path=/dev/fdset/1,append=on"
		-device "virtserialport,chardev=output,name=output")
fi
# shellcheck disable=SC2206 # words are wanted
args+=(${QEMU_ARGS:-})

limit=()
[ "$TIMEOUT" = 0 ] || limit=(timeout --foreground -k 5 "$TIMEOUT")
code=0
if [ -n "$shell" ]; then
	"${limit[@]}" qemu-system-x86_64 "${args[@]}" || code=$?
else
	mkfifo "$run/output"
	cat "$run/output" &
	cat=$!
	# In the background, so that a signal to us reaches it
	"${limit[@]}" qemu-system-x86_64 "${args[@]}" 7>"$run/output" </dev/null &
	qemu=$!
	wait $qemu || code=$?
	qemu=
	wait $cat || true
fi
[ -z "${LOG:-}" ] || cp "$log" "$LOG"

show() {
	[ -z "${PROBE:-}" ] || return 0
	local keep=$CACHE/vm/failed-$config.log first
	cp "$log" "$keep"
	first=$(grep -nEm1 "$COMPLAINTS" "$log" | cut -d: -f1) || true
	say "---- kernel log (all of it: $keep)"
	if [ -n "$first" ]; then
		tail -n +"$((first > 5 ? first - 5 : 1))" "$log" | head -n 120 >&2
	else
		tail -n 60 "$log" >&2
	fi
	say "----"
}
result=$(sed -n 's/^exit //p' "$run/status" | tr -d '\r')
if grep -qE "$COMPLAINTS" "$log"; then
	show
	say "vm: the kernel reported a bug"
	exit 125
elif [ -n "$result" ] && [ $code = 0 ]; then
	exit "$result"
elif [ $code = 124 ] || [ $code = 137 ]; then
	show
	say "vm: no end after $TIMEOUT seconds (TIMEOUT=), stopped"
	exit 124
else
	show
	say "vm: the machine ended without an exit status (QEMU's own: $code)"
	exit 123
fi
