//! Plans of `embedding.gather`.

use touchstone_reference::{
    Case, Tensors,
    embedding::{Storage, gather::Params},
};

use super::{lanes, suffix, threads, whole_words};
use crate::{
    plan::{Arg, BufferId, Plan},
    variant::Unsupported,
};

/// The buffers both variants share.
struct Buffers {
    table: BufferId,
    scales: Option<BufferId>,
    indices: BufferId,
    output: BufferId,
}

fn start(case: &Case, inputs: &Tensors) -> Result<(Params, Plan, Buffers), Unsupported> {
    let params: Params = case.params()?;
    let mut plan = Plan::new();
    let shape = [params.tokens, params.dim];
    let buffers = Buffers {
        table: plan.input(inputs, "table"),
        scales: inputs.get("scales").map(|_| plan.input(inputs, "scales")),
        indices: plan.input(inputs, "indices"),
        output: plan.output("output", params.table.output(), &shape),
    };
    Ok((params, plan, buffers))
}

pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let (params, mut plan, buffers) = start(case, inputs)?;
    let symbol = format!("gather_{}_{}", suffix(params.table), params.index.dtype().name());
    let (grid, block) = threads(params.tokens * params.dim);
    let args: [Arg; 6] = [
        buffers.table.into(),
        buffers.scales.into(),
        buffers.indices.into(),
        buffers.output.into(),
        params.tokens.into(),
        params.dim.into(),
    ];
    plan.launch("embedding_gather_naive", symbol, grid, block, 0, &args);
    Ok(plan)
}

pub(super) fn vectorized(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    /// Rows in flight of a thread, `FLIGHT` of the kernel.
    const FLIGHT: usize = 4;
    let (params, mut plan, buffers) = start(case, inputs)?;
    let int8 = params.table == Storage::Int8;
    let words = whole_words(params.dim, params.table.dtype(), if int8 { 4 } else { 16 })?;
    if params.tokens >= 1 << 31 {
        return Err(Unsupported(format!("{} tokens are counted with 31 bits", params.tokens)));
    }
    let lanes = lanes(words);
    let what = if int8 { "int8" } else { "words" };
    let symbol = format!("gather_{what}_{}", params.index.dtype().name());
    let mut args: Vec<Arg> = vec![buffers.table.into()];
    args.extend(buffers.scales.map(Arg::from));
    args.extend::<[Arg; 2]>([buffers.indices.into(), buffers.output.into()]);
    args.extend::<[Arg; 3]>([params.tokens.into(), words.into(), Arg::I32(lanes as i32)]);
    let blocks = if words == 0 { 0 } else { params.tokens.div_ceil(256 / lanes * FLIGHT) };
    plan.launch("embedding_gather_vectorized", symbol, [blocks, 1, 1], [256, 1, 1], 0, &args);
    Ok(plan)
}
