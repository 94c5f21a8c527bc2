//! `touchstone report`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::bail;
use touchstone_bench::{
    Record,
    record::{self, Side},
};
use touchstone_ci::{GateOptions, gate_interleaved};
use touchstone_reports::{Comparison, Options, units};

use super::compare;
use crate::{default_folder, shipped};

/// Arguments of `report`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Records files (JSON Lines) or folders of them; may be left out with --with-shipped or --history
    #[arg(required_unless_present_any = ["history", "with_shipped"], value_name = "RECORDS")]
    records: Vec<PathBuf>,
    /// Folder to write index.html into [default: report]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Add the recorded results that touchstone ships
    #[arg(long)]
    with_shipped: bool,
    /// Show what changed against these records, with the gate's verdicts
    #[arg(long, value_name = "RECORDS")]
    against: Option<PathBuf>,
    /// Show the time of each case over the revisions in this folder of records files; the rest of the page
    /// shows the latest of each
    #[arg(long, value_name = "DIR")]
    history: Option<PathBuf>,
}

/// Reads records and writes one HTML page.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut records = if arguments.with_shipped { shipped::records()? } else { Vec::new() };
    for path in arguments.records.iter().chain(&arguments.history) {
        records.extend(record::read(path)?);
    }
    let count = records.len();
    let comparison = match &arguments.against {
        Some(path) => {
            let before = record::read(path)?;
            let names = (path.display().to_string(), "this page".to_string());
            Some(compare::against(&before, &records, names))
        }
        None => interleaved(&mut records)?,
    };
    let options = Options {
        title: "Touchstone".into(),
        comparison,
        history: arguments.history.is_some(),
        ..Options::default()
    };
    let folder = arguments.out.clone().unwrap_or_else(default_folder);
    let page = touchstone_reports::write(&records, &folder, &options)?;
    say!("report of {}: {}", units::count(count, "record"), page.display());
    Ok(ExitCode::SUCCESS)
}

/// The comparison that an interleaved run holds, and only its side B left in `records`.
fn interleaved(records: &mut Vec<Record>) -> anyhow::Result<Option<Comparison>> {
    let side = |record: &Record| record.trial.as_ref().map(|trial| trial.side);
    if records.iter().all(|record| side(record).is_none()) {
        return Ok(None);
    }
    if records.iter().any(|record| side(record).is_none()) {
        bail!("records of an interleaved run (--against) cannot be shown together with others");
    }
    let verdicts = gate_interleaved(records, &GateOptions::default())?;
    let (before, after): (Vec<Record>, Vec<Record>) =
        records.drain(..).partition(|record| side(record) == Some(Side::A));
    let binary = |records: &[Record]| {
        let trial = records.first().and_then(|record| record.trial.as_ref());
        trial.map_or(String::new(), |trial| format!("binary {}", trial.binary))
    };
    let names = (binary(&before), binary(&after));
    let comparison = compare::comparison(verdicts, &before, &after, names);
    *records = after;
    Ok(Some(comparison))
}
