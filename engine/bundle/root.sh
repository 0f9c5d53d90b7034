#!/usr/bin/env bash
# Makes target/roots/build: a Debian trixie root folder with everything the engine, its bundle and
# the test guests are built with. Needs root, and mmdebstrap (installed if it is missing).
#
#   root.sh                make the root if it is not there, then compare it with pins.txt
#   root.sh --accept-pins  write down the versions that the root holds as the new pins
#
# PODWASM_STRICT_PINS=1      a package that is not the pinned one is an error, not a warning
# PODWASM_DEBIAN_MIRROR=URL  take packages from this mirror instead of mmdebstrap's default
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
root=$repo/target/roots/build
pins=$here/pins.txt

# The engine: libwasmedge, a C compiler to link with, libclang for wasmedge-sys' bindings.
engine=(libwasmedge-dev gcc libc6-dev libclang1-19 clang-19 binutils patchelf)
# The guests: C and Rust for wasm32-wasi, and wabt for the hand-written ones.
guests=(wasmedge lld wasi-libc libclang-rt-19-dev-wasm32 cargo rustc libstd-rust-dev-wasm32 wabt)

# Packages whose bytes end up in a bundle, or which write the bytes that do.
pinned=(binutils-x86-64-linux-gnu gcc-14-x86-64-linux-gnu libbsd0 libc6 libc6-dev libedit2 libffi8 libfmt10
    libgcc-14-dev libgcc-s1 libllvm19 liblzma5 libmd0 libspdlog1.15 libstdc++6 libtinfo6 libwasmedge-dev
    libwasmedge0 libxml2 libz3-4 libzstd1 patchelf zlib1g)

main() {
    [ "$(id -u)" = 0 ] || die "root is needed to make a root folder"
    # Changes when what makes the root does.
    local want
    want=$({ declare -p engine guests; declare -f make_root list_packages; } | sha256sum | cut -c1-16)
    if [ "$(cat "$root/podwasm-stamp" 2>/dev/null)" = "$want" ]; then
        echo "build root: $root is up to date"
    else
        make_root "$want"
    fi
    if [ "${1:-}" = --accept-pins ]; then accept_pins; else check_pins; fi
}

make_root() {
    local temp=$root.making
    command -v mmdebstrap >/dev/null || { apt-get update -q && apt-get install -y -q mmdebstrap; }
    echo "build root: making $root from Debian packages (one to two minutes)"
    rm -rf --one-file-system "$temp"
    mkdir -p "$(dirname "$root")"
    # shellcheck disable=SC2016 # the hook's variables are for the shell that mmdebstrap starts
    mmdebstrap --quiet --variant=essential \
        --include="$(IFS=,; echo "${engine[*]},${guests[*]}")" \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --customize-hook='APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-cache dumpavail > "$1/podwasm-available"' \
        trixie "$temp" ${PODWASM_DEBIAN_MIRROR:+"$PODWASM_DEBIAN_MIRROR"}
    list_packages "$temp" >"$temp/podwasm-packages"
    rm "$temp/podwasm-available"
    mkdir "$temp"/{build,cargo,src,toolchain}
    echo "$1" >"$temp/podwasm-stamp"
    rm -rf --one-file-system "$root"
    mv "$temp" "$root"
    echo "build root: done, $(du -sh --one-file-system "$root" | cut -f1)"
}

# "name version sha256" of every installed package; apt has checked the sums against the archive's signature.
# shellcheck disable=SC2016 # dpkg-query expands these itself
list_packages() {
    chroot "$1" dpkg-query -W -f '${Package} ${Version}\n' | LC_ALL=C sort >"$1/podwasm-installed"
    awk '/^Package: /{p=$2} /^Version: /{v=$2} /^SHA256: /{print p, v, $2}' "$1/podwasm-available" |
        awk 'NR==FNR {have[$1" "$2]=1; next} have[$1" "$2] && !seen[$0]++' "$1/podwasm-installed" - |
        LC_ALL=C sort
    rm "$1/podwasm-installed"
}

found_pins() {
    local package
    for package in "${pinned[@]}"; do
        grep "^$package " "$root/podwasm-packages" || die "$package is not in the build root"
    done
    rustc --version | awk '{print $1, $2, $3 "_" $4}'
}

accept_pins() {
    {
        echo "# What the bundle is made of: package, version, SHA-256 of the package file."
        echo "# Checked by every build; \`make engine-pins\` accepts what the mirror has now."
        found_pins
    } >"$pins.new"
    mv "$pins.new" "$pins"
    echo "pins: wrote $pins"
}

check_pins() {
    local differences
    differences=$(diff <(grep -v '^#' "$pins") <(found_pins) || true)
    [ -n "$differences" ] || return 0
    {
        echo "================================================================================"
        echo "WARNING: the bundle will not be the pinned one. Pinned (<) and found (>):"
        sed -n 's/^\([<>] [^ ]* [^ ]* .\{12\}\).*/  \1/p; s/^\([<>] rustc .*\)/  \1/p' <<<"$differences"
        echo "Accept what was found with: make engine-pins   (engine/bundle/root.sh --accept-pins)"
        echo "================================================================================"
    } >&2
    [ "${PODWASM_STRICT_PINS:-0}" != 1 ] || die "PODWASM_STRICT_PINS=1: refusing to go on"
}

die() {
    echo "root.sh: $*" >&2
    exit 1
}

main "$@"
