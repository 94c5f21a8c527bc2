//! `touchstone compare`.

use std::{collections::HashMap, path::PathBuf, process::ExitCode};

use touchstone_bench::{Record, record};
use touchstone_ci::{GateOptions, Verdicts, gate};
use touchstone_reports::{Change, Comparison, Options};

use super::print_text;

/// Arguments of `compare`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Records before: a file or a folder of them
    #[arg(value_name = "BEFORE")]
    before: PathBuf,
    /// Records after
    #[arg(value_name = "AFTER")]
    after: PathBuf,
    /// Write the comparison as an HTML page into this folder, too
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints a Markdown table of what changed, and writes the page when one is asked for.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let before = record::read(&arguments.before)?;
    let after = record::read(&arguments.after)?;
    print_text(&(touchstone_ci::compare(&before, &after) + "\n"))?;
    if let Some(folder) = &arguments.out {
        let names = (arguments.before.display().to_string(), arguments.after.display().to_string());
        let options = Options {
            title: "Touchstone: before and after".into(),
            comparison: Some(against(&before, &after, names)),
            ..Options::default()
        };
        let page = touchstone_reports::write(&after, folder, &options)?;
        say!("page: {}", page.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// What the gate says of `after` against `before`, as the page shows it.
pub fn against(before: &[Record], after: &[Record], names: (String, String)) -> Comparison {
    let verdicts = gate(before, after, &GateOptions::default());
    comparison(verdicts, before, after, names)
}

/// The gate's verdicts with the memory of both sides.
pub fn comparison(
    verdicts: Verdicts,
    before: &[Record],
    after: &[Record],
    (before_name, after_name): (String, String),
) -> Comparison {
    let memory = |records: &[Record]| -> HashMap<_, _> {
        let key = |record: &Record| (record.variant.clone(), record.case.clone(), record.executor);
        let peak = |record: &Record| Some(record.measurement()?.peak_bytes as f64);
        records.iter().filter_map(|record| Some((key(record), peak(record)?))).collect()
    };
    let (old, new) = (memory(before), memory(after));
    let change = |entry: touchstone_ci::Entry| {
        let key = (entry.variant.clone(), entry.case.clone(), entry.executor);
        Change {
            verdict: entry.verdict.name(),
            reason: entry.reason,
            variant: entry.variant,
            case: entry.case,
            place: entry.place.to_string(),
            before_ns: entry.baseline.map(|timing| timing.median_ns),
            after_ns: entry.current.map(|timing| timing.median_ns),
            ratio: entry.ratio,
            interval: entry.interval,
            before_bytes: old.get(&key).copied(),
            after_bytes: new.get(&key).copied(),
        }
    };
    Comparison {
        before: before_name,
        after: after_name,
        problem: verdicts.problem,
        changes: verdicts.entries.into_iter().map(change).collect(),
    }
}
