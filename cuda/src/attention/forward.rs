//! Plans of attention.forward.

use touchstone_reference::{
    Case, DType, Tensors,
    attention::{Problem, forward::Params},
};

use super::{blocks, kind_of, mask_of, require_head_dim, tile_dim};
use crate::{
    plan::{Arg, BufferId, Plan},
    simulator::numeric::tensor::{Swizzle, TensorMap},
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
    let (dim, queries) = (tile_dim(&problem, 4)?, 64);
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
    if problem.dtype == DType::F32 {
        return Err(Unsupported("tensor cores take f16 and bf16, not f32".into()));
    }
    let (dim, queries, keys) = (tile_dim(&problem, 8)?, 128, 64);
    let tiling = Tiling {
        module: match problem.dtype {
            DType::F16 => "attention_tensor_core.f16",
            _ => "attention_tensor_core",
        },
        symbol: format!("forward_d{dim}_{}", problem.dtype.name()),
        queries,
        threads: 128,
        shared_bytes: 2 * dim * (queries + 4 * keys),
        kind: None,
    };
    tiled(&problem, inputs, tiling)
}

/// One warpgroup copies, two compute, on Hopper's own instructions.
pub(super) fn warp_specialized(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    // Blocks of a persistent grid: one a multiprocessor of an H100 or H200. On another number they share or idle.
    const BLOCKS: usize = 132;
    const TILE: usize = 128;
    // Heads whose keys and values together stay in the L2 cache are worked on at a time.
    const SECTION_BYTES: usize = 24 << 20;
    let problem = case.params::<Params>()?.problem();
    let Problem { batch, seq_q, seq_k, heads_q, heads_kv, head_dim, .. } = problem;
    require_head_dim(&problem, &[64, 128])?;
    if problem.dtype == DType::F32 {
        return Err(Unsupported("tensor cores take f16 and bf16, not f32".into()));
    }
    let is_full = |name, seq: usize| inputs.tensor(name).to_i64().iter().all(|&n| n == seq as i64);
    if !is_full("lengths_q", seq_q) || !is_full("lengths_k", seq_k) {
        return Err(Unsupported("tensor copies do not stop at ragged lengths".into()));
    }
    let units = seq_q.div_ceil(TILE) * batch * heads_q;
    if units > i32::MAX as usize || seq_k > i32::MAX as usize - TILE {
        return Err(Unsupported("sizes beyond 32-bit indices".into()));
    }
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &problem, inputs);
    let mut map = |buffer, seq: usize, heads: usize| {
        let (row, element) = ((heads * head_dim) as u64 * 2, head_dim as u64 * 2);
        let map = TensorMap {
            address: 0,
            element_bytes: 2,
            dims: [head_dim, heads, seq, batch].map(|n| n as u64).to_vec(),
            strides_bytes: vec![element, row, row * seq as u64],
            box_dims: vec![64, 1, TILE as u32, 1],
            element_strides: vec![1; 4],
            swizzle: Swizzle::Bytes128,
            ..TensorMap::default()
        };
        plan.tensor_map(buffer, map)
    };
    let maps =
        [map(at.q, seq_q, heads_q)?, map(at.k, seq_k, heads_kv)?, map(at.v, seq_k, heads_kv)?];
    let (causal, window) = mask_of(&problem);
    let head_bytes = 4 * seq_k * head_dim;
    let section = (SECTION_BYTES / head_bytes).max(1) * (heads_q / heads_kv);
    let sizes = [batch, seq_q, seq_k, heads_q, heads_kv].map(|n| Arg::I32(n as i32));
    let mask = [Arg::I32(causal), Arg::I32(window as i32), Arg::I32(section as i32)];
    let outputs = [at.o, at.lse].map(Arg::from);
    let scale = [Arg::F32(problem.scale as f32)];
    let args = [&maps.map(Arg::from)[..], &outputs, &sizes, &mask, &scale].concat();
    // Q, two tiles of K and of V, barriers, and room to begin at a multiple of 1024 bytes.
    let shared_bytes = 5 * TILE * head_dim * 2 + 128 + 1024;
    let symbol = format!("forward_d{head_dim}_{}", problem.dtype.name());
    let module = match problem.dtype {
        DType::F16 => "attention_warp_specialized.f16",
        _ => "attention_warp_specialized",
    };
    plan.launch(module, symbol, [units.min(BLOCKS), 1, 1], [384, 1, 1], shared_bytes, &args);
    Ok(plan)
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
    args.push(Arg::I32(problem.head_dim as i32));
    args.extend([causal.into(), window.into(), Arg::F32(problem.scale as f32)]);
    let tiles = problem.seq_q.div_ceil(tiling.queries);
    let grid = [blocks(tiles * problem.batch * problem.heads_q, 1)?, 1, 1];
    let block = [tiling.threads, 1, 1];
    plan.launch(tiling.module, tiling.symbol, grid, block, tiling.shared_bytes, &args);
    Ok(plan)
}
