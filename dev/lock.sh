#!/bin/bash
# Pin the dependencies in pyproject.toml, for all supported versions of Python, with hashes.
#
# usage: lock.sh [FLAGS of uv pip compile...]
set -euo pipefail
unset CDPATH
cd "$(dirname "$0")/.."
.venv/bin/python -m pip install --quiet uv
compile=(.venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url
  --no-header --no-annotate --python-version 3.11 "$@")
"${compile[@]}" pyproject.toml -o requirements/product.lock
"${compile[@]}" pyproject.toml --group dev -c requirements/product.lock -o requirements/dev.lock
"${compile[@]}" --group checkov -o dev/chart/checkov.lock
"${compile[@]}" --group supply -o dev/supply/tools.lock
