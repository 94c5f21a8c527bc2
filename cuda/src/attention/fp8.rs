//! Plans of attention.fp8.

use touchstone_reference::{
    Case, DType, Data, Tensor, Tensors,
    attention::{
        Problem,
        fp8::{BLOCK, Params},
    },
};

use super::{
    PERSISTENT_BLOCKS, SECTION_BYTES, blocks, drawn, head_map, mask_of, section, swizzled_map,
};
use crate::{
    plan::{Arg, BufferId, MapId, Plan},
    variant::Unsupported,
};

/// Inputs and outputs, which all variants share.
struct Buffers {
    values: [BufferId; 3],
    scales: [BufferId; 3],
    lengths: [BufferId; 2],
    o: BufferId,
    lse: BufferId,
}

impl Buffers {
    fn new(plan: &mut Plan, problem: &Problem, inputs: &Tensors) -> Self {
        let Problem { batch, seq_q, heads_q, head_dim, dtype, .. } = *problem;
        let mut input = |name| plan.input(inputs, name);
        Self {
            values: ["q", "k", "v"].map(&mut input),
            scales: ["q_scale", "k_scale", "v_scale"].map(&mut input),
            lengths: ["lengths_q", "lengths_k"].map(&mut input),
            o: plan.output("o", dtype, &[batch, seq_q, heads_q, head_dim]),
            lse: plan.output("lse", DType::F32, &[batch, heads_q, seq_q]),
        }
    }
}

/// The scores in memory.
pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "attention_fp8_naive";
    let problem = case.params::<Params>()?.problem();
    let Problem { batch, seq_q, seq_k, heads_q, heads_kv, head_dim, .. } = problem;
    let rows = batch * heads_q * seq_q;
    let (causal, window) = mask_of(&problem);
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &problem, inputs);
    let ([q, k, v], [q_scale, k_scale, v_scale]) = (at.values, at.scales);
    let [lengths_q, lengths_k] = at.lengths;
    let scores = plan.scratch("scores", DType::F32, &[batch, heads_q, seq_q, seq_k]);
    let total = plan.scratch("total", DType::F32, &[batch, heads_q, seq_q]);
    let sizes = [batch, seq_q, seq_k, heads_q, heads_kv, head_dim].map(Arg::from);
    let mask = [causal.into(), window.into()];

    let inputs = [q, k, q_scale, k_scale, lengths_q, lengths_k, scores].map(Arg::from);
    let args = [&inputs[..], &sizes, &mask, &[Arg::F32(problem.scale as f32)]].concat();
    let grid = [blocks(rows * seq_k, 256)?, 1, 1];
    plan.launch(MODULE, "scores", grid, [256, 1, 1], 0, &args);

    let args = [scores.into(), total.into(), at.lse.into(), seq_k.into()];
    plan.launch(MODULE, "softmax", [blocks(rows, 1)?, 1, 1], [128, 1, 1], 0, &args);

    let inputs = [scores, total, v, v_scale, lengths_q, lengths_k, at.o].map(Arg::from);
    let args = [&inputs[..], &sizes, &mask].concat();
    let grid = [blocks(rows * head_dim, 256)?, 1, 1];
    plan.launch(MODULE, format!("product_{}", problem.dtype.name()), grid, [256, 1, 1], 0, &args);
    Ok(plan)
}

/// Keys of a tile, and queries of a unit of work: those that share a scale.
const TILE: usize = BLOCK;
/// Values of a head in the tiles; smaller heads are followed by zeros in Q and V.
const TILE_DIM: usize = 128;

/// How the copy engine fetches the tiles of q, k and v, and writes o. Keys come in the order in which a thread's scores are
/// the operand of the product with V: of every 16, key `4t + 2h + e` in row `8h + 2t + e`, by dimensions e, t and h of
/// their own.
fn maps(plan: &mut Plan, problem: &Problem, at: &Buffers) -> Result<[MapId; 4], Unsupported> {
    let Problem { batch, seq_q, seq_k, heads_q, heads_kv, head_dim, .. } = *problem;
    let ([q, k, v], row, key) = (at.values, heads_q * head_dim, heads_kv * head_dim);
    let of_queries = [head_dim, heads_q, seq_q, batch];
    let of_keys = [key, 2, 4, 2, batch * seq_k / 16];
    let of_values = [seq_k, head_dim, heads_kv, batch];
    let (query_strides, key_strides) =
        ([head_dim, row, row * seq_q], [key, 4 * key, 2 * key, 16 * key]);
    let value_strides = [seq_k, head_dim * seq_k, key * seq_k];
    let (of_keys_box, of_values_box) = ([TILE_DIM, 2, 4, 2, TILE / 16], [TILE, TILE_DIM, 1, 1]);
    Ok([
        swizzled_map(plan, q, 1, &of_queries, &query_strides, &[TILE_DIM, 1, TILE, 1])?,
        swizzled_map(plan, k, 1, &of_keys, &key_strides, &of_keys_box)?,
        swizzled_map(plan, v, 1, &of_values, &value_strides, &of_values_box)?,
        head_map(plan, at.o, [batch, seq_q, heads_q, head_dim], 16)?,
    ])
}

/// How far apart V's scales of a head may be: what was summed is kept in units of the scale at hand.
const SCALES_APART: f32 = (1_u128 << 64) as f32;

/// Whether a head's sums can be kept in units of any of V's scales.
fn scales_are_near(scales: &Tensor, blocks: usize) -> bool {
    let Data::F32(scales) = scales.data() else { return false };
    scales.chunks(blocks.max(1)).all(|head| {
        let least = head.iter().copied().fold(f32::INFINITY, f32::min);
        let most = head.iter().copied().fold(0.0, f32::max);
        head.iter().all(|&scale| scale > 0.0) && most <= least * SCALES_APART
    })
}

/// One warpgroup copies, two compute, on 8-bit tensor cores.
pub(super) fn warp_specialized(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    /// Stages of keys and of values, and units whose queries fit into shared memory.
    const STAGES: usize = 4;
    const SLOTS: usize = 2;
    let problem = case.params::<Params>()?.problem();
    let Problem { batch, seq_q, seq_k, heads_q, heads_kv, head_dim, .. } = problem;
    if head_dim > TILE_DIM || !head_dim.is_multiple_of(16) {
        return Err(Unsupported(format!("head_dim {head_dim} is not a multiple of 16 up to 128")));
    }
    if !seq_k.is_multiple_of(16) {
        return Err(Unsupported(format!("seq_k {seq_k} is not a multiple of 16")));
    }
    let units = seq_q.div_ceil(TILE) * batch * heads_q;
    if units.max(batch * seq_k).max(batch * heads_kv * seq_k.div_ceil(TILE)) > i32::MAX as usize {
        return Err(Unsupported("more units of work or keys than 32-bit indices".into()));
    }
    if !scales_are_near(inputs.tensor("v_scale"), seq_k.div_ceil(TILE)) {
        return Err(Unsupported("scales of V in one head that differ by more than 2^64".into()));
    }
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &problem, inputs);
    let maps = maps(&mut plan, &problem, &at)?;
    let (causal, window) = mask_of(&problem);
    let section = section(&problem, 1, SECTION_BYTES);
    let drawn = drawn(&mut plan, causal, units);
    let buffers = [&at.scales[..], &at.lengths, &[at.o, at.lse]].concat();
    let buffers: Vec<Arg> = buffers.into_iter().map(Arg::from).collect();
    let sizes = [batch, seq_q, seq_k, heads_q, heads_kv, head_dim].map(|n| Arg::I32(n as i32));
    let mask = [Arg::I32(causal), Arg::I32(window as i32), Arg::I32(section as i32)];
    let scale = [Arg::F32(problem.scale as f32)];
    let args =
        [&maps.map(Arg::from)[..], &buffers, &sizes, &mask, &scale, &[drawn.into()]].concat();
    // Queries, tiles of K and of V, outputs on their way, barriers, units, and room to begin at a multiple of 1024 bytes.
    let shared_bytes = TILE * TILE_DIM * (SLOTS + 2 * STAGES + 2) + 256 + 1024;
    let (module, symbol) = match problem.dtype {
        DType::F16 => ("attention_fp8_warp_specialized.f16", "forward_d128_f16"),
        _ => ("attention_fp8_warp_specialized", "forward_d128_bf16"),
    };
    let grid = [units.min(PERSISTENT_BLOCKS), 1, 1];
    plan.launch(module, symbol, grid, [384, 1, 1], shared_bytes, &args);
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_of_a_head_are_near_each_other() {
        let near = |scales: &[f32], blocks| {
            scales_are_near(&Tensor::new(&[scales.len()], Data::F32(scales.to_vec())), blocks)
        };
        assert!(near(&[], 0));
        assert!(near(&[1e-30, 1e30], 1));
        assert!(near(&[1.0, SCALES_APART], 2));
        assert!(!near(&[1e-30, 1e30], 2));
        assert!(!near(&[0.0, 1.0], 2) && !near(&[f32::NAN, 1.0], 2));
    }
}
