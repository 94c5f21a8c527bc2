//! Time against the size that was swept, with the least time the device permits.

use super::{Figure, Key, Slots, line_key};
use crate::{
    axis::Axis,
    chart::{Chart, Line, Mark, Stroke},
    derive::Row,
    sweep, units,
};

/// Sweeps drawn for one operation in one place; those with fewer points are counted only.
const MOST_SWEEPS: usize = 6;

/// Time against the size that was swept, one figure for each sweep. Returns how many were left out, too.
pub fn times(
    rows: &[&Row<'_>],
    slots: &Slots<'_>,
    place: &str,
) -> anyhow::Result<(Vec<Figure>, usize)> {
    let mut sweeps = sweep::sweeps(rows);
    for sweep in &mut sweeps {
        slots.sort(&mut sweep.series, |(variant, _)| variant);
    }
    let left_out = sweeps.len().saturating_sub(MOST_SWEEPS);
    let figures = sweeps
        .iter()
        .take(MOST_SWEEPS)
        .map(|sweep| {
            let telling = |field: &&(&str, &str)| {
                sweeps.iter().any(|other| other.key == sweep.key && !other.fixed.contains(field))
            };
            let what: Vec<String> = sweep.fixed.iter().filter(telling).map(in_words).collect();
            time_against_size(sweep, &what.join(", "), slots, place)
        })
        .collect::<Result<_, _>>()?;
    Ok((figures, left_out))
}

/// A parameter in a heading: a word speaks for itself, a number or a switch does not.
fn in_words((key, value): &(&str, &str)) -> String {
    match value.parse::<f64>().is_ok() || value.parse::<bool>().is_ok() {
        true => format!("{key}={value}"),
        false => value.to_string(),
    }
}

/// `what` tells this sweep from the others: `causal, batch=4, bf16`.
fn time_against_size(
    sweep: &sweep::Sweep<'_, '_>,
    what: &str,
    slots: &Slots<'_>,
    place: &str,
) -> anyhow::Result<Figure> {
    let (mut lines, mut marks, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    for (variant, points) in &sweep.series {
        let slot = slots.slot(variant);
        let mut line = Vec::new();
        for (x, row) in points {
            let Some(time) = row.time else { continue };
            line.push((*x, time.median));
            floor.extend(row.floor_ns.map(|ns| (*x, ns)));
            marks.push(Mark {
                slot,
                hollow: row.is_peer(),
                at: (*x, time.median),
                whisker: Some((time.q1, time.q3)),
                radius: 3.5,
                title: format!(
                    "{variant}, {} = {x}: {} ({} to {}){}",
                    sweep.key,
                    units::time(time.median),
                    units::time(time.q1),
                    units::time(time.q3),
                    if row.invalid() { ", invalid: above the device's limit" } else { "" }
                ),
                ..Mark::default()
            });
        }
        lines.push(Line { slot, points: line, stroke: Stroke::Solid });
    }
    floor.sort_by(|a, b| a.0.total_cmp(&b.0));
    floor.dedup_by(|a, b| a.0 == b.0);
    let mut legend: Vec<Key> = sweep.series.iter().map(|(variant, _)| slots.key(variant)).collect();
    if !floor.is_empty() {
        legend.push(line_key("limit", "floor: the device's limits"));
    }
    let all = || marks.iter().map(|mark: &Mark| mark.at).chain(floor.iter().copied());
    let (x, y) = (
        Axis::sizes(&sweep.key, all().map(|at| at.0).collect()),
        Axis::log("median time", all().map(|at| at.1), units::tick_time),
    );
    if !floor.is_empty() {
        lines.push(Line { slot: 0, points: floor, stroke: Stroke::Limit });
    }
    let fixed: Vec<String> =
        sweep.fixed.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let colon = if what.is_empty() { "" } else { ": " };
    let heading = format!("Time against {}{colon}{what}", sweep.key);
    let chart = Chart { title: heading.clone(), x, y, lines, marks };
    Ok(Figure {
        heading,
        caption: format!("{place}. Whiskers are quartiles. {}.", fixed.join(" ")),
        svg: chart.svg()?,
        legend,
        finding: String::new(),
    })
}
