//! Plans of `decoding.block`.

use touchstone_reference::{Case, Tensors, decoding::block::Params};

use crate::{acceptance, plan::Plan, variant::Unsupported};

pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let params: Params = case.params()?;
    let mut plan = Plan::new();
    let b = acceptance::Buffers::new(&mut plan, &params.chain(), inputs);
    let args = b.args(&params.chain());
    let blocks = params.batch.div_ceil(32);
    plan.launch("decoding_block_naive", "block_f32", [blocks, 1, 1], [32, 1, 1], 0, &args);
    Ok(plan)
}
