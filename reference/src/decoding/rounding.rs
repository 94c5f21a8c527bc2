//! Error models that several operations of this vertical share.

use crate::tensor::DType;

/// Unit roundoff of the f32 that kernels compute in.
pub(super) const U: f64 = DType::F32.unit_roundoff();

/// How large a sum of errors of these sizes may be when they are independent and their mean is zero: beyond
/// 8·√(Σ e²) only with probability 2·exp(−8²/2) ≈ 10⁻¹⁴ (Hoeffding 1963, theorem 2), and never beyond Σ|e|.
pub(super) fn independent(errors: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut squares) = (0.0, 0.0);
    for error in errors {
        sum += error.abs();
        squares += error * error;
    }
    f64::min(sum, 8.0 * f64::sqrt(squares))
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// SiLU(x) = x / (1 + e^−x).
pub(super) fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// Error of SiLU where its argument is off by `error`: its slope is at most 1.0999. The exponential has 4 roundings
/// and 2 of its argument, which count by their share in the denominator; the sum, an approximate reciprocal and the
/// product add 7.
pub(super) fn silu_error(x: f64, error: f64) -> f64 {
    1.1 * error + U * silu(x).abs() * (sigmoid(-x) * (4.0 + 2.0 * x.abs()) + 7.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silu_has_its_known_values_and_nowhere_a_larger_slope() {
        assert_eq!(silu(0.0), 0.0);
        assert!((silu(1.0) - 0.731_058_578_630_004_9).abs() < 1e-15);
        assert!(silu(-800.0).abs() < 1e-300);
        let slope = |x: f64| (silu(x + 1e-4) - silu(x - 1e-4)) / 2e-4;
        assert!((-1000..1000).all(|i| slope(f64::from(i) / 100.0).abs() < 1.1));
    }

    #[test]
    fn few_errors_add_and_many_cancel() {
        assert_eq!(independent([1.0, -2.0].into_iter()), 3.0);
        assert_eq!(independent(std::iter::repeat_n(1.0, 10_000)), 800.0);
    }
}
