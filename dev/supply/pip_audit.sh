#!/bin/bash
# Asks for known vulnerabilities of all locked Python packages. FLAGS go to pip-audit: -sosv asks
# another source. Ends with 0 only where the source was reached, knows of one old vulnerability, and
# knows of none in the locks.
#
# usage: pip_audit.sh PROGRAM [FLAGS...]
set -euo pipefail
unset CDPATH
cd "$(dirname "$0")/../.."

LOCKS=(requirements/product.lock requirements/dev.lock dev/*/*.lock)
# pip-audit alone cannot tell a source that knows nothing from packages without a vulnerability. This
# one is known to have some, CVE-2014-1402 among them.
KNOWN=jinja2==2.4.1

fail() { echo "pip-audit: $*" >&2; exit 2; }
ask() { "$program" --strict --disable-pip --progress-spinner off "${flags[@]}" "$@"; }

program=$1
flags=("${@:2}")
answer=$(ask --no-deps -r <(echo "$KNOWN") 2>&1) \
  && fail "the source knows no vulnerability of $KNOWN, so its answer proves nothing"
[[ $answer == *"Found "*" known vulnerabilit"* ]] \
  || fail "no source of advisories was reached, so nothing is known: $(tail -n 1 <<<"$answer")"

code=0
for lock in "${LOCKS[@]}"; do
  echo "$lock:"
  ask --require-hashes -r "$lock" || code=1
done
exit $code
