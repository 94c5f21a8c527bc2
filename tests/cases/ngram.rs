//! Random small cases of the n-gram operations.

use proptest::{prelude::*, strategy::BoxedStrategy};
use touchstone_reference::{
    Case,
    ngram::{CountParams, Estimate, ScoreParams, Source, Values},
};

/// For each operation, a strategy for valid cases that shrinks towards few tokens and words.
pub fn strategies() -> Vec<(&'static str, BoxedStrategy<Case>)> {
    vec![
        ("ngram.count", count().prop_map(|(p, seed)| Case::new("ngram.count", &p, seed)).boxed()),
        ("ngram.score", score().prop_map(|(p, seed)| Case::new("ngram.score", &p, seed)).boxed()),
    ]
}

fn source() -> impl Strategy<Value = Source> {
    prop::sample::select(vec![Source::Zipf, Source::Markov, Source::Uniform, Source::Same])
}

/// Parameters of `ngram.count` with a seed.
pub fn count() -> impl Strategy<Value = (CountParams, u64)> {
    let tokens = prop_oneof![
        0..80usize,
        80..3000usize,
        4090..4110usize,
        8185..8205usize,
        prop::sample::select(vec![12_289, 20_011]),
    ];
    let vocab = prop_oneof![1..12usize, 12..5000usize, prop::sample::select(vec![4096, 65_536])];
    (tokens, 1..=5usize, vocab, source(), 0..1000u64).prop_map(
        |(tokens, order, vocab, source, seed)| {
            let p = CountParams { tokens, order, vocab, source };
            // The longest n-grams of this vocabulary that fit a key.
            (CountParams { order: order.min(64 / p.bits() as usize), ..p }, seed)
        },
    )
}

/// Parameters of `ngram.score` with a seed.
pub fn score() -> impl Strategy<Value = (ScoreParams, u64)> {
    let tokens = prop_oneof![0..40usize, 250..260usize, 260..1500usize];
    let train_words = prop_oneof![0..20usize, 20..2000usize];
    let estimate =
        prop::sample::select(vec![Estimate::KneserNey, Estimate::AddK, Estimate::StupidBackoff]);
    let values = prop::sample::select(vec![Values::F32, Values::Q8]);
    let unknown = prop::sample::select(vec![0.0, 0.1, 1.0]);
    let model = (1..=5usize, 1..400usize, train_words, estimate, values);
    (tokens, model, unknown, source(), 0..1000u64).prop_map(
        |(tokens, (order, vocab, train_words, estimate, values), unknown, source, seed)| {
            let p = ScoreParams {
                tokens,
                order,
                vocab,
                train_words,
                estimate,
                values,
                unknown,
                source,
            };
            (p, seed)
        },
    )
}
