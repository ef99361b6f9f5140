#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Measure what it costs to place a page, to take it away again and to read or write
# it, with exmap and with what else Linux has for that. The figures hold on any
# machine: they are numbers of instructions and of interrupts, and ratios of times.
#
#   bench.sh			everything
#   bench.sh <section>...	some: instructions locked shootdowns scaling io lookup regions slots placement library sqlite cold clock
#
# Tables on stdout; all that was measured is in $CACHE/bench/<section>.csv. What
# this kernel does not have shows as "-".

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

OUT=$CACHE/bench
BENCH=/selftests/exmap/bench
GIB=262144	# pages
POOL=16384	# pages

TMP=$(mktemp -d)
trap 'umount "$TMP/memory" 2>/dev/null || true; rm -rf "$TMP"' EXIT
mkdir -p "$OUT"

# Runs the cases on stdin, each the arguments of the bench program, in one
# machine. Adds a line for each to $TMP/csv. The arguments are a shell script that
# goes before, if any.
measure() {
	local script args cases=0

	# Where mappings lie decides how deep their tree is: up to 3 % of a figure
	script="echo 0 >/proc/sys/kernel/randomize_va_space
		run() { $BENCH --csv \$h \"\$@\" || { echo \"bench: failed: \$*\"; exit 1; }; h=--no-header; }"
	script+=$'\n'"$*"
	while read -r args; do
		script+=$'\n'"run $args"
		cases=$((cases + 1))
	done
	# The programs' stderr comes out of the machine as well
	TIMEOUT=${TIMEOUT:-3600} SHARE='' DEBUG=0 DISK=${DISK:-0} "$TOP/scripts/vm.sh" "$script" | awk -v csv="$TMP/csv" '
		/^emulated$/	{ print >(csv ".notes"); next }
		/^what,/	{ if (!header++) print >(csv ".header"); next }
		/^[^ ,]+(,[^ ,]+)+$/	{ print >>csv; fflush(); next }
		/\t\[exmap\]$/	{ print >(csv ".kallsyms"); next }
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

plugin_api() {
	qemu-system-x86_64 --version | sed -n 's/.* version \([0-9]*\)\..*/\1/p' |
		{ read -r major; [ "$major" -ge 10 ] && echo 3 || echo 1; }
}

# The arguments of QEMU to trace a machine (plugin/exmap-trace.c), in $trace
trace=
begin_trace() {	# <options of the plugin>
	[ -e "$TMP/exmap-trace.so" ] ||
		gcc -O2 -fPIC -shared -DPLUGIN_API="$(plugin_api)" -o "$TMP/exmap-trace.so" \
			"$TOP/scripts/plugin/exmap-trace.c" || die "bench: the plugin does not compile"
	rm -f "$TMP"/trace*
	trace="-plugin $TMP/exmap-trace.so,$1,out=$TMP/trace"
}

# The trace of each case that was measured since: $TMP/trace.1 and so on
end_trace() {	# <cases>
	awk -v trace="$TMP/trace" '/^# mode / { close(file); file = trace "." ++n } { print >file }' "$TMP/trace"
	[ "$(find "$TMP" -name 'trace.*' | wc -l)" = "$1" ] ||
		die "bench: not one trace for each of $1 cases"
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
CLEARED=(exmap-zero fault+madvise fault+process_madvise fault+guard populate+dontneed uffd)

instruction_cases() {
	local region pool batch what common

	echo "--what empty-ioctl"
	# In a region more than 64 times as large as the pool, FREE has to free page
	# tables. Such a region has a row of its own.
	echo "--what exmap --region $((64 * GIB)) --pool 16384 --batch 512 --pattern scattered"
	for region in $GIB $((64 * GIB)); do
		pool=$((region / 64 < 16384 ? 16384 : region / 64))
		for what in "${PLAIN[@]}" "${CLEARED[@]}"; do
			common="--what $what --region $region --pool $pool"
			# One page is contiguous with itself
			for batch in 512 64 8 1; do
				echo "$common --batch $batch --pattern contiguous"
			done
			[ "$what" != populate+dontneed ] || continue
			for batch in 512 64 8; do
				echo "$common --batch $batch --pattern scattered"
			done
			echo "$common --batch 512 --pattern ascending"
			echo "$common --batch 512 --pattern neighbours"
			echo "$common --batch 64 --pattern neighbours"
		done
	done
}

# Of the kernel only: the loops of the benchmark need none
locked_cases() {
	local what pattern

	for what in exmap exmap-deferred exmap-vectors fault+process_madvise; do
		for pattern in scattered ascending neighbours contiguous; do
			echo "--what $what --region $GIB --batch 512 --pattern $pattern"
		done
		echo "--what $what --region $GIB --batch 64 --pattern scattered"
		echo "--what $what --region $GIB --batch 1 --pattern contiguous"
	done
}

locked() {
	local i=0 args

	begin "locked operations, a minute"
	begin_trace mode=insn
	# Without that, a kernel on one CPU removes the prefixes
	CPUS=1 APPEND=noreplace-smp ACCEL=tcg,thread=single \
		QEMU_ARGS="-icount shift=0,sleep=off $trace" measure < <(locked_cases)
	end_trace "$(locked_cases | wc -l)"
	end locked
	while read -r args; do
		i=$((i + 1))
		printf '%s,%s\n' "$(sed -n "${i}p" "$TMP/csv" | cut -d, -f1,3,4,10)" "$(
			awk '$3 == "lock" && $1 ~ /^ffff/ { n += $2 } END { print n + 0 }' "$TMP/trace.$i")"
	done < <(locked_cases) | awk -F , '
		{ n[$1, $2 " " ($2 == 1 ? "page" : $3)] = $5 / $4; w[$1] = 1 }
		BEGIN {
			nw = split("exmap exmap-deferred exmap-vectors fault+process_madvise", what, " ")
			nr = split("512 scattered,512 ascending,512 neighbours,64 scattered,1 page,512 contiguous", row, ",")
		}
		END {
			print "Locked operations of the kernel to place a page and take it away again"
			printf "\n%-16s", ""
			for (i = 1; i <= nw; i++)
				printf "  %*s", length(what[i]), what[i]
			print ""
			for (k = 1; k <= nr; k++) {
				printf "%-16s", row[k]
				for (i = 1; i <= nw; i++)
					printf "  %*.1f", length(what[i]), n[what[i], row[k]]
				print ""
			}
		}'
}

instructions() {
	begin "instructions, about 6 minutes"
	CPUS=1 MEM=3072 ACCEL=tcg,thread=single QEMU_ARGS="-icount shift=0,sleep=off" \
		measure < <(instruction_cases)
	end instructions

	echo "Instructions to place a page and take it away again: one thread, the program's"
	echo "own loop included, no touch but where the fault is the way to get the page"
	setting
	awk -F , -v plain="${PLAIN[*]}" -v cleared="${CLEARED[*]}" -v gib=$GIB '
		$6 / $7 > 64 { sparse = $12; next }
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
			old["512 neighbours"] = 418
			old["64 neighbours"] = 434
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
				row(r * gib, "ascending", 512)
				row(r * gib, "neighbours", 512)
				row(r * gib, "scattered", 64)
				row(r * gib, "neighbours", 64)
				row(r * gib, "scattered", 8)
				row(r * gib, "contiguous", 1)
				row(r * gib, "contiguous", 8)
				row(r * gib, "contiguous", 64)
				row(r * gib, "contiguous", 512)
			}
			printf "\n512 scattered in 64 GiB with a pool of 64 MiB, exmap: %s\n", cell(sparse)
			printf "An empty ioctl: %s\n", cell(ns["empty-ioctl", gib, "scattered", 64])
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

# Where the kernel asks other CPUs, flushes all of its own TLB, or one page
FLUSH_FUNCTIONS="native_flush_tlb_multi native_flush_tlb_local native_flush_tlb_one_user"

flush_addresses() {	# separated by colons
	awk -v names="$FLUSH_FUNCTIONS" '
		{ at[$3] = $1 }
		END {
			n = split(names, name, " ")
			for (i = 1; i <= n; i++)
				printf "%s%s", (i > 1 ? ":" : ""), at[name[i]]
		}' "$BUILD/lean/System.map"
}

# Puts what was traced of the last cases into their columns
count_flushes() {	# <cases>
	local cases=$1 i

	end_trace "$cases"
	for ((i = 1; i <= cases; i++)); do
		awk -v at="$(flush_addresses)" '{ n[$1] = $2 }
			END { split(at, a, ":"); print n[a[1]] + 0, n[a[2]] + 0, n[a[3]] + 0 }' "$TMP/trace.$i"
	done >"$TMP/flushes"
	awk -v OFS=, -v skip=$((expected - cases)) -v flushes="$TMP/flushes" -F , '
		NR > skip && (getline line <flushes) > 0 && $10 != "-" {
			split(line, n, " ")
			$16 = n[1]; $17 = n[2]; $18 = n[3]
		}
		{ print }' "$TMP/csv" >"$TMP/csv.new"
	mv "$TMP/csv.new" "$TMP/csv"
}

shootdowns() {
	local n

	begin "shootdowns, about 3 minutes"
	for n in "${SHOOTDOWN_CPUS[@]}"; do
		say "bench: $n CPUs"
		begin_trace "mode=insn,at=$(flush_addresses)"
		CPUS=$n ACCEL=tcg,thread=single QEMU_ARGS=$trace measure < <(shootdown_cases "$n")
		count_flushes "$(shootdown_cases "$n" | wc -l)"
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

		Interrupts: the line TLB of /proc/interrupts. Flushes: those that asked other CPUs;
		then what all CPUs did to their own TLBs: flush all, or one page
	EOF
}

# ----------------------------------------------------------------- scaling

SCALING_CPUS=(1 2 4 8 16 32 64)
SCALING_PAGES=65536
# Twice the free pages that all threads together keep for themselves
SCALING_POOL=65536

scaling_cases() {	# <cpus>
	local what pattern

	for what in $STRICT $DEFERRED; do
		for pattern in scattered apart; do
			echo "--what $what --pattern $pattern --threads $1 --batch 64 --pool $SCALING_POOL" \
				"--region $GIB --rounds $((SCALING_PAGES / 64 / $1)) --turn 1"
		done
	done
}

# Lines for the CSV file, each a case and a function
scaling_lines() {	# <cpus>
	local i=0 args head

	while read -r args; do
		i=$((i + 1))
		head=$(awk -F , -v line=$((expected - $(scaling_cases "$1" | wc -l) + i)) '
			NR == line { print $1 "," $4 "," $3 "," $2 "," $10 }' "$TMP/csv")
		# One CPU shares nothing
		if ! grep -qv '^#' "$TMP/trace.$i"; then
			echo "$head,other,-,0,0,0"
			continue
		fi
		"$TOP/scripts/symbols.sh" -k "$TMP/csv.kallsyms" "$TMP/trace.$i" | awk -v head="$head" '
			$1 !~ /^[0-9]+$/	{ next }
			# Behind the functions comes their group
			$5 == "="	{
				for (i = 1; i <= n; i++)
					print head "," $6 "," line[i]
				n = 0
				next
			}
			{ line[++n] = $6 ($7 ~ /^\[/ ? " " $7 : "") "," $2 "," $3 "," $4 }'
	done < <(scaling_cases "$1")
}

scaling() {
	local n

	begin "scaling, about 5 minutes"
	echo "what,pattern,batch,threads,pages,group,function,loads,stores,moves" >"$TMP/scaling"
	for n in "${SCALING_CPUS[@]}"; do
		say "bench: $n CPUs"
		begin_trace mode=lines
		# With a clock that counts instructions, ticks are as rare as on real CPUs
		CPUS=$n ACCEL=tcg,thread=single QEMU_ARGS="-icount shift=0,sleep=off $trace" \
			measure "grep exmap /proc/kallsyms" < <(scaling_cases "$n")
		end_trace "$(scaling_cases "$n" | wc -l)"
		scaling_lines "$n" >>"$TMP/scaling"
	done
	cp "$TMP/scaling" "$OUT/scaling.csv"

	echo "Scaling: a thread on every CPU, with an interface and a file of its own; batches"
	echo "of 64 pages in a region of 1 GiB. Accesses of the kernel to cache lines that two"
	echo "or more CPUs write, a page placed and taken away again"
	setting
	awk -F , -v strict=$STRICT -v deferred=$DEFERRED '
		function accesses(what, pattern, n, group) {
			return sum[what, pattern, n, group] / pages[what, pattern, n]
		}
		function ratio(what, pattern, limit,   s) {
			s = counted(what, pattern, last) / counted(what, pattern, 2)
			return sprintf("%-16s %-10s %6.2f   <= %.1f   %s", what, pattern, s, limit,
				s <= limit ? "yes" : "no")
		}
		# The target: without the shootdowns, but with deferred ones everything
		function counted(what, pattern, n,   s) {
			s = accesses(what, pattern, n, "other")
			if (what == deferred)
				s += accesses(what, pattern, n, "shootdown")
			return s
		}
		NR == 1 { next }
		$6 != "[user]" {
			sum[$1, $2, $4, $6] += $8 + $9
			moves[$1, $2, $4] += $6 == "other" ? $10 : 0
			pages[$1, $2, $4] = $5
			if ($4 != last)
				cpus[++nr] = last = $4
			if ($6 == "other") {
				if ($4 != of[$1, $2]) {
					of[$1, $2] = $4
					rows[$1, $2] = 0
				}
				# symbols.sh has sorted them
				if (rows[$1, $2] < 14)
					row[$1, $2, ++rows[$1, $2]] = sprintf("%8.2f %8.2f  %s",
						($8 + $9) / $5, $10 / $5, $7)
			}
		}
		END {
			nw = split(strict " " deferred, w, " ")
			np = split("scattered apart", p, " ")
			printf "\n%4s", ""
			for (i = 1; i <= nw; i++)
				for (j = 1; j <= np; j++)
					printf " | %25s", w[i] ", " p[j]
			printf "\n%4s", "CPUs"
			for (i = 1; i <= nw * np; i++)
				printf " | %8s %6s %9s", "accesses", "moves", "shootdown"
			print ""
			for (k = 1; k <= nr; k++) {
				printf "%4s", cpus[k]
				for (i = 1; i <= nw; i++)
					for (j = 1; j <= np; j++)
						printf " | %8.2f %6.2f %9.2f", accesses(w[i], p[j], cpus[k], "other"),
							moves[w[i], p[j], cpus[k]] / pages[w[i], p[j], cpus[k]],
							accesses(w[i], p[j], cpus[k], "shootdown")
				print ""
			}
			printf "\n%d CPUs to 2, with deferred flushes everything counted: target, met\n", last
			for (i = 1; i <= nw; i++)
				for (j = 1; j <= np; j++)
					print ratio(w[i], p[j], w[i] == strict ? 1.5 : 3)
			for (i = 1; i <= nw; i++)
				for (j = 1; j <= np; j++) {
					printf "\n%s, %s, %d CPUs: the most\n%8s %8s\n", w[i], p[j], last,
						"accesses", "moves"
					for (k = 1; k <= rows[w[i], p[j]]; k++)
						print row[w[i], p[j], k]
				}
		}' "$TMP/scaling"
	cat <<-EOF

		scattered: every page table is used by all threads, as by a program whose threads
		work on all of its data; the locks and entries of page tables are most of it then.
		apart: each thread has a part of the region, so that what is left is shared for
		another reason. moves: how many of the accesses can have missed the cache at most.
		shootdown: the lines by which a CPU reaches the others; they grow with the CPUs.
	EOF
}

# ------------------------------------------------------------------ lookup

# Pages of the database and resident ones: in the cache and the TLB, and far beyond
LOOKUP_SIZES=(16384:4096 4194304:262144)

lookup() {
	local size csv=$OUT/lookup.csv program=$BUILD/lean/programs/selftests/bench_lookup

	say "bench: lookups, a minute"
	echo "how,what,pages,resident,lookups,ns" >"$csv"
	# The time does not depend on the kernel: this machine has real caches
	for size in "${LOOKUP_SIZES[@]}"; do
		"$program" --csv --pages "${size%:*}" --resident "${size#*:}" | sed -n 's/^/clock,/; 2,$p' >>"$csv"
	done
	CPUS=1 DISK=0 SHARE='' DEBUG=0 ACCEL=tcg,thread=single QEMU_ARGS="-icount shift=0,sleep=off" \
		"$TOP/scripts/vm.sh" "/selftests/exmap/bench_lookup --csv --pages 16384 --resident 4096" |
		sed -n 's/^/counted,/; 2,$p' >>"$csv"

	echo "Find a page that is resident, and read 8 bytes of it; each lookup depends on the one before"
	sed -n 's/^model name.*: //p; s/^cache size.*: /cache /p' /proc/cpuinfo | sort -u | paste -sd ' '
	awk -F , '
		NR > 1 {
			if (!seen[$2]++)
				name[++n] = $2
			key = $1 == "counted" ? $1 : $1 $3
			ns[$2, key] = $6 / $5
		}
		function row(what, from) {
			printf "%-16s %14.1f %14.1f %14.1f\n", what,
				ns[what, "counted"] - ns[from, "counted"],
				ns[what, "clock16384"] - ns[from, "clock16384"],
				ns[what, "clock4194304"] - ns[from, "clock4194304"]
		}
		END {
			printf "\n%-16s %14s %14s %14s\n", "", "instructions", "ns, 16 MiB", "ns, 1 GiB"
			for (i = 2; i <= n; i++)
				row(name[i], name[1])
		}' "$csv"
	cat <<-EOF

		fixed address: as with an exmap, in a region 4 or 16 times as large, in pages of
		4 KiB. array, hash table: the resident pages lie in huge pages; to bring a page in
		or evict it costs no call of the kernel there.
	EOF
}

# ----------------------------------------------------------------- library

library() {
	local csv=$OUT/library.csv

	say "bench: library, a minute"
	CPUS=1 DISK=0 SHARE='' DEBUG=0 ACCEL=tcg,thread=single QEMU_ARGS="-icount shift=0,sleep=off" \
		"$TOP/scripts/vm.sh" "echo 0 >/proc/sys/kernel/randomize_va_space; /selftests/exmap/bench_lib" >"$csv"
	echo "Instructions for a page that is brought in and evicted, in two calls, and what libexmap adds"
	awk -F , '
		NR == 1 { printf "\n%-16s %10s %20s %20s\n", "pages in a call", "ioctl", "exm_call", "exm_alloc, exm_free" }
		NR > 1 {
			printf "%-16d %10.1f %12.1f (%+.1f %%) %12.1f (%+.1f %%)\n", $1, $2,
				$3, 100 * ($3 / $2 - 1), $4, 100 * ($4 / $2 - 1)
		}' "$csv"
}

# -------------------------------------------------------------------- cold

# The source with two changes, without which user-mode Linux would hide what is to be
# seen: it has one lock for all page tables, and remembers which entries to carry over
# to the host, which takes ten times as long as all the rest
cold_tree() {	# <where>
	local file=arch/um/include/asm/pgtable.h

	mkdir -p "$1"
	cp -au "$TREE/." "$1/"
	sed '/^config SPLIT_PTE_PTLOCKS/,/^config/{/depends on !UML/d}' "$TREE/mm/Kconfig" >"$TMP/Kconfig"
	sed '/guard(spinlock_irqsave)(&mm->context.sync_tlb_lock)/i\	return;' "$TREE/$file" >"$TMP/pgtable.h"
	# As new, because the object may be that of the last run without prefetching
	cp "$TREE/mm/vma_batch.c" "$1/mm/"
	cmp -s "$TMP/Kconfig" "$1/mm/Kconfig" || cp "$TMP/Kconfig" "$1/mm/Kconfig"
	cmp -s "$TMP/pgtable.h" "$1/$file" || cp "$TMP/pgtable.h" "$1/$file"
}

cold_make() {	# <argument of make>...
	make -C "$CACHE/cold-tree" O="$BUILD/cold" ARCH=um CC="ccache gcc" HOSTCC="ccache gcc" LOCALVERSION= \
		-j"$JOBS" "$@" >>"$BUILD/cold/build.log" 2>&1 || die "build failed (log: $BUILD/cold/build.log)"
}

cold_run() {	# <label> <where the memory of the machine is>
	local i

	cold_make linux
	for i in 1 2 3; do
		TMPDIR=$2 timeout 600 "$BUILD/cold/linux" mem=8G con0=fd:0,fd:1 con=null ssl=null kunit_shutdown=poweroff \
			</dev/null >"$TMP/console" 2>&1 || true
		sed -n 's/.*bench_test: \(.*\), \(.*\) addresses: map \(.*\), unmap \(.*\) ticks.*/'"$1"',\1,\2,\3,\4/p' \
			"$TMP/console" | tee "$TMP/lines"
		[ "$(wc -l <"$TMP/lines")" = 4 ] || { tail -n 30 "$TMP/console" >&2; die "bench: no 4 results"; }
	done
}

cold() {
	local csv=$OUT/cold.csv memory=/dev/shm

	say "bench: page tables that are not in the cache, 5 minutes"
	mkdir -p "$BUILD/cold" "$TMP/memory"
	# Real kernels have huge pages for all of their memory
	! mount -t tmpfs -o huge=always,size=10g none "$TMP/memory" 2>/dev/null || memory=$TMP/memory
	: >"$BUILD/cold/build.log"
	cold_tree "$CACHE/cold-tree"
	cold_make KCONFIG_ALLCONFIG="$TOP/configs/cold.config" allnoconfig
	echo "prefetching,tables,batch,map,unmap" >"$csv"
	cold_run with "$memory" >>"$csv"
	sed -i '/vma_batch_prefetch(vb, addrs + done, chunk);/d' "$CACHE/cold-tree/mm/vma_batch.c"
	cold_run without "$memory" >>"$csv"

	echo "Ticks of the TSC to map a page and to unmap it, without the flush, natively"
	sed -n 's/^model name.*: //p; s/^cache size.*: /cache /p' /proc/cpuinfo | sort -u | paste -sd ' '
	lscpu | sed -n 's/^ *\(L3.*\): */\1 /p'
	awk -F , '
		NR > 1 {
			key = $2 "," $3 "," $1
			# The least of three runs
			if (!(key in n) || $4 + $5 < n[key])
				n[key] = $4 + $5
			if (!seen[$2 "," $3]++)
				row[++rows] = $2 "," $3
		}
		END {
			printf "\n%-22s %12s %12s %8s\n", "page tables, batch", "prefetching", "without", "ratio"
			for (i = 1; i <= rows; i++) {
				split(row[i], part, ",")
				with = n[row[i] ",with"]
				without = n[row[i] ",without"]
				printf "%-22s %12d %12d %8.2f\n", part[1] ", " part[2], with, without, without / with
			}
		}' "$csv"
	cat <<-EOF

		cold: random slots of 512 GiB, whose page tables take 1 GiB; 2 GiB of pages, which
		are mapped and unmapped in turn, oldest first. warm: the same in 128 MiB.
	EOF
}

# ------------------------------------------------------------------- clock

CLOCK_ROUNDS=${CLOCK_ROUNDS:-9}
CLOCK_WHAT=(exmap exmap-deferred exmap-vectors fault+process_madvise fault+guard)

# All methods in turn, again and again, so that they share what else the machine does
clock_cases() {
	local round threads batch what

	for ((round = 0; round < CLOCK_ROUNDS; round++)); do
		for ((threads = 1; threads <= $1; threads *= 2)); do
			for batch in 512 64 1; do
				for what in "${CLOCK_WHAT[@]}"; do
					echo "--what $what --threads $threads --batch $batch --touch" \
						"--region $GIB --pool $POOL --rounds $((65536 / batch / threads))"
				done
			done
		done
	done
}

clock() {
	local cpus

	cpus=$(nproc)
	begin "times, a minute where KVM works"
	CPUS=$cpus MEM=3072 measure "grep -q 'model name.*QEMU Virtual' /proc/cpuinfo && echo emulated" \
		< <(clock_cases "$cpus")
	end clock

	echo "Million pages a second that are placed, written to and taken away again, in"
	echo "batches of scattered pages: median (quartiles) of $CLOCK_ROUNDS rounds of all methods in turn"
	setting
	sed -n 's/^model name.*: //p' /proc/cpuinfo | sort -u
	! grep -q emulated "$TMP/csv.notes" 2>/dev/null ||
		echo "The CPUs are emulated: THESE TIMES MEAN NOTHING"
	awk -F , -v whats="${CLOCK_WHAT[*]}" '
		{ rate[$1, $2, $3, ++n[$1, $2, $3]] = 1000 / $12; if (!seen[$2, $3]++) row[++rows] = $2 SUBSEP $3 }
		function quartiles(key,   i, k, v) {
			for (i = 1; i <= n[key]; i++)
				for (k = i; k > 1 && rate[key, k - 1] > rate[key, k]; k--) {
					v = rate[key, k]
					rate[key, k] = rate[key, k - 1]
					rate[key, k - 1] = v
				}
			i = n[key]
			return sprintf("%.2f (%.2f to %.2f)", rate[key, int((i + 1) / 2)],
				rate[key, int((i + 3) / 4)], rate[key, int((3 * i + 1) / 4)])
		}
		END {
			nw = split(whats, what, " ")
			printf "\n%7s %5s", "threads", "batch"
			for (i = 1; i <= nw; i++)
				printf "  %22s", what[i]
			print ""
			for (r = 1; r <= rows; r++) {
				split(row[r], part, SUBSEP)
				printf "%7d %5d", part[1], part[2]
				for (i = 1; i <= nw; i++)
					printf "  %22s", quartiles(what[i] SUBSEP row[r])
				print ""
			}
		}' "$TMP/csv"
}

# ---------------------------------------------------------------------- io

# Devices of null_blk that take a time to answer, or, for instructions, none
io_devices() {	# <queues> <name> <irqmode> <ns>...
	local queues=$1

	echo "device() {
		cd /sys/kernel/config/nullb && mkdir \$1 && cd \$1 && echo 1024 >size &&
		echo 4096 >blocksize && echo \$2 >irqmode && echo \$3 >completion_nsec &&
		echo 512 >hw_queue_depth && echo $queues >submit_queues && echo 1 >power &&
		ln -s /dev/\$1 /tmp/ || { echo \"bench: no device \$1\"; exit 1; }
	}"
	shift
	for (( ; $#; )); do
		echo "device $1 $2 $3"
		shift 3
	done
	echo "cd"
}

# A file all of which is in the page cache
io_file() {	# <path>
	echo "dd if=/dev/zero of=$1 bs=1M count=80 2>/dev/null && cat $1 >/dev/null ||
		{ echo 'bench: no file $1'; exit 1; }"
}

# Batches of reads and writes, one page, and io_uring with eviction, each beside
# its peers. Pages in a turn: so many that one is not lost in the noise.
io_cases() {	# <label> <device> <turns> <factor>
	local common="--label $1 --file $2 --pairs $3" n=$4 batch

	echo "--what exmap-read --peer aio-read --batch 512 $common --pages $((1024 * n))"
	echo "--what exmap-action-read --peer aio-read --batch 512 $common --pages $((1024 * n))"
	echo "--what exmap-read --peer pread --batch 1 $common --pages $((50 * n))"
	echo "--what exmap-write --peer aio-write --batch 512 $common --pages $((1024 * n))"
	echo "--what exmap-action-write --peer aio-write --batch 512 $common --pages $((1024 * n))"
	echo "--what exmap-write --peer pwrite --batch 1 $common --pages $((50 * n))"
	for peer in uring-fixed uring-anon; do
		for batch in 1 8 16; do
			echo "--what uring-exmap --peer $peer --batch $batch $common --pages $((2048 * n))"
		done
		echo "--what uring-exmap --peer $peer --batch 16 --deferred $common --label $1-deferred --pages $((2048 * n))"
	done
}

cached_cases() {	# <label> <file> <turns>
	local batch

	for batch in 512 1; do
		echo "--what exmap-read --peer pread --batch $batch --buffered --label $1 --file $2 --pairs $3 --pages 2048"
		echo "--what exmap-write --peer pwrite --batch $batch --buffered --label $1 --file $2 --pairs $3 --pages 2048"
	done
}

# One method alone: instructions
io_instruction_cases() {
	local what batch

	for what in exmap-read exmap-action-read exmap-exchange exmap-write exmap-action-write \
		    aio-read aio-write pread pwrite; do
		for batch in 512 16 8 1; do
			echo "--what $what --batch $batch --label instructions --file /dev/instant --pairs 3 --pages 4096"
		done
	done
	for batch in 16 8 1; do
		echo "--what uring-exmap --batch $batch --label instructions --file /dev/instant --pairs 3 --pages 4096"
	done
	echo "--what uring-fixed --batch 1 --label instructions --file /dev/instant --pairs 3 --pages 4096"
	echo "--what uring-anon --batch 1 --label instructions --file /dev/instant --pairs 3 --pages 4096"
}

io() {
	local BENCH=/selftests/exmap/bench_io

	begin "reads and writes: instructions, about 1 minute"
	# As many instructions as ns: the same devices, with no noise at all
	CPUS=1 ACCEL=tcg,thread=single QEMU_ARGS="-icount shift=0,sleep=off" \
		measure "$(io_devices 1 instant 0 0 counted80us 2 80000; io_file /tmp/cached)" \
		< <(io_instruction_cases
		    io_cases counted-80us /dev/counted80us 3 2
		    cached_cases counted-tmpfs /tmp/cached 3)
	say "bench: reads and writes: times, about 6 minutes"
	CPUS=2 ACCEL='' QEMU_ARGS='' DISK=1024 \
		measure "$(io_devices 2 clock80us 2 80000 clock5ms 2 5000000
			   io_file /mnt/disk/cached; io_file /tmp/cached)" \
		< <(io_cases 80us /dev/clock80us 31 4
		    io_cases 5ms /dev/clock5ms 21 1
		    cached_cases ext4 /mnt/disk/cached 31
		    cached_cases tmpfs /tmp/cached 31)
	end io

	echo "Reads and writes of 4 KiB pages at random: with exmap, and with its peers"
	setting
	awk -F , '
		function cell(s) { return s == "" || s == "-" ? "-" : sprintf("%.0f", s) }
		$5 == "instructions" { ns[$1, $3] = $7; if (!seen[$1]++) name[++n] = $1; next }
		{
			# What there is to compare, and the most or least it should be
			rate = $1 ~ /^uring/
			if ($2 == "uring-fixed")
				target = ">= 0.9"
			else if ($2 == "uring-anon")
				target = ">= 1.5"
			else if ($5 ~ /ext4|tmpfs/)
				target = $3 > 1 && $1 == "exmap-read" ? "<= 1.2" : ""
			else
				target = $3 > 1 ? "<= 1.2" : "<= 1.1"
			low = rate ? 1 / $11 : $9
			high = rate ? 1 / $9 : $11
			middle = rate ? 1 / $10 : $10
			goal = substr(target, 4)
			met = rate ? middle >= goal : middle <= goal
			met = target == "" ? "" : met ? "yes" : "no"
			line[++lines] = sprintf("%-22s %-18s %-12s %5s %9.0f %9.0f   %s %6.3f (%.3f to %.3f)  %-6s  %s",
				$5, $1, $2, $3, $7, $8, rate ? "rate" : "time", middle, low, high, target, met)
		}
		END {
			print "\nInstructions a page, by pages in a call, of a device that answers at once"
			printf "%-22s %8s %8s %8s %8s\n", "", 512, 16, 8, 1
			for (i = 1; i <= n; i++)
				printf "%-22s %8s %8s %8s %8s\n", name[i], cell(ns[name[i], 512]),
					cell(ns[name[i], 16]), cell(ns[name[i], 8]), cell(ns[name[i], 1])
			printf "\n%-22s %-18s %-12s %5s %9s %9s   %s\n", "device or file", "", "peer", "pages",
				"ns/page", "peer", "ratio (quartiles)          target"
			for (i = 1; i <= lines; i++)
				print line[i]
		}' "$TMP/csv"
	cat <<-EOF

		Ratios: median and quartiles of pairs of turns in one process, the time of exmap
		by that of its peer, or its rate (io_uring, 128 pages in flight, as many evicted
		as read) by that of its peer. counted-...: the clock counts instructions, 1 a ns,
		on one CPU. 80us, 5ms: null_blk that takes so long. ext4, tmpfs: in the page cache.
		...-deferred: exmap with deferred flushes.
		exmap-exchange, uring-exmap: each vector READ has a FREE of another page before it.
	EOF
}

# ----------------------------------------------------------------- regions

regions_cases() {
	local n batch

	for n in 1 64 1024; do
		for batch in 512 64 8; do
			echo "--what exmap-regions --regions $n --batch $batch --pattern scattered --churn"
		done
	done
}

# One budget of memory for many files
regions() {
	begin "regions, a minute"
	CPUS=1 ACCEL=tcg,thread=single QEMU_ARGS="-icount shift=0,sleep=off" \
		measure < <(regions_cases)
	end regions

	echo "Regions: instructions to evict a page and to place another one. All regions have one"
	echo "pool, of 16384 pages, nearly full, and 262144 slots together; each call has vectors"
	echo "of random slots of all of them"
	setting
	awk -F , '
		{ row[$3] = row[$3] sprintf(" %9.0f", $12); if (!seen[$3]++) batch[++n] = $3 }
		END {
			printf "\n%6s %9s %9s %9s\n", "batch", "1 region", 64, 1024
			for (i = 1; i <= n; i++)
				printf "%6d%s\n", batch[i], row[batch[i]]
		}' "$TMP/csv"
}

# ------------------------------------------------------------------- slots

SLOT_KIB="4 8 16 32 64 256"

slot_cases() {
	local kib

	for kib in $SLOT_KIB; do
		echo "--what exmap-vectors --slot-size $kib --region 65536 --pool 4096 --batch 512 --pattern scattered"
	done
	echo "--what exmap-vectors --slot-size 2048 --region 8192 --pool 1024 --batch 512 --pattern scattered"
}

slot_io_cases() {	# <label> <device> <pairs>
	local kib

	for kib in 4 16 64 256; do
		echo "--what exmap-vectors-read --peer aio-read --slot-size $kib --batch 128 --pages 1024 --pool 512 --label $1-$kib --file $2 --pairs $3"
	done
}

# Slots of more than one page
slots() {
	begin "slots of several sizes, two minutes"
	CPUS=1 ACCEL=tcg,thread=single QEMU_ARGS="-icount shift=0,sleep=off" MEM=6144 \
		measure < <(slot_cases)
	BENCH=/selftests/exmap/bench_io CPUS=1 ACCEL=tcg,thread=single \
		QEMU_ARGS="-icount shift=0,sleep=off" \
		measure "$(io_devices 1 counted80us 2 80000)" \
		< <(slot_io_cases counted /dev/counted80us 3)
	end slots

	echo "Slots: to place and evict a slot of a size, 512 scattered ones in a call of VECTORS;"
	echo "and to read 128 scattered slots by one call from a device that takes 80 us for each"
	echo "request, as a ratio to the time that Linux AIO takes into plain memory"
	setting
	awk -F , -v sizes="$SLOT_KIB 2048" '
		BEGIN { n = split(sizes, size, " ") }
		/^exmap-vectors,/ { cost[size[++seen]] = $12; next }
		{ sub(/.*-/, "", $5); ratio[$5] = $10 }
		END {
			printf "\n%8s %13s %9s %14s\n", "KiB", "instructions", "ratio", "read / AIO"
			for (i = 1; i <= n; i++)
				printf "%8d %13.0f %9.2f %14s\n", size[i], cost[size[i]],
					cost[size[i]] / cost[4], size[i] in ratio ? ratio[size[i]] : "-"
		}' "$TMP/csv"
}

# --------------------------------------------------------------- placement

placement_cases() {	# <threads> <batch>...
	local threads=$1 batch

	shift
	for batch; do
		echo "--what exmap-move --threads $threads --region 65536 --pool 4096 --batch $batch --pattern scattered"
		echo "--what move_pages --threads $threads --region 65536 --pool 4096 --batch $batch --pattern scattered"
	done
}

# Pages that go to another node
placement() {
	begin "pages that go to another node, half a minute"
	CPUS=1 TIER=512 ACCEL=tcg,thread=single QEMU_ARGS="-icount shift=0,sleep=off" MEM=2048 \
		measure < <(placement_cases 1 1 64 512)
	CPUS=2 NODES=2 MEM=2048 measure < <(placement_cases 2 512)
	end placement

	echo "Placement: instructions to move a page of 4 KiB to another NUMA node, and to copy it,"
	echo "scattered pages; TLB interrupts of the other CPU for each batch of 512"
	setting
	awk -F , '
		# What is counted as one page went there and back
		$2 == 1 { cost[$1, $3] = $12 / 2; next }
		{ irqs[$1] = $14 / 2 * $3 }
		END {
			printf "\n%8s %12s %12s\n", "batch", "exmap MOVE", "move_pages"
			for (batch = 1; batch <= 512; batch *= batch == 1 ? 64 : 8)
				printf "%8d %12.0f %12.0f\n", batch, cost["exmap-move", batch],
					cost["move_pages", batch]
			printf "%8s %12.2f %12.2f\n", "TLB", irqs["exmap-move"], irqs["move_pages"]
		}' "$TMP/csv"
}

# ------------------------------------------------------------------ sqlite

# What a buffer in an exmap region costs SQLite
sqlite() {
	"$TOP/scripts/sqlite.sh" cost
	setting
}

[ $# != 0 ] || set -- instructions locked shootdowns scaling io lookup regions slots placement library sqlite cold clock
for section; do
	case $section in
	instructions|locked|shootdowns|scaling|io|lookup|regions|slots|placement|library|sqlite|cold|clock) ;;
	*)	die "no section of the name $section (instructions locked shootdowns scaling io lookup regions slots placement library sqlite cold clock)" ;;
	esac
done
for section; do
	$section
	echo
done
say "bench: $(cd "$OUT" && echo "$OUT"/*.csv)"
