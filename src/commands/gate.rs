//! `touchstone gate`.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use touchstone_bench::{Executor, Record, record};
use touchstone_ci::{
    GateOptions, Mode, Noise,
    Verdict::{Faster, Missing, New, Same, Slower, Unclear, Wrong},
    Verdicts, baseline, gate, gate_interleaved,
};

use crate::default_folder;

/// Arguments of `gate`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    touchstone gate --baseline ci/baselines records.jsonl          judge by the folder of this device\n  \
    touchstone run --against ./touchstone-before --out ab.jsonl    two builds in turn\n  \
    touchstone gate ab.jsonl                                       judge side B by side A\n  \
    touchstone gate --accept --baseline ci/baselines/h100 records.jsonl\n  \
    touchstone gate --learn ci/baselines/h100/noise.json run1.jsonl run2.jsonl run3.jsonl\n\n\
    Exit codes: 0 open; 1 closed: something is Slower, Wrong or Missing, or there is nothing to judge by; 2 the \
    input is at fault.")]
pub struct Arguments {
    /// Records to judge; an interleaved run (`run --against`) brings its own baseline
    #[arg(required = true, value_name = "RECORDS")]
    records: Vec<PathBuf>,
    /// Records to judge them by: a file, a folder such as ci/baselines/h100, or the folder of such folders
    #[arg(long, value_name = "RECORDS")]
    baseline: Option<PathBuf>,
    /// Folder for the verdicts as JSON, Markdown, JUnit XML, Bencher Metric Format and SARIF [default: report]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Judge, or accept, only what this executor ran
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// What was learned of the workloads' noise [default: noise.json in the baseline's folder]
    #[arg(long, value_name = "FILE")]
    noise: Option<PathBuf>,
    /// Make these records the baseline instead of judging them, and print what changes
    #[arg(long, requires = "baseline", conflicts_with = "learn")]
    accept: bool,
    /// Learn each workload's noise from these records, all made by one build, and write it to FILE
    #[arg(long, value_name = "FILE", conflicts_with = "baseline")]
    learn: Option<PathBuf>,
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

impl Only {
    const fn executor(self) -> Executor {
        match self {
            Self::Cpu => Executor::Cpu,
            Self::Cuda => Executor::Cuda,
            Self::Simulator => Executor::Simulator,
        }
    }
}

/// Judges, writes the verdicts, then decides the exit code.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runs: Vec<Vec<Record>> =
        arguments.records.iter().map(|path| record::read(path)).collect::<Result<_, _>>()?;
    if let Some(path) = &arguments.learn {
        return learn(&runs, path);
    }
    let mut current = runs.concat();
    if arguments.accept
        && let Some(only) = arguments.only
    {
        current.retain(|record| record.executor == only.executor());
    }
    if let (true, Some(folder)) = (arguments.accept, &arguments.baseline) {
        return accept(folder, &current);
    }
    let verdicts = judge(arguments, &current)?;
    let folder = arguments.out.clone().unwrap_or_else(default_folder);
    verdicts.write(&folder)?;
    tell_github(&verdicts)?;
    print(&verdicts, &folder);
    Ok(ExitCode::from(u8::from(!verdicts.passes())))
}

fn judge(arguments: &Arguments, current: &[Record]) -> anyhow::Result<Verdicts> {
    let only = arguments.only.map(Only::executor);
    let options = |noise: Noise| GateOptions { only, noise, ..GateOptions::default() };
    let named = arguments.noise.as_deref().map(Noise::read).transpose()?;
    let Some(path) = &arguments.baseline else {
        if current.iter().all(|record| record.trial.is_none()) {
            bail!(
                "nothing to judge by: give --baseline, or the records of `touchstone run --against`"
            );
        }
        return gate_interleaved(current, &options(named.unwrap_or_default()));
    };
    if current.iter().any(|record| record.trial.is_some()) {
        bail!("an interleaved run is judged by its own side A, without --baseline");
    }
    // A baseline that is damaged is the input's fault; one that is not there closes the gate.
    let found = match path.exists() {
        true => baseline::find(path, current)?,
        false => Err(format!("no baseline: {} does not exist", path.display())),
    };
    Ok(match found {
        Err(problem) => Verdicts::impossible(problem, options(Noise::default())),
        Ok((baseline, folder)) => {
            let beside = folder.join("noise.json");
            let noise = match named {
                Some(noise) => noise,
                None if beside.exists() => Noise::read(&beside)?,
                None => Noise::default(),
            };
            gate(&baseline, current, &options(noise))
        }
    })
}

/// What a person at a terminal wants to know.
fn print(verdicts: &Verdicts, folder: &Path) {
    if let Some(problem) = &verdicts.problem {
        say!("nothing can be judged: {problem}");
    }
    let every = [Wrong, Missing, Slower, Unclear, Faster, New, Same];
    let counts = every.map(|verdict| format!("{} {}", verdicts.count(verdict), verdict.name()));
    say!("gate {}: {}", if verdicts.passes() { "open" } else { "closed" }, counts.join(", "));
    let bad = verdicts.entries.iter().filter(|entry| entry.verdict.fails());
    for entry in bad.take(20) {
        say!("{}: {} on {}: {}", entry.verdict.name(), entry.variant, entry.case, entry.reason);
    }
    say!("verdicts: {}", folder.join("verdicts.md").display());
    if verdicts.throttled() > 0 {
        say!("{} samples were left out: the device throttled", verdicts.throttled());
    }
    if verdicts.count(Unclear) > 0 {
        say!("unclear ones neither pass nor fail: take more samples on a quieter machine");
    }
}

/// In a GitHub workflow, annotates the run and adds to the step's summary.
fn tell_github(verdicts: &Verdicts) -> anyhow::Result<()> {
    /// GitHub drops a summary above 1 MiB.
    const MOST_BYTES: usize = 1 << 20;
    if std::env::var_os("GITHUB_ACTIONS").is_some() {
        print!("{}", verdicts.annotations());
    }
    let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY") else { return Ok(()) };
    let mut text = verdicts.markdown();
    if text.len() > MOST_BYTES {
        let end = text[..MOST_BYTES / 2].rfind('\n').unwrap_or(0);
        text.truncate(end);
        text += "\n\nToo long to show here: see the whole in verdicts.md.\n";
    }
    let path = PathBuf::from(path);
    let cannot = || format!("cannot write the step's summary to {}", path.display());
    let mut file =
        std::fs::OpenOptions::new().create(true).append(true).open(&path).with_context(cannot)?;
    file.write_all(text.as_bytes()).with_context(cannot)
}

fn accept(folder: &Path, current: &[Record]) -> anyhow::Result<ExitCode> {
    let changes = baseline::accept(folder, current)?;
    for change in &changes {
        say!("{change}");
    }
    say!(
        "{}: {} answers changed; review them with `git diff` and commit",
        folder.display(),
        changes.len()
    );
    Ok(ExitCode::SUCCESS)
}

fn learn(runs: &[Vec<Record>], path: &Path) -> anyhow::Result<ExitCode> {
    let noise = Noise::learn(runs)?;
    noise.write(path)?;
    for floor in noise.floors() {
        let mode = match floor.mode {
            Mode::Interleaved => "interleaved",
            Mode::Stored => "stored",
        };
        say!(
            "{:>7.2} %  largest of {} comparisons, {mode}, {}: {} on {}",
            floor.largest * 100.0,
            floor.comparisons,
            floor.series,
            floor.workload,
            floor.place
        );
    }
    say!("noise: {}", path.display());
    Ok(ExitCode::SUCCESS)
}
