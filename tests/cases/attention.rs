//! Random small valid cases of the attention operations, concentrated on the edges of tiles.

use proptest::{
    prelude::*,
    sample::select,
    strategy::{BoxedStrategy, Strategy},
};
use touchstone_reference::{
    Case, DType,
    attention::{
        Lengths, Mask,
        backward::Params as BackwardParams,
        decode::{Cache, Params as DecodeParams},
        forward::Params as ForwardParams,
        fp8::Params as Fp8Params,
    },
};

/// A strategy for each operation.
pub fn strategies() -> Vec<(&'static str, BoxedStrategy<Case>)> {
    vec![
        ("attention.forward", forward().boxed()),
        ("attention.backward", backward().boxed()),
        ("attention.decode", decode().boxed()),
        ("attention.fp8", fp8().boxed()),
    ]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![select(vec![0, 1, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 129]), 0usize..150,]
}

fn dtype() -> impl Strategy<Value = DType> {
    select(vec![DType::F32, DType::F16, DType::Bf16])
}

fn head_dim() -> impl Strategy<Value = usize> {
    prop_oneof![6 => select(vec![32usize, 64, 128]), 1 => 1usize..80]
}

/// Wide ones too.
fn any_head_dim() -> impl Strategy<Value = usize> {
    prop_oneof![5 => head_dim(), 1 => select(vec![136usize, 160, 256])]
}

/// Query heads and key heads.
fn heads() -> impl Strategy<Value = (usize, usize)> {
    (1usize..=3, select(vec![1usize, 2, 4, 5])).prop_map(|(kv, group)| (kv * group, kv))
}

fn mask() -> impl Strategy<Value = (Mask, usize)> {
    prop_oneof![
        Just((Mask::Full, 0)),
        Just((Mask::Causal, 0)),
        (1usize..100).prop_map(|window| (Mask::Window, window)),
    ]
}

/// None, one that hardly bends any score, and some that most scores meet.
fn softcap() -> impl Strategy<Value = f64> {
    prop_oneof![2 => Just(0.0), 1 => select(vec![0.3, 1.0, 5.0, 50.0])]
}

fn sd() -> impl Strategy<Value = f64> {
    prop_oneof![4 => Just(1.0), 1 => select(vec![0.0, 0.01, 4.0])]
}

/// Random cases of attention.forward.
pub fn forward() -> impl Strategy<Value = Case> {
    let lengths = select(vec![Lengths::Full, Lengths::Ragged]);
    let sizes = (0usize..=3, length(), length(), any::<bool>());
    let scores = (sd(), softcap());
    (sizes, heads(), head_dim(), mask(), lengths, scores, dtype(), 0u64..1000).prop_map(
        |(sizes, heads, head_dim, mask, lengths, (sd, softcap), dtype, seed)| {
            let (batch, seq_q, seq_k, square) = sizes;
            let params = ForwardParams {
                batch,
                seq_q,
                seq_k: if square { seq_q } else { seq_k },
                heads_q: heads.0,
                heads_kv: heads.1,
                head_dim,
                mask: mask.0,
                window: mask.1,
                lengths,
                scale: None,
                softcap,
                sd,
                dtype,
            };
            Case::new("attention.forward", &params, seed)
        },
    )
}

/// Random cases of attention.backward.
pub fn backward() -> impl Strategy<Value = Case> {
    let sizes = (0usize..=2, length(), length());
    (sizes, heads(), any_head_dim(), mask(), (sd(), softcap()), dtype(), 0u64..1000).prop_map(
        |((batch, seq_q, seq_k), heads, head_dim, mask, (sd, softcap), dtype, seed)| {
            let params = BackwardParams {
                batch,
                seq_q,
                seq_k,
                heads_q: heads.0,
                heads_kv: heads.1,
                head_dim,
                mask: mask.0,
                window: mask.1,
                scale: None,
                softcap,
                sd,
                dtype,
            };
            Case::new("attention.backward", &params, seed)
        },
    )
}

/// Random cases of attention.decode.
pub fn decode() -> impl Strategy<Value = Case> {
    let lengths = select(vec![Lengths::Full, Lengths::Ragged]);
    let cache = select(vec![0usize, 0, 1, 16, 64]);
    let keys = prop_oneof![3 => length(), 1 => 150usize..700];
    let scores = (sd(), softcap());
    let dtypes = (dtype(), select(vec![None, None, Some(DType::I8)]));
    (0usize..=4, keys, heads(), head_dim(), cache, lengths, scores, dtypes, 0u64..1000).prop_map(
        |(batch, seq_k, heads, head_dim, page_size, lengths, (sd, softcap), dtypes, seed)| {
            let params = DecodeParams {
                batch,
                seq_k,
                heads_q: heads.0,
                heads_kv: heads.1,
                head_dim,
                kv: if page_size > 0 { Cache::Paged } else { Cache::Contiguous },
                page_size,
                lengths,
                scale: None,
                softcap,
                sd,
                dtype: dtypes.0,
                kv_dtype: dtypes.1,
            };
            Case::new("attention.decode", &params, seed)
        },
    )
}

/// Random cases of attention.fp8.
pub fn fp8() -> impl Strategy<Value = Case> {
    let lengths = select(vec![Lengths::Full, Lengths::Ragged]);
    let keys = prop_oneof![3 => (0usize..20).prop_map(|n| 16 * n), 1 => length()];
    let head_dim = prop_oneof![4 => select(vec![16usize, 64, 96, 128]), 1 => 1usize..140];
    let dtype = select(vec![DType::F16, DType::Bf16]);
    ((0usize..=3, length(), keys), heads(), head_dim, mask(), lengths, sd(), dtype, 0u64..1000)
        .prop_map(|((batch, seq_q, seq_k), heads, head_dim, mask, lengths, sd, dtype, seed)| {
            let params = Fp8Params {
                batch,
                seq_q,
                seq_k,
                heads_q: heads.0,
                heads_kv: heads.1,
                head_dim,
                mask: mask.0,
                window: mask.1,
                lengths,
                scale: None,
                sd,
                dtype,
            };
            Case::new("attention.fp8", &params, seed)
        })
}
