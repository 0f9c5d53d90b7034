#!/bin/bash
# Compiles the socket filter with the pinned compiler of the build root, and compares the result with what is committed.
#
#   build.sh           fails if the committed object is not what the source gives
#   build.sh --accept  commits to the result: writes filter.bpf.o

set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(realpath "$here/../../target/roots/build")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

die() { echo "bpf: $*" >&2; exit 1; }

[[ -x $root/usr/bin/clang-19 ]] || die "no compiler in $root: run make engine"
cp "$here/filter.bpf.c" "$work"
# The compiler and its libraries are the root's; the folder is the machine's, so that the root stays as it is.
(cd "$work" && "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu:$root/usr/lib/llvm-19/lib" \
    "$root/usr/lib/llvm-19/bin/clang" -target bpf -mcpu=v3 -O2 -Wall -Wextra -Werror -nostdinc \
    -I"$root/usr/include" -I"$root/usr/include/x86_64-linux-gnu" -c filter.bpf.c -o filter.bpf.o)

if [[ ${1:-} == --accept ]]; then
    cp "$work/filter.bpf.o" "$here/filter.bpf.o"
fi
cmp "$work/filter.bpf.o" "$here/filter.bpf.o" || die 'filter.bpf.o is not what filter.bpf.c gives: run build.sh --accept'
echo "bpf: filter.bpf.o is what filter.bpf.c gives"
