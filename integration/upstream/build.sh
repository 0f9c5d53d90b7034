#!/bin/bash
# Builds what Debian does not have from the Go module proxy, in pinned releases:
#
#   build.sh containerd   containerd 2.2 with its shim and ctr: TARGET/roots/upstream, which a node lays over forky's and trixie's root
#   build.sh critest      the validation suite of the CRI: TARGET/upstream/critest
#
# Each module is checked against the sum below, and what it needs against its own go.sum. Go is the one on PATH if it is new enough,
# else Debian forky's in a root folder of its own, for which root and mmdebstrap are needed. A second run does nothing.
#
# usage: build.sh containerd|critest...

set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
target=$(realpath -m "$here/../../target")
upstream=$target/upstream
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

containerd_module=github.com/containerd/containerd/v2 containerd_version=v2.2.9
containerd_sum=h1:ddw9THGOXhcKnHORjkKoXtazPjwtcPwmqk8AVyRpfZw=
critest_module=sigs.k8s.io/cri-tools critest_version=v1.37.0
critest_sum=h1:BmTImEoTX3KPXCLwmIU9mfCC8umUqF4R8WibY9eVU9Y=

say() { echo "upstream: $*" >&2; } # not among what is captured
die() { echo "upstream: $*" >&2; exit 1; }

# new_enough GO: whether this Go can build all of it, without getting another one.
new_enough() {
    local version
    version=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
    [[ $(printf '%s\n' "$oldest_go" "${version#go}" | sort -V | head -1) == "$oldest_go" ]]
}

make_go_root() {
    local root=$target/roots/go temporary=$target/roots/go.tmp
    [[ ! -e $root ]] || return 0
    [[ $(id -u) == 0 ]] || die "needs Go $oldest_go or newer on PATH, or root"
    command -v mmdebstrap >/dev/null || die 'needs mmdebstrap: apt-get install mmdebstrap'
    say "making a root folder with Debian forky's Go from $mirror"
    rm -rf "$temporary"
    mmdebstrap --quiet --mode=root --variant=apt --aptopt='APT::Install-Recommends "false"' \
        --aptopt='Acquire::Check-Valid-Until "false"' --include=ca-certificates,golang-go forky "$temporary" "$mirror"
    mkdir -p "$temporary$target"
    mv -T "$temporary" "$root"
}

# with_go FOLDER ARGUMENT...: Go's command in a folder below TARGET.
with_go() {
    local folder=$1
    shift
    local settings=(CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS="-buildvcs=false -mod=readonly")
    if new_enough go; then
        (cd "$folder" && env "${settings[@]}" nice -n 5 go "$@")
        return
    fi
    make_go_root
    settings+=(GOMODCACHE="$upstream/modules" GOCACHE="$upstream/cache")
    # The machine's own way out of its network holds inside too.
    # shellcheck disable=SC2016 # for the shell inside
    unshare --mount --propagation private bash -euc '
        root=$1 target=$2 folder=$3
        shift 3
        mount --bind "$target" "$root$target"
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        for shared in /etc/resolv.conf /etc/hosts /etc/ssl/certs; do
            if [ -d "$shared" ]; then mkdir -p "$root$shared"; else touch "$root$shared"; fi
            mount --bind "$shared" "$root$shared"
        done
        exec chroot "$root" env -C "$folder" HOME=/root PATH=/usr/sbin:/usr/bin nice -n 5 "$@"' \
        with_go "$target/roots/go" "$target" "$folder" env "${settings[@]}" go "$@"
}

# source_of MODULE VERSION SUM: its source, with its own go.mod and go.sum, in $source.
source_of() {
    local module=$1 version=$2 sum=$3 found
    mkdir -p "$upstream/empty"
    found=$(with_go "$upstream/empty" mod download -json "$module@$version") || die "cannot get $module $version"
    [[ $found == *"\"Sum\": \"$sum\""* ]] || die "$module $version is not the one that was pinned: $found"
    source=$(sed -n 's/.*"Dir": "\(.*\)",/\1/p' <<<"$found")
}

make_containerd() {
    local stamped=upstream-$stamp oldest_go=1.25
    local root=$target/roots/$stamped
    if [[ ! -d $root ]]; then
        say "building containerd $containerd_version (some minutes)"
        source_of "$containerd_module" "$containerd_version" "$containerd_sum"
        rm -rf "$root.tmp"
        mkdir -p "$root.tmp/usr/bin"
        with_go "$source" build -trimpath -ldflags "-s -w -X $containerd_module/version.Version=$containerd_version" \
            -o "$root.tmp/usr/bin/" ./cmd/containerd ./cmd/containerd-shim-runc-v2 ./cmd/ctr
        echo "containerd=${containerd_version#v}" >"$root.tmp/versions"
        mv -T "$root.tmp" "$root"
    fi
    ln -sfnT "$stamped" "$target/roots/upstream"
    say "containerd ${containerd_version#v}: $target/roots/upstream"
}

make_critest() {
    local built=$upstream/critest-$stamp oldest_go=1.26.6
    if [[ ! -x $built ]]; then
        say "building critest $critest_version (some minutes)"
        source_of "$critest_module" "$critest_version" "$critest_sum"
        with_go "$source" test -c -trimpath -o "$built.tmp" ./cmd/critest
        mv -T "$built.tmp" "$built"
    fi
    ln -sfnT "$(basename "$built")" "$upstream/critest"
    say "critest $critest_version: $upstream/critest"
}

[[ $# -gt 0 ]] || die 'usage: build.sh containerd|critest...'
mkdir -p "$target/roots" "$upstream"
exec 9>"$upstream/.lock" && flock 9
stamp=$(sha256sum "$0" | cut -c1-12)
for wanted in "$@"; do
    case $wanted in
        containerd) make_containerd ;;
        critest) make_critest ;;
        *) die "there is no $wanted to build" ;;
    esac
done
