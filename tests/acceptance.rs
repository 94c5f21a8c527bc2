//! Laws of speculative-sampling acceptance, shown on the reference.

#[path = "cases/acceptance.rs"]
mod cases;
#[path = "acceptance/logits.rs"]
mod logits;

use proptest::prelude::*;
use touchstone_bench::gtest::{FALSE_ALARM, g_test};
use touchstone_reference::{
    Algorithm, Case, Data, Draw, Expected, Outputs, Tensor, Tensors,
    acceptance::{
        chain::{Chain, Lengths, Mode, Params, Relation, argmax, repeated},
        law,
    },
};

/// What a row emitted: its accepted count, and the accepted and the further token.
type Emitted = (usize, Vec<i64>);

fn emitted(params: &Params, inputs: &Tensors) -> Vec<Emitted> {
    lines(params.draft_len, &Chain::reference(params, inputs))
}

fn lines(draft_len: usize, outputs: &Outputs) -> Vec<Emitted> {
    let integers = |name: &str| match outputs.output(name) {
        Expected::Discrete(discrete) => discrete.value.clone(),
        Expected::Real(_) => panic!("{name} is discrete"),
    };
    let (accepted, tokens) = (integers("accepted"), integers("tokens"));
    let rows = tokens.chunks(draft_len + 1).zip(accepted);
    rows.map(|(tokens, count)| {
        let count = count as usize;
        assert!(tokens[count + 1..].iter().all(|&t| t == -1), "after the further token comes -1");
        (count, tokens[..=count].to_vec())
    })
    .collect()
}

fn drawn(case: &Case) -> (Params, Tensors) {
    let params: Params = case.params().unwrap();
    Chain::validate(&params).unwrap();
    let inputs = Chain::inputs(&params, &mut Draw::new(case.seed()));
    (params, inputs)
}

fn cases() -> BoxedStrategy<Case> {
    cases::strategies().remove(0).1
}

fn case(text: &str) -> (Params, Tensors) {
    drawn(&text.parse().unwrap())
}

/// `row` of a real input whose last axis is the vocabulary.
fn law_at<'a>(inputs: &'a Tensors, name: &str, params: &Params, row: usize) -> &'a [f32] {
    match inputs.tensor(name).data() {
        Data::F32(values) => &values[row * params.vocab..][..params.vocab],
        _ => panic!("{name} is f32"),
    }
}

fn scaled(inputs: &Tensors, name: &str, factor: f32) -> Tensors {
    let tensor = inputs.tensor(name);
    let Data::F32(values) = tensor.data() else { panic!("{name} is f32") };
    let values = values.iter().map(|v| v * factor).collect();
    inputs.clone().with(name, Tensor::new(tensor.shape(), Data::F32(values)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn drawn_inputs_are_distributions_uniforms_and_drafts(case in cases()) {
        let (params, inputs) = drawn(&case);
        for name in ["draft_probs", "target_probs"] {
            for row in inputs.tensor(name).to_f64().chunks(params.vocab) {
                prop_assert!(row.iter().all(|&w| w >= 0.0));
                prop_assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-5);
            }
        }
        for name in ["accept_u", "sample_u"] {
            prop_assert!(inputs.tensor(name).to_f64().iter().all(|u| (0.0..1.0).contains(u)));
        }
        let lengths = inputs.tensor("draft_lengths").to_i64();
        for (row, length) in lengths.into_iter().enumerate() {
            let all = inputs.tensor("draft_tokens").to_i64();
            let (draft, padding) = all[row * params.draft_len..][..params.draft_len].split_at(length as usize);
            prop_assert!(draft.iter().all(|t| (0..params.vocab as i64).contains(t)));
            prop_assert!(padding.iter().all(|&t| t == -1));
        }
    }

    #[test]
    fn the_emitted_prefix_is_the_drafts(case in cases()) {
        let (params, inputs) = drawn(&case);
        let draft = inputs.tensor("draft_tokens").to_i64();
        let lengths = inputs.tensor("draft_lengths").to_i64();
        for (row, (count, tokens)) in emitted(&params, &inputs).into_iter().enumerate() {
            prop_assert!(count as i64 <= lengths[row]);
            prop_assert_eq!(&tokens[..count], &draft[row * params.draft_len..][..count]);
        }
    }

    #[test]
    fn tokens_without_mass_under_the_target_are_never_emitted(case in cases()) {
        let (params, inputs) = drawn(&case);
        for (row, (_, tokens)) in emitted(&params, &inputs).into_iter().enumerate() {
            for (i, &token) in tokens.iter().enumerate() {
                let p = law_at(&inputs, "target_probs", &params, row * (params.draft_len + 1) + i);
                prop_assert!(p[token as usize] > 0.0, "row {} emits {} at {}", row, token, i);
            }
        }
    }

    #[test]
    fn smaller_uniforms_accept_no_fewer_tokens(case in cases(), factor in 0.0f32..1.0) {
        let (params, inputs) = drawn(&case);
        let fewer = emitted(&params, &inputs);
        let more = emitted(&params, &scaled(&inputs, "accept_u", factor));
        for (fewer, more) in fewer.iter().zip(&more) {
            prop_assert!(fewer.0 <= more.0);
        }
    }

    #[test]
    fn a_target_equal_to_the_draft_accepts_all(case in cases()) {
        let (mut params, _) = drawn(&case);
        params.mode = Mode::Sample;
        params.relation = Relation::Same;
        params.draws = Default::default();
        let inputs = Chain::inputs(&params, &mut Draw::new(case.seed()));
        let lengths = inputs.tensor("draft_lengths").to_i64();
        for ((count, _), length) in emitted(&params, &inputs).into_iter().zip(lengths) {
            prop_assert_eq!(count as i64, length);
        }
    }

    #[test]
    fn disjoint_supports_accept_none(case in cases()) {
        let (mut params, _) = drawn(&case);
        params.mode = Mode::Sample;
        params.vocab = params.vocab.max(2);
        params.relation = Relation::Disjoint;
        params.draws = Default::default();
        let inputs = Chain::inputs(&params, &mut Draw::new(case.seed()));
        prop_assert!(emitted(&params, &inputs).iter().all(|(count, _)| *count == 0));
    }

    /// At temperature 0 softmax puts all mass on the argmax: sampling from those one-hot rows is the greedy
    /// mode, whatever the uniforms.
    #[test]
    fn greedy_equals_sampling_at_temperature_zero(case in cases()) {
        let (mut params, inputs) = drawn(&case);
        params.mode = Mode::Greedy;
        let greedy = emitted(&params, &inputs);
        let cold = |name: &str| {
            let tensor = inputs.tensor(name);
            let Data::F32(values) = tensor.data() else { panic!("{name} is f32") };
            let mut cold = vec![0.0; values.len()];
            for (row, values) in values.chunks(params.vocab).enumerate() {
                cold[row * params.vocab + argmax(values)] = 1.0;
            }
            Tensor::new(tensor.shape(), Data::F32(cold))
        };
        // The draft that greedy sees is whatever tokens it is given: q is one on each of them.
        let mut certain = vec![0.0; inputs.tensor("draft_probs").len()];
        for (position, &token) in inputs.tensor("draft_tokens").to_i64().iter().enumerate() {
            if token >= 0 {
                certain[position * params.vocab + token as usize] = 1.0;
            }
        }
        let shape = inputs.tensor("draft_probs").shape().to_vec();
        let cold = inputs
            .clone()
            .with("target_probs", cold("target_probs"))
            .with("draft_probs", Tensor::new(&shape, Data::F32(certain)));
        params.mode = Mode::Sample;
        prop_assert_eq!(greedy, emitted(&params, &cold));
    }

    /// Powers of two scale exactly: the draw is from weights, not from probabilities.
    #[test]
    fn unnormalized_rows_draw_the_same_tokens(case in cases(), power in -20i32..20) {
        let (params, inputs) = drawn(&case);
        let factor = 2f32.powi(power);
        let both = scaled(&scaled(&inputs, "target_probs", factor), "draft_probs", factor);
        prop_assert_eq!(emitted(&params, &inputs), emitted(&params, &both));
    }

    #[test]
    fn rows_do_not_depend_on_each_other(case in cases()) {
        let (params, inputs) = drawn(&case);
        let all = emitted(&params, &inputs);
        let one = Params { batch: 1, ..params.clone() };
        for (row, expected) in all.iter().enumerate() {
            let mut alone = Tensors::new();
            for (name, tensor) in inputs.iter() {
                let mut shape = tensor.shape().to_vec();
                shape[0] = 1;
                let size = tensor.bytes() / params.batch;
                let bytes = &tensor.as_bytes()[row * size..][..size];
                alone.insert(name, Tensor::from_bytes(tensor.dtype(), &shape, bytes));
            }
            prop_assert_eq!(&emitted(&one, &alone)[0], expected);
        }
    }
}

/// Distributions of a small problem: three positions of the target, two of the draft, five tokens, one of
/// them without mass under p, one without mass under q.
fn small() -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let target = vec![
        vec![0.3, 0.25, 0.2, 0.25, 0.0],
        vec![0.1, 0.4, 0.0, 0.2, 0.3],
        vec![0.0, 0.2, 0.3, 0.1, 0.4],
    ];
    let draft = vec![vec![0.2, 0.35, 0.25, 0.0, 0.2], vec![0.2, 0.3, 0.1, 0.0, 0.4]];
    (target, draft)
}

const ROWS: usize = 200_000;

fn counts(emitted: &[Emitted], vocab: usize, cells: usize) -> Vec<u64> {
    let mut counts = vec![0; cells];
    for (_, tokens) in emitted {
        counts[law::cell(tokens, vocab)] += 1;
    }
    counts
}

/// p-value of the joint law of accepted length and tokens on `inputs` made by [`repeated`].
fn joint_p_value(params: &Params, inputs: &Tensors) -> f64 {
    let (target, draft) = small();
    let law = law::joint(&target, &draft);
    g_test(&counts(&emitted(params, inputs), params.vocab, law.len()), &law)
}

#[test]
fn the_joint_law_of_what_is_emitted_is_the_targets() {
    let (target, draft) = small();
    for seed in 0..3 {
        let (params, inputs) = repeated(&target, &draft, ROWS, seed);
        let p = joint_p_value(&params, &inputs);
        assert!(p > FALSE_ALARM, "seed {seed}: p = {p:e}");
    }
}

#[test]
fn the_token_at_each_position_has_the_targets_law() {
    let (target, draft) = small();
    let (params, inputs) = repeated(&target, &draft, ROWS, 7);
    let emitted = emitted(&params, &inputs);
    for (position, law) in target.iter().enumerate() {
        let mut counts = vec![0; params.vocab];
        for (_, tokens) in emitted.iter().filter(|(_, tokens)| tokens.len() > position) {
            counts[tokens[position] as usize] += 1;
        }
        let law: Vec<f64> = law.iter().map(|&p| p.into()).collect();
        let p = g_test(&counts, &law);
        assert!(p > FALSE_ALARM, "position {position}: p = {p:e}");
    }
}

#[test]
fn a_sampler_that_accepts_two_percent_less_is_rejected() {
    let (target, draft) = small();
    let (params, inputs) = repeated(&target, &draft, ROWS, 1);
    let p = joint_p_value(&params, &scaled(&inputs, "accept_u", 1.0 / 0.98));
    assert!(p < FALSE_ALARM, "p = {p:e}");
}

/// Two rows in a hundred take their further token from p instead of the residual.
#[test]
fn a_sampler_that_sometimes_ignores_the_residual_is_rejected() {
    let (target, draft) = small();
    let (params, inputs) = repeated(&target, &draft, ROWS, 2);
    let law = law::joint(&target, &draft);
    let mut emitted = emitted(&params, &inputs);
    let mut draw = Draw::new(3);
    for (count, tokens) in emitted.iter_mut().step_by(50) {
        let (mut left, mut token) = (draw.unit() as f32, 0);
        while left >= target[*count][token] && token + 1 < params.vocab {
            left -= target[*count][token];
            token += 1;
        }
        tokens[*count] = token as i64;
    }
    let p = g_test(&counts(&emitted, params.vocab, law.len()), &law);
    assert!(p < FALSE_ALARM, "p = {p:e}");
}

/// The pairs (accepted length, token) of two positions are coupled when the rows share one uniform for
/// acceptance and resampling: marginals alone may miss that, the joint law does not.
#[test]
fn a_sampler_that_reuses_its_uniform_is_rejected() {
    let (target, draft) = small();
    let (params, inputs) = repeated(&target, &draft, ROWS, 4);
    let accept = inputs.tensor("accept_u").to_f64();
    let reused: Vec<f32> = accept.chunks(params.draft_len).map(|u| u[0] as f32).collect();
    let coupled = inputs.with("sample_u", Tensor::new(&[ROWS], Data::F32(reused)));
    let p = joint_p_value(&params, &coupled);
    assert!(p < FALSE_ALARM, "p = {p:e}");
}

#[test]
fn a_draft_of_length_zero_samples_the_target() {
    let (target, _) = small();
    let (params, inputs) = repeated(&target[..1], &[], ROWS, 5);
    let law = law::joint(&target[..1], &[]);
    let emitted = emitted(&params, &inputs);
    assert!(emitted.iter().all(|(count, _)| *count == 0));
    let p = g_test(&counts(&emitted, params.vocab, law.len()), &law);
    assert!(p > FALSE_ALARM, "p = {p:e}");
}

/// The share of first drafts accepted is 1 − TV(p, q) within 5.5 standard errors (false alarm 4e-8).
#[test]
fn the_acceptance_rate_is_one_minus_total_variation() {
    let (target, draft) = small();
    let (params, inputs) = repeated(&target, &draft, ROWS, 6);
    let hits = emitted(&params, &inputs).iter().filter(|(count, _)| *count > 0).count();
    let rate = law::acceptance_rate(&target[0], &draft[0]);
    let error = (rate * (1.0 - rate) / ROWS as f64).sqrt();
    let measured = hits as f64 / ROWS as f64;
    assert!((measured - rate).abs() < 5.5 * error, "{measured} against {rate}");
}

#[test]
fn tokens_within_rounding_of_the_threshold_are_few_and_have_mass() {
    let (params, inputs) =
        case("acceptance.chain:batch=64,draft_len=3,vocab=32000,mass=sparse,seed=1");
    let outputs = Chain::reference(&params, &inputs);
    let Expected::Discrete(tokens) = outputs.output("tokens") else {
        panic!("tokens are discrete")
    };
    assert!(tokens.also.len() < 32, "{} of 64 rows are in doubt", tokens.also.len());
    for (&at, others) in &tokens.also {
        let p = law_at(&inputs, "target_probs", &params, at);
        assert!(others.iter().all(|&t| p[t as usize] > 0.0));
    }
}

#[test]
fn impossible_parameters_are_refused_with_the_reason() {
    let refused = |text: &str| {
        let params: Params = text.parse::<Case>().unwrap().params().unwrap();
        Chain::validate(&params).unwrap_err()
    };
    assert!(refused("acceptance.chain:batch=1,draft_len=1,vocab=0").contains("vocab=0"));
    assert!(
        refused("acceptance.chain:batch=1,draft_len=1,vocab=1,relation=disjoint")
            .contains("disjoint")
    );
}

#[test]
fn ragged_batches_hold_every_length() {
    let (params, inputs) =
        case("acceptance.chain:batch=200,draft_len=3,vocab=8,lengths=ragged,seed=2");
    assert_eq!(params.lengths, Lengths::Ragged);
    let lengths = inputs.tensor("draft_lengths").to_i64();
    assert!((0..=3).all(|length| lengths.contains(&length)));
}
