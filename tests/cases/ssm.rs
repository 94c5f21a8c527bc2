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
        selective::Params as SelectiveParams,
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
    ]
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
