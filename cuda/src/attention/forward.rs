//! Plans of attention.forward.

use touchstone_reference::{
    Case, DType, Tensors,
    attention::{Problem, forward::Params},
};

use super::{
    PERSISTENT_BLOCKS, SECTION_BYTES, blocks, head_map, kind_of, mask_of, score_of, tile_dim,
};
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
    let args = [&inputs[..], &sizes, &mask, &score_of(&problem)].concat();
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
    if problem.heads_q * problem.head_dim * 2 > u32::MAX as usize {
        return Err(Unsupported("rows beyond 32-bit offsets".into()));
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

/// How the warp-specialized kernel for heads of a size cuts its tiles.
struct Shape {
    /// Values of a head in its tiles; smaller heads are followed by zeros.
    dim: usize,
    /// Keys of a tile.
    keys: usize,
    /// Computing warpgroups, of 64 queries each.
    groups: usize,
    /// Units whose queries fit into shared memory at a time.
    slots: usize,
    /// Whether it takes a soft cap: heads of up to 64 values then have the tiles of 128, as the PTX is kept small.
    caps: bool,
}

const SHAPES: [Shape; 3] = [
    Shape { dim: 64, keys: 128, groups: 3, slots: 2, caps: false },
    Shape { dim: 128, keys: 128, groups: 2, slots: 2, caps: true },
    Shape { dim: 256, keys: 80, groups: 2, slots: 1, caps: true },
];

/// One warpgroup copies, the others compute, on Hopper's own instructions.
pub(super) fn warp_specialized(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let problem = case.params::<Params>()?.problem();
    let Problem { batch, seq_q, seq_k, heads_q, heads_kv, head_dim, .. } = problem;
    if problem.dtype == DType::F32 {
        return Err(Unsupported("tensor cores take f16 and bf16, not f32".into()));
    }
    let fits = |shape: &&Shape| {
        head_dim <= shape.dim
            && head_dim.is_multiple_of(8)
            && (shape.caps || problem.softcap == 0.0)
    };
    let Some(Shape { dim, keys, groups, slots, .. }) = SHAPES.iter().find(fits) else {
        return Err(Unsupported(format!("head_dim {head_dim} is not a multiple of 8 up to 256")));
    };
    let queries = 64 * groups;
    let units = seq_q.div_ceil(queries) * batch * heads_q;
    if units > i32::MAX as usize {
        return Err(Unsupported("more units of work than 32-bit indices".into()));
    }
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &problem, inputs);
    let maps = [
        head_map(&mut plan, at.q, [batch, seq_q, heads_q, head_dim], queries)?,
        head_map(&mut plan, at.k, [batch, seq_k, heads_kv, head_dim], *keys)?,
        head_map(&mut plan, at.v, [batch, seq_k, heads_kv, head_dim], *keys)?,
    ];
    let (causal, window) = mask_of(&problem);
    let head_bytes = 4 * seq_k * head_dim;
    // Half of the L2 where all of a section's blocks walk over the same keys: less is read at a time, as cold runs show.
    let section_bytes = if causal == 0 { SECTION_BYTES / 2 } else { SECTION_BYTES };
    let section = ((section_bytes / head_bytes).max(1) * (heads_q / heads_kv)).min(batch * heads_q);
    // Units of a causal mask differ, so blocks draw them; a block's first is its own.
    let drawn = (causal != 0 && units > PERSISTENT_BLOCKS).then(|| {
        let drawn = plan.scratch("drawn", DType::I32, &[1]);
        plan.fill(drawn, 0);
        drawn
    });
    let buffers = [at.lengths_q, at.lengths_k, at.o, at.lse].map(Arg::from);
    let sizes = [batch, seq_q, seq_k, heads_q, heads_kv, head_dim].map(|n| Arg::I32(n as i32));
    let mask = [Arg::I32(causal), Arg::I32(window as i32), Arg::I32(section as i32)];
    let score = score_of(&problem);
    let args =
        [&maps.map(Arg::from)[..], &buffers, &sizes, &mask, &score, &[drawn.into()]].concat();
    // Queries, two tiles of K and of V, barriers, units, and room to begin at a multiple of 1024 bytes.
    let shared_bytes = 2 * dim * (slots * queries + 4 * keys) + 256 + 1024;
    let symbol = format!("forward_d{dim}_{}", problem.dtype.name());
    let module = match problem.dtype {
        DType::F16 => "attention_warp_specialized.f16",
        _ => "attention_warp_specialized",
    };
    let grid = [units.min(PERSISTENT_BLOCKS), 1, 1];
    plan.launch(module, symbol, grid, [128 * (groups + 1), 1, 1], shared_bytes, &args);
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
    args.extend([Arg::from(causal), window.into()]);
    args.extend(score_of(problem));
    let tiles = problem.seq_q.div_ceil(tiling.queries);
    let grid = [blocks(tiles * problem.batch * problem.heads_q, 1)?, 1, 1];
    let block = [tiling.threads, 1, 1];
    plan.launch(tiling.module, tiling.symbol, grid, block, tiling.shared_bytes, &args);
    Ok(plan)
}
