//! The soft cap on scores: `cap · tanh(x / cap)`, which is `x` where that is small and never reaches the cap.
//!
//! Source: Gemma Team 2024 (arXiv 2408.00118), §2, logit soft-capping. Error model: see [`super`].

use super::{Problem, U};

/// A score, its slope by `scale · q · k`, and absolute errors of both.
pub(crate) struct Score {
    pub(crate) value: f64,
    pub(crate) error: f64,
    pub(crate) slope: f64,
    pub(crate) slope_error: f64,
}

/// Roundings of a capped score that the cap adds.
pub(super) const CAP: f64 = 17.0;

/// Whether a case says nothing of a soft cap.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
pub(crate) fn uncapped(softcap: &f64) -> bool {
    *softcap == 0.0
}

impl Problem {
    /// The score that comes of `x = scale · q · k`, known within `error`: `cap · tanh(x / cap)`, or `x` without a cap.
    pub(crate) fn score(&self, x: f64, error: f64) -> Score {
        let cap = self.softcap;
        if cap == 0.0 {
            return Score { value: x, error, slope: 1.0, slope_error: 0.0 };
        }
        let slope_at = |x: f64| (x / cap).cosh().powi(-2);
        let tanh = (x / cap).tanh();
        let moved = slope_at((x.abs() - error).max(0.0)) * error + CAP * U * cap * tanh.abs();
        // The slope is 1 − tanh², computed as such: two roundings of numbers up to 1, and tanh off by `moved / cap`.
        let of_tanh = moved / cap;
        Score {
            value: cap * tanh,
            error: moved,
            slope: slope_at(x),
            slope_error: of_tanh * (2.0 * tanh.abs() + of_tanh) + 2.0 * U,
        }
    }
}
