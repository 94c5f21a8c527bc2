//! Medians as Bencher Metric Format (<https://bencher.dev/docs/reference/bencher-metric-format/>): for each
//! benchmark the measures it has, each with a value and an interval.

use serde_json::{Map, Value, json};

use crate::Verdicts;

pub(crate) fn text(verdicts: &Verdicts) -> anyhow::Result<String> {
    let mut benchmarks = Map::new();
    for entry in &verdicts.entries {
        let Some(timing) = &entry.current else { continue };
        // The format has no infinity and no NaN.
        if ![timing.q1_ns, timing.median_ns, timing.q3_ns].iter().all(|ns| ns.is_finite()) {
            continue;
        }
        let name = match entry.inputs.as_str() {
            "drawn" => format!("{} on {}", entry.variant, entry.case),
            inputs => format!("{} on {} of {inputs}", entry.variant, entry.case),
        };
        let latency = json!({
            "value": timing.median_ns,
            "lower_value": timing.q1_ns,
            "upper_value": timing.q3_ns,
        });
        benchmarks.insert(name, json!({ "latency": latency }));
    }
    Ok(serde_json::to_string_pretty(&Value::Object(benchmarks))? + "\n")
}
