//! Tables of records.

use serde::Serialize;
use touchstone_bench::record::Measurement;

use crate::{
    cases::{self, Varying},
    derive::Row,
    units,
};

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
#[derive(Clone, Default, Serialize)]
pub struct Cell {
    text: String,
    /// Where it leads within the page.
    anchor: Option<String>,
}

impl Cell {
    fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), anchor: None }
    }
}

/// A column: heading, explanation, and the cell of a row that has one.
struct Column {
    text: &'static str,
    about: &'static str,
    cell: fn(&Row<'_>) -> Option<String>,
}

/// All columns. Those that no row of a table fills are left out of it.
const COLUMNS: &[Column] = &[
    Column {
        text: "inputs",
        about: "where the inputs came from",
        cell: |row| (row.record.inputs != "drawn").then(|| row.record.inputs.clone()),
    },
    Column {
        text: "variant",
        about: "what computed it",
        cell: |row| Some(row.record.variant.clone()),
    },
    Column {
        text: "median",
        about: "median time, cache flushed where that was measured",
        cell: |row| {
            let ns = row.median_ns()?;
            let note = if row.invalid() { " (invalid)" } else { "" };
            Some(units::time(ns) + note)
        },
    },
    Column {
        text: "quartiles",
        about: "25th to 75th percentile",
        cell: |row| {
            let time = row.time?;
            Some(format!("{} – {}", units::time(time.q1), units::time(time.q3)))
        },
    },
    Column {
        text: "warm",
        about: "median time with warm caches",
        cell: |row| Some(units::time(row.cold.and(row.warm)?.median)),
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
            Some(format!("{n}{note}"))
        },
    },
    Column {
        text: "GB/s",
        about: "compulsory bytes over median time",
        cell: |row| row.rate(|work| work.bytes).map(units::bandwidth),
    },
    Column {
        text: "TFLOP/s",
        about: "operations by formula over median time",
        cell: |row| row.rate(|work| work.flops).map(units::flops),
    },
    Column {
        text: "items",
        about: "items over median time",
        cell: |row| {
            let unit = &row.record.work.as_ref()?.item_unit;
            row.rate(|work| work.items).map(|v| units::items(v, unit))
        },
    },
    Column {
        text: "of limit",
        about: "the least time the device's measured limits permit over the median",
        cell: |row| row.share_of_limit().map(units::percent),
    },
    Column {
        text: "peak memory",
        about: "most device memory held at once; on a processor, inputs and outputs",
        cell: |row| row.peak_bytes().map(units::bytes),
    },
    Column {
        text: "workspace",
        about: "the part of it that the variant needs besides inputs and outputs",
        cell: |row| {
            let bytes = row.measurement().map(|m: &Measurement| m.workspace_bytes)?;
            (bytes > 0).then(|| units::bytes(bytes as f64))
        },
    },
    Column {
        text: "worst error",
        about: "largest error as a share of its bound",
        cell: |row| row.worst_share().map(units::error),
    },
    Column {
        text: "repeats",
        about: "whether a second run gave the same bits",
        cell: |row| {
            let agreement = row.record.agreement()?;
            (!agreement.repeatable).then(|| "other bits".to_string())
        },
    },
    Column {
        text: "against peer",
        about: "time over the best peer's on the same case and device: below 1 is faster",
        cell: |row| row.peer_ratio.map(units::times),
    },
];

/// A table of `rows`, which all ran in the same place. A case is told by the parameters in which it differs
/// from the others, and leads to its line in the list of cases.
pub fn table(heading: &str, rows: &[&Row<'_>], varying: &Varying<'_>) -> Table {
    let filled: Vec<&Column> = COLUMNS
        .iter()
        .filter(|column| rows.iter().any(|row| (column.cell)(row).is_some()))
        .collect();
    let case = Heading {
        text: "case",
        about: "its number in the list of cases, and what tells it from the others",
    };
    let cells = |row: &&Row<'_>| {
        let anchor = Some(cases::anchor(&row.record.case));
        let case = Cell { text: format!("{} {}", varying.number(row), varying.text(row)), anchor };
        let others = filled.iter().map(|c| (c.cell)(row).map_or_else(Cell::default, Cell::text));
        std::iter::once(case).chain(others).collect()
    };
    Table {
        heading: heading.to_string(),
        columns: std::iter::once(case)
            .chain(filled.iter().map(|c| Heading { text: c.text, about: c.about }))
            .collect(),
        rows: rows.iter().map(cells).collect(),
    }
}
