//! The main job: `touchstone` without a subcommand.

use std::{path::PathBuf, process::ExitCode};

use touchstone_bench::{
    Effort, Problem, Runner, Task, Tier,
    corpus::Corpus,
    neural::{self, Trained},
    record::Writer,
    text_chain::TextChain,
};
use touchstone_reference::{Case, Tensors};
use touchstone_reports::Options;

use super::{complaint, introduce, run::unique_writer, run_cases, summarize};
use crate::{default_folder, select::Selection, shipped};

/// Arguments of the main job.
#[derive(clap::Args)]
pub struct Arguments {
    /// Folder of the report, and of the records in it [default: report]
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
    // Bad input is refused before anything is computed.
    let corpus = match &arguments.corpus {
        Some(path) => Corpus::from_file(path)?,
        None => Corpus::embedded(),
    };
    let all = Selection {
        filter: None,
        variant: None,
        workloads: None,
        shard: None,
        device: arguments.device,
    };
    let selected = all.cases(&[Tier::Quick], None)?;
    let mut records = shipped::records()?;
    say!("shipped results: {} records", records.len());

    let mut runner = Runner::new(arguments.device, true)?;
    introduce(&runner);
    let folder = arguments.out.clone().unwrap_or_else(default_folder);
    let mut writer = unique_writer(&folder, &runner)?;

    say!("text chain on {}: language models, embeddings, speculative acceptance …", corpus.name());
    let mut chain = TextChain::run(&corpus)?;
    say!("a small network on its characters: training, speculative decoding …");
    let trained = Trained::on(&corpus)?;
    chain.neural = Some(match runner.gpu() {
        Ok(gpu) => trained.on_gpu(gpu, neural::Effort::GPU)?,
        Err(_) => trained.by_reference(neural::Effort::REFERENCE)?,
    });
    let problems = [chain.problems(), trained.problems()].concat();
    let source = format!("corpus {} ({} bytes)", chain.corpus, chain.bytes);
    let mut own = text_problems(&mut runner, problems, &source, &mut writer)?;

    say!("quick workloads: {} cases", selected.len());
    let task = Task::Measure(Effort::QUICK);
    own.extend(run_cases(&mut runner, &selected, None, task, Some(&mut writer))?);
    let code = summarize(&own);

    let notes = notes(&runner, records.len(), &own);
    records.extend(own);
    let options = Options {
        title: "Touchstone".into(),
        notes,
        text_chain: Some(serde_json::to_value(&chain)?),
        ..Options::default()
    };
    let page = touchstone_reports::write(&records, &folder, &options)?;
    say!("report: {}", page.canonicalize().unwrap_or(page).display());
    Ok(code)
}

/// What of the page was made here and now, and what was recorded elsewhere.
fn notes(runner: &Runner, shipped: usize, own: &[touchstone_bench::Record]) -> Vec<String> {
    let environment = runner.environment();
    let kernels = match (runner.gpu(), &environment.device) {
        (Ok(_), Some(device)) => format!("kernels on its {}", device.name),
        (Ok(_), None) => "kernels on its GPU".to_string(),
        (Err(reason), _) => format!("no kernels ({reason}), only the references on its processor"),
    };
    vec![format!(
        "Run on this machine just now: {} results, {kernels}. Shipped with touchstone and shown beside \
         them: {shipped} recorded results.",
        own.len()
    )]
}

/// The chain's own tensors as inputs of the kernels: real text instead of drawn numbers.
fn text_problems(
    runner: &mut Runner,
    problems: Vec<(Case, Tensors)>,
    source: &str,
    writer: &mut Writer,
) -> anyhow::Result<Vec<touchstone_bench::Record>> {
    let mut all = Vec::new();
    for (case, inputs) in problems {
        let text = Problem::with_inputs(&case, inputs, source)?;
        for record in runner.problem("text_chain", &text, Task::Measure(Effort::QUICK)) {
            if let Some(complaint) = complaint(&record) {
                eprintln!("{complaint}");
            }
            writer.write(&record)?;
            all.push(record);
        }
    }
    Ok(all)
}
