//! The loop: an n-gram model or heads draft, the network verifies in one pass, the pass accepts.

use std::time::Instant;

use touchstone_cuda::decoding::verification;
use touchstone_reference::{
    Algorithm, Case, DType, Data, Draw, Tensor, Tensors,
    decoding::{
        topology::{self, Shape, Topology},
        tree::Drafts,
        verification::{Params, Verification},
    },
    ngram,
};

use super::{
    network::Network,
    target::{Answer, ByReference, Seen, Target},
};
use crate::speculative::{Drafted, Drafter, Judge, Scheme, chain, expected, tree, uniforms};

/// How a scheme drafts for a target that verifies trees: a chain is a tree too, and so is no draft.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The scheme.
    pub scheme: Scheme,
    /// The tree of a step.
    pub tree: Topology,
    shape: Shape,
    drafts: Drafts,
}

impl Plan {
    /// Schemes that keep the target's law and are decided tree by tree; plain decoding first.
    pub const SCHEMES: [Scheme; 4] = [Scheme::Plain, Scheme::Chain, Scheme::Tree, Scheme::Heads];

    /// Of one of [`Plan::SCHEMES`].
    pub fn of(scheme: Scheme) -> Self {
        let (tree, shape, drafts) = match scheme {
            Scheme::Plain => {
                let root = Topology::draw(Shape::Chain, 1, &mut Draw::new(0));
                (root, Shape::Chain, Drafts::Independent)
            }
            Scheme::Chain => (chain(), Shape::Chain, Drafts::Independent),
            Scheme::Tree => (tree(), Shape::Sparse, Drafts::Distinct),
            _ => (tree(), Shape::Sparse, Drafts::Top),
        };
        Self { scheme, tree, shape, drafts }
    }
}

/// What is decoded: sequences behind real contexts, by a network, with drafts of n-grams.
#[derive(Clone, Debug)]
pub struct Sequences {
    /// The target.
    pub network: Network,
    /// What drafts.
    pub drafter: Drafter,
    /// Tokens so far of each sequence, all equally many.
    pub streams: Vec<Vec<u32>>,
    /// Tokens a cache has room for.
    pub seq_k: usize,
}

impl Sequences {
    /// The sizes of a pass.
    pub fn params(&self, plan: &Plan) -> Params {
        Params {
            batch: self.streams.len(),
            nodes: plan.tree.len(),
            seq_k: self.seq_k,
            tree: plan.shape,
            drafts: plan.drafts,
            ..self.network.params.clone()
        }
    }

    /// Steps that the caches have room for, whatever is accepted.
    pub fn room(&self, plan: &Plan) -> usize {
        (self.seq_k - self.committed()) / (plan.tree.depth() + 1)
    }

    /// Places of a stream but the last: their keys and values are in the cache. A place needs `window` tokens.
    fn committed(&self) -> usize {
        self.streams[0].len() - self.network.params.window
    }

    /// The first pass as a problem of its own: case and inputs, real ones all of them.
    pub fn problem(&self, plan: &Plan) -> (Case, Tensors) {
        let params = self.params(plan);
        let mut inputs = self.start(plan);
        let mut drafter = self.drafter.clone();
        let (drafts, _) = drafts(&params, plan, &mut drafter, &self.streams, &mut Draw::new(1));
        drafts.iter().for_each(|(name, tensor)| inputs.insert(name, tensor.clone()));
        (Case::new(Verification::NAME, &params, 0), inputs)
    }

    /// What stays between steps: weights, the trees' shape, the caches as the streams fill them; and drafts of nothing.
    pub fn start(&self, plan: &Plan) -> Tensors {
        let params = self.params(plan);
        let (whole, outputs) = self.read_anew();
        let mut inputs = self.network.tensors();
        let committed = self.committed();
        for (cache, name) in [("k_cache", "k_tree"), ("v_cache", "v_tree")] {
            let all = outputs.output(name).values();
            let mut values = vec![0.0; params.kept(self.seq_k).iter().product()];
            let rows = values.chunks_mut(self.seq_k * params.hidden);
            for (row, from) in rows.zip(all.chunks(whole.nodes * params.hidden)) {
                let from = &from[..committed * params.hidden];
                row.iter_mut().zip(from).for_each(|(to, &x)| *to = x as f32);
            }
            inputs.insert(cache, Tensor::new(&params.kept(self.seq_k), Data::F32(values)));
        }
        let lengths = vec![committed as i64; params.batch];
        inputs.insert("lengths", Tensor::from_integers(DType::I32, &[params.batch], &lengths));
        undrafted(&params, &plan.tree, inputs)
    }

    /// The streams read anew without a cache: a chain of all their places each.
    fn read_anew(&self) -> (Params, touchstone_reference::Outputs) {
        let nodes = self.committed() + 1;
        let chain = Topology::draw(Shape::Chain, nodes, &mut Draw::new(0));
        let params = Params {
            batch: self.streams.len(),
            nodes,
            seq_k: 0,
            tree: Shape::Chain,
            ..self.network.params.clone()
        };
        let mut inputs = undrafted(&params, &chain, self.network.tensors());
        let ids = self.streams.iter().flat_map(|stream| stream.windows(params.window));
        let ids = ids.flat_map(|seen| params.ids(seen.iter().rev().map(|&token| token as i32)));
        let shape = [params.batch, nodes, params.window];
        inputs.insert("ids", Tensor::new(&shape, Data::I32(ids.collect())));
        for cache in ["k_cache", "v_cache"] {
            inputs.insert(cache, Tensor::new(&params.kept(0), Data::F32(Vec::new())));
        }
        let lengths = vec![0; params.batch];
        inputs.insert("lengths", Tensor::from_integers(DType::I32, &[params.batch], &lengths));
        let outputs = Verification::reference(&params, &inputs);
        (params, outputs)
    }

    /// The target's law behind each stream, without a cache.
    fn laws(&self) -> Vec<Vec<f64>> {
        let (params, outputs) = self.read_anew();
        let laws = outputs.output("probs").values();
        let rows = laws.chunks(params.nodes * params.vocab);
        rows.map(|row| row[row.len() - params.vocab..].to_vec()).collect()
    }

    /// The plan that an executor runs step by step, by the kernels of `tiled` or of `naive`.
    ///
    /// # Errors
    /// If its kernels do not take these sizes.
    pub fn stepping(&self, plan: &Plan, tiled: bool) -> anyhow::Result<touchstone_cuda::Plan> {
        let case = Case::new(Verification::NAME, &self.params(plan), 0);
        Ok(verification::stepping(&case, &self.start(plan), tiled)?)
    }

    /// A loop in which the reference verifies.
    pub fn by_reference(&self, plan: &Plan, seed: u64) -> Loop<ByReference> {
        let target = ByReference::new(&self.params(plan), &self.start(plan));
        Loop::new(self, plan, target, seed)
    }
}

/// Inputs of a pass over a tree in which nothing is drafted yet.
fn undrafted(params: &Params, tree: &Topology, mut inputs: Tensors) -> Tensors {
    let Params { batch, nodes, vocab, window, .. } = *params;
    let zeros = |shape: &[usize]| vec![0.0; shape.iter().product()];
    for (name, shape) in [
        ("draft_probs", &[batch, nodes, vocab][..]),
        ("accept_u", &[batch, nodes]),
        ("sample_u", &[batch]),
    ] {
        inputs.insert(name, Tensor::new(shape, Data::F32(zeros(shape))));
    }
    for (name, shape) in [("draft_tokens", &[batch, nodes][..]), ("ids", &[batch, nodes, window])] {
        let none = vec![0; shape.iter().product()];
        inputs.insert(name, Tensor::new(shape, Data::I32(none)));
    }
    for (name, tensor) in topology::tensors(&vec![tree.clone(); batch], nodes).iter() {
        inputs.insert(name, tensor.clone());
    }
    inputs
}

/// What a step drafts behind the streams, and the inputs that say so.
fn drafts(
    params: &Params,
    plan: &Plan,
    drafter: &mut Drafter,
    streams: &[Vec<u32>],
    draw: &mut Draw,
) -> (Tensors, Vec<Drafted>) {
    let (batch, nodes) = (params.batch, params.nodes);
    let paths: Vec<Vec<usize>> = (0..nodes).map(|node| plan.tree.path(node)).collect();
    let (mut ids, mut tokens, mut q) = (Vec::new(), Vec::new(), Vec::new());
    let mut all = Vec::new();
    for stream in streams {
        let context = sentence(stream, params.vocab - 2);
        let drafted = drafter.grow(&context, &plan.tree, plan.drafts, draw);
        for path in &paths {
            let guessed = path[1..].iter().rev().map(|&node| drafted.tokens[node]);
            let committed = stream.iter().rev().map(|&token| token as i32);
            ids.extend(params.ids(guessed.chain(committed)));
        }
        tokens.extend_from_slice(&drafted.tokens);
        q.extend_from_slice(&drafted.laws);
        all.push(drafted);
    }
    let mut inputs = Tensors::new()
        .with("ids", Tensor::new(&[batch, nodes, params.window], Data::I32(ids)))
        .with("draft_tokens", Tensor::new(&[batch, nodes], Data::I32(tokens)))
        .with("accept_u", uniforms(draw, &[batch, nodes], 1.0))
        .with("sample_u", uniforms(draw, &[batch], 1.0));
    // What is not drawn from q is decided without it.
    if plan.drafts != Drafts::Top && nodes > 1 {
        inputs.insert("draft_probs", Tensor::new(&[batch, nodes, params.vocab], Data::F32(q)));
    }
    (inputs, all)
}

/// The sentence that a stream is in, as n-gram models take it: no longer than they look back.
fn sentence(stream: &[u32], vocab: usize) -> Vec<u32> {
    const KEPT: usize = 8;
    let begin = stream.iter().rposition(|&token| token == ngram::eos(vocab)).map_or(0, |at| at + 1);
    let kept = &stream[begin.max(stream.len().saturating_sub(KEPT))..];
    match begin {
        0 => kept.to_vec(),
        _ => [&[ngram::bos(vocab)], kept].concat(),
    }
}

/// Sequences that are read anew to find the drift.
const READ_ANEW: usize = 2;

/// One run of the loop.
pub struct Loop<T> {
    sequences: Sequences,
    plan: Plan,
    params: Params,
    target: T,
    draw: Draw,
    /// Seconds in passes of the target, the way there and back included.
    pub passes: f64,
    /// What is known of the law, where it is asked for.
    pub judge: Judge,
}

impl<T: Target> Loop<T> {
    /// Behind the sequences as they are; seeded.
    pub fn new(sequences: &Sequences, plan: &Plan, target: T, seed: u64) -> Self {
        Self {
            params: sequences.params(plan),
            sequences: sequences.clone(),
            plan: plan.clone(),
            target,
            draw: Draw::new(seed),
            passes: 0.0,
            judge: Judge::new(seed ^ 1),
        }
    }

    /// Drafts, verifies, and takes up what was accepted. `laws`: whether it is judged.
    ///
    /// # Errors
    /// The target's.
    pub fn step(&mut self, laws: bool) -> anyhow::Result<()> {
        let Sequences { drafter, streams, .. } = &mut self.sequences;
        let (inputs, drafted) = drafts(&self.params, &self.plan, drafter, streams, &mut self.draw);
        let start = Instant::now();
        let answer = self.target.pass(&inputs, laws)?;
        self.passes += start.elapsed().as_secs_f64();
        for (row, drafted) in drafted.iter().enumerate() {
            let tokens = self.emitted(&answer, row);
            if let (true, Some(seen)) = (laws, &answer.seen) {
                self.test(seen, row, drafted, &tokens);
            }
            self.sequences.streams[row].extend(tokens);
        }
        Ok(())
    }

    fn emitted(&self, answer: &Answer, row: usize) -> Vec<u32> {
        let nodes = self.params.nodes;
        let line = &answer.tokens[row * nodes..][..nodes];
        line.iter().take_while(|&&token| token >= 0).map(|&token| token as u32).collect()
    }

    fn test(&mut self, seen: &Seen, row: usize, drafted: &Drafted, tokens: &[u32]) {
        let (nodes, vocab) = (self.params.nodes, self.params.vocab);
        let laws = &seen.laws[row * nodes * vocab..][..nodes * vocab];
        for (&node, &token) in seen.path[row * nodes..].iter().zip(tokens) {
            let [p, q] = [laws, &drafted.laws].map(|all| &all[node as usize * vocab..][..vocab]);
            self.judge.token(p, q, token as usize);
        }
        let accepted = expected(&self.plan.tree, drafted, laws, self.plan.drafts);
        self.judge.step(tokens.len(), accepted);
    }

    /// Takes over what the draft model of another run has computed: its distributions would be a table, were they used
    /// for more than one run, and are no part of what is timed.
    pub fn drafts_like(&mut self, other: &Self) {
        self.sequences.drafter = other.sequences.drafter.clone();
    }

    /// The streams so far.
    pub fn streams(&self) -> &[Vec<u32>] {
        &self.sequences.streams
    }

    /// Time of a pass on the device alone.
    ///
    /// # Errors
    /// The target's.
    pub fn alone(&self) -> anyhow::Result<Option<f64>> {
        self.target.alone()
    }

    /// How far the laws of one more pass are from those of the streams read anew without a cache: Σ|p − p′| at most. What
    /// is wrong in the cache shows here. The pass is spent: the streams stay behind what the target has committed.
    ///
    /// # Errors
    /// The target's.
    pub fn drift(mut self) -> anyhow::Result<f64> {
        let Sequences { drafter, streams, .. } = &mut self.sequences;
        let (inputs, _) = drafts(&self.params, &self.plan, drafter, streams, &mut self.draw);
        let seen = self.target.pass(&inputs, true)?.seen.expect("laws were asked for");
        let (nodes, vocab) = (self.params.nodes, self.params.vocab);
        let mut most = 0.0f64;
        for row in 0..self.params.batch.min(READ_ANEW) {
            let alone = Sequences {
                streams: vec![self.sequences.streams[row].clone()],
                ..self.sequences.clone()
            };
            let law = &seen.laws[row * nodes * vocab..][..vocab];
            let right = &alone.laws()[0];
            let apart: f64 = law.iter().zip(right).map(|(p, q)| (f64::from(*p) - q).abs()).sum();
            most = most.max(apart);
        }
        Ok(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neural::network::sizes;

    /// What is trained is what verifies.
    #[test]
    fn the_reference_has_the_laws_that_the_training_sees() {
        let mut draw = Draw::new(7);
        let network = Network::drawn(&sizes([16, 2, 24, 2], [9, 3]), &mut draw);
        let sentences: Vec<Vec<u32>> =
            (0..8).map(|_| (0..6).map(|_| draw.below(7) as u32).collect()).collect();
        let stream: Vec<u32> = (0..20).map(|_| draw.below(9) as u32).collect();
        let sequences = Sequences {
            drafter: Drafter::train(&sentences, 7, 2, 1),
            streams: vec![stream.clone()],
            seq_k: 32,
            network,
        };
        let (params, outputs) = sequences.read_anew();
        let laws = outputs.output("probs").values();
        let targets = &stream[params.window..];
        let rows = laws.chunks(params.vocab).zip(targets);
        let right: f64 = rows.map(|(p, &target)| -p[target as usize].ln()).sum();
        let ours = sequences.network.loss(&stream);
        assert!((ours - right).abs() < 1e-4, "{ours} and {right}");
    }
}
