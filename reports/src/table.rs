//! Tables of records.

use serde::Serialize;
use touchstone_bench::record::Measurement;

use crate::{derive::Row, units};

/// A table as the template shows it.
#[derive(Serialize)]
pub struct Table {
    /// What the rows are.
    pub heading: String,
    /// Heading and explanation of each column.
    pub columns: Vec<Heading>,
    /// Cells of each row.
    pub rows: Vec<Vec<Cell>>,
}

/// Heading of a column.
#[derive(Serialize)]
pub struct Heading {
    text: &'static str,
    about: &'static str,
}

/// One cell.
#[derive(Clone, Serialize)]
pub struct Cell {
    text: String,
    /// Number to sort by, when the cell is one.
    sort: Option<String>,
    /// Class: `case`, `number` or nothing.
    class: &'static str,
}

impl Cell {
    fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), sort: None, class: "" }
    }

    fn number(value: f64, text: String) -> Self {
        Self { text, sort: Some(format!("{value:.4e}")), class: "number" }
    }

    fn empty() -> Self {
        Self::text("")
    }
}

/// A column: heading, explanation, and the cell of a row that has one.
struct Column {
    text: &'static str,
    about: &'static str,
    cell: fn(&Row<'_>) -> Option<Cell>,
}

/// All columns. Those that no row of a table fills are left out of it.
const COLUMNS: &[Column] = &[
    Column {
        text: "case",
        about: "replay with touchstone check 'CASE'",
        cell: |row| Some(Cell { text: row.record.case.clone(), sort: None, class: "case" }),
    },
    Column {
        text: "inputs",
        about: "where the inputs came from",
        cell: |row| (row.record.inputs != "drawn").then(|| Cell::text(&row.record.inputs)),
    },
    Column {
        text: "variant",
        about: "what computed it",
        cell: |row| Some(Cell::text(&row.record.variant)),
    },
    Column {
        text: "dtype",
        about: "element type of the case",
        cell: |row| {
            let (_, dtype) = row.fields.iter().find(|(key, _)| *key == "dtype")?;
            Some(Cell::text(*dtype))
        },
    },
    Column {
        text: "median",
        about: "median time, cache flushed where that was measured",
        cell: |row| {
            let ns = row.median_ns()?;
            let note = if row.invalid() { " (invalid)" } else { "" };
            Some(Cell::number(ns, units::time(ns) + note))
        },
    },
    Column {
        text: "quartiles",
        about: "25th to 75th percentile",
        cell: |row| {
            let time = row.time?;
            let text = format!("{} – {}", units::time(time.q1), units::time(time.q3));
            Some(Cell::number(time.q3 - time.q1, text))
        },
    },
    Column {
        text: "warm",
        about: "median time with warm caches",
        cell: |row| {
            let ns = row.cold.and(row.warm)?.median;
            Some(Cell::number(ns, units::time(ns)))
        },
    },
    Column {
        text: "samples",
        about: "samples that count; those taken while the device throttled are left out",
        cell: |row| {
            let m = row.measurement()?;
            let n = m.samples_ns().len();
            let note = if m.throttled > 0 {
                format!(" (+{} throttled)", m.throttled)
            } else {
                String::new()
            };
            Some(Cell::number(n as f64, format!("{n}{note}")))
        },
    },
    Column {
        text: "GB/s",
        about: "compulsory bytes over median time",
        cell: |row| row.rate(|work| work.bytes).map(|v| Cell::number(v, units::bandwidth(v))),
    },
    Column {
        text: "TFLOP/s",
        about: "operations by formula over median time",
        cell: |row| row.rate(|work| work.flops).map(|v| Cell::number(v, units::flops(v))),
    },
    Column {
        text: "items",
        about: "items over median time",
        cell: |row| {
            let unit = &row.record.work.as_ref()?.item_unit;
            row.rate(|work| work.items).map(|v| Cell::number(v, units::items(v, unit)))
        },
    },
    Column {
        text: "of limit",
        about: "the least time the device's measured limits permit over the median",
        cell: |row| row.share_of_limit().map(|v| Cell::number(v, units::percent(v))),
    },
    Column {
        text: "peak memory",
        about: "most device memory held at once; on a processor, inputs and outputs",
        cell: |row| row.peak_bytes().map(|v| Cell::number(v, units::bytes(v))),
    },
    Column {
        text: "workspace",
        about: "the part of it that the variant needs besides inputs and outputs",
        cell: |row| {
            let bytes = row.measurement().map(|m: &Measurement| m.workspace_bytes)?;
            (bytes > 0).then(|| Cell::number(bytes as f64, units::bytes(bytes as f64)))
        },
    },
    Column {
        text: "worst error",
        about: "largest error as a share of its bound",
        cell: |row| row.worst_share().map(|v| Cell::number(v, units::error(v))),
    },
    Column {
        text: "repeats",
        about: "whether a second run gave the same bits",
        cell: |row| {
            let agreement = row.record.agreement()?;
            (!agreement.repeatable).then(|| Cell::text("other bits"))
        },
    },
    Column {
        text: "against peer",
        about: "time over the best peer's on the same case and device: below 1 is faster",
        cell: |row| row.peer_ratio.map(|v| Cell::number(v, units::times(v))),
    },
    Column {
        text: "clock",
        about: "what the samples were taken with",
        cell: |row| row.measurement().map(|m| Cell::text(&m.clock)),
    },
];

/// A table of `rows`, which all ran in the same place.
pub fn table(heading: &str, rows: &[&Row<'_>]) -> Table {
    let filled: Vec<&Column> = COLUMNS
        .iter()
        .filter(|column| rows.iter().any(|row| (column.cell)(row).is_some()))
        .collect();
    Table {
        heading: heading.to_string(),
        columns: filled.iter().map(|c| Heading { text: c.text, about: c.about }).collect(),
        rows: rows
            .iter()
            .map(|row| {
                filled.iter().map(|column| (column.cell)(row).unwrap_or_else(Cell::empty)).collect()
            })
            .collect(),
    }
}
