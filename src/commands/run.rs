//! `touchstone run`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use touchstone_bench::{Effort, Environment, Runner, Task, Tier, record::Writer};

use super::{interleave::Interleaved, introduce, run_cases, summarize};
use crate::{
    default_folder,
    select::{Own, Selected, Selection},
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
    /// Run another build too, A B B A …, to compare this one with it: its binary, or a worktree to build. It is
    /// side A of the records, this build is side B; `touchstone gate RECORDS` then judges
    #[arg(long, value_name = "BINARY", conflicts_with_all = ["kernel", "inputs"])]
    against: Option<PathBuf>,
    /// How often both builds are asked every case; an odd number is raised by one [default: 8]
    #[arg(long, value_name = "N", requires = "against")]
    rounds: Option<u32>,
    /// Begin no further two rounds after this time
    #[arg(long, value_name = "S", requires = "against")]
    seconds: Option<u64>,
    /// Slow this build down by a factor, to see whether the gate notices
    #[arg(long, value_name = "FACTOR", requires = "against", hide = true)]
    slow_down: Option<f64>,
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
    if let Some(against) = &arguments.against {
        return interleave(arguments, against, &selected);
    }
    let mut runner = Runner::new(arguments.selection.device, true)?;
    runner.only_variant = arguments.selection.variant.clone();
    runner.own.extend(kernel.map(Arc::new));
    runner.time_references = !arguments.no_reference;
    let mut writer = match &arguments.out {
        Some(path) => Writer::create(path)?,
        None => unique_writer(&default_folder(), &runner)?,
    };
    if selected.is_empty() {
        say!("no case falls into this part; {} holds no records", writer.path().display());
        return Ok(ExitCode::SUCCESS);
    }
    introduce(&runner);
    let records =
        run_cases(&mut runner, &selected, given, Task::Measure(effort), Some(&mut writer))?;
    say!("records: {}", writer.path().display());
    Ok(summarize(&records))
}

/// Runs another build and this one in turn.
fn interleave(
    arguments: &Arguments,
    against: &Path,
    selected: &[Selected],
) -> anyhow::Result<ExitCode> {
    let mut passed = vec![format!("--device={}", arguments.selection.device)];
    passed.extend(arguments.quick.then(|| "--quick".to_string()));
    passed.extend(arguments.no_reference.then(|| "--no-reference".to_string()));
    passed.extend(arguments.selection.variant.iter().map(|name| format!("--variant={name}")));
    let run = Interleaved {
        against: against.to_path_buf(),
        rounds: arguments.rounds.unwrap_or(8),
        patience: arguments.seconds.map(Duration::from_secs),
        arguments: passed,
        slow_down: arguments.slow_down,
    };
    let mut writer = match &arguments.out {
        Some(path) => Writer::create(path)?,
        None => {
            let date = Environment::of_host().date.replace([':', '-'], "");
            let stem = format!("{date}-{}-ab", std::process::id());
            Writer::create_unique(&default_folder().join("records"), &stem)?
        }
    };
    let records = run.run(selected, &mut writer)?;
    say!("records: {}", writer.path().display());
    Ok(summarize(&records))
}

/// A records file that no other run has: named by the run's date and process, even where those repeat.
pub fn unique_writer(folder: &Path, runner: &Runner) -> anyhow::Result<Writer> {
    let date = runner.environment().date.replace([':', '-'], "");
    Writer::create_unique(&folder.join("records"), &format!("{date}-{}", std::process::id()))
}
