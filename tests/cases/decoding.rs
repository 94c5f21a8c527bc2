//! Random small cases of decoding several tokens a step.

use proptest::{prelude::*, sample::select};
use touchstone_reference::{
    Case,
    acceptance::{
        chain::Lengths,
        distributions::{Draws, Mass, Relation},
    },
    decoding::block,
};

/// Operation and its cases: sizes crowd at 0, 1, a warp, and the 4 tokens of a 16-byte load.
pub fn strategies() -> Vec<(&'static str, BoxedStrategy<Case>)> {
    vec![("decoding.block", block().boxed())]
}

fn vocabularies() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..40, 2 => 120usize..140, 1 => 4090usize..4100]
}

fn laws() -> impl Strategy<Value = (Mass, Relation, Draws)> {
    (
        select(vec![Mass::Flat, Mass::Zipf, Mass::Sparse, Mass::OneHot]),
        select(vec![Relation::Near, Relation::Far, Relation::Same, Relation::Disjoint]),
        select(vec![Draws::Fair, Draws::Adversarial]),
    )
}

/// Disjoint supports need two tokens.
fn enough(vocab: usize, relation: Relation) -> usize {
    if relation == Relation::Disjoint { vocab.max(2) } else { vocab }
}

fn block() -> impl Strategy<Value = Case> {
    let draft_lens = prop_oneof![4 => 0usize..5, 1 => 31usize..35];
    let lengths = select(vec![Lengths::Full, Lengths::Ragged]);
    ((0usize..6, draft_lens, vocabularies()), lengths, laws(), 0u64..1000).prop_map(
        |((batch, draft_len, vocab), lengths, (mass, relation, draws), seed)| {
            let vocab = enough(vocab, relation);
            let params = block::Params { batch, draft_len, vocab, lengths, mass, relation, draws };
            Case::new("decoding.block", &params, seed)
        },
    )
}
