#!/bin/bash
# Makes TARGET/roots/tools from Debian's packages: what sends load to pods and what serves it, in a root of its own, which nodes
# see at /opt/tools. A link to a folder named by a hash of this script, so that a second run does nothing.
#
# usage: tools.sh [TARGET]

set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
target=$(realpath -m "${1:-$here/../../target}")
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
packages=(apache2-utils curl libfaketime nghttp2-client nghttp2-proxy nghttp2-server nginx-light prometheus python3-grpcio wrk)

say() { echo "tools: $*"; }
die() { echo "tools: $*" >&2; exit 1; }

[[ $(id -u) == 0 ]] || die 'needs root'
command -v mmdebstrap >/dev/null || die 'needs mmdebstrap: apt-get install mmdebstrap'
mkdir -p "$target/roots"
exec 9>"$target/roots/.tools.lock" && flock 9
stamped=tools-$(sha256sum "$0" | cut -c1-12)
temporary=$target/roots/$stamped.tmp

if [[ ! -d $target/roots/$stamped ]]; then
    say "making tools from $mirror"
    rm -rf "$temporary"
    exclude=()
    for path in doc man locale info; do exclude+=(--dpkgopt="path-exclude=/usr/share/$path/*"); done
    mmdebstrap --quiet --mode=root --variant=apt "${exclude[@]}" --aptopt='APT::Install-Recommends "false"' \
        --include="$(IFS=,; echo "${packages[*]}")" trixie "$temporary" "$mirror"
    rm -rf "$temporary"/run/*
    # shellcheck disable=SC2016 # dpkg's own variables
    dpkg-query --admindir="$temporary/var/lib/dpkg" -W -f='${Package}=${Version}\n' "${packages[@]}" >"$temporary/versions"
    mv -T "$temporary" "$target/roots/$stamped"
fi
ln -sfnT "$stamped" "$target/roots/tools"
say "$(tr '\n' ' ' <"$target/roots/tools/versions")"
