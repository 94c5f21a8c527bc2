"""Check kernels written in Python, in PyTorch, Triton or anything else, with touchstone.

    import touchstone
    case = touchstone.Case("ssm.recurrence:batch=2,…", device="cuda")
    h = my_kernel(case["a"], case["x"])
    raise SystemExit(case.verify(h=h))            # 0 right, 1 wrong; prints what touchstone says

This file needs only Python; PyTorch when tensors are asked for (`case["a"]`), neither for `case.raw("a")`. The
program is the one that the environment variable TOUCHSTONE names, or `touchstone` on the PATH.
"""

import ctypes
import json
import os
import struct
import subprocess
import tempfile

PROGRAM = os.environ.get("TOUCHSTONE", "touchstone")
TORCH = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "int8", "U8": "uint8",
         "I32": "int32", "U32": "uint32", "I64": "int64", "U64": "uint64"}
NAMES = {name: code for code, name in TORCH.items()}


class Case:
    """One problem: inputs by name, parameters, and the verdict on outputs."""

    def __init__(self, case, device="cpu", inputs=None):
        """Draw the case's inputs, or take those of a safetensors file `inputs`."""
        self.folder = tempfile.TemporaryDirectory()
        self.case, self.device = case, device
        self.given = ["--inputs", inputs] if inputs else []
        path = os.path.join(self.folder.name, "case.safetensors")
        answer = run("export", case, "--out", path, *self.given)
        if answer.returncode != 0:
            raise ValueError(answer.stderr.strip())
        self.tensors, notes = read(path)
        self.about = json.loads(notes["touchstone"])
        self.parameters, self.outputs = self.about["parameters"], self.about["outputs"]

    def raw(self, name):
        """An input as (type, shape, bytes)."""
        return self.tensors["inputs." + name]

    def __getitem__(self, name):
        """An input as a PyTorch tensor on the device."""
        return to_torch(self.raw(name)).to(self.device)

    def verify(self, again=None, **outputs):
        """Print touchstone's verdict on the outputs and return its exit code: 0 right, 1 wrong.

        Outputs are PyTorch tensors, NumPy arrays or (type, shape, bytes). `again` takes those of a second run,
        into memory that held something else before, to see whether the bits repeat.
        """
        arguments = []
        for run_of, named in enumerate([outputs, again] if again else [outputs]):
            path = os.path.join(self.folder.name, f"out{run_of}.safetensors")
            write(path, named)
            arguments += ["--output", path]
        answer = run("verify", self.case, *arguments, *self.given)
        print(answer.stdout, end="")
        if answer.returncode not in (0, 1):
            raise ValueError(answer.stderr.strip())
        return answer.returncode


def run(*arguments):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True)


def read(path):
    """Tensors of a safetensors file as name -> (type, shape, bytes), and its notes."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header, data = json.loads(file.read(size)), file.read()
    notes = header.pop("__metadata__", {})
    cut = lambda info: data[slice(*info["data_offsets"])]
    return {name: (info["dtype"], info["shape"], cut(info)) for name, info in header.items()}, notes


def write(path, tensors):
    """Tensors as a safetensors file."""
    header, parts, end = {}, [], 0
    for name, tensor in tensors.items():
        dtype, shape, data = to_raw(tensor)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(data)]}
        parts.append(data)
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(parts)


def to_torch(raw):
    import torch

    dtype, shape, data = raw
    dtype = getattr(torch, TORCH[dtype])
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return flat.reshape(shape)


def to_raw(tensor):
    if isinstance(tensor, tuple):
        return tensor
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu().contiguous()
        size = tensor.numel() * tensor.element_size()
        data = ctypes.string_at(tensor.data_ptr(), size) if size else b""
        return NAMES[str(tensor.dtype).removeprefix("torch.")], tensor.shape, data
    return NAMES[tensor.dtype.name], tensor.shape, tensor.tobytes()
