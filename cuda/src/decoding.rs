//! CUDA variants of decoding several tokens a step.

mod block;

use crate::variant::Variant;

/// The variants of this vertical, in ladder order.
pub static VARIANTS: &[Variant] = &[Variant {
    op: "decoding.block",
    name: "naive",
    idea: "one thread walks one row, longest prefix first",
    deterministic: true,
    plan: block::naive,
}];
