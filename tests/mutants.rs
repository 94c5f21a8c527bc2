//! Mutants: kernels made wrong on purpose, at the level of their PTX. The simulator must report each, or the
//! comparison with the reference must fail. `mutants/table.toml` holds them as data: what is replaced by what,
//! and which occurrence within which kernel. Those that survive are listed there with the reason, and the test
//! fails when one more survives, when a survivor is caught after all, or when a pattern no longer applies.

#[path = "mutants/mutated.rs"]
mod mutated;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use mutated::mutated;
use serde::Deserialize;
use touchstone_bench::{Problem, agreement::same_bits, verify};
use touchstone_cuda::{
    Plan,
    gpu::Poison,
    simulator::{Fault, Simulator, fault::FaultKind, overlap::Overlaps, race::Races},
    variants,
};
use touchstone_reference::{Case, DType};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    mutant: Vec<Row>,
}

/// One replacement at some of its places: a mutant each.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    /// What is wrong with the mutants, in words.
    fault: String,
    /// `op::variant`.
    variant: String,
    /// `module::entry`.
    kernel: String,
    cases: Vec<String>,
    /// Regular expression over the text of the entry.
    find: String,
    /// What takes its place; `${1}` is the first group.
    replace: String,
    /// Which of the matches, from 0.
    nth: Vec<usize>,
    /// Those that nothing reports, with the reason why they are none the worse, or where they are caught.
    #[serde(default)]
    survivors: BTreeMap<String, String>,
}

impl Row {
    /// The module with the `nth` match of the pattern in its entry replaced.
    fn mutated(&self, nth: usize) -> String {
        mutated(&self.kernel, &self.find, nth, &self.replace)
    }
}

/// How a mutant is caught on one case, or the unmutated kernel refused; `None` when it passes for right.
fn caught(simulator: &Simulator, row: &Row, case: &str) -> Option<String> {
    let (op, name) = row.variant.split_once("::").expect("op::variant");
    let variant = variants().find(|v| v.op == op && v.name == name).expect("a variant");
    let problem = Problem::new(&case.parse::<Case>().expect("a case")).expect("a problem");
    let plan = verify::plan(variant, &problem).unwrap_or_else(|no| panic!("{name} {case}: {no:?}"));
    let prepared = match simulator.prepare(&plan) {
        Ok(prepared) => prepared,
        Err(error) => return Some(format!("refused: {error:#}")),
    };
    let run = |poison| -> Result<_, String> {
        prepared.poison(poison);
        let mut monitors = (Races::default(), Overlaps::default());
        prepared.run_watched(&mut monitors).map_err(|error| {
            match error.downcast_ref::<Fault>() {
                Some(fault) => format!("reported: {fault}"),
                None => format!("refused: {error:#}"),
            }
        })?;
        let outputs = prepared.outputs();
        let agreement = problem.compare(outputs.clone())?;
        match agreement.complaint() {
            Some(complaint) => Err(format!("wrong: {complaint}")),
            None => Ok(outputs),
        }
    };
    let both = run(Poison::Nan).and_then(|first| Ok((first, run(Poison::Huge)?)));
    match both {
        Err(how) => Some(how),
        Ok((first, second)) => {
            let changed = first.iter().find(|(name, t)| !same_bits(t, second.tensor(name)));
            changed.map(|(name, _)| format!("wrong: '{name}' changes with the poison"))
        }
    }
}

fn rows() -> Vec<Row> {
    let text = include_str!("mutants/table.toml");
    toml::from_str::<Table>(text).expect("a well-formed table").mutant
}

/// Those of the kernels whose names contain `TOUCHSTONE_MUTANTS`, or all: to look at a kernel that was changed.
fn asked_rows() -> Vec<Row> {
    let part = std::env::var("TOUCHSTONE_MUTANTS").unwrap_or_default();
    let rows = rows();
    let mutants: usize = rows.iter().map(|row| row.nth.len()).sum();
    assert!(mutants >= 40, "{mutants} mutants");
    let asked: Vec<Row> = rows.into_iter().filter(|row| row.kernel.contains(&part)).collect();
    assert!(!asked.is_empty(), "no kernel of the table has '{part}' in its name");
    asked
}

/// Calls `work` with each number below `count`, on all cores.
fn on_all_cores(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(i) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < count)
                {
                    work(i);
                }
            });
        }
    });
}

#[test]
fn mutants_are_caught_and_survivors_are_explained() {
    let rows = asked_rows();
    let mutants: Vec<(&Row, usize)> =
        rows.iter().flat_map(|row| row.nth.iter().map(move |&nth| (row, nth))).collect();
    let outcomes = Mutex::new(BTreeMap::new());
    on_all_cores(mutants.len(), |i| {
        let (row, nth) = mutants[i];
        let module = row.kernel.split("::").next().expect("a module");
        let simulator = Simulator::new().with_threads(1).with_module(module, row.mutated(nth));
        let how = row.cases.iter().find_map(|case| caught(&simulator, row, case));
        outcomes.lock().expect("no panic").insert(i, how);
    });
    let (mut lines, mut surprises) = (Vec::new(), Vec::new());
    for (i, how) in outcomes.into_inner().expect("no panic") {
        let (row, nth) = mutants[i];
        let name = format!("{}, {} {nth}", row.kernel, row.name);
        let survivor = row.survivors.get(&nth.to_string());
        let surprise = match (&how, survivor) {
            (None, None) => Some("survives"),
            (Some(_), Some(_)) => Some("is listed as a survivor and is caught"),
            // An instruction that the simulator refuses would be no test of it.
            (Some(how), None) if how.starts_with("refused") => Some("is refused"),
            _ => None,
        };
        let how = how.unwrap_or_else(|| survivor.cloned().unwrap_or_else(|| "nothing".into()));
        surprises.extend(surprise.map(|what| format!("{name} ({}) {what}: {how}", row.fault)));
        lines.push(format!("{name}: {how}"));
    }
    println!("{}", lines.join("\n"));
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

/// A sort whose scan takes a second round has more than four million keys: the scan alone is given as many rounds.
#[test]
fn a_scan_over_many_tiles_needs_both_barriers() {
    const TILES: usize = 100;
    let mut plan = Plan::new();
    let counts = plan.output("counts", DType::U32, &[TILES]);
    let totals = plan.output("totals", DType::U32, &[1]);
    plan.fill(counts, 1);
    let args = [counts.into(), totals.into(), TILES.into()];
    plan.launch("radix_sort", "radix_scan", [1, 1, 1], [32, 1, 1], 0, &args);
    let run = |simulator: &Simulator| {
        let prepared = simulator.prepare(&plan).expect("a plan");
        let outcome = prepared.run_watched(&mut Races::default());
        outcome.map(|()| prepared.outputs().tensor("totals").to_i64())
    };
    assert_eq!(run(&Simulator::new()).expect("a sound kernel"), [TILES as i64 * 0x0101_0101]);
    let row = rows().into_iter().find(|row| row.kernel == "radix_sort::radix_scan");
    let row = row.expect("the mutants of the scan");
    for nth in [0, 1] {
        let text = row.mutated(nth);
        let error = run(&Simulator::new().with_module("radix_sort", text)).expect_err("a mutant");
        let fault = error.downcast_ref::<Fault>().expect("a fault");
        assert_eq!(fault.kind, FaultKind::Race, "{fault}");
    }
}

#[test]
fn the_kernels_themselves_pass() {
    let rows = asked_rows();
    let mut originals: Vec<(&Row, &String)> =
        rows.iter().flat_map(|row| row.cases.iter().map(move |case| (row, case))).collect();
    originals.sort_by_key(|(row, case)| (&row.variant, *case));
    originals.dedup_by_key(|(row, case)| (&row.variant, *case));
    let alarms = Mutex::new(Vec::new());
    on_all_cores(originals.len(), |i| {
        let (row, case) = originals[i];
        let simulator = Simulator::new().with_threads(1);
        if let Some(how) = caught(&simulator, row, case) {
            alarms.lock().expect("no panic").push(format!("{} on {case}: {how}", row.variant));
        }
    });
    let alarms = alarms.into_inner().expect("no panic");
    assert!(alarms.is_empty(), "{}", alarms.join("\n"));
}
