//! The figures of one operation: what is drawn against what, and what is said beside it.

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    chart::{Axis, Chart, Line, Mark, Stroke},
    derive::Row,
    pareto, sweep, units,
};

/// Sweeps drawn for one operation in one place; those with fewer points are counted only.
const MOST_SWEEPS: usize = 6;

/// A chart with what belongs beside it.
#[derive(Serialize)]
pub struct Figure {
    /// Heading.
    pub heading: String,
    /// What it shows, in a sentence; where it was measured.
    pub caption: String,
    /// The chart.
    pub svg: String,
    /// Series by colour class.
    pub legend: Vec<Key>,
    /// What follows from it, in words.
    pub finding: String,
}

/// One entry of a legend.
#[derive(Serialize)]
pub struct Key {
    /// Colour class, `s0` to `s9`, or the class of a line.
    pub class: String,
    /// Shape of the mark, as text.
    pub mark: &'static str,
    /// Name of the series.
    pub name: String,
}

/// Colour of each variant of an operation: the same in all its figures.
pub struct Slots<'a>(HashMap<&'a str, usize>);

impl<'a> Slots<'a> {
    /// Numbers variants in order of first appearance, which is the order of the ladder.
    pub fn of(rows: &[&Row<'a>]) -> Self {
        let mut slots = HashMap::new();
        for row in rows {
            let next = slots.len();
            slots.entry(row.record.variant.as_str()).or_insert(next);
        }
        Self(slots)
    }

    /// Sorts by the ladder.
    pub fn sort<T>(&self, items: &mut [T], variant: impl Fn(&T) -> &str) {
        items.sort_by_key(|item| self.get(variant(item)));
    }

    fn get(&self, variant: &str) -> usize {
        self.0.get(variant).copied().unwrap_or(0)
    }

    fn key(&self, variant: &str) -> Key {
        Key::series(self.get(variant), variant)
    }
}

impl Key {
    /// The key of a series of marks.
    pub fn series(slot: usize, name: &str) -> Self {
        let class = format!("s{}", slot % crate::chart::SLOTS);
        Self { class, mark: ["●", "■", "▲", "◆"][slot % 4], name: name.to_string() }
    }
}

fn line_key(class: &str, name: &str) -> Key {
    Key { class: class.to_string(), mark: "", name: name.to_string() }
}

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
        slot: slots.get(&row.record.variant),
        at: *at,
        whisker: row.time.map(|time| (time.q1, time.q3)),
        radius: 5.0,
        title: format!("{}: {}, {}", row.record.variant, units::bytes(at.0), units::time(at.1)),
        label: Some(row.record.variant.clone()),
    });
    let ladder = points.iter().filter(|(row, _)| !row.is_peer()).map(|(_, at)| *at).collect();
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
    legend.push(line_key("ladder", "ladder, in order"));
    Ok(Some(Figure {
        heading: "What memory buys".to_string(),
        caption: format!("{} on {place}. Lower left is better.", rows[0].short_case()),
        svg: chart.svg()?,
        legend,
        finding: format!("On the front: {}.", names.join(", ")),
    }))
}

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
            let what: Vec<&str> = sweep.fixed.iter().filter(telling).map(|(_, v)| *v).collect();
            time_against_size(sweep, &what.join(", "), slots, place)
        })
        .collect::<Result<_, _>>()?;
    Ok((figures, left_out))
}

/// `what` tells this sweep from the others: `causal, bf16`.
fn time_against_size(
    sweep: &sweep::Sweep<'_, '_>,
    what: &str,
    slots: &Slots<'_>,
    place: &str,
) -> anyhow::Result<Figure> {
    let (mut lines, mut marks, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    for (variant, points) in &sweep.series {
        let slot = slots.get(variant);
        let mut line = Vec::new();
        for (x, row) in points {
            let Some(time) = row.time else { continue };
            line.push((*x, time.median));
            floor.extend(row.floor_ns.map(|ns| (*x, ns)));
            marks.push(Mark {
                slot,
                at: (*x, time.median),
                whisker: Some((time.q1, time.q3)),
                radius: 3.5,
                title: format!(
                    "{variant} at {}={}: {} ({} to {}){}",
                    sweep.key,
                    x,
                    units::time(time.median),
                    units::time(time.q1),
                    units::time(time.q3),
                    if row.invalid() { ", invalid: above the device's limit" } else { "" }
                ),
                label: None,
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
        caption: format!("{} on {place}. Whiskers are quartiles.", fixed.join(" ")),
        svg: chart.svg()?,
        legend,
        finding: String::new(),
    })
}

/// How much slower a run with a flushed cache is, against the bytes the case must move; `None` without
/// both series.
pub fn caches(rows: &[&Row<'_>], slots: &Slots<'_>, place: &str) -> anyhow::Result<Option<Figure>> {
    let mut legend: Vec<Key> = Vec::new();
    let mut marks = Vec::new();
    for row in rows {
        let bytes = row.record.work.as_ref().map(|work| work.bytes).filter(|&bytes| bytes > 0.0);
        let (Some(cold), Some(warm), Some(bytes)) = (row.cold, row.warm, bytes) else { continue };
        let (variant, ratio) = (&row.record.variant, cold.median / warm.median);
        if legend.iter().all(|key| key.name != *variant) {
            legend.push(slots.key(variant));
        }
        marks.push(Mark {
            slot: slots.get(variant),
            at: (bytes, ratio),
            whisker: None,
            radius: 3.5,
            title: format!(
                "{variant} on {}: cold {}, warm {}, {}",
                row.short_case(),
                units::time(cold.median),
                units::time(warm.median),
                units::times(ratio)
            ),
            label: None,
        });
    }
    if marks.len() < 2 {
        return Ok(None);
    }
    slots.sort(&mut legend, |key| &key.name);
    legend.push(line_key("limit", "no difference"));
    let bytes = || marks.iter().map(|mark| mark.at.0);
    let ends = bytes().fold((f64::INFINITY, 0.0_f64), |(low, high), b| (low.min(b), high.max(b)));
    let chart = Chart {
        title: "Cold over warm time against bytes moved".to_string(),
        x: Axis::bytes("bytes the case must move", bytes()),
        y: Axis::linear(
            "cold time over warm time",
            marks.iter().map(|mark| mark.at.1).chain([1.5]),
            units::tick,
        ),
        lines: vec![Line {
            slot: 0,
            points: vec![(ends.0, 1.0), (ends.1, 1.0)],
            stroke: Stroke::Limit,
        }],
        marks,
    };
    Ok(Some(Figure {
        heading: "Cold against warm".to_string(),
        caption: format!("Median with the cache flushed over median with warm caches, on {place}."),
        svg: chart.svg()?,
        legend,
        finding: String::new(),
    }))
}

/// Errors as a share of their bound, one line of marks for each variant; `None` when nothing was compared.
/// `name` tells variants apart that ran in several places.
pub fn slack(
    rows: &[&Row<'_>],
    slots: &Slots<'_>,
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
            names.push((name, slots.get(&row.record.variant)));
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
            at: (share.clamp(LEAST, 1e3), height - 0.5 - *line as f64),
            whisker: None,
            radius: 3.0 + (*count as f64).log2() * 0.6,
            title: format!(
                "{}: {}, at most {} of the bound, on {}",
                names[*line].0,
                units::count(*count, "case"),
                units::percent(*share),
                row.short_case()
            ),
            label: None,
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
            "Closest to its bound: {} with {} on {}.",
            worst.record.variant,
            units::percent(most),
            worst.short_case()
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
