//! Block verification: a chain draft whose tokens are decided together, so that more of them are kept.

use serde::{Deserialize, Serialize};

use super::residual::Residual;
use crate::{
    acceptance::{
        chain::{self, Chain, Lengths, Mode, Row},
        distributions::{Draws, Mass, Relation},
        emitted::{Emitted, Ending},
        weights::Scalar,
    },
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Tensors},
};

/// Parameters of [`Block`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Rows: sequences decided at once.
    pub batch: usize,
    /// Draft tokens of a row at most (γ).
    pub draft_len: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Draft length of each row.
    #[serde(default)]
    pub lengths: Lengths,
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

impl Params {
    /// The chain acceptance that takes the same inputs.
    pub fn chain(&self) -> chain::Params {
        let &Self { batch, draft_len, vocab, lengths, mass, relation, draws } = self;
        chain::Params {
            batch,
            draft_len,
            vocab,
            mode: Mode::Sample,
            lengths,
            mass,
            relation,
            draws,
        }
    }
}

impl From<chain::Params> for Params {
    fn from(params: chain::Params) -> Self {
        let chain::Params { batch, draft_len, vocab, lengths, mass, relation, draws, .. } = params;
        Self { batch, draft_len, vocab, lengths, mass, relation, draws }
    }
}

/// Block verification of a chain draft. Inputs and outputs are those of [`Chain`] in mode `sample`.
///
/// Let n be the row's draft length, p_j and q_j the distributions of its position j, t_j its draft token, and
/// b_0 = 1, b_{j+1} = min(b_j·p_j(t_j) / q_j(t_j), 1), which is 0 where b_j·p_j(t_j) = 0 and 1 where q_j(t_j) is not
/// above it: the probability with which the first j + 1 tokens may be kept together. With
/// S_j = Σ_t max(b_j·p_j(t) − q_j(t), 0), a prefix of length j in 1..n is accepted iff
///
/// - u_{j−1}·(S_j + 1 − b_j) < S_j,
/// - u_{n−1} < b_n for j = n.
///
/// `accepted` is the longest accepted prefix a, 0 where none is: unlike in chain acceptance a prefix may be accepted
/// although a shorter one is not. The further token is drawn with weights p_n if a = n, max(b_a·p_a − q_a, 0)
/// otherwise (p_a where that is zero everywhere), as [`Chain`] draws. Rows must be distributions: they sum to one
/// within rounding.
///
/// Whatever is emitted, continued by the target, has the target's law; the expected `accepted` is the largest that any
/// rule with that law reaches, so no less than the chain's.
///
/// Every b is a chain of products and quotients of doubles, the same everywhere. S carries rounding, so a decision
/// within it may go either way: the other outcomes are stated, and counted where taken.
///
/// Source: Sun, Mendlovic, Leviathan, Aharoni, Ro, Beirami, Suresh, *Block Verification Accelerates Speculative
/// Decoding*, 2024 (arXiv 2403.10444), algorithm 2.
#[derive(Debug)]
pub struct Block;

impl Algorithm for Block {
    const NAME: &'static str = "decoding.block";
    const SUMMARY: &'static str = "Block verification: a chain draft decided as a whole, so that more tokens are kept \
         under the target's law";
    const ITEMS: &'static str = "emitted tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        Chain::validate(&params.chain())
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        Chain::inputs(&params.chain(), draw)
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let mut emitted = Emitted::new(params.batch, params.draft_len);
        for row in chain::rows(&params.chain(), inputs) {
            let ending = |count| {
                let (token, others) = further(&row, count);
                Ending { count, token, others }
            };
            let endings: Vec<Ending> = outcomes(&row).into_iter().map(ending).collect();
            emitted.push(&endings, row.tokens);
        }
        emitted.outputs()
    }

    /// The longest prefix is decided first, from three numbers a token; a shorter one takes p and q of its position,
    /// 8·vocab bytes and three operations a token, down to the one accepted, whose residual that is. A row that keeps
    /// all reads p once. 16 bytes a draft token, 8 of length and uniform in, 4·(draft_len + 2) out. Items: a + 1.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let vocab = params.vocab as f64;
        let mut work = Work::default();
        for row in chain::rows(&params.chain(), inputs) {
            let (n, count) = (row.tokens.len(), outcomes(&row)[0]);
            let rows = if count == n { 1.0 } else { 2.0 * (n - count) as f64 };
            work.flops += 1.5 * rows * vocab + 2.0 * n as f64;
            work.bytes +=
                4.0 * rows * vocab + 16.0 * n as f64 + 8.0 + 4.0 * (params.draft_len + 2) as f64;
            work.items += (count + 1) as f64;
        }
        work
    }
}

/// b_0 … b_n.
fn kept(row: &Row) -> Vec<f64> {
    let mut kept = vec![1.0];
    for (j, &token) in row.tokens.iter().enumerate() {
        let [p, q] = [row.p(j), row.q(j)].map(|law| f64::from(law[token as usize]));
        let share = kept[j] * p;
        kept.push(match share {
            0.0 => 0.0,
            share if share >= q => 1.0,
            share => share / q,
        });
    }
    kept
}

/// max(b·p − q, 0) at a position.
fn residual<'a>(row: &Row<'a>, position: usize, b: f64) -> Residual<'a> {
    let b = Scalar { value: b, error: 0.0 };
    Residual::new(row.p(position), row.q(position), b, Scalar::ONE)
}

/// The accepted length, then those that rounding may put in its place.
fn outcomes(row: &Row) -> Vec<usize> {
    let (n, b) = (row.tokens.len(), kept(row));
    // Lengths that may be the longest accepted one, and whether exact arithmetic accepts them.
    let mut candidates = Vec::new();
    for j in (0..=n).rev() {
        let (lead, error) = lead(row, j, &b);
        if lead > 0.0 || lead.abs() < error {
            candidates.push((j, lead > 0.0));
        }
        if lead >= error && lead > 0.0 {
            break;
        }
    }
    let first = candidates.iter().position(|&(_, accepts)| accepts).expect("length 0 is accepted");
    candidates.swap(0, first);
    candidates.into_iter().map(|(j, _)| j).collect()
}

/// By how much the uniform of prefix length `j` stays below what accepts it, and how far a kernel may be from that.
fn lead(row: &Row, j: usize, b: &[f64]) -> (f64, f64) {
    if j == 0 {
        return (1.0, 0.0);
    }
    let u = f64::from(row.accept_u[j - 1]);
    if j == row.tokens.len() {
        return (b[j] - u, 0.0);
    }
    let mass = residual(row, j, b[j]).mass();
    // A kernel decides in f64, whose own rounding matters where 1 − b is not exact.
    let own = if b[j] == 1.0 { 0.0 } else { 4.0 * DType::F64.unit_roundoff() };
    (mass.value - u * (mass.value + (1.0 - b[j])), mass.error + own)
}

/// The token after `count` accepted ones, and those that rounding may put in its place.
fn further(row: &Row, count: usize) -> (i64, Vec<i64>) {
    if count == row.tokens.len() {
        return Residual::without(row.p(count), &[]).token(row.sample_u);
    }
    residual(row, count, kept(row)[count]).token(row.sample_u)
}
