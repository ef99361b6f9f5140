#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Static checks of the series: one line "ok - name" or "not ok - name" each, the
# details below it as "# ...". Exit status 1 if any failed.
#
#   check.sh            all of them
#   check.sh <name>...  some: series checkpatch scripts kernel-doc manual uapi build

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null LC_ALL=C
unset ARCH CROSS_COMPILE MAKEFLAGS MFLAGS MAKELEVEL

# What checkpatch may say, and why. Everything else is a failure.
ALLOWED=(
	# The MAINTAINERS entry is the last patch's, and covers every new file
	FILE_PATH_CHANGES
)

SYNCED=refs/exmap/synced	# the commit that patches/ makes
SCRATCH=$CACHE/check-$NAME	# a second work tree, so that $TREE's builds stay valid
OUT=$BUILD/check
TMP=$(mktemp -d)
trap 'rm -rf "$TMP"' EXIT
failed=0

result() {	# <name> <file with complaints>
	if [ -s "$2" ]; then
		echo "not ok - $1"
		head -n "${MAXLINES:-60}" "$2" | sed 's/^/# /'
		failed=1
	else
		echo "ok - $1"
	fi
}

t() { git -C "$TREE" "$@"; }

patch_list() { sed 's/[[:space:]]*#.*//; s/[[:space:]].*//; /^$/d' "$TOP/series"; }
added() { t diff-tree -r --no-renames --diff-filter=A --name-only base $SYNCED; }
changed() { t diff-tree -r --no-renames --diff-filter=M --name-only base $SYNCED; }

check_series() {
	"$TOP/scripts/series.sh" check || failed=1
}

check_checkpatch() {
	local p ignore
	ignore=$(IFS=,; echo "${ALLOWED[*]}")
	for p in $(patch_list); do
		(cd "$TMP" && perl "$TREE/scripts/checkpatch.pl" --root="$TREE" --strict --show-types \
			--quiet --no-summary --ignore "$ignore" "$TOP/patches/$p") >"$TMP/out" 2>&1 ||
			[ -s "$TMP/out" ] || echo "checkpatch.pl failed without a word" >"$TMP/out"
		result "checkpatch --strict $p" "$TMP/out"
	done
}

check_scripts() {
	local f files=()
	for f in "$TOP"/scripts/* "$TOP"/.ci/*; do
		[ ! -f "$f" ] || ! head -n 1 "$f" | grep -q '^#!.*sh' || files+=("$f")
	done
	# The shell is as the first line of each says
	shellcheck -S warning -x -P "$TOP/scripts" "${files[@]}" >"$TMP/out" 2>&1 || [ -s "$TMP/out" ] ||
		echo "shellcheck failed without a word" >"$TMP/out"
	result "shellcheck of the scripts" "$TMP/out"
}

# kernel-doc of one file, in the tree $1, without the line numbers
kernel_doc() {
	(cd "$1" && PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 scripts/kernel-doc -none -Wall "$2" 2>&1) |
		sed -E 's/:[0-9]+(:| )/:\1/'
}

check_kernel_doc() {
	local f
	while read -r f; do
		kernel_doc "$TREE" "$f"
	done < <(added | grep -E '^(drivers|include|mm|lib|kernel)/.*\.[ch]$') >"$TMP/out"
	result "kernel-doc of the files that the series adds" "$TMP/out"
	# In existing files: nothing that was not there before
	while read -r f; do
		kernel_doc "$PRISTINE" "$f" | sort >"$TMP/before"
		kernel_doc "$TREE" "$f" | sort | comm -13 "$TMP/before" -
	done < <(changed | grep -E '\.[ch]$') >"$TMP/out"
	result "kernel-doc of the files that the series changes" "$TMP/out"
}

check_manual() {
	local f
	for f in "$TOP"/tools/exmap/*.[1-8] "$TOP"/tools/lib/exmap/*.[1-8]; do
		groff -ww -man -Tutf8 -z "$f" 2>&1
	done >"$TMP/out"
	result "the pages of the manual" "$TMP/out"
}

# The user header: alone, twice, in C and C++, as old and as new as programs are
check_uapi() {
	local h=$TOP/include/uapi/linux/exmap.h cmd
	for cmd in "gcc -std=c90" "gcc -std=c99" "gcc -std=gnu11" \
		   "g++ -std=c++98" "g++ -std=c++11" "g++ -std=c++20"; do
		# shellcheck disable=SC2086 # a command line
		echo 'int main(void) { return 0; }' | $cmd -Wall -Wextra -Werror -Wno-long-long -fsyntax-only \
			-x "$([ "${cmd%%+*}" = g ] && echo c++ || echo c)" \
			-include "$h" -include "$h" - >"$TMP/out" 2>&1 || [ -s "$TMP/out" ] || echo "$cmd failed" >"$TMP/out"
		result "uapi header with $cmd" "$TMP/out"
	done
}

# ---------------------------------------------------------------- every patch

kmake() {
	make -C "$SCRATCH" O="$OUT" CC="ccache gcc" HOSTCC="ccache gcc" LOCALVERSION= -j"$JOBS" "$@" </dev/null
}

# The lean configuration with the driver as $1 (y, m, n); what the patches up
# to here do not have is dropped by Kconfig
configure() {
	{
		grep -v '^CONFIG_EXMAP=' "$TOP/configs/lean.config"
		echo "CONFIG_EXMAP=$1"
		(cd "$SCRATCH" && git ls-files -s '*Kconfig*')
	} >"$TMP/wanted"
	# The same wish to the same Kconfig has the same result: half the time of
	# a patch that changes little
	! cmp -s "$TMP/wanted" "$TMP/configured" || return 0
	grep '^CONFIG_' "$TMP/wanted" >"$OUT/wanted"
	kmake -s KCONFIG_ALLCONFIG="$OUT/wanted" allnoconfig >"$TMP/log" 2>&1 || return
	! grep -E 'warning|error' "$TMP/log" || return
	mv "$TMP/wanted" "$TMP/configured"
}

# Drops what Debian's sparse says of every module there is: it takes the
# __builtin_strlen() in MODULE_LICENSE() and its like for no constant
known_noise() {
	local line re='^([^:]+):([0-9]+):[0-9]+: error: bad constant expression$'
	while read -r line; do
		[[ $line =~ $re ]] && sed -n "${BASH_REMATCH[2]}p" "${BASH_REMATCH[1]}" | grep -q '^MODULE_' ||
			printf '%s\n' "$line"
	done
}

# Compiles what the series touches, as commit $1 has it, with W=1. $2: the driver
# as y, m or n. $3: "sparse", to have that look at it as well. Prints the warnings.
# Without the kernel-doc of W=1, which takes longer than a compiler that has ccache:
# check_kernel_doc() looks at what the whole series makes.
compile() {
	local f targets=() extra=(KERNELDOC="$TMP/no-kernel-doc")

	git -C "$SCRATCH" checkout -q --detach "$(t rev-parse "$1")" 2>&1 || return
	configure "$2" || { cat "$TMP/log"; return 1; }
	while read -r f; do
		[ ! -e "$SCRATCH/$f" ] || targets+=("${f%.c}.o")
	done <"$TMP/sources"
	[ ! -e "$SCRATCH/drivers/misc/exmap" ] || [ "$2" = n ] || targets+=(drivers/misc/exmap/)
	[ ${#targets[@]} != 0 ] || return 0
	# Debian's sparse does not know __typeof_unqual__, on which the kernel
	# would leave sparse out altogether
	[ -z "${3:-}" ] || extra=(C=2 CHECK="sparse -D__typeof_unqual__=__typeof__")
	kmake W=1 "${extra[@]}" "${targets[@]}" >"$TMP/log" 2>&1 ||
		{ grep -v '^make' "$TMP/log" | tail -n 40; return 1; }
	[ -z "${3:-}" ] || grep -q '^  CHECK ' "$TMP/log" || { echo "sparse looked at nothing"; return 1; }
	{ grep -E '(warning|error):|^Warning:' "$TMP/log" || true; } | known_noise |
		sed "s,$SCRATCH/,,g" | sort -u
}

# Leaves in $TMP/out what the base does not say
new_warnings() {
	if compile "$@" >"$TMP/warnings"; then
		# Line numbers differ
		awk '{ key = $0; gsub(/:[0-9]+/, "", key) }
			FILENAME == ARGV[1] { before[key]; next }
			!(key in before)' "$TMP/before" "$TMP/warnings"
	else
		cat "$TMP/warnings"
	fi >"$TMP/out"
}

check_build() {
	local c i=0 f

	mkdir -p "$OUT"
	: >"$TMP/no-kernel-doc"
	exec 7>"$OUT/.lock"
	flock 7
	if ! git -C "$SCRATCH" rev-parse -q --verify HEAD >/dev/null 2>&1; then
		rm -rf "$SCRATCH"
		t worktree prune
		t worktree add -q --detach "$SCRATCH" base
	fi
	git -C "$SCRATCH" reset -q --hard

	# Existing kernel sources that the series changes, and those it adds
	# outside the driver's directory, which is built as a whole
	{ changed; added; } | grep -E '^(arch/x86|block|drivers|fs|io_uring|kernel|lib|mm)/.*\.c$' |
		grep -v '^drivers/misc/exmap/' | sort >"$TMP/sources" || true
	# A warning is given when a file is compiled, so compile
	while read -r f; do
		rm -f "$OUT/${f%.c}.o"
	done <"$TMP/sources"
	rm -rf "$OUT/drivers/misc/exmap"

	compile base m sparse >"$TMP/before" || { result "build of the base" "$TMP/before"; return; }
	for c in $(t rev-list --reverse base..$SYNCED); do
		i=$((i + 1))
		f="patch $i: $(t log -1 --format=%s "$c")"
		if t diff-tree -r --no-commit-id --name-only "$c" | grep -qvE '^(Documentation/|tools/|MAINTAINERS$)'; then
			new_warnings "$c" m
			result "W=1, $f" "$TMP/out"
		else
			say "check: nothing to compile in $f"
		fi
	done
	for c in y n; do
		new_warnings $SYNCED $c sparse
		result "W=1 and sparse, all patches, EXMAP=$c" "$TMP/out"
	done

	# The kernel's own test of user headers (see usr/include/Makefile; the
	# whole takes minutes), of ours alone: as installed, without any libc but
	# the dummies for the headers that the Makefile lists
	local usr=$OUT/usr/include flags=()
	flags=(-Wall -Werror -fsyntax-only -nostdinc -I "$usr")
	! grep -qx 'uses-libc += linux/exmap.h' "$SCRATCH/usr/include/Makefile" || flags+=(-I "$SCRATCH/usr/dummy-include")
	{
		kmake headers >"$TMP/log" 2>&1 || tail -n 20 "$TMP/log"
		gcc -std=c90 -Werror=implicit-function-declaration "${flags[@]}" \
			-x c /dev/null -include "$usr/linux/exmap.h" -include "$usr/linux/exmap.h" 2>&1 &&
		g++ -std=c++98 "${flags[@]}" -x c++ /dev/null -include "$usr/linux/exmap.h" 2>&1 &&
		perl "$SCRATCH/usr/include/headers_check.pl" "$usr" "$usr/linux/exmap.h" 2>&1
	} >"$TMP/out" || [ -s "$TMP/out" ] || echo "failed without a word" >"$TMP/out"
	result "make headers, header test of exmap.h" "$TMP/out"
}

# The tree gives checkpatch and kernel-doc, and the commits to build
need_tree() {
	[ -z "${have_tree:-}" ] || return 0
	"$TOP/scripts/series.sh" tree || die "checks of the build tree cannot run"
	have_tree=1
	[ -z "$(t log --format=%h $SYNCED..HEAD)$(t status --porcelain)" ] ||
		say "check: $TREE holds edits that are not in patches/; patches/ is what is checked"
}

[ $# != 0 ] || set -- series checkpatch scripts kernel-doc manual uapi build
for name; do
	case $name in
	series)		check_series ;;
	checkpatch)	need_tree; check_checkpatch ;;
	scripts)	check_scripts ;;
	kernel-doc)	need_tree; check_kernel_doc ;;
	manual)		check_manual ;;
	uapi)		check_uapi ;;
	build)		need_tree; check_build ;;
	*)		die "no check of the name $name" ;;
	esac
done
exit $failed
