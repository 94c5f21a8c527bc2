//! Plans of `decoding.typical`.

use touchstone_reference::{Case, DType, Tensors, decoding::typical::Params};

use super::tree::outputs;
use crate::{
    plan::{Arg, Plan, blocks, threads},
    variant::Unsupported,
};

pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "decoding_typical_naive";
    let params: Params = case.params()?;
    let &Params { batch, nodes, vocab, epsilon, delta, .. } = &params;
    let mut plan = Plan::new();
    let [p, draft, parents, first_child] =
        ["target_probs", "draft_tokens", "parents", "first_child"]
            .map(|name| Arg::from(plan.input(inputs, name)));
    let [accepted, path, tokens] = outputs(&mut plan, batch, nodes).map(Arg::from);
    let entropies = Arg::from(plan.scratch("entropies", DType::F64, &[batch, nodes]));
    let (grid, block) = threads(batch * nodes);
    let args = [p, first_child, entropies, (batch * nodes).into(), vocab.into()];
    plan.launch(MODULE, "entropies_f32", grid, block, 0, &args);
    let buffers = [p, draft, parents, entropies, accepted, path, tokens];
    let rule = [epsilon, delta].map(Arg::from);
    let args = [&buffers[..], &[batch, nodes, vocab].map(Arg::from), &rule].concat();
    plan.launch(MODULE, "choose_f32", blocks(batch.div_ceil(32))?, [32, 1, 1], 0, &args);
    Ok(plan)
}

/// Tokens of a segment.
const SEGMENT: usize = 8192;
/// Nodes of a tree in shared memory.
const MAX_NODES: usize = 512;

pub(super) fn split(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "decoding_typical_split";
    let params: Params = case.params()?;
    let &Params { batch, nodes, vocab, epsilon, delta, .. } = &params;
    if nodes > MAX_NODES {
        return Err(Unsupported(format!(
            "a tree of {nodes} nodes; shared memory takes {MAX_NODES}"
        )));
    }
    let segments = vocab.div_ceil(SEGMENT);
    let mut plan = Plan::new();
    let [p, draft, parents, first_child] =
        ["target_probs", "draft_tokens", "parents", "first_child"]
            .map(|name| Arg::from(plan.input(inputs, name)));
    let [accepted, path, tokens] = outputs(&mut plan, batch, nodes).map(Arg::from);
    let sums = Arg::from(plan.scratch("sums", DType::F32, &[batch, nodes, segments]));
    let [keys, done] = [("keys", DType::U64), ("done", DType::U32)].map(|(name, dtype)| {
        let buffer = plan.scratch(name, dtype, &[batch]);
        plan.fill(buffer, 0);
        Arg::from(buffer)
    });
    let sizes = [Arg::I32(nodes as i32), vocab.into(), SEGMENT.into(), Arg::I32(segments as i32)];
    let rule = [epsilon, delta].map(Arg::from);
    let args = [&[p, draft, parents, first_child, sums][..], &sizes, &rule].concat();
    let grid = blocks(batch * nodes * segments)?;
    plan.launch(MODULE, "entropies_f32", grid, [256, 1, 1], 0, &args);
    let buffers = [p, draft, parents, first_child, sums, keys, done, accepted, path, tokens];
    let args = [&buffers[..], &sizes, &rule].concat();
    plan.launch(MODULE, "choose_f32", blocks(batch * segments)?, [256, 1, 1], 0, &args);
    Ok(plan)
}
