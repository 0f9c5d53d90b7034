#!/usr/bin/env bash
# Runs a command in the build root (root.sh makes it), without network:
#   enter.sh COMMAND [ARGUMENT...]
#
# The repository is at /src, read-only but for its target folder; the host's Rust toolchain is at
# /toolchain, cargo's home at /cargo, and what cargo builds at /build (target/engine/build, or
# PODWASM_ENGINE_BUILD). So paths inside are the same on every machine, and what is built does not
# depend on where the repository lies. All mounts are private and go with the command.
set -euo pipefail

repo=$(cd "$(dirname "$0")/../.." && pwd)
root=$repo/target/roots/build
[ -e "$root/podwasm-stamp" ] || { echo "enter.sh: no build root; run engine/bundle/root.sh" >&2; exit 1; }

toolchain=$(rustc --print sysroot)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
build=${PODWASM_ENGINE_BUILD:-$repo/target/engine/build}
mkdir -p "$build" "$cargo_home"
export repo root toolchain cargo_home build
# shellcheck disable=SC2016 # expanded by the shell inside the new namespace
exec unshare --mount --propagation private --net bash -euc '
    mount --bind "$repo" "$root/src"
    mount -o remount,bind,ro "$root/src"
    mount --bind "$repo/target" "$root/src/target"
    mount --bind "$toolchain" "$root/toolchain"
    mount -o remount,bind,ro "$root/toolchain"
    mount --bind "$cargo_home" "$root/cargo"
    mount --bind "$build" "$root/build"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/tmp"
    exec chroot "$root" env -i \
        PATH=/toolchain/bin:/usr/sbin:/usr/bin HOME=/tmp LANG=C.UTF-8 TZ=UTC \
        CARGO_HOME=/cargo CARGO_TARGET_DIR=/build CARGO_NET_OFFLINE=true CARGO_TERM_PROGRESS_WHEN=never \
        SOURCE_DATE_EPOCH=1735689600 \
        WASMEDGE_INCLUDE_DIR=/usr/include WASMEDGE_LIB_DIR=/usr/lib/x86_64-linux-gnu \
        LIBCLANG_PATH=/usr/lib/llvm-19/lib \
        "$@"' enter "$@"
