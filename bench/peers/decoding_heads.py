#!/usr/bin/env python3
"""PyTorch's Medusa heads and tree attention on our quick and full cases, eager and compiled; run as pytorch.py is.

Of tree attention PyTorch is given one buffer of keys and one of values, cache and tree together, and the mask ready
made: none of that is timed. Only cases whose sequences are all full are asked.
"""

import pytorch
import torch
import torch.nn.functional as F
from pytorch import DTYPES, NotThisCase, normal, relative_rms
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


def compiled(run):
    return torch.compile(run, dynamic=False, mode="max-autotune-no-cudagraphs")


def medusa(p):
    dtype, hidden = DTYPES[p["dtype"]], p["hidden"]
    widest = (3 / hidden) ** 0.5
    uniform = lambda *shape: torch.empty(shape, device="cuda", dtype=dtype).uniform_(-widest, widest)
    x, bias = normal((p["tokens"], hidden), dtype), normal((p["heads"], 1, hidden), dtype, 0.5)
    w, lm = uniform(p["heads"], hidden, hidden), uniform(p["heads"], p["vocab"], hidden)

    def heads(x, w, bias, lm):
        x = x.expand(w.shape[0], -1, -1)
        logits = torch.bmm(x + F.silu(torch.baddbmm(bias, x, w.mT)), lm.mT)
        return (logits, logits.topk(p["top_k"])[1]) if p.get("top_k") else (logits,)

    # Its own f32 stays f32: no tf32.
    exact = lambda: heads(x[:4].double(), w[:1].double(), bias[:1].double(), lm[:1].double())[0]
    for name, function in (("eager", heads), ("compile", compiled(heads))):
        run = lambda function=function: function(x, w, bias, lm)
        yield name, run, lambda run=run: relative_rms(run()[0][:1, :4], exact())


def medusa_tree(nodes):
    """Parents of the most likely nodes: four heads whose rank r is right with 0.6 * 0.85^head * 0.4^r."""
    right = lambda path: torch.tensor([0.6 * 0.85**k * 0.4**r for k, r in enumerate(path)], dtype=torch.float64).prod()
    taken, left = [()], [(r,) for r in range(10)]
    while len(taken) < nodes:
        best = max(left, key=right)
        left.remove(best)
        taken.append(best)
        left += [best + (r,) for r in range(10)] if len(best) < 4 else []
    taken.sort(key=lambda path: (len(path), path))
    return [taken.index(path[:-1]) if path else -1 for path in taken]


def ancestors(parents):
    seen = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    return seen.cuda()


def tree_attention(p):
    if p.get("lengths", "full") != "full" or p["tree"] != "medusa":
        raise NotThisCase
    dtype, nodes, cached = DTYPES[p["dtype"]], p["nodes"], p["seq_k"]
    make = lambda rows, heads: normal((p["batch"], rows, heads, p["head_dim"]), dtype).transpose(1, 2)
    q, k, v = make(nodes, p["heads_q"]), make(cached + nodes, p["heads_kv"]), make(cached + nodes, p["heads_kv"])
    own = ancestors(medusa_tree(nodes))
    mask = torch.cat([torch.ones(nodes, cached, dtype=torch.bool, device="cuda"), own], 1)
    group = p["heads_q"] // p["heads_kv"]

    def exact():
        s = q[0, 0].double() @ k[0, 0].double().T / p["head_dim"] ** 0.5
        return s.masked_fill(~mask, float("-inf")).softmax(-1) @ v[0, 0].double()

    def plain(q, k, v):
        q = q.unflatten(1, (p["heads_kv"], group)).flatten(2, 3)
        s = (q @ k.mT).float() * p["head_dim"] ** -0.5
        s = s.masked_fill(~mask.repeat(group, 1), float("-inf"))
        return (s.softmax(-1).to(q.dtype) @ v).unflatten(2, (group, nodes)).flatten(1, 2)

    def sdpa(backend):
        def run(q, k, v):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=group > 1)

        return run

    sees = lambda b, h, i, j: (j < cached) | own[i, (j - cached).clamp_min(0)]
    blocks = create_block_mask(sees, None, None, nodes, cached + nodes, device="cuda")
    flex = torch.compile(flex_attention, dynamic=False, mode="max-autotune-no-cudagraphs")
    runs = [("eager", plain), ("compile", compiled(plain))]
    runs += [(name, sdpa(backend)) for name, backend in pytorch.BACKENDS.items() if name != "flash2"]
    runs += [("flex", lambda q, k, v: flex(q, k, v, block_mask=blocks, enable_gqa=group > 1))]
    for name, function in runs:
        run = lambda function=function: function(q, k, v)
        yield name, run, lambda run=run: relative_rms(run()[0, 0], exact())


def heads_peers(op, p):
    of = {"decoding.medusa": medusa, "decoding.tree_attention": tree_attention}
    if op not in of:
        raise NotThisCase
    yield from of[op](p)


if __name__ == "__main__":
    pytorch.PEERS = {"decoding": heads_peers}
    pytorch.main()
