//! Scoring a token stream against a back-off model.

use std::collections::HashMap;

use ndarray::Array1;
use serde::{Deserialize, Serialize};

use super::{Model, Smoothing, Source, bos, model::Entry, smoothing::LOG10_ZERO, train};
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::{Expected, Outputs, Tolerance},
    tensor::{DType, Data, Tensor, Tensors},
};

/// How the model of a case is estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimate {
    /// [`Smoothing::KneserNey`].
    KneserNey,
    /// [`Smoothing::AddK`] with k = 0.1.
    AddK,
    /// [`Smoothing::StupidBackoff`].
    StupidBackoff,
}

/// How many different values the model's probabilities and back-off weights may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// As estimated, rounded to f32.
    F32,
    /// At most 256 different probabilities and 256 back-off weights for each order: means of bins of
    /// equal population (Whittaker & Raj 2001), so that a layout can store 8-bit codes without loss.
    Q8,
}

/// Parameters of [`Score`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreParams {
    /// Ids of the stream that is scored.
    pub tokens: usize,
    /// Length of the model's longest n-grams, 1 to 5.
    pub order: usize,
    /// Number of words.
    pub vocab: usize,
    /// Words of the text the model is estimated from.
    pub train_words: usize,
    /// How it is estimated.
    pub estimate: Estimate,
    /// How many different values it has.
    pub values: Values,
    /// Share of the stream's words that are replaced by the unknown word.
    pub unknown: f64,
    /// Law of the words of both texts.
    pub source: Source,
}

/// log10 probability and matched length of each id of a stream of sentences under a back-off model.
///
/// With T = `tokens`, K = `order`, nₖ the number of n-grams of order k and n₁ = `vocab` + 3, the ids: words
/// `0..vocab`, then unknown word, end and beginning of a sentence (see [`super`]):
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `tokens` | \[T\] | u32 | ids; each sentence between a beginning and an end; the first and the last may be cut |
/// | `sizes` | \[K\] | i64 | n₁ … n_K |
/// | `ngrams` | \[Σₖ₌₂ k·nₖ\] | u32 | words of the n-grams of order 2, 3, …, K, each order's in ascending order of the words; unigrams are the ids in order and not listed |
/// | `prob` | \[Σₖ₌₁ nₖ\] | f32 | log10 probability of each n-gram, order 1 first |
/// | `backoff` | \[Σₖ₌₁ nₖ, k < K\] | f32 | log10 back-off weight of each n-gram that can be a context |
///
/// Every n-gram's suffix is an n-gram of the model too.
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `log10_prob` | \[T\] | f32 | log10 p(token ∣ context); 0 for the beginning of a sentence, which is given |
/// | `matched` | \[T\] | i32 | length of the longest n-gram that ends in the token; 0 for the beginning of a sentence |
///
/// The context is what comes before in the stream, back to the beginning of the sentence inclusive, at
/// most K − 1 ids. With m the matched length and `backoff` zero for contexts the model lacks,
///
/// log10 p = prob(last m ids) + Σⱼ₌ₘ^|context| backoff(last j ids of the context).
///
/// Work: no flops worth counting; bytes 4·T in and 8·T out (what the model costs depends on how much of it is
/// touched, and caches hold it); items are the T tokens.
#[derive(Debug)]
pub struct Score;

impl Algorithm for Score {
    const NAME: &'static str = "ngram.score";
    const SUMMARY: &'static str =
        "log10 probability and matched length of each token under a model";
    const ITEMS: &'static str = "tokens";
    type Params = ScoreParams;

    fn validate(p: &ScoreParams) -> Result<(), String> {
        if !(1..=5).contains(&p.order) {
            return Err(format!("order {} is not 1 to 5", p.order));
        }
        if p.vocab == 0 || p.vocab > 1 << 30 {
            return Err(format!("vocab {} is not 1 to 2^30", p.vocab));
        }
        if !(0.0..=1.0).contains(&p.unknown) {
            return Err(format!("a share of {} unknown words", p.unknown));
        }
        Ok(())
    }

    fn inputs(p: &ScoreParams, draw: &mut Draw) -> Tensors {
        let text = p.source.sentences(p.train_words, p.vocab, draw);
        let smoothing = match p.estimate {
            Estimate::KneserNey => Smoothing::KneserNey,
            Estimate::AddK => Smoothing::AddK(0.1),
            Estimate::StupidBackoff => Smoothing::StupidBackoff,
        };
        let stream = p.source.stream(p.tokens, p.vocab, p.unknown, draw);
        let model = train(&text, p.vocab, p.order, smoothing);
        tensors(&model, p.values).with("tokens", Tensor::new(&[p.tokens], Data::U32(stream)))
    }

    fn reference(p: &ScoreParams, inputs: &Tensors) -> Outputs {
        let tokens = inputs.tensor("tokens").to_i64().iter().map(|&t| t as u32).collect::<Vec<_>>();
        let model = Flat::of(inputs);
        let mut log10_prob = Array1::zeros(tokens.len());
        let mut magnitude = Array1::zeros(tokens.len());
        let mut matched = Array1::<i64>::zeros(tokens.len());
        for (at, &token) in tokens.iter().enumerate() {
            if token == bos(p.vocab) {
                continue;
            }
            let earliest = (at + 1).saturating_sub(p.order);
            let begin = tokens[earliest..at].iter().rposition(|&id| id == bos(p.vocab));
            let ngram = &tokens[earliest + begin.unwrap_or(0)..=at];
            let (length, prob) = model.longest(ngram);
            let context = &ngram[..ngram.len() - 1];
            let backoffs =
                (length..=context.len()).map(|j| model.backoff(&context[context.len() - j..]));
            let (sum, size) = backoffs.fold((prob, prob.abs()), |(s, m), b| (s + b, m + b.abs()));
            (log10_prob[at], magnitude[at], matched[at]) = (sum, size, length as i64);
        }
        // The terms are read exactly. At most `order` of them are summed in f32, in any order: order − 1
        // additions, each of which rounds a partial sum not greater than Σ|terms|.
        let tolerance = Tolerance {
            relative: (p.order - 1) as f64 * DType::F32.unit_roundoff(),
            storage: DType::F32,
        };
        Outputs::new()
            .with("log10_prob", Expected::real(&log10_prob, &magnitude, tolerance))
            .with("matched", Expected::exact(DType::I32, matched))
    }

    fn work(p: &ScoreParams, _: &Tensors) -> Work {
        Work {
            flops: 0.0,
            bytes: 12.0 * p.tokens as f64,
            items: p.tokens as f64,
            matrix: false,
            eight_bit: false,
        }
    }
}

/// A model as the operation's input tensors, without the tokens.
pub fn tensors(model: &Model, values: Values) -> Tensors {
    let order = model.order();
    let (mut sizes, mut ngrams, mut prob, mut backoff) = (vec![], vec![], vec![], vec![]);
    for k in 1..=order {
        let table = model.table(k);
        let column = |of: fn(&Entry) -> f64, kept: f64| {
            let column: Vec<f32> = table.values().map(|entry| of(entry) as f32).collect();
            match values {
                Values::F32 => column,
                Values::Q8 => binned(&column, kept as f32),
            }
        };
        sizes.push(table.len() as i64);
        prob.extend(column(|entry| entry.log10_prob, LOG10_ZERO));
        if k < order {
            backoff.extend(column(|entry| entry.log10_backoff, 0.0));
        }
        if k > 1 {
            ngrams.extend(table.keys().flatten());
        }
    }
    Tensors::new()
        .with("sizes", Tensor::new(&[order], Data::I64(sizes)))
        .with("ngrams", Tensor::new(&[ngrams.len()], Data::U32(ngrams)))
        .with("prob", Tensor::new(&[prob.len()], Data::F32(prob)))
        .with("backoff", Tensor::new(&[backoff.len()], Data::F32(backoff)))
}

/// Each value replaced by the nearest of at most 256: `kept` itself, and the means of 255 bins of equal
/// population of all others.
fn binned(values: &[f32], kept: f32) -> Vec<f32> {
    let mut sorted: Vec<f32> = values.iter().copied().filter(|&v| v != kept).collect();
    sorted.sort_unstable_by(f32::total_cmp);
    let bin = sorted.len().div_ceil(255).max(1);
    let mean =
        |bin: &[f32]| (bin.iter().map(|&v| f64::from(v)).sum::<f64>() / bin.len() as f64) as f32;
    let centres: Vec<f32> = sorted.chunks(bin).map(mean).collect();
    let nearest = |v: f32| {
        let above = centres.partition_point(|&c| c < v).min(centres.len() - 1);
        let below = above.saturating_sub(1);
        if v - centres[below] < centres[above] - v { centres[below] } else { centres[above] }
    };
    values.iter().map(|&v| if v == kept { kept } else { nearest(v) }).collect()
}

/// The operation's model tensors with an index from an n-gram to its position in `prob`.
struct Flat {
    index: HashMap<Vec<u32>, usize>,
    prob: Vec<f64>,
    backoff: Vec<f64>,
}

impl Flat {
    fn of(inputs: &Tensors) -> Self {
        let sizes = inputs.tensor("sizes").to_i64();
        let ngrams: Vec<u32> =
            inputs.tensor("ngrams").to_i64().iter().map(|&id| id as u32).collect();
        let unigrams = (0..sizes[0] as u32).map(|id| vec![id]);
        let mut index: HashMap<Vec<u32>, usize> = unigrams.zip(0..).collect();
        let mut rest = &ngrams[..];
        for (order, &size) in (2..).zip(&sizes[1..]) {
            let (rows, after) = rest.split_at(order * size as usize);
            for row in rows.chunks_exact(order) {
                index.insert(row.to_vec(), index.len());
            }
            rest = after;
        }
        let (prob, backoff) = (inputs.tensor("prob").to_f64(), inputs.tensor("backoff").to_f64());
        Self { index, prob, backoff }
    }

    /// Length and log10 probability of the longest suffix of `ngram` that the model has.
    fn longest(&self, ngram: &[u32]) -> (usize, f64) {
        let suffixes = (0..ngram.len()).map(|from| &ngram[from..]);
        let mut found = suffixes.filter_map(|s| Some((s.len(), self.prob[*self.index.get(s)?])));
        found.next().expect("every id has a unigram")
    }

    fn backoff(&self, context: &[u32]) -> f64 {
        self.index.get(context).map_or(0.0, |&at| self.backoff[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_scores_as_its_sentences_do() {
        let text = [vec![0, 1, 2, 1], vec![1, 1], vec![], vec![2, 0, 1]];
        for order in 1..=4 {
            let model = train(&text, 3, order, Smoothing::KneserNey);
            let sentences = [vec![1, 2, 1], vec![], vec![0, 0, 1, 2, 1, 1]];
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for sentence in &sentences {
                stream.extend([&[model.bos()], &sentence[..], &[model.eos()]].concat());
                expected.push((0.0, 0.0));
                let scores = model.score(sentence);
                expected.extend(scores.iter().map(|s| (s.log10_prob, s.matched as f64)));
            }
            let p = ScoreParams {
                tokens: stream.len(),
                order,
                vocab: 3,
                train_words: 0,
                estimate: Estimate::KneserNey,
                values: Values::F32,
                unknown: 0.0,
                source: Source::Zipf,
            };
            let inputs = tensors(&model, Values::F32)
                .with("tokens", Tensor::new(&[stream.len()], Data::U32(stream)));
            let outputs = Score::reference(&p, &inputs);
            let got = outputs.output("log10_prob").values().into_iter();
            for (got, expected) in got.zip(outputs.output("matched").values()).zip(expected) {
                assert!(
                    (got.0 - expected.0).abs() < 1e-6 && got.1 == expected.1,
                    "{got:?} {expected:?}"
                );
            }
        }
    }

    #[test]
    fn binning_keeps_few_values_and_the_special_one() {
        let values: Vec<f32> = (0..1000).map(|i| -(i as f32).sqrt()).chain([0.0, 0.0]).collect();
        let binned = binned(&values, 0.0);
        let distinct: std::collections::BTreeSet<u32> =
            binned.iter().map(|v| v.to_bits()).collect();
        assert_eq!(distinct.len(), 251);
        assert_eq!(binned[0], 0.0);
        assert!(values.iter().zip(&binned).all(|(v, b)| (v - b).abs() < 1.1));
        let few = [-1.5, -99.0, -0.5, -1.5];
        assert_eq!(super::binned(&few, -99.0), few);
    }
}
