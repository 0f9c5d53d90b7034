#!/usr/bin/env bash
# Checks the engine's code, and that the bundles are reproducible: builds them again from nothing, and compares.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
again=$repo/target/engine/again

"$here/build.sh"
# By its path: cargo would take the one in its home, which asks rustup.
echo "check: clippy"
"$here/enter.sh" /toolchain/bin/cargo-clippy clippy --quiet --locked --manifest-path /src/Cargo.toml \
    --package podwasm-engine --features wasmedge --all-targets -- -D warnings
echo "check: building a second time, from nothing"
rm -rf "$again"
mkdir -p "$again"
PODWASM_ENGINE_BUILD=$again/build "$here/build.sh" "$again"
listing() { (cd "$1" && find . -printf '%P %y %m %s %T@\n' | LC_ALL=C sort); }
for bundle in bundle compiler; do
    diff <(listing "$repo/target/engine/$bundle") <(listing "$again/$bundle")
    diff --recursive "$repo/target/engine/$bundle" "$again/$bundle"
done
rm -rf "$again"
echo "check: both builds are the same, to the bit"
