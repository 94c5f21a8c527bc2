//! Attention: forward, backward, decoding against a KV cache, and forward on 8-bit floats.
//!
//! | notation | meaning |
//! |---|---|
//! | `s_ij = scale · q_i · k_j` | score of query `i` and key `j`; with a soft cap `cap · tanh(scale · q_i · k_j / cap)` |
//! | `lse_i = ln Σ_j exp(s_ij)` | log-sum-exp over the keys that query `i` sees (natural logarithm) |
//! | `P_ij = exp(s_ij − lse_i)` | probability |
//! | `o_i = Σ_j P_ij v_j` | output |
//!
//! Query heads share key heads in groups of `heads_q / heads_kv` (GQA; MQA when `heads_kv` is 1): query
//! head `h` reads key head `h / (heads_q / heads_kv)`. A query that sees no key has `o = 0`, `lse = −∞`.
//!
//! Sources: Vaswani et al. 2017, §3.2 (attention); Shazeer 2019 and Ainslie et al. 2023 (MQA, GQA);
//! Milakov & Gimelshein 2018, Dao 2023 (online softmax and its log-sum-exp); Gemma Team 2024 (arXiv 2408.00118), §2
//! (soft cap on the scores).
//!
//! # Error model, common to the operations
//! Kernels read the stored inputs and compute in f32, with unit roundoff u = 2⁻²⁴.
//!
//! - A sum of n terms gathers [`chain`]`(n)` roundings.
//! - A score is off by at most `δ_j = u·(chain(head_dim) + 4)·A_j + u·(8·M + 4·r)`, where
//!   `A_j = scale·Σ|q·k_j|`, `M` bounds the scores' magnitude (scaling, subtraction of the maximum and the
//!   conversion to base 2 each round an argument of at most 2·M), and `r` counts exponentials a
//!   probability is a product of: its own and one for each time the running maximum rises (2 ulp each).
//!   Scores of n exchangeable keys rise ln n + 0.6 times on average; we grant `2 + 3·ln(1 + n)`.
//! - A soft cap moves the error that came with the score by at most its steepest slope nearby, `1 − tanh²(x/cap)`, and
//!   adds [`CAP`](softcap::CAP) roundings of the capped score: of tanh (as kernels compute it, off by at most 15u of its
//!   size: 2 ulp of an exponential, 1 ulp of a reciprocal), of the cap and of the product. `M` then bounds the capped
//!   scores.
//! - So an unnormalized probability is off by a factor within `exp(±δ_j)`, however large the scores are.
//! - With 16-bit inputs a kernel may round probabilities (and their gradients) to the storage type before
//!   a tensor-core product, as FlashAttention does: `u(dtype)` relative, or half the subnormal spacing.
//! - What a cache of 8-bit integers adds stands in `quantized.rs`.

use std::{collections::BTreeSet, ops::Range};

use serde::{Deserialize, Serialize};

use crate::{
    algorithm::Operation,
    draw::Draw,
    expected::{Expected, Real, Tolerance},
    tensor::{DType, Data, Tensor},
};

pub mod backward;
pub mod decode;
pub mod forward;
pub mod fp8;
mod quantized;
mod softcap;

use softcap::Score;
pub(crate) use softcap::uncapped;

/// The operations of this vertical.
pub const OPERATIONS: &[Operation] = &[
    Operation::of::<forward::Forward>(),
    Operation::of::<backward::Backward>(),
    Operation::of::<decode::Decode>(),
    Operation::of::<fp8::Fp8>(),
];

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// Every key.
    #[default]
    Full,
    /// Key `j` if `j <= i + keys − queries`: aligned at the bottom right, so the last query sees every key.
    Causal,
    /// Of the causal keys the last `window`.
    Window,
}

/// How many queries and keys each batch element has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// All of them.
    #[default]
    Full,
    /// A prefix of drawn length: the first batch element keeps all, the last (of several) nothing.
    Ragged,
}

/// What the operations share: sizes, mask and scale of one attention problem.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// Batch elements.
    pub batch: usize,
    /// Queries of a batch element, padding included.
    pub seq_q: usize,
    /// Keys of a batch element, padding included.
    pub seq_k: usize,
    /// Query heads.
    pub heads_q: usize,
    /// Key and value heads.
    pub heads_kv: usize,
    /// Values of one head.
    pub head_dim: usize,
    /// Which keys a query sees.
    pub mask: Mask,
    /// Keys a query sees under [`Mask::Window`]; otherwise 0.
    pub window: usize,
    /// Factor on the products q · k.
    pub scale: f64,
    /// Bound that the scores approach (see [`Problem::score`]); 0: none.
    pub softcap: f64,
    /// Element type of q, k, v and o.
    pub dtype: DType,
}

/// The default scale of scores.
pub fn default_scale(head_dim: usize) -> f64 {
    1.0 / (head_dim as f64).sqrt()
}

pub(crate) fn one() -> f64 {
    1.0
}

impl Problem {
    /// Query heads that share one key head.
    pub fn group(&self) -> usize {
        self.heads_q / self.heads_kv
    }

    /// The keys that query `i` sees when there are `queries` queries and `keys` keys.
    pub fn visible(&self, i: usize, queries: usize, keys: usize) -> Range<usize> {
        if i >= queries {
            return 0..0;
        }
        let causal_end = (i + keys + 1).saturating_sub(queries);
        match self.mask {
            Mask::Full => 0..keys,
            Mask::Causal => 0..causal_end,
            Mask::Window => causal_end.saturating_sub(self.window)..causal_end,
        }
    }

    /// Query-key pairs of one head and batch element with these lengths.
    pub fn pairs(&self, queries: usize, keys: usize) -> f64 {
        (0..queries).map(|i| self.visible(i, queries, keys).len() as f64).sum()
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        if !matches!(self.dtype, DType::F32 | DType::F16 | DType::Bf16) {
            return Err(format!("dtype must be f32, f16 or bf16, not {}", self.dtype.name()));
        }
        if self.heads_kv == 0 || self.heads_q == 0 || !self.heads_q.is_multiple_of(self.heads_kv) {
            return Err("heads_q must be a positive multiple of heads_kv".into());
        }
        if self.head_dim == 0 {
            return Err("head_dim must be positive".into());
        }
        if (self.mask == Mask::Window) != (self.window > 0) {
            return Err("window must be positive with mask=window and 0 otherwise".into());
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return Err("scale must be positive".into());
        }
        if !(self.softcap == 0.0 || (1e-3..=1e6).contains(&self.softcap)) {
            return Err("softcap must be 0 (none) or between 0.001 and 1000000".into());
        }
        if self.seq_q.max(self.seq_k).max(self.window) >= 1 << 29 {
            return Err("sequences and windows must be shorter than 2^29".into());
        }
        Ok(())
    }

    /// Row-major offset of a head's row of a `[batch, seq, heads, head_dim]` tensor.
    fn offset(&self, seq: usize, heads: usize, at: [usize; 3]) -> usize {
        ((at[0] * seq + at[1]) * heads + at[2]) * self.head_dim
    }

    /// One query head's rows, as f64.
    fn query_rows(&self, tensor: &Tensor, b: usize, h: usize) -> Rows {
        Rows::new(tensor, self.head_dim, (0..self.seq_q).map(|i| self.query(b, i, h)))
    }

    /// One key head's rows, as f64.
    fn key_rows(&self, tensor: &Tensor, b: usize, h: usize) -> Rows {
        Rows::new(tensor, self.head_dim, (0..self.seq_k).map(|j| self.key(b, j, h)))
    }

    /// Offset of a row of q, o or their gradients.
    fn query(&self, b: usize, i: usize, h: usize) -> usize {
        self.offset(self.seq_q, self.heads_q, [b, i, h])
    }

    /// Offset of a row of k, v or their gradients.
    fn key(&self, b: usize, j: usize, h: usize) -> usize {
        self.offset(self.seq_k, self.heads_kv, [b, j, h])
    }
}

/// Rows of a tensor as f64: only those asked for, because caches are large.
pub(crate) struct Rows {
    values: Vec<f64>,
    width: usize,
    /// Of rows of 8-bit integers (see [`quantized`]) the scale that each was multiplied with; otherwise empty.
    scales: Vec<f64>,
}

impl Rows {
    /// Rows of `width` values, one after the other.
    pub(crate) fn of(width: usize, values: Vec<f64>) -> Self {
        Self { values, width, scales: Vec::new() }
    }

    pub(crate) fn new(tensor: &Tensor, width: usize, offsets: impl Iterator<Item = usize>) -> Self {
        let mut rows = Self::of(width, Vec::new());
        rows.append(tensor, offsets);
        rows
    }

    /// Adds rows of a tensor.
    pub(crate) fn append(&mut self, tensor: &Tensor, offsets: impl Iterator<Item = usize>) {
        let values = &mut self.values;
        for start in offsets {
            let range = start..start + self.width;
            match tensor.data() {
                Data::F32(data) => values.extend(data[range].iter().map(|&x| f64::from(x))),
                Data::F16(data) => values.extend(data[range].iter().map(|&x| f64::from(x))),
                Data::Bf16(data) => values.extend(data[range].iter().map(|&x| f64::from(x))),
                Data::I8(data) => values.extend(data[range].iter().map(|&x| f64::from(x))),
                _ => panic!("attention reads f32, f16, bf16 and i8"),
            }
        }
    }

    /// Keeps the first rows.
    pub(crate) fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows * self.width);
    }

    pub(crate) fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.width..(i + 1) * self.width]
    }
}

/// `a · b` and `Σ|a·b|`.
fn dot(a: &[f64], b: &[f64]) -> (f64, f64) {
    let (mut sum, mut magnitude) = (0.0, 0.0);
    for (&x, &y) in a.iter().zip(b) {
        sum += x * y;
        magnitude += (x * y).abs();
    }
    (sum, magnitude)
}

/// Unit roundoff of the f32 that kernels compute in.
const U: f64 = DType::F32.unit_roundoff();

/// Roundings, in units of u, that a sum of `n` terms gathers relative to Σ|terms|.
///
/// In whatever order it is summed, at most n; as their signs are as good as random, beyond 8·√n only with
/// probability 2·exp(−8²/2) ≈ 10⁻¹⁴ (Higham & Mary 2019, theorem 2.4). Products of 16-bit numbers may go
/// through tensor cores, which truncate (Fasi et al. 2021): 2u in one direction for every 8 terms.
pub(crate) fn chain(n: usize, dtype: DType) -> f64 {
    let n = n as f64;
    let rounded = n.min(8.0 * n.sqrt());
    if dtype == DType::F32 { rounded } else { rounded + n / 4.0 }
}

/// How a kernel multiplies and rounds, beside the f32 in which it computes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arithmetic {
    /// Whose sums [`chain`] describes.
    operands: DType,
    /// Factors of a score beyond scale.
    factors: f64,
    /// Relative error of a probability that may be rounded for its product with v.
    probability: f64,
    /// Absolute error of a tiny probability, where the largest is 1.
    tiny: f64,
    /// What each term of a sum may lose, relative to the sum's peak; then roundings of probabilities are taken as independent.
    cut: f64,
}

impl Arithmetic {
    /// Inputs of a stored type. Probabilities round to it, if it has 16 bits; tiny ones are flushed to zero in f32 and
    /// bf16, and move half a subnormal step in f16.
    pub(crate) fn of(dtype: DType) -> Self {
        Self {
            operands: dtype,
            factors: 0.0,
            probability: if dtype == DType::F32 { 0.0 } else { dtype.unit_roundoff() },
            tiny: if dtype == DType::F16 { (-25f64).exp2() } else { f64::from(f32::MIN_POSITIVE) },
            cut: 0.0,
        }
    }

    /// e4m3 with scales; see [`fp8::Fp8`].
    pub(crate) const E4M3: Self = Self {
        operands: DType::Bf16,
        factors: 3.0,
        probability: 1.0 / 16.0,
        tiny: 1.0 / (1 << 18) as f64,
        cut: 1.0 / (1 << 13) as f64,
    };

    /// What a sum of these terms may lose by cuts, each relative to the largest magnitude among terms and partial sums.
    fn of_cuts(&self, terms: impl ExactSizeIterator<Item = f64>) -> f64 {
        if self.cut == 0.0 {
            return 0.0;
        }
        let (n, mut sum) = (terms.len() as f64, 0.0f64);
        let peak = terms.fold(0.0, |peak: f64, term| {
            sum += term;
            peak.max(term.abs()).max(sum.abs())
        });
        self.cut * n.min(8.0 * n.sqrt()) * peak
    }
}

/// What one query gives, with absolute error bounds (storage rounding not included).
pub(crate) struct Attended {
    pub(crate) o: Vec<f64>,
    pub(crate) o_error: Vec<f64>,
    pub(crate) lse: f64,
    pub(crate) lse_error: f64,
}

/// One query against the visible rows of `k` and `v`.
///
/// With probabilities off by factors exp(η_j), |η_j| ≤ δ_j (module documentation), the output moves by
/// `Σ P_j (e^η_j − 1)(v_j − o) / Σ P_j e^η_j`, so by at most `Σ P_j expm1(δ_j)|v_j − o| / Σ P_j e^−δ_j`; and
/// it stays a mean of the values, so never further than the farthest of them. To that come the rounding
/// of probabilities to 16 bits, and the two sums (numerator and denominator, where the online softmax
/// multiplies by a rescaling factor at most once a term: twice the roundings) and the division.
/// The log-sum-exp moves by at most `ln Σ P_j e^δ_j`, which is at most the largest δ_j.
pub(crate) fn attend(
    problem: &Problem,
    arithmetic: Arithmetic,
    q: &[f64],
    k: &Rows,
    v: &Rows,
    visible: Range<usize>,
) -> Attended {
    let (dim, n) = (problem.head_dim, visible.len());
    if n == 0 {
        let zero = vec![0.0; dim];
        return Attended { o: zero.clone(), o_error: zero, lse: f64::NEG_INFINITY, lse_error: 0.0 };
    }
    let roundings = U * (chain(dim, arithmetic.operands) + 4.0 + arithmetic.factors);
    let score = |j: usize| {
        let (sum, magnitude) = dot(q, k.row(j));
        let error = roundings * magnitude
            + arithmetic.of_cuts(q.iter().zip(k.row(j)).map(|(q, k)| q * k))
            + U * k.scalings() * magnitude
            + k.of_fixed_point(q, j, problem.dtype);
        problem.score(problem.scale * sum, problem.scale * error)
    };
    let scores: Vec<Score> = visible.clone().map(score).collect();
    let max = scores.iter().map(|s| s.value).fold(f64::NEG_INFINITY, f64::max);
    let largest = scores.iter().map(|s| s.value.abs()).fold(0.0, f64::max);
    let total: f64 = scores.iter().map(|s| (s.value - max).exp()).sum();
    let lse = max + total.ln();
    let mut o = vec![0.0; dim];
    for (j, s) in visible.clone().zip(&scores) {
        let p = (s.value - lse).exp();
        o.iter_mut().zip(v.row(j)).for_each(|(o, v)| *o += p * v);
    }

    let share_of_tiny = v.shares_of_tiny();
    let rises = 2.0 + 3.0 * (1.0 + n as f64).ln();
    let (mut above, mut below, mut delta_max) = (0.0, 0.0, 0.0f64);
    let (mut moved, mut spread) = (vec![0.0; dim], vec![0.0f64; dim]);
    let (mut weighted, mut plain) = (vec![0.0; dim], vec![0.0; dim]);
    for (j, s) in visible.clone().zip(&scores) {
        let p = (s.value - lse).exp();
        let delta = s.error + U * (8.0 * largest + 4.0 * rises);
        let delta = delta.min(700.0);
        above += p * delta.exp();
        below += p * (-delta).exp();
        delta_max = delta_max.max(delta);
        let change = p * delta.exp_m1();
        for (d, &v) in v.row(j).iter().enumerate() {
            moved[d] += change * (v - o[d]).abs();
            spread[d] = spread[d].max((v - o[d]).abs());
            weighted[d] += p * v.abs();
            plain[d] += v.abs() * share_of_tiny(j);
        }
    }
    let sums = U * (chain(2 * n, arithmetic.operands) + 4.0 + v.scalings());
    let o_error = (0..dim)
        .map(|d| {
            let terms =
                || visible.clone().zip(&scores).map(|(j, s)| (s.value - lse).exp() * v.row(j)[d]);
            let rounded = if arithmetic.cut > 0.0 {
                let scattered = terms().map(|term| term * term).sum::<f64>().sqrt();
                weighted[d].min(8.0 * scattered + o[d].abs())
            } else {
                weighted[d]
            };
            (moved[d] / below).min(spread[d])
                + arithmetic.probability * rounded
                + arithmetic.tiny / total * plain[d]
                + sums * (weighted[d] + o[d].abs())
                + 2.0 * arithmetic.of_cuts(terms())
        })
        .collect();
    let lse_error = above.ln().clamp(0.0, delta_max) + sums + U * (8.0 + 4.0 * lse.abs());
    Attended { o, o_error, lse, lse_error }
}

/// Multiply-adds a reference spends before it falls back to a sample of rows.
const BUDGET: usize = 1 << 26;

/// The rows that a reference computes of `groups` groups of `rows` rows: all, or a fixed sample of whole
/// rows of some groups, always with the first and the last, when a row takes too many multiply-adds.
pub(crate) fn sample(groups: usize, rows: usize, cost: usize) -> Vec<(usize, Vec<usize>)> {
    let mut draw = Draw::new(0x7a11);
    let cost = cost.max(1);
    if groups.saturating_mul(rows).saturating_mul(cost) <= BUDGET {
        return (0..groups).map(|g| (g, (0..rows).collect())).collect();
    }
    let some_groups = (BUDGET / (rows * cost)).clamp(groups.min(8), groups);
    let some_rows = (BUDGET / (some_groups * cost)).clamp(rows.min(2), rows);
    let mut some = |n: usize, of: usize| -> Vec<usize> {
        let mut chosen = BTreeSet::from([0, of - 1]);
        while chosen.len() < n {
            chosen.insert(draw.below(of));
        }
        chosen.into_iter().collect()
    };
    let picked = some(some_groups, groups);
    picked.into_iter().map(|g| (g, some(some_rows, rows))).collect()
}

/// Values of an output with their absolute errors, at the row-major offsets where they are known.
#[derive(Default)]
pub(crate) struct Known(Vec<(usize, f64, f64)>);

impl Known {
    pub(crate) fn row(&mut self, offset: usize, values: &[f64], errors: &[f64]) {
        let pairs = values.iter().zip(errors).enumerate();
        self.0.extend(pairs.map(|(d, (&value, &error))| (offset + d, value, error)));
    }

    /// The output; an infinite value has the bound 0: only the same infinity will do.
    pub(crate) fn expected(mut self, shape: &[usize], storage: DType) -> Expected {
        self.0.sort_unstable_by_key(|known| known.0);
        let tolerance = Tolerance { relative: 1.0, storage };
        let bound = |&(_, value, error): &(usize, f64, f64)| {
            if value.is_infinite() { 0.0 } else { tolerance.bound(value, error) }
        };
        let complete = self.0.len() == shape.iter().product::<usize>();
        Expected::Real(Real {
            dtype: storage,
            shape: shape.to_vec(),
            at: (!complete).then(|| self.0.iter().map(|known| known.0).collect()),
            bound: self.0.iter().map(bound).collect(),
            value: self.0.iter().map(|known| known.1).collect(),
        })
    }
}

/// Lengths of queries and of keys: drawn together where there are as many of both, else each on its own.
pub(crate) fn draw_both_lengths(
    lengths: Lengths,
    batch: usize,
    [seq_q, seq_k]: [usize; 2],
    draw: &mut Draw,
) -> [Tensor; 2] {
    let of_queries = draw_lengths(lengths, batch, seq_q, draw);
    let of_keys =
        if seq_q == seq_k { of_queries.clone() } else { draw_lengths(lengths, batch, seq_k, draw) };
    [of_queries, of_keys]
}

/// Lengths of the batch elements, at most `seq`.
pub(crate) fn draw_lengths(lengths: Lengths, batch: usize, seq: usize, draw: &mut Draw) -> Tensor {
    let mut b = 0;
    draw.integers(DType::I32, &[batch], |draw| {
        b += 1;
        let length = match lengths {
            Lengths::Full => seq,
            Lengths::Ragged if b == 1 => seq,
            Lengths::Ragged if b == batch => 0,
            Lengths::Ragged => draw.below(seq + 1),
        };
        length as i64
    })
}
