//! What fails, as SARIF 2.1.0 for GitHub's code scanning. A result lies in the workload file that asks the question.

use serde_json::{Value, json};

use crate::{Entry, Verdict, Verdicts};

pub(crate) fn text(verdicts: &Verdicts) -> anyhow::Result<String> {
    let rule = |verdict: Verdict| {
        let says = match verdict {
            Verdict::Wrong => "A result is wrong",
            Verdict::Missing => "A right answer of the baseline is no longer given",
            _ => "A kernel became slower",
        };
        json!({ "id": verdict.name(), "shortDescription": { "text": says } })
    };
    let failing = Verdict::ALL.into_iter().filter(|verdict| verdict.fails());
    let mut rules: Vec<Value> = failing.map(rule).collect();
    rules.push(json!({
        "id": "incomparable",
        "shortDescription": { "text": "The run cannot be compared with its baseline" },
    }));
    let problem =
        verdicts.problem.iter().map(|problem| result("incomparable", problem, "ci/README.md"));
    let entries = verdicts.entries.iter().filter(|entry| entry.verdict.fails());
    let results: Vec<Value> = problem.chain(entries.map(of_entry)).collect();
    let log = json!({
        "version": "2.1.0",
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "runs": [{
            "tool": { "driver": {
                "name": "touchstone gate",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "results": results,
        }],
    });
    Ok(serde_json::to_string_pretty(&log)? + "\n")
}

fn of_entry(entry: &Entry) -> Value {
    let vertical = entry.op().split('.').next().unwrap_or_default();
    let says = format!("{} on {} ({}): {}", entry.variant, entry.case, entry.place, entry.reason);
    result(entry.verdict.name(), &says, &format!("bench/workloads/{vertical}.toml"))
}

fn result(rule: &str, message: &str, file: &str) -> Value {
    json!({
        "ruleId": rule,
        "level": "error",
        "message": { "text": message },
        "locations": [{ "physicalLocation": {
            "artifactLocation": { "uri": file },
            "region": { "startLine": 1 },
        } }],
    })
}
