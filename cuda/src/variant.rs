//! One way to compute an operation on a CUDA device.

use touchstone_reference::{Case, Tensors};

use crate::plan::Plan;

/// Why a variant does not take a case; shown to the reader of the report.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Unsupported(pub String);

impl From<touchstone_reference::CaseError> for Unsupported {
    fn from(error: touchstone_reference::CaseError) -> Self {
        Self(error.to_string())
    }
}

/// One way to compute an operation: a rung of its ladder.
#[derive(Clone, Copy)]
pub struct Variant {
    /// The operation it computes, for example `attention.forward`.
    pub op: &'static str,
    /// Its name in the ladder, a word: `naive`, `online`, `tensor_core`.
    pub name: &'static str,
    /// What sets it apart, in one sentence.
    pub idea: &'static str,
    /// Whether two runs on equal inputs give equal bits (no floating-point atomics).
    pub deterministic: bool,
    /// The buffers and launches for a case, or the reason why it does not take it.
    pub plan: fn(&Case, &Tensors) -> Result<Plan, Unsupported>,
}

impl std::fmt::Debug for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.op, self.name)
    }
}
