//! Chain acceptance from logits: the softmax of both models is part of the operation.

use half::bf16;
use serde::{Deserialize, Serialize};

use super::{
    chain::{Lengths, with_drafts},
    distributions::{
        Draws, Mass, Pairs, Relation, argmax, check_vocabulary, integers, inverse_cdf, reals,
    },
    emitted::{Emitted, Ending},
    softmax::{Softmax, logits_at},
    weights::{Scalar, Weights},
};
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Data, Tensor, Tensors},
};

/// Which temperatures the rows have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Temperatures {
    /// That of the case.
    #[default]
    Same,
    /// 0, half of it, it, or twice it: users who share a batch.
    Mixed,
}

/// Parameters of [`ChainLogits`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Rows: sequences decided at once.
    pub batch: usize,
    /// Draft tokens of a row at most (k).
    pub draft_len: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// By which logits are divided: 0 (greedy) or 0.01 to 100.
    #[serde(default = "one")]
    pub temperature: f64,
    /// Temperature of each row.
    #[serde(default)]
    pub temperatures: Temperatures,
    /// Draft length of each row.
    #[serde(default)]
    pub lengths: Lengths,
    /// Spread of each distribution's mass at temperature 1; tokens without mass are masked (−∞).
    #[serde(default)]
    pub mass: Mass,
    /// Relation of q to p.
    #[serde(default)]
    pub relation: Relation,
    /// Uniforms and draft tokens.
    #[serde(default)]
    pub draws: Draws,
    /// Element type of the logits.
    pub dtype: DType,
}

fn one() -> f64 {
    1.0
}

/// Chain speculative acceptance with residual resampling and bonus token, straight from the logits of both models.
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `draft_logits` | batch, draft_len, vocab | f32, bf16 | y: the draft model's logits at each position |
/// | `target_logits` | batch, draft_len + 1, vocab | that of `draft_logits` | x: the target model's, one position further |
/// | `temperature` | batch | f32 | T of each row, not negative |
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
/// Where T > 0, p = softmax(x/T) and q = softmax(y/T) take the place of the distributions of
/// [`super::chain::Chain`] in mode `sample`: draft token t at position i is accepted iff u·q_i(t) < p_i(t), and the
/// further token is drawn from p_n or from max(p_a − q_a, 0), p_a where that is zero everywhere. A token has no mass
/// iff its logit is −∞ (masked); every row of x and y has a finite logit, and none is +∞ or NaN. Where T = 0, x takes
/// the place of p in mode `greedy`; y and the uniforms are not read. |logit|/T stays below 10⁷.
///
/// A probability carries a kernel's rounding (softmax.rs derives how much), so unlike in [`super::chain::Chain`] a draft token whose
/// |ln(p/(u·q))| is within it may be accepted or not: the other endings of the row are stated, each with its tokens,
/// and counted where taken. So are the tokens that rounding of the weights may put in the further one's place. Greedy
/// rows are exact.
///
/// Source: Leviathan, Kalman, Matias, *Fast Inference from Transformers via Speculative Decoding*, 2023, algorithm 1;
/// Chen et al., *Accelerating Large Language Model Decoding with Speculative Sampling*, 2023, algorithm 2.
#[derive(Debug)]
pub struct ChainLogits;

impl Algorithm for ChainLogits {
    const NAME: &'static str = "acceptance.chain_logits";
    const SUMMARY: &'static str = "Chain acceptance straight from logits: probabilities of both models never pass \
         through memory";
    const ITEMS: &'static str = "emitted tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        let &Params { temperature, temperatures, dtype, .. } = params;
        let sampled = (0.01..=100.0).contains(&temperature);
        if !sampled && (temperature != 0.0 || temperatures == Temperatures::Mixed) {
            return Err(format!("temperature={temperature} must be 0 (in all rows) or 0.01..=100"));
        }
        if !matches!(dtype, DType::F32 | DType::Bf16) {
            return Err(format!("dtype {} is not f32 or bf16", dtype.name()));
        }
        check_vocabulary(params.vocab, params.relation)
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let &Params { batch, draft_len, vocab, dtype, .. } = params;
        let (target, draft) = logits(params, draw);
        let target = stored(dtype, &[batch, draft_len + 1, vocab], target);
        let draft = stored(dtype, &[batch, draft_len, vocab], draft);
        let temperatures: Vec<f32> = (0..batch).map(|_| temperature(params, draw)).collect();
        let lengths = params.lengths.draw(batch, draft_len, draw);
        let mut tokens = vec![-1; batch * draft_len];
        for (row, &length) in lengths.iter().enumerate() {
            for i in 0..length as usize {
                let x = logits_at(&target, row * (draft_len + 1) + i, vocab);
                let y = logits_at(&draft, row * draft_len + i, vocab);
                let token = draft_token(params.draws, temperatures[row], &x, &y, draw);
                tokens[row * draft_len + i] = token as i32;
            }
        }
        let laws = Tensors::new()
            .with("draft_logits", draft)
            .with("target_logits", target)
            .with("temperature", Tensor::new(&[batch], Data::F32(temperatures)));
        with_drafts(laws, [batch, draft_len], (tokens, lengths), params.draws, draw)
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let mut emitted = Emitted::new(params.batch, params.draft_len);
        for row in rows(params, inputs) {
            emitted.push(&row.endings(), row.tokens);
        }
        emitted.outputs()
    }

    /// A row that accepted a of n tokens needs x and y of min(a + 1, n) positions, and x of the last one if a = n:
    /// each once, two operations a logit, and three more a token of the distribution that the further token is drawn
    /// from, which is read again from nearer memory. Greedy: x of a + 1 positions, one comparison a token. 16 bytes of
    /// token and uniform an examined draft, 12 of length, uniform and temperature in, 4·(draft_len + 2) out.
    /// Items: a + 1.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let vocab = params.vocab as f64;
        let mut work = Work::default();
        for row in rows(params, inputs) {
            let count = row.accepted();
            let examined = (count + 1).min(row.tokens.len()) as f64;
            let bonus = f64::from(u8::from(count == row.tokens.len()));
            let (values, flops) = if row.temperature == 0.0 {
                (examined + bonus, examined + bonus)
            } else {
                (2.0 * examined + bonus, 4.0 * examined + 2.0 * bonus + 3.0)
            };
            work.flops += flops * vocab;
            work.bytes += params.dtype.bytes() as f64 * values * vocab
                + 16.0 * examined
                + 12.0
                + 4.0 * (params.draft_len + 2) as f64;
            work.items += (count + 1) as f64;
        }
        work
    }
}

/// What decides one row: n draft tokens, logits, temperature and uniforms.
struct Row<'a> {
    tokens: &'a [i32],
    draft: &'a Tensor,
    target: &'a Tensor,
    /// Rows of `draft` and of `target` before its own.
    before: [usize; 2],
    temperature: f64,
    accept_u: &'a [f32],
    sample_u: f32,
    vocab: usize,
}

fn rows<'a>(params: &Params, inputs: &'a Tensors) -> impl Iterator<Item = Row<'a>> {
    let &Params { batch, draft_len: k, vocab, .. } = params;
    let [draft, target] = ["draft_logits", "target_logits"].map(|name| inputs.tensor(name));
    let [temperature, accept, sample] =
        ["temperature", "accept_u", "sample_u"].map(|name| reals(inputs, name));
    let [tokens, lengths] = ["draft_tokens", "draft_lengths"].map(|name| integers(inputs, name));
    (0..batch).map(move |row| Row {
        tokens: &tokens[row * k..][..lengths[row] as usize],
        draft,
        target,
        before: [row * k, row * (k + 1)],
        temperature: temperature[row].into(),
        accept_u: &accept[row * k..][..k],
        sample_u: sample[row],
        vocab,
    })
}

impl Row<'_> {
    fn p(&self, position: usize) -> Softmax {
        Softmax::of(&self.x(position), self.temperature)
    }

    fn q(&self, position: usize) -> Softmax {
        let logits = logits_at(self.draft, self.before[0] + position, self.vocab);
        Softmax::of(&logits, self.temperature)
    }

    fn x(&self, position: usize) -> Vec<f64> {
        logits_at(self.target, self.before[1] + position, self.vocab)
    }

    /// Whether the draft token at a position is accepted, and whether a kernel may find otherwise.
    fn decision(&self, position: usize) -> (bool, bool) {
        let token = self.tokens[position] as usize;
        if self.temperature == 0.0 {
            return (token == argmax(&self.x(position)), false);
        }
        let (p, q) = (self.p(position), self.q(position));
        // ln 0 = −∞ on either side decides as products would, for infinities never are in doubt.
        let drafted = f64::from(self.accept_u[position]).ln() + q.log(token);
        let wanted = p.log(token);
        let doubt = (wanted - drafted).abs() <= p.error(token) + q.error(token);
        (drafted < wanted, doubt)
    }

    /// Length of the accepted prefix.
    fn accepted(&self) -> usize {
        (0..self.tokens.len()).take_while(|&i| self.decision(i).0).count()
    }

    /// The exact ending, then those that rounding may put in its place.
    fn endings(&self) -> Vec<Ending> {
        let (mut exact, mut others) = (None, Vec::new());
        for count in 0..=self.tokens.len() {
            let all = count == self.tokens.len();
            let (accepts, doubt) = if all { (false, false) } else { self.decision(count) };
            if exact.is_none() && !accepts {
                exact = Some(self.ending(count));
            } else if !accepts || doubt {
                others.push(self.ending(count));
            }
            if !accepts && !doubt {
                break;
            }
        }
        exact.into_iter().chain(others).collect()
    }

    /// The token after `count` accepted ones.
    fn ending(&self, count: usize) -> Ending {
        if self.temperature == 0.0 {
            let token = argmax(&self.x(count)) as i64;
            return Ending { count, token, others: Vec::new() };
        }
        let p = self.p(count);
        let target = || Weights::differences(p.all().map(|p| (p, Scalar::ZERO)));
        let (token, others) = if count == self.tokens.len() {
            target().token(self.sample_u)
        } else {
            let residual = Weights::differences(p.all().zip(self.q(count).all()));
            residual.token_or(self.sample_u, target)
        };
        Ending { count, token, others }
    }
}

/// Logits of the target [batch, draft_len + 1, vocab] and of the draft [batch, draft_len, vocab]: the logarithms of
/// drawn distributions, and a constant of N(0, 4²) for each position, which no distribution depends on.
fn logits(params: &Params, draw: &mut Draw) -> (Vec<f32>, Vec<f32>) {
    let &Params { batch, draft_len, vocab, .. } = params;
    let mut pairs = Pairs::new(params.mass, params.relation, vocab, draw);
    let mut target: Vec<f32> = Vec::with_capacity(batch * (draft_len + 1) * vocab);
    let mut draft: Vec<f32> = Vec::with_capacity(batch * (draft_len + 1) * vocab);
    for _ in 0..batch {
        for _ in 0..=draft_len {
            let starts = [target.len(), draft.len()];
            pairs.next(draw, &mut target, &mut draft);
            let shift = 4.0 * draw.standard_normal() as f32;
            let drawn = target[starts[0]..].iter_mut().chain(&mut draft[starts[1]..]);
            drawn.for_each(|p| *p = p.ln() + shift);
        }
        // The position of the bonus token has no draft.
        draft.truncate(draft.len() - vocab);
    }
    (target, draft)
}

/// A row's temperature.
fn temperature(params: &Params, draw: &mut Draw) -> f32 {
    let factor = match params.temperatures {
        Temperatures::Same => 1.0,
        Temperatures::Mixed => [0.0, 0.5, 1.0, 2.0][draw.below(4)],
    };
    (factor * params.temperature) as f32
}

/// Values as a tensor of that type.
fn stored(dtype: DType, shape: &[usize], values: Vec<f32>) -> Tensor {
    let data = match dtype {
        DType::Bf16 => Data::Bf16(values.into_iter().map(bf16::from_f32).collect()),
        _ => Data::F32(values),
    };
    Tensor::new(shape, data)
}

/// A token by the draft's logits `y`; where the row is greedy, three in four are the argmax of the target's `x`.
fn draft_token(draws: Draws, temperature: f32, x: &[f64], y: &[f64], draw: &mut Draw) -> usize {
    if draws == Draws::Adversarial && draw.below(4) == 0 {
        return draw.below(y.len());
    }
    if temperature == 0.0 && draw.below(4) > 0 {
        return argmax(x);
    }
    let temperature = if temperature == 0.0 { 1.0 } else { f64::from(temperature) };
    let law: Vec<f64> = Softmax::of(y, temperature).all().map(|p| p.value).collect();
    inverse_cdf(&law, draw.unit(), 0.0).0 as usize
}

/// A problem whose `batch` rows share their logits, `temperature`·ln p and `temperature`·ln q as `dtype` holds them:
/// draft tokens and uniforms alone differ, so that the emitted tokens are independent draws from
/// [`super::law::joint`] of what the stored logits stand for.
///
/// `target` is p [draft_len + 1][vocab], `draft` is q [draft_len][vocab].
pub fn repeated(
    (target, draft): (&[Vec<f32>], &[Vec<f32>]),
    (temperature, dtype): (f32, DType),
    batch: usize,
    seed: u64,
) -> (Params, Tensors) {
    let (k, vocab) = (draft.len(), target[0].len());
    let params = Params {
        batch,
        draft_len: k,
        vocab,
        temperature: temperature.into(),
        temperatures: Temperatures::Same,
        lengths: Lengths::Full,
        mass: Mass::default(),
        relation: Relation::default(),
        draws: Draws::Fair,
        dtype,
    };
    let mut draw = Draw::new(seed);
    let tensor = |laws: &[Vec<f32>]| {
        let logits: Vec<f32> = laws.concat().iter().map(|p| temperature * p.ln()).collect();
        stored(dtype, &[batch, laws.len(), vocab], logits.repeat(batch))
    };
    let (x, y) = (tensor(target), tensor(draft));
    let laws: Vec<Vec<f64>> = (0..k)
        .map(|i| Softmax::of(&logits_at(&y, i, vocab), temperature.into()))
        .map(|law| law.all().map(|p| p.value).collect())
        .collect();
    let tokens: Vec<i32> =
        (0..batch * k).map(|i| inverse_cdf(&laws[i % k], draw.unit(), 0.0).0 as i32).collect();
    let inputs = Tensors::new()
        .with("draft_logits", y)
        .with("target_logits", x)
        .with("temperature", Tensor::new(&[batch], Data::F32(vec![temperature; batch])));
    let drafts = (tokens, vec![k as i32; batch]);
    (params, with_drafts(inputs, [batch, k], drafts, Draws::Fair, &mut draw))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row, one draft token, a vocabulary of three; p = (½, ¼, ¼) and q = (¼, ½, ¼) at temperature ½, and a bonus
    /// position whose first token is masked.
    fn known(temperature: f32, token: i32, accept_u: f32, sample_u: f32) -> (i64, Vec<i64>) {
        let half = |p: f32| 0.5 * p.ln();
        let x = [0.5, 0.25, 0.25, 0.0, 0.5, 0.5].map(half);
        let y = [0.25, 0.5, 0.25].map(|p| half(p) + 7.0);
        let inputs = Tensors::new()
            .with("draft_logits", Tensor::new(&[1, 1, 3], Data::F32(y.to_vec())))
            .with("target_logits", Tensor::new(&[1, 2, 3], Data::F32(x.to_vec())))
            .with("temperature", Tensor::new(&[1], Data::F32(vec![temperature])))
            .with("draft_tokens", Tensor::new(&[1, 1], Data::I32(vec![token])))
            .with("draft_lengths", Tensor::new(&[1], Data::I32(vec![1])))
            .with("accept_u", Tensor::new(&[1, 1], Data::F32(vec![accept_u])))
            .with("sample_u", Tensor::new(&[1], Data::F32(vec![sample_u])));
        let case = "acceptance.chain_logits:batch=1,draft_len=1,vocab=3,dtype=f32";
        let params = case.parse::<crate::Case>().unwrap().params().unwrap();
        let outputs = ChainLogits::reference(&params, &inputs);
        let integers = |name: &str| -> Vec<i64> {
            outputs.output(name).values().iter().map(|&v| v as i64).collect()
        };
        (integers("accepted")[0], integers("tokens"))
    }

    #[test]
    fn hand_computed_rows() {
        // Token 0: q = ¼ < p = ½. The bonus is token 1 or 2, for token 0 is masked.
        assert_eq!(known(0.5, 0, 0.99, 0.1), (1, vec![0, 1]));
        assert_eq!(known(0.5, 0, 0.99, 0.6), (1, vec![0, 2]));
        // Token 1: u·½ < ¼ holds below u = ½ alone; the residual is (¼, 0, 0).
        assert_eq!(known(0.5, 1, 0.49, 0.0), (1, vec![1, 1]));
        assert_eq!(known(0.5, 1, 0.51, 0.99), (0, vec![0, -1]));
        // At temperature 1, p and q are the square roots, normalized: still u < ½^½ = 0.707.
        assert_eq!(known(1.0, 1, 0.7, 0.0), (1, vec![1, 1]));
        assert_eq!(known(1.0, 1, 0.71, 0.0), (0, vec![0, -1]));
        // Greedy: argmax is token 0, then the lowest of two equals.
        assert_eq!(known(0.0, 0, 0.99, 0.9), (1, vec![0, 1]));
        assert_eq!(known(0.0, 1, 0.0, 0.0), (0, vec![0, -1]));
    }

    #[test]
    fn a_decision_within_rounding_states_both_endings() {
        let even = vec![vec![0.5, 0.5]; 2];
        let (mut params, inputs) = repeated((&even, &[vec![0.25, 0.75]]), (1.0, DType::F32), 1, 0);
        params.batch = 1;
        let inputs = inputs
            .with("draft_tokens", Tensor::new(&[1, 1], Data::I32(vec![1])))
            .with("accept_u", Tensor::new(&[1, 1], Data::F32(vec![2.0 / 3.0])));
        let row = rows(&params, &inputs).next().unwrap();
        let mut counts: Vec<usize> = row.endings().iter().map(|ending| ending.count).collect();
        counts.sort_unstable();
        assert_eq!(counts, [0, 1]);
    }
}
