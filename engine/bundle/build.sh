#!/usr/bin/env bash
# Builds the engine and the bundle it ships in: target/engine/bundle. See engine/bundle/README.md.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
out=$repo/target/engine

"$here/root.sh"
echo "engine: fetching crates"
(cd "$repo" && cargo fetch --locked --quiet)
echo "engine: compiling (a minute from scratch)"
mkdir -p "$out"
"$here/enter.sh" env CARGO_TARGET_DIR="/src/target/engine/build" \
    cargo build --quiet --locked --manifest-path /src/Cargo.toml -p podwasm-engine --features wasmedge --profile engine
rm -rf "$out/bundle.making"
"$here/enter.sh" /src/engine/bundle/assemble.sh /src/target/engine/build/engine/podwasm-engine /src/target/engine/bundle.making
rm -rf "$out/bundle"
mv "$out/bundle.making" "$out/bundle"
echo "bundle: $out/bundle is ready, version $(cat "$out/bundle/VERSION")"
