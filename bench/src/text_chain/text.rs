//! The text as ids, in a training part and one held out.

use touchstone_reference::ngram;

use crate::corpus::{self, Corpus, CorpusError, Vocabulary};

/// Words of a corpus that are used; the rest of a longer text is left out, and the result says so.
const MAX_WORDS: usize = 200_000;
/// Words of the vocabulary: the most frequent ones that occur at least [`MIN_COUNT`] times.
const MAX_VOCABULARY: usize = 10_000;
/// Words seen less often in the training part are unknown words.
const MIN_COUNT: usize = 2;
/// Sentences a corpus needs: two are then held out.
const MIN_SENTENCES: usize = 20;

/// The text as ids, split in two.
pub(super) struct Text {
    pub vocabulary: Vocabulary,
    pub train: Vec<Vec<u32>>,
    pub held_out: Vec<Vec<u32>>,
}

impl Text {
    /// The text as ids, and the number of sentences used.
    pub fn of(corpus: &Corpus, all: &[Vec<String>]) -> Result<(Self, usize), CorpusError> {
        let mut words = 0;
        let fits = |sentence: &&Vec<String>| {
            words += sentence.len();
            words <= MAX_WORDS
        };
        let used = all.iter().take_while(fits).count();
        if used < MIN_SENTENCES {
            return Err(corpus.too_small(
                &format!("{used} sentences"),
                &format!("{MIN_SENTENCES} sentences, none beyond {MAX_WORDS} words"),
            ));
        }
        let [train, held_out] = corpus::split(&all[..used]);
        let vocabulary = Vocabulary::new(&train, MIN_COUNT, MAX_VOCABULARY);
        if vocabulary.is_empty() {
            return Err(corpus.too_small("no word occurs twice", "repeated words"));
        }
        let ids =
            |part: &[Vec<String>]| part.iter().map(|sentence| vocabulary.ids(sentence)).collect();
        let (train, held_out) = (ids(&train), ids(&held_out));
        Ok((Self { vocabulary, train, held_out }, used))
    }

    /// Up to `count` contexts spread evenly over the held-out words: the sentence up to each.
    pub fn contexts(&self, count: usize) -> Vec<Vec<u32>> {
        let bos = ngram::bos(self.vocabulary.len());
        let prefix = |sentence: &[u32], end: usize| [&[bos], &sentence[..end]].concat();
        let all: Vec<(&[u32], usize)> = self
            .held_out
            .iter()
            .flat_map(|sentence| (0..=sentence.len()).map(|end| (sentence.as_slice(), end)))
            .collect();
        let count = count.min(all.len());
        (0..count).map(|i| all[i * all.len() / count]).map(|(s, end)| prefix(s, end)).collect()
    }
}
