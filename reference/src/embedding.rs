//! embedding: operations of this vertical.

use crate::algorithm::Operation;

/// The operations of this vertical.
pub const OPERATIONS: &[Operation] = &[];
