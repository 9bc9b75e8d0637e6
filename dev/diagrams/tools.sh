#!/bin/bash
# Install the tools that render docs/diagrams: Debian's chromium (as root), a font with the widths
# of Arial, so that text fits in any browser, and mermaid-cli in dev/diagrams/node_modules.
set -euo pipefail
unset CDPATH
cd "$(dirname "$0")/../.."

packages=(chromium)
compgen -G '/usr/share/fonts/truetype/liberation*/LiberationSans-Regular.ttf' >/dev/null || packages+=(fonts-liberation)
dev/install.sh --system "${packages[@]}"
stamp=dev/diagrams/node_modules/.stamp
wanted=$(sha256sum <dev/diagrams/package-lock.json)
[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || exit 0
echo "install: installing mermaid-cli into dev/diagrams/node_modules ..." >&2
PUPPETEER_SKIP_DOWNLOAD=1 npm ci --prefix dev/diagrams --silent --no-audit --no-fund >&2
echo "$wanted" >"$stamp"
