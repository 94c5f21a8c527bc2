//! Weights over a vocabulary from which a token is drawn, with what rounding may do to them.

use super::distributions::{band, located};

/// A number that a kernel knows within an error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar {
    pub(crate) value: f64,
    pub(crate) error: f64,
}

impl Scalar {
    /// Nothing at all.
    pub(crate) const ZERO: Self = Self { value: 0.0, error: 0.0 };

    /// One, which every kernel has exactly.
    pub(crate) const ONE: Self = Self { value: 1.0, error: 0.0 };
}

/// Weights w(t), formed in f32 and summed as [`band`] allows.
///
/// A weight max(a − b, 0) is off by at most the errors of a and b beside its own rounding, and only where it may be
/// positive at all. Those errors, summed, are the `blur`: every partial sum is off by at most blur + (n + 2)·u·sum,
/// where n is the chain that `band` allows.
pub(crate) struct Weights {
    pub(crate) values: Vec<f64>,
    /// The largest that each weight may be; positive, where it may count at all.
    pub(crate) largest: Vec<f64>,
    pub(crate) mass: f64,
    pub(crate) blur: f64,
}

impl Weights {
    /// No arithmetic, so nothing is in doubt but the sums.
    pub(crate) fn exact(values: Vec<f64>) -> Self {
        Self { mass: values.iter().sum(), largest: values.clone(), values, blur: 0.0 }
    }

    /// max(a − b, 0) of each pair (a, b), neither of which is ever negative.
    pub(crate) fn differences(pairs: impl Iterator<Item = (Scalar, Scalar)>) -> Self {
        let (mut values, mut all, mut blur) = (Vec::new(), Vec::new(), 0.0);
        for (a, b) in pairs {
            values.push((a.value - b.value).max(0.0));
            let largest = (a.value + a.error) - (b.value - b.error).max(0.0);
            all.push(largest);
            if largest > 0.0 {
                blur += a.error + b.error;
            }
        }
        Self { mass: values.iter().sum(), values, largest: all, blur }
    }

    /// Σ w, and how far a kernel may be from it.
    pub(crate) fn mass(&self) -> Scalar {
        let error = self.blur + 0.5 * band(self.values.len()) * self.mass;
        Scalar { value: self.mass, error }
    }

    /// The token at `u` of the weights (−1 where they are zero everywhere), then those that rounding may put in its
    /// place.
    pub(crate) fn token(&self, u: f32) -> (i64, Vec<i64>) {
        let threshold = f64::from(u) * self.mass;
        let slack = band(self.values.len()) * threshold + 2.0 * self.blur;
        located(&self.values, |t| self.largest[t] > 0.0, threshold, slack)
    }

    /// The same, where the weights that are zero everywhere give way to others.
    pub(crate) fn token_or(&self, u: f32, instead: impl FnOnce() -> Self) -> (i64, Vec<i64>) {
        let (token, near) = self.token(u);
        if token >= 0 && self.mass > self.blur {
            return (token, near);
        }
        // Whether anything is left at all is within rounding.
        let (other, also) = instead().token(u);
        let token = if token >= 0 { token } else { other };
        let mut others = [near, vec![other], also].concat();
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
    fn what_is_zero_without_error_never_counts() {
        let unsure = Scalar { value: 1e-40, error: 1e-38 };
        let weights =
            Weights::differences([(Scalar::ZERO, unsure), (Scalar::ONE, unsure)].into_iter());
        assert_eq!(weights.token(0.0), (1, vec![]));
    }
}
