#!/bin/bash
# Builds the images with buildah, from Debian packages and this tree alone: TARGET/images/NAME.tar, OCI archives, each with its
# SBOM beside it. Needs root, buildah, mmdebstrap, the engine's bundles (make engine) and programs (cargo build).
#
# Where nothing has changed that goes into them, nothing is done.
#
# usage: build.sh [PROFILE]     the programs' cargo profile: release (default) or debug
#
# IMAGE_ARCH=arm64  for another architecture: PROGRAMS, BUNDLES and DEBIAN then have to name what is for that one
# PROGRAMS=DIR      podwasm, podwasm-exporter and podwasm-scaler
# BUNDLES=DIR       the folders bundle (the engine) and compiler
# DEBIAN=IMAGE      what the programs' libraries are taken from, instead of a root folder made here

set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
profile=${1:-release}
images=$repo/target/images
architecture=${IMAGE_ARCH:-$(dpkg --print-architecture)}
programs=${PROGRAMS:-$repo/target/$profile}
bundles=${BUNDLES:-$repo/target/engine}
declare -A names=([plugin]=podwasm [exporter]=podwasm-exporter [scaler]=podwasm-scaler)
registry=ghcr.io/podwasm
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml")
# The same inputs make the same images: this is the time that the bundles' files have.
epoch=1735689600

say() { echo "images: $*"; }
die() { echo "images: $*" >&2; exit 1; }

[[ $(id -u) == 0 ]] || die 'needs root'
for tool in buildah mmdebstrap strip python3; do
    command -v $tool >/dev/null || die "needs $tool: run make setup"
done
for name in "${names[@]}"; do
    [[ -x $programs/$name ]] || die "no $programs/$name: build it, or name another profile"
done
[[ -e $bundles/bundle/VERSION && -e $bundles/compiler/VERSION ]] || die 'no bundles: run make engine'
mkdir -p "$images"
exec 9>"$images/.lock" && flock 9

suffix=
[[ $architecture == "$(dpkg --print-architecture)" ]] || suffix=-$architecture
revision() { git -C "$repo" rev-parse HEAD 2>/dev/null || echo unknown; }
# All that goes into the images. Where none of it has changed, neither have they.
inputs() {
    local name
    {
        echo "$architecture $version $(revision) ${DEBIAN:-}"
        for name in "${names[@]}"; do sha256sum <"$programs/$name"; done
        cat "$here"/{build.sh,Containerfile,sbom.py} "$repo"/{Cargo.lock,engine/bundle/pins.txt} "$bundles"/{bundle,compiler}/VERSION
    } | sha256sum | cut -c1-16
}
inputs=$(inputs)
stamp=$images/stamp$suffix
are_there() {
    local name
    for name in "${names[@]}"; do [[ -e $images/$name$suffix.tar && -e $images/$name$suffix.spdx.json ]] || return; done
}
if [[ $(cat "$stamp" 2>/dev/null) == "$inputs" ]] && are_there; then
    say 'nothing has changed'
    exit
fi
rm -f "$stamp"

work=$images/work
run() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver "$driver" "$@"; }
# Native overlays are not to be had below another overlay.
case $(stat -f -c %T "$images") in overlayfs) driver=vfs ;; *) driver=overlay ;; esac
end() {
    local mount
    awk -v at="$work/" 'index($5, at) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r mount; do umount "$mount"; done
    rm -rf --one-file-system "$work"
}
end
trap end EXIT
mkdir -p "$work"/{context/{programs,sbom},storage,run}

debian_root() {
    local root=$repo/target/roots/images stamp
    stamp=$(declare -f debian_root | sha256sum | cut -c1-12)
    if [[ $(cat "$root/stamp" 2>/dev/null) != "$stamp" ]]; then
        say 'making a Debian root for the libraries'
        rm -rf --one-file-system "$root" "$root.making"
        mmdebstrap --quiet --mode=root --variant=essential \
            --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
            --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
            trixie "$root.making" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
        rm -rf "$root.making"/{run,var/cache,var/lib/apt/lists}/*
        echo "$stamp" >"$root.making/stamp"
        mv -T "$root.making" "$root"
    fi
    local container
    container=$(run from --quiet scratch)
    run add --quiet "$container" "$root" / >/dev/null
    run commit --quiet --rm "$container" localhost/podwasm/debian:trixie >/dev/null
    debian=localhost/podwasm/debian:trixie
    debian_packages=$root/var/lib/dpkg
}

context() {
    local name
    for name in "${names[@]}"; do
        ${STRIP:-strip} -o "$work/context/programs/$name" "$programs/$name"
    done
    cp -r "$bundles/bundle" "$work/context/engine"
    cp -r "$bundles/compiler" "$work/context/compiler"
    for name in "${names[@]}"; do
        local bundled=()
        [[ $name != podwasm ]] || bundled=(--bundle "$here/../../engine/bundle/pins.txt" --crate podwasm-engine)
        python3 "$here/sbom.py" --crate "$name" --version "$version" --created "$epoch" \
            ${debian_packages:+--dpkg "$debian_packages"} "${bundled[@]}" >"$work/context/sbom/$name.spdx.json"
    done
}

build() {
    local target=$1 name=${names[$1]} reference archive
    reference=$registry/$name:$version
    archive=$images/$name$suffix.tar
    run build --quiet --isolation chroot --format oci --layers --timestamp "$epoch" --arch "$architecture" --pull-never \
        --target "$target" --file "$here/Containerfile" --tag "$reference" \
        --build-arg DEBIAN="$debian" --build-arg VERSION="$version" --build-arg REVISION="$(revision)" "$work/context" >/dev/null
    rm -f "$archive.new"
    run push --quiet "$reference" "oci-archive:$archive.new:$reference"
    mv "$archive.new" "$archive"
    cp "$work/context/sbom/$name.spdx.json" "${archive%.tar}.spdx.json"
    say "$(basename "$archive") $(du -h "$archive" | cut -f1) $reference"
}

debian=${DEBIAN:-}
debian_packages=
[[ -n $debian ]] || debian_root
context
for target in plugin exporter scaler; do build $target; done
echo "$inputs" >"$stamp"
