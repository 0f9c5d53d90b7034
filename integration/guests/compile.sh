#!/usr/bin/env bash
# Compiles the guests: compile.sh OUTPUT   (build.sh runs it in the build root)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=$1

clang-19 --target=wasm32-wasi -O2 -Wall -Wextra -Wno-infinite-recursion -s -o "$out/guest.wasm" "$here/c/guest.c"
clang-19 --target=wasm32-wasi -O2 -Wall -Wextra -s -o "$out/dns.wasm" "$here/c/dns.c"

CARGO_TARGET_DIR=$out/build CARGO_TARGET_WASM32_WASIP1_LINKER=wasm-ld PATH=/usr/bin:/usr/sbin /usr/bin/cargo build --quiet --release --locked --offline \
    --target wasm32-wasip1 --manifest-path "$here/rust/Cargo.toml"
cp "$out"/build/wasm32-wasip1/release/*.wasm "$out/"

for text in "$here"/wat/*.wat; do
    wat2wasm "$text" -o "$out/$(basename "$text" .wat).wasm"
done

# Not modules, or not whole ones.
printf '\0asm\x0d\0\x01\0' >"$out/component.wasm"
head -c 100 "$out/guest.wasm" >"$out/truncated.wasm"
: >"$out/empty.wasm"
echo 'hello, I am text' >"$out/text.wasm"
gcc -shared -fPIC -Os -nostdlib -fno-stack-protector -s -o "$out/hijack.so" "$here/native/hijack.c"
cp "$out/hijack.so" "$out/elf.wasm"
for program in native contain; do
    gcc -static -Os -Wall -Wextra -s -o "$out/$program" "$here/native/$program.c"
done

# A plugin and the library that it needs, which have no path to look for one another.
gcc -shared -fPIC -Os -Wall -Wextra -Wl,-soname,libpodwasm_test_answer.so.1 -s \
    -o "$out/libpodwasm_test_answer.so.1" "$here/plugin/answer.c"
gcc -shared -fPIC -Os -Wall -Wextra -s -o "$out/libwasmedgePluginPodwasmTest.so" "$here/plugin/podwasm_test.c" \
    "$out/libpodwasm_test_answer.so.1" -lwasmedge

# A "universal" module: WasmEdge's compiler adds native code in a custom section. Here the section is that of
# another module, so that a runtime that uses it gives itself away.
work=$(mktemp -d)
wasmedge compile "$out/universal-native.wasm" "$work/aot.wasm" >/dev/null
size=$(stat -c %s "$out/universal-native.wasm")
cmp --silent --bytes="$size" "$out/universal-native.wasm" "$work/aot.wasm" ||
    { echo "compile.sh: wasmedge no longer appends its section to the module" >&2; exit 1; }
{ cat "$out/universal-wasm.wasm"; tail -c "+$((size + 1))" "$work/aot.wasm"; } >"$out/universal.wasm"
said=$(wasmedge "$out/universal.wasm")
[ "$said" = "native code!" ] ||
    { echo "compile.sh: universal.wasm does not give a runtime away that uses its section: $said" >&2; exit 1; }
rm -r "$work" "$out"/universal-*.wasm
