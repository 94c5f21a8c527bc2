//! Numbers as an f32 computation has them: a running error analysis (Higham, *Accuracy and Stability of
//! Numerical Algorithms*, section 3.3), so that bounds follow the recurrence.
//!
//! Every step adds roundings, and the weights pass on a share of the errors before it: for h = f(W·h' + …)
//! an error of h' reaches h by at most slope·|W|. Slopes are taken where the exact value lies and the
//! function's curvature over the error is added, so the bound holds for errors of any size.

use std::ops::{Add, Mul, Sub};

use crate::tensor::DType;

/// Unit roundoff of the f32 that every kernel computes in.
const U: f64 = DType::F32.unit_roundoff();

/// An exact value with a bound of the absolute error that a kernel's value of it may have.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Approx {
    pub(super) value: f64,
    pub(super) error: f64,
}

impl Approx {
    pub(super) fn exact(value: f64) -> Self {
        Self { value, error: 0.0 }
    }

    /// After rounding to a storage type: its roundoff, or the spacing of its subnormal numbers.
    pub(super) fn stored(self, dtype: DType) -> Self {
        let size = self.value.abs() + self.error;
        Self { error: self.error + dtype.unit_roundoff() * size + dtype.tiny(), ..self }
    }

    /// 1 / (1 + e^−x). The curvature is at most 0.0963. The exponential, `ex2.approx(x·log2 e)`, has a
    /// relative error of 4 roundings and 2 of its argument; it counts by the share σ(−x) it has in the
    /// denominator. The addition and an approximate division (2 ulp) add 6.
    pub(super) fn sigmoid(self) -> Self {
        let x = self.value;
        let value = sigmoid(x);
        let own = value * (sigmoid(-x) * (4.0 + 2.0 * x.abs()) + 6.0) * U;
        let passed = value * (1.0 - value) * self.error + 0.05 * self.error * self.error;
        Self { value, error: passed.min(1.0) + own }
    }

    /// tanh x = 2·σ(2x) − 1. The curvature is at most 0.77; σ has its own error, twice, and the
    /// subtraction one rounding: near 0 that is an absolute error of some roundings of 1.
    pub(super) fn tanh(self) -> Self {
        let value = self.value.tanh();
        let passed = (1.0 - value * value) * self.error + 0.385 * self.error * self.error;
        let own = 2.0 * Self::exact(2.0 * self.value).sigmoid().error + U * value.abs();
        Self { value, error: passed.min(2.0) + own }
    }

    /// max(x, 0), and NaN of NaN.
    pub(super) fn relu(self) -> Self {
        let error = if self.value + self.error > 0.0 { self.error } else { 0.0 };
        Self { value: if self.value <= 0.0 { 0.0 } else { self.value }, error }
    }

    /// This gradient of relu(x) passed on to x, slope·self: where the sign of x is within its error, a slope of 0 or 1
    /// is right. A unit that is off passes nothing on, not even NaN.
    pub(super) fn through_relu(self, x: Self) -> Self {
        let off = x.value <= 0.0;
        let open = x.error > 0.0 && x.value.abs() <= x.error;
        let slope = Self { value: f64::from(!off), error: f64::from(open) };
        let passed = self * slope;
        Self { value: if off { 0.0 } else { passed.value }, ..passed }
    }

    /// 1 − x.
    pub(super) fn complement(self) -> Self {
        Self::exact(1.0) - self
    }
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

impl Add for Approx {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (value, error) = (self.value + other.value, self.error + other.error);
        Self { value, error: error + U * (value.abs() + error) }
    }
}

impl Sub for Approx {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + Self { value: -other.value, ..other }
    }
}

impl Mul for Approx {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let value = self.value * other.value;
        let error = self.value.abs() * other.error
            + other.value.abs() * self.error
            + self.error * other.error;
        Self { value, error: error + U * (value.abs() + error) }
    }
}

/// Relative error of a sum of `terms` products in any order: a rounding a product and an addition, twice
/// that because tensor cores truncate where others round.
fn sum_error(terms: usize) -> f64 {
    2.0 * (terms as f64 + 2.0) * U
}

/// `out[row] = Σ_k w[row, k]·v[k]` for exact weights of `rows` rows.
pub(super) fn product(w: &[f64], rows: usize, v: &[Approx]) -> Vec<Approx> {
    let value: Vec<f64> = v.iter().map(|v| v.value).collect();
    let margin = margins(v, v.len());
    let row = |r: usize| {
        let w = &w[r * v.len()..][..v.len()];
        let (mut sums, mut errors) = ([0.0; 4], [0.0; 4]);
        let quads = v.len() / 4 * 4;
        for k in (0..quads).step_by(4) {
            for lane in 0..4 {
                sums[lane] += w[k + lane] * value[k + lane];
                errors[lane] += w[k + lane].abs() * margin[k + lane];
            }
        }
        for k in quads..v.len() {
            sums[0] += w[k] * value[k];
            errors[0] += w[k].abs() * margin[k];
        }
        Approx { value: sums.iter().sum(), error: errors.iter().sum() }
    };
    (0..rows).map(row).collect()
}

/// `out[k] = Σ_row w[row, k]·v[row]` for exact weights of `columns` columns.
pub(super) fn product_transposed(w: &[f64], columns: usize, v: &[Approx]) -> Vec<Approx> {
    let margin = margins(v, v.len());
    let (mut sums, mut errors) = (vec![0.0; columns], vec![0.0; columns]);
    for (r, (v, margin)) in v.iter().zip(margin).enumerate() {
        let w = &w[r * columns..][..columns];
        for ((&w, sum), error) in w.iter().zip(&mut sums).zip(&mut errors) {
            *sum += w * v.value;
            *error += w.abs() * margin;
        }
    }
    sums.into_iter().zip(errors).map(|(value, error)| Approx { value, error }).collect()
}

/// What an element of `v` adds to the error of a sum over `terms` of them, for a weight of 1.
pub(super) fn margins(v: &[Approx], terms: usize) -> Vec<f64> {
    let relative = sum_error(terms);
    v.iter().map(|v| v.error + relative * (v.value.abs() + v.error)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_their_known_values_and_bounds_cover_moved_arguments() {
        assert_eq!(Approx::exact(0.0).sigmoid().value, 0.5);
        assert!((Approx::exact(1.0).tanh().value - 0.761_594_155_955_764_9).abs() < 1e-15);
        for x in [-5.0, -0.7, 0.0, 0.3, 4.0] {
            for error in [1e-6, 0.01, 0.5, 10.0] {
                let with = Approx { value: x, error };
                for moved in [x - error, x + error] {
                    for function in [Approx::sigmoid, Approx::tanh, Approx::relu] {
                        let (f, g) = (function(with), function(Approx::exact(moved)));
                        assert!(
                            (f.value - g.value).abs() <= f.error * (1.0 + 1e-12) + 1e-14,
                            "{x} {error}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn products_agree_with_hand_computed_ones() {
        let w = [1.0, -2.0, 3.0, 0.0, 5.0, -1.0];
        let exact = |v: &[f64]| v.iter().map(|&v| Approx::exact(v)).collect::<Vec<_>>();
        let values = |v: Vec<Approx>| v.iter().map(|v| v.value).collect::<Vec<_>>();
        assert_eq!(values(product(&w, 2, &exact(&[1.0, 1.0, 2.0]))), [5.0, 3.0]);
        assert_eq!(values(product_transposed(&w, 3, &exact(&[2.0, -1.0]))), [2.0, -9.0, 7.0]);
    }

    #[test]
    fn the_slope_of_relu_is_open_where_the_sign_is() {
        let dh = Approx::exact(3.0);
        let near = dh.through_relu(Approx { value: 1e-9, error: 1e-8 });
        assert_eq!(near, Approx { value: 3.0, error: 3.0 + U * 6.0 });
        let far = |x| dh.through_relu(Approx::exact(x));
        assert_eq!((far(0.0), far(2.0).value), (Approx::exact(0.0), 3.0));
    }

    #[test]
    fn relu_hides_no_nan_but_that_of_a_gradient_at_a_unit_that_is_off() {
        let nan = Approx::exact(f64::NAN);
        assert!(nan.relu().value.is_nan());
        assert_eq!(nan.through_relu(Approx::exact(-1.0)).value, 0.0);
        assert!(nan.through_relu(Approx::exact(1.0)).value.is_nan());
    }
}
