//! `touchstone report`.

use std::{path::PathBuf, process::ExitCode};

use touchstone_bench::record;
use touchstone_reports::Options;

use crate::{default_folder, shipped};

/// Arguments of `report`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Records files (JSON Lines) or folders of them
    #[arg(required = true, value_name = "RECORDS")]
    records: Vec<PathBuf>,
    /// Folder to write index.html into
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Add the recorded results that touchstone ships
    #[arg(long)]
    with_shipped: bool,
}

/// Reads records and writes one HTML page.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut records = if arguments.with_shipped { shipped::records()? } else { Vec::new() };
    for path in &arguments.records {
        records.extend(record::read(path)?);
    }
    let folder = arguments.out.clone().unwrap_or_else(default_folder);
    let options = Options { title: "Touchstone".into(), notes: Vec::new(), text_chain: None };
    let page = touchstone_reports::write(&records, &folder, &options)?;
    println!("report of {} records: {}", records.len(), page.display());
    Ok(ExitCode::SUCCESS)
}
