//! Speculative decoding of held-out contexts: what the reference accepts of drafts, and every scheme as a whole.

use serde::{Deserialize, Serialize};
use touchstone_reference::{
    Algorithm, Case, Data, Draw, Tensor, Tensors,
    acceptance::chain::{Chain, Params as ChainParams},
    ngram,
};

use super::text::Text;
use crate::speculative::{Decoded, Predictor, Scheme, Speculation, sampled};

/// Order of the model that drafts.
const DRAFT_ORDER: usize = 2;
/// Order of the model whose law is emitted.
const TARGET_ORDER: usize = 3;
/// Tokens of a draft.
const DRAFT_LEN: usize = 4;
/// Probabilities computed for acceptance at most: the number of contexts follows from it.
const MAX_PROBABILITIES: usize = 4_000_000;

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

/// Continues held-out contexts by every scheme.
pub(super) fn speculation(text: &Text) -> Vec<Decoded> {
    /// Contexts continued side by side.
    const ROWS: usize = 8;
    /// Probabilities that one scheme computes about at most: trees of 13 nodes take the most of a step.
    const MOST: usize = 6_000_000;
    let outcomes = text.vocabulary.len() + 2;
    let steps = (MOST / (13 * ROWS * outcomes)).clamp(2, 60);
    let models = Speculation::train(&text.train, text.vocabulary.len());
    let contexts = text.contexts(ROWS);
    Scheme::ALL.map(|scheme| models.run(scheme, &contexts, steps, 1)).into()
}

/// Drafts with the bigram model from real contexts, and lets the reference accept against the target.
pub(super) fn acceptance(text: &Text) -> (Acceptance, (Case, Tensors)) {
    let outcomes = text.vocabulary.len() + 2;
    let steps = (MAX_PROBABILITIES / ((2 * DRAFT_LEN + 1) * outcomes)).clamp(8, 256);
    let contexts = text.contexts(steps);
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
