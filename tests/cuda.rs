//! Reference against every CUDA variant, on random cases, on past failures and on the edge workloads.
//!
//! Without a GPU every trial is reported as ignored, never as passed.

use std::sync::{Mutex, OnceLock, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};
use proptest::{
    strategy::BoxedStrategy,
    test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner},
};
use touchstone_bench::{
    Problem, Tier,
    gtest::{FALSE_ALARM, g_test},
    verify::{self, Verdict},
    workload,
};
use touchstone_cuda::{Gpu, Variant, variants};
use touchstone_reference::{
    Case,
    acceptance::{chain, law},
};

mod planted;

mod cases {
    pub mod acceptance;
    pub mod attention;
    pub mod embedding;
    pub mod ngram;
    pub mod recurrent;
    pub mod ssm;
    pub mod upsample;
}

/// Random cases a variant must pass; `TOUCHSTONE_CASES` sets another number.
const CASES: u32 = 48;

/// Rows of the calibrated test: enough to reject a sampler that is 2 % off (tests/acceptance.rs shows it).
const LAW_ROWS: usize = 200_000;

static GPU: OnceLock<Mutex<Gpu>> = OnceLock::new();

type Strategies = Vec<(&'static str, BoxedStrategy<Case>)>;

fn strategies() -> Strategies {
    [
        cases::ngram::strategies(),
        cases::embedding::strategies(),
        cases::attention::strategies(),
        cases::ssm::strategies(),
        cases::recurrent::strategies(),
        cases::acceptance::strategies(),
        cases::upsample::strategies(),
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
    let gpu = GPU.get().expect("trials run only where there is a GPU");
    let gpu = gpu.lock().unwrap_or_else(PoisonError::into_inner);
    let run = || -> anyhow::Result<Option<Verdict>> {
        let Ok(prepared) = verify::prepare(&*gpu, &plan)? else { return Ok(None) };
        verify::verify(&prepared, &problem, variant.deterministic).map(Some)
    };
    match run().map_err(|e| replay(format!("{e:#}")))? {
        None => Ok(false),
        Some(Verdict::Right(_)) => Ok(true),
        Some(Verdict::Wrong(_, complaint)) => Err(replay(complaint)),
    }
}

fn random_cases(variant: &Variant) -> Result<(), Failed> {
    // Strategies cannot be sent between threads, so each trial makes its own.
    let strategy = strategies().into_iter().find(|(op, _)| *op == variant.op);
    let (_, strategy) = strategy.ok_or("the operation has no strategy")?;
    let number = std::env::var("TOUCHSTONE_CASES").ok().and_then(|n| n.parse().ok());
    let config = Config {
        cases: number.unwrap_or(CASES),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(20_261_124),
        max_shrink_iters: 200,
        ..Config::default()
    };
    let taken = std::cell::Cell::new(0);
    let outcome = TestRunner::new(config).run(&strategy, |case| match agrees(variant, &case) {
        Ok(took) => {
            taken.set(taken.get() + u32::from(took));
            Ok(())
        }
        Err(complaint) => Err(TestCaseError::fail(complaint)),
    });
    match outcome {
        Ok(()) if taken.get() == 0 => Err("it took none of the random cases".into()),
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, case)) => Err(format!("shrunk to {case}\n{reason}").into()),
        Err(TestError::Abort(reason)) => Err(reason.message().into()),
    }
}

/// Whether what a variant emits, over many rows, follows the target's joint law: the calibrated test.
fn emits_the_targets_law(variant: &Variant) -> Result<(), Failed> {
    let (target, draft) = (
        vec![vec![0.3, 0.25, 0.2, 0.25, 0.0], vec![0.1, 0.4, 0.0, 0.2, 0.3], vec![0.25; 5]],
        vec![vec![0.2, 0.35, 0.25, 0.0, 0.2], vec![0.2, 0.3, 0.1, 0.0, 0.4]],
    );
    let (params, inputs) = chain::repeated(&target, &draft, LAW_ROWS, 11);
    let plan = (variant.plan)(&Case::new(variant.op, &params, 11), &inputs)?;
    let gpu = GPU.get().ok_or("no GPU")?.lock().unwrap_or_else(PoisonError::into_inner);
    let prepared = verify::prepare(&*gpu, &plan)??;
    prepared.run()?;
    let outputs = prepared.outputs()?;
    let law = law::joint(&target, &draft);
    let mut counts = vec![0; law.len()];
    let tokens = outputs.tensor("tokens").to_i64();
    for row in tokens.chunks(target.len()) {
        let emitted: Vec<i64> = row.iter().copied().take_while(|&token| token >= 0).collect();
        counts[law::cell(&emitted, params.vocab)] += 1;
    }
    let p = g_test(&counts, &law);
    println!("p = {p:.3} over {LAW_ROWS} rows");
    if p > FALSE_ALARM { Ok(()) } else { Err(format!("p = {p:e} <= {FALSE_ALARM:e}").into()) }
}

fn all_agree(variant: &Variant, cases: &[Case]) -> Result<(), Failed> {
    let complaints: Vec<String> =
        cases.iter().filter_map(|case| agrees(variant, case).err()).collect();
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
            let edges = move || all_agree(variant, &known);
            trials.push(Trial::test(name("agrees_on_edges_and_past_failures"), edges));
        }
    }
    for variant in variants().filter(|v| v.op == "acceptance.chain") {
        let name = format!("{}::{}::emits_the_targets_law", variant.op, variant.name);
        trials.push(Trial::test(name, move || emits_the_targets_law(variant)));
    }
    for variant in planted::VARIANTS {
        let trial = move || planted::is_judged_rightly(variant, &GPU);
        trials.push(Trial::test(format!("harness::{}::is_judged_rightly", variant.name), trial));
    }
    for variant in variants() {
        let covered = trials.iter().any(|t| t.name().starts_with(&format!("{}::", variant.op)));
        assert!(covered, "{} has no strategy in tests/cases", variant.op);
    }
    if let Some(reason) = &absent {
        println!("CUDA properties: {} not run: {reason}", trials.len());
    }
    // One device and one lock: more threads would only wait, and time their proofs against each other.
    let arguments = Arguments { test_threads: Some(1), ..arguments };
    let ignored = absent.is_some();
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(ignored)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
