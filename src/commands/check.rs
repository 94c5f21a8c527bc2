//! `touchstone check`.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use touchstone_bench::{Executor, Outcome, Runner, Task, Tier, record::Writer};
use touchstone_cuda::Simulator;

use super::{introduce, run_cases, summarize};
use crate::select::{Own, Selection};

/// Arguments of `check`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    own: Own,
    /// Also the full-size workloads, which take gigabytes and minutes
    #[arg(long)]
    full: bool,
    /// Also run every variant on the PTX simulator: data races, uninitialised reads, exact costs
    #[arg(long)]
    simulate: bool,
    /// Also ask every variant what a NaN in each of its inputs becomes: one that hides it is wrong
    #[arg(long)]
    nan: bool,
    /// Records file to create, with the outputs' fingerprints; it must not exist
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Folder for what every variant computed and was found right in, as safetensors files
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Checks every selected case; a single replayed case is told in detail.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut tiers = vec![Tier::Edge, Tier::Quick];
    tiers.extend(arguments.full.then_some(Tier::Full));
    let kernel = arguments.own.kernel()?;
    let selected = arguments.selection.cases(&tiers, kernel.as_ref())?;
    let given = arguments.own.problem(&selected)?;
    let mut runner = Runner::new(arguments.selection.device, false)?;
    runner.only_variant = arguments.selection.variant.clone();
    runner.simulator = arguments.simulate.then(Simulator::new);
    runner.keep = arguments.keep.clone();
    runner.asks_nan = arguments.nan;
    runner.own.extend(kernel.map(Arc::new));
    let mut writer = arguments.out.as_deref().map(Writer::create).transpose()?;
    if selected.is_empty() {
        say!("no case falls into this part");
        return Ok(ExitCode::SUCCESS);
    }
    introduce(&runner);
    let records = run_cases(&mut runner, &selected, given, Task::Check, writer.as_mut())?;
    if selected.len() == 1 {
        for record in &records {
            let said = match &record.outcome {
                Outcome::Checked { agreement } if record.variant != "reference" => format!(
                    "right; largest error is {:.3} of its bound{}",
                    agreement.worst_share().unwrap_or(0.0),
                    if agreement.repeatable { "" } else { "; not bitwise repeatable" }
                ),
                Outcome::Checked { .. } => "computed".into(),
                Outcome::Skipped { reason } => format!("not run: {reason}"),
                _ => continue,
            };
            match record.executor {
                Executor::Simulator => say!("{:<20} on the simulator: {said}", record.variant),
                _ => say!("{:<20} {said}", record.variant),
            }
        }
    }
    if arguments.nan {
        say!("{} times a NaN in an input came through", runner.nans_through);
    }
    Ok(summarize(&records))
}
