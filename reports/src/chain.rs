//! The text chain: whatever its results are, scalars are listed, lists of objects are tables, and lists of
//! numbers are drawn.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    chart::{Axis, Chart, Line, Stroke},
    units,
};

/// Fewer numbers than this are listed, not drawn.
const LEAST_DRAWN: usize = 8;
/// Rows of a table beyond these are counted only.
const MOST_ROWS: usize = 50;

/// Results of the text chain.
#[derive(Serialize)]
pub struct Chain {
    parts: Vec<Part>,
}

/// One step of the chain.
#[derive(Default, Serialize)]
struct Part {
    heading: String,
    facts: Vec<(String, String)>,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    left_out: usize,
    plots: Vec<Plot>,
}

#[derive(Serialize)]
struct Plot {
    heading: String,
    svg: String,
}

/// The section for `value`; `None` when there is nothing in it.
///
/// # Errors
/// If a plot cannot be drawn.
pub fn section(value: &Value) -> anyhow::Result<Option<Chain>> {
    let mut parts = Vec::new();
    match value {
        Value::Object(map) => object("", map, &mut parts)?,
        Value::Null => {}
        other => parts.push(list("", other)?),
    }
    parts.retain(|part| !(part.facts.is_empty() && part.rows.is_empty() && part.plots.is_empty()));
    Ok((!parts.is_empty()).then_some(Chain { parts }))
}

fn object(heading: &str, map: &Map<String, Value>, parts: &mut Vec<Part>) -> anyhow::Result<()> {
    let mut own = Part { heading: heading.to_string(), ..Part::default() };
    let mut inner = Vec::new();
    for (key, value) in map {
        let name = words(key);
        match value {
            Value::Null => {}
            Value::Object(map) => object(&name, map, &mut inner)?,
            Value::Array(items) if items.iter().any(Value::is_object) => {
                inner.push(list(&name, value)?);
            }
            Value::Array(items) => match curve(&name, items)? {
                Some(plot) => own.plots.push(plot),
                None => own.facts.push((name, cell(value))),
            },
            scalar => own.facts.push((name, cell(scalar))),
        }
    }
    parts.push(own);
    parts.append(&mut inner);
    Ok(())
}

/// A table of objects, one column for each key any of them has.
fn list(heading: &str, value: &Value) -> anyhow::Result<Part> {
    let mut part = Part { heading: heading.to_string(), ..Part::default() };
    let Value::Array(items) = value else {
        part.facts.push(("result".to_string(), cell(value)));
        return Ok(part);
    };
    let mut keys: Vec<&str> = Vec::new();
    for key in items.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    part.columns = keys.iter().map(|key| words(key)).collect();
    part.rows = items
        .iter()
        .take(MOST_ROWS)
        .map(|item| keys.iter().map(|key| item.get(key).map(cell).unwrap_or_default()).collect())
        .collect();
    part.left_out = items.len().saturating_sub(MOST_ROWS);
    Ok(part)
}

/// A series of numbers as a line over its index.
fn curve(heading: &str, items: &[Value]) -> anyhow::Result<Option<Plot>> {
    let values: Vec<f64> = items.iter().filter_map(Value::as_f64).collect();
    if values.len() < LEAST_DRAWN || values.len() != items.len() {
        return Ok(None);
    }
    let points: Vec<(f64, f64)> = values.iter().enumerate().map(|(i, v)| (i as f64, *v)).collect();
    let chart = Chart {
        title: heading.to_string(),
        x: Axis::linear("index", [points.len() as f64 - 1.0].into_iter(), units::size),
        y: Axis::linear(heading, values.iter().copied(), units::tick),
        lines: vec![Line { slot: 0, points, stroke: Stroke::Solid }],
        marks: Vec::new(),
    };
    Ok(Some(Plot { heading: heading.to_string(), svg: chart.svg()? }))
}

/// A value in one cell.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => whole.to_string(),
            (_, Some(real)) => units::digits(real),
            _ => number.to_string(),
        },
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_string(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| format!("{} {}", words(key), cell(value)))
            .collect::<Vec<_>>()
            .join("; "),
    }
}

fn words(key: &str) -> String {
    key.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_are_listed_objects_tabled_and_numbers_drawn() {
        let value = json!({
            "tokens": 1200,
            "orders": [{ "order": 1, "perplexity": 310.5 }, { "order": 2, "bits": 6.25 }],
            "word2vec": { "loss": [5.0, 4.0, 3.0, 2.5, 2.2, 2.1, 2.05, 2.0], "rate": 0.025 },
            "nothing": null,
        });
        let chain = section(&value).unwrap().unwrap();
        assert_eq!(chain.parts.len(), 3);
        assert_eq!(chain.parts[0].facts, [("tokens".to_string(), "1200".to_string())]);
        assert_eq!(chain.parts[1].columns, ["order", "perplexity", "bits"]);
        assert_eq!(chain.parts[1].rows[1], ["2", "", "6.25"]);
        assert_eq!(chain.parts[2].plots.len(), 1);
    }

    #[test]
    fn nothing_is_no_section() {
        for value in [json!(null), json!({}), json!({ "a": null }), json!([])] {
            assert!(section(&value).unwrap().is_none(), "{value}");
        }
    }
}
