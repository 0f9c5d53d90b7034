#!/usr/bin/env bash
# Makes a stand-in for libLLVM: stub_llvm.sh LIBWASMEDGE OUTPUT   (runs in the build root)
#
# libwasmedge is linked with BIND_NOW against the 130 MB libLLVM, which only compiling needs. The stand-in
# has the same name and every symbol that libwasmedge asks of it; one that is called says so and aborts.
set -euo pipefail

libwasmedge=$1 output=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

nm --dynamic --undefined-only --with-symbol-versions "$libwasmedge" |
    sed -n 's/.* \([^ @]*\)@LLVM_19\.1$/\1/p' | LC_ALL=C sort -u >"$work/symbols"
count=$(wc -l <"$work/symbols")
[ "$count" -gt 0 ] || { echo "stub_llvm.sh: $libwasmedge needs no symbols of LLVM_19.1" >&2; exit 1; }

cat >"$work/stub.c" <<'C'
#include <stdlib.h>
#include <unistd.h>
__attribute__((visibility("hidden"), noreturn, used)) void podwasm_no_llvm(void)
{
    static const char message[] = "podwasm: this engine was built without LLVM and cannot compile\n";
    if (write(2, message, sizeof message - 1)) {}
    abort();
}
C
# Variables (vtables, say) get zeroes of their size; functions share one body.
nm --dynamic --print-size --defined-only /usr/lib/x86_64-linux-gnu/libLLVM.so.19.1 |
    awk 'NR==FNR {want[$1]=1; next} {sub(/@.*/, "", $4)} ($4 in want) && $3 ~ /[DdBbRrVvuGgSs]/ {print $4, $2}' \
        "$work/symbols" - | LC_ALL=C sort -u >"$work/variables"
{
    while read -r name size; do
        printf '.bss\n.balign 32\n.globl %s\n.type %s,@object\n.size %s,0x%s\n%s: .zero 0x%s\n' \
            "$name" "$name" "$name" "$size" "$name" "$size"
    done <"$work/variables"
    echo '.text'
    awk 'NR==FNR {variable[$1]=1; next} !($1 in variable) {
             printf ".globl %s\n.type %s,@function\n%s:\n", $1, $1, $1}' "$work/variables" "$work/symbols"
    printf 'call podwasm_no_llvm@PLT\n.section .note.GNU-stack,"",@progbits\n'
} >"$work/stub.s"
{
    echo 'LLVM_19.1 {'
    echo '  global:'
    sed 's/.*/    &;/' "$work/symbols"
    echo '  local: *;'
    echo '};'
} >"$work/stub.map"

gcc -shared -Os -fPIC -Wl,-soname,libLLVM.so.19.1 -Wl,--version-script="$work/stub.map" -Wl,-z,now \
    -Wl,--build-id=none -nostartfiles -o "$output" "$work/stub.c" "$work/stub.s"
echo "stub libLLVM: $count symbols, $(wc -l <"$work/variables") of them variables"
