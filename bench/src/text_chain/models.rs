//! N-gram models of several orders, and the counting they rest on.

use serde::{Deserialize, Serialize};
use touchstone_reference::{
    Case, Data, Tensor, Tensors,
    ngram::{self, CountParams, Smoothing, Source},
};

use super::text::Text;

/// Orders of the models that are compared.
const ORDERS: std::ops::RangeInclusive<usize> = 1..=5;
/// k of add-k smoothing.
const ADD_K: f64 = 0.01;

/// One n-gram model and how well it predicts the held-out part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LanguageModel {
    /// `kneser_ney` or `add_k`.
    pub smoothing: String,
    /// Length of its longest n-grams.
    pub order: usize,
    /// Perplexity of the held-out sentences, ends of sentences counted.
    pub perplexity: f64,
    /// The same without unknown words.
    pub perplexity_known: f64,
    /// N-grams it stores, all orders together.
    pub ngrams: usize,
    /// Memory of its n-grams as plain arrays: for an n-gram of order n, n ids of 32 bits, probability and
    /// back-off in f32.
    pub bytes: usize,
}

/// Trains every model and asks it of the held-out part.
pub(super) fn language_models(text: &Text) -> Vec<LanguageModel> {
    let smoothings = [("kneser_ney", Smoothing::KneserNey), ("add_k", Smoothing::AddK(ADD_K))];
    let mut models = Vec::new();
    for (name, smoothing) in smoothings {
        for order in ORDERS {
            let model = ngram::train(&text.train, text.vocabulary.len(), order, smoothing);
            let perplexity = model.perplexity(&text.held_out);
            models.push(LanguageModel {
                smoothing: name.into(),
                order,
                perplexity: perplexity.all,
                perplexity_known: perplexity.known,
                ngrams: model.ngrams(),
                bytes: (1..=order).map(|n| model.table(n).len() * (4 * n + 8)).sum(),
            });
        }
    }
    models
}

/// Counting the 2- and 3-grams of the training part as one stream of ids, sentences marked.
pub(super) fn counting(text: &Text) -> Vec<(Case, Tensors)> {
    let vocab = text.vocabulary.len();
    let marked =
        |sentence: &Vec<u32>| [&[ngram::bos(vocab)], &sentence[..], &[ngram::eos(vocab)]].concat();
    let stream: Vec<u32> = text.train.iter().flat_map(marked).collect();
    let problem = |order| {
        let (tokens, vocab) = (stream.len(), ngram::ids(vocab));
        let params = CountParams { tokens, order, vocab, source: Source::Zipf };
        let inputs =
            Tensors::new().with("tokens", Tensor::new(&[tokens], Data::U32(stream.clone())));
        (Case::new("ngram.count", &params, 0), inputs)
    };
    vec![problem(2), problem(3)]
}
