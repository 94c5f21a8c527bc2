//! `touchstone answer`, hidden: what `run --against` talks to. One process of it is one side of one round.
//!
//! Each line of its input is a workload, a tab and a case id. It answers with that case's records, one a line, and
//! then an empty line; an empty line comes first of all, when it is ready.

use std::{
    io::{BufRead, Write},
    process::ExitCode,
};

use touchstone_bench::{Effort, Problem, Runner, Task};
use touchstone_reference::{Case, operation};

/// Arguments of `answer`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Fewer samples
    #[arg(long)]
    quick: bool,
    /// Do not time the naive references on the CPU
    #[arg(long)]
    no_reference: bool,
    /// Only variants whose name contains this
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// CUDA device to use, by its number
    #[arg(long, default_value_t = 0, value_name = "N")]
    device: usize,
    /// Measure the device's limits first
    #[arg(long)]
    limits: bool,
    /// Make every run take this many times as long: 1.05. To see whether the gate notices
    #[arg(long, value_name = "FACTOR")]
    slow_down: Option<f64>,
}

/// Answers until its input ends.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut runner = Runner::new(arguments.device, arguments.limits)?;
    runner.only_variant = arguments.variant.clone();
    runner.time_references = !arguments.no_reference;
    let effort = if arguments.quick { Effort::ROUND } else { Effort::FULL };
    let effort = Effort { slow_down: arguments.slow_down, ..effort };
    let mut out = std::io::stdout().lock();
    writeln!(out)?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let Some((workload, id)) = line.split_once('\t') else {
            anyhow::bail!("not a question: '{line}'");
        };
        let case: Case = id.parse()?;
        let case = operation(&case)?.normalize(&case)?;
        let problem = Problem::new(&case);
        for record in runner.case(workload, &case, problem, Task::Measure(effort)) {
            serde_json::to_writer(&mut out, &record)?;
            writeln!(out)?;
        }
        writeln!(out)?;
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}
