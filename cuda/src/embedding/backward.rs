//! Plans of `embedding.backward`.

use touchstone_reference::{Case, DType, Tensors, embedding::backward::Params};

use super::{segment_sum::SegmentSum, threads};
use crate::{
    plan::{BufferId, Plan},
    variant::Unsupported,
};

/// The buffers all variants share.
struct Buffers {
    d_output: BufferId,
    indices: BufferId,
    d_table: BufferId,
}

fn start(case: &Case, inputs: &Tensors) -> Result<(Params, Plan, Buffers), Unsupported> {
    let params: Params = case.params()?;
    let mut plan = Plan::new();
    let buffers = Buffers {
        d_output: plan.input(inputs, "d_output"),
        indices: plan.input(inputs, "indices"),
        d_table: plan.output("d_table", DType::F32, &[params.vocab, params.dim]),
    };
    Ok((params, plan, buffers))
}

pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let (params, mut plan, buffers) = start(case, inputs)?;
    let elements = params.vocab * params.dim;
    let steps = elements as f64 * params.tokens as f64;
    if steps > 1e11 {
        return Err(Unsupported(format!("vocab · dim · tokens = {steps:.0e} steps take too long")));
    }
    let (grid, block) = threads(elements);
    let args = [
        buffers.d_output.into(),
        buffers.indices.into(),
        buffers.d_table.into(),
        params.vocab.into(),
        params.dim.into(),
        params.tokens.into(),
    ];
    let symbol = format!("backward_{}", params.dtype.name());
    plan.launch("embedding_backward_naive", symbol, grid, block, 0, &args);
    Ok(plan)
}

pub(super) fn atomic(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let (params, mut plan, buffers) = start(case, inputs)?;
    plan.fill(buffers.d_table, 0);
    let (grid, block) = threads(params.tokens * params.dim);
    let args = [
        buffers.d_output.into(),
        buffers.indices.into(),
        buffers.d_table.into(),
        params.dim.into(),
        params.tokens.into(),
    ];
    let symbol = format!("backward_{}", params.dtype.name());
    plan.launch("embedding_backward_atomic", symbol, grid, block, 0, &args);
    Ok(plan)
}

pub(super) fn sorted_segment(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let (params, mut plan, buffers) = start(case, inputs)?;
    let sum = SegmentSum {
        keys: buffers.indices,
        rows: None,
        factors: None,
        terms: buffers.d_output,
        dtype: params.dtype,
        sums: buffers.d_table,
        vocab: params.vocab,
        dim: params.dim,
        n: params.tokens,
    };
    sum.append(&mut plan, "tokens")?;
    Ok(plan)
}
