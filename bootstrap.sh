#!/bin/sh
# Makes this checkout ready to run: system packages, .venv, the project itself. Says what it does,
# changes nothing that is in order, and can be run again at any time.
set -eu
cd "$(dirname "$0")"

say() { printf 'bootstrap: %s\n' "$*"; }
fail() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }

# --- system packages -------------------------------------------------------------------------

has_postgres() {
    [ -n "${RAIDHUB_POSTGRES_BIN:-}" ] || command -v postgres >/dev/null 2>&1 ||
        ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1
}
has_rabbitmq() { ls /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server >/dev/null 2>&1; }
has_chromium() { command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1; }

# The newest Python that the project allows, as a command.
find_python() {
    for name in python3.13 python3.12 python3.11 python3; do
        if "$name" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info < (3, 14))' \
            >/dev/null 2>&1; then
            command -v "$name"
            return
        fi
    done
}
has_venv() {
    [ -x .venv/bin/python ] && return
    python=$(find_python) && [ -n "$python" ] && "$python" -c 'import ensurepip' 2>/dev/null
}

missing=""
has_postgres || missing="$missing postgresql"
has_rabbitmq || missing="$missing rabbitmq-server"
has_chromium || missing="$missing chromium"   # the tests look at Dagster's pages with it
command -v promtool >/dev/null 2>&1 || missing="$missing prometheus"  # checks rules and dashboards
has_venv || missing="$missing python3 python3-venv"
command -v make >/dev/null 2>&1 || missing="$missing make"
command -v setpriv >/dev/null 2>&1 || missing="$missing util-linux"

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        fail "please install:$missing (named as on Debian), then run this again"
    elif [ "$(id -u)" = 0 ]; then
        as_root=""
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        as_root="sudo"
    else
        fail "please run: sudo apt-get install$missing"
    fi
    say "installing$missing"
    # The packages bring services of their own, which nobody here needs: policy-rc.d keeps their
    # installation from starting one. A service that runs already is left alone.
    policy=/usr/sbin/policy-rc.d
    made_policy=""
    if [ ! -e "$policy" ]; then
        made_policy=yes
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod 755 "$policy"
        trap '$as_root rm -f "$policy"' EXIT
    fi
    $as_root apt-get update -qq
    # shellcheck disable=SC2086  # a list of words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        $missing </dev/null >/dev/null
    if [ -n "$made_policy" ]; then
        $as_root rm -f "$policy"
        trap - EXIT
    fi
fi

# --- the virtual environment -----------------------------------------------------------------

wanted=$(cat requirements.lock pyproject.toml | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/.bootstrapped 2>/dev/null)" != "$wanted" ] || [ ! -x .venv/bin/raidhub ]; then
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python)
        [ -n "$python" ] || fail "Python 3.11, 3.12 or 3.13 is needed; none was found"
        "$python" -m venv .venv
    fi
    say "installing the pinned requirements into .venv ($(.venv/bin/python --version))"
    # The lock is complete, and with dependencies pip wants hashes for extras a second time.
    .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes \
        -r requirements.lock
    # Without isolation and without dependencies: nothing unpinned is fetched.
    .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps \
        --no-build-isolation -e .
    echo "$wanted" >.venv/.bootstrapped
fi
say "ready"
