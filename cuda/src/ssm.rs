//! ssm: CUDA variants of this vertical.

use crate::variant::Variant;

/// The variants of this vertical, in ladder order.
pub static VARIANTS: &[Variant] = &[];
