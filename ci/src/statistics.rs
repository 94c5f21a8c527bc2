//! How much two sets of samples differ, and how sure that is.
//!
//! Samples come in *rounds*. An interleaved run takes both sides in each round, minutes apart from the next, in
//! processes of their own; a stored baseline and a run against it are one round. What one round shares (a
//! clock step, where buffers lie, a neighbour's load) is no evidence for the next: so rounds, not samples,
//! are what the bootstrap draws first.

use adjustp::Procedure;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use statrs::stats_tests::{
    Alternative,
    mannwhitneyu::{MannWhitneyUMethod, mannwhitneyu},
};

/// Samples of both sides in one round, in nanoseconds: old, new. Neither is empty.
pub(crate) type Round<'a> = (&'a [f64], &'a [f64]);

/// The change from old to new.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Change {
    /// Median over rounds of the ratio of medians, new over old: above 1 is slower.
    pub ratio: f64,
    /// Bootstrap interval of `ratio` at [`CONFIDENCE`].
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// Two-sided p-value of the Mann–Whitney test, not adjusted.
    pub p: f64,
}

/// Confidence of the bootstrap interval.
pub(crate) const CONFIDENCE: f64 = 0.99;

/// The change over `rounds`, by `resamples` bootstrap draws whose seed is `seed`: the same input gives the same
/// answer. `None` when a sample is not a positive finite number.
pub(crate) fn change(rounds: &[Round<'_>], resamples: usize, seed: &str) -> Option<Change> {
    let all = || rounds.iter().flat_map(|(old, new)| old.iter().chain(*new));
    if rounds.is_empty() || all().any(|s| !(s.is_finite() && *s > 0.0)) {
        return None;
    }
    let mut ratios: Vec<f64> = rounds
        .iter()
        .map(|(old, new)| median(&mut new.to_vec()) / median(&mut old.to_vec()))
        .collect();
    let ratio = median(&mut ratios);
    let mut rng = ChaCha8Rng::from_seed(*blake3::hash(seed.as_bytes()).as_bytes());
    let mut drawn: Vec<f64> = (0..resamples).map(|_| resample(rounds, &mut rng)).collect();
    drawn.sort_by(f64::total_cmp);
    let tail = (resamples as f64 * (1.0 - CONFIDENCE) / 2.0) as usize;
    let (low, high) = match drawn.len() {
        0 => (0.0, f64::INFINITY),
        n => (drawn[tail], drawn[n - 1 - tail]),
    };
    Some(Change { ratio, low, high, p: mann_whitney(rounds) })
}

/// The estimate from rounds drawn with replacement and samples drawn with replacement within each.
fn resample(rounds: &[Round<'_>], rng: &mut ChaCha8Rng) -> f64 {
    let draw = |samples: &[f64], rng: &mut ChaCha8Rng| {
        let mut drawn: Vec<f64> =
            (0..samples.len()).map(|_| samples[rng.random_range(0..samples.len())]).collect();
        median(&mut drawn)
    };
    let mut ratios: Vec<f64> = (0..rounds.len())
        .map(|_| {
            let (old, new) = rounds[rng.random_range(0..rounds.len())];
            let old = draw(old, rng);
            draw(new, rng) / old
        })
        .collect();
    median(&mut ratios)
}

/// Median, by selection; the order of `values` is lost.
fn median(values: &mut [f64]) -> f64 {
    let (middle, even) = (values.len() / 2, values.len().is_multiple_of(2));
    let (below, &mut upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    match below.iter().copied().max_by(f64::total_cmp) {
        Some(lower) if even => (lower + upper) / 2.0,
        _ => upper,
    }
}

/// Mann–Whitney over all samples, each divided by what its round's medians have in common, so that a round that
/// was slow for both sides says nothing (aligned ranks, Hodges and Lehmann 1962).
fn mann_whitney(rounds: &[Round<'_>]) -> f64 {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for (a, b) in rounds {
        let level = (median(&mut a.to_vec()) * median(&mut b.to_vec())).sqrt();
        old.extend(a.iter().map(|s| s / level));
        new.extend(b.iter().map(|s| s / level));
    }
    // Asymptotic at every size: it is the more careful one where samples are few, and never slow.
    let method = MannWhitneyUMethod::AsymptoticInclContinuityCorrection;
    match mannwhitneyu(&old, &new, method, Alternative::TwoSided) {
        Ok((_, p)) if p.is_finite() => p,
        // All samples equal, for one: nothing speaks for a difference.
        _ => 1.0,
    }
}

/// P-values adjusted by Benjamini and Hochberg (1995): rejecting those up to `q` keeps the expected share of
/// false ones among them at most `q`.
pub(crate) fn adjusted(p: &[f64]) -> Vec<f64> {
    match p.len() {
        0 => Vec::new(),
        _ => adjustp::adjust(p, Procedure::BenjaminiHochberg),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(median(&mut [3.0]), 3.0);
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&mut [5.0, 1.0, 9.0]), 5.0);
    }

    #[test]
    fn the_rank_test_agrees_with_a_published_example() {
        // Nachar (2008) style data as in SciPy's documentation: U = 17, p = 0.1111 with continuity correction.
        let (male, female) = ([19.0, 22.0, 16.0, 29.0, 24.0], [20.0, 11.0, 17.0, 12.0]);
        let p = mann_whitney(&[(&male, &female)]);
        assert!((p - 0.1113468).abs() < 1e-4, "{p}");
        assert_eq!(mann_whitney(&[(&[2.0; 9], &[2.0; 9])]), 1.0);
    }

    #[test]
    fn adjustment_agrees_with_r() {
        // p.adjust(c(0.01, 0.04, 0.03, 0.5), "BH")
        let q = adjusted(&[0.01, 0.04, 0.03, 0.5]);
        for (q, expected) in q.iter().zip([0.04, 0.16 / 3.0, 0.16 / 3.0, 0.5]) {
            assert!((q - expected).abs() < 1e-12, "{q} {expected}");
        }
        assert!(adjusted(&[]).is_empty());
    }

    #[test]
    fn the_same_samples_give_the_same_interval_which_holds_the_ratio() {
        let old: Vec<f64> = (0..31).map(|i| 1000.0 + f64::from(i)).collect();
        let new: Vec<f64> = old.iter().map(|s| s * 1.05).collect();
        let a = change(&[(&old, &new)], 1000, "seed").unwrap();
        assert_eq!(Some(a), change(&[(&old, &new)], 1000, "seed"));
        assert!((a.ratio - 1.05).abs() < 1e-12 && a.low > 1.03 && a.high < 1.07, "{a:?}");
        assert!(a.low <= a.ratio && a.ratio <= a.high && a.p < 1e-9, "{a:?}");
    }

    #[test]
    fn one_disturbed_round_of_five_moves_neither_estimate_nor_test() {
        let quiet: Vec<f64> = (0..15).map(|i| 1000.0 + f64::from(i)).collect();
        let slow: Vec<f64> = quiet.iter().map(|s| s * 1.5).collect();
        let mut rounds: Vec<Round<'_>> = vec![(&quiet, &quiet); 5];
        rounds[2] = (&slow, &slow);
        let both = change(&rounds, 500, "").unwrap();
        assert_eq!((both.ratio, both.p), (1.0, 1.0), "a round that is slow for both sides");
        rounds[2] = (&quiet, &slow);
        let one = change(&rounds, 500, "").unwrap();
        assert!(one.ratio == 1.0 && one.low <= 1.0, "a round that is slow for one side: {one:?}");
    }

    #[test]
    fn what_is_no_time_gives_no_change() {
        for bad in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
            assert_eq!(change(&[(&[1.0, bad], &[1.0, 1.0])], 10, ""), None);
        }
        assert_eq!(change(&[], 10, ""), None);
    }
}
