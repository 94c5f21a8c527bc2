//! How it is fast: CUDA kernels, the plans that launch them, and the executor that runs a plan.
//!
//! A [`Variant`] turns a case and its inputs into a [`Plan`]: buffers and launches as plain data. An
//! executor carries the plan out: [`gpu::Gpu`] through the CUDA driver. Because a plan is data, it can be
//! made, printed and tested on a machine without a GPU.

pub mod custom;
pub mod executor;
pub mod gpu;
pub mod plan;
pub mod ptx;
pub(crate) mod radix_sort;
pub mod simulator;
pub mod variant;

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

pub use custom::Custom;
pub use executor::{Executor, Prepared};
pub use gpu::{Absent, Gpu};
pub use plan::{Arg, Buffer, BufferId, Launch, Plan, Role, Step};
pub use simulator::Simulator;
pub use variant::{Unsupported, Variant};

/// Every variant of every operation, in ladder order (naive first) within an operation.
pub fn variants() -> impl Iterator<Item = &'static Variant> {
    [
        ngram::VARIANTS,
        embedding::VARIANTS,
        attention::VARIANTS,
        ssm::VARIANTS,
        recurrent::VARIANTS,
        loss::VARIANTS,
        acceptance::VARIANTS,
        decoding::VARIANTS,
        upsample::VARIANTS,
        precision::VARIANTS,
        checkpoint::VARIANTS,
    ]
    .into_iter()
    .flatten()
}
