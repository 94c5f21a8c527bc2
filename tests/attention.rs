//! The laws of attention, over the reference.

#[path = "cases/attention.rs"]
mod cases;

use proptest::prelude::*;
use touchstone_reference::{
    Case, DType, Expected, Outputs, Tensor, Tensors,
    attention::{
        Mask,
        decode::{Cache, Params as DecodeParams},
        forward::Params as ForwardParams,
    },
    operation,
};

fn inputs(case: &Case) -> Tensors {
    operation(case).unwrap().inputs(case).unwrap()
}

fn answer(case: &Case, inputs: &Tensors) -> Outputs {
    operation(case).unwrap().reference(case, inputs).unwrap()
}

fn values(outputs: &Outputs, name: &str) -> Vec<f64> {
    outputs.output(name).values()
}

fn bounds(outputs: &Outputs, name: &str) -> Vec<f64> {
    match outputs.output(name) {
        Expected::Real(real) => real.bound.clone(),
        Expected::Discrete(_) => panic!("attention has real outputs"),
    }
}

/// The inputs with one tensor's values changed.
fn changed(inputs: &Tensors, name: &str, change: impl FnOnce(&mut Vec<f64>)) -> Tensors {
    let tensor = inputs.tensor(name);
    let mut values = tensor.to_f64();
    change(&mut values);
    let mut inputs = inputs.clone();
    inputs.insert(name, Tensor::from_real(tensor.dtype(), tensor.shape(), &values));
    inputs
}

fn close(a: &[f64], b: &[f64], relative: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.len(), b.len());
    for (&a, &b) in a.iter().zip(b) {
        prop_assert!(a == b || (a - b).abs() <= relative * (1.0 + a.abs()), "{} is not {}", a, b);
    }
    Ok(())
}

/// Splits `values` into blocks of `size` and puts them in the order `order`.
fn reordered(values: &[f64], size: usize, order: &[usize]) -> Vec<f64> {
    order.iter().flat_map(|&i| values[i * size..(i + 1) * size].iter().copied()).collect()
}

/// A forward case in f32 whose inputs can be changed without rounding surprises.
fn small_forward() -> impl Strategy<Value = (ForwardParams, u64)> {
    cases::forward().prop_map(|case| {
        let mut p: ForwardParams = case.params().unwrap();
        p.dtype = DType::F32;
        p.head_dim = p.head_dim.min(32);
        (p, case.seed())
    })
}

fn forward_case(p: &ForwardParams, seed: u64) -> Case {
    Case::new("attention.forward", p, seed)
}

/// A score by the definition: of `x = scale · q · k`.
fn score_of(p: &ForwardParams, x: f64) -> f64 {
    if p.softcap > 0.0 { p.softcap * (x / p.softcap).tanh() } else { x }
}

/// The same case with another soft cap.
fn with_softcap(case: &Case, softcap: f64) -> Case {
    let others = case.fields().filter(|(key, _)| *key != "softcap");
    let others: String = others.map(|(key, value)| format!("{key}={value},")).collect();
    format!("{}:softcap={softcap},{others}seed={}", case.op(), case.seed()).parse().unwrap()
}

fn visible_keys(p: &ForwardParams, inputs: &Tensors, b: usize, i: usize) -> std::ops::Range<usize> {
    let length = |name: &str| inputs.tensor(name).to_i64()[b] as usize;
    p.problem().visible(i, length("lengths_q"), length("lengths_k"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_generated_case_is_valid_and_its_bounds_are_finite(
        case in proptest::strategy::Union::new(cases::strategies().into_iter().map(|(_, cases)| cases))
    ) {
        let outputs = answer(&case, &inputs(&case));
        for (name, _) in outputs.iter() {
            prop_assert!(bounds(&outputs, name).iter().all(|b| b.is_finite() && *b >= 0.0), "{}", name);
            prop_assert!(values(&outputs, name).iter().all(|v| !v.is_nan()), "{}", name);
        }
    }

    #[test]
    fn bounds_are_tighter_than_most_values(case in prop_oneof![cases::forward(), cases::decode()]) {
        let outputs = answer(&case, &inputs(&case));
        let (values, bounds) = (values(&outputs, "o"), bounds(&outputs, "o"));
        let known = values.iter().zip(&bounds).filter(|(v, _)| **v != 0.0);
        let (tight, all) = known.fold((0, 0), |(tight, all), (v, b)| {
            (tight + usize::from(*b < v.abs()), all + 1)
        });
        prop_assert!(4 * tight >= 3 * all, "{} of {}", tight, all);
    }

    #[test]
    fn probabilities_from_the_log_sum_exp_add_up_to_one((p, seed) in small_forward()) {
        let case = forward_case(&p, seed);
        let inputs = inputs(&case);
        let lse = values(&answer(&case, &inputs), "lse");
        let (q, k) = (inputs.tensor("q").to_f64(), inputs.tensor("k").to_f64());
        let scale = p.problem().scale;
        for at in (0..lse.len()).step_by(7) {
            let (b, h, i) = (at / p.seq_q / p.heads_q, at / p.seq_q % p.heads_q, at % p.seq_q);
            let query = &q[((b * p.seq_q + i) * p.heads_q + h) * p.head_dim..][..p.head_dim];
            let seen = visible_keys(&p, &inputs, b, i);
            let any = !seen.is_empty();
            let sum: f64 = seen
                .map(|j| {
                    let head = h / (p.heads_q / p.heads_kv);
                    let key = &k[((b * p.seq_k + j) * p.heads_kv + head) * p.head_dim..];
                    let score: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    (score_of(&p, scale * score) - lse[at]).exp()
                })
                .sum();
            let right = if any { (sum - 1.0).abs() < 1e-9 } else { lse[at] == f64::NEG_INFINITY };
            prop_assert!(right, "sum {}, lse {}", sum, lse[at]);
        }
    }

    #[test]
    fn outputs_lie_between_the_least_and_the_largest_value((p, seed) in small_forward()) {
        let case = forward_case(&p, seed);
        let inputs = inputs(&case);
        let o = values(&answer(&case, &inputs), "o");
        let v = inputs.tensor("v").to_f64();
        for at in (0..o.len()).step_by(5) {
            let (row, d) = (at / p.head_dim, at % p.head_dim);
            let (b, i, h) = (row / p.heads_q / p.seq_q, row / p.heads_q % p.seq_q, row % p.heads_q);
            let head = h / (p.heads_q / p.heads_kv);
            let seen = visible_keys(&p, &inputs, b, i)
                .map(|j| v[((b * p.seq_k + j) * p.heads_kv + head) * p.head_dim + d]);
            let (low, high) = seen.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
                (low.min(v), high.max(v))
            });
            let inside = low - 1e-9 <= o[at] && o[at] <= high + 1e-9;
            let right = if low > high { o[at] == 0.0 } else { inside };
            prop_assert!(right, "{} in {}..{}", o[at], low, high);
        }
    }

    #[test]
    fn masked_keys_do_not_matter((p, seed) in small_forward()) {
        let case = forward_case(&p, seed);
        let before = inputs(&case);
        let width = p.heads_kv * p.head_dim;
        let seen: Vec<bool> = (0..p.batch * p.seq_k)
            .map(|at| {
                let (b, j) = (at / p.seq_k, at % p.seq_k);
                (0..p.seq_q).any(|i| visible_keys(&p, &before, b, i).contains(&j))
            })
            .collect();
        let spoil = |values: &mut Vec<f64>| {
            for (at, value) in values.iter_mut().enumerate() {
                if !seen[at / width] {
                    *value = f64::NAN;
                }
            }
        };
        let after = changed(&changed(&before, "k", spoil), "v", spoil);
        let (before, after) = (answer(&case, &before), answer(&case, &after));
        prop_assert_eq!(values(&before, "o"), values(&after, "o"));
        prop_assert_eq!(values(&before, "lse"), values(&after, "lse"));
    }

    #[test]
    fn permuting_the_batch_permutes_the_output((p, seed) in small_forward()) {
        let case = forward_case(&p, seed);
        let before = inputs(&case);
        let order: Vec<usize> = (0..p.batch).rev().collect();
        let mut after = Tensors::new();
        for (name, tensor) in before.iter() {
            let size = tensor.len().checked_div(p.batch).unwrap_or(0);
            let tensor = if tensor.dtype() == DType::I32 {
                let lengths: Vec<i64> = tensor.to_i64().into_iter().rev().collect();
                Tensor::from_integers(DType::I32, tensor.shape(), &lengths)
            } else {
                let values = reordered(&tensor.to_f64(), size, &order);
                Tensor::from_real(tensor.dtype(), tensor.shape(), &values)
            };
            after.insert(name, tensor);
        }
        let (before, after) = (answer(&case, &before), answer(&case, &after));
        for name in ["o", "lse"] {
            let size = values(&before, name).len().checked_div(p.batch).unwrap_or(0);
            prop_assert_eq!(reordered(&values(&before, name), size, &order), values(&after, name));
        }
    }

    #[test]
    fn the_order_of_keys_does_not_matter_without_a_mask((mut p, seed) in small_forward()) {
        p.mask = Mask::Full;
        p.window = 0;
        p.lengths = touchstone_reference::attention::Lengths::Full;
        let case = forward_case(&p, seed);
        let before = inputs(&case);
        let width = p.heads_kv * p.head_dim;
        let order: Vec<usize> = (0..p.batch)
            .flat_map(|b| (0..p.seq_k).rev().map(move |j| b * p.seq_k + j))
            .collect();
        let turn = |values: &mut Vec<f64>| *values = reordered(values, width, &order);
        let after = changed(&changed(&before, "k", turn), "v", turn);
        let (before, after) = (answer(&case, &before), answer(&case, &after));
        close(&values(&before, "o"), &values(&after, "o"), 1e-11)?;
        close(&values(&before, "lse"), &values(&after, "lse"), 1e-11)?;
    }

    #[test]
    fn a_causal_prefix_does_not_see_what_follows((mut p, seed) in small_forward(), cut in 1usize..40) {
        p.mask = Mask::Causal;
        p.window = 0;
        p.lengths = touchstone_reference::attention::Lengths::Full;
        p.seq_k = p.seq_q;
        p.batch = 1;
        let cut = cut.min(p.seq_q);
        let whole = inputs(&forward_case(&p, seed));
        let mut part = p.clone();
        (part.seq_q, part.seq_k) = (cut, cut);
        let mut prefix = Tensors::new();
        for name in ["q", "k", "v"] {
            let mut shape = whole.tensor(name).shape().to_vec();
            shape[1] = cut;
            let len = shape.iter().product();
            prefix.insert(name, Tensor::from_real(p.dtype, &shape, &whole.tensor(name).to_f64()[..len]));
        }
        for name in ["lengths_q", "lengths_k"] {
            prefix.insert(name, Tensor::from_integers(DType::I32, &[1], &[cut as i64]));
        }
        let o = values(&answer(&forward_case(&p, seed), &whole), "o");
        let head = values(&answer(&forward_case(&part, seed), &prefix), "o");
        prop_assert_eq!(&o[..head.len()], &head[..]);
    }

    #[test]
    fn adding_a_constant_to_all_scores_moves_only_the_log_sum_exp((mut p, seed) in small_forward()) {
        // With one more dimension that holds 1 in every query and c in every key, each score grows by scale·c.
        p.scale = Some(0.25);
        p.softcap = 0.0;
        p.head_dim = p.head_dim.max(2);
        let case = forward_case(&p, seed);
        let base = inputs(&case);
        let last = |to: f64| move |values: &mut Vec<f64>| {
            values.iter_mut().skip(p.head_dim - 1).step_by(p.head_dim).for_each(|x| *x = to);
        };
        let none = changed(&changed(&base, "q", last(1.0)), "k", last(0.0));
        let eight = changed(&changed(&base, "q", last(1.0)), "k", last(8.0));
        let (none, eight) = (answer(&case, &none), answer(&case, &eight));
        close(&values(&none, "o"), &values(&eight, "o"), 1e-11)?;
        let moved: Vec<f64> = values(&none, "lse").iter().map(|lse| lse + 2.0).collect();
        close(&moved, &values(&eight, "lse"), 1e-11)?;
    }

    #[test]
    fn a_cap_far_above_all_scores_changes_nothing(
        case in prop_oneof![cases::forward(), cases::backward(), cases::decode()]
    ) {
        // tanh(y) is y up to y³ / 3, so scores of a few hundred, the largest here, move by 10⁻⁵.
        let (plain, capped) = (with_softcap(&case, 0.0), with_softcap(&case, 1e6));
        let given = inputs(&plain);
        let (plain, capped) = (answer(&plain, &given), answer(&capped, &given));
        for (name, _) in plain.iter() {
            close(&values(&plain, name), &values(&capped, name), 1e-4)?;
        }
    }

    #[test]
    fn no_log_sum_exp_is_farther_than_the_cap_from_that_of_equal_scores((mut p, seed) in small_forward()) {
        p.softcap = 0.5;
        p.sd = 4.0;
        let case = forward_case(&p, seed);
        let inputs = inputs(&case);
        for (at, lse) in values(&answer(&case, &inputs), "lse").iter().enumerate() {
            let (b, i) = (at / p.seq_q / p.heads_q, at % p.seq_q);
            let seen = visible_keys(&p, &inputs, b, i).len() as f64;
            let within = (lse - seen.ln()).abs() <= p.softcap + 1e-12;
            prop_assert!(seen == 0.0 || within, "{} of {} keys", lse, seen);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn decoding_gives_the_last_row_of_the_causal_forward_pass(
        keys in 1usize..70, group in 1usize..4, dim in 1usize..20, seed in 0u64..1000,
        softcap in prop_oneof![Just(0.0), Just(0.7)],
    ) {
        let (batch, heads_kv) = (2, 2);
        let params = ForwardParams {
            batch,
            seq_q: keys,
            seq_k: keys,
            heads_q: heads_kv * group,
            heads_kv,
            head_dim: dim,
            mask: Mask::Causal,
            window: 0,
            lengths: touchstone_reference::attention::Lengths::Full,
            scale: None,
            softcap,
            sd: 1.0,
            dtype: DType::F32,
        };
        let case = forward_case(&params, seed);
        let tensors = inputs(&case);
        let width = params.heads_q * dim;
        let last: Vec<usize> = (1..=batch).map(|b| b * keys - 1).collect();
        let decode = DecodeParams {
            batch,
            seq_k: keys,
            heads_q: params.heads_q,
            heads_kv,
            head_dim: dim,
            kv: Cache::Contiguous,
            page_size: 0,
            lengths: params.lengths,
            scale: None,
            softcap,
            sd: 1.0,
            dtype: DType::F32,
            kv_dtype: None,
        };
        let q = reordered(&tensors.tensor("q").to_f64(), width, &last);
        let query = Tensors::new()
            .with("q", Tensor::from_real(DType::F32, &[batch, params.heads_q, dim], &q))
            .with("k", tensors.tensor("k").clone())
            .with("v", tensors.tensor("v").clone())
            .with("lengths", tensors.tensor("lengths_k").clone());
        let decoded = answer(&Case::new("attention.decode", &decode, 0), &query);
        let forward = reordered(&values(&answer(&case, &tensors), "o"), width, &last);
        close(&forward, &values(&decoded, "o"), 1e-12)?;
    }

    #[test]
    fn pages_hold_what_a_contiguous_cache_holds(case in cases::decode()) {
        let mut p: DecodeParams = case.params().unwrap();
        (p.kv, p.page_size) = (Cache::Paged, 16);
        let paged = Case::new("attention.decode", &p, case.seed());
        let from = inputs(&paged);
        let table = from.tensor("block_table").to_i64();
        let gathered = |pages: &Tensor| {
            let mut shape = pages.shape().to_vec();
            shape[..2].copy_from_slice(&[p.batch, p.seq_k]);
            let row_bytes = shape[2..].iter().product::<usize>() * pages.dtype().bytes();
            let mut rows = Vec::new();
            for at in 0..p.batch * p.seq_k {
                let (b, j) = (at / p.seq_k, at % p.seq_k);
                let page = table[b * p.pages_per_sequence() + j / 16];
                let row = (page.max(0) as usize) * 16 + j % 16;
                rows.extend_from_slice(&pages.as_bytes()[row * row_bytes..][..row_bytes]);
            }
            Tensor::from_bytes(pages.dtype(), &shape, &rows)
        };
        let mut to = Tensors::new();
        for (name, tensor) in from.iter().filter(|(name, _)| *name != "block_table") {
            let of_cache = !["q", "lengths"].contains(&name);
            to.insert(name, if of_cache { gathered(tensor) } else { tensor.clone() });
        }
        let outputs = answer(&paged, &from);
        (p.kv, p.page_size) = (Cache::Contiguous, 0);
        let contiguous = answer(&Case::new("attention.decode", &p, 0), &to);
        prop_assert_eq!(values(&outputs, "o"), values(&contiguous, "o"));
        prop_assert_eq!(values(&outputs, "lse"), values(&contiguous, "lse"));
    }

    #[test]
    fn an_8_bit_cache_answers_as_the_values_it_stands_for(case in cases::decode()) {
        let mut p: DecodeParams = case.params().unwrap();
        (p.dtype, p.kv_dtype) = (DType::F32, Some(DType::I8));
        let quantized = Case::new("attention.decode", &p, case.seed());
        let given = inputs(&quantized);
        let values_of = |name: &str, scales: &str| {
            let (integers, scales) = (given.tensor(name), given.tensor(scales).to_f64());
            let value = |(at, x): (usize, f64)| x * scales[at / p.head_dim];
            let values: Vec<f64> = integers.to_f64().into_iter().enumerate().map(value).collect();
            Tensor::from_real(DType::F32, integers.shape(), &values)
        };
        let mut plain = Tensors::new();
        for (name, tensor) in given.iter() {
            match name {
                "k_scale" | "v_scale" => {}
                "k" => plain.insert(name, values_of("k", "k_scale")),
                "v" => plain.insert(name, values_of("v", "v_scale")),
                _ => plain.insert(name, tensor.clone()),
            }
        }
        let expected = answer(&quantized, &given);
        p.kv_dtype = None;
        let other = answer(&Case::new("attention.decode", &p, case.seed()), &plain);
        // Values that f32 holds only nearly move scores of a few hundred, the largest here, by 10⁻⁵.
        close(&values(&expected, "o"), &values(&other, "o"), 1e-4)?;
        close(&values(&expected, "lse"), &values(&other, "lse"), 1e-5)?;
    }

    #[test]
    fn gradients_equal_numerical_differentiation_of_the_forward_pass(
        (seq_q, seq_k) in (1usize..6, 1usize..6),
        (kv, group, dim) in (1usize..3, 1usize..3, 1usize..5),
        mask in prop_oneof![Just(Mask::Full), Just(Mask::Causal), Just(Mask::Window)],
        (pick, seed) in (0usize..1000, 0u64..1000),
        softcap in prop_oneof![Just(0.0), Just(0.7)],
    ) {
        let window = if mask == Mask::Window { 2 } else { 0 };
        let params = ForwardParams {
            batch: 1,
            seq_q,
            seq_k,
            heads_q: kv * group,
            heads_kv: kv,
            head_dim: dim,
            mask,
            window,
            lengths: touchstone_reference::attention::Lengths::Full,
            scale: None,
            softcap,
            sd: 1.0,
            dtype: DType::F32,
        };
        let backward = touchstone_reference::attention::backward::Params {
            batch: 1,
            seq_q,
            seq_k,
            heads_q: kv * group,
            heads_kv: kv,
            head_dim: dim,
            mask,
            window,
            scale: None,
            softcap,
            sd: 1.0,
            dtype: DType::F32,
        };
        let case = Case::new("attention.backward", &backward, seed);
        let given = inputs(&case);
        let gradients = answer(&case, &given);
        let d_o = given.tensor("do").to_f64();
        let lengths = |n: usize| Tensor::from_integers(DType::I32, &[1], &[n as i64]);
        let base = Tensors::new()
            .with("q", given.tensor("q").clone())
            .with("k", given.tensor("k").clone())
            .with("v", given.tensor("v").clone())
            .with("lengths_q", lengths(seq_q))
            .with("lengths_k", lengths(seq_k));
        let loss = |tensors: &Tensors| -> f64 {
            let o = values(&answer(&forward_case(&params, 0), tensors), "o");
            o.iter().zip(&d_o).map(|(o, d)| o * d).sum()
        };
        for (input, gradient) in [("q", "dq"), ("k", "dk"), ("v", "dv")] {
            let at = pick % base.tensor(input).len();
            // A power of two, so that the two points differ by exactly the step where f32 allows it.
            let step = 2f64.powi(-9);
            let x = base.tensor(input).to_f64()[at];
            let (low, high) = (f64::from((x - step) as f32), f64::from((x + step) as f32));
            let slope = (loss(&changed(&base, input, |v| v[at] = high))
                - loss(&changed(&base, input, |v| v[at] = low)))
                / (high - low);
            let got = values(&gradients, gradient)[at];
            prop_assert!((got - slope).abs() < 2e-4 * (1.0 + slope.abs()), "{}: {} is not {}", gradient, got, slope);
        }
    }
}
