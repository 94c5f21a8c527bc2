//! `touchstone verify`.

use std::{path::PathBuf, process::ExitCode};

use serde_json::json;
use touchstone_bench::{Problem, exchange, verify::Verdict};

use super::print_text;
use crate::select;

/// Arguments of `verify`.
#[derive(clap::Args)]
#[command(
    after_help = "Exit codes: 0 right; 1 wrong; 2 nothing could be compared: a file is malformed, or \
    lacks an output, has an extra one, or one of another type or shape.\n\n\
    Files show less than a kernel that touchstone runs itself (`touchstone check --kernel`): the answer of \
    this command says what was not seen."
)]
pub struct Arguments {
    /// The case's id, as given to `touchstone export`
    case: String,
    /// Your kernel's outputs (safetensors), each under its name. Give a second file, of a second run into
    /// memory that held something else, to see also whether the bits repeat
    #[arg(long = "output", value_name = "FILE", required = true)]
    outputs: Vec<PathBuf>,
    /// The inputs given to `touchstone export --inputs`, if any
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// Machine-readable answer
    #[arg(long)]
    json: bool,
}

/// Compares every file with the reference, as our own kernels' outputs are.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(arguments.outputs.len() <= 2, "--output is given at most twice");
    let case = select::case(&arguments.case)?;
    let problem = match &arguments.inputs {
        Some(path) => exchange::problem(&case, path)?,
        None => Problem::new(&case)?,
    };
    let read = |path| exchange::read_outputs(&problem.expected, path);
    let first = read(&arguments.outputs[0])?;
    let second = arguments.outputs.get(1).map(|path| read(path)).transpose()?;
    let verdict = exchange::judge(&problem, &first, second.as_ref());
    let unseen = unseen(second.is_some());
    let text = match arguments.json {
        true => format!("{:#}\n", as_json(&problem, &verdict, &unseen)),
        false => as_text(&verdict, &unseen),
    };
    print_text(&text)?;
    Ok(ExitCode::from(u8::from(matches!(verdict, Verdict::Wrong(..)))))
}

/// What our own kernels are checked for and files cannot show.
fn unseen(twice: bool) -> Vec<&'static str> {
    let mut unseen = vec![
        "writes outside the outputs and changed inputs (no canaries)",
        "whether the error is out of proportion to our naive kernel's",
    ];
    if !twice {
        unseen.push(
            "elements left unwritten that happened to be right, and bits that change from run to run \
             (give --output twice)",
        );
    }
    unseen
}

fn as_text(verdict: &Verdict, unseen: &[&str]) -> String {
    let (agreement, head) = match verdict {
        Verdict::Right(agreement) => {
            let share = agreement.worst_share().unwrap_or(0.0);
            let repeats = if agreement.repeatable { "" } else { "; not bitwise repeatable" };
            (Some(agreement), format!("right; largest error is {share:.3} of its bound{repeats}"))
        }
        Verdict::Wrong(agreement, complaint) => (agreement.as_ref(), format!("WRONG: {complaint}")),
    };
    let mut lines = vec![head];
    for output in agreement.iter().flat_map(|agreement| &agreement.outputs) {
        let share = output.worst_share.map_or("-".into(), |share| format!("{share:.3}"));
        lines.push(format!(
            "  {:<16} {} elements, {} compared, {} wrong, {} NaN, {} ties; largest error / bound {share}",
            output.name, output.elements, output.compared, output.failed, output.nan, output.ties
        ));
    }
    lines.extend(unseen.iter().map(|what| format!("  not seen from files: {what}")));
    lines.join("\n") + "\n"
}

fn as_json(problem: &Problem, verdict: &Verdict, unseen: &[&str]) -> serde_json::Value {
    let (right, agreement, complaint) = match verdict {
        Verdict::Right(agreement) => (true, Some(agreement), None),
        Verdict::Wrong(agreement, complaint) => (false, agreement.as_ref(), Some(complaint)),
    };
    json!({
        "case": problem.case.to_string(),
        "inputs": problem.source,
        "right": right,
        "complaint": complaint,
        "agreement": agreement,
        "not_seen": unseen,
    })
}
