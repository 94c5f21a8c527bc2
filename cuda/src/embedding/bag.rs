//! Plans of `embedding.bag`.

use touchstone_reference::{
    Case, Tensors,
    embedding::{
        Storage,
        bag::{Mode, Params},
    },
};

use super::{lanes, suffix, threads, whole_words};
use crate::{
    plan::{Arg, BufferId, Plan},
    variant::Unsupported,
};

/// The kernels' number for a mode.
fn mode(mode: Mode) -> Arg {
    Arg::I32(match mode {
        Mode::Sum => 0,
        Mode::Mean => 1,
        Mode::Max => 2,
    })
}

/// The plan without its launch, and the arguments that both kernels begin with.
fn start(case: &Case, inputs: &Tensors) -> Result<(Params, Plan, Vec<Arg>), Unsupported> {
    let params: Params = case.params()?;
    let mut plan = Plan::new();
    let table = plan.input(inputs, "table");
    let scales = inputs.get("scales").map(|_| plan.input(inputs, "scales"));
    let indices = plan.input(inputs, "indices");
    let offsets = plan.input(inputs, "offsets");
    let weights = inputs.get("weights").map(|_| plan.input(inputs, "weights"));
    let output = plan.output("output", params.table.output(), &[params.bags, params.dim]);
    let args = vec![
        table.into(),
        scales.into(),
        indices.into(),
        offsets.into(),
        weights.into(),
        output.into(),
        params.bags.into(),
    ];
    Ok((params, plan, args))
}

pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let (params, mut plan, args) = start(case, inputs)?;
    launch(&mut plan, params.table, args, [params.bags, params.dim], params.mode, None);
    Ok(plan)
}

pub(super) fn vectorized(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let (params, mut plan, args) = start(case, inputs)?;
    let words = whole_words(params.dim, params.table.dtype(), 16)?;
    launch(&mut plan, params.table, args, [params.bags, params.dim], params.mode, Some(words));
    Ok(plan)
}

pub(super) fn by_lanes(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const THREADS: usize = 128;
    let (params, mut plan, mut args) = start(case, inputs)?;
    let words = whole_words(params.dim, params.table.dtype(), 16)?;
    args.extend([words.into(), Arg::I32(lanes(words) as i32), mode(params.mode)]);
    let symbol = format!("bag_{}", suffix(params.table));
    let blocks = if words == 0 { 0 } else { (params.bags * lanes(words)).div_ceil(THREADS) };
    plan.launch("embedding_bag_lanes", symbol, [blocks, 1, 1], [THREADS, 1, 1], 0, &args);
    Ok(plan)
}

/// Pools bags element by element, or by so many 16-byte words a row.
fn launch(
    plan: &mut Plan,
    table: Storage,
    mut args: Vec<Arg>,
    [bags, dim]: [usize; 2],
    how: Mode,
    words: Option<usize>,
) {
    const WARPS: usize = 4;
    let symbol = format!("bag_{}", suffix(table));
    let Some(words) = words else {
        args.extend([dim.into(), mode(how)]);
        let (grid, block) = threads(bags * dim);
        return plan.launch("embedding_bag_naive", symbol, grid, block, 0, &args);
    };
    args.extend([words.into(), Arg::I32(lanes(words) as i32), mode(how)]);
    let blocks = if words == 0 { 0 } else { bags.div_ceil(WARPS) };
    plan.launch("embedding_bag_vectorized", symbol, [blocks, 1, 1], [32 * WARPS, 1, 1], 0, &args);
}

/// Sums of f32 rows of a table over bags of indices, as one step of another plan: table, indices, offsets, output; by whole
/// words where `words` is said.
pub(crate) fn sum_of_rows(
    plan: &mut Plan,
    [table, indices, offsets, output]: [BufferId; 4],
    bags: usize,
    dim: usize,
    words: bool,
) {
    let mut args = vec![table.into(), Arg::Null, indices.into(), offsets.into(), Arg::Null];
    args.extend([output.into(), Arg::from(bags)]);
    launch(plan, Storage::F32, args, [bags, dim], Mode::Sum, words.then_some(dim / 4));
}
