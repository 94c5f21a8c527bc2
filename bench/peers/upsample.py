#!/usr/bin/env python3
"""PyTorch's up-sampling on our quick and full cases, eager and compiled; run as pytorch.py is."""

import pytorch
import torch
import torch.nn.functional as F
from pytorch import DTYPES, NotThisCase, compiled, relative_rms

MODES = {"floor": "nearest", "centre": "nearest-exact"}


def image(p, channels, height, width):
    return torch.rand(p["batch"], channels, height, width, device="cuda").mul_(2).sub_(1).to(DTYPES[p["dtype"]])


def both(run, inputs, exact):
    """Eager and compiled runs of a function of tensors, each checked on the first image."""
    for name, function in (("eager", run), ("compile", compiled(run))):
        yield name, lambda function=function: function(*inputs), lambda function=function: relative_rms(
            function(*inputs)[:1], exact()
        )


def resize(op, p):
    kind = op.split(".")[1].removesuffix("_backward")
    if float(p["factor"]) != 0:
        raise NotThisCase
    size = (p["out_h"], p["out_w"])
    if kind == "nearest":
        options = {"mode": MODES[p["coordinates"]]}
    else:
        options = {"mode": kind, "align_corners": p["coordinates"] == "align_corners"}
    forward = lambda x: F.interpolate(x, size=size, **options)
    if not op.endswith("_backward"):
        x = image(p, p["channels"], p["in_h"], p["in_w"])
        yield from both(forward, [x], lambda: forward(x[:1].double()))
        return
    name = {"nearest": "nearest2d", "nearest-exact": "_nearest_exact2d", "bilinear": "bilinear2d", "bicubic": "bicubic2d"}
    name = name[options["mode"]]
    name = f"_upsample{name}_backward" if name.startswith("_") else f"upsample_{name}_backward"
    gradient = image(p, p["channels"], *size)
    corners = [options["align_corners"]] if "align_corners" in options else []
    call = getattr(torch.ops.aten, name)
    shape = lambda g: [g.shape[0], p["channels"], p["in_h"], p["in_w"]]
    run = lambda g: call(g, list(size), shape(g), *corners, None, None)
    yield from both(run, [gradient], lambda: run(gradient[:1].double()))


def shuffle(op, p):
    r = p["factor"]
    if op.endswith("_backward"):
        x = image(p, p["channels"], p["height"] * r, p["width"] * r)
        run = lambda x: F.pixel_unshuffle(x, r).contiguous()
    else:
        x = image(p, p["channels"] * r * r, p["height"], p["width"])
        run = lambda x: F.pixel_shuffle(x, r).contiguous()
    yield from both(run, [x], lambda: run(x[:1].double()))


def transposed(op, p):
    k, sizes = p["kernel"], {name: p[name] for name in ("stride", "padding", "output_padding")}
    dtype = DTYPES[p["dtype"]]
    x = image(p, p["in_channels"], p["height"], p["width"])
    weight = torch.rand(p["in_channels"], p["out_channels"], k, k, device="cuda").mul_(2).sub_(1).to(dtype)
    bias = torch.rand(p["out_channels"], device="cuda").to(dtype)
    forward = lambda x, w, b: F.conv_transpose2d(x, w, b, **sizes)
    if not op.endswith("_backward"):
        # The f64 of one image's few channels; cuDNN is let use tf32, as is its default for convolutions.
        exact = lambda: forward(x[:1].double(), weight.double(), bias.double())
        yield from both(forward, [x, weight, bias], exact)
        return
    gradient = torch.rand_like(forward(x, weight, bias))
    parameters = ([p["out_channels"]], [p["stride"]] * 2, [p["padding"]] * 2, [1, 1], True, [p["output_padding"]] * 2)
    run = lambda g, x, w: torch.ops.aten.convolution_backward(g, x, w, *parameters, 1, [True, True, True])
    # d_input of the first image; the same call makes the gradients of the weights.
    exact = lambda: run(gradient[:1].double(), x[:1].double(), weight.double())[0]
    yield "eager", lambda: run(gradient, x, weight), lambda: relative_rms(run(gradient, x, weight)[0][:1], exact())


def unpool(op, p):
    if p["places"] != "windows" or op.endswith("_backward"):
        raise NotThisCase
    k = p["window"]
    pooled, places = F.max_pool2d(image(p, p["channels"], p["height"] * k, p["width"] * k).float(), k, return_indices=True)
    pooled = pooled.to(DTYPES[p["dtype"]])
    run = lambda x: F.max_unpool2d(x, places, k)
    exact = lambda: F.max_unpool2d(pooled[:1].double(), places[:1], k)
    yield "eager", lambda: run(pooled), lambda: relative_rms(run(pooled)[:1], exact())


def upsample_peers(op, p):
    of = {"pixel": shuffle, "transposed": transposed, "unpool": unpool}
    yield from of.get(op.split(".")[1].split("_")[0], resize)(op, p)


if __name__ == "__main__":
    pytorch.PEERS = {"upsample": upsample_peers}
    pytorch.main()
