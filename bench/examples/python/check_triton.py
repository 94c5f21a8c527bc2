"""A Triton kernel, held against the reference twice, into NaN and into huge numbers. Needs a GPU."""

import sys, torch, triton, triton.language as tl, touchstone


@triton.jit
def recurrence(a, x, h, steps, channels, BLOCK: tl.constexpr):
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    state = tl.zeros((BLOCK,), tl.float32)
    for t in range(steps):
        i = (tl.program_id(1) * steps + t) * channels + c
        state = tl.load(a + i, mask=c < channels) * state + tl.load(x + i, mask=c < channels)
        tl.store(h + i, state, mask=c < channels)


CASE = "ssm.recurrence:batch=3,seq_len=1000,channels=200,field=real,dtype=f32"
case = touchstone.Case((sys.argv + [CASE])[1], device="cuda")
a, x = case["a"], case["x"]
runs = [torch.full_like(x, float("nan")), torch.full_like(x, 1e30)]
for h in runs:
    recurrence[(triton.cdiv(x.shape[2], 128), x.shape[0])](a, x, h, x.shape[1], x.shape[2], BLOCK=128)
sys.exit(case.verify(h=runs[0], again={"h": runs[1]}))
