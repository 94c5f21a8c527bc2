//! Plans of `decoding.tree_attention`.

use touchstone_reference::{Case, DType, Tensors, decoding::tree_attention::Params};

use crate::{
    plan::{Arg, BufferId, Plan, blocks, kind_of},
    variant::Unsupported,
};

/// Inputs, as the kernels take them.
fn input_args(plan: &mut Plan, inputs: &Tensors) -> Vec<Arg> {
    let names = ["q", "k", "v", "k_tree", "v_tree", "parents", "lengths"];
    names.map(|name| plan.input(inputs, name).into()).to_vec()
}

/// o and lse.
fn outputs(plan: &mut Plan, p: &Params) -> [BufferId; 2] {
    let rows = [p.batch, p.nodes, p.heads_q];
    let o = plan.output("o", p.dtype, &[p.batch, p.nodes, p.heads_q, p.head_dim]);
    [o, plan.output("lse", DType::F32, &rows)]
}

/// One block a query.
pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    attend(case.params()?, inputs, |_| Ok(Way::Naive))
}

/// The plan of one attention, in a way that is chosen by the case.
fn attend(
    p: Params,
    inputs: &Tensors,
    way: impl Fn(&Params) -> Result<Way, Unsupported>,
) -> Result<Plan, Unsupported> {
    let way = way(&p)?;
    let mut plan = Plan::new();
    let given = input_args(&mut plan, inputs);
    let outputs = outputs(&mut plan, &p);
    let ready = Ready::new(&mut plan, p, way)?;
    ready.launch(&mut plan, given, outputs)?;
    Ok(plan)
}

/// How the queries are spread over the chip.
pub(super) enum Way {
    /// A block a query.
    Naive,
    /// Tiles of queries, and the keys split over blocks.
    Split(Split),
}

/// Attention with its scratch, which may be launched several times in a plan.
pub(super) struct Ready {
    p: Params,
    way: Way,
    scratch: Vec<BufferId>,
    splits: usize,
}

impl Ready {
    pub(super) fn new(plan: &mut Plan, p: Params, way: Way) -> Result<Self, Unsupported> {
        let rows = p.batch * p.nodes * p.heads_q;
        let (scratch, splits) = match &way {
            Way::Naive => {
                let keys = [p.batch, p.nodes, p.heads_q, p.seq_k + p.nodes];
                (vec![plan.scratch("scores", DType::F32, &keys)], 1)
            }
            Way::Split(split) => {
                let splits = split.splits(&p)?;
                let sums = plan.scratch("sums", DType::F32, &[splits, rows, p.head_dim]);
                (vec![sums, plan.scratch("stats", DType::F32, &[splits, rows, 2])], splits)
            }
        };
        Ok(Self { p, way, scratch, splits })
    }

    /// Attention of q, k, v, k_tree, v_tree, parents and lengths into o and lse.
    pub(super) fn launch(
        &self,
        plan: &mut Plan,
        given: Vec<Arg>,
        outputs: [BufferId; 2],
    ) -> Result<(), Unsupported> {
        let p = &self.p;
        let rows = p.batch * p.nodes * p.heads_q;
        let mut args = given;
        args.extend(self.scratch.iter().copied().map(Arg::from));
        let Way::Split(split) = &self.way else {
            args.extend(outputs.map(Arg::from));
            args.push(kind_of(p.dtype).into());
            args.extend([p.nodes, p.seq_k, p.heads_q, p.heads_kv, p.head_dim].map(Arg::from));
            args.push(Arg::F32(p.problem().scale as f32));
            let module = "decoding_tree_attention_naive";
            plan.launch(module, "tree_attention", blocks(rows)?, [128, 1, 1], 0, &args);
            return Ok(());
        };
        args.extend([p.batch.into(), Arg::I32(p.nodes as i32)]);
        args.extend([p.seq_k, p.heads_q, p.heads_kv].map(Arg::from));
        args.extend([p.head_dim as i32, self.splits as i32].map(Arg::from));
        args.extend(split.rest.iter().copied());
        args.push(Arg::F32(p.problem().scale as f32));
        let grid = blocks(split.tiles(p) * self.splits)?;
        plan.launch(split.module, "partial", grid, [split.threads, 1, 1], split.shared, &args);

        let buffers = [self.scratch[0], self.scratch[1], outputs[0], outputs[1]].map(Arg::from);
        let mut args = [&buffers[..], &[kind_of(p.dtype).into()]].concat();
        args.extend([rows, p.head_dim, self.splits].map(Arg::from));
        let module = "attention_decode_split_kv";
        plan.launch(module, "combine", blocks(rows)?, [128, 1, 1], 0, &args);
        Ok(())
    }
}

/// Keys of a tile.
const KEYS: usize = 64;

/// Values of a tile's rows.
const WIDTH: usize = 128;

/// One kernel that takes the nodes and the heads of a group as rows and splits the keys over blocks.
pub(super) struct Split {
    module: &'static str,
    threads: usize,
    /// Rows of a block.
    rows: usize,
    shared: usize,
    /// What the kernel takes behind the sizes.
    rest: Vec<Arg>,
}

/// Both types of 16 bits on tensor cores.
pub(super) fn tensor_core(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    attend(case.params()?, inputs, on_tensor_cores)
}

fn on_tensor_cores(p: &Params) -> Result<Way, Unsupported> {
    if p.dtype == DType::F32 {
        return Err(Unsupported("tensor cores multiply 16 bits, not f32".into()));
    }
    if !p.head_dim.is_multiple_of(8) {
        return Err(Unsupported(format!("head_dim {} is no multiple of 8", p.head_dim)));
    }
    let warps = if p.nodes * p.problem().group() > 64 { 8 } else { 4 };
    let rows = 16 * warps;
    Ok(Way::Split(Split {
        module: "decoding_tree_attention_tensor_core",
        threads: 32 * warps,
        rows,
        shared: 4 * KEYS * WIDTH * 2 + rows * (WIDTH * 2 + KEYS * 2 + 8),
        rest: vec![i32::from(p.dtype == DType::Bf16).into()],
    }))
}

/// f32 on CUDA cores.
pub(super) fn tiled(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    attend(case.params()?, inputs, in_tiles)
}

pub(super) fn in_tiles(p: &Params) -> Result<Way, Unsupported> {
    if p.dtype != DType::F32 {
        return Err(Unsupported(format!("only f32, not {}", p.dtype.name())));
    }
    let tiles = (2 * WIDTH + KEYS) * (KEYS + 4) * DType::F32.bytes();
    Ok(Way::Split(Split {
        module: "decoding_tree_attention_tiled",
        threads: 256,
        rows: 64,
        shared: tiles + 8 * KEYS,
        rest: vec![],
    }))
}

impl Split {
    /// Blocks that take all rows and a stretch of the keys each.
    fn tiles(&self, p: &Params) -> usize {
        (p.nodes * p.problem().group()).div_ceil(self.rows) * p.heads_kv * p.batch
    }

    /// Into how many stretches the keys are split.
    fn splits(&self, p: &Params) -> Result<usize, Unsupported> {
        /// Blocks that a large device holds at once, two on each processor: a few more would wait for all of them.
        const BLOCKS: usize = 264;
        /// Tiles of keys that are worth a block.
        const LEAST_TILES: usize = 2;
        if p.head_dim > WIDTH {
            return Err(Unsupported(format!("head_dim {} is more than {WIDTH}", p.head_dim)));
        }
        let key_tiles = p.seq_k.div_ceil(KEYS) + p.nodes.div_ceil(KEYS);
        let most = key_tiles.div_ceil(LEAST_TILES).max(1);
        Ok((BLOCKS / self.tiles(p).max(1)).clamp(1, most))
    }
}
