//! The distribution that logits stand for at a temperature, and how exactly a kernel knows it.

use super::{distributions::band, weights::Scalar};
use crate::tensor::{DType, Tensor};

/// Unit roundoff of the f32 that kernels compute in.
const U: f64 = DType::F32.unit_roundoff();

/// Sums of roundings leave out their products; one per cent covers them.
const SECOND_ORDER: f64 = 1.01;

/// Roundings of an f32 weight e^y, y = (x − M)/T, where M is the row's maximum.
///
/// A kernel takes 2^(x·s − b), s = log2(e)/T rounded to f32 and b a whole number near M·s. s is off by at most 2u, for
/// its constant and its quotient, which moves an exponent by 2·|y|·u against that of M. The product and the difference
/// are fused, so they round once: (|y| + 1)·u, for b may be one off. The hardware's power of two adds 4u. Powers of two
/// by which sums are rescaled are exact, since every b is whole.
fn roundings(y: f64) -> f64 {
    3.0 * y.abs() + 5.0
}

/// p(t) = e^(x(t)/T) / Σ e^(x/T), T > 0, kept as logarithms: a token has no mass only where its logit is −∞.
pub(crate) struct Softmax {
    /// (x − M)/T, at most 0.
    y: Vec<f64>,
    /// ln Σ e^y.
    log_sum: f64,
    /// Relative error of a kernel's Σ e^y.
    sum_error: f64,
}

impl Softmax {
    /// Of logits with at least one that is finite.
    pub(crate) fn of(logits: &[f64], temperature: f64) -> Self {
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let y: Vec<f64> = logits.iter().map(|x| (x - highest) / temperature).collect();
        let (mut sum, mut rounded) = (0.0, 0.0);
        for &y in y.iter().filter(|y| y.is_finite()) {
            sum += y.exp();
            rounded += y.exp() * roundings(y);
        }
        // Each weight's own error, then the chain of additions.
        let sum_error = U * rounded / sum + 0.5 * band(y.len());
        Self { y, log_sum: sum.ln(), sum_error }
    }

    /// ln p(t).
    pub(crate) fn log(&self, t: usize) -> f64 {
        self.y[t] - self.log_sum
    }

    /// Relative error of a kernel's p(t), so the absolute one of its logarithm: its weight's, the sum's, and a
    /// reciprocal and a product.
    pub(crate) fn error(&self, t: usize) -> f64 {
        let y = self.y[t];
        if y.is_finite() { SECOND_ORDER * (U * (roundings(y) + 3.0) + self.sum_error) } else { 0.0 }
    }

    /// p(t); a weight below the smallest normal number may be flushed to zero.
    pub(crate) fn at(&self, t: usize) -> Scalar {
        let value = self.log(t).exp();
        let tiny = if self.y[t].is_finite() { 2.0 * DType::F32.tiny() } else { 0.0 };
        Scalar { value, error: value * self.error(t) + tiny }
    }

    /// p of all tokens.
    pub(crate) fn all(&self) -> impl Iterator<Item = Scalar> {
        (0..self.y.len()).map(|t| self.at(t))
    }
}

/// The row-major `row` of a tensor whose last axis is the vocabulary.
pub(crate) fn logits_at(tensor: &Tensor, row: usize, vocab: usize) -> Vec<f64> {
    (row * vocab..(row + 1) * vocab).map(|i| tensor.real_at(i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_probabilities_at_two_temperatures() {
        let logits = [2f64.ln(), 0.0, f64::NEG_INFINITY];
        for (temperature, third) in [(1.0, 1.0 / 3.0), (0.5, 0.2)] {
            let law = Softmax::of(&logits, temperature);
            assert!((law.at(1).value - third).abs() < 1e-15);
            assert!((law.log(1) - third.ln()).abs() < 1e-15);
            assert_eq!((law.at(2).value, law.at(2).error), (0.0, 0.0));
        }
    }

    #[test]
    fn errors_grow_with_the_distance_from_the_maximum() {
        let law = Softmax::of(&[0.0, -10.0], 1.0);
        assert!(law.error(0) < law.error(1));
        assert!(law.error(1) < 400.0 * U);
    }
}
