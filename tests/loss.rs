//! Laws of softmax and cross entropy, shown on the references.

#[path = "cases/loss.rs"]
mod cases;
mod laws;

use laws::{drawn, strategy};
use proptest::prelude::*;
use touchstone_reference::{
    Algorithm, Case, Data, Tensor, Tensors,
    loss::{CrossEntropy, CrossEntropyGradient, IGNORED, Params, Softmax},
};

fn values<A: Algorithm>(params: &A::Params, inputs: &Tensors, name: &str) -> Vec<f64> {
    A::reference(params, inputs).output(name).values()
}

/// The inputs with other logits, in f64.
fn with_logits(inputs: &Tensors, of: impl Fn(usize, f64) -> f64) -> Tensors {
    let logits = inputs.tensor("logits");
    let values = logits.to_f64().into_iter().enumerate().map(|(i, x)| of(i, x)).collect();
    inputs.clone().with("logits", Tensor::new(logits.shape(), Data::F64(values)))
}

fn of(op: &str) -> BoxedStrategy<Case> {
    strategy(cases::strategies(), op)
}

#[test]
fn every_generated_case_is_valid_and_its_inputs_repeat() {
    laws::cases_are_valid_and_their_inputs_repeat(cases::strategies(), 60);
}

proptest! {
    #[test]
    fn probabilities_add_up_to_one(case in of("loss.softmax")) {
        let (params, inputs) = drawn::<Softmax>(&case);
        let p = values::<Softmax>(&params, &inputs, "probabilities");
        for row in p.chunks(params.vocab) {
            prop_assert!(row.iter().all(|&p| (0.0..=1.0).contains(&p)));
            prop_assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn a_constant_beside_all_logits_changes_nothing(case in of("loss.softmax"), shift in -50.0..50.0f64) {
        let (params, inputs) = drawn::<Softmax>(&case);
        let shifted = with_logits(&inputs, |_, x| x + shift);
        let before = values::<Softmax>(&params, &with_logits(&inputs, |_, x| x), "probabilities");
        let after = values::<Softmax>(&params, &shifted, "probabilities");
        for (a, b) in before.iter().zip(&after) {
            prop_assert!((a - b).abs() < 1e-9, "{a} and {b}");
        }
    }

    #[test]
    fn the_loss_is_the_surprise_of_the_target(case in of("loss.cross_entropy")) {
        let (params, inputs) = drawn::<CrossEntropy>(&case);
        let p = values::<Softmax>(&params, &inputs, "probabilities");
        let losses = values::<CrossEntropy>(&params, &inputs, "loss");
        for (row, (loss, target)) in losses.iter().zip(inputs.tensor("targets").to_i64()).enumerate() {
            if target == IGNORED {
                prop_assert_eq!(*loss, 0.0);
            } else {
                let p = p[row * params.vocab + target as usize];
                prop_assert!(((-loss).exp() - p).abs() < 1e-12, "{loss} and {p}");
            }
        }
    }

    #[test]
    fn gradients_of_a_row_add_up_to_zero(case in of("loss.cross_entropy_gradient")) {
        let (params, inputs) = drawn::<CrossEntropyGradient>(&case);
        let gradients = values::<CrossEntropyGradient>(&params, &inputs, "d_logits");
        for row in gradients.chunks(params.vocab) {
            prop_assert!(row.iter().sum::<f64>().abs() < 1e-12);
        }
    }

    #[test]
    fn the_gradient_is_the_derivative_of_the_loss(
        case in of("loss.cross_entropy_gradient"),
        at in any::<prop::sample::Index>(),
    ) {
        let (params, inputs) = drawn::<CrossEntropyGradient>(&case);
        prop_assume!(params.rows > 0);
        let at = at.index(params.rows * params.vocab);
        let row = at / params.vocab;
        prop_assume!(inputs.tensor("logits").to_f64()[at].is_finite());
        let weight = inputs.tensor("d_loss").to_f64()[row];
        let loss = |step: f64| {
            let moved = with_logits(&inputs, |i, x| if i == at { x + step } else { x });
            values::<CrossEntropyGradient>(&params, &moved, "loss")[row]
        };
        prop_assume!(loss(0.0).is_finite());
        let difference = weight * (loss(1e-4) - loss(-1e-4)) / 2e-4;
        let gradient = values::<CrossEntropyGradient>(&params, &inputs, "d_logits")[at];
        prop_assert!((difference - gradient).abs() < 1e-6, "{difference} and {gradient}");
    }
}

#[test]
fn the_same_loss_with_and_without_its_gradient() {
    let params = |case: &Case| case.params::<Params>().unwrap();
    let case: Case = "loss.cross_entropy_gradient:rows=9,vocab=33,logits=sharp,dtype=bf16,seed=3"
        .parse()
        .unwrap();
    let (_, inputs) = drawn::<CrossEntropyGradient>(&case);
    assert_eq!(
        values::<CrossEntropyGradient>(&params(&case), &inputs, "loss"),
        values::<CrossEntropy>(&params(&case), &inputs, "loss")
    );
}
