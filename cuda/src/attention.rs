//! attention: CUDA variants of this vertical.

use touchstone_reference::{
    DType,
    attention::{Mask, Problem},
};

use crate::{
    plan::{Arg, BufferId, MapId, Plan, kind_of},
    simulator::numeric::tensor::{Fetch, Swizzle, TensorMap},
    variant::{Unsupported, Variant},
};

mod backward;
mod decode;
mod forward;
mod fp8;

/// The variants of this vertical, in ladder order.
pub static VARIANTS: &[Variant] = &[
    Variant {
        op: "attention.forward",
        name: "naive",
        idea: "all scores in memory, a softmax of each row, then the product with V",
        deterministic: true,
        plan: forward::naive,
    },
    Variant {
        op: "attention.forward",
        name: "online",
        idea: "tile by tile with an online softmax on CUDA cores; scores are never written",
        deterministic: true,
        plan: forward::online,
    },
    Variant {
        op: "attention.forward",
        name: "tensor_core",
        idea: "tile by tile with both products on tensor cores (mma.sync), K and V double-buffered",
        deterministic: true,
        plan: forward::tensor_core,
    },
    Variant {
        op: "attention.forward",
        name: "warp_specialized",
        idea: "wgmma and tensor copies: one warpgroup draws units and copies, others compute, a softmax beside products",
        deterministic: true,
        plan: forward::warp_specialized,
    },
    Variant {
        op: "attention.forward",
        name: "split_kv",
        idea: "few queries: the keys of a unit split over blocks, the heads of a group packed side by side",
        deterministic: true,
        plan: forward::split_kv,
    },
    Variant {
        op: "attention.backward",
        name: "naive",
        idea: "probabilities and score gradients of all pairs in memory, then one product each",
        deterministic: true,
        plan: backward::naive,
    },
    Variant {
        op: "attention.backward",
        name: "online",
        idea: "probabilities recomputed tile by tile; one kernel owns queries, one owns keys",
        deterministic: true,
        plan: backward::online,
    },
    Variant {
        op: "attention.backward",
        name: "warpgroup",
        idea: "wgmma and tensor copies; probabilities stay in the registers of the side whose gradients are summed",
        deterministic: true,
        plan: backward::warpgroup,
    },
    Variant {
        op: "attention.backward",
        name: "atomic",
        idea: "one pass: scores computed once, where keys are owned; what they are to dQ is added atomically",
        deterministic: false,
        plan: backward::atomic,
    },
    Variant {
        op: "attention.decode",
        name: "naive",
        idea: "one block a query head, a pass over the keys and a pass over the values",
        deterministic: true,
        plan: decode::naive,
    },
    Variant {
        op: "attention.decode",
        name: "split_kv",
        idea: "the keys of a sequence split over many blocks, each row read once for its group of heads",
        deterministic: true,
        plan: decode::split_kv,
    },
    Variant {
        op: "attention.decode",
        name: "tensor_core",
        idea: "rows of K and V straight from memory into tensor-core operands; the last block combines the splits",
        deterministic: true,
        plan: decode::tensor_core,
    },
    Variant {
        op: "attention.decode",
        name: "persistent",
        idea: "even shares of all sequences' keys, a block a multiprocessor; the copy engine runs ahead of tensor cores",
        deterministic: true,
        plan: decode::persistent,
    },
    Variant {
        op: "attention.fp8",
        name: "naive",
        idea: "all scores in memory, a softmax of each row rounded to e4m3, then the product with V",
        deterministic: true,
        plan: fp8::naive,
    },
    Variant {
        op: "attention.fp8",
        name: "warp_specialized",
        idea: "8-bit wgmma: keys fetched in the order that the second product wants, its sums kept in f32",
        deterministic: true,
        plan: fp8::warp_specialized,
    },
];

/// Blocks of a persistent grid: one a multiprocessor of an H100 or H200. On another number they share or idle.
const PERSISTENT_BLOCKS: usize = 132;
/// Heads whose keys and values together stay in the L2 cache are worked on at a time.
const SECTION_BYTES: usize = 24 << 20;

/// Heads whose K and V, of `value_bytes` a value, have `bytes` together: whole groups, one at least, and no more than
/// there are.
fn section(problem: &Problem, value_bytes: usize, bytes: usize) -> usize {
    let Problem { batch, seq_k, heads_q, head_dim, .. } = *problem;
    let of_head = (2 * value_bytes * seq_k * head_dim).max(1);
    ((bytes / of_head).max(1) * problem.group()).min((batch * heads_q).max(1))
}

/// Units of a causal mask differ, so blocks draw them from this counter; a block's first is its own.
fn drawn(plan: &mut Plan, causal: i32, units: usize) -> Option<BufferId> {
    (causal != 0 && units > PERSISTENT_BLOCKS).then(|| {
        let drawn = plan.scratch("drawn", DType::I32, &[1]);
        plan.fill(drawn, 0);
        drawn
    })
}

/// Keys a causal query may look back to when there is no window: beyond every sequence.
const NO_WINDOW: usize = 1 << 29;

/// The mask as kernels take it: whether it is causal, and the window.
fn mask_of(problem: &Problem) -> (i32, usize) {
    match problem.mask {
        Mask::Full => (0, NO_WINDOW),
        Mask::Causal => (1, NO_WINDOW),
        Mask::Window => (1, problem.window),
    }
}

/// How kernels take a score of x = q · k: `scale · x`, or with a soft cap `scale · tanh(squeeze · x)`. Gives scale and
/// squeeze, which is 0 without a cap.
fn score_of(problem: &Problem) -> [Arg; 2] {
    let Problem { scale, softcap, .. } = *problem;
    let (scale, squeeze) = if softcap > 0.0 { (softcap, scale / softcap) } else { (scale, 0.0) };
    [Arg::F32(scale as f32), Arg::F32(squeeze as f32)]
}

/// Values of a head in a kernel's tiles, 64 or 128: smaller heads are followed by zeros. Refuses head sizes that do not
/// fit, or that vectors of `multiple` values do not divide.
fn tile_dim(problem: &Problem, multiple: usize) -> Result<usize, Unsupported> {
    let dim = problem.head_dim;
    if dim > 128 || !dim.is_multiple_of(multiple) {
        return Err(Unsupported(format!(
            "head_dim {dim} is not a multiple of {multiple} up to 128"
        )));
    }
    Ok(if dim > 64 { 128 } else { 64 })
}

/// The map by which the copy engine fetches `rows` rows by 64 values of a head from `[batch, seq, heads, head_dim]` of
/// 16 bits, each row swizzled over 128 bytes; rows and values outside are zeros.
fn head_map(
    plan: &mut Plan,
    buffer: BufferId,
    [batch, seq, heads, head_dim]: [usize; 4],
    rows: usize,
) -> Result<MapId, Unsupported> {
    plan.tensor_map(buffer, head_tensor([batch, seq, heads, head_dim], rows))
}

/// The same of what is read in boxes of 128 bytes a row, one half of a row after the other: fetched together, both would be
/// fetched twice.
fn fetched_map(
    plan: &mut Plan,
    buffer: BufferId,
    shape: [usize; 4],
    rows: usize,
) -> Result<MapId, Unsupported> {
    let map = TensorMap { fetch: Fetch::Bytes128, ..head_tensor(shape, rows) };
    plan.tensor_map(buffer, map)
}

/// That map, of any buffer.
fn head_tensor([batch, seq, heads, head_dim]: [usize; 4], rows: usize) -> TensorMap {
    let (row, head) = (heads * head_dim * 2, head_dim * 2);
    let (dims, strides) = ([head_dim, heads, seq, batch], [head, row, row * seq]);
    swizzled(2, &dims, &strides, &[64, 1, rows, 1])
}

/// A map of boxes of elements of so many bytes, their innermost rows of up to 128 bytes swizzled.
fn swizzled_map(
    plan: &mut Plan,
    buffer: BufferId,
    element_bytes: u32,
    dims: &[usize],
    strides_bytes: &[usize],
    box_dims: &[usize],
) -> Result<MapId, Unsupported> {
    plan.tensor_map(buffer, swizzled(element_bytes, dims, strides_bytes, box_dims))
}

/// That map, of any buffer.
fn swizzled(
    element_bytes: u32,
    dims: &[usize],
    strides_bytes: &[usize],
    box_dims: &[usize],
) -> TensorMap {
    TensorMap {
        address: 0,
        element_bytes,
        dims: dims.iter().map(|&n| n as u64).collect(),
        strides_bytes: strides_bytes.iter().map(|&n| n as u64).collect(),
        box_dims: box_dims.iter().map(|&n| n as u32).collect(),
        element_strides: vec![1; dims.len()],
        swizzle: Swizzle::Bytes128,
        ..TensorMap::default()
    }
}

/// Blocks of `threads` threads for `items` items, if a grid can hold them.
fn blocks(items: usize, threads: usize) -> Result<usize, Unsupported> {
    let blocks = items.div_ceil(threads);
    if blocks > i32::MAX as usize {
        return Err(Unsupported(format!("{items} items need more blocks than a grid has")));
    }
    Ok(blocks)
}
