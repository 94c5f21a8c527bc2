#!/usr/bin/env python3
"""Run PyTorch's own kernels on our quick and full cases and write Records (see README.md here)."""

import argparse
import datetime
import importlib
import json
import math
import pathlib

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
SAMPLES = 31
SAME_CALL = datetime.timedelta(minutes=30)
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash2": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


class NotThisCase(Exception):
    """The peer does not take the case; nothing is recorded."""


def parse(case):
    """Operation and parameters of a case id."""
    op, rest = case.split(":", 1)
    params = dict(field.split("=", 1) for field in rest.split(","))
    convert = lambda v: int(v) if v.lstrip("-").isdigit() else {"true": True, "false": False}.get(v, v)
    return op, {key: convert(value) for key, value in params.items()}


def normal(shape, dtype, sd=1.0):
    return (torch.randn(shape, device="cuda") * sd).to(dtype)


def zipf(n, count):
    """Indices in 0..n with P(rank r) proportional to 1/(r+1), by inverse transform."""
    u = torch.rand(count, device="cuda", dtype=torch.float64)
    return (torch.exp(u * torch.log(torch.tensor(float(n), device="cuda"))) - 1).long().clamp(0, n - 1)


def indices(p, n, count):
    return zipf(n, count) if p.get("pattern") == "zipf" else torch.randint(n, (count,), device="cuda")


def qkv(p, seq_q):
    """Inputs in PyTorch's layout [batch, heads, seq, head_dim], strided as ours are."""
    if p.get("lengths", "full") != "full" or p.get("mask") == "window" or p["dtype"] not in DTYPES:
        raise NotThisCase
    if "softcap" in p:
        raise NotThisCase  # scaled_dot_product_attention has none
    make = lambda s, h: normal((p["batch"], s, h, p["head_dim"]), DTYPES[p["dtype"]]).transpose(1, 2)
    return make(seq_q, p["heads_q"]), make(p["seq_k"], p["heads_kv"]), make(p["seq_k"], p["heads_kv"])


def attention(p, q, k, v):
    causal, grouped = p.get("mask") == "causal", q.shape[1] != k.shape[1]
    if causal and q.shape[2] != k.shape[2]:  # is_causal aligns the mask at the other corner
        bias = causal_lower_right(q.shape[2], k.shape[2])
        return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=grouped)
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)


def exact_attention(p, q, k, v):
    """f64 attention of the first batch element's first head, on rows spread over the sequence."""
    rows = torch.linspace(0, q.shape[2] - 1, min(64, q.shape[2])).long().cuda()
    s = q[0, 0, rows].double() @ k[0, 0].double().T / q.shape[3] ** 0.5
    if p.get("mask") == "causal":
        last = rows[:, None] + k.shape[2] - q.shape[2]
        s.masked_fill_(torch.arange(k.shape[2], device="cuda") > last, float("-inf"))
    return rows, s.softmax(-1) @ v[0, 0].double()


def function(path):
    """What another package offers under that path; cases that ask for it are left out where the package is missing."""
    module, name = path.rsplit(".", 1)
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as missing:
        print(f"{path} is left out: {missing}")
        raise NotThisCase from missing


def compiled(run):
    """The same behind torch.compile, with an autotuned schedule; compiled before it is timed."""
    return torch.compile(run, dynamic=False, mode="max-autotune-no-cudagraphs")


def relative_rms(got, exact):
    return ((got.double() - exact).norm() / exact.norm().clamp_min(1e-300)).item()


def attention_peers(op, p):
    """(name, function to time, function that gives the relative error) for each backend."""
    if op == "attention.backward":
        yield from attention_backward_peers(p)
        return
    q, k, v = qkv(p, 1 if op == "attention.decode" else p["seq_q"])
    if op == "attention.decode" and (p.get("kv", "contiguous") != "contiguous" or "kv_dtype" in p):
        raise NotThisCase
    rows, exact = exact_attention(p, q, k, v)
    for name, backend in BACKENDS.items():
        if name == "math" and q.numel() // q.shape[3] * k.shape[2] > 1 << 31:
            continue
        call = attention(p, q, k, v)

        def forward(call=call, backend=backend):
            with sdpa_kernel(backend):
                return call()

        yield name, forward, lambda forward=forward: relative_rms(forward()[0, 0, rows], exact)


def exact_gradients(p, q, k, v, d_o):
    """f64 gradients of the first key-value head with the query heads that share it, by autograd on the formula."""
    group = q.shape[1] // k.shape[1]
    if group * q.shape[2] * k.shape[2] > 1 << 28:
        raise NotThisCase  # the f64 check would not fit beside the inputs
    q, k, v = (t.detach().double().requires_grad_() for t in (q[:1, :group], k[:1, :1], v[:1, :1]))
    s = q @ k.transpose(-1, -2) / q.shape[3] ** 0.5
    if p.get("mask") == "causal":
        s = s.masked_fill(torch.ones(s.shape[-2:], device="cuda").triu(1).bool(), float("-inf"))
    return torch.autograd.grad(s.softmax(-1) @ v, (q, k, v), d_o[:1, :group].double())


def captured_backward(name, p, q, k, v, d_o):
    """The backward of a backend as the operation that autograd calls, on what its forward left: such a call can be captured."""
    aten, causal = torch.ops.aten, p.get("mask") == "causal"
    if name == "cudnn":
        o, lse, cum_q, cum_k, max_q, max_k, seed, offset, _ = aten._scaled_dot_product_cudnn_attention(
            q, k, v, None, True, 0.0, causal, False
        )
        return lambda: aten._scaled_dot_product_cudnn_attention_backward(
            d_o, q, k, v, o, lse, seed, offset, None, cum_q, cum_k, max_q, max_k, 0.0, causal
        )
    o, lse, cum_q, cum_k, max_q, max_k, seed, offset, _ = aten._scaled_dot_product_flash_attention(
        q, k, v, 0.0, causal, False
    )
    return lambda: aten._scaled_dot_product_flash_attention_backward(
        d_o, q, k, v, o, lse, cum_q, cum_k, max_q, max_k, 0.0, causal, seed, offset
    )


def attention_backward_peers(p):
    q, k, v = (t.requires_grad_() for t in qkv(p, p["seq_q"]))
    d_o = normal(q.shape, q.dtype)
    exact = exact_gradients(p, q, k, v, d_o)
    alike = q.shape[1] == k.shape[1] and (p.get("mask") != "causal" or q.shape[2] == k.shape[2])
    for name, backend in BACKENDS.items():
        if name == "math" and q.numel() // q.shape[3] * k.shape[2] > 1 << 31:
            continue
        try:
            if name in ("cudnn", "flash2") and alike and q.dtype != torch.float32:
                run = captured_backward(name, p, *(t.detach() for t in (q, k, v)), d_o)
            else:
                with sdpa_kernel(backend):
                    o = attention(p, q, k, v)()
                run = lambda o=o: torch.autograd.grad(o, (q, k, v), d_o, retain_graph=True)
                run.synchronizes = True  # autograd runs on a thread of its own, which a capture does not see
        except RuntimeError as problem:  # a backend that refuses the case
            print(f"{name} refuses the backward's forward: {str(problem).splitlines()[0]}")
            continue
        first = lambda got: (g[:1, : e.shape[1]] for g, e in zip(got, exact))
        yield name, run, lambda run=run: max(relative_rms(g, e) for g, e in zip(first(run()), exact))


def word2vec(p):
    lr, words = float(p["lr"]), lambda *shape: zipf(p["vocab"], math.prod(shape)).view(shape)
    tables = [normal((p["vocab"], p["dim"]), torch.float32) * 0.3 for _ in range(2)]
    batch = words(p["batch"]), words(p["batch"]), words(p["batch"], p["negatives"])

    def step(ins, outs, centers, contexts, negatives):
        asked = torch.cat([contexts[:, None], negatives], 1)
        v, o = ins[centers], outs[asked]
        score = (v[:, None] * o).sum(-1)
        error = torch.sigmoid(score)
        error[:, 0] -= 1
        loss = F.softplus(score).sum() - score[:, 0].sum()
        per_center = (error[..., None] * o).sum(1)
        per_word = (error[..., None] * v[:, None]).flatten(0, 1)
        return (
            ins.index_add(0, centers, per_center, alpha=-lr),
            outs.index_add(0, asked.flatten(), per_word, alpha=-lr),
            loss / len(centers),
        )

    exact = [new - old.double() for new, old in zip(step(*(t.double() for t in tables), *batch), tables)]

    def error(run):
        new = run(*tables, *batch)
        return max(relative_rms(new[i].double() - tables[i].double(), exact[i]) for i in range(2))

    for name, run in (("eager", step), ("compile", compiled(step))):
        yield name, lambda run=run: run(*tables, *batch), lambda run=run: error(run)


def embedding_peers(op, p):
    if op == "embedding.word2vec":
        if p["pattern"] != "zipf":
            raise NotThisCase
        yield from word2vec(p)
        return
    dtype = DTYPES.get(p.get("table", p.get("dtype")))
    if dtype is None or p.get("padding"):
        raise NotThisCase
    if op == "embedding.gather":
        table, index = normal((p["vocab"], p["dim"]), dtype), indices(p, p["vocab"], p["tokens"])
        for name, gather in (("eager", F.embedding), ("compile", compiled(F.embedding))):
            run = lambda gather=gather: gather(index, table)
            yield name, run, lambda run=run: relative_rms(run(), table.double()[index])
    elif op == "embedding.bag":
        if p.get("lengths") == "ragged" or p.get("weighted"):
            raise NotThisCase
        table = normal((p["vocab"], p["dim"]), dtype)
        index = indices(p, p["vocab"], p["bags"] * p["bag_size"])
        offsets = torch.arange(p["bags"], device="cuda") * p["bag_size"]
        run = lambda: F.embedding_bag(index, table, offsets, mode=p["mode"])
        reduce = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax}[p["mode"]]
        exact = lambda: reduce(table[index[: 64 * p["bag_size"]]].double().view(-1, p["bag_size"], p["dim"]), 1)
        yield "eager", run, lambda: relative_rms(run()[:64], exact())
    elif op == "embedding.backward":
        index, grad = indices(p, p["vocab"], p["tokens"]), normal((p["tokens"], p["dim"]), dtype)
        run = lambda: torch.ops.aten.embedding_dense_backward(grad, index, p["vocab"], -1, False)
        exact = lambda: torch.zeros(p["vocab"], p["dim"], device="cuda", dtype=torch.float64).index_add_(
            0, index, grad.double()
        )
        yield "eager", run, lambda: relative_rms(run(), exact())
    else:
        raise NotThisCase


def count_peers(op, p):
    if op != "ngram.count":
        raise NotThisCase
    tokens = zipf(p["vocab"], p["tokens"])

    def run():
        key = torch.zeros(tokens.numel() - p["order"] + 1, dtype=torch.int64, device="cuda")
        for i in range(p["order"]):
            key = key * p["vocab"] + tokens[i : tokens.numel() - p["order"] + 1 + i]
        return torch.unique(key, return_counts=True)

    run.synchronizes = True  # the number of distinct keys comes to the host; a failed capture cannot be undone
    yield "unique", run, lambda: abs(run()[1].sum().item() / (tokens.numel() - p["order"] + 1) - 1)


PEERS = {"attention": attention_peers, "embedding": embedding_peers, "ngram": count_peers}


def between_events(run):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1e6


def capture(run, repeats):
    """A graph of several runs, on a stream of its own; None when the peer synchronizes with the host."""
    if getattr(run, "synchronizes", False):
        return None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            run()
    return graph


def measure(run):
    for _ in range(3):
        between_events(run)
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    flush = torch.empty(128 << 20, dtype=torch.uint8, device="cuda")
    # Replayed as ours is: what Python takes to launch is no part of a kernel's time. Only what cannot be captured is
    # launched by the host while the device waits.
    once = capture(run, 1)
    cold = []
    for _ in range(SAMPLES):
        flush.fill_(60)
        cold.append(between_events(once.replay if once else run))
    repeats = max(1, min(64, int(200e3 / min(cold))))
    graph = capture(run, repeats) if repeats > 1 else once
    replay = graph.replay if graph else lambda: [run() for _ in range(repeats)]
    warm = [between_events(replay) / repeats for _ in range(SAMPLES)]
    return {
        "clock": f"CUDA events; warm: {repeats} runs a sample" + ("" if once else "; launched by the host"),
        "cold_ns": cold,
        "warm_ns": warm,
        "throttled": 0,
        "peak_bytes": peak,
        "workspace_bytes": 0,
        "kernels": [],
        "above_limit": False,
    }


def record(like, workload, case, name, error, measurement):
    agreement = {"outputs": [], "repeatable": True}
    agreement["outputs"].append(
        {"name": "against f64", "elements": 0, "compared": 0, "failed": 0, "nan": 0, "ties": 0,
         "worst_share": None, "relative_rms": error, "worst": None, "looks_like": None}
    )
    outcome = {"kind": "measured", "agreement": agreement, "measurement": measurement}
    if not error < 0.02:
        outcome = {"kind": "wrong", "agreement": agreement, "complaint": f"relative error {error} against f64"}
    variant = name if name.startswith("peer:") else f"peer:pytorch-{name}"
    return {
        "schema": 1, "workload": workload, "case": case, "inputs": "drawn", "variant": variant,
        "executor": "cuda", "environment": like["environment"], "work": like["work"], "outcome": outcome,
    }


def records_of_this_call(path):
    """Our records on CUDA by case; refuses those of another device or of another time than this call's."""
    ours = {}
    for number, line in enumerate(pathlib.Path(path).read_text().splitlines(), 1):
        r = json.loads(line)
        if r["executor"] != "cuda":
            continue
        environment = r["environment"]
        device, date = environment["device"]["name"], datetime.datetime.fromisoformat(environment["date"].replace("Z", "+00:00"))
        age = datetime.datetime.now(datetime.timezone.utc) - date
        if device != torch.cuda.get_device_name():
            raise SystemExit(f"{path}:{number}: measured on {device}, this is {torch.cuda.get_device_name()}")
        if not datetime.timedelta(0) <= age < SAME_CALL:
            raise SystemExit(f"{path}:{number}: measured {age} ago; peers belong to the run they stand beside")
        ours[r["case"]] = r
    return ours


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", required=True, help="output of `touchstone list --json`")
    parser.add_argument("--like", required=True, help="records of our own run on this device, just made")
    parser.add_argument("--out", required=True, help="records file to create")
    options = parser.parse_args()
    ours = records_of_this_call(options.like)
    torch.manual_seed(20261124)
    with open(options.out, "x") as out:
        for operation in json.load(open(options.cases)):
            for workload in operation["workloads"]:
                for case in workload["cases"] if workload["tier"] != "edge" else []:
                    op, params = parse(case)
                    vertical = op.split(".")[0]
                    if case not in ours or vertical not in PEERS:
                        continue
                    try:
                        for name, run, error in PEERS[vertical](op, params):
                            try:
                                made = record(ours[case], workload["name"], case, name, error(), measure(run))
                            except RuntimeError as problem:  # a backend that refuses the case
                                print(f"{name} refuses {case}: {str(problem).splitlines()[0]}")
                                continue
                            print(json.dumps(made), file=out, flush=True)
                    except NotThisCase:
                        pass
                    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
