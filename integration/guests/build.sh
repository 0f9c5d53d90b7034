#!/usr/bin/env bash
# Builds the test guests into target/guests: from C, Rust and text with the ordinary toolchains of Debian, in the
# engine's build root. Also native programs that tests and benchmarks want beside them.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
enter=$repo/engine/bundle/enter.sh
out=$repo/target/guests

"$repo/engine/bundle/root.sh"
mkdir -p "$out"
echo "guests: fetching crates"
for crate in rust bench; do (cd "$here/$crate" && cargo fetch --locked --quiet); done
"$here/fetch.sh"
echo "guests: compiling"
"$enter" /src/integration/guests/compile.sh /src/target/guests
"$enter" /src/integration/guests/bench/compile.sh /src/target/guests
echo "guests: $out holds $(cd "$out" && find . -maxdepth 1 -type f | wc -l) files"
