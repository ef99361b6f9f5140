#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Measure what it costs to place a page and to take it away again, with exmap and
# with what else Linux has for that. The figures hold on any machine: they are
# numbers of instructions and of interrupts, not times.
#
#   bench.sh			everything
#   bench.sh <section>...	some: instructions shootdowns
#
# Tables on stdout; all that was measured is in $CACHE/bench/<section>.csv. What
# this kernel does not have shows as "-".

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

OUT=$CACHE/bench
BENCH=/selftests/exmap/bench
GIB=262144	# pages
POOL=16384	# pages

TMP=$(mktemp -d)
trap 'rm -rf "$TMP"' EXIT
mkdir -p "$OUT"

# Runs the cases on stdin, each the arguments of the bench program, in one
# machine. Adds a line for each to $TMP/csv.
measure() {
	local script args cases=0

	# Where mappings lie decides how deep their tree is: up to 3 % of a figure
	script="echo 0 >/proc/sys/kernel/randomize_va_space
		run() { $BENCH --csv \$h \"\$@\" || { echo \"bench: failed: \$*\"; exit 1; }; h=--no-header; }"
	while read -r args; do
		script+=$'\n'"run $args"
		cases=$((cases + 1))
	done
	# The programs' stderr comes out of the machine as well
	TIMEOUT=${TIMEOUT:-3600} SHARE='' DEBUG=0 DISK=0 "$TOP/scripts/vm.sh" "$script" | awk -v csv="$TMP/csv" '
		/^what,/	{ if (!header++) print >(csv ".header"); next }
		/^[^ ,]+,[0-9]/	{ print >>csv; fflush(); next }
				{ if (!seen[$0]++) print >"/dev/stderr" }' ||
		die "bench: not all cases could be measured"
	expected=$((expected + cases))
	[ "$(wc -l <"$TMP/csv")" = $expected ] ||
		die "bench: $(wc -l <"$TMP/csv") results for $expected cases"
}

begin() {
	say "bench: $1"
	rm -f "$TMP"/csv*
	expected=0
}

end() {	# <section>
	cat "$TMP/csv.header" "$TMP/csv" >"$OUT/$1.csv"
}

setting() {
	local release=$BUILD/lean/include/config/kernel.release

	[ ! -f "$release" ] || printf 'Linux %s, lean configuration; ' "$(cat "$release")"
	qemu-system-x86_64 --version | sed -n '1s/ (.*//p'
}

# ------------------------------------------------------------ instructions

# A page cleared by the kernel costs the instructions of clearing it: that is
# why there are two groups of columns
PLAIN=(exmap exmap-deferred exmap-vectors)
CLEARED=(exmap-zero fault+madvise fault+process_madvise populate+dontneed uffd)

instruction_cases() {
	local region batch what

	echo "--what empty-ioctl"
	for region in $GIB $((64 * GIB)); do
		for what in "${PLAIN[@]}" "${CLEARED[@]}"; do
			# One page is contiguous with itself
			for batch in 512 64 8 1; do
				echo "--what $what --region $region --batch $batch --pattern contiguous"
			done
			[ "$what" != populate+dontneed ] || continue
			for batch in 512 64 8; do
				echo "--what $what --region $region --batch $batch --pattern scattered"
			done
		done
	done
}

instructions() {
	begin "instructions, about 4 minutes"
	CPUS=1 ACCEL=tcg,thread=single QEMU_ARGS="-icount shift=0,sleep=off" \
		measure < <(instruction_cases)
	end instructions

	echo "Instructions to place a page and take it away again: one thread, the program's"
	echo "own loop included, no touch but where the fault is the way to get the page"
	setting
	awk -F , -v plain="${PLAIN[*]}" -v cleared="${CLEARED[*]}" -v gib=$GIB '
		{ ns[$1, $6, $3 == 1 ? "contiguous" : $4, $3] = $12 }
		function cell(s) { return s == "" || s == "-" ? "-" : sprintf("%.0f", s) }
		# A column: its name on two lines, and how wide they are
		function column(name,   cut) {
			col[++n] = name
			cut = match(name, /[-+]/)
			upper[n] = substr(name, 1, cut ? cut : length(name))
			lower[n] = cut ? substr(name, cut + 1) : ""
			width[n] = length(upper[n]) > length(lower[n]) ? length(upper[n]) : length(lower[n])
			if (width[n] < 5)
				width[n] = 5
		}
		# A line of the table, whose cells are in cells[]
		function line(label,   i, s) {
			s = sprintf("%-16s", label)
			for (i = 1; i <= n; i++)
				s = s sprintf(i == np + 1 || i == nc + 1 ? " | %*s" : "  %*s", width[i], cells[i])
			sub(/ +$/, "", s)
			print s
		}
		function row(region, pattern, batch,   label, i) {
			label = batch == 1 ? "1 page" : batch " " pattern
			for (i = 1; i <= nc; i++)
				cells[i] = cell(ns[col[i], region, pattern, batch])
			cells[nc + 1] = region == gib ? old[label] : ""
			cells[nc + 2] = region == gib ? stock[label] : ""
			line(label)
		}
		END {
			np = split(plain, p, " ")
			nc = np + split(cleared, c, " ")
			for (i = 1; i <= nc; i++)
				column(i <= np ? p[i] : c[i - np])
			column("module-[1]")
			column("stock-[2]")
			# Measured once, by the same method
			old["512 scattered"] = 418
			old["64 scattered"] = 434
			old["1 page"] = 1591
			stock["512 contiguous"] = 597
			stock["512 scattered"] = 1830
			stock["1 page"] = 2750
			for (r = 1; r <= 64; r *= 64) {
				for (i = 1; i <= n; i++)
					cells[i] = upper[i]
				print ""
				line(r " GiB region")
				for (i = 1; i <= n; i++)
					cells[i] = lower[i]
				line("")
				row(r * gib, "scattered", 512)
				row(r * gib, "scattered", 64)
				row(r * gib, "scattered", 8)
				row(r * gib, "contiguous", 1)
				row(r * gib, "contiguous", 8)
				row(r * gib, "contiguous", 64)
				row(r * gib, "contiguous", 512)
			}
			printf "\nAn empty ioctl: %s\n", cell(ns["empty-ioctl", gib, "scattered", 64])
		}' "$TMP/csv"
	cat <<-EOF

		Left: pages as they were freed. Middle: pages cleared by the kernel (uffd: copied).
		exmap, exmap-deferred: an ACTION for ALLOC, another for FREE. exmap-vectors and
		exmap-zero: one call for the FREE of a batch and the ALLOC of the next.
		Right, not measured here but once, by the same method, and quoted as constants:
		[1] the out-of-tree module from which exmap comes, made to run on Linux 7.3.4
		[2] a driver with vm_insert_pages() and zap_vma_range()
	EOF
}

# -------------------------------------------------------------- shootdowns

SHOOTDOWN_CPUS=(2 4 8 16)
STRICT=exmap
DEFERRED=exmap-deferred
PEERS=(fault+process_madvise fault+madvise)

shootdown_cases() {	# <cpus>
	local common="--churn --threads $1 --batch 64 --pool $POOL --full 95" region zipf what

	for region in $((64 * GIB)) $((8 * POOL)); do
		for zipf in '' --zipf; do
			for what in $STRICT $DEFERRED; do
				echo "--what $what $common --region $region $zipf"
			done
		done
	done
	# They do not care about addresses. Fewer rounds, for one flushes with every page
	for what in "${PEERS[@]}"; do
		echo "--what $what $common --region $((8 * POOL)) --rounds $((65536 / 64 / $1))"
	done
}

shootdowns() {
	local n

	begin "shootdowns, about 3 minutes"
	for n in "${SHOOTDOWN_CPUS[@]}"; do
		say "bench: $n CPUs"
		CPUS=$n ACCEL=tcg,thread=single QEMU_ARGS='' measure < <(shootdown_cases "$n")
	done
	end shootdowns

	echo "Shootdowns: a thread on every CPU; batches of 64 pages take the place of random"
	echo "ones of a pool of $POOL pages that is kept 95 % full"
	setting
	awk -F , -v pool=$POOL -v gib=$GIB -v strict=$STRICT '
		function per(count, pages, digits) {
			return count == "-" ? "-" : sprintf("%." digits "f", count * 1000 / pages)
		}
		BEGIN {
			format = "%4s %-10s %-9s %-22s %13s %8s %10s | %8s %8s %8s\n"
			printf "\n%62s%21s   %s\n", "interrupts a page", "", "flushes for 1000 pages"
			printf format, "CPUs", "region", "new pages", "", "and other CPU", "1 in", "of strict",
				"to other", "all", "by page"
		}
		{
			region = $6 == 8 * pool ? "8 pools" : $6 / gib " GiB"
			if ($1 == strict)
				base[$2, $6, $5] = $15
			of = "-"
			one_in = $15 > 0 ? sprintf("%.1f", 1 / $15) : "-"
			if ($1 != strict && $15 != "-" && base[$2, $6, $5] > 0)
				of = sprintf("%.3f", $15 / base[$2, $6, $5])
			if ($2 != last && last)
				print ""
			last = $2
			printf format, $2, region, $5, $1, $15, one_in, of,
				per($16, $10, 3), per($17, $10, 3), per($18, $10, 1)
		}' "$TMP/csv"
	cat <<-EOF

		Interrupts: the line TLB of /proc/interrupts. Flushes (with CONFIG_DEBUG_TLBFLUSH):
		those that asked other CPUs; what CPUs flushed of their own, all or page by page
	EOF
}

[ $# != 0 ] || set -- instructions shootdowns
for section; do
	case $section in
	instructions|shootdowns) ;;
	*)	die "no section of the name $section (instructions shootdowns)" ;;
	esac
done
for section; do
	$section
	echo
done
say "bench: $(cd "$OUT" && echo "$OUT"/*.csv)"
