//! Plans of attention.decode.

use touchstone_reference::{
    Case, DType, Data, Tensor, Tensors,
    attention::decode::{Cache, Params},
};

use super::{PERSISTENT_BLOCKS, blocks, fetched_map, kind_of, score_of, tile_dim};
use crate::{
    plan::{Arg, Buffer, BufferId, Plan},
    variant::Unsupported,
};

/// Inputs and outputs, and how the cache is laid out.
struct Buffers {
    q: BufferId,
    k: BufferId,
    v: BufferId,
    /// Of an 8-bit cache.
    scales: Option<[BufferId; 2]>,
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
            scales: p.kv_dtype.map(|_| ["k_scale", "v_scale"].map(|name| plan.input(inputs, name))),
            table: paged.then(|| plan.input(inputs, "block_table")),
            lengths: plan.input(inputs, "lengths"),
            o: plan.output("o", p.dtype, &[p.batch, p.heads_q, p.head_dim]),
            lse: plan.output("lse", DType::F32, &[p.batch, p.heads_q]),
            pages: p.pages_per_sequence(),
            page_shift: if paged { p.page_size.trailing_zeros() as i32 } else { 0 },
        }
    }

    /// What kernels on tensor cores take that combine their blocks' parts, of which there is room for `parts`, in the
    /// block that counts last by one of `counts` counters.
    fn combined(&self, plan: &mut Plan, p: &Params, parts: usize, counts: usize) -> [Arg; 9] {
        let sums = plan.scratch("sums", DType::F32, &[parts, p.heads_q, p.head_dim]);
        let stats = plan.scratch("stats", DType::F32, &[parts, p.heads_q, 2]);
        // Zero before a run and after it: who counts last sets it back.
        let counters = plan.table("counters", Tensor::new(&[counts], Data::U32(vec![0; counts])));
        [
            self.table.into(),
            self.lengths.into(),
            sums.into(),
            stats.into(),
            counters.into(),
            self.o.into(),
            self.lse.into(),
            Arg::I32(p.head_dim as i32),
            Arg::I32(p.batch as i32),
        ]
    }
}

/// One block a query head. An 8-bit cache becomes one of f32 before.
pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let p = case.params::<Params>()?;
    let mut plan = Plan::new();
    let mut at = Buffers::new(&mut plan, &p, inputs);
    let (o, mut dtype) = (at.o, p.dtype);
    if let Some([k_scale, v_scale]) = at.scales {
        at.k = widened(&mut plan, at.k, Some(k_scale), "keys")?;
        at.v = widened(&mut plan, at.v, Some(v_scale), "values")?;
        if dtype != DType::F32 {
            at.q = widened(&mut plan, at.q, None, "queries")?;
            at.o = plan.scratch("outputs", DType::F32, &[p.batch, p.heads_q, p.head_dim]);
            dtype = DType::F32;
        }
    }
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
    let rows = blocks(p.batch * p.heads_q, 1)?;
    let symbol = format!("decode_{}", dtype.name());
    plan.launch("attention_decode_naive", symbol, [rows, 1, 1], [128, 1, 1], 0, &args);
    if at.o != o {
        let args = [at.o.into(), o.into(), kind_of(p.dtype).into(), Arg::I32(p.head_dim as i32)];
        plan.launch(DEQUANTIZED, "narrow", [rows, 1, 1], [128, 1, 1], 0, &args);
    }
    Ok(plan)
}

const DEQUANTIZED: &str = "attention_decode_dequantized";

/// The rows of a buffer as f32, times their scales where they have some.
fn widened(
    plan: &mut Plan,
    from: BufferId,
    scales: Option<BufferId>,
    name: &str,
) -> Result<BufferId, Unsupported> {
    let Buffer { dtype, shape, .. } = plan.buffers()[from.0].clone();
    let (&dim, rows) = shape.split_last().expect("rows have a width");
    let to = plan.scratch(name, DType::F32, &shape);
    let args = [from.into(), scales.into(), to.into(), kind_of(dtype).into(), Arg::I32(dim as i32)];
    let grid = [blocks(rows.iter().product(), 1)?, 1, 1];
    plan.launch(DEQUANTIZED, "widen", grid, [128, 1, 1], 0, &args);
    Ok(to)
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
    if p.kv_dtype.is_some() {
        return Err(Unsupported("it takes no 8-bit cache: naive and tensor_core do".into()));
    }
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
    /// Blocks that an H100 or H200 holds at a time: three on each of 132 multiprocessors.
    const RESIDENT: usize = 3 * 132;
    let p = case.params::<Params>()?;
    let problem = p.problem();
    if p.dtype == DType::F32 {
        return Err(Unsupported("tensor cores take f16 and bf16, not f32".into()));
    }
    let TensorCores { module, symbol, least_keys } = TensorCores::of(&p)?;
    let tiles = p.batch * p.heads_kv * problem.group().div_ceil(HEADS);
    let most = p.seq_k.div_ceil(least_keys).max(1);
    // All blocks at once where that leaves few places empty; otherwise so many that the last round weighs little.
    let enough = if tiles > RESIDENT / 2 { 4 * RESIDENT } else { RESIDENT };
    let splits = (enough / tiles.max(1)).clamp(1, most);

    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &p, inputs);
    let mut args: Vec<Arg> = vec![at.q.into(), at.k.into(), at.v.into()];
    args.extend(at.scales.into_iter().flatten().map(Arg::from));
    args.extend(at.combined(&mut plan, &p, splits * p.batch, tiles));
    args.extend([
        p.seq_k.into(),
        Arg::I32(p.heads_q as i32),
        Arg::I32(p.heads_kv as i32),
        at.pages.into(),
        at.page_shift.into(),
        Arg::I32(splits as i32),
    ]);
    args.extend(score_of(&problem));
    if at.scales.is_some() {
        // The power of two whose last place is 1.
        args.push(Arg::F32((0.5 / p.dtype.unit_roundoff()) as f32));
    }
    let grid = [blocks(tiles * splits, 1)?, 1, 1];
    plan.launch(module, symbol, grid, [128, 1, 1], 0, &args);
    Ok(plan)
}

/// Even shares of all keys, fetched by the copy engine.
pub(super) fn persistent(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    /// Query heads and keys of a block's tile.
    const HEADS: usize = 8;
    const KEYS: usize = 128;
    /// Two stages of K and V, what its 8 warps combine, barriers, and room to begin at a multiple of 1024.
    const SHARED_BYTES: usize = 2 * 2 * KEYS * 256 + 35 * 1024 + 1024;
    let p = case.params::<Params>()?;
    let problem = p.problem();
    if p.kv_dtype.is_some() {
        return Err(Unsupported("it takes no 8-bit cache: naive and tensor_core do".into()));
    }
    if p.dtype == DType::F32 {
        return Err(Unsupported("tensor cores take f16 and bf16, not f32".into()));
    }
    tile_dim(&problem, 8)?;
    let groups = p.heads_kv * problem.group().div_ceil(HEADS);
    let tiles = blocks(p.batch * p.seq_k.div_ceil(KEYS), 1)?;
    let parts = (PERSISTENT_BLOCKS / groups).clamp(1, tiles.max(1));
    if tiles * parts > u32::MAX as usize {
        return Err(Unsupported("its tiles are numbered with 32 bits".into()));
    }

    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &p, inputs);
    let paged = p.kv == Cache::Paged;
    let (pieces, keys) = if paged { (p.batch * at.pages, p.page_size) } else { (p.batch, p.seq_k) };
    let rows = if paged { p.page_size.min(KEYS) } else { KEYS };
    let shape = [pieces, keys, p.heads_kv, p.head_dim];
    let maps =
        [fetched_map(&mut plan, at.k, shape, rows)?, fetched_map(&mut plan, at.v, shape, rows)?];
    let mut args: Vec<Arg> = maps.map(Arg::from).to_vec();
    args.push(at.q.into());
    args.extend(at.combined(&mut plan, &p, parts + p.batch, p.batch * groups));
    args.extend([
        Arg::I32(p.heads_q as i32),
        Arg::I32(p.heads_kv as i32),
        at.pages.into(),
        at.page_shift.into(),
        Arg::I32(rows as i32),
        Arg::I32(parts as i32),
    ]);
    args.extend(score_of(&problem));
    let module = match p.dtype {
        DType::F16 => "attention_decode_persistent.f16",
        _ => "attention_decode_persistent",
    };
    let symbol = format!("decode_{}", p.dtype.name());
    let grid = [blocks(groups * parts, 1)?, 1, 1];
    plan.launch(module, symbol, grid, [8 * 32 + 32, 1, 1], SHARED_BYTES, &args);
    Ok(plan)
}

/// The kernel on tensor cores for a type of queries and of the cache.
struct TensorCores {
    module: &'static str,
    symbol: String,
    /// Keys that are worth a block: a step of each of its warps.
    least_keys: usize,
}

impl TensorCores {
    fn of(p: &Params) -> Result<Self, Unsupported> {
        let suffix = p.dtype.name();
        if p.kv_dtype.is_some() {
            tile_dim(&p.problem(), 16)?;
            if p.batch * p.seq_k.next_multiple_of(p.page_size.max(1)) > u32::MAX as usize {
                return Err(Unsupported("its rows are numbered with 32 bits".into()));
            }
            let module = match p.dtype {
                DType::F16 => "attention_decode_tensor_core_int8.f16",
                _ => "attention_decode_tensor_core_int8",
            };
            return Ok(Self { module, symbol: format!("decode_{suffix}"), least_keys: 128 });
        }
        let tile = tile_dim(&p.problem(), 8)?;
        let module = match p.dtype {
            DType::F16 => "attention_decode_tensor_core.f16",
            _ => "attention_decode_tensor_core",
        };
        Ok(Self { module, symbol: format!("decode_d{tile}_{suffix}"), least_keys: 64 })
    }
}
