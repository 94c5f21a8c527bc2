//! Weights that are left of the target after the draft's share is taken away, and how exactly a kernel knows them.

use crate::{
    acceptance::distributions::{band, located},
    tensor::DType,
};

/// Weights w(t) = max(a·p(t) − c·q(t), 0) over a vocabulary, with what rounding may do to them.
///
/// A kernel forms w in f32 and sums it as [`band`] allows. Where a and c carry errors da and dc, an element is off by
/// at most da·p + dc·q beside its own rounding, and only where w may be positive at all. Those errors, summed, are the
/// `blur`: every partial sum is off by at most blur + (n + 2)·u·sum, where n is the chain that `band` allows.
pub(crate) struct Residual<'a> {
    p: &'a [f32],
    weights: Vec<f64>,
    /// The largest that each weight may be; positive, where it may count at all.
    largest: Vec<f64>,
    mass: f64,
    blur: f64,
    /// Σ of the errors of p.
    p_error: f64,
}

/// A scalar that a kernel holds as f64 within an error, and uses in f32.
#[derive(Clone, Copy)]
pub(crate) struct Scalar {
    pub(crate) value: f64,
    pub(crate) error: f64,
}

impl Scalar {
    /// One, which every kernel has exactly.
    pub(crate) const ONE: Self = Self { value: 1.0, error: 0.0 };

    /// Error of a product with it: its own, its rounding to f32, and the product's where that is not fused with the
    /// subtraction. A product with an exact one is exact.
    fn of_product(self) -> f64 {
        if self.error == 0.0 && self.value == 1.0 {
            0.0
        } else {
            self.error + 3.0 * DType::F32.unit_roundoff() * self.value
        }
    }
}

impl<'a> Residual<'a> {
    /// max(a·p − c·q, 0).
    pub(crate) fn new(p: &'a [f32], q: &[f32], a: Scalar, c: Scalar) -> Self {
        let (da, dc) = (a.of_product(), c.of_product());
        let (mut weights, mut all, mut blur) = (Vec::new(), Vec::new(), 0.0);
        for (&p, &q) in p.iter().zip(q) {
            let (p, q) = (f64::from(p), f64::from(q));
            weights.push((a.value * p - c.value * q).max(0.0));
            let largest = (a.value + da) * p - (c.value - dc) * q;
            all.push(largest);
            if largest > 0.0 {
                blur += da * p + dc * q;
            }
        }
        Self { p, mass: weights.iter().sum(), weights, largest: all, blur, p_error: 0.0 }
    }

    /// p without the tokens in `taken`: no arithmetic, so nothing is in doubt but the sums.
    pub(crate) fn without(p: &'a [f32], taken: &[i32]) -> Self {
        let mut weights: Vec<f64> = p.iter().map(|&p| p.into()).collect();
        for &t in taken {
            weights[t as usize] = 0.0;
        }
        let mut largest = weights.clone();
        for &t in taken {
            largest[t as usize] = f64::NEG_INFINITY;
        }
        Self { p, mass: weights.iter().sum(), weights, largest, blur: 0.0, p_error: 0.0 }
    }

    /// The same where the kernel's p(t) is off by up to `errors[t]`, and the factor on it is one.
    #[must_use]
    pub(crate) fn with_errors(mut self, errors: &[f64]) -> Self {
        for (largest, error) in self.largest.iter_mut().zip(errors) {
            *largest += error;
            self.blur += if *largest > 0.0 { *error } else { 0.0 };
            self.p_error += error;
        }
        self
    }

    /// Σ w, and how far a kernel may be from it.
    pub(crate) fn mass(&self) -> Scalar {
        let error = self.blur + 0.5 * band(self.weights.len()) * self.mass;
        Scalar { value: self.mass, error }
    }

    /// The token at `u` of the weights, or of p where they are zero everywhere; then those that rounding may put in its
    /// place.
    pub(crate) fn token(&self, u: f32) -> (i64, Vec<i64>) {
        let (u, vocab) = (f64::from(u), self.weights.len());
        let target = || {
            let p: Vec<f64> = self.p.iter().map(|&p| p.into()).collect();
            let threshold = u * p.iter().sum::<f64>();
            let slack = band(vocab) * threshold + 2.0 * self.p_error;
            located(&p, |t| p[t] > 0.0, threshold, slack)
        };
        let threshold = u * self.mass;
        let slack = band(vocab) * threshold + 2.0 * self.blur;
        let (token, near) = located(&self.weights, |t| self.largest[t] > 0.0, threshold, slack);
        if token >= 0 && self.mass > self.blur {
            return (token, near);
        }
        // Whether anything is left at all is within rounding.
        let (instead, also) = target();
        let token = if token >= 0 { token } else { instead };
        let mut others = [near, vec![instead], also].concat();
        others.sort_unstable();
        others.dedup();
        others.retain(|&t| t != token);
        (token, others)
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
        let exact = Residual::new(&p, &q, Scalar::ONE, Scalar::ONE);
        assert_eq!((exact.mass, exact.blur), (0.25, 0.0));
        let c = Scalar { value: 2.0, error: 1e-3 };
        let blurred = Residual::new(&p, &q, Scalar::ONE, c);
        // 0.5 − 2·0.25 = 0: positive or not, within the error.
        assert_eq!(blurred.mass, 0.0);
        assert!(blurred.blur > 0.24e-3 && blurred.blur < 0.26e-3);
        assert_eq!(blurred.token(0.9), (1, vec![0]));
    }
}
