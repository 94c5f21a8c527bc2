//! Models of words that draft and judge: n-gram models as distributions, and heads that look ahead.

use std::collections::HashMap;

use touchstone_reference::ngram::{self, Model, Smoothing};

/// A model's distributions over words, `<unk>` and `</s>`, kept by the words they depend on.
#[derive(Clone, Debug)]
pub struct Predictor {
    model: Model,
    known: HashMap<Vec<u32>, Vec<f32>>,
}

impl Predictor {
    /// A Kneser–Ney model of `order` on sentences over `vocab` words.
    pub fn train(sentences: &[Vec<u32>], vocab: usize, order: usize) -> Self {
        let model = ngram::train(sentences, vocab, order, Smoothing::KneserNey);
        Self { model, known: HashMap::new() }
    }

    /// After `context`, which begins with `<s>`; sentences that ended before it do not matter.
    pub fn after(&mut self, context: &[u32]) -> &[f32] {
        let cut = &context[context.len().saturating_sub(self.model.order() - 1)..];
        let distribution = || {
            let probabilities = self.model.distribution(cut);
            probabilities.into_iter().map(|p| p as f32).collect()
        };
        self.known.entry(cut.to_vec()).or_insert_with(distribution)
    }
}

/// Heads in the manner of Medusa: the words that follow a word most often at each distance, whatever lies between.
#[derive(Clone, Debug)]
pub(super) struct Heads {
    /// By distance − 1 and the last word: the words seen there, most frequent first.
    seen: Vec<HashMap<u32, Vec<u32>>>,
    /// All outcomes by their frequency in the text.
    frequent: Vec<u32>,
}

impl Heads {
    pub(super) fn train(sentences: &[Vec<u32>], vocab: usize, heads: usize) -> Self {
        let end = |sentence: &Vec<u32>| [&sentence[..], &[ngram::eos(vocab)]].concat();
        let stream: Vec<u32> = sentences.iter().flat_map(end).collect();
        let ranked = |counts: HashMap<u32, usize>| -> Vec<u32> {
            let mut words: Vec<(u32, usize)> = counts.into_iter().collect();
            words.sort_by_key(|&(word, count)| (std::cmp::Reverse(count), word));
            words.into_iter().map(|(word, _)| word).collect()
        };
        let mut all: HashMap<u32, usize> = (0..vocab as u32 + 2).map(|word| (word, 0)).collect();
        stream.iter().for_each(|&word| *all.entry(word).or_default() += 1);
        let seen = (1..=heads).map(|distance| {
            let mut pairs: HashMap<u32, HashMap<u32, usize>> = HashMap::new();
            for pair in stream.windows(distance + 1) {
                *pairs.entry(pair[0]).or_default().entry(pair[distance]).or_default() += 1;
            }
            pairs.into_iter().map(|(word, counts)| (word, ranked(counts))).collect()
        });
        Self { seen: seen.collect(), frequent: ranked(all) }
    }

    /// The `count` most likely words at `distance` after a context: those seen there, then frequent ones.
    pub(super) fn top(
        &self,
        context: &[u32],
        vocab: usize,
        distance: usize,
        count: usize,
    ) -> Vec<i32> {
        if count == 0 {
            return Vec::new();
        }
        let last = context.last().copied().unwrap_or(ngram::bos(vocab));
        // A sentence begins where another ended.
        let last = if last == ngram::bos(vocab) { ngram::eos(vocab) } else { last };
        let seen = self.seen[distance - 1].get(&last);
        let mut top: Vec<u32> = seen.into_iter().flatten().take(count).copied().collect();
        for &word in &self.frequent {
            if top.len() >= count {
                break;
            }
            if !top.contains(&word) {
                top.push(word);
            }
        }
        top.into_iter().map(|word| word as i32).collect()
    }
}

/// The outcome at `u` in 0..1 of a distribution.
pub fn sampled(law: &[f32], u: f64) -> u32 {
    let threshold = u * law.iter().map(|&w| f64::from(w)).sum::<f64>();
    let mut running = 0.0;
    let exceeds = |&w: &f32| {
        running += f64::from(w);
        running > threshold
    };
    law.iter().position(exceeds).unwrap_or(law.len() - 1) as u32
}
