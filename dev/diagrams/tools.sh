#!/bin/bash
# Install the tools that render docs/diagrams: Chromium with a font (as root), and mermaid-cli in
# dev/diagrams/node_modules.
set -euo pipefail
unset CDPATH
cd "$(dirname "$0")/../.."

dev/install.sh --system --browser
stamp=dev/diagrams/node_modules/.stamp
wanted=$(sha256sum <dev/diagrams/package-lock.json)
[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || exit 0
echo "install: installing mermaid-cli into dev/diagrams/node_modules ..." >&2
PUPPETEER_SKIP_DOWNLOAD=1 npm ci --prefix dev/diagrams --silent --no-audit --no-fund >&2
echo "$wanted" >"$stamp"
