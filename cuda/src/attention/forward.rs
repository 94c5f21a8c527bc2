//! Plans of attention.forward.

use touchstone_reference::{
    Case, DType, Tensors,
    attention::{Problem, forward::Params},
};

use super::{blocks, kind_of, mask_of, require_head_dim};
use crate::{
    plan::{Arg, BufferId, Plan},
    variant::Unsupported,
};

/// Inputs and outputs, which all variants share.
struct Buffers {
    q: BufferId,
    k: BufferId,
    v: BufferId,
    lengths_q: BufferId,
    lengths_k: BufferId,
    o: BufferId,
    lse: BufferId,
}

impl Buffers {
    fn new(plan: &mut Plan, problem: &Problem, inputs: &Tensors) -> Self {
        let Problem { batch, seq_q, heads_q, head_dim, dtype, .. } = *problem;
        Self {
            q: plan.input(inputs, "q"),
            k: plan.input(inputs, "k"),
            v: plan.input(inputs, "v"),
            lengths_q: plan.input(inputs, "lengths_q"),
            lengths_k: plan.input(inputs, "lengths_k"),
            o: plan.output("o", dtype, &[batch, seq_q, heads_q, head_dim]),
            lse: plan.output("lse", DType::F32, &[batch, heads_q, seq_q]),
        }
    }
}

/// The scores in memory.
pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "attention_naive";
    let problem = case.params::<Params>()?.problem();
    let Problem { batch, seq_q, seq_k, heads_q, heads_kv, head_dim, .. } = problem;
    let suffix = problem.dtype.name();
    let rows = batch * heads_q * seq_q;
    let (causal, window) = mask_of(&problem);
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &problem, inputs);
    let scores = plan.scratch("scores", DType::F32, &[batch, heads_q, seq_q, seq_k]);
    let sizes = [batch, seq_q, seq_k, heads_q, heads_kv, head_dim].map(Arg::from);

    let inputs = [at.q, at.k, at.lengths_q, at.lengths_k, scores].map(Arg::from);
    let mask = [causal.into(), window.into()];
    let scale = [Arg::F32(problem.scale as f32)];
    let args = [&inputs[..], &sizes, &mask, &scale].concat();
    let grid = [blocks(rows * seq_k, 256)?, 1, 1];
    plan.launch(MODULE, format!("scores_{suffix}"), grid, [256, 1, 1], 0, &args);

    let args = [scores.into(), at.lse.into(), seq_k.into()];
    plan.launch(MODULE, "softmax", [blocks(rows, 1)?, 1, 1], [128, 1, 1], 0, &args);

    let inputs = [scores, at.v, at.lengths_q, at.lengths_k, at.o].map(Arg::from);
    let args = [&inputs[..], &sizes, &mask].concat();
    let grid = [blocks(rows * head_dim, 256)?, 1, 1];
    plan.launch(MODULE, format!("product_{suffix}"), grid, [256, 1, 1], 0, &args);
    Ok(plan)
}

/// Tiles on CUDA cores.
pub(super) fn online(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let problem = case.params::<Params>()?.problem();
    require_head_dim(&problem, &[32, 64, 128])?;
    let (dim, queries) = (problem.head_dim, 64);
    let keys = if dim > 64 { 32 } else { 64 };
    let floats = (queries + 2 * keys) * (dim + 4) + queries * (keys + 4);
    let tiling = Tiling {
        module: "attention_online",
        symbol: format!("forward_d{dim}"),
        queries,
        threads: 256,
        shared_bytes: 4 * floats,
        kind: Some(kind_of(problem.dtype)),
    };
    tiled(&problem, inputs, tiling)
}

/// Tiles on tensor cores.
pub(super) fn tensor_core(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let problem = case.params::<Params>()?.problem();
    require_head_dim(&problem, &[64, 128])?;
    if problem.dtype == DType::F32 {
        return Err(Unsupported("tensor cores take f16 and bf16, not f32".into()));
    }
    let (dim, queries, keys) = (problem.head_dim, 128, 64);
    let tiling = Tiling {
        module: "attention_tensor_core",
        symbol: format!("forward_d{dim}_{}", problem.dtype.name()),
        queries,
        threads: 128,
        shared_bytes: 2 * dim * (queries + 4 * keys),
        kind: None,
    };
    tiled(&problem, inputs, tiling)
}

/// What sets apart kernels that walk over the keys for a tile of queries.
struct Tiling {
    module: &'static str,
    symbol: String,
    /// Queries of a block.
    queries: usize,
    threads: usize,
    shared_bytes: usize,
    /// Element type, where the kernel takes it as an argument.
    kind: Option<i32>,
}

fn tiled(problem: &Problem, inputs: &Tensors, tiling: Tiling) -> Result<Plan, Unsupported> {
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, problem, inputs);
    let (causal, window) = mask_of(problem);
    let mut args: Vec<Arg> =
        [at.q, at.k, at.v, at.lengths_q, at.lengths_k, at.o, at.lse].map(Arg::from).to_vec();
    args.extend(tiling.kind.map(Arg::from));
    let sizes = [problem.seq_q, problem.seq_k, problem.heads_q, problem.heads_kv];
    args.extend(sizes.map(Arg::from));
    args.extend([causal.into(), window.into(), Arg::F32(problem.scale as f32)]);
    let tiles = problem.seq_q.div_ceil(tiling.queries);
    let grid = [blocks(tiles * problem.batch * problem.heads_q, 1)?, 1, 1];
    let block = [tiling.threads, 1, 1];
    plan.launch(tiling.module, tiling.symbol, grid, block, tiling.shared_bytes, &args);
    Ok(plan)
}
