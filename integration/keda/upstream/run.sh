#!/bin/bash
# Asks this build's podwasm-scaler through KEDA's own scaler package, in the release that VERSION names, before and after a restart of
# podwasm-scaler. Not among the tests: it needs Go and its module proxy, and compiles all of KEDA's scalers, which takes
# half an hour on two cores. Fails if anything is missing or not answered.
#
# usage: VERSION=v2.21.0 run.sh

set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
project=$(realpath "$here/../../..")
version=${VERSION:-v2.21.0}
build=$project/target/keda-$version
python=$project/target/keda-python
exporter=127.0.0.1:19001 scaler=127.0.0.1:19002 admin=127.0.0.1:19003
state='{"node": "n1", "run": 1, "read_ms": 700000, "started": [{"uid": "u1", "namespace": "shop", "name": "web-1",
    "workload": "web", "workload_kind": "Deployment", "since_ms": 1, "reading": {"requests": 500},
    "past": [5000, 100, 4000, 100, 3000, 100, 2000, 100, 1000, 100]}]}'

say() { echo "keda: $*"; }

for needed in go python3; do
    command -v "$needed" >/dev/null || { say "needs $needed" >&2; exit 1; }
done
cargo build --quiet -p podwasm-metrics-exporter --bins --manifest-path "$project/Cargo.toml"
if [[ ! -d $python ]]; then
    python3 -m venv "$python"
    "$python/bin/pip" install --quiet grpcio protobuf
fi
if [[ ! -x $build/ask ]]; then
    say "building KEDA $version"
    mkdir -p "$build"
    cp "$here/main.go" "$build"
    cd "$build"
    keda=$(GOFLAGS=-mod=mod go mod download -json "github.com/kedacore/keda/v2@$version" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
    # KEDA's own pins, replacements and exclusions hold for its dependencies.
    sed 's|^module .*|module ask|' "$keda" >go.mod
    go mod edit -require "github.com/kedacore/keda/v2@$version"
    go mod tidy
    go build -o ask .
fi

started=()
trap 'kill "${started[@]}" 2>/dev/null || true' EXIT
start_scaler() {
    "$project/target/debug/podwasm-scaler" --exporters "$exporter" --grpc "$scaler" --http "$admin" &
    started+=($!)
    for _ in {1..100}; do ! curl -sf "$admin/readyz" >/dev/null || return 0; sleep 0.1; done
    say 'podwasm-scaler is not ready' >&2
    return 1
}
"$python/bin/python" "$project/integration/keda/client.py" "$exporter" serve "$state" &
started+=($!)
start_scaler
"$build/ask" "$scaler" Deployment/web | tee "$build/first.txt"
kill "${started[1]}"
wait "${started[1]}" || true
start_scaler
"$build/ask" "$scaler" Deployment/web | tee "$build/second.txt"
for answers in "$build"/{first,second}.txt; do
    grep -q '^pushed true' "$answers"
    grep -q '^s0-requests-per-second target 10 .* active true err <nil>' "$answers"
done
say 'every question was answered'
