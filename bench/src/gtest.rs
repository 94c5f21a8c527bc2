//! The calibrated test of a sampler: do observed counts follow a stated law?

use statrs::distribution::{ChiSquared, ContinuousCDF};

/// Rate at which a right sampler is rejected by the suite's tests: once in a million.
pub const FALSE_ALARM: f64 = 1e-6;

/// Expected count below which cells are pooled: the χ² approximation needs a few counts in each.
const POOL_BELOW: f64 = 10.0;

/// p-value of the log-likelihood-ratio (G) test: the probability that a sampler with law `expected`
/// deviates from it at least as much as `observed` does. G = 2·Σ O·ln(O/E) is χ² with one degree of freedom
/// less than there are cells.
///
/// `observed` are counts, `expected` the probabilities of the same cells. Cells with an expected count
/// below 10 are pooled into one. A count in a cell of probability zero gives p = 0: such a cell is
/// impossible, not improbable. Source: Sokal & Rohlf, *Biometry*, ch. 17.
///
/// # Panics
/// If the lengths differ or the probabilities do not sum to one.
pub fn g_test(observed: &[u64], expected: &[f64]) -> f64 {
    assert_eq!(observed.len(), expected.len(), "counts and probabilities differ in number");
    let mass: f64 = expected.iter().sum();
    assert!((mass - 1.0).abs() < 1e-6, "the probabilities sum to {mass}");
    if observed.iter().zip(expected).any(|(&o, &e)| o > 0 && e <= 0.0) {
        return 0.0;
    }
    let total = observed.iter().sum::<u64>() as f64;
    let mut cells: Vec<(f64, f64)> = Vec::new();
    let mut rare = (0.0, 0.0);
    for (&o, &e) in observed.iter().zip(expected) {
        let cell = (o as f64, e / mass * total);
        if cell.1 < POOL_BELOW {
            rare = (rare.0 + cell.0, rare.1 + cell.1);
        } else {
            cells.push(cell);
        }
    }
    if rare.1 > 0.0 {
        cells.push(rare);
    }
    if cells.len() < 2 {
        return 1.0;
    }
    let term = |&(o, e): &(f64, f64)| if o > 0.0 { o * (o / e).ln() } else { 0.0 };
    let g = 2.0 * cells.iter().map(term).sum::<f64>();
    let chi_squared =
        ChiSquared::new((cells.len() - 1) as f64).expect("at least one degree of freedom");
    chi_squared.sf(g.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_value() {
        // G = 2(60·ln 1.2 + 40·ln 0.8) = 4.0271; χ² with one degree of freedom: p = 0.04478.
        let p = g_test(&[60, 40], &[0.5, 0.5]);
        assert!((p - 0.044_78).abs() < 1e-4, "{p}");
        assert!(g_test(&[50, 50], &[0.5, 0.5]) > 0.999);
    }

    #[test]
    fn an_impossible_outcome_is_rejected_outright() {
        assert_eq!(g_test(&[999_999, 1], &[1.0, 0.0]), 0.0);
        assert_eq!(g_test(&[1000, 0], &[1.0, 0.0]), 1.0);
    }

    #[test]
    fn rare_cells_are_pooled() {
        let mut expected = vec![0.999 / 2.0; 2];
        expected.extend(vec![1e-5; 100]);
        let mut observed = vec![4995, 4995];
        observed.extend(vec![0; 100]);
        observed[50] = 10;
        assert!(g_test(&observed, &expected) > 0.9);
    }
}
