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
    let p = case.params::<Params>()?;
    let mut plan = Plan::new();
    let mut args = input_args(&mut plan, inputs);
    let keys = p.seq_k + p.nodes;
    args.push(plan.scratch("scores", DType::F32, &[p.batch, p.nodes, p.heads_q, keys]).into());
    args.extend(outputs(&mut plan, &p).map(Arg::from));
    args.push(kind_of(p.dtype).into());
    args.extend([p.nodes, p.seq_k, p.heads_q, p.heads_kv, p.head_dim].map(Arg::from));
    args.push(Arg::F32(p.problem().scale as f32));
    let grid = blocks(p.batch * p.nodes * p.heads_q)?;
    let module = "decoding_tree_attention_naive";
    plan.launch(module, "tree_attention", grid, [128, 1, 1], 0, &args);
    Ok(plan)
}

/// Keys of a tile.
const KEYS: usize = 64;

/// Values of a tile's rows.
const WIDTH: usize = 128;

/// One kernel that takes the nodes and the heads of a group as rows and splits the keys over blocks.
struct Split {
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
    let p = case.params::<Params>()?;
    if p.dtype == DType::F32 {
        return Err(Unsupported("tensor cores multiply 16 bits, not f32".into()));
    }
    if !p.head_dim.is_multiple_of(8) {
        return Err(Unsupported(format!("head_dim {} is no multiple of 8", p.head_dim)));
    }
    let warps = if p.nodes * p.problem().group() > 64 { 8 } else { 4 };
    let rows = 16 * warps;
    let split = Split {
        module: "decoding_tree_attention_tensor_core",
        threads: 32 * warps,
        rows,
        shared: 4 * KEYS * WIDTH * 2 + rows * (WIDTH * 2 + KEYS * 2 + 8),
        rest: vec![i32::from(p.dtype == DType::Bf16).into()],
    };
    split.plan(&p, inputs)
}

/// f32 on CUDA cores.
pub(super) fn tiled(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let p = case.params::<Params>()?;
    if p.dtype != DType::F32 {
        return Err(Unsupported(format!("only f32, not {}", p.dtype.name())));
    }
    let tiles = (2 * WIDTH + KEYS) * (KEYS + 4) * DType::F32.bytes();
    let split = Split {
        module: "decoding_tree_attention_tiled",
        threads: 256,
        rows: 64,
        shared: tiles + 8 * KEYS,
        rest: vec![],
    };
    split.plan(&p, inputs)
}

impl Split {
    /// Blocks that take a stretch of the keys, then their combination.
    fn plan(self, p: &Params, inputs: &Tensors) -> Result<Plan, Unsupported> {
        /// Blocks that a large device holds at once, two on each processor: a few more would wait for all of them.
        const BLOCKS: usize = 264;
        /// Tiles of keys that are worth a block.
        const LEAST_TILES: usize = 2;
        if p.head_dim > WIDTH {
            return Err(Unsupported(format!("head_dim {} is more than {WIDTH}", p.head_dim)));
        }
        let rows = p.nodes * p.problem().group();
        let tiles = rows.div_ceil(self.rows) * p.heads_kv * p.batch;
        let key_tiles = p.seq_k.div_ceil(KEYS) + p.nodes.div_ceil(KEYS);
        let most = key_tiles.div_ceil(LEAST_TILES).max(1);
        let splits = (BLOCKS / tiles.max(1)).clamp(1, most);

        let mut plan = Plan::new();
        let mut args = input_args(&mut plan, inputs);
        let [o, lse] = outputs(&mut plan, p);
        let all_rows = p.batch * p.nodes * p.heads_q;
        let sums = plan.scratch("sums", DType::F32, &[splits, all_rows, p.head_dim]);
        let stats = plan.scratch("stats", DType::F32, &[splits, all_rows, 2]);
        args.extend([sums, stats].map(Arg::from));
        args.extend([p.batch.into(), Arg::I32(p.nodes as i32)]);
        args.extend([p.seq_k, p.heads_q, p.heads_kv].map(Arg::from));
        args.extend([p.head_dim as i32, splits as i32].map(Arg::from));
        args.extend(self.rest);
        args.push(Arg::F32(p.problem().scale as f32));
        let grid = blocks(tiles * splits)?;
        plan.launch(self.module, "partial", grid, [self.threads, 1, 1], self.shared, &args);

        let sizes = [all_rows, p.head_dim, splits].map(Arg::from);
        let buffers = [sums, stats, o, lse].map(Arg::from);
        let mut args = [&buffers[..], &[kind_of(p.dtype).into()]].concat();
        args.extend(sizes);
        let (module, grid) = ("attention_decode_split_kv", blocks(all_rows)?);
        plan.launch(module, "combine", grid, [128, 1, 1], 0, &args);
        Ok(plan)
    }
}
