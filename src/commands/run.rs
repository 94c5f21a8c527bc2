//! `touchstone run`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use touchstone_bench::{Effort, Runner, Task, Tier, record::Writer};

use super::{introduce, run_cases, summarize};
use crate::{
    default_folder,
    select::{Own, Selection},
};

/// Arguments of `run`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    own: Own,
    /// Only the quick workloads, with fewer samples
    #[arg(long)]
    quick: bool,
    /// Do not time the naive references on the CPU
    #[arg(long)]
    no_reference: bool,
    /// Records file to create; it must not exist [default: report/records/DATE.jsonl]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Verifies and measures every selected case and writes its records as they are made.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (tiers, effort): (&[Tier], _) = match arguments.quick {
        true => (&[Tier::Quick], Effort::QUICK),
        false => (&[Tier::Quick, Tier::Full], Effort::FULL),
    };
    let kernel = arguments.own.kernel()?;
    let selected = arguments.selection.cases(tiers, kernel.as_ref())?;
    let given = arguments.own.problem(&selected)?;
    let mut runner = Runner::new(arguments.selection.device, true)?;
    runner.only_variant = arguments.selection.variant.clone();
    runner.own.extend(kernel.map(Arc::new));
    runner.time_references = !arguments.no_reference;
    let mut writer = match &arguments.out {
        Some(path) => Writer::create(path)?,
        None => unique_writer(&default_folder(), &runner)?,
    };
    introduce(&runner);
    let records =
        run_cases(&mut runner, &selected, given, Task::Measure(effort), Some(&mut writer))?;
    println!("records: {}", writer.path().display());
    Ok(summarize(&records))
}

/// A records file that no other run has: named by the run's date and process, even where those repeat.
pub fn unique_writer(folder: &Path, runner: &Runner) -> anyhow::Result<Writer> {
    let date = runner.environment().date.replace([':', '-'], "");
    Writer::create_unique(&folder.join("records"), &format!("{date}-{}", std::process::id()))
}
