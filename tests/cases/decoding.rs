//! Random small cases of decoding several tokens a step.

use proptest::{prelude::*, sample::select};
use touchstone_reference::{
    Case,
    acceptance::{
        chain::Lengths,
        distributions::{Draws, Mass, Relation},
    },
    decoding::{
        block,
        topology::Shape,
        tree::{self, Drafts},
        typical,
    },
};

/// Operation and its cases: sizes crowd at 0, 1, a warp, and the 4 tokens of a 16-byte load.
pub fn strategies() -> Vec<(&'static str, BoxedStrategy<Case>)> {
    vec![
        ("decoding.tree", tree().boxed()),
        ("decoding.typical", typical().boxed()),
        ("decoding.block", block().boxed()),
    ]
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

/// Batch, nodes and vocabulary, and how the nodes hang together.
fn trees() -> impl Strategy<Value = (usize, usize, usize, Shape)> {
    let nodes = prop_oneof![4 => 1usize..10, 1 => 31usize..35];
    let shapes = [Shape::Chain, Shape::Star, Shape::Binary, Shape::Sparse, Shape::Dynamic];
    (0usize..5, nodes, vocabularies(), select(shapes.to_vec()))
}

fn tree() -> impl Strategy<Value = Case> {
    let drafts = select(vec![Drafts::Independent, Drafts::Distinct, Drafts::Top]);
    (trees(), drafts, laws(), 0u64..1000).prop_map(
        |((batch, nodes, vocab, shape), drafts, (mass, relation, draws), seed)| {
            let vocab = enough(vocab, relation);
            let params = tree::Params { batch, nodes, vocab, shape, drafts, mass, relation, draws };
            Case::new("decoding.tree", &params, seed)
        },
    )
}

fn typical() -> impl Strategy<Value = Case> {
    let thresholds = (select(vec![0.0, 0.09, 0.3, 1.0]), select(vec![0.0, 0.1, 0.3, 0.9]));
    (trees(), thresholds, laws(), 0u64..1000).prop_map(
        |((batch, nodes, vocab, shape), (epsilon, delta), (mass, relation, draws), seed)| {
            let vocab = enough(vocab, relation);
            let params = typical::Params {
                batch,
                nodes,
                vocab,
                shape,
                epsilon,
                delta,
                mass,
                relation,
                draws,
            };
            Case::new("decoding.typical", &params, seed)
        },
    )
}
