//! `touchstone export`.

use std::{path::PathBuf, process::ExitCode};

use touchstone_bench::{Problem, exchange, workload};

use crate::select;

/// Arguments of `export`.
#[derive(clap::Args)]
#[command(
    after_help = "The file holds inputs.NAME, expected.NAME and bound.NAME (f64: the largest permitted \
    error of each element); where only a sample of an output is known, at.NAME with the indices of its values; \
    where ties leave a choice, also.NAME.at and also.NAME.value with the other right values. Its metadata key \
    'touchstone' is a JSON object: case, parameters, types and shapes of the outputs, workloads.\n\n\
    Then run your kernel on inputs.*, save each output under its NAME, and:\n  \
    touchstone verify CASE --output out.safetensors"
)]
pub struct Arguments {
    /// The case's id; `touchstone list --cases` prints those of the built-in workloads
    case: String,
    /// File to create (safetensors); it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Your own tensors as inputs (safetensors); what the file leaves out is drawn
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
}

/// Writes the problem and says what is in it.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let case = select::case(&arguments.case)?;
    let problem = match &arguments.inputs {
        Some(path) => exchange::problem(&case, path)?,
        None => Problem::new(&case)?,
    };
    exchange::export(&problem, &workload::embedded()?, &arguments.out)?;
    say!("{}: {case}", arguments.out.display());
    for (name, tensor) in problem.inputs.iter() {
        say!("  input   {name:<16} {:<5} {:?}", tensor.dtype().name(), tensor.shape());
    }
    for (name, expected) in problem.expected.iter() {
        say!("  output  {name:<16} {:<5} {:?}", expected.dtype().name(), expected.shape());
    }
    Ok(ExitCode::SUCCESS)
}
