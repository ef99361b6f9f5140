#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# The patch series: between patches/, the build tree and the mirrored directories.
#
#   series.sh tree      make or update the build tree: pristine source + series
#   series.sh export    carry every change of the tree to patches/ and the mirror;
#                       PATCH=<number or part of its name> says where files go
#                       that no patch of the series touches yet
#   series.sh import    carry edits of mirrored files into the tree, then export
#   series.sh check     apply the series with quilt, git am and b4 and compare
#   series.sh applies <source>  does it apply to this one, made by kernel.sh?
#   series.sh author    print the author, or 'Name <mail>': put it in every patch
#   series.sh mbox      the series as a mailbox, to stdout
#
# The file series has a line '# part N: title' before the first patch of each part;
# the cover letter of a part is cover/part-N.txt, and scripts/send.sh makes its thread.
#
# The tree is a git repository: `base` is the pristine source, and on top of it
# branch `exmap` has one commit a patch. Commit, amend and rebase there at will:
# export takes the commits as they are. An edit that is not committed goes into
# the last patch that touches its file. The mirror is every file that the series
# adds, at the same path in this checkout.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Whatever the person's git is set to, patches come out the same
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null GIT_CONFIG_NOSYSTEM=1
unset GIT_DIR GIT_INDEX_FILE GIT_WORK_TREE GIT_OBJECT_DIRECTORY
export LC_ALL=C TZ=UTC

PATCHES=$TOP/patches
SERIES=$TOP/series
COVER=0000-cover-letter.patch
SYNCED=refs/exmap/synced	# the commit that patches/ and mirror agree with

TMP=$(mktemp -d)
trap 'rm -rf "$TMP"' EXIT

t() { git -C "$TREE" "$@"; }
ti() { GIT_INDEX_FILE=$TMP/index git -C "$TREE" "$@"; }	# not the tree's own index

lock() {
	mkdir -p "$CACHE"
	exec 8>"$CACHE/.series-$NAME.lock"
	flock 8
}

# ---------------------------------------------------------------- the checkout

# The setting: whose name is on the patches
read_author() {
	local re='^([^<>"]*[^<>" ]) <([^<> ]+@[^<> ]+)>$'
	AUTHOR=${1:-$(cat "$TOP/author" 2>/dev/null || true)}
	[[ $AUTHOR =~ $re ]] || die "author: '$AUTHOR' is not of the form 'Name <mail@host>'"
	export GIT_AUTHOR_NAME=${BASH_REMATCH[1]} GIT_AUTHOR_EMAIL=${BASH_REMATCH[2]}
	export GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL
}

series_list() {
	[ -r "$SERIES" ] || die "no file 'series' in $TOP"
	sed 's/[[:space:]]*#.*//; s/[[:space:]].*//; /^$/d' "$SERIES"
}

# Identifies series and patches by content
stamp() {
	local p
	{
		series_list
		series_list | while read -r p; do
			[ -r "$PATCHES/$p" ] || die "series names $p, but patches/ has no such file"
			cat "$PATCHES/$p"
		done
	} | sha1sum | cut -d' ' -f1
}

# Directories of the checkout that mirror the kernel's. Its scripts/ is our own.
mirror_dirs() {
	local d
	for d in "$PRISTINE"/*/; do
		d=$(basename "$d")
		[ "$d" = scripts ] || [ ! -d "$TOP/$d" ] || echo "$d"
	done
}

# Files in them, but for what .gitignore says is built. Asked of an empty
# repository, so that it does not matter what is committed in this one.
mirror_list() {
	local dirs
	mapfile -t dirs < <(mirror_dirs)
	[ ${#dirs[@]} != 0 ] || return 0
	[ -d "$TMP/empty.git" ] || git init -q --bare "$TMP/empty.git"
	(cd "$TOP" && git --git-dir="$TMP/empty.git" --work-tree="$TOP" \
		ls-files -o --exclude-standard -- "${dirs[@]}" | sort)
}

same() {	# <file> <file>: equal in content and x bit, or both missing
	if [ ! -e "$1" ] || [ ! -e "$2" ]; then
		[ ! -e "$1" ] && [ ! -e "$2" ]
		return
	fi
	cmp -s "$1" "$2" || return 1
	if [ -x "$1" ]; then [ -x "$2" ]; else [ ! -x "$2" ]; fi
}

# ------------------------------------------------------------------ the tree

need_pristine() {
	[ -r "$PRISTINE/Makefile" ] ||
		die "no kernel source in $PRISTINE: scripts/kernel.sh fetches it"
}

need_tree() {
	[ -d "$TREE/.git" ] || die "no build tree yet: run 'scripts/series.sh tree' first"
}

# The source files of a KERNEL= tree, which may have been built in: as its git
# says, or all but what .gitignore names. Debian's .gitignore names every
# directory, so take those back in.
own_files() {
	if git -C "$PRISTINE" -c safe.directory='*' rev-parse -q --verify HEAD >/dev/null 2>&1 &&
	   [ -z "$(git -C "$PRISTINE" -c safe.directory='*' rev-parse --show-prefix)" ]; then
		git -C "$PRISTINE" -c safe.directory='*' ls-files -z -co --exclude-standard
	else
		local f keep=()
		for f in '/*/' .gitignore .gitattributes .kunitconfig .renames.txt .clang-format .mailmap \
			 /.get_maintainer.ignore /COPYING /CREDITS /Kbuild /Kconfig /MAINTAINERS /Makefile /README; do
			keep+=(-x "!$f")
		done
		# Against an index that does not exist, so that every file is listed
		GIT_INDEX_FILE=$TMP/none git -C "$PRISTINE" --git-dir="$1/.git" --work-tree="$PRISTINE" \
			ls-files -z -o --exclude-standard "${keep[@]}"
	fi | sort -zu
}

# Sets SOURCE, the tree object of the pristine source, in the repository $1
find_source() {
	local repo=$1

	if [ -z "$KERNEL" ]; then
		local real
		real=$(readlink -f "$PRISTINE")
		SOURCE=$(git -C "$PRISTINE" rev-parse -q --verify 'base^{tree}' 2>/dev/null) ||
			die "$PRISTINE is not as scripts/kernel.sh makes it: remove the link and run that"
		# Its objects are borrowed, not copied; so are those of the source
		# before it, while that is there
		local dir borrowed=$repo/.git/objects/info/alternates
		grep -sqxF "$real/.git/objects" "$borrowed" || {
			echo "$real/.git/objects"
			[ ! -e "$borrowed" ] || while read -r dir; do [ ! -d "$dir" ] || echo "$dir"; done <"$borrowed"
		} >"$TMP/borrowed"
		[ ! -s "$TMP/borrowed" ] || cp "$TMP/borrowed" "$borrowed"
		return
	fi

	# A tree of one's own is read, never written: its files go into our
	# repository with an index of ours, which also makes the next time fast
	local index=$repo/.git/pristine.index
	own_files "$repo" >"$TMP/files"
	GIT_INDEX_FILE=$index git --git-dir="$repo/.git" ls-files -z | sort -zu |
		comm -z -23 - "$TMP/files" >"$TMP/gone"
	(
		cd "$PRISTINE"
		export GIT_INDEX_FILE=$index GIT_DIR=$repo/.git GIT_WORK_TREE=$PRISTINE
		git update-index -z --force-remove --stdin <"$TMP/gone"
		# The threshold sends new blobs straight into one pack
		git -c core.bigFileThreshold=1 -c core.compression=1 \
			update-index -z --add --remove --stdin <"$TMP/files"
	)
	SOURCE=$(GIT_INDEX_FILE=$index git --git-dir="$repo/.git" write-tree)
}

# Sets BASE, a commit of SOURCE in repository $1. Where .gitignore hides every
# new file (Debian's does), the base has one that doesn't.
make_base() {
	local repo=$1 blob
	git -C "$repo" cat-file blob "$SOURCE:Makefile" >"$TMP/Makefile"
	git -C "$repo" cat-file blob "$SOURCE:.gitignore" >"$TMP/gitignore" 2>/dev/null || : >"$TMP/gitignore"
	rm -f "$TMP/index"
	GIT_INDEX_FILE=$TMP/index git -C "$repo" read-tree "$SOURCE"
	if grep -qxF '/*' "$TMP/gitignore"; then
		sed -i 's,^/\*$,!.gitignore\n!.kunitconfig,' "$TMP/gitignore"
		blob=$(git -C "$repo" hash-object -w "$TMP/gitignore")
		GIT_INDEX_FILE=$TMP/index git -C "$repo" update-index --cacheinfo "100644,$blob,.gitignore"
	fi
	BASE=$(GIT_AUTHOR_DATE="2000-01-01T00:00:00Z" GIT_COMMITTER_DATE="2000-01-01T00:00:00Z" \
		git -C "$repo" -c user.useConfigOnly=false commit-tree -m "Linux $(version_of "$TMP")" \
		"$(GIT_INDEX_FILE=$TMP/index git -C "$repo" write-tree)")
}

# Sets TIP: the series on top of <base>. Only git objects, no file of a work
# tree is touched; git apply knows no fuzz.
apply_series() {
	local repo=$1 base=$2 p date

	rm -f "$TMP/index"
	GIT_INDEX_FILE=$TMP/index git -C "$repo" read-tree "$base"
	TIP=$base
	for p in $(series_list); do
		git mailinfo -b --encoding=UTF-8 "$TMP/body" "$TMP/diff" <"$PATCHES/$p" >"$TMP/info" ||
			die "$p is not a patch in mail form"
		GIT_INDEX_FILE=$TMP/index git -C "$repo" apply --cached --whitespace=nowarn "$TMP/diff" >&2 ||
			die "$p does not apply to $(git -C "$repo" log -1 --format=%s "$base") and the patches before it"
		{ sed -n 's/^Subject: //p' "$TMP/info"; echo; cat "$TMP/body"; } | git stripspace >"$TMP/message"
		date=$(sed -n 's/^Date: //p' "$TMP/info")
		TIP=$(GIT_AUTHOR_DATE=$date GIT_COMMITTER_DATE=$date git -C "$repo" commit-tree \
			-p "$TIP" -F "$TMP/message" "$(GIT_INDEX_FILE=$TMP/index git -C "$repo" write-tree)")
	done
}

setup_repo() {	# <repo>: settings for the person who commits there
	git -C "$1" config user.name "$GIT_AUTHOR_NAME"
	git -C "$1" config user.email "$GIT_AUTHOR_EMAIL"
	git -C "$1" config gc.auto 0
	git -C "$1" config core.abbrev 12
}

remember() {	# <repo> <commit>: tree, patches/ and mirror agree
	git -C "$1" update-ref $SYNCED "$2"
	git -C "$1" config exmap.stamp "$(stamp)"
	git -C "$1" config exmap.source "$SOURCE"
	git -C "$1" config exmap.author "$AUTHOR"
}

# Prints what was changed in the tree and is not in patches/ yet
edits() {
	local d
	for d in rebase-merge rebase-apply MERGE_HEAD CHERRY_PICK_HEAD; do
		[ ! -e "$TREE/.git/$d" ] || echo "an unfinished rebase, merge or cherry-pick"
	done
	[ "$(t rev-parse HEAD)" = "$(t rev-parse $SYNCED)" ] ||
		t log --format='commit %h %s' $SYNCED..HEAD
	[ "$(t rev-parse HEAD)" = "$(t rev-parse $SYNCED)" ] || t merge-base --is-ancestor $SYNCED HEAD ||
		echo "commits of the series rewritten"
	t status --porcelain
}

refuse_edits() {
	local e
	e=$(edits)
	[ -z "$e" ] || {
		say "$TREE holds edits that are not in patches/ yet:"
		head -n 30 <<<"$e" | sed 's/^/	/' >&2
		die "$1"
	}
}

cmd_tree() {
	local s

	need_pristine
	lock
	read_author
	s=$(stamp)
	if [ ! -d "$TREE/.git" ]; then
		say "tree: making $TREE"
		# Under another name until it is complete
		rm -rf "$TREE.new"
		git init -q -b exmap "$TREE.new"
		setup_repo "$TREE.new"
		find_source "$TREE.new"
		make_base "$TREE.new"
		apply_series "$TREE.new" "$BASE"
		git -C "$TREE.new" update-ref refs/heads/base "$BASE"
		git -C "$TREE.new" update-ref refs/heads/exmap "$TIP"
		git -C "$TREE.new" reset -q --hard "$TIP"
		remember "$TREE.new" "$TIP"
		rm -rf "$TREE"
		mv -T "$TREE.new" "$TREE"
		say "tree: $(t log -1 --format=%s base) + $(series_list | wc -l) patches in $TREE"
		return
	fi

	find_source "$TREE"
	t cat-file -e base:Makefile 2>/dev/null ||
		die "the kernel source that $TREE was made from is gone. Keep the files there that you edited, remove it, and run this again"
	[ "$s" != "$(t config exmap.stamp)" ] || [ "$SOURCE" != "$(t config exmap.source)" ] || return 0

	refuse_edits "patches/ or the kernel source changed as well. Put the edits aside (git stash there, or a branch \
and git reset --hard $SYNCED), run this again, and bring them back; or, if patches/ can go back to what it was, do that \
and carry the edits over with 'series.sh export'"
	BASE=$(t rev-parse base)
	if [ "$SOURCE" != "$(t config exmap.source)" ]; then
		make_base "$TREE"
		t update-ref refs/exmap/next-base "$BASE"
		(apply_series "$TREE" "$BASE") || die "the series needs a rebase to the new source. The tree still has the old one; do
	git -C $TREE rebase --onto refs/exmap/next-base base exmap
	git -C $TREE branch -f base refs/exmap/next-base
	scripts/series.sh export"
	fi
	apply_series "$TREE" "$BASE"
	# Writes the files that differ and no other, so that little is rebuilt
	t checkout -q -B exmap "$TIP"
	t update-ref refs/heads/base "$BASE"
	setup_repo "$TREE"
	remember "$TREE" "$TIP"
	say "tree: updated to $(t log -1 --format=%s base) + $(series_list | wc -l) patches"
}

# Fails with the reason where it does not. Nothing is written to the source.
cmd_applies() {
	read_author
	mkdir "$TMP/objects"
	export GIT_OBJECT_DIRECTORY=$TMP/objects GIT_ALTERNATE_OBJECT_DIRECTORIES=$1/.git/objects
	apply_series "$1" base
}

# ------------------------------------------------------- from tree to checkout

added_by() {	# <commit>: the files that the series up to it adds
	t diff-tree -r --no-renames --diff-filter=A --name-only base "$1"
}

write_out() {	# <commit> <dir>: those files
	rm -f "$TMP/index"
	ti read-tree "$1"
	mkdir -p "$2"
	added_by "$1" | ti checkout-index -q -f --prefix="$2/" --stdin
}

# Which commit of the series (1..) $PATCH names; $1 = their number
find_patch() {
	local i name found=''
	for ((i = 1; i <= $1; i++)); do
		name=$(t format-patch -1 --stdout --no-renames "${commits[i]}" | sed -n 's/^Subject: \[PATCH\] //p')
		name=$(printf '%04d' "$i")-$(tr -cs 'A-Za-z0-9._\n' - <<<"$name")
		if [[ $PATCH =~ ^[0-9]+$ ]]; then
			[ $((10#$PATCH)) != "$i" ] || found+=" $i"
		elif [[ $name == *"${PATCH%.patch}"* ]]; then
			found+=" $i"
		fi
	done
	[[ $found =~ ^\ ([0-9]+)$ ]] ||
		die "PATCH=$PATCH names ${found:+more than one patch:}${found:-no patch of the series}"
	echo "${BASH_REMATCH[1]}"
}

# In files of commit $1, on lines that the base does not have, the old author
# becomes the new one (MAINTAINERS, MODULE_AUTHOR). Works on $TMP/index.
rename_author() {
	local c=$1 f blob
	local files
	mapfile -t files < <(t diff-tree -r --no-renames --diff-filter=AM --name-only base "$c")
	[ ${#files[@]} != 0 ] || return 0
	{ t grep -lF -e "$OLD" "$c" -- "${files[@]}" || true; } | sed 's/^[^:]*://' | while read -r f; do
		t diff-tree -p -U0 --no-renames base "$c" -- "$f" |
			sed -n 's/^@@ -[0-9,]* +\([0-9]*\),\([0-9]*\) @@.*/\1 \2/p; s/^@@ -[0-9,]* +\([0-9]*\) @@.*/\1 1/p' >"$TMP/lines"
		ti cat-file blob ":$f" | NEW=$AUTHOR OLD=$OLD awk '
			FNR == NR { for (i = $1; i < $1 + $2; i++) ours[i]; next }
			FNR in ours {
				out = ""
				while (i = index($0, ENVIRON["OLD"])) {
					out = out substr($0, 1, i - 1) ENVIRON["NEW"]
					$0 = substr($0, i + length(ENVIRON["OLD"]))
				}
				$0 = out $0
			}
			{ print }' "$TMP/lines" - >"$TMP/blob"
		blob=$(t hash-object -w "$TMP/blob")
		echo "$(ti ls-files -s -- "$f" | cut -d' ' -f1) $blob	$f" >>"$TMP/renamed"
	done
	[ ! -s "$TMP/renamed" ] || ti update-index --index-info <"$TMP/renamed"
	rm -f "$TMP/renamed"
}

# Sets TIP: the commits of the tree, each with the author of the setting, and
# the edits that are not committed folded in. An edited file has its new content
# from the last patch on that touches it, so nothing can conflict.
fold() {
	local n i c f mode sha tree parent line date patch='' fail=''
	local -A last where

	[ -z "$(t rev-list --merges base..HEAD)" ] || die "merge commits in $TREE: a series has none; use git rebase"
	t merge-base --is-ancestor base HEAD || die "in $TREE, HEAD is not on top of 'base'"
	mapfile -t -O 1 commits < <(t rev-list --reverse base..HEAD)
	n=${#commits[@]}
	for ((i = 1; i <= n; i++)); do
		while read -r f; do
			last[$f]=$i
		done < <(t diff-tree -r --no-renames --no-commit-id --name-only "${commits[i]}")
	done

	cp "$TREE/.git/index" "$TMP/work.index"
	GIT_INDEX_FILE=$TMP/work.index t add -A
	WORK=$(GIT_INDEX_FILE=$TMP/work.index t write-tree)
	t diff-tree -r --no-renames HEAD "$WORK" >"$TMP/edits"
	[ -z "${PATCH:-}" ] || patch=$(find_patch "$n")
	while IFS=$'\t' read -r line f; do
		read -r _ mode _ sha _ <<<"$line"
		if [ "$mode" = 000000 ] && ! t cat-file -e "base:$f" 2>/dev/null; then
			where[$f]=1	# as if it had never been there
		elif [ -n "${last[$f]:-}" ]; then
			where[$f]=${last[$f]}
		elif [ -n "$patch" ]; then
			where[$f]=$patch
		else
			fail+="	$f"$'\n'
			continue
		fi
		printf '%s %s\t%s\n' "$mode" "$sha" "$f" >>"$TMP/fold.${where[$f]}"
		i=${where[$f]}
		if [ "$mode" = 000000 ]; then
			say "export: $f removed"
		else
			say "export: $f -> $(printf '%04d' "$i") $(t log -1 --format=%s "${commits[i]}")"
		fi
	done <"$TMP/edits"
	[ -z "$fail" ] || {
		say "No patch of the series touches these files of $TREE:"
		printf '%s' "$fail" >&2
		die "commit them there as a new patch (git add, git commit), name the patch that they belong to \
(PATCH=<number or part of its name>), or remove them"
	}

	OLD=$(t config exmap.author || echo "$AUTHOR")
	parent=$(t rev-parse base)
	: >"$TMP/fold"
	for ((i = 1; i <= n; i++)); do
		c=${commits[i]}
		[ ! -e "$TMP/fold.$i" ] || cat "$TMP/fold.$i" >>"$TMP/fold"
		tree=$(t rev-parse "$c^{tree}")
		if [ -s "$TMP/fold" ] || [ "$OLD" != "$AUTHOR" ]; then
			rm -f "$TMP/index"
			ti read-tree "$c"
			[ "$OLD" = "$AUTHOR" ] || rename_author "$c"
			[ ! -s "$TMP/fold" ] || ti update-index --index-info <"$TMP/fold"
			tree=$(ti write-tree)
		fi
		if [ "$tree" = "$(t rev-parse "$parent^{tree}")" ]; then
			say "export: nothing is left of the patch '$(t log -1 --format=%s "$c")': dropped"
			continue
		fi
		# The old name, and whoever committed it, give way to the setting
		t log -1 --format=%B "$c" | grep -vxF -e "Signed-off-by: $OLD" \
			-e "$(t log -1 --format='Signed-off-by: %an <%ae>' "$c")" -e "Signed-off-by: $AUTHOR" |
			git stripspace | git interpret-trailers --trailer "Signed-off-by: $AUTHOR" >"$TMP/message"
		date="$(t log -1 --format=%at "$c") +0000"
		parent=$(GIT_AUTHOR_DATE=$date GIT_COMMITTER_DATE=$date \
			t commit-tree -p "$parent" -F "$TMP/message" "$tree")
	done
	TIP=$parent
}

# Puts the lines '# part N: title' of the series before the same patches as they were,
# whose numbers may have changed. The list of patches is read from stdin.
keep_parts() {
	[ -r "$SERIES" ] || : >"$SERIES"
	awk '
		function name(patch) { sub(/^[0-9]+-/, "", patch); return patch }
		FNR == NR && /^# part / { title = $0; next }
		FNR == NR { if (title != "" && $1 !~ /^#/) parts[name($1)] = title; title = ""; next }
		name($1) in parts { print parts[name($1)]; delete parts[name($1)] }
		{ print }
		END {
			for (patch in parts)
				print "export: the patch is gone that began \"" parts[patch] "\"" >"/dev/stderr"
		}' "$SERIES" -
}

# Cover letter: the text above the line "---" is the person's, the rest is made
write_cover() {	# <dir> <number of patches>
	local from subject old=$PATCHES/$COVER

	from=$(sed -n '/^From: /,/^[^ ]*: /p' "$1"/0001-*.patch | sed -n '1p; 2,$ { /^ /!q; p }')
	if [ -r "$old" ]; then
		subject=$(sed -n '/^$/q; /^Subject: /,/^[^ ]*:/ { /^Subject: /p; /^ /p }' "$old" |
			tr -d '\n' | sed 's/^Subject: *\(\[[^]]*\] *\)*//')
		sed '1,/^$/d' "$old" | sed '/^---$/,$d' >"$TMP/text"
	else
		subject="*** SUBJECT HERE ***"
		echo "*** BLURB HERE ***" >"$TMP/text"
	fi
	{
		echo "From $(printf '%040d' 0) Mon Sep 17 00:00:00 2001"
		printf '%s\n' "$from"
		echo "Subject: [PATCH $(printf "%0${#2}d" 0)/$2] $subject"
		echo "MIME-Version: 1.0"
		echo "Content-Type: text/plain; charset=UTF-8"
		echo "Content-Transfer-Encoding: 8bit"
		echo
		git stripspace <"$TMP/text"
		echo
		echo "---"
		t shortlog --no-merges "base..$TIP" </dev/null
		t diff-tree -r --no-renames --stat=76 --summary base "$TIP"
	} >"$1/$COVER"
}

cmd_export() {
	local f bad='' n new=$TMP/new old=$TMP/old patches=$TMP/patches changed=0

	need_pristine
	need_tree
	lock
	read_author
	SOURCE=$(t config exmap.source)
	if [ -e "$TREE/.git/rebase-merge" ] || [ -e "$TREE/.git/rebase-apply" ]; then
		die "$TREE is in the middle of a rebase: finish it (git rebase --continue) or give it up (--abort)"
	fi
	[ "$(t symbolic-ref -q HEAD)" = refs/heads/exmap ] || die "$TREE is not on its branch 'exmap'"
	[ -n "${FORCE:-}" ] || [ "$(stamp)" = "$(t config exmap.stamp)" ] ||
		die "patches/ or series changed since the tree was made from them, and export would overwrite that. \
'series.sh tree' brings the tree up to date (FORCE=1: overwrite)"

	fold
	added_by "$TIP" | sed -n '/^scripts\//p' >"$TMP/clash"
	[ ! -s "$TMP/clash" ] || die "the series adds $(head -n 1 "$TMP/clash"), but scripts/ cannot be mirrored: it is the project's own"

	# An edit of a mirrored file that the tree does not have must not be lost
	write_out $SYNCED "$old"
	write_out "$TIP" "$new"
	while read -r f; do
		[ ! -e "$TOP/$f" ] || same "$TOP/$f" "$old/$f" || same "$TOP/$f" "$new/$f" || bad+="	$f"$'\n'
	done < <({ added_by $SYNCED; added_by "$TIP"; } | sort -u)
	[ -z "$bad" ] || [ -n "${FORCE:-}" ] || {
		say "These mirrored files differ from the tree and from what the tree was last in step with:"
		printf '%s' "$bad" >&2
		die "if they were edited here, 'series.sh import' carries that into the tree. If not (a patch was edited by \
hand, say), remove them or set FORCE=1, and they are written anew"
	}

	mkdir "$patches"
	n=$(t rev-list --count "base..$TIP")
	if [ "$n" != 0 ]; then
		t format-patch -q -n --zero-commit --no-signature --no-renames --stat=76 --abbrev=12 \
			--subject-prefix=PATCH --filename-max-length=64 -o "$patches" "base..$TIP"
		# b4 0.12 fails on a subject that is folded
		for f in "$patches"/*.patch; do
			sed -i '1,/^$/ { /^Subject:/ { :fold; N; s/\n / /; t fold; P; D } }' "$f"
		done
		write_cover "$patches" "$n"
	fi
	mkdir -p "$PATCHES"
	for f in "$patches"/*.patch; do
		[ -e "$f" ] || break
		cmp -s "$f" "$PATCHES/$(basename "$f")" || { cp "$f" "$PATCHES/"; changed=$((changed + 1)); }
	done
	for f in "$PATCHES"/[0-9][0-9][0-9][0-9]-*.patch; do
		if [ -e "$f" ] && [ ! -e "$patches/$(basename "$f")" ] && [ "$(basename "$f")" != $COVER ]; then
			rm "$f"
			changed=$((changed + 1))
		fi
	done
	(cd "$patches" && find . -name '*.patch' ! -name $COVER -printf '%P\n' | sort) | keep_parts >"$TMP/series"
	cmp -s "$TMP/series" "$SERIES" || cp "$TMP/series" "$SERIES"

	# Mirror: what is new or differs, and what is gone
	while read -r f; do
		if [ -e "$new/$f" ]; then
			same "$TOP/$f" "$new/$f" || { mkdir -p "$(dirname "$TOP/$f")"; cp -f "$new/$f" "$TOP/$f"; changed=$((changed + 1)); }
		elif [ -e "$TOP/$f" ]; then
			rm "$TOP/$f"
			rmdir -p --ignore-fail-on-non-empty "$(dirname "$TOP/$f")" 2>/dev/null || true
			changed=$((changed + 1))
		fi
	done < <({ added_by $SYNCED; added_by "$TIP"; } | sort -u)

	# The tree's files are already what the new commits say, unless the
	# author's name changed in them: index and branch follow
	cp "$TMP/work.index" "$TREE/.git/index"
	t update-ref refs/heads/exmap "$TIP"
	[ "$(t rev-parse "$TIP^{tree}")" = "$WORK" ] || t read-tree -m -u "$WORK" "$TIP"
	setup_repo "$TREE"
	remember "$TREE" "$TIP"
	say "export: $n patches, $changed files written or removed in the checkout"

	mirror_list | comm -23 - <(added_by "$TIP" | sort) >"$TMP/stray"
	[ ! -s "$TMP/stray" ] || {
		say "warning: no patch adds these files of the mirrored directories (series.sh import takes them in):"
		sed 's/^/	/' "$TMP/stray" >&2
	}
}

cmd_import() {
	local f bad='' todo=()

	need_pristine
	need_tree
	lock
	read_author
	[ "$(stamp)" = "$(t config exmap.stamp)" ] ||
		die "patches/ or series changed since the tree was made from them: run 'series.sh tree' first"
	write_out $SYNCED "$TMP/synced"
	while read -r f; do
		if same "$TOP/$f" "$TMP/synced/$f" || same "$TOP/$f" "$TREE/$f"; then
			continue
		elif t cat-file -e "base:$f" 2>/dev/null; then
			bad+="	$f: the kernel has a file of this name, edit it in $TREE"$'\n'
		elif same "$TREE/$f" "$TMP/synced/$f"; then
			todo+=("$f")
		else
			bad+="	$f: changed here and in $TREE"$'\n'
		fi
	done < <({ added_by $SYNCED; mirror_list; } | sort -u)
	[ -z "$bad" ] || { say "import: cannot carry over"; printf '%s' "$bad" >&2; die "nothing was done"; }
	for f in "${todo[@]}"; do
		if [ -e "$TOP/$f" ]; then
			mkdir -p "$(dirname "$TREE/$f")"
			cp "$TOP/$f" "$TREE/$f"
		else
			rm -f "$TREE/$f"
		fi
		say "import: $f"
	done
	cmd_export
}

cmd_author() {
	if [ $# = 0 ]; then
		read_author
		echo "$AUTHOR"
		return
	fi
	need_tree
	read_author "$1"	# complains before anything is written
	lock
	[ "$(stamp)" = "$(t config exmap.stamp)" ] ||
		die "the tree is not up to date with patches/: run 'series.sh tree' first"
	refuse_edits "run 'series.sh export' first"
	cp "$TOP/author" "$TMP/author" 2>/dev/null || : >"$TMP/author"
	trap 'cp "$TMP/author" "$TOP/author"; rm -rf "$TMP"' EXIT
	echo "$1" >"$TOP/author"
	cmd_export
	trap 'rm -rf "$TMP"' EXIT
	say "author: $1"
}

# ------------------------------------------------------------------- mailbox

# The series as it would arrive by mail: a thread below the cover letter
cmd_mbox() {
	local p id root='' n=0 date
	id=$(stamp | cut -c1-16)
	[ -r "$PATCHES/$COVER" ] || die "no patches/$COVER: 'series.sh export' makes one"
	for p in $COVER $(series_list); do
		[ -r "$PATCHES/$p" ] || die "series names $p, but patches/ has no such file"
		# Every mail needs a date; the cover letter's file has none
		date=$(sed -n '/^$/q; s/^Date: //p' "$PATCHES/$p")
		root=${root:-<$id-0@exmap.invalid>}
		awk -v id="<$id-$n@exmap.invalid>" -v root="$root" -v n="$n" -v date="$date" '
			NR == 1 && !/^From [0-9a-f]+ / { print "From 0 Mon Sep 17 00:00:00 2001" }
			!body && /^$/ {
				body = 1
				if (date == "")
					print "Date: Sat, 1 Jan 2000 00:00:00 +0000"
				print "Message-Id: " id
				if (n)
					print "In-Reply-To: " root "\nReferences: " root
			}
			body && /^>*From / { $0 = ">" $0 }
			{ print }
			END { print "" }' "$PATCHES/$p"
		n=$((n + 1))
	done
}

# ---------------------------------------------------------------------- check

result() {	# <name> <file with complaints>
	if [ -s "$2" ]; then
		echo "not ok - $1"
		sed 's/^/# /' "$2"
		failed=1
	else
		echo "ok - $1"
	fi
}

scratch() {	# <dir>: the files that the series changes, as the pristine source has them
	local f
	mkdir -p "$1"
	while read -r f; do
		[ ! -e "$PRISTINE/$f" ] || (cd "$PRISTINE" && cp --parents "$f" "$1/")
	done <"$TMP/touched"
	chmod -R u+w "$1"
}

g() { git -C "$dir" -c core.autocrlf=false -c b4.attestation-policy=off "$@"; }

scratch_repo() {
	scratch "$dir"
	git init -q "$dir"
	g add -Af
	g commit -q --allow-empty -m base
}

with_quilt() {
	scratch "$dir"
	(cd "$dir" && QUILT_PATCHES=$PATCHES QUILT_SERIES=$SERIES QUILT_PC=.pc \
		quilt --quiltrc /dev/null push -a --fuzz=0) </dev/null
}

with_git_am() {
	local p patches=()
	for p in $(series_list); do
		patches+=("$PATCHES/$p")
	done
	scratch_repo
	g am -q "${patches[@]}" </dev/null
}

with_b4() {
	scratch_repo
	mkdir "$TMP/b4"
	cmd_mbox >"$TMP/b4/series.mbox"
	# A home of its own: no settings and no cache of the person's. It wants
	# an identity from git, and no network.
	(
		cd "$dir"
		export HOME=$TMP/b4 XDG_CACHE_HOME=$TMP/b4/cache XDG_DATA_HOME=$TMP/b4/data
		git config user.name "$GIT_AUTHOR_NAME"
		git config user.email "$GIT_AUTHOR_EMAIL"
		git config b4.attestation-policy off
		b4 --offline-mode am -m "$TMP/b4/series.mbox" -o "$TMP/b4" </dev/null
	) || return
	g am -q "$TMP"/b4/*.mbx </dev/null
}

# Complains about every difference between the result in $dir and the checkout
compare() {
	local f
	(cd "$dir" && find . \( -path ./.git -o -path ./.pc \) -prune -o -type f -printf '%P\n' | sort) >"$TMP/files"
	while read -r f; do
		if [ -e "$PRISTINE/$f" ]; then
			# An existing kernel file: all three ways must agree on it
			[ ! -d "$TMP/first" ] || cmp -s "$TMP/first/$f" "$dir/$f" || echo "$f: not as $first makes it"
		elif [ ! -e "$TOP/$f" ]; then
			echo "$f: not in the checkout"
		elif ! cmp -s "$TOP/$f" "$dir/$f"; then
			echo "$f: differs from the checkout"
			diff -u --label "checkout/$f" --label "series/$f" "$TOP/$f" "$dir/$f" | head -n 20 || true
		elif ! same "$TOP/$f" "$dir/$f"; then
			echo "$f: x bit differs from the checkout"
		elif ! grep -qxF -e "$f" "$TMP/mirror"; then
			echo "$f: ignored by a .gitignore of the checkout"
		fi
	done <"$TMP/files"
	while read -r f; do
		[ -e "$dir/$f" ] || echo "$f: in the checkout, but no patch adds it"
	done <"$TMP/mirror"
	[ -d "$TMP/first" ] || { mv "$dir" "$TMP/first"; first=$1; }
}

cmd_check() {
	local p tool dir first='' failed=0

	need_pristine
	read_author
	for tool in quilt git b4; do
		command -v $tool >/dev/null || die "$tool is not installed: scripts/setup.sh installs it"
	done

	# The series file and patches/ name the same files
	{ ls "$PATCHES" 2>/dev/null || true; } | grep '\.patch$' | grep -v "^$COVER$" | sort >"$TMP/have" || true
	series_list | sort >"$TMP/want"
	{
		[ -s "$TMP/want" ] || echo "series is empty"
		uniq -d "$TMP/want" | sed 's/$/: twice in series/'
		comm -23 "$TMP/have" "$TMP/want" | sed 's/$/: in patches\/, but not in series/'
		comm -13 "$TMP/have" "$TMP/want" | sed 's/$/: in series, but not in patches\//'
		series_list | sort -c 2>/dev/null || echo "series is not in the order of the numbers"
		[ -e "$PATCHES/$COVER" ] || echo "no $COVER"
	} >"$TMP/out"
	result "series and patches/ name the same files" "$TMP/out"

	for p in $(series_list); do
		[ -r "$PATCHES/$p" ] || continue
		git mailinfo -b "$TMP/body" "$TMP/diff" <"$PATCHES/$p" >"$TMP/info" 2>/dev/null || { echo "$p: not a mail"; continue; }
		[ "$(sed -n 's/^Author: //p; s/^Email: //p' "$TMP/info" | paste -sd'|')" = "$GIT_AUTHOR_NAME|$GIT_AUTHOR_EMAIL" ] ||
			echo "$p: From is not $AUTHOR"
		grep -qxF "Signed-off-by: $AUTHOR" "$TMP/body" || echo "$p: no Signed-off-by of $AUTHOR"
	done >"$TMP/out"
	result "author and sign-off of every patch are the setting's" "$TMP/out"

	mirror_list >"$TMP/mirror"
	{ (cd "$PATCHES" && series_list | xargs -r cat 2>/dev/null) || true; } |
		sed -n 's,^diff --git a/\(.*\) b/\(.*\)$,\1\n\2,p' | sort -u >"$TMP/touched"
	for tool in quilt "git am" b4; do
		dir=$TMP/check-${tool// /-}
		: >"$TMP/out"
		if ("with_${tool// /_}") >"$TMP/log" 2>&1 && ! grep -qiE 'with fuzz|fuzz [0-9]' "$TMP/log"; then
			compare "$tool" >"$TMP/out"
		else
			{ echo "$tool failed:"; tail -n 30 "$TMP/log"; } >"$TMP/out"
		fi
		result "series applies with $tool, and the checkout has its files" "$TMP/out"
	done
	return $failed
}

usage() {
	sed -n '3,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
	exit 2
}

[ $# -ge 1 ] || usage
cmd=$1
shift
case $cmd in
tree | export | import | check | mbox)
	[ $# = 0 ] || die "series.sh $cmd takes no argument"
	"cmd_$cmd"
	;;
applies)
	[ $# = 1 ] || die "series.sh applies takes one argument: a source in $CACHE/src"
	cmd_applies "$1"
	;;
author)
	[ $# -le 1 ] || die "series.sh author takes one argument: 'Name <mail>', quoted"
	cmd_author "$@"
	;;
*)	usage ;;
esac
