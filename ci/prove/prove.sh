#!/bin/sh
# Proves the gate on this machine: how often it cries wolf over a build measured against itself, and how often it
# notices slow-downs. Prints the rows of METHODOLOGY.md's table.
#
#   ci/prove/prove.sh TOUCHSTONE OUT [ARGUMENTS OF run …]
#
#   ci/prove/prove.sh target/release/touchstone out --shard 1/12 --variant reference     two noisy cores, 10 minutes
#   ci/prove/prove.sh ./touchstone out --shard 1/6 --no-reference                        an H100, 3 minutes
#
# ROUNDS (24), SECONDS_SAME (95) and SECONDS_MADE (30) bound the time.
set -eu
touchstone=$1 out=$2
shift 2
mkdir -p "$out"
"$touchstone" run --quick "$@" --against "$touchstone" --rounds "${ROUNDS:-24}" --seconds "${SECONDS_SAME:-95}" \
    --out "$out/same.jsonl"
for factor in 1.05 1.10; do
    "$touchstone" run --quick "$@" --against "$touchstone" --rounds 6 --seconds "${SECONDS_MADE:-30}" \
        --slow-down "$factor" --out "$out/slow-$factor.jsonl"
done
"$touchstone" prove "$out/same.jsonl" --noise "$out/noise.json" \
    --planted "1.05=$out/slow-1.05.jsonl" --planted "1.10=$out/slow-1.10.jsonl" | tee "$out/proof.md"
