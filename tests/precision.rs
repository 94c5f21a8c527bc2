//! Laws of mixed precision, shown on the references.

#[path = "cases/precision.rs"]
mod cases;
mod laws;

use laws::{drawn, strategy};
use proptest::prelude::*;
use touchstone_bench::gtest::{FALSE_ALARM, g_test};
use touchstone_reference::{
    Algorithm, Case, DType, Data, Draw, Tensor, Tensors,
    precision::{
        Sizes, adamw,
        adamw::AdamW,
        format::{Format, Rounding},
        loss_scale::{self, LossScale},
        sgd::Sgd,
    },
};

fn formats() -> impl Strategy<Value = Format> {
    prop::sample::select(cases::FORMATS.to_vec())
}

fn near(format: Format, x: f64) -> f64 {
    format.round(x, Rounding::NearestEven, 0, false)
}

/// Any f64, most of them within the range of narrow formats.
fn numbers() -> impl Strategy<Value = f64> {
    let scaled = (-1.0f64..1.0, -30i32..20).prop_map(|(x, e)| x * 2f64.powi(e));
    prop_oneof![6 => scaled, 1 => any::<f64>().prop_filter("a number", |x| x.is_finite())]
}

#[test]
fn every_generated_case_is_valid_and_its_inputs_repeat() {
    laws::cases_are_valid_and_their_inputs_repeat(cases::strategies(), 60);
}

proptest! {
    #[test]
    fn a_cast_is_monotone(format in formats(), a in numbers(), b in numbers(), saturate: bool) {
        let (a, b) = (a.min(b), a.max(b));
        let round = |x| format.round(x, Rounding::NearestEven, 0, saturate);
        let (low, high) = (round(a), round(b));
        // Where overflow is NaN there is no order.
        prop_assert!(low <= high || low.is_nan() || high.is_nan(), "{low} > {high}");
    }

    #[test]
    fn a_cast_is_idempotent(format in formats(), x in numbers(), u: u32, saturate: bool) {
        for rounding in [Rounding::NearestEven, Rounding::Stochastic] {
            let once = format.round(x, rounding, u, saturate);
            let twice = format.round(once, rounding, !u, saturate);
            prop_assert!(once.to_bits() == twice.to_bits() || once.is_nan() && twice.is_nan());
        }
    }

    #[test]
    fn nearest_even_equals_the_half_crate_and_the_hardware(x in numbers(), y in any::<f32>()) {
        for x in [x, y.into()] {
            let same = |ours: f64, theirs: f64| ours.to_bits() == theirs.to_bits() || ours.is_nan();
            prop_assert!(same(near(Format::F32, x), (x as f32).into()), "{x:e} to f32");
            // The crate rounds an f64 to f16 by way of bits that it drops; an f32 source it rounds right.
            let x = x as f32;
            prop_assert!(same(near(Format::F16, x.into()), half::f16::from_f32(x).into()), "{x:e}");
            prop_assert!(same(near(Format::Bf16, x.into()), half::bf16::from_f32(x).into()), "{x:e}");
        }
    }

    #[test]
    fn stochastic_rounding_lands_on_a_neighbour(format in formats(), x in numbers(), u: u32) {
        let at = |u| format.round(x, Rounding::Stochastic, u, true).abs();
        let (low, high) = (at(0), at(u32::MAX));
        prop_assert!(low <= x.abs());
        // Below a fraction of 2⁻³² of a step no random bits round up.
        prop_assert!(high == low || high >= x.abs() || high == format.max());
        prop_assert!(at(u) == low || at(u) == high);
        let nearest = format.round(x, Rounding::NearestEven, 0, true).abs();
        prop_assert!(nearest == low || nearest == high || high - low == 0.0);
    }

    #[test]
    fn larger_random_bits_never_round_lower(format in formats(), x in numbers(), u: u32, v: u32) {
        let at = |u| format.round(x, Rounding::Stochastic, u, true).abs();
        prop_assert!(at(u.min(v)) <= at(u.max(v)));
    }

    #[test]
    fn eight_bit_values_survive_a_round_trip(bits: u8) {
        for format in [Format::E4m3, Format::E5m2] {
            let value = format.decode8(bits);
            let back = format.encode(near(format, value));
            let expected = if value.is_nan() { 0x7f } else { bits };
            prop_assert_eq!(back, vec![expected]);
        }
    }

    #[test]
    fn the_loss_scale_follows_its_state_machine(
        steps in prop::collection::vec(prop::bool::weighted(0.2), 1..60),
        interval in 1i32..6,
    ) {
        let params = loss_scale::Params {
            elements: 0,
            dtype: DType::F16,
            scale: 1024.0,
            streak: 0,
            interval,
            growth: 2.0,
            backoff: 0.5,
            fault: loss_scale::Fault::None,
        };
        let (mut scale, mut streak) = (1024.0, 0);
        for (i, &bad) in steps.iter().enumerate() {
            (scale, streak) = loss_scale::next(&params, scale, streak, bad);
            prop_assert!((0..interval).contains(&streak));
            // The scale tells how often it grew and shrank: runs of good steps, and bad steps.
            let done = &steps[..=i];
            let bads = done.iter().filter(|&&bad| bad).count() as i32;
            let runs = done.split(|&bad| bad);
            let grown: i32 = runs.map(|run| run.len() as i32 / interval).sum();
            prop_assert_eq!(f64::from(scale), 1024.0 * 2f64.powi(grown - bads));
        }
    }

    #[test]
    fn unscaling_undoes_a_power_of_two(case in strategy(cases::strategies(), "precision.loss_scale")) {
        let (mut params, _) = drawn::<LossScale>(&case);
        (params.scale, params.fault) = (4096.0, loss_scale::Fault::None);
        let inputs = LossScale::inputs(&params, &mut Draw::new(case.seed()));
        let outputs = LossScale::reference(&params, &inputs);
        let scaled: Vec<f64> =
            outputs.output("unscaled").values().iter().map(|g| g * 4096.0).collect();
        prop_assert_eq!(scaled, inputs.tensor("gradients").to_f64());
        prop_assert_eq!(outputs.output("skip").values(), [0.0]);
    }

    #[test]
    fn a_first_adam_step_has_the_size_of_the_learning_rate(case in strategy(cases::strategies(), "precision.adamw")) {
        let (mut params, inputs) = drawn::<AdamW>(&case);
        (params.step, params.skip, params.eps) = (1, false, 1e-20);
        let total = inputs.tensor("master").len();
        let none = |n: usize| Tensor::new(&[n], Data::F32(vec![0.0; n]));
        let skip = Tensor::new(&[1], Data::I32(vec![0]));
        let inputs = inputs
            .with("m", none(total))
            .with("v", none(total))
            .with("decay", none(params.tensors))
            .with("skip", skip);
        let next = AdamW::reference(&params, &inputs).output("next_master").values();
        let (master, g) = (inputs.tensor("master").to_f64(), inputs.tensor("gradients").to_f64());
        for ((next, master), g) in next.iter().zip(master).zip(g).filter(|(_, g)| *g != 0.0) {
            // m̂ / √v̂ is the gradient's sign, but for constants in f32.
            let change = (next - master) / params.lr;
            prop_assert!((change + g.signum()).abs() < 1e-4, "{change} for {g}");
        }
    }

    #[test]
    fn a_skipped_step_changes_nothing(
        adamw in strategy(cases::strategies(), "precision.adamw"),
        sgd in strategy(cases::strategies(), "precision.sgd"),
    ) {
        let (mut params, _) = drawn::<AdamW>(&adamw);
        params.skip = true;
        let inputs = AdamW::inputs(&params, &mut Draw::new(1));
        let outputs = AdamW::reference(&params, &inputs);
        for name in ["master", "m", "v"] {
            let next = outputs.output(&format!("next_{name}")).values();
            prop_assert_eq!(next, inputs.tensor(name).to_f64());
        }
        let (mut params, _) = drawn::<Sgd>(&sgd);
        params.skip = true;
        let inputs = Sgd::inputs(&params, &mut Draw::new(1));
        let outputs = Sgd::reference(&params, &inputs);
        for name in ["master", "momentum"] {
            let next = outputs.output(&format!("next_{name}")).values();
            prop_assert_eq!(next, inputs.tensor(name).to_f64());
        }
    }

    #[test]
    fn how_parameters_are_cut_into_tensors_does_not_matter(case in strategy(cases::strategies(), "precision.sgd")) {
        let (mut params, inputs) = drawn::<Sgd>(&case);
        prop_assume!(params.weight_decay == 0.0 && params.tensors > 0);
        let total = inputs.tensor("master").len();
        let whole = Tensor::new(&[2], Data::I64(vec![0, total as i64]));
        let decay = Tensor::new(&[1], Data::F32(vec![0.0]));
        let parts = Sgd::reference(&params, &inputs).output("next_master").values();
        (params.tensors, params.sizes) = (1, Sizes::Equal);
        let inputs = inputs.with("offsets", whole).with("decay", decay);
        prop_assert_eq!(Sgd::reference(&params, &inputs).output("next_master").values(), parts);
    }

    #[test]
    fn sgd_without_momentum_moves_against_the_gradient(case in strategy(cases::strategies(), "precision.sgd")) {
        let (mut params, inputs) = drawn::<Sgd>(&case);
        (params.momentum, params.nesterov) = (0.0, false);
        let total = inputs.tensor("master").len();
        let decay = Tensor::new(&[params.tensors], Data::F32(vec![0.0; params.tensors]));
        let inputs = inputs.with("decay", decay);
        let next = Sgd::reference(&params, &inputs).output("next_master").values();
        let (master, g) = (inputs.tensor("master").to_f64(), inputs.tensor("gradients").to_f64());
        let rate = f64::from(params.lr as f32) * f64::from((1.0 / params.scale) as f32);
        let skip = inputs.tensor("skip").to_i64()[0] != 0;
        for i in 0..total {
            let expected = if skip { master[i] } else { master[i] - rate * g[i] };
            prop_assert!((next[i] - expected).abs() < 1e-15);
        }
    }
}

/// Draws of a value a third of the way between neighbours, and how many went up.
fn ups(format: Format, draws: usize, seed: u64, bias: f64) -> [u64; 2] {
    let step = 2f64.powi(-format.mantissa_bits());
    let x = 1.0 + step / 3.0;
    let mut draw = Draw::new(seed);
    let mut counts = [0, 0];
    for _ in 0..draws {
        let u = (draw.below(1 << 32) as f64 * bias).min(f64::from(u32::MAX)) as u32;
        counts[usize::from(format.round(x, Rounding::Stochastic, u, false) > x)] += 1;
    }
    counts
}

#[test]
fn stochastic_rounding_is_unbiased() {
    let law = [2.0 / 3.0, 1.0 / 3.0];
    for format in [Format::Tf32, Format::F16, Format::Bf16, Format::E4m3, Format::E5m2] {
        let p = g_test(&ups(format, 200_000, 3, 1.0), &law);
        assert!(p > FALSE_ALARM, "{format:?}: p = {p:e}");
    }
}

#[test]
fn a_bias_of_two_per_cent_is_rejected() {
    let p = g_test(&ups(Format::Bf16, 200_000, 3, 1.02), &[2.0 / 3.0, 1.0 / 3.0]);
    assert!(p <= FALSE_ALARM, "p = {p:e}");
}

#[test]
fn stochastic_rounding_keeps_small_updates_that_nearest_even_loses() {
    // A weight of 1 in bf16 receives 10 000 updates of 10⁻⁴: nearest even ignores each.
    let (mut nearest, mut stochastic, mut draw) = (1.0, 1.0, Draw::new(5));
    for _ in 0..10_000 {
        nearest = near(Format::Bf16, nearest + 1e-4);
        let u = draw.below(1 << 32) as u32;
        stochastic = Format::Bf16.round(stochastic + 1e-4, Rounding::Stochastic, u, false);
    }
    assert_eq!(nearest, 1.0);
    assert!((stochastic - 2.0f64).abs() < 0.1, "{stochastic}");
}

#[test]
fn adamw_with_a_zero_gradient_only_decays() {
    let case = "precision.adamw:tensors=1,size=8,sizes=equal,dtype=f32,lr=0.5,beta1=0.9,beta2=0.99,\
                eps=1e-8,weight_decay=0.25,step=1,scale=1.0,skip=false,seed=1";
    let case: Case = case.parse().unwrap();
    let (params, inputs): (adamw::Params, Tensors) = drawn::<AdamW>(&case);
    let zeros = || Tensor::new(&[8], Data::F32(vec![0.0; 8]));
    let inputs = inputs.with("gradients", zeros()).with("m", zeros()).with("v", zeros());
    let next = AdamW::reference(&params, &inputs).output("next_master").values();
    let expected: Vec<f64> =
        inputs.tensor("master").to_f64().iter().map(|theta| theta * (1.0 - 0.125)).collect();
    assert_eq!(next, expected);
}
