//! `touchstone compare`.

use std::{path::PathBuf, process::ExitCode};

use touchstone_bench::record;

use super::print_text;

/// Arguments of `compare`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Records before
    #[arg(value_name = "BEFORE")]
    before: PathBuf,
    /// Records after
    #[arg(value_name = "AFTER")]
    after: PathBuf,
}

/// Prints a Markdown table of what changed.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let before = record::read(&arguments.before)?;
    let after = record::read(&arguments.after)?;
    print_text(&(touchstone_ci::compare(&before, &after) + "\n"))?;
    Ok(ExitCode::SUCCESS)
}
