//! The text chain: every algorithm of words on one real text, each step's output the next one's input.
//!
//! Corpus → vocabulary → n-gram models of several orders → embeddings trained on it → a bigram model that
//! drafts for one of higher order, with the measured acceptance rate beside the theoretical one.

use serde::{Deserialize, Serialize};
use touchstone_reference::{
    Algorithm, Case, DType, Data, Draw, Tensor, Tensors,
    acceptance::chain::{Chain, Params as ChainParams},
    embedding::{Index, Pattern, Storage, gather::Params as GatherParams},
    ngram::{self, CountParams, Smoothing, Source},
};

use crate::{
    corpus::{self, Corpus, CorpusError, Vocabulary},
    mixed_precision::MixedPrecision,
    neural::Neural,
    speculative::{Decoded, Predictor, Scheme, Speculation, sampled},
    word2vec,
};

/// Words of a corpus that are used; the rest of a longer text is left out, and the result says so.
const MAX_WORDS: usize = 200_000;
/// Words of the vocabulary: the most frequent ones that occur at least [`MIN_COUNT`] times.
const MAX_VOCABULARY: usize = 10_000;
/// Words seen less often in the training part are unknown words.
const MIN_COUNT: usize = 2;
/// Sentences a corpus needs: two are then held out.
const MIN_SENTENCES: usize = 20;
/// Orders of the models that are compared.
const ORDERS: std::ops::RangeInclusive<usize> = 1..=5;
/// k of add-k smoothing.
const ADD_K: f64 = 0.01;
/// Order of the model that drafts.
const DRAFT_ORDER: usize = 2;
/// Order of the model whose law is emitted.
const TARGET_ORDER: usize = 3;
/// Tokens of a draft.
const DRAFT_LEN: usize = 4;
/// Probabilities computed for acceptance at most: the number of contexts follows from it.
const MAX_PROBABILITIES: usize = 4_000_000;
/// Words whose nearest neighbours are shown.
const SHOWN_WORDS: usize = 6;

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

/// Speculative decoding of the held-out contexts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acceptance {
    /// Order of the model that drafts.
    pub draft_order: usize,
    /// Order of the model whose law is emitted.
    pub target_order: usize,
    /// Tokens of a draft.
    pub draft_len: usize,
    /// Contexts of the held-out part at which a draft was made.
    pub steps: usize,
    /// Draft tokens that were examined: those up to the first rejected one of each draft.
    pub examined: usize,
    /// Share of the examined tokens that were accepted.
    pub measured: f64,
    /// What theory says of the same positions: the mean of 1 − total variation distance of p and q.
    pub theoretical: f64,
    /// Standard error of `measured` about `theoretical`.
    pub standard_error: f64,
    /// Tokens emitted in a step, on average.
    pub tokens_per_step: f64,
    /// The same if acceptance were independent with rate α = `theoretical` at every position:
    /// (1 − α^(k+1)) / (1 − α) (Leviathan et al. 2023, equation 1).
    pub tokens_per_step_independent: f64,
}

/// The text as ids, split in two.
struct Text {
    vocabulary: Vocabulary,
    train: Vec<Vec<u32>>,
    held_out: Vec<Vec<u32>>,
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

impl Text {
    /// The text as ids, and the number of sentences used.
    fn of(corpus: &Corpus, all: &[Vec<String>]) -> Result<(Self, usize), CorpusError> {
        let mut words = 0;
        let fits = |sentence: &&Vec<String>| {
            words += sentence.len();
            words <= MAX_WORDS
        };
        let used = all.iter().take_while(fits).count();
        if used < MIN_SENTENCES {
            return Err(corpus.too_small(
                &format!("{used} sentences"),
                &format!("{MIN_SENTENCES} sentences, none beyond {MAX_WORDS} words"),
            ));
        }
        let [train, held_out] = corpus::split(&all[..used]);
        let vocabulary = Vocabulary::new(&train, MIN_COUNT, MAX_VOCABULARY);
        if vocabulary.is_empty() {
            return Err(corpus.too_small("no word occurs twice", "repeated words"));
        }
        let ids =
            |part: &[Vec<String>]| part.iter().map(|sentence| vocabulary.ids(sentence)).collect();
        let (train, held_out) = (ids(&train), ids(&held_out));
        Ok((Self { vocabulary, train, held_out }, used))
    }
}

fn language_models(text: &Text) -> Vec<LanguageModel> {
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
fn counting(text: &Text) -> Vec<(Case, Tensors)> {
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

/// Trains embeddings of the words and of `<unk>`; looking up the training part in them.
fn embeddings(text: &Text, train_words: usize) -> (Embeddings, (Case, Tensors)) {
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

/// Up to `count` contexts spread evenly over the held-out words: the sentence up to each.
fn contexts(text: &Text, count: usize) -> Vec<Vec<u32>> {
    let bos = ngram::bos(text.vocabulary.len());
    let prefix = |sentence: &[u32], end: usize| [&[bos], &sentence[..end]].concat();
    let all: Vec<(&[u32], usize)> = text
        .held_out
        .iter()
        .flat_map(|sentence| (0..=sentence.len()).map(|end| (sentence.as_slice(), end)))
        .collect();
    let count = count.min(all.len());
    (0..count).map(|i| all[i * all.len() / count]).map(|(s, end)| prefix(s, end)).collect()
}

/// Continues held-out contexts by every scheme.
fn speculation(text: &Text) -> Vec<Decoded> {
    /// Contexts continued side by side.
    const ROWS: usize = 8;
    /// Probabilities that one scheme computes about at most: trees of 13 nodes take the most of a step.
    const MOST: usize = 6_000_000;
    let outcomes = text.vocabulary.len() + 2;
    let steps = (MOST / (13 * ROWS * outcomes)).clamp(2, 60);
    let models = Speculation::train(&text.train, text.vocabulary.len());
    let contexts = contexts(text, ROWS);
    Scheme::ALL.map(|scheme| models.run(scheme, &contexts, steps, 1)).into()
}

/// Drafts with the bigram model from real contexts, and lets the reference accept against the target.
fn acceptance(text: &Text) -> (Acceptance, (Case, Tensors)) {
    let outcomes = text.vocabulary.len() + 2;
    let steps = (MAX_PROBABILITIES / ((2 * DRAFT_LEN + 1) * outcomes)).clamp(8, 256);
    let contexts = contexts(text, steps);
    let (params, inputs) = drafts(text, &contexts, outcomes);
    let outputs = Chain::reference(&params, &inputs);
    let accepted = outputs.output("accepted").values();
    let (p, q) = (inputs.tensor("target_probs").to_f64(), inputs.tensor("draft_probs").to_f64());
    let (mut hits, mut examined, mut theory, mut variance) = (0.0, 0, 0.0, 0.0);
    for (row, &count) in accepted.iter().enumerate() {
        hits += count;
        for position in 0..(count as usize + 1).min(DRAFT_LEN) {
            let p = &p[(row * (DRAFT_LEN + 1) + position) * outcomes..][..outcomes];
            let q = &q[(row * DRAFT_LEN + position) * outcomes..][..outcomes];
            let overlap: f64 = p.iter().zip(q).map(|(p, q)| p.min(*q)).sum();
            theory += overlap;
            variance += (overlap * (1.0 - overlap)).max(0.0);
            examined += 1;
        }
    }
    let (n, rate) = (f64::from(examined).max(1.0), theory / f64::from(examined).max(1.0));
    let expected: f64 = (0..=DRAFT_LEN as i32).map(|i| rate.powi(i)).sum();
    let acceptance = Acceptance {
        draft_order: DRAFT_ORDER,
        target_order: TARGET_ORDER,
        draft_len: DRAFT_LEN,
        steps: contexts.len(),
        examined: examined as usize,
        measured: hits / n,
        theoretical: rate,
        standard_error: variance.sqrt() / n,
        tokens_per_step: 1.0 + hits / contexts.len().max(1) as f64,
        tokens_per_step_independent: expected,
    };
    (acceptance, (Case::new(Chain::NAME, &params, 0), inputs))
}

/// The inputs of `acceptance.chain`: from each context a draft of the bigram model, with both models'
/// distributions at every position of it.
fn drafts(text: &Text, contexts: &[Vec<u32>], outcomes: usize) -> (ChainParams, Tensors) {
    let (eos, bos) = (ngram::eos(text.vocabulary.len()), ngram::bos(text.vocabulary.len()));
    let train = |order| Predictor::train(&text.train, text.vocabulary.len(), order);
    let (mut draft, mut target) = (train(DRAFT_ORDER), train(TARGET_ORDER));
    let mut draw = Draw::new(1);
    let (mut q, mut p, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    for context in contexts {
        let mut context = context.clone();
        for _ in 0..DRAFT_LEN {
            p.extend_from_slice(target.after(&context));
            let law = draft.after(&context);
            q.extend_from_slice(law);
            let token = sampled(law, draw.unit());
            tokens.push(token as i32);
            // A sentence that ends is followed by the next one's beginning.
            if token == eos {
                context = vec![bos];
            } else {
                context.push(token);
            }
        }
        p.extend_from_slice(target.after(&context));
    }
    let (batch, k) = (contexts.len(), DRAFT_LEN);
    let mut uniforms = |count: usize| -> Vec<f32> {
        (0..count).map(|_| draw.below(1 << 24) as f32 / (1 << 24) as f32).collect()
    };
    let params = ChainParams {
        batch,
        draft_len: k,
        vocab: outcomes,
        mode: Default::default(),
        lengths: Default::default(),
        mass: Default::default(),
        relation: Default::default(),
        draws: Default::default(),
    };
    let real = |shape: &[usize], values| Tensor::new(shape, Data::F32(values));
    let inputs = Tensors::new()
        .with("draft_probs", real(&[batch, k, outcomes], q))
        .with("target_probs", real(&[batch, k + 1, outcomes], p))
        .with("draft_tokens", Tensor::new(&[batch, k], Data::I32(tokens)))
        .with("draft_lengths", Tensor::new(&[batch], Data::I32(vec![k as i32; batch])))
        .with("accept_u", real(&[batch, k], uniforms(batch * k)))
        .with("sample_u", real(&[batch], uniforms(batch)));
    (params, inputs)
}
