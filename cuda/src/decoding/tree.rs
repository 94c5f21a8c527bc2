//! Plans of `decoding.tree`.

use touchstone_reference::{
    Case, DType, Tensors,
    decoding::tree::{Drafts, Params},
};

use crate::{
    plan::{Arg, BufferId, Plan, blocks},
    variant::Unsupported,
};

/// The number by which the kernels know how children are drawn.
fn number(drafts: Drafts) -> Arg {
    Arg::I32(match drafts {
        Drafts::Independent => 0,
        Drafts::Distinct => 1,
        Drafts::Top => 2,
    })
}

/// The outputs: accepted, path, tokens.
pub(super) fn outputs(plan: &mut Plan, batch: usize, nodes: usize) -> [BufferId; 3] {
    [
        plan.output("accepted", DType::I32, &[batch]),
        plan.output("path", DType::I32, &[batch, nodes]),
        plan.output("tokens", DType::I32, &[batch, nodes]),
    ]
}

pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let mut plan = Plan::new();
    let given = GIVEN.map(|name| plan.input(inputs, name));
    walk(&mut plan, &case.params()?, given)?;
    Ok(plan)
}

/// What the kernels take, in their order; [`walk_together`] takes the parents behind the draft's tokens.
pub(super) const GIVEN: [&str; 7] = [
    "draft_probs",
    "target_probs",
    "draft_tokens",
    "first_child",
    "next_sibling",
    "accept_u",
    "sample_u",
];

/// A thread a row, of buffers as [`GIVEN`] names them.
pub(super) fn walk(
    plan: &mut Plan,
    params: &Params,
    given: [BufferId; 7],
) -> Result<[BufferId; 3], Unsupported> {
    let &Params { batch, nodes, vocab, drafts, .. } = params;
    let mut args: Vec<Arg> = given.map(Arg::from).to_vec();
    let outputs = outputs(plan, batch, nodes);
    args.extend(outputs.map(Arg::from));
    args.extend([batch.into(), nodes.into(), vocab.into(), number(drafts)]);
    let grid = blocks(batch.div_ceil(32))?;
    plan.launch("decoding_tree_naive", "tree_f32", grid, [32, 1, 1], 0, &args);
    Ok(outputs)
}

/// Blocks of a row at most: each holds the sums of all in shared memory, and all must be able to run at once.
const MAX_PARTS: usize = 16;
/// Blocks that fill the chip twice over.
const BLOCKS: usize = 264;
/// Tokens of a part: at least so many that a thread has two loads of each distribution (with one, sixteen parts of a
/// vocabulary of 32000 took a tenth longer than eight on an H200), at most so many that two blocks share the memory of a
/// multiprocessor (8 bytes a token).
const SEGMENT: std::ops::RangeInclusive<usize> = 4096..=12_288;
/// Tokens of a part that a block can hold at all, beside the tree.
const MAX_SEGMENT: usize = 22_000;
/// Nodes of a tree in shared memory, 24 bytes each.
const MAX_NODES: usize = 2048;

pub(super) fn group(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let mut plan = Plan::new();
    let given = GIVEN.map(|name| plan.input(inputs, name));
    let parents = plan.input(inputs, "parents");
    walk_together(&mut plan, &case.params()?, given, parents)?;
    Ok(plan)
}

/// A group of blocks a row, of buffers as [`GIVEN`] names them.
pub(super) fn walk_together(
    plan: &mut Plan,
    params: &Params,
    given: [BufferId; 7],
    parents: BufferId,
) -> Result<[BufferId; 3], Unsupported> {
    let &Params { batch, nodes, vocab, drafts, .. } = params;
    if nodes > MAX_NODES {
        return Err(Unsupported(format!(
            "a tree of {nodes} nodes; shared memory takes {MAX_NODES}"
        )));
    }
    let wanted = (BLOCKS / batch.max(1)).clamp(1, MAX_PARTS);
    let segment = vocab.div_ceil(wanted).clamp(*SEGMENT.start(), *SEGMENT.end());
    let segment = segment.max(vocab.div_ceil(MAX_PARTS)).next_multiple_of(4);
    if segment > MAX_SEGMENT {
        return Err(Unsupported(format!("{vocab} tokens do not fit {MAX_PARTS} blocks")));
    }
    let parts = vocab.div_ceil(segment);
    let mut args: Vec<Arg> = given.map(Arg::from).to_vec();
    args.insert(3, parents.into());
    let outputs = outputs(plan, batch, nodes);
    args.extend(outputs.map(Arg::from));
    let state = plan.scratch("state", DType::U32, &[1 + batch]);
    let sums = plan.scratch("residual_sums", DType::F32, &[batch, 2, MAX_PARTS]);
    plan.fill(state, 0);
    args.extend([state, sums].map(Arg::from));
    args.extend([Arg::I32(nodes as i32), vocab.into(), segment.into()]);
    args.extend([Arg::I32(parts as i32), number(drafts)]);
    let shared = 8 * segment + 24 * nodes;
    let grid = blocks(batch * parts)?;
    plan.launch("decoding_tree_group", "tree_f32", grid, [512, 1, 1], shared, &args);
    Ok(outputs)
}
