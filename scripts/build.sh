#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Build a kernel, its modules and the programs that run in the machine.
#
#   build.sh lean|debug|kcsan|coverage|rt|kmsan
#
# Output: $BUILD/<config>/{vmlinux,.config}, $BUILD/<config>/programs/ (the
# selftests and tools, static) and $BUILD/<config>/initramfs.cpio

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ -e "$TREE/Makefile" ] || die "no build tree $TREE: make tree"
config=${1:-}
case $config in
lean)	fragments=("$TOP/configs/lean.config") ;;
debug|kcsan|coverage|rt|kmsan)
	fragments=("$TOP/configs/lean.config" "$TOP/configs/$config.config") ;;
*)	die "usage: build.sh lean|debug|kcsan|coverage|rt|kmsan" ;;
esac
compiler=gcc
if [ "$config" = kmsan ]; then
	# Only clang has KMSAN; what Debian 12 calls clang is too old for the kernel
	compiler=clang-19
	"$TOP/scripts/setup.sh" $compiler
fi

OUT=$BUILD/$config
LOG=$OUT/build.log
PROGRAMS=$OUT/programs
mkdir -p "$OUT" "$PROGRAMS"
exec 9>"$OUT/.lock"
flock -n 9 || { say "build: another run is building $config, waiting"; flock 9; }

unset ARCH CROSS_COMPILE MAKEFLAGS MFLAGS MAKELEVEL

step() {	# <what> <command...>: quiet; the log on failure
	local what=$1 start=$SECONDS code
	shift
	printf '\n== %s\n' "$what" >>"$LOG"
	# Not inside an if: there, errexit would not count in functions
	set +e
	(set -e; "$@") >>"$LOG" 2>&1 </dev/null
	code=$?
	set -e
	if [ $code != 0 ]; then
		grep -nE '(error|Error|ERROR|undefined reference|No such file)' "$LOG" | tail -n 15 >&2 || true
		say "-- last lines:"
		tail -n 15 "$LOG" >&2
		die "$what failed (log: $LOG)"
	fi
	[ $((SECONDS - start)) -lt 2 ] || say "build: $what ($((SECONDS - start)) s)"
}

# The front door's own variables mean other things to other makefiles
clean() { env -u DEBUG -u LOG -u V -u W -u C -u M -u O -u CFLAGS -u LDFLAGS "$@"; }
# The way into the kernel that QEMU takes calls memcmp() before KASAN's shadow is
# there, if the compiler (GCC 13 on) leaves it a call
kmake() {
	clean make -C "$TREE" O="$OUT" CC="ccache $compiler" HOSTCC="ccache gcc" LOCALVERSION= \
		KASAN_SANITIZE_string.o=n "${variables[@]}" -j"$JOBS" "$@"
}
# The other objects of the kernel have no part in some things, and all their speed
variables=()
for_driver() {	# <variable>: of the objects of the driver
	local f
	for f in "$TREE"/drivers/misc/exmap/*.c; do
		[ ! -e "$f" ] || variables+=("$1_$(basename "$f" .c).o=y")
	done
}
case $config in
kcsan)
	variables=(KCSAN_SANITIZE=n KCSAN_SANITIZE_vma_batch.o=y)
	for_driver KCSAN_SANITIZE
	;;
coverage)
	for_driver GCOV_PROFILE
	;;
kmsan)
	# The PVH entry, which QEMU takes, must not use .bss yet, and KMSAN does
	variables=(KMSAN_SANITIZE_enlighten.o=n)
	;;
esac

configure() {
	local merged=$OUT/.config.wanted line option failed=0
	# Later fragments override earlier ones
	cat "${fragments[@]}" |
		awk -F = '/^CONFIG_/ { v[$1] = $0; if (!n[$1]++) o[++c] = $1 }
			END { for (i = 1; i <= c; i++) print v[o[i]] }' >"$merged.new"
	# The same wish for the same source: keep .config and what was built with it
	if cmp -s "$merged.new" "$merged" && [ -f "$OUT/.config" ]; then
		rm "$merged.new"
		kmake olddefconfig
	else
		kmake KCONFIG_ALLCONFIG="$merged.new" allnoconfig
		mv "$merged.new" "$merged"
	fi
	while read -r line; do
		option=${line%%=*}
		case $line in
		*=n)	grep -q "^$option=" "$OUT/.config" || continue ;;
		*)	! grep -qxF "$line" "$OUT/.config" || continue ;;
		esac
		echo "error: configs ask for $line, the kernel has: $(grep -w "$option" "$OUT/.config" || echo nothing)"
		failed=1
	done <"$merged"
	return $failed
}

# What the output is made of, in a hash: the same means nothing to do
inputs() {
	{
		gcc --version
		$compiler --version
		busybox | head -n 1
		# exmap-store has --uring or not
		find /usr/include/liburing.h 2>/dev/null || true
		cat "${fragments[@]}" "$TOP"/scripts/{common.sh,build.sh,init,run-selftests}
		git -C "$TREE" rev-parse 'HEAD^{tree}'
		git -C "$TREE" diff HEAD
		git -C "$TREE" ls-files -z -o --exclude-standard |
			(cd "$TREE" && xargs -0 -r sha1sum)
	} | sha1sum
}
now=$(inputs)
if [ "$(cat "$OUT/.inputs" 2>/dev/null)" = "$now" ]; then
	say "build: $config kernel is up to date"
	exit 0
fi
rm -f "$OUT/.inputs"
: >"$LOG"

say "build: $config kernel $(version_of "$TREE") in $OUT"
step "configuration" configure
step "kernel and modules" kmake vmlinux modules
step "user headers" kmake headers

# Everything the series has for user space, static: the machine has no libraries
programs() {
	local tools=$TREE/tools/exmap tests=$TREE/tools/testing/selftests/exmap
	rm -rf "$PROGRAMS/install"
	mkdir -p "$PROGRAMS"/{tools,selftests,install/tools,install/selftests/exmap}
	if [ -e "$tools/Makefile" ]; then
		clean make -C "$tools" OUTPUT="$PROGRAMS/tools/" STATIC=1 CC="ccache gcc" -j"$JOBS"
		find "$PROGRAMS/tools" -type f -perm -100 -exec cp {} "$PROGRAMS/install/tools/" \;
	fi
	if [ -e "$tests/Makefile" ]; then
		set -- -C "$tests" OUTPUT="$PROGRAMS/selftests" USERLDFLAGS=-static \
			KHDR_INCLUDES="-isystem $OUT/usr/include" CC="ccache gcc" CXX="ccache g++"
		clean make "$@" -j"$JOBS" all
		clean make "$@" install INSTALL_PATH="$PROGRAMS/install/selftests/exmap"
		clean make -s "$@" emit_tests COLLECTION=exmap |
			sed -n 's/^exmap://p' >"$PROGRAMS/install/selftests/exmap/.tests"
	fi
}
step "selftests and tools" programs

initramfs() {
	local root=$OUT/initramfs applet
	rm -rf "$root"
	mkdir -p "$root"/{bin,dev,etc,lib/modules,mnt/disk,mnt/share,mnt/xfs,proc,root,sys,tmp}
	cp -r "$PROGRAMS"/install/* "$root/"
	cp "$TOP/scripts/init" "$root/init"
	cp "$TOP/scripts/run-selftests" "$root/bin/"
	cp "$(command -v busybox)" "$root/bin/busybox"
	for applet in $("$root/bin/busybox" --list); do
		[ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
	done
	ln -s bin "$root/sbin"
	printf '%s\n' root:x:0:0:root:/root:/bin/sh nobody:x:65534:65534:nobody:/:/bin/sh >"$root/etc/passwd"
	printf '%s\n' root:x:0: nogroup:x:65534: >"$root/etc/group"
	kmake modules_install INSTALL_MOD_PATH="$root" INSTALL_MOD_STRIP=1
	rm -f "$root"/lib/modules/*/build
	(cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$OUT/initramfs.cpio.new"
	mv "$OUT/initramfs.cpio.new" "$OUT/initramfs.cpio"
}
step "initramfs" initramfs
echo "$now" >"$OUT/.inputs"
say "build: $config kernel done ($SECONDS s)"
