//! Random small cases of decoding several tokens a step.

use proptest::{prelude::*, sample::select};
use touchstone_reference::{
    Case, DType,
    acceptance::{
        chain::Lengths,
        distributions::{Draws, Mass, Relation},
    },
    attention,
    decoding::{
        block, medusa,
        mtp::{self, Scheme},
        topology::Shape,
        tree::{self, Drafts},
        tree_attention, typical, verification,
    },
};

/// Operation and its cases: sizes crowd at 0, 1, a warp, and the 4 tokens of a 16-byte load.
pub fn strategies() -> Vec<(&'static str, BoxedStrategy<Case>)> {
    vec![
        ("decoding.tree", tree().boxed()),
        ("decoding.typical", typical().boxed()),
        ("decoding.block", block().boxed()),
        ("decoding.medusa", medusa().boxed()),
        ("decoding.mtp", mtp().boxed()),
        ("decoding.tree_attention", tree_attention().boxed()),
        ("decoding.verification", verification().boxed()),
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

/// Sizes of hidden states: any few, whole 16-byte words, and about the depth of a tile.
fn hidden() -> impl Strategy<Value = usize> {
    prop_oneof![2 => 1usize..20, 3 => (1usize..12).prop_map(|n| 8 * n), 1 => 126usize..131]
}

fn medusa() -> impl Strategy<Value = Case> {
    let vocab = prop_oneof![3 => 1usize..40, 2 => 120usize..140, 1 => 510usize..515];
    let tokens = prop_oneof![4 => 0usize..10, 1 => 63usize..67, 1 => 127usize..131];
    let dtype = select(vec![DType::F32, DType::Bf16]);
    (tokens, hidden(), vocab, 1usize..4, 0usize..12, dtype, 0u64..1000).prop_map(
        |(tokens, hidden, vocab, heads, top_k, dtype, seed)| {
            let top_k = top_k.min(vocab);
            let params = medusa::Params { tokens, hidden, vocab, heads, top_k, dtype };
            Case::new("decoding.medusa", &params, seed)
        },
    )
}

fn mtp() -> impl Strategy<Value = Case> {
    let scheme = select(vec![Scheme::Parallel, Scheme::Sequential]);
    let lengths = prop_oneof![4 => 1usize..12, 1 => 30usize..36];
    let heads = (1usize..4, prop_oneof![1 => 1usize..9, 2 => select(vec![4usize, 8, 16])]);
    let ffn = prop_oneof![1 => 1usize..40, 2 => (1usize..10).prop_map(|n| 4 * n)];
    let wide = (ffn, prop_oneof![3 => 2usize..50, 1 => 125usize..140]);
    (scheme, 1usize..3, lengths, heads, wide, 1usize..3, 0u64..1000).prop_map(
        |(scheme, batch, seq_len, (heads, dim), (ffn, vocab), depth, seed)| {
            let params = mtp::Params {
                scheme,
                batch,
                seq_len,
                hidden: heads * dim,
                heads,
                ffn,
                vocab,
                depth,
                lambda: 0.3,
                dtype: DType::F32,
            };
            Case::new("decoding.mtp", &params, seed)
        },
    )
}

fn tree_attention() -> impl Strategy<Value = Case> {
    let trees = select(vec![
        tree_attention::Shape::Chain,
        tree_attention::Shape::Star,
        tree_attention::Shape::Random,
        tree_attention::Shape::Medusa,
    ]);
    let nodes = prop_oneof![4 => 0usize..20, 2 => 62usize..67, 1 => 126usize..131];
    let keys = prop_oneof![3 => 0usize..70, 1 => 126usize..131, 1 => 200usize..500];
    let heads = (1usize..3, select(vec![1usize, 2, 4, 5]));
    let dim = prop_oneof![3 => select(vec![32usize, 64, 128]), 1 => (1usize..17).prop_map(|n| 8 * n), 1 => 1usize..80];
    let kind = (
        select(vec![attention::Lengths::Full, attention::Lengths::Ragged]),
        select(vec![1.0, 1.0, 0.01, 4.0]),
    );
    let dtype = select(vec![DType::F32, DType::F16, DType::Bf16]);
    ((0usize..3, nodes, keys), heads, dim, trees, kind, dtype, 0u64..1000).prop_map(
        |((batch, nodes, seq_k), (kv, group), head_dim, tree, (lengths, sd), dtype, seed)| {
            let params = tree_attention::Params {
                batch,
                nodes,
                seq_k,
                heads_q: kv * group,
                heads_kv: kv,
                head_dim,
                tree,
                lengths,
                scale: None,
                sd,
                dtype,
            };
            Case::new("decoding.tree_attention", &params, seed)
        },
    )
}

fn verification() -> impl Strategy<Value = Case> {
    let shapes = [Shape::Chain, Shape::Star, Shape::Binary, Shape::Sparse, Shape::Dynamic];
    let drafts = select(vec![Drafts::Independent, Drafts::Distinct, Drafts::Top]);
    let nodes = prop_oneof![4 => 1usize..10, 1 => 31usize..35];
    let keys = prop_oneof![3 => 0usize..40, 1 => 63usize..67];
    let heads = (1usize..4, prop_oneof![1 => 1usize..9, 2 => select(vec![4usize, 8, 16])]);
    let ffn = prop_oneof![1 => 1usize..40, 2 => (1usize..10).prop_map(|n| 4 * n)];
    let vocab = prop_oneof![3 => 2usize..50, 1 => 125usize..140];
    let kind = (
        select(shapes.to_vec()),
        drafts,
        select(vec![attention::Lengths::Full, attention::Lengths::Ragged]),
    );
    let sizes = (ffn, 1usize..3, vocab, 1usize..5);
    ((0usize..4, nodes, keys), heads, sizes, kind, 0u64..1000).prop_map(
        |((batch, nodes, seq_k), (heads, dim), (ffn, layers, vocab, window), kind, seed)| {
            let (tree, drafts, lengths) = kind;
            let params = verification::Params {
                batch,
                nodes,
                seq_k,
                hidden: heads * dim,
                heads,
                ffn,
                layers,
                vocab,
                window,
                tree,
                drafts,
                lengths,
                dtype: DType::F32,
            };
            Case::new("decoding.verification", &params, seed)
        },
    )
}
