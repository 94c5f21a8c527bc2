//! What the tests of every vertical's laws start from: its strategies, and inputs drawn from them.
#![allow(dead_code)] // each vertical uses its share

use proptest::{
    prelude::*,
    strategy::{BoxedStrategy, ValueTree},
    test_runner::{Config, RngSeed, TestRunner},
};
use touchstone_reference::{Algorithm, Case, Draw, Tensors, operation};

/// Random small cases of each operation of a vertical.
pub type Strategies = Vec<(&'static str, BoxedStrategy<Case>)>;

/// The strategy of one operation.
pub fn strategy(mut all: Strategies, op: &str) -> BoxedStrategy<Case> {
    let at = all.iter().position(|(name, _)| *name == op).expect("a listed operation");
    all.swap_remove(at).1
}

/// A case's parameters and inputs.
pub fn drawn<A: Algorithm>(case: &Case) -> (A::Params, Tensors) {
    let params = case.params().unwrap();
    let inputs = A::inputs(&params, &mut Draw::new(case.seed()));
    (params, inputs)
}

/// That `each` cases of every operation are its own and valid, and that their inputs repeat to the byte (a NaN
/// is not equal to itself).
pub fn cases_are_valid_and_their_inputs_repeat(all: Strategies, each: usize) {
    let mut runner = TestRunner::deterministic();
    for (op, strategy) in all {
        for _ in 0..each {
            let case = strategy.new_tree(&mut runner).unwrap().current();
            assert_eq!(case.op(), op);
            let operation = operation(&case).unwrap();
            let inputs = operation.inputs(&case).unwrap_or_else(|e| panic!("{e}"));
            let again = operation.inputs(&case).unwrap();
            assert_eq!(inputs.len(), again.len(), "{case}");
            for (name, tensor) in inputs.iter() {
                let twin = again.tensor(name);
                assert_eq!(
                    (tensor.dtype(), tensor.shape()),
                    (twin.dtype(), twin.shape()),
                    "{case}"
                );
                assert_eq!(tensor.as_bytes(), twin.as_bytes(), "{case}");
            }
            operation.work(&case, &inputs).unwrap();
        }
    }
}

/// That a random case of the operation at `index` is its own and has valid inputs.
pub fn case_has_valid_inputs(
    mut all: Strategies,
    index: usize,
    seed: u64,
) -> Result<(), TestCaseError> {
    let config = Config { rng_seed: RngSeed::Fixed(seed), ..Config::default() };
    let (op, strategy) = all.swap_remove(index);
    let case = strategy.new_tree(&mut TestRunner::new(config)).unwrap().current();
    prop_assert_eq!(case.op(), op);
    let inputs = operation(&case).unwrap().inputs(&case);
    prop_assert!(inputs.is_ok(), "{:?}", inputs);
    Ok(())
}
