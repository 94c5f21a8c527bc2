#!/usr/bin/env python3
"""PyTorch's softmax and cross entropy on our quick and full cases, eager and compiled; run as pytorch.py is."""

import pytorch
import torch
import torch.nn.functional as F
from pytorch import DTYPES, NotThisCase, compiled, normal, relative_rms


def liger(x, targets, weights, few, exact):
    """Liger's kernel writes the gradient over the logits: each run is of the one before, which takes as long."""
    try:
        from liger_kernel.ops.cross_entropy import cross_entropy_forward
    except ImportError as missing:
        print(f"liger is left out: {missing}")
        return
    call = lambda x: cross_entropy_forward(x, targets[: len(x)], None, -100, 0.0, 0.0, "none", None, False)[-1]
    error = lambda: relative_rms(call(x[few].clone().requires_grad_()) * weights[few, None].to(x.dtype), exact())
    scratch = x.clone().requires_grad_()  # else it leaves the gradient out
    run = lambda: call(scratch)
    run.synchronizes = True  # it asks the device how many targets count
    yield "peer:liger", run, error


def loss_peers(op, p):
    if p["logits"] != "normal":
        raise NotThisCase
    x = normal((p["rows"], p["vocab"]), DTYPES[p["dtype"]])
    targets = torch.randint(p["vocab"], (p["rows"],), device="cuda")
    weights = torch.rand(p["rows"], device="cuda").mul_(0.75).add_(0.25)
    few = slice(0, 16)
    cross_entropy = lambda x: F.cross_entropy(x, targets[: len(x)], ignore_index=-1, reduction="none")
    if op == "loss.softmax":
        run = lambda x: torch.softmax(x, -1)
    elif op == "loss.cross_entropy":
        run = cross_entropy
    else:
        # Backward alone needs what forward left: the two together are what ours does in one.
        x.requires_grad_()

        def gradient(function, x):
            losses = function(x)
            return torch.autograd.grad(losses, x, weights[: len(x)].to(losses.dtype))[0]

        exact = lambda: gradient(cross_entropy, x[few].detach().double().requires_grad_())
        for name, function in (("eager", cross_entropy), ("compile", compiled(cross_entropy))):
            call = lambda function=function: gradient(function, x)
            call.synchronizes = True  # autograd runs on a thread of its own, outside a graph's stream
            yield name, call, lambda call=call: relative_rms(call()[few], exact())
        yield from liger(x.detach(), targets, weights, few, exact)
        return
    for name, function in (("eager", run), ("compile", compiled(run))):
        call = lambda function=function: function(x)
        yield name, call, lambda call=call: relative_rms(call()[few], run(x[few].double()))


if __name__ == "__main__":
    pytorch.PEERS = {"loss": loss_peers}
    pytorch.main()
