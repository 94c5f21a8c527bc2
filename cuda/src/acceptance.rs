//! CUDA variants of speculative-sampling acceptance.

mod chain_logits;

use touchstone_reference::{
    Case, DType, Tensors,
    acceptance::chain::{Mode, Params},
};

use crate::{
    plan::{Arg, BufferId, Plan, blocks},
    variant::{Unsupported, Variant},
};

/// The variants of this vertical, in ladder order.
pub static VARIANTS: &[Variant] = &[
    Variant {
        op: "acceptance.chain",
        name: "naive",
        idea: "one thread walks one row",
        deterministic: true,
        plan: |case, inputs| {
            rowwise(case, inputs, "acceptance_naive", |batch| (batch.div_ceil(32), 32))
        },
    },
    Variant {
        op: "acceptance.chain",
        name: "block",
        idea: "one block a row: segment sums in 16-byte loads, then a scan of one segment alone",
        deterministic: true,
        plan: |case, inputs| rowwise(case, inputs, "acceptance_block", |batch| (batch, 512)),
    },
    Variant {
        op: "acceptance.chain",
        name: "split",
        idea: "many blocks a row, so that small batches fill the chip; a second kernel joins the segments",
        deterministic: true,
        plan: split,
    },
    Variant {
        op: "acceptance.chain",
        name: "overlapped",
        idea: "the second kernel begins while the first still runs; what is read once leaves the cache first",
        deterministic: true,
        plan: overlapped,
    },
    Variant {
        op: "acceptance.chain",
        name: "resident",
        idea: "one block a row keeps the weights on chip from their sum to the search, which no launch precedes",
        deterministic: true,
        plan: resident,
    },
    Variant {
        op: "acceptance.chain_logits",
        name: "naive",
        idea: "a warp normalizes a row of logits, then one thread walks one row of the batch",
        deterministic: true,
        plan: chain_logits::naive,
    },
    Variant {
        op: "acceptance.chain_logits",
        name: "block",
        idea: "one block a row reads position after position, no further than the first rejection",
        deterministic: true,
        plan: chain_logits::block,
    },
    Variant {
        op: "acceptance.chain_logits",
        name: "split",
        idea: "one launch of many blocks a row takes all positions at once, but for those known to be rejected",
        deterministic: true,
        plan: chain_logits::split,
    },
];

/// The buffers every variant has, of block verification too.
pub(crate) struct Buffers {
    pub(crate) draft_probs: BufferId,
    pub(crate) target_probs: BufferId,
    pub(crate) draft_tokens: BufferId,
    pub(crate) draft_lengths: BufferId,
    pub(crate) accept_u: BufferId,
    pub(crate) sample_u: BufferId,
    pub(crate) accepted: BufferId,
    pub(crate) tokens: BufferId,
}

impl Buffers {
    pub(crate) fn new(plan: &mut Plan, params: &Params, inputs: &Tensors) -> Self {
        let &Params { batch, draft_len, .. } = params;
        Self {
            draft_probs: plan.input(inputs, "draft_probs"),
            target_probs: plan.input(inputs, "target_probs"),
            draft_tokens: plan.input(inputs, "draft_tokens"),
            draft_lengths: plan.input(inputs, "draft_lengths"),
            accept_u: plan.input(inputs, "accept_u"),
            sample_u: plan.input(inputs, "sample_u"),
            accepted: plan.output("accepted", DType::I32, &[batch]),
            tokens: plan.output("tokens", DType::I32, &[batch, draft_len + 1]),
        }
    }

    /// All of them, then batch, draft length and vocabulary: the signature of kernels of one launch.
    pub(crate) fn args(&self, params: &Params) -> Vec<Arg> {
        let buffers = [
            self.draft_probs,
            self.target_probs,
            self.draft_tokens,
            self.draft_lengths,
            self.accept_u,
            self.sample_u,
            self.accepted,
            self.tokens,
        ];
        let sizes = [params.batch, params.draft_len, params.vocab];
        buffers.into_iter().map(Arg::from).chain(sizes.map(Arg::from)).collect()
    }

    /// Those that decide a prefix, then the sums of segments: for a kernel that makes them.
    fn of_sums(&self, sums: BufferId) -> [BufferId; 7] {
        let [q, p] = [self.draft_probs, self.target_probs];
        [q, p, self.draft_tokens, self.draft_lengths, self.accept_u, self.accepted, sums]
    }

    /// For a kernel that finds the next token by the sums.
    fn of_locate(&self, sums: BufferId) -> [BufferId; 8] {
        let [q, p, draft, lengths, _, accepted, sums] = self.of_sums(sums);
        [q, p, draft, lengths, self.sample_u, accepted, sums, self.tokens]
    }
}

/// One launch whose threads keep to one row: `launch` gives blocks and threads of a block for a batch.
fn rowwise(
    case: &Case,
    inputs: &Tensors,
    module: &'static str,
    launch: fn(usize) -> (usize, usize),
) -> Result<Plan, Unsupported> {
    let params: Params = case.params()?;
    let mut plan = Plan::new();
    let b = Buffers::new(&mut plan, &params, inputs);
    let symbol = match params.mode {
        Mode::Sample => "sample_f32",
        Mode::Greedy => "greedy_f32",
    };
    let (blocks, threads) = launch(params.batch);
    plan.launch(module, symbol, [blocks, 1, 1], [threads, 1, 1], 0, &b.args(&params));
    Ok(plan)
}

/// Segments of a row at most: a thread of the second kernel holds the sums of each.
const MAX_SEGMENTS: usize = 256;

/// Tokens of a segment. Greedy, 32 KiB of a distribution, enough to keep 256 threads streaming. To sample, what 128
/// threads load at once: half of that where there are few rows, so that there are blocks enough.
fn segment(batch: usize, vocab: usize, mode: Mode) -> usize {
    /// Blocks of 128 threads that a device runs at once.
    const BLOCKS: usize = 2048;
    let wanted = match mode {
        Mode::Greedy => 8192,
        Mode::Sample if batch * vocab > 1024 * BLOCKS => 2048,
        Mode::Sample => 1024,
    };
    wanted.max(vocab.div_ceil(MAX_SEGMENTS).next_multiple_of(4))
}

fn split(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let params: Params = case.params()?;
    let &Params { batch, draft_len: k, vocab, mode, .. } = &params;
    let segment = segment(batch, vocab, mode);
    let segments = vocab.div_ceil(segment);
    if batch * (k + 1) * segments > i32::MAX as usize {
        return Err(Unsupported("batch · (draft_len + 1) · segments beyond 2³¹ blocks".into()));
    }
    let mut plan = Plan::new();
    let b = Buffers::new(&mut plan, &params, inputs);
    let sizes: [Arg; 4] = [k.into(), vocab.into(), segment.into(), segments.into()];
    match mode {
        Mode::Sample => {
            // Four tokens a thread.
            let locating = (segment / 4).next_multiple_of(32).clamp(MAX_SEGMENTS, 1024);
            let sums = plan.scratch("sums", DType::F32, &[batch, segments, 2]);
            launch(&mut plan, SPLIT, "sums_f32", batch * segments, 128, &b.of_sums(sums), &sizes);
            launch(&mut plan, SPLIT, "locate_f32", batch, locating, &b.of_locate(sums), &sizes);
        }
        Mode::Greedy => {
            let keys = plan.scratch("keys", DType::U64, &[batch, k + 1, segments]);
            let first = [b.target_probs, b.draft_lengths, keys];
            let second = [b.draft_tokens, b.draft_lengths, keys, b.accepted, b.tokens];
            let joined = [k.into(), segments.into()];
            launch(&mut plan, SPLIT, "maxima_f32", batch * (k + 1) * segments, 256, &first, &sizes);
            launch(&mut plan, SPLIT, "choose_f32", batch, 32, &second, &joined);
        }
    }
    Ok(plan)
}

/// Refuses greedy drafts.
fn only_samples(mode: Mode) -> Result<(), Unsupported> {
    match mode {
        Mode::Greedy => Err(Unsupported("it samples; greedy drafts are for split".into())),
        Mode::Sample => Ok(()),
    }
}

/// The same for sampling, in launches that overlap.
fn overlapped(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    /// Tokens of a segment: what a warp loads at once, which of unaligned rows is half of that. Half, too, where there
    /// are few tokens, so that more warps load.
    const SEGMENT: usize = 512;
    const FEW_TOKENS: usize = 2 << 20;
    /// Segments of a row at most: a thread of the second kernel takes one.
    const SEGMENTS: usize = 1024;
    /// Warps of a block of the first kernel.
    const WARPS: usize = 4;
    /// Bytes of the rows that are read beyond which they are not worth keeping in the L2 cache.
    const KEPT_BYTES: usize = 24 << 20;
    let params: Params = case.params()?;
    let &Params { batch, draft_len: k, vocab, mode, .. } = &params;
    only_samples(mode)?;
    let aligned = vocab % 4 == 0;
    let wanted = if aligned && batch * vocab > FEW_TOKENS { SEGMENT } else { SEGMENT / 2 };
    let segment = wanted.max(vocab.div_ceil(SEGMENTS).next_multiple_of(128));
    let segments = vocab.div_ceil(segment);
    let grid = blocks(batch * segments.div_ceil(WARPS))?[0];
    let mut plan = Plan::new();
    let b = Buffers::new(&mut plan, &params, inputs);
    let sizes: [Arg; 4] = [k.into(), vocab.into(), segment.into(), segments.into()];
    let sums = plan.scratch("sums", DType::F32, &[batch, segments, 2]);
    let once = batch * vocab * 8 > KEPT_BYTES && aligned;
    let symbol = if once { "sums_once_f32" } else { "sums_f32" };
    launch(&mut plan, OVERLAPPED, symbol, grid, 32 * WARPS, &b.of_sums(sums), &sizes);
    let locating = segments.next_multiple_of(32);
    launch(&mut plan, OVERLAPPED, "locate_f32", batch, locating, &b.of_locate(sums), &sizes);
    plan.overlap_last();
    Ok(plan)
}

/// One block a row, which keeps it on chip.
fn resident(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const THREADS: usize = 512;
    /// Bytes of a word, and tokens of one.
    const WORD: usize = 16;
    const TOKENS: usize = 4;
    /// Words of a thread in a turn.
    const WORDS: usize = 4;
    /// Turns of a block at most: the last one's words stay in registers, and shared memory has room for the others' of two
    /// blocks.
    const TURNS: usize = 4;
    let params: Params = case.params()?;
    let &Params { batch, vocab, mode, .. } = &params;
    only_samples(mode)?;
    if !vocab.is_multiple_of(TOKENS) {
        return Err(Unsupported("rows must be whole words of 16 bytes".into()));
    }
    let turns = vocab.div_ceil(THREADS * WORDS * TOKENS);
    if turns > TURNS {
        return Err(Unsupported("the weights of two rows do not fit on a multiprocessor".into()));
    }
    let mut plan = Plan::new();
    let b = Buffers::new(&mut plan, &params, inputs);
    let shared = turns.saturating_sub(1) * THREADS * WORDS * WORD;
    let args = b.args(&params);
    plan.launch(
        "acceptance_resident",
        "sample_f32",
        blocks(batch)?,
        [THREADS, 1, 1],
        shared,
        &args,
    );
    Ok(plan)
}

const SPLIT: &str = "acceptance_split";
const OVERLAPPED: &str = "acceptance_overlapped";

fn launch(
    plan: &mut Plan,
    module: &'static str,
    symbol: &str,
    blocks: usize,
    threads: usize,
    buffers: &[BufferId],
    sizes: &[Arg],
) {
    let args: Vec<Arg> = buffers.iter().map(|&b| b.into()).chain(sizes.iter().copied()).collect();
    plan.launch(module, symbol, [blocks, 1, 1], [threads, 1, 1], 0, &args);
}
