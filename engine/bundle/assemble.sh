#!/usr/bin/env bash
# Puts the bundle together: assemble.sh ENGINE OUTPUT   (runs in the build root)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
engine=$1 out=$2
system=/usr/lib/x86_64-linux-gnu

main() {
    mkdir -p "$out/lib" "$out/module"
    install -m 0755 "$engine" "$out/engine"
    gcc -std=c11 -Os -Wall -Wextra -Werror -nostdlib -static -ffreestanding -fno-stack-protector \
        -fno-asynchronous-unwind-tables -Wl,--build-id=none -Wl,-z,noexecstack -s \
        -o "$out/launch" "$here/../launch/launch.c"
    "$here/stub_llvm.sh" "$system/libwasmedge.so.0" "$out/lib/libLLVM.so.19.1"
    copy_libraries "$out/engine"
    install -m 0755 "$system/ld-linux-x86-64.so.2" "$out/lib/"
    for library in "$out"/lib/*; do finish_library "$library"; done
    redirect_loader "$out/lib/ld-linux-x86-64.so.2"
    find "$out" -type d -exec chmod 0755 {} +
    find "$out" -type f -name '*.so*' ! -name 'ld-linux*' -exec chmod 0644 {} +
    write_version
    find "$out" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
    (cd "$out" && find . -type f -printf '%s %P\n' | LC_ALL=C sort -k2 | awk '{sum += $1; printf "%9d %s\n", $1, $2} END {printf "%9d in all\n", sum}')
}

# All that the program needs and what that needs, by the names that are asked for. The stub is there already.
copy_libraries() {
    local name
    for name in $(needed "$1"); do
        if [ ! -e "$out/lib/$name" ] && [ "$name" != ld-linux-x86-64.so.2 ]; then
            cp --dereference "$system/$name" "$out/lib/$name"
            copy_libraries "$out/lib/$name"
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
# the bundle, which the image cannot write to and which does not hold them.
redirect_loader() {
    replace_once "$1" /etc/ld.so.preload /.podwasm/-preload
    replace_once "$1" /etc/ld.so.cache /.podwasm/-cache
}

# A whole C string: the loader's help text may name the file, too.
replace_once() {
    local file=$1 from=$2 to=$3 found
    [ ${#from} = ${#to} ] || die "$from and $to differ in length"
    found=$(grep --perl-regexp --only-matching --text "\\x00\\Q$from\\E\\x00" "$file" | wc -l)
    [ "$found" = 1 ] || die "$from is $found times in $file, and not once"
    LC_ALL=C sed -i "s|\x00${from//./\\.}\x00|\x00$to\x00|" "$file"
    grep --perl-regexp --quiet --text "\\x00\\Q$to\\E\\x00" "$file" || die "$from could not be replaced in $file"
}

write_version() {
    (cd "$out" && find . -type f -printf '%m %p\n' | LC_ALL=C sort -k2 &&
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) | sha256sum | cut -c1-32 >"$out/VERSION.new"
    mv "$out/VERSION.new" "$out/VERSION"
}

die() {
    echo "assemble.sh: $*" >&2
    exit 1
}

main
