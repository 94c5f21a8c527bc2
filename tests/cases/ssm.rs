//! Random small valid cases of the ssm operations, concentrated on the edges of tiles.

use proptest::{
    prelude::*,
    sample::select,
    strategy::{BoxedStrategy, Strategy},
};
use touchstone_reference::{
    Case, DType,
    ssm::{
        recurrence::{Field, Params as RecurrenceParams},
        retention::Params as RetentionParams,
        s4d::Params as S4dParams,
        selective::Params as SelectiveParams,
        ssd::Params as SsdParams,
    },
};

/// A strategy for each operation.
pub fn strategies() -> Vec<(&'static str, BoxedStrategy<Case>)> {
    let selective = |op: &'static str, initial: bool| {
        (params(), 0u64..1000)
            .prop_map(move |(mut params, seed)| {
                params.initial_state &= initial;
                Case::new(op, &params, seed)
            })
            .boxed()
    };
    let recurrence = |op: &'static str| {
        (recurrence_params(), 0u64..1000)
            .prop_map(move |(params, seed)| Case::new(op, &params, seed))
            .boxed()
    };
    vec![
        ("ssm.selective", selective("ssm.selective", true)),
        ("ssm.selective_backward", selective("ssm.selective_backward", false)),
        ("ssm.recurrence", recurrence("ssm.recurrence")),
        ("ssm.recurrence_backward", recurrence("ssm.recurrence_backward")),
        ("ssm.ssd", with_seed("ssm.ssd", ssd_params())),
        ("ssm.retention", with_seed("ssm.retention", retention_params())),
        ("ssm.gated_linear_attention", with_seed("ssm.gated_linear_attention", retention_params())),
        ("ssm.rwkv7", with_seed("ssm.rwkv7", retention_params())),
        ("ssm.s4d", with_seed("ssm.s4d", s4d_params())),
    ]
}

fn with_seed<P: serde::Serialize + std::fmt::Debug>(
    op: &'static str,
    params: impl Strategy<Value = P> + 'static,
) -> BoxedStrategy<Case> {
    (params, 0u64..1000).prop_map(move |(params, seed)| Case::new(op, &params, seed)).boxed()
}

/// Lengths about the chunk of 64 steps.
fn chunks() -> impl Strategy<Value = usize> {
    prop_oneof![2 => select(vec![0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129]), 1 => 0usize..200]
}

/// Rows and columns of a state, mostly those that tensor cores take.
fn state_size() -> impl Strategy<Value = usize> {
    prop_oneof![3 => (1usize..=16).prop_map(|n| 8 * n), 1 => 0usize..20]
}

fn state_dtype() -> impl Strategy<Value = DType> {
    prop_oneof![1 => Just(DType::F32), 1 => Just(DType::F16), 3 => Just(DType::Bf16)]
}

/// Parameters of SSD.
pub fn ssd_params() -> impl Strategy<Value = SsdParams> {
    let sizes = (0usize..=2, chunks(), 0usize..=2, 1usize..=2, state_size(), state_size());
    (sizes, state_dtype(), any::<[bool; 2]>()).prop_map(
        |((batch, seq_len, in_group, groups, head_dim, state), dtype, [skip, initial_state])| {
            SsdParams {
                batch,
                seq_len,
                heads: in_group * groups,
                head_dim,
                groups,
                state,
                dtype,
                skip,
                initial_state,
            }
        },
    )
}

/// Parameters of retention, gated linear attention and RWKV-7.
pub fn retention_params() -> impl Strategy<Value = RetentionParams> {
    let sizes = (0usize..=2, chunks(), 1usize..=3, state_size(), state_size());
    (sizes, state_dtype(), any::<bool>()).prop_map(
        |((batch, seq_len, heads, key_dim, value_dim), dtype, initial_state)| RetentionParams {
            batch,
            seq_len,
            heads,
            key_dim,
            value_dim,
            dtype,
            initial_state,
        },
    )
}

fn length() -> impl Strategy<Value = usize> {
    let edges = vec![0, 1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 511, 513];
    prop_oneof![select(edges), 0usize..200, 0usize..1200]
}

fn channels() -> impl Strategy<Value = usize> {
    prop_oneof![select(vec![0, 1, 31, 32, 33]), 0usize..70]
}

/// Parameters of a selective scan in either direction.
pub fn params() -> impl Strategy<Value = SelectiveParams> {
    let state = prop_oneof![4 => select(vec![1usize, 4, 15, 16]), 1 => 0usize..20];
    let in_group = prop_oneof![3 => 0usize..8, 1 => channels()];
    let sizes = (0usize..=3, in_group, length(), state, 1usize..=3);
    let dtype = select(vec![DType::F32, DType::F16, DType::Bf16]);
    (sizes, dtype, any::<[bool; 5]>()).prop_map(
        |(
            (batch, in_group, seq_len, state, groups),
            dtype,
            [softplus, bias, skip, gate, initial],
        )| {
            SelectiveParams {
                batch,
                channels: in_group * groups,
                seq_len,
                state,
                groups,
                dtype,
                softplus,
                bias,
                skip,
                gate,
                initial_state: initial,
            }
        },
    )
}

/// Parameters of a recurrence in either direction.
pub fn recurrence_params() -> impl Strategy<Value = RecurrenceParams> {
    let numbers = select(vec![
        (Field::Real, DType::F32),
        (Field::Real, DType::Bf16),
        (Field::Complex, DType::F32),
    ]);
    (0usize..=3, length(), channels(), numbers, any::<bool>()).prop_map(
        |(batch, seq_len, channels, (field, dtype), initial_state)| RecurrenceParams {
            batch,
            seq_len,
            channels,
            field,
            dtype,
            initial_state,
        },
    )
}

/// Parameters of S4D.
pub fn s4d_params() -> impl Strategy<Value = S4dParams> {
    let state = prop_oneof![select(vec![1usize, 32, 33, 64]), 0usize..20];
    (0usize..=3, 0usize..=4, length(), state)
        .prop_map(|(batch, channels, seq_len, state)| S4dParams { batch, channels, seq_len, state })
}
