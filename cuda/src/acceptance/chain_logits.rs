//! Plans of `acceptance.chain_logits`.

use touchstone_reference::{Case, DType, Tensors, acceptance::chain_logits::Params};

use crate::{
    plan::{Arg, Plan, blocks},
    variant::Unsupported,
};

/// A plan before its launches.
struct Start {
    params: Params,
    plan: Plan,
    /// What every kernel takes first: inputs, outputs, batch, draft length and vocabulary.
    args: Vec<Arg>,
}

impl Start {
    fn new(case: &Case, inputs: &Tensors) -> Result<Self, Unsupported> {
        let params: Params = case.params()?;
        let &Params { batch, draft_len, vocab, .. } = &params;
        let mut plan = Plan::new();
        let read = [
            "draft_logits",
            "target_logits",
            "temperature",
            "draft_tokens",
            "draft_lengths",
            "accept_u",
            "sample_u",
        ];
        let read = read.map(|name| plan.input(inputs, name));
        let accepted = plan.output("accepted", DType::I32, &[batch]);
        let tokens = plan.output("tokens", DType::I32, &[batch, draft_len + 1]);
        let buffers = read.into_iter().chain([accepted, tokens]).map(Arg::from);
        let args = buffers.chain([batch, draft_len, vocab].map(Arg::from)).collect();
        Ok(Self { plan, args, params })
    }

    /// One more launch, of a kernel for the type of the logits that takes `more` behind what all take.
    fn launch(
        &mut self,
        module: &'static str,
        kernel: &str,
        (blocks_, threads): (usize, usize),
        more: &[Arg],
    ) -> Result<(), Unsupported> {
        let args = [&self.args, more].concat();
        let symbol = format!("{kernel}_{}", self.params.dtype.name());
        self.plan.launch(module, symbol, blocks(blocks_)?, [threads, 1, 1], 0, &args);
        Ok(())
    }
}

pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "acceptance_logits_naive";
    let mut start = Start::new(case, inputs)?;
    let &Params { batch, draft_len, .. } = &start.params;
    let rows = batch * (2 * draft_len + 1);
    let norms = [start.plan.scratch("norms", DType::F64, &[rows, 2]).into()];
    start.launch(MODULE, "normalize", (rows.div_ceil(4), 128), &norms)?;
    start.launch(MODULE, "accept", (batch.div_ceil(32), 32), &norms)?;
    Ok(start.plan)
}

pub(super) fn block(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let mut start = Start::new(case, inputs)?;
    let batch = start.params.batch;
    start.launch("acceptance_logits_block", "accept", (batch, 512), &[])?;
    Ok(start.plan)
}

pub(super) fn split(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    /// Tokens of a segment: one turn of 256 threads with 32 logits each.
    const SEGMENT: usize = 8192;
    /// Segments of a row at most, whose sums the last block of a row keeps in shared memory.
    const MAX_SEGMENTS: usize = 64;
    /// Parts of a segment, of whole words.
    const WARPS: usize = 8;
    let mut start = Start::new(case, inputs)?;
    let &Params { batch, draft_len, vocab, .. } = &start.params;
    let segment = SEGMENT.max(vocab.div_ceil(MAX_SEGMENTS).next_multiple_of(8 * WARPS));
    let segments = vocab.div_ceil(segment);
    let places = batch * (draft_len + 1);
    let plan = &mut start.plan;
    let counters = plan.scratch("counters", DType::U32, &[1 + 2 * places + batch]);
    plan.fill(counters, 0);
    let parts = plan.scratch("parts", DType::U64, &[places, 2, segments]);
    let known = plan.scratch("known", DType::U64, &[places, 2]);
    let masses = plan.scratch("masses", DType::F32, &[batch, segments, WARPS, 2]);
    let more: Vec<Arg> = [counters, parts, known, masses]
        .map(Arg::from)
        .into_iter()
        .chain([segment, segments].map(|n| Arg::U32(n as u32)))
        .collect();
    start.launch("acceptance_logits_split", "accept", ((places + batch) * segments, 256), &more)?;
    Ok(start.plan)
}
