#!/usr/bin/env bash
# Builds the engine, the compiler, and the bundle that each ships in: build.sh [OUTPUT]   (default: target/engine)
# See README.md beside this script.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
out=${1:-$repo/target/engine}
case $out in
"$repo"/target/*) ;;
*) echo "build.sh: $out is not in $repo/target" >&2 && exit 1 ;;
esac

"$here/root.sh"
echo "engine: fetching crates"
(cd "$repo" && cargo fetch --locked --quiet)
echo "engine: compiling (a minute from scratch)"
"$here/enter.sh" cargo build --quiet --locked --manifest-path /src/Cargo.toml \
    --package podwasm-engine --features wasmedge --profile engine
rm -rf "$out/making"
mkdir -p "$out/making"
"$here/enter.sh" /src/engine/bundle/assemble.sh /build/engine/podwasm-engine /build/engine/podwasm-compile \
    "/src${out#"$repo"}/making"
# In one step each, so that whoever starts a container meanwhile finds one of the two whole.
for bundle in bundle compiler; do
    rm -rf "$out/old"
    [ ! -e "$out/$bundle" ] || mv "$out/$bundle" "$out/old"
    mv "$out/making/$bundle" "$out/$bundle"
    echo "bundle: $out/$bundle is ready, version $(cat "$out/$bundle/VERSION")"
done
rm -rf "$out/old" "$out/making"
