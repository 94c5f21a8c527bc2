//! State-space models: scans of h_t = a_t·h_{t−1} + x_t along the sequence.
//!
//! | operation | what it computes |
//! |---|---|
//! | `ssm.selective` | Mamba's selective scan: a and x follow from Δ, A, B and u; y = C·h + D·u, gated |
//! | `ssm.selective_backward` | its gradients |
//! | `ssm.recurrence` | the diagonal linear recurrence itself, real or complex; all h |
//! | `ssm.recurrence_backward` | its gradients |
//! | `ssm.ssd` | Mamba-2's scan: matrix states with one decay a head and step |
//! | `ssm.retention` | RetNet's: the same with a fixed decay |
//! | `ssm.gated_linear_attention` | a decay for every key dimension and step |
//! | `ssm.rwkv7` | RWKV-7's: that, and a delta rule that takes back what a key gave |
//! | `ssm.s4d` | S4D: a diagonal state space that is a scan and a convolution |
//!
//! # Error model
//! The references do a running error analysis (Higham, *Accuracy and Stability of Numerical
//! Algorithms*, section 3.3): every intermediate is a [`Term`], which carries beside its f64 value the
//! first-order bound of the error that an f32 computation of it has gathered. So the bound follows the
//! recurrence: an error decays with the state that holds it.
//!
//! A parallel scan multiplies and adds in another order. Each x_s still reaches h_t through the same
//! factors, one rounding a factor, but the additions of one level of a tree round disjoint partial
//! sums whose magnitudes, decayed to t, add up to at most that of h_t: each level costs one more
//! rounding of the magnitude. [`SCAN_DEPTH`] levels are granted.

use crate::{
    algorithm::Operation,
    draw::Draw,
    expected::{Expected, Tolerance},
    tensor::{DType, Data, Tensor},
};

pub mod gated_linear_attention;
pub mod hippo;
mod matrix;
pub mod recurrence;
pub mod recurrence_backward;
pub mod retention;
pub mod rwkv7;
pub mod s4d;
pub mod selective;
pub mod selective_backward;
pub mod ssd;

/// The operations of this vertical.
pub const OPERATIONS: &[Operation] = &[
    Operation::of::<selective::Selective>(),
    Operation::of::<selective_backward::SelectiveBackward>(),
    Operation::of::<recurrence::Recurrence>(),
    Operation::of::<recurrence_backward::RecurrenceBackward>(),
    Operation::of::<ssd::Ssd>(),
    Operation::of::<retention::Retention>(),
    Operation::of::<gated_linear_attention::GatedLinearAttention>(),
    Operation::of::<rwkv7::Rwkv7>(),
    Operation::of::<s4d::S4d>(),
];

/// Default of parameters that count groups.
fn one() -> usize {
    1
}

/// Default of parameters that switch a part of an operation: it is there.
fn yes() -> bool {
    true
}

/// Unit roundoff of the f32 that every kernel computes in.
const U: f64 = DType::F32.unit_roundoff();

/// Levels of a parallel scan's tree: 1024 threads make 10, the carries around it a few more.
const SCAN_DEPTH: f64 = 16.0;

/// A value as an f32 computation has it.
#[derive(Clone, Copy, Debug, Default)]
struct Term {
    /// The exact value.
    value: f64,
    /// Σ|terms| of the sum it is; its absolute value if it is no sum.
    magnitude: f64,
    /// First-order bound of its absolute error in units of [`U`].
    error: f64,
}

impl Term {
    /// An input: no error.
    fn exact(value: f64) -> Self {
        Self { value, magnitude: value.abs(), error: 0.0 }
    }

    /// A function value with the given absolute error in units of [`U`].
    fn with_error(value: f64, error: f64) -> Self {
        Self { value, magnitude: value.abs(), error }
    }

    /// The product: both relative errors and one rounding.
    fn times(self, other: Self) -> Self {
        let value = self.value * other.value;
        Self {
            value,
            magnitude: self.magnitude * other.magnitude,
            error: self.value.abs() * other.error + other.value.abs() * self.error + value.abs(),
        }
    }

    /// The sum: both errors and one rounding of at most the magnitude.
    fn plus(self, other: Self) -> Self {
        let magnitude = self.magnitude + other.magnitude;
        Self {
            value: self.value + other.value,
            magnitude,
            error: self.error + other.error + magnitude,
        }
    }

    /// Adds to a sum whose roundings [`Term::summed`] counts afterwards.
    fn accumulate(&mut self, term: Self) {
        self.value += term.value;
        self.magnitude += term.magnitude;
        self.error += term.error;
    }

    /// The same after `roundings` roundings of at most the magnitude: a sum of that many terms in any
    /// order.
    fn summed(self, roundings: f64) -> Self {
        Self { error: self.error + roundings * self.magnitude, ..self }
    }
}

/// The logistic function.
fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// Errors of `exp(x)` as kernels compute it, `ex2.approx(x·log2 e)`, relative and in units of [`U`]:
/// 4 of the instruction (2^-22), and two roundings of the argument (log2 e and the product).
fn exp_error(x: f64) -> f64 {
    4.0 + 2.0 * x.abs()
}

/// log(1 + e^x).
///
/// The argument's error and that of e^x, relative, pass on with the factor σ(x) (one more rounding is
/// granted to each), and log1p itself is right to 4 roundings of the result. Returning x itself above
/// 20 leaves out at most 2e-9 and is within that.
fn softplus(x: Term) -> Term {
    let value = x.value.max(0.0) + (-x.value.abs()).exp().ln_1p();
    let error = sigmoid(x.value) * (x.error + exp_error(x.value) + 1.0) + 4.0 * value;
    Term::with_error(value, error)
}

/// 1 / (1 + e^−x): the error of the exponential counts by the share σ(−x) it has in the
/// denominator; the addition and an approximate division (2 ulp, 4 roundings) add 6.
fn sigmoid_term(x: f64) -> Term {
    let value = sigmoid(x);
    Term::with_error(value, value * (sigmoid(-x) * exp_error(x) + 6.0))
}

/// z·σ(z).
fn silu(z: f64) -> Term {
    Term::exact(z).times(sigmoid_term(z))
}

/// d silu(z)/dz = σ·(1 + z·(1 − σ)).
///
/// 1 − σ is computed as a difference, whose error is one rounding of 1 beside σ's own, or as σ(−z).
fn silu_slope(z: f64) -> Term {
    let s = sigmoid_term(z);
    let rest = Term { value: sigmoid(-z), magnitude: 1.0, error: s.error + 1.0 };
    s.times(Term::exact(1.0).plus(Term::exact(z).times(rest)))
}

/// Reads elements of a tensor as f64 where converting all of it would take too much memory.
#[derive(Clone, Copy)]
struct View<'a>(&'a Tensor);

impl View<'_> {
    /// The element at a row-major index.
    fn get(self, index: usize) -> f64 {
        match self.0.data() {
            Data::F64(v) => v[index],
            Data::F32(v) => v[index].into(),
            Data::F16(v) => v[index].into(),
            Data::Bf16(v) => v[index].into(),
            _ => panic!("{} tensor read as real numbers", self.0.dtype().name()),
        }
    }
}

/// The numbers `0..count`, or a fixed random sample of `at_most` of them (at least one) with the first
/// and last, ascending.
fn sample(count: usize, at_most: usize) -> Vec<usize> {
    if count <= at_most.max(1) {
        return (0..count).collect();
    }
    let mut draw = Draw::new(count as u64);
    let mut chosen: Vec<usize> = (0..at_most).map(|_| draw.below(count)).collect();
    chosen.extend([0, count - 1]);
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// The output whose elements `known` gives by row-major index, in any order: all of them or a sample.
fn expected(shape: &[usize], mut known: Vec<(usize, Term)>, storage: DType) -> Expected {
    known.sort_unstable_by_key(|k| k.0);
    let tolerance = Tolerance { relative: U, storage };
    let known: Vec<_> = known.iter().map(|&(i, term)| (i, term.value, term.error)).collect();
    Expected::sampled(shape, &known, tolerance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_carries_its_magnitude_through_cancellation() {
        let sum = Term::exact(3.0).plus(Term::exact(-2.0));
        assert_eq!((sum.value, sum.magnitude, sum.error), (1.0, 5.0, 5.0));
        let product = sum.times(Term::exact(2.0));
        assert_eq!((product.value, product.error), (2.0, 12.0));
    }

    #[test]
    fn the_gate_functions_have_their_known_values() {
        assert!((softplus(Term::exact(0.0)).value - 2f64.ln()).abs() < 1e-15);
        assert!((softplus(Term::exact(-50.0)).value - (-50f64).exp()).abs() < 1e-30);
        assert!((softplus(Term::exact(50.0)).value - 50.0).abs() < 1e-15);
        assert!((silu(1.0).value - 0.731_058_578_630_004_9).abs() < 1e-15);
        let (step, z) = (1e-6, 0.7);
        let slope = (silu(z + step).value - silu(z - step).value) / (2.0 * step);
        assert!((silu_slope(z).value - slope).abs() < 1e-9);
    }

    #[test]
    fn a_sample_is_ascending_and_has_both_ends() {
        assert_eq!(sample(3, 8), [0, 1, 2]);
        assert_eq!(sample(0, 8), Vec::<usize>::new());
        let chosen = sample(1000, 8);
        assert!(chosen.windows(2).all(|w| w[0] < w[1]) && chosen.len() <= 10);
        assert_eq!((chosen[0], chosen[chosen.len() - 1]), (0, 999));
    }
}
