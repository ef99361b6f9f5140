#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Fetch and unpack the pristine kernel source, or check the tree in KERNEL=.
#
#   kernel.sh           make sure that there is one; no network when there is
#   kernel.sh update    look for a newer one
#
# The source is Debian's linux-source package, fetched from the mirror that this
# machine's apt uses, with an apt configuration, lists and state of our own:
# nothing of the system's apt changes, and apt checks the signatures. Where the suite
# has not (or no longer) the kernel of the series, or the series does not apply to it,
# the newest one after it will do to which it applies.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SUITE=trixie-backports
MADE_FOR=7.3	# the kernel of the series
PACKAGE=linux-source-$MADE_FOR

OWN="or use a kernel tree of your own: make KERNEL=/path/to/linux ..."

if [ -n "$KERNEL" ]; then
	for f in Makefile Kconfig mm/memory.c drivers/misc/Kconfig scripts/kconfig/merge_config.sh; do
		[ -r "$KERNEL/$f" ] || die "KERNEL=$KERNEL does not look like a kernel tree: no $f in it"
	done
	say "kernel source: $(version_of "$KERNEL"), the tree $KERNEL"
	exit 0
fi

report() {
	say "kernel source: $(version_of "$PRISTINE") (Debian $(basename "$(readlink "$PRISTINE")"))"
}

mkdir -p "$CACHE/src"
exec 9>"$CACHE/src/.lock"
flock -n 9 || { say "kernel source: another run is fetching it, waiting"; flock 9; }

have() { [ -r "$1/Makefile" ] && git -C "$1" rev-parse -q --verify base >/dev/null 2>&1; }

if have "$PRISTINE" && [ "${1:-}" != update ]; then
	report
	exit 0
fi

# The mirrors of the system's apt, those of Debian's own main archive, as lines
# "keyring-or-- uri". Where apt-get update never ran, apt knows neither origin
# nor label: then the folder's name has to do.
mirrors() {
	local format all
	# shellcheck disable=SC2016 # the $() are apt's
	format='$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)|$(SIGNED_BY)|'
	all=$(apt-get indextargets --format "$format" 'Created-By: Packages' 2>/dev/null |
		grep '^Debian|Debian|main|') ||
	all=$(apt-get indextargets --no-release-info --format "$format" 'Created-By: Packages' 2>/dev/null |
		grep -E '\|main\|[^|]*/debian/?\|') || true
	awk -F '|' '$4 !~ /^cdrom:/ && !seen[$4]++ { print ($5 ~ /^\// ? $5 : "-"), $4 }' <<<"$all"
}

APT=$CACHE/apt
ring=/usr/share/keyrings/debian-archive-keyring.gpg

apt_setup() {	# <keyring or -> <uri>
	local signed=$ring
	[ "$1" = - ] || [ "$1" = $ring ] || signed="$1 $ring"
	mkdir -p "$APT"/{lists/partial,cache/archives/partial,none}
	: >"$APT/status"
	cat >"$APT/debian.sources" <<-END
		Types: deb
		URIs: $2
		Suites: $SUITE
		Components: main
		Signed-By: $signed
	END
	cat >"$APT/apt.conf" <<-END
		Dir::State "$APT";
		Dir::State::status "$APT/status";
		Dir::State::lists "$APT/lists";
		Dir::Cache "$APT/cache";
		Dir::Etc::sourcelist "$APT/debian.sources";
		Dir::Etc::sourceparts "$APT/none";
		Dir::Etc::preferences "$APT/none/preferences";
		Dir::Etc::preferencesparts "$APT/none";
		APT::Architecture "amd64";
		APT::Architectures "amd64";
		APT::Default-Release "";
		Acquire::Languages "none";
		Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
		#clear APT::Update::Pre-Invoke;
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
	END
	# Our folders may be closed to apt's own unprivileged user
	[ "$(id -u)" != 0 ] || echo 'APT::Sandbox::User "root";' >>"$APT/apt.conf"
}

my_apt() { apt-get -c "$APT/apt.conf" -q "$@" </dev/null; }

my_cache() { apt-cache -c "$APT/apt.conf" "$@" 2>/dev/null || true; }

# What the suite offers, as lines "package version": the kernel that the series is
# made for, then those after it from the newest down
candidates() {
	local package version
	{
		echo $PACKAGE
		{ echo $PACKAGE; my_cache pkgnames linux-source-; } |
			grep -x 'linux-source-[0-9.]*' | sort -Vr | sed "/-$MADE_FOR\$/,\$d"
	} | while read -r package; do
		version=$(my_cache show --no-all-versions "$package" | sed -n '/^Version: /{s///p;q}')
		[ -z "$version" ] || echo "$package $version"
	done
}

say "kernel source: looking for $PACKAGE in $SUITE"
[ -r $ring ] || die "no $ring: install the package debian-archive-keyring"
log=$CACHE/kernel.log
: >"$log"
offered=() tried=''
while read -r keyring uri; do
	[ -n "$uri" ] || continue
	tried+="${tried:+, }$uri"
	apt_setup "$keyring" "$uri"
	my_apt update --error-on=any >>"$log" 2>&1 || continue
	mapfile -t offered < <(candidates)
	[ ${#offered[@]} = 0 ] || break
done < <(mirrors)

if [ ${#offered[@]} = 0 ]; then
	grep -E '^(E|W|Err|Ign)' "$log" | tail -n 8 >&2 || true
	if have "$PRISTINE"; then
		say "no newer source found (log: $log); the present one stays:"
		report
		exit 0
	fi
	say "Tried: apt-get update and apt-cache show $PACKAGE or newer, suite $SUITE, from ${tried:-no mirror at all}"
	die "no kernel source (log: $log). Check that 'apt-get update' works here, $OWN"
fi

fetch() {	# $package $version to $dir
	free=$(df -Pk "$CACHE" | awk 'NR == 2 { print int($4 / 1024) }')
	[ "$free" -ge 6000 ] ||
		die "only $free MB free in $CACHE: source, trees and builds need 6000 (EXMAP_CACHE=dir puts them elsewhere)"

	work=$CACHE/src/.new
	rm -rf "$work"
	mkdir -p "$work/deb"
	trap 'rm -rf "$work"' EXIT
	say "kernel source: fetching $package $version from $uri"
	(cd "$work" && my_apt download "$package=$version") >>"$log" 2>&1 || {
		grep -E '^(E|W|Err)' "$log" | tail -n 5 >&2 || true
		die "download of $package $version from $uri failed (log: $log). Try again, $OWN"
	}

	say "kernel source: unpacking"
	dpkg-deb --fsys-tarfile "$work"/*.deb | tar -x -C "$work/deb" ./usr/src
	mkdir "$work/linux"
	tar -x -C "$work/linux" --strip-components=1 -f "$work"/deb/usr/src/"$package".tar.xz
	rm -rf "$work/deb" "$work"/*.deb

	# One commit, tagged: the tree of the series is a git work tree on top.
	# The threshold sends the blobs straight into one pack file.
	say "kernel source: making it a git repository"
	export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
	g() { git -C "$work/linux" "$@"; }
	g init -q -b pristine
	g config core.compression 1
	g config gc.auto 0
	g config user.name "Kernel Source"
	g config user.email "source@localhost"
	g -c core.bigFileThreshold=1 add -Af .
	GIT_AUTHOR_DATE="2000-01-01T00:00:00Z" GIT_COMMITTER_DATE="2000-01-01T00:00:00Z" \
		g commit -q -m "$package $version"
	g tag base

	rm -rf "$dir"
	mv "$work/linux" "$dir"
}

[[ ${offered[0]} == "$PACKAGE "* ]] || say "kernel source: $SUITE has no $PACKAGE any more, but newer ones"
found=
for candidate in "${offered[@]}"; do
	read -r package version <<<"$candidate"
	dir=$CACHE/src/linux-$version
	if ! have "$dir"; then
		fetch
	fi
	if why=$("$TOP/scripts/series.sh" applies "$dir" 2>&1); then
		found=1
		break
	fi
	say "kernel source: not $package $version, to which the series does not apply (it stays in $dir):"
	sed 's/^\(error: \)*/	/' <<<"$why" >&2
done

if [ -z "$found" ]; then
	if have "$PRISTINE"; then
		say "no newer source to which the series applies; the present one stays. To rebase the series to one of these:"
		say "	ln -sfn src/linux-<version> $PRISTINE; make tree"
		report
		exit 0
	fi
	die "no kernel source in $SUITE to which the series applies: it is made for $MADE_FOR.y. Unpack such a kernel, from
	https://kernel.org or https://snapshot.debian.org/binary/$PACKAGE, and use that: make KERNEL=/path/to/linux ...
	or carry patches/ over to one of those above"
fi
[ "$package" = "$PACKAGE" ] ||
	say "kernel source: taking $package $version: the series is made for $MADE_FOR.y, but applies to it"

old=$(readlink "$PRISTINE" || true)
ln -sfn "src/linux-$version" "$PRISTINE.new"
mv -fT "$PRISTINE.new" "$PRISTINE"
[ -z "$old" ] || [ "$old" = "src/linux-$version" ] ||
	say "kernel source: the older one stays in $CACHE/$old; remove it when no tree needs it"
report
