#!/usr/bin/env bash
# `make demo`: builds what the demo runs, says what it does meanwhile, and runs it. What is built already takes a second.
set -euo pipefail
cd "$(dirname "$0")/.."

steps=6
number=0
begun=$SECONDS
colour='' bold='' plain=''
if [ -z "${NO_COLOR:-}" ] && { [ -t 1 ] || [ -n "${CLICOLOR_FORCE:-}" ]; }; then
    colour=$'\e[1;36m' bold=$'\e[1;31m' plain=$'\e[0m'
fi

interrupted() {
    trap - INT TERM
    printf '\n%sInterrupted.%s What was built stays below target/; make demo goes on from there.\n' "$bold" "$plain" >&2
    exit 130
}
trap interrupted INT TERM

# step WHAT COMMAND...
step() {
    local what=$1 start=$SECONDS status=0
    shift
    number=$((number + 1))
    printf '%s==> %d/%d %s%s\n' "$colour" "$number" "$steps" "$what" "$plain"
    "$@" || status=$?
    if [ "$status" -ge 129 ]; then interrupted; fi
    if [ "$status" -ne 0 ]; then
        printf '%sThe demo cannot be built:%s step %d (%s) ended with %d\n' "$bold" "$plain" "$number" "$*" "$status" >&2
        exit 1
    fi
    printf '    %d s\n' $((SECONDS - start))
}

if [ "$(id -u)" -ne 0 ]; then
    printf '%sThe demo needs root:%s it starts a node in namespaces of its own. Try: sudo make demo\n' "$bold" "$plain" >&2
    exit 1
fi
make=${MAKE:-make}
step 'Debian packages that the build needs' "$make" --no-print-directory -s setup
step 'The engine: WasmEdge in a bundle of its own (4 minutes from nothing)' "$make" --no-print-directory -s engine
step 'Wasm modules to run (1 minute from nothing)' "$make" --no-print-directory -s guests
step 'Root folders for the node, of Debian packages (1 minute from nothing)' "$make" --no-print-directory -s roots
step 'podwasm itself (2 minutes from nothing)' cargo build -p podwasm -p podwasm-integration -p podwasm-metrics-exporter
step 'The images of podwasm: plugin, exporter, scaler (2 minutes from nothing)' deploy/images/build.sh debug
printf '    built in %d s\n' $((SECONDS - begun))

# From here on the demo itself answers signals: it takes its node down.
trap - INT TERM
exec target/debug/podwasm-demo
