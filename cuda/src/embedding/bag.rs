//! Plans of `embedding.bag`.

use touchstone_reference::{
    Case, Tensors,
    embedding::bag::{Mode, Params},
};

use super::{lanes, suffix, threads, whole_words};
use crate::{
    plan::{Arg, Plan},
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
    let (params, mut plan, mut args) = start(case, inputs)?;
    args.extend([params.dim.into(), mode(params.mode)]);
    let (grid, block) = threads(params.bags * params.dim);
    let symbol = format!("bag_{}", suffix(params.table));
    plan.launch("embedding_bag_naive", symbol, grid, block, 0, &args);
    Ok(plan)
}

pub(super) fn vectorized(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const WARPS: usize = 4;
    let (params, mut plan, mut args) = start(case, inputs)?;
    let words = whole_words(params.dim, params.table.dtype(), 16)?;
    args.extend([words.into(), Arg::I32(lanes(words) as i32), mode(params.mode)]);
    let blocks = if words == 0 { 0 } else { params.bags.div_ceil(WARPS) };
    let symbol = format!("bag_{}", suffix(params.table));
    plan.launch("embedding_bag_vectorized", symbol, [blocks, 1, 1], [32 * WARPS, 1, 1], 0, &args);
    Ok(plan)
}
