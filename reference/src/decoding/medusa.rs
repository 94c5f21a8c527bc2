//! Medusa heads: several next tokens guessed from one hidden state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::rounding::{independent, silu, silu_error};
use crate::{
    algorithm::{Algorithm, Work},
    attention::{Rows, chain},
    draw::{Draw, ends_and_between},
    expected::{Discrete, Expected, Outputs, Real, Tolerance},
    tensor::{DType, Tensors},
};

/// `r = x + SiLU(W x + b)`, `logits = L r` for each of several heads, and the best tokens of each.
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `x` | `[tokens, hidden]` | `dtype` | last hidden states of the trunk, N(0, 1) |
/// | `w` | `[heads, hidden, hidden]` | `dtype` | residual layers, row = output, sd 1/√hidden |
/// | `b` | `[heads, hidden]` | `dtype` | their biases |
/// | `lm` | `[heads, vocab, hidden]` | `dtype` | the heads' output layers, sd 1/√hidden |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `logits` | `[heads, tokens, vocab]` | `dtype` | `Σ_i L_vi r_i` |
/// | `candidates`, with `top_k > 0` | `[heads, tokens, top_k]` | i32 | tokens by falling logit as stored; the smaller token first among equals |
///
/// Source: Cai et al. 2024, "Medusa", section 2.1.1, with the bias its published code gives the residual layer.
///
/// # Error model
/// Kernels read the stored inputs and compute in f32, u = 2⁻²⁴; [`chain`] counts the roundings of a sum.
///
/// - `z = W x + b` is off by `u·(chain(hidden) + 1)·(Σ|w·x| + |b|)`; SiLU has slopes up to 1.1 and passes that on,
///   with roundings of its own ([`silu_error`]); adding x rounds once.
/// - r may be rounded to `dtype` before the second product.
/// - The errors of different `r_i` come from different sums and different roundings, so in a logit they add as
///   independent ones do ([`independent`]); the second sum adds `u·chain(hidden)·Σ|l·r|`.
/// - A candidate is right if the error bounds allow its rank: no more than `rank` tokens are surely above it and no
///   fewer may be. Those that are right besides the exact one are named, and counted where they are met.
#[derive(Debug)]
pub struct Medusa;

/// Parameters of [`Medusa`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Hidden states: one a sequence when decoding, many in training.
    pub tokens: usize,
    /// Values of a hidden state.
    pub hidden: usize,
    /// Tokens to choose from.
    pub vocab: usize,
    /// Heads: how many tokens ahead are guessed.
    pub heads: usize,
    /// Best tokens named of each head; 0: none.
    #[serde(default)]
    pub top_k: usize,
    /// Element type of inputs and logits.
    pub dtype: DType,
}

impl Params {
    /// [heads, tokens, vocab].
    pub fn logits(&self) -> [usize; 3] {
        [self.heads, self.tokens, self.vocab]
    }

    /// [heads, tokens, top_k].
    pub fn candidates(&self) -> [usize; 3] {
        [self.heads, self.tokens, self.top_k]
    }
}

/// A value and how far a kernel's may be from it.
type Near = (f64, f64);

/// `r` of one head and token.
fn residual(p: &Params, x: &[f64], w: &Rows, bias: &[f64]) -> Vec<Near> {
    let u = DType::F32.unit_roundoff();
    let one = |i: usize| {
        let (mut z, mut magnitude) = (bias[i], bias[i].abs());
        for (w, x) in w.row(i).iter().zip(x) {
            z += w * x;
            magnitude += (w * x).abs();
        }
        let r = x[i] + silu(z);
        let of_z = u * (chain(p.hidden, p.dtype) + 1.0) * magnitude;
        let computed = silu_error(z, of_z) + u * r.abs();
        (r, computed + p.dtype.unit_roundoff() * (r.abs() + computed) + p.dtype.tiny())
    };
    (0..p.hidden).map(one).collect()
}

/// One logit, its stored rounding not included.
fn logit(p: &Params, lm: &[f64], r: &[Near]) -> Near {
    let (mut sum, mut magnitude) = (0.0, 0.0);
    for (l, r) in lm.iter().zip(r) {
        sum += l * r.0;
        magnitude += (l * r.0).abs() + l.abs() * r.1;
    }
    let passed = independent(lm.iter().zip(r).map(|(l, r)| l * r.1));
    (sum, passed + DType::F32.unit_roundoff() * chain(p.hidden, p.dtype) * magnitude)
}

/// The tokens that may stand at each rank, the exact one first: `logits` with bounds that include storage.
fn ranked(logits: &[Near], top_k: usize) -> Vec<Vec<i64>> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].0.total_cmp(&logits[a].0).then(a.cmp(&b)));
    let (low, high) = (|t: usize| logits[t].0 - logits[t].1, |t: usize| logits[t].0 + logits[t].1);
    let mut lows: Vec<f64> = (0..logits.len()).map(low).collect();
    lows.sort_by(|a, b| b.total_cmp(a));
    // Below that, top_k tokens are surely better.
    let able: Vec<usize> = order.iter().copied().filter(|&t| high(t) >= lows[top_k - 1]).collect();
    let places = able.iter().map(|&t| {
        let others = || able.iter().filter(|&&other| other != t);
        let surely = others().filter(|&&other| low(other) > high(t)).count();
        (t, surely, others().filter(|&&other| high(other) >= low(t)).count())
    });
    let places: Vec<(usize, usize, usize)> = places.collect();
    let at = |rank: usize| {
        let right = places
            .iter()
            .filter(|&&(t, surely, maybe)| t != order[rank] && (surely..=maybe).contains(&rank));
        std::iter::once(order[rank] as i64).chain(right.map(|place| place.0 as i64)).collect()
    };
    (0..top_k).map(at).collect()
}

impl Algorithm for Medusa {
    const NAME: &'static str = "decoding.medusa";
    const SUMMARY: &'static str =
        "logits of several next tokens from one hidden state, a residual block each";
    const ITEMS: &'static str = "tokens";
    type Params = Params;

    fn validate(p: &Params) -> Result<(), String> {
        if !matches!(p.dtype, DType::F32 | DType::Bf16) {
            return Err(format!("dtype must be f32 or bf16, not {}", p.dtype.name()));
        }
        if p.hidden == 0 || p.vocab == 0 || p.heads == 0 {
            return Err("hidden, vocab and heads must be positive".into());
        }
        if p.top_k > p.vocab.min(64) {
            return Err(format!("top_k {} is more than 64 or the vocabulary", p.top_k));
        }
        if [p.tokens, p.hidden, p.vocab, p.heads].iter().any(|&n| n >= 1 << 28) {
            return Err("sizes must be below 2^28".into());
        }
        Ok(())
    }

    fn inputs(p: &Params, draw: &mut Draw) -> Tensors {
        // Uniform numbers of that standard deviation: an output layer has hundreds of millions.
        let widest = (3.0 / p.hidden as f64).sqrt();
        Tensors::new()
            .with("x", draw.normal(p.dtype, &[p.tokens, p.hidden], 1.0))
            .with("w", draw.uniform(p.dtype, &[p.heads, p.hidden, p.hidden], -widest, widest))
            .with("b", draw.normal(p.dtype, &[p.heads, p.hidden], 0.5))
            .with("lm", draw.uniform(p.dtype, &[p.heads, p.vocab, p.hidden], -widest, widest))
    }

    fn reference(p: &Params, inputs: &Tensors) -> Outputs {
        const BUDGET: usize = 1 << 26;
        let hidden = p.hidden;
        let rows = |name, first: usize, count: usize| {
            Rows::new(inputs.tensor(name), hidden, (first..first + count).map(|row| row * hidden))
        };
        let per_row = hidden * (hidden + p.vocab);
        let all = p.top_k > 0;
        let wanted = |of, cost: usize| if all { of } else { BUDGET / cost.max(1) };
        // Candidates are compared only where all logits of their row are known.
        let pairs = ends_and_between(p.heads * p.tokens, wanted(p.heads * p.tokens, per_row), 1);
        let vocab = ends_and_between(p.vocab, wanted(p.vocab, pairs.len() * hidden).max(512), 2);
        let tolerance = Tolerance { relative: 1.01, storage: p.dtype };
        let (mut known, mut names, mut also) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut of_head = (usize::MAX, rows("w", 0, 0), rows("b", 0, 0));
        for pair in pairs {
            let (head, token) = (pair / p.tokens, pair % p.tokens);
            if of_head.0 != head {
                of_head = (head, rows("w", head * hidden, hidden), rows("b", head, 1));
            }
            let r = residual(p, rows("x", token, 1).row(0), &of_head.1, of_head.2.row(0));
            let logits: Vec<Near> = vocab
                .iter()
                .map(|&t| logit(p, rows("lm", head * p.vocab + t, 1).row(0), &r))
                .map(|(value, error)| (value, tolerance.bound(value, error)))
                .collect();
            if all {
                for mut right in ranked(&logits, p.top_k) {
                    let others = right.split_off(1);
                    if !others.is_empty() {
                        also.insert(names.len(), others);
                    }
                    names.extend(right);
                }
            }
            known.extend(vocab.iter().zip(logits).map(|(&t, l)| (pair * p.vocab + t, l)));
        }
        let shape = p.logits();
        let complete = known.len() == shape.iter().product::<usize>();
        let logits = Expected::Real(Real {
            dtype: p.dtype,
            shape: shape.to_vec(),
            at: (!complete).then(|| known.iter().map(|k| k.0).collect()),
            value: known.iter().map(|k| k.1.0).collect(),
            bound: known.iter().map(|k| k.1.1).collect(),
        });
        let outputs = Outputs::new().with("logits", logits);
        if !all {
            return outputs;
        }
        let shape = p.candidates().to_vec();
        let named = Discrete { dtype: DType::I32, shape, value: names, also };
        outputs.with("candidates", Expected::Discrete(named))
    }

    /// `flops`: two a weight and token; `bytes`: every input read once, logits and candidates written once; `items`:
    /// tokens guessed, one a head and hidden state.
    fn work(p: &Params, inputs: &Tensors) -> Work {
        let weights = (p.heads * p.hidden * (p.hidden + p.vocab)) as f64;
        let logits = p.logits().iter().product::<usize>() as f64;
        Work {
            flops: 2.0 * weights * p.tokens as f64,
            bytes: inputs.bytes() as f64
                + logits * p.dtype.bytes() as f64
                + 4.0 * p.candidates().iter().product::<usize>() as f64,
            items: (p.heads * p.tokens) as f64,
            matrix: true,
            eight_bit: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

    #[test]
    fn a_head_of_two_values_by_hand() {
        let p = Params { tokens: 1, hidden: 2, vocab: 3, heads: 1, top_k: 3, dtype: DType::F32 };
        let real = |shape: &[usize], values: &[f64]| Tensor::from_real(DType::F32, shape, values);
        let inputs = Tensors::new()
            .with("x", real(&[1, 2], &[1.0, -2.0]))
            .with("w", real(&[1, 2, 2], &[0.0, 0.0, 1.0, 1.0]))
            .with("b", real(&[1, 2], &[0.0, 2.0]))
            .with("lm", real(&[1, 3, 2], &[1.0, 0.0, 0.0, 1.0, 2.0, 2.0]));
        // r = [1 + SiLU(0), −2 + SiLU(1)] = [1, −2 + 0.731059].
        let outputs = Medusa::reference(&p, &inputs);
        let second = -2.0 + 1.0 / (1.0 + (-1f64).exp());
        let logits = outputs.output("logits").values();
        let right = [1.0, second, 2.0 + 2.0 * second];
        assert!(logits.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-12), "{logits:?}");
        assert_eq!(outputs.output("candidates").values(), [0.0, 2.0, 1.0]);
    }

    #[test]
    fn ranks_within_the_bounds_are_open_and_others_are_not() {
        // 0 is surely first; 1 and 2 may change places; 3 is surely last.
        let logits = [(9.0, 0.1), (5.0, 0.2), (5.3, 0.2), (1.0, 0.1)];
        assert_eq!(ranked(&logits, 3), [vec![0], vec![2, 1], vec![1, 2]]);
        assert_eq!(ranked(&logits, 4)[3], [3]);
        let chained = [(3.0, 0.6), (2.0, 0.6), (1.0, 0.6)];
        assert_eq!(ranked(&chained, 3), [vec![0, 1], vec![1, 0, 2], vec![2, 1]]);
    }
}
