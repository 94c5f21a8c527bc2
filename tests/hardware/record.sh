#!/usr/bin/env bash
# On a machine with a GPU and Nsight Compute: what tests/hardware holds, anew. No Rust and no network.
#
#   tests/hardware/record.sh TOUCHSTONE OUT
#
# TOUCHSTONE is a release build. OUT gets records.jsonl, for `TOUCHSTONE_HARDWARE=OUT/records.jsonl cargo test --test
# hardware`, and counters.jsonl, to be put beside this script. Takes about two minutes.
set -euo pipefail
touchstone=$(realpath "$1") out=$2 here=$(realpath "$(dirname "$0")")
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Operations side by side: the driver compiles each kernel file once, on one core.
for op in $("$touchstone" list | sed -n 's/^\([a-z]*\.[a-z_0-9]*\)  .*/\1/p'); do
    "$touchstone" check "$op/" --out "$work/$op.jsonl" > "$work/$op.log" 2>&1 || cat "$work/$op.log" &
done
wait
grep -h '"executor":"cuda"' "$work"/*.jsonl > "$out/records.jsonl"
python3 "$here/counters.py" --touchstone "$touchstone" --out "$out/counters.jsonl"
