//! The simulator against hardware, on any machine: fingerprints of the outputs that an H100 gave, and counters
//! that it counted, are committed under `tests/hardware/`.
//!
//! `touchstone check --out FILE` on a GPU, then `TOUCHSTONE_HARDWARE=FILE cargo test --test hardware`, writes
//! `outputs.jsonl` anew; `tests/hardware/counters.py` writes `counters.jsonl`. By default one case in
//! [`EVERY`] is simulated; `TOUCHSTONE_CASES=all` takes all.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use touchstone_bench::{
    Problem,
    record::{self, Executor, Outcome},
    verify,
};
use touchstone_cuda::{
    Variant,
    gpu::Poison,
    simulator::{
        Simulator,
        cost::{Counts, Meter},
    },
    variants,
};
use touchstone_reference::Case;

/// Of the cases that a variant has a fingerprint of, one in so many is simulated.
const EVERY: usize = 16;

/// Share by which a sector or matrix counter may differ from the hardware's.
const COUNTER_TOLERANCE: f64 = 0.02;

/// What a variant gave on hardware.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    case: String,
    variant: String,
    /// Fingerprint of each output.
    bits: BTreeMap<String, String>,
    /// Largest error as a share of its bound.
    share: Option<f64>,
}

/// Variants whose bits PTX leaves free, with the reason.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Free {
    free: Vec<FreeVariant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FreeVariant {
    /// `op::variant`.
    variant: String,
    /// Why its bits may differ.
    why: String,
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hardware").join(name)
}

fn lines<T: for<'de> Deserialize<'de>>(name: &str) -> Vec<T> {
    let text = std::fs::read_to_string(file(name)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect(name)).collect()
}

fn free() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(file("free.toml")).expect("free.toml");
    let table: Free = toml::from_str(&text).expect("free.toml");
    table.free.into_iter().map(|free| (free.variant, free.why)).collect()
}

fn variant_of(case: &Case, name: &str) -> Option<&'static Variant> {
    variants().find(|v| v.op == case.op() && v.name == name)
}

/// Writes the fingerprints of a records file in short.
fn accept(records: &Path) {
    let records = record::read(records).expect("records");
    let mut text = String::new();
    for record in records.iter().filter(|r| r.executor == Executor::Cuda) {
        let Outcome::Checked { agreement } = &record.outcome else { continue };
        let bits = agreement.outputs.iter().filter_map(|o| Some((o.name.clone(), o.bits.clone()?)));
        let given = Given {
            case: record.case.clone(),
            variant: record.variant.clone(),
            bits: bits.collect(),
            share: agreement.worst_share(),
        };
        text += &serde_json::to_string(&given).expect("JSON");
        text.push('\n');
    }
    std::fs::write(file("outputs.jsonl"), text).expect("outputs.jsonl");
}

#[test]
fn simulated_outputs_have_the_hardware_s_bits() {
    if let Some(records) = std::env::var_os("TOUCHSTONE_HARDWARE") {
        accept(Path::new(&records));
    }
    let given: Vec<Given> = lines("outputs.jsonl");
    if given.is_empty() {
        println!("no fingerprints of hardware are committed: nothing was compared");
        return;
    }
    let all = std::env::var("TOUCHSTONE_CASES").is_ok_and(|cases| cases == "all");
    let (free, simulator) = (free(), Simulator::new());
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let (mut equal, mut differ, mut wrong) =
        (0, BTreeMap::<String, Vec<String>>::new(), Vec::new());
    for given in &given {
        let case: Case = given.case.parse().expect("a case");
        let Some(variant) = variant_of(&case, &given.variant) else { continue };
        let name = format!("{}::{}", variant.op, variant.name);
        let number = seen.entry(name.clone()).or_default();
        *number += 1;
        if !all && !(*number - 1).is_multiple_of(EVERY) {
            continue;
        }
        let problem = Problem::new(&case).expect("a problem");
        let plan = verify::plan(variant, &problem).expect("a plan");
        let prepared = simulator.prepare(&plan).expect("prepared");
        prepared.poison(Poison::Nan);
        if let Err(fault) = prepared.run() {
            wrong.push(format!("{name} on {case}: {fault:#}"));
            continue;
        }
        let agreement = problem.compare(prepared.outputs()).expect("comparable outputs");
        wrong.extend(
            agreement.complaint().map(|complaint| format!("{name} on {case}: {complaint}")),
        );
        for output in &agreement.outputs {
            if output.bits.as_ref() == given.bits.get(&output.name) {
                equal += 1;
            } else {
                let shares = (given.share.unwrap_or(0.0), agreement.worst_share().unwrap_or(0.0));
                let text = format!(
                    "{}, hardware {:.3} simulator {:.3}: {case}",
                    output.name, shares.0, shares.1
                );
                differ.entry(name.clone()).or_default().push(text);
            }
        }
    }
    println!("{equal} outputs have the hardware's bits");
    for (name, cases) in &differ {
        let why = free.get(name).map_or("NOT EXPECTED", String::as_str);
        println!("{name}: {} outputs differ ({why}); first: {}", cases.len(), cases[0]);
    }
    let unexpected: Vec<&String> = differ.keys().filter(|name| !free.contains_key(*name)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(unexpected.is_empty(), "bits differ without a reason in free.toml: {unexpected:?}");
    let stale: Vec<&String> = free
        .keys()
        .filter(|name| variants().all(|v| format!("{}::{}", v.op, v.name) != **name))
        .collect();
    assert!(stale.is_empty(), "free.toml names no variant: {stale:?}");
}

/// What ncu counted for one case.
#[derive(Deserialize)]
struct Counted {
    case: String,
    variant: String,
    launches: Vec<CountedLaunch>,
}

#[derive(Deserialize)]
struct CountedLaunch {
    kernel: String,
    counters: BTreeMap<String, serde_json::Value>,
}

impl CountedLaunch {
    /// Sum of the counters of these names; `None` when the device has none of them.
    fn sum(&self, names: &[&str]) -> Option<f64> {
        let values: Vec<f64> =
            names.iter().filter_map(|name| self.counters.get(*name)?.as_f64()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

/// A counter of ours, and the hardware's that count the same.
type Pair = (&'static str, fn(&Counts) -> u64, &'static [&'static str]);

const PAIRS: [Pair; 4] = [
    (
        "global read sectors",
        |c| c.global_read_sectors,
        &[
            "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum",
            "l1tex__t_sectors_pipe_lsu_mem_global_op_ldgsts.sum",
        ],
    ),
    (
        "global write sectors",
        |c| c.global_write_sectors,
        &["l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum"],
    ),
    ("tensor instructions", |c| c.tensor, &["sm__inst_executed_pipe_tensor.sum"]),
    (
        "shared bank conflicts",
        |c| c.shared_read_conflicts + c.shared_write_conflicts,
        &["l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum"],
    ),
];

/// Counters that differ, each with its reason.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Differences {
    #[serde(default)]
    difference: Vec<Difference>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    kernel: String,
    counter: String,
    why: String,
}

#[test]
fn simulated_counters_are_the_hardware_s() {
    let counted: Vec<Counted> = lines("counters.jsonl");
    if counted.is_empty() {
        println!("no counters of hardware are committed: nothing was compared");
        return;
    }
    let text = std::fs::read_to_string(file("differences.toml")).unwrap_or_default();
    let known: Differences = toml::from_str(&text).expect("differences.toml");
    let known: BTreeMap<(String, String), String> =
        known.difference.into_iter().map(|d| ((d.kernel, d.counter), d.why)).collect();
    let (mut surprises, mut kernels) = (Vec::new(), BTreeSet::new());
    for counted in &counted {
        let case: Case = counted.case.parse().expect("a case");
        let Some(variant) = variant_of(&case, &counted.variant) else { continue };
        let problem = Problem::new(&case).expect("a problem");
        let plan = verify::plan(variant, &problem).expect("a plan");
        let simulator = Simulator::new();
        let prepared = simulator.prepare(&plan).expect("prepared");
        prepared.poison(Poison::Nan);
        let mut meter = Meter::default();
        prepared.run_watched(&mut meter).expect("a sound kernel");
        for kernel in &meter.cost().kernels {
            let launches: Vec<&CountedLaunch> =
                counted.launches.iter().filter(|l| l.kernel == kernel.symbol).collect();
            for (counter, ours, theirs) in PAIRS {
                let sums: Option<Vec<f64>> = launches.iter().map(|l| l.sum(theirs)).collect();
                let Some(theirs) = sums.filter(|sums| !sums.is_empty()) else { continue };
                let (ours, theirs) = (ours(&kernel.counts) as f64, theirs.iter().sum::<f64>());
                if ours == 0.0 && theirs == 0.0 {
                    continue;
                }
                let name = format!("{}::{}", kernel.module, kernel.symbol);
                let off = (ours - theirs).abs() / theirs.max(1.0);
                let why = known.get(&(name.clone(), counter.to_string()));
                println!(
                    "{name} | {counter} | {theirs} | {ours} | {:.1} % | {}",
                    off * 100.0,
                    why.map_or("", String::as_str)
                );
                if off > COUNTER_TOLERANCE && why.is_none() {
                    surprises.push(format!(
                        "{name}: {counter}: hardware {theirs}, simulator {ours} ({case})"
                    ));
                }
                kernels.insert(name);
            }
        }
    }
    println!("{} kernels compared", kernels.len());
    assert!(kernels.len() >= 10, "{kernels:?}");
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}
