//! The subcommands, one file each.

/// Prints a line, as `println!` does; a reader that has seen enough (`| head`) ends neither the run nor its records.
macro_rules! say {
    ($($text:tt)*) => { $crate::commands::print_line(format_args!($($text)*)) };
}

pub mod answer;
pub mod check;
pub mod compare;
pub mod export;
pub mod gate;
mod interleave;
pub mod list;
pub mod main_job;
pub mod merge;
pub mod prove;
pub mod report;
pub mod run;
pub mod verify;

use std::{collections::BTreeMap, io::Write, process::ExitCode};

use indicatif::{ProgressBar, ProgressStyle};
use touchstone_bench::{
    Executor, Outcome, Problem, Record, Runner, Task, nan, record::Writer, run::solve_ahead,
};

use crate::select::Selected;

/// Runs the selected cases with a progress bar; problems are printed as they are found and finished
/// records go to `writer` at once. `given` is the problem of the only case, with the user's inputs.
fn run_cases(
    runner: &mut Runner,
    selected: &[Selected],
    given: Option<Problem>,
    task: Task,
    mut writer: Option<&mut Writer>,
) -> anyhow::Result<Vec<Record>> {
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} cases {elapsed} {wide_msg}")?;
    let bar = ProgressBar::new(selected.len() as u64).with_style(style);
    let mut all = Vec::new();
    let ahead = solved_ahead(runner, task);
    let mut take = |selected: &Selected, problem| {
        bar.set_message(selected.case.to_string());
        let records = runner.case(&selected.workload, &selected.case, problem, task);
        for record in &records {
            if let Some(complaint) = complaint(record) {
                bar.suspend(|| eprintln!("{complaint}"));
            }
            if let Some(writer) = &mut writer {
                writer.write(record)?;
            }
        }
        all.extend(records);
        bar.inc(1);
        Ok(())
    };
    match given {
        Some(problem) => take(&selected[0], Ok(problem))?,
        None => solve_ahead(selected, |s| &s.case, ahead, take)?,
    }
    bar.finish_and_clear();
    Ok(all)
}

/// How many cases to draw and solve beside the one that runs: none when references are timed, lest they disturb
/// each other.
fn solved_ahead(runner: &Runner, task: Task) -> usize {
    let timed = matches!(task, Task::Measure(_)) && runner.time_references;
    if timed {
        return 0;
    }
    std::thread::available_parallelism().map_or(0, |threads| threads.get().min(8) - 1)
}

/// What is wrong with a record, with the command that replays it.
fn complaint(record: &Record) -> Option<String> {
    let (word, text) = match &record.outcome {
        Outcome::Wrong { complaint, .. } => ("WRONG", complaint),
        Outcome::Failed { error } => ("FAILED", error),
        _ => return None,
    };
    let (variant, case) = (&record.variant, &record.case);
    let own_kernel = if variant.starts_with("own:") { " --kernel …" } else { "" };
    let simulate = if record.executor == Executor::Simulator { " --simulate" } else { "" };
    let nan = if text.starts_with(nan::HIDES) { " --nan" } else { "" };
    let own_inputs = if record.inputs.starts_with("file:") { " --inputs …" } else { "" };
    Some(format!(
        "{word}: {variant} on {case}\n  {text}\n  \
         replay: touchstone check --variant {variant}{own_kernel}{own_inputs}{simulate}{nan} '{case}'"
    ))
}

/// Prints how many records came out how, what was skipped and why, and gives the exit code.
fn summarize(records: &[Record]) -> ExitCode {
    let count = |test: fn(&Outcome) -> bool| records.iter().filter(|r| test(&r.outcome)).count();
    let measured = count(|o| matches!(o, Outcome::Measured { .. }));
    let checked = count(|o| matches!(o, Outcome::Checked { .. }));
    let wrong = count(|o| matches!(o, Outcome::Wrong { .. }));
    let failed = count(|o| matches!(o, Outcome::Failed { .. }));
    let mut skipped: BTreeMap<&str, usize> = BTreeMap::new();
    for record in records {
        if let Outcome::Skipped { reason } = &record.outcome {
            *skipped.entry(reason).or_default() += 1;
        }
    }
    say!(
        "{} results: {measured} measured, {checked} checked, {wrong} wrong, {failed} failed, {} not run",
        records.len(),
        skipped.values().sum::<usize>()
    );
    let mut reasons: Vec<_> = skipped.into_iter().collect();
    reasons.sort_by_key(|&(_, times)| std::cmp::Reverse(times));
    for (reason, times) in reasons.iter().take(12) {
        say!("  not run, {times} times: {reason}");
    }
    if reasons.len() > 12 {
        say!("  … and {} more reasons (all are in the records)", reasons.len() - 12);
    }
    ExitCode::from(u8::from(wrong + failed > 0 || measured + checked == 0))
}

/// Prints a line; that nobody reads it is no error.
fn print_line(line: std::fmt::Arguments<'_>) {
    if let Err(error) = print_text(&format!("{line}\n")) {
        eprintln!("warning: cannot print '{line}': {error}");
    }
}

/// Prints text that may be long. A reader that has seen enough (`| head`) is no error.
fn print_text(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// One line on what this run computes on.
fn introduce(runner: &Runner) {
    let environment = runner.environment();
    say!("CPU: {}, {} threads", environment.cpu, environment.cpu_threads);
    match (runner.gpu(), &environment.device) {
        (Ok(_), Some(device)) => say!(
            "GPU: {}, compute {}, driver {}{}",
            device.name,
            device.compute,
            device.driver,
            device.limits.as_ref().map_or(String::new(), |limits| format!(
                "; measured copy {:.2} TB/s, bf16 matrix products {:.0} TFLOP/s",
                limits.copy_bytes_per_s * 1e-12,
                limits.products_per_s(false) * 1e-12
            ))
        ),
        (Err(reason), _) => {
            let run = if runner.simulator.is_some() {
                "run on the simulator alone"
            } else {
                "will not be run"
            };
            say!("GPU: {reason}; CUDA variants {run}");
        }
        (Ok(_), None) => say!("GPU: present, not described"),
    }
}
