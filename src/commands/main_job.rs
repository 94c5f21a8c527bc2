//! The main job: `touchstone` without a subcommand.

use std::{path::PathBuf, process::ExitCode};

use touchstone_bench::{Effort, Runner, Task, Tier, record::Writer};
use touchstone_reports::Options;

use super::{introduce, run::records_path, run_cases, summarize};
use crate::{default_folder, select::Selection, shipped};

/// Arguments of the main job.
#[derive(clap::Args)]
pub struct Arguments {
    /// Folder of the report
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Text for the text chain (UTF-8) instead of the built-in corpus
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,
    /// CUDA device to use, by its number
    #[arg(long, default_value_t = 0, value_name = "N")]
    device: usize,
}

/// Quick workloads and the text chain on this machine, the shipped results, and the report of both.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let all = Selection { filter: None, variant: None, workloads: None, device: arguments.device };
    let selected = all.cases(&[Tier::Quick])?;
    let mut records = shipped::records()?;
    println!("shipped results: {} records", records.len());

    let mut runner = Runner::new(arguments.device, true)?;
    introduce(&runner);
    let folder = arguments.out.clone().unwrap_or_else(default_folder);
    let mut writer = Writer::create(&records_path(&folder, &runner))?;

    println!("quick workloads: {} cases", selected.len());
    let task = Task::Measure(Effort::QUICK);
    let own = run_cases(&mut runner, &selected, task, Some(&mut writer))?;
    let code = summarize(&own);

    records.extend(own);
    let options = Options { title: "Touchstone".into(), notes: Vec::new(), text_chain: None };
    let page = touchstone_reports::write(&records, &folder, &options)?;
    println!("report: {}", page.canonicalize().unwrap_or(page).display());
    Ok(code)
}
