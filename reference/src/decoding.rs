//! Several tokens a step: drafts that branch, and the rules by which a target model keeps a part of them.
//!
//! Chain drafts and their acceptance are in [`crate::acceptance`]; here are trees of candidates, a rule for chains that
//! keeps more tokens under the same law, and one that keeps more under another law.

use crate::algorithm::Operation;

pub mod block;
pub mod candidates;
pub mod law;
pub mod medusa;
pub mod mtp;
mod near;
pub(crate) mod outcome;
pub(crate) mod residual;
mod rounding;
pub mod topology;
mod transformer;
pub mod tree;
pub mod tree_attention;
pub mod typical;
pub mod verification;

/// The operations of this vertical.
pub const OPERATIONS: &[Operation] = &[
    Operation::of::<tree::Tree>(),
    Operation::of::<typical::Typical>(),
    Operation::of::<block::Block>(),
    Operation::of::<medusa::Medusa>(),
    Operation::of::<mtp::Mtp>(),
    Operation::of::<tree_attention::TreeAttention>(),
    Operation::of::<verification::Verification>(),
];
