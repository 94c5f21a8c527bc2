//! Random small cases of the embedding operations.

use proptest::{bool, prelude::*, sample::select};
use touchstone_reference::{
    Case, DType,
    embedding::{
        Index, Pattern, Storage, backward,
        bag::{self, Lengths, Mode},
        gather, word2vec,
    },
};

/// Operation and its cases: columns crowd at the words of 4 and 16 bytes and the 32 lanes that share a row,
/// counts at 0, 1, a warp, and the chunks and tiles of the sorted sums.
pub fn strategies() -> Vec<(&'static str, BoxedStrategy<Case>)> {
    vec![
        ("embedding.gather", gather().boxed()),
        ("embedding.bag", bag().boxed()),
        ("embedding.backward", backward().boxed()),
        ("embedding.word2vec", word2vec().boxed()),
    ]
}

/// Columns: any few, or whole 16-byte words of some or every type.
fn dims() -> impl Strategy<Value = usize> {
    prop_oneof![
        3 => 1usize..40,
        3 => (1usize..10).prop_map(|n| 4 * n),
        3 => (1usize..6).prop_map(|n| 16 * n),
        1 => (30usize..36).prop_map(|n| 4 * n),
    ]
}

fn storages() -> impl Strategy<Value = Storage> {
    select(vec![Storage::F32, Storage::F16, Storage::Bf16, Storage::Int8])
}

fn patterns() -> impl Strategy<Value = Pattern> {
    select(vec![Pattern::Uniform, Pattern::Zipf])
}

fn gather() -> impl Strategy<Value = Case> {
    let sizes = (1usize..60, dims(), prop_oneof![0usize..5, 30usize..35, 126usize..131]);
    let index = select(vec![Index::I32, Index::I64]);
    (sizes, storages(), index, patterns(), bool::ANY, 0u64..1000).prop_map(
        |((vocab, dim, tokens), table, index, pattern, padding, seed)| {
            let params = gather::Params { vocab, dim, tokens, table, index, pattern, padding };
            Case::new("embedding.gather", &params, seed)
        },
    )
}

fn bag() -> impl Strategy<Value = Case> {
    let sizes = (1usize..60, dims(), 0usize..10, prop_oneof![0usize..10, 30usize..36]);
    let modes = select(vec![
        (Mode::Sum, false),
        (Mode::Sum, true),
        (Mode::Mean, false),
        (Mode::Max, false),
    ]);
    let lengths = select(vec![Lengths::Fixed, Lengths::Ragged]);
    (sizes, modes, lengths, storages(), patterns(), 0u64..1000).prop_map(
        |((vocab, dim, bags, bag_size), (mode, weighted), lengths, table, pattern, seed)| {
            let params =
                bag::Params { vocab, dim, bags, bag_size, lengths, mode, weighted, table, pattern };
            Case::new("embedding.bag", &params, seed)
        },
    )
}

fn backward() -> impl Strategy<Value = Case> {
    let tokens =
        prop_oneof![3 => 0usize..5, 3 => 62usize..67, 2 => 500usize..600, 1 => 4094usize..4099];
    let vocab = prop_oneof![3 => 1usize..20, 1 => 250usize..260];
    let dtype = select(vec![DType::F32, DType::F16, DType::Bf16]);
    (vocab, dims(), tokens, dtype, patterns(), 0u64..1000).prop_map(
        |(vocab, dim, tokens, dtype, pattern, seed)| {
            let params = backward::Params { vocab, dim, tokens, dtype, pattern };
            Case::new("embedding.backward", &params, seed)
        },
    )
}

fn word2vec() -> impl Strategy<Value = Case> {
    let sizes = (1usize..80, dims(), prop_oneof![0usize..5, 30usize..70], 0usize..7);
    let lr = select(vec![0.0, 0.025, 1.0]);
    (sizes, lr, patterns(), 0u64..1000).prop_map(
        |((vocab, dim, batch, negatives), lr, pattern, seed)| {
            let params = word2vec::Params { vocab, dim, batch, negatives, lr, pattern };
            Case::new("embedding.word2vec", &params, seed)
        },
    )
}
