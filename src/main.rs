//! `touchstone`: the command line. See `touchstone --help`.

mod commands;
mod select;
mod shipped;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use touchstone_bench::exchange;

/// Proves GPU kernels of language models right, then shows how fast they are and what memory buys.
///
/// Every kernel is a claim: a case states it, a naive f64 reference on the CPU settles it. Without a
/// subcommand, touchstone does its main job: it checks and times the quick workloads on this machine,
/// adds the recorded H100 and H200 results that it ships, and writes one HTML report. That works with
/// and without a GPU; what was not run is said, never counted as passed.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 all is well; 1 a result is wrong, a run failed or the gate is closed; \
                  2 the input or the command line is at fault.\n\n\
                  Examples:\n  \
                  touchstone                                  the main job\n  \
                  touchstone list attention                   what there is to ask\n  \
                  touchstone check ssm                        prove, do not time\n  \
                  touchstone check 'ssm.recurrence:batch=1,…' replay one case by its id\n  \
                  touchstone run --quick --out records.jsonl  measure into a records file\n  \
                  touchstone gate --baseline ci/baselines/h100 records.jsonl"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    main_job: commands::main_job::Arguments,
}

#[derive(Subcommand)]
enum Command {
    /// List algorithms, operations, variants and workloads
    List(commands::list::Arguments),
    /// Check correctness only: every variant against the reference, nothing timed
    Check(commands::check::Arguments),
    /// Verify, measure, and write records (JSON Lines)
    Run(commands::run::Arguments),
    /// Make the HTML report of records files or folders
    Report(commands::report::Arguments),
    /// Compare records with a baseline and fail on Slower, Wrong or Missing
    Gate(commands::gate::Arguments),
    /// Compare two records files, before and after
    Compare(commands::compare::Arguments),
    /// Merge records files of many machines into one, without loss or duplicates
    Merge(commands::merge::Arguments),
    #[command(hide = true)]
    Answer(commands::answer::Arguments),
    #[command(hide = true)]
    Prove(commands::prove::Arguments),
    /// Write one case's inputs, right answers and bounds to a file that any language reads
    Export(commands::export::Arguments),
    /// Hold answers from a file against the reference: your own kernel, in any language
    Verify(commands::verify::Arguments),
}

fn main() -> ExitCode {
    report_untrusted_panics_as_errors();
    let cli = Cli::parse();
    let result = match cli.command {
        None => commands::main_job::run(&cli.main_job),
        Some(Command::List(arguments)) => commands::list::run(&arguments),
        Some(Command::Check(arguments)) => commands::check::run(&arguments),
        Some(Command::Run(arguments)) => commands::run::run(&arguments),
        Some(Command::Report(arguments)) => commands::report::run(&arguments),
        Some(Command::Gate(arguments)) => commands::gate::run(&arguments),
        Some(Command::Compare(arguments)) => commands::compare::run(&arguments),
        Some(Command::Merge(arguments)) => commands::merge::run(&arguments),
        Some(Command::Answer(arguments)) => commands::answer::run(&arguments),
        Some(Command::Prove(arguments)) => commands::prove::run(&arguments),
        Some(Command::Export(arguments)) => commands::export::run(&arguments),
        Some(Command::Verify(arguments)) => commands::verify::run(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // Some messages, such as those on TOML, bring a line break along.
            eprintln!("error: {}", format!("{error:#}").trim_end());
            ExitCode::from(2)
        }
    }
}

/// Keeps panics over a user's own tensors from printing: they are caught and come out as errors.
fn report_untrusted_panics_as_errors() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some(exchange::UNTRUSTED) {
            print(panic);
        }
    }));
}

/// Where reports and records go when nothing else is said.
fn default_folder() -> PathBuf {
    PathBuf::from("report")
}
