//! Plans of attention.backward.

use touchstone_reference::{
    Case, DType, Tensors,
    attention::{Problem, backward::Params},
};

use super::{blocks, head_map, kind_of, mask_of, score_of, tile_dim};
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
    step("pairs", rows * seq_k, &of_pairs, &[&sizes, &mask, &score_of(&problem)])?;
    step("dq", rows * head_dim, &[ds, at.k, at.dq], &[&sizes, &scale])?;
    let gradients = batch * seq_k * heads_kv * head_dim;
    step("dk_dv", gradients, &[p, ds, at.q, at.d_o, at.dk, at.dv], &[&sizes, &scale])?;
    Ok(plan)
}

/// The row sums `do · o`, a warp a row.
fn delta(plan: &mut Plan, at: &Buffers, problem: &Problem) -> Result<(), Unsupported> {
    let Problem { batch, seq_q, heads_q, head_dim, .. } = *problem;
    let mut args = [at.d_o, at.o, at.delta].map(Arg::from).to_vec();
    args.push(kind_of(problem.dtype).into());
    args.extend([batch, seq_q, heads_q, head_dim].map(Arg::from));
    let grid = [blocks(batch * heads_q * seq_q, 8)?, 1, 1];
    plan.launch("attention_backward_online", "delta", grid, [256, 1, 1], 0, &args);
    Ok(())
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

    delta(&mut plan, &at, &problem)?;
    let tiles_bytes = 4 * 2 * (OWN + OTHER) * (tile + 4);
    let weights_bytes = 4 * OWN * (OTHER + 4);
    let mut rest = vec![kind.into()];
    rest.extend([seq_q, seq_k, heads_q, heads_kv].map(Arg::from));
    rest.extend([Arg::I32(head_dim as i32), causal.into(), window.into()]);
    rest.extend(score_of(&problem));
    rest.push(Arg::F32(problem.scale as f32));
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

/// Threads of a block of the kernels on warpgroup products, and rows of the tiles that it owns.
const THREADS: usize = 384;
const OWN: usize = 128;

/// What the kernels on warpgroup products take beside their tensor maps and outputs.
struct OnWarpgroups {
    statistics: Vec<Arg>,
    sizes: Vec<Arg>,
    module: &'static str,
    /// What a kernel's name ends with.
    suffix: &'static str,
}

impl OnWarpgroups {
    fn new(
        at: &Buffers,
        problem: &Problem,
        [bf16, f16]: [&'static str; 2],
    ) -> Result<Self, Unsupported> {
        let Problem { batch, seq_q, seq_k, heads_q, heads_kv, head_dim, .. } = *problem;
        if problem.dtype == DType::F32 {
            return Err(Unsupported("tensor cores take f16 and bf16, not f32".into()));
        }
        let (causal, window) = mask_of(problem);
        let mut sizes: Vec<Arg> =
            [batch, seq_q, seq_k, heads_q, heads_kv, head_dim].map(|n| Arg::I32(n as i32)).to_vec();
        sizes.extend([Arg::I32(causal), Arg::I32(window as i32)]);
        sizes.extend(score_of(problem));
        sizes.push(Arg::F32(problem.scale as f32));
        let statistics = [at.lse, at.delta].map(Arg::from).to_vec();
        let (module, suffix) = match problem.dtype {
            DType::F16 => (f16, "f16"),
            _ => (bf16, "bf16"),
        };
        Ok(Self { statistics, sizes, module, suffix })
    }

    /// A launch of a kernel with blocks of `THREADS`.
    fn launch(
        &self,
        plan: &mut Plan,
        name: &str,
        maps: [Arg; 4],
        outputs: &[BufferId],
        (tiles, shared_bytes): (usize, usize),
    ) -> Result<(), Unsupported> {
        let outputs: Vec<Arg> = outputs.iter().map(|&id| id.into()).collect();
        let args = [&maps[..], &self.statistics, &outputs, &self.sizes].concat();
        let symbol = format!("{name}_{}", self.suffix);
        let grid = [blocks(tiles, 1)?, 1, 1];
        plan.launch(self.module, symbol, grid, [THREADS, 1, 1], shared_bytes, &args);
        Ok(())
    }
}

/// Maps of q, k, v and do by boxes of so many queries and keys.
fn maps(
    plan: &mut Plan,
    at: &Buffers,
    problem: &Problem,
    [queries, keys]: [usize; 2],
) -> Result<[Arg; 4], Unsupported> {
    let Problem { batch, seq_q, seq_k, heads_q, heads_kv, head_dim, .. } = *problem;
    let (of_queries, of_keys) =
        ([batch, seq_q, heads_q, head_dim], [batch, seq_k, heads_kv, head_dim]);
    Ok([
        head_map(plan, at.q, of_queries, queries)?.into(),
        head_map(plan, at.k, of_keys, keys)?.into(),
        head_map(plan, at.v, of_keys, keys)?.into(),
        head_map(plan, at.d_o, of_queries, queries)?.into(),
    ])
}

/// Tiles of the two kernels that make both passes on warpgroup products.
struct Tiles {
    modules: [&'static str; 2],
    /// Values of a head.
    dim: usize,
    /// Of dk_dv: keys that a block owns, rows of a tile of queries, and how many are under way.
    own: usize,
    queries: usize,
    query_stages: usize,
    /// Bytes that dk_dv keeps for what one warpgroup tells the other of a pair, and for the barriers of their warps.
    given_bytes: usize,
    /// Of dq: rows of a tile of keys, and how many are under way.
    keys: usize,
    key_stages: usize,
}

/// For heads of up to 128 values.
const NARROW: Tiles = Tiles {
    modules: ["attention_backward_wgmma", "attention_backward_wgmma.f16"],
    dim: 128,
    own: OWN,
    queries: 48,
    query_stages: 3,
    given_bytes: 0,
    keys: 64,
    key_stages: 3,
};

/// For heads of up to 256.
const WIDE: Tiles = Tiles {
    modules: ["attention_backward_wide", "attention_backward_wide.f16"],
    dim: 256,
    own: 64,
    queries: 48,
    query_stages: 3,
    given_bytes: 64 * 48 * 4 + 64,
    keys: 48,
    key_stages: 2,
};

impl Tiles {
    fn of(problem: &Problem) -> Result<&'static Self, Unsupported> {
        let dim = problem.head_dim;
        match dim {
            _ if !dim.is_multiple_of(8) || dim > WIDE.dim => Err(Unsupported(format!(
                "head_dim {dim} is not a multiple of 8 up to {}",
                WIDE.dim
            ))),
            _ if dim > NARROW.dim => Ok(&WIDE),
            _ => Ok(&NARROW),
        }
    }

    /// Shared memory of dk_dv and dq: the block's own two tiles, those it walks over, statistics of queries, barriers, and
    /// room to begin at a multiple of 1024 bytes.
    fn shared_bytes(&self) -> [usize; 2] {
        let Self { dim, own, queries, query_stages, given_bytes, keys, key_stages, .. } = *self;
        let statistics = query_stages * queries * 8 + 64 + 1024;
        let walked = (query_stages * queries).max(key_stages * keys);
        [
            4 * dim * (own + walked) + given_bytes + statistics,
            4 * dim * (OWN + key_stages * keys) + statistics,
        ]
    }
}

/// Both passes on warpgroup products.
pub(super) fn warpgroup(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let problem = case.params::<Params>()?.problem();
    let Problem { batch, seq_q, seq_k, heads_q, heads_kv, .. } = problem;
    let tiles = Tiles::of(&problem)?;
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &problem, inputs);
    let kernels = OnWarpgroups::new(&at, &problem, tiles.modules)?;
    delta(&mut plan, &at, &problem)?;
    let dk_dv_maps = maps(&mut plan, &at, &problem, [tiles.queries, tiles.own])?;
    let dq_maps = maps(&mut plan, &at, &problem, [OWN, tiles.keys])?;
    let [of_dk_dv, of_dq] = tiles.shared_bytes();
    let dk_dv = (batch * heads_kv * seq_k.div_ceil(tiles.own), of_dk_dv);
    kernels.launch(&mut plan, "dk_dv", dk_dv_maps, &[at.dk, at.dv], dk_dv)?;
    let dq = (batch * heads_q * seq_q.div_ceil(OWN), of_dq);
    kernels.launch(&mut plan, "dq", dq_maps, &[at.dq], dq)?;
    Ok(plan)
}

/// One pass on warpgroup products, dQ summed atomically.
pub(super) fn atomic(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULES: [&str; 2] = ["attention_backward_atomic", "attention_backward_atomic.f16"];
    /// Rows of the tiles of queries that a block walks over, and how many are under way.
    const QUERIES: usize = 64;
    const STAGES: usize = 3;
    let problem = case.params::<Params>()?.problem();
    let Problem { batch, seq_q, seq_k, heads_q, heads_kv, head_dim, .. } = problem;
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &problem, inputs);
    let groups = tile_dim(&problem, 8)? / 8;
    let kernels = OnWarpgroups::new(&at, &problem, MODULES)?;
    let tiles = seq_q.div_ceil(QUERIES);
    let sum = plan.scratch("sum", DType::F32, &[batch, heads_q, tiles, groups, 128, 4]);
    delta(&mut plan, &at, &problem)?;
    plan.fill(sum, 0);
    let maps = maps(&mut plan, &at, &problem, [QUERIES, OWN])?;
    // The block's own two tiles, those it walks over, two of score gradients, statistics of queries, barriers, and room
    // to begin at a multiple of 1024 bytes.
    let rows = OWN + STAGES * QUERIES;
    let shared_bytes = 4 * NARROW.dim * rows + 4 * OWN * QUERIES + STAGES * QUERIES * 8 + 64 + 1024;
    let blocks_of_keys = batch * heads_kv * seq_k.div_ceil(OWN);
    let outputs = [sum, at.dk, at.dv];
    kernels.launch(&mut plan, "pairs", maps, &outputs, (blocks_of_keys, shared_bytes))?;
    let mut args = [sum, at.dq].map(Arg::from).to_vec();
    args.extend([seq_q, heads_q, head_dim].map(|n| Arg::I32(n as i32)));
    args.push(Arg::F32(problem.scale as f32));
    let (grid, symbol) =
        ([blocks(batch * heads_q * tiles, 1)?, 1, 1], format!("dq_{}", kernels.suffix));
    plan.launch(kernels.module, symbol, grid, [256, 1, 1], 0, &args);
    Ok(plan)
}
