//! Chain acceptance: a draft without branches, kept up to its first rejected token.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::distributions::{Draws, Mass, Relation, argmax, band};
use super::distributions::{
    Pairs, check_vocabulary, integers, inverse_cdf, reals, sampled, uniforms,
};
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

impl Lengths {
    /// One length a row.
    pub(crate) fn draw(self, batch: usize, draft_len: usize, draw: &mut Draw) -> Vec<i32> {
        let mut length = || match self {
            Self::Full => draft_len,
            Self::Ragged => draw.below(draft_len + 1),
        };
        (0..batch).map(|_| length() as i32).collect()
    }
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
        check_vocabulary(params.vocab, params.relation)
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let &Params { batch, draft_len, vocab, .. } = params;
        let (target, draft) = distributions(params, draw);
        let lengths = params.lengths.draw(batch, draft_len, draw);
        let mut tokens = vec![-1; batch * draft_len];
        for (row, &length) in lengths.iter().enumerate() {
            for i in 0..length as usize {
                let q = &draft[(row * draft_len + i) * vocab..][..vocab];
                let p = &target[(row * (draft_len + 1) + i) * vocab..][..vocab];
                tokens[row * draft_len + i] = draft_token(params, q, p, draw) as i32;
            }
        }
        let real = |shape: &[usize], values| Tensor::new(shape, Data::F32(values));
        let laws = Tensors::new()
            .with("draft_probs", real(&[batch, draft_len, vocab], draft))
            .with("target_probs", real(&[batch, draft_len + 1, vocab], target));
        with_drafts(laws, [batch, draft_len], (tokens, lengths), params.draws, draw)
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
pub(crate) struct Row<'a> {
    /// n draft tokens.
    pub(crate) tokens: &'a [i32],
    /// q: at least n rows of the vocabulary.
    pub(crate) draft: &'a [f32],
    /// p: at least n + 1 rows of the vocabulary.
    pub(crate) target: &'a [f32],
    pub(crate) accept_u: &'a [f32],
    pub(crate) sample_u: f32,
    vocab: usize,
}

/// The rows of a problem, in order.
pub(crate) fn rows<'a>(params: &Params, inputs: &'a Tensors) -> impl Iterator<Item = Row<'a>> {
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

impl<'a> Row<'a> {
    pub(crate) fn p(&self, position: usize) -> &'a [f32] {
        &self.target[position * self.vocab..][..self.vocab]
    }

    pub(crate) fn q(&self, position: usize) -> &'a [f32] {
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

/// Inputs with the drafts, their lengths (one a row) and uniforms for them.
pub(crate) fn with_drafts(
    inputs: Tensors,
    [batch, draft_len]: [usize; 2],
    (tokens, lengths): (Vec<i32>, Vec<i32>),
    draws: Draws,
    draw: &mut Draw,
) -> Tensors {
    let accept = uniforms(&[batch, draft_len], draws, draw);
    let sample = uniforms(&[batch], draws, draw);
    inputs
        .with("draft_tokens", Tensor::new(&[batch, draft_len], Data::I32(tokens)))
        .with("draft_lengths", Tensor::new(&[batch], Data::I32(lengths)))
        .with("accept_u", accept)
        .with("sample_u", sample)
}

/// p [batch, draft_len + 1, vocab] and q [batch, draft_len, vocab].
fn distributions(params: &Params, draw: &mut Draw) -> (Vec<f32>, Vec<f32>) {
    let &Params { batch, draft_len, vocab, .. } = params;
    let mut pairs = Pairs::new(params.mass, params.relation, vocab, draw);
    let mut target = Vec::with_capacity(batch * (draft_len + 1) * vocab);
    let mut draft = Vec::with_capacity(batch * (draft_len + 1) * vocab);
    for _ in 0..batch {
        for _ in 0..=draft_len {
            pairs.next(draw, &mut target, &mut draft);
        }
        // The position of the bonus token has no draft.
        draft.truncate(draft.len() - vocab);
    }
    (target, draft)
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
    let real = |shape: &[usize], values| Tensor::new(shape, Data::F32(values));
    let laws = Tensors::new()
        .with("draft_probs", real(&[batch, k, vocab], draft.concat().repeat(batch)))
        .with("target_probs", real(&[batch, k + 1, vocab], target.concat().repeat(batch)));
    let drafts = (tokens, vec![k as i32; batch]);
    let inputs = with_drafts(laws, [batch, k], drafts, params.draws, &mut draw);
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
}
