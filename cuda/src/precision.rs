//! precision: CUDA variants of this vertical.

mod cast;
mod loss_scale;
mod optimizer;

use crate::{
    plan::{kind_of, threads},
    variant::Variant,
};

/// The variants of this vertical, in ladder order.
pub static VARIANTS: &[Variant] = &[
    Variant {
        op: "precision.cast",
        name: "naive",
        idea: "a thread a number, mantissa and exponent taken apart",
        deterministic: true,
        plan: cast::naive,
    },
    Variant {
        op: "precision.cast",
        name: "vectorized",
        idea: "four numbers a thread in wide words, rounded by a carry or by the hardware",
        deterministic: true,
        plan: cast::vectorized,
    },
    Variant {
        op: "precision.cast",
        name: "specialized",
        idea: "a kernel for each format, rounding by one addition or by the hardware",
        deterministic: true,
        plan: cast::specialized,
    },
    Variant {
        op: "precision.loss_scale",
        name: "naive",
        idea: "a thread a gradient and a flag; a second launch moves the scale",
        deterministic: true,
        plan: loss_scale::naive,
    },
    Variant {
        op: "precision.loss_scale",
        name: "fused",
        idea: "wide words, one launch: the last block moves the scale",
        deterministic: true,
        plan: loss_scale::fused,
    },
    Variant {
        op: "precision.adamw",
        name: "naive",
        idea: "a launch a tensor, a thread a parameter",
        deterministic: true,
        plan: optimizer::adamw_naive,
    },
    Variant {
        op: "precision.adamw",
        name: "fused",
        idea: "one launch over a table of chunks of all tensors, 16-byte words",
        deterministic: true,
        plan: optimizer::adamw_fused,
    },
    Variant {
        op: "precision.sgd",
        name: "naive",
        idea: "a launch a tensor, a thread a parameter",
        deterministic: true,
        plan: optimizer::sgd_naive,
    },
    Variant {
        op: "precision.sgd",
        name: "fused",
        idea: "one launch over a table of chunks of all tensors, 16-byte words",
        deterministic: true,
        plan: optimizer::sgd_fused,
    },
];
