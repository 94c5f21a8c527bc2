#!/bin/sh
# Proves the gate on this machine: how often it cries wolf over a build measured against itself, and how often it
# notices slow-downs. Prints the rows of METHODOLOGY.md's table.
#
#   ci/prove/prove.sh TOUCHSTONE OUT [ARGUMENTS OF run …]
#
#   ci/prove/prove.sh target/release/touchstone out --shard 1/12 --variant reference     two noisy cores, 10 minutes
#   SECONDS_SAME=300 ci/prove/prove.sh ./touchstone out --shard 1/28 --no-reference      an H100 or H200, 8 minutes
#
# ROUNDS_OF_A_RUN (8) is what `run --against` is to be given as --rounds; the proof takes four times as many, and needs two
# more than twice as many. SECONDS_SAME (180) and SECONDS_MADE (60) bound the time.
set -eu
touchstone=$1 out=$2
shift 2
mkdir -p "$out"
rounds=${ROUNDS_OF_A_RUN:-8}
"$touchstone" run --quick "$@" --against "$touchstone" --rounds $((4 * rounds)) --seconds "${SECONDS_SAME:-180}" \
    --out "$out/same.jsonl"
for factor in 1.05 1.10; do
    "$touchstone" run --quick "$@" --against "$touchstone" --rounds "$rounds" --seconds "${SECONDS_MADE:-60}" \
        --slow-down "$factor" --out "$out/slow-$factor.jsonl"
done
"$touchstone" prove "$out/same.jsonl" --rounds "$rounds" --noise "$out/noise.json" \
    --planted "1.05=$out/slow-1.05.jsonl" --planted "1.10=$out/slow-1.10.jsonl" | tee "$out/proof.md"
