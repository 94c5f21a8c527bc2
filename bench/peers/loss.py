#!/usr/bin/env python3
"""PyTorch's softmax and cross entropy on our quick and full cases, eager and compiled; run as pytorch.py is."""

from unittest import mock

import pytorch
import torch
import torch.nn.functional as F
from pytorch import DTYPES, NotThisCase, compiled, normal, relative_rms


def liger_launch(x, targets):
    """Liger's kernel as it launches it: its losses, and what runs it again. The sums over targets that it takes before,
    and waits for, are left out. Where `x` asks for a gradient, the kernel writes it over the logits: each run is of the
    one before, which takes as long."""
    from liger_kernel.ops import cross_entropy

    launches, kernel = [], cross_entropy.liger_cross_entropy_kernel

    def launcher(_, grid):
        return lambda **given: launches.append(lambda: kernel[grid](**given))

    with mock.patch.object(cross_entropy, "liger_cross_entropy_kernel", mock.MagicMock(__getitem__=launcher)):
        losses = cross_entropy.cross_entropy_forward(x, targets[: len(x)], None, -100, 0.0, 0.0, "none", None, False)[0]
    launches[0]()
    return losses, launches[0]


def liger(op, x, targets, weights, few, exact):
    """Liger's kernel for an operation; its gradient is of the losses' sum, ours of a weighted one."""
    try:
        from liger_kernel.ops.softmax import _softmax_forward as softmax
    except ImportError as missing:
        print(f"liger is left out: {missing}")
        return
    if op == "loss.softmax":
        run = lambda: softmax(x)
        error = lambda: relative_rms(run()[0][few], exact())
    elif op == "loss.cross_entropy":
        losses, run = liger_launch(x, targets)
        error = lambda: relative_rms(losses[few], exact())
    else:
        run = liger_launch(x.clone().requires_grad_(), targets)[1]

        def error():
            gradient = x[few].clone().requires_grad_()
            liger_launch(gradient, targets)
            return relative_rms(gradient.detach() * weights[few, None].to(x.dtype), exact())

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
        yield from liger(op, x.detach(), targets, weights, few, exact)
        return
    exact = lambda: run(x[few].double())
    for name, function in (("eager", run), ("compile", compiled(run))):
        call = lambda function=function: function(x)
        yield name, call, lambda call=call: relative_rms(call()[few], exact())
    yield from liger(op, x, targets, weights, few, exact)


if __name__ == "__main__":
    pytorch.PEERS = {"loss": loss_peers}
    pytorch.main()
