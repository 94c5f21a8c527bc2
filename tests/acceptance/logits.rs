//! Laws of chain acceptance from logits, shown on the reference.

use proptest::{prelude::*, strategy::BoxedStrategy};
use touchstone_bench::gtest::{FALSE_ALARM, g_test};
use touchstone_reference::{
    Algorithm, Case, DType, Data, Discrete, Draw, Expected, Outputs, Tensor, Tensors,
    acceptance::{
        chain::{self, Chain, Mode},
        chain_logits::{ChainLogits, Params, Temperatures, repeated},
    },
};

use super::{ROWS, cases, counts, law, lines, small};

fn drawn(case: &Case) -> (Params, Tensors) {
    let params: Params = case.params().unwrap();
    ChainLogits::validate(&params).unwrap();
    let inputs = ChainLogits::inputs(&params, &mut Draw::new(case.seed()));
    (params, inputs)
}

fn logits_cases() -> BoxedStrategy<Case> {
    cases::strategies().remove(1).1
}

fn discrete<'a>(outputs: &'a Outputs, name: &str) -> &'a Discrete {
    match outputs.output(name) {
        Expected::Discrete(discrete) => discrete,
        Expected::Real(_) => panic!("{name} is discrete"),
    }
}

/// The logits at a row of a tensor whose last axis is the vocabulary.
fn at(inputs: &Tensors, name: &str, params: &Params, row: usize) -> Vec<f64> {
    (0..params.vocab).map(|t| inputs.tensor(name).real_at(row * params.vocab + t)).collect()
}

/// Every real input of that name, times a factor.
fn scaled(inputs: &Tensors, name: &str, factor: f64) -> Tensors {
    let tensor = inputs.tensor(name);
    let values: Vec<f64> = tensor.to_f64().iter().map(|v| v * factor).collect();
    inputs.clone().with(name, Tensor::from_real(tensor.dtype(), tensor.shape(), &values))
}

/// The chain's problem: the softmax of the logits, rounded to f32.
fn as_probabilities(params: &Params, inputs: &Tensors) -> (chain::Params, Tensors) {
    let &Params { batch, draft_len, vocab, lengths, mass, relation, draws, .. } = params;
    let mut chain = inputs.clone();
    for (from, to) in [("draft_logits", "draft_probs"), ("target_logits", "target_probs")] {
        let logits = inputs.tensor(from);
        let of_row = logits.shape()[1];
        let mut probs = Vec::with_capacity(logits.len());
        for row in 0..batch * of_row {
            let x = at(inputs, from, params, row);
            let temperature = inputs.tensor("temperature").real_at(row / of_row);
            let most = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = x.iter().map(|x| ((x - most) / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            probs.extend(weights.iter().map(|w| (w / total) as f32));
        }
        chain.insert(to, Tensor::new(logits.shape(), Data::F32(probs)));
    }
    let mode = Mode::Sample;
    (chain::Params { batch, draft_len, vocab, mode, lengths, mass, relation, draws }, chain)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn drawn_logits_are_distributions_and_drafts(case in logits_cases()) {
        let (params, inputs) = drawn(&case);
        for name in ["draft_logits", "target_logits"] {
            for row in inputs.tensor(name).to_f64().chunks(params.vocab) {
                prop_assert!(row.iter().all(|&x| x < f64::INFINITY));
                prop_assert!(row.iter().any(|x| x.is_finite()));
            }
        }
        let lengths = inputs.tensor("draft_lengths").to_i64();
        let all = inputs.tensor("draft_tokens").to_i64();
        for (row, length) in lengths.into_iter().enumerate() {
            let (draft, padding) = all[row * params.draft_len..][..params.draft_len].split_at(length as usize);
            prop_assert!(draft.iter().all(|t| (0..params.vocab as i64).contains(t)));
            prop_assert!(padding.iter().all(|&t| t == -1));
        }
    }

    /// What acceptance from probabilities says of the softmax, rounded to f32, is among the endings stated.
    #[test]
    fn it_is_chain_acceptance_of_the_softmax(case in logits_cases()) {
        let (params, mut inputs) = drawn(&case);
        // Where it is cold, f32 does not hold every probability; the chain could not tell 0 from little.
        if params.temperature < 0.7 || params.temperatures == Temperatures::Mixed {
            let warm = Tensor::new(&[params.batch], Data::F32(vec![0.7; params.batch]));
            inputs.insert("temperature", warm);
        }
        let ours = ChainLogits::reference(&params, &inputs);
        let (chain_params, chain_inputs) = as_probabilities(&params, &inputs);
        let theirs = Chain::reference(&chain_params, &chain_inputs);
        for name in ["accepted", "tokens"] {
            let (ours, theirs) = (discrete(&ours, name), discrete(&theirs, name));
            prop_assert_eq!(&ours.shape, &theirs.shape);
            for (i, (value, other)) in ours.value.iter().zip(&theirs.value).enumerate() {
                let stated = ours.also.get(&i).is_some_and(|also| also.contains(other));
                prop_assert!(value == other || stated, "{} at {}: {} and {}", name, i, value, other);
            }
        }
    }

    /// Powers of two scale exactly, so a temperature is nothing but the unit of the logits.
    #[test]
    fn logits_and_temperatures_scale_together(case in logits_cases(), power in -3i32..4) {
        let (params, inputs) = drawn(&case);
        let mut other = inputs.clone();
        for name in ["draft_logits", "target_logits", "temperature"] {
            other = scaled(&other, name, 2f64.powi(power));
        }
        prop_assert_eq!(lines(params.draft_len, &ChainLogits::reference(&params, &inputs)),
            lines(params.draft_len, &ChainLogits::reference(&params, &other)));
    }

    #[test]
    fn masked_tokens_are_never_emitted(case in logits_cases()) {
        let (params, inputs) = drawn(&case);
        let outputs = ChainLogits::reference(&params, &inputs);
        let tokens = discrete(&outputs, "tokens");
        for (i, exact) in tokens.value.iter().enumerate() {
            let x = at(&inputs, "target_logits", &params, i);
            for &token in tokens.also.get(&i).into_iter().flatten().chain([exact]).filter(|&&t| t >= 0) {
                prop_assert!(x[token as usize].is_finite(), "{} at {}", token, i);
            }
        }
    }
}

/// p-value of the joint law of accepted length and tokens, where kernels are told this temperature of logits that were
/// made at ½.
fn joint_p_value(temperature: f32, seed: u64) -> f64 {
    let (target, draft) = small();
    let (params, inputs) = repeated((&target, &draft), (0.5, DType::F32), ROWS, seed);
    let told = Tensor::new(&[ROWS], Data::F32(vec![temperature; ROWS]));
    let outputs = ChainLogits::reference(&params, &inputs.with("temperature", told));
    let law = law::joint(&target, &draft);
    g_test(&counts(&lines(params.draft_len, &outputs), params.vocab, law.len()), &law)
}

#[test]
fn the_joint_law_of_what_is_emitted_is_the_softmaxs() {
    let p = joint_p_value(0.5, 1);
    assert!(p > FALSE_ALARM, "p = {p:e}");
}

#[test]
fn a_temperature_a_tenth_off_is_rejected() {
    for wrong in [0.45, 0.55] {
        let p = joint_p_value(wrong, 2);
        assert!(p < FALSE_ALARM, "{wrong}: p = {p:e}");
    }
}

/// The bounds are those of rounding: where tokens and decisions are in doubt they are few.
#[test]
fn doubts_are_rare_and_name_few_tokens() {
    let case =
        "acceptance.chain_logits:batch=64,draft_len=3,vocab=8000,mass=sparse,dtype=bf16,seed=1";
    let (params, inputs) = drawn(&case.parse().unwrap());
    let outputs = ChainLogits::reference(&params, &inputs);
    assert!(discrete(&outputs, "accepted").also.len() <= 1);
    let also = &discrete(&outputs, "tokens").also;
    assert!(also.len() < 32, "{} of 64 rows are in doubt", also.len());
    assert!(also.values().all(|others| others.len() <= 2), "{also:?}");
}

#[test]
fn impossible_parameters_are_refused_with_the_reason() {
    let refused = |rest: &str| {
        let text = format!("acceptance.chain_logits:batch=1,draft_len=1,vocab=4,{rest}");
        ChainLogits::validate(&text.parse::<Case>().unwrap().params().unwrap()).unwrap_err()
    };
    assert!(refused("temperature=-1.0,dtype=f32").contains("temperature=-1"));
    assert!(refused("temperature=0.0,temperatures=mixed,dtype=f32").contains("temperature=0"));
    assert!(refused("dtype=f16").contains("f16"));
}
