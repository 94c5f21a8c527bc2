//! Laws of gradient checkpointing: of its schedules, of the plans made of them, and of the reference.

#[path = "cases/checkpoint.rs"]
mod cases;
mod laws;

use laws::drawn;
use proptest::prelude::*;
use touchstone_cuda::{Arg, Plan, Role, Step, checkpoint};
use touchstone_reference::{
    Algorithm, Case, Draw,
    checkpoint::{
        chain_backward::{ChainBackward, Params},
        schedule::{Action, Policy, Schedule, binomial_cost, least_cost},
    },
};

/// What a schedule does, carried out with the numbers of states in place of states: each action must find
/// the state it needs. Returns how often layers are evaluated.
fn carried_out(schedule: &Schedule, layers: usize) -> Result<usize, TestCaseError> {
    let mut slots = vec![None; schedule.slots + 1];
    slots[0] = Some(0);
    let (mut evaluated, mut left) = (0, layers);
    for action in &schedule.actions {
        match *action {
            Action::Advance { layer, from, to } => {
                prop_assert_eq!(slots[from], Some(layer), "layer {} reads a wrong state", layer);
                prop_assert!(to != 0 && to != from, "slot {} is overwritten", to);
                slots[to] = Some(layer + 1);
                evaluated += 1;
            }
            Action::Backward { layer, from } => {
                prop_assert_eq!(slots[from], Some(layer));
                prop_assert_eq!(layer + 1, left, "gradients out of order");
                left = layer;
            }
        }
    }
    prop_assert_eq!(left, 0, "some gradients are missing");
    Ok(evaluated)
}

fn policies(slots: usize) -> [Policy; 6] {
    [
        Policy::KeepAll,
        Policy::RecomputeAll,
        Policy::EverySqrt,
        Policy::Selective,
        Policy::Binomial(slots),
        Policy::Optimal(slots),
    ]
}

/// Costs of layers: some dear, most cheap.
fn chains() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(prop_oneof![Just(1u64), Just(2), Just(50)], 1..40)
}

#[test]
fn every_generated_case_is_valid_and_its_inputs_repeat() {
    laws::cases_are_valid_and_their_inputs_repeat(cases::strategies(), 60);
}

proptest! {
    #[test]
    fn every_schedule_hands_every_layer_its_own_state(costs in chains(), slots in 0usize..7) {
        for policy in policies(slots) {
            carried_out(&Schedule::new(&policy, &costs), costs.len())?;
        }
    }

    #[test]
    fn keeping_more_never_costs_more(costs in chains(), slots in 0usize..6) {
        let cost = |policy| Schedule::new(&policy, &costs).cost(&costs);
        prop_assert!(cost(Policy::Optimal(slots + 1)) <= cost(Policy::Optimal(slots)));
        prop_assert!(cost(Policy::KeepAll) <= cost(Policy::EverySqrt));
        prop_assert!(cost(Policy::EverySqrt) <= cost(Policy::RecomputeAll));
        prop_assert!(cost(Policy::Optimal(slots)) <= cost(Policy::RecomputeAll));
        prop_assert!(cost(Policy::Optimal(slots)) <= cost(Policy::Binomial(slots)));
    }

    #[test]
    fn memory_is_ordered_and_within_its_budget(costs in chains(), slots in 0usize..7) {
        let held = |policy| Schedule::new(&policy, &costs).slots;
        let (all, none) = (held(Policy::KeepAll), held(Policy::RecomputeAll));
        prop_assert_eq!(all, costs.len() - 1);
        prop_assert_eq!(none, 2.min(costs.len() - 1));
        for policy in policies(slots) {
            let slots = held(policy);
            prop_assert!(none.min(1) <= slots && slots <= all + 1);
        }
        // A budget counts what is kept; one more state is in work while a layer is evaluated.
        prop_assert!(held(Policy::Optimal(slots)) <= slots + 2);
        prop_assert!(held(Policy::Binomial(slots)) <= slots + 2);
        let root = (costs.len() as f64).sqrt().ceil() as usize;
        prop_assert!(held(Policy::EverySqrt) <= 2 * root + 1);
    }

    #[test]
    fn enough_slots_evaluate_no_layer_twice(costs in chains()) {
        let n = costs.len();
        let all: u64 = costs[..n - 1].iter().sum();
        prop_assert_eq!(least_cost(&costs, n), all);
        prop_assert_eq!(Schedule::new(&Policy::KeepAll, &costs).cost(&costs), all);
    }

    #[test]
    fn the_dynamic_program_is_carried_out_at_its_cost(costs in chains(), slots in 0usize..7) {
        let schedule = Schedule::new(&Policy::Optimal(slots), &costs);
        prop_assert_eq!(schedule.cost(&costs), least_cost(&costs, slots));
    }

    #[test]
    fn selective_never_evaluates_a_costly_layer_twice(cheap in 1usize..5, groups in 1usize..9) {
        let costs: Vec<u64> =
            (0..groups * (cheap + 1)).map(|l| if l % (cheap + 1) == cheap { 50 } else { 1 }).collect();
        let schedule = Schedule::new(&Policy::Selective, &costs);
        let dear = schedule.actions.iter().filter(
            |action| matches!(action, Action::Advance { layer, .. } if costs[*layer] == 50)
        );
        prop_assert!(dear.count() < groups + 1);
        prop_assert!(schedule.slots <= groups + cheap + 1);
    }

    #[test]
    fn all_policies_run_the_same_gradient_kernels(case in cases::strategies().remove(0).1) {
        let params: Params = case.params().unwrap();
        let inputs = ChainBackward::inputs(&params, &mut Draw::new(case.seed()));
        let gradients: Vec<Vec<String>> =
            checkpoint::VARIANTS.iter().map(|v| gradient_launches(&(v.plan)(&case, &inputs).unwrap())).collect();
        for other in &gradients[1..] {
            prop_assert_eq!(other, &gradients[0]);
        }
    }

    #[test]
    fn gradients_of_two_halves_of_the_rows_add_up(case in cases::strategies().remove(0).1) {
        let (whole, inputs) = drawn::<ChainBackward>(&case);
        prop_assume!(whole.rows >= 2);
        let head = whole.rows / 2;
        let part = |rows: std::ops::Range<usize>| {
            let params = Params { rows: rows.len(), ..whole.clone() };
            let mut inputs = inputs.clone();
            for name in ["x", "d_output"] {
                let values = inputs.tensor(name).to_f64();
                let values = &values[rows.start * whole.width..rows.end * whole.width];
                let shape = [rows.len(), whole.width];
                let tensor = touchstone_reference::Tensor::from_real(
                    touchstone_reference::DType::F32, &shape, values,
                );
                inputs.insert(name, tensor);
            }
            ChainBackward::reference(&params, &inputs)
        };
        let (first, second) = (part(0..head), part(head..whole.rows));
        let all = ChainBackward::reference(&whole, &inputs);
        for name in ["d_weight", "d_scale", "d_bias"] {
            let halves = first.output(name).values().into_iter().zip(second.output(name).values());
            for (sum, (a, b)) in all.output(name).values().into_iter().zip(halves) {
                prop_assert!((sum - (a + b)).abs() < 1e-12 * (1.0 + a.abs() + b.abs()));
            }
        }
    }
}

/// The launches that write gradients, with buffers by name; states, which policies keep in different
/// slots, are all called that.
fn gradient_launches(plan: &Plan) -> Vec<String> {
    let name = |arg: &Arg| match arg {
        Arg::Buffer(id, at) => {
            let name = &plan.buffers()[id.0].name;
            let state = name == "x" || name.starts_with("state_");
            if state { "state".into() } else { format!("{name}+{at}") }
        }
        other => format!("{other:?}"),
    };
    let writes_gradients = |arg: &Arg| match arg {
        Arg::Buffer(id, _) => {
            let buffer = &plan.buffers()[id.0];
            let between = buffer.role == Role::Scratch && !buffer.name.starts_with("state_");
            buffer.role == Role::Output || between
        }
        _ => false,
    };
    plan.steps()
        .iter()
        .filter_map(|step| match step {
            Step::Launch(launch) if launch.args.iter().any(writes_gradients) => {
                let args: Vec<String> = launch.args.iter().map(name).collect();
                Some(format!("{}({})", launch.symbol, args.join(", ")))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn the_dynamic_program_finds_the_binomial_optimum() {
    for layers in 1..=40 {
        for slots in 0..=8 {
            let costs = vec![1; layers];
            let expected = binomial_cost(layers, slots);
            assert_eq!(least_cost(&costs, slots), expected, "{layers} layers, {slots} slots");
            let schedule = Schedule::new(&Policy::Binomial(slots), &costs);
            assert_eq!(schedule.cost(&costs), expected, "{layers} layers, {slots} slots");
        }
    }
}

#[test]
fn peak_memory_is_the_predicted_curve() {
    let params = Params { layers: 64, rows: 16, width: 8, dense_every: 1, slots: 5 };
    let case = Case::new("checkpoint.chain_backward", &params, 1);
    let inputs = ChainBackward::inputs(&params, &mut Draw::new(1));
    let state = 16 * 8 * 4;
    let scratch: Vec<usize> = checkpoint::VARIANTS
        .iter()
        .map(|v| (v.plan)(&case, &inputs).unwrap().scratch_bytes() / state)
        .collect();
    // Besides states: dz and two gradients. keep_all 63; recompute_all 2; every_sqrt 7 kept, 7 between and
    // one in work; selective keeps all where all layers are costly; the budgets and what is in work.
    assert_eq!(scratch[0], 3 + 63);
    assert_eq!(scratch[1], 3 + 2);
    assert!((3 + 13..=3 + 16).contains(&scratch[2]), "{scratch:?}");
    assert_eq!(scratch[3], 3 + 63);
    assert!(scratch[4] <= 3 + 7 && scratch[5] <= 3 + 7, "{scratch:?}");
}

proptest! {
    #[test]
    fn policies_take_the_slots_and_the_cost_that_are_predicted(costs in chains(), slots in 0usize..7) {
        for policy in policies(slots) {
            let (schedule, predicted) = (Schedule::new(&policy, &costs), policy.predicted(&costs));
            // A budget may be larger than what the best schedule can use.
            let budget = matches!(policy, Policy::Optimal(_) | Policy::Binomial(_));
            let memory = if budget { schedule.slots <= predicted.slots } else { schedule.slots == predicted.slots };
            prop_assert!(memory, "{:?}: {} slots, predicted {}", policy, schedule.slots, predicted.slots);
            // In closed form, a binomial schedule knows layers of one cost only.
            let exact = !matches!(policy, Policy::Binomial(_)) || costs.windows(2).all(|w| w[0] == w[1]);
            if exact {
                prop_assert_eq!(schedule.cost(&costs), predicted.cost, "{:?}", policy);
            }
        }
    }
}
