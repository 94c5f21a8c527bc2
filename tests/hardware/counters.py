#!/usr/bin/env python3
"""Reads hardware counters of the kernels that cases.txt names, for tests/hardware.rs to hold the simulator's
costs against. Needs an NVIDIA GPU, Nsight Compute (`ncu`) and the built program; no Rust and no network.

  counters.py --touchstone target/release/touchstone --out tests/hardware/counters.jsonl

Writes one JSON object a line: the case, the variant, and for each kernel of its plan the launches of one run and the
sums of their counters by name; the first line names the device. `touchstone check` runs a plan twice: the simulator says how
many launches the first run has, and only those are profiled. Where it cannot, all are, and the second half is left
out. No case is begun after --seconds.
"""

import argparse
import concurrent.futures
import csv
import datetime
import glob
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent

METRICS = [
    "smsp__inst_executed.sum",
    "smsp__thread_inst_executed.sum",
    "smsp__warps_launched.sum",
    "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum",
    "l1tex__t_requests_pipe_lsu_mem_global_op_st.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_red.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_atom.sum",
    "l1tex__t_requests_pipe_lsu_mem_global_op_ldgsts.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ldgsts_cache_access.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ldgsts_cache_bypass.sum",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_ld.sum",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_st.sum",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st.sum",
    "sm__inst_executed_pipe_tensor.sum",
    "smsp__inst_executed_pipe_tensor.sum",
    "sm__inst_executed_pipe_tensor_op_hmma.sum",
    "smsp__sass_branch_targets_threads_divergent.sum",
    "sass__inst_executed_per_opcode",
]


def known(ncu):
    """The metrics of METRICS that this ncu knows. What a program instrumented (sass__) is listed nowhere."""
    listed = subprocess.run([ncu, "--query-metrics"], capture_output=True, text=True).stdout
    names = set(re.findall(r"^(\w+__\w+)", listed, re.M))
    if not names:
        return METRICS
    return [metric for metric in METRICS if metric.split(".")[0] in names or metric.startswith("sass__")]


def launches_of_one_run(touchstone, variant, case):
    """How many kernels one run of the plan launches, by the simulator; None where it does not run it."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "records.jsonl"
        run = [touchstone, "check", "--simulate", "--variant", variant, case, "--out", str(out)]
        subprocess.run(run, capture_output=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, check=False)
        records = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    variants = {record["variant"] for record in records if record["variant"] != "reference"}
    if len(variants) > 1:
        raise RuntimeError(f"'{variant}' is part of several names: {variants}")
    costs = [record["cost"] for record in records if record.get("cost")]
    return sum(kernel["launches"] for kernel in costs[0]["kernels"]) if costs else None


def profile(ncu, metrics, touchstone, variant, case, launches, report):
    """Runs a case under ncu, which writes a report."""
    run = [ncu, "--clock-control", "none", "--metrics", ",".join(metrics), "-f", "-o", str(report)]
    if launches:
        run += ["--launch-count", str(launches)]
    run += [touchstone, "check", "--variant", variant, case]
    done = subprocess.run(run, capture_output=True, text=True)
    text = done.stdout + done.stderr
    unknown = [metric for metric in metrics if re.search(rf"(?i)metric\w*\W+{re.escape(metric)}", text)]
    if done.returncode != 0 and "find metric" in text and unknown:
        metrics[:] = [metric for metric in metrics if metric not in unknown]
        return profile(ncu, metrics, touchstone, variant, case, launches, report)
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}: {text[-2000:]}")


def report_module(ncu):
    """NVIDIA's module that reads reports, where it is installed beside ncu."""
    roots = [pathlib.Path(ncu).resolve().parent, *map(pathlib.Path, glob.glob("/usr/local/cuda*/nsight-compute*")),
             *map(pathlib.Path, glob.glob("/opt/nvidia/nsight-compute/*"))]
    for root in roots:
        if (root / "extras/python/ncu_report.py").exists():
            sys.path.insert(0, str(root / "extras/python"))
            try:
                import ncu_report
                return ncu_report
            except ImportError as error:
                print(f"ncu_report: {error}", file=sys.stderr)
                return None
    return None


def read_by_module(module, report, metrics):
    """Launches of a report, opcodes by name."""
    found = []
    context = module.load_report(str(report) + ".ncu-rep")
    for at in range(context.num_ranges()):
        part = context.range_by_idx(at)
        for number_ in range(part.num_actions()):
            action, counters = part.action_by_idx(number_), {}
            for name in metrics:
                metric = action.metric_by_name(name)
                if metric is None:
                    continue
                if metric.num_instances() and "opcode" in name:
                    names = metric.correlation_ids()
                    counters[name] = {names.as_string(i): int(metric.as_double(i))
                                      for i in range(metric.num_instances())}
                else:
                    counters[name] = int(metric.as_double())
            found.append({"kernel": action.name(), "counters": counters})
    return found


def read_by_ncu(ncu, report, metrics):
    """Launches of a report as ncu prints them."""
    show = [ncu, "--import", str(report) + ".ncu-rep", "--csv", "--page", "raw", "--print-units", "base"]
    show += ["--print-metric-instances", "values"]
    shown = subprocess.run(show, capture_output=True, text=True)
    if shown.returncode != 0:
        raise RuntimeError(shown.stdout[-1000:] + shown.stderr[-1000:])
    text = shown.stdout[shown.stdout.index('"ID"'):]
    rows = list(csv.DictReader(io.StringIO(text)))
    return [launch(row, metrics) for row in rows if row["ID"].strip()]  # the row of units has no ID


def by_kernel(launches):
    """Sums over the launches of each kernel."""
    kernels = {}
    for one in launches:
        kernel = kernels.setdefault(one["kernel"], {"kernel": one["kernel"], "launches": 0, "counters": {}, "opcodes": {}})
        kernel["launches"] += 1
        for name, value in one["counters"].items():
            parts = value.items() if isinstance(value, dict) else [(name, value)]
            into = kernel["opcodes" if isinstance(value, dict) else "counters"]
            for part, count in parts:
                into[part] = into.get(part, 0) + count
    return list(kernels.values())


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
    return {"kernel": row["Kernel Name"].split("(")[0].strip(), "counters": counters}


def device():
    query = "--query-gpu=name,driver_version"
    shown = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True)
    name, driver = (shown.stdout.splitlines() or ["?, ?"])[0].rsplit(", ", 1)
    return {"device": name, "driver": driver, "date": datetime.date.today().isoformat()}


def main():
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--touchstone", required=True, help="the built program")
    parser.add_argument("--ncu", default=shutil.which("ncu") or "/usr/local/cuda/bin/ncu")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--cases", default=HERE / "cases.txt", type=pathlib.Path)
    parser.add_argument("--seconds", default=600, type=float)
    arguments = parser.parse_args()
    lines = [line.split() for line in arguments.cases.read_text().splitlines()]
    cases = [line for line in lines if line and not line[0].startswith("#")]
    pool = concurrent.futures.ThreadPoolExecutor()
    counts = [pool.submit(launches_of_one_run, arguments.touchstone, *line) for line in cases]
    metrics, module, failed = known(arguments.ncu), report_module(arguments.ncu), 0
    with arguments.out.open("w") as out, tempfile.TemporaryDirectory() as folder:
        out.write(json.dumps({**device(), "metrics": metrics}) + "\n")
        for at, ((variant, case), count) in enumerate(zip(cases, counts)):
            if time.monotonic() - begin > arguments.seconds:
                print(f"not begun: {variant} {case}", file=sys.stderr)
                failed += 1
                continue
            try:
                report, count = pathlib.Path(folder) / str(at), count.result()
                profile(arguments.ncu, metrics, arguments.touchstone, variant, case, count, report)
                found = read_by_module(module, report, metrics) if module else read_by_ncu(arguments.ncu, report, metrics)
            except Exception as error:  # one case that fails must not lose the others
                failed += 1
                print(f"{variant} {case}: {error!r}", file=sys.stderr)
                continue
            found = found if count else found[: len(found) // 2]
            out.write(json.dumps({"case": case, "variant": variant, "kernels": by_kernel(found)}) + "\n")
            out.flush()
            print(f"{time.monotonic() - begin:6.1f} s {variant} {case}: {len(found)} launches", flush=True)
    print(f"{failed} cases failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
