//! The laws of the recurrences with a matrix-valued state: SSD, retention, gated linear attention, RWKV-7.

use proptest::prelude::*;
use touchstone_reference::{
    Case, DType, Tensors,
    ssm::{
        recurrence::{Field, Params as RecurrenceParams},
        retention::Params as RetentionParams,
        selective::Params as SelectiveParams,
        ssd::Params as SsdParams,
    },
};

use super::{Problem, cases, close, cut, f64_tensor, joined, output_tensor};

fn small_ssd() -> impl Strategy<Value = SsdParams> {
    (cases::ssd_params(), 1usize..3, 1usize..24, 1usize..3, 1usize..4, 1usize..4).prop_map(
        |(params, batch, seq_len, in_group, head_dim, state)| SsdParams {
            batch,
            seq_len,
            heads: in_group * params.groups,
            head_dim,
            state,
            dtype: DType::F32,
            ..params
        },
    )
}

fn small_retention() -> impl Strategy<Value = RetentionParams> {
    (cases::retention_params(), 1usize..3, 1usize..24, 1usize..4, 1usize..4).prop_map(
        |(params, batch, seq_len, key_dim, value_dim)| RetentionParams {
            batch,
            seq_len,
            key_dim,
            value_dim,
            dtype: DType::F32,
            ..params
        },
    )
}

/// Any of the four operations, from a given state, and its length.
fn any_with_state() -> impl Strategy<Value = (Problem, usize)> {
    let ssd = (small_ssd(), 0u64..100).prop_map(|(params, seed)| {
        let params = SsdParams { initial_state: true, ..params };
        (Problem::new(Case::new("ssm.ssd", &params, seed)), params.seq_len)
    });
    let retention = |op: &'static str| {
        (small_retention(), 0u64..100).prop_map(move |(params, seed)| {
            let params = RetentionParams { initial_state: true, ..params };
            (Problem::new(Case::new(op, &params, seed)), params.seq_len)
        })
    };
    let gated = retention("ssm.gated_linear_attention");
    prop_oneof![ssd, retention("ssm.retention"), gated, retention("ssm.rwkv7")]
}

/// Names of the inputs along time; it is their second axis.
const ALONG_TIME: [&str; 12] = ["x", "dt", "B", "C", "q", "k", "v", "g", "r", "w", "a", "b"];

/// The case of `problem` with another length.
fn with_length(problem: &Problem, seq_len: usize) -> Case {
    let case = &problem.case;
    if case.op() == "ssm.ssd" {
        let params: SsdParams = case.params().unwrap();
        Case::new(case.op(), &SsdParams { seq_len, ..params }, 0)
    } else {
        let params: RetentionParams = case.params().unwrap();
        Case::new(case.op(), &RetentionParams { seq_len, ..params }, 0)
    }
}

/// Steps `range` of a problem, from a state.
fn part(
    problem: &Problem,
    range: std::ops::Range<usize>,
    state: touchstone_reference::Tensor,
) -> Problem {
    let mut inputs = Tensors::new();
    for (name, tensor) in problem.inputs.iter() {
        let along = ALONG_TIME.contains(&name);
        inputs.insert(name, if along { cut(tensor, 1, range.clone()) } else { tensor.clone() });
    }
    inputs.insert("initial_state", state);
    Problem { case: with_length(problem, range.len()), inputs }
}

fn answer(problem: &Problem) -> &'static str {
    if problem.case.op() == "ssm.ssd" { "y" } else { "o" }
}

/// γ_t..γ_s and the scores of retention by its parallel form: o = (q kᵀ ∘ D) v / √key_dim.
fn parallel_form(
    params: &RetentionParams,
    problem: &Problem,
    gamma: impl Fn(usize) -> f64,
) -> Vec<f64> {
    let &RetentionParams { batch, seq_len, heads, key_dim, value_dim, .. } = params;
    let [q, k, v] = ["q", "k", "v"].map(|name| problem.input(name));
    let row = |b: usize, t: usize, h: usize| (b * seq_len + t) * heads + h;
    let mut out = vec![0.0; batch * seq_len * heads * value_dim];
    for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
        for (t, s) in (0..seq_len).flat_map(|t| (0..=t).map(move |s| (t, s))) {
            let score: f64 = (0..key_dim)
                .map(|n| q[row(b, t, h) * key_dim + n] * k[row(b, s, h) * key_dim + n])
                .sum();
            let score = score * gamma(h).powi((t - s) as i32) / (key_dim as f64).sqrt();
            for p in 0..value_dim {
                out[row(b, t, h) * value_dim + p] += score * v[row(b, s, h) * value_dim + p];
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn split_at_any_point_the_parts_give_the_whole((problem, seq_len) in any_with_state(), at in 0.0..1.0) {
        let at = (at * seq_len as f64) as usize;
        let first = part(&problem, 0..at, problem.inputs.tensor("initial_state").clone()).outputs();
        let second = part(&problem, at..seq_len, output_tensor(&first, "last_state")).outputs();
        let name = answer(&problem);
        let whole = joined([output_tensor(&first, name), output_tensor(&second, name)], 1);
        close(&problem.output(name), &whole, 1e-11)?;
        close(&problem.output("last_state"), &second.output("last_state").values(), 1e-11)?;
    }

    #[test]
    fn what_comes_later_changes_nothing_before((problem, seq_len) in any_with_state(), from in 0.0..1.0) {
        let from = (from * seq_len as f64) as usize;
        let mut other = problem.clone();
        for (name, tensor) in problem.inputs.iter().filter(|(name, _)| ALONG_TIME.contains(name)) {
            let values = tensor.to_f64();
            let row = values.len() / tensor.shape()[0] / seq_len;
            let later = |i: usize| i / row % seq_len >= from;
            let values = values.iter().enumerate().map(|(i, v)| if later(i) { v * 0.5 } else { *v }).collect();
            other.inputs.insert(name, f64_tensor(tensor.shape(), values));
        }
        let name = answer(&problem);
        let before = |problem: &Problem| cut(&output_tensor(&problem.outputs(), name), 1, 0..from).to_f64();
        prop_assert_eq!(before(&problem), before(&other));
    }

    #[test]
    fn step_sizes_of_zero_keep_the_state(params in small_ssd(), seed in 0u64..100) {
        let params = SsdParams { initial_state: true, ..params };
        let problem = Problem::new(Case::new("ssm.ssd", &params, seed)).with("dt", |_, _| 0.0);
        prop_assert_eq!(problem.output("last_state"), problem.input("initial_state"));
    }

    #[test]
    fn ssd_is_the_selective_scan_with_one_rate_a_head(params in small_ssd(), seed in 0u64..100) {
        let SsdParams { batch, seq_len, heads, head_dim, groups, state, .. } = params;
        let ssd = Problem::new(Case::new("ssm.ssd", &SsdParams { initial_state: false, skip: true, ..params }, seed));
        let channels = heads * head_dim;
        let turned = SelectiveParams {
            batch, channels, seq_len, state, groups, dtype: DType::F32, softplus: false, bias: false, skip: true,
            gate: false, initial_state: false,
        };
        let [x, dt, b, c] = ["x", "dt", "B", "C"].map(|name| ssd.input(name));
        let [rates, skip] = ["A", "D"].map(|name| ssd.input(name));
        // [batch, channels, seq_len] from [batch, seq_len, channels], and B, C from [.., seq_len, groups * state].
        let time_last = |i: usize, rows: usize| (i / (rows * seq_len) * seq_len + i % seq_len) * rows + i / seq_len % rows;
        let selective = Problem::new(Case::new("ssm.selective", &turned, seed))
            .with("u", |i, _| x[time_last(i, channels)])
            .with("delta", |i, _| dt[time_last(i, channels) / head_dim])
            .with("A", |i, _| rates[i / state / head_dim])
            .with("B", |i, _| b[time_last(i, groups * state)])
            .with("C", |i, _| c[time_last(i, groups * state)])
            .with("D", |i, _| skip[i / head_dim]);
        let y = ssd.output("y");
        let expected = selective.output("y");
        let turned: Vec<f64> = (0..expected.len()).map(|i| y[time_last(i, channels)]).collect();
        close(&expected, &turned, 1e-11)?;
    }

    #[test]
    fn with_one_state_and_unit_projections_ssd_is_the_recurrence(seq_len in 1usize..40, rate in -3.0..-0.01, seed in 0u64..100) {
        let params = SsdParams {
            batch: 1, seq_len, heads: 1, head_dim: 1, groups: 1, state: 1, dtype: DType::F32, skip: false,
            initial_state: false,
        };
        let ssd = Problem::new(Case::new("ssm.ssd", &params, seed))
            .with("A", |_, _| rate)
            .with("B", |_, _| 1.0)
            .with("C", |_, _| 1.0);
        let (x, dt) = (ssd.input("x"), ssd.input("dt"));
        let params = RecurrenceParams {
            batch: 1, seq_len, channels: 1, field: Field::Real, dtype: DType::F32, initial_state: false,
        };
        let recurrence = Problem::new(Case::new("ssm.recurrence", &params, seed))
            .with("a", |i, _| (dt[i] * rate).exp())
            .with("x", |i, _| dt[i] * x[i]);
        close(&ssd.output("y"), &recurrence.output("h"), 1e-12)?;
    }

    #[test]
    fn retention_has_a_parallel_form(params in small_retention(), seed in 0u64..100) {
        let params = RetentionParams { initial_state: false, ..params };
        let problem = Problem::new(Case::new("ssm.retention", &params, seed));
        let gamma = problem.input("gamma");
        close(&problem.output("o"), &parallel_form(&params, &problem, |h| gamma[h]), 1e-11)?;
    }

    #[test]
    fn retention_that_forgets_nothing_is_linear_attention(params in small_retention(), seed in 0u64..100) {
        let params = RetentionParams { initial_state: false, ..params };
        let problem = Problem::new(Case::new("ssm.retention", &params, seed)).with("gamma", |_, _| 1.0);
        close(&problem.output("o"), &parallel_form(&params, &problem, |_| 1.0), 1e-11)?;
    }

    #[test]
    fn gates_that_never_change_make_retention(params in small_retention(), seed in 0u64..100) {
        let retention = Problem::new(Case::new("ssm.retention", &params, seed));
        let gamma = retention.input("gamma");
        let RetentionParams { heads, key_dim, .. } = params;
        let mut gated = Problem::new(Case::new("ssm.gated_linear_attention", &params, seed))
            .with("g", |i, _| gamma[i / key_dim % heads].ln());
        for (name, tensor) in retention.inputs.iter().filter(|(name, _)| *name != "gamma") {
            gated.inputs.insert(name, tensor.clone());
        }
        close(&retention.output("o"), &gated.output("o"), 1e-11)?;
    }

    #[test]
    fn a_delta_rule_that_takes_nothing_is_gated_linear_attention(params in small_retention(), seed in 0u64..100) {
        let rwkv = Problem::new(Case::new("ssm.rwkv7", &params, seed)).with("a", |_, _| 0.0);
        let scale = (params.key_dim as f64).sqrt();
        let mut gated = Problem::new(Case::new("ssm.gated_linear_attention", &params, seed));
        for (name, ours) in [("r", "q"), ("k", "k"), ("v", "v"), ("w", "g"), ("initial_state", "initial_state")] {
            if let Some(tensor) = rwkv.inputs.get(name) {
                gated.inputs.insert(ours, tensor.clone());
            }
        }
        let gated = gated.with("q", |_, v| v * scale);
        close(&rwkv.output("o"), &gated.output("o"), 1e-11)?;
    }

    #[test]
    fn a_whole_rate_writes_the_value_in_place_of_what_the_key_gave(
        params in small_retention(), seed in 0u64..100,
    ) {
        // a = −κ, b = κ, k = κ and no decay: afterwards the state answers κ with v, whatever it held.
        let params = RetentionParams { seq_len: 1, initial_state: true, ..params };
        let problem = Problem::new(Case::new("ssm.rwkv7", &params, seed)).with("w", |_, _| 0.0);
        let kappa: Vec<f64> = problem.input("a").iter().map(|a| -a).collect();
        let mut problem = problem;
        for name in ["b", "k", "r"] {
            problem = problem.with(name, |i, _| kappa[i]);
        }
        // Stored κ̂ has length 1 only to rounding, which the answer inherits by what the state held.
        close(&problem.output("o"), &problem.input("v"), 1e-5)?;
    }
}
