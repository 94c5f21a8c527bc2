#!/usr/bin/env python3
"""Instructions that the references and the harness execute, counted by callgrind: exact on any machine, however busy.

  instructions.py BEFORE AFTER    two builds of touchstone: exit 1 if AFTER takes over 1 % more on any case

For each operation, the first case of its first quick workload is checked (drawn, solved by the naive reference, compared)
by both builds. One per cent is left for hash maps and the allocator, whose paths depend on addresses.
"""

import json
import os
import re
import shutil
import subprocess
import sys

SHARE = 0.01


def cases(binary):
    """The first quick case of each operation."""
    listed = subprocess.run([binary, "list", "--json"], capture_output=True, text=True, check=True)
    found = {}
    for operation in json.loads(listed.stdout):
        for workload in operation["workloads"]:
            if workload["tier"] == "quick" and operation["operation"] not in found:
                found[operation["operation"]] = workload["cases"][0]
    return found


def instructions(binary, case):
    """How many instructions checking a case takes, or None where the build does not know the case."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", binary]
    command += ["check", "--variant", "reference", case]
    environment = {**os.environ, "NO_COLOR": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    count = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode != 0 or not count:
        return None
    return int(count[1])


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    if shutil.which("valgrind") is None:
        print("skipped, and nothing is proven: valgrind is not installed")
        return 0
    before, after = sys.argv[1:]
    rose, compared = 0, 0
    for operation, case in cases(after).items():
        new = instructions(after, case)
        if new is None:
            print(f"{operation}: fails under callgrind: {case}")
            rose += 1
            continue
        old = instructions(before, case)
        if old is None:
            print(f"{operation}: {new} instructions; the build before does not answer this")
            continue
        compared += 1
        verdict = "rose" if new > old * (1 + SHARE) else "fell" if new < old * (1 - SHARE) else "same"
        rose += verdict == "rose"
        print(f"{operation}: {verdict}: {old} -> {new} ({(new / old - 1) * 100:+.2f} %)  {case}", flush=True)
    if compared == 0:
        print("nothing could be compared")
    return 1 if rose or compared == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
