//! Plans of attention.backward.

use touchstone_reference::{
    Case, DType, Tensors,
    attention::{Problem, backward::Params},
};

use super::{blocks, kind_of, mask_of, tile_dim};
use crate::{
    plan::{Arg, BufferId, Plan},
    variant::Unsupported,
};

/// Inputs, outputs and the row sums `do · o`, which all variants share.
struct Buffers {
    q: BufferId,
    k: BufferId,
    v: BufferId,
    o: BufferId,
    lse: BufferId,
    d_o: BufferId,
    dq: BufferId,
    dk: BufferId,
    dv: BufferId,
    delta: BufferId,
}

impl Buffers {
    fn new(plan: &mut Plan, problem: &Problem, inputs: &Tensors) -> Self {
        let Problem { batch, seq_q, seq_k, heads_q, heads_kv, head_dim, dtype, .. } = *problem;
        Self {
            q: plan.input(inputs, "q"),
            k: plan.input(inputs, "k"),
            v: plan.input(inputs, "v"),
            o: plan.input(inputs, "o"),
            lse: plan.input(inputs, "lse"),
            d_o: plan.input(inputs, "do"),
            dq: plan.output("dq", dtype, &[batch, seq_q, heads_q, head_dim]),
            dk: plan.output("dk", dtype, &[batch, seq_k, heads_kv, head_dim]),
            dv: plan.output("dv", dtype, &[batch, seq_k, heads_kv, head_dim]),
            delta: plan.scratch("delta", DType::F32, &[batch, heads_q, seq_q]),
        }
    }
}

/// Probabilities and score gradients in memory.
pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "attention_backward_naive";
    let problem = case.params::<Params>()?.problem();
    let Problem { batch, seq_q, seq_k, heads_q, heads_kv, head_dim, .. } = problem;
    let suffix = problem.dtype.name();
    let rows = batch * heads_q * seq_q;
    let (causal, window) = mask_of(&problem);
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &problem, inputs);
    let p = plan.scratch("p", DType::F32, &[batch, heads_q, seq_q, seq_k]);
    let ds = plan.scratch("ds", DType::F32, &[batch, heads_q, seq_q, seq_k]);
    let sizes = [batch, seq_q, seq_k, heads_q, heads_kv, head_dim].map(Arg::from);
    let scale = [Arg::F32(problem.scale as f32)];
    let mut step = |name: &str, items: usize, buffers: &[BufferId], rest: &[&[Arg]]| {
        let buffers: Vec<Arg> = buffers.iter().map(|&id| id.into()).collect();
        let args = [&buffers[..], &rest.concat()].concat();
        let grid = [blocks(items, 256)?, 1, 1];
        plan.launch(MODULE, format!("{name}_{suffix}"), grid, [256, 1, 1], 0, &args);
        Ok::<(), Unsupported>(())
    };
    let row_sizes = [batch, seq_q, heads_q, head_dim].map(Arg::from);
    step("delta", rows, &[at.d_o, at.o, at.delta], &[&row_sizes])?;
    let of_pairs = [at.q, at.k, at.v, at.d_o, at.lse, at.delta, p, ds];
    let mask = [causal.into(), window.into()];
    step("pairs", rows * seq_k, &of_pairs, &[&sizes, &mask, &scale])?;
    step("dq", rows * head_dim, &[ds, at.k, at.dq], &[&sizes, &scale])?;
    let gradients = batch * seq_k * heads_kv * head_dim;
    step("dk_dv", gradients, &[p, ds, at.q, at.d_o, at.dk, at.dv], &[&sizes, &scale])?;
    Ok(plan)
}

/// Tiles on CUDA cores.
pub(super) fn online(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "attention_backward_online";
    /// Rows of the block's own tiles (queries for dq, keys for dk and dv) and of those it walks over.
    const OWN: usize = 64;
    const OTHER: usize = 32;
    let problem = case.params::<Params>()?.problem();
    let tile = tile_dim(&problem, 4)?;
    let Problem { batch, seq_q, seq_k, heads_q, heads_kv, head_dim, .. } = problem;
    let (causal, window) = mask_of(&problem);
    let kind = kind_of(problem.dtype);
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &problem, inputs);

    let mut args = [at.d_o, at.o, at.delta].map(Arg::from).to_vec();
    args.push(kind.into());
    args.extend([batch, seq_q, heads_q, head_dim].map(Arg::from));
    let grid = [blocks(batch * heads_q * seq_q, 8)?, 1, 1];
    plan.launch(MODULE, "delta", grid, [256, 1, 1], 0, &args);

    let tiles_bytes = 4 * 2 * (OWN + OTHER) * (tile + 4);
    let weights_bytes = 4 * OWN * (OTHER + 4);
    let mut rest = vec![kind.into()];
    rest.extend([seq_q, seq_k, heads_q, heads_kv].map(Arg::from));
    rest.extend([Arg::I32(head_dim as i32), causal.into(), window.into(), Arg::F32(problem.scale as f32)]);
    let mut step = |name: &str, tiles: usize, weights: usize, outputs: &[BufferId]| {
        let mut args = [at.q, at.k, at.v, at.d_o, at.lse, at.delta].map(Arg::from).to_vec();
        args.extend(outputs.iter().map(|&id| Arg::from(id)));
        args.extend(&rest);
        let shared_bytes = tiles_bytes + weights * weights_bytes;
        let symbol = format!("{name}_d{tile}");
        plan.launch(MODULE, symbol, [blocks(tiles, 1)?, 1, 1], [256, 1, 1], shared_bytes, &args);
        Ok::<(), Unsupported>(())
    };
    step("dq", batch * heads_q * seq_q.div_ceil(OWN), 1, &[at.dq])?;
    step("dk_dv", batch * heads_kv * seq_k.div_ceil(OWN), 2, &[at.dk, at.dv])?;
    Ok(plan)
}
