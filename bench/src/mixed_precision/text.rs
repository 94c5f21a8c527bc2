//! The text as the network sees it: what follows each pair of characters.

use std::collections::BTreeMap;

use crate::corpus::Corpus;

/// Characters that are told apart: the most frequent ones. Others are left out.
const SYMBOLS: usize = 32;
/// Pairs of characters a text may have at most; rarer ones are left out.
const CONTEXTS: usize = 512;

/// The text as the network sees it: pairs of characters, and how often each character follows.
pub(super) struct Text {
    pub symbols: usize,
    pub pairs: Vec<[usize; 2]>,
    /// [pairs, symbols].
    pub follows: Vec<f32>,
    /// Characters predicted.
    pub total: f32,
}

impl Text {
    pub fn of(corpus: &Corpus) -> Self {
        let words = corpus.sentences().concat();
        let characters: Vec<char> = words.join(" ").to_lowercase().chars().collect();
        let mut counts: BTreeMap<char, usize> = BTreeMap::new();
        characters.iter().for_each(|&c| *counts.entry(c).or_default() += 1);
        let mut known: Vec<(char, usize)> = counts.into_iter().collect();
        known.sort_by_key(|&(c, count)| (std::cmp::Reverse(count), c));
        known.truncate(SYMBOLS);
        let ids: BTreeMap<char, usize> =
            known.iter().enumerate().map(|(id, &(c, _))| (c, id)).collect();
        let stream: Vec<usize> = characters.iter().filter_map(|c| ids.get(c).copied()).collect();
        let mut table: BTreeMap<[usize; 2], Vec<f32>> = BTreeMap::new();
        for three in stream.windows(3) {
            let row = table.entry([three[0], three[1]]).or_insert_with(|| vec![0.0; known.len()]);
            row[three[2]] += 1.0;
        }
        let mut rows: Vec<_> = table.into_iter().collect();
        rows.sort_by(|(_, a), (_, b)| b.iter().sum::<f32>().total_cmp(&a.iter().sum()));
        rows.truncate(CONTEXTS);
        let (pairs, follows): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let follows = follows.concat();
        Self { symbols: known.len(), pairs, total: follows.iter().sum(), follows }
    }

    /// Entropies in nats: of a character alone, and after its pair.
    pub fn entropies(&self) -> (f64, f64) {
        let surprise = |counts: &[f32]| {
            let all: f32 = counts.iter().sum();
            let term = |&count: &f32| -f64::from(count) * f64::from(count / all).ln();
            counts.iter().filter(|&&count| count > 0.0).map(term).sum::<f64>()
        };
        let rows = || self.follows.chunks(self.symbols.max(1));
        let mut alone = vec![0.0; self.symbols];
        rows().for_each(|row| alone.iter_mut().zip(row).for_each(|(sum, count)| *sum += count));
        let total = f64::from(self.total.max(1.0));
        (surprise(&alone) / total, rows().map(surprise).sum::<f64>() / total)
    }
}
