#!/usr/bin/env python3
"""Scans of flash-linear-attention and of mamba_ssm on our quick and full cases; run as pytorch.py is.

Both are packages beside PyTorch. Where one is missing its peers are left out, and that is said.
"""

import pytorch
import torch
import torch.nn.functional as F
from pytorch import DTYPES, NotThisCase, function, relative_rms

STEPS = 96  # of the first sequence and two heads, computed step by step in f64: later outputs do not matter to them


def drawn(p, *shape, low=-1.0, high=1.0, dtype=None):
    x = torch.rand(p["batch"], p["seq_len"], *shape, device="cuda") * (high - low) + low
    return x.to(dtype or DTYPES[p["dtype"]])


def early(x):
    return x[0, :STEPS, :2].double()


def stepped(move, read, state):
    """Outputs [steps, heads, value_dim] of `state = move(state, t)`, `read(state, t)`."""
    outputs = []
    for t in range(STEPS):
        state = move(state, t)
        outputs.append(read(state, t))
    return torch.stack(outputs)


def keyed(op, p):
    """Retention, gated linear attention and RWKV-7, with states [heads, value_dim, key_dim]."""
    k_shape, v_shape = (p["heads"], p["key_dim"]), (p["heads"], p["value_dim"])
    q, k, v = drawn(p, *k_shape), drawn(p, *k_shape), drawn(p, *v_shape)
    eq, ek, ev = early(q), early(k), early(v)
    zero = torch.zeros(2, p["value_dim"], p["key_dim"], dtype=torch.float64, device="cuda")
    outer = lambda a, b, t: a[t, :, :, None] * b[t, :, None, :]
    apply = lambda state, x, t: (state @ x[t, :, :, None])[..., 0]
    scale = p["key_dim"] ** -0.5
    if op == "ssm.retention":
        kept = 1 - 2.0 ** (-5 - torch.arange(2, dtype=torch.float64, device="cuda"))[:, None, None]
        call = function("fla.ops.retention.chunk_retention")
        run = lambda: call(q, k, v, scale=scale)[0]
        move, read = lambda s, t: kept * s + outer(ev, ek, t), lambda s, t: scale * apply(s, eq, t)
    elif op == "ssm.gated_linear_attention":
        gate = drawn(p, *k_shape, low=-0.2, high=0.0)
        eg = early(gate).exp()
        call = function("fla.ops.gla.chunk_gla")
        run = lambda: call(q, k, v, gate, scale=scale)[0]
        move = lambda s, t: s * eg[t, :, None, :] + outer(ev, ek, t)
        read = lambda s, t: scale * apply(s, eq, t)
    else:
        w = drawn(p, *k_shape, low=-0.6, high=-0.01)
        a = torch.nn.functional.normalize(drawn(p, *k_shape, dtype=torch.float32), dim=-1)
        b = (-a * torch.rand_like(a)).to(q.dtype)
        a = a.to(q.dtype)
        ew, ea, eb = early(w).exp(), early(a), early(b)
        call = function("fla.ops.rwkv7.chunk_rwkv7")
        run = lambda: call(q, w, k, v, a, b, scale=1.0)[0]
        move = lambda s, t: s * ew[t, :, None, :] + apply(s, ea, t)[..., None] * eb[t, :, None, :] + outer(ev, ek, t)
        read = lambda s, t: apply(s, eq, t)
    exact = stepped(move, read, zero)
    yield "peer:fla", run, lambda: relative_rms(early(run()), exact)


def recurrence(p):
    if p["field"] != "real":
        raise NotThisCase
    x, g = drawn(p, p["channels"]), drawn(p, p["channels"], low=-1.0, high=-0.01)
    ex, eg = (t[0, :STEPS, None, :2].double() for t in (x, g))
    exact = stepped(lambda h, t: eg[t].exp() * h + ex[t], lambda h, t: h, torch.zeros_like(ex[0]))[:, 0]
    call = function("fla.ops.hgrn.chunk.chunk_hgrn")
    run = lambda: call(x, g)[0]
    yield "peer:fla", run, lambda: relative_rms(run()[0, :STEPS, :2].double(), exact)


def ssd(p):
    x, step = drawn(p, p["heads"], p["head_dim"]), drawn(p, p["heads"], low=0.001, high=0.1, dtype=torch.float32)
    b, c = (drawn(p, p["groups"], p["state"]) for _ in range(2))
    decay, skip = -torch.rand(p["heads"], device="cuda") - 0.5, torch.rand(p["heads"], device="cuda")
    call = function("mamba_ssm.ops.triton.ssd_combined.mamba_chunk_scan_combined")
    run = lambda: call(x, step, decay, b, c, 256, D=skip)
    ex, es, eb, ec = early(x), early(step), b[0, :STEPS, :1].double(), c[0, :STEPS, :1].double()
    kept = (es * decay[:2].double()).exp()
    move = lambda h, t: kept[t, :, None, None] * h + (es[t, :, None] * ex[t])[..., None] * eb[t][:, None, :]
    read = lambda h, t: (h * ec[t][:, None, :]).sum(-1) + skip[:2, None].double() * ex[t]
    exact = stepped(move, read, torch.zeros(2, p["head_dim"], p["state"], dtype=torch.float64, device="cuda"))
    yield "peer:mamba_ssm", run, lambda: relative_rms(early(run()), exact)


def gated_scan(u, step, decay, b, c, skip, gate, bias):
    """The selective scan of u, step, gate [channels, steps] with b, c [state, steps], in the inputs' type."""
    step = F.softplus(step + bias[:, None])
    h, outputs = torch.zeros_like(decay), []
    for t in range(u.shape[1]):
        h = (step[:, t, None] * decay).exp() * h + (step[:, t] * u[:, t])[:, None] * b[:, t]
        outputs.append(h @ c[:, t])
    return (torch.stack(outputs, 1) + skip[:, None] * u) * F.silu(gate)


def selective(op, p):
    """mamba_ssm's CUDA scan in its own layout [batch, channels, steps]; its backward begins from the forward's states."""
    if not (p["softplus"] and p["bias"] and p["skip"] and p["gate"]):
        raise NotThisCase
    fwd, bwd = function("selective_scan_cuda.fwd"), function("selective_scan_cuda.bwd")
    over_steps = lambda *shape, **limits: drawn(p, *shape, **limits).movedim(1, -1).contiguous()
    u, gate, d_y = (over_steps(p["channels"]) for _ in range(3))
    step = over_steps(p["channels"], low=-3.0, high=-1.0)
    b, c = (over_steps(p["groups"], p["state"]) for _ in range(2))
    by_channel = lambda *shape: torch.rand(p["channels"], *shape, device="cuda") - 0.5
    decay, skip, bias = by_channel(p["state"]) - 1.5, by_channel(), by_channel()

    def two_channels(steps):
        of_channel, shared = lambda t: t[0, :2, :steps], lambda t: t[0, 0, :, :steps]
        some = of_channel(u), of_channel(step), decay[:2], shared(b), shared(c), skip[:2], of_channel(gate), bias[:2]
        return [t.double() for t in some]

    given = u, step, decay, b, c, skip, gate, bias
    if op == "ssm.selective":
        run = lambda: fwd(*given, True)[-1]
        yield "peer:mamba_ssm", run, lambda: relative_rms(run()[0, :2, :STEPS].double(), gated_scan(*two_channels(STEPS)))
        return
    before_gate, states, _ = fwd(*given, True)
    run = lambda: bwd(*given, d_y, states, before_gate, None, True, False)

    def error():
        with torch.enable_grad():
            some = two_channels(p["seq_len"])
            leaves = [some[i].requires_grad_() for i in (0, 1)]
            exact = torch.autograd.grad(gated_scan(*some), leaves, d_y[0, :2].double())
        return max(relative_rms(got[0, :2].double(), e) for got, e in zip(run(), exact))

    yield "peer:mamba_ssm", run, error


def ssm_peers(op, p):
    if p.get("initial_state"):
        raise NotThisCase
    if op in ("ssm.retention", "ssm.gated_linear_attention", "ssm.rwkv7"):
        yield from keyed(op, p)
    elif op == "ssm.recurrence":
        yield from recurrence(p)
    elif op == "ssm.ssd":
        yield from ssd(p)
    elif op in ("ssm.selective", "ssm.selective_backward"):
        yield from selective(op, p)
    else:
        raise NotThisCase


if __name__ == "__main__":
    pytorch.PEERS = {"ssm": ssm_peers}
    with torch.no_grad():
        pytorch.main()
