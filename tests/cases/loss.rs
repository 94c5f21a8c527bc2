//! Random small cases of the operations over a vocabulary.

use proptest::{prelude::*, sample::select};
use touchstone_reference::{
    Case, DType,
    loss::{Logits, Params},
};

/// Operation and its cases: vocabularies crowd at whole words of 16 bytes.
pub fn strategies() -> Vec<(&'static str, BoxedStrategy<Case>)> {
    ["loss.softmax", "loss.cross_entropy", "loss.cross_entropy_gradient"]
        .map(|op| (op, cases(op)))
        .into()
}

fn cases(op: &'static str) -> BoxedStrategy<Case> {
    use Logits::{Ascending, Masked, Normal, Sharp, Shifted};
    let vocab =
        prop_oneof![2 => 1usize..70, 4 => (1usize..100).prop_map(|n| 8 * n), 1 => 4090usize..4105];
    let rows = prop_oneof![6 => 0usize..9, 1 => 130usize..136];
    let logits = select(vec![Normal, Sharp, Shifted, Ascending, Masked]);
    let dtype = select(vec![DType::F32, DType::F16, DType::Bf16]);
    (rows, vocab, logits, dtype, 0u64..1000)
        .prop_map(move |(rows, vocab, logits, dtype, seed)| {
            Case::new(op, &Params { rows, vocab, logits, dtype }, seed)
        })
        .boxed()
}
