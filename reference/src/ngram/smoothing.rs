//! From counts to models: modified Kneser–Ney, add-k and stupid back-off.

use std::collections::BTreeMap;

use super::{
    bos, eos,
    model::{Entry, Model, Table, padded},
};

/// How probabilities are estimated from counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Smoothing {
    /// Interpolated modified Kneser–Ney (Chen & Goodman 1998, section 3):
    ///
    /// ```text
    /// p(w | h) = (a(h w) − D(a(h w))) / a(h ·) + γ(h) · p(w | h₂ …)
    /// γ(h) = (D₁·N₁(h) + D₂·N₂(h) + D₃·N₃₊(h)) / a(h ·)
    /// ```
    ///
    /// with a the count for the highest order and for n-grams that begin a sentence, and the number of
    /// different words seen before the n-gram for all others; Nᵢ(h) the number of words w with
    /// a(h w) = i. Unigrams interpolate with the uniform distribution over all outcomes, which is what
    /// the unknown word gets. Each order's discounts come from its counts of counts n₁ … n₄:
    /// Y = n₁/(n₁ + 2n₂), Dᵢ = i − (i+1)·Y·nᵢ₊₁/nᵢ. Where one of n₁, n₂, n₃ is zero or a discount is not
    /// positive, the order takes ½, 1 and 1½ instead.
    KneserNey,
    /// Additive smoothing with this k: p(w | h) = (c(h w) + k) / (c(h ·) + k·(vocab + 2)) for contexts of
    /// `order − 1` words and for those that reach the beginning of the sentence; uniform after unseen
    /// contexts, and after shorter ones, which only back-off asks for.
    AddK(f64),
    /// Stupid back-off (Brants et al. 2007): c(h w)/c(h ·) if the n-gram was seen, else 0.4 times the
    /// score after the shorter context. Scores, not probabilities. In back-off form a context that was
    /// never seen costs no factor (it scales all words alike); unseen words score 10⁻⁹⁹.
    StupidBackoff,
}

/// Back-off factor of [`Smoothing::StupidBackoff`].
const STUPID_FACTOR: f64 = 0.4;

/// ARPA's stand-in for the logarithm of zero.
pub const LOG10_ZERO: f64 = -99.0;

/// Counts of one order.
pub type Counts = BTreeMap<Vec<u32>, u64>;

/// Counts of the n-grams of orders 1 to `order` in the sentences, each between the beginning's and the
/// end's id; n-grams do not reach over sentences.
///
/// # Panics
/// If `order` is zero.
pub fn counts(sentences: &[Vec<u32>], vocab: usize, order: usize) -> Vec<Counts> {
    assert!(order > 0, "there are no n-grams of order 0");
    let mut counts = vec![Counts::new(); order];
    for sentence in sentences {
        let ids = padded(sentence, vocab);
        for (order, counts) in (1..).zip(&mut counts) {
            for ngram in ids.windows(order) {
                match counts.get_mut(ngram) {
                    Some(count) => *count += 1,
                    None => _ = counts.insert(ngram.to_vec(), 1),
                }
            }
        }
    }
    counts
}

/// Estimates a model of this order over the words `0..vocab` (greater ids are unknown words).
///
/// # Panics
/// If `order` is zero, or k of add-k is not positive.
pub fn train(sentences: &[Vec<u32>], vocab: usize, order: usize, smoothing: Smoothing) -> Model {
    let counts = counts(sentences, vocab, order);
    let tables = match smoothing {
        Smoothing::KneserNey => kneser_ney(&counts, vocab),
        Smoothing::AddK(k) => add_k(&counts, vocab, k),
        Smoothing::StupidBackoff => stupid_backoff(&counts, vocab),
    };
    Model::new(vocab, tables)
}

/// Discounts D₁, D₂ and D₃₊ of one order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Discounts([f64; 3]);

impl Discounts {
    pub(super) fn of<'a>(counts: impl Iterator<Item = &'a u64>) -> Self {
        let mut n = [0.0; 5];
        for &count in counts.filter(|&&count| count <= 4) {
            n[count as usize] += 1.0;
        }
        let y = n[1] / (n[1] + 2.0 * n[2]);
        let discount = |i: usize| i as f64 - (i + 1) as f64 * y * n[i + 1] / n[i];
        let discounts = [discount(1), discount(2), discount(3)];
        // Zero counts of counts make NaN or −∞ of a discount, which is not positive either.
        let sound = n[1] > 0.0 && discounts.iter().all(|&d| d > 0.0);
        Self(if sound && n[2] > 0.0 && n[3] > 0.0 { discounts } else { [0.5, 1.0, 1.5] })
    }

    fn discount(&self, count: u64) -> f64 {
        if count == 0 { 0.0 } else { self.0[count.min(3) as usize - 1] }
    }
}

/// Total count and total discount of the continuations of a context.
#[derive(Clone, Copy, Default)]
struct Context {
    count: f64,
    discount: f64,
}

impl Context {
    /// γ: all of the mass where nothing was counted.
    fn weight(&self) -> f64 {
        if self.count > 0.0 { self.discount / self.count } else { 1.0 }
    }
}

/// Kneser–Ney's counts of one order: see [`Smoothing::KneserNey`].
fn adjusted(counts: &[Counts], order: usize, vocab: usize) -> Counts {
    let own = &counts[order - 1];
    let adjusted = match counts.get(order) {
        None => own.clone(),
        Some(longer) => {
            let begins = |ngram: &&Vec<u32>| ngram[0] == bos(vocab);
            let mut adjusted: Counts =
                own.iter().filter(|(n, _)| begins(n)).map(|(n, &c)| (n.clone(), c)).collect();
            for ngram in longer.keys() {
                *adjusted.entry(ngram[1..].to_vec()).or_default() += 1;
            }
            adjusted
        }
    };
    if order == 1 { outcomes(adjusted, vocab) } else { adjusted }
}

fn kneser_ney(counts: &[Counts], vocab: usize) -> Vec<Table> {
    let uniform = 1.0 / (vocab + 2) as f64;
    // Probabilities, not yet as logarithms, of the n-grams of the order before.
    let mut shorter: BTreeMap<Vec<u32>, f64> = BTreeMap::new();
    let mut tables: Vec<Table> = Vec::new();
    for order in 1..=counts.len() {
        let adjusted = adjusted(counts, order, vocab);
        let discounts = Discounts::of(adjusted.values());
        let mut contexts: BTreeMap<&[u32], Context> = BTreeMap::new();
        for (ngram, &count) in &adjusted {
            let context = contexts.entry(&ngram[..order - 1]).or_default();
            context.count += count as f64;
            context.discount += discounts.discount(count);
        }
        let mut probs = BTreeMap::new();
        for (ngram, &count) in &adjusted {
            let context = contexts[&ngram[..order - 1]];
            let below = if order == 1 { uniform } else { shorter[&ngram[1..]] };
            let own = match count {
                0 => 0.0,
                _ => (count as f64 - discounts.discount(count)) / context.count,
            };
            probs.insert(ngram.clone(), own + context.weight() * below);
        }
        for (context, sums) in contexts.iter().filter(|_| order > 1) {
            set_backoff(&mut tables, context, sums.weight());
        }
        tables.push(table(&probs, order, vocab));
        shorter = probs;
    }
    tables
}

/// Logarithms of the probabilities of one order, back-off weights still 1. The beginning of a sentence
/// joins the unigrams for its back-off weight.
fn table(probs: &BTreeMap<Vec<u32>, f64>, order: usize, vocab: usize) -> Table {
    let log10 = |p: f64| if p > 0.0 { p.log10() } else { LOG10_ZERO };
    let entry = |log10_prob| Entry { log10_prob, log10_backoff: 0.0 };
    let mut table: Table = probs.iter().map(|(n, &p)| (n.clone(), entry(log10(p)))).collect();
    if order == 1 {
        table.insert(vec![bos(vocab)], entry(LOG10_ZERO));
    }
    table
}

fn set_backoff(tables: &mut [Table], context: &[u32], weight: f64) {
    let entry = tables[context.len() - 1].get_mut(context);
    entry.expect("a context is an n-gram of the order below").log10_backoff = weight.log10();
}

/// The unigrams that can be predicted with their counts: all ids but the beginning of a sentence.
fn outcomes(mut counts: Counts, vocab: usize) -> Counts {
    counts.remove(&[bos(vocab)][..]);
    for id in 0..=eos(vocab) {
        counts.entry(vec![id]).or_default();
    }
    counts
}

/// Sum of the counts of each context's continuations.
fn context_counts(counts: &Counts) -> BTreeMap<&[u32], f64> {
    let mut sums = BTreeMap::new();
    for (ngram, &count) in counts {
        *sums.entry(&ngram[..ngram.len() - 1]).or_default() += count as f64;
    }
    sums
}

fn add_k(counts: &[Counts], vocab: usize, k: f64) -> Vec<Table> {
    assert!(k > 0.0, "add-k needs a positive k");
    let added = k * (vocab + 2) as f64;
    let mut tables: Vec<Table> = Vec::new();
    for order in 1..=counts.len() {
        let counted = match order {
            1 => outcomes(counts[0].clone(), vocab),
            _ => counts[order - 1].clone(),
        };
        // Contexts that are not cut short: all of the words a model of this order looks at.
        let is_whole = |ngram: &[u32]| order == counts.len() || ngram[0] == bos(vocab);
        let sums = context_counts(&counted);
        let mut probs = BTreeMap::new();
        for (ngram, &count) in &counted {
            let context = &ngram[..order - 1];
            let p = if is_whole(ngram) {
                (count as f64 + k) / (sums[context] + added)
            } else {
                k / added
            };
            if is_whole(ngram) && order > 1 {
                set_backoff(&mut tables, context, added / (sums[context] + added));
            }
            probs.insert(ngram.clone(), p);
        }
        tables.push(table(&probs, order, vocab));
    }
    tables
}

fn stupid_backoff(counts: &[Counts], vocab: usize) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for order in 1..=counts.len() {
        let counted = match order {
            1 => outcomes(counts[0].clone(), vocab),
            _ => counts[order - 1].clone(),
        };
        let sums = context_counts(&counted);
        let score = |(ngram, &count): (&Vec<u32>, &u64)| {
            let score = if count == 0 { 0.0 } else { count as f64 / sums[&ngram[..order - 1]] };
            (ngram.clone(), score)
        };
        let scores = counted.iter().map(score).collect();
        for context in sums.keys().filter(|context| !context.is_empty()) {
            set_backoff(&mut tables, context, STUPID_FACTOR);
        }
        tables.push(table(&scores, order, vocab));
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    // Words a = 0, b = 1, c = 2; unknown 3, end 4, beginning 5.
    const VOCAB: usize = 3;
    const START: u32 = 5;
    const END: u32 = 4;

    fn corpus() -> Vec<Vec<u32>> {
        vec![vec![0, 1], vec![0, 2]]
    }

    fn assert_probs(model: &Model, expected: &[(&[u32], u32, f64)]) {
        for &(context, word, p) in expected {
            let got = 10f64.powf(model.token(context, word).log10_prob);
            assert!((got - p).abs() < 1e-12, "p({word} | {context:?}) = {got}, by hand {p}");
        }
    }

    #[test]
    fn kneser_ney_bigrams_by_hand() {
        // Different words before a, b, c, </s>: 1, 1, 1, 2; no unigram has 3, so D = ½, 1, 1½:
        // γ = (3·½ + 1)/5 = ½ and the uniform share ½·⅕ = 0.1.
        // Bigrams: <s> a twice, four others once; γ(<s>) = ½, γ(a) = (½+½)/2, γ(b) = γ(c) = ½.
        let model = train(&corpus(), VOCAB, 2, Smoothing::KneserNey);
        let expected: [(&[u32], u32, f64); 9] = [
            (&[], 0, 0.5 / 5.0 + 0.1),
            (&[], END, 1.0 / 5.0 + 0.1),
            (&[], 3, 0.1),
            (&[START], 0, 1.0 / 2.0 + 0.5 * 0.2),
            (&[START], 1, 0.5 * 0.2),
            (&[0], 1, 0.5 / 2.0 + 0.5 * 0.2),
            (&[1], END, 0.5 / 1.0 + 0.5 * 0.3),
            (&[1], 2, 0.5 * 0.2),
            (&[3], 2, 0.2),
        ];
        assert_probs(&model, &expected);
        assert_eq!(model.ngrams(), 6 + 5);
    }

    #[test]
    fn middle_orders_count_words_before_but_sentence_starts_as_often_as_they_come() {
        let sentences = [vec![0, 1], vec![0, 1], vec![2, 0, 1]];
        let counts = counts(&sentences, VOCAB, 3);
        let adjusted = adjusted(&counts, 2, VOCAB);
        assert_eq!(adjusted[&vec![START, 0]], 2);
        // `a b` comes three times, after <s> and after c.
        assert_eq!((counts[1][&vec![0, 1]], adjusted[&vec![0, 1]]), (3, 2));
        assert_eq!(adjusted[&vec![1, END]], 1);
    }

    #[test]
    fn discounts_follow_chen_and_goodman_and_fall_back_when_degenerate() {
        // n = 4, 2, 1, 1: Y = ½.
        let counts = [1, 1, 1, 1, 2, 2, 3, 4, 9];
        assert_eq!(Discounts::of(counts.iter()), Discounts([0.5, 1.25, 1.0]));
        for degenerate in [&[][..], &[1, 1, 2], &[2, 2, 3], &[1, 1, 2, 3, 3, 3, 3, 3]] {
            assert_eq!(Discounts::of(degenerate.iter()), Discounts([0.5, 1.0, 1.5]));
        }
    }

    #[test]
    fn add_k_by_hand() {
        let model = train(&corpus(), VOCAB, 2, Smoothing::AddK(0.5));
        let expected: [(&[u32], u32, f64); 5] = [
            (&[START], 0, 2.5 / 4.5),
            (&[START], 1, 0.5 / 4.5),
            (&[0], 1, 1.5 / 4.5),
            (&[0], END, 0.5 / 4.5),
            (&[3], 0, 0.2),
        ];
        assert_probs(&model, &expected);
        let unigrams = train(&corpus(), VOCAB, 1, Smoothing::AddK(0.5));
        assert_probs(&unigrams, &[(&[], 0, 2.5 / 8.5), (&[], 3, 0.5 / 8.5), (&[], END, 2.5 / 8.5)]);
    }

    #[test]
    fn stupid_backoff_by_hand() {
        let model = train(&corpus(), VOCAB, 2, Smoothing::StupidBackoff);
        let expected: [(&[u32], u32, f64); 4] =
            [(&[0], 1, 0.5), (&[0], END, 0.4 * 2.0 / 6.0), (&[1], END, 1.0), (&[3], 0, 2.0 / 6.0)];
        assert_probs(&model, &expected);
        assert_eq!(model.token(&[], 3).log10_prob, LOG10_ZERO);
    }

    #[test]
    fn no_sentences_make_a_uniform_model() {
        let model = train(&[], VOCAB, 3, Smoothing::KneserNey);
        assert_probs(&model, &[(&[START], 0, 0.2), (&[0, 1], END, 0.2)]);
    }
}
