//! Random small cases of speculative-sampling acceptance.

use proptest::{prelude::*, sample::select};
use touchstone_reference::{
    Case,
    acceptance::chain::{Draws, Lengths, Mass, Mode, Params, Relation},
};

/// Operation and its cases: sizes crowd at 0, 1, a warp, and the 4 tokens of a 16-byte load.
pub fn strategies() -> Vec<(&'static str, BoxedStrategy<Case>)> {
    vec![("acceptance.chain", chain().boxed())]
}

fn chain() -> impl Strategy<Value = Case> {
    let sizes = (
        0usize..6,
        prop_oneof![4 => 0usize..5, 1 => 31usize..35],
        prop_oneof![4 => 1usize..40, 2 => 120usize..140, 1 => 4090usize..4100],
    );
    let laws = (
        select(vec![Mass::Flat, Mass::Zipf, Mass::Sparse, Mass::OneHot]),
        select(vec![Relation::Near, Relation::Far, Relation::Same, Relation::Disjoint]),
        select(vec![Draws::Fair, Draws::Adversarial]),
    );
    let modes =
        (select(vec![Mode::Sample, Mode::Greedy]), select(vec![Lengths::Full, Lengths::Ragged]));
    (sizes, modes, laws, 0u64..1000).prop_map(
        |((batch, draft_len, vocab), (mode, lengths), (mass, relation, draws), seed)| {
            let disjoint = relation == Relation::Disjoint;
            let vocab = if disjoint { vocab.max(2) } else { vocab };
            let params = Params { batch, draft_len, vocab, mode, lengths, mass, relation, draws };
            Case::new("acceptance.chain", &params, seed)
        },
    )
}
