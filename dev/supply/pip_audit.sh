#!/bin/bash
# Find known vulnerabilities of all locked Python packages. FLAGS are options of pip-audit: -sosv
# selects another source. The exit code is 0 only if the source was reached, knows an old
# vulnerability, and knows none in the lock files.
#
# usage: pip_audit.sh PROGRAM [FLAGS...]
set -euo pipefail
unset CDPATH
cd "$(dirname "$0")/../.."

LOCKS=(requirements/product.lock requirements/dev.lock dev/*/*.lock)
# pip-audit cannot distinguish a source without data from packages without a vulnerability. This
# package has known vulnerabilities, for example CVE-2014-1402.
KNOWN=jinja2==2.4.1

fail() { echo "pip-audit: $*" >&2; exit 2; }
ask() { "$program" --strict --disable-pip --progress-spinner off "${flags[@]}" "$@"; }

program=$1
flags=("${@:2}")
response=$(ask --no-deps -r <(echo "$KNOWN") 2>&1) \
  && fail "the source knows no vulnerability of $KNOWN, so its response proves nothing"
[[ $response == *"Found "*" known vulnerabilit"* ]] \
  || fail "no source of advisories was reached: $(tail -n 1 <<<"$response")"

code=0
for lock in "${LOCKS[@]}"; do
  echo "$lock:"
  ask --require-hashes -r "$lock" || code=1
done
exit $code
