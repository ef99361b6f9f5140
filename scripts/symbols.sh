#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Sums up by function what plugin/exmap-trace.c counted by address.
#
#   symbols.sh [options] <output of the plugin>
#
#   -m file	System.map of the kernel that ran (default: the lean kernel's,
#		with DEBUG= that of the kernel which vm.sh boots for it)
#   -k file	/proc/kallsyms as root saw it in the machine, for modules
#   -n pages	how many pages the window handled: adds a column per page
#   -t rows	only the first so many of each group; the totals are of all
#   -i		by instruction, not by function
#
# mode=lines: what reaches the other CPUs (shootdown) is apart from the rest, and
# user space has no names. The address of data is one of those that the busiest
# instruction accessed, lines the most that one instruction did.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

map=$BUILD/$(wanted_config)/System.map modules=/dev/null pages=0 rows=0 single=0
while getopts m:k:n:t:i option; do
	case $option in
	m)	map=$OPTARG ;;
	k)	modules=$OPTARG ;;
	n)	pages=$OPTARG ;;
	t)	rows=$OPTARG ;;
	i)	single=1 ;;
	*)	die "usage: symbols.sh [-m System.map] [-k kallsyms] [-n pages] [-t rows] [-i] <trace>" ;;
	esac
done
shift $((OPTIND - 1))
[[ $pages$rows =~ ^[0-9]+$ ]] || die "symbols.sh: -n and -t take a number"
for f in "$map" "$modules" "${1:-}"; do
	[ -r "$f" ] || die "symbols.sh: cannot read '$f'"
done

exec perl - "$map" "$modules" "$pages" "$rows" "$single" "$1" <<'PERL'
use strict;
use warnings;
no warnings 'portable';		# 64-bit numbers are meant

my ($map, $modules, $pages, $rows, $single, $trace) = @ARGV;

# What the kernel does to reach the other CPUs, whoever asks for it; leading
# underscores and the suffixes of compilers and modules do not matter. Generic
# helpers (bit searches, locks) are not here, even if a shootdown calls them.
my $shootdown = qr{^_*(?:
	(?:generic_)?smp_call_function\w* | on_each_cpu\w* | csd_\w+ |	# kernel/smp.c
	flush_smp_call_function\w* | llist_\w+ |
	(?:arch_|native_)?send_call_func\w* | x2apic_send_\w+ |	# the interrupts
	(?:default|flat|physflat)_send_IPI\w* | \w*apic\w*_(?:icr|eoi)\w* |
	(?:asm_)?sysvec_call_function\w* | call_function_\w*interrupt |
	(?:native_)?flush_tlb_\w+ | inc_mm_tlb_gen | tlb_is_not_lazy |	# mm/tlb.c
	should_flush_tlb | broadcast_tlb_flush | [gp][eu]t_flush_tlb_info | arch_tlbbatch_\w+
)(?:\.\S+)?(?:\ \[\S+\])?$}x;

my (%at, @addresses);
sub add {
	my ($address, $name) = @_;
	# Of several names the one with the fewest underscores in front
	my ($new) = $name =~ /^(_*)/;
	my ($old) = ($at{$address} // '_' x 99) =~ /^(_*)/;
	$at{$address} = $name if length $new < length $old;
}
open(my $f, '<', $map) or die "$map: $!\n";
while (<$f>) {
	add(hex $1, $2) if /^(ffff[0-9a-f]{12}) \w (\S+)$/;
}
die "$map: no kernel symbols\n" unless %at;
# Modules are behind the last symbol of the kernel
$at{(sort { $b <=> $a } keys %at)[0]} = '[module]';
open($f, '<', $modules) or die "$modules: $!\n";
while (<$f>) {
	add(hex $1, "$2 $3") if /^(ffff[0-9a-f]{12}) \w (\S+)\s+(\[\S+\])$/;
}
@addresses = sort { $a <=> $b } keys %at;

sub symbol {			# name and offset
	my ($address, $low, $high) = ($_[0], 0, scalar @addresses);
	return ('[user]', $address) if $address < 1 << 63;
	while ($low < $high) {
		my $middle = ($low + $high) >> 1;
		if ($addresses[$middle] <= $address) { $low = $middle + 1 } else { $high = $middle }
	}
	return ('[unknown]', 0) unless $low;
	return ($at{$addresses[$low - 1]}, $address - $addresses[$low - 1]);
}

my (%groups, $lines_mode, $rep);
open($f, '<', $trace) or die "$trace: $!\n";
while (<$f>) {
	if (/^#/) {
		print;
		$lines_mode = $1 eq 'lines' if /^# mode (\w+)/;
		next;
	}
	my ($pc, @v) = split;
	my ($name, $offset) = symbol(hex $pc);
	my $group = $name eq '[user]' ? $name : !$lines_mode ? 'kernel' :
		    $name =~ $shootdown ? 'shootdown' : 'other';
	my $count = $lines_mode ? $v[0] + $v[1] : $v[0];
	$name .= sprintf('+0x%x', $offset) if $single;
	$rep += $count if $v[1] eq 'rep';
	for my $s ($groups{$group}{$name} //= {}, $groups{$group}{''} //= {}, $groups{total}{''} //= {}) {
		$s->{count} += $count;
		next unless $lines_mode;
		$s->{loads} += $v[0];
		$s->{stores} += $v[1];
		$s->{moves} += $v[2];
		$s->{lines} = $v[3] if $v[3] > ($s->{lines} // 0);
		($s->{most}, $s->{data}) = ($count, $v[4]) if $count > ($s->{most} // 0);
	}
}

sub row {
	my ($s, $name, $data) = @_;
	printf '%12d', $s->{count};
	printf '%12.2f', $s->{count} / $pages if $pages;
	printf '%12d%12d%12d%9s', $s->{loads}, $s->{stores}, $s->{moves}, $data ? $s->{lines} : '' if $lines_mode;
	print "  $name";
	if ($data) {
		my ($symbol, $offset) = symbol(hex $data);
		print '  (', $symbol =~ /^\[/ ? $data : sprintf('%s+0x%x', $symbol, $offset), ')';
	}
	print "\n";
}

die "$trace: nothing counted: did no program open the window?\n" unless %groups;
print $lines_mode ? '    accesses' : 'instructions', $pages ? '    per page' : '',
      $lines_mode ? '       loads      stores       moves    lines  function  (data)' : '  function', "\n";
for my $group (grep { $groups{$_} } 'shootdown', 'other', 'kernel', '[user]', 'total') {
	my $g = $groups{$group};
	my @names = sort { $g->{$b}{count} <=> $g->{$a}{count} || $a cmp $b } grep { $_ } keys %$g;
	splice @names, $rows if $rows && @names > $rows;
	row($g->{$_}, $_, $g->{$_}{data}) for @names;
	row($g->{''}, "= $group");
}
row({ count => $rep }, 'of which iterations of string instructions') if $rep;
PERL
