//! Back-off n-gram models and what they say of sentences.

use std::collections::BTreeMap;

use super::{bos, eos, ids, unk};

/// What a model stores of one n-gram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// log10 of the probability of the last word after the words before it.
    pub log10_prob: f64,
    /// log10 of the weight that shorter contexts' probabilities get where the n-gram is the context but
    /// does not continue as asked. Zero for n-grams that are no context.
    pub log10_backoff: f64,
}

/// The n-grams of one order.
pub type Table = BTreeMap<Vec<u32>, Entry>;

/// An n-gram model in back-off form (Katz 1987), as ARPA files have it. For words h = h₁ … hₘ and w
///
/// ```text
/// p(w | h) = prob(h w)                        if the model has the n-gram h w
///          = backoff(h) · p(w | h₂ … hₘ)      otherwise, with backoff(h) = 1 if it lacks h
/// ```
///
/// Contexts longer than `order − 1` are cut to their last words. Every id is a unigram of the model, the
/// unknown word included, so the recursion ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    vocab: usize,
    tables: Vec<Table>,
}

/// What a model says of one token, as KenLM's full scores do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// log10 probability of the token after its context.
    pub log10_prob: f64,
    /// Length of the longest n-gram of the model that ends in the token; 1 for an unknown word.
    pub matched: usize,
}

/// Perplexity of sentences: 10 to the mean negative log10 probability of a token, ends of sentences
/// counted as tokens, beginnings not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// Over all tokens. NaN when there are none.
    pub all: f64,
    /// Over all tokens but unknown words. NaN when there are none.
    pub known: f64,
    /// Number of tokens.
    pub tokens: usize,
    /// How many of them are unknown words.
    pub unknown: usize,
}

impl Model {
    /// A model over the words `0..vocab` from its n-grams, `tables[k − 1]` those of order k.
    ///
    /// # Panics
    /// If there is no table, an n-gram is in the wrong one, or an id has no unigram.
    pub fn new(vocab: usize, tables: Vec<Table>) -> Self {
        assert!(!tables.is_empty(), "a model has at least order 1");
        assert!(ids(vocab) <= u32::MAX as usize, "{vocab} words are too many for 32-bit ids");
        for (order, table) in (1..).zip(&tables) {
            let fits =
                |ngram: &Vec<u32>| ngram.len() == order && ngram.iter().all(|&id| id <= bos(vocab));
            assert!(table.keys().all(fits), "an entry of table {order} is no {order}-gram of ids");
        }
        assert_eq!(tables[0].len(), ids(vocab), "every id has a unigram");
        Self { vocab, tables }
    }

    /// Number of words.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Length of the longest n-grams.
    pub fn order(&self) -> usize {
        self.tables.len()
    }

    /// Id of the unknown word: `vocab`. Greater ids in sentences are read as it.
    pub fn unk(&self) -> u32 {
        unk(self.vocab)
    }

    /// Id of the end of a sentence: `vocab + 1`.
    pub fn eos(&self) -> u32 {
        eos(self.vocab)
    }

    /// Id of the beginning of a sentence: `vocab + 2`.
    pub fn bos(&self) -> u32 {
        bos(self.vocab)
    }

    /// Number of n-grams of all orders together.
    pub fn ngrams(&self) -> usize {
        self.tables.iter().map(Table::len).sum()
    }

    /// The n-grams of one order, 1 to [`Model::order`].
    pub fn table(&self, order: usize) -> &Table {
        &self.tables[order - 1]
    }

    /// What the model stores of an n-gram.
    pub fn entry(&self, ngram: &[u32]) -> Option<&Entry> {
        self.tables.get(ngram.len().checked_sub(1)?)?.get(ngram)
    }

    /// Scores `word` after `context`, which are ids of the model, the latest last. A context that is the
    /// start of a sentence begins with [`Model::bos`].
    ///
    /// # Panics
    /// If `word` is no id of the model.
    pub fn token(&self, context: &[u32], word: u32) -> TokenScore {
        let context = &context[context.len().saturating_sub(self.order() - 1)..];
        let mut ngram = [context, &[word]].concat();
        let mut log10_prob = 0.0;
        loop {
            if let Some(entry) = self.entry(&ngram) {
                return TokenScore {
                    log10_prob: log10_prob + entry.log10_prob,
                    matched: ngram.len(),
                };
            }
            assert!(ngram.len() > 1, "{word} is no id of the model");
            let context = &ngram[..ngram.len() - 1];
            log10_prob += self.entry(context).map_or(0.0, |entry| entry.log10_backoff);
            ngram.remove(0);
        }
    }

    /// Probability of every outcome after `context`, `[vocab + 2]`: the words, the unknown word, the end
    /// of the sentence. They sum to one, but for scores of stupid back-off.
    pub fn distribution(&self, context: &[u32]) -> Vec<f64> {
        (0..=self.eos()).map(|word| 10f64.powf(self.token(context, word).log10_prob)).collect()
    }

    /// Scores the words of a sentence and its end: one more score than words. Ids that are no words are
    /// read as the unknown word.
    pub fn score(&self, sentence: &[u32]) -> Vec<TokenScore> {
        let ids = padded(sentence, self.vocab);
        (1..ids.len()).map(|at| self.token(&ids[..at], ids[at])).collect()
    }

    /// Perplexity of sentences.
    pub fn perplexity<S: AsRef<[u32]>>(&self, sentences: &[S]) -> Perplexity {
        let (mut all, mut known, mut tokens, mut unknown) = (0.0, 0.0, 0, 0);
        for sentence in sentences {
            let sentence = sentence.as_ref();
            for (at, score) in self.score(sentence).iter().enumerate() {
                let is_unknown = sentence.get(at).is_some_and(|&word| word >= self.unk());
                tokens += 1;
                unknown += usize::from(is_unknown);
                all += score.log10_prob;
                known += if is_unknown { 0.0 } else { score.log10_prob };
            }
        }
        let perplexity = |sum: f64, tokens: usize| 10f64.powf(-sum / tokens as f64);
        Perplexity {
            all: perplexity(all, tokens),
            known: perplexity(known, tokens - unknown),
            tokens,
            unknown,
        }
    }
}

/// `<s> sentence </s>`, with ids that are no words replaced by the unknown word.
pub(super) fn padded(sentence: &[u32], vocab: usize) -> Vec<u32> {
    let words = sentence.iter().map(|&word| word.min(unk(vocab)));
    [bos(vocab)].into_iter().chain(words).chain([eos(vocab)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words a = 0, b = 1; unknown 2, end 3, beginning 4.
    fn model() -> Model {
        let entry = |log10_prob, log10_backoff| Entry { log10_prob, log10_backoff };
        let unigrams = [(-1.0, -0.5), (-0.5, -0.25), (-3.0, 0.0), (-0.75, 0.0), (-99.0, -0.125)];
        let unigrams = (0..).zip(unigrams).map(|(id, (p, b))| (vec![id], entry(p, b)));
        let bigrams = [(vec![4, 0], entry(-0.25, -1.0)), (vec![0, 1], entry(-0.375, 0.0))];
        Model::new(2, vec![unigrams.collect(), bigrams.into()])
    }

    #[test]
    fn a_sentence_is_scored_by_hand() {
        let scores = model().score(&[0, 1, 7]);
        let expected = [
            (-0.25, 2),       // a after <s>
            (-0.375, 2),      // b after a
            (-0.25 - 3.0, 1), // unknown after b: back-off of b
            (-0.75, 1),       // end after unknown, which backs off for nothing
        ];
        for (score, (log10_prob, matched)) in scores.iter().zip(expected) {
            assert_eq!(*score, TokenScore { log10_prob, matched });
        }
        assert_eq!(scores.len(), 4);
    }

    #[test]
    fn perplexity_counts_ends_and_can_leave_unknown_words_out() {
        let perplexity = model().perplexity(&[vec![0, 1, 7]]);
        assert_eq!((perplexity.tokens, perplexity.unknown), (4, 1));
        assert!((perplexity.all - 10f64.powf(4.625 / 4.0)).abs() < 1e-12);
        assert!((perplexity.known - 10f64.powf(1.375 / 3.0)).abs() < 1e-12);
        assert!(model().perplexity::<Vec<u32>>(&[]).all.is_nan());
    }

    #[test]
    fn long_contexts_are_cut_and_empty_ones_allowed() {
        let model = model();
        assert_eq!(model.token(&[1, 1, 0], 1), model.token(&[0], 1));
        assert_eq!(model.token(&[], 1), TokenScore { log10_prob: -0.5, matched: 1 });
        assert_eq!(model.ngrams(), 7);
    }
}
