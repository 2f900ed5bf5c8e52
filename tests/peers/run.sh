#!/usr/bin/env bash
# Kith and ejabberd side by side on this machine. Installs what is missing from Debian packages (as root), builds, measures, prints tables.
#
#   tests/peers/run.sh            about 15 minutes; nothing else should run meanwhile
#   tests/peers/run.sh --smoke    a minute: does everything work?
#
# Further arguments are those of `peers compare` (--help). Nothing is left running, and no service of the system is started or enabled.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages=(ejabberd erlang-p1-pgsql postgresql redis-server)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}" >&2
    # Packages ask this program whether they may start their services; the answer is no.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
    for package in "${missing[@]}"; do
        [ ! -e "/etc/init.d/$package" ] || update-rc.d "$package" disable >/dev/null 2>&1 || true
    done
fi

# 15,000 connections are as many files, in the server and in the generator.
ulimit -n "$(ulimit -Hn)"
cargo build --release --workspace --bins >&2
"${CARGO_TARGET_DIR:-target}/release/peers" compare "$@"
