//! Plans of attention.decode.

use touchstone_reference::{
    Case, DType, Data, Tensor, Tensors,
    attention::decode::{Cache, Params},
};

use super::{blocks, kind_of, score_of, tile_dim};
use crate::{
    plan::{Arg, BufferId, Plan},
    variant::Unsupported,
};

/// Inputs and outputs, and how the cache is laid out.
struct Buffers {
    q: BufferId,
    k: BufferId,
    v: BufferId,
    table: Option<BufferId>,
    lengths: BufferId,
    o: BufferId,
    lse: BufferId,
    pages: usize,
    page_shift: i32,
}

impl Buffers {
    fn new(plan: &mut Plan, p: &Params, inputs: &Tensors) -> Self {
        let paged = p.kv == Cache::Paged;
        Self {
            q: plan.input(inputs, "q"),
            k: plan.input(inputs, "k"),
            v: plan.input(inputs, "v"),
            table: paged.then(|| plan.input(inputs, "block_table")),
            lengths: plan.input(inputs, "lengths"),
            o: plan.output("o", p.dtype, &[p.batch, p.heads_q, p.head_dim]),
            lse: plan.output("lse", DType::F32, &[p.batch, p.heads_q]),
            pages: p.pages_per_sequence(),
            page_shift: if paged { p.page_size.trailing_zeros() as i32 } else { 0 },
        }
    }
}

/// One block a query head.
pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let p = case.params::<Params>()?;
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &p, inputs);
    let [scale, squeeze] = score_of(&p.problem());
    let scores = plan.scratch("scores", DType::F32, &[p.batch, p.heads_q, p.seq_k]);
    let args = [
        at.q.into(),
        at.k.into(),
        at.v.into(),
        at.table.into(),
        at.lengths.into(),
        scores.into(),
        at.o.into(),
        at.lse.into(),
        p.seq_k.into(),
        p.heads_q.into(),
        p.heads_kv.into(),
        p.head_dim.into(),
        at.pages.into(),
        at.page_shift.into(),
        scale,
        squeeze,
    ];
    let grid = [blocks(p.batch * p.heads_q, 1)?, 1, 1];
    let symbol = format!("decode_{}", p.dtype.name());
    plan.launch("attention_decode_naive", symbol, grid, [128, 1, 1], 0, &args);
    Ok(plan)
}

/// Many blocks a sequence, then a combination of their results.
pub(super) fn split_kv(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "attention_decode_split_kv";
    /// Blocks that fill a large device several times over.
    const ENOUGH_BLOCKS: usize = 1024;
    /// Keys that are worth a block.
    const LEAST_KEYS: usize = 128;
    /// Query heads a block takes.
    const HEADS: usize = 4;
    let p = case.params::<Params>()?;
    let problem = p.problem();
    let tile = tile_dim(&problem, 8)?;
    let tiles = p.batch * p.heads_kv * problem.group().div_ceil(HEADS);
    let splits = ENOUGH_BLOCKS.div_ceil(tiles.max(1)).clamp(1, p.seq_k.div_ceil(LEAST_KEYS).max(1));

    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &p, inputs);
    let sums = plan.scratch("sums", DType::F32, &[splits, p.batch, p.heads_q, p.head_dim]);
    let [scale, squeeze] = score_of(&problem);
    let stats = plan.scratch("stats", DType::F32, &[splits, p.batch, p.heads_q, 2]);
    let args = [
        at.q.into(),
        at.k.into(),
        at.v.into(),
        at.table.into(),
        at.lengths.into(),
        sums.into(),
        stats.into(),
        kind_of(p.dtype).into(),
        Arg::I32(p.head_dim as i32),
        p.batch.into(),
        p.seq_k.into(),
        p.heads_q.into(),
        p.heads_kv.into(),
        at.pages.into(),
        at.page_shift.into(),
        splits.into(),
        scale,
        squeeze,
    ];
    let grid = [blocks(tiles * splits, 1)?, 1, 1];
    plan.launch(MODULE, format!("partial_d{tile}"), grid, [128, 1, 1], 0, &args);

    let rows = p.batch * p.heads_q;
    let args = [
        sums.into(),
        stats.into(),
        at.o.into(),
        at.lse.into(),
        kind_of(p.dtype).into(),
        rows.into(),
        p.head_dim.into(),
        splits.into(),
    ];
    plan.launch(MODULE, "combine", [blocks(rows, 1)?, 1, 1], [128, 1, 1], 0, &args);
    Ok(plan)
}

/// Splits on tensor cores, combined by the last block of each group of heads.
pub(super) fn tensor_core(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    /// Query heads a block takes.
    const HEADS: usize = 8;
    /// Keys that are worth a block.
    const LEAST_KEYS: usize = 64;
    /// Blocks that an H100 or H200 holds at a time: three on each of 132 multiprocessors.
    const RESIDENT: usize = 3 * 132;
    let p = case.params::<Params>()?;
    let problem = p.problem();
    if p.dtype == DType::F32 {
        return Err(Unsupported("tensor cores take f16 and bf16, not f32".into()));
    }
    let tile = tile_dim(&problem, 8)?;
    let tiles = p.batch * p.heads_kv * problem.group().div_ceil(HEADS);
    let most = p.seq_k.div_ceil(LEAST_KEYS).max(1);
    // All blocks at once where that leaves few places empty; otherwise so many that the last round weighs little.
    let enough = if tiles > RESIDENT / 2 { 4 * RESIDENT } else { RESIDENT };
    let splits = (enough / tiles.max(1)).clamp(1, most);

    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &p, inputs);
    let sums = plan.scratch("sums", DType::F32, &[splits, p.batch, p.heads_q, p.head_dim]);
    let [scale, squeeze] = score_of(&problem);
    let stats = plan.scratch("stats", DType::F32, &[splits, p.batch, p.heads_q, 2]);
    // Zero before a run and after it: who counts last sets it back.
    let counters = plan.table("counters", Tensor::new(&[tiles], Data::U32(vec![0; tiles])));
    let (module, suffix) = match p.dtype {
        DType::F16 => ("attention_decode_tensor_core.f16", "f16"),
        _ => ("attention_decode_tensor_core", "bf16"),
    };
    let args = [
        at.q.into(),
        at.k.into(),
        at.v.into(),
        at.table.into(),
        at.lengths.into(),
        sums.into(),
        stats.into(),
        counters.into(),
        at.o.into(),
        at.lse.into(),
        Arg::I32(p.head_dim as i32),
        Arg::I32(p.batch as i32),
        p.seq_k.into(),
        Arg::I32(p.heads_q as i32),
        Arg::I32(p.heads_kv as i32),
        at.pages.into(),
        at.page_shift.into(),
        Arg::I32(splits as i32),
        scale,
        squeeze,
    ];
    let grid = [blocks(tiles * splits, 1)?, 1, 1];
    plan.launch(module, format!("decode_d{tile}_{suffix}"), grid, [128, 1, 1], 0, &args);
    Ok(plan)
}
