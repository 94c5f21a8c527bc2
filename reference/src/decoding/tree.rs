//! Rejection acceptance on a tree of candidates, with recursive residuals.

use serde::{Deserialize, Serialize};

use super::{
    outcome::{Lines, Outcome},
    residual::Residual,
    topology::{self, Shape, Topology},
};
use crate::{
    acceptance::{
        distributions::{
            Draws, Mass, Pairs, Relation, check_vocabulary, integers, reals, sampled, uniforms,
        },
        weights::Scalar,
    },
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Data, Tensor, Tensors},
};

/// How the children of a node come from the draft's distribution q there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drafts {
    /// Each drawn from q whatever the others are, so two may be equal (SpecInfer).
    #[default]
    Independent,
    /// Drawn one after another without replacement (recursive rejection sampling; Sequoia).
    Distinct,
    /// The most probable tokens, without chance (EAGLE-2, Medusa): the draft of each is certain.
    Top,
}

/// Parameters of [`Tree`].
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
    /// How children come from q.
    #[serde(default)]
    pub drafts: Drafts,
    /// Spread of each distribution's mass.
    #[serde(default)]
    pub mass: Mass,
    /// Relation of q to p.
    #[serde(default)]
    pub relation: Relation,
    /// Uniforms and draft tokens.
    #[serde(default)]
    pub draws: Draws,
}

/// Acceptance of one path of a candidate tree, then one more token, so that the emitted law is the target's.
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `draft_probs` | batch, nodes, vocab | f32 | q: the draft's distribution after each node, from which its children come |
/// | `target_probs` | batch, nodes, vocab | f32 | p: the target's distribution after each node |
/// | `draft_tokens` | batch, nodes | i32 | token of each node; −1 (not read) for the root and where there is no node |
/// | `parents` | batch, nodes | i32 | parent of each node, which precedes it; −1 for none |
/// | `first_child` | batch, nodes | i32 | first child of each node; −1 for none |
/// | `next_sibling` | batch, nodes | i32 | next child of the same parent; −1 for none |
/// | `accept_u` | batch, nodes | f32 | uniform in [0, 1), one per node |
/// | `sample_u` | batch | f32 | uniform in [0, 1), one per row |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `accepted` | batch | i32 | number a of accepted draft tokens |
/// | `path` | batch, nodes | i32 | node 0, the accepted nodes in order, then −1: a + 1 nodes |
/// | `tokens` | batch, nodes | i32 | the accepted tokens, one more token, then −1: a + 1 tokens |
///
/// From the root on, the children of the node reached are examined in order, with c = 0 and s = Q = 1 at first. Child
/// i with token t is accepted iff
///
/// (c + u_i·s)·q(t) < p(t),
///
/// and then its own children are examined; otherwise c ← c + s, with `drafts = distinct` also Q ← Q − q(t), and
/// s ← W / Q, where W = Σ_t w(t) is the mass of the residual w(t) = max(p(t) − c·q(t), 0). Where all children are
/// rejected or there are none, the further token is drawn with weights w (p at first, and where w is zero everywhere),
/// as [`crate::acceptance::chain::Chain`] draws.
///
/// This is recursive rejection in closed form. After i rejections the i-th draft's law is q_i (q itself, or q without
/// the tokens seen, divided by Q) and the residual is r_i = w / W; the rule accepts iff u·q_i(t) < r_i(t), and the next
/// residual max(r_i − q_i, 0) is proportional to max(p − (c + W/Q)·q, 0): one number c says it all. A token that was
/// rejected has w = 0 from then on, since p(t) ≤ (c + u·s)·q(t) ≤ (c + s)·q(t), so Q alone tells the two schemes apart.
/// Children after Q ≤ 2⁻²⁰ are rejected unread: rounding alone can have drawn them.
///
/// With `drafts = top` no chance has chosen a child, its q_i is 1 at its token: it is accepted iff u_i·W < w(t), where w
/// is p without the tokens rejected and W = 1 − Σ of their p. q is not read.
///
/// p and q are distributions: they sum to one within rounding, and W_0 = 1 is taken for granted. Given that children are drawn as `drafts` says, what is
/// emitted, continued by the target, has the target's law.
///
/// Q, and W with `top`, are chains of differences of doubles, the same everywhere; a token seen before is not taken away
/// twice. Otherwise W carries rounding from the second child on. A decision within that may go either way: the other outcomes are stated, and counted where taken.
///
/// Source: Miao et al., *SpecInfer*, 2024, algorithm 2 (`independent`); Jeon et al., *Recursive Speculative Decoding*,
/// 2024, and Chen et al., *Sequoia*, 2024 (`distinct`); Li et al., *EAGLE-2*, 2024 (`top`).
#[derive(Debug)]
pub struct Tree;

impl Algorithm for Tree {
    const NAME: &'static str = "decoding.tree";
    const SUMMARY: &'static str = "Tree acceptance: keep one path of a tree of candidates by recursive rejection, then \
         one token of the residual, so that the emitted law is the target's";
    const ITEMS: &'static str = "emitted tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        if params.nodes == 0 || params.nodes > i32::MAX as usize {
            return Err(format!("nodes={} must be in 1..2³¹: a tree has a root", params.nodes));
        }
        check_vocabulary(params.vocab, params.relation)
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let &Params { batch, nodes, vocab, .. } = params;
        let mut pairs = Pairs::new(params.mass, params.relation, vocab, draw);
        let (mut p, mut q) = (Vec::new(), Vec::new());
        for _ in 0..batch * nodes {
            pairs.next(draw, &mut p, &mut q);
        }
        let trees: Vec<Topology> =
            (0..batch).map(|_| Topology::draw(params.shape, nodes, draw)).collect();
        let mut tokens = vec![-1; batch * nodes];
        for (row, tree) in trees.iter().enumerate() {
            let q = |node: usize| &q[(row * nodes + node) * vocab..][..vocab];
            let own = &mut tokens[row * nodes..][..nodes];
            draft_tree(tree, (params.drafts, params.draws), q, own, draw);
        }
        inputs(params, &trees, [p, q], tokens, draw)
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        decide(params, inputs, reals(inputs, "target_probs"), &[])
    }

    /// A node whose first child is accepted costs three numbers. Each other node of the path reads its distributions
    /// once, 8·vocab bytes (4 without a draft: `top`, and a node without children), however many children it rejects;
    /// each rejected child is three operations a token (`top`: none but the first sum), the draw one more. 20 bytes a
    /// child examined, 12·nodes of trees and tokens, 8·nodes + 8 out and 4 of uniform in. Items: a + 1.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let (vocab, nodes) = (params.vocab as f64, params.nodes as f64);
        let top = params.drafts == Drafts::Top;
        let mut work = Work::default();
        for row in rows(params, inputs, reals(inputs, "target_probs"), &[]) {
            let path = row.outcomes(params.drafts).swap_remove(0).path;
            for (i, &node) in path.iter().enumerate() {
                let next = path.get(i + 1);
                let children: Vec<usize> = row.children(node).collect();
                let rejected = match next {
                    Some(next) => children.iter().position(|child| child == next).unwrap_or(0),
                    None => children.len(),
                } as f64;
                let examined = rejected + f64::from(next.is_some());
                let last = f64::from(next.is_none());
                let read = if rejected == 0.0 { last } else { 1.0 + f64::from(!top) };
                work.flops += (if top { last } else { 3.0 * rejected + last }) * vocab + examined;
                work.bytes += 4.0 * vocab * read + 20.0 * examined;
            }
            work.bytes += 20.0 * nodes + 12.0;
            work.items += path.len() as f64;
        }
        work
    }
}

/// Draws the token of each node of a tree but the root, from q after its parent.
pub(super) fn draft_tree<'q>(
    tree: &Topology,
    (drafts, draws): (Drafts, Draws),
    q: impl Fn(usize) -> &'q [f32],
    tokens: &mut [i32],
    draw: &mut Draw,
) {
    for node in 0..tree.len() {
        let children: Vec<usize> = tree.children(node).collect();
        let drawn = draft_tokens(drafts, draws, q(node), children.len(), draw);
        children.into_iter().zip(drawn).for_each(|(child, token)| tokens[child] = token as i32);
    }
}

/// The input tensors of a problem with these p and q; uniforms of nodes and rows are drawn.
fn inputs(
    params: &Params,
    trees: &[Topology],
    [p, q]: [Vec<f32>; 2],
    tokens: Vec<i32>,
    draw: &mut Draw,
) -> Tensors {
    let &Params { batch, nodes, vocab, .. } = params;
    let mut inputs = Tensors::new()
        .with("draft_probs", Tensor::new(&[batch, nodes, vocab], Data::F32(q)))
        .with("target_probs", Tensor::new(&[batch, nodes, vocab], Data::F32(p)))
        .with("draft_tokens", Tensor::new(&[batch, nodes], Data::I32(tokens)));
    for (name, tensor) in topology::tensors(trees, nodes).iter() {
        inputs.insert(name, tensor.clone());
    }
    inputs
        .with("accept_u", uniforms(&[batch, nodes], params.draws, draw))
        .with("sample_u", uniforms(&[batch], params.draws, draw))
}

/// What becomes of each row of a problem whose p is `target`, off by up to `errors` (none: not at all) where a kernel
/// computes it.
pub(super) fn decide(params: &Params, inputs: &Tensors, target: &[f32], errors: &[f64]) -> Outputs {
    let mut lines = Lines::new(params.batch, params.nodes);
    for row in rows(params, inputs, target, errors) {
        lines.push(&row.outcomes(params.drafts), row.tokens);
    }
    lines.outputs()
}

/// Tokens of `count` children of a node; with adversarial draws a quarter of them is any token.
pub fn draft_tokens(
    drafts: Drafts,
    draws: Draws,
    q: &[f32],
    count: usize,
    draw: &mut Draw,
) -> Vec<usize> {
    let mut left = q.to_vec();
    let mut one = |draw: &mut Draw| {
        let token = match drafts {
            Drafts::Top => crate::acceptance::distributions::argmax(&left),
            _ => sampled(&left, draw.unit()),
        };
        if drafts != Drafts::Independent && left.iter().filter(|&&q| q > 0.0).count() > 1 {
            left[token] = 0.0;
        }
        token
    };
    (0..count)
        .map(|_| {
            let token = one(draw);
            let any = draws == Draws::Adversarial && draw.below(4) == 0;
            if any { draw.below(q.len()) } else { token }
        })
        .collect()
}

/// What decides one row.
pub(super) struct Row<'a> {
    pub(super) tokens: &'a [i32],
    first_child: &'a [i32],
    next_sibling: &'a [i32],
    /// q after each node.
    draft: &'a [f32],
    /// p after each node.
    target: &'a [f32],
    /// How far a kernel's p may be from that; empty where p is given.
    errors: &'a [f64],
    accept_u: &'a [f32],
    sample_u: f32,
    vocab: usize,
}

/// The rows of a problem, in order.
fn rows<'a>(
    params: &Params,
    inputs: &'a Tensors,
    target: &'a [f32],
    errors: &'a [f64],
) -> impl Iterator<Item = Row<'a>> {
    let &Params { batch, nodes, vocab, .. } = params;
    let [draft, accept, sample] =
        ["draft_probs", "accept_u", "sample_u"].map(|name| reals(inputs, name));
    let [tokens, first, sibling] =
        ["draft_tokens", "first_child", "next_sibling"].map(|name| integers(inputs, name));
    (0..batch).map(move |row| Row {
        tokens: &tokens[row * nodes..][..nodes],
        first_child: &first[row * nodes..][..nodes],
        next_sibling: &sibling[row * nodes..][..nodes],
        draft: &draft[row * nodes * vocab..][..nodes * vocab],
        target: &target[row * nodes * vocab..][..nodes * vocab],
        errors: part(errors, row, nodes * vocab),
        accept_u: &accept[row * nodes..][..nodes],
        sample_u: sample[row],
        vocab,
    })
}

/// Part number `at` of `each` errors; none of none.
fn part(errors: &[f64], at: usize, each: usize) -> &[f64] {
    if errors.is_empty() { errors } else { &errors[at * each..][..each] }
}

/// Mass of q that must be left for a child to be examined.
const LEFT: f64 = 1.0 / (1u64 << 20) as f64;

impl<'a> Row<'a> {
    fn p(&self, node: usize) -> &'a [f32] {
        &self.target[node * self.vocab..][..self.vocab]
    }

    fn q(&self, node: usize) -> &'a [f32] {
        &self.draft[node * self.vocab..][..self.vocab]
    }

    /// Errors of p after a node.
    fn errors(&self, node: usize) -> &'a [f64] {
        part(self.errors, node, self.vocab)
    }

    pub(super) fn children(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        let some = |node: i32| usize::try_from(node).ok();
        std::iter::successors(some(self.first_child[node]), move |&child| {
            some(self.next_sibling[child])
        })
    }

    /// The exact outcome, then those that rounding may put in its place.
    fn outcomes(&self, drafts: Drafts) -> Vec<Outcome> {
        self.after(vec![0], drafts)
    }

    /// The same where `path` is accepted so far.
    fn after(&self, path: Vec<usize>, drafts: Drafts) -> Vec<Outcome> {
        let node = path[path.len() - 1];
        let mut rule = Rule::new(self.p(node), self.q(node), drafts);
        rule.errors = self.errors(node);
        let (mut all, mut decided) = (Vec::new(), false);
        for child in self.children(node) {
            let (u, token) = (f64::from(self.accept_u[child]), self.tokens[child]);
            let (lead, error) = rule.lead(u, token as usize);
            let (accepts, doubtful) = (lead > 0.0, lead.abs() < error);
            if accepts || doubtful {
                let ends = self.after([&path[..], &[child]].concat(), drafts);
                // The exact outcome stands first.
                let at = if accepts && !decided { 0 } else { all.len() };
                all.splice(at..at, ends);
                decided |= accepts;
            }
            if accepts && !doubtful {
                return all;
            }
            rule.reject(token);
        }
        let (token, others) = rule.residual().token(self.sample_u);
        all.insert(if decided { all.len() } else { 0 }, Outcome { path, token, others });
        all
    }
}

/// What decides the children of one node, as far as they are rejected.
struct Rule<'a> {
    p: &'a [f32],
    q: &'a [f32],
    /// Of p.
    errors: &'a [f64],
    drafts: Drafts,
    rejected: Vec<i32>,
    /// Q, or with `top` W: the mass that is left of q or p.
    left: f64,
    /// By how much W may be off.
    left_error: f64,
    c: Scalar,
    s: Scalar,
}

impl<'a> Rule<'a> {
    fn new(p: &'a [f32], q: &'a [f32], drafts: Drafts) -> Self {
        Self {
            p,
            q,
            errors: &[],
            drafts,
            rejected: Vec::new(),
            left: 1.0,
            left_error: 0.0,
            c: Scalar::ZERO,
            s: Scalar::ONE,
        }
    }

    /// By how much p of a token may be off.
    fn error(&self, token: usize) -> f64 {
        self.errors.get(token).copied().unwrap_or(0.0)
    }

    /// By how much a token passes at uniform `u`, and how far a kernel may be from that.
    fn lead(&self, u: f64, token: usize) -> (f64, f64) {
        let (p, q) = (f64::from(self.p[token]), f64::from(self.q[token]));
        let Self { drafts, rejected, left, left_error, c, s, .. } = self;
        let of_p = self.error(token);
        match drafts {
            Drafts::Top if rejected.contains(&(token as i32)) => (-1.0, 0.0),
            Drafts::Top => (p - u * left, of_p + u * left_error),
            _ if *left <= LEFT => (-1.0, 0.0),
            _ => (p - (c.value + u * s.value) * q, of_p + (c.error + u * s.error) * q),
        }
    }

    fn reject(&mut self, token: i32) {
        let seen = self.rejected.contains(&token);
        self.rejected.push(token);
        match self.drafts {
            Drafts::Top if seen => return,
            Drafts::Top => {
                self.left -= f64::from(self.p[token as usize]);
                self.left_error += self.error(token as usize);
                return;
            }
            // A child that was not read has rejected nothing.
            _ if self.left <= LEFT => return,
            Drafts::Distinct if !seen => self.left -= f64::from(self.q[token as usize]),
            Drafts::Distinct | Drafts::Independent => {}
        }
        self.c = Scalar { value: self.c.value + self.s.value, error: self.c.error + self.s.error };
        let mass = self.residual().mass();
        let value = mass.value / self.left;
        // The quotient rounds once more; second-order terms are below a hundredth.
        let error = 1.01 * (mass.error / self.left + DType::F32.unit_roundoff() * value);
        self.s = Scalar { value, error };
    }

    fn residual(&self) -> Residual<'a> {
        let exact = match self.drafts {
            Drafts::Top => Residual::without(self.p, &self.rejected),
            _ if self.rejected.is_empty() => Residual::without(self.p, &[]),
            _ => Residual::new(self.p, self.q, Scalar::ONE, self.c),
        };
        exact.with_errors(self.errors)
    }
}

/// A problem whose `batch` rows share their tree and distributions, which depend on a node's depth alone: draft tokens
/// and uniforms differ, so that what is emitted, continued by the target, are independent draws from
/// [`super::law::sequences`].
///
/// `target` is p [depth + 1][vocab], `draft` is q [depth][vocab], for a tree of `nodes` nodes no deeper than that.
pub fn repeated(
    (target, draft): (&[Vec<f32>], &[Vec<f32>]),
    (shape, nodes): (Shape, usize),
    drafts: Drafts,
    batch: usize,
    seed: u64,
) -> (Params, Tensors) {
    let params = Params {
        batch,
        nodes,
        vocab: target[0].len(),
        shape,
        drafts,
        mass: Mass::default(),
        relation: Relation::default(),
        draws: Draws::Fair,
    };
    let mut draw = Draw::new(seed);
    let tree = Topology::draw(shape, nodes, &mut draw);
    let depths: Vec<usize> = (0..nodes).map(|node| tree.path(node).len() - 1).collect();
    // After the deepest nodes nothing is drafted.
    let q_after = |node: usize| draft.get(depths[node]).unwrap_or(&target[depths[node]]);
    let p: Vec<f32> = depths.iter().flat_map(|&depth| target[depth].clone()).collect();
    let q: Vec<f32> = (0..nodes).flat_map(|node| q_after(node).clone()).collect();
    let mut tokens = vec![-1; batch * nodes];
    for row in tokens.chunks_mut(nodes) {
        draft_tree(&tree, (drafts, Draws::Fair), |node| q_after(node), row, &mut draw);
    }
    let laws = [p.repeat(batch), q.repeat(batch)];
    let inputs = inputs(&params, &vec![tree; batch], laws, tokens, &mut draw);
    (params, inputs)
}

/// Probabilities with which each child of a node is the one accepted, given their tokens, then that of none.
pub(super) fn chances(p: &[f32], q: &[f32], tokens: &[i32], drafts: Drafts) -> Vec<f64> {
    let mut rule = Rule::new(p, q, drafts);
    let (mut reached, mut chances) = (1.0, Vec::new());
    for &token in tokens {
        // The lead falls linearly in u, from `start` to `start − fall`.
        let start = rule.lead(0.0, token as usize).0;
        let fall = start - rule.lead(1.0, token as usize).0;
        let chance = if start <= 0.0 { 0.0 } else { (start / fall.max(start)).min(1.0) };
        chances.push(reached * chance);
        reached *= 1.0 - chance;
        rule.reject(token);
    }
    chances.push(reached);
    chances
}
