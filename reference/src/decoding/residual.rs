//! Weights that are left of the target after the draft's share is taken away, and how exactly a kernel knows them.

use crate::{
    acceptance::weights::{Scalar, Weights},
    tensor::DType,
};

/// Weights w(t) = max(a·p(t) − c·q(t), 0) over a vocabulary, with what rounding may do to them: where a and c carry
/// errors da and dc, the products are off by da·p and dc·q.
pub(crate) struct Residual<'a> {
    p: &'a [f32],
    weights: Weights,
    /// Σ of the errors of p.
    p_error: f64,
}

/// Error of a product with a scalar that a kernel holds as f64 and uses in f32: its own, its rounding to f32, and the
/// product's where that is not fused with the subtraction. A product with an exact one is exact.
fn of_product(scalar: Scalar) -> f64 {
    if scalar.error == 0.0 && scalar.value == 1.0 {
        0.0
    } else {
        scalar.error + 3.0 * DType::F32.unit_roundoff() * scalar.value
    }
}

impl<'a> Residual<'a> {
    /// max(a·p − c·q, 0).
    pub(crate) fn new(p: &'a [f32], q: &[f32], a: Scalar, c: Scalar) -> Self {
        let [of_p, of_q] = [a, c].map(|scalar| {
            let error = of_product(scalar);
            move |x: f32| {
                let x = f64::from(x);
                Scalar { value: scalar.value * x, error: error * x }
            }
        });
        let pairs = p.iter().zip(q).map(|(&p, &q)| (of_p(p), of_q(q)));
        Self { p, weights: Weights::differences(pairs), p_error: 0.0 }
    }

    /// p without the tokens in `taken`.
    pub(crate) fn without(p: &'a [f32], taken: &[i32]) -> Self {
        let mut left: Vec<f64> = p.iter().map(|&p| p.into()).collect();
        for &t in taken {
            left[t as usize] = 0.0;
        }
        let mut weights = Weights::exact(left);
        for &t in taken {
            weights.largest[t as usize] = f64::NEG_INFINITY;
        }
        Self { p, weights, p_error: 0.0 }
    }

    /// The same where the kernel's p(t) is off by up to `errors[t]`, and the factor on it is one.
    #[must_use]
    pub(crate) fn with_errors(mut self, errors: &[f64]) -> Self {
        for (largest, error) in self.weights.largest.iter_mut().zip(errors) {
            *largest += error;
            self.weights.blur += if *largest > 0.0 { *error } else { 0.0 };
            self.p_error += error;
        }
        self
    }

    /// Σ w, and how far a kernel may be from it.
    pub(crate) fn mass(&self) -> Scalar {
        self.weights.mass()
    }

    /// The token at `u` of the weights, or of p where they are zero everywhere; then those that rounding may put in its
    /// place.
    pub(crate) fn token(&self, u: f32) -> (i64, Vec<i64>) {
        let target = || {
            let p = self.p.iter().map(|&p| p.into()).collect();
            Weights { blur: self.p_error, ..Weights::exact(p) }
        };
        self.weights.token_or(u, target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_equal_distributions_is_the_target() {
        let p = [0.25, 0.75];
        let residual = Residual::new(&p, &p, Scalar::ONE, Scalar::ONE);
        assert_eq!((residual.mass().value, residual.mass().error), (0.0, 0.0));
        assert_eq!(residual.token(0.1), (0, vec![]));
        assert_eq!(residual.token(0.5), (1, vec![]));
    }

    #[test]
    fn a_scalar_with_an_error_blurs_what_is_left() {
        let (p, q) = ([0.5, 0.5], [0.25, 0.75]);
        let exact = Residual::new(&p, &q, Scalar::ONE, Scalar::ONE).weights;
        assert_eq!((exact.mass, exact.blur), (0.25, 0.0));
        let c = Scalar { value: 2.0, error: 1e-3 };
        let blurred = Residual::new(&p, &q, Scalar::ONE, c);
        // 0.5 − 2·0.25 = 0: positive or not, within the error.
        assert_eq!(blurred.weights.mass, 0.0);
        assert!(blurred.weights.blur > 0.24e-3 && blurred.weights.blur < 0.26e-3);
        assert_eq!(blurred.token(0.9), (1, vec![0]));
    }
}
