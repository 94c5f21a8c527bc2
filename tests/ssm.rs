//! The laws of the scans, over the references.

#[path = "cases/ssm.rs"]
mod cases;
mod laws;
#[path = "ssm/matrix.rs"]
mod matrix;

use ndarray::{ArrayD, Axis, Slice};
use num_complex::Complex64;
use proptest::prelude::*;
use touchstone_reference::{
    Case, DType, Expected, Outputs, Tensor, Tensors, operation,
    ssm::{
        recurrence::{Field, Params as RecurrenceParams},
        s4d::Params as S4dParams,
        selective::Params as SelectiveParams,
    },
};

/// A problem whose inputs are f64, so that they can be cut and changed without rounding.
#[derive(Clone, Debug)]
struct Problem {
    case: Case,
    inputs: Tensors,
}

impl Problem {
    fn new(case: Case) -> Self {
        let drawn = operation(&case).unwrap().inputs(&case).unwrap();
        let mut inputs = Tensors::new();
        for (name, tensor) in drawn.iter() {
            inputs.insert(name, f64_tensor(tensor.shape(), tensor.to_f64()));
        }
        Self { case, inputs }
    }

    fn with(mut self, name: &str, change: impl Fn(usize, f64) -> f64) -> Self {
        let tensor = self.inputs.tensor(name);
        let values = tensor.to_f64().into_iter().enumerate().map(|(i, v)| change(i, v)).collect();
        let changed = f64_tensor(tensor.shape(), values);
        self.inputs.insert(name, changed);
        self
    }

    fn outputs(&self) -> Outputs {
        operation(&self.case).unwrap().reference(&self.case, &self.inputs).unwrap()
    }

    fn output(&self, name: &str) -> Vec<f64> {
        self.outputs().output(name).values()
    }

    fn input(&self, name: &str) -> Vec<f64> {
        self.inputs.tensor(name).to_f64()
    }
}

fn f64_tensor(shape: &[usize], values: Vec<f64>) -> Tensor {
    Tensor::from_real(DType::F64, shape, &values)
}

/// The part of a tensor with `range` of an axis.
fn cut(tensor: &Tensor, axis: usize, range: std::ops::Range<usize>) -> Tensor {
    let all = ArrayD::from_shape_vec(tensor.shape(), tensor.to_f64()).unwrap();
    let part = all.slice_axis(Axis(axis), Slice::from(range));
    f64_tensor(part.shape(), part.iter().copied().collect())
}

fn joined(parts: [Tensor; 2], axis: usize) -> Vec<f64> {
    let [first, second] = parts.map(|t| ArrayD::from_shape_vec(t.shape(), t.to_f64()).unwrap());
    let all = ndarray::concatenate(Axis(axis), &[first.view(), second.view()]).unwrap();
    all.iter().copied().collect()
}

fn output_tensor(outputs: &Outputs, name: &str) -> Tensor {
    let expected = outputs.output(name);
    f64_tensor(expected.shape(), expected.values())
}

fn close(a: &[f64], b: &[f64], relative: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.len(), b.len());
    for (&a, &b) in a.iter().zip(b) {
        prop_assert!((a - b).abs() <= relative * (1.0 + a.abs()), "{} is not {}", a, b);
    }
    Ok(())
}

fn small_recurrence() -> impl Strategy<Value = Problem> {
    let field = prop_oneof![Just(Field::Real), Just(Field::Complex)];
    (1usize..3, 1usize..40, 1usize..5, field, 0u64..100).prop_map(
        |(batch, seq_len, channels, field, seed)| {
            let dtype = DType::F32;
            let initial_state = true;
            let params = RecurrenceParams { batch, seq_len, channels, field, dtype, initial_state };
            Problem::new(Case::new("ssm.recurrence", &params, seed))
        },
    )
}

fn small_selective() -> impl Strategy<Value = SelectiveParams> {
    (cases::params(), 1usize..3, 1usize..4, 1usize..24, 1usize..4).prop_map(
        |(params, batch, in_group, seq_len, state)| SelectiveParams {
            batch,
            channels: in_group * params.groups,
            seq_len,
            state,
            dtype: DType::F32,
            ..params
        },
    )
}

/// Names of the selective scan's inputs along time, with their axis of time.
const ALONG_TIME: [(&str, usize); 5] = [("u", 2), ("delta", 2), ("z", 2), ("B", 3), ("C", 3)];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_generated_case_has_valid_inputs(index in 0usize..9, seed in any::<u64>()) {
        laws::case_has_valid_inputs(cases::strategies(), index, seed)?;
    }

    #[test]
    fn a_recurrence_split_at_any_point_gives_the_same(problem in small_recurrence(), at in 0.0..1.0) {
        let mut params: RecurrenceParams = problem.case.params().unwrap();
        let whole = problem.output("h");
        let at = (at * params.seq_len as f64) as usize;
        let part = |range: std::ops::Range<usize>, state: &Tensor, params: &mut RecurrenceParams| {
            params.seq_len = range.len();
            let inputs = Tensors::new()
                .with("a", cut(problem.inputs.tensor("a"), 1, range.clone()))
                .with("x", cut(problem.inputs.tensor("x"), 1, range))
                .with("initial_state", state.clone());
            let part = Problem { case: Case::new("ssm.recurrence", params, 0), inputs };
            output_tensor(&part.outputs(), "h")
        };
        let seq_len = params.seq_len;
        let initial = problem.inputs.tensor("initial_state").clone();
        let first = part(0..at, &initial, &mut params);
        let state = if at == 0 { initial } else { cut(&first, 1, at - 1..at) };
        let second = part(at..seq_len, &state, &mut params);
        close(&joined([first, second], 1), &whole, 1e-12)?;
    }

    #[test]
    fn zero_factors_copy_x(problem in small_recurrence()) {
        let problem = problem.with("a", |_, _| 0.0);
        prop_assert_eq!(problem.output("h"), problem.input("x"));
    }

    #[test]
    fn unit_factors_make_the_cumulative_sum(seq_len in 1usize..50, seed in 0u64..100) {
        let params = RecurrenceParams {
            batch: 1, seq_len, channels: 1, field: Field::Real, dtype: DType::F32, initial_state: false,
        };
        let problem = Problem::new(Case::new("ssm.recurrence", &params, seed)).with("a", |_, _| 1.0);
        let mut sum = 0.0;
        let sums: Vec<f64> = problem.input("x").iter().map(|x| { sum += x; sum }).collect();
        close(&problem.output("h"), &sums, 1e-13)?;
    }

    #[test]
    fn the_recurrence_is_linear_in_x_and_the_state(problem in small_recurrence(), scale in -3.0..3.0) {
        let scaled = problem.clone().with("x", |_, v| scale * v).with("initial_state", |_, v| scale * v);
        let expected: Vec<f64> = problem.output("h").iter().map(|h| scale * h).collect();
        close(&scaled.output("h"), &expected, 1e-12)?;
    }

    #[test]
    fn a_column_depends_on_itself_alone(problem in small_recurrence()) {
        let params: RecurrenceParams = problem.case.params().unwrap();
        let row = params.channels * params.parts();
        let first = |i: usize| i % row < params.parts() && i / row < params.seq_len;
        let other = problem.clone().with("x", |i, v| if first(i) { v } else { v + 1.0 });
        let (before, after) = (problem.output("h"), other.output("h"));
        for i in (0..before.len()).filter(|&i| first(i)) {
            prop_assert_eq!(before[i], after[i]);
        }
    }

    #[test]
    fn a_selective_scan_split_at_any_point_gives_the_same(
        params in small_selective(), at in 0.0..1.0, seed in 0u64..100,
    ) {
        let params = SelectiveParams { initial_state: true, ..params };
        let problem = Problem::new(Case::new("ssm.selective", &params, seed));
        let at = (at * params.seq_len as f64) as usize;
        let part = |range: std::ops::Range<usize>, state: &Tensor| {
            let mut inputs = problem.inputs.clone();
            for (name, axis) in ALONG_TIME {
                if let Some(tensor) = problem.inputs.get(name) {
                    inputs.insert(name, cut(tensor, axis, range.clone()));
                }
            }
            inputs.insert("initial_state", state.clone());
            let params = SelectiveParams { seq_len: range.len(), ..params.clone() };
            Problem { case: Case::new("ssm.selective", &params, 0), inputs }.outputs()
        };
        let first = part(0..at, problem.inputs.tensor("initial_state"));
        let second = part(at..params.seq_len, &output_tensor(&first, "last_state"));
        let y = joined([output_tensor(&first, "y"), output_tensor(&second, "y")], 2);
        close(&y, &problem.output("y"), 1e-12)?;
        close(&second.output("last_state").values(), &problem.output("last_state"), 1e-12)?;
    }

    #[test]
    fn a_step_size_of_zero_keeps_the_state(params in small_selective(), seed in 0u64..100) {
        let params = SelectiveParams { softplus: false, bias: false, initial_state: true, ..params };
        let problem = Problem::new(Case::new("ssm.selective", &params, seed)).with("delta", |_, _| 0.0);
        prop_assert_eq!(problem.output("last_state"), problem.input("initial_state"));
    }

    #[test]
    fn without_input_the_state_decays(params in small_selective(), seed in 0u64..100) {
        let params = SelectiveParams { initial_state: true, ..params };
        let problem = Problem::new(Case::new("ssm.selective", &params, seed)).with("u", |_, _| 0.0);
        let start = problem.input("initial_state");
        for (end, start) in problem.output("last_state").iter().zip(start) {
            prop_assert!(end.abs() < start.abs() || start == 0.0, "{} from {}", end, start);
        }
    }

    #[test]
    fn with_one_state_and_constant_weights_it_is_the_recurrence(
        seq_len in 1usize..40, step in 0.01..2.0, rate in -3.0..-0.01, seed in 0u64..100,
    ) {
        let params = SelectiveParams {
            batch: 1, channels: 1, seq_len, state: 1, groups: 1, dtype: DType::F32, softplus: false,
            bias: false, skip: false, gate: false, initial_state: false,
        };
        let selective = Problem::new(Case::new("ssm.selective", &params, seed))
            .with("delta", |_, _| step)
            .with("A", |_, _| rate)
            .with("B", |_, _| 1.0)
            .with("C", |_, _| 1.0);
        let u = selective.input("u");
        let params = RecurrenceParams {
            batch: 1, seq_len, channels: 1, field: Field::Real, dtype: DType::F32, initial_state: false,
        };
        let recurrence = Problem::new(Case::new("ssm.recurrence", &params, seed))
            .with("a", |_, _| (step * rate).exp())
            .with("x", |i, _| step * u[i]);
        close(&selective.output("y"), &recurrence.output("h"), 1e-12)?;
    }

    #[test]
    fn sequences_may_change_places(params in small_selective(), seed in 0u64..100) {
        let params = SelectiveParams { batch: 2, ..params };
        let problem = Problem::new(Case::new("ssm.selective", &params, seed));
        let mut swapped = problem.clone();
        for (name, tensor) in problem.inputs.iter().filter(|(name, _)| !["A", "D", "delta_bias"].contains(name)) {
            let turned = joined([cut(tensor, 0, 1..2), cut(tensor, 0, 0..1)], 0);
            swapped.inputs.insert(name, f64_tensor(tensor.shape(), turned));
        }
        let y = output_tensor(&problem.outputs(), "y");
        let turned = joined([cut(&y, 0, 1..2), cut(&y, 0, 0..1)], 0);
        prop_assert_eq!(swapped.output("y"), turned);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn s4d_is_the_convolution_with_its_kernel(
        batch in 1usize..3, channels in 1usize..3, seq_len in 1usize..40, state in 1usize..5, seed in 0u64..100,
    ) {
        let params = S4dParams { batch, channels, seq_len, state };
        let problem = Problem::new(Case::new("ssm.s4d", &params, seed));
        let complex = |name| -> Vec<Complex64> {
            problem.input(name).chunks(2).map(|p| Complex64::new(p[0], p[1])).collect()
        };
        let (lambda, w) = (complex("lambda"), complex("w"));
        let kernel = |c: usize, l: usize| -> f64 {
            (c * state..(c + 1) * state).map(|n| 2.0 * (w[n] * lambda[n].powu(l as u32)).re).sum()
        };
        let (u, d) = (problem.input("u"), problem.input("D"));
        let y: Vec<f64> = (0..u.len()).map(|i| {
            let (c, t) = (i / seq_len % channels, i % seq_len);
            d[c] * u[i] + (0..=t).map(|l| kernel(c, l) * u[i - l]).sum::<f64>()
        }).collect();
        close(&problem.output("y"), &y, 1e-11)?;
    }

    #[test]
    fn s4d_with_one_state_is_the_complex_recurrence(seq_len in 1usize..40, seed in 0u64..100) {
        let params = S4dParams { batch: 1, channels: 1, seq_len, state: 1 };
        let s4d = Problem::new(Case::new("ssm.s4d", &params, seed)).with("D", |_, _| 0.0);
        let [u, lambda, w] = ["u", "lambda", "w"].map(|name| s4d.input(name));
        let params = RecurrenceParams {
            batch: 1, seq_len, channels: 1, field: Field::Complex, dtype: DType::F32, initial_state: false,
        };
        let h = Problem::new(Case::new("ssm.recurrence", &params, seed))
            .with("a", |i, _| lambda[i % 2])
            .with("x", |i, _| if i % 2 == 0 { u[i / 2] } else { 0.0 })
            .output("h");
        let y: Vec<f64> = h.chunks(2).map(|h| 2.0 * (w[0] * h[0] - w[1] * h[1])).collect();
        close(&s4d.output("y"), &y, 1e-11)?;
    }
}

/// Σ output·weight: the loss whose gradient the backward operations compute.
fn loss(problem: &Problem, output: &str, weights: &[f64]) -> f64 {
    problem.output(output).iter().zip(weights).map(|(y, w)| y * w).sum()
}

/// Holds every element of a gradient against the central difference of the loss.
fn check_gradient(
    forward: &Problem,
    output: &str,
    weights: &[f64],
    input: &str,
    gradient: &[f64],
) -> Result<(), TestCaseError> {
    const STEP: f64 = 1e-5;
    prop_assert_eq!(gradient.len(), forward.input(input).len());
    for (i, &expected) in gradient.iter().enumerate() {
        let moved = |step: f64| {
            let problem = forward.clone().with(input, |j, v| if i == j { v + step } else { v });
            loss(&problem, output, weights)
        };
        let got = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        let scale = 1.0 + expected.abs();
        prop_assert!(
            (got - expected).abs() < 1e-6 * scale,
            "d{}[{}]: {} is not {}",
            input,
            i,
            expected,
            got
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn selective_gradients_are_the_derivatives(
        params in small_selective(), seq_len in 1usize..6, seed in 0u64..100,
    ) {
        let params = SelectiveParams { seq_len, initial_state: false, ..params };
        let backward = Problem::new(Case::new("ssm.selective_backward", &params, seed));
        let forward = Problem {
            case: Case::new("ssm.selective", &params, seed),
            inputs: backward.inputs.clone(),
        };
        let (gradients, dy) = (backward.outputs(), backward.input("dy"));
        for (name, expected) in gradients.iter() {
            check_gradient(&forward, "y", &dy, &name[1..], &expected.values())?;
        }
    }

    #[test]
    fn recurrence_gradients_are_the_derivatives(problem in small_recurrence(), seed in 0u64..100) {
        let params: RecurrenceParams = problem.case.params().unwrap();
        let params = RecurrenceParams { seq_len: params.seq_len.min(6), ..params };
        let forward = Problem::new(Case::new("ssm.recurrence", &params, seed));
        let mut backward = Problem::new(Case::new("ssm.recurrence_backward", &params, seed));
        for name in ["a", "initial_state"] {
            backward.inputs.insert(name, forward.inputs.tensor(name).clone());
        }
        backward.inputs.insert("h", output_tensor(&forward.outputs(), "h"));
        let (gradients, dh) = (backward.outputs(), backward.input("dh"));
        for (name, expected) in gradients.iter() {
            check_gradient(&forward, "h", &dh, &name[1..], &expected.values())?;
        }
    }
}

fn bounds(expected: &Expected) -> Vec<f64> {
    match expected {
        Expected::Real(real) => real.bound.clone(),
        Expected::Discrete(_) => panic!("scans have real outputs"),
    }
}

/// A plain f32 scan of a whole recurrence stays within the bound, and the bound within 200 of its errors.
#[test]
fn the_bound_holds_a_plain_f32_recurrence_and_is_not_far_above_it() {
    let params = RecurrenceParams {
        batch: 1,
        seq_len: 3000,
        channels: 8,
        field: Field::Real,
        dtype: DType::F32,
        initial_state: true,
    };
    let problem = Problem::new(Case::new("ssm.recurrence", &params, 5));
    let outputs = problem.outputs();
    let (value, bound) = (outputs.output("h").values(), bounds(outputs.output("h")));
    let (a, x) = (problem.input("a"), problem.input("x"));
    let mut h: Vec<f32> = problem.input("initial_state").iter().map(|&v| v as f32).collect();
    let mut worst = 0f64;
    for i in 0..value.len() {
        let h = &mut h[i % 8];
        *h = a[i] as f32 * *h + x[i] as f32;
        worst = worst.max((f64::from(*h) - value[i]).abs() / bound[i]);
    }
    assert!(worst <= 1.0, "error {worst} of the bound");
    assert!(worst >= 0.005, "the bound is {} times the largest error", 1.0 / worst);
}

/// Sampled rows of a large problem are those that the whole computation gives.
#[test]
fn a_sample_has_the_values_of_the_whole() {
    let params = SelectiveParams {
        batch: 2,
        channels: 40,
        seq_len: 4000,
        state: 16,
        groups: 2,
        dtype: DType::F32,
        softplus: true,
        bias: true,
        skip: true,
        gate: true,
        initial_state: false,
    };
    let problem = Problem::new(Case::new("ssm.selective_backward", &params, 3));
    let outputs = problem.outputs();
    // One sequence alone is small enough to be computed whole.
    let mut part = problem.clone();
    part.case =
        Case::new("ssm.selective_backward", &SelectiveParams { batch: 1, ..params.clone() }, 3);
    for (name, tensor) in problem.inputs.iter() {
        if !["A", "D", "delta_bias"].contains(&name) {
            part.inputs.insert(name, cut(tensor, 0, 0..1));
        }
    }
    let whole = part.outputs();
    for name in ["du", "ddelta", "dz", "dB", "dC"] {
        let Expected::Real(sampled) = outputs.output(name) else { panic!("{name} is real") };
        let at = sampled.at.as_ref().unwrap_or_else(|| panic!("{name} is not sampled"));
        let whole = whole.output(name).values();
        let known = at.iter().zip(&sampled.value).filter(|(at, _)| **at < whole.len());
        let mut count = 0;
        for (&at, value) in known {
            assert!((whole[at] - value).abs() <= 1e-9 * (1.0 + value.abs()), "{name}[{at}]");
            count += 1;
        }
        assert!(count >= params.seq_len, "{name}: only {count} elements known");
    }
}
