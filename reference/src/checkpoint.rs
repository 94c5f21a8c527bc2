//! Gradient checkpointing: back-propagation through a chain whose states do not all fit in memory.

pub mod chain_backward;
pub mod schedule;

use crate::algorithm::Operation;

/// The operations of this vertical.
pub const OPERATIONS: &[Operation] = &[Operation::of::<chain_backward::ChainBackward>()];
