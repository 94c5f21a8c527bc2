//! `touchstone gate`.

use std::{path::PathBuf, process::ExitCode};

use touchstone_bench::{Executor, record};
use touchstone_ci::{
    GateOptions,
    Verdict::{Faster, Missing, New, Same, Slower, Unclear, Wrong},
    gate,
};

use crate::default_folder;

/// Arguments of `gate`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Records to judge
    #[arg(required = true, value_name = "RECORDS")]
    records: Vec<PathBuf>,
    /// Records to judge them by: a file, or a folder such as ci/baselines/h100
    #[arg(long, value_name = "RECORDS")]
    baseline: PathBuf,
    /// Folder for verdicts.json and verdicts.md [default: report]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Judge only what this executor ran
    #[arg(long, value_enum)]
    only: Option<Only>,
}

/// Which executor's records to judge.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Only {
    /// The references on the host processor
    Cpu,
    /// The variants on a CUDA device
    Cuda,
    /// The variants on the PTX simulator: exact costs
    Simulator,
}

/// Judges, writes the verdicts, then decides the exit code.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let baseline = record::read(&arguments.baseline)?;
    let mut current = Vec::new();
    for path in &arguments.records {
        current.extend(record::read(path)?);
    }
    let only = arguments.only.map(|only| match only {
        Only::Cpu => Executor::Cpu,
        Only::Cuda => Executor::Cuda,
        Only::Simulator => Executor::Simulator,
    });
    let verdicts = gate(&baseline, &current, &GateOptions { only, ..GateOptions::default() });
    let folder = arguments.out.clone().unwrap_or_else(default_folder);
    verdicts.write(&folder)?;
    if let Some(problem) = &verdicts.problem {
        println!("nothing can be judged: {problem}");
    }
    let every = [Wrong, Missing, Slower, Unclear, Faster, New, Same];
    let counts = every.map(|verdict| format!("{} {}", verdicts.count(verdict), verdict.name()));
    println!("gate {}: {}", if verdicts.passes() { "open" } else { "closed" }, counts.join(", "));
    let bad = verdicts.entries.iter().filter(|entry| entry.verdict.fails());
    for entry in bad.take(20) {
        println!("{}: {} on {}: {}", entry.verdict.name(), entry.variant, entry.case, entry.reason);
    }
    println!("verdicts: {}", folder.join("verdicts.md").display());
    if verdicts.count(Unclear) > 0 {
        println!("unclear ones neither pass nor fail: take more samples on a quieter machine");
    }
    Ok(ExitCode::from(u8::from(!verdicts.passes())))
}
