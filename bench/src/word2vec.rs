//! Skip-gram with negative sampling, trained on a stream of tokens: the embeddings of the text chain.
//!
//! Source: Mikolov et al. 2013, "Distributed Representations of Words and Phrases and their
//! Compositionality", section 2. Pair after pair, in f32, one thread, seeded: the same call gives the same
//! bits. One step over a whole batch is the operation `embedding.word2vec`; this is the run around it.

use touchstone_reference::Draw;

/// How to train. The default suits a text of 10⁴ to 10⁶ tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Columns of the embeddings.
    pub dim: usize,
    /// Farthest context on either side; each center draws its own reach from 1..=`window`.
    pub window: usize,
    /// Noise words a pair, drawn ∝ count^¾.
    pub negatives: usize,
    /// Passes over the stream.
    pub epochs: usize,
    /// Learning rate at the start; it falls linearly to 10⁻⁴ of that.
    pub lr: f32,
    /// A word of relative frequency f is kept with probability min(1, √(`subsample`/f)); 0 keeps all.
    pub subsample: f64,
    /// Seed of every draw.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { dim: 64, window: 5, negatives: 5, epochs: 5, lr: 0.05, subsample: 1e-3, seed: 1 }
    }
}

/// What training leaves behind.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// Columns of the embeddings.
    pub dim: usize,
    /// [vocab, dim]: words as centers; the embeddings proper.
    pub input: Vec<f32>,
    /// [vocab, dim]: words as contexts.
    pub output: Vec<f32>,
    /// Mean loss of a pair over each [`POINTS`]th of the run, in order: the loss curve, in nats. Parts
    /// without a pair are left out.
    pub losses: Vec<f64>,
}

/// Points of the loss curve.
pub const POINTS: usize = 40;

impl Training {
    /// The embedding of a word.
    pub fn embedding(&self, word: u32) -> &[f32] {
        &self.input[word as usize * self.dim..][..self.dim]
    }

    /// The `count` words most similar to `word`, itself left out, by cosine, most similar first.
    pub fn neighbours(&self, word: u32, count: usize) -> Vec<(u32, f32)> {
        let norm = |x: &[f32]| dot(x, x).sqrt().max(f32::MIN_POSITIVE);
        let this = self.embedding(word);
        let cosine = |other: &[f32]| dot(this, other) / (norm(this) * norm(other));
        let words = (0..).zip(self.input.chunks(self.dim.max(1)));
        let mut others: Vec<(u32, f32)> =
            words.filter(|(w, _)| *w != word).map(|(w, other)| (w, cosine(other))).collect();
        others.sort_by(|a, b| b.1.total_cmp(&a.1));
        others.truncate(count);
        others
    }
}

/// Trains embeddings of the words 0..`vocab` on a stream of them.
///
/// Input rows start uniform in ±½/dim, output rows at zero. A noise word that equals the context is left out.
///
/// # Panics
/// If a token is not below `vocab`, or `window` is zero.
pub fn train(tokens: &[u32], vocab: usize, options: &Options) -> Training {
    let mut draw = Draw::new(options.seed);
    let words = Words::count(tokens, vocab, options.subsample);
    let spread = 1.0 / options.dim.max(1) as f64;
    let mut model = Training {
        dim: options.dim,
        input: (0..vocab * options.dim).map(|_| (spread * (draw.unit() - 0.5)) as f32).collect(),
        output: vec![0.0; vocab * options.dim],
        losses: Vec::new(),
    };
    let steps = (options.epochs * tokens.len()).max(1);
    let mut curve = [(0.0, 0usize); POINTS];
    for epoch in 0..options.epochs {
        let kept: Vec<(usize, u32)> = tokens
            .iter()
            .enumerate()
            .filter(|(_, word)| draw.unit() < words.keep[**word as usize])
            .map(|(at, &word)| (at, word))
            .collect();
        for (i, &(at, center)) in kept.iter().enumerate() {
            let done = epoch * tokens.len() + at;
            let lr = options.lr * (1.0 - done as f32 / steps as f32).max(1e-4);
            let (sum, pairs) = &mut curve[done * POINTS / steps];
            let reach = 1 + draw.below(options.window);
            let contexts = i.saturating_sub(reach)..(i + reach + 1).min(kept.len());
            for context in contexts.filter(|&j| j != i).map(|j| kept[j].1) {
                *sum += pair(&mut model, &words, center, context, lr, options.negatives, &mut draw);
                *pairs += 1;
            }
        }
    }
    model.losses = curve.iter().filter(|(_, n)| *n > 0).map(|(sum, n)| sum / *n as f64).collect();
    model
}

/// One pair: a step of gradient descent on its loss, which is returned.
fn pair(
    model: &mut Training,
    words: &Words,
    center: u32,
    context: u32,
    lr: f32,
    negatives: usize,
    draw: &mut Draw,
) -> f64 {
    let dim = model.dim;
    let v = &mut model.input[center as usize * dim..][..dim];
    let mut ascent = vec![0.0; dim];
    let mut loss = 0.0;
    for t in 0..=negatives {
        let (word, label) = if t == 0 { (context, 1.0) } else { (words.noise(draw), 0.0) };
        if t > 0 && word == context {
            continue;
        }
        let o = &mut model.output[word as usize * dim..][..dim];
        let score = dot(v, o);
        let signed = if t == 0 { score } else { -score };
        loss += f64::from((-signed).max(0.0) + (-signed.abs()).exp().ln_1p());
        let factor = lr * (label - 1.0 / (1.0 + (-score).exp()));
        for ((ascent, o), v) in ascent.iter_mut().zip(o.iter_mut()).zip(v.iter()) {
            *ascent += factor * *o;
            *o += factor * v;
        }
    }
    for (v, ascent) in v.iter_mut().zip(&ascent) {
        *v += ascent;
    }
    loss
}

/// What word counts decide: which occurrences are kept, and the noise distribution.
struct Words {
    /// Probability with which an occurrence of each word is kept.
    keep: Vec<f64>,
    /// Running sums of count^¾.
    cumulative: Vec<f64>,
}

impl Words {
    fn count(tokens: &[u32], vocab: usize, subsample: f64) -> Self {
        let mut counts = vec![0usize; vocab];
        for &token in tokens {
            counts[token as usize] += 1;
        }
        let keep = |&count: &usize| match subsample > 0.0 && count > 0 {
            true => (subsample * tokens.len() as f64 / count as f64).sqrt().min(1.0),
            false => 1.0,
        };
        let mut sum = 0.0;
        let running = |&count: &usize| {
            sum += (count as f64).powf(0.75);
            sum
        };
        Self {
            keep: counts.iter().map(keep).collect(),
            cumulative: counts.iter().map(running).collect(),
        }
    }

    fn noise(&self, draw: &mut Draw) -> u32 {
        let total = self.cumulative.last().expect("there are words");
        let at = draw.unit() * total;
        self.cumulative.partition_point(|&sum| sum <= at).min(self.cumulative.len() - 1) as u32
    }
}

/// Σ a·b, in eight running sums so that the compiler may use vector registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "rows differ in length");
    let (a, b) = (a.chunks(8), b.chunks(8));
    let mut sums = [0.0f32; 8];
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sentences of eight words, each from one of two topics: words 0..20 or 20..40.
    fn two_topics(length: usize) -> Vec<u32> {
        let mut draw = Draw::new(5);
        let mut topic = 0;
        let word = |i: usize| {
            if i.is_multiple_of(8) {
                topic = draw.below(2);
            }
            (20 * topic + draw.below(20)) as u32
        };
        (0..length).map(word).collect()
    }

    fn options() -> Options {
        Options { dim: 16, window: 3, subsample: 0.0, ..Options::default() }
    }

    #[test]
    fn words_of_a_topic_become_neighbours() {
        let training = train(&two_topics(20_000), 40, &options());
        for word in [0, 7, 19, 20, 33] {
            let near = training.neighbours(word, 5);
            let same = near.iter().filter(|(other, _)| other / 20 == word / 20).count();
            assert!(same >= 4, "{word}: {near:?}");
        }
    }

    #[test]
    fn the_loss_starts_at_chance_and_falls() {
        let slow = Options { lr: 0.01, epochs: 20, ..options() };
        let training = train(&two_topics(2_000), 40, &slow);
        assert_eq!(training.losses.len(), POINTS);
        let chance = 6.0 * 2f64.ln();
        assert!((training.losses[0] / chance - 1.0).abs() < 0.1, "{:?}", training.losses);
        assert!(training.losses[POINTS - 1] < 0.95 * training.losses[0], "{:?}", training.losses);
    }

    #[test]
    fn the_same_seed_gives_the_same_bits() {
        let tokens = two_topics(500);
        assert_eq!(train(&tokens, 40, &options()), train(&tokens, 40, &options()));
        let other = Options { seed: 2, ..options() };
        assert_ne!(train(&tokens, 40, &options()), train(&tokens, 40, &other));
    }

    #[test]
    fn frequent_words_are_thinned_out_and_noise_follows_counts() {
        let tokens: Vec<u32> = (0..1000).map(|i| u32::from(i % 10 == 0)).collect();
        let words = Words::count(&tokens, 3, 0.1);
        assert_eq!(words.keep[1], 1.0);
        assert!((words.keep[0] - (0.1f64 / 0.9).sqrt()).abs() < 1e-12);
        let mut draw = Draw::new(1);
        let mut counts = [0.0; 3];
        for _ in 0..20_000 {
            counts[words.noise(&mut draw) as usize] += 1.0;
        }
        let expected = 900f64.powf(0.75) / 100f64.powf(0.75);
        assert_eq!(counts[2], 0.0);
        assert!((counts[0] / counts[1] / expected - 1.0).abs() < 0.1, "{counts:?}");
    }

    #[test]
    fn no_text_trains_nothing() {
        let training = train(&[], 3, &options());
        assert!(training.losses.is_empty());
        assert_eq!(training.output, vec![0.0; 48]);
    }
}
