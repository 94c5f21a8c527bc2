//! Plans of `decoding.block`.

use touchstone_reference::{Case, DType, Tensors, decoding::block::Params};

use crate::{
    acceptance::Buffers,
    plan::{Arg, Plan, blocks},
    variant::Unsupported,
};

pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let chain = case.params::<Params>()?.chain();
    let mut plan = Plan::new();
    let args = Buffers::new(&mut plan, &chain, inputs).args(&chain);
    let grid = blocks(chain.batch.div_ceil(32))?;
    plan.launch("decoding_block_naive", "block_f32", grid, [32, 1, 1], 0, &args);
    Ok(plan)
}

/// Tokens of a segment, as in chain acceptance.
const SEGMENT: usize = 8192;
/// Draft tokens of a row, whose products are kept in shared memory.
const MAX_LENGTH: usize = 255;

pub(super) fn split(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "decoding_block_split";
    let chain = case.params::<Params>()?.chain();
    let (batch, k, vocab) = (chain.batch, chain.draft_len, chain.vocab);
    if k > MAX_LENGTH {
        return Err(Unsupported(format!("{k} draft tokens; shared memory takes {MAX_LENGTH}")));
    }
    let segments = vocab.div_ceil(SEGMENT);
    let mut plan = Plan::new();
    let b = Buffers::new(&mut plan, &chain, inputs);
    let sums = plan.scratch("sums", DType::F32, &[batch, k + 1, segments]);
    let sizes = [k, vocab, SEGMENT, segments].map(Arg::from);
    let read = [b.draft_probs, b.target_probs, b.draft_tokens, b.draft_lengths, b.accept_u];
    let args = |more: &[_]| {
        [&read.map(Arg::from)[..], &more.iter().map(|&b| Arg::from(b)).collect::<Vec<_>>(), &sizes]
            .concat()
    };
    let grid = blocks(batch * (k + 1) * segments)?;
    plan.launch(MODULE, "sums_f32", grid, [256, 1, 1], 0, &args(&[sums]));
    let rest = [b.sample_u, sums, b.accepted, b.tokens];
    plan.launch(MODULE, "locate_f32", blocks(batch)?, [1024, 1, 1], 0, &args(&rest));
    Ok(plan)
}
