//! What the acceptance schemes share: how distributions over a vocabulary are drawn, and how one chooses a token.

use serde::{Deserialize, Serialize};

use crate::{
    draw::Draw,
    tensor::{DType, Data, Tensor, Tensors},
};

/// How one distribution spreads its mass over the vocabulary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mass {
    /// The heavy-tailed law of words: weight 1/(1 + rank), ranks in random order.
    #[default]
    Zipf,
    /// Weights 1, 2, 3 or 4: every token matters and the largest is tied.
    Flat,
    /// Nine tokens in ten have no mass, as after nucleus sampling.
    Sparse,
    /// All mass on one token.
    OneHot,
}

/// How the draft's distributions q relate to the target's p.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// q = 0.7·p + 0.3·another: a decent draft model.
    #[default]
    Near,
    /// Drawn independently.
    Far,
    /// q = p: all is accepted.
    Same,
    /// No token has mass under both: nothing is accepted.
    Disjoint,
}

/// Where uniforms and draft tokens come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Draws {
    /// Uniforms are uniform; draft tokens follow q (in greedy mode three in four are p's argmax).
    #[default]
    Fair,
    /// Half of the uniforms are 0 or the largest below 1; a draft token in four is any token, q(t) = 0
    /// included.
    Adversarial,
}

/// Distributions drawn afresh; the rows of a case are rotations and mixtures of these, because drawing
/// each of 10⁸ probabilities would take longer than checking a kernel on them.
const POOL: usize = 8;

/// One drawn distribution.
fn spread(mass: Mass, vocab: usize, draw: &mut Draw) -> Vec<f64> {
    let certain = draw.below(vocab);
    let weights: Vec<f64> = (0..vocab)
        .map(|t| match mass {
            Mass::Zipf => 1.0 / (1.0 + vocab as f64 * draw.unit()),
            Mass::Flat => 1.0 + draw.below(4) as f64,
            Mass::Sparse if t != certain && draw.below(10) > 0 => 0.0,
            Mass::Sparse => 0.05 + draw.unit(),
            Mass::OneHot => f64::from(t == certain),
        })
        .collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

/// Pairs of a target's and a draft's distribution, one position after another.
pub(crate) struct Pairs {
    pool: Vec<Vec<f64>>,
    relation: Relation,
    p: Vec<f64>,
    q: Vec<f64>,
}

impl Pairs {
    /// Draws the pool.
    pub(crate) fn new(mass: Mass, relation: Relation, vocab: usize, draw: &mut Draw) -> Self {
        let pool = (0..POOL).map(|_| spread(mass, vocab, draw)).collect();
        Self { pool, relation, p: Vec::with_capacity(vocab), q: Vec::with_capacity(vocab) }
    }

    /// Puts p and q of the next position behind `target` and `draft`.
    pub(crate) fn next(&mut self, draw: &mut Draw, target: &mut Vec<f32>, draft: &mut Vec<f32>) {
        let Self { pool, relation, p, q } = self;
        rotated(p, pool, draw);
        rotated(q, pool, draw);
        match relation {
            Relation::Same => q.clone_from(p),
            Relation::Far => {}
            Relation::Near => {
                q.iter_mut().zip(&*p).for_each(|(q, &p)| *q = 0.3 * *q + 0.7 * p);
            }
            Relation::Disjoint => {
                keep_parity(p, 0);
                keep_parity(q, 1);
            }
        }
        target.extend(p.iter().map(|&p| p as f32));
        draft.extend(q.iter().map(|&q| q as f32));
    }
}

/// Refuses vocabularies that cannot hold the distributions asked for.
pub(crate) fn check_vocabulary(vocab: usize, relation: Relation) -> Result<(), String> {
    if vocab == 0 || vocab > i32::MAX as usize {
        return Err(format!("vocab={vocab} must be in 1..2³¹: a distribution needs a token"));
    }
    if relation == Relation::Disjoint && vocab < 2 {
        return Err("relation=disjoint needs vocab>=2".into());
    }
    Ok(())
}

/// A member of the pool, turned by a random number of tokens.
fn rotated(row: &mut Vec<f64>, pool: &[Vec<f64>], draw: &mut Draw) {
    let source = &pool[draw.below(pool.len())];
    let shift = draw.below(source.len());
    row.clear();
    row.extend_from_slice(&source[shift..]);
    row.extend_from_slice(&source[..shift]);
}

/// Leaves mass on tokens of one parity only, and makes it one again.
fn keep_parity(row: &mut [f64], parity: usize) {
    row.iter_mut().skip(1 - parity).step_by(2).for_each(|w| *w = 0.0);
    let total: f64 = row.iter().sum();
    if total > 0.0 {
        row.iter_mut().for_each(|w| *w /= total);
    } else {
        row[parity] = 1.0;
    }
}

/// The token at `u` of a distribution that may not sum to exactly one.
pub(crate) fn sampled(q: &[f32], u: f64) -> usize {
    let weights: Vec<f64> = q.iter().map(|&q| q.into()).collect();
    inverse_cdf(&weights, u, 0.0).0 as usize
}

/// A multiple of 2⁻²⁴ in [0, 1): f32 holds it exactly, and never rounds it to 1.
pub(crate) fn uniform(draws: Draws, draw: &mut Draw) -> f32 {
    const STEPS: usize = 1 << 24;
    let step = match (draws, draw.below(4)) {
        (Draws::Adversarial, 0) => 0,
        (Draws::Adversarial, 1) => STEPS - 1,
        _ => draw.below(STEPS),
    };
    step as f32 / STEPS as f32
}

/// An f32 tensor of uniforms.
pub(crate) fn uniforms(shape: &[usize], draws: Draws, draw: &mut Draw) -> Tensor {
    let values = (0..shape.iter().product()).map(|_| uniform(draws, draw)).collect();
    Tensor::new(shape, Data::F32(values))
}

/// Relative width of the band about the threshold u·Z within which a kernel's rounding may decide.
///
/// A kernel forms w in f32 (one rounding, which keeps its sign) and adds the non-negative w in f32 in any
/// order whose longest chain has at most n = 128 + vocab/1024 additions (longer chains must run in f64).
/// Every partial sum then has relative error at most (n + 1)·u, the total Z too, and u·Z one more rounding.
/// So the kernel's comparison Σ_{s≤t} w > u·Z can differ from the exact one only where the two sides agree
/// within 2·(n + 1)·u + u; second-order terms are below another u.
pub fn band(vocab: usize) -> f64 {
    let chain = 128.0 + vocab as f64 / 1024.0;
    2.0 * (chain + 2.0) * DType::F32.unit_roundoff()
}

/// The smallest token with positive weight whose running sum exceeds u·Σ; then the tokens of positive
/// weight whose interval comes within the relative `band` of that threshold.
pub(crate) fn inverse_cdf(weights: &[f64], u: f64, band: f64) -> (i64, Vec<i64>) {
    let threshold = u * weights.iter().sum::<f64>();
    located(weights, |t| weights[t] > 0.0, threshold, threshold * band)
}

/// The smallest token with positive weight whose running sum exceeds `threshold` (the last one where none does, −1
/// where no weight is positive); then the tokens that are `possible`, those of positive weight among them, whose
/// interval comes within `slack` of the threshold.
pub(crate) fn located(
    weights: &[f64],
    possible: impl Fn(usize) -> bool,
    threshold: f64,
    slack: f64,
) -> (i64, Vec<i64>) {
    let (mut before, mut token, mut exceeded, mut near) = (0.0, -1, false, Vec::new());
    for (t, &weight) in weights.iter().enumerate().filter(|(t, _)| possible(*t)) {
        let after = before + weight;
        if !exceeded && weight > 0.0 {
            token = t as i64;
            exceeded = after > threshold;
        }
        if after >= threshold - slack {
            near.push(t as i64);
        }
        if after > threshold + slack {
            break;
        }
        before = after;
    }
    near.retain(|&t| t != token);
    (token, near)
}

/// Index of the largest value, the lowest among equals.
pub fn argmax<T: PartialOrd>(values: &[T]) -> usize {
    (0..values.len()).fold(0, |best, t| if values[t] > values[best] { t } else { best })
}

pub(crate) fn reals<'a>(tensors: &'a Tensors, name: &str) -> &'a [f32] {
    match tensors.tensor(name).data() {
        Data::F32(values) => values,
        _ => panic!("'{name}' is not f32"),
    }
}

pub(crate) fn integers<'a>(tensors: &'a Tensors, name: &str) -> &'a [i32] {
    match tensors.tensor(name).data() {
        Data::I32(values) => values,
        _ => panic!("'{name}' is not i32"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_band_names_only_tokens_with_mass() {
        let weights = [0.25, 0.0, 0.25, 0.5];
        assert_eq!(inverse_cdf(&weights, 0.25, 1e-5), (2, vec![0]));
        assert_eq!(inverse_cdf(&weights, 0.3, 1e-5), (2, vec![]));
        assert_eq!(inverse_cdf(&weights, 0.0, 1e-5), (0, vec![]));
        assert_eq!(inverse_cdf(&[0.0, 0.0, 1.0], 0.0, 1e-5), (2, vec![]));
        // Several tiny tokens at the threshold are all near it.
        assert_eq!(inverse_cdf(&[0.5, 1e-9, 1e-9, 0.5], 0.5, 1e-5), (2, vec![0, 1, 3]));
    }

    #[test]
    fn argmax_takes_the_lowest_of_equals() {
        assert_eq!(argmax(&[0.0, 2.0, 1.0, 2.0]), 1);
        assert_eq!(argmax(&[0.0, 0.0]), 0);
    }
}
