#!/bin/bash
# Makes a root file system of Debian 13 with its RabbitMQ, 4.0, in .tools/debian-13: `make test-broker`
# runs it there. Once, as root.
set -euo pipefail
unset CDPATH
cd "$(dirname "$0")/../.."

root=.tools/debian-13
[ ! -e "$root" ] || exit 0
dev/install.sh --system debootstrap
echo "install: installing RabbitMQ of Debian 13 into $root ..." >&2
mkdir -p "${root%/*}"
rm -rf "$root.part"
# In namespaces of its own: nothing stays mounted, and nothing that a package starts stays alive.
unshare --mount --pid --fork --kill-child \
  debootstrap --variant=minbase --include=rabbitmq-server trixie "$root.part" >"$root.log" 2>&1 \
  || { tail -n 15 "$root.log" >&2; exit 1; }
echo "127.0.0.1 localhost" >"$root.part/etc/hosts"
rm -rf "$root.part"/var/cache/apt/archives/*.deb "$root.part"/var/lib/apt/lists/*
mv "$root.part" "$root"
