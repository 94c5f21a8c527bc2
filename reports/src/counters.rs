//! Exact costs, where the simulator counted them: the same on every machine.

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    axis::Axis,
    cases::{self, Varying},
    chart::{Chart, Line, Mark, Stroke},
    derive::Row,
    figures::{Figure, Slots},
    units,
};

/// What the variants did on one case.
#[derive(Serialize)]
pub struct Counters {
    /// The case, and where its line is.
    case: String,
    anchor: String,
    variants: Vec<String>,
    /// Name of a counter and its count for each variant; counters that are zero everywhere are left out.
    lines: Vec<(String, Vec<String>)>,
    figure: Option<Figure>,
}

/// The counts of the case that most variants were counted on, of those the one with the most instructions.
pub fn counters(
    rows: &[&Row<'_>],
    slots: &Slots<'_>,
    varying: &Varying<'_>,
) -> anyhow::Result<Option<Counters>> {
    let mut cases: HashMap<&str, Vec<&Row>> = HashMap::new();
    for row in rows.iter().filter(|row| row.record.cost.is_some()) {
        cases.entry(row.record.case.as_str()).or_default().push(row);
    }
    let instructions = |rows: &[&Row]| rows.iter().map(|row| named(row, "instructions")).max();
    let chosen = cases.into_values().max_by_key(|rows| {
        (rows.len(), instructions(rows), std::cmp::Reverse(rows[0].record.case.clone()))
    });
    let Some(mut rows) = chosen else { return Ok(None) };
    slots.sort(&mut rows, |row| &row.record.variant);
    Ok(Some(Counters {
        case: format!("{} {}", varying.number(rows[0]), varying.text(rows[0])),
        anchor: cases::anchor(&rows[0].record.case),
        variants: rows.iter().map(|row| row.record.variant.clone()).collect(),
        lines: lines(&rows),
        figure: figure(&rows, slots, varying)?,
    }))
}

fn counts(row: &Row<'_>) -> Vec<(&'static str, u64)> {
    row.record.cost.as_ref().map_or(Vec::new(), |cost| cost.total().named().collect())
}

fn named(row: &Row<'_>, name: &str) -> u64 {
    counts(row).into_iter().find(|(known, _)| *known == name).map_or(0, |(_, count)| count)
}

/// Counts by warp; what the same instructions come to by thread is left to the records.
fn lines(rows: &[&Row<'_>]) -> Vec<(String, Vec<String>)> {
    let all: Vec<Vec<(&str, u64)>> = rows.iter().map(|row| counts(row)).collect();
    let names = all[0].iter().enumerate().filter(|(_, (name, _))| !name.starts_with("thread_"));
    names
        .filter(|(at, _)| all.iter().any(|counts| counts[*at].1 > 0))
        .map(|(at, (name, _))| {
            let counts = all.iter().map(|counts| grouped(counts[at].1)).collect();
            (name.replace('_', " "), counts)
        })
        .collect()
}

/// `12 345 678`, as exact counts are read.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Instructions against bytes of global memory: down and left is cheaper.
fn figure(
    rows: &[&Row<'_>],
    slots: &Slots<'_>,
    varying: &Varying<'_>,
) -> anyhow::Result<Option<Figure>> {
    let sectors = ["global_read_sectors", "global_write_sectors", "global_atomic_sectors"];
    let at = |row: &Row<'_>| {
        let bytes = 32 * sectors.iter().map(|name| named(row, name)).sum::<u64>();
        (bytes as f64, named(row, "instructions") as f64)
    };
    let points: Vec<(f64, f64)> = rows.iter().map(|row| at(row)).collect();
    if points.len() < 2 || points.iter().any(|(x, y)| *x == 0.0 || *y == 0.0) {
        return Ok(None);
    }
    let marks = rows.iter().zip(&points).map(|(row, &(bytes, instructions))| Mark {
        slot: slots.slot(&row.record.variant),
        at: (bytes, instructions),
        radius: 5.0,
        title: format!(
            "{}: {} instructions of warps, {} of global memory touched",
            row.record.variant,
            grouped(instructions as u64),
            units::bytes(bytes)
        ),
        label: Some(row.record.variant.clone()),
        ..Mark::default()
    });
    let chart = Chart {
        title: "Instructions against bytes of global memory".to_string(),
        x: Axis::bytes("global memory touched", points.iter().map(|at| at.0)),
        y: Axis::log("instructions of warps", points.iter().map(|at| at.1), units::tick_count),
        marks: marks.collect(),
        lines: vec![Line { slot: 0, points: points.clone(), stroke: Stroke::Ladder }],
    };
    Ok(Some(Figure {
        heading: "Cost, counted exactly".to_string(),
        caption: format!(
            "The simulator's counts, equal on every machine. Lower left is cheaper. The case: {}.",
            varying.text(rows[0])
        ),
        svg: chart.svg()?,
        legend: slots.legend(rows.iter().map(|row| row.record.variant.as_str())),
        finding: String::new(),
    }))
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn long_counts_are_grouped_by_thousands() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
    }
}
