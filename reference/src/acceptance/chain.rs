//! Chain acceptance: a draft without branches, kept up to its first rejected token.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::{Discrete, Expected, Outputs},
    tensor::{DType, Data, Tensor, Tensors},
};

/// How the target model's distribution chooses a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By its probabilities.
    #[default]
    Sample,
    /// Always its most probable token, the lowest index among equals: sampling at temperature 0, where
    /// softmax puts all mass on the largest logit.
    Greedy,
}

/// How many tokens each row's draft has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// `draft_len` in every row.
    #[default]
    Full,
    /// Uniform in `0..=draft_len`, row by row.
    Ragged,
}

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

/// Parameters of [`Chain`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Rows: sequences decided at once.
    pub batch: usize,
    /// Draft tokens of a row at most (k).
    pub draft_len: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Sampling or greedy.
    #[serde(default)]
    pub mode: Mode,
    /// Draft length of each row.
    #[serde(default)]
    pub lengths: Lengths,
    /// Spread of each distribution's mass.
    #[serde(default)]
    pub mass: Mass,
    /// Relation of q to p.
    #[serde(default)]
    pub relation: Relation,
    /// Uniforms and draft tokens.
    #[serde(default)]
    pub draws: Draws,
}

/// Chain speculative acceptance with residual resampling and bonus token.
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `draft_probs` | batch, draft_len, vocab | f32 | q: the draft model's distribution at each position |
/// | `target_probs` | batch, draft_len + 1, vocab | f32 | p: the target model's, one position further |
/// | `draft_tokens` | batch, draft_len | i32 | the draft; −1 (not read) from the row's length on |
/// | `draft_lengths` | batch | i32 | tokens in each row's draft, 0..=draft_len |
/// | `accept_u` | batch, draft_len | f32 | uniform in [0, 1), one per draft token |
/// | `sample_u` | batch | f32 | uniform in [0, 1), one per row |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `accepted` | batch | i32 | length a of the accepted prefix |
/// | `tokens` | batch, draft_len + 1 | i32 | the accepted prefix, one more token, then −1 |
///
/// Let n be the row's draft length. In mode `sample`, draft token t at position i is accepted iff
/// `u·q_i(t) < p_i(t)`, decided on the exact product (two f32 multiply exactly in f64): a token with
/// p(t) = 0 never is, one with q(t) = 0 < p(t) always. a is the length of the prefix that is accepted
/// throughout. The further token is drawn with weights
///
/// - w = p_n if a = n (the bonus token),
/// - w = max(p_a − q_a, 0) otherwise; where that is zero everywhere (p ≤ q: rounding of equal rows), w = p_a.
///
/// It is the smallest t with w(t) > 0 and Σ_{s≤t} w(s) > sample_u · Σ w; rows need not sum to one. A row
/// of p must have positive mass.
///
/// In mode `greedy` (equal to temperature 0) draft token t is accepted iff t = argmax p_i, and the further
/// token is argmax p_a; q and the uniforms are not read.
///
/// Source: Leviathan, Kalman, Matias, *Fast Inference from Transformers via Speculative Decoding*, 2023,
/// algorithm 1; Chen et al., *Accelerating Large Language Model Decoding with Speculative Sampling*, 2023,
/// algorithm 2.
#[derive(Debug)]
pub struct Chain;

impl Algorithm for Chain {
    const NAME: &'static str = "acceptance.chain";
    const SUMMARY: &'static str = "Speculative decoding: keep a prefix of the draft, then one token of the target's, \
         so that the emitted law is the target's";
    const ITEMS: &'static str = "emitted tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        let Params { vocab, relation, .. } = params;
        if *vocab == 0 || *vocab > i32::MAX as usize {
            return Err(format!("vocab={vocab} must be in 1..2³¹: a distribution needs a token"));
        }
        if *relation == Relation::Disjoint && *vocab < 2 {
            return Err("relation=disjoint needs vocab>=2".into());
        }
        Ok(())
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let &Params { batch, draft_len, vocab, .. } = params;
        let (target, draft) = distributions(params, draw);
        let lengths: Vec<i32> = (0..batch)
            .map(|_| match params.lengths {
                Lengths::Full => draft_len as i32,
                Lengths::Ragged => draw.below(draft_len + 1) as i32,
            })
            .collect();
        let mut tokens = vec![-1; batch * draft_len];
        for (row, &length) in lengths.iter().enumerate() {
            for i in 0..length as usize {
                let q = &draft[(row * draft_len + i) * vocab..][..vocab];
                let p = &target[(row * (draft_len + 1) + i) * vocab..][..vocab];
                tokens[row * draft_len + i] = draft_token(params, q, p, draw) as i32;
            }
        }
        let accept: Vec<f32> = (0..batch * draft_len).map(|_| uniform(params, draw)).collect();
        let sample: Vec<f32> = (0..batch).map(|_| uniform(params, draw)).collect();
        let real = |shape: &[usize], values| Tensor::new(shape, Data::F32(values));
        Tensors::new()
            .with("draft_probs", real(&[batch, draft_len, vocab], draft))
            .with("target_probs", real(&[batch, draft_len + 1, vocab], target))
            .with("draft_tokens", Tensor::new(&[batch, draft_len], Data::I32(tokens)))
            .with("draft_lengths", Tensor::new(&[batch], Data::I32(lengths)))
            .with("accept_u", real(&[batch, draft_len], accept))
            .with("sample_u", real(&[batch], sample))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let &Params { batch, draft_len, .. } = params;
        let (mut accepted, mut tokens, mut also) = (Vec::new(), Vec::new(), BTreeMap::new());
        for row in rows(params, inputs) {
            let count = row.accepted(params.mode);
            let (token, others) = row.further_token(params.mode, count);
            if !others.is_empty() {
                also.insert(tokens.len() + count, others);
            }
            accepted.push(count as i64);
            tokens.extend(row.tokens[..count].iter().map(|&t| i64::from(t)));
            tokens.push(token);
            tokens.extend(std::iter::repeat_n(-1, draft_len - count));
        }
        let discrete = |shape: &[usize], value, also| {
            Expected::Discrete(Discrete { dtype: DType::I32, shape: shape.to_vec(), value, also })
        };
        Outputs::new()
            .with("accepted", discrete(&[batch], accepted, BTreeMap::new()))
            .with("tokens", discrete(&[batch, draft_len + 1], tokens, also))
    }

    /// Sampling a row that accepted a of n tokens examines min(a + 1, n) drafts (16 bytes each) and reads
    /// p and q of one position, or p alone for the bonus: 4·vocab bytes and one addition per token, with q
    /// twice the bytes and two operations more. Greedy reads p at a + 1 positions, one comparison a token.
    /// 8 bytes of length and uniform in, 4·(draft_len + 2) out. Items: a + 1.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let vocab = params.vocab as f64;
        let mut work = Work::default();
        for row in rows(params, inputs) {
            let count = row.accepted(params.mode);
            let examined = (count + 1).min(row.tokens.len()) as f64;
            let (values, flops) = match params.mode {
                Mode::Greedy => ((count + 1) as f64 * vocab, (count + 1) as f64 * vocab),
                Mode::Sample if count < row.tokens.len() => (2.0 * vocab, 3.0 * vocab),
                Mode::Sample => (vocab, vocab),
            };
            work.flops += flops + examined;
            work.bytes +=
                4.0 * values + 16.0 * examined + 8.0 + 4.0 * (params.draft_len + 2) as f64;
            work.items += (count + 1) as f64;
        }
        work
    }
}

/// What decides one row: its draft tokens (n of them), distributions and uniforms.
struct Row<'a> {
    /// n draft tokens.
    tokens: &'a [i32],
    /// q: at least n rows of the vocabulary.
    draft: &'a [f32],
    /// p: at least n + 1 rows of the vocabulary.
    target: &'a [f32],
    accept_u: &'a [f32],
    sample_u: f32,
    vocab: usize,
}

/// The rows of a problem, in order.
fn rows<'a>(params: &Params, inputs: &'a Tensors) -> impl Iterator<Item = Row<'a>> {
    let &Params { batch, draft_len: k, vocab, .. } = params;
    let [draft, target, accept, sample] =
        ["draft_probs", "target_probs", "accept_u", "sample_u"].map(|name| reals(inputs, name));
    let [tokens, lengths] = ["draft_tokens", "draft_lengths"].map(|name| integers(inputs, name));
    (0..batch).map(move |row| Row {
        tokens: &tokens[row * k..][..lengths[row] as usize],
        draft: &draft[row * k * vocab..(row + 1) * k * vocab],
        target: &target[row * (k + 1) * vocab..][..(k + 1) * vocab],
        accept_u: &accept[row * k..][..k],
        sample_u: sample[row],
        vocab,
    })
}

impl Row<'_> {
    fn p(&self, position: usize) -> &[f32] {
        &self.target[position * self.vocab..][..self.vocab]
    }

    fn q(&self, position: usize) -> &[f32] {
        &self.draft[position * self.vocab..][..self.vocab]
    }

    /// Length of the accepted prefix.
    fn accepted(&self, mode: Mode) -> usize {
        let accepts = |&(i, &token): &(usize, &i32)| match mode {
            Mode::Greedy => token as usize == argmax(self.p(i)),
            Mode::Sample => {
                let (q, p) = (self.q(i)[token as usize], self.p(i)[token as usize]);
                f64::from(self.accept_u[i]) * f64::from(q) < f64::from(p)
            }
        };
        self.tokens.iter().enumerate().take_while(accepts).count()
    }

    /// The token after `count` accepted ones, and those that rounding may put in its place.
    fn further_token(&self, mode: Mode, count: usize) -> (i64, Vec<i64>) {
        let p = self.p(count);
        if mode == Mode::Greedy {
            return (argmax(p) as i64, Vec::new());
        }
        let mut weights: Vec<f64> = p.iter().map(|&p| p.into()).collect();
        if count < self.tokens.len() {
            let residual = |(&p, &q): (&f32, &f32)| (f64::from(p) - f64::from(q)).max(0.0);
            let residuals: Vec<f64> = p.iter().zip(self.q(count)).map(residual).collect();
            if residuals.iter().any(|&w| w > 0.0) {
                weights = residuals;
            }
        }
        inverse_cdf(&weights, self.sample_u.into(), band(self.vocab))
    }
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
fn inverse_cdf(weights: &[f64], u: f64, band: f64) -> (i64, Vec<i64>) {
    let threshold = u * weights.iter().sum::<f64>();
    let (mut before, mut token, mut exceeded, mut near) = (0.0, -1, false, Vec::new());
    for (t, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        let after = before + weight;
        if !exceeded {
            token = t as i64;
            exceeded = after > threshold;
        }
        if after >= threshold * (1.0 - band) {
            near.push(t as i64);
        }
        if after > threshold * (1.0 + band) {
            break;
        }
        before = after;
    }
    near.retain(|&t| t != token);
    (token, near)
}

/// Index of the largest value, the lowest among equals.
pub fn argmax(values: &[f32]) -> usize {
    (0..values.len()).fold(0, |best, t| if values[t] > values[best] { t } else { best })
}

fn reals<'a>(tensors: &'a Tensors, name: &str) -> &'a [f32] {
    match tensors.tensor(name).data() {
        Data::F32(values) => values,
        _ => panic!("'{name}' is not f32"),
    }
}

fn integers<'a>(tensors: &'a Tensors, name: &str) -> &'a [i32] {
    match tensors.tensor(name).data() {
        Data::I32(values) => values,
        _ => panic!("'{name}' is not i32"),
    }
}

/// Distributions drawn afresh; the rows of a case are rotations and mixtures of these, because drawing
/// each of 10⁸ probabilities would take longer than checking a kernel on them.
const POOL: usize = 8;

/// p [batch, draft_len + 1, vocab] and q [batch, draft_len, vocab].
fn distributions(params: &Params, draw: &mut Draw) -> (Vec<f32>, Vec<f32>) {
    let &Params { batch, draft_len, vocab, relation, .. } = params;
    let pool: Vec<Vec<f64>> = (0..POOL).map(|_| spread(params.mass, vocab, draw)).collect();
    let mut target = Vec::with_capacity(batch * (draft_len + 1) * vocab);
    let mut draft = Vec::with_capacity(batch * draft_len * vocab);
    let (mut p, mut other) = (Vec::with_capacity(vocab), Vec::with_capacity(vocab));
    for _ in 0..batch {
        for position in 0..=draft_len {
            rotated(&mut p, &pool, draw);
            rotated(&mut other, &pool, draw);
            match relation {
                Relation::Same => other.clone_from(&p),
                Relation::Far => {}
                Relation::Near => {
                    other.iter_mut().zip(&p).for_each(|(q, &p)| *q = 0.3 * *q + 0.7 * p);
                }
                Relation::Disjoint => {
                    keep_parity(&mut p, 0);
                    keep_parity(&mut other, 1);
                }
            }
            target.extend(p.iter().map(|&p| p as f32));
            if position < draft_len {
                draft.extend(other.iter().map(|&q| q as f32));
            }
        }
    }
    (target, draft)
}

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

fn draft_token(params: &Params, q: &[f32], p: &[f32], draw: &mut Draw) -> usize {
    if params.draws == Draws::Adversarial && draw.below(4) == 0 {
        return draw.below(q.len());
    }
    if params.mode == Mode::Greedy && draw.below(4) > 0 {
        return argmax(p);
    }
    sampled(q, draw.unit())
}

/// The token at `u` of a distribution that may not sum to exactly one.
fn sampled(q: &[f32], u: f64) -> usize {
    let weights: Vec<f64> = q.iter().map(|&q| q.into()).collect();
    inverse_cdf(&weights, u, 0.0).0 as usize
}

/// A multiple of 2⁻²⁴ in [0, 1): f32 holds it exactly, and never rounds it to 1.
fn uniform(params: &Params, draw: &mut Draw) -> f32 {
    const STEPS: usize = 1 << 24;
    let step = match (params.draws, draw.below(4)) {
        (Draws::Adversarial, 0) => 0,
        (Draws::Adversarial, 1) => STEPS - 1,
        _ => draw.below(STEPS),
    };
    step as f32 / STEPS as f32
}

/// A problem whose `batch` rows share their distributions: draft tokens and uniforms alone differ, so that
/// the emitted tokens are independent draws from [`super::law::joint`].
///
/// `target` is p [draft_len + 1][vocab], `draft` is q [draft_len][vocab].
pub fn repeated(
    target: &[Vec<f32>],
    draft: &[Vec<f32>],
    batch: usize,
    seed: u64,
) -> (Params, Tensors) {
    let params = Params {
        batch,
        draft_len: draft.len(),
        vocab: target[0].len(),
        mode: Mode::Sample,
        lengths: Lengths::Full,
        mass: Mass::default(),
        relation: Relation::default(),
        draws: Draws::Fair,
    };
    let mut draw = Draw::new(seed);
    let (k, vocab) = (params.draft_len, params.vocab);
    let tokens: Vec<i32> =
        (0..batch * k).map(|i| sampled(&draft[i % k], draw.unit()) as i32).collect();
    let mut uniforms = |count| (0..count).map(|_| uniform(&params, &mut draw)).collect::<Vec<_>>();
    let real = |shape: &[usize], values| Tensor::new(shape, Data::F32(values));
    let inputs = Tensors::new()
        .with("draft_probs", real(&[batch, k, vocab], draft.concat().repeat(batch)))
        .with("target_probs", real(&[batch, k + 1, vocab], target.concat().repeat(batch)))
        .with("draft_tokens", Tensor::new(&[batch, k], Data::I32(tokens)))
        .with("draft_lengths", Tensor::new(&[batch], Data::I32(vec![k as i32; batch])))
        .with("accept_u", real(&[batch, k], uniforms(batch * k)))
        .with("sample_u", real(&[batch], uniforms(batch)));
    (params, inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row, two draft tokens, a vocabulary of three.
    fn known(tokens: [i32; 2], length: i32, accept_u: [f32; 2], sample_u: f32) -> (i64, Vec<i64>) {
        let p = [0.5, 0.25, 0.25, 0.125, 0.75, 0.125, 0.25, 0.0, 0.75];
        let q = [0.25, 0.5, 0.25, 0.5, 0.25, 0.25];
        let inputs = Tensors::new()
            .with("draft_probs", Tensor::new(&[1, 2, 3], Data::F32(q.to_vec())))
            .with("target_probs", Tensor::new(&[1, 3, 3], Data::F32(p.to_vec())))
            .with("draft_tokens", Tensor::new(&[1, 2], Data::I32(tokens.to_vec())))
            .with("draft_lengths", Tensor::new(&[1], Data::I32(vec![length])))
            .with("accept_u", Tensor::new(&[1, 2], Data::F32(accept_u.to_vec())))
            .with("sample_u", Tensor::new(&[1], Data::F32(vec![sample_u])));
        let params = Params {
            batch: 1,
            draft_len: 2,
            vocab: 3,
            mode: Mode::Sample,
            lengths: Lengths::Ragged,
            mass: Mass::Zipf,
            relation: Relation::Far,
            draws: Draws::Fair,
        };
        let outputs = Chain::reference(&params, &inputs);
        let integers = |name: &str| -> Vec<i64> {
            outputs.output(name).values().iter().map(|&v| v as i64).collect()
        };
        (integers("accepted")[0], integers("tokens"))
    }

    #[test]
    fn hand_computed_rows() {
        // Token 0: q = ¼ < p = ½, always accepted. Token 1 at position 1: p = ¾ > q = ¼. Bonus at u = ½
        // of (¼, 0, ¾): the running sum ¼ is not above ½, token 1 has no mass, so token 2.
        assert_eq!(known([0, 1], 2, [0.99, 0.99], 0.5), (2, vec![0, 1, 2]));
        // Token 1 at position 0: ½·u < ¼ fails at exactly u = ½. Residual (¼, 0, 0): token 0.
        assert_eq!(known([1, 1], 2, [0.5, 0.0], 0.99), (0, vec![0, -1, -1]));
        // Just below it passes; token 0 at position 1: u·½ < ⅛ fails at ¼; residual (0, ½, 0).
        assert_eq!(known([1, 0], 2, [0.49, 0.25], 0.0), (1, vec![1, 1, -1]));
        // A draft of length 0 takes the bonus token from p's first row.
        assert_eq!(known([-1, -1], 0, [0.0, 0.0], 0.5), (0, vec![1, -1, -1]));
        assert_eq!(known([-1, -1], 0, [0.0, 0.0], 0.49), (0, vec![0, -1, -1]));
    }

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
    fn a_residual_that_vanishes_falls_back_to_the_target() {
        let row = Row {
            tokens: &[1],
            draft: &[0.5, 0.5],
            target: &[0.5, 0.0, 1.0, 0.0],
            accept_u: &[0.0],
            sample_u: 0.9,
            vocab: 2,
        };
        assert_eq!(row.accepted(Mode::Sample), 0);
        assert_eq!(row.further_token(Mode::Sample, 0), (0, vec![]));
    }

    #[test]
    fn argmax_takes_the_lowest_of_equals() {
        assert_eq!(argmax(&[0.0, 2.0, 1.0, 2.0]), 1);
        assert_eq!(argmax(&[0.0, 0.0]), 0);
    }
}
