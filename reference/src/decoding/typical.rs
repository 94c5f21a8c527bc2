//! Typical acceptance on a tree of candidates: what is likely enough is kept, whatever the target's law.

use serde::{Deserialize, Serialize};

use super::{
    outcome::{Lines, Outcome},
    topology::{self, Shape, Topology},
    tree::{Drafts, draft_tokens},
};
use crate::{
    acceptance::distributions::{
        Draws, Mass, Pairs, Relation, argmax, band, check_vocabulary, integers, reals,
    },
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Data, Tensor, Tensors},
};

/// Parameters of [`Typical`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Rows: sequences decided at once.
    pub batch: usize,
    /// Nodes of a row's tree at most, the root among them.
    pub nodes: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// How the nodes hang together.
    #[serde(default)]
    pub shape: Shape,
    /// ε: a probability above it is always enough.
    #[serde(default = "epsilon")]
    pub epsilon: f64,
    /// δ: share of exp(−entropy) above which a probability is enough.
    #[serde(default = "delta")]
    pub delta: f64,
    /// Spread of each distribution's mass.
    #[serde(default)]
    pub mass: Mass,
    /// Relation of the draft's distribution to the target's.
    #[serde(default)]
    pub relation: Relation,
    /// Draft tokens.
    #[serde(default)]
    pub draws: Draws,
}

fn epsilon() -> f64 {
    0.09
}

fn delta() -> f64 {
    0.3
}

/// Typical acceptance of one path of a candidate tree, then the target's most probable token.
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `target_probs` | batch, nodes, vocab | f32 | p: the target's distribution after each node |
/// | `draft_tokens` | batch, nodes | i32 | token of each node; −1 (not read) for the root and where there is no node |
/// | `parents`, `first_child`, `next_sibling` | batch, nodes | i32 | as in [`super::tree::Tree`] |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `accepted` | batch | i32 | number a of accepted draft tokens |
/// | `path` | batch, nodes | i32 | node 0, the accepted nodes in order, then −1: a + 1 nodes |
/// | `tokens` | batch, nodes | i32 | the accepted tokens, one more token, then −1: a + 1 tokens |
///
/// A token t after a node with distribution p is typical iff p(t) > min(ε, δ·exp(−H(p))), H(p) = −Σ p·ln p in nats. A
/// node is accepted iff its token and those of all nodes between it and the root are typical. The path leads to the
/// deepest accepted node; among equally deep ones to that of the largest product of probabilities (of doubles,
/// multiplied from the root on), then of the lowest index. The further token is argmax p after it, the lowest index
/// among equals: chosen greedily, it is the root of the next step, accepted without condition, so that every step
/// emits a token.
///
/// There is no chance in it and the emitted law is not the target's: [`super::law`] and the report say by how much.
///
/// H carries a kernel's rounding, so a token within it of the threshold may be taken for typical or not: the other
/// outcomes are stated (of the first ten such nodes of a row), and counted where taken.
///
/// Source: Cai et al., *Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads*, 2024,
/// section 2.3.1; of its candidates the paper takes the one with the longest accepted prefix, its code the likeliest
/// of these.
#[derive(Debug)]
pub struct Typical;

impl Algorithm for Typical {
    const NAME: &'static str = "decoding.typical";
    const SUMMARY: &'static str = "Typical acceptance: keep the longest path of candidates that are likely enough for \
         the target's entropy, then its most probable token; the emitted law is another";
    const ITEMS: &'static str = "emitted tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        let Params { nodes, epsilon, delta, .. } = params;
        if *nodes == 0 || *nodes > i32::MAX as usize {
            return Err(format!("nodes={nodes} must be in 1..2³¹: a tree has a root"));
        }
        if !(0.0..=1.0).contains(epsilon) || !(0.0..1.0).contains(delta) {
            return Err(format!("epsilon={epsilon} must be in 0..=1 and delta={delta} in 0..1"));
        }
        check_vocabulary(params.vocab, params.relation)
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let &Params { batch, nodes, vocab, .. } = params;
        let mut pairs = Pairs::new(params.mass, params.relation, vocab, draw);
        let (mut p, mut tokens, mut trees) = (Vec::new(), vec![-1; batch * nodes], Vec::new());
        let mut q = Vec::new();
        for row in 0..batch {
            let tree = Topology::draw(params.shape, nodes, draw);
            for node in 0..nodes {
                q.clear();
                pairs.next(draw, &mut p, &mut q);
                let children: Vec<usize> =
                    if node < tree.len() { tree.children(node).collect() } else { Vec::new() };
                let drawn = draft_tokens(Drafts::Top, params.draws, &q, children.len(), draw);
                for (child, token) in children.into_iter().zip(drawn) {
                    tokens[row * nodes + child] = token as i32;
                }
            }
            trees.push(tree);
        }
        let mut inputs = Tensors::new()
            .with("target_probs", Tensor::new(&[batch, nodes, vocab], Data::F32(p)))
            .with("draft_tokens", Tensor::new(&[batch, nodes], Data::I32(tokens)));
        for (name, tensor) in topology::tensors(&trees, nodes).iter() {
            inputs.insert(name, tensor.clone());
        }
        inputs
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let mut lines = Lines::new(params.batch, params.nodes);
        for row in rows(params, inputs) {
            lines.push(&row.outcomes(params), row.tokens);
        }
        lines.outputs()
    }

    /// Each accepted node with children, the root among them, reads its distribution for the entropy, two operations
    /// and a logarithm a token; the last node of the path for its argmax, one. 16·nodes of trees and tokens in, 8·nodes
    /// + 4 out. Items: a + 1.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let (vocab, nodes) = (params.vocab as f64, params.nodes as f64);
        let mut work = Work::default();
        for row in rows(params, inputs) {
            let path = row.outcomes(params).swap_remove(0).path;
            let accepted = row.accepted(&row.leads(params));
            let inner = |&node: &usize| accepted[node] && row.parents.contains(&(node as i32));
            let entropies = (0..params.nodes).filter(inner).count() as f64;
            let last = path[path.len() - 1];
            let alone = if inner(&last) { 0.0 } else { 1.0 };
            work.flops += (3.0 * entropies + 1.0) * vocab;
            work.bytes += 4.0 * vocab * (entropies + alone) + 24.0 * nodes + 4.0;
            work.items += path.len() as f64;
        }
        work
    }
}

/// What decides one row.
struct Row<'a> {
    tokens: &'a [i32],
    parents: &'a [i32],
    /// p after each node.
    target: &'a [f32],
    vocab: usize,
}

fn rows<'a>(params: &Params, inputs: &'a Tensors) -> impl Iterator<Item = Row<'a>> {
    let &Params { batch, nodes, vocab, .. } = params;
    let target = reals(inputs, "target_probs");
    let [tokens, parents] = ["draft_tokens", "parents"].map(|name| integers(inputs, name));
    (0..batch).map(move |row| Row {
        tokens: &tokens[row * nodes..][..nodes],
        parents: &parents[row * nodes..][..nodes],
        target: &target[row * nodes * vocab..][..nodes * vocab],
        vocab,
    })
}

/// By how much a node's token is above its threshold, and how far a kernel may be from that; `None` for the root and
/// where there is no node.
type Lead = Option<(f64, f64)>;

/// Doubtful nodes of a row that are decided both ways.
const DOUBTS: usize = 10;

impl Row<'_> {
    fn p(&self, node: usize) -> &[f32] {
        &self.target[node * self.vocab..][..self.vocab]
    }

    /// The exact outcome, then those that rounding may put in its place.
    fn outcomes(&self, params: &Params) -> Vec<Outcome> {
        let leads = self.leads(params);
        let in_doubt = |lead: &Lead| lead.is_some_and(|(lead, error)| lead.abs() < error);
        let doubtful: Vec<usize> =
            (0..leads.len()).filter(|&node| in_doubt(&leads[node])).take(DOUBTS).collect();
        let mut all: Vec<Outcome> = Vec::new();
        for set in 0..1 << doubtful.len() {
            let mut turned = leads.clone();
            for (_, &node) in doubtful.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1) {
                turned[node] = turned[node].map(|(lead, error)| (-lead, error));
            }
            let outcome = self.outcome(&self.accepted(&turned));
            if !all.contains(&outcome) {
                all.push(outcome);
            }
        }
        all
    }

    /// [`Lead`] of every node.
    ///
    /// A kernel sums p·ln p in f32, a chain of n additions as [`band`] allows, with a logarithm off by 4u of the larger
    /// of itself and 1 (base 2), so H is off by (3·Σp + (n + 8)·H)·u, and exp(−H) relatively by as much.
    fn leads(&self, params: &Params) -> Vec<Lead> {
        let mut leads = vec![None; self.tokens.len()];
        for node in 0..self.tokens.len() {
            let children = || (0..leads.len()).filter(|&c| self.parents[c] == node as i32);
            if children().next().is_none() {
                continue;
            }
            let p = self.p(node);
            let (mut entropy, mut sum) = (0.0, 0.0);
            for p in p.iter().map(|&p| f64::from(p)).filter(|&p| p > 0.0) {
                entropy -= p * p.ln();
                sum += p;
            }
            let u = DType::F32.unit_roundoff();
            let of_entropy = u * (3.0 * sum + 8.0 * entropy) + 0.5 * band(self.vocab) * entropy;
            let share = params.delta * (-entropy).exp();
            let error = share * (1.01 * of_entropy + 1e-12);
            let error = if share - error < params.epsilon { error } else { 0.0 };
            for child in children().collect::<Vec<_>>() {
                let p = f64::from(p[self.tokens[child] as usize]);
                leads[child] = Some((p - share.min(params.epsilon), error));
            }
        }
        leads
    }

    /// Which nodes are accepted.
    fn accepted(&self, leads: &[Lead]) -> Vec<bool> {
        let mut accepted = vec![true];
        for (node, lead) in leads.iter().enumerate().skip(1) {
            let typical = lead.is_some_and(|(lead, _)| lead > 0.0);
            let parent = usize::try_from(self.parents[node]);
            accepted.push(typical && parent.is_ok_and(|parent| accepted[parent]));
        }
        accepted
    }

    fn outcome(&self, accepted: &[bool]) -> Outcome {
        // Of each node: its depth and the product of the probabilities on the way to it.
        let mut reached = vec![(0, 1.0)];
        let mut best = 0;
        for node in 1..self.tokens.len() {
            let Ok(parent) = usize::try_from(self.parents[node]) else {
                reached.push((0, 0.0));
                continue;
            };
            let (depth, product) = reached[parent];
            let p = f64::from(self.p(parent)[self.tokens[node] as usize]);
            reached.push((depth + 1, product * p));
            if accepted[node] && reached[node] > reached[best] {
                best = node;
            }
        }
        let above = |&node: &usize| usize::try_from(self.parents[node]).ok();
        let mut path: Vec<usize> = std::iter::successors(Some(best), above).collect();
        path.reverse();
        Outcome { path, token: argmax(self.p(best)) as i64, others: Vec::new() }
    }
}
