#!/usr/bin/env bash
# Installs what is missing to run (or to test) the observatory software on Debian or Ubuntu.
#
# usage: tools/setup.sh run|test
#
# System packages are only installed, never started or enabled: while apt runs, a policy-rc.d
# answers 101 to every request of a package to start its service.  What is there already is left
# alone, so a second call only looks.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:?usage: tools/setup.sh run|test}

python=""
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "setup: Python 3.11 or newer is needed, found $(python3 --version 2>&1 || true);" \
        "install a newer python3 and call make again" >&2
    exit 1
fi

# program that must be there -> Debian package that brings it
missing=()
need() { # command package
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || missing+=("$2")
}
need redis-server redis-server
need sshd openssh-server
need ssh openssh-client
need rsync rsync
need ping iputils-ping
need pgrep procps
need ip iproute2
need gcc gcc
need make make
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
echo '#include <stdio.h>' | gcc -E - >/dev/null 2>&1 || missing+=(libc6-dev)

if [ "${#missing[@]}" -gt 0 ]; then
    echo "setup: system packages to install: ${missing[*]}"
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "setup: not root and no sudo here; as root type:" \
                "apt-get install --no-install-recommends ${missing[*]}" >&2
            exit 1
        fi
        as_root=(sudo)
    fi
    if ! command -v apt-get >/dev/null; then
        echo "setup: no apt-get on this machine; install these programs yourself: ${missing[*]}" >&2
        exit 1
    fi
    # No service may start: a laptop must not find itself with an sshd on all interfaces.
    policy=/usr/sbin/policy-rc.d
    kept=""
    if [ -e "$policy" ]; then
        kept=$(mktemp)
        "${as_root[@]}" cp -p "$policy" "$kept"
    fi
    restore() {
        if [ -n "$kept" ]; then
            "${as_root[@]}" cp -p "$kept" "$policy"
            "${as_root[@]}" rm -f "$kept"
        else
            "${as_root[@]}" rm -f "$policy"
        fi
    }
    trap restore EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    restore
    trap - EXIT
fi

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c '' 2>/dev/null; then
    echo "setup: making .venv with $python"
    rm -rf .venv
    "$python" -m venv .venv
fi

install() { # requirements file
    local stamp=".venv/installed-$(basename "$1")"
    if ! cmp -s "$1" "$stamp"; then
        echo "setup: installing the Python packages of $1: $(grep -oE '^[A-Za-z0-9_-]+' "$1" | xargs)"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1"
        cp "$1" "$stamp"
    fi
}
install requirements.txt
install requirements-tools.txt
if [ "$what" = test ]; then
    install requirements-test.txt
fi
