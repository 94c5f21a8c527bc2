//! Launches that overlap: what the simulator must object to. That a device overlaps them, `executor.rs` asks.

use touchstone_cuda::{
    BufferId, Plan, Simulator,
    gpu::Poison,
    simulator::{Fault, fault::FaultKind},
};
use touchstone_reference::{DType, Tensor, Tensors};

const THREADS: usize = 128;

/// Doubles x into y, which the second kernel takes on to z.
fn plan(second: &str) -> Plan {
    let values: Vec<i64> = (0..THREADS as i64).collect();
    let x = Tensor::from_integers(DType::U32, &[THREADS], &values);
    let mut plan = Plan::new();
    let x = plan.input(&Tensors::new().with("x", x), "x");
    let y = plan.scratch("y", DType::U32, &[THREADS]);
    let z = plan.output("z", DType::U32, &[THREADS]);
    let launch = |plan: &mut Plan, symbol: &str, buffers: &[BufferId]| {
        let args: Vec<_> = buffers.iter().map(|&buffer| buffer.into()).collect();
        plan.launch("planted_overlap", symbol, [THREADS / 64, 1, 1], [64, 1, 1], 0, &args);
    };
    launch(&mut plan, "overlap_first", &[x, y]);
    launch(&mut plan, second, &[x, y, z]);
    plan.overlap_last();
    plan
}

/// Runs a plan; gives z, or what is wrong.
fn run(plan: &Plan) -> Result<Vec<i64>, Box<Fault>> {
    let simulator = Simulator::new();
    let prepared = simulator.prepare(plan).unwrap();
    prepared.poison(Poison::Nan);
    prepared.run().map_err(|error| Box::new(error.downcast::<Fault>().unwrap()))?;
    Ok(prepared.outputs().tensor("z").to_i64())
}

#[track_caller]
fn is_at_fault(second: &str, kind: FaultKind, words: &[&str]) {
    let fault = run(&plan(second)).unwrap_err();
    assert_eq!(fault.kind, kind, "{fault}");
    let text = fault.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn a_launch_that_waits_is_sound() {
    let n = THREADS as i64;
    let expected: Vec<i64> = (0..n).map(|i| 2 * ((i + 1) % n) + 1).collect();
    assert_eq!(run(&plan("overlap_sound")).unwrap(), expected);
}

#[test]
fn a_launch_must_wait_in_some_thread() {
    let kind = FaultKind::NeverWaits;
    is_at_fault("overlap_never_waits", kind, &["does not wait", "overlap_never_waits"]);
}

#[test]
fn what_is_still_written_is_not_read() {
    let words = ["planted_overlap::overlap_first writes", "buffer 'y'", "planted_overlap.cu:"];
    is_at_fault("overlap_reads_early", FaultKind::BeforeWait, &words);
}

#[test]
fn a_barrier_does_not_wait_for_others() {
    is_at_fault("overlap_one_waits", FaultKind::BeforeWait, &["buffer 'y'"]);
}

#[test]
fn what_is_still_read_is_not_written() {
    let words = ["planted_overlap::overlap_first reads", "buffer 'x'"];
    is_at_fault("overlap_writes_early", FaultKind::BeforeWait, &words);
}

#[test]
fn the_non_coherent_path_stays_closed() {
    is_at_fault("overlap_non_coherent", FaultKind::Race, &["through the non-coherent path"]);
}

#[test]
fn without_an_overlap_nothing_must_wait() {
    for second in ["overlap_never_waits", "overlap_reads_early", "overlap_non_coherent"] {
        let mut plan = plan(second);
        let [.., touchstone_cuda::Step::Launch(last)] = &mut plan.steps_mut()[..] else { panic!() };
        last.overlaps = false;
        run(&plan).unwrap();
    }
}

#[test]
fn nothing_overlaps_with_a_launch_of_no_blocks() {
    let mut plan = plan("overlap_never_waits");
    assert_eq!([0, 1, 2].map(|step| plan.overlaps(step)), [false, true, false]);
    let [touchstone_cuda::Step::Launch(first), ..] = &mut plan.steps_mut()[..] else { panic!() };
    first.grid = [0, 1, 1];
    assert!(!plan.overlaps(1));
    run(&plan).unwrap();
}

#[test]
#[should_panic(expected = "right behind another one")]
fn the_first_launch_waits_for_all_before() {
    let mut plan = Plan::new();
    let z = plan.output("z", DType::U32, &[1]);
    plan.fill(z, 0);
    plan.launch("planted_overlap", "overlap_raises", [1; 3], [1; 3], 0, &[z.into()]);
    plan.overlap_last();
}
