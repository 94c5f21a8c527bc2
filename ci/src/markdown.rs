//! Verdicts as Markdown, for a terminal or the summary of a CI step.

use std::fmt::Write;

use crate::{Entry, Timing, Verdict, Verdicts};

/// A time in milliseconds with four significant digits.
pub(crate) fn milliseconds(ns: f64) -> String {
    let ms = ns / 1e6;
    let digits = if ms > 0.0 { (3 - ms.log10().floor() as i32).clamp(0, 6) } else { 3 };
    format!("{ms:.*} ms", digits as usize)
}

/// Text that cannot break out of a table cell.
pub(crate) fn table_cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

/// The whole file.
pub(crate) fn verdicts(verdicts: &Verdicts) -> String {
    let outcome = if verdicts.passes() { "passes" } else { "fails" };
    let mut text = format!("# The gate {outcome}\n\n");
    if let Some(problem) = &verdicts.problem {
        let _ = writeln!(text, "**{}**\n", table_cell(problem));
    }
    text += "| verdict | count | |\n|---|--:|---|\n";
    for verdict in Verdict::ALL {
        let fails = if verdict.fails() { "fails the gate" } else { "" };
        let _ = writeln!(text, "| {} | {} | {fails} |", verdict.name(), verdicts.count(verdict));
    }
    let options = &verdicts.options;
    let _ = writeln!(
        text,
        "\n{} questions were skipped by both sides; {} samples were left out because the device throttled. \
         Slower and faster need a change beyond the smallest one that counts for the workload (learned, or \
         {:.0} % on a GPU, {:.0} % on a processor, {:.0} % there against another hour), a 99 % interval of the ratio that leaves out 1, and a \
         Mann–Whitney test that survives the control of false discoveries at {:.0} %.",
        verdicts.skipped,
        verdicts.throttled(),
        options.gpu_effect * 100.0,
        options.cpu_effect * 100.0,
        options.cpu_stored_effect * 100.0,
        options.false_discovery * 100.0
    );
    for verdict in Verdict::ALL {
        let of: Vec<&Entry> = verdicts.entries.iter().filter(|e| e.verdict == verdict).collect();
        if !of.is_empty() && !matches!(verdict, Verdict::Same | Verdict::New) {
            section(&mut text, verdict, &of);
        }
    }
    text
}

fn section(text: &mut String, verdict: Verdict, entries: &[&Entry]) {
    let timing = |timing: &Option<Timing>| {
        timing.as_ref().map_or("–".to_string(), |t| {
            format!(
                "{} ({} to {}, {} {} samples)",
                milliseconds(t.median_ns),
                milliseconds(t.q1_ns),
                milliseconds(t.q3_ns),
                t.samples,
                t.series
            )
        })
    };
    let _ = writeln!(text, "\n## {} ({})\n", verdict.name(), entries.len());
    *text += "| variant | replay | where | why | counts from | baseline | now |\n|---|---|---|---|--:|---|---|\n";
    for entry in entries {
        let _ = writeln!(
            text,
            "| {} | `touchstone check '{}'` | {} | {} | {} | {} | {} |",
            table_cell(&entry.variant),
            table_cell(&entry.case),
            table_cell(&entry.place.to_string()),
            table_cell(&entry.reason),
            entry.effect.map_or("–".to_string(), |effect| format!("{:.1} %", effect * 100.0)),
            timing(&entry.baseline),
            timing(&entry.current),
        );
    }
}
