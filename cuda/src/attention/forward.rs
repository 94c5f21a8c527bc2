//! Plans of attention.forward.

use touchstone_reference::{
    Case, DType, Tensors,
    attention::{Mask, Problem, forward::Params},
};

use super::{
    PERSISTENT_BLOCKS, SECTION_BYTES, blocks, drawn, fetched_map, head_map, head_tensor, kind_of,
    mask_of, score_of, section, tile_dim,
};
use crate::{
    plan::{Arg, BufferId, Plan},
    simulator::numeric::tensor::TensorMap,
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

/// How a warp-specialized kernel cuts its tiles.
struct Shape {
    /// What its symbol says of it.
    name: &'static str,
    /// Values of a head in its tiles; smaller heads are followed by zeros.
    dim: usize,
    /// Keys of a tile.
    keys: usize,
    /// Computing warpgroups.
    groups: usize,
    /// How many of them share 64 queries, each with tiles of keys of its own.
    split: usize,
    /// Tiles of K, and of V, at a time.
    stages: usize,
    /// Units whose queries fit into shared memory at a time.
    slots: usize,
    /// Whether it takes a soft cap: heads of up to 64 values then have the tiles of 128, as the PTX is kept small.
    caps: bool,
    /// Whether it is worth taking under a mask.
    masks: bool,
    /// What a unit takes beside its tiles, and what a tile takes, in nanoseconds on an H200, fitted to runs of B1
    /// to B4, H4 to H32, N512 to N16384 (2026-11-30). They count where shapes take the same heads.
    unit_ns: usize,
    tile_ns: usize,
}

const SHAPES: [Shape; 5] = [
    Shape { name: "d64", groups: 3, masks: false, unit_ns: 2600, tile_ns: 1550, ..PLAIN },
    Shape { name: "d64_fewer", groups: 2, unit_ns: 1500, tile_ns: 1100, ..PLAIN },
    Shape {
        name: "d64_shared",
        groups: 2,
        split: 2,
        stages: 4,
        unit_ns: 1400,
        tile_ns: 610,
        ..PLAIN
    },
    Shape { name: "d128", dim: 128, groups: 2, caps: true, ..PLAIN },
    Shape { name: "d256", dim: 256, keys: 80, groups: 2, slots: 1, caps: true, ..PLAIN },
];

/// What a shape has where it says nothing else.
const PLAIN: Shape = Shape {
    name: "",
    dim: 64,
    keys: 128,
    groups: 0,
    split: 1,
    stages: 2,
    slots: 2,
    caps: false,
    masks: true,
    unit_ns: 0,
    tile_ns: 0,
};

impl Shape {
    fn takes(&self, problem: &Problem) -> bool {
        problem.head_dim <= self.dim
            && (self.caps || problem.softcap == 0.0)
            && (self.masks || problem.mask == Mask::Full)
    }

    /// Queries of a unit.
    fn queries(&self) -> usize {
        64 * self.groups / self.split
    }

    fn units(&self, problem: &Problem) -> usize {
        problem.seq_q.div_ceil(self.queries()) * problem.batch * problem.heads_q
    }

    /// Roughly how long the blocks take: units of one length go in waves; under a causal mask, where the longest go first,
    /// the blocks end together, unless the longest unit takes longer than that. Lengths are taken to be full.
    fn nanoseconds(&self, problem: &Problem) -> usize {
        let (mask, window) = mask_of(problem);
        let unit = |keys: usize| self.unit_ns + keys.div_ceil(self.keys) * self.tile_ns;
        let units = self.units(problem);
        if mask == 0 {
            return units.div_ceil(PERSISTENT_BLOCKS) * unit(problem.seq_k);
        }
        // Keys that the queries of a unit see, from the last query to the first.
        let before = problem.seq_k.saturating_sub(problem.seq_q);
        let seen = |end: usize| (before + end).min(window + self.queries());
        let rows = problem.seq_q.div_ceil(self.queries());
        let ends = (1..=rows).map(|row| seen((row * self.queries()).min(problem.seq_q)));
        let all: usize = ends.map(unit).sum::<usize>() * problem.batch * problem.heads_q;
        all.div_ceil(PERSISTENT_BLOCKS).max(unit(seen(problem.seq_q)))
    }

    /// Queries, tiles of K and of V, outputs on their way where they fit, what warpgroups that share queries tell each
    /// other, barriers, units, and room to begin at a multiple of 1024 bytes.
    fn shared_bytes(&self) -> usize {
        let outputs = if self.dim <= 128 { self.queries() } else { 0 };
        let parts = 2 * (self.split - 1) * 128 * 16 * (self.dim / 8 + 1);
        let rows = self.slots * self.queries() + 2 * self.stages * self.keys + outputs;
        2 * self.dim * rows + parts + 512 + 1024
    }
}

/// The shape that takes the problem in the least time.
fn shape_for(problem: &Problem) -> Result<&'static Shape, Unsupported> {
    let refused = || {
        let dim = problem.head_dim;
        Unsupported(format!("head_dim {dim} is not a multiple of 8 up to 256"))
    };
    if !problem.head_dim.is_multiple_of(8) {
        return Err(refused());
    }
    let dim = SHAPES.iter().find(|shape| shape.takes(problem)).ok_or_else(refused)?.dim;
    let of_dim = SHAPES.iter().filter(|shape| shape.dim == dim && shape.takes(problem));
    of_dim.min_by_key(|shape| shape.nanoseconds(problem)).ok_or_else(refused)
}

/// Heads that are worked on at a time. Without a mask few: their blocks walk over the same keys side by side, which the L2
/// cache then reads once for several of them. With one the longest units of many come first, so that the blocks end together.
fn section_of(problem: &Problem) -> usize {
    section(problem, 2, if problem.mask == Mask::Full { SECTION_BYTES / 12 } else { SECTION_BYTES })
}

/// One warpgroup copies, the others compute, on Hopper's own instructions.
pub(super) fn warp_specialized(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let problem = case.params::<Params>()?.problem();
    let Problem { batch, seq_q, seq_k, heads_q, heads_kv, head_dim, .. } = problem;
    if problem.dtype == DType::F32 {
        return Err(Unsupported("tensor cores take f16 and bf16, not f32".into()));
    }
    let shape = shape_for(&problem)?;
    let units = shape.units(&problem);
    if units > i32::MAX as usize {
        return Err(Unsupported("more units of work than 32-bit indices".into()));
    }
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &problem, inputs);
    let (queries, keys) = ([batch, seq_q, heads_q, head_dim], [batch, seq_k, heads_kv, head_dim]);
    let maps = [
        fetched_map(&mut plan, at.q, queries, shape.queries())?,
        fetched_map(&mut plan, at.k, keys, shape.keys)?,
        fetched_map(&mut plan, at.v, keys, shape.keys)?,
        head_map(&mut plan, at.o, queries, 16)?,
    ];
    let (causal, window) = mask_of(&problem);
    let section = section_of(&problem);
    let drawn = drawn(&mut plan, causal, units);
    let buffers = [at.lengths_q, at.lengths_k, at.o, at.lse].map(Arg::from);
    let sizes = [batch, seq_q, seq_k, heads_q, heads_kv, head_dim].map(|n| Arg::I32(n as i32));
    let mask = [Arg::I32(causal), Arg::I32(window as i32), Arg::I32(section as i32)];
    let score = score_of(&problem);
    let args =
        [&maps.map(Arg::from)[..], &buffers, &sizes, &mask, &score, &[drawn.into()]].concat();
    let symbol = format!("forward_{}_{}", shape.name, problem.dtype.name());
    let module = match problem.dtype {
        DType::F16 => "attention_warp_specialized.f16",
        _ => "attention_warp_specialized",
    };
    let grid = [units.min(PERSISTENT_BLOCKS), 1, 1];
    let block = [128 * (shape.groups + 1), 1, 1];
    plan.launch(module, symbol, grid, block, shape.shared_bytes(), &args);
    Ok(plan)
}

/// How `split_kv` cuts a problem.
struct Cut {
    /// Values of a head in its tiles.
    dim: usize,
    /// Heads whose queries lie side by side in a unit, as a power of two: as many of a group as it takes to fill one.
    pack: u32,
    /// Units, and parts of each.
    units: usize,
    splits: usize,
}

impl Cut {
    /// Queries of a unit, keys of a tile.
    const TILE: usize = 128;
    /// What a block takes beside its tiles, as so many tiles.
    const BLOCK_TILES: usize = 3;

    fn new(problem: &Problem) -> Result<Self, Unsupported> {
        let Problem { batch, seq_q, seq_k, heads_q, softcap, .. } = *problem;
        let dim = tile_dim(problem, 8)?.max(if softcap > 0.0 { 128 } else { 64 });
        let whole = |pack: u32| problem.group().is_multiple_of(1 << pack);
        let mut pack = 0;
        while whole(pack + 1) && seq_q << pack < Self::TILE && 2 << pack <= Self::TILE {
            pack += 1;
        }
        let units = batch * (heads_q >> pack) * seq_q.div_ceil(Self::TILE >> pack);
        let tiles = seq_k.div_ceil(Self::TILE).max(1);
        let cost = |splits: &usize| {
            let waves = (units * splits).div_ceil(PERSISTENT_BLOCKS);
            waves * (tiles.div_ceil(*splits) + Self::BLOCK_TILES)
        };
        let splits = (1..=tiles.min(PERSISTENT_BLOCKS)).min_by_key(cost).unwrap_or(1);
        // Blocks without a tile are none too many.
        Ok(Self { dim, pack, units, splits: tiles.div_ceil(tiles.div_ceil(splits)) })
    }

    /// Queries, three or four tiles of K and of V, barriers, and room to begin at a multiple of 1024 bytes.
    fn shared_bytes(&self) -> usize {
        let stages = if self.dim > 64 { 3 } else { 4 };
        2 * self.dim * Self::TILE * (1 + 2 * stages) + 256 + 1024
    }
}

/// Few queries, many keys: the keys of a unit go to several blocks, and what they found is added up.
pub(super) fn split_kv(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    /// Warpgroups that compute.
    const GROUPS: usize = 2;
    /// Threads at most that add up one part of the outputs, and how many parts each has under way.
    const ADDERS: usize = 8;
    const UNDER_WAY: usize = 4;
    let problem = case.params::<Params>()?.problem();
    let Problem { batch, seq_q, seq_k, heads_q, heads_kv, head_dim, .. } = problem;
    if problem.dtype == DType::F32 {
        return Err(Unsupported("tensor cores take f16 and bf16, not f32".into()));
    }
    let cut = Cut::new(&problem)?;
    let items = blocks(cut.units * cut.splits, 1)?;
    let combines = cut.splits > 1;
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &problem, inputs);
    let parts_of = [items, GROUPS, cut.dim / 8 + 1, 128, 4];
    let parts = combines.then(|| plan.scratch("parts", DType::F32, &parts_of));
    let (queries, keys) = ([batch, seq_q, heads_q, head_dim], [batch, seq_k, heads_kv, head_dim]);
    let packed = vec![64, 1 << cut.pack, (Cut::TILE >> cut.pack) as u32, 1];
    let maps = [
        plan.tensor_map(at.q, TensorMap { box_dims: packed, ..head_tensor(queries, 1) })?,
        fetched_map(&mut plan, at.k, keys, Cut::TILE)?,
        fetched_map(&mut plan, at.v, keys, Cut::TILE)?,
    ];
    let (causal, window) = mask_of(&problem);
    let sizes = [batch, seq_q, seq_k, heads_q, heads_kv, head_dim].map(|n| Arg::I32(n as i32));
    let cuts = [causal, window as i32, cut.pack as i32, cut.splits as i32].map(Arg::I32);
    let lengths = [at.lengths_q, at.lengths_k].map(Arg::from);
    let common = [&lengths[..], &sizes, &cuts, &score_of(&problem)].concat();
    let (type_name, module) = match problem.dtype {
        DType::F16 => ("f16", "attention_split_kv.f16"),
        _ => ("bf16", "attention_split_kv"),
    };

    let outputs = [parts.into(), at.o.into(), at.lse.into()];
    let args = [&maps.map(Arg::from)[..], &outputs, &common].concat();
    let symbol = format!("forward_d{}_{type_name}", cut.dim);
    let block = [128 * (GROUPS + 1), 1, 1];
    plan.launch(module, symbol, [items, 1, 1], block, cut.shared_bytes(), &args);

    if combines {
        let args = [&outputs[..], &[Arg::I32(cut.dim as i32)], &common].concat();
        let grid = [blocks(cut.units * GROUPS, 1)?, head_dim / 8, 1];
        let adders = cut.splits.div_ceil(UNDER_WAY).min(ADDERS);
        plan.launch(module, format!("combine_{type_name}"), grid, [128, adders, 1], 0, &args);
        plan.overlap_last();
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(sizes: &str) -> &'static str {
        let text = format!("attention.forward:{sizes},dtype=bf16,seed=1");
        let case: Case = text.parse().unwrap();
        shape_for(&case.params::<Params>().unwrap().problem()).unwrap().name
    }

    fn square(batch: usize, heads: usize, seq: usize, dim: usize, mask: &str) -> &'static str {
        shape(&format!(
            "batch={batch},seq_q={seq},seq_k={seq},heads_q={heads},heads_kv={heads},head_dim={dim},mask={mask}"
        ))
    }

    /// What was fastest on an H200, among the shapes for heads of 64, where they are a few per cent apart.
    #[test]
    fn narrow_heads_take_the_shape_that_was_fastest() {
        for seq in [512, 1024, 2048] {
            assert_eq!(square(1, 4, seq, 64, "full"), "d64_shared", "N{seq}");
            assert_eq!(square(1, 4, seq, 64, "causal"), "d64_shared", "N{seq}");
        }
        assert_eq!(square(1, 4, 4096, 64, "causal"), "d64_shared");
        assert_eq!(square(1, 4, 8192, 64, "full"), "d64_fewer");
        assert_eq!(square(2, 4, 8192, 64, "full"), "d64_fewer");
        assert_eq!(square(1, 4, 16384, 64, "full"), "d64_fewer");
        assert_eq!(square(1, 16, 2048, 64, "full"), "d64_fewer");
        assert_eq!(square(4, 32, 512, 64, "causal"), "d64_fewer");
        assert_eq!(square(4, 32, 2048, 64, "full"), "d64");
        assert_eq!(square(8, 32, 2048, 64, "full"), "d64");
        assert_eq!(square(8, 32, 2048, 64, "causal"), "d64_fewer");
        assert_eq!(square(1, 4, 16384, 64, "causal"), "d64_fewer");
        assert_eq!(square(8, 32, 512, 64, "full"), "d64_fewer");
    }

    #[test]
    fn other_heads_have_one_shape_each() {
        assert_eq!(square(1, 1, 16, 128, "full"), "d128");
        assert_eq!(square(8, 32, 2048, 96, "causal"), "d128");
        assert_eq!(square(1, 1, 16, 256, "full"), "d256");
        assert_eq!(
            shape("batch=1,seq_q=9,seq_k=9,heads_q=1,heads_kv=1,head_dim=64,softcap=5.0"),
            "d128"
        );
    }

    fn cut(sizes: &str) -> Cut {
        let text = format!("attention.forward:{sizes},dtype=bf16,seed=1");
        let case: Case = text.parse().unwrap();
        Cut::new(&case.params::<Params>().unwrap().problem()).unwrap()
    }

    #[test]
    fn keys_are_split_until_every_multiprocessor_has_some() {
        let few = cut("batch=1,seq_q=128,seq_k=8192,heads_q=4,heads_kv=4,head_dim=64");
        assert_eq!((few.pack, few.units, few.splits), (0, 4, 32));
        let prompt = cut("batch=1,seq_q=256,seq_k=32768,heads_q=32,heads_kv=8,head_dim=128");
        assert_eq!((prompt.pack, prompt.units, prompt.splits), (0, 64, 2));
        let many = cut("batch=8,seq_q=2048,seq_k=2048,heads_q=16,heads_kv=16,head_dim=128");
        assert_eq!((many.units, many.splits), (2048, 1));
    }

    #[test]
    fn heads_of_a_group_are_packed_until_their_queries_fill_a_unit() {
        let pack = |seq_q: usize, heads_q: usize| {
            let sizes =
                format!("seq_q={seq_q},seq_k=4096,heads_q={heads_q},heads_kv=2,head_dim=128");
            let cut = cut(&format!("batch=1,{sizes}"));
            (cut.pack, cut.units)
        };
        assert_eq!(pack(1, 8), (2, 2));
        assert_eq!(pack(40, 8), (2, 4));
        assert_eq!(pack(64, 8), (1, 4));
        assert_eq!(pack(128, 8), (0, 8));
        assert_eq!(pack(1, 6), (0, 6), "a group of three has no whole pairs");
        assert_eq!(pack(1, 512), (7, 4), "no more heads than a unit has rows");
    }

    #[test]
    fn every_shape_fits_a_multiprocessor() {
        for shape in &SHAPES {
            assert!(shape.shared_bytes() <= 227 << 10, "{}: {}", shape.name, shape.shared_bytes());
            assert!(shape.stages.is_multiple_of(shape.split));
        }
        for dim in [64, 128] {
            assert!(Cut { dim, pack: 0, units: 1, splits: 1 }.shared_bytes() <= 227 << 10);
        }
    }
}
