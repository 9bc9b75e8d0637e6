#!/bin/bash
# Lines of product code by folder: Python and letter templates, without tests and migrations.
# usage: size.sh FOLDER...                        More than LIMIT in all is a failure.
set -euo pipefail
LIMIT=4000

lines() {
  find "$1" \( -name tests -o -name migrations \) -prune -o -type f \
    \( -name '*.py' -o -name '*.txt' -o -name '*.j2' \) -print0 | xargs -0 -r cat | wc -l
}

total=0
for folder in "$@"; do
  [ -d "$folder" ] || continue
  count=$(lines "$folder")
  printf '%6d  %s\n' "$count" "$folder"
  total=$((total + count))
done
printf '%6d  of at most %d\n' "$total" "$LIMIT"
[ "$total" -le "$LIMIT" ]
