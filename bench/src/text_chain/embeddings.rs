//! Embeddings trained on the text.

use serde::{Deserialize, Serialize};
use touchstone_reference::{
    Case, DType, Data, Tensor, Tensors,
    embedding::{Index, Pattern, Storage, gather::Params as GatherParams},
    ngram,
};

use super::text::Text;
use crate::word2vec;

/// Words whose nearest neighbours are shown.
const SHOWN_WORDS: usize = 6;

/// Embeddings trained on the text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embeddings {
    /// Columns.
    pub dim: usize,
    /// Passes over the training part.
    pub epochs: usize,
    /// Mean loss of a pair in nats, over equal parts of the run in order.
    pub losses: Vec<f64>,
    /// Frequent longer words and what lies nearest to them.
    pub neighbours: Vec<Neighbours>,
}

/// A word and its nearest neighbours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neighbours {
    /// The word.
    pub word: String,
    /// The nearest words with their cosine, nearest first.
    pub nearest: Vec<(String, f32)>,
}

/// Trains embeddings of the words and of `<unk>`; looking up the training part in them.
pub(super) fn embeddings(text: &Text, train_words: usize) -> (Embeddings, (Case, Tensors)) {
    let stream: Vec<u32> = text.train.concat();
    let rows = text.vocabulary.len() + 1;
    // A short text is read more often: about 150 000 centers make a second of training.
    let epochs = (150_000 / train_words.max(1)).clamp(1, 30);
    let options = word2vec::Options { epochs, ..word2vec::Options::default() };
    let training = word2vec::train(&stream, rows, &options);
    let unk = ngram::unk(text.vocabulary.len());
    let long = |id: &u32| text.vocabulary.word(*id).chars().count() > 4;
    let nearest = |id: u32| Neighbours {
        word: text.vocabulary.word(id).to_string(),
        nearest: training
            .neighbours(id, 6)
            .into_iter()
            .filter(|(other, _)| *other != unk)
            .take(5)
            .map(|(other, cosine)| (text.vocabulary.word(other).to_string(), cosine))
            .collect(),
    };
    let params = GatherParams {
        vocab: rows,
        dim: options.dim,
        tokens: stream.len(),
        table: Storage::F32,
        index: Index::I32,
        pattern: Pattern::Zipf,
        padding: false,
    };
    let indices: Vec<i64> = stream.iter().map(|&id| id.into()).collect();
    let inputs = Tensors::new()
        .with("table", Tensor::new(&[rows, options.dim], Data::F32(training.input.clone())))
        .with("indices", Tensor::from_integers(DType::I32, &[stream.len()], &indices));
    let embeddings = Embeddings {
        dim: options.dim,
        epochs,
        losses: training.losses.clone(),
        neighbours: (0..unk).filter(long).take(SHOWN_WORDS).map(nearest).collect(),
    };
    (embeddings, (Case::new("embedding.gather", &params, 0), inputs))
}
