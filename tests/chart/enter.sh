#!/bin/bash
# Runs a program in a root file system, in a mount namespace of its own. The program keeps its process id,
# so that signals reach it, and finds its state folder at the same path.
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
