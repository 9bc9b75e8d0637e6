#!/bin/bash
# Install a Debian with its RabbitMQ in .tools/debian-13 or .tools/debian-testing, once, as root.
# `make test-broker` runs the broker there. Debian testing changes: remove its folder to install
# the current version.
#
# usage: rabbitmq.sh 13|testing
set -euo pipefail
unset CDPATH
cd "$(dirname "$0")/../.."

debian=$1
root=.tools/debian-$debian
[ ! -e "$root" ] || exit 0
dev/install.sh --system debootstrap
echo "install: installing RabbitMQ of Debian $debian into $root ..." >&2
mkdir -p "${root%/*}"
rm -rf "$root.part"
# In its own namespaces: no mount and no process of a package remains.
unshare --mount --pid --fork --kill-child \
  debootstrap --variant=minbase --include=rabbitmq-server "${debian/#13/trixie}" "$root.part" >"$root.log" 2>&1 || {
    tail -n 15 "$root.log" >&2
    echo "install: installing RabbitMQ of Debian $debian failed: see $root.log" >&2
    exit 1
  }
echo "127.0.0.1 localhost" >"$root.part/etc/hosts"
rm -rf "$root.part"/var/cache/apt/archives/*.deb "$root.part"/var/lib/apt/lists/*
mv "$root.part" "$root"
