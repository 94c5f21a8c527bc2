//! HiPPO: the state matrices that remember a signal as its projection on polynomials, and how a continuous
//! state space becomes steps.

use num_complex::Complex64;

/// HiPPO-LegS: A (row-major, n by n) and B of c' = (A·c + B·f)/t, whose c are the coefficients of f on \[0, t\]
/// in the orthonormal Legendre polynomials √(2n+1)·P_n(2s/t − 1).
///
/// Source: Gu et al., *HiPPO: Recurrent Memory with Optimal Polynomial Projections* (2020), theorem 2.
pub fn legs(n: usize) -> (Vec<f64>, Vec<f64>) {
    let b: Vec<f64> = (0..n).map(|i| (2.0 * i as f64 + 1.0).sqrt()).collect();
    let entry = |row: usize, column: usize| match row.cmp(&column) {
        std::cmp::Ordering::Greater => -b[row] * b[column],
        std::cmp::Ordering::Equal => -(row as f64 + 1.0),
        std::cmp::Ordering::Less => 0.0,
    };
    ((0..n * n).map(|i| entry(i / n, i % n)).collect(), b)
}

/// The normal part of LegS, A + p·pᵀ with p_n = √(n + 1/2): −1/2 on the diagonal and skew-symmetric off it, so
/// its eigenvalues are −1/2 + iω.
///
/// Source: Gu, Goel and Ré, *Efficiently Modeling Long Sequences with Structured State Spaces* (2022),
/// theorem 1 and appendix C.
pub fn legs_normal_part(n: usize) -> Vec<f64> {
    let p = |i: usize| (i as f64 + 0.5).sqrt();
    let (a, _) = legs(n);
    a.into_iter().enumerate().map(|(i, a)| a + p(i / n) * p(i % n)).collect()
}

/// State n of S4D-Lin: −1/2 + iπn.
///
/// Source: Gu et al., *On the Parameterization and Initialization of Diagonal State Space Models* (2022),
/// equation 9.
pub fn s4d_lin(n: usize) -> Complex64 {
    Complex64::new(-0.5, std::f64::consts::PI * n as f64)
}

/// State n of `states` of S4D-Inv: −1/2 + i·(N/π)·(N/(2n+1) − 1), close to LegS's own eigenvalues.
///
/// Source: as [`s4d_lin`], equation 8.
pub fn s4d_inv(n: usize, states: usize) -> Complex64 {
    let (n, states) = (n as f64, states as f64);
    Complex64::new(-0.5, states / std::f64::consts::PI * (states / (2.0 * n + 1.0) - 1.0))
}

/// One step of length `dt` of h' = a·h + u with u held: the factor of h and that of u.
///
/// Source: as [`s4d_lin`], equation 4 (zero-order hold).
pub fn zero_order_hold(a: Complex64, dt: f64) -> (Complex64, Complex64) {
    let factor = (a * dt).exp();
    (factor, (factor - 1.0) / a)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f(s) = s has the coefficients t/2 and t/(2√3) on \[0, t\], and no others.
    #[test]
    fn legs_follows_a_straight_line() {
        let (n, t) = (6, 1.7);
        let (a, b) = legs(n);
        let mut c = vec![0.0; n];
        (c[0], c[1]) = (t / 2.0, t / (2.0 * 3f64.sqrt()));
        for row in 0..n {
            let slope = (a[row * n..][..n].iter().zip(&c).map(|(a, c)| a * c).sum::<f64>()
                + b[row] * t)
                / t;
            assert!((slope - c[row] / t).abs() < 1e-12, "row {row}: {slope}");
        }
    }

    #[test]
    fn the_normal_part_is_skew_but_for_its_diagonal() {
        let n = 9;
        let a = legs_normal_part(n);
        for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let want = if i == j { -1.0 } else { 0.0 };
            assert!((a[i * n + j] + a[j * n + i] - want).abs() < 1e-12);
        }
    }

    #[test]
    fn a_held_input_is_integrated() {
        // h' = −h + 1 from 0 is 1 − e^−t.
        let (factor, input) = zero_order_hold(Complex64::new(-1.0, 0.0), 0.25);
        assert!((factor.re - (-0.25f64).exp()).abs() < 1e-15);
        assert!((input.re - (1.0 - (-0.25f64).exp())).abs() < 1e-15);
    }
}
