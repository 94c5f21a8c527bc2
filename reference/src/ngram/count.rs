//! Counting the n-grams of a token stream.

use ndarray::Array1;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Source;
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::{Expected, Outputs},
    tensor::{DType, Data, Tensor, Tensors},
};

/// Parameters of [`Count`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountParams {
    /// Length of the stream.
    pub tokens: usize,
    /// Length of the n-grams, 1 to 5.
    pub order: usize,
    /// Tokens are below it. `order · bits <= 64`, see [`CountParams::bits`].
    pub vocab: usize,
    /// Law of the tokens.
    pub source: Source,
}

impl CountParams {
    /// Bits of a token in a packed n-gram: ⌈log₂ vocab⌉, at least 1.
    pub fn bits(&self) -> u32 {
        (usize::BITS - self.vocab.saturating_sub(1).leading_zeros()).max(1)
    }

    /// Number of n-grams in the stream, repeats included: `tokens − order + 1`, or zero.
    pub fn capacity(&self) -> usize {
        (self.tokens + 1).saturating_sub(self.order)
    }
}

/// The distinct n-grams of a token stream with their counts. The stream is one sequence: n-grams reach
/// over whatever separates sentences in it. (Models are trained on sentences: see [`super::train`].)
///
/// With N = `tokens`, b = ⌈log₂ vocab⌉ and capacity C = max(N − order + 1, 0):
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `tokens` | \[N\] | u32 | the stream, each below `vocab` |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `ngrams` | \[C\] | u64 | n-gram t₀ … tₖ₋₁ packed as Σ tᵢ·2^(b·(k−1−i)): numeric order is the order of the words |
/// | `counts` | \[C\] | u32 | how often it occurs |
/// | `unique` | \[1\] | i64 | how many distinct n-grams there are; entries from there on are 0 in both |
///
/// The order of the entries is free; the canonical one is ascending in the packed n-gram.
///
/// Work: no flops; bytes 4·N in, 12·C + 8 out; items are the N tokens.
#[derive(Debug)]
pub struct Count;

impl Algorithm for Count {
    const NAME: &'static str = "ngram.count";
    const SUMMARY: &'static str = "distinct n-grams of a token stream and how often each occurs";
    const ITEMS: &'static str = "tokens";
    type Params = CountParams;

    fn validate(p: &CountParams) -> Result<(), String> {
        if !(1..=5).contains(&p.order) {
            return Err(format!("order {} is not 1 to 5", p.order));
        }
        if p.vocab == 0 || p.vocab > 1 << 32 {
            return Err(format!("vocab {} is not 1 to 2^32", p.vocab));
        }
        if p.order as u32 * p.bits() > 64 {
            return Err(format!("{} tokens of {} bits do not fit a 64-bit key", p.order, p.bits()));
        }
        if p.tokens > 1 << 31 {
            return Err(format!("{} tokens are more than 2^31", p.tokens));
        }
        Ok(())
    }

    fn inputs(p: &CountParams, draw: &mut Draw) -> Tensors {
        let tokens = p.source.words(p.tokens, p.vocab, draw);
        Tensors::new().with("tokens", Tensor::new(&[p.tokens], Data::U32(tokens)))
    }

    fn reference(p: &CountParams, inputs: &Tensors) -> Outputs {
        let Data::U32(tokens) = inputs.tensor("tokens").data() else {
            unreachable!("tokens are u32")
        };
        let mut keys: Vec<u64> = tokens.par_windows(p.order).map(|n| packed(n, p.bits())).collect();
        keys.par_sort_unstable();
        let (mut ngrams, mut counts) = (Array1::zeros(p.capacity()), Array1::zeros(p.capacity()));
        let mut unique = 0;
        for run in keys.chunk_by(|a, b| a == b) {
            // Keys of 64 bits may have the sign bit: compared as bits, like any output.
            ngrams[unique] = run[0] as i64;
            counts[unique] = run.len() as i64;
            unique += 1;
        }
        Outputs::new()
            .with("ngrams", Expected::exact(DType::U64, ngrams))
            .with("counts", Expected::exact(DType::U32, counts))
            .with("unique", Expected::exact(DType::I64, ndarray::arr1(&[unique as i64])))
    }

    fn work(p: &CountParams, _: &Tensors) -> Work {
        Work {
            flops: 0.0,
            bytes: (4 * p.tokens + 12 * p.capacity() + 8) as f64,
            items: p.tokens as f64,
            matrix: false,
            eight_bit: false,
        }
    }

    fn canonical(_: &CountParams, outputs: Tensors) -> Tensors {
        sorted(&outputs).unwrap_or(outputs)
    }
}

/// First token in the highest bits.
fn packed(ngram: &[u32], bits: u32) -> u64 {
    // A shift by 64 bits occurs for one token of 64 bits only, which no u32 has.
    ngram.iter().fold(0, |key, &token| (key << bits) | u64::from(token))
}

/// The first `unique` entries ascending; `None` if these are not the operation's outputs.
fn sorted(outputs: &Tensors) -> Option<Tensors> {
    let (ngrams, counts) = (outputs.get("ngrams")?, outputs.get("counts")?);
    let (Data::U64(keys), Data::U32(values)) = (ngrams.data(), counts.data()) else { return None };
    let Data::I64(unique) = outputs.get("unique")?.data() else { return None };
    let used = usize::try_from(*unique.first()?).ok()?.min(keys.len()).min(values.len());
    let (mut keys, mut values) = (keys.clone(), values.clone());
    let mut pairs: Vec<(u64, u32)> =
        keys[..used].par_iter().copied().zip(values[..used].par_iter().copied()).collect();
    pairs.par_sort_unstable();
    for (i, (key, value)) in pairs.into_iter().enumerate() {
        (keys[i], values[i]) = (key, value);
    }
    let mut sorted = outputs.clone();
    sorted.insert("ngrams", Tensor::new(ngrams.shape(), Data::U64(keys)));
    sorted.insert("counts", Tensor::new(counts.shape(), Data::U32(values)));
    Some(sorted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(tokens: &[u32]) -> Tensors {
        Tensors::new().with("tokens", Tensor::new(&[tokens.len()], Data::U32(tokens.to_vec())))
    }

    #[test]
    fn bigrams_by_hand() {
        let p = CountParams { tokens: 6, order: 2, vocab: 3, source: Source::Zipf };
        let outputs = Count::reference(&p, &stream(&[0, 1, 2, 0, 1, 0]));
        assert_eq!(p.bits(), 2);
        // 0 1 twice, 1 0, 1 2, 2 0.
        assert_eq!(
            outputs.output("ngrams").values(),
            [0b0001, 0b0100, 0b0110, 0b1000, 0].map(f64::from)
        );
        assert_eq!(outputs.output("counts").values(), [2.0, 1.0, 1.0, 1.0, 0.0]);
        assert_eq!(outputs.output("unique").values(), [4.0]);
    }

    #[test]
    fn a_stream_shorter_than_the_order_has_no_ngrams() {
        for tokens in [0, 1, 2] {
            let p = CountParams { tokens, order: 3, vocab: 7, source: Source::Zipf };
            let outputs = Count::reference(&p, &stream(&vec![1; tokens]));
            assert_eq!(outputs.output("counts").shape(), [0]);
            assert_eq!(outputs.output("unique").values(), [0.0]);
        }
    }

    #[test]
    fn keys_that_do_not_fit_are_refused_by_name() {
        let p = CountParams { tokens: 9, order: 5, vocab: 50_000, source: Source::Zipf };
        assert_eq!(Count::validate(&p).unwrap_err(), "5 tokens of 16 bits do not fit a 64-bit key");
        assert!(Count::validate(&CountParams { order: 4, ..p }).is_ok());
    }

    #[test]
    fn the_order_of_the_entries_is_free() {
        let p = CountParams { tokens: 4, order: 1, vocab: 9, source: Source::Zipf };
        let outputs = |keys: [u64; 4], counts: [u32; 4]| {
            Tensors::new()
                .with("ngrams", Tensor::new(&[4], Data::U64(keys.to_vec())))
                .with("counts", Tensor::new(&[4], Data::U32(counts.to_vec())))
                .with("unique", Tensor::new(&[1], Data::I64(vec![3])))
        };
        let canonical = Count::canonical(&p, outputs([7, 0, 5, 0], [1, 2, 1, 0]));
        assert_eq!(canonical, outputs([0, 5, 7, 0], [2, 1, 1, 0]));
    }
}
