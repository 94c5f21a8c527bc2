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
        topology::{self, Shape, Topology},
        tree::{Drafts, Params as TreeParams, Tree},
        typical::{Params as TypicalParams, Typical},
    },
};

pub use self::{
    drafter::{Drafted, Drafter},
    judge::{Judge, expected},
    models::{Predictor, sampled},
};

mod drafter;
mod judge;
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
    drafter: Drafter,
    target: Predictor,
    chain: Topology,
    tree: Topology,
    /// Factor on the uniforms of acceptance: 1, unless a test plants a fault.
    pub fault: f32,
}

/// Tokens of a chain.
pub const CHAIN: usize = 4;

/// A chain of drafts behind its root.
pub fn chain() -> Topology {
    Topology::draw(Shape::Chain, 1 + CHAIN, &mut Draw::new(0))
}

/// The tree of drafts: 12 of them.
pub fn tree() -> Topology {
    Topology::draw(Shape::Sparse, 13, &mut Draw::new(0))
}

impl Speculation {
    /// Models of order 2 and 3 trained on sentences over `vocab` words.
    pub fn train(sentences: &[Vec<u32>], vocab: usize) -> Self {
        let tree = tree();
        Self {
            drafter: Drafter::train(sentences, vocab, 2, tree.depth()),
            target: Predictor::train(sentences, vocab, 3),
            chain: chain(),
            tree,
            fault: 1.0,
        }
    }

    /// Continues every context by `scheme` for `steps` steps; seeded, so the same again but for the time. A first run is
    /// timed, a second one, the same to the token, is tested.
    pub fn run(&self, scheme: Scheme, contexts: &[Vec<u32>], steps: usize, seed: u64) -> Decoded {
        let decoder = |judges| Decoder {
            models: self.clone(),
            contexts: contexts.to_vec(),
            draw: Draw::new(seed),
            judges,
            judge: Judge::new(seed ^ 1),
        };
        let (mut timed, mut tested) = (decoder(false), decoder(true));
        let start = Instant::now();
        (0..steps).for_each(|_| timed.step(scheme));
        let seconds = Seconds(start.elapsed().as_secs_f64());
        (0..steps).for_each(|_| tested.step(scheme));
        assert_eq!(timed.contexts, tested.contexts, "the tested run is the timed one");
        let size = match scheme {
            Scheme::Plain => [0, 0],
            Scheme::Chain | Scheme::Block => [CHAIN, CHAIN],
            _ => [self.tree.len() - 1, self.tree.depth()],
        };
        tested.judge.decoded(scheme, size, steps * contexts.len(), seconds)
    }
}

/// The state of one run.
struct Decoder {
    models: Speculation,
    contexts: Vec<Vec<u32>>,
    draw: Draw,
    /// Whether the law is tested.
    judges: bool,
    judge: Judge,
}

/// Uniforms on f32's grid, times a planted fault.
pub fn uniforms(draw: &mut Draw, shape: &[usize], fault: f32) -> Tensor {
    let steps = (1 << 24) as f32;
    let one = |_| fault * draw.below(1 << 24) as f32 / steps;
    Tensor::new(shape, Data::F32((0..shape.iter().product()).map(one).collect()))
}

impl Decoder {
    fn step(&mut self, scheme: Scheme) {
        match scheme {
            Scheme::Plain => self.plain(),
            Scheme::Chain | Scheme::Block => self.chain(scheme),
            Scheme::Tree | Scheme::Heads | Scheme::Typical => self.tree(scheme),
        }
    }

    fn plain(&mut self) {
        for row in 0..self.contexts.len() {
            let u = self.draw.unit();
            let token = sampled(self.models.target.after(&self.contexts[row]), u);
            self.emit(row, &[token], 0.0);
        }
    }

    /// What is drafted behind a row's context, and the target's distribution after each node.
    fn draft(&mut self, row: usize, tree: &Topology, drafts: Drafts) -> (Drafted, Vec<f32>) {
        let Speculation { drafter, target, .. } = &mut self.models;
        let drafted = drafter.grow(&self.contexts[row], tree, drafts, &mut self.draw);
        let mut p = Vec::with_capacity(drafted.laws.len());
        drafted.contexts.iter().for_each(|context| p.extend_from_slice(target.after(context)));
        (drafted, p)
    }

    fn chain(&mut self, scheme: Scheme) {
        let (k, vocab, batch) = (CHAIN, self.models.drafter.outcomes(), self.contexts.len());
        let chain = self.models.chain.clone();
        let (mut q, mut p, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        let mut expected = Vec::new();
        for row in 0..batch {
            let (drafted, wanted) = self.draft(row, &chain, Drafts::Independent);
            // Given the tokens a prefix is kept with the product of min(p/q, 1), or with b.
            let (mut kept, mut sum) = (1.0, 0.0);
            for (i, &token) in drafted.tokens[1..].iter().enumerate() {
                let at = i * vocab + token as usize;
                let ratio = f64::from(wanted[at]) / f64::from(drafted.laws[at]);
                let whole = scheme == Scheme::Block;
                kept = f64::min(kept * if whole { ratio } else { ratio.min(1.0) }, 1.0);
                sum += kept;
            }
            q.extend_from_slice(&drafted.laws[..k * vocab]);
            p.extend(wanted);
            tokens.extend_from_slice(&drafted.tokens[1..]);
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
            .with("accept_u", uniforms(&mut self.draw, &[batch, k], fault))
            .with("sample_u", uniforms(&mut self.draw, &[batch], 1.0));
        let outputs = match scheme {
            Scheme::Block => Block::reference(&params.into(), &inputs),
            _ => Chain::reference(&params, &inputs),
        };
        self.emit_all(&outputs, k + 1, &expected);
    }

    fn tree(&mut self, scheme: Scheme) {
        let tree = self.models.tree.clone();
        let (nodes, vocab, batch) =
            (tree.len(), self.models.drafter.outcomes(), self.contexts.len());
        let drafts = if scheme == Scheme::Tree { Drafts::Distinct } else { Drafts::Top };
        let (mut q, mut p, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        let mut sums = Vec::new();
        for row in 0..batch {
            let (drafted, wanted) = self.draft(row, &tree, drafts);
            let judges = self.judges;
            sums.push(if judges { expected(&tree, &drafted, &wanted, drafts) } else { 0.0 });
            tokens.extend(drafted.tokens);
            q.extend(drafted.laws);
            p.extend(wanted);
        }
        let [q, p] = [q, p].map(|law| Tensor::new(&[batch, nodes, vocab], Data::F32(law)));
        let fault = self.models.fault;
        let mut inputs = Tensors::new()
            .with("draft_probs", q)
            .with("target_probs", p)
            .with("draft_tokens", Tensor::new(&[batch, nodes], Data::I32(tokens)))
            .with("accept_u", uniforms(&mut self.draw, &[batch, nodes], fault))
            .with("sample_u", uniforms(&mut self.draw, &[batch], 1.0));
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
        self.emit_all(&outputs, nodes, &sums);
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
        let Speculation { drafter, target, .. } = &mut self.models;
        for &token in tokens {
            let context = &self.contexts[row];
            if self.judges {
                self.judge.token(target.after(context), drafter.after(context), token as usize);
            }
            self.contexts[row] = drafter.extended(context, token);
        }
        self.judge.step(tokens.len(), expected);
    }
}
