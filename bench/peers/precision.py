#!/usr/bin/env python3
"""PyTorch's casts, optimizers and checkpointing on our quick and full cases; run as pytorch.py is."""

import pytorch
import torch
from pytorch import DTYPES, NotThisCase, compiled, relative_rms
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

FORMATS = {**DTYPES, "f64": torch.float64, "e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def casts(p):
    if p["rounding"] != "nearest_even" or p["from"] not in FORMATS or p["to"] not in FORMATS:
        raise NotThisCase
    x = torch.randn(p["elements"], device="cuda").to(FORMATS[p["from"]])
    target = FORMATS[p["to"]]
    run = lambda x: x.to(target)
    # An 8-bit format keeps 3 or 2 bits: of these the error is the format's own.
    error = lambda run: relative_rms(run(x)[: 1 << 20].double(), x[: 1 << 20].to(target).double())
    for name, function in (("eager", run), ("compile", compiled(run))):
        yield name, lambda function=function: function(x), lambda function=function: error(function)


def loss_scale(p):
    if p["fault"] != "none":
        raise NotThisCase
    gradients = torch.rand(p["elements"], device="cuda").mul_(8).sub_(4).to(DTYPES[p["dtype"]])
    scale = torch.full((), float(p["scale"]), device="cuda")

    def run():
        # GradScaler unscales in place; a copy in f32 is what our operation delivers.
        unscaled, found = gradients.float() if gradients.dtype != torch.float32 else gradients.clone(), torch.zeros(1, device="cuda")
        torch._amp_foreach_non_finite_check_and_unscale_([unscaled], found, scale.reciprocal())
        return unscaled

    yield "amp", run, lambda: relative_rms(run()[: 1 << 20], gradients[: 1 << 20].double() / scale.double())


def sizes(p):
    """Tensors of about our sizes: mixed ones are not drawn bit for bit alike."""
    if p["sizes"] == "equal":
        return [p["size"]] * p["tensors"]
    small, size = min(p["size"], 1000), p["size"]
    return [small // 2 if i % 3 == 1 else size // 2 + (size * (i % 7)) // 7 for i in range(p["tensors"])]


def optimizers(op, p):
    if p["skip"] or p["dtype"] != "f32" or p.get("nesterov"):
        raise NotThisCase  # PyTorch's fused optimizers keep no separate master weights
    make = lambda: [torch.nn.Parameter(torch.randn(n, device="cuda").mul_(0.05)) for n in sizes(p)]
    options = {"lr": float(p["lr"]), "weight_decay": float(p["weight_decay"])}
    if op == "precision.adamw":
        options |= {"betas": (float(p["beta1"]), float(p["beta2"])), "eps": float(p["eps"])}
        kind = torch.optim.AdamW
    else:
        options |= {"momentum": float(p["momentum"])}
        kind = torch.optim.SGD
    # A captured graph needs the step count on the device, which AdamW has by option and SGD does not need.
    if kind is torch.optim.AdamW:
        options["capturable"] = True
    parameters = make()
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter).mul_(0.01)

    def error(step_options):
        small = torch.nn.Parameter(torch.randn(1000, device="cuda").mul_(0.05))
        exact = torch.nn.Parameter(small.detach().double())
        small.grad = torch.randn_like(small).mul_(0.01)
        exact.grad = small.grad.double()
        before = exact.detach().clone()
        kind([small], **options, **step_options).step()
        kind([exact], **options, foreach=False).step()
        return relative_rms(small.detach().double() - before, exact.detach() - before)

    for name, step_options in (("fused", {"fused": True}), ("foreach", {"foreach": True})):
        optimizer = kind(parameters, **options, **step_options)
        yield name, optimizer.step, lambda step_options=step_options: error(step_options)


def chains(p):
    """The same chain in autograd: all states kept, and torch.utils.checkpoint in √n segments."""
    layers, rows, width = p["layers"], p["rows"], p["width"]
    if rows == 0:
        raise NotThisCase
    share, every = layers**-0.5, p["dense_every"]

    class Layer(torch.nn.Module):
        def __init__(self, index):
            super().__init__()
            dense = index % every == every - 1
            shape = (width, width) if dense else (width,)
            reach = (3 / width) ** 0.5 if dense else 1
            self.w = torch.nn.Parameter((torch.rand(shape, device="cuda") * 2 - 1) * reach)
            self.b = torch.nn.Parameter(torch.rand(width, device="cuda") - 0.5)

        def forward(self, x):
            z = x @ self.w if self.w.dim() == 2 else x * self.w
            return x + share * torch.tanh(z + self.b)

    chain = torch.nn.Sequential(*(Layer(i) for i in range(layers)))
    x = (torch.rand(rows, width, device="cuda") * 2 - 1).requires_grad_()
    gradient = torch.rand(rows, width, device="cuda") * 2 - 1
    segments = max(1, round(layers**0.5))
    ways = {
        "keep_all": lambda module, x: module(x),
        "checkpoint_sqrt": lambda module, x: checkpoint_sequential(module, segments, x, use_reentrant=False),
        "checkpoint_every_layer": lambda module, x: each(module, x),
    }

    def each(module, x):
        for layer in module:
            x = checkpoint(layer, x, use_reentrant=False)
        return x

    def run(way, module=chain, x=x, gradient=gradient):
        inputs = [x, *module.parameters()]
        return torch.autograd.grad(way(module, x), inputs, gradient)

    def exact():
        import copy

        return run(ways["keep_all"], copy.deepcopy(chain).double(), x.detach().double().requires_grad_(), gradient.double())[0]

    for name, way in ways.items():
        call = lambda way=way: run(way)
        call.synchronizes = True  # autograd runs on a thread of its own, which a graph would not hold
        yield name, call, lambda way=way: relative_rms(run(way)[0], exact())
    whole = compiled(lambda x: chain(x))
    if layers <= 64:
        call = lambda: run(lambda module, x: whole(x))
        call.synchronizes = True
        yield "compile", call, lambda: relative_rms(call()[0], exact())


def precision_peers(op, p):
    if op == "precision.cast":
        yield from casts(p)
    elif op == "precision.loss_scale":
        yield from loss_scale(p)
    else:
        yield from optimizers(op, p)


if __name__ == "__main__":
    pytorch.PEERS = {"precision": precision_peers, "checkpoint": lambda op, p: chains(p)}
    pytorch.main()
