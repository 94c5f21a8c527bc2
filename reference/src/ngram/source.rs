//! Artificial text: where the words of drawn cases come from.

use serde::{Deserialize, Serialize};

use super::{bos, eos, unk};
use crate::draw::Draw;

/// The law by which words are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Independent words, the r-th most frequent with probability proportional to 1/r: as in text.
    Zipf,
    /// Half of the words as `zipf`, half one of eight successors of the word before: n-grams repeat.
    Markov,
    /// Independent words, all equally likely: hardly any n-gram repeats.
    Uniform,
    /// The same word throughout: one n-gram takes every count.
    Same,
}

impl Source {
    /// `n` words of `0..vocab`.
    pub fn words(self, n: usize, vocab: usize, draw: &mut Draw) -> Vec<u32> {
        let mut previous = 0;
        let mut next = || {
            previous = match self {
                Self::Zipf => draw.zipf(vocab),
                Self::Uniform => draw.below(vocab),
                Self::Same => vocab - 1,
                Self::Markov if draw.unit() < 0.5 => draw.zipf(vocab),
                Self::Markov => (7 * previous + 1 + draw.zipf(8)) % vocab,
            };
            previous as u32
        };
        (0..n).map(|_| next()).collect()
    }

    /// Sentences of 0 to 24 words, `n` words in all.
    pub fn sentences(self, n: usize, vocab: usize, draw: &mut Draw) -> Vec<Vec<u32>> {
        let words = self.words(n, vocab, draw);
        let (mut rest, mut sentences) = (&words[..], Vec::new());
        while !rest.is_empty() {
            let (sentence, after) = rest.split_at(draw.below(25).min(rest.len()));
            sentences.push(sentence.to_vec());
            rest = after;
        }
        sentences
    }

    /// A stream of `n` ids: sentences one after the other, each between the beginning's and the end's id,
    /// a share `unknown` of the words replaced by the unknown word. The first sentence has no beginning
    /// and the last may lack its end: a stream may be cut anywhere.
    pub fn stream(self, n: usize, vocab: usize, unknown: f64, draw: &mut Draw) -> Vec<u32> {
        let mut stream = Vec::with_capacity(n + 32);
        for sentence in self.sentences(n, vocab, draw) {
            if !stream.is_empty() {
                stream.push(bos(vocab));
            }
            for word in sentence {
                stream.push(if draw.unit() < unknown { unk(vocab) } else { word });
            }
            stream.push(eos(vocab));
        }
        stream.truncate(n);
        stream
    }
}
