//! Whether what is emitted has the target's law, and is as much as the closed form expects.

use touchstone_reference::{
    Draw,
    decoding::{law, topology::Topology, tree::Drafts},
};

use super::{Decoded, Scheme, Seconds, drafter::Drafted};
use crate::gtest::g_test;

/// Cells of the test of the law at most, a power of two.
const CELLS: usize = 32;

/// p-value of uniform places, given their counts in cells. Neighbours are joined until ten places are expected in a cell:
/// the test pools cells with fewer, and one alone could not fail.
fn uniform(counts: &[u64]) -> f64 {
    let mut counts = counts.to_vec();
    while counts.len() > 2 && counts.iter().sum::<u64>() < 10 * counts.len() as u64 {
        counts = counts.chunks(2).map(|pair| pair.iter().sum()).collect();
    }
    g_test(&counts, &vec![1.0 / counts.len() as f64; counts.len()])
}

/// What is noted of every step.
#[derive(Debug)]
pub struct Judge {
    /// Draws of the test.
    places: Draw,
    counts: Vec<u64>,
    /// Σ (accepted − expected)² over steps.
    square: f64,
    /// Σ of the accepted tokens expected.
    expected: f64,
    /// Σ (1 − p) over tokens.
    departure: f64,
    tokens: usize,
}

impl Judge {
    /// With draws of its own.
    pub fn new(seed: u64) -> Self {
        Self {
            places: Draw::new(seed),
            counts: vec![0; CELLS],
            square: 0.0,
            expected: 0.0,
            departure: 0.0,
            tokens: 0,
        }
    }

    /// Notes where a token stands in the target's law p.
    ///
    /// The outcomes are put in order of p/q, so that what acceptance gets wrong, it gets wrong at one end. The token then
    /// stands at a uniform place in the running sum of p if its law is p, whatever came before: Rosenblatt, *Remarks on a
    /// Multivariate Transformation*, 1952, with a draw within the token's own share.
    pub fn token(&mut self, p: &[f32], q: &[f32], token: usize) {
        let key = |t: usize| (p[t] / q[t].max(f32::MIN_POSITIVE), t);
        let (mut before, mut total) = (0.0, 0.0);
        for (t, &weight) in p.iter().enumerate() {
            total += f64::from(weight);
            if key(t) < key(token) {
                before += f64::from(weight);
            }
        }
        let place = (before + self.places.unit() * f64::from(p[token])) / total;
        self.counts[((place * CELLS as f64) as usize).min(CELLS - 1)] += 1;
        self.departure += 1.0 - f64::from(p[token]) / total;
    }

    /// Notes that a step emitted so many tokens, where `expected` of the draft's were to be accepted.
    pub fn step(&mut self, tokens: usize, expected: f64) {
        self.tokens += tokens;
        self.expected += expected;
        self.square += (tokens as f64 - 1.0 - expected).powi(2);
    }

    /// What `steps` steps came to, with drafts of so many tokens and so many in a row.
    pub fn decoded(
        &self,
        scheme: Scheme,
        [drafted, depth]: [usize; 2],
        steps: usize,
        seconds: Seconds,
    ) -> Decoded {
        let n = steps.max(1) as f64;
        let chance = scheme != Scheme::Typical;
        Decoded {
            scheme,
            drafted,
            depth,
            steps,
            tokens: self.tokens,
            expected: chance.then_some(1.0 + self.expected / n),
            standard_error: if chance { self.square.sqrt() / n } else { 0.0 },
            law: uniform(&self.counts),
            departure: if chance { 0.0 } else { self.departure / self.tokens.max(1) as f64 },
            seconds,
        }
    }
}

/// Number of draft tokens that are expected to be accepted, given these: p and q after each node of the tree.
pub fn expected(tree: &Topology, drafted: &Drafted, p: &[f32], drafts: Drafts) -> f64 {
    let vocab = p.len() / tree.len();
    let (mut reached, mut sum) = (vec![1.0; tree.len()], 0.0);
    for node in 0..tree.len() {
        let [p, q] = [p, &drafted.laws].map(|laws| &laws[node * vocab..][..vocab]);
        let children: Vec<usize> = tree.children(node).collect();
        let tokens: Vec<i32> = children.iter().map(|&child| drafted.tokens[child]).collect();
        for (child, chance) in children.into_iter().zip(law::children(p, q, &tokens, drafts)) {
            reached[child] = reached[node] * chance;
            sum += reached[child];
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gtest::FALSE_ALARM;

    /// With one cell for all of them 100 places in one half passed for uniform.
    #[test]
    fn few_places_are_judged_too() {
        let counts = |right: bool| {
            let mut counts = vec![0; CELLS];
            (0..100).for_each(|i| counts[if right { i % CELLS } else { i % CELLS / 2 }] += 1);
            counts
        };
        assert!(uniform(&counts(true)) > 0.1);
        assert!(uniform(&counts(false)) < FALSE_ALARM);
    }
}
