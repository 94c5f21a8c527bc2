//! `touchstone merge`.

use std::{path::PathBuf, process::ExitCode};

use touchstone_ci::merge;

/// Arguments of `merge`.
#[derive(clap::Args)]
#[command(
    after_help = "Exit codes: 0 merged; 1 merged, but a file ends in mid-record: the run that wrote it \
    was stopped, and what it did not finish is missing; 2 nothing was written: a record is malformed, or two \
    answer the same question in the same place differently."
)]
pub struct Arguments {
    /// Records files, or folders of them, for example one of each shard
    #[arg(required = true, value_name = "RECORDS")]
    records: Vec<PathBuf>,
    /// Records file to create; it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Merges records files into one.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let merged = merge(&arguments.records, &arguments.out)?;
    say!(
        "{}: {} records; {} identical ones left out",
        arguments.out.display(),
        merged.records,
        merged.duplicates
    );
    for path in &merged.empty {
        say!("no records in {}", path.display());
    }
    for line in &merged.incomplete {
        eprintln!("{line}: the last line is incomplete: the run was stopped while writing it");
    }
    Ok(ExitCode::from(u8::from(!merged.incomplete.is_empty())))
}
