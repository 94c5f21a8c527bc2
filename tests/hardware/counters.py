#!/usr/bin/env python3
"""Reads hardware counters of the kernels that cases.txt names, for tests/hardware.rs to hold the simulator's
costs against. Needs an NVIDIA GPU, Nsight Compute (`ncu`) and the built program; no Rust and no network.

  counters.py --touchstone target/release/touchstone --out tests/hardware/counters.jsonl

Writes one JSON object a line: the case, the variant, and for each kernel launch of one run of its plan the
counters by name. `touchstone check` runs a plan twice; the second half of the launches is left out.
"""

import argparse
import csv
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent

METRICS = [
    "smsp__inst_executed.sum",
    "smsp__thread_inst_executed.sum",
    "smsp__thread_inst_executed_pred_on.sum",
    "smsp__warps_launched.sum",
    "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum",
    "l1tex__t_requests_pipe_lsu_mem_global_op_st.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum",
    "l1tex__t_requests_pipe_lsu_mem_global_op_red.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_red.sum",
    "l1tex__t_requests_pipe_lsu_mem_global_op_atom.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_atom.sum",
    "l1tex__t_requests_pipe_lsu_mem_global_op_ldgsts.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ldgsts.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ldgsts_cache_access.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ldgsts_cache_bypass.sum",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_ld.sum",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_st.sum",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_atom.sum",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st.sum",
    "smsp__inst_executed_op_shared_ld.sum",
    "smsp__inst_executed_op_shared_st.sum",
    "smsp__sass_inst_executed_op_shared_ld.sum",
    "smsp__sass_inst_executed_op_shared_st.sum",
    "sm__inst_executed_pipe_tensor.sum",
    "sm__inst_executed_pipe_tensor_op_hmma.sum",
    "smsp__inst_executed_pipe_tensor.sum",
    "smsp__sass_branch_targets.sum",
    "smsp__sass_branch_targets_threads_divergent.sum",
    "smsp__branch_targets_threads_divergent.sum",
    "smsp__inst_executed_op_branch.sum",
    "sass__inst_executed_per_opcode",
]


def known(ncu):
    """The metrics of METRICS that this ncu knows. What a program instrumented (sass__) is listed nowhere."""
    listed = subprocess.run([ncu, "--query-metrics"], capture_output=True, text=True).stdout
    names = set(re.findall(r"^(\w+__\w+)", listed, re.M))
    if not names:
        return METRICS
    return [metric for metric in METRICS if metric.split(".")[0] in names or metric.startswith("sass__")]


def profile(ncu, metrics, touchstone, variant, case):
    """Rows of counters, one a kernel launch, as ncu gives them."""
    with tempfile.TemporaryDirectory() as folder:
        report = str(pathlib.Path(folder) / "report")
        run = [ncu, "--clock-control", "none", "--metrics", ",".join(metrics), "-f", "-o", report]
        run += [touchstone, "check", "--variant", variant, case]
        done = subprocess.run(run, capture_output=True, text=True)
        text = done.stdout + done.stderr
        unknown = [metric for metric in metrics if re.search(rf"(?i)metric\w*\W+{re.escape(metric)}", text)]
        if done.returncode != 0 and "find metric" in text and unknown:
            metrics[:] = [metric for metric in metrics if metric not in unknown]
            return profile(ncu, metrics, touchstone, variant, case)
        if done.returncode != 0:
            raise RuntimeError(f"exit code {done.returncode}: {text[-2000:]}")
        show = [ncu, "--import", report + ".ncu-rep", "--csv", "--page", "raw", "--print-units", "base"]
        show += ["--print-metric-instances", "values"]
        shown = subprocess.run(show, capture_output=True, text=True)
    if shown.returncode != 0:
        raise RuntimeError(shown.stdout[-1000:] + shown.stderr[-1000:])
    text = shown.stdout[shown.stdout.index('"ID"'):]
    rows = list(csv.DictReader(io.StringIO(text)))
    return [row for row in rows if row["ID"].strip()]  # the row of units has no ID


def number(text):
    """A counter's value: the number before its instances."""
    match = re.match(r"\s*([\d,]+(?:\.\d+)?)", text)
    if not match:
        return None
    value = float(match[1].replace(",", ""))
    return int(value) if value == int(value) else value


def opcodes(text):
    """Instances of a metric by opcode: `1,024 (HMMA: 512; LDS: 512)`."""
    pairs = re.findall(r"([A-Z][A-Z0-9_.]*)\s*[:=]\s*([\d,]+)", text)
    return {name: int(count.replace(",", "")) for name, count in pairs}


def launch(row, metrics):
    counters = {}
    for name, text in row.items():
        if name in metrics and text:
            value = opcodes(text) if name.startswith("sass__inst_executed_per") else number(text)
            if value is not None:
                counters[name] = value
            if value == {}:
                counters[name + " as shown"] = text
    dimensions = {key: [int(n) for n in re.findall(r"\d+", row.get(column, ""))]
                  for key, column in [("grid", "Grid Size"), ("block", "Block Size")]}
    return {"kernel": row["Kernel Name"].split("(")[0].strip(), **dimensions, "counters": counters}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--touchstone", required=True, help="the built program")
    parser.add_argument("--ncu", default=shutil.which("ncu") or "/usr/local/cuda/bin/ncu")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--cases", default=HERE / "cases.txt", type=pathlib.Path)
    arguments = parser.parse_args()
    metrics = known(arguments.ncu)
    lines = [line.split() for line in arguments.cases.read_text().splitlines()]
    failed = 0
    with arguments.out.open("w") as out:
        for variant, case in (line for line in lines if line and not line[0].startswith("#")):
            try:
                rows = profile(arguments.ncu, metrics, arguments.touchstone, variant, case)
            except (RuntimeError, OSError, ValueError) as error:
                failed += 1
                print(f"{variant} {case}: {error}", file=sys.stderr)
                continue
            launches = [launch(row, metrics) for row in rows[:len(rows) // 2]]
            out.write(json.dumps({"case": case, "variant": variant, "launches": launches}) + "\n")
            out.flush()
            print(f"{variant} {case}: {len(launches)} launches", flush=True)
    print(f"{failed} cases failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
