//! `touchstone list`.

use std::process::ExitCode;

use serde_json::json;
use touchstone_bench::Workload;
use touchstone_reference::operations;
use touchstone_reports::units;

use super::print_text;
use crate::select::Selection;

/// Arguments of `list`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// Machine-readable output
    #[arg(long)]
    json: bool,
    /// Also every case id
    #[arg(long)]
    cases: bool,
}

/// Prints operations with their variants and workloads.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut workloads = arguments.selection.all()?;
    if let Some(shard) = arguments.selection.shard {
        for workload in &mut workloads {
            workload.cases.retain(|case| shard.holds(case));
        }
    }
    let selection = &arguments.selection;
    let chosen = selection.matching(&workloads)?;
    selection.check_variant(&chosen.iter().map(|w| w.op.as_str()).collect(), None)?;
    let text = match arguments.json {
        true => serde_json::to_string_pretty(&as_json(&chosen, selection))? + "\n",
        false => as_text(&chosen, selection, arguments.cases),
    };
    print_text(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn as_text(chosen: &[&Workload], selection: &Selection, with_cases: bool) -> String {
    let mut lines = Vec::new();
    for operation in operations() {
        let asked: Vec<_> = chosen.iter().filter(|w| w.op == operation.name).collect();
        if asked.is_empty() {
            continue;
        }
        lines.push(format!("{}  {}", operation.name, operation.summary));
        let variants = touchstone_cuda::variants().filter(|v| v.op == operation.name);
        let variants: Vec<_> = variants.filter(|v| selection.wants(v.name)).collect();
        let names = variants.iter().map(|v| v.name).chain(asked.iter().map(|w| w.name.as_str()));
        let width = names.map(str::len).max().unwrap_or(0);
        for variant in variants {
            lines.push(format!("  variant   {:<width$}  {}", variant.name, variant.idea));
        }
        for w in asked {
            let tier = format!("{:?}", w.tier).to_lowercase();
            let cases = units::count(w.cases.len(), "case");
            lines.push(format!("  workload  {:<width$}  {tier}, {cases}: {}", w.name, w.why));
            if with_cases {
                lines.extend(w.cases.iter().map(|case| format!("    {case}")));
            }
        }
        lines.push(String::new());
    }
    lines.join("\n")
}

fn as_json(chosen: &[&Workload], selection: &Selection) -> serde_json::Value {
    let operation = |operation: &'static touchstone_reference::Operation| {
        let variants: Vec<_> = touchstone_cuda::variants()
            .filter(|v| v.op == operation.name && selection.wants(v.name))
            .map(|v| json!({"name": v.name, "idea": v.idea, "deterministic": v.deterministic}))
            .collect();
        let workloads: Vec<_> = chosen
            .iter()
            .filter(|w| w.op == operation.name)
            .map(|w| json!({"name": w.name, "why": w.why, "tier": w.tier, "cases": w.cases}))
            .collect();
        json!({
            "operation": operation.name,
            "summary": operation.summary,
            "variants": variants,
            "workloads": workloads,
        })
    };
    operations().map(operation).filter(|o| o["workloads"] != json!([])).collect()
}
