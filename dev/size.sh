#!/bin/bash
# Lines of product code by folder: Python and letter templates, without blank lines, tests, migrations and
# what browsers get (static). Comments and docstrings count: they are read too. What looks at the suite
# from outside (audit, bench, chaos) or starts it (dev) is no part of it.
# usage: size.sh FOLDER...                        More than LIMIT in all is a failure.
set -euo pipefail
LIMIT=4000

lines() {
  find "$1" \( -name tests -o -name migrations -o -name static \) -prune -o -type f \
    \( -name '*.py' -o -name '*.txt' \) -print0 | xargs -0 -r cat | grep -c '[^[:space:]]' || true
}

total=0
for folder in "$@"; do
  [ -d "$folder" ] || continue
  count=$(lines "$folder")
  printf '%6d  %s\n' "$count" "$folder"
  total=$((total + count))
done
printf '%6d  of at most %d lines that are not blank\n' "$total" "$LIMIT"
[ "$total" -le "$LIMIT" ]
