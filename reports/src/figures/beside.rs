//! The same task by other means: two operations over one size.

use touchstone_bench::workload::{Beside, Workload};

use super::{Figure, Key};
use crate::{
    axis::Axis,
    chart::{Chart, Line, Mark, Stroke},
    derive::{Row, Sheet},
    units,
};

/// The fastest variant of one operation in one type at each size.
struct Series<'r, 'a> {
    name: String,
    points: Vec<(f64, &'r Row<'a>)>,
}

/// Time and memory of this operation's `rows` and of those that its workloads are to stand beside, wherever both were
/// timed in the same place.
pub fn beside(
    rows: &[&Row<'_>],
    sheet: &Sheet<'_>,
    workloads: &[Workload],
    place: &str,
) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for workload in workloads.iter().filter(|w| w.op == rows[0].record.op()) {
        let Some(beside) = &workload.beside else { continue };
        let own = rows.iter().copied().filter(|row| row.record.workload == workload.name);
        let theirs = sheet.rows.iter().filter(|row| {
            let name = format!("{}/{}", row.record.op(), row.record.workload);
            row.place == rows[0].place && name.starts_with(&beside.workload)
        });
        let mut all = series(own, &beside.size);
        let count = all.len();
        all.extend(series(theirs, &beside.their_size));
        if count == 0 || all.len() == count {
            continue;
        }
        figures.push(time(&all, beside, workload, place)?);
        figures.push(memory(&all, beside, place)?);
    }
    Ok(figures)
}

/// A series for each type, with the fastest of our variants at each size.
fn series<'r, 'a: 'r>(rows: impl Iterator<Item = &'r Row<'a>>, size: &str) -> Vec<Series<'r, 'a>> {
    let mut all: Vec<Series> = Vec::new();
    for row in rows.filter(|row| !row.is_peer()) {
        let field = |key: &str| row.fields.iter().find(|(k, _)| *k == key).map(|(_, value)| *value);
        let (Some(x), Some(ns)) = (field(size).and_then(|x| x.parse().ok()), row.valid_ns()) else {
            continue;
        };
        let name = format!("{} {}", row.record.op(), field("dtype").unwrap_or_default());
        let at = all.iter().position(|series| series.name == name).unwrap_or_else(|| {
            all.push(Series { name, points: Vec::new() });
            all.len() - 1
        });
        match all[at].points.iter_mut().find(|(known, _)| *known == x) {
            Some((_, best)) if best.valid_ns().is_some_and(|known| known <= ns) => {}
            Some((_, best)) => *best = row,
            None => all[at].points.push((x, row)),
        }
    }
    for series in &mut all {
        series.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    all
}

fn time(
    all: &[Series<'_, '_>],
    beside: &Beside,
    workload: &Workload,
    place: &str,
) -> anyhow::Result<Figure> {
    let (lines, marks) = drawn(all, |row| row.valid_ns(), units::time);
    let heading = format!("The same task by other means: time against {}", beside.size);
    let chart = Chart {
        title: heading.clone(),
        x: Axis::sizes(&beside.size, marks.iter().map(|mark| mark.at.0).collect()),
        y: Axis::log("median time", marks.iter().map(|mark| mark.at.1), units::tick_time),
        lines,
        marks,
    };
    Ok(Figure {
        heading,
        caption: format!("{place}. The fastest variant at each size. {}", workload.why),
        svg: chart.svg()?,
        legend: legend(all),
        finding: finding(all, beside),
    })
}

fn memory(all: &[Series<'_, '_>], beside: &Beside, place: &str) -> anyhow::Result<Figure> {
    let (lines, marks) = drawn(all, |row| row.peak_bytes(), units::bytes);
    let heading = format!("The same task by other means: memory against {}", beside.size);
    let chart = Chart {
        title: heading.clone(),
        x: Axis::sizes(&beside.size, marks.iter().map(|mark| mark.at.0).collect()),
        y: Axis::bytes("peak device memory", marks.iter().map(|mark| mark.at.1)),
        lines,
        marks,
    };
    Ok(Figure {
        heading,
        caption: format!("{place}. Of the same variants."),
        svg: chart.svg()?,
        legend: legend(all),
        finding: String::new(),
    })
}

fn drawn(
    all: &[Series<'_, '_>],
    value: fn(&Row<'_>) -> Option<f64>,
    written: fn(f64) -> String,
) -> (Vec<Line>, Vec<Mark>) {
    let (mut lines, mut marks) = (Vec::new(), Vec::new());
    for (index, series) in all.iter().enumerate() {
        let slot = index + 1;
        let values = || series.points.iter().filter_map(|(x, row)| Some((*x, row, value(row)?)));
        let points = values().map(|(x, _, y)| (x, y)).collect();
        lines.push(Line { slot, points, stroke: Stroke::Solid });
        marks.extend(values().map(|(x, row, y)| Mark {
            slot,
            at: (x, y),
            radius: 3.5,
            title: format!("{}, {x}: {} by {}", series.name, written(y), row.record.variant),
            ..Mark::default()
        }));
    }
    (lines, marks)
}

fn legend(all: &[Series<'_, '_>]) -> Vec<Key> {
    all.iter().enumerate().map(|(index, series)| Key::series(index + 1, &series.name)).collect()
}

/// How the first series compares with the first of the other operation in its type, at both ends.
fn finding(all: &[Series<'_, '_>], beside: &Beside) -> String {
    let split = |series: &Series| {
        let (op, dtype) = series.name.split_once(' ').unwrap_or((&series.name, ""));
        (op.to_string(), dtype.to_string())
    };
    let (own, dtype) = split(&all[0]);
    let other = all.iter().find(|series| {
        let (op, of_type) = split(series);
        op != own && of_type == dtype
    });
    let Some(other) = other else { return String::new() };
    let ratio = |(x, row): &(f64, &Row)| {
        let (_, theirs) = other.points.iter().find(|(size, _)| size == x)?;
        Some((*x, row.valid_ns()? / theirs.valid_ns()?))
    };
    let ratios: Vec<(f64, f64)> = all[0].points.iter().filter_map(ratio).collect();
    match (ratios.first(), ratios.last()) {
        (Some(&(least, first)), Some(&(most, last))) if least < most => format!(
            "{} takes {} the time of {} at {} = {least}, and {} at {most}.",
            all[0].name,
            units::times(first),
            other.name,
            beside.size,
            units::times(last)
        ),
        _ => String::new(),
    }
}
