//! Time of each case over the revisions that were measured.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use serde::Serialize;
use touchstone_bench::record::{Executor, Record, Side};

use crate::{
    axis::Axis,
    cases,
    chart::{Chart, Line, Mark, Stroke, escape},
    derive::{Sheet, is_peer},
    figures::{Figure, Slots},
    units,
};

/// When and of what a time was taken: date to the minute, and revision.
type Moment = (String, String);

/// One variant on one case in one place, over time.
struct Series<'a> {
    record: &'a Record,
    /// Median in nanoseconds by moment.
    times: BTreeMap<Moment, f64>,
}

/// History as the template shows it.
#[derive(Serialize)]
pub struct History {
    /// How many revisions and runs there are, in words.
    scope: String,
    operations: Vec<OverTime>,
}

/// One operation in one place.
#[derive(Serialize)]
struct OverTime {
    name: String,
    place: String,
    figure: Option<Figure>,
    rows: Vec<Trend>,
}

#[derive(Serialize)]
struct Trend {
    case: String,
    anchor: String,
    variant: String,
    runs: usize,
    first: String,
    best: String,
    last: String,
    /// The last time over the first and over the best.
    change: String,
    above_best: String,
    /// A line of all times.
    spark: String,
}

/// The history of all `records`; `None` when no question was timed at two moments.
pub fn section(records: &[Record]) -> anyhow::Result<Option<History>> {
    let series = series(records);
    let moments: BTreeSet<&Moment> = series.values().flat_map(|s| s.times.keys()).collect();
    let revisions: BTreeSet<&str> = moments.iter().map(|(_, revision)| revision.as_str()).collect();
    let mut operations: Vec<OverTime> = Vec::new();
    let mut groups: BTreeMap<(&str, &str), Vec<&Series>> = BTreeMap::new();
    for ((place, ..), series) in series.iter().filter(|(_, series)| series.times.len() > 1) {
        groups.entry((series.record.op(), place)).or_default().push(series);
    }
    for ((op, place), group) in groups {
        operations.push(OverTime {
            name: op.to_string(),
            place: place.to_string(),
            figure: figure(&group, place)?,
            rows: group.iter().map(|series| trend(series)).collect(),
        });
    }
    let scope = format!(
        "{} at {}; {} timed more than once.",
        units::count(moments.len(), "run"),
        units::count(revisions.len(), "revision"),
        units::count(operations.iter().map(|op| op.rows.len()).sum(), "question")
    );
    Ok((!operations.is_empty()).then_some(History { scope, operations }))
}

/// Place, operation, case, inputs, variant.
type Question<'a> = (String, &'a str, &'a str, &'a str);

fn series(records: &[Record]) -> BTreeMap<Question<'_>, Series<'_>> {
    let mut all: BTreeMap<Question, Series> = BTreeMap::new();
    for record in records {
        // Side A of an interleaved run is another binary's.
        if record.trial.as_ref().is_some_and(|trial| trial.side == Side::A) {
            continue;
        }
        let valid = record.measurement().filter(|m| !m.above_limit).and_then(|m| m.median_ns());
        let Some(ns) = valid.filter(|ns| ns.is_finite() && *ns > 0.0) else { continue };
        let environment = &record.environment;
        let place = match (&environment.device, record.executor) {
            (Some(device), Executor::Cuda) => format!("{}, driver {}", device.name, device.driver),
            _ => environment.cpu.clone(),
        };
        let date: String = environment.date.chars().take(16).collect();
        let series = all
            .entry((place, &record.case, &record.inputs, &record.variant))
            .or_insert_with(|| Series { record, times: BTreeMap::new() });
        series.times.insert((date.replace('T', " "), environment.revision.clone()), ns);
    }
    all
}

fn trend(series: &Series<'_>) -> Trend {
    let times: Vec<f64> = series.times.values().copied().collect();
    let (first, last) = (times[0], times[times.len() - 1]);
    let best = times.iter().copied().fold(f64::INFINITY, f64::min);
    let fields = series.record.case.split_once(':').map_or("", |(_, fields)| fields);
    let fields: Vec<&str> = fields.split(',').filter(|field| !field.starts_with("seed=")).collect();
    Trend {
        case: fields.join(" "),
        anchor: cases::anchor(&series.record.case),
        variant: series.record.variant.clone(),
        runs: times.len(),
        first: units::time(first),
        best: units::time(best),
        last: units::time(last),
        change: units::times(last / first),
        above_best: units::times(last / best),
        spark: spark(series),
    }
}

/// A small line of all times, logarithmic, at least 10 % high.
fn spark(series: &Series<'_>) -> String {
    const WIDTH: f64 = 90.0;
    const HEIGHT: f64 = 20.0;
    let logs: Vec<f64> = series.times.values().map(|ns| ns.ln()).collect();
    let (low, high) = logs.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &log| {
        (low.min(log), high.max(log))
    });
    let span = (high - low).max(0.1);
    let middle = f64::midpoint(low, high);
    let step = (WIDTH - 4.0) / (logs.len() - 1).max(1) as f64;
    let mut points = String::new();
    for (at, log) in logs.iter().enumerate() {
        let y = HEIGHT / 2.0 - (log - middle) / span * (HEIGHT - 4.0);
        let _ = write!(points, "{:.0},{y:.1} ", 2.0 + at as f64 * step);
    }
    let title = escape(&format!("{} over {} runs", series.record.variant, logs.len()));
    format!(
        "<svg class=\"spark\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\"><title>{title}</title>\
         <polyline class=\"s1 line\" points=\"{}\"/></svg>",
        points.trim_end()
    )
}

/// All variants over the runs of the case that has the most of them.
fn figure(group: &[&Series<'_>], place: &str) -> anyhow::Result<Option<Figure>> {
    let mut cases: BTreeMap<&str, Vec<&Series>> = BTreeMap::new();
    for series in group {
        cases.entry(&series.record.case).or_default().push(series);
    }
    let total = |of: &[&Series]| of.iter().map(|series| series.times.len()).sum::<usize>();
    let slowest = |of: &[&Series]| {
        of.iter().flat_map(|series| series.times.values().copied()).fold(0.0, f64::max)
    };
    let chosen = cases.into_values().max_by(|a, b| {
        (a.len(), total(a)).cmp(&(b.len(), total(b))).then(slowest(a).total_cmp(&slowest(b)))
    });
    let Some(mut chosen) = chosen else { return Ok(None) };
    chosen.sort_by_key(|series| is_peer(&series.record.variant));
    let moments: Vec<&Moment> =
        chosen.iter().flat_map(|s| s.times.keys()).collect::<BTreeSet<_>>().into_iter().collect();
    let records: Vec<Record> = chosen.iter().map(|series| series.record.clone()).collect();
    let sheet = Sheet::of(&records);
    let slots = Slots::of(&sheet.rows.iter().collect::<Vec<_>>());
    let (mut lines, mut marks) = (Vec::new(), Vec::new());
    for series in &chosen {
        let variant = &series.record.variant;
        let slot = slots.slot(variant);
        let mut points = Vec::new();
        for ((date, revision), &ns) in &series.times {
            let at = moments.iter().position(|moment| moment.0 == *date && moment.1 == *revision);
            let at = (at.unwrap_or(0) as f64, ns);
            points.push(at);
            marks.push(Mark {
                slot,
                hollow: is_peer(variant),
                at,
                radius: 3.5,
                title: format!("{variant}: {} at {revision}, {date}", units::time(ns)),
                ..Mark::default()
            });
        }
        lines.push(Line { slot, points, stroke: Stroke::Solid });
    }
    let every = moments.len().div_ceil(6);
    let ticks = moments.iter().enumerate().filter(|(at, _)| at % every == 0);
    let ticks = ticks.map(|(at, (_, revision))| (at as f64, short(revision))).collect();
    let last = moments.len() as f64 - 1.0;
    let chart = Chart {
        title: format!("Time over revisions of {}", chosen[0].record.op()),
        x: Axis::ticked("revision, in order of date", -0.3..last + 0.3, ticks),
        y: Axis::log("median time", marks.iter().map(|mark| mark.at.1), units::tick_time),
        lines,
        marks,
    };
    let case = chosen[0].record.case.split_once(':').map_or("", |(_, fields)| fields);
    Ok(Some(Figure {
        heading: "Time over revisions".to_string(),
        caption: format!("{place}. The case: {}.", case.replace(',', " ")),
        svg: chart.svg()?,
        legend: slots.legend(chosen.iter().map(|series| series.record.variant.as_str())),
        finding: String::new(),
    }))
}

/// A revision short enough for an axis.
fn short(revision: &str) -> String {
    let dirty = if revision.ends_with("+dirty") { "+" } else { "" };
    format!("{}{dirty}", revision.chars().take(7).collect::<String>())
}
