//! CUDA variants of decoding several tokens a step.

mod block;
mod medusa;
mod mtp;
mod tiled;
mod transformer;
mod tree;
mod tree_attention;
mod typical;
pub mod verification;

use self::tiled::Tiled;
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
    Variant {
        op: "decoding.medusa",
        name: "naive",
        idea: "a thread an output",
        deterministic: true,
        plan: medusa::naive,
    },
    Variant {
        op: "decoding.medusa",
        name: "tiled",
        idea: "f32 tiles in shared memory, the residual block done on the sums",
        deterministic: true,
        plan: medusa::tiles,
    },
    Variant {
        op: "decoding.medusa",
        name: "tensor_core",
        idea: "the weights streamed once past tensor cores, all heads in a launch, the residual block done on the sums",
        deterministic: true,
        plan: medusa::tensor_core,
    },
    Variant {
        op: "decoding.mtp",
        name: "naive",
        idea: "every step by itself, a thread an output",
        deterministic: true,
        plan: mtp::naive,
    },
    Variant {
        op: "decoding.mtp",
        name: "fused",
        idea: "tiled products that add the residual, and a loss without logits in memory",
        deterministic: true,
        plan: mtp::fused,
    },
    Variant {
        op: "decoding.tree_attention",
        name: "naive",
        idea: "a block a query, which asks the parents what it sees",
        deterministic: true,
        plan: tree_attention::naive,
    },
    Variant {
        op: "decoding.tree_attention",
        name: "tiled",
        idea: "f32 tiles in shared memory, the cache split over blocks, the tree's mask as bits",
        deterministic: true,
        plan: tree_attention::tiled,
    },
    Variant {
        op: "decoding.tree_attention",
        name: "tensor_core",
        idea: "the nodes' rows as one product, the cache split over blocks, the tree's mask as bits",
        deterministic: true,
        plan: tree_attention::tensor_core,
    },
    Variant {
        op: "decoding.verification",
        name: "naive",
        idea: "the naive kernels of every step, one behind the other",
        deterministic: true,
        plan: verification::naive,
    },
    Variant {
        op: "decoding.verification",
        name: "tiled",
        idea: "tiled products and attention, rows in 16-byte words, a group of blocks a row for acceptance",
        deterministic: true,
        plan: verification::tiled,
    },
];

/// Threads of a block where a kernel gives every output element one thread.
const THREADS: usize = 128;
