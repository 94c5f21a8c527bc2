//! n-gram language models: counting, estimation, scoring, ARPA files.
//!
//! Words are ids `0..vocab`. Three more ids follow them: the unknown word `vocab` ([`unk`]), the end of a
//! sentence `vocab + 1` ([`eos`]) and its beginning `vocab + 2` ([`bos`]). A sentence of words w₁ … wₙ is
//! read as `<s> w₁ … wₙ </s>`: the beginning is context only and never predicted, the end is predicted.
//! Probabilities are therefore over `vocab + 2` outcomes: the words, the unknown word and the end.
//!
//! | operation | outputs | source |
//! |---|---|---|
//! | `ngram.count` | the distinct n-grams of a token stream and their counts | – |
//! | `ngram.score` | log10 probability and matched length of every token of a stream | Katz 1987; Heafield 2011 |

pub mod arpa;
pub mod count;
pub mod model;
pub mod score;
pub mod smoothing;
pub mod source;

pub use arpa::ArpaError;
pub use count::{Count, CountParams};
pub use model::{Entry, Model, Perplexity, TokenScore};
pub use score::{Estimate, Score, ScoreParams, Values};
pub use smoothing::{Smoothing, train};
pub use source::Source;

use crate::algorithm::Operation;

/// The operations of this vertical.
pub const OPERATIONS: &[Operation] = &[Operation::of::<Count>(), Operation::of::<Score>()];

/// Id of the unknown word for `vocab` words.
pub const fn unk(vocab: usize) -> u32 {
    vocab as u32
}

/// Id of the end of a sentence for `vocab` words.
pub const fn eos(vocab: usize) -> u32 {
    vocab as u32 + 1
}

/// Id of the beginning of a sentence for `vocab` words.
pub const fn bos(vocab: usize) -> u32 {
    vocab as u32 + 2
}

/// Number of ids for `vocab` words: with the unknown word, the end and the beginning of a sentence.
pub const fn ids(vocab: usize) -> usize {
    vocab + 3
}
