//! `touchstone prove`, hidden: how often the gate cries wolf, and what it notices. See `ci/prove`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use touchstone_bench::record;
use touchstone_ci::prove;

use super::print_text;

/// Arguments of `prove`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Records of one build run against itself: `touchstone run --against ITSELF --rounds 32`
    #[arg(value_name = "RECORDS")]
    same: PathBuf,
    /// Records of a run whose side B was slowed down: 1.05=FILE
    #[arg(long, value_name = "FACTOR=FILE")]
    planted: Vec<String>,
    /// Runs to draw from the rounds
    #[arg(long, default_value_t = 1000, value_name = "N")]
    runs: usize,
    /// Rounds of a drawn run, as of `run --against --rounds`
    #[arg(long, default_value_t = 8, value_name = "N")]
    rounds: usize,
    /// File for the noise learned on the way
    #[arg(long, value_name = "FILE")]
    noise: Option<PathBuf>,
}

/// Prints the table of METHODOLOGY.md.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let same = record::read(&arguments.same)?;
    let mut planted = Vec::new();
    for text in &arguments.planted {
        let Some((factor, path)) = text.split_once('=') else {
            bail!("--planted takes FACTOR=FILE, not '{text}'");
        };
        let factor: f64 = factor.parse().with_context(|| text.clone())?;
        planted.push((factor, record::read(&PathBuf::from(path))?));
    }
    let proof = prove(&same, &planted, arguments.runs, arguments.rounds)?;
    print_text(&proof.markdown())?;
    if let Some(path) = &arguments.noise {
        proof.noise.write(path)?;
    }
    Ok(ExitCode::SUCCESS)
}
