//! Rows with a bound of their error, so that bounds follow a computation of many steps.
//!
//! A kernel's row x̂ of an exact row x has ‖x̂ − x‖₂ ≤ `error`. Each step passes that on by its gain, the most by which
//! it can lengthen a difference, and adds the norm of its own roundings; no step needs errors to be small, and none
//! takes errors of different elements to cancel, except within a sum (see [`chain`]).
//!
//! | step | gain |
//! |---|---|
//! | W x | ‖W‖₂ ([`Matrix::norm`]) |
//! | g ⊙ x / √(mean x² + ε) | max g / r: the derivative is g ⊙ (I − x xᵀ / (n r²)) / r; r is the root on the way |
//! | SiLU(g) ⊙ u | the largest √((1.1 u)² + SiLU(g)²) over the elements, and 1.1·e² for both together |
//! | a logit l·x | ‖l‖₂ |
//! | ln Σ exp, minus one logit, and so the logarithm of a probability | by ±δ in every logit at most 2 max δ |

use crate::{
    attention::chain,
    decoding::rounding::{U, silu, silu_error},
    draw::Draw,
    tensor::{DType, Tensors},
};

/// Error of a sum of n positive numbers, a rounding: u, as all of it.
pub(super) const SUM: f64 = U;

/// ε of RMSNorm.
const EPSILON: f64 = 1e-6;

/// A row and a bound of the Euclidean norm of its error.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) value: Vec<f64>,
    pub(super) error: f64,
}

/// Norm of the roundings of sums of `n` terms each, one an element, with these Σ|terms|.
///
/// An element is off by at most n roundings. Where signs are as good as random, elements are independent of each other and
/// each spreads as a normal number of deviation √n·u·Σ|terms| at most; the norm of them all is then beyond
/// √(Σ deviations²) + 8·(largest deviation) only with probability exp(−8²/2) ≈ 10⁻¹⁴ (Boucheron, Lugosi & Massart 2013,
/// theorem 5.6: the norm changes by no more than its argument).
fn rounded(n: usize, magnitude: &[f64]) -> f64 {
    let (n, all) = (n as f64, norm(magnitude));
    let largest = magnitude.iter().copied().fold(0.0, f64::max);
    U * f64::min(n * all, n.sqrt() * (all + 8.0 * largest))
}

pub(super) fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

impl Row {
    pub(super) fn exact(value: &[f64]) -> Self {
        Self { value: value.to_vec(), error: 0.0 }
    }

    /// RMSNorm. The root is off by half the roundings of the sum of squares, the quotient by a few more, both as a
    /// share of the whole row.
    pub(super) fn normed(&self, gain: &[f64]) -> Self {
        let n = self.value.len();
        let r = (self.value.iter().map(|x| x * x).sum::<f64>() / n as f64 + EPSILON).sqrt();
        let value: Vec<f64> = self.value.iter().zip(gain).map(|(x, g)| g * x / r).collect();
        let widest = gain.iter().fold(0.0, |a: f64, g| a.max(g.abs()));
        // The root moves by at most error / √n, and stays above √ε.
        let least = (r - self.error / (n as f64).sqrt()).max(EPSILON.sqrt());
        let own = U * (chain(n, DType::F32) / 2.0 + 6.0) * norm(&value);
        Self { error: widest / least * self.error + own, value }
    }

    /// The two rows as one.
    pub(super) fn beside(&self, other: &Self) -> Self {
        let value = [&self.value[..], &other.value[..]].concat();
        Self { value, error: self.error.hypot(other.error) }
    }

    pub(super) fn plus(&self, other: &Self) -> Self {
        let value: Vec<f64> = self.value.iter().zip(&other.value).map(|(a, b)| a + b).collect();
        let error = self.error + other.error;
        Self { error: error + U * (norm(&value) + error), value }
    }

    /// SiLU(g) ⊙ u of a row [g; u].
    pub(super) fn gated(&self) -> Self {
        let (g, u) = self.value.split_at(self.value.len() / 2);
        let pairs = || g.iter().zip(u);
        let value: Vec<f64> = pairs().map(|(&g, &u)| silu(g) * u).collect();
        let gain = pairs().map(|(&g, &u)| (1.1 * u).hypot(silu(g))).fold(0.0, f64::max);
        let own = |(&g, &u): (&f64, &f64)| silu_error(g, 0.0) * u.abs() + U * (silu(g) * u).abs();
        let own: Vec<f64> = pairs().map(own).collect();
        // Roundings are relative: of the values a kernel has, which are off by the error passed on.
        let passed = gain * self.error + 1.1 * self.error * self.error;
        Self { value, error: passed * (1.0 + 32.0 * U) + norm(&own) }
    }
}

/// A matrix of weights, exact, with a bound of its norm.
#[derive(Debug)]
pub(super) struct Matrix {
    values: Vec<f64>,
    columns: usize,
    norm: f64,
}

impl Matrix {
    /// Number `module` of the matrices that a tensor holds.
    pub(super) fn of(
        inputs: &Tensors,
        name: &str,
        module: usize,
        rows: usize,
        columns: usize,
    ) -> Self {
        let tensor = inputs.tensor(name);
        let first = module * rows * columns;
        let values: Vec<f64> = (first..first + rows * columns).map(|i| tensor.real_at(i)).collect();
        // Logits have bounds of their own, row by row.
        let norm = if name == "lm" { 0.0 } else { spectral(&values, columns) };
        Self { values, columns, norm }
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.columns..(i + 1) * self.columns]
    }

    /// W x.
    pub(super) fn times(&self, x: &Row) -> Row {
        let rows = self.values.len() / self.columns;
        let (value, magnitude): (Vec<f64>, Vec<f64>) =
            (0..rows).map(|i| dot(self.row(i), &x.value)).unzip();
        // Of the row a kernel has, whose magnitudes are larger by at most ‖W‖₂ times its error.
        let own = rounded(self.columns, &magnitude);
        let passed = self.norm * x.error;
        Row {
            value,
            error: passed * (1.0 + U * chain(self.columns, DType::F32) * rows as f64) + own,
        }
    }

    /// W x of a vocabulary.
    fn logits(&self, x: &Row) -> Logits {
        let rows = self.values.len() / self.columns;
        let (mut logits, mut worst) = (Vec::with_capacity(rows), 0.0f64);
        for i in 0..rows {
            let (logit, magnitude) = dot(self.row(i), &x.value);
            let passed = norm(self.row(i)) * x.error;
            let own = U * chain(self.columns, DType::F32) * (magnitude + passed);
            worst = worst.max(passed + own);
            logits.push(logit);
        }
        Logits::new(logits, worst)
    }

    /// −ln softmax(W x)[target], and a bound of its error.
    pub(super) fn cross_entropy(&self, x: &Row, target: usize) -> (f64, f64) {
        let all = self.logits(x);
        let own = all.values[target];
        let sizes = U * (8.0 + 4.0 * (all.lse.abs() + all.max.abs() + own.abs()));
        (all.lse - own, all.moved + sizes)
    }

    /// softmax(W x), and bounds of its errors.
    pub(super) fn softmax(&self, x: &Row) -> Vec<(f64, f64)> {
        let all = self.logits(x);
        let one = |&logit: &f64| {
            let p = (logit - all.lse).exp();
            // Its own argument, its exponential, and the division.
            let own = U * (4.0 * (all.max - logit) + 8.0);
            // However far its logits are off, it is a probability.
            (p, (p * (all.moved + own).exp_m1()).min(1.0))
        };
        all.values.iter().map(one).collect()
    }
}

/// Logits of a vocabulary.
struct Logits {
    values: Vec<f64>,
    max: f64,
    /// ln Σ exp.
    lse: f64,
    /// By how much `lse` minus one of them may be off, roundings in proportion to their sizes left out.
    moved: f64,
}

impl Logits {
    /// Of which each may be off by `worst`.
    fn new(values: Vec<f64>, worst: f64) -> Self {
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let lse = max + values.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
        // The exponentials' arguments round in proportion to the range of logits, each exponential by 4, and as often
        // as the running maximum rises; all terms are positive, so the sum's logarithm moves by those shares.
        let rises = 2.0 + 3.0 * (1.0 + values.len() as f64).ln();
        let terms = chain(2 * values.len(), DType::F32);
        let shares = U * (4.0 * (max - least) + 4.0 * rises + terms);
        Self { values, max, lse, moved: 2.0 * worst + shares }
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> (f64, f64) {
    let (mut sum, mut magnitude) = (0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        sum += a * b;
        magnitude += (a * b).abs();
    }
    (sum, magnitude)
}

/// A bound of the largest singular value: by the power method on WᵀW from a random start. Its quotient ξ of `STEPS`
/// steps falls short of the largest eigenvalue λ by more than 0.3 λ with a probability of at most
/// 0.824·√n·0.7^(STEPS − 1/2) (Kuczyński & Woźniakowski 1992, theorem 4.1): below 10⁻⁹ for n to 2²⁰. So λ ≤ ξ / 0.7.
fn spectral(values: &[f64], columns: usize) -> f64 {
    const STEPS: usize = 80;
    let mut draw = Draw::new(0x5bec);
    let mut v: Vec<f64> = (0..columns).map(|_| draw.standard_normal()).collect();
    let mut quotient = 0.0;
    for _ in 0..STEPS {
        let length = norm(&v);
        if length == 0.0 {
            return 0.0;
        }
        v.iter_mut().for_each(|v| *v /= length);
        let mut next = vec![0.0; columns];
        quotient = 0.0;
        for row in values.chunks(columns) {
            let along = dot(row, &v).0;
            quotient += along * along;
            next.iter_mut().zip(row).for_each(|(next, w)| *next += along * w);
        }
        v = next;
    }
    (quotient / 0.7).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_of_a_matrix_is_bounded_and_not_by_much() {
        // Singular values 5 and 0, then of a rotation by scale 3.
        assert!((spectral(&[3.0, 4.0], 2) - 5.0 / 0.7f64.sqrt()).abs() < 1e-9);
        assert!((spectral(&[0.0, 3.0, -3.0, 0.0], 2) - 3.0 / 0.7f64.sqrt()).abs() < 1e-9);
        assert_eq!(spectral(&[0.0; 6], 3), 0.0);
    }

    /// Rows moved by as much as their error allows stay within the error of the result.
    #[test]
    fn errors_cover_what_moved_rows_give() {
        let mut draw = Draw::new(4);
        let gain: Vec<f64> = (0..8).map(|_| 0.8 + 0.4 * draw.unit()).collect();
        let values: Vec<f64> = (0..48).map(|_| draw.standard_normal()).collect();
        let matrix = Matrix { norm: spectral(&values, 8), values, columns: 8 };
        for size in [1e-6, 0.01, 0.5] {
            for _ in 0..50 {
                let x: Vec<f64> = (0..8).map(|_| draw.standard_normal()).collect();
                let by: Vec<f64> = (0..8).map(|_| draw.standard_normal()).collect();
                let moved: Vec<f64> =
                    x.iter().zip(&by).map(|(x, b)| x + size * b / norm(&by)).collect();
                let with = Row { value: x, error: size };
                let steps: [&dyn Fn(&Row) -> Row; 3] =
                    [&|row| row.normed(&gain), &|row| matrix.times(row), &Row::gated];
                for step in steps {
                    let (bounded, other) = (step(&with), step(&Row::exact(&moved)));
                    let apart: Vec<f64> =
                        bounded.value.iter().zip(&other.value).map(|(a, b)| a - b).collect();
                    assert!(norm(&apart) <= bounded.error, "{size}");
                }
                let (loss, error) = matrix.cross_entropy(&with, 3);
                let other = moved;
                let moved = matrix.cross_entropy(&Row::exact(&other), 3).0;
                assert!((loss - moved).abs() <= error, "{size}");
                let both =
                    matrix.softmax(&with).into_iter().zip(matrix.softmax(&Row::exact(&other)));
                assert!(
                    both.into_iter().all(|((p, error), (q, _))| (p - q).abs() <= error),
                    "{size}"
                );
            }
        }
    }
}
