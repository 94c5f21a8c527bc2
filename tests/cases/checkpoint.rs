//! Random small cases of gradient checkpointing.

use proptest::prelude::*;
use touchstone_reference::{Case, checkpoint::chain_backward::Params};

/// Operation and its cases: short and long chains, sizes about the tile of the products.
pub fn strategies() -> Vec<(&'static str, BoxedStrategy<Case>)> {
    let layers = prop_oneof![3 => 1usize..7, 1 => 10usize..30];
    let rows = prop_oneof![3 => 0usize..5, 1 => 30usize..35];
    let width = prop_oneof![3 => 1usize..9, 1 => 30usize..35];
    let cases = (layers, rows, width, 1usize..5, 0usize..6, 0u64..1000).prop_map(
        |(layers, rows, width, dense_every, slots, seed)| {
            let params = Params { layers, rows, width, dense_every, slots };
            Case::new("checkpoint.chain_backward", &params, seed)
        },
    );
    vec![("checkpoint.chain_backward", cases.boxed())]
}
