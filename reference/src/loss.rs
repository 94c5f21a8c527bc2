//! The end of a language model: softmax over its vocabulary, cross entropy, and that loss with its gradient.

use serde::{Deserialize, Serialize};

use crate::{
    algorithm::{Algorithm, Operation, Work},
    draw::{Draw, ends_and_between},
    expected::{Expected, Outputs, Tolerance},
    tensor::{DType, Tensor, Tensors},
};

/// The operations of this vertical.
pub const OPERATIONS: &[Operation] = &[
    Operation::of::<Softmax>(),
    Operation::of::<CrossEntropy>(),
    Operation::of::<CrossEntropyGradient>(),
];

/// The target of a row that has none: padding. Its loss and its gradient are zero.
pub const IGNORED: i64 = -1;

/// What the logits are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logits {
    /// N(0, 1): a model that knows nothing yet.
    Normal,
    /// N(0, 20²): a model that is sure; most probabilities are zero in any format.
    Sharp,
    /// N(0, 1) + 1000: exponentials overflow unless the maximum is taken off first.
    Shifted,
    /// Ascending from −30 to 30: every step finds a new maximum.
    Ascending,
    /// N(0, 1), half of them −∞: a masked vocabulary. The first is not, so that there is a distribution.
    Masked,
}

/// Parameters of all operations here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Tokens.
    pub rows: usize,
    /// Words of the vocabulary.
    pub vocab: usize,
    /// What the logits are like.
    pub logits: Logits,
    /// Element type of logits and of what has their shape.
    pub dtype: DType,
}

impl Params {
    fn validate(&self) -> Result<(), String> {
        if !matches!(self.dtype, DType::F32 | DType::F16 | DType::Bf16) {
            return Err(format!("no logits of {}", self.dtype.name()));
        }
        if self.vocab == 0 || self.vocab > 1 << 24 {
            return Err(format!("a vocabulary of {}", self.vocab));
        }
        Ok(())
    }

    fn shape(&self) -> [usize; 2] {
        [self.rows, self.vocab]
    }

    fn draw_logits(&self, draw: &mut Draw) -> Tensor {
        let (mut at, vocab) = (0, self.vocab);
        draw.real(self.dtype, &self.shape(), |draw| {
            let column = at % vocab;
            at += 1;
            let normal = draw.standard_normal();
            match self.logits {
                Logits::Normal => normal,
                Logits::Sharp => 20.0 * normal,
                Logits::Shifted => 1000.0 + normal,
                Logits::Ascending => -30.0 + 60.0 * column as f64 / vocab as f64,
                Logits::Masked if column > 0 && draw.unit() < 0.5 => f64::NEG_INFINITY,
                Logits::Masked => normal,
            }
        })
    }

    /// Any word, but for one row in eight, which is padding.
    fn draw_targets(&self, draw: &mut Draw) -> Tensor {
        let vocab = self.vocab;
        draw.integers(DType::I32, &[self.rows], |draw| match draw.below(8) {
            0 => IGNORED,
            _ => draw.below(vocab) as i64,
        })
    }

    /// Numbers of the rows that the reference computes: all while there are not too many logits.
    fn sampled(&self) -> Vec<usize> {
        const BUDGET: usize = 1 << 25;
        ends_and_between(self.rows, BUDGET / self.vocab.max(1), 0x0010_c175)
    }

    /// flops = two for each logit (take off the maximum, add up).
    fn work(&self, bytes: usize) -> Work {
        let logits = (self.rows * self.vocab) as f64;
        Work {
            flops: 2.0 * logits,
            bytes: bytes as f64,
            items: self.rows as f64,
            matrix: false,
            eight_bit: false,
        }
    }
}

/// First-order error analysis leaves out products of roundings; one per cent covers them.
const SECOND_ORDER: f64 = 1.01;

/// Roundings that count for a sum of `n` terms: n in the worst case, and, with roundings that behave as
/// independent with mean zero, at most 8√n but for a chance of 3·10⁻¹⁴ (Higham & Mary 2019, theorem 2.4).
fn sum_roundings(n: usize) -> f64 {
    let n = n as f64;
    n.min(8.0 * n.sqrt())
}

/// Roundings of an f32 e^(x − M) where y = x − M: y is rounded, and so is the constant that makes it an exponent of two,
/// each of which changes the result by |y|·u; the hardware's exponential is within 2 ulp, 4 u.
fn exponential_roundings(y: f64) -> f64 {
    if y.is_finite() { 2.0 * y.abs() + 4.0 } else { 0.0 }
}

/// Roundings of a sum over a running maximum: whenever that grows, the sum so far is multiplied by another exponential
/// (whose exponents add up to y, so only its own 4 u and the product count). Ascending logits do that at every step of
/// a thread, of which there are vocab / 1024 where 128 threads take 8 logits a step, and where threads meet: 10 times.
fn rescaling_roundings(vocab: usize) -> f64 {
    5.0 * sum_roundings(vocab / 1024 + 10)
}

/// One row in f64.
struct Row {
    highest: f64,
    /// Σ e^(x − M).
    sum: f64,
    /// Relative error of the sum in f32, in u.
    sum_roundings: f64,
    logits: Vec<f64>,
}

impl Row {
    fn of(params: &Params, logits: &Tensor, row: usize) -> Self {
        let at = row * params.vocab;
        let logits: Vec<f64> = (at..at + params.vocab).map(|i| logits.real_at(i)).collect();
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mut sum, mut weighted) = (0.0, 0.0);
        for x in &logits {
            let e = (x - highest).exp();
            sum += e;
            weighted += e * exponential_roundings(x - highest);
        }
        let n = params.vocab;
        let sum_roundings = weighted / sum + sum_roundings(n) + rescaling_roundings(n);
        Self { highest, sum, sum_roundings, logits }
    }

    /// Probability of a word, and its error in f32 in u.
    fn probability(&self, word: usize) -> (f64, f64) {
        let y = self.logits[word] - self.highest;
        let p = y.exp() / self.sum;
        // One division, or a reciprocal and a product.
        (p, p * (exponential_roundings(y) + self.sum_roundings + 3.0))
    }

    /// Loss of a target, and its error in f32 in u: that of the sum as it is, the logarithm's 2 ulp, and of each term of
    /// log S + M − x its own rounding, those of the constants that lead to powers of two and back, and of two results.
    fn loss(&self, target: i64) -> (f64, f64) {
        let Ok(target) = usize::try_from(target) else { return (0.0, 0.0) };
        let (log, x) = (self.sum.ln(), self.logits[target]);
        let terms = log.abs() + self.highest.abs() + if x.is_finite() { x.abs() } else { 0.0 };
        (log + self.highest - x, self.sum_roundings + 4.0 * log.abs() + 5.0 * terms)
    }
}

fn tolerance(storage: DType) -> Tolerance {
    Tolerance { relative: SECOND_ORDER * DType::F32.unit_roundoff(), storage }
}

/// Probabilities: `p[t, v] = e^(x[t, v] − M_t) / Σ_w e^(x[t, w] − M_t)`, M the row's maximum.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `logits` | [rows, vocab] | f32, f16, bf16 | x |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `probabilities` | [rows, vocab] | that of `logits` | p |
///
/// Sums are f32. A logit of −∞ has probability zero; a row has at least one that is finite. Source: the running
/// maximum and sum are Milakov & Gimelshein 2018, "Online normalizer calculation for softmax".
#[derive(Debug)]
pub struct Softmax;

impl Algorithm for Softmax {
    const NAME: &'static str = "loss.softmax";
    const SUMMARY: &'static str = "probabilities over a vocabulary";
    const ITEMS: &'static str = "tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.validate()
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        Tensors::new().with("logits", params.draw_logits(draw))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let mut known = Vec::new();
        for row in params.sampled() {
            let values = Row::of(params, inputs.tensor("logits"), row);
            known.extend((0..params.vocab).map(|word| {
                let (value, magnitude) = values.probability(word);
                (row * params.vocab + word, value, magnitude)
            }));
        }
        let probabilities = Expected::sampled(&params.shape(), &known, tolerance(params.dtype));
        Outputs::new().with("probabilities", probabilities)
    }

    /// bytes = logits once, probabilities once; items = rows.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        params.work(2 * inputs.bytes())
    }
}

/// Cross entropy of each token: `loss[t] = log Σ_v e^(x[t, v]) − x[t, target[t]]`.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `logits` | [rows, vocab] | f32, f16, bf16 | x |
/// | `targets` | [rows] | i32 | the right words; −1 where a row is padding |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `loss` | [rows] | f32 | in nats; zero for padding, +∞ for a target of logit −∞ |
#[derive(Debug)]
pub struct CrossEntropy;

impl Algorithm for CrossEntropy {
    const NAME: &'static str = "loss.cross_entropy";
    const SUMMARY: &'static str = "cross entropy over a vocabulary";
    const ITEMS: &'static str = "tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.validate()
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let logits = params.draw_logits(draw);
        Tensors::new().with("logits", logits).with("targets", params.draw_targets(draw))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let targets = inputs.tensor("targets").to_i64();
        let mut known = Vec::new();
        for row in params.sampled() {
            let (value, magnitude) =
                Row::of(params, inputs.tensor("logits"), row).loss(targets[row]);
            known.push((row, value, magnitude));
        }
        Outputs::new()
            .with("loss", Expected::sampled(&[params.rows], &known, tolerance(DType::F32)))
    }

    /// bytes = logits and targets once, losses once; items = rows.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        params.work(inputs.bytes() + params.rows * DType::F32.bytes())
    }
}

/// Cross entropy and its gradient in one operation, as in training: `d_logits[t, v] = d_loss[t] · (p[t, v] − [v =
/// target[t]])`, with p as in [`Softmax`] and `loss` as in [`CrossEntropy`].
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `logits` | [rows, vocab] | f32, f16, bf16 | x |
/// | `targets` | [rows] | i32 | the right words; −1 where a row is padding |
/// | `d_loss` | [rows] | f32 | gradient of the loss: the token's weight |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `loss` | [rows] | f32 | as in [`CrossEntropy`] |
/// | `d_logits` | [rows, vocab] | that of `logits` | gradient; zero for padding |
#[derive(Debug)]
pub struct CrossEntropyGradient;

impl Algorithm for CrossEntropyGradient {
    const NAME: &'static str = "loss.cross_entropy_gradient";
    const SUMMARY: &'static str = "cross entropy over a vocabulary, with its gradient";
    const ITEMS: &'static str = "tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.validate()
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let inputs = CrossEntropy::inputs(params, draw);
        inputs.with("d_loss", draw.uniform(DType::F32, &[params.rows], 0.25, 1.0))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let targets = inputs.tensor("targets").to_i64();
        let weights = inputs.tensor("d_loss").to_f64();
        let (mut losses, mut gradients) = (Vec::new(), Vec::new());
        for row in params.sampled() {
            let (values, target) = (Row::of(params, inputs.tensor("logits"), row), targets[row]);
            let (loss, error) = values.loss(target);
            losses.push((row, loss, error));
            let weight = if target == IGNORED { 0.0 } else { weights[row] };
            gradients.extend((0..params.vocab).map(|word| {
                let (p, error) = values.probability(word);
                let p = if word as i64 == target { p - 1.0 } else { p };
                // The difference and the product with the weight are rounded.
                let magnitude = weight * (error + 2.0 * p.abs());
                (row * params.vocab + word, weight * p, magnitude)
            }));
        }
        let gradients = Expected::sampled(&params.shape(), &gradients, tolerance(params.dtype));
        let losses = Expected::sampled(&[params.rows], &losses, tolerance(DType::F32));
        Outputs::new().with("loss", losses).with("d_logits", gradients)
    }

    /// bytes = inputs once, losses and gradients once; items = rows.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let logits = inputs.tensor("logits").bytes();
        params.work(inputs.bytes() + params.rows * DType::F32.bytes() + logits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_loss_of_two_words() {
        let params = Params { rows: 2, vocab: 2, logits: Logits::Normal, dtype: DType::F32 };
        let inputs = Tensors::new()
            .with("logits", Tensor::from_real(DType::F32, &[2, 2], &[0.0, 0.0, 0.0, 1.0]))
            .with("targets", Tensor::from_integers(DType::I32, &[2], &[1, IGNORED]))
            .with("d_loss", Tensor::from_real(DType::F32, &[2], &[2.0, 1.0]));
        let outputs = CrossEntropyGradient::reference(&params, &inputs);
        assert_eq!(outputs.output("loss").values(), [2f64.ln(), 0.0]);
        assert_eq!(outputs.output("d_logits").values(), [1.0, -1.0, 0.0, 0.0]);
    }
}
