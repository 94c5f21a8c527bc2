//! Memory against time: what memory buys.

use super::{Figure, Key, Slots, line_key};
use crate::{
    axis::Axis,
    chart::{Chart, Line, Mark, Stroke},
    derive::Row,
    pareto, units,
};

/// Memory against time for the rows of one case, with the Pareto front; `None` below two variants.
pub fn trade(rows: &[&Row<'_>], slots: &Slots<'_>, place: &str) -> anyhow::Result<Option<Figure>> {
    let points: Vec<(&Row, (f64, f64))> =
        rows.iter().filter_map(|row| Some((*row, (row.peak_bytes()?, row.valid_ns()?)))).collect();
    if points.len() < 2 {
        return Ok(None);
    }
    let at: Vec<(f64, f64)> = points.iter().map(|(_, at)| *at).collect();
    let front = pareto::front(&at);
    let marks = points.iter().map(|(row, at)| Mark {
        slot: slots.slot(&row.record.variant),
        hollow: row.is_peer(),
        at: *at,
        whisker: row.time.map(|time| (time.q1, time.q3)),
        radius: 5.0,
        title: format!("{}: {}, {}", row.record.variant, units::bytes(at.0), units::time(at.1)),
        label: Some(row.record.variant.clone()),
    });
    let ladder: Vec<(f64, f64)> =
        points.iter().filter(|(row, _)| !row.is_peer()).map(|(_, at)| *at).collect();
    let rungs = ladder.len();
    let names: Vec<String> = front
        .iter()
        .map(|&i| {
            let (row, (bytes, ns)) = &points[i];
            format!("{} ({}, {})", row.record.variant, units::bytes(*bytes), units::time(*ns))
        })
        .collect();
    let chart = Chart {
        title: format!("Memory against time of {}", rows[0].record.op()),
        x: Axis::bytes("peak device memory", at.iter().map(|at| at.0)),
        y: Axis::log("median time", at.iter().map(|at| at.1), units::tick_time),
        lines: vec![
            Line { slot: 0, points: ladder, stroke: Stroke::Ladder },
            Line { slot: 0, points: front.iter().map(|&i| at[i]).collect(), stroke: Stroke::Front },
        ],
        marks: marks.collect(),
    };
    let mut legend: Vec<Key> =
        points.iter().map(|(row, _)| slots.key(&row.record.variant)).collect();
    if front.len() > 1 {
        legend.push(line_key("front", "Pareto front"));
    }
    if rungs > 1 {
        legend.push(line_key("ladder", "ladder of our variants, in order"));
    }
    Ok(Some(Figure {
        heading: "What memory buys".to_string(),
        caption: format!(
            "{place}. Lower left is better; whiskers are quartiles.{} The case: {}.",
            if points.iter().any(|(row, _)| row.is_peer()) {
                " Hollow marks are peers."
            } else {
                ""
            },
            rows[0].short_case()
        ),
        svg: chart.svg()?,
        legend,
        finding: format!("On the front: {}.", names.join(", ")),
    }))
}
