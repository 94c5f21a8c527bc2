//! The plan of `embedding.word2vec` that groups a batch's terms by the row they go to.

use touchstone_reference::{Case, DType, Tensors, embedding::word2vec::Params};

use super::whole_words;
use crate::{
    plan::{Arg, BufferId, Plan},
    variant::Unsupported,
};

const MODULE: &str = "embedding_word2vec_grouped";
/// Warps of a block, `WARPS` of the kernel.
const WARPS: usize = 8;
/// Threads of a block.
const THREADS: usize = 32 * WARPS;
/// Terms of a row that is taken by a few lanes, `FEW` of the kernel.
const FEW: usize = 16;
/// Rows of few terms that a block takes at once, 16 lanes each.
const FEW_ROWS: usize = THREADS / 16;
/// Terms of a piece of a longer row, `PIECE` of the kernel.
const PIECE: usize = 256;
/// Terms that a thread counts, `COUNTED` of the kernel.
const COUNTED: usize = 2;
/// Rows that a warp copies, `COPIED` of the kernel.
const COPIED: usize = 4;
/// Columns, and targets of a pair, that a warp holds at once.
const COLUMNS: usize = 128;
const HELD: usize = 6;
/// Most blocks that take pieces, and rows of few terms: about what a large device runs at once. What is left they take
/// in turns.
const PIECE_BLOCKS: usize = 1056;
const FEW_BLOCKS: usize = 1056;

/// Most pieces that `terms` terms make, whichever rows they go to: only a row of more than `FEW` has any.
fn most_pieces(terms: usize) -> usize {
    terms / PIECE + terms / (FEW + 1)
}

/// The operation's buffers, and how a batch's terms are grouped.
struct Grouped {
    params: Params,
    plan: Plan,
    terms: usize,
    pieces: usize,
    tables: [BufferId; 2],
    words: [BufferId; 3],
    updated: [BufferId; 2],
    loss: BufferId,
    /// `[2·vocab]` counts, then three sizes and the arrivals at each piece.
    counts: BufferId,
    starts: BufferId,
    ranks: BufferId,
    few: BufferId,
    listed: BufferId,
    entries: BufferId,
    names: BufferId,
    factors: BufferId,
    gradients: BufferId,
    losses: BufferId,
}

impl Grouped {
    fn new(case: &Case, inputs: &Tensors) -> Result<Self, Unsupported> {
        let params: Params = case.params()?;
        whole_words(params.dim, DType::F32, 16)?;
        let terms = params.batch * (2 + params.negatives);
        if terms >= 1 << 31 || params.vocab >= 1 << 29 {
            let sizes = format!("{terms} terms of {} words", params.vocab);
            return Err(Unsupported(format!("{sizes}: terms and rows are numbered with 31 bits")));
        }
        let (rows, pieces) = (2 * params.vocab, most_pieces(terms));
        let mut plan = Plan::new();
        let table = [params.vocab, params.dim];
        let targets = terms - params.batch;
        Ok(Self {
            terms,
            pieces,
            tables: ["in_table", "out_table"].map(|name| plan.input(inputs, name)),
            words: ["centers", "contexts", "negatives"].map(|name| plan.input(inputs, name)),
            updated: ["in_updated", "out_updated"]
                .map(|name| plan.output(name, DType::F32, &table)),
            loss: plan.output("loss", DType::F32, &[1]),
            counts: plan.scratch("counts", DType::U32, &[rows + 3 + pieces]),
            starts: plan.scratch("starts", DType::U32, &[rows]),
            ranks: plan.scratch("ranks", DType::U32, &[terms]),
            few: plan.scratch("few", DType::U32, &[rows.min(terms), 4]),
            listed: plan.scratch("pieces", DType::U32, &[pieces, 4]),
            entries: plan.scratch("entries", DType::U64, &[terms]),
            names: plan.scratch("names", DType::U32, &[terms]),
            factors: plan.scratch("factors", DType::F32, &[targets]),
            gradients: plan.scratch("gradients", DType::F32, &[params.batch, params.dim]),
            losses: plan.scratch("losses", DType::F32, &[params.batch.div_ceil(WARPS)]),
            params,
            plan,
        })
    }

    fn launch(&mut self, symbol: &str, blocks: usize, args: &[Arg]) {
        self.plan.launch(MODULE, symbol, [blocks, 1, 1], [THREADS, 1, 1], 0, args);
    }

    /// The kernel's sizes: they follow the counts, so that one fill sets both to zero.
    fn sizes(&self) -> Arg {
        Arg::Buffer(self.counts, 2 * self.params.vocab * 4)
    }

    /// Whether the pairs' kernel moves the rows that one pair alone names: it holds all of a pair.
    fn direct(&self) -> Arg {
        Arg::U32((self.params.dim <= COLUMNS && self.params.negatives < HELD).into())
    }

    /// Counts the terms of each row and gives each room.
    fn place(&mut self) {
        let Params { batch, negatives, vocab, .. } = self.params;
        self.plan.fill(self.counts, 0);
        let counted = [
            &self.words.map(Arg::from)[..],
            &[self.counts.into(), self.ranks.into()],
            &[batch, negatives, vocab].map(Arg::from),
        ]
        .concat();
        self.launch("word2vec_count", self.terms.div_ceil(THREADS * COUNTED), &counted);
        let rows = 2 * vocab;
        let placed: [Arg; 7] = [
            self.counts.into(),
            self.starts.into(),
            self.sizes(),
            self.few.into(),
            self.listed.into(),
            rows.into(),
            self.direct(),
        ];
        self.launch("word2vec_place", rows.div_ceil(THREADS), &placed);
        self.plan.overlap_last();
    }

    /// The factors of every pair, put where they belong, and the rows that none names.
    fn pairs(&mut self) {
        let Params { vocab, dim, batch, negatives, lr, .. } = self.params;
        let (pairs, copies) = (batch.div_ceil(WARPS), (2 * vocab).div_ceil(WARPS * COPIED));
        let args = [
            &[self.tables[0], self.tables[1]].map(Arg::from)[..],
            &self.words.map(Arg::from),
            &[self.counts, self.ranks, self.starts, self.factors, self.entries].map(Arg::from),
            &[self.names, self.gradients, self.losses].map(Arg::from),
            &self.updated.map(Arg::from),
            &[Arg::F32(lr as f32)],
            &[batch, negatives, dim, vocab].map(Arg::from),
            &[Arg::U32(pairs as u32), Arg::U32(copies as u32), self.direct()],
        ]
        .concat();
        let symbol = if dim > COLUMNS { "word2vec_pairs_wide" } else { "word2vec_pairs" };
        self.launch(symbol, pairs + copies, &args);
        self.plan.overlap_last();
    }

    /// Every row that terms name, summed and moved along its sum.
    fn rows(&mut self) {
        let Params { vocab, dim, batch, negatives, lr, .. } = self.params;
        let partials = self.plan.scratch("partials", DType::F32, &[self.pieces, dim]);
        // The first block of the pieces' also adds up the loss.
        let takers = self.pieces.clamp(1, PIECE_BLOCKS);
        let few = (2 * vocab).min(self.terms).div_ceil(FEW_ROWS).min(FEW_BLOCKS);
        let args = [
            &[self.tables[0], self.tables[1], self.gradients, self.words[0]].map(Arg::from)[..],
            &[self.factors.into(), self.sizes()],
            &[self.few, self.listed, self.entries, self.names, self.losses, partials]
                .map(Arg::from),
            &[self.updated[0], self.updated[1], self.loss].map(Arg::from),
            &[Arg::F32(lr as f32)],
            &[batch, negatives, dim, vocab].map(Arg::from),
            &[Arg::U32(takers as u32), Arg::U32(batch.div_ceil(WARPS) as u32)],
        ]
        .concat();
        self.launch("word2vec_rows", takers + few, &args);
        self.plan.overlap_last();
    }
}

pub(super) fn grouped(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let mut step = Grouped::new(case, inputs)?;
    step.place();
    step.pairs();
    step.rows();
    Ok(step.plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_split_of_the_terms_makes_more_pieces() {
        for terms in [0, 32, 33, 66, 256, 257, 1000, 5000] {
            let worst = (FEW + 1..=terms.max(FEW + 1))
                .map(|each| (terms / each) * each.div_ceil(PIECE))
                .max();
            assert!(worst.unwrap() <= most_pieces(terms), "{terms} terms");
        }
    }
}
