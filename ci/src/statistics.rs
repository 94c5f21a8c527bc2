//! How much two sets of samples differ, and how sure that is.
//!
//! Samples come in *rounds*. An interleaved run takes both sides in each round, minutes apart from the next, in
//! processes of their own; a stored baseline and a run against it are one round. What one round shares (a
//! clock step, where buffers lie, a neighbour's load) is no evidence for the next: so rounds, not samples,
//! are what the bootstrap draws first.

use adjustp::Procedure;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution};
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
    let sorted: Vec<[Resampled; 2]> =
        rounds.iter().map(|(old, new)| [Resampled::new(old), Resampled::new(new)]).collect();
    let mut drawn: Vec<f64> = (0..resamples).map(|_| resample(&sorted, &mut rng)).collect();
    drawn.sort_by(f64::total_cmp);
    let tail = (resamples as f64 * (1.0 - CONFIDENCE) / 2.0) as usize;
    let (low, high) = match drawn.len() {
        0 => (0.0, f64::INFINITY),
        n => (drawn[tail], drawn[n - 1 - tail]),
    };
    Some(Change { ratio, low, high, p: mann_whitney(rounds) })
}

/// The estimate from rounds drawn with replacement and samples drawn with replacement within each.
fn resample(rounds: &[[Resampled; 2]], rng: &mut ChaCha8Rng) -> f64 {
    let mut ratios: Vec<f64> = (0..rounds.len())
        .map(|_| {
            let [old, new] = &rounds[rng.random_range(0..rounds.len())];
            let old = old.median(rng);
            new.median(rng) / old
        })
        .collect();
    median(&mut ratios)
}

/// Samples whose medians under drawing with replacement are drawn at once, by the law that they have: the places of n
/// draws among n sorted samples are n uniform numbers, and of these the one in order k + 1 follows Beta(k + 1, n - k).
struct Resampled {
    sorted: Vec<f64>,
    upper: Beta<f64>,
}

impl Resampled {
    fn new(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (n, k) = (sorted.len(), sorted.len() / 2);
        let upper = Beta::new((k + 1) as f64, (n - k).max(1) as f64);
        Self { sorted, upper: upper.expect("both are positive") }
    }

    fn median(&self, rng: &mut ChaCha8Rng) -> f64 {
        let (n, k) = (self.sorted.len(), self.sorted.len() / 2);
        let at = |u: f64| self.sorted[((u * n as f64) as usize).min(n - 1)];
        let upper = self.upper.sample(rng);
        if n % 2 == 1 {
            return at(upper);
        }
        // The lower of the two in the middle is the largest of k uniform numbers below the upper one.
        let lower = upper * rng.random::<f64>().powf(1.0 / k as f64);
        (at(lower) + at(upper)) / 2.0
    }
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
    fn medians_drawn_at_once_have_the_law_of_medians_of_drawn_samples() {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        for n in [1, 2, 5, 12, 31] {
            let samples: Vec<f64> = (0..n).map(f64::from).collect();
            let resampled = Resampled::new(&samples);
            let (mut at_once, mut one_by_one) = ([0.0; 3], [0.0; 3]);
            const DRAWS: usize = 20_000;
            let note = |sums: &mut [f64; 3], median: f64| {
                sums[0] += median;
                sums[1] += median * median;
                sums[2] += f64::from(u8::from(median < f64::from(n) * 0.3));
            };
            for _ in 0..DRAWS {
                note(&mut at_once, resampled.median(&mut rng));
                let mut drawn: Vec<f64> =
                    samples.iter().map(|_| samples[rng.random_range(0..samples.len())]).collect();
                note(&mut one_by_one, median(&mut drawn));
            }
            // Means of the median, its square and a tail: four standard errors of sums of bounded terms.
            let width = f64::from(n).max(1.0);
            let error = 4.0 * (2.0 / DRAWS as f64).sqrt();
            for (sum, scale) in [(0, width), (1, width * width), (2, 1.0)] {
                let apart = (at_once[sum] - one_by_one[sum]).abs() / DRAWS as f64;
                assert!(apart <= error * scale / 2.0, "{n} samples, figure {sum}: {apart}");
            }
        }
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
