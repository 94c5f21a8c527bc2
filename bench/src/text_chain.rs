//! The text chain: every algorithm of words on one real text, each step's output the next one's input.
//!
//! Corpus → vocabulary → n-gram models of several orders → embeddings trained on it → a bigram model that
//! drafts for one of higher order, with the measured acceptance rate beside the theoretical one.

mod acceptance;
mod embeddings;
mod models;
mod text;

use serde::{Deserialize, Serialize};
use touchstone_reference::{Case, Tensors, ngram};

pub use acceptance::Acceptance;
pub use embeddings::{Embeddings, Neighbours};
pub use models::LanguageModel;

use crate::{
    corpus::{Corpus, CorpusError},
    mixed_precision::MixedPrecision,
    neural::Neural,
    speculative::Decoded,
};
use acceptance::{acceptance, speculation};
use embeddings::embeddings;
use models::{counting, language_models};
use text::Text;

/// What the chain found on one corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextChain {
    /// Name of the corpus.
    pub corpus: String,
    /// Its size in bytes.
    pub bytes: usize,
    /// Words in the whole text.
    pub words: usize,
    /// Words used: all, or the first 200 000 to a sentence.
    pub words_used: usize,
    /// Sentences used.
    pub sentences: usize,
    /// Words of the training part; the rest is held out.
    pub train_words: usize,
    /// Distinct words in the vocabulary: those that occur at least twice in the training part.
    pub vocabulary: usize,
    /// Share of held-out words that are not in the vocabulary.
    pub unknown: f64,
    /// The n-gram models, by smoothing and order.
    pub models: Vec<LanguageModel>,
    /// The embeddings.
    pub embeddings: Embeddings,
    /// Speculative acceptance.
    pub acceptance: Acceptance,
    /// Speculative decoding as a whole, by scheme; plain decoding first.
    #[serde(default)]
    pub speculation: Vec<Decoded>,
    /// Speculative decoding of a neural target: what [`crate::neural::Trained`] found, where it was asked.
    #[serde(default)]
    pub neural: Option<Neural>,
    /// A network trained on the characters of the text in every precision.
    #[serde(default)]
    pub mixed_precision: Option<MixedPrecision>,
    /// What the chain hands the kernels; not part of the serialized result.
    #[serde(skip)]
    inputs: Vec<(Case, Tensors)>,
}

impl TextChain {
    /// Runs the whole chain; seeded, so the same text gives the same result.
    ///
    /// # Errors
    /// If the text is too small to train on.
    pub fn run(corpus: &Corpus) -> Result<Self, CorpusError> {
        let all = corpus.sentences();
        let (text, used) = Text::of(corpus, &all)?;
        let count = |sentences: &[Vec<u32>]| sentences.iter().map(Vec::len).sum::<usize>();
        let (train_words, held_out_words) = (count(&text.train), count(&text.held_out));
        let unk = ngram::unk(text.vocabulary.len());
        let unknown = text.held_out.iter().flatten().filter(|&&id| id == unk).count();
        let (embeddings, gather) = embeddings(&text, train_words);
        let (acceptance, chain) = acceptance(&text);
        let mut inputs = counting(&text);
        inputs.extend([gather, chain]);
        Ok(Self {
            corpus: corpus.name().to_string(),
            bytes: corpus.bytes(),
            words: all.iter().map(Vec::len).sum(),
            words_used: train_words + held_out_words,
            sentences: used,
            train_words,
            vocabulary: text.vocabulary.len(),
            unknown: unknown as f64 / held_out_words.max(1) as f64,
            models: language_models(&text),
            embeddings,
            acceptance,
            speculation: speculation(&text),
            neural: None,
            mixed_precision: Some(MixedPrecision::run(corpus)),
            inputs,
        })
    }

    /// Real inputs for the kernels, each with the case whose shapes they have: the text's ids for
    /// `ngram.count`, the text and its trained embeddings for `embedding.gather`, both models'
    /// distributions for `acceptance.chain`. Parameters of a case that say how inputs are drawn do not
    /// apply. Empty for a result that was read back from a file.
    pub fn problems(&self) -> Vec<(Case, Tensors)> {
        self.inputs.clone()
    }
}
