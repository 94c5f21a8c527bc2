//! Random small valid cases of the recurrent operations, concentrated on the edges of tiles.

use proptest::{
    prelude::*,
    sample::select,
    strategy::{BoxedStrategy, Strategy},
};
use touchstone_reference::{
    Case, DType,
    recurrent::{
        Lengths,
        gru::{Params as GruParams, Reset},
        lstm::Params as LstmParams,
        rnn::{Nonlinearity, Params as RnnParams},
    },
};

/// A strategy for each operation.
pub fn strategies() -> Vec<(&'static str, BoxedStrategy<Case>)> {
    let lstm = |op: &'static str| {
        (sizes(), 0u64..1000)
            .prop_map(move |(sizes, seed)| Case::new(op, &sizes.lstm(), seed))
            .boxed()
    };
    let rnn = |op: &'static str| {
        let f = select(vec![Nonlinearity::Tanh, Nonlinearity::Relu]);
        (sizes(), f, 0u64..1000)
            .prop_map(move |(sizes, f, seed)| Case::new(op, &sizes.rnn(f), seed))
            .boxed()
    };
    let gru = |op: &'static str| {
        let reset = select(vec![Reset::After, Reset::Before]);
        (sizes(), reset, 0u64..1000)
            .prop_map(move |(sizes, reset, seed)| Case::new(op, &sizes.gru(reset), seed))
            .boxed()
    };
    vec![
        ("recurrent.rnn", rnn("recurrent.rnn")),
        ("recurrent.rnn_backward", rnn("recurrent.rnn_backward")),
        ("recurrent.lstm", lstm("recurrent.lstm")),
        ("recurrent.lstm_backward", lstm("recurrent.lstm_backward")),
        ("recurrent.gru", gru("recurrent.gru")),
        ("recurrent.gru_backward", gru("recurrent.gru_backward")),
    ]
}

/// What all cells have.
#[derive(Clone, Debug)]
pub struct Sizes {
    pub batch: usize,
    pub seq_len: usize,
    pub input: usize,
    pub hidden: usize,
    pub dtype: DType,
    pub bidirectional: bool,
    pub lengths: Lengths,
}

impl Sizes {
    pub fn rnn(&self, nonlinearity: Nonlinearity) -> RnnParams {
        let Self { batch, seq_len, input, hidden, dtype, bidirectional, lengths } = *self;
        RnnParams { batch, seq_len, input, hidden, nonlinearity, dtype, bidirectional, lengths }
    }

    pub fn lstm(&self) -> LstmParams {
        let Self { batch, seq_len, input, hidden, dtype, bidirectional, lengths } = *self;
        LstmParams { batch, seq_len, input, hidden, dtype, bidirectional, lengths }
    }

    pub fn gru(&self, reset: Reset) -> GruParams {
        let Self { batch, seq_len, input, hidden, dtype, bidirectional, lengths } = *self;
        GruParams { batch, seq_len, input, hidden, reset, dtype, bidirectional, lengths }
    }
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![select(vec![0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33]), 1usize..20]
}

/// Inputs of a layer: any, or whole words of 16 bytes.
fn inputs() -> impl Strategy<Value = usize> {
    prop_oneof![size(), (0usize..6).prop_map(|words| 8 * words)]
}

/// Sizes of a layer in either direction.
pub fn sizes() -> impl Strategy<Value = Sizes> {
    let batch = prop_oneof![6 => 0usize..5, 1 => select(vec![31usize, 32, 33])];
    let dtype = select(vec![DType::F32, DType::F16, DType::Bf16]);
    (batch, 0usize..7, inputs(), size(), dtype, any::<bool>(), any::<bool>()).prop_map(
        |(batch, seq_len, input, hidden, dtype, bidirectional, ragged)| {
            let lengths = if ragged { Lengths::Ragged } else { Lengths::Full };
            Sizes { batch, seq_len, input, hidden, dtype, bidirectional, lengths }
        },
    )
}
