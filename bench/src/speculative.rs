//! Speculative decoding as a whole: draft, verify, accept, and again, over n-gram models.
//!
//! A model of low order drafts, one of high order is the target whose law is emitted. Several ways to draft and accept go
//! through the same loop: a chain decided token by token, the same chain decided as a block, a tree of distinct guesses,
//! and a tree from heads that each look several tokens ahead, as Medusa's do, decided by rejection or typical acceptance.
//! What they accept is the references' doing.
//!
//! An n-gram model verifies a draft position by position: the gain of verifying them in one pass, which is what
//! speculative decoding lives by, is not its own. So two figures stand side by side: passes of the target, counted, and
//! the time of this machine, measured.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use touchstone_reference::{
    Algorithm, Data, Draw, Outputs, Tensor, Tensors,
    acceptance::chain::{Chain, Params as ChainParams},
    decoding::{
        block::Block,
        law,
        topology::{self, Shape, Topology},
        tree::{Drafts, Params as TreeParams, Tree, draft_tokens},
        typical::{Params as TypicalParams, Typical},
    },
    ngram,
};

use self::models::Heads;
pub use self::models::{Predictor, sampled};
use crate::gtest::g_test;

mod models;

/// How a step drafts and accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// No draft: a token of the target a step.
    Plain,
    /// A chain of the draft model's tokens, decided one by one.
    Chain,
    /// The same, decided as a whole.
    Block,
    /// A tree of distinct guesses of the draft model.
    Tree,
    /// A tree of the heads' most likely words.
    Heads,
    /// The same, by typical acceptance: the law is another.
    Typical,
}

impl Scheme {
    /// All of them, plain decoding first.
    pub const ALL: [Self; 6] =
        [Self::Plain, Self::Chain, Self::Block, Self::Tree, Self::Heads, Self::Typical];
}

/// Seconds of this machine. They differ from run to run and do not make two results different.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Seconds(pub f64);

impl PartialEq for Seconds {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What one scheme did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decoded {
    /// The scheme.
    pub scheme: Scheme,
    /// Draft tokens of a step.
    pub drafted: usize,
    /// Draft tokens that a step accepts at most.
    pub depth: usize,
    /// Steps taken, each one pass of the target over a row's draft.
    pub steps: usize,
    /// Tokens emitted.
    pub tokens: usize,
    /// Tokens of a step by the closed form: the mean over steps of the expectation given the drafted tokens. `None` where
    /// acceptance is not by chance.
    pub expected: Option<f64>,
    /// Standard error of the measured mean about the expected one.
    pub standard_error: f64,
    /// p-value of the calibrated test that what is emitted follows the target, token after token.
    pub law: f64,
    /// Mean total variation distance between the law of each emitted token, given what came before it, and the target's:
    /// zero where acceptance keeps the law, 1 − p of the token where nothing is left to chance.
    pub departure: f64,
    /// Time of the loop, models included, tests of the law not.
    pub seconds: Seconds,
}

impl Decoded {
    /// Tokens emitted in a step, on average.
    pub fn tokens_per_step(&self) -> f64 {
        self.tokens as f64 / self.steps.max(1) as f64
    }

    /// Share of the accepted tokens in the most that could be.
    pub fn acceptance(&self) -> f64 {
        (self.tokens - self.steps) as f64 / (self.steps * self.depth).max(1) as f64
    }

    /// Tokens a second on this machine.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.0
    }
}

/// Draft and target models over one vocabulary, and how far the drafts go.
#[derive(Clone, Debug)]
pub struct Speculation {
    draft: Predictor,
    target: Predictor,
    heads: Heads,
    vocab: usize,
    /// Tokens of a chain.
    draft_len: usize,
    tree: Topology,
    /// Factor on the uniforms of acceptance: 1, unless a test plants a fault.
    pub fault: f32,
}

/// Cells of the test of the law.
const CELLS: usize = 32;

impl Speculation {
    /// Models of order 2 and 3 trained on sentences over `vocab` words; chains of 4 tokens, trees of 12.
    pub fn train(sentences: &[Vec<u32>], vocab: usize) -> Self {
        let tree = Topology::draw(Shape::Sparse, 13, &mut Draw::new(0));
        Self {
            draft: Predictor::train(sentences, vocab, 2),
            target: Predictor::train(sentences, vocab, 3),
            heads: Heads::train(sentences, vocab, tree.depth()),
            vocab,
            draft_len: 4,
            tree,
            fault: 1.0,
        }
    }

    /// Outcomes of a distribution: words, `<unk>`, `</s>`.
    fn outcomes(&self) -> usize {
        self.vocab + 2
    }

    /// Continues every context by `scheme` for `steps` steps; seeded, so the same again but for the time. A first run is
    /// timed, a second one, the same to the token, is tested.
    pub fn run(&self, scheme: Scheme, contexts: &[Vec<u32>], steps: usize, seed: u64) -> Decoded {
        let decoder = |judge| Decoder {
            models: self.clone(),
            contexts: contexts.to_vec(),
            draw: Draw::new(seed),
            judge,
            places: Draw::new(seed ^ 1),
            counts: vec![0; CELLS],
            square: 0.0,
            expected: 0.0,
            departure: 0.0,
            tokens: 0,
        };
        let (mut timed, mut tested) = (decoder(false), decoder(true));
        let start = Instant::now();
        (0..steps).for_each(|_| timed.step(scheme));
        let seconds = Seconds(start.elapsed().as_secs_f64());
        (0..steps).for_each(|_| tested.step(scheme));
        assert_eq!(timed.contexts, tested.contexts, "the tested run is the timed one");
        let (drafted, depth) = match scheme {
            Scheme::Plain => (0, 0),
            Scheme::Chain | Scheme::Block => (self.draft_len, self.draft_len),
            _ => (self.tree.len() - 1, self.tree.depth()),
        };
        let steps = steps * contexts.len();
        let n = steps.max(1) as f64;
        let tokens = tested.tokens;
        let chance = scheme != Scheme::Typical;
        Decoded {
            scheme,
            drafted,
            depth,
            steps,
            tokens,
            expected: chance.then_some(1.0 + tested.expected / n),
            standard_error: if chance { tested.square.sqrt() / n } else { 0.0 },
            law: g_test(&tested.counts, &[1.0 / CELLS as f64; CELLS]),
            departure: if chance { 0.0 } else { tested.departure / tokens.max(1) as f64 },
            seconds,
        }
    }
}

/// The state of one run.
struct Decoder {
    models: Speculation,
    contexts: Vec<Vec<u32>>,
    draw: Draw,
    /// Whether the law is tested.
    judge: bool,
    /// Draws of the test.
    places: Draw,
    counts: Vec<u64>,
    /// Σ (accepted − expected)² over steps.
    square: f64,
    /// Σ of the accepted tokens expected.
    expected: f64,
    /// Σ (1 − p) over tokens.
    departure: f64,
    tokens: usize,
}

impl Decoder {
    fn step(&mut self, scheme: Scheme) {
        match scheme {
            Scheme::Plain => self.plain(),
            Scheme::Chain | Scheme::Block => self.chain(scheme),
            Scheme::Tree | Scheme::Heads | Scheme::Typical => self.tree(scheme),
        }
    }

    /// Uniforms on f32's grid, for acceptance times the planted fault.
    fn uniforms(&mut self, shape: &[usize], fault: f32) -> Tensor {
        let steps = (1 << 24) as f32;
        let one = |_| fault * self.draw.below(1 << 24) as f32 / steps;
        Tensor::new(shape, Data::F32((0..shape.iter().product()).map(one).collect()))
    }

    fn plain(&mut self) {
        for row in 0..self.contexts.len() {
            let u = self.draw.unit();
            let token = sampled(self.models.target.after(&self.contexts[row]), u);
            self.emit(row, &[token], 0.0);
        }
    }

    fn chain(&mut self, scheme: Scheme) {
        let (k, vocab, batch) =
            (self.models.draft_len, self.models.outcomes(), self.contexts.len());
        let (mut q, mut p, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        let mut expected = Vec::new();
        for row in 0..batch {
            let mut context = self.contexts[row].clone();
            let (mut kept, mut sum) = (1.0, 0.0);
            for _ in 0..k {
                let wanted = self.models.target.after(&context);
                p.extend_from_slice(wanted);
                let law = self.models.draft.after(&context);
                let token = sampled(law, self.draw.unit());
                q.extend_from_slice(law);
                tokens.push(token as i32);
                // Given the tokens a prefix is kept with the product of min(p/q, 1), or with b.
                let ratio = f64::from(wanted[token as usize]) / f64::from(law[token as usize]);
                let whole = scheme == Scheme::Block;
                kept = f64::min(kept * if whole { ratio } else { ratio.min(1.0) }, 1.0);
                sum += kept;
                context = self.models.extended(&context, token);
            }
            p.extend_from_slice(self.models.target.after(&context));
            expected.push(sum);
        }
        let params = ChainParams {
            batch,
            draft_len: k,
            vocab,
            mode: Default::default(),
            lengths: Default::default(),
            mass: Default::default(),
            relation: Default::default(),
            draws: Default::default(),
        };
        let fault = self.models.fault;
        let inputs = Tensors::new()
            .with("draft_probs", Tensor::new(&[batch, k, vocab], Data::F32(q)))
            .with("target_probs", Tensor::new(&[batch, k + 1, vocab], Data::F32(p)))
            .with("draft_tokens", Tensor::new(&[batch, k], Data::I32(tokens)))
            .with("draft_lengths", Tensor::new(&[batch], Data::I32(vec![k as i32; batch])))
            .with("accept_u", self.uniforms(&[batch, k], fault))
            .with("sample_u", self.uniforms(&[batch], 1.0));
        let outputs = match scheme {
            Scheme::Block => Block::reference(&params.into(), &inputs),
            _ => Chain::reference(&params, &inputs),
        };
        self.emit_all(&outputs, k + 1, &expected);
    }

    fn tree(&mut self, scheme: Scheme) {
        let tree = self.models.tree.clone();
        let (nodes, vocab, batch) = (tree.len(), self.models.outcomes(), self.contexts.len());
        let drafts = if scheme == Scheme::Tree { Drafts::Distinct } else { Drafts::Top };
        let mut laws = [Vec::new(), Vec::new()];
        let (mut tokens, mut expected) = (Vec::new(), Vec::new());
        for row in 0..batch {
            let (drawn, sum) = self.grow(row, &tree, drafts, &mut laws);
            tokens.extend(drawn);
            expected.push(sum);
        }
        let [q, p] = laws.map(|law| Tensor::new(&[batch, nodes, vocab], Data::F32(law)));
        let fault = self.models.fault;
        let mut inputs = Tensors::new()
            .with("draft_probs", q)
            .with("target_probs", p)
            .with("draft_tokens", Tensor::new(&[batch, nodes], Data::I32(tokens)))
            .with("accept_u", self.uniforms(&[batch, nodes], fault))
            .with("sample_u", self.uniforms(&[batch], 1.0));
        for (name, tensor) in topology::tensors(&vec![tree; batch], nodes).iter() {
            inputs.insert(name, tensor.clone());
        }
        let outputs = match scheme {
            Scheme::Typical => {
                let params = TypicalParams {
                    batch,
                    nodes,
                    vocab,
                    shape: Shape::Sparse,
                    epsilon: 0.09,
                    delta: 0.3,
                    mass: Default::default(),
                    relation: Default::default(),
                    draws: Default::default(),
                };
                Typical::reference(&params, &inputs)
            }
            _ => {
                let params = TreeParams {
                    batch,
                    nodes,
                    vocab,
                    shape: Shape::Sparse,
                    drafts,
                    mass: Default::default(),
                    relation: Default::default(),
                    draws: Default::default(),
                };
                Tree::reference(&params, &inputs)
            }
        };
        self.emit_all(&outputs, nodes, &expected);
    }

    /// Tokens of a row's tree, guessed by the draft model (`distinct`) or the heads (`top`), and the expected number of
    /// accepted ones given these. Both models' distributions after each node go behind `laws`, q and p.
    fn grow(
        &mut self,
        row: usize,
        tree: &Topology,
        drafts: Drafts,
        laws: &mut [Vec<f32>; 2],
    ) -> (Vec<i32>, f64) {
        let nodes = tree.len();
        let mut contexts = vec![self.contexts[row].clone(); nodes];
        let (mut reached, mut tokens, mut sum) = (vec![1.0; nodes], vec![-1; nodes], 0.0);
        for node in 0..nodes {
            let Speculation { draft, target, heads, vocab, .. } = &mut self.models;
            let (q, p) = (draft.after(&contexts[node]), target.after(&contexts[node]));
            let children: Vec<usize> = tree.children(node).collect();
            let drawn: Vec<i32> = if drafts == Drafts::Top {
                let distance = tree.path(node).len();
                heads.top(&contexts[0], *vocab, distance, children.len())
            } else {
                let draws = Default::default();
                let drawn = draft_tokens(drafts, draws, q, children.len(), &mut self.draw);
                drawn.into_iter().map(|token| token as i32).collect()
            };
            let chances = if self.judge { law::children(p, q, &drawn, drafts) } else { Vec::new() };
            laws[0].extend_from_slice(q);
            laws[1].extend_from_slice(p);
            for (i, (&child, &token)) in children.iter().zip(&drawn).enumerate() {
                tokens[child] = token;
                contexts[child] = self.models.extended(&contexts[node], token as u32);
                reached[child] = reached[node] * chances.get(i).unwrap_or(&0.0);
                sum += reached[child];
            }
        }
        (tokens, sum)
    }

    fn emit_all(&mut self, outputs: &Outputs, width: usize, expected: &[f64]) {
        let tokens = outputs.output("tokens").values();
        assert_eq!(tokens.len(), width * expected.len());
        for (row, (line, &expected)) in tokens.chunks(width).zip(expected).enumerate() {
            let emitted: Vec<u32> =
                line.iter().take_while(|&&t| t >= 0.0).map(|&t| t as u32).collect();
            self.emit(row, &emitted, expected);
        }
    }

    /// Takes up what row `row` emitted, of which `expected` draft tokens were to be accepted.
    fn emit(&mut self, row: usize, tokens: &[u32], expected: f64) {
        for &token in tokens {
            let context = std::mem::take(&mut self.contexts[row]);
            if self.judge {
                self.test(&context, token as usize);
            }
            self.contexts[row] = self.models.extended(&context, token);
        }
        self.tokens += tokens.len();
        self.expected += expected;
        self.square += (tokens.len() as f64 - 1.0 - expected).powi(2);
    }

    /// Notes where a token stands in the target's law.
    ///
    /// The outcomes are put in order of p/q, so that what acceptance gets wrong, it gets wrong at one end. The token then
    /// stands at a uniform place in the running sum of p if its law is p, whatever came before: Rosenblatt, *Remarks on a
    /// Multivariate Transformation*, 1952, with a draw within the token's own share.
    fn test(&mut self, context: &[u32], token: usize) {
        let Speculation { draft, target, .. } = &mut self.models;
        let (q, p) = (draft.after(context), target.after(context));
        let key = |t: usize| (p[t] / q[t].max(f32::MIN_POSITIVE), t);
        let (mut before, mut total) = (0.0, 0.0);
        for (t, &weight) in p.iter().enumerate() {
            total += f64::from(weight);
            if key(t) < key(token) {
                before += f64::from(weight);
            }
        }
        let place = (before + self.places.unit() * f64::from(p[token])) / total;
        self.counts[((place * CELLS as f64) as usize).min(CELLS - 1)] += 1;
        self.departure += 1.0 - f64::from(p[token]) / total;
    }
}

impl Speculation {
    /// A context with one more token: a sentence that ends is followed by the next one's beginning.
    fn extended(&self, context: &[u32], token: u32) -> Vec<u32> {
        /// More words than any of the models looks back.
        const KEPT: usize = 8;
        if token == ngram::eos(self.vocab) {
            return vec![ngram::bos(self.vocab)];
        }
        let kept = context.len().saturating_sub(KEPT);
        [&context[kept..], &[token]].concat()
    }
}
