//! What is right: naive f64 CPU references for every algorithm of the suite.
//!
//! No GPU, no I/O, no clock. The path of one check is
//! [`Case`] → [`Tensors`] (inputs) → [`Operation::reference`] → [`Outputs`] (expected values with their bounds).
//!
//! One algorithm is one vertical: `attention.rs` here, `cuda/src/attention.rs` and
//! `cuda/kernels/attention_*.cu` for its kernels, `bench/workloads/attention.toml` for the questions
//! asked of it and `tests/attention.rs` for its laws.

pub mod algorithm;
pub mod case;
pub mod draw;
pub mod expected;
pub mod nearest;
pub mod tensor;

pub mod acceptance;
pub mod attention;
pub mod checkpoint;
pub mod decoding;
pub mod embedding;
pub mod loss;
pub mod ngram;
pub mod precision;
pub mod recurrent;
pub mod ssm;
pub mod upsample;

pub use algorithm::{Algorithm, Operation, Work};
pub use case::{Case, CaseError};
pub use draw::Draw;
pub use expected::{Discrete, Expected, Outputs, Real, Tolerance};
pub use tensor::{DType, Data, Tensor, Tensors};

/// The verticals, in the order in which they are listed and reported.
pub const VERTICALS: [&str; 11] = [
    "ngram",
    "embedding",
    "attention",
    "ssm",
    "recurrent",
    "loss",
    "acceptance",
    "decoding",
    "upsample",
    "precision",
    "checkpoint",
];

/// Every operation of every vertical.
pub fn operations() -> impl Iterator<Item = &'static Operation> {
    [
        ngram::OPERATIONS,
        embedding::OPERATIONS,
        attention::OPERATIONS,
        ssm::OPERATIONS,
        recurrent::OPERATIONS,
        loss::OPERATIONS,
        acceptance::OPERATIONS,
        decoding::OPERATIONS,
        upsample::OPERATIONS,
        precision::OPERATIONS,
        checkpoint::OPERATIONS,
    ]
    .into_iter()
    .flatten()
}

/// The operation that a case names.
///
/// # Errors
/// [`CaseError::UnknownOperation`], which says what may be meant, or lists the names there are.
pub fn operation(case: &Case) -> Result<&'static Operation, CaseError> {
    operations().find(|operation| operation.name == case.op()).ok_or_else(|| {
        let names: Vec<&str> = operations().map(|o| o.name).collect();
        CaseError::UnknownOperation {
            op: case.op().to_string(),
            hint: nearest::hint(case.op(), &names),
        }
    })
}
