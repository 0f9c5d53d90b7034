#!/usr/bin/env bash
# Compiles what only the benchmarks run: compile.sh OUTPUT   (in the build root). Each guest is built twice with the same
# options, NAME.wasm and NAME-native; peer and spawn measure and compare.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=$1
# Where a processor has fused multiply-add, using it would change checksums.
options=(-std=gnu11 -O2 -ffp-contract=off -Wall -Wextra -s)

clang-19 --target=wasm32-wasi "${options[@]}" -o "$out/compute-c.wasm" "$here/compute.c"
clang-19 "${options[@]}" -static -o "$out/compute-c-native" "$here/compute.c" -lm
# SQLite takes a while, and neither its source nor the compiler often changes.
if [ "$out/sqlite-native" -ot "$here/sqlite.c" ] || [ "$out/sqlite-native" -ot "$here/Cargo.lock" ]; then
    source=("$CARGO_HOME"/registry/src/*/libsqlite3-sys-0.35.0/sqlite3)
    sqlite=(-w -DSQLITE_THREADSAFE=0 -DSQLITE_OMIT_LOAD_EXTENSION -DSQLITE_OMIT_WAL "-I${source[0]}"
        "$here/sqlite.c" "${source[0]}/sqlite3.c")
    clang-19 --target=wasm32-wasi -D_WASI_EMULATED_MMAN -D_WASI_EMULATED_GETPID "${options[@]}" "${sqlite[@]}" \
        -lwasi-emulated-getpid -lwasi-emulated-mman -o "$out/sqlite.wasm"
    clang-19 "${options[@]}" "${sqlite[@]}" -static -lm -o "$out/sqlite-native"
fi
gcc "${options[@]}" -static -o "$out/spawn" "$here/spawn.c"
gcc "${options[@]}" -o "$out/peer" "$here/peer.c"

native=$(rustc -vV | sed -n 's/^host: //p')
cd "$here" # for .cargo/config.toml
PATH=/usr/bin:/usr/sbin CARGO_TARGET_DIR=$out/build/bench /usr/bin/cargo build --quiet --release --locked --offline \
    --target wasm32-wasip1 --target "$native"
for guest in compute:compute-rust keep-alive:keep-alive; do
    cp "$out/build/bench/wasm32-wasip1/release/${guest%:*}.wasm" "$out/${guest#*:}.wasm"
    cp "$out/build/bench/$native/release/${guest%:*}" "$out/${guest#*:}-native"
done
