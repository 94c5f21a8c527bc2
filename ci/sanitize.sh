#!/usr/bin/env bash
# Every variant under compute-sanitizer: memory errors, then races in shared memory. Needs a GPU, no Rust and no network.
#
#   ci/sanitize.sh SUITE OUT [LOOP]                all of them
#   PROPERTIES=attention ci/sanitize.sh SUITE OUT  those whose names match a pattern
#
# SUITE is the binary of tests/cuda.rs, as `cargo test --release --test cuda --no-run` prints it; LOOP that of
# tests/neural.rs, whose loop keeps a cache between passes by a kernel that no variant has. OUT, a new folder, gets
# verdicts.txt, a line for each tool and property, and the log of each that did not pass. JOBS run side by side (half the
# cores), each with CASES random cases (12; a variant may refuse some). What is not begun within SECONDS_IN_ALL (3600) is said.
# Exit code 0: all are clean; 1: one is not, or was not begun; 2: no GPU, no compute-sanitizer or no such binary.
set -euo pipefail
fail() { echo "sanitize.sh: $*" >&2; exit 2; }
[ $# = 2 ] || [ $# = 3 ] || fail "usage: ci/sanitize.sh SUITE OUT [LOOP]"
suite=$1 out=$2 loop=${3:-}
for program in "$suite" $loop; do [ -x "$program" ] || fail "$program: no such program"; done
command -v compute-sanitizer > /dev/null || fail "compute-sanitizer is not installed (it comes with the CUDA toolkit)"
export TOUCHSTONE_SIMULATE=0 TOUCHSTONE_CASES=${CASES:-12}
listed=$("$suite" --list)
[[ $listed == *"CUDA executor: GPU"* ]] || fail "${listed%%$'\n'*}"
mkdir "$out"

one() {
    tool=$1 property=$2 log="$out/$tool-${property//::/-}.log"
    if [ "$(date +%s)" -ge "$end" ]; then echo "not begun  $tool  $property"; return; fi
    program=$suite
    [[ $property == *::* ]] || program=$loop
    if compute-sanitizer --tool "$tool" --error-exitcode 9 "$program" --exact "$property" > "$log" 2>&1 &&
        grep -Eq "(ERROR|RACECHECK) SUMMARY: 0 (errors|hazards)" "$log" && grep -q "test result: ok. 1 passed" "$log"; then
        rm "$log"
        echo "clean      $tool  $property"
    else
        echo "NOT CLEAN  $tool  $property  $log"
    fi
}
export -f one
export suite loop out end=$(($(date +%s) + ${SECONDS_IN_ALL:-3600}))
properties=$(sed -n 's/^\(.*::agrees_with_the_reference\): test$/\1/p' <<< "$listed" | grep -E "${PROPERTIES:-.}") ||
    fail "no property matches $PROPERTIES"
[ -z "$loop" ] || properties+=" the_loop_on_a_gpu_emits_the_targets_law"
jobs=${JOBS:-$((($(nproc) + 1) / 2))}
for tool in memcheck racecheck; do
    for property in $properties; do echo "$tool $property"; done
done | xargs -P "$jobs" -L1 bash -c 'one "$0" "$1"' | tee "$out/verdicts.txt"
echo "$(grep -c '^clean' "$out/verdicts.txt" || true) of $(wc -l < "$out/verdicts.txt") clean"
! grep -vq '^clean' "$out/verdicts.txt"
