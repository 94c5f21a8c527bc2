//! CUDA variants of decoding several tokens a step.

mod block;
mod tree;
mod typical;

use crate::variant::Variant;

/// The variants of this vertical, in ladder order.
pub static VARIANTS: &[Variant] = &[
    Variant {
        op: "decoding.tree",
        name: "naive",
        idea: "one thread walks one row's tree",
        deterministic: true,
        plan: tree::naive,
    },
    Variant {
        op: "decoding.tree",
        name: "group",
        idea: "a group of blocks walks a row's tree together, its node in shared memory for all children",
        deterministic: true,
        plan: tree::group,
    },
    Variant {
        op: "decoding.typical",
        name: "naive",
        idea: "a thread a node for its entropy, then a thread a row",
        deterministic: true,
        plan: typical::naive,
    },
    Variant {
        op: "decoding.typical",
        name: "split",
        idea: "many blocks for the entropies of all nodes that may matter, many for the last argmax",
        deterministic: true,
        plan: typical::split,
    },
    Variant {
        op: "decoding.block",
        name: "naive",
        idea: "one thread walks one row, longest prefix first",
        deterministic: true,
        plan: block::naive,
    },
    Variant {
        op: "decoding.block",
        name: "split",
        idea: "many blocks for the residuals of all prefixes at once; a second kernel decides and joins",
        deterministic: true,
        plan: block::split,
    },
];
