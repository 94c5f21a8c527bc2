//! `touchstone check`.

use std::process::ExitCode;

use touchstone_bench::{Outcome, Runner, Task, Tier};

use super::{introduce, run_cases, summarize};
use crate::select::Selection;

/// Arguments of `check`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// Also the full-size workloads, which take gigabytes and minutes
    #[arg(long)]
    full: bool,
}

/// Checks every selected case; a single replayed case is told in detail.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut tiers = vec![Tier::Edge, Tier::Quick];
    tiers.extend(arguments.full.then_some(Tier::Full));
    let selected = arguments.selection.cases(&tiers)?;
    let mut runner = Runner::new(arguments.selection.device, false)?;
    runner.only_variant = arguments.selection.variant.clone();
    introduce(&runner);
    let records = run_cases(&mut runner, &selected, Task::Check, None)?;
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
            println!("{:<20} {said}", record.variant);
        }
    }
    Ok(summarize(&records))
}
