//! Speculative decoding of a neural target: n-gram models and heads draft, a small Transformer trained on the same text
//! verifies a whole draft in one pass, which is the operation `decoding.verification`.
//!
//! The text is read character by character: some ten thousand words of a text are too few to learn words from, its
//! characters are not. The network's perplexity stands beside those of n-gram models of the same characters, so that a
//! reader sees what it has learned.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use touchstone_cuda::{
    Gpu,
    gpu::{self, Cache},
};
use touchstone_reference::{
    Case, Tensors,
    ngram::{self, Smoothing},
};

use self::{
    decoder::{Loop, Plan, Sequences},
    network::sizes,
    target::{OnDevice, Target},
};
use crate::{
    corpus::{self, Corpus, CorpusError, Vocabulary},
    speculative::{Decoded, Drafter, Judge, Scheme, Seconds, tree},
};

pub mod decoder;
pub mod network;
pub mod target;
pub mod training;

/// Values of a state, attention heads, values between the MLP's layers, layers.
const SIZES: [usize; 4] = [64, 4, 128, 1];
/// Tokens whose embeddings a state begins with.
const WINDOW: usize = 3;
/// Characters told apart: the most frequent ones.
const MAX_CHARACTERS: usize = 62;
/// Characters of a text that are used; the rest of a longer one is left out.
const MAX_TEXT: usize = 400_000;
/// Steps of training.
const TRAINING: usize = 400;
/// Order of the n-gram model that drafts.
const DRAFT_ORDER: usize = 3;
/// Sequences decoded side by side.
const ROWS: usize = 8;
/// Tokens in a cache at first, and at most.
const COMMITTED: usize = 32;
const SEQ_K: usize = 256;

/// How much is decoded.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Steps of a sequence; no more than its cache has room for.
    pub steps: usize,
    /// How often [`ROWS`] further sequences are begun.
    pub rounds: usize,
}

impl Effort {
    /// On a GPU: long enough for the test of the law to tell a few per cent.
    pub const GPU: Self = Self { steps: usize::MAX, rounds: 8 };
    /// By the reference: some seconds.
    pub const REFERENCE: Self = Self { steps: 24, rounds: 1 };
}

/// What was found on one corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neural {
    /// What verified: the device's name; `None`: the reference on the CPU.
    pub device: Option<String>,
    /// Outcomes of a distribution: characters, the unknown one, the end of a sentence.
    pub outcomes: usize,
    /// Characters trained on.
    pub trained: usize,
    /// Weights of the network.
    pub parameters: usize,
    /// Values of a state.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Steps of training, and the characters that each predicts.
    pub training: [usize; 2],
    /// Mean loss of a character in nats, over equal parts of the training in order.
    pub losses: Vec<f64>,
    /// Perplexity of the held-out characters by the network, ends of sentences counted.
    pub perplexity: f64,
    /// The same by Kneser–Ney models of the same characters: order and perplexity.
    pub ngrams: Vec<(usize, f64)>,
    /// Order of the one of them that drafts.
    pub draft_order: usize,
    /// Sequences decoded side by side.
    pub rows: usize,
    /// The schemes, plain decoding first.
    pub schemes: Vec<Verified>,
}

/// What one scheme did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// As over n-gram models.
    pub decoded: Decoded,
    /// Nodes of a pass and sequence, the root among them.
    pub nodes: usize,
    /// Passes, each over all sequences side by side.
    pub passes: usize,
    /// Time in passes, the way to the device and back included; the rest of the loop's time goes into drafts.
    pub in_passes: Seconds,
    /// The variant of `decoding.verification` whose kernels made the passes: on a GPU the faster one; `None`: the
    /// reference.
    pub variant: Option<String>,
    /// Time of one pass on the device alone, in a row of many.
    pub alone: Option<Seconds>,
    /// How far laws from the cache are from those without one, Σ|p − p′| at most.
    pub drift: f64,
}

/// A text of characters, split in two.
struct Text {
    vocabulary: Vocabulary,
    train: Vec<Vec<u32>>,
    held_out: Vec<Vec<u32>>,
}

impl Text {
    fn of(corpus: &Corpus) -> Result<Self, CorpusError> {
        let mut left = MAX_TEXT;
        let sentences = corpus.sentences().into_iter().map(|words| words.join(" "));
        let sentences: Vec<Vec<String>> = sentences
            .map(|text| text.chars().map(String::from).collect::<Vec<_>>())
            .take_while(|text| {
                let fits = text.len() <= left;
                left -= text.len().min(left);
                fits
            })
            .collect();
        let [train, held_out] = corpus::split(&sentences);
        let needed = WINDOW + COMMITTED + ROWS;
        let characters = |part: &[Vec<String>]| part.iter().map(Vec::len).sum::<usize>();
        if characters(&held_out) < needed || characters(&train) < needed {
            let found = format!("{} held-out characters", characters(&held_out));
            return Err(corpus.too_small(&found, &format!("{needed}")));
        }
        let vocabulary = Vocabulary::new(&train, 2, MAX_CHARACTERS);
        let [train, held_out] =
            [train, held_out].map(|part| part.iter().map(|s| vocabulary.ids(s)).collect());
        Ok(Self { vocabulary, train, held_out })
    }

    /// Sentences one behind the other, each between ends.
    fn stream(&self, sentences: &[Vec<u32>]) -> Vec<u32> {
        let end = [ngram::eos(self.vocabulary.len())];
        let ended = sentences.iter().flat_map(|sentence| [&sentence[..], &end].concat());
        // A place needs a window of tokens before it.
        [end; WINDOW].concat().into_iter().chain(ended).collect()
    }
}

/// A network trained on a text, with what drafts for it and held-out contexts to continue.
pub struct Trained {
    text: Text,
    training: training::Trained,
    drafter: Drafter,
}

impl Trained {
    /// Trains on a corpus; seeded, so the same text gives the same network.
    ///
    /// # Errors
    /// If the text is too small.
    pub fn on(corpus: &Corpus) -> Result<Self, CorpusError> {
        Self::for_steps(corpus, TRAINING)
    }

    /// The same in so many steps.
    ///
    /// # Errors
    /// If the text is too small.
    pub fn for_steps(corpus: &Corpus, steps: usize) -> Result<Self, CorpusError> {
        let text = Text::of(corpus)?;
        let vocab = text.vocabulary.len();
        let params = sizes(SIZES, [vocab + 2, WINDOW]);
        let training = training::train(&params, &text.stream(&text.train), steps);
        let drafter = Drafter::train(&text.train, vocab, DRAFT_ORDER, tree().depth());
        Ok(Self { text, training, drafter })
    }

    /// The sequences of a round, spread evenly over the held-out text.
    pub fn sequences(&self, round: usize, rounds: usize) -> Sequences {
        let stream = self.text.stream(&self.text.held_out);
        let length = WINDOW + COMMITTED;
        let (places, of) = (stream.len() - length, ROWS * rounds);
        let begin = |row: usize| (round * ROWS + row) * places / of;
        Sequences {
            network: self.training.network.clone(),
            drafter: self.drafter.clone(),
            streams: (0..ROWS).map(|row| stream[begin(row)..][..length].to_vec()).collect(),
            seq_k: SEQ_K,
        }
    }

    /// Real inputs for the kernels: the first pass over no draft and over a tree, each with its case.
    pub fn problems(&self) -> Vec<(Case, Tensors)> {
        let sequences = self.sequences(0, 1);
        [Scheme::Plain, Scheme::Tree].map(|s| sequences.problem(&Plan::of(s))).into()
    }

    /// Decodes by every scheme, verified by the reference. It gives the laws in any case, so the timed run is the tested
    /// one.
    ///
    /// # Errors
    /// None of its own.
    pub fn by_reference(&self, effort: Effort) -> anyhow::Result<Neural> {
        self.decode(None, effort, |sequences, plan, tally, (steps, seed)| {
            tally.round(sequences.by_reference(plan, seed), None, steps)
        })
    }

    /// Decodes by every scheme, verified on a GPU: a first run is timed, a second one, the same to the token, is tested.
    ///
    /// # Errors
    /// The driver's.
    pub fn on_gpu(&self, gpu: &Gpu, effort: Effort) -> anyhow::Result<Neural> {
        let alone = |prepared: &gpu::Prepared<'_>| {
            let mut samples = prepared.time(Cache::Warm, 15)?.samples_ns;
            samples.sort_by(f64::total_cmp);
            Ok(samples.get(samples.len() / 2).map(|ns| ns * 1e-9))
        };
        let name = gpu.properties().name.clone();
        self.decode(Some(name), effort, |sequences, plan, tally, (steps, seed)| {
            // The first round of a scheme chooses for all of them.
            if tally.variant.is_none() {
                let took = |tiled| -> anyhow::Result<f64> {
                    let cuda = sequences.stepping(plan, tiled)?;
                    Ok(alone(&gpu.prepare(&cuda)?)?.unwrap_or(f64::INFINITY))
                };
                let naive = took(false)?;
                let faster = if took(true)? < naive { "tiled" } else { "naive" };
                tally.variant = Some(faster.to_string());
            }
            let cuda = sequences.stepping(plan, tally.variant.as_deref() == Some("tiled"))?;
            let begun = || -> anyhow::Result<_> {
                Ok(Loop::new(sequences, plan, OnDevice::new(gpu.prepare(&cuda)?, alone), seed))
            };
            tally.round(begun()?, Some(begun()?), steps)
        })
    }

    /// Every scheme on the sequences of every round.
    fn decode(
        &self,
        device: Option<String>,
        effort: Effort,
        round: impl Fn(&Sequences, &Plan, &mut Tally, (usize, u64)) -> anyhow::Result<()>,
    ) -> anyhow::Result<Neural> {
        let scheme = |scheme| -> anyhow::Result<Verified> {
            let plan = Plan::of(scheme);
            let mut tally = Tally::default();
            for number in 0..effort.rounds {
                let sequences = self.sequences(number, effort.rounds);
                // The last pass is the one that the drift is measured by.
                let steps = effort.steps.min(sequences.room(&plan) - 1);
                // Uniforms of its own: the same ones in every round would make its tokens those of one draw.
                round(&sequences, &plan, &mut tally, (steps, SEED + number as u64))?;
            }
            Ok(tally.verified(&plan))
        };
        let network = &self.training.network;
        let held_out: Vec<Vec<u32>> =
            self.text.held_out.iter().map(|s| self.text.stream(std::slice::from_ref(s))).collect();
        let vocab = self.text.vocabulary.len();
        let of_order = |order| {
            let model = ngram::train(&self.text.train, vocab, order, Smoothing::KneserNey);
            (order, model.perplexity(&self.text.held_out).all)
        };
        Ok(Neural {
            device,
            outcomes: vocab + 2,
            trained: self.text.train.iter().map(|s| s.len() + 1).sum(),
            parameters: network.parameters(),
            hidden: network.params.hidden,
            layers: network.params.layers,
            training: [self.training.steps, self.training.predicted],
            losses: self.training.losses.clone(),
            perplexity: training::perplexity(network, &held_out, SEQ_K),
            ngrams: (1..=5).map(of_order).collect(),
            draft_order: DRAFT_ORDER,
            rows: ROWS,
            schemes: Plan::SCHEMES.into_iter().map(scheme).collect::<anyhow::Result<_>>()?,
        })
    }
}

/// Seed of every scheme's first round.
const SEED: u64 = 1;

/// What the rounds of a scheme add up to.
struct Tally {
    judge: Judge,
    passes: usize,
    seconds: f64,
    in_passes: f64,
    variant: Option<String>,
    alone: Option<f64>,
    drift: f64,
}

impl Default for Tally {
    fn default() -> Self {
        let judge = Judge::new(SEED ^ 1);
        Self {
            judge,
            passes: 0,
            seconds: 0.0,
            in_passes: 0.0,
            variant: None,
            alone: None,
            drift: 0.0,
        }
    }
}

impl Tally {
    /// Runs the loop that is tested, and the same again where it is timed apart.
    fn round<T: Target>(
        &mut self,
        mut tested: Loop<T>,
        timed: Option<Loop<T>>,
        steps: usize,
    ) -> anyhow::Result<()> {
        std::mem::swap(&mut self.judge, &mut tested.judge);
        let start = Instant::now();
        (0..steps).try_for_each(|_| tested.step(true))?;
        let mut took = (start.elapsed().as_secs_f64(), tested.passes);
        if let Some(mut timed) = timed {
            timed.drafts_like(&tested);
            let start = Instant::now();
            (0..steps).try_for_each(|_| timed.step(false))?;
            took = (start.elapsed().as_secs_f64(), timed.passes);
            anyhow::ensure!(timed.streams() == tested.streams(), "the tested run is another one");
            self.alone = timed.alone()?;
        }
        self.passes += steps;
        self.seconds += took.0;
        self.in_passes += took.1;
        std::mem::swap(&mut self.judge, &mut tested.judge);
        // To read sequences anew takes the reference longer than all the rest.
        if self.passes == steps {
            self.drift = tested.drift()?;
        }
        Ok(())
    }

    fn verified(&self, plan: &Plan) -> Verified {
        let size = [plan.tree.len() - 1, plan.tree.depth()];
        let steps = self.passes * ROWS;
        Verified {
            decoded: self.judge.decoded(plan.scheme, size, steps, Seconds(self.seconds)),
            nodes: plan.tree.len(),
            passes: self.passes,
            in_passes: Seconds(self.in_passes),
            variant: self.variant.clone(),
            alone: self.alone.map(Seconds),
            drift: self.drift,
        }
    }
}
