#!/bin/bash
# Builds fuzz targets on stable Rust and runs them: fuzz/run.sh SECONDS [TARGET...], all targets if none is named.
# Each starts from what is kept in fuzz/corpus and what earlier runs found, in target/fuzz/corpus. With --short in place of the
# seconds, each does the same few thousand runs every time, so that what it finds is what a change broke. With --keep, nothing is run:
# what found new code is put into fuzz/corpus, as little of it as covers the same.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1
shift
work=$PWD/target/fuzz
jobs=$(nproc)

# Coverage for libFuzzer, which LLVM adds on stable Rust too.
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares"

# No target's memory or time may depend on what it is given.
limits=(-rss_limit_mb=1024 -malloc_limit_mb=512 -timeout=10 -max_len=4096 -len_control=50)

targets=("$@")
if [ $# -eq 0 ]; then
  targets=(fuzz/fuzz_targets/*.rs)
  targets=("${targets[@]##*/}")
  targets=("${targets[@]%.rs}")
fi

# With --target, build scripts and macros are compiled without coverage.
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS=$flags cargo build --quiet --release --manifest-path fuzz/Cargo.toml --target-dir "$work" --target "$host" \
  "${targets[@]/#/--bin=}"
programs=$work/$host/release

run() {
  local target=$1 found=$work/corpus/$1 log=$work/log/$1 limit=("-max_total_time=$seconds")
  if [ "$seconds" = --short ]; then
    found=$work/short/$1
    rm -rf "$found"
    limit=(-seed=1 -runs=2000 -max_total_time=20) # the slowest mounts file systems, and does some hundred
  fi
  mkdir -p "$found" "$work/log" "$work/finds"
  [ ! -e "fuzz/$target.dict" ] || set -- "$@" "-dict=fuzz/$target.dict"
  if "$programs/$target" "${limits[@]}" "${@:2}" "${limit[@]}" -print_final_stats=1 \
    -artifact_prefix="$work/finds/$target-" "$found" "fuzz/corpus/$target" >"$log" 2>&1; then
    awk -v target="$target" '
      /cov: / { for (at = 1; at < NF; at++) { if ($at == "cov:") cov = $(at + 1); if ($at == "corp:") corpus = $(at + 1) } }
      /number_of_executed_units/ { runs = $2 }
      /peak_rss_mb/ { memory = $2 }
      END { printf "%-14s %10d runs  %6d edges  corpus %-14s %5d MB\n", target, runs, cov, corpus, memory }' "$log"
  else
    echo "$target: a promise was broken:"
    grep -A3 -E 'panicked at|ERROR: libFuzzer|Test unit written' "$log" || tail -20 "$log"
    touch "$work/failed"
  fi
}

keep() {
  local target=$1 kept=fuzz/corpus/$1 merged=$work/merged/$1
  rm -rf "$merged"
  mkdir -p "$merged" "$work/corpus/$target"
  "$programs/$target" "${limits[@]}" -merge=1 "$merged" "$kept" "$work/corpus/$target" >"$work/log/$target-merge" 2>&1
  rm -rf "$kept"
  mv "$merged" "$kept"
}

rm -f "$work/failed"
for target in "${targets[@]}"; do
  if [ "$seconds" = --keep ]; then
    keep "$target"
    continue
  fi
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
    wait -n || true # how a target ended is in its file
  done
  run "$target" &
done
wait
[ ! -e "$work/failed" ]
