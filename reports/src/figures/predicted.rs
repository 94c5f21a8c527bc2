//! Memory and time by theory beside what was measured.

use touchstone_bench::record::Predicted;

use super::{Figure, Slots};
use crate::{
    axis::Axis,
    chart::{Chart, Line, Mark, Stroke},
    derive::Row,
    sweep::{self, Sweep},
    units,
};

/// One variant at one size: the prediction, and what was measured.
struct Point<'r, 'a> {
    x: f64,
    row: &'r Row<'a>,
    predicted: Predicted,
}

/// Two figures for the sweep over most sizes of the variants that have a theory: workspace, and time. None
/// without such a sweep.
pub fn predicted(rows: &[&Row<'_>], slots: &Slots<'_>, place: &str) -> anyhow::Result<Vec<Figure>> {
    let told: Vec<&Row> = rows.iter().copied().filter(|row| of(row).is_some()).collect();
    let Some(mut sweep) = sweep::sweeps(&told).into_iter().next() else { return Ok(Vec::new()) };
    slots.sort(&mut sweep.series, |(variant, _)| variant);
    let series: Vec<(&str, Vec<Point>)> = sweep
        .series
        .iter()
        .map(|(variant, points)| {
            let point = |(x, row)| Some(Point { x, row, predicted: of(row)? });
            (*variant, points.iter().copied().filter_map(point).collect())
        })
        .collect();
    Ok(vec![memory(&sweep, &series, slots, place)?, time(&sweep, &series, slots, place)?])
}

fn of(row: &Row<'_>) -> Option<Predicted> {
    row.measurement().and_then(|measurement| measurement.predicted)
}

fn memory(
    sweep: &Sweep<'_, '_>,
    series: &[(&str, Vec<Point<'_, '_>>)],
    slots: &Slots<'_>,
    place: &str,
) -> anyhow::Result<Figure> {
    let measured = |point: &Point| point.row.measurement().map(|m| m.workspace_bytes as f64);
    let beside = Beside {
        what: "Workspace",
        axis: |values| Axis::bytes("workspace", values.into_iter()),
        written: units::bytes,
        caption: "Beside inputs and outputs",
    };
    let predicted = |point: &Point| Some(point.predicted.workspace_bytes);
    beside.figure(sweep, series, slots, place, &measured, &predicted)
}

fn time(
    sweep: &Sweep<'_, '_>,
    series: &[(&str, Vec<Point<'_, '_>>)],
    slots: &Slots<'_>,
    place: &str,
) -> anyhow::Result<Figure> {
    // Work becomes time at the rate at which the first variant did its own.
    let rate = |x: f64| {
        let (_, first) = series.first()?;
        let point = first.iter().find(|point| point.x == x)?;
        Some(point.row.valid_ns()? / point.predicted.flops)
    };
    let measured = |point: &Point| point.row.valid_ns();
    let predicted = |point: &Point| Some(rate(point.x)? * point.predicted.flops);
    let first = series.first().map_or("", |(variant, _)| variant);
    let beside = Beside {
        what: "Time",
        axis: |values| Axis::log("median time", values.into_iter(), units::tick_time),
        written: units::time,
        caption: &format!("Predicted from the work, at the rate of {first}"),
    };
    beside.figure(sweep, series, slots, place, &measured, &predicted)
}

/// A quantity that is drawn as theory has it and as it was measured.
struct Beside<'t> {
    what: &'t str,
    axis: fn(Vec<f64>) -> Axis,
    written: fn(f64) -> String,
    caption: &'t str,
}

impl Beside<'_> {
    fn figure(
        &self,
        sweep: &Sweep<'_, '_>,
        series: &[(&str, Vec<Point<'_, '_>>)],
        slots: &Slots<'_>,
        place: &str,
        measured: &dyn Fn(&Point<'_, '_>) -> Option<f64>,
        predicted: &dyn Fn(&Point<'_, '_>) -> Option<f64>,
    ) -> anyhow::Result<Figure> {
        let (mut lines, mut marks, mut worst) = (Vec::new(), Vec::new(), (0.0, String::new()));
        for (variant, points) in series {
            let slot = slots.slot(variant);
            let line = points.iter().filter_map(|p| Some((p.x, predicted(p)?))).collect();
            lines.push(Line { slot, points: line, stroke: Stroke::Solid });
            for point in points {
                let (Some(got), Some(theory)) = (measured(point), predicted(point)) else {
                    continue;
                };
                let title = format!(
                    "{variant}, {} = {}: {}, predicted {}",
                    sweep.key,
                    point.x,
                    (self.written)(got),
                    (self.written)(theory)
                );
                let off = (got / theory).max(theory / got);
                if off > worst.0 {
                    worst = (off, title.clone());
                }
                marks.push(Mark {
                    slot,
                    at: (point.x, got),
                    radius: 3.5,
                    title,
                    ..Mark::default()
                });
            }
        }
        let drawn = lines.iter().flat_map(|line: &Line| line.points.iter().copied());
        let all: Vec<(f64, f64)> = drawn.chain(marks.iter().map(|mark| mark.at)).collect();
        let heading = format!("{} against {}, beside the prediction", self.what, sweep.key);
        let chart = Chart {
            title: heading.clone(),
            x: Axis::sizes(&sweep.key, all.iter().map(|at| at.0).collect()),
            y: (self.axis)(all.iter().map(|at| at.1).collect()),
            lines,
            marks,
        };
        let fixed: Vec<String> =
            sweep.fixed.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Ok(Figure {
            heading,
            caption: format!(
                "{place}. Lines are predicted, marks measured. {}. {}.",
                self.caption,
                fixed.join(" ")
            ),
            svg: chart.svg()?,
            legend: slots.legend(series.iter().map(|(variant, _)| *variant)),
            finding: match worst {
                (off, title) if off >= 1.005 => {
                    format!("Farthest from its prediction, {}: {title}.", units::times(off))
                }
                (off, _) if off > 0.0 => "All are as predicted.".to_string(),
                _ => String::new(),
            },
        })
    }
}
