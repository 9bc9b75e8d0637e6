#!/bin/bash
# Runs a program in a root file system, in a new mount namespace.
# The program keeps the process id, so that signals reach it. Its state folder has the same path.
#
# usage: enter.sh ROOT STATE USER:GROUP PROGRAM [ARGUMENT...]
set -euo pipefail
root=$1 state=$2 user=$3
shift 3
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/var/tmp"
mkdir -p "$root$state"
mount --bind "$state" "$root$state"
exec chroot --userspec="$user" "$root" "$@"
