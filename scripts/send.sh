#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Prepares the thread of one part of the series with b4, and stops before sending.
#
#   send.sh <part> [version]
#
# The mails are left in a directory, with recipients from get_maintainer.pl. Part 0 is
# a mail without patches. For a later version, cover/part-N-changes.txt, if there is
# one, goes below the cover letter.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ ${1:-} =~ ^[0-9]+$ && ${2:-1} =~ ^[1-9][0-9]*$ ]] || die "usage: send.sh <part> [version]"
PART=$1
VERSION=${2:-1}
TEXT=$TOP/cover/part-$PART.txt
CHANGES=$TOP/cover/part-$PART-changes.txt
OUT=$CACHE/send/part-$PART
[ -r "$TEXT" ] || die "there is no $TEXT"
command -v b4 >/dev/null || die "b4 is not installed: scripts/setup.sh installs it"

rm -rf "$OUT"
mkdir -p "$OUT/mails"

if [ "$PART" = 0 ]; then
	{
		echo "From: $("$TOP/scripts/series.sh" author)"
		echo "To: linux-mm@kvack.org"
		echo "Cc: linux-kernel@vger.kernel.org"
		echo "Subject: $(head -n 1 "$TEXT")"
		sed 1d "$TEXT"
	} >"$OUT/mails/0000-discussion.eml"
	say "send: $OUT/mails"
	exit
fi

# The numbers of its first and last patch
read -r FIRST LAST < <(awk -v part="$PART" '
	/^# part [0-9]+:/ { at = $3 + 0; next }
	/^[0-9]/ && at == part { if (!first) first = $1; last = $1 }
	END { print first + 0, last + 0 }' "$TOP/series")
[ "$FIRST" != 0 ] || die "series has no part $PART"

"$TOP/scripts/series.sh" tree
mapfile -t -O 1 commits < <(git -C "$TREE" rev-list --reverse base..exmap)
commits[0]=$(git -C "$TREE" rev-parse base)

# A clone of its own, because b4 rewrites the branch. Files are borrowed, not copied.
git clone -q --shared --no-checkout "$TREE" "$OUT/linux"
cd "$OUT/linux"
git config user.name "$(git -C "$TREE" config user.name)"
git config user.email "$(git -C "$TREE" config user.email)"
git config b4.attestation-policy off
git config b4.prep-cover-strategy commit
# b4 wants to know how it would send, even if it only writes files
git config b4.send-endpoint-web ""
git config sendemail.smtpserver localhost
git checkout -q -b "exmap-part-$PART" "${commits[LAST]}"

{
	cat "$TEXT"
	[ ! -r "$CHANGES" ] || { echo; cat "$CHANGES"; }
	echo
	echo "Signed-off-by: $("$TOP/scripts/series.sh" author)"
} >"$OUT/cover"
export HOME=$OUT XDG_CACHE_HOME=$OUT/.cache XDG_DATA_HOME=$OUT/.data
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
b4 --offline-mode prep -e "${commits[FIRST - 1]}"
EDITOR="cp $OUT/cover" GIT_EDITOR="cp $OUT/cover" b4 --offline-mode prep --edit-cover
[ "$VERSION" = 1 ] || b4 --offline-mode prep --force-revision "$VERSION"
b4 --offline-mode prep --auto-to-cc
b4 --offline-mode send --no-sign -o "$OUT/mails"
say "send: $(find "$OUT/mails" -type f | wc -l) mails in $OUT/mails. To send them: name your mail server there \
(git config sendemail.smtpserver) and run 'b4 send' in $OUT/linux"
