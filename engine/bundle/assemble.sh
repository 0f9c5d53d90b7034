#!/usr/bin/env bash
# Puts the two bundles together: assemble.sh ENGINE COMPILER OUTPUT   (runs in the build root)
#
# OUTPUT/bundle is what a container is given; OUTPUT/compiler stays on the node.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
engine=$1 compiler=$2 output=$3
system=/usr/lib/x86_64-linux-gnu
# What libwasmedge is linked with, and the engine does not use: compiling, compressing what was compiled, and logging, which
# `src/quiet.rs` stands in for. Only LLVM is left out of the bundle; a plugin may need the others.
absent=(libLLVM.so.19.1 libz.so.1 libzstd.so.1 libspdlog.so.1.15)

main() {
    out=$output/bundle
    assemble_engine
    finish_libraries
    prune
    prelink
    finish
    out=$output/compiler
    assemble_compiler
    finish_libraries
    finish
}

assemble_engine() {
    mkdir -p "$out/lib" "$out/module" "$out/plugins"
    install -m 0755 "$engine" "$out/engine"
    gcc -std=c11 -Os -Wall -Wextra -Werror -nostdlib -static -ffreestanding -fno-stack-protector \
        -fno-asynchronous-unwind-tables -Wl,--build-id=none -Wl,-z,noexecstack -s \
        -o "$out/launch" "$here/../launch/launch.c"
    copy_libraries "$out/engine" libLLVM.so.19.1
    redirect_loader "$out/lib/ld-linux-x86-64.so.2"
}

assemble_compiler() {
    mkdir -p "$out/lib"
    install -m 0755 "$compiler" "$out/compile"
    copy_libraries "$out/compile"
}

finish_libraries() {
    local library
    for library in "$out"/lib/*; do finish_library "$library"; done
}

# See prune.c.
prune() {
    gcc -std=c11 -O2 -Wall -Wextra -Werror -o "$output/prune" "$here/prune.c"
    objdump --disassemble --no-show-raw-insn "$out/lib/libwasmedge.so.0" | "$output/prune" "$out/lib/libwasmedge.so.0"
    rm "$output/prune"
}

# See prelink.c. In the order in which the dynamic linker loads and searches them: the program, what it needs, what that needs.
prelink() {
    local order=("$out/engine") at=0 name
    while [ "$at" -lt "${#order[@]}" ]; do
        for name in $(needed "${order[at]}"); do
            case "${order[*]} ${absent[*]} ld-linux-x86-64.so.2 " in
            *"$name "*) ;;
            *) order+=("$out/lib/$name") ;;
            esac
        done
        at=$((at + 1))
    done
    gcc -std=c11 -O2 -Wall -Wextra -Werror -o "$output/prelink" "$here/prelink.c"
    "$output/prelink" "${order[@]}" -- "${absent[@]/#/$system/}"
    rm "$output/prelink"
}

finish() {
    find "$out" -type d -exec chmod 0755 {} +
    find "$out" -type f -name '*.so*' ! -name 'ld-linux*' -exec chmod 0644 {} +
    write_version
    find "$out" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
    (cd "$out" && find . -type f -printf '%s %P\n' | LC_ALL=C sort -k2 | awk '{sum += $1; printf "%9d %s\n", $1, $2} END {printf "%9d in all\n", sum}')
}

# All that the program needs and what that needs, by the names that are asked for, but for what is there already, and
# for the library that is named.
copy_libraries() {
    local name
    for name in $(needed "$1"); do
        if [ ! -e "$out/lib/$name" ] && [ "$name" != "${2:-}" ]; then
            cp --dereference "$system/$name" "$out/lib/$name"
            copy_libraries "$out/lib/$name" "${2:-}"
        fi
    done
}

needed() {
    readelf --dynamic --wide "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'
}

# Without a path of its own, a library is searched for only where the engine says.
finish_library() {
    if readelf --dynamic --wide "$1" | grep -q '(RUNPATH)\|(RPATH)'; then patchelf --remove-rpath "$1"; fi
    strip --strip-unneeded "$1"
}

# The loader reads two files of the root it finds itself in, which is the image's. Both are made to be looked for in
# the bundle, which the image cannot write to and which does not hold them. Last, it looks into the system's
# folders for libraries that it did not find: with a zero byte behind the slash, it fails at reading "/" instead.
redirect_loader() {
    replace "$1" 1 '\x00/etc/ld.so.preload\x00' '\x00/.podwasm/-preload\x00'
    replace "$1" 1 '\x00/etc/ld.so.cache\x00' '\x00/.podwasm/-cache\x00'
    # Twice: where libraries are looked for, and for which of them a set-user-ID program trusts.
    replace "$1" 2 '/lib/x86_64-linux-gnu/\x00/usr/lib/x86_64-linux-gnu/\x00/lib/\x00/usr/lib/\x00' \
        '/\x00ib/x86_64-linux-gnu/\x00/\x00sr/lib/x86_64-linux-gnu/\x00/\x00ib/\x00/\x00sr/lib/\x00'
}

# Replaces bytes, written as sed and grep understand them, by as many others, which must be there so many times.
replace() {
    local file=$1 times=$2 from=${3//./\\.} to=$4 size found
    size=$(stat -c %s "$file")
    found=$(LC_ALL=C grep --perl-regexp --only-matching --text "$from" "$file" | wc -l)
    [ "$found" = "$times" ] || die "$3 is $found times in $file, and not $times"
    LC_ALL=C sed --in-place "s|$from|$to|g" "$file"
    [ "$(stat -c %s "$file")" = "$size" ] || die "replacing $3 changed the size of $file"
    found=$(LC_ALL=C grep --perl-regexp --only-matching --text "${to//./\\.}" "$file" | wc -l)
    [ "$found" = "$times" ] || die "$3 could not be replaced in $file"
}

# Of what is there before the file itself is.
write_version() {
    local version
    version=$(cd "$out" && { find . -type f -printf '%m %p\n' | LC_ALL=C sort -k2 &&
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum; } | sha256sum)
    echo "${version:0:32}" >"$out/VERSION"
}

die() {
    echo "assemble.sh: $*" >&2
    exit 1
}

main
