//! Plans of `embedding.word2vec`.

use touchstone_reference::{Case, DType, Tensors, embedding::word2vec::Params};

use super::{segment_sum::SegmentSum, threads};
use crate::{
    plan::{Arg, BufferId, Plan},
    variant::Unsupported,
};

/// Warps of a block of `word2vec_errors`, a warp a target.
const WARPS: usize = 8;

/// A step in the making: its buffers, and the pieces the variants share.
struct Step {
    params: Params,
    plan: Plan,
    in_table: BufferId,
    out_table: BufferId,
    centers: BufferId,
    contexts: BufferId,
    negatives: BufferId,
    in_updated: BufferId,
    out_updated: BufferId,
    loss: BufferId,
    /// label − σ(score) of each target.
    factors: BufferId,
    /// Minus the gradient by each table.
    ascent_in: BufferId,
    ascent_out: BufferId,
}

impl Step {
    fn new(case: &Case, inputs: &Tensors) -> Result<Self, Unsupported> {
        let params: Params = case.params()?;
        let mut plan = Plan::new();
        let table = [params.vocab, params.dim];
        let targets = params.batch * (1 + params.negatives);
        Ok(Self {
            in_table: plan.input(inputs, "in_table"),
            out_table: plan.input(inputs, "out_table"),
            centers: plan.input(inputs, "centers"),
            contexts: plan.input(inputs, "contexts"),
            negatives: plan.input(inputs, "negatives"),
            in_updated: plan.output("in_updated", DType::F32, &table),
            out_updated: plan.output("out_updated", DType::F32, &table),
            loss: plan.output("loss", DType::F32, &[1]),
            factors: plan.scratch("factors", DType::F32, &[targets]),
            ascent_in: plan.scratch("ascent_in", DType::F32, &table),
            ascent_out: plan.scratch("ascent_out", DType::F32, &table),
            params,
            plan,
        })
    }

    fn targets(&self) -> usize {
        self.params.batch * (1 + self.params.negatives)
    }

    /// The errors and the loss at the old tables; `words` get the center and the word of each target.
    fn errors(&mut self, words: Option<(BufferId, BufferId)>) {
        let (targets, params) = (self.targets(), self.params.clone());
        let blocks = targets.div_ceil(WARPS);
        let losses = self.plan.scratch("losses", DType::F32, &[blocks]);
        let errors: [Arg; 12] = [
            self.in_table.into(),
            self.out_table.into(),
            self.centers.into(),
            self.contexts.into(),
            self.negatives.into(),
            self.factors.into(),
            words.map(|w| w.0).into(),
            words.map(|w| w.1).into(),
            losses.into(),
            targets.into(),
            params.negatives.into(),
            params.dim.into(),
        ];
        let loss: [Arg; 4] = [losses.into(), self.loss.into(), blocks.into(), params.batch.into()];
        let module = "embedding_word2vec";
        let block = [32 * WARPS, 1, 1];
        self.plan.launch(module, "word2vec_errors", [blocks, 1, 1], block, 0, &errors);
        self.plan.launch(module, "word2vec_loss", [1, 1, 1], [1024, 1, 1], 0, &loss);
    }

    /// Both tables moved along the gradients.
    fn apply(mut self) -> Plan {
        let elements = self.params.vocab * self.params.dim;
        let (grid, block) = threads(elements);
        for (table, ascent, updated) in [
            (self.in_table, self.ascent_in, self.in_updated),
            (self.out_table, self.ascent_out, self.out_updated),
        ] {
            let lr = Arg::F32(self.params.lr as f32);
            let args = [table.into(), ascent.into(), updated.into(), lr, elements.into()];
            self.plan.launch("embedding_word2vec", "word2vec_apply", grid, block, 0, &args);
        }
        self.plan
    }
}

pub(super) fn atomic(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let mut step = Step::new(case, inputs)?;
    step.errors(None);
    step.plan.fill(step.ascent_in, 0);
    step.plan.fill(step.ascent_out, 0);
    let args: [Arg; 11] = [
        step.in_table.into(),
        step.out_table.into(),
        step.centers.into(),
        step.contexts.into(),
        step.negatives.into(),
        step.factors.into(),
        step.ascent_in.into(),
        step.ascent_out.into(),
        step.params.batch.into(),
        step.params.negatives.into(),
        step.params.dim.into(),
    ];
    let grid = [step.params.batch.div_ceil(8), 1, 1];
    step.plan.launch("embedding_word2vec_atomic", "word2vec_scatter", grid, [256, 1, 1], 0, &args);
    Ok(step.apply())
}

pub(super) fn sorted_segment(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let mut step = Step::new(case, inputs)?;
    let n = step.targets();
    let centers = step.plan.scratch("target_centers", DType::U32, &[n]);
    let words = step.plan.scratch("target_words", DType::U32, &[n]);
    step.errors(Some((centers, words)));
    let (vocab, dim) = (step.params.vocab, step.params.dim);
    // A target adds factor · out row of its word to its center, and factor · in row of its center to its word.
    for (name, keys, rows, terms, sums) in [
        ("by_center", centers, words, step.out_table, step.ascent_in),
        ("by_word", words, centers, step.in_table, step.ascent_out),
    ] {
        let (rows, factors, dtype) = (Some(rows), Some(step.factors), DType::F32);
        let sum = SegmentSum { keys, rows, factors, terms, dtype, sums, vocab, dim, n };
        sum.append(&mut step.plan, name)?;
    }
    Ok(step.apply())
}
