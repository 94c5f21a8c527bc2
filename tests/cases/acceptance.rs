//! Random small cases of speculative-sampling acceptance.

use proptest::{prelude::*, sample::select};
use touchstone_reference::{
    Case, DType,
    acceptance::{
        chain::{Draws, Lengths, Mass, Mode, Params, Relation},
        chain_logits::{self, Temperatures},
    },
};

/// Operation and its cases: sizes crowd at 0, 1, a warp, and the 4 tokens of a 16-byte load.
pub fn strategies() -> Vec<(&'static str, BoxedStrategy<Case>)> {
    vec![("acceptance.chain", chain().boxed()), ("acceptance.chain_logits", chain_logits().boxed())]
}

fn chain() -> impl Strategy<Value = Case> {
    let sizes = (
        0usize..6,
        prop_oneof![4 => 0usize..5, 1 => 31usize..35],
        prop_oneof![4 => 1usize..40, 2 => 120usize..140, 1 => 4090usize..4100],
    );
    let modes =
        (select(vec![Mode::Sample, Mode::Greedy]), select(vec![Lengths::Full, Lengths::Ragged]));
    (sizes, modes, laws(), 0u64..1000).prop_map(
        |((batch, draft_len, vocab), (mode, lengths), (mass, relation, draws), seed)| {
            let vocab = vocab.max(least(relation));
            let params = Params { batch, draft_len, vocab, mode, lengths, mass, relation, draws };
            Case::new("acceptance.chain", &params, seed)
        },
    )
}

fn laws() -> impl Strategy<Value = (Mass, Relation, Draws)> {
    (
        select(vec![Mass::Flat, Mass::Zipf, Mass::Sparse, Mass::OneHot]),
        select(vec![Relation::Near, Relation::Far, Relation::Same, Relation::Disjoint]),
        select(vec![Draws::Fair, Draws::Adversarial]),
    )
}

/// Tokens that a relation of two laws needs.
fn least(relation: Relation) -> usize {
    if relation == Relation::Disjoint { 2 } else { 1 }
}

/// Fewer tokens, for the naive variant takes two exponentials of doubles for each, one after another.
fn chain_logits() -> impl Strategy<Value = Case> {
    let sizes = (
        0usize..6,
        prop_oneof![4 => 0usize..5, 1 => 31usize..35],
        prop_oneof![4 => 1usize..40, 2 => 120usize..140, 1 => 1020usize..1030],
    );
    let temperatures = (
        prop_oneof![3 => Just(1.0), 2 => Just(0.7), 1 => Just(1.5), 1 => Just(0.0), 1 => Just(0.01), 1 => Just(100.0)],
        select(vec![Temperatures::Same, Temperatures::Mixed]),
    );
    let forms =
        (select(vec![Lengths::Full, Lengths::Ragged]), select(vec![DType::F32, DType::Bf16]));
    (sizes, temperatures, laws(), forms, 0u64..1000).prop_map(
        |((batch, draft_len, vocab), (temperature, temperatures), laws, (lengths, dtype), seed)| {
            let (mass, relation, draws) = laws;
            let vocab = vocab.max(least(relation));
            let temperatures = if temperature > 0.0 { temperatures } else { Temperatures::Same };
            let params = chain_logits::Params {
                batch,
                draft_len,
                vocab,
                temperature,
                temperatures,
                lengths,
                mass,
                relation,
                draws,
                dtype,
            };
            Case::new("acceptance.chain_logits", &params, seed)
        },
    )
}
