//! Reference against every CUDA variant, on random cases, on past failures and on the edge workloads.
//!
//! Every property runs on the simulator, and on the GPU too where there is one. What is too long to simulate is
//! named and counted, never left out in silence. `TOUCHSTONE_SIMULATE=0` leaves the simulator out beside a GPU, for
//! runs under compute-sanitizer.

use std::sync::{
    LazyLock, Mutex, OnceLock, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use libtest_mimic::{Arguments, Failed, Trial};
use proptest::{
    strategy::{BoxedStrategy, Strategy, ValueTree},
    test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner},
};
use touchstone_bench::{
    Problem, Tier,
    gtest::{FALSE_ALARM, g_test},
    nan,
    verify::{self, Verdict},
    workload,
};
use touchstone_cuda::{
    Executor, Gpu, Plan, Prepared, Simulator, Variant, simulator::TooLong, variants,
};
use touchstone_reference::{Case, Expected, Tensors, operation};

#[path = "laws/emission.rs"]
mod emission;
mod planted;

mod cases {
    pub mod acceptance;
    pub mod attention;
    pub mod checkpoint;
    pub mod decoding;
    pub mod embedding;
    pub mod loss;
    pub mod ngram;
    pub mod precision;
    pub mod recurrent;
    pub mod ssm;
    pub mod upsample;
}

/// Random cases a variant must pass; `TOUCHSTONE_CASES` sets another number.
const CASES: u32 = 48;

/// The same where there is only the simulator.
const SIMULATED_CASES: u32 = 5;

/// Edge cases and past failures of a variant that are simulated where there is only the simulator.
const SIMULATED_EDGES: usize = 20;

/// Warp instructions of one run beyond which a case is not simulated: about a tenth of a second.
const SIMULATED_INSTRUCTIONS: u64 = 600_000;

/// Device memory of a plan beyond which a case is not simulated.
const SIMULATED_BYTES: usize = 32 << 20;

/// Rows of the calibrated test: enough to reject a sampler that is 2 % off (tests/acceptance.rs shows it).
const LAW_ROWS: usize = 200_000;

/// The same where there is only the simulator: a sampler 10 % off is still rejected.
const SIMULATED_LAW_ROWS: usize = 10_000;

/// The same for trees, blocks and logits, of which a row takes a block of threads: gross faults are still rejected.
const SIMULATED_FEWER_ROWS: usize = 2000;

/// Cases that a variant is asked with a NaN in each of their inputs in turn.
const NAN_CASES: usize = 4;

/// Random cases beside the edge cases, of which some variants take none that is short.
const NAN_RANDOM: usize = 40;

/// Device memory of a plan beyond which a variant is not asked: the reference answers three times for each input.
const NAN_BYTES: usize = 192 << 10;

static GPU: OnceLock<Mutex<Gpu>> = OnceLock::new();

/// Trials run side by side, so each simulates on one thread.
static SIMULATOR: LazyLock<Simulator> =
    LazyLock::new(|| Simulator::new().with_threads(1).with_limit(SIMULATED_INSTRUCTIONS));

/// Whether the simulator runs: always, but beside a GPU on request not.
static SIMULATES: LazyLock<bool> = LazyLock::new(|| {
    GPU.get().is_none() || std::env::var("TOUCHSTONE_SIMULATE").as_deref() != Ok("0")
});

/// Runs that were too long to simulate.
static LEFT_OUT: AtomicUsize = AtomicUsize::new(0);

type Strategies = Vec<(&'static str, BoxedStrategy<Case>)>;

fn strategies() -> Strategies {
    [
        cases::ngram::strategies(),
        cases::embedding::strategies(),
        cases::attention::strategies(),
        cases::ssm::strategies(),
        cases::recurrent::strategies(),
        cases::loss::strategies(),
        cases::acceptance::strategies(),
        cases::decoding::strategies(),
        cases::upsample::strategies(),
        cases::precision::strategies(),
        cases::checkpoint::strategies(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Verifies one variant on one case. `Ok(false)` when it does not take the case.
fn agrees(variant: &Variant, case: &Case) -> Result<bool, String> {
    let replay = |problem: String| {
        format!("{problem}\nreplay: touchstone check --variant {} '{case}'", variant.name)
    };
    let problem = Problem::new(case).map_err(|e| replay(format!("{e:#}")))?;
    let Ok(plan) = verify::plan(variant, &problem) else { return Ok(false) };
    let mut took = false;
    if let Some(gpu) = GPU.get() {
        let gpu = gpu.lock().unwrap_or_else(PoisonError::into_inner);
        took = holds(&*gpu, &plan, &problem, variant).map_err(replay)?.is_ok();
    }
    if !*SIMULATES {
        return Ok(took);
    }
    let left_out = |reason: String| {
        LEFT_OUT.fetch_add(1, Ordering::Relaxed);
        println!("not simulated: {} '{case}': {reason}", variant.name);
    };
    if plan.bytes() > SIMULATED_BYTES {
        left_out(format!("{} bytes of device memory", plan.bytes()));
        return Ok(took);
    }
    match holds(&*SIMULATOR, &plan, &problem, variant) {
        Err(complaint) if complaint == (TooLong { limit: SIMULATED_INSTRUCTIONS }).to_string() => {
            left_out(complaint);
            Ok(took)
        }
        outcome => match outcome.map_err(|e| replay(format!("on the simulator: {e}")))? {
            Ok(()) => Ok(true),
            Err(reason) => {
                left_out(reason);
                Ok(took)
            }
        },
    }
}

/// Verifies a plan on one executor. `Ok(Err(reason))` when the executor cannot carry it out.
fn holds(
    executor: &impl Executor,
    plan: &Plan,
    problem: &Problem,
    variant: &Variant,
) -> Result<Result<(), String>, String> {
    let run = || -> anyhow::Result<Result<Verdict, String>> {
        let prepared = match verify::prepare(executor, plan)? {
            Ok(prepared) => prepared,
            Err(reason) => return Ok(Err(reason)),
        };
        verify::verify(&prepared, problem, variant.deterministic).map(Ok)
    };
    match run().map_err(|e| format!("{e:#}"))? {
        Err(reason) => Ok(Err(reason)),
        Ok(Verdict::Right(_)) => Ok(Ok(())),
        Ok(Verdict::Wrong(_, complaint)) => Err(complaint),
    }
}

/// The strategy of an operation. Strategies cannot be sent between threads, so each trial makes its own.
fn strategy(op: &str) -> Result<BoxedStrategy<Case>, Failed> {
    let strategy = strategies().into_iter().find(|(of, _)| *of == op);
    Ok(strategy.ok_or("the operation has no strategy")?.1)
}

fn random_cases(variant: &Variant) -> Result<(), Failed> {
    let strategy = strategy(variant.op)?;
    let number = std::env::var("TOUCHSTONE_CASES").ok().and_then(|n| n.parse().ok());
    let config = Config {
        cases: number.unwrap_or(if GPU.get().is_some() { CASES } else { SIMULATED_CASES }),
        // Cases that it does not take do not count, and are made up for by this many others.
        max_global_rejects: if GPU.get().is_some() { 4 * CASES } else { CASES },
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(20_261_124),
        max_shrink_iters: 200,
        ..Config::default()
    };
    let taken = std::cell::Cell::new(0);
    let outcome = TestRunner::new(config).run(&strategy, |case| match agrees(variant, &case) {
        Ok(true) => {
            taken.set(taken.get() + 1);
            Ok(())
        }
        Ok(false) => Err(TestCaseError::reject("not taken")),
        Err(complaint) => Err(TestCaseError::fail(complaint)),
    });
    match outcome {
        Err(TestError::Fail(reason, case)) => Err(format!("shrunk to {case}\n{reason}").into()),
        _ if taken.get() == 0 => Err("it took none of the random cases".into()),
        // What ends early has drawn as many others as it may.
        Ok(()) | Err(TestError::Abort(_)) => Ok(()),
    }
}

/// Whether what a variant emits, over many rows, follows the target's joint law: the calibrated test.
fn emits_the_targets_law(variant: &Variant) -> Result<(), Failed> {
    let rows = match (GPU.get(), variant.op) {
        (Some(_), _) => LAW_ROWS,
        (None, "acceptance.chain") => SIMULATED_LAW_ROWS,
        (None, _) => SIMULATED_FEWER_ROWS,
    };
    let mut taken = 0;
    for question in emission::questions(variant.op, rows) {
        let plan = match (variant.plan)(&question.case, &question.inputs) {
            Ok(plan) => plan,
            Err(reason) => {
                println!("not asked: {}: {reason}", question.case);
                continue;
            }
        };
        taken += 1;
        let outputs = match GPU.get() {
            Some(gpu) => run_once(&*gpu.lock().unwrap_or_else(PoisonError::into_inner), &plan)?,
            None => run_once(&Simulator::new().with_threads(1), &plan)?,
        };
        let (counts, law) = question.counts(&outputs.tensor("tokens").to_i64());
        let p = g_test(&counts, &law);
        println!("p = {p:.3} over {rows} rows of {}", question.case);
        if p <= FALSE_ALARM {
            return Err(format!("p = {p:e} <= {FALSE_ALARM:e} of {}", question.case).into());
        }
    }
    if taken > 0 { Ok(()) } else { Err("it takes none of the questions".into()) }
}

/// Whether a variant gives NaN wherever a NaN among the inputs must come through.
fn hides_no_nan(variant: &Variant, known: &[Case]) -> Result<(), Failed> {
    let most = if takes_all() { usize::MAX } else { NAN_CASES };
    let strategy = strategy(variant.op)?;
    let mut runner = TestRunner::deterministic();
    let mut choice = known.to_vec();
    for _ in 0..NAN_RANDOM {
        choice.push(strategy.new_tree(&mut runner)?.current());
    }
    // Cases from everywhere among them, and in each another place: steps of the golden ratio leave no gaps.
    let golden = |i: usize| (0.618_034 * i as f64 + 0.5).fract();
    let mut order: Vec<usize> = (0..choice.len()).collect();
    order.sort_by(|&i, &j| golden(i).total_cmp(&golden(j)));
    let (mut cases, mut asked) = (0, 0);
    for i in order {
        let before = asked;
        asked += nans_through(variant, &choice[i], golden(cases))?;
        cases += usize::from(asked > before);
        if cases == most {
            break;
        }
    }
    println!("{asked} NaNs came through in {cases} cases");
    if asked > 0 || !has_real_outputs(variant.op)? {
        return Ok(());
    }
    Err("no case is short enough to ask it".into())
}

/// Whether an operation has outputs that can be NaN; others have nothing to be asked.
fn has_real_outputs(op: &str) -> Result<bool, Failed> {
    let case = strategy(op)?.new_tree(&mut TestRunner::deterministic())?.current();
    let real = |(_, output): (&str, &Expected)| matches!(output, Expected::Real(_));
    Ok(Problem::new(&case)?.expected.iter().any(real))
}

/// How many inputs of a case let a NaN through; none where the variant does not take the case, or it is too long.
fn nans_through(variant: &Variant, case: &Case, share: f64) -> Result<usize, Failed> {
    let drawn = operation(case)?.inputs(case)?;
    if !(variant.plan)(case, &drawn).is_ok_and(|plan| plan.bytes() <= NAN_BYTES) {
        return Ok(0);
    }
    let questions = nan::questions(&Problem::with_inputs(case, drawn, "drawn")?, share)?;
    let plan = |problem: &Problem| verify::plan(variant, problem);
    let hidden = match GPU.get() {
        Some(gpu) => {
            let gpu = gpu.lock().unwrap_or_else(PoisonError::into_inner);
            nan::hidden(&*gpu, &questions, plan)
        }
        None => nan::hidden(&*SIMULATOR, &questions, plan),
    };
    match hidden {
        Ok(None) => Ok(questions.len()),
        Ok(Some(complaint)) => Err(format!("{complaint}\n{} on '{case}'", variant.name).into()),
        Err(error) if error.downcast_ref::<TooLong>().is_some() => Ok(0),
        Err(error) => Err(format!("{error:#}").into()),
    }
}

/// What a plan puts out.
fn run_once(executor: &impl Executor, plan: &Plan) -> anyhow::Result<Tensors> {
    let prepared = executor.prepare(plan)?;
    prepared.run()?;
    prepared.outputs()
}

/// Whether `TOUCHSTONE_CASES=all` asks for every case, however long that takes.
fn takes_all() -> bool {
    std::env::var("TOUCHSTONE_CASES").is_ok_and(|cases| cases == "all")
}

fn all_agree(variant: &Variant, cases: &[Case]) -> Result<(), Failed> {
    // Where there is only the simulator, evenly spaced ones, beginning with the first.
    let every =
        if takes_all() || GPU.get().is_some() { 1 } else { cases.len().div_ceil(SIMULATED_EDGES) };
    let taken: Vec<&Case> = cases.iter().step_by(every.max(1)).collect();
    if taken.len() < cases.len() {
        LEFT_OUT.fetch_add(cases.len() - taken.len(), Ordering::Relaxed);
        println!(
            "not simulated: {} of {} cases of {}",
            cases.len() - taken.len(),
            cases.len(),
            variant.op
        );
    }
    let complaints: Vec<String> =
        taken.into_iter().filter_map(|case| agrees(variant, case).err()).collect();
    match complaints.len() {
        0 => Ok(()),
        n => {
            Err(format!("{n} of {} cases fail; the first:\n{}", cases.len(), complaints[0]).into())
        }
    }
}

/// Cases that once failed, from `tests/regressions/<vertical>.txt`.
fn regressions(op: &str) -> Vec<Case> {
    let vertical = op.split('.').next().unwrap_or(op);
    let path = format!("{}/tests/regressions/{vertical}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| line.parse::<Case>().unwrap_or_else(|e| panic!("{line}: {e}")))
        .filter(|case| case.op() == op)
        .collect()
}

fn main() {
    let arguments = Arguments::from_args();
    let absent = match Gpu::open(0) {
        Ok(gpu) => {
            GPU.get_or_init(|| Mutex::new(gpu));
            None
        }
        Err(absent) => Some(absent.to_string()),
    };
    let workloads = workload::embedded().expect("the embedded workloads are well formed");
    let mut trials = Vec::new();
    for (op, _) in strategies() {
        let mut known: Vec<Case> = regressions(op);
        for w in workloads.iter().filter(|w| w.op == op && w.tier == Tier::Edge) {
            known.extend(w.cases.iter().cloned());
        }
        for variant in variants().filter(|v| v.op == op) {
            let known = known.clone();
            let name = |property: &str| format!("{op}::{}::{property}", variant.name);
            let random = move || random_cases(variant);
            trials.push(Trial::test(name("agrees_with_the_reference"), random));
            let edges = known.clone();
            let hides = move || hides_no_nan(variant, &edges);
            trials.push(Trial::test(name("hides_no_nan"), hides));
            let edges = move || all_agree(variant, &known);
            trials.push(Trial::test(name("agrees_on_edges_and_past_failures"), edges));
        }
    }
    for variant in variants().filter(|v| emission::OPERATIONS.contains(&v.op)) {
        let name = format!("{}::{}::emits_the_targets_law", variant.op, variant.name);
        trials.push(Trial::test(name, move || emits_the_targets_law(variant)));
    }
    for variant in planted::VARIANTS {
        let trial = move || {
            if let Some(gpu) = GPU.get() {
                let gpu = gpu.lock().unwrap_or_else(PoisonError::into_inner);
                planted::is_judged_rightly(variant, &*gpu)?;
            }
            match *SIMULATES {
                true => planted::is_judged_rightly(variant, &*SIMULATOR),
                false => Ok(()),
            }
        };
        trials.push(Trial::test(format!("harness::{}::is_judged_rightly", variant.name), trial));
    }
    for variant in variants() {
        let covered = trials.iter().any(|t| t.name().starts_with(&format!("{}::", variant.op)));
        assert!(covered, "{} has no strategy in tests/cases", variant.op);
    }
    match &absent {
        Some(reason) => println!("CUDA executor: simulator ({reason})"),
        None if *SIMULATES => println!("CUDA executors: GPU and simulator"),
        None => println!("CUDA executor: GPU (TOUCHSTONE_SIMULATE=0)"),
    }
    // One device and one lock: more threads would only wait, and time their proofs against each other.
    // Simulations share nothing.
    let threads = match absent {
        Some(_) => arguments.test_threads,
        None => Some(1),
    };
    let conclusion = libtest_mimic::run(&Arguments { test_threads: threads, ..arguments }, trials);
    match LEFT_OUT.load(Ordering::Relaxed) {
        0 => {}
        n => println!("{n} runs were not simulated; each is named above with its reason"),
    }
    conclusion.exit();
}
