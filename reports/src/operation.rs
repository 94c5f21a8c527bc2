//! The section of one operation.

use std::collections::BTreeSet;

use serde::Serialize;
use touchstone_bench::{
    record::{KernelResources, Outcome},
    workload::Workload,
};

use crate::{
    cases::{self, CaseLine, Gap, Question, Varying},
    counters::{self, Counters},
    derive::{Row, Sheet, representative},
    figures::{self, Figure, Slots},
    page::{Counts, executor_name},
    table::{Table, table},
    units,
};

/// One operation in all places.
#[derive(Serialize)]
pub struct Operation {
    name: String,
    anchor: String,
    /// How many records came to what, in words.
    tally: String,
    places: Vec<AtPlace>,
    slack: Option<Figure>,
    /// What is wrong, failed or skipped, by reason.
    gaps: Vec<Gap>,
    /// Why the cases are asked.
    questions: Vec<Question>,
    /// Parameters that all cases share.
    common: String,
    cases: Vec<CaseLine>,
}

/// One operation in one place.
#[derive(Serialize)]
struct AtPlace {
    label: String,
    executor: &'static str,
    /// Whether there is nothing to compare here while other places have more to show.
    minor: bool,
    ladder: Option<Ladder>,
    figures: Vec<Figure>,
    /// Sweeps that are not drawn.
    left_out: usize,
    tables: Vec<Table>,
    kernels: Vec<Kernel>,
    counters: Option<Counters>,
}

/// All variants on the representative case.
#[derive(Serialize)]
struct Ladder {
    /// The variant that speeds are against.
    first: String,
    case: String,
    anchor: String,
    limits: bool,
    rungs: Vec<Rung>,
}

#[derive(Serialize)]
struct Rung {
    variant: String,
    time: String,
    /// Speed against the first variant.
    speed: String,
    limit: String,
    /// Width of the limit's bar in percent.
    width: String,
    memory: String,
    workspace: String,
    error: String,
    peer: String,
}

/// What a kernel takes of a multiprocessor, with the variant it belongs to.
#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Kernel {
    variant: String,
    symbol: String,
    registers: u32,
    local: String,
    shared: String,
}

/// A fragment identifier for an operation.
pub fn anchor(op: &str) -> String {
    op.replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

/// The section of the operation that `rows`, which are not empty, belong to.
pub fn operation(
    rows: &[&Row<'_>],
    sheet: &Sheet<'_>,
    workloads: &[Workload],
) -> anyhow::Result<Operation> {
    let name = rows[0].record.op();
    let slots = Slots::of(rows);
    let varying = Varying::of(rows);
    let proven: BTreeSet<usize> =
        rows.iter().filter(|row| row.proven()).map(|row| row.place).collect();
    let mut places: Vec<AtPlace> = proven
        .iter()
        .map(|&place| {
            let here: Vec<&Row> = rows.iter().copied().filter(|row| row.place == place).collect();
            at_place(&here, &slots, &varying, sheet, workloads, proven.len() > 1)
        })
        .collect::<Result<_, _>>()?;
    let mut slack = figures::slack(rows, &slots, &varying, |row| {
        let variant = &row.record.variant;
        let elsewhere = rows.iter().any(|other| {
            other.record.variant == *variant
                && other.place != row.place
                && other.worst_share().is_some()
        });
        if elsewhere {
            // The maker's name would leave no room for the model's.
            let label = &sheet.places[row.place].label;
            format!("{variant} @ {}", label.trim_start_matches("NVIDIA "))
        } else {
            variant.clone()
        }
    })?;
    // Of several places, it belongs to none of them.
    if let [place] = &mut places[..] {
        place.figures.extend(slack.take());
    }
    Ok(Operation {
        name: name.to_string(),
        anchor: anchor(name),
        tally: Counts::of(rows.iter().copied()).words(),
        places,
        slack,
        gaps: cases::gaps(rows, &varying, sheet),
        questions: cases::questions(rows, workloads),
        common: varying.common(),
        cases: cases::lines(rows, &varying, sheet),
    })
}

fn at_place(
    rows: &[&Row<'_>],
    slots: &Slots<'_>,
    varying: &Varying<'_>,
    sheet: &Sheet<'_>,
    workloads: &[Workload],
    others: bool,
) -> anyhow::Result<AtPlace> {
    let place = &sheet.places[rows[0].place];
    let mut chosen = representative(rows);
    slots.sort(&mut chosen, |row| &row.record.variant);
    let (sweeps, left_out) = figures::times(rows, slots, &place.label)?;
    let trade = figures::trade(&chosen, slots, &place.label)?;
    let roofline = figures::roofline(rows, slots, varying, &place.label)?;
    let caches = figures::caches(rows, slots, varying, &place.label)?;
    let predicted = figures::predicted(rows, slots, &place.label)?;
    let beside = figures::beside(rows, sheet, workloads, &place.label)?;
    let timed: Vec<&Row> = rows.iter().copied().filter(|row| row.measurement().is_some()).collect();
    let checked: Vec<&Row> = rows
        .iter()
        .copied()
        .filter(|row| matches!(row.record.outcome, Outcome::Checked { .. }))
        .collect();
    let tables = [("timed", timed), ("checked, not timed", checked)]
        .into_iter()
        .filter(|(_, rows)| !rows.is_empty())
        .map(|(what, rows)| {
            table(&format!("{} {what}", units::count(rows.len(), "record")), &rows, varying)
        })
        .collect();
    Ok(AtPlace {
        label: place.label.clone(),
        executor: executor_name(place.executor),
        minor: others && chosen.len() < 2,
        ladder: (chosen.len() > 1).then(|| ladder(&chosen)).flatten(),
        figures: trade
            .into_iter()
            .chain(predicted)
            .chain(beside)
            .chain(roofline)
            .chain(sweeps)
            .chain(caches)
            .collect(),
        left_out,
        tables,
        kernels: kernels(rows),
        counters: counters::counters(rows, slots, varying)?,
    })
}

fn ladder(rows: &[&Row<'_>]) -> Option<Ladder> {
    let first = rows.iter().find(|row| !row.is_peer()).or(rows.first())?;
    let rung = |row: &&Row<'_>| {
        let share = row.share_of_limit();
        let text =
            |value: Option<f64>, format: fn(f64) -> String| value.map(format).unwrap_or_default();
        let workspace = row.measurement().map(|m| m.workspace_bytes as f64);
        let speed = first.valid_ns().zip(row.valid_ns()).map(|(first, own)| first / own);
        Rung {
            variant: row.record.variant.clone(),
            time: text(row.valid_ns(), units::time),
            speed: text(speed, units::times),
            limit: text(share, units::percent),
            width: format!("{:.1}", share.unwrap_or(0.0).min(1.0) * 100.0),
            memory: text(row.peak_bytes(), units::bytes),
            workspace: text(workspace, units::bytes),
            error: text(row.worst_share(), units::error),
            peer: text(row.peer_ratio, units::times),
        }
    };
    Some(Ladder {
        first: first.record.variant.clone(),
        case: first.short_case(),
        anchor: cases::anchor(&first.record.case),
        limits: rows.iter().any(|row| row.share_of_limit().is_some()),
        rungs: rows.iter().map(rung).collect(),
    })
}

fn kernels(rows: &[&Row<'_>]) -> Vec<Kernel> {
    let kernel = |variant: &str, kernel: &KernelResources| Kernel {
        variant: variant.to_string(),
        symbol: kernel.symbol.clone(),
        registers: kernel.registers,
        local: units::bytes(f64::from(kernel.local_bytes)),
        shared: units::bytes(f64::from(kernel.shared_bytes)),
    };
    let all = rows.iter().filter_map(|row| Some((row.record.variant.as_str(), row.measurement()?)));
    let all = all.flat_map(|(variant, m)| m.kernels.iter().map(move |k| kernel(variant, k)));
    let mut kernels: Vec<Kernel> = Vec::new();
    for kernel in all {
        if !kernels.contains(&kernel) {
            kernels.push(kernel);
        }
    }
    kernels
}
