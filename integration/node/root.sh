#!/bin/bash
# Makes the root folders that nodes run on, from Debian's packages:
#
#   TARGET/roots/trixie   a whole root: containerd 1.7, runc, crun with WasmEdge, a registry, CNI plugins, a DNS server
#   TARGET/roots/forky    only what differs: containerd 2.1 with its shim, and runc. A node lays it over trixie's.
#
# Both are links to folders named by a hash of this script, so that a second run does nothing, and a change here
# makes new roots. Needs root, mmdebstrap and a Debian mirror (DEBIAN_MIRROR).
#
# usage: root.sh [TARGET]

set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
target=$(realpath -m "${1:-$here/../../target}")
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

# What the tests and the documents speak of. Another version still gives a node, but says so.
trixie_expected='containerd=1.7.24 crun=1.21 runc=1.1.15'
forky_expected='containerd=2.1.9 runc=1.3.6'

trixie_packages=(
    containerd runc crun libwasmedge0
    docker-registry containernetworking-plugins dnsmasq-base
    busybox-static catatonit
    iproute2 iptables mount procps
)
forky_packages=(containerd runc)

say() { echo "roots: $*"; }
die() { echo "roots: $*" >&2; exit 1; }

keyring() {
    local file
    for file in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        [[ -e $file ]] && { echo "$file"; return; }
    done
    die 'no Debian archive keyring: apt-get install debian-archive-keyring'
}

# bootstrap ROOT: a trixie root with all that a node needs.
bootstrap() {
    local path exclude=() # documents are a third of such a root
    for path in doc man locale info; do exclude+=(--dpkgopt="path-exclude=/usr/share/$path/*"); done
    mmdebstrap --quiet --mode=root --variant=apt --keyring="$(keyring)" "${exclude[@]}" \
        --aptopt='APT::Install-Recommends "false"' \
        --include="$(IFS=,; echo "${trixie_packages[*]}")" \
        trixie "$1" "$mirror"
    # A folder of pid files and sockets from the packages' scripts is no part of a root.
    rm -rf "$1"/run/*
    # shellcheck disable=SC2016 # dpkg's own variables
    dpkg-query --admindir="$1/var/lib/dpkg" -W -f='${Package}=${Version}\n' "${trixie_packages[@]}" >"$1/versions"
}

# unpack ROOT: the programs of forky's packages, and nothing else, so that they can lie over a trixie root.
unpack() {
    local apt=$1.apt package
    mkdir -p "$apt"/{lists/partial,archives/partial} "$1"
    touch "$apt/status"
    echo "deb [signed-by=$(keyring)] $mirror forky main" >"$apt/sources.list"
    local options=(-qq
        -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt"
        -o APT::Sandbox::User=root -o Acquire::Languages=none
        -o Acquire::Check-Valid-Until=false) # a testing release's index may be older than it promised
    apt-get "${options[@]}" update
    (cd "$apt" && apt-get "${options[@]}" download "${forky_packages[@]}")
    for package in "$apt"/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x -C "$1" --wildcards './usr/*bin/*'
        # shellcheck disable=SC2016 # dpkg's own variables
        dpkg-deb --show --showformat='${Package}=${Version}\n' "$package"
    done >"$1/versions"
    rm -r "$apt"
}

# check ROOT EXPECTED: says what was found, and loudly if it is not what was expected.
check() {
    local wanted
    say "$1: $(tr '\n' ' ' <"$target/roots/$1/versions")"
    for wanted in $2; do
        grep -q "^${wanted}[^0-9]" "$target/roots/$1/versions" ||
            echo "roots: WARNING: $1 has $(grep "^${wanted%%=*}=" "$target/roots/$1/versions"), expected $wanted:" \
                'what the tests and documents say of this version may not hold' >&2
    done
}

# make NAME BUILDER: runs the builder in a temporary folder, unless that was done before.
make() {
    local name=$1 builder=$2 stamped=$1-$stamp temporary=$target/roots/$1-$stamp.tmp
    if [[ ! -d $target/roots/$stamped ]]; then
        say "making $name from $mirror"
        rm -rf "$temporary" "$temporary.apt"
        "$builder" "$temporary"
        mv -T "$temporary" "$target/roots/$stamped"
    fi
    ln -sfnT "$stamped" "$target/roots/$name"
}

[[ $(id -u) == 0 ]] || die 'needs root'
command -v mmdebstrap >/dev/null || die 'needs mmdebstrap: apt-get install mmdebstrap'
mkdir -p "$target/roots"
exec 9>"$target/roots/.lock" && flock 9
stamp=$(sha256sum "$0" | cut -c1-12)

make trixie bootstrap
make forky unpack
check trixie "$trixie_expected"
check forky "$forky_expected"
