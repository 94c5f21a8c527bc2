#!/usr/bin/env python3
"""Run PyTorch's nn.RNN, nn.LSTM and nn.GRU (cuDNN) on our recurrent cases and write Records (see README.md here).

Takes the options of pytorch.py, whose clock, checks and records it uses. Backward is timed as forward and backward
together, as ours is: our operation is given the inputs alone and computes the gates again.
"""

import torch

import pytorch
from pytorch import DTYPES, NotThisCase, normal, relative_rms

MODULES = {"recurrent.rnn": torch.nn.RNN, "recurrent.lstm": torch.nn.LSTM, "recurrent.gru": torch.nn.GRU}
CHECKED = 2  # sequences that are held against f64


def layer(op, p, dtype):
    """The module with weights of our distribution, so that errors fade as in our reference."""
    if p.get("reset") == "before" or p.get("lengths", "full") != "full":
        raise NotThisCase  # cuDNN resets after the product; packed sequences would be sorted and copied on each call
    more = {"nonlinearity": p["nonlinearity"]} if op == "recurrent.rnn" else {}
    module = MODULES[op](p["input"], p["hidden"], bidirectional=p.get("bidirectional", False), device="cuda", **more)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            uniform = torch.rand_like(weight)
            sign = torch.randint(0, 2, weight.shape, device="cuda") * 2 - 1
            if "weight_hh" in name:
                strong = torch.rand_like(weight) < min(4 / p["hidden"], 1)
                weight.copy_(sign * torch.where(strong, 0.1 + 0.15 * uniform, uniform * 0.5 / p["hidden"]))
            elif "weight_ih" in name:
                weight.copy_(sign * uniform * 1.5 / p["input"] ** 0.5)
            else:
                weight.copy_(sign * uniform * 0.5)
    module = module.to(dtype)
    module.flatten_parameters()
    return module


def states(op, p, dtype):
    """h0, and c0 of an LSTM, as the module takes them."""
    shape = (1 + p.get("bidirectional", False), p["batch"], p["hidden"])
    h0 = ((torch.rand(shape, device="cuda") * 2 - 1) * 0.9).to(dtype)
    return (h0, normal(shape, dtype)) if op == "recurrent.lstm" else h0


def of_rows(state, rows, convert):
    if isinstance(state, tuple):
        return tuple(of_rows(part, rows, convert) for part in state)
    return convert(state[:, rows].contiguous())


def exact_module(op, p, module):
    """The same weights in f64 on the CPU, where PyTorch computes the cells itself."""
    more = {"nonlinearity": p["nonlinearity"]} if op == "recurrent.rnn" else {}
    exact = MODULES[op](p["input"], p["hidden"], bidirectional=p.get("bidirectional", False), **more).double()
    exact.load_state_dict({name: weight.detach().double().cpu() for name, weight in module.state_dict().items()})
    return exact


def recurrent_peers(op, p):
    backward = op.endswith("_backward")
    op = op.removesuffix("_backward")
    dtype = DTYPES[p["dtype"]]
    module = layer(op, p, dtype)
    x, first = normal((p["seq_len"], p["batch"], p["input"]), dtype), states(op, p, dtype)
    rows = slice(0, min(CHECKED, p["batch"]))
    to_exact = lambda tensor: tensor.detach().double().cpu()
    exact = exact_module(op, p, module)

    if not backward:

        @torch.no_grad()
        def run():
            return module(x, first)[0]

        def error():
            y = exact(to_exact(x[:, rows]), of_rows(first, rows, to_exact))[0]
            return relative_rms(run()[:, rows].cpu(), y.detach())

    else:
        x.requires_grad_()
        dy = normal((p["seq_len"], p["batch"], p["hidden"] * (1 + p.get("bidirectional", False))), dtype)
        wanted = [x, *module.parameters()]

        def run():
            return torch.autograd.grad(module(x, first)[0], wanted, dy)

        run.synchronizes = True  # autograd runs on a thread of its own, outside a graph's stream

        def error():
            ours = to_exact(x[:, rows]).requires_grad_()
            y = exact(ours, of_rows(first, rows, to_exact))[0]
            (dx,) = torch.autograd.grad(y, [ours], to_exact(dy[:, rows]))
            return relative_rms(run()[0][:, rows].cpu(), dx)

    # f32 as our kernels have it, and with products in tf32, which is PyTorch's own choice for cuDNN.
    for name, tf32 in [("cudnn", False)] + [("cudnn-tf32", True)] * (p["dtype"] == "f32"):
        torch.backends.cudnn.allow_tf32 = tf32
        yield name, run, error


pytorch.PEERS["recurrent"] = recurrent_peers

if __name__ == "__main__":
    pytorch.main()
