//! Coverage is data: the matrix of operations, variants and cases may not shrink silently.

use std::fmt::Write;

use touchstone_bench::{Tier, workload};
use touchstone_cuda::variants;
use touchstone_reference::operation;

/// One line for each variant and tier: how many cases it takes and how many it refuses.
fn matrix() -> String {
    let mut text = String::from("# operation/variant tier: cases taken, cases refused by name\n");
    let workloads = workload::embedded().unwrap();
    for variant in variants() {
        for tier in [Tier::Edge, Tier::Quick] {
            let (mut taken, mut refused) = (0, 0);
            let asked = workloads.iter().filter(|w| w.op == variant.op && w.tier == tier);
            for case in asked.flat_map(|w| &w.cases) {
                let inputs = operation(case).and_then(|o| o.inputs(case));
                let inputs = inputs.unwrap_or_else(|e| panic!("{case}: {e}"));
                match (variant.plan)(case, &inputs) {
                    Ok(_) => taken += 1,
                    Err(_) => refused += 1,
                }
            }
            writeln!(text, "{variant:?} {tier:?}: {taken}, {refused}").unwrap();
        }
    }
    text
}

#[test]
fn the_matrix_of_cases_is_the_committed_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/coverage.txt");
    let now = matrix();
    if std::env::var_os("TOUCHSTONE_ACCEPT").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let changed = |a: &str, b: &str| -> String {
        a.lines().filter(|line| !b.contains(line)).map(|line| format!("  {line}\n")).collect()
    };
    assert!(
        now == committed,
        "the matrix changed; if that is meant, run with TOUCHSTONE_ACCEPT=1 and commit it\nwas:\n{}is:\n{}",
        changed(&committed, &now),
        changed(&now, &committed)
    );
}
