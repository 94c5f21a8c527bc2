//! Rows summed by key without atomics: a sort, then the sums of runs.

use touchstone_reference::DType;

use super::whole_words;
use crate::{
    plan::{Arg, BufferId, Plan},
    radix_sort,
    variant::Unsupported,
};

/// Entries that a warp sums, `CHUNK` of the kernel.
const CHUNK: usize = 64;
/// Warps of a block, `WARPS` of the kernel.
const WARPS: usize = 8;

/// `sums[key, :] += Σ factors[e] · terms[rows[e], :]` over the entries e = 0..n with that key.
pub(super) struct SegmentSum {
    /// [n] u32, below `vocab`.
    pub keys: BufferId,
    /// [n] u32; `None`: entry e is row e.
    pub rows: Option<BufferId>,
    /// [n] f32; `None`: all 1.
    pub factors: Option<BufferId>,
    /// [·, dim] of type `dtype`.
    pub terms: BufferId,
    /// Element type of `terms`.
    pub dtype: DType,
    /// [vocab, dim] f32: set to zero, then to the sums.
    pub sums: BufferId,
    /// Rows of `sums`.
    pub vocab: usize,
    /// Columns.
    pub dim: usize,
    /// Entries.
    pub n: usize,
}

impl SegmentSum {
    /// Appends the steps; scratch buffers are named after `name`.
    pub(super) fn append(&self, plan: &mut Plan, name: &str) -> Result<(), Unsupported> {
        whole_words(self.dim, DType::F32, 16)?;
        plan.fill(self.sums, 0);
        if self.n == 0 || self.dim == 0 {
            return Ok(());
        }
        let bits = radix_sort::bits_below(self.vocab);
        let sorted = radix_sort::append(plan, name, self.keys, None, self.n, DType::U32, bits);
        let chunks = self.n.div_ceil(CHUNK);
        let heads = plan.scratch(&format!("{name}_heads"), DType::F32, &[chunks, self.dim]);
        let tails = plan.scratch(&format!("{name}_tails"), DType::F32, &[chunks, self.dim]);
        let sum: [Arg; 10] = [
            sorted.keys.into(),
            sorted.values.into(),
            self.rows.into(),
            self.factors.into(),
            self.terms.into(),
            self.sums.into(),
            heads.into(),
            tails.into(),
            self.n.into(),
            self.dim.into(),
        ];
        let join: [Arg; 6] = [
            sorted.keys.into(),
            heads.into(),
            tails.into(),
            self.sums.into(),
            self.n.into(),
            self.dim.into(),
        ];
        let block = [32 * WARPS, 1, 1];
        let symbol = format!("segment_sum_{}", self.dtype.name());
        let blocks = chunks.div_ceil(WARPS);
        plan.launch("embedding_segment_sum", symbol, [blocks, 1, 1], block, 0, &sum);
        plan.launch("embedding_segment_sum", "segment_join", [chunks, 1, 1], block, 0, &join);
        Ok(())
    }
}
