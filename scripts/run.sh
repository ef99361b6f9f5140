#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# The main job: load the kernel's Documentation directory into the example
# buffer manager's store, on ext4 on the virtual disk, and read it all back with
# a buffer of an eighth of it. Arguments go to exmap-store. Without any, SQLite follows, on a
# buffer in an exmap region as well.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

CPUS=${CPUS:-4}
export CPUS SHARE=$PRISTINE/Documentation SHARE_RO=1 TIMEOUT=${TIMEOUT:-1800}
args=$(printf '%q ' --fraction 8 --threads "$CPUS" "$@")
say "run: exmap-store on $(find -L "$SHARE" -type f | wc -l) files below Documentation/, $CPUS threads"
"$TOP/scripts/vm.sh" "exmap-store --load /mnt/share --file /mnt/disk/store $args"
[ $# != 0 ] || SQLITE_TEXT=${SQLITE_TEXT:-32} "$TOP/scripts/sqlite.sh" machine
