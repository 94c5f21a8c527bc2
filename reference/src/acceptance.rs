//! Speculative sampling: which tokens of a cheap model's draft the target model keeps.
//!
//! A draft model proposes `k` tokens; the target model scores all of them at once and keeps a prefix, then
//! adds one token of its own, in such a way that what is emitted has exactly the target's law.

use crate::algorithm::Operation;

pub mod chain;
pub mod chain_logits;
pub mod distributions;
pub(crate) mod emitted;
pub mod law;
mod softmax;
pub(crate) mod weights;

/// The operations of this vertical.
pub const OPERATIONS: &[Operation] =
    &[Operation::of::<chain::Chain>(), Operation::of::<chain_logits::ChainLogits>()];
