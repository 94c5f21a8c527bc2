//! Errors as shares of their bounds.

use std::collections::HashMap;

use super::{Figure, Slots, line_key};
use crate::{
    axis::Axis,
    cases::Varying,
    chart::{Chart, Line, Mark, Stroke},
    derive::Row,
    units,
};

/// Errors as a share of their bound, one line of marks for each variant; `None` when nothing was compared.
/// `name` tells variants apart that ran in several places.
pub fn slack(
    rows: &[&Row<'_>],
    slots: &Slots<'_>,
    varying: &Varying<'_>,
    name: impl Fn(&Row<'_>) -> String,
) -> anyhow::Result<Option<Figure>> {
    /// Marks closer than a sixth of a decade are one mark.
    const BINS_PER_DECADE: f64 = 6.0;
    /// Exact results and anything smaller than this are drawn here.
    const LEAST: f64 = 1e-6;
    let mut rows = rows.to_vec();
    slots.sort(&mut rows, |row| &row.record.variant);
    let mut names: Vec<(String, usize)> = Vec::new();
    let mut bins: HashMap<(usize, i64), (usize, &Row, f64)> = HashMap::new();
    let mut most: Option<(f64, &Row)> = None;
    for row in &rows {
        let Some(share) = row.worst_share() else { continue };
        if most.is_none_or(|(known, _)| share > known) {
            most = Some((share, row));
        }
        let name = name(row);
        let line = names.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            names.push((name, slots.slot(&row.record.variant)));
            names.len() - 1
        });
        let bin = (share.clamp(LEAST, 1e3).log10() * BINS_PER_DECADE).floor() as i64;
        let entry = bins.entry((line, bin)).or_insert((0, row, share));
        entry.0 += 1;
        if share > entry.2 {
            (entry.1, entry.2) = (row, share);
        }
    }
    let Some((most, worst)) = most else { return Ok(None) };
    let mut bins: Vec<_> = bins.into_iter().collect();
    bins.sort_by_key(|(place, _)| *place);
    let height = names.len() as f64;
    let marks: Vec<Mark> = bins
        .iter()
        .map(|((line, _), (count, row, share))| Mark {
            slot: names[*line].1,
            hollow: row.is_peer(),
            at: (share.clamp(LEAST, 1e3), height - 0.5 - *line as f64),
            radius: 3.0 + (*count as f64).log2() * 0.6,
            title: format!(
                "{}: {}, at most {} of the bound, case {}",
                names[*line].0,
                units::count(*count, "case"),
                units::percent(*share),
                varying.number(row)
            ),
            ..Mark::default()
        })
        .collect();
    let ticks = names
        .iter()
        .enumerate()
        .map(|(line, (name, _))| (height - 0.5 - line as f64, shortened(name)))
        .collect();
    let share_label = |share: f64| match share {
        s if s <= LEAST * 1.01 => "exact".to_string(),
        s => units::tick_percent(s),
    };
    let x = Axis::log(
        "worst error, share of its bound",
        [LEAST, most.max(1.0)].into_iter(),
        share_label,
    );
    let chart = Chart {
        title: format!("Error as a share of its bound for {}", worst.record.op()),
        x,
        y: Axis::ticked("", 0.0..height, ticks),
        lines: vec![Line {
            slot: 0,
            points: vec![(1.0, 0.0), (1.0, height)],
            stroke: Stroke::Limit,
        }],
        marks,
    };
    Ok(Some(Figure {
        heading: "Error as a share of its bound".to_string(),
        caption: "All compared cases; larger marks stand for more cases.".to_string(),
        svg: chart.svg()?,
        legend: vec![line_key("limit", "the bound")],
        finding: format!(
            "Closest to its bound: {} with {} on case {}: {}.",
            worst.record.variant,
            units::percent(most),
            varying.number(worst),
            varying.text(worst)
        ),
    }))
}

/// A name that leaves room for the chart beside it.
fn shortened(name: &str) -> String {
    const LONGEST: usize = 28;
    if name.chars().count() <= LONGEST {
        return name.to_string();
    }
    name.chars().take(LONGEST - 1).chain(['…']).collect()
}
