//! State-space models: scans along the sequence.

use touchstone_reference::DType;

use crate::{
    plan::{Arg, Plan, blocks},
    variant::{Unsupported, Variant},
};

mod matrix;
mod recurrence;
mod s4d;
mod selective;
mod selective_backward;

/// The variants of this vertical, in ladder order.
pub static VARIANTS: &[Variant] = &[
    Variant {
        op: "ssm.selective",
        name: "sequential",
        idea: "one thread a channel, states in memory",
        deterministic: true,
        plan: |case, inputs| selective::plan(case, inputs, &selective::SEQUENTIAL),
    },
    Variant {
        op: "ssm.selective",
        name: "block_scan",
        idea: "one block a channel scans 512 steps in parallel, state by state",
        deterministic: true,
        plan: |case, inputs| selective::plan(case, inputs, &selective::BLOCK_SCAN),
    },
    Variant {
        op: "ssm.selective",
        name: "staged",
        idea: "one thread a channel, 16 states in registers, tiles staged in shared memory",
        deterministic: true,
        plan: |case, inputs| selective::plan(case, inputs, &selective::STAGED),
    },
    Variant {
        op: "ssm.selective",
        name: "split",
        idea: "as staged, with four threads a channel to hide latency",
        deterministic: true,
        plan: |case, inputs| selective::plan(case, inputs, &selective::SPLIT),
    },
    Variant {
        op: "ssm.selective",
        name: "prepared",
        idea: "as split, with all that is not states computed once an element, before and after a tile's scan",
        deterministic: true,
        plan: selective::prepared,
    },
    Variant {
        op: "ssm.selective",
        name: "chunked",
        idea: "chunks of the sequence scanned at the same time and joined by their states",
        deterministic: true,
        plan: selective::chunked,
    },
    Variant {
        op: "ssm.selective_backward",
        name: "sequential",
        idea: "one thread a channel, all states kept in memory",
        deterministic: true,
        plan: selective_backward::sequential,
    },
    Variant {
        op: "ssm.selective_backward",
        name: "checkpoint",
        idea: "keeps every eighth state, recomputes the rest in registers",
        deterministic: true,
        plan: selective_backward::checkpoint,
    },
    Variant {
        op: "ssm.selective_backward",
        name: "paired",
        idea: "as checkpoint, with two channels a thread, so that half as much crosses between threads",
        deterministic: true,
        plan: selective_backward::paired,
    },
    Variant {
        op: "ssm.recurrence",
        name: "sequential",
        idea: "one thread a channel",
        deterministic: true,
        plan: |case, inputs| recurrence::forward(case, inputs, &recurrence::SEQUENTIAL),
    },
    Variant {
        op: "ssm.recurrence",
        name: "block_scan",
        idea: "one block a sequence and 32 channels scans 128 steps in parallel",
        deterministic: true,
        plan: |case, inputs| recurrence::forward(case, inputs, &recurrence::BLOCK_SCAN),
    },
    Variant {
        op: "ssm.recurrence",
        name: "lookback",
        idea: "one pass over tiles of time, carried by decoupled look-back to fixed anchors",
        deterministic: true,
        plan: |case, inputs| recurrence::forward(case, inputs, &recurrence::LOOKBACK),
    },
    Variant {
        op: "ssm.recurrence",
        name: "staged",
        idea: "tiles of time stream through shared memory, several ahead of the scan",
        deterministic: true,
        plan: |case, inputs| recurrence::forward(case, inputs, &recurrence::STAGED),
    },
    Variant {
        op: "ssm.recurrence_backward",
        name: "sequential",
        idea: "one thread a channel",
        deterministic: true,
        plan: |case, inputs| recurrence::backward(case, inputs, &recurrence::SEQUENTIAL),
    },
    Variant {
        op: "ssm.recurrence_backward",
        name: "block_scan",
        idea: "one block a sequence and 32 channels scans 128 steps in parallel",
        deterministic: true,
        plan: |case, inputs| recurrence::backward(case, inputs, &recurrence::BLOCK_SCAN),
    },
    Variant {
        op: "ssm.recurrence_backward",
        name: "lookback",
        idea: "one pass over tiles of time, carried by decoupled look-back to fixed anchors",
        deterministic: true,
        plan: |case, inputs| recurrence::backward(case, inputs, &recurrence::LOOKBACK),
    },
    Variant {
        op: "ssm.recurrence_backward",
        name: "staged",
        idea: "tiles of time stream through shared memory, several ahead of the scan",
        deterministic: true,
        plan: |case, inputs| recurrence::backward(case, inputs, &recurrence::STAGED),
    },
    Variant {
        op: "ssm.ssd",
        name: "sequential",
        idea: "one warp a row of the state",
        deterministic: true,
        plan: |case, inputs| matrix::ssd(case, inputs)?.sequential(),
    },
    Variant {
        op: "ssm.ssd",
        name: "chunked",
        idea: "tensor cores within chunks of 64 steps, the state in registers from chunk to chunk",
        deterministic: true,
        plan: |case, inputs| matrix::ssd(case, inputs)?.chunked(inputs),
    },
    Variant {
        op: "ssm.ssd",
        name: "warpgroup",
        idea: "as chunked, transposed, with products of whole warpgroups and tiles of two chunks in flight",
        deterministic: true,
        plan: |case, inputs| matrix::ssd(case, inputs)?.warpgroup(inputs),
    },
    Variant {
        op: "ssm.retention",
        name: "sequential",
        idea: "one warp a row of the state",
        deterministic: true,
        plan: |case, inputs| matrix::retention(case, inputs)?.sequential(),
    },
    Variant {
        op: "ssm.retention",
        name: "chunked",
        idea: "tensor cores within chunks of 64 steps, the state in registers from chunk to chunk",
        deterministic: true,
        plan: |case, inputs| matrix::retention(case, inputs)?.chunked(inputs),
    },
    Variant {
        op: "ssm.retention",
        name: "warpgroup",
        idea: "as chunked, transposed, with products of whole warpgroups and tiles of two chunks in flight",
        deterministic: true,
        plan: |case, inputs| matrix::retention(case, inputs)?.warpgroup(inputs),
    },
    Variant {
        op: "ssm.gated_linear_attention",
        name: "sequential",
        idea: "one warp a row of the state",
        deterministic: true,
        plan: |case, inputs| matrix::gated(case, inputs)?.sequential(),
    },
    Variant {
        op: "ssm.gated_linear_attention",
        name: "chunked",
        idea: "decays become factors of q and k, then tensor cores as for retention",
        deterministic: true,
        plan: |case, inputs| matrix::gated(case, inputs)?.chunked(inputs),
    },
    Variant {
        op: "ssm.gated_linear_attention",
        name: "warpgroup",
        idea: "as chunked, transposed, with products of whole warpgroups and tiles of two chunks in flight",
        deterministic: true,
        plan: |case, inputs| matrix::gated(case, inputs)?.warpgroup(inputs),
    },
    Variant {
        op: "ssm.rwkv7",
        name: "sequential",
        idea: "one warp a row of the state",
        deterministic: true,
        plan: |case, inputs| matrix::rwkv7(case, inputs)?.sequential(),
    },
    Variant {
        op: "ssm.rwkv7",
        name: "staged",
        idea: "one block a head, the state in registers, vectors staged 8 steps ahead",
        deterministic: true,
        plan: |case, inputs| matrix::rwkv7(case, inputs)?.staged(),
    },
    Variant {
        op: "ssm.s4d",
        name: "scan",
        idea: "one warp a channel, its lanes the states",
        deterministic: true,
        plan: s4d::scan,
    },
    Variant {
        op: "ssm.s4d",
        name: "fft",
        idea: "convolution with the kernel by transforms in shared memory, two sequences at once",
        deterministic: true,
        plan: s4d::fft,
    },
];

/// Threads of a block where a kernel gives every output element or row one thread.
const THREADS: usize = 128;

/// Refuses a state size or element type beyond what a variant is built for.
fn within(state: usize, dtype: DType, most: usize, dtypes: &[DType]) -> Result<(), Unsupported> {
    if state > most {
        return Err(Unsupported(format!("state {state} is above {most}")));
    }
    if !dtypes.contains(&dtype) {
        return Err(Unsupported(format!("no kernel for {}", dtype.name())));
    }
    Ok(())
}

/// Adds `out[outer, inner] = Σ_count parts[outer, count, inner]`.
fn sum(
    plan: &mut Plan,
    parts: Arg,
    out: Arg,
    [outer, count, inner]: [usize; 3],
) -> Result<(), Unsupported> {
    let grid = blocks((outer * inner).div_ceil(THREADS))?;
    let args = [parts, out, outer.into(), count.into(), inner.into()];
    plan.launch("ssm_sum", "sum", grid, [THREADS, 1, 1], 0, &args);
    Ok(())
}
