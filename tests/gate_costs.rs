//! The gate on exact costs: kernels that do more than the baseline says fail it with the numbers, and the committed
//! baseline knows every variant.

use std::{collections::BTreeSet, path::Path};

use touchstone_bench::{
    Problem, Record, Runner, Task,
    record::{self, Executor},
    workload,
};
use touchstone_ci::{GateOptions, Verdict, Verdicts, baseline, gate};
use touchstone_cuda::{Simulator, ptx, variants};
use touchstone_reference::Case;

const GATHER: &str = "embedding.gather:vocab=23,dim=32,tokens=33,table=f32,index=i32,pattern=uniform,padding=false,seed=1";
const ATTENTION: &str =
    "attention.forward:batch=1,seq_q=33,seq_k=70,heads_q=1,heads_kv=1,head_dim=64,dtype=f32,seed=1";

/// The records of a variant on a case on the simulator, with one module's text replaced.
fn records(case: &str, variant: &str, replaced: Option<(&str, String)>) -> Vec<Record> {
    let case: Case = case.parse().expect("a case");
    let problem = Problem::new(&case).expect("a problem");
    let mut runner = Runner::new(0, false).expect("a runner");
    runner.only_variant = Some(variant.to_string());
    let simulator = Simulator::new();
    runner.simulator = Some(match replaced {
        Some((module, text)) => simulator.with_module(module, text),
        None => simulator,
    });
    runner.problem("costs", &problem, Task::Check)
}

fn judge(baseline: &[Record], current: &[Record]) -> Verdicts {
    let options = GateOptions { only: Some(Executor::Simulator), ..GateOptions::default() };
    gate(baseline, current, &options)
}

#[track_caller]
fn fails_for(verdicts: &Verdicts, counter: &str) {
    assert!(!verdicts.passes());
    assert_eq!(verdicts.entries[0].verdict, Verdict::Slower);
    let reason = &verdicts.entries[0].reason;
    assert!(reason.starts_with("costs more: ") && reason.contains(counter), "{reason}");
}

#[test]
fn sectors_that_a_kernel_reads_again_close_the_gate_with_the_numbers() {
    let before = records(GATHER, "naive", None);
    assert!(judge(&before, &records(GATHER, "naive", None)).passes());
    let text = ptx::module("embedding_gather_naive").expect("a module");
    let start = text.find(".entry gather_f32_i32(").expect("the entry");
    let at = start + text[start..].find("ld.global.nc.f32").expect("a load");
    let statement = &text[at..=at + text[at..].find(';').expect("its end")];
    let twice = [&text[..at], statement, &text[at..]].concat();
    let after = records(GATHER, "naive", Some(("embedding_gather_naive", twice)));
    // 33 rows of 32 floats are four sectors each.
    fails_for(&judge(&before, &after), "global read sectors");
}

#[test]
fn a_bank_conflict_closes_the_gate_with_the_numbers() {
    let before = records(ATTENTION, "online", None);
    // Every other lane reads a word of the tile of Q that lies in the bank of the first: rows are 68 words long.
    let conflict = "{ .reg .b32 at; .reg .f32 v; mov.u32 at,%tid.x; and.b32 at,at,1; \
                    mul.lo.s32 at,at,2176; ld.shared.f32 v,[at]; }";
    let text = ptx::module("attention_online").expect("a module");
    let start = text.find(".entry forward_d64(").expect("the entry");
    // Behind the second barrier, the tiles are there.
    let second = text[start..].match_indices("bar.sync 0;").nth(1).expect("a barrier").0;
    let at = start + second + "bar.sync 0;".len();
    let text = [&text[..at], conflict, &text[at..]].concat();
    let after = records(ATTENTION, "online", Some(("attention_online", text)));
    fails_for(&judge(&before, &after), "shared read conflicts");
}

#[test]
fn accepted_costs_are_found_again_and_stay_as_they_are_when_counted_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("simulator");
    let counted = || {
        let mut records = records(GATHER, "naive", None);
        records.retain(|record| record.executor == Executor::Simulator);
        records
    };
    assert_eq!(baseline::accept(&folder, &counted()).expect("accepted").len(), 1);
    let file = folder.join("embedding.jsonl");
    let text = std::fs::read_to_string(&file).expect("the baseline");
    let mut again = counted();
    for record in &mut again {
        record.environment.date = "2030-01-01T00:00:00Z".into();
    }
    assert_eq!(baseline::accept(&folder, &again).expect("accepted"), []);
    assert_eq!(std::fs::read_to_string(&file).expect("the baseline"), text);
    let (found, _) = baseline::find(folder.parent().expect("a parent"), &again)
        .expect("readable")
        .expect("a baseline of the simulator");
    assert!(judge(&found, &again).passes());
}

/// What the committed baseline asks is what `.ci/run` asks, and it asks every variant that the simulator runs.
#[test]
fn the_committed_baseline_knows_every_variant() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let records = record::read(&root.join("ci/baselines/simulator")).expect("the baseline");
    let known: BTreeSet<(&str, &str)> =
        records.iter().filter(|r| r.cost.is_some()).map(|r| (r.op(), &*r.variant)).collect();
    let asked = workload::read(&root.join("ci/costs.toml")).expect("ci/costs.toml");
    let cases: BTreeSet<String> =
        asked.iter().flat_map(|w| &w.cases).map(ToString::to_string).collect();
    let foreign: Vec<&str> =
        records.iter().map(|r| &*r.case).filter(|case| !cases.contains(*case)).collect();
    assert!(foreign.is_empty(), "cases that ci/costs.toml does not ask: {foreign:?}");
    let takes_maps = |v: &touchstone_cuda::Variant| {
        asked.iter().flat_map(|w| &w.cases).filter(|case| case.op() == v.op).any(|case| {
            let problem = Problem::new(case).expect("a problem");
            (v.plan)(&problem.case, &problem.inputs).is_ok_and(|plan| !plan.maps().is_empty())
        })
    };
    let missing: Vec<String> = variants()
        .filter(|v| !known.contains(&(v.op, v.name)) && !takes_maps(v))
        .map(|v| format!("{}::{}", v.op, v.name))
        .collect();
    assert!(missing.is_empty(), "without a cost in ci/baselines/simulator: {missing:?}");
}
