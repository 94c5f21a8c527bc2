//! Rates against the device's limits: how near each variant comes to what the device can do.

use touchstone_bench::{environment::Limits, record::WorkRecord};

use super::{Figure, Key, Slots, line_key};
use crate::{
    axis::Axis,
    cases::Varying,
    chart::{Chart, Line, Mark, Stroke},
    derive::{Row, arithmetic},
    units,
};

/// Operations by formula per second against operations per byte, under the roofs that the device's measured
/// limits make. An operation without arithmetic has bandwidth as its only roof. `None` without limits.
pub fn roofline(
    rows: &[&Row<'_>],
    slots: &Slots<'_>,
    varying: &Varying<'_>,
    place: &str,
) -> anyhow::Result<Option<Figure>> {
    let points: Vec<(&Row, Mark)> = rows
        .iter()
        .filter_map(|row| {
            let mark = Mark {
                slot: slots.slot(&row.record.variant),
                radius: 3.5,
                ..mark(row, &format!(", case {}", varying.number(row)))?
            };
            Some((*row, mark))
        })
        .collect();
    let legend = slots.legend(points.iter().map(|(row, _)| row.record.variant.as_str()));
    draw(points, legend, place)
}

/// The fastest variant of each operation, given with its case, in one figure: `groups` are the algorithms.
pub fn device(groups: &[(&str, Vec<&Row<'_>>)], place: &str) -> anyhow::Result<Option<Figure>> {
    let mut points = Vec::new();
    let mut legend = Vec::new();
    for (index, (name, rows)) in groups.iter().enumerate() {
        let slot = index + 1;
        let known = points.len();
        for row in rows {
            let Some(mark) = mark(row, &format!("; {}", row.short_case())) else { continue };
            if row.record.work.as_ref().is_some_and(|work| work.flops > 0.0) {
                let op = row.record.op();
                let label = op.split_once('.').map_or(op, |(_, name)| name).to_string();
                let title = format!("{op}, {}", mark.title);
                points.push((*row, Mark { slot, radius: 5.0, label: Some(label), title, ..mark }));
            }
        }
        if points.len() > known {
            legend.push(Key::series(slot, name));
        }
    }
    if points.len() < 2 {
        return Ok(None);
    }
    let figure = draw(points, legend, place)?;
    Ok(figure.map(|figure| Figure {
        heading: "How near the fastest come to the device's limits".to_string(),
        caption: format!("{place}. The fastest variant of each operation with arithmetic."),
        ..figure
    }))
}

/// A mark that knows what it is but not yet where.
fn mark(row: &Row<'_>, case: &str) -> Option<Mark> {
    row.valid_ns()?;
    let rate = match row.rate(|work| work.flops) {
        Some(rate) => units::flop_rate(rate),
        None => format!("{} GB/s", units::bandwidth(row.rate(|work| work.bytes)?)),
    };
    let share = row.share_of_limit().map(units::percent)?;
    let title = format!("{}: {rate}, {share} of the limit{case}", row.record.variant);
    Some(Mark { hollow: row.is_peer(), title, ..Mark::default() })
}

fn draw(
    points: Vec<(&Row<'_>, Mark)>,
    legend: Vec<Key>,
    place: &str,
) -> anyhow::Result<Option<Figure>> {
    // The latest: earlier records may not know them all.
    let dated =
        points.iter().filter_map(|(row, _)| Some((&row.record.environment.date, limits(row)?)));
    let latest = dated.max_by_key(|(date, _)| *date);
    let Some((_, limits)) = latest else { return Ok(None) };
    let work = |row: &Row<'_>| row.record.work.clone().unwrap_or_default();
    if points.iter().any(|(row, _)| work(row).flops > 0.0) {
        return compute(points, legend, place, &limits, work).map(Some);
    }
    bandwidth(points, legend, place, &limits, work).map(Some)
}

fn limits(row: &Row<'_>) -> Option<Limits> {
    let limits = row.record.environment.device.as_ref()?.limits.clone()?;
    (limits.copy_bytes_per_s > 0.0 && limits.f32_flops_per_s > 0.0).then_some(limits)
}

/// The limits of arithmetic that bound some of this work, by name, from the lowest.
fn roofs(works: impl Iterator<Item = WorkRecord>, limits: &Limits) -> Vec<(&'static str, f64)> {
    let mut roofs: Vec<_> = works.map(|work| arithmetic(&work, limits)).collect();
    roofs.retain(|(_, rate)| *rate > 0.0);
    roofs.sort_by(|a, b| a.1.total_cmp(&b.1));
    roofs.dedup();
    roofs
}

fn compute(
    points: Vec<(&Row<'_>, Mark)>,
    mut legend: Vec<Key>,
    place: &str,
    limits: &Limits,
    work: impl Fn(&Row<'_>) -> WorkRecord,
) -> anyhow::Result<Figure> {
    let roofs = roofs(points.iter().map(|(row, _)| work(row)), limits);
    let mut marks: Vec<Mark> = points
        .into_iter()
        .filter_map(|(row, mark)| {
            let work = work(row);
            let rate = row.rate(|work| work.flops)?;
            (work.bytes > 0.0).then(|| Mark { at: (work.flops / work.bytes, rate), ..mark })
        })
        .collect();
    let ridge = |rate: f64| rate / limits.copy_bytes_per_s;
    let lowest = roofs.first().map_or(1.0, |(_, rate)| ridge(*rate));
    let least = marks.iter().map(|mark| mark.at.0).fold(lowest / 3.0, f64::min);
    let ridges = roofs.iter().map(|(_, rate)| ridge(*rate) * 4.0);
    let most = marks.iter().map(|mark| mark.at.0).chain(ridges).fold(0.0, f64::max);
    let highest = roofs.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    let mut lines = vec![Line {
        slot: 0,
        points: vec![(least, least * limits.copy_bytes_per_s), (ridge(highest), highest)],
        stroke: Stroke::Limit,
    }];
    for (name, rate) in &roofs {
        let points = vec![(ridge(*rate), *rate), (most, *rate)];
        lines.push(Line { slot: 0, points, stroke: Stroke::Limit });
        let label = Some(format!("{name} {}", units::flop_rate(*rate)));
        marks.push(Mark { at: (most, *rate), label, ..Mark::default() });
    }
    let text = format!(
        "limits measured in this run: copies at {} GB/s, {}",
        units::bandwidth(limits.copy_bytes_per_s),
        roofs
            .iter()
            .map(|(n, r)| format!("{n} {}", units::flop_rate(*r)))
            .collect::<Vec<_>>()
            .join(", ")
    );
    legend.push(line_key("limit", &text));
    let rates = marks.iter().map(|mark| mark.at.1).chain([highest * 1.5]);
    let chart = Chart {
        title: "Operations per second against operations per byte".to_string(),
        x: Axis::log(
            "operations per byte that must move",
            [least, most].into_iter(),
            units::tick_count,
        ),
        y: Axis::log("operations per second", rates, units::tick_rate),
        lines,
        marks,
    };
    Ok(Figure {
        heading: "Roofline".to_string(),
        caption: format!(
            "{place}. All valid times. Operations and bytes are by formula; nearer to the roof is better."
        ),
        svg: chart.svg()?,
        legend,
        finding: String::new(),
    })
}

fn bandwidth(
    points: Vec<(&Row<'_>, Mark)>,
    mut legend: Vec<Key>,
    place: &str,
    limits: &Limits,
    work: impl Fn(&Row<'_>) -> WorkRecord,
) -> anyhow::Result<Figure> {
    let marks: Vec<Mark> = points
        .into_iter()
        .filter_map(|(row, mark)| {
            Some(Mark { at: (work(row).bytes, row.rate(|work| work.bytes)?), ..mark })
        })
        .collect();
    let bytes = || marks.iter().map(|mark| mark.at.0);
    let (least, most) = (bytes().fold(f64::INFINITY, f64::min), bytes().fold(0.0, f64::max));
    let roof = limits.copy_bytes_per_s;
    let text = format!("copies, measured in this run: {} GB/s", units::bandwidth(roof));
    legend.push(line_key("limit", &text));
    let tick = |rate: f64| format!("{} GB/s", units::tick(rate / 1e9));
    let chart = Chart {
        title: "Bytes per second against bytes that must move".to_string(),
        x: Axis::bytes("bytes the case must move", bytes()),
        y: Axis::log("", marks.iter().map(|mark| mark.at.1).chain([roof]), tick),
        lines: vec![Line {
            slot: 0,
            points: vec![(least, roof), (most, roof)],
            stroke: Stroke::Limit,
        }],
        marks,
    };
    Ok(Figure {
        heading: "Roofline: bandwidth".to_string(),
        caption: format!(
            "{place}. This operation does no floating-point arithmetic: bandwidth is its only roof."
        ),
        svg: chart.svg()?,
        legend,
        finding: String::new(),
    })
}
