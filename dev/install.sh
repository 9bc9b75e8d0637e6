#!/bin/bash
# Install missing packages: Debian's RabbitMQ, PostgreSQL and Node.js (as root), the virtual
# environment and newman. It is quick if nothing is missing, and can be repeated after a failure.
# It neither starts nor changes the system's own servers.
#
# usage: install.sh [--system] [--browser] [--specs] [PROGRAM...]
#   --system   Debian's packages only
#   --browser  also Chromium, a font with the widths of Arial, so that text fits in any browser, the
#              library of Playwright's driver, and axe-core
#   --specs    also AsyncAPI's parser
#   PROGRAM    also this program, from Debian's package of the same name
# PYTHON selects another interpreter than python3, of version 3.11 to 3.13.
set -euo pipefail
# A terminal may have set these for other programs and other installations.
unset CDPATH PYTHONHOME PYTHONPATH PIP_PREFIX PIP_REQUIRE_VIRTUALENV PIP_ROOT PIP_TARGET
export PIP_USER=0
cd -P "$(dirname "$0")/.."

MARK='# for the time of an installation by nameko-shop'
POLICY=/usr/sbin/policy-rc.d
CLUSTERS=/etc/postgresql-common/createcluster.conf
ERRORS='^ERROR:|^npm (ERR!|error) .*([Ee]rror|reason):'
PIP_WHEEL='/usr/share/python-wheels/pip-*.whl'
FONT='/usr/share/fonts/truetype/liberation*/LiberationSans-Regular.ttf'

say() { echo "install: $*" >&2; }
fail() { say "$@"; exit 1; }

# Run a command. If it fails, print one line: its error, advice, and the file with all its output.
attempt() { # NAME CHECK COMMAND...
  local name=$1 check=$2 output reason
  shift 2
  output=$(mktemp -t shop-install.XXXXXX)
  if ! "$@" >"$output" 2>&1 </dev/null; then
    reason=$({ grep -E "$ERRORS" "$output" || tail -n 1 "$output"; } | head -n 1)
    fail "$name failed: $reason. Check $check and the disk, see $output, then retry"
  fi
  rm -f "$output"
}

# Debian's packages

missing_packages() { # PROGRAM...
  local program programs=("$@" node npm)
  [ "$(id -u)" != 0 ] || programs+=(curl) # for the README's commands; not required without root
  for program in "${programs[@]}"; do
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || echo "${program/%node/nodejs}"
  done
  if [ -z "${AMQP_URI:-}" ]; then
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || echo rabbitmq-server
  fi
  if [ -z "${USERS_DB_URI:-}" ]; then
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || echo postgresql
  fi
  if [ ! -x .venv/bin/python ]; then
    # Not python3-venv: it needs one exact version of Python, and would upgrade a slightly older one.
    has_ensurepip "${PYTHON:-python3}" || compgen -G "$PIP_WHEEL" >/dev/null || echo python3-pip-whl
  fi
  if [ -n "$with_browser" ]; then
    compgen -G "$FONT" >/dev/null || echo fonts-liberation
    compgen -G '/usr/lib/*/libatomic.so.1' >/dev/null || echo libatomic1
  fi
}

install_packages() {
  local command="apt-get install $*"
  [ "$(id -u)" = 0 ] || fail "missing: $*. As root: $PWD/dev/install.sh --system"
  command -v apt-get >/dev/null || fail "missing: $*. Install them (these are Debian's names)"
  say "installing $* ..."
  log=$(mktemp)
  trap undo EXIT
  forbid_starts
  forbid_cluster
  quietly dpkg --configure -a # completes an interrupted installation
  quietly apt-get update || say "apt-get update failed, continuing with the known packages"
  if [[ " $* " == *" postgresql "* ]]; then
    apt_install postgresql-common
    forbid_cluster
  fi
  local units
  units=$(new_units)
  apt_install "$@" $(matching_libssl_dev "$@")
  not_at_boot $units
}

# npm needs libssl-dev, whose newest version would upgrade the system's libssl.
matching_libssl_dev() {
  local version
  version=$(dpkg-query -W -f '${Version}' libssl3 2>/dev/null) || return 0
  if [[ " $* " == *" npm "* ]] && apt-cache madison libssl-dev | grep -F " $version " >/dev/null; then
    echo "libssl-dev=$version"
  fi
}

apt_install() {
  quietly apt-get install --yes --no-install-recommends --no-upgrade --no-remove \
    -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confdef \
    -o Dpkg::Options::=--force-confold "$@" && return
  local reason kept
  reason=$({ grep '^E:' "$log" || tail -n 1 "$log"; } | head -n 1)
  kept=$(mktemp -t shop-install.XXXXXX)
  cp "$log" "$kept"
  fail "apt-get failed: $reason. Check the network, the proxy and the disk, see $kept, then retry"
}

quietly() { # needrestart would restart others' servers
  DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 "$@" </dev/null >>"$log" 2>&1
}

# Debian's packages start their servers unless policy-rc.d forbids it, also under systemd.
forbid_starts() {
  if [ ! -e "$POLICY" ]; then
    printf '#!/bin/sh\n%s\nexit 101\n' "$MARK" >"$POLICY"
    chmod 755 "$POLICY"
  fi
  local code=0
  "$POLICY" rabbitmq-server start >/dev/null 2>&1 || code=$?
  [ "$code" = 101 ] || fail "$POLICY allows Debian to start servers: install by hand: $command"
}

# PostgreSQL's package creates a cluster, which the next boot would start.
forbid_cluster() {
  if [ -e "$CLUSTERS" ] && ! grep -q "$MARK" "$CLUSTERS"; then
    echo "create_main_cluster = false $MARK" >>"$CLUSTERS"
  fi
}

# Also remove the files of an installation that was killed.
undo() {
  if grep -qs "$MARK" "$POLICY"; then rm -f "$POLICY"; fi
  if grep -qs "$MARK" "$CLUSTERS"; then sed -i "/$MARK/d" "$CLUSTERS"; fi
  rm -f "$log"
}

new_units() {
  for unit in rabbitmq-server.service epmd.service epmd.socket pgbouncer.service nginx.service; do
    [ -e "/lib/systemd/system/$unit" ] || echo "$unit"
  done
}

# The next boot must not start the new servers.
not_at_boot() {
  if [ $# -gt 0 ] && command -v systemctl >/dev/null; then quietly systemctl disable "$@" || true; fi
  local name
  for name in rabbitmq-server pgbouncer nginx; do # only if this call has installed them
    if [[ " $* " == *" $name.service "* && -e /etc/init.d/$name ]]; then quietly update-rc.d "$name" disable; fi
  done
}

# The virtual environment

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

has_ensurepip() { "$1" -c 'import ensurepip' 2>/dev/null; }

new_venv() {
  if has_ensurepip "$1"; then
    "$1" -m venv .venv >&2
  else
    local wheel
    wheel=$(compgen -G "$PIP_WHEEL")
    "$1" -m venv --without-pip .venv >&2
    .venv/bin/python "$wheel/pip" install -qq --no-index --find-links "$(dirname "$wheel")" pip
  fi
}

make_venv() {
  case $PWD in
    *[\"\$\`\\]*) fail "programs in .venv/bin cannot run in a folder with one of \" \$ \` \\ in its name: move $PWD" ;;
  esac
  local python=${PYTHON:-} version stamp
  if [ -z "$python" ]; then
    python=python3
    [ ! -x .venv/bin/python ] || python=$(.venv/bin/python -c 'import sys; print(sys._base_executable)')
  fi
  version=$(python_version "$python") || fail "$python does not run: set PYTHON to Python 3.11, 3.12 or 3.13"
  case $version in
    3.11 | 3.12 | 3.13) ;;
    *) fail "$python is Python $version: set PYTHON to Python 3.11, 3.12 or 3.13, as make install PYTHON=python3.12" ;;
  esac
  # The programs in .venv/bin contain the folder's path.
  stamp="$PWD $version $(sha256sum <requirements/dev.lock)"
  [ "$(cat .venv/.stamp 2>/dev/null)" != "$stamp" ] || return 0
  # If a run was killed, pip may not notice that a package is incomplete.
  if [ -e .venv/.unfinished ] || [ "$(python_version .venv/bin/python)" != "$version" ] \
    || ! .venv/bin/python -m pip --version >/dev/null 2>&1 || ! grep -qsF "$PWD/.venv" .venv/bin/activate; then
    rm -rf .venv
    new_venv "$python" || fail "$python cannot create a virtual environment: see above"
  fi
  say "installing Python packages into .venv ..."
  touch .venv/.unfinished
  attempt pip "the network, the proxy and the index (HTTPS_PROXY, PIP_INDEX_URL)" \
    .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.lock
  rm .venv/.unfinished
  echo "$stamp" >.venv/.stamp
}

# Packages of npm

make_node_modules() { # FOLDER MIN_NODE DESCRIPTION
  local stamp
  stamp=$(sha256sum <"$1/package-lock.json")
  [ "$(cat "$1/node_modules/.stamp" 2>/dev/null)" != "$stamp" ] || return 0
  node -e "process.exit(parseInt(process.versions.node) < $2 ? 1 : 0)" \
    || fail "Node.js $(node --version) is too old for $3: install version $2 or later"
  say "installing $3 into $1/node_modules ..."
  [ -z "${HOME:-}" ] || [ -w "$HOME" ] || export npm_config_cache=$PWD/.tools/npm
  attempt npm "the network, the proxy and the registry (HTTPS_PROXY, npm_config_registry)" \
    npm ci --prefix "$1" --loglevel=error --no-audit --no-fund --fetch-timeout=60000
  echo "$stamp" >"$1/node_modules/.stamp"
}

only_system=
with_browser=
with_specs=
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --system) only_system=yes ;;
    --browser) with_browser=yes ;;
    --specs) with_specs=yes ;;
    *) fail "unknown option: $1" ;;
  esac
  shift
done
[ -z "$with_browser" ] || set -- "$@" chromium
mapfile -t missing < <(missing_packages "$@")
[ "${#missing[@]}" = 0 ] || install_packages "${missing[@]}"
[ -z "$only_system" ] || exit 0
make_venv
make_node_modules postman 16 newman
[ -z "$with_browser" ] || make_node_modules dev/browser 16 axe-core
[ -z "$with_specs" ] || make_node_modules dev/specs 18 "the parser of AsyncAPI"
